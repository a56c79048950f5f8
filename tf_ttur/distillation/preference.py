"""Preference learning of a few-step student, as functions of tensors.

A step of a student draws z from a Gaussian: its mean is a times the student's estimate
of the clean image, its standard deviation is s (the student's own noise). So the
likelihood of a z is known, and how it changes with the student. Of several z that come
from one estimate the best and the worst are found, by scores of whatever kind, and the
student is moved to where the best is likelier and the worst less likely, compared with
a frozen reference.

These functions take estimates and scores, and no networks, so they can be used with any
model and in any training loop.

Sources: Flash-DMD (arXiv 2511.20549), equations 12 and 13, and LPO (arXiv 2502.01051)
and its code, both as restated by readers; Rafailov et al. 2023 (DPO) for the loss.
"""

from __future__ import annotations

from typing import Annotated, Any

import tensorflow as tf

from fid.values import Between, checked

__all__ = ["best_and_worst", "gate", "log_ratio", "preference_loss"]

_KINDS = {
    "beta": Annotated[float, Between(above=0)],
    "clip": Annotated[float, Between(0, below=1)],
}
# These are Python's alone, and AutoGraph cannot read all of it.
_checked = tf.autograph.experimental.do_not_convert(checked)


def log_ratio(z: Any, mean: Any, reference_mean: Any, spread: Any) -> tf.Tensor:
    """Returns how much likelier z is by the student than by the reference, as a log.

    It is -(|z - mean|^2 - |z - reference_mean|^2) / (2 spread^2), where |.|^2 is the
    mean over the dimensions of an example (LPO's code). With sums it would be the log
    of the ratio of both densities; so it is that, divided by the number of dimensions.

    Args:
        z: What was drawn, float32 (n, ...).
        mean: The student's mean, a times its estimate (n, ...), differentiable.
        reference_mean: The reference's (n, ...).
        spread: The standard deviation, a scalar or (n,).

    Returns:
        Float (n,).

    Example:
        >>> import tensorflow as tf
        >>> from tf_ttur.distillation import preference
        >>> z = tf.constant([[1.0, 3.0]])
        >>> preference.log_ratio(z, mean=z, reference_mean=0.0 * z, spread=0.5).numpy()
        array([10.], dtype=float32)
    """
    z = tf.convert_to_tensor(z)
    mean, reference_mean = tf.cast(mean, z.dtype), tf.cast(reference_mean, z.dtype)
    spread = tf.cast(spread, z.dtype)
    # The difference of two squares that are almost equal, as a product.
    product = (mean - reference_mean) * ((z - mean) + (z - reference_mean))
    axes = tuple(range(1, product.shape.rank))
    return tf.reduce_mean(product, axis=axes) / (2.0 * tf.square(spread))


def preference_loss(
    winner: Any,
    loser: Any,
    beta: float = 500.0,
    clip: float = 0.1,
    weights: Any = None,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Computes the loss of pairs, -log sigmoid(beta H).

    H is the winner's log ratio less the loser's. Each ratio is kept in
    [1 - clip, 1 + clip] before (LPO's code): one that is beyond has no gradient, so the
    student does not move far from the reference for the sake of one pair.

    Args:
        winner: Log ratios of the better ones (n,), of `log_ratio`, differentiable.
        loser: Log ratios of the worse ones (n,).
        beta: How sharply H counts (LPO's code: 500, with means over dimensions).
        clip: How far a ratio may be from 1, in [0, 1).
        weights: What each pair's loss is multiplied by (n,), such as `gate`'s; None
            for 1.

    Returns:
        The mean over all pairs, those of weight 0 included; and the share of the 2 n
        ratios that are beyond the clip. Two scalars.

    Raises:
        InputError: `beta` or `clip` is out of its range.

    Example:
        >>> import tensorflow as tf
        >>> from tf_ttur.distillation import preference
        >>> loss, clipped = preference.preference_loss([0.0, 0.5], [0.0, 0.0])
        >>> round(float(loss), 4), float(clipped)
        (0.3466, 0.25)
    """
    _checked(_KINDS, beta=beta, clip=clip)
    ratios = tf.stack([tf.convert_to_tensor(winner), tf.convert_to_tensor(loser)])
    # The log of the clipped ratio, of a ratio that may be too large for a float.
    ends = [tf.math.log1p(tf.cast(end, ratios.dtype)) for end in (-clip, clip)]
    beyond = (ratios < ends[0]) | (ratios > ends[1])
    kept = tf.clip_by_value(ratios, *ends)
    losses = tf.nn.softplus(-beta * (kept[0] - kept[1]))
    if weights is not None:
        losses *= tf.cast(weights, losses.dtype)
    return tf.reduce_mean(losses), tf.reduce_mean(tf.cast(beyond, losses.dtype))


def best_and_worst(scores: Any) -> tuple[tf.Tensor, tf.Tensor]:
    """Finds the best and the worst candidate of each row.

    Args:
        scores: Float (n, k). A row with a score that is not finite gives some indices.

    Returns:
        Indices in [0, k), int32 (n,) each. Of equal scores it is the first.

    Example:
        >>> from tf_ttur.distillation import preference
        >>> best, worst = preference.best_and_worst([[0.5, 2.0, -1.0]])
        >>> int(best[0]), int(worst[0])
        (1, 2)
    """
    scores = tf.convert_to_tensor(scores)
    return (
        tf.argmax(scores, axis=1, output_type=tf.int32),
        tf.argmin(scores, axis=1, output_type=tf.int32),
    )


def gate(best: Any, worst: Any, threshold: float = 0.0) -> tf.Tensor:
    """Says which pairs count: those that differ by more than a threshold.

    They differ by p_w - p_l, the two numbers that softmax makes of both scores (LPO's
    code, whose threshold depends on the noise; Flash-DMD has none). Pairs of equal
    scores never count, nor do those with a score that is not finite.

    Args:
        best: The scores of the better ones (n,).
        worst: The scores of the worse ones (n,).
        threshold: In [0, 1); 0 for no gate.

    Returns:
        1 for a pair that counts and 0 for one that does not, float32 (n,).

    Example:
        >>> from tf_ttur.distillation import preference
        >>> preference.gate([1.0, 1.0, 9.0], [1.0, 0.5, 0.0], 0.3).numpy()
        array([0., 0., 1.], dtype=float32)
    """
    best, worst = tf.convert_to_tensor(best), tf.convert_to_tensor(worst)
    # 1 / (1 + e^-d) - 1 / (1 + e^d) = tanh(d / 2).
    apart = tf.tanh(0.5 * (best - worst))
    finite = tf.math.is_finite(best) & tf.math.is_finite(worst)
    return tf.cast(finite & (apart > threshold), tf.float32)
