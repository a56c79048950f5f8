"""The experiments of Sato and Iiduka (2023) on critical batch sizes, as presets.

Each is one of their settings: networks, data, optimizer and tuned rates, at their
scripts' batch size; `scripts/critical_batch.py` sweeps it. What is stated here is from
the authors' published code, since the paper's body was not to be had; where the code
leaves something open, it says so. None has been run here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tf_ttur.presets.preset import ImagePreset, Preset

__all__ = ["FACTS", "PRESETS"]


def _dcgan_4x4(**settings: Any) -> ImagePreset:
    """What both experiments of 64x64 images share.

    The networks are those of PyTorch's DCGAN example, of which the critic keeps its
    batch norm. The same latents serve both updates of a step, one update each. An FID
    was taken every 10,000 steps and every 500 from there, on 49,984 images, by
    clean-fid; each image had been stretched to its own least and largest value first,
    which is not done here.
    """
    shared = {
        "network": "dcgan_4x4",
        "image_size": 64,
        "width": 64,
        "latent": "normal",
        "latent_dimension": 100,
        "discriminator_steps": 1,
        "reuse_latents": True,
        "beta_1": 0.5,
        "batch_size": 64,
        "steps": 500_000,
        "every": 10_000,
        "num_samples": 49_984,
        "quantize": "round",
    }
    return ImagePreset(**shared | settings)


# Discriminator's rate, generator's rate, further settings. AdaBelief: epsilon 1e-16,
# rectified, decoupled, no weight decay; RMSProp: smoothing 0.99.
_ADAM = {"optimizer": "adam", "beta_2": 0.999}
_ADABELIEF = {"optimizer": "adabelief", "beta_2": 0.999}
_RMSPROP = {"optimizer": "rmsprop", "beta_2": 0.99}


def _rates(discriminator: float, generator: float, **settings: Any) -> dict[str, Any]:
    return {
        "discriminator_lr": discriminator,
        "generator_lr": generator,
        **settings,
    }


def _family(
    name: str, what: str, make: Any, optimizers: Mapping[str, Mapping[str, Any]]
) -> dict[str, Preset]:
    return {
        f"{name}_{key}": make(
            name=f"{name}_{key}", summary=f"{what}, {label}", **settings
        )
        for key, (label, settings) in optimizers.items()
    }


def _lsun(**settings: Any) -> ImagePreset:
    """DCGAN on LSUN bedrooms, resized and cut to 64x64; stopped at FID 70."""
    return _dcgan_4x4(
        dataset="lsun/bedroom",
        loss="non_saturating",
        gradient_penalty=0.0,
        **settings,
    )


def _celeba(**settings: Any) -> ImagePreset:
    """WGAN-GP on CelebA's training split; stopped at FID 50.

    The authors squash whole pictures to 64x64. `celeb_a` here is cut to the central
    108x108 first, as in the TTUR paper; theirs is the data set `celeb_a_squashed`,
    which `--original_quirks` takes as well.
    """
    return _dcgan_4x4(
        dataset="celeb_a",
        split="train",
        loss="wasserstein",
        gradient_penalty=10.0,
        **settings,
    )


def _biggan(**settings: Any) -> ImagePreset:
    """BigGAN-128 on ImageNet, by ajbrock/BigGAN-PyTorch, one update each a step.

    The authors' batches were 64 to 2,048, as eight parts whose gradients are added;
    here a batch is one. At which FID they stop is not in their code, nor are rates of
    RMSProp. Theirs is the FID of PyTorch's Inception.
    """
    shared = {
        "dataset": "imagenet2012",
        "image_size": 128,
        "network": "biggan",
        "num_classes": 1000,
        "width": 96,
        "latent": "normal",
        "latent_dimension": 120,
        "loss": "hinge",
        "gradient_penalty": 0.0,
        "discriminator_steps": 1,
        "reuse_latents": False,
        "batch_size": 512,
        "steps": 150_000,
        "every": 2000,
        "num_samples": 50_000,
        "ema_decay": 0.9999,
        "ema_start": 20_000,
    }
    return ImagePreset(**shared | settings)


def _digits_biggan(**settings: Any) -> ImagePreset:
    """BigGAN at 32x32 on the embedded digits, small enough for a CPU; not in any paper.

    A moving average from the start stands in for the one from step 20,000.
    """
    shared = {
        "dataset": "digits",
        "image_size": 32,
        "num_classes": 10,
        "width": 8,
        "latent_dimension": 80,
        "batch_size": 32,
        "steps": 1000,
        "every": 100,
        "num_samples": 2000,
        "ema_decay": 0.98,
        "ema_start": 0,
    }
    return _biggan(**shared | settings)


# Adam's epsilon of BigGAN.
_BIGGAN_ADAM = {"beta_1": 0.0, "epsilon": 1e-6, **_ADAM}

PRESETS: dict[str, Preset] = {
    **_family(
        "imagenet_biggan",
        "BigGAN-128 on ImageNet, as Sato and Iiduka (2023) trained it",
        _biggan,
        {
            "adam": ("Adam", _rates(4e-4, 1e-4, **_BIGGAN_ADAM)),
            "adabelief": ("AdaBelief", _rates(5e-4, 3e-5, beta_1=0.5, **_ADABELIEF)),
        },
    ),
    "digits_biggan": _digits_biggan(
        name="digits_biggan",
        summary="BigGAN at 32x32 on the embedded digits (minutes)",
        **_rates(4e-4, 1e-4, **_BIGGAN_ADAM),
    ),
    **_family(
        "lsun_dcgan_4x4",
        "DCGAN of Sato and Iiduka (2023) on LSUN bedrooms",
        _lsun,
        {
            "adam": ("Adam", _rates(3e-4, 1e-4, **_ADAM)),
            "adabelief": ("AdaBelief", _rates(3e-5, 3e-4, **_ADABELIEF)),
            "rmsprop": ("RMSProp", _rates(3e-5, 1e-4, **_RMSPROP)),
        },
    ),
    **_family(
        "celeba_wgan_gp_4x4",
        "WGAN-GP of Sato and Iiduka (2023) on CelebA",
        _celeba,
        {
            "adam": ("Adam", _rates(3e-4, 1e-4, **_ADAM)),
            "adabelief": ("AdaBelief", _rates(3e-5, 5e-4, **_ADABELIEF)),
            "rmsprop": ("RMSProp", _rates(1e-4, 3e-4, **_RMSPROP)),
        },
    ),
}
"""Every one of these presets by its name."""

_STOP = (
    "Sato and Iiduka (2023) stop at FID {stop}, and report the steps to that by batch "
    "size, means of three runs: the numbers were not to be had. Nobody has run it here."
)
FACTS: dict[str, str] = {
    name: _STOP.format(stop=stop)
    for family, stop in (
        ("lsun_dcgan_4x4", "70, in the rebuttal 50 as well"),
        ("celeba_wgan_gp_4x4", "50"),
        ("imagenet_biggan", "(which their code does not say)"),
    )
    for name in PRESETS
    if name.startswith(family)
}
"""What is published about each of these presets, sentences."""
