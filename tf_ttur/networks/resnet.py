"""The WGAN-GP residual networks of the paper's experiments (Gulrajani et al. 2017).

Spec of the released code: `GoodGenerator` and `GoodDiscriminator`. Convolutions that
follow an upsampling or precede a mean are one layer with it (`tf_ttur.layers`), and a
1x1 convolution changes places with either, which changes no value.
"""

from __future__ import annotations

from typing import Any

import keras

from tf_ttur.layers import ConvMeanPool2D, ImageNormalization, UpsampleConv2D

__all__ = ["discriminator", "generator"]


def generator(
    image_size: int = 64,
    channels: int = 3,
    width: int | None = None,
    latent_dimension: int = 128,
    seed: int = 0,
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
        name: Name of the model.

    Returns:
        A Keras model: latents float32 (n, latent_dimension) -> images float32
        (n, image_size, image_size, channels) in [-1, 1].
    """
    width = _check(image_size, channels, width)
    init = _Initializers(seed)
    start = image_size // 16
    latents = keras.Input((latent_dimension,), name="latents")
    x = keras.layers.Dense(
        start * start * 8 * width,
        kernel_initializer=init.glorot(),
        name="linear",
    )(latents)
    x = keras.layers.Reshape((start, start, 8 * width), name="reshape")(x)
    for index, filters in enumerate((8, 4, 2, 1), start=1):
        x = _up_block(x, filters * width, init, f"block_{index}")
    x = _batch_norm("norm")(x)
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
    name: str = "discriminator",
) -> keras.Model:
    """Builds the critic: four residual blocks that halve the image, a linear layer.

    Args:
        image_size: Height and width of the images, a multiple of 16.
        channels: Channels of the images.
        width: Channels after the first convolution; None means `image_size`.
        seed: Seed of the initial weights.
        name: Name of the model.

    Returns:
        A Keras model: images float32 (n, image_size, image_size, channels) in
        [-1, 1] -> scores float32 (n, 1).
    """
    width = _check(image_size, channels, width)
    init = _Initializers(seed, first=500)
    images = keras.Input((image_size, image_size, channels), name="images")
    x = _conv(width, init.glorot(), "conv")(images)
    for index, filters in enumerate((2, 4, 8, 8), start=1):
        x = _down_block(x, filters * width, init, f"block_{index}")
    x = keras.layers.Flatten(name="flatten")(x)
    scores = keras.layers.Dense(
        1,
        kernel_initializer=init.glorot(),
        dtype="float32",
        name="scores",
    )(x)
    return keras.Model(images, scores, name=name)


def _up_block(x: Any, filters: int, init: _Initializers, name: str) -> Any:
    shortcut = UpsampleConv2D(
        filters,
        1,
        kernel_initializer=init.glorot(),
        name=f"{name}_shortcut",
    )(x)
    x = _batch_norm(f"{name}_norm_1")(x)
    x = keras.layers.ReLU(name=f"{name}_relu_1")(x)
    x = UpsampleConv2D(
        filters,
        3,
        use_bias=False,
        kernel_initializer=init.he(),
        name=f"{name}_conv_1",
    )(x)
    x = _batch_norm(f"{name}_norm_2")(x)
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
    return keras.layers.Conv2D(
        filters, 3, padding="same", use_bias=bias, kernel_initializer=kernel, name=name
    )


def _batch_norm(name: str) -> Any:
    return keras.layers.BatchNormalization(momentum=0.9, epsilon=1e-5, name=name)


def _layer_norm(name: str) -> Any:
    return ImageNormalization(epsilon=1e-5, name=name)


def _check(image_size: int, channels: int, width: int | None) -> int:
    if image_size < 16 or image_size % 16:
        raise ValueError(
            f"image_size is {image_size}; these networks halve images four times and "
            "need a multiple of 16, such as 32 or 64."
        )
    width = image_size if width is None else width
    if channels < 1 or width < 1:
        raise ValueError(f"channels {channels} and width {width} must be at least 1.")
    return width
