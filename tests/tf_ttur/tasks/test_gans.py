"""Pairs of networks as presets ask for them: their sizes, their rates, refusals."""

import numpy as np
import pytest

from fid.files import InputError
from tf_ttur import presets, tasks

# Trainable parameters of the original's networks, generator and discriminator.
PARAMETERS = {
    "celeba_dcgan": (5_135_363, 4_316_545),
    "svhn_dcgan": (4_514_819, 4_310_401),
    "cifar10_wgan_gp": (2_005_155, 1_877_121 - 3_072),
    "lsun_wgan_gp": (8_540_483, 7_491_841),
    "celeba_began": (1_716_611, 13_405_379),
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_networks_have_the_size_of_the_original(name):
    preset = presets.get(f"{name}_ttur")
    gan = tasks.of(preset).build((preset.image_size, preset.image_size, 3))
    counts = [
        sum(int(np.prod(v.shape)) for v in network.trainable_variables)
        for network in (gan.generator, gan.discriminator)
    ]
    assert tuple(counts) == PARAMETERS[name]


def test_rates_are_halved_where_the_preset_says_so():
    preset = presets.get("celeba_began_ttur").override(width=2)
    gan = tasks.of(preset).build((16, 16, 3))
    optimizer = gan.discriminator_optimizer
    for step, rate in ((0, 6e-5), (99_999, 6e-5), (100_000, 3e-5), (250_000, 1.5e-5)):
        optimizer.iterations.assign(step)
        assert float(optimizer.learning_rate) == pytest.approx(rate)
    with pytest.raises(InputError, match="a loss of its own"):
        preset.override(loss="minimax")


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"generator_options": {"depth": 3}}, "unexpected keyword argument 'depth'"),
        ({"generator_options": {"seed": 3}}, "multiple values"),
        ({"network": "resnet", "discriminator_options": {"pack": 0}}, "pack 0"),
        ({"network": "resnet", "discriminator_options": {"pack": "x"}}, "'str'"),
        ({"network": "began", "loss": "wasserstein", "gradient_penalty": 1.0},
         "no gradient penalty"),
    ],
)  # fmt: skip
def test_settings_that_do_not_go_together_are_refused(setting, message):
    preset = presets.get("digits_dcgan_ttur").override(width=2, **setting)
    with pytest.raises(InputError, match=f"digits_dcgan_ttur cannot.*{message}"):
        tasks.of(preset).build((32, 32, 1))


@pytest.mark.parametrize("network", ["dcgan", "resnet", "began"])
def test_networks_that_do_not_fit_the_images_are_refused(network):
    preset = presets.get("digits_dcgan_ttur").override(
        network=network, loss="wasserstein"
    )
    with pytest.raises(InputError, match="image_size is 33"):
        tasks.of(preset).build((33, 33, 1))


def test_a_penalty_that_cannot_be_is_refused_before_any_data_is_read():
    preset = presets.get("digits_dcgan_ttur").override(gradient_penalty="r3")
    with pytest.raises(InputError, match="no gradient penalty 'r3'"):
        tasks.of(preset).check()


def test_networks_are_built_with_labels_and_penalties_that_are_set():
    preset = presets.get("digits_dcgan_ttur").override(
        width=2, num_classes=10, loss="relativistic", gradient_penalty="r1+r2:0.5"
    )
    task = tasks.of(preset)
    gan = task.build((32, 32, 1))
    assert (gan.num_classes, gan.gradient_penalty) == (10, "r1+r2:0.5")
    real = gan.prepare_real(next(iter(task.batches(task.load()))))
    assert (real.images.shape, real.labels.shape) == ((32, 32, 32, 1), (32,))
