"""What XLA compiles badly on a CPU, in forms that it compiles well.

A step by XLA on a CPU spends its time in two kinds of work. Products, its convolutions
of stride 1 among them, run close to the machine's rate. Loops that it writes itself run
at the memory's rate where they walk through it in order, and some twenty times slower
where they do not. Two of a training step's do not:

- A sum over all images and pixels, one for each channel: of a bias's gradient and of
  batch normalisation. `sum_pixels` adds stretches of memory in order, and leaves the
  last of it to a product with ones. `spread` is its adjoint, so that the gradient of
  whatever is added to or multiplied with every pixel becomes such a sum.
- The transposition of a convolution's input for its kernel's gradient, into which XLA
  also merges (and so repeats) whatever the input was computed from. `convolve` has it
  done by a product with the unit matrix.

Values and derivatives are the same up to rounding. `for_xla` says that what is
traced is going to be compiled by XLA; `GAN` says so, and `rewrites` is asked by the
layers.
"""

from __future__ import annotations

import contextlib
import contextvars
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf

__all__ = [
    "convolve",
    "for_xla",
    "on_cpu",
    "precise",
    "rewrites",
    "spread",
    "sum_each",
    "sum_pixels",
]

_FOR_XLA = contextvars.ContextVar("for_xla", default=False)

# A sum adds so many leading parts first. XLA splits sums of more than 32 in a slow way.
_SUM_PARTS = 16
# Rows of the matrix of ones. For a single row XLA writes a loop of its own again.
_ONES_ROWS = 8
# A product with the unit matrix costs less than a transposition of an array of this
# size or more, which no cache holds, unless there are more images than this.
_LARGE_SIZE = 2**17
_FEW_IMAGES = 128


@contextlib.contextmanager
def for_xla(compiled: bool = True) -> Iterator[None]:
    """Says whether what is traced inside of it is going to be compiled by XLA.

    Args:
        compiled: Whether it is.

    Example:
        >>> import tensorflow as tf
        >>> from tf_ttur import layers, xla
        >>> layer = layers.Conv2D(8, 5, strides=2, padding="same")
        >>> @tf.function(jit_compile=True)
        ... def convolve(images):
        ...     with xla.for_xla():
        ...         return layer(images)
        >>> tuple(convolve(tf.zeros((1, 32, 32, 3))).shape)
        (1, 16, 16, 8)
    """
    token = _FOR_XLA.set(compiled)
    try:
        yield
    finally:
        _FOR_XLA.reset(token)


def on_cpu() -> bool:
    """Says whether there is neither a GPU nor a TPU."""
    return not any(map(tf.config.list_physical_devices, ("GPU", "TPU")))


def rewrites() -> bool:
    """Says whether the forms of this module are the faster ones here."""
    return _FOR_XLA.get() and on_cpu()


def precise(values: tf.Tensor) -> tf.Tensor:
    """Returns values in float32 at least: a float16 sum of squares overflows."""
    return tf.cast(values, tf.float32) if values.dtype.size < 4 else values


def sum_pixels(images: tf.Tensor) -> tf.Tensor:
    """Sums over all axes but the last.

    Args:
        images: (..., c), of known size but for the first axis.

    Returns:
        The sums (c,).
    """
    if not rewrites():
        return tf.reduce_sum(images, range(len(images.shape) - 1))
    return _sum_pixels(images)


def sum_each(images: tf.Tensor, apart: bool = False) -> tf.Tensor:
    """Sums each image over its pixels.

    Args:
        images: (n, h, w, c); h, w and c are known.
        apart: Whether XLA is kept from computing the images in the sum's own loop. It
            repeats what they are made of there, which is slow for images that others
            need, too, and that took a function such as a sigmoid.

    Returns:
        The sums (n, c).
    """
    if not apart:
        return tf.reduce_sum(images, [1, 2])
    # A product takes arrays from the memory. One row of ones is enough: each image has
    # a matrix of its own.
    _, height, width, channels = images.shape
    rows = tf.reshape(images, [-1, height * width, channels])
    ones = tf.ones([tf.shape(rows)[0], 1, height * width], images.dtype)
    return tf.squeeze(ones @ rows, 1)


def spread(values: tf.Tensor, images: tf.Tensor) -> tf.Tensor:
    """Gives every pixel the values of its channels; the adjoint of `sum_pixels`.

    Args:
        values: (c,).
        images: (..., c), whose shape is taken.

    Returns:
        The values in a shape that broadcasts to that of the images.
    """
    return _spread(values, images) if rewrites() else values


# Each of the two is the other's gradient. They do not ask `rewrites` again, which may
# have another answer where a gradient is taken.


def _sum_pixels(images: tf.Tensor) -> tf.Tensor:
    *sizes, channels = images.shape
    parts = math.gcd(_SUM_PARTS, math.prod(size or 1 for size in sizes))

    @tf.custom_gradient
    def total(images: tf.Tensor) -> Any:
        flat = tf.reshape(images, [parts, -1, channels])
        flat = tf.reduce_sum(precise(flat), 0)
        ones = tf.ones([_ONES_ROWS, _shape(flat)[0]], flat.dtype)
        sums = tf.cast((ones @ flat)[0], images.dtype)
        return sums, lambda upstream: _spread(upstream, images)

    return total(images)


def _spread(values: tf.Tensor, images: tf.Tensor) -> tf.Tensor:
    @tf.custom_gradient
    def broadcast(values: tf.Tensor) -> Any:
        return tf.broadcast_to(values, _shape(images)), _sum_pixels

    return broadcast(values)


def convolve(
    images: tf.Tensor,
    kernel: tf.Tensor,
    vertical: tuple[int, int],
    horizontal: tuple[int, int],
) -> tf.Tensor:
    """Convolves with stride 1.

    Args:
        images: (n, h, w, c); h and w are known.
        kernel: (rows, columns, c, filters).
        vertical: Zeros above and below the images, each less than rows.
        horizontal: Zeros left and right of them, each less than columns.

    Returns:
        (n, h + sum(vertical) - rows + 1, w + sum(horizontal) - columns + 1, filters).
    """
    _, height, width, _ = images.shape
    rows, columns, inputs, outputs = kernel.shape
    paddings = [(0, 0), vertical, horizontal, (0, 0)]
    if not rewrites():
        return tf.nn.conv2d(images, kernel, 1, paddings)
    if (rows, columns) == (1, 1):
        products = tf.reshape(images, [-1, inputs]) @ kernel[0, 0]
        return tf.reshape(products, [-1, height, width, outputs])
    if rows > height or columns > width:
        return _from_patches(tf.pad(images, paddings), kernel)

    @tf.custom_gradient
    def convolution(images: tf.Tensor, kernel: tf.Tensor) -> Any:
        def gradients(upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            back = tf.reverse(tf.transpose(kernel, [0, 1, 3, 2]), [0, 1])
            ends = [
                (size - 1 - before, size - 1 - after)
                for size, (before, after) in ((rows, vertical), (columns, horizontal))
            ]
            # An entry of the kernel's gradient sums over images and pixels: it is a
            # convolution whose channels are the images.
            taps = tf.nn.conv2d(
                _by_channels(images), tf.transpose(upstream, [1, 2, 0, 3]), 1, paddings
            )
            return convolve(upstream, back, *ends), tf.transpose(taps, [1, 2, 0, 3])

        return tf.nn.conv2d(images, kernel, 1, paddings), gradients

    return convolution(images, kernel)


def _shape(images: tf.Tensor) -> Any:
    # A known shape needs no operations: a step of a ResNet asks hundreds of times.
    known = images.shape.is_fully_defined()
    return images.shape.as_list() if known else tf.shape(images)


def _from_patches(images: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    # XLA has no fast convolution with a kernel larger than the image. Such an image is
    # small, and so is the matrix of its patches.
    rows, columns, inputs, outputs = kernel.shape
    height = images.shape[1] - rows + 1
    width = images.shape[2] - columns + 1
    patches = [
        images[:, row : row + height, column : column + width]
        for row in range(rows)
        for column in range(columns)
    ]
    # The patches are stacked and made a matrix, so that the kernel's gradient is one
    # product.
    patches = tf.reshape(tf.stack(patches, 3), [-1, rows * columns * inputs])
    products = patches @ tf.reshape(kernel, [-1, outputs])
    return tf.reshape(products, [-1, height, width, outputs])


def _by_channels(images: tf.Tensor) -> tf.Tensor:
    """Transposes (n, h, w, c) to (c, h, w, n)."""
    count, height, width, channels = images.shape
    if (
        count is None
        or count > _FEW_IMAGES
        or count * height * width * channels < _LARGE_SIZE
    ):
        return tf.transpose(images, [3, 1, 2, 0])
    # The product is exact for finite numbers. An infinity makes NaN of whole rows. It
    # spoils a gradient, which is a sum over all images, in any case.
    unit = tf.constant(np.eye(count), images.dtype)
    pixels = tf.linalg.matmul(tf.reshape(images, [count, -1]), unit, transpose_a=True)
    pixels = tf.reshape(pixels, [height, width, channels, count])
    return tf.transpose(pixels, [2, 0, 1, 3])
