"""LSUN's bedrooms as their authors give them, and as the TTUR authors kept them.

The former is an LMDB, a file `data.mdb` of encoded images by key; the latter folders
`0`, `1`, ..., `303` of 64x64 JPEGs, which were used as they are (how they were cropped
is not known).
"""

from __future__ import annotations

import array
import functools
import io
import logging
import os
import pathlib
from typing import Any

import numpy as np

from fid.files import InputError
from fid.mistaken import local_path
from tf_ttur.datasets import batches, folder, pictures

__all__ = ["load"]

_log = logging.getLogger(__name__)
_DATABASE = "data.mdb"
# LSUN's own download names its folders so; the keys are TFDS's names of the splits.
_EXPORTS = {"train": "bedroom_train_lmdb", "validation": "bedroom_val_lmdb"}


def load(
    name: str, root: str | os.PathLike[str], size: int, split: str
) -> batches.ImageData | None:
    """Loads the LMDB or the numbered folders that `root` holds.

    A damaged image in an LMDB is an error like any other, and so is a file cut short.
    But LMDB trusts the structure of its pages: damage to that can end the program, so
    compare the checksum of a download.

    Args:
        name: The name of the set.
        root: The folder of `data.mdb`, of `bedroom_train_lmdb`, or of the folders of
            images, the first of which is named `0`.
        size: Side of the images: the central square is scaled to it.
        split: "train"; with `bedroom_val_lmdb` beside it, also "validation".

    Returns:
        The set; None where `root` holds none of these.

    Raises:
        InputError: The files are damaged, or there is no such split.
    """
    root = local_path(root)
    exports = {
        part: root / export
        for part, export in _EXPORTS.items()
        if (root / export / _DATABASE).is_file()
    }
    if exports:
        if split not in exports:
            raise InputError(
                f"{name} in {root} has no split {split!r}: choose from "
                f"{', '.join(exports)}."
            )
        return _load_export(name, exports[split], size, split)
    if (root / _DATABASE).is_file():
        read = _load_export
    elif (root / "0").is_dir():
        read = folder.load
    else:
        return None
    if split not in ("train", "all"):
        raise InputError(f"{name} in {root} has no split {split!r}: it is one set.")
    return read(name, root, size, split)


def _load_export(
    name: str, directory: pathlib.Path, size: int, split: str
) -> batches.ImageData:
    export = _Export(directory)
    _log.info("%s: %d images in %s.", name, len(export), export.path)

    def decode(indices: np.ndarray) -> np.ndarray:
        files = map(io.BytesIO, export.read(indices))
        names = [f"{export.key(index)!r} in {export.path}" for index in indices]
        picture = functools.partial(pictures.picture, crop=None, size=size)
        return np.stack(pictures.each_file(picture, list(files), names))

    decode(np.arange(1))  # An LMDB of something else is found now.
    return batches.ImageData(
        name=name,
        split=split,
        num_examples=len(export),
        image_shape=(size, size, 3),
        elements=functools.partial(batches.indices, len(export)),
        decode=decode,
    )


class _Export:
    """The values of an LMDB by number, in the order of their keys."""

    def __init__(self, directory: pathlib.Path):
        self.path = directory / _DATABASE
        try:
            import lmdb
        except ModuleNotFoundError as error:
            raise InputError(
                f"{self.path} is read with the package lmdb, which is not installed: "
                "pip install 'tf-ttur[lsun]'."
            ) from error
        self._error = lmdb.Error
        # One buffer and the ends of its keys take far less than three million objects.
        self._keys, self._ends = bytearray(), array.array("q", [0])
        try:
            self._environment = _open_environment(os.path.realpath(directory))
            with self._environment.begin() as transaction:
                for key in transaction.cursor().iternext(values=False):
                    self._keys += key
                    self._ends.append(len(self._keys))
        except (lmdb.Error, OSError) as error:
            raise self._damage_error(error) from error
        if not len(self):
            raise InputError(
                f"{self.path} has no entries; expected images by key, such as "
                "LSUN's bedroom_train_lmdb."
            )

    def __len__(self) -> int:
        return len(self._ends) - 1

    def key(self, index: int) -> bytes:
        return bytes(self._keys[self._ends[index] : self._ends[index + 1]])

    def read(self, indices: np.ndarray) -> list[bytes]:
        try:
            with self._environment.begin() as transaction:
                return [transaction.get(self.key(index), b"") for index in indices]
        except self._error as error:
            raise self._damage_error(error) from error

    def _damage_error(self, reason: object) -> InputError:
        return InputError(
            f"{self.path} is no LMDB, or is damaged ({reason}); expected LSUN's "
            "export, such as bedroom_train_lmdb: copy or download it again."
        )


# lmdb refuses to open a file twice in a process.
@functools.cache
def _open_environment(directory: str) -> Any:
    import lmdb

    size = os.path.getsize(os.path.join(directory, _DATABASE))
    environment = lmdb.open(
        directory, readonly=True, lock=False, create=False, readahead=False
    )
    pages = environment.info()["last_pgno"] + 1
    expected = pages * environment.stat()["psize"]
    # LMDB would end the program where it reads past the end of its file.
    if size < expected:
        environment.close()
        raise OSError(f"{size:,} bytes, cut short of {expected:,}")
    return environment
