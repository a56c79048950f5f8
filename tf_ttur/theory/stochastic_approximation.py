"""Two-player games where everything is known, under two step sizes (Theorem 1).

The generator's parameter theta is slow and the discriminator's w fast:

    theta(n+1) = theta(n) + a(n) (drift_theta + noise)
    w(n+1)     = w(n)     + b(n) (drift_w + noise)

both from the old point, as in the theory (the training loops alternate). At an
equilibrium the drift has the Jacobian J, and near it one update multiplies the distance
by I + diag(a, b) J: the spectral radius of that matrix says whether the iteration
converges, and how fast.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Protocol

import numpy as np
import scipy.linalg
import scipy.special

__all__ = [
    "DiracGAN",
    "Game",
    "LinearQuadratic",
    "contraction",
    "iterate",
    "power_slope",
    "second_moments",
    "stationary_covariance",
    "trajectory",
    "update_eigenvalues",
]


class Game(Protocol):
    """A game of two scalars with its equilibrium at (0, 0)."""

    def drift(self, theta: np.ndarray, w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns where each player moves to: minus its own loss's derivative."""

    @property
    def jacobian(self) -> np.ndarray:
        """The drift's Jacobian at the equilibrium, float64 (2, 2), theta first."""


@dataclasses.dataclass(frozen=True)
class LinearQuadratic:
    """min over theta, max over w of -p/2 theta^2 + c theta w - q/2 w^2.

    With q > 0 and c^2 > p q, A4 holds: for a fixed theta the discriminator settles at
    w = c theta / q, and on that answer the generator settles at 0. But for p > 0 the
    generator's own curvature is -p: what the players reach is a stationary point, and
    no minimum of the generator's own loss. diag(1, k) J has trace p - k q, so that the
    point attracts if and only if the fast player is k > p / q times as fast.

    Attributes:
        p: Minus the generator's own curvature.
        c: The coupling.
        q: Minus the discriminator's curvature of the objective.

    Example:
        >>> game = LinearQuadratic(p=1.0, c=1.0, q=0.5)
        >>> for fast in (0.01, 0.04):
        ...     print(abs(update_eigenvalues(game, 0.01, fast)).max() < 1)
        False
        True
    """

    p: float
    c: float
    q: float

    def drift(self, theta: np.ndarray, w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns p theta - c w and c theta - q w."""
        return self.p * theta - self.c * w, self.c * theta - self.q * w

    @property
    def jacobian(self) -> np.ndarray:
        """The drift's Jacobian [[p, -c], [c, -q]], the same everywhere."""
        return np.array([[self.p, -self.c], [self.c, -self.q]])


@dataclasses.dataclass(frozen=True)
class DiracGAN:
    """Dirac-GAN (Mescheder et al. 2018): real data at 0, fake at theta, D(x) = w x.

    The generator minimises, and the discriminator maximises, the minimax loss
    -log(1 + exp(-theta w)), less the penalty's gamma / 2 w^2 for the discriminator. At
    (0, 0) the Jacobian is [[0, -1/2], [1/2, -gamma]]. Without a penalty its eigenvalues
    are imaginary at any ratio of step sizes: the discriminator's own flow has no
    attractor (A4 fails), and two time scales cannot mend that.

    Attributes:
        gamma: Weight of the penalty on the discriminator's gradient, w^2.
    """

    gamma: float

    def drift(self, theta: np.ndarray, w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns -s w and s theta - gamma w, with s = 1 / (1 + exp(theta w))."""
        slope = scipy.special.expit(-theta * w)
        return -slope * w, slope * theta - self.gamma * w

    @property
    def jacobian(self) -> np.ndarray:
        """The drift's Jacobian [[0, -1/2], [1/2, -gamma]] at (0, 0)."""
        return np.array([[0.0, -0.5], [0.5, -self.gamma]])


def iterate(
    game: Game,
    slow: float | np.ndarray,
    fast: float | np.ndarray,
    steps: int,
    *,
    runs: int = 1,
    start: tuple[float, float] = (1.0, 1.0),
    noise: float = 0.0,
    seed: int = 0,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields the points of all runs after 0, 1, ..., `steps` updates.

    Args:
        game: The game.
        slow: The generator's step sizes a(n), a number or (steps,).
        fast: The discriminator's b(n), likewise.
        steps: Updates of each player, at once.
        runs: Runs that advance together, with independent noise.
        start: Where all of them begin.
        noise: Standard deviation of the Gaussian noise on each drift.
        seed: Seed of the noise.

    Yields:
        theta and w, float64 (runs,) each.
    """
    generator = np.random.default_rng(seed)
    theta, w = (np.full(runs, float(value)) for value in start)
    slow, fast = (np.broadcast_to(rate, steps) for rate in (slow, fast))
    yield theta, w
    for a, b in zip(slow, fast, strict=True):
        theta_drift, w_drift = game.drift(theta, w)
        if noise:
            noises = noise * generator.standard_normal((2, runs))
            theta_drift, w_drift = theta_drift + noises[0], w_drift + noises[1]
        theta, w = theta + a * theta_drift, w + b * w_drift
        yield theta, w


def trajectory(
    game: Game, slow: float, fast: float, steps: int, start: tuple[float, float]
) -> np.ndarray:
    """Returns one run without noise, float64 (steps + 1, 2)."""
    points = iterate(game, slow, fast, steps, start=start)
    return np.array([(theta[0], w[0]) for theta, w in points])


def update_eigenvalues(game: Game, slow: float, fast: float) -> np.ndarray:
    """Returns the eigenvalues of I + diag(slow, fast) J, complex (2,).

    Args:
        game: The game.
        slow: The generator's step size.
        fast: The discriminator's.
    """
    return np.linalg.eigvals(np.eye(2) + np.diag([slow, fast]) @ game.jacobian)


def contraction(points: np.ndarray) -> float:
    """Measures the factor by which a run's distance from (0, 0) changes per update.

    Args:
        points: The run, float64 (steps + 1, 2). The first half is passed over, so that
            the slowest mode is left; what has sunk below 1e-200 is, too.

    Returns:
        The factor, by a straight line through the logarithms.
    """
    distances = np.hypot(*points[len(points) // 2 :].T)
    steps = np.arange(len(distances))
    kept = distances > 1e-200
    return float(np.exp(np.polyfit(steps[kept], np.log(distances[kept]), 1)[0]))


def stationary_covariance(
    game: Game, slow: float, fast: float, noise: float
) -> np.ndarray:
    """Returns the covariance that a converging linear game keeps under constant steps.

    It solves C = A C A' + noise^2 diag(slow^2, fast^2), with A = I + diag(slow, fast) J
    (SciPy's discrete Lyapunov solver).

    Args:
        game: A game with a linear drift.
        slow: The generator's step size.
        fast: The discriminator's.
        noise: Standard deviation of the noise on each drift.

    Returns:
        Float64 (2, 2), theta first.
    """
    rates = np.diag([slow, fast])
    update = np.eye(2) + rates @ game.jacobian
    return scipy.linalg.solve_discrete_lyapunov(update, (noise * rates) ** 2)


def second_moments(
    game: Game,
    slow: np.ndarray,
    fast: np.ndarray,
    at: np.ndarray,
    *,
    start: tuple[float, float] = (1.0, 1.0),
    noise: float = 0.0,
) -> np.ndarray:
    """Computes the second moments of a linear game's points exactly.

    They follow S(n+1) = A S(n) A' + noise^2 diag(a^2, b^2), with A = I + diag(a, b) J.

    Args:
        game: A game with a linear drift.
        slow: The generator's step sizes a(n), (steps,).
        fast: The discriminator's b(n), (steps,).
        at: Numbers of updates to report after, increasing, (k,).
        start: Where all runs begin.
        noise: Standard deviation of the noise on each drift.

    Returns:
        Float64 (k, 2, 2), theta first.
    """
    moments, reported = np.outer(start, start), []
    report = set(np.asarray(at).tolist())
    for step in range(len(slow) + 1):
        if step in report:
            reported.append(moments)
        if step < len(slow):
            rates = np.diag([slow[step], fast[step]])
            update = np.eye(2) + rates @ game.jacobian
            moments = update @ moments @ update.T + (noise * rates) ** 2
    return np.array(reported)


def power_slope(x: np.ndarray, y: np.ndarray) -> float:
    """Returns the slope of log y over log x by least squares.

    Args:
        x: Positive abscissae, (n,).
        y: Positive values, (n,).

    Example:
        >>> round(power_slope(np.array([1.0, 2.0, 4.0]), np.array([3.0, 1.5, 0.75])), 9)
        -1.0
    """
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])
