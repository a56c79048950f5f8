"""The digits classifier: a small feature extractor for runs without Inception.

It is trained once from a fixed seed and kept in the cache folder. Distances in its
features are Fréchet distances of this classifier (`frechet_digits`), never FID, and
compare only with distances of the same fingerprint.
"""

from __future__ import annotations

import dataclasses
import logging
import pathlib
from typing import Annotated

import keras
import numpy as np
from keras import layers

from fid.extractors.extractor import KerasExtractor
from fid.files import InputError
from fid.values import Between
from tf_ttur.networks.cached import trained_once

__all__ = ["DigitsClassifier", "digits_classifier"]

_log = logging.getLogger(__name__)
_NUM_FEATURES = 64
_SEED = 2017
# One image of so many is held out to measure the accuracy.
_HOLD_OUT_EVERY = 5
_EPOCHS = 12
# This is part of the file name. Whoever changes the settings above or the network
# raises it.
_VERSION = 1


@dataclasses.dataclass(frozen=True)
class DigitsClassifier:
    """The trained classifier.

    Attributes:
        extractor: Its 64 features before the last layer, as `fid` wants them.
        network: All of it: images float32 (n, size, size, 1) in [-1, 1] -> logits
            (n, 10).
        accuracy: Share of the held-out digits it classifies rightly.
        path: Where it is kept.
    """

    extractor: KerasExtractor
    network: keras.Model
    accuracy: float
    path: pathlib.Path


def digits_classifier(images: np.ndarray, labels: np.ndarray) -> DigitsClassifier:
    """Loads the classifier from the cache, or trains it (seconds).

    Args:
        images: The digits, uint8 (n, size, size, 1), with a size of at least 8 pixels.
            Each size has a classifier of its own.
        labels: Their classes, integers (n,) in 0..9.

    Returns:
        The classifier and its feature extractor.

    Raises:
        InputError: The images are too small, or the classifier in the cache is damaged.
    """
    image_size = images.shape[1]
    if image_size < 8:
        raise InputError(
            f"The digits are {image_size} pixels wide; at least 8 are needed."
        )
    model, record, path = trained_once(
        f"digits_classifier_v{_VERSION}_{image_size}",
        lambda: _train(images, labels),
        {"accuracy": Annotated[float, Between(0, 1)]},
    )
    features = keras.Model(model.inputs, model.get_layer("features").output)
    return DigitsClassifier(
        extractor=KerasExtractor(features, "digits"),
        network=model,
        accuracy=record["accuracy"],
        path=path,
    )


def _network(image_size: int) -> keras.Model:
    seeds = iter(range(_SEED, _SEED + 4))

    def he() -> keras.initializers.Initializer:
        return keras.initializers.HeNormal(seed=next(seeds))

    return keras.Sequential(
        [
            keras.Input((image_size, image_size, 1)),
            # The digits have 8x8 pixels of information; the rest is interpolation.
            layers.AveragePooling2D(2),
            layers.Conv2D(16, 3, padding="same", kernel_initializer=he()),
            layers.ELU(),
            layers.AveragePooling2D(2),
            layers.Conv2D(32, 3, padding="same", kernel_initializer=he()),
            layers.ELU(),
            layers.AveragePooling2D(2),
            layers.Flatten(),
            # ELU has no feature that is zero for every digit, as ReLU may have, which
            # would leave the covariance singular.
            layers.Dense(
                _NUM_FEATURES,
                kernel_initializer=he(),
                activation="elu",
                name="features",
            ),
            layers.Dense(10, kernel_initializer=he(), name="logits"),
        ],
        name="digits_classifier",
    )


def _train(
    images: np.ndarray, labels: np.ndarray
) -> tuple[keras.Model, dict[str, float]]:
    model = _network(images.shape[1])
    model.compile(
        keras.optimizers.Adam(2e-3),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        jit_compile=True,
    )
    x, y = images.astype("float32") / 127.5 - 1.0, labels
    held_out = np.arange(len(x)) % _HOLD_OUT_EVERY == 0
    train_x, train_y = x[~held_out], y[~held_out]
    random = np.random.default_rng(_SEED)
    for _ in range(_EPOCHS):
        order = random.permutation(len(train_x))
        order = order[: len(order) // 64 * 64]
        model.fit(
            train_x[order], train_y[order], batch_size=64, shuffle=False, verbose=0
        )
    predicted = model.predict(x[held_out], verbose=0).argmax(axis=1)
    accuracy = float((predicted == y[held_out]).mean())
    _log.info("Trained the digits classifier: accuracy %.4f.", accuracy)
    return model, {"accuracy": accuracy}
