"""Sweeps: a grid of learning rates and seeds, one run of `experiment.run` each.

A sweep's folder holds `sweep.json`, which says what it is made of, and a run folder for
every run, `d_<rate>_g_<rate>/seed_<n>`. What came out is read from the run folders and
nowhere else (`sweep_results`), so that nothing can disagree. TensorFlow runs in the
worker processes only.
"""

from __future__ import annotations

import contextlib
import dataclasses
import multiprocessing
import os
import pathlib
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any, NamedTuple

from fid.files import InputError, read_json, read_object, write_json
from tf_ttur.presets import Preset

__all__ = ["Cell", "Sweep", "grid", "load", "run", "run_folder"]

_MANIFEST = "sweep.json"
_DIVERGED = "diverged.json"
# Settings that tell the runs of a sweep apart.
_VARIED = ("discriminator_lr", "generator_lr", "seed")
# So many failures with nothing finished in between mean that all would fail.
_FAILURES_IN_A_ROW = 3
_SECONDS_TO_END = 20.0


class Cell(NamedTuple):
    """A pair of learning rates."""

    discriminator_lr: float
    generator_lr: float

    def __str__(self) -> str:
        return (
            f"discriminator {self.discriminator_lr:g}, generator {self.generator_lr:g}"
        )


@dataclasses.dataclass(frozen=True)
class Sweep:
    """What a sweep is made of.

    Args:
        preset: Settings of every run; its rates and its seed are replaced.
        cells: The pairs of rates, with the number of seeds of each: 0, 1, ...
        data_dir: Where the data set is; see `datasets.load`.
        inception: Path of the 2015 graph; see `fid.extractors.download.find_graph`.

    Raises:
        InputError: There is no cell, or a rate or a number of seeds cannot be.
    """

    preset: Preset
    cells: dict[Cell, int]
    data_dir: str | None = None
    inception: str | None = None

    def __post_init__(self):
        if not self.cells:
            raise InputError(
                "A sweep needs learning rates: --discriminator_lr and --generator_lr, "
                "each a list with commas, or --pairs."
            )
        for cell, seeds in self.cells.items():
            if seeds < 1:
                raise InputError(f"The number of seeds is {seeds}; it must be >= 1.")
            self.preset.override(**cell._asdict())

    @property
    def runs(self) -> list[tuple[Cell, int]]:
        """Cell and seed of every run: first all cells' first seed, and so on."""
        return [
            (cell, seed)
            for seed in range(max(self.cells.values()))
            for cell, seeds in self.cells.items()
            if seed < seeds
        ]


def grid(
    discriminator_lr: Sequence[float] = (),
    generator_lr: Sequence[float] = (),
    pairs: Sequence[tuple[float, float]] = (),
) -> list[Cell]:
    """Combines learning rates.

    Args:
        discriminator_lr: The discriminator's rates, each combined with each of
        generator_lr: the generator's.
        pairs: Further (discriminator, generator) rates.

    Returns:
        The cells.

    Raises:
        InputError: A rate or a pair is there twice, or one list is without the other.

    Example:
        >>> [tuple(cell) for cell in grid([1e-4, 3e-4], [1e-4], [(1e-3, 1e-4)])]
        [(0.0001, 0.0001), (0.0003, 0.0001), (0.001, 0.0001)]
    """
    if bool(discriminator_lr) != bool(generator_lr):
        raise InputError(
            "A grid needs rates of both networks: --discriminator_lr and "
            "--generator_lr."
        )
    cells = [Cell(d, g) for d in discriminator_lr for g in generator_lr]
    cells += [Cell(d, g) for d, g in pairs]
    if twice := {str(cell) for cell in cells if cells.count(cell) > 1}:
        raise InputError(f"Given twice: {'; '.join(sorted(twice))}. Leave one out.")
    return cells


def run_folder(workdir: str | os.PathLike[str], cell: Cell, seed: int) -> pathlib.Path:
    """Returns the folder of one run of a sweep.

    Args:
        workdir: The sweep's folder.
        cell: The run's rates.
        seed: Its seed.
    """
    name = f"d_{cell.discriminator_lr!r}_g_{cell.generator_lr!r}"
    return pathlib.Path(workdir, name, f"seed_{seed}")


def load(workdir: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[Cell, int]]:
    """Reads what a sweep's folder was made for.

    Args:
        workdir: The folder.

    Returns:
        The settings of all runs, and the number of seeds of each cell.

    Raises:
        InputError: The folder holds no sweep.
    """
    path = pathlib.Path(workdir, _MANIFEST)
    found = read_json(path)
    try:
        cells = {
            Cell(float(x["discriminator_lr"]), float(x["generator_lr"])): int(
                x["seeds"]
            )
            for x in found["cells"]
        }
        return dict(found["settings"]), cells
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{path} does not say what a sweep is made of ({error!r}); choose another "
            "--workdir."
        ) from error


def diverged(folder: pathlib.Path) -> dict[str, Any] | None:
    """Returns `step` and `message` of a run that diverged, or None.

    Args:
        folder: The run folder.
    """
    path = folder / _DIVERGED
    return read_object(path, "step") if path.exists() else None


def run(
    sweep: Sweep,
    workdir: str | os.PathLike[str],
    processes: int = 1,
    say: Callable[[str], Any] = print,
) -> None:
    """Makes all runs of a sweep that are not finished; those that were cut go on.

    A run that diverges leaves `diverged.json` in its folder and is not tried again.

    Args:
        sweep: What to run. A folder that has more cells or seeds keeps them.
        workdir: The sweep's folder; made where missing.
        processes: Runs at a time, each in a process of its own with an equal share of
            the processor's cores.
        say: Called with a line at the end of every run.

    Raises:
        InputError: The folder belongs to another sweep, or runs failed: all others
            are finished then, unless three failed in a row.
    """
    if processes < 1:
        raise InputError(f"The number of processes is {processes}; it must be >= 1.")
    workdir = pathlib.Path(workdir)
    _claim(sweep, workdir)
    # What waits, last first.
    queue = [x for x in sweep.runs if not is_over(run_folder(workdir, *x))][::-1]
    if not queue:
        say(f"All {len(sweep.runs)} runs are finished.")
        return
    progress = _Progress(len(sweep.runs), len(queue), processes, say)
    failures: list[str] = []
    with _Workers(min(processes, len(queue)), workdir) as workers, _terminable():
        while (queue and progress.in_a_row < _FAILURES_IN_A_ROW) or workers.busy:
            while queue and progress.in_a_row < _FAILURES_IN_A_ROW and workers.idle:
                cell, seed = queue.pop()
                preset = sweep.preset.override(**cell._asdict(), seed=seed)
                workers.start(
                    (cell, seed),
                    preset=preset,
                    workdir=run_folder(workdir, cell, seed),
                    data_dir=sweep.data_dir,
                    inception=sweep.inception,
                )
            for (cell, seed), outcome in workers.wait():
                progress.ended(cell, seed, outcome)
                if "error" in outcome:
                    what = outcome["error"].rstrip(".")
                    failures.append(f"{cell}, seed {seed}: {what}")
    if failures:
        if not any(workdir.glob("d_*/seed_*/config.json")):
            # Settings that cannot be trained must not claim the folder.
            (workdir / _MANIFEST).unlink()
        raise InputError(
            f"{len(failures)} of {len(sweep.runs)} runs failed, and {len(queue)} were "
            f"not tried: {'; '.join(failures)}. Mend what is wrong and start again: "
            "finished runs stay, and those that were cut go on."
        )


def is_over(folder: pathlib.Path) -> bool:
    """Says whether a run is finished or has diverged.

    Args:
        folder: The run folder.
    """
    return any((folder / name).exists() for name in ("summary.json", _DIVERGED))


def _claim(sweep: Sweep, workdir: pathlib.Path) -> None:
    """Writes sweep.json, or makes sure that the one there is of the same settings."""
    settings = dataclasses.asdict(sweep.preset) | {"data_dir": sweep.data_dir}
    settings = {k: v for k, v in settings.items() if k not in _VARIED}
    cells = dict(sweep.cells)
    path = workdir / _MANIFEST
    if path.exists():
        found, there = load(workdir)
        differences = [
            f"{key} is {found.get(key)!r} there and {settings.get(key)!r} now"
            for key in sorted(found.keys() | settings.keys())
            if found.get(key) != settings.get(key)
        ]
        if differences:
            raise InputError(
                f"{workdir} holds a sweep of other settings: {'; '.join(differences)}. "
                "Give its settings to go on with it, or choose another --workdir."
            )
        more = {x: max(n, cells.get(x, 0)) for x, n in there.items()}
        cells = more | {x: n for x, n in cells.items() if x not in more}
    elif (workdir / "config.json").exists():
        raise InputError(
            f"{workdir} holds a run, not a sweep; choose another --workdir."
        )
    listed = [{**cell._asdict(), "seeds": seeds} for cell, seeds in cells.items()]
    write_json(path, {"settings": settings, "cells": listed})


class _Progress:
    """Says how far a sweep has come."""

    def __init__(self, total: int, left: int, processes: int, say: Callable):
        self._total, self._left, self._to_do = total, left, left
        self._processes, self._say = processes, say
        self._start = time.monotonic()
        self.in_a_row = 0

    def ended(self, cell: Cell, seed: int, outcome: dict[str, Any]) -> None:
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
        self._say(
            f"[{self._total - self._left}/{self._total}] {cell}, seed {seed}: "
            f"{what}{left}"
        )


# Worker processes -----------------------------------------------------------------


class _Worker:
    def __init__(self, log: pathlib.Path):
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.log, self.task = log, None
        self.process = context.Process(target=_work, args=(theirs, log), daemon=True)
        self.process.start()
        theirs.close()

    def answer(self) -> dict[str, Any]:
        """Returns what came of the task, also where the process has died of it."""
        try:
            return self.connection.recv()
        except (EOFError, ConnectionError):
            self.process.join()
            code = self.process.exitcode
            how = signal.Signals(-code).name if code < 0 else f"exit status {code}"
            return {"error": f"its process died ({how}); see {self.log}"}


class _Workers:
    """Processes that train, one run at a time; a dead one is replaced when needed."""

    def __init__(self, count: int, workdir: pathlib.Path):
        self._workers: list[_Worker | None] = [None] * count
        self._workdir = workdir
        cores = max(1, len(os.sched_getaffinity(0)) // count)
        # Read when the libraries are loaded, so before the process starts.
        self._environment = {
            "TF_NUM_INTRAOP_THREADS": str(cores),
            "TF_NUM_INTEROP_THREADS": str(cores),
            "OMP_NUM_THREADS": str(cores),
            "OPENBLAS_NUM_THREADS": str(cores),
        }

    def __enter__(self) -> _Workers:
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
        return [w for w in self._workers if w is not None and w.task is not None]

    @property
    def idle(self) -> bool:
        return len(self.busy) < len(self._workers)

    def start(self, task: Any, **arguments: Any) -> None:
        """Has an idle worker call `experiment.run`."""
        index = next(
            i for i, w in enumerate(self._workers) if w is None or w.task is None
        )
        worker = self._workers[index]
        if worker is None:
            with _environment(self._environment):
                worker = _Worker(self._workdir / f"worker_{index}.log")
            self._workers[index] = worker
        worker.task = task
        with contextlib.suppress(BrokenPipeError):  # `answer` says that it died.
            worker.connection.send(arguments)

    def wait(self) -> Iterator[tuple[Any, dict[str, Any]]]:
        """Yields tasks that have ended and what came of them; waits for the first."""
        ready = set(wait([worker.connection for worker in self.busy]))
        for worker in self.busy:
            if worker.connection in ready:
                task, outcome = worker.task, worker.answer()
                worker.task = None
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
def _terminable() -> Iterator[None]:
    """Makes SIGTERM unwind the stack, so that the workers are ended, too."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, _exit)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _exit(number: int, _: Any) -> None:
    sys.exit(128 + number)


def _work(connection: Connection, log: pathlib.Path) -> None:
    """Trains what it is told to until the other end closes."""
    # Ctrl-C reaches all processes of a terminal; the first one decides what ends.
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
        connection.send(_outcome(**arguments))


def _end_with_parent() -> None:
    wait([multiprocessing.parent_process().sentinel])
    os.kill(os.getpid(), signal.SIGTERM)


def _outcome(workdir: pathlib.Path, **arguments: Any) -> dict[str, Any]:
    try:
        from tf_ttur import callbacks, experiment

        try:
            summary = experiment.run(workdir=workdir, **arguments)
        except callbacks.Diverged as error:
            facts = {"step": error.step, "message": str(error)}
            write_json(workdir / _DIVERGED, facts)
            return {"text": f"diverged at step {error.step}"}
    except InputError as error:
        return {"error": str(error)}
    except Exception as error:
        traceback.print_exc()
        return {"error": f"{type(error).__name__}: {error}"}
    key, best, last = summary["metric"], summary["best"], summary["last"]
    return {
        "text": f"{key} {best[key]:.4g} at step {best['step']}, {last[key]:.4g} at the "
        f"end; {summary['minutes']:.1f} min"
    }
