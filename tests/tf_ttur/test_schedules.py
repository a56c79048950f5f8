"""Schedules by name, power laws, and assumption A2 condition by condition."""

import re

import keras
import numpy as np
import pytest
import rounding
import tensorflow as tf

import tf_ttur
from fid.files import InputError
from tf_ttur import optimizers, schedules


def test_power_law_is_a_power_also_after_serialisation():
    law = schedules.PowerLaw(0.3, exponent=0.6)
    again = keras.saving.deserialize_keras_object(
        keras.saving.serialize_keras_object(law)
    )
    steps = np.arange(1000)
    # The power is exp(0.6 log 1000 = 4.1), whose error is that of the function and of
    # its argument, relative to 1.
    rtol = rounding.gamma(5 * rounding.FUNCTION + 2, "float32")
    np.testing.assert_allclose(again(steps), 0.3 / (steps + 1) ** 0.6, rtol=rtol)


def test_an_optimizer_follows_the_power_law():
    adam = tf_ttur.ttur(**schedules.power_laws(a0=0.5, alpha=1.0, b0=1.0, beta=0.6))[
        "generator_optimizer"
    ]
    weight = keras.Variable([0.0])
    path = []
    for _ in range(3):
        adam.apply([keras.ops.ones(1)], [weight])
        path.append(float(weight.numpy()[0]))
    # Adam's step on a constant gradient of 1 is the rate itself, to some 16 operations,
    # of which one divides by 1 - 0.999^n, that is by at least 0.001.
    few = rounding.gamma(16, "float32") + rounding.unit("float32") / 0.001
    np.testing.assert_allclose(np.diff([0.0, *path]), [-0.5, -0.25, -0.5 / 3], few)
    assert few < 1e-4


@pytest.mark.parametrize(
    ("alpha", "beta", "broken"),
    [
        (1.0, 0.51, []),
        (0.9, 0.6, []),
        (0.6, 0.9, ["o(b(n))"]),
        (0.6, 0.6, ["o(b(n))"]),
        (1.1, 0.6, ["sum a(n) ="]),
        (0.6, 0.5, ["sum b(n)^2"]),
        (0.0, 0.0, ["sum a(n)^2", "sum b(n)^2", "o(b(n))"]),
        (1.3, 1.2, ["sum a(n) =", "sum b(n) ="]),
    ],
)
def test_a2_names_what_is_broken(alpha, beta, broken):
    found = schedules.a2_violations(alpha, beta)
    assert len(found) == len(broken)
    assert all(part in line for part, line in zip(broken, found, strict=True))


def test_a_pair_that_breaks_a2_is_an_error_or_a_warning():
    with pytest.raises(InputError, match=r"o\(b\(n\)\).*alpha = 0.6, beta = 0.6"):
        schedules.power_laws(a0=1, alpha=0.6, b0=1, beta=0.6)
    with pytest.warns(UserWarning, match="break assumption A2"):
        schedules.power_laws(a0=1, alpha=0.6, b0=1, beta=0.6, strict=False)
    with pytest.raises(InputError, match="scale"):
        schedules.PowerLaw(0.0, 0.6)


@pytest.mark.parametrize(
    ("scale", "exponent", "message"),
    [
        (-1.0, 0.6, r"scale is -1.0; it must be positive"),
        (np.inf, 0.6, "scale is inf; it must be finite"),
        (np.nan, 0.6, "scale is nan; it must be finite"),
        (1.0, -0.1, "exponent is -0.1; it must be >= 0"),
        (1.0, np.nan, "exponent is nan; it must be finite"),
        ("1", 0.6, "scale is '1'; it must be a number"),
        (1.0, None, "exponent is None; it must be a number"),
    ],
)
def test_a_law_that_is_none_is_refused(scale, exponent, message):
    with pytest.raises(InputError, match=message):
        schedules.PowerLaw(scale, exponent)


def test_an_exponent_of_0_is_a_constant_rate():
    law = schedules.PowerLaw(0.25, 0)
    assert [float(law(step)) for step in (0, 1, 10**6)] == [0.25] * 3


# The rate of a step by its schedule, from a rate of 0.5, in double precision.
BY_HAND = {
    "halve:7": lambda n: 0.5 * 0.5 ** (n // 7),
    "cosine:20": lambda n: 0.25 * (1 + np.cos(np.pi * np.minimum(n, 20) / 20)),
    "linear:20": lambda n: 0.5 * (1 - np.minimum(n, 20) / 20),
    "exponential:10:0.25": lambda n: 0.5 * 0.25 ** (n / 10),
    "power:0.75": lambda n: 0.5 * (n + 1.0) ** -0.75,
}


def by_hand(text, n):
    if text.startswith("warmup:4+"):
        rest = text.removeprefix("warmup:4+")
        return np.where(n < 4, 0.5 * (n + 1) / 4, by_hand(rest, np.maximum(n - 4, 0)))
    return BY_HAND[text](n) if text in BY_HAND else np.full(n.shape, 0.5)


@pytest.mark.parametrize("updates", [1, 3])
@pytest.mark.parametrize("warmup", ["", "warmup:4+"])
@pytest.mark.parametrize("text", [*BY_HAND, "constant"])
def test_a_schedule_is_its_formula_also_after_serialisation(text, warmup, updates):
    schedule = schedules.get(warmup + text, 0.5, updates)
    if warmup + text == "constant":
        assert schedule == 0.5
        return
    again = keras.saving.deserialize_keras_object(
        keras.saving.serialize_keras_object(schedule)
    )
    assert type(again) is type(schedule)
    n = np.arange(40 * updates)
    found = [float(again(step)) for step in n]
    # A function of a float32 argument of up to 6, and a few operations. Near the end of
    # a cosine or a line the rate is a difference of numbers of the first rate's size.
    few = 0.5 * rounding.gamma(7 * rounding.FUNCTION + 8, "float32")
    np.testing.assert_allclose(found, by_hand(warmup + text, n // updates), few, few)


def test_an_optimizer_follows_a_schedule_of_steps():
    """With two updates in a step each has the step's rate."""
    sgd = optimizers.make("sgd", schedules.get("warmup:2+halve:1", 1.0, updates=2))
    weight = keras.Variable([0.0])
    path = [0.0]
    for _ in range(10):
        sgd.apply([-keras.ops.ones(1)], [weight])
        path.append(float(weight.numpy()[0]))
    assert np.diff(path).tolist() == [0.5, 0.5, 1, 1, 1, 1, 0.5, 0.5, 0.25, 0.25]


@pytest.mark.parametrize(
    "text",
    [
        "", "cosin:5", "cosine", "cosine:", "cosine:0", "cosine:1.5", "cosine:5:6",
        "constant:1", "exponential:5", "exponential:5:0", "exponential:5:inf",
        "power:-1", "power:nan", "warmup:5", "warmup:5+", "warmup:0+linear:3",
        "warmup:+linear:3", "linear:3+warmup:5", "warmup:5+warmup:5+linear:3",
        "warmup:2.5+linear:3",
    ],
)  # fmt: skip
def test_a_schedule_that_cannot_be_is_refused(text):
    message = (
        "; choose from constant, halve:N, cosine:N, linear:N, exponential:N:RATE, "
    )
    with pytest.raises(InputError, match=f"^schedule is '{re.escape(text)}'{message}"):
        schedules.get(text, 0.5)


@pytest.mark.parametrize("steps", [0, 2.5, "3", True])
def test_steps_of_a_warmup_are_a_whole_number(steps):
    with pytest.raises(InputError, match=f"steps is {steps!r}; it must be"):
        schedules.Warmup(schedules.PowerLaw(1, 0), steps)
    assert schedules.Warmup(schedules.PowerLaw(1, 0), np.int64(3)).steps == 3


def test_the_updates_of_a_step_may_be_others_from_a_step_on():
    # By hand: three steps of two updates, then steps of five.
    steps = [0, 0, 1, 1, 2, 2, *[3] * 5, *[4] * 5, 5]
    schedule = schedules.get("linear:10", 1.0, updates=2, turn=(3, 5))
    updates = tf.range(len(steps))
    expected = [1 - step / 10 for step in steps]
    np.testing.assert_allclose(schedule(updates), expected, rtol=1e-6)
    config = keras.saving.serialize_keras_object(schedule)
    again = keras.saving.deserialize_keras_object(config)
    np.testing.assert_array_equal(again(updates), schedule(updates))
    # At a constant rate there is nothing to count.
    assert schedules.get("constant", 0.5, updates=2, turn=(3, 5)) == 0.5
    with pytest.raises(InputError, match="turn is 3 and then is None; give both"):
        schedules.PerStep(schedule, 2, turn=3)
