"""Gradient penalties: what holds the discriminator's slope down.

A penalty is any object that is called as

    (real_logits, fake_logits), value = penalty(score, score_both, real, fake, draw)

`score(batch)` and `score_both(real, fake)` give float32 logits, the latter of the two
batches, in one pass where that changes nothing. `draw()` gives a number in [0, 1] for
each example. `value` is the weighted penalty, which is added to the discriminator's
loss. The logits come back with it, since some penalties are derivatives of just these,
and need no pass of their own.

Batches are tensors, or `labels.Labelled`. Derivatives are with respect to the images.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from fid.files import InputError
from tf_ttur.labels import Labelled

__all__ = ["PENALTIES", "WGANGP", "ZeroCentered", "get", "gradient_penalty"]

_Score = Callable[[Any], tf.Tensor]
_Pair = tuple[tf.Tensor, tf.Tensor]


class WGANGP:
    """Weight times the mean of (||grad D(x)|| - 1)^2 between real and generated images.

    Of images with labels, those between have the real image's label.

    Args:
        weight: The weight, positive (Gulrajani et al. 2017: 10).
    """

    name = "wgan_gp"
    default = 10.0

    def __init__(self, weight: float = default):
        self.weight = float(weight)

    def __call__(
        self,
        score: _Score,
        score_both: Callable[[Any, Any], _Pair],
        real: Any,
        fake: Any,
        draw: Callable[[], tf.Tensor],
    ) -> tuple[_Pair, tf.Tensor]:
        """Returns the logits, and the weighted penalty, a float32 scalar."""
        logits = score_both(real, fake)
        value = gradient_penalty(
            lambda images: score(_like(real, images)),
            _images(real),
            _images(fake),
            draw(),
        )
        return logits, self.weight * value


class ZeroCentered:
    """gamma / 2 times the mean of ||grad D(x)||^2: R1, R2, or the sum of the two.

    R1 is of the real images, R2 of the generated ones (Mescheder et al. 2018, section
    4.1). Both together are for the relativistic loss (Huang et al. 2024, section 2).

    Args:
        name: `r1`, `r2` or `r1+r2`.
        weight: gamma, positive. 10 is that of Mescheder's released code. Huang et al.
            choose it anew for each data set.
    """

    default = 10.0

    def __init__(self, name: str, weight: float = default):
        self.name, self.weight = name, float(weight)

    def __call__(
        self,
        score: _Score,
        score_both: Callable[[Any, Any], _Pair],
        real: Any,
        fake: Any,
        draw: Callable[[], tf.Tensor],
    ) -> tuple[_Pair, tf.Tensor]:
        """Returns the logits, and the weighted penalty, a float32 scalar."""
        images = {"r1": _images(real), "r2": _images(fake)}
        watched = [images[name] for name in self.name.split("+")]
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(watched)
            if len(watched) == 2:
                logits = score_both(real, fake)
            else:
                # One pass for both would take derivatives of the other batch, too.
                logits = score(real), score(fake)
            total = tf.add_n([tf.reduce_sum(each) for each in logits])
        gradients = tape.gradient(total, watched)
        squares = [tf.reduce_mean(_squared_norms(each)) for each in gradients]
        return logits, self.weight / 2 * tf.add_n(squares)


PENALTIES: dict[str, Callable[[float], Any]] = {
    "wgan_gp": WGANGP,
    "r1": lambda weight: ZeroCentered("r1", weight),
    "r2": lambda weight: ZeroCentered("r2", weight),
    "r1+r2": lambda weight: ZeroCentered("r1+r2", weight),
}
"""The penalties by name. Each is made from its weight."""

_DEFAULTS = {name: make(1.0).default for name, make in PENALTIES.items()}


def describe(penalty: Any) -> Any:
    """Returns what `get` makes a penalty of again, for files.

    Args:
        penalty: A number, a text or a penalty object.

    Returns:
        A text for the penalties of this module; any other as it is.

    Example:
        >>> from tf_ttur import penalties
        >>> penalties.describe(penalties.get("r1:5"))
        'r1:5.0'
    """
    if type(penalty) in (WGANGP, ZeroCentered):
        return f"{penalty.name}:{penalty.weight!r}"
    return penalty


def get(penalty: Any) -> Any:
    """Finds a gradient penalty.

    Args:
        penalty: A number, the weight of `WGANGP`; a name from `PENALTIES`, with a
            weight behind a colon or without one, such as `"r1+r2:0.5"`; or a penalty
            object, which is returned as it is.

    Returns:
        The penalty; None where the weight is 0.

    Raises:
        InputError: There is no such penalty, or its weight cannot be.

    Example:
        >>> from tf_ttur import penalties
        >>> penalties.get("r1+r2:0.5").weight, penalties.get(10).name
        (0.5, 'wgan_gp')
        >>> penalties.get(0.0) is None
        True
    """
    if isinstance(penalty, type):
        raise InputError(
            f"gradient_penalty is the class {penalty.__name__}; give an object of it."
        )
    if callable(penalty):
        return penalty
    if isinstance(penalty, str):
        name, colon, text = penalty.partition(":")
        if name not in PENALTIES:
            raise InputError(
                f"There is no gradient penalty {penalty!r}; give a number, the weight "
                f"of wgan_gp, or one of {', '.join(PENALTIES)}, with its weight as in "
                "r1+r2:10."
            )
        try:
            weight = float(text) if colon else _DEFAULTS[name]
        except ValueError:
            weight = math.nan
    else:
        name, weight = WGANGP.name, float(penalty)
    if not 0 <= weight < math.inf:
        raise InputError(
            f"gradient_penalty is {penalty!r}; its weight must be a number >= 0."
        )
    return PENALTIES[name](weight) if weight else None


def gradient_penalty(
    discriminator: _Score, real: tf.Tensor, fake: tf.Tensor, mix: tf.Tensor
) -> tf.Tensor:
    """Mean of (||grad D(x)|| - 1)^2 on straight lines from real to fake examples.

    Args:
        discriminator: Maps a batch to one score per example.
        real: Real examples, float32 (n, ...).
        fake: Generated examples, float32 (n, ...).
        mix: Where between them, float32 (n,) in [0, 1]; 0 is the real example.

    Returns:
        The penalty before its weight, a float32 scalar (Gulrajani et al. 2017,
        equation 3).
    """
    mix = tf.reshape(mix, [-1] + [1] * (real.shape.rank - 1))
    # Under mixed precision generated images may come in another type than real ones.
    between = real + mix * (tf.cast(fake, real.dtype) - real)
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(between)
        scores = _at_least_float32(discriminator(between))
    squared = _squared_norms(tape.gradient(scores, between))
    # The derivative of the root is infinite at zero. The bound is far below any norm
    # that matters, so no value changes; it only turns that infinity into a zero.
    norm = tf.sqrt(tf.maximum(squared, 1e-30))
    return tf.reduce_mean(tf.square(norm - 1.0))


def _squared_norms(gradient: tf.Tensor) -> tf.Tensor:
    gradient = _at_least_float32(gradient)
    axes = tuple(range(1, gradient.shape.rank))
    return tf.reduce_sum(tf.square(gradient), axis=axes)


def _at_least_float32(values: tf.Tensor) -> tf.Tensor:
    return tf.cast(values, tf.float32) if values.dtype.size < 4 else values


def _images(batch: Any) -> tf.Tensor:
    return batch.images if isinstance(batch, Labelled) else batch


def _like(batch: Any, images: tf.Tensor) -> Any:
    """Returns images with the labels of a batch, if that has any."""
    return batch._replace(images=images) if isinstance(batch, Labelled) else images
