"""Self-attention against NumPy, and its derivatives against TensorFlow's operations."""

import keras
import numpy as np
import pytest
import rounding
import tensorflow as tf

from tf_ttur import attention, xla

pytestmark = pytest.mark.portable

PARTS = ("queries", "keys", "values", "outputs")


@pytest.fixture
def made():
    layer = attention.SelfAttention(["random_normal"] * 4, dtype="float64")
    images = np.random.default_rng(0).normal(size=(2, 4, 6, 16))
    layer(images)
    layer.gain.assign(0.7)
    for part in PARTS:
        # Some attention to some pixels: weights that are not all alike.
        getattr(layer, part).kernel.assign(
            np.random.default_rng(len(part)).normal(
                size=getattr(layer, part).kernel.shape
            )
        )
    return layer, images


def kernels(layer):
    """What the layer multiplies by; tested in test_spectral.py."""
    return [np.asarray(getattr(layer, part).normalized(False))[0, 0] for part in PARTS]


def test_values_are_those_of_the_formula_pixel_by_pixel(made):
    layer, images = made
    q, k, v, o = kernels(layer)
    assert [x.shape for x in (q, k, v, o)] == [(16, 2), (16, 2), (16, 8), (8, 16)]
    expected = np.empty_like(images)
    for n, image in enumerate(images):
        # The largest of 2x2 pixels, in every channel.
        largest = [
            (image @ w).reshape(2, 2, 3, 2, -1).max((1, 3)).reshape(6, -1)
            for w in (k, v)
        ]
        for row in range(4):
            for column in range(6):
                pixel = image[row, column]
                scores = np.exp(largest[0] @ (pixel @ q))
                mean = (scores / scores.sum()) @ largest[1]
                expected[n, row, column] = pixel + 0.7 * mean @ o
    # Sums over 16 channels, of a product of two of them, 6 places, 8 and 1 more; an
    # error of a score is one of as much in its exponential.
    terms = 16 + 16 + 2 + 6 + 16 + 8 + 2 * rounding.FUNCTION
    largest = np.abs(images).max() ** 2 * 16
    atol = 2 * rounding.gamma(terms) * largest
    np.testing.assert_allclose(layer(images), expected, rtol=0, atol=atol)
    assert np.abs(expected - images).max() > 0.1


def test_it_starts_as_the_identity():
    images = np.random.default_rng(0).normal(size=(2, 4, 4, 8)).astype("float32")
    layer = attention.SelfAttention()
    np.testing.assert_array_equal(layer(images), images)
    assert layer.gain.trainable
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(layer(images) ** 3)
    assert float(tape.gradient(loss, layer.gain.value)) != 0.0


@pytest.mark.parametrize("compiled", [False, True], ids=["plain", "for XLA"])
def test_derivatives_are_those_of_stock_operations(made, compiled):
    layer, images = made
    images = tf.constant(images)
    w = [tf.constant(each) for each in kernels(layer)]

    def stock(x):
        flat = [tf.reshape(x, [2, 24, 16]) @ w[0]]
        for each in w[1:3]:
            pooled = tf.nn.max_pool2d(x @ each, 2, 2, "VALID")
            flat.append(tf.reshape(pooled, [2, 6, each.shape[1]]))
        weights = tf.nn.softmax(tf.einsum("nqc,nkc->nqk", flat[0], flat[1]))
        found = tf.reshape(weights @ flat[2] @ w[3], x.shape)
        return x + 0.7 * found

    def derivatives(function):
        with tf.GradientTape() as outer:
            outer.watch(images)
            with tf.GradientTape() as tape:
                tape.watch(images)
                y = function(images)
                loss = tf.reduce_sum(tf.sin(y))
            gradient = tape.gradient(loss, images)
            penalty = tf.reduce_sum(tf.square(gradient))
        return [y, gradient, outer.gradient(penalty, images)]

    with xla.for_xla(compiled):
        found = derivatives(layer)
    expected = derivatives(stock)
    # Sums over channels and places; those of gradients are over 24 pixels.
    bound = rounding.second_derivatives(16 + 16 + 6 + 8 + 24, expected[0])
    for one, two in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, two, rtol=0, atol=bound * np.abs(two).max())


def test_the_power_iterations_of_all_four_maps_move_in_training(made):
    layer, images = made
    before = [getattr(layer, part).vector.numpy() for part in PARTS]
    layer(images)
    for part, vector in zip(PARTS, before, strict=True):
        np.testing.assert_array_equal(getattr(layer, part).vector, vector)
    layer(images, training=True)
    for part, vector in zip(PARTS, before, strict=True):
        assert not np.allclose(getattr(layer, part).vector, vector)


def test_it_returns_from_its_file(tmp_path):
    model = keras.Sequential(
        [
            keras.Input((4, 4, 16)),
            attention.SelfAttention(
                [keras.initializers.Orthogonal(seed=s) for s in range(4)], epsilon=1e-6
            ),
        ]
    )
    images = np.random.default_rng(0).normal(size=(2, 4, 4, 16)).astype("float32")
    model(images, training=True)
    model.layers[0].gain.assign(0.5)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert again.layers[0].get_config() == model.layers[0].get_config()
    np.testing.assert_array_equal(again(images), model(images))
    for one, two in zip(model.weights, again.weights, strict=True):
        np.testing.assert_array_equal(one, two)


def test_few_channels_are_refused():
    with pytest.raises(ValueError, match="have 7 channels; .* at least 8"):
        attention.SelfAttention()(np.zeros((1, 4, 4, 7), "float32"))


@pytest.mark.parametrize("heads", [1, 2, 3])
def test_pixels_attend_to_each_other_in_each_head(heads):
    q, k, v = np.random.default_rng(0).normal(size=(3, 2, 2, 3, 6))
    found = attention.PixelAttention(heads, dtype="float64")([q, k, v])
    expected = np.empty((2, 6, 6))
    each = 6 // heads
    for n in range(2):
        for head in range(heads):
            part = slice(head * each, (head + 1) * each)
            one, two, three = (x[n].reshape(6, 6)[:, part] for x in (q, k, v))
            for pixel in range(6):
                scores = np.exp(two @ one[pixel] / np.sqrt(each))
                expected[n, pixel, part] = scores / scores.sum() @ three
    # Scores are sums of up to 6 terms, whose magnitude an exponential amplifies.
    magnitude = 6 * np.abs(q).max() * np.abs(k).max()
    atol = rounding.gamma(6 + 6 + 6 + 2 * rounding.FUNCTION) * magnitude
    atol *= 2 * np.abs(v).max()
    np.testing.assert_allclose(found, expected.reshape(2, 2, 3, 6), rtol=0, atol=atol)


def test_heads_have_to_divide_the_channels():
    images = np.zeros((1, 2, 2, 6))
    with pytest.raises(ValueError, match="split evenly into 4 heads"):
        attention.PixelAttention(4)([images] * 3)
