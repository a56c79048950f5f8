"""Six optimizers in one formula, so that runs of all of them share one program.

With g the gradient, one step of every one of them is

    m = beta_1 m + fresh g
    r = g - centre m
    v = decay v + share r^2 + inside
    w = max(v, keep w)
    theta = theta - rate factor m / h,     h = sqrt(w + under) + after, or h = 1.

Nine constants say which optimizer it is; `factor`, and whether h is 1, depend on the
step, and come from a table that is computed in double precision beforehand. All six
are those of `optimizers.make`: momentum adds up g and not (1 - beta_1) g, RMSProp has
the square of its epsilon under the root, and AMSGrad corrects for the start as Adam
does. AdaBelief is that of adabelief-pytorch 0.2.0 with its defaults:
epsilon 1e-16 inside the running variance at every step and once more after the root,
rectified as RAdam is, without weight decay; where the rectification is not defined, in
the first steps, it moves by the corrected m alone.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from fid.files import InputError

__all__ = ["OPTIMIZERS", "Network", "constants", "divisor", "factors", "update"]

OPTIMIZERS = ("adam", "amsgrad", "adabelief", "rmsprop", "momentum", "sgd")

# As `tf_ttur.ttur` has it, and as the critical batch size's authors have RMSProp's.
_EPSILON = 1e-8
_BELIEF_EPSILON = 1e-16
# RAdam's rectification is defined where its N_sma is at least this.
_RECTIFIED_FROM = 5.0


class Network(NamedTuple):
    """Weights of one network in many runs, and what its optimizers keep of them.

    Attributes:
        weights: theta, float32 (runs, weights).
        first: m, likewise.
        second: v, likewise.
        largest: w, likewise: the largest v so far in AMSGrad, else v.
    """

    weights: tf.Tensor
    first: tf.Tensor
    second: tf.Tensor
    largest: tf.Tensor


def constants(optimizer: str, beta_1: float, beta_2: float) -> np.ndarray:
    """Returns what makes the formula an optimizer's.

    Args:
        optimizer: One of `OPTIMIZERS`.
        beta_1: Decay of m, in [0, 1); RMSProp and SGD have none and ignore it.
        beta_2: Decay of v, in [0, 1); momentum and SGD have none and ignore it.

    Returns:
        Float64 (9,): beta_1, fresh, centre, decay, share, inside, keep, under, after.

    Raises:
        InputError: There is no such optimizer, or a decay is out of its range.
    """
    if optimizer not in OPTIMIZERS:
        raise InputError(
            f"The optimizer is {optimizer!r}; choose from {', '.join(OPTIMIZERS)}."
        )
    for name, value in (("beta_1", beta_1), ("beta_2", beta_2)):
        if not 0 <= value < 1:
            raise InputError(f"{name} is {value}; it must be in [0, 1).")
    b, c = beta_1, beta_2
    return np.array(
        {
            "adam": (b, 1 - b, 0, c, 1 - c, 0, 0, 0, _EPSILON),
            "amsgrad": (b, 1 - b, 0, c, 1 - c, 0, 1, 0, _EPSILON),
            "adabelief": (
                *(b, 1 - b, 1, c, 1 - c),
                *(_BELIEF_EPSILON, 0, 0, _BELIEF_EPSILON),
            ),
            "rmsprop": (0, 1, 0, c, 1 - c, 0, 0, _EPSILON**2, 0),
            "momentum": (b, 1, 0, 0, 0, 0, 0, 0, 0),
            "sgd": (0, 1, 0, 0, 0, 0, 0, 0, 0),
        }[optimizer],
        np.float64,
    )


def factors(
    optimizer: str, beta_1: float, beta_2: float, steps: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Returns what multiplies the rate in given steps, and whether h is used there.

    Args:
        optimizer: One of `OPTIMIZERS`.
        beta_1: As for `constants`.
        beta_2: Likewise.
        steps: Whole numbers from 1, float64 or integer (n,).

    Returns:
        The factors, float64 (n,), and a bool (n,), False where h is 1.
    """
    n = np.asarray(steps, np.float64)
    ones, always = np.ones_like(n), np.ones(len(n), bool)
    if optimizer in ("momentum", "sgd"):
        return ones, ~always
    if optimizer == "rmsprop":
        return ones, always
    # expm1 keeps the digits of 1 - beta^n where beta^n is near 1.
    first = ones if beta_1 == 0 else -np.expm1(n * np.log(beta_1))
    second = ones if beta_2 == 0 else -np.expm1(n * np.log(beta_2))
    if optimizer != "adabelief":
        return np.sqrt(second) / first, always
    longest = 2 / (1 - beta_2) - 1
    length = longest - 2 * n * (1 - second) / second
    rectified = length >= _RECTIFIED_FROM
    with np.errstate(invalid="ignore", divide="ignore"):
        variance = (length - 4) / (longest - 4) * (length - 2) / length
        variance *= longest / (longest - 2)
        factor = np.sqrt(second * variance) / first
    return np.where(rectified, factor, 1 / first), rectified


def update(
    network: Network,
    gradient: tf.Tensor,
    constants: tf.Tensor,
    rate: tf.Tensor,
    adaptive: tf.Tensor,
) -> Network:
    """Makes one step of every run.

    Args:
        network: All runs' state.
        gradient: Float32 (runs, weights).
        constants: Those of each run, float32 (runs, 9).
        rate: Learning rate times factor, float32 (runs,).
        adaptive: 1 where h is used and 0 where it is 1, float32 (runs,).

    Returns:
        The state after the step.
    """
    columns = tf.split(constants, 9, axis=1)
    beta_1, fresh, centre, decay, share, inside, keep, under, after = columns
    rate, adaptive = rate[:, None], adaptive[:, None]
    first = beta_1 * network.first + fresh * gradient
    rest = gradient - centre * first
    second = decay * network.second + share * tf.square(rest) + inside
    largest = tf.maximum(second, keep * network.largest)
    divisor = adaptive * (tf.sqrt(largest + under) + after) + (1 - adaptive)
    return Network(network.weights - rate * first / divisor, first, second, largest)


def divisor(
    network: Network, optimizer: str, beta_1: float, beta_2: float, step: int
) -> np.ndarray:
    """Returns H's diagonal in theta - rate m_hat / H, after a step of one run.

    m_hat is m corrected for its start in Adam, AMSGrad and AdaBelief, and else m
    itself. Corrections of v and AdaBelief's rectification are part of H.

    Args:
        network: One run's state, each array (weights,).
        optimizer: One of `OPTIMIZERS`.
        beta_1: As for `constants`.
        beta_2: Likewise.
        step: How many steps were made, >= 1.

    Returns:
        Float64 (weights,).
    """
    *_, under, after = constants(optimizer, beta_1, beta_2)
    (factor,), (adaptive,) = factors(optimizer, beta_1, beta_2, np.array([step]))
    largest = np.asarray(network.largest, np.float64)
    h = np.sqrt(largest + under) + after if adaptive else np.ones_like(largest)
    corrected = optimizer in ("adam", "amsgrad", "adabelief")
    return h / (factor * (1 - beta_1**step if corrected else 1.0))
