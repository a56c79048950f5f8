"""The callbacks in a plain `fit`, and the digits classifier."""

import json
import logging
import os
import shutil
import signal
import threading
import time

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import fid
import tf_ttur
from fid.files import InputError
from tf_ttur import callbacks, termination
from tf_ttur.callbacks.steps import writes_files

SHAPE = (4, 4, 1)


class Means:
    """An extractor with four features: the means of an image's rows."""

    name, dimension, fingerprint, channels = "means", 4, "0" * 64, 1
    protocol = {"resize": "none", "dtype": "float32"}  # noqa: RUF012

    def __call__(self, images):
        return np.asarray(images, "float32").mean(axis=(2, 3))


def images(n=64):
    return np.random.default_rng(0).uniform(-1, 1, (n, *SHAPE)).astype("float32")


def make(**options):
    generator = keras.Sequential(
        [
            keras.Input((2,)),
            keras.layers.Dense(16, "tanh", kernel_initializer="ones"),
            keras.layers.Reshape(SHAPE),
        ]
    )
    discriminator = keras.Sequential(
        [
            keras.Input(SHAPE),
            keras.layers.Flatten(),
            keras.layers.Dense(1, kernel_initializer="ones"),
        ]
    )
    gan = tf_ttur.GAN(generator, discriminator, tf_ttur.NormalLatent(2))
    gan.compile(
        **tf_ttur.ttur(discriminator=1e-3, generator=1e-3),
        loss="wasserstein",
        jit_compile=False,
        **options,
    )
    return gan


def pixels():
    return (images() + 1) * 127.5


def reference():
    return fid.compute_statistics(pixels(), Means())


def distance(every, **options):
    return tf_ttur.FrechetDistance(
        reference(), every=every, num_samples=40, extractor=Means(), **options
    )


def test_the_distance_is_that_of_the_generated_images():
    gan, callback = make(), distance(1, seed=5, quantize="truncate")
    generated = np.floor((gan.generate(40, seed=5) + 1) * 127.5)
    expected = fid.frechet_distance(
        fid.compute_statistics(generated.astype("uint8"), Means()), reference()
    )
    assert callback.measure(gan) == pytest.approx(expected, rel=1e-9)
    assert callback.key == "frechet_means"


@pytest.mark.parametrize("steps_per_execution", [1, 2, 3])
def test_it_fires_when_a_multiple_is_crossed(steps_per_execution):
    gan = make(steps_per_execution=steps_per_execution)
    callback = distance(every=4, last=11)
    history = gan.fit(
        tf.data.Dataset.from_tensor_slices(images()).repeat().batch(8),
        steps_per_epoch=6,
        epochs=2,
        verbose=0,
        callbacks=[callback],
        shuffle=False,
    ).history
    fired = [step for step, _ in callback.values]
    crossed = {1: [4, 8, 11, 12], 2: [4, 8, 12], 3: [6, 9, 12]}[steps_per_execution]
    assert fired == crossed
    assert len(history["frechet_means"]) == 2
    assert history["frechet_means"][-1] == callback.values[-1][1]


def test_steps_are_right_where_executions_do_not_divide_the_epoch(tmp_path):
    callback = distance(every=12)
    make(steps_per_execution=4).fit(
        images(80),
        batch_size=8,
        epochs=2,
        verbose=0,
        callbacks=[callback, callbacks.MetricsLog(tmp_path / "m.jsonl")],
    )
    # Executions end at steps 4, 8, 10, 14, 18 and 20.
    assert [step for step, _ in callback.values] == [14]
    rows = callbacks.MetricsLog.read(tmp_path / "m.jsonl")
    assert [row["step"] for row in rows] == [10, 20]


def test_a_reference_of_another_extractor_is_refused_at_once():
    ours = reference()
    for facts in ({"extractor": "other"}, {"extractor_sha256": "1" * 64}):
        theirs = fid.Statistics(ours.mu, ours.sigma, provenance=facts)
        with pytest.raises(InputError, match="Compute them again"):
            tf_ttur.FrechetDistance(theirs, every=1, extractor=Means())
    with pytest.raises(InputError, match="have 5 dimensions"):
        tf_ttur.FrechetDistance(
            fid.Statistics(np.zeros(5), np.eye(5)), every=1, extractor=Means()
        )


def test_measuring_does_not_change_training():
    def trained(*more):
        gan = make()
        gan.fit(images(), batch_size=8, verbose=0, shuffle=False, callbacks=[*more])
        return [v.numpy() for v in gan.weights]

    for one, two in zip(trained(), trained(distance(every=2)), strict=True):
        np.testing.assert_array_equal(one, two)


def test_the_2015_graph_alone_gives_fid():
    class Inception(Means):
        name = "inception_2015"

    callback = tf_ttur.FrechetDistance(pixels(), every=1, extractor=Inception())
    assert (callback.key, callback.title) == ("fid", "FID")
    assert distance(1).title == "Fréchet distance (frechet_means)"


def test_what_measuring_costs_is_said_once_from_programs_that_are_used_again(caplog):
    gan = make()
    callback = tf_ttur.FrechetDistance(
        reference(), every=3, num_samples=1000, extractor=Means(), last=8
    )
    with caplog.at_level(logging.INFO, "tf_ttur"):
        for _ in range(2):
            gan.fit(images(), batch_size=16, verbose=0, callbacks=[callback])
    (line,) = [x for x in caplog.messages if "Measuring" in x]
    assert line.startswith("Measuring frechet_means: 1,000 images, about ")
    assert " minutes, every 3 steps; 3 up to step 8, about " in line
    assert [step for step, _ in callback.values] == [3, 6, 8]
    assert gan._generate.experimental_get_tracing_count() == 1


def test_the_time_of_measuring_is_told_apart_and_goes_on(tmp_path, monkeypatch):
    now = 0.0

    class Slow(Means):
        """Takes six minutes by a clock that nothing else moves."""

        def __call__(self, images):
            nonlocal now
            now += 360.0
            return super().__call__(images)

    monkeypatch.setattr(time, "monotonic", lambda: now)

    def wait(batch, logs):
        nonlocal now
        now += 60.0

    gan = make()
    waiting = keras.callbacks.LambdaCallback(on_train_batch_end=wait)
    for _ in range(2):  # the second one goes on with the rows of the first
        distance = tf_ttur.FrechetDistance(
            reference(), every=2, num_samples=40, extractor=Slow()
        )
        log = callbacks.MetricsLog(tmp_path / "metrics.jsonl", distance)
        gan.fit(
            images(), batch_size=16, verbose=0, callbacks=[distance, waiting, log]
        )  # four steps
        # The try on a batch, twice, is before the first step of a fit.
        assert distance.seconds == 4 * 360.0
    rows = callbacks.MetricsLog.read(tmp_path / "metrics.jsonl")
    assert [row["measure_minutes"] for row in rows] == [12.0, 24.0]
    assert [row["minutes"] for row in rows] == [16.0, 32.0]
    assert set(callbacks.MetricsLog.WALL_CLOCK) < set(rows[0])


@pytest.mark.parametrize(
    ("failure", "kind", "message"),
    [
        (
            RuntimeError("the device\nis lost"),
            InputError,
            "RuntimeError: the device is",
        ),
        (KeyError("pool_3"), InputError, "KeyError: 'pool_3'"),
        (OSError(5, "I/O error"), InputError, "OSError: .*I/O error"),
        (float("nan"), callbacks.Diverged, "not finite"),
    ],
)
def test_a_failure_of_any_kind_is_an_error_that_names_the_step(failure, kind, message):
    class Failing(Means):
        calls = 0

        def __call__(self, images):
            self.calls += 1
            features = super().__call__(images)
            if self.calls > 2:  # the try
                if isinstance(failure, Exception):
                    raise failure
                features[3] = failure
            return features

    callback = tf_ttur.FrechetDistance(
        reference(), every=2, num_samples=40, extractor=Failing()
    )
    expected = rf"^frechet_means cannot be measured at step 2: .*{message}"
    with pytest.raises(kind, match=expected):
        make().fit(images(), batch_size=8, verbose=0, callbacks=[callback])
    assert callback.values == []


def test_a_collapsed_generator_has_the_distance_of_a_point_and_is_named(caplog):
    gan, real = make(), reference()
    for weight in gan.generator.weights:
        weight.assign(tf.zeros(weight.shape))  # every image is grey, 127.5
    with caplog.at_level(logging.WARNING, "tf_ttur"):
        value = distance(1).measure(gan)
    # |m - m'|^2 + tr(C + C' - 2 (C C')^(1/2)) with C = 0.
    expected = np.sum((real.mu - 127.5) ** 2) + np.trace(real.sigma)
    assert value == pytest.approx(expected, rel=1e-9)
    # TensorFlow may warn that tests make many functions of one name.
    ours = [each for each in caplog.records if each.name.startswith("tf_ttur")]
    (line,) = (each.getMessage() for each in ours)
    assert "All 40 images of the generator at step 0 have the same features" in line


def test_a_reference_may_be_a_file_or_images(tmp_path):
    reference().save(tmp_path / "real.npz")
    values = [
        tf_ttur.FrechetDistance(each, every=1, num_samples=40, extractor=Means())
        .measure(make())
        for each in (tmp_path / "real.npz", pixels(), reference())
    ]  # fmt: skip
    assert values == pytest.approx([values[0]] * 3, rel=1e-9)


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match="every must be"):
        distance(0)
    with pytest.raises(ValueError, match="num_samples must be"):
        tf_ttur.FrechetDistance(reference(), 1, num_samples=1, extractor=Means())


def test_the_guard_names_the_step_and_the_loss():
    data = images(24)
    data[17] = np.inf
    with pytest.raises(callbacks.Diverged, match=r"d_loss, .* became .* at step 3"):
        make().fit(
            data, batch_size=8, verbose=0, shuffle=False,
            callbacks=[tf_ttur.NaNGuard()],
        )  # fmt: skip


def test_the_guard_names_the_end_of_an_execution_of_several_steps():
    data = images(48)
    data[17] = np.inf
    with pytest.raises(callbacks.Diverged, match=r"d_loss, .* became .* at step 4"):
        make(steps_per_execution=2).fit(
            data, batch_size=8, verbose=0, shuffle=False,
            callbacks=[tf_ttur.NaNGuard()],
        )  # fmt: skip


@pytest.mark.parametrize("kind", [np.array, tf.constant, lambda x: tf.constant(x[0])])
def test_logs_may_be_arrays_and_tensors_of_one_number(tmp_path, kind):
    """As several workers give them."""
    gan = make()
    guard, log = callbacks.NaNGuard(), callbacks.MetricsLog(tmp_path / "m.jsonl")
    progress = callbacks.Progress(10, "fid")
    for callback in (guard, log, progress):
        callback.set_model(gan)
        callback.on_train_begin()
    logs = {"d_loss": kind([0.5]), "g_loss": kind([2.0])}
    for callback in (guard, log, progress):
        callback.on_train_batch_end(0, logs)
        callback.on_epoch_end(0, logs)
    (row,) = callbacks.MetricsLog.read(tmp_path / "m.jsonl")
    assert (row["d_loss"], row["g_loss"]) == (0.5, 2.0)
    with pytest.raises(callbacks.Diverged, match="g_loss became inf at step 0"):
        guard.on_train_batch_end(1, logs | {"g_loss": kind([np.inf])})


def resolver(task_type, task_id, **jobs):
    cluster = tf.train.ClusterSpec(
        {job: [f"localhost:{i}" for i in range(n)] for job, n in jobs.items()}
    )
    return tf.distribute.cluster_resolver.SimpleClusterResolver(
        cluster, task_type=task_type, task_id=task_id
    )


def test_one_process_of_several_writes():
    class Strategy:
        def __init__(self, *task, **jobs):
            self.cluster_resolver = resolver(*task, **jobs)

    assert writes_files(tf.distribute.get_strategy())
    assert writes_files(tf.distribute.MirroredStrategy(["cpu:0"]))
    assert writes_files(Strategy("worker", 0, worker=2))
    assert not writes_files(Strategy("worker", 1, worker=2))
    assert writes_files(Strategy("chief", 0, chief=1, worker=2))
    assert not writes_files(Strategy("worker", 0, chief=1, worker=2))


def test_the_others_measure_and_write_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(callbacks.StepCallback, "_writes", False)
    samples = callbacks.SampleGrid(tmp_path / "samples")
    measured = distance(every=2)
    make().fit(
        images(), batch_size=16, verbose=0,
        callbacks=[
            measured,
            samples,
            callbacks.MetricsLog(tmp_path / "metrics.jsonl"),
            callbacks.TensorBoardLog(tmp_path / "log", samples, config={"a": 1}),
            callbacks.Checkpoints(tmp_path / "c", tmp_path / "best", measured.key),
        ],
    )  # fmt: skip
    assert len(measured.values) == 2
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("where", ["generator", "generator_optimizer"])
def test_weights_that_are_not_finite_are_not_saved(tmp_path, where):
    gan = make()
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
    gan = make()
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


def test_sigterm_waits_for_a_good_moment():
    default = signal.getsignal(signal.SIGTERM)
    with pytest.raises(termination.Terminated), termination.handled():
        termination.check()
        os.kill(os.getpid(), signal.SIGTERM)  # noted
        with pytest.raises(SystemExit) as ended:
            termination.check()
        assert ended.value.code == 143
        with pytest.raises(termination.Terminated), termination.at_once():
            raise AssertionError("not reached")
        noted = True  # and raised at the end
    assert noted
    termination.check()  # forgotten with the run that it ended
    with (
        pytest.raises(termination.Terminated),
        termination.handled(),
        termination.at_once(),
    ):
        os.kill(os.getpid(), signal.SIGTERM)
        raise AssertionError("not reached")
    assert signal.getsignal(signal.SIGTERM) is default


def test_a_handler_of_the_program_and_other_threads_are_left_alone():
    found = []

    def look():
        with termination.handled():
            found.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        look()
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    assert found == [signal.SIG_DFL, signal.SIG_IGN]


def test_rows_of_metrics(tmp_path):
    path = tmp_path / "metrics.jsonl"
    make().fit(
        images(), batch_size=16, epochs=3, verbose=0,
        callbacks=[callbacks.MetricsLog(path)],
    )  # fmt: skip
    rows = callbacks.MetricsLog.read(path)
    assert [row["step"] for row in rows] == [4, 8, 12]
    assert all(row["d_lr"] == pytest.approx(1e-3) for row in rows)
    assert 0 <= rows[0]["minutes"] <= rows[1]["minutes"]
    with open(path, "a") as file:
        file.write('{"step": 16')
    assert callbacks.MetricsLog.read(path) == rows
    assert callbacks.MetricsLog.cut(path, 8) == rows[:2]
    assert len(path.read_text().splitlines()) == 2
    path.write_text("nonsense\n" + path.read_text())
    with pytest.raises(InputError, match="line 1 is not JSON"):
        callbacks.MetricsLog.read(path)


def test_a_value_that_is_not_finite_is_null(tmp_path):
    log = callbacks.MetricsLog(tmp_path / "metrics.jsonl")
    log.write(1, {"fid": float("nan"), "d_loss": 1.5})
    row = json.loads((tmp_path / "metrics.jsonl").read_text())
    assert row["fid"] is None
    assert row["d_loss"] == 1.5


def test_tensorboard_gets_scalars_and_pictures(tmp_path):
    samples = callbacks.SampleGrid(tmp_path / "samples", count=9)
    log = callbacks.TensorBoardLog(tmp_path / "log", samples, config={"a": 1})
    make().fit(images(), batch_size=16, epochs=2, verbose=0, callbacks=[samples, log])
    (path,) = (tmp_path / "log").iterdir()
    tags, pictures = {}, {}
    for event in tf.compat.v1.train.summary_iterator(str(path)):
        for value in event.summary.value:
            tags.setdefault(value.tag, []).append(event.step)
            if value.tag == "samples":
                encoded = tf.make_ndarray(value.tensor)[2]
                pictures[event.step] = tf.io.decode_png(encoded).numpy()
    assert tags["d_loss"] == tags["samples"] == [4, 8]
    assert tags["config"] == [0]
    # The picture is that of the folder, of the same step.
    for step, picture in pictures.items():
        png = tmp_path / "samples" / f"step_{step:08d}.png"
        np.testing.assert_array_equal(picture[..., 0], np.asarray(Image.open(png)))
    assert not np.array_equal(pictures[4], pictures[8])


def test_tensorboard_needs_no_pictures(tmp_path):
    log = callbacks.TensorBoardLog(tmp_path)
    make().fit(images(), batch_size=16, verbose=0, callbacks=[log])
    (path,) = tmp_path.iterdir()
    events = tf.compat.v1.train.summary_iterator(str(path))
    tags = {value.tag for event in events for value in event.summary.value}
    assert "d_loss" in tags
    assert "samples" not in tags


def test_the_digits_classifier_is_made_once_and_guarded(
    classifier, tmp_path, monkeypatch
):
    from sklearn.datasets import load_digits

    from tf_ttur import datasets
    from tf_ttur.networks.classifier import digits_classifier

    digits = np.concatenate(list(datasets.load("digits").images()))
    labels = load_digits().target
    first = classifier
    assert first.accuracy > 0.97
    assert first.extractor.name == "digits"
    again = digits_classifier(digits, labels)
    assert again.extractor.fingerprint == first.extractor.fingerprint
    features = first.extractor(digits)
    assert features.shape == (1797, 64)
    # Every feature says something: the covariance has full rank.
    assert np.linalg.eigvalsh(np.cov(features, rowvar=False))[0] > 1e-4
    # Other digits are near, noise is far.
    half = fid.compute_statistics(digits[::2], first.extractor)
    other = fid.compute_statistics(digits[1::2], first.extractor)
    noise = np.random.default_rng(0).integers(0, 256, digits.shape, dtype=np.uint8)
    far = fid.compute_statistics(noise, first.extractor)
    assert fid.frechet_distance(half, other) * 20 < fid.frechet_distance(half, far)

    # In a copy of the cache, which other tests may be reading.
    shutil.copytree(first.path.parent, tmp_path / "cache")
    monkeypatch.setenv("TTUR_CACHE", str(tmp_path / "cache"))
    facts = tmp_path / "cache" / first.path.with_suffix(".json").name
    before = facts.read_text()
    facts.write_text(before.replace(json.loads(before)["weights_sha256"], "0" * 64))
    with pytest.raises(InputError, match="delete both"):
        digits_classifier(digits, labels)
