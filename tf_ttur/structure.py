"""What the form of a network says before it is run: its shapes, layers and last step.

`GAN` builds both networks from it, and refuses by it what could not train rightly.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tf_ttur import attention, layers, spectral

__all__ = ["build", "looks_at_each_image_alone", "seems_to_squash", "squashing"]

# Functions whose values are probabilities, as Keras writes their names in lower case.
_SQUASHING = ("sigmoid", "hardsigmoid", "softmax")
# Layers after which a probability is still one.
_PASSING = (
    keras.layers.Dropout,
    keras.layers.Flatten,
    keras.layers.GlobalAveragePooling2D,
    keras.layers.Reshape,
)

# Weights are drawn so many times, for so many inputs.
_DRAWS, _INPUTS = 16, 4

# Layers whose result for an image depends on no other image of the batch, nor on
# anything random. Spectral normalisation depends on the number of passes, each of which
# is a step of its power iteration; one pass is what its authors take.
_ALONE = (
    keras.layers.Activation,
    keras.layers.Add,
    keras.layers.AveragePooling2D,
    keras.layers.Concatenate,
    keras.layers.Conv1D,
    keras.layers.Conv2D,
    keras.layers.Dense,
    keras.layers.ELU,
    keras.layers.Flatten,
    keras.layers.GlobalAveragePooling2D,
    keras.layers.GroupNormalization,
    keras.layers.InputLayer,
    keras.layers.LayerNormalization,
    keras.layers.LeakyReLU,
    keras.layers.MaxPooling2D,
    keras.layers.ReLU,
    keras.layers.Reshape,
    attention.SelfAttention,
    layers.Conv2D,
    layers.ConvMeanPool2D,
    layers.Embedding,
    layers.GlobalSumPooling2D,
    layers.ImageNormalization,
    spectral.SpectralConv2D,
    spectral.SpectralConvMeanPool2D,
    spectral.SpectralDense,
    spectral.SpectralEmbedding,
)
# Likewise, of those that join images with labels. Others' networks keep the passes that
# they have always had.
_ALONE_WITH_LABELS = (
    keras.layers.Dot,
    keras.layers.Embedding,
    keras.layers.Multiply,
)


def build(
    network: Any, shape: tuple[int | None, ...], name: str, labels: bool = False
) -> tuple:
    """Builds a network for inputs of a shape, unless it is built.

    Args:
        network: A Keras model of one input and one output, of any kind. A subclass
            need not have been called.
        shape: The input's, (None, ...).
        name: What messages call the network.
        labels: Whether it takes a second input, labels of classes, int32 (None,).

    Returns:
        The output's shape, (None, ...).

    Raises:
        ValueError: It is no Keras model, has several inputs or outputs, or does not
            take such inputs.

    Example:
        >>> import keras
        >>> from tf_ttur import structure
        >>> structure.build(keras.Sequential([keras.layers.Dense(3)]), (None, 2), "g")
        (None, 3)
    """
    if not isinstance(network, keras.layers.Layer):
        raise ValueError(f"The {name} is {network!r}; it must be a Keras model.")
    inputs = getattr(network, "inputs", None) or ()
    shapes = [shape, (None,)] if labels else [shape]
    count = 1 if isinstance(network, keras.Sequential) else len(inputs)
    if labels and count not in (0, 2):
        raise ValueError(
            f"The {name} has {count} input{'s'[: count != 1]}; with "
            "num_classes GAN calls it with two, [values, labels]: make it a functional "
            "keras.Model of both, or leave num_classes out."
        )
    if not labels:
        _check_one(name, "inputs", len(inputs))
    for tensor, each in zip(inputs, shapes, strict=False):
        if not tf.TensorShape(tensor.shape).is_compatible_with(each):
            raise ValueError(
                f"The {name} takes {_one(tensor.shape)}, but what comes in is "
                f"{_one(each)}: make them fit."
            )
    if labels and inputs and "int" not in inputs[1].dtype:
        raise ValueError(
            f"The {name} takes labels as {inputs[1].dtype}; GAN gives int32 (n,): "
            'keras.Input((), dtype="int32").'
        )
    if _tells_its_shape(network):
        if not network.built:
            network.build(shapes if labels else shape)
        outputs = getattr(network, "outputs", None) or ()
        _check_one(name, "outputs", len(outputs))
        found = network.compute_output_shape(shapes if labels else shape)
        if not _is_shape(found):
            _check_bare(name, found)
        if outputs and None not in outputs[0].shape[1:]:
            return tuple(outputs[0].shape)
        return tuple(found)
    # A subclass of keras.Model: only its `call` says what it makes, and of what.
    tensors: Any = keras.KerasTensor(shape, dtype="float32")
    if labels:
        tensors = [tensors, keras.KerasTensor((None,), dtype="int32")]
    try:
        output = network(tensors)
    except Exception as error:
        raise ValueError(
            f"The {name}, a {type(network).__name__}, cannot be called on inputs of "
            f"{_one(shape)}: {' '.join(str(error).split())}"
        ) from error
    if not hasattr(output, "shape"):
        _check_bare(name, output)
    return tuple(output.shape)


def _check_bare(name: str, structure: Any) -> None:
    """Refuses what holds tensors, or their shapes, and is no tensor itself."""
    count = len(structure) if hasattr(structure, "__len__") else 0
    _check_one(name, "outputs", count)
    kind = type(structure).__name__
    if count:
        keys = f" with the key {next(iter(structure))!r}"
        kind = f"{kind} of one tensor{keys if isinstance(structure, Mapping) else ''}"
    raise ValueError(
        f"The {name} returns a {kind}; GAN takes networks that return a tensor: return "
        "the tensor itself."
    )


def _is_shape(found: Any) -> bool:
    if isinstance(found, Mapping) or not hasattr(found, "__len__"):
        return False
    return all(size is None or isinstance(size, int) for size in found)


def _tells_its_shape(network: keras.layers.Layer) -> bool:
    return type(network).compute_output_shape is not keras.Model.compute_output_shape


def _one(shape: Any) -> str:
    return f"shape {tuple(shape[1:])}"


def _check_one(name: str, which: str, count: int) -> None:
    if count > 1:
        raise ValueError(
            f"The {name} has {count} {which}; GAN takes networks of one input and one "
            "output. Join them in one tensor, or write a game of your own on "
            "tf_ttur.players.Players. For labels of classes give num_classes."
        )


def squashing(network: Any) -> str | None:
    """Names the function that turns a network's last values into probabilities.

    Args:
        network: Any Keras model.

    Returns:
        Such as "sigmoid"; None where there is none, or where it cannot be seen, as in a
        subclass of `keras.Model`.

    Example:
        >>> import keras
        >>> from tf_ttur import structure
        >>> structure.squashing(
        ...     keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, "sigmoid")]))
        'sigmoid'
    """
    tensor = next(iter(getattr(network, "outputs", None) or ()), None)
    while tensor is not None:
        operation = tensor._keras_history.operation
        if isinstance(operation, keras.Model):
            return squashing(operation)
        activation = getattr(operation, "activation", None)
        for each in (activation, operation):
            name = getattr(each, "__name__", type(each).__name__)
            if name.lower().replace("_", "") in _SQUASHING:
                return name.lower()
        tensor = operation.input if isinstance(operation, _PASSING) else None
    return None


def seems_to_squash(network: Any, shape: tuple[int | None, ...]) -> bool:
    """Says whether the values of a network whose layers cannot be seen stay in [0, 1].

    A sigmoid or a softmax keeps them there whatever the weights are. So the network is
    tried with weights drawn at random, on inputs drawn at random. Without such a
    function as many draws give a value below 0 as above it, since the last weights are
    as often drawn with the other sign: a false alarm has a chance of 2^-16 at most.
    Mostly the first draw decides. The network's own weights are left alone, and no
    random state is used.

    Args:
        network: A built Keras model.
        shape: The input's, (None, ...).

    Returns:
        Whether they do; False for a network that `squashing` can see into, and for one
        that cannot be tried.

    Example:
        >>> import keras
        >>> from tf_ttur import structure
        >>> class Judge(keras.Model):
        ...     def __init__(self, activation=None):
        ...         super().__init__()
        ...         self.dense = keras.layers.Dense(1, activation)
        ...     def call(self, x):
        ...         return self.dense(x)
        >>> judges = Judge(), Judge("sigmoid")
        >>> for judge in judges:
        ...     shape = structure.build(judge, (None, 3), "discriminator")
        >>> [structure.seems_to_squash(judge, (None, 3)) for judge in judges]
        [False, True]
    """
    seen = getattr(network, "outputs", None)
    if seen or None in shape[1:] or not network.trainable_variables:
        return False
    random = np.random.default_rng(0)
    state = [variable.value for variable in network.non_trainable_variables]
    try:
        for _ in range(_DRAWS):
            weights = [_drawn(random, x.shape) for x in network.trainable_variables]
            inputs = random.uniform(-1, 1, (_INPUTS, *shape[1:])).astype("float32")
            values, _ = network.stateless_call(weights, state, tf.constant(inputs))
            values = keras.ops.convert_to_numpy(values).astype("float32")
            if not ((values >= 0) & (values <= 1)).all():
                return False
    except Exception:  # What can be trained need not take weights from outside.
        return False
    return True


def _drawn(random: np.random.Generator, shape: tuple[int, ...]) -> tf.Tensor:
    # Values neither vanish nor overflow on their way through many layers.
    scale = 2 / np.sqrt(max(1, np.prod(shape[:-1])))
    return tf.constant(random.normal(0, scale, shape), "float32")


def looks_at_each_image_alone(network: keras.Model, labels: bool = False) -> bool:
    """Says whether two batches in one pass give exactly what two passes give.

    Args:
        network: Any Keras model.
        labels: Whether it takes labels of classes beside the images.

    Returns:
        True where all layers are known to treat images alone. Batch normalisation and
        layers and models of one's own are not known to.
    """
    if isinstance(network, keras.Model):
        # A subclass may do anything with its layers.
        stock = type(network).__module__.partition(".")[0] == "keras"
        # More than layers: a reshape, say, may mix the images of a batch.
        parts = getattr(network, "operations", network.layers)
        return stock and all(looks_at_each_image_alone(x, labels) for x in parts)
    return type(network) in (_ALONE + _ALONE_WITH_LABELS if labels else _ALONE)
