"""Losses of distribution-matching distillation, as functions of tensors.

They take estimates of clean images and logits, and no networks, so they can be used
with any model and in any training loop. What is to be a constant is stopped here.

Sources: DMD2 (Yin et al. 2024, arXiv 2405.14867) and its code; SenseFlow (Ge et al.
2025) and its code; Flash-DMD (arXiv 2511.20549), whose text and code were not to be
had: what is taken from restatements of it is called so.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from fid.files import InputError
from tf_ttur import losses

__all__ = [
    "SPLITS",
    "adversarial_weight",
    "discriminator_loss",
    "distribution_matching",
    "generator_loss",
    "matching_gradient",
]

SPLITS = ("none", "hard", "soft")
"""How the two losses of a student share the noise levels; see `adversarial_weight`."""


def matching_gradient(x: Any, fake: Any, real: Any) -> tf.Tensor:
    """Returns the direction that takes images away from the student's distribution.

    It is (m_f - m_r) / mean |x - m_r|, the mean over an example's pixels and channels
    (DMD2's code). m_f is what the fake score takes a noisy version of x for, m_r what
    the teacher does. Up to a positive factor it is the score of the student's
    distribution less that of the teacher's, so against it lies what the teacher finds
    more likely than the student. Where it is not a number it is 0.

    Args:
        x: Images of the student, float32 (n, ...).
        fake: The fake score's estimates of x from its noisy version (n, ...).
        real: The teacher's estimates (n, ...).

    Returns:
        Float32 (n, ...), a constant.

    Example:
        >>> import tensorflow as tf
        >>> from tf_ttur.distillation import losses
        >>> x = tf.constant([[1.0, 3.0]])
        >>> losses.matching_gradient(x, fake=x, real=0.0 * x).numpy().tolist()
        [[0.5, 1.5]]
    """
    x, fake, real = (tf.stop_gradient(tf.cast(v, tf.float32)) for v in (x, fake, real))
    axes = tuple(range(1, x.shape.rank))
    scale = tf.reduce_mean(tf.abs(x - real), axis=axes, keepdims=True)
    found = (fake - real) / scale
    return tf.where(tf.math.is_finite(found), found, 0.0)


def distribution_matching(x: Any, fake: Any, real: Any) -> tf.Tensor:
    """Computes the loss whose gradient in x is `matching_gradient`, over its size.

    It is half the mean of (x - c)^2 with the constant c = x - g (DMD2's code). Its
    value is half the mean of g^2, and says little; its gradient is what counts:
    following it down is following the reverse Kullback-Leibler divergence down.

    Args:
        x: Images of the student, float32 (n, ...), differentiable.
        fake: The fake score's estimates of x from its noisy version (n, ...).
        real: The teacher's estimates (n, ...).

    Returns:
        The mean over all, a scalar.

    Example:
        >>> import tensorflow as tf
        >>> from tf_ttur.distillation import losses
        >>> x = tf.Variable([[1.0, 3.0]])
        >>> with tf.GradientTape() as tape:
        ...     loss = losses.distribution_matching(x, fake=x, real=0.0 * x)
        >>> tape.gradient(loss, x).numpy().tolist()
        [[0.25, 0.75]]
    """
    x = tf.cast(x, tf.float32)
    gradient = matching_gradient(x, fake, real)
    target = tf.stop_gradient(x - gradient)
    return 0.5 * tf.reduce_mean(tf.square(x - target))


def discriminator_loss(
    real: Sequence[Any], fake: Sequence[Any], loss: Any = "hinge"
) -> tf.Tensor:
    """Computes what a discriminator of several heads minimises.

    Args:
        real: For each head its logits of real images (n, 1).
        fake: For each head its logits of generated images, constants, (n, 1).
        loss: As `tf_ttur.losses.get` takes it.

    Returns:
        The mean over the heads, a scalar.

    Example:
        >>> import tensorflow as tf
        >>> from tf_ttur.distillation import losses
        >>> heads = [tf.constant([[0.5]]), tf.constant([[2.0]])]
        >>> float(losses.discriminator_loss(heads, heads))
        2.5
    """
    made = losses.get(loss)
    pairs = zip(real, fake, strict=True)
    return tf.add_n([made.discriminator(r, f) for r, f in pairs]) / len(real)


def generator_loss(
    fake: Sequence[Any], loss: Any = "hinge", weight: Any = 1.0
) -> tf.Tensor:
    """Computes what a student minimises to be taken for real by several heads.

    Args:
        fake: For each head its logits of generated images (n, 1), differentiable.
        loss: As `tf_ttur.losses.get` takes it.
        weight: What the loss is multiplied by, a scalar; see `adversarial_weight`.

    Returns:
        The mean over the heads, a scalar.
    """
    made = losses.get(loss)
    found = tf.add_n([made.generator(each, None) for each in fake]) / len(fake)
    return weight * found


def adversarial_weight(split: str, parametrisation: Any, t: Any) -> tf.Tensor:
    """Returns the weight of the adversarial loss at a noise level.

    Args:
        split: `"none"`: both losses at all noise levels alike (DMD2). `"hard"`: the
            adversarial loss at the lowest alone, distribution matching at the others
            (Flash-DMD as restated); it is 1 there. `"soft"`: at all, with the weight
            a / sqrt(a^2 + s^2), which is SenseFlow's sqrt(alphabar) (its code for
            SDXL) for any parametrisation.
        parametrisation: A parametrisation object.
        t: The native time that the student was called with, a scalar.

    Returns:
        A float32 scalar.

    Raises:
        InputError: There is no such split.

    Example:
        >>> from tf_ttur import distillation
        >>> from tf_ttur.distillation import losses
        >>> float(losses.adversarial_weight("soft", distillation.EDM(), 0.75))
        0.800000011920929
    """
    if split not in SPLITS:
        raise InputError(
            f"There is no split {split!r}; choose from {', '.join(SPLITS)}."
        )
    a, s = parametrisation.coefficients(t)
    if split == "soft":
        return a / tf.sqrt(tf.square(a) + tf.square(s))
    return tf.ones_like(a)
