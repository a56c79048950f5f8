"""Callbacks of Keras that expect one optimizer, for one of several."""

from __future__ import annotations

from typing import Any

import keras

__all__ = ["ForOptimizer"]

_SETTING_THE_RATE = (
    keras.callbacks.LearningRateScheduler,
    keras.callbacks.ReduceLROnPlateau,
)


class ForOptimizer(keras.callbacks.Callback):
    """Runs a callback that reads or sets `model.optimizer`, for one optimizer.

    Such as `LearningRateScheduler`, `ReduceLROnPlateau` and `SwapEMAWeights`: the
    callback sees the model with this optimizer as `model.optimizer`. What it adds to
    the logs stays with it. The rates are logged as `d_lr` and `g_lr` anyway.

    Args:
        optimizer: The optimizer's name: "discriminator" or "generator" in a `GAN`.
        callback: The callback.

    Raises:
        ValueError: An argument is something else; or, from `fit`, there is no optimizer
            of this name, or it follows a schedule and the callback sets its rate.

    Example:
        >>> import keras
        >>> from tf_ttur.callbacks import ForOptimizer
        >>> callbacks = [
        ...     ForOptimizer("generator", keras.callbacks.LearningRateScheduler(
        ...         lambda epoch, rate: 0.9 * rate)),
        ...     ForOptimizer("discriminator", keras.callbacks.ReduceLROnPlateau(
        ...         monitor="fid", mode="min", factor=0.5, patience=3))]

    The first of them sets a rate once an epoch. For a rate that falls step by step,
    give `tf_ttur.ttur` a `keras.optimizers.schedules.LearningRateSchedule`.
    """

    def __init__(self, optimizer: str, callback: keras.callbacks.Callback):
        if not isinstance(optimizer, str):
            raise ValueError(
                f"ForOptimizer is for {optimizer!r}; give the name of an optimizer "
                "first, such as 'generator', and then the callback."
            )
        if not isinstance(callback, keras.callbacks.Callback):
            raise ValueError(
                f"ForOptimizer({optimizer!r}, ...) runs {callback!r}; give a callback "
                "of Keras's, such as keras.callbacks.ReduceLROnPlateau('fid')."
            )
        super().__init__()
        self.optimizer, self.callback = optimizer, callback

    def set_params(self, params: dict[str, Any]) -> None:
        """Passes Keras's parameters on."""
        super().set_params(params)
        self.callback.set_params(params)

    def set_model(self, model: Any) -> None:
        """Shows the callback the model with one optimizer."""
        super().set_model(model)
        if self.optimizer not in model.optimizers:
            raise ValueError(
                f"ForOptimizer is for {self.optimizer!r}; the optimizers are "
                f"{', '.join(map(repr, model.optimizers))}."
            )
        optimizer = model.optimizers[self.optimizer]
        inner = getattr(optimizer, "inner_optimizer", optimizer)
        if isinstance(self.callback, _SETTING_THE_RATE) and isinstance(
            inner._learning_rate, keras.optimizers.schedules.LearningRateSchedule
        ):
            kind, schedule = type(self.callback), type(inner._learning_rate)
            raise ValueError(
                f"{kind.__name__} sets the learning rate of {self.optimizer!r}, which "
                f"follows a schedule, {schedule.__name__}: leave the callback out, or "
                "give that optimizer a number as its rate."
            )
        self.callback.set_model(_View(model, optimizer))


def _pass_on(hook: str) -> Any:
    def method(self: ForOptimizer, *args: Any, logs: Any = None) -> None:
        *place, logs = args if len(args) == _ARGUMENTS[hook] else (*args, logs)
        getattr(self.callback, hook)(*place, logs if logs is None else dict(logs))

    method.__name__ = hook
    method.__doc__ = f"Calls the callback's `{hook}`."
    return method


# How many arguments each of a callback's hooks has, `logs` the last.
_ARGUMENTS = {
    f"on_{what}_{when}": count
    for when in ("begin", "end")
    for what, count in {
        "train": 1, "test": 1, "predict": 1, "epoch": 2,
        "train_batch": 2, "test_batch": 2, "predict_batch": 2,
    }.items()
}  # fmt: skip
for _hook in _ARGUMENTS:
    setattr(ForOptimizer, _hook, _pass_on(_hook))


class _View:
    """A model but for its optimizer."""

    def __init__(self, model: Any, optimizer: keras.optimizers.Optimizer):
        vars(self).update(_model=model, optimizer=optimizer)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._model, name, value)
