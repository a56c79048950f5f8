"""The page of figures of a study of batch sizes, a page a threshold."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from fid import drawing
from tf_ttur.studies.batch_report import Estimate, Finding
from tf_ttur.studies.batch_rows import Row
from tf_ttur.theory.critical_batch import Run

__all__ = ["page"]

_COLOURS = (
    drawing.BLUE,
    drawing.VERMILION,
    drawing.GREEN,
    drawing.PURPLE,
    drawing.ORANGE,
    drawing.SKY_BLUE,
    drawing.BLACK,
)
# Curves of distances a variant: smallest, middle and largest batch size.
_TRACES = 3


def page(
    path: str | os.PathLike[str],
    findings: Sequence[Finding],
    rows: Sequence[Row],
    estimates: Sequence[Estimate] = (),
) -> None:
    """Draws N(b), N(b) b, 1/N over 1/b, the distances, and measured over estimated b*.

    Args:
        path: Where the PNG goes.
        findings: Of one threshold, a variant each.
        rows: The rows they were made of.
        estimates: To be compared with what was measured.
    """
    figure = drawing.new_figure(12.0, 7.6)
    axes = figure.subplots(2, 3).ravel()
    for colour, each in zip(_cycle(len(findings)), findings, strict=True):
        _steps(axes[0], each, colour)
        _examples(axes[1], each, colour, estimates)
        _reciprocals(axes[2], each, colour)
        mine = [x for x in rows if (x.task, x.variant) == (each.task, each.variant)]
        _traces(axes[3], each, mine, colour)
    _scatter(axes[4], findings, estimates)
    _finish(axes, findings)
    drawing.save(figure, path)


def _cycle(count: int) -> list[str]:
    return [_COLOURS[i % len(_COLOURS)] for i in range(count)]


def _by_size(runs: Sequence[Run], status: str) -> dict[float, list[float]]:
    found: dict[float, list[float]] = {}
    for run in sorted(runs, key=lambda run: run.batch):
        if run.status == status:
            found.setdefault(run.batch, []).append(run.steps)
    return found


def _whole(each: Finding) -> dict[float, np.ndarray]:
    """Steps of the batch sizes with which all runs got there."""
    counts = each.counts()
    return {
        size: np.array(steps)
        for size, steps in _by_size(each.runs, "reached").items()
        if set(counts[size]) == {"reached"}
    }


def _grid(each: Finding) -> np.ndarray:
    sizes = [run.batch for run in each.runs]
    return np.geomspace(min(sizes), max(sizes), 200)


def _band(
    axes: Any, sizes: Sequence[float], values: Sequence[np.ndarray], colour: str
) -> None:
    """Draws means with the range of the seeds."""
    if not len(sizes):
        return
    axes.fill_between(
        sizes,
        [x.min() for x in values],
        [x.max() for x in values],
        color=colour,
        alpha=0.2,
        linewidth=0,
    )
    axes.plot(sizes, [x.mean() for x in values], "o", color=colour, markersize=4)


def _steps(axes: Any, each: Finding, colour: str) -> None:
    whole = _whole(each)
    _band(axes, list(whole), list(whole.values()), colour)
    if each.fit:
        grid = _grid(each)
        for curve, style in ((each.fit.bound, "-"), (each.fit.rival, ":")):
            axes.plot(grid, curve.steps(grid), style, color=colour, linewidth=1.2)
    for status, marker in (("censored", "^"), ("diverged", "x")):
        for size, steps in _by_size(each.runs, status).items():
            axes.plot([size] * len(steps), steps, marker, color=colour, markersize=6)


def _examples(
    axes: Any, each: Finding, colour: str, estimates: Sequence[Estimate]
) -> None:
    whole = _whole(each)
    values = [size * steps for size, steps in whole.items()]
    _band(axes, list(whole), values, colour)
    if each.fit:
        grid = _grid(each)
        for curve, style in ((each.fit.bound, "-"), (each.fit.rival, ":")):
            axes.plot(
                grid, grid * curve.steps(grid), style, color=colour, linewidth=1.2
            )
    if each.measured:
        at = (each.measured.batch, each.measured.examples)
        for size in (9, 13):
            axes.plot(
                *at,
                "o",
                markersize=size,
                markerfacecolor="none",
                markeredgecolor=colour,
            )
    low, high = min(x.batch for x in each.runs), max(x.batch for x in each.runs)
    lines = [(each.fit.critical_batch, "--")] if each.fit else []
    lines += [(x.joint, "-.") for x in estimates if x.variant == each.variant]
    for value, style in lines:
        if value is not None and low / 2 <= value <= 2 * high:
            axes.axvline(value, linestyle=style, color=colour, linewidth=0.9)


def _reciprocals(axes: Any, each: Finding, colour: str) -> None:
    whole = _whole(each)
    at = [1 / size for size in whole]
    _band(axes, at, [1 / steps for steps in whole.values()], colour)
    if each.fit and at:
        grid = np.linspace(0, max(at), 200)
        values = np.maximum(each.fit.p - each.fit.q * grid, 0)
        axes.plot(grid, values, color=colour, linewidth=1.2)
        rival = each.fit.rival
        values = 1 / (rival.limit * (1 + rival.batch * grid))
        axes.plot(grid, values, ":", color=colour, linewidth=1.2)


def _traces(axes: Any, each: Finding, rows: Sequence[Row], colour: str) -> None:
    sizes = sorted({row.batch for row in rows})
    chosen = {sizes[round(i)] for i in np.linspace(0, len(sizes) - 1, _TRACES)}
    for size, style in zip(sorted(chosen), ("-", "--", ":"), strict=False):
        first = min((x for x in rows if x.batch == size), key=lambda row: row.seed)
        steps, values = zip(*(x for x in first.trace if x[0] > 0), strict=True) \
            if len(first.trace) > 1 else ((), ())  # fmt: skip
        axes.plot(
            steps,
            values,
            style,
            color=colour,
            linewidth=1.0,
            label=f"{each.variant}, b = {size}",
        )
    axes.axhline(each.threshold, color="0.5", linewidth=0.8)


def _scatter(
    axes: Any, findings: Sequence[Finding], estimates: Sequence[Estimate]
) -> None:
    ends = []
    for colour, each in zip(_cycle(len(findings)), findings, strict=True):
        if each.measured is None:
            continue
        values = [(x.joint, x.mode) for x in estimates if x.variant == each.variant]
        if each.fit and each.fit.critical_batch:
            values.append((each.fit.critical_batch, "fitted"))
        for marker, (value, mode) in zip("so^vD<>ph" * 3, values, strict=False):
            if value is None:
                continue
            ends += [value, each.measured.batch]
            axes.plot(
                value,
                each.measured.batch,
                marker,
                color=colour,
                label=f"{each.variant}: {mode}",
            )
    if not ends:
        axes.text(0.5, 0.5, "nothing to compare", ha="center", transform=axes.transAxes)
        return
    line = np.array([min(ends) / 2, max(ends) * 2])
    axes.plot(line, line, color="0.3", linewidth=0.9)
    for factor in (0.5, 2.0):
        axes.plot(line, factor * line, "--", color="0.6", linewidth=0.8)
    axes.set(xscale="log", yscale="log")
    axes.legend(fontsize=7, frameon=False)


def _finish(axes: Sequence[Any], findings: Sequence[Finding]) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.ticker import LogLocator, NullFormatter

    metric, threshold = findings[0].metric, findings[0].threshold
    batch, goal = "batch size b", f"{metric} <= {threshold:g}"
    labels = (
        (f"Steps to {goal}", batch, "N"),
        (f"Examples to {goal}", batch, "N b"),
        ("Is 1/N linear in 1/b?", "1/b", "1/N"),
        ("The distance in training", "step", metric),
        ("Measured over estimated b*", "estimated b*", "measured b*"),
    )
    for each, (title, x, y) in zip(axes, labels, strict=False):
        drawing.plain(each)
        each.set_title(title, fontsize=10)
        each.set(xlabel=x, ylabel=y)
    for each in axes[:2]:
        each.set_xscale("log", base=2)
        each.set_yscale("log")
    if axes[3].lines:
        axes[3].set(xscale="log", yscale="log")
        # Labels of matplotlib's own between the powers of ten overlap.
        axes[3].xaxis.set_major_locator(LogLocator(subs=(1.0, 3.0)))
        axes[3].xaxis.set_major_formatter("{x:g}")
        axes[3].xaxis.set_minor_formatter(NullFormatter())
        axes[3].legend(fontsize=7, frameon=False)
    legend = axes[5]
    legend.axis("off")
    grey = {"color": "0.3"}
    handles = [
        Line2D([], [], marker="o", color=colour, label=each.variant)
        for colour, each in zip(_cycle(len(findings)), findings, strict=True)
    ]
    handles += [
        Line2D([], [], linestyle="-", label="fit 1/N = p - q/b", **grey),
        Line2D([], [], linestyle=":", label="rival N = N_inf (1 + b_0/b)", **grey),
        Line2D([], [], linestyle="--", label="fitted b*", **grey),
        Line2D([], [], linestyle="-.", label="estimated b*", **grey),
        Line2D([], [], linestyle="", marker="^", label="given up (censored)", **grey),
        Line2D([], [], linestyle="", marker="x", label="diverged", **grey),
        Line2D(
            [], [], linestyle="", marker="o", markersize=12, markerfacecolor="none",
            label="fewest examples", **grey,
        ),
    ]  # fmt: skip
    legend.legend(handles=handles, loc="center left", frameon=False)
