"""Sweeps: cells of settings, several seeds each, one run of `experiment.run` each.

A sweep's folder holds `sweep.json`, which says what it is made of, and a run folder for
every run. Its cells are either pairs of a GAN's learning rates, whose runs are
`d_<rate>_g_<rate>/seed_<n>`, or variants of any preset, with `<name>/seed_<n>`. What
came out is read from the run folders and nowhere else (`sweep_results`), so that
nothing can disagree. TensorFlow runs in the worker processes only, here or on other
machines.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
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
from tf_ttur import tasks
from tf_ttur.presets import Preset, SettingsError, check_settings, complete
from tf_ttur.presets.settings import changes
from tf_ttur.runs import RunFolder
from tf_ttur.studies.jobs import Job, RunsFailed, run_jobs
from tf_ttur.studies.machines import Machines
from tf_ttur.studies.variants import check_name, is_name
from tf_ttur.studies.workers import Workers

__all__ = [
    "Cell",
    "Sweep",
    "Variant",
    "claim",
    "grid",
    "load",
    "run_folder",
    "run_of",
    "run_sweep",
    "train_run",
    "variants_of",
]

_MANIFEST = "sweep.json"
# The seeds are counted, and each is a folder.
_SEEDS = Annotated[int, Between(1, 10_000)]
_RATE = Annotated[float, Between(above=0)]
_CELL = {"discriminator_lr": _RATE, "generator_lr": _RATE, "seeds": _SEEDS}
_CELLS = list[_CELL]
_VARIANT = {"name": str, "settings": Mapping[str, Any], "seeds": _SEEDS}
_VARIANTS = list[_VARIANT]


class Cell(NamedTuple):
    """A pair of learning rates."""

    discriminator_lr: float
    generator_lr: float

    @property
    def folder(self) -> str:
        """The name of the folder of its runs."""
        return f"d_{self.discriminator_lr!r}_g_{self.generator_lr!r}"

    def of(self, preset: Preset) -> Preset:
        """Returns a preset with these rates.

        Args:
            preset: The preset.

        Raises:
            InputError: It has no such rates, or a rate cannot be.
        """
        return preset.override(**self._asdict())

    def entry(self) -> dict[str, Any]:
        """Returns what sweep.json and table.json say of it."""
        return self._asdict()

    def __str__(self) -> str:
        return (
            f"discriminator {self.discriminator_lr:g}, generator {self.generator_lr:g}"
        )


@dataclasses.dataclass(frozen=True)
class Variant:
    """A preset with some of its settings changed.

    Args:
        name: What it is called, and the name of the folder of its runs.
        settings: What is changed, by attribute of the preset.

    Raises:
        InputError: The name does not name a folder.
    """

    name: str
    # Values may be dicts, which have no hash.
    settings: Mapping[str, Any] = dataclasses.field(hash=False)

    def __post_init__(self) -> None:
        check_name(self.name)

    def __str__(self) -> str:
        return self.name

    @property
    def folder(self) -> str:
        """The name of the folder of its runs."""
        return self.name

    def of(self, preset: Preset) -> Preset:
        """Returns a preset with these settings.

        Args:
            preset: The preset.

        Raises:
            InputError: A setting cannot be.
        """
        # Not by `override`, to which None is no change.
        return dataclasses.replace(preset, **self.settings)

    def entry(self) -> dict[str, Any]:
        """Returns what sweep.json and table.json say of it."""
        return {"name": self.name, "settings": dict(self.settings)}


@dataclasses.dataclass(frozen=True)
class Sweep:
    """What a sweep is made of.

    Args:
        preset: Settings of every run; those that a cell has and the seed are replaced.
        cells: The pairs of rates, or the variants, with the number of seeds of each:
            0, 1, ...
        data_dir: Where the data set is; see `datasets.load`.
        inception: Path of the 2015 graph; see `fid.extractors.download.find_graph`.
        teacher: The model that is distilled, of a preset that distils one; see
            `tasks.Task`.

    Raises:
        InputError: There is no cell, a setting or a number of seeds cannot be, two
            cells are the same, or a teacher is missing or has no reader.
    """

    preset: Preset
    cells: dict[Cell, int] | dict[Variant, int]
    data_dir: str | None = None
    inception: str | None = None
    teacher: str | None = None

    def __post_init__(self) -> None:
        if not self.cells:
            raise InputError(
                "A sweep needs learning rates, --discriminator_lr and --generator_lr, "
                "each a list with commas, or --pairs; or other settings, --vary or "
                "--variant."
            )
        _one_kind(self.cells)
        for cell, seeds in self.cells.items():
            if wrong := fault("The number of seeds", seeds, _SEEDS):
                raise InputError(f"{wrong}.")
            cell.of(self.preset)
        _check_distinct(self.cells, self.preset.settings())
        tasks.of(self.preset, teacher=self.teacher).check_teacher()

    @property
    def of_rates(self) -> bool:
        """Whether the cells are pairs of learning rates."""
        return isinstance(next(iter(self.cells)), Cell)

    def settings(self) -> dict[str, Any]:
        """Returns what all runs have in common, as sweep.json lists it."""
        varied = {"seed"} | ({*Cell._fields} if self.of_rates else set())
        settings = self.preset.settings() | self.places
        return {k: v for k, v in settings.items() if k not in varied}

    @property
    def places(self) -> dict[str, Any]:
        """Where the data are and the teacher is, which may be moved."""
        teacher = {} if self.teacher is None else {"teacher": self.teacher}
        return {"data_dir": self.data_dir, **teacher}

    @property
    def runs(self) -> list[tuple[Cell | Variant, int]]:
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


def variants_of(preset: Preset, texts: Mapping[str, Sequence[str]]) -> list[Variant]:
    """Makes variants of settings given as text.

    Args:
        preset: The preset.
        texts: Settings KEY=VALUE by the variant's name, as `variants.read` gives them.

    Returns:
        The variants. Each has all settings that its text names, those too that are as
        in the preset.

    Raises:
        InputError: The preset has no such setting, or it cannot have this value.

    Example:
        >>> from tf_ttur import presets
        >>> preset = presets.get("digits_flash_dmd")
        >>> variants_of(preset, {"ratio=5": ["ratio=5"]})[0].settings
        {'ratio': 5}
    """
    found = []
    for name, settings in texts.items():
        try:
            changed = changes(preset, settings)
        except InputError as error:
            raise InputError(f"The variant {name}: {error}") from error
        whole = preset.settings() | changed
        named = [each.partition("=")[0] for each in settings]
        if other := [key for key in named if key not in whole]:
            raise InputError(
                f"The variant {name}: {preset.name} has no setting {other[0]!r}; "
                "leave it out."
            )
        found.append(Variant(name, {key: whole[key] for key in named} | changed))
    return found


def _one_kind(cells: Iterable[Cell | Variant]) -> None:
    """Refuses pairs of learning rates beside variants."""
    if len({type(cell) for cell in cells}) > 1:
        raise InputError(
            "A sweep is over pairs of learning rates (--discriminator_lr, "
            "--generator_lr, --pairs) or over variants (--vary, --variant), and not "
            "over both. Rates can be varied, too: --vary=generator_lr=1e-4,3e-4."
        )


def _check_distinct(
    cells: Iterable[Cell | Variant], settings: Mapping[str, Any]
) -> None:
    """Refuses variants with the same settings, whatever they are called."""
    names: list[tuple[str, Mapping[str, Any]]] = []
    for cell in cells:
        if isinstance(cell, Variant):
            mine = {**settings, **cell.settings}
            for name, others in names:
                if others == mine:
                    raise InputError(
                        f"The variants {name} and {cell.name} have the same settings; "
                        "leave one of them out."
                    )
            names.append((cell.name, mine))


def run_folder(
    workdir: str | os.PathLike[str], cell: Cell | Variant, seed: int
) -> RunFolder:
    """Returns the folder of one run of a sweep.

    Args:
        workdir: The sweep's folder.
        cell: The run's rates, or its variant.
        seed: Its seed.
    """
    return RunFolder(pathlib.Path(workdir, cell.folder, f"seed_{seed}"))


def load(
    workdir: str | os.PathLike[str],
) -> tuple[dict[str, Any], dict[Cell, int] | dict[Variant, int]]:
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
    cells = found.get("cells") if isinstance(found, Mapping) else None
    first = cells[0] if isinstance(cells, list) and cells else None
    of_rates = not isinstance(first, Mapping) or "name" not in first
    wrong = fault(
        "it",
        found,
        {"settings": Mapping[str, Any], "cells": _CELLS if of_rates else _VARIANTS},
    )
    if not wrong and not of_rates:
        names = [x["name"] for x in found["cells"]]
        if bad := [x for x in names if not is_name(x)]:
            wrong = f"a variant is called {bad[0]!r}"
    if not wrong:
        cells = {
            Cell(float(x["discriminator_lr"]), float(x["generator_lr"]))
            if of_rates
            else Variant(x["name"], x["settings"]): x["seeds"]
            for x in found["cells"]
        }
        if len({cell.folder for cell in cells}) < len(found["cells"]):
            what = "pair of rates" if of_rates else "variant"
            wrong = f"a {what} stands twice in cells"
        try:
            for changed in ({}, *(cell.entry().get("settings", {}) for cell in cells)):
                check_settings(found["settings"] | changed)
        except SettingsError as error:
            wrong = f"{error}".rstrip(".")
        wrong = wrong or _run_of_no_cell(path.parent, cells)
    if wrong:
        raise InputError(
            f"{printable(path)} does not say what a sweep is made of: {wrong}. Bring "
            "the sweep's own file back, or choose another --workdir."
        )
    return found["settings"], cells


def _run_of_no_cell(
    workdir: pathlib.Path, cells: Mapping[Cell | Variant, int]
) -> str | None:
    """Says which run there is that a sweep should not have."""
    seeds = {run_folder(workdir, x, 0).path.parent: n for x, n in cells.items()}
    folders = "*" if any(isinstance(x, Variant) for x in cells) else "d_*_g_*"
    for config in sorted(workdir.glob(f"{folders}/seed_*/config.json")):
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
            cell.of(sweep.preset).override(seed=seed),
            run_folder(workdir, cell, seed),
            sweep.data_dir,
            sweep.inception,
            sweep.teacher,
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
        if machines.shard is None and not any(workdir.glob("*/seed_*/config.json")):
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
    settings = sweep.settings()
    with turn(workdir):
        cells = dict(sweep.cells)
        if path.exists():
            found, there = load(workdir)
            _one_kind([*there, *cells])
            named = {cell.folder: cell for cell in there}
            both = [cell for cell in cells if cell.folder in named]
            check_same(
                # Data and teacher may have been moved, as for `RunFolder.claim`.
                complete(found | sweep.places) | _told(named[x.folder] for x in both),
                settings | _told(both),
                f"{workdir} holds a sweep of other settings",
                "Give its settings to go on with it, or choose another --workdir.",
            )
            more = {x: max(n, cells.get(x, 0)) for x, n in there.items()}
            cells = more | {x: n for x, n in cells.items() if x not in more}
            _check_distinct(cells, settings)
        listed = [{**cell.entry(), "seeds": seeds} for cell, seeds in cells.items()]
        write_json(path, {"settings": settings, "cells": listed})


def _told(cells: Iterable[Cell | Variant]) -> dict[str, Any]:
    """Returns the settings of variants, by what messages call them."""
    return {
        f"the variant {cell.name}": dict(cell.settings)
        for cell in cells
        if isinstance(cell, Variant)
    }


def run_of(
    name: str,
    preset: Preset,
    folder: RunFolder,
    data_dir: str | None = None,
    inception: str | None = None,
    teacher: str | None = None,
) -> Job:
    """Returns one run as a job for `train_run`.

    Args:
        name: What messages call it.
        preset: Its settings.
        folder: Its folder, which says whether it is over.
        data_dir: As for `experiment.run`.
        inception: Likewise.
        teacher: Likewise.
    """
    arguments = {
        "preset": preset,
        "folder": folder,
        "data_dir": data_dir,
        "inception": inception,
        "teacher": teacher,
    }
    return Job(name, arguments, folder.is_over)


def train_run(preset: Preset, folder: RunFolder, **sources: Any) -> dict[str, Any]:
    """Trains one run to its end, or to where it diverges.

    A run that diverges leaves `diverged.json` in its folder.

    Args:
        preset: Its settings.
        folder: Its folder.
        **sources: As for `experiment.run`: `data_dir`, `inception`, `teacher`.

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
