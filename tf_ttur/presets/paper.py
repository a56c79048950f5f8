"""The experiments of the paper as presets, and small ones of the same kinds.

Every experiment comes as a pair: NAME_ttur with two learning rates, and NAME_orig with
one, as the paper compares them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tf_ttur.presets.preset import ImagePreset, Preset, TextPreset

__all__ = ["PRESETS"]


def _dcgan(**settings: Any) -> ImagePreset:
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
    return ImagePreset(**shared | settings)


def _digits_dcgan(**settings: Any) -> ImagePreset:
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


def _wgan_gp(**settings: Any) -> ImagePreset:
    """What all WGAN-GP experiments on images share (its code, WGAN_GP/)."""
    shared = {
        "network": "resnet",
        "latent": "normal",
        "latent_dimension": 128,
        "loss": "wasserstein",
        "gradient_penalty": 10.0,
        "reuse_latents": False,
        "beta_1": 0.0,
        "beta_2": 0.9,
        "batch_size": 64,
        "num_samples": 50_000,
        "quantize": "round",
    }
    return ImagePreset(**shared | settings)


def _digits_wgan_gp(**settings: Any) -> ImagePreset:
    """A small WGAN-GP on the embedded digits: minutes on a CPU; not in the paper.

    The original makes five discriminator updates a step and a quarter of the steps, as
    in the paper. Runs are too short for XLA to earn its compilation.
    """
    shared = {
        "dataset": "digits",
        "image_size": 32,
        "width": 8,
        "latent_dimension": 64,
        "batch_size": 16,
        "num_samples": 2000,
        "quantize": "none",
        "jit_compile": False,
    }
    return _wgan_gp(**shared | settings)


def _began(**settings: Any) -> ImagePreset:
    """What the BEGAN experiments share (its code, BEGAN_FID_batched/).

    Adam has its default decays: the original reads flags for them and forgets them.
    """
    shared = {
        "image_size": 64,
        "network": "began",
        "width": 128,
        "latent": "uniform",
        "latent_dimension": 64,
        "loss": "wasserstein",
        "gradient_penalty": 0.0,
        "discriminator_steps": 1,
        "reuse_latents": True,
        "beta_1": 0.9,
        "beta_2": 0.999,
        "batch_size": 16,
        "steps": 500_000,
        "every": 1000,
        "num_samples": 50_000,
        "halve_every": 100_000,
    }
    return ImagePreset(**shared | settings)


def _text(**settings: Any) -> TextPreset:
    """What the language experiments share (its code, WGAN_GP/gan_language_JSD.py)."""
    shared = {
        "network": "text",
        "unit": "characters",
        "latent": "normal",
        "latent_dimension": 128,
        "loss": "wasserstein",
        "gradient_penalty": 10.0,
        "reuse_latents": False,
        "beta_1": 0.5,
        "beta_2": 0.9,
        "batch_size": 64,
        "num_samples": 640,
        "sample_batch": 64,
    }
    return TextPreset(**shared | settings)


def _help_text(**settings: Any) -> TextPreset:
    """A small language GAN on the embedded text: minutes on a CPU; not in the paper.

    Both settings take about as much processor time. By XLA, although runs are short:
    TensorFlow's own kernels sum a batch's scores in an order that changes from run to
    run, so that a resumed run's losses could differ from the uninterrupted one's in the
    last digit.
    """
    shared = {"dataset": "pydoc_topics", "width": 64}
    return _text(**shared | settings)


def _pair(
    make: Any,
    name: str,
    summary: str,
    ttur: Mapping[str, Any],
    orig: Mapping[str, Any],
    **shared: Any,
) -> tuple[Preset, Preset]:
    """Makes NAME_ttur and NAME_orig."""
    return (
        make(
            name=f"{name}_ttur",
            summary=f"{summary}, two time scales",
            **shared | ttur,
        ),
        make(
            name=f"{name}_orig",
            summary=f"{summary}, one learning rate",
            **shared | orig,
        ),
    )


def _rates(
    discriminator: float, generator: float | None = None, **more: Any
) -> dict[str, Any]:
    """Both learning rates; the generator's is the discriminator's unless given."""
    return {
        "discriminator_lr": discriminator,
        "generator_lr": generator or discriminator,
        **more,
    }


_CELEBA = {"dataset": "celeb_a", "split": "all", "image_size": 64}
_LSUN = {"dataset": "lsun/bedroom", "image_size": 64}

PRESETS: dict[str, Preset] = {
    preset.name: preset
    for preset in (
        *_pair(
            _digits_dcgan,
            "digits_dcgan",
            "DCGAN on the embedded digits (minutes)",
            ttur=_rates(8e-4, 3e-4),
            orig=_rates(5e-4),
        ),
        *_pair(
            _digits_wgan_gp,
            "digits_wgan_gp",
            "WGAN-GP on the embedded digits (minutes)",
            ttur=_rates(3e-4, 1e-4, discriminator_steps=1, steps=400, every=40),
            orig=_rates(5e-4, discriminator_steps=5, steps=100, every=10),
        ),
        *_pair(
            _dcgan,
            "celeba_dcgan",
            "DCGAN on CelebA",
            ttur=_rates(1e-5, 5e-4),
            orig=_rates(5e-4),
            steps=256_000,  # 81 epochs of 202,599 images
            **_CELEBA,
        ),
        *_pair(
            _dcgan,
            "cifar10_dcgan",
            "DCGAN on CIFAR-10",
            ttur=_rates(1e-4, 5e-4),
            orig=_rates(1e-4),
            dataset="cifar10",
            image_size=32,
            steps=390_000,  # 500 epochs of 50,000 images
        ),
        *_pair(
            _dcgan,
            "svhn_dcgan",
            "DCGAN on SVHN",
            ttur=_rates(1e-5, 1e-4),
            orig=_rates(5e-5),
            dataset="svhn_cropped",
            image_size=32,
            steps=200_000,  # not published; past both best steps
        ),
        *_pair(
            _dcgan,
            "lsun_dcgan",
            "DCGAN on LSUN Bedrooms",
            ttur=_rates(1e-5, 1e-4),
            orig=_rates(5e-5),
            steps=425_000,  # 9 epochs of 3,033,042 images
            **_LSUN,
        ),
        # The code stops after 100,000 and 25,009 iterations, but the best on CIFAR-10
        # are later.
        *_pair(
            _wgan_gp,
            "cifar10_wgan_gp",
            "WGAN-GP on CIFAR-10",
            ttur=_rates(3e-4, 1e-4, discriminator_steps=1, steps=170_000, every=1000),
            orig=_rates(1e-4, discriminator_steps=5, steps=54_000, every=333),
            dataset="cifar10",
            image_size=32,
            width=32,
        ),
        *_pair(
            _wgan_gp,
            "lsun_wgan_gp",
            "WGAN-GP on LSUN Bedrooms",
            ttur=_rates(3e-4, 1e-4, discriminator_steps=1, steps=100_000, every=1000),
            orig=_rates(5e-4, discriminator_steps=5, steps=25_009, every=333),
            width=64,
            **_LSUN,
        ),
        *_pair(
            _began,
            "celeba_began",
            "BEGAN on CelebA",
            ttur=_rates(6e-5, 4e-5),
            orig=_rates(5e-5),
            **_CELEBA,
        ),
        *_pair(
            _began,
            "lsun_began",
            "BEGAN on LSUN Bedrooms",
            ttur=_rates(3e-5, 1e-5),
            orig=_rates(2e-5),
            **_LSUN,
        ),
        *_pair(
            _help_text,
            "text_wgan_gp",
            "WGAN-GP on the sentences of Python's help pages (minutes)",
            ttur=_rates(3e-4, 1e-4, discriminator_steps=1, steps=2100, every=70),
            orig=_rates(1e-4, discriminator_steps=10, steps=300, every=10),
        ),
        *_pair(
            _text,
            "lm1b_wgan_gp",
            "WGAN-GP on the lines of One Billion Word",
            ttur=_rates(3e-4, 1e-4, discriminator_steps=1),
            orig=_rates(1e-4, discriminator_steps=10),
            dataset="lm1b",
            width=512,
            steps=200_000,
            every=100,
        ),
    )
}
