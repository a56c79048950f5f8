"""Images as their four phases: the pixels with even and odd row and column.

XLA runs the input gradient of a strided convolution on a CPU many times slower than a
stride-1 convolution of the same arithmetic, and reads an upsampled image four times.
Both go away when an image is seen as its phases: a stride-2 convolution is a sum of
stride-1 convolutions of the phases, and an upsampling convolution makes the phases of
its result from the small image. But for images of few channels no tap is multiplied by
a zero, so operations are as many as the textbook's, or fewer:

    layer                                     taps per output pixel
    strided 5x5                               25, as 9 + 6 + 6 + 4
    transposed 5x5                            25 / 4, likewise
    nearest-neighbour upsampling, then 3x3    4 instead of 9
    3x3, then the mean of 2x2                 16 instead of 36
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from tf_ttur.xla import convolve

__all__ = [
    "max_pool",
    "mean_pool",
    "merged_taps",
    "scattered_taps",
    "strided",
    "to_phases",
    "upsample",
    "zeros_before",
]

# With fewer channels than this, one convolution of all phases is faster, although it
# multiplies some taps by zero.
_FEW_CHANNELS = 16

# A split takes a kernel, an axis (0 or 1) and a phase along it (0 or 1). It returns the
# taps that the phase meets, and the zeros that its image needs before and after.
_Split = Callable[[tf.Tensor, int, int], tuple[tf.Tensor, tuple[int, int]]]
# A part is a kernel with the zeros above and below and left and right of its image.
_Part = tuple[tf.Tensor, tuple[int, int], tuple[int, int]]


def upsample(images: Any) -> Any:
    """Repeats every pixel in both directions: (n, h, w, c) -> (n, 2 h, 2 w, c)."""
    _, height, width, channels = images.shape
    images = tf.broadcast_to(
        images[:, :, None, :, None, :],
        [tf.shape(images)[0], height, 2, width, 2, channels],
    )
    return tf.reshape(images, [-1, 2 * height, 2 * width, channels])


def mean_pool(images: Any) -> Any:
    """Takes the mean of 2x2 pixels: (n, h, w, c) -> (n, h / 2, w / 2, c)."""
    return 0.25 * tf.add_n(_split_phases(images))


def max_pool(images: Any) -> Any:
    """Takes the largest of 2x2 pixels: (n, h, w, c) -> (n, h / 2, w / 2, c).

    Of equal ones the first, in the order of the rows, gets the gradient.
    """
    one, two, three, four = _split_phases(images)
    return tf.maximum(tf.maximum(one, two), tf.maximum(three, four))


def _split_phases(images: tf.Tensor) -> list[tf.Tensor]:
    """Splits images into the pixels of even and odd row and column, in this order."""
    _, height, width, channels = images.shape
    images = tf.reshape(images, [-1, height // 2, 2, width // 2, 2, channels])
    images = tf.transpose(images, [2, 4, 0, 1, 3, 5])
    images = tf.reshape(images, [4, -1, height // 2, width // 2, channels])
    return tf.unstack(images)


def strided(images: tf.Tensor, kernel: tf.Tensor, before: Sequence[int]) -> tf.Tensor:
    """Convolves with stride 2, with `before` zeros above and left of the images."""

    def split(kernel: tf.Tensor, axis: int, phase: int) -> Any:
        return _gathered_taps(kernel, axis, phase, before[axis])

    parts = _phase_kernels(kernel, split)
    if images.shape[-1] < _FEW_CHANNELS:
        return convolve(
            tf.nn.space_to_depth(images, 2), *_joined_kernels(parts, axis=2)
        )
    return tf.add_n(
        [
            convolve(image, *part)
            for image, part in zip(_split_phases(images), parts, strict=True)
            # A 1x1 kernel sees one phase only.
            if 0 not in part[0].shape[:2]
        ]
    )


def to_phases(images: tf.Tensor, kernel: tf.Tensor, split: _Split) -> tf.Tensor:
    """Makes each phase of a result twice as large by a convolution of `images`."""
    parts = _phase_kernels(kernel, split)
    if kernel.shape[-1] < _FEW_CHANNELS:
        return tf.nn.depth_to_space(
            convolve(images, *_joined_kernels(parts, axis=3)), 2
        )
    _, height, width, _ = images.shape
    parts = tf.stack([convolve(images, *part) for part in parts])
    parts = tf.reshape(parts, [2, 2, -1, height, width, parts.shape[-1]])
    parts = tf.transpose(parts, [2, 3, 0, 4, 1, 5])
    return tf.reshape(parts, [-1, 2 * height, 2 * width, parts.shape[-1]])


def _phase_kernels(kernel: tf.Tensor, split: _Split) -> list[_Part]:
    """Splits a kernel for the four phases, in the order of `_split_phases`."""
    parts = []
    for row in (0, 1):
        rows, vertical = split(kernel, 0, row)
        for column in (0, 1):
            part, horizontal = split(rows, 1, column)
            parts.append((part, vertical, horizontal))
    return parts


def _joined_kernels(parts: list[_Part], axis: int) -> _Part:
    """Joins the kernels of four phases along their channels, in one window."""
    top, bottom, left, right = (
        max(part[along][end] for part in parts) for along in (1, 2) for end in (0, 1)
    )
    kernels = [
        tf.pad(
            part,
            [
                (top - vertical[0], bottom - vertical[1]),
                (left - horizontal[0], right - horizontal[1]),
                (0, 0),
                (0, 0),
            ],
        )
        for part, vertical, horizontal in parts
    ]
    return tf.concat(kernels, axis), (top, bottom), (left, right)


def zeros_before(size: int) -> int:
    """Returns what SAME puts before an even number of pixels, for stride 2."""
    return max(size - 2, 0) // 2


def _gathered_taps(
    kernel: tf.Tensor, axis: int, phase: int, before: int
) -> tuple[tf.Tensor, tuple[int, int]]:
    # Output i reads pixel 2 i + t - before with tap t, which is pixel i + m of the
    # phase where t = before + phase + 2 m.
    first = (before + phase) % 2
    taps = range(kernel.shape[axis])[first::2]
    before_first = (before + phase - first) // 2  # -m of the first tap
    return (
        kernel[_axis_slice(axis, slice(first, None, 2))],
        (before_first, len(taps) - 1 - before_first),
    )


def scattered_taps(
    kernel: tf.Tensor, axis: int, phase: int
) -> tuple[tf.Tensor, tuple[int, int]]:
    """Splits a transposed convolution's kernel: the taps of one phase of its result."""
    # This is the same correspondence from the other side: a pixel of the result sums
    # over the outputs i = j - m of the convolution which read it.
    before = zeros_before(kernel.shape[axis])
    taps, (left, right) = _gathered_taps(kernel, axis, phase, before)
    return tf.reverse(taps, [axis]), (right, left)


def merged_taps(
    kernel: tf.Tensor, axis: int, phase: int
) -> tuple[tf.Tensor, tuple[int, int]]:
    """Splits the kernel of an upsampled image: the taps of one phase of the result."""
    # Tap t of the pixel 2 j + phase falls on the small image's pixel j + m with
    # m = (phase + t - radius) // 2. Taps that fall on the same pixel are summed.
    size = kernel.shape[axis]
    radius = (size - 1) // 2
    taps: dict[int, list[tf.Tensor]] = {}
    for t in range(size):
        tap = kernel[_axis_slice(axis, slice(t, t + 1))]
        taps.setdefault((phase + t - radius) // 2, []).append(tap)
    return (
        tf.concat([tf.add_n(taps[m]) for m in sorted(taps)], axis),
        (-min(taps), max(taps)),
    )


def _axis_slice(axis: int, index: slice) -> tuple[slice, ...]:
    return (slice(None),) * axis + (index,)
