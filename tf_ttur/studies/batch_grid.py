"""What every study of batch sizes is made of, whatever is trained: its grid and folder.

A study's folder holds `critical_batch.json`, which says what it is made of,
`subjects.json`, what was measured of each variant before its runs, and `runs.jsonl`, a
row a run.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, NamedTuple, TypeVar

from fid.files import InputError, check_same, printable, read_json, write_json
from fid.values import Between, Count, Step, fault
from tf_ttur.runs import RunFolder
from tf_ttur.studies.variants import check_name, is_name

__all__ = [
    "Grid",
    "Subject",
    "claim",
    "damaged",
    "is_study",
    "load",
    "rows_path",
    "subjects",
    "unclaim",
    "write_subjects",
]

_SEEDS = Annotated[int, Between(1, 10_000)]
_KINDS = {
    "variants": Mapping[str, Any],
    "batches": list[Count],
    "seeds": _SEEDS,
    "threshold": Annotated[float, Between()],
    "passes": Count,
    "first_seed": Step,
    "every_examples": Count | None,
    "every": Count | None,
    "max_steps": Count | None,
    "max_examples": Count | None,
}
# What a study may have more of when it is started again.
_GROWING = ("variants", "batches", "seeds")
_BRING_BACK = "Bring the study's own file back, or choose another --workdir."


class Subject(NamedTuple):
    """What is known of a variant before its runs.

    Attributes:
        floor: The distance of as many real examples as are generated in a measurement.
        examples: |S|, the size of the data set.
        discriminator: Number of the discriminator's trainable weights.
        generator: Number of the generator's.
    """

    floor: float
    examples: int
    discriminator: int
    generator: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Grid:
    """The runs of a study: every variant, with every batch size and seed.

    Args:
        variants: Settings that are changed, by the variant's name.
        batches: Batch sizes.
        seeds: Runs of each variant and batch size; their seeds count from `first_seed`.
        first_seed: The first seed.
        threshold: The distance at which a run stops.
        passes: Measurements in a row that have to meet it.
        every_examples: Examples between measurements, a whole number of steps. So the
            interval gets shorter in steps as batches grow, N lies in an interval of the
            same width in examples, and measuring takes an equal share of every run.
        every: In the place of `every_examples`: steps between measurements, the same
            for all batch sizes. With several passes they then span as many steps.
        max_steps: A run is given up after so many steps,
        max_examples: or so many examples, whichever comes first.

    Raises:
        InputError: A value cannot be, or a run would end before its first measurement.
    """

    what: ClassVar[str] = "study of batch sizes"

    variants: Mapping[str, Mapping[str, Any]]
    batches: Sequence[int]
    seeds: int
    threshold: float
    passes: int = 1
    first_seed: int = 0
    every_examples: int | None = None
    every: int | None = None
    max_steps: int | None = None
    max_examples: int | None = None

    def __post_init__(self) -> None:
        for name, kind in _KINDS.items():
            value = getattr(self, name)
            value = list(value) if name == "batches" else value
            if wrong := fault(name, value, kind):
                raise InputError(f"{wrong}.")
        if len(set(self.batches)) < len(self.batches):
            raise InputError("A batch size is given twice; leave one out.")
        if len(self.batches) < 2:
            raise InputError(
                f"{len(self.batches)} batch sizes were given; the steps as a function "
                "of the batch size need at least two. Give --batches=4,8,16, ..."
            )
        if (self.every is None) == (self.every_examples is None):
            raise InputError(
                "A study needs one interval between measurements: give either --every, "
                "in steps, or --every_examples."
            )
        if self.max_steps is None and self.max_examples is None:
            raise InputError(
                "A run that never gets there needs an end: give --max_steps, "
                "--max_examples, or both."
            )
        for name in self.variants:
            check_name(name)
        for batch in self.batches:
            every, limit = self.interval(batch), self.limit(batch)
            if limit < every:
                raise InputError(
                    f"A run of batch size {batch} is given up after {limit} steps and "
                    f"measured every {every}: it would never be measured. Raise "
                    "--max_steps or --max_examples, or lower the interval."
                )

    def interval(self, batch: int) -> int:
        """Returns D, the steps between the measurements of a batch size."""
        return self.every or max(1, round(self.every_examples / batch))

    def limit(self, batch: int) -> int:
        """Returns N_max of a batch size, in steps."""
        limits = [self.max_steps, self.max_examples and self.max_examples // batch]
        return min(x for x in limits if x is not None)

    @property
    def runs(self) -> list[tuple[str, int, int]]:
        """Variant, batch size and seed of every run; all first seeds come first."""
        return [
            (variant, batch, seed)
            for seed in range(self.first_seed, self.first_seed + self.seeds)
            for variant in self.variants
            for batch in self.batches
        ]

    def settings(self) -> dict[str, Any]:
        """Returns what else the study depends on, JSON-able, as its file lists it."""
        raise NotImplementedError

    def completed(self, settings: dict[str, Any]) -> dict[str, Any]:
        """Adds to settings of a file what the version that wrote it did not have.

        Args:
            settings: As `settings` lists them.
        """
        return settings

    def check_subject(self, variant: str, subject: Subject, samples: int) -> None:
        """Refuses a threshold that cannot be met, and batches that cannot be drawn.

        Args:
            variant: The variant's name.
            subject: What is known of it.
            samples: Examples in a measurement.

        Raises:
            InputError: They are such.
        """
        if self.threshold <= subject.floor:
            raise InputError(
                f"{variant}: the threshold {self.threshold:g} is not above "
                f"{subject.floor:.4g}, the distance that {samples:,} real examples "
                "have from all of them. No generator can be expected to meet it: raise "
                "--threshold, or measure more samples (--num_samples)."
            )
        if max(self.batches) > subject.examples:
            raise InputError(
                f"{variant}: a batch of {max(self.batches)} is larger than the data "
                f"set, which has {subject.examples:,} examples; leave that batch size "
                "out."
            )


_Grid = TypeVar("_Grid", bound=Grid)


def rows_path(workdir: str | os.PathLike[str]) -> pathlib.Path:
    """Returns the path of a study's rows.

    Args:
        workdir: The study's folder.
    """
    return pathlib.Path(workdir, "runs.jsonl")


def _subjects(workdir: str | os.PathLike[str]) -> pathlib.Path:
    return pathlib.Path(workdir, "subjects.json")


def _manifest(workdir: str | os.PathLike[str]) -> pathlib.Path:
    return pathlib.Path(workdir, "critical_batch.json")


def claim(grid: _Grid, workdir: pathlib.Path) -> _Grid:
    """Writes critical_batch.json, or adds to the one there.

    Whoever calls it keeps other processes from doing so at the same time.

    Args:
        grid: What is going to be run.
        workdir: The study's folder.

    Returns:
        The study with the batch sizes, variants and seeds that were there before.

    Raises:
        InputError: The folder holds a run, or a study of other settings.
    """
    path = _manifest(workdir)
    # In one order whoever comes first, since shards share the list of runs out.
    grid = dataclasses.replace(grid, batches=sorted(grid.batches))
    if path.exists():
        there, mine = load(workdir), _described(grid)
        # The data may have been moved, as for `RunFolder.claim`.
        there |= {k: v for k, v in mine.items() if k == "data_dir"}
        there["settings"] = grid.completed(there["settings"])
        both = grid.variants.keys() & there["variants"].keys()
        check_same(
            *(
                {k: v for k, v in each.items() if k not in _GROWING}
                | {f"variant {k}": each["variants"][k] for k in both}
                for each in (there, mine)
            ),
            f"{printable(workdir)} holds a {grid.what} of other settings",
            "Give its settings to go on with it, or choose another --workdir.",
        )
        try:
            grid = dataclasses.replace(
                grid,
                variants={**there["variants"], **grid.variants},
                batches=sorted({*there["batches"], *grid.batches}),
                seeds=max(there["seeds"], grid.seeds),
            )
        except TypeError as error:
            raise damaged(workdir, f"a variant cannot be ({error})") from error
    elif RunFolder(workdir).config.exists():
        raise InputError(
            f"{printable(workdir)} holds a run, not a {grid.what}; choose another "
            "--workdir."
        )
    write_json(path, _described(grid))
    return grid


def unclaim(workdir: pathlib.Path) -> None:
    """Removes critical_batch.json: settings that cannot be run claim no folder.

    Args:
        workdir: The study's folder.
    """
    _manifest(workdir).unlink()
    # It is of these settings, and others will be tried.
    _subjects(workdir).unlink(missing_ok=True)


def _described(grid: Grid) -> dict[str, Any]:
    return {
        **grid.settings(),
        "variants": {k: dict(v) for k, v in grid.variants.items()},
        "batches": list(grid.batches),
        "seeds": grid.seeds,
        "threshold": float(grid.threshold),
        "passes": grid.passes,
        "first_seed": grid.first_seed,
        "every_examples": grid.every_examples,
        "every": grid.every,
        "max_steps": grid.max_steps,
        "max_examples": grid.max_examples,
    }


def is_study(workdir: str | os.PathLike[str]) -> bool:
    """Returns whether a folder says what a study is made of.

    Args:
        workdir: The folder.
    """
    return _manifest(workdir).exists()


def load(workdir: str | os.PathLike[str]) -> dict[str, Any]:
    """Reads what a study's folder was made for.

    Args:
        workdir: The folder.

    Returns:
        What critical_batch.json says.

    Raises:
        InputError: The folder holds no study, or its file cannot be.
    """
    path = _manifest(workdir)
    found = read_json(path)
    wrong = fault("it", found, _KINDS | {"settings": Mapping[str, Any]})
    if not wrong:
        if bad := [x for x in found["variants"] if not is_name(x)]:
            wrong = f"a variant is called {bad[0]!r}"
        elif bad := [x for x in found["variants"].values() if not isinstance(x, dict)]:
            wrong = f"a variant is {bad[0]!r}"
    if wrong:
        raise damaged(workdir, wrong)
    return found


def damaged(workdir: str | os.PathLike[str], wrong: str) -> InputError:
    """Returns the error of a critical_batch.json that cannot be.

    Args:
        workdir: The study's folder.
        wrong: What is wrong with it.
    """
    return InputError(
        f"{printable(_manifest(workdir))} does not say what a study of batch sizes is "
        f"made of: {wrong}. {_BRING_BACK}"
    )


def subjects(workdir: str | os.PathLike[str]) -> dict[str, Subject]:
    """Returns what is known of the variants of a study, by name.

    Args:
        workdir: The study's folder.

    Raises:
        InputError: The file that says it is damaged.
    """
    path = _subjects(workdir)
    if not path.exists():
        return {}
    found = read_json(path)
    number = Annotated[float, Between(0)]
    kinds = {"floor": number, **dict.fromkeys(Subject._fields[1:], Count)}
    wrong = None if isinstance(found, dict) else "it is no object"
    for name, each in found.items() if not wrong else ():
        wrong = wrong or fault(name, each, kinds)
    if wrong:
        raise InputError(
            f"{printable(path)} is damaged: {wrong}. Delete it to have it made again."
        )
    return {
        name: Subject(**{key: each[key] for key in Subject._fields})
        for name, each in found.items()
    }


def write_subjects(
    workdir: str | os.PathLike[str], known: Mapping[str, Subject]
) -> None:
    """Writes what is known of the variants of a study.

    Args:
        workdir: The study's folder.
        known: It, by name.
    """
    write_json(
        _subjects(workdir), {name: each._asdict() for name, each in known.items()}
    )
