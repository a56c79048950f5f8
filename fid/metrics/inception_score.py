"""The Inception Score of Salimans et al. 2016, as its original code computes it."""

from __future__ import annotations

import dataclasses

import numpy as np

from fid.files import InputError

__all__ = ["InceptionScore", "inception_score"]


@dataclasses.dataclass(frozen=True)
class InceptionScore:
    """What `inception_score` returns.

    Attributes:
        mean: Mean over the splits.
        std: Their standard deviation (divisor: their number).
    """

    mean: float
    std: float


def inception_score(logits: np.ndarray, *, splits: int = 10) -> InceptionScore:
    """Computes exp(E KL(p(class | image) || p(class))) over consecutive splits.

    The class probabilities of an image are the softmax of its logits: of all 1008
    outputs of the 2015 graph, without the bias, as in the original code. Image i of n
    belongs to split k where k n // splits <= i < (k + 1) n // splits, so the order of
    images matters a little; those of a folder are in the sorted order of its files.

    Args:
        logits: (n, classes), floating point, finite.
        splits: How many parts of the set are scored apart, at most n.

    Returns:
        Mean and standard deviation over the splits. A score lies between 1 and the
        number of classes, and is 1 where every image gets the same probabilities.

    Raises:
        InputError: A shape or value cannot be used, or there are fewer images than
            splits.

    Example:
        >>> import numpy as np
        >>> from fid.metrics.inception_score import inception_score
        >>> sure = 100.0 * np.tile(np.eye(4), (5, 1))  # each of four classes in turn
        >>> round(inception_score(sure, splits=5).mean, 12)
        4.0
    """
    logits = np.asarray(logits)
    if logits.ndim != 2 or logits.dtype.kind != "f" or 0 in logits.shape:
        raise InputError(
            f"The logits are {logits.dtype} of shape {logits.shape}; expected floats "
            "(n, classes)."
        )
    n = len(logits)
    if splits < 1:
        raise InputError(f"{splits} splits were asked for; there must be at least 1.")
    if n < splits:
        raise InputError(
            f"{n} images cannot be split into {splits} parts. Use more images, or "
            "fewer splits."
        )
    finite = np.isfinite(logits).all(axis=1)
    if not finite.all():
        raise InputError(
            f"The logits of image {int(np.argmin(finite))} (counted from 0) are not "
            "finite; look at that image."
        )
    scores = [
        _score(logits[k * n // splits : (k + 1) * n // splits]) for k in range(splits)
    ]
    return InceptionScore(float(np.mean(scores)), float(np.std(scores)))


def _score(logits: np.ndarray) -> float:
    # Logarithms of probabilities and of their mean are formed without the
    # probabilities, so they stay finite where those vanish, and 0 log 0 comes to 0.
    log_p = logits - logits.max(axis=1, keepdims=True).astype(np.float64)
    log_p -= np.log(np.exp(log_p).sum(axis=1, keepdims=True))
    largest = log_p.max(axis=0)
    log_mean = largest + np.log(np.exp(log_p - largest).mean(axis=0))
    divergence = (np.exp(log_p) * (log_p - log_mean)).sum(axis=1)
    return float(np.exp(divergence.mean()))
