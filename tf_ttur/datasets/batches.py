"""A set of images as batches: the order first, then the pixels.

A set is a list of *elements* (indices, encoded images) that can be put in order
without decoding anything, and a function that decodes a batch of them. Shuffling and
resuming touch elements only.
"""

from __future__ import annotations

import atexit
import dataclasses
import functools
import os
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from fid.files import InputError

__all__ = [
    "PARALLEL",
    "ImageData",
    "group",
    "in_memory",
    "indices",
    "permutation",
    "rows",
    "training_batches",
]

PARALLEL = os.cpu_count() or 1
"""How many batches are decoded at a time."""


@dataclasses.dataclass(frozen=True)
class ImageData:
    """One loaded set of images, with labels of classes where there are any.

    Attributes:
        name: The name it was loaded by.
        split: The part of it, such as "train".
        num_examples: How many images.
        image_shape: (height, width, channels) of every image.
        elements: int64 (2,) seed -> all elements, in an order that depends on nothing
            but the seed; None -> all elements in the fixed order.
        decode: A batch of elements -> uint8 (n, height, width, channels).
        num_classes: How many classes its labels are of; None for a set without labels.
        labelled: As `elements`, but pairs of an element and its label, int32; None for
            a set without labels.
    """

    name: str
    split: str
    num_examples: int
    image_shape: tuple[int, int, int]
    elements: Callable[[tf.Tensor | None], tf.data.Dataset] = dataclasses.field(
        repr=False
    )
    decode: Callable[[np.ndarray], np.ndarray] = dataclasses.field(repr=False)
    num_classes: int | None = None
    labelled: Callable[[tf.Tensor | None], tf.data.Dataset] | None = dataclasses.field(
        default=None, repr=False
    )

    @property
    def shape(self) -> tuple[int, int, int]:
        """(height, width, channels) of every image, as `image_shape`."""
        return self.image_shape

    def training(
        self,
        batch_size: int,
        seed: int,
        start_step: int = 0,
        discriminator_steps: int = 1,
        labels: bool = False,
    ) -> tf.data.Dataset:
        """Gives endless shuffled batches whose order depends on (seed, step) only.

        Every epoch is a new order of the whole set: a uniform permutation for sets in
        memory, folders and LMDBs; for record files, shards in random order, sixteen
        at a time, shuffled within windows of 8,192 images. The
        `num_examples % batch_size` images at the end of an epoch's order are left out
        of that epoch. Starting at step k gives, bit for bit, what the uninterrupted
        data set gives from step k on; no state is kept anywhere. Images that are
        skipped are not decoded, but record files are read from the start of the
        epoch.

        Args:
            batch_size: Images per discriminator update.
            seed: Seed of the order. TensorFlow's global seed has no influence.
            start_step: The step (generator update) to start at.
            discriminator_steps: Discriminator updates per step, each on its own images.
            labels: Give each image's label, too. The images are the same, in the same
                order.

        Returns:
            A `tf.data.Dataset` of float32 batches in [-1, 1] (`x / 127.5 - 1`), of
            static shape (batch_size * discriminator_steps, height, width, channels).
            With `labels`, of pairs of these and int32 (batch_size *
            discriminator_steps,).

        Raises:
            InputError: The set has fewer than `batch_size` images, or no labels where
                they are wanted.
            ValueError: A count is out of its range.
        """
        if labels and self.labelled is None:
            raise InputError(
                f"{self.name} ({self.split}) has no labels of classes. Sets that have: "
                "digits, cifar10, svhn_cropped, imagenet2012 but for its test part, "
                "and a folder in which every image is in a folder of its class, one "
                "level down."
            )

        def decode(elements: tf.data.Dataset) -> tf.data.Dataset:
            return _decoded(elements, self.decode).map(scale)

        def scale(images: tf.Tensor, *others: tf.Tensor) -> Any:
            images = tf.ensure_shape(images, (batch_size, *self.image_shape))
            images = tf.cast(images, tf.float32) / 127.5 - 1.0
            return (images, *others) if others else images

        return training_batches(
            self.labelled if labels else self.elements,
            decode,
            self.num_examples,
            f"{self.name} ({self.split}) has {self.num_examples} images",
            batch_size,
            seed,
            start_step,
            discriminator_steps,
        )

    def images(self, batch_size: int = 100) -> Iterator[np.ndarray]:
        """Goes through every image once, in a fixed order.

        The order is scikit-learn's for `digits`, by path for folders, by key for LMDBs,
        and for prepared files: splits as named, shard by shard.

        Args:
            batch_size: Images per batch; the last batch holds what is left.

        Yields:
            uint8 arrays (n, height, width, channels) in 0..255.

        Raises:
            InputError: A file is damaged; the message names it.
        """
        failures = []

        def decode(elements: np.ndarray) -> np.ndarray:
            try:
                return self.decode(elements)
            except InputError as error:
                # tf.data hands on nothing but the text of an error.
                failures.append(error)
                raise

        batches = _decoded(self.elements(None).batch(batch_size), decode)
        try:
            yield from batches.prefetch(1).as_numpy_iterator()
        except tf.errors.OpError as error:
            if failures:
                raise failures[0] from None
            raise InputError(
                f"Cannot read {self.name} ({self.split}): {error.message}. A prepared "
                "file is damaged or incomplete: delete its folder and prepare it again."
            ) from error


def training_batches(
    elements: Callable[[tf.Tensor], tf.data.Dataset],
    decode: Callable[[tf.data.Dataset], tf.data.Dataset],
    num_examples: int,
    description: str,
    batch_size: int,
    seed: int,
    start_step: int,
    discriminator_steps: int,
) -> tf.data.Dataset:
    """Gives endless batches whose order depends on (seed, step) only.

    Args:
        elements: int64 (2,) seed -> all elements of a set, in an order that depends on
            nothing but the seed.
        decode: Batches of elements -> batches of examples, both of `batch_size`.
        num_examples: How many elements there are.
        description: What the set has how many of, for the message of an error.
        batch_size: As for `ImageData.training`.
        seed: Likewise.
        start_step: Likewise.
        discriminator_steps: Likewise.

    Returns:
        A `tf.data.Dataset` of batches of `batch_size * discriminator_steps`.

    Raises:
        InputError: There are fewer than `batch_size` elements.
        ValueError: A count is out of its range.
    """
    for label, value, least in (
        ("batch_size", batch_size, 1),
        ("start_step", start_step, 0),
        ("discriminator_steps", discriminator_steps, 1),
    ):
        if value < least:
            raise ValueError(f"{label} must be at least {least}; got {value}.")
    batches_per_epoch = num_examples // batch_size
    if not batches_per_epoch:
        raise InputError(
            f"{description}, which do not fill one batch of {batch_size}: lower the "
            "batch size."
        )
    first_epoch, skipped = divmod(start_step * discriminator_steps, batches_per_epoch)

    def epoch_batches(epoch: tf.Tensor) -> tf.data.Dataset:
        order = elements(tf.stack([tf.constant(seed, tf.int64), epoch]))
        return order.batch(batch_size, drop_remainder=True)

    batches = tf.data.Dataset.counter(first_epoch).flat_map(epoch_batches)
    batches = decode(batches.skip(skipped))
    options = tf.data.Options()
    # Workers that split files instead of batches would make the order depend on their
    # number.
    options.experimental_distribute.auto_shard_policy = (
        tf.data.experimental.AutoShardPolicy.DATA
    )
    # The thread that tunes a pipeline sleeps for up to a minute at a time, and the end
    # of a `fit` may wait for it to wake up (docs/performance.md).
    options.autotune.enabled = False
    batches = group(batches, discriminator_steps).prefetch(2)
    # Keras asks for steps_per_epoch where it knows that a data set has no end.
    endless = tf.data.experimental.assert_cardinality(tf.data.INFINITE_CARDINALITY)
    return batches.apply(endless).with_options(options)


def rows(
    array: np.ndarray,
    description: str,
    batch_size: int,
    seed: int,
    start_step: int = 0,
    discriminator_steps: int = 1,
) -> tf.data.Dataset:
    """Gives endless shuffled batches of an array's rows, and of the rows' numbers.

    Args:
        array: Floats (n, ...), such as latents; it may be a file that is read as it is
            used.
        description: As for `training_batches`.
        batch_size: Likewise.
        seed: Likewise.
        start_step: Likewise.
        discriminator_steps: Likewise.

    Returns:
        A `tf.data.Dataset` of pairs: float32 (batch_size * discriminator_steps, ...),
        and int32 (batch_size * discriminator_steps,).

    Raises:
        InputError: The array has fewer than `batch_size` rows.

    Example:
        >>> import numpy as np
        >>> from tf_ttur.datasets import batches
        >>> array = np.array([[0.5], [1.5], [2.5]], "float16")
        >>> found = batches.rows(array, "There are 3 rows", batch_size=3, seed=0)
        >>> values, numbers = next(iter(found))
        >>> (values[:, 0] - 0.5 == numbers.numpy()).numpy().all()
        np.True_
    """
    count = len(array)

    def read(chosen: np.ndarray) -> np.ndarray:
        return array[chosen].astype(np.float32)

    def decode(elements: tf.data.Dataset) -> tf.data.Dataset:
        return _decoded(elements, read, tf.float32).map(
            lambda found, numbers: (
                tf.ensure_shape(found, (batch_size, *array.shape[1:])),
                numbers,
            )
        )

    return training_batches(
        functools.partial(indices, count, labels=lambda: np.arange(count, dtype="i4")),
        decode,
        count,
        description,
        batch_size,
        seed,
        start_step,
        discriminator_steps,
    )


def group(dataset: tf.data.Dataset, k: int) -> tf.data.Dataset:
    """Makes batches k times as large, in the same order.

    A training step with k discriminator updates takes one such batch and gives each
    update every k-th image of it.

    Args:
        dataset: Batches of a static size; any nested structure of tensors.
        k: How many batches become one.

    Returns:
        The regrouped data set. What does not fill a batch at the end is left out.

    Raises:
        ValueError: `k` is less than 1, or the batch size is not static.

    Example:
        >>> import tensorflow as tf
        >>> from tf_ttur import datasets
        >>> batches = tf.data.Dataset.range(8).batch(2, drop_remainder=True)
        >>> [x.tolist() for x in datasets.group(batches, 2).as_numpy_iterator()]
        [[0, 1, 2, 3], [4, 5, 6, 7]]
    """
    if k < 1:
        raise ValueError(f"k must be at least 1; got {k}.")
    sizes = {
        spec.shape[0] if spec.shape.rank else None
        for spec in tf.nest.flatten(dataset.element_spec)
    }
    if len(sizes) != 1 or None in sizes:
        raise ValueError(
            "Only batches of one static size can be grouped: use "
            f"batch(..., drop_remainder=True). Got {dataset.element_spec}."
        )
    return dataset.rebatch(k * sizes.pop(), drop_remainder=True) if k > 1 else dataset


def _decoded(
    batches: tf.data.Dataset,
    decode: Callable[[np.ndarray], np.ndarray],
    dtype: tf.DType = tf.uint8,
) -> tf.data.Dataset:
    calls = _python_calls()

    def call(elements: np.ndarray) -> np.ndarray:
        with calls:
            return decode(elements)

    def decoded(elements: tf.Tensor, *others: tf.Tensor) -> Any:
        images = tf.numpy_function(call, [elements], dtype)
        return (images, *others) if others else images

    return batches.map(
        decoded,
        num_parallel_calls=PARALLEL,
        deterministic=True,
    )


class _PythonCalls:
    """Counts the calls from tf.data's threads, and ends them before Python ends.

    A thread that asks for Python's lock while the interpreter shuts down never comes
    back, and the iterator it works for, when deleted then, waits for it: a program that
    ends, or fails, while batches are being made ahead would hang instead.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running = 0
        self._last = time.monotonic()
        self._ended = False

    def __enter__(self) -> None:
        with self._lock:
            self._last = time.monotonic()
            if self._ended:
                raise StopIteration  # The one error that TensorFlow does not print.
            self._running += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._last = time.monotonic()
            self._running -= 1

    def end(self) -> None:
        """Refuses further calls; returns when none runs and none has come lately."""
        self._ended = True
        deadline = time.monotonic() + 60.0
        while (now := time.monotonic()) < deadline:
            if not self._running and now - self._last > 0.25:
                return
            time.sleep(0.02)


@functools.cache
def _python_calls() -> _PythonCalls:
    calls = _PythonCalls()
    atexit.register(calls.end)
    return calls


def permutation(count: int | tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Returns 0..count-1 in an order that depends on nothing but the seed.

    Args:
        count: How many; a scalar.
        seed: int64 of shape (2,).

    Returns:
        int32 of shape (count,).
    """
    # tf.data's own shuffle mixes in TensorFlow's global seed; a stable sort of
    # counter-based random numbers is a function of its seed and nothing else.
    keys = tf.random.stateless_uniform(
        [count], seed, minval=None, maxval=None, dtype=tf.int64, alg="philox"
    )
    return tf.argsort(keys, stable=True)


def indices(
    count: int,
    seed: tf.Tensor | None,
    labels: Callable[[], np.ndarray] | None = None,
) -> tf.data.Dataset:
    """Gives the elements of a set that are the indices of its examples.

    Args:
        count: How many examples.
        seed: int64 of shape (2,); None for the fixed order.
        labels: Returns the label of each, int32 (count,); None for elements alone.

    Returns:
        The scalars 0..count-1, int32, as a `tf.data.Dataset`; with labels, pairs.
    """
    order = tf.range(count) if seed is None else permutation(count, seed)
    if labels is None:
        return tf.data.Dataset.from_tensor_slices(order)
    # Labels are made by NumPy, where AutoGraph has no business and warns.
    known = tf.autograph.experimental.do_not_convert(labels)()
    return tf.data.Dataset.from_tensor_slices((order, tf.gather(known, order)))


def in_memory(
    name: str,
    split: str,
    images: np.ndarray,
    num_classes: int | None = None,
    labels: Callable[[], np.ndarray] | None = None,
) -> ImageData:
    """Makes a set of images that are held in memory.

    Args:
        name: See `ImageData`.
        split: See `ImageData`.
        images: uint8 (n, height, width, channels).
        num_classes: See `ImageData`.
        labels: Returns the images' labels, int32 (n,). It is called when they are
            needed; None for a set without labels.

    Returns:
        The set.
    """
    count = len(images)
    return ImageData(
        name=name,
        split=split,
        num_examples=count,
        image_shape=images.shape[1:],
        elements=functools.partial(indices, count),
        decode=lambda chosen: images[chosen],
        num_classes=num_classes,
        labelled=labels and functools.partial(indices, count, labels=labels),
    )
