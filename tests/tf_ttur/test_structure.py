"""What a network's form says: shapes, a last sigmoid, and what it must not be."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tf_ttur import structure


class Subclass(keras.Model):
    """As in every tutorial: no `build`, no `compute_output_shape`."""

    def __init__(self, outputs=1):
        super().__init__()
        self.hidden, self.last = keras.layers.Dense(5), keras.layers.Dense(outputs)

    def call(self, x, training=False):
        return self.last(tf.nn.relu(self.hidden(tf.reshape(x, [-1, 12]))))


def network(*layers):
    return keras.Sequential([keras.Input((6,)), *layers])


def test_a_subclass_is_built_from_the_shape_of_its_input():
    subclass = Subclass()
    assert structure.build(subclass, (None, 4, 3), "critic") == (None, 1)
    assert [w.shape for w in subclass.weights] == [(12, 5), (5,), (5, 1), (1,)]
    # The shape is the one that a call gives.
    assert subclass(np.zeros((2, 4, 3), "float32")).shape == (2, 1)


def test_what_is_built_keeps_its_weights():
    for made in (Subclass(), network(keras.layers.Dense(1))):
        shape = (None, 4, 3) if isinstance(made, Subclass) else (None, 6)
        made(np.zeros((1, *shape[1:]), "float32"))
        before = made.get_weights()
        assert structure.build(made, shape, "critic") == (None, 1)
        for one, two in zip(before, made.get_weights(), strict=True):
            np.testing.assert_array_equal(one, two)


def test_a_map_of_any_size_has_the_size_of_its_input():
    convolution = keras.Sequential(
        [keras.Input((None, None, 1)), keras.layers.Conv2D(2, 3)]
    )
    assert structure.build(convolution, (None, 8, 6, 1), "g") == (None, 6, 4, 2)


@pytest.mark.filterwarnings("ignore")  # Keras's own words about the same
def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"takes shape \(6,\), .* in is shape \(5,\)"):
        structure.build(network(keras.layers.Dense(1)), (None, 5), "generator")
    with pytest.raises(ValueError, match=r"a Subclass, cannot be called .* \(4,\): "):
        structure.build(Subclass(), (2, 4), "generator")
    with pytest.raises(ValueError, match="it must be a Keras model"):
        structure.build(np.tanh, (None, 4), "generator")


def test_several_inputs_or_outputs_are_refused():
    x, y = keras.Input((2,)), keras.Input((3,))
    with pytest.raises(ValueError, match="The critic has 2 inputs; .* one output"):
        structure.build(
            keras.Model([x, y], keras.layers.Concatenate()([x, y])), (None, 2), "critic"
        )
    with pytest.raises(ValueError, match="The critic has 2 outputs"):
        structure.build(keras.Model(x, [x, 2 * x]), (None, 2), "critic")

    class Pair(Subclass):
        def call(self, x, training=False):
            return super().call(x), x

    with pytest.raises(ValueError, match="The critic has 2 outputs"):
        structure.build(Pair(), (None, 12), "critic")


@pytest.mark.parametrize(
    ("wrap", "found"),
    [
        (lambda y: [y], "a list of one tensor"),
        (lambda y: (y,), "a tuple of one tensor"),
        (lambda y: {"logits": y}, "a dict of one tensor with the key 'logits'"),
    ],
)
def test_a_tensor_in_a_structure_is_refused(wrap, found):
    class Wrapped(Subclass):
        def call(self, x, training=False):
            return wrap(super().call(x))

    x = keras.Input((12,))
    functional = keras.Model(x, wrap(keras.layers.Dense(1)(x)))
    for made in (Wrapped(), functional, keras.Sequential([x, functional])):
        with pytest.raises(ValueError, match=f"The critic returns {found}; GAN takes"):
            structure.build(made, (None, 12), "critic")


def test_what_returns_nothing_is_refused():
    class Nothing(Subclass):
        def call(self, x, training=False):
            return None

    with pytest.raises(ValueError, match="The critic returns a NoneType; "):
        structure.build(Nothing(), (None, 12), "critic")


@pytest.mark.parametrize(
    ("last", "expected"),
    [
        ([keras.layers.Dense(1)], None),
        ([keras.layers.Dense(1, "sigmoid")], "sigmoid"),
        ([keras.layers.Dense(1), keras.layers.Activation("hard_sigmoid")], "hard_sig"),
        ([keras.layers.Dense(1, activation=keras.layers.Softmax())], "softmax"),
        ([keras.layers.Dense(2, "sigmoid"), keras.layers.Reshape((2, 1))], "sigmoid"),
        ([network(keras.layers.Dense(1, "sigmoid"))], "sigmoid"),
        ([keras.layers.Dense(2, "sigmoid"), keras.layers.Dropout(0.1)], "sigmoid"),
        ([keras.layers.Dense(3, "sigmoid"), keras.layers.Dense(1)], None),
        ([keras.layers.Dense(1, "tanh")], None),
    ],
)
def test_a_last_function_that_gives_probabilities_is_seen(last, expected):
    found = structure.squashing(network(*last))
    assert found == expected or found.startswith(expected)


def test_a_function_of_keras_ops_is_seen_and_a_subclass_is_not():
    x = keras.Input((6,))
    dense = keras.layers.Dense(1)(x)
    assert structure.squashing(keras.Model(x, keras.ops.sigmoid(dense))) == "sigmoid"
    assert structure.squashing(Subclass()) is None


class Head(keras.Model):
    """A network whose layers cannot be seen, with a last function."""

    def __init__(self, last, *parts):
        super().__init__()
        self.parts, self.last = [*parts, keras.layers.Dense(1)], last

    def call(self, x, training=False):
        for part in self.parts:
            x = part(x)
        return self.last(x)


def same(y):
    return y


def normalized():
    """Its values do not grow with the weights, and fresh ones are close together."""
    return [keras.layers.Dense(32, "relu"), keras.layers.LayerNormalization()]


@pytest.mark.parametrize(
    ("last", "parts", "expected"),
    [
        (keras.ops.sigmoid, [], True),
        (keras.ops.hard_sigmoid, normalized(), True),
        (lambda y: tf.clip_by_value(y, 0, 1), [keras.layers.Dense(5, "relu")], True),
        (lambda y: keras.ops.softmax(keras.ops.concatenate([y, -y], -1)), [], True),
        (same, [], False),
        (same, normalized(), False),
        (same, [keras.layers.Dense(8, "relu") for _ in range(12)], False),
        (same, [keras.layers.BatchNormalization(), keras.layers.Dropout(0.5)], False),
        (same, [keras.layers.Dense(9, "sigmoid")], False),
        (keras.ops.relu, [], False),
        (keras.ops.tanh, [], False),
        (lambda y: 0 * y - 1, [], False),
        (lambda y: y / 0, [], False),
    ],
)
def test_what_stays_in_0_and_1_whatever_the_weights_seems_to_squash(
    last, parts, expected
):
    judge = Head(last, *parts)
    structure.build(judge, (None, 6), "critic")
    before = [w.numpy() for w in judge.weights]
    assert structure.seems_to_squash(judge, (None, 6)) is expected
    for weight, value in zip(judge.weights, before, strict=True):
        np.testing.assert_array_equal(weight.numpy(), value)


def test_fresh_weights_that_give_values_in_0_and_1_are_no_sigmoid():
    """As the weights of many networks do by chance, of one sign for all images."""
    judge = Head(same)
    structure.build(judge, (None, 6), "critic")
    judge.set_weights([np.full((6, 1), 0.01), np.full(1, 0.5)])
    assert not structure.seems_to_squash(judge, (None, 6))


def test_what_can_be_seen_or_not_be_tried_is_left_alone():
    assert not structure.seems_to_squash(
        network(keras.layers.Dense(1, "sigmoid")), (None, 6)
    )
    judge = Head(keras.ops.sigmoid)
    structure.build(judge, (None, 6), "critic")
    assert not structure.seems_to_squash(judge, (None, None))
    assert not structure.seems_to_squash(judge, (None, 7))
