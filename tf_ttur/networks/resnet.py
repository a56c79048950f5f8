"""The WGAN-GP residual networks of the paper's experiments (Gulrajani et al. 2017).

Spec of the released code: `GoodGenerator` and `GoodDiscriminator`. Convolutions that
follow an upsampling or precede a mean are one layer with it (`tf_ttur.layers`), and a
1x1 convolution changes places with either, which changes no value.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from tf_ttur.layers import (
    BatchNormalization,
    Conv2D,
    ConvMeanPool2D,
    ImageNormalization,
    UpsampleConv2D,
    batch_normalize,
)
from tf_ttur.xla import precise

__all__ = ["BatchStatistics", "PackImages", "discriminator", "generator"]

_EPSILON = 1e-5


def generator(
    image_size: int = 64,
    channels: int = 3,
    width: int | None = None,
    latent_dimension: int = 128,
    seed: int = 0,
    batch_statistics: bool = False,
    name: str = "generator",
) -> keras.Model:
    """Builds the generator: a linear layer and four residual blocks that upsample.

    Args:
        image_size: Height and width of the images, a multiple of 16 (the paper: 64, and
            32 for CIFAR-10).
        channels: Channels of the images.
        width: Channels after the last block; None means `image_size`, as in the
            original, where one number is both.
        latent_dimension: Length of the latent vector (the paper: 128, normal).
        seed: Seed of the initial weights.
        batch_statistics: Normalise by the batch's own mean and variance also when
            sampling, as the original does. An image then depends on those beside it:
            distances depend on how many are made at a time (there: 1,000).
        name: Name of the model.

    Returns:
        A Keras model: latents float32 (n, latent_dimension) -> images float32
        (n, image_size, image_size, channels) in [-1, 1].
    """
    width = _checked_width(image_size, channels, width)
    init = _Initializers(seed)
    norm = BatchStatistics if batch_statistics else _batch_norm
    start = image_size // 16
    latents = keras.Input((latent_dimension,), name="latents")
    x = keras.layers.Dense(
        start * start * 8 * width,
        kernel_initializer=init.glorot(),
        name="linear",
    )(latents)
    x = keras.layers.Reshape((start, start, 8 * width), name="reshape")(x)
    for index, filters in enumerate((8, 4, 2, 1), start=1):
        x = _up_block(x, filters * width, init, norm, f"block_{index}")
    x = norm(name="norm")(x)
    x = keras.layers.ReLU(name="relu")(x)
    x = _conv(channels, init.he(), "conv")(x)
    # Under mixed precision the images still come out in float32.
    images = keras.layers.Activation("tanh", dtype="float32", name="images")(x)
    return keras.Model(latents, images, name=name)


def discriminator(
    image_size: int = 64,
    channels: int = 3,
    width: int | None = None,
    seed: int = 0,
    pack: int = 1,
    name: str = "discriminator",
) -> keras.Model:
    """Builds the discriminator: four residual blocks that halve, and a linear layer.

    Args:
        image_size: Height and width of the images, a multiple of 16.
        channels: Channels of the images.
        width: Channels after the first convolution; None means `image_size`.
        seed: Seed of the initial weights.
        pack: Images that share a score. The original's last reshape takes a map of 4x4
            for granted; its CIFAR-10 has one of 2x2, so 4 consecutive images become
            one row, and a batch of 64 gets 16 scores.
        name: Name of the model.

    Returns:
        A Keras model: images float32 (n, image_size, image_size, channels) in
        [-1, 1] -> scores float32 (n / pack, 1).
    """
    width = _checked_width(image_size, channels, width)
    init = _Initializers(seed, first=500)
    images = keras.Input((image_size, image_size, channels), name="images")
    x = _conv(width, init.glorot(), "conv")(images)
    for index, filters in enumerate((2, 4, 8, 8), start=1):
        x = _down_block(x, filters * width, init, f"block_{index}")
    x = keras.layers.Flatten(name="flatten")(x)
    if pack != 1:
        x = PackImages(pack, name="pack")(x)
    scores = keras.layers.Dense(
        1,
        kernel_initializer=init.glorot(),
        dtype="float32",
        name="scores",
    )(x)
    return keras.Model(images, scores, name=name)


@keras.saving.register_keras_serializable("tf_ttur")
class BatchStatistics(keras.layers.Layer):
    """Batch normalisation by the batch's own statistics, in training and after it.

    Args:
        epsilon: Added to the variance.
        **kwargs: As for `keras.layers.Layer`.
    """

    def __init__(self, epsilon: float = _EPSILON, **kwargs: Any):
        super().__init__(**kwargs)
        self.epsilon = epsilon

    def build(self, input_shape: Sequence[int]) -> None:
        """Makes a scale and an offset for each channel."""
        shape = (input_shape[-1],)
        self.gamma = self.add_weight(shape=shape, initializer="ones", name="gamma")
        self.beta = self.add_weight(shape=shape, initializer="zeros", name="beta")

    def call(self, inputs: Any) -> Any:
        """Normalises each channel over images and pixels."""
        images = precise(inputs)
        gamma, beta = (
            keras.ops.cast(values, images.dtype) for values in (self.gamma, self.beta)
        )
        outputs, *_ = batch_normalize(images, gamma, beta, self.epsilon)
        return keras.ops.cast(outputs, inputs.dtype)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {**super().get_config(), "epsilon": self.epsilon}


@keras.saving.register_keras_serializable("tf_ttur")
class PackImages(keras.layers.Layer):
    """Makes one row of the features of consecutive images: (n, d) -> (n / k, k d).

    Args:
        count: How many images, k. A batch must be a multiple of it.
        **kwargs: As for `keras.layers.Layer`.
    """

    def __init__(self, count: int, **kwargs: Any):
        super().__init__(**kwargs)
        if count < 1:
            raise ValueError(f"Cannot pack {count} images; it must be at least 1.")
        self.count = count

    def call(self, inputs: Any) -> Any:
        """Packs consecutive rows of a batch."""
        batch, features = inputs.shape
        if batch is not None and batch % self.count:
            raise ValueError(
                f"A batch of {batch} images cannot be packed by {self.count}; it must "
                "be a multiple."
            )
        return keras.ops.reshape(inputs, (-1, self.count * features))

    def compute_output_shape(self, input_shape: Sequence[int]) -> tuple[int, ...]:
        """Returns the shape of fewer and longer rows."""
        batch, features = input_shape
        batch = None if batch is None else batch // self.count
        return (batch, self.count * features)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {**super().get_config(), "count": self.count}


def _up_block(x: Any, filters: int, init: _Initializers, norm: Any, name: str) -> Any:
    shortcut = UpsampleConv2D(
        filters,
        1,
        kernel_initializer=init.glorot(),
        name=f"{name}_shortcut",
    )(x)
    x = norm(name=f"{name}_norm_1")(x)
    x = keras.layers.ReLU(name=f"{name}_relu_1")(x)
    x = UpsampleConv2D(
        filters,
        3,
        use_bias=False,
        kernel_initializer=init.he(),
        name=f"{name}_conv_1",
    )(x)
    x = norm(name=f"{name}_norm_2")(x)
    x = keras.layers.ReLU(name=f"{name}_relu_2")(x)
    x = _conv(filters, init.he(), f"{name}_conv_2")(x)
    return keras.layers.Add(name=name)([shortcut, x])


def _down_block(x: Any, filters: int, init: _Initializers, name: str) -> Any:
    inputs = x.shape[-1]
    shortcut = ConvMeanPool2D(
        filters,
        1,
        kernel_initializer=init.glorot(),
        name=f"{name}_shortcut",
    )(x)
    x = _layer_norm(f"{name}_norm_1")(x)
    x = keras.layers.ReLU(name=f"{name}_relu_1")(x)
    x = _conv(inputs, init.he(), f"{name}_conv_1", bias=False)(x)
    x = _layer_norm(f"{name}_norm_2")(x)
    x = keras.layers.ReLU(name=f"{name}_relu_2")(x)
    x = ConvMeanPool2D(
        filters,
        3,
        kernel_initializer=init.he(),
        name=f"{name}_conv_2",
    )(x)
    return keras.layers.Add(name=name)([shortcut, x])


class _Initializers:
    """Uniform initial weights of the original, each with a seed of its own."""

    def __init__(self, seed: int, first: int = 0):
        self._seed = 1000 * seed + first

    def he(self) -> keras.initializers.Initializer:
        """Returns variance 4 / (fan in + fan out), for 3x3 convolutions in blocks."""
        return self._uniform(2.0)

    def glorot(self) -> keras.initializers.Initializer:
        """Returns variance 2 / (fan in + fan out), for everything else."""
        return self._uniform(1.0)

    def _uniform(self, scale: float) -> keras.initializers.Initializer:
        self._seed += 1
        return keras.initializers.VarianceScaling(
            scale, "fan_avg", "uniform", seed=self._seed
        )


def _conv(filters: int, kernel: Any, name: str, bias: bool = True) -> Any:
    return Conv2D(
        filters, 3, padding="same", use_bias=bias, kernel_initializer=kernel, name=name
    )


def _batch_norm(name: str) -> Any:
    return BatchNormalization(momentum=0.9, epsilon=_EPSILON, name=name)


def _layer_norm(name: str) -> Any:
    return ImageNormalization(epsilon=_EPSILON, name=name)


def _checked_width(image_size: int, channels: int, width: int | None) -> int:
    """Returns the width, `image_size` by default; checks the sizes."""
    if image_size < 16 or image_size % 16:
        raise ValueError(
            f"image_size is {image_size}; these networks halve images four times and "
            "need a multiple of 16, such as 32 or 64."
        )
    width = image_size if width is None else width
    if channels < 1 or width < 1:
        raise ValueError(f"channels {channels} and width {width} must be at least 1.")
    return width
