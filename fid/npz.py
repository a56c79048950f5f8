"""NumPy's `.npy` and `.npz` files, which may be damaged or made to do harm.

The readers of images and of statistics share how an array's header is read, and which
errors can come of it.
"""

from __future__ import annotations

import contextlib
import lzma
import os
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO

import numpy as np

from fid.files import InputError, printable
from fid.mistaken import BEGINNING, check_local, other_kind

__all__ = ["DAMAGE", "opened", "read_header", "reading"]

# `zipfile` unpacks its table of contents as it stands, and NumPy parses a header as
# Python's syntax.
DAMAGE = (
    ArithmeticError,
    AttributeError,  # NumPy returns what an archive holds, though it is no array.
    EOFError,
    LookupError,
    RuntimeError,  # NotImplementedError and RecursionError are among its kinds.
    SyntaxError,
    TypeError,
    ValueError,
    lzma.LZMAError,
    struct.error,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
)
"""What reading a damaged archive or array may end in."""
# An error of NumPy repeats the header, so it is cut to this many characters.
_LONGEST = 200


@contextlib.contextmanager
def reading(path: str | os.PathLike[str], suffix: str = ".npz") -> Iterator[None]:
    """Turns whatever reading a file can end in into an `InputError` that names it.

    Args:
        path: The file, which is looked at first: a pipe or a device might never end.
        suffix: What kind of file is expected, for the message.

    Raises:
        InputError: It is an address or no regular file, or what is done in the context
            fails.

    Example:
        >>> with reading("x.npz"):
        ...     raise zlib.error("incorrect header check")
        Traceback (most recent call last):
        fid.files.InputError: x.npz is damaged or no .npz file: incorrect header \
check. Copy or make it again.
    """
    label = printable(path)
    check_local(path)
    if os.path.exists(path) and not os.path.isfile(path):
        kind = "a folder" if os.path.isdir(path) else "no regular file"
        raise InputError(f"Cannot read {label}: it is {kind}; name a file ({suffix}).")
    try:
        yield
    except InputError:
        raise
    except MemoryError as error:
        raise InputError(
            f"{label} claims more data than fits in memory; if it should, use a "
            "machine with more."
        ) from error
    except OSError as error:
        raise InputError(
            f"Cannot read {label}: {error.strerror or error}. Correct the path, or "
            "make the file readable."
        ) from error
    except DAMAGE as error:
        if found := _other_kind(path):
            what, advice = found
            raise InputError(f"{label} is {what}, no {suffix} file. {advice}") from None
        raise InputError(
            f"{label} is damaged or no {suffix} file: "
            f"{printable(str(error)[:_LONGEST])}. Copy or make it again."
        ) from error


@contextlib.contextmanager
def opened(path: str | os.PathLike[str]) -> Iterator[Mapping[str, np.ndarray]]:
    """Opens an `.npz` of arrays that hold no Python objects.

    Args:
        path: The file.

    Yields:
        Its arrays by name, each read when it is looked up.

    Raises:
        InputError: As for `reading`.
    """
    with (
        reading(path),
        # NumPy leaves a file open that is no archive.
        open(path, "rb") as file,
        np.load(file, allow_pickle=False) as arrays,
    ):
        yield _Arrays(arrays)


class _Arrays(Mapping[str, np.ndarray]):
    """The arrays of an archive. What else it holds, NumPy would give as bytes."""

    def __init__(self, archive: Mapping[str, Any]):
        self._archive = archive

    def __getitem__(self, name: str) -> np.ndarray:
        found = self._archive[name]
        if not isinstance(found, np.ndarray):
            raise ValueError(f"what it holds as {name} is no array")
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self._archive)

    def __len__(self) -> int:
        return len(self._archive)


def _other_kind(path: str | os.PathLike[str]) -> tuple[str, str] | None:
    try:
        with open(path, "rb") as file:
            return other_kind(file.read(BEGINNING))
    except OSError:  # What went wrong before is what there is to say.
        return None


def read_header(file: BinaryIO, what: str) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Reads the header of an array, of which not a byte is believed or unpickled.

    Args:
        file: At the array's first byte; left at the first one of the data.
        what: What to call the array in messages.

    Returns:
        The shape, whether the first axis varies fastest, and the type of the elements.

    Raises:
        InputError: It holds Python objects, or is in a format for other things.

    Example:
        >>> import io
        >>> file = io.BytesIO()
        >>> np.save(file, np.zeros((2, 3)))
        >>> _ = file.seek(0)
        >>> read_header(file, "array")
        ((2, 3), False, dtype('float64'))
    """
    version = np.lib.format.read_magic(file)
    read = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }.get(version)
    if read is None:
        raise InputError(
            f"{what} has version {version} of the format, which is for tables whose "
            "columns have names; save plain numbers."
        )
    shape, fortran, dtype = read(file)
    if dtype.hasobject:
        raise InputError(
            f"{what} holds Python objects, which are never unpickled; save plain "
            "numbers."
        )
    return shape, fortran, dtype
