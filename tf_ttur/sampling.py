"""Grids of samples as pictures."""

from __future__ import annotations

import os

import numpy as np
from PIL import Image

from fid.files import atomic_path
from fid.images import quantize

__all__ = ["image_grid", "save_png", "to_bytes"]


_LINE, _GREY = 2, 96


def to_bytes(images: np.ndarray) -> np.ndarray:
    """Maps images from [-1, 1] to the nearest of 256 levels.

    Args:
        images: Float array; values outside of [-1, 1] are clipped.

    Returns:
        uint8 array of the same shape.
    """
    return quantize(np.clip((images + 1.0) * 127.5, 0.0, 255.0), "round")


def image_grid(images: np.ndarray, columns: int | None = None) -> np.ndarray:
    """Lays images out in rows.

    Args:
        images: uint8 (n, H, W, C).
        columns: Images in a row; None makes the grid as square as it gets.

    Returns:
        uint8 (rows * (H + 2) + 2, columns * (W + 2) + 2, C): grey lines between the
        images, black where they do not fill the last row.
    """
    n, height, width, channels = images.shape
    columns = columns or int(np.ceil(np.sqrt(n)))
    rows = -(-n // columns)
    cells = np.zeros((rows * columns, height, width, channels), np.uint8)
    cells[:n] = images
    # Every cell brings the line above and to the left of it.
    around = [(0, 0), (_LINE, 0), (_LINE, 0), (0, 0)]
    cells = np.pad(cells, around, constant_values=_GREY)
    height, width = height + _LINE, width + _LINE
    cells = cells.reshape(rows, columns, height, width, channels)
    grid = cells.transpose(0, 2, 1, 3, 4).reshape(
        rows * height, columns * width, channels
    )
    return np.pad(grid, [(0, _LINE), (0, _LINE), (0, 0)], constant_values=_GREY)


def save_png(path: str | os.PathLike[str], image: np.ndarray) -> None:
    """Writes one picture as PNG, whole or not at all.

    Args:
        path: Where it goes.
        image: uint8 (H, W, 1) or (H, W, 3).
    """
    picture = image[..., 0] if image.shape[-1] == 1 else image
    with atomic_path(path) as temporary:
        Image.fromarray(picture).save(temporary, format="PNG")
