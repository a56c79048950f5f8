"""The Fréchet distance between two Gaussians, real by construction.

d² = |mu_1 - mu_2|² + Tr(S_1) + Tr(S_2) - 2 Tr((S_1 S_2)^(1/2))   (paper, equation 6)

With factors S_i = F_i' F_i the last trace is the sum of the square roots of the
eigenvalues of the symmetric F_1 S_2 F_1', or of the singular values of F_1 F_2'. No
root of an unsymmetric matrix is formed, so no imaginary part can appear.
"""

from __future__ import annotations

import dataclasses
import logging
import warnings

import numpy as np
import scipy.linalg

from fid.files import InputError
from fid.metrics.influence import bias_of, influences, variance_of_mean, why_none
from fid.metrics.metric import Error, Measured, Metric, option
from fid.metrics.transport import Transport, cholesky, transport
from fid.statistics import INDEFINITE, LARGEST, Statistics

__all__ = ["METHODS", "Frechet", "check_comparable", "factor", "frechet_distance"]

METHODS = ("eigen", "sqrtm")
_log = logging.getLogger(__name__)

# An eigenvalue this much smaller than the largest may be a zero and rounding.
_NULL = 1e-13
# Below this the estimate's upward bias is plain (README of the original code).
_FEW = 10_000


@dataclasses.dataclass(frozen=True)
class Frechet(Metric):
    """The Fréchet distance as a metric: FID on the 2015 graph."""

    key, other_key = "fid", "frechet"
    name, other_name = "Fréchet Inception Distance", "Fréchet distance"
    abbreviation = "FID"
    error_needs = ("features",)

    method: str = option(
        "eigen",
        "How the Fréchet distance is computed; sqrtm is the original's way.",
        choices=METHODS,
    )

    def __call__(self, first: Measured, second: Measured) -> float:
        """Returns `frechet_distance` of the two sets."""
        return frechet_distance(first.statistics, second.statistics, method=self.method)

    def with_errors(
        self, first: Measured, second: Measured
    ) -> tuple[float, tuple[Error, ...]]:
        """Returns the distance, its standard error, and its bias.

        The standard error is sqrt(var(phi_1) / n + var(phi_2) / m), phi being the
        influence function of a set (`fid.metrics.influence`): exact to first order in
        1 / sqrt(n), whatever the distribution of the features. It is right within 10 %
        where n > 2 d, and too large where the distance is mere bias: then its first
        order vanishes.
        """
        one, two = first.statistics, second.statistics
        check_comparable(one, two)
        found = transport(one, two)
        equal = _are_equal(one, two)
        if found is None or equal or self.method != "eigen":
            value = self(first, second)
        else:
            value = found.distance
        if found is None:
            return value, (Error(None, why_none(one, two)),)
        variance, known = 0.0, []
        for each, own, other, root in (
            (first, one, two, found.forward),
            (second, two, one, found.back),
        ):
            if each.features is not None:
                phi = influences(each.features, own, other, root)
                variance += variance_of_mean(phi)
                known.append(own)
        error = _standard_error(variance, known, one, two)
        return value, (error, _bias(found, one, two))

    def warnings(self, first: Measured, second: Measured) -> list[str]:
        """Says which set is small."""
        return [*_small(first.statistics), *_small(second.statistics)]


def frechet_distance(
    first: Statistics,
    second: Statistics,
    *,
    method: str = "eigen",
    eps: float = 1e-6,
) -> float:
    """Computes the squared Fréchet distance between two sets of features.

    Args:
        first: Mean and covariance of the first set, dimension d.
        second: Those of the second set, same d.
        method: `eigen`, or `sqrtm` for the original code's algorithm, which is over ten
            times slower and less exact where a covariance is singular.
        eps: What `sqrtm` adds to both diagonals where the root is not finite.

    Returns:
        The distance, >= 0, exactly 0 for equal statistics. (`sqrtm` gives what it
        gives: rounding may leave it just below 0.) With features of the 2015 graph's
        pool_3 layer it is the Fréchet Inception Distance (FID).

    Raises:
        InputError: The dimensions differ, a value is not finite or above 1e100, a
            covariance has negative eigenvalues, or `sqrtm` came to a complex number or
            none. (Where the other set has its rows at hand, only negative eigenvalues
            that it can see are found; `Statistics.load` refuses all.)

    Example:
        >>> import numpy as np
        >>> from fid import Statistics, frechet_distance
        >>> one = Statistics(mu=np.zeros(2), sigma=np.eye(2))
        >>> two = Statistics(mu=np.array([3.0, 4.0]), sigma=np.eye(2))
        >>> round(frechet_distance(one, two), 12)
        25.0
    """
    if method not in METHODS:
        raise InputError(f"The method is {method!r}; choose from {', '.join(METHODS)}.")
    check_comparable(first, second)
    shift = first.mu - second.mu
    rest = shift @ shift + np.trace(first.sigma) + np.trace(second.sigma)
    if method == "sqrtm":
        return float(rest - 2.0 * _trace_by_sqrtm(first.sigma, second.sigma, eps))
    if _are_equal(first, second):
        return 0.0
    # Rounding alone can leave a tiny negative number where the truth is zero.
    return max(float(rest - 2.0 * _trace_of_root(first, second)), 0.0)


def check_comparable(first: Statistics, second: Statistics) -> None:
    """Refuses statistics of which no distance can be computed.

    Args:
        first: Of one set.
        second: Of the other.

    Raises:
        InputError: The dimensions differ, or a value is not finite or above 1e100.
    """
    if first.dimension != second.dimension:
        raise InputError(
            f"The features of {first.label} have {first.dimension} dimensions and "
            f"those of {second.label} have {second.dimension}: they come from "
            "different extractors. Compute both with the same one."
        )
    for each in (first, second):
        if not all((np.abs(x) <= LARGEST).all() for x in (each.mu, each.sigma)):
            raise InputError(
                f"The statistics of {each.label} hold values that are not finite or "
                f"above {LARGEST:g}; compute them again from images without NaN."
            )


def _are_equal(first: Statistics, second: Statistics) -> bool:
    means = np.array_equal(first.mu, second.mu)
    return means and np.array_equal(first.sigma, second.sigma)


def _standard_error(
    variance: float, known: list[Statistics], first: Statistics, second: Statistics
) -> Error:
    """Returns the standard error, from the variances of the sets that are known."""
    if not known:
        return Error(
            None,
            f"neither {first.label} nor {second.label} has its features; give images",
        )
    origin = "influence function of both sets"
    if len(known) == 1:
        letter = "A" if known[0] is first else "B"
        other = "B" if letter == "A" else "A"
        origin = (
            f"influence function of the images of {letter} alone; the statistics of "
            f"{other} are taken as exact"
        )
    if any(each.n < 2 * each.dimension for each in known):
        origin += "; rough, since a set has fewer than 2 d images"
    return Error(float(np.sqrt(variance)), origin)


def _bias(found: Transport, first: Statistics, second: Statistics) -> Error:
    """Returns how much the estimate is too large on average, at so many images."""
    sets = [each for each in (first, second) if each.n is not None]
    if not sets:
        return Error(None, "no set says how many images it is of", kind="bias")
    origin = "second order in 1 / n, for Gaussian features"
    if len(sets) == 1:
        letter = "B" if sets[0] is first else "A"
        origin += f"; {letter} does not say of how many images it is: taken as exact"
    bias = sum(bias_of(found, each) for each in sets)
    return Error(bias, origin, kind="bias")


def _trace_of_root(first: Statistics, second: Statistics) -> float:
    """Returns Tr((S_1 S_2)^(1/2)), by the cheapest exact form there is."""
    if _height(second) < _height(first):
        first, second = second, first
    lower = None if _has_rows(first) else cholesky(first.sigma)
    mixed = None
    if lower is not None:
        one = lower.T
        # It takes d³ flops, matrix products 4 d³. It sets the lower triangle only.
        product, _ = scipy.linalg.lapack.dsygst(second.sigma.T, lower, itype=2, lower=1)
    elif _has_rows(first) and not _has_rows(second):
        one = _factor_from_rows(first.rows)
        product = one @ second.sigma @ one.T
    else:
        one = factor(first)
        # S_2 is factored as well, since F_1 S_2 F_1' would not show a negative
        # eigenvalue of it in a direction that S_1 lacks.
        mixed = one @ factor(second).T
        product = mixed @ mixed.T
    if 0 in product.shape:
        return 0.0
    values = scipy.linalg.eigvalsh(product, overwrite_a=True, check_finite=False)
    exact = values[0] > _NULL * values[-1]
    if not exact and lower is not None:
        # An eigenvalue may be small and not zero: nothing is lost where both matrices
        # have full rank.
        exact = values[0] > 0 and cholesky(second.sigma) is not None
    if exact:
        return float(np.sqrt(values).sum())
    # Rounding turns zero eigenvalues e into noise, and sqrt(e) makes that noise large.
    # The singular values of the product of the factors are free of this.
    if mixed is None:
        mixed = one @ factor(second).T
    return float(scipy.linalg.svdvals(mixed, check_finite=False).sum())


def _has_rows(statistics: Statistics) -> bool:
    rows = statistics.rows
    return rows is not None and len(rows) <= statistics.dimension


def _height(statistics: Statistics) -> int:
    """Returns the number of rows that a factor of sigma is going to have, at most."""
    return (len(statistics.rows) - 1) if _has_rows(statistics) else statistics.dimension


def factor(statistics: Statistics) -> np.ndarray:
    """Factors a covariance, by the cheapest exact form there is.

    Args:
        statistics: Mean and covariance, dimension d.

    Returns:
        F of shape (r, d), float64, with F'F = sigma; r is n - 1, d or the rank.

    Raises:
        InputError: The covariance has negative eigenvalues.
    """
    if _has_rows(statistics):
        return _factor_from_rows(statistics.rows)
    lower = cholesky(statistics.sigma)
    return _factor_by_rank(statistics) if lower is None else lower.T


def _factor_from_rows(rows: np.ndarray) -> np.ndarray:
    """Returns F of shape (n - 1, d) from n features.

    A Householder reflection takes the vector of ones to the first axis. Applied to the
    rows, it puts the mean into the first row and leaves the scatter in the others.
    """
    n = len(rows)
    # The rows are centred first, or a large mean would cost digits.
    rows = rows - rows.mean(axis=0, dtype=np.float64)
    axis = np.full(n, 1.0 / np.sqrt(n))
    axis[0] += 1.0
    reflected = rows - np.outer(axis, (axis @ rows) * (2.0 / (axis @ axis)))
    return reflected[1:] / np.sqrt(n - 1)


def _factor_by_rank(statistics: Statistics) -> np.ndarray:
    """Returns F of shape (rank, d), by a Cholesky factorisation with pivoting."""
    sigma = statistics.sigma
    largest = max(np.diag(sigma).max(), 0.0)
    tolerance = len(sigma) * np.finfo(np.float64).eps * largest
    packed, order, rank, _ = scipy.linalg.lapack.dpstrf(sigma.T, tol=tolerance)
    factor = np.zeros((rank, len(sigma)))
    factor[:, order - 1] = np.triu(packed)[:rank]
    if np.abs(factor.T @ factor - sigma).max() > INDEFINITE * largest:
        values = scipy.linalg.eigvalsh(sigma, check_finite=False)
        raise InputError(
            f"The covariance of {statistics.label} has the eigenvalue {values[0]:g} "
            f"(its largest is {values[-1]:g}), which no covariance has: the file is "
            "damaged or holds something else. Compute it again."
        )
    return factor


def _trace_by_sqrtm(one: np.ndarray, two: np.ndarray, eps: float) -> float:
    """Returns Tr((S_1 S_2)^(1/2)) as the original code did."""
    root = _sqrtm(one @ two)
    if not np.isfinite(root).all():
        _log.warning("sqrtm is not finite; adding %g to the diagonals", eps)
        offset = eps * np.eye(len(one))
        root = _sqrtm((one + offset) @ (two + offset))
        if not np.isfinite(root).all():
            raise InputError(
                "sqrtm found no finite root. Use the method 'eigen', which needs none."
            )
    if np.iscomplexobj(root):
        if not np.allclose(np.diagonal(root).imag, 0.0, atol=1e-3):
            raise InputError(
                f"Imaginary component {np.abs(root.imag).max():g}: sqrtm found no real "
                "root. Use the method 'eigen', which is real by construction."
            )
        root = root.real
    return float(np.trace(root))


def _sqrtm(matrix: np.ndarray) -> np.ndarray:
    with warnings.catch_warnings():
        # SciPy warns of singular matrices; the original code silenced that as well.
        warnings.simplefilter("ignore", scipy.linalg.LinAlgWarning)
        return scipy.linalg.sqrtm(matrix)


def _small(statistics: Statistics) -> list[str]:
    n, d = statistics.n, statistics.dimension
    if n is None:
        return []
    if n <= d:
        return [
            f"{statistics.label} has {n} images for {d} features: its covariance is "
            f"rank-deficient and the distance biased upwards; use {_FEW:,} or more"
        ]
    if n < _FEW and d >= 2048:
        return [
            f"{statistics.label} has {n:,} images: the distance is biased upwards; "
            f"use {_FEW:,} or more"
        ]
    return []
