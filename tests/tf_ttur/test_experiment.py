"""Whole runs of the training program: equal, killed, resumed, refused."""

import contextlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import types

import keras
import numpy as np
import pytest
import tensorflow as tf
from metrics_rows import rows_without_clock as rows
from PIL import Image

from fid.files import InputError
from tf_ttur import callbacks, cli, datasets, experiment, presets
from tf_ttur.studies import kill_drill

SMALL = presets.get("digits_dcgan_ttur").override(
    width=2, steps=7, every=2, batch_size=16, num_samples=200, jit_compile=False
)


DCGAN = experiment.dcgan


def generator(size, channels, width, latent_dimension, seed):
    initializer = keras.initializers.RandomNormal(stddev=0.1, seed=seed)
    return keras.Sequential(
        [
            keras.Input((latent_dimension,)),
            keras.layers.Dense(width, kernel_initializer=initializer),
            keras.layers.BatchNormalization(),
            keras.layers.Dense(
                size * size * channels, "tanh", kernel_initializer=initializer
            ),
            keras.layers.Reshape((size, size, channels)),
        ]
    )


def discriminator(size, channels, width, seed):
    initializer = keras.initializers.RandomNormal(stddev=0.1, seed=seed)
    return keras.Sequential(
        [
            keras.Input((size, size, channels)),
            keras.layers.Flatten(),
            keras.layers.Dense(1, kernel_initializer=initializer),
        ]
    )


@pytest.fixture(scope="module", autouse=True)
def small_networks(classifier):
    """Most tests are not about DCGAN, and tracing it takes longer than they do."""
    small = types.SimpleNamespace(generator=generator, discriminator=discriminator)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(experiment, "dcgan", small)
        yield


def pictures(workdir):
    return {p.name: p.read_bytes() for p in sorted((workdir / "samples").iterdir())}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An uninterrupted run."""
    workdir = tmp_path_factory.mktemp("whole") / "run"
    return workdir, experiment.run(SMALL, workdir)


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
    last = callbacks.MetricsLog.read(workdir / "metrics.jsonl")[-1]
    assert 0 < last["measure_minutes"] < last["minutes"]
    share = last["measure_minutes"] / last["minutes"]
    assert summary["measuring_share"] == pytest.approx(share, abs=1e-4)
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
        seed=experiment._DISTANCE_SEED,
    )
    assert distance.measure(model) == pytest.approx(
        summary["best"]["frechet_digits"], rel=1e-6
    )


def test_equal_seeds_give_equal_runs(whole, tmp_path):
    experiment.run(SMALL, tmp_path / "again")
    assert rows(tmp_path / "again") == rows(whole[0])
    assert pictures(tmp_path / "again") == pictures(whole[0])
    experiment.run(SMALL.override(seed=1, steps=2), tmp_path / "other")
    assert rows(tmp_path / "other")[1] != rows(whole[0])[1]


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
            experiment.run(SMALL, tmp_path)
        with open(tmp_path / "metrics.jsonl", "a") as file:
            file.write('{"step": 6, "minu')  # a line cut short
    summary = experiment.run(SMALL, tmp_path)
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
    experiment.run(SMALL, tmp_path / "run")
    assert kill_drill.differences(tmp_path / "run", whole[0]) == []


def test_a_finished_run_is_reported_again(whole):
    before = pictures(whole[0])
    assert experiment.run(SMALL, whole[0])["best"] == whole[1]["best"]
    assert pictures(whole[0]) == before


def test_another_configuration_is_refused_with_the_difference(whole):
    with pytest.raises(InputError, match=r"generator_lr is .* there and 0.1 now"):
        experiment.run(SMALL.override(generator_lr=0.1), whole[0])


def test_a_folder_in_use_is_refused(tmp_path):
    with (
        experiment._only_user(tmp_path),
        pytest.raises(InputError, match="Another process is training"),
    ):
        experiment.run(SMALL, tmp_path)


def test_other_extractor_weights_are_refused(whole, tmp_path):
    shutil.copytree(whole[0], tmp_path / "run")
    path = tmp_path / "run" / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"extractor_sha256": "0" * 64}))
    with pytest.raises(InputError, match="extractor_sha256 is '0000"):
        experiment.run(SMALL, tmp_path / "run")
    path.write_text(json.dumps(config | {"num_examples": 20}))
    with pytest.raises(InputError, match="num_examples is 20 there and 1797 now"):
        experiment.run(SMALL, tmp_path / "run")


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
        experiment.run(SMALL, tmp_path / "run")


def test_lost_metrics_are_an_error(whole, tmp_path):
    shutil.copytree(whole[0], tmp_path / "run")
    metrics = tmp_path / "run" / "metrics.jsonl"
    cut = metrics.read_bytes()[:-20]
    metrics.write_bytes(cut)
    with pytest.raises(InputError, match=r"metrics.jsonl lacks the row of step 7"):
        experiment.run(SMALL, tmp_path / "run")
    assert metrics.read_bytes() == cut
    metrics.unlink()
    with pytest.raises(InputError, match=r"metrics.jsonl lacks the row of step 7"):
        experiment.run(SMALL, tmp_path / "run")
    assert not metrics.exists()


def test_lost_checkpoints_are_an_error(whole, tmp_path):
    shutil.copytree(whole[0], tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    before = (tmp_path / "run" / "metrics.jsonl").read_bytes()
    with pytest.raises(InputError, match=r"rows up to step 7, but .* no checkpoint"):
        experiment.run(SMALL, tmp_path / "run")
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == before


def test_settings_that_cannot_be_trained_do_not_claim_the_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(experiment, "dcgan", DCGAN)
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
        experiment.run(SMALL, tmp_path)


def cut_short(data):
    return data[: len(data) // 2]


def changed(data):
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 255]) + data[middle + 1 :]


@pytest.mark.parametrize("damage", [cut_short, changed, lambda data: b""])
def test_a_damaged_checkpoint_is_named_and_the_one_before_serves(
    whole, tmp_path, damage
):
    shutil.copytree(whole[0], tmp_path / "run")
    path = tmp_path / "run" / "checkpoints" / "step_00000007.keras"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(InputError, match="step_00000007.keras cannot be loaded"):
        experiment.run(SMALL, tmp_path / "run")
    path.unlink()
    experiment.run(SMALL, tmp_path / "run")
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
            experiment.run(SMALL, tmp_path)
        assert ended.value.code == 143
        line = (tmp_path / "log.txt").read_text().splitlines()[-1]
        assert "SIGTERM ended the run at step " in line
        assert f"{last}: start again with the same settings" in line
    experiment.run(SMALL, tmp_path)
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


@pytest.mark.parametrize(
    ("owner", "size", "message"),
    [
        (callbacks.SampleGrid, 500, "Cannot write .*samples/step_00000004.png: "),
        (callbacks.MetricsLog, 250, "Cannot write .*metrics.jsonl: "),
        (callbacks.Checkpoints, 20_000, "Cannot write .*step_00000004.keras: "),
    ],
)
def test_no_room_for_a_file_is_one_error_and_harms_no_checkpoint(
    whole, tmp_path, owner, size, message
):
    original = owner.on_epoch_end

    def write(self, epoch, logs=None):
        with room(size) if self.step == 4 else contextlib.nullcontext():
            original(self, epoch, logs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, "on_epoch_end", write)
        with pytest.raises(InputError, match=message):
            experiment.run(SMALL, tmp_path)
    names = sorted(p.name for p in (tmp_path / "checkpoints").iterdir())
    assert names == ["step_00000000.keras", "step_00000002.keras"]
    assert keras.models.load_model(tmp_path / "checkpoints" / names[1]).steps == 2
    experiment.run(SMALL, tmp_path)
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
    experiment.run(SMALL, tmp_path / "run")
    assert not any(path.exists() for path in left)
    assert all(path.exists() for path in kept)
    assert (tmp_path / "run" / ".lock").exists()


def test_a_run_may_be_measured_in_another_way(whole, tmp_path):
    """What an experiment on text needs of the same training."""

    class Brightness(callbacks.Measurement):
        def observe(self, gan, count):
            return gan.generate(count, seed=0, batch_size=self.batch_size)

        def compare(self, observed):
            return float(np.mean(observed))

    class Notes(callbacks.StepCallback):
        def on_epoch_end(self, epoch, logs=None):
            (tmp_path / f"{self.step}.txt").write_text(str(logs["brightness"]))

    data = datasets.load("digits")
    brightness = Brightness(
        "brightness", "mean brightness", every=2, num_samples=50, batch_size=20, last=7
    )
    summary = experiment._train(
        SMALL,
        tmp_path,
        {},
        data,
        experiment.build(SMALL, data.image_shape),
        brightness,
        Notes(),
    )
    assert summary["metric_title"] == "mean brightness"
    values = {row["step"]: row["brightness"] for row in rows(tmp_path)}
    assert summary["best"]["brightness"] == min(values.values())
    for step in (2, 4, 6, 7):
        assert float((tmp_path / f"{step}.txt").read_text()) == values[step]
    # The training is that of any other run.
    losses = [[row.get("d_loss") for row in rows(w)] for w in (tmp_path, whole[0])]
    assert losses[0] == losses[1]


def test_a_loss_that_is_not_a_number_stops_the_run_and_is_not_saved(
    tmp_path, monkeypatch
):
    from tf_ttur.gan import GAN

    original = GAN.train_step

    def poisoned(self, data):
        import tensorflow as tf

        logs = original(self, data)
        bad = tf.where(self._steps >= 3, float("nan"), 0.0)
        return logs | {"g_loss": logs["g_loss"] + bad}

    monkeypatch.setattr(GAN, "train_step", poisoned)
    with pytest.raises(callbacks.Diverged, match="g_loss became nan at step 3"):
        experiment.run(SMALL, tmp_path)
    assert [row["step"] for row in rows(tmp_path)] == [0, 2]
    names = sorted(p.name for p in (tmp_path / "checkpoints").iterdir())
    assert names == ["step_00000000.keras", "step_00000002.keras"]


@pytest.mark.slow
def test_a_killed_run_equals_the_uninterrupted_one(tmp_path, capsys):
    """The programs as they are, on the networks of the preset."""
    flags = ["--kills=2", "--steps=300", "--batch_size=8", f"--workdir={tmp_path}"]
    assert kill_drill.kill_drill(["kill_drill.py", *flags]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == [
        "whole", "kill 1/2", "kill 2/2", "killed", "equal after 2 kills"
    ]  # fmt: skip
    assert [row["step"] for row in rows(tmp_path / "killed")] == [0, 100, 200, 300]


def test_runs_that_differ_are_told_apart(whole, tmp_path):
    other = tmp_path / "run"
    shutil.copytree(whole[0], other)
    assert kill_drill.differences(other, whole[0]) == []
    name = "step_00000006.keras"
    model = keras.models.load_model(other / "checkpoints" / name)
    variable = model.generator_optimizer.variables[-1]
    variable.assign_add(np.full(variable.shape, 1e-6))
    model.save(other / "checkpoints" / name)
    (other / "samples" / "step_00000004.png").unlink()
    found = kill_drill.differences(other, whole[0])
    assert len(found) == 2
    assert found[0].startswith("generator_optimizer/vars/")
    assert found[0].endswith(f" in checkpoints/{name} is not the same")
    assert found[1] == f"samples/step_00000004.png is not in {other}"


def test_settings_can_be_looked_at(capsys):
    assert cli.train(["train.py", "--list_presets"]) == 0
    listed = capsys.readouterr().out
    assert "digits_dcgan_ttur" in listed
    assert "digits_dcgan_orig" in listed
    argv = ["train.py", "--dry_run", "--steps=5", "--dataset=cifar10", "--seed=3"]
    assert cli.train(argv) == 0
    settings = json.loads(capsys.readouterr().out)
    assert settings["steps"] == 5
    assert settings["dataset"] == "cifar10"
    assert settings["image_size"] is None
    assert cli.train(["train.py", "--help"]) == 0
    assert "--discriminator_lr=float" in capsys.readouterr().out


def test_compiled_programs_are_kept_for_the_next_start(tmp_path, monkeypatch):
    monkeypatch.setenv("TTUR_CACHE", str(tmp_path))
    monkeypatch.setenv("TF_XLA_FLAGS", "--tf_xla_min_cluster_size=4")
    assert cli.compilation_cache() is None  # too late: TensorFlow runs already
    monkeypatch.delitem(sys.modules, "tensorflow")
    folder = cli.compilation_cache()
    assert folder.parent == tmp_path / "xla"
    flags = os.environ["TF_XLA_FLAGS"].split()
    assert flags == [
        "--tf_xla_min_cluster_size=4",
        f"--tf_xla_persistent_cache_directory={folder}",
        "--tf_xla_persistent_cache_device_types=CPU",
    ]
    assert cli.compilation_cache() is None  # the user's own choice is left alone
    code = (
        "import tensorflow as tf; "
        "print(tf.function(lambda x: tf.tanh(x) @ x, jit_compile=True)(tf.eye(3)))"
    )
    for _ in range(2):  # the second one reads what the first one wrote
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
        assert len(list(folder.iterdir())) == 1


@pytest.mark.parametrize(
    ("flags", "status", "message"),
    [
        (["--preset=nonsense"], 1, "no preset 'nonsense'"),
        (["--steps=0"], 1, "steps is 0"),
        (["--generator_lr=-1"], 1, "generator_lr is -1.0"),
        (["--nonsense"], 2, "nonsense"),
        (["stray"], 2, "unexpected argument 'stray'"),
        (["--dataset=mnist"], 1, "mnist"),
        (["--dataset=cifar10", "--data_dir=/nowhere"], 1, "cifar10 is not prepared"),
        (["--loss=hinged"], 1, "hinged"),
        (["--seed=99999999999999999999"], 1, "seed is 99999999999999999999"),
        (["--dry_run", "--dataset=mnist"], 1, "Unknown data set 'mnist'"),
        (["--dry_run", "--loss=hinged"], 1, "no loss 'hinged'"),
        (["--dry_run", "--set=steps=5"], 1, "steps has a flag of its own: --steps"),
        (["--set=ema_decay=5"], 1, "ema_decay is 5.0; it must be in [0, 1)"),
        (["--batch_size=5000"], 1, "lower the batch size"),
    ],
)
def test_bad_flags_are_one_line(tmp_path, capsys, flags, status, message):
    assert cli.train(["train.py", f"--workdir={tmp_path}", *flags]) == status
    captured = capsys.readouterr()
    assert captured.out == ""
    line = captured.err.strip().splitlines()[-1]
    assert message in line
    assert "Traceback" not in captured.err


def test_the_two_digits_presets_differ_by_their_rates_only():
    ttur, orig = (presets.get(f"digits_dcgan_{kind}") for kind in ("ttur", "orig"))
    assert orig.discriminator_lr == orig.generator_lr
    assert ttur.discriminator_lr != ttur.generator_lr
    same = {"name": "", "summary": "", "discriminator_lr": 1.0, "generator_lr": 1.0}
    import dataclasses

    assert dataclasses.replace(ttur, **same) == dataclasses.replace(orig, **same)
