"""DCGAN with 4x4 kernels, against the sizes and the arithmetic of PyTorch's example."""

import keras
import numpy as np
import pytest
import rounding
from parameters import count_trainable

from tf_ttur.networks import dcgan_4x4

pytestmark = pytest.mark.portable


def test_it_has_the_parameters_of_the_example():
    assert count_trainable(dcgan_4x4.generator(64)) == 3_576_704
    assert count_trainable(dcgan_4x4.discriminator(64)) == 2_765_568


def test_initial_weights_have_the_spread_of_the_example():
    for model in (dcgan_4x4.generator(64, width=32), dcgan_4x4.discriminator(64)):
        for layer in model.layers:
            if isinstance(layer, keras.layers.BatchNormalization):
                gamma = layer.gamma.numpy()
                # Deviations of 0.02 about 1.
                assert abs(gamma.mean() - 1) < 5 * 0.02 / np.sqrt(gamma.size)
                assert (layer.momentum, layer.epsilon) == (0.9, 1e-5)
            elif hasattr(layer, "kernel"):
                kernel = layer.kernel.numpy()
                error = rounding.deviation_of(kernel.size)
                assert kernel.std() == pytest.approx(0.02, rel=error)
                assert layer.bias is None


def scattered(x, kernel, stride, padding):
    """A deconvolution as a sum of kernels, each at its pixel's place, cut at the edges.

    `x` is (n, h, w, in), the kernel (k, k, out, in) as Keras has it.
    """
    n, height, width, _ = x.shape
    taps = kernel.shape[0]
    made = np.zeros(
        (n, stride * (height - 1) + taps, stride * (width - 1) + taps, kernel.shape[2])
    )
    for i in range(height):
        for j in range(width):
            patch = np.einsum("nc,abdc->nabd", x[:, i, j], kernel)
            at = stride * i, stride * j
            made[:, at[0] : at[0] + taps, at[1] : at[1] + taps] += patch
    return made[:, padding : made.shape[1] - padding, padding : made.shape[2] - padding]


def gathered(x, kernel, stride, padding):
    """A convolution, pixel by pixel. The kernel is (k, k, in, out)."""
    x = np.pad(x, [(0, 0), (padding, padding), (padding, padding), (0, 0)])
    taps = kernel.shape[0]
    size = (x.shape[1] - taps) // stride + 1
    made = np.zeros((len(x), size, size, kernel.shape[3]))
    for i in range(size):
        for j in range(size):
            at = stride * i, stride * j
            patch = x[:, at[0] : at[0] + taps, at[1] : at[1] + taps]
            made[:, i, j] = np.einsum("nabc,abcd->nd", patch, kernel)
    return made


def normed(x, layer):
    numbers = (layer.moving_mean, layer.moving_variance, layer.gamma, layer.beta)
    mean, variance, gamma, beta = (each.numpy().astype(float) for each in numbers)
    return (x - mean) / np.sqrt(variance + 1e-5) * gamma + beta


def test_its_arithmetic_is_that_of_the_example():
    """Whose first and last layers are convolutions, and products here."""
    size, width, latent = 16, 4, 5
    generator = dcgan_4x4.generator(size, 2, width, latent)
    discriminator = dcgan_4x4.discriminator(size, 2, width)
    z = np.random.default_rng(0).standard_normal((3, latent)).astype("float32")

    def kernel(model, name):
        return model.get_layer(name).kernel.numpy().astype(float)

    first = kernel(generator, "linear").reshape(latent, 4, 4, 2 * width)
    x = scattered(z[:, None, None].astype(float), first.transpose(1, 2, 3, 0), 1, 0)
    x = np.maximum(normed(x, generator.get_layer("norm_0")), 0)
    x = scattered(x, kernel(generator, "deconv_1"), 2, 1)
    x = np.maximum(normed(x, generator.get_layer("norm_1")), 0)
    expected = np.tanh(scattered(x, kernel(generator, "deconv_2"), 2, 1))
    images = generator(z, training=False).numpy()
    assert images.shape == (3, size, size, 2)
    # Sums of 5, and of 4 taps of 8 and of 4 channels; norms and tanh beside them.
    error = rounding.random_sums(5 + 4 * 8 + 4 * 4 + 8 * rounding.FUNCTION)
    assert np.abs(images - expected).max() < 10 * error * np.abs(expected).max()

    def leaky(x):
        return np.where(x > 0, x, 0.2 * x)

    y = leaky(gathered(images.astype(float), kernel(discriminator, "conv_0"), 2, 1))
    y = gathered(y, kernel(discriminator, "conv_1"), 2, 1)
    y = leaky(normed(y, discriminator.get_layer("norm_1")))
    last = kernel(discriminator, "logits").reshape(4, 4, 2 * width, 1)
    logits = gathered(y, last, 1, 0).reshape(3, 1)
    found = discriminator(images, training=False).numpy()
    error = rounding.random_sums(16 * 2 + 16 * 4 + 16 * 8 + 8 * rounding.FUNCTION)
    assert np.abs(found - logits).max() < 10 * error * np.abs(logits).max()


@pytest.mark.parametrize("size", [0, 4, 24, 48])
def test_sizes_that_cannot_be_are_refused(size):
    for make in (dcgan_4x4.generator, dcgan_4x4.discriminator):
        with pytest.raises(ValueError, match=f"image_size is {size};.*power of two"):
            make(size)
