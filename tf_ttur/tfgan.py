"""Makes TF-GAN 2.1.0 importable on TensorFlow >= 2.16, and lends its losses.

TF-GAN refers to `tf.estimator`, which TensorFlow 2.16 removed, while it is imported.
`load` stands in for what is gone during that import alone; afterwards `tf.*` is as it
was. Nothing here imports TF-GAN or TensorFlow Probability until it is asked to.
docs/tfgan.md lists what of TF-GAN then works.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib
import sys
import threading
import types
import warnings
from collections.abc import Callable, Iterator, MutableMapping
from typing import Any

import tensorflow as tf

from fid import files

__all__ = ["adversarial_loss", "adversarial_losses", "load"]

_LOSSES = (
    "least_squares",
    "minimax",
    "modified",
    "relativistic",
    "wasserstein",
    "wasserstein_hinge",
)
# What TF-GAN also calls losses, by the start of their names, and what they need
# besides the discriminator's outputs.
_REFUSED = {
    "acgan": "a classifier's logits and the labels",
    "combine_adversarial": "a main loss and the variables to balance it over",
    "cycle_consistency": "images and their reconstructions",
    "mutual_information": "structured latents and the distributions predicted for them",
    "stargan": "a StarGANModel",
    "wasserstein_gradient_penalty": "the images and the discriminator itself; "
    "GAN.compile(gradient_penalty=...) adds that penalty to any loss",
}

_lock = threading.Lock()


def load() -> types.ModuleType:
    """Imports TF-GAN, or returns it where it is already imported.

    While the import runs, `tf.estimator` exists and other threads can see it.

    Returns:
        The module `tensorflow_gan`. Its `estimator` is a stand-in that explains
        itself when used.

    Raises:
        InputError: TF-GAN, or something it needs, is not installed.
    """
    with _lock:
        if sys.modules.get("tensorflow_gan") is not None:
            # Unlike a look into sys.modules, this waits for another thread's import.
            return importlib.import_module("tensorflow_gan")
        before = set(sys.modules)
        try:
            with _stand_ins():
                return importlib.import_module("tensorflow_gan")
        except BaseException as error:
            for name in set(sys.modules) - before:
                if name.partition(".")[0] == "tensorflow_gan":
                    del sys.modules[name]
            if isinstance(error, ImportError):
                raise files.InputError(
                    f"TF-GAN cannot be imported: {error}. "
                    "Install what it needs: pip install 'tf-ttur[tfgan]'"
                ) from error
            raise


def adversarial_losses() -> tuple[str, ...]:
    """Returns the names that `adversarial_loss` knows, without importing TF-GAN."""
    return _LOSSES


def adversarial_loss(name: str) -> _Loss:
    """Lends one of TF-GAN's adversarial losses to `GAN.compile`.

    TF-GAN's defaults hold: the discriminators of "minimax" and "modified" smooth the
    real labels by 0.25.

    Args:
        name: One of `adversarial_losses()`.

    Returns:
        An object with `name` ("tfgan:NAME"), `needs_real`, `discriminator(real_logits,
        fake_logits)` and `generator(fake_logits, real_logits=None)`. Logits have any
        shape and floating type; the losses are float32 scalars, means over all logits.
        "relativistic" alone has `needs_real` set.

    Raises:
        InputError: TF-GAN has no such loss, or it is not a function of the
            discriminator's outputs alone, or TF-GAN is not installed.
    """
    if name not in _LOSSES:
        needs = [why for start, why in _REFUSED.items() if name.startswith(start)]
        found = (
            f"TF-GAN's {name} is not a function of the discriminator's outputs alone: "
            f"it needs {needs[0]}."
            if needs
            else f"TF-GAN has no adversarial loss {name!r}."
        )
        raise files.InputError(f"{found} Choose from {', '.join(_LOSSES)}.")
    wargs = load().losses.wargs
    needs_real = name == "relativistic"
    # The others would add to a collection of the graph being traced, by default.
    options = {} if needs_real else {"loss_collection": None}
    return _Loss(
        f"tfgan:{name}",
        needs_real,
        functools.partial(getattr(wargs, f"{name}_discriminator_loss"), **options),
        functools.partial(getattr(wargs, f"{name}_generator_loss"), **options),
    )


@dataclasses.dataclass(frozen=True)
class _Loss:
    """A pair of TF-GAN's loss functions as the adversarial loss `GAN` expects."""

    name: str
    needs_real: bool
    _discriminator: Callable[..., tf.Tensor] = dataclasses.field(repr=False)
    _generator: Callable[..., tf.Tensor] = dataclasses.field(repr=False)

    def discriminator(
        self, real_logits: tf.Tensor, fake_logits: tf.Tensor
    ) -> tf.Tensor:
        """Returns the discriminator's loss, a float32 scalar."""
        return self._discriminator(_float32(real_logits), _float32(fake_logits))

    def generator(
        self, fake_logits: tf.Tensor, real_logits: tf.Tensor | None = None
    ) -> tf.Tensor:
        """Returns the generator's loss, a float32 scalar."""
        if not self.needs_real:
            return self._generator(_float32(fake_logits))
        if real_logits is None:
            raise ValueError(f"The generator's loss of {self.name} needs real_logits.")
        return self._generator(_float32(real_logits), _float32(fake_logits))


def _float32(logits: Any) -> tf.Tensor:
    return tf.cast(logits, tf.float32)


class _Estimators(types.ModuleType):
    """Stands for `tensorflow_gan.estimator`."""

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(
            f"tensorflow_gan.estimator.{name} needs tf.estimator, which TensorFlow "
            "2.16 removed; train with tf_ttur.GAN."
        )


@contextlib.contextmanager
def _stand_ins() -> Iterator[None]:
    """Supplies what TF-GAN misses while it is being imported."""
    estimators = "tensorflow_gan.python.estimator"
    hooks = types.SimpleNamespace(SessionRunHook=tf.compat.v1.train.SessionRunHook)
    with (
        warnings.catch_warnings(),
        _entry(vars(tf), "estimator", hooks),
        _entry(sys.modules, estimators, _Estimators(estimators)),
    ):
        # About distutils and the like, which whoever imports TF-GAN cannot change.
        warnings.simplefilter("ignore")
        yield


@contextlib.contextmanager
def _entry(
    namespace: MutableMapping[str, Any], name: str, value: Any
) -> Iterator[None]:
    """Sets `namespace[name]`, and then puts back what was there."""
    absent = object()
    before = namespace.get(name, absent)
    namespace[name] = value
    try:
        yield
    finally:
        if before is absent:
            del namespace[name]
        else:
            namespace[name] = before
