"""Realism: a score for each generated image (Kynkäänniemi et al. 2019, section 5)."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from fid.files import InputError
from fid.metrics.in_balls import InBalls, MeanOverImages, in_balls
from fid.metrics.metric import Measured
from fid.metrics.neighbours import Neighbourhoods

__all__ = ["Realism", "realism_scores"]


@dataclasses.dataclass(frozen=True)
class Realism(InBalls):
    """The mean of the generated images' realism as a metric."""

    key, other_key = "realism", "ball_realism"
    name, other_name = "Realism", "realism"
    own = "kynkaanniemi"

    def __call__(self, first: Measured, second: Measured) -> MeanOverImages:
        """Returns the mean of `realism_scores`."""
        return MeanOverImages.of(_scores(self.found(first, second)))


def realism_scores(
    generated: np.ndarray,
    real: np.ndarray,
    *,
    variant: str = "kynkaanniemi",
    **options: Any,
) -> np.ndarray:
    """Computes the realism of each generated image.

    It is the largest ratio, over the real images, of the radius of a real image's ball
    to the distance from it (Kynkäänniemi et al. 2019, section 5): at least 1 for an
    image in a ball. Real images whose ball is not smaller than the median do not count,
    since such a ball lies in empty space. The distance of a copy counts as the least
    that rounding can tell from zero, so its score is large and finite.

    Args:
        generated: Features of the generated images, (m, d), floating point, finite.
        real: Those of the real images, (n, d).
        variant: As for `precision_recall`.
        **options: Likewise.

    Returns:
        The scores in the order of the images, float64 (m,), above 0.

    Raises:
        InputError: As for `precision_recall`; or no ball is smaller than the median.

    Example:
        >>> import numpy as np
        >>> from fid.metrics.realism import realism_scores
        >>> real = np.array([[0.0], [1.0], [4.0], [9.0]])  # radii 1, 1, 3, 5
        >>> realism_scores(np.array([[2.0], [6.0]]), real, neighbours=1)
        array([1. , 0.2])
    """
    return _scores(in_balls(generated, real, variant=variant, **options))


def _scores(found: Neighbourhoods) -> np.ndarray:
    if found.realism is None:
        raise InputError(
            "Realism takes the real images whose ball is smaller than the median, and "
            "there is none: half of the balls or more are equal, or points. Look at "
            "how the images were made, or choose other neighbours."
        )
    return found.realism
