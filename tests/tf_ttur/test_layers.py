"""The fast layers against TensorFlow's own operations, in double precision."""

import half_precision
import keras
import numpy as np
import pytest
import rounding
import tensorflow as tf

from tf_ttur import layers, xla
from tf_ttur.networks import resnet

pytestmark = pytest.mark.portable


@pytest.fixture(autouse=True)
def double_precision():
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float64")
    with xla.for_xla():
        yield
    keras.config.set_dtype_policy(before)


def upsampled(x):
    return tf.repeat(tf.repeat(x, 2, 1), 2, 2)


def reference(layer, x):
    """What a layer computes, from TensorFlow's operations and the layer's weights."""
    match layer:
        case layers.Conv2D():
            y = tf.nn.conv2d(x, layer.kernel, layer.strides, "SAME")
        # The layers that resample, below, are subclasses.
        case _ if type(layer) is layers.SameConv2D:
            y = tf.nn.conv2d(x, layer.kernel, 1, "SAME")
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


def assert_near(found, expected, terms, magnified=1.0):
    """Values and derivatives are equal, but for rounding.

    `terms` are those of all sums on the way to a derivative. An error is `magnified` by
    what a normalisation divides by.
    """
    relative = magnified * rounding.second_derivatives(terms, expected[0])
    for one, two in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, two, rtol=0, atol=relative * np.abs(two).max())


def assert_equal(layer, x):
    layer(x)
    found = derivatives(layer, x, layer.trainable_variables)
    expected = derivatives(lambda x: reference(layer, x), x, layer.trainable_variables)
    assert all(each is not None for each in expected)
    # An output sums over weights, and a weight's derivative over the output's pixels.
    terms = layer.kernel.shape.num_elements() + tf.size(found[0][..., 0]).numpy()
    assert_near(found, expected, terms)


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


# For a kernel's gradient, images of this size are transposed by a product, and smaller
# ones by a transposition.
LARGE = (64, 64, 17, 3)


@pytest.mark.parametrize("shape", [*SHAPES, LARGE])
@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, (3, 5)])
def test_convolutions_with_stride_1(size, shape):
    *image, filters = shape
    layer = layers.Conv2D(
        filters, size, padding="same", bias_initializer="random_normal"
    )
    assert_equal(layer, images(*image))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", [1, 3, 5, (3, 1)])
@pytest.mark.parametrize(
    "kind", [layers.SameConv2D, layers.UpsampleConv2D, layers.ConvMeanPool2D]
)
def test_convolutions_with_resampling(kind, size, shape):
    *image, filters = shape
    assert_equal(kind(filters, size, bias_initializer="random_normal"), images(*image))
    assert_equal(kind(filters, size, use_bias=False), images(*image))


def operations(layer, x):
    """The names of TensorFlow's operations in a layer's value and gradients."""

    @tf.function
    def traced(x):
        return derivatives(layer, x, layer.trainable_variables)[
            : 2 + len(layer.weights)
        ]

    layer(x)
    graph = traced.get_concrete_function(x).graph
    return {operation.type for operation in graph.get_operations()}


def test_on_other_devices_the_stock_operations_run(monkeypatch):
    same = {"padding": "same"}
    for layer in (
        layers.Conv2D(18, 5, **same),
        layers.Conv2D(18, 5, strides=2, **same),
        layers.Conv2DTranspose(18, 5, strides=2, **same),
        layers.UpsampleConv2D(18, 1),
        layers.UpsampleConv2D(18, 3),
        layers.ConvMeanPool2D(18, 1),
        layers.ConvMeanPool2D(18, 3),
    ):
        x = images(8, 6, 17)
        # A gradient of a kernel by TensorFlow's own operation is slow on a CPU.
        assert "Conv2DBackpropFilter" not in operations(layer, x)
        with monkeypatch.context() as patch:
            devices = {"CPU": ["a CPU"], "GPU": ["a GPU"], "TPU": []}
            patch.setattr(tf.config, "list_physical_devices", devices.get)
            assert "Conv2DBackpropFilter" in operations(layer, x)
            assert_equal(layer, x)


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
    largest = np.abs(x).max() * np.abs(ours.layers[0].kernel.numpy()).sum()
    atol = 2 * rounding.gamma(5 * 5 * 6 + 1) * largest
    np.testing.assert_allclose(ours(x), expected, rtol=0, atol=atol)
    ours.save(tmp_path / "ours.keras")
    again = keras.models.load_model(tmp_path / "ours.keras")
    assert type(again.layers[0]) is getattr(layers, kind)
    np.testing.assert_allclose(again(x), expected, rtol=0, atol=atol)


def test_strides_of_one_size_only():
    for kind in (layers.UpsampleConv2D, layers.ConvMeanPool2D):
        with pytest.raises(ValueError, match="strides is 2"):
            kind(4, 3, strides=2)
        with pytest.raises(ValueError, match="must be odd"):
            kind(4, 4)
        with pytest.raises(ValueError, match="data_format is 'channels_first'"):
            kind(4, 3, data_format="channels_first")
        layer = kind(4, 3, use_bias=False, name="x")
        again = kind.from_config(layer.get_config())
        assert again.get_config() == layer.get_config()


def test_only_even_images_have_means_of_2x2():
    with pytest.raises(ValueError, match=r"\(5, 4\); .* even height and width"):
        layers.ConvMeanPool2D(4, 3)(images(5, 4, 3))


def test_resampling_layers_say_their_shape():
    x = keras.KerasTensor((None, 8, 6, 3))
    assert layers.UpsampleConv2D(5, 3)(x).shape == (None, 16, 12, 5)
    assert layers.ConvMeanPool2D(5, 3)(x).shape == (None, 4, 3, 5)


def cancelled(y, axes):
    """What normalisation magnifies rounding by: it leaves the differences of gradients.

    The gradient by an input is that by its output, cos(y) here, less the mean of these,
    relative to which rounding was. It is so for the first and the second derivatives.
    """
    return 1 / np.var(np.cos(y), axis=tuple(axes)).max()


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
    both = [pair for pair in zip(found, expected, strict=True) if pair[1] is not None]
    assert_near(*zip(*both, strict=True), 4 * 6 * 3, cancelled(expected[0], (1, 2, 3)))


@pytest.mark.parametrize("count", [1, 3, 16])  # of images
def test_batch_normalization_is_keras_own(count):
    random = np.random.default_rng(0)
    x = tf.constant(random.normal(1, 3, (count, 5, 4, 3)))
    settings = {"momentum": 0.7, "epsilon": 1e-4, "gamma_initializer": "random_normal"}
    stock = keras.layers.BatchNormalization(**settings)
    ours = layers.BatchNormalization(**settings)
    stock(x), ours(x)
    ours.set_weights(stock.get_weights())

    def of(layer):
        return derivatives(
            lambda x: layer(x, training=True), x, layer.trainable_variables
        )

    expected, terms = of(stock), count * 5 * 4
    assert_near(of(ours), expected, terms, cancelled(expected[0], (0, 1, 2)))
    # A moving average adds three operations to a mean, or to a mean of squares, and a
    # layer that does not train six to that. What it divides by is above 0.7.
    bound = 2 * rounding.gamma(terms + 10)
    squares = np.square(x).mean((0, 1, 2)).max()
    for one, two in zip(ours.get_weights(), stock.get_weights(), strict=True):
        np.testing.assert_allclose(one, two, rtol=0, atol=bound * squares)
    atol = bound * (np.abs(x).max() + squares) / 0.7
    np.testing.assert_allclose(ours(x), stock(x), rtol=0, atol=atol)  # not training


def exactly_normalized(x, axes, gamma, beta, epsilon):
    """Normalisation from sums alone; `tf.nn.moments` stops a gradient."""
    centred = x - tf.reduce_mean(x, axes, keepdims=True)
    variance = tf.reduce_mean(tf.square(centred), axes, keepdims=True)
    return centred / tf.sqrt(variance + epsilon) * gamma + beta


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize(
    ("layer", "axes"),
    [
        (layers.BatchNormalization(epsilon=1e-2), [0, 1, 2]),
        (resnet.BatchStatistics(1e-2), [0, 1, 2]),
        (layers.ImageNormalization(1e-2), [1, 2, 3]),
    ],
    ids=lambda each: type(each).__name__,
)
def test_second_derivatives_of_normalizations(layer, axes, compiled):
    layer = type(layer).from_config(layer.get_config() | {"dtype": "float64"})
    x = images(4, 3, 3)
    layer(x)
    random = np.random.default_rng(1)
    for variable in (layer.gamma, layer.beta):
        variable.assign(random.normal(1, 0.5, 3))
    # What is before and after it makes the penalty see every part of the derivatives.
    factor = tf.constant(random.normal(size=x.shape[1:]))
    weights = [layer.gamma, layer.beta]
    training = {"training": True} if hasattr(layer, "momentum") else {}

    def exact(x):
        return factor * exactly_normalized(x * factor, axes, *weights, 1e-2)

    with xla.for_xla(compiled):
        found = derivatives(
            lambda x: factor * layer(x * factor, **training), x, weights
        )
    expected = derivatives(exact, x, weights)
    assert_near(found, expected, 2 * 4 * 3 * 3, cancelled(expected[0], axes))


@pytest.mark.parametrize("compiled", [True, False])
def test_conditional_normalization_and_its_second_derivatives(compiled):
    layer = layers.ConditionalBatchNormalization(0.7, 1e-2)
    x, random = images(4, 3, 3), np.random.default_rng(1)
    gains, offsets = (tf.constant(random.normal(size=(2, 3))) for _ in range(2))
    layer([x, gains, offsets])
    factor = tf.constant(random.normal(size=x.shape[1:]))

    def of(function):
        """Values and derivatives, by images, gains and offsets."""
        variables = [tf.Variable(gains), tf.Variable(offsets)]
        return derivatives(
            lambda x: factor * function(x * factor, *variables), x, variables
        )

    def exact(x, gains, offsets):
        scales, shifts = 1 + gains[:, None, None], offsets[:, None, None]
        return exactly_normalized(x, [0, 1, 2], scales, shifts, 1e-2)

    with xla.for_xla(compiled):
        found = of(lambda *inputs: layer(inputs, training=True))
    expected = of(exact)
    terms = 2 * 4 * 3 * 3
    assert_near(found, expected, terms, cancelled(expected[0], (0, 1, 2)))
    # The moving averages start at 0 and 1.
    given = (x * factor).numpy()
    mean, variance = 0.3 * given.mean((0, 1, 2)), 0.7 + 0.3 * given.var((0, 1, 2))
    bound = 2 * rounding.gamma(terms + 10) * (1 + np.square(given).max())
    for one, two in (
        (layer.moving_mean, mean),
        (layer.moving_variance, variance),
        (
            layer([x, gains, offsets]),
            (x - mean) / np.sqrt(variance + 1e-2) * (1 + gains[:, None, None])
            + offsets[:, None, None],
        ),
    ):
        atol = bound * (1 + np.abs(two).max())
        np.testing.assert_allclose(one, two, rtol=0, atol=atol)
    layer.trainable = False
    inputs = [x, gains, offsets]
    np.testing.assert_array_equal(layer(inputs, training=True), layer(inputs))


def test_a_looked_up_row_has_a_gradient_of_the_tables_size():
    ours, stock = layers.Embedding(5, 3), keras.layers.Embedding(5, 3)
    labels = tf.constant([4, 0, 4, 2])
    ours(labels), stock(labels)
    ours.set_weights(stock.get_weights())
    np.testing.assert_array_equal(ours(labels), stock(labels))
    weights = tf.constant(np.random.default_rng(0).normal(size=(4, 3)))
    gradients = []
    for layer in (ours, stock):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(weights * layer(labels))
        gradients.append(tape.gradient(loss, layer.trainable_variables[0].value))
    assert isinstance(gradients[0], tf.Tensor)
    expected = tf.convert_to_tensor(gradients[1])
    # Two of the rows are the same.
    atol = 2 * rounding.gamma(2) * np.abs(weights).max()
    np.testing.assert_allclose(gradients[0], expected, rtol=0, atol=atol)


def test_sums_over_pixels_are_in_float32():
    half_precision.need()
    x = tf.cast(images(8, 8, 3) * 1e4, tf.float16)
    found = layers.GlobalSumPooling2D()(x)
    assert found.dtype == tf.float32
    expected = x.numpy().astype("float64").sum((1, 2))
    assert np.abs(expected).max() > np.finfo("float16").max
    atol = rounding.gamma(64, "float32") * np.abs(x.numpy().astype("f8")).sum((1, 2))
    assert (np.abs(found - expected) <= atol).all()
    assert layers.GlobalSumPooling2D()(keras.KerasTensor((None, 8, 6, 3))).shape == (
        None, 3,
    )  # fmt: skip


def test_bfloat16_is_normalized_in_float32():
    half_precision.need()
    x = tf.cast(images(8, 8, 3) * 3 + 1, tf.bfloat16)
    ours, stock = (
        kind(momentum=0.9, dtype="mixed_bfloat16")
        for kind in (layers.BatchNormalization, keras.layers.BatchNormalization)
    )
    for _ in range(100):
        ours(x, training=True), stock(x, training=True)
    # Moments of 128 numbers in float32, averaged a hundred times by three operations;
    # each average forgets a tenth of what was rounded before. In bfloat16 a hundred
    # averages would be off by up to a unit in the last place, 4e-3.
    rtol = 2 * rounding.gamma(128 + 3 * 10, "float32")
    for one, two in zip(ours.get_weights(), stock.get_weights(), strict=True):
        np.testing.assert_allclose(one, two, rtol=rtol, atol=0)
    assert rtol < rounding.unit("bfloat16") / 100


def test_batch_normalization_of_other_kinds_is_left_to_keras():
    x = images(4, 4, 3)
    for settings in ({"axis": 1}, {"scale": False}, {"center": False}):
        stock = keras.layers.BatchNormalization(**settings)
        ours = layers.BatchNormalization(**settings)
        # It is Keras's own code.
        np.testing.assert_array_equal(ours(x, training=True), stock(x, training=True))
    frozen = layers.BatchNormalization(trainable=False)
    np.testing.assert_array_equal(frozen(x, training=True), frozen(x))


def test_the_number_of_images_may_be_unknown():
    layer = layers.Conv2D(4, 3, padding="same", use_bias=False)
    norm = layers.BatchNormalization()
    x = images(6, 4, 3)
    norm(layer(x))
    weights = [*layer.trainable_variables, *norm.trainable_variables]

    def network(x):
        return norm(layer(x), training=True)

    known = derivatives(network, x, weights)
    traced = tf.function(
        lambda x: derivatives(network, x, weights),
        input_signature=[tf.TensorSpec((None, 6, 4, 3), x.dtype)],
        jit_compile=True,
    )
    terms = 3 * 3 * 3 * 4 + 2 * 6 * 4
    assert_near(traced(x), known, terms, cancelled(known[0], (0, 1, 2)))


def assert_equal_under_xla(layer, x):
    layer(x)
    weights = layer.trainable_variables
    compiled = tf.function(lambda x: derivatives(layer, x, weights), jit_compile=True)
    expected = derivatives(lambda x: reference(layer, x), x, weights)
    # In float32, the likely error of sums over a kernel's weights for an output, and
    # over all pixels for a weight's derivative, each of which is passed twice.
    terms = layer.kernel.shape.num_elements() / layer.kernel.shape[-1]
    terms += tf.size(expected[0][..., 0]).numpy()
    relative = 2 * rounding.likely(2 * terms, "float32")
    for one, two in zip(compiled(x), expected, strict=True):
        np.testing.assert_allclose(one, two, rtol=0, atol=relative * np.abs(two).max())


def test_float32_under_xla():
    x = tf.cast(images(8, 8, 17), tf.float32)
    single = {"dtype": "float32"}
    for layer in (
        layers.Conv2D(18, 5, strides=2, padding="same", **single),
        layers.Conv2DTranspose(18, 5, strides=2, padding="same", **single),
        layers.UpsampleConv2D(18, 3, **single),
        layers.ConvMeanPool2D(18, 3, **single),
        layers.Conv2D(18, 3, padding="same", **single),
    ):
        assert_equal_under_xla(layer, x)


def test_large_images_in_float32_under_xla():
    *image, filters = LARGE
    layer = layers.Conv2D(filters, 3, padding="same", dtype="float32")
    assert_equal_under_xla(layer, tf.cast(images(*image), tf.float32))


# --- Group normalisation, and resampling without a convolution -----------------------


def reference_normalisation(layer, x, vectors=None):
    """Group normalisation from TensorFlow's operations."""
    n, height, width, channels = x.shape
    if vectors is not None and vectors.shape[1] == channels:
        x += vectors[:, None, None, :]
    x = tf.reshape(x, [n, height, width, layer.groups, -1])
    x -= tf.reduce_mean(x, [1, 2, 4], keepdims=True)
    variance = tf.reduce_mean(tf.square(x), [1, 2, 4], keepdims=True)
    x = tf.reshape(x / tf.sqrt(variance + layer.epsilon), [n, height, width, channels])
    x = x * layer.gamma + layer.beta
    if vectors is not None and vectors.shape[1] == 2 * channels:
        gains, offsets = tf.split(vectors[:, None, None, :], 2, -1)
        x = x * (1 + gains) + offsets
    return x * tf.sigmoid(x) if layer.silu else x


@pytest.mark.parametrize("silu", [False, True])
@pytest.mark.parametrize("told", [0, 1, 2])
@pytest.mark.parametrize(
    ("shape", "groups"), [((4, 6, 6), 3), ((1, 3, 5), 1), ((8, 8, 4), 2)]
)
@pytest.mark.parametrize("compiled", [False, True])
def test_group_normalisation(shape, groups, told, silu, compiled):
    x, channels = images(*shape), shape[-1]
    random = np.random.default_rng(1)
    layer = layers.GroupNormalization(groups, 1e-3, silu)
    given = [x + 2.0]
    if told:
        given.append(tf.constant(random.normal(size=(2, told * channels))))
    layer(given if told else given[0])
    layer.gamma.assign(random.normal(size=channels))
    layer.beta.assign(random.normal(size=channels))

    def derivatives_of(function):
        with tf.GradientTape() as outer:
            outer.watch(given)
            with tf.GradientTape() as tape:
                tape.watch(given)
                y = function(*given)
                loss = tf.reduce_sum(tf.sin(y))
            sources = [*given, *layer.trainable_variables]
            gradients = tape.gradient(loss, sources)
            penalty = tf.reduce_sum(tf.square(gradients[0]))
        return [y, *gradients, *outer.gradient(penalty, sources)]

    with xla.for_xla(compiled):
        found = derivatives_of(lambda *x: layer([*x] if told else x[0]))
    expected = derivatives_of(lambda *x: reference_normalisation(layer, *x))
    deviation = tf.math.reduce_std(given[0]).numpy()
    assert_near(found, expected, 20 * x.shape.num_elements(), 1 + 3 / deviation)


def test_group_normalisation_has_the_weights_and_values_of_keras():
    x = images(4, 6, 12)
    ours = layers.GroupNormalization(4, 1e-5)
    keras_own = keras.layers.GroupNormalization(4, epsilon=1e-5)
    found, expected = ours(x), keras_own(x)
    assert [(v.name, v.shape) for v in ours.weights] == [
        (v.name, v.shape) for v in keras_own.weights
    ]
    atol = 4 * rounding.gamma(4 * 6 * 3) * np.abs(expected).max()
    np.testing.assert_allclose(found, expected, rtol=0, atol=atol)


def test_group_normalisation_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match="split evenly into 4 groups"):
        layers.GroupNormalization(4)(images(2, 2, 6))
    with pytest.raises(ValueError, match="they need 6, which are added, or 12"):
        layers.GroupNormalization(3)([images(2, 2, 6), tf.zeros([2, 5])])


def test_resampling_repeats_pixels_and_takes_means():
    x = images(4, 6, 3)
    up, down = layers.Upsample2D(), layers.MeanPool2D()
    np.testing.assert_array_equal(up(x), upsampled(x))
    expected = np.asarray(x).reshape(2, 2, 2, 3, 2, 3).mean((2, 4))
    atol = 2 * rounding.gamma(4) * np.abs(x).max()
    np.testing.assert_allclose(down(x), expected, rtol=0, atol=atol)
    assert up.compute_output_shape((None, 4, 6, 3)) == (None, 8, 12, 3)
    assert down.compute_output_shape((None, 4, 6, 3)) == (None, 2, 3, 3)
