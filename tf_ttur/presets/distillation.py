"""Diffusion models, and few-step students of them.

Sources: Karras et al. (2022), "Elucidating the Design Space of Diffusion-Based
Generative Models" (EDM), table 2 and appendix F; Yin et al. (2024), DMD2, and its
code; Flash-DMD (arXiv 2511.20549) as restated by its readers; SenseFlow's code for
Stable Diffusion 3.5; FastGen's settings for CIFAR-10
(https://github.com/NVlabs/FastGen). What is of this project's own is called so.
"""

from __future__ import annotations

from typing import Any

from tf_ttur.presets.preset import (
    DiffusionPreset,
    DistillationPreset,
    Preset,
    TextToImagePreset,
)

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
        # XLA gains nothing with a network as small as this: docs/distillation.md.
        "jit_compile": False,
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


# DMD2 in one update of the student: both losses at all anchors, a discriminator on the
# fake score's maps, five updates of the fake score, no pull.
_DMD2 = {
    "noise_split": "none",
    "adversarial": 1e-3,
    "critic": 1e-2,
    "ratio": 5,
    "pulling": 1.0,
    "loss": "non_saturating",
    "encoder": "none",
}


def _digits_student(**settings: Any) -> DistillationPreset:
    """A student of the small conditional teacher; not in any paper."""
    shared = {
        "dataset": "digits",
        "image_size": 16,
        "num_classes": 10,
        "batch_size": 64,
        "steps": 1000,
        "every": 250,
        "num_samples": 2000,
        "student_lr": 1e-4,
        "fake_score_lr": 1e-4,
        "discriminator_lr": 2e-4,
        # At constant rates a student this small wavers: docs/distillation.md.
        "schedule": "warmup:50+cosine:1000",
        "ema_decay": 0.98,
        "guidance": 1.0,
        "jit_compile": False,
    }
    return DistillationPreset(**shared | settings)


def _cifar10_student(**settings: Any) -> DistillationPreset:
    """A student of EDM's conditional network; rates as in FastGen's DMD2 there."""
    shared = {
        "dataset": "cifar10",
        "num_classes": 10,
        "batch_size": 128,
        "steps": 20_000,
        "every": 1_000,
        "num_samples": 50_000,
        "sample_batch": 64,
        "quantize": "round",
        "student_lr": 1e-4,
        "fake_score_lr": 1e-4,
        "discriminator_lr": 1e-4,
        "ema_decay": 0.999,
    }
    return DistillationPreset(**shared | settings)


def _sd3_student(**settings: Any) -> TextToImagePreset:
    """A student of Stable Diffusion 3 Medium, as far as the paper is known."""
    shared = {
        "backbone": "stable_diffusion_3_medium",
        # Half the memory; unknown, chosen.
        "dtype": "bfloat16",
        # That Flash-DMD trains adapters here is restated by several readers; these are
        # SenseFlow's.
        "rank": 64,
        "alpha": 8.0,
        # Unknown, chosen: a quarter of the pixels that the model was trained at, for
        # what a device may hold.
        "image_size": 512,
        # Restated by one reader each: the batch (on how many devices is unknown), two
        # updates of the fake score, and 4,000 iterations (whether these are updates of
        # the student is unknown).
        "batch_size": 32,
        "ratio": 2,
        "steps": 4000,
        # Restated by several readers: four steps, the split, and SAM's encoder; which
        # of its sizes is unknown, the smallest is chosen.
        "anchors": 4,
        "noise_split": "hard",
        "encoder": "sam:sam_base_sa1b",
        # ADM's heads have 256 channels in 32 groups.
        "width": 256,
        "heads_options": {"groups": 32},
        # Several readers restate the pull, one the hinge; the strength of the pull and
        # the weight are unknown: chosen as in SenseFlow.
        "pulling": 0.98,
        "adversarial": 0.1,
        "loss": "hinge",
        # Unknown, chosen: what Keras Hub guides the model with.
        "guidance": 7.0,
        # Unknown, chosen: DMD2's rate for adapters, and a higher one for the heads.
        "student_lr": 5e-5,
        "fake_score_lr": 5e-5,
        "discriminator_lr": 2e-4,
        # Not in the paper, which reports no Fréchet distances: chosen.
        "every": 500,
        "num_samples": 5000,
        "sample_batch": 8,
        "quantize": "round",
    }
    return TextToImagePreset(**shared | settings)


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
    "digits_flash_dmd": _digits_student(
        name="digits_flash_dmd",
        summary="Flash-DMD: a 4-step student of digits_edm_teacher (minutes)",
        # Flash-DMD has 1 or 2; with 1 such a student gets worse: docs/distillation.md.
        ratio=2,
    ),
    "digits_flash_dmd_rl": _digits_student(
        name="digits_flash_dmd_rl",
        summary="digits_flash_dmd, then preferences beside distillation",
        ratio=2,
        rl_from=750,
    ),
    "digits_dmd2": _digits_student(
        name="digits_dmd2",
        summary="DMD2: a 4-step student of digits_edm_teacher (minutes)",
        **_DMD2,
    ),
    "cifar10_flash_dmd": _cifar10_student(
        name="cifar10_flash_dmd",
        summary="Flash-DMD: a 4-step student of EDM's network for CIFAR-10",
    ),
    "cifar10_dmd2": _cifar10_student(
        name="cifar10_dmd2",
        summary="DMD2: a 4-step student of EDM's network for CIFAR-10",
        **_DMD2,
    ),
    "sd3_medium_flash_dmd": _sd3_student(
        name="sd3_medium_flash_dmd",
        summary="Flash-DMD: a 4-step student of Stable Diffusion 3 Medium, by adapters",
    ),
    "sd3_medium_flash_dmd_rl": _sd3_student(
        name="sd3_medium_flash_dmd_rl",
        summary="sd3_medium_flash_dmd, then the discriminator's preferences beside it",
        # Restated by several readers: 2,000 iterations more, five updates by
        # preferences for one by distillation, and pairs at the two noisiest anchors.
        steps=6000,
        rl_from=4000,
        # The paper's reward learnt from people's choices (Pick-a-Pic). There is no
        # latent reward of this transformer here, so AdvDMD's takes its place.
        reward="discriminator",
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
    "cifar10_dmd2": (
        "FastGen reports FID 1.99 for a student of one step, with batches of 2,048 and "
        "100,000 iterations, and 2.13 as DMD2's own. Its student learns from noisy "
        "real images, this one from its own. Nobody has run it here."
    ),
    "cifar10_flash_dmd": (
        "The paper has no experiment on CIFAR-10. Nobody has run it here."
    ),
    "sd3_medium_flash_dmd": (
        "The paper reports ImageReward 1.0193 after 4,000 iterations, and 1.0173 for "
        "the teacher in 28 steps; it reports no FID. Nobody has run it here, and no "
        "weights of the real model were to be had. By counting, without the decoder "
        "and SAM: the transformer has 2.08e9 parameters, 4.2 GB; a step takes 1.2e15 "
        "operations, and an image of the batch keeps at least 6.6 GB for gradients, "
        "so that 32 need 212 GB: lower --batch_size to what the device holds. The "
        "weights are to be accepted and downloaded: docs/distillation.md."
    ),
    "sd3_medium_flash_dmd_rl": (
        "The paper reports what preferences add for SDXL: ImageReward 1.0035 after "
        "1,000 iterations of distillation and 2,000 more with preferences, and 0.9740 "
        "after 8,000 of distillation alone. Nobody has run this preset here."
    ),
}
"""What is published about these presets, sentences."""
