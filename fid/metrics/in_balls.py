"""What the metrics of neighbours share: their options, their pass, their error bars.

Each asks which images of one set lie in the balls around those of the other. So they
have one set of options, and where several are asked for, one pass serves all.
"""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from fid.files import InputError
from fid.metrics.metric import Error, Measured, Metric, option
from fid.metrics.neighbours import (
    DISTANCES,
    VARIANTS,
    Balls,
    Neighbourhoods,
    balls_of,
    neighbourhoods,
    smallest,
)
from fid.statistics import Statistics

if TYPE_CHECKING:
    from fid.sources.source import Source

__all__ = [
    "InBalls",
    "MeanOverImages",
    "OverImages",
    "in_balls",
    "neighbourhoods_of",
]

_log = logging.getLogger(__name__)

# The variant that stands for the one of each metric's own paper.
_PAPER = "paper"
# Of so many balls that are points it is said that they are.
_MANY_POINTS = 1e-3


@dataclasses.dataclass(frozen=True)
class MeanOverImages:
    """A mean over the images of a set, with the error that their choice makes.

    Attributes:
        mean: The mean.
        standard_error: Standard deviation over the images (divisor n - 1) over sqrt(n).
            What the images are compared with is taken as given: of balls, it has
            nothing of the chance in where these are and how large.
    """

    mean: float
    standard_error: float

    @classmethod
    def of(cls, values: np.ndarray) -> MeanOverImages:
        """Returns the mean of a number for each image.

        Args:
            values: (n,), at least two numbers or booleans.

        Returns:
            The mean and its standard error.

        Example:
            >>> import numpy as np
            >>> MeanOverImages.of(np.array([True, False, True, False, True]))
            MeanOverImages(mean=0.6, standard_error=0.24494897427831783)
        """
        values = np.asarray(values, np.float64)
        error = values.std(ddof=1) / math.sqrt(len(values))
        return cls(float(values.mean()), float(error))


@dataclasses.dataclass(frozen=True)
class OverImages(Metric):
    """A metric that is a `MeanOverImages`: its result has its error already.

    Attributes:
        origin: How the error came about; see `Error`.
    """

    origin: ClassVar[str]

    def with_errors(
        self, first: Measured, second: Measured, **further: Measured
    ) -> tuple[MeanOverImages, tuple[Error, ...]]:
        """Returns the mean, and says how the standard error in it came about."""
        result = self(first, second, **further)
        return result, (Error(result.standard_error, self.origin),)

    @classmethod
    def lines(cls, result: MeanOverImages, name: str) -> list[str]:
        """Returns one line."""
        return [f"{name}: {result.mean:.6f} ± {result.standard_error:.6f}"]

    @classmethod
    def lines_with_errors(
        cls, result: MeanOverImages, errors: Sequence[Error], name: str
    ) -> list[str]:
        """Returns the same line, which has the error, and how it came about."""
        (line,), (error,) = cls.lines(result, name), errors
        return [f"{line} ({error.origin})"]


@dataclasses.dataclass(frozen=True)
class InBalls(OverImages):
    """A metric of who lies in whose balls; a subclass says which.

    The first set is the generated one.

    Attributes:
        own: The variant of the metric's own paper.
    """

    needs = ("features",)
    larger_is_better = True
    origin = "spread over the images of A; the balls are taken as exact"
    own: ClassVar[str]

    neighbours: int = option(
        0,
        "Neighbours that the ball around an image reaches to; 0 for as many as the "
        "variant has: 3, and 5 for prdc.",
        least=0,
    )
    variant: str = option(
        _PAPER,
        "Whose balls: those of guided diffusion's evaluator (adm), of Kynkäänniemi et "
        "al. or of prdc. With paper, precision, recall and realism have kynkaanniemi, "
        "density and coverage prdc.",
        choices=(_PAPER, *VARIANTS),
    )
    distances: str = option(
        DISTANCES[0],
        "How distances are rounded: as the variant does, or in another way. The "
        "variant adm has float16, as published numbers have, and may have float32; the "
        "others have float32.",
        choices=DISTANCES,
    )

    @property
    def balls(self) -> Balls:
        """What the balls of this metric are."""
        return self._balls(self.own)

    def _balls(self, own: str) -> Balls:
        variant = own if self.variant == _PAPER else self.variant
        return balls_of(variant, self.neighbours, self.distances)

    def check_set(self, each: Statistics | Source) -> None:
        """Refuses a set without features, or with too few images for its balls."""
        super().check_set(each)
        count = each.n if isinstance(each, Statistics) else each.count
        neighbours = self.balls.neighbours
        if count is not None and count <= neighbours:
            raise InputError(
                f"The balls of {self.name} reach to neighbour {neighbours:,}, and "
                f"{each.label} has {count:,} images: add images, or choose a smaller "
                "--neighbours."
            )

    def found(self, first: Measured, second: Measured) -> Neighbourhoods:
        """Finds out who lies in whose balls; once for all metrics with equal options.

        Args:
            first: The generated images.
            second: The real ones.

        Returns:
            What was found.

        Raises:
            InputError: The sets cannot be used.
        """
        fewest = min(len(first.features), len(second.features))
        # All metrics ask for the same, so that one pass serves them.
        kinds = dict.fromkeys(
            balls
            for balls in map(self._balls, VARIANTS)
            if balls == self.balls or (balls.neighbours < fewest and not balls.half)
        )
        all_found = neighbourhoods_of(first, second, tuple(kinds))
        (found,) = (each for each in all_found if each.balls == self.balls)
        return _with_balls(found)

    def warnings(self, first: Measured, second: Measured) -> list[str]:
        """Says of which images the balls are points."""
        labels = first.statistics.label, second.statistics.label
        return _on_points(self.found(first, second), *labels)


def in_balls(
    generated: np.ndarray,
    real: np.ndarray,
    *,
    variant: str,
    neighbours: int = 0,
    distances: str = "variant",
) -> Neighbourhoods:
    """Finds out which images of two sets lie in whose balls.

    Args:
        generated: Features of the generated images, (m, d), floating point, finite.
        real: Those of the real images, (n, d).
        variant: As for `neighbours.balls_of`.
        neighbours: Likewise.
        distances: Likewise.

    Returns:
        What was found.

    Raises:
        InputError: An option, a shape or a value cannot be used, a set has no more
            images than neighbours, or the balls of the real images are points.

    Example:
        >>> import numpy as np
        >>> real = np.arange(6.0)[:, None]
        >>> in_balls(real[:4] + 0.5, real, variant="prdc", neighbours=1).covered
        array([ True,  True,  True,  True,  True, False])
    """
    balls = balls_of(variant, neighbours, distances)
    (found,) = neighbourhoods(generated, real, [balls])
    for text in _on_points(_with_balls(found), "the first set", "the second set"):
        _log.warning("%s", text)
    return found


def _with_balls(found: Neighbourhoods) -> Neighbourhoods:
    if found.points["second"] == 1.0:
        raise InputError(
            f"Every image of the second set equals {found.balls.neighbours} others or "
            "more, so its balls are points: look at how the images were made, or "
            "choose more neighbours."
        )
    return found


def _on_points(found: Neighbourhoods, first: str, second: str) -> list[str]:
    """Says of which sets, by their labels, many balls are points."""
    return [
        f"{share:.1%} of the images of {label} have balls that are points, since "
        f"{found.balls.neighbours} others equal them, or nearly: rounding could not "
        "tell. Such a ball holds nothing else"
        for share, label in zip(
            (found.points["first"], found.points["second"]),
            (first, second),
            strict=True,
        )
        if share > _MANY_POINTS
    ]


def neighbourhoods_of(
    first: Measured, second: Measured, kinds: Sequence[Balls]
) -> list[Neighbourhoods]:
    """Returns `neighbours.neighbourhoods` of two sets, which are computed once.

    They are kept with the first set, and the distances within a set with that one. So
    metrics of the same sets share them, and reference images are compared with each
    other once in a whole training.

    Args:
        first: The generated images, with their features.
        second: The real ones, likewise.
        kinds: As for `neighbourhoods`.

    Returns:
        Likewise.

    Raises:
        InputError: Likewise.
    """
    key = ("neighbourhoods", *kinds)
    other, found = first.shared.get(key, (None, None))
    if other is not second:
        found = neighbourhoods(
            first.features,
            second.features,
            kinds,
            within_generated=_smallest_of(first, kinds, "first"),
            within_real=_smallest_of(second, kinds, "second"),
        )
        first.shared[key] = (second, found)
    return found


def _smallest_of(each: Measured, kinds: Sequence[Balls], which: str) -> np.ndarray:
    count, half = max(balls.neighbours for balls in kinds), kinds[0].half
    key = ("smallest", half)
    found = each.shared.get(key)
    if found is None or found.shape[1] < count:
        found = smallest(each.features, count, half=half, which=which)
        each.shared[key] = found
    return found
