"""Preference learning on tensors, against autodiff, NumPy and numbers by hand."""

import math

import numpy as np
import pytest
import rounding
import tensorflow as tf

from fid.files import InputError
from tf_ttur.distillation import preference


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def squares(z, mean, other, spread):
    """The log ratio as it is defined, by NumPy."""
    axes = tuple(range(1, z.ndim))
    difference = ((z - mean) ** 2).mean(axes) - ((z - other) ** 2).mean(axes)
    return -difference / (2 * np.asarray(spread) ** 2)


def test_the_log_ratio_is_that_of_two_gaussians_over_the_dimensions():
    z, mean, other = (normal(4, 3, 2, seed=s) for s in range(3))
    spread = np.array([0.5, 1.0, 2.0, 80.0])
    found = preference.log_ratio(z, mean, other, spread).numpy()
    densities = [
        (-((z - m) ** 2) / (2 * spread[:, None, None] ** 2)).sum((1, 2))
        for m in (mean, other)
    ]
    # Sums of six terms, which cancel by less than the numbers' own size of some 10.
    bound = rounding.gamma(40) * np.abs(densities).sum(0)
    assert np.all(np.abs(6 * found - (densities[0] - densities[1])) <= bound)


def test_the_log_ratio_keeps_its_digits_where_both_means_almost_agree():
    """A difference of squares in float32 would have none left."""
    z, mean = (normal(5, 64, seed=s).astype("float32") for s in range(2))
    other = (mean * np.float32(1 + 2**-18)).astype("float32")
    expected = squares(*(x.astype("float64") for x in (z, mean, other)), 0.5)
    found = preference.log_ratio(z, mean, other, 0.5).numpy()
    terms = np.abs((mean - other) * (np.abs(z - mean) + np.abs(z - other)))
    bound = rounding.gamma(64 + 8, "float32") * terms.mean(1) * 2
    assert np.all(np.abs(found - expected) <= bound)
    assert np.all(np.abs(found) > 100 * bound)


@pytest.mark.parametrize(("a", "s"), [(0.25, 0.75), (1.0, 80.0)])
def test_at_the_reference_the_gradient_of_h_is_that_of_the_noises(a, s):
    """(a / s)(e_w - e_l) . (d mu / d theta), here of a mu that is not linear."""
    x = normal(3, 5)
    theta = tf.Variable(normal(5, 5, seed=1))
    better, worse = normal(3, 5, seed=2), normal(3, 5, seed=3)

    def estimate():
        return tf.tanh(x @ theta)

    reference = estimate().numpy()
    with tf.GradientTape(persistent=True) as tape:
        mean = a * estimate()
        winner, loser = (
            preference.log_ratio(a * reference + s * e, mean, a * reference, s)
            for e in (better, worse)
        )
        h = tf.reduce_sum(winner - loser)
        # The same by the formula.
        weights = (a / s) * (better - worse) / 5
        along = tf.reduce_sum(weights * estimate())
    found, expected = (tape.gradient(y, theta).numpy() for y in (h, along))
    assert float(h) == 0.0
    # z - a mu is s e, off by roundings of z; sums of three rows.
    size = (a / s) * (np.abs(better) + np.abs(worse) + np.abs(reference) / s)
    bound = rounding.gamma(60) * np.abs(x).T @ (2 * size)
    assert np.all(np.abs(found - expected) <= bound)


def test_the_loss_falls_when_winners_are_made_likelier():
    theta = tf.Variable(normal(2, 8, seed=1))
    reference = theta.numpy()
    z = reference + 0.5 * normal(2, 2, 8, seed=2)

    def loss():
        ratios = [preference.log_ratio(x, theta, reference, 0.5) for x in z]
        return preference.preference_loss(*ratios, beta=10.0)[0], ratios

    with tf.GradientTape() as tape:
        before, _ = loss()
    assert float(before) == pytest.approx(math.log(2))
    theta.assign_sub(1e-2 * tape.gradient(before, theta))
    after, (winner, loser) = loss()
    assert float(after) < float(before)
    assert np.all(winner > loser)


def test_values_computed_by_hand():
    winner, loser = np.log([1.05, 2.0]), np.log([0.95, 0.2])
    loss, clipped = preference.preference_loss(winner, loser, beta=10.0)
    # The second pair has the ratios 1.1 and 0.9.
    each = [math.log(1 + (0.95 / 1.05) ** 10), math.log(1 + (0.9 / 1.1) ** 10)]
    assert float(loss) == pytest.approx(sum(each) / 2)
    assert float(clipped) == 0.5
    loss, clipped = preference.preference_loss(winner, loser, 10.0, weights=[1.0, 0.0])
    assert float(loss) == pytest.approx(each[0] / 2)
    assert float(clipped) == 0.5


def test_a_ratio_beyond_the_clip_has_no_gradient_and_the_other_keeps_its_own():
    ratios = tf.constant(np.log([[1.05, 1.2, 1.05, 0.8], [0.95, 0.95, 0.85, 1.3]]))
    with tf.GradientTape() as tape:
        tape.watch(ratios)
        loss, clipped = preference.preference_loss(ratios[0], ratios[1], beta=3.0)
    gradient = tape.gradient(loss, ratios).numpy()
    np.testing.assert_array_equal(
        gradient != 0, [[True, False, True, False], [True, True, False, False]]
    )
    assert np.all(gradient[0] <= 0)
    assert np.all(gradient[1] >= 0)
    assert float(clipped) == 0.5


def test_the_gradient_is_that_of_the_loss_by_differences():
    ratios = np.log([[1.05, 0.97], [0.95, 1.02]])

    def loss(x):
        return preference.preference_loss(x[0], x[1], beta=5.0)[0]

    x = tf.constant(ratios)
    with tf.GradientTape() as tape:
        tape.watch(x)
        value = loss(x)
    found = tape.gradient(value, x).numpy()
    step = 1e-5
    for index in np.ndindex(*ratios.shape):
        moved = np.zeros_like(ratios)
        moved[index] = step
        expected = float(loss(ratios + moved) - loss(ratios - moved)) / (2 * step)
        # What is left out is a sixth of the third derivative, below beta^3 / 10,
        # times the step's square; rounding is 1e-16 over the step.
        assert abs(found[index] - expected) <= 125 / 60 * step**2 + 1e-10


def test_nothing_overflows():
    far = tf.constant([1e30, -1e30], tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(far)
        loss, clipped = preference.preference_loss(far, -far)
    # The second pair's H is as far on the wrong side as it can be.
    worst = 500 * math.log(1.1 / 0.9)
    assert float(loss) == pytest.approx(worst / 2, rel=1e-5)
    assert float(clipped) == 1.0
    np.testing.assert_array_equal(tape.gradient(loss, far), [0, 0])


def test_the_best_and_the_worst_are_those_of_each_row():
    scores = normal(50, 4).astype("float32")
    best, worst = preference.best_and_worst(scores)
    np.testing.assert_array_equal(best, np.argmax(scores, 1))
    np.testing.assert_array_equal(worst, np.argmin(scores, 1))


def test_pairs_count_that_differ_by_more_than_the_gate():
    best, worst = np.array([2.0, 0.7, 0.5]), np.array([0.0, 0.0, 0.0])
    share = 1 / (1 + np.exp(-best))
    apart = share - (1 - share)  # 0.762, 0.336, 0.245
    np.testing.assert_array_equal(preference.gate(best, worst, 0.3), apart > 0.3)
    np.testing.assert_array_equal(preference.gate(best, worst), [1, 1, 1])


def test_equal_scores_and_scores_that_are_not_finite_never_count():
    best = [1.0, np.nan, 1.0, np.inf, np.inf, 1.0]
    worst = [1.0, 0.0, np.nan, 0.0, np.inf, -np.inf]
    for threshold in (0.0, 0.5):
        found = preference.gate(best, worst, threshold)
        np.testing.assert_array_equal(found, np.zeros(6))


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"beta": 0.0}, "beta is 0.0; it must be positive"), ({"clip": 1.0}, "clip is 1")],
)
def test_numbers_that_cannot_be_are_refused(changes, message):
    with pytest.raises(InputError, match=message):
        preference.preference_loss([0.0], [0.0], **changes)
