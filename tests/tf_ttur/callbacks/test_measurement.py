"""Distances measured in a plain `fit`: their values, moments, costs and failures."""

import logging
import time

import keras
import numpy as np
import pytest
import rounding
import tensorflow as tf
from toy_gan import SHAPE, Means, distance, images, pixels, reference, small_gan

import fid
import tf_ttur
from fid.files import InputError
from tf_ttur import callbacks
from tf_ttur.runs import WALL_CLOCK, read_rows

pytestmark = pytest.mark.portable


def near(value, one, two):
    """Equal to the distance of the same features, added up in another order."""
    few = rounding.frechet_of(one, two, one.n + two.n)
    return pytest.approx(value, rel=0, abs=few)


def test_the_distance_is_that_of_the_generated_images():
    gan, callback = small_gan(), distance(1, seed=5, quantize="truncate")
    generated = np.floor((gan.generate(40, seed=5) + 1) * 127.5)
    one = fid.compute_statistics(generated.astype("uint8"), Means())
    expected = fid.frechet_distance(one, reference())
    assert callback.measure(gan) == near(expected, one, reference())
    assert callback.key == "frechet_means"


@pytest.mark.parametrize("steps_per_execution", [1, 2, 3])
def test_it_fires_when_a_multiple_is_crossed(steps_per_execution):
    gan = small_gan(steps_per_execution=steps_per_execution)
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
        gan = small_gan()
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
    gan = small_gan()
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


def test_one_program_generates_for_the_try_and_for_every_measurement():
    class Counter(keras.layers.Layer):
        """Counts how often Python runs it, which is once for each program."""

        calls = 0

        def call(self, inputs):
            self.calls += 1
            return inputs

    def calls(*more):
        counter = Counter()
        layers = [keras.Input((2,)), counter, keras.layers.Dense(16, "tanh")]
        generator = keras.Sequential([*layers, keras.layers.Reshape(SHAPE)])
        gan = tf_ttur.GAN(generator, small_gan().discriminator, tf_ttur.NormalLatent(2))
        gan.compile(
            **tf_ttur.ttur(discriminator=1e-3, generator=1e-3),
            loss="wasserstein",
            jit_compile=False,
        )
        for _ in range(2):
            gan.fit(images(), batch_size=16, verbose=0, callbacks=[*more])
        return counter.calls

    measured = tf_ttur.FrechetDistance(
        reference(), every=3, num_samples=1000, extractor=Means()
    )
    assert calls(measured) == calls() + 1
    assert len(measured.values) == 2


def test_the_time_of_measuring_is_reported_separately_and_resumes(
    tmp_path, monkeypatch
):
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

    gan = small_gan()
    waiting = keras.callbacks.LambdaCallback(on_train_batch_end=wait)
    for _ in range(2):  # The second one continues the rows of the first.
        distance = tf_ttur.FrechetDistance(
            reference(), every=2, num_samples=40, extractor=Slow()
        )
        log = callbacks.MetricsLog(tmp_path / "metrics.jsonl", distance)
        gan.fit(
            images(), batch_size=16, verbose=0, callbacks=[distance, waiting, log]
        )  # four steps
        # The try on a batch, twice, is before the first step of a fit.
        assert distance.seconds == 4 * 360.0
    rows = read_rows(tmp_path / "metrics.jsonl")
    assert [row["measure_minutes"] for row in rows] == [12.0, 24.0]
    assert [row["minutes"] for row in rows] == [16.0, 32.0]
    assert set(WALL_CLOCK) < set(rows[0])


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
        small_gan().fit(images(), batch_size=8, verbose=0, callbacks=[callback])
    assert callback.values == []


def test_a_collapsed_generator_has_the_distance_of_a_point_and_is_named(caplog):
    gan, real = small_gan(), reference()
    for weight in gan.generator.weights:
        weight.assign(tf.zeros(weight.shape))  # every image is grey, 127.5
    with caplog.at_level(logging.WARNING, "tf_ttur"):
        value = distance(1).measure(gan)
    # |m - m'|^2 + tr(C + C' - 2 (C C')^(1/2)) with C = 0.
    expected = np.sum((real.mu - 127.5) ** 2) + np.trace(real.sigma)
    # Sums of the real images' features and of three squares of differences.
    largest = np.sum(real.mu**2) + np.trace(real.sigma)
    few = 2 * rounding.likely(real.n + 10) * largest
    assert value == pytest.approx(expected, rel=0, abs=few)
    # TensorFlow may warn that tests make many functions of one name.
    ours = [each for each in caplog.records if each.name.startswith("tf_ttur")]
    (line,) = (each.getMessage() for each in ours)
    assert "All 40 images of the generator at step 0 have the same features" in line


def test_a_reference_may_be_a_file_or_images(tmp_path):
    reference().save(tmp_path / "real.npz")
    values = [
        tf_ttur.FrechetDistance(each, every=1, num_samples=40, extractor=Means())
        .measure(small_gan())
        for each in (tmp_path / "real.npz", pixels(), reference())
    ]  # fmt: skip
    one = fid.compute_statistics(
        (small_gan().generate(40, seed=0) + 1) * 127.5, Means(), value_range="0,255"
    )
    few = rounding.frechet_of(one, reference(), 40 + reference().n)
    assert values == pytest.approx([values[0]] * 3, rel=0, abs=few)


def test_bad_settings_are_refused():
    for wrong, message in (
        ({"every": 0}, "every is 0; it must be >= 1"),
        ({"every": "5"}, "every is '5'; it must be a whole number"),
        ({"num_samples": 1}, "num_samples is 1; it must be >= 2"),
        ({"batch_size": 2.5}, "batch_size is 2.5; it must be a whole number"),
        ({"last": -1}, "last is -1; it must be >= 0"),
    ):
        with pytest.raises(ValueError, match=message):
            tf_ttur.FrechetDistance(
                reference(), **{"every": 1, "extractor": Means()} | wrong
            )
