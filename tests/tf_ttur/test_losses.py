"""The losses against TF-GAN's and against values worked out by hand."""

import keras
import numpy as np
import pytest
import rounding
import tensorflow as tf
from repository import ROOT
from toy_gan import small_gan

import tf_ttur
from fid.files import InputError
from tf_ttur import losses, tfgan

pytestmark = pytest.mark.portable

# Means of 64 numbers in float32, each with an exponential and a logarithm in it. They
# are all of one sign but for the Wasserstein loss, where none is above 12.
ROUNDINGS = rounding.gamma(64 + 2 * rounding.FUNCTION, "float32")
MEAN = {"rtol": 2 * ROUNDINGS, "atol": 2 * 12 * ROUNDINGS}

# A gradient of such a mean has one term for each logit.
GRADIENT = {"rtol": 2 * rounding.gamma(3 * rounding.FUNCTION, "float32"), "atol": 0}

# The penalty of a few points in two or three dimensions: sums of up to 16 terms, a root
# and a square, which are of order 1 to 10.
PENALTY = 2 * rounding.gamma(16 + 2 * rounding.FUNCTION, "float32")


def logits(seed):
    return tf.constant(np.random.default_rng(seed).normal(size=(64, 1)) * 3, tf.float32)


@pytest.fixture(scope="module")
def theirs():
    return tfgan.load().losses.wargs


@pytest.mark.parametrize(
    ("loss", "discriminator", "generator", "options"),
    [
        ("wasserstein", "wasserstein", "wasserstein", {}),
        ("minimax", "minimax", "minimax", {"label_smoothing": 0.0}),
        ("non_saturating", "modified", "modified", {"label_smoothing": 0.0}),
        # TF-GAN moves a label by half of what it calls smoothing.
        ("non_saturating:0.1", "modified", "modified", {"label_smoothing": 0.2}),
        ("hinge", "wasserstein_hinge", "wasserstein_hinge", {}),
    ],
)
def test_losses_equal_tf_gans(theirs, loss, discriminator, generator, options):
    real, fake = logits(0), logits(1)
    ours = losses.get(loss)
    expected = getattr(theirs, f"{discriminator}_discriminator_loss")(
        real, fake, **options
    )
    np.testing.assert_allclose(ours.discriminator(real, fake), expected, **MEAN)
    expected = getattr(theirs, f"{generator}_generator_loss")(fake)
    if loss == "minimax":
        # TF-GAN negates its discriminator loss, real half included; the gradients
        # with respect to the generator are ours.
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(fake)
            one = ours.generator(fake)
            two = theirs.minimax_generator_loss(fake, label_smoothing=0.0)
        np.testing.assert_allclose(
            tape.gradient(one, fake), tape.gradient(two, fake), **GRADIENT
        )
    else:
        np.testing.assert_allclose(ours.generator(fake), expected, **MEAN)


def test_the_gradient_penalty_of_a_linear_critic_is_known():
    weight = np.array([[3.0], [4.0]], "float32")
    real = np.random.default_rng(0).normal(size=(6, 2)).astype("float32")
    penalty = losses.gradient_penalty(
        lambda x: tf.matmul(x, weight), tf.constant(real), tf.zeros((6, 2)), tf.zeros(6)
    )
    assert float(penalty) == pytest.approx((5.0 - 1.0) ** 2, rel=PENALTY)


def test_the_gradient_penalty_mixes_real_and_fake():
    # D(x) = |x|^2 / 2 has gradient x, so the penalty shows where it was taken.
    real, fake = np.full((4, 1), 2.0, "float32"), np.full((4, 1), 6.0, "float32")
    mix = np.array([0.0, 0.25, 0.5, 1.0], "float32")
    penalty = losses.gradient_penalty(
        lambda x: tf.reduce_sum(x * x, 1) / 2,
        tf.constant(real), tf.constant(fake), tf.constant(mix),
    )  # fmt: skip
    points = np.array([2.0, 3.0, 4.0, 6.0])
    assert float(penalty) == pytest.approx(((points - 1) ** 2).mean(), rel=PENALTY)


def test_the_gradient_penalty_of_a_flat_critic_has_finite_derivatives():
    weight = tf.Variable(tf.zeros((2, 1)))
    with tf.GradientTape() as tape:
        penalty = losses.gradient_penalty(
            lambda x: tf.matmul(x, weight), tf.ones((3, 2)), tf.zeros((3, 2)),
            tf.zeros(3),
        )  # fmt: skip
    assert float(penalty) == pytest.approx(1.0)
    assert np.isfinite(tape.gradient(penalty, weight)).all()


def test_the_gradient_penalty_of_a_small_network_by_the_chain_rule():
    weight = np.random.default_rng(2).normal(size=(3, 5))
    vector = np.random.default_rng(3).normal(size=5)
    random = np.random.default_rng(4)
    real, fake = random.normal(size=(2, 8, 3))
    mix = random.random(8)

    def critic(x):
        hidden = tf.nn.elu(tf.matmul(x, tf.constant(weight, tf.float32)))
        return tf.linalg.matvec(hidden, tf.constant(vector, tf.float32))

    between = (1 - mix[:, None]) * real + mix[:, None] * fake
    before = between @ weight
    slope = np.where(before > 0, 1.0, np.exp(before))
    norms = np.linalg.norm((slope * vector) @ weight.T, axis=1)
    arguments = (tf.constant(x, tf.float32) for x in (real, fake, mix))
    penalty = losses.gradient_penalty(critic, *arguments)
    # A norm near 1 loses digits, but the others are what the mean is made of.
    few = PENALTY * 2 * norms.max() ** 2
    assert float(penalty) == pytest.approx(((norms - 1) ** 2).mean(), rel=0, abs=few)


def test_values_by_hand():
    zero = tf.zeros((4, 1))
    # An undecided discriminator: log 2 for each of its two halves.
    for loss in ("minimax", "non_saturating"):
        assert float(losses.get(loss).discriminator(zero, zero)) == pytest.approx(
            2 * np.log(2)
        )
    assert float(losses.get("non_saturating").generator(zero)) == pytest.approx(
        np.log(2)
    )
    assert float(losses.get("minimax").generator(zero)) == pytest.approx(-np.log(2))
    wasserstein = losses.get("wasserstein")
    assert float(wasserstein.discriminator(tf.ones(4), 3 * tf.ones(4))) == 2.0
    assert float(wasserstein.generator(3 * tf.ones(4))) == -3.0
    hinge = losses.get("hinge")
    # (0 + 1.5) / 2 of the real ones, (0 + 3) / 2 of the others.
    found = hinge.discriminator(tf.constant([2.0, -0.5]), tf.constant([-1.5, 2.0]))
    assert float(found) == pytest.approx(0.75 + 1.5)
    assert float(hinge.generator(tf.constant([1.0, -3.0]))) == 1.0


def test_label_smoothing_by_hand_is_of_the_real_labels_alone():
    real, fake = np.array([2.0, -1.0]), np.array([0.5, 3.0])
    said, wrong = (1 / (1 + np.exp(-x)) for x in (real, fake))
    expected = -np.mean(0.9 * np.log(said) + 0.1 * np.log(1 - said))
    expected -= np.mean(np.log(1 - wrong))
    smooth = losses.NonSaturating(label_smoothing=0.1)
    real, fake = (tf.constant(x, tf.float32) for x in (real, fake))
    assert float(smooth.discriminator(real, fake)) == pytest.approx(expected, rel=1e-6)
    plain = losses.get("non_saturating")
    assert float(smooth.generator(fake)) == float(plain.generator(fake))
    for bad in (-0.1, 0.5, float("nan")):
        with pytest.raises(InputError, match=r"must be in \[0, 0.5\)"):
            losses.NonSaturating(bad)
    with pytest.raises(InputError, match="'non_saturating:much' is no number; write"):
        losses.get("non_saturating:much")


def test_a_smoothed_loss_survives_saving(tmp_path):
    gan = small_gan(loss="non_saturating:0.2")
    gan.save(tmp_path / "gan.keras")
    loaded = keras.models.load_model(tmp_path / "gan.keras")
    assert loaded.adversarial_loss.label_smoothing == 0.2


def test_every_loss_is_listed_where_losses_are():
    flags = (ROOT / "tf_ttur/cli.py").read_text().split('flag.text(\n        "loss",')
    help_of_loss = flags[1][:200]
    row = (ROOT / "README.md").read_text().split("| `loss` | ")[1].split("|")[0]
    for name in losses.LOSSES:
        assert name in help_of_loss
        assert f"`{name}`" in row


def test_the_penalty_takes_generated_images_of_lower_precision():
    real, fake = tf.fill((2, 3), 2.0), tf.fill((2, 3), tf.constant(4.0, tf.float16))
    arguments = lambda x: tf.reduce_sum(x * x, 1) / 2, real, fake, tf.ones(2)
    expected = (4 * 3**0.5 - 1) ** 2
    assert float(losses.gradient_penalty(*arguments)) == pytest.approx(expected)


def test_extreme_logits_stay_finite():
    big = tf.constant([1e4, -1e4])
    for name in losses.LOSSES:
        loss = losses.get(name)
        assert np.isfinite(loss.discriminator(big, big))
        assert np.isfinite(loss.generator(big, big))
        assert np.isfinite(loss.discriminator(big, -big))


# One that needs the real images' logits for the generator, and one that does not.
@pytest.mark.parametrize(
    ("name", "jit"), [("least_squares", False), ("relativistic", True)]
)
def test_a_loss_of_tf_gan_trains_and_survives_saving(tmp_path, name, jit):
    generator = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3)])
    discriminator = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    gan = tf_ttur.GAN(generator, discriminator, tf_ttur.NormalLatent(2))
    gan.compile(
        **tf_ttur.ttur(discriminator=1e-3, generator=1e-3),
        loss=f"tfgan:{name}",
        jit_compile=jit,
    )
    gan.fit(np.ones((8, 3), "float32"), batch_size=4, verbose=0)
    gan.save(tmp_path / "gan.keras")
    loaded = keras.models.load_model(tmp_path / "gan.keras")
    assert loaded.adversarial_loss.name == f"tfgan:{name}"
    assert gan.steps == loaded.steps == 2


def test_a_loss_that_is_none_is_refused_with_what_it_lacks():
    class Half:
        name = "half"
        needs_real = False

        def discriminator(self, real_logits, fake_logits):
            return 0.0

    with pytest.raises(InputError, match="it lacks generator"):
        losses.get(Half())
    with pytest.raises(
        InputError, match="no loss 'hinged'; choose from non_saturating"
    ):
        losses.get("hinged")


def test_a_loss_is_found_again_by_what_describes_it():
    for name in (*losses.LOSSES, "non_saturating:0.1"):
        loss = losses.get(name)
        assert losses.get(losses.describe(loss)).name == name

    class Own(losses.Wasserstein):
        name = "own"

    own = Own()
    assert losses.get(losses.describe(own)) is own


def test_the_relativistic_loss_by_hand():
    real, fake = np.array([2.0, -1.0, 0.5]), np.array([0.5, 3.0, 0.5])
    loss = losses.get("relativistic")
    assert loss.needs_real
    given = tf.constant(real, tf.float32), tf.constant(fake, tf.float32)
    expected = np.mean(np.log1p(np.exp(-(real - fake))))
    assert float(loss.discriminator(*given)) == pytest.approx(expected, rel=ROUNDINGS)
    expected = np.mean(np.log1p(np.exp(-(fake - real))))
    found = loss.generator(given[1], given[0])
    assert float(found) == pytest.approx(expected, rel=ROUNDINGS)
    with pytest.raises(ValueError, match="needs real_logits"):
        loss.generator(given[1])


def test_the_relativistic_loss_trains_and_returns_by_its_name(tmp_path):
    gan = small_gan(loss="relativistic", gradient_penalty="r1+r2:1")
    x = np.random.default_rng(0).uniform(-1, 1, (8, *gan.sample_shape)).astype("f4")
    losses_ = gan.train_on_batch(x, return_dict=True)
    assert np.isfinite(list(losses_.values())).all()
    gan.save(tmp_path / "gan.keras")
    loaded = keras.models.load_model(tmp_path / "gan.keras")
    assert type(loaded.adversarial_loss) is losses.Relativistic
