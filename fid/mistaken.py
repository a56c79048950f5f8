"""What is not what its name says: web addresses as paths, and files of another kind."""

from __future__ import annotations

import os
import pathlib
import re

from fid.files import InputError, printable, user_path

__all__ = ["BEGINNING", "cache_dir", "check_local", "local_path", "other_kind"]

BEGINNING = 64
"""So many of a file's first bytes tell what it is."""

# Other files are often found in place of what was to be downloaded or checked out.
# Their first bytes, in lower case, tell them.
_KINDS = (
    (b"<!doctype", "an HTML page", "The download was probably redirected."),
    (b"<html", "an HTML page", "The download was probably redirected."),
    (b"<?xml", "an XML page", "The server probably answered with an error."),
    (b"version https://git-lfs", "a Git LFS pointer", "Fetch it with git lfs pull."),
)
# `pathlib` makes one slash of two.
_ADDRESS = re.compile(
    r"(?:([a-z][a-z0-9+.-]+)://|(gs|s3|https?|hdfs):/)(.*)", re.IGNORECASE | re.DOTALL
)
_COPY = {
    "gs": "gcloud storage cp -r {} .",
    "s3": "aws s3 cp --recursive {} .",
    "http": "curl -LO {}",
    "https": "curl -LO {}",
    "hdfs": "hdfs dfs -get {}",
}
_COPY_TO = {
    "gs": "gcloud storage cp -r HERE {}",
    "s3": "aws s3 cp [--recursive] HERE {}",
    "hdfs": "hdfs dfs -put HERE {}",
}


def other_kind(beginning: bytes) -> tuple[str, str] | None:
    """Tells a file that stands where another one was to be.

    Args:
        beginning: Its first `BEGINNING` bytes.

    Returns:
        What it is, and what to do about it; None where it is nothing known here.

    Example:
        >>> other_kind(b"version https://git-lfs.github.com/spec/v1")
        ('a Git LFS pointer', 'Fetch it with git lfs pull.')
        >>> other_kind(b"PK") is None
        True
    """
    beginning = beginning[:BEGINNING].removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    for prefix, what, advice in _KINDS:
        if beginning.startswith(prefix):
            return what, advice
    return None


def local_path(path: str | os.PathLike[str], writing: bool = False) -> pathlib.Path:
    """Returns a path that a user gave, as a program may use it.

    Args:
        path: As it was given.
        writing: Whether something is to be written there, rather than read.

    Returns:
        The path, with `~` and `~NAME` at its start made into home folders.

    Raises:
        InputError: It is an address of the network, or there is no such home folder.

    Example:
        >>> print(local_path("runs/~x"))
        runs/~x
    """
    check_local(path, writing)
    return user_path(path)


def cache_dir() -> pathlib.Path:
    """Returns the folder for files that can always be made or downloaded again.

    Returns:
        `$TTUR_CACHE` where set, else `$XDG_CACHE_HOME/tf-ttur`, else
        `~/.cache/tf-ttur`. It is not created here.

    Raises:
        InputError: It is an address of the network, or in the home folder of a user who
            has none.
    """
    for variable, below in (("TTUR_CACHE", ""), ("XDG_CACHE_HOME", "tf-ttur")):
        if root := os.environ.get(variable):
            try:
                return local_path(root, writing=True) / below
            except InputError as error:
                raise InputError(f"${variable} cannot be used: {error}") from error
    return user_path("~/.cache/tf-ttur")


def check_local(path: str | os.PathLike[str], writing: bool = False) -> None:
    """Refuses an address of the network where a path is expected.

    Args:
        path: What was given.
        writing: Whether something is to be written there, rather than read.

    Raises:
        InputError: It begins as `gs://` and `https://` do. The message says how to copy
            what is there, or what is written here.

    Example:
        >>> check_local("gs://bucket/x.npz")
        Traceback (most recent call last):
        fid.files.InputError: gs://bucket/x.npz is an address, and only files and \
folders of this machine are read; copy it here first (gcloud storage cp -r \
gs://bucket/x.npz .), or mount it as a folder.
    """
    found = _ADDRESS.match(os.fspath(path))
    # A folder may be named `gs:`, and is meant where a single slash follows.
    if found is None or (found[1] is None and os.path.exists(path)):
        return
    scheme = (found[1] or found[2]).lower()
    address = printable(f"{scheme}://{found[3]}")
    commands = _COPY_TO if writing else _COPY
    command = f" ({commands[scheme].format(address)})" if scheme in commands else ""
    if writing:
        raise InputError(
            f"{address} is an address, and only files and folders of this machine are "
            f"written; write it here, then copy it{command}, or mount it as a folder."
        )
    raise InputError(
        f"{address} is an address, and only files and folders of this machine are "
        f"read; copy it here first{command}, or mount it as a folder."
    )
