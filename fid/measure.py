"""From sources of images, through an extractor, to statistics and the metrics.

    source -> extractor -> Moments                -> Fréchet distance
                        -> features, where asked  -> kernel distance (KID)
                        -> logits, where asked    -> Inception Score

One pass over the images serves all metrics.
"""

from __future__ import annotations

import dataclasses
import datetime
import logging
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fid.files import InputError
from fid.metrics.frechet import frechet_distance
from fid.metrics.inception_score import InceptionScore, inception_score
from fid.metrics.kernel import KernelDistance, check_options, kernel_distance
from fid.sources.images import GeneratorSource, Source, is_statistics, open_images
from fid.sources.pixels import with_channels
from fid.statistics import Moments, Statistics, protocol_differences
from fid.versions import versions

if TYPE_CHECKING:
    from fid.extractors.extractor import Extractor

__all__ = [
    "METRICS",
    "Comparison",
    "Measured",
    "Spread",
    "check_extractor",
    "compare",
    "compute",
    "compute_statistics",
    "measure",
    "metric_name",
    "open_set",
    "provenance",
]

_log = logging.getLogger(__name__)

# Names of the metrics: on the 2015 graph, and on any other extractor.
METRICS = {"fid": "frechet", "kid": "kernel", "is": "score"}
# Below this the estimate's upward bias is plain (README of the original code).
_FEW = 10_000


@dataclasses.dataclass(frozen=True)
class Measured:
    """What one pass over a set of images found.

    Attributes:
        statistics: Mean and covariance of the features.
        features: The features, float32 (n, d) in the source's order, if kept.
        logits: Logits, float32 (n, classes) in the source's order, if kept.
        warnings: What a reader of a number should know of the images, a sentence each.
    """

    statistics: Statistics
    features: np.ndarray | None = None
    logits: np.ndarray | None = None
    warnings: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Comparison:
    """The metrics of two sets, and what they rest on.

    Attributes:
        value: The Fréchet distance; None if it was not asked for.
        kernel: The kernel distance (KID), if asked for.
        score: The Inception Score of the first set, if asked for.
        first: Statistics of the first set.
        second: Statistics of the second set.
        warnings: What a reader of the numbers should know, a sentence each.
    """

    value: float | None
    first: Statistics
    second: Statistics
    warnings: tuple[str, ...]
    kernel: KernelDistance | None = None
    score: InceptionScore | None = None

    @property
    def metric(self) -> str:
        """What the Fréchet distance is called here."""
        return self.name("fid")

    def name(self, metric: str) -> str:
        """Says what a metric is called on the extractor of these two sets.

        Args:
            metric: `fid`, `kid` or `is`.

        Returns:
            For `fid`: `fid` for the 2015 graph, `frechet_<extractor>` otherwise, or
            `frechet` where the files do not say; see `metric_name`.
        """
        return metric_name(
            _extractor_name(self.first), _extractor_name(self.second), of=metric
        )

    def title(self, metric: str) -> str:
        """Returns the name of a metric as it is printed: `FID`, `frechet_pixels`."""
        name = self.name(metric)
        # In capitals only where it is what the letters stand for.
        return name.upper() if name == metric else name

    def values(self) -> dict[str, float]:
        """Returns every number by its name, such as `fid`, `kid_mean`, `is_std`."""
        found = {} if self.value is None else {self.metric: self.value}
        for metric, parts in (("kid", self.kernel), ("is", self.score)):
            for part, value in dataclasses.asdict(parts).items() if parts else ():
                if value is not None:
                    found[f"{self.name(metric)}_{part}"] = value
        return found

    def as_json(self) -> dict[str, Any]:
        """Returns the values and the protocol, JSON-able."""
        return {
            **self.values(),
            "sets": [
                {"label": s.label, "n": s.n, "provenance": s.provenance}
                for s in (self.first, self.second)
            ],
            "warnings": list(self.warnings),
        }


@dataclasses.dataclass(frozen=True)
class Spread:
    """A distance measured several times, on latents of successive seeds.

    Attributes:
        values: The distances, in the order of the seeds.
    """

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Mean of the values."""
        return float(np.mean(self.values))

    @property
    def std(self) -> float:
        """Standard deviation of the values, divisor n - 1."""
        return float(np.std(self.values, ddof=1))


def measure(
    source: Source,
    extractor: Extractor,
    *,
    batch_size: int = 50,
    features: bool = False,
    logits: bool = False,
    progress: bool = False,
) -> Measured:
    """Looks at every image of a source once.

    Args:
        source: The images.
        extractor: Maps them to features.
        batch_size: Images at a time. It does not change the result beyond rounding.
        features: Whether to keep the features: 4 d bytes an image, 8 KB for 2048.
        logits: Whether to keep the logits: 4 KB an image.
        progress: Whether to show a progress bar on stderr, if that is a terminal.

    Returns:
        The statistics, and what was to be kept.

    Raises:
        InputError: The source holds an image that cannot be used, or fewer than two.
    """
    if batch_size < 1:
        raise InputError(f"The batch size is {batch_size}; it must be at least 1.")
    if logits and not hasattr(extractor, "features_and_logits"):
        raise InputError(
            f"The extractor {extractor.name} has no logits, which an Inception Score "
            "is made of: use the 2015 graph, or leave out the metric `is`."
        )
    moments = Moments(extractor.dimension)
    kept: list[np.ndarray] = []
    kept_logits: list[np.ndarray] = []
    with _progress(source, progress) as bar:
        for images in source.batches(batch_size):
            images = with_channels(images, extractor.channels)
            if logits:
                found, found_logits = extractor.features_and_logits(images)
                kept_logits.append(found_logits)
            else:
                found = extractor(images)
            moments.update(found)
            if features:
                kept.append(np.asarray(found, np.float32))
            bar.update(len(images))
            del images  # While the next ones are read, which may be as large.
    _check_count(source.label, moments.n)
    return Measured(
        statistics=moments.statistics(provenance(source.provenance, extractor)),
        features=np.concatenate(kept) if kept else None,
        logits=np.concatenate(kept_logits) if kept_logits else None,
        warnings=(*source.warnings, *_lossy(source)),
    )


def compute_statistics(
    source: Any,
    extractor: Extractor | None = None,
    *,
    inception: str | os.PathLike[str] | None = None,
    batch_size: int = 50,
    progress: bool = False,
    **reading: Any,
) -> Statistics:
    """Computes mean and covariance of the features of all images of a source.

    Args:
        source: Anything that `images.open_images` takes: a folder, a zip archive, an
            `.npz` or `.npy` of images, an array, a data set, an iterator.
        extractor: Maps images to features; None means the 2015 graph.
        inception: Where that graph is; None looks where `download.find_graph` does.
        batch_size: Images at a time. It does not change the result beyond rounding.
        progress: Whether to show a progress bar on stderr, if that is a terminal.
        **reading: How the images are read, as for `images.open_images`:
            `value_range`, `quantize`, `recursive`, `skip_bad`.

    Returns:
        The statistics, with their provenance.

    Raises:
        InputError: The source holds no images, or an image that cannot be used.
    """
    source = open_images(source, **reading)
    extractor = extractor or _inception(inception, batch_size)
    measured = measure(source, extractor, batch_size=batch_size, progress=progress)
    for warning in measured.warnings:
        _log.warning("%s", warning)
    return measured.statistics


def compare(
    first: Any,
    second: Any,
    extractor: Extractor | None = None,
    *,
    metrics: str | Sequence[str] = ("fid",),
    strict: bool = False,
    inception: str | os.PathLike[str] | None = None,
    batch_size: int = 50,
    method: str = "eigen",
    kid_subsets: int = 100,
    kid_subset_size: int = 1000,
    is_splits: int = 10,
    seed: int = 0,
    progress: bool = False,
    **reading: Any,
) -> Comparison:
    """Computes the Fréchet distance between two sets, and other metrics of them.

    Args:
        first: A source of images as for `compute_statistics`, a `Statistics`, or the
            path of an `.npz` file of statistics.
        second: Likewise.
        extractor: Maps images to features; None means the 2015 graph.
        metrics: Which of `fid`, `kid` and `is`, one or several. `kid` needs the
            features of both sets, so images, or statistics of no more images than
            features. `is` is the score of the first set, which must be images.
        strict: Whether to refuse statistics whose protocols differ.
        inception: As for `compute_statistics`.
        batch_size: Images at a time.
        method: How the Fréchet distance is computed; see `frechet.frechet_distance`.
        kid_subsets: Subsets that KID's mean and deviation are taken over; 0 for the
            full estimate alone.
        kid_subset_size: Images of each set in a subset.
        is_splits: Consecutive parts that the score's mean and deviation are taken over.
        seed: Seed of KID's subsets.
        progress: Whether to show a progress bar.
        **reading: As for `compute_statistics`.

    Returns:
        The metrics and what they rest on.

    Raises:
        InputError: A set cannot be used, or `strict` and the protocols differ.
    """
    if isinstance(metrics, str):
        metrics = (metrics,)
    if not metrics or set(metrics) - set(METRICS):
        raise InputError(
            f"metrics is {', '.join(metrics) or 'empty'}; choose from "
            f"{', '.join(METRICS)}."
        )
    # Everything is opened before anything is computed: a bad second set is found
    # before the first one is worked on for an hour.
    sets = [open_set(each, **reading) for each in (first, second)]
    for each in sets:
        if isinstance(each, Source) and each.count is not None:
            _check_count(each.label, each.count)
    if "is" in metrics:
        _check_score(sets[0], is_splits)
    if "kid" in metrics:
        check_options(kid_subsets, kid_subset_size, seed)
        _check_kernel(sets, kid_subsets, kid_subset_size)
    if any(isinstance(each, Source) for each in sets):
        extractor = extractor or _inception(inception, batch_size)
        for each in sets:
            if isinstance(each, Statistics):
                check_extractor(each, extractor, strict)
    one, two = (
        measure(
            each,
            extractor,
            batch_size=batch_size,
            features="kid" in metrics,
            logits="is" in metrics and each is sets[0],
            progress=progress,
        )
        if isinstance(each, Source)
        else Measured(each, features=each.rows)
        for each in sets
    )
    differences = protocol_differences(one.statistics, two.statistics)
    if strict and differences:
        raise InputError(
            f"The two sets were not measured alike: {'; '.join(differences)}. "
            "Compute both the same way, or leave out --strict."
        )
    warnings = [
        *(f"not measured alike: {text}" for text in differences),
        *one.warnings,
        *two.warnings,
    ]
    value = kernel = score = None
    if "fid" in metrics:
        value = frechet_distance(one.statistics, two.statistics, method=method)
        warnings += [*_small(one.statistics), *_small(two.statistics)]
    if "kid" in metrics:
        # Overflow is found below, with the name of the metric.
        with np.errstate(over="ignore", invalid="ignore"):
            kernel = kernel_distance(
                one.features,
                two.features,
                subsets=kid_subsets,
                subset_size=kid_subset_size,
                seed=seed,
            )
    if "is" in metrics:
        score = inception_score(one.logits, splits=is_splits)
    comparison = Comparison(
        value=value,
        first=one.statistics,
        second=two.statistics,
        # Without repetitions, where a set is compared with itself.
        warnings=tuple(dict.fromkeys(warnings)),
        kernel=kernel,
        score=score,
    )
    for name, value in comparison.values().items():
        if not np.isfinite(value):
            raise InputError(
                f"{name} of {one.statistics.label} and {two.statistics.label} is "
                f"{value}: their features are too large for a number; look at how "
                "they were made."
            )
    return comparison


def compute(
    *,
    generator: Any,
    reference: Any,
    num_samples: int = 50_000,
    latent: Any = None,
    extractor: Extractor | None = None,
    inception: str | os.PathLike[str] | None = None,
    seed: int = 0,
    repeats: int = 1,
    quantize: str = "none",
    batch_size: int = 50,
) -> float | Spread:
    """Computes the Fréchet distance of a generator's images from a reference.

    Args:
        generator: A `tf_ttur.GAN`, anything with its `generate_batches`, or a callable
            from latents to images in [-1, 1].
        reference: Statistics, the path of an `.npz` of them, or a source of images.
        num_samples: Images to generate (the paper: 50,000).
        latent: For a callable, where latents come from: a number of standard normal
            coordinates, or a callable `latent(count, seed=...)`.
        extractor: Maps images to features; None means the 2015 graph.
        inception: Where that graph is; None looks where `download.find_graph` does.
        seed: Seed of the latents.
        repeats: How often to measure, on seeds `seed`, `seed + 1`, ...
        quantize: How generated images are rounded; see `images.quantize`.
        batch_size: Images at a time.

    Returns:
        The distance: the FID where the extractor is the 2015 graph. With `repeats`
        above 1 a `Spread` of the distances.

    Raises:
        InputError: The reference or the generator cannot be used.

    Example:
        >>> import keras, numpy as np, fid
        >>> model = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Flatten()])
        >>> real = np.random.default_rng(0).integers(0, 256, (64, 8, 8, 3), "uint8")
        >>> spread = fid.compute(
        ...     generator=lambda z: np.tanh(z).reshape(-1, 8, 8, 3), latent=192,
        ...     reference=real, num_samples=64, repeats=3,
        ...     extractor=fid.KerasExtractor(model, "pixels"))
        >>> len(spread.values), 0 < spread.std < spread.mean
        (3, True)
    """
    if repeats < 1:
        raise InputError(f"repeats is {repeats}; measure at least once.")
    sources = [
        GeneratorSource(generator, num_samples, seed + i, quantize, latent=latent)
        for i in range(repeats)
    ]
    reference = open_set(reference)
    extractor = extractor or _inception(inception, batch_size)
    if isinstance(reference, Source):
        reference = compute_statistics(reference, extractor, batch_size=batch_size)
    values, warnings = [], {}
    for source in sources:
        found = compare(source, reference, extractor, batch_size=batch_size)
        values.append(found.value)
        warnings |= dict.fromkeys(found.warnings)
    for warning in warnings:
        _log.warning("%s", warning)
    return Spread(tuple(values)) if repeats > 1 else values[0]


def open_set(source: Any, **reading: Any) -> Statistics | Source:
    """Opens what the user named as statistics or as a source of images.

    Args:
        source: A `Statistics`, the path of an `.npz` file of statistics, or anything
            that `images.open_images` takes.
        **reading: As for `images.open_images`.

    Returns:
        The statistics or the source.

    Raises:
        InputError: It is none of these.
    """
    if isinstance(source, Statistics):
        return source
    if is_statistics(source):
        return Statistics.load(source)
    return open_images(source, **reading)


def check_extractor(
    statistics: Statistics, extractor: Extractor, strict: bool = False
) -> None:
    """Refuses statistics that an extractor's features cannot be compared with.

    Args:
        statistics: Of some set of images.
        extractor: What other images are going to be measured with.
        strict: Whether to refuse statistics that do not say what they were measured
            with.

    Raises:
        InputError: They come from another extractor, as far as they say.
    """
    facts = statistics.provenance or {}
    name, sha256 = facts.get("extractor"), facts.get("extractor_sha256")
    found = None
    if statistics.dimension != extractor.dimension:
        found = f"have {statistics.dimension} dimensions"
    elif name not in (None, extractor.name):
        found = f"come from the extractor {name}"
    elif sha256 not in (None, extractor.fingerprint):
        found = f"come from other weights ({sha256[:12]})"
    elif strict and sha256 is None:
        found = "do not say what they were computed with"
    if found:
        raise InputError(
            f"The statistics {statistics.label} {found}; here the extractor is "
            f"{extractor.name} with {extractor.dimension} features and weights "
            f"{extractor.fingerprint[:12]}. Compute them again with that one."
        )


def metric_name(*extractors: str | None, of: str = "fid") -> str:
    """Returns `fid` if all features come from the 2015 graph, else what to call it.

    Args:
        *extractors: Names of the extractors; None where one is not known.
        of: `fid`, `kid` or `is`.

    Returns:
        `fid`, `frechet_<extractor>`, or `frechet` where they differ or are not known;
        for `kid` and `is` likewise with `kernel` and `score`.
    """
    names = set(extractors)
    if names == {"inception_2015"}:
        return of
    name = names.pop()
    return f"{METRICS[of]}_{name}" if name and not names else METRICS[of]


def _extractor_name(statistics: Statistics) -> str | None:
    if statistics.provenance is None:
        # What such files have always been, if the dimension fits.
        return "inception_2015" if statistics.dimension == 2048 else None
    return statistics.provenance.get("extractor")


def _check_count(label: str, count: int) -> None:
    if count < 2:
        images = "1 image" if count == 1 else f"{count} images"
        raise InputError(
            f"{label} has {images}; a covariance needs at least 2: add images."
        )


def _check_score(first: Statistics | Source, splits: int) -> None:
    # Found here, before the images are worked on.
    if not isinstance(first, Source):
        raise InputError(
            f"The Inception Score is one of images, and {first.label} holds "
            "statistics: give the images first, or leave out the metric `is`."
        )
    if splits < 1 or (first.count is not None and first.count < splits):
        count = "" if first.count is None else f", and {first.label} has {first.count}"
        raise InputError(
            f"The Inception Score is to be taken over {splits} parts of the images"
            f"{count}: choose --is_splits from 1 to the number of images."
        )


def _check_kernel(
    sets: Sequence[Statistics | Source], subsets: int, subset_size: int
) -> None:
    # Found here, before the images are worked on.
    for each in sets:
        if isinstance(each, Statistics) and each.rows is None:
            raise InputError(
                f"KID needs the features of both sets, and {each.label} holds "
                "statistics without them: give the images, or leave out the metric "
                "`kid`."
            )
        count = each.n if isinstance(each, Statistics) else each.count
        if subsets and count is not None and count < subset_size:
            raise InputError(
                f"KID's subsets have {subset_size} images, and {each.label} has "
                f"{count}: choose a smaller --kid_subset_size, or --kid_subsets=0 for "
                "the estimate from all images alone."
            )


def _inception(path: str | os.PathLike[str] | None, batch_size: int) -> Extractor:
    # Imported late: comparing statistics files needs no TensorFlow.
    from fid.extractors.inception import Inception

    return Inception(path, batch_size)


def _progress(source: Source, show: bool) -> Any:
    from tqdm import tqdm

    # disable=None: off where stderr is not a terminal.
    return tqdm(
        total=source.count,
        desc=os.path.basename(source.label) or source.label,
        unit="img",
        disable=None if show else True,
        leave=False,
    )


def provenance(facts: Mapping[str, Any], extractor: Extractor) -> dict[str, Any]:
    """Returns the provenance of statistics.

    Args:
        facts: What is known of the images.
        extractor: What their features come from.

    Returns:
        These, the extractor's name, weights and protocol, versions and the time.
    """
    return {
        **facts,
        "extractor": extractor.name,
        "extractor_sha256": extractor.fingerprint,
        **extractor.protocol,
        "versions": versions("tensorflow", "keras", "numpy", "Pillow"),
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def _lossy(source: Source) -> list[str]:
    if not source.lossy:
        return []
    return [
        f"{source.lossy:,} of {source.count:,} images of {source.label} are in a lossy "
        "format, which shifts the distance"
    ]


def _small(statistics: Statistics) -> list[str]:
    n, d = statistics.n, statistics.dimension
    if n is None:
        return []
    if n <= d:
        return [
            f"{statistics.label} has {n} images for {d} features: its covariance is "
            f"rank-deficient and the distance biased upwards; use {_FEW:,} or more"
        ]
    if n < _FEW and d >= 2048:
        return [
            f"{statistics.label} has {n:,} images: the distance is biased upwards; "
            f"use {_FEW:,} or more"
        ]
    return []
