"""Mean and covariance of features: streaming, mergeable, and as `.npz` files."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import reprlib
import zipfile
from collections.abc import Sequence
from typing import Any, BinaryIO

import numpy as np
import scipy.linalg

from fid.files import InputError, atomic_write, printable
from fid.mistaken import local_path
from fid.npz import read_header, reading

__all__ = [
    "INDEFINITE",
    "LARGEST",
    "Moments",
    "Statistics",
    "merge_statistics",
    "protocol_differences",
]

# No file may claim a larger dimension: some are made to exhaust the memory.
_MAX_DIMENSION = 8192
# An eigenvalue that is below zero by more than this share of the covariance's size is
# no matter of rounding: float32 statistics come to about 1e-7.
INDEFINITE = 1e-5
# No mean and no covariance of features is as large as this, and with larger ones a
# distance, a product of them, may be no number. It is NumPy's number, because Python's
# would become infinite beside float32.
LARGEST = np.float64(1e100)
# Features wait until there are this many, or d if that is more, so that one image at
# a time costs no pass over a (d, d) matrix each.
_BLOCK = 256
# This is deeper than anything written here, and far less deep than what ends in a
# RecursionError.
_MAX_DEPTH = 20
# Entries of the provenance which say how the images became features. Two statistics
# are comparable only where these agree.
_PROTOCOL = (
    "extractor",
    "extractor_sha256",
    "resize",
    "pixels",
    "quantize",
    "dtype",
    "source_resolution",
)


@dataclasses.dataclass(frozen=True, eq=False)
class Statistics:
    """Mean and covariance of a set of features.

    Attributes:
        mu: Mean, float64 (d,).
        sigma: Covariance with divisor n - 1, float64 (d, d), symmetric.
        n: Number of images, or None where a file does not say.
        provenance: How they came about, JSON-able; None where a file does not say.
        rows: The features themselves, (n, d), float32 or float64, kept where n <= d,
            since then they give the Fréchet distance faster and more exactly.
        label: What to call this set in messages.
    """

    mu: np.ndarray
    sigma: np.ndarray
    n: int | None = None
    provenance: dict[str, Any] | None = None
    rows: np.ndarray | None = None
    label: str = "statistics"

    @property
    def dimension(self) -> int:
        """Number of features, d."""
        return len(self.mu)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes an `.npz` file with `mu`, `sigma`, the provenance and the rows.

        `mu` and `sigma` are as in the files of the paper's authors, so every tool that
        reads those reads this. `rows` is float32 where that loses nothing, which is so
        for the features of any float32 extractor, and float64 otherwise.

        Args:
            path: Where the file goes; it appears whole or not at all.

        Raises:
            InputError: It cannot be written there, or the provenance is not what
                `load` would take.
        """
        with atomic_write(local_path(path, writing=True)) as file:
            self.write(file)

    def write(self, file: BinaryIO) -> None:
        """Writes what `save` writes to a file that is open.

        Args:
            file: Open for writing, in binary.

        Raises:
            InputError: The provenance is not what `load` would take.
        """
        arrays = {"mu": self.mu, "sigma": self.sigma}
        if self.provenance is not None:
            arrays["provenance"] = np.array(_provenance_as_text(self))
        if self.rows is not None:
            single = self.rows.astype(np.float32)
            exact = np.array_equal(single, self.rows)
            arrays["rows"] = single if exact else self.rows
        np.savez_compressed(file, **arrays)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Statistics:
        """Reads an `.npz` file with `mu` and `sigma`, whoever wrote it.

        Args:
            path: The file.

        Returns:
            The statistics.

        Raises:
            InputError: It is no such file, or what it holds cannot be a mean and a
                covariance. Nothing is ever unpickled.
        """
        # Everything below is guarded: a file may exhaust the memory after it was read,
        # too.
        path = local_path(path)
        with reading(path):
            return cls._load(path)

    @classmethod
    def _load(cls, path: str | os.PathLike[str]) -> Statistics:
        arrays = _read_npz(path)
        for name, array in arrays.items():
            if name != "provenance" and not (np.abs(array) <= LARGEST).all():
                raise _bad(
                    path, f"{name} holds NaN, infinities or numbers above {LARGEST:g}"
                )
        mu, sigma = (
            arrays[key].astype(np.float64, copy=False) for key in ("mu", "sigma")
        )
        if not np.array_equal(sigma, sigma.T):
            spread = np.sqrt(np.abs(np.diag(sigma)))
            bound = 1e-6 * np.outer(spread, spread) + 1e-12 * spread.max() ** 2
            if (np.abs(sigma - sigma.T) > bound).any():
                raise _bad(path, "sigma is not symmetric")
            sigma = (sigma + sigma.T) / 2
        if (np.diag(sigma) < 0).any():
            raise _bad(path, "sigma has a negative variance on its diagonal")
        provenance = _parse_provenance(path, arrays.get("provenance"))
        n, rows = (provenance or {}).get("n"), arrays.get("rows")
        if rows is not None:
            n = _check_rows(path, rows, mu, sigma, n)
        elif _is_indefinite(sigma):
            raise _bad(path, "sigma has negative eigenvalues, as no covariance has")
        return cls(mu, sigma, n, provenance, rows, printable(path))


class Moments:
    """Mean and covariance of features that arrive in batches.

    Features are gathered into blocks; of each block the mean and the sums about it
    are taken in float64 and merged into those of the blocks before (Chan et al. 1979),
    so a mean far larger than the spread costs no digits. Until there are more than d
    features nothing is summed: they are smaller than a covariance and let
    `frechet_distance` use its n x n form. A `Moments` can be pickled.

    Args:
        dimension: Number of features, d.

    Attributes:
        dimension: d.
        n: Number of images so far.

    Example:
        >>> import numpy as np
        >>> from fid import Moments
        >>> features = np.random.default_rng(0).normal(size=(1000, 8))
        >>> moments = Moments(8)
        >>> for batch in np.array_split(features, 7):
        ...     moments.update(batch)
        >>> sigma = moments.statistics().sigma
        >>> bool(np.allclose(sigma, np.cov(features, rowvar=False), rtol=1e-12))
        True
    """

    def __init__(self, dimension: int):
        self.dimension = dimension
        self.reset()

    @classmethod
    def from_statistics(cls, statistics: Statistics) -> Moments:
        """Returns the state that statistics came from, to go on adding to it.

        Args:
            statistics: With their n; with their rows, where they have them, the state
                is exactly what it was.

        Returns:
            The moments.

        Raises:
            InputError: The statistics do not say how many images they are of.

        Example:
            >>> import numpy as np
            >>> from fid import Moments, Statistics
            >>> moments = Moments.from_statistics(
            ...     Statistics(np.zeros(1), np.eye(1), n=3)
            ... )
            >>> moments.update(np.array([[4.0]]))
            >>> moments.statistics().mu
            array([1.])
        """
        if statistics.n is None:
            raise InputError(
                f"{statistics.label} does not say how many images it is of, so nothing "
                "can be added to it. Compute it again with precalc_stats.py."
            )
        moments = cls(statistics.dimension)
        if statistics.rows is not None:
            moments.update(statistics.rows)
        else:
            scatter = statistics.sigma * (statistics.n - 1)
            moments._summed = (statistics.n, statistics.mu.copy(), scatter)
        return moments

    @property
    def n(self) -> int:
        """Number of images so far."""
        return self._summed[0] + self._waiting_n

    def reset(self) -> None:
        """Forgets everything."""
        # The blocks summed up have this n, this mean and these sums about the mean.
        self._summed: tuple[int, np.ndarray | None, np.ndarray | None] = (0, None, None)
        self._waiting: list[np.ndarray] = []
        self._waiting_n = 0

    def update(self, features: np.ndarray) -> None:
        """Adds features.

        Args:
            features: (m, d), m >= 0, any floating type.

        Raises:
            InputError: The shape is another, or a value is not finite.
        """
        features = np.asarray(features)
        if features.ndim != 2 or features.shape[1] != self.dimension:
            raise InputError(
                f"Features of shape {features.shape} were given; expected "
                f"(m, {self.dimension})."
            )
        finite = np.isfinite(features).all(axis=1)
        if not finite.all():
            raise InputError(
                f"The features of image {self.n + int(np.argmin(finite))} (counted "
                "from 0) are not finite; look at that image."
            )
        # A copy is kept, because the caller may reuse the buffer. float32 stays as it
        # is, which takes half the memory.
        single = features.dtype == np.float32
        features = features.astype(np.float32 if single else np.float64)
        block = max(self.dimension, _BLOCK)
        while len(features):
            part = features[: block + 1 - self._waiting_n]
            features = features[len(part) :]
            self._waiting.append(part)
            self._waiting_n += len(part)
            if self._waiting_n > block:
                self._summed = self._sums()
                self._waiting, self._waiting_n = [], 0

    def merge(self, other: Moments) -> None:
        """Adds everything another `Moments` has seen.

        Args:
            other: Moments of the same dimension; it is left as it is.

        Raises:
            InputError: Its dimension is another.
        """
        if other.dimension != self.dimension:
            raise InputError(
                f"Moments of {other.dimension} features cannot be merged into moments "
                f"of {self.dimension}."
            )
        self._summed = _merged(self._summed, other._summed)
        # The list is copied, because `other` may be this very object.
        for rows in list(other._waiting):
            self.update(rows)

    def statistics(self, provenance: dict[str, Any] | None = None) -> Statistics:
        """Returns mean and covariance of all features so far.

        Args:
            provenance: Kept in the result, with `n` added.

        Returns:
            The statistics, with the features themselves where n <= d.

        Raises:
            InputError: Fewer than two images were seen.
        """
        if self.n < 2:
            source = (provenance or {}).get("source")
            raise InputError(
                f"A covariance needs at least 2 images; {self.n} "
                f"{'was' if self.n == 1 else 'were'} given"
                f"{f' by {source}' if source else ''}. Add more."
            )
        n, mean, scatter = self._sums()
        few = n <= self.dimension and self._waiting_n == n
        return Statistics(
            mu=mean.copy(),
            sigma=scatter / (n - 1),
            n=n,
            provenance=None if provenance is None else {**provenance, "n": n},
            rows=np.concatenate(self._waiting) if few else None,
            label=str((provenance or {}).get("source", "statistics")),
        )

    def _sums(self) -> tuple[int, np.ndarray, np.ndarray]:
        """Returns n, mean and sums about the mean of all features so far."""
        if not self._waiting_n:
            return self._summed
        return _merged(self._summed, _sums_of(np.concatenate(self._waiting)))


def merge_statistics(statistics: Sequence[Statistics]) -> Statistics:
    """Joins statistics of the parts of a set, computed apart, into those of the whole.

    Args:
        statistics: One or more, each with its n, all measured alike.

    Returns:
        The statistics of all images together. Its provenance keeps what the parts have
        in common; `sources` lists what each of them says for itself.

    Raises:
        InputError: One does not say how many images it is of, has another dimension, or
            was measured in another way than the first.

    Example:
        >>> import numpy as np
        >>> from fid import Moments, merge_statistics
        >>> shards = []
        >>> for shard in ([[1.0], [2.0]], [[3.0], [6.0]]):
        ...     moments = Moments(1)
        ...     moments.update(np.array(shard))
        ...     shards.append(moments.statistics({"source": "a shard"}))
        >>> whole = merge_statistics(shards)
        >>> whole.n, float(whole.mu[0]), round(float(whole.sigma[0, 0]), 6)
        (4, 3.0, 4.666667)
    """
    if not statistics:
        raise InputError("No statistics to merge; name at least one file.")
    first = statistics[0]
    for each in statistics:
        if each.dimension != first.dimension:
            raise InputError(
                f"{each.label} has {each.dimension} features and {first.label} has "
                f"{first.dimension}: they cannot be merged. Compute both with the same "
                "extractor."
            )
        # Two sets in memory of which nothing is known may be measured alike.
        if each.provenance is None and first.provenance is None:
            continue
        if differences := protocol_differences(first, each):
            raise InputError(
                f"{each.label} cannot be merged with {first.label}: "
                f"{'; '.join(differences)}. Compute all parts in the same way."
            )
    moments = Moments(first.dimension)
    for each in statistics:
        moments.merge(Moments.from_statistics(each))
    if first.provenance is None:
        return moments.statistics()
    facts = [part for each in statistics for part in _parts(each.provenance)]
    common = {
        key: value
        for key, value in facts[0].items()
        if all(key in other and other[key] == value for other in facts)
    }
    return moments.statistics(
        {
            **common,
            "source": f"{len(facts)} merged sets",
            "sources": [
                # The number of images and the name are always said.
                {k: v for k, v in f.items() if k in ("source", "n") or k not in common}
                for f in facts
            ],
        }
    )


def protocol_differences(first: Statistics, second: Statistics) -> list[str]:
    """Says in what two statistics were computed differently.

    Args:
        first: One set.
        second: The other.

    Returns:
        One sentence for each difference; empty if there is none.
    """
    unknown = [s.label for s in (first, second) if s.provenance is None]
    if unknown:
        return [
            f"{label} does not say how it was computed (no provenance)"
            for label in unknown
        ]
    differences = []
    for key in _PROTOCOL:
        one, two = first.provenance.get(key), second.provenance.get(key)
        if key == "quantize" and None in (one, two):
            continue  # It is a set of bytes; `pixels` says what there is to say.
        if one != two:
            differences.append(
                f"{key} is {one!r} for {first.label} and {two!r} for {second.label}"
            )
    return differences


def _sums_of(rows: np.ndarray) -> tuple[int, np.ndarray, np.ndarray]:
    """Returns n, mean and the sums of products about the mean."""
    mean = rows.mean(axis=0, dtype=np.float64)
    centred = rows - mean
    # NumPy sees that both are one array and calls BLAS's syrk, which halves the work.
    return len(rows), mean, centred.T @ centred


def _merged(
    one: tuple[int, np.ndarray | None, np.ndarray | None],
    two: tuple[int, np.ndarray | None, np.ndarray | None],
) -> tuple[int, np.ndarray | None, np.ndarray | None]:
    """Merges n, mean and sums about the mean of two sets (Chan et al. 1979)."""
    if not one[0] or not two[0]:
        return one if one[0] else two
    n = one[0] + two[0]
    shift = two[1] - one[1]
    scatter = np.outer(shift, shift * (one[0] * two[0] / n))
    scatter += one[2]
    scatter += two[2]
    return n, one[1] + shift * (two[0] / n), scatter


def _parts(provenance: dict[str, Any]) -> list[dict[str, Any]]:
    """Returns the facts of each set that a file was made of: one, unless merged."""
    sources = provenance.get("sources")
    if not sources:
        return [provenance]
    shared = {k: v for k, v in provenance.items() if k != "sources"}
    return [{**shared, **part} for part in sources]


def _is_indefinite(sigma: np.ndarray) -> bool:
    # After a shift that lifts what rounding may have pushed below zero, a Cholesky
    # factorisation can judge, which is far cheaper than eigenvalues. To be singular is
    # no fault.
    shifted = sigma.copy()
    lift = INDEFINITE * np.linalg.norm(sigma) + np.finfo(np.float64).tiny
    np.fill_diagonal(shifted, np.diag(sigma) + lift)
    _, info = scipy.linalg.lapack.dpotrf(shifted.T, clean=False, overwrite_a=True)
    return info != 0


def _check_rows(
    path: Any, rows: np.ndarray, mu: np.ndarray, sigma: np.ndarray, n: int | None
) -> int:
    """Refuses rows that are not what `mu` and `sigma` come from; returns their number.

    That sigma is no indefinite matrix follows.
    """
    if n not in (None, len(rows)):
        raise _bad(path, f"it is of {n} images but holds {len(rows)} rows of features")
    _, mean, scatter = _sums_of(rows)
    largest = np.abs(rows).max(axis=0)
    spread = np.sqrt(np.diag(sigma)) + 1e-6 * largest
    far = np.abs(mean - mu) > 1e-6 * spread
    wide = np.abs(scatter / (len(rows) - 1) - sigma) > 1e-6 * np.outer(spread, spread)
    if far.any() or wide.any():
        raise _bad(path, "its rows of features have another mean or covariance")
    return len(rows)


def _read_npz(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    if _is_gzip(path):
        raise _bad(
            path,
            "it is gzip-compressed, as the authors' pickles of summer 2017 are; a "
            "pickle can run any code and is never opened",
        )
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        if not {"mu.npy", "sigma.npy"} <= set(names):
            found = ", ".join(map(printable, sorted(names)[:5])) or "nothing"
            raise _bad(path, f"it holds {found}, not mu.npy and sigma.npy")
        (d,) = _shape(archive, path, "mu", 1)
        rows, columns = _shape(archive, path, "sigma", 2)
        if not d == rows == columns or not 1 <= d <= _MAX_DIMENSION:
            raise _bad(path, f"mu has shape ({d},) and sigma ({rows}, {columns})")
        keys = ["mu", "sigma"]
        if "rows.npy" in names:
            n, columns = _shape(archive, path, "rows", 2)
            if columns != d or not 2 <= n <= d:
                raise _bad(path, f"rows has shape ({n}, {columns}) and mu ({d},)")
            keys.append("rows")
        if "provenance.npy" in names:
            _shape(archive, path, "provenance", 0, kind="U")
            keys.append("provenance")
        arrays = {}
        for key in keys:
            with archive.open(f"{key}.npy") as member:
                arrays[key] = np.lib.format.read_array(member, allow_pickle=False)
        return arrays


def _is_gzip(path: str | os.PathLike[str]) -> bool:
    with open(path, "rb") as file:
        return file.read(2) == b"\x1f\x8b"


def _shape(
    archive: zipfile.ZipFile, path: Any, key: str, rank: int, kind: str = "f"
) -> tuple[int, ...]:
    # The header is checked before the array is read: it may claim any size.
    with archive.open(f"{key}.npy") as member:
        shape, _, dtype = read_header(member, f"{key} of {printable(path)}")
    if dtype.kind != kind:
        expected = {"f": "floating point", "U": "text"}[kind]
        raise _bad(path, f"{key} is {dtype}, not {expected}")
    if len(shape) != rank or dtype.itemsize > 2**24:
        raise _bad(path, f"{key} has shape {shape} and type {dtype}")
    return shape


def _provenance_as_text(statistics: Statistics) -> str:
    try:
        text = json.dumps(statistics.provenance, allow_nan=False)
        fault = _fault(_parse_json(text))
    except (TypeError, ValueError, RecursionError) as error:
        fault = f"cannot be written as JSON ({error})"
    if fault:
        raise InputError(
            f"The provenance of {statistics.label} {fault}; correct it before it is "
            "saved."
        )
    return text


def _parse_provenance(path: Any, value: np.ndarray | None) -> dict[str, Any] | None:
    if value is None:
        return None
    try:
        parsed = _parse_json(str(value))
    except (ValueError, RecursionError) as error:
        raise _bad(path, f"its provenance is not JSON ({error})") from error
    if fault := _fault(parsed):
        raise _bad(path, f"its provenance {fault}")
    return parsed


def _parse_json(text: str) -> Any:
    # NaN and infinities, which Python reads and writes, are not JSON.
    return json.loads(text, parse_constant=_finite, parse_float=_finite)


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is no finite number")
    return number


def _fault(facts: Any) -> str | None:
    """Returns what is wrong with a provenance, if anything is."""
    if not isinstance(facts, dict):
        return "is not a JSON object"
    if _is_deep(facts):
        return f"is nested more than {_MAX_DEPTH} deep"
    sources = facts.get("sources", [])
    if not isinstance(sources, list) or not all(isinstance(s, dict) for s in sources):
        return "says sources which are no list of objects"
    for each in (facts, *sources):
        for key in (*_PROTOCOL, "source"):
            if not isinstance(each.get(key), str | None):
                return f"says {key} = {reprlib.repr(each[key])}"
        # It becomes part of the metric's name, at the beginning of a line.
        name = each.get("extractor")
        if name is not None and not (name.strip() and name.isprintable()):
            return f"says extractor = {reprlib.repr(name)}; expected a text of one line"
        n = each.get("n")
        # Up to here floats count exactly.
        if n is not None and (type(n) is not int or not 2 <= n < 2**53):
            return f"says n = {reprlib.repr(n)}"
    return None


def _is_deep(value: Any, depth: int = _MAX_DEPTH) -> bool:
    if not isinstance(value, dict | list):
        return False
    inner = value.values() if isinstance(value, dict) else value
    return not depth or any(_is_deep(each, depth - 1) for each in inner)


def _bad(path: Any, what: str) -> InputError:
    return InputError(
        f"{printable(path)} is not a statistics file: {what}. Expected an .npz with mu "
        "(d,) and sigma (d, d); make one with precalc_stats.py."
    )
