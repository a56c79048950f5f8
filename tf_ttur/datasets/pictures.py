"""Encoded images to pixels.

Pillow does all decoding and resizing, as in the original, so that a pixel here is a
pixel there: TensorFlow's JPEG decoder and resize differ from Pillow's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from PIL import Image

from fid.files import InputError

__all__ = ["check", "each_file", "picture"]

# One message lists as many bad files as this.
_MAX_LISTED = 20


def picture(file: Any, crop: int | None, size: int) -> np.ndarray:
    """Decodes one image and scales its central square.

    The filter is Pillow's bilinear one (antialiased; what the `scipy.misc.imresize` of
    the original called). A square of the size that is wanted stays as it is.

    Args:
        file: A path or a binary file.
        crop: Side of the square in pixels; None for the largest one.
        size: Side of the result.

    Returns:
        uint8 (size, size, 3), RGB: grey is repeated, transparency dropped. An odd
        margin loses its extra row at the bottom, its extra column on the right.

    Raises:
        Exception: Whatever Pillow raises; `each_file` makes one error of it.
    """
    with Image.open(file) as image:
        _require_eight_bits(image)
        image = image.convert("RGB")
    side = crop or min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    # resize(box=...) would let the filter see the pixels around the box.
    image = image.crop((left, top, left + side, top + side))
    return np.asarray(image.resize((size, size), Image.Resampling.BILINEAR))


def check(file: Any) -> None:
    """Looks at as much of an image as is quick: see `PIL.Image.Image.verify`.

    Args:
        file: A path or a binary file.

    Raises:
        Exception: Whatever Pillow raises; `each_file` makes one error of it.
    """
    with Image.open(file) as image:
        _require_eight_bits(image)
        image.verify()


def _require_eight_bits(image: Image.Image) -> None:
    # Pillow would clip these to 255, that is, to white.
    if image.mode.startswith(("I", "F")):
        raise ValueError(f"more than 8 bits a channel (mode {image.mode})")


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
        f"{name} ({' '.join(str(result).split())})"
        for name, result in zip(names, results, strict=True)
        if isinstance(result, Exception)
    ]
    if failures:
        listed = failures[:_MAX_LISTED]
        if more := len(failures) - len(listed):
            listed.append(f"and {more} more")
        raise InputError(
            f"Cannot read {len(failures)} of {len(files)} images; mend or remove them: "
            f"{'; '.join(listed)}."
        )
    return results
