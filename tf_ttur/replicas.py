"""One global batch over the replicas of a `tf.distribute` strategy.

Each replica holds some rows of the global batch. Noise is drawn for all rows, from a
random state that is the same on every replica, and each replica takes its own rows of
it; means are weighted by rows. So several replicas compute what one device computes
from the global batch. Without a strategy all of this does nothing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import tensorflow as tf

__all__ = [
    "Share",
    "average",
    "average_variables",
    "is_distributed",
    "multi_worker",
    "share",
]


@dataclasses.dataclass(frozen=True)
class Share:
    """Which rows of the global batch are this replica's.

    Attributes:
        start: Index of its first row; an integer or an int32 scalar, as the others.
        size: Its rows.
        total: The rows of all replicas.
        replicas: How many replicas there are.
    """

    start: Any
    size: Any
    total: Any
    replicas: int = 1

    def rows(self, draw: Callable[[Any], tf.Tensor]) -> tf.Tensor:
        """Draws noise for the global batch and takes this replica's rows.

        Args:
            draw: Maps a number of rows to a tensor with so many, the same on every
                replica.

        Returns:
            A tensor with `size` rows.
        """
        noise = draw(self.total)
        if self.replicas == 1:
            return noise
        others = noise.shape[1:]
        return tf.slice(noise, [self.start, *[0] * len(others)], [self.size, *others])

    def scale(self, loss: tf.Tensor) -> tf.Tensor:
        """Scales a mean over this replica's rows.

        Args:
            loss: Float scalar.

        Returns:
            The summand for which the sum over the replicas is the mean over the global
            batch.
        """
        if self.replicas == 1:
            return loss
        loss = tf.convert_to_tensor(loss)
        return loss * tf.cast(self.size / self.total, loss.dtype)

    def mean(self, values: Any) -> Any:
        """Turns means over this replica's rows into means over the global batch.

        Args:
            values: Float scalars in any nested structure.

        Returns:
            The same structure, with the same values on every replica.
        """
        if self.replicas == 1:
            return values
        context = tf.distribute.get_replica_context()
        return context.all_reduce(
            tf.distribute.ReduceOp.SUM, tf.nest.map_structure(self.scale, values)
        )


def share(batch: Any) -> Share:
    """Finds this replica's share of a global batch.

    Args:
        batch: Its rows, any tensor of rank >= 1, or a tuple that starts with one. Under
            a strategy all replicas call this together.

    Returns:
        The share. A replica without any rows is an error when the step runs.
    """
    rows = batch[0] if isinstance(batch, tuple) else batch
    size = rows.shape[0]
    if size is None:
        size = tf.shape(rows)[0]
    context = tf.distribute.get_replica_context()
    replicas = 1 if context is None else context.num_replicas_in_sync
    if replicas == 1:
        return Share(0, size, size)
    index = context.replica_id_in_sync_group
    if isinstance(size, int) and not tf.executing_eagerly():
        # tf.distribute gives static sizes to batches that all replicas share evenly.
        return Share(index * size, size, replicas * size, replicas)
    mine = tf.one_hot(index, replicas) * tf.cast(size, tf.float32)
    sizes = tf.cast(context.all_reduce(tf.distribute.ReduceOp.SUM, mine), tf.int32)
    enough = tf.debugging.assert_positive(
        sizes,
        f"A batch leaves some of {replicas} replicas without images; drop the "
        "remainder: dataset.batch(n, drop_remainder=True).",
    )
    with tf.control_dependencies([enough] if enough is not None else []):
        sizes = tf.identity(sizes)
    return Share(tf.reduce_sum(sizes[:index]), size, tf.reduce_sum(sizes), replicas)


def average(tensors: list[Any]) -> list[Any]:
    """Takes means over the replicas, in a replica's context.

    Args:
        tensors: Float tensors; a None stays None.

    Returns:
        The means, the same on every replica.
    """
    context = tf.distribute.get_replica_context()
    present = [tensor for tensor in tensors if tensor is not None]
    if context is None or context.num_replicas_in_sync == 1 or not present:
        return tensors
    means = iter(context.all_reduce(tf.distribute.ReduceOp.MEAN, present))
    return [None if tensor is None else next(means) for tensor in tensors]


def average_variables(variables: Iterable[Any]) -> None:
    """Sets each variable to its mean over the replicas, in a replica's context.

    For the moving averages of batch normalisation, of which Keras gives each replica
    one of its own. They are linear in what they average, so it does not matter that
    they are averaged now and then only.

    Args:
        variables: Keras variables; those that are no floats stay as they are.
    """
    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return
    variables = [v for v in variables if "float" in v.dtype]
    values = [tf.convert_to_tensor(v) for v in variables]
    for variable, mean in zip(variables, average(values), strict=True):
        variable.assign(mean)


def is_distributed(variable: Any) -> bool:
    """Says whether a Keras variable has a copy on each replica.

    Args:
        variable: A Keras variable.
    """
    return isinstance(variable.value, tf.distribute.DistributedValues)


def multi_worker(strategy: tf.distribute.Strategy) -> bool:
    """Says whether a strategy spans several processes.

    Args:
        strategy: Any strategy, the default one included.
    """
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        return False
    tasks = strategy.cluster_resolver.cluster_spec().as_dict()
    return sum(map(len, tasks.values())) > 1
