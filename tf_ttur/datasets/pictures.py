"""Encoded images to pixels of one size.

Pillow does all decoding, through `fid.sources.decoding`, and resizing, as in the
original, so that a pixel here is a pixel there: TensorFlow's JPEG decoder and resize
differ from Pillow's.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from PIL import Image

from fid.files import InputError, printable
from fid.sources import decoding
from fid.sources.imagefiles import read_file

__all__ = ["check", "each_file", "exact", "listed", "picture"]

# One message lists as many bad files as this.
_MAX_LISTED = 20


def picture(file: Any, crop: int | None, size: int, squash: bool = False) -> np.ndarray:
    """Decodes one image and scales its central square, or the whole of it.

    The filter is Pillow's bilinear one (antialiased; what the `scipy.misc.imresize` of
    the original called). A square of the size that is wanted stays as it is.

    Args:
        file: A path or a binary file.
        crop: Side of the square in pixels; None for the largest one.
        size: Side of the result.
        squash: Take all of the image instead, and give up its proportions.

    Returns:
        uint8 (size, size, 3), RGB as `fid.sources.decoding` makes it. An odd margin
        loses its extra row at the bottom, its extra column on the right.

    Raises:
        InputError: It is no image that can be used; `each_file` names the file.
    """
    data = file.read() if hasattr(file, "read") else read_file(file)
    image = Image.fromarray(decoding.decode(data).pixels)
    if not squash:
        side = crop or min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        # resize(box=...) would let the filter see the pixels around the box.
        image = image.crop((left, top, left + side, top + side))
    return np.asarray(image.resize((size, size), Image.Resampling.BILINEAR))


def exact(file: str | os.PathLike[str], shape: Sequence[int]) -> np.ndarray:
    """Decodes an image that has the size which is wanted already.

    Args:
        file: Its path.
        shape: (H, W, C), with C = 3, or C = 1 for an image whose colours are grey.

    Returns:
        uint8 (H, W, C).

    Raises:
        InputError: It is no image that can be used, or has another size or colours. The
            message is a phrase without the file's name.

    Example:
        >>> import pathlib, tempfile
        >>> from PIL import Image
        >>> from tf_ttur.datasets import pictures
        >>> path = pathlib.Path(tempfile.mkdtemp(), "grey.png")
        >>> Image.new("L", (4, 2), 7).save(path)
        >>> pictures.exact(path, (2, 4, 1))[0, :, 0].tolist()
        [7, 7, 7, 7]
    """
    height, width, channels = shape
    pixels = decoding.decode(read_file(os.fspath(file))).pixels
    if pixels.shape[:2] != (height, width):
        raise InputError(
            f"{pixels.shape[1]}x{pixels.shape[0]} pixels, and {width}x{height} are "
            "wanted"
        )
    if channels == 1 and (pixels != pixels[..., :1]).any():
        raise InputError("it has colours, and grey is wanted")
    return pixels[..., :channels]


def check(file: Any) -> None:
    """Looks at as much of an image as is quick: see `fid.sources.decoding.check`.

    Args:
        file: A path or a binary file.

    Raises:
        Exception: It is no image that can be used; `each_file` names the file.
    """
    if hasattr(file, "read"):
        decoding.check(file)
        return
    with open(file, "rb") as opened:
        decoding.check(opened)


def each_file(
    function: Callable[[Any], Any],
    files: Sequence[Any],
    names: Sequence[Any],
    apply: Callable[..., Iterable[Any]] = map,
) -> list[Any]:
    """Calls a function on each file; one error names what failed.

    Args:
        function: Takes a file.
        files: What it is called on.
        names: What the error calls them.
        apply: `map`, or one that does several at a time.

    Returns:
        The results, in order.

    Raises:
        InputError: It failed for some.
    """

    def attempt(file: Any) -> Any:
        try:
            return function(file)
        except MemoryError:
            raise
        except Exception as error:  # Pillow's plugins raise errors of every kind.
            return error

    results = list(apply(attempt, files))
    failures = [
        f"{printable(name)} ({' '.join(str(result).split())})"
        for name, result in zip(names, results, strict=True)
        if isinstance(result, Exception)
    ]
    if failures:
        raise InputError(
            f"Cannot read {len(failures)} of {len(files)} images; mend or remove them: "
            f"{listed(failures)}."
        )
    return results


def listed(failures: Sequence[str]) -> str:
    """Joins what failed for a message, the first of many.

    Args:
        failures: A phrase for each.
    """
    shown = [*failures[:_MAX_LISTED]]
    if more := len(failures) - len(shown):
        shown.append(f"and {more} more")
    return "; ".join(shown)
