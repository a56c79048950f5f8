"""Images in `.npy` and `.npz` files, read piece by piece, never unpickled."""

from __future__ import annotations

import contextlib
import math
import os
import pathlib
import re
import zipfile
from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np

from fid.files import InputError, printable, user_path
from fid.npz import read_header, reading
from fid.sources.decoding import MAX_PIXELS
from fid.sources.pixels import check_layout, with_channel_axis

__all__ = ["ArrayFile", "is_statistics", "split_member"]

# An archive of statistics holds these arrays.
_STATISTICS = {"mu.npy", "sigma.npy"}
# From an archive of several arrays, the first of these names is taken.
_NAMES = ("images.npy", "arr_0.npy")


class ArrayFile:
    """An array of images in a file.

    An `.npy` file is mapped into memory. The array of an `.npz` file, compressed or
    not, is read as a stream, so that it may be larger than the memory and its checksum
    is compared.

    Args:
        path: The file.
        member: Which array of an `.npz` file; None where it has one, or one that is
            named `images` or `arr_0`.

    Attributes:
        shape: (n, H, W, C); the axis of a single channel may be missing in the file.
        dtype: Of whole numbers or floats.

    Raises:
        InputError: The file is damaged, holds Python objects or no images, or no such
            array.
    """

    def __init__(self, path: str | os.PathLike[str], member: str | None = None):
        self._path = pathlib.Path(path)
        self._label = printable(path)
        if member is not None:
            self._label += f":{printable(member)}"
        with reading(path, self._path.suffix):
            self._member = None
            if self._path.suffix.lower() == ".npz":
                with zipfile.ZipFile(self._path) as archive:
                    self._member = self._choose(archive, member)
            with self._open() as file:
                self._stored, self._fortran, self.dtype = read_header(file, self._label)
                self._offset = file.tell()
        self.shape = with_channel_axis(self._stored, self._label)
        check_layout(self.shape, self.dtype, self._label)
        _, height, width, _ = self.shape
        if height * width > MAX_PIXELS:
            raise InputError(
                f"{self._label} claims images of {width} x {height} pixels, more than "
                f"{MAX_PIXELS:,}."
            )
        found = self._size() - self._offset
        claimed = math.prod(self.shape) * self.dtype.itemsize
        if found != claimed:
            raise InputError(
                f"{self._label} is damaged or cut short: its header claims {claimed:,} "
                f"bytes of pixels, and there are {found:,}."
            )

    def pieces(self, size: int) -> Iterator[np.ndarray]:
        """Yields the images in order, `size` at a time, the last piece what is left.

        Args:
            size: Images in a piece.

        Yields:
            Arrays (<= size, H, W, C), which may be read-only.

        Raises:
            InputError: The file is damaged.
        """
        with reading(self._path, self._path.suffix):
            if self._member is None or self._fortran:
                yield from self._slices(size)
            else:
                yield from self._stream(size)

    def _slices(self, size: int) -> Iterator[np.ndarray]:
        order = "F" if self._fortran else "C"
        if self._member is None:
            images = np.memmap(
                self._path, self.dtype, "r", self._offset, self._stored, order
            )
        else:
            # The first axis varies fastest, so an image's bytes are spread over the
            # whole stream.
            with self._open() as file:
                file.read(self._offset)
                data = file.read()
            images = np.frombuffer(data, self.dtype).reshape(self._stored, order=order)
        images = images.reshape(self.shape)
        for start in range(0, len(images), size):
            yield images[start : start + size]

    def _stream(self, size: int) -> Iterator[np.ndarray]:
        count, *shape = self.shape
        with self._open() as file:
            file.read(self._offset)
            for start in range(0, count, size):
                n = min(size, count - start)
                data = file.read(n * math.prod(shape) * self.dtype.itemsize)
                yield np.frombuffer(data, self.dtype).reshape(n, *shape)
            # At the end of the stream zipfile compares the checksum.
            file.read(1)

    @contextlib.contextmanager
    def _open(self) -> Iterator[BinaryIO]:
        if self._member is None:
            with open(self._path, "rb") as file:
                yield file
        else:
            with (
                zipfile.ZipFile(self._path) as archive,
                archive.open(self._member) as file,
            ):
                yield file

    def _size(self) -> int:
        if self._member is None:
            return self._path.stat().st_size
        return self._member.file_size

    def _choose(self, archive: zipfile.ZipFile, named: str | None) -> zipfile.ZipInfo:
        names = archive.namelist()
        arrays = [name for name in names if name.endswith(".npy")]
        found = ", ".join(printable(name[:-4]) for name in arrays[:20]) or "(none)"
        if named == "":
            raise InputError(
                f"{self._label} ends in a colon without the name of an array; it holds "
                f"the arrays {found}."
            )
        if named is not None:
            chosen = [name for name in arrays if name == f"{named}.npy"]
            if not chosen:
                raise InputError(
                    f"{printable(self._path)} has no array {printable(named)}: it "
                    f"holds the arrays {found}."
                )
        else:
            if other := [name for name in names if not name.endswith(".npy")]:
                raise InputError(
                    f"{self._label} holds {printable(other[0])}, which is no array; "
                    f"expected an .npz of one array of images, or {self._label}:NAME "
                    "for one of several."
                )
            preferred = [name for name in _NAMES if name in names]
            chosen = [name for name in names if name in preferred[:1]] or names
            if not preferred and len(set(names)) != 1:
                if set(names) >= _STATISTICS:
                    raise InputError(
                        f"{self._label} holds statistics (mu and sigma), which are no "
                        "images; name the images that they were computed from."
                    )
                raise InputError(
                    f"{self._label} holds the arrays {found}; expected one array of "
                    "images, or `images`, or `arr_0`, or the statistics mu and sigma. "
                    f"Name one of several as {self._label}:NAME."
                )
        if len(chosen) > 1:
            raise InputError(
                f"{self._label} holds {len(chosen)} arrays of the name "
                f"{printable(chosen[0][:-4])}, of which readers take this or that one; "
                "make it again with one."
            )
        member = archive.getinfo(chosen[0])
        if member.flag_bits & 1:
            raise InputError(
                f"{self._label} is encrypted; decrypt it before it is measured."
            )
        return member


def split_member(path: str | os.PathLike[str]) -> tuple[pathlib.Path, str | None]:
    """Splits the name of an array in an `.npz` file, as in `file.npz:x_test`.

    Args:
        path: Such a name, or any path. What exists under the whole name is that.

    Returns:
        The path of the file, with `~` made into the home folder, and the name of the
        array in it; None where `path` is a path and no more.

    Example:
        >>> import tempfile
        >>> path = pathlib.Path(tempfile.mkdtemp(), "a:b.npz")
        >>> path.touch()
        >>> [split_member(f"{path}{end}")[1] for end in ("", ":x_test", ":a/b:c")]
        [None, 'x_test', 'a/b:c']
    """
    text = os.fspath(user_path(path))
    if not os.path.exists(text):
        # Folders, drives of Windows and arrays may have a colon in their names.
        for colon in re.finditer(r"(?<=\.npz):", text, re.IGNORECASE):
            if os.path.isfile(text[: colon.start()]):
                return pathlib.Path(text[: colon.start()]), text[colon.end() :]
    return pathlib.Path(text), None


def is_statistics(path: Any) -> bool:
    """Says whether a path is an `.npz` file that holds `mu` and `sigma`.

    Args:
        path: Anything.

    Returns:
        Whether it is. Nothing but the archive's table of contents is read.
    """
    if not isinstance(path, str | os.PathLike):
        return False
    path = user_path(path)
    if path.suffix.lower() != ".npz" or not path.is_file():
        return False
    try:
        with reading(path), zipfile.ZipFile(path) as archive:
            return set(archive.namelist()) >= _STATISTICS
    except InputError:
        return False
