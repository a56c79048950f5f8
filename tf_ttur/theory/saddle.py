"""The toy saddle of the paper's appendix A1: f(x, y) = (1 + x^2)(100 - y^2).

x descends and y ascends on noisy gradients, each with a learning rate of its own. All
runs advance together, as arrays. The updates and their order are those of the authors'
notebook: noise is added to the gradient before the rate, and y moves on the new x.

"Norm" in the notebook is the distance from the saddle, sqrt(x^2 + y^2), and not that of
the gradient; the two order the four settings differently, so both are measured here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np

__all__ = [
    "ROWS",
    "THRESHOLD",
    "Row",
    "Summary",
    "distance",
    "gradient",
    "iterate",
    "objective",
    "path",
    "summarise",
]

# All runs start here, as in the notebook.
_START = (0.5, -0.4)


@dataclasses.dataclass(frozen=True)
class Row:
    """One setting of the two learning rates.

    Attributes:
        name: Its name in the tables.
        lr_x: Learning rate of the player that minimises.
        lr_y: Learning rate of the player that maximises.
    """

    name: str
    lr_x: float
    lr_y: float


ROWS = (
    Row("orig fast", 0.01, 0.01),
    Row("orig slow", 0.001, 0.001),
    Row("TTUR, slow x", 0.0001, 0.01),
    Row("TTUR, slow y", 0.01, 0.0001),
)


def objective(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Returns f(x, y) = (1 + x^2)(100 - y^2), which is 100 at the saddle (0, 0)."""
    return (1 + x * x) * (100 - y * y)


def gradient(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the partial derivatives of f with respect to x and to y."""
    return 2 * x * (100 - y * y), -2 * y * (1 + x * x)


def distance(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Returns the distance from the saddle, which the authors' notebook calls norm."""
    return np.hypot(x, y)


def iterate(
    row: Row, steps: int = 5000, runs: int = 1, seed: int = 0, noise: float = 1.0
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields the points of all runs after 0, 1, ..., `steps` updates.

    Args:
        row: The learning rates.
        steps: Updates of each player.
        runs: Runs that advance together, with independent noise.
        seed: Seed of the noise.
        noise: Its standard deviation, 1 in the notebook.

    Yields:
        x and y, float64 (runs,) each.

    Example:
        >>> *_, (x, y) = iterate(Row("slow", 0.001, 0.001), noise=0.0)
        >>> bool(abs(x[0]) < 1e-10 and abs(y[0]) < 1e-4)
        True
    """
    generator = np.random.default_rng(seed)
    x, y = (np.full(runs, value) for value in _START)
    yield x, y
    for _ in range(steps):
        noise_x, noise_y = noise * generator.standard_normal((2, runs))
        x = x - row.lr_x * (gradient(x, y)[0] + noise_x)
        y = y + row.lr_y * (gradient(x, y)[1] + noise_y)
        yield x, y


def path(row: Row, steps: int = 5000, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Returns the points of one run.

    Args:
        row: The learning rates.
        steps: Updates of each player.
        seed: Seed of the noise.

    Returns:
        x and y, float64 (steps + 1,) each.
    """
    points = np.array([(x[0], y[0]) for x, y in iterate(row, steps, 1, seed)])
    return points[:, 0], points[:, 1]


@dataclasses.dataclass(frozen=True)
class Summary:
    """What many runs of one setting came to.

    A run's noise floor is its mean over the last `window` updates. Medians count runs
    that never come below the threshold as infinitely slow.

    Attributes:
        row: The learning rates.
        runs: Number of runs.
        steps: Updates in each.
        distance_steps: Median updates until the distance from the saddle is below
            `THRESHOLD`; infinite where most runs never get there.
        gradient_steps: Likewise for the norm of the gradient.
        distance_floor: Mean over runs of the floor of the distance.
        gradient_floor: Mean over runs of the floor of the gradient's norm.
    """

    row: Row
    runs: int
    steps: int
    distance_steps: float
    gradient_steps: float
    distance_floor: float
    gradient_floor: float


THRESHOLD = 0.1
"""A run has arrived where its distance, or its gradient's norm, is below this."""


def summarise(
    row: Row, steps: int = 5000, runs: int = 400, seed: int = 0, window: int = 1000
) -> Summary:
    """Measures how fast and how near many runs come to the saddle.

    Only the current points are kept, so runs cost no memory.

    Args:
        row: The learning rates.
        steps: Updates of each player in each run.
        runs: Number of runs.
        seed: Seed of the noise.
        window: Last updates, whose mean is the floor; at most `steps`.

    Returns:
        The medians and means.
    """
    first = np.full((2, runs), np.inf)
    floor = np.zeros((2, runs))
    for step, (x, y) in enumerate(iterate(row, steps, runs, seed)):
        norms = np.stack([distance(x, y), np.hypot(*gradient(x, y))])
        first[(norms < THRESHOLD) & np.isinf(first)] = step
        if step > steps - window:
            floor += norms / window
    medians = [float(np.sort(steps_of)[(runs - 1) // 2]) for steps_of in first]
    return Summary(row, runs, steps, *medians, *floor.mean(axis=1).tolist())
