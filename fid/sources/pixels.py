"""What values pixels have: ranges, their check and scaling, rounding, a digest."""

from __future__ import annotations

import hashlib
import numbers
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from fid.files import InputError

__all__ = [
    "QUANTIZE",
    "VALUE_RANGES",
    "Seen",
    "ValueRange",
    "Values",
    "as_array",
    "check_layout",
    "is_pillow",
    "looks_like_bytes",
    "nearly_black",
    "quantize",
    "range_name",
    "span",
    "with_channel_axis",
    "with_channels",
]

# The values of a float array may be said to span one of these ranges, which is mapped
# to [0, 255].
VALUE_RANGES = {"0,255": (0.0, 255.0), "0,1": (0.0, 1.0), "-1,1": (-1.0, 1.0)}
# In Python a range may also be two numbers, such as (0, 1).
ValueRange = str | Sequence[float]
# The original fed unrounded floats in some experiments, truncated bytes in others.
QUANTIZE = ("none", "truncate", "round")
# A set whose greatest value is below this is nearly black: it is 12-bit data in 16-bit
# files (up to 1/16 of the range; 14-bit data: 1/4), or was made of other units, such as
# [0, 1]. Sets of photographs come close to the end of the range.
_DARK = 64
# A float set that lies wholly at or below this is taken for [0, 1], not [0, 255].
_SUSPICIOUS = 1.5


def quantize(images: np.ndarray, rule: str) -> np.ndarray:
    """Rounds images in [0, 255] to whole grey levels, or not.

    Args:
        images: Float array in [0, 255].
        rule: `none` leaves it; `truncate` drops the fraction, as the original does for
            WGAN-GP; `round` takes the nearest level.

    Returns:
        The array, float32 for `none`, else uint8.
    """
    if rule == "none":
        return images
    return (np.floor(images) if rule == "truncate" else np.rint(images)).astype(
        np.uint8
    )


def range_name(value_range: ValueRange | None) -> str | None:
    """Returns the key of `VALUE_RANGES` that was meant.

    Args:
        value_range: The key, or its two numbers; None, where nothing is said.

    Returns:
        The key, or None.

    Raises:
        InputError: There is no such range.

    Example:
        >>> range_name((0, 1)), range_name("-1,1")
        ('0,1', '-1,1')
    """
    if value_range is None:
        return None
    for name, span in VALUE_RANGES.items():
        if isinstance(value_range, str):
            if value_range == name:
                return name
        elif _numbers(value_range) == tuple(span):
            return name
    choices = ", ".join(map(repr, VALUE_RANGES))
    raise InputError(
        f"value_range is {' '.join(repr(value_range).split())}; choose from {choices}."
    )


def _numbers(values: Any) -> tuple[Any, ...] | None:
    """Returns the numbers of a list or an array of numbers; None for all else."""
    if not isinstance(values, Sequence) and np.ndim(values) != 1:
        return None
    found = tuple(values)
    return found if all(isinstance(each, numbers.Real) for each in found) else None


def as_array(images: Any, label: str) -> np.ndarray:
    """Makes a NumPy array of whatever offers to be one.

    Args:
        images: An array or tensor of NumPy, TensorFlow, JAX or PyTorch, whatever has a
            method `numpy()`, or a list.
        label: What to call it in messages.

    Returns:
        The array; bfloat16 becomes float32.

    Raises:
        InputError: It does not form an array.
    """
    try:
        if not hasattr(images, "__array__") and hasattr(images, "numpy"):
            images = images.numpy()
        array = np.asarray(images)
    except MemoryError:
        raise
    except Exception as error:  # Each library has errors of its own.
        raise InputError(
            f"{label} does not form one array ({error}); expected images of one size."
        ) from error
    if array.dtype.name == "bfloat16":
        array = array.astype(np.float32)
    return array


def with_channel_axis(shape: tuple[int, ...], label: str) -> tuple[int, ...]:
    """Returns the shape of an array of images, with the axis of a single channel.

    Args:
        shape: (n, H, W, C), or (n, H, W) for grey. Other shapes are left alone.
        label: What to call the array in messages.

    Raises:
        InputError: It looks like one image.
    """
    if len(shape) != 3:
        return shape
    if shape[-1] <= 4:
        raise InputError(
            f"{label} has shape {shape}, which looks like one image; expected several, "
            "(n, H, W, 3): give it a first axis."
        )
    return (*shape, 1)


def check_layout(shape: tuple[int, ...], dtype: np.dtype, label: str) -> None:
    """Makes sure that an array holds images.

    Args:
        shape: Of the array.
        dtype: Of the array.
        label: What to call it in messages.

    Raises:
        InputError: It is not (n, H, W, C) with C of 1 or 3 and none of them 0, or
            holds neither whole numbers nor floats.
    """
    if len(shape) != 4 or shape[-1] not in (1, 3) or min(shape) < 1:
        hint = ""
        if len(shape) == 4 and shape[1] in (1, 3):
            hint = "; its channels seem to be first: transpose(0, 2, 3, 1) it"
        elif len(shape) == 4 and shape[-1] == 4:
            hint = "; drop the alpha channel"
        raise InputError(
            f"{label} has shape {shape}; expected images (n, H, W, 3) or "
            f"(n, H, W, 1), at least one{hint}."
        )
    if dtype.kind not in "uif":
        raise InputError(
            f"{label} holds {dtype}; expected whole numbers in 0..255, or floats."
        )


def with_channels(images: Any, channels: int) -> Any:
    """Repeats grey images for those who look at colours.

    Grey images in arrays keep their one channel until it is known who looks at them;
    those in folders are RGB from the start, as in the original.

    Args:
        images: (n, H, W, C), or a list of (H, W, C) of several sizes.
        channels: How many are wanted.

    Returns:
        The images, with three channels where three are wanted.
    """
    if channels != 3 or images[0].shape[-1] != 1:
        return images
    if isinstance(images, list):
        return [np.repeat(image, 3, axis=-1) for image in images]
    return np.repeat(images, 3, axis=-1)


def span(images: np.ndarray, label: str, start: int = 0) -> tuple[float, float]:
    """Returns the least and the greatest value of images.

    Args:
        images: (n, H, W, C), n >= 1.
        label: What to call the set in messages.
        start: What the first of these images is counted as.

    Returns:
        Both, finite.

    Raises:
        InputError: A value is not finite.
    """
    low, high = float(images.min()), float(images.max())
    if np.isfinite([low, high]).all():  # NaN wins in min and max.
        return low, high
    bad = start + int(np.argmin(np.isfinite(images).all(axis=(1, 2, 3))))
    raise InputError(
        f"Image {bad} of {label} (counted from 0) holds values that are not finite; "
        "look for the fault where the images are made."
    )


def looks_like_bytes(low: float, high: float) -> bool:
    """Says whether a set of floats with this span is taken for [0, 255].

    Args:
        low: The least value of all images.
        high: The greatest.

    Returns:
        Whether it does not look like [0, 1] or [-1, 1].
    """
    return low >= 0 and high > _SUSPICIOUS


class Values:
    """The values of one set of images: checked, and scaled to [0, 255].

    Bytes are taken as they are, and so are other whole numbers in 0..255. Floats are
    in [0, 255] unless `value_range` says otherwise; a set that does not look like that
    is refused, as the original would have accepted it and given a wrong number.

    Args:
        label: What to call the set in messages.
        value_range: A key of `VALUE_RANGES`, or its two numbers, for floats; None means
            [0, 255], judged.
        rule: A member of `QUANTIZE`, for floats.

    Attributes:
        label: As given.
        floats: Whether floats were seen.

    Raises:
        InputError: There is no such range or rule.

    Example:
        >>> values = Values("noise", "-1,1", "round")
        >>> images = np.float32([[[[-1.0]], [[0.9999]]]])
        >>> values.check(images)
        >>> values.scale(images).ravel().tolist()
        [0, 255]
    """

    def __init__(
        self, label: str, value_range: ValueRange | None = None, rule: str = "none"
    ):
        if rule not in QUANTIZE:
            raise InputError(
                f"quantize is {rule!r}; choose from {', '.join(QUANTIZE)}."
            )
        value_range = range_name(value_range)
        self.label, self.floats = label, False
        self._judge, self._rule = value_range is None, rule
        self._range = VALUE_RANGES[value_range or "0,255"]
        self.restart()

    def restart(self) -> None:
        """Forgets what was seen, before another pass."""
        self._count, self._low, self._high = 0, np.inf, -np.inf

    def check(self, images: np.ndarray) -> None:
        """Checks some of the images; they are checked in order, each once a pass.

        Args:
            images: (n, H, W, C).

        Raises:
            InputError: A value is not finite, negative or out of the range.
        """
        start = self._count
        self._count += len(images)
        if images.dtype == np.uint8:
            return
        low, high = span(images, self.label, start)
        if images.dtype.kind != "f":
            if low < 0 or high > 255:
                raise InputError(
                    f"Values of {self.label} lie in {low:.0f}..{high:.0f} and are "
                    f"{images.dtype}; whole numbers have to be in 0..255: scale them "
                    "(16-bit data: divide by 256), or give floats and say what they "
                    "span."
                )
            return
        self.floats = True
        self._low, self._high = min(self._low, low), max(self._high, high)
        if self._judge and low < 0:
            raise self._suspicious()
        if low < self._range[0] - 1e-6 or high > self._range[1] + 1e-6:
            raise InputError(
                f"{self._span()}, outside of the range [{self._range[0]:g}, "
                f"{self._range[1]:g}]; scale or clip them, or give the right "
                "--value_range."
            )

    def finish(self) -> None:
        """Judges the whole, after a pass over all images.

        Raises:
            InputError: They are floats, all at or below 1.5, and nothing was said of
                their range.
        """
        seen = self._high > -np.inf
        if self._judge and seen and not looks_like_bytes(self._low, self._high):
            raise self._suspicious()

    def scale(self, images: np.ndarray) -> np.ndarray:
        """Returns the images in [0, 255], uint8 or float32, rounded by the rule."""
        if images.dtype.kind != "f":
            return images.astype(np.uint8, copy=False)
        low, high = self._range
        factor = np.float32(255.0 / (high - low))
        images = (images.astype(np.float32) - np.float32(low)) * factor
        return quantize(np.clip(images, 0.0, 255.0), self._rule)

    def facts(self) -> dict[str, str]:
        """Returns what provenance says of the pixels."""
        if not self.floats:
            return {"pixels": "8-bit"}
        pixels = "float" if self._rule == "none" else "8-bit"
        return {"pixels": pixels, "quantize": self._rule}

    def _span(self) -> str:
        return f"Values of {self.label} lie in [{self._low:g}, {self._high:g}]"

    def _suspicious(self) -> InputError:
        return InputError(
            f"{self._span()}, which does not look like [0, 255]; say what they are "
            f"with --value_range={' or '.join(VALUE_RANGES)}."
        )


class Seen:
    """What passed in one pass over a source: how many, which sizes, which pixels.

    The digest is that of the pixels in their order, so that a folder, an archive and
    an array of the same images have the same.

    Attributes:
        count: How many images.
        peak: The greatest value of all, in [0, 255].
    """

    def __init__(self) -> None:
        self.count, self.peak = 0, 0.0
        self._digest = hashlib.sha256()
        self._sizes: set[tuple[int, int]] = set()

    def add(self, image: np.ndarray) -> None:
        """Takes note of one image (H, W, C)."""
        self.count += 1
        self.peak = max(self.peak, float(image.max()))
        self._sizes.add(image.shape[:2])
        self._digest.update(f"{image.shape} {image.dtype.name}\n".encode())
        self._digest.update(np.ascontiguousarray(image))

    def warnings(self, label: str) -> list[str]:
        """Says that all images are nearly black, if they are.

        Args:
            label: What to call the set.

        Returns:
            A sentence, or nothing.
        """
        return nearly_black(label, self.count, self.peak)

    def facts(self) -> dict[str, Any]:
        """Returns what provenance says of the pass; empty if there was none."""
        if not self.count:
            return {}
        resolution = "mixed"
        if len(self._sizes) == 1:
            ((height, width),) = self._sizes
            resolution = f"{width}x{height}"
        return {
            "source_count": self.count,
            "source_resolution": resolution,
            "source_sha256": self._digest.hexdigest(),
        }


def nearly_black(label: str, count: int, peak: float) -> list[str]:
    """Says that the images of a set are nearly black, if they are.

    Args:
        label: What to call the set.
        count: How many images there are.
        peak: The greatest value of all, in [0, 255].

    Returns:
        A sentence, or nothing.

    Example:
        >>> nearly_black("x", 10, 255.0)
        []
    """
    if not count or peak >= _DARK:
        return []
    return [
        f"no value of the {count:,} images of {label} is above {peak:.3g} of 255, so "
        "that they are nearly black; if they hold data of fewer bits than their files "
        "(12 of 16), or of another range, scale them first"
    ]


def is_pillow(value: Any) -> bool:
    """Says whether a value is an image of Pillow's, without importing Pillow."""
    pillow = sys.modules.get("PIL.Image")
    return pillow is not None and isinstance(value, pillow.Image)
