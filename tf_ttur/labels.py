"""Labels of classes: what a conditional `GAN` takes, draws and hands to its hooks.

A label is a whole number in [0, number of classes). Those of a batch are one int32
tensor (n,), beside the images or the latents that they belong to.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

__all__ = [
    "Labelled",
    "as_labels",
    "check_each",
    "check_range",
    "check_told",
    "chosen",
    "draw",
    "images_of",
    "inputs",
    "labels_of",
]


class Labelled(NamedTuple):
    """Images and their labels: what the hooks of a conditional `GAN` are given.

    Attributes:
        images: Float32 (n, H, W, C).
        labels: Int32 (n,).

    Example:
        >>> import tensorflow as tf
        >>> from tf_ttur.labels import Labelled
        >>> real = Labelled(tf.zeros((2, 8, 8, 3)), tf.constant([4, 0]))
        >>> real.images.shape, real.labels.numpy().tolist()
        (TensorShape([2, 8, 8, 3]), [4, 0])
    """

    images: Any
    labels: Any


def inputs(batch: Any) -> Any:
    """Returns what a network is called with.

    Args:
        batch: A tensor, or `Labelled`.

    Returns:
        The tensor; or the list of the two, as a Keras model with two inputs takes them.
    """
    return list(batch) if isinstance(batch, Labelled) else batch


def images_of(batch: Any) -> tf.Tensor:
    """Returns the images of a batch.

    Args:
        batch: A tensor, or `Labelled`.
    """
    return batch.images if isinstance(batch, Labelled) else batch


def labels_of(batch: Any) -> tf.Tensor | None:
    """Returns the labels of a batch; None where it has none.

    Args:
        batch: A tensor, or `Labelled`.
    """
    return batch.labels if isinstance(batch, Labelled) else None


def draw(count: Any, num_classes: int, seed: Any) -> tf.Tensor:
    """Draws labels, each class as likely as any other.

    Args:
        count: How many.
        num_classes: The number of classes.
        seed: An integer, or a `keras.random.SeedGenerator` to advance.

    Returns:
        Int32 (count,).

    Example:
        >>> from tf_ttur import labels
        >>> sorted(set(labels.draw(1000, 3, seed=0).numpy().tolist()))
        [0, 1, 2]
    """
    return keras.random.randint((count,), 0, num_classes, dtype="int32", seed=seed)


def as_labels(found: Any, num_classes: int) -> tf.Tensor:
    """Makes labels of what a data set yields beside its images.

    Args:
        found: A tensor.
        num_classes: The number of classes.

    Returns:
        Int32 (n,).

    Raises:
        ValueError: It is something else than whole numbers (n,) or (n, 1).
    """
    if not tf.is_tensor(found):
        raise ValueError(
            f"The labels are {found!r}; a GAN with num_classes={num_classes} needs "
            "a whole number for each image, (n,): map the data set to (images, labels)."
        )
    if found.shape.rank is None:
        found = tf.ensure_shape(found, [None])
    shape, kind = found.shape, found.dtype
    if shape.rank == 2 and shape[1] == 1:
        found = found[:, 0]
    if found.shape.rank != 1 or not kind.is_integer:
        advice = "whole numbers (n,)"
        if shape.rank == 2 and shape[1] == num_classes:
            advice += ": of one-hot rows take tf.argmax(labels, -1)"
        elif found.shape.rank == 1 and kind.is_floating:
            advice += ": use tf.cast(labels, tf.int32)"
        raise ValueError(
            f"The labels are {kind.name} of shape {tuple(shape)}; a GAN with "
            f"num_classes={num_classes} needs {advice}."
        )
    return tf.cast(found, tf.int32)


def check_range(labels: Any, num_classes: int) -> None:
    """Refuses labels that are of no class.

    Args:
        labels: Whole numbers of any shape.
        num_classes: The number of classes.

    Raises:
        ValueError: One is not in [0, num_classes).
    """
    labels = np.asarray(labels)
    if not labels.size or (labels.min() >= 0 and labels.max() < num_classes):
        return
    advice = ""
    if labels.min() == 1 and labels.max() == num_classes:
        advice = " They count from 1; use labels - 1."
    elif labels.min() >= 0:
        advice = " Give num_classes the number of classes that there are."
    raise ValueError(
        f"The labels span {labels.min()} to {labels.max()}; with num_classes="
        f"{num_classes} they are in 0..{num_classes - 1}.{advice}"
    )


# What an error of `check_each` says, and how the message of TensorFlow's shows it.
_SPAN = "the span of labels is"
_TOLD = re.compile(_SPAN + r"\] \[(-?\d+)\] \[(-?\d+)\]")


def check_each(
    dataset: tf.data.Dataset, find: Callable[[Any], tf.Tensor], num_classes: int
) -> tf.data.Dataset:
    """Has a data set fail at a batch that has a label of no class.

    The pipeline does it, for two passes over a batch's labels. XLA leaves assertions
    out of a compiled step, and takes the row at the end of a table for such a label.

    Args:
        dataset: Batches.
        find: Finds the labels in one, whole numbers of any shape.
        num_classes: The number of classes.

    Returns:
        The same batches. The error of a bad one is for `check_told`.

    Example:
        >>> import tensorflow as tf
        >>> from tf_ttur import labels
        >>> numbers = tf.data.Dataset.from_tensors(tf.constant([2, 3]))
        >>> checked = labels.check_each(numbers, lambda batch: batch, num_classes=4)
        >>> next(iter(checked)).numpy().tolist()
        [2, 3]
    """

    def check(*parts: Any) -> Any:
        batch = parts if isinstance(dataset.element_spec, tuple) else parts[0]
        labels = find(batch)
        # Of no labels the least is the largest number and the other way round: it fits.
        least = tf.cast(tf.reduce_min(labels), tf.int64)
        most = tf.cast(tf.reduce_max(labels), tf.int64)
        fits = tf.logical_and(least >= 0, most < num_classes)
        # Of int64 TensorFlow would make a condition with two branches, which is slow.
        span = [tf.cast(x, tf.int32) for x in (least, most)]
        tf.debugging.Assert(fits, [_SPAN, *span])
        return batch

    return dataset.map(check)


def check_told(error: tf.errors.OpError, num_classes: int) -> None:
    """Says of an error of `check_each` what `check_range` says of the labels.

    Args:
        error: An error in reading a data set.
        num_classes: The number of classes.

    Raises:
        ValueError: It is of labels that are of no class.
    """
    if found := _TOLD.search(error.message):
        check_range([int(x) for x in found.groups()], num_classes)


def chosen(
    labels: int | Sequence[int] | np.ndarray | None,
    count: int,
    num_classes: int,
    seed: int,
) -> np.ndarray:
    """Returns the labels of images that are going to be generated.

    Args:
        labels: One class for all, `count` of them, or None to draw them.
        count: How many images.
        num_classes: The number of classes.
        seed: The seed of the images' latents. Labels are drawn from it, too, and are
            independent of the latents.

    Returns:
        Int32 (count,).

    Raises:
        ValueError: There are more or fewer, or one is of no class.

    Example:
        >>> from tf_ttur import labels
        >>> labels.chosen(7, 3, 10, seed=0).tolist()
        [7, 7, 7]
    """
    if labels is None:
        # The first state of the generator is that of the integer itself, from which
        # the latents are drawn.
        generator = keras.random.SeedGenerator(seed)
        generator.next()
        return np.asarray(draw(count, num_classes, generator))
    found = np.asarray(labels)
    if not np.issubdtype(found.dtype, np.integer) or found.shape not in ((), (count,)):
        raise ValueError(
            f"labels are {found.dtype} of shape {found.shape}; give one whole number, "
            f"or {count}, one for each image."
        )
    check_range(found, num_classes)
    return np.broadcast_to(found, (count,)).astype(np.int32)
