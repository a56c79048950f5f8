"""All presets by name; a family of presets is one module and one line here."""

from __future__ import annotations

from fid.files import InputError
from tf_ttur.presets import critical_batch, distillation, paper
from tf_ttur.presets.preset import Preset

__all__ = ["DEFAULT", "PRESETS", "get"]

PRESETS: dict[str, Preset] = {
    **paper.PRESETS,
    **critical_batch.PRESETS,
    **distillation.PRESETS,
}
"""Every preset by its name."""

DEFAULT = "digits_dcgan_ttur"
"""The preset of `train.py` without flags."""


def get(name: str) -> Preset:
    """Returns a preset by name.

    Args:
        name: One of `PRESETS`.

    Raises:
        InputError: There is none of this name.
    """
    if name not in PRESETS:
        raise InputError(
            f"There is no preset {name!r}; choose from {', '.join(PRESETS)}."
        )
    return PRESETS[name]
