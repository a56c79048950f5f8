"""Figures of training runs."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from fid import drawing

__all__ = [
    "Band",
    "band",
    "cell_map",
    "heat_map",
    "sweep_curves",
    "training_curve",
]

# Colours of the curves that share axes, in this order.
_SERIES = (
    drawing.VERMILION,
    drawing.BLUE,
    drawing.GREEN,
    drawing.PURPLE,
    drawing.ORANGE,
    drawing.SKY_BLUE,
    drawing.BLACK,
)
_DPI = 120
_LINES = ("-", "--", ":", "-.")


# What each loss of a row is called in a figure, of whatever is trained.
_LOSSES = {
    "d_loss": ("discriminator", drawing.BLUE),
    "g_loss": ("generator", drawing.VERMILION),
    "loss": ("denoising", drawing.BLUE),
    "dm_loss": ("student, distribution matching", drawing.VERMILION),
    "adv_loss": ("student, adversarial", drawing.ORANGE),
    "fake_loss": ("fake score", drawing.GREEN),
}


def training_curve(
    rows: Sequence[dict[str, Any]],
    distance_key: str,
    path: str | os.PathLike[str],
    title: str = "",
    label: str | None = None,
    beside: Sequence[str] = (),
) -> None:
    """Draws the losses and the distance of a run over its steps.

    Where the rows hold the floor of what is drawn, such as `jsd_4_floor`, it is drawn
    as a line, and the axis is not logarithmic.

    Args:
        rows: Rows of metrics.jsonl, in order.
        distance_key: Name of the distance in them, `fid`, `frechet_<extractor>` or
            `jsd_4`.
        path: Where the PNG goes.
        title: Title of the figure.
        label: What the distance is called; None means its name in the rows.
        beside: Names of further values to draw in the same axes.
    """
    figure = drawing.new_figure(7.0, 6.0)
    upper, lower = figure.subplots(2, 1, sharex=True)
    for key, (player, colour) in _LOSSES.items():
        if any(key in row for row in rows):
            upper.plot(*_points(rows, key), color=colour, marker=".", label=player)
    upper.set_ylabel("loss (mean over the interval)")
    if upper.lines:
        upper.legend(frameon=False)
    colours = (drawing.BLACK, *_SERIES)
    floors = False
    for key, colour in zip((distance_key, *beside), colours, strict=False):
        name = key if beside else None
        lower.plot(*_points(rows, key), color=colour, marker=".", label=name)
        for floor in _points(rows, f"{key}_floor")[1][-1:]:
            name, floors = f"{key} of real lines: {floor:.4g}", True
            lower.axhline(floor, color=colour, linestyle="--", linewidth=1, label=name)
    steps, values = _points(rows, distance_key)
    if values:
        best = min(range(len(values)), key=values.__getitem__)
        lower.plot(
            steps[best],
            values[best],
            "o",
            color=drawing.GREEN,
            label=f"best: {values[best]:.4g} at step {steps[best]}",
        )
        lower.legend(frameon=False)
        if min(values) > 0 and not floors:
            lower.set_yscale("log")
    lower.set_ylabel(textwrap.fill(label or distance_key, 36))
    lower.set_xlabel("step")
    for axes in (upper, lower):
        drawing.plain(axes)
    upper.set_title(title)
    drawing.save(figure, path, _DPI)


class Band(NamedTuple):
    """The mean of several curves, between the lowest and the highest.

    Attributes:
        x: Where, float64 (n,).
        mean: float64 (n,).
        low: float64 (n,).
        high: float64 (n,).
    """

    x: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray


def band(
    curves: Sequence[tuple[Sequence[float], Sequence[float]]], x: Sequence[float]
) -> Band:
    """Takes mean, minimum and maximum of curves at common places.

    Args:
        curves: Each its places, ascending, and its values.
        x: The common places, within every curve. Between two places of a curve its
            value is interpolated linearly.

    Returns:
        The band.

    Example:
        >>> two = band([([0, 2], [4.0, 2.0]), ([0, 1, 2], [1.0, 1.0, 0.0])], [0, 1, 2])
        >>> two.mean.tolist(), two.low.tolist(), two.high.tolist()
        ([2.5, 2.0, 1.0], [1.0, 1.0, 0.0], [4.0, 3.0, 2.0])
    """
    x = np.asarray(x, np.float64)
    values = np.stack([np.interp(x, *curve) for curve in curves])
    return Band(x, values.mean(axis=0), values.min(axis=0), values.max(axis=0))


def sweep_curves(
    curves: dict[str, tuple[Band, Band]], label: str, path: str | os.PathLike[str]
) -> None:
    """Draws a distance over steps and over minutes, as the paper's figures do.

    Args:
        curves: By their names in the legend: the band over steps and that over
            minutes. The first one is drawn on top, and of many curves it alone has a
            band.
        label: What the distance is called.
        path: Where the PNG goes.
    """
    figure = drawing.new_figure(11.0, 5.0)
    both = figure.subplots(1, 2, sharey=True)
    titles = ("step (generator updates)", "minutes (wall clock)")
    for part, (axes, title) in enumerate(zip(both, titles, strict=True)):
        for index, (name, bands) in enumerate(curves.items()):
            x, mean, low, high = bands[part]
            style = {
                "color": _SERIES[index % len(_SERIES)],
                "zorder": 3 + 1 / (1 + index),
            }
            # Many bands over each other would hide the lines.
            if len(curves) <= len(_SERIES) or not index:
                axes.fill_between(x, low, high, alpha=0.18, linewidth=0, **style)
            line = _LINES[index // len(_SERIES) % len(_LINES)]
            axes.plot(
                x, mean, line, linewidth=1.0 if index else 2.2, label=name, **style
            )
        axes.set_xlabel(title)
        drawing.plain(axes)
    extremes = [(x.low.min(), x.high.max()) for bands in curves.values() for x in bands]
    if _wide(np.array(extremes)):
        both[0].set_yscale("log")
    what = "mean, min to max" if len(curves) <= len(_SERIES) else "mean"
    both[0].set_ylabel(f"{label}: {what}")
    if len(curves) <= len(_SERIES):
        both[1].legend(frameon=False)
    else:
        # So many names would lie on the curves.
        both[1].legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    drawing.save(figure, path, _DPI)


def heat_map(
    values: dict[tuple[float, float], float], label: str, path: str | os.PathLike[str]
) -> None:
    """Draws a value for each pair of learning rates on logarithmic axes.

    Args:
        values: By (discriminator's rate, generator's rate).
        label: What the values are called.
        path: Where the PNG goes.
    """
    rates = [sorted({cell[part] for cell in values}) for part in (0, 1)]
    notes = {cell: "\none rate" for cell in values if cell[0] == cell[1]}
    figure = _cells(values, rates, [_edges(x) for x in rates], label, notes)
    axes = figure.axes[0]
    axes.set(xscale="log", yscale="log")
    axes.set_xlabel("discriminator's learning rate")
    axes.set_ylabel("generator's learning rate")
    for axis, ticks in zip((axes.xaxis, axes.yaxis), rates, strict=True):
        axis.set_ticks(ticks, [f"{x:g}" for x in ticks])
        axis.set_ticks([], minor=True)
    drawing.save(figure, path, _DPI)


def cell_map(
    values: Mapping[tuple[str, str], float],
    places: Sequence[Sequence[str]],
    names: Sequence[str],
    label: str,
    path: str | os.PathLike[str],
) -> None:
    """Draws a value for each pair of settings, in cells of equal size.

    Args:
        values: By both settings.
        places: All values of the first setting and of the second, in their order.
        names: What the two are called.
        label: What the values are called.
        path: Where the PNG goes.
    """
    at = [{text: index for index, text in enumerate(x)} for x in places]
    figure = _cells(
        {(at[0][x], at[1][y]): value for (x, y), value in values.items()},
        [range(len(x)) for x in places],
        [np.arange(len(x) + 1) - 0.5 for x in places],
        label,
    )
    axes = figure.axes[0]
    axes.set_xlabel(names[0])
    axes.set_ylabel(names[1])
    for axis, texts in zip((axes.xaxis, axes.yaxis), places, strict=True):
        axis.set_ticks(range(len(texts)), texts)
    drawing.save(figure, path, _DPI)


def _cells(
    values: Mapping[tuple[float, float], float],
    places: Sequence[Sequence[float]],
    edges: Sequence[np.ndarray],
    label: str,
    notes: Mapping[tuple[float, float], str] | None = None,
) -> Any:
    """Returns a figure with a coloured cell for each value, and a bar beside it."""
    from matplotlib.colors import LogNorm
    from matplotlib.ticker import LogLocator, ScalarFormatter

    columns, rows = places
    cells = np.full((len(rows), len(columns)), np.nan)
    for (x, y), value in values.items():
        cells[rows.index(y), columns.index(x)] = value
    figure = drawing.new_figure(3.4 + 1.0 * len(columns), 2.6 + 0.8 * len(rows))
    axes = figure.subplots()
    norm = LogNorm() if _wide(np.array([*values.values()])) else None
    mesh = axes.pcolormesh(*edges, cells, cmap="cividis", norm=norm)
    for (x, y), value in values.items():
        axes.text(
            x,
            y,
            f"{value:.4g}" + (notes or {}).get((x, y), ""),
            color="black" if mesh.norm(value) > 0.5 else "white",
            ha="center",
            va="center",
            fontsize=9,
        )
    bar = figure.colorbar(mesh, label=f"best {label},\nmean over seeds")
    if norm is not None:
        bar.ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5, 7)))
        bar.ax.yaxis.set_major_formatter(ScalarFormatter())
        bar.ax.yaxis.set_ticks([], minor=True)
    return figure


def _wide(values: np.ndarray) -> bool:
    """Says whether a logarithmic scale shows values better, and can."""
    return bool(values.min() > 0 and values.max() > 3 * values.min())


def _edges(places: Sequence[float]) -> np.ndarray:
    """Returns the borders of cells around places, halfway on a logarithmic axis."""
    logs = np.log(places)
    if len(logs) == 1:
        return np.exp(logs[0] + np.array([-0.5, 0.5]))
    middles = (logs[1:] + logs[:-1]) / 2
    ends = 2 * logs[0] - middles[0], 2 * logs[-1] - middles[-1]
    return np.exp([ends[0], *middles, ends[1]])


def _points(rows: Sequence[dict[str, Any]], key: str) -> tuple[list[int], list[float]]:
    points = [(row["step"], row[key]) for row in rows if row.get(key) is not None]
    return [step for step, _ in points], [value for _, value in points]
