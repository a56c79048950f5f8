"""How many images of a set are really different from each other (Vendi Score)."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
import scipy.linalg

from fid.files import InputError
from fid.metrics.influence import variance_of_mean
from fid.metrics.metric import Error, Measured, Metric

__all__ = ["Vendi", "vendi_score"]

# So many images are taken at a time.
_BLOCK = 1024


@dataclasses.dataclass(frozen=True)
class Vendi(Metric):
    """The Vendi Score as a metric, of the first set alone."""

    key, other_key = "vendi", "variety"
    name, other_name = "Vendi Score", "Vendi Score"
    needs = ("features",)
    of_first = True
    larger_is_better = True
    remark = "the Vendi Score of A"

    def __call__(self, first: Measured, second: Measured) -> float:
        """Returns `vendi_score` of the first set."""
        return vendi_score(first.features)

    def with_errors(
        self, first: Measured, second: Measured
    ) -> tuple[float, tuple[Error, ...]]:
        """Returns the score and its standard error, by its influence function.

        The entropy is -tr(G log G), with G the mean of u u' over features u of length
        1, whose trace is 1. Its derivative towards one image is -u' (log G) u less the
        mean of that, which is the entropy itself.
        """
        features, lengths = _with_lengths(first.features)
        n, d = features.shape
        values, vectors = scipy.linalg.eigh(
            _gram(features, lengths), driver="evd", overwrite_a=True, check_finite=False
        )
        entropy, logs = _entropy(values)
        if n <= d:
            # Eigenvectors of the n x n matrix hold the u themselves, in other axes.
            shares = n * vectors**2 @ (np.maximum(values, 0.0) * logs)
        else:
            blocks = _units(features, lengths)
            shares = np.concatenate([np.square(u @ vectors) @ logs for u in blocks])
        score = float(np.exp(entropy))
        error = score * float(np.sqrt(variance_of_mean(shares)))
        return score, (Error(error, "influence function of the images"),)


def vendi_score(features: np.ndarray) -> float:
    """Computes the effective number of different images of a set.

    It is the exponential of the entropy of the eigenvalues of K / n, where K has the
    cosines between the features of all pairs (Friedman and Dieng 2022, The Vendi Score,
    definition 3.1, of order 1). Where n > d these are the eigenvalues of a matrix of
    d x d, so no n x n matrix is formed.

    Args:
        features: Floating point (n, d), finite, no row of zeros, n >= 2.

    Returns:
        The score, from 1 for images that are all the same up to n, or d if that is
        less.

    Raises:
        InputError: The features cannot be used.

    Example:
        >>> import numpy as np
        >>> round(vendi_score(np.repeat(np.eye(5), 7, axis=0)), 12)
        5.0
        >>> round(vendi_score(np.ones((4, 3))), 12)
        1.0
    """
    values = scipy.linalg.eigvalsh(
        _gram(*_with_lengths(features)), overwrite_a=True, check_finite=False
    )
    return float(np.exp(_entropy(values)[0]))


def _with_lengths(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the features, and their lengths, float64 (n,)."""
    features = np.asarray(features)
    if features.ndim != 2 or features.dtype.kind != "f" or len(features) < 2:
        raise InputError(
            f"The features are {features.dtype} of shape {features.shape}; expected "
            "floats (n, d) of at least 2 images."
        )
    lengths = np.empty(len(features))
    for start in range(0, len(features), _BLOCK):
        rows = slice(start, start + _BLOCK)
        lengths[rows] = np.linalg.norm(features[rows].astype(np.float64), axis=1)
    good = np.isfinite(lengths) & (lengths > 0)
    if not good.all():
        bad = int(np.argmin(good))
        found = "all zero" if lengths[bad] == 0 else "not finite"
        raise InputError(
            f"The features of image {bad} (counted from 0) are {found}, so they have "
            "no direction; look at that image."
        )
    return features, lengths


def _units(features: np.ndarray, lengths: np.ndarray) -> Iterator[np.ndarray]:
    """Yields blocks of the features scaled to length 1, float64."""
    for start in range(0, len(features), _BLOCK):
        rows = slice(start, start + _BLOCK)
        yield features[rows] / lengths[rows, np.newaxis]


def _gram(features: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Returns K / n, or the d x d matrix with its eigenvalues if that is smaller."""
    n, d = features.shape
    if n <= d:
        units = np.concatenate(list(_units(features, lengths)))
        return units @ units.T / n
    total = np.zeros((d, d))
    for units in _units(features, lengths):
        total += units.T @ units
    return total / n


def _entropy(values: np.ndarray) -> tuple[float, np.ndarray]:
    """Returns the entropy of eigenvalues, and -log of each: 0 of a zero."""
    # An eigenvalue this small is a zero and rounding.
    present = values > len(values) * np.finfo(np.float64).eps * values[-1]
    logs = -np.log(np.where(present, values, 1.0))
    return float(np.where(present, values, 0.0) @ logs), logs
