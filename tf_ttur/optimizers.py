"""Pairs of Adam optimizers on two time scales, and optimizers as Keras names them."""

from __future__ import annotations

from typing import Any

import keras

__all__ = ["get", "ttur"]

# TensorFlow 1's default, which the published runs used; Keras's own is 1e-7.
ADAM_EPSILON = 1e-8


def ttur(
    *,
    discriminator: Any,
    generator: Any,
    beta_1: float = 0.5,
    beta_2: float = 0.999,
    epsilon: float = ADAM_EPSILON,
) -> dict[str, keras.optimizers.Optimizer]:
    """Makes the two Adam optimizers of a two time-scale update rule.

    The paper writes b for the discriminator's learning rate and a for the
    generator's (section 2, equation 1). Equal rates give the original, one
    time-scale training.

    Args:
        discriminator: The discriminator's learning rate: a number > 0 or a
            `keras.optimizers.schedules.LearningRateSchedule`.
        generator: The generator's learning rate, likewise.
        beta_1: Decay of the first moment, for both.
        beta_2: Decay of the second moment, for both.
        epsilon: Adam's epsilon, for both.

    Returns:
        `{"discriminator_optimizer": Adam, "generator_optimizer": Adam}`, ready to be
        unpacked into `GAN.compile`.

    Raises:
        ValueError: A learning rate is not positive.

    Example:
        >>> import tf_ttur
        >>> sorted(tf_ttur.ttur(discriminator=3e-4, generator=1e-4))
        ['discriminator_optimizer', 'generator_optimizer']
    """
    adams = {}
    for player, rate in (("discriminator", discriminator), ("generator", generator)):
        if isinstance(rate, int | float) and not 0 < rate < float("inf"):
            raise ValueError(
                f"The {player}'s learning rate must be positive; got {rate}."
            )
        adams[f"{player}_optimizer"] = keras.optimizers.Adam(
            rate,
            beta_1=beta_1,
            beta_2=beta_2,
            epsilon=epsilon,
            name=f"{player}_adam",
        )
    return adams


def get(optimizer: Any, name: str) -> keras.optimizers.Optimizer:
    """Makes an optimizer from what Keras takes for one.

    Args:
        optimizer: An optimizer, which is returned as it is; or a class, a name such as
            "adam" or a config, of which every call makes another, with Keras's
            defaults.
        name: What messages call it.

    Returns:
        The optimizer.

    Raises:
        ValueError: It is none of these.

    Example:
        >>> from tf_ttur import optimizers
        >>> type(optimizers.get("adam", "generator")).__name__
        'Adam'
    """
    if isinstance(optimizer, type) and issubclass(optimizer, keras.Optimizer):
        return optimizer()
    try:
        made = keras.optimizers.get(optimizer)
    except (TypeError, ValueError) as error:
        reason = f" ({' '.join(str(error).split())})"
    else:
        if isinstance(made, keras.Optimizer):
            return made
        reason = ""
    raise ValueError(
        f"The optimizer {name!r} is {optimizer!r}, of which Keras makes none{reason}; "
        "give an optimizer, or a name such as 'adam'. tf_ttur.ttur makes a pair."
    )
