"""Optimizers by name, and pairs of them on two time scales."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras

from fid.files import InputError
from tf_ttur.adabelief import AdaBelief

__all__ = ["CLIPPINGS", "OPTIMIZERS", "clipping", "get", "make", "named", "ttur"]

# TensorFlow 1's default, which the published runs used; Keras's own is 1e-7.
ADAM_EPSILON = 1e-8


def _adam(
    rate: Any, beta_1: float, beta_2: float, epsilon: float = ADAM_EPSILON, **rest: Any
) -> keras.optimizers.Optimizer:
    return keras.optimizers.Adam(
        rate, beta_1=beta_1, beta_2=beta_2, epsilon=epsilon, **rest
    )


def _amsgrad(*args: Any, **rest: Any) -> keras.optimizers.Optimizer:
    return _adam(*args, amsgrad=True, **rest)


def _adabelief(
    rate: Any, beta_1: float, beta_2: float, **rest: Any
) -> keras.optimizers.Optimizer:
    return AdaBelief(rate, beta_1, beta_2, **rest)


def _rmsprop(
    rate: Any, beta_1: float, beta_2: float, epsilon: float = 1e-8, **rest: Any
) -> keras.optimizers.Optimizer:
    # Keras adds its epsilon to the mean square, and ours is to be beside the root.
    return keras.optimizers.RMSprop(rate, rho=beta_2, epsilon=epsilon**2, **rest)


def _momentum(
    rate: Any, beta_1: float, beta_2: float, epsilon: float = 0.0, **rest: Any
) -> keras.optimizers.Optimizer:
    return keras.optimizers.SGD(rate, momentum=float(beta_1), **rest)


def _sgd(
    rate: Any, beta_1: float, beta_2: float, epsilon: float = 0.0, **rest: Any
) -> keras.optimizers.Optimizer:
    return keras.optimizers.SGD(rate, **rest)


OPTIMIZERS: dict[str, Callable[..., keras.optimizers.Optimizer]] = {
    "adam": _adam,
    "amsgrad": _amsgrad,
    "adabelief": _adabelief,
    "rmsprop": _rmsprop,
    "momentum": _momentum,
    "sgd": _sgd,
}
"""Makers of optimizers by name.

Each takes the rate, `beta_1` and `beta_2`, `epsilon` where it is not the method's own,
and further arguments of `keras.optimizers.Optimizer`."""

CLIPPINGS = {"norm": "clipnorm", "value": "clipvalue", "global_norm": "global_clipnorm"}
"""Keras's arguments for the clipping of gradients, by the names of `clipping`."""


def named(name: str) -> Callable[..., keras.optimizers.Optimizer]:
    """Returns the maker of an optimizer.

    Args:
        name: One of `OPTIMIZERS`.

    Raises:
        InputError: There is none of this name.
    """
    if name not in OPTIMIZERS:
        raise InputError(
            f"There is no optimizer {name!r}; choose from {', '.join(OPTIMIZERS)}."
        )
    return OPTIMIZERS[name]


def clipping(text: str | None) -> dict[str, float]:
    """Reads how gradients are clipped.

    Args:
        text: `none` or None; or one of these, with a bound > 0:

            - `norm:1.0`: the gradient of each variable is scaled down to a Euclidean
              norm of 1.0 where it is above;
            - `value:0.5`: each number of it is brought into [-0.5, 0.5];
            - `global_norm:1.0`: the gradients of all variables of a network are scaled
              down together, to a Euclidean norm of 1.0.

    Returns:
        Keras's argument for it; none where nothing is clipped.

    Raises:
        InputError: It is none of these.

    Example:
        >>> clipping("global_norm:5"), clipping("none")
        ({'global_clipnorm': 5.0}, {})
    """
    if text in (None, "none"):
        return {}
    how, _, bound = str(text).partition(":")
    try:
        value = float(bound)
    except ValueError:
        value = 0.0
    if how not in CLIPPINGS or not 0 < value < float("inf"):
        raise InputError(
            f"clip is {text!r}; use none, or one of {', '.join(CLIPPINGS)} with a "
            "positive bound, such as norm:1.0."
        )
    return {CLIPPINGS[how]: value}


def make(
    optimizer: str,
    rate: Any,
    *,
    beta_1: float = 0.5,
    beta_2: float = 0.999,
    epsilon: float | None = None,
    clip: str | None = None,
    name: str | None = None,
) -> keras.optimizers.Optimizer:
    """Makes an optimizer by its name.

    In the table g is the gradient; m and v are the moving averages of g and g^2 by
    `beta_1` and `beta_2`, with their bias taken out but for `rmsprop`; e is `epsilon`.

        adam       rate m / (sqrt(v) + e')       as TensorFlow 1's
        amsgrad    the same with the largest v   the maximum is that of the average with
                                                 its bias, as in PyTorch
        adabelief  see `AdaBelief`               e is 1e-16
        rmsprop    rate g / sqrt(v + e^2)        beta_2 is what Keras calls rho
        momentum   u <- beta_1 u + rate g        not (1 - beta_1) g, as in m
        sgd        rate g

    Theory often leaves the bias in amsgrad's averages, and writes momentum with
    (1 - beta_1) g; the rate there is ours divided by 1 - beta_1.

    Adam's e' is e / sqrt(1 - beta_2^t) at update t; in PyTorch it is e. PyTorch's
    RMSProp divides by sqrt(v) + e, which lies between ours and sqrt(2) of ours, and
    equals it where sqrt(v) is far from e. Keras's own, given e, divides by
    sqrt(v + e), so that gradients below sqrt(e), 1e-4, would count for little.

    Args:
        optimizer: One of `OPTIMIZERS`.
        rate: The learning rate: a number > 0 or a
            `keras.optimizers.schedules.LearningRateSchedule`.
        beta_1: Decay of the first moment, in [0, 1), and above 0 for `adabelief`. Of no
            effect on `rmsprop` and `sgd`.
        beta_2: Decay of the second moment, in [0, 1). Of no effect on `momentum` and
            `sgd`.
        epsilon: Numerical stabiliser, > 0; None for the method's own, which is 1e-16
            for `adabelief` and else 1e-8. Of no effect on `momentum` and `sgd`.
        clip: How gradients are clipped before; see `clipping`.
        name: The optimizer's name in messages and files.

    Returns:
        The optimizer.

    Raises:
        InputError: There is none of this name, or no such clipping.
        ValueError: The optimizer cannot have such a number.

    Example:
        >>> from tf_ttur import optimizers
        >>> made = optimizers.make("rmsprop", 1e-4, beta_2=0.99, clip="norm:1.0")
        >>> type(made).__name__, made.rho, made.clipnorm
        ('RMSprop', 0.99, 1.0)
    """
    maker = named(optimizer)
    given = {} if epsilon is None else {"epsilon": epsilon}
    return maker(rate, beta_1, beta_2, name=name, **given, **clipping(clip))


def ttur(
    *,
    discriminator: Any,
    generator: Any,
    beta_1: float = 0.5,
    beta_2: float = 0.999,
    epsilon: float | None = None,
    optimizer: str = "adam",
    clip: str | None = None,
) -> dict[str, keras.optimizers.Optimizer]:
    """Makes the two optimizers of a two time-scale update rule, by default Adam.

    The paper writes b for the discriminator's learning rate and a for the
    generator's (section 2, equation 1). Equal rates give the original, one
    time-scale training.

    Args:
        discriminator: The discriminator's learning rate: a number > 0 or a
            `keras.optimizers.schedules.LearningRateSchedule`.
        generator: The generator's learning rate, likewise.
        beta_1: Decay of the first moment, for both; see `optimizers.make`.
        beta_2: Decay of the second moment, for both.
        epsilon: The optimizers' epsilon, for both; None for their own, 1e-8 for Adam.
        optimizer: The method, for both: one of `optimizers.OPTIMIZERS`.
        clip: How the gradients of both are clipped, such as `norm:1.0`; see
            `optimizers.clipping`.

    Returns:
        `{"discriminator_optimizer": ..., "generator_optimizer": ...}`, ready to be
        unpacked into `GAN.compile`.

    Raises:
        InputError: There is no such optimizer or clipping.
        ValueError: A learning rate is not positive.

    Example:
        >>> import tf_ttur
        >>> sorted(tf_ttur.ttur(discriminator=3e-4, generator=1e-4))
        ['discriminator_optimizer', 'generator_optimizer']
        >>> belief = tf_ttur.ttur(
        ...     discriminator=3e-5, generator=3e-4, optimizer="adabelief")
        >>> belief["generator_optimizer"].epsilon
        1e-16
    """
    made = {}
    for player, rate in (("discriminator", discriminator), ("generator", generator)):
        if isinstance(rate, int | float) and not 0 < rate < float("inf"):
            raise ValueError(
                f"The {player}'s learning rate must be positive; got {rate}."
            )
        made[f"{player}_optimizer"] = make(
            optimizer,
            rate,
            beta_1=beta_1,
            beta_2=beta_2,
            epsilon=epsilon,
            clip=clip,
            name=f"{player}_{optimizer}",
        )
    return made


def get(optimizer: Any, name: str) -> keras.optimizers.Optimizer:
    """Makes an optimizer from what Keras takes for one.

    Args:
        optimizer: An optimizer, which is returned as it is; or a class, a name such as
            "adam" or a config, of which every call makes another, with Keras's
            defaults. "adabelief" is `AdaBelief`, which is not Keras's.
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
    if isinstance(optimizer, str) and optimizer.lower() == "adabelief":
        optimizer = AdaBelief
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
