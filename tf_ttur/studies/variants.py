"""Variants of a preset, given as text: what `--variant` and `--vary` say."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence

from fid.files import InputError
from fid.program import Flags

__all__ = ["check_name", "define", "is_name", "read"]

# A study has files of its own beside the folders of its variants.
_FILES = (".json", ".jsonl", ".log", ".md", ".png")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.,=+-]{0,199}")


def is_name(name: str) -> bool:
    """Returns whether a variant can have a name, which is also that of a folder.

    Args:
        name: The name.

    Example:
        >>> is_name("ratio=1,pulling=0.9"), is_name("../x")
        (True, False)
    """
    return bool(_NAME.fullmatch(name)) and not name.endswith(_FILES)


def check_name(name: str) -> None:
    """Refuses a name that a variant cannot have.

    Args:
        name: The name.

    Raises:
        InputError: It does not name a folder.
    """
    if not is_name(name):
        raise InputError(
            f"A variant is called {name!r}; use at most 200 letters, digits and "
            "_.,=+- only, and no ending of a file such as .json, since it names a "
            "folder. --variant=NAME:KEY=VALUE gives a name."
        )


def read(variants: Sequence[str], varied: Sequence[str]) -> dict[str, list[str]]:
    """Reads variants, each as settings KEY=VALUE.

    Args:
        variants: Each NAME:KEY=VALUE,KEY=VALUE. A value may be a list or an object in
            JSON, whose commas separate nothing.
        varied: Each KEY=VALUE,VALUE, likewise. Every value of a key is combined with
            every value of the others, and such a variant is called by its settings.

    Returns:
        The settings by name: those of `variants`, then the combinations, of which the
        last key varies fastest.

    Raises:
        InputError: A text has another form, or a name is there twice.

    Example:
        >>> read(["plain:ratio=1,pulling=0"], ["ratio=1,5", "pulling=0.9"])
        ... # doctest: +NORMALIZE_WHITESPACE
        {'plain': ['ratio=1', 'pulling=0'],
         'ratio=1,pulling=0.9': ['ratio=1', 'pulling=0.9'],
         'ratio=5,pulling=0.9': ['ratio=5', 'pulling=0.9']}
    """
    found: list[tuple[str, list[str]]] = []
    for each in variants:
        name, colon, settings = each.partition(":")
        if not colon or not settings:
            raise InputError(
                f"--variant={each} is not of the form NAME:KEY=VALUE,KEY=VALUE."
            )
        found.append((name, _split(settings)))
    choices = []
    for each in varied:
        key, equals, values = each.partition("=")
        if not equals or not values:
            raise InputError(f"--vary={each} is not of the form KEY=VALUE,VALUE.")
        choices.append([f"{key}={value}" for value in _split(values)])
    if choices:
        found += ((",".join(x), [*x]) for x in itertools.product(*choices))
    texts: dict[str, list[str]] = {}
    for name, settings in found:
        if name in texts:
            raise InputError(f"The variant {name} is there twice; leave one out.")
        texts[name] = settings
    return texts


def _split(text: str) -> list[str]:
    """Splits at commas, but not within brackets or quotes of a value in JSON."""
    parts, depth, quoted = [""], 0, False
    for before, sign in zip("," + text, text, strict=False):
        quoted ^= sign == '"' and before != "\\"
        if not quoted:
            depth += (sign in "[{") - (sign in "]}")
        if sign == "," and not quoted and depth <= 0:
            parts.append("")
        else:
            parts[-1] += sign
    return parts


def define(flag: Flags) -> None:
    """Defines the flags that `read` takes.

    Args:
        flag: Defines a flag.
    """
    flag.repeated(
        "variant",
        "NAME:KEY=VALUE,KEY=VALUE: the preset with other settings; a value may be JSON "
        "with commas. May be given several times.",
    )
    flag.repeated(
        "vary",
        "KEY=VALUE,VALUE: a variant for each value of a setting. Given several times, "
        "a variant for each combination.",
    )
