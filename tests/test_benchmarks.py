"""What the benchmarks count, and their twins; what they measure is not for a test."""

import importlib

import keras
import numpy as np
import pytest
import rounding
import tensorflow as tf
from repository import ROOT

from tf_ttur.distillation.flash_dmd import FlashDMD, flash_dmd
from tf_ttur.networks import dcgan, dense_encoder, heads, unet


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


@pytest.fixture
def benchmark_diffusion(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    return importlib.import_module("benchmark_diffusion")


def convolutions(*widths):
    """Of kernels 1 on maps of 2x2, one behind the other."""
    x = images = keras.Input((2, 2, 1))
    for width in widths:
        x = keras.layers.Conv2D(width, 1)(x)
    return keras.Model(images, x)


def test_operations_of_a_step_of_distillation_counted_by_hand(benchmark_diffusion):
    student, score, encoder, logits = (
        convolutions(*widths) for widths in ((2, 1), (3, 1), (1,), (1, 2))
    )
    found = benchmark_diffusion.distillation_operations(
        {
            "student": student,
            "fake_score": score,
            "teacher": score,
            "encoder": encoder,
            "discriminator": logits,
        },
        batch=5,
        anchors=3,
    )
    # Products of a call: 4 pixels times the sizes of the kernels.
    s, f, e, d = 4 * (2 + 2), 4 * (3 + 3), 4 * 1, 4 * (1 + 2)
    # Forward: the student at 3 anchors, and for the discriminator; both scores; the
    # fake score to be trained; encoder and heads for the student, real and generated.
    products = 4 * s + 2 * f + f + 3 * (e + d)
    # Backward, kernels and inputs, but for the first layers' inputs: the student twice,
    # the fake score, the heads twice; and by their inputs alone the heads and encoder.
    products += 2 * (s + s - 4 * 2) + f + f - 4 * 3 + 2 * (d + d - 4) + e + d
    assert found == 2 * 5 * products


def test_memory_of_a_step_counted_by_hand(benchmark_diffusion):
    trained, frozen = convolutions(2, 1), convolutions(3)
    found = benchmark_diffusion.needed([trained], [frozen], [trained, frozen], batch=5)
    # Kernels and biases; the outputs of the layers, the images among them.
    numbers = {"weights": 7 + 6, "moments": 2 * 7}
    numbers["activations"] = 5 * 4 * ((1 + 2 + 1) + (1 + 3))
    assert found == {name: 4 * count / 2**20 for name, count in numbers.items()}


class _Distillation:
    """A small model of five networks, all weights of which have an influence."""

    def __init__(self, benchmark, num_classes=3):
        settings = {"image_size": 8, "width": 8, "multipliers": (1,), "blocks": 1}
        settings |= {"attention": (), "dropout": 0.0, "num_classes": num_classes}
        self.network = benchmark.Network(settings, 3)
        names = ("student", "fake_score", "teacher")
        self.networks = {name: unet.denoiser(**settings) for name in names}
        encoder = self.networks["encoder"] = dense_encoder.untrained((8, 8, 3))
        shapes = [x.shape[1:] for x in encoder.outputs]
        self.networks["discriminator"] = heads.heads(shapes)
        random = np.random.default_rng(3)
        for variable in (v for x in self.networks.values() for v in x.weights):
            scale, start = 0.1, float(variable.name == "gamma")
            if len(variable.shape) > 1:
                scale = np.prod(variable.shape[:-1]) ** -0.5
            variable.assign(start + scale * random.normal(size=variable.shape))
        self.model = FlashDMD(
            *(self.networks[x] for x in ("student", "fake_score", "discriminator")),
            self.networks["teacher"],
            encoder,
            parametrisation="edm",
            anchors=benchmark.ANCHORS,
            num_classes=num_classes,
        )
        self.images, self.drawn = benchmark.draws(self.network)
        self.named = benchmark.named

    def weights(self):
        return {
            f"{name}/{key}": value.numpy()
            for name, each in self.networks.items()
            for key, value in self.named(each, each.weights).items()
        }

    def twin(self, twins, changed=0.0):
        """In float64, its weights changed by so much of themselves."""
        networks = twins.networks(**self.network.settings)
        networks = {name: each.double() for name, each in networks.items()}
        weights, random = self.weights(), np.random.default_rng(4)
        for name, each in networks.items():
            for key, view in twins.keras_views(each).items():
                value = weights.pop(f"{name}/{key}").astype(np.float64)
                view[...] = value * (1 + changed * random.normal(size=value.shape))
        assert not weights
        sgd = twins.torch.optim.SGD
        twin = twins.FlashDMD(networks, lambda x: sgd(x, lr=RATE), pulling=PULLING)
        images = twins.torch.from_numpy(self.images).double().movedim(-1, 1)
        return twin, images, twins.drawn(self.drawn, twins.torch.float64)


RATE, PULLING = 0.1, 0.75


def relative(found, expected, of=None):
    """Differences of layers' variables relative to their sizes, or to those of `of`."""
    layers = {}
    for key, value in expected.items():
        parts = found[key] - value, value if of is None else of[key]
        layers.setdefault(key.rpartition("/")[0], []).append(parts)
    norms = {
        layer: [
            np.linalg.norm(np.concatenate([*map(np.ravel, x)]))
            for x in zip(*each, strict=True)
        ]
        for layer, each in layers.items()
    }
    return {layer: difference / size for layer, (difference, size) in norms.items()}


@pytest.mark.slow
def test_a_step_of_distillation_is_pytorchs(benchmark_diffusion, monkeypatch):
    """Losses, gradients, and what a step of three optimizers and the pull make."""
    pytest.importorskip("torch", reason="requirements-bench.txt is not installed")
    twins = importlib.import_module("pytorch_flash_dmd")
    made = _Distillation(benchmark_diffusion)
    sgd = [keras.optimizers.SGD(RATE) for _ in range(3)]
    made.model.compile(
        student_optimizer=sgd[0],
        fake_score_optimizer=sgd[1],
        discriminator_optimizer=sgd[2],
        run_eagerly=True,
        jit_compile=False,
        **flash_dmd(pulling=PULLING),
    )
    losses, gradients = benchmark_diffusion.distillation_gradients(
        made.model, tf.constant(made.images), [*map(tf.constant, made.drawn)]
    )
    twin, real, drawn = made.twin(twins)
    true_losses, true = twin.gradients(real, drawn)

    # Seven networks lie behind each other at most: four anchors, the call with the
    # gradient, the fake score or the encoder, and the heads. The numbers go there and
    # back, and the gradients of kernels are sums over images and pixels.
    terms = (
        2 * 7 * sum(np.prod(w.shape[:-1]) for w in made.networks["student"].weights)
        + made.images[..., 0].size
    )
    # How much the networks amplify a relative change is found by one, in float64.
    change = 1e-7
    other, _, _ = made.twin(twins, change)
    amplified = max(relative(other.gradients(real, drawn)[1], true).values()) / change
    bound = rounding.random_sums(terms, len(true), amplified=amplified)
    for name, loss in true_losses.items():
        assert float(losses[name]) == pytest.approx(loss, rel=bound), name
    for layer, difference in relative(gradients, true).items():
        assert difference < bound, layer

    before, given = made.weights(), iter(made.drawn)
    monkeypatch.setattr(made.model, "noise", lambda *_: tf.constant(next(given)))
    # What is run eagerly is not made tensors of.
    labels = tf.zeros(len(made.images), tf.int32)
    made.model.train_on_batch(tf.constant(made.images), labels)
    assert next(given, None) is None
    twin.step(real, drawn)
    moved = {key: value - before[key] for key, value in made.weights().items()}
    theirs = {
        f"{name}/{key}": view - before[f"{name}/{key}"]
        for name, each in twin.networks.items()
        for key, view in twins.keras_views(each).items()
    }
    trained = {k: v for k, v in theirs.items() if k.split("/")[0] in twin.optimizers}
    # Weights are stored in float32: the sum with a move, and with a pull.
    stored = relative(moved, trained, before)
    for layer, difference in relative(moved, trained).items():
        assert difference < bound or stored[layer] < rounding.gamma(4, "float32"), layer
    for key in theirs.keys() - trained.keys():
        assert not moved[key].any(), key
