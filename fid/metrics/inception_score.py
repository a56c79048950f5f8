"""The Inception Score of Salimans et al. 2016, as its original code computes it."""

from __future__ import annotations

import dataclasses
import math
import pathlib
import zipfile
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from fid.files import InputError, printable
from fid.metrics.metric import Error, Measured, Metric, option
from fid.npz import read_header, reading
from fid.statistics import Statistics

if TYPE_CHECKING:
    from fid.sources.source import Source

__all__ = [
    "InceptionScore",
    "Score",
    "ScoreSums",
    "inception_score",
    "score_error",
    "score_warnings",
]

# Parts of so few images that the score comes out this share too low are warned of.
_SHORT = 0.05
# An order that costs less of the score than this changes no conclusion.
_ORDER = 0.01
# A random order gives a warning of order once in so many sets.
_FALSE_ALARMS = 1e6
# What is worked on at a time of the logits of many images.
_BLOCK = 4096


@dataclasses.dataclass(frozen=True)
class InceptionScore:
    """What `inception_score` returns.

    Attributes:
        mean: Mean over the splits.
        std: Their standard deviation (divisor: their number).
    """

    mean: float
    std: float


@dataclasses.dataclass(frozen=True)
class Score(Metric):
    """The Inception Score as a metric, of the first set alone."""

    key, other_key = "is", "score"
    name, other_name = "Inception Score", "classifier score"
    abbreviation = "IS"
    needs = ("logits",)
    of_first = True
    larger_is_better = True
    remark = "the Inception Score of A"

    is_splits: int = option(
        10, "Parts that the Inception Score is averaged over.", least=1
    )

    def check(self, sets: Sequence[Statistics | Source]) -> None:
        """Refuses statistics, and fewer images than parts."""
        first = sets[0]
        if isinstance(first, Statistics):
            raise InputError(
                f"The Inception Score is one of images, and {first.label} holds "
                "statistics: give the images first, or leave out the metric `is`."
            )
        count = first.count
        if self.is_splits < 1 or (count is not None and count < self.is_splits):
            has = "" if count is None else f", and {first.label} has {count}"
            raise InputError(
                f"The Inception Score is to be taken over {self.is_splits} parts of "
                f"the images{has}: choose --is_splits from 1 to the number of images."
            )

    def __call__(self, first: Measured, second: Measured) -> InceptionScore:
        """Returns `inception_score` of the first set."""
        return inception_score(first.logits, splits=self.is_splits)

    def with_errors(
        self, first: Measured, second: Measured
    ) -> tuple[InceptionScore, tuple[Error, ...]]:
        """Returns the score, and the standard error of its mean over the images.

        The logarithm of a part's score is the mean of the divergences D_i of its
        images from their mean. By an image it changes as its own divergence does: the
        change of the mean adds nothing to first order. So the variance of a part's
        score is score² var(D_i) / n, and the parts share no image.
        """
        result = self(first, second)
        error = score_error(first.logits, splits=self.is_splits)
        if error is None:
            none = "a part has fewer than 2 images, which say nothing of the spread"
            return result, (Error(None, none, part="mean"),)
        origin = "delta method over the images of each part"
        return result, (Error(error, origin, part="mean"),)

    def warnings(self, first: Measured, second: Measured) -> list[str]:
        """Says that there are too few images, or that they are in an order."""
        return score_warnings(
            first.logits, splits=self.is_splits, label=first.statistics.label
        )

    @classmethod
    def lines(cls, result: InceptionScore, name: str) -> list[str]:
        """Returns one line."""
        return [f"{name}: {result.mean:.6f} ± {result.std:.6f}"]


def inception_score(logits: np.ndarray, *, splits: int = 10) -> InceptionScore:
    """Computes exp(E KL(p(class | image) || p(class))) over consecutive splits.

    The class probabilities of an image are the softmax of its logits: of all 1008
    outputs of the 2015 graph, without the bias, as in the original code. Image i of n
    belongs to split k where k n // splits <= i < (k + 1) n // splits, as there. So the
    order of the images matters: little where it is random, and very much where it is
    that of their classes, since a part has few of them then. Ten classes that the
    network is sure of score 10 shuffled, and 1 one after the other. Images of a folder
    come in the sorted order of its files, so a folder of folders, one a class, is such
    a set: shuffle it, or take one split. `score_warnings` tells.

    Args:
        logits: (n, classes), floating point, finite.
        splits: How many parts of the set are scored apart, at most n.

    Returns:
        Mean and standard deviation over the splits. A score lies between 1 and the
        number of classes, and is 1 where every image gets the same probabilities.

    Raises:
        InputError: A shape or value cannot be used, or there are fewer images than
            splits.

    Example:
        >>> import numpy as np
        >>> from fid.metrics.inception_score import inception_score
        >>> sure = 100.0 * np.tile(np.eye(4), (5, 1))  # each of four classes in turn
        >>> round(inception_score(sure, splits=5).mean, 12)
        4.0
    """
    logits = _checked(logits, splits)
    n = len(logits)
    scores = [
        _score(logits[k * n // splits : (k + 1) * n // splits]) for k in range(splits)
    ]
    return InceptionScore(float(np.mean(scores)), float(np.std(scores)))


def score_error(logits: np.ndarray, *, splits: int = 10) -> float | None:
    """Computes the standard error of an Inception Score, by the delta method.

    Args:
        logits: As for `inception_score`, and so is `splits`.
        splits: Likewise.

    Returns:
        The standard error of the mean over the splits; None where one of these has
        fewer than 2 images.

    Raises:
        InputError: As for `inception_score`.

    Example:
        >>> import numpy as np
        >>> from fid.metrics.inception_score import score_error
        >>> sure = 100.0 * np.tile(np.eye(4), (5, 1))  # images that differ in no way
        >>> score_error(sure, splits=5)
        0.0
    """
    logits = _checked(logits, splits)
    n = len(logits)
    if n < 2 * splits:
        return None
    variance = 0.0
    for k in range(splits):
        divergence = _divergences(logits[k * n // splits : (k + 1) * n // splits])
        score = np.exp(divergence.mean())
        variance += score**2 * divergence.var(ddof=1) / len(divergence)
    return float(np.sqrt(variance) / splits)


def _checked(logits: np.ndarray, splits: int) -> np.ndarray:
    """Returns logits that a score can be taken of."""
    logits = np.asarray(logits)
    if logits.ndim != 2 or logits.dtype.kind != "f" or 0 in logits.shape:
        raise InputError(
            f"The logits are {logits.dtype} of shape {logits.shape}; expected floats "
            "(n, classes)."
        )
    n = len(logits)
    if splits < 1:
        raise InputError(f"{splits} splits were asked for; there must be at least 1.")
    if n < splits:
        raise InputError(
            f"{n} images cannot be split into {splits} parts. Use more images, or "
            "fewer splits."
        )
    finite = np.isfinite(logits).all(axis=1)
    if not finite.all():
        raise InputError(
            f"The logits of image {int(np.argmin(finite))} (counted from 0) are not "
            "finite; look at that image."
        )
    return logits


def score_warnings(
    logits: np.ndarray, *, splits: int = 10, label: str = "the set"
) -> list[str]:
    """Says what makes an Inception Score lower than the images deserve.

    Few images: the logarithm of the score of m images is too low by about V / 2m, V
    being the sum over classes of the variance of a class's probability, divided by its
    mean (up to the number of classes, less 1). A score that is 5% too low is warned of.

    Order: the logarithm of the score of all images is the mean of those of the parts,
    and the mean divergence D of the parts' mean probabilities from those of all. In a
    random order 2 n D has the distribution of a weighted sum of squared normal numbers,
    whose weights are at most 1 and sum to (splits - 1) V. The bound of Laurent and
    Massart (2000) for its tail says how far D may differ from that of shuffled images
    once in a million sets. What is above that, and above 1% of the score, is warned of.

    Args:
        logits: As for `inception_score`, and so is `splits`.
        splits: Likewise.
        label: What to call the images.

    Returns:
        A sentence each.

    Raises:
        InputError: As for `inception_score`.

    Example:
        >>> import numpy as np
        >>> from fid.metrics.inception_score import score_warnings
        >>> sure = 100.0 * np.repeat(np.eye(10), 500, axis=0)  # class after class
        >>> for warning in score_warnings(sure):
        ...     print(warning[:72])
        the images of the set are in an order, such as that of their classes: th
        >>> score_warnings(np.random.default_rng(0).permutation(sure))
        []
    """
    logits = _checked(logits, splits)
    n = len(logits)
    spread = _spread(logits)
    least = n // splits
    found = []
    short = 1.0 - math.exp(-spread / (2 * least))
    if least == 1 or short > _SHORT:
        # One image scores 1, whatever it shows, also where the network tells nothing.
        low = f", and the score is about {short:.0%} too low" if short > _SHORT else ""
        found.append(
            f"the Inception Score of {label} is taken over parts of {least:,} images, "
            f"which are too few: no part can score above {least:,}{low}; take more "
            "images (the paper: 50,000), or fewer parts (--is_splits=1)"
        )
    if splits > 1:
        shuffled = np.random.default_rng(0).permutation(n)
        parts = [slice(k * n // splits, (k + 1) * n // splits) for k in range(splits)]
        given = np.array([_score(logits[part]) for part in parts])
        at_random = np.array([_score(logits[shuffled[part]]) for part in parts])
        lost = float(np.log(at_random).mean() - np.log(given).mean())
        # Both of the two divergences may deviate, in opposite directions.
        tail, total = math.log(_FALSE_ALARMS), (splits - 1) * spread
        random = (4 * math.sqrt(total * tail) + 2 * tail) / (2 * n)
        if lost > max(random, _ORDER):
            found.append(
                f"the images of {label} are in an order, such as that of their "
                f"classes: the Inception Score over {splits} consecutive parts is "
                f"{given.mean():.6g}, and {at_random.mean():.6g} once they are "
                "shuffled; shuffle them before they are measured, or take one part "
                "(--is_splits=1)"
            )
    return found


def _spread(logits: np.ndarray) -> float:
    """Returns the sum over classes of the variance of a probability over its mean."""
    sums, squares = np.zeros((2, logits.shape[1]))
    for start in range(0, len(logits), _BLOCK):
        p = np.exp(_log_probabilities(logits[start : start + _BLOCK]))
        sums += p.sum(axis=0)
        squares += (p**2).sum(axis=0)
    mean = sums / len(logits)
    variance = np.maximum(squares / len(logits) - mean**2, 0.0)
    return float((variance[mean > 0] / mean[mean > 0]).sum())


def _log_probabilities(logits: np.ndarray) -> np.ndarray:
    log_p = logits - logits.max(axis=1, keepdims=True).astype(np.float64)
    return log_p - np.log(np.exp(log_p).sum(axis=1, keepdims=True))


def _score(logits: np.ndarray) -> float:
    return float(np.exp(_divergences(logits).mean()))


def _divergences(logits: np.ndarray) -> np.ndarray:
    """Returns the divergence of each image's probabilities from their mean."""
    # Logarithms of probabilities and of their mean are formed without the
    # probabilities, so they stay finite where those vanish, and 0 log 0 comes to 0.
    log_p = _log_probabilities(logits)
    largest = log_p.max(axis=0)
    log_mean = largest + np.log(np.exp(log_p - largest).mean(axis=0))
    return (np.exp(log_p) * (log_p - log_mean)).sum(axis=1)


class ScoreSums:
    """The Inception Score of images that arrive in batches, without their logits.

    The score of a part of the set is exp(mean of sum p log p - sum q log q), q being
    the mean of the p: a sum over its images each, which is what is kept. The parts are
    those of `inception_score.inception_score`.

    Args:
        count: Images in all.
        splits: Parts.

    Example:
        >>> from fid.metrics.inception_score import inception_score
        >>> logits = np.random.default_rng(0).normal(size=(100, 7)).astype("float32")
        >>> sums = ScoreSums(100, 10)
        >>> for start in range(0, 100, 30):
        ...     sums.update(start, logits[start : start + 30])
        >>> abs(sums.score().mean - inception_score(logits).mean) < 1e-12
        True
    """

    def __init__(self, count: int, splits: int):
        self._bounds = [k * count // splits for k in range(splits + 1)]
        self._p: np.ndarray | None = None  # Its shape is (splits, classes).
        self._p_log_p = np.zeros(splits)

    def update(self, start: int, logits: np.ndarray) -> None:
        """Adds images.

        Args:
            start: Which image the first of them is, counted from 0.
            logits: (m, classes).
        """
        if not np.isfinite(logits).all():
            bad = start + int(np.argmin(np.isfinite(logits).all(axis=1)))
            raise InputError(
                f"The logits of image {bad} (counted from 0) are not finite; look at "
                "that image."
            )
        log_p = _log_probabilities(logits)
        p = np.exp(log_p)
        if self._p is None:
            self._p = np.zeros((len(self._p_log_p), p.shape[1]))
        index = np.arange(start, start + len(p))
        splits = np.searchsorted(self._bounds, index, side="right") - 1
        np.add.at(self._p, splits, p)
        # 0 log 0 comes to 0, since no logarithm is infinite.
        np.add.at(self._p_log_p, splits, (p * log_p).sum(axis=1))

    def score(self) -> InceptionScore:
        """Returns the score of all images, once they are all there."""
        sizes = np.diff(self._bounds)
        q = self._p / sizes[:, np.newaxis]
        q_log_q = q * np.log(np.where(q > 0, q, 1.0))
        scores = np.exp(self._p_log_p / sizes - q_log_q.sum(axis=1))
        return InceptionScore(float(scores.mean()), float(scores.std()))

    def append_to(self, path: pathlib.Path) -> None:
        """Adds the sums to an `.npz` file, beside what it holds."""
        with zipfile.ZipFile(path, "a") as archive:
            for key, array in (("score_p", self._p), ("score_p_log_p", self._p_log_p)):
                with archive.open(f"{key}.npy", "w") as member:
                    np.lib.format.write_array(member, array, allow_pickle=False)

    def load(self, path: pathlib.Path, n: int) -> None:
        """Goes on from the sums in a file that `append_to` wrote.

        Args:
            path: The file.
            n: How many images they are of, the first ones of the set.

        Raises:
            InputError: They cannot be, or are of another number of images.
        """
        splits = len(self._p_log_p)
        with reading(path), zipfile.ZipFile(path) as archive:
            found = []
            for key, rank in (("score_p", 2), ("score_p_log_p", 1)):
                with archive.open(f"{key}.npy") as member:
                    shape, _, dtype = read_header(member, f"{key} of {path}")
                # The shape is checked before it is read: a header may claim any size.
                if (
                    dtype != np.float64
                    or len(shape) != rank
                    or shape[0] != splits
                    or np.prod(shape) > 2**24
                ):
                    raise InputError(
                        f"{printable(path)} has {key} of shape {shape} and type "
                        f"{dtype}; delete it, and it is computed again."
                    )
                with archive.open(f"{key}.npy") as member:
                    found.append(np.lib.format.read_array(member, allow_pickle=False))
        p, p_log_p = found
        # The probabilities of an image come to 1, and no logarithm of one is positive,
        # but for rounding.
        counts = np.diff(np.minimum(self._bounds, n))
        if not (
            (p >= 0).all()
            and np.isfinite(p_log_p).all()
            and (p_log_p <= 1e-6).all()
            and np.allclose(p.sum(axis=1), counts, rtol=1e-6, atol=0)
        ):
            raise InputError(
                f"{printable(path)} has score_p or score_p_log_p that are no sums of "
                f"{n} images; delete it, and it is computed again."
            )
        self._p, self._p_log_p = p, p_log_p
