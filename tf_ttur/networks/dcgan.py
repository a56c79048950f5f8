"""The DCGAN networks of the paper's experiments (Radford et al. 2015; Appendix A5).

With `num_classes` they take labels, which the paper's do not: the generator joins an
embedding of the label to the latents, and the discriminator's logit gets a projection
term (Miyato and Koyama 2018, equation 3), the product of its last features and a vector
that is learned for the label.
"""

from __future__ import annotations

import keras
from keras import layers

from tf_ttur.layers import BatchNormalization, Conv2D, Conv2DTranspose

__all__ = ["discriminator", "generator"]

_STDDEV = 0.02
_MOMENTUM = 0.9
# Numbers that a label becomes beside the latents.
_EMBEDDING = 32


def generator(
    image_size: int = 64,
    channels: int = 3,
    width: int = 64,
    latent_dimension: int = 100,
    seed: int = 0,
    moving_average_updates: int = 1,
    num_classes: int | None = None,
    name: str = "generator",
) -> keras.Model:
    """Builds the generator: a linear layer and four 5x5 stride-2 deconvolutions.

    Args:
        image_size: Height and width of the images, a multiple of 16 (the paper: 64 or
            32).
        channels: Channels of the images.
        width: Channels before the last layer (the paper: 64); the first map has
            8 x width.
        latent_dimension: Length of the latent vector.
        seed: Seed of the initial weights.
        moving_average_updates: How often batch norm's moving averages move in a step.
            The original's losses are computed again for its log, which moves them 4
            times: they then forget by 0.9 ** 4 a step instead of 0.9. (Two of the four
            see the generator after its update; that is not reproduced.)
        num_classes: If given, the model takes labels, too.
        name: Name of the model.

    Returns:
        A Keras model: latents float32 (n, latent_dimension) -> images float32
        (n, image_size, image_size, channels) in [-1, 1]. With `num_classes` its inputs
        are [latents, labels], labels int32 (n,).
    """
    _check_sizes(image_size, channels, width, num_classes)
    if moving_average_updates < 1:
        raise ValueError(
            f"moving_average_updates is {moving_average_updates}; it must be >= 1."
        )
    momentum = _MOMENTUM**moving_average_updates
    start = image_size // 16
    seeds = iter(range(1000 * seed, 1000 * seed + 6))
    inputs = x = keras.Input((latent_dimension,), name="latents")
    linear = layers.Dense(
        start * start * 8 * width,
        kernel_initializer=_normal(next(seeds)),
        name="linear",
    )
    if num_classes is not None:
        labels = _labels()
        # Of the size of the latents, which are in [-1, 1].
        embedding = layers.Embedding(
            num_classes,
            _EMBEDDING,
            embeddings_initializer=keras.initializers.RandomUniform(
                -1.0, 1.0, seed=1000 * seed + 5
            ),
            name="label_embedding",
        )(labels)
        x = layers.Concatenate(name="latents_and_label")([x, embedding])
        inputs = [inputs, labels]
    x = linear(x)
    x = layers.Reshape((start, start, 8 * width), name="reshape")(x)
    x = _norm("norm_0", momentum)(x)
    x = layers.ReLU(name="relu_0")(x)
    for stage, filters in enumerate((4 * width, 2 * width, width), start=1):
        x = _deconv(filters, next(seeds), f"deconv_{stage}")(x)
        x = _norm(f"norm_{stage}", momentum)(x)
        x = layers.ReLU(name=f"relu_{stage}")(x)
    x = _deconv(channels, next(seeds), "deconv_4")(x)
    # Under mixed precision the images still come out in float32.
    images = layers.Activation("tanh", dtype="float32", name="images")(x)
    return keras.Model(inputs, images, name=name)


def discriminator(
    image_size: int = 64,
    channels: int = 3,
    width: int = 64,
    seed: int = 0,
    num_classes: int | None = None,
    name: str = "discriminator",
) -> keras.Model:
    """Builds the discriminator: four 5x5 stride-2 convolutions and a linear layer.

    Args:
        image_size: Height and width of the images, a multiple of 16.
        channels: Channels of the images.
        width: Channels after the first layer (the paper: 64); the last map has
            8 x width.
        seed: Seed of the initial weights.
        num_classes: If given, the model takes labels, too.
        name: Name of the model.

    Returns:
        A Keras model: images float32 (n, image_size, image_size, channels) in
        [-1, 1] -> logits float32 (n, 1). With `num_classes` its inputs are
        [images, labels], labels int32 (n,).
    """
    _check_sizes(image_size, channels, width, num_classes)
    seeds = iter(range(1000 * seed + 500, 1000 * seed + 506))
    inputs = x = keras.Input((image_size, image_size, channels), name="images")
    for stage, filters in enumerate((width, 2 * width, 4 * width, 8 * width)):
        x = Conv2D(
            filters,
            5,
            strides=2,
            padding="same",
            kernel_initializer=keras.initializers.TruncatedNormal(
                stddev=_STDDEV, seed=next(seeds)
            ),
            name=f"conv_{stage}",
        )(x)
        if stage > 0:
            x = _norm(f"norm_{stage}")(x)
        x = layers.LeakyReLU(negative_slope=0.2, name=f"lrelu_{stage}")(x)
    x = layers.Flatten(name="flatten")(x)
    logits = layers.Dense(
        1,
        kernel_initializer=_normal(next(seeds)),
        dtype="float32",
        name="logits",
    )(x)
    if num_classes is not None:
        labels = _labels()
        inputs = [inputs, labels]
        vectors = layers.Embedding(
            num_classes,
            x.shape[-1],
            embeddings_initializer=_normal(next(seeds)),
            dtype="float32",
            name="label_vectors",
        )(labels)
        projection = layers.Dot(1, dtype="float32", name="projection")([x, vectors])
        logits = layers.Add(dtype="float32", name="label_logits")([logits, projection])
    return keras.Model(inputs, logits, name=name)


def _labels() -> keras.KerasTensor:
    return keras.Input((), dtype="int32", name="labels")


def _normal(seed: int) -> keras.initializers.Initializer:
    return keras.initializers.RandomNormal(stddev=_STDDEV, seed=seed)


def _deconv(filters: int, seed: int, name: str) -> layers.Layer:
    return Conv2DTranspose(
        filters,
        5,
        strides=2,
        padding="same",
        kernel_initializer=_normal(seed),
        name=name,
    )


def _norm(name: str, momentum: float = _MOMENTUM) -> layers.Layer:
    return BatchNormalization(momentum=momentum, epsilon=1e-5, name=name)


def _check_sizes(
    image_size: int, channels: int, width: int, num_classes: int | None
) -> None:
    if image_size < 16 or image_size % 16:
        raise ValueError(
            f"image_size is {image_size}; DCGAN halves images four times and needs a "
            "multiple of 16, such as 32 or 64."
        )
    if channels < 1 or width < 1:
        raise ValueError(f"channels {channels} and width {width} must be at least 1.")
    if num_classes is not None and num_classes < 1:
        raise ValueError(f"num_classes is {num_classes}; it must be at least 1.")
