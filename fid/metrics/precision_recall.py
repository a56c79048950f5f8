"""Precision and recall by neighbours (Kynkäänniemi et al. 2019).

Precision is the share of generated images that lie in the ball around some real image;
recall is that of real images in the ball around some generated one. The first says how
good the images are, the second how much of the real ones' variety they have.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from fid.metrics.in_balls import InBalls, MeanOverImages, in_balls
from fid.metrics.metric import Measured

__all__ = ["Precision", "PrecisionRecall", "Recall", "precision_recall"]


@dataclasses.dataclass(frozen=True)
class PrecisionRecall:
    """What `precision_recall` returns.

    Attributes:
        precision: Share of the generated images that lie in a ball of a real image.
        recall: Share of the real images that lie in a ball of a generated image.
    """

    precision: MeanOverImages
    recall: MeanOverImages


@dataclasses.dataclass(frozen=True)
class Precision(InBalls):
    """Precision as a metric."""

    key, other_key = "precision", "ball_precision"
    name, other_name = "Improved Precision", "improved precision"
    abbreviation = "Precision"
    own = "kynkaanniemi"

    def __call__(self, first: Measured, second: Measured) -> MeanOverImages:
        """Returns the share of the first set in the balls of the second."""
        return MeanOverImages.of(self.found(first, second).within > 0)


@dataclasses.dataclass(frozen=True)
class Recall(InBalls):
    """Recall as a metric."""

    key, other_key = "recall", "ball_recall"
    name, other_name = "Improved Recall", "improved recall"
    abbreviation = "Recall"
    own = "kynkaanniemi"
    origin = "spread over the images of B; the balls are taken as exact"

    def __call__(self, first: Measured, second: Measured) -> MeanOverImages:
        """Returns the share of the second set in the balls of the first."""
        return MeanOverImages.of(self.found(first, second).reached)


def precision_recall(
    generated: np.ndarray,
    real: np.ndarray,
    *,
    variant: str = "kynkaanniemi",
    **options: Any,
) -> PrecisionRecall:
    """Computes precision and recall of generated images.

    The ball around an image reaches to its k-th nearest neighbour in its own set
    (Kynkäänniemi et al. 2019, Improved Precision and Recall Metric for Assessing
    Generative Models, section 2). Both values depend on how many images there
    are, so compare those of equal numbers alone.

    With `variant="adm"` the numbers are those of guided diffusion's evaluator, whose
    squared distances are rounded to float16: on features of the 2015 graph, to steps of
    0.25 or 0.5.

    Args:
        generated: Features of the generated images, (m, d), floating point, finite.
        real: Those of the real images, (n, d).
        variant: `kynkaanniemi` (k = 3, <=), `adm` (k = 3, <=, float16) or `prdc`
            (k = 5, <).
        **options: `neighbours` for another k; `distances="float32"` for `adm` without
            its rounding.

    Returns:
        Both, in [0, 1], with standard errors.

    Raises:
        InputError: An option, a shape or a value cannot be used, a set has no more
            images than neighbours, or all real images are equal.

    Example:
        >>> import numpy as np
        >>> from fid.metrics.precision_recall import precision_recall
        >>> real = np.random.default_rng(0).normal(size=(500, 8))
        >>> found = precision_recall(real[:250] / 2, real[250:])  # good, but alike
        >>> found.precision.mean > 0.95 > 0.5 > found.recall.mean
        True
    """
    found = in_balls(generated, real, variant=variant, **options)
    return PrecisionRecall(
        MeanOverImages.of(found.within > 0), MeanOverImages.of(found.reached)
    )
