"""Gradient penalties against closed forms, finite differences and PyTorch, in double.

That of WGAN-GP by itself is tested in test_losses.py, under its older name.
"""

import keras
import numpy as np
import pytest
import rounding
import tensorflow as tf
from toy_gan import small_gan

import tf_ttur
from fid.files import InputError
from tf_ttur import layers, penalties, xla

pytestmark = pytest.mark.portable

NAMES = ["wgan_gp", "r1", "r2", "r1+r2"]
SIZE, WIDTH = 8, 4


def never():
    raise AssertionError("nothing is to be drawn")


def both(score):
    return lambda real, fake: (score(real), score(fake))


def value(penalty, score, real, fake, mix=None):
    draw = never if mix is None else lambda: tf.constant(mix)
    logits, found = penalty(score, both(score), real, fake, draw)
    np.testing.assert_array_equal(logits[0], score(real))
    np.testing.assert_array_equal(logits[1], score(fake))
    return found


# ---- names


def test_numbers_are_weights_of_wgan_gp_and_names_have_weights_behind_a_colon():
    for given, name, weight in (
        (10.0, "wgan_gp", 10.0),
        (3, "wgan_gp", 3.0),
        ("wgan_gp", "wgan_gp", 10.0),
        ("wgan_gp:0.5", "wgan_gp", 0.5),
        ("r1", "r1", 10.0),
        ("r2:2", "r2", 2.0),
        ("r1+r2:1e-2", "r1+r2", 0.01),
    ):
        found = penalties.get(given)
        assert (found.name, found.weight) == (name, weight)
    for none in (0, 0.0, "r1:0", "wgan_gp:0.0"):
        assert penalties.get(none) is None
    assert list(penalties.PENALTIES) == NAMES
    own = lambda *arguments: None  # noqa: E731
    assert penalties.get(own) is own


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("r3", "There is no gradient penalty 'r3'.*one of wgan_gp, r1, r2, r1\\+r2"),
        ("", "There is no gradient penalty ''"),
        ("r2+r1", "There is no gradient penalty"),
        ("r1:", "its weight must be a number >= 0"),
        ("r1:ten", "gradient_penalty is 'r1:ten'; its weight"),
        ("r1:-1", "its weight must be"),
        ("r1+r2:nan", "its weight must be"),
        ("r1:inf", "its weight must be"),
        (-1.0, "gradient_penalty is -1.0; its weight"),
    ],
)
def test_penalties_that_cannot_be_are_refused(given, message):
    with pytest.raises(InputError, match=message):
        penalties.get(given)


# ---- closed forms


@pytest.mark.parametrize("name", NAMES)
def test_penalties_of_a_quadratic_are_known(name):
    # D(x) = |x|^2 / 2 has the gradient x.
    random = np.random.default_rng(0)
    real, fake = random.normal(size=(2, 7, 5))
    mix = random.random(7)

    def score(x):
        return tf.reduce_sum(x * x, 1, keepdims=True) / 2

    squares = {"r1": np.sum(real**2, 1), "r2": np.sum(fake**2, 1)}
    if name == "wgan_gp":
        between = real + mix[:, None] * (fake - real)
        expected = 3 * np.mean((np.linalg.norm(between, axis=1) - 1) ** 2)
    else:
        expected = 3 / 2 * sum(np.mean(squares[each]) for each in name.split("+"))
    found = value(
        penalties.get(f"{name}:3"), score, tf.constant(real), tf.constant(fake),
        mix if name == "wgan_gp" else None,
    )  # fmt: skip
    assert float(found) == pytest.approx(expected, rel=1e-12)


def test_a_flat_discriminator_has_no_penalty_and_finite_derivatives():
    weight = tf.Variable(tf.zeros((2, 1)))
    for name in NAMES[1:]:
        with tf.GradientTape() as tape:
            found = value(
                penalties.get(name), lambda x: tf.matmul(x, weight),
                tf.ones((3, 2)), tf.zeros((3, 2)),
            )  # fmt: skip
        assert float(found) == 0
        np.testing.assert_array_equal(tape.gradient(found, weight), np.zeros((2, 1)))


# ---- second derivatives through our layers


@pytest.fixture
def double():
    keras.config.set_dtype_policy("float64")
    keras.config.set_floatx("float64")
    yield
    keras.config.set_floatx("float32")
    keras.config.set_dtype_policy("float32")


def discriminator(norm):
    """A strided and a pooled convolution, with smooth activations."""

    def start(seed):
        return keras.initializers.RandomNormal(stddev=0.3, seed=seed)

    kind = {
        "batch": layers.BatchNormalization, "image": layers.ImageNormalization
    }.get(norm)  # fmt: skip
    return keras.Sequential(
        [
            keras.Input((SIZE, SIZE, 2)),
            layers.Conv2D(WIDTH, 5, 2, padding="same", kernel_initializer=start(0)),
            *([kind(epsilon=1e-3)] if kind else []),
            keras.layers.Activation("silu"),
            layers.ConvMeanPool2D(WIDTH, 3, kernel_initializer=start(1)),
            keras.layers.Activation("silu"),
            keras.layers.Flatten(),
            keras.layers.Dense(1, kernel_initializer=start(2)),
        ]
    )


def inputs():
    random = np.random.default_rng(5)
    real, fake = random.uniform(-1, 1, (2, 3, SIZE, SIZE, 2))
    return real, fake, random.random(3)


# Two programs in double precision: fewer than 10,000 roundings on the way from a pixel
# to a gradient of the penalty, none of which is amplified by more than 100.
DOUBLE = 100 * rounding.gamma(10_000)


@pytest.mark.parametrize("norm", ["none", "image", "batch"])
@pytest.mark.parametrize("name", NAMES)
def test_gradients_of_a_penalty_are_its_finite_differences(name, norm, double):
    model = discriminator(norm)
    real, fake, mix = map(tf.constant, inputs())
    penalty = penalties.get(f"{name}:2")

    def compute():
        def score(x):
            return model(x, training=True)

        return penalty(score, both(score), real, fake, lambda: mix)[1]

    variables = model.trainable_variables
    with tf.GradientTape() as tape:
        found = compute()
    assert found.dtype == tf.float64
    gradients = [
        np.zeros(v.shape) if g is None else np.array(g)
        for g, v in zip(tape.gradient(found, variables), variables, strict=True)
    ]
    # Along a random direction, Richardson's formula of the fourth order.
    random = np.random.default_rng(9)
    directions = [random.normal(size=v.shape) for v in variables]
    start = [v.numpy() for v in variables]

    def at(step):
        for v, begin, direction in zip(variables, start, directions, strict=True):
            v.assign(begin + step * direction)
        return float(compute())

    h = 1e-3
    slope = (8 * (at(h) - at(-h)) - (at(2 * h) - at(-2 * h))) / (12 * h)
    expected = sum(np.sum(g * d) for g, d in zip(gradients, directions, strict=True))
    scale = sum(np.abs(g * d).sum() for g, d in zip(gradients, directions, strict=True))
    # The formula leaves out h^4 / 30 times the fifth derivative, and rounding is
    # divided by h.
    allowed = scale * (1e4 * h**4) + float(found) * DOUBLE / h
    assert slope == pytest.approx(expected, abs=allowed)
    assert allowed < 0.05 * scale


@pytest.mark.parametrize("norm", ["none", "image", "batch"])
@pytest.mark.parametrize("name", NAMES)
def test_penalties_and_their_gradients_are_pytorchs(name, norm, double):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    functional = torch.nn.functional
    model = discriminator(norm)
    random = np.random.default_rng(1)
    for v in model.trainable_variables:
        v.assign(v.numpy() + random.normal(0, 0.1, v.shape))
    named = [torch.tensor(v.numpy()) for v in model.trainable_variables]
    for each in named:
        each.requires_grad_(True)

    def score(images):
        left = iter(named)
        x = functional.pad(images.permute(0, 3, 1, 2), (1, 2, 1, 2))
        kernel = next(left).permute(3, 2, 0, 1)
        x = functional.conv2d(x, kernel, next(left), stride=2)
        if norm == "batch":
            gamma, beta = next(left), next(left)
            x = functional.batch_norm(x, None, None, gamma, beta, True, 0.1, 1e-3)
        elif norm == "image":
            gamma, beta = next(left), next(left)
            x = functional.group_norm(x, 1, gamma, beta, 1e-3)
        x = functional.silu(x)
        kernel = next(left).permute(3, 2, 0, 1)
        x = functional.conv2d(x, kernel, next(left), padding=1)
        x = functional.silu(functional.avg_pool2d(x, 2))
        x = x.permute(0, 2, 3, 1).flatten(1)
        return x @ next(left) + next(left)

    real, fake, mix = (torch.tensor(each) for each in inputs())

    def slopes(images):
        images = images.clone().requires_grad_(True)
        (found,) = torch.autograd.grad(score(images).sum(), images, create_graph=True)
        return found.flatten(1)

    if name == "wgan_gp":
        between = real + mix[:, None, None, None] * (fake - real)
        theirs = 2 * ((slopes(between).norm(dim=1) - 1) ** 2).mean()
    else:
        images = {"r1": real, "r2": fake}
        theirs = sum(
            (slopes(images[each]) ** 2).sum(1).mean() for each in name.split("+")
        )
    theirs_gradients = torch.autograd.grad(theirs, named, allow_unused=True)

    def our_score(images):
        return model(images, training=True)

    with tf.GradientTape() as tape:
        _, ours = penalties.get(f"{name}:2")(
            our_score, both(our_score), *map(tf.constant, (real.numpy(), fake.numpy())),
            lambda: tf.constant(mix.numpy()),
        )  # fmt: skip
    assert float(ours) == pytest.approx(theirs.item(), rel=DOUBLE)
    gradients = tape.gradient(ours, model.trainable_variables)
    largest = max(float(x.abs().max()) for x in theirs_gradients if x is not None)
    for mine, other in zip(gradients, theirs_gradients, strict=True):
        if other is None or mine is None:
            # A last bias changes no slope.
            assert other is None or not other.any()
            assert mine is None or not np.any(mine)
            continue
        np.testing.assert_allclose(mine, other, rtol=0, atol=largest * DOUBLE)


def test_xla_changes_no_more_than_rounding():
    model = discriminator("image")
    real, fake, _ = (tf.constant(each, tf.float32) for each in inputs())
    penalty = penalties.get("r1+r2")

    def compute(real, fake):
        def score(x):
            return model(x, training=True)

        with tf.GradientTape() as tape:
            _, found = penalty(score, both(score), real, fake, never)
        return found, tape.gradient(found, [v.value for v in model.trainable_variables])

    def compiled(real, fake):
        with xla.for_xla():
            return compute(real, fake)

    expected, gradients = compute(real, fake)
    found, others = tf.function(compiled, jit_compile=True)(real, fake)
    # Sums of 50, 36 and 16 products, there and back, twice.
    bound = 2 * rounding.gamma(4 * (50 + 36 + 16 + SIZE * SIZE * 2), "float32")
    assert float(found) == pytest.approx(float(expected), rel=bound)
    for one, other in zip(gradients, others, strict=True):
        if one is not None:
            largest = np.abs(one).max()
            np.testing.assert_allclose(other, one, rtol=0, atol=bound * largest)


# ---- in a GAN


def make(**options):
    generator = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3)])
    judge = keras.Sequential(
        [
            keras.Input((3,)),
            keras.layers.Dense(8, "elu"),
            keras.layers.Dense(1),
        ]
    )
    gan = tf_ttur.GAN(generator, judge, tf_ttur.NormalLatent(2))
    gan.compile(
        **tf_ttur.ttur(discriminator=1e-3, generator=1e-3),
        **{"loss": "relativistic", "jit_compile": False} | options,
    )
    return gan


@keras.saving.register_keras_serializable("tests")
class Doubled:
    """A penalty of one's own: twice the mean square of the real logits."""

    def __call__(self, score, score_both, real, fake, draw):
        logits = score_both(real, fake)
        return logits, 2 * tf.reduce_mean(logits[0] ** 2)

    def get_config(self):
        return {}

    @classmethod
    def from_config(cls, config):
        return cls()


def images(n=16):
    return np.random.default_rng(0).uniform(-1, 1, (n, 3)).astype("float32")


def test_a_gan_logs_its_penalty_and_returns_with_it(tmp_path):
    for given, kept in (("r1+r2:0.5", "r1+r2:0.5"), (3, 3.0), (Doubled(), None)):
        gan = make(gradient_penalty=given)
        history = gan.fit(images(), verbose=0).history
        assert {"d_loss", "g_loss", "gradient_penalty"} < set(history)
        gan.save(tmp_path / "gan.keras")
        loaded = keras.models.load_model(tmp_path / "gan.keras")
        found = loaded.gradient_penalty
        assert isinstance(found, Doubled) if kept is None else found == kept
        for each in (gan, loaded):
            each.train_step(tf.constant(images()))
        for one, other in zip(gan.weights, loaded.weights, strict=True):
            np.testing.assert_array_equal(one, other)


def test_penalties_without_noise_draw_none():
    drawn = {}
    for penalty in (0.0, 1.0, "r1", "r1+r2"):
        gan = make(gradient_penalty=penalty)
        gan.train_step(tf.constant(images()))
        drawn[penalty] = gan.seed_generator.state.numpy().tolist()
    assert drawn["r1"] == drawn["r1+r2"] == drawn[0.0] != drawn[1.0]


def test_penalties_that_cannot_be_are_refused_by_compile():
    for given, message in (
        ("r3", "no gradient penalty 'r3'"),
        ("r1:x", "its weight"),
        (-1, "gradient_penalty is -1; it must be >= 0"),
        (True, "gradient_penalty is True"),
        (None, "gradient_penalty is None"),
    ):
        with pytest.raises(ValueError, match=message):
            make(gradient_penalty=given)


def test_a_penalty_object_of_ours_is_saved_and_a_class_is_refused(tmp_path):
    gan = small_gan(gradient_penalty=penalties.get("r1+r2:0.5"))
    gan.save(tmp_path / "gan.keras")
    loaded = keras.models.load_model(tmp_path / "gan.keras")
    assert penalties.describe(penalties.get(loaded.gradient_penalty)) == "r1+r2:0.5"
    with pytest.raises(InputError, match="is the class WGANGP; give an object"):
        penalties.get(penalties.WGANGP)
