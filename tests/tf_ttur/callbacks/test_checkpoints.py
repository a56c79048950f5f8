"""Checkpoints and the best of them, with a model that is not trained."""

import json
import zipfile

import keras
import pytest
import tensorflow as tf
from toy_gan import small_gan

from fid.files import InputError
from tf_ttur import callbacks


@pytest.mark.parametrize("where", ["generator", "generator_optimizer"])
def test_weights_that_are_not_finite_are_not_saved(tmp_path, where):
    gan = small_gan()
    checkpoints = callbacks.Checkpoints(tmp_path / "c", tmp_path / "best", "fid")
    checkpoints.save(gan, 1, 5.0)
    # The last one: a bias, or a second moment of Adam.
    variable = getattr(gan, where).variables[-1]
    variable.assign(tf.fill(variable.shape, float("nan")))
    with pytest.raises(callbacks.Diverged, match=rf"{variable.path} .* at step 2"):
        checkpoints.save(gan, 2, 4.0)
    assert [p.name for p in (tmp_path / "c").iterdir()] == ["step_00000001.keras"]
    assert checkpoints.read_best()["step"] == 1


def test_the_best_is_the_lowest_and_the_first_of_equals(tmp_path):
    gan = small_gan()
    checkpoints = callbacks.Checkpoints(
        tmp_path / "c", tmp_path / "best", "fid", {"num_samples": 40}
    )
    for step, value in enumerate((9.0, 7.0, None, 7.0, 8.0)):
        checkpoints.save(gan, step, value)
    assert checkpoints.read_best() == {
        "file": "step_00000001.keras", "step": 1, "fid": 7.0, "num_samples": 40
    }  # fmt: skip
    names = sorted(p.name for p in (tmp_path / "best").iterdir())
    assert names == ["best.json", "step_00000001.keras"]
    # A user's own copy is neither the newest nor an old one.
    (tmp_path / "c" / "step_mine.keras").touch()
    checkpoints.save(gan, 5, 9.0)
    assert checkpoints.latest()[0] == 5
    assert sorted(p.name for p in (tmp_path / "c").iterdir()) == [
        "step_00000004.keras", "step_00000005.keras", "step_mine.keras",
    ]  # fmt: skip


def test_a_checkpoint_says_which_run_and_step_it_is_of(tmp_path):
    gan = small_gan()
    checkpoints = callbacks.Checkpoints(
        tmp_path / "c", tmp_path / "best", "fid", {"num_samples": 40},
        run=lambda step: {"rows": f"of {step}"},
    )  # fmt: skip
    checkpoints.save(gan, 0, 5.0)
    checkpoints.save(gan, 1, float("inf"))  # as a row has it
    for step, value in ((0, 5.0), (1, None)):
        path = tmp_path / "c" / f"step_0000000{step}.keras"
        with zipfile.ZipFile(path) as archive:
            assert json.loads(archive.read("run.json")) == {
                "run": {"rows": f"of {step}"},
                "record": {"step": step, "fid": value, "num_samples": 40},
            }
        assert keras.models.load_model(path).steps == 0
    best = tmp_path / "best" / "step_00000000.keras"
    assert best.read_bytes() == (tmp_path / "c" / best.name).read_bytes()


def test_a_best_that_the_run_contradicts_is_refused(tmp_path):
    checkpoints = callbacks.Checkpoints(
        tmp_path / "c", tmp_path / "best", "fid", {"floor": 0.1}
    )
    checkpoints.check_best([])  # There is none yet.
    checkpoints.save(small_gan(), 1, 5.0)
    rows = [{"step": 0, "fid": 9.0}, {"step": 1, "fid": 5.0}]
    checkpoints.check_best(rows)
    checkpoints.check_best(rows[:1])  # of a step that was cut off
    note = tmp_path / "best" / "best.json"
    right = json.loads(note.read_text())
    # On another processor the last digits are others.
    note.write_text(json.dumps(right | {"floor": 0.1 + 1e-12}))
    checkpoints.check_best(rows)
    for wrong, message in (
        ({"fid": 0.5}, "fid is 0.5 at step 1, where the run has 5.0"),
        ({"floor": 0.2}, "floor is 0.2 at step 1, where the run has 0.1"),
        ({"fid": "5"}, "fid is '5'; it must be a number"),
    ):
        note.write_text(json.dumps(right | wrong))
        with pytest.raises(InputError, match=f"best.json .*{message}"):
            checkpoints.check_best(rows)


def test_the_best_of_a_step_that_is_reached_again_is_the_new_one(tmp_path):
    checkpoints = callbacks.Checkpoints(tmp_path / "c", tmp_path / "best", "fid")
    checkpoints.save(small_gan(), 1, 5.0)
    checkpoints.save(small_gan(), 1, 5.5)
    assert checkpoints.read_best()["fid"] == 5.5
    checkpoints.save(small_gan(), 2, 5.5)
    assert checkpoints.read_best()["step"] == 1


def test_what_a_crash_left_undone_is_mended(tmp_path, caplog):
    gan = small_gan()
    checkpoints = callbacks.Checkpoints(tmp_path / "c", tmp_path / "best", "fid")
    assert checkpoints.latest() is None
    checkpoints.mend([])
    rows = []
    for step, value in ((1, 9.0), (2, 8.0)):
        checkpoints.save(gan, step, value)
        rows.append({"step": step, "fid": value})
    # After saving, before the best is copied and an old one removed.
    newest = tmp_path / "c" / "step_00000003.keras"
    newest.write_bytes((tmp_path / "c" / "step_00000002.keras").read_bytes())
    rows.append({"step": 3, "fid": 7.0})
    checkpoints.mend(rows)
    assert checkpoints.read_best() == {
        "file": "step_00000003.keras", "step": 3, "fid": 7.0
    }  # fmt: skip
    assert sorted(p.name for p in (tmp_path / "best").iterdir()) == [
        "best.json", "step_00000003.keras",
    ]  # fmt: skip
    assert sorted(p.name for p in (tmp_path / "c").iterdir()) == [
        "step_00000002.keras", "step_00000003.keras",
    ]  # fmt: skip
    # While the best was written, before the former one was removed.
    (tmp_path / "best" / "step_00000002.keras").touch()
    checkpoints.mend(rows)
    assert not (tmp_path / "best" / "step_00000002.keras").exists()
    # The file that names the best is gone, and the last checkpoint is not the best.
    checkpoints.save(gan, 4, 8.0)
    rows.append({"step": 4, "fid": 8.0})
    (tmp_path / "best" / "best.json").unlink()
    checkpoints.mend(rows)
    assert checkpoints.read_best()["step"] == 3
    # Another last digit is as good as none, and is made the run's own again.
    (tmp_path / "best" / "best.json").write_text(
        json.dumps({"file": "step_00000003.keras", "step": 3, "fid": 7.0000001})
    )
    checkpoints.mend(rows)
    assert checkpoints.read_best()["fid"] == 7.0
    assert caplog.records == []
    # The lowest row's checkpoint is gone.
    checkpoints.mend([{"step": 2, "fid": 1.0}, *rows[2:]])
    assert checkpoints.read_best()["step"] == 3
    assert "does not hold step 2, the best so far" in caplog.text
