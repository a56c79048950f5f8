"""The figures of the disturbance study: curves against levels, and pictures."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import numpy as np

from fid import drawing
from fid.studies.disturbance_study import Study

__all__ = ["panel", "strips"]

_TITLES = {
    "noise": "Gaussian noise",
    "blur": "Gaussian blur",
    "rectangles": "black rectangles",
    "swirl": "swirl",
    "salt_pepper": "salt and pepper",
    "contamination": "contamination",
}
_IND_LABELS = {
    "samples": "IND (m − IS)",
    "levels": "IND (largest IS − IS)",
    "figure": "IND (the paper's constant − IS)",
}


def panel(study: Study, path: str | os.PathLike[str], ind: str = "levels") -> None:
    """Draws the distance, and below it the Inception Score as a distance, by level.

    Args:
        study: What was found.
        path: Where the PNG goes.
        ind: A member of `disturbance_study.INDS`.
    """
    rows = 2 if study.curves[0].scores else 1
    columns = len(study.curves)
    figure = drawing.new_figure(2.3 * columns + 0.5, 2.2 * rows + 0.4, layout="tight")
    grid = figure.subplots(rows, columns, squeeze=False)
    distance = study.title.replace(" (", "\n(")
    for axes, curve in zip(grid.T, study.curves, strict=True):
        axes[0].set_title(_TITLES[curve.name], fontsize=10)
        axes[0].plot(curve.levels, curve.distances, color=drawing.BLUE, marker="o")
        axes[0].set_ylim(bottom=0.0)
        if rows == 2:
            axes[1].plot(
                curve.levels, curve.ind(ind), color=drawing.VERMILION, marker="o"
            )
        axes[-1].set_xlabel("level α")
        for each in axes:
            each.set_xticks(curve.levels)
            each.tick_params(labelsize=8)
            drawing.plain(each)
    grid[0, 0].set_ylabel(distance)
    if rows == 2:
        grid[1, 0].set_ylabel(_IND_LABELS[ind])
    drawing.save(figure, path)


def strips(
    pictures: Mapping[str, Sequence[np.ndarray]],
    levels: Mapping[str, Sequence[float]],
    path: str | os.PathLike[str],
) -> None:
    """Draws the first images of the study, a row a disturbance, a column a level.

    Args:
        pictures: As `disturbance_study.pictures` returns them.
        levels: The levels of each disturbance.
        path: Where the PNG goes.
    """
    columns = max(map(len, pictures.values()))
    figure = drawing.new_figure(2.2 * columns, 1.35 * len(pictures))
    grid = figure.subplots(len(pictures), columns, squeeze=False)
    for axes, (name, found) in zip(grid, pictures.items(), strict=True):
        for each in axes:
            each.set_axis_off()
        for each, level, images in zip(axes, levels[name], found, strict=False):
            each.set_title(f"{_TITLES[name]}, {level:g}", fontsize=8)
            each.imshow(_tiled(images), cmap="gray", vmin=0, vmax=255)
    drawing.save(figure, path)


def _tiled(images: np.ndarray) -> np.ndarray:
    """Returns images (n, H, W, C) as one picture of two rows, uint8."""
    # A white line separates neighbours.
    images = np.pad(images, [(0, 0), (0, 1), (0, 1), (0, 0)], constant_values=255.0)
    n, height, width, channels = images.shape
    columns = max(1, (n + 1) // 2)
    rows = -(-n // columns)
    # A place that the images do not fill stays white.
    tiles = np.full((rows * columns, height, width, channels), 255, np.uint8)
    tiles[:n] = np.rint(images)
    picture = tiles.reshape(rows, columns, height, width, channels)
    picture = picture.transpose(0, 2, 1, 3, 4)
    picture = picture.reshape(rows * height, columns * width, channels)
    return picture[..., 0] if channels == 1 else picture
