"""Settings of an experiment given as text, `KEY=VALUE`."""

from __future__ import annotations

import collections.abc
import contextlib
import dataclasses
import json
import types
import typing
from collections.abc import Sequence
from typing import Any

from fid.files import InputError
from fid.values import alternatives, words
from tf_ttur.presets.preset import Preset, owner

__all__ = ["override"]

# These name a run, or have flags of their own in every program.
_FIXED = ("name", "summary", "discriminator_lr", "generator_lr", "seed")


def override(preset: Preset, settings: Sequence[str]) -> Preset:
    """Replaces settings of a preset by ones given as text.

    Args:
        preset: The preset.
        settings: Each `KEY=VALUE`, KEY an attribute of the preset.

    Returns:
        The changed preset.

    Raises:
        InputError: There is no such setting, or it cannot have this value.

    Example:
        >>> from tf_ttur import presets
        >>> override(presets.get("digits_dcgan_ttur"), ["ema_decay=0"]).ema_decay
        0.0
    """
    mine, values = _types(type(preset)), {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals:
            raise InputError(f"--set={setting} is not of the form KEY=VALUE.")
        kind = type(preset) if key in mine else owner(key)
        if kind is None or key in _FIXED:
            raise InputError(
                f"--set={setting}: there is no setting {key!r} to set; choose from "
                f"{', '.join(x for x in mine if x not in _FIXED)}."
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
    return dataclasses.replace(preset, **values)


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
