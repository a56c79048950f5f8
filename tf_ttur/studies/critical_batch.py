"""A study of batch sizes of a preset of images: its runs, each until a threshold.

Its folder is as `batch_grid` says; every run has a run folder in it,
`VARIANT/b_<batch size>/seed_<n>`, of which `runs.jsonl` is made. A *variant* is the
preset with some settings changed, such as another optimizer. TensorFlow runs in the
worker processes only.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import pathlib
import shutil
from collections.abc import Callable
from typing import IO, Any

import numpy as np

from fid.files import InputError, atomic_path, printable, turn
from fid.metrics.frechet import Frechet
from fid.mistaken import local_path
from tf_ttur.presets import ImagePreset, SettingsError, check_settings, complete
from tf_ttur.runs import RunFolder, as_line
from tf_ttur.studies import batch_grid, batch_rows
from tf_ttur.studies.batch_grid import Grid, Subject
from tf_ttur.studies.batch_rows import Row
from tf_ttur.studies.jobs import Job, RunsFailed, run_jobs
from tf_ttur.studies.machines import Machines
from tf_ttur.studies.workers import Workers

__all__ = ["SET", "Study", "collect", "load", "run_folder", "run_study"]

_FLOOR_SEED = 3
"""Seed of the real images that the floor is measured with."""
SET = (
    "batch_size", "seed", "every", "steps", "stop_at", "stop_passes", "gradient_norms"
)  # fmt: skip
"""Settings that the study sets in every run."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Study(Grid):
    """A study of a preset of images.

    Args:
        preset: Settings of every run; batch size, seed, steps and the interval between
            measurements are replaced.
        data_dir: Where the data set is; see `datasets.load`.
        inception: Path of the 2015 graph; see `fid.extractors.download.find_graph`.

    The other arguments are those of `Grid`; a variant is the preset with settings
    changed, and {} is the preset itself.

    Raises:
        InputError: A value cannot be, or a run would end before its first measurement.
    """

    preset: ImagePreset
    data_dir: str | None = None
    inception: str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.preset, ImagePreset):
            raise InputError(
                f"{self.preset.name} is of {self.preset.kind}; the study of batch "
                "sizes measures images. Choose a preset of images."
            )
        super().__post_init__()
        for variant in self.variants:
            for batch in self.batches:
                self.run_preset(variant, batch, self.first_seed)

    def run_preset(self, variant: str, batch: int, seed: int) -> ImagePreset:
        """Returns the settings of one run.

        Args:
            variant: Its name.
            batch: Batch size.
            seed: Seed.

        Raises:
            InputError: A setting cannot be.
        """
        changes = dict(self.variants[variant])
        if fixed := sorted(changes.keys() & set(SET)):
            raise InputError(
                f"The variant {variant} changes {', '.join(fixed)}, which the study "
                "sets itself; leave it out."
            )
        return dataclasses.replace(self.preset, **changes).override(
            batch_size=batch,
            seed=seed,
            every=self.interval(batch),
            steps=self.limit(batch),
            stop_at=float(self.threshold),
            stop_passes=self.passes,
            gradient_norms=True,
        )

    def settings(self) -> dict[str, Any]:
        """Returns the preset's settings, and where the data are."""
        settings = self.preset.settings()
        return {
            "settings": {k: v for k, v in settings.items() if k not in SET},
            "data_dir": self.data_dir,
        }

    def completed(self, settings: dict[str, Any]) -> dict[str, Any]:
        """Adds the defaults of settings that are newer than a file."""
        return {k: v for k, v in complete(settings).items() if k not in SET}


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


def load(workdir: str | os.PathLike[str]) -> dict[str, Any]:
    """Reads what the folder of a study of a preset was made for.

    Args:
        workdir: The folder.

    Returns:
        What critical_batch.json says.

    Raises:
        InputError: The folder holds no study, or its file cannot be.
    """
    found = batch_grid.load(workdir)
    try:
        for changes in ({}, *found["variants"].values()):
            check_settings(found["settings"] | changes)
    except SettingsError as error:
        raise batch_grid.damaged(workdir, f"{error}".rstrip(".")) from error
    return found


def run_study(
    study: Study,
    workdir: str | os.PathLike[str],
    machines: Machines = Machines(),  # noqa: B008
    say: Callable[[str], Any] = print,
    make_workers: Callable[..., Workers] | None = None,
) -> list[Row]:
    """Makes all runs of a study that are not finished; those that were cut resume.

    Before, every variant's *floor* is measured and told: the distance that real images
    have from themselves. A threshold that is not above it would never be met.

    Args:
        study: What to run. A folder that has more variants, batch sizes or seeds keeps
            them.
        workdir: The study's folder; made where missing.
        machines: Where the runs are done, how many at a time, and which of them.
        say: Called with a line at the end of every run.
        make_workers: Makes what the runs are done by; see `jobs.run_jobs`.

    Returns:
        The rows of all runs that are over, which `runs.jsonl` holds, too.

    Raises:
        InputError: The folder belongs to another study, the threshold cannot be met,
            the data set is smaller than a batch, or runs failed.
    """
    workdir = local_path(workdir, writing=True)
    with turn(workdir):
        fresh = not batch_grid.is_study(workdir)
        study = batch_grid.claim(study, workdir)
    try:
        known = _look(study, workdir, say, make_workers)
        for variant, subject in known.items():
            study.check_subject(variant, subject, study.preset.num_samples)
    except InputError:
        alone = fresh and machines.shard is None
        if alone and not any(workdir.glob("*/b_*/seed_*/config.json")):
            batch_grid.unclaim(workdir)
        raise
    jobs, runs = [], {}
    for variant, batch, seed in study.runs:
        folder = run_folder(workdir, variant, batch, seed)
        arguments = {
            "preset": study.run_preset(variant, batch, seed),
            "folder": folder,
            "reference": _reference(workdir, variant),
            "data_dir": study.data_dir,
            "inception": study.inception,
        }
        name = f"{variant}, batch size {batch}, seed {seed}"
        jobs.append(Job(name, arguments, folder.is_over))
        runs[name] = variant, batch, seed
    with _Rows(workdir) as rows:

        def done(name: str) -> None:
            try:
                rows.add(*runs[name])
            except InputError as error:
                # It may be of another shard, and must not end the runs that go on here.
                say(f"warning: {error}")

        try:
            run_jobs(
                jobs,
                train_until,
                workdir,
                machines=machines,
                say=say,
                done=done,
                make_workers=make_workers,
            )
        except RunsFailed:
            collect(workdir)
            raise
    return collect(workdir)


def _reference(workdir: pathlib.Path, variant: str) -> pathlib.Path:
    return workdir / variant / "reference.npz"


def _look(
    study: Study,
    workdir: pathlib.Path,
    say: Callable[[str], Any],
    make_workers: Callable[..., Workers] | None,
) -> dict[str, Subject]:
    """Measures what is to be known of each variant, in a worker; one shard does it."""
    with turn(workdir):
        return _looked(study, workdir, say, make_workers or Workers)


def _looked(
    study: Study,
    workdir: pathlib.Path,
    say: Callable[[str], Any],
    make_workers: Callable[..., Workers],
) -> dict[str, Subject]:
    known = batch_grid.subjects(workdir)
    if missing := [
        x
        for x in study.variants
        if x not in known or not _reference(workdir, x).exists()
    ]:
        with make_workers(1, workdir, look) as workers:
            for variant in missing:
                preset = study.run_preset(variant, min(study.batches), study.first_seed)
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
                batch_grid.write_subjects(workdir, known)
    for variant in study.variants:
        found = known[variant]
        say(
            f"{variant}: {study.preset.num_samples:,} real images have a distance of "
            f"{found.floor:.4g} from all {found.examples:,}; the runs stop at "
            f"{study.threshold:g}."
        )
    return {variant: known[variant] for variant in study.variants}


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
    from tf_ttur.tasks.of_images import RealImages

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
    from tf_ttur.tasks.of_images import RealImages

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
    with turn(workdir):
        return _collected(workdir)


def _collected(workdir: str | os.PathLike[str]) -> list[Row]:
    found = load(workdir)
    rows = [
        _row(variant, folder)
        for variant in found["variants"]
        for batch in found["batches"]
        for seed in range(found["first_seed"], found["first_seed"] + found["seeds"])
        if (folder := run_folder(workdir, variant, batch, seed)).is_over
    ]
    batch_rows.write(batch_grid.rows_path(workdir), rows)
    return rows


class _Rows:
    """`runs.jsonl` of a study whose runs are ending: each adds its row to the others.

    So a study reads each of its run folders once, and not all of them each time that a
    run ends. Only where the file is not what was left there are all read: the first
    time, where another process has written it anew, and where one that was killed has
    left half a line.
    """

    def __init__(self, workdir: pathlib.Path):
        self._workdir, self._path = workdir, batch_grid.rows_path(workdir)
        # It stays open: no other file can be mistaken for it.
        self._file: IO[bytes] | None = None
        self._read = 0
        self._there: set[tuple[str, int, int]] = set()

    def __enter__(self) -> _Rows:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def add(self, variant: str, batch: int, seed: int) -> None:
        """Adds the row of a run that is over, where it is not there already."""
        with turn(self._workdir):
            if not self._follow():
                self._write_all()
            folder = run_folder(self._workdir, variant, batch, seed)
            if (variant, batch, seed) in self._there or not folder.is_over:
                return
            row = _row(variant, folder)
            self._file.write(as_line(row.as_json()).encode())
            self._file.flush()
            os.fsync(self._file.fileno())
            self._follow()

    def _follow(self) -> bool:
        """Reads what was added since; False where the file cannot be added to."""
        try:
            there = os.stat(self._path)
        except FileNotFoundError:
            return False
        if self._file is None or there.st_size < self._read:
            return False
        if not os.path.samestat(there, os.fstat(self._file.fileno())):
            return False
        self._file.seek(self._read)
        added = self._file.read()
        try:
            rows = [json.loads(line) for line in added.splitlines()]
            keys = {(row["variant"], row["batch"], row["seed"]) for row in rows}
        except (ValueError, TypeError, KeyError):
            return False
        self._read += len(added)
        self._there |= keys
        return not added or added.endswith(b"\n")

    def _write_all(self) -> None:
        rows = _collected(self._workdir)
        if self._file is not None:
            self._file.close()
        self._file = open(self._path, "a+b")  # noqa: SIM115
        self._read = os.fstat(self._file.fileno()).st_size
        self._there = {(row.variant, row.batch, row.seed) for row in rows}


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
