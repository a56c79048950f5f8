"""Counts of n-grams, and how far two of them are apart (paper, language experiments).

An n-gram of token ids becomes one number of 11 bits a token, and a count of n-grams two
arrays: the numbers in order, and how often each was seen. Six tokens are 66 bits, two
more than the widest integer has, so counts come in 16 parts by the last four bits of
the first token, which a key then leaves out: no key is hashed and none is rounded.
Parts are also sorted and merged one by one, which takes less memory. A divergence is a
sum over n-grams, so the parts add up.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable

import numpy as np

from fid.files import InputError

__all__ = ["MAX_TOKENS", "NgramCounts", "NgramReference", "jensen_shannon"]

MAX_TOKENS = 2048
"""Token ids are below this (the paper's largest vocabulary)."""

# N-grams of these lengths are counted (the paper: 1 to 6).
_ORDERS = range(1, 7)

# A token takes so many bits of a key.
_TOKEN_BITS = 11
# The last bits of the first token number the part of the counts.
_PART_BITS = 4
_PARTS = 1 << _PART_BITS
# So many n-grams are counted before they are merged; their keys take 8 MB.
_NGRAMS_AT_ONCE = 1 << 20
# The keys of so many lines stay in a processor's cache.
_LINES_AT_ONCE = 1 << 11
# A part is its sorted keys, uint64, and their counts, int64.
_Part = tuple[np.ndarray, np.ndarray]


class NgramCounts:
    """How often each n-gram occurs in a set of lines.

    Counts of shards merge into the counts of all, so a set of lines needs not be in
    memory at once.

    Attributes:
        n: Length of the n-grams.
        total: N-grams in all.

    Example:
        >>> import numpy as np
        >>> from tf_ttur.ngrams import NgramCounts, jensen_shannon
        >>> one = NgramCounts.of(np.array([[1, 2, 1, 2]]), n=2)
        >>> len(one), one.total
        (2, 3)
        >>> two = NgramCounts.of(np.array([[7, 7, 7, 7]]), n=2)
        >>> jensen_shannon(one, one), jensen_shannon(one, two)
        (0.0, 1.0)
        >>> round(jensen_shannon(one, one.merge(two)), 4)
        0.3113
    """

    def __init__(self, n: int, parts: list[_Part]):
        self.n = n
        self._parts = parts
        self.total = sum(int(counts.sum()) for _, counts in parts)

    @classmethod
    def of(cls, tokens: np.ndarray, n: int) -> NgramCounts:
        """Counts the n-grams of every line, padding included.

        Args:
            tokens: Integers (lines, length) in 0..2047; a line has length + 1 - n
                n-grams.
            n: Length of the n-grams, 1..6 and no more than that of the lines.

        Returns:
            The counts.

        Raises:
            ValueError: `tokens` is no such array, or `n` is out of its range.
        """
        tokens = np.asarray(tokens)
        if n not in _ORDERS:
            raise ValueError(f"n is {n}; it must be in 1..{_ORDERS[-1]}.")
        if tokens.ndim != 2 or tokens.dtype.kind not in "iu" or tokens.shape[1] < n:
            raise ValueError(
                f"tokens are {tokens.dtype} {tokens.shape}; expected integers "
                f"(lines, length) with length >= {n}."
            )
        # Equal sizes are merged first, as in merge sort, so that no n-gram is copied
        # more often than the logarithm of the number of pieces.
        pieces: list[NgramCounts] = []
        size = max(_NGRAMS_AT_ONCE // (tokens.shape[1] + 1 - n), 1)
        for start in range(0, max(len(tokens), 1), size):
            piece = cls(n, _count(tokens[start : start + size], n))
            while pieces and len(pieces[-1]) <= 2 * len(piece):
                piece = pieces.pop().merge(piece)
            pieces.append(piece)
        return functools.reduce(cls.merge, reversed(pieces))

    def merge(self, other: NgramCounts) -> NgramCounts:
        """Adds the counts of other lines.

        Args:
            other: Counts of n-grams of the same length.

        Returns:
            The counts of both sets of lines.

        Raises:
            ValueError: The n-grams have different lengths.
        """
        _check_same_length(self, other)
        parts = zip(self._parts, other._parts, strict=True)
        return NgramCounts(self.n, [_merge(one, two) for one, two in parts])

    def __len__(self) -> int:
        """Returns the number of different n-grams."""
        return sum(len(keys) for keys, _ in self._parts)


def jensen_shannon(p: NgramCounts, q: NgramCounts) -> float:
    """Computes the Jensen-Shannon divergence of two distributions of n-grams, in bits.

    It is (KL(p || m) + KL(q || m)) / (2 ln 2) with m = (p + q) / 2, over the n-grams
    of either (the paper's normalised JSD). Where only one of them has an n-gram, the
    logarithm in it is ln 2, so only n-grams that both have are looked at one by one.

    Args:
        p: Counts of one set of lines.
        q: Counts of n-grams of the same length.

    Returns:
        A number from 0, for equal distributions, to 1, for those that share no n-gram.

    Raises:
        ValueError: The lengths differ, or there are no n-grams to compare.
    """
    _check_same_length(p, q)
    if not p.total or not q.total:
        raise ValueError("There are no n-grams to compare: a set has no lines.")
    if len(p) < len(q):
        p, q = q, p  # Look the fewer up among the more.
    sums, unshared = [], p.total * q.total * 2
    for (keys, counts), (other_keys, other_counts) in zip(
        p._parts, q._parts, strict=True
    ):
        places, found = _look_up(keys, other_keys)
        ours, theirs = counts[places[found]], other_counts[found]
        unshared -= int(ours.sum()) * q.total + int(theirs.sum()) * p.total
        ours, theirs = ours / p.total, theirs / q.total
        middle = (ours + theirs) / 2
        sums.append(ours * np.log2(ours / middle) + theirs * np.log2(theirs / middle))
    # `unshared` is an integer so far, so that nothing is lost where little is left.
    value = (np.concatenate(sums).sum() + unshared / (p.total * q.total)) / 2
    return min(max(float(value), 0.0), 1.0)


class NgramReference:
    """The real lines that generated ones are compared with.

    Few lines cannot hold all n-grams of a language: 640 real ones are far from the
    training set, too. How far is the floor, and a divergence says little without it.

    Args:
        train_tokens: Integers (lines, length) in 0..2047, what the generator is trained
            on (the paper compares with the training set).
        held_out_tokens: Likewise, real lines which it is not trained on.
        orders: Lengths of the n-grams, within 1..6.

    Example:
        >>> import numpy as np
        >>> from tf_ttur.ngrams import NgramReference
        >>> lines = np.random.default_rng(0).integers(0, 4, (3000, 32))
        >>> reference = NgramReference(lines[1000:], lines[:1000], orders=[4])
        >>> generated = np.zeros((640, 32), "int32")
        >>> values = reference.divergences(generated) | reference.floors(640)
        >>> {name: round(value, 2) for name, value in values.items()}
        {'jsd_4': 0.98, 'jsd_4_floor': 0.0}
    """

    def __init__(
        self,
        train_tokens: np.ndarray,
        held_out_tokens: np.ndarray,
        orders: Iterable[int] = _ORDERS,
    ):
        self._train = [NgramCounts.of(train_tokens, n) for n in orders]
        self._held_out = np.asarray(held_out_tokens)

    def divergences(self, tokens: np.ndarray) -> dict[str, float]:
        """Measures how far lines are from the training set.

        Args:
            tokens: Integers (lines, length) in 0..2047 (the paper: 640 lines).

        Returns:
            The Jensen-Shannon divergence by name, `jsd_1` to `jsd_6`, each in 0..1.
        """
        return {
            f"jsd_{train.n}": jensen_shannon(train, NgramCounts.of(tokens, train.n))
            for train in self._train
        }

    def floors(self, count: int) -> dict[str, float]:
        """Measures how far as many held-out real lines are from the training set.

        Args:
            count: How many lines; the first so many are taken.

        Returns:
            The divergence by name, `jsd_1_floor` to `jsd_6_floor`, each in 0..1.

        Raises:
            InputError: There are not as many held-out lines.
        """
        if not 1 <= count <= len(self._held_out):
            raise InputError(
                f"The floor of {count} lines needs as many held-out lines; there are "
                f"{len(self._held_out)}. Hold more out, or compare fewer."
            )
        values = self.divergences(self._held_out[:count])
        return {f"{name}_floor": value for name, value in values.items()}


def _check_same_length(p: NgramCounts, q: NgramCounts) -> None:
    if p.n != q.n:
        raise ValueError(f"Cannot join {p.n}-grams and {q.n}-grams.")


def _count(tokens: np.ndarray, n: int) -> list[_Part]:
    """Returns the parts of the counts of some lines."""
    if tokens.size and not 0 <= tokens.min() <= tokens.max() < MAX_TOKENS:
        raise ValueError(
            f"Token ids are in {tokens.min()}..{tokens.max()}; they must be in "
            f"0..{MAX_TOKENS - 1}."
        )
    last = tokens.shape[1] + 1 - n
    runs = []
    for start in range(0, max(len(tokens), 1), _LINES_AT_ONCE):
        wide = tokens[start : start + _LINES_AT_ONCE].T.astype(np.uint64, order="C")
        keys = wide[:last] >> np.uint64(_PART_BITS)
        for offset in range(1, n):
            keys <<= np.uint64(_TOKEN_BITS)
            keys |= wide[offset : offset + last]
        part = (wide[:last] % np.uint64(_PARTS)).astype(np.uint8).ravel()
        ends = np.cumsum(np.bincount(part, minlength=_PARTS))
        keys = keys.ravel()[np.argsort(part, kind="stable")]
        runs.append(np.split(keys, ends[:-1]))
    return [_sorted_counts(np.concatenate(run)) for run in zip(*runs, strict=True)]


def _sorted_counts(keys: np.ndarray) -> _Part:
    """Sorts keys in place; returns the different ones, and how often each occurs."""
    keys.sort()
    first = _first_occurrences(keys)
    return keys[first], np.diff(first, append=len(keys))


def _merge(one: _Part, two: _Part) -> _Part:
    keys, counts = (np.concatenate(pair) for pair in zip(one, two, strict=True))
    if not keys.size:
        return one  # `reduceat` takes no empty array.
    order = np.argsort(keys, kind="stable")  # Fast, where two runs are sorted.
    keys = keys[order]
    first = _first_occurrences(keys)
    return keys[first], np.add.reduceat(counts[order], first)


def _first_occurrences(keys: np.ndarray) -> np.ndarray:
    """Returns where each of the different ones of sorted keys comes first."""
    first = np.ones(len(keys), bool)
    np.not_equal(keys[1:], keys[:-1], out=first[1:])
    return np.flatnonzero(first)


def _look_up(keys: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns where sorted `wanted` belong among sorted `keys`, and which are there."""
    places = np.searchsorted(keys, wanted)
    found = np.zeros(len(wanted), bool)
    inside = places < len(keys)
    found[inside] = keys[places[inside]] == wanted[inside]
    return places, found
