"""The run folder: claimed, locked, tidied; rows and checkpoints read and found."""

import dataclasses
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import zipfile

import numpy as np
import pytest
from repository import ROOT

from fid.files import InputError, atomic_path
from tf_ttur import presets
from tf_ttur.runs import RunFolder, as_line, checkpoint_name, checkpoints, stamp


@pytest.fixture
def folder(tmp_path):
    return RunFolder(tmp_path / "run")


# Configuration


def test_a_folder_is_claimed_once(folder):
    config = {"steps": 5, "data_dir": None, "shape": [32, 32, 1]}
    folder.claim(config)
    before = folder.config.read_bytes()
    folder.claim(dict(reversed(config.items())))  # in any order
    with pytest.raises(
        InputError, match="steps is 5 there and 6 now. Give its settings"
    ):
        folder.claim(config | {"steps": 6})
    with pytest.raises(InputError, match="seed is None there and 1 now"):
        folder.claim(config | {"seed": 1})
    assert folder.config.read_bytes() == before
    assert folder.read_config() == config


def test_data_may_be_moved(folder):
    config = {"steps": 5, "data_dir": "/a", "extractor": "pixels"}
    folder.claim(config)
    for place in ("/b", None):
        folder.claim(config | {"data_dir": place})
        assert json.loads(folder.config.read_text()) == config | {"data_dir": place}
    before = folder.config.read_bytes()
    with pytest.raises(InputError, match=r"tion: steps is 5 there and 6 now\. Give"):
        folder.claim(config | {"steps": 6, "data_dir": "/c"})
    assert folder.config.read_bytes() == before


def test_the_extractor_that_was_found_has_a_name_of_its_own(folder):
    """In version 0.1 it stood in the place of what the preset had asked for."""
    settings = presets.get("digits_dcgan_ttur").settings()
    settings |= {"data_dir": None, "extractor_sha256": "0"}
    old = settings | {"extractor": "digits"}
    new = settings | {"extractor_name": "digits"}
    folder.claim(old)
    folder.claim(new)
    assert json.loads(folder.config.read_text()) == old  # as it was
    assert folder.preset() == (presets.get("digits_dcgan_ttur"), None)
    assert folder.read_config()["extractor_name"] == "digits"
    with pytest.raises(
        InputError, match="extractor_name is 'digits' there and 'other'"
    ):
        folder.claim(new | {"extractor_name": "other"})


def test_a_run_goes_on_where_settings_were_added_since(folder, monkeypatch):
    """Their defaults are what it was made with; config.json stays as it was."""

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Larger(presets.ImagePreset):
        colours: int = 2

    digits = presets.get("digits_dcgan_ttur")
    folder.claim(digits.settings() | {"data_dir": None})
    before, identity = folder.config.read_bytes(), folder.identity()
    monkeypatch.setattr(presets.preset, "KINDS", (Larger, presets.TextPreset))
    larger = Larger(**dataclasses.asdict(digits))
    assert folder.preset() == (larger, None)
    folder.claim(larger.settings() | {"data_dir": None})
    assert folder.config.read_bytes() == before
    assert folder.identity() == identity
    with pytest.raises(InputError, match="colours is 2 there and 3 now. Give its"):
        folder.claim(larger.override(colours=3).settings() | {"data_dir": None})


def test_the_preset_is_that_of_the_run(folder):
    preset = presets.get("text_wgan_gp_orig").override(seed=3, width=2)
    folder.claim(preset.settings() | {"data_dir": "/x", "text_sha256": "0"})
    assert folder.preset() == (preset, "/x")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (None, "is no run folder: it has no config.json"),
        ("[]", "config.json is damaged: expected a JSON object"),
        ("{", "config.json is not JSON"),
        (
            "{}",
            "config.json is not the configuration of a training run: it lacks 'da",
        ),
        ('{"data_dir": null}', "configuration of a training run: it lacks 'name'"),
        ('{"sample_batch": "x"}', "sample_batch is 'x'; it must be a whole number"),
        ('{"quantize": "zzz"}', "quantize is 'zzz'; choose from none, "),
        ('{"data_dir": [1]}', "data_dir is .1.; it must be a text or none. Bring"),
        ('{"seed": NaN}', "config.json is not JSON: NaN is no number"),
    ],
)
def test_what_is_no_run_is_told(folder, config, message):
    if config is not None:
        folder.path.mkdir()
        folder.config.write_text(config)
    with pytest.raises(InputError, match=message):
        folder.preset()


# Use


def test_a_folder_has_one_user_at_a_time(folder):
    with folder.in_use():
        code = (
            "import sys; from tf_ttur.runs import RunFolder\n"
            "with RunFolder(sys.argv[1]).in_use(): pass"
        )
        other = subprocess.run(
            [sys.executable, "-c", code, folder],
            capture_output=True,
            text=True,
            check=False,
            cwd=ROOT,
        )
        assert "Another process is training in" in other.stderr
    with folder.in_use():  # free again
        pass


def test_a_folder_that_cannot_be_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(InputError, match="Cannot use .*file/run as run folder: "),
        RunFolder(tmp_path / "file" / "run").in_use(),
    ):
        pass


@pytest.mark.parametrize("name", ["log.txt", "metrics.jsonl", "summary.json"])
def test_a_folder_in_the_place_of_a_file_is_named(folder, name):
    (folder.path / name).mkdir(parents=True)
    with (
        pytest.raises(InputError, match=f"{name} is a folder, .* remove or rename it"),
        folder.in_use(),
    ):
        pass


@pytest.mark.parametrize("name", ["samples", "best", "checkpoints", "tensorboard"])
def test_a_file_in_the_place_of_a_folder_is_named(folder, name):
    folder.path.mkdir()
    (folder.path / name).write_text("mine")
    with (
        pytest.raises(InputError, match=f"{name} is no folder, .* remove or rename it"),
        folder.in_use(),
    ):
        pass
    assert (folder.path / name).read_text() == "mine"


def test_rows_that_are_no_text_are_told_before_anything_is_made(folder):
    folder.path.mkdir()
    folder.metrics.write_bytes(as_line(ROWS[0]).encode() + b'{"step": "\xff"}\n')
    with (
        pytest.raises(InputError, match="jsonl, line 2 is not UTF-8 text. Mend or del"),
        folder.in_use(),
    ):
        pass
    assert not folder.log.exists()


def test_what_is_said_meanwhile_is_kept(folder, capsys):
    import logging

    with folder.in_use():
        logging.getLogger("tf_ttur.anything").info("half way")
    logging.getLogger("tf_ttur.anything").info("afterwards")
    assert re.fullmatch(r"[-\d:, ]+ half way\n", folder.log.read_text())
    assert "half way" in capsys.readouterr().err


def test_only_what_a_killed_process_left_is_removed(folder):
    for path in (folder.metrics, folder.checkpoints / checkpoint_name(7)):
        with atomic_path(path) as temporary:
            os.link(temporary, f"{temporary}.kept")  # as if it had been killed
        os.rename(f"{temporary}.kept", temporary)
    # Two of them have the form of a temporary name by chance.
    mine = {
        folder.path / x for x in (".mine.txt", ".env.original", ".a.json.settings.json")
    }
    for path in mine:
        path.touch()
    before = {path for path in folder.path.rglob("*") if path.is_file()}
    assert len(before) == 7
    folder.tidy()
    left = {path for path in folder.path.rglob("*") if path.is_file()}
    assert left == {folder.metrics, folder.checkpoints / checkpoint_name(7), *mine}


def test_a_folder_that_is_removed_or_replaced_is_not_written_to(folder, tmp_path):
    folder.check_held()  # nobody is in it
    with folder.in_use():
        folder.check_held()
        os.rename(folder.path, tmp_path / "renamed")
        for write in (
            folder.check_held,
            lambda: folder.claim({}),
            lambda: folder.cut(0),
        ):
            with pytest.raises(InputError, match="run was removed, renamed or"):
                write()
        assert not folder.path.exists()
        # Another run's, in its place.
        with (
            RunFolder(folder).in_use(),
            pytest.raises(InputError, match="removed, renamed or replaced under the"),
        ):
            folder.check_held()
        shutil.rmtree(folder.path)
        os.rename(tmp_path / "renamed", folder.path)
        folder.check_held()
    folder.check_held()


def test_checkpoints_without_a_configuration_are_not_claimed(folder):
    folder.checkpoints.mkdir(parents=True)
    (folder.checkpoints / checkpoint_name(4)).touch()
    with pytest.raises(InputError, match="has checkpoints, such as step_00000004"):
        folder.claim({"steps": 5})
    assert not folder.config.exists()


# Rows


ROWS = [{"step": step, "minutes": 0.5 * step, "fid": 9.0 - step} for step in range(4)]


def test_rows_are_read_and_cut(folder):
    assert folder.rows() == []
    folder.path.mkdir()
    folder.metrics.write_text("".join(map(as_line, ROWS)) + '{"step": 4, "min')
    assert folder.rows() == ROWS
    assert folder.cut(2) == ROWS[:3]
    assert folder.rows() == ROWS[:3]
    assert folder.metrics.read_text() == "".join(map(as_line, ROWS[:3]))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (ROWS[::-1], "line 2 is damaged: it is of step 2, the row before of step 3"),
        ([*ROWS[:2], *ROWS[1:]], "line 3 is damaged: it is of step 1, the row"),
        ([ROWS[0], ROWS[1] | {"step": 1.0}], "line 2 is damaged: step is 1.0; it"),
        ([ROWS[0] | {"step": True}], "line 1 .* step is True; it must be a whole"),
        ([ROWS[0] | {"step": -1}], "line 1 .* step is -1; it must be >= 0"),
        ([ROWS[0] | {"step": "0"}], "line 1 .* step is '0'; it must be a whole"),
        ([ROWS[0] | {"fid": "low"}], "line 1 .* fid is 'low'; it must be a number"),
        ([ROWS[0] | {"fid": [1]}], "line 1 .* fid is .1.; it must be a number"),
        ([ROWS[0] | {"fid": float("nan")}], "line 1 is not JSON: NaN is no number"),
        ([ROWS[0] | {"minutes": None}], "line 1 .* minutes is None; it must be a n"),
        ([ROWS[0] | {"minutes": -1}], "line 1 .* minutes is -1; it must be >= 0"),
        ([ROWS[0] | {"minutes": 9}, ROWS[1]], "line 2 .* minutes is 0.5, less than 9"),
    ],
)
def test_rows_that_cannot_be_are_named_by_their_line(folder, rows, message):
    folder.path.mkdir()
    folder.metrics.write_text("".join(f"{json.dumps(x)}\n" for x in rows))
    before = folder.metrics.read_bytes()
    for read in (folder.rows, lambda: folder.cut(1)):
        with pytest.raises(InputError, match=f"metrics.jsonl, {message}"):
            read()
    assert folder.metrics.read_bytes() == before


def test_a_value_that_was_not_finite_is_null(folder):
    folder.path.mkdir()
    rows = [{**ROWS[0], "fid": None}, {"step": 1, "minutes": 0}]
    folder.metrics.write_text("".join(map(as_line, rows)))
    assert folder.rows() == rows


def test_a_row_holds_no_number_that_json_has_not():
    with pytest.raises(ValueError, match="Out of range"):
        as_line({"step": 1, "fid": float("nan")})


# Checkpoints


@pytest.fixture
def kept(folder):
    for path in (
        folder.best / checkpoint_name(4),
        folder.best / checkpoint_name(2),  # left by a crash
        folder.checkpoints / checkpoint_name(4),
        folder.checkpoints / checkpoint_name(6),
        folder.checkpoints / "step_0000000x.keras",
        folder.checkpoints / "mine.keras",
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (folder.best / "best.json").write_text('{"step": 2}')
    return folder


def test_checkpoints_are_found_by_what_they_are(kept):
    assert list(checkpoints(kept.checkpoints)) in ([4, 6], [6, 4])
    assert checkpoints(kept.path / "nowhere") == {}
    assert kept.checkpoint("last") == kept.checkpoints / "step_00000006.keras"
    assert kept.checkpoint("best") == kept.best / "step_00000002.keras"
    assert kept.checkpoint("6") == kept.checkpoint(6) == kept.checkpoint("last")


def test_a_folder_with_the_name_of_a_checkpoint_is_named(kept):
    (kept.checkpoints / checkpoint_name(8)).mkdir()
    with pytest.raises(InputError, match=r"step_00000008.keras is a folder and no ch"):
        kept.checkpoint("last")


@pytest.mark.parametrize(
    ("which", "message"),
    [
        (5, "keeps no checkpoint of step 5; it has those of 2, 4, 6."),
        ("first", "--checkpoint=first: expected best, last or a step"),
    ],
)
def test_a_checkpoint_that_is_not_there_is_told(kept, which, message):
    with pytest.raises(InputError, match=re.escape(message)):
        kept.checkpoint(which)


def test_a_run_without_checkpoints_is_told(folder):
    with pytest.raises(InputError, match="has no checkpoint yet"):
        folder.checkpoint("best")


# Whose a checkpoint is


def make_run(path, settings):
    """A run whose checkpoint of step 4 is an archive, as Keras writes one."""
    folder = RunFolder(path)
    folder.claim(settings)
    np.savez_compressed(folder.reference, mu=np.zeros(2), sigma=np.eye(2))
    folder.metrics.write_text("".join(map(as_line, ROWS)))
    for step in (2, 3):
        kept = folder.checkpoints / checkpoint_name(step)
        kept.parent.mkdir(exist_ok=True)
        with zipfile.ZipFile(kept, "w") as archive:
            archive.writestr("model.weights.h5", b"")
        rows = {"metrics.jsonl": folder.digest_of_rows(step)}
        stamp(kept, folder.identity() | rows, {"step": step, "fid": 9.0 - step})
    return folder


SETTINGS = {"steps": 5, "seed": 0, "data_dir": "/a"}
FIX = "Choose another."


def test_a_checkpoint_says_what_was_recorded_with_it(tmp_path):
    run = make_run(tmp_path / "run", SETTINGS)
    path = run.checkpoint(3)
    assert run.check_checkpoint(path, FIX, rows=True) == {"step": 3, "fid": 6.0}
    assert zipfile.ZipFile(path).testzip() is None
    # Data may be moved, the folder may be, and equal statistics may be made again.
    config = json.loads(run.config.read_text()) | {"data_dir": "/b"}
    run.config.write_text(json.dumps(config))
    made = np.array('{"created": "later"}')
    np.savez(run.reference, sigma=np.eye(2), mu=np.zeros(2), provenance=made)
    with open(run.metrics, "a") as file:
        file.write(as_line({"step": 4, "minutes": 9.0}))
    moved = RunFolder(shutil.move(run.path, tmp_path / "moved"))
    assert moved.check_checkpoint(moved.checkpoint(3), FIX, rows=True)["fid"] == 6.0


def test_a_checkpoint_of_another_step_or_run_is_refused(tmp_path):
    run = make_run(tmp_path / "run", SETTINGS)
    other = make_run(tmp_path / "other", SETTINGS | {"seed": 1})
    path = run.checkpoint(3)

    def refused(message, rows=False):
        with pytest.raises(InputError, match=rf"step_00000003.keras {message}.*Choose"):
            run.check_checkpoint(path, FIX, rows)

    shutil.copy(run.checkpoint(2), path)
    refused("holds step 2, not 3: bring")
    shutil.copy(other.checkpoint(3), path)
    refused("was made with another config.json than")
    make_run(run.path, SETTINGS)
    np.savez(run.reference, mu=np.ones(2), sigma=np.eye(2))
    refused("was made with another reference.npz than")
    run.reference.unlink()  # it is made again
    assert run.check_checkpoint(path, FIX)
    changed = [ROWS[0] | {"fid": 8.9}, *ROWS[1:]]
    run.metrics.write_text("".join(map(as_line, changed)))
    assert run.check_checkpoint(path, FIX)  # who samples reads no rows
    refused("was made with another metrics.jsonl than", rows=True)
    run.vocabulary.write_text("{}")
    assert run.check_checkpoint(path, FIX)  # that the run had none of


@pytest.mark.parametrize(
    "text", ["", "[1]", '{"run": {}}', '{"run": {}, "record": {"step": "3"}}']
)
def test_a_checkpoint_that_says_nonsense_is_damaged(tmp_path, text):
    path = tmp_path / checkpoint_name(3)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("run.json", text)
    with pytest.raises(InputError, match=r"step_00000003.keras cannot be .*\. Choose"):
        RunFolder(tmp_path).check_checkpoint(path, FIX)


def test_a_checkpoint_of_an_earlier_version_says_nothing(tmp_path):
    path = tmp_path / checkpoint_name(3)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model.weights.h5", b"")
    assert RunFolder(tmp_path).check_checkpoint(path, FIX) is None


def test_the_best_and_its_file_say_the_same(tmp_path):
    run = make_run(tmp_path / "run", SETTINGS)
    run.best.mkdir()
    best = shutil.copy(run.checkpoint(3), run.best)
    note = run.best / "best.json"
    right = {"file": "step_00000003.keras", "step": 3, "fid": 6.0}
    note.write_text(json.dumps(right))
    assert run.checkpoint("best") == run.best / "step_00000003.keras"
    assert run.check_checkpoint(best, FIX)["fid"] == 6.0
    note.unlink()  # A crash came before it was written.
    assert run.check_checkpoint(best, FIX)["fid"] == 6.0
    note.write_text(json.dumps(right | {"fid": 5.0}))
    with pytest.raises(
        InputError, match="best.json says that fid is 5.0 at step 3, and"
    ):
        run.check_checkpoint(best, FIX)
    for wrong, message in (
        ({"step": [3]}, "best.json is damaged: step is .3.; it must be a whole number"),
        ({"step": 2}, "best.json is damaged: file is 'step_00000003.keras', and step "),
    ):
        note.write_text(json.dumps(right | wrong))
        with pytest.raises(InputError, match=message):
            run.checkpoint("best")


@pytest.mark.parametrize(
    ("edited", "message"),
    [
        ({"file": "step_00000002.keras", "step": 2}, "step 2 is .* are of step 3. Br"),
        ({"file": None, "step": 2}, "says that step 2 is the best; .* are of step 3."),
        ({"fid": 5.0}, "says that fid is 5.0 at step 3, and"),
    ],
)
def test_no_other_checkpoint_is_the_best(tmp_path, edited, message):
    """Though it is kept among the last ones, and would load."""
    run = make_run(tmp_path / "run", SETTINGS)
    run.best.mkdir()
    shutil.copy(run.checkpoint(3), run.best)
    note = {"file": "step_00000003.keras", "step": 3, "fid": 6.0} | edited
    note = {key: value for key, value in note.items() if value is not None}
    (run.best / "best.json").write_text(json.dumps(note))
    assert checkpoints(run.checkpoints).keys() == {2, 3}
    with pytest.raises(InputError, match=message):
        run.check_checkpoint(run.checkpoint("best"), FIX)


# The outcome


def test_a_run_is_over_once_it_is_finished_or_has_diverged(tmp_path):
    finished, diverged, other = (RunFolder(tmp_path / x) for x in "abc")
    for each in (finished, diverged, other):
        each.path.mkdir()
        assert not each.is_over
        assert each.read_summary() is each.read_divergence() is None
    finished.summary.write_text('{"metric": "fid", "metric_title": "FID", "best": 3}')
    diverged.diverged.write_text('{"step": 7, "message": "d_loss became nan"}')
    assert [each.is_over for each in (finished, diverged, other)] == [True, True, False]
    assert finished.read_summary()["best"] == 3
    assert diverged.read_divergence()["step"] == 7
    for facts, message in (
        (
            {"step": 7, "message": "d_loss became nan at step 8. Lower"},
            "step is 7, and",
        ),
        ({"step": 7}, "with step, message"),
        ({"step": 7, "message": None}, "message is None; it must be a text"),
    ):
        diverged.diverged.write_text(json.dumps(facts))
        with pytest.raises(InputError, match=message):
            diverged.read_divergence()
    finished.summary.write_text('{"metric": "fid"}')
    with pytest.raises(
        InputError, match="expected a JSON object with metric, metric_t"
    ):
        finished.read_summary()


def test_a_folder_is_a_path(tmp_path):
    folder = RunFolder(str(tmp_path))
    assert pathlib.Path(folder) == tmp_path
    assert RunFolder(folder).metrics == tmp_path / "metrics.jsonl"
    assert f"{folder}" == str(tmp_path)
