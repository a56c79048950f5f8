"""Worker processes for many runs, each with its share of the processor's cores."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pathlib
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection, wait
from typing import Any

from fid.files import FolderInUse, InputError

__all__ = ["Workers", "terminable"]

_SECONDS_TO_END = 20.0
# TensorFlow keeps parts of a run's graphs as long as the process lives, up to some
# 250 MB a run; so a process is replaced after so many tasks, for some seconds each.
_TASKS = 8


class _Worker:
    def __init__(self, log: pathlib.Path, work: Callable[..., dict[str, Any]]):
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.log, self.task, self.done = log, None, 0
        self.process = context.Process(
            target=_work, args=(theirs, log, work), daemon=True
        )
        # Ctrl-C reaches all processes of a terminal; the first one decides what ends.
        # This one begins without it, and so cannot die of it while it imports.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
        try:
            self.process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        theirs.close()

    def answer(self) -> dict[str, Any]:
        """Returns what came of the task, also where the process has died of it."""
        try:
            return self.connection.recv()
        except (EOFError, ConnectionError):
            self.process.join()
            code = self.process.exitcode
            how = signal.Signals(-code).name if code < 0 else f"exit status {code}"
            error = f"its process died ({how}); see {self.log}"
            return {"error": error, "died": True}


class Workers:
    """Processes that work, one task at a time; a dead one is replaced when needed.

    Args:
        count: How many.
        folder: Where their logs go, `worker_0.log` and so on.
        work: Called in a worker with the arguments of `start`; returns a picklable
            dict, with a text `error` where the task failed. A function that other
            processes find by its module and name.
        cores: Cores of each; None means an equal share of the processor's.
        first: The number of the first one's log.
    """

    def __init__(
        self,
        count: int,
        folder: pathlib.Path,
        work: Callable[..., dict[str, Any]],
        cores: int | None = None,
        first: int = 0,
    ):
        self._workers: list[_Worker | None] = [None] * count
        self._folder, self._work, self._first = folder, work, first
        if cores is None:
            cores = max(1, len(os.sched_getaffinity(0)) // count)
        # The libraries read these when they are loaded, so before the process starts.
        self._environment = {
            "TF_NUM_INTRAOP_THREADS": str(cores),
            "TF_NUM_INTEROP_THREADS": str(cores),
            "OMP_NUM_THREADS": str(cores),
            "OPENBLAS_NUM_THREADS": str(cores),
        }

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        alive = [worker for worker in self._workers if worker is not None]
        for worker in alive:
            worker.connection.close()  # An idle one ends by that.
            if worker.task is not None:
                worker.process.terminate()
        for worker in alive:
            worker.process.join(_SECONDS_TO_END)
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()

    @property
    def busy(self) -> list[_Worker]:
        """The workers that have a task."""
        return [w for w in self._workers if w is not None and w.task is not None]

    @property
    def idle(self) -> bool:
        """Whether a worker has no task."""
        return len(self.busy) < len(self._workers)

    def start(self, task: Any, **arguments: Any) -> None:
        """Has an idle worker do a task.

        Args:
            task: What `wait` calls it.
            **arguments: Picklable arguments of the work.
        """
        index = next(
            i for i, w in enumerate(self._workers) if w is None or w.task is None
        )
        worker = self._workers[index]
        if worker is None:
            with _environment(self._environment):
                log = self._folder / f"worker_{self._first + index}.log"
                worker = _Worker(log, self._work)
            self._workers[index] = worker
        worker.task = task
        with contextlib.suppress(BrokenPipeError):  # `answer` says that it died.
            worker.connection.send(arguments)

    def wait(
        self, seconds: float | None = None
    ) -> Iterator[tuple[Any, dict[str, Any]]]:
        """Waits for a task to end.

        Args:
            seconds: For so long at the most; None means without an end.

        Yields:
            Tasks that have ended, each with what came of it. Where its process has
            died, `died` is true in that; where another process has its run folder,
            `in_use` is.
        """
        ready = set(wait([worker.connection for worker in self.busy], seconds))
        for worker in self.busy:
            if worker.connection in ready:
                task, outcome = worker.task, worker.answer()
                worker.task = None
                worker.done += 1
                if worker.done == _TASKS:
                    worker.connection.close()  # It ends by that.
                    worker.process.join()
                if worker.process.exitcode is not None:
                    self._workers[self._workers.index(worker)] = None
                yield task, outcome


@contextlib.contextmanager
def _environment(changes: dict[str, str]) -> Iterator[None]:
    """Sets variables that are not set, for processes that start meanwhile."""
    added = {k: v for k, v in changes.items() if k not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for key in added:
            del os.environ[key]


@contextlib.contextmanager
def terminable() -> Iterator[None]:
    """Makes SIGTERM unwind the stack, so that the workers are ended, too."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    status = 128 + signal.SIGTERM
    received = False

    def handle(*_: Any) -> None:
        nonlocal received
        received = True
        sys.exit(status)

    before = signal.signal(signal.SIGTERM, handle)
    try:
        yield
    except SystemExit:
        # Ray exits with another status where the signal comes while it waits.
        if received:
            sys.exit(status)
        raise
    finally:
        signal.signal(signal.SIGTERM, before)


def _work(
    connection: Connection, log: pathlib.Path, work: Callable[..., dict[str, Any]]
) -> None:
    """Does what it is told to until the other end closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with open(log, "a", encoding="utf-8") as file:
        os.dup2(file.fileno(), sys.stdout.fileno())
        os.dup2(file.fileno(), sys.stderr.fileno())
    while True:
        try:
            arguments = connection.recv()
        except EOFError:
            return
        connection.send(_outcome(work, arguments))


def _end_with_parent() -> None:
    wait([multiprocessing.parent_process().sentinel])
    os.kill(os.getpid(), signal.SIGTERM)


def _outcome(
    work: Callable[..., dict[str, Any]], arguments: dict[str, Any]
) -> dict[str, Any]:
    """Returns what the work returns; makes an `error` of whatever it raises."""
    try:
        return work(**arguments)
    except FolderInUse as error:
        return {"error": str(error), "in_use": True}
    except InputError as error:
        return {"error": str(error)}
    except MemoryError as error:
        return {"error": f"not enough memory ({error}); use fewer --processes"}
    except Exception as error:
        traceback.print_exc()
        return {"error": f"{type(error).__name__}: {error}"}
