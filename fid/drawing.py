"""What all figures have in common: their canvas, their colours and how they are saved.

A figure is drawn through matplotlib's object interface, so that it needs no window
system and leaves no global state behind. matplotlib is imported with the first figure.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from fid.files import atomic_path

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "BLACK",
    "BLUE",
    "GREEN",
    "ORANGE",
    "PURPLE",
    "SKY_BLUE",
    "VERMILION",
    "new_figure",
    "plain",
    "save",
]

# Okabe and Ito's palette: its colours differ for the colour-blind and in grey, too.
BLACK = "#000000"
BLUE = "#0072B2"
GREEN = "#009E73"
ORANGE = "#E69F00"
PURPLE = "#CC79A7"
SKY_BLUE = "#56B4E9"
VERMILION = "#D55E00"


def new_figure(width: float, height: float, layout: str = "constrained") -> Figure:
    """Makes an empty figure.

    Args:
        width: In inches.
        height: In inches.
        layout: Name of the matplotlib engine that places the axes.

    Returns:
        The figure, on a canvas that draws pixels.

    Example:
        >>> new_figure(3.0, 2.0).subplots().plot([1, 2])[0].get_ydata().tolist()
        [1, 2]
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout=layout)
    FigureCanvasAgg(figure)
    return figure


def plain(axes: Axes) -> None:
    """Gives axes a faint grid and takes away the frame above and on the right."""
    axes.grid(True, color="0.9")
    axes.spines[["top", "right"]].set_visible(False)


def save(figure: Figure, path: str | os.PathLike[str], dpi: int = 100) -> None:
    """Saves a figure as a PNG, whole or not at all.

    Args:
        figure: The figure.
        path: Where the file goes, whatever its name ends in.
        dpi: Pixels to an inch.

    Raises:
        InputError: The file cannot be written.
    """
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=dpi, format="png")
