"""The presets against the paper's table and its code."""

import dataclasses

import numpy as np
import pytest

from fid.files import InputError
from tf_ttur import presets, tasks
from tf_ttur.studies import reproduce

# Table 1 and the released code: discriminator's and generator's rate of TTUR, the
# original's, batch, latent, Adam's decays.
PAPER = {
    "celeba_dcgan": (1e-5, 5e-4, 5e-4, 64, 100, (0.5, 0.999)),
    "cifar10_dcgan": (1e-4, 5e-4, 1e-4, 64, 100, (0.5, 0.999)),
    "svhn_dcgan": (1e-5, 1e-4, 5e-5, 64, 100, (0.5, 0.999)),
    "lsun_dcgan": (1e-5, 1e-4, 5e-5, 64, 100, (0.5, 0.999)),
    "cifar10_wgan_gp": (3e-4, 1e-4, 1e-4, 64, 128, (0.0, 0.9)),
    "lsun_wgan_gp": (3e-4, 1e-4, 5e-4, 64, 128, (0.0, 0.9)),
    "celeba_began": (6e-5, 4e-5, 5e-5, 16, 64, (0.9, 0.999)),
    "lsun_began": (3e-5, 1e-5, 2e-5, 16, 64, (0.9, 0.999)),
}


@pytest.mark.parametrize("name", PAPER)
def test_settings_are_the_papers(name):
    b, a, both, batch, latent, betas = PAPER[name]
    ttur, orig = (presets.get(f"{name}_{setting}") for setting in reproduce.SETTINGS)
    assert (ttur.discriminator_lr, ttur.generator_lr) == (b, a)
    assert (orig.discriminator_lr, orig.generator_lr) == (both, both)
    wgan = "wgan" in name
    assert (ttur.discriminator_steps, orig.discriminator_steps) == (1, 5 if wgan else 1)
    for preset in (ttur, orig):
        assert (preset.batch_size, preset.latent_dimension) == (batch, latent)
        assert (preset.beta_1, preset.beta_2) == betas
        assert preset.num_samples == 50_000
        assert preset.ema_decay == 0
        assert preset.reuse_latents is not wgan
        assert preset.gradient_penalty == (10 if wgan else 0)
        assert preset.latent == ("normal" if wgan else "uniform")
        assert preset.halve_every == (100_000 if "began" in name else 0)
        assert preset.split == ("all" if "celeba" in name else None)
        published = presets.PUBLISHED[preset.name]
        # The run reaches the step whose result is published.
        assert preset.steps >= (published.step or 0)
        if published.best:
            assert published.best < published.mean_minimum
    assert ttur.loss == orig.loss == ("non_saturating" if "dcgan" in name else
                                      "wasserstein")  # fmt: skip


def test_quirks_are_off_unless_asked_for():
    for preset in presets.PRESETS.values():
        assert preset.settings()["quantize"] != "truncate"
        if isinstance(preset, presets.GANPreset):
            assert not preset.generator_options
            assert not preset.discriminator_options
    preset = presets.get("cifar10_wgan_gp_orig").override(width=2)
    packed = tasks.of(preset.with_original_quirks()).build((32, 32, 3))
    images = np.zeros((8, 32, 32, 3), "float32")
    assert packed.discriminator(images).shape == (2, 1)
    assert tasks.of(preset).build((32, 32, 3)).discriminator(images).shape == (8, 1)
    assert "pack" not in presets.get("lsun_wgan_gp_orig").quirks.get(
        "discriminator_options", {}
    )
    dcgan = presets.get("cifar10_dcgan_ttur").override(width=2).with_original_quirks()
    norm = tasks.of(dcgan).build((32, 32, 3)).generator.get_layer("norm_0")
    assert norm.momentum == pytest.approx(0.9**4)
    with pytest.raises(InputError, match="no quirks"):
        presets.get("lsun_began_ttur").with_original_quirks()
    with pytest.raises(InputError, match="multiple of 4"):
        preset.override(batch_size=30).with_original_quirks()


def test_settings_of_text_are_the_papers():
    ttur, orig = (presets.get(f"lm1b_wgan_gp_{x}") for x in reproduce.SETTINGS)
    rates = [(x.discriminator_lr, x.generator_lr) for x in (ttur, orig)]
    assert rates == [(3e-4, 1e-4), (1e-4, 1e-4)]
    assert (ttur.discriminator_steps, orig.discriminator_steps) == (1, 10)
    for preset in (ttur, orig):
        assert (preset.beta_1, preset.beta_2) == (0.5, 0.9)
        assert (preset.latent, preset.latent_dimension) == ("normal", 128)
        assert (preset.batch_size, preset.width) == (64, 512)
        assert (preset.steps, preset.every, preset.num_samples) == (200_000, 100, 640)
        assert (preset.loss, preset.gradient_penalty) == ("wasserstein", 10)
        published = presets.PUBLISHED[preset.name]
        for each in (published, published.further):
            assert each.step <= preset.steps
            assert each.best < each.mean_minimum
        with pytest.raises(InputError, match="no quirks to turn on"):
            preset.with_original_quirks()


def test_the_two_digits_presets_differ_by_their_rates_only():
    ttur, orig = (presets.get(f"digits_dcgan_{kind}") for kind in ("ttur", "orig"))
    assert orig.discriminator_lr == orig.generator_lr
    assert ttur.discriminator_lr != ttur.generator_lr
    same = {"name": "", "summary": "", "discriminator_lr": 1.0, "generator_lr": 1.0}
    assert dataclasses.replace(ttur, **same) == dataclasses.replace(orig, **same)
