"""Low-rank adapters (LoRA): several networks on the weights of one.

An adapter adds to each dense layer x W + b of a frozen network a product of two small
matrices, (alpha / rank) x A B (Hu et al. 2022). A and B alone are trained. B starts at
0, so an adapted network starts as the frozen one.

Keras's own `Dense.enable_lora` holds one adapter a layer, and writes it into the kernel
where the layer is saved. A teacher, a student and a fake score are three networks on
one base. So here the base is left as it is, an `Adapted` layer holds the adapter and
nothing else, and says to the base's layers while it calls it which adapter is in force.
The memory is that of one base and of the small matrices. The product is added to what
comes out of a layer and not to its kernel: a kernel in half precision would round small
changes away, and a sum of both would be as large as the base again.
"""

from __future__ import annotations

import contextvars
import json
import os
import weakref
from collections.abc import Sequence
from types import MappingProxyType
from typing import Annotated, Any

import keras
import numpy as np
from keras import ops

from fid import npz
from fid.extractors.extractor import weights_sha256
from fid.files import InputError, atomic_write, printable
from fid.values import Between, Count
from tf_ttur import refusals

__all__ = ["Adapted", "load", "remember", "save", "sha256"]

# The adapter that the base is being called with; each replica has a thread.
_IN_FORCE: contextvars.ContextVar[Any] = contextvars.ContextVar("adapter", default=None)
# Bases by the SHA-256 of their weights, for layers that are made again.
_BASES: weakref.WeakValueDictionary[str, Any] = weakref.WeakValueDictionary()
_SHA256S: weakref.WeakKeyDictionary[Any, str] = weakref.WeakKeyDictionary()


def sha256(base: Any) -> str:
    """Returns the SHA-256 of a base's weights, and remembers it: they are frozen.

    Args:
        base: A built Keras model or layer. What is loaded into it later is not seen.
    """
    if base not in _SHA256S:
        _SHA256S[base] = weights_sha256(base)
    return _SHA256S[base]


def remember(base: Any) -> str:
    """Makes a base known, so that a model with adapters on it can be loaded or copied.

    Args:
        base: A built Keras model or layer.

    Returns:
        The SHA-256 of its weights, by which a saved model names it.
    """
    found = sha256(base)
    _BASES[found] = base
    return found


@keras.saving.register_keras_serializable("tf_ttur")
class Adapted(keras.layers.Layer):
    """Calls a frozen network with an adapter on its dense layers.

    The layer's weights are the adapter's alone, A and B of each dense layer in the
    order of the base, in float32. So they are what is trained, averaged and saved. The
    base is named by the SHA-256 of its weights in what is saved, and is to be made
    before the layer is made again.

    Args:
        base: A built Keras model or layer, with its weights loaded: it is frozen, and
            the SHA-256 of its weights is taken once.
        rank: The columns of A and rows of B.
        alpha: The product is multiplied by alpha / rank. Positive.
        targets: How the names of the layers begin that are adapted; those in other
            layers are found, too. Empty: all dense layers.
        seed: Seed of A, which is as in Keras's LoRA (He et al. 2015, uniform).
        **kwargs: As for `keras.layers.Layer`.

    Raises:
        InputError: Nothing is there to adapt, or a number cannot be.

    Example:
        >>> import keras, numpy as np
        >>> from tf_ttur.networks.lora import Adapted
        >>> base = keras.Sequential([keras.Input((6,)), keras.layers.Dense(5)])
        >>> one, other = Adapted(base, rank=2), Adapted(base, rank=2, seed=1)
        >>> x = np.ones((3, 6), "float32")
        >>> bool((one(x) == base(x)).numpy().all())
        True
        >>> [tuple(w.shape) for w in one.weights]
        [(6, 2), (2, 5)]
    """

    def __init__(
        self,
        base: Any,
        rank: int = 64,
        alpha: float = 8.0,
        targets: Sequence[str] = (),
        seed: int = 0,
        **kwargs: Any,
    ):
        super().__init__(**{"dtype": "float32"} | kwargs)
        try:
            kinds = {"rank": Count, "alpha": Annotated[float, Between(above=0)]}
            refusals.checked(kinds, rank=rank, alpha=alpha)
        except ValueError as error:
            raise InputError(str(error)) from error
        base.trainable = False
        # Keras visits a dict among the attributes when it saves, and not this view: so
        # the base stays out of files and of this layer's weights.
        self._held = MappingProxyType({"base": base})
        self.rank, self.alpha = int(rank), float(alpha)
        self.targets, self.seed = tuple(targets), int(seed)
        found = _dense_layers(base, self.targets)
        if not found:
            raise InputError(
                "There is no dense layer to adapt whose name begins with "
                f"{' or '.join(self.targets) or 'anything'}; the base has "
                f"{', '.join(sorted({x.name for x in _dense_layers(base, ())}))}."
            )
        weights = {}
        for index, dense in enumerate(found):
            _open(dense)
            size, units = dense.kernel.shape
            start = keras.initializers.HeUniform(seed=10_000 * self.seed + index)
            pair = [
                self.add_weight(
                    shape=shape, initializer=initializer, dtype="float32",
                    autocast=False, name=f"{name}_{index}",
                )
                for name, shape, initializer in (
                    ("a", (size, self.rank), start),
                    ("b", (self.rank, units), "zeros"),
                )
            ]  # fmt: skip
            weights[id(dense)] = tuple(pair)
        self._pairs = MappingProxyType(weights)
        self.built = True

    def base(self) -> Any:
        """Returns the frozen network.

        Of an attribute Keras would find it when it saves, and write it into the file.
        """
        return self._held["base"]

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Calls the base with this adapter.

        Args:
            inputs: As the base takes them.
            training: Likewise.
        """
        token = _IN_FORCE.set(self)
        try:
            return self.base()(inputs, training=training)
        finally:
            _IN_FORCE.reset(token)

    def added(self, dense: keras.layers.Dense, inputs: Any) -> Any:
        """Returns what is added to a dense layer's output; None where nothing is.

        Args:
            dense: A layer of the base.
            inputs: What it was called with.
        """
        if id(dense) not in self._pairs:
            return None
        a, b = (ops.cast(w, inputs.dtype) for w in self._pairs[id(dense)])
        return (self.alpha / self.rank) * ops.matmul(ops.matmul(inputs, a), b)

    def compute_output_spec(self, inputs: Any, training: bool | None = None) -> Any:
        """Returns the base's output, without numbers."""
        return self.base().compute_output_spec(inputs, training=training)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments, and the base's SHA-256."""
        names = ("rank", "alpha", "targets", "seed")
        return {
            **super().get_config(),
            **{name: getattr(self, name) for name in names},
            "base": remember(self.base()),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Adapted:
        """Makes the layer again, on the base that its configuration names.

        Args:
            config: What `get_config` returned.

        Raises:
            InputError: That base was not made before.
        """
        base = _BASES.get(config["base"])
        if base is None:
            raise InputError(
                "The file holds adapters and not the network that they adapt (SHA-256 "
                f"of its weights: {config['base'][:16]}...); make that network first, "
                "and call tf_ttur.networks.lora.remember(network)."
            )
        return cls(**config | {"base": base})


def save(path: str | os.PathLike[str], network: keras.Model) -> None:
    """Writes a network's adapter into a file, without its base.

    Args:
        path: The file, `.npz`.
        network: A Keras model with one `Adapted` layer.

    Raises:
        InputError: There is no such layer, or the file cannot be written.
    """
    layer = _adapted(network)
    record = {"base": sha256(layer.base())} | {
        name: getattr(layer, name) for name in ("rank", "alpha", "targets")
    }
    arrays = {f"weight_{i}": w.numpy() for i, w in enumerate(layer.weights)}
    with atomic_write(path) as file:
        np.savez(file, record=np.array(json.dumps(record)), **arrays)


def load(path: str | os.PathLike[str], network: keras.Model) -> None:
    """Reads a network's adapter from a file that `save` wrote.

    Args:
        path: The file.
        network: A Keras model with one `Adapted` layer, on the same base. It is changed
            only if the whole file is right.

    Raises:
        InputError: The file is damaged, or of another base or another form.

    Example:
        >>> import keras, pathlib, tempfile
        >>> from tf_ttur.networks import lora
        >>> base = keras.Sequential([keras.Input((6,)), keras.layers.Dense(5)])
        >>> def network(seed):
        ...     x = keras.Input((6,))
        ...     return keras.Model(x, lora.Adapted(base, rank=2, seed=seed)(x))
        >>> path = pathlib.Path(tempfile.mkdtemp(), "adapter.npz")
        >>> lora.save(path, network(seed=0))
        >>> lora.load(path, network(seed=1))
    """
    layer = _adapted(network)
    label = printable(path)
    with npz.opened(path) as file:
        record = json.loads(str(file["record"]))
        found = [file[f"weight_{i}"] for i in range(len(file) - 1)]
        standing = {
            "base": sha256(layer.base()), "rank": layer.rank, "alpha": layer.alpha,
            "targets": [*layer.targets],
        }  # fmt: skip
        for name, value in standing.items():
            if record[name] != value:
                raise InputError(
                    f"{label} has the adapter of another network: its {name} is "
                    f"{record[name]!r}, here it is {value!r}."
                )
        shapes = [tuple(w.shape) for w in layer.weights]
        if [x.shape for x in found] != shapes or not all(
            x.dtype == np.float32 and np.isfinite(x).all() for x in found
        ):
            raise ValueError("its weights have other shapes, or are no finite numbers")
    for weight, value in zip(layer.weights, found, strict=True):
        weight.assign(value)


def _adapted(network: keras.Model) -> Adapted:
    found = [each for each in network.layers if isinstance(each, Adapted)]
    if len(found) != 1:
        raise InputError(
            "A network whose adapter is saved or loaded has one Adapted layer. "
            f"Received: {network.name}, with {len(found)}."
        )
    return found[0]


def _dense_layers(base: Any, targets: tuple[str, ...]) -> list[keras.layers.Dense]:
    """Finds the layers to adapt, in the order of the base."""
    found = []
    for layer in base._flatten_layers():
        if getattr(layer, "_remat_mode", None) is not None:
            raise InputError(
                f"The layer {layer.name} computes its output again for the gradient "
                "(keras.RematScope), when no adapter is in force any more; make the "
                "base without that."
            )
        if isinstance(layer, keras.layers.Dense) and (
            not targets or layer.name.startswith(targets)
        ):
            found.append(layer)
    return found


def _open(dense: keras.layers.Dense) -> None:
    """Has a dense layer ask for an adapter whenever it is called."""
    plain = dense.call
    if getattr(plain, "asks_for_adapters", False):
        return

    def call(inputs: Any, training: bool | None = None) -> Any:
        adapter = _IN_FORCE.get()
        added = None if adapter is None else adapter.added(dense, inputs)
        if added is None:
            return plain(inputs, training=training)
        # The activation comes after the sum, so the layer's own form is repeated here.
        x = ops.matmul(inputs, dense.kernel)
        if dense.bias is not None:
            x = ops.add(x, dense.bias)
        x = ops.add(x, added)
        return x if dense.activation is None else dense.activation(x)

    call.asks_for_adapters = True
    dense.call = call
