"""What tasks on images share, whatever is trained: data, features, samples."""

from __future__ import annotations

import hashlib
import logging
import pathlib
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from fid.extractors.extractor import Extractor, pixel_extractor
from fid.files import InputError, check_writable, printable
from fid.metrics.frechet import Frechet
from fid.mistaken import local_path
from fid.sources.pixels import nearly_black
from fid.sources.source import Source
from tf_ttur.presets import OfImages
from tf_ttur.runs import RunFolder
from tf_ttur.tasks.task import (
    GRID_SEED,
    MEASUREMENT_SEED,
    SampleRequest,
    Task,
    check_kind,
    open_checkpoint,
)

if TYPE_CHECKING:
    from fid.statistics import Statistics
    from tf_ttur.callbacks import FrechetDistance, SampleGrid
    from tf_ttur.datasets import ImageData
    from tf_ttur.image_players import ImagePlayers

__all__ = ["ImageTask"]

_log = logging.getLogger(__name__)
# Kinds of files that --output cannot mean as the name of a folder.
_OTHER_FILES = (
    ".bmp", ".gif", ".jpeg", ".jpg", ".npy", ".npz", ".tar", ".txt", ".webp"
)  # fmt: skip


class ImageTask(Task):
    """A task on images, measured by the Fréchet distance; see `Task`."""

    preset: OfImages
    suffix = ".png"
    value_format = "{:.2f}"

    #: The kind of its presets.
    presets: ClassVar[type[OfImages]]

    # Made once a run: making it may train a classifier or read the 2015 graph.
    _extractor: Extractor | None = None

    @staticmethod
    def model() -> type[ImagePlayers]:
        """Returns the class of the models of its runs."""
        raise NotImplementedError

    @classmethod
    def configure(
        cls, model: ImagePlayers, request: SampleRequest, folder: RunFolder
    ) -> None:
        """Sets how a model makes samples, where that can be chosen.

        Args:
            model: The run's.
            request: What is asked for.
            folder: The run folder.

        Raises:
            InputError: It asks for what the model does not have.
        """
        for name in ("sampler", "steps", "guidance"):
            if name in request.given:
                raise InputError(
                    f"--{name} is for runs of diffusion; {folder} is one of "
                    f"{cls.presets.kind}. Leave it out."
                )

    def check(self) -> None:
        """Refuses an unknown data set; see `Task.check`."""
        from tf_ttur import datasets

        datasets.check_name(self.preset.dataset)

    @property
    def num_classes(self) -> int | None:
        """The number of classes of the labels; None for training without labels."""
        return self.preset.num_classes

    def load(self) -> ImageData:
        """Loads the images; see `datasets.load`.

        Raises:
            InputError: As there, or there are more or fewer classes than the setting
                `num_classes` says.
        """
        from tf_ttur import datasets

        data = datasets.load(
            self.preset.dataset,
            data_dir=self.data_dir,
            image_size=self.preset.image_size,
            split=self.preset.split,
            download=self.download,
        )
        # A set without labels is refused where its batches are made.
        if self.num_classes and data.num_classes not in (None, self.num_classes):
            raise InputError(
                f"{data.name} has {data.num_classes} classes; num_classes is "
                f"{self.num_classes}. Give --set=num_classes={data.num_classes}."
            )
        return data

    def config(self, data: ImageData) -> dict[str, Any]:
        """Returns the settings, facts of the data set, and whose features measure."""
        extractor = self.extractor(data)
        return self.preset.settings() | {
            "data_dir": self.data_dir,
            "num_examples": data.num_examples,
            "image_shape": list(data.shape),
            "extractor_name": extractor.name,
            "extractor_sha256": extractor.fingerprint,
        }

    def extractor(self, data: ImageData) -> Extractor:
        """Returns what maps the images to features.

        Args:
            data: The images.
        """
        if self._extractor is None:
            self._extractor = self._make_extractor(data)
        return self._extractor

    def _make_extractor(self, data: ImageData) -> Extractor:
        choice = self.preset.extractor
        if choice == "pixels":
            return pixel_extractor(data.shape)
        if choice == "auto" and data.name == "digits" and self.inception is None:
            from sklearn.datasets import load_digits

            from tf_ttur.networks.classifier import digits_classifier

            images = np.concatenate(list(data.images()))
            classifier = digits_classifier(images, load_digits().target)
            _log.info(
                "Distances use the digits classifier (held-out accuracy %.4f, weights "
                "%s), kept in %s.",
                classifier.accuracy,
                classifier.extractor.fingerprint[:12],
                classifier.path,
            )
            return classifier.extractor
        from fid.extractors.inception import Inception

        return Inception(self.inception)

    def measurement(self, data: ImageData, folder: RunFolder) -> FrechetDistance:
        """Makes the callback that measures the distance from all real images."""
        from tf_ttur import callbacks

        preset, extractor = self.preset, self.extractor(data)
        return callbacks.FrechetDistance(
            _reference(folder, data, extractor),
            every=min(preset.every, preset.steps),
            num_samples=preset.num_samples,
            extractor=extractor,
            seed=MEASUREMENT_SEED,
            quantize=preset.quantize,
            batch_size=preset.sample_batch,
            last=preset.steps,
        )

    def samples(self, data: ImageData, folder: RunFolder) -> SampleGrid:
        """Makes the callback that draws a grid of images."""
        from tf_ttur import callbacks

        return callbacks.SampleGrid(folder.samples, seed=GRID_SEED)

    def describe_data(self, data: ImageData, measurement: Any) -> str:
        """Says how many images there are, how large, and of which set."""
        classes = f" in {self.num_classes} classes" if self.num_classes else ""
        return f"{data.num_examples} images {data.shape} of {data.name}{classes}"

    @staticmethod
    def metric(config: dict[str, Any]) -> str:
        """Returns `fid`, or `frechet_` and the name of another extractor."""
        return Frechet.metric_name(config["extractor_name"])

    @classmethod
    def open(cls, folder: RunFolder, checkpoint: str | int = "best") -> ImagePlayers:
        """Loads the model of a run, to sample images from; see `Task.open`."""
        check_kind(folder, cls.presets)
        path, model = open_checkpoint(folder, checkpoint)
        kind = cls.model()
        if not isinstance(model, kind) or len(model.image_shape) != 3:
            raise InputError(f"{printable(path)} holds no {kind.called} of images.")
        return model

    @classmethod
    def write_samples(cls, folder: RunFolder, request: SampleRequest) -> str:
        """Writes a grid, an interpolation, or a folder or archive of images."""
        rows, columns = _grid(request.grid)
        walk = "_interpolation" if request.interpolate else ""
        output = folder.path / f"{request.checkpoint}{walk}.png"
        if request.output:
            output = local_path(request.output, writing=True)
        kind = output.suffix.lower()
        if kind in _OTHER_FILES:
            raise InputError(
                f"--output={output}: expected a .png, a .zip or the name of a folder."
            )
        if request.num_samples is not None and (request.interpolate or kind == ".png"):
            raise InputError(
                "--num_samples is for a folder or a .zip without --interpolate; the "
                "number of images is that of --grid here."
            )
        from tf_ttur import sampling

        # Tried before long work.
        if kind in (".png", ".zip"):
            check_writable(output)
        else:
            sampling.check_folder(output, request.overwrite)
        model = cls.open(folder, request.checkpoint)
        cls.configure(model, request, folder)
        config = folder.read_config()
        classes = _classes(request, model, folder)
        labels: Any = None
        if model.num_classes and (request.interpolate or kind == ".png"):
            given = rows if "grid" in request.given else None
            if given and len(classes) > given:
                raise InputError(
                    f"--grid={request.grid} has {given} rows, and --labels names "
                    f"{len(classes)} classes; give a row for each."
                )
            labels = sampling.class_rows(model.num_classes, columns, classes, given)
            rows = len(labels) // columns
        # Pixels are rounded as they were for the run's measurements.
        rule = request.quantize or config.get("quantize", "none")
        rule = "round" if rule == "none" else rule
        batch_size = request.batch_size or config.get("sample_batch", 250)
        count = rows * columns
        if request.interpolate:
            latents = sampling.interpolation(model.latent, rows, columns, request.seed)
            latents = latents.reshape(count, -1)
            parts = [latents] if labels is None else [latents, labels]
            batches = (
                model(parts[0] if len(parts) == 1 else parts, training=False).numpy()
                for parts in (
                    [part[i : i + batch_size] for part in parts]
                    for i in range(0, count, batch_size)
                )
            )
        else:
            if kind != ".png":
                count = request.num_samples or config.get("num_samples", 10_000)
                labels = np.resize(classes, count) if classes else None
            batches = model.generate_batches(count, request.seed, batch_size, labels)
        images = _as_bytes(batches, rule, model.steps)
        if kind == ".png":
            grid = sampling.image_grid(np.concatenate([*images]), columns)
            sampling.save_png(output, grid)
        else:
            _save_many(output, images, count, request.overwrite)
        height, width, channels = model.image_shape
        return (
            f"{count:,} images of {width}x{height}x{channels} from step {model.steps} "
            f"of {folder}: {output}"
        )


def _classes(
    request: SampleRequest, model: ImagePlayers, folder: RunFolder
) -> list[int]:
    """Reads which classes are asked for; none means that nothing is said of them."""
    if request.labels is None:
        return []
    asked = f"--labels={','.join(request.labels)}"
    if not model.num_classes:
        raise InputError(f"{asked}: {folder} is a run without labels. Leave it out.")
    classes = [int(x) if x.isdecimal() else -1 for x in map(str.strip, request.labels)]
    if not classes or not all(0 <= x < model.num_classes for x in classes):
        raise InputError(
            f"{asked}: expected classes in 0..{model.num_classes - 1}, with commas "
            "between them."
        )
    return classes


def _save_many(
    output: pathlib.Path, batches: Iterable[np.ndarray], count: int, overwrite: bool
) -> None:
    """Writes a folder or an archive of images, with a progress bar."""
    from tqdm import tqdm

    from tf_ttur import sampling

    with tqdm(total=count, unit="image", disable=None) as bar:

        def counted() -> Iterator[np.ndarray]:
            for batch in batches:
                yield batch
                bar.update(len(batch))

        sampling.save_images(output, counted(), count, overwrite)


def _as_bytes(
    batches: Iterable[np.ndarray], rule: str, step: int
) -> Iterator[np.ndarray]:
    from tf_ttur import sampling

    for batch in batches:
        if not np.isfinite(batch).all():
            raise InputError(
                f"The model of step {step} makes pixels that are not finite; "
                "choose another --checkpoint."
            )
        yield sampling.to_bytes(batch, rule)


def _grid(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"([1-9]\d{0,2})x([1-9]\d{0,2})", text)
    if not found:
        raise InputError(
            f"--grid={text}: expected ROWSxCOLUMNS, such as 8x8, each in 1..999."
        )
    return int(found[1]), int(found[2])


def _reference(folder: RunFolder, data: ImageData, extractor: Extractor) -> Statistics:
    """Computes the statistics of the real images once, and keeps them in the folder."""
    from fid.measure import compute_statistics
    from fid.statistics import Statistics

    path = folder.reference
    if not path.exists():
        _log.info("Computing the statistics of %d real images.", data.num_examples)
        reference = compute_statistics(RealImages(data), extractor)
        folder.check_held()
        reference.save(path)
    # Read back, since the file may have no rows: a resumed run must use the same
    # formula.
    reference = Statistics.load(path)
    if reference.n != data.num_examples:
        raise InputError(
            f"{printable(path)} is of {reference.n} images, the run of "
            f"{data.num_examples}: bring the run's own file back, or delete it to have "
            "it made again."
        )
    return reference


class RealImages(Source):
    """A data set as a source of images to measure."""

    def __init__(self, data: ImageData):
        self.label, self.count = data.name, data.num_examples
        self._data, self._digest, self._peak = data, hashlib.sha256(), 0

    def batches(self, size: int) -> Iterator[np.ndarray]:
        self._digest = hashlib.sha256(f"{self._data.shape}".encode())
        for images in self._data.images(size):
            self._digest.update(images)
            self._peak = max(self._peak, int(images.max()))
            yield images

    @property
    def warnings(self) -> Sequence[str]:
        return nearly_black(self.label, self.count, self._peak)

    @property
    def provenance(self) -> dict[str, Any]:
        height, width, _ = self._data.shape
        return {
            "source": self.label,
            "source_kind": "dataset",
            "source_sha256": self._digest.hexdigest(),
            "split": self._data.split,
            "source_resolution": f"{width}x{height}",
            "pixels": "8-bit",
        }
