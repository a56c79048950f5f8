"""Adam and the ball against Keras's Adam, closed forms and known orders."""

import keras
import numpy as np
import pytest
import rounding
from scipy.special import j0, j1

from tf_ttur.theory import heavy_ball
from tf_ttur.theory.stochastic_approximation import power_slope

pytestmark = pytest.mark.portable


def test_adam_path_is_keras_adam():
    rate, memory, alpha = 0.05, 4.0, 0.5  # beta_1 = 0.8, beta_2 = 0.9
    start = np.array([1.5, -1.0])
    found = heavy_ball.adam_path(
        heavy_ball.VALLEY.gradient,
        start,
        rate,
        memory,
        alpha,
        30,
        bias_correction=True,
        epsilon=1e-8,
    )
    adam = keras.optimizers.Adam(rate, beta_1=0.8, beta_2=0.9, epsilon=1e-8)
    point = keras.Variable(start, dtype="float64")
    # Keras has Adam's rate and powers in float32. A correction divides by 1 - 0.9^n, a
    # tenth at least, and each of 30 steps is of up to the rate.
    few = 2 * 30 * rate * rounding.gamma(16 * 10, "float32")
    for expected in found[1:]:
        adam.apply([heavy_ball.VALLEY.gradient(point.numpy())], [point])
        np.testing.assert_allclose(point.numpy(), expected, rtol=0, atol=few)


# What the solver is asked for in each step, 1e-10 and 1e-12, adds up over a hundred
# steps at most.
SOLVED = {"rtol": 0, "atol": 100 * 1e-10}


@pytest.mark.parametrize("memory", [0.5, 10.0])
def test_ode_is_the_damped_oscillator(memory):
    # theta'' + r theta' + r k theta = 0, from rest at 1.
    k = 3.0
    times = np.linspace(0, 5, 50)
    theta, m = heavy_ball.ode(lambda x: k * x, np.array([1.0]), memory, times)
    roots = np.roots([1, memory, memory * k]).astype(complex)
    parts = np.array([roots[1], -roots[0]]) / (roots[1] - roots[0])
    expected = (parts * np.exp(np.outer(times, roots))).sum(axis=1).real
    np.testing.assert_allclose(theta[:, 0], expected, **SOLVED)
    velocity = (parts * roots * np.exp(np.outer(times, roots))).sum(axis=1).real
    np.testing.assert_allclose(m[:, 0], -velocity, **SOLVED)


def test_polynomial_memory_is_bessels_equation():
    # theta'' + (1/t)(theta' + theta) = 0 has J0(2 sqrt(t)); m = -theta' = J1 / sqrt(t).
    # It starts with m = 0 where J1 is zero.
    first = (3.8317059702075125 / 2) ** 2
    times = np.linspace(first, first + 20, 40)
    start = np.array([j0(2 * np.sqrt(first))])
    assert abs(j1(2 * np.sqrt(first))) < 1e-12
    theta, _ = heavy_ball.ode(lambda x: x, start, lambda t: 1 / t, times)
    np.testing.assert_allclose(theta[:, 0], j0(2 * np.sqrt(times)), **SOLVED)


def gaps(rates, path, reference):
    found = []
    for rate in rates:
        count = round(2.0 / rate)
        gap = path(rate, count) - reference(np.arange(count + 1) * rate)
        found.append(np.linalg.norm(gap, axis=-1).max(axis=0).mean())
    return np.array(found)


def test_the_heavy_ball_is_of_first_order():
    start, rates = np.array([1.5, -1.0]), 2.0 ** -np.arange(6, 10)
    found = gaps(
        rates,
        lambda a, n: heavy_ball.heavy_ball_path(
            heavy_ball.VALLEY.gradient, start, a, 2.0, n
        )[0],
        lambda t: heavy_ball.ode(heavy_ball.VALLEY.gradient, start, 2.0, t)[0],
    )
    # Not of rounding: the next term of the gap is a step of at most 1/64 times larger,
    # which changes a slope over three halvings by a few hundredths.
    assert power_slope(rates, found) == pytest.approx(1.0, abs=0.05)


def test_adam_under_stationary_noise_is_of_order_one_half_and_without_it_of_none():
    start, rates = np.array([1.5, -1.0]), 2.0 ** -np.arange(5, 10)
    moment = 100.0

    def reference(times):
        path, _ = heavy_ball.ode(
            lambda x: heavy_ball.VALLEY.gradient(x) / 10, start, 2.0, times
        )
        return path[:, None]

    orders = []
    for noise in (heavy_ball.stationary_noise(moment), None):

        def path(rate, count, noise=noise):
            return heavy_ball.adam_path(
                heavy_ball.VALLEY.gradient,
                np.broadcast_to(start, (200, 2)),
                rate,
                2.0,
                0.5,
                count,
                noise=noise,
                second_moment=moment,
            )

        orders.append(power_slope(rates, gaps(rates, path, reference)))
    # Not of rounding: means over 200 runs, to 1 / sqrt(200), 7 %, of themselves at each
    # end of four halvings, which is 0.04 of a slope, at two standard errors.
    assert orders[0] == pytest.approx(0.5, abs=0.08)
    assert abs(orders[1]) < 0.2


def test_energy_falls_at_the_rate_of_the_squared_momentum():
    times = np.linspace(0, 6, 20_001)
    theta, m = heavy_ball.ode(
        heavy_ball.VALLEY.gradient, np.array([1.5, -1.0]), 2.0, times
    )
    energy = heavy_ball.energy(heavy_ball.VALLEY, theta, m, 2.0)
    assert np.all(np.diff(energy) < 0)
    slope = np.gradient(energy, times)
    # A central difference leaves out a sixth of the step's square times the energy's
    # third derivative, which is the second one of the squares; twice that is allowed.
    squares = (m * m).sum(axis=1)
    third = np.gradient(np.gradient(squares, times), times)
    atol = 2 * times[1] ** 2 / 6 * np.abs(third).max()
    np.testing.assert_allclose(slope[1:-1], -squares[1:-1], rtol=0, atol=atol)
    assert atol < 1e-3 * squares.max()


def test_friction_map():
    found = heavy_ball.friction(rate=2e-4, beta_1=0.5, beta_2=0.999, second_moment=16.0)
    assert found.memory == pytest.approx(2500)
    assert found.alpha == pytest.approx(0.002)
    # theta'' + r theta' + (r / 4) k theta = 0 is critically damped.
    k = found.critical_curvature
    assert 4 * (2500 / 4) * k == pytest.approx(2500**2)
    assert found.damping == pytest.approx(2 * np.sqrt(k))
    with pytest.raises(ValueError, match="beta_1=1"):
        heavy_ball.friction(1e-4, 1.0, 0.9)


@pytest.mark.parametrize("objective", [heavy_ball.VALLEY, heavy_ball.TWO_WELLS])
def test_gradients_are_those_of_the_objectives(objective):
    size = 2 if objective is heavy_ball.VALLEY else 1
    points, h = np.random.default_rng(0).uniform(-2, 2, (50, size)), 1e-6
    for axis, unit in enumerate(np.eye(size)):
        change = objective.value(points + h * unit) - objective.value(points - h * unit)
        # The step divides the values' rounding, and is so small that its square, times
        # a third derivative, is less than that.
        atol = rounding.gamma(20) * np.abs(objective.value(points)).max() / h
        np.testing.assert_allclose(
            objective.gradient(points)[:, axis], change / (2 * h), rtol=0, atol=atol
        )


def test_wells_are_equally_deep_and_differently_flat():
    points, h = np.array([[-1.0], [0.0], [1.0]]), 1e-4
    values = heavy_ball.TWO_WELLS.value(points)
    # A polynomial of some twenty operations, on numbers of up to 10.
    np.testing.assert_allclose(values, [0, 1, 0], rtol=0, atol=10 * rounding.gamma(20))
    change = heavy_ball.TWO_WELLS.gradient(points + h) - heavy_ball.TWO_WELLS.gradient(
        points - h
    )
    flat, barrier, sharp = change[:, 0] / (2 * h)
    assert 0 < flat < sharp / 8
    assert barrier < 0


def test_without_noise_adam_stays_on_its_side_and_with_it_ends_in_the_flat_well_more():
    settings = {"rate": 0.05, "runs": 400}
    assert heavy_ball.flat_share(0.0, noise=0.0, steps=500, **settings)[0] == 200
    flat, runs = heavy_ball.flat_share(0.0, noise=8.0, steps=20_000, **settings)
    assert heavy_ball.wilson(flat, runs)[0] > 0.5


def test_wilson_is_the_textbook_formula():
    share, n, z = 0.3, 40, 1.959963984540054
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * np.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    assert heavy_ball.wilson(12, 40) == pytest.approx((middle - half, middle + half))


def test_settings_that_are_no_adam():
    with pytest.raises(ValueError, match="beta_1 = -"):
        heavy_ball.adam_path(heavy_ball.VALLEY.gradient, np.zeros(2), 1.0, 2.0, 0.1, 1)
    with pytest.raises(ValueError, match="squared derivative"):
        heavy_ball.stationary_noise(1.0)(np.array([2.0]), np.random.default_rng(0))
