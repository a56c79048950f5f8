"""BEGAN against the formulas of its paper, evaluated by NumPy."""

import keras
import numpy as np
import pytest
import rounding
import tensorflow as tf
from parameters import count_trainable

import tf_ttur
from tf_ttur.networks import began

pytestmark = pytest.mark.portable


def small(compiled=False, gamma=0.5, lambda_k=0.001, rates=(1e-3, 1e-3), **settings):
    gan = began.BEGAN(
        began.generator(16, 1, 4, 6),
        began.discriminator(16, 1, 4, 6),
        tf_ttur.UniformLatent(6),
        gamma=gamma,
        lambda_k=lambda_k,
    )
    gan.compile(
        **tf_ttur.ttur(discriminator=rates[0], generator=rates[1], beta_1=0.9),
        jit_compile=compiled,
        **settings,
    )
    return gan


def images(count=32):
    return np.random.default_rng(0).uniform(-1, 1, (count, 16, 16, 1)).astype("float32")


def error(gan, batch):
    return float(np.abs(gan.discriminator(batch).numpy() - batch).mean())


def test_networks_have_the_parameters_of_the_original():
    assert count_trainable(began.generator()) == 1_716_611
    assert count_trainable(began.discriminator()) == 13_405_379


def test_layer_by_layer():
    generator, discriminator = began.generator(64, 3, 2), began.discriminator(64, 3, 2)
    decoder = [(8, 8, 2)] * 2 + [(16, 16, 2)] * 2 + [(32, 32, 2)] * 2
    decoder += [(64, 64, 2)] * 2 + [(64, 64, 3)]
    encoder = [(64, 64, 2)] * 3 + [(32, 32, 2)] + [(32, 32, 4)] * 2 + [(16, 16, 4)]
    encoder += [(16, 16, 6)] * 2 + [(8, 8, 6)] + [(8, 8, 8)] * 2

    def convolutions(model):
        return [x for x in model.layers if isinstance(x, keras.layers.Conv2D)]

    for model, shapes in ((generator, decoder), (discriminator, encoder + decoder)):
        convs = convolutions(model)
        assert [tuple(conv.output.shape[1:]) for conv in convs] == shapes
        for conv in convs:
            linear = conv.name == "decoder_conv"
            assert conv.activation.__name__ == ("linear" if linear else "elu")
            assert conv.kernel_size == (3, 3)
            assert conv.use_bias
            fan_in, fan_out = (9 * n for n in conv.kernel.shape[2:])
            bound = np.sqrt(6 / (fan_in + fan_out))  # Glorot's uniform
            assert 0.6 * bound < np.abs(conv.kernel.numpy()).max() <= bound
    assert discriminator.get_layer("code").output.shape == (None, 64)
    assert not any("norm" in layer.name for layer in discriminator.layers)


def test_the_decoder_doubles_the_map_before_the_convolution():
    generator = began.generator(16, 1, 2, 3)
    latents = np.random.default_rng(1).normal(size=(2, 3)).astype("float32")

    def conv(x, name, activation=tf.nn.elu):
        layer = generator.get_layer(name)
        return activation(tf.nn.conv2d(x, layer.kernel.value, 1, "SAME") + layer.bias)

    linear = generator.get_layer("decoder_linear")
    x = tf.reshape(latents @ linear.kernel.numpy() + linear.bias.numpy(), (2, 8, 8, 2))
    x = conv(conv(x, "decoder_1_conv_1"), "decoder_1_conv_2")
    x = tf.repeat(tf.repeat(x, 2, 1), 2, 2)
    x = conv(conv(x, "decoder_2_conv_1"), "decoder_2_conv_2")
    expected = conv(x, "decoder_conv", tf.identity)
    # A product of 3 terms, five convolutions of 18, and four calls of ELU, in float32.
    few = rounding.random_sums(3 + 5 * 18 + 4 * rounding.FUNCTION, np.size(expected))
    atol = few * np.abs(expected).max()
    np.testing.assert_allclose(generator(latents), expected, rtol=0, atol=atol)


@pytest.mark.parametrize("compiled", [False, True])
def test_one_step_follows_the_formulas(compiled):
    gan, before = small(compiled, lambda_k=0.5), small(lambda_k=0.5)
    for model in (gan, before):
        model.k.assign(0.25)
    real = images(8)
    # XLA draws other numbers from the same seed.
    draw = tf.function(before.latent, jit_compile=compiled)
    latents = draw(8, seed=before.seed_generator)
    fake = before.generator(latents).numpy()
    real_error, fake_error = error(before, real), error(before, fake)
    logs = gan.train_on_batch(real, return_dict=True)
    # Means over all pixels of distances that some twelve convolutions left.
    few = 2 * rounding.likely(real.size + 12 * 9 * 8, "float32")
    few = {"rel": 0, "abs": few * (real_error + fake_error)}
    assert few["abs"] < 1e-3 * fake_error
    assert logs["d_loss"] == pytest.approx(real_error - 0.25 * fake_error, **few)
    # The generator meets the discriminator already updated, on the same latents.
    updated = error(gan, fake)
    assert logs["g_loss"] == pytest.approx(updated, **few)
    balance = 0.5 * real_error - updated
    assert logs["convergence"] == pytest.approx(real_error + abs(balance), **few)
    assert logs["k"] == pytest.approx(0.25)
    assert float(gan.k.numpy()) == pytest.approx(0.25 + 0.5 * balance, **few)


def test_the_generators_gradient_flows_into_both_sides():
    gan = small()
    fake = tf.constant(images(2))
    with tf.GradientTape() as tape:
        tape.watch(fake)
        loss = gan.generator_loss(fake, fake)["g_loss"]
    gradient = tape.gradient(loss, fake).numpy()
    step = 1e-2
    # At the first of them, the reconstruction's part is a quarter of the gradient. What
    # is allowed is not rounding, but that the loss has a kink where a pixel equals its
    # reconstruction, and one pixel in twenty may be that near.
    for index in ((1, 7, 6, 0), (0, 3, 4, 0)):
        values = []
        for sign in (1, -1):
            moved = fake.numpy().astype("float64")
            moved[index] += sign * step
            values.append(np.abs(gan.discriminator(moved) - moved).mean())
        assert gradient[index] == pytest.approx((values[0] - values[1]) / 2 / step,
                                                rel=0.05)  # fmt: skip


def test_k_stays_between_0_and_1():
    for gamma, start, end in ((1.0, 0.999, 1.0), (0.0, 0.001, 0.0)):
        gan = small(gamma=gamma, lambda_k=100.0)
        gan.k.assign(start)
        # The errors at first are about 0.5 for real images and 0.1 for generated ones.
        gan.train_on_batch(images(8))
        assert float(gan.k.numpy()) == end


def test_k_and_what_follows_are_saved(tmp_path):
    real, gan = images(), small(lambda_k=0.1, gamma=1.0)
    rate = keras.optimizers.schedules.ExponentialDecay(1e-3, 3, 0.5, staircase=True)
    gan.compile(**tf_ttur.ttur(discriminator=rate, generator=1e-4), jit_compile=False)
    gan.fit(real, batch_size=8, shuffle=False, verbose=0)
    assert 0 < float(gan.k.numpy()) < 1
    gan.save(tmp_path / "gan.keras")
    loaded = keras.models.load_model(tmp_path / "gan.keras")
    assert type(loaded) is began.BEGAN
    assert (loaded.gamma, loaded.lambda_k) == (1.0, 0.1)
    assert float(loaded.k.numpy()) == float(gan.k.numpy())
    histories = [
        model.fit(real, batch_size=8, shuffle=False, verbose=0).history
        for model in (gan, loaded)
    ]
    assert histories[0] == histories[1]
    assert histories[0]["d_lr"] == [pytest.approx(2.5e-4)]
    np.testing.assert_array_equal(gan.generate(4, seed=1), loaded.generate(4, seed=1))


def test_samples_are_clipped():
    gan = small()
    gan.generator.get_layer("decoder_conv").bias.assign([0.99])
    latents = gan.latent(64, seed=0)
    raw = gan.generator(latents).numpy()
    assert raw.max() > 1
    np.testing.assert_array_equal(
        gan(latents).numpy(), np.clip(raw, -1, 1).astype("float32")
    )
    assert gan.generate(64, seed=0).max() == 1


def test_it_learns_to_reconstruct():
    gan, real = small(rates=(2e-3, 1e-3)), 0.5 * np.ones((64, 16, 16, 1), "float32")
    first = error(gan, real)
    gan.fit(real, batch_size=8, epochs=5, verbose=0)
    assert error(gan, real) < 0.3 * first


def test_what_cannot_be_is_refused():
    gan = small()
    pair = tf_ttur.ttur(discriminator=1e-4, generator=1e-4)
    with pytest.raises(ValueError, match="a loss of its own"):
        gan.compile(**pair, loss="minimax")
    with pytest.raises(ValueError, match="no gradient penalty"):
        gan.compile(**pair, gradient_penalty=10.0)
    for settings, message in (({"gamma": 2}, "gamma"), ({"lambda_k": 0}, "lambda_k")):
        with pytest.raises(ValueError, match=message):
            small(**settings)
