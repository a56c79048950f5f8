"""Whole runs: equal, killed, resumed, refused; with a folder of an earlier version."""

import contextlib
import json
import os
import resource
import shutil
import signal
import zipfile

import keras
import numpy as np
import pytest
import rounding
import tensorflow as tf
from metrics_rows import rows_without_clock as rows
from PIL import Image
from repository import TESTS
from small_runs import Small

import fid
from fid.files import InputError
from tf_ttur import callbacks, datasets, experiment, presets
from tf_ttur.gan import GAN
from tf_ttur.runs import RunFolder
from tf_ttur.studies import kill_drill
from tf_ttur.tasks.task import MEASUREMENT_SEED

SMALL = presets.get("digits_dcgan_ttur").override(
    width=2, steps=7, every=2, batch_size=16, num_samples=200, jit_compile=False
)


def run(preset, workdir):
    return experiment.train(Small(preset), RunFolder(workdir))


@pytest.fixture(scope="module", autouse=True)
def trained_classifier(classifier):
    """The features that runs of the digits are measured by."""


def pictures(workdir):
    return {p.name: p.read_bytes() for p in sorted((workdir / "samples").iterdir())}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An uninterrupted run."""
    workdir = tmp_path_factory.mktemp("whole") / "run"
    return workdir, run(SMALL, workdir)


def test_the_run_folder_is_complete(whole):
    workdir, summary = whole
    names = {p.name for p in workdir.iterdir() if not p.name.startswith(".")}
    assert names == {
        "config.json", "metrics.jsonl", "log.txt", "reference.npz", "tensorboard",
        "samples", "checkpoints", "best", "curve.png", "summary.json",
    }  # fmt: skip
    steps = [0, 2, 4, 6, 7]
    assert [row["step"] for row in rows(workdir)] == steps
    assert list(pictures(workdir)) == [f"step_{step:08d}.png" for step in steps]
    for row in rows(workdir)[1:]:
        assert set(row) == {
            "step", "d_loss", "g_loss", "d_lr", "g_lr", "frechet_digits"
        }  # fmt: skip
    distances = {row["step"]: row["frechet_digits"] for row in rows(workdir)}
    best = min(distances, key=distances.get)
    assert summary["best"] == {"step": best, "frechet_digits": distances[best]}
    assert summary["start"]["step"] == 0
    assert json.loads((workdir / "summary.json").read_text()) == summary
    facts = json.loads((workdir / "best" / "best.json").read_text())
    assert facts["step"] == best
    assert facts["num_samples"] == summary["num_samples"] == 200
    assert facts["reference_images"] == 1797
    model = keras.models.load_model(workdir / "best" / facts["file"])
    assert model.steps == best
    assert len(list((workdir / "checkpoints").iterdir())) == 2
    grid = np.asarray(Image.open(workdir / "samples" / "step_00000007.png"))
    assert grid.shape == (8 * 34 + 2, 8 * 34 + 2)
    log = (workdir / "log.txt").read_text()
    assert "accuracy" in log
    assert log.count("Measuring frechet_digits: 200 images, about ") == 1
    assert "every 2 steps; 4 up to step 7, about " in log
    last = RunFolder(workdir).rows()[-1]
    assert 0 < last["measure_minutes"] < last["minutes"]
    share = last["measure_minutes"] / last["minutes"]
    # It has four decimals, and the minutes it is of have as many digits in either.
    few = 2 * rounding.printed(4)
    assert summary["measuring_share"] == pytest.approx(share, rel=0, abs=few)
    assert f"{100 * share:.0f}% of them measuring; the best" in log.splitlines()[-1]


def test_the_best_model_has_the_distance_that_is_recorded(whole, classifier):
    workdir, summary = whole
    facts = json.loads((workdir / "best" / "best.json").read_text())
    model = keras.models.load_model(workdir / "best" / facts["file"])
    distance = callbacks.FrechetDistance(
        workdir / "reference.npz",
        every=1,
        num_samples=200,
        extractor=classifier.extractor,
        seed=MEASUREMENT_SEED,
    )
    # The classifier's sums have 9, 144 and 512 terms, and means of 4 three times; what
    # it makes of the generator's rounding is within what it may amplify.
    reference = fid.Statistics.load(workdir / "reference.npz")
    size = np.sqrt(np.mean(reference.mu**2 + np.diag(reference.sigma)))
    error = size * rounding.random_sums(9 + 144 + 512 + 3 * 4, amplified=10.0)
    best = summary["best"]["frechet_digits"]
    moved = rounding.frechet_of_features(best, error)
    assert distance.measure(model) == pytest.approx(best, rel=0, abs=moved)


@pytest.fixture(scope="module")
def other_run(tmp_path_factory):
    """A run with another seed."""
    workdir = tmp_path_factory.mktemp("other") / "run"
    run(SMALL.override(seed=1), workdir)
    return workdir


def test_equal_seeds_give_equal_runs(whole, other_run, tmp_path):
    run(SMALL, tmp_path / "again")
    assert rows(tmp_path / "again") == rows(whole[0])
    assert pictures(tmp_path / "again") == pictures(whole[0])
    assert rows(other_run)[1] != rows(whole[0])[1]


class PowerCut(Exception):
    pass


@contextlib.contextmanager
def crash_at(step):
    """Some way into an interval, or at its end, before its row is written."""

    def crash(self, before, now, logs):
        if now == step:
            raise PowerCut

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(callbacks.NaNGuard, "on_steps", crash)
        yield


@contextlib.contextmanager
def crash_after_writing(what, at):
    """After the row, the checkpoint or the best of one interval."""
    original = callbacks.Checkpoints.save

    def crash(self, gan, step, value):
        if step != at or what != "row":
            with pytest.MonkeyPatch.context() as patch:
                if step == at and what == "checkpoint":
                    # As if the best had not been copied yet.
                    patch.setattr(callbacks.Checkpoints, "_set_best", lambda *a: None)
                original(self, gan, step, value)
        if step == at:
            raise PowerCut

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(callbacks.Checkpoints, "save", crash)
        yield


def test_a_run_that_fails_anywhere_goes_on_as_if_nothing_had_been(whole, tmp_path):
    """One run that is cut again and again, each time going on from the last cut."""
    for cut in (
        crash_at(1),
        crash_after_writing("row", 2),
        crash_at(3),
        crash_after_writing("best", 4),
        crash_at(6),
        crash_after_writing("checkpoint", 7),
    ):
        with cut, pytest.raises(PowerCut):
            run(SMALL, tmp_path)
        with open(tmp_path / "metrics.jsonl", "a") as file:
            file.write('{"step": 6, "minu')  # a line cut short
    summary = run(SMALL, tmp_path)
    assert rows(tmp_path) == rows(whole[0])
    assert pictures(tmp_path) == pictures(whole[0])
    assert summary["best"] == whole[1]["best"]
    # Otherwise a best that was never copied would not show.
    assert summary["best"]["step"] == 7
    best = [
        json.loads((w / "best" / "best.json").read_text()) for w in (tmp_path, whole[0])
    ]
    assert best[0] == best[1]


def test_a_checkpoint_too_many_is_removed(whole, tmp_path):
    """As a crash just after the last checkpoint leaves it."""
    shutil.copytree(whole[0], tmp_path / "run")
    folder = tmp_path / "run" / "checkpoints"
    shutil.copy(folder / "step_00000006.keras", folder / "step_00000004.keras")
    run(SMALL, tmp_path / "run")
    assert kill_drill.differences(tmp_path / "run", whole[0]) == []


def test_a_finished_run_is_reported_again(whole):
    before = pictures(whole[0])
    assert run(SMALL, whole[0])["best"] == whole[1]["best"]
    assert pictures(whole[0]) == before


def test_another_configuration_is_refused_with_the_difference(whole):
    with pytest.raises(InputError, match=r"generator_lr is .* there and 0.1 now"):
        run(SMALL.override(generator_lr=0.1), whole[0])


def test_a_folder_in_use_is_refused(tmp_path):
    with (
        RunFolder(tmp_path).in_use(),
        pytest.raises(InputError, match="Another process is training"),
    ):
        run(SMALL, tmp_path)


def test_other_extractor_weights_are_refused(whole, tmp_path):
    shutil.copytree(whole[0], tmp_path / "run")
    path = tmp_path / "run" / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"extractor_sha256": "0" * 64}))
    with pytest.raises(InputError, match="extractor_sha256 is '0000"):
        run(SMALL, tmp_path / "run")
    path.write_text(json.dumps(config | {"num_examples": 20}))
    with pytest.raises(InputError, match="num_examples is 20 there and 1797 now"):
        run(SMALL, tmp_path / "run")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("config.json", "[]", "expected a JSON object"),
        ("metrics.jsonl", "7\n", "line 1 is no JSON object with step, minutes"),
        ("metrics.jsonl", '{"step": 0}\n', "line 1 is no JSON object with"),
        ("best/best.json", '{"step": 7}', "expected a JSON object with file, step"),
    ],
)
def test_a_damaged_file_is_named(whole, tmp_path, name, text, message):
    shutil.copytree(whole[0], tmp_path / "run")
    (tmp_path / "run" / name).write_text(text)
    with pytest.raises(InputError, match=f"{name}.*{message}"):
        run(SMALL, tmp_path / "run")


def test_lost_metrics_are_an_error(whole, tmp_path):
    shutil.copytree(whole[0], tmp_path / "run")
    metrics = tmp_path / "run" / "metrics.jsonl"
    cut = metrics.read_bytes()[:-20]
    metrics.write_bytes(cut)
    with pytest.raises(InputError, match=r"metrics.jsonl lacks the row of step 7"):
        run(SMALL, tmp_path / "run")
    assert metrics.read_bytes() == cut
    metrics.unlink()
    with pytest.raises(InputError, match=r"metrics.jsonl lacks the row of step 7"):
        run(SMALL, tmp_path / "run")
    assert not metrics.exists()


def test_lost_checkpoints_are_an_error(whole, tmp_path):
    shutil.copytree(whole[0], tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    before = (tmp_path / "run" / "metrics.jsonl").read_bytes()
    with pytest.raises(InputError, match=r"rows up to step 7, but .* no checkpoint"):
        run(SMALL, tmp_path / "run")
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == before


LAST = "checkpoints/step_00000007.keras"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (LAST, "made with another config.json than"),
        ("metrics.jsonl", "best.json says that frechet_digits is"),
        ("best/best.json", "best.json says that frechet_digits is"),
    ],
)
def test_a_file_of_another_run_is_refused(whole, other_run, tmp_path, name, message):
    shutil.copytree(whole[0], tmp_path / "run")
    shutil.copy(other_run / name, tmp_path / "run" / name)
    before = contents(tmp_path / "run")
    with pytest.raises(InputError, match=message):
        run(SMALL, tmp_path / "run")
    assert contents(tmp_path / "run") == before


def test_statistics_of_other_images_are_refused(whole, classifier, tmp_path):
    shutil.copytree(whole[0], tmp_path / "run")
    reference = tmp_path / "run" / "reference.npz"
    noise = np.random.default_rng(0).integers(0, 256, (1797, 32, 32, 1), np.uint8)
    for count, message in ((1797, "with another reference.npz"), (200, "is of 200 im")):
        fid.compute_statistics(noise[:count], classifier.extractor).save(reference)
        with pytest.raises(InputError, match=message):
            run(SMALL, tmp_path / "run")
    reference.unlink()  # the right ones are made again
    run(SMALL, tmp_path / "run")
    assert kill_drill.differences(tmp_path / "run", whole[0]) == []


def contents(workdir):
    """All files whose names are not hidden, the log aside."""
    return {
        path: path.read_bytes()
        for path in workdir.rglob("[!.]*")
        if path.is_file() and path.name != "log.txt"
    }


class Removed(Small):
    """The folder disappears while the model is measured at step 4."""

    then = staticmethod(lambda path: None)

    def measurement(self, data, folder):
        measurement = super().measurement(data, folder)
        observe = measurement.observe

        def remove(gan, count):
            if gan.steps == 4:
                shutil.rmtree(folder.path)
                self.then(folder.path)
            return observe(gan, count)

        measurement.observe = remove
        return measurement


class Replaced(Removed):
    then = staticmethod(lambda path: path.mkdir())


@pytest.mark.parametrize("task", [Removed, Replaced])
def test_a_run_whose_folder_is_removed_stops_and_writes_nothing(tmp_path, task):
    folder = RunFolder(tmp_path / "run")
    with pytest.raises(InputError, match="was removed, renamed or replaced under the"):
        experiment.train(task(SMALL), folder)
    assert folder.path.exists() == (task is Replaced)
    assert list(tmp_path.rglob("*")) == [folder.path][: task is Replaced]


def test_settings_that_cannot_be_trained_do_not_claim_the_folder(tmp_path):
    """The networks of the preset, here and not in the other tests."""
    with pytest.raises(InputError, match="lower the batch size"):
        experiment.run(SMALL.override(batch_size=5000), tmp_path)
    assert experiment.run(SMALL.override(steps=1), tmp_path)["last"]["step"] == 1


def test_an_image_that_breaks_during_training_is_named(tmp_path, monkeypatch):
    def broken(self, *arguments, **options):
        def fail(x):
            raise ValueError("x.jpg is truncated")

        images = original(self, *arguments, **options)
        return images.map(
            lambda x: tf.ensure_shape(tf.numpy_function(fail, [x], tf.float32), x.shape)
        )

    original = datasets.ImageData.training
    monkeypatch.setattr(datasets.ImageData, "training", broken)
    with pytest.raises(InputError, match=r"stopped near step \d: .*x.jpg is truncated"):
        run(SMALL, tmp_path)


def cut_short(data):
    return data[: len(data) // 2]


def changed(data):
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 255]) + data[middle + 1 :]


def test_a_damaged_checkpoint_is_named_and_the_one_before_serves(whole, tmp_path):
    shutil.copytree(whole[0], tmp_path / "run")
    path = tmp_path / "run" / "checkpoints" / "step_00000007.keras"
    right = path.read_bytes()
    for damage in (cut_short, changed, lambda data: b""):
        path.write_bytes(damage(right))
        with pytest.raises(InputError, match="step_00000007.keras cannot be loaded"):
            run(SMALL, tmp_path / "run")
    path.unlink()
    run(SMALL, tmp_path / "run")
    assert kill_drill.differences(tmp_path / "run", whole[0]) == []


@contextlib.contextmanager
def sigterm(owner, method, at):
    """The signal arrives in a method of a callback, at a step."""
    original = getattr(owner, method)

    def killed(self, *arguments):
        saving = isinstance(self, callbacks.Checkpoints)
        if (arguments[1] if saving else self.step) == at:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(self, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, method, killed)
        yield


def test_sigterm_ends_the_run_and_says_how_to_go_on(whole, tmp_path):
    for owner, method, step, last in (
        (callbacks.FrechetDistance, "compare", 0, "Nothing lost"),
        (callbacks.NaNGuard, "on_steps", 3, "The last checkpoint is of step 2"),
        (callbacks.FrechetDistance, "compare", 4, "The last checkpoint is of step 2"),
        # A checkpoint is written to its end: the run stops at the next step.
        (callbacks.Checkpoints, "save", 4, "The last checkpoint is of step 4"),
    ):
        with sigterm(owner, method, step), pytest.raises(SystemExit) as ended:
            run(SMALL, tmp_path)
        assert ended.value.code == 143
        line = (tmp_path / "log.txt").read_text().splitlines()[-1]
        assert "SIGTERM ended the run at step " in line
        assert f"{last}: start again with the same settings" in line
    run(SMALL, tmp_path)
    assert kill_drill.differences(tmp_path, whole[0]) == []


@contextlib.contextmanager
def room(size):
    """No file can be written beyond a size, as the kernel says."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_no_room_for_a_file_is_one_error_and_harms_no_checkpoint(whole, tmp_path):
    """One run that finds no room again and again, going on from the step before."""
    for owner, size, message in (
        (callbacks.SampleGrid, 500, "Cannot write .*samples/step_00000004.png: "),
        (callbacks.MetricsLog, 250, "Cannot write .*metrics.jsonl: "),
        (callbacks.Checkpoints, 20_000, "Cannot write .*step_00000004.keras: "),
    ):
        original = owner.on_epoch_end

        def write(self, epoch, logs=None, size=size, original=original):
            with room(size) if self.step == 4 else contextlib.nullcontext():
                original(self, epoch, logs)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(owner, "on_epoch_end", write)
            with pytest.raises(InputError, match=message):
                run(SMALL, tmp_path)
        names = sorted(p.name for p in (tmp_path / "checkpoints").iterdir())
        assert names == ["step_00000000.keras", "step_00000002.keras"]
        assert keras.models.load_model(tmp_path / "checkpoints" / names[1]).steps == 2
    run(SMALL, tmp_path)
    assert kill_drill.differences(tmp_path, whole[0]) == []


def test_what_a_killed_process_was_writing_is_removed(whole, tmp_path):
    shutil.copytree(whole[0], tmp_path / "run")
    left = [
        tmp_path / "run" / "checkpoints" / ".step_00000007.keras.x1y2_z34.keras",
        tmp_path / "run" / ".metrics.jsonl.x1y2_z34.jsonl",
    ]
    kept = [tmp_path / "run" / ".mine.txt", tmp_path / "run" / "best" / ".a.b.c.d"]
    for path in left + kept:
        path.write_text("")
    run(SMALL, tmp_path / "run")
    assert not any(path.exists() for path in left)
    assert all(path.exists() for path in kept)
    assert (tmp_path / "run" / ".lock").exists()


class Brightness(callbacks.Measurement):
    def observe(self, gan, count):
        return gan.generate(count, seed=0, batch_size=self.batch_size)

    def compare(self, observed):
        return float(np.mean(observed))


class Notes(callbacks.Samples):
    suffix = ".note"

    def write(self, path):
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"{self.model.steps} steps")

    def summarize(self, summary):
        pass


class Bright(Small):
    """A task that is measured and sampled in its own way."""

    def config(self, data):
        return {"name": self.preset.name}

    def measurement(self, data, folder):
        return Brightness(
            "brightness",
            "mean brightness",
            every=2,
            num_samples=50,
            batch_size=20,
            last=7,
        )

    def samples(self, data, folder):
        return Notes(folder.samples)


def test_a_task_is_measured_and_sampled_as_it_says(whole, tmp_path):
    summary = experiment.train(Bright(SMALL), RunFolder(tmp_path))
    assert summary["metric_title"] == "mean brightness"
    values = {row["step"]: row["brightness"] for row in rows(tmp_path)}
    assert summary["best"]["brightness"] == min(values.values())
    for step in (0, 2, 4, 6, 7):
        note = tmp_path / "samples" / f"step_{step:08d}.note"
        assert note.read_text() == f"{step} steps"
    # The training is that of any other run.
    losses = [[row.get("d_loss") for row in rows(w)] for w in (tmp_path, whole[0])]
    assert losses[0] == losses[1]


def test_a_loss_that_is_not_a_number_stops_the_run_and_is_not_saved(
    tmp_path, monkeypatch
):
    original = GAN.train_step

    def poisoned(self, data):
        logs = original(self, data)
        bad = tf.where(self._steps >= 3, float("nan"), 0.0)
        return logs | {"g_loss": logs["g_loss"] + bad}

    monkeypatch.setattr(GAN, "train_step", poisoned)
    with pytest.raises(callbacks.Diverged, match="g_loss became nan at step 3"):
        run(SMALL, tmp_path)
    assert [row["step"] for row in rows(tmp_path)] == [0, 2]
    names = sorted(p.name for p in (tmp_path / "checkpoints").iterdir())
    assert names == ["step_00000000.keras", "step_00000002.keras"]
    assert RunFolder(tmp_path).read_divergence()["step"] == 3
    # A run that comes further is no longer one that diverged.
    monkeypatch.setattr(GAN, "train_step", original)
    run(SMALL, tmp_path)
    assert RunFolder(tmp_path).read_divergence() is None


# A folder of an earlier version -------------------------------------------------------


@pytest.fixture
def old_run(tmp_path):
    """A run of version 0.1, cut after step 2 of 4; its rows go on to step 4.

    Its files were written by that version with `train.py --steps=4 --batch_size=8` and
    `--set=every=2 width=1 num_samples=64 extractor=pixels latent_dimension=4
    sample_batch=64`.
    """
    with zipfile.ZipFile(TESTS / "data" / "run_of_images_0.1.zip") as archive:
        archive.extractall(tmp_path)
    preset = presets.get("digits_dcgan_ttur").override(
        steps=4, batch_size=8, every=2, width=1, num_samples=64, extractor="pixels",
        latent_dimension=4, sample_batch=64,
    )  # fmt: skip
    return RunFolder(tmp_path), preset


def test_a_run_of_an_earlier_version_resumes(old_run):
    folder, preset = old_run
    before, config = folder.rows(), folder.config.read_text()
    assert "extractor_name" not in json.loads(config)
    experiment.run(preset, folder)
    after = folder.rows()
    assert after[:2] == before[:2]
    assert [row["step"] for row in after] == [0, 2, 4]
    # Another processor sums in another order. What is allowed is not derived from that:
    # a leaky unit that falls to the other side of its kink changes a gradient by a
    # pixel's share, which is less than a thousandth. From step 2 to step 4 a loss
    # changes by 3e-2.
    for key in ("d_loss", "g_loss"):
        assert after[2][key] == pytest.approx(before[2][key], rel=1e-3)
        assert abs(before[1][key] / before[2][key] - 1) > 1e-2
    assert folder.config.read_text() == config
    # It says once that its checkpoints do not say whose they are; now they do.
    log = folder.log.read_text()
    assert log.count("step_00000002.keras does not say which run it is of") == 1
    experiment.run(preset, folder)
    assert folder.log.read_text().count("does not say which run") == 1


def test_a_step_of_an_earlier_version_is_believed_as_far_as_it_is_right(old_run):
    folder, preset = old_run
    kept = folder.checkpoints / "step_00000002.keras"
    kept.rename(folder.checkpoints / "step_00000004.keras")
    with pytest.raises(InputError, match="step_00000004.keras holds step 2, not 4"):
        experiment.run(preset, folder)


def test_a_run_of_an_earlier_version_is_still_one_of_its_settings(old_run):
    folder, preset = old_run
    with pytest.raises(InputError, match=r"batch_size is 8 there and 16 now\. Give"):
        experiment.run(preset.override(batch_size=16), folder)
    with pytest.raises(InputError, match="optimizer is 'adam' there and 'sgd' now"):
        experiment.run(preset.override(optimizer="sgd"), folder)
    with pytest.raises(
        InputError, match="extractor_name is 'pixels_8x8' there and 'dig"
    ):
        experiment.run(preset.override(extractor="auto"), folder)
