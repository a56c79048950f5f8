"""DCGAN with 4x4 kernels and no biases, as PyTorch's example has it.

Radford et al. (2015) give the layers and not all of their sizes. The TTUR paper's code
has 5x5 kernels (`networks.dcgan`); PyTorch's example of 64x64 images, which Sato and
Iiduka (2023) trained, has 4x4 ones. At 64 pixels and a width of 64 the generator has
3,576,704 weights and the discriminator 2,765,568.
"""

from __future__ import annotations

import keras
from keras import layers

from tf_ttur.layers import BatchNormalization, Conv2D, Conv2DTranspose

__all__ = ["discriminator", "generator"]

_STDDEV = 0.02
_MOMENTUM = 0.9


def generator(
    image_size: int = 64,
    channels: int = 3,
    width: int = 64,
    latent_dimension: int = 100,
    seed: int = 0,
    name: str = "generator",
) -> keras.Model:
    """Builds the generator: a linear layer and 4x4 stride-2 deconvolutions.

    Args:
        image_size: Height and width of the images, a power of two >= 8.
        channels: Channels of the images.
        width: Channels before the last layer; each layer before has twice as many.
        latent_dimension: Length of the latent vector.
        seed: Seed of the initial weights.
        name: Name of the model.

    Returns:
        A Keras model: latents float32 (n, latent_dimension) -> images float32
        (n, image_size, image_size, channels) in [-1, 1].

    Example:
        >>> from tf_ttur.networks import dcgan_4x4
        >>> dcgan_4x4.generator(32, width=4).output_shape
        (None, 32, 32, 3)
    """
    stages = _stages(image_size, channels, width)
    seeds = iter(range(1000 * seed, 1000 * seed + 2 * stages + 2))
    filters = width * 2 ** (stages - 1)
    x = inputs = keras.Input((latent_dimension,), name="latents")
    # A deconvolution of a single pixel, which is this product.
    x = layers.Dense(
        4 * 4 * filters,
        use_bias=False,
        kernel_initializer=_normal(next(seeds)),
        name="linear",
    )(x)
    x = layers.Reshape((4, 4, filters), name="reshape")(x)
    x = _norm("norm_0", next(seeds))(x)
    x = layers.ReLU(name="relu_0")(x)
    for stage in range(1, stages):
        filters //= 2
        x = _deconv(filters, next(seeds), f"deconv_{stage}")(x)
        x = _norm(f"norm_{stage}", next(seeds))(x)
        x = layers.ReLU(name=f"relu_{stage}")(x)
    x = _deconv(channels, next(seeds), f"deconv_{stages}")(x)
    images = layers.Activation("tanh", dtype="float32", name="images")(x)
    return keras.Model(inputs, images, name=name)


def discriminator(
    image_size: int = 64,
    channels: int = 3,
    width: int = 64,
    seed: int = 0,
    name: str = "discriminator",
) -> keras.Model:
    """Builds the discriminator: 4x4 stride-2 convolutions and a linear layer.

    Args:
        image_size: Height and width of the images, a power of two >= 8.
        channels: Channels of the images.
        width: Channels after the first layer; each further layer has twice as many.
        seed: Seed of the initial weights.
        name: Name of the model.

    Returns:
        A Keras model: images float32 (n, image_size, image_size, channels) in
        [-1, 1] -> logits float32 (n, 1).
    """
    stages = _stages(image_size, channels, width)
    seeds = iter(range(1000 * seed + 500, 1000 * seed + 500 + 2 * stages + 2))
    x = inputs = keras.Input((image_size, image_size, channels), name="images")
    for stage in range(stages):
        x = Conv2D(
            width * 2**stage,
            4,
            strides=2,
            padding="same",
            use_bias=False,
            kernel_initializer=_normal(next(seeds)),
            name=f"conv_{stage}",
        )(x)
        if stage > 0:
            x = _norm(f"norm_{stage}", next(seeds))(x)
        x = layers.LeakyReLU(negative_slope=0.2, name=f"lrelu_{stage}")(x)
    # A convolution of the whole map, which is this product.
    x = layers.Flatten(name="flatten")(x)
    logits = layers.Dense(
        1,
        use_bias=False,
        kernel_initializer=_normal(next(seeds)),
        dtype="float32",
        name="logits",
    )(x)
    return keras.Model(inputs, logits, name=name)


def _normal(seed: int, mean: float = 0.0) -> keras.initializers.Initializer:
    return keras.initializers.RandomNormal(mean, _STDDEV, seed=seed)


def _deconv(filters: int, seed: int, name: str) -> layers.Layer:
    return Conv2DTranspose(
        filters,
        4,
        strides=2,
        padding="same",
        use_bias=False,
        kernel_initializer=_normal(seed),
        name=name,
    )


def _norm(name: str, seed: int) -> layers.Layer:
    return BatchNormalization(
        momentum=_MOMENTUM,
        epsilon=1e-5,
        gamma_initializer=_normal(seed, mean=1.0),
        name=name,
    )


def _stages(image_size: int, channels: int, width: int) -> int:
    """The number of layers that halve or double the images' sides."""
    if image_size < 8 or image_size & (image_size - 1):
        raise ValueError(
            f"image_size is {image_size}; DCGAN with 4x4 kernels halves images down to "
            "4x4 and needs a power of two of at least 8, such as 64."
        )
    if channels < 1 or width < 1:
        raise ValueError(f"channels {channels} and width {width} must be at least 1.")
    return image_size.bit_length() - 3
