"""CIFAR-10 in its own order, from the files that TFDS prepares.

TFDS shuffles the records when it writes them, by a hash of their number. The feature
`id` keeps the number, `train_00000` and so on, counted through data_batch_1 to
data_batch_5 (`test_00000`: through test_batch) of the binary archive. Recipes that
choose images by index, as those of torch-fidelity do, mean this order.
"""

from __future__ import annotations

import http.client
import os
import pathlib
import re
import urllib.error
import urllib.request
from collections.abc import Mapping

import numpy as np

from fid.extractors.download import open_url
from fid.files import InputError
from fid.tfds import data_folder, find_prepared, prepare, prepare_advice

__all__ = ["SIZES", "find", "read"]

SIZES = {"train": 50_000, "test": 10_000}
_VERSION = "3.0.2"
_ARCHIVE = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"


def find(
    data_dir: str | os.PathLike[str] | None = None,
    download: bool = False,
    *,
    url: str = _ARCHIVE,
    seconds: float = 5.0,
) -> pathlib.Path:
    """Finds the folder of the prepared files.

    Args:
        data_dir: TFDS's data folder; None means `$TFDS_DATA_DIR`, then
            `~/tensorflow_datasets`.
        download: Whether to let TFDS download and prepare what is not there.
        url: What must answer before TFDS is let to download: the archive.
        seconds: How long to wait for that answer.

    Returns:
        The folder `cifar10/3.*.*` in it; the newest, if there are several.

    Raises:
        InputError: It is not there, and was not to be or could not be downloaded.
    """
    root = data_folder(data_dir)
    if found := find_prepared("cifar10", root, _VERSION):
        return found
    advice = prepare_advice("cifar10", root)
    missing = (
        f"CIFAR-10 is not prepared in {root}"
        f"{'' if root.is_dir() else ', which does not exist'}: missing "
        f"{root}/cifar10/{_VERSION}/dataset_info.json and what belongs to it."
    )
    if not download:
        raise InputError(f"{missing} Use --download. {advice}")
    if not _answers(url, seconds):
        raise InputError(
            f"{missing} Cannot download it: no answer from {url} within "
            f"{seconds:g} seconds. {advice}"
        )
    prepare("cifar10", root, advice)
    if found := find_prepared("cifar10", root, _VERSION):
        return found
    raise InputError(f"TFDS prepared another version than {_VERSION}. {advice}")


def read(
    folder: str | os.PathLike[str], sizes: Mapping[str, int] | None = None
) -> dict[str, np.ndarray]:
    """Reads both splits.

    Args:
        folder: As `find` returns it.
        sizes: The number of images of each split; None means `SIZES`.

    Returns:
        uint8 arrays (n, 32, 32, 3) in the order of the ids, by "train" and "test".

    Raises:
        InputError: The files are damaged or incomplete, or are not CIFAR-10.
    """
    import tensorflow_datasets as tfds

    sizes = SIZES if sizes is None else sizes
    again = f"Delete {folder} and prepare it again."
    try:
        builder = tfds.builder_from_directory(folder)
        records = {
            split: [
                (record["id"].decode(), record["image"])
                for record in builder.as_dataset(split=split).as_numpy_iterator()
            ]
            for split in sizes
        }
    except MemoryError:
        raise
    except Exception as error:  # TFDS and TensorFlow raise many kinds.
        raise InputError(f"{folder} cannot be read: {error}. {again}") from error
    return {
        split: _in_order(split, size, records[split], f"{folder} ({split})", again)
        for split, size in sizes.items()
    }


def _in_order(
    split: str,
    size: int,
    records: list[tuple[str, np.ndarray]],
    where: str,
    again: str,
) -> np.ndarray:
    """Returns the images of a split in the order of their ids."""
    if len(records) != size:
        raise InputError(
            f"{where} holds {len(records):,} images, expected {size:,}. {again}"
        )
    images = np.empty([size, 32, 32, 3], np.uint8)
    missing = np.ones(size, bool)
    for name, image in records:
        found = re.fullmatch(rf"{split}_(\d{{5}})", name)
        index = int(found[1]) if found else size
        if index >= size or not missing[index] or image.shape != images.shape[1:]:
            raise InputError(
                f"{where} holds an image {name!r} of shape {image.shape}, expected "
                f"each of {split}_00000 to {split}_{size - 1:05d} once, of shape "
                f"{images.shape[1:]}. {again}"
            )
        images[index], missing[index] = image, False
    return images


def _answers(url: str, seconds: float) -> bool:
    request = urllib.request.Request(url, method="HEAD")
    try:
        open_url(request, seconds).close()
    except urllib.error.HTTPError:
        pass  # An error is an answer, too.
    except (OSError, http.client.HTTPException):
        return False
    return True
