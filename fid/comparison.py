"""The metrics of two sets, by name, as lines and as JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fid.metrics import METRICS
from fid.metrics.inception_score import InceptionScore
from fid.metrics.kernel import KernelDistance
from fid.metrics.metric import Error, extractor_name
from fid.statistics import Statistics

__all__ = ["Comparison", "Influences"]


@dataclasses.dataclass(frozen=True)
class Influences:
    """The images of the first set that move the Fréchet distance most.

    Attributes:
        highest: Names (or numbers, counted from 0, where the source has no names) of
            those that raise it most, the most first, with phi / n each: by so much the
            distance falls without the image, to first order.
        lowest: Those that lower it most, the most first.
    """

    highest: tuple[tuple[str | int, float], ...]
    lowest: tuple[tuple[str | int, float], ...]

    @classmethod
    def of(cls, phi: np.ndarray, names: Sequence[str] | None, count: int) -> Influences:
        """Returns the first and the last ones of a ranking.

        Args:
            phi: The influence of each image; see `fid.influence`.
            names: Their names, if they have any.
            count: How many to name, of those that raise the distance and of those that
                lower it.

        Returns:
            At most `count` of each; of equal ones the first ones.
        """

        def ranked(sign: float) -> tuple[tuple[str | int, float], ...]:
            order = np.argsort(-sign * phi, kind="stable")[:count]
            return tuple(
                (names[i] if names else int(i), float(phi[i] / len(phi)))
                for i in order
                if sign * phi[i] > 0
            )

        return cls(ranked(1.0), ranked(-1.0))

    def lines(self) -> list[str]:
        """Returns what is printed for people: `influence +0.0125: 007.png`."""
        return [
            f"influence {value:+.6g}: {name}"
            for name, value in (*self.highest, *self.lowest)
        ]

    def as_json(self) -> dict[str, Any]:
        """Returns the same, JSON-able."""
        return {
            field: [{"image": name, "influence": value} for name, value in images]
            for field, images in (("highest", self.highest), ("lowest", self.lowest))
        }


@dataclasses.dataclass(frozen=True)
class Comparison:
    """The metrics of two sets, and what they rest on.

    Attributes:
        results: What each metric that was asked for returned, by its key.
        first: Statistics of the first set.
        second: Statistics of the second set.
        warnings: What a reader of the numbers should know, a sentence each.
        errors: What was found of their standard errors and biases, by the metric's key,
            if they were asked for.
        influences: Which images move the distance most, if that was asked for.
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
    errors: Mapping[str, tuple[Error, ...]] = dataclasses.field(default_factory=dict)
    influences: Influences | None = None
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

    def error_values(self) -> dict[str, float]:
        """Returns every error that is known, such as `fid_standard_error`."""
        return {
            error.name(self.name(metric)): error.value
            for metric, errors in self.errors.items()
            for error in errors
            if error.value is not None
        }

    def lines(self) -> list[str]:
        """Returns what is printed for people: `FID: 12.345678`."""
        found: list[str] = []
        for metric, result in self.results.items():
            title, errors = self.title(metric), self.errors.get(metric)
            if errors:
                found += METRICS[metric].lines_with_errors(result, errors, title)
            else:
                found += METRICS[metric].lines(result, title)
        return found + (self.influences.lines() if self.influences else [])

    def as_json(self) -> dict[str, Any]:
        """Returns the values and the protocol, JSON-able.

        `errors` says how each error came about, or why there is none.
        """
        origins = {
            error.name(self.name(metric)): error.origin
            for metric, errors in self.errors.items()
            for error in errors
        }
        return {
            **self.values(),
            **self.error_values(),
            **({"errors": origins} if origins else {}),
            **({"influences": self.influences.as_json()} if self.influences else {}),
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
