"""The data sets that TensorFlow Datasets (TFDS) prepares, read from its files."""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import io
import logging
import os
import pathlib
import socket
import threading
import urllib.parse
import urllib.request

import numpy as np
import tensorflow as tf

from fid.files import InputError
from fid.tfds import (
    data_folder,
    find_prepared,
    prepare,
    prepare_advice,
    prepare_command,
    prepared_versions,
)
from tf_ttur.datasets import batches, pictures

__all__ = ["DATASETS", "DatasetSpec", "encoded_images", "load", "prepared_shards"]

_log = logging.getLogger(__name__)
# TFDS has shuffled the records when it wrote them; sixteen shards read side by side,
# shuffled within windows of some 60-120 MB of encoded images, shuffle them again.
_SHARDS_AT_ONCE = 16
_WINDOW = 8192
_SECONDS_TO_CONNECT = 3.0


@dataclasses.dataclass(frozen=True)
class DatasetSpec:
    """A data set that TFDS prepares.

    Attributes:
        version: The version known to work. TFDS changes existing examples only with the
            first number, so any version that shares it is read.
        host: Where TFDS downloads it from.
        size: Side of the square images that the paper used.
        source: What TFDS calls it; None for the name that it has here.
        crop: Side of the central square cut out first; None for the largest one.
        squash: Whether the whole image is scaled instead, out of its proportions.
        in_memory: Whether the decoded images are held in memory.
        classes: How many classes there are of the feature `label`; None where a record
            has no such feature.
        split: The part that the paper trained on.
        unlabelled: The part whose labels are kept secret, and stand as -1.
        note: What else a user without the files should know.
    """

    version: str
    host: str
    size: int
    source: str | None = None
    crop: int | None = None
    squash: bool = False
    in_memory: bool = False
    classes: int | None = None
    split: str = "train"
    unlabelled: str | None = None
    note: str = ""


_CELEBA_QUOTA = (
    "TFDS fetches CelebA from Google Drive, which refuses once the day's quota is used "
    "up: try again another day, or copy the prepared folder from somebody who has it."
)

DATASETS = {
    "cifar10": DatasetSpec(
        "3.0.2", "www.cs.toronto.edu", 32, in_memory=True, classes=10
    ),
    "svhn_cropped": DatasetSpec(
        "3.1.0", "ufldl.stanford.edu", 32, in_memory=True, classes=10
    ),
    "imagenet2012": DatasetSpec(
        "5.1.0",
        "image-net.org",
        128,
        classes=1000,
        unlabelled="test",
        note=(
            "TFDS prepares ImageNet from ILSVRC2012_img_train.tar and "
            "ILSVRC2012_img_val.tar, which image-net.org gives to those who register: "
            "put both into the folder downloads/manual beside it."
        ),
    ),
    "celeb_a": DatasetSpec(
        "2.1.0",
        "drive.google.com",
        64,
        crop=108,
        split="all",
        note=(
            f"{_CELEBA_QUOTA} By hand: get img_align_celeba.zip with a browser, unpack "
            "it, cut the central 108x108 out of every image, save that as PNG and use "
            "--dataset=folder (uncropped images are another data set, whose distances "
            "do not compare with the published ones)."
        ),
    ),
    "celeb_a_squashed": DatasetSpec(
        "2.1.0",
        "drive.google.com",
        64,
        source="celeb_a",
        squash=True,
        note=_CELEBA_QUOTA,
    ),
    "lsun/bedroom": DatasetSpec(
        "3.1.0",
        "dl.yf.io",
        64,
        note=(
            "Preparing LSUN needs tensorflow_io, which stops at an older TensorFlow: "
            "prepare it in an environment that has both. Or name with --data_dir "
            "LSUN's own export, the folder of bedroom_train_lmdb or of its data.mdb; "
            "or a folder of numbered folders of images, 0, 1 and so on, such as the "
            "TTUR authors' lsun_cropped; or take --dataset=folder for images in any "
            "other folders."
        ),
    ),
}


def load(
    name: str,
    data_dir: str | os.PathLike[str] | None,
    size: int,
    split: str,
    download: bool,
) -> batches.ImageData:
    """Loads a set that TFDS has prepared, or prepares it.

    Args:
        name: One of `DATASETS`.
        data_dir: TFDS's folder; None for `$TFDS_DATA_DIR`, else
            `~/tensorflow_datasets`.
        size: Side of the images.
        split: TFDS's name of the part; several joined by "+"; or "all".
        download: Let TFDS download and prepare what is missing.

    Returns:
        The set.

    Raises:
        InputError: The files are missing or damaged, or there is no such split.
    """
    spec = DATASETS[name]
    source = spec.source or name
    root = data_folder(data_dir)
    folder = find_prepared(source, root, spec.version)
    if folder is None:
        if not download:
            raise InputError(_how_to_prepare(name, root, split))
        _prepare(name, root, split)
        folder = find_prepared(source, root, spec.version)
        if folder is None:
            raise InputError(_how_to_prepare(name, root, split))
    shards, count = prepared_shards(source, root, folder, split)
    classes = spec.classes
    if spec.unlabelled and {spec.unlabelled, "all"} & {*split.split("+")}:
        classes = None

    def decode(encoded: np.ndarray) -> np.ndarray:
        files = [io.BytesIO(x) for x in encoded]
        names = [f"an image of {name}"] * len(files)
        picture = functools.partial(
            pictures.picture, crop=spec.crop, size=size, squash=spec.squash
        )
        return np.stack(pictures.each_file(picture, files, names))

    data = batches.ImageData(
        name=name,
        split=split,
        num_examples=count,
        image_shape=(size, size, 3),
        elements=functools.partial(encoded_images, shards, count),
        decode=decode,
        num_classes=classes,
        labelled=functools.partial(encoded_images, shards, count, labels=True)
        if classes
        else None,
    )
    if not spec.in_memory:
        return data
    _log.info("Reading %d images of %s into memory.", count, name)
    images = np.concatenate(list(data.images(1000)))
    if not classes:
        return batches.in_memory(name, split, images)

    @functools.cache
    def labels() -> np.ndarray:
        # A second pass over the files, in the order of the first. It is made when a
        # pipeline is, which TensorFlow traces: so out of the trace.
        with tf.init_scope():
            found = data.labelled(None).map(lambda image, label: label).batch(1000)
            return np.concatenate(list(found.as_numpy_iterator()))

    return batches.in_memory(name, split, images, classes, labels)


def encoded_images(
    shards: list[str],
    count: int,
    seed: tf.Tensor | None,
    *,
    shards_at_once: int = _SHARDS_AT_ONCE,
    window: int = _WINDOW,
    labels: bool = False,
) -> tf.data.Dataset:
    """Gives the encoded images in TFDS's record files.

    Args:
        shards: The files.
        count: How many records they have together; another number is an error.
        seed: int64 of shape (2,), which decides the order; None for that of the files.
        shards_at_once: Files that are read side by side, in an order by the seed.
        window: Records that are shuffled among each other.
        labels: Whether to give their labels, too.

    Returns:
        The encoded images, scalar strings, as a `tf.data.Dataset`; with labels, pairs
        of these and int32 scalars.
    """
    files = tf.constant(shards)
    if seed is None:
        records = tf.data.TFRecordDataset(files)
    else:
        files = tf.gather(files, batches.permutation(len(shards), seed))
        records = tf.data.Dataset.from_tensor_slices(files).interleave(
            tf.data.TFRecordDataset,
            cycle_length=shards_at_once,
            block_length=16,
            num_parallel_calls=batches.PARALLEL,
            deterministic=True,
        )

    def parse(records: tf.Tensor) -> tuple[tf.Tensor, ...]:
        # TFDS stores an image as its encoded file.
        spec = {"image": tf.io.FixedLenFeature([], tf.string)}
        if labels:
            spec["label"] = tf.io.FixedLenFeature([], tf.int64)
        parsed = tf.io.parse_example(records, spec)
        images = parsed["image"]
        return (images, tf.cast(parsed["label"], tf.int32)) if labels else (images,)

    def shuffled(number: tf.Tensor, parts: tuple[tf.Tensor, ...]) -> tf.data.Dataset:
        if seed is not None:
            window_seed = tf.random.experimental.stateless_fold_in(seed, number)
            order = batches.permutation(tf.size(parts[0]), window_seed)
            parts = tuple(tf.gather(part, order) for part in parts)
        return tf.data.Dataset.from_tensor_slices(parts if labels else parts[0])

    windows = records.batch(window).map(parse).prefetch(1)
    elements = windows.enumerate().flat_map(shuffled)
    # A shard cut short at a record's end looks whole to the reader, and would shift
    # every later epoch.
    return elements.apply(tf.data.experimental.assert_cardinality(count))


def prepared_shards(
    name: str, root: pathlib.Path, folder: pathlib.Path, split: str
) -> tuple[list[str], int]:
    """Returns the record files of a split and the number of its examples."""
    import tensorflow_datasets as tfds

    try:
        info = tfds.builder_from_directory(folder).info
    except MemoryError:
        raise
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


def _how_to_prepare(name: str, root: pathlib.Path, split: str) -> str:
    spec = DATASETS[name]
    source = spec.source or name
    folder = root / source / spec.version
    part = "*" if split == "all" else split.split("+")[0]
    others = [".".join(map(str, x)) for x in prepared_versions(source, root)]
    where = f"{root}" if root.is_dir() else f"{root}, which does not exist"
    sentences = [
        f"{name} is not prepared in {where}: missing {folder}/dataset_info.json, "
        f"{folder}/features.json and "
        f"{folder}/{source.split('/')[0]}-{part}.tfrecord-*.",
        f"Found version {', '.join(others)} of it, whose images may differ."
        if others
        else "",
        prepare_advice(source, root),
        spec.note,
    ]
    return " ".join(filter(None, sentences))


def _prepare(name: str, root: pathlib.Path, split: str) -> None:
    """Downloads through TFDS, once it is known that this can work."""
    spec = DATASETS[name]
    if name.startswith("lsun") and importlib.util.find_spec("tensorflow_io") is None:
        raise InputError(_how_to_prepare(name, root, split))
    # TFDS tries a dead network for minutes.
    if not _reachable(spec.host):
        raise InputError(
            f"Cannot download {name}: no answer from {spec.host} within "
            f"{_SECONDS_TO_CONNECT:g} seconds. {_how_to_prepare(name, root, split)}"
        )
    prepare(spec.source or name, root, advice=_how_to_prepare(name, root, split))


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
