"""Versions of what a number came from: this project, and the packages beneath it.

The project's own version stands here, so that it is known in a checkout which is not
installed, too. Building the wheel reads it from here.
"""

from __future__ import annotations

import importlib.metadata

from fid.files import InputError

__all__ = ["VERSION", "versions"]

VERSION = "0.1.0"


def versions(*names: str) -> dict[str, str]:
    """Returns versions by the names that packages have in requirements.txt.

    >>> versions("tf-ttur") == {"tf-ttur": VERSION}
    True

    Args:
        names: Distributions, such as "numpy" or "tf-ttur", which is this project.

    Returns:
        The version of each.

    Raises:
        InputError: One of them is not installed.
    """
    return {name: _version(name) for name in names}


def _version(name: str) -> str:
    if name == "tf-ttur":
        return VERSION
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        raise InputError(
            f"{name} is not installed in this Python; install it by "
            "pip install -r requirements.txt"
        ) from None
