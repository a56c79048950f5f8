"""The forms for XLA against TensorFlow's own operations and closed forms."""

import math

import numpy as np
import pytest
import rounding
import tensorflow as tf

from tf_ttur import xla

pytestmark = pytest.mark.portable


def random(*shape, seed=0):
    return tf.constant(np.random.default_rng(seed).normal(size=shape))


def derivatives(function, *arguments):
    """Value, first derivatives, and second ones through the gradients' norm."""
    with tf.GradientTape() as outer:
        outer.watch(arguments)
        with tf.GradientTape() as tape:
            tape.watch(arguments)
            value = function(*arguments)
            total = tf.reduce_sum(tf.sin(value))
        gradients = tape.gradient(total, arguments)
        penalty = tf.add_n([tf.reduce_sum(tf.square(g)) for g in gradients])
    return [value, *gradients, *outer.gradient(penalty, arguments)]


def test_what_is_traced_knows_whether_xla_compiles_it(monkeypatch):
    assert not xla.rewrites()
    with xla.for_xla():
        assert xla.rewrites()
        with xla.for_xla(False):
            assert not xla.rewrites()
        assert xla.rewrites()
    with pytest.raises(KeyError), xla.for_xla():
        raise KeyError
    assert not xla.rewrites()


@pytest.mark.parametrize("other", ["GPU", "TPU"])
def test_a_machine_with_another_device_is_left_as_it_is(other, monkeypatch):
    assert xla.on_cpu()
    devices = {"CPU": ["a CPU"], other: ["a device"]}
    monkeypatch.setattr(
        tf.config, "list_physical_devices", lambda kind: devices.get(kind, [])
    )
    assert not xla.on_cpu()
    with xla.for_xla():
        assert not xla.rewrites()


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ("float16", "float32"),
        ("bfloat16", "float32"),
        ("float32", "float32"),
        ("float64", "float64"),
    ],
)
def test_values_are_made_float32_at_least(given, found):
    values = tf.constant([0.5, -2.0], given)
    assert xla.precise(values).dtype == found
    np.testing.assert_array_equal(xla.precise(values), [0.5, -2.0])


# Images of one pixel, kernels larger than the image, and an image so large that its
# transposition is a product.
CONVOLUTIONS = [
    ((3, 5, 4, 2), (3, 3, 2, 4), (1, 1), (1, 1)),
    ((3, 5, 4, 2), (2, 3, 2, 4), (0, 1), (2, 0)),
    ((3, 5, 4, 2), (1, 1, 2, 4), (0, 0), (0, 0)),
    ((3, 1, 1, 2), (3, 3, 2, 4), (1, 1), (1, 1)),
    ((3, 2, 6, 2), (5, 5, 2, 4), (2, 2), (2, 2)),
    ((3, 5, 4, 2), (3, 3, 2, 4), (0, 0), (0, 0)),
    ((4, 64, 64, 8), (3, 3, 8, 2), (1, 1), (1, 0)),
]


@pytest.mark.parametrize(("image", "kernel", "vertical", "horizontal"), CONVOLUTIONS)
@pytest.mark.parametrize("compiled", [False, True])
def test_convolutions_are_tensorflows(image, kernel, vertical, horizontal, compiled):
    images, kernel = random(*image), random(*kernel, seed=1)
    paddings = [(0, 0), vertical, horizontal, (0, 0)]

    def stock(images, kernel):
        return tf.nn.conv2d(images, kernel, 1, paddings)

    def ours(images, kernel):
        with xla.for_xla(compiled):
            return xla.convolve(images, kernel, vertical, horizontal)

    found = derivatives(ours, images, kernel)
    # Sums over the kernel's weights, and for its gradient over pixels.
    terms = tf.size(kernel).numpy() + tf.size(images[..., 0]).numpy()
    relative = rounding.second_derivatives(terms, found[0])
    for one, two in zip(found, derivatives(stock, images, kernel), strict=True):
        np.testing.assert_allclose(one, two, rtol=0, atol=relative * np.abs(two).max())


def test_a_large_array_is_transposed_by_a_product_with_the_unit_matrix():
    def products(count):
        @tf.function
        def gradient(images, kernel):
            with xla.for_xla(), tf.GradientTape() as tape:
                tape.watch(kernel)
                total = tf.reduce_sum(xla.convolve(images, kernel, (1, 1), (1, 1)))
            return tape.gradient(total, kernel)

        graph = gradient.get_concrete_function(
            tf.TensorSpec((count, 64, 64, 8)), tf.TensorSpec((3, 3, 8, 2))
        ).graph
        return sum("MatMul" in each.type for each in graph.get_operations())

    assert products(4) == 1  # 131,072 numbers
    assert products(3) == 0
    assert products(129) == 0  # So many images make it dear.


@pytest.mark.parametrize("compiled", [False, True])
def test_every_pixel_gets_the_values_of_its_channels(compiled):
    values, images = random(3), random(2, 4, 5, 3)
    with xla.for_xla(compiled):
        found = xla.spread(values, images)
    expected = np.broadcast_to(values, images.shape)
    np.testing.assert_array_equal(found + tf.zeros_like(images), expected)
    # The sum over pixels is its adjoint: <spread(v), x> = <v, sum_pixels(x)>.
    with xla.for_xla(compiled):
        total = xla.sum_pixels(images)
    # Sums of the same 120 products, by pixels first or by channels first.
    products = (values * images).numpy()
    atol = rounding.of_sum(products, further=1) * 2
    assert float(tf.reduce_sum(found * images)) == pytest.approx(
        math.fsum((values * total).numpy()), rel=0, abs=atol
    )


def test_a_gradient_may_be_taken_outside_of_for_xla():
    x = tf.constant(np.random.default_rng(0).normal(size=(4, 6, 6, 3)))
    v = tf.ones(3, x.dtype)
    with tf.GradientTape() as tape:
        tape.watch([x, v])
        with xla.for_xla():
            y = xla.sum_pixels(xla.spread(v, x) * x)
    with xla.for_xla(False):
        by_x, by_v = tape.gradient(y, [x, v])
    np.testing.assert_array_equal(by_x, tf.ones_like(x))
    atol = 2 * rounding.of_sum(x, (0, 1, 2)).max()
    np.testing.assert_allclose(by_v, np.sum(x, (0, 1, 2)), rtol=0, atol=atol)


@pytest.fixture
def for_xla():
    with xla.for_xla():
        yield


@pytest.mark.usefixtures("for_xla")
def test_sums_in_float16_are_exact_beyond_its_precision():
    # 4,096 ones sum to 4,096; added one by one in float16 they stay at 2,048.
    x = tf.ones((4, 32, 32, 2), tf.float16)
    for compiled in (False, True):
        total = tf.function(xla.sum_pixels, jit_compile=compiled)(x)
        assert total.dtype == "float16"
        np.testing.assert_array_equal(total, [4096, 4096])


@pytest.mark.usefixtures("for_xla")
@pytest.mark.parametrize("shape", [(1, 1, 1, 3), (3, 5, 7, 2), (32, 2), (2, 48, 3)])
def test_sums_over_pixels_and_their_adjoint(shape):
    rng = np.random.default_rng(0)
    x, v = rng.normal(size=shape), rng.normal(size=shape[-1])
    x, v = tf.constant(x), tf.constant(v)
    axes = tuple(range(len(shape) - 1))
    with tf.GradientTape() as tape:
        tape.watch([x, v])
        total = xla.sum_pixels(x * x)
        product = tf.reduce_sum(tf.sin(xla.spread(v, x) * x)) + tf.reduce_sum(total * v)
    by_x, by_v = tape.gradient(product, [x, v])
    x, v = x.numpy(), v.numpy()
    cosine = np.cos(v * x)
    # A cosine's error is that of the function and of its argument.
    few = rounding.FUNCTION + 5
    largest = np.abs(v).max() * (1 + 2 * np.abs(x).max()) * (1 + np.abs(v * x).max())
    atol = 2 * rounding.gamma(few) * largest
    np.testing.assert_allclose(by_x, cosine * v + 2 * x * v, rtol=0, atol=atol)
    squares = np.square(x).sum(axes)
    terms = x[..., 0].size
    rtol = 2 * rounding.gamma(terms + 1)
    np.testing.assert_allclose(total, squares, rtol=rtol, atol=0)
    expected = (cosine * x).sum(axes) + squares
    sizes = np.abs(x) * (1 + np.abs(v * x)) + np.square(x)
    atol = 2 * rounding.of_sum(sizes, axes, further=few).max()
    np.testing.assert_allclose(by_v, expected, rtol=0, atol=atol)


def test_sums_of_each_image_are_the_same_apart():
    images = tf.constant(np.random.default_rng(0).normal(size=(3, 4, 5, 6)))
    expected = np.asarray(images).sum((1, 2))
    atol = 2 * rounding.gamma(20) * np.abs(images).sum((1, 2)).max()
    for apart in (False, True):
        found = xla.sum_each(images, apart)
        np.testing.assert_allclose(found, expected, rtol=0, atol=atol)
