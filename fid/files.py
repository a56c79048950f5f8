"""Whole-or-nothing file writes, and the one error type that users see."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import math
import os
import pathlib
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from typing import Any, BinaryIO

__all__ = [
    "FolderInUse",
    "InputError",
    "atomic_path",
    "atomic_write",
    "check_same",
    "check_writable",
    "hold",
    "lock",
    "original_name",
    "printable",
    "read_json",
    "read_json_lines",
    "read_object",
    "read_text",
    "sha256_of_file",
    "temporary_files",
    "turn",
    "user_path",
    "write_json",
]

# A temporary name, such as `.curve.png.k3x_9a0b.png`, is a dot, so many characters of
# the file's name, what `mkstemp` makes up, and the file's suffixes. A name may have 255
# bytes, and 40 characters may take 160 of them.
_NAME_LENGTH = 40
_MADE_UP = re.compile(r"\.[a-z0-9_]{8}(?=\.|\Z)")


class InputError(ValueError):
    """Something the user gave cannot be used.

    The message says what was found, what was expected, which file it was and what
    to do about it. The command-line programs print it on one line, without a
    traceback, and exit with status 1.
    """


def user_path(path: str | os.PathLike[str]) -> pathlib.Path:
    """Returns a path with `~` and `~NAME` at its start made into home folders.

    Args:
        path: As a user gave it.

    Raises:
        InputError: There is no such home folder.

    Example:
        >>> print(user_path("/data/~x"))
        /data/~x
    """
    try:
        return pathlib.Path(path).expanduser()
    except RuntimeError as error:
        home = pathlib.Path(path).parts[0]
        raise InputError(
            f"{printable(path)} begins with {printable(home)}, and there is no such "
            f"home folder; write the path in full, or as ./{printable(path)} if it is "
            "of that name here."
        ) from error


def printable(name: str | os.PathLike[str]) -> str:
    r"""Returns a name as it can be printed on one line.

    Args:
        name: Of a file, say.

    Returns:
        Itself, or its `repr` where it holds line breaks, control characters or bytes
        that are no text.

    Example:
        >>> print(printable("größe 1.png"), printable("a\nb.png"))
        größe 1.png 'a\nb.png'
    """
    name = os.fspath(name)
    return name if name.isprintable() else repr(name)


class FolderInUse(InputError):
    """Another process works in a folder."""


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[pathlib.Path]:
    """Gives a temporary path beside `path`, renamed to `path` on success.

    The temporary name keeps the suffix of `path`, since some writers choose their
    format by it. On any failure the temporary file is removed and an existing file
    at `path` is left as it was. What a process that was killed has left of an earlier
    attempt at `path` is removed, too.

    Args:
        path: Where the finished file goes. Missing parent folders are created.

    Yields:
        The path to write to.

    Raises:
        InputError: The folder or the file cannot be written.
    """
    path = pathlib.Path(path)
    with _temporary(path) as temporary:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Opens a binary file that appears at `path` whole, or not at all.

    Args:
        path: Where the finished file goes.

    Yields:
        The open file.

    Raises:
        InputError: The folder or the file cannot be written.

    Example:
        >>> import pathlib, tempfile
        >>> path = pathlib.Path(tempfile.mkdtemp(), "example.txt")
        >>> with atomic_write(path) as file:
        ...     _ = file.write(b"whole")
        >>> path.read_text()
        'whole'
    """
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        yield file


def check_writable(path: str | os.PathLike[str]) -> None:
    """Makes sure, before long work, that its result can be written.

    Args:
        path: Where a file is going to be written. Missing parent folders are created
            and removed again; a file that is there already is left alone.

    Raises:
        InputError: It cannot be written there.
    """
    path = pathlib.Path(path)
    # The deepest folder comes first. Folders are made for the result, not for an
    # attempt at it, so they are removed again.
    missing = [folder for folder in path.parents if not os.path.exists(folder)]
    try:
        with _temporary(path) as temporary:
            temporary.unlink()
    finally:
        for folder in missing:
            with contextlib.suppress(OSError):
                folder.rmdir()


def original_name(name: str) -> str | None:
    """Says which file `atomic_path` is writing under a temporary name.

    Args:
        name: Of a file, without its folder.

    Returns:
        The name that the finished file gets, of a long one its first characters; None
        where the name is none that `atomic_path` makes up.

    Example:
        >>> import pathlib, tempfile
        >>> with atomic_path(pathlib.Path(tempfile.mkdtemp(), "curve.png")) as path:
        ...     original_name(path.name)
        'curve.png'
        >>> original_name(".curve.png.old.png") is None
        True
    """
    if not name.startswith("."):
        return None
    for made_up in _MADE_UP.finditer(name):
        whole, suffixes = name[1 : made_up.start()], name[made_up.end() :]
        # The suffixes of a name that was cut are not known.
        cut = len(whole) == _NAME_LENGTH
        if whole and (cut or suffixes == _suffixes(pathlib.PurePath(whole))):
            return whole
    return None


def temporary_files(
    folder: str | os.PathLike[str], names: re.Pattern[str]
) -> Iterator[pathlib.Path]:
    """Gives what processes that were killed have left of files they were writing.

    A hidden file of the user's may have such a name by chance. So only those are given
    whose finished file is one that the program writes.

    Args:
        folder: Where to look, its subfolders included.
        names: Matches the names of the files that are written there.

    Yields:
        The files, which can be removed: no process is writing them.
    """
    for path in pathlib.Path(folder).rglob(".*"):
        original = original_name(path.name)
        if original and names.fullmatch(original) and path.is_file():
            with lock(path) as ours:
                if ours:
                    yield path


@contextlib.contextmanager
def lock(path: str | os.PathLike[str]) -> Iterator[bool]:
    """Locks a file or folder that exists, as long as this process lives.

    The system frees it when the process ends, however it ends, which no number of a
    process written to a file would tell as well.

    Args:
        path: What to lock; a link is not followed.

    Yields:
        Whether it is locked now. It is not where another process has locked it, where
        it is gone, or where the file system knows no locks.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        yield False
        return
    try:
        yield _locked(handle, path)
    finally:
        os.close(handle)


def _locked(handle: int, path: str | os.PathLike[str]) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Who had locked it before may have removed it, and another have made a new one.
        return os.path.samestat(os.fstat(handle), os.lstat(path))
    except OSError:
        return False


@contextlib.contextmanager
def hold(
    folder: str | os.PathLike[str], *, purpose: str, busy: str, gone: str
) -> Iterator[Callable[[], None]]:
    """Makes a folder, and keeps other processes that would hold it out of it.

    The system frees the folder after a crash.

    Args:
        folder: Where a process is going to work for long. It gets a file `.lock`.
        purpose: What the folder is to be, for a message: "run folder".
        busy: Says that another process works there, and what to do; a sentence.
        gone: Likewise, that the folder is no longer the one that was held.

    Yields:
        A function that raises an `InputError` unless this is still that folder. It is
        to be called before each file is written: a new folder in the place of one that
        was removed would have neither lock nor settings.

    Raises:
        FolderInUse: Another process holds it.
        InputError: It cannot be made or locked.

    Example:
        >>> import tempfile
        >>> said = {"purpose": "folder", "busy": "Wait.", "gone": "It is gone."}
        >>> with hold(tempfile.mkdtemp(), **said) as check:
        ...     check()
    """
    path = pathlib.Path(folder)
    try:
        path.mkdir(parents=True, exist_ok=True)
        file = open(path / ".lock", "w")  # noqa: SIM115
    except OSError as error:
        raise InputError(
            f"Cannot use {printable(path)} as {purpose}: {error.strerror}."
        ) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise FolderInUse(busy) from error
        except OSError as error:
            raise InputError(
                f"Cannot lock {printable(path)}: {error.strerror}. Choose a folder on "
                "a file system that has locks."
            ) from error
        mine = os.fstat(file.fileno())

        def check() -> None:
            with contextlib.suppress(OSError):
                if os.path.samestat(os.stat(path / ".lock"), mine):
                    return
            raise InputError(gone)

        yield check


@contextlib.contextmanager
def turn(folder: str | os.PathLike[str]) -> Iterator[None]:
    """Has processes that change a folder do so one after the other, on any machine.

    Each waits for its turn. Where the file system has no locks, nobody waits.

    Args:
        folder: The folder; made where missing. A file `.lock` is left in it.

    Raises:
        InputError: The folder cannot be written.

    Example:
        >>> import tempfile
        >>> with turn(tempfile.mkdtemp()):
        ...     pass  # What is read and written here is nobody else's business.
    """
    folder = pathlib.Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # NFS locks only what is open for writing.
        file = open(folder / ".lock", "w")  # noqa: SIM115
    except OSError as error:
        raise InputError(
            f"Cannot write into {printable(folder)}: {error.strerror}. Choose a folder "
            "that exists and is writable."
        ) from error
    with file:
        with contextlib.suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def check_same(
    there: Mapping[str, Any], now: Mapping[str, Any], what: str, advice: str
) -> None:
    """Makes sure that a folder was made with the settings that are asked for.

    Args:
        there: The settings it was made with.
        now: Those that are asked for.
        what: Says of a folder with others what it holds.
        advice: Says what to do about it.

    Raises:
        InputError: They differ; the message says in what.
    """
    differences = [
        f"{key} is {there.get(key)!r} there and {now.get(key)!r} now"
        for key in sorted(there.keys() | now.keys())
        if there.get(key) != now.get(key)
    ]
    if differences:
        raise InputError(f"{what}: {'; '.join(differences)}. {advice}")


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Writes `value` as indented JSON, whole or not at all.

    Args:
        path: Where the file goes.
        value: Anything `json` can write; NaN and infinities are refused.
    """
    text = json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False) + "\n"
    with atomic_write(path) as file:
        file.write(text.encode())


def read_json(path: str | os.PathLike[str]) -> Any:
    """Reads a JSON file.

    Args:
        path: The file.

    Returns:
        Its value.

    Raises:
        InputError: The file is missing, unreadable or not JSON.
    """
    try:
        return _parsed(pathlib.Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(
            f"Cannot read {printable(path)}: {error.strerror or error}."
        ) from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{printable(path)} is not JSON: {error}.") from error


def read_object(path: str | os.PathLike[str], *keys: str) -> dict[str, Any]:
    """Reads a JSON file that holds an object.

    Args:
        path: The file.
        *keys: What the object must have.

    Returns:
        The object.

    Raises:
        InputError: The file cannot be read, or holds something else.
    """
    value = read_json(path)
    if not isinstance(value, dict) or not value.keys() >= {*keys}:
        what = f" with {', '.join(keys)}" if keys else ""
        raise InputError(f"{printable(path)} is damaged: expected a JSON object{what}.")
    return value


def read_text(path: str | os.PathLike[str], most: int = 10**6) -> str:
    """Reads a text in UTF-8 that somebody wrote.

    Args:
        path: The file. A pipe, which might never end, is not opened.
        most: So many characters it has at most.

    Returns:
        The text, in which every kind of line end is a line feed.

    Raises:
        ValueError: It cannot be read. The message is a phrase, for a line that names
            the file.

    Example:
        >>> read_text("no/such/file.txt")
        Traceback (most recent call last):
        ValueError: No such file or directory
    """
    try:
        if os.path.exists(path) and not os.path.isfile(path):
            raise ValueError("it is no regular file")
        with open(path, encoding="utf-8-sig") as file:
            text = file.read(most + 1)
    except OSError as error:
        raise ValueError(error.strerror or str(error)) from error
    except UnicodeDecodeError as error:
        raise ValueError("it is no text in UTF-8") from error
    if len(text) > most:
        raise ValueError(f"it has more than {most:,} characters")
    if "\0" in text:
        raise ValueError("it has NUL bytes; save it as UTF-8")
    return text


def read_json_lines(path: str | os.PathLike[str], *keys: str) -> list[dict[str, Any]]:
    """Reads a file that has a JSON object on every line and may still be written to.

    Args:
        path: The file; a missing one has no lines.
        *keys: What every object must have.

    Returns:
        The objects in order. A last line that a crash cut short is left out.

    Raises:
        InputError: Another line is none, or the file cannot be read.
    """
    try:
        text = pathlib.Path(path).read_bytes().decode("utf-8")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise InputError(f"Cannot read {printable(path)}: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        number = error.object.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"{printable(path)}, line {number} is not UTF-8 text. Mend or delete it."
        ) from error
    *lines, last = text.split("\n")
    values = []
    for number, line in enumerate([*lines, last] if last else lines, start=1):
        try:
            values.append(_parsed(line))
        except (ValueError, RecursionError) as error:
            # A line is written with its end, so one that has an end is whole.
            if number > len(lines):
                break
            raise InputError(
                f"{printable(path)}, line {number} is not JSON: {error}. Mend or "
                "delete it."
            ) from error
        if not isinstance(values[-1], dict) or not values[-1].keys() >= {*keys}:
            what = f" with {', '.join(keys)}" if keys else ""
            raise InputError(
                f"{printable(path)}, line {number} is no JSON object{what}. Mend or "
                "delete it."
            )
    return values


def sha256_of_file(path: str | os.PathLike[str]) -> str:
    """Returns the SHA-256 of a file's bytes in hexadecimal.

    Args:
        path: The file.

    Returns:
        64 hexadecimal digits.

    Raises:
        InputError: The file cannot be read.
    """
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(
            f"Cannot read {printable(path)}: {error.strerror or error}."
        ) from error


def _parsed(text: str) -> Any:
    """Parses JSON as the standard has it, which `write_json` keeps to."""
    return json.loads(
        text,
        parse_constant=_finite,
        parse_float=_finite,
        object_pairs_hook=_without_twice,
    )


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is no number of JSON's")
    return value


def _without_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{twice!r} stands twice in an object")
    return found


@contextlib.contextmanager
def _temporary(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Makes an empty file beside `path`, and removes it if it is still there."""
    label = printable(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise InputError(f"Cannot write {label}: it is a folder; name a file.")
        _remove_left(path)
        handle, name = _locked_file(path)
    except OSError as error:
        raise InputError(
            f"Cannot write {label}: {error.strerror or error}. "
            "Choose a folder that exists and is writable."
        ) from error
    temporary = pathlib.Path(name)
    try:
        yield temporary
    except OSError as error:
        raise InputError(
            f"Cannot write {label}: {error.strerror or error}. "
            "Nothing was changed; free space or choose another folder."
        ) from error
    finally:
        temporary.unlink(missing_ok=True)
        os.close(handle)


def _locked_file(path: pathlib.Path) -> tuple[int, str]:
    """Makes an empty file beside `path`, locked, and returns its handle and name."""
    while True:
        handle, name = tempfile.mkstemp(
            dir=path.parent,
            prefix=f".{path.name[:_NAME_LENGTH]}.",
            suffix=_suffixes(path),
        )
        with contextlib.suppress(OSError):  # Without locks nobody takes it for left.
            fcntl.flock(handle, fcntl.LOCK_EX)
        if os.path.exists(name):
            return handle, name
        os.close(handle)  # Another process was quicker, and took it for left.


def _remove_left(path: pathlib.Path) -> None:
    """Removes what killed processes have left of earlier attempts at `path`."""
    suffix = _suffixes(path)
    if not suffix:
        return  # A hidden file of the user's may have such a name by chance.
    start = re.escape(f".{path.name[:_NAME_LENGTH]}")
    names = re.compile(start + _MADE_UP.pattern + re.escape(suffix))
    with os.scandir(path.parent) as entries:
        found = [entry.path for entry in entries if names.fullmatch(entry.name)]
    for each in found:
        with lock(each) as ours:
            if ours and os.path.isfile(each):
                os.unlink(each)


def _suffixes(path: pathlib.PurePath) -> str:
    # Keras checks for `.weights.h5`, which must survive as a whole. A suffix that is
    # much longer names no format: it is part of a name with dots in it.
    for count in (2, 1):
        suffix = "".join(path.suffixes[-count:])
        if len(os.fsencode(suffix)) <= 40:
            return suffix
    return ""


def _umask() -> int:
    # The umask can only be read by setting it. mkstemp makes files 0600, which
    # would surprise whoever shares a results folder.
    mask = os.umask(0)
    os.umask(mask)
    return mask
