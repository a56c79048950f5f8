"""Keras callbacks: the Fréchet distance in the loop, and what a run leaves behind.

`FrechetDistance` and `NaNGuard` serve any `fit` of a `GAN`. The others write the run
folder of `experiment.py`. Where several are used, they go in the order in which they
stand here: a row of metrics holds the distance, and a checkpoint stands for all rows up
to its step.
"""

from __future__ import annotations

import json
import logging
import math
import os
import pathlib
import time
from typing import Any

import keras
import numpy as np
from tqdm import tqdm

from fid import measure
from fid.extractors import Extractor
from fid.files import InputError, atomic_path, read_json, write_json
from fid.frechet import frechet_distance
from fid.images import GeneratorSource
from fid.statistics import Statistics
from tf_ttur import sampling

__all__ = [
    "Checkpoints",
    "Diverged",
    "FrechetDistance",
    "MetricsLog",
    "NaNGuard",
    "Progress",
    "SampleGrid",
    "TensorBoardLog",
]

_log = logging.getLogger(__name__)


class Diverged(InputError):
    """Training met a loss that is not a number."""


class _StepCallback(keras.callbacks.Callback):
    """Knows the step: generator updates, counted over resumed runs."""

    step = 0

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._epoch_start = self.step = self.model.steps

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        # Not Keras's count: with several steps per execution it goes past the end of
        # an epoch that they do not divide.
        before, self.step = self.step, self.model.steps
        self.on_steps(before, self.step, logs or {})

    def on_steps(self, before: int, now: int, logs: dict[str, Any]) -> None:
        """Called when the count of steps has gone from `before` to `now`."""


class NaNGuard(_StepCallback):
    """Stops training at the first loss that is not finite.

    Raises:
        Diverged: From `fit`, naming the step and the loss.
    """

    def on_steps(self, before: int, now: int, logs: dict[str, Any]) -> None:
        """Looks at the running means, which no later step can make finite again."""
        bad = [name for name, value in logs.items() if not math.isfinite(value)]
        if bad:
            raise Diverged(
                f"{', '.join(bad)} became {logs[bad[0]]} at step {now}. Nothing of it "
                "was saved. Lower the learning rates, or look for values in the data "
                "outside of [-1, 1]."
            )


class FrechetDistance(_StepCallback):
    """Measures the Fréchet distance between generated and real images during training.

    The value goes into the epoch's logs under `fid` for the 2015 graph and
    `frechet_<extractor>` for any other extractor. Latents are drawn from `seed` each
    time, so that values differ only by the generator, and training's own random state
    is not touched.

    Args:
        reference: Statistics of the real images: a `fid.Statistics`, or the path of an
            `.npz` of them, or a source of images as `fid.compute_statistics` takes.
        every: Steps from one measurement to the next.
        num_samples: Images to generate for each (the paper: 50,000).
        extractor: Maps images to features; None means the 2015 graph.
        seed: Seed of the latents.
        quantize: How generated images are rounded: `none`, `truncate` or `round`.
        batch_size: Images at a time.
        last: A step to measure at, too, such as the last one of the run.
    """

    def __init__(
        self,
        reference: Any,
        every: int,
        num_samples: int = 10_000,
        extractor: Extractor | None = None,
        seed: int = 0,
        quantize: str = "none",
        batch_size: int = 250,
        last: int | None = None,
    ):
        super().__init__()
        if every < 1:
            raise ValueError(f"every must be at least 1 step; got {every}.")
        if num_samples < 2:
            raise ValueError(f"num_samples must be at least 2; got {num_samples}.")
        if extractor is None:
            from fid.inception import Inception

            extractor = Inception()
        self.reference = _reference(reference, extractor)
        self.extractor = extractor
        self.every = every
        self.num_samples = num_samples
        self.seed = seed
        self.quantize = quantize
        self.batch_size = batch_size
        self.last = last
        self.key = measure.metric_name(extractor.name)
        self.values: list[tuple[int, float]] = []

    def measure(self, gan: Any) -> float:
        """Measures the distance of `gan`'s images now.

        Args:
            gan: A `GAN`.

        Returns:
            The distance.
        """
        source = GeneratorSource(gan, self.num_samples, self.seed, self.quantize)
        statistics = measure.compute_statistics(
            source, self.extractor, batch_size=self.batch_size
        )
        return frechet_distance(statistics, self.reference)

    def on_steps(self, before: int, now: int, logs: dict[str, Any]) -> None:
        """Measures when a multiple of `every`, or `last`, has been reached."""
        if before // self.every != now // self.every or now == self.last:
            try:
                value = self.measure(self.model)
            except InputError as error:
                raise Diverged(
                    f"The distance cannot be measured at step {now}: {error}"
                ) from error
            self.values.append((now, value))
            _log.debug("step %d: %s = %.4f", now, self.key, value)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Adds the epoch's last value to its logs."""
        if logs is not None and self.values and self.values[-1][0] > self._epoch_start:
            logs[self.key] = self.values[-1][1]


class SampleGrid(_StepCallback):
    """Writes samples of fixed latents as `step_00001000.png` at each epoch's end.

    Args:
        folder: Where the pictures go.
        count: Images in a picture.
        seed: Seed of their latents.

    Attributes:
        grid: The last picture, uint8 (H, W, C); None before the first.
    """

    def __init__(self, folder: str | os.PathLike[str], count: int = 64, seed: int = 0):
        super().__init__()
        self.folder = pathlib.Path(folder)
        self.count, self.seed = count, seed
        self.grid: np.ndarray | None = None

    def on_train_begin(self, logs: Any = None) -> None:
        """Writes the picture of the untrained generator."""
        if self.model.steps == 0:
            self._write(0)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Writes the picture."""
        self._write(self.step)

    def _write(self, step: int) -> None:
        images = self.model.generate(self.count, self.seed, batch_size=self.count)
        self.grid = sampling.image_grid(sampling.to_bytes(images))
        sampling.save_png(self.folder / f"step_{step:08d}.png", self.grid)


class MetricsLog(_StepCallback):
    """Appends a row to a `.jsonl` file at each epoch's end.

    A row has `step`, `minutes` (wall-clock minutes of training so far, over resumed
    runs) and the epoch's logs; a value that is not finite is written as null.

    Args:
        path: The file.
    """

    def __init__(self, path: str | os.PathLike[str]):
        super().__init__()
        self.path = pathlib.Path(path)
        self._start = time.monotonic()

    @staticmethod
    def read(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
        """Reads all whole rows.

        Args:
            path: The file; a missing one has no rows.

        Returns:
            The rows in order. A last line that a crash cut short is left out.
        """
        try:
            lines = pathlib.Path(path).read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return []
        rows = []
        for number, line in enumerate(lines, start=1):
            try:
                rows.append(json.loads(line))
            except ValueError as error:
                if number == len(lines):
                    break
                raise InputError(
                    f"{path}, line {number} is not JSON: {error}. Mend or delete it."
                ) from error
        return rows

    @staticmethod
    def cut(path: str | os.PathLike[str], step: int) -> list[dict[str, Any]]:
        """Cuts the file back to a step.

        Args:
            path: The file.
            step: Rows of later steps are removed.

        Returns:
            The rows that stay.
        """
        rows = [row for row in MetricsLog.read(path) if row["step"] <= step]
        text = "".join(_line(row) for row in rows)
        with atomic_path(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
        return rows

    def on_train_begin(self, logs: Any = None) -> None:
        """Starts the clock where the last row left it."""
        rows = self.read(self.path)
        earlier = rows[-1]["minutes"] if rows else 0.0
        self._start = time.monotonic() - 60.0 * earlier

    def write(self, step: int, logs: dict[str, Any]) -> None:
        """Appends a row."""
        minutes = (time.monotonic() - self._start) / 60.0
        row = {"step": step, "minutes": round(minutes, 4)}
        row |= {
            k: float(v) if math.isfinite(v) else None for k, v in sorted(logs.items())
        }
        try:
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(_line(row))
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise InputError(f"Cannot write {self.path}: {error.strerror}.") from error

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Appends the epoch's row."""
        self.write(self.step, logs or {})


class TensorBoardLog(_StepCallback):
    """Writes the epoch's logs and samples for TensorBoard.

    Args:
        folder: TensorBoard's log folder.
        samples: Makes the pictures of samples, earlier in the same list of callbacks;
            None writes no pictures.
        config: Written as text at the first step, JSON-able.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        samples: SampleGrid | None = None,
        config: Any = None,
    ):
        super().__init__()
        self.folder, self.samples, self.config = os.fspath(folder), samples, config

    def on_train_begin(self, logs: Any = None) -> None:
        """Opens the event file."""
        import tensorflow as tf

        self._summary = tf.summary
        self._writer = tf.summary.create_file_writer(self.folder)
        if self.config is not None and self.model.steps == 0:
            text = "\n".join(
                f"    {x}" for x in json.dumps(self.config, indent=2).split("\n")
            )
            with self._writer.as_default(step=0):
                tf.summary.text("config", text)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Writes the epoch's scalars and samples."""
        with self._writer.as_default(step=self.step):
            for name, value in (logs or {}).items():
                self._summary.scalar(name, value)
            if self.samples is not None:
                self._summary.image("samples", self.samples.grid[np.newaxis])
        self._writer.flush()

    def on_train_end(self, logs: Any = None) -> None:
        """Closes the event file."""
        self._writer.close()


class Checkpoints(_StepCallback):
    """Saves the whole model at each epoch's end, and keeps the best.

    A checkpoint is a `.keras` file: both networks, both optimizers, the step and the
    random state. The best one is a copy of a checkpoint, so that it never runs ahead
    of what a resumed run starts from.

    Args:
        folder: Where checkpoints go, `step_00001000.keras`.
        best: Where the best goes, with `best.json` that names it.
        key: Name in the logs of what is best when lowest.
        facts: Added to `best.json`, such as the number of samples.
        keep: Checkpoints to keep.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        best: str | os.PathLike[str],
        key: str,
        facts: dict[str, Any] | None = None,
        keep: int = 2,
    ):
        super().__init__()
        self.folder, self.best = pathlib.Path(folder), pathlib.Path(best)
        self.key, self.facts, self.keep = key, dict(facts or {}), keep

    def latest(self) -> tuple[int, pathlib.Path] | None:
        """Returns the step and path of the newest checkpoint, or None."""
        found = sorted(self.folder.glob("step_*.keras"))
        return (int(found[-1].stem[5:]), found[-1]) if found else None

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Saves a checkpoint, and the best one if this is it."""
        self.save(self.model, self.step, (logs or {}).get(self.key))

    def save(self, gan: Any, step: int, value: float | None) -> None:
        """Saves a checkpoint.

        Args:
            gan: The model.
            step: Its step.
            value: Its distance; None where it was not measured.
        """
        path = self.folder / f"step_{step:08d}.keras"
        with atomic_path(path) as temporary:
            gan.save(temporary)
        if value is not None and math.isfinite(value):
            best = self.read_best()
            if best is None or value < best[self.key]:
                self._set_best(path, step, value)
        for old in sorted(self.folder.glob("step_*.keras"))[: -self.keep]:
            old.unlink()

    def read_best(self) -> dict[str, Any] | None:
        """Returns what `best.json` says, or None where there is none."""
        path = self.best / "best.json"
        return read_json(path) if path.exists() else None

    def mend(self, rows: list[dict[str, Any]]) -> None:
        """Makes the best agree with the rows up to the newest checkpoint.

        A crash between saving a checkpoint and copying it to the best leaves that copy
        undone; here it is done.

        Args:
            rows: The rows of metrics up to the newest checkpoint's step.
        """
        measured = [row for row in rows if row.get(self.key) is not None]
        latest = self.latest()
        if not measured or latest is None:
            return
        row = min(measured, key=lambda row: row[self.key])
        best = self.read_best()
        if best is not None and best["step"] == row["step"]:
            self._only(best["file"])
            return
        if row["step"] == latest[0]:
            self._set_best(latest[1], row["step"], row[self.key])
        else:
            _log.warning(
                "%s does not hold step %d, the best so far; the next better one "
                "replaces it.",
                self.best,
                row["step"],
            )

    def _set_best(self, checkpoint: pathlib.Path, step: int, value: float) -> None:
        path = self.best / checkpoint.name
        with atomic_path(path) as temporary:
            temporary.write_bytes(checkpoint.read_bytes())
        # This file decides: until it is replaced, the former best is the best.
        write_json(
            self.best / "best.json",
            {"file": path.name, "step": step, self.key: value, **self.facts},
        )
        self._only(path.name)

    def _only(self, name: str) -> None:
        for path in self.best.glob("step_*.keras"):
            if path.name != name:
                path.unlink()


class Progress(_StepCallback):
    """Shows one bar with losses and distance, and a line at each epoch's end.

    Args:
        steps: Steps of the whole run.
        key: Name of the distance in the logs.
    """

    def __init__(self, steps: int, key: str):
        super().__init__()
        self.steps, self.key = steps, key
        self._distance = None

    def on_train_begin(self, logs: Any = None) -> None:
        """Opens the bar, unless stderr is no terminal."""
        self._bar = tqdm(
            total=self.steps, initial=self.model.steps, unit="step", disable=None
        )

    def on_steps(self, before: int, now: int, logs: dict[str, Any]) -> None:
        """Moves the bar."""
        shown = {k: f"{logs[k]:.3f}" for k in ("d_loss", "g_loss") if k in logs}
        if self._distance is not None:
            shown[self.key] = f"{self._distance:.2f}"
        self._bar.set_postfix(shown, refresh=False)
        self._bar.update(now - before)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Prints the epoch's line."""
        logs = logs or {}
        self._distance = logs.get(self.key, self._distance)
        values = "  ".join(f"{k} {v:.4g}" for k, v in sorted(logs.items()))
        _log.info("step %d/%d  %s", self.step, self.steps, values)

    def on_train_end(self, logs: Any = None) -> None:
        """Closes the bar."""
        self._bar.close()


def _reference(reference: Any, extractor: Extractor) -> Statistics:
    opened = measure.open_set(reference)
    if not isinstance(opened, Statistics):
        return measure.compute_statistics(opened, extractor)
    measure.check_extractor(opened, extractor)
    return opened


def _line(row: dict[str, Any]) -> str:
    return json.dumps(row, allow_nan=False) + "\n"
