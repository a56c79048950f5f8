"""Optimizers by name against their formulas, and `ttur` against TensorFlow 1's Adam."""

import keras
import numpy as np
import pytest
import rounding
import tensorflow as tf
from toy_gan import images, small_gan

import tf_ttur
from fid.files import InputError
from tf_ttur import optimizers
from tf_ttur.adabelief import AdaBelief

pytestmark = pytest.mark.portable

RATE, BETA_1, BETA_2, EPSILON = 0.01, 0.75, 0.9, 1e-8
# The methods that divide by a root, and the others, in double precision: each takes the
# gradients up to a step and gives that step. test_adabelief.py has AdaBelief.


def average(values, beta, biased=False):
    """The moving average after the last of the values."""
    weights = (1 - beta) * beta ** np.arange(len(values))[::-1]
    total = (weights[:, None] * values).sum(0)
    return total if biased else total / (1 - beta ** len(values))


def adam(g):
    # TensorFlow 1 adds epsilon to the root of v with its bias.
    root = np.sqrt(average(g**2, BETA_2)) + EPSILON / np.sqrt(1 - BETA_2 ** len(g))
    return average(g, BETA_1) / root


def amsgrad(g):
    """As PyTorch: of the largest v with its bias, the last step's is taken out."""
    v = [average(g[: t + 1] ** 2, BETA_2, biased=True) for t in range(len(g))]
    v = np.max(v, axis=0)
    return average(g, BETA_1) / (np.sqrt(v / (1 - BETA_2 ** len(g))) + EPSILON)


def rmsprop(g):
    """As PyTorch, with epsilon beside the root."""
    return g[-1] / (np.sqrt(average(g**2, BETA_2, biased=True)) + EPSILON)


def momentum(g):
    return (BETA_1 ** np.arange(len(g))[::-1, None] * g).sum(0)


STEPS = {
    "adam": adam,
    "amsgrad": amsgrad,
    "rmsprop": rmsprop,
    "momentum": momentum,
    "sgd": lambda g: g[-1],
}


@pytest.mark.parametrize("name", STEPS)
def test_each_method_is_its_formula(name):
    """With gradients that fall, so that the largest v is not the last one."""
    sizes = np.logspace(-3, 0, 6) * np.where(np.arange(40) < 9, 3.0, 0.5)[:, None]
    given = np.random.default_rng(0).normal(size=(40, 6)) * sizes
    given = given.astype("float32")
    weight = keras.Variable(np.zeros(6, "float32"))
    made = optimizers.make(name, RATE, beta_1=BETA_1, beta_2=BETA_2)
    # Each gradient meets at most four roundings in each step that it is carried through
    # in m and v; 1 - beta_2^t adds ten, and the step itself a few. PyTorch's epsilon
    # stands beside a root with its bias or without, so it counts for up to
    # 1 / sqrt(1 - beta_2) of itself, which is less than four.
    squares = given.astype("float64") ** 2
    roots = [np.sqrt(average(squares[: t + 1], BETA_2, True)).min() for t in range(40)]
    few = rounding.gamma(2 * (4 * 40 + 32), "float32") + 4 * EPSILON / min(roots)
    exact, terms = np.zeros((2, 6))
    for t, gradient in enumerate(given, start=1):
        made.apply([tf.constant(gradient)], [weight])
        so_far = given[:t].astype("float64")
        exact -= RATE * STEPS[name](so_far)
        # The sum of the magnitudes of all that is added up.
        terms += RATE * STEPS[name](np.abs(so_far))
        assert (np.abs(weight.numpy() - exact) <= few * terms).all(), t
    assert (few * terms < 0.01 * np.abs(exact)).any()


def test_every_method_has_a_formula():
    assert set(optimizers.OPTIMIZERS) == set(STEPS) | {"adabelief"}
    made = optimizers.make("adabelief", RATE, beta_1=BETA_1, beta_2=BETA_2)
    assert type(made) is AdaBelief
    assert (made.beta_1, made.beta_2, made.epsilon) == (BETA_1, BETA_2, 1e-16)
    assert (made.rectify, made.amsgrad, made.weight_decay) == (True, False, None)


def test_epsilon_is_passed_on_where_there_is_one():
    for name in optimizers.OPTIMIZERS:
        made = optimizers.make(name, RATE, epsilon=1e-3)
        if name == "rmsprop":  # Keras adds it below the root
            assert made.epsilon == pytest.approx(1e-6)
        elif name not in ("momentum", "sgd"):
            assert made.epsilon == 1e-3


def state(gan):
    variables = [v for each in gan.optimizers.values() for v in each.variables]
    return [v.numpy() for v in [*gan.weights, *variables, *gan._random_states()]]


def assert_same(one, other):
    assert len(one) == len(other)
    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.fixture
def policy():
    before = keras.mixed_precision.dtype_policy()
    yield keras.mixed_precision.set_dtype_policy
    keras.mixed_precision.set_dtype_policy(before)


@pytest.mark.parametrize(
    ("name", "half", "jit_compile"),
    [
        ("adabelief", False, True),
        ("adabelief", True, False),
        ("rmsprop", False, False),
        ("momentum", True, False),
    ],
)
def test_a_method_goes_on_exactly_after_loading(
    name, half, jit_compile, policy, tmp_path
):
    """Under XLA, and in mixed_float16 with the losses scaled."""
    if half:
        policy("mixed_float16")
    # AdaBelief's rectified steps begin at the fifth.
    pair = tf_ttur.ttur(
        discriminator=1e-3, generator=1e-3, optimizer=name, beta_2=0.95, clip="norm:1"
    )
    gan = small_gan(**pair, jit_compile=jit_compile)
    start = gan.get_weights()
    fit = {"batch_size": 8, "shuffle": False, "verbose": 0}
    gan.fit(images(32), **fit)
    gan.save(tmp_path / "gan.keras")
    loaded = keras.models.load_model(tmp_path / "gan.keras")
    for each in (gan, loaded):
        each.fit(images(64)[32:], **fit)
    assert gan.steps == loaded.steps == 8
    assert loaded.jit_compile == jit_compile
    assert_same(state(gan), state(loaded))
    for player, found in loaded.optimizers.items():
        assert isinstance(found, keras.optimizers.LossScaleOptimizer) == half
        found = getattr(found, "inner_optimizer", found)
        assert type(found) is type(optimizers.make(name, RATE))
        assert found.name == f"{player}_{name}"
        assert found.clipnorm == 1.0
        assert int(found.iterations) > 4
    moved = [np.abs(a - b).max() for a, b in zip(start, gan.get_weights(), strict=True)]
    assert max(moved) > 1e-4


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, {}),
        ("none", {}),
        ("norm:1.0", {"clipnorm": 1.0}),
        ("value:0.5", {"clipvalue": 0.5}),
        ("global_norm:1e-3", {"global_clipnorm": 1e-3}),
    ],
)
def test_clipping_is_read(text, expected):
    assert optimizers.clipping(text) == expected
    made = optimizers.make("sgd", RATE, clip=text)
    for name in optimizers.CLIPPINGS.values():
        assert getattr(made, name) == expected.get(name)


@pytest.mark.parametrize(
    "text", ["", "norm", "norm:", "norm:0", "norm:-1", "value:nan", "norm:inf", "l1:1"]
)
def test_clipping_that_cannot_be_is_refused(text):
    with pytest.raises(InputError, match=f"clip is '{text}'; use none, or .*norm:1.0"):
        optimizers.clipping(text)


def test_an_unknown_method_is_refused():
    with pytest.raises(InputError, match="no optimizer 'lion'; choose from adam, amsg"):
        tf_ttur.ttur(discriminator=1e-3, generator=1e-3, optimizer="lion")


def test_adam_equals_tensorflow_1s():
    variable = keras.Variable(np.array([1.0, -2.0, 3.0], "float32"))
    adam = tf_ttur.ttur(discriminator=0.1, generator=0.1)["generator_optimizer"]
    gradients = np.random.default_rng(0).normal(size=(20, 3)).astype("float32") * 1e-7
    for gradient in gradients:
        adam.apply([tf.constant(gradient)], [variable])
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        theirs = tf.compat.v1.get_variable(
            "v", initializer=np.array([1.0, -2.0, 3.0], "float32"), use_resource=True
        )
        fed = tf.compat.v1.placeholder(tf.float32, [3])
        step = tf.compat.v1.train.AdamOptimizer(0.1, 0.5, 0.999).apply_gradients(
            [(fed, theirs)]
        )
        session.run(tf.compat.v1.global_variables_initializer())
        for gradient in gradients:
            session.run(step, {fed: gradient})
        expected = session.run(theirs)
    # Gradients of 1e-7, so that another epsilon would show.
    # Twenty steps of up to three times the rate, of some 16 operations each, are added
    # to numbers of up to 4.
    u = rounding.unit("float32")
    atol = 2 * 20 * (4 * u + 3 * 0.1 * rounding.gamma(16, "float32"))
    np.testing.assert_allclose(variable.numpy(), expected, rtol=0, atol=atol)


def test_each_player_has_its_own_rate_and_both_share_the_rest():
    pair = tf_ttur.ttur(
        discriminator=3e-4, generator=1e-4, beta_1=0.1, beta_2=0.9, epsilon=1e-6
    )
    rates = {"discriminator_optimizer": 3e-4, "generator_optimizer": 1e-4}
    assert set(pair) == set(rates)
    for name, adam in pair.items():
        assert float(adam.learning_rate) == pytest.approx(rates[name])
        assert (adam.beta_1, adam.beta_2, adam.epsilon) == (0.1, 0.9, 1e-6)
    # The names are those of TensorBoard and of messages.
    assert [adam.name for adam in pair.values()] == [
        "discriminator_adam",
        "generator_adam",
    ]


def test_a_rate_may_follow_a_schedule():
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay([1], [0.5, 0.25])
    adam = tf_ttur.ttur(discriminator=1.0, generator=schedule)["generator_optimizer"]
    variable = keras.Variable(np.zeros(1, "float32"))
    rates = []
    for _ in range(3):
        rates.append(float(adam.learning_rate))
        adam.apply([tf.ones(1)], [variable])
    assert rates == [0.5, 0.5, 0.25]


@pytest.mark.parametrize("rate", [0, -1e-3, float("inf"), float("nan")])
def test_a_rate_that_is_not_positive_is_refused(rate):
    with pytest.raises(ValueError, match=f"generator's learning rate .* got {rate}"):
        tf_ttur.ttur(discriminator=1e-3, generator=rate)


def test_what_keras_takes_for_an_optimizer_is_one():
    sgd = keras.optimizers.SGD(0.5)
    assert optimizers.get(sgd, "critic") is sgd
    for given in ("adam", keras.optimizers.Adam):
        made = [optimizers.get(given, "critic") for _ in range(2)]
        assert all(type(each) is keras.optimizers.Adam for each in made)
        assert made[0] is not made[1]
    assert type(optimizers.get("adabelief", "critic")) is AdaBelief
    made = optimizers.get(keras.optimizers.serialize(sgd), "critic")
    assert made is not sgd
    assert float(made.learning_rate) == 0.5
    for bad in (None, 0.1, "adamm", np.tanh):
        with pytest.raises(ValueError, match=r"'critic' is .*, of which Keras makes n"):
            optimizers.get(bad, "critic")
