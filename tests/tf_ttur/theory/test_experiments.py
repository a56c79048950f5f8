"""What the experiments report, against closed forms and numerical integrals."""

import numpy as np
import pytest
import rounding
import scipy.integrate
import scipy.stats

from tf_ttur.theory import experiments, heavy_ball


@pytest.fixture(scope="module")
def time_scales(tmp_path_factory):
    path = tmp_path_factory.mktemp("theory") / "figure.png"
    found = experiments.two_time_scales(path, runs=400, steps=2000, seed=0)
    assert path.exists()
    return found


def test_constant_step_sizes_come_out_as_the_jacobian_says(time_scales):
    outcomes = {
        (row["game"], row["slow"], row["fast"]): row for row in time_scales["constant"]
    }
    assert [row["outcome"].split()[0] for row in outcomes.values()] == [
        "diverges", "converges", "converges", "cycles", "converges", "cycles",
    ]  # fmt: skip
    for fast in (0.01, 0.04, 0.1):
        row = outcomes["linear-quadratic", 0.01, fast]
        # I + diag(a, b) J with J = [[1, -1], [1, -1/2]].
        trace, determinant = 2 + 0.01 - fast / 2, 1 + 0.01 - fast / 2 + 0.005 * fast
        radius = abs(np.roots([1, -trace, determinant])).max()
        assert row["predicted"] == pytest.approx(radius)
        # As for `contraction`: the logarithms oscillate about the line.
        assert np.log(row["measured"]) == pytest.approx(np.log(radius), rel=0.03)
    # Its eigenvalues are 1 ± i sqrt(slow fast) / 2.
    row = outcomes["Dirac, penalty 0", 0.1, 1.0]
    assert row["predicted"] == pytest.approx(np.sqrt(1 + 0.1 / 4))


def test_stationary_variances_are_those_of_the_lyapunov_equation(time_scales):
    # C = A C A' + diag(a^2, b^2), solved as four linear equations.
    rates = np.diag([0.01, 0.1])
    update = np.eye(2) + rates @ [[1, -1], [1, -0.5]]
    unknown = np.eye(4) - np.kron(update, update)
    expected = np.linalg.solve(unknown, (rates**2).ravel()).reshape(2, 2).diagonal()
    rows = time_scales["stationary"]
    assert [row["player"] for row in rows] == ["theta", "w"]
    # Equations are solved backward stably, to some 4^2 roundings times the condition.
    rtol = 2 * rounding.gamma(16) * np.linalg.cond(unknown)
    np.testing.assert_allclose([row["predicted"] for row in rows], expected, rtol=rtol)
    # Not of rounding: mean squares of 400 runs at ten times or more.
    rtol = rounding.DEVIATIONS * np.sqrt(2 / 4000)
    np.testing.assert_allclose([row["measured"] for row in rows], expected, rtol=rtol)


def test_falling_step_sizes_are_measured_as_the_recursion_says(time_scales):
    kept, broken = time_scales["falling"]
    assert (kept["alpha"], kept["beta"], kept["broken"]) == (0.8, 0.55, [])
    assert (broken["alpha"], broken["beta"]) == (0.55, 0.55)
    assert "o(b(n))" in broken["broken"][0]
    for name in ("theta", "w"):
        exact = kept[f"{name}_exponent_exact"]
        # Not of rounding: a slope over one decade of n, of mean squares of 400 runs,
        # the ends of which are off by up to 0.35 of themselves: log10(1.35) at either.
        assert kept[f"{name}_exponent"] == pytest.approx(exact, abs=0.25)
        assert exact < 0


@pytest.mark.slow
def test_adam_nears_the_ball_and_the_ball_loses_energy(tmp_path):
    found = experiments.heavy_ball(tmp_path / "figure.png", seed=0)
    assert (tmp_path / "figure.png").exists()
    orders = [row["order"] for row in found["distance"]]
    # Not of rounding: orders at finite steps, between the halves that tell them apart.
    np.testing.assert_allclose(orders, [1, 1, 0.5, 0], atol=0.15)
    for row in found["friction"]:
        memory = (1 - row["beta_1"]) / 1e-4
        assert row["memory"] == pytest.approx(memory)
        assert row["damping"] == pytest.approx(np.sqrt(memory))
    equation, coarse, fine = found["energy"]
    assert equation["rising_share"] == 0
    assert coarse["largest_rise"] >= fine["largest_rise"]
    # (1.5, -1): (x^2 + 4 y^2 + x^2 y^2) / 2, at rest.
    assert equation["start"] == pytest.approx((2.25 + 4 + 2.25) / 2)


def test_shares_of_the_flat_well_have_wilsons_intervals(tmp_path):
    path = tmp_path / "figure.png"
    found = experiments.flat_minima(path, runs=40, steps=60, seed=0)
    assert path.exists()
    temperature = found["rate"] * found["noise"] / 2

    def weight(x):
        return np.exp(-heavy_ball.TWO_WELLS.value(np.array([x])) / temperature)

    flat, sharp = (
        scipy.integrate.quad(weight, *sides)[0] for sides in ((-4, 0), (0, 4))
    )
    # Not of rounding: two numerical integrals, of which either may have a grid of
    # hundreds of points over wells a tenth as wide as it is long.
    assert found["equilibrium"] == pytest.approx(flat / (flat + sharp), rel=1e-3)
    assert {row["steps"] for row in found["shares"]} == {6, 60}
    assert len(found["shares"]) == 14
    for row in found["shares"]:
        assert row["friction"] == pytest.approx((1 - row["beta_1"]) / 0.05)
        count = round(row["share"] * 40)
        interval = scipy.stats.binomtest(count, 40).proportion_ci(method="wilson")
        assert (row["low"], row["high"]) == pytest.approx(interval)
