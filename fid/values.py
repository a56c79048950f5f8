"""What a value may be that was read from a file, or given: its type and its range.

A kind of value is a type, as annotations write it: `bool`, `int`, `float`, `str`,
`Mapping`, `list[KIND]`, `KIND | None`, or a number with its range,
`Annotated[int, Between(1)]`. A dict of kinds by name stands for an object that has
these entries, and may have more.
"""

from __future__ import annotations

import collections.abc
import dataclasses
import math
import os
import reprlib
import types
import typing
from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np

from fid.files import InputError, printable, read_object

__all__ = [
    "LARGEST",
    "Between",
    "Count",
    "Step",
    "alternatives",
    "check_values",
    "checked",
    "fault",
    "read_checked",
    "words",
]

LARGEST = 2**31 - 1
"""No whole number is larger, whatever it counts."""


@dataclasses.dataclass(frozen=True)
class Between:
    """The range of a number.

    Attributes:
        least: The least one.
        most: The largest one.
        above: Every one is larger.
        below: Every one is smaller.

    Example:
        >>> str(Between(1)), str(Between(0, below=1)), str(Between(above=0))
        ('>= 1', 'in [0, 1)', 'positive')
        >>> 1 in Between(0, below=1)
        False
    """

    least: float = -math.inf
    most: float = math.inf
    above: float = -math.inf
    below: float = math.inf

    def __contains__(self, value: float) -> bool:
        return (
            self.least <= value <= self.most
            # No number that comes this far is infinite.
            and (self.above == -math.inf or value > self.above)
            and (self.below == math.inf or value < self.below)
        )

    def __str__(self) -> str:
        if self.below < math.inf:
            return f"in [{self.least:g}, {self.below:g})"
        if self.most < math.inf:
            return f"in {self.least}..{self.most}"
        if self.above > -math.inf:
            return f"> {self.above:g}" if self.above else "positive"
        return f">= {self.least:g}"


Count = Annotated[int, Between(1)]
"""A number of things of which there is one at least."""
Step = Annotated[int, Between(0)]
"""A number of updates."""

# What the kinds are called, and the types of JSON's values that they take. A bool is
# an int to Python only.
_NAMES = {
    types.NoneType: ("none", (types.NoneType,)),
    bool: ("true or false", (bool,)),
    int: ("a whole number", (int,)),
    float: ("a number", (int, float)),
    str: ("a text", (str,)),
    list: ("a list", (list, tuple)),
    collections.abc.Mapping: ("a JSON object", (collections.abc.Mapping,)),
}


def alternatives(kind: Any) -> tuple[Any, ...]:
    """Returns the kinds that a union is made of; any other is one by itself.

    Args:
        kind: The kind of a value.

    Example:
        >>> alternatives(int | None)
        (<class 'int'>, <class 'NoneType'>)
    """
    union = typing.get_origin(kind) in (typing.Union, types.UnionType)
    return typing.get_args(kind) if union else (kind,)


def words(kind: Any) -> str:
    """Says what a kind of value is, its range aside.

    Args:
        kind: The kind.

    Example:
        >>> words(float | None)
        'a number or none'
    """
    return " or ".join(_NAMES[_plain(each)[0]][0] for each in alternatives(kind))


def fault(name: str, value: Any, kind: Any) -> str | None:
    """Says why a value cannot be.

    Args:
        name: What to call it.
        value: As JSON gives it.
        kind: What it should be.

    Returns:
        What was found and what was expected, without a full stop; None where the value
        can be.

    Example:
        >>> fault("steps", 0, Count), fault("steps", 5.5, Count)
        ('steps is 0; it must be >= 1', 'steps is 5.5; it must be a whole number')
        >>> fault("best", {"step": True}, {"step": Step})
        'best.step is True; it must be a whole number'
    """
    found = f"{name} is {reprlib.repr(value)}; it must be"
    if isinstance(kind, Mapping):
        if not isinstance(value, Mapping):
            return f"{found} a JSON object"
        if missing := [key for key in kind if key not in value]:
            return f"{name} lacks {missing[0]!r}"
        inside = ((f"{name}.{key}", value[key], x) for key, x in kind.items())
        return next(filter(None, (fault(*each) for each in inside)), None)
    for each in alternatives(kind):
        plain, bounds = _plain(each)
        if not _is(value, plain):
            continue
        if plain in (int, float):
            # Comparisons are exact even where an int is too large for a float.
            if plain is float and not abs(value) < math.inf:
                return f"{found} finite"
            if value not in bounds:
                return f"{found} {bounds}"
            if plain is int and abs(value) > LARGEST:
                return f"{found} at most {LARGEST}"
        if plain is list and (element := typing.get_args(each)):
            inside = ((f"{name}[{i}]", x, *element) for i, x in enumerate(value))
            return next(filter(None, (fault(*x) for x in inside)), None)
        return None
    return f"{found} {words(kind)}"


def checked(kinds: Mapping[str, Any], **given: Any) -> dict[str, Any]:
    """Refuses arguments of another type or range than they may have.

    Args:
        kinds: What each may be.
        **given: The arguments by name.

    Returns:
        The arguments; NumPy's scalars as Python's.

    Raises:
        InputError: One cannot be.

    Example:
        >>> checked({"steps": Count}, steps=3)
        {'steps': 3}
    """
    plain = {
        name: value.item() if isinstance(value, np.generic) else value
        for name, value in given.items()
    }
    for name, value in plain.items():
        if found := fault(name, value, kinds[name]):
            raise InputError(f"{found}.")
    return plain


def check_values(
    values: Mapping[str, Any], kinds: Mapping[str, Any], path: Any, fix: str
) -> None:
    """Makes sure that the entries of a file can be; missing ones are not looked at.

    Args:
        values: The entries of a JSON object.
        kinds: What each should be; others may be anything.
        path: The file, for the message; or the file and the line.
        fix: What to do, a sentence.

    Raises:
        InputError: One cannot be.
    """
    for name, kind in kinds.items():
        if name in values and (found := fault(name, values[name], kind)):
            raise InputError(f"{printable(path)} is damaged: {found}. {fix}")


def read_checked(
    path: str | os.PathLike[str], kinds: Mapping[str, Any], fix: str
) -> dict[str, Any]:
    """Reads a JSON file that holds an object with certain entries.

    Args:
        path: The file.
        kinds: What each entry should be; all must be there, and more may be.
        fix: What to do where the file is another, a sentence.

    Returns:
        The object.

    Raises:
        InputError: The file cannot be read, or an entry is missing or cannot be.

    Example:
        >>> import pathlib, tempfile
        >>> path = pathlib.Path(tempfile.mkdtemp(), "best.json")
        >>> _ = path.write_text('{"step": 1000}')
        >>> read_checked(path, {"step": Step}, "Delete it.")
        {'step': 1000}
    """
    try:
        values = read_object(path, *kinds)
    except InputError as error:
        raise InputError(f"{error} {fix}") from error
    check_values(values, kinds, path, fix)
    return values


def _plain(kind: Any) -> tuple[Any, Between]:
    """Returns the type of a kind, and its range."""
    if typing.get_origin(kind) is Annotated:
        return typing.get_args(kind)[:2]
    return typing.get_origin(kind) or kind, Between()


def _is(value: Any, plain: Any) -> bool:
    right = isinstance(value, _NAMES[plain][1])
    if isinstance(value, bool):
        return right and plain is bool
    if plain is collections.abc.Mapping:
        return right and all(isinstance(key, str) for key in value)
    return right
