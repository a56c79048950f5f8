"""What every network keeps to: one table, and the same checks for each row of it.

Layers, initial weights and sizes of each are tested beside it, in
`tests/tf_ttur/networks`.
"""

import dataclasses
import importlib
import itertools
import math
import pkgutil
from collections.abc import Callable
from typing import Any

import half_precision
import keras
import numpy as np
import pytest
import rounding
import tensorflow as tf

from tf_ttur import networks, xla
from tf_ttur.networks import began, biggan, dcgan, dcgan_4x4, resnet, text, unet

pytestmark = pytest.mark.portable

CHANNELS, WIDTH, LATENTS, SYMBOLS = 3, 4, 5, 7
CLASSES, SHARED, CHUNK = 7, 6, 20
BATCH = 6


@dataclasses.dataclass(frozen=True)
class Network:
    """A builder, small settings for it, and what it has to make.

    Attributes:
        build: The builder.
        options: Its settings besides the size.
        size: The name of the setting that is the size.
        sizes: Sizes that it has to support, the smallest first.
        inputs: Shape of an input, given the size.
        outputs: Shape of an output, given the size.
        parameters: Number of trainable parameters, given the size.
        refused: Settings that it has to refuse, and what the error says.
        conditional: Whether the last input is the label of a class.
        noisy: Whether the second input is a noise level.
    """

    build: Callable[..., keras.Model]
    options: dict[str, Any]
    size: str
    sizes: tuple[int, ...]
    inputs: Callable[[int], tuple[int, ...]]
    outputs: Callable[[int], tuple[int, ...]]
    parameters: Callable[[int], int]
    refused: tuple[tuple[dict[str, Any], str], ...]
    conditional: bool = False
    noisy: bool = False

    def make(self, size=None, **options):
        size = {self.size: size or self.sizes[0]}
        return self.build(**size | self.options | options)

    def batch(self, size=None):
        shape = self.inputs(size or self.sizes[0])
        batch = np.random.default_rng(0).uniform(-1, 1, (BATCH, *shape)).astype("f4")
        further = [np.linspace(-1, 1, BATCH, dtype="f4")] * self.noisy
        further += [np.arange(BATCH, dtype="int32") % CLASSES] * self.conditional
        return [*map(tf.constant, [batch, *further])] if further else batch


def image(size):
    return size, size, CHANNELS


def latents(size):
    return (LATENTS,)


def score(size):
    return (1,)


def line(length):
    return length, SYMBOLS


def dense(inputs, outputs):
    return (inputs + 1) * outputs


def conv(inputs, outputs, taps, bias=True):
    return inputs * outputs * taps + bias * outputs


def norm(*channels):
    return 2 * sum(channels)


def dcgan_generator(size, w=WIDTH):
    maps = (8 * w, 4 * w, 2 * w, w)
    return (
        dense(LATENTS, (size // 16) ** 2 * 8 * w)
        + norm(*maps)
        + sum(conv(a, b, 25) for a, b in itertools.pairwise((*maps, CHANNELS)))
    )


def dcgan_discriminator(size, w=WIDTH):
    maps = (w, 2 * w, 4 * w, 8 * w)
    return (
        sum(conv(a, b, 25) for a, b in itertools.pairwise((CHANNELS, *maps)))
        + norm(*maps[1:])
        + dense((size // 16) ** 2 * 8 * w, 1)
    )


def dcgan_4x4_generator(size, w=WIDTH):
    stages = int(math.log2(size)) - 2
    maps = [w * 2**i for i in range(stages)][::-1]
    return (
        LATENTS * 16 * maps[0]
        + norm(*maps)
        + sum(
            conv(a, b, 16, bias=False) for a, b in itertools.pairwise((*maps, CHANNELS))
        )
    )


def dcgan_4x4_discriminator(size, w=WIDTH):
    maps = [w * 2**i for i in range(int(math.log2(size)) - 2)]
    return (
        sum(
            conv(a, b, 16, bias=False) for a, b in itertools.pairwise((CHANNELS, *maps))
        )
        + norm(*maps[1:])
        + 16 * maps[-1]
    )


def residual_block(a, b, between):
    """A shortcut of 1x1, and two 3x3 convolutions, the first without a bias."""
    convolutions = conv(a, between, 9, bias=False) + conv(between, b, 9)
    return conv(a, b, 1) + norm(a, between) + convolutions


def resnet_generator(size, w=WIDTH):
    maps = (8 * w, 8 * w, 4 * w, 2 * w, w)
    return (
        dense(LATENTS, (size // 16) ** 2 * 8 * w)
        + sum(residual_block(a, b, b) for a, b in itertools.pairwise(maps))
        + norm(w)
        + conv(w, CHANNELS, 9)
    )


def resnet_discriminator(size, w=WIDTH):
    maps = (w, 2 * w, 4 * w, 8 * w, 8 * w)
    return (
        conv(CHANNELS, w, 9)
        + sum(residual_block(a, b, a) for a, b in itertools.pairwise(maps))
        + dense((size // 16) ** 2 * 8 * w, 1)
    )


def began_generator(size, w=WIDTH):
    stages = int(np.log2(size / 8)) + 1
    return (
        dense(LATENTS, 8 * 8 * w)
        + 2 * stages * conv(w, w, 9)
        + conv(w, CHANNELS, 9)
    )  # fmt: skip


def began_discriminator(size, w=WIDTH):
    stages = int(np.log2(size / 8)) + 1
    encoder = conv(CHANNELS, w, 9)
    for stage in range(1, stages + 1):
        encoder += conv(max(stage - 1, 1) * w, stage * w, 9)
        # The second convolution and, but for the last stage, the one that halves.
        encoder += (1 + (stage < stages)) * conv(stage * w, stage * w, 9)
    return encoder + dense(8 * 8 * stages * w, LATENTS) + began_generator(size, w)


BIGGAN_MAPS = {32: (4, 4, 4, 4), 64: (16, 16, 8, 4, 2)}
BIGGAN_FEATURES = {32: (4, 4, 4, 4), 64: (1, 2, 4, 8, 16)}


def biggan_latents(size):
    return (CHUNK * len(BIGGAN_MAPS[size]),)


def attention(w):
    """Queries, keys, values, outputs and the gain."""
    return 2 * w * (w // 8) + 2 * w * (w // 2) + 1


def biggan_generator(size, w=WIDTH):
    maps = [w * factor for factor in BIGGAN_MAPS[size]]
    return (
        CLASSES * SHARED
        + dense(CHUNK, 4 * 4 * maps[0])
        # Two norms a block have gains and offsets from a class and a chunk.
        + sum(2 * (SHARED + CHUNK) * (a + b) for a, b in itertools.pairwise(maps))
        + sum(wide_block(a, b) for a, b in itertools.pairwise(maps))
        + (attention(maps[-1]) if size == 64 else 0)
        + norm(maps[-1])
        + conv(maps[-1], CHANNELS, 9)
    )


def biggan_discriminator(size, w=WIDTH):
    maps = [CHANNELS, *(w * factor for factor in BIGGAN_FEATURES[size])]
    blocks = sum(wide_block(a, b) for a, b in itertools.pairwise(maps))
    # A block that keeps both size and channels needs no convolution beside it: those of
    # 32 pixels after the second, and the one at 64 pixels that would is not there.
    bare = 2 * conv(maps[-1], maps[-1], 1) if size == 32 else 0
    return blocks - bare + dense(maps[-1], 1) + CLASSES * maps[-1]


def wide_block(a, b):
    return conv(a, b, 1) + conv(a, b, 9) + conv(b, b, 9)


def text_generator(length, w=WIDTH):
    blocks = 10 * conv(w, w, 5)
    return dense(LATENTS, length * w) + blocks + conv(w, SYMBOLS, 1)


def text_discriminator(length, w=WIDTH):
    return conv(SYMBOLS, w, 1) + 10 * conv(w, w, 5) + dense(length * w, 1)


def unet_block(a, b, attended=False, resampled=False, w=WIDTH):
    """Two norms, two convolutions, the condition, a shortcut and attention."""
    return (
        norm(a, b)
        + conv(a, b, 9)
        + conv(b, b, 9)
        + dense(4 * w, b)
        + (conv(a, b, 1) if a != b or resampled else 0)
        + (norm(b) + 4 * conv(b, b, 1) if attended else 0)
    )


def unet_denoiser(size, w=WIDTH):
    """One block of each size on the way down, of which there are two."""
    attended = size == 16  # half of it is 8
    return (
        dense(w, 4 * w) + dense(4 * w, 4 * w) + dense(CLASSES, w)
        + conv(CHANNELS, w, 9)
        + unet_block(w, w) + unet_block(w, w, resampled=True)
        + unet_block(w, 2 * w, attended)
        + unet_block(2 * w, 2 * w, True) + unet_block(2 * w, 2 * w)
        + unet_block(4 * w, 2 * w) + unet_block(3 * w, 2 * w, attended)
        + unet_block(2 * w, 2 * w, resampled=True)
        + unet_block(3 * w, w) + unet_block(2 * w, w)
        + norm(w) + conv(w, CHANNELS, 9)
    )  # fmt: skip


OF_IMAGES = {"channels": CHANNELS, "width": WIDTH}
OF_TEXT = {"vocabulary_size": SYMBOLS, "width": WIDTH}
OF_CLASSES = {"num_classes": CLASSES}
OF_LATENTS = {"latent_dimension": LATENTS}
NOTHING = (({"channels": 0}, "at least 1"), ({"width": 0}, "at least 1"))
NO_BIGGAN = (
    *NOTHING,
    ({"image_size": 48}, "known for 32, 64, 128, 256"),
    ({"num_classes": 0}, "at least 1"),
    ({"initializer": "zeros"}, "choose from orthogonal, normal, glorot"),
)
BY_16 = tuple(({"image_size": x}, "multiple of 16") for x in (0, 8, 40))
BY_8 = tuple(({"image_size": x}, "power of 2") for x in (0, 4, 24, 48))
POWERS = tuple(({"image_size": x}, "power of two") for x in (0, 4, 24, 48))
NO_TEXT = (
    ({"vocabulary_size": 1}, "vocabulary_size 1"),
    ({"width": 0}, "width 0"),
    ({"length": 0}, "length 0"),
)

NO_UNET = (
    *NOTHING,
    ({"image_size": 9}, "multiple of 2"),
    ({"num_classes": 0}, "at least 1"),
    ({"style": "dit"}, "choose from ddpmpp, adm"),
)
OF_UNETS = {"multipliers": (1, 2), "blocks": 1, "attention": (8,), "dropout": 0.0}

NETWORKS = {
    "dcgan.generator": Network(
        dcgan.generator, OF_IMAGES | OF_LATENTS, "image_size", (16, 32, 64),
        latents, image, dcgan_generator, NOTHING + BY_16,
    ),
    "dcgan.discriminator": Network(
        dcgan.discriminator, OF_IMAGES, "image_size", (16, 32, 64),
        image, score, dcgan_discriminator, NOTHING + BY_16,
    ),
    "dcgan_4x4.generator": Network(
        dcgan_4x4.generator, OF_IMAGES | OF_LATENTS, "image_size", (8, 16, 64),
        latents, image, dcgan_4x4_generator, NOTHING + POWERS,
    ),
    "dcgan_4x4.discriminator": Network(
        dcgan_4x4.discriminator, OF_IMAGES, "image_size", (8, 16, 64),
        image, score, dcgan_4x4_discriminator, NOTHING + POWERS,
    ),
    "resnet.generator": Network(
        resnet.generator, OF_IMAGES | OF_LATENTS, "image_size", (16, 32, 64),
        latents, image, resnet_generator, NOTHING + BY_16,
    ),
    "resnet.discriminator": Network(
        resnet.discriminator, OF_IMAGES, "image_size", (16, 32, 64),
        image, score, resnet_discriminator, NOTHING + BY_16,
    ),
    "began.generator": Network(
        began.generator, OF_IMAGES | OF_LATENTS, "image_size", (8, 16, 64),
        latents, image, began_generator, NOTHING + BY_8,
    ),
    "began.discriminator": Network(
        began.discriminator, OF_IMAGES | OF_LATENTS, "image_size", (8, 16, 64),
        image, image, began_discriminator, NOTHING + BY_8,
    ),
    "biggan.generator": Network(
        biggan.generator, OF_IMAGES | OF_CLASSES | {"shared_dimension": SHARED},
        "image_size", (32, 64), biggan_latents, image, biggan_generator,
        (
            *NO_BIGGAN,
            ({"latent_dimension": 6}, "use 4 or 8"),
            ({"latent_dimension": 0}, "at least 1"),
            ({"shared_dimension": 0}, "at least 1"),
        ),
        conditional=True,
    ),
    "biggan.discriminator": Network(
        biggan.discriminator, OF_IMAGES | OF_CLASSES, "image_size", (32, 64),
        image, score, biggan_discriminator, NO_BIGGAN, conditional=True,
    ),
    "unet.denoiser": Network(
        unet.denoiser, OF_IMAGES | OF_CLASSES | OF_UNETS, "image_size", (16, 20, 64),
        image, image, unet_denoiser, NO_UNET, conditional=True, noisy=True,
    ),
    "text.generator": Network(
        text.generator, OF_TEXT | OF_LATENTS, "length", (10, 32),
        latents, line, text_generator, NO_TEXT,
    ),
    "text.discriminator": Network(
        text.discriminator, OF_TEXT, "length", (10, 32),
        line, score, text_discriminator, NO_TEXT,
    ),
}  # fmt: skip

# Modules that build no network for training, and why.
OTHERS = {
    "cached": "It keeps networks that were trained.",
    "dense_encoder": "It trains itself, and is frozen from then on.",
    "heads": "They take the maps of whatever encoder; test_heads.py has them.",
    "classifier": "It trains itself and serves as an extractor of features.",
    "hub": "It loads networks of others.",
    "lora": "It adapts networks that are there.",
    "sam": "Its network is frozen, and made of one that is there.",
}

every_network = pytest.mark.parametrize(
    "network", NETWORKS.values(), ids=NETWORKS.keys()
)
every_size = pytest.mark.parametrize(
    ("network", "size"),
    [
        pytest.param(network, size, id=f"{name}-{size}")
        for name, network in NETWORKS.items()
        for size in network.sizes
    ],
)


def rounding_error(model):
    """The largest error of two programs in float32, relative to the largest output.

    A sum of k terms is off by at most gamma(k) of its magnitudes in either program, and
    the layers' errors add up, where no layer amplifies what comes into it.
    """
    kernels = (v.shape for v in model.trainable_variables if len(v.shape) > 1)
    terms = sum(np.prod(shape) / min(shape[-2:]) for shape in kernels)
    return 2 * rounding.gamma(terms, "float32")


def weighted_sum(outputs):
    """A number that depends on every output in a way of its own."""
    weights = np.random.default_rng(1).normal(size=outputs.shape)
    return tf.reduce_sum(outputs * weights.astype("float32"))


def test_every_builder_of_the_package_is_in_the_table():
    found = {}
    for module in pkgutil.iter_modules(networks.__path__):
        public = importlib.import_module(f"{networks.__name__}.{module.name}")
        found[module.name] = {
            f"{module.name}.{name}"
            for name in public.__all__
            if getattr(getattr(public, name), "__module__", None) == public.__name__
            and getattr(public, name).__annotations__.get("return") == "keras.Model"
        }
    assert {name for name, builders in found.items() if not builders} <= set(OTHERS)
    others = [found.pop(name) for name in OTHERS]
    assert set().union(*found.values()) == set(NETWORKS)
    assert not set().union(*others) & set(NETWORKS)


@every_size
def test_shapes_and_types_are_those_of_the_size(network, size):
    model = network.make(size)
    shape = (None, *network.inputs(size))
    if network.noisy or network.conditional:
        further = ["float32"] * network.noisy + ["int32"] * network.conditional
        assert model.input_shape == [shape, *((None,) for _ in further)]
        assert [x.dtype for x in model.inputs] == ["float32", *further]
    else:
        assert model.input_shape == shape
    assert model.output_shape == (None, *network.outputs(size))
    outputs = model(network.batch(size))
    assert outputs.shape == (BATCH, *network.outputs(size))
    assert outputs.dtype == "float32"
    assert np.isfinite(outputs).all()
    assert {v.dtype for v in model.trainable_variables} == {"float32"}


@every_size
def test_parameters_are_as_many_as_the_layers_formulas_say(network, size):
    shapes = [v.shape for v in network.make(size).trainable_variables]
    assert sum(map(np.prod, shapes)) == network.parameters(size)


@every_network
def test_seeds_decide_the_initial_weights(network):
    one, same, other = (network.make(seed=seed) for seed in (1, 1, 2))
    kernels = []
    for a, b, c in zip(one.weights, same.weights, other.weights, strict=True):
        np.testing.assert_array_equal(a, b)
        if a.name == "kernel":
            assert not np.array_equal(a, c)
            kernels.append(a.numpy().ravel()[:20])
    # No two kernels of a network begin alike, and none that of the next seed's.
    kernels += [c.numpy().ravel()[:20] for c in other.weights if c.name == "kernel"]
    assert len({kernel.tobytes() for kernel in kernels}) == len(kernels)


@every_network
def test_names_are_those_given_and_weights_have_unique_paths(network):
    assert network.make().name == network.build.__name__
    model = network.make(name="another")
    assert model.name == "another"
    paths = [v.path for v in model.weights]
    assert len(set(paths)) == len(paths)


@every_network
def test_a_saved_model_gives_the_same_outputs(network, tmp_path):
    model, batch = network.make(), network.batch()
    model(batch, training=True)  # Moving averages leave where they start.
    model.save(tmp_path / "network.keras")
    again = keras.models.load_model(tmp_path / "network.keras")
    np.testing.assert_array_equal(again(batch), model(batch))
    for one, two in zip(model.weights, again.weights, strict=True):
        assert one.path == two.path
        np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("training", [False, True])
@every_network
def test_xla_changes_no_more_than_rounding(network, training):
    model, batch = network.make(), network.batch()

    @tf.function(jit_compile=True)
    def compiled(batch):
        with xla.for_xla():
            return model(batch, training=training)

    weights = model.get_weights()
    expected = model(batch, training=training).numpy()
    model.set_weights(weights)  # The vectors of spectral norms have moved.
    found = compiled(tf.nest.map_structure(tf.constant, batch)).numpy()
    bound = rounding_error(model) * np.abs(expected).max()
    np.testing.assert_allclose(found, expected, rtol=0, atol=bound)


@every_network
def test_a_gradient_reaches_every_trainable_variable(network):
    model, batch = network.make(), network.batch()
    for training in (False, True):
        with tf.GradientTape() as tape:
            loss = weighted_sum(model(batch, training=training))
        gradients = tape.gradient(loss, model.trainable_variables)
        for variable, gradient in zip(
            model.trainable_variables, gradients, strict=True
        ):
            assert gradient is not None, variable.path
            assert np.isfinite(gradient).all(), variable.path
            # In training, batch normalisation takes the bias before it away again.
            assert training or np.any(gradient), variable.path


@pytest.fixture
def mixed_precision():
    half_precision.need()
    before = keras.config.dtype_policy()
    yield lambda: keras.config.set_dtype_policy("mixed_float16")
    keras.config.set_dtype_policy(before)


@every_network
def test_mixed_float16_computes_the_same_more_coarsely(network, mixed_precision):
    batch, single = network.batch(), network.make()
    mixed_precision()
    model = network.make()
    assert {v.dtype for v in model.trainable_variables} == {"float32"}
    assert "float16" in {layer.compute_dtype for layer in model.layers}
    with tf.GradientTape() as tape:
        outputs = model(batch, training=True)
        loss = weighted_sum(outputs)
    assert outputs.dtype == "float32"
    for gradient in tape.gradient(loss, model.trainable_variables):
        assert np.isfinite(gradient).all()
    expected = single(batch, training=True).numpy()
    difference = np.abs(outputs.numpy() - expected).max() / np.abs(expected).max()
    # Each layer rounds what it computes from what was rounded before.
    assert 0 < difference < len(model.layers) * np.finfo("float16").eps


@pytest.mark.parametrize(
    ("network", "settings", "message"),
    [
        pytest.param(network, settings, message, id=f"{name}-{settings}")
        for name, network in NETWORKS.items()
        for settings, message in network.refused
    ],
)
def test_sizes_that_cannot_be_are_refused(network, settings, message):
    with pytest.raises(ValueError, match=message):
        network.build(**{network.size: network.sizes[0]} | network.options | settings)
