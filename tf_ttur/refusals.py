"""What Keras takes of other models and players do not, and what to use in its place."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any

import keras

from fid.values import Between, checked

__all__ = [
    "Switch",
    "arguments",
    "check_callbacks",
    "check_settings",
    "check_weights",
    "checked",
    "refuse_others",
]

Switch = bool | Annotated[int, Between(0, 1)]
"""Whether something is on, as Python says it: also 1 and 0, but no text."""

_INSTEAD = {
    "optimizer": "every network has an optimizer of its own: discriminator_optimizer "
    "and generator_optimizer, of which tf_ttur.ttur makes a pair",
    "metrics": "there are no predictions to compare with labels. Losses are logged by "
    "themselves; for the quality of images give fit the callback "
    "tf_ttur.FrechetDistance; a subclass logs more by its loss_names",
    "loss_weights": "each network has one loss; gradient_penalty=... weighs the "
    "penalty, and a subclass overrides discriminator_loss or generator_loss",
    "auto_scale_loss": "under mixed_float16 every optimizer is loss-scaled",
}
_INSTEAD["weighted_metrics"] = _INSTEAD["metrics"]

# They read or set `model.optimizer`.
_OF_ONE_OPTIMIZER = (
    keras.callbacks.LearningRateScheduler,
    keras.callbacks.ReduceLROnPlateau,
    keras.callbacks.SwapEMAWeights,
)


def arguments(
    method: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> dict[str, Any]:
    """Gives a call's arguments their names.

    Args:
        method: A method of `keras.Model`.
        args: What it is called with besides `self`.
        kwargs: Likewise.

    Example:
        >>> import keras
        >>> from tf_ttur import refusals
        >>> refusals.arguments(keras.Model.fit, ("x",), {"epochs": 2})
        {'x': 'x', 'epochs': 2}
    """
    bound = inspect.signature(method).bind(None, *args, **kwargs).arguments
    named = {name: value for name, value in bound.items() if name != "self"}
    return named | named.pop("kwargs", {})


def check_settings(settings: Iterable[str], method: str) -> None:
    """Refuses what Keras's `compile` takes and players' does not.

    Args:
        settings: Names of arguments.
        method: What was called, for the message.

    Raises:
        TypeError: There is one that Keras takes.
    """
    for name in settings:
        if name in _INSTEAD:
            raise TypeError(f"{method} takes no {name}: {_INSTEAD[name]}.")


def refuse_others(others: Mapping[str, Any], method: str) -> None:
    """Refuses arguments that a method does not have.

    Args:
        others: What is left of the arguments, by name.
        method: What was called, for the message.

    Raises:
        TypeError: There are some.
    """
    check_settings(others, method)
    if others:
        raise TypeError(f"{method} has no argument {', '.join(others)}.")


def check_weights(given: Mapping[str, Any], method: str) -> None:
    """Refuses weights of single examples or classes, which no loss here takes.

    Args:
        given: What a method of Keras was called with, by name.
        method: Which method, for the message.

    Raises:
        ValueError: There are such weights.
    """
    found = [x for x in ("sample_weight", "class_weight") if given.get(x) is not None]
    held_out = given.get("validation_data")
    if isinstance(held_out, tuple | list) and len(held_out) > 2:
        found += ["weights in validation_data"] if held_out[2] is not None else []
    if found:
        raise ValueError(
            f"{method} was given {found[0]}, which the losses of two networks do not "
            "take: all examples count alike. Leave it out, and draw the examples as "
            "often as they should count (tf.data.Dataset.sample_from_datasets)."
        )


def check_callbacks(callbacks: Any, optimizers: Iterable[str]) -> None:
    """Refuses Keras's callbacks that look for one optimizer.

    Args:
        callbacks: What `fit` was given: None, a callback, a list or a `CallbackList`.
        optimizers: Names of the optimizers that there are.

    Raises:
        ValueError: There is one.
    """
    callbacks = getattr(callbacks, "callbacks", callbacks) or ()
    for callback in keras.tree.flatten(callbacks):
        if isinstance(callback, _OF_ONE_OPTIMIZER):
            kind, names = type(callback).__name__, [repr(name) for name in optimizers]
            raise ValueError(
                f"{kind} is for a model with one optimizer; here are "
                f"{', '.join(names)}. Say which it is for, with one callback for each: "
                f"tf_ttur.ForOptimizer({names[0]}, {kind}(...))."
            )
