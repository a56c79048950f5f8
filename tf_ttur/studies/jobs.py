"""Many runs that do not depend on each other: done in workers, told as they end."""

from __future__ import annotations

import pathlib
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from fid.files import InputError
from tf_ttur.studies.machines import Machines
from tf_ttur.studies.workers import Workers, terminable

__all__ = ["Job", "RunsFailed", "run_jobs"]

# So many failures with nothing finished in between mean that all would fail.
_FAILURES_IN_A_ROW = 3


class Job(NamedTuple):
    """One run.

    Attributes:
        name: What messages call it.
        arguments: Picklable arguments of the work, by name.
        over: Whether it is finished already.
    """

    name: str
    arguments: dict[str, Any]
    over: bool = False


class RunsFailed(InputError):
    """Runs failed; the message says which and why."""


def run_jobs(
    jobs: Sequence[Job],
    work: Callable[..., dict[str, Any]],
    folder: pathlib.Path,
    *,
    machines: Machines = Machines(),  # noqa: B008
    say: Callable[[str], Any] = print,
    done: Callable[[str], Any] = lambda name: None,
    make_workers: Callable[..., Workers] | None = None,
) -> None:
    """Does jobs that are not over, and says after each how many are left.

    Args:
        jobs: All of them, in the same order at each start, so that each shard finds
            its own ones, whichever are over. They are done in this order.
        work: What does one; see `workers.Workers`. Its outcome has a `text`, what came
            of it in a phrase, or an `error`.
        folder: Where the workers' logs go; made where missing.
        machines: Where they are done, how many at a time, and which of them.
        say: Called with a line at the end of every job.
        done: Called before that with the name of a job that has not failed.
        make_workers: Makes what the jobs are done by; None means `machines.workers`.

    Raises:
        InputError: The folder or the machines cannot be used.
        RunsFailed: Jobs failed: all others are finished then, unless three failed in a
            row.
    """
    jobs = machines.share(jobs)
    # The last job comes first, since workers take from the end.
    queue = [job for job in jobs if not job.over][::-1]
    if not queue:
        of = "" if machines.shard is None else f" of shard {machines.shard}"
        say(f"All {len(jobs)} runs{of} are finished.")
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"Cannot use {folder}: {error.strerror}.") from error
    progress = _Progress(len(jobs), len(queue), say)
    failures: list[str] = []
    made = machines.workers(len(queue), folder, work, make=make_workers)
    with made as workers, terminable():
        while (queue and progress.in_a_row < _FAILURES_IN_A_ROW) or workers.busy:
            while queue and progress.in_a_row < _FAILURES_IN_A_ROW and workers.idle:
                job = queue.pop()
                workers.start(job.name, **job.arguments)
            for name, outcome in workers.wait():
                if "error" not in outcome:
                    done(name)
                progress.ended(name, outcome)
                if "error" in outcome:
                    failures.append(f"{name}: {outcome['error'].rstrip('.')}")
    if failures:
        raise RunsFailed(
            f"{len(failures)} of {len(jobs)} runs failed, and {len(queue)} were not "
            f"tried: {'; '.join(failures)}. Mend what is wrong and start again: "
            "finished runs stay, and those that were cut go on."
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
