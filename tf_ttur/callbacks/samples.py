"""Samples of the same latents over time, as pictures or as text."""

from __future__ import annotations

import math
import os
import pathlib
from typing import Any

import numpy as np

from fid.mistaken import local_path
from tf_ttur import sampling
from tf_ttur.callbacks.steps import StepCallback

__all__ = ["SampleGrid", "Samples", "TextSamples", "verbatim"]


class Samples(StepCallback):
    """Writes samples as `step_00001000`, with a suffix, at each epoch's end.

    Args:
        folder: Where the files go.
        count: Samples in a file.
        seed: Seed of their latents.
    """

    #: Suffix of the files' names.
    suffix = ""

    def __init__(self, folder: str | os.PathLike[str], count: int = 64, seed: int = 0):
        super().__init__()
        self.folder = local_path(folder, writing=True)
        self.count, self.seed = count, seed

    def write(self, path: pathlib.Path) -> None:
        """Makes samples of the model and writes them, whole or not at all.

        Args:
            path: Where they go.
        """
        raise NotImplementedError

    def summarize(self, summary: Any) -> None:
        """Shows in TensorBoard what was written last.

        Args:
            summary: The module `tf.summary`, with a writer and a step.
        """
        raise NotImplementedError

    def on_train_begin(self, logs: Any = None) -> None:
        """Writes samples of the untrained generator."""
        if self.model.steps == 0:
            self._write_step(0)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Writes samples."""
        self._write_step(self.step)

    def _write_step(self, step: int) -> None:
        if self._writes:
            self.write(self.folder / f"step_{step:08d}{self.suffix}")


class SampleGrid(Samples):
    """Writes a grid of images as PNG; see `Samples`.

    Of a conditional `GAN` each row shows a class: the first ten, in order, with as many
    images in each as a square of `count` images has in a row.

    Args:
        folder: Where the files go.
        count: Images in a file, of a model without classes.
        seed: Seed of their latents.
        batch_size: Images at a time; None makes all at once.

    Attributes:
        grid: The last picture, uint8 (H, W, C).
    """

    suffix = ".png"

    def __init__(
        self,
        folder: str | os.PathLike[str],
        count: int = 64,
        seed: int = 0,
        batch_size: int | None = None,
    ):
        super().__init__(folder, count, seed)
        self.batch_size = batch_size

    def write(self, path: pathlib.Path) -> None:
        """Writes the picture."""
        given, columns, count = {}, None, self.count
        if classes := getattr(self.model, "num_classes", None):
            columns = math.ceil(math.sqrt(count))
            given["labels"] = sampling.class_rows(classes, columns)
            count = len(given["labels"])
        size = self.batch_size or count
        images = self.model.generate(count, self.seed, size, **given)
        self.grid = sampling.image_grid(sampling.to_bytes(images), columns)
        sampling.save_png(path, self.grid)

    def summarize(self, summary: Any) -> None:
        """Shows the picture."""
        summary.image("samples", self.grid[np.newaxis])


class TextSamples(Samples):
    """Writes lines of text, one a line, in UTF-8; see `Samples`.

    Args:
        folder: Where the files go.
        vocabulary: The symbols, a `datasets.text.Vocabulary`.
        count: Lines in a file.
        seed: Seed of their latents.

    Attributes:
        lines: The last lines.
    """

    suffix = ".txt"

    def __init__(
        self,
        folder: str | os.PathLike[str],
        vocabulary: Any,
        count: int = 64,
        seed: int = 0,
    ):
        super().__init__(folder, count, seed)
        self.vocabulary = vocabulary

    def write(self, path: pathlib.Path) -> None:
        """Writes the lines."""
        self.lines = self.model.generate_text(
            self.count, self.vocabulary, self.seed, batch_size=self.count
        )
        sampling.save_text(path, self.lines)

    def summarize(self, summary: Any) -> None:
        """Shows the lines."""
        summary.text("samples", verbatim("\n".join(self.lines)))


def verbatim(text: str) -> str:
    """Makes Markdown of text that shows it as it is.

    Args:
        text: Any lines.
    """
    return "\n".join(f"    {line}" for line in text.split("\n"))
