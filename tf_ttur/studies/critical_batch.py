"""The critical batch size of a preset: runs of many batch sizes until a distance is met.

A study's folder holds `critical_batch.json`, which says what it is made of; for every
run a run folder, `VARIANT/b_<batch size>/seed_<n>`; and `runs.jsonl`, a row a run,
which is made of the run folders. A *variant* is the preset with some settings changed,
such as another optimizer. TensorFlow runs in the worker processes only.

The interval between measurements is so many examples, not steps. So it gets shorter in
steps as batches grow, N lies in an interval of the same width in examples, and
measuring takes an equal share of every run.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import pathlib
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, NamedTuple

import numpy as np

from fid.files import (
    InputError,
    atomic_path,
    check_same,
    printable,
    read_json,
    write_json,
)
from fid.metrics.frechet import Frechet
from fid.mistaken import local_path
from fid.values import Between, Count, fault
from tf_ttur.presets import ImagePreset, SettingsError, check_settings
from tf_ttur.runs import RunFolder
from tf_ttur.studies import batch_rows
from tf_ttur.studies.batch_rows import Row
from tf_ttur.studies.jobs import Job, RunsFailed, run_jobs
from tf_ttur.studies.workers import Workers

__all__ = ["Study", "Subject", "collect", "load", "run_folder", "run_study", "subjects"]

_MANIFEST = "critical_batch.json"
_ROWS = "runs.jsonl"
_SUBJECTS = "subjects.json"
_FLOOR_SEED = 3
"""Seed of the real images that the floor is measured with."""
_SEEDS = Annotated[int, Between(1, 10_000)]
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.=+-]{0,99}")
_BRING_BACK = "Bring the study's own file back, or choose another --workdir."
# Settings that the study sets in every run.
_SET = ("batch_size", "seed", "every", "steps", "stop_at", "stop_passes")
_WHAT = {
    "settings": Mapping[str, Any],
    "variants": Mapping[str, Any],
    "batches": list[Count],
    "seeds": _SEEDS,
    "threshold": float,
    "passes": Count,
    "every_examples": Count,
    "max_steps": Count | None,
    "max_examples": Count | None,
}


class Subject(NamedTuple):
    """What is known of a variant before its runs.

    Attributes:
        floor: The distance of as many real images as are generated in a measurement.
        examples: |S|, the size of the data set.
        discriminator: Number of the discriminator's trainable weights.
        generator: Number of the generator's.
    """

    floor: float
    examples: int
    discriminator: int
    generator: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Study:
    """What a study is made of.

    Args:
        preset: Settings of every run; batch size, seed, steps and the interval between
            measurements are replaced.
        variants: Settings that are changed, by the variant's name; an empty dict of
            changes for the preset as it is.
        batches: Batch sizes.
        seeds: Runs of each variant and batch size: 0, 1, ...
        threshold: The distance at which a run stops.
        passes: Measurements in a row that have to meet it.
        every_examples: Examples between measurements, a whole number of steps.
        max_steps: A run is given up after so many steps,
        max_examples: or so many examples, whichever comes first.
        data_dir: Where the data set is; see `datasets.load`.
        inception: Path of the 2015 graph; see `fid.extractors.download.find_graph`.

    Raises:
        InputError: A value cannot be, or a run would end before its first measurement.
    """

    preset: ImagePreset
    variants: Mapping[str, Mapping[str, Any]]
    batches: Sequence[int]
    seeds: int
    threshold: float
    passes: int = 1
    every_examples: int
    max_steps: int | None = None
    max_examples: int | None = None
    data_dir: str | None = None
    inception: str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.preset, ImagePreset):
            raise InputError(
                f"{self.preset.name} is of {self.preset.kind}; the study of batch "
                "sizes measures images. Choose a preset of images."
            )
        for name in _WHAT.keys() - {"settings"}:
            value = getattr(self, name)
            value = list(value) if name == "batches" else value
            if wrong := fault(name, value, _WHAT[name]):
                raise InputError(f"{wrong}.")
        if len(set(self.batches)) < len(self.batches):
            raise InputError("A batch size is given twice; leave one out.")
        if len(self.batches) < 2:
            raise InputError(
                f"{len(self.batches)} batch sizes were given; the steps as a function "
                "of the batch size need at least two. Give --batches=4,8,16, ..."
            )
        if self.max_steps is None and self.max_examples is None:
            raise InputError(
                "A run that never gets there needs an end: give --max_steps, "
                "--max_examples, or both."
            )
        for name in self.variants:
            if not _NAME.fullmatch(name):
                raise InputError(
                    f"A variant is called {name!r}; use letters, digits and _.=+- only, "
                    "since it names a folder."
                )
        for variant in self.variants:
            for batch in self.batches:
                self.run_preset(variant, batch, 0)

    def interval(self, batch: int) -> int:
        """Returns D, the steps between the measurements of a batch size."""
        return max(1, round(self.every_examples / batch))

    def limit(self, batch: int) -> int:
        """Returns N_max of a batch size, in steps."""
        limits = [self.max_steps, self.max_examples and self.max_examples // batch]
        return min(x for x in limits if x is not None)

    def run_preset(self, variant: str, batch: int, seed: int) -> ImagePreset:
        """Returns the settings of one run.

        Args:
            variant: Its name.
            batch: Batch size.
            seed: Seed.

        Raises:
            InputError: A setting cannot be, or the run would be over before its first
                measurement.
        """
        every, limit = self.interval(batch), self.limit(batch)
        if limit < every:
            raise InputError(
                f"A run of batch size {batch} is given up after {limit} steps and "
                f"measured every {every}: it would never be measured. Raise --max_steps "
                "or --max_examples, or lower --every_examples."
            )
        changes = dict(self.variants[variant])
        if fixed := sorted(changes.keys() & set(_SET)):
            raise InputError(
                f"The variant {variant} changes {', '.join(fixed)}, which the study "
                "sets itself; leave it out."
            )
        return dataclasses.replace(self.preset, **changes).override(
            batch_size=batch,
            seed=seed,
            every=every,
            steps=limit,
            stop_at=float(self.threshold),
            stop_passes=self.passes,
        )

    @property
    def runs(self) -> list[tuple[str, int, int]]:
        """Variant, batch size and seed of every run; all first seeds come first."""
        return [
            (variant, batch, seed)
            for seed in range(self.seeds)
            for variant in self.variants
            for batch in self.batches
        ]


def run_folder(
    workdir: str | os.PathLike[str], variant: str, batch: int, seed: int
) -> RunFolder:
    """Returns the folder of one run of a study.

    Args:
        workdir: The study's folder.
        variant: The variant's name.
        batch: Batch size.
        seed: Seed.
    """
    return RunFolder(pathlib.Path(workdir, variant, f"b_{batch}", f"seed_{seed}"))


def claim(study: Study, workdir: pathlib.Path) -> Study:
    """Writes critical_batch.json, or adds to the one there.

    Args:
        study: What is going to be run.
        workdir: The study's folder.

    Returns:
        The study with the batch sizes, variants and seeds that were there before.

    Raises:
        InputError: The folder holds a run, or a study of other settings.
    """
    path = workdir / _MANIFEST
    if path.exists():
        there = load(workdir)
        mine = _described(study)
        theirs = there | {"data_dir": study.data_dir}
        grow = ("variants", "batches", "seeds")
        both = study.variants.keys() & there["variants"].keys()
        check_same(
            {k: v for k, v in theirs.items() if k not in grow}
            | {f"variant {k}": there["variants"][k] for k in both},
            {k: v for k, v in mine.items() if k not in grow}
            | {f"variant {k}": mine["variants"][k] for k in both},
            f"{printable(workdir)} holds a study of other settings",
            "Give its settings to go on with it, or choose another --workdir.",
        )
        study = dataclasses.replace(
            study,
            variants={**there["variants"], **study.variants},
            batches=sorted({*there["batches"], *study.batches}),
            seeds=max(there["seeds"], study.seeds),
        )
    elif RunFolder(workdir).config.exists():
        raise InputError(
            f"{printable(workdir)} holds a run, not a study of batch sizes; choose "
            "another --workdir."
        )
    write_json(path, _described(study))
    return study


def _described(study: Study) -> dict[str, Any]:
    settings = study.preset.settings()
    return {
        "settings": {k: v for k, v in settings.items() if k not in _SET},
        "data_dir": study.data_dir,
        "variants": {k: dict(v) for k, v in study.variants.items()},
        "batches": list(study.batches),
        "seeds": study.seeds,
        "threshold": float(study.threshold),
        "passes": study.passes,
        "every_examples": study.every_examples,
        "max_steps": study.max_steps,
        "max_examples": study.max_examples,
    }


def load(workdir: str | os.PathLike[str]) -> dict[str, Any]:
    """Reads what a study's folder was made for.

    Args:
        workdir: The folder.

    Returns:
        What critical_batch.json says.

    Raises:
        InputError: The folder holds no study, or its file cannot be.
    """
    path = pathlib.Path(workdir, _MANIFEST)
    found = read_json(path)
    wrong = fault("it", found, _WHAT)
    if not wrong:
        if missing := _WHAT.keys() - found.keys():
            wrong = f"it lacks {', '.join(sorted(missing))}"
        elif bad := [x for x in found["variants"] if not _NAME.fullmatch(x)]:
            wrong = f"a variant is called {bad[0]!r}"
        elif bad := [x for x in found["variants"].values() if not isinstance(x, dict)]:
            wrong = f"a variant is {bad[0]!r}"
    if not wrong:
        try:
            for changes in ({}, *found["variants"].values()):
                check_settings(found["settings"] | changes)
        except SettingsError as error:
            wrong = f"{error}".rstrip(".")
    if wrong:
        raise InputError(
            f"{printable(path)} does not say what a study of batch sizes is made of: "
            f"{wrong}. {_BRING_BACK}"
        )
    return found


def run_study(
    study: Study,
    workdir: str | os.PathLike[str],
    processes: int = 1,
    say: Callable[[str], Any] = print,
    make_workers: Callable[..., Workers] = Workers,
) -> list[Row]:
    """Makes all runs of a study that are not finished; those that were cut resume.

    Before, every variant's *floor* is measured and told: the distance that real images
    have from themselves. A threshold that is not above it would never be met.

    Args:
        study: What to run. A folder that has more variants, batch sizes or seeds keeps
            them.
        workdir: The study's folder; made where missing.
        processes: Runs at a time.
        say: Called with a line at the end of every run.
        make_workers: Makes what the runs are done by; see `workers.Workers`.

    Returns:
        The rows of all runs that are over, which `runs.jsonl` holds, too.

    Raises:
        InputError: The folder belongs to another study, the threshold cannot be met,
            the data set is smaller than a batch, or runs failed.
    """
    workdir = local_path(workdir, writing=True)
    fresh = not (workdir / _MANIFEST).exists()
    study = claim(study, workdir)
    try:
        known = _look(study, workdir, say, make_workers)
        for variant, subject in known.items():
            _check_subject(study, variant, subject)
    except InputError:
        if fresh and not any(workdir.glob("*/b_*/seed_*/config.json")):
            # Settings that cannot be trained must not claim the folder.
            (workdir / _MANIFEST).unlink()
        raise
    jobs = []
    for variant, batch, seed in study.runs:
        folder = run_folder(workdir, variant, batch, seed)
        if folder.is_over:
            continue
        arguments = {
            "preset": study.run_preset(variant, batch, seed),
            "folder": folder,
            "reference": _reference(workdir, variant),
            "data_dir": study.data_dir,
            "inception": study.inception,
        }
        jobs.append(Job(f"{variant}, batch size {batch}, seed {seed}", arguments))

    def told(line: str) -> None:
        collect(workdir)
        say(line)

    try:
        run_jobs(
            jobs,
            train_until,
            workdir,
            total=len(study.runs),
            processes=processes,
            say=told,
            make_workers=make_workers,
        )
    except RunsFailed:
        collect(workdir)
        raise
    return collect(workdir)


def _reference(workdir: pathlib.Path, variant: str) -> pathlib.Path:
    return workdir / variant / "reference.npz"


def subjects(workdir: str | os.PathLike[str]) -> dict[str, Subject]:
    """Returns what is known of the variants of a study, by name.

    Args:
        workdir: The study's folder.

    Raises:
        InputError: The file that says it is damaged.
    """
    path = pathlib.Path(workdir, _SUBJECTS)
    if not path.exists():
        return {}
    found = read_json(path)
    kinds = {"floor": float, **dict.fromkeys(Subject._fields[1:], Count)}
    wrong = None if isinstance(found, dict) else "it is no object"
    for name, each in found.items() if not wrong else ():
        wrong = wrong or fault(name, each, kinds)
        if not wrong and (missing := kinds.keys() - each.keys()):
            wrong = f"{name} lacks {', '.join(sorted(missing))}"
    if wrong:
        raise InputError(
            f"{printable(path)} is damaged: {wrong}. Delete it to have it made again."
        )
    return {
        name: Subject(**{key: each[key] for key in Subject._fields})
        for name, each in found.items()
    }


def _look(
    study: Study,
    workdir: pathlib.Path,
    say: Callable[[str], Any],
    make_workers: Callable[..., Workers],
) -> dict[str, Subject]:
    """Measures what is to be known of each variant, in a worker."""
    known = subjects(workdir)
    if missing := [
        x
        for x in study.variants
        if x not in known or not _reference(workdir, x).exists()
    ]:
        with make_workers(1, workdir, look) as workers:
            for variant in missing:
                preset = study.run_preset(variant, min(study.batches), 0)
                workers.start(
                    variant,
                    preset=preset,
                    reference=_reference(workdir, variant),
                    data_dir=study.data_dir,
                    inception=study.inception,
                )
                for _, outcome in workers.wait():
                    if "error" in outcome:
                        raise InputError(f"{variant}: {outcome['error']}")
                    known[variant] = Subject(**outcome["subject"])
                write_json(
                    workdir / _SUBJECTS, {k: v._asdict() for k, v in known.items()}
                )
    for variant in study.variants:
        found = known[variant]
        say(
            f"{variant}: real images have a distance of {found.floor:.4g} from "
            f"themselves ({study.preset.num_samples:,} of {found.examples:,}); the runs "
            f"stop at {study.threshold:g}."
        )
    return {variant: known[variant] for variant in study.variants}


def _check_subject(study: Study, variant: str, subject: Subject) -> None:
    if study.threshold <= subject.floor:
        raise InputError(
            f"{variant}: the threshold {study.threshold:g} is not above "
            f"{subject.floor:.4g}, the distance that {study.preset.num_samples:,} real "
            "images have from all of them. No generator can be expected to meet it: "
            "raise --threshold, or measure more images (--num_samples)."
        )
    largest = max(study.batches)
    if largest > subject.examples:
        raise InputError(
            f"{variant}: a batch of {largest} is larger than the data set, which has "
            f"{subject.examples:,} images; leave that batch size out."
        )


def look(
    preset: ImagePreset, reference: pathlib.Path, **sources: Any
) -> dict[str, Any]:
    """Measures what is to be known of a variant before its runs.

    Args:
        preset: Its settings.
        reference: Where the statistics of the real images go, for all of its runs.
        **sources: As for `experiment.run`: `data_dir`, `inception`.

    Returns:
        `subject`: the fields of `Subject`.
    """
    from fid.measure import compute_statistics
    from fid.metrics.frechet import frechet_distance
    from tf_ttur import tasks
    from tf_ttur.tasks.images import RealImages

    task = tasks.of(preset, **sources)
    task.check()
    data = task.load()
    gan = task.build(data.shape)
    extractor = task.extractor(data)
    real = compute_statistics(RealImages(data), extractor)
    drawn = compute_statistics(_drawn(data, preset.num_samples), extractor)
    reference.parent.mkdir(parents=True, exist_ok=True)
    real.save(reference)
    subject = Subject(
        floor=frechet_distance(drawn, real),
        examples=data.num_examples,
        **{
            name: sum(int(np.prod(x.shape)) for x in network.trainable_variables)
            for name, network in (
                ("discriminator", gan.discriminator),
                ("generator", gan.generator),
            )
        },
    )
    return {"text": "looked at", "subject": subject._asdict()}


def _drawn(data: Any, count: int) -> Any:
    """Returns a source of real images drawn with replacement, as a generator draws."""
    from tf_ttur.tasks.images import RealImages

    share = np.full(data.num_examples, 1 / data.num_examples)
    times = np.random.default_rng(_FLOOR_SEED).multinomial(count, share)

    class Drawn(RealImages):
        def batches(self, size: int) -> Any:
            at = 0
            for images in super().batches(size):
                repeated = np.repeat(images, times[at : at + len(images)], axis=0)
                at += len(images)
                for start in range(0, len(repeated), size):
                    yield repeated[start : start + size]

    drawn = Drawn(data)
    drawn.label, drawn.count = f"{count} images drawn from {data.name}", count
    return drawn


def train_until(
    preset: ImagePreset, folder: RunFolder, reference: pathlib.Path, **sources: Any
) -> dict[str, Any]:
    """Trains one run until its threshold is met, it is given up, or it diverges.

    Args:
        preset: Its settings.
        folder: Its folder.
        reference: The statistics of the real images.
        **sources: As for `experiment.run`: `data_dir`, `inception`.

    Returns:
        `text`: what came of it, a phrase.

    Raises:
        InputError: It cannot be trained.
    """
    from tf_ttur import callbacks, experiment

    if not folder.reference.exists():
        # The run's own, so that the folder can be moved and looked at by itself.
        folder.path.mkdir(parents=True, exist_ok=True)
        with atomic_path(folder.reference) as path:
            shutil.copyfile(reference, path)
    try:
        summary = experiment.run(preset, folder, **sources)
    except callbacks.Diverged as error:
        return {"text": f"diverged at step {error.step}"}
    key, last = summary["metric"], summary["last"]
    if summary["reached"] is not None:
        how = f"{key} <= {preset.stop_at:g} after {summary['reached']} steps"
    else:
        how = f"{key} {last[key]:.4g} after {last['step']} steps, given up"
    return {"text": f"{how}; {summary['minutes']:.1f} min"}


def collect(workdir: str | os.PathLike[str]) -> list[Row]:
    """Makes `runs.jsonl` of the run folders of a study.

    Args:
        workdir: The study's folder.

    Returns:
        The rows, of the runs that are over; in the file, too.

    Raises:
        InputError: The folder holds no study, or a run's files cannot be read.
    """
    found = load(workdir)
    rows = [
        _row(variant, folder)
        for variant in found["variants"]
        for batch in found["batches"]
        for seed in range(found["seeds"])
        if (folder := run_folder(workdir, variant, batch, seed)).is_over
    ]
    batch_rows.write(pathlib.Path(workdir, _ROWS), rows)
    return rows


def _row(variant: str, folder: RunFolder) -> Row:
    config = folder.read_config()
    preset, _ = folder.preset()
    key = Frechet.metric_name(config["extractor_name"])
    measured = [row for row in folder.rows() if row.get(key) is not None]
    trace = tuple((row["step"], float(row[key])) for row in measured)
    divergence = folder.read_divergence()
    if divergence is None:
        folder.read_summary()  # which is validated
    if not trace:
        raise InputError(
            f"{printable(folder.metrics)} has no {key}, though the run is over: bring "
            f"it back, or delete {printable(folder)} to have the run made again."
        )
    status, steps, previous = batch_rows.outcome(
        trace, preset.stop_at, preset.stop_passes, divergence is not None
    )
    if status == "diverged":
        steps = divergence["step"]
    gradients = tuple(
        (row["step"], row["d_gradient"], row["g_gradient"])
        for row in measured
        if None not in (row.get("d_gradient"), row.get("g_gradient"))
    )
    each = preset.batch_size * preset.discriminator_steps
    again = 0 if preset.reuse_latents else preset.batch_size
    digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode())
    return Row(
        task=preset.name,
        variant=variant,
        batch=preset.batch_size,
        seed=preset.seed,
        optimizer=preset.optimizer,
        discriminator_lr=preset.discriminator_lr,
        generator_lr=preset.generator_lr,
        beta_1=preset.beta_1,
        beta_2=preset.beta_2,
        metric=key,
        threshold=preset.stop_at,
        passes=preset.stop_passes,
        every=preset.every,
        max_steps=preset.steps,
        status=status,
        steps=steps,
        previous=previous,
        trace=trace,
        gradients=gradients,
        images={"real": steps * each, "generated": steps * (each + again)},
        minutes=measured[-1]["minutes"],
        config=digest.hexdigest()[:16],
    )
