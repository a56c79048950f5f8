"""The Fréchet distance between two Gaussians, real by construction.

d² = |mu_1 - mu_2|² + Tr(S_1) + Tr(S_2) - 2 Tr((S_1 S_2)^(1/2))   (paper, equation 6)

With factors S_i = F_i' F_i the last trace is the sum of the singular values of
F_1 F_2', or of the square roots of the eigenvalues of the symmetric F_1 S_2 F_1'. No
root of an unsymmetric matrix is formed, so no imaginary part can appear.
"""

from __future__ import annotations

import numpy as np
import scipy.linalg

from fid.files import InputError
from fid.statistics import Statistics

__all__ = ["frechet_distance"]

# A pivot this much smaller than the largest variance means that the matrix has no
# full rank in double precision, whether or not its Cholesky factorisation succeeded.
_SINGULAR = 1e-12
# Below zero by more than this share of the largest, an eigenvalue is not rounding:
# float32 statistics come to about 1e-7.
_INDEFINITE = 1e-5


def frechet_distance(first: Statistics, second: Statistics) -> float:
    """Computes the squared Fréchet distance between two sets of features.

    Args:
        first: Mean and covariance of the first set, dimension d.
        second: Those of the second set, same d.

    Returns:
        The distance, >= 0, exactly 0 for equal statistics. With features of the 2015
        graph's pool_3 layer it is the Fréchet Inception Distance (FID).

    Raises:
        InputError: The dimensions differ, or a value is not finite.

    Example:
        >>> import numpy as np
        >>> from fid import Statistics, frechet_distance
        >>> one = Statistics(mu=np.zeros(2), sigma=np.eye(2))
        >>> two = Statistics(mu=np.array([3.0, 4.0]), sigma=np.eye(2))
        >>> round(frechet_distance(one, two), 12)
        25.0
    """
    if first.dimension != second.dimension:
        raise InputError(
            f"The features of {first.label} have {first.dimension} dimensions and "
            f"those of {second.label} have {second.dimension}: they come from "
            "different extractors. Compute both with the same one."
        )
    for each in (first, second):
        if not (np.isfinite(each.mu).all() and np.isfinite(each.sigma).all()):
            raise InputError(
                f"The statistics of {each.label} hold values that are not finite; "
                "compute them again from images without NaN."
            )
    if np.array_equal(first.mu, second.mu) and np.array_equal(
        first.sigma, second.sigma
    ):
        return 0.0
    shift = first.mu - second.mu
    spread = np.trace(first.sigma) + np.trace(second.sigma)
    distance = shift @ shift + spread - 2.0 * _trace_of_root(first, second)
    # Rounding alone can leave a tiny negative number where the truth is zero.
    return max(float(distance), 0.0)


def _trace_of_root(first: Statistics, second: Statistics) -> float:
    """Returns Tr((S_1 S_2)^(1/2)), by the cheapest exact form there is."""
    rows_1, rows_2 = _factor_from_rows(first), _factor_from_rows(second)
    if rows_1 is not None and rows_2 is not None:
        return _sum_of_singular_values(rows_1 @ rows_2.T)
    if rows_1 is not None or rows_2 is not None:
        rows, other = (rows_1, second) if rows_1 is not None else (rows_2, first)
        if _cholesky(other.sigma) is not None:
            return _sum_of_roots(rows @ other.sigma @ rows.T)
        return _sum_of_singular_values(rows @ _factor_by_rank(other).T)
    lower = _cholesky(first.sigma)
    if lower is not None and _cholesky(second.sigma) is not None:
        return _sum_of_roots(lower.T @ second.sigma @ lower)
    # Where a matrix is singular, rounding turns its zero eigenvalues e into noise, and
    # sqrt(e) makes that noise large. Singular values are free of this.
    return _sum_of_singular_values(_factor_by_rank(first) @ _factor_by_rank(second).T)


def _factor_from_rows(statistics: Statistics) -> np.ndarray | None:
    """Returns F of shape (n - 1, d) with F'F = sigma, if the features are at hand.

    A Householder reflection takes the vector of ones to the first axis. Applied to the
    rows, it puts the mean into the first row and leaves the scatter in the others.
    """
    rows = statistics.rows
    if rows is None:
        return None
    n = len(rows)
    # Centred first, or a large mean would cost digits.
    rows = rows - rows.mean(axis=0)
    axis = np.full(n, 1.0 / np.sqrt(n))
    axis[0] += 1.0
    reflected = rows - np.outer(axis, (axis @ rows) * (2.0 / (axis @ axis)))
    return reflected[1:] / np.sqrt(n - 1)


def _factor_by_rank(statistics: Statistics) -> np.ndarray:
    """Returns F of shape (rank, d) with F'F = sigma."""
    values, vectors = scipy.linalg.eigh(statistics.sigma, check_finite=False)
    if values[0] < -_INDEFINITE * max(values[-1], 0.0):
        raise InputError(
            f"The covariance of {statistics.label} has the eigenvalue {values[0]:g} "
            f"(its largest is {values[-1]:g}), which no covariance has: the file is "
            "damaged or holds something else. Compute it again."
        )
    keep = values > values[-1] * len(values) * np.finfo(np.float64).eps
    return (vectors[:, keep] * np.sqrt(values[keep])).T


def _cholesky(sigma: np.ndarray) -> np.ndarray | None:
    """Returns the lower Cholesky factor, or None where sigma is singular."""
    try:
        lower = np.linalg.cholesky(sigma)
    except np.linalg.LinAlgError:
        return None
    pivots = np.diag(lower) ** 2
    return lower if pivots.min() > _SINGULAR * pivots.max() else None


def _sum_of_roots(symmetric: np.ndarray) -> float:
    values = scipy.linalg.eigvalsh(symmetric, check_finite=False)
    return float(np.sqrt(np.maximum(values, 0.0)).sum())


def _sum_of_singular_values(matrix: np.ndarray) -> float:
    if 0 in matrix.shape:
        return 0.0
    return float(scipy.linalg.svdvals(matrix, check_finite=False).sum())
