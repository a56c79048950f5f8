"""Many runs that do not depend on each other: done in workers, told as they end."""

from __future__ import annotations

import pathlib
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from fid.files import InputError
from tf_ttur.studies.workers import Workers, terminable

__all__ = ["Job", "RunsFailed", "run_jobs"]

# So many failures with nothing finished in between mean that all would fail.
_FAILURES_IN_A_ROW = 3


class Job(NamedTuple):
    """One run.

    Attributes:
        name: What messages call it.
        arguments: Picklable arguments of the work, by name.
    """

    name: str
    arguments: dict[str, Any]


class RunsFailed(InputError):
    """Runs failed; the message says which and why."""


def run_jobs(
    jobs: Sequence[Job],
    work: Callable[..., dict[str, Any]],
    folder: pathlib.Path,
    *,
    total: int | None = None,
    processes: int = 1,
    say: Callable[[str], Any] = print,
    make_workers: Callable[..., Workers] = Workers,
) -> None:
    """Does jobs, several at a time, and says after each how many are left.

    Args:
        jobs: What is to be done, in this order.
        work: What does one; see `workers.Workers`. Its outcome has a `text`, what came
            of it in a phrase, or an `error`.
        folder: Where the workers' logs go.
        total: How many there are with those that are finished already.
        processes: Jobs at a time, each in a process of its own with an equal share of
            the processor's cores.
        say: Called with a line at the end of every job.
        make_workers: Makes what the jobs are done by; see `workers.Workers`.

    Raises:
        InputError: `processes` is not positive.
        RunsFailed: Jobs failed: all others are finished then, unless three failed in a
            row.
    """
    if processes < 1:
        raise InputError(f"The number of processes is {processes}; it must be >= 1.")
    total = len(jobs) if total is None else total
    if not jobs:
        say(f"All {total} runs are finished.")
        return
    # The last job comes first, since workers take from the end.
    queue = list(jobs)[::-1]
    progress = _Progress(total, len(queue), say)
    failures: list[str] = []
    count = min(processes, len(queue))
    with make_workers(count, folder, work) as workers, terminable():
        while (queue and progress.in_a_row < _FAILURES_IN_A_ROW) or workers.busy:
            while queue and progress.in_a_row < _FAILURES_IN_A_ROW and workers.idle:
                job = queue.pop()
                workers.start(job.name, **job.arguments)
            for name, outcome in workers.wait():
                progress.ended(name, outcome)
                if "error" in outcome:
                    failures.append(f"{name}: {outcome['error'].rstrip('.')}")
    if failures:
        raise RunsFailed(
            f"{len(failures)} of {total} runs failed, and {len(queue)} were not tried: "
            f"{'; '.join(failures)}. Mend what is wrong and start again: finished runs "
            "stay, and those that were cut go on."
        )


class _Progress:
    """Says how far the jobs have come."""

    def __init__(self, total: int, left: int, say: Callable[[str], Any]):
        self._total, self._left, self._to_do = total, left, left
        self._say = say
        self._start = time.monotonic()
        self.in_a_row = 0

    def ended(self, name: str, outcome: dict[str, Any]) -> None:
        self._left -= 1
        if "error" in outcome:
            self.in_a_row += 1
            what = f"failed: {outcome['error']}"
        else:
            self.in_a_row = 0
            what = outcome["text"]
        minutes = (time.monotonic() - self._start) / 60.0
        left = ""
        if self._left:
            estimate = minutes / (self._to_do - self._left) * self._left
            left = f"; about {estimate:.0f} min left"
        self._say(f"[{self._total - self._left}/{self._total}] {name}: {what}{left}")
