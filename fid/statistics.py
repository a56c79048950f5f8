"""Mean and covariance of features: streaming, mergeable, and as `.npz` files."""

from __future__ import annotations

import dataclasses
import json
import os
import zipfile
import zlib
from typing import Any

import numpy as np

from fid.files import InputError, atomic_write

__all__ = ["Moments", "Statistics", "protocol_differences"]

# Largest dimension a file may claim, against files made to exhaust the memory.
_MAX_DIMENSION = 32_768
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
        rows: The features themselves, float64 (n, d), kept where n <= d, since then
            they give the Fréchet distance faster and more exactly. Never written.
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
        """Writes an `.npz` file with `mu`, `sigma` and the provenance.

        `mu` and `sigma` are as in the files of the paper's authors, so every tool that
        reads those reads this.

        Args:
            path: Where the file goes; it appears whole or not at all.

        Raises:
            InputError: It cannot be written there.
        """
        arrays = {"mu": self.mu, "sigma": self.sigma}
        if self.provenance is not None:
            arrays["provenance"] = np.array(json.dumps(self.provenance))
        with atomic_write(path) as file:
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
        arrays = _read_npz(path)
        mu, sigma = arrays["mu"], arrays["sigma"]
        for name, array in (("mu", mu), ("sigma", sigma)):
            if array.dtype.kind != "f":
                raise _bad(path, f"{name} is {array.dtype}, not floating point")
        mu, sigma = mu.astype(np.float64), sigma.astype(np.float64)
        if not (np.isfinite(mu).all() and np.isfinite(sigma).all()):
            raise _bad(path, "mu or sigma holds NaN or infinities")
        spread = np.sqrt(np.abs(np.diag(sigma)))
        bound = 1e-6 * np.outer(spread, spread) + 1e-12 * spread.max(initial=0.0) ** 2
        if (np.abs(sigma - sigma.T) > bound).any():
            raise _bad(path, "sigma is not symmetric")
        if (np.diag(sigma) < 0).any():
            raise _bad(path, "sigma has a negative variance on its diagonal")
        provenance = _parse_provenance(path, arrays.get("provenance"))
        return cls(
            mu=mu,
            sigma=(sigma + sigma.T) / 2,
            n=(provenance or {}).get("n"),
            provenance=provenance,
            label=os.fspath(path),
        )


class Moments:
    """Mean and covariance of features that arrive in batches.

    Sums are kept about the running mean in float64 (Chan et al. 1979), so a mean far
    larger than the spread costs no digits. While n <= d the features themselves are
    kept instead, which is smaller and lets `frechet_distance` use its n x n form.

    Args:
        dimension: Number of features, d.

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

    def reset(self) -> None:
        """Forgets everything."""
        self.n = 0
        self._rows: list[np.ndarray] | None = []
        self._mean = np.zeros(self.dimension)
        self._scatter: np.ndarray | None = None

    def update(self, features: np.ndarray) -> None:
        """Adds features.

        Args:
            features: (m, d), m >= 0, any floating type.

        Raises:
            InputError: The shape is another, or a value is not finite.
        """
        features = np.asarray(features, np.float64)
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
        if self._rows is not None:
            # A copy: the caller may reuse the buffer.
            self._rows.append(features.copy())
            self.n += len(features)
            if self.n > self.dimension:
                rows, self._rows, self.n = np.concatenate(self._rows), None, 0
                self._scatter = np.zeros((self.dimension, self.dimension))
                self._add(len(rows), *_moments(rows))
        elif len(features):
            self._add(len(features), *_moments(features))

    def merge(self, other: Moments) -> None:
        """Adds everything another `Moments` has seen.

        Args:
            other: Moments of the same dimension; it is left as it is.
        """
        if other.dimension != self.dimension:
            raise InputError(
                f"Moments of {other.dimension} features cannot be merged into moments "
                f"of {self.dimension}."
            )
        if other._rows is not None:
            for rows in other._rows:
                self.update(rows)
            return
        rows, self._rows = self._rows, None
        if rows is not None:
            self.n, self._scatter = 0, np.zeros((self.dimension, self.dimension))
        self._add(other.n, other._mean, other._scatter)
        for each in rows or ():
            self.update(each)

    def _add(self, m: int, mean: np.ndarray, scatter: np.ndarray) -> None:
        shift = mean - self._mean
        total = self.n + m
        self._scatter += scatter + np.outer(shift, shift * (self.n * m / total))
        self._mean = self._mean + shift * (m / total)
        self.n = total

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
            raise InputError(
                f"A covariance needs at least 2 images; {self.n} "
                f"{'was' if self.n == 1 else 'were'} given."
            )
        rows = None
        if self._rows is not None:
            rows = np.concatenate(self._rows)
            mean, scatter = _moments(rows)
        else:
            mean, scatter = self._mean.copy(), self._scatter
        return Statistics(
            mu=mean,
            sigma=scatter / (self.n - 1),
            n=self.n,
            provenance=None if provenance is None else {"n": self.n, **provenance},
            rows=rows,
            label=str((provenance or {}).get("source", "statistics")),
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
            continue  # a set of bytes; `pixels` says what there is to say
        if one != two:
            differences.append(
                f"{key} is {one!r} for {first.label} and {two!r} for {second.label}"
            )
    return differences


def _moments(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    mean = rows.mean(axis=0)
    centred = rows - mean
    return mean, centred.T @ centred


def _read_npz(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            if not {"mu.npy", "sigma.npy"} <= set(names):
                found = ", ".join(sorted(names)[:5]) or "nothing"
                raise _bad(path, f"it holds {found}, not mu.npy and sigma.npy")
            (d,) = _shape(archive, path, "mu", 1)
            rows, columns = _shape(archive, path, "sigma", 2)
            if not d == rows == columns or not 1 <= d <= _MAX_DIMENSION:
                raise _bad(path, f"mu has shape ({d},) and sigma ({rows}, {columns})")
            keys = ["mu", "sigma"]
            if "provenance.npy" in names:
                if _shape(archive, path, "provenance", 0) != ():
                    raise _bad(path, "its provenance is not one string")
                keys.append("provenance")
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
            return {key: arrays[key] for key in keys}
    except OSError as error:
        raise InputError(f"Cannot read {path}: {error.strerror or error}.") from error
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise _bad(path, f"it is damaged or no .npz file ({error})") from error
    except InputError:
        raise
    except (ValueError, RuntimeError) as error:
        raise _bad(path, f"its arrays cannot be read ({error})") from error
    except MemoryError as error:
        raise _bad(path, "it claims more data than fits in memory") from error


def _shape(archive: zipfile.ZipFile, path: Any, key: str, rank: int) -> tuple[int, ...]:
    # Looked at before the array is read: a header may claim any size.
    with archive.open(f"{key}.npy") as member:
        version = np.lib.format.read_magic(member)
        read = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }.get(version)
        if read is None:
            raise _bad(path, f"{key}.npy has the unknown format version {version}")
        shape, _, dtype = read(member)
    if dtype.hasobject:
        raise _bad(path, f"{key} holds Python objects, which are never unpickled")
    if len(shape) != rank or dtype.itemsize > 2**24:
        raise _bad(path, f"{key} has shape {shape} and type {dtype}")
    return shape


def _parse_provenance(path: Any, value: np.ndarray | None) -> dict[str, Any] | None:
    if value is None:
        return None
    try:
        parsed = json.loads(str(value))
    except ValueError:
        parsed = None
    if not isinstance(parsed, dict):
        raise _bad(path, "its provenance is not a JSON object")
    for key in (*_PROTOCOL, "source"):
        if not isinstance(parsed.get(key), str | None):
            raise _bad(path, f"its provenance says {key} = {parsed[key]!r}")
    n = parsed.get("n")
    if n is not None and (not isinstance(n, int) or n < 2):
        raise _bad(path, f"its provenance says n = {n!r}")
    return parsed


def _bad(path: Any, what: str) -> InputError:
    return InputError(
        f"{path} is not a statistics file: {what}. Expected an .npz with mu (d,) and "
        "sigma (d, d); make one with precalc_stats.py."
    )
