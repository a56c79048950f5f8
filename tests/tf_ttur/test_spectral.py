"""Layers of spectral norm 1 against NumPy's singular values, in double precision."""

import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
import rounding
import tensorflow as tf
from repository import ROOT

from tf_ttur import layers, spectral, xla

pytestmark = pytest.mark.portable


@pytest.fixture(autouse=True)
def double_precision():
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float64")
    yield
    keras.config.set_dtype_policy(before)


def random(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


IMAGES, ROWS, LABELS = random(3, 4, 6, 5), random(3, 5), np.array([3, 0, 3], "int32")
CASES = {
    "conv": (spectral.SpectralConv2D, (7, 3), IMAGES),
    "conv 1x1": (spectral.SpectralConv2D, (7, 1), IMAGES),
    "upsample": (spectral.SpectralUpsampleConv2D, (7, 3), IMAGES),
    "pool": (spectral.SpectralConvMeanPool2D, (7, 3), IMAGES),
    "dense": (spectral.SpectralDense, (7,), ROWS),
    "embedding": (spectral.SpectralEmbedding, (4, 7), LABELS),
}

every_layer = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())


def make(case, **options):
    kind, args, inputs = case
    if kind is not spectral.SpectralEmbedding:
        options |= {"bias_initializer": "random_normal"}
    layer = kind(*args, **options)
    layer(inputs)
    return layer, inputs


def weight(layer):
    return layer.embeddings if hasattr(layer, "embeddings") else layer.kernel


def matrix(layer):
    """W: a row for each output, or for each symbol of a table."""
    values = np.asarray(weight(layer))
    if hasattr(layer, "embeddings"):
        return values
    return values.reshape(-1, values.shape[-1]).T


def step(w, u):
    """Algorithm 1 of Miyato et al.: the norm, v, and the next u."""
    v = w.T @ u / np.linalg.norm(w.T @ u)
    u = w @ v / np.linalg.norm(w @ v)
    return u @ w @ v, v, u


def relative(w):
    """What the products of a step may be off by, each of the longer side's terms."""
    return 4 * rounding.gamma(max(w.shape) + rounding.FUNCTION)


def test_a_step_by_hand():
    # W is diag(3, 4), and u is (1, 1): W'u is (3, 4), v is (0.6, 0.8), W v is (1.8,
    # 3.2), and u'W v is its length.
    norm, vector = spectral.spectral_norm(
        tf.constant([[3.0, 0.0], [0.0, 4.0]], tf.float64),
        tf.constant([1.0, 1.0], tf.float64),
    )
    assert float(norm) == pytest.approx(np.hypot(1.8, 3.2))
    np.testing.assert_allclose(vector, np.array([1.8, 3.2]) / np.hypot(1.8, 3.2))


def test_a_weight_of_zeros_has_a_norm_of_zero_and_no_nan():
    norm, vector = spectral.spectral_norm(tf.zeros((3, 2)), tf.ones(2))
    assert float(norm) == 0.0
    assert vector.numpy().tolist() == [0.0, 0.0]


@every_layer
def test_the_norm_comes_to_the_largest_singular_value(case):
    layer, _ = make(case)
    w, u = matrix(layer), layer.vector.numpy()
    left, values, _ = np.linalg.svd(w)
    # What u has of the other singular vectors, as the tangent of its angle to the first
    # one, falls by (s_2 / s_1)^2 in each step. The estimate, of u and the v before it,
    # is below s_1 by at most the square of the larger angle's tangent (Golub and Van
    # Loan, Matrix Computations, section 8.2.1).
    start = left.T @ u
    tangent = np.linalg.norm(start[1:]) / abs(start[0])
    ratio = values[1] / values[0]
    count = int(np.ceil(np.log(1e-3 / tangent) / np.log(ratio) / 2)) + 1
    for _ in range(count):
        layer.normalized(training=True)
    found = np.linalg.svd(matrix_of(layer.normalized(False), layer))[1][0]
    assert 1 - count * relative(w) <= found <= 1 + 1e-6 + count * relative(w)
    # It was further away, and has not been put there.
    assert abs(step(w, u)[0] - values[0]) > 1e-6 * values[0]


def matrix_of(values, layer):
    values = np.asarray(values)
    if hasattr(layer, "embeddings"):
        return values
    return values.reshape(-1, values.shape[-1]).T


@every_layer
def test_vectors_move_in_training_only_and_once_a_pass(case):
    layer, inputs = make(case)
    w, u = matrix(layer), layer.vector.numpy()
    for training in (False, None):
        layer(inputs, training=training)
        np.testing.assert_array_equal(layer.vector, u)
    for _ in range(2):
        layer(inputs, training=True)
        *_, u = step(w, u)
        np.testing.assert_allclose(layer.vector, u, rtol=0, atol=relative(w))
        u = layer.vector.numpy()
    layer.trainable = False
    layer(inputs, training=True)
    np.testing.assert_array_equal(layer.vector, u)
    assert [v.name for v in layer.non_trainable_variables if v is layer.vector]


def derivatives(function, variables):
    """Value, first derivatives, and second ones through the gradients' norm."""
    with tf.GradientTape() as outer:
        with tf.GradientTape() as tape:
            y = function()
            loss = tf.reduce_sum(tf.sin(y))
        gradients = [tf.convert_to_tensor(g) for g in tape.gradient(loss, variables)]
        penalty = tf.add_n([tf.reduce_sum(tf.square(g)) for g in gradients])
    second = outer.gradient(penalty, variables)
    return [y, *gradients, *map(tf.convert_to_tensor, second)]


@pytest.mark.parametrize("compiled", [False, True], ids=["plain", "for XLA"])
@every_layer
def test_values_and_derivatives_are_those_of_the_weight_over_its_norm(case, compiled):
    layer, inputs = make(case)
    w = matrix(layer)
    _, v, u = step(w, layer.vector.numpy())
    # u and v are constants of the derivatives.
    outer = np.outer(u, v)
    if not hasattr(layer, "embeddings"):
        outer = outer.T.reshape(weight(layer).shape)
    variables = [x.value for x in layer.trainable_variables]
    x = inputs if inputs.dtype == np.int32 else tf.constant(inputs)

    def reference():
        table = variables[0] / tf.reduce_sum(variables[0] * outer)
        bias = variables[1] if len(variables) > 1 else 0.0
        if hasattr(layer, "embeddings"):
            return tf.one_hot(x, 4, dtype=tf.float64) @ table
        if len(table.shape) == 2:
            return x @ table + bias
        given = x
        if isinstance(layer, layers.UpsampleConv2D):
            given = tf.repeat(tf.repeat(x, 2, 1), 2, 2)
        y = tf.nn.conv2d(given, table, 1, "SAME") + bias
        if isinstance(layer, layers.ConvMeanPool2D):
            y = tf.nn.avg_pool2d(y, 2, 2, "VALID")
        return y

    with xla.for_xla(compiled):
        found = derivatives(lambda: layer(x), variables)
    expected = derivatives(reference, variables)
    # Sums over the weights of an output, over pixels for a weight's derivative, and
    # over the weight for the norm, by which all is divided.
    terms = 2 * w.size + np.size(expected[0][..., 0])
    amplified = max(1.0, 1 / (u @ w @ v)) ** 2
    bound = amplified * rounding.second_derivatives(terms, expected[0])
    for one, two in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, two, rtol=0, atol=bound * np.abs(two).max())


@every_layer
def test_files_hold_the_vectors(case, tmp_path):
    layer, inputs = make(case, epsilon=1e-6, vector_initializer="ones")
    layer(inputs, training=True)
    shape = inputs.shape[1:]
    model = keras.Sequential([keras.Input(shape, dtype=inputs.dtype.name), layer])
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert type(again.layers[0]) is type(layer)
    assert again.layers[0].get_config() == layer.get_config()
    assert again.layers[0].epsilon == 1e-6
    for one, two in zip(model.weights, again.weights, strict=True):
        np.testing.assert_array_equal(one, two)
    np.testing.assert_array_equal(model(inputs), again(inputs))
    layer.vector.assign_add(tf.ones_like(layer.vector))
    model.save_weights(tmp_path / "model.weights.h5")
    again.load_weights(tmp_path / "model.weights.h5")
    np.testing.assert_array_equal(again.layers[0].vector, layer.vector)


@every_layer
def test_mixed_precision_finds_the_norm_in_float32(case):
    kind, args, inputs = case
    single, mixed = (kind(*args, dtype=x) for x in ("float32", "mixed_float16"))
    given = inputs if inputs.dtype == np.int32 else inputs.astype("float32")
    single(given), mixed(given)
    # Squares of these weights are too large for float16, and their sum is.
    for layer in (single, mixed):
        layer.set_weights([300 * random(*x.shape, seed=1) for x in layer.weights])
        output = layer(given, training=True)
        assert output.dtype == layer.compute_dtype
        assert np.isfinite(output).all()
    assert {v.dtype for v in mixed.variables} == {"float32"}
    np.testing.assert_array_equal(single.vector, mixed.vector)
    expected = np.asarray(single.normalized(False)).astype("float16")
    np.testing.assert_array_equal(mixed.normalized(False), expected)


@every_layer
def test_under_xla_vectors_move_likewise(case):
    kind, args, inputs = case
    layer = kind(*args, dtype="float32")
    given = tf.constant(inputs if inputs.dtype == np.int32 else inputs.astype("f4"))
    layer(given)
    w, u = matrix(layer).astype("float64"), layer.vector.numpy().astype("float64")

    @tf.function(jit_compile=True)
    def compiled(x):
        with xla.for_xla():
            return layer(x, training=True)

    compiled(given)
    atol = rounding.SINGLE * relative(w)
    np.testing.assert_allclose(layer.vector, step(w, u)[2], rtol=0, atol=atol)


# Logical devices have to be made before TensorFlow starts.
REPLICAS = """
import json, sys, keras, numpy as np, tensorflow as tf, tf_ttur
from tf_ttur import spectral

tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0],
    [tf.config.LogicalDeviceConfiguration()] * 2)

def train(strategy):
    with strategy.scope():
        def normal(seed):
            start = keras.initializers.RandomNormal(1.0, seed=seed)
            first = keras.initializers.RandomNormal(1.0, seed=seed + 10)
            return {"kernel_initializer": start, "vector_initializer": first}
        generator = keras.Sequential([
            keras.Input((4,)), spectral.SpectralDense(16, **normal(1)),
            keras.layers.Reshape((4, 4, 1)), keras.layers.Activation("tanh")])
        discriminator = keras.Sequential([
            keras.Input((4, 4, 1)), spectral.SpectralConvMeanPool2D(3, 3, **normal(2)),
            keras.layers.Activation("silu"), keras.layers.Flatten(),
            spectral.SpectralDense(1, **normal(3))])
        gan = tf_ttur.GAN(generator, discriminator, tf_ttur.NormalLatent(4))
        gan.compile(discriminator_optimizer=keras.optimizers.SGD(0.1),
            generator_optimizer=keras.optimizers.SGD(0.1), loss="non_saturating",
            jit_compile=False)
    real = np.random.default_rng(0).uniform(-1, 1, (8, 4, 4, 1)).astype("float32")
    gan.fit(real, batch_size=8, epochs=3, shuffle=False, verbose=0)
    layers = generator.layers + discriminator.layers
    layers = [x for x in layers if hasattr(x, "vector")]
    copies = [strategy.experimental_local_results(x.vector.value) for x in layers]
    return ([w.numpy().tolist() for w in gan.weights if "float" in w.dtype],
        [[copy.numpy().tolist() for copy in each] for each in copies])

print(json.dumps([train(tf.distribute.get_strategy()),
    train(tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]))]))
"""


def test_replicas_have_the_same_vectors_as_one_device():
    environment = os.environ | {"PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
    result = subprocess.run(
        [sys.executable, "-c", REPLICAS],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr[-4000:]
    (one, _), (two, copies) = json.loads(result.stdout)
    assert [len(each) for each in copies] == [2, 2, 2]
    for first, second in copies:
        assert first == second
    # Three steps of gradients that are sums over 8 images of 16 pixels, in another
    # order, by rates of 0.1; the vectors of norms depend on the weights by as much.
    few = 2 * 3 * rounding.random_sums(8 * 16, 10**3)
    for a, b in zip(one, two, strict=True):
        np.testing.assert_allclose(a, b, rtol=few, atol=few)
