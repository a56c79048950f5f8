"""From sources of images, through an extractor, to statistics and their distance."""

from __future__ import annotations

import dataclasses
import datetime
import importlib.metadata
import logging
import os
from typing import Any

import numpy as np

from fid.extractors import Extractor
from fid.files import InputError
from fid.frechet import frechet_distance
from fid.images import GeneratorSource, Source, is_statistics, open_images
from fid.statistics import Moments, Statistics, protocol_differences

__all__ = [
    "Comparison",
    "check_extractor",
    "compare",
    "compute",
    "compute_statistics",
    "metric_name",
    "open_set",
]

_log = logging.getLogger(__name__)

# Below this the estimate's upward bias is plain (README of the original code).
_FEW = 10_000


@dataclasses.dataclass(frozen=True)
class Comparison:
    """The distance between two sets, and what it rests on.

    Attributes:
        metric: `fid` for the 2015 graph, `frechet_<extractor>` otherwise, or `frechet`
            where the files do not say.
        value: The distance.
        first: Statistics of one set.
        second: Statistics of the other.
        warnings: What a reader of the number should know, a sentence each.
    """

    metric: str
    value: float
    first: Statistics
    second: Statistics
    warnings: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """Returns the value and the protocol, JSON-able."""
        return {
            self.metric: self.value,
            "sets": [
                {"label": s.label, "n": s.n, "provenance": s.provenance}
                for s in (self.first, self.second)
            ],
            "warnings": list(self.warnings),
        }


def compute_statistics(
    source: Any,
    extractor: Extractor | None = None,
    *,
    inception: str | os.PathLike[str] | None = None,
    batch_size: int = 50,
    value_range: str | None = None,
    quantize: str = "none",
    progress: bool = False,
) -> Statistics:
    """Computes mean and covariance of the features of all images of a source.

    Args:
        source: A folder, an `.npz` or `.npy` of images, an array (n, H, W, C), or an
            `images.Source`.
        extractor: Maps images to features; None means the 2015 graph.
        inception: Where that graph is; None looks where `graph.find_graph` does.
        batch_size: Images at a time. It does not change the result beyond rounding.
        value_range: What float images span; see `images.open_images`.
        quantize: How float images are rounded; see `images.quantize`.
        progress: Whether to show a progress bar on stderr, if that is a terminal.

    Returns:
        The statistics, with their provenance.

    Raises:
        InputError: The source holds no images, or an image that cannot be used.
    """
    if batch_size < 1:
        raise InputError(f"The batch size is {batch_size}; it must be at least 1.")
    source = open_images(source, value_range, quantize)
    extractor = extractor or _inception(inception, batch_size)
    moments = Moments(extractor.dimension)
    with _progress(source, progress) as bar:
        for images in source.batches(batch_size):
            moments.update(extractor(_with_channels(images, extractor.channels)))
            bar.update(len(images))
    return moments.statistics(_provenance(source, extractor))


def compare(
    first: Any,
    second: Any,
    extractor: Extractor | None = None,
    *,
    strict: bool = False,
    inception: str | os.PathLike[str] | None = None,
    batch_size: int = 50,
    value_range: str | None = None,
    quantize: str = "none",
    progress: bool = False,
) -> Comparison:
    """Computes the Fréchet distance between two sets.

    Args:
        first: A source of images as for `compute_statistics`, a `Statistics`, or the
            path of an `.npz` file of statistics.
        second: Likewise.
        extractor: Maps images to features; None means the 2015 graph.
        strict: Whether to refuse statistics whose protocols differ.
        inception: As for `compute_statistics`, and so are the following.
        batch_size: Images at a time.
        value_range: What float images span.
        quantize: How float images are rounded.
        progress: Whether to show a progress bar.

    Returns:
        The distance and what it rests on.

    Raises:
        InputError: A set cannot be used, or `strict` and the protocols differ.
    """
    # Everything is opened before anything is computed: a bad second set is found
    # before the first one is worked on for an hour.
    opened = [open_set(each, value_range, quantize) for each in (first, second)]
    if any(isinstance(each, Source) for each in opened):
        extractor = extractor or _inception(inception, batch_size)
        for each in opened:
            if isinstance(each, Statistics):
                check_extractor(each, extractor, strict)
    lossy = []
    sets = []
    for each in opened:
        if isinstance(each, Source):
            if each.lossy:
                lossy.append(
                    f"{each.lossy} of {each.count} images of {each.label} are in a "
                    "lossy format, which shifts the distance"
                )
            each = compute_statistics(
                each, extractor, batch_size=batch_size, progress=progress
            )
        sets.append(each)
    one, two = sets
    value = frechet_distance(one, two)
    differences = protocol_differences(one, two)
    if strict and differences:
        raise InputError(
            f"The two sets were not measured alike: {'; '.join(differences)}. "
            "Compute both the same way, or leave out --strict."
        )
    return Comparison(
        metric=metric_name(_extractor_name(one), _extractor_name(two)),
        value=value,
        first=one,
        second=two,
        # Without repetitions, where a set is compared with itself.
        warnings=tuple(
            dict.fromkeys(
                [
                    *(f"not measured alike: {text}" for text in differences),
                    *lossy,
                    *_small(one),
                    *_small(two),
                ]
            )
        ),
    )


def compute(
    *,
    generator: Any,
    reference: Any,
    num_samples: int = 50_000,
    extractor: Extractor | None = None,
    seed: int = 0,
    quantize: str = "none",
    batch_size: int = 50,
) -> float:
    """Computes the Fréchet distance of a generator's images from a reference.

    Args:
        generator: A `tf_ttur.GAN`, or anything with its `generate_batches`.
        reference: Statistics, the path of an `.npz` of them, or a source of images.
        num_samples: Images to generate (the paper: 50,000).
        extractor: Maps images to features; None means the 2015 graph.
        seed: Seed of the latents.
        quantize: How generated images are rounded; see `images.quantize`.
        batch_size: Images at a time.

    Returns:
        The distance: the FID where the extractor is the 2015 graph.

    Raises:
        InputError: The reference or the generator cannot be used.
    """
    source = GeneratorSource(generator, num_samples, seed, quantize)
    comparison = compare(source, reference, extractor, batch_size=batch_size)
    for warning in comparison.warnings:
        _log.warning("%s", warning)
    return comparison.value


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


def metric_name(*extractors: str | None) -> str:
    """Returns `fid` if all features come from the 2015 graph, else what to call it.

    Args:
        *extractors: Names of the extractors; None where one is not known.

    Returns:
        `fid`, `frechet_<extractor>`, or `frechet` where they differ or are not known.
    """
    names = set(extractors)
    if names == {"inception_2015"}:
        return "fid"
    name = names.pop()
    return f"frechet_{name}" if name and not names else "frechet"


def open_set(
    source: Any, value_range: str | None = None, quantize: str = "none"
) -> Statistics | Source:
    """Decides whether a set is given by its statistics or by its images.

    Args:
        source: A `Statistics`, the path of an `.npz` file of them, or a source of
            images as for `compute_statistics`.
        value_range: What float images span; see `images.open_images`.
        quantize: How float images are rounded; see `images.quantize`.

    Returns:
        The statistics, or the images, opened.

    Raises:
        InputError: The file or the source cannot be used.
    """
    if isinstance(source, Statistics):
        return source
    if is_statistics(source):
        return Statistics.load(source)
    return open_images(source, value_range, quantize)


def _extractor_name(statistics: Statistics) -> str | None:
    if statistics.provenance is None:
        # What such files have always been, if the dimension fits.
        return "inception_2015" if statistics.dimension == 2048 else None
    return statistics.provenance.get("extractor")


def _with_channels(images: Any, channels: int) -> Any:
    # Grey images in arrays keep their one channel until it is known who looks at them.
    # Those in folders are RGB from the start, as in the original.
    if channels == 3 and images[0].shape[-1] == 1:
        return np.repeat(images, 3, axis=-1)
    return images


def _inception(path: str | os.PathLike[str] | None, batch_size: int) -> Extractor:
    # Imported late: comparing statistics files needs no TensorFlow.
    from fid.inception import Inception

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


def _provenance(source: Source, extractor: Extractor) -> dict[str, Any]:
    return {
        **source.provenance,
        "extractor": extractor.name,
        "extractor_sha256": extractor.fingerprint,
        **extractor.protocol,
        "versions": {
            name: importlib.metadata.version(name)
            for name in ("tensorflow", "keras", "numpy", "Pillow")
        },
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


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
