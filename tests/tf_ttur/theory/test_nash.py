"""`nash` on games solved by hand, and against TensorFlow's dense Hessians."""

import keras
import numpy as np
import pytest
import rounding
import tensorflow as tf

import tf_ttur
from fid.files import InputError
from tf_ttur.theory import nash

pytestmark = pytest.mark.portable


class Quadratic:
    """Losses whose Hessians are known: the logits' own quadratics."""

    name = "quadratic"
    needs_real = False

    def discriminator(self, real_logits, fake_logits):
        return tf.reduce_mean(1.5 * real_logits**2 + fake_logits)

    def generator(self, fake_logits, real_logits=None):
        return tf.reduce_mean(-2.0 * fake_logits**2)


def dense(units, features, values):
    layer = keras.layers.Dense(units, use_bias=False)
    network = keras.Sequential([keras.Input((features,)), layer])
    layer.kernel.assign(values)
    return network


def compiled(generator, discriminator, loss, latents=1, **options):
    gan = tf_ttur.GAN(generator, discriminator, tf_ttur.NormalLatent(latents))
    options = {"jit_compile": False} | options
    gan.compile(
        **tf_ttur.ttur(discriminator=1e-3, generator=1e-3), loss=loss, **options
    )
    return gan


@pytest.mark.parametrize("jit_compile", [False, True])
def test_a_quadratic_game(jit_compile):
    # Images are A z, logits w'x. L_D = 1.5 mean (w'x)^2 + w'A mean z, with Hessian
    # 3 mean xx'. L_G = -2 mean (w'A z)^2 has -4 zz' for a latent z of one coordinate.
    weight, matrix = np.array([[1.0], [2.0]]), np.array([[0.5, -1.0]])
    gan = compiled(dense(2, 1, matrix), dense(1, 2, weight), Quadratic())
    real = np.random.default_rng(0).standard_normal((64, 2)).astype("float32")
    found = nash.examine(gan, real, batch_size=16, jit_compile=jit_compile)
    z = np.asarray(gan.latent(64, seed=0), "float64")[:, 0]
    hessian = 3 * real.T @ real / 64
    expected = np.linalg.eigvalsh(hessian)
    player = found["discriminator"]
    # Means of 64 products in float32, by batches, through some ten operations. The
    # eigenvalues are off by that of the largest (Weyl's inequality).
    few = 2 * rounding.gamma(64 + 10, "float32")
    near = {"rel": 0, "abs": few * float(expected[-1])}
    assert player.hessian.smallest == pytest.approx(expected[0], **near)
    assert player.hessian.largest == pytest.approx(expected[-1], **near)
    gradient = hessian @ weight[:, 0] + matrix[0] * z.mean()
    near["abs"] *= float(np.linalg.norm(weight))
    assert player.gradient_norm == pytest.approx(np.linalg.norm(gradient), **near)
    parts = [
        3 * (real[i : i + 16].T @ real[i : i + 16] / 16) @ weight[:, 0]
        + matrix[0] * z[i : i + 16].mean()
        for i in range(0, 64, 16)
    ]
    noise = np.sqrt(np.var(parts, axis=0, ddof=1).sum() / 4)
    assert player.gradient_noise == pytest.approx(noise, **near)
    # The generator's Hessian is -4 mean(z^2) ww': eigenvalues 0 and that times |w|^2.
    player = found["generator"]
    smallest = -20 * np.mean(z**2)
    assert player.hessian.smallest == pytest.approx(smallest, rel=few)
    assert player.hessian.largest == pytest.approx(0, abs=few * abs(smallest))
    assert player.loss == pytest.approx(-2 * 1.5**2 * np.mean(z**2), rel=few * 3 / 1.5)


class Constant(keras.layers.Layer):
    """An image that is a trainable number, whatever the latent: Dirac-GAN's fake."""

    def build(self, shape):
        self.theta = self.add_weight(shape=(1,), initializer="zeros", name="theta")

    def call(self, latents):
        return 0.0 * latents + self.theta


@pytest.mark.parametrize(("theta", "w"), [(0.0, 0.0), (0.7, -1.2)])
def test_dirac_gan(theta, w):
    generator = keras.Sequential([keras.Input((1,)), Constant()])
    generator.set_weights([np.array([theta])])
    gan = compiled(generator, dense(1, 1, [[w]]), "minimax")
    real = np.zeros((4, 1), "float32")
    s = 1 / (1 + np.exp(-theta * w))
    slope = s * (1 - s)
    found = nash.game_jacobian(gan, real, batch_size=2)
    expected = [
        [slope * w * w, s + slope * theta * w],
        [-s - slope * theta * w, -slope * theta * theta],
    ]
    # Means of two, of numbers of up to 1, with a sigmoid and its derivatives.
    atol = 2 * rounding.gamma(4 + 3 * rounding.FUNCTION, "float32")
    np.testing.assert_allclose(found, expected, rtol=0, atol=atol)
    if theta == 0:
        ends = np.linalg.eigvals(found)
        np.testing.assert_allclose(ends, [0.5j, -0.5j], rtol=0, atol=atol)


def smooth_gan(**options):
    """A small game with batch norm, a penalty, weight decay and dropout."""
    generator = keras.Sequential(
        [
            keras.Input((3,)),
            keras.layers.Dense(6),
            keras.layers.BatchNormalization(),
            keras.layers.ELU(),
            keras.layers.Dense(4, "tanh"),
        ]
    )
    discriminator = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(
                5, "tanh", kernel_regularizer=keras.regularizers.L2(0.1)
            ),
            keras.layers.Dropout(0.3, seed=1),
            keras.layers.Dense(1),
        ]
    )
    keras.utils.set_random_seed(3)
    for network in (generator, discriminator):
        rng = np.random.default_rng(2)
        network.set_weights(
            [
                rng.normal(0, 0.7, x.shape) if x.dtype.kind == "f" else x
                for x in network.get_weights()
            ]
        )
    return compiled(generator, discriminator, "wasserstein", 3, **options)


def hessian_error(found):
    """What two eigenvalues of one Hessian of `smooth_gan` may differ by.

    Second derivatives of sums of up to 16 images, through four layers and one of batch
    norm, are some 200 operations in float32, relative to the largest eigenvalue, and so
    is each product of Lanczos's method; that stops at 1e-6 of it.
    """
    few = 2 * rounding.gamma(200, "float32") + 1e-6
    return few * max(abs(found.smallest), abs(found.largest))


def test_eigenvalues_are_those_of_dense_hessians():
    gan = smooth_gan()
    real = np.random.default_rng(0).standard_normal((8, 4)).astype("float32")
    # All weights of a player, as one vector, through TensorFlow's own dense Hessian.
    latents = gan.latent(8, seed=0)
    found = nash.examine(gan, real, batch_size=8, tolerance=1e-6)

    def hessian(network, loss):
        variables = network.trainable_variables

        with tf.GradientTape(persistent=True) as outer:
            with tf.GradientTape() as inner:
                value = loss() + sum(network.losses)
            gradients = inner.gradient(value, variables)
        rows = []
        for gradient in gradients:
            parts = outer.jacobian(gradient, variables, unconnected_gradients="zero")
            size = int(np.prod(gradient.shape))
            rows.append(tf.concat([tf.reshape(p, (size, -1)) for p in parts], 1))
        return np.asarray(tf.concat(rows, 0), "float64")

    def fake():
        return gan.generator(latents, training=True)

    generator = hessian(
        gan.generator,
        # Dropout draws the first numbers of its seed here as there.
        lambda: gan.generator_loss(real, fake())["g_loss"],
    )
    expected = np.linalg.eigvalsh((generator + generator.T) / 2)
    ends = found["generator"].hessian
    np.testing.assert_allclose(
        (ends.smallest, ends.largest),
        expected[[0, -1]],
        rtol=0,
        atol=hessian_error(ends),
    )


@pytest.mark.parametrize(
    "jit_compile", [False, pytest.param(True, marks=pytest.mark.slow)]
)
def test_hessians_are_blocks_of_the_games_jacobian(jit_compile):
    gan = smooth_gan(gradient_penalty=10.0)
    real = np.random.default_rng(0).standard_normal((16, 4)).astype("float32")
    before = [v.numpy() for v in gan.variables]
    found = nash.examine(
        gan, real, batch_size=8, tolerance=1e-6, jit_compile=jit_compile
    )
    for variable, value in zip(gan.variables, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value)
    jacobian = nash.game_jacobian(gan, real, batch_size=8, jit_compile=jit_compile)
    at = found["generator"].parameters
    blocks = {"generator": -jacobian[:at, :at], "discriminator": -jacobian[at:, at:]}
    for name, block in blocks.items():
        hessian = found[name].hessian
        few = {"rtol": 0, "atol": hessian_error(hessian)}
        np.testing.assert_allclose(block, block.T, **few)
        ends = np.linalg.eigvalsh((block + block.T) / 2)[[0, -1]]
        np.testing.assert_allclose((hessian.smallest, hessian.largest), ends, **few)
        assert few["atol"] < 0.01 * min(np.abs(ends))


def test_lanczos_finds_both_ends_of_a_clustered_spectrum_within_its_bounds():
    rng = np.random.default_rng(0)
    q, _ = np.linalg.qr(rng.standard_normal((300, 300)))
    values = np.concatenate([[-3.0], np.linspace(-0.1, 0.1, 297), [5.0, 5.1]])
    matrix = (q * values) @ q.T
    found = nash.extreme_eigenvalues(lambda v: matrix @ v, 300, tolerance=1e-3)
    assert found.products < 80
    for value, error in (
        (found.smallest, found.smallest_error),
        (found.largest, found.largest_error),
    ):
        assert np.abs(values - value).min() <= error + 1e-5
    # The method is told to stop at a thousandth of the largest.
    assert found.smallest == pytest.approx(-3, abs=5.1e-3)
    assert found.largest == pytest.approx(5.1, abs=5.1e-3)


@pytest.mark.parametrize("matrix", [np.zeros((5, 5)), np.eye(5), [[-2.0]]])
def test_lanczos_stops_where_nothing_is_left(matrix):
    matrix = np.array(matrix)
    found = nash.extreme_eigenvalues(lambda v: matrix @ v, len(matrix))
    assert found.products <= 2
    # One product of five terms in float32 at most, and its norm.
    few = 2 * 2 * rounding.gamma(5 + rounding.FUNCTION, "float32")
    assert found.smallest == pytest.approx(matrix[0, 0], abs=few)
    assert found.largest == pytest.approx(matrix[0, 0], abs=few)


def test_what_cannot_be_measured():
    gan = compiled(
        dense(2, 1, np.ones((1, 2))), dense(1, 2, np.ones((2, 1))), "minimax"
    )
    with pytest.raises(InputError, match="3 images do not fill a minibatch of 4"):
        nash.examine(gan, np.zeros((3, 2), "float32"), batch_size=4)
    large = compiled(
        dense(2000, 1, np.ones((1, 2000))),
        dense(1, 2000, np.ones((2000, 1))),
        "minimax",
    )
    with pytest.raises(InputError, match="4000 parameters"):
        nash.game_jacobian(large, np.zeros((4, 2000), "float32"), batch_size=4)
    values, labels = keras.Input((1,)), keras.Input((), dtype="int32")
    rows = keras.layers.Embedding(2, 1)(labels)
    one = keras.Model([values, labels], keras.layers.Add()([values, rows]))
    conditional = tf_ttur.GAN(
        one, keras.models.clone_model(one), tf_ttur.NormalLatent(1), num_classes=2
    )
    with pytest.raises(InputError, match="The GAN takes labels"):
        nash.examine(conditional, np.zeros((4, 1), "float32"), batch_size=4)


def test_a_hessian_that_is_not_finite_is_refused():
    with pytest.raises(InputError, match="has diverged"):
        nash.extreme_eigenvalues(lambda v: v * np.nan, 3)
