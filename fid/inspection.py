"""What a statistics file holds, and whether it can be what it says it is."""

from __future__ import annotations

import dataclasses
import os
import re
from typing import Any

import numpy as np
import scipy.linalg

from fid.extractors.download import find_graph
from fid.extractors.extractor import INCEPTION, Extractor
from fid.files import InputError, printable, sha256_of_file
from fid.measure import compute_statistics
from fid.metrics.frechet import frechet_distance
from fid.mistaken import local_path
from fid.statistics import INDEFINITE, Statistics, protocol_differences

__all__ = ["Check", "Description", "describe", "verify"]

# Statistics computed again differ by rounding: features by 1e-5 of numbers of order
# one, on a GPU by up to 1e-3. This is the share of the mean spread that is let pass.
_AGAIN = 1e-3


@dataclasses.dataclass(frozen=True)
class Description:
    """What a statistics file holds.

    Attributes:
        file: Its path.
        sha256: Of the file, hexadecimal.
        dimension: Number of features, d.
        n: Number of images, None where the file does not say.
        written_by: Who wrote it, as far as can be told, on one line.
        trace: Of the covariance: the sum of the features' variances.
        rank: Number of eigenvalues that are not zero up to rounding.
        provenance: How the file says it came about, None where it does not.
    """

    file: str
    sha256: str
    dimension: int
    n: int | None
    written_by: str
    trace: float
    rank: int
    provenance: dict[str, Any] | None

    @property
    def full_rank(self) -> bool:
        """Whether no direction of the features is without spread."""
        return self.rank == self.dimension

    def as_json(self) -> dict[str, Any]:
        """Returns everything, JSON-able."""
        return {**vars(self), "full_rank": self.full_rank}


@dataclasses.dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Attributes:
        name: What.
        ok: Whether it is as it should be.
        found: What was found, a phrase.
    """

    name: str
    ok: bool
    found: str


def describe(path: str | os.PathLike[str]) -> Description:
    """Reads a statistics file and says what it holds.

    Args:
        path: An `.npz` with mu and sigma, whoever wrote it.

    Returns:
        What it holds.

    Raises:
        InputError: It is no such file.

    Example:
        >>> import pathlib, tempfile
        >>> import numpy as np
        >>> path = pathlib.Path(tempfile.mkdtemp(), "stats.npz")
        >>> np.savez(path, mu=np.zeros(3), sigma=np.diag([2.0, 1.0, 0.0]))
        >>> found = describe(path)
        >>> found.trace, found.rank, found.written_by
        (3.0, 2, "no provenance: as the authors' files have")
    """
    path = local_path(path)
    statistics = Statistics.load(path)
    values = _eigenvalues(statistics)
    return Description(
        file=os.fspath(path),
        sha256=sha256_of_file(path),
        dimension=statistics.dimension,
        n=statistics.n,
        written_by=_written_by(statistics.provenance),
        trace=float(np.trace(statistics.sigma)),
        rank=_rank(values),
        provenance=statistics.provenance,
    )


def verify(
    path: str | os.PathLike[str],
    *,
    source: Any = None,
    extractor: Extractor | None = None,
    inception: str | os.PathLike[str] | None = None,
    batch_size: int = 50,
    progress: bool = False,
    **reading: Any,
) -> list[Check]:
    """Checks a statistics file.

    Args:
        path: The file.
        source: The images it was computed from, to compute it again and compare; None
            leaves that out, and with it TensorFlow.
        extractor: What to compute it with; None means the 2015 graph.
        inception: Where that graph is; its SHA-256 is compared with the one in the
            provenance.
        batch_size: Images at a time.
        progress: Whether to show a progress bar.
        **reading: How the images were read, as for `measure.compute_statistics`:
            `value_range`, `recursive`, `skip_bad`. How floats were rounded, the file
            says itself.

    Returns:
        What was checked, in this order: `structure` (what `Statistics.load` refuses:
        missing keys, wrong shapes, numbers that are not finite, a covariance that is
        not symmetric or plainly indefinite, rows that do not belong to it; where this
        fails nothing else is looked at), `semidefinite` (the variance is negative in no
        direction, up to rounding), `provenance` (it says what it has to, in the right
        form), `rank` (not more than n - 1 for n images), `extractor`, `source`. What
        does not apply is left out.

    Raises:
        InputError: The file cannot be opened, or the source or the graph cannot be
            used.
    """
    path = local_path(path)
    if not os.path.isfile(path):
        raise InputError(
            f"There is no file {printable(path)}; expected an .npz of statistics."
        )
    try:
        statistics = Statistics.load(path)
    except InputError as error:
        return [Check("structure", False, str(error))]
    d, facts = statistics.dimension, statistics.provenance
    kept = "" if statistics.rows is None else f", rows ({len(statistics.rows)}, {d})"
    checks = [
        Check(
            "structure", True, f"mu ({d},), sigma ({d}, {d}){kept}, finite, symmetric"
        )
    ]
    values = _eigenvalues(statistics)
    lowest, highest = float(values[0]), float(values[-1])
    checks.append(
        Check(
            "semidefinite",
            lowest >= -INDEFINITE * max(highest, 0.0),
            f"eigenvalues from {lowest:g} to {highest:g}",
        )
    )
    checks.append(_check_provenance(statistics))
    if statistics.n is not None:
        rank = _rank(values)
        checks.append(
            Check(
                "rank",
                rank <= min(d, statistics.n - 1),
                f"{rank}, where {statistics.n} images of {d} features give at most "
                f"{min(d, statistics.n - 1)}",
            )
        )
    if inception is not None:
        checks.append(_check_extractor(facts, inception))
    if source is not None:
        again = compute_statistics(
            source,
            extractor,
            inception=inception,
            batch_size=batch_size,
            quantize=(facts or {}).get("quantize") or "none",
            progress=progress,
            **reading,
        )
        checks.append(_check_again(statistics, again))
    return checks


def _written_by(facts: dict[str, Any] | None) -> str:
    if facts is None:
        return "no provenance: as the authors' files have"
    versions = facts.get("versions")
    versions = versions if isinstance(versions, dict) else {}
    with_ = ", ".join(f"{name} {version}" for name, version in versions.items())
    created = facts.get("created")
    written_by = "tf-ttur" + (f", {created}" if created else "")
    return printable(written_by + (with_ and f", {with_}"))


def _eigenvalues(statistics: Statistics) -> np.ndarray:
    return scipy.linalg.eigvalsh(statistics.sigma, check_finite=False)


def _rank(values: np.ndarray) -> int:
    # As large as the most negative one, an eigenvalue may be rounding, too: so may
    # many of a matrix that was once float32.
    noise = max(values[-1] * len(values) * np.finfo(np.float64).eps, -values[0])
    return int((values > noise).sum())


def _sha256(facts: dict[str, Any]) -> str | None:
    return facts.get("extractor_sha256")


def _check_provenance(statistics: Statistics) -> Check:
    facts = statistics.provenance
    if facts is None:
        return Check("provenance", True, "none, as the authors' files have none")
    faults = []
    if statistics.n is None:
        faults.append("it does not say n")
    name, sha256 = facts.get("extractor"), _sha256(facts)
    if name is None:
        faults.append("it does not name the extractor")
    if sha256 is None or not re.fullmatch("[0-9a-f]{64}", sha256):
        faults.append(f"extractor_sha256 is {sha256!r}, not 64 hexadecimal digits")
    if name == INCEPTION and statistics.dimension != 2048:
        faults.append(
            f"{INCEPTION} gives 2048 features; here are {statistics.dimension}"
        )
    found = f"n = {statistics.n}, extractor {name} {(sha256 or '')[:12]}"
    return Check("provenance", not faults, "; ".join(faults) or found)


def _check_extractor(
    facts: dict[str, Any] | None, inception: str | os.PathLike[str]
) -> Check:
    sha256 = sha256_of_file(find_graph(inception))
    found = f"{printable(inception)} is {sha256}"
    if facts is None:
        return Check(
            "extractor", True, f"not compared: the file names no weights; {found}"
        )
    named = _sha256(facts)
    return Check(
        "extractor",
        sha256 == named,
        f"the file names weights {printable(named or 'None')}, {found}",
    )


def _check_again(statistics: Statistics, again: Statistics) -> Check:
    if statistics.dimension != again.dimension:
        return Check(
            "source",
            False,
            f"it gives {again.dimension} features, the file has {statistics.dimension}",
        )
    faults = []
    if statistics.provenance is not None:
        faults += protocol_differences(statistics, again)
        for key in ("n", "source_sha256"):
            one, two = (each.provenance.get(key) for each in (statistics, again))
            if one != two:
                faults.append(
                    f"{key} is {one!r} in the file and {two!r} for the source"
                )
    mean, covariance = _deviations(statistics, again)
    found = (
        f"computed again, the mean is off by {mean:.1e} of the spread, the covariance "
        f"by {covariance:.1e} of the variance, at a Fréchet distance of "
        f"{frechet_distance(statistics, again):.3g}"
    )
    ok = bool(not faults and max(mean, covariance) <= _AGAIN)
    return Check("source", ok, "; ".join([*faults, found]))


def _deviations(one: Statistics, two: Statistics) -> tuple[float, float]:
    """Largest differences of entries, as shares of the mean spread and variance."""
    variance = float(np.trace(one.sigma)) / one.dimension
    mean = float(np.abs(one.mu - two.mu).max())
    covariance = float(np.abs(one.sigma - two.sigma).max())
    if variance == 0.0:
        return (0.0 if mean == 0.0 else np.inf), (0.0 if covariance == 0.0 else np.inf)
    return mean / np.sqrt(variance), covariance / variance
