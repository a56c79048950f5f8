"""The Fréchet distance of features that are taken as independent of each other."""

from __future__ import annotations

import dataclasses

import numpy as np

from fid.files import InputError
from fid.metrics.frechet import check_comparable
from fid.metrics.influence import variance_of_mean
from fid.metrics.metric import Error, Measured, Metric
from fid.statistics import Statistics

__all__ = ["Diagonal"]

# So many images are taken at a time.
_BLOCK = 1024


@dataclasses.dataclass(frozen=True)
class Diagonal(Metric):
    """The distance with the diagonals of the covariances alone.

    |mu_1 - mu_2|² + sum_i (s_1i - s_2i)², s being the standard deviation of a feature:
    as TF-GAN's `diagonal_only_frechet_classifier_distance`, whose variances have the
    divisor n, where here it is n - 1. It needs no matrix of full rank, and sees no
    change of how features go together.
    """

    key, other_key = "fid_diagonal", "diagonal"
    name, other_name = "FID of the diagonals", "Fréchet distance of the diagonals"
    error_needs = ("features",)
    remark = "TF-GAN's diagonal-only distance"

    def __call__(self, first: Measured, second: Measured) -> float:
        """Returns the distance."""
        one, two = first.statistics, second.statistics
        check_comparable(one, two)
        shift, wider = one.mu - two.mu, _deviations(one) - _deviations(two)
        return float(shift @ shift + wider @ wider)

    def with_errors(
        self, first: Measured, second: Measured
    ) -> tuple[float, tuple[Error, ...]]:
        """Returns the distance and its standard error, by its influence function.

        For each feature it is the one of `fid.metrics.influence`: there the transport
        is a multiplication by s_2i / s_1i. A feature that is the same in all images of
        a set adds nothing of its covariance.
        """
        value = self(first, second)
        variance, letters = 0.0, ""
        for letter, each, other in (("A", first, second), ("B", second, first)):
            if each.features is None:
                continue
            own, theirs = each.statistics, other.statistics
            spread = _deviations(own)
            scale = np.divide(
                _deviations(theirs), spread, out=np.zeros_like(spread), where=spread > 0
            )
            phi = np.empty(len(each.features))
            for start in range(0, len(phi), _BLOCK):
                rows = slice(start, start + _BLOCK)
                way = each.features[rows] - own.mu
                phi[rows] = 2.0 * way @ (own.mu - theirs.mu) + way**2 @ (1.0 - scale)
            variance += variance_of_mean(phi)
            letters += letter
        if not letters:
            none = "neither set has its features; give images"
            return value, (Error(None, none),)
        origin = "influence function of both sets"
        if len(letters) == 1:
            other = "B" if letters == "A" else "A"
            origin = (
                f"influence function of the images of {letters} alone; the statistics "
                f"of {other} are taken as exact"
            )
        return value, (Error(float(np.sqrt(variance)), origin),)


def _deviations(statistics: Statistics) -> np.ndarray:
    variances = np.diag(statistics.sigma)
    if (variances < 0).any():
        raise InputError(
            f"The covariance of {statistics.label} has the variance "
            f"{variances.min():g} on its diagonal, which no covariance has: the file "
            "is damaged or holds something else. Compute it again."
        )
    return np.sqrt(variances)
