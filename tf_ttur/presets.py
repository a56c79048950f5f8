"""Experiments as data: everything that a run depends on, in one place."""

from __future__ import annotations

import dataclasses
from typing import Any

from fid.files import InputError

__all__ = ["PRESETS", "Preset", "get", "table"]


@dataclasses.dataclass(frozen=True)
class Preset:
    """All settings of an experiment.

    Attributes:
        name: Its name, for `--preset`.
        summary: What it is, a line.
        dataset: One of `datasets.NAMES`.
        image_size: Side of the images; None means the data set's own.
        network: The family of networks, `dcgan`.
        width: Channels next to the image; the paper's DCGAN has 64.
        latent: Distribution of the latents, `uniform` or `normal`.
        latent_dimension: Their length.
        loss: A loss of `losses.get`.
        gradient_penalty: Its weight; 0 for none.
        discriminator_steps: Discriminator updates per generator update.
        reuse_latents: Whether both updates of a step use the same latents.
        discriminator_lr: The discriminator's learning rate (the paper's b).
        generator_lr: The generator's learning rate (the paper's a).
        beta_1: Adam's first decay, for both.
        beta_2: Adam's second decay, for both.
        batch_size: Images per discriminator update.
        steps: Generator updates in all.
        every: Steps between measurements, which are also checkpoints.
        num_samples: Generated images in a measurement.
        quantize: How they are rounded before it; see `fid.images.quantize`.
        split: The part of the data set; see `datasets.load`.
        sample_batch: Images generated at a time in a measurement.
        ema_decay: Decay of the generator's moving average, which samples; 0 for none.
        jit_compile: Whether XLA compiles the step; None leaves it to `GAN.compile`.
        seed: Seed of weights, data order and latents.
    """

    name: str
    summary: str
    dataset: str
    image_size: int | None
    network: str
    width: int
    latent: str
    latent_dimension: int
    loss: str
    gradient_penalty: float
    discriminator_steps: int
    reuse_latents: bool
    discriminator_lr: float
    generator_lr: float
    beta_1: float
    beta_2: float
    batch_size: int
    steps: int
    every: int
    num_samples: int
    quantize: str = "none"
    split: str = "train"
    sample_batch: int = 250
    ema_decay: float = 0.0
    jit_compile: bool | None = None
    seed: int = 0

    def override(self, **changes: Any) -> Preset:
        """Returns the preset with some settings changed.

        Args:
            **changes: New values by attribute; those that are None change nothing.

        Raises:
            InputError: A value cannot be.
        """
        changes = {key: value for key, value in changes.items() if value is not None}
        changed = dataclasses.replace(self, **changes)
        for key in ("steps", "batch_size", "every", "width", "latent_dimension"):
            if getattr(changed, key) < 1:
                raise InputError(f"{key} is {getattr(changed, key)}; it must be >= 1.")
        for key in ("discriminator_lr", "generator_lr"):
            if not 0 < getattr(changed, key) < float("inf"):
                raise InputError(
                    f"{key} is {getattr(changed, key)}; it must be positive."
                )
        if not 0 <= changed.seed < 2**31:
            raise InputError(f"seed is {changed.seed}; it must be in 0..{2**31 - 1}.")
        return changed


def _dcgan(**settings: Any) -> Preset:
    """What all DCGAN experiments of the paper share (its code, DCGAN/main.py)."""
    shared = {
        "network": "dcgan",
        "width": 64,
        "latent": "uniform",
        "latent_dimension": 100,
        "loss": "non_saturating",
        "gradient_penalty": 0.0,
        "discriminator_steps": 1,
        "reuse_latents": True,
        "beta_1": 0.5,
        "beta_2": 0.999,
        "batch_size": 64,
        "every": 5000,
        "num_samples": 50_000,
    }
    return Preset(**shared | settings)


def _digits_dcgan(**settings: Any) -> Preset:
    """A small DCGAN on the embedded digits: minutes on two cores; not in the paper.

    1,797 images are few. Past some 2,000 steps the discriminator knows them by heart;
    before that the generator still swings, so samples come from a moving average of
    it, which the paper does without. On a CPU, XLA is slower at so small a width than
    TensorFlow's own kernels.
    """
    shared = {
        "dataset": "digits",
        "image_size": 32,
        "width": 16,
        "batch_size": 32,
        "steps": 2000,
        "every": 100,
        "num_samples": 2000,
        "ema_decay": 0.98,
        "jit_compile": False,
    }
    return _dcgan(**shared | settings)


PRESETS: dict[str, Preset] = {
    preset.name: preset
    for preset in (
        _digits_dcgan(
            name="digits_dcgan_ttur",
            summary="DCGAN with two time scales on the embedded digits (minutes)",
            discriminator_lr=8e-4,
            generator_lr=3e-4,
        ),
        _digits_dcgan(
            name="digits_dcgan_orig",
            summary="the same with one learning rate for both networks",
            discriminator_lr=5e-4,
            generator_lr=5e-4,
        ),
    )
}
DEFAULT = "digits_dcgan_ttur"


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


def table() -> str:
    """Returns all presets as a table, one a line."""
    columns = (
        "name",
        "dataset",
        "discriminator_lr",
        "generator_lr",
        "batch_size",
        "steps",
        "summary",
    )
    rows = [columns] + [
        tuple(str(getattr(preset, key)) for key in columns)
        for preset in PRESETS.values()
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(x.ljust(w) for x, w in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )
