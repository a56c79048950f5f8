"""From sources of images, through an extractor, to statistics and the metrics.

    source -> extractor -> moments, and features and logits where needed -> metrics

One pass over the images serves all metrics.
"""

from __future__ import annotations

import dataclasses
import datetime
import inspect
import logging
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fid.comparison import Comparison, Influences
from fid.extractors.extractor import check_interface
from fid.files import InputError
from fid.metrics import all_options, choose, needs_of, needs_of_further
from fid.metrics.influence import influences, why_none, why_too_few
from fid.metrics.metric import Measured, Metric, Option
from fid.metrics.transport import transport
from fid.sources.images import (
    GeneratorSource,
    Source,
    check_image_key,
    is_statistics,
    may_have_dicts,
    open_images,
)
from fid.sources.pixels import with_channels
from fid.statistics import Moments, Statistics, protocol_differences
from fid.values import Count, checked
from fid.versions import versions

if TYPE_CHECKING:
    from fid.extractors.extractor import Extractor

__all__ = [
    "Comparison",
    "Measured",
    "Spread",
    "check_extractor",
    "compare",
    "compute",
    "compute_statistics",
    "measure",
    "open_set",
    "provenance",
]

_log = logging.getLogger(__name__)


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
    needs: Collection[str] = (),
    progress: bool = False,
) -> Measured:
    """Looks at every image of a source once.

    Args:
        source: The images.
        extractor: Maps them to features.
        batch_size: Images at a time. It does not change the result beyond rounding.
        needs: What to keep beside the statistics: `features`, which take 4 d bytes an
            image, 8 KB for 2048; `logits`, which take 4 KB.
        progress: Whether to show a progress bar on stderr, if that is a terminal.

    Returns:
        The statistics, and what was to be kept.

    Raises:
        InputError: The source holds an image that cannot be used, or fewer than two.
    """
    batch_size = checked({"batch_size": Count}, batch_size=batch_size)["batch_size"]
    check_interface(extractor)
    if "logits" in needs and not hasattr(extractor, "features_and_logits"):
        raise InputError(
            f"The extractor {extractor.name} has no logits: use the 2015 graph, or ask "
            "for no logits."
        )
    moments = Moments(extractor.dimension)
    kept: list[np.ndarray] = []
    kept_logits: list[np.ndarray] = []
    with _progress(source, progress) as bar:
        for images in source.batches(batch_size):
            images = with_channels(images, extractor.channels)
            if "logits" in needs:
                found, found_logits = extractor.features_and_logits(images)
                kept_logits.append(found_logits)
            else:
                found = extractor(images)
            moments.update(found)
            if "features" in needs:
                kept.append(np.asarray(found, np.float32))
            bar.update(len(images))
            # They would take memory while the next ones are read, which may be large.
            del images
    _check_count(source.label, moments.n)
    return Measured(
        statistics=moments.statistics(provenance(source.provenance, extractor)),
        features=np.concatenate(kept) if kept else None,
        logits=np.concatenate(kept_logits) if kept_logits else None,
        names=source.names,
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
            `value_range`, `quantize`, `recursive`, `skip_bad`, `image_key`.

    Returns:
        The statistics, with their provenance.

    Raises:
        InputError: The source holds no images, or an image that cannot be used.
    """
    if extractor is not None:
        check_interface(extractor)
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
    standard_errors: bool = False,
    influence: int = 0,
    strict: bool = False,
    inception: str | os.PathLike[str] | None = None,
    batch_size: int = 50,
    progress: bool = False,
    train: Any = None,
    test: Any = None,
    **options: Any,
) -> Comparison:
    """Computes the Fréchet distance between two sets, and other metrics of them.

    Args:
        first: A source of images as for `compute_statistics`, a `Statistics`, or the
            path of an `.npz` file of statistics.
        second: Likewise.
        extractor: Maps images to features; None means the 2015 graph.
        metrics: Which metrics, one key or several: `fid`, `kid` and `is`, or any other
            of `fid.metrics.METRICS`. `kid` needs the features of both sets, so images,
            or statistics of no more images than features. `is` is the score of the
            first set, which must be images.
        standard_errors: Whether to say how far each number may be off. It keeps the
            features of both sets, 8 KB an image; see `Comparison.errors`.
        influence: How many images of the first set to name of those that raise the
            distance most, and of those that lower it most; see `fid.influence`.
        strict: Whether to refuse statistics whose protocols differ.
        inception: As for `compute_statistics`.
        batch_size: Images at a time.
        progress: Whether to show a progress bar.
        train: The images that the generator has learned from, for metrics that ask
            whether the first set has copies of them: anything that `first` may be.
        test: Images like these that it has not seen, likewise.
        **options: Options of the metrics, with the names, defaults and meanings of the
            flags of `compute_fid.py` (`fid.metrics.all_options`): `method`, see
            `frechet.frechet_distance`; `kid_subsets`, `kid_subset_size` and `seed`, see
            `kernel.kernel_distance`; `is_splits`, see
            `inception_score.inception_score`. And how the images are read, as for
            `compute_statistics`.

    Returns:
        The metrics and what they rest on.

    Raises:
        InputError: A set cannot be used, or `strict` and the protocols differ.
        TypeError: There is no such option.

    Example:
        >>> import numpy as np
        >>> import fid
        >>> random = np.random.default_rng(0)
        >>> first, second = random.integers(0, 256, (2, 64, 8, 8, 3), np.uint8)
        >>> pixels = fid.pixel_extractor((8, 8, 3))
        >>> found = fid.compare(
        ...     first, second, pixels, metrics=("fid", "kid"), kid_subsets=0)
        >>> list(found.values())
        ['frechet_pixels_8x8', 'kernel_pixels_8x8_full']
    """
    if extractor is not None:
        check_interface(extractor)
    of_metrics, reading = _divided(options)
    chosen = choose(metrics, of_metrics)
    Option("influence", 0, "", least=0).check(influence)
    further = {
        name: each
        for name, each in (("train", train), ("test", test))
        if each is not None
    }
    for name in further:
        if not any(name in metric.further for metric in chosen):
            raise InputError(
                f"None of the metrics {', '.join(metric.key for metric in chosen)} "
                f"takes --{name}: leave it out, or ask for a metric that does."
            )
    # Everything is opened before anything is computed: a bad second set is found
    # before the first one is worked on for an hour.
    sets = [
        open_set(each, **each_reading)
        for each, each_reading in _reading_of(
            (first, second, *further.values()), reading
        )
    ]
    further = dict(zip(further, sets[2:], strict=True))
    for each in sets:
        if isinstance(each, Source) and each.count is not None:
            _check_count(each.label, each.count)
    for metric in chosen:
        metric.check(sets[:2], **_those_of(metric, further))
    if influence and isinstance(sets[0], Statistics):
        raise InputError(
            f"The influence is one of images, and {sets[0].label} holds statistics: "
            "give the images first, or leave out --influence."
        )
    if any(isinstance(each, Source) for each in sets):
        extractor = extractor or _inception(inception, batch_size)
        for metric in chosen:
            metric.check_extractor(extractor)
        for each in sets:
            if isinstance(each, Statistics):
                check_extractor(each, extractor, strict)
        for each in sets[:2] if influence else ():
            # Statistics may have a covariance of full rank nevertheless.
            if isinstance(each, Source) and (
                why := why_too_few(each.label, each.count, extractor.dimension)
            ):
                raise InputError(f"No image has an influence: {why}.")
    of_first, of_second = needs_of(chosen, standard_errors)
    of_further = needs_of_further(chosen, further, standard_errors)
    if influence:
        of_first.add("features")
    one, two, *others = (
        measure(
            each,
            extractor,
            batch_size=batch_size,
            needs=needs,
            progress=progress,
        )
        if isinstance(each, Source)
        else Measured.of(each)
        for each, needs in zip(sets, (of_first, of_second, *of_further), strict=True)
    )
    further = dict(zip(further, others, strict=True))
    differences = [
        difference
        for each in (two, *others)
        for difference in protocol_differences(one.statistics, each.statistics)
    ]
    if strict and differences:
        raise InputError(
            f"The sets were not measured alike: {'; '.join(differences)}. "
            "Compute both the same way, or leave out --strict."
        )
    warnings = [
        *(f"not measured alike: {text}" for text in differences),
        *one.warnings,
        *two.warnings,
        *(text for each in others for text in each.warnings),
    ]
    results, errors = {}, {}
    for metric in chosen:
        beside = _those_of(metric, further)
        if standard_errors:
            found = metric.with_errors(one, two, **beside)
            results[metric.key], errors[metric.key] = found
        else:
            results[metric.key] = metric(one, two, **beside)
        warnings += metric.warnings(one, two)
    comparison = Comparison(
        results,
        one.statistics,
        two.statistics,
        # A set that is compared with itself would repeat its warnings.
        tuple(dict.fromkeys(warnings)),
        errors,
        _influences(one, two, influence) if influence else None,
        {name: each.statistics for name, each in further.items()},
    )
    numbers = comparison.values() | comparison.error_values()
    for name, value in numbers.items():
        if not np.isfinite(value):
            raise InputError(
                f"{name} of {one.statistics.label} and {two.statistics.label} is "
                f"{value}: their features are too large for a number; look at how "
                "they were made."
            )
    return comparison


def _those_of(metric: Metric, further: Mapping[str, Any]) -> dict[str, Any]:
    """Returns those of the further sets that a metric takes."""
    return {name: each for name, each in further.items() if name in metric.further}


def _influences(first: Measured, second: Measured, count: int) -> Influences:
    """Returns which images of the first set move the distance most."""
    one, two = first.statistics, second.statistics
    found = transport(one, two)
    if found is None:
        raise InputError(f"No image has an influence: {why_none(one, two)}.")
    phi = influences(first.features, one, two, found.forward)
    return Influences.of(phi, first.names, count)


def _divided(options: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns the options of metrics, and those that say how images are read."""
    known = all_options()
    of_metrics = {k: v for k, v in options.items() if k in known}
    reading = {k: v for k, v in options.items() if k not in known}
    _check_reading("compare", reading, known)
    return of_metrics, reading


def _check_reading(
    function: str, reading: Collection[str], others: Collection[str] = ()
) -> None:
    """Refuses options that `open_images` does not have."""
    _, *names = inspect.signature(open_images).parameters
    if unknown := [name for name in reading if name not in names]:
        raise TypeError(
            f"{function} has no option {unknown[0]!r}; choose from "
            f"{', '.join(dict.fromkeys([*others, *names]))}."
        )


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
    **reading: Any,
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
        **reading: How the images of the reference are read, as for
            `compute_statistics`; not how they are rounded.

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
    if extractor is not None:
        check_interface(extractor)
    # Statistics are not read so, and would let a slip pass.
    _check_reading("compute", reading)
    sources = [
        GeneratorSource(generator, num_samples, seed + i, quantize, latent=latent)
        for i in range(repeats)
    ]
    reference = open_set(reference, **reading)
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
    check_image_key(source, reading.get("image_key"))
    if isinstance(source, Statistics):
        return source
    if is_statistics(source):
        return Statistics.load(source)
    return open_images(source, **reading)


def _reading_of(
    sources: Sequence[Any], reading: dict[str, Any]
) -> Iterator[tuple[Any, dict[str, Any]]]:
    """Gives each of several sources, with how it is read.

    The key of the images is for those that may have dicts. Where none may, it is left
    to be refused.
    """
    with_dicts = [may_have_dicts(source) for source in sources]
    without = {k: v for k, v in reading.items() if k != "image_key"}
    for source, its_own in zip(sources, with_dicts, strict=True):
        yield source, reading if its_own or not any(with_dicts) else without


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


def _check_count(label: str, count: int) -> None:
    if count < 2:
        images = "1 image" if count == 1 else f"{count} images"
        raise InputError(
            f"{label} has {images}; a covariance needs at least 2: add images."
        )


def _inception(path: str | os.PathLike[str] | None, batch_size: int) -> Extractor:
    # It is imported late, since comparing statistics files needs no TensorFlow.
    from fid.extractors.inception import Inception

    return Inception(path, batch_size)


def _progress(source: Source, show: bool) -> Any:
    from tqdm import tqdm

    # With disable=None there is no bar where stderr is not a terminal.
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
