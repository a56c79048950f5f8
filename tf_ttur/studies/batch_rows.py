"""Rows of a study of batch sizes: what each run was, and how it came to its end.

A file of rows is `runs.jsonl`, a run a line, whatever made it. A row keeps the whole
trace of distances, so that the steps to any looser threshold can be read from it later.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any

from fid.files import InputError, atomic_write, printable, read_json_lines
from fid.values import Between, Count, Step, fault
from tf_ttur.runs import as_line, first_at_most, last_above
from tf_ttur.theory.critical_batch import STATUSES, Run

__all__ = ["PLAYERS", "Row", "outcome", "read", "write"]

PLAYERS = ("discriminator", "generator")
"""Both networks, by which `Row.noise` and estimates have an entry each."""

_NUMBER = Annotated[float, Between()]
_FIX = "Mend or delete it."


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """One run of a study of batch sizes.

    Attributes:
        task: What was trained: a preset's name, or `mixture`.
        variant: The name of its settings, such as `adam`.
        batch: Batch size b, in examples.
        seed: The run's seed.
        optimizer: The name of both optimizers.
        discriminator_lr: The discriminator's learning rate.
        generator_lr: The generator's learning rate.
        beta_1: First decay of both optimizers.
        beta_2: Second decay of both optimizers.
        metric: The distance's name, such as `fid`.
        threshold: The distance at which the run was to stop.
        passes: Measurements in a row that have to meet it.
        every: Steps between measurements, the width of the interval that N lies in.
        max_steps: N_max, at which a run that has not got there is given up.
        status: `reached`, `censored` or `diverged`.
        steps: N, the first step at which the threshold was met; of other runs the last
            step.
        previous: The last measured step before `steps`; N lies in (previous, steps].
        trace: (step, distance) of every measurement.
        gradients: (step, squared norm of the discriminator's minibatch gradient, the
            same of the generator's), each a mean over the steps since the row before.
        images: How many were processed: `real`, `generated`.
        minutes: Wall-clock minutes of the run; of the mixture game, whose runs are
            computed together, since the sweep was started last.
        config: A digest of all settings.
        noise: By network, of its gradients where the threshold was met: `trace` of the
            covariance of an example's gradient, squared norm `gradient` of the whole
            one, `scale` of what a step divides by. None where checkpoints say it.
    """

    task: str
    variant: str
    batch: int
    seed: int
    optimizer: str
    discriminator_lr: float
    generator_lr: float
    beta_1: float
    beta_2: float
    metric: str
    threshold: float
    passes: int
    every: int
    max_steps: int
    status: str
    steps: int
    previous: int | None
    trace: Sequence[tuple[int, float]]
    gradients: Sequence[tuple[int, float, float]]
    images: Mapping[str, int]
    minutes: float
    config: str
    noise: Mapping[str, Mapping[str, float | None]] | None = None

    @property
    def examples(self) -> int:
        """N b, the calls of the stochastic first-order oracle."""
        return self.steps * self.batch

    def as_json(self) -> dict[str, Any]:
        """Returns the row as it stands in a file, with `sfo`, which is N b."""
        return dataclasses.asdict(self) | {"sfo": self.examples}

    def at(self, threshold: float | None = None, passes: int | None = None) -> Run:
        """Says how many steps another threshold took.

        Args:
            threshold: A distance, not below the run's own; None for that.
            passes: Measurements in a row that have to meet it; None for the run's own.

        Returns:
            The run, as `theory.critical_batch.fit` takes it.

        Raises:
            InputError: The run stopped before this threshold could be looked for.
        """
        threshold = self.threshold if threshold is None else threshold
        passes = self.passes if passes is None else passes
        if (threshold, passes) == (self.threshold, self.passes):
            status, steps, previous = self.status, self.steps, self.previous
        else:
            stricter = threshold < self.threshold or passes > self.passes
            if stricter and self.status == "reached":
                raise InputError(
                    f"The runs of {self.variant} stopped at {self.metric} <= "
                    f"{self.threshold:g} ({self.passes} in a row), so they do not say "
                    f"how many steps {threshold:g} ({passes} in a row) takes. Sweep "
                    "with that threshold in another --workdir."
                )
            status, steps, previous = outcome(
                self.trace, threshold, passes, self.status == "diverged"
            )
        if status == "censored":
            # A streak that the run's end cut short may be the one that counts.
            steps = last_above(self.trace, threshold)
        return Run(
            batch=self.batch,
            status=status,
            # A run may diverge before its first step has been counted.
            steps=max(steps, 1),
            previous=previous if status == "reached" else None,
            seed=self.seed,
        )


def outcome(
    trace: Sequence[tuple[int, float]],
    threshold: float,
    passes: int = 1,
    diverged: bool = False,
) -> tuple[str, int, int | None]:
    """Says what a trace came to at a threshold.

    Args:
        trace: (step, distance), in order; of a run that diverged it may be empty.
        threshold: The distance.
        passes: Measurements in a row that have to be at most that.
        diverged: Whether the run diverged at its end.

    Returns:
        Status, steps and the step measured before, as in `Row`.
    """
    index = first_at_most(trace, threshold, passes)
    if index is None:
        last = trace[-1][0] if trace else 0
        return ("diverged" if diverged else "censored"), last, None
    return "reached", trace[index][0], trace[index - 1][0] if index else 0


def write(path: str | os.PathLike[str], rows: Iterable[Row]) -> None:
    """Writes a file of rows, whole or not at all.

    Args:
        path: The file.
        rows: The rows.
    """
    with atomic_write(path) as file:
        file.write("".join(as_line(row.as_json()) for row in rows).encode())


_NOISE = {
    "trace": _NUMBER,
    "gradient": _NUMBER,
    "scale": Annotated[float, Between(above=0)] | None,
}
_KINDS = {
    "task": str,
    "variant": str,
    "batch": Count,
    "seed": Step,
    "optimizer": str,
    "discriminator_lr": Annotated[float, Between(above=0)],
    "generator_lr": Annotated[float, Between(above=0)],
    "beta_1": Annotated[float, Between(0, below=1)],
    "beta_2": Annotated[float, Between(0, below=1)],
    "metric": str,
    "threshold": _NUMBER,
    "passes": Count,
    "every": Count,
    "max_steps": Count,
    "status": str,
    "steps": Step,
    "previous": Step | None,
    "trace": list,
    "gradients": list,
    "images": {
        "real": Annotated[int, Between(0)],
        "generated": Annotated[int, Between(0)],
    },
    "minutes": Annotated[float, Between(0)],
    "config": str,
    "noise": Mapping[str, Any] | None,
}


def read(path: str | os.PathLike[str]) -> list[Row]:
    """Reads a file of rows.

    Args:
        path: The file.

    Returns:
        Its rows. A last line that a crash cut short is left out.

    Raises:
        InputError: There is no such file, it has no row, a line is none, or a run
            stands there twice.
    """
    if not os.path.isfile(path):
        raise InputError(
            f"There are no runs: {printable(path)} does not exist. Run "
            "critical_batch.py sweep first, or choose another --workdir."
        )
    rows: dict[tuple[Any, ...], Row] = {}
    for number, found in enumerate(read_json_lines(path), start=1):
        where = f"{printable(path)}, line {number}"
        if wrong := fault("it", found, _KINDS) or _fault(found):
            raise InputError(f"{where} is damaged: {wrong}. {_FIX}")
        values = {key: found[key] for key in _KINDS}
        for name in ("trace", "gradients"):
            values[name] = tuple(tuple(each) for each in found[name])
        row = Row(**values)
        key = (row.task, row.variant, row.batch, row.seed)
        if key in rows:
            raise InputError(
                f"{where} is damaged: the run of {row.variant}, batch size "
                f"{row.batch}, seed {row.seed} stands there twice. {_FIX}"
            )
        rows[key] = row
    if not rows:
        raise InputError(
            f"{printable(path)} has no runs yet. Let critical_batch.py sweep end one."
        )
    return list(rows.values())


def _fault(found: Mapping[str, Any]) -> str | None:
    """Says which values of a row do not go together."""
    if found["status"] not in STATUSES:
        return f"status is {found['status']!r}; choose from {', '.join(STATUSES)}"
    for name, width in (("trace", 2), ("gradients", 3)):
        before = -1
        for each in found[name]:
            fits = isinstance(each, list) and len(each) == width
            if not fits or not all(_is_finite(x) for x in each):
                return f"{name} has {each!r}, which is not {width} numbers"
            if not isinstance(each[0], int) or each[0] <= before:
                return f"the steps of {name} do not rise"
            before = each[0]
    players = dict.fromkeys(PLAYERS, _NOISE)
    noisy = found["noise"] is not None
    if noisy and (wrong := fault("noise", found["noise"], players)):
        return wrong
    if found["status"] == "diverged":
        return None  # It may be before the first measurement.
    if not found["trace"]:
        return "trace is empty"
    there = (found["status"], found["steps"], found["previous"])
    if there != outcome(found["trace"], found["threshold"], found["passes"]):
        return (
            f"status, steps and previous are {there}, which its trace and its "
            "threshold do not say"
        )
    return None


def _is_finite(value: Any) -> bool:
    return (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and math.isfinite(value)
    )
