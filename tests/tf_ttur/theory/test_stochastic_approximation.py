"""Two time scales against matrix powers, finite differences and known exponents."""

import numpy as np
import pytest
import rounding

from tf_ttur import schedules
from tf_ttur.theory import stochastic_approximation
from tf_ttur.theory.stochastic_approximation import DiracGAN, LinearQuadratic

pytestmark = pytest.mark.portable

GAME = LinearQuadratic(p=1.0, c=1.0, q=0.5)


@pytest.mark.parametrize("game", [GAME, DiracGAN(0.3)])
def test_jacobian_is_the_drifts(game):
    h = 1e-6
    for column, (theta, w) in enumerate(((h, 0.0), (0.0, h))):
        drift = np.array(game.drift(np.float64(theta), np.float64(w)))
        # A difference to one side leaves out half the step times the second derivative,
        # which is at most 1 for either game.
        np.testing.assert_allclose(drift / h, game.jacobian[:, column], rtol=0, atol=h)


@pytest.mark.parametrize(
    ("game", "slow", "fast", "converges"),
    [
        (GAME, 0.01, 0.01, False),
        (GAME, 0.01, 0.019, False),  # the trace changes sign at p / q = 2
        (GAME, 0.01, 0.022, True),
        (GAME, 0.01, 0.1, True),
        (DiracGAN(0.1), 0.1, 1.0, True),
        (DiracGAN(0.1), 0.3, 0.3, True),
    ],
)
def test_measured_rate_is_the_spectral_radius(game, slow, fast, converges):
    radius = abs(stochastic_approximation.update_eigenvalues(game, slow, fast)).max()
    assert (radius < 1) == converges
    # The logarithms oscillate about their line by the ratio of an ellipse's axes, by up
    # to 1 here. Over 10,000 steps that is a slope of up to 1e-4, of 0.005 in the mean.
    points = stochastic_approximation.trajectory(game, slow, fast, 20_000, (0.1, 0.1))
    assert np.log(stochastic_approximation.contraction(points)) == pytest.approx(
        np.log(radius), rel=0.03
    )


def test_dirac_gan_cycles_without_two_time_scales_and_without_a_penalty():
    for gamma, slow in ((0.1, 1.0), (0.0, 0.1)):
        points = stochastic_approximation.trajectory(
            DiracGAN(gamma), slow, 1.0, 5000, (1.0, 1.0)
        )
        assert np.hypot(*points[-1000:].T).min() > 1


def test_a_linear_path_is_a_matrix_power():
    points = stochastic_approximation.trajectory(GAME, 0.01, 0.05, 100, (1.0, 2.0))
    update = np.array([[1 + 0.01, -0.01], [0.05, 1 - 0.025]])
    expected = np.linalg.matrix_power(update, 100) @ [1.0, 2.0]
    # A hundred products of a matrix of two rows, each of three operations, either way.
    size = np.linalg.matrix_power(np.abs(update), 100) @ [1.0, 2.0]
    atol = 2 * rounding.gamma(100 * 5) * size.max()
    np.testing.assert_allclose(points[-1], expected, rtol=0, atol=atol)


def test_noise_leaves_the_covariance_of_the_lyapunov_equation():
    expected = stochastic_approximation.stationary_covariance(GAME, 0.01, 0.1, 1.0)
    *_, last = stochastic_approximation.iterate(
        GAME, 0.01, 0.1, 1500, runs=5000, noise=1.0
    )
    # The standard error of a variance of n normal numbers is sqrt(2 / n) of it.
    rtol = rounding.DEVIATIONS * np.sqrt(2 / 5000)
    np.testing.assert_allclose(np.cov(*last), expected, rtol=rtol)


@pytest.mark.slow
def test_falling_steps_under_noise_have_the_exact_second_moments():
    # Mokkadem and Pelletier 2006: the mean squares fall as a(n) and b(n) in the limit.
    laws = schedules.power_laws(a0=0.3, alpha=0.8, b0=0.3, beta=0.55)
    steps = 100_000
    slow, fast = (
        np.asarray(laws[name](np.arange(steps)), "float64")
        for name in ("generator", "discriminator")
    )
    at = np.unique(np.geomspace(steps / 10, steps, 100).astype(int))
    wanted, theta_squares, w_squares = set(at.tolist()), [], []
    points = stochastic_approximation.iterate(
        GAME, slow, fast, steps, runs=400, noise=1.0
    )
    for step, (theta, w) in enumerate(points):
        if step in wanted:
            theta_squares.append(np.mean(theta**2))
            w_squares.append(np.mean((w - 2 * theta) ** 2))
    exact = stochastic_approximation.second_moments(GAME, slow, fast, at, noise=1.0)
    # The standard error of a mean square of 400 normal numbers is sqrt(2 / 400) of it.
    rtol = rounding.DEVIATIONS * np.sqrt(2 / 400)
    np.testing.assert_allclose(theta_squares, exact[:, 0, 0], rtol=rtol)
    direction = np.array([-2.0, 1.0])
    np.testing.assert_allclose(w_squares, exact @ direction @ direction, rtol=rtol)
    # At n = 10^4 to 10^5 a/b is still 0.1 to 0.06, and the limit not yet reached: terms
    # of that order are left out of the exponents. This is no rounding; the numbers that
    # are compared have no randomness either.
    assert stochastic_approximation.power_slope(at, exact[:, 0, 0]) == pytest.approx(
        -0.8, abs=0.15
    )
    assert stochastic_approximation.power_slope(
        at, exact @ direction @ direction
    ) == pytest.approx(-0.55, abs=0.15)
