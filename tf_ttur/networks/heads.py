"""Heads of a discriminator that looks at the maps of a frozen encoder.

Each map has a head of its own, so the discriminator judges an image at several depths:
strided convolutions, a mean over the pixels, one number. It is the discriminator of ADM
(adversarial distribution matching, 2025) as a third-party port of it has it, which
Flash-DMD is said to reuse.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import keras

from fid.files import InputError
from tf_ttur.layers import Conv2D, GroupNormalization

__all__ = ["heads"]

# A map of 2x2 is not made smaller, and none more often than this.
_MOST_BLOCKS = 3


def heads(
    shapes: Sequence[Sequence[int]], *, width: int = 64, groups: int = 8, seed: int = 0
) -> keras.Model:
    """Builds a head for each map of an encoder.

    A head halves its map by convolutions of 4x4 while it is larger than 2x2, three
    times at most, then has one of 3x3, each followed by a group normalisation and
    SiLU; then come the mean over the pixels and a dense layer. ADM has 256 channels in
    32 groups for maps of 64x64; the defaults are for images of 32x32 and less.

    Args:
        shapes: (h, w, c) of each map.
        width: Channels of the convolutions.
        groups: Groups of the normalisations, which divide the width.
        seed: Seed of the initial weights.

    Returns:
        A Keras model: a list of maps float32 (n, h, w, c) -> a list of logits (n, 1).

    Raises:
        InputError: The groups do not divide the width, or there is no map.

    Example:
        >>> import numpy as np
        >>> from tf_ttur.networks.heads import heads
        >>> model = heads([(8, 8, 4), (2, 2, 8)], width=8, groups=4)
        >>> maps = [np.zeros((3, 8, 8, 4)), np.zeros((3, 2, 2, 8))]
        >>> [tuple(logits.shape) for logits in model(maps)]
        [(3, 1), (3, 1)]
    """
    if not shapes or any(len(shape) != 3 for shape in shapes):
        raise InputError(
            f"The maps have shapes {[tuple(shape) for shape in shapes]}; expected at "
            "least one (height, width, channels)."
        )
    if width < 1 or groups < 1 or width % groups:
        raise InputError(
            f"width is {width} and groups is {groups}; a width is a multiple of the "
            "groups."
        )
    # Far from those of the next seed, whose heads would be the same ones shifted.
    count = itertools.count(10_000 * seed)
    maps, logits = [], []

    def he() -> keras.initializers.Initializer:
        return keras.initializers.HeNormal(seed=next(count))

    for index, shape in enumerate(shapes):
        x = keras.Input(shape, name=f"map_{index}")
        maps.append(x)
        blocks = min(min(shape[:2]).bit_length() - 2, _MOST_BLOCKS)
        for kernel, strides in [(4, 2)] * max(blocks, 0) + [(3, 1)]:
            x = Conv2D(width, kernel, strides, padding="same", kernel_initializer=he())(
                x
            )
            x = GroupNormalization(groups, silu=True)(x)
        x = keras.layers.GlobalAveragePooling2D()(x)
        dense = keras.layers.Dense(
            1, kernel_initializer=he(), dtype="float32", name=f"logits_{index}"
        )
        logits.append(dense(x))
    return keras.Model(maps, logits, name="heads")
