"""Convolutions by phases against SciPy's correlations, value by value."""

import numpy as np
import pytest
import rounding
import scipy.signal
import tensorflow as tf

from tf_ttur import phases, xla

pytestmark = pytest.mark.portable

# From 16 channels on, each phase has a convolution of its own.
CHANNELS = [(2, 3), (17, 18)]
SIZES = [(1, 1), (2, 3), (3, 3), (4, 4), (5, 5), (3, 7)]


@pytest.fixture(params=[False, True], ids=["plain", "for XLA"])
def for_xla(request):
    with xla.for_xla(request.param):
        yield


def random(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def correlate(images, kernel):
    """Sums over channels of SciPy's correlations, where the kernel is all inside."""
    return np.stack(
        [
            [
                sum(
                    scipy.signal.correlate2d(image[..., i], kernel[..., i, o], "valid")
                    for i in range(kernel.shape[2])
                )
                for o in range(kernel.shape[3])
            ]
            for image in images
        ]
    ).transpose(0, 2, 3, 1)


def allowed(images, kernel):
    """What two sums of the same products may differ by, in float64.

    An output has as many terms as the kernel has weights for it; the taps that meet one
    pixel may have been added first. None is larger than the largest pixel makes it.
    """
    largest = np.abs(images).max() * np.abs(kernel).sum((0, 1, 2)).max()
    terms = kernel[..., 0].size + 1
    return {"rtol": 0, "atol": 2 * rounding.gamma(terms) * largest}


def padded(images, vertical, horizontal):
    return np.pad(images, [(0, 0), vertical, horizontal, (0, 0)])


def test_the_largest_of_2x2_pixels():
    images = random(2, 4, 6, 3)
    expected = images.reshape(2, 2, 2, 3, 2, 3).max((2, 4))
    np.testing.assert_array_equal(phases.max_pool(images), expected)
    # Of equal pixels the first one gets the gradient, as with TensorFlow's own pooling.
    equal = tf.zeros((1, 2, 4, 1), tf.float64)
    with tf.GradientTape() as tape:
        tape.watch(equal)
        total = tf.reduce_sum(phases.max_pool(equal))
    found = tape.gradient(total, equal)[0, :, :, 0].numpy()
    assert found.tolist() == [[1, 0, 1, 0], [0, 0, 0, 0]]


def test_upsampling_repeats_every_pixel():
    images = random(2, 3, 4, 5)
    expected = images.repeat(2, axis=1).repeat(2, axis=2)
    np.testing.assert_array_equal(phases.upsample(tf.constant(images)), expected)


def test_pooling_takes_the_mean_of_two_by_two_pixels():
    images = random(2, 6, 4, 5)
    expected = images.reshape(2, 3, 2, 2, 2, 5).mean(axis=(2, 4))
    found = phases.mean_pool(tf.constant(images))
    # Sums of four numbers, and a product with a quarter, which is exact.
    atol = 2 * rounding.gamma(4) * np.abs(images).max()
    np.testing.assert_allclose(found, expected, rtol=0, atol=atol)


@pytest.mark.parametrize("size", range(1, 9))
def test_zeros_before_are_those_of_same(size):
    # A kernel of one tap, the first, tells where the first output reads: of the pixels
    # 1, 2, ... it reads 0, a zero, if there is one, and 1 otherwise.
    pixels = np.arange(1.0, 9.0).reshape(1, 8, 1, 1)
    kernel = np.zeros((size, 1, 1, 1))
    kernel[-1] = 1
    first = tf.nn.conv2d(pixels, kernel, 2, "SAME")[0, 0, 0, 0]
    assert phases.zeros_before(size) == size - int(first)


@pytest.mark.usefixtures("for_xla")
@pytest.mark.parametrize(("inputs", "filters"), CHANNELS)
@pytest.mark.parametrize("size", SIZES)
def test_a_stride_of_two_leaves_every_second_output(size, inputs, filters):
    images, kernel = random(2, 6, 8, inputs), random(*size, inputs, filters, seed=1)
    before = [(x - 1) // 2 for x in size]
    found = phases.strided(tf.constant(images), tf.constant(kernel), before)
    around = [(b, x - b) for b, x in zip(before, size, strict=True)]
    expected = correlate(padded(images, *around), kernel)[:, ::2, ::2]
    np.testing.assert_allclose(found, expected[:, :3, :4], **allowed(images, kernel))


@pytest.mark.usefixtures("for_xla")
@pytest.mark.parametrize(("inputs", "filters"), CHANNELS)
@pytest.mark.parametrize("size", [(1, 1), (3, 3), (5, 5), (3, 7)])
def test_merged_taps_convolve_the_upsampled_image(size, inputs, filters):
    images, kernel = random(2, 3, 4, inputs), random(*size, inputs, filters, seed=1)
    found = phases.to_phases(
        tf.constant(images), tf.constant(kernel), phases.merged_taps
    )
    around = [(x // 2, x // 2) for x in size]
    large = images.repeat(2, axis=1).repeat(2, axis=2)
    expected = correlate(padded(large, *around), kernel)
    np.testing.assert_allclose(found, expected, **allowed(images, kernel))


@pytest.mark.usefixtures("for_xla")
@pytest.mark.parametrize(("inputs", "filters"), CHANNELS)
@pytest.mark.parametrize("size", SIZES[1:])
def test_scattered_taps_add_the_kernel_at_every_second_pixel(size, inputs, filters):
    images, kernel = random(2, 3, 4, inputs), random(*size, inputs, filters, seed=1)
    found = phases.to_phases(
        tf.constant(images), tf.constant(kernel), phases.scattered_taps
    )
    rows, columns = size
    canvas = np.zeros((2, 6 + rows, 8 + columns, filters))
    for row in range(3):
        for column in range(4):
            patch = np.einsum("ni,hwio->nhwo", images[:, row, column], kernel)
            window = np.s_[2 * row : 2 * row + rows, 2 * column : 2 * column + columns]
            canvas[:, *window] += patch
    top, left = (max(x - 2, 0) // 2 for x in size)
    expected = canvas[:, top : top + 6, left : left + 8]
    np.testing.assert_allclose(found, expected, **allowed(images, kernel))
