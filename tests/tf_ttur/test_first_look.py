"""The first batch is looked at, and nothing else changes."""

import numpy as np
import pytest
import tensorflow as tf

from tf_ttur.first_look import looking_first

ROWS = np.arange(14, dtype="float32").reshape(7, 2)


def shuffled():
    rows = tf.data.Dataset.from_tensor_slices({"row": ROWS, "number": np.arange(7)})
    return rows.shuffle(7, seed=3).batch(2).map(lambda x: (x["row"], x))


def counted(steps):
    """A function as Keras's, which notes each time that it is traced."""
    traces = []

    @tf.function(reduce_retracing=True)
    def function(iterator):
        traces.append(iterator)
        return [next(iterator)[1]["row"] for _ in range(steps)]

    return function, traces


@pytest.mark.parametrize("steps", [1, 2])
def test_the_first_batch_is_seen_and_all_come_in_their_order(steps):
    tf.keras.utils.set_random_seed(0)
    expected = [x.numpy() for x, _ in shuffled()]
    tf.keras.utils.set_random_seed(0)
    seen, found = [], []
    function, traces = counted(steps)
    iterator = iter(shuffled())
    first = looking_first(function, lambda x: seen.append(x[0].numpy()), steps)
    for call in [first, *[function] * (4 // steps - 1)]:
        found += call(iterator)
    for one, two in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, two)
    np.testing.assert_array_equal(seen, expected[:1])
    # The last batch is smaller than the others; what is compiled is for all of them.
    assert len(traces) == 1


def test_a_batch_that_is_refused_goes_nowhere():
    function, traces = counted(1)

    def check(batch):
        raise ValueError("wrong")

    with pytest.raises(ValueError, match="^wrong$"):
        looking_first(function, check, 1)(iter(shuffled()))
    assert traces == []


def test_what_cannot_be_looked_at_passes_unseen():
    seen = []
    ragged = tf.data.Dataset.from_tensors(tf.ragged.constant([[1.0], [2.0, 3.0]]))
    first = looking_first(next, seen.append, 1)
    assert first(iter(ragged)).shape == (2, None)
    assert first(iter([4])) == 4
    with pytest.raises(StopIteration):
        first(iter(shuffled().take(0)))
    assert seen == []
