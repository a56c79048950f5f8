"""Adapters: their formula, one base for several, and what is saved."""

import gc

import h5py
import keras
import numpy as np
import pytest
import rounding
import tensorflow as tf

from fid.files import InputError
from tf_ttur.networks import lora

SIZE, RANK, ALPHA = 6, 2, 3.0


class Nested(keras.layers.Layer):
    """A dense layer inside of another layer, as in a transformer's block."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.inner = keras.layers.Dense(SIZE, activation="tanh", name="inner_dense")

    def build(self, shape):
        self.inner.build(shape)
        self.built = True

    def call(self, x):
        return x + self.inner(x)


def make_base(seed=0):
    x = keras.Input((SIZE,))
    y = keras.layers.Dense(4, use_bias=False, name="outer")(Nested()(x))
    base = keras.Model(x, y)
    random = np.random.default_rng(seed)
    base.set_weights([random.normal(size=w.shape) for w in base.get_weights()])
    base.trainable = False
    return base


def network(base, seed=0, **changes):
    x = keras.Input((SIZE,))
    settings = {"rank": RANK, "alpha": ALPHA, "seed": seed} | changes
    return keras.Model(x, lora.Adapted(base, **settings)(x))


def randomise(model, seed=1):
    random = np.random.default_rng(seed)
    model.set_weights([random.normal(size=w.shape) for w in model.get_weights()])
    return model


def batch():
    return np.random.default_rng(5).normal(size=(3, SIZE)).astype("float32")


def formula(base, model, x):
    """The adapted network, written out in float64."""
    kernel, bias, outer = (w.astype("float64") for w in base.get_weights())
    a0, b0, a1, b1 = (w.astype("float64") for w in model.get_weights())
    scale = ALPHA / RANK
    x = x + np.tanh(x @ (kernel + scale * a0 @ b0) + bias)
    return x @ (outer + scale * a1 @ b1)


@pytest.mark.parametrize("jit", [False, True])
def test_an_adapter_adds_its_product_before_the_activation(jit):
    base = make_base()
    model = randomise(network(base))
    found = tf.function(model, jit_compile=jit)(batch()).numpy()
    expected = formula(base, model, batch())
    # Sums of at most 6 terms, three of them behind another in each of two layers; the
    # terms of a layer are below 20 times its largest number.
    bound = rounding.gamma(6 * 6 + rounding.FUNCTION, "float32") * 20
    np.testing.assert_allclose(
        found, expected, rtol=0, atol=bound * np.abs(expected).max()
    )


def test_without_an_adapter_and_at_its_start_the_base_is_as_it_was_bit_for_bit():
    base = make_base()
    before = base(batch()).numpy()
    model = network(base)
    np.testing.assert_array_equal(model(batch()), before)
    randomise(model)
    assert not np.array_equal(model(batch()), before)
    np.testing.assert_array_equal(base(batch()), before)


def test_adapters_on_one_base_know_nothing_of_each_other():
    base = make_base()
    one, other = randomise(network(base)), randomise(network(base), 2)
    alone = randomise(network(make_base()))(batch()).numpy()
    other(batch())
    np.testing.assert_array_equal(one(batch()), alone)
    assert {id(w) for w in one.weights}.isdisjoint(id(w) for w in other.weights)
    assert len(one.weights) == 4
    assert len(base.weights) == 3


def test_the_adapter_is_trained_and_the_base_is_not():
    base = make_base()
    model = randomise(network(base))
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(tf.sin(model(batch())))
    assert len(model.trainable_variables) == 4
    gradients = tape.gradient(loss, model.trainable_variables)
    assert all(np.any(g) for g in gradients)
    assert not base.trainable_variables


def test_only_targets_are_adapted():
    model = network(make_base(), targets=("inner_",))
    assert [tuple(w.shape) for w in model.weights] == [(SIZE, RANK), (RANK, SIZE)]
    with pytest.raises(InputError, match="begins with nothing_; .* inner_dense, outer"):
        network(make_base(), targets=("nothing_",))
    with pytest.raises(InputError, match="rank"):
        network(make_base(), rank=0)
    for alpha in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(InputError, match="alpha"):
            network(make_base(), alpha=alpha)


def test_the_base_is_frozen_by_its_first_adapter():
    base = make_base()
    base.trainable = True
    network(base)
    assert not base.trainable_variables


def test_equal_seeds_start_equal_adapters_and_layers_differ():
    base = make_base()
    one, other, third = network(base), network(base), network(base, seed=1)
    for a, b in zip(one.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    first, _, second, _ = one.get_weights()
    assert not np.array_equal(first, third.get_weights()[0])
    assert not np.array_equal(first[:4], second[:4])


def test_a_model_with_an_adapter_is_copied_and_saved_without_its_base(tmp_path):
    base = make_base()
    model = randomise(network(base))
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    np.testing.assert_array_equal(copy(batch()), model(batch()))
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded(batch()), model(batch()))
    assert loaded.layers[-1].base() is base
    # The file has the adapter's arrays and no others.
    model.save_weights(tmp_path / "model.weights.h5")
    found = []
    with h5py.File(tmp_path / "model.weights.h5") as file:
        file.visititems(lambda _, each: found.append(getattr(each, "shape", None)))
    assert sorted(filter(None, found)) == sorted(tuple(w.shape) for w in model.weights)


def test_without_its_base_a_saved_model_is_refused(tmp_path):
    randomise(network(make_base(seed=7))).save(tmp_path / "model.keras")
    # Models hold cycles of references.
    gc.collect()
    with pytest.raises(InputError, match=r"lora\.remember"):
        keras.models.load_model(tmp_path / "model.keras")
    lora.remember(make_base(seed=8))
    kept = make_base(seed=7)
    lora.remember(kept)
    keras.models.load_model(tmp_path / "model.keras")


def test_an_adapter_in_a_file_is_loaded(tmp_path):
    base = make_base()
    model, other = randomise(network(base)), network(base)
    lora.save(tmp_path / "a.npz", model)
    lora.load(tmp_path / "a.npz", other)
    np.testing.assert_array_equal(other(batch()), model(batch()))


def test_a_file_that_does_not_belong_here_is_refused(tmp_path):
    path, base = tmp_path / "a.npz", make_base()
    lora.save(path, randomise(network(base)))
    for other, message in (
        (network(make_base(seed=3)), "its base is"),
        (network(base, alpha=1.0), "its alpha is 3.0, here it is 1.0"),
        (network(base, rank=3), "its rank is 2, here it is 3"),
    ):
        before = other.get_weights()
        with pytest.raises(InputError, match=message):
            lora.load(path, other)
        for a, b in zip(before, other.get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)
    with pytest.raises(InputError, match="one Adapted layer"):
        lora.load(path, base)


def test_a_damaged_file_is_refused(tmp_path):
    path, model = tmp_path / "a.npz", network(make_base())
    lora.save(path, model)
    whole = path.read_bytes()
    for damaged in (whole[:-50], whole[: len(whole) // 2], b""):
        path.write_bytes(damaged)
        with pytest.raises(InputError, match=r"a\.npz"):
            lora.load(path, model)
    with open(path, "wb") as file:
        np.savez(file, record=np.array(["{}"], dtype=object))
    with pytest.raises(InputError, match=r"a\.npz is damaged"):
        lora.load(path, model)


def test_a_base_that_recomputes_is_refused():
    with keras.RematScope(mode="full"):
        base = keras.Sequential([keras.Input((SIZE,)), keras.layers.Dense(3)])
    with pytest.raises(InputError, match="RematScope"):
        network(base)
