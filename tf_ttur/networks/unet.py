"""U-Nets for diffusion models, in the manner of ADM and of EDM.

A U-Net sees an image to which noise has been added, and is told how much. It halves the
image several times, doubles it again, and joins the maps of equal size on the two ways.
What its output means, the noise, the clean image or a velocity, is for whoever trains
it, and so are the scalings of its inputs and outputs.

`denoiser` has two styles:

- `ddpmpp` is DDPM++ (Song et al. 2021), as EDM trains it (Karras et al. 2022,
  https://github.com/NVlabs/edm, `SongUNet`). The defaults are EDM's network for
  CIFAR-10, which has 55,732,739 parameters, and 55,733,891 with the augmentation's 9
  numbers.
- `adm` is ADM (Dhariwal and Nichol 2021; there `DhariwalUNet`): the noise level decides
  the scales and offsets of normalisations, maps that change their size pass shortcuts
  without a convolution, and heads of attention have 64 channels.

What differs from that code is the order of the channels between two layers: queries,
keys and values are three convolutions here and one there, in which they take turns. An
upsampling and the convolution after it are one layer (`tf_ttur.layers`), and a 1x1
convolution changes places with the resampling before it, which changes no value.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tf_ttur.attention import PixelAttention
from tf_ttur.layers import (
    Conv2D,
    ConvMeanPool2D,
    GroupNormalization,
    MeanPool2D,
    Upsample2D,
    UpsampleConv2D,
)

__all__ = ["NoiseEmbedding", "ScaledAdd", "denoiser"]

_STYLES = ("ddpmpp", "adm")
_EMBEDDINGS = ("positional", "fourier")
# The longest wave of the positional embedding is so many times the shortest.
_POSITIONS = 10_000
# The standard deviation of the Fourier embedding's frequencies.
_FOURIER_SCALE = 16.0
# Numbers in the embedding, as a multiple of the width.
_EMBEDDED = 4
# Channels of a head of attention in ADM.
_HEAD_CHANNELS = 64


def denoiser(
    image_size: int = 32,
    channels: int = 3,
    *,
    width: int = 128,
    multipliers: Sequence[int] = (2, 2, 2),
    blocks: int = 4,
    attention: Sequence[int] = (16,),
    heads: int | None = None,
    dropout: float = 0.13,
    style: str = "ddpmpp",
    embedding: str = "positional",
    groups: int = 32,
    num_classes: int | None = None,
    augmentation: int = 0,
    seed: int = 0,
    name: str = "denoiser",
) -> keras.Model:
    """Builds a U-Net: noisy images and their noise levels -> arrays like the images.

    Args:
        image_size: Height and width of the images: a multiple of 2 to the power of
            `len(multipliers) - 1`.
        channels: Channels of the images.
        width: What numbers of channels are multiples of. It is even.
        multipliers: Channels of the maps, as multiples of the width; the first for maps
            of the images' size, and each further one for maps half as large.
        blocks: Residual blocks of each size on the way down. On the way up there is
            one more.
        attention: Sizes of the maps on which pixels attend to each other: after each
            block on the way down, and on the way up after the last one (`ddpmpp`) or
            each (`adm`). The smallest maps are attended to once in any case.
        heads: Heads of attention. None means one (`ddpmpp`), or one for each 64
            channels, and at least one (`adm`).
        dropout: Share of numbers dropped before each block's second convolution, while
            training.
        style: "ddpmpp" or "adm"; see the module.
        embedding: Of the noise levels: "positional", sines and cosines of geometric
            frequencies; or "fourier", of random ones of deviation 16, which are not
            trained.
        groups: The most groups of a group normalisation. A group has 4 channels at
            least, and the number of groups is the largest that divides the channels.
        num_classes: Number of classes, which makes a third input of the labels. The
            label `num_classes` says that there is none, as classifier-free guidance
            needs it: it adds nothing to the embedding, so no row is learnt for it,
            as in EDM. None: images have no classes.
        augmentation: Numbers that say how an image was augmented, which make a last
            input of so many (EDM: 9); zeros say that it was not. 0: no such input.
        seed: Seed of the initial weights, and of dropout.
        name: Name of the model.

    Returns:
        A Keras model: images float32 (n, image_size, image_size, channels), noise
        conditions float32 (n,), such as log(sigma) / 4 in EDM or a step in [0, 1000),
        and, with `num_classes`, labels int32 (n,) in [0, num_classes] -> float32 of the
        images' shape. The last convolution starts at 0 (`adm`) or close to it
        (`ddpmpp`: 1e-5 of a usual one's values), and the output so, too. The maps of
        each size are found by the names of the blocks that make them: `enc_16_block_4`
        is the last at 16x16 on the way down, `dec_8_in_2` the last of the middle.

    Raises:
        ValueError: A setting is out of its range.

    Example:
        >>> import numpy as np
        >>> from tf_ttur.networks import unet
        >>> model = unet.denoiser(
        ...     16, width=8, multipliers=(1, 2), blocks=1, num_classes=10)
        >>> images, noise = np.zeros((4, 16, 16, 3), "float32"), np.zeros(4, "float32")
        >>> labels = np.array([0, 1, 2, 10], "int32")  # The last image has none.
        >>> model([images, noise, labels]).shape
        TensorShape([4, 16, 16, 3])
    """
    multipliers = tuple(multipliers)
    _check(
        image_size,
        multipliers,
        dropout,
        style,
        embedding,
        channels=channels,
        width=width,
        blocks=blocks,
        groups=groups,
        heads=1 if heads is None else heads,
        num_classes=1 if num_classes is None else num_classes,
    )
    if augmentation < 0:
        raise ValueError(f"augmentation is {augmentation}; it must be at least 0.")
    make = _DDPMpp if style == "ddpmpp" else _ADM
    make = make(width, embedding, heads, groups, dropout, seed)
    images = keras.Input((image_size, image_size, channels), name="images")
    noise = keras.Input((), name="noise")
    inputs = [images, noise]
    labels = augmented = None
    if num_classes is not None:
        labels = keras.Input((), dtype="int32", name="labels")
        inputs.append(labels)
    if augmentation:
        augmented = keras.Input((augmentation,), name="augmentation")
        inputs.append(augmented)
    condition = make.condition(noise, labels, num_classes, augmented)

    first = width * (multipliers[0] if style == "adm" else 1)
    x = make.conv(images, first, 3, f"enc_{image_size}_conv")
    skips = [x]
    for level, multiplier in enumerate(multipliers):
        size = image_size >> level
        if level:
            x = make.block(x, condition, x.shape[-1], f"enc_{size}_down", resample=-1)
            skips.append(x)
        for index in range(1, blocks + 1):
            x = make.block(
                x,
                condition,
                width * multiplier,
                f"enc_{size}_block_{index}",
                attended=size in attention,
            )
            skips.append(x)
    x = make.block(x, condition, x.shape[-1], f"dec_{size}_in_1", attended=True)
    x = make.block(x, condition, x.shape[-1], f"dec_{size}_in_2")
    for level, multiplier in reversed([*enumerate(multipliers)]):
        size = image_size >> level
        if level < len(multipliers) - 1:
            x = make.block(x, condition, x.shape[-1], f"dec_{size}_up", resample=1)
        for index in range(1, blocks + 2):
            block = f"dec_{size}_block_{index}"
            x = keras.layers.Concatenate(name=f"{block}_join")([x, skips.pop()])
            attended = size in attention
            if style == "ddpmpp":
                attended = attended and index == blocks + 1
            x = make.block(x, condition, width * multiplier, block, attended=attended)
    x = make.norm(x, "out_norm")
    # Under mixed precision the result still comes out in float32.
    outputs = make.conv(x, channels, 3, "out_conv", zero=True, dtype="float32")
    return keras.Model(inputs, outputs, name=name)


@keras.saving.register_keras_serializable("tf_ttur")
class NoiseEmbedding(keras.layers.Layer):
    """Describes numbers (n,) by cosines and sines of multiples of them, (n, dimension).

    Args:
        dimension: How many numbers describe one. It is even.
        kind: "positional", where frequencies fall from 1 geometrically, as in the
            Transformer; or "fourier", where they are normal, of deviation 16 x 2 pi,
            and not trained.
        endpoint: Whether the lowest positional frequency is 1 / 10,000, or the one that
            would follow it.
        sines_first: Whether sines come before cosines.
        seed: Seed of the random frequencies.
        **kwargs: As for `keras.layers.Layer`. The layer computes in float32: others
            have too few digits for the sine of a large number.

    Example:
        >>> import numpy as np
        >>> from tf_ttur.networks.unet import NoiseEmbedding
        >>> print(NoiseEmbedding(4)(np.zeros(1, "float32")).numpy())
        [[1. 1. 0. 0.]]
    """

    def __init__(
        self,
        dimension: int,
        kind: str = "positional",
        endpoint: bool = False,
        sines_first: bool = False,
        seed: int | None = None,
        **kwargs: Any,
    ):
        super().__init__(**{"dtype": "float32"} | kwargs)
        if kind not in _EMBEDDINGS:
            raise ValueError(f"kind is {kind!r}; choose from {', '.join(_EMBEDDINGS)}.")
        # With an endpoint, at least two frequencies lie between both ends.
        least = 4 if endpoint else 2
        if dimension % 2 or dimension < least:
            raise ValueError(
                f"dimension is {dimension}; it must be even and at least {least}."
            )
        self.dimension = dimension
        self.kind = kind
        self.endpoint = endpoint
        self.sines_first = sines_first
        self.seed = seed

    def build(self, input_shape: Sequence[int]) -> None:
        """Draws the frequencies, if they are random."""
        if self.kind == "fourier":
            self.frequencies = self.add_weight(
                shape=(self.dimension // 2,),
                initializer=keras.initializers.RandomNormal(
                    stddev=_FOURIER_SCALE, seed=self.seed
                ),
                trainable=False,
                autocast=False,
                name="frequencies",
            )

    def call(self, inputs: Any) -> Any:
        """Takes cosines and sines."""
        count = self.dimension // 2
        if self.kind == "fourier":
            frequencies = 2 * math.pi * tf.convert_to_tensor(self.frequencies)
        else:
            exponents = np.arange(count) / (count - self.endpoint)
            frequencies = float(_POSITIONS) ** -exponents
        angles = inputs[:, None] * tf.cast(frequencies, inputs.dtype)
        parts = [tf.cos(angles), tf.sin(angles)]
        return tf.concat(parts[::-1] if self.sines_first else parts, 1)

    def compute_output_shape(self, input_shape: Sequence[int]) -> tuple[int, ...]:
        """Returns the shape of the descriptions."""
        return (input_shape[0], self.dimension)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        names = ("dimension", "kind", "endpoint", "sines_first", "seed")
        return {
            **super().get_config(),
            **{name: getattr(self, name) for name in names},
        }


@keras.saving.register_keras_serializable("tf_ttur")
class ScaledAdd(keras.layers.Layer):
    """Adds two arrays, and multiplies the sum by a number.

    With the root of a half, a sum of two independent arrays varies as much as they do.

    Args:
        scale: The number.
        **kwargs: As for `keras.layers.Layer`.
    """

    def __init__(self, scale: float = 1.0, **kwargs: Any):
        super().__init__(**kwargs)
        self.scale = scale

    def call(self, inputs: Sequence[Any]) -> Any:
        """Adds and multiplies."""
        one, two = inputs
        return self.scale * (one + two) if self.scale != 1.0 else one + two

    def compute_output_shape(
        self, input_shape: Sequence[Sequence[int]]
    ) -> tuple[int, ...]:
        """Returns the shape of either."""
        return tuple(input_shape[0])

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {**super().get_config(), "scale": self.scale}


class _Style:
    """Makes layers and blocks; what styles have in common."""

    epsilon: float
    # What the sum of a block and its shortcut is multiplied by.
    scale: float
    # Whether a block that changes the size of maps has a convolution beside it, even
    # where channels stay as many.
    projects: bool
    # Numbers that a block is told by the embedding, for each channel.
    told: int

    def __init__(
        self,
        width: int,
        embedding: str,
        heads: int | None,
        groups: int,
        dropout: float,
        seed: int,
    ):
        self._width = width
        self._embedding = embedding
        self._heads = heads
        self._groups = groups
        self._dropout = dropout
        self._seed = 10_000 * seed

    def next_seed(self) -> int:
        """Returns a seed that no other layer has."""
        self._seed += 1
        return self._seed

    def conv(
        self,
        x: Any,
        filters: int,
        size: int,
        name: str,
        kind: Any = Conv2D,
        zero: bool = False,
        attention: bool = False,
        **how: Any,
    ) -> Any:
        """Convolves; `zero` and `attention` say which initial values are due."""
        how |= self.initial(size * size * x.shape[-1], zero, attention)
        return kind(filters, size, padding="same", name=name, **how)(x)

    def dense(self, x: Any, units: int, name: str, **how: Any) -> Any:
        """Applies a linear map."""
        return keras.layers.Dense(units, name=name, **self.initial(x.shape[-1]) | how)(
            x
        )

    def norm(self, x: Any, name: str, told: Any = None, silu: bool = True) -> Any:
        """Applies group normalisation, and SiLU."""
        channels = x.shape[-1]
        groups = _divisor(channels, min(self._groups, max(channels // 4, 1)))
        layer = GroupNormalization(groups, self.epsilon, silu, name=name)
        return layer(x if told is None else [x, told])

    def block(
        self,
        x: Any,
        condition: Any,
        filters: int,
        name: str,
        resample: int = 0,
        attended: bool = False,
    ) -> Any:
        """Makes a residual block, which may halve (-1) or double (1) the size."""
        shortcut = x
        if x.shape[-1] != filters or (resample and self.projects):
            kind = {0: Conv2D, 1: UpsampleConv2D, -1: ConvMeanPool2D}[resample]
            shortcut = self.conv(x, filters, 1, f"{name}_shortcut", kind)
        elif resample:
            kind = Upsample2D if resample > 0 else MeanPool2D
            shortcut = kind(name=f"{name}_shortcut")(x)
        x = self.norm(x, f"{name}_norm_1")
        if resample < 0:
            x = MeanPool2D(name=f"{name}_mean")(x)
        kind = UpsampleConv2D if resample > 0 else Conv2D
        x = self.conv(x, filters, 3, f"{name}_conv_1", kind)
        told = self.dense(condition, self.told * filters, f"{name}_condition")
        x = self.norm(x, f"{name}_norm_2", told)
        if self._dropout:
            x = keras.layers.Dropout(
                self._dropout, seed=self.next_seed(), name=f"{name}_dropout"
            )(x)
        x = self.conv(x, filters, 3, f"{name}_conv_2", zero=True)
        if not attended:
            return ScaledAdd(self.scale, name=name)([x, shortcut])
        x = ScaledAdd(self.scale, name=f"{name}_sum")([x, shortcut])
        y = self.norm(x, f"{name}_norm_3", silu=False)
        parts = [
            self.conv(y, filters, 1, f"{name}_{part}", attention=True)
            for part in ("queries", "keys", "values")
        ]
        y = PixelAttention(self.heads(filters), name=f"{name}_attention")(parts)
        y = self.conv(y, filters, 1, f"{name}_outputs", zero=True)
        return ScaledAdd(self.scale, name=name)([x, y])

    def noise(self, noise: Any, **how: Any) -> Any:
        """Describes noise levels."""
        seed = self.next_seed() if self._embedding == "fourier" else None
        return NoiseEmbedding(
            self._width, self._embedding, seed=seed, name="noise_embedding", **how
        )(noise)


class _DDPMpp(_Style):
    epsilon = 1e-6
    scale = math.sqrt(0.5)
    projects = True
    told = 1

    def initial(
        self, fan_in: int, zero: bool = False, attention: bool = False
    ) -> dict[str, Any]:
        """Returns Glorot's uniform initialiser, whose values may be made smaller."""
        # Queries, keys and values are one convolution in EDM, of three times as many
        # filters: the mean of its fans is twice as large.
        gain = 1e-10 if zero else 0.2 / 2 if attention else 1.0
        kernel = keras.initializers.VarianceScaling(
            gain, "fan_avg", "uniform", seed=self.next_seed()
        )
        return {"kernel_initializer": kernel}

    def heads(self, channels: int) -> int:
        """Returns the number of heads of attention."""
        return self._heads or 1

    def condition(
        self, noise: Any, labels: Any, num_classes: int | None, augmented: Any
    ) -> Any:
        """Makes the embedding of all that a block is told."""
        x = self.noise(noise, endpoint=True, sines_first=True)
        if num_classes is not None:
            places = math.sqrt(num_classes) * _places(labels, num_classes)
            label = self.dense(places, self._width, "label_embedding")
            x = keras.layers.Add(name="noise_and_label")([x, label])
        if augmented is not None:
            x = self._augmented(x, augmented)
        for index in (1, 2):
            x = self.dense(
                x, _EMBEDDED * self._width, f"embedding_{index}", activation="silu"
            )
        return x

    def _augmented(self, x: Any, augmented: Any) -> Any:
        added = self.dense(
            augmented, self._width, "augmentation_embedding", use_bias=False
        )
        return keras.layers.Add(name="noise_and_augmentation")([x, added])


class _ADM(_Style):
    epsilon = 1e-5
    scale = 1.0
    projects = False
    told = 2

    def initial(
        self, fan_in: int, zero: bool = False, attention: bool = False
    ) -> dict[str, Any]:
        """Returns PyTorch's initialisers, uniform within 1 / sqrt(fan in), or zeros."""
        if zero:
            return {"kernel_initializer": "zeros"}
        bound = 1 / math.sqrt(fan_in)
        return {
            f"{part}_initializer": keras.initializers.RandomUniform(
                -bound, bound, seed=self.next_seed()
            )
            for part in ("kernel", "bias")
        }

    def heads(self, channels: int) -> int:
        """Returns the number of heads of attention."""
        return self._heads or _divisor(channels, max(channels // _HEAD_CHANNELS, 1))

    def condition(
        self, noise: Any, labels: Any, num_classes: int | None, augmented: Any
    ) -> Any:
        """Makes the embedding of all that a block is told."""
        x = self.noise(noise)
        if augmented is not None:
            # The bias initialiser has no influence without a bias.
            added = self.dense(
                augmented,
                self._width,
                "augmentation_embedding",
                use_bias=False,
                kernel_initializer="zeros",
            )
            x = keras.layers.Add(name="noise_and_augmentation")([x, added])
        size = _EMBEDDED * self._width
        x = self.dense(x, size, "embedding_1", activation="silu")
        x = self.dense(x, size, "embedding_2")
        if num_classes is not None:
            normal = keras.initializers.RandomNormal(stddev=1.0, seed=self.next_seed())
            label = self.dense(
                _places(labels, num_classes),
                size,
                "label_embedding",
                use_bias=False,
                kernel_initializer=normal,
            )
            x = keras.layers.Add(name="noise_and_label")([x, label])
        return keras.layers.Activation("silu", name="embedding")(x)


def _places(labels: Any, num_classes: int) -> Any:
    """Makes rows with a 1 at the label's place; the label `num_classes` has none."""
    return keras.ops.one_hot(labels, num_classes, dtype="float32")


def _divisor(channels: int, most: int) -> int:
    """Returns the largest number up to a limit that divides the channels."""
    return next(count for count in range(most, 0, -1) if channels % count == 0)


def _check(
    image_size: int,
    multipliers: tuple[int, ...],
    dropout: float,
    style: str,
    embedding: str,
    width: int,
    **counts: int,
) -> None:
    for name, count in {"width": width, **counts}.items():
        if count < 1:
            raise ValueError(f"{name} is {count}; it must be at least 1.")
    least = 4 if style == "ddpmpp" else 2
    if width % 2 or width < least:
        raise ValueError(f"width is {width}; it must be even and at least {least}.")
    if not multipliers or min(multipliers) < 1:
        raise ValueError(
            f"multipliers are {multipliers}; there must be one for each size of the "
            "maps, at least 1."
        )
    step = 2 ** (len(multipliers) - 1)
    if image_size < step or image_size % step:
        raise ValueError(
            f"image_size is {image_size}; with {len(multipliers)} multipliers images "
            f"are halved {len(multipliers) - 1} times, and it must be a multiple of "
            f"{step}."
        )
    if not 0.0 <= dropout < 1.0:
        raise ValueError(f"dropout is {dropout}; it must be in [0, 1).")
    for name, value, known in (
        ("style", style, _STYLES),
        ("embedding", embedding, _EMBEDDINGS),
    ):
        if value not in known:
            raise ValueError(f"{name} is {value!r}; choose from {', '.join(known)}.")
