"""Sources of encoded images: folders, archives and lists of files.

They are decoded ahead on other threads while the consumer works; see
`fid.sources.decoding` for what becomes of each kind of image. Their order is that of
the names: by code points of the path below the folder or in the archive, with `/`
between its parts.
"""

from __future__ import annotations

import abc
import collections
import contextlib
import os
import stat
import threading
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from fid.files import InputError, printable
from fid.mistaken import local_path
from fid.npz import reading
from fid.sources.decoding import (
    IMAGE_SUFFIXES,
    LOSSY_SUFFIXES,
    MAX_FILE_BYTES,
    Decoded,
    decode,
)
from fid.sources.lookahead import Admit, in_order
from fid.sources.pixels import Seen
from fid.sources.source import Source, batched

__all__ = [
    "FilesSource",
    "FolderSource",
    "Found",
    "ZipSource",
    "find_images",
    "is_shown",
    "read_file",
]

# A message and the provenance name at most this many bad images.
_MAX_NAMES = 20


class Found(NamedTuple):
    """What a folder or an archive holds.

    Attributes:
        label: What to call it in messages.
        names: The images, with `/` between the parts of their paths, in order.
        left_out: How many other files there are, by their endings. What is hidden does
            not count.
        folders: How many folders were not entered.
    """

    label: str
    names: list[str]
    left_out: collections.Counter[str]
    folders: int = 0

    def warnings(self) -> list[str]:
        """Says what was left out, if anything, a sentence each."""
        found = []
        if count := self.left_out.total():
            kinds = "; ".join(
                f"{number:,} {printable(ending)}" for ending, number in self._endings()
            )
            found.append(
                "files whose names are not those of images are left out of "
                f"{self.label}, {count:,} in all: {kinds}"
            )
        if self.folders:
            found.append(
                f"folders of {self.label} are not entered, {self.folders:,} in all; "
                "--recursive enters them"
            )
        return found

    def facts(self) -> dict[str, Any]:
        """Returns what provenance says of this; empty if nothing was left out."""
        facts: dict[str, Any] = {}
        if self.left_out:
            facts["source_left_out"] = dict(self._endings())
        if self.folders:
            facts["source_folders_left_out"] = self.folders
        return facts

    def _endings(self) -> list[tuple[str, int]]:
        """Returns the most frequent endings that were left out; a name may be one."""
        counts = sorted(self.left_out.items(), key=lambda kind: (-kind[1], kind[0]))
        if len(counts) > _MAX_NAMES:
            others = sum(count for _, count in counts[_MAX_NAMES:])
            counts[_MAX_NAMES:] = [("with other endings", others)]
        return counts


class _EncodedSource(Source):
    """Images in files, decoded ahead of the consumer."""

    kind: str

    def __init__(self, found: Found, skip_bad: bool):
        names = found.names
        self.label, self.count = found.label, len(names)
        self.lossy = sum(_suffix(name) in LOSSY_SUFFIXES for name in names)
        self._found, self._names, self._skip_bad = found, names, skip_bad
        self._restart()

    def _restart(self) -> None:
        self._seen = Seen()
        self.names: list[str] = []
        self._bad: list[str] = []
        self._formats: set[str] = set()
        self._treatments: collections.Counter[str] = collections.Counter()
        self._lossy = 0

    @abc.abstractmethod
    def _reader(
        self,
    ) -> contextlib.AbstractContextManager[Callable[[int, Admit], bytes]]:
        """Gives a function that reads a file by its index, on any thread."""

    def batches(self, size: int) -> Iterator[list[np.ndarray]]:
        """Yields lists of uint8 (H, W, 3) arrays, decoded ahead on other threads.

        A batch has at most `max_batch_bytes`, or one image. What
        waits beside the batch in hand is at most two batches and at most
        `fid.sources.lookahead.MAX_BYTES`.

        Raises:
            InputError: Images are bad. From the first on nothing more is yielded; the
                others are still looked at, so that the message can name all. With
                `skip_bad`, only where all are bad.
            MemoryError: There is too little memory for an image, which is no fault of
                the image's; the message names it.
        """
        with contextlib.closing(self._pixels(2 * size)) as images:
            yield from batched(images, size, self.max_batch_bytes)

    def _pixels(self, ahead: int) -> Iterator[np.ndarray]:
        self._restart()
        with self._reader() as read:

            def load(index: int, admit: Admit) -> Decoded | str:
                try:
                    return decode(read(index, admit), admit)
                except InputError as error:
                    return str(error)
                except MemoryError as error:
                    # Another machine could read it: it is not left out as a bad one.
                    name = printable(self._names[index])
                    raise MemoryError(f"{name} of {self.label}: {error}") from error

            results = in_order(load, range(len(self._names)), ahead=ahead)
            with contextlib.closing(results):
                for name, found in zip(self._names, results, strict=True):
                    if isinstance(found, str):
                        self._bad.append(f"{printable(name)} ({found})")
                    elif self._skip_bad or not self._bad:
                        self._note(name, found)
                        yield found.pixels
        if self._bad and not (self._skip_bad and self._seen.count):
            raise InputError(
                f"{len(self._bad):,} of {len(self._names):,} images of {self.label} "
                f"cannot be used: {_some(self._bad)}. Replace or remove them"
                + ("." if self._skip_bad else ", or leave them out with --skip_bad.")
            )
        self.count, self.lossy = self._seen.count, self._lossy

    def _note(self, name: str, image: Decoded) -> None:
        self.names.append(printable(name))
        self._seen.add(image.pixels)
        self._formats.add(image.format)
        self._treatments.update(image.treatments)
        self._lossy += image.lossy

    @property
    def warnings(self) -> Sequence[str]:
        """Says how many files were left out, and which; and whether all are dark."""
        found = self._found.warnings()
        if self._bad:
            found.append(
                f"{len(self._bad):,} of {len(self._names):,} images of {self.label} "
                f"cannot be used and were left out: {_some(self._bad)}"
            )
        return (*found, *self._seen.warnings(self.label))

    @property
    def provenance(self) -> dict[str, Any]:
        """What was read: kind, formats, treatments, size, a digest of the pixels."""
        facts = {
            "source": self.label,
            "source_kind": self.kind,
            "source_formats": sorted(self._formats),
            "source_lossy": self._lossy,
            "source_treatments": dict(sorted(self._treatments.items())),
            **self._seen.facts(),
            "pixels": "8-bit",
            **self._found.facts(),
        }
        if self._skip_bad:
            facts["skipped"] = len(self._bad)
            facts["skipped_names"] = self._bad[:_MAX_NAMES]
        return facts


class FilesSource(_EncodedSource):
    """Images in files, in the order given.

    Args:
        paths: The files, whatever their names end in.
        label: What to call them in messages.
        skip_bad: Whether to leave out images that cannot be used.

    Raises:
        InputError: There are none.
    """

    kind = "files"

    def __init__(
        self,
        paths: Iterable[str | os.PathLike[str]],
        label: str = "files",
        skip_bad: bool = False,
    ):
        names = [os.fspath(local_path(path)) for path in paths]
        if not names:
            raise InputError("There are no files in the list; expected images.")
        super().__init__(Found(label, names, collections.Counter()), skip_bad)

    @contextlib.contextmanager
    def _reader(self) -> Iterator[Callable[[int, Admit], bytes]]:
        yield lambda index, admit: read_file(self._names[index], admit)


class FolderSource(_EncodedSource):
    """The images of a folder, in the order of their names.

    Looked at are files with the endings of `fid.sources.decoding.IMAGE_SUFFIXES` in any
    case. What is hidden (its name begins with a dot) is passed over. So are other
    files, pipes, and folders unless they are entered; the warnings and the provenance
    count these.

    Args:
        path: The folder.
        recursive: Whether to enter its folders, also through links; a folder that is
            reached twice is read once.
        skip_bad: Whether to leave out images that cannot be used.

    Raises:
        InputError: There is no such folder, or no image in it.
    """

    kind = "folder"

    def __init__(
        self,
        path: str | os.PathLike[str],
        recursive: bool = False,
        skip_bad: bool = False,
    ):
        self._folder = os.fspath(path)
        super().__init__(find_images(self._folder, recursive), skip_bad)

    @contextlib.contextmanager
    def _reader(self) -> Iterator[Callable[[int, Admit], bytes]]:
        yield lambda index, admit: read_file(
            os.path.join(self._folder, self._names[index]), admit
        )


class ZipSource(_EncodedSource):
    """The images of a zip archive, in the order of their names.

    All folders in it are read, member by member; nothing is extracted. What is hidden
    and `__MACOSX` are passed over; other files, too, and these are counted.

    Args:
        path: The archive.
        skip_bad: Whether to leave out images that cannot be used.

    Raises:
        InputError: It is no archive, or has no image in it.
    """

    kind = "zip"

    def __init__(self, path: str | os.PathLike[str], skip_bad: bool = False):
        self._path = os.fspath(path)
        label = printable(self._path)
        with self._archive() as archive:
            members = [each for each in archive.infolist() if not each.is_dir()]
        images = [
            each
            for each in members
            if is_shown(each.filename) and _suffix(each.filename) in IMAGE_SUFFIXES
        ]
        if not images:
            raise InputError(
                f"No images in {label}: found {len(members)} other files; expected "
                f"{', '.join(sorted(IMAGE_SUFFIXES))}."
            )
        self._members = sorted(images, key=lambda m: (m.filename, m.header_offset))
        found = Found(
            label,
            [each.filename for each in self._members],
            collections.Counter(
                _ending(each.filename)
                for each in members
                if is_shown(each.filename)
                and _suffix(each.filename) not in IMAGE_SUFFIXES
            ),
        )
        super().__init__(found, skip_bad)

    @contextlib.contextmanager
    def _reader(self) -> Iterator[Callable[[int, Admit], bytes]]:
        lock = threading.Lock()
        with self._archive() as archive:

            def read(index: int, admit: Admit) -> bytes:
                member = self._members[index]
                if member.flag_bits & 1:
                    raise InputError("encrypted")
                _check_file_size(member.file_size)
                admit(member.file_size)  # This may wait, so it comes before the lock.
                try:
                    with lock, archive.open(member) as file:
                        return file.read()
                except MemoryError:
                    raise
                except Exception as error:  # zipfile has a dozen kinds of them.
                    raise InputError(
                        f"damaged in the archive: {printable(str(error))}"
                    ) from error

            yield read

    def _archive(self) -> zipfile.ZipFile:
        with reading(self._path, "zip"):
            return zipfile.ZipFile(self._path)


def find_images(folder: str, recursive: bool = False) -> Found:
    """Finds the images of a folder: those that are measured and trained on.

    Args:
        folder: See `FolderSource`.
        recursive: Likewise.

    Returns:
        The images, at least one, and what else is there.

    Raises:
        InputError: There is no such folder, or no image in it.

    Example:
        >>> import pathlib, tempfile
        >>> folder = pathlib.Path(tempfile.mkdtemp())
        >>> for name in ("b.png", "a.JPE", ".hidden.png", "notes.txt"):
        ...     (folder / name).touch()
        >>> found = find_images(str(folder))
        >>> found.names, dict(found.left_out)
        (['a.JPE', 'b.png'], {'.txt': 1})
    """
    label = printable(folder)
    names, folders, hidden = [], 0, 0
    left_out: collections.Counter[str] = collections.Counter()
    for entry, name in _walk(folder, label, recursive):
        shown = is_shown(name)
        if _is_folder(entry):
            folders += shown
        elif not shown:
            hidden += 1
        elif _suffix(name) not in IMAGE_SUFFIXES:
            left_out[_ending(name)] += 1
        elif _is_file(entry):
            names.append(name)
        else:
            left_out["pipe or device"] += 1
    if not names:
        where = "in it or its folders" if recursive else "directly in this folder"
        hint = ""
        if folders and not recursive:
            hint = f" (--recursive enters its {folders} folders)"
        raise InputError(
            f"No images in {label}: found {left_out.total() + hidden} other files; "
            f"expected {', '.join(sorted(IMAGE_SUFFIXES))} {where}{hint}."
        )
    return Found(label, sorted(names), left_out, 0 if recursive else folders)


def _walk(
    folder: str, label: str, recursive: bool
) -> Iterator[tuple[os.DirEntry[str], str]]:
    """Yields what is in a folder, with its path below it, `/` between the parts."""
    waiting, visited = [("", folder)], set()
    while waiting:
        prefix, place = waiting.pop()
        try:
            status = os.stat(place)
            # Links may lead in circles, and to one folder on several ways.
            if (status.st_dev, status.st_ino) in visited:
                continue
            visited.add((status.st_dev, status.st_ino))
            with os.scandir(place) as entries:
                found = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            where = label if place == folder else printable(place)
            raise InputError(
                f"Cannot read the folder {where}: {error.strerror or error}; check its "
                "permissions."
            ) from error
        for entry in found:
            yield entry, prefix + entry.name
        if recursive:
            waiting += [
                (f"{prefix}{entry.name}/", entry.path)
                for entry in reversed(found)
                if _is_folder(entry) and is_shown(entry.name)
            ]


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # It is a link in a circle.
        return False


def _is_file(entry: os.DirEntry[str]) -> bool:
    # Reading a pipe named x.png would never end. A link that leads nowhere stands for
    # an image that is missing: it is kept, and found to be bad.
    try:
        return entry.is_file() or (entry.is_symlink() and not os.path.exists(entry))
    except OSError:
        return True


def is_shown(name: str) -> bool:
    """Says whether neither a file nor a folder that it is in is hidden.

    Args:
        name: Its path below the folder of the set, with `/` between the parts.

    Returns:
        Whether no part begins with a dot, or is the `__MACOSX` of archives.
    """
    parts = set(name.split("/")) - {".", ".."}
    return not any(part.startswith(".") or part == "__MACOSX" for part in parts)


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()


def _ending(name: str) -> str:
    return _suffix(name) or "without an ending"


def read_file(path: str, admit: Admit = lambda size: None) -> bytes:
    """Reads an image file.

    Args:
        path: The file.
        admit: Told how many bytes it takes before it is read.

    Returns:
        Its content.

    Raises:
        InputError: It cannot be read, or is no regular file, or larger than an image.
            The message is a phrase without the file's name.
    """
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            raise InputError("no regular file")
        _check_file_size(status.st_size)
        admit(status.st_size)
        with open(path, "rb") as file:
            # A larger number would be memory that is taken, and not used.
            return file.read(status.st_size)
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror or error}") from error


def _check_file_size(size: int) -> None:
    if size > MAX_FILE_BYTES:
        raise InputError(
            f"its {size:,} bytes are more than an image has ({MAX_FILE_BYTES:,})"
        )


def _some(texts: Sequence[str]) -> str:
    more = len(texts) - _MAX_NAMES
    return "; ".join(texts[:_MAX_NAMES]) + (f"; and {more:,} more" if more > 0 else "")
