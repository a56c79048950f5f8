"""The figures of the theory's experiments, as PNG files."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np

from fid import drawing
from tf_ttur.theory import saddle

__all__ = [
    "flat_minima",
    "heavy_ball",
    "saddle_panel",
    "saddle_surface",
    "two_time_scales",
]

# Colours of the curves that share axes, in this order.
_COLOURS = (drawing.BLUE, drawing.VERMILION, drawing.GREEN, drawing.BLACK)


def saddle_panel(
    path: str | os.PathLike[str], steps: int = 5000, seed: int = 0
) -> None:
    """Draws the notebook's 4x3 panel, one run a row.

    The columns are the objective, the distance from the saddle (the notebook's norm)
    with the norm of the gradient behind it, and the points, coloured by step.

    Args:
        path: Where the PNG goes.
        steps: Updates in each run.
        seed: Seed of the noise.
    """
    figure = drawing.new_figure(10.0, 10.5)
    grid = figure.subplots(len(saddle.ROWS), 3)
    for row, (left, middle, right) in zip(saddle.ROWS, grid, strict=True):
        x, y = saddle.path(row, steps, seed)
        left.plot(saddle.objective(x, y), color=_COLOURS[0], linewidth=0.7)
        left.axhline(100, color="0.5", linewidth=0.7)
        left.set_ylabel(f"{row.name}\nx {row.lr_x:g}, y {row.lr_y:g}")
        gradient = np.hypot(*saddle.gradient(x, y))
        middle.semilogy(gradient, color="0.75", linewidth=0.7, label="|gradient|")
        distance = saddle.distance(x, y)
        middle.semilogy(distance, color=_COLOURS[1], linewidth=0.7, label="|(x, y)|")
        middle.axhline(saddle.THRESHOLD, color="0.5", linewidth=0.7)
        points = right.scatter(x, y, c=np.arange(len(x)), s=3, cmap="viridis")
        right.plot(0, 0, "+", color=_COLOURS[1], markersize=10)
        for axes in (left, middle):
            drawing.plain(axes)
    grid[1, 1].legend(frameon=False, loc="upper right")
    figure.colorbar(points, ax=grid[:, 2], label="step", shrink=0.4)
    for axes, title in zip(
        grid[0], ("objective", "distance from the saddle", "(x, y)"), strict=True
    ):
        axes.set_title(title)
    for axes in grid[-1, :2]:
        axes.set_xlabel("step")
    drawing.save(figure, path, dpi=80)


def saddle_surface(path: str | os.PathLike[str]) -> None:
    """Draws the objective as a surface.

    Args:
        path: Where the PNG goes.
    """
    import mpl_toolkits.mplot3d  # noqa: F401 - registers the projection "3d"

    figure = drawing.new_figure(6.0, 4.5)
    axes = figure.add_subplot(projection="3d", computed_zorder=False)
    x, y = np.meshgrid(np.linspace(-1, 1, 41), np.linspace(-8, 8, 41))
    axes.plot_surface(x, y, saddle.objective(x, y), cmap="viridis", linewidth=0)
    axes.scatter(0, 0, 100, color=_COLOURS[1], s=40, depthshade=False)
    axes.set(xlabel="x", ylabel="y", xticks=(-1, 0, 1), yticks=(-8, 0, 8))
    axes.set_title("f(x, y) = (1 + x²)(100 − y²)")
    drawing.save(figure, path)


def two_time_scales(
    path: str | os.PathLike[str],
    distances: dict[str, tuple[np.ndarray, float]],
    orbits: dict[str, np.ndarray],
    squares: dict[str, tuple[np.ndarray, np.ndarray, str]],
) -> None:
    """Draws convergence and its failure on the games whose Jacobian is known.

    Args:
        path: Where the PNG goes.
        distances: By label, the distance from the equilibrium at every step and the
            spectral radius that predicts its slope (drawn dashed).
        orbits: By label, points (steps + 1, 2).
        squares: By label, steps, mean squares there, and the format of the line.
    """
    figure = drawing.new_figure(12.0, 3.9)
    left, middle, right = figure.subplots(1, 3)
    for colour, (label, (values, radius)) in zip(
        _COLOURS, distances.items(), strict=False
    ):
        steps = np.arange(len(values))
        left.semilogy(values, color=colour, label=label, linewidth=1)
        left.semilogy(values[0] * radius**steps, color=colour, linestyle=":")
    left.set_title("linear-quadratic game")
    left.set_xlabel("step (dotted: spectral radius)")
    left.set_ylabel("distance from the equilibrium")
    for colour, (label, points) in zip(_COLOURS, orbits.items(), strict=False):
        middle.plot(*points.T, color=colour, label=label, linewidth=0.8)
    middle.plot(0, 0, "+", color="0.4")
    middle.set_title("Dirac-GAN")
    middle.set_xlabel("generator θ")
    middle.set_ylabel("discriminator w")
    for colour, (label, (steps, values, form)) in zip(
        _COLOURS, squares.items(), strict=False
    ):
        right.loglog(steps, values, form, color=colour, label=label, linewidth=1)
    right.set_title("falling step sizes, noise")
    right.set_xlabel("step n")
    right.set_ylabel("mean square")
    for axes in (left, middle, right):
        drawing.plain(axes)
        axes.legend(frameon=False, fontsize=8)
    drawing.save(figure, path, dpi=90)


def heavy_ball(
    path: str | os.PathLike[str],
    curve: np.ndarray,
    steps: dict[str, np.ndarray],
    rates: np.ndarray,
    errors: dict[str, tuple[np.ndarray, float]],
    energies: dict[str, tuple[np.ndarray, np.ndarray]],
) -> None:
    """Draws Adam's path beside the ball's, their distance, and the energy.

    Args:
        path: Where the PNG goes.
        curve: The equation's solution, (n, 2).
        steps: By label, discrete paths, (n, 2) each.
        rates: The step sizes, (k,).
        errors: By label, largest distances from the solution, (k,), and their order.
        energies: By label, times and energies.
    """
    figure = drawing.new_figure(12.0, 3.9)
    left, middle, right = figure.subplots(1, 3)
    left.plot(*curve.T, color="0.0", linewidth=1.5, label="equation")
    for colour, (label, points) in zip(_COLOURS, steps.items(), strict=False):
        left.plot(*points.T, ".-", color=colour, markersize=3, linewidth=0.5)
        left.plot([], [], ".-", color=colour, label=label)
    left.set_xlabel("θ₁")
    left.set_ylabel("θ₂")
    left.set_title("paths")
    for colour, (label, (values, order)) in zip(_COLOURS, errors.items(), strict=False):
        text = f"{label}: order {order:.2f}"
        middle.loglog(rates, values, "o-", color=colour, label=text, markersize=4)
    middle.set_xlabel("step size a")
    middle.set_ylim(top=50)  # This leaves room for the legend.
    middle.set_title("largest distance from the equation")
    for colour, (label, (times, values)) in zip(
        _COLOURS, energies.items(), strict=False
    ):
        right.semilogy(times, values, color=colour, label=label, linewidth=1)
    right.set_xlabel("time, sum of a(n)")
    right.set_title("energy |m|² / 2r + f")
    for axes in (left, middle, right):
        drawing.plain(axes)
        axes.legend(frameon=False, fontsize=8)
    drawing.save(figure, path, dpi=90)


def flat_minima(
    path: str | os.PathLike[str],
    curve: tuple[np.ndarray, np.ndarray],
    shares: dict[str, Sequence[tuple[float, float, float, float]]],
    equilibrium: float,
) -> None:
    """Draws the two wells and the share of runs that end in the flat one.

    Args:
        path: Where the PNG goes.
        curve: Abscissae and values of the objective.
        shares: By label, rows of friction, share, and the interval's low and high end.
        equilibrium: The share in thermal equilibrium.
    """
    figure = drawing.new_figure(9.0, 3.9)
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.5))
    left.plot(*curve, color=_COLOURS[3], linewidth=1.2)
    left.set_xlabel("θ")
    left.set_title("flat and sharp well")
    for index, (label, rows) in enumerate(shares.items()):
        friction, share, low, high = np.array(rows).T
        right.errorbar(
            friction * 1.04**index,  # Bars do not hide each other so.
            share,
            yerr=(share - low, high - share),
            fmt="o-",
            color=_COLOURS[index],
            capsize=2,
            markersize=4,
            linewidth=0.8,
            label=label,
        )
    right.axhline(0.5, color="0.5", linestyle=":", label="at the start")
    right.axhline(
        equilibrium,
        color="0.5",
        linestyle="--",
        label=f"equilibrium: {equilibrium:.3f}",
    )
    right.set_xscale("log")
    right.set_xlabel("friction r = (1 − β₁) / rate")
    right.set_title("share of runs in the flat well, 95% intervals")
    right.margins(y=0.25)  # This leaves room for the legend.
    right.legend(frameon=False, fontsize=8, loc="lower right", ncols=2)
    for axes in (left, right):
        drawing.plain(axes)
    drawing.save(figure, path, dpi=90)
