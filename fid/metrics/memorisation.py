"""Does a generator repeat its training images? AuthPct and C_T.

AuthPct counts generated images that are no closer to a training image than training
images are to each other (Alaa et al. 2022). C_T compares how close generated images and
unseen ones are to the training images (Meehan et al. 2020).
"""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import scipy.cluster.vq
import scipy.linalg

from fid.files import InputError
from fid.metrics.in_balls import MeanOverImages, OverImages
from fid.metrics.metric import Error, Measured, Metric, option
from fid.metrics.neighbours import check_pair, nearest
from fid.statistics import Moments, Statistics

if TYPE_CHECKING:
    from fid.sources.source import Source

__all__ = ["Authenticity", "Copying", "authenticity", "copying"]

# Stein et al. 2023, Exposing flaws of generative model evaluation metrics and their
# unfair treatment of diffusion models.
_CAVEAT = (
    "{} cannot tell memorisation from little variety or too short a training (Stein et "
    "al. 2023): in features, images of common content look like copies, and a copy "
    "that was cropped or recoloured can look new; look at the nearest training images"
)
# Meehan et al. divide the training images into so many cells, of so many dimensions.
_CELLS = 3
_DIMENSIONS = 64
# So many images are projected at a time.
_BLOCK = 1024
# By then k-means has long settled.
_STEPS = 100
# A cell counts if more generated images than these lie in it.
_FEW = 20


@dataclasses.dataclass(frozen=True)
class Authenticity(OverImages):
    """AuthPct as a metric of the first set and the training set."""

    key, other_key = "authpct", "authenticity"
    name, other_name = "AuthPct", "authenticity"
    needs = ("features",)
    of_first = True
    further = ("train",)
    larger_is_better = True
    remark = "the percentage of A that are no copies of --train"
    origin = "spread over the images of A; the training images are taken as exact"

    def check_set(self, each: Statistics | Source) -> None:
        """Refuses a set without features, or of one image."""
        super().check_set(each)
        count = each.n if isinstance(each, Statistics) else each.count
        if count is not None and count < 2:
            raise InputError(
                f"AuthPct needs two images of a set, and {each.label} has {count}: add "
                "images."
            )

    def __call__(
        self, first: Measured, second: Measured, *, train: Measured
    ) -> MeanOverImages:
        """Returns `authenticity` of the first set."""
        return authenticity(first.features, train.features)

    def warnings(self, first: Measured, second: Measured) -> list[str]:
        """Says what a copy is here."""
        return [_CAVEAT.format(self.name)]


@dataclasses.dataclass(frozen=True)
class Copying(Metric):
    """C_T as a metric of the first set, the training set and the test set."""

    key, other_key = "ct", "copying"
    name, other_name = "C_T", "copying statistic"
    needs = ("features",)
    of_first = True
    further = ("train", "test")
    larger_is_better = None
    remark = "below 0 where A copies --train"

    seed: int = option(0, "Seed of C_T's cells.", least=0, most=2**32 - 1)

    def check(
        self, sets: Sequence[Statistics | Source], **further: Statistics | Source
    ) -> None:
        """Refuses too few generated images for any cell."""
        super().check(sets, **further)
        first = sets[0]
        count = first.n if isinstance(first, Statistics) else first.count
        if count is not None and count <= _FEW:
            raise InputError(
                f"C_T needs a cell with more than {_FEW} generated images, and "
                f"{first.label} has {count}: add images."
            )

    def __call__(
        self, first: Measured, second: Measured, *, train: Measured, test: Measured
    ) -> float:
        """Returns `copying` of the first set."""
        return copying(first.features, train.features, test.features, seed=self.seed)

    def with_errors(
        self, first: Measured, second: Measured, **further: Measured
    ) -> tuple[float, tuple[Error, ...]]:
        """Returns the statistic, and its standard deviation where nothing is copied.

        Each z-score then has the deviation 1, and shares no image with another one.
        """
        train, test = further["train"], further["test"]
        scores, weights = _scores_of_cells(
            first.features, train.features, test.features, seed=self.seed
        )
        origin = "its deviation where nothing is copied, in these cells"
        error = Error(float(np.linalg.norm(weights)), origin)
        return float(scores @ weights), (error,)

    def warnings(self, first: Measured, second: Measured) -> list[str]:
        """Says what a copy is here."""
        return [_CAVEAT.format(self.name)]


def authenticity(generated: np.ndarray, train: np.ndarray) -> MeanOverImages:
    """Computes the percentage of generated images that are no copies.

    Let t be the training image nearest to a generated one. That one is authentic if t
    has another training image nearer to it still (Alaa et al. 2022, How Faithful is
    your Synthetic Data?). What new images have depends on the features: of two draws of
    one distribution about 33 with one feature and 38 with two, and of a Gaussian with
    hundreds of features about 90. Compare with the AuthPct of images that the generator
    has not seen.

    Args:
        generated: Features of the generated images, (m, d), floating point, finite.
        train: Those of the training images, (n, d).

    Returns:
        The percentage, in [0, 100], with its standard error.

    Raises:
        InputError: A shape or a value cannot be used, or a set has one image.

    Example:
        >>> import numpy as np
        >>> from fid.metrics.memorisation import authenticity
        >>> train = np.array([[0.0], [1.0], [5.0]])
        >>> authenticity(np.array([[0.2], [3.1], [0.0], [9.5]]), train).mean
        25.0
    """
    generated, train = check_pair(generated, train, ("first", "training"))
    for which, each in (("first", generated), ("training", train)):
        if len(each) < 2:
            raise InputError(
                f"AuthPct needs two images of a set, and the {which} set has 1: add "
                "images."
            )
    chosen, apart = nearest(generated, train)
    # The nearest training images may be few: nothing is done for the others.
    each, place = np.unique(chosen, return_inverse=True)
    _, among_train = nearest(train[each], train, besides=each)
    return MeanOverImages.of(100.0 * (among_train[place] < apart))


def copying(
    generated: np.ndarray, train: np.ndarray, test: np.ndarray, *, seed: int = 0
) -> float:
    """Computes C_T: whether generated images are too close to the training images.

    Training images are divided into three cells by k-means, after a projection onto
    their first 64 principal components where they have more features. In each cell, the
    distances of generated images to the nearest training image are compared with those
    of test images by the z-score of Mann and Whitney's U. C_T is the mean of the
    z-scores, weighted with the cells' shares of the test images, over the cells with
    more than 20 generated images (Meehan et al. 2020, A Non-Parametric Test to Detect
    Data-Copying in Generative Models).

    Args:
        generated: Features of the generated images, (m, d), floating point, finite.
        train: Those of the training images, (n, d), n at least 3.
        test: Those of images like the training images, which were not trained with.
        seed: Of k-means, 0 to 2**32 - 1. Other cells give a somewhat different value.

    Returns:
        About 0 for images like the test images, far below 0 for copies, above 0 for
        images that are far from all training images. Where nothing is copied its
        standard deviation is sqrt(sum w²), w being the weights, whose sum is 1: 0.58
        for three cells of one size.

    Raises:
        InputError: A shape or a value cannot be used, there are too few training
            images, or no cell has enough images.

    Example:
        >>> import numpy as np
        >>> from fid.metrics.memorisation import copying
        >>> train, test, new = np.random.default_rng(0).normal(size=(3, 300, 4))
        >>> abs(copying(new, train, test)) < 3, copying(train, train, test) < -10
        (True, True)
    """
    scores, weights = _scores_of_cells(generated, train, test, seed=seed)
    return float(scores @ weights)


def _scores_of_cells(
    generated: np.ndarray, train: np.ndarray, test: np.ndarray, *, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the z-scores of the cells that count, and their weights, sum 1."""
    for each in Copying.options():
        each.check(seed)
    generated, train = check_pair(generated, train, ("first", "training"))
    test, _ = check_pair(test, train, ("test", "training"))
    generated, train, test = _projected(generated, train, test)
    different = len(np.unique(train, axis=0))
    if different < _CELLS:
        raise InputError(
            f"C_T divides the training images into {_CELLS} cells, and {different} of "
            "them are different: add images."
        )
    of_train, of_generated, of_test = _cells(train, generated, test, seed=seed)
    scores, weights = [], []
    for cell in range(_CELLS):
        inside, unseen = generated[of_generated == cell], test[of_test == cell]
        here = train[of_train == cell]
        if len(inside) <= _FEW or not len(unseen) or not len(here):
            continue
        _, apart = nearest(inside, here)
        _, usual = nearest(unseen, here)
        scores.append(_z_score(apart, usual))
        weights.append(len(unseen))
    if not scores:
        raise InputError(
            f"C_T needs a cell with more than {_FEW} generated images and a test "
            f"image; the {len(generated):,} generated and {len(test):,} test images "
            "have none: add images."
        )
    return np.array(scores), np.array(weights) / sum(weights)


def _projected(
    generated: np.ndarray, train: np.ndarray, test: np.ndarray
) -> list[np.ndarray]:
    """Returns all in float64, projected onto what varies most in the training set."""
    d = train.shape[1]
    sets = generated, train, test
    if d <= _DIMENSIONS:
        return [each.astype(np.float64) for each in sets]
    moments = Moments(d)
    moments.update(train)
    found = moments.statistics()
    count = min(_DIMENSIONS, len(train) - 1)
    _, axes = scipy.linalg.eigh(found.sigma, subset_by_index=[d - count, d - 1])
    return [_through(axes, each, found.mu) for each in sets]


def _through(axes: np.ndarray, x: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """Returns (x - mean) axes in float64, with no float64 copy of the whole of x."""
    found = np.empty((len(x), axes.shape[1]))
    for start in range(0, len(x), _BLOCK):
        rows = slice(start, start + _BLOCK)
        found[rows] = (x[rows] - mean) @ axes
    return found


def _cells(train: np.ndarray, *others: np.ndarray, seed: int) -> list[np.ndarray]:
    """Divides the training images into cells, and says which cell each image is in."""
    with warnings.catch_warnings():
        # Of few different images, a cell may stay empty; it then counts for nothing.
        warnings.simplefilter("ignore", UserWarning)
        midpoints, _ = scipy.cluster.vq.kmeans2(
            train, _CELLS, iter=_STEPS, minit="++", rng=np.random.default_rng(seed)
        )
    return [scipy.cluster.vq.vq(each, midpoints)[0] for each in (train, *others)]


def _z_score(x: np.ndarray, y: np.ndarray) -> float:
    """Returns Mann and Whitney's U of x, how often it is above y, as a z-score."""
    y = np.sort(y)
    below, not_above = (np.searchsorted(y, x, side) for side in ("left", "right"))
    u = (below.sum() + not_above.sum()) / 2
    pairs, count = len(x) * len(y), len(x) + len(y)
    # The half is the original code's, which has it from the test's correction for
    # continuity.
    return float((u - (pairs / 2 - 0.5)) / math.sqrt(pairs * (count + 1) / 12))
