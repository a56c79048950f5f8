"""A look at the first batch that a model is given, before anything learns from it.

It leaves alone the order of the data, every random state and the step: the batch is
read as the step would have read it, looked at, and handed on to the same compiled
function. Later batches pass without a look, at no cost.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import Any

import tensorflow as tf

__all__ = ["looking_first"]


def looking_first(
    function: Callable[[Any], Any], check: Callable[[Any], None], steps: int
) -> Callable[[Any], Any]:
    """Makes a Keras model's function of an iterator look at the first batch.

    Args:
        function: `train_function` or `test_function` of a Keras model. It takes an
            iterator of batches.
        check: Is given the first batch, of eager tensors, and raises where it is
            wrong. Batches of another kind than dense tensors, and those of a
            `tf.distribute` strategy, pass unseen.
        steps: Batches that the function reads in a call.

    Returns:
        The function for the first call.

    Example:
        >>> import tensorflow as tf
        >>> from tf_ttur.first_look import looking_first
        >>> function = tf.function(lambda iterator: next(iterator) + 1)
        >>> first = looking_first(function, lambda x: print("saw", int(x)), steps=1)
        >>> numbers = iter(tf.data.Dataset.range(3))
        >>> int(first(numbers)), int(function(numbers))
        saw 0
        (1, 2)
    """

    def first(iterator: Any) -> Any:
        if not isinstance(iterator, tf.data.Iterator):
            return function(iterator)
        spec = iterator.element_spec
        if not all(isinstance(x, tf.TensorSpec) for x in tf.nest.flatten(spec)):
            return function(iterator)
        batches = list(itertools.islice(iterator, steps))
        if not batches:
            return function(iterator)
        check(batches[0])
        again = (_as_before(batch, spec) for batch in batches)
        return function(iter(functools.reduce(tf.data.Dataset.concatenate, again)))

    return first


def _as_before(batch: Any, spec: Any) -> tf.data.Dataset:
    """Makes a data set of one batch, whose spec is that of the data it came from.

    Where a size was open it stays so: another spec would be traced and compiled anew.
    """

    def opened(*parts: Any) -> Any:
        whole = parts if isinstance(spec, tuple) else parts[0]
        return tf.nest.map_structure(
            lambda x, of: tf.compat.v1.placeholder_with_default(x, of.shape),
            whole,
            spec,
        )

    return tf.data.Dataset.from_tensors(batch).map(opened)
