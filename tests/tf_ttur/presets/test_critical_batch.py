"""Presets of the study of critical batch sizes, against what its authors' code says."""

import dataclasses

import pytest

from fid.files import InputError
from tf_ttur import presets, tasks
from tf_ttur.datasets import prepared
from tf_ttur.presets import settings

RATES = {
    "lsun_dcgan_4x4_adam": (3e-4, 1e-4, "adam", 0.999),
    "lsun_dcgan_4x4_adabelief": (3e-5, 3e-4, "adabelief", 0.999),
    "lsun_dcgan_4x4_rmsprop": (3e-5, 1e-4, "rmsprop", 0.99),
    "celeba_wgan_gp_4x4_adam": (3e-4, 1e-4, "adam", 0.999),
    "celeba_wgan_gp_4x4_adabelief": (3e-5, 5e-4, "adabelief", 0.999),
    "celeba_wgan_gp_4x4_rmsprop": (1e-4, 3e-4, "rmsprop", 0.99),
}


@pytest.mark.parametrize("name", RATES)
def test_rates_and_decays_are_the_authors(name):
    preset = presets.get(name)
    found = (preset.discriminator_lr, preset.generator_lr, preset.optimizer)
    assert (*found, preset.beta_2) == RATES[name]
    assert (preset.batch_size, preset.latent_dimension, preset.beta_1) == (64, 100, 0.5)
    assert "Nobody has run it here" in presets.describe(name)
    assert "Sato and Iiduka (2023) stop at FID" in presets.describe(name)


def test_the_penalty_counts_twice_with_the_original_quirks():
    preset = presets.get("celeba_wgan_gp_4x4_adam")
    assert preset.gradient_penalty == 10
    assert preset.with_original_quirks().gradient_penalty == 100


def test_faces_are_squashed_with_the_original_quirks():
    preset = presets.get("celeba_wgan_gp_4x4_adam")
    assert preset.dataset == "celeb_a"
    quirky = preset.with_original_quirks()
    found = (quirky.dataset, quirky.split, quirky.image_size)
    assert found == ("celeb_a_squashed", "train", 64)
    # Taken by its name it has the authors' split, too.
    named = settings.override(preset, ["dataset=celeb_a_squashed"])
    assert prepared.DATASETS[named.dataset].split == "train"
    assert named.split in (None, "train")
    other = dataclasses.replace(preset, dataset="cifar10", image_size=32)
    assert other.with_original_quirks().dataset == "cifar10"


def test_the_networks_have_the_authors_sizes():
    task = tasks.of(presets.get("lsun_dcgan_4x4_rmsprop").override(jit_compile=False))
    gan = task.build((64, 64, 3))
    counts = [
        sum(x.numpy().size for x in network.trainable_variables)
        for network in (gan.generator, gan.discriminator)
    ]
    assert counts == [3_576_704, 2_765_568]
    assert type(gan.generator_optimizer).__name__ == "RMSprop"


def test_biggan_is_that_of_its_code():
    preset = presets.get("imagenet_biggan_adam")
    assert (preset.discriminator_lr, preset.generator_lr) == (4e-4, 1e-4)
    assert (preset.beta_1, preset.epsilon, preset.loss) == (0.0, 1e-6, "hinge")
    assert (preset.ema_decay, preset.ema_start) == (0.9999, 20_000)
    belief = presets.get("imagenet_biggan_adabelief")
    assert (belief.discriminator_lr, belief.generator_lr, belief.beta_1) == (
        5e-4, 3e-5, 0.5
    )  # fmt: skip
    with pytest.raises(InputError, match="num_classes is missing; BigGAN"):
        dataclasses.replace(preset, num_classes=None)


def test_the_small_biggan_is_built():
    preset = presets.get("digits_biggan").override(width=2, jit_compile=False)
    gan = tasks.of(preset).build((32, 32, 1))
    assert gan.num_classes == 10
    assert gan.generate(2, labels=3, seed=0).shape == (2, 32, 32, 1)
