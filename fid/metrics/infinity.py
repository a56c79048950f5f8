"""The Fréchet distance of infinitely many images, extrapolated (FID-infinity)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import scipy.linalg

from fid.files import InputError
from fid.metrics.frechet import check_comparable, factor
from fid.metrics.influence import influences, variance_of_mean, why_none
from fid.metrics.metric import Error, Measured, Metric, checked_features, option
from fid.metrics.transport import transport
from fid.statistics import Statistics

if TYPE_CHECKING:
    from fid.sources.source import Source

__all__ = ["Extrapolation", "Infinity", "frechet_infinity"]

_POINTS = 15
# So many images are taken at a time.
_BLOCK = 1024
# The smallest subset has a tenth of the images, and no more than these.
_SMALLEST = 5000
# With fewer images all subsets are of one size, and there is no line through them.
_LEAST = 3


@dataclasses.dataclass(frozen=True)
class Extrapolation:
    """What `frechet_infinity` returns.

    Attributes:
        value: The distance where 1 / size is 0.
        slope: The bias of the distance of n images is about `slope` / n.
        sizes: Sizes of the 15 subsets, ascending.
        distances: Their distances from the reference.
    """

    value: float
    slope: float
    sizes: tuple[int, ...]
    distances: tuple[float, ...]

    def regression_error(self) -> float:
        """Returns the standard error of the intercept, from the points' residuals."""
        inverse = 1.0 / np.array(self.sizes)
        residuals = np.array(self.distances) - self.value - self.slope * inverse
        variance = residuals @ residuals / (len(inverse) - 2)
        return float(np.sqrt(variance) * np.linalg.norm(_weights(self.sizes)))


@dataclasses.dataclass(frozen=True)
class Infinity(Metric):
    """The extrapolated distance as a metric: FID-infinity on the 2015 graph."""

    key, other_key = "fid_infinity", "infinity"
    name, other_name = "FID-infinity", "extrapolated Fréchet distance"
    needs = ("features",)
    needs_of_second = ("statistics",)
    error_needs = ("features",)
    remark = "the FID of infinitely many images of A, extrapolated"

    seed: int = option(0, "Seed of FID-infinity's subsets.", least=0, most=2**32 - 1)

    def check(self, sets: Sequence[Statistics | Source]) -> None:
        """Refuses fewer images than a line can be laid through."""
        super().check(sets)
        first = sets[0]
        count = first.n if isinstance(first, Statistics) else first.count
        if count is not None and count < _LEAST:
            raise InputError(
                f"FID-infinity takes subsets of several sizes, and {first.label} has "
                f"{count} images; give at least {_LEAST}, better 50,000."
            )

    def __call__(self, first: Measured, second: Measured) -> Extrapolation:
        """Returns `frechet_infinity` of the first set."""
        return frechet_infinity(first.features, second.statistics, seed=self.seed)

    def with_errors(
        self, first: Measured, second: Measured
    ) -> tuple[Extrapolation, tuple[Error, ...]]:
        """Returns the distance, its standard error, and that of the regression.

        The intercept is a sum of the points' distances with weights w, which sum to 1.
        To first order a distance varies by the mean of phi, the influence function
        (`fid.metrics.influence`), over its subset. Two subsets that are drawn apart
        from m images share what those m vary by, var(phi) / m; each has for itself
        var(phi) (1 / n_k - 1 / m). So the intercept has the variance
        var(phi) (1 / m + sum w_k² (1 / n_k - 1 / m)), and the reference adds its own.

        The residuals of the line know nothing of what all subsets share: their error is
        only how far another seed would bring the intercept.
        """
        result = self(first, second)
        regression = Error(
            result.regression_error(),
            "residuals of the regression: what the draw of the subsets adds, alone",
            kind="regression_error",
        )
        one, two = first.statistics, second.statistics
        found = transport(one, two)
        if found is None:
            return result, (Error(None, why_none(one, two)), regression)
        sizes = np.array(result.sizes)
        spread = 1.0 + _weights(sizes) ** 2 @ (sizes[-1] / sizes - 1.0)
        phi = influences(first.features, one, two, found.forward)
        variance = spread * variance_of_mean(phi)
        origin = "influence function of both sets, and the draw of the subsets"
        if second.features is None:
            origin = (
                "influence function of the images of A alone, and the draw of the "
                "subsets; the statistics of B are taken as exact"
            )
        else:
            phi = influences(second.features, two, one, found.back)
            variance += variance_of_mean(phi)
        if result.sizes[0] <= 2 * one.dimension:
            origin += "; rough, since the smallest subset has no more than 2 d images"
        return result, (Error(float(np.sqrt(variance)), origin), regression)

    def warnings(self, first: Measured, second: Measured) -> list[str]:
        """Says that subsets are too small for a straight line."""
        (m, d), smallest = first.features.shape, _sizes(len(first.features))[0]
        if smallest > 2 * d:
            return []
        return [
            f"the smallest subset of FID-infinity has {smallest:,} of the {m:,} images "
            f"of {first.statistics.label}, no more than 2 d for {d:,} features: so "
            "small ones do not lie on a line over 1 / n, and the value may be too low; "
            f"it has a tenth of the images, and at most {_SMALLEST:,}"
        ]

    @classmethod
    def values(cls, result: Extrapolation, name: str) -> dict[str, float]:
        """Returns the distance under the metric's name."""
        return {name: result.value}


def frechet_infinity(
    features: np.ndarray, reference: Statistics, *, seed: int = 0
) -> Extrapolation:
    """Extrapolates a Fréchet distance to infinitely many images of the first set.

    The distance of n images is too large by about a constant / n, and the constant is
    another one for each model, so that distances of few images may rank models wrongly
    (Chong and Forsyth 2020, Effectively unbiased FID and Inception Score). So the
    distance is taken of 15 random subsets, of sizes spread evenly from 5,000 (a tenth
    of the images, if that is less) to all of them, and a line is laid through it over
    1 / n, by least squares. The value is where the line meets 1 / n = 0. Sizes and
    draws are those of dgm-eval, whose draws are not seeded. The bias that the
    reference's number of images makes stays.

    It is quick for three reasons. With S_ref = F' F, all features are taken through F
    once, and the trace of a root is one of the eigenvalues of the subset's covariance
    after that. Sums over more than half of the images are those over all less those
    over the rest. And a subset of fewer images than features has a smaller matrix.

    Args:
        features: Of the first set, floating point (m, d), finite, m >= 3.
        reference: Statistics of the other set.
        seed: Seed of the subsets, 0 to 2**32 - 1.

    Returns:
        The distance, with the points that it was extrapolated from. It may be negative
        for equal distributions.

    Raises:
        InputError: The features or the reference cannot be used.

    Example:
        >>> import numpy as np
        >>> import fid
        >>> features = np.random.default_rng(0).normal(size=(2000, 16))
        >>> reference = fid.Statistics(mu=np.zeros(16), sigma=np.eye(16))
        >>> found = frechet_infinity(features, reference)
        >>> abs(found.value) < found.distances[-1] < found.distances[0]
        True
    """
    for each in Infinity.options():
        each.check(seed)
    features = checked_features(features, least=_LEAST)
    m = len(features)
    sizes = _sizes(m)
    random = np.random.RandomState(seed)
    chosen = np.zeros((_POINTS, m), bool)
    for row, size in zip(chosen, sizes, strict=True):
        row[random.choice(m, size, replace=False)] = True
    # All is centred by the mean of all images first, or a large mean would cost digits.
    mean = features.mean(axis=0, dtype=np.float64)
    check_comparable(Statistics(mean, np.eye(1), label="the first set"), reference)
    root = factor(reference).T
    own, squares = np.zeros((_POINTS, len(mean))), np.zeros(_POINTS)
    through = np.empty((m, root.shape[1]))
    for start in range(0, m, _BLOCK):
        rows = slice(start, start + _BLOCK)
        centred = features[rows] - mean
        own += chosen[:, rows] @ centred
        squares += chosen[:, rows] @ np.einsum("nd,nd->n", centred, centred)
        through[rows] = centred @ root
    own /= sizes[:, np.newaxis]
    traces = squares - sizes * np.einsum("kd,kd->k", own, own)
    way = own + (mean - reference.mu)
    distances = np.einsum("kd,kd->k", way, way)
    distances += traces / (sizes - 1) + np.trace(reference.sigma)
    distances -= 2.0 * _traces_of_roots(through, chosen)
    slope, value = np.polyfit(1.0 / sizes, distances, 1)
    points = tuple(sizes.tolist()), tuple(distances.tolist())
    return Extrapolation(float(value), float(slope), *points)


def _sizes(m: int) -> np.ndarray:
    """Returns the sizes of the subsets of m images."""
    return np.linspace(min(_SMALLEST, max(m // 10, 2)), m, _POINTS).astype(int)


def _traces_of_roots(through: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Returns Tr((S_k S_ref)^(1/2)) of each subset k.

    Args:
        through: All features, centred, times F': float64 (m, r).
        chosen: Which of them each subset has, booleans (subsets, m).
    """
    m, rank = through.shape
    found = np.zeros(len(chosen))
    if not rank:
        return found
    every = _products(through) if m > rank else None
    for k, some in enumerate(chosen):
        n = int(some.sum())
        total = some @ through
        if n <= rank:
            product = _products((through[some] - total / n).T)
        else:
            if 2 * n <= m:
                product = _products(through[some])
            else:
                product = every - _products(through[~some]) if n < m else every.copy()
            product -= np.outer(total, total / n)
        values = scipy.linalg.eigvalsh(
            product, lower=True, overwrite_a=True, check_finite=False
        )
        # What is below zero is a zero and rounding.
        found[k] = np.sqrt(np.maximum(values, 0.0) / (n - 1)).sum()
    return found


def _products(rows: np.ndarray) -> np.ndarray:
    """Returns the lower triangle of rows' rows, by BLAS's syrk."""
    if rows.flags.c_contiguous:
        return scipy.linalg.blas.dsyrk(1.0, rows.T, lower=1)
    return scipy.linalg.blas.dsyrk(1.0, rows, trans=1, lower=1)


def _weights(sizes: Sequence[int]) -> np.ndarray:
    """Returns what the distances are multiplied by in the intercept, sum 1."""
    inverse = 1.0 / np.array(sizes)
    away = inverse - inverse.mean()
    return 1.0 / len(sizes) - inverse.mean() * away / (away @ away)
