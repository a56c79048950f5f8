"""The language networks against the numbers of the paper's code, and their GAN."""

import keras
import numpy as np
import pytest
import rounding
import small_runs
import tensorflow as tf
from parameters import count_trainable

import tf_ttur
from tf_ttur.datasets.text import Vocabulary
from tf_ttur.networks import text

pytestmark = pytest.mark.portable


def small_gan(vocabulary_size=9, seed=0, networks=None, **settings):
    networks = networks or (
        text.generator(vocabulary_size, width=4, seed=seed),
        text.discriminator(vocabulary_size, width=4, seed=seed),
    )
    gan = text.TextGAN(
        *networks,
        latent=tf_ttur.NormalLatent(128),
        seed=seed,
    )
    settings = {"jit_compile": False, "gradient_penalty": 10.0} | settings
    gan.compile(
        **tf_ttur.ttur(discriminator=3e-4, generator=1e-4, beta_1=0.5, beta_2=0.9),
        loss="wasserstein",
        **settings,
    )
    return gan


def tokens(count, vocabulary_size=9, seed=0):
    return np.random.default_rng(seed).integers(
        0, vocabulary_size, (count, 32), dtype="int32"
    )


@pytest.mark.parametrize("vocabulary_size", [90, 2048])
def test_parameters_are_those_of_the_original(vocabulary_size):
    conv = 5 * 512 * 512 + 512
    linear = 128 * (32 * 512) + 32 * 512
    assert count_trainable(text.generator(vocabulary_size)) == (
        linear + 10 * conv + 512 * vocabulary_size + vocabulary_size
    )
    assert count_trainable(text.discriminator(vocabulary_size)) == (
        vocabulary_size * 512 + 512 + 10 * conv + 32 * 512 + 1
    )


def numpy_conv(x, layer):
    kernel, bias = layer.get_weights()
    size = len(kernel)
    padded = np.pad(x, [(0, 0), (size // 2, size // 2), (0, 0)])
    out = sum(padded[:, k : k + x.shape[1]] @ kernel[k] for k in range(size))
    return out + bias


def numpy_blocks(x, network):
    for index in range(1, 6):
        y = x
        for number in (1, 2):
            layer = network.get_layer(f"block_{index}_conv_{number}")
            y = numpy_conv(np.maximum(y, 0), layer)
        x = x + 0.3 * y
    return x


def with_biases(network):
    """Gives every bias a value, so that a missing one would show."""
    rng = np.random.default_rng(1)
    for v in network.trainable_variables:
        if v.name == "bias":
            v.assign(rng.normal(size=v.shape))
    return network


def test_generator_is_the_paper_s():
    generator = with_biases(text.generator(7, width=6, length=10, latent_dimension=5))
    latents = np.random.default_rng(0).normal(size=(3, 5)).astype("float32")
    kernel, bias = generator.get_layer("linear").get_weights()
    x = numpy_blocks((latents @ kernel + bias).reshape(3, 10, 6), generator)
    logits = numpy_conv(x, generator.get_layer("conv"))
    expected = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    # Sums of 5 terms, ten times 30, and 6. A probability moves by less than a logit,
    # and the softmax adds two functions' roundings.
    few = rounding.random_sums(5 + 10 * 30 + 6, logits.size) * np.abs(logits).max()
    atol = few + rounding.gamma(7 + 2 * rounding.FUNCTION, "float32")
    np.testing.assert_allclose(generator(latents), expected, rtol=0, atol=atol)


def test_discriminator_is_the_paper_s():
    network = with_biases(text.discriminator(7, width=6, length=10))
    lines = np.random.default_rng(0).dirichlet(np.ones(7), (3, 10)).astype("float32")
    x = numpy_blocks(numpy_conv(lines, network.get_layer("conv")), network)
    kernel, bias = network.get_layer("scores").get_weights()
    expected = x.reshape(3, -1) @ kernel + bias
    # Sums of 7 terms, ten times 30, and 60 in a row.
    magnitude = (np.abs(x.reshape(3, -1)) @ np.abs(kernel)).max()
    atol = 2 * rounding.likely(7 + 10 * 30 + 60, "float32") * magnitude
    np.testing.assert_allclose(network(lines), expected, rtol=0, atol=atol)


def test_initial_weights_have_the_spread_of_the_original():
    generator, discriminator = text.generator(90), text.discriminator(90)
    for network, name, scale, fan_in, fan_out in (
        (generator, "linear", 2, 128, 32 * 512),
        (generator, "block_3_conv_2", 4, 5 * 512, 5 * 512),
        (generator, "conv", 4, 512, 90),
        (discriminator, "conv", 4, 90, 512),
        (discriminator, "scores", 2, 32 * 512, 1),
    ):
        kernel = network.get_layer(name).kernel.numpy()
        bound = np.sqrt(3 * scale / (fan_in + fan_out))
        assert np.abs(kernel).max() <= bound
        error = rounding.deviation_of(kernel.size, kurtosis=1.8)
        assert kernel.std() == pytest.approx(bound / np.sqrt(3), rel=error)
        assert error < 0.02
    one, two = (generator.get_layer(f"block_1_conv_{i}").kernel.numpy() for i in (1, 2))
    assert not np.array_equal(one, two)


def test_penalty_is_over_positions_and_vocabulary_together():
    # A linear discriminator's gradient is its kernel everywhere.
    gan = small_gan()
    slope = np.random.default_rng(2).normal(size=(32, 9)).astype("float32")
    discriminator = keras.Sequential(
        [keras.Input((32, 9)), keras.layers.Flatten(), keras.layers.Dense(1)]
    )
    discriminator.layers[-1].set_weights([slope.reshape(-1, 1), np.zeros(1)])
    gan = text.TextGAN(gan.generator, discriminator, tf_ttur.NormalLatent(128))
    gan.compile(
        **tf_ttur.ttur(discriminator=3e-4, generator=1e-4),
        loss="wasserstein",
        gradient_penalty=10.0,
        jit_compile=False,
    )
    real = gan.prepare_real(tf.constant(tokens(5)))
    fake = gan.generator(np.zeros((5, 128), "float32"))
    penalty = gan.discriminator_loss(real, fake)["gradient_penalty"]
    expected = 10 * (np.linalg.norm(slope) - 1) ** 2
    # A sum of 32 * 9 squares, a root and a square, and a mean of 5.
    few = 2 * rounding.likely(32 * 9 + 5 + 10, "float32")
    assert float(penalty) == pytest.approx(expected, rel=2 * few)


def test_real_lines_become_one_hot():
    lines = tokens(4)
    for data in (tf.constant(lines), (tf.constant(lines), None)):
        real = small_gan().prepare_real(data)
        assert real.dtype == tf.float32
        np.testing.assert_array_equal(real, np.eye(9)[lines])
    for wrong in (np.zeros((4, 32), "float32"), np.zeros((4, 31), "int32")):
        with pytest.raises(ValueError, match=r"integer token ids \(n, 32\)"):
            small_gan().prepare_real(tf.constant(wrong))


@pytest.mark.parametrize(
    "settings", [{"jit_compile": True}, {"discriminator_steps": 2}]
)
def test_trains(settings):
    gan = small_gan(**settings)
    kernels = [
        v
        for network in (gan.generator, gan.discriminator)
        for v in network.trainable_variables
        if v.name == "kernel"
    ]
    assert len(kernels) == 24
    before = [v.numpy() for v in kernels]
    steps = settings.get("discriminator_steps", 1)
    history = gan.fit(tokens(24 * steps), batch_size=8 * steps, verbose=0).history
    assert gan.steps == 3
    assert set(history) == {"d_loss", "g_loss", "gradient_penalty", "d_lr", "g_lr"}
    assert all(np.isfinite(x).all() for x in history.values())
    for one, two in zip(before, kernels, strict=True):
        assert not np.array_equal(one, two.numpy())


def test_generates_the_likeliest_symbols():
    gan = small_gan()
    vocabulary = Vocabulary("characters", tuple(map(ord, "`abcdefg")))
    probabilities = gan.generate(5, seed=3)
    assert probabilities.shape == (5, 32, 9)
    # Nine parts of a sum of nine numbers, added up again.
    rtol = rounding.gamma(9 + 1 + 9, "float32")
    np.testing.assert_allclose(probabilities.sum(-1), 1, rtol=rtol)
    lines = gan.generate_tokens(5, seed=3, batch_size=2)
    assert lines.dtype == np.int32
    np.testing.assert_array_equal(lines, probabilities.argmax(-1))
    assert gan.generate_text(5, vocabulary, seed=3) == vocabulary.decode(lines)
    with pytest.raises(ValueError, match="has 3 token ids.*made for 9"):
        gan.generate_text(5, Vocabulary("characters", (96, 97)))


def test_saved_model_goes_on_exactly(tmp_path):
    """With networks that are traced in a moment; those above are saved elsewhere."""
    gan = small_gan(
        networks=(
            small_runs.text_generator(9, width=4, latent_dimension=128, seed=0),
            small_runs.text_discriminator(9, width=4, seed=0),
        )
    )
    gan.fit(tokens(16), batch_size=8, verbose=0)
    gan.save(tmp_path / "gan.keras")
    again = keras.saving.load_model(tmp_path / "gan.keras")
    assert type(again) is text.TextGAN
    for model in (gan, again):
        model.fit(tokens(16, seed=1), batch_size=8, verbose=0, shuffle=False)
    for one, two in zip(gan.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)
