"""Figures of training runs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from fid.files import atomic_path

__all__ = ["training_curve"]

# Distinct in grey and for the colour-blind.
_COLOURS = {
    "d_loss": "#0072B2",
    "g_loss": "#D55E00",
    "distance": "#000000",
    "best": "#009E73",
}


def training_curve(
    rows: Sequence[dict[str, Any]],
    distance_key: str,
    path: str | os.PathLike[str],
    title: str = "",
    label: str | None = None,
) -> None:
    """Draws the losses and the distance of a run over its steps.

    Args:
        rows: Rows of metrics.jsonl, in order.
        distance_key: Name of the distance in them, `fid` or `frechet_<extractor>`.
        path: Where the PNG goes.
        title: Title of the figure.
        label: What the distance is called; None means its name in the rows.
    """
    # The object interface: no global state, no window system.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.0, 6.0), layout="constrained")
    FigureCanvasAgg(figure)
    upper, lower = figure.subplots(2, 1, sharex=True)
    for key, label in (("d_loss", "discriminator"), ("g_loss", "generator")):
        points = _points(rows, key)
        upper.plot(*points, color=_COLOURS[key], marker=".", label=label)
    upper.set_ylabel("loss (mean over the interval)")
    upper.legend(frameon=False)
    steps, values = _points(rows, distance_key)
    lower.plot(steps, values, color=_COLOURS["distance"], marker=".")
    if values:
        best = min(range(len(values)), key=values.__getitem__)
        lower.plot(
            steps[best],
            values[best],
            "o",
            color=_COLOURS["best"],
            label=f"best: {values[best]:.2f} at step {steps[best]}",
        )
        lower.legend(frameon=False)
        if min(values) > 0:
            lower.set_yscale("log")
    lower.set_ylabel(label or distance_key)
    lower.set_xlabel("step (generator updates)")
    for axes in (upper, lower):
        axes.grid(True, color="0.9")
        axes.spines[["top", "right"]].set_visible(False)
    upper.set_title(title)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=120, format="png")


def _points(rows: Sequence[dict[str, Any]], key: str) -> tuple[list[int], list[float]]:
    points = [(row["step"], row[key]) for row in rows if row.get(key) is not None]
    return [step for step, _ in points], [value for _, value in points]
