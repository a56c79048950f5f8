"""Checkpoints of a run, and the best of them."""

from __future__ import annotations

import logging
import os
import pathlib
import tempfile
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from fid.files import InputError, atomic_path, printable, write_json
from fid.mistaken import local_path
from tf_ttur import runs
from tf_ttur.callbacks.steps import Diverged, StepCallback

__all__ = ["Checkpoints"]

_log = logging.getLogger(__name__)


class Checkpoints(StepCallback):
    """Saves the whole model at each epoch's end, and keeps the best.

    A checkpoint is a `.keras` file: both networks, both optimizers, the step and the
    random state. The best one is a copy of a checkpoint, so that it never runs ahead
    of what a resumed run starts from. A file says which run, step and value it is of.

    Args:
        folder: Where checkpoints go, `step_00001000.keras`.
        best: Where the best goes, with `best.json` that names it.
        key: Name in the logs of what is best when lowest.
        facts: Added to `best.json`, such as the number of samples.
        keep: Checkpoints to keep.
        run: Says which run a step is of, by digests; written into its checkpoint, for
            `RunFolder.check_checkpoint`.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        best: str | os.PathLike[str],
        key: str,
        facts: dict[str, Any] | None = None,
        keep: int = 2,
        run: Callable[[int], Mapping[str, str]] = lambda step: {},
    ):
        super().__init__()
        self.folder, self.best = (local_path(x, writing=True) for x in (folder, best))
        self.key, self.facts, self.keep = key, dict(facts or {}), keep
        self.run = run

    def latest(self) -> tuple[int, pathlib.Path] | None:
        """Returns the step and path of the newest checkpoint, or None."""
        return max(runs.checkpoints(self.folder).items(), default=None)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Saves a checkpoint, and the best one if this is it."""
        if self._writes:
            self.save(self.model, self.step, (logs or {}).get(self.key))
            return
        # Saving may gather values from all workers: each one has to take part.
        with tempfile.TemporaryDirectory() as folder:
            self.model.save(pathlib.Path(folder, "part.keras"))

    def save(self, gan: Any, step: int, value: float | None) -> None:
        """Saves a checkpoint.

        Args:
            gan: The model.
            step: Its step.
            value: Its distance; None where it was not measured.

        Raises:
            Diverged: A weight, or a state of an optimizer, is not finite.
            InputError: It cannot be written.
        """
        _check_finite(gan, step)
        if value is not None:
            # As a row has it: a row of a value that is not finite has none.
            value = float(np.mean(value)) if np.isfinite(value).all() else None
        path = self.folder / runs.checkpoint_name(step)
        with atomic_path(path) as temporary:
            gan.save(temporary)
            runs.stamp(temporary, self.run(step), self._record(step, value))
        # First of all, since it makes room.
        self._forget_old()
        if value is not None:
            best = self.read_best()
            # A step is reached again where a checkpoint was deleted: the best of that
            # step is this one.
            if best is None or value < best[self.key] or best["step"] == step:
                self._set_best(path, step, value)

    def read_best(self) -> dict[str, Any] | None:
        """Returns what `best.json` says, or None where there is none; see `runs`."""
        return runs.read_best(self.best, self.key)

    def _record(self, step: int, value: float | None) -> dict[str, Any]:
        return {"step": step, self.key: value, **self.facts}

    def check_best(self, rows: list[dict[str, Any]]) -> None:
        """Makes sure that `best.json` does not contradict the rows.

        Args:
            rows: The rows of metrics.

        Raises:
            InputError: It is damaged, it has another value for its step, or what that
                value rests on is another.
        """
        best = self.read_best()
        if best is None:
            return
        step, path = best["step"], self.best / "best.json"
        values = {row["step"]: row.get(self.key) for row in rows}
        wanted = self._record(step, values.get(step, best[self.key]))
        for name, value in wanted.items():
            if not runs.agree(best.get(name, value), value):
                raise InputError(
                    f"{printable(path)} says that {name} is {best[name]!r} at step "
                    f"{step}, where the run has {value!r}: bring the run's own files "
                    f"back, or delete {printable(self.best)} to have the next best one."
                )

    def mend(self, rows: list[dict[str, Any]]) -> None:
        """Makes the best agree with the rows up to the newest checkpoint.

        A crash after saving a checkpoint leaves undone what follows: removing old ones
        and copying it to the best. Here it is done. A `best.json` that was lost is
        written again.

        Args:
            rows: The rows of metrics up to the newest checkpoint's step.
        """
        self._forget_old()
        measured = [row for row in rows if row.get(self.key) is not None]
        latest = self.latest()
        if not measured or latest is None:
            return
        row = min(measured, key=lambda row: row[self.key])
        best = self.read_best()
        if best is not None and best["step"] == row["step"]:
            # `check_best` has seen that they agree, but for last digits.
            self._note(best["file"], row["step"], row[self.key])
            self._only(best["file"])
            return
        there = runs.checkpoints(self.best) | dict([latest])
        if row["step"] in there:
            self._set_best(there[row["step"]], row["step"], row[self.key])
        else:
            _log.warning(
                "%s does not hold step %d, the best so far; the next better one "
                "replaces it.",
                self.best,
                row["step"],
            )

    def _forget_old(self) -> None:
        found = runs.checkpoints(self.folder)
        for step in sorted(found)[: -self.keep]:
            found[step].unlink()

    def _set_best(self, checkpoint: pathlib.Path, step: int, value: float) -> None:
        path = self.best / checkpoint.name
        with atomic_path(path) as temporary:
            temporary.write_bytes(checkpoint.read_bytes())
        # This file decides: until it is replaced, the former best is the best.
        self._note(path.name, step, value)
        self._only(path.name)

    def _note(self, name: str, step: int, value: float) -> None:
        """Writes `best.json`, unless it says that already."""
        note, there = {"file": name, **self._record(step, value)}, self.read_best()
        if there is None or any(there.get(key) != note[key] for key in note):
            write_json(self.best / "best.json", note)

    def _only(self, name: str) -> None:
        for path in runs.checkpoints(self.best).values():
            if path.name != name:
                path.unlink()


def _check_finite(gan: Any, step: int) -> None:
    # A loss shows it at the next step only, and some weights show in no loss.
    states = (v for each in gan.optimizers.values() for v in each.variables)
    for variable in (*gan.weights, *states):
        if not np.isfinite(variable.numpy()).all():
            raise Diverged(
                f"{variable.path} holds values that are not finite at step {step}. "
                "No checkpoint was made of it; the one before is kept. Lower the "
                "learning rates.",
                step,
            )
