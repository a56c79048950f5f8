"""Diffusion models, teachers of few-step students.

Sources: Karras et al. (2022), "Elucidating the Design Space of Diffusion-Based
Generative Models" (EDM), table 2 and appendix F; what is of this project's own is
called so.
"""

from __future__ import annotations

from typing import Any

from tf_ttur.presets.preset import DiffusionPreset, Preset

__all__ = ["FACTS", "PRESETS"]


_SMALL = {"multipliers": [1, 2], "blocks": 1, "attention": [8], "dropout": 0.0}


def _digits(**settings: Any) -> DiffusionPreset:
    """A small conditional teacher on the embedded digits; not in any paper."""
    shared = {
        "dataset": "digits",
        "image_size": 16,
        "num_classes": 10,
        "network": "unet",
        "width": 16,
        "network_options": _SMALL,
        "batch_size": 64,
        "steps": 6000,
        "every": 1000,
        "num_samples": 2000,
        "learning_rate": 1e-3,
        "schedule": "warmup:100+cosine:6000",
        "ema_decay": 0.995,
        "guidance": 1.0,
    }
    return DiffusionPreset(**shared | settings)


def _cifar10_edm(**settings: Any) -> DiffusionPreset:
    """EDM's CIFAR-10 networks of the VP kind (DDPM++), as in its table 7.

    200 million images in batches of 512; the rate rises over the first 10 million; the
    average has a half-life of 0.5 million images, so it keeps 2^-(512 / 500000) a step.
    """
    shared = {
        "dataset": "cifar10",
        "network": "unet",
        "width": 128,
        "network_options": {"style": "ddpmpp", "dropout": 0.13},
        "batch_size": 512,
        "steps": 390_625,
        "every": 5_000,
        "num_samples": 50_000,
        "sample_batch": 64,
        "quantize": "round",
        "learning_rate": 1e-3,
        "beta_1": 0.9,
        "beta_2": 0.999,
        "schedule": "warmup:19531+constant",
        "ema_decay": 0.99929,
        "parametrisation": "edm",
        "sampler": "heun",
        "sampling_steps": 18,
    }
    return DiffusionPreset(**shared | settings)


PRESETS: dict[str, Preset] = {
    "digits_edm_teacher": _digits(
        name="digits_edm_teacher",
        summary="Conditional EDM at 16x16 on the embedded digits (minutes)",
        parametrisation="edm",
        sampler="heun",
        sampling_steps=18,
    ),
    "digits_flow_teacher": _digits(
        name="digits_flow_teacher",
        summary="Conditional flow matching at 16x16 on the embedded digits (minutes)",
        parametrisation="flow",
        sampler="euler",
        sampling_steps=32,
    ),
    "cifar10_edm_teacher": _cifar10_edm(
        name="cifar10_edm_teacher",
        summary="EDM's network for CIFAR-10 (DDPM++, 55.7 M parameters)",
    ),
    "cifar10_edm_conditional_teacher": _cifar10_edm(
        name="cifar10_edm_conditional_teacher",
        summary="EDM's class-conditional network for CIFAR-10 (DDPM++)",
        num_classes=10,
        label_dropout=0.0,
    ),
}
"""Every one of these presets by its name."""

_EDM = (
    "Karras et al. (2022) report FID {fid} with 35 calls of the network an image, the "
    "best of three times 50,000 samples, with augmented training images, which this "
    "preset has not. Nobody has run it here."
)
FACTS: dict[str, str] = {
    "cifar10_edm_teacher": _EDM.format(fid="1.97"),
    "cifar10_edm_conditional_teacher": _EDM.format(fid="1.79"),
}
"""What is published about these presets, sentences."""
