"""The BigGAN networks (Brock et al. 2019), which are told the class of an image.

Spec of the authors' PyTorch code, https://github.com/ajbrock/BigGAN-PyTorch
(`BigGAN.py` and `layers.py`): with width 96 at 128 pixels and 1,000 classes the
generator has 70,433,988 parameters and the discriminator 87,982,370. Every linear map
and convolution is divided by its spectral norm (`tf_ttur.spectral`), but for the
generator's table of classes. Convolutions that follow an upsampling or precede a mean
are one layer with it (`tf_ttur.layers`), and a 1x1 convolution changes places with
either, which changes no value.

The networks differ from that code in their initial biases, which are 0 here and
PyTorch's uniform ones there, since it initialises weights only; and in the moving
average of the variance, which is the batch's here and n / (n - 1) of it there. Batch
normalisation sees the images of one replica, as the code does by default; the paper's
sees all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from tf_ttur.attention import SelfAttention
from tf_ttur.layers import (
    BatchNormalization,
    ConditionalBatchNormalization,
    Embedding,
    GlobalSumPooling2D,
)
from tf_ttur.spectral import (
    SpectralConv2D,
    SpectralConvMeanPool2D,
    SpectralDense,
    SpectralEmbedding,
    SpectralUpsampleConv2D,
)

__all__ = ["chunks", "discriminator", "generator"]

# Height and width of the first map of the generator.
_START = 4
# Entries of a latent vector for each of its chunks, as in the paper at any size.
_CHUNK = 20
# What the published runs have.
_NORM_EPSILON = 1e-5
_SPECTRAL_EPSILON = 1e-6
# Channels of the generator's maps, from 4x4 on, as multiples of the width; and of the
# discriminator's, after each of its blocks. All blocks of the generator double height
# and width. The first blocks of the discriminator halve them, so many as are said.
_GENERATOR = {
    32: (4, 4, 4, 4),
    64: (16, 16, 8, 4, 2),
    128: (16, 16, 8, 4, 2, 1),
    256: (16, 16, 8, 8, 4, 2, 1),
}
_DISCRIMINATOR = {
    32: ((4, 4, 4, 4), 2),
    64: ((1, 2, 4, 8, 16), 4),
    128: ((1, 2, 4, 8, 16, 16), 5),
    256: ((1, 2, 4, 8, 8, 16, 16), 6),
}
_INITIALIZERS = ("orthogonal", "normal", "glorot")


def chunks(image_size: int) -> int:
    """Returns how many chunks a hierarchical latent vector has.

    Args:
        image_size: 32, 64, 128 or 256.

    Example:
        >>> from tf_ttur.networks import biggan
        >>> biggan.chunks(128)  # one for the linear layer, and one for each block
        6
    """
    _check_size(image_size)
    return len(_GENERATOR[image_size])


def generator(
    image_size: int = 128,
    channels: int = 3,
    *,
    width: int = 96,
    latent_dimension: int | None = None,
    num_classes: int = 1000,
    shared_dimension: int = 128,
    hierarchical: bool = True,
    attention: Sequence[int] = (64,),
    initializer: str = "orthogonal",
    seed: int = 0,
    name: str = "generator",
) -> keras.Model:
    """Builds the generator: a linear layer and residual blocks that upsample.

    Args:
        image_size: Height and width of the images: 32, 64, 128 or 256.
        channels: Channels of the images.
        width: What numbers of channels are multiples of (the code's `ch`).
        latent_dimension: Length of the latent vector (normal). None means 20 for each
            of its chunks, as in the paper, so 120 at 128 pixels; and 120 if it is not
            hierarchical.
        num_classes: Number of classes.
        shared_dimension: Length of the vector that stands for a class. All batch
            normalisations share it.
        hierarchical: Split the latent vector in equal chunks: the first one goes to the
            linear layer, and each of the others, beside the class, to the batch
            normalisations of one block. Otherwise all of it goes to the linear layer.
        attention: Sizes of the maps that self-attention follows on, where there are
            such; none at 32 pixels by default, as in the code.
        initializer: Of kernels and tables: "orthogonal"; "normal", of deviation 0.02;
            or "glorot", uniform.
        seed: Seed of the initial weights.
        name: Name of the model.

    Returns:
        A Keras model: latents float32 (n, latent_dimension) and labels int32 (n,), in
        [0, num_classes) -> images float32 (n, image_size, image_size, channels) in
        [-1, 1].

    Raises:
        ValueError: A setting is out of its range, or the latent vector cannot be split
            evenly.

    Example:
        >>> import numpy as np
        >>> from tf_ttur.networks import biggan
        >>> generator = biggan.generator(32, width=2, num_classes=10)
        >>> latents = np.zeros((4, 80), "float32")
        >>> generator([latents, np.array([0, 1, 2, 3], "int32")]).shape
        TensorShape([4, 32, 32, 3])
    """
    count = chunks(image_size) if hierarchical else 1
    if latent_dimension is None:
        latent_dimension = _CHUNK * (count if hierarchical else 6)
    _check_counts(
        channels=channels,
        width=width,
        latent_dimension=latent_dimension,
        num_classes=num_classes,
        shared_dimension=shared_dimension,
    )
    if latent_dimension % count:
        low = latent_dimension // count * count
        near = [str(x) for x in (low, low + count) if x]
        raise ValueError(
            f"latent_dimension is {latent_dimension}; a hierarchical latent vector of "
            f"{image_size}x{image_size} images has {count} equal chunks: use "
            f"{' or '.join(near)}."
        )
    make = _Layers(seed, initializer)
    first, *maps = (width * factor for factor in _GENERATOR[_checked_size(image_size)])
    latents = keras.Input((latent_dimension,), name="latents")
    labels = keras.Input((), dtype="int32", name="labels")
    shared = Embedding(
        num_classes,
        shared_dimension,
        embeddings_initializer=make.kernel(),
        name="shared",
    )(labels)
    parts = keras.ops.split(latents, count, axis=1) if count > 1 else [latents]
    conditions = [
        keras.layers.Concatenate(name=f"block_{index}_condition")([shared, part])
        for index, part in enumerate(parts[1:], start=1)
    ] or [shared] * len(maps)
    x = make(SpectralDense, _START * _START * first, name="linear")(parts[0])
    x = keras.layers.Reshape((_START, _START, first), name="reshape")(x)
    for index, filters in enumerate(maps, start=1):
        x = _up_block(x, conditions[index - 1], filters, make, f"block_{index}")
        if x.shape[1] in attention:
            x = make.attention(f"block_{index}_attention")(x)
    x = BatchNormalization(momentum=0.9, epsilon=_NORM_EPSILON, name="norm")(x)
    x = keras.layers.ReLU(name="relu")(x)
    x = make(SpectralConv2D, channels, 3, name="conv")(x)
    # Under mixed precision the images still come out in float32.
    images = keras.layers.Activation("tanh", dtype="float32", name="images")(x)
    return keras.Model([latents, labels], images, name=name)


def discriminator(
    image_size: int = 128,
    channels: int = 3,
    *,
    width: int = 96,
    num_classes: int = 1000,
    attention: Sequence[int] = (64,),
    initializer: str = "orthogonal",
    seed: int = 0,
    name: str = "discriminator",
) -> keras.Model:
    """Builds the discriminator: residual blocks, and a projection on the class.

    The logit of an image is a linear function of its features, the sums over all pixels
    of the last map, and beside it their product with the vector of the class (Miyato
    and Koyama 2018).

    Args:
        image_size: Height and width of the images: 32, 64, 128 or 256.
        channels: Channels of the images.
        width: What numbers of channels are multiples of (the code's `ch`).
        num_classes: Number of classes.
        attention: Sizes of the maps that self-attention follows on, where blocks make
            such; at 64 pixels and below none does by default, as in the code.
        initializer: As for `generator`.
        seed: Seed of the initial weights.
        name: Name of the model.

    Returns:
        A Keras model: images float32 (n, image_size, image_size, channels) in [-1, 1]
        and labels int32 (n,), in [0, num_classes) -> logits float32 (n, 1).

    Raises:
        ValueError: A setting is out of its range.

    Example:
        >>> import numpy as np
        >>> from tf_ttur.networks import biggan
        >>> discriminator = biggan.discriminator(32, width=2, num_classes=10)
        >>> images = np.zeros((4, 32, 32, 3), "float32")
        >>> discriminator([images, np.array([0, 1, 2, 3], "int32")]).shape
        TensorShape([4, 1])
    """
    _check_counts(channels=channels, width=width, num_classes=num_classes)
    make = _Layers(seed, initializer, first=500)
    maps, halvings = _DISCRIMINATOR[_checked_size(image_size)]
    images = keras.Input((image_size, image_size, channels), name="images")
    labels = keras.Input((), dtype="int32", name="labels")
    x = images
    for index, factor in enumerate(maps, start=1):
        x = _down_block(
            x,
            factor * width,
            make,
            f"block_{index}",
            activated=index > 1,
            halved=index <= halvings,
        )
        if x.shape[1] in attention:
            x = make.attention(f"block_{index}_attention")(x)
    x = keras.layers.ReLU(name="relu")(x)
    features = GlobalSumPooling2D(name="features")(x)
    score = make(SpectralDense, 1, dtype="float32", name="scores")(features)
    classes = make.table(num_classes, features.shape[-1], "classes")(labels)
    product = keras.layers.Dot(1, dtype="float32", name="projection")(
        [features, classes]
    )
    logits = keras.layers.Add(dtype="float32", name="logits")([score, product])
    return keras.Model([images, labels], logits, name=name)


def _up_block(x: Any, condition: Any, filters: int, make: _Layers, name: str) -> Any:
    shortcut = make(SpectralUpsampleConv2D, filters, 1, name=f"{name}_shortcut")(x)
    x = make.normalize(x, condition, f"{name}_norm_1")
    x = keras.layers.ReLU(name=f"{name}_relu_1")(x)
    x = make(SpectralUpsampleConv2D, filters, 3, name=f"{name}_conv_1")(x)
    x = make.normalize(x, condition, f"{name}_norm_2")
    x = keras.layers.ReLU(name=f"{name}_relu_2")(x)
    x = make(SpectralConv2D, filters, 3, name=f"{name}_conv_2")(x)
    return keras.layers.Add(name=name)([shortcut, x])


def _down_block(
    x: Any, filters: int, make: _Layers, name: str, activated: bool, halved: bool
) -> Any:
    convolution = SpectralConvMeanPool2D if halved else SpectralConv2D
    shortcut = x
    if halved or x.shape[-1] != filters:
        shortcut = make(convolution, filters, 1, name=f"{name}_shortcut")(x)
    if activated:
        x = keras.layers.ReLU(name=f"{name}_relu_1")(x)
    x = make(SpectralConv2D, filters, 3, name=f"{name}_conv_1")(x)
    x = keras.layers.ReLU(name=f"{name}_relu_2")(x)
    x = make(convolution, filters, 3, name=f"{name}_conv_2")(x)
    return keras.layers.Add(name=name)([shortcut, x])


class _Layers:
    """Makes layers whose initial weights have seeds of their own."""

    def __init__(self, seed: int, initializer: str, first: int = 0):
        if initializer not in _INITIALIZERS:
            raise ValueError(
                f"initializer is {initializer!r}; choose from "
                f"{', '.join(_INITIALIZERS)}."
            )
        self._seed = 1000 * seed + first
        self._initializer = initializer

    def __call__(self, kind: Any, *args: Any, **kwargs: Any) -> keras.layers.Layer:
        """Makes a layer with a kernel of spectral norm 1."""
        return kind(
            *args, kernel_initializer=self.kernel(), **self._spectral(), **kwargs
        )

    def kernel(self) -> keras.initializers.Initializer:
        """Returns the next kernel's initialiser."""
        self._seed += 1
        return {
            "orthogonal": keras.initializers.Orthogonal(seed=self._seed),
            "normal": keras.initializers.RandomNormal(stddev=0.02, seed=self._seed),
            "glorot": keras.initializers.GlorotUniform(seed=self._seed),
        }[self._initializer]

    def table(self, symbols: int, dimension: int, name: str) -> keras.layers.Layer:
        """Makes a table of spectral norm 1, in float32."""
        return SpectralEmbedding(
            symbols,
            dimension,
            embeddings_initializer=self.kernel(),
            **self._spectral(),
            dtype="float32",
            name=name,
        )

    def normalize(self, x: Any, condition: Any, name: str) -> Any:
        """Normalises a map by the batch, with gains and offsets of a condition."""
        channels = x.shape[-1]
        gains, offsets = (
            self(SpectralDense, channels, use_bias=False, name=f"{name}_{part}")
            for part in ("gain", "offset")
        )
        return ConditionalBatchNormalization(0.9, _NORM_EPSILON, name=name)(
            [x, gains(condition), offsets(condition)]
        )

    def attention(self, name: str) -> keras.layers.Layer:
        """Makes self-attention."""
        return SelfAttention(
            [self.kernel() for _ in range(4)],
            [self._vector() for _ in range(4)],
            _SPECTRAL_EPSILON,
            name=name,
        )

    def _spectral(self) -> dict[str, Any]:
        return {"epsilon": _SPECTRAL_EPSILON, "vector_initializer": self._vector()}

    def _vector(self) -> keras.initializers.Initializer:
        self._seed += 1
        return keras.initializers.RandomNormal(stddev=1.0, seed=self._seed)


def _checked_size(image_size: int) -> int:
    _check_size(image_size)
    return image_size


def _check_size(image_size: int) -> None:
    if image_size not in _GENERATOR:
        raise ValueError(
            f"image_size is {image_size}; these networks are known for "
            f"{', '.join(map(str, _GENERATOR))}."
        )


def _check_counts(**counts: int) -> None:
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"{name} is {count}; it must be at least 1.")
