"""Convolutions that XLA compiles well on a CPU, with Keras's own weights.

XLA runs the input gradient of a strided convolution on a CPU many times slower than a
stride-1 convolution of the same arithmetic, and reads an upsampled image four times.
Both go away when an image is seen as its four phases, the pixels with even and odd row
and column: a stride-2 convolution is a sum of stride-1 convolutions of the phases, and
an upsampling convolution makes the four phases of its result from the small image. No
tap is multiplied by a zero, so operations are as many as the textbook's, or fewer:

    layer                                     taps per output pixel
    strided 5x5                               25, as 9 + 6 + 6 + 4
    transposed 5x5                            25 / 4, likewise
    nearest-neighbour upsampling, then 3x3    4 instead of 9
    3x3, then the mean of 2x2                 16 instead of 36

Variables, their names, layout and initialisers are those of `keras.layers.Conv2D` and
`Conv2DTranspose`, so weights interchange with them. The stock operations run where
there is a GPU, and for odd sizes, dilations and groups. Without XLA, TensorFlow's own
strided convolutions are the faster ones: `for_xla` says what the layers are traced for,
and `GAN` uses it.
"""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import tensorflow as tf

__all__ = [
    "Conv2D",
    "Conv2DTranspose",
    "ConvMeanPool2D",
    "ImageNormalization",
    "UpsampleConv2D",
    "for_xla",
]

# With fewer channels than this, one convolution of all phases is faster, although it
# multiplies some taps by zero.
_FEW = 16

_FOR_XLA = contextvars.ContextVar("for_xla", default=False)
_serializable = keras.saving.register_keras_serializable("tf_ttur")


@_serializable
class Conv2D(keras.layers.Conv2D):
    """`keras.layers.Conv2D`, fast under XLA on a CPU also with stride 2.

    Args:
        *args: As for `keras.layers.Conv2D`.
        **kwargs: Likewise.

    Example:
        >>> import numpy as np
        >>> from tf_ttur.layers import Conv2D
        >>> layer = Conv2D(8, 5, strides=2, padding="same")
        >>> tuple(layer(np.zeros((1, 32, 32, 3), "float32")).shape)
        (1, 16, 16, 8)
    """

    def convolution_op(self, inputs: Any, kernel: Any) -> Any:
        """Convolves; see `keras.layers.Conv2D`."""
        if _rewritable(self, inputs):
            before = [_zeros_before(size) for size in self.kernel_size]
            return _strided(inputs, tf.convert_to_tensor(kernel), before)
        return super().convolution_op(inputs, kernel)


@_serializable
class Conv2DTranspose(keras.layers.Conv2DTranspose):
    """`keras.layers.Conv2DTranspose`, fast under XLA on a CPU.

    Args:
        *args: As for `keras.layers.Conv2DTranspose`.
        **kwargs: Likewise.
    """

    def call(self, inputs: Any) -> Any:
        """Convolves; see `keras.layers.Conv2DTranspose`."""
        if not _rewritable(self, inputs) or self.output_padding is not None:
            return super().call(inputs)
        # Stored as (height, width, out, in).
        kernel = tf.transpose(tf.convert_to_tensor(self.kernel), [0, 1, 3, 2])
        return _activate(self, _to_phases(inputs, kernel, _scattered_taps))


class _ResamplingConv2D(keras.layers.Conv2D):
    """A convolution of odd size, stride 1, SAME, beside a resampling by 2."""

    def __init__(self, filters: int, kernel_size: Any, **kwargs: Any):
        # get_config gives these; anything else is not what these layers do.
        fixed = {"strides": (1, 1), "padding": "same", "dilation_rate": (1, 1)}
        for name, value in (fixed | {"groups": 1}).items():
            given = kwargs.get(name, value)
            if (tuple(given) if isinstance(given, list | tuple) else given) != value:
                raise ValueError(f"{name} is {given!r}; this layer has {value!r} only.")
        super().__init__(filters, kernel_size, **kwargs | {"padding": "same"})
        if any(size % 2 == 0 for size in self.kernel_size):
            raise ValueError(f"kernel_size is {self.kernel_size}; it must be odd.")


@_serializable
class UpsampleConv2D(_ResamplingConv2D):
    """Nearest-neighbour upsampling by 2, then a stride-1 convolution of odd size.

    The kernel is one of the large image; what runs on the small image are sums of its
    entries.

    Args:
        filters: Channels of the result.
        kernel_size: Odd.
        **kwargs: As for `keras.layers.Conv2D`, without strides and padding.
    """

    def call(self, inputs: Any) -> Any:
        """Upsamples and convolves."""
        kernel = tf.convert_to_tensor(self.kernel)
        if not _on_cpu():
            outputs = upsample(inputs)
            outputs = self.convolution_op(outputs, kernel)
            return _activate(self, outputs)
        if self.kernel_size == (1, 1):
            # Same pixel, same result: convolve first.
            return upsample(_activate(self, self.convolution_op(inputs, kernel)))
        return _activate(self, _to_phases(inputs, kernel, _merged_taps))

    def compute_output_shape(self, input_shape: Sequence[int]) -> tuple[int, ...]:
        """Twice the height and width."""
        batch, height, width, _ = input_shape
        return (batch, _twice(height), _twice(width), self.filters)


@_serializable
class ConvMeanPool2D(_ResamplingConv2D):
    """A convolution of odd size, stride 1, SAME, then the mean of 2x2 pixels.

    Both together are one convolution of stride 2 whose kernel is one larger.

    Args:
        filters: Channels of the result.
        kernel_size: Odd.
        **kwargs: As for `keras.layers.Conv2D`, without strides and padding.
    """

    def call(self, inputs: Any) -> Any:
        """Convolves and pools."""
        kernel = tf.convert_to_tensor(self.kernel)
        if self.kernel_size == (1, 1):
            # A 1x1 convolution commutes with the mean.
            outputs = self.convolution_op(mean_pool(inputs), kernel)
        elif not _on_cpu():
            outputs = mean_pool(self.convolution_op(inputs, kernel))
        else:
            for axis in (0, 1):
                ends = [[0, 0]] * 4
                early, late = list(ends), list(ends)
                early[axis], late[axis] = [0, 1], [1, 0]
                kernel = 0.5 * (tf.pad(kernel, early) + tf.pad(kernel, late))
            before = [(size - 1) // 2 for size in self.kernel_size]
            outputs = _strided(inputs, kernel, before)
        return _activate(self, outputs)

    def compute_output_shape(self, input_shape: Sequence[int]) -> tuple[int, ...]:
        """Half the height and width."""
        batch, height, width, _ = input_shape
        return (batch, _half(height), _half(width), self.filters)


@_serializable
class ImageNormalization(keras.layers.Layer):
    """Layer normalisation of an image: over all its pixels and channels.

    The same as `keras.layers.GroupNormalization(groups=1)`, with its weights, in a form
    whose first and second derivatives XLA fuses better.

    Args:
        epsilon: Added to the variance.
        **kwargs: As for `keras.layers.Layer`.
    """

    def __init__(self, epsilon: float = 1e-5, **kwargs: Any):
        super().__init__(**kwargs)
        self.epsilon = epsilon

    def build(self, input_shape: Sequence[int]) -> None:
        """Makes a scale and an offset for each channel."""
        shape = (input_shape[-1],)
        self.gamma = self.add_weight(shape=shape, initializer="ones", name="gamma")
        self.beta = self.add_weight(shape=shape, initializer="zeros", name="beta")

    def call(self, inputs: Any) -> Any:
        """Normalises each image by its own mean and variance."""
        # In float32, as Keras does: a float16 sum of squares overflows.
        images = tf.cast(inputs, tf.float32) if inputs.dtype == "float16" else inputs
        images -= tf.reduce_mean(images, [1, 2, 3], keepdims=True)
        variance = tf.reduce_mean(tf.square(images), [1, 2, 3], keepdims=True)
        images *= tf.math.rsqrt(variance + self.epsilon)
        gamma, beta = map(tf.convert_to_tensor, (self.gamma, self.beta))
        return tf.cast(images, inputs.dtype) * gamma + beta

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {**super().get_config(), "epsilon": self.epsilon}


@contextlib.contextmanager
def for_xla(compiled: bool = True) -> Iterator[None]:
    """Says whether what is traced inside of it is going to be compiled by XLA.

    Args:
        compiled: Whether it is.

    Example:
        >>> import tensorflow as tf
        >>> from tf_ttur import layers
        >>> layer = layers.Conv2D(8, 5, strides=2, padding="same")
        >>> @tf.function(jit_compile=True)
        ... def convolve(images):
        ...     with layers.for_xla():
        ...         return layer(images)
        >>> tuple(convolve(tf.zeros((1, 32, 32, 3))).shape)
        (1, 16, 16, 8)
    """
    token = _FOR_XLA.set(compiled)
    try:
        yield
    finally:
        _FOR_XLA.reset(token)


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
    return 0.25 * tf.add_n(_phases(images))


# ---- phases

# A kernel's taps along one axis (0 or 1) that a phase (0 or 1) meets, and the zeros
# that its image needs before and after.
_Split = Callable[[tf.Tensor, int, int], tuple[tf.Tensor, tuple[int, int]]]
# A kernel, and the zeros above and below and left and right of its image.
_Part = tuple[tf.Tensor, tuple[int, int], tuple[int, int]]


def _phases(images: tf.Tensor) -> list[tf.Tensor]:
    """Splits images into the pixels of even and odd row and column, in this order."""
    _, height, width, channels = images.shape
    images = tf.reshape(images, [-1, height // 2, 2, width // 2, 2, channels])
    images = tf.transpose(images, [2, 4, 0, 1, 3, 5])
    images = tf.reshape(images, [4, -1, height // 2, width // 2, channels])
    return tf.unstack(images)


def _strided(images: tf.Tensor, kernel: tf.Tensor, before: Sequence[int]) -> tf.Tensor:
    """Convolves with stride 2, with `before` zeros above and left of the images."""

    def split(kernel: tf.Tensor, axis: int, phase: int) -> Any:
        return _gathered_taps(kernel, axis, phase, before[axis])

    parts = _parts(kernel, split)
    if images.shape[-1] < _FEW:
        return _convolve(tf.nn.space_to_depth(images, 2), *_joined(parts, axis=2))
    return tf.add_n(
        [
            _convolve(image, *part)
            for image, part in zip(_phases(images), parts, strict=True)
            if 0 not in part[0].shape[:2]  # a 1x1 kernel sees one phase only
        ]
    )


def _to_phases(images: tf.Tensor, kernel: tf.Tensor, split: _Split) -> tf.Tensor:
    """Makes each phase of a result twice as large by a convolution of `images`."""
    parts = _parts(kernel, split)
    if kernel.shape[-1] < _FEW:
        return tf.nn.depth_to_space(_convolve(images, *_joined(parts, axis=3)), 2)
    _, height, width, _ = images.shape
    phases = tf.stack([_convolve(images, *part) for part in parts])
    phases = tf.reshape(phases, [2, 2, -1, height, width, phases.shape[-1]])
    phases = tf.transpose(phases, [2, 3, 0, 4, 1, 5])
    return tf.reshape(phases, [-1, 2 * height, 2 * width, phases.shape[-1]])


def _parts(kernel: tf.Tensor, split: _Split) -> list[_Part]:
    """Splits a kernel for the four phases, in the order of `_phases`."""
    parts = []
    for row in (0, 1):
        rows, vertical = split(kernel, 0, row)
        for column in (0, 1):
            part, horizontal = split(rows, 1, column)
            parts.append((part, vertical, horizontal))
    return parts


def _joined(parts: list[_Part], axis: int) -> _Part:
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


def _zeros_before(size: int) -> int:
    # What SAME puts before an even number of pixels, for a kernel with stride 2.
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
        kernel[_along(axis, slice(first, None, 2))],
        (before_first, len(taps) - 1 - before_first),
    )


def _scattered_taps(
    kernel: tf.Tensor, axis: int, phase: int
) -> tuple[tf.Tensor, tuple[int, int]]:
    # The same correspondence, read from the other side: a pixel of the result sums
    # over the outputs i = j - m of the convolution which read it.
    before = _zeros_before(kernel.shape[axis])
    taps, (left, right) = _gathered_taps(kernel, axis, phase, before)
    return tf.reverse(taps, [axis]), (right, left)


def _merged_taps(
    kernel: tf.Tensor, axis: int, phase: int
) -> tuple[tf.Tensor, tuple[int, int]]:
    # Tap t of the pixel 2 j + phase falls on the small image's pixel j + m with
    # m = (phase + t - radius) // 2. Taps that fall on the same pixel are summed.
    size = kernel.shape[axis]
    radius = (size - 1) // 2
    taps: dict[int, list[tf.Tensor]] = {}
    for t in range(size):
        tap = kernel[_along(axis, slice(t, t + 1))]
        taps.setdefault((phase + t - radius) // 2, []).append(tap)
    return (
        tf.concat([tf.add_n(taps[m]) for m in sorted(taps)], axis),
        (-min(taps), max(taps)),
    )


def _along(axis: int, index: slice) -> tuple[slice, ...]:
    return (slice(None),) * axis + (index,)


def _convolve(
    images: tf.Tensor,
    kernel: tf.Tensor,
    vertical: tuple[int, int],
    horizontal: tuple[int, int],
) -> tf.Tensor:
    paddings = [(0, 0), vertical, horizontal, (0, 0)]
    _, height, width, _ = images.shape
    rows, columns, inputs, outputs = kernel.shape
    if rows <= height and columns <= width:
        return tf.nn.conv2d(images, kernel, 1, paddings)
    # XLA has no fast convolution with a kernel larger than the image. Such an image is
    # small, and so is the matrix of its patches.
    images = tf.pad(images, paddings)
    height = images.shape[1] - rows + 1
    width = images.shape[2] - columns + 1
    patches = [
        images[:, row : row + height, column : column + width]
        for row in range(rows)
        for column in range(columns)
    ]
    # Stacked, and in two axes: otherwise the kernel's gradient is not one product.
    patches = tf.reshape(tf.stack(patches, 3), [-1, rows * columns * inputs])
    products = patches @ tf.reshape(kernel, [-1, outputs])
    return tf.reshape(products, [-1, height, width, outputs])


# ---- layers


def _on_cpu() -> bool:
    return not tf.config.list_physical_devices("GPU")


def _rewritable(layer: Any, inputs: Any) -> bool:
    """Says whether a layer is a stride-2 one for which phases are defined."""
    _, height, width, _ = inputs.shape
    return (
        _FOR_XLA.get()
        and _on_cpu()
        and layer.data_format == "channels_last"
        and layer.padding == "same"
        and tuple(layer.strides) == (2, 2)
        and tuple(layer.dilation_rate) == (1, 1)
        and getattr(layer, "groups", 1) == 1
        and None not in (height, width)
        and (isinstance(layer, Conv2DTranspose) or (height % 2, width % 2) == (0, 0))
        and (isinstance(layer, Conv2D) or min(layer.kernel_size) > 1)
    )


def _activate(layer: Any, outputs: tf.Tensor) -> tf.Tensor:
    if layer.use_bias:
        outputs = outputs + tf.convert_to_tensor(layer.bias)
    return outputs if layer.activation is None else layer.activation(outputs)


def _twice(size: int | None) -> int | None:
    return None if size is None else 2 * size


def _half(size: int | None) -> int | None:
    return None if size is None else size // 2
