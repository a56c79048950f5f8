"""Nearest neighbours of features: the engine of precision, recall and their kin.

The ball around an image reaches to its k-th nearest neighbour in its own set. Who lies
in whose balls says how two sets overlap: that is precision, recall, density, coverage
and realism. Distances are matrix products, |u|² - 2 u·v + |v|², of blocks of rows, so
memory is bounded whatever the number of images. There are three of them: within the
real images, within the generated ones, and between them. Each is computed once for all
metrics of two sets.

Products are float64 of up to 64 features, and float32 of more. A squared distance is
off by at most about

    (8 sqrt(d) + 8) e (|u|² + |v|²), e = 2^-53 or 2^-24,

by the probabilistic bound for sums of d products (Higham and Mary 2019, theorem 2.4
with lambda = 8) and a few roundings more. Lengths count from a point in the midst of
the features, and no distance depends on that. What two equal images are apart lies
below this bound, so a radius below it is taken for zero. Few features may lie in
clusters that are far tighter than they are apart, and float32 would lose these; many
features never do in practice, and their products are what takes the time.

The point's coordinates are multiples of a power of two: features that are whole numbers
stay such, and where no sum exceeds 1 / e their distances are exact, ties and all.
"""

from __future__ import annotations

import dataclasses
import numbers
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from fid.files import InputError

__all__ = [
    "DISTANCES",
    "VARIANTS",
    "Balls",
    "Neighbourhoods",
    "balls_of",
    "check_pair",
    "nearest",
    "neighbourhoods",
    "smallest",
]

# Rows of a block: a block of distances takes 16 MB. ADM's evaluator decides in blocks
# of 10,000 rows whether float16 will do, and this divides them.
_BLOCK = 2000
_ADM_BLOCK = 10_000
# Up to so many features products are float64, which then cost little.
_FEW = 64
# The largest number of float16.
_HALF = float(np.finfo(np.float16).max)
# So many smallest numbers of groups of columns give a first bound on a row's smallest.
_GROUPS = 64


@dataclasses.dataclass(frozen=True)
class Balls:
    """What the ball around an image is.

    Attributes:
        neighbours: It reaches to so manieth a neighbour of its own set, without itself.
        closed: Whether who is exactly as far away lies in it (<=), or does not (<).
        half: Whether distances are rounded to float16 where ADM's evaluator does so.
    """

    neighbours: int
    closed: bool
    half: bool = False


#: The balls of published numbers, by the name of the variant. `adm` is the evaluator of
#: guided diffusion, `kynkaanniemi` the paper on improved precision and recall (and
#: torch-fidelity), `prdc` that on density and coverage (and dgm-eval).
VARIANTS = {
    "adm": Balls(3, closed=True, half=True),
    "kynkaanniemi": Balls(3, closed=True),
    "prdc": Balls(5, closed=False),
}
#: How distances are rounded: as the variant does, or in another way. ADM's alone rounds
#: to float16.
DISTANCES = ("variant", "float16", "float32")


def balls_of(variant: str, neighbours: int = 0, distances: str = "variant") -> Balls:
    """Returns a variant's balls.

    Args:
        variant: One of `VARIANTS`.
        neighbours: How many neighbours they reach; 0 for as many as the variant has.
        distances: One of `DISTANCES`.

    Returns:
        The balls.

    Raises:
        InputError: There is no such variant, or an option is out of bounds.

    Example:
        >>> from fid.metrics.neighbours import balls_of
        >>> balls_of("prdc")
        Balls(neighbours=5, closed=False, half=False)
    """
    if variant not in VARIANTS:
        raise InputError(
            f"The variant is {variant!r}; choose from {', '.join(VARIANTS)}."
        )
    if distances not in DISTANCES:
        raise InputError(
            f"The distances are {distances!r}; choose from {', '.join(DISTANCES)}."
        )
    if distances == "float16" and not VARIANTS[variant].half:
        raise InputError(
            f"The variant {variant} does not round distances to float16: use the "
            "variant adm, or leave out the distances."
        )
    whole = isinstance(neighbours, numbers.Integral)
    if not whole or isinstance(neighbours, bool):
        raise InputError(f"neighbours is {neighbours!r}; it must be a whole number.")
    if neighbours < 0:
        raise InputError(f"neighbours is {neighbours}; it must be at least 0.")
    balls = VARIANTS[variant]
    return dataclasses.replace(
        balls,
        neighbours=neighbours or balls.neighbours,
        half=balls.half and distances != "float32",
    )


@dataclasses.dataclass(frozen=True, eq=False)
class Neighbourhoods:
    """How the images of two sets lie in each other's balls.

    Attributes:
        balls: What the balls are.
        points: For each of the sets, "first" and "second", the share of images whose
            ball is a point: as many others equal the image, or are as near to it as
            rounding can tell.
        within: In how many balls of real images each generated image lies, int64 (m,).
        reached: Whether each real image lies in a ball of a generated one, bool (n,).
        covered: Whether the ball of each real image holds a generated one, bool (n,).
        realism: For each generated image the largest radius over distance, of the real
            images whose radius is below the median, float64 (m,) (Kynkäänniemi et al.
            2019, section 5). The distance of a copy counts as the least that rounding
            can tell from zero. None where no radius is below the median.
    """

    balls: Balls
    points: dict[str, float]
    within: np.ndarray
    reached: np.ndarray
    covered: np.ndarray
    realism: np.ndarray | None


def neighbourhoods(
    generated: np.ndarray,
    real: np.ndarray,
    kinds: Sequence[Balls],
    *,
    within_generated: np.ndarray | None = None,
    within_real: np.ndarray | None = None,
) -> list[Neighbourhoods]:
    """Finds out which images of two sets lie in whose balls, in one pass.

    Args:
        generated: Features of the generated images, (m, d), floating point, finite.
        real: Those of the real images, (n, d).
        kinds: What the balls are; all are `half`, or none.
        within_generated: What `smallest` returned for the generated images and at least
            as many neighbours; None computes it.
        within_real: Likewise for the real ones.

    Returns:
        What was found, for each kind of balls.

    Raises:
        InputError: A shape or a value cannot be used, or a set has no more images than
            neighbours.

    Example:
        >>> import numpy as np
        >>> from fid.metrics.neighbours import Balls, neighbourhoods
        >>> real = np.array([[0.0], [1.0], [2.0], [9.0]])
        >>> (found,) = neighbourhoods(real + 0.25, real, [Balls(1, closed=True)])
        >>> found.within
        array([2, 2, 2, 1])
    """
    generated, real = check_pair(generated, real)
    half = kinds[0].half
    count = max(balls.neighbours for balls in kinds)
    if within_generated is None:
        within_generated = smallest(generated, count, half=half, which="first")
    if within_real is None:
        within_real = smallest(real, count, half=half, which="second")
    # Rows are real images, as in ADM's evaluator: float16 rounds a - b + c in order.
    distances = _distances(real, generated, half)
    looks = [_Look(balls, distances, within_real, within_generated) for balls in kinds]
    for rows in _blocks(len(real)):
        for columns, tile in distances.row(rows, _blocks(len(generated))):
            for look in looks:
                look.at(rows, columns, tile)
    return [look.found() for look in looks]


def smallest(
    x: np.ndarray, count: int, *, half: bool = False, which: str = "first"
) -> np.ndarray:
    """Returns the squared distances of each row to its nearest others, in order.

    Args:
        x: Features, (n, d), floating point, finite.
        count: How many of the others, from 1 to n - 1.
        half: Whether distances are rounded to float16 where ADM's evaluator does so.
        which: What to call the set in messages: "first" or "second".

    Returns:
        (n, count), rising in each row; the last is the squared radius of a ball of so
        many neighbours. float64 of up to 64 features, float32 of more and with `half`.

    Raises:
        InputError: A shape or a value cannot be used, or there are too few rows.

    Example:
        >>> import numpy as np
        >>> from fid.metrics.neighbours import smallest
        >>> smallest(np.array([[0.0], [1.0], [3.0]]), 2)
        array([[1., 9.],
               [1., 4.],
               [4., 9.]])
    """
    x = _checked(x, which)
    if not 1 <= count < len(x):
        raise InputError(
            f"The {which} set has {len(x):,} images, and a ball reaches to neighbour "
            f"{count:,} of its own set: add images, or choose fewer neighbours."
        )
    distances = _distances(x, x, half)
    kept = np.full((len(x), count), np.inf, distances.kind)
    blocks = list(_blocks(len(x)))
    # Blocks on the diagonal come first: with what they find, the others have few
    # distances that are small enough to look at.
    for rows in blocks:
        ((_, tile),) = distances.row(rows, [rows])
        np.fill_diagonal(tile, np.inf)
        kept[rows] = _bound(tile, count)[:, None]
        _keep_smallest(kept[rows], tile, 1)
    for index, rows in enumerate(blocks):
        if half:  # It rounds in order, so distances there and back may differ.
            others = [each for each in blocks if each != rows]
            for _, tile in distances.row(rows, others):
                _keep_smallest(kept[rows], tile, 1)
        else:
            for columns, tile in distances.row(rows, blocks[index + 1 :]):
                _keep_smallest(kept[rows], tile, 1)
                _keep_smallest(kept[columns], tile, 0)
    if not half:
        kept[kept <= distances.floor_x[:, None]] = 0.0
    return kept


def nearest(
    queries: np.ndarray, targets: np.ndarray, *, besides: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Finds the nearest target of each query.

    Args:
        queries: Features, (m, d), floating point, finite.
        targets: Features, (n, d).
        besides: For each query the target that it is itself, and that does not count.

    Returns:
        The targets' indices, int64 (m,), and the distances, float64 (m,). These come
        from the differences of the features, so that of a copy is exactly 0. Of targets
        that are equally near but for rounding, any may be found.

    Raises:
        InputError: A shape or a value cannot be used.

    Example:
        >>> import numpy as np
        >>> from fid.metrics.neighbours import nearest
        >>> nearest(np.array([[1.0], [7.0]]), np.array([[0.0], [5.0], [9.5]]))
        (array([0, 1]), array([1., 2.]))
    """
    queries, targets = check_pair(queries, targets)
    distances = _distances(queries, targets, half=False)
    least = np.full(len(queries), np.inf, distances.kind)
    index = np.zeros(len(queries), np.int64)
    exact = np.empty(len(queries))
    for rows in _blocks(len(queries)):
        for columns, tile in distances.row(rows, _blocks(len(targets))):
            if besides is not None:
                place = besides[rows] - columns.start
                own = np.flatnonzero((place >= 0) & (place < tile.shape[1]))
                tile[own, place[own]] = np.inf
            here = tile.argmin(axis=1)
            value = tile[np.arange(len(tile)), here]
            nearer = value < least[rows]
            least[rows][nearer] = value[nearer]
            index[rows][nearer] = here[nearer] + columns.start
        apart = queries[rows].astype(np.float64) - targets[index[rows]]
        exact[rows] = np.sqrt(np.einsum("ij,ij->i", apart, apart))
    return index, exact


def check_pair(
    x: np.ndarray, y: np.ndarray, names: tuple[str, str] = ("first", "second")
) -> tuple[np.ndarray, np.ndarray]:
    """Refuses features of two sets that cannot be compared.

    Args:
        x: Features of the first set.
        y: Those of the second.
        names: What to call the sets in messages.

    Returns:
        Both, as arrays.

    Raises:
        InputError: They are no finite floats (n, d) with the same d.
    """
    x, y = (_checked(z, which) for z, which in zip((x, y), names, strict=True))
    if x.shape[1] != y.shape[1]:
        raise InputError(
            f"The {names[0]} set has {x.shape[1]} features an image and the {names[1]} "
            f"{y.shape[1]}: they come from different extractors. Use one for both."
        )
    return x, y


def _checked(features: np.ndarray, which: str) -> np.ndarray:
    features = np.asarray(features)
    if features.ndim != 2 or features.dtype.kind != "f" or not features.size:
        raise InputError(
            f"The features of the {which} set are {features.dtype} of shape "
            f"{features.shape}; expected floats (n, d) of at least one image."
        )
    # By blocks: a table of booleans would take a quarter of the features' memory.
    for rows in _blocks(len(features)):
        finite = np.isfinite(features[rows]).all(axis=1)
        if not finite.all():
            raise InputError(
                f"The features of image {rows.start + int(np.argmin(finite))} (counted "
                f"from 0) of the {which} set are not finite; look at that image."
            )
    return features


def _blocks(count: int) -> Iterator[slice]:
    for start in range(0, count, _BLOCK):
        yield slice(start, min(start + _BLOCK, count))


class _Distances:
    """Squared distances between the rows of two sets, block by block.

    Attributes:
        kind: The type of the distances, float64 or float32.
        floor_x: For each row of x, the squared distance up to which another row may be
            its equal.
        floor_y: Likewise for y.
        resolution: The least squared distance from a row of x that rounding can tell
            from zero, whichever row.
    """

    def __init__(self, x: np.ndarray, y: np.ndarray, centre: np.ndarray, kind: type):
        self._x, self._y, self._centre, self.kind = x, y, centre, kind
        self._norms_x = self._norms(x)
        self._norms_y = self._norms_x if y is x else self._norms(y)
        # Of equal rows each has half of |u|² + |v|².
        unit = (8 * np.sqrt(x.shape[1]) + 8) * float(np.finfo(kind).eps)
        self.floor_x, self.floor_y = (
            kind(unit) * norms for norms in (self._norms_x, self._norms_y)
        )
        self.resolution = unit * float(self._norms_x.max())

    def row(
        self, rows: slice, columns: Iterable[slice]
    ) -> Iterator[tuple[slice, np.ndarray]]:
        """Yields blocks of columns, and the distances from some rows to these."""
        u = self._block(self._x, rows)
        for each in columns:
            # NumPy calls BLAS's syrk, half the work, where both are one array.
            same = self._y is self._x and each == rows
            v = u if same else self._block(self._y, each)
            tile = u @ v.T
            tile *= -2.0
            tile += self._norms_x[rows, None]
            tile += self._norms_y[each]
            yield each, tile

    def _block(self, x: np.ndarray, rows: slice) -> np.ndarray:
        # In the type that has more digits first, be it the features' own.
        wide = np.result_type(x.dtype, self.kind)
        block = x[rows].astype(wide, copy=False) - self._centre.astype(wide)
        return block.astype(self.kind, copy=False)

    def _norms(self, x: np.ndarray) -> np.ndarray:
        norms = np.empty(len(x), self.kind)
        for rows in _blocks(len(x)):
            block = self._block(x, rows)
            norms[rows] = np.einsum("ij,ij->i", block, block, dtype=np.float64)
        if not np.isfinite(norms).all():
            raise InputError(
                f"The features of image {int(np.argmax(norms))} (counted from 0) are "
                f"too large for a distance in {np.dtype(self.kind)}; look at how they "
                "were made."
            )
        return norms


class _HalfDistances(_Distances):
    """The distances of ADM's evaluator: float16, unless a block has an infinite one.

    Products are summed in float32 and then rounded, as processors for float16 do; every
    step from there is rounded. Nothing is shifted, and no floor is known there.
    """

    def __init__(self, x: np.ndarray, y: np.ndarray):
        super().__init__(x, y, np.zeros(x.shape[1]), np.float32)
        self.floor_x, self.floor_y = (0 * z for z in (self.floor_x, self.floor_y))
        # Three roundings, each by 2^-11 of |u|² + |v|².
        self.resolution = 6 * 2.0**-11 * float(self._norms_x.max())
        self._finite: dict[tuple[int, int], bool] = {}

    def row(
        self, rows: slice, columns: Iterable[slice]
    ) -> Iterator[tuple[slice, np.ndarray]]:
        """Yields blocks of columns, and the distances from some rows to these."""
        u = _as_half(self._x[rows])
        for each in columns:
            if self._is_finite(rows, each):
                yield each, self._rounded(u, _as_half(self._y[each]))
            else:
                yield from super().row(rows, [each])

    def _rounded(self, u: np.ndarray, v: np.ndarray) -> np.ndarray:
        of_u, of_v = (
            _as_half(np.einsum("ij,ij->i", z, z, dtype=np.float64)) for z in (u, v)
        )
        # A product that is too large becomes infinite, and the distance 0, as there.
        tile = _as_half(-2.0 * _as_half(u @ v.T))
        tile = _as_half(of_u[:, None] + tile)
        tile = _as_half(tile + of_v)
        return np.maximum(tile, 0.0)

    def _is_finite(self, rows: slice, columns: slice) -> bool:
        """Says whether all of the evaluator's block around a block is finite."""
        key = rows.start // _ADM_BLOCK, columns.start // _ADM_BLOCK
        if key not in self._finite:
            self._finite[key] = self._look(
                *(slice(i * _ADM_BLOCK, (i + 1) * _ADM_BLOCK) for i in key)
            )
        return self._finite[key]

    def _look(self, rows: slice, columns: slice) -> bool:
        one, two = self._norms_x[rows].max(), self._norms_y[columns].max()
        # No step exceeds (|u| + |v|)², and a hundredth is more than is rounded.
        if (one**0.5 + two**0.5) ** 2 < 0.99 * _HALF:
            return True
        if max(one, two) > 1.01 * _HALF:
            return False
        x, y = self._x[rows], self._y[columns]
        return all(
            np.isfinite(self._rounded(_as_half(x[r]), _as_half(y[c]))).all()
            for r in _blocks(len(x))
            for c in _blocks(len(y))
        )


def _distances(x: np.ndarray, y: np.ndarray, half: bool) -> _Distances:
    if half:
        return _HalfDistances(x, y)
    kind = np.float64 if x.shape[1] <= _FEW else np.float32
    return _Distances(x, y, _centre(y), kind)


def _as_half(x: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore", invalid="ignore"):
        return x.astype(np.float16).astype(np.float32)


def _centre(x: np.ndarray) -> np.ndarray:
    """Returns a point in the midst of the rows, whose coordinates have few digits."""
    mean = x.mean(axis=0, dtype=np.float64)
    few = x[:: len(x) // 256 + 1] - mean
    spread = float(np.sqrt(np.square(few).mean()))
    if not (spread > 0.0 and np.isfinite(spread)):
        return x[0].astype(np.float64)
    step = 2.0 ** np.floor(np.log2(spread))
    return np.round(mean / step) * step


def _bound(tile: np.ndarray, count: int) -> np.ndarray:
    """Returns for each row what at least `count` of its numbers do not exceed.

    Columns are put into groups, and each group has its smallest number: `count` of
    these are at most the one in that place. It is infinite where there are too few.
    """
    groups = max(_GROUPS, 2 * count)
    width = tile.shape[1] // groups * groups
    if not width:
        return np.full(len(tile), np.inf, tile.dtype)
    least = tile[:, :width].reshape(len(tile), -1, groups).min(axis=1)
    return np.partition(least, count - 1, axis=1)[:, count - 1]


def _keep_smallest(kept: np.ndarray, tile: np.ndarray, axis: int) -> None:
    """Puts the smallest numbers of a block among those that are kept.

    Args:
        kept: (rows, k) in order, or (columns, k) for axis 0; changed in place.
        tile: (rows, columns).
        axis: Along which the smallest are looked for.
    """
    limit = kept[:, -1]
    found = np.flatnonzero(tile < (limit[:, None] if axis else limit))
    if not len(found):
        return
    row, column = np.divmod(found, tile.shape[1])
    owner, values = (row if axis else column), tile.reshape(-1)[found]
    order = np.lexsort((values, owner))
    owner, values = owner[order], values[order]
    # The place of each number among those of its owner.
    place = np.arange(len(owner)) - np.searchsorted(owner, owner)
    among = place < kept.shape[1]
    fresh = np.full_like(kept, np.inf)
    fresh[owner[among], place[among]] = values[among]
    both = np.concatenate([kept, fresh], axis=1)
    kept[:] = np.sort(both, axis=1)[:, : kept.shape[1]]


class _Look:
    """What one kind of balls makes of blocks of distances."""

    def __init__(
        self,
        balls: Balls,
        distances: _Distances,
        within_real: np.ndarray,
        within_generated: np.ndarray,
    ):
        self._balls = balls
        real, generated = (
            within[:, balls.neighbours - 1]
            for within in (within_real, within_generated)
        )
        self._points = {
            which: float(np.mean(radii == 0.0))
            for which, radii in (("first", generated), ("second", real))
        }
        self._of_real = _limits(real, distances.floor_x, balls.closed)
        self._of_generated = _limits(generated, distances.floor_y, balls.closed)
        # The ball of an image apart from all others would call far images real.
        small = (real > 0.0) & (real < np.median(real))
        self._small = small
        self._inverse = np.divide(1, real, where=small, out=np.zeros_like(real))
        self._least = distances.resolution / real[small].max() if small.any() else 0.0
        self._quotient = np.full(len(generated), np.inf, distances.kind)
        self._within = np.zeros(len(generated), np.int64)
        self._reached = np.zeros(len(real), bool)
        self._covered = np.zeros(len(real), bool)

    def at(self, rows: slice, columns: slice, tile: np.ndarray) -> None:
        """Takes a block into account: rows are real, columns generated images."""
        inside = tile <= self._of_real[rows, None]
        self._covered[rows] |= inside.any(axis=1)
        # A block has few enough rows for uint16.
        self._within[columns] += inside.view(np.uint8).sum(axis=0, dtype=np.uint16)
        self._reached[rows] |= (tile <= self._of_generated[columns]).any(axis=1)
        small = self._small[rows]
        if small.any():
            quotients = tile[small]
            quotients *= self._inverse[rows][small, None]
            least = quotients.min(axis=0)
            self._quotient[columns] = np.minimum(self._quotient[columns], least)

    def found(self) -> Neighbourhoods:
        """Returns what all blocks together say."""
        realism = None
        if self._small.any():
            quotient = np.maximum(self._quotient.astype(np.float64), self._least)
            realism = 1.0 / np.sqrt(quotient)
        return Neighbourhoods(
            self._balls,
            self._points,
            self._within,
            self._reached,
            self._covered,
            realism,
        )


def _limits(radii: np.ndarray, floor: np.ndarray, closed: bool) -> np.ndarray:
    """Returns up to which squared distance an image lies in a ball.

    A closed ball whose radius rounding cannot tell from zero has the equals of its
    midpoint, and an open one has nothing.
    """
    if closed:
        return np.maximum(radii, floor)
    nothing = radii.dtype.type(-np.inf)
    return np.where(radii > floor, np.nextafter(radii, nothing), nothing)
