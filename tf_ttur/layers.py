"""The networks' layers, fast under XLA on a CPU, with Keras's own weights.

They compute what the layers of the same names in `keras.layers` compute, or, beside a
resampling, what two of those do. Variables, their names, layout and initialisers are
Keras's, so weights interchange. On a CPU and under XLA their operations are those of
`tf_ttur.phases` (strides and resampling by 2; without XLA, too, for resampling) and
`tf_ttur.xla` (convolutions and sums over pixels). TensorFlow's own run elsewhere, and
for odd sizes, dilations and groups. `GAN` traces its networks inside of
`tf_ttur.xla.for_xla`.

The normalisations are right in their second derivatives, too, of which the gradient
penalty and Hessians are made. Keras's are not: `tf.nn.moments`, which they use, takes
the variance around a mean whose gradient is stopped.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from tf_ttur.phases import (
    mean_pool,
    merged_taps,
    scattered_taps,
    strided,
    to_phases,
    upsample,
    zeros_before,
)
from tf_ttur.xla import (
    convolve,
    on_cpu,
    precise,
    rewrites,
    spread,
    sum_each,
    sum_pixels,
)

__all__ = [
    "BatchNormalization",
    "ConditionalBatchNormalization",
    "Conv2D",
    "Conv2DTranspose",
    "ConvMeanPool2D",
    "Embedding",
    "GlobalSumPooling2D",
    "GroupNormalization",
    "ImageNormalization",
    "MeanPool2D",
    "SameConv2D",
    "Upsample2D",
    "UpsampleConv2D",
    "batch_normalize",
    "group_normalize",
    "look_up",
]

_serializable = keras.saving.register_keras_serializable("tf_ttur")


@_serializable
class Conv2D(keras.layers.Conv2D):
    """`keras.layers.Conv2D`, fast under XLA on a CPU with strides 1 and 2.

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

    def call(self, inputs: Any) -> Any:
        """Convolves; see `keras.layers.Conv2D`."""
        kernel = tf.convert_to_tensor(self.kernel)
        if _rewritable(self, inputs, strides=(1, 1)):
            outputs = _convolve_same(inputs, kernel)
        elif _rewritable(self, inputs, strides=(2, 2)) and _has_even_sizes(inputs):
            before = [zeros_before(size) for size in self.kernel_size]
            outputs = strided(inputs, kernel, before)
        else:
            return super().call(inputs)
        return _add_bias_and_activate(self, outputs)


@_serializable
class Conv2DTranspose(keras.layers.Conv2DTranspose):
    """`keras.layers.Conv2DTranspose`, fast under XLA on a CPU with stride 2.

    Args:
        *args: As for `keras.layers.Conv2DTranspose`.
        **kwargs: Likewise.
    """

    def call(self, inputs: Any) -> Any:
        """Convolves; see `keras.layers.Conv2DTranspose`."""
        if (
            not _rewritable(self, inputs, strides=(2, 2))
            or min(self.kernel_size) < 2
            or self.output_padding is not None
        ):
            return super().call(inputs)
        # The kernel is stored as (height, width, out, in).
        kernel = tf.transpose(tf.convert_to_tensor(self.kernel), [0, 1, 3, 2])
        return _add_bias_and_activate(self, to_phases(inputs, kernel, scattered_taps))


@_serializable
class SameConv2D(keras.layers.Conv2D):
    """A convolution of odd size with stride 1 that leaves images as large as they are.

    The layers that resample beside it are subclasses, and so are those of
    `tf_ttur.spectral`, which convolve with another kernel than their variable.

    Args:
        filters: Channels of the result.
        kernel_size: Odd.
        **kwargs: As for `keras.layers.Conv2D`, without strides and padding.
    """

    def __init__(self, filters: int, kernel_size: Any, **kwargs: Any):
        # `get_config` gives these settings, and these layers compute nothing else.
        fixed = {"strides": (1, 1), "padding": "same", "dilation_rate": (1, 1)}
        fixed |= {"groups": 1, "data_format": "channels_last"}
        # The global setting of Keras has no influence.
        kwargs = {"data_format": "channels_last"} | kwargs
        for name, value in fixed.items():
            given = kwargs.get(name, value)
            if (tuple(given) if isinstance(given, list | tuple) else given) != value:
                raise ValueError(f"{name} is {given!r}; this layer has {value!r} only.")
        super().__init__(filters, kernel_size, **kwargs | {"padding": "same"})
        if any(size % 2 == 0 for size in self.kernel_size):
            raise ValueError(f"kernel_size is {self.kernel_size}; it must be odd.")

    def call(self, inputs: Any) -> Any:
        """Convolves."""
        return self.convolved(inputs, tf.convert_to_tensor(self.kernel))

    def convolved(self, inputs: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        """Computes what the layer computes, with a kernel that is given.

        Args:
            inputs: (n, h, w, c).
            kernel: Of the shape of the layer's own, and of the type of the inputs.

        Returns:
            (n, h', w', filters), with the layer's bias and activation.
        """
        return _add_bias_and_activate(self, _convolve_same(inputs, kernel))


@_serializable
class UpsampleConv2D(SameConv2D):
    """Nearest-neighbour upsampling by 2, then a stride-1 convolution of odd size.

    The kernel is one of the large image; what runs on the small image are sums of its
    entries.

    Args:
        filters: Channels of the result.
        kernel_size: Odd.
        **kwargs: As for `keras.layers.Conv2D`, without strides and padding.
    """

    def convolved(self, inputs: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        """Upsamples and convolves; see `SameConv2D.convolved`."""
        if not on_cpu():
            outputs = upsample(inputs)
            outputs = self.convolution_op(outputs, kernel)
            return _add_bias_and_activate(self, outputs)
        if self.kernel_size == (1, 1):
            # Equal pixels have equal results, so the small image is convolved.
            return upsample(
                _add_bias_and_activate(self, convolve(inputs, kernel, (0, 0), (0, 0)))
            )
        return _add_bias_and_activate(self, to_phases(inputs, kernel, merged_taps))

    def compute_output_shape(self, input_shape: Sequence[int]) -> tuple[int, ...]:
        """Returns the shape of twice the height and width."""
        batch, height, width, _ = input_shape
        return (batch, _doubled(height), _doubled(width), self.filters)


@_serializable
class ConvMeanPool2D(SameConv2D):
    """A convolution of odd size, stride 1, SAME, then the mean of 2x2 pixels.

    Both together are one convolution of stride 2 whose kernel is one larger.

    Args:
        filters: Channels of the result.
        kernel_size: Odd.
        **kwargs: As for `keras.layers.Conv2D`, without strides and padding.
    """

    def convolved(self, inputs: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        """Convolves and pools; see `SameConv2D.convolved`."""
        if not _has_even_sizes(inputs):
            raise ValueError(
                f"The images are {tuple(inputs.shape[1:3])}; the mean of 2x2 pixels "
                "needs an even height and width."
            )
        if self.kernel_size == (1, 1):
            # A 1x1 convolution commutes with the mean.
            outputs = convolve(mean_pool(inputs), kernel, (0, 0), (0, 0))
        elif not on_cpu():
            outputs = mean_pool(self.convolution_op(inputs, kernel))
        else:
            for axis in (0, 1):
                ends = [[0, 0]] * 4
                early, late = list(ends), list(ends)
                early[axis], late[axis] = [0, 1], [1, 0]
                kernel = 0.5 * (tf.pad(kernel, early) + tf.pad(kernel, late))
            before = [(size - 1) // 2 for size in self.kernel_size]
            outputs = strided(inputs, kernel, before)
        return _add_bias_and_activate(self, outputs)

    def compute_output_shape(self, input_shape: Sequence[int]) -> tuple[int, ...]:
        """Returns the shape of half the height and width."""
        batch, height, width, _ = input_shape
        return (batch, _halved(height), _halved(width), self.filters)


@_serializable
class BatchNormalization(keras.layers.BatchNormalization):
    """`keras.layers.BatchNormalization`, fast under XLA on a CPU.

    Args:
        **kwargs: As for `keras.layers.BatchNormalization`.
    """

    def call(self, inputs: Any, training: Any = None, mask: Any = None) -> Any:
        """Normalises; see `keras.layers.BatchNormalization`."""
        if (
            not training
            or not self.trainable
            or mask is not None
            or self.axis not in (-1, len(inputs.shape) - 1)
            or not (self.scale and self.center)
            or getattr(self, "renorm", False)
            or self.synchronized
            or None in inputs.shape[1:]
        ):
            return super().call(inputs, training=training, mask=mask)
        images = precise(inputs)
        gamma, beta, *moving = (
            tf.cast(tf.convert_to_tensor(variable), images.dtype)
            for variable in (
                self.gamma,
                self.beta,
                self.moving_mean,
                self.moving_variance,
            )
        )
        outputs, *moments = batch_normalize(images, gamma, beta, self.epsilon)
        for variable, old, new in zip(
            (self.moving_mean, self.moving_variance), moving, moments, strict=True
        ):
            variable.assign(old * self.momentum + new * (1.0 - self.momentum))
        return tf.cast(outputs, self.compute_dtype)


@_serializable
class ConditionalBatchNormalization(keras.layers.Layer):
    """Batch normalisation whose scales and offsets are each image's own.

    An image x becomes (1 + gain) (x - mean) / sqrt(variance + epsilon) + offset, with
    the mean and the variance of each channel over the batch. What computes gains and
    offsets, as from a class, is another layer.

    Args:
        momentum: What the moving averages of mean and variance keep in a step.
        epsilon: Added to the variance.
        **kwargs: As for `keras.layers.Layer`.

    The inputs are images (n, h, w, c), gains (n, c) and offsets (n, c).

    Example:
        >>> import numpy as np
        >>> from tf_ttur.layers import ConditionalBatchNormalization
        >>> images = np.random.default_rng(0).normal(size=(8, 4, 4, 3))
        >>> gains, offsets = np.full((8, 3), 1.0), np.full((8, 3), 5.0)
        >>> found = ConditionalBatchNormalization()(
        ...     [images, gains, offsets], training=True)
        >>> round(float(np.mean(found))), round(float(np.std(found)))
        (5, 2)
    """

    def __init__(self, momentum: float = 0.9, epsilon: float = 1e-5, **kwargs: Any):
        super().__init__(**kwargs)
        self.momentum = momentum
        self.epsilon = epsilon

    def build(self, input_shape: Sequence[Sequence[int]]) -> None:
        """Makes the moving averages of each channel's mean and variance."""
        shape = (input_shape[0][-1],)
        self.moving_mean, self.moving_variance = (
            self.add_weight(
                name=name,
                shape=shape,
                initializer=initializer,
                trainable=False,
                autocast=False,
            )
            for name, initializer in (
                ("moving_mean", "zeros"),
                ("moving_variance", "ones"),
            )
        )

    def call(self, inputs: Sequence[Any], training: Any = None) -> Any:
        """Normalises by the batch's statistics in training, else by the averages."""
        images, gains, offsets = map(precise, inputs)
        moving = [
            tf.cast(tf.convert_to_tensor(variable), images.dtype)
            for variable in (self.moving_mean, self.moving_variance)
        ]
        if training and self.trainable:
            outputs, *moments = batch_normalize(
                images, 1.0 + gains, offsets, self.epsilon
            )
            for variable, old, new in zip(
                (self.moving_mean, self.moving_variance), moving, moments, strict=True
            ):
                variable.assign(old * self.momentum + new * (1.0 - self.momentum))
        else:
            mean, variance = moving
            scales = (1.0 + gains) * tf.math.rsqrt(variance + self.epsilon)
            outputs = (images - mean) * _to_pixels(scales) + _to_pixels(offsets)
        return tf.cast(outputs, self.compute_dtype)

    def compute_output_shape(
        self, input_shape: Sequence[Sequence[int]]
    ) -> tuple[int, ...]:
        """Returns the shape of the images."""
        return tuple(input_shape[0])

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        config = {"momentum": self.momentum, "epsilon": self.epsilon}
        return {**super().get_config(), **config}


@_serializable
class GlobalSumPooling2D(keras.layers.Layer):
    """Sums each image over its pixels, (n, h, w, c) -> (n, c), in float32 at least.

    Args:
        **kwargs: As for `keras.layers.Layer`.
    """

    def __init__(self, **kwargs: Any):
        super().__init__(**{"dtype": "float32"} | kwargs)

    def call(self, inputs: Any) -> Any:
        """Sums over pixels."""
        return tf.reduce_sum(inputs, [1, 2])

    def compute_output_shape(self, input_shape: Sequence[int]) -> tuple[int, ...]:
        """Returns the shape without pixels."""
        return (input_shape[0], input_shape[-1])


@_serializable
class Embedding(keras.layers.Embedding):
    """`keras.layers.Embedding`, whose gradient is an array like any other.

    TensorFlow's own is in pieces, one for each row that was looked up, which
    optimizers, loss scaling and replicas have to treat in ways of their own.

    Args:
        *args: As for `keras.layers.Embedding`.
        **kwargs: Likewise.
    """

    def call(self, inputs: Any) -> Any:
        """Looks rows up; see `keras.layers.Embedding`."""
        return look_up(tf.convert_to_tensor(self.embeddings), inputs)


@_serializable
class ImageNormalization(keras.layers.Layer):
    """Layer normalisation of an image: over all its pixels and channels.

    The same as `keras.layers.GroupNormalization(groups=1)`, with its weights, in a form
    whose derivatives XLA fuses better; the second ones are right (see the module).

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
        images = precise(inputs)
        images -= tf.reduce_mean(images, [1, 2, 3], keepdims=True)
        variance = tf.reduce_mean(tf.square(images), [1, 2, 3], keepdims=True)
        images *= tf.math.rsqrt(variance + self.epsilon)
        gamma, beta = map(tf.convert_to_tensor, (self.gamma, self.beta))
        images = tf.cast(images, inputs.dtype)
        return images * spread(gamma, images) + spread(beta, images)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {**super().get_config(), "epsilon": self.epsilon}


@_serializable
class GroupNormalization(keras.layers.Layer):
    """Group normalisation, which may be told a condition and may end in SiLU.

    Each image is normalised by the mean and variance of each of its groups of
    neighbouring channels (Wu and He 2018), as `keras.layers.GroupNormalization` does,
    with the same weights. Beside the images, the layer may get vectors that a condition
    decides, such as the noise level of a diffusion model:

    - vectors of c numbers are added to the images' pixels before all else, as in DDPM;
    - vectors of 2 c numbers are gains and offsets, as in ADM: what is normalised, y,
      becomes (1 + gain) y + offset.

    Statistics are of float32 at least. Derivatives are written out, so that the images
    are walked through as rarely as possible.

    Args:
        groups: Number of groups, which divides the channels.
        epsilon: Added to the variance.
        silu: Whether y sigmoid(y) is returned instead of y.
        **kwargs: As for `keras.layers.Layer`.

    The inputs are images (n, h, w, c), or a list of them and of vectors (n, c) or
    (n, 2 c). h, w and c are known.

    Example:
        >>> import numpy as np
        >>> from tf_ttur.layers import GroupNormalization
        >>> images = np.random.default_rng(0).normal(3.0, 5.0, size=(8, 16, 16, 6))
        >>> found = GroupNormalization(2)(images)
        >>> round(float(np.mean(found))), round(float(np.std(found)))
        (0, 1)
    """

    def __init__(
        self, groups: int, epsilon: float = 1e-5, silu: bool = False, **kwargs: Any
    ):
        super().__init__(**kwargs)
        self.groups = groups
        self.epsilon = epsilon
        self.silu = silu

    def build(self, input_shape: Sequence[Any]) -> None:
        """Makes a scale and an offset for each channel."""
        images, *vectors = _shapes(input_shape)
        channels = images[-1]
        if self.groups < 1 or channels % self.groups:
            raise ValueError(
                f"{channels} channels cannot be split evenly into {self.groups} groups."
            )
        if vectors and vectors[0][-1] not in (channels, 2 * channels):
            raise ValueError(
                f"The vectors have {vectors[0][-1]} numbers; for images of {channels} "
                f"channels they need {channels}, which are added, or {2 * channels}, "
                "which are gains and offsets."
            )
        for name, initializer in (("gamma", "ones"), ("beta", "zeros")):
            weight = self.add_weight(
                shape=(channels,), initializer=initializer, name=name
            )
            setattr(self, name, weight)

    def call(self, inputs: Any) -> Any:
        """Normalises each group of channels of each image."""
        images, *vectors = map(
            precise, inputs if isinstance(inputs, list | tuple) else [inputs]
        )
        channels = images.shape[-1]
        gamma, beta = (
            tf.cast(tf.convert_to_tensor(values), images.dtype)
            for values in (self.gamma, self.beta)
        )
        shape = [tf.shape(images)[0], channels]
        if vectors and vectors[0].shape[-1] == 2 * channels:
            gains, offsets = tf.split(vectors[0], 2, -1)
            scales, offsets = gamma * (1.0 + gains), beta * (1.0 + gains) + offsets
        else:
            if vectors:
                images += _to_pixels(vectors[0])
            scales, offsets = (
                tf.broadcast_to(values, shape) for values in (gamma, beta)
            )
        outputs = group_normalize(
            images, scales, offsets, self.groups, self.epsilon, self.silu
        )
        return tf.cast(outputs, self.compute_dtype)

    def compute_output_shape(self, input_shape: Sequence[Any]) -> tuple[int, ...]:
        """Returns the shape of the images."""
        return tuple(_shapes(input_shape)[0])

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        config = {"groups": self.groups, "epsilon": self.epsilon, "silu": self.silu}
        return {**super().get_config(), **config}


@_serializable
class Upsample2D(keras.layers.Layer):
    """Repeats every pixel in both directions, (n, h, w, c) -> (n, 2 h, 2 w, c).

    Args:
        **kwargs: As for `keras.layers.Layer`.
    """

    def call(self, inputs: Any) -> Any:
        """Repeats pixels."""
        return upsample(inputs)

    def compute_output_shape(self, input_shape: Sequence[int]) -> tuple[int, ...]:
        """Returns the shape of twice the height and width."""
        batch, height, width, channels = input_shape
        return (batch, _doubled(height), _doubled(width), channels)


@_serializable
class MeanPool2D(keras.layers.Layer):
    """Takes the mean of 2x2 pixels, (n, h, w, c) -> (n, h / 2, w / 2, c).

    Args:
        **kwargs: As for `keras.layers.Layer`.
    """

    def call(self, inputs: Any) -> Any:
        """Takes means; the height and width of the images are even."""
        return mean_pool(inputs)

    def compute_output_shape(self, input_shape: Sequence[int]) -> tuple[int, ...]:
        """Returns the shape of half the height and width."""
        batch, height, width, channels = input_shape
        return (batch, _halved(height), _halved(width), channels)


def batch_normalize(
    images: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor, epsilon: float
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Normalises each channel over images and pixels.

    Args:
        images: (n, ..., c).
        gamma: The channels' scales (c,), or scales for each of the images (n, c), which
            are then (n, h, w, c).
        beta: Their offsets, of the same shape.
        epsilon: Added to the variance.

    Returns:
        The images, and each channel's mean and variance (c,), which are for moving
        averages and not differentiated.
    """
    count = tf.cast(tf.size(images) // images.shape[-1], images.dtype)
    one_for_all = len(gamma.shape) == 1

    @tf.custom_gradient
    def normalized(images: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor) -> Any:
        mean = sum_pixels(images) / count
        centred = images - spread(mean, images)
        variance = sum_pixels(tf.square(centred)) / count
        rate = tf.math.rsqrt(variance + epsilon)
        values = centred * spread(rate, images)

        def gradients(upstream: tf.Tensor, *_: Any) -> tuple[tf.Tensor, ...]:
            # Step by step, the derivative takes four sums; two are enough.
            if one_for_all:
                by_beta = sum_pixels(upstream)
                by_gamma = sum_pixels(upstream * values)
                by_images = (
                    upstream
                    - spread(by_beta / count, images)
                    - values * spread(by_gamma / count, images)
                )
                by_images *= spread(gamma * rate, images)
            else:
                by_beta = sum_each(upstream)
                by_gamma = sum_each(upstream * values)
                by_images = (
                    upstream * _to_pixels(gamma)
                    - spread(tf.reduce_sum(gamma * by_beta, 0) / count, images)
                    - values
                    * spread(tf.reduce_sum(gamma * by_gamma, 0) / count, images)
                )
                by_images *= spread(rate, images)
            return by_images, by_gamma, by_beta

        if one_for_all:
            outputs = values * spread(gamma, images) + spread(beta, images)
        else:
            outputs = values * _to_pixels(gamma) + _to_pixels(beta)
        return (outputs, mean, variance), gradients

    return normalized(images, gamma, beta)


def group_normalize(
    images: tf.Tensor,
    scales: tf.Tensor,
    offsets: tf.Tensor,
    groups: int,
    epsilon: float,
    silu: bool = False,
) -> tf.Tensor:
    """Normalises each group of neighbouring channels of each image.

    Args:
        images: (n, h, w, c), of known size but for n.
        scales: Each image's scales of its channels (n, c).
        offsets: Their offsets (n, c).
        groups: Number of groups; it divides c.
        epsilon: Added to the variance.
        silu: Whether y sigmoid(y) is returned instead of y.

    Returns:
        (n, h, w, c).
    """
    _, height, width, channels = images.shape
    members = channels // groups
    count = float(height * width * members)
    apart = rewrites()  # It may have another answer where a gradient is taken.

    def group_means(sums: tf.Tensor) -> tf.Tensor:
        """Makes of sums over pixels (n, c) the means of their groups, (n, c)."""
        sums = tf.reshape(sums, [-1, groups, members])
        means = tf.reduce_sum(sums, -1, keepdims=True) / count
        # `tf.repeat` is a dozen operations, which each layer would have four times.
        means *= tf.ones([1, 1, members], means.dtype)
        return tf.reshape(means, [-1, channels])

    @tf.custom_gradient
    def normalized(images: tf.Tensor, scales: tf.Tensor, offsets: tf.Tensor) -> Any:
        mean = group_means(sum_each(images))
        centred = images - _to_pixels(mean)
        rate = tf.math.rsqrt(group_means(sum_each(tf.square(centred))) + epsilon)

        def scaled() -> tf.Tensor:
            return centred * _to_pixels(scales * rate) + _to_pixels(offsets)

        def gradients(upstream: tf.Tensor) -> tuple[tf.Tensor, ...]:
            if silu:
                values = scaled()
                gate = tf.sigmoid(values)
                upstream *= gate * (1.0 + values * (1.0 - gate))
            by_offsets = sum_each(upstream, apart)
            by_scales = rate * sum_each(upstream * centred, apart)
            # The mean and the variance are functions of the images, too.
            by_mean = rate * group_means(scales * by_offsets)
            by_rate = tf.square(rate) * group_means(scales * by_scales)
            by_images = (
                upstream * _to_pixels(scales * rate)
                - _to_pixels(by_mean)
                - centred * _to_pixels(by_rate)
            )
            return by_images, by_scales, by_offsets

        values = scaled()
        return values * tf.sigmoid(values) if silu else values, gradients

    return normalized(images, scales, offsets)


def look_up(table: tf.Tensor, indices: tf.Tensor) -> tf.Tensor:
    """Takes rows of a table; the gradient by the table is an array as large as it.

    Args:
        table: (rows, d).
        indices: Integers in [0, rows), of any shape.

    Returns:
        Of that shape, and (d,).
    """
    rows = table.shape[0]

    @tf.custom_gradient
    def taken(table: tf.Tensor) -> Any:
        def gradient(upstream: tf.Tensor) -> tf.Tensor:
            # A product sums the gradients of equal rows, in the same order always.
            flat = tf.reshape(indices, [-1])
            places = tf.one_hot(flat, rows, axis=0, dtype=upstream.dtype)
            return places @ tf.reshape(upstream, [-1, table.shape[1]])

        return tf.gather(table, indices), gradient

    return taken(table)


def _to_pixels(values: tf.Tensor) -> tf.Tensor:
    """Gives (n, c) the shape that broadcasts to images (n, h, w, c)."""
    return tf.reshape(values, [-1, 1, 1, values.shape[-1]])


def _rewritable(layer: Any, inputs: Any, strides: tuple[int, ...]) -> bool:
    """Says whether a convolution of these strides is one for our own operations."""
    return (
        rewrites()
        and layer.data_format == "channels_last"
        and layer.padding == "same"
        and tuple(layer.strides) == strides
        and set(layer.dilation_rate) == {1}
        and getattr(layer, "groups", 1) == 1
        and None not in inputs.shape[1:]
    )


def _convolve_same(images: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    return convolve(images, kernel, *map(_same_padding, kernel.shape[:2]))


def _same_padding(size: int) -> tuple[int, int]:
    # With stride 1, SAME puts these zeros before and after an axis.
    return (size - 1) // 2, size // 2


def _has_even_sizes(images: Any) -> bool:
    return all(size is not None and size % 2 == 0 for size in images.shape[1:3])


def _add_bias_and_activate(layer: Any, outputs: tf.Tensor) -> tf.Tensor:
    if layer.use_bias:
        outputs = outputs + spread(tf.convert_to_tensor(layer.bias), outputs)
    return outputs if layer.activation is None else layer.activation(outputs)


def _shapes(input_shape: Sequence[Any]) -> list[Sequence[int]]:
    """Returns the shapes of a layer's inputs, of which there may be one."""
    several = isinstance(input_shape[0], list | tuple)
    return [*input_shape] if several else [input_shape]


def _doubled(size: int | None) -> int | None:
    return None if size is None else 2 * size


def _halved(size: int | None) -> int | None:
    return None if size is None else size // 2
