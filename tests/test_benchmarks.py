"""What the benchmarks count; what they measure is not for a test."""

import importlib

import pytest
from repository import ROOT

from tf_ttur.networks import dcgan


@pytest.fixture
def benchmark_train(monkeypatch):
    scripts = ROOT / "scripts"
    monkeypatch.syspath_prepend(str(scripts))
    return importlib.import_module("benchmark_train")


def test_operations_of_a_dcgan_step_counted_by_hand(benchmark_train):
    # Image 16x16x3, width 1, 2 latents. Products per image: of the generator, linear
    # 2 x 8 and deconvolutions of 1, 4, 16 and 64 pixels with 25 taps,
    g = 16, 25 * 8 * 4, 4 * 25 * 4 * 2, 16 * 25 * 2, 64 * 25 * 3
    # and of the discriminator, convolutions to 64, 16, 4 and 1 pixels, and logits.
    d = 64 * 25 * 3, 16 * 25 * 2, 4 * 25 * 2 * 4, 25 * 4 * 8, 8
    # Forward, generator: once. Discriminator: real, fake, and fake again after its
    # update. Backward: the discriminator's kernels and inputs (not the images') for
    # real and fake; for the generator's update the discriminator's inputs, images
    # included, then the generator's kernels and inputs (not the latents').
    products = sum(g) + 3 * sum(d)
    products += 2 * (sum(d) + sum(d) - d[0]) + sum(d) + sum(g) + sum(g) - g[0]
    pair = (
        dcgan.generator(16, width=1, latent_dimension=2),
        dcgan.discriminator(16, width=1),
    )
    batch = benchmark_train.BATCH
    assert benchmark_train.operations(*pair) == 2 * batch * products
