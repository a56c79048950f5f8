"""What all callbacks share: the step, and which process writes; and the NaN guard."""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np

from fid.files import InputError

__all__ = ["Diverged", "NaNGuard", "StepCallback", "scalars", "writes_files"]


class Diverged(InputError):
    """Training came to a loss, a weight or a sample that is not a number.

    Args:
        message: Says which, and what to do.
        step: Where it was met.
    """

    def __init__(self, message: str, step: int):
        super().__init__(message)
        self.step = step


class StepCallback(keras.callbacks.Callback):
    """Knows the step: generator updates, counted over resumed runs."""

    step = 0

    @property
    def _writes(self) -> bool:
        """Whether this process writes: the only one, or the chief of several."""
        return writes_files(self.model.distribute_strategy)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Takes the step that the epoch starts at."""
        self._epoch_start = self.step = self.model.steps

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Calls `on_steps`."""
        # With several steps per execution, Keras's own count goes past the end of an
        # epoch that they do not divide.
        before, self.step = self.step, self.model.steps
        self.on_steps(before, self.step, scalars(logs))

    def on_steps(self, before: int, now: int, logs: dict[str, float]) -> None:
        """Is called when the count of steps has gone from `before` to `now`."""


class NaNGuard(StepCallback):
    """Stops training at the first loss that is not finite.

    Raises:
        Diverged: From `fit`, naming the step and the loss.
    """

    def on_steps(self, before: int, now: int, logs: dict[str, float]) -> None:
        """Looks at the running means, which no later step can make finite again."""
        bad = [name for name, value in logs.items() if not math.isfinite(value)]
        if bad:
            raise Diverged(
                f"{', '.join(bad)} became {logs[bad[0]]} at step {now}. Nothing of it "
                "was saved. Lower the learning rates, or look for values in the data "
                "outside of [-1, 1].",
                now,
            )


def scalars(logs: dict[str, Any] | None) -> dict[str, float]:
    """Returns Keras's logs as plain numbers.

    Args:
        logs: Numbers, or arrays or tensors of one: `MultiWorkerMirroredStrategy` gives
            them the shape (1,). None means none.

    Example:
        >>> import numpy as np
        >>> scalars({"d_loss": np.array([0.5]), "g_loss": 2.0})
        {'d_loss': 0.5, 'g_loss': 2.0}
    """
    return {name: float(np.mean(value)) for name, value in (logs or {}).items()}


def writes_files(strategy: Any) -> bool:
    """Says whether this process is the one that writes files.

    Args:
        strategy: The `tf.distribute.Strategy` that a model is trained under.

    Returns:
        True for the only process and for the chief of several: the one of type
        `chief`, or the first worker where there is none.
    """
    resolver = strategy.cluster_resolver
    if resolver is None or resolver.task_type is None:
        return True
    if "chief" in resolver.cluster_spec().jobs:
        return resolver.task_type == "chief"
    return resolver.task_type == "worker" and resolver.task_id == 0
