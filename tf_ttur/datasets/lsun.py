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
from tf_ttur.datasets import batches, folder, pictures

__all__ = ["load"]

_log = logging.getLogger(__name__)
_FILE = "data.mdb"
# As LSUN's own download names them, by TFDS's name of the split.
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
    root = pathlib.Path(root).expanduser()
    exports = {x: root / y for x, y in _EXPORTS.items() if (root / y / _FILE).is_file()}
    if exports:
        if split not in exports:
            raise InputError(
                f"{name} in {root} has no split {split!r}: choose from "
                f"{', '.join(exports)}."
            )
        return _load_export(name, exports[split], size, split)
    if (root / _FILE).is_file():
        read = _load_export
    elif (root / "0").is_dir():
        read = folder.load
    else:
        return None
    if split not in ("train", "all"):
        raise InputError(f"{name} in {root} has no split {split!r}: it is one set.")
    return read(name, root, size, split)


def _load_export(
    name: str, place: pathlib.Path, size: int, split: str
) -> batches.ImageData:
    export = _Export(place)
    _log.info("%s: %d images in %s.", name, len(export), export.path)

    def decode(rows: np.ndarray) -> np.ndarray:
        files = map(io.BytesIO, export.read(rows))
        names = [f"{export.key(row)!r} in {export.path}" for row in rows]
        picture = functools.partial(pictures.picture, crop=None, size=size)
        return np.stack(pictures.each_file(picture, list(files), names))

    decode(np.arange(1))  # An LMDB of something else is found now.
    return batches.ImageData(
        name=name,
        split=split,
        num_examples=len(export),
        image_shape=(size, size, 3),
        _elements=functools.partial(batches.rows, len(export)),
        _decode=decode,
    )


class _Export:
    """The values of an LMDB by number, in the order of their keys."""

    def __init__(self, place: pathlib.Path):
        self.path = place / _FILE
        try:
            import lmdb
        except ModuleNotFoundError as error:
            raise InputError(
                f"{self.path} is read with the package lmdb, which is not installed: "
                "pip install 'tf-ttur[lsun]'."
            ) from error
        self._error = lmdb.Error
        # One buffer and where each key ends: three million objects take far more.
        self._keys, self._ends = bytearray(), array.array("q", [0])
        try:
            self._environment = _opened(os.path.realpath(place))
            with self._environment.begin() as transaction:
                for key in transaction.cursor().iternext(values=False):
                    self._keys += key
                    self._ends.append(len(self._keys))
        except (lmdb.Error, OSError) as error:
            raise self._damaged(error) from error
        if not len(self):
            raise InputError(
                f"{self.path} has no entries; expected images by key, such as "
                "LSUN's bedroom_train_lmdb."
            )

    def __len__(self) -> int:
        return len(self._ends) - 1

    def key(self, row: int) -> bytes:
        return bytes(self._keys[self._ends[row] : self._ends[row + 1]])

    def read(self, rows: np.ndarray) -> list[bytes]:
        try:
            with self._environment.begin() as transaction:
                return [transaction.get(self.key(row), b"") for row in rows]
        except self._error as error:
            raise self._damaged(error) from error

    def _damaged(self, what: object) -> InputError:
        return InputError(
            f"{self.path} is no LMDB, or is damaged ({what}); expected LSUN's export, "
            "such as bedroom_train_lmdb: copy or download it again."
        )


@functools.cache  # lmdb refuses to open a file twice in a process.
def _opened(place: str) -> Any:
    import lmdb

    size = os.path.getsize(os.path.join(place, _FILE))
    environment = lmdb.open(
        place, readonly=True, lock=False, create=False, readahead=False
    )
    pages = environment.info()["last_pgno"] + 1
    expected = pages * environment.stat()["psize"]
    # LMDB would end the program where it reads past the end of its file.
    if size < expected:
        environment.close()
        raise OSError(f"{size:,} bytes, cut short of {expected:,}")
    return environment
