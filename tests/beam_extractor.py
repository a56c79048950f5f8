"""An extractor for the workers of Beam, which import it by its name."""

import os
import pathlib
import uuid

import numpy as np


class Colours:
    """Sums over the image, cheap and of few dimensions; leaves a file where it is made.

    Args:
        folder: Where the file goes; its content is the number of the process.
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
        halves = (
            image[: len(image) // 2], image[len(image) // 2 :],
            image[:, ::2], np.sqrt(image),
        )  # fmt: skip
        return np.concatenate([half.mean((0, 1)) for half in halves])
