"""Adam as a heavy ball with friction (the paper's section 3 and Theorem 2).

Adam's first moment follows the stochastic heavy ball of Gadat et al.,

    theta(n+1) = theta(n) - a(n+1) m(n)
    m(n+1)     = (1 - a(n+1) r(n)) m(n) + a(n+1) r(n) grad f(theta(n)),

with beta_1 = 1 - a(n+1) r(n) and beta_2 = 1 - alpha a(n+1) r(n). In the time
t = sum of a(n), these are Euler steps of

    theta' = -m,  m' = r (grad f - m),  that is  theta'' + r theta' + r grad f = 0,

and for a constant r, in the time sqrt(r) t, of the paper's
theta'' + sqrt(r) theta' + grad f = 0. A stationary second moment v only rescales f.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import scipy.integrate

__all__ = [
    "TWO_WELLS",
    "VALLEY",
    "Friction",
    "Objective",
    "adam_path",
    "energy",
    "flat_share",
    "friction",
    "heavy_ball_path",
    "ode",
    "stationary_noise",
    "wilson",
]

Gradient = Callable[[np.ndarray], np.ndarray]
Noise = Callable[[np.ndarray, np.random.Generator], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Objective:
    """A function of points and its gradient.

    Attributes:
        value: Points float64 (..., d) -> (...).
        gradient: Points (..., d) -> (..., d).
    """

    value: Callable[[np.ndarray], np.ndarray]
    gradient: Gradient


def _valley_gradient(points: np.ndarray) -> np.ndarray:
    x, y = points[..., 0], points[..., 1]
    return np.stack([x * (1 + y * y), y * (4 + x * x)], axis=-1)


def _valley(points: np.ndarray) -> np.ndarray:
    x, y = points[..., 0], points[..., 1]
    return (x * x + 4 * y * y + x * x * y * y) / 2


# The valley is not quadratic, and has the curvatures 1 and 4 at its minimum (0, 0).
VALLEY = Objective(_valley, _valley_gradient)

# The bottom of the flat well is rounder than that of the sharp one.
_FLAT, _SHARP = 1.0, 0.05


def _roundness(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the roundness of each point's well, and its depth before scaling."""
    roundness = np.where(points < 0, _FLAT, _SHARP)
    return roundness, np.sqrt(1 + roundness**2) - roundness


def _two_wells(points: np.ndarray) -> np.ndarray:
    roundness, depth = _roundness(points)
    return ((np.hypot(points**2 - 1, roundness) - roundness) / depth)[..., 0]


def _two_wells_gradient(points: np.ndarray) -> np.ndarray:
    roundness, depth = _roundness(points)
    u = points**2 - 1
    return 2 * points * u / np.hypot(u, roundness) / depth


# The two wells have minima of value 0 at -1 (flat: curvature 9.7) and 1 (sharp: 84),
# with a barrier of height 1 at 0 between them. Gradient descent from either
# side of the barrier ends on that side, so neither well has the larger basin.
TWO_WELLS = Objective(_two_wells, _two_wells_gradient)


@dataclasses.dataclass(frozen=True)
class Friction:
    """What Adam's decays mean for the ball.

    Attributes:
        memory: r = (1 - beta_1) / rate, the friction in the time sum of a(n).
        alpha: (1 - beta_2) / (1 - beta_1), how many times slower v forgets than m.
        damping: The paper's a in theta'' + a theta' + grad f = 0.
        critical_curvature: Along directions that curve more than this, the ball swings.
    """

    memory: float
    alpha: float
    damping: float
    critical_curvature: float


def friction(
    rate: float, beta_1: float, beta_2: float, second_moment: float = 1.0
) -> Friction:
    """Maps Adam's settings to those of the ball.

    Args:
        rate: The learning rate, > 0.
        beta_1: Decay of the first moment, in [0, 1).
        beta_2: Decay of the second moment, in [0, 1).
        second_moment: The stationary v, > 0: with theta' = -m / sqrt(v), the force is
            r / sqrt(v) grad f, and the paper's form has the friction sqrt(r sqrt(v)).

    Returns:
        The ball's constants.

    Raises:
        ValueError: An argument is out of its range.

    Example:
        >>> ball = friction(rate=0.01, beta_1=0.5, beta_2=0.999)
        >>> round(ball.memory, 6), round(ball.alpha, 6), round(ball.damping, 4)
        (50.0, 0.002, 7.0711)
    """
    if not (0 <= beta_1 < 1 and 0 <= beta_2 < 1 and rate > 0 and second_moment > 0):
        raise ValueError(
            f"Need 0 <= beta < 1, rate > 0 and second_moment > 0; got {rate=}, "
            f"{beta_1=}, {beta_2=}, {second_moment=}."
        )
    memory = (1 - beta_1) / rate
    damping = np.sqrt(memory * np.sqrt(second_moment))
    return Friction(
        memory, (1 - beta_2) / (1 - beta_1), float(damping), float(damping**2 / 4)
    )


def ode(
    gradient: Gradient,
    start: np.ndarray,
    memory: float | Callable[[float], float],
    times: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Integrates theta' = -m, m' = r(t) (grad f - m) from m = 0 by SciPy.

    Args:
        gradient: Of the objective.
        start: theta at the first time, float64 (d,).
        memory: r: a number, or a function of time (polynomial memory: r / t).
        times: When to report, increasing, (n,).

    Returns:
        theta and m, float64 (n, d) each, to a relative error of about 1e-10.
    """
    r = memory if callable(memory) else lambda _: memory
    size = len(start)

    def slope(t: float, state: np.ndarray) -> np.ndarray:
        theta, m = state[:size], state[size:]
        return np.concatenate([-m, r(t) * (gradient(theta) - m)])

    solution = scipy.integrate.solve_ivp(
        slope,
        (times[0], times[-1]),
        np.concatenate([start, np.zeros(size)]),
        method="DOP853",
        t_eval=times,
        rtol=1e-10,
        atol=1e-12,
    )
    if not solution.success:
        raise RuntimeError(f"The equation could not be solved: {solution.message}")
    return solution.y[:size].T, solution.y[size:].T


def heavy_ball_path(
    gradient: Gradient,
    start: np.ndarray,
    rate: float,
    memory: float | Callable[[float], float],
    steps: int,
    start_time: float = 0.0,
) -> tuple[np.ndarray, np.ndarray]:
    """Takes the heavy ball's steps of the module's docstring, from m = 0.

    Args:
        gradient: Of the objective.
        start: float64 (..., d); leading axes are independent runs.
        rate: The step size a.
        memory: r, or a function of the time `start_time` + n a.
        steps: Number of steps.
        start_time: The time of the start.

    Returns:
        theta and m, float64 (steps + 1, ..., d) each.
    """
    r = memory if callable(memory) else lambda _: memory
    theta = np.array(start, float)
    m = np.zeros_like(theta)
    thetas, ms = [theta], [m]
    for n in range(steps):
        decay = 1 - rate * r(start_time + n * rate)
        theta, m = theta - rate * m, decay * m + (1 - decay) * gradient(theta)
        thetas.append(theta)
        ms.append(m)
    return np.array(thetas), np.array(ms)


def adam_path(
    gradient: Gradient,
    start: np.ndarray,
    rate: float,
    memory: float,
    alpha: float,
    steps: int,
    *,
    noise: Noise | None = None,
    second_moment: float = 0.0,
    bias_correction: bool = False,
    epsilon: float = 0.0,
    seed: int = 0,
    keep: bool = True,
) -> np.ndarray:
    """Takes Adam's steps, with beta_1 = 1 - a r and beta_2 = 1 - alpha a r.

    Args:
        gradient: Of the objective.
        start: float64 (..., d); leading axes are independent runs.
        rate: The learning rate a.
        memory: r > 0.
        alpha: How much slower the second moment forgets.
        steps: Number of steps.
        noise: Given the gradients and a random generator, what is added to them.
        second_moment: v at the start. Adam starts from 0 and corrects the bias; the
            theory starts from the stationary value and does not.
        bias_correction: Whether to correct for moments that start from 0.
        epsilon: As in Adam.
        seed: Seed of the noise.
        keep: Whether to return the path, or its last point only.

    Returns:
        theta, float64 (steps + 1, ..., d), or (..., d) with `keep=False`.

    Raises:
        ValueError: A decay would not be in [0, 1).
    """
    beta_1, beta_2 = 1 - rate * memory, 1 - alpha * rate * memory
    if not (0 <= beta_1 < 1 and 0 <= beta_2 < 1):
        raise ValueError(
            f"rate {rate}, memory {memory} and alpha {alpha} give beta_1 = {beta_1} "
            f"and beta_2 = {beta_2}; both must be in [0, 1)."
        )
    generator = np.random.default_rng(seed)
    theta = np.array(start, float)
    m, v = np.zeros_like(theta), np.full_like(theta, second_moment)
    thetas = [theta]
    for n in range(1, steps + 1):
        g = gradient(theta)
        if noise is not None:
            g = g + noise(g, generator)
        m = beta_1 * m + (1 - beta_1) * g
        v = beta_2 * v + (1 - beta_2) * g * g
        step = rate
        if bias_correction:
            step = rate * np.sqrt(1 - beta_2**n) / (1 - beta_1**n)
        theta = theta - step * m / (np.sqrt(v) + epsilon)
        if keep:
            thetas.append(theta)
    return np.array(thetas) if keep else theta


def stationary_noise(second_moment: float) -> Noise:
    """Makes noise under which the squared gradients have one mean everywhere.

    Theorem 2 assumes stationary second moments; Gaussian noise of variance
    v - (grad f)^2 makes E[(grad f + M)^2] = v exactly.

    Args:
        second_moment: v, no smaller than any squared derivative along the path.

    Returns:
        The noise, for `adam_path`.
    """

    def noise(g: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        variance = second_moment - g * g
        if variance.min() < 0:
            raise ValueError(
                f"second_moment is {second_moment}, but a squared derivative is "
                f"{np.max(g * g)}."
            )
        return np.sqrt(variance) * generator.standard_normal(g.shape)

    return noise


def energy(
    objective: Objective, theta: np.ndarray, m: np.ndarray, memory: float
) -> np.ndarray:
    """Returns the Lyapunov function |m|^2 / (2 r) + f along a path.

    It is the paper's |theta'|^2 / 2 + f in the time sqrt(r) t, and falls at the rate
    |m|^2 along the equation's solutions.

    Args:
        objective: f.
        theta: Points, float64 (n, d).
        m: Momenta, float64 (n, d).
        memory: r.

    Returns:
        Float64 (n,).
    """
    return (m * m).sum(axis=-1) / (2 * memory) + objective.value(theta)


def flat_share(
    beta_1: float,
    *,
    rate: float,
    noise: float,
    steps: int,
    runs: int,
    beta_2: float = 0.999,
    seed: int = 0,
) -> tuple[int, int]:
    """Counts the runs of Adam on `TWO_WELLS` that end on the flat well's side.

    All start at rest and uniformly in [-2, 2], half of them on each side.

    Args:
        beta_1: Decay of the first moment; the friction is (1 - beta_1) / rate.
        rate: The learning rate.
        noise: Standard deviation of the Gaussian noise on the gradient.
        steps: Number of steps.
        runs: Number of runs.
        beta_2: Decay of the second moment.
        seed: Seed of starts and noise.

    Returns:
        Runs that end left of the barrier, and all runs.
    """
    ball = friction(rate, beta_1, beta_2)
    ends = adam_path(
        TWO_WELLS.gradient,
        np.linspace(-2, 2, runs)[:, None],
        rate,
        ball.memory,
        ball.alpha,
        steps,
        noise=lambda g, generator: noise * generator.standard_normal(g.shape),
        bias_correction=True,
        epsilon=1e-8,
        seed=seed,
        keep=False,
    )
    return int((ends < 0).sum()), runs


def wilson(successes: int, trials: int) -> tuple[float, float]:
    """Returns the Wilson 95% confidence interval of a share.

    Args:
        successes: How many.
        trials: Of how many.

    Example:
        >>> [round(x, 4) for x in wilson(5, 10)]
        [0.2366, 0.7634]
    """
    from scipy.stats import binomtest

    interval = binomtest(successes, trials).proportion_ci(method="wilson")
    return float(interval.low), float(interval.high)
