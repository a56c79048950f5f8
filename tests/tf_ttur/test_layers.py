"""The fast layers against TensorFlow's own operations, in double precision."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tf_ttur import layers


@pytest.fixture(autouse=True)
def double_precision():
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float64")
    with layers.for_xla():
        yield
    keras.config.set_dtype_policy(before)


def upsampled(x):
    return tf.repeat(tf.repeat(x, 2, 1), 2, 2)


def reference(layer, x):
    """What a layer computes, from TensorFlow's operations and the layer's weights."""
    match layer:
        case layers.Conv2D():
            y = tf.nn.conv2d(x, layer.kernel, layer.strides, "SAME")
        case layers.Conv2DTranspose():
            n, height, width, _ = x.shape
            shape = [n, 2 * height, 2 * width, layer.filters]
            y = tf.nn.conv2d_transpose(x, layer.kernel, shape, 2, "SAME")
        case layers.UpsampleConv2D():
            y = tf.nn.conv2d(upsampled(x), layer.kernel, 1, "SAME")
        case layers.ConvMeanPool2D():
            y = tf.nn.conv2d(x, layer.kernel, 1, "SAME")
            y = tf.nn.avg_pool2d(y, 2, 2, "VALID")
    return y + layer.bias if layer.use_bias else y


def derivatives(function, x, weights):
    """Value, first derivatives, and second ones through the gradient's norm."""
    with tf.GradientTape() as outer:
        outer.watch(x)
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = function(x)
            loss = tf.reduce_sum(tf.sin(y))
        gradients = tape.gradient(loss, [x, *weights])
        penalty = tf.reduce_sum(tf.square(gradients[0]))
    return [y, *gradients, *outer.gradient(penalty, [x, *weights])]


def assert_equal(layer, x):
    layer(x)
    found = derivatives(layer, x, layer.trainable_variables)
    expected = derivatives(lambda x: reference(layer, x), x, layer.trainable_variables)
    assert all(each is not None for each in expected)
    for one, two in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, two, atol=1e-12 * np.abs(two).max())


def images(height, width, channels):
    random = np.random.default_rng(0)
    return tf.constant(random.normal(size=(2, height, width, channels)))


# A kernel larger than the image, and few or many channels, go ways of their own.
SHAPES = [(2, 2, 3, 20), (8, 6, 20, 3), (4, 6, 17, 18), (16, 16, 2, 2)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 7, (3, 5)])
@pytest.mark.parametrize("kind", [layers.Conv2D, layers.Conv2DTranspose])
def test_strided_convolutions(kind, size, shape):
    *image, filters = shape
    layer = kind(
        filters, size, strides=2, padding="same", bias_initializer="random_normal"
    )
    assert_equal(layer, images(*image))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", [1, 3, 5, (3, 1)])
@pytest.mark.parametrize("kind", [layers.UpsampleConv2D, layers.ConvMeanPool2D])
def test_convolutions_with_resampling(kind, size, shape):
    *image, filters = shape
    assert_equal(kind(filters, size, bias_initializer="random_normal"), images(*image))
    assert_equal(kind(filters, size, use_bias=False), images(*image))


@pytest.mark.parametrize("kind", ["Conv2D", "Conv2DTranspose"])
@pytest.mark.parametrize(
    "settings",
    [
        {"strides": 2, "padding": "same"},
        {"strides": 1, "padding": "same"},
        {"strides": 2, "padding": "valid"},
        {"strides": 3, "padding": "same"},
    ],
    ids=str,
)
def test_weights_interchange_with_the_stock_layers(kind, settings, tmp_path):
    x = images(9, 8, 6)  # an odd height
    stock = keras.Sequential(
        [getattr(keras.layers, kind)(5, 5, activation="relu", **settings)]
    )
    ours = keras.Sequential(
        [getattr(layers, kind)(5, 5, activation="relu", **settings)]
    )
    expected = stock(x)
    assert ours(x).shape == expected.shape
    stock.save_weights(tmp_path / "stock.weights.h5")
    ours.load_weights(tmp_path / "stock.weights.h5")
    np.testing.assert_allclose(ours(x), expected, atol=1e-12)
    ours.save(tmp_path / "ours.keras")
    again = keras.models.load_model(tmp_path / "ours.keras")
    assert type(again.layers[0]) is getattr(layers, kind)
    np.testing.assert_allclose(again(x), expected, atol=1e-12)


def test_strides_of_one_size_only():
    for kind in (layers.UpsampleConv2D, layers.ConvMeanPool2D):
        with pytest.raises(ValueError, match="strides is 2"):
            kind(4, 3, strides=2)
        with pytest.raises(ValueError, match="must be odd"):
            kind(4, 4)
        layer = kind(4, 3, use_bias=False, name="x")
        again = kind.from_config(layer.get_config())
        assert again.get_config() == layer.get_config()


def test_resampling_layers_say_their_shape():
    x = keras.KerasTensor((None, 8, 6, 3))
    assert layers.UpsampleConv2D(5, 3)(x).shape == (None, 16, 12, 5)
    assert layers.ConvMeanPool2D(5, 3)(x).shape == (None, 4, 3, 5)


def test_image_normalization_is_group_normalization_of_one_group():
    stock = keras.layers.GroupNormalization(
        groups=1, epsilon=1e-5, gamma_initializer="random_normal"
    )
    ours = layers.ImageNormalization(1e-5)
    x = images(4, 6, 3) * 3 + 1
    stock(x), ours(x)
    ours.set_weights(stock.get_weights())
    found = derivatives(ours, x, ours.trainable_variables)
    expected = derivatives(stock, x, stock.trainable_variables)
    for one, two in zip(found, expected, strict=True):
        if two is not None:
            np.testing.assert_allclose(one, two, atol=1e-11 * np.abs(two).max())


def test_float32_under_xla():
    x = tf.cast(images(8, 8, 17), tf.float32)
    single = {"dtype": "float32"}
    for layer in (
        layers.Conv2D(18, 5, strides=2, padding="same", **single),
        layers.Conv2DTranspose(18, 5, strides=2, padding="same", **single),
        layers.UpsampleConv2D(18, 3, **single),
        layers.ConvMeanPool2D(18, 3, **single),
    ):
        layer(x)
        weights = layer.trainable_variables
        compiled = tf.function(
            lambda x: derivatives(layer, x, weights),  # noqa: B023
            jit_compile=True,
        )
        expected = derivatives(lambda x: reference(layer, x), x, weights)  # noqa: B023
        for one, two in zip(compiled(x), expected, strict=True):
            np.testing.assert_allclose(one, two, atol=1e-5 * np.abs(two).max())
