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


def test_its_arithmetic_is_that_of_torch():
    """The first and last layers, which are convolutions there and products here."""
    torch = pytest.importorskip("torch")
    size, width, latent = 16, 4, 5
    generator = dcgan_4x4.generator(size, 2, width, latent)
    discriminator = dcgan_4x4.discriminator(size, 2, width)
    random = np.random.default_rng(0)
    z = random.standard_normal((3, latent)).astype("float32")
    weights = {x.name: x for x in (*generator.layers, *discriminator.layers)}

    def tensor(array):
        return torch.tensor(np.asarray(array, "float64"))

    def deconv(x, kernel, stride, padding):
        # (height, width, out, in) here, (in, out, height, width) there.
        kernel = tensor(kernel.transpose(3, 2, 0, 1))
        return torch.nn.functional.conv_transpose2d(
            x, kernel, stride=stride, padding=padding
        )

    def norm(x, layer):
        return torch.nn.functional.batch_norm(
            x, tensor(layer.moving_mean), tensor(layer.moving_variance),
            tensor(layer.gamma), tensor(layer.beta), eps=1e-5,
        )  # fmt: skip

    filters = 2 * width
    first = weights["linear"].kernel.numpy().reshape(latent, 4, 4, filters)
    x = deconv(tensor(z)[:, :, None, None], first.transpose(1, 2, 3, 0), 1, 0)
    x = torch.relu(norm(x, weights["norm_0"]))
    x = deconv(x, weights["deconv_1"].kernel.numpy(), 2, 1)
    x = torch.tanh(deconv(torch.relu(norm(x, generator.get_layer("norm_1"))),
                          weights["deconv_2"].kernel.numpy(), 2, 1))  # fmt: skip
    images = generator(z, training=False).numpy()
    expected = x.numpy().transpose(0, 2, 3, 1)
    # Sums of 5, and of 4 taps of 8 and of 4 channels; norms and tanh beside them.
    error = rounding.random_sums(5 + 4 * 8 + 4 * 4 + 8 * rounding.FUNCTION)
    assert np.abs(images - expected).max() < error * np.abs(expected).max() * 10
    assert images.shape == (3, size, size, 2)

    def conv(x, kernel, stride, padding):
        kernel = tensor(kernel.transpose(3, 2, 0, 1))
        return torch.nn.functional.conv2d(x, kernel, stride=stride, padding=padding)

    def leaky(x):
        return torch.nn.functional.leaky_relu(x, 0.2)

    y = leaky(conv(x, discriminator.get_layer("conv_0").kernel.numpy(), 2, 1))
    y = conv(y, discriminator.get_layer("conv_1").kernel.numpy(), 2, 1)
    y = leaky(norm(y, discriminator.get_layer("norm_1")))
    last = discriminator.get_layer("logits").kernel.numpy().reshape(4, 4, 2 * width, 1)
    logits = conv(y, last, 1, 0).numpy().reshape(3, 1)
    found = discriminator(images, training=False).numpy()
    error = rounding.random_sums(16 * 2 + 16 * 4 + 16 * 8 + 8 * rounding.FUNCTION)
    assert np.abs(found - logits).max() < 10 * error * np.abs(logits).max()


@pytest.mark.parametrize("size", [0, 4, 24, 48])
def test_sizes_that_cannot_be_are_refused(size):
    for make in (dcgan_4x4.generator, dcgan_4x4.discriminator):
        with pytest.raises(ValueError, match=f"image_size is {size};.*power of two"):
            make(size)
