"""Experiments as data: everything that a run depends on, in one place.

A preset holds the settings of an experiment, `PUBLISHED` what the paper reports for
them; `describe` says both in words, and `table` lists them. Nothing here imports
TensorFlow.
"""

from tf_ttur.presets.catalogue import DEFAULT, PRESETS, get
from tf_ttur.presets.preset import (
    KINDS,
    DiffusionPreset,
    DistillationPreset,
    GANPreset,
    ImagePreset,
    OfImages,
    Preset,
    SettingsError,
    TextPreset,
    TextToImagePreset,
    check_settings,
    complete,
    from_settings,
    kind_of,
)
from tf_ttur.presets.published import PUBLISHED, Published, describe, table

__all__ = [
    "DEFAULT",
    "KINDS",
    "PRESETS",
    "PUBLISHED",
    "DiffusionPreset",
    "DistillationPreset",
    "GANPreset",
    "ImagePreset",
    "OfImages",
    "Preset",
    "Published",
    "SettingsError",
    "TextPreset",
    "TextToImagePreset",
    "check_settings",
    "complete",
    "describe",
    "from_settings",
    "get",
    "kind_of",
    "table",
]
