"""Sources of images: from what the user names to batches of pixels in [0, 255].

Files are read in the order of their names, see `fid.sources.imagefiles`; all other
sources keep the order they come in.
"""

from __future__ import annotations

import itertools
import numbers
import operator
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from fid.files import InputError, printable
from fid.mistaken import check_local
from fid.sources.arrayfile import ArrayFile, is_statistics, split_member
from fid.sources.decoding import to_rgb
from fid.sources.imagefiles import FilesSource, FolderSource, ZipSource
from fid.sources.pixels import (
    QUANTIZE,
    VALUE_RANGES,
    Seen,
    ValueRange,
    Values,
    as_array,
    check_layout,
    is_pillow,
    quantize,
    with_channel_axis,
)
from fid.sources.source import Source, batched

__all__ = [
    "QUANTIZE",
    "VALUE_RANGES",
    "ArraySource",
    "FilesSource",
    "FolderSource",
    "GeneratorSource",
    "Source",
    "StreamSource",
    "ZipSource",
    "check_image_key",
    "is_statistics",
    "may_have_dicts",
    "open_images",
    "quantize",
]

# A piece of an array that is only looked at takes at most this much memory.
_PIECE_BYTES = 32 * 2**20


# Arrays -------------------------------------------------------------------------------


class ArraySource(Source):
    """Images in an array, in memory or in a file; see `fid.sources.pixels.Values`.

    All values are checked before the first batch.

    Args:
        images: (n, H, W, 3), or (n, H, W, 1) or (n, H, W) for grey.
        label: What to call it in messages.
        value_range: A key of `VALUE_RANGES`, or its two numbers, for floats.
        quantize: A member of `QUANTIZE`, for floats.
        provenance: Facts to record beside those found here.

    Raises:
        InputError: The array holds no images, or not in the range said.
    """

    def __init__(
        self,
        images: np.ndarray | ArrayFile,
        label: str = "array",
        value_range: ValueRange | None = None,
        quantize: str = "none",
        provenance: dict[str, Any] | None = None,
    ):
        self.label = label
        shape = with_channel_axis(images.shape, label)
        check_layout(shape, images.dtype, label)
        if not isinstance(images, ArrayFile):
            images = images.reshape(shape)
        self.count = shape[0]
        self._images = images
        self._provenance = dict(provenance or {})
        self._seen = Seen()
        self._values = Values(label, value_range, quantize)
        self._image_bytes = int(np.prod(shape[1:])) * images.dtype.itemsize
        if images.dtype != np.uint8:
            # Pieces are checked, since the array may be a file larger than the memory.
            for piece in self._pieces(max(1, _PIECE_BYTES // self._image_bytes)):
                self._values.check(piece)
            self._values.finish()

    def batches(self, size: int) -> Iterator[np.ndarray]:
        """Yields arrays (<= size, H, W, C), uint8 or float32 in [0, 255]."""
        self._seen = Seen()
        size = min(size, max(1, self.max_batch_bytes // self._image_bytes))
        for piece in self._pieces(size):
            batch = np.ascontiguousarray(self._values.scale(piece))
            for image in batch:
                self._seen.add(image)
            yield batch

    def _pieces(self, size: int) -> Iterator[np.ndarray]:
        if isinstance(self._images, ArrayFile):
            yield from self._images.pieces(size)
        else:
            for start in range(0, self.count, size):
                yield self._images[start : start + size]

    @property
    def warnings(self) -> Sequence[str]:
        """Says whether all images are nearly black."""
        return self._seen.warnings(self.label)

    @property
    def provenance(self) -> dict[str, Any]:
        """What was read: kind, size, quantisation and a digest of all pixels."""
        return {
            "source": self.label,
            "source_kind": "array",
            **self._seen.facts(),
            **self._values.facts(),
            **self._provenance,
        }


# Streams ------------------------------------------------------------------------------


class StreamSource(Source):
    """Images that come one after the other, or in batches.

    Each element is an image (H, W, C) or (H, W), a batch (n, H, W, C), an image of
    Pillow's, a tuple that begins with one of these, as does a loader's list of images
    and labels, or a dict with one of these as `image` or `images`, or under
    `image_key`. Images may differ in size, not in the number of channels.

    A stream that has a length is read for so many elements, though it go on for ever,
    as Keras's `ImageDataGenerator.flow` does; one that ends before is warned of. What
    has a length and gives its elements by index, such as a data set of PyTorch, is a
    stream, too.

    Values are checked as they pass: a negative one is an error at once; that floats
    never exceeded 1.5 is an error after the last image, before a result is given.

    Args:
        images: An iterable. Where it is an iterator, it can be read once.
        label: What to call it in messages.
        value_range: A key of `VALUE_RANGES`, or its two numbers, for floats.
        quantize: A member of `QUANTIZE`, for floats.
        count: How many images it gives, where that is known.
        kind: What it is, in the provenance.
        image_key: Which value of a dict is the image; None means `image` or `images`.

    Example:
        >>> noise = (np.full((4, 4, 3), i, np.uint8) for i in range(5))
        >>> [len(batch) for batch in StreamSource(noise).batches(2)]
        [2, 2, 1]
    """

    def __init__(
        self,
        images: Iterable[Any],
        label: str = "stream",
        value_range: ValueRange | None = None,
        quantize: str = "none",
        count: int | None = None,
        kind: str = "iterator",
        image_key: str | None = None,
    ):
        self.label, self.count = label, count
        self._images, self._kind, self._image_key = images, kind, image_key
        self._values = Values(label, value_range, quantize)
        self._seen = Seen()
        self._begun = False
        self._short: list[str] = []
        _length(images, label)  # One that never ends is refused before it is read.

    def batches(self, size: int) -> Iterator[Sequence[np.ndarray]]:
        """Yields lists of arrays (H, W, C), or one array where all have one size.

        Raises:
            InputError: An element holds no images, values are out of range, there are
                no images, or the iterator was read before.
        """
        if self._begun and isinstance(self._images, Iterator):
            raise InputError(
                f"The {self.label} was read before, and an iterator can be read once; "
                "make a new one, or give something that can be read again."
            )
        self._begun = True
        self._seen = Seen()
        self._short = []
        self._values.restart()
        images = _each(self._blocks(), self._seen)
        yield from map(_stacked, batched(images, size, self.max_batch_bytes))
        self.count = self._seen.count

    def _blocks(self) -> Iterator[np.ndarray]:
        channels, index = None, -1
        # An iterator may count down the length that it has left.
        length = _length(self._images, self.label)
        for index, element in enumerate(_elements(self._images, length)):
            label = f"Element {index} of {self.label}"
            block = _images_of(element, label, self._image_key)
            if channels not in (None, block.shape[-1]):
                raise InputError(
                    f"Element {index} of {self.label} has {block.shape[-1]} channels, "
                    f"those before it {channels}; convert all to RGB."
                )
            channels = block.shape[-1]
            self._values.check(block)
            yield self._values.scale(block)
        if channels is None:
            raise InputError(f"The {self.label} gave no images; expected some.")
        self._values.finish()
        if length is not None and index + 1 < length:
            self._short = [
                f"the {self.label} ended after {index + 1:,} elements, and its length "
                f"says {length:,}; the result is of {self._seen.count:,} images"
            ]

    @property
    def warnings(self) -> Sequence[str]:
        """Says whether it ended early, and whether all images are nearly black."""
        return [*self._short, *self._seen.warnings(self.label)]

    @property
    def provenance(self) -> dict[str, Any]:
        """What was read: kind, size, quantisation and a digest of all pixels."""
        return {
            "source": self.label,
            "source_kind": self._kind,
            **self._seen.facts(),
            **self._values.facts(),
        }


class GeneratorSource(Source):
    """Images from a generator, such as a `tf_ttur.GAN`.

    Args:
        generator: An object with `generate_batches(count, seed, batch_size)`, which
            yields float arrays (m, H, W, C) in [-1, 1]; or, with `latent`, a callable
            that maps latents (m, ...) to them, such as a Keras model.
        count: How many images to take.
        seed: Seed of the latents.
        quantize: A member of `QUANTIZE`.
        label: What to call it in messages.
        latent: What a callable is given: the dimension of standard normal latents, or
            a callable `latent(count, seed=seed)` such as `tf_ttur.NormalLatent`. All
            are drawn at once, so that the batch size does not change them.

    Raises:
        InputError: It is no generator, or the latents are not said.

    Example:
        >>> def generator(latents):
        ...     return np.tanh(latents).reshape(-1, 2, 2, 3)
        >>> source = GeneratorSource(generator, 5, latent=12)
        >>> [batch.shape for batch in source.batches(3)]
        [(3, 2, 2, 3), (2, 2, 2, 3)]
    """

    def __init__(
        self,
        generator: Any,
        count: int,
        seed: int = 0,
        quantize: str = "none",
        label: str = "generator",
        latent: int | Callable[..., Any] | None = None,
    ):
        count, seed = _integer("count", count), _integer("seed", seed)
        if count < 1:
            raise InputError(f"Cannot generate {count} images; ask for at least one.")
        if latent is None and not hasattr(generator, "generate_batches"):
            raise InputError(
                f"A {type(generator).__name__} is no generator: it has no method "
                "generate_batches(count, seed, batch_size). Give a callable together "
                "with latent=, the dimension of its latents or what draws them."
            )
        if latent is not None and not callable(generator):
            raise InputError(
                f"A {type(generator).__name__} cannot be called with latents; leave "
                "out latent= or give a callable."
            )
        if not (
            latent is None
            or callable(latent)
            or (isinstance(latent, numbers.Integral) and latent > 0)
        ):
            raise InputError(
                f"latent is {latent!r}; expected a positive dimension or a callable "
                "latent(count, seed=seed)."
            )
        self.label, self.count = label, count
        self._generator, self._seed, self._latent = generator, seed, latent
        self._values = Values(label, "-1,1", quantize)
        self._seen = Seen()

    def batches(self, size: int) -> Iterator[np.ndarray]:
        """Yields arrays (<= size, H, W, C) in [0, 255]."""
        self._seen = Seen()
        self._values.restart()
        images = _each(self._blocks(size), self._seen)
        yield from map(_stacked, batched(images, size, self.max_batch_bytes))

    def _blocks(self, size: int) -> Iterator[np.ndarray]:
        given = 0
        for images in self._generate(size):
            images = as_array(images, f"A batch of the {self.label}")
            check_layout(images.shape, images.dtype, f"A batch of the {self.label}")
            given += len(images)
            if given > self.count:
                break
            self._values.check(images)
            yield self._values.scale(images)
        if given != self.count:
            raise InputError(
                f"The {self.label} gave {'more' if given > self.count else given} "
                f"images where {self.count} were asked for."
            )

    def _generate(self, size: int) -> Iterator[Any]:
        if self._latent is None:
            yield from self._generator.generate_batches(self.count, self._seed, size)
            return
        latents = self._draw()
        for start in range(0, self.count, size):
            batch = latents[start : start + size]
            images = self._generator(batch)
            shape = tuple(np.shape(images))
            if shape[:1] != (len(batch),):
                raise InputError(
                    f"The {self.label} made of {len(batch)} latents an array of shape "
                    f"{shape}; expected one image for each."
                )
            yield images

    def _draw(self) -> np.ndarray:
        if isinstance(self._latent, numbers.Integral):
            random = np.random.default_rng(self._seed)
            shape = (self.count, int(self._latent))
            return random.standard_normal(shape, dtype=np.float32)
        latents = as_array(self._latent(self.count, seed=self._seed), "latent")
        if latents.shape[:1] != (self.count,):
            raise InputError(
                f"latent({self.count}, seed={self._seed}) has shape {latents.shape}; "
                f"expected {self.count} latents along the first axis."
            )
        return latents

    @property
    def provenance(self) -> dict[str, Any]:
        """What was generated: kind, seed, latents, size, quantisation, a digest."""
        facts = {
            "source": self.label,
            "source_kind": "generator",
            "seed": self._seed,
            **self._seen.facts(),
            **self._values.facts(),
        }
        if self._latent is not None:
            facts["latent"] = (
                f"normal, {self._latent} dimensions"
                if isinstance(self._latent, numbers.Integral)
                else getattr(self._latent, "__name__", type(self._latent).__name__)
            )
        return facts


def _each(blocks: Iterable[np.ndarray], seen: Seen) -> Iterator[np.ndarray]:
    """Yields the images of blocks (n, H, W, C) of any sizes, and takes note of them."""
    for block in blocks:
        # A copy is needed: a generator may fill one array again and again.
        for image in block.copy():
            seen.add(image)
            yield image


def _integer(name: str, value: Any) -> int:
    try:
        return operator.index(value)
    except TypeError as error:
        raise InputError(f"{name} is {value!r}; expected a whole number.") from error


def _stacked(images: list[np.ndarray]) -> Sequence[np.ndarray]:
    alike = len({(image.shape, image.dtype) for image in images}) == 1
    return np.stack(images) if alike else images


def _elements(images: Any, length: int | None) -> Iterator[Any]:
    """Yields the elements of a stream, at most as many as its length says."""
    if not _is_indexed(images):
        yield from itertools.islice(images, length)
        return
    for index in range(length):
        try:
            element = images[index]
        except IndexError:  # So a sequence of Python's ends, too.
            return
        yield element


def _length(images: Any, label: str) -> int | None:
    """Returns the length of a stream; None where it ends by itself."""
    try:
        return len(images)
    except Exception as error:  # One without a length may have the method, and say so.
        if _is_indexed(images):
            raise InputError(
                f"The {label}, a {type(images).__name__}, gives its elements by index, "
                f"and its length cannot be had ({error}); correct its __len__."
            ) from error
    if _is_endless(images):
        raise InputError(
            f"The {type(images).__name__} repeats for ever; end it with a num_batches, "
            "or a __len__, that says how many batches there are."
        )
    return None


def _is_endless(source: Any) -> bool:
    # Where nobody has imported Keras, nobody has made a data set of it.
    keras = sys.modules.get("keras")
    dataset = getattr(getattr(keras, "utils", None), "PyDataset", None)
    if dataset is None or not isinstance(source, dataset):
        return False
    try:
        return source.num_batches is None
    except NotImplementedError:  # Without it Keras goes on for ever, too.
        return True


def _is_indexed(source: Any) -> bool:
    """Says whether a source has a length and gives elements by index, and no others."""
    kind = type(source)
    return not hasattr(kind, "__iter__") and all(
        hasattr(kind, name) for name in ("__len__", "__getitem__")
    )


def _images_of(element: Any, label: str, image_key: str | None = None) -> np.ndarray:
    """Returns the images of an element of a stream, (n, H, W, C)."""
    if isinstance(element, list) and sum(_rank(each) == 4 for each in element) > 1:
        raise InputError(
            f"{label} is a list of {len(element)}, several of which are batches "
            "(n, H, W, C); expected one batch in each element: give them one after the "
            "other, or the images alone."
        )
    if _begins_with_images(element):
        element = element[0]
    if isinstance(element, Mapping):
        element = element[_key_of(element, label, image_key)]
    elif image_key is not None:
        raise InputError(
            f"{label} is no dict, from which image_key={image_key!r} would choose; "
            "leave it out, or open this set without it: fid.open_images."
        )
    if is_pillow(element):
        try:
            return to_rgb(element)[0][np.newaxis]
        except InputError as error:
            raise InputError(f"{label}: {error}.") from error
    array = as_array(element, label)
    if array.ndim == 2:
        array = array[np.newaxis, ..., np.newaxis]
    elif array.ndim == 3 and array.shape[-1] in (1, 3):
        array = array[np.newaxis]
    if array.ndim != 4:
        raise InputError(
            f"{label} has shape {array.shape} and type {array.dtype}; expected an "
            "image (H, W, 3), (H, W, 1) or (H, W), or a batch (n, H, W, C) of them."
        )
    check_layout(array.shape, array.dtype, label)
    return array


def _begins_with_images(element: Any) -> bool:
    """Says whether an element is images with something beside them, such as labels."""
    if isinstance(element, tuple):
        return bool(element)
    if not isinstance(element, list) or not element:
        return False
    # Loaders make lists of both images with labels, and images.
    first, *others = element
    if is_pillow(first):
        return True
    rank = _rank(first)
    return rank == 4 or (
        rank in (2, 3)
        and bool(others)
        and all(_rank(other) != rank for other in others)
    )


def _rank(value: Any) -> int:
    return len(getattr(value, "shape", ()))


def _is_compound(element: Any) -> bool:
    """Says whether an element is no image itself, but holds some."""
    if isinstance(element, list) and element:
        return is_pillow(element[0]) or hasattr(element[0], "shape")
    return isinstance(element, Mapping | tuple)


def _key_of(found: Mapping[str, Any], label: str, image_key: str | None) -> str:
    """Chooses the key of the images among those that there are."""
    for key in ("image", "images") if image_key is None else (image_key,):
        if key in found:
            return key
    keys = ", ".join(map(str, found)) or "(none)"
    if image_key is None:
        raise InputError(
            f"{label} is a dict without the key `image`; it has the keys {keys}: say "
            "which one is the image with image_key=, here or in fid.open_images."
        )
    raise InputError(f"{label} has no key {image_key!r}: choose image_key from {keys}.")


# All of them --------------------------------------------------------------------------


def open_images(
    source: Any,
    *,
    value_range: ValueRange | None = None,
    quantize: str = "none",
    recursive: bool = False,
    skip_bad: bool = False,
    count: int | None = None,
    seed: int = 0,
    latent: int | Callable[..., Any] | None = None,
    image_key: str | None = None,
) -> Source:
    """Opens what the user named as a source of images.

    Args:
        source: One of

            - a folder, or a `.zip` archive, of PNG, JPEG, BMP, WebP, TIFF, GIF, PPM,
              JPEG 2000, AVIF, QOI, SGI or PCX files;
            - a list of such files;
            - an `.npy` or `.npz` file of images; of several arrays in one file, one is
              named as `file.npz:x_test`;
            - an array or tensor (n, H, W, C);
            - a `tf.data.Dataset`, a `keras.utils.PyDataset`, a loader, an iterator, a
              generator or a list of images or of batches of them, with or without
              labels, see `StreamSource`;
            - with `count`, a GAN or a callable, see `GeneratorSource`;
            - a `Source`, which is returned as it is.
        value_range: For floats, a key of `VALUE_RANGES`, or its two numbers; None means
            [0, 255], checked.
        quantize: For floats, a member of `QUANTIZE`.
        recursive: Whether to enter the folders of a folder.
        skip_bad: Whether to leave out files that cannot be used, and to count them in
            the provenance.
        count: How many images to take from a GAN or a callable.
        seed: Seed of its latents.
        latent: What draws a callable's latents, or their dimension.
        image_key: Of a data set of dicts, the key of the image; None means `image` or
            `images`. It is refused where there can be no dicts.

    Returns:
        The source.

    Raises:
        InputError: It is none of these.

    Example:
        >>> source = open_images(np.zeros((5, 8, 8, 3), np.uint8))
        >>> source.count, [len(batch) for batch in source.batches(4)]
        (5, [4, 1])
    """
    check_image_key(source, image_key)
    if isinstance(source, Source):
        return source
    if count is not None or hasattr(source, "generate_batches"):
        return _open_generator(source, count, seed, quantize, latent)
    if isinstance(source, str | os.PathLike):
        return _open_path(source, value_range, quantize, recursive, skip_bad)
    if isinstance(source, list | tuple):
        return _open_list(source, value_range, quantize, skip_bad, image_key)
    if _is_dataset(source):
        return _open_dataset(source, value_range, quantize, image_key)
    if hasattr(source, "__array__") and not is_pillow(source):
        return ArraySource(as_array(source, "array"), "array", value_range, quantize)
    if _is_stream(source):
        return StreamSource(
            source, "iterator", value_range, quantize, image_key=image_key
        )
    if callable(source):
        return _open_generator(source, count, seed, quantize, latent)
    raise InputError(
        f"A {type(source).__name__} is no source of images; expected a folder, a file, "
        "an array, a tf.data.Dataset or an iterator."
    )


def check_image_key(source: Any, image_key: str | None) -> None:
    """Refuses a key of the images where there are no dicts.

    Args:
        source: As for `open_images`, or statistics.
        image_key: Likewise; None is never refused.

    Raises:
        InputError: The source cannot hold dicts.
    """
    if image_key is not None and not may_have_dicts(source):
        what = type(source).__name__
        if isinstance(source, str | os.PathLike):
            what = printable(source)
        raise InputError(
            f"image_key is {image_key!r}, which chooses from the dicts of a data set "
            f"or an iterator, and {what} holds none; leave it out."
        )


def may_have_dicts(source: Any) -> bool:
    """Says whether the elements of a source may be dicts, as far as that is known.

    Args:
        source: As for `open_images`, or statistics.

    Returns:
        Whether it is a data set of dicts, a list that holds some, or an iterable whose
        elements are not known before they are read.
    """
    if isinstance(source, list | tuple):
        return any(map(_is_dict, source))
    if _is_dataset(source):
        return _is_dict(source.element_spec)
    if isinstance(source, Source | str | os.PathLike):
        return False
    if hasattr(source, "__array__") or hasattr(source, "generate_batches"):
        return False
    return _is_stream(source)


def _is_dict(element: Any) -> bool:
    if isinstance(element, list | tuple) and element:
        element = element[0]
    return isinstance(element, Mapping)


def _open_path(
    source: str | os.PathLike[str],
    value_range: ValueRange | None,
    quantize: str,
    recursive: bool,
    skip_bad: bool,
) -> Source:
    if not os.fspath(source):
        raise InputError(
            "The name of a set of images is empty; expected a folder or a file."
        )
    check_local(source)
    (path, member), label = split_member(source), printable(source)
    if path.is_dir():
        return FolderSource(path, recursive, skip_bad)
    if not path.exists():
        raise InputError(
            f"There is no {label}; expected a folder of images, or a .zip, .npz or "
            ".npy file."
        )
    suffix = path.suffix.lower()
    if suffix == ".zip" and path.is_file():
        return ZipSource(path, skip_bad)
    if suffix not in (".npz", ".npy") or not path.is_file():
        raise InputError(
            f"{label} is neither a folder nor a .zip, .npz or .npy file; put the "
            "images into a folder or an array."
        )
    if member is None and is_statistics(path):
        raise InputError(
            f"{label} holds statistics (mu and sigma), which are not images; give the "
            "images, or compare it with compute_fid.py."
        )
    kind = {"source_kind": suffix[1:]}
    return ArraySource(ArrayFile(path, member), label, value_range, quantize, kind)


def _open_list(
    source: Sequence[Any],
    value_range: ValueRange | None,
    quantize: str,
    skip_bad: bool,
    image_key: str | None,
) -> Source:
    if source and all(isinstance(each, str | os.PathLike) for each in source):
        return FilesSource(source, f"{len(source)} files", skip_bad)
    shapes = {tuple(getattr(each, "shape", ())) for each in source}
    # Of these, one element may be several images.
    compound = 4 in map(len, shapes) or any(map(_is_compound, source))
    if len(shapes) > 1 or compound or any(map(is_pillow, source)):
        count = None if compound else len(source)
        return StreamSource(
            source, "list", value_range, quantize, count, "list", image_key
        )
    return ArraySource(as_array(source, "list"), "list", value_range, quantize)


def _is_stream(source: Any) -> bool:
    if isinstance(source, bytes | Mapping | set):
        return False
    return isinstance(source, Iterable) or _is_indexed(source)


def _is_dataset(source: Any) -> bool:
    # Where nobody has imported TensorFlow, nobody has made a data set.
    tensorflow = sys.modules.get("tensorflow")
    dataset = getattr(getattr(tensorflow, "data", None), "Dataset", None)
    return dataset is not None and isinstance(source, dataset)


def _open_dataset(
    source: Any, value_range: ValueRange | None, quantize: str, image_key: str | None
) -> Source:
    size = int(source.cardinality())
    if size == -1:  # This is tf.data.INFINITE_CARDINALITY.
        raise InputError(
            "The tf.data.Dataset repeats for ever; end it with .take(n), or leave out "
            ".repeat()."
        )
    images = source.element_spec
    if isinstance(images, tuple):
        images = images[0]
    if isinstance(images, Mapping):
        images = images[_key_of(images, "An element of the dataset", image_key)]
    rank = getattr(getattr(images, "shape", None), "rank", None)
    count = size if rank in (2, 3) and size >= 0 else None
    return StreamSource(
        source, "dataset", value_range, quantize, count, "tf.data", image_key
    )


def _open_generator(
    source: Any,
    count: int | None,
    seed: int,
    quantize: str,
    latent: int | Callable[..., Any] | None,
) -> Source:
    if count is None:
        raise InputError(
            f"A {type(source).__name__} makes any number of images; say how many to "
            "take: count=, or num_samples= of fid.compute. A function that yields "
            "images must be called first."
        )
    return GeneratorSource(source, count, seed, quantize, latent=latent)
