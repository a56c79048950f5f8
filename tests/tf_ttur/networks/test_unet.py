"""U-Nets: EDM's numbers of parameters, PyTorch's arithmetic, and what a label says."""

import importlib
import math

import keras
import numpy as np
import pytest
import rounding
import tensorflow as tf
from parameters import count_trainable
from repository import ROOT

from tf_ttur import attention, layers, xla
from tf_ttur.networks import unet

pytestmark = pytest.mark.portable

CLASSES = 5
SMALL = {"width": 8, "multipliers": (1, 2), "blocks": 1, "attention": (4,)}


def make(style="ddpmpp", **settings):
    settings = SMALL | {"image_size": 8, "dropout": 0.0, "style": style} | settings
    return unet.denoiser(**settings)


def make_batch(model, count=4, seed=0):
    random = np.random.default_rng(seed)
    images = random.normal(size=(count, *model.inputs[0].shape[1:])).astype("float32")
    noise = random.normal(size=count).astype("float32")
    labels = [random.integers(0, CLASSES + 1, count).astype("int32")]
    return [images, noise, *(labels if len(model.inputs) > 2 else [])]


def run(model, batch, **options):
    return model([*map(tf.constant, batch)], **options).numpy()


def randomise(model, seed=0):
    """Gives every variable a value that has an influence."""
    random = np.random.default_rng(seed)
    for variable in model.trainable_variables:
        fan_in = np.prod(variable.shape[:-1])
        scale = fan_in**-0.5 if len(variable.shape) > 1 else 0.3
        value = scale * random.normal(size=variable.shape)
        variable.assign(value + (variable.name == "gamma"))
    return model


# --- Numbers of parameters -----------------------------------------------------------


def parameters(
    style,
    width,
    multipliers,
    blocks,
    attention,
    image_size=32,
    channels=3,
    num_classes=0,
    augmentation=0,
):
    """The number of parameters, from the papers' description."""
    song = style == "ddpmpp"
    embedded = 4 * width

    def conv(a, b, taps=9):
        return a * b * taps + b

    def block(a, b, attended=False, resampled=False):
        told = (embedded + 1) * b * (1 if song else 2)
        shortcut = conv(a, b, 1) if a != b or (resampled and song) else 0
        attending = 2 * b + conv(b, 3 * b, 1) + conv(b, b, 1) if attended else 0
        convolutions = conv(a, b) + conv(b, b)
        return 2 * a + 2 * b + convolutions + told + shortcut + attending

    # The embedding: two linear maps, and those of the label and the augmentation.
    found = (width + 1) * embedded + (embedded + 1) * embedded + augmentation * width
    if num_classes:
        found += (num_classes + 1) * width if song else num_classes * embedded
    # Down: a block that halves, but for the first size, and so many others.
    x = width if song else width * multipliers[0]
    found += conv(channels, x)
    maps = [x]
    for level, multiplier in enumerate(multipliers):
        if level:
            found += block(x, x, resampled=True)
            maps.append(x)
        for _ in range(blocks):
            found += block(x, width * multiplier, image_size >> level in attention)
            x = width * multiplier
            maps.append(x)
    # The middle; then up, where each block joins a map of the way down.
    found += block(x, x, attended=True) + block(x, x)
    for level, multiplier in [*enumerate(multipliers)][::-1]:
        if level < len(multipliers) - 1:
            found += block(x, x, resampled=True)
        for index in range(blocks + 1):
            attended = image_size >> level in attention
            attended = attended and (not song or index == blocks)
            found += block(x + maps.pop(), width * multiplier, attended)
            x = width * multiplier
    assert not maps
    return found + 2 * x + conv(x, channels)


EDM = {
    "style": "ddpmpp",
    "width": 128,
    "multipliers": (2, 2, 2),
    "blocks": 4,
    "attention": (16,),
}


def test_the_formula_gives_edms_numbers():
    # As the authors' network for CIFAR-10 prints it, with nine augmentation inputs.
    assert parameters(**EDM, augmentation=9) == 55_733_891
    assert parameters(**EDM) == 55_733_891 - 9 * 128
    assert parameters(**EDM, num_classes=10) == 55_733_891 - 9 * 128 + 11 * 128


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [{}, {"augmentation": 9}, {"num_classes": 10, "augmentation": 9}],
    ids=str,
)
def test_the_defaults_are_edms_network_of_cifar10(settings):
    model = unet.denoiser(**settings)
    assert count_trainable(model) == parameters(**EDM, **settings)


@pytest.mark.parametrize("style", ["ddpmpp", "adm"])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"num_classes": 7},
        {"augmentation": 9, "num_classes": 2},
        {"multipliers": (1, 2, 3), "blocks": 2, "attention": (8, 4), "image_size": 16},
        {"multipliers": (3,), "attention": (), "channels": 1},
        {"multipliers": (2, 1), "width": 12, "attention": (8,)},
    ],
    ids=str,
)
def test_parameters_are_as_many_as_the_formula_says(style, settings):
    model = make(style, **settings)
    expected = parameters(style, **SMALL | {"image_size": 8} | settings)
    assert count_trainable(model) == expected


# --- What the network computes -------------------------------------------------------


@pytest.mark.parametrize("style", ["ddpmpp", "adm"])
@pytest.mark.parametrize("size", [8, 12, 20, 28, 36, 64])
def test_images_have_any_size_that_can_be_halved_as_often(style, size):
    model = make(style, image_size=size, width=4, multipliers=(1, 1, 2), channels=2)
    outputs = run(randomise(model), make_batch(model, 2))
    assert outputs.shape == (2, size, size, 2)
    assert outputs.dtype == "float32"
    assert np.isfinite(outputs).all()
    assert outputs.std() > 0.1


def test_a_fresh_network_predicts_zero():
    model = make("adm", num_classes=CLASSES)
    np.testing.assert_array_equal(run(model, make_batch(model)), 0)
    # EDM's DDPM++ starts at 1e-5 of a usual convolution of maps that vary by 1.
    model = make("ddpmpp", num_classes=CLASSES)
    assert 0 < np.abs(run(model, make_batch(model))).max() < 1e-4


@pytest.mark.parametrize("style", ["ddpmpp", "adm"])
def test_noise_and_label_decide_the_output_and_no_label_is_one_of_them(style):
    model = randomise(make(style, num_classes=CLASSES))
    images, noise, _ = make_batch(model, CLASSES + 1)
    images, noise = (np.repeat(x[:1], CLASSES + 1, 0) for x in (images, noise))
    labels = np.arange(CLASSES + 1, dtype="int32")
    outputs = run(model, [images, noise, labels])
    differences = np.abs(outputs[:, None] - outputs[None]).max((2, 3, 4))
    assert (differences[~np.eye(CLASSES + 1, dtype=bool)] > 1e-3).all()
    other = run(model, [images, noise + 0.5, labels])
    assert (np.abs(other - outputs).max((1, 2, 3)) > 1e-3).all()

    # Without a label, classes have no influence: their rows may be anything.
    kernel = model.get_layer("label_embedding").kernel
    kernel.assign(kernel + 1.0)
    again = run(model, [images, noise, labels])
    np.testing.assert_array_equal(again[-1], outputs[-1])
    assert (np.abs(again[:-1] - outputs[:-1]).max((1, 2, 3)) > 1e-3).all()


def test_the_augmentation_is_added_to_the_embedding():
    model = randomise(make(augmentation=9))
    images, noise, *_ = make_batch(model)
    none = run(model, [images, noise, np.zeros((4, 9), "float32")])
    some = run(model, [images, noise, np.ones((4, 9), "float32")])
    assert np.abs(none - some).max() > 1e-3


def test_dropout_is_for_training_only():
    model = randomise(make(dropout=0.5))
    same = randomise(make(dropout=0.0))
    batch = make_batch(model)
    expected = run(same, batch)
    np.testing.assert_array_equal(run(model, batch), expected)
    one, two = (run(model, batch, training=True) for _ in range(2))
    assert np.abs(one - expected).max() > 1e-2
    assert np.abs(one - two).max() > 1e-2


@pytest.mark.parametrize(
    ("style", "channels", "most", "groups"),
    [
        ("ddpmpp", 4, 32, 1),
        ("ddpmpp", 12, 32, 3),
        ("ddpmpp", 128, 32, 32),
        ("adm", 144, 32, 24),
        ("adm", 64, 8, 8),
    ],
)
def test_groups_have_four_channels_or_more(style, channels, most, groups):
    model = make(style, width=channels, multipliers=(1,), groups=most, image_size=4)
    assert model.get_layer("out_norm").groups == groups


@pytest.mark.parametrize(
    ("style", "width", "heads", "expected"),
    [("ddpmpp", 128, None, 1), ("ddpmpp", 8, 4, 4), ("adm", 128, None, 2),
     ("adm", 8, None, 1), ("adm", 224, None, 2), ("adm", 8, 2, 2)],
)  # fmt: skip
def test_heads_of_attention_are_the_styles_or_those_given(
    style, width, heads, expected
):
    model = make(style, width=width, multipliers=(1,), heads=heads, image_size=4)
    found = [x for x in model.layers if isinstance(x, attention.PixelAttention)]
    assert {layer.heads for layer in found} == {expected}


def attended(model):
    return [
        layer.name.removesuffix("_attention")
        for layer in model.layers
        if isinstance(layer, attention.PixelAttention)
    ]


def test_attention_follows_the_blocks_of_its_sizes():
    settings = {"image_size": 16, "blocks": 2, "attention": (8, 16)}
    down = [f"enc_{size}_block_{index}" for size in (16, 8) for index in (1, 2)]
    assert attended(make("ddpmpp", **settings)) == [
        *down, "dec_8_in_1", "dec_8_block_3", "dec_16_block_3",
    ]  # fmt: skip
    up = [f"dec_{size}_block_{index}" for size in (8, 16) for index in (1, 2, 3)]
    assert attended(make("adm", **settings)) == [*down, "dec_8_in_1", *up]
    assert attended(make(attention=())) == ["dec_4_in_1"]


def test_maps_have_the_sizes_of_their_names():
    model = make(image_size=16, multipliers=(1, 2, 3), blocks=2)
    for name, size, channels in (
        ("enc_16_conv", 16, 8),
        ("enc_16_block_2", 16, 8),
        ("enc_8_down", 8, 8),
        ("enc_8_block_2", 8, 16),
        ("enc_4_block_2", 4, 24),
        ("dec_4_in_2", 4, 24),
        ("dec_4_block_3", 4, 24),
        ("dec_8_up", 8, 24),
        ("dec_8_block_3", 8, 16),
        ("dec_16_block_3", 16, 8),
    ):
        assert model.get_layer(name).output.shape == (None, size, size, channels)


# --- Initial weights -----------------------------------------------------------------


def test_initial_weights_of_ddpmpp_are_edms():
    model = make(width=32)
    for layer in model.layers:
        if not hasattr(layer, "kernel"):
            continue
        kernel = layer.kernel.numpy()
        *_, inputs, outputs = kernel.shape
        taps, gain = kernel.size // (inputs * outputs), 1.0
        if layer.name.endswith(("conv_2", "outputs", "out_conv")):
            gain = 1e-5
        if layer.name.endswith(("queries", "keys", "values")):
            # EDM draws the three as one.
            gain, outputs = math.sqrt(0.2), 3 * outputs
        bound = gain * math.sqrt(6 / (taps * (inputs + outputs)))
        assert np.abs(kernel).max() <= bound * (1 + rounding.gamma(4, "float32"))
        # The largest of n uniform numbers is below 1 - 35 / n once in 1e15.
        assert np.abs(kernel).max() > bound * (1 - 35 / kernel.size)
        assert not np.any(layer.bias)


def test_initial_weights_of_adm_are_pytorchs_or_zero():
    model = make("adm", width=32, num_classes=CLASSES)
    for layer in model.layers:
        if not hasattr(layer, "kernel") or layer.name == "label_embedding":
            continue
        kernel, bias = layer.kernel.numpy(), layer.bias.numpy()
        if layer.name.endswith(("conv_2", "outputs", "out_conv")):
            assert not np.any(kernel)
            assert not np.any(bias)
            continue
        bound = (kernel.size / kernel.shape[-1]) ** -0.5
        for values in (kernel, bias):
            assert np.abs(values).max() <= bound * (1 + rounding.gamma(4, "float32"))
            assert np.abs(values).max() > bound * (1 - 35 / values.size)
    table = model.get_layer("label_embedding").kernel.numpy()
    tolerance = rounding.deviation_of(table.size)
    assert table.std() == pytest.approx(1.0, rel=tolerance)


# --- The embedding of noise levels ---------------------------------------------------


@pytest.mark.parametrize(
    ("endpoint", "sines_first"), [(True, True), (False, False)], ids=["ddpmpp", "adm"]
)
def test_the_positional_embedding_is_numpys(endpoint, sines_first):
    noise = np.array([-1.5, 0.0, 0.25, 1.0, 999.0])
    layer = unet.NoiseEmbedding(8, endpoint=endpoint, sines_first=sines_first)
    ratio = 10_000.0 ** (-1 / 3 if endpoint else -1 / 4)
    expected = np.empty((5, 8))
    for index in range(4):
        angles = noise * ratio**index
        expected[:, index + 4 * sines_first] = np.cos(angles)
        expected[:, index + 4 * (not sines_first)] = np.sin(angles)
    # The frequency and its product with the number are rounded, and then a function.
    u = rounding.unit("float32")
    atol = (2 * np.abs(noise).max() + rounding.FUNCTION) * u
    found = layer(noise.astype("float32"))
    np.testing.assert_allclose(found, expected, rtol=0, atol=atol)
    assert layer.trainable_variables == []


def test_the_fourier_embedding_is_numpys_and_its_frequencies_are_not_trained():
    layer = unet.NoiseEmbedding(512, "fourier", seed=1)
    noise = np.array([-1.5, 0.0, 0.25])
    found = layer(noise.astype("float32")).numpy()
    frequencies = layer.frequencies.numpy().astype("float64")
    tolerance = rounding.deviation_of(frequencies.size)
    assert frequencies.std() == pytest.approx(16.0, rel=tolerance)
    angles = noise[:, None] * 2 * np.pi * frequencies
    expected = np.concatenate([np.cos(angles), np.sin(angles)], 1)
    u = rounding.unit("float32")
    atol = (3 * np.abs(angles).max() + rounding.FUNCTION) * u
    np.testing.assert_allclose(found, expected, rtol=0, atol=atol)
    assert layer.trainable_variables == []
    other = unet.NoiseEmbedding(512, "fourier", seed=2)(noise.astype("float32"))
    assert np.abs(found - other).max() > 0.1


def test_a_saved_network_keeps_its_frequencies(tmp_path):
    model = randomise(make(embedding="fourier", num_classes=CLASSES))
    frequencies = model.get_layer("noise_embedding").frequencies
    frequencies.assign(frequencies + 1.0)
    model.save(tmp_path / "network.keras")
    again = keras.models.load_model(tmp_path / "network.keras")
    batch = make_batch(model)
    np.testing.assert_array_equal(run(again, batch), run(model, batch))
    assert [x.path for x in again.weights] == [x.path for x in model.weights]


# --- Mistakes ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"image_size": 9}, "multiple of 2"),
        ({"image_size": 0}, "multiple of 2"),
        ({"width": 7}, "even and at least 4"),
        ({"width": 2}, "even and at least 4"),
        ({"multipliers": ()}, "one for each size"),
        ({"multipliers": (1, 0)}, "one for each size"),
        ({"blocks": 0}, "blocks is 0"),
        ({"heads": 0}, "heads is 0"),
        ({"heads": 3}, "cannot be split evenly into 3 heads"),
        ({"groups": 0}, "groups is 0"),
        ({"num_classes": 0}, "num_classes is 0"),
        ({"augmentation": -1}, "augmentation is -1"),
        ({"dropout": 1.0}, r"in \[0, 1\)"),
        ({"style": "dit"}, "choose from ddpmpp, adm"),
        ({"embedding": "none"}, "choose from positional, fourier"),
    ],
    ids=str,
)
def test_settings_that_cannot_be_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        make(**settings)


def test_an_embedding_that_cannot_be_is_refused():
    with pytest.raises(ValueError, match="even and at least 2"):
        unet.NoiseEmbedding(3)
    with pytest.raises(ValueError, match="choose from"):
        unet.NoiseEmbedding(4, "random")


# --- XLA, and PyTorch ----------------------------------------------------------------


def in_double_precision(model):
    def clone(layer):
        config = layer.get_config()
        if "dtype" in config:  # which operations of Keras have not
            config["dtype"] = "float64"
        return type(layer).from_config(config)

    inputs = [
        keras.Input(
            x.shape[1:], dtype="int32" if x.dtype == "int32" else "float64", name=x.name
        )
        for x in model.inputs
    ]
    return keras.models.clone_model(model, inputs, clone_function=clone)


def value_and_gradients(model, batch, weights):
    with tf.GradientTape() as tape:
        outputs = model(batch, training=True)
        loss = tf.reduce_sum(tf.sin(outputs) * weights)
    return outputs, tape.gradient(loss, model.trainable_variables)


CASES = pytest.mark.parametrize(
    ("style", "settings"),
    [
        ("ddpmpp", {"num_classes": CLASSES, "heads": 2}),
        ("ddpmpp", {"image_size": 12, "multipliers": (1, 2, 1), "attention": (6,)}),
        ("adm", {"num_classes": CLASSES, "heads": 2, "attention": (8, 4)}),
    ],
    ids=["ddpmpp-labels", "ddpmpp-three-sizes", "adm-labels"],
)


def double(style, settings):
    """A network with random weights, a batch, and weights of its outputs."""
    model = randomise(in_double_precision(make(style, **settings)))
    images, noise, *labels = make_batch(model)
    batch = [images.astype("float64"), noise.astype("float64"), *labels]
    random = np.random.default_rng(2)
    return model, batch, random.normal(size=images.shape)


def assert_close(found, expected, terms):
    """Compares the outputs, and gradients by the largest of all of them.

    The network is some forty random sums, one behind the other, of up to `terms` terms.
    Normalisations amplify a relative change by the ratio of a map's mean square to its
    variance, which is near 1 here, and a gradient passes the network twice.
    """
    atol = rounding.random_sums(2 * 40 * terms, 10**6, "float64", amplified=100.0)
    np.testing.assert_allclose(
        found[0], expected[0], rtol=0, atol=atol * np.abs(expected[0]).max()
    )
    scale = max(np.abs(x).max() for x in expected[1])
    for one, two in zip(found[1], expected[1], strict=True):
        np.testing.assert_allclose(one, two, rtol=0, atol=atol * scale)


@CASES
def test_xla_changes_no_more_than_rounding(style, settings):
    model, batch, weights = double(style, settings)

    @tf.function(jit_compile=True, autograph=False)
    def compiled(batch):
        with xla.for_xla():
            return value_and_gradients(model, batch, weights)

    batch = [*map(tf.constant, batch)]
    assert_close(compiled(batch), value_and_gradients(model, batch, weights), 9 * 40)


@CASES
def test_outputs_and_gradients_are_pytorchs_in_double_precision(
    style, settings, monkeypatch
):
    pytest.importorskip("torch", reason="requirements-bench.txt is not installed")
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    twins = importlib.import_module("pytorch_unet")
    torch = twins.torch
    model, batch, weights = double(style, settings)
    options = SMALL | {"image_size": 8, "style": style, "dropout": 0.0} | settings
    twin = twins.UNet(**options).double().train()
    views = twins.keras_views(twin)
    assert sum(x.numel() for x in twin.parameters()) == count_trainable(model)
    for variable in model.trainable_variables:
        views.pop(key(variable))[...] = variable.numpy()
    assert not views
    found = value_and_gradients(model, [*map(tf.constant, batch)], weights)

    images, noise, *labels = map(torch.from_numpy, batch)
    outputs = twin(images.permute(0, 3, 1, 2), noise, *(x.long() for x in labels))
    outputs = outputs.permute(0, 2, 3, 1)
    (outputs.sin() * torch.from_numpy(weights)).sum().backward()
    gradients = twins.keras_views(twin, lambda parameter: parameter.grad)
    expected = [gradients[key(variable)] for variable in model.trainable_variables]
    assert_close(found, (outputs.detach().numpy(), expected), 9 * 40)


def key(variable):
    layer, _, name = variable.path.rpartition("/")
    return f"{layer.replace('/', '_')}/{name}"


@pytest.mark.slow
@pytest.mark.parametrize("num_classes", [None, 10])
def test_pytorchs_network_of_cifar10_has_as_many_parameters(num_classes, monkeypatch):
    pytest.importorskip("torch", reason="requirements-bench.txt is not installed")
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    twins = importlib.import_module("pytorch_unet")
    twin = twins.UNet(num_classes=num_classes, augmentation=9)
    expected = parameters(**EDM, num_classes=num_classes or 0, augmentation=9)
    assert sum(x.numel() for x in twin.parameters()) == expected


def test_a_network_of_small_float16_maps_normalises_in_float32():
    layer = layers.GroupNormalization(1, dtype="mixed_float16")
    images = tf.constant(np.full((1, 2, 2, 4), 300.0), "float16")
    images += tf.reshape(tf.range(16, dtype="float16"), images.shape)
    found = layer(images)
    assert found.dtype == "float16"
    # Squares of 300 have no place in float16, and neither have their sums.
    assert np.std(found) == pytest.approx(1.0, abs=1e-2)
