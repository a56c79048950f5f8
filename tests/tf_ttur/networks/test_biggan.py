"""BigGAN's networks: the authors' numbers, and PyTorch's arithmetic."""

import importlib

import keras
import numpy as np
import pytest
import rounding
import tensorflow as tf
from parameters import count_trainable
from repository import ROOT

from tf_ttur import attention, layers, structure, xla
from tf_ttur.networks import biggan

pytestmark = pytest.mark.portable

CLASSES = 10


@pytest.mark.slow
def test_biggan_128_has_the_parameters_of_the_original():
    # Orthogonal matrices of this size take minutes.
    assert count_trainable(biggan.generator(128, initializer="normal")) == 70_433_988
    assert count_trainable(biggan.discriminator(128, initializer="normal")) == (
        87_982_370
    )


def test_channels_sizes_and_attention_are_those_of_the_code():
    # Multiples of the width after each block, and the blocks that attention follows.
    for size, maps, attended in (
        (32, (4, 4, 4), []),
        (64, (16, 8, 4, 2), [4]),
        (128, (16, 8, 4, 2, 1), [4]),
        (256, (16, 8, 8, 4, 2, 1), [4]),
    ):
        generator = biggan.generator(size, width=8, initializer="normal")
        shapes = blocks(generator, len(maps))
        assert shapes == [(2 ** (i + 3), 8 * factor) for i, factor in enumerate(maps)]
        assert attention_blocks(generator) == attended
        assert generator.input_shape[0] == (None, 20 * (len(maps) + 1))
        assert biggan.chunks(size) == len(maps) + 1
    for size, maps, sides, attended in (
        (32, (4, 4, 4, 4), (16, 8, 8, 8), []),
        (64, (1, 2, 4, 8, 16), (32, 16, 8, 4, 4), []),
        (128, (1, 2, 4, 8, 16, 16), (64, 32, 16, 8, 4, 4), [1]),
        (256, (1, 2, 4, 8, 8, 16, 16), (128, 64, 32, 16, 8, 4, 4), [2]),
    ):
        discriminator = biggan.discriminator(size, width=8, initializer="normal")
        shapes = blocks(discriminator, len(maps))
        assert shapes == [
            (side, 8 * factor) for side, factor in zip(sides, maps, strict=True)
        ]
        assert attention_blocks(discriminator) == attended
    other = biggan.generator(32, width=8, attention=(8, 32), initializer="normal")
    assert attention_blocks(other) == [1, 3]


def blocks(network, count):
    """Side and channels of each block's result."""
    found = [network.get_layer(f"block_{i + 1}").output.shape for i in range(count)]
    assert f"block_{count + 1}" not in {layer.name for layer in network.layers}
    assert all(height == width for _, height, width, _ in found)
    return [(height, channels) for _, height, _, channels in found]


def attention_blocks(network):
    return [
        int(layer.name.split("_")[1])
        for layer in network.layers
        if isinstance(layer, attention.SelfAttention)
    ]


def test_initial_kernels_are_orthogonal_and_tables_too():
    networks = [
        biggan.generator(32, width=2, num_classes=CLASSES),
        biggan.discriminator(32, width=2, num_classes=CLASSES),
    ]
    found = 0
    for variable in [v for network in networks for v in network.trainable_variables]:
        if variable.name in ("kernel", "embeddings"):
            matrix = variable.numpy().astype("float64")
            matrix = matrix.reshape(-1, matrix.shape[-1])
            if matrix.shape[0] < matrix.shape[1]:
                matrix = matrix.T
            # A factorisation by Householder reflections is orthogonal up to some
            # roundings for each of them (Higham, theorem 19.4).
            atol = 10 * rounding.gamma(matrix.size, "float32")
            gram = matrix.T @ matrix
            np.testing.assert_allclose(gram, np.eye(len(gram)), rtol=0, atol=atol)
            found += 1
        elif variable.name in ("bias", "beta"):
            assert not np.any(variable)
    assert found > 30


def make_batch(generator, count=6, seed=0):
    random = np.random.default_rng(seed)
    latents = random.normal(size=(count, generator.input_shape[0][1]))
    return latents.astype("float32"), (np.arange(count) % CLASSES).astype("int32")


def run(network, *inputs, **options):
    return network([*map(tf.constant, inputs)], **options).numpy()


def test_labels_decide_the_image_and_the_logit():
    generator = biggan.generator(32, width=2, num_classes=CLASSES)
    latents, labels = make_batch(generator)
    same = np.repeat(latents[:1], 6, 0)
    images = run(generator, same, labels)
    # One latent vector makes as many images as there are classes, and one for a class.
    differences = np.abs(images[:, None] - images[None]).max((2, 3, 4))
    assert (differences[~np.eye(6, dtype=bool)] > 1e-3).all()
    again = run(generator, same, np.full(6, labels[2]))
    atol = rounding.random_sums(10**4, images.size, amplified=10.0)
    np.testing.assert_allclose(again, images[[2] * 6], rtol=0, atol=atol)

    discriminator = biggan.discriminator(32, width=2, num_classes=CLASSES)
    logits = run(discriminator, images[[0] * 6], labels)
    assert len(np.unique(logits)) == 6
    # The logit is a linear function of the features, and their product with the class.
    features = (
        keras.Model(discriminator.inputs, discriminator.get_layer("features").output)(
            [images[[0] * 6], labels]
        )
        .numpy()
        .astype("float64")
    )
    scores, classes = map(discriminator.get_layer, ("scores", "classes"))
    table = np.asarray(classes.normalized(False), "float64")[labels]
    kernel = np.asarray(scores.normalized(False), "float64")
    expected = features @ kernel + scores.bias + (features * table).sum(1)[:, None]
    magnitude = (np.abs(features) * (np.abs(table) + np.abs(kernel.T))).sum(1).max()
    atol = 2 * rounding.gamma(features.shape[1] + 2, "float32") * magnitude
    np.testing.assert_allclose(logits, expected, rtol=0, atol=atol)


def test_each_chunk_of_the_latents_reaches_its_block_first():
    generator = biggan.generator(32, width=2, num_classes=CLASSES)
    latents, labels = make_batch(generator)
    stages = ["reshape", "block_1", "block_2", "block_3"]
    parts = keras.Model(
        generator.inputs, [generator.get_layer(name).output for name in stages]
    )
    before = parts([tf.constant(latents), tf.constant(labels)])
    for chunk in range(4):
        other = latents.copy()
        other[:, 20 * chunk : 20 * (chunk + 1)] += 1.0
        after = parts([tf.constant(other), tf.constant(labels)])
        changed = [not np.array_equal(x, y) for x, y in zip(before, after, strict=True)]
        assert changed == [False] * chunk + [True] * (4 - chunk)
    flat = biggan.generator(32, width=2, num_classes=CLASSES, hierarchical=False)
    assert flat.input_shape == [(None, 120), (None,)]
    assert flat.get_layer("linear").kernel.shape == (120, 4 * 4 * 8)
    assert flat.get_layer("block_1_norm_1_gain").kernel.shape == (128, 8)
    assert run(flat, *make_batch(flat)).shape == (6, 32, 32, 3)


def test_default_latents_split_evenly_and_others_are_refused():
    with pytest.raises(ValueError, match="has 7 equal chunks: use 119 or 126"):
        biggan.generator(256, latent_dimension=120)
    with pytest.raises(ValueError, match="has 6 equal chunks: use 6"):
        biggan.generator(128, latent_dimension=5)
    with pytest.raises(ValueError, match="image_size is 96; .* 32, 64, 128, 256"):
        biggan.chunks(96)


def test_real_and_generated_images_share_a_pass():
    discriminator = biggan.discriminator(128, width=8, initializer="normal")
    assert all(
        structure.looks_at_each_image_alone(part)
        for part in discriminator.operations
        if not isinstance(part, keras.layers.Dot)
    )
    generator = biggan.generator(32, width=2)
    norms = [
        x
        for x in generator.layers
        if isinstance(x, layers.ConditionalBatchNormalization)
    ]
    assert not any(map(structure.looks_at_each_image_alone, norms))


# --- Against PyTorch -----------------------------------------------------------------


@pytest.fixture
def twins(monkeypatch):
    pytest.importorskip("torch", reason="requirements-bench.txt is not installed")
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    return importlib.import_module("pytorch_gans")


def in_double_precision(model):
    def clone(layer):
        config = layer.get_config()
        if "dtype" in config:  # which operations of Keras have not
            config["dtype"] = "float64"
        return type(layer).from_config(config)

    values, labels = model.inputs
    inputs = [
        keras.Input(values.shape[1:], dtype="float64", name=values.name),
        keras.Input((), dtype="int32", name=labels.name),
    ]
    return keras.models.clone_model(model, inputs, clone_function=clone)


def key(variable):
    layer, _, name = variable.path.rpartition("/")
    return f"{layer.replace('/', '_')}/{name}"


@pytest.mark.parametrize(
    ("size", "width", "compiled"),
    [
        (32, 2, False),
        (32, 2, True),
        # with attention
        pytest.param(64, 4, True, marks=pytest.mark.slow),
    ],
)
def test_a_step_is_pytorchs_in_double_precision(size, width, compiled, twins):
    torch, count = twins.torch, 4
    random = np.random.default_rng(0)
    pair, theirs = [], []
    for ours, twin in (
        (biggan.generator, twins.BigGANGenerator),
        (biggan.discriminator, twins.BigGANDiscriminator),
    ):
        model = in_double_precision(ours(size, width=width, num_classes=CLASSES))
        twin = twin(size, width).double()
        views = twins.keras_views(twin)
        for variable in model.weights:
            if variable.name.startswith("moving"):
                continue
            # Not the first values: orthogonal kernels have equal singular values.
            value = random.normal(size=variable.shape)
            if "norm" in variable.path and variable.name == "gamma":
                value += 1
            variable.assign(value)
            view = views.pop(key(variable))
            view[...] = value.reshape(view.shape)
        assert not views
        pair.append(model)
        theirs.append(twin.train())
    (generator, discriminator), (g, d) = pair, theirs
    latents = random.normal(size=(2, count, generator.input_shape[0][1]))
    labels = random.integers(0, CLASSES, (2, count)).astype("int32")
    real = random.uniform(-1, 1, (count, size, size, 3))
    with xla.for_xla(compiled):
        found = our_gradients(generator, discriminator, latents, labels, real)

    z, y = torch.from_numpy(latents), torch.from_numpy(labels).long()
    images = twins.images(real)
    with torch.no_grad():
        fake = g(z[0], y[0])
    logits = d(torch.cat([images, fake]), torch.cat([y[1], y[0]]))
    on_real, on_fake = logits.chunk(2)
    d_loss = (1 - on_real).clamp(min=0).mean() + (1 + on_fake).clamp(min=0).mean()
    d_loss.backward(inputs=list(d.parameters()))
    g_loss = -d(g(z[1], y[1]), y[1]).mean()
    g_loss.backward(inputs=list(g.parameters()))
    # Rounding in sums over a few thousand terms, which batch norm and the division by
    # norms amplify, is some 1e-13; what was wrong would be of the order of 1.
    close = {"rtol": 1e-10, "atol": 1e-10}
    for one, two in zip(found[0], (d_loss, g_loss), strict=True):
        np.testing.assert_allclose(one, two.detach(), **close)
    for model, twin, gradients in zip(pair, theirs, found[1:], strict=True):
        expected = twins.keras_views(twin, lambda parameter: parameter.grad)
        scale = max(np.abs(view).max() for view in expected.values())
        for variable, gradient in zip(
            model.trainable_variables, gradients, strict=True
        ):
            view = expected[key(variable)]
            np.testing.assert_allclose(
                gradient, view.reshape(gradient.shape), rtol=1e-10, atol=1e-10 * scale
            )
        vectors = twins.keras_views(twin)
        for variable in model.non_trainable_variables:
            if variable.name == "vector":
                view = vectors[key(variable)]
                np.testing.assert_allclose(
                    variable, view.reshape(variable.shape), **close
                )
    assert_moving_statistics_are_pytorchs(generator, g, count)


def our_gradients(generator, discriminator, latents, labels, real):
    z, y = map(tf.constant, (latents, labels))
    fake = generator([z[0], y[0]], training=True)
    with tf.GradientTape() as tape:
        both = tf.concat([real, fake], 0), tf.concat([y[1], y[0]], 0)
        logits = tf.split(discriminator([*both], training=True), 2)
        d_loss = tf.reduce_mean(tf.nn.relu(1 - logits[0]))
        d_loss += tf.reduce_mean(tf.nn.relu(1 + logits[1]))
    by_discriminator = tape.gradient(d_loss, discriminator.trainable_variables)
    with tf.GradientTape() as tape:
        made = generator([z[1], y[1]], training=True)
        g_loss = -tf.reduce_mean(discriminator([made, y[1]], training=True))
    by_generator = tape.gradient(g_loss, generator.trainable_variables)
    return (d_loss, g_loss), by_generator, by_discriminator


def assert_moving_statistics_are_pytorchs(generator, twin, count):
    modules = dict(twin.named_modules())
    for layer in generator.layers:
        if not hasattr(layer, "moving_variance"):
            continue
        path = layer.name.replace("_norm", ".norm") + ".norm"
        norm = modules["norm" if layer.name == "norm" else path]
        np.testing.assert_allclose(layer.moving_mean, norm.running_mean, atol=1e-10)
        # PyTorch's is n / (n - 1) of the batch's, of which 0.19 have come in two steps.
        n = count * np.prod(layer.output.shape[1:3])
        others = 0.81
        expected = (norm.running_var.numpy() - others) * (n - 1) / n + others
        np.testing.assert_allclose(layer.moving_variance, expected, rtol=1e-10)
