"""The sliced Wasserstein distance of features (MIND)."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from fid.files import InputError
from fid.metrics.influence import variance_of_mean
from fid.metrics.metric import Error, Measured, Metric, checked_features, option

__all__ = ["Mind", "mind"]

# So many images are centred at a time.
_ROWS = 1024
# So many directions are taken at a time: 5,000 images then take 5 MB.
_BLOCK = 250


@dataclasses.dataclass(frozen=True)
class Mind(Metric):
    """The Monge distance on features of the 2015 graph (MIND)."""

    key, other_key = "mind", "monge"
    name, other_name = "Monge Inception Distance", "sliced Wasserstein distance"
    abbreviation = "MIND"
    needs = ("features",)

    mind_directions: int = option(1000, "MIND's random directions.", least=2)
    seed: int = option(
        0,
        "Seed of MIND's directions, and of the images it takes of the larger set.",
        least=0,
        most=2**32 - 1,
    )

    def __call__(self, first: Measured, second: Measured) -> float:
        """Returns `mind` of the two sets."""
        return mind(
            first.features,
            second.features,
            directions=self.mind_directions,
            seed=self.seed,
        )

    def with_errors(
        self, first: Measured, second: Measured
    ) -> tuple[float, tuple[Error, ...]]:
        """Returns the distance, its standard error, and that of the directions.

        The standard error is the one over the images. On a line, the derivative of the
        squared Wasserstein distance towards one image at x is f(x) less the mean of f,
        where f' = 2 (x - where the transport takes x); f is summed up along the sorted
        images by the rule of trapezoids, and averaged over the directions.

        Directions from another seed give another value: by how much is their own error.
        It does not count where two values of one seed are compared.
        """
        work = _Projections(
            first.features, second.features, self.mind_directions, self.seed
        )
        n = work.count
        of_first, of_second, each = np.zeros(n), np.zeros(n), []
        rows = np.arange(work.block)[:, np.newaxis]
        for x, y in work.pairs():
            orders = x.argsort(axis=1), y.argsort(axis=1)
            x, y = (
                z[rows[: len(z)], order]
                for z, order in zip((x, y), orders, strict=True)
            )
            way = x.astype(np.float64) - y
            each.append(np.mean(way**2, axis=1))
            for total, own, sign, order in (
                (of_first, x, 1.0, orders[0]),
                (of_second, y, -1.0, orders[1]),
            ):
                potential = np.zeros_like(way)
                np.cumsum(
                    sign * (way[:, 1:] + way[:, :-1]) * np.diff(own, axis=1),
                    axis=1,
                    out=potential[:, 1:],
                )
                potential -= potential.mean(axis=1, keepdims=True)
                total += np.bincount(order.ravel(), potential.ravel(), minlength=n)
        each = work.scale * np.concatenate(each)
        scale = work.scale / self.mind_directions
        variance = sum(variance_of_mean(scale * phi) for phi in (of_first, of_second))
        images = "influence function of both sets, for these directions"
        others = "deviation over the directions / root of their number"
        spread = float(each.std(ddof=1) / np.sqrt(len(each)))
        return float(each.mean()), (
            Error(float(np.sqrt(variance)), images),
            Error(spread, others, kind="direction_error"),
        )


def mind(
    x: np.ndarray, y: np.ndarray, *, directions: int = 1000, seed: int = 0
) -> float:
    """Computes the Monge distance between two sets of features.

    On a line, the optimal transport takes the i-th smallest of n numbers to the i-th
    smallest of n others. So both sets are projected onto random unit vectors u, and
    the value is 3 d times the mean over u and i of (sort(X u)_i - sort(Y u)_i)²: the
    sliced Wasserstein distance, with a factor that makes up for the projection. Unlike
    the Fréchet distance it sees more than means and covariances, needs no full rank,
    and has little bias with few images (arXiv 2605.06797; torch-fidelity 0.5 as MIND).

    The directions are normal numbers of `RandomState(seed)`, scaled to length 1.
    torch-fidelity's come from another generator, so its values are equal only as far as
    1,000 directions tell: see the error of the directions.

    Args:
        x: Features of the first set, floating point (n, d), finite.
        y: Those of the second one, (m, d). Of the larger set as many are taken, at
            random, as the smaller one has.
        directions: How many directions.
        seed: Seed of the directions and of the choice, 0 to 2**32 - 1.

    Returns:
        The distance, >= 0, and 0 for equal sets.

    Raises:
        InputError: The features cannot be used, or an option is out of bounds.

    Example:
        >>> import numpy as np
        >>> x = np.random.default_rng(0).normal(size=(500, 4))
        >>> mind(x, x)
        0.0
        >>> far = np.array([3.0, 0.0, 0.0, 0.0])  # 3 d |far|² E u_1² is 3 * 9
        >>> 25 < mind(x, x + far) < 29
        True
    """
    for each, value in zip(Mind.options(), (directions, seed), strict=True):
        dataclasses.replace(each, name=each.name.removeprefix("mind_")).check(value)
    work = _Projections(x, y, directions, seed)
    total = 0.0
    for one, two in work.pairs():
        one.sort(axis=1)
        two.sort(axis=1)
        one -= two
        total += np.einsum("un,un->", one, one, dtype=np.float64)
    return float(work.scale * total / (directions * work.count))


class _Pair(NamedTuple):
    x: np.ndarray
    y: np.ndarray


class _Projections:
    """Both sets, of one size, on all directions, some of these at a time."""

    def __init__(self, x: np.ndarray, y: np.ndarray, directions: int, seed: int):
        x, y = checked_features(x, "first"), checked_features(y, "second")
        if x.shape[1] != y.shape[1]:
            raise InputError(
                f"The first set has {x.shape[1]} features an image and the second "
                f"{y.shape[1]}: they come from different extractors. Use one for both."
            )
        random = np.random.RandomState(seed)
        self.count, dimension = min(len(x), len(y)), x.shape[1]
        self.block, self.scale = _BLOCK, 3.0 * dimension
        x, y = (
            z
            if len(z) == self.count
            else z[random.choice(len(z), self.count, replace=False)]
            for z in (x, y)
        )
        self._directions = random.normal(size=(directions, dimension))
        self._directions /= np.linalg.norm(self._directions, axis=1, keepdims=True)
        # A large mean would cost digits of the differences: it is taken off both.
        mean = x.mean(axis=0, dtype=np.float64)
        kind = np.result_type(x, y)
        self._sets = [_centred(z, mean, kind) for z in (x, y)]
        self._directions = self._directions.astype(kind)

    def pairs(self) -> Iterator[_Pair]:
        """Yields arrays (directions of a block, images), which are the caller's."""
        for start in range(0, len(self._directions), _BLOCK):
            some = self._directions[start : start + _BLOCK]
            yield _Pair(*(some @ z.T for z in self._sets))


def _centred(x: np.ndarray, mean: np.ndarray, kind: np.dtype) -> np.ndarray:
    """Returns x less a mean in float64, with no float64 copy of the whole of it."""
    found = np.empty(x.shape, kind)
    for start in range(0, len(x), _ROWS):
        found[start : start + _ROWS] = x[start : start + _ROWS] - mean
    return found
