"""The squared distance between the means: the Fréchet distance without covariances."""

from __future__ import annotations

import dataclasses

import numpy as np

from fid.metrics.frechet import check_comparable
from fid.metrics.metric import Error, Measured, Metric

__all__ = ["MeanOnly"]


@dataclasses.dataclass(frozen=True)
class MeanOnly(Metric):
    """|mu_1 - mu_2|², as TF-GAN's `mean_only_frechet_classifier_distance`.

    It needs no covariance, so it is of use where there are few images. It does not see
    whether a generator's images differ from each other.
    """

    key, other_key = "fid_mean_only", "mean_only"
    name, other_name = "FID of the means alone", "distance of the means alone"
    remark = "TF-GAN's mean-only distance"

    def __call__(self, first: Measured, second: Measured) -> float:
        """Returns the squared distance between the means."""
        one, two = first.statistics, second.statistics
        check_comparable(one, two)
        shift = one.mu - two.mu
        return float(shift @ shift)

    def with_errors(
        self, first: Measured, second: Measured
    ) -> tuple[float, tuple[Error, ...]]:
        """Returns the distance, its standard error and its bias.

        Its derivative by a mean is twice the shift v, so that a set's share of the
        variance is 4 v' S v / n; each set makes it too large by tr(S) / n. Both need
        the statistics alone, and no assumption.
        """
        sets = first.statistics, second.statistics
        value = self(first, second)
        counted = [each for each in sets if each.n is not None]
        if not counted:
            none = "no set says how many images it is of"
            return value, (Error(None, none), Error(None, none, kind="bias"))
        shift = sets[0].mu - sets[1].mu
        variance = sum(4.0 * shift @ each.sigma @ shift / each.n for each in counted)
        bias = sum(np.trace(each.sigma) / each.n for each in counted)
        rest = ""
        if len(counted) == 1:
            letter = "B" if counted[0] is sets[0] else "A"
            rest = f"; {letter} does not say of how many images it is: taken as exact"
        return value, (
            Error(float(np.sqrt(variance)), f"delta method{rest}"),
            Error(float(bias), f"exact for any distribution{rest}", kind="bias"),
        )
