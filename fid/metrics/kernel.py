"""The kernel distance: squared MMD with the cubic kernel, without bias (KID)."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from fid.files import InputError
from fid.metrics.metric import Error, Measured, Metric, checked_features, option
from fid.statistics import Statistics

if TYPE_CHECKING:
    from fid.sources.source import Source

__all__ = ["Kernel", "KernelDistance", "kernel_distance"]

# So many rows are taken at a time, so that a block of the kernel matrix takes 32 MB.
_BLOCK = 2048


@dataclasses.dataclass(frozen=True)
class KernelDistance:
    """What `kernel_distance` returns.

    Attributes:
        mean: Mean over the subsets; None where none were asked for.
        std: Their standard deviation (divisor: their number), or None.
        full: The unbiased estimate from all features of both sets. It depends on no
            seed and no order.
    """

    mean: float | None
    std: float | None
    full: float


@dataclasses.dataclass(frozen=True)
class Kernel(Metric):
    """The kernel distance as a metric: KID on the 2015 graph."""

    key, other_key = "kid", "kernel"
    name, other_name = "Kernel Inception Distance", "kernel distance"
    abbreviation = "KID"
    needs = ("features",)

    kid_subsets: int = option(
        100, "KID's subsets; 0 for the full estimate alone.", least=0
    )
    kid_subset_size: int = option(
        1000, "Images of each set in one of KID's subsets.", least=2
    )
    seed: int = option(0, "Seed of KID's subsets.", least=0, most=2**32 - 1)

    def check_set(self, each: Statistics | Source) -> None:
        """Refuses a set without features, or smaller than a subset."""
        super().check_set(each)
        count = each.n if isinstance(each, Statistics) else each.count
        if self.kid_subsets and count is not None and count < self.kid_subset_size:
            raise InputError(
                f"KID's subsets have {self.kid_subset_size} images, and {each.label} "
                f"has {count}: choose a smaller --kid_subset_size, or --kid_subsets=0 "
                "for the estimate from all images alone."
            )

    def __call__(self, first: Measured, second: Measured) -> KernelDistance:
        """Returns `kernel_distance` of the two sets."""
        return self._distance(first, second)[0]

    def with_errors(
        self, first: Measured, second: Measured
    ) -> tuple[KernelDistance, tuple[Error, ...]]:
        """Returns the distance and the standard errors of its two estimates.

        That of all images is the variance of the U-statistic, with both of its orders.
        The mean over B subsets is an incomplete U-statistic: given the images, the
        subsets are drawn independently, and their mean is that of all images. So its
        variance is that of all images and the variance within the subsets over B. The
        deviation over the subsets, divided by the root of B, would leave out the first
        part, since the subsets share images.
        """
        result, variance = self._distance(first, second)
        small = min(len(first.features), len(second.features)) < 4
        if small:
            none = "a set has fewer than 4 images, which say nothing of the spread"
            full = Error(None, none, part="full")
        else:
            origin = "variance of the U-statistic"
            full = Error(float(np.sqrt(variance)), origin, part="full")
        if result.mean is None:
            return result, (full,)
        if small or self.kid_subsets < 2:
            none = full.origin if small else "one subset has no spread"
            return result, (Error(None, none, part="mean"), full)
        within = result.std**2 / (self.kid_subsets - 1)
        origin = "variance of the U-statistic, and that of the subsets' mean around it"
        mean = Error(float(np.sqrt(variance + within)), origin, part="mean")
        return result, (mean, full)

    def _distance(
        self, first: Measured, second: Measured
    ) -> tuple[KernelDistance, float]:
        # Overflow is found in the result, where the metric's name is known.
        with np.errstate(over="ignore", invalid="ignore"):
            return _distance_and_variance(
                first.features,
                second.features,
                self.kid_subsets,
                self.kid_subset_size,
                self.seed,
            )

    @classmethod
    def lines(cls, result: KernelDistance, name: str) -> list[str]:
        """Returns a line for the subsets, if any, and one for all images."""
        lines = [f"{name} of all images: {result.full:.8f}"]
        if result.mean is not None:
            lines.insert(0, f"{name}: {result.mean:.8f} ± {result.std:.8f}")
        return lines


def kernel_distance(
    x: np.ndarray,
    y: np.ndarray,
    *,
    subsets: int = 100,
    subset_size: int = 1000,
    seed: int = 0,
) -> KernelDistance:
    """Computes the kernel distance between two sets of features.

    It is the unbiased estimate of the squared maximum mean discrepancy with the kernel
    k(x, y) = (x·y / d + 1)³ (Bińkowski et al. 2018, Demystifying MMD GANs, section 4):
    with features of the 2015 graph's pool_3 layer, the Kernel Inception Distance. For
    sets of one distribution it is 0 on average, so it can be negative.

    The subsets are those of torch-fidelity: `RandomState(seed)` chooses the rows of x,
    then those of y, without replacement, subset after subset. With equal features
    in equal order and its seed, 2020, its numbers come out but for their float32
    rounding. The rows of a folder are in the sorted order of its files.

    Everything is summed in one pass over blocks of the kernel matrices, in float64:
    time grows with (n + m)² d, memory not beyond the features themselves and a byte
    for each image and subset.

    Args:
        x: Features of the first set, (n, d), floating point, finite.
        y: Those of the second, (m, d).
        subsets: Number of subsets; 0 leaves only the estimate from all features.
        subset_size: Features of each set in a subset, at least 2.
        seed: Seed of the subsets, 0 to 2**32 - 1.

    Returns:
        Mean and standard deviation over the subsets, and the estimate from everything.

    Raises:
        InputError: A shape or a value cannot be used, or a set is smaller than a
            subset.

    Example:
        >>> import numpy as np
        >>> from fid.metrics.kernel import kernel_distance
        >>> random = np.random.default_rng(0)
        >>> x, y = random.normal(size=(200, 4)), random.normal(size=(300, 4)) + 1.0
        >>> distance = kernel_distance(x, y, subsets=10, subset_size=100)
        >>> abs(distance.mean - distance.full) < distance.std
        True
        >>> kernel_distance(x, y, subsets=0).mean is None
        True
    """
    return _distance_and_variance(x, y, subsets, subset_size, seed)[0]


def _distance_and_variance(
    x: np.ndarray, y: np.ndarray, subsets: int, subset_size: int, seed: int
) -> tuple[KernelDistance, float]:
    """Returns the distance, and the variance of its estimate from all features."""
    x, y = checked_features(x, "first"), checked_features(y, "second")
    if x.shape[1] != y.shape[1]:
        raise InputError(
            f"The first set has {x.shape[1]} features an image and the second "
            f"{y.shape[1]}: they come from different extractors. Use one for both."
        )
    values = (subsets, subset_size, seed)
    for each, value in zip(Kernel.options(), values, strict=True):
        name = each.name.removeprefix("kid_")
        dataclasses.replace(each, name=name).check(value)
    smaller = min(len(x), len(y))
    if subsets and smaller < subset_size:
        raise InputError(
            f"A subset takes {subset_size} images of each set, and the smaller set has "
            f"{smaller}. Set the subset size to {smaller} or less, or ask for 0 "
            "subsets: then only the estimate from all images is computed."
        )
    chosen_x, chosen_y = _choose(len(x), len(y), subsets, subset_size, seed)
    xx = _sums_within(x, chosen_x)
    yy = _sums_within(y, chosen_y)
    xy = _sums_between(x, y, chosen_x, chosen_y)
    full = float(_unbiased(xx.total, yy.total, xy.total, len(x), len(y)))
    variance = _variance(xx, yy, xy)
    if not subsets:
        return KernelDistance(None, None, full), variance
    sums = (xx.by_subset, yy.by_subset, xy.by_subset)
    each = _unbiased(*sums, subset_size, subset_size)
    return KernelDistance(float(each.mean()), float(each.std()), full), variance


def _choose(
    n: int, m: int, subsets: int, size: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns (n, subsets) and (m, subsets) booleans: which rows each subset has."""
    random = np.random.RandomState(seed)
    chosen_x, chosen_y = np.zeros((n, subsets), bool), np.zeros((m, subsets), bool)
    for subset in range(subsets):
        chosen_x[random.choice(n, size, replace=False), subset] = True
        chosen_y[random.choice(m, size, replace=False), subset] = True
    return chosen_x, chosen_y


def _unbiased(
    within_x: np.ndarray, within_y: np.ndarray, between: np.ndarray, n: int, m: int
) -> np.ndarray:
    return within_x / (n * (n - 1)) + within_y / (m * (m - 1)) - 2.0 * between / (n * m)


class _Sums(NamedTuple):
    """Sums of a kernel matrix: of all, of each subset's part, of rows and columns."""

    total: float
    squares: float
    by_subset: np.ndarray
    by_row: np.ndarray
    by_column: np.ndarray


def _variance(xx: _Sums, yy: _Sums, xy: _Sums) -> float:
    """Returns the variance of the unbiased estimate, >= 0.

    Hoeffding's decomposition of the U-statistic (Serfling, Approximation Theorems of
    Mathematical Statistics, 1980, section 5.3) has a first order, of the means of the
    kernel over the other images, and a second order, of what is left of the kernel
    when the means of its rows and columns are taken off. The variances v_x and v_y of

        r_i = mean of k(x_i, x_j) over j != i - mean of k(x_i, y_j) over j

    and of its like for y hold the first order, and the second one twice, because a mean
    over finitely many images has a spread of its own. So with s the variance of what is
    left, the variance is 4 v_x / n + 4 v_y / m - (2 s_xx / n² + 2 s_yy / m²
    + 4 s_xy / nm), and the bracket is the second order, which it cannot be below.
    """
    n, m = len(xx.by_row), len(yy.by_row)
    if min(n, m) < 4:
        return 0.0
    rows = (xx.by_row / (n - 1), yy.by_row / (m - 1))
    columns = (xy.by_row / m, xy.by_column / n)
    first_order = sum(
        4.0 * (row - column).var(ddof=1) / len(row)
        for row, column in zip(rows, columns, strict=True)
    )
    second_order = 0.0
    for sums, row, count in ((xx, rows[0], n), (yy, rows[1], m)):
        pairs = count * (count - 1)
        spread = max(sums.squares / pairs - (sums.total / pairs) ** 2, 0.0)
        left = (spread - 2.0 * row.var(ddof=1)) / (1.0 - 2.0 / (count - 1))
        second_order += 2.0 * max(left, 0.0) / pairs
    spread = max(xy.squares / (n * m) - (xy.total / (n * m)) ** 2, 0.0)
    left = spread - columns[0].var(ddof=1) - columns[1].var(ddof=1)
    left /= 1.0 - 1.0 / n - 1.0 / m
    second_order += 4.0 * max(left, 0.0) / (n * m)
    return float(max(first_order - second_order, second_order))


def _sums_within(x: np.ndarray, chosen: np.ndarray) -> _Sums:
    """Sums k(x_i, x_j) over i != j: of all rows, and of each subset's rows."""
    total, squares, by_subset = 0.0, 0.0, np.zeros(chosen.shape[1])
    by_row = np.zeros(len(x))
    for rows in _blocks(x):
        wide = x[rows].astype(np.float64)
        for columns in _blocks(x):
            if columns.start < rows.start:
                continue  # The matrix is symmetric: its mirror image counts twice.
            if columns == rows:
                kernel, weight = _kernel(wide, wide), 1.0
                np.fill_diagonal(kernel, 0.0)
            else:
                kernel, weight = _kernel(wide, x[columns]), 2.0
                by_row[columns] += kernel.sum(axis=0)
            total += weight * kernel.sum()
            squares += weight * np.vdot(kernel, kernel)
            by_subset += weight * _by_subset(kernel, chosen[rows], chosen[columns])
            by_row[rows] += kernel.sum(axis=1)
    return _Sums(total, squares, by_subset, by_row, by_row)


def _sums_between(
    x: np.ndarray, y: np.ndarray, chosen_x: np.ndarray, chosen_y: np.ndarray
) -> _Sums:
    """Sums k(x_i, y_j): of all rows, and of each subset's rows."""
    total, squares, by_subset = 0.0, 0.0, np.zeros(chosen_x.shape[1])
    by_row, by_column = np.zeros(len(x)), np.zeros(len(y))
    for rows in _blocks(x):
        for columns in _blocks(y):
            kernel = _kernel(x[rows], y[columns])
            total += kernel.sum()
            squares += np.vdot(kernel, kernel)
            by_subset += _by_subset(kernel, chosen_x[rows], chosen_y[columns])
            by_row[rows] += kernel.sum(axis=1)
            by_column[columns] += kernel.sum(axis=0)
    return _Sums(total, squares, by_subset, by_row, by_column)


def _by_subset(kernel: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    # Sums over a subset are a' K b with indicator vectors a and b: for 100 subsets a
    # twentieth of the work on K at d = 2048.
    return ((kernel @ columns.astype(np.float64)) * rows).sum(axis=0)


def _blocks(x: np.ndarray) -> Iterator[slice]:
    for start in range(0, len(x), _BLOCK):
        yield slice(start, start + _BLOCK)


def _kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    # Everything is float64, since the distance is a small difference of large sums.
    # Where x and y are one array, NumPy calls BLAS's syrk, which takes half the flops.
    kernel = np.asarray(x, np.float64) @ np.asarray(y, np.float64).T
    kernel /= x.shape[1]
    kernel += 1.0
    return kernel * kernel * kernel
