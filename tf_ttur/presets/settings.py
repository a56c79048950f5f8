"""Settings of an experiment given as text, `KEY=VALUE`."""

from __future__ import annotations

import collections.abc
import contextlib
import dataclasses
import json
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any

from fid.files import InputError
from fid.values import alternatives, words
from tf_ttur.presets.preset import Preset, owner

__all__ = ["changes", "override"]

# These name a run, or have flags of their own in every program.
_NAMES = ("name", "summary", "seed")
_FIXED = ("discriminator_lr", "generator_lr", *_NAMES)


def override(preset: Preset, settings: Sequence[str], **others: Any) -> Preset:
    """Replaces settings of a preset by ones given as text.

    Args:
        preset: The preset.
        settings: Each `KEY=VALUE`, KEY an attribute of the preset.
        **others: Further ones as values, of other attributes; those that are None
            change nothing. All are set at once, since one may need another.

    Returns:
        The changed preset.

    Raises:
        InputError: There is no such setting, or it cannot have this value.

    Example:
        >>> from tf_ttur import presets
        >>> override(presets.get("digits_dcgan_ttur"), ["ema_decay=0"]).ema_decay
        0.0
    """
    return _override(preset, settings, _FIXED, others)


def _override(
    preset: Preset,
    settings: Sequence[str],
    fixed: Sequence[str],
    others: Mapping[str, Any] = types.MappingProxyType({}),
) -> Preset:
    mine, values = _types(type(preset)), {}
    others = {key: value for key, value in others.items() if value is not None}
    for key in [key for key in others if key not in mine]:
        preset.refuse_other(key, others.pop(key))
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals:
            raise InputError(f"--set={setting} is not of the form KEY=VALUE.")
        kind = type(preset) if key in mine else owner(key)
        if kind is None or key in fixed:
            raise InputError(
                f"--set={setting}: there is no setting {key!r} to set; choose from "
                f"{', '.join(x for x in mine if x not in fixed)}."
            )
        if key in values:
            raise InputError(f"{key} is set twice; leave one of the two out.")
        values[key] = _convert(setting, _types(kind)[key], text)
        if key not in mine:
            preset.refuse_other(key, values.pop(key))
    if values.get("text_files") is not None:
        values.setdefault("dataset", "text_files")
    # Another data set has a size and a split of its own, which may be given beside it.
    preset = preset.with_dataset(values.get("dataset", preset.dataset))
    # All at once, since one may need another; and not by `override`, to which None is
    # no change.
    return dataclasses.replace(preset, **others, **values)


def changes(preset: Preset, settings: Sequence[str]) -> dict[str, Any]:
    """Returns what settings given as text change in a preset.

    Args:
        preset: The preset.
        settings: As for `override`; the learning rates may be among them.

    Returns:
        The new values by attribute, of those that differ.

    Raises:
        InputError: As for `override`.

    Example:
        >>> from tf_ttur import presets
        >>> changes(presets.get("digits_dcgan_ttur"), ["generator_lr=0.01"])
        {'generator_lr': 0.01}
    """
    changed = _override(preset, settings, _NAMES)
    return {
        field.name: value
        for field in dataclasses.fields(changed)
        if (value := getattr(changed, field.name)) != getattr(preset, field.name)
    }


def _types(kind: type[Preset]) -> dict[str, Any]:
    """Returns the type of each setting."""
    hints = typing.get_type_hints(kind)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind)}


def _convert(setting: str, kind: Any, text: str) -> Any:
    kinds = alternatives(kind)
    if types.NoneType in kinds and text.lower() == "none":
        return None
    for each in kinds:
        if each is str:
            return text
        if each is bool and text.lower() in ("true", "false"):
            return text.lower() == "true"
        if each in (int, float):
            with contextlib.suppress(ValueError):
                return each(text)
        if typing.get_origin(each) is collections.abc.Mapping:
            with contextlib.suppress(ValueError):
                if isinstance(value := json.loads(text), dict):
                    return value
    raise InputError(f"--set={setting}: expected {words(kind)}; got {text!r}.")
