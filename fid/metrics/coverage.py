"""Density and coverage by neighbours (Naeem et al. 2020).

Density counts in how many balls of real images a generated image lies, over the k that
are usual. Coverage is the share of real images whose ball holds a generated one. Balls
are those of real images alone, so one strange generated image changes little.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from fid.metrics.in_balls import InBalls, MeanOverImages, in_balls
from fid.metrics.metric import Measured
from fid.metrics.neighbours import Neighbourhoods

__all__ = ["Coverage", "Density", "DensityCoverage", "density_coverage"]


@dataclasses.dataclass(frozen=True)
class DensityCoverage:
    """What `density_coverage` returns.

    Attributes:
        density: Mean over the generated images of the balls that each lies in, over k.
            Around 1 for images like the real ones; it may be above.
        coverage: Share of the real images whose ball holds a generated image.
    """

    density: MeanOverImages
    coverage: MeanOverImages


@dataclasses.dataclass(frozen=True)
class Density(InBalls):
    """Density as a metric."""

    key, other_key = "density", "ball_density"
    name, other_name = "Density", "density"
    own = "prdc"

    def __call__(self, first: Measured, second: Measured) -> MeanOverImages:
        """Returns how many balls of the second set an image of the first is in."""
        return _density(self.found(first, second))


@dataclasses.dataclass(frozen=True)
class Coverage(InBalls):
    """Coverage as a metric."""

    key, other_key = "coverage", "ball_coverage"
    name, other_name = "Coverage", "coverage"
    own = "prdc"
    origin = "spread over the images of B; the balls are taken as exact"

    def __call__(self, first: Measured, second: Measured) -> MeanOverImages:
        """Returns the share of the second set whose balls hold one of the first."""
        return MeanOverImages.of(self.found(first, second).covered)


def density_coverage(
    generated: np.ndarray, real: np.ndarray, *, variant: str = "prdc", **options: Any
) -> DensityCoverage:
    """Computes density and coverage of generated images.

    See Naeem et al. 2020, Reliable Fidelity and Diversity Metrics for Generative
    Models, section 3.

    Args:
        generated: Features of the generated images, (m, d), floating point, finite.
        real: Those of the real images, (n, d).
        variant: `prdc` (k = 5, <), `kynkaanniemi` (k = 3, <=) or `adm` (k = 3, <=,
            float16).
        **options: As for `precision_recall`.

    Returns:
        Both, with standard errors.

    Raises:
        InputError: As for `precision_recall`.

    Example:
        >>> import numpy as np
        >>> from fid.metrics.coverage import density_coverage
        >>> real = np.array([[0.0], [1.0], [2.0], [3.0]])
        >>> found = density_coverage(np.array([[0.5], [1.5]]), real, neighbours=1)
        >>> found.density.mean, found.coverage.mean
        (2.0, 0.75)
    """
    found = in_balls(generated, real, variant=variant, **options)
    return DensityCoverage(_density(found), MeanOverImages.of(found.covered))


def _density(found: Neighbourhoods) -> MeanOverImages:
    return MeanOverImages.of(found.within / found.balls.neighbours)
