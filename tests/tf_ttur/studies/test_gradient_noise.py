"""Noise of gradients, against a game whose gradients are known in closed form."""

import keras
import numpy as np
import pytest
import rounding

import tf_ttur
from fid.files import InputError
from tf_ttur.studies import gradient_noise

DIMENSION = 3


def numbers(variable):
    return keras.ops.convert_to_numpy(variable).copy()


class Linear:
    """D(x) = w x and G(z) = v: the discriminator's gradient is linear in the images."""

    name, needs_real = "linear", False

    def discriminator(self, real_logits, fake_logits):
        return keras.ops.mean(fake_logits) - keras.ops.mean(real_logits)

    def generator(self, fake_logits, real_logits=None):
        return -keras.ops.mean(fake_logits)


def game(optimizer, loss=None):
    generator = keras.Sequential(
        [keras.Input((2,)), keras.layers.Dense(DIMENSION, use_bias=False)]
    )
    discriminator = keras.Sequential(
        [keras.Input((DIMENSION,)), keras.layers.Dense(1, use_bias=False)]
    )
    gan = tf_ttur.GAN(generator, discriminator, latent=tf_ttur.NormalLatent(2))
    gan.compile(
        discriminator_optimizer=optimizer(),
        generator_optimizer=optimizer(),
        loss=loss or Linear(),
        jit_compile=False,
    )
    return gan


def sgd():
    return keras.optimizers.SGD(0.1)


SPREAD = np.array([0.5, 1.0, 2.0])
MEAN = np.array([1.0, -2.0, 0.5])


def batches(size):
    random = np.random.default_rng(size)
    while True:
        images = MEAN + SPREAD * random.standard_normal((size, DIMENSION))
        yield keras.ops.convert_to_tensor(images.astype("float32"))


def test_the_noise_of_a_linear_game_is_found():
    gan = game(sgd)
    gan.generator.layers[0].kernel.assign(np.eye(2, DIMENSION))
    gan.discriminator.layers[0].kernel.assign([[1.0], [0.0], [0.0]])
    draws = 400
    found = gradient_noise.measure_noise(gan, batches, 2, 32, draws)
    # D's gradient of an example is G(z) - x: its covariance is SPREAD^2 + (1, 1, 0),
    # and its mean -MEAN. G's is z_i in the first column, of mean 0.
    trace = (SPREAD**2).sum() + 2
    gradient = (MEAN**2).sum()
    # The squared norm of a mean of b normal vectors has a variance of
    # 2 tr(S^2) / b^2 + 4 m S m / b, from which the errors of both estimates follow.
    covariance = SPREAD**2 + np.array([1, 1, 0])

    def error(b):
        variance = 2 * (covariance**2).sum() / b**2
        variance += 4 * (MEAN**2 * covariance).sum() / b
        return np.sqrt(variance / draws)

    both = np.hypot(error(2), error(32))
    assert found["discriminator"].noise.trace == pytest.approx(
        trace, abs=5 * both / (1 / 2 - 1 / 32)
    )
    assert found["discriminator"].noise.gradient == pytest.approx(
        gradient, abs=5 * np.hypot(2 * error(2), 32 * error(32)) / 30
    )
    assert found["generator"].noise.trace == pytest.approx(2, abs=0.8)
    assert found["discriminator"].scale == 1.0
    assert found["discriminator"].weights == DIMENSION
    assert found["generator"].weights == 2 * DIMENSION


def test_the_model_is_left_as_it_was():
    gan = game(keras.optimizers.Adam)
    gan.fit(np.zeros((8, DIMENSION), "float32"), batch_size=4, verbose=0)
    before = [numbers(x) for x in (*gan.variables, gan.seed_generator.state)]
    gradient_noise.measure_noise(gan, batches, 2, 4, 2)
    after = [numbers(x) for x in (*gan.variables, gan.seed_generator.state)]
    assert all(np.array_equal(x, y) for x, y in zip(before, after, strict=True))


def test_what_a_step_of_adam_is_made_of():
    """The step that Keras makes next, from a zero gradient, is what they say."""
    rate = 0.01
    optimizer = keras.optimizers.Adam(rate, beta_1=0.5, beta_2=0.9, epsilon=1e-8)
    variable = keras.Variable(np.array([1.0, -2.0, 3.0], "float32"))
    optimizer.build([variable])
    gradients = np.array([[0.5, -1.0, 2.0], [1.5, 0.25, -0.5]], "float32")
    for gradient in gradients:
        before = numbers(variable)
        optimizer.apply([keras.ops.convert_to_tensor(gradient)])
    moment, scale = gradient_noise.scales(optimizer, [variable])
    m = 0.25 * gradients[0] + 0.5 * gradients[1]
    v = 0.09 * gradients[0] ** 2 + 0.1 * gradients[1] ** 2
    assert moment == pytest.approx(m / 0.75, rel=rounding.gamma(16, "float32"))
    assert scale == pytest.approx(np.sqrt(v / 0.19), rel=rounding.gamma(16, "float32"))
    step = before - numbers(variable)
    # A difference of weights of up to 3 has their rounding.
    assert step == pytest.approx(
        rate * moment / scale, abs=3 * rounding.gamma(16, "float32")
    )


def test_sgd_divides_by_one_and_rmsprop_has_no_moment():
    variable = keras.Variable(np.ones(3, "float32"))
    plain = keras.optimizers.SGD(0.1)
    plain.build([variable])
    moment, scale = gradient_noise.scales(plain, [variable])
    assert (moment, scale.tolist()) == (None, [1, 1, 1])
    rms = keras.optimizers.RMSprop(0.1, rho=0.9)
    rms.build([variable])
    rms.apply([keras.ops.convert_to_tensor(np.array([1, 2, 4], "float32"))])
    moment, scale = gradient_noise.scales(rms, [variable])
    assert moment is None
    assert scale == pytest.approx(
        np.sqrt(0.1) * np.array([1, 2, 4]), rel=rounding.gamma(16, "float32")
    )


class Quadratic:
    """A loss with a minimum in the discriminator's weights: least squares."""

    name, needs_real = "quadratic", False

    def discriminator(self, real_logits, fake_logits):
        return keras.ops.mean(keras.ops.square(real_logits - 3.0))

    def generator(self, fake_logits, real_logits=None):
        return keras.ops.mean(keras.ops.square(fake_logits - 1.0))


def test_the_noise_scale_of_a_linear_regression_is_its_closed_form():
    """B = tr(S) / |G|^2 of least squares on normal inputs, by Isserlis' theorem.

    It stands for the rerun of published numbers, which need a data set.
    """
    weights, target = np.array([0.4, -0.2, 0.1]), 3.0
    covariance = np.diag(SPREAD**2)
    # An example's gradient is 2 (a + w e) (m + e), with e normal of this covariance.
    a = weights @ MEAN - target
    along = covariance @ weights
    mean = 2 * (along + a * MEAN)
    inner, trace = weights @ along, np.trace(covariance)
    second = 4 * (
        a**2 * (MEAN @ MEAN + trace)  # a^2 |m + e|^2
        + 4 * a * along @ MEAN  # 2 a (w e) 2 (m e)
        + inner * (MEAN @ MEAN)  # (w e)^2 |m|^2
        + inner * trace + 2 * along @ along  # (w e)^2 |e|^2
    )  # fmt: skip
    gradient = mean @ mean
    exact = np.array([second - gradient, gradient, (second - gradient) / gradient])

    small, large, draws = 4, 64, 400
    gan = game(sgd, Quadratic())
    gan.discriminator.layers[0].kernel.assign(weights[:, None])
    noise = gradient_noise.measure_noise(gan, batches, small, large, draws)
    found = noise["discriminator"].noise

    def estimates(norms):
        of_small, of_large = norms
        trace = (of_small - of_large) / (1 / small - 1 / large)
        gradient = (large * of_large - small * of_small) / (large - small)
        return np.array([trace, gradient, trace / gradient])

    # The standard errors of both mean norms, from as many gradients in NumPy, and what
    # becomes of them to first order.
    expected = gradient + (second - gradient) / np.array([small, large])
    errors = []
    for size in (small, large):
        random = np.random.default_rng(size + 1000)
        x = MEAN + SPREAD * random.standard_normal((4000, size, DIMENSION))
        each = 2 * (x @ weights - target)[..., None] * x
        norms = (each.mean(axis=1) ** 2).sum(axis=1)
        errors.append(norms.std() / np.sqrt(draws))
    slopes = [
        (estimates(expected + step) - estimates(expected - step)) / 2e-3
        for step in 1e-3 * np.eye(2)
    ]
    error = np.hypot(*(s * e for s, e in zip(slopes, errors, strict=True)))
    assert estimates(expected) == pytest.approx(exact)
    for value, truth, deviation in zip(
        (found.trace, found.gradient, found.scale), exact, error, strict=True
    ):
        assert value == pytest.approx(truth, abs=rounding.DEVIATIONS * deviation)
    # The test can tell B from half or twice of it.
    assert rounding.DEVIATIONS * error[2] < exact[2] / 2


def test_the_best_step_is_that_of_a_quadratic():
    """Its loss after a step is known: L - f |G|^2 + f^2 / 2 (G'HG + tr(HS) / b)."""
    gan = game(sgd, Quadratic())
    weights = np.array([0.4, -0.2, 0.1])
    gan.discriminator.layers[0].kernel.assign(weights[:, None])
    random = np.random.default_rng(0)
    images = MEAN + SPREAD * random.standard_normal((200_000, DIMENSION))
    gradients = 2 * (images @ weights - 3)[:, None] * images
    curvature = 2 * (np.diag(SPREAD**2) + np.outer(MEAN, MEAN))
    mean, covariance = gradients.mean(0), np.cov(gradients.T)
    along = mean @ curvature @ mean
    scale = np.trace(curvature @ covariance) / along
    limit = mean @ mean / along / 0.1  # in multiples of the rate
    draws = 100
    found = gradient_noise.best_steps(
        gan,
        batches,
        [4, 256],
        factors=np.geomspace(0.1, 500, 38),
        held=8192,
        draws=draws,
    )
    best, top, noise = found["discriminator"]
    for size in (4, 256):
        # The step's own noise: |g|^2 and g'Hg are means of as many draws.
        whole = gradients[: len(gradients) // size * size]
        inner = whole.reshape(-1, size, DIMENSION).mean(1)
        both = np.stack(
            [inner @ mean, np.einsum("ni,ij,nj->n", inner, curvature, inner)]
        )
        ratio = np.cov(both / both.mean(1, keepdims=True))
        error = np.sqrt((ratio[0, 0] + ratio[1, 1] - 2 * ratio[0, 1]) / draws)
        # A parabola in the logarithm is off by the cube of its nodes' distance.
        inexact = np.log(500 / 0.1) / 37
        expected = limit / (1 + scale / size)
        assert best[size] == pytest.approx(expected, rel=5 * error + inexact**2)
    assert top >= best[256] > best[4]
    assert noise > 0


def test_bad_input_is_refused():
    gan = game(sgd)
    for small, large, draws in ((4, 4, 1), (0, 4, 1), (2, 4, 0)):
        with pytest.raises(InputError, match="the first must be the smaller"):
            gradient_noise.measure_noise(gan, batches, small, large, draws)
    for factors in ([1, 2], [1, 1, 2], [0, 1, 2]):
        with pytest.raises(InputError, match="three or more positive numbers"):
            gradient_noise.best_steps(gan, batches, [2, 4], factors=factors)
    with pytest.raises(InputError, match="optimizer has made no step yet"):
        gradient_noise.measure_noise(game(keras.optimizers.Adam), batches, 2, 4, 2)
    # A linear loss has no minimum along a gradient.
    with pytest.raises(InputError, match="at an end of the multiples"):
        gradient_noise.best_steps(
            gan, batches, [2, 4], factors=[1, 2, 3], held=4, draws=1
        )
