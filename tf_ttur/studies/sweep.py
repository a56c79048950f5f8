"""Sweeps: a grid of learning rates and seeds, one run of `experiment.run` each.

A sweep's folder holds `sweep.json`, which says what it is made of, and a run folder for
every run, `d_<rate>_g_<rate>/seed_<n>`. What came out is read from the run folders and
nowhere else (`sweep_results`), so that nothing can disagree. TensorFlow runs in the
worker processes only, here or on other machines.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, NamedTuple

from fid.files import (
    InputError,
    check_same,
    printable,
    read_json,
    turn,
    write_json,
)
from fid.mistaken import local_path
from fid.values import Between, fault
from tf_ttur.presets import Preset, SettingsError, check_settings, complete
from tf_ttur.runs import RunFolder
from tf_ttur.studies.jobs import Job, RunsFailed, run_jobs
from tf_ttur.studies.machines import Machines
from tf_ttur.studies.workers import Workers

__all__ = [
    "Cell",
    "Sweep",
    "claim",
    "grid",
    "load",
    "run_folder",
    "run_of",
    "run_sweep",
    "train_run",
]

_MANIFEST = "sweep.json"
# Settings that tell the runs of a sweep apart.
_VARIED = ("discriminator_lr", "generator_lr", "seed")
# The seeds are counted, and each is a folder.
_SEEDS = Annotated[int, Between(1, 10_000)]
_RATE = Annotated[float, Between(above=0)]
_CELL = {"discriminator_lr": _RATE, "generator_lr": _RATE, "seeds": _SEEDS}
_CELLS = list[_CELL]


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
            if wrong := fault("The number of seeds", seeds, _SEEDS):
                raise InputError(f"{wrong}.")
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


def run_folder(workdir: str | os.PathLike[str], cell: Cell, seed: int) -> RunFolder:
    """Returns the folder of one run of a sweep.

    Args:
        workdir: The sweep's folder.
        cell: The run's rates.
        seed: Its seed.
    """
    name = f"d_{cell.discriminator_lr!r}_g_{cell.generator_lr!r}"
    return RunFolder(pathlib.Path(workdir, name, f"seed_{seed}"))


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
    wrong = fault("it", found, {"settings": Mapping[str, Any], "cells": _CELLS})
    if not wrong:
        cells = {
            Cell(float(x["discriminator_lr"]), float(x["generator_lr"])): x["seeds"]
            for x in found["cells"]
        }
        if len(cells) < len(found["cells"]):
            wrong = "a pair of rates stands twice in cells"
        try:
            check_settings(found["settings"])
        except SettingsError as error:
            wrong = f"{error}".rstrip(".")
        wrong = wrong or _run_of_no_cell(path.parent, cells)
    if wrong:
        raise InputError(
            f"{printable(path)} does not say what a sweep is made of: {wrong}. Bring "
            "the sweep's own file back, or choose another --workdir."
        )
    return found["settings"], cells


def _run_of_no_cell(workdir: pathlib.Path, cells: dict[Cell, int]) -> str | None:
    """Says which run there is that a sweep should not have."""
    seeds = {run_folder(workdir, x, 0).path.parent: n for x, n in cells.items()}
    for config in sorted(workdir.glob("d_*_g_*/seed_*/config.json")):
        run = config.parent
        number = run.name.removeprefix("seed_")
        if number.isdecimal() and int(number) >= seeds.get(run.parent, 0):
            return f"no cell has the run {run.relative_to(workdir)}"
    return None


def run_sweep(
    sweep: Sweep,
    workdir: str | os.PathLike[str],
    machines: Machines = Machines(),  # noqa: B008
    say: Callable[[str], Any] = print,
    make_workers: Callable[..., Workers] | None = None,
) -> None:
    """Makes all runs of a sweep that are not finished; those that were cut go on.

    A run that diverges leaves `diverged.json` in its folder and is not tried again.

    Args:
        sweep: What to run. A folder that has more cells or seeds keeps them.
        workdir: The sweep's folder; made where missing. Several shards of a sweep may
            start in it at once.
        machines: Where the runs are done, how many at a time, and which of them.
        say: Called with a line at the end of every run.
        make_workers: Makes what the runs are done by; see `jobs.run_jobs`.

    Raises:
        InputError: The folder belongs to another sweep, or runs failed: all others
            are finished then, unless three failed in a row.
    """
    workdir = local_path(workdir, writing=True)
    claim(sweep, workdir)
    jobs = [
        run_of(
            f"{cell}, seed {seed}",
            sweep.preset.override(**cell._asdict(), seed=seed),
            run_folder(workdir, cell, seed),
            sweep.data_dir,
            sweep.inception,
        )
        for cell, seed in sweep.runs
    ]
    try:
        run_jobs(
            jobs,
            train_run,
            workdir,
            machines=machines,
            say=say,
            make_workers=make_workers,
        )
    except RunsFailed:
        # Settings that cannot be trained must not claim the folder. Another shard's
        # runs may have begun without a file as yet.
        if machines.shard is None and not any(workdir.glob("d_*/seed_*/config.json")):
            (workdir / _MANIFEST).unlink()
        raise


def claim(sweep: Sweep, workdir: str | os.PathLike[str]) -> None:
    """Writes sweep.json, or adds to the one there, which must be of the same settings.

    Several processes may do so at once, on several machines.

    Args:
        sweep: What is going to be run.
        workdir: The sweep's folder.

    Raises:
        InputError: The folder holds a run, or a sweep of other settings.
    """
    workdir = pathlib.Path(workdir)
    path = workdir / _MANIFEST
    if not path.exists() and RunFolder(workdir).config.exists():
        raise InputError(
            f"{workdir} holds a run, not a sweep; choose another --workdir."
        )
    settings = sweep.preset.settings() | {"data_dir": sweep.data_dir}
    settings = {k: v for k, v in settings.items() if k not in _VARIED}
    with turn(workdir):
        cells = dict(sweep.cells)
        if path.exists():
            found, there = load(workdir)
            check_same(
                # The data may have been moved, as for `RunFolder.claim`.
                complete(found | {"data_dir": sweep.data_dir}),
                settings,
                f"{workdir} holds a sweep of other settings",
                "Give its settings to go on with it, or choose another --workdir.",
            )
            more = {x: max(n, cells.get(x, 0)) for x, n in there.items()}
            cells = more | {x: n for x, n in cells.items() if x not in more}
        listed = [{**cell._asdict(), "seeds": seeds} for cell, seeds in cells.items()]
        write_json(path, {"settings": settings, "cells": listed})


def run_of(
    name: str,
    preset: Preset,
    folder: RunFolder,
    data_dir: str | None = None,
    inception: str | None = None,
) -> Job:
    """Returns one run as a job for `train_run`.

    Args:
        name: What messages call it.
        preset: Its settings.
        folder: Its folder, which says whether it is over.
        data_dir: As for `experiment.run`.
        inception: Likewise.
    """
    arguments = {
        "preset": preset,
        "folder": folder,
        "data_dir": data_dir,
        "inception": inception,
    }
    return Job(name, arguments, folder.is_over)


def train_run(preset: Preset, folder: RunFolder, **sources: Any) -> dict[str, Any]:
    """Trains one run to its end, or to where it diverges.

    A run that diverges leaves `diverged.json` in its folder.

    Args:
        preset: Its settings.
        folder: Its folder.
        **sources: As for `experiment.run`: `data_dir`, `inception`.

    Returns:
        `text`: what came of it, a phrase.

    Raises:
        InputError: It cannot be trained.
    """
    from tf_ttur import callbacks, experiment

    try:
        summary = experiment.run(preset, folder, **sources)
    except callbacks.Diverged as error:
        return {"text": f"diverged at step {error.step}"}
    key, best, last = summary["metric"], summary["best"], summary["last"]
    return {
        "text": f"{key} {best[key]:.4g} at step {best['step']}, {last[key]:.4g} at the "
        f"end; {summary['minutes']:.1f} min"
    }
