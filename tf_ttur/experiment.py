"""From a preset and a folder to a training run that can be resumed.

The only place that wires the other modules together. The run folder is:

    config.json  metrics.jsonl  log.txt  reference.npz  tensorboard/
    samples/step_00001000.png   checkpoints/   best/   curve.png   summary.json

and on text vocabulary.json and samples/step_00001000.txt in place of two of them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import hashlib
import importlib.metadata
import logging
import pathlib
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf
from tqdm import tqdm

from fid.extractors.extractor import Extractor, pixel_extractor
from fid.files import InputError, read_object, write_json
from fid.measure import compute_statistics
from fid.sources.images import Source
from fid.statistics import Statistics
from tf_ttur import callbacks, datasets, plots, termination
from tf_ttur.datasets import text as text_data
from tf_ttur.gan import GAN
from tf_ttur.latents import NormalLatent, UniformLatent
from tf_ttur.networks import began, dcgan, resnet, text
from tf_ttur.networks.classifier import digits_classifier
from tf_ttur.ngrams import NgramReference
from tf_ttur.optimizers import ttur
from tf_ttur.presets import Preset

__all__ = ["build", "run"]

_log = logging.getLogger(__name__)
# Latents of the sample grids and of the measurements: not those of training.
_GRID_SEED = 1
_DISTANCE_SEED = 2
# Temporary files of `fid.files.atomic_path` in a run folder.
_UNFINISHED = re.compile(
    r"\.(config|metrics|reference|vocabulary|step_\d+|best|curve|summary)"
    r"\.[a-z]+\.[^.]+\.[a-z]+"
)


def run(
    preset: Preset,
    workdir: str | pathlib.Path,
    data_dir: str | None = None,
    inception: str | None = None,
    download: bool = False,
) -> dict[str, Any]:
    """Trains a preset in a folder, or goes on with what is there.

    Args:
        preset: What to train.
        workdir: The run folder; made where missing.
        data_dir: Where the data set is; see `datasets.load` and `text_data.load`.
        inception: Path of the 2015 graph; see `fid.extractors.download.find_graph`.
        download: Whether TensorFlow Datasets may download what is missing.

    Returns:
        What summary.json says.

    Raises:
        InputError: The folder holds another configuration, is in use, the data or the
            graph are not to be had, or `inception` or `download` is given for text.
        callbacks.Diverged: A loss became NaN.
    """
    workdir = pathlib.Path(workdir)
    with _only_user(workdir), _logging_to(workdir / "log.txt"):
        if preset.network != "text":
            made = _prepare_images(preset, workdir, data_dir, inception, download)
        elif inception is None and not download:
            made = _prepare_text(preset, workdir, data_dir)
        else:
            given = "--download" if inception is None else "--inception"
            raise InputError(f"{given} is for images; {preset.name} is of text.")
        _log.info(
            "%s; discriminator %.3g, generator %.3g; %d steps.",
            f"{preset.name}: {made.what}",
            preset.discriminator_lr,
            preset.generator_lr,
            preset.steps,
        )
        return _train(preset, workdir, *made[1:])


class _Prepared(NamedTuple):
    """What is trained, and how it is measured."""

    what: str
    config: dict[str, Any]
    data: datasets.ImageData | text_data.TextData
    gan: GAN
    measurement: callbacks.Measurement
    samples: callbacks.Samples


def _prepare_images(
    preset: Preset,
    workdir: pathlib.Path,
    data_dir: str | None,
    inception: str | None,
    download: bool,
) -> _Prepared:
    data = datasets.load(
        preset.dataset,
        data_dir=data_dir,
        image_size=preset.image_size,
        split=preset.split,
        download=download,
    )
    gan = build(preset, data.image_shape)
    # Made once for its checks, such as that the set fills a batch.
    data.training(preset.batch_size, preset.seed)
    extractor = _extractor(preset.extractor, data, inception)
    config = dataclasses.asdict(preset) | {
        "data_dir": data_dir,
        "num_examples": data.num_examples,
        "image_shape": list(data.image_shape),
        "extractor": extractor.name,
        "extractor_sha256": extractor.fingerprint,
    }
    # Last of all: settings that cannot be trained must not claim the folder.
    _claim(workdir / "config.json", config)
    distance = callbacks.FrechetDistance(
        _reference(workdir / "reference.npz", data, extractor),
        every=min(preset.every, preset.steps),
        num_samples=preset.num_samples,
        extractor=extractor,
        seed=_DISTANCE_SEED,
        quantize=preset.quantize,
        batch_size=preset.sample_batch,
        last=preset.steps,
    )
    samples = callbacks.SampleGrid(workdir / "samples", seed=_GRID_SEED)
    what = f"{data.num_examples} images {data.image_shape} of {data.name}"
    return _Prepared(what, config, data, gan, distance, samples)


def _prepare_text(
    preset: Preset, workdir: pathlib.Path, data_dir: str | None
) -> _Prepared:
    limit = {} if preset.max_lines is None else {"max_lines": preset.max_lines}
    data = text_data.load(
        preset.dataset,
        data_dir=data_dir,
        text_files=preset.text_files,
        unit=preset.unit,
        held_out=preset.num_samples,
        **limit,
    )
    shape = (text_data.LENGTH, len(data.vocabulary))
    gan = build(preset, shape)
    data.training(preset.batch_size, preset.seed)
    divergence = callbacks.NgramJSD(
        NgramReference(data.tokens, data.held_out),
        every=min(preset.every, preset.steps),
        num_samples=preset.num_samples,
        seed=_DISTANCE_SEED,
        batch_size=preset.sample_batch,
        last=preset.steps,
    )
    config = dataclasses.asdict(preset) | {
        "data_dir": data_dir,
        "num_examples": len(data.tokens),
        "text_shape": list(shape),
        "text_sha256": data.digest,
    }
    _claim(workdir / "config.json", config)
    data.vocabulary.save(workdir / "vocabulary.json")
    samples = callbacks.TextSamples(
        workdir / "samples", data.vocabulary, seed=_GRID_SEED
    )
    what = (
        f"{len(data.tokens)} lines of {data.name}, {shape[1]} token ids; as many held-"
        f"out lines as are generated have {divergence.key} "
        f"{divergence.floors[f'{divergence.key}_floor']:.4g}"
    )
    return _Prepared(what, config, data, gan, divergence, samples)


def build(preset: Preset, shape: tuple[int, ...]) -> GAN:
    """Builds and compiles the model of a preset.

    Args:
        preset: The settings.
        shape: (H, W, C) of the images, H = W; of text, (length of a line, number of
            token ids).

    Returns:
        The compiled `GAN`.

    Raises:
        InputError: The settings do not go together, or with the images.
    """
    try:
        gan = _build(preset, shape)
    except (TypeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{preset.name} cannot be built with these settings: "
            f"{' '.join(str(error).split())}"
        ) from error
    if gan.sample_shape != tuple(shape):
        raise InputError(
            f"The generator of {preset.name} makes {gan.sample_shape}, the data are "
            f"{tuple(shape)}: leave out what generator_options says of the size."
        )
    return gan


def _build(preset: Preset, shape: tuple[int, ...]) -> GAN:
    if preset.network == "text":
        network, model = text, text.TextGAN
        sizes = (shape[1],)
    else:
        network = {"dcgan": dcgan, "resnet": resnet, "began": began}[preset.network]
        model = began.BEGAN if preset.network == "began" else GAN
        sizes = (shape[0], shape[2])
    latent = {"uniform": UniformLatent, "normal": NormalLatent}[preset.latent](
        preset.latent_dimension
    )
    shared = {"width": preset.width, "seed": preset.seed}
    gan = model(
        network.generator(
            *sizes,
            **shared,
            latent_dimension=preset.latent_dimension,
            **preset.generator_options,
        ),
        network.discriminator(*sizes, **shared, **preset.discriminator_options),
        latent,
        seed=preset.seed,
        ema_decay=preset.ema_decay,
    )

    def rate(initial: float) -> Any:
        if not preset.halve_every:
            return initial
        return keras.optimizers.schedules.ExponentialDecay(
            initial, preset.halve_every, 0.5, staircase=True
        )

    gan.compile(
        **ttur(
            discriminator=rate(preset.discriminator_lr),
            generator=rate(preset.generator_lr),
            beta_1=preset.beta_1,
            beta_2=preset.beta_2,
        ),
        loss=preset.loss,
        gradient_penalty=preset.gradient_penalty,
        discriminator_steps=preset.discriminator_steps,
        reuse_latents=preset.reuse_latents,
        jit_compile=preset.jit_compile,
    )
    return gan


def _train(
    preset: Preset,
    workdir: pathlib.Path,
    config: dict[str, Any],
    data: datasets.ImageData | text_data.TextData,
    gan: GAN,
    measurement: callbacks.Measurement,
    samples: callbacks.StepCallback,
) -> dict[str, Any]:
    """Trains a model, whatever it makes and however it is measured."""
    checkpoints = callbacks.Checkpoints(
        workdir / "checkpoints", workdir / "best", measurement.key, measurement.facts
    )
    try:
        with termination.handled():
            _fit(preset, workdir, config, data, gan, measurement, samples, checkpoints)
    except termination.Terminated:
        latest = checkpoints.latest()
        _log.warning(
            "SIGTERM ended the run at step %d. %s: start again with the same settings "
            "and --workdir to go on.",
            gan.steps,
            f"The last checkpoint is of step {latest[0]}" if latest else "Nothing lost",
        )
        raise
    return _finish(preset, workdir, measurement)


def _fit(
    preset: Preset,
    workdir: pathlib.Path,
    config: dict[str, Any],
    data: datasets.ImageData | text_data.TextData,
    gan: GAN,
    measurement: callbacks.Measurement,
    samples: callbacks.StepCallback,
    checkpoints: callbacks.Checkpoints,
) -> None:
    every = measurement.every
    _tidy(workdir)
    start = _resume(gan, checkpoints, workdir / "metrics.jsonl")
    metrics = callbacks.MetricsLog(workdir / "metrics.jsonl", measurement)
    if start is None:
        start = 0
        measurement.announce(gan)
        value = measurement.measure(gan)
        _log.info("step 0/%d  %s %.4g", preset.steps, measurement.key, value)
        metrics.write(0, {measurement.key: value, **measurement.further})
        checkpoints.save(gan, 0, value)
    shown = samples if isinstance(samples, callbacks.Samples) else None
    in_order = [
        callbacks.NaNGuard(),
        measurement,
        samples,
        metrics,
        callbacks.TensorBoardLog(workdir / "tensorboard", shown, config),
        checkpoints,
        callbacks.Progress(preset.steps, measurement.key),
        keras.callbacks.LambdaCallback(
            on_train_batch_end=lambda batch, logs: termination.check()
        ),
    ]
    # One epoch of Keras is one interval; the last one may be shorter.
    whole = preset.steps - preset.steps % every
    for first, last, interval in ((0, whole, every), (whole, preset.steps, None)):
        if start < last:
            interval = interval or last - first
            batches = data.training(
                preset.batch_size,
                preset.seed,
                start_step=start,
                discriminator_steps=preset.discriminator_steps,
            )
            try:
                gan.fit(
                    batches,
                    initial_epoch=start // every,
                    epochs=-(-last // every),
                    steps_per_epoch=interval,
                    callbacks=in_order,
                    shuffle=False,
                    verbose=0,
                )
            except tf.errors.OpError as error:
                raise InputError(
                    f"Training stopped near step {gan.steps}: "
                    f"{' '.join(error.message.split())[:2000]}. The last checkpoint is "
                    "kept: mend what is wrong and start again."
                ) from error
            start = last


def _tidy(workdir: pathlib.Path) -> None:
    """Removes what a killed process was writing: a large model's files are large."""
    for path in workdir.rglob(".*"):
        if _UNFINISHED.fullmatch(path.name):
            path.unlink()


def _resume(
    gan: GAN, checkpoints: callbacks.Checkpoints, metrics: pathlib.Path
) -> int | None:
    """Loads the newest checkpoint; returns its step, or None where there is none."""
    latest = checkpoints.latest()
    rows = callbacks.MetricsLog.read(metrics)
    if latest is None:
        # Only the row of step 0 can stand alone: its checkpoint comes right after it.
        if rows and rows[-1]["step"] > 0:
            raise InputError(
                f"{metrics} has rows up to step {rows[-1]['step']}, but "
                f"{checkpoints.folder} has no checkpoint to go on from: bring the "
                "checkpoints back, or start in another --workdir."
            )
        callbacks.MetricsLog.cut(metrics, -1)
        return None
    step, path = latest
    try:
        gan.load_weights(path)
    except Exception as error:
        raise InputError(
            f"The checkpoint {path} cannot be loaded ({error}). Delete it to go on "
            "from the one before it."
        ) from error
    # Nothing is cut before it is known that the run can go on.
    if step not in (row["step"] for row in rows):
        raise InputError(
            f"{metrics} lacks the row of step {step}, which {path} stands for: bring "
            "it back, delete that checkpoint to go on from the one before it, or start "
            "in another --workdir."
        )
    rows = callbacks.MetricsLog.cut(metrics, step)
    checkpoints.mend(rows)
    _log.info("Going on from step %d.", step)
    return step


def _finish(
    preset: Preset, workdir: pathlib.Path, measurement: callbacks.Measurement
) -> dict[str, Any]:
    key, title = measurement.key, measurement.title
    rows = callbacks.MetricsLog.read(workdir / "metrics.jsonl")
    measured = [row for row in rows if row.get(key) is not None]
    best = min(measured, key=lambda row: row[key])
    plots.training_curve(
        rows, key, workdir / "curve.png", preset.name, title, measurement.beside
    )

    def point(row: dict[str, Any]) -> dict[str, Any]:
        return {"step": row["step"], key: row[key]}

    minutes, measuring = rows[-1]["minutes"], rows[-1].get("measure_minutes", 0.0)
    share = measuring / minutes if minutes else 0.0
    _log.info(
        "%s steps in %.3g minutes, %.0f%% of them measuring; the best %s: %.4g at step "
        "%d.",
        f"{rows[-1]['step']:,}",
        minutes,
        100 * share,
        key,
        best[key],
        best["step"],
    )
    summary = {
        "preset": preset.name,
        "metric": key,
        "metric_title": title,
        **measurement.facts,
        "start": point(measured[0]),
        "best": point(best),
        "last": point(measured[-1]),
        "minutes": minutes,
        "measuring_share": round(share, 4),
        "versions": {
            name: importlib.metadata.version(name)
            for name in ("tf-ttur", "tensorflow", "keras", "numpy")
        },
    }
    write_json(workdir / "summary.json", summary)
    return summary


def _extractor(
    choice: str, data: datasets.ImageData, inception: str | None
) -> Extractor:
    if choice == "pixels":
        return pixel_extractor(data.image_shape)
    if choice == "auto" and data.name == "digits" and inception is None:
        from sklearn.datasets import load_digits

        images = np.concatenate(list(data.images()))
        classifier = digits_classifier(images, load_digits().target)
        _log.info(
            "Distances use the digits classifier (held-out accuracy %.4f, weights %s), "
            "kept in %s.",
            classifier.accuracy,
            classifier.extractor.fingerprint[:12],
            classifier.path,
        )
        return classifier.extractor
    from fid.extractors.inception import Inception

    return Inception(inception)


def _reference(
    path: pathlib.Path, data: datasets.ImageData, extractor: Extractor
) -> Statistics:
    """Computes the statistics of the real images once, and keeps them in the folder."""
    if path.exists():
        return Statistics.load(path)
    _log.info("Computing the statistics of %d real images.", data.num_examples)
    reference = compute_statistics(_RealImages(data), extractor)
    reference.save(path)
    # Read back, since the file has no rows: a resumed run must use the same formula.
    return Statistics.load(path)


class _RealImages(Source):
    """A data set as a source of images to measure."""

    def __init__(self, data: datasets.ImageData):
        self.label, self.count = data.name, data.num_examples
        self._data, self._digest = data, hashlib.sha256()

    def batches(self, size: int) -> Iterator[np.ndarray]:
        self._digest = hashlib.sha256(f"{self._data.image_shape}".encode())
        for images in self._data.images(size):
            self._digest.update(images)
            yield images

    @property
    def provenance(self) -> dict[str, Any]:
        height, width, _ = self._data.image_shape
        return {
            "source": self.label,
            "source_kind": "dataset",
            "source_sha256": self._digest.hexdigest(),
            "split": self._data.split,
            "source_resolution": f"{width}x{height}",
            "pixels": "8-bit",
        }


def _claim(path: pathlib.Path, config: dict[str, Any]) -> None:
    """Writes config.json, or makes sure that the one there says the same."""
    if not path.exists():
        write_json(path, config)
        return
    found = read_object(path)
    differences = [
        f"{key} is {found.get(key)!r} there and {config.get(key)!r} now"
        for key in sorted(found.keys() | config.keys())
        if found.get(key) != config.get(key)
    ]
    if differences:
        raise InputError(
            f"{path.parent} holds a run with another configuration: "
            f"{'; '.join(differences)}. Give its settings to go on with it, or choose "
            "another --workdir."
        )


@contextlib.contextmanager
def _only_user(workdir: pathlib.Path) -> Iterator[None]:
    """Keeps a second process out of the folder; the system frees it after a crash."""
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        lock = open(workdir / ".lock", "w")  # noqa: SIM115
    except OSError as error:
        raise InputError(
            f"Cannot use {workdir} as run folder: {error.strerror}."
        ) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise InputError(
                f"Another process is training in {workdir}; wait for it, or choose "
                "another --workdir."
            ) from error
        yield


@contextlib.contextmanager
def _logging_to(path: pathlib.Path) -> Iterator[None]:
    """Sends what the package logs to a file and, past the progress bar, to stderr."""
    logger = logging.getLogger("tf_ttur")
    before = logger.level
    logger.setLevel(logging.INFO)
    file = _LogFile(path, encoding="utf-8")
    file.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    handlers = [file, _TqdmHandler()]
    for handler in handlers:
        logger.addHandler(handler)
    try:
        yield
    finally:
        logger.setLevel(before)
        for handler in handlers:
            logger.removeHandler(handler)
            handler.close()


class _LogFile(logging.FileHandler):
    """A log on a full disk loses lines; what else cannot be written ends the run."""

    def handleError(self, record: logging.LogRecord) -> None:
        pass

    def close(self) -> None:
        with contextlib.suppress(OSError):
            super().close()


class _TqdmHandler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        import sys

        tqdm.write(self.format(record), file=sys.stderr)
