"""The paper's study of what the Fréchet distance and the Inception Score see.

Images are disturbed in six ways, ever more strongly, and each such set is measured:

    each image, read once -> all its disturbed copies -> extractor -> one cell a copy

A cell, one disturbance at one level, keeps mean and covariance of the features, and the
sums that an Inception Score is made of. It is a statistics file in the output folder,
written whole from time to time: a study that was interrupted resumes from its cells.
What it reads back is its own: settings.json names the reference by its digest, and each
cell says of which settings, disturbance, level and images it is.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import pathlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from fid.extractors.extractor import Extractor
from fid.files import (
    InputError,
    atomic_path,
    check_same,
    hold,
    printable,
    write_json,
)
from fid.measure import (
    check_extractor,
    compute_statistics,
    open_set,
    provenance,
)
from fid.metrics.frechet import Frechet, frechet_distance
from fid.metrics.inception_score import InceptionScore, Score, ScoreSums
from fid.mistaken import local_path
from fid.sources.pixels import Seen, with_channels
from fid.sources.source import Source
from fid.statistics import Moments, Statistics, protocol_differences
from fid.studies.disturbances import (
    LEVELS,
    Disturber,
    PartSource,
    check_level,
    from_source,
)
from fid.values import Count, check_values, checked, read_checked

__all__ = [
    "INDS",
    "PAPER_NUMBERS",
    "Curve",
    "Plan",
    "Study",
    "make_plan",
    "pictures",
    "run",
]

# These are FID and Inception Score on CelebA for the paper's four levels. The authors'
# table calls the second number IND, but it is the score: added to the IND that the
# figures show, it gives one constant a panel.
PAPER_NUMBERS = {
    "noise": ((0.7, 2.248), (41.6, 2.125), (76.3, 2.256), (218.0, 2.473)),
    "blur": ((0.7, 2.248), (13.8, 2.175), (73.9, 2.032), (229.0, 2.191)),
    "rectangles": ((0.7, 2.248), (123.0, 2.276), (178.0, 2.544), (249.0, 2.387)),
    "swirl": ((0.7, 2.248), (4.8, 2.224), (15.4, 2.102), (139.0, 2.148)),
    "salt_pepper": ((0.7, 2.248), (371.0, 2.988), (383.0, 2.196), (381.0, 1.903)),
    "contamination": ((0.7, 2.248), (33.3, 7.148), (85.7, 19.55), (149.0, 46.4)),
}
_PUBLISHED_FROM = (
    "CelebA 64x64, 50,000 images against all, the 2015 graph (Heusel et al. 2017); "
    "comparable with nothing else"
)
# A score becomes a distance, IND, in three ways: that of the paper's text, that of the
# authors' notebook, and that of the constants which their figures were drawn with.
INDS = ("samples", "levels", "figure")
_FIGURE_CONSTANTS = {
    "noise": 4.0,
    "blur": 2.5,
    "rectangles": 3.0,
    "swirl": 2.5,
    "salt_pepper": 4.0,
    "contamination": 50.0,
}
# The set as it is serves as level 0 of every disturbance.
_UNDISTURBED = ("undisturbed", 0.0)
# Cells of 2048 features are 34 MB each, which is too much to write after every batch.
_SAVE_SECONDS = 600.0

# What settings.json says, but for the seed, which may be any number. The reference's
# digest is not there until it was computed, and is not a setting.
_REFERENCE_SHA256 = "reference_sha256"
_KINDS = {
    "images": str,
    "shape": list[Count],
    "first_image_sha256": str,
    "darkest": float,
    "reference": {"source": str},
    "contamination": Mapping[str, Any] | None,
    "extractor": str,
    "extractor_sha256": str,
    "num_images": Count,
    "levels": Mapping[str, Any],
    "definition": str,
    "swirl_radius": float,
    "splits": Count,
}
_BRING_BACK = "Bring the study's own file back, or choose another --output."


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is going to be measured.

    Attributes:
        levels: The levels of each disturbance, ascending.
        num_images: Images to disturb, m.
        definition: "code" or "paper"; see `disturbances.Disturber`. The code takes the
            first images of the set, the paper random ones.
        swirl_radius: As for `disturbances.Disturber`.
        seed: Of everything random.
        splits: Parts that the Inception Score is averaged over.
    """

    levels: Mapping[str, tuple[float, ...]]
    num_images: int
    definition: str = "code"
    swirl_radius: float = 25.0
    seed: int = 0
    splits: int = 10

    @property
    def cells(self) -> list[tuple[str, float]]:
        """All disturbed sets, as disturbance and level; the undisturbed one first."""
        return [
            _UNDISTURBED,
            *(
                (name, level)
                for name, levels in self.levels.items()
                for level in levels
                if level > 0
            ),
        ]


@dataclasses.dataclass(frozen=True)
class Curve:
    """What was found for one disturbance.

    Attributes:
        name: The disturbance.
        levels: Its levels, ascending.
        distances: Fréchet distances from the reference, one a level.
        scores: Inception Scores, one a level; None where the extractor has no classes.
        samples: Number of images, m.
    """

    name: str
    levels: tuple[float, ...]
    distances: tuple[float, ...]
    scores: tuple[InceptionScore, ...] | None
    samples: int

    @property
    def falls(self) -> list[tuple[float, float]]:
        """Pairs of successive levels between which the distance does not rise."""
        return [
            self.levels[i : i + 2]
            for i in range(len(self.levels) - 1)
            if self.distances[i + 1] <= self.distances[i]
        ]

    def ind(self, form: str) -> tuple[float, ...]:
        """Returns the Inception Score turned into a distance, for each level.

        Args:
            form: "samples": m - IS, as the paper's text has it; "levels": the largest
                IS of all levels - IS, as the authors' notebook; "figure": a constant
                - IS, as their figures, whose constants suit CelebA.

        Returns:
            One number a level.
        """
        top = {
            "samples": float(self.samples),
            "levels": max(score.mean for score in self.scores),
            "figure": _FIGURE_CONSTANTS[self.name],
        }[form]
        return tuple(top - score.mean for score in self.scores)

    def as_json(self) -> dict[str, Any]:
        """Returns a row a level, with the published numbers beside ours."""
        rows = []
        for i, level in enumerate(self.levels):
            row: dict[str, Any] = {"level": level, "distance": self.distances[i]}
            if self.scores:
                row["score"] = dataclasses.asdict(self.scores[i])
                row["ind"] = {form: self.ind(form)[i] for form in INDS}
            if level in LEVELS[self.name]:
                fid, score = PAPER_NUMBERS[self.name][LEVELS[self.name].index(level)]
                row["published"] = {"fid": fid, "score": score}
            rows.append(row)
        return {
            "disturbance": self.name,
            "rises": not self.falls,
            "falls_between": [list(pair) for pair in self.falls],
            "levels": rows,
        }


@dataclasses.dataclass(frozen=True)
class Study:
    """What the study found.

    Attributes:
        curves: One a disturbance.
        extractor: Name of the extractor.
        settings: What the numbers depend on.
        warnings: What a reader of the numbers should know, a sentence each.
    """

    curves: tuple[Curve, ...]
    extractor: str
    settings: dict[str, Any]
    warnings: tuple[str, ...] = ()

    @property
    def metric(self) -> str:
        """Name of the distance: `fid`, or `frechet_<extractor>`."""
        return Frechet.metric_name(self.extractor)

    @property
    def title(self) -> str:
        """Its name in figures: "FID", or "Fréchet distance (frechet_<extractor>)"."""
        return Frechet.title(self.extractor)

    def as_json(self) -> dict[str, Any]:
        """Returns everything, JSON-able."""
        return {
            "metric": self.metric,
            "score": Score.metric_name(self.extractor),
            "published_from": _PUBLISHED_FROM,
            "settings": self.settings,
            "warnings": list(self.warnings),
            "disturbances": [curve.as_json() for curve in self.curves],
        }


def make_plan(
    source: Source,
    *,
    disturbances: Sequence[str] = tuple(LEVELS),
    levels: Sequence[float] | None = None,
    num_images: int | None = None,
    definition: str = "code",
    swirl_radius: float = 25.0,
    seed: int = 0,
    splits: int = 10,
) -> Plan:
    """Decides what to measure, before anything is measured.

    Args:
        source: The images.
        disturbances: Keys of `disturbances.LEVELS`.
        levels: Of all these disturbances; None means the paper's for each.
        num_images: How many images to disturb; None means all.
        definition: As for `Plan`.
        swirl_radius: As for `Plan`.
        seed: As for `Plan`.
        splits: As for `Plan`.

    Returns:
        The plan.

    Raises:
        InputError: Something in it cannot be done.

    Example:
        >>> from fid import open_images
        >>> source = open_images(np.zeros((20, 8, 8, 1), np.uint8))
        >>> plan = make_plan(source, disturbances=["blur"], levels=[2, 0, 1])
        >>> plan.cells
        [('undisturbed', 0.0), ('blur', 1.0), ('blur', 2.0)]
    """
    if not disturbances:
        raise InputError(f"No disturbance is named; choose from {', '.join(LEVELS)}.")
    chosen = {}
    for name in dict.fromkeys(disturbances):
        wanted = LEVELS.get(name, ()) if levels is None else levels
        for level in wanted or (0.0,):
            check_level(name, level)
        if not wanted:
            raise InputError("No level is named; leave levels out for the paper's.")
        chosen[name] = tuple(sorted({float(level) for level in wanted}))
    if num_images is None and source.count is not None:
        num_images = source.count
    count = PartSource(source, num_images or 0).count
    if count < 2:
        raise InputError(
            f"One image of {source.label} is to be disturbed; a distance needs 2 or "
            "more."
        )
    if not 1 <= splits <= count:
        raise InputError(
            f"The Inception Score is to be taken over {splits} parts of {count} "
            "images; take more images or fewer parts."
        )
    return Plan(chosen, count, definition, swirl_radius, seed, splits)


def run(
    source: Source,
    extractor: Extractor,
    plan: Plan,
    output: str | os.PathLike[str],
    *,
    reference: Any = None,
    contamination: Any = None,
    batch_size: int = 50,
    progress: bool = False,
    save_seconds: float = _SAVE_SECONDS,
) -> Study:
    """Measures all cells of a plan, or what is missing of them.

    Args:
        source: The images, all of one size.
        extractor: Maps images to features; with `features_and_logits`, as
            `fid.Inception` has, there are Inception Scores, too.
        plan: What to measure.
        output: The folder of the study: settings.json, reference.npz and cells/.
        reference: What distances are measured from: statistics, a file of them, or
            images. None means all images of `source`, as the original took all of
            CelebA.
        contamination: The images that replace others; anything that
            `images.open_images` takes.
        batch_size: Images at a time. It does not change the result beyond rounding.
        progress: Whether to show a progress bar on stderr, if that is a terminal.
        save_seconds: How often the cells are written.

    Returns:
        What was found.

    Raises:
        InputError: A set cannot be used, or the folder holds a study with other
            settings.
    """
    batch_size = checked({"batch_size": Count}, batch_size=batch_size)["batch_size"]
    output = local_path(output, writing=True)
    part = _part(source, plan)
    disturber = _disturber(part, plan, contamination)
    opened = source if reference is None else open_set(reference)
    if isinstance(opened, Statistics):
        check_extractor(opened, extractor)
    settings = _settings(part, disturber, extractor, plan, opened)
    with hold(
        output,
        purpose="folder of a study",
        busy=f"Another process is measuring in {printable(output)}; wait for it, or "
        "choose another --output.",
        gone=f"{printable(output)} was removed, renamed or replaced under the study, "
        "or its .lock was; it stops, and writes nothing more there. Put the folder "
        "back and start again to resume from its cells.",
    ) as check_held:
        known = _claim(output, settings)
        study = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
        height, width, _ = disturber.shape
        facts = {"source_resolution": f"{width}x{height}", "study": study.hexdigest()}
        cells = [
            _Cell(output, name, level, extractor, plan, facts)
            for name, level in plan.cells
        ]
        statistics = opened
        if not isinstance(opened, Statistics):
            path = output / "reference.npz"
            statistics, sha256 = _reference(
                path, known, opened, extractor, batch_size, progress, check_held
            )
            if sha256 != known:
                check_held()
                write_json(
                    output / "settings.json", settings | {_REFERENCE_SHA256: sha256}
                )

        def save(cells: Sequence[_Cell]) -> None:
            for cell in cells:
                check_held()
                cell.save()

        _measure(
            part, disturber, extractor, cells, batch_size, progress, save, save_seconds
        )
        check_held()
    found = {
        (cell.name, cell.level): (
            frechet_distance(statistics, cell.statistics()),
            cell.score(),
        )
        for cell in cells
    }
    curves = []
    for name, levels in plan.levels.items():
        values = [found[(name, x) if x > 0 else _UNDISTURBED] for x in levels]
        distances, scores = zip(*values, strict=True)
        scores = None if None in scores else scores
        curves.append(Curve(name, levels, distances, scores, plan.num_images))
    warnings = tuple(
        f"not measured alike: {text}"
        for text in protocol_differences(statistics, cells[0].statistics())
        # Disturbed images are not rounded, and those of a reference mostly are, as in
        # the original: that is no reason to warn.
        if not text.startswith(("pixels ", "quantize "))
    )
    return Study(tuple(curves), extractor.name, settings, warnings)


def pictures(
    source: Source, plan: Plan, count: int = 8, *, contamination: Any = None
) -> dict[str, list[np.ndarray]]:
    """Returns the first images of the study, disturbed.

    Args:
        source: As for `run`.
        plan: As for `run`.
        count: How many images, at most.
        contamination: As for `run`.

    Returns:
        For each disturbance, for each of its levels, float32 (count, H, W, C).
    """
    part = _part(source, plan)
    disturber = _disturber(part, plan, contamination)
    first: list[np.ndarray] = []
    for batch in part.batches(count):
        first += [*batch]
        if len(first) >= count:
            break
    return {
        name: [
            np.stack(
                [disturber(name, x, level, i) for i, x in enumerate(first[:count])]
            )
            for level in levels
        ]
        for name, levels in plan.levels.items()
    }


def _part(source: Source, plan: Plan) -> PartSource:
    seed = plan.seed if plan.definition == "paper" else None
    return PartSource(source, plan.num_images, seed)


def _disturber(part: Source, plan: Plan, contamination: Any) -> Disturber:
    return from_source(
        part,
        dict(plan.levels),
        seed=plan.seed,
        definition=plan.definition,
        swirl_radius=plan.swirl_radius,
        contamination=contamination,
    )


def _settings(
    part: Source,
    disturber: Disturber,
    extractor: Extractor,
    plan: Plan,
    reference: Source | Statistics,
) -> dict[str, Any]:
    if isinstance(reference, Statistics):
        facts = {"sha256": _digest(reference.mu, reference.sigma)}
    else:
        facts = {"n": reference.count}
    others = disturber.contamination
    return {
        "images": part.label,
        "shape": list(disturber.shape),
        # One image has to do: for more the whole set would have to be read.
        "first_image_sha256": _digest(next(iter(part.batches(1)))[0]),
        "darkest": disturber.darkest,
        "reference": {"source": reference.label, **facts},
        "contamination": None
        if others is None
        else {"n": len(others), "sha256": _digest(others)},
        "extractor": extractor.name,
        "extractor_sha256": extractor.fingerprint,
        "num_images": plan.num_images,
        "levels": {name: list(levels) for name, levels in plan.levels.items()},
        "definition": plan.definition,
        "swirl_radius": disturber.swirl_radius,
        "seed": plan.seed,
        "splits": plan.splits,
    }


def _digest(*arrays: np.ndarray) -> str:
    found = hashlib.sha256()
    for array in arrays:
        found.update(f"{array.shape} {array.dtype}\n".encode())
        found.update(np.ascontiguousarray(array))
    return found.hexdigest()


def _claim(output: pathlib.Path, settings: dict[str, Any]) -> str | None:
    """Writes the settings of a new study, or makes sure that those there say the same.

    Returns:
        The digest of the reference that the study computed, where it says one.
    """
    path = output / "settings.json"
    if not path.exists():
        cells = (output / "cells").glob("*.npz")
        left = next((x for x in (output / "reference.npz", *cells) if x.exists()), None)
        if left is not None:
            raise InputError(
                f"{printable(output)} has {left.relative_to(output)}, and no "
                f"settings.json that says of which study. {_BRING_BACK}"
            )
        write_json(path, settings)
        return None
    there = read_checked(path, _KINDS, _BRING_BACK)
    check_values(there, {_REFERENCE_SHA256: str}, path, _BRING_BACK)
    known = there.pop(_REFERENCE_SHA256, None)
    check_same(
        there,
        settings,
        f"{printable(output)} holds a study with other settings",
        "Choose another --output, or delete that one.",
    )
    return known


def _reference(
    path: pathlib.Path,
    known: str | None,
    opened: Source,
    extractor: Extractor,
    batch_size: int,
    progress: bool,
    check_held: Callable[[], None],
) -> tuple[Statistics, str]:
    """Computes the reference, or reads the one that is there; returns its digest, too.

    `known` is the digest of the one that the study computed; None where it computed
    none, or an earlier version did.
    """
    if not path.exists():
        computed = compute_statistics(
            opened, extractor, batch_size=batch_size, progress=progress
        )
        check_held()
        computed.save(path)
        known = None
    # It is read back, so that a resumed study computes with the same numbers.
    statistics = Statistics.load(path)
    check_extractor(statistics, extractor)
    # The time of making stands beside the arrays, in the provenance.
    rows = [] if statistics.rows is None else [statistics.rows]
    sha256 = _digest(statistics.mu, statistics.sigma, *rows)
    if known not in (None, sha256):
        raise InputError(
            f"{printable(path)} is not the reference that this study computed. Bring "
            "that one back, or delete this one, and it is computed again."
        )
    return statistics, sha256


def _measure(
    part: Source,
    disturber: Disturber,
    extractor: Extractor,
    cells: Sequence[_Cell],
    batch_size: int,
    progress: bool,
    save: Callable[[Sequence[_Cell]], None],
    save_seconds: float,
) -> None:
    from tqdm import tqdm

    missing = [cell for cell in cells if cell.n < part.count]
    if not missing:
        # No image is read again, and all of them have to be of the same ones.
        for cell in cells:
            cell.check_images(cells[0].images_sha256, f"than {cells[0].path.name}")
        return
    saved = time.monotonic()
    seen = Seen()
    # With disable=None there is no bar where stderr is not a terminal.
    with tqdm(
        total=sum(part.count - cell.n for cell in missing),
        desc="disturbed",
        unit="img",
        disable=None if progress else True,
        leave=False,
    ) as bar:
        for batch in part.batches(batch_size):
            index = seen.count
            for image in batch:
                seen.add(image)
                for cell in cells:
                    if cell.n == seen.count:
                        sha256 = seen.facts()["source_sha256"]
                        cell.check_images(sha256, f"than those of {part.label}")
            for cell in missing:
                # Written one after the other, cells may have stopped at two places.
                new = batch[max(0, cell.n - index) :]
                if len(new):
                    cell.add(new, disturber, extractor, seen)
                    bar.update(len(new))
            if time.monotonic() - saved >= save_seconds and seen.count < part.count:
                save(missing)
                saved = time.monotonic()
    save(missing)


class _Cell:
    """One disturbance at one level: moments and score sums, in a file."""

    def __init__(
        self,
        output: pathlib.Path,
        name: str,
        level: float,
        extractor: Extractor,
        plan: Plan,
        facts: Mapping[str, Any],
    ):
        self.name, self.level = name, level
        # All digits are written: two levels must not share a file.
        text = np.format_float_positional(level, trim="-")
        self.path = output / "cells" / f"{name}_{text}.npz"
        self.moments = Moments(extractor.dimension)
        self._sums = (
            ScoreSums(plan.num_images, plan.splits)
            if hasattr(extractor, "features_and_logits")
            else None
        )
        own = {
            "source": f"{name} {level:g}",
            "pixels": "float",
            "quantize": "none",
            "disturbance": name,
            "level": level,
        }
        self._provenance = provenance({**own, **facts}, extractor)
        self._images_sha256: str | None = None
        if self.path.exists():
            self._load(extractor, plan.num_images)

    def _load(self, extractor: Extractor, count: int) -> None:
        statistics = Statistics.load(self.path)
        check_extractor(statistics, extractor)
        there = statistics.provenance or {}
        for key in ("disturbance", "level", "study"):
            # Those of an earlier version do not say of which study they are.
            if there.get(key, mine := self._provenance[key]) != mine:
                self._refuse(f"its {key} is {there[key]!r}, not {mine!r}")
        self.moments = Moments.from_statistics(statistics)
        if self.n > count:
            self._refuse(f"it is of {self.n} images, not of {count}")
        self._images_sha256 = there.get("images_sha256")
        if self._sums:
            self._sums.load(self.path, self.n)

    def _refuse(self, found: str) -> None:
        raise InputError(
            f"{printable(self.path)} is no cell of this study: {found}. Bring the "
            "study's own one back, or delete it, and it is computed again."
        )

    @property
    def n(self) -> int:
        return self.moments.n

    @property
    def images_sha256(self) -> str | None:
        """Digest of the images so far, undisturbed; None where a file does not say."""
        return self._images_sha256

    def check_images(self, sha256: str | None, than: str) -> None:
        """Makes sure that the images so far are these; what they are, for a message."""
        if None not in (sha256, self._images_sha256) and sha256 != self._images_sha256:
            self._refuse(f"it was measured on other images {than}")

    def add(
        self,
        images: Sequence[np.ndarray],
        disturber: Disturber,
        extractor: Extractor,
        seen: Seen,
    ) -> None:
        """Adds images, the last of which is the last that was seen."""
        # Level 0 of any disturbance checks the image and copies it.
        name = "noise" if self.name == _UNDISTURBED[0] else self.name
        disturbed = np.stack(
            [
                disturber(name, image, self.level, self.n + i)
                for i, image in enumerate(images)
            ]
        )
        disturbed = with_channels(disturbed, extractor.channels)
        if self._sums:
            features, logits = extractor.features_and_logits(disturbed)
            self._sums.update(self.n, logits)
        else:
            features = extractor(disturbed)
        self.moments.update(features)
        self._images_sha256 = seen.facts()["source_sha256"]

    def statistics(self) -> Statistics:
        images = {"images_sha256": self._images_sha256} if self._images_sha256 else {}
        return self.moments.statistics(self._provenance | images)

    def score(self) -> InceptionScore | None:
        return self._sums.score() if self._sums else None

    def save(self) -> None:
        if self.n < 2:  # There is no covariance yet.
            return
        with atomic_path(self.path) as temporary:
            with open(temporary, "wb") as file:
                self.statistics().write(file)
            if self._sums:
                self._sums.append_to(temporary)
