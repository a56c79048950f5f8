"""How much each image moves the Fréchet distance: its influence function.

A sum over images, taken to first order, has a standard error, and a ranking of them.
"""

from __future__ import annotations

import numpy as np

from fid.files import InputError
from fid.metrics.transport import Transport, transport
from fid.statistics import Moments, Statistics

__all__ = [
    "bias_of",
    "influence",
    "influences",
    "variance_of_mean",
    "why_none",
    "why_too_few",
]

# So many images are taken at a time.
_BLOCK = 1024


def influence(features: np.ndarray, reference: Statistics | np.ndarray) -> np.ndarray:
    """Computes how each image of a set moves its Fréchet distance.

    The Fréchet distance is a function of the distribution of the features. Its
    derivative towards one image x of the first set (the influence function) is

        phi(x) = 2 (mu_1 - mu_2)·(x - mu_1) + (x - mu_1)' (1 - T) (x - mu_1)
                 - tr((1 - T) S_1)

    with T the optimal transport from the first Gaussian to the second one: half the
    gradient of phi is the way back along that transport (Villani, Optimal Transport,
    2009, theorem 10.28). An image with a large positive value raises the distance, one
    with a large negative value lowers it: without it, the distance of n images would
    change by about -phi / n. The mean over the images is 0, up to 1 / n.

    Args:
        features: Of the first set, floating point (n, d), n > d.
        reference: The other set: its statistics, or its features (m, d), m > d.

    Returns:
        phi of each image, float64 (n,).

    Raises:
        InputError: A covariance is singular, as it is with n <= d, or the features
            cannot be used.

    Example:
        >>> import numpy as np
        >>> import fid
        >>> features = np.array([[-1.0], [0.0], [1.0], [8.0]])
        >>> reference = fid.Statistics(mu=np.zeros(1), sigma=np.eye(1))
        >>> int(np.argmax(fid.influence(features, reference)))
        3
    """
    features = np.asarray(features)
    if features.ndim != 2:
        raise InputError(
            f"The features have the shape {features.shape}; expected (n, d)."
        )
    first = _statistics(features)
    second = reference
    if not isinstance(reference, Statistics):
        second = _statistics(np.asarray(reference))
    if first.dimension != second.dimension:
        raise InputError(
            f"The features have {first.dimension} dimensions and those of the "
            f"reference have {second.dimension}: they come from different extractors. "
            "Compute both with the same one."
        )
    found = transport(first, second)
    if found is None:
        raise InputError(f"{why_none(first, second)}: no image has an influence.")
    return influences(features, first, second, found.forward)


def influences(
    features: np.ndarray, own: Statistics, other: Statistics, root: np.ndarray
) -> np.ndarray:
    """Returns phi of each image of a set, of which the transport is known.

    Args:
        features: Of the set, (n, d). float32 is worked on as float32: what rounding
            then does to one value is far below what the values differ by.
        own: Statistics of the set.
        other: Those of the other set.
        root: W of the set's transport T = W W'.

    Returns:
        float64 (n,).
    """
    kind = features.dtype if features.dtype == np.float32 else np.float64
    root, shift = root.astype(kind), 2.0 * (own.mu - other.mu)
    found = np.empty(len(features))
    for start in range(0, len(features), _BLOCK):
        rows = slice(start, start + _BLOCK)
        way = features[rows] - own.mu
        moved = way.astype(kind) @ root
        found[rows] = way @ shift + np.einsum("nd,nd->n", way, way)
        found[rows] -= np.einsum("nd,nd->n", moved, moved)
    # tr((1 - T) S_1) is tr(S_1) less the sum of the roots of S_1 S_2, the mean of the
    # squares above: up to 1 / n it is what they have in common.
    return found - found.mean()


def variance_of_mean(values: np.ndarray) -> float:
    """Returns the variance of the mean of independent values."""
    return float(values.var(ddof=1) / len(values))


def bias_of(found: Transport, statistics: Statistics) -> float:
    """Returns how much too large a distance is, for n images of a set, on average.

    It is the second-order term for Gaussian features: tr(S) / n for the mean, and the
    curvature of the distance by the covariance, divided by n - 1.

    Args:
        found: The transport between the sets.
        statistics: Of the set, with its n.

    Returns:
        The set's share of the bias.
    """
    n = statistics.n
    return float(np.trace(statistics.sigma) / n + found.curvature() / (n - 1))


def why_none(first: Statistics, second: Statistics) -> str:
    """Says why there is no transport between two sets, and so no influence.

    Args:
        first: One set.
        second: The other, one of them with a singular covariance.

    Returns:
        A text without its full stop.
    """
    for each in (first, second):
        if why := why_too_few(each.label, each.n, each.dimension):
            return why
    return (
        f"the covariance of {first.label} or of {second.label} is singular, so there "
        "is no optimal transport"
    )


def why_too_few(label: str, count: int | None, dimension: int) -> str:
    """Says why there is no influence of so few images.

    Args:
        label: What the set is called.
        count: How many images it has; None where that is not known.
        dimension: How many features an image has.

    Returns:
        A text without its full stop; empty if there may be enough images.
    """
    if count is None or count > dimension:
        return ""
    return (
        f"{label} has {count} images for {dimension} features, so its covariance is "
        "singular, and there is no optimal transport; use more than "
        f"{2 * dimension:,}"
    )


def _statistics(features: np.ndarray) -> Statistics:
    moments = Moments(features.shape[-1] if features.ndim else 0)
    moments.update(features)
    return moments.statistics()
