"""The experiments on Theorems 1 and 2: settings, runs, and what is measured of them."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from tf_ttur.theory import figures
from tf_ttur.theory.heavy_ball import (
    TWO_WELLS,
    VALLEY,
    adam_path,
    energy,
    flat_share,
    friction,
    heavy_ball_path,
    ode,
    stationary_noise,
    wilson,
)
from tf_ttur.theory.stochastic_approximation import (
    DiracGAN,
    LinearQuadratic,
    contraction,
    iterate,
    power_slope,
    second_moments,
    stationary_covariance,
    trajectory,
    update_eigenvalues,
)

__all__ = ["flat_minima", "heavy_ball", "two_time_scales"]

# The generator's own curvature is -1, so that one time scale fails.
_GAME = LinearQuadratic(p=1.0, c=1.0, q=0.5)
_DIRAC = DiracGAN(gamma=0.1)
_CONSTANT = (
    (_GAME, 0.01, 0.01),
    (_GAME, 0.01, 0.04),
    (_GAME, 0.01, 0.1),
    (_DIRAC, 1.0, 1.0),
    (_DIRAC, 0.1, 1.0),
    (DiracGAN(gamma=0.0), 0.1, 1.0),
)
_FALLING = ((0.8, 0.55), (0.55, 0.55))


def two_time_scales(
    path: str | os.PathLike[str], runs: int, steps: int, seed: int
) -> dict[str, Any]:
    """Tests convergence with two time scales, and its failure with one.

    Args:
        path: Where the figure goes.
        runs: Runs under noise.
        steps: Steps of the falling schedules, and of the stationary game.
        seed: Seed of the noise.

    Returns:
        What `two_time_scales.json` holds.
    """
    constant, distances, orbits = [], {}, {}
    for game, slow, fast in _CONSTANT:
        linear = isinstance(game, LinearQuadratic)
        points = trajectory(game, slow, fast, 10_000, (1.0, 1.0))
        norms = np.hypot(*points.T)
        radius = float(abs(update_eigenvalues(game, slow, fast)).max())
        label = f"{slow:g}, {fast:g}"
        if linear:
            name = "linear-quadratic"
            distances[label] = norms[:3001], radius
        else:
            name = f"Dirac, penalty {game.gamma:g}"
            orbits[f"{name}: {label}"] = points[:300]
        last = norms[-1000:]
        if last.max() < 1e-3:
            outcome = "converges"
        elif last.max() > 1e3:
            outcome = "diverges"
        else:
            outcome = f"cycles between {last.min():.2f} and {last.max():.2f}"
        constant.append(
            {
                "game": name,
                "slow": slow,
                "fast": fast,
                "predicted": radius,
                "measured": contraction(points),
                "outcome": outcome,
            }
        )
    falling, squares = [], {}
    for alpha, beta in _FALLING:
        row, curves = _falling(alpha, beta, runs, steps, seed)
        falling.append(row)
        squares |= curves
    figures.two_time_scales(path, distances, orbits, squares)
    return {
        "constant": constant,
        "stationary": _stationary(runs, steps, seed),
        "falling": falling,
    }


def _stationary(runs: int, steps: int, seed: int) -> list[dict[str, Any]]:
    slow, fast, noise = 0.01, 0.1, 1.0
    predicted = stationary_covariance(_GAME, slow, fast, noise)
    # The transient is gone after a tenth, since its factor per update is 0.98.
    steps = min(steps, 10_000)
    sums, count = np.zeros(2), 0
    points = iterate(_GAME, slow, fast, steps, runs=runs, noise=noise, seed=seed)
    for step, pair in enumerate(points):
        if step > steps // 10:
            sums += np.square(pair).mean(axis=1)
            count += 1
    return [
        {"player": player, "predicted": float(p), "measured": float(m)}
        for player, p, m in zip(
            ("theta", "w"), np.diag(predicted), sums / count, strict=True
        )
    ]


def _falling(
    alpha: float, beta: float, runs: int, steps: int, seed: int
) -> tuple[dict[str, Any], dict[str, Any]]:
    # Keras starts TensorFlow, which the other experiments do without.
    from tf_ttur.schedules import a2_violations, power_laws

    violations = a2_violations(alpha, beta)
    n = np.arange(steps)
    if violations:
        slow = fast = 0.3 * (n + 1.0) ** -alpha
    else:
        laws = power_laws(a0=0.3, alpha=alpha, b0=0.3, beta=beta)
        slow = np.asarray(laws["generator"](n), "float64")
        fast = np.asarray(laws["discriminator"](n), "float64")
    report = np.unique(np.geomspace(1, steps, 200).astype(int))
    wanted, theta_squares, w_squares = set(report.tolist()), [], []
    points = iterate(_GAME, slow, fast, steps, runs=runs, noise=1.0, seed=seed)
    for step, (theta, w) in enumerate(points):
        if step in wanted:
            theta_squares.append(np.mean(theta**2))
            w_squares.append(np.mean((w - _GAME.c / _GAME.q * theta) ** 2))
    exact = second_moments(_GAME, slow, fast, report, noise=1.0)
    off_response = np.array([-_GAME.c / _GAME.q, 1.0])
    late = report >= steps / 10
    slopes = [
        power_slope(report[late], np.array(values)[late])
        for values in (
            theta_squares,
            w_squares,
            exact[:, 0, 0],
            exact @ off_response @ off_response,
        )
    ]
    label = f"α {alpha}, β {beta}"
    row = {
        "alpha": alpha,
        "beta": beta,
        "broken": violations,
        "theta_exponent": slopes[0],
        "w_exponent": slopes[1],
        "theta_exponent_exact": slopes[2],
        "w_exponent_exact": slopes[3],
        "last_mean_square": float(theta_squares[-1]),
    }
    return row, {
        f"θ, {label}": (report, np.array(theta_squares), "-"),
        f"w − λ(θ), {label}": (report, np.array(w_squares), "--"),
    }


def heavy_ball(path: str | os.PathLike[str], seed: int) -> dict[str, Any]:
    """Measures how Adam's path nears that of the ball as the step size shrinks.

    Args:
        path: Where the figure goes.
        seed: Seed of the noise.

    Returns:
        The friction map, the distances with their orders, and the energies.
    """
    gradient = VALLEY.gradient
    start, memory, alpha, end = np.array([1.5, -1.0]), 2.0, 0.1, 4.0
    # This is no smaller than any squared derivative on the way, of which the first are
    # the largest.
    moment = 4 * float(np.max(gradient(start) ** 2))
    rates = 2.0 ** -np.arange(4, 11)
    errors: dict[str, list[float]] = {}
    for rate in rates:
        steps = round(end / rate)
        times = np.arange(steps + 1) * rate
        exact, _ = ode(gradient, start, memory, times)
        # A stationary second moment v divides the gradient by sqrt(v). The time is
        # stretched so that the ball comes as far.
        scale = moment**0.5
        longer = np.arange(round(scale * end / rate) + 1) * rate
        scaled, _ = ode(
            lambda x, scale=scale: gradient(x) / scale, start, memory, longer
        )
        fading, _ = ode(gradient, start, _polynomial_memory, times + 1.0)
        ball, _ = heavy_ball_path(gradient, start, rate, memory, steps)
        fading_ball, _ = heavy_ball_path(
            gradient, start, rate, _polynomial_memory, steps, start_time=1.0
        )
        paths = {
            "heavy ball": (ball, exact),
            "heavy ball, polynomial memory": (fading_ball, fading),
        }
        settings = {"second_moment": moment, "seed": seed}
        for label, noise in (
            ("Adam, stationary v", stationary_noise(moment)),
            ("Adam, no noise (v decays)", None),
        ):
            runs = adam_path(
                gradient,
                np.broadcast_to(start, (64, 2)),
                rate,
                memory,
                alpha,
                len(longer) - 1,
                noise=noise,
                **settings,
            )
            paths[label] = runs, scaled[:, None]
        for label, (found, reference) in paths.items():
            gap = np.linalg.norm(found - reference, axis=-1).max(axis=0)
            errors.setdefault(label, []).append(float(np.mean(gap)))
    measured = {
        label: (np.array(values), power_slope(rates, np.array(values)))
        for label, values in errors.items()
    }

    energies, rises = {}, []
    times = np.linspace(0, 10, 2001)
    exact, momentum = ode(gradient, start, memory, times)
    paths = {"equation": (times, exact, momentum)}
    examples = {}
    for rate in (0.1, 0.02):
        theta, m = heavy_ball_path(gradient, start, rate, memory, round(10 / rate))
        paths[f"heavy ball, a = {rate}"] = np.arange(len(theta)) * rate, theta, m
        examples[f"a = {rate}"] = theta[: round(end / rate) + 1]
    for label, (at, theta, m) in paths.items():
        values = energy(VALLEY, theta, m, memory)
        energies[label] = at, values
        rise = np.diff(values)
        rises.append(
            {
                "path": label,
                "start": float(values[0]),
                "rising_share": float(np.mean(rise > 0)),
                "largest_rise": float(max(rise.max(), 0.0)),
            }
        )
    figures.heavy_ball(path, exact[:801], examples, rates, measured, energies)
    return {
        "friction": [
            {"beta_1": b1, "beta_2": b2} | vars(friction(1e-4, b1, b2))
            for b1, b2 in ((0.0, 0.9), (0.5, 0.9), (0.5, 0.999), (0.9, 0.999))
        ],
        "distance": [
            {"path": label, "rates": rates.tolist(), "errors": v.tolist(), "order": k}
            for label, (v, k) in measured.items()
        ],
        "energy": rises,
    }


def _polynomial_memory(time: float) -> float:
    """Returns r(n) = r / sum of a(l), with r = 3."""
    return 3.0 / time


def flat_minima(
    path: str | os.PathLike[str], runs: int, steps: int, seed: int
) -> dict[str, Any]:
    """Counts which well Adam's runs end in, against the friction.

    The noise makes v nearly stationary, v = noise^2. The ball is then in a heat bath of
    temperature rate * noise / 2, in units of the objective, whatever its friction: that
    gives the share in equilibrium, which no friction enters.

    Args:
        path: Where the figure goes.
        runs: Runs for each friction.
        steps: Steps of the longer of two budgets; the shorter one is a tenth.
        seed: Seed of the noise.

    Returns:
        The shares, with Wilson's intervals.
    """
    rate, noise = 0.05, 8.0
    x = np.linspace(-4, 4, 8001)
    values = TWO_WELLS.value(x[:, None])
    weights = np.exp(-values / (rate * noise / 2))
    equilibrium = float(weights[x < 0].sum() / weights.sum())
    rows, shares = [], {}
    for budget in (max(steps // 10, 1), steps):
        points = []
        for beta_1 in (0.0, 0.5, 0.9, 0.97, 0.99, 0.997, 0.999):
            flat, count = flat_share(
                beta_1, rate=rate, noise=noise, steps=budget, runs=runs, seed=seed
            )
            low, high = wilson(flat, count)
            memory = (1 - beta_1) / rate
            points.append((memory, flat / count, low, high))
            rows.append(
                {
                    "steps": budget,
                    "beta_1": beta_1,
                    "friction": memory,
                    "share": flat / count,
                    "low": low,
                    "high": high,
                }
            )
        shares[f"{budget:,} steps"] = points
    shown = np.abs(x) <= 2
    figures.flat_minima(path, (x[shown], values[shown]), shares, equilibrium)
    return {
        "runs": runs,
        "rate": rate,
        "noise": noise,
        "equilibrium": equilibrium,
        "shares": rows,
    }
