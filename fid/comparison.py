"""The metrics of two sets, by name, as lines and as JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from fid.metrics import METRICS
from fid.metrics.inception_score import InceptionScore
from fid.metrics.kernel import KernelDistance
from fid.metrics.metric import extractor_name
from fid.statistics import Statistics

__all__ = ["Comparison"]


@dataclasses.dataclass(frozen=True)
class Comparison:
    """The metrics of two sets, and what they rest on.

    Attributes:
        results: What each metric that was asked for returned, by its key.
        first: Statistics of the first set.
        second: Statistics of the second set.
        warnings: What a reader of the numbers should know, a sentence each.
        further: Statistics of the sets that metrics took beside the two, by their
            names, such as `train`.

    Example:
        >>> import numpy as np
        >>> import fid
        >>> one = fid.Statistics(mu=np.zeros(2), sigma=np.eye(2))
        >>> two = fid.Statistics(mu=np.array([3.0, 4.0]), sigma=np.eye(2))
        >>> comparison = fid.compare(one, two)
        >>> comparison.lines()
        ['frechet: 25.000000']
        >>> list(comparison.values())
        ['frechet']
    """

    results: Mapping[str, Any]
    first: Statistics
    second: Statistics
    warnings: tuple[str, ...]
    further: Mapping[str, Statistics] = dataclasses.field(default_factory=dict)

    @property
    def value(self) -> float | None:
        """The Fréchet distance; None if it was not asked for."""
        return self.results.get("fid")

    @property
    def kernel(self) -> KernelDistance | None:
        """The kernel distance (KID), if asked for."""
        return self.results.get("kid")

    @property
    def score(self) -> InceptionScore | None:
        """The Inception Score of the first set, if asked for."""
        return self.results.get("is")

    @property
    def metric(self) -> str:
        """What the Fréchet distance is called here."""
        return self.name("fid")

    def name(self, metric: str) -> str:
        """Says what a metric is called on the extractor of these two sets.

        Args:
            metric: Its key, such as `fid`, `kid` or `is`.

        Returns:
            For `fid`: `fid` for the 2015 graph, `frechet_<extractor>` otherwise, or
            `frechet` where the files do not say; see `Metric.metric_name`.
        """
        extractors = map(extractor_name, (self.first, self.second))
        return METRICS[metric].metric_name(*extractors)

    def title(self, metric: str) -> str:
        """Returns the name of a metric as it is printed: `FID`, `frechet_pixels`."""
        name, found = self.name(metric), METRICS[metric]
        return (found.abbreviation or found.name) if name == metric else name

    def values(self) -> dict[str, float]:
        """Returns every number by its name, such as `fid`, `kid_mean`, `is_std`."""
        found: dict[str, float] = {}
        for metric, result in self.results.items():
            found |= METRICS[metric].values(result, self.name(metric))
        return found

    def lines(self) -> list[str]:
        """Returns what is printed for people: `FID: 12.345678`."""
        return [
            line
            for metric, result in self.results.items()
            for line in METRICS[metric].lines(result, self.title(metric))
        ]

    def as_json(self) -> dict[str, Any]:
        """Returns the values and the protocol, JSON-able."""
        return {
            **self.values(),
            "sets": [
                {"label": s.label, "n": s.n, "provenance": s.provenance}
                for s in (self.first, self.second)
            ]
            + [
                {"role": name, "label": s.label, "n": s.n, "provenance": s.provenance}
                for name, s in self.further.items()
            ],
            "warnings": list(self.warnings),
        }
