"""The DCGAN networks against the numbers of the paper's code."""

import keras
import numpy as np
import pytest
import rounding
from parameters import count_trainable

from tf_ttur.networks import dcgan

pytestmark = pytest.mark.portable


@pytest.mark.parametrize(
    ("size", "generator", "discriminator"),
    [(64, 5_135_363, 4_316_545), (32, 4_514_819, 4_310_401)],
)
def test_dcgan_has_the_parameters_of_the_original(size, generator, discriminator):
    assert count_trainable(dcgan.generator(size)) == generator
    assert count_trainable(dcgan.discriminator(size)) == discriminator


@pytest.mark.parametrize(("size", "channels", "width"), [(32, 1, 3), (64, 3, 4)])
def test_dcgan_layer_by_layer(size, channels, width):
    generator = dcgan.generator(size, channels, width, latent_dimension=7)
    discriminator = dcgan.discriminator(size, channels, width)
    start = size // 16
    shapes = [
        layer.output.shape[1:]
        for layer in generator.layers
        if "deconv" in layer.name or layer.name == "reshape"
    ]
    assert shapes == [
        (start, start, 8 * width),
        (2 * start, 2 * start, 4 * width),
        (4 * start, 4 * start, 2 * width),
        (8 * start, 8 * start, width),
        (size, size, channels),
    ]
    convs = [layer for layer in discriminator.layers if "conv" in layer.name]
    assert [layer.filters for layer in convs] == [width * 2**i for i in range(4)]
    kinds = [type(layer).__name__ for layer in discriminator.layers]
    assert kinds == [
        "InputLayer", "Conv2D", "LeakyReLU",
        *["Conv2D", "BatchNormalization", "LeakyReLU"] * 3, "Flatten", "Dense",
    ]  # fmt: skip
    for layer in [*generator.layers, *discriminator.layers]:
        if isinstance(layer, keras.layers.BatchNormalization):
            assert (layer.momentum, layer.epsilon) == (0.9, 1e-5)
        if "conv" in layer.name:
            assert (layer.kernel_size, layer.strides) == ((5, 5), (2, 2))
            assert (layer.padding, layer.use_bias) == ("same", True)
        if isinstance(layer, keras.layers.LeakyReLU):
            assert layer.negative_slope == pytest.approx(0.2)
    latents = np.random.default_rng(0).uniform(-1, 1, (3, 7))
    images = generator(latents)
    assert images.shape == (3, size, size, channels)
    assert np.abs(images).max() <= 1
    assert discriminator(images).shape == (3, 1)


def test_initial_weights_have_the_spread_of_the_original():
    generator, discriminator = dcgan.generator(64), dcgan.discriminator(64)
    linear = generator.get_layer("linear").kernel.numpy()
    deconv = generator.get_layer("deconv_1").kernel.numpy()
    conv = discriminator.get_layer("conv_3").kernel.numpy()
    for kernel in (linear, deconv):
        error = rounding.deviation_of(kernel.size)
        assert kernel.std() == pytest.approx(0.02, rel=error)
        assert error < 0.01
    assert np.abs(deconv).max() > 0.08  # normal, not truncated
    assert np.abs(conv).max() <= 0.04 + 1e-6  # truncated at two deviations
    # Of a normal truncated at 2 deviations, 0.8796 of the deviation is left, to so many
    # digits.
    error = rounding.deviation_of(conv.size) + rounding.printed(4)
    assert conv.std() == pytest.approx(0.8796 * 0.02, rel=error)
    for model in (generator, discriminator):
        for layer in model.layers:
            if getattr(layer, "bias", None) is not None:
                assert not layer.bias.numpy().any()


def test_moving_averages_can_move_four_times_a_step():
    quick = dcgan.generator(32, 1, 2, 3, moving_average_updates=4)
    slow = dcgan.generator(32, 1, 2, 3)
    latents = np.random.default_rng(0).normal(size=(6, 3)).astype("float32")
    quick(latents, training=True)
    for _ in range(4):
        slow(latents, training=True)
    for name in ("norm_0", "norm_3"):
        one, two = (model.get_layer(name) for model in (quick, slow))
        assert np.abs(one.moving_mean.numpy()).max() > 0
        for kind in ("moving_mean", "moving_variance"):
            # Moments of up to 6 maps of 32 x 32, which sums are as large as the spread,
            # and four averages of three operations each.
            few = 2 * rounding.likely(6 * 32 * 32 + 4 * 3, "float32")
            spread = np.sqrt(two.moving_variance.numpy().max())
            found, expected = getattr(one, kind).numpy(), getattr(two, kind).numpy()
            atol = few * spread if kind == "moving_mean" else few * spread**2
            np.testing.assert_allclose(found, expected, rtol=0, atol=atol)
    with pytest.raises(ValueError, match="moving_average_updates is 0"):
        dcgan.generator(32, moving_average_updates=0)


def test_labels_join_the_latents_and_the_last_features():
    size, width, classes, latent = 32, 3, 5, 7
    options = {"image_size": size, "channels": 1, "width": width, "seed": 2}
    plain = dcgan.generator(**options, latent_dimension=latent)
    generator = dcgan.generator(**options, latent_dimension=latent, num_classes=classes)
    judge = dcgan.discriminator(**options, num_classes=classes)
    assert [x.shape for x in generator.inputs] == [(None, latent), (None,)]
    assert [x.dtype for x in judge.inputs] == ["float32", "int32"]
    # Besides the paper's parameters: 32 numbers a class, each with its row of the
    # linear layer, and a vector a class as long as the last features.
    first, features = 2 * 2 * 8 * width, 2 * 2 * 8 * width
    assert count_trainable(generator) - count_trainable(plain) == (
        32 * classes + 32 * first
    )
    unconditional = dcgan.discriminator(**options)
    assert count_trainable(judge) - count_trainable(unconditional) == classes * features
    # The rest starts as without labels.
    for layer in unconditional.layers:
        others = judge.get_layer(layer.name).get_weights()
        for one, other in zip(layer.get_weights(), others, strict=True):
            np.testing.assert_array_equal(one, other)
    for layer in plain.layers[2:]:
        others = generator.get_layer(layer.name).get_weights()
        for one, other in zip(layer.get_weights(), others, strict=True):
            np.testing.assert_array_equal(one, other)


def test_the_projection_is_the_product_of_features_and_the_labels_vector():
    judge = dcgan.discriminator(16, 1, 2, seed=3, num_classes=4)
    random = np.random.default_rng(0)
    vectors = random.normal(
        size=judge.get_layer("label_vectors").get_weights()[0].shape
    )
    judge.get_layer("label_vectors").set_weights([vectors])
    images = random.uniform(-1, 1, (6, 16, 16, 1)).astype("float32")
    labels = np.array([3, 0, 1, 1, 2, 3])
    features = keras.Model(judge.inputs[0], judge.get_layer("flatten").output)(images)
    kernel, bias = judge.get_layer("logits").get_weights()
    wide = np.array(features, "float64")
    expected = wide @ kernel + bias + np.sum(wide * vectors[labels], 1, keepdims=True)
    magnitude = np.abs(wide) @ np.abs(kernel) + np.sum(
        np.abs(wide * vectors[labels]), 1
    )
    bound = 2 * rounding.gamma(2 * wide.shape[1], "float32") * magnitude.max()
    np.testing.assert_allclose(judge([images, labels]), expected, rtol=0, atol=bound)


def test_a_number_of_classes_that_cannot_be_is_refused():
    for build in (dcgan.generator, dcgan.discriminator):
        with pytest.raises(ValueError, match="num_classes is 0"):
            build(16, num_classes=0)
