"""A small frozen encoder for a discriminator of pixels, trained on dense tasks.

Flash-DMD's discriminator looks at the maps of SAM's encoder, which was trained to say
of every pixel which object it belongs to. Where images are too small for SAM, this
takes its place: a convolutional network that learnt from the same images to tell the
foreground from the background and to see edges, at every pixel. Neither needs labels.
"""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import pathlib
from typing import Annotated

import keras
import numpy as np
import scipy.ndimage
import tensorflow as tf

from fid.files import InputError
from fid.values import Between
from tf_ttur.layers import Conv2D, GroupNormalization
from tf_ttur.networks.cached import trained_once

__all__ = [
    "MOST_IMAGES",
    "DenseEncoder",
    "dense_encoder",
    "dense_targets",
    "untrained",
]

_log = logging.getLogger(__name__)

MOST_IMAGES = 10_000
"""So many images are enough to train it."""

_SEED = 2025
_WIDTH, _LEVELS, _GROUPS = 16, 4, 4
_STEPS, _BATCH, _RATE = 500, 64, 2e-3
# One image of so many is held out to measure how well it does.
_HOLD_OUT_EVERY = 5
# This is part of the file name. Whoever changes the settings above, the targets or the
# network raises it.
_VERSION = 1


@dataclasses.dataclass(frozen=True)
class DenseEncoder:
    """The trained encoder.

    Attributes:
        network: Images float32 (n, H, W, C) in [-1, 1] -> four maps, each half as large
            as the one before it. It is not trained any more.
        foreground: Of held-out images, the share of the pixels in either foreground,
            the true one or that which it finds, that are in both.
        edges: Of held-out images, the correlation of the edges that it finds with the
            true ones.
        path: Where it is kept, with the layers that were only needed to train it.
    """

    network: keras.Model
    foreground: float
    edges: float
    path: pathlib.Path


def dense_encoder(images: np.ndarray) -> DenseEncoder:
    """Loads the encoder of these images from the cache, or trains it (a minute).

    Args:
        images: Uint8 (n, H, W, C), H and W multiples of 8, at least 5 of them.
            `MOST_IMAGES` are enough.

    Returns:
        The encoder. The same images have the same one.

    Raises:
        InputError: The images are too few or of another size, or what is in the cache
            is damaged.
    """
    shape = images.shape[1:]
    _check(shape)
    if len(images) < _HOLD_OUT_EVERY:
        raise InputError(
            f"There are {len(images)} images; the encoder needs at least "
            f"{_HOLD_OUT_EVERY} to learn from."
        )
    digest = hashlib.sha256(np.ascontiguousarray(images)).hexdigest()
    size = "x".join(map(str, shape))
    model, record, path = trained_once(
        f"dense_encoder_v{_VERSION}_{size}_{digest[:16]}",
        lambda: _train(images),
        {
            "foreground": Annotated[float, Between(0, 1)],
            "edges": Annotated[float, Between(-1, 1)],
        },
    )
    return DenseEncoder(_frozen(model), record["foreground"], record["edges"], path)


def untrained(shape: tuple[int, ...]) -> keras.Model:
    """Builds the encoder's network as it is before it learns anything, for benchmarks.

    Args:
        shape: (H, W, C) of the images, H and W multiples of 8.

    Returns:
        As `DenseEncoder.network`.

    Raises:
        InputError: The images are of another size.

    Example:
        >>> from tf_ttur.networks.dense_encoder import untrained
        >>> [tuple(x.shape[1:]) for x in untrained((8, 8, 1)).outputs]
        [(8, 8, 16), (4, 4, 32), (2, 2, 64), (1, 1, 128)]
    """
    _check(shape)
    return _frozen(_network(shape))


def _check(shape: tuple[int, ...]) -> None:
    least = 2 ** (_LEVELS - 1)
    if len(shape) != 3 or any(side % least or not side for side in shape[:2]):
        raise InputError(
            f"The images are {shape}; the encoder halves them {_LEVELS - 1} times, so "
            f"height and width must be multiples of {least}."
        )


def _frozen(model: keras.Model) -> keras.Model:
    """Returns the part of the network that makes maps."""
    maps = [model.get_layer(f"level_{level}").output for level in range(_LEVELS)]
    network = keras.Model(model.inputs, maps, name="dense_encoder")
    network.trainable = False
    return network


def dense_targets(images: np.ndarray) -> np.ndarray:
    """Finds the foreground and the edges of images by classical means.

    The foreground is one of two classes of grey values, divided so that they differ
    most (Otsu 1979): the one that has the smaller share of the image's border. An edge
    is where the grey values rise steeply (Sobel); a step from black to white along a
    row or column is 1.

    Args:
        images: Uint8 (n, H, W, C).

    Returns:
        Float32 (n, H, W, 2) in [0, 1]: whether a pixel is in the foreground, and how
        strong an edge is there.

    Example:
        >>> import numpy as np
        >>> from tf_ttur.networks.dense_encoder import dense_targets
        >>> image = np.zeros((1, 8, 8, 1), np.uint8)
        >>> image[:, 2:6, 2:6] = 255
        >>> int(dense_targets(image)[..., 0].sum())
        16
    """
    grey = images.mean(axis=3, dtype=np.float32) / np.float32(255)
    above = grey > _thresholds(grey)[:, None, None]
    border = np.ones(grey.shape[1:], bool)
    border[1:-1, 1:-1] = False
    bright_border = above[:, border].mean(axis=1) > 0.5
    foreground = above ^ bright_border[:, None, None]
    # `scipy.ndimage.sobel` would mix each image with its neighbours in the array.
    down, across = _slope(grey, 1, 2), _slope(grey, 2, 1)
    edges = np.minimum(np.hypot(down, across), 1)
    return np.stack([foreground, edges], axis=3).astype(np.float32)


def _slope(grey: np.ndarray, along: int, across: int) -> np.ndarray:
    """Returns Sobel's difference along an axis, with weights that add up to 1."""
    smooth = scipy.ndimage.correlate1d(grey, [0.25, 0.5, 0.25], axis=across)
    return scipy.ndimage.correlate1d(smooth, [-1, 0, 1], axis=along)


def _thresholds(grey: np.ndarray) -> np.ndarray:
    """Returns for each image the grey value that divides it best (Otsu 1979)."""
    values = np.sort(grey.reshape(len(grey), -1).astype(np.float64), axis=1)
    count = np.arange(1, values.shape[1])
    sums = np.cumsum(values, axis=1)
    total = sums[:, -1:]
    low, high = sums[:, :-1] / count, (total - sums[:, :-1]) / (len(values[0]) - count)
    between = count * count[::-1] * (high - low) ** 2
    # Equal values cannot be divided.
    between[values[:, 1:] == values[:, :-1]] = -1
    return values[np.arange(len(values)), between.argmax(axis=1)]


def _network(shape: tuple[int, ...]) -> keras.Model:
    """Returns the encoder, with a layer on each map that speaks for every pixel."""
    seeds = iter(range(_SEED, _SEED + 100))

    def he() -> keras.initializers.Initializer:
        return keras.initializers.HeNormal(seed=next(seeds))

    x = images = keras.Input(shape)
    spoken = []
    for level in range(_LEVELS):
        for index in range(2):
            halves = bool(level) and not index
            x = Conv2D(
                _WIDTH << level,
                4 if halves else 3,
                2 if halves else 1,
                padding="same",
                kernel_initializer=he(),
            )(x)
            name = f"level_{level}" if index else None
            x = GroupNormalization(_GROUPS, silu=True, name=name)(x)
        logits = keras.layers.Conv2D(2, 1, kernel_initializer=he())(x)
        if level:
            logits = keras.layers.UpSampling2D(2**level, interpolation="bilinear")(
                logits
            )
        spoken.append(logits)
    return keras.Model(images, keras.layers.Add()(spoken), name="dense_encoder")


def _train(images: np.ndarray) -> tuple[keras.Model, dict[str, float]]:
    model = _network(images.shape[1:])
    model.compile(
        keras.optimizers.Adam(_RATE),
        keras.losses.BinaryCrossentropy(from_logits=True),
        jit_compile=True,
    )
    x, y = images.astype(np.float32) / 127.5 - 1.0, dense_targets(images)
    held_out = np.arange(len(x)) % _HOLD_OUT_EVERY == 0
    train_x, train_y = x[~held_out], y[~held_out]
    batch = min(_BATCH, len(train_x))
    random = np.random.default_rng(_SEED)
    epochs = -(-_STEPS * batch // len(train_x))
    order = np.concatenate([random.permutation(len(train_x)) for _ in range(epochs)])
    batches = tf.data.Dataset.from_tensor_slices(order[: _STEPS * batch]).batch(
        batch, drop_remainder=True
    )
    model.fit(
        batches.map(lambda i: (tf.gather(train_x, i), tf.gather(train_y, i))),
        shuffle=False,
        verbose=0,
    )
    found, true = model.predict(x[held_out], verbose=0), y[held_out]
    inside = (found[..., 0] > 0, true[..., 0] > 0)
    either = np.logical_or(*inside).sum()
    facts = {
        "foreground": float(np.logical_and(*inside).sum() / max(either, 1)),
        "edges": _correlation(1 / (1 + np.exp(-found[..., 1])), true[..., 1]),
    }
    _log.info(
        "Trained the dense encoder: foreground %.3f, edges %.3f.", *facts.values()
    )
    return model, facts


def _correlation(one: np.ndarray, two: np.ndarray) -> float:
    """Returns the correlation of all numbers of two arrays; 0 where one is constant."""
    one, two = (x.astype(np.float64).ravel() - x.mean(dtype=float) for x in (one, two))
    scale = float(np.sqrt(one @ one) * np.sqrt(two @ two))
    return max(-1.0, min(1.0, float(one @ two) / scale)) if scale else 0.0
