"""One formula for six optimizers, against each of them written alone, and Keras's."""

import keras
import mixture_oracle
import numpy as np
import pytest
import rounding
import tensorflow as tf

from fid.files import InputError
from tf_ttur import optimizers
from tf_ttur.theory.vector_optimizers import (
    OPTIMIZERS,
    Network,
    constants,
    divisor,
    factors,
    update,
)

RATE = 2.0**-7  # a number that float32 has, since Keras keeps rates in it
STEPS = 40
BETAS = (0.5, 0.75), (0.9, 0.999), (0.0, 0.99)


def gradients(size=12):
    """Gradients of many magnitudes, and some of zero."""
    random = np.random.default_rng(0)
    scale = 10.0 ** random.integers(-5, 3, size)
    found = random.standard_normal((STEPS, size)) * scale + 0.3 * scale
    found[3, :2] = 0
    return found


def played(names, beta_1, beta_2):
    """Weights of each optimizer after each step, all of them side by side."""
    count, given = len(names), gradients()
    network = Network(*(tf.zeros([count, given.shape[1]], tf.float64) for _ in "tmvw"))
    chosen = tf.constant([constants(name, beta_1, beta_2) for name in names])
    steps = np.arange(1, STEPS + 1)
    tables = [factors(name, beta_1, beta_2, steps) for name in names]
    states = []
    for i, gradient in enumerate(given):
        rates, adaptive = (np.array(x, float) for x in zip(*[
            (RATE * factor[i], used[i]) for factor, used in tables
        ], strict=True))  # fmt: skip
        rows = tf.constant(np.tile(gradient, (count, 1)))
        network = update(network, rows, chosen, tf.constant(rates), adaptive)
        states.append(network)
    return states


def allowed(reference, name):
    # Some 20 operations a step, whose results are steps of one size, which add up.
    # AdaBelief's factor loses digits where N_sma, a difference from 2 / (1 - beta_2),
    # is small.
    lost = 2 / (1 - 0.999) if name == "adabelief" else 1.0
    return lost * rounding.gamma(20 * STEPS) * np.abs(reference).max(axis=0)


@pytest.mark.parametrize("betas", BETAS)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_each_optimizer_is_as_written_alone(name, betas):
    states = played(OPTIMIZERS, *betas)
    alone = mixture_oracle.Optimizer(name, RATE, *betas)
    weights, expected = np.zeros(gradients().shape[1]), []
    for gradient in gradients():
        weights = alone.step(weights, gradient)
        expected.append(weights)
    found = [state.weights[OPTIMIZERS.index(name)].numpy() for state in states]
    difference = np.abs(np.array(found) - expected)
    assert (difference <= allowed(expected, name)).all()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_each_optimizer_is_that_of_the_name(name):
    beta_1, beta_2 = 0.5, 0.75
    made = optimizers.make(name, RATE, beta_1=beta_1, beta_2=beta_2)
    variable = keras.Variable(np.zeros(gradients().shape[1]), dtype="float64")
    expected = []
    for gradient in gradients():
        made.apply([tf.constant(gradient)], [variable])
        expected.append(variable.numpy())
    found = [state.weights[0].numpy() for state in played([name], beta_1, beta_2)]
    # These decays are numbers that float32 has, so that only float64 is rounded.
    difference = np.abs(np.array(found) - expected)
    assert (difference <= allowed(expected, name)).all()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_divisor_is_what_the_last_step_divided_by(name):
    before, after = played([name], 0.5, 0.999)[-2:]
    one = Network(*(each[0].numpy() for each in after))
    corrected = name in ("adam", "amsgrad", "adabelief")
    first = one.first / (1 - 0.5**STEPS if corrected else 1)
    expected = RATE * first / divisor(one, name, 0.5, 0.999, STEPS)
    moved = (before.weights - after.weights).numpy()[0]
    # What is left of a difference of weights has lost digits to both.
    lost = rounding.gamma(20) * np.abs(before.weights.numpy()[0])
    np.testing.assert_array_less(
        np.abs(moved - expected), lost + rounding.gamma(40) * np.abs(expected) + 1e-300
    )


def test_adabelief_is_rectified_from_the_sixth_step_on():
    # N_sma is 4.996 after five steps with 0.999, and 5.995 after six.
    factor, adaptive = factors("adabelief", 0.5, 0.999, np.arange(1, 8))
    assert adaptive.tolist() == [False] * 5 + [True] * 2
    np.testing.assert_allclose(factor[:5], 1 / (1 - 0.5 ** np.arange(1, 6)))


def test_wrong_settings_are_named():
    with pytest.raises(InputError, match="optimizer is 'lion'; choose from adam"):
        constants("lion", 0.5, 0.9)
    with pytest.raises(InputError, match=r"beta_2 is 1.0; it must be in \[0, 1\)"):
        constants("adam", 0.5, 1.0)
