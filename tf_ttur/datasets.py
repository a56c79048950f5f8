"""Images to train on: `load(name)` gives a set, the set gives batches.

A set is a list of *elements* (row numbers, paths, encoded images) that can be put in
order without decoding anything, and a function that decodes a batch of them. Shuffling
and resuming touch elements only. Pillow does all decoding and resizing, as in the
original, so that a pixel here is a pixel there: TensorFlow's JPEG decoder and resize
differ from Pillow's.
"""

from __future__ import annotations

import atexit
import concurrent.futures
import dataclasses
import functools
import importlib.util
import io
import logging
import os
import pathlib
import re
import socket
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from PIL import Image

from fid.files import InputError
from fid.images import SUFFIXES

__all__ = ["NAMES", "ImageData", "check_name", "group", "load"]

_log = logging.getLogger(__name__)
# TFDS has shuffled the records when it wrote them; sixteen shards read side by side,
# shuffled within windows of some 60-120 MB of encoded images, shuffle them again.
_SHARDS_AT_ONCE = 16
_WINDOW = 8192
_SECONDS_TO_CONNECT = 3.0


@dataclasses.dataclass(frozen=True)
class _Published:
    """A data set that TFDS prepares.

    Attributes:
        version: The version known to work. TFDS changes existing examples only with the
            first number, so any version that shares it is read.
        host: Where TFDS downloads it from.
        size: Side of the square images that the paper used.
        crop: Side of the central square cut out first; None for the largest one.
        in_memory: Whether the decoded images are held in memory.
        note: What else a user without the files should know.
    """

    version: str
    host: str
    size: int
    crop: int | None = None
    in_memory: bool = False
    note: str = ""


_PUBLISHED = {
    "cifar10": _Published("3.0.2", "www.cs.toronto.edu", 32, in_memory=True),
    "svhn_cropped": _Published("3.1.0", "ufldl.stanford.edu", 32, in_memory=True),
    "celeb_a": _Published(
        "2.1.0",
        "drive.google.com",
        64,
        crop=108,
        note=(
            "TFDS fetches CelebA from Google Drive, which refuses once the day's quota "
            "is used up: try again another day, or copy the prepared folder from "
            "somebody who has it. By hand: get img_align_celeba.zip with a browser, "
            "unpack it, cut the central 108x108 out of every image, save that as PNG "
            "and use --dataset=folder (uncropped images are another data set, whose "
            "distances do not compare with the published ones)."
        ),
    ),
    "lsun/bedroom": _Published(
        "3.1.0",
        "dl.yf.io",
        64,
        note=(
            "Preparing LSUN needs tensorflow_io, which stops at an older TensorFlow: "
            "prepare it in an environment that has both, or export the images from the "
            "authors' LMDB to a folder and use --dataset=folder."
        ),
    ),
}

NAMES = ("digits", *_PUBLISHED, "folder")
"""The names that `load` knows."""


@dataclasses.dataclass(frozen=True)
class ImageData:
    """One loaded set of images; labels are dropped.

    Attributes:
        name: The name it was loaded by.
        split: The part of it, such as "train".
        num_examples: How many images.
        image_shape: (height, width, channels) of every image.
    """

    name: str
    split: str
    num_examples: int
    image_shape: tuple[int, int, int]
    # int64 (2,) seed -> all elements in an order that depends on nothing but the seed;
    # None -> in the fixed order.
    _elements: Callable[[tf.Tensor | None], tf.data.Dataset] = dataclasses.field(
        repr=False
    )
    # A batch of elements -> uint8 (n, height, width, channels).
    _decode: Callable[[np.ndarray], np.ndarray] = dataclasses.field(repr=False)

    def training(
        self,
        batch_size: int,
        seed: int,
        start_step: int = 0,
        discriminator_steps: int = 1,
    ) -> tf.data.Dataset:
        """Gives endless shuffled batches whose order depends on (seed, step) only.

        Every epoch is a new order of the whole set: a uniform permutation for sets in
        memory and folders; for `celeb_a` and `lsun/bedroom`, shards in random order,
        sixteen at a time, shuffled within windows of 8,192 images. The
        `num_examples % batch_size` images at the end of an epoch's order are left out
        of that epoch. Starting at step k gives, bit for bit, what the uninterrupted
        data set gives from step k on; no state is kept anywhere. Images that are
        passed over are not decoded, but `celeb_a` and `lsun/bedroom` read their
        records from the start of the epoch.

        Args:
            batch_size: Images per discriminator update.
            seed: Seed of the order. TensorFlow's global seed has no influence.
            start_step: The step (generator update) to start at.
            discriminator_steps: Discriminator updates per step, each on its own images.

        Returns:
            A `tf.data.Dataset` of float32 batches in [-1, 1] (`x / 127.5 - 1`), of
            static shape (batch_size * discriminator_steps, height, width, channels).

        Raises:
            InputError: The set has fewer than `batch_size` images.
            ValueError: A count is out of its range.
        """

        def decode(elements: tf.data.Dataset) -> tf.data.Dataset:
            return _decoded(elements, self._decode).map(scale)

        def scale(images: tf.Tensor) -> tf.Tensor:
            images = tf.ensure_shape(images, (batch_size, *self.image_shape))
            return tf.cast(images, tf.float32) / 127.5 - 1.0

        return training_batches(
            self._elements,
            decode,
            self.num_examples,
            f"{self.name} ({self.split}) has {self.num_examples} images",
            batch_size,
            seed,
            start_step,
            discriminator_steps,
        )

    def images(self, batch_size: int = 100) -> Iterator[np.ndarray]:
        """Goes through every image once, in a fixed order.

        The order is scikit-learn's for `digits`, by relative path for `folder`, and for
        the others that of the prepared files: splits as named, shard by shard.

        Args:
            batch_size: Images per batch; the last batch holds what is left.

        Yields:
            uint8 arrays (n, height, width, channels) in 0..255.

        Raises:
            InputError: A file is damaged; the message names it.
        """
        failures = []

        def decode(elements: np.ndarray) -> np.ndarray:
            try:
                return self._decode(elements)
            except InputError as error:
                failures.append(error)  # tf.data would hand on its text only.
                raise

        batches = _decoded(self._elements(None).batch(batch_size), decode)
        try:
            yield from batches.prefetch(1).as_numpy_iterator()
        except tf.errors.OpError as error:
            if failures:
                raise failures[0] from None
            raise InputError(
                f"Cannot read {self.name} ({self.split}): {error.message}. A prepared "
                "file is damaged or incomplete: delete its folder and prepare it again."
            ) from error


def load(
    name: str,
    *,
    data_dir: str | os.PathLike[str] | None = None,
    image_size: int | None = None,
    split: str = "train",
    download: bool = False,
) -> ImageData:
    """Loads a set of images by name.

    =============  ===========================================  ==================
    name           source                                       images
    =============  ===========================================  ==================
    digits         scikit-learn's 1,797 UCI digits, 8x8, in     32x32, 1 channel
                   0..16: scaled to 0..255, then enlarged by
                   Pillow's bicubic filter, which keeps strokes
                   smooth where bilinear leaves them blotchy
    cifar10        TFDS                                         32x32, as they are
    svhn_cropped   TFDS                                         32x32, as they are
    celeb_a        TFDS: central 108x108 of the 178x218 images  64x64
    lsun/bedroom   TFDS: central square                         64x64
    folder         every .png, .jpg, .jpeg, .bmp and .webp file  64x64
                   under `data_dir`, recursively: central square
    =============  ===========================================  ==================

    Photographs are resized by Pillow's bilinear filter (antialiased; the one behind the
    `scipy.misc.imresize` of the original). Everything but `digits` becomes RGB: grey is
    repeated, transparency dropped. EXIF orientation is ignored, as in the original.
    An odd margin loses its extra row at the bottom, its extra column on the right.

    The paper's CelebA is all three splits together: `split="all"`.

    Args:
        name: One of `NAMES`.
        data_dir: For `folder` the folder of images; for TFDS's sets the folder with
            their prepared files (`$TFDS_DATA_DIR`, else `~/tensorflow_datasets`).
        image_size: Side of the images; None for the one in the table.
        split: TFDS's name of the part; several joined by "+"; or "all". `digits` and
            `folder` have no parts: "train" and "all" are the whole.
        download: Let TFDS download and prepare what is missing. Off, nothing touches
            the network.

    Returns:
        The images.

    Raises:
        InputError: The name, the split or the size is unknown; the files are not there
            (the message says which, and how to make them); or files are unreadable.

    Example:
        >>> from tf_ttur import datasets
        >>> digits = datasets.load("digits")
        >>> digits.num_examples, digits.image_shape
        (1797, (32, 32, 1))
        >>> next(iter(digits.training(batch_size=64, seed=0))).shape
        TensorShape([64, 32, 32, 1])
    """
    check_name(name)
    if image_size is not None and image_size < 1:
        raise InputError(f"The image size must be at least 1; got {image_size}.")
    if name in _PUBLISHED:
        return _load_published(name, data_dir, image_size, split, download)
    if split not in ("train", "all"):
        raise InputError(f"{name} has no split {split!r}: it is one set, 'train'.")
    if name == "digits":
        return _in_memory(name, split, _digits(image_size or 32))
    return _load_folder(data_dir, image_size or 64, split)


def check_name(name: str) -> None:
    """Refuses a name that `load` does not know.

    Args:
        name: The name of a data set.

    Raises:
        InputError: It is none of `NAMES`.
    """
    if name not in NAMES:
        raise InputError(f"Unknown data set {name!r}: choose from {', '.join(NAMES)}.")


def training_batches(
    elements: Callable[[tf.Tensor], tf.data.Dataset],
    decode: Callable[[tf.data.Dataset], tf.data.Dataset],
    num_examples: int,
    what: str,
    batch_size: int,
    seed: int,
    start_step: int,
    discriminator_steps: int,
) -> tf.data.Dataset:
    """Gives endless batches whose order depends on (seed, step) only.

    Args:
        elements: int64 (2,) seed -> all elements of a set, in an order that depends on
            nothing but the seed.
        decode: Batches of elements -> batches of examples, both of `batch_size`.
        num_examples: How many elements there are.
        what: The set and how many there are of what, for the message of an error.
        batch_size: As for `ImageData.training`.
        seed: Likewise.
        start_step: Likewise.
        discriminator_steps: Likewise.

    Returns:
        A `tf.data.Dataset` of batches of `batch_size * discriminator_steps`.

    Raises:
        InputError: There are fewer than `batch_size` elements.
        ValueError: A count is out of its range.
    """
    for label, value, least in (
        ("batch_size", batch_size, 1),
        ("start_step", start_step, 0),
        ("discriminator_steps", discriminator_steps, 1),
    ):
        if value < least:
            raise ValueError(f"{label} must be at least {least}; got {value}.")
    batches_per_epoch = num_examples // batch_size
    if not batches_per_epoch:
        raise InputError(
            f"{what}, which do not fill one batch of {batch_size}: lower the batch "
            "size."
        )
    epoch, passed_over = divmod(start_step * discriminator_steps, batches_per_epoch)

    def epoch_batches(epoch: tf.Tensor) -> tf.data.Dataset:
        order = elements(tf.stack([tf.constant(seed, tf.int64), epoch]))
        return order.batch(batch_size, drop_remainder=True)

    batches = tf.data.Dataset.counter(epoch).flat_map(epoch_batches)
    batches = decode(batches.skip(passed_over))
    options = tf.data.Options()
    # Workers must split batches, not files: else the order depends on their number.
    options.experimental_distribute.auto_shard_policy = (
        tf.data.experimental.AutoShardPolicy.DATA
    )
    batches = group(batches, discriminator_steps).prefetch(tf.data.AUTOTUNE)
    # Said outright, so that Keras asks for steps_per_epoch instead of never ending.
    endless = tf.data.experimental.assert_cardinality(tf.data.INFINITE_CARDINALITY)
    return batches.apply(endless).with_options(options)


def group(dataset: tf.data.Dataset, k: int) -> tf.data.Dataset:
    """Makes batches k times as large, in the same order.

    A training step with k discriminator updates takes one such batch and gives each
    update its own k-th part.

    Args:
        dataset: Batches of a static size; any nested structure of tensors.
        k: How many batches become one.

    Returns:
        The regrouped data set. What does not fill a batch at the end is left out.

    Raises:
        ValueError: `k` is less than 1, or the batch size is not static.

    Example:
        >>> import tensorflow as tf
        >>> from tf_ttur import datasets
        >>> batches = tf.data.Dataset.range(8).batch(2, drop_remainder=True)
        >>> [x.tolist() for x in datasets.group(batches, 2).as_numpy_iterator()]
        [[0, 1, 2, 3], [4, 5, 6, 7]]
    """
    if k < 1:
        raise ValueError(f"k must be at least 1; got {k}.")
    sizes = {
        spec.shape[0] if spec.shape.rank else None
        for spec in tf.nest.flatten(dataset.element_spec)
    }
    if len(sizes) != 1 or None in sizes:
        raise ValueError(
            "Only batches of one static size can be grouped: use "
            f"batch(..., drop_remainder=True). Got {dataset.element_spec}."
        )
    return dataset.rebatch(k * sizes.pop(), drop_remainder=True) if k > 1 else dataset


def _decoded(
    batches: tf.data.Dataset, decode: Callable[[np.ndarray], np.ndarray]
) -> tf.data.Dataset:
    calls = _calls()

    def call(elements: np.ndarray) -> np.ndarray:
        with calls:
            return decode(elements)

    return batches.map(
        lambda elements: tf.numpy_function(call, [elements], tf.uint8),
        num_parallel_calls=tf.data.AUTOTUNE,
        deterministic=True,
    )


class _Calls:
    """Counts the calls from tf.data's threads, and ends them before Python ends.

    A thread that asks for Python's lock while the interpreter shuts down never comes
    back, and the iterator it works for, when deleted then, waits for it: a program that
    ends, or fails, while batches are being made ahead would hang instead.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running = 0
        self._last = time.monotonic()
        self._ended = False

    def __enter__(self) -> None:
        with self._lock:
            self._last = time.monotonic()
            if self._ended:
                raise StopIteration  # The one error that TensorFlow does not print.
            self._running += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._last = time.monotonic()
            self._running -= 1

    def end(self) -> None:
        """Refuses further calls; returns when none runs and none has come lately."""
        self._ended = True
        deadline = time.monotonic() + 60.0
        while (now := time.monotonic()) < deadline:
            if not self._running and now - self._last > 0.25:
                return
            time.sleep(0.02)


@functools.cache
def _calls() -> _Calls:
    calls = _Calls()
    atexit.register(calls.end)
    return calls


def _permutation(count: int | tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    # tf.data's own shuffle mixes in TensorFlow's global seed; a stable sort of
    # counter-based random numbers is a function of its seed and nothing else.
    keys = tf.random.stateless_uniform(
        [count], seed, minval=None, maxval=None, dtype=tf.int64, alg="philox"
    )
    return tf.argsort(keys, stable=True)


def rows_in_order(count: int, seed: tf.Tensor | None) -> tf.data.Dataset:
    """Gives the numbers below `count`, permuted as the int64 (2,) seed says."""
    rows = tf.range(count) if seed is None else _permutation(count, seed)
    return tf.data.Dataset.from_tensor_slices(rows)


def _in_memory(name: str, split: str, images: np.ndarray) -> ImageData:
    return ImageData(
        name=name,
        split=split,
        num_examples=len(images),
        image_shape=images.shape[1:],
        _elements=functools.partial(rows_in_order, len(images)),
        _decode=lambda rows: images[rows],
    )


def _digits(size: int) -> np.ndarray:
    from sklearn.datasets import load_digits  # Slow to import; few runs need it.

    small = np.rint(load_digits().images * (255 / 16)).astype(np.uint8)
    bicubic = Image.Resampling.BICUBIC
    large = [Image.fromarray(x).resize((size, size), bicubic) for x in small]
    return np.stack([np.asarray(x) for x in large])[..., np.newaxis]


# Files --------------------------------------------------------------------------------


def _load_folder(
    data_dir: str | os.PathLike[str] | None, size: int, split: str
) -> ImageData:
    if data_dir is None:
        raise InputError("--dataset=folder needs --data_dir, the folder of images.")
    folder = pathlib.Path(data_dir).expanduser()
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder; --data_dir names one of images.")
    paths = sorted(_image_files(folder))
    if not paths:
        raise InputError(
            f"No images in {folder}: looked, in all its folders, for files that end in "
            f"{', '.join(sorted(SUFFIXES))}."
        )
    # Found now rather than hours into the training. What only shows when all pixels are
    # decoded, such as a truncated JPEG, is an error when the file is read.
    with concurrent.futures.ThreadPoolExecutor() as pool:  # Disks like many requests.
        _each_file(_check, paths, paths, apply=pool.map)

    def decode(rows: np.ndarray) -> np.ndarray:
        batch = [paths[row] for row in rows]
        return np.stack(_each_file(lambda x: _picture(x, None, size), batch, batch))

    return ImageData(
        name="folder",
        split=split,
        num_examples=len(paths),
        image_shape=(size, size, 3),
        _elements=functools.partial(rows_in_order, len(paths)),
        _decode=decode,
    )


def _image_files(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yields the images below a folder; a folder that links lead to twice, once."""
    visited = set()
    for place, folders, names in os.walk(folder, followlinks=True):
        status = os.stat(place)
        if (status.st_dev, status.st_ino) in visited:
            folders.clear()
            continue
        visited.add((status.st_dev, status.st_ino))
        for name in names:
            path = pathlib.Path(place, name)
            if path.suffix.lower() in SUFFIXES and path.is_file():
                yield path


def _picture(file: Any, crop: int | None, size: int) -> np.ndarray:
    """Returns the central square of an encoded image, uint8 (size, size, 3)."""
    with Image.open(file) as image:
        _require_eight_bits(image)
        image = image.convert("RGB")
    side = crop or min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    # Not resize(box=...): that lets the filter see the pixels around the box.
    image = image.crop((left, top, left + side, top + side))
    return np.asarray(image.resize((size, size), Image.Resampling.BILINEAR))


def _check(path: pathlib.Path) -> None:
    with Image.open(path) as image:
        _require_eight_bits(image)
        image.verify()


def _require_eight_bits(image: Image.Image) -> None:
    # Pillow would clip these to 255, that is, to white.
    if image.mode.startswith(("I", "F")):
        raise ValueError(f"more than 8 bits a channel (mode {image.mode})")


def _each_file(
    function: Callable[[Any], Any],
    files: Sequence[Any],
    names: Sequence[Any],
    apply: Callable[..., Iterable[Any]] = map,
) -> list[Any]:
    """Calls `function` on each file; one error names all that failed."""

    def attempt(file: Any) -> Any:
        try:
            return function(file)
        except Exception as error:  # Pillow's plugins raise errors of every kind.
            return error

    results = list(apply(attempt, files))
    bad = [
        f"{name} ({result})"
        for name, result in zip(names, results, strict=True)
        if isinstance(result, Exception)
    ]
    if bad:
        raise InputError(
            f"Cannot read {len(bad)} of {len(files)} images; mend or remove them: "
            f"{'; '.join(bad)}."
        )
    return results


# TFDS ---------------------------------------------------------------------------------


def _load_published(
    name: str,
    data_dir: str | os.PathLike[str] | None,
    image_size: int | None,
    split: str,
    download: bool,
) -> ImageData:
    published = _PUBLISHED[name]
    root = tfds_folder(data_dir)
    folder = find_prepared(name, root, published.version)
    if folder is None:
        if not download:
            raise InputError(_how_to_prepare(name, root, split))
        _prepare(name, root, split)
        folder = find_prepared(name, root, published.version)
        if folder is None:
            raise InputError(_how_to_prepare(name, root, split))
    shards, count = prepared_shards(name, root, folder, split)
    size = image_size or published.size

    def decode(encoded: np.ndarray) -> np.ndarray:
        files = [io.BytesIO(x) for x in encoded]
        names = [f"an image of {name}"] * len(files)
        picture = functools.partial(_picture, crop=published.crop, size=size)
        return np.stack(_each_file(picture, files, names))

    data = ImageData(
        name=name,
        split=split,
        num_examples=count,
        image_shape=(size, size, 3),
        _elements=functools.partial(_records, shards, count),
        _decode=decode,
    )
    if not published.in_memory:
        return data
    _log.info("Reading %d images of %s into memory.", count, name)
    return _in_memory(name, split, np.concatenate(list(data.images(1000))))


def tfds_folder(data_dir: str | os.PathLike[str] | None) -> pathlib.Path:
    """Returns the folder of prepared data sets: the one given, or TFDS's default."""
    # Not asked of TFDS: importing it takes seconds.
    data_dir = data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    return pathlib.Path(data_dir).expanduser()


def _records(shards: list[str], count: int, seed: tf.Tensor | None) -> tf.data.Dataset:
    """Gives the encoded images in TFDS's record files."""
    files = tf.constant(shards)
    if seed is None:
        records = tf.data.TFRecordDataset(files)
    else:
        files = tf.gather(files, _permutation(len(shards), seed))
        records = tf.data.Dataset.from_tensor_slices(files).interleave(
            tf.data.TFRecordDataset,
            cycle_length=_SHARDS_AT_ONCE,
            block_length=16,
            num_parallel_calls=tf.data.AUTOTUNE,
            deterministic=True,
        )

    def encoded_images(window: tf.Tensor) -> tf.Tensor:
        # TFDS stores an image as its encoded file.
        spec = {"image": tf.io.FixedLenFeature([], tf.string)}
        return tf.io.parse_example(window, spec)["image"]

    def shuffled(number: tf.Tensor, window: tf.Tensor) -> tf.data.Dataset:
        if seed is not None:
            window_seed = tf.random.experimental.stateless_fold_in(seed, number)
            order = _permutation(tf.size(window), window_seed)
            window = tf.gather(window, order)
        return tf.data.Dataset.from_tensor_slices(window)

    windows = records.batch(_WINDOW).map(encoded_images).prefetch(1)
    elements = windows.enumerate().flat_map(shuffled)
    # A shard cut short at a record's end looks whole to the reader, and would shift
    # every later epoch.
    return elements.apply(tf.data.experimental.assert_cardinality(count))


def _prepared_folders(name: str, root: pathlib.Path) -> dict[tuple[int, ...], Any]:
    """Returns the folders that hold a prepared version, by version, oldest first."""
    folders = {
        tuple(map(int, path.name.split("."))): path
        for path in (root / name).glob("*.*.*")
        if re.fullmatch(r"\d+\.\d+\.\d+", path.name)
        and (path / "dataset_info.json").is_file()
        and (path / "features.json").is_file()
    }
    return dict(sorted(folders.items()))


def find_prepared(name: str, root: pathlib.Path, version: str) -> pathlib.Path | None:
    """Returns the newest prepared version with the first number of this one."""
    major = int(version.split(".")[0])
    folders = _prepared_folders(name, root)
    return next((folders[v] for v in reversed(folders) if v[0] == major), None)


def prepared_shards(
    name: str, root: pathlib.Path, folder: pathlib.Path, split: str
) -> tuple[list[str], int]:
    """Returns the record files of a split and the number of its examples."""
    import tensorflow_datasets as tfds

    try:
        info = tfds.builder_from_directory(folder).info
    except Exception as error:
        raise InputError(
            f"{folder}/dataset_info.json or features.json cannot be read ({error}): "
            "delete the folder and prepare it again."
        ) from error
    if info.file_format is not tfds.core.FileFormat.TFRECORD:
        raise InputError(
            f"{folder} holds {info.file_format.value} files; tfrecord files are read "
            "here. Prepare it with TFDS's default file format."
        )
    names = list(info.splits) if split == "all" else split.split("+")
    if unknown := [x for x in names if x not in info.splits]:
        raise InputError(
            f"{name} in {folder} has no split {', '.join(map(repr, unknown))}: choose "
            f"from {', '.join(info.splits)}, several joined by '+', or all."
        )
    shards = [os.fspath(path) for x in names for path in info.splits[x].filepaths]
    if missing := [x for x in shards if not os.path.isfile(x)]:
        raise InputError(
            f"{name} in {folder} lacks {len(missing)} of {len(shards)} files: "
            f"{', '.join(missing)}. Copy them there, or delete the folder and prepare "
            f"it again with {prepare_command(name, root)}."
        )
    return shards, sum(info.splits[x].num_examples for x in names)


def prepare_command(name: str, root: pathlib.Path) -> str:
    """Returns the shell command that has TFDS prepare a data set."""
    return (
        'python -c "import tensorflow_datasets as tfds; '
        f"tfds.builder('{name}', data_dir='{root}').download_and_prepare()\""
    )


def _how_to_prepare(name: str, root: pathlib.Path, split: str) -> str:
    published = _PUBLISHED[name]
    folder = root / name / published.version
    part = "*" if split == "all" else split.split("+")[0]
    others = [".".join(map(str, x)) for x in _prepared_folders(name, root)]
    where = f"{root}" if root.is_dir() else f"{root}, which does not exist"
    sentences = [
        f"{name} is not prepared in {where}: missing {folder}/dataset_info.json, "
        f"{folder}/features.json and "
        f"{folder}/{name.split('/')[0]}-{part}.tfrecord-*.",
        f"Found version {', '.join(others)} of it, whose images may differ."
        if others
        else "",
        f"Where there is a network, run {prepare_command(name, root)}, then copy "
        f"{root / name} here if that was another machine; or name the folder that "
        "holds it with --data_dir.",
        published.note,
    ]
    return " ".join(filter(None, sentences))


def _prepare(name: str, root: pathlib.Path, split: str) -> None:
    """Downloads through TFDS, once it is known that this can work."""
    published = _PUBLISHED[name]
    if name.startswith("lsun") and importlib.util.find_spec("tensorflow_io") is None:
        raise InputError(_how_to_prepare(name, root, split))
    # TFDS tries a dead network for minutes.
    if not _reachable(published.host):
        raise InputError(
            f"Cannot download {name}: no answer from {published.host} within "
            f"{_SECONDS_TO_CONNECT:g} seconds. {_how_to_prepare(name, root, split)}"
        )
    import tensorflow_datasets as tfds

    try:
        tfds.builder(name, data_dir=root).download_and_prepare()
    except Exception as error:
        advice = _how_to_prepare(name, root, split)
        raise InputError(f"TFDS could not prepare {name}: {error}. {advice}") from error


def _reachable(host: str) -> bool:
    proxies = urllib.request.getproxies()
    proxy = None if urllib.request.proxy_bypass(host) else proxies.get("https")
    address = (host, 443)
    if proxy:
        parts = urllib.parse.urlsplit(proxy if "//" in proxy else f"//{proxy}")
        address = (parts.hostname, parts.port or 443)
    answered = threading.Event()

    def connect() -> None:
        try:
            with socket.create_connection(address, _SECONDS_TO_CONNECT):
                answered.set()
        except OSError:
            pass

    # The time limit of a connection does not cover looking the name up.
    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(_SECONDS_TO_CONNECT)
    return answered.is_set()
