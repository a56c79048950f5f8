"""A folder of images, with all its folders, as a set.

Which files are its images, in which order, and how they are decoded, says
`fid.sources`: what is trained on is what is measured.
"""

from __future__ import annotations

import collections
import concurrent.futures
import functools
import itertools
import logging
import os
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from fid.files import InputError
from fid.mistaken import local_path
from fid.sources.imagefiles import find_images
from tf_ttur.datasets import batches, pictures

__all__ = ["decoder", "load", "names_in"]

_log = logging.getLogger(__name__)
# The checks of so many files are under way at a time.
_CHUNK = 4096


def load(
    name: str, folder: str | os.PathLike[str], size: int, split: str
) -> batches.ImageData:
    """Loads the images of a folder tree: the central square of each, scaled.

    Args:
        name: The name of the set.
        folder: The folder.
        size: Side of the images.
        split: The name of the part that the folder is.

    Returns:
        The set. Only the paths are in memory.

    Raises:
        InputError: There is no such folder, no image in it, or there are files that
            are none; the message names them. What is left out is logged.
    """
    folder = local_path(folder)
    names = names_in(folder)
    paths = [os.path.join(folder, name) for name in names]
    classes, labels = _classes(names)
    return batches.ImageData(
        name=name,
        split=split,
        num_examples=len(paths),
        image_shape=(size, size, 3),
        elements=functools.partial(batches.indices, len(paths)),
        decode=decoder(paths, size),
        num_classes=len(classes) or None,
        labelled=functools.partial(batches.indices, len(paths), labels=lambda: labels)
        if classes
        else None,
    )


def names_in(folder: str | os.PathLike[str], beside: str | None = None) -> list[str]:
    """Finds the images of a folder tree, and looks at each.

    Args:
        folder: The folder.
        beside: Ending of the files that belong to the images, one to each: they are not
            among those whose being left out is logged.

    Returns:
        The paths of the images in the folder, in order.

    Raises:
        InputError: There is no such folder, no image in it, or there are files that
            are none; the message names them. What is left out is logged.
    """
    if not (folder := local_path(folder)).is_dir():
        raise InputError(f"{folder} is not a folder; --data_dir names one of images.")
    found = find_images(os.fspath(folder), recursive=True)
    if beside:
        stems = {pathlib.PurePath(name).with_suffix("") for name in found.names}
        belong = collections.Counter({beside: len(stems)})
        found = found._replace(left_out=found.left_out - belong)
    for warning in found.warnings():
        _log.warning("%s.", warning)
    paths = [os.path.join(folder, name) for name in found.names]
    # Such files are found now rather than hours into the training. What only shows when
    # all pixels are decoded, such as a truncated JPEG, is an error when a file is read.
    with concurrent.futures.ThreadPoolExecutor() as pool:  # Disks like many requests.
        check_all = functools.partial(_map_in_chunks, pool)
        pictures.each_file(pictures.check, paths, paths, check_all)
    return found.names


def decoder(paths: Sequence[str], size: int) -> Callable[[np.ndarray], np.ndarray]:
    """Returns what reads images by their numbers, as `ImageData` takes it.

    Args:
        paths: The files of all images.
        size: Side of the central square of each, scaled.
    """

    def decode(indices: np.ndarray) -> np.ndarray:
        chosen = [paths[index] for index in indices]
        picture = functools.partial(pictures.picture, crop=None, size=size)
        return np.stack(pictures.each_file(picture, chosen, chosen))

    return decode


def _classes(names: Sequence[str]) -> tuple[list[str], np.ndarray]:
    """Reads classes from the folders that images are in, one level down.

    Args:
        names: Paths in the folder tree.

    Returns:
        The folders' names in order, and each image's label, int32. No names where an
        image is on another level.
    """
    parents = [pathlib.PurePath(name).parts[:-1] for name in names]
    if any(len(parts) != 1 for parts in parents):
        return [], np.zeros(0, np.int32)
    folders = [parts[0] for parts in parents]
    classes, labels = np.unique(folders, return_inverse=True)
    return classes.tolist(), labels.astype(np.int32)


def _map_in_chunks(
    pool: concurrent.futures.Executor,
    function: Callable[[Any], Any],
    files: Sequence[Any],
) -> Iterator[Any]:
    # An executor's map makes a future of every file at once, which would take
    # gigabytes for LSUN's three million.
    starts = range(0, len(files), _CHUNK)
    chunks = (pool.map(function, files[i : i + _CHUNK]) for i in starts)
    return itertools.chain.from_iterable(chunks)
