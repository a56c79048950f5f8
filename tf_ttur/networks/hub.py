"""Networks of Keras Hub: its import, and its presets, with clear lines where they fail.

Keras Hub has well-known networks and the addresses of their weights. It is an extra:
`pip install "tf-ttur[hub]"`. Nothing here imports it before it is used.
"""

from __future__ import annotations

import os
from types import ModuleType
from typing import Any

import tensorflow as tf

from fid.files import InputError, printable, user_path

__all__ = ["from_preset", "imported"]

# Of what a loader says, so many characters are repeated.
_LONGEST = 300


def imported() -> ModuleType:
    """Imports Keras Hub.

    Returns:
        The module `keras_hub`.

    Raises:
        InputError: It is not installed.
    """
    try:
        import keras_hub
    except ModuleNotFoundError as error:
        raise InputError(
            f"Networks of Keras Hub need {error.name}, which is not installed: "
            "pip install 'tf-ttur[hub]'."
        ) from error
    return keras_hub


def from_preset(
    kind: str, preset: str | os.PathLike[str], advice: str, **options: Any
) -> Any:
    """Makes a network, or what belongs to one, of a preset, with its weights.

    Args:
        kind: A class of `keras_hub.models`, such as `"Backbone"`.
        preset: A name that Keras Hub knows, an address (`kaggle://`, `hf://`), or a
            folder that a preset was saved in, in which `~` is the home folder.
        advice: What to accept and to download, for where that fails: sentences.
        **options: As `from_preset` of the class takes them, such as `dtype`.

    Returns:
        The network.

    Raises:
        InputError: Keras Hub is not installed, or could not load the preset.
        MemoryError: There is not enough memory.

    Example:
        >>> from tf_ttur.networks import hub
        >>> hub.from_preset("Backbone", "no/such/folder", "Name another one.")
        Traceback (most recent call last):
        fid.files.InputError: Cannot load the preset no/such/folder: there is no such \
folder, and Keras Hub knows no such name. Name another one.
    """
    made = getattr(imported().models, kind)
    preset, label = os.fspath(preset), printable(preset)
    known = "://" in preset or preset in made.presets
    if not known:
        preset = os.fspath(user_path(preset))
    if not known and not os.path.isdir(preset):
        raise InputError(
            f"Cannot load the preset {label}: there is no such folder, and Keras Hub "
            f"knows no such name. {advice}"
        )
    try:
        return made.from_preset(preset, **options)
    except MemoryError:
        raise
    except tf.errors.ResourceExhaustedError as error:
        raise InputError(
            f"Cannot load the preset {label}: the device has not enough memory for it. "
            "Use one with more, a smaller preset, or a smaller type, such as bfloat16."
        ) from error
    # Downloads, archives and configurations of others fail in any way they like.
    except Exception as error:
        said = " ".join(str(error).split())[:_LONGEST].rstrip(".")
        raise InputError(
            f"Cannot load the preset {label}: {type(error).__name__}: "
            f"{printable(said)}. {advice}"
        ) from error
