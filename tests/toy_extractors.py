"""Extractors that cost nothing and whose features can be worked out by hand."""

import os
import pathlib
import uuid

import numpy as np


class Colours:
    """The mean colours of an image, in three features."""

    name, dimension, channels, fingerprint = "pixels", 3, 3, "0" * 64
    protocol = {"resize": "none", "dtype": "float32"}  # noqa: RUF012

    def __call__(self, images):
        return np.stack([np.asarray(x, "float32").mean((0, 1)) for x in images])


class ColoursAndLogits(Colours):
    """The same with logits: the colours themselves."""

    def features_and_logits(self, images):
        features = self(images)
        return features, features / 16


class Projections:
    """Random projections of the pixels of 12x12 images, as features and as logits.

    Args:
        fail_after: Interrupts the work once so many images were seen.
    """

    name, dimension, channels, fingerprint = "toy", 6, 3, "ab" * 32
    protocol = {"resize": "none", "dtype": "float32"}  # noqa: RUF012

    def __init__(self, fail_after=None):
        self.fail_after, self.seen = fail_after, 0
        random = np.random.default_rng(1)
        self.to_features = random.normal(size=(12 * 12 * 3, 6)) / 400
        self.to_logits = random.normal(size=(6, 4))

    def __call__(self, images):
        return self.features_and_logits(images)[0]

    def features_and_logits(self, images):
        if self.fail_after is not None and self.seen >= self.fail_after:
            raise KeyboardInterrupt
        self.seen += len(images)
        features = np.reshape(images, (len(images), -1)) @ self.to_features
        return features.astype("float32"), (features @ self.to_logits).astype("float32")


class ProjectionsAlone(Projections):
    """The same without logits."""

    features_and_logits = property()  # hasattr says no.

    def __call__(self, images):
        return Projections.features_and_logits(self, images)[0]


class Noted:
    """Features and logits that differ from image to image; keeps what it has seen."""

    dimension = 3

    def __init__(self):
        self.seen = []

    def features_and_logits(self, images):
        self.seen += [image.tobytes() for image in images]
        pixels = np.asarray(images, np.float32).reshape(len(images), -1)
        return pixels[:, :3] / 16, np.sin(pixels[:, :5])


class Regions:
    """Means over parts of an image, for the workers of Beam, which import it by name.

    Args:
        folder: It leaves a file there where it is made, which holds the number of the
            process.
        weights: Stands for the weights of a real extractor.
    """

    name, dimension, channels = "colours", 12, 3
    protocol = {"resize": "none", "dtype": "float32"}  # noqa: RUF012

    def __init__(self, folder, weights="0"):
        self.fingerprint = weights * 64
        pathlib.Path(folder, uuid.uuid4().hex).write_text(str(os.getpid()))

    def __call__(self, images):
        return np.stack([self._one(np.asarray(image, np.float32)) for image in images])

    def _one(self, image):
        parts = (
            image[: len(image) // 2], image[len(image) // 2 :],
            image[:, ::2], np.sqrt(image),
        )  # fmt: skip
        return np.concatenate([part.mean((0, 1)) for part in parts])
