"""The first batch is looked at, once an epoch, and nothing else changes."""

import numpy as np
import pytest
import tensorflow as tf

from tf_ttur.first_look import FirstLook

ROWS = np.arange(12, dtype="float32").reshape(6, 2)


def looking():
    seen = []
    return FirstLook(lambda data: data[0], lambda x: seen.append(x.copy())), seen


def shuffled():
    rows = tf.data.Dataset.from_tensor_slices((ROWS, np.arange(6)))
    return rows.shuffle(6, seed=3).batch(2, drop_remainder=True)


def read(data, epochs=2):
    return [[x.numpy() for x, _ in data] for _ in range(epochs)]


def test_a_data_set_looks_at_its_first_batch_and_keeps_its_order():
    tf.keras.utils.set_random_seed(0)
    expected = read(shuffled())
    tf.keras.utils.set_random_seed(0)
    look, seen = looking()
    data = look.at(shuffled())
    assert seen == []
    found = read(data)
    np.testing.assert_array_equal(found, expected)
    # Epochs differ, and each has one batch looked at.
    np.testing.assert_array_equal(seen, [epoch[0] for epoch in expected])
    assert data.element_spec == shuffled().element_spec
    assert data.cardinality() == 3


def test_a_failed_check_is_raised_as_it_is():
    def check(values):
        raise ValueError(f"{values.shape} are wrong")

    look = FirstLook(lambda data: data[0], check)
    data = look.at(shuffled())
    with pytest.raises(ValueError, match=r"^\(2, 2\) are wrong$"), look.raising():
        next(iter(data))
    with pytest.raises(ValueError, match=r"^\(6, 2\) are wrong$"):
        look.at((ROWS, 0))


def test_errors_of_the_data_set_itself_stay():
    look, _ = looking()

    def fail(x, y):
        return tf.ensure_shape(x, (3, 3)), y

    data = look.at(shuffled().map(lambda x, y: (tf.py_function(abs, [x], x.dtype), y)))
    with pytest.raises(tf.errors.InvalidArgumentError), look.raising():
        next(iter(data.map(fail)))


def test_a_generator_gives_what_it_would_have_given():
    look, seen = looking()
    data = look.at((x, 0) for x in ROWS)
    np.testing.assert_array_equal(seen, ROWS[:1])
    np.testing.assert_array_equal([x for x, _ in data], ROWS)


def test_whole_numbers_and_what_is_not_found_pass_unseen():
    look, seen = looking()
    words = tf.data.Dataset.from_tensors((["a"], 0))
    assert look.at(words) is words
    pictures = (np.zeros((2, 3), "uint8"), 0)
    assert look.at(pictures) is pictures
    assert seen == []


@pytest.mark.parametrize("data", [shuffled().take(0), (ROWS[:0], 0)])
def test_no_data_are_refused(data):
    with pytest.raises(ValueError, match=r"is empty: it has no batch|are empty"):
        looking()[0].at(data)
