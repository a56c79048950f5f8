"""The Inception Score of Salimans et al. 2016, as its original code computes it."""

from __future__ import annotations

import dataclasses
import pathlib
import zipfile
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from fid.files import InputError, printable
from fid.metrics.metric import Measured, Metric, option
from fid.npz import read_header, reading
from fid.statistics import Statistics

if TYPE_CHECKING:
    from fid.sources.source import Source

__all__ = ["InceptionScore", "Score", "ScoreSums", "inception_score"]


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

    @classmethod
    def lines(cls, result: InceptionScore, name: str) -> list[str]:
        """Returns one line."""
        return [f"{name}: {result.mean:.6f} ± {result.std:.6f}"]


def inception_score(logits: np.ndarray, *, splits: int = 10) -> InceptionScore:
    """Computes exp(E KL(p(class | image) || p(class))) over consecutive splits.

    The class probabilities of an image are the softmax of its logits: of all 1008
    outputs of the 2015 graph, without the bias, as in the original code. Image i of n
    belongs to split k where k n // splits <= i < (k + 1) n // splits, so the order of
    images matters a little; those of a folder are in the sorted order of its files.

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
    scores = [
        _score(logits[k * n // splits : (k + 1) * n // splits]) for k in range(splits)
    ]
    return InceptionScore(float(np.mean(scores)), float(np.std(scores)))


def _score(logits: np.ndarray) -> float:
    # Logarithms of probabilities and of their mean are formed without the
    # probabilities, so they stay finite where those vanish, and 0 log 0 comes to 0.
    log_p = logits - logits.max(axis=1, keepdims=True).astype(np.float64)
    log_p -= np.log(np.exp(log_p).sum(axis=1, keepdims=True))
    largest = log_p.max(axis=0)
    log_mean = largest + np.log(np.exp(log_p - largest).mean(axis=0))
    divergence = (np.exp(log_p) * (log_p - log_mean)).sum(axis=1)
    return float(np.exp(divergence.mean()))


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
        log_p = logits - logits.max(axis=1, keepdims=True).astype(np.float64)
        log_p -= np.log(np.exp(log_p).sum(axis=1, keepdims=True))
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

    def load(self, path: pathlib.Path) -> None:
        """Goes on from the sums in a file that `append_to` wrote."""
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
        self._p, self._p_log_p = found
