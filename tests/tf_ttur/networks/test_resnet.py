"""The residual networks of WGAN-GP against the numbers of the paper's code."""

import keras
import numpy as np
import pytest
import rounding
import tensorflow as tf
from parameters import count_trainable

import tf_ttur
from tf_ttur.networks import resnet

pytestmark = pytest.mark.portable


@pytest.mark.parametrize(
    ("size", "generator", "discriminator"),
    # The original's discriminator has 4 x 4 x 8 d weights behind the last block for any
    # size; with d = 32 the map is 2 x 2, and 3,072 of them belong to other images.
    [(64, 8_540_483, 7_491_841), (32, 2_005_155, 1_877_121 - 3_072)],
)
def test_resnets_have_the_parameters_of_the_original(size, generator, discriminator):
    assert count_trainable(resnet.generator(size)) == generator
    assert count_trainable(resnet.discriminator(size)) == discriminator


def test_four_images_share_a_score_as_in_the_original():
    discriminator = resnet.discriminator(32, pack=4)
    assert count_trainable(discriminator) == 1_877_121
    small = resnet.discriminator(32, 1, 2, pack=4)
    images = np.random.default_rng(0).normal(size=(8, 32, 32, 1)).astype("float32")
    features = keras.Model(small.input, small.get_layer("flatten").output)(images)
    scores = small.get_layer("scores")
    # The original's reshape to (-1, 4 * 4 * 8 * width), of maps of 2 x 2.
    rows = np.reshape(features, (-1, 4 * 4 * 8 * 2))
    expected = rows @ scores.kernel.numpy() + scores.bias.numpy()
    assert expected.shape == (2, 1)
    magnitude = (np.abs(rows) @ np.abs(scores.kernel.numpy())).max()
    atol = 2 * rounding.gamma(rows.shape[1] + 1, "float32") * magnitude
    np.testing.assert_allclose(small(images), expected, rtol=0, atol=atol)
    other = images.copy()
    other[5] = 0  # moves the second score only
    moved = small(other).numpy() != small(images).numpy()
    assert moved.ravel().tolist() == [False, True]
    with pytest.raises(ValueError, match="cannot be packed by 4"):
        small(images[:6])
    with pytest.raises(ValueError, match="pack 0"):
        resnet.discriminator(32, 1, 2, pack=0)


def test_a_packed_discriminator_has_a_penalty_and_returns_from_its_file(tmp_path):
    gan = tf_ttur.GAN(
        resnet.generator(16, 1, 2, 4, batch_statistics=True),
        resnet.discriminator(16, 1, 2, pack=4),
        tf_ttur.NormalLatent(4),
    )
    gan.compile(
        **tf_ttur.ttur(discriminator=3e-4, generator=1e-4, beta_1=0.0, beta_2=0.9),
        loss="wasserstein",
        gradient_penalty=10.0,
        jit_compile=False,
    )
    real = np.random.default_rng(0).uniform(-1, 1, (8, 16, 16, 1)).astype("float32")
    logs = gan.discriminator_loss(tf.constant(real), tf.zeros_like(real))
    assert np.isfinite(float(logs["d_loss"]))
    assert float(logs["gradient_penalty"]) > 0
    gan.save(tmp_path / "gan.keras")
    loaded = keras.models.load_model(tmp_path / "gan.keras")
    np.testing.assert_array_equal(gan.generate(4, seed=0), loaded.generate(4, seed=0))


def test_batch_statistics_serve_in_training_and_after():
    generator = resnet.generator(16, 1, 2, 4, batch_statistics=True)
    assert count_trainable(generator) == count_trainable(resnet.generator(16, 1, 2, 4))
    assert not generator.non_trainable_variables
    latents = np.random.default_rng(0).normal(size=(6, 4)).astype("float32")
    sampled = generator(latents, training=False).numpy()
    np.testing.assert_array_equal(sampled, generator(latents, training=True))
    # An image depends on those beside it.
    assert np.abs(sampled[:3] - generator(latents[:3]).numpy()).max() > 1e-3
    # While it trains, it is the generator without the option.
    usual = resnet.generator(16, 1, 2, 4)
    for layer in usual.layers:
        for name in ("kernel", "bias", "gamma", "beta"):
            if getattr(layer, name, None) is not None:
                value = getattr(generator.get_layer(layer.name), name)
                getattr(layer, name).assign(value)
    # A product of 4 terms, seven convolutions of at most 9 * 16, and as many moments of
    # 6 * 256 numbers; what normalisation divides by may amplify. Tanh makes it less.
    terms = 4 + 7 * (9 * 16 + 6 * 256)
    atol = rounding.random_sums(terms, sampled.size, amplified=10.0)
    found = usual(latents, training=True)
    np.testing.assert_allclose(found, sampled, rtol=0, atol=atol)

    layer = resnet.BatchStatistics()
    maps = np.random.default_rng(1).normal(2, 3, (5, 4, 4, 3)).astype("float32")
    layer.build(maps.shape)
    layer.gamma.assign([1.0, 2.0, 3.0])
    layer.beta.assign([0.0, 1.0, -1.0])
    mean, variance = maps.mean((0, 1, 2)), maps.var((0, 1, 2))
    expected = (maps - mean) / np.sqrt(variance + 1e-5) * [1, 2, 3] + [0, 1, -1]
    # Moments of 80 numbers, then five operations, by which a difference of up to
    # `largest` is divided by the deviation and multiplied by up to 3.
    largest = 3 * np.abs(maps).max() / np.sqrt(variance.min())
    atol = 2 * rounding.likely(80 + 5, "float32") * 2 * largest
    np.testing.assert_allclose(layer(maps), expected, rtol=0, atol=atol)


def test_resnet_initial_weights_have_the_spread_of_the_original():
    discriminator = resnet.discriminator(32)
    for name, scale, inputs, outputs in (
        ("conv", 2, 9 * 3, 9 * 32),
        ("block_1_shortcut", 2, 32, 64),
        ("block_3_conv_1", 4, 9 * 128, 9 * 128),
        ("scores", 2, 1024, 1),
    ):
        kernel = discriminator.get_layer(name).kernel.numpy()
        bound = np.sqrt(3 * scale / (inputs + outputs))
        assert 0.95 * bound < np.abs(kernel).max() <= bound
        error = rounding.deviation_of(kernel.size, kurtosis=1.8)
        assert kernel.std() == pytest.approx(bound / np.sqrt(3), rel=error)
    assert discriminator.get_layer("block_1_conv_1").bias is None
    assert discriminator.get_layer("block_1_conv_2").bias is not None
