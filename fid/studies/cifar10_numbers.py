"""Published numbers of CIFAR-10, measured again.

| name | images | published by |
|---|---|---|
| fid_256, is_256 | 256 of train (and of test) | torch-fidelity's smoke tests, CPU |
| is_100 | 100 of train | torch-fidelity's comparison with the original on TF 1.14 |
| fid_5000 | 5,000 of train and of test | the same: within 1e-5 of the original |
| is_5000 | the same 5,000 of train | torch-fidelity's tests of versions, GPU |
| fid_train_test | all | the original code, by pytorch-gan-metrics' README |
| is_train, is_test | all of train, of test | the same |
| is_train_shuffled | all of train | torch-fidelity's README |

torch-fidelity chooses k of n images by `RandomState(2020).choice(n, k, replace=False)`
in each split by itself, writes them as PNG files named by their index, and reads these
in the order of their names. Before it splits a set for the Inception Score it permutes
the images by `RandomState(2020).permutation(k)`; the original code does not. Both leave
out the biases of the softmax layer.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from fid.files import InputError
from fid.metrics.frechet import frechet_distance
from fid.metrics.inception_score import inception_score
from fid.statistics import Moments, Statistics

__all__ = ["TARGETS", "FeatureCache", "Replication", "Target", "measure_again"]

_SEED = 2020


class _Network(Protocol):
    """What is needed of `fid.Inception`."""

    dimension: int

    def features_and_logits(self, images: Any) -> tuple[np.ndarray, np.ndarray]: ...


@dataclasses.dataclass(frozen=True)
class Target:
    """A published number.

    Attributes:
        name: What to call it.
        published: The number.
        tolerance: Largest difference that is still agreement.
        images: How many of each split it needs, or None for all, by the split's name.
        compute: Computes it from features and logits.
    """

    name: str
    published: float
    tolerance: float
    images: Mapping[str, int | None]
    compute: Callable[[FeatureCache], float] = dataclasses.field(repr=False)


@dataclasses.dataclass(frozen=True)
class Replication:
    """A published number and the same measured here.

    Attributes:
        name: Of the target.
        published: The published number.
        measured: Ours.
        tolerance: Of the target.
    """

    name: str
    published: float
    measured: float
    tolerance: float

    @property
    def difference(self) -> float:
        """Measured less published."""
        return self.measured - self.published

    @property
    def ok(self) -> bool:
        """Whether they agree."""
        return abs(self.difference) <= self.tolerance  # This is false for NaN.

    def as_json(self) -> dict[str, Any]:
        """Returns everything, JSON-able."""
        measured = self.measured if math.isfinite(self.measured) else None
        difference = None if measured is None else self.difference
        return {
            **dataclasses.asdict(self),
            "measured": measured,
            "difference": difference,
            "ok": self.ok,
        }


class FeatureCache:
    """Features and logits of images, each image measured once, when it is asked for.

    Args:
        images: uint8 (n, H, W, 3) by the name of the split.
        network: `fid.Inception`, or what does as it does.
        batch_size: Images at a time.
        progress: Whether to show a progress bar on stderr, if that is a terminal.
    """

    def __init__(
        self,
        images: Mapping[str, np.ndarray],
        network: _Network,
        batch_size: int = 50,
        progress: bool = False,
    ):
        self._images, self._network = images, network
        self._batch_size, self._progress = batch_size, progress
        # Rows of images that are never asked for cost no memory: nobody touches them.
        self._found: dict[str, tuple[np.ndarray, ...]] = {}
        self._missing = {split: np.ones(len(x), bool) for split, x in images.items()}

    def subset(self, split: str, count: int | None) -> np.ndarray:
        """Returns the indices that torch-fidelity's recipe chooses, in its order.

        Args:
            split: Name of the split.
            count: How many; None for all.

        Returns:
            Increasing indices, (count,).
        """
        size = len(self._images[split])
        if count is None:
            return np.arange(size)
        random = np.random.RandomState(_SEED)
        return np.sort(random.choice(size, count, replace=False))

    def statistics(self, split: str, count: int | None) -> Statistics:
        """Returns mean and covariance of the features of a subset."""
        features, _ = self._get(split, self.subset(split, count))
        moments = Moments(features.shape[1])
        for start in range(0, len(features), 1000):
            moments.update(features[start : start + 1000])
        return moments.statistics()

    def logits(self, split: str, count: int | None) -> np.ndarray:
        """Returns the logits of a subset, float32 (count, classes)."""
        return self._get(split, self.subset(split, count))[1]

    def _get(self, split: str, indices: np.ndarray) -> tuple[np.ndarray, ...]:
        from tqdm import tqdm

        missing = indices[self._missing[split][indices]]
        steps = tqdm(
            range(0, len(missing), self._batch_size),
            desc=split,
            unit="batch",
            disable=None if self._progress else True,
            leave=False,
        )
        for start in steps:
            batch = missing[start : start + self._batch_size]
            arrays = self._network.features_and_logits(self._images[split][batch])
            if split not in self._found:
                size = len(self._images[split])
                self._found[split] = tuple(
                    np.empty([size, array.shape[1]], np.float32) for array in arrays
                )
            for kept, array in zip(self._found[split], arrays, strict=True):
                kept[batch] = array
            self._missing[split][batch] = False
        return tuple(kept[indices] for kept in self._found[split])


def measure_again(
    images: Mapping[str, np.ndarray],
    network: _Network,
    targets: Sequence[Target] | None = None,
    batch_size: int = 50,
    progress: bool = False,
) -> Iterator[Replication]:
    """Measures published numbers, one after the other.

    Args:
        images: CIFAR-10 in its own order, uint8 (n, 32, 32, 3) by "train" and "test".
        network: `fid.Inception`.
        targets: Which; None means all of `TARGETS`.
        batch_size: Images at a time.
        progress: Whether to show a progress bar.

    Yields:
        A result for each target, in order, as soon as it is there. All features are
        kept: 0.75 GB for all images.

    Raises:
        InputError: A target needs more images than there are.
    """
    targets = TARGETS if targets is None else targets
    for target in targets:
        for split, count in target.images.items():
            if len(images[split]) < (count or 0):
                raise InputError(
                    f"{target.name} needs {count:,} images of {split}; there are "
                    f"{len(images[split]):,}."
                )
    cache = FeatureCache(images, network, batch_size, progress)
    for target in targets:
        value = target.compute(cache)
        yield Replication(target.name, target.published, value, target.tolerance)


def _distance(
    name: str, published: float, tolerance: float, count: int | None
) -> Target:
    def compute(features: FeatureCache) -> float:
        train, test = (features.statistics(x, count) for x in ("train", "test"))
        return frechet_distance(train, test)

    return Target(name, published, tolerance, {"train": count, "test": count}, compute)


def _score(
    name: str,
    published: float,
    tolerance: float,
    split: str,
    count: int | None,
    permute: bool,
) -> Target:
    def compute(features: FeatureCache) -> float:
        logits = features.logits(split, count)
        if permute:
            random = np.random.RandomState(_SEED)
            logits = logits[random.permutation(len(logits))]
        return inception_score(logits, splits=10).mean

    return Target(name, published, tolerance, {split: count}, compute)


# The cheap ones come first. Tolerances are those of the publishers' own tests where
# they have any. That of fid_train_test is the difference between frameworks which
# pytorch-gan-metrics reports (3.1508 and 3.1517). Those of is_train and is_test, whose
# order of images was not published, are the published spread over the ten splits.
TARGETS = (
    _score("is_100", 4.51089784587268, 1e-4, "train", 100, permute=True),
    _distance("fid_256", 110.28082617202443, 1e-2, 256),
    _score("is_256", 6.675409920681458, 1e-3, "train", 256, permute=True),
    _distance("fid_5000", 10.3233274, 1e-4, 5000),
    _score("is_5000", 10.75051, 1e-2, "train", 5000, permute=True),
    _score("is_test", 10.98, 0.22, "test", None, permute=False),
    _distance("fid_train_test", 3.1508, 1e-3, None),
    _score("is_train", 11.24, 0.20, "train", None, permute=False),
    _score("is_train_shuffled", 11.23678, 1e-2, "train", None, permute=True),
)
