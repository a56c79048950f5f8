"""What a run leaves behind while it trains, samples and checkpoints aside."""

from __future__ import annotations

import json
import logging
import math
import os
import time
from typing import Any

from tqdm import tqdm

from fid.files import InputError
from fid.mistaken import local_path
from tf_ttur import runs
from tf_ttur.callbacks.measurement import Measurement
from tf_ttur.callbacks.samples import Samples, verbatim
from tf_ttur.callbacks.steps import StepCallback, scalars

__all__ = ["MetricsLog", "Progress", "TensorBoardLog"]

_log = logging.getLogger(__name__)


class MetricsLog(StepCallback):
    """Appends a row to a `.jsonl` file at each epoch's end.

    A row has `step`, `minutes` (wall-clock minutes of training so far, over resumed
    runs), with a measurement `measure_minutes` (how many of them went into it), and the
    epoch's logs; a value that is not finite is written as null.

    Args:
        path: The file.
        measurement: Its time is reported separately. It stands earlier in the same list
            of callbacks.
    """

    def __init__(
        self, path: str | os.PathLike[str], measurement: Measurement | None = None
    ):
        super().__init__()
        self.path, self.measurement = local_path(path, writing=True), measurement
        self._start_clocks({})

    def on_train_begin(self, logs: Any = None) -> None:
        """Starts the clocks where the last row left them."""
        rows = runs.read_rows(self.path)
        self._start_clocks(rows[-1] if rows else {})

    def _start_clocks(self, row: dict[str, Any]) -> None:
        """Sets the zeros of the clocks so that they continue from a row."""
        self._clock_zeros = {
            name: seconds - 60.0 * row.get(name, 0.0)
            for name, seconds in self._seconds().items()
        }

    def _seconds(self) -> dict[str, float]:
        seconds = {"minutes": time.monotonic()}
        if self.measurement is not None:
            seconds["measure_minutes"] = self.measurement.seconds
        return seconds

    def write(self, step: int, logs: dict[str, Any]) -> None:
        """Appends a row."""
        row = {"step": step} | {
            name: round((seconds - self._clock_zeros[name]) / 60.0, 4)
            for name, seconds in self._seconds().items()
        }
        row |= {
            k: v if math.isfinite(v) else None for k, v in sorted(scalars(logs).items())
        }
        try:
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(runs.as_line(row))
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise InputError(f"Cannot write {self.path}: {error.strerror}.") from error

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Appends the epoch's row."""
        if self._writes:
            self.write(self.step, logs or {})


class TensorBoardLog(StepCallback):
    """Writes the epoch's logs and samples for TensorBoard.

    Args:
        folder: TensorBoard's log folder.
        samples: They are shown, and stand earlier in the same list of callbacks; None
            shows none.
        config: Written as text at the first step, JSON-able.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        samples: Samples | None = None,
        config: Any = None,
    ):
        super().__init__()
        self.folder, self.samples, self.config = os.fspath(folder), samples, config

    def on_train_begin(self, logs: Any = None) -> None:
        """Opens the event file."""
        import tensorflow as tf

        self._summary = tf.summary
        if not self._writes:
            self._writer = tf.summary.create_noop_writer()
            return
        self._writer = tf.summary.create_file_writer(self.folder)
        if self.config is not None and self.model.steps == 0:
            with self._writer.as_default(step=0):
                tf.summary.text("config", verbatim(json.dumps(self.config, indent=2)))

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Writes the epoch's scalars and samples."""
        if not self._writes:
            return
        with self._writer.as_default(step=self.step):
            for name, value in scalars(logs).items():
                self._summary.scalar(name, value)
            if self.samples is not None:
                self.samples.summarize(self._summary)
        self._writer.flush()

    def on_train_end(self, logs: Any = None) -> None:
        """Closes the event file."""
        self._writer.close()


class Progress(StepCallback):
    """Shows one bar with losses and the value measured, and a line at each epoch's end.

    Args:
        steps: Steps of the whole run.
        key: Name of that value in the logs.
    """

    def __init__(self, steps: int, key: str):
        super().__init__()
        self.steps, self.key = steps, key
        self._value = None

    def on_train_begin(self, logs: Any = None) -> None:
        """Opens the bar, unless stderr is no terminal."""
        self._bar = tqdm(
            total=self.steps, initial=self.model.steps, unit="step", disable=None
        )

    def on_steps(self, before: int, now: int, logs: dict[str, float]) -> None:
        """Moves the bar."""
        shown = {k: f"{v:.3f}" for k, v in logs.items() if k.endswith("_loss")}
        if self._value is not None:
            shown[self.key] = f"{self._value:.4g}"
        self._bar.set_postfix(shown, refresh=False)
        self._bar.update(now - before)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Prints the epoch's line."""
        logs = scalars(logs)
        self._value = logs.get(self.key, self._value)
        shown = (x for x in sorted(logs.items()) if not x[0].endswith("_floor"))
        values = "  ".join(f"{k} {v:.4g}" for k, v in shown)
        _log.info("step %d/%d  %s", self.step, self.steps, values)

    def on_train_end(self, logs: Any = None) -> None:
        """Closes the bar."""
        self._bar.close()
