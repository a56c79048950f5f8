"""A look at the first batch of what `fit` is given, before anything learns from it.

It leaves alone the order of the data, every random state and the step: arrays are
looked at where they are, and a `tf.data.Dataset` looks at its own first batch as it
passes.
"""

from __future__ import annotations

import contextlib
import types
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf

__all__ = ["FirstLook"]

_ROWS = 1000


class FirstLook:
    """Checks the first batch of one data set, or the first rows of an array.

    What is none of the two nor a generator, such as a `keras.utils.PyDataset`, passes
    unseen: to read it here would read it twice.

    Args:
        take: Finds what is to be checked in what the data set yields, or in the specs
            of it. A result without shape and dtype is not checked.
        check: Is given that, float32, and raises a ValueError where it is wrong. None
            for no check but that there are data.

    Example:
        >>> import tensorflow as tf
        >>> from tf_ttur.first_look import FirstLook
        >>> def check(x):
        ...     if x.max() > 1:
        ...         raise ValueError("too large")
        >>> look = FirstLook(lambda data: data[0], check)
        >>> data = look.at(tf.data.Dataset.from_tensors(([1.0, 3.0], 0)))
        >>> with look.raising():
        ...     next(iter(data))
        Traceback (most recent call last):
        ValueError: too large
    """

    def __init__(
        self,
        take: Callable[[Any], Any],
        check: Callable[[np.ndarray], None] | None,
    ):
        self._take, self._check = take, check
        self._error: ValueError | None = None

    def at(self, data: Any) -> Any:
        """Looks, or has the data set look when it is read.

        Args:
            data: As for `keras.Model.fit`.

        Returns:
            What to read in its place: the same data in the same order.

        Raises:
            ValueError: The check failed, or there are no data.
        """
        if isinstance(data, tf.data.Dataset):
            if data.cardinality() == 0:
                raise ValueError(
                    "The data set is empty: it has no batch. With drop_remainder=True "
                    "it has none where there are fewer examples than in a batch."
                )
            return self._looking(data)
        if isinstance(data, types.GeneratorType):
            first = list(_first(data))
            for batch in first:
                self._look_at(batch)
            return _again(first, data)
        self._look_at(data)
        return data

    @contextlib.contextmanager
    def raising(self) -> Iterator[None]:
        """Turns a failed check inside of a data set into the check's own error."""
        try:
            yield
        except tf.errors.OpError:
            if self._error is None:
                raise
            raise self._error from None

    def _look_at(self, data: Any) -> None:
        found = self._take(data)
        if not hasattr(found, "shape") or not hasattr(found, "dtype"):
            return
        if len(found.shape) and found.shape[0] == 0:
            raise ValueError(f"The data are empty: their shape is {(*found.shape,)}.")
        if self._check and tf.as_dtype(found.dtype).is_floating:
            self._check(np.asarray(found[:_ROWS], "float32"))

    def _looking(self, data: tf.data.Dataset) -> tf.data.Dataset:
        spec = self._take(data.element_spec)
        if not self._check or not isinstance(spec, tf.TensorSpec):
            return data
        if not spec.dtype.is_floating:
            return data

        def look(values: tf.Tensor) -> bool:
            try:
                self._check(values.numpy())
            except ValueError as error:
                self._error = error
                raise
            return True

        def passing(index: tf.Tensor, batch: Any) -> Any:
            tf.cond(
                tf.equal(index, 0),
                lambda: tf.py_function(
                    look, [tf.cast(self._take(batch), tf.float32)], tf.bool
                ),
                lambda: True,
            )
            return batch

        return data.enumerate().map(passing)


def _first(data: Iterator[Any]) -> Iterator[Any]:
    for batch in data:
        yield batch
        return


def _again(first: list[Any], rest: Iterator[Any]) -> Iterator[Any]:
    # Keras knows generators by their type, so this is one.
    yield from first
    yield from rest
