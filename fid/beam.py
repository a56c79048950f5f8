"""Statistics of very many images, with Apache Beam: on all cores, or on a cluster.

    patterns -> ReadImages -> ComputeStatistics -> WriteStatistics -> one .npz

Names of files travel between the workers, and one accumulator a bundle; images never
do. docs/scale.md says what that costs. Beam is an extra: `pip install "tf-ttur[beam]"`.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import glob
import hashlib
import io
import logging
import os
import posixpath
import random
import re
import shutil
import struct
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, BinaryIO, NamedTuple

import apache_beam as beam
import google_crc32c
import numpy as np
from apache_beam.io.filesystem import BeamIOError, CompressionTypes, FileSystem
from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import (
    PipelineOptions,
    TypeOptions,
    WorkerOptions,
)
from apache_beam.transforms.window import GlobalWindows
from apache_beam.utils.shared import Shared

from fid.extractors.extractor import Extractor, check_interface
from fid.files import InputError, check_writable, printable, user_path
from fid.measure import provenance
from fid.sources.decoding import IMAGE_SUFFIXES, MAX_FILE_BYTES, Decoded, decode
from fid.sources.imagefiles import Found, is_shown
from fid.sources.source import MAX_BATCH_BYTES
from fid.statistics import Moments, Statistics
from fid.values import Count, checked

__all__ = [
    "FEATURES",
    "ComputeStatistics",
    "Encoded",
    "ReadImages",
    "WriteStatistics",
    "run",
]

_log = logging.getLogger(__name__)

# A tf.train.Example keeps its encoded image under one of these, unless the user names
# another: TensorFlow's own programs write the first, TensorFlow Datasets the second.
FEATURES = ("image/encoded", "image")
# A message or the provenance names so many bad images.
_MAX_NAMES = 20
# Accumulators are merged in so many tasks, before one merges what they found.
_FANOUT = 32


class Encoded(NamedTuple):
    """An image as it is stored.

    Attributes:
        name: What to call it in messages.
        data: The content of a PNG, JPEG, BMP, WebP, TIFF or GIF file.
        problem: Why it could not be read, as a phrase; empty if it could.
    """

    name: str
    data: bytes
    problem: str = ""


class ReadImages(beam.PTransform):
    """Reads encoded images: files, or the records of TFRecord files.

    Image files are those with the endings of `fid.sources.decoding.IMAGE_SUFFIXES` in
    any case; others are passed over, and counted in the log; what is hidden, or in a
    hidden folder, is passed over, too. TFRecord files are those that
    have `.tfrecord` in their names; their records are `tf.train.Example`. One file of
    them is read by one worker, so there should be several for each. A pattern is listed
    by one worker, too, which holds the names that it matches.

    Args:
        patterns: Globs as Beam has them: `*` and `?` within a folder, `**` across.
        feature: The feature of a record that holds the encoded image; None means the
            first of `FEATURES` that the record has.

    Returns:
        A collection of `Encoded`.
    """

    def __init__(self, patterns: Sequence[str], feature: str | None = None):
        super().__init__()
        self._patterns, self._feature = list(patterns), feature

    def expand(self, begin: Any) -> Any:
        """Applies the transform to the beginning of a pipeline."""
        return (
            begin
            | "Patterns" >> beam.Create(self._patterns)
            | "Spread patterns" >> beam.Reshuffle()
            | "List" >> beam.FlatMap(_list_files).with_output_types(tuple[str, int])
            | "Spread files" >> beam.Reshuffle()
            | "Read" >> beam.FlatMap(_read, self._feature).with_output_types(Encoded)
        )


class ComputeStatistics(beam.PTransform):
    """Computes the statistics of a collection of `Encoded` images.

    Each worker process makes one extractor, however many threads and bundles it has.
    What a bundle found leaves it as one `Moments`; these are merged in `fanout` tasks
    and then in one. The order of merging changes the result by rounding only.

    Args:
        extractor: Makes the extractor on a worker: a picklable callable without
            arguments, such as `functools.partial(fid.Inception, path)`.
        batch_size: Images given to the extractor at a time.
        skip_bad: Whether to leave out images that cannot be used. Otherwise they are an
            error, which comes at the end and names them; a worker that has seen one
            looks at the others only to find the bad ones among them.
        facts: What the provenance says beside what is found here; its `source` is what
            messages call the set.
        fanout: Tasks that merge what the bundles found. The square root of the number
            of bundles keeps both steps of merging equally short.

    Returns:
        A collection of one `Statistics`.

    Example:
        >>> import functools, io
        >>> import apache_beam as beam, numpy as np
        >>> from PIL import Image
        >>> from fid.beam import ComputeStatistics, Encoded
        >>> class Mean:
        ...     name, dimension, channels, fingerprint = "mean", 3, 3, "none"
        ...     protocol = {"resize": "none"}
        ...     def __call__(self, images):
        ...         return np.stack([np.mean(image, (0, 1)) for image in images])
        >>> def png(level):
        ...     file = io.BytesIO()
        ...     Image.new("RGB", (2, 2), (level, 0, 0)).save(file, "PNG")
        ...     return file.getvalue()
        >>> images = [Encoded(str(level), png(level)) for level in (10, 20, 60)]
        >>> with beam.Pipeline(runner="FnApiRunner") as pipeline:
        ...     found = pipeline | beam.Create(images) | ComputeStatistics(Mean)
        ...     _ = found | beam.Map(lambda s: print(s.n, s.mu.tolist()))
        3 [30.0, 0.0, 0.0]
    """

    def __init__(
        self,
        extractor: Callable[[], Extractor],
        *,
        batch_size: int = 50,
        skip_bad: bool = False,
        facts: Mapping[str, Any] | None = None,
        fanout: int = _FANOUT,
    ):
        super().__init__()
        batch_size, fanout = checked(
            {"batch_size": Count, "fanout": Count}, batch_size=batch_size, fanout=fanout
        ).values()
        self._measure = _MeasureFn(extractor, batch_size, skip_bad, fanout)
        self._skip_bad, self._facts = skip_bad, dict(facts or {})

    def expand(self, images: Any) -> Any:
        """Applies the transform to a collection of `Encoded`."""
        facts = {
            **self._facts,
            "beam_runner": type(images.pipeline.runner).__name__,
            "beam_version": beam.__version__,
        }
        return (
            images
            | "Measure" >> beam.ParDo(self._measure).with_output_types(tuple[int, Any])
            | "Merge some" >> beam.CombinePerKey(_MergeFn())
            | "Drop the task" >> beam.Values()
            | "Merge all" >> beam.CombineGlobally(_MergeFn())
            | "Finish" >> beam.Map(_finish, facts, self._skip_bad)
        )


class WriteStatistics(beam.PTransform):
    """Writes the one `Statistics` of a collection to an `.npz` file.

    Args:
        path: Where it goes: a path, or a URL of a file system that Beam knows. It
            appears whole or not at all.

    Returns:
        A collection of the path.
    """

    def __init__(self, path: str | os.PathLike[str]):
        super().__init__()
        self._path = os.fspath(path)

    def expand(self, statistics: Any) -> Any:
        """Applies the transform to a collection of one `Statistics`."""
        return statistics | "Save" >> beam.Map(_save, self._path)


def run(
    source: str | os.PathLike[str] | Sequence[str],
    output: str | os.PathLike[str],
    *,
    extractor: Callable[[], Extractor] | None = None,
    inception: str | os.PathLike[str] | None = None,
    batch_size: int = 50,
    recursive: bool = False,
    skip_bad: bool = False,
    feature: str | None = None,
    fanout: int = _FANOUT,
    pipeline_args: Sequence[str] = (),
) -> Statistics:
    """Computes the statistics of a set of images and writes them, waiting for the end.

    Args:
        source: A folder, or one or several patterns; see `ReadImages`.
        output: The `.npz` file; see `WriteStatistics`.
        extractor: Makes the extractor; see `ComputeStatistics`. None means the 2015
            graph.
        inception: Where that graph is, here and on every worker; None looks where
            `download.find_graph` does, here.
        batch_size: Images at a time.
        recursive: Whether to enter the folders of a folder; links to folders are not
            followed.
        skip_bad: Whether to leave out images that cannot be used.
        feature: Where a record has its image; see `ReadImages`.
        fanout: See `ComputeStatistics`.
        pipeline_args: Beam's own flags. The default runner, DirectRunner, works on this
            machine: `--direct_running_mode=multi_processing --direct_num_workers=8`.

    Returns:
        The statistics, as they were written.

    Raises:
        InputError: There are no images, some cannot be used, or the file cannot be
            written.
    """
    output = os.fspath(output)
    _check_file_system(output)
    if _is_local(output):
        # A worker may be in another folder.
        output = os.path.abspath(user_path(output))
        check_writable(output)
    sources = [source] if isinstance(source, str | os.PathLike) else list(source)
    if not sources:
        raise InputError("There are no patterns; expected at least one, of images.")
    patterns = [_pattern(os.fspath(each), recursive) for each in sources]
    if extractor is None:
        extractor = _inception(inception, batch_size)
    options = _options(pipeline_args)
    facts = {
        "source": ", ".join(printable(os.fspath(each)) for each in sources),
        "source_kind": "beam",
        "source_patterns": [printable(pattern) for pattern in patterns],
    }
    pipeline = beam.Pipeline(options=options)
    _ = (
        pipeline
        | "Images" >> ReadImages(patterns, feature)
        | "Statistics"
        >> ComputeStatistics(
            extractor,
            batch_size=batch_size,
            skip_bad=skip_bad,
            facts=facts,
            fanout=fanout,
        )
        | "File" >> WriteStatistics(output)
    )
    try:
        pipeline.run().wait_until_finish()
    except Exception as error:
        # Each runner wraps what a worker raised in an error of its own.
        if text := _input_error(error):
            raise InputError(text) from error
        raise
    statistics = _load(output)
    if skipped := statistics.provenance.get("skipped"):
        _log.warning(
            "%s images of %s cannot be used and were left out: %s",
            f"{skipped:,}",
            statistics.label,
            _some(statistics.provenance["skipped_names"], skipped),
        )
    return statistics


class _Described(NamedTuple):
    """What provenance says of an extractor, which itself cannot travel."""

    name: str
    fingerprint: str
    protocol: dict[str, Any]


@dataclasses.dataclass
class _Part:
    """What was found in a part of the images; the accumulator.

    It travels pickled, on Beam's own channels between workers of one pipeline.

    Attributes:
        moments: Of the features; None before the first image.
        extractor: What they come from.
        count: Images that could be decoded.
        digest: Sum of the SHA-256 of each image, modulo 2^256. Unlike a digest of them
            in their order it is the same whichever worker has which image, and unlike
            their exclusive or it sees an image that is there twice.
        sizes: Heights and widths: two of them stand for any number.
        formats: Such as `png`.
        lossy: Images whose encoding loses information.
        treatments: What was done to how many.
        bad: The first names of bad images, in alphabetical order.
        bad_count: How many there are.
    """

    moments: Moments | None = None
    extractor: _Described | None = None
    count: int = 0
    digest: int = 0
    sizes: set[tuple[int, int]] = dataclasses.field(default_factory=set)
    formats: set[str] = dataclasses.field(default_factory=set)
    lossy: int = 0
    treatments: collections.Counter[str] = dataclasses.field(
        default_factory=collections.Counter
    )
    bad: list[str] = dataclasses.field(default_factory=list)
    bad_count: int = 0

    def add(self, image: Decoded) -> None:
        """Takes note of an image, but for its features."""
        digest = hashlib.sha256(f"{image.pixels.shape} uint8\n".encode())
        digest.update(np.ascontiguousarray(image.pixels))
        self.count += 1
        self._add_digest(int.from_bytes(digest.digest()))
        self._add_sizes({image.pixels.shape[:2]})
        self.formats.add(image.format)
        self.lossy += image.lossy
        self.treatments.update(image.treatments)

    def add_bad(self, name: str, problem: str) -> None:
        """Takes note of an image that cannot be used."""
        self.bad = sorted([*self.bad, f"{printable(name)} ({problem})"])[:_MAX_NAMES]
        self.bad_count += 1

    def merge(self, other: _Part) -> None:
        """Adds what was found in another part."""
        if self.moments is None:
            self.extractor = other.extractor
            self.moments = other.moments and Moments(other.moments.dimension)
        if other.moments is not None:
            if other.extractor != self.extractor:
                raise InputError(
                    f"The workers have different extractors, {self.extractor} and "
                    f"{other.extractor}; give all of them the same file."
                )
            self.moments.merge(other.moments)
        self.count += other.count
        self._add_digest(other.digest)
        self._add_sizes(other.sizes)
        self.formats |= other.formats
        self.lossy += other.lossy
        self.treatments += other.treatments
        self.bad = sorted([*self.bad, *other.bad])[:_MAX_NAMES]
        self.bad_count += other.bad_count

    def facts(self) -> dict[str, Any]:
        """Returns what provenance says of the images."""
        resolution = "mixed"
        if len(self.sizes) == 1:
            ((height, width),) = self.sizes
            resolution = f"{width}x{height}"
        return {
            "source_count": self.count,
            "source_formats": sorted(self.formats),
            "source_lossy": self.lossy,
            "source_treatments": dict(sorted(self.treatments.items())),
            "source_resolution": resolution,
            "source_sha256_sum": f"{self.digest:064x}",
            "pixels": "8-bit",
        }

    def _add_digest(self, digest: int) -> None:
        self.digest = (self.digest + digest) % 2**256

    def _add_sizes(self, sizes: set[tuple[int, int]]) -> None:
        if len(self.sizes) < 2:
            self.sizes = set(sorted(self.sizes | sizes)[:2])


class _Worker:
    """What the threads of one worker process share: it is made once in each."""

    def __init__(self, extractor: Extractor):
        check_interface(extractor)
        self.extractor = extractor
        self.described = _Described(
            extractor.name, extractor.fingerprint, extractor.protocol
        )
        # It is set at the first bad image that is an error: features are useless then.
        self.failed = False


class _MeasureFn(beam.DoFn):
    """From a bundle of images to one `_Part`, under the number of a merging task."""

    def __init__(
        self,
        extractor: Callable[[], Extractor],
        batch_size: int,
        skip_bad: bool,
        fanout: int,
    ):
        super().__init__()
        self._make, self._batch_size = extractor, batch_size
        self._skip_bad, self._fanout = skip_bad, fanout
        self._shared = Shared()
        self._seen = beam.metrics.Metrics.counter("fid", "images")
        self._bad = beam.metrics.Metrics.counter("fid", "bad_images")

    def setup(self) -> None:
        self._worker = self._shared.acquire(lambda: _Worker(self._make()))

    def start_bundle(self) -> None:
        self._part = _Part()
        self._waiting: list[np.ndarray] = []
        self._waiting_bytes = 0

    def process(self, element: Encoded) -> None:
        name, data, problem = element
        self._seen.inc()
        if not problem:
            try:
                image = decode(data)
            except InputError as error:
                problem = str(error)
        if problem:
            self._bad.inc()
            self._part.add_bad(name, problem)
            self._worker.failed |= not self._skip_bad
            return
        self._part.add(image)
        self._waiting.append(image.pixels)
        self._waiting_bytes += image.pixels.nbytes
        if (
            len(self._waiting) == self._batch_size
            or self._waiting_bytes > MAX_BATCH_BYTES
        ):
            self._extract()

    def finish_bundle(self) -> Iterator[Any]:
        self._extract()
        task = random.randrange(self._fanout)
        yield GlobalWindows.windowed_value((task, self._part))
        # The old one is not kept until the next bundle, which may be far off.
        self._part = _Part()

    def _extract(self) -> None:
        if self._waiting and not self._worker.failed:
            extractor = self._worker.extractor
            if self._part.moments is None:
                self._part.moments = Moments(extractor.dimension)
                self._part.extractor = self._worker.described
            self._part.moments.update(extractor(self._waiting))
        self._waiting, self._waiting_bytes = [], 0


class _MergeFn(beam.CombineFn):
    def create_accumulator(self) -> _Part:
        return _Part()

    def add_input(self, part: _Part, other: _Part) -> _Part:
        part.merge(other)
        return part

    def merge_accumulators(self, parts: Iterable[_Part]) -> _Part:
        whole = _Part()
        for part in parts:
            whole.merge(part)
        return whole

    def extract_output(self, part: _Part) -> _Part:
        return part


def _finish(part: _Part, facts: dict[str, Any], skip_bad: bool) -> Statistics:
    label = facts.get("source", "the collection")
    total = part.count + part.bad_count
    if not total:
        raise InputError(
            f"No images in {label}: expected files that end in "
            f"{', '.join(sorted(IMAGE_SUFFIXES))}, or have .tfrecord in their names."
        )
    if part.bad_count and not (skip_bad and part.count):
        raise InputError(
            f"{part.bad_count:,} of {total:,} images of {label} cannot be used: "
            f"{_some(part.bad, part.bad_count)}. Replace or remove them"
            + ("." if skip_bad else ", or leave them out with --skip_bad.")
        )
    facts = {**facts, **part.facts()}
    if skip_bad:
        facts |= {"skipped": part.bad_count, "skipped_names": part.bad}
    return part.moments.statistics(provenance(facts, part.extractor))


def _some(names: Sequence[str], count: int) -> str:
    more = count - len(names)
    return "; ".join(names) + (f"; and {more:,} more" if more else "")


def _list_files(pattern: str) -> Iterator[tuple[str, int]]:
    _check_file_system(pattern)
    try:
        (found,) = FileSystems.match([pattern])
    except (BeamIOError, ValueError) as error:  # Some lack an option, such as a host.
        details = getattr(error, "exception_details", None) or {}
        causes = "; ".join(map(str, details.values()))
        raise InputError(
            f"Cannot list {printable(pattern)}: {causes or error}."
        ) from error
    # What is above the first wildcard was named, and may be hidden.
    above = len(posixpath.dirname(re.split(r"[*?\[]", pattern, maxsplit=1)[0]))
    left_out: collections.Counter[str] = collections.Counter()
    for file in found.metadata_list:
        name = posixpath.basename(file.path)
        if not is_shown(file.path[above:]):
            continue
        ending = os.path.splitext(name)[1].lower()
        if _is_records(name) or ending in IMAGE_SUFFIXES:
            yield file.path, file.size_in_bytes
        else:
            left_out[ending or "without an ending"] += 1
    for warning in Found(printable(pattern), [], left_out).warnings():
        _log.warning("%s", warning)


def _read(file: tuple[str, int], feature: str | None) -> Iterator[Encoded]:
    path, size = file
    if _is_records(posixpath.basename(path)):
        yield from _read_records(path, feature)
    elif size > MAX_FILE_BYTES:
        yield Encoded(
            path,
            b"",
            f"its {size:,} bytes are more than an image has ({MAX_FILE_BYTES:,})",
        )
    else:
        yield _read_image(path)


def _is_records(name: str) -> bool:
    return ".tfrecord" in name.lower()


def _read_image(path: str) -> Encoded:
    # Reading a pipe named x.png would never end.
    if _is_local(path) and not os.path.isfile(path):
        return Encoded(path, b"", "no regular file")
    try:
        with FileSystems.open(
            path, compression_type=CompressionTypes.UNCOMPRESSED
        ) as stream:
            # In pieces: `read` with a bound would first take as much memory as that.
            data = io.BytesIO()
            shutil.copyfileobj(stream, data)
            return Encoded(path, data.getvalue())
    except MemoryError:
        raise
    except Exception as error:  # Each file system has errors of its own.
        return Encoded(path, b"", f"cannot be read: {printable(str(error))}")


def _read_records(path: str, feature: str | None) -> Iterator[Encoded]:
    import tensorflow as tf

    # Damage in the middle hides how many images follow it. It is an error even where
    # single bad images are to be left out.
    try:
        with FileSystems.open(path) as stream:
            for index, record in enumerate(_records(stream)):
                features = tf.train.Example.FromString(record).features.feature
                yield Encoded(f"{path} record {index}", _image_of(features, feature))
    except InputError as error:
        raise InputError(f"{printable(path)}: {error}") from error
    except MemoryError:
        raise
    except Exception as error:  # It may come from a file system, zlib or protobuf.
        raise InputError(
            f"{printable(path)} cannot be read as TFRecords of tf.train.Example: "
            f"{printable(str(error))}. Copy or write it again."
        ) from error


def _image_of(features: Mapping[str, Any], name: str | None) -> bytes:
    names = FEATURES if name is None else (name,)
    for each in names:
        # Looking a key up in a protobuf map would add it.
        if each in features and len(features[each].bytes_list.value) == 1:
            return features[each].bytes_list.value[0]
    found = ", ".join(sorted(features)[:10]) or "none"
    raise InputError(
        f"a record has no encoded image in {' or '.join(names)}; its features are "
        f"{found}. Name the right one with --feature."
    )


def _records(stream: BinaryIO) -> Iterator[bytes]:
    """Yields the records of a TFRecord file.

    Each is its length in 8 bytes, their checksum, the content and its checksum, all
    little-endian.
    """
    index = 0
    while head := _exactly(stream, 12, index, may_end=True):
        length, checksum = struct.unpack("<QI", head)
        _check(head[:8], checksum, index)
        if length > MAX_FILE_BYTES:
            raise InputError(
                f"record {index} claims {length:,} bytes, more than an image has "
                f"({MAX_FILE_BYTES:,})."
            )
        body = _exactly(stream, length + 4, index)
        _check(body[:-4], struct.unpack("<I", body[-4:])[0], index)
        yield body[:-4]
        index += 1


def _exactly(
    stream: BinaryIO, count: int, index: int, may_end: bool = False
) -> bytes | None:
    # Decompressing streams may give less than was asked for before their end.
    found = bytearray()
    while len(found) < count and (more := stream.read(count - len(found))):
        found += more
    if not found and may_end:
        return None
    if len(found) < count:
        raise InputError(
            f"it ends in the middle of record {index}; copy or write it again."
        )
    return bytes(found)


def _check(data: bytes, expected: int, index: int) -> None:
    crc = google_crc32c.value(data)
    # The format masks checksums, so that those of data with checksums in it stay good.
    masked = ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
    if masked != expected:
        raise InputError(
            f"record {index} is damaged, or this is no TFRecord file (its checksum is "
            "another); copy or write it again."
        )


def _options(pipeline_args: Sequence[str]) -> PipelineOptions:
    options = PipelineOptions(list(pipeline_args))
    # DirectRunner would first try to download a program, Prism, which does not know
    # --direct_running_mode. It does not do so for pipelines that may have unsafe
    # triggers; there are no triggers here at all.
    options.view_as(TypeOptions).allow_unsafe_triggers = True
    worker = options.view_as(WorkerOptions)
    if worker.default_sdk_harness_log_level is None:
        worker.default_sdk_harness_log_level = "WARNING"
    return options


def _pattern(source: str, recursive: bool) -> str:
    _check_file_system(source)
    if not _is_local(source):
        return source
    # A worker may be in another folder.
    path = os.path.abspath(user_path(source))
    if os.path.isdir(path):
        return os.path.join(glob.escape(path), "**" if recursive else "*")
    return path


def _check_file_system(path: str) -> None:
    # Beam knows the addresses of those systems alone whose packages are installed.
    schemes = {each.scheme() for each in FileSystem.get_all_subclasses()}
    if (scheme := FileSystems.get_scheme(path)) not in schemes:
        raise InputError(
            f"Beam cannot use {printable(path)}: it has no file system for {scheme}:// "
            "here. Install it, as pip install 'apache-beam[gcp]' does that for gs://, "
            "or name files of this machine."
        )


def _is_local(path: str) -> bool:
    return FileSystems.get_scheme(path) is None


def _inception(
    path: str | os.PathLike[str] | None, batch_size: int
) -> Callable[[], Extractor]:
    # The graph is looked for here, so that a missing file is reported at once.
    from fid.extractors.download import find_graph
    from fid.extractors.inception import Inception

    return functools.partial(Inception, os.path.abspath(find_graph(path)), batch_size)


def _save(statistics: Statistics, path: str) -> str:
    if _is_local(path):
        statistics.save(path)
        return path
    partial = f"{path}.partial"
    with tempfile.TemporaryDirectory() as folder:
        local = os.path.join(folder, "statistics.npz")
        statistics.save(local)
        with (
            open(local, "rb") as file,
            FileSystems.create(
                partial, compression_type=CompressionTypes.UNCOMPRESSED
            ) as target,
        ):
            shutil.copyfileobj(file, target)
    if FileSystems.exists(path):  # Some file systems do not rename onto a file.
        FileSystems.delete([path])
    FileSystems.rename([partial], [path])
    return path


def _load(path: str) -> Statistics:
    if _is_local(path):
        return Statistics.load(path)
    with tempfile.TemporaryDirectory() as folder:
        local = os.path.join(folder, "statistics.npz")
        with (
            FileSystems.open(
                path, compression_type=CompressionTypes.UNCOMPRESSED
            ) as file,
            open(local, "wb") as target,
        ):
            shutil.copyfileobj(file, target)
        return dataclasses.replace(Statistics.load(local), label=path)


def _input_error(error: BaseException) -> str | None:
    """Returns the message of an `InputError` of a worker, out of a runner's error."""
    # Runners in other processes pass on the text of a traceback, with the class's name
    # before the message; Beam adds the step at its end.
    text = f"InputError: {error}" if isinstance(error, InputError) else str(error)
    found = re.search(r"InputError: (.+?)(?: \[while running .*)?$", text, re.M)
    return found and found.group(1)
