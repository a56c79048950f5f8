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

import numpy as np

from fid.extractors.download import open_url
from fid.files import InputError

__all__ = ["SIZES", "find", "read"]

SIZES = {"train": 50_000, "test": 10_000}
_VERSION = "3.0.2"
_ARCHIVE = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
_SECONDS_TO_ANSWER = 5.0


def find(
    data_dir: str | os.PathLike[str] | None = None, download: bool = False
) -> pathlib.Path:
    """Finds the folder of the prepared files.

    Args:
        data_dir: TFDS's data folder; None means `$TFDS_DATA_DIR`, then
            `~/tensorflow_datasets`.
        download: Whether to let TFDS download and prepare what is not there.

    Returns:
        The folder `cifar10/3.*.*` in it; the newest, if there are several.

    Raises:
        InputError: It is not there, and was not to be or could not be downloaded.
    """
    data_dir = data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    root = pathlib.Path(data_dir).expanduser()
    if found := _prepared(root):
        return found
    command = (
        'python -c "import tensorflow_datasets as tfds; '
        f"tfds.builder('cifar10', data_dir='{root}').download_and_prepare()\""
    )
    missing = (
        f"CIFAR-10 is not prepared in {root}"
        f"{'' if root.is_dir() else ', which does not exist'}: missing "
        f"{root}/cifar10/{_VERSION}/dataset_info.json and what belongs to it."
    )
    advice = (
        f"Where there is a network, run {command}, then copy {root}/cifar10 here if "
        "that was another machine; or name the folder that holds it with --data_dir."
    )
    if not download:
        raise InputError(f"{missing} Use --download. {advice}")
    # TFDS tries a dead network for minutes.
    if not _answers(_ARCHIVE):
        raise InputError(
            f"{missing} Cannot download it: no answer from {_ARCHIVE} within "
            f"{_SECONDS_TO_ANSWER:g} seconds. {advice}"
        )
    import tensorflow_datasets as tfds

    try:
        tfds.builder("cifar10", data_dir=root).download_and_prepare()
    except Exception as error:
        raise InputError(f"TFDS could not prepare CIFAR-10: {error}. {advice}") from (
            error
        )
    if found := _prepared(root):
        return found
    raise InputError(f"TFDS prepared another version than {_VERSION}. {advice}")


def read(folder: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Reads both splits.

    Args:
        folder: As `find` returns it.

    Returns:
        uint8 arrays (n, 32, 32, 3) in the order of the ids, by "train" and "test".

    Raises:
        InputError: The files are damaged or incomplete, or are not CIFAR-10.
    """
    import tensorflow_datasets as tfds

    again = f"Delete {folder} and prepare it again."
    try:
        builder = tfds.builder_from_directory(folder)
        records = {
            split: [
                (record["id"].decode(), record["image"])
                for record in builder.as_dataset(split=split).as_numpy_iterator()
            ]
            for split in SIZES
        }
    except Exception as error:  # whatever TFDS and TensorFlow raise
        raise InputError(f"{folder} cannot be read: {error}. {again}") from error
    return {
        split: _in_order(split, records[split], f"{folder} ({split})", again)
        for split in SIZES
    }


def _in_order(
    split: str, records: list[tuple[str, np.ndarray]], where: str, again: str
) -> np.ndarray:
    size = SIZES[split]
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


def _prepared(root: pathlib.Path) -> pathlib.Path | None:
    # TFDS changes existing images only with the first number of a version.
    major = _VERSION.partition(".")[0]
    folders = {
        tuple(map(int, path.name.split("."))): path
        for path in (root / "cifar10").glob(f"{major}.*.*")
        if re.fullmatch(r"\d+\.\d+\.\d+", path.name)
        and (path / "dataset_info.json").is_file()
        and (path / "features.json").is_file()
    }
    return folders[max(folders)] if folders else None


def _answers(url: str) -> bool:
    request = urllib.request.Request(url, method="HEAD")
    try:
        open_url(request, _SECONDS_TO_ANSWER).close()
    except urllib.error.HTTPError:
        pass  # an answer
    except (OSError, http.client.HTTPException):
        return False
    return True
