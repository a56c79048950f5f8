"""Scores in a plain `fit`: their values, labels, times and failures."""

import math
import statistics

import keras
import numpy as np
import pytest
import tensorflow as tf
from toy_gan import images, small_gan

import tf_ttur
from fid.files import InputError
from tf_ttur import callbacks
from tf_ttur.distillation.diffusion import Diffusion, Sampling
from tf_ttur.runs import read_rows


def brightness(images, labels):
    return images.mean((1, 2, 3))


def extent(images, labels):
    return images.max() - images.min()


def scores(every=4, **options):
    functions = {"brightness": brightness, "extent": extent}
    return tf_ttur.Scores(functions, every, **{"num_samples": 10, "seed": 3} | options)


def fit(gan, *callbacks, steps=6, epochs=2):
    data = tf.data.Dataset.from_tensor_slices(images()).repeat().batch(8)
    return gan.fit(
        data,
        steps_per_epoch=steps,
        epochs=epochs,
        verbose=0,
        callbacks=[*callbacks],
        shuffle=False,
    ).history


def test_the_values_are_those_of_generated_images_by_hand():
    gan, callback = small_gan(), scores(batch_size=4)
    found = callback.measure(gan)
    each = [float(x.astype("f8").mean()) for x in gan.generate(10, seed=3)]
    # A mean of 16 pixels in [-1, 1] in float32, and in float64.
    near = {"rel": 0, "abs": 2e-6}
    assert found["brightness"] == pytest.approx(statistics.fmean(each), **near)
    error = statistics.stdev(each) / math.sqrt(10)
    assert found["brightness_standard_error"] == pytest.approx(error, **near)
    assert found["extent"] == float(np.ptp(gan.generate(10, seed=3)))
    assert "extent_standard_error" not in found


def test_rows_of_metrics_hold_the_values_of_their_own_epoch(tmp_path):
    gan, callback = small_gan(), scores(every=4, last=11)
    log = callbacks.MetricsLog(tmp_path / "metrics.jsonl")
    history = fit(gan, callback, log, steps=3, epochs=4)
    assert [step for step, _ in callback.values] == [4, 8, 11, 12]
    rows = read_rows(tmp_path / "metrics.jsonl")
    assert [row["step"] for row in rows] == [3, 6, 9, 12]
    # Nothing was measured in the first epoch, so its row says nothing of it.
    assert "brightness" not in rows[0]
    for row, (_, values) in zip(rows[1:], callback.values[:2] + callback.values[3:],
                                strict=True):  # fmt: skip
        assert {name: row[name] for name in values} == values
    assert callback.values[-1][1] == callback.measure(gan)
    assert history["extent"][-1] == callback.values[-1][1]["extent"]


@pytest.mark.parametrize("steps_per_execution", [2, 3])
def test_it_fires_when_a_multiple_is_crossed(steps_per_execution):
    callback = scores(every=4)
    fit(small_gan(steps_per_execution=steps_per_execution), callback)
    fired = [step for step, _ in callback.values]
    assert fired == {2: [4, 8, 12], 3: [6, 9, 12]}[steps_per_execution]


def test_training_with_it_is_training_without_it_bit_for_bit():
    def trained(*more):
        gan = small_gan()
        history = fit(gan, *more)
        return [v.numpy() for v in gan.weights], history["d_loss"]

    (one, losses), (two, others) = trained(), trained(scores(every=2))
    assert losses == others
    for a, b in zip(one, two, strict=True):
        np.testing.assert_array_equal(a, b)


def diffusion(num_classes):
    inputs = [keras.Input((4, 4, 1)), keras.Input(()), keras.Input((), dtype="int32")]
    told = keras.layers.Embedding(num_classes + 1, 1)(inputs[2])
    x = keras.layers.Conv2D(1, 3, padding="same")(inputs[0])
    x += keras.layers.Reshape((1, 1, 1))(told)
    x += 0 * keras.layers.Reshape((1, 1, 1))(inputs[1])
    return Diffusion(
        keras.Model(inputs, x), num_classes=num_classes, sampling=Sampling(steps=2)
    )


def test_labels_take_turns_and_images_are_made_of_them():
    given = []

    def keep(images, labels):
        given.append((images, labels))
        return 0.0

    model = diffusion(3)
    callback = tf_ttur.Scores({"kept": keep}, every=1, num_samples=7)
    assert callback.measure(model) == {"kept": 0.0}
    ((made, labels),) = given
    assert labels.tolist() == [0, 1, 2, 0, 1, 2, 0]
    assert labels.dtype == np.int32
    np.testing.assert_array_equal(made, model.generate(7, seed=0, labels=labels))
    tf_ttur.Scores({"kept": keep}, every=1, num_samples=7).measure(small_gan())
    assert given[-1][1] is None


def raising(images, labels):
    raise KeyError("no\nsuch")


def refusing(images, labels):
    raise InputError("There are no labels.")


@pytest.mark.parametrize(
    ("function", "kind", "message"),
    [
        (lambda x, y: np.full(len(x), np.nan), callbacks.Diverged, "10 of its 10"),
        (lambda x, y: math.inf, callbacks.Diverged, "1 of its 1 values are NaN or inf"),
        (refusing, callbacks.Diverged, "There are no labels"),
        (raising, InputError, r"KeyError: 'no\\nsuch'"),
        (lambda x, y: x.mean((1, 2)), InputError, r"float32 of shape \(10, 1\)"),
        (lambda x, y: "good", InputError, r"of shape \(\) for 10 images"),
    ],
)
def test_what_cannot_be_measured_names_the_function_and_the_step(
    function, kind, message
):
    callback = tf_ttur.Scores(
        {"good": brightness, "bad": function}, every=2, num_samples=10
    )
    expected = f"^bad cannot be measured at step 2: .*{message}"
    with pytest.raises(InputError, match=expected) as caught:
        fit(small_gan(), callback)
    assert type(caught.value) is kind
    assert "\n" not in str(caught.value)


def test_images_that_are_not_finite_are_no_fault_of_a_function():
    gan = small_gan()
    gan.generator.set_weights([x * np.nan for x in gan.generator.get_weights()])
    with pytest.raises(callbacks.Diverged, match="At step 0 the images for brightness"):
        scores().measure(gan)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"every": 0}, "every is 0"),
        ({"num_samples": 1}, "num_samples is 1"),
        ({"seed": -1}, "seed is -1"),
        ({"last": 1.5}, "last is 1.5"),
    ],
)
def test_arguments_that_cannot_be_are_refused(changed, message):
    with pytest.raises(InputError, match=message):
        scores(**changed)


def test_two_names_that_are_one_in_the_logs_are_refused():
    both = {"x": brightness, "x_standard_error": brightness}
    with pytest.raises(InputError, match="Rename one of the two"):
        tf_ttur.Scores(both, every=1, num_samples=2)
