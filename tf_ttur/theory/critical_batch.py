"""The critical batch size of two networks with rates of their own (Sato & Iiduka 2023).

With constant learning rates the number of steps N(b) to a given quality falls as the
batch size b grows, and the number of examples N(b) b has a minimum, at the critical
batch size b*. For one network the mean over N steps of a measure of non-stationarity is
at most

    A / N + B / b + C.

A shrinks with the rate, B and C grow with it. To bring this down to a tolerance of
epsilon^2 = C + e takes

    N(b) = A b / (e b - B)  steps,  if b > B / e,

and N(b) b is least at b* = 2 B / e, where N = 2 A / e. The paper's body was not to be
had; what rests on its abstract, the authors' code and our own derivation is called
*reconstructed* here.

`Bound` is that bound, `minimise_jointly` looks at two networks, `fit` finds p = e / A
and q = B / A of 1 / N = p - q / b from runs, and asks whether a rival without a minimum
explains them better. `two_batch_noise` and `reconstructed_factor` estimate b* without a
sweep.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence

import numpy as np
import scipy.special

from fid.files import InputError

__all__ = [
    "Bound",
    "Curve",
    "Fit",
    "Minimum",
    "Noise",
    "Run",
    "adaptive_bound",
    "calibrated",
    "fit",
    "least_critical_batch",
    "measured_minimum",
    "minimise_jointly",
    "optimal_rates",
    "quadratic_minimum",
    "reconstructed_factor",
    "sgd_on_a_quadratic",
    "two_batch_noise",
]

STATUSES = ("reached", "censored", "diverged")

# The spread of log N is not fitted below this: exact runs would have a likelihood
# without a maximum. It is far below a step of any run.
_LEAST_SPREAD = 1e-6
# Models whose AIC is closer than this are both supported by the data (Burnham &
# Anderson 2002, section 2.6).
_DECISIVE = 2.0
# A quantile of 0.975 of the normal distribution.
_TWO_SIDED = 1.959963984540054


# ---- the bound and what follows from it


@dataclasses.dataclass(frozen=True)
class Bound:
    """The bound A / N + B / b + C after N steps with batches of b.

    Attributes:
        start: A > 0, what the start costs; it is divided by the steps.
        noise: B >= 0, what the gradients' noise costs; it is divided by the batch.
        floor: C >= 0, what neither steps nor batches lower.

    Example:
        >>> from tf_ttur.theory.critical_batch import Bound
        >>> bound = Bound(start=2000.0, noise=10.0, floor=0.2)
        >>> bound.critical_batch(1.0)
        25.0
        >>> bound.steps(25.0, 1.0)
        5000.0
    """

    start: float
    noise: float
    floor: float = 0.0

    def __post_init__(self) -> None:
        values = dataclasses.astuple(self)
        if not np.isfinite(values).all() or min(values) < 0 or self.start == 0:
            raise InputError(
                f"A bound of A, B, C = {values} was given; they must be finite numbers "
                "that are not negative, and A positive."
            )

    def value(self, steps: float, batch: float) -> float:
        """Returns the bound itself.

        Args:
            steps: N > 0.
            batch: b > 0, in examples.
        """
        return self.start / steps + self.noise / batch + self.floor

    def excess(self, tolerance: float) -> float:
        """Returns e, by how much a tolerance lies above the floor C.

        Args:
            tolerance: epsilon^2, the mean that is to be reached.

        Raises:
            InputError: No number of steps reaches it.
        """
        if not tolerance > self.floor:
            raise InputError(
                f"The tolerance {tolerance:g} is not above the bound's floor "
                f"{self.floor:g}: no number of steps reaches it. Raise the tolerance, "
                "or lower the learning rate."
            )
        return tolerance - self.floor

    def least_batch(self, tolerance: float) -> float:
        """Returns B / e; batches of this size or smaller never reach the tolerance."""
        return self.noise / self.excess(tolerance)

    def critical_batch(self, tolerance: float) -> float:
        """Returns b* = 2 B / e, where the fewest examples are needed."""
        return 2 * self.least_batch(tolerance)

    def steps(self, batch: float, tolerance: float) -> float:
        """Returns N(b), infinite where the batch is too small.

        Args:
            batch: b > 0, in examples.
            tolerance: epsilon^2, above the floor.
        """
        margin = self.excess(tolerance) * batch - self.noise
        return self.start * batch / margin if margin > 0 else math.inf

    def examples(self, batch: float, tolerance: float) -> float:
        """Returns N(b) b, the calls of the stochastic first-order oracle."""
        return self.steps(batch, tolerance) * batch


def adaptive_bound(
    *,
    rate: float,
    dimension: int,
    distance: float,
    variance: float,
    gradient: float,
    least_scale: float,
    largest_scale: float,
    beta_1: float = 0.0,
    gamma: float = 0.0,
    power: int = 1,
) -> Bound:
    """Returns the bound of a network trained by an adaptive method (derived).

    A step is theta - rate * m_hat / h, entry by entry, with m_hat = m / (1 -
    gamma^(n+1)) and m of decay `beta_1`. It holds for h that never fall, as AMSGrad's;
    Adam and RMSProp as they are used do not fulfil this.

    Args:
        rate: Learning rate, > 0.
        dimension: Number of weights.
        distance: Largest squared distance of one weight from the solution's.
        variance: Variance of one example's gradient, summed over the weights.
        gradient: Bound on the squared norm of the gradient.
        least_scale: The least entry of h at the start, > 0.
        largest_scale: A bound on the mean of each entry of h.
        beta_1: Decay of the first moment, in [0, 1); 0 for SGD and RMSProp.
        gamma: `beta_1` where the first moment is corrected for its start, as in Adam
            and AdaBelief, else 0.
        power: Exponent p of (1 - gamma)^p: 1 by the derivation, 2 in a looser form.

    Raises:
        InputError: A value is out of its range.
    """
    _check_power(power)
    for name, value in (("rate", rate), ("least_scale", least_scale)):
        _check(name, value, value > 0, "positive")
    for name, value in (("beta_1", beta_1), ("gamma", gamma)):
        _check(name, value, 0 <= value < 1, "in [0, 1)")
    whole = dimension * distance
    share = rate / (2 * (1 - beta_1) * (1 - gamma) ** power * least_scale)
    momentum = beta_1 / (1 - beta_1) * math.sqrt(whole * (variance + gradient))
    return Bound(
        start=whole * largest_scale / (2 * rate * (1 - beta_1)),
        noise=variance * share,
        floor=gradient * share + momentum,
    )


def _check_power(power: int) -> None:
    if power not in (1, 2):
        raise InputError(f"The power is {power}; it must be 1 or 2.")


def _check(name: str, value: float, fits: bool, range_: str) -> None:
    if not (fits and math.isfinite(value)):
        raise InputError(f"{name} is {value}; it must be {range_}.")


def minimise_jointly(
    one: Bound, one_tolerance: float, other: Bound, other_tolerance: float
) -> float:
    """Returns the batch size at which two networks need the fewest examples.

    Both train for the same number of steps with one batch size, so as many as the
    slower one needs: the minimum of b max(N_one(b), N_other(b)). It is one network's
    own critical batch size where that network is the slower one there, and else the
    batch size at which both need equally many steps.

    Args:
        one: A network's bound.
        one_tolerance: Its epsilon^2.
        other: The other network's bound.
        other_tolerance: Its epsilon^2.

    Returns:
        The batch size, in examples.
    """
    pairs = ((one, one_tolerance), (other, other_tolerance))
    for (mine, tolerance), (theirs, their_tolerance) in (pairs, pairs[::-1]):
        batch = mine.critical_batch(tolerance)
        slower = mine.steps(batch, tolerance) >= theirs.steps(batch, their_tolerance)
        if batch > theirs.least_batch(their_tolerance) and slower:
            return batch
    # N_one = N_other, that is A_1 (e_2 b - B_2) = A_2 (e_1 b - B_1).
    return (one.start * other.noise - other.start * one.noise) / (
        one.start * other.excess(other_tolerance)
        - other.start * one.excess(one_tolerance)
    )


# ---- runs and the curves fitted to them


@dataclasses.dataclass(frozen=True)
class Run:
    """How many steps a run of one batch size took.

    Attributes:
        batch: b >= 1, in examples.
        status: "reached", "censored" (not reached within `steps`) or "diverged".
        steps: The steps at which the quality was first seen to be reached; for others
            the last at which it was looked for.
        previous: The steps of the measurement before, where it was not reached yet; the
            quality was reached in (previous, steps]. None where `steps` is exact.
        seed: The run's seed.
    """

    batch: float
    status: str
    steps: float
    previous: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.status not in STATUSES:
            raise InputError(
                f"A run has the status {self.status!r}; it must be one of "
                f"{', '.join(STATUSES)}."
            )
        numbers = [self.batch, self.steps]
        if self.previous is not None:
            numbers.append(self.previous)
        fits = np.isfinite(numbers).all() and self.batch > 0 and self.steps > 0
        if not fits or not 0 <= (self.previous or 0) <= self.steps:
            raise InputError(
                f"A run has batch {self.batch}, steps {self.steps} and previous "
                f"{self.previous}; the first two must be positive, and the last "
                "between 0 and the steps."
            )


@dataclasses.dataclass(frozen=True)
class Curve:
    """A curve N(b) fitted to runs by maximum likelihood.

    Attributes:
        kind: "bound" for N = N_inf b / (b - b_0), "noise scale" for the rival
            N = N_inf (1 + b_0 / b), whose N b has no minimum (McCandlish et al. 2018).
        limit: N_inf, the steps of infinitely large batches.
        batch: b_0: of the bound the size below which the quality is never reached,
            of the rival its noise scale; negative if N grows with b.
        spread: Standard deviation of log N about the curve.
        log_likelihood: Of all runs, in nats.
    """

    kind: str
    limit: float
    batch: float
    spread: float
    log_likelihood: float

    @property
    def aic(self) -> float:
        """Akaike's information criterion, 2 k - 2 log L with k = 3."""
        return 2 * 3 - 2 * self.log_likelihood

    def steps(self, batch: np.ndarray | float) -> np.ndarray:
        """Returns N at batch sizes, float64; infinite where they are too small."""
        return np.exp(_log_steps(self.kind, np.log(self.limit), self.batch, batch))


@dataclasses.dataclass(frozen=True)
class Fit:
    """What `fit` found.

    Attributes:
        bound: The curve 1 / N = p - q / b.
        rival: The curve without a minimum.
        critical_batch: b* = 2 q / p of the bound; None if q <= 0.
        interval: Its 95 % interval over the seeds; None without a bootstrap or b*.
        p_interval: That of p.
        q_interval: That of q.
        verdict: One sentence for people.
        diverged: Number of runs that diverged, by batch size; they are left out.
    """

    bound: Curve
    rival: Curve
    critical_batch: float | None
    interval: tuple[float, float] | None
    p_interval: tuple[float, float] | None
    q_interval: tuple[float, float] | None
    verdict: str
    diverged: dict[float, int]

    @property
    def p(self) -> float:
        """The intercept of 1 / N over 1 / b, e / A."""
        return 1 / self.bound.limit

    @property
    def q(self) -> float:
        """The slope of 1 / N over 1 / b, with its sign turned, B / A."""
        return self.bound.batch / self.bound.limit


def fit(runs: Iterable[Run], *, resamples: int = 1000, seed: int = 0) -> Fit:
    """Fits 1 / N = p - q / b, and a rival without a minimum, to the runs of a sweep.

    log N is taken as normal about the curve, with one spread. A run that was measured
    every so many steps says between which two of them it got there, and one that did
    not get there says that it takes longer; both enter the likelihood as that. Runs
    that diverged say nothing about N and are counted only.

    Args:
        runs: Runs of at least two batch sizes; see `Run`.
        resamples: Bootstrap resamples of the seeds within each batch size; 0 for none.
            There are no intervals where a batch size has a single run.
            Their deviations are widened by sqrt(m / (m - 1)) for m seeds, which
            resampling few of them understates (Davison & Hinkley 1997, section 2.3).
        seed: Of the bootstrap.

    Returns:
        Both curves, b* with its interval, and a verdict: "no critical batch detected"
        where q <= 0, and where the rival explains the runs better.

    Raises:
        InputError: Fewer than two batch sizes have runs that reached the quality, or
            all runs diverged.

    Example:
        >>> from tf_ttur.theory.critical_batch import Run, fit
        >>> exact = [Run(b, "reached", 1 / (1e-3 - 8e-3 / b)) for b in (10, 20, 40, 80)]
        >>> round(fit(exact, resamples=0).critical_batch, 3)
        16.0
    """
    runs = list(runs)
    if resamples < 0:
        raise InputError(
            f"{resamples} resamples were asked for; there can be 0 or more."
        )
    diverged: dict[float, int] = {}
    for run in runs:
        if run.status == "diverged":
            diverged[run.batch] = diverged.get(run.batch, 0) + 1
    kept = [run for run in runs if run.status != "diverged"]
    _check_runs(runs, kept)
    table = _Table.of(kept)
    bound, rival = _fit_curve("bound", table), _fit_curve("noise scale", table)
    intervals: list[tuple[float, float] | None] = [None, None, None]
    if resamples and np.unique(table.batch, return_counts=True)[1].min() > 1:
        intervals = _bootstrap(table, bound, resamples, seed)
    critical = 2 * bound.batch if bound.batch > 0 else None
    return Fit(
        bound=bound,
        rival=rival,
        critical_batch=critical,
        interval=intervals[0] if critical is not None else None,
        p_interval=intervals[1],
        q_interval=intervals[2],
        verdict=_verdict(bound, rival, intervals[2]),
        diverged=diverged,
    )


def _check_runs(runs: Sequence[Run], kept: Sequence[Run]) -> None:
    if not kept:
        raise InputError(
            f"All {len(runs)} runs diverged: no curve can be fitted. Lower the rates."
            if runs
            else "There are no runs to fit a curve to."
        )
    reached = sorted({run.batch for run in kept if run.status == "reached"})
    if len(reached) < 2:
        sizes = sorted({run.batch for run in kept})
        raise InputError(
            f"{len(kept)} runs of {len(sizes)} batch sizes have ended, and the quality "
            f"was reached with {len(reached)} of these sizes; a curve needs at least "
            "two. Add batch sizes, allow more steps or ask for less quality."
        )


def _verdict(bound: Curve, rival: Curve, q: tuple[float, float] | None) -> str:
    better = rival.aic - bound.aic
    if bound.batch <= 0:
        return "No critical batch detected: q is not positive."
    if q is not None and q[0] <= 0:
        return "No critical batch detected: the interval of q contains zero."
    if better < 0:
        return (
            "No critical batch detected: a curve whose examples have no minimum "
            f"explains the runs better (AIC lower by {-better:.1f})."
        )
    if better < _DECISIVE:
        return (
            f"Undecided: a critical batch of {2 * bound.batch:.3g}, and a curve whose "
            "examples have no minimum, explain the runs about as well (AIC apart by "
            f"{better:.1f})."
        )
    return (
        f"A critical batch of {2 * bound.batch:.3g}; the rival without a minimum is "
        f"worse (AIC higher by {better:.1f})."
    )


@dataclasses.dataclass(frozen=True)
class _Table:
    """The runs as arrays: log N lies in (low, high], or is low where both are equal."""

    batch: np.ndarray
    low: np.ndarray
    high: np.ndarray

    @classmethod
    def of(cls, runs: Sequence[Run]) -> _Table:
        batch = np.array([run.batch for run in runs], float)
        steps = np.log([run.steps for run in runs])
        previous = np.array(
            [run.steps if run.previous is None else run.previous for run in runs], float
        )
        with np.errstate(divide="ignore"):
            low = np.log(previous)
        reached = np.array([run.status == "reached" for run in runs])
        return cls(
            batch, np.where(reached, low, steps), np.where(reached, steps, np.inf)
        )

    def rows(self, chosen: np.ndarray) -> _Table:
        return _Table(self.batch[chosen], self.low[chosen], self.high[chosen])

    @property
    def reached(self) -> np.ndarray:
        return np.isfinite(self.high)


def _log_steps(
    kind: str, log_limit: float, batch: float, sizes: np.ndarray | float
) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.asarray(sizes, float) / (np.asarray(sizes, float) - batch)
        if kind != "bound":
            ratio = 1 + batch / np.asarray(sizes, float)
        return log_limit + np.where(ratio > 0, np.log(ratio), np.inf)


def _fit_curve(kind: str, table: _Table) -> Curve:
    """Maximises the likelihood over N_inf, b_0 and the spread."""
    starts = _starts(kind, table)
    weights = np.ones((len(starts), len(table.batch)))
    found, values = _maximise(kind, table, weights, starts)
    return _curve(kind, table, found[values.argmax()], float(values.max()))


def _curve(kind: str, table: _Table, x: np.ndarray, log_likelihood: float) -> Curve:
    offset = math.exp(x[1]) - _anchor(kind, table)
    batch = -offset if kind == "bound" else offset
    return Curve(kind, math.exp(x[0]), float(batch), math.exp(x[2]), log_likelihood)


def _anchor(kind: str, table: _Table) -> float:
    """The size that b - anchor + exp(t) is counted from, t being unbounded.

    The bound's b_0 = anchor - exp(t) lies below every size that got there; the rival's
    b_0 = exp(t) - anchor above the negative of every size, so that N is positive.
    """
    return (table.batch[table.reached] if kind == "bound" else table.batch).min()


def _starts(kind: str, table: _Table) -> np.ndarray:
    """Where the search starts: at the line of weighted least squares, and near it."""
    used = table.reached
    sizes, anchor = table.batch[used], _anchor(kind, table)
    low = np.maximum(table.low, table.high - 1)[used]
    steps = np.exp((low + table.high[used]) / 2)
    # An error of log N is one of N times N, and one of 1 / N divided by N.
    if kind == "bound":
        slope, limit = np.polyfit(1 / sizes, 1 / steps, 1, w=steps)
        gaps = [anchor + slope / limit if limit > 0 else anchor, anchor, anchor / 2]
    else:
        slope, limit = np.polyfit(1 / sizes, steps, 1, w=1 / steps)
        gaps = [anchor + slope / limit if limit > 0 else anchor, 2 * anchor]
    level = np.log(steps[sizes == sizes.max()]).mean()
    gaps = [gap for gap in gaps if gap > 1e-3 * anchor]
    return np.array([[level, math.log(gap), math.log(0.1)] for gap in gaps])


def _maximise(
    kind: str, table: _Table, weights: np.ndarray, starts: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Maximises weighted likelihoods, all at once, by damped Newton steps.

    Args:
        kind: The curve.
        table: n runs.
        weights: Float (r, n), how often each run counts in each of r likelihoods.
        starts: Float (r, 3): log N_inf, t (see `_anchor`) and the log of the spread.

    Returns:
        Where each is largest, (r, 3), and how large, (r,).
    """
    x = np.array(starts, float)
    damping = np.full(len(x), 1e-3)
    value, slope, curvature = _likelihood(kind, table, weights, x)
    for _ in range(200):
        # Scaled by the curvature's size, the damping means the same for all three.
        size = np.abs(np.einsum("rii->ri", curvature)) + 1e-12
        system = -curvature + np.einsum(
            "ri,ij->rij", damping[:, None] * size, np.eye(3)
        )
        # Where the likelihood is not concave, its curvature's absolute value is taken.
        eigenvalues, vectors = np.linalg.eigh(system)
        eigenvalues = np.maximum(np.abs(eigenvalues), 1e-9)
        along = np.einsum("rij,ri->rj", vectors, slope) / eigenvalues
        step = np.clip(np.einsum("rij,rj->ri", vectors, along), -1, 1)
        tried = x + step
        tried[:, 2] = np.maximum(tried[:, 2], math.log(_LEAST_SPREAD))
        new = _likelihood(kind, table, weights, tried)
        better = new[0] >= value
        gained = np.where(better, new[0] - value, np.inf)
        x = np.where(better[:, None], tried, x)
        value = np.where(better, new[0], value)
        slope = np.where(better[:, None], new[1], slope)
        curvature = np.where(better[:, None, None], new[2], curvature)
        damping = np.clip(np.where(better, damping / 5, damping * 5), 1e-9, 1e9)
        if ((gained < 1e-10) | (damping >= 1e9)).all():
            break
    return x, value


def _likelihood(
    kind: str, table: _Table, weights: np.ndarray, x: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Log-likelihoods (r,), their gradients (r, 3) and Hessians (r, 3, 3)."""
    sign = -1.0 if kind == "bound" else 1.0
    spread = np.exp(x[:, 2:])
    gap = np.exp(x[:, 1:2])
    # log N = log N_inf + sign log(d / b); share is the derivative of log d by t.
    d = table.batch - _anchor(kind, table) + gap
    possible = d > 0  # If not, the run never gets there, as a censored one says.
    d = np.where(possible, d, 1.0)
    share = gap / d
    means = x[:, :1] + sign * np.log(d / table.batch)
    value, m, s, mm, ms, ss = _derivatives(table, means, spread)
    weights = np.where(possible, weights, 0.0)
    ft, ftt = sign * share, sign * share * (1 - share)

    def total(each: np.ndarray) -> np.ndarray:
        return (weights * each).sum(axis=1)

    slope = np.stack([total(m), total(m * ft), total(s)], axis=1)
    rows = [
        [total(mm), total(mm * ft), total(ms)],
        [total(mm * ft), total(mm * ft**2 + m * ftt), total(ms * ft)],
        [total(ms), total(ms * ft), total(ss)],
    ]
    return total(value), slope, np.stack([np.stack(r, axis=1) for r in rows], axis=1)


def _derivatives(
    table: _Table, means: np.ndarray, spread: np.ndarray
) -> tuple[np.ndarray, ...]:
    """Each run's log-likelihood and its derivatives.

    By the mean (m) and by the log of the spread (s): value, m, s, mm, ms, ss.
    """
    exact = table.low == table.high
    z = (np.where(exact, table.low, 0.0) - means) / spread
    at_exact = (
        -0.5 * z**2 - np.log(spread * math.sqrt(2 * math.pi)),
        z / spread,
        z**2 - 1,
        np.broadcast_to(-1 / spread**2, z.shape),
        -2 * z / spread,
        -2 * z**2,
    )
    if exact.all():
        return at_exact
    # Of an interval, log(Phi(high) - Phi(low)), taken in the tail where both are small.
    low = (np.where(exact, -np.inf, table.low) - means) / spread
    high = (np.where(exact, np.inf, table.high) - means) / spread
    flip = low > 0
    first, second = np.where(flip, -high, low), np.where(flip, -low, high)
    above, below = scipy.special.log_ndtr(second), scipy.special.log_ndtr(first)
    with np.errstate(divide="ignore"):
        mass = above + np.log(-np.expm1(np.minimum(below - above, -1e-300)))

    def moments(at: np.ndarray) -> list[np.ndarray]:
        """at^power phi(at) / mass up to the third, each 0 at infinity."""
        there = np.isfinite(at)
        finite = np.where(there, at, 0.0)
        exponent = -0.5 * finite**2 - 0.5 * math.log(2 * math.pi) - mass
        found = [np.exp(np.where(there, exponent, -np.inf))]
        for _ in range(3):
            found.append(finite * found[-1])
        return found

    zeroth, once, twice, thrice = (
        one - other for one, other in zip(moments(low), moments(high), strict=True)
    )
    within = (
        mass,
        zeroth / spread,
        once,
        (once - zeroth**2) / spread**2,
        (twice - zeroth * once - zeroth) / spread,
        thrice - once - once**2,
    )
    return tuple(np.where(exact, *pair) for pair in zip(at_exact, within, strict=True))


def _bootstrap(
    table: _Table, bound: Curve, resamples: int, seed: int
) -> list[tuple[float, float]]:
    random = np.random.default_rng(seed)
    groups = [np.flatnonzero(table.batch == size) for size in np.unique(table.batch)]
    widening = np.sqrt(np.mean([len(g) / max(len(g) - 1, 1) for g in groups]))
    # To draw runs again is to count each so many times.
    weights = np.zeros((resamples, len(table.batch)))
    for group in groups:
        share = np.full(len(group), 1 / len(group))
        weights[:, group] = random.multinomial(len(group), share, size=resamples)
    start = [
        math.log(bound.limit),
        math.log(_anchor("bound", table) - bound.batch),
        math.log(bound.spread),
    ]
    found, values = _maximise("bound", table, weights, np.tile(start, (resamples, 1)))
    centre = _parameters(bound)
    again = np.array(
        [
            _parameters(_curve("bound", table, *each))
            for each in zip(found, values, strict=True)
        ]
    )
    edges = centre + np.quantile(widening * (again - centre), [0.025, 0.975], axis=0)
    return [(float(low), float(high)) for low, high in edges.T]


def _parameters(bound: Curve) -> np.ndarray:
    """b*, p and q."""
    p = 1 / bound.limit
    return np.array([2 * bound.batch, p, p * bound.batch])


@dataclasses.dataclass(frozen=True)
class Minimum:
    """The batch size that took the fewest examples in a sweep.

    Attributes:
        batch: The batch size.
        examples: Mean of N b over its runs.
        bracketed: Whether smaller and larger sizes took more, beyond the noise.
        why: Why it is not bracketed, a sentence, or "".
    """

    batch: float
    examples: float
    bracketed: bool
    why: str = ""


def measured_minimum(runs: Iterable[Run]) -> Minimum:
    """Finds the batch size with the least mean of N b, the paper's measured b*.

    Args:
        runs: Runs of a sweep. A size counts where all runs reached the quality; a run
            that did not has no N, and a mean without it would be too small.

    Returns:
        That size, and whether it is bracketed: it is not where it is the smallest or
        largest size, or where a neighbour's mean is not higher by two standard errors
        of the difference.

    Raises:
        InputError: With no batch size all runs reached the quality.
    """
    whole = _examples(runs)
    sizes = list(whole)
    means = {size: float(each.mean()) for size, each in whole.items()}
    best = min(means, key=means.__getitem__)
    at = sizes.index(best)
    if at in (0, len(sizes) - 1):
        end = "smallest" if at == 0 else "largest"
        why = f"Not bracketed: it is the {end} size with which all runs got there."
        return Minimum(best, means[best], False, why)
    for neighbour in (sizes[at - 1], sizes[at + 1]):
        pair = whole[best], whole[neighbour]
        if min(map(len, pair)) < 2:
            why = "Not bracketed: the noise of single runs is not known; add seeds."
            return Minimum(best, means[best], False, why)
        error = math.sqrt(sum(x.var(ddof=1) / len(x) for x in pair))
        if means[neighbour] - means[best] <= _TWO_SIDED * error:
            why = f"Not bracketed: a batch size of {neighbour:g} is within the noise."
            return Minimum(best, means[best], False, why)
    return Minimum(best, means[best], True)


def quadratic_minimum(runs: Iterable[Run]) -> float:
    """Returns the vertex of the parabola through the measured minimum's neighbours.

    The parabola is of log(N b) over log2(b), through three sizes.

    Args:
        runs: As for `measured_minimum`.

    Raises:
        InputError: The minimum is at an end of the sizes.
    """
    means = {size: each.mean() for size, each in _examples(runs).items()}
    sizes = list(means)
    best = min(means, key=means.__getitem__)
    at = sizes.index(best)
    if at in (0, len(sizes) - 1):
        raise InputError(
            f"The measured minimum, {best:g}, is at an end of the batch sizes; a "
            "parabola needs a size on each side. Add batch sizes."
        )
    three = sizes[at - 1 : at + 2]
    curvature, slope, _ = np.polyfit(
        np.log2(three), np.log([means[size] for size in three]), 2
    )
    return float(2 ** (-slope / (2 * curvature)))


def _examples(runs: Iterable[Run]) -> dict[float, np.ndarray]:
    """N b of the runs of each batch size with which all reached the quality."""
    by_size: dict[float, list[Run]] = {}
    for run in runs:
        by_size.setdefault(run.batch, []).append(run)
    whole = {
        size: np.array([run.steps * size for run in each])
        for size, each in sorted(by_size.items())
        if all(run.status == "reached" for run in each)
    }
    if not whole:
        raise InputError(
            f"With none of {len(by_size)} batch sizes all runs reached the quality; "
            "allow more steps or ask for less quality."
        )
    return whole


# ---- estimates without a sweep


@dataclasses.dataclass(frozen=True)
class Noise:
    """Noise of a network's gradients, from norms at two batch sizes.

    Attributes:
        trace: Trace of the covariance of one example's gradient, an unbiased estimate.
        gradient: Squared norm of the whole gradient, likewise; it may be negative where
            there is more noise than gradient.
        scale: trace / gradient, the simple noise scale in examples (McCandlish et al.
            2018, appendix A.1); infinite where `gradient` is not positive.
    """

    trace: float
    gradient: float

    @property
    def scale(self) -> float:
        """The simple noise scale."""
        return self.trace / self.gradient if self.gradient > 0 else math.inf


def two_batch_noise(
    small: int, small_norms: Sequence[float], large: int, large_norms: Sequence[float]
) -> Noise:
    """Estimates the gradients' noise from squared norms at two batch sizes.

    The squared norm of a mean over b examples has the expectation |G|^2 + tr(S) / b.
    Means are taken over the steps first, and the ratio last.

    Args:
        small: The smaller batch size.
        small_norms: Squared norms of gradients of such batches, one a step.
        large: The larger batch size.
        large_norms: Likewise.

    Raises:
        InputError: The sizes are not in order, or a norm is missing, negative or not
            finite.

    Example:
        >>> from tf_ttur.theory.critical_batch import two_batch_noise
        >>> two_batch_noise(2, [5.0], 8, [2.0]).scale
        8.0
    """
    if not 0 < small < large:
        raise InputError(
            f"The batch sizes are {small} and {large}; the first must be the smaller."
        )
    means = []
    for size, norms in ((small, small_norms), (large, large_norms)):
        values = np.asarray(norms, float)
        if values.size == 0 or not np.isfinite(values).all() or (values < 0).any():
            raise InputError(
                f"The squared norms of batches of {size} must be numbers that are "
                f"finite and not negative, at least one; got {values[:5]}."
            )
        means.append(float(values.mean()))
    trace = (means[0] - means[1]) / (1 / small - 1 / large)
    gradient = (large * means[1] - small * means[0]) / (large - small)
    return Noise(trace, gradient)


def least_critical_batch(
    noise: Noise,
    *,
    rate: float,
    scale: float = 1.0,
    beta_1: float = 0.0,
    gamma: float = 0.0,
    power: int = 1,
) -> float:
    """Returns 2 B / epsilon^2, below which the critical batch size cannot lie.

    It is the bound's b* = 2 B / (epsilon^2 - C) without its floor C >= 0, which is
    enormous where there is momentum. epsilon^2 is the squared norm of the gradient
    where the quality is first reached, and h, for the bound's least scale h_0, is a
    mean of the scales that a step divides by: h_0 itself is next to nothing.

    Args:
        noise: Of the network's gradients, where the quality is first reached.
        rate: Its learning rate.
        scale: h, such as |m|^2 / (m^T H^-1 m) of a step m / H; 1 for SGD.
        beta_1: As for `adaptive_bound`.
        gamma: Likewise.
        power: Likewise.

    Raises:
        InputError: The gradient was not told from its noise, or a value is out of its
            range.
    """
    if not noise.gradient > 0:
        raise InputError(
            f"The squared norm of the gradient came to {noise.gradient:.3g}: it is "
            "lost in the noise, and no tolerance follows from it. Take larger batches "
            "or more of them."
        )
    bound = adaptive_bound(
        rate=rate,
        dimension=1,
        distance=1.0,
        variance=max(noise.trace, 0.0),
        gradient=noise.gradient,
        least_scale=scale,
        largest_scale=1.0,
        beta_1=beta_1,
        gamma=gamma,
        power=power,
    )
    return 2 * bound.noise / noise.gradient


def optimal_rates(
    batches: Sequence[float], rates: Sequence[float]
) -> tuple[float, float]:
    """Fits rate(b) = rate_max / (1 + B / b) to the best rates of single steps.

    B is the noise scale of McCandlish et al. (2018, equation 2.7), which says where
    larger batches stop to allow larger steps. It is not the batch size of fewest
    examples.

    Args:
        batches: Batch sizes, at least two different ones.
        rates: The best rate of each, or any multiple of it; > 0.

    Returns:
        rate_max and B, which is infinite where the best rates are proportional to b,
        and negative where they fall with b. 1 / rate is fitted by least squares, each
        divided by its own size, since the errors are relative.

    Raises:
        InputError: A value is not positive, or there are fewer than two batch sizes.

    Example:
        >>> from tf_ttur.theory.critical_batch import optimal_rates
        >>> best, scale = optimal_rates([10, 30, 90], [0.05, 0.075, 0.09])
        >>> round(best, 6), round(scale, 6)
        (0.1, 10.0)
    """
    b, r = np.asarray(batches, float), np.asarray(rates, float)
    if b.shape != r.shape or len(set(b.tolist())) < 2:
        raise InputError(
            f"{b.size} batch sizes and {r.size} rates were given; give as many of "
            "both, of two batch sizes at least."
        )
    if not (np.isfinite(b) & np.isfinite(r) & (b > 0) & (r > 0)).all():
        raise InputError("Batch sizes and rates must be finite and positive.")
    # 1 / r = x + y / b, and r (x + y / b) is to be 1.
    (x, y), *_ = np.linalg.lstsq(np.stack([r, r / b], 1), np.ones(len(b)), rcond=None)
    if x <= 0:
        return math.inf, math.inf
    return float(1 / x), float(y / x)


def reconstructed_factor(
    *,
    rate: float,
    dimension: int,
    examples: int,
    beta_1: float = 0.0,
    beta_2: float = 0.999,
    gamma: float = 0.0,
    power: int = 2,
    corrected: bool = False,
    belief: bool = False,
) -> float:
    """Returns K in the reconstructed estimate b* >= K sigma^2 / epsilon^3.

    K = rate / ((1 - beta_1) (1 - gamma)^p) sqrt(dimension / ((1 - beta_2) |S|^2)): the
    least scale h_0 of the first step is replaced by sqrt(1 - beta_2) times the mean
    size of a gradient's entries, and the gradient's norm by |S| epsilon. The printed
    formula is not known. sigma^2 / epsilon^3 has to be supplied, or calibrated on a
    batch size that was measured (`calibrated`); no single value of it serves several
    optimizers.

    Args:
        rate: The network's learning rate.
        dimension: Its number of weights.
        examples: |S|, the size of the data set.
        beta_1: Decay of the first moment; 0 for RMSProp.
        beta_2: Decay of the second moment.
        gamma: `beta_1` where the first moment is corrected for its start, else 0.
        power: p, 1 or 2.
        corrected: Whether the second moment is corrected for its start, so that
            (1 - beta_2) drops out.
        belief: AdaBelief's second moment, about the first; 1 / beta_1 comes in.

    Raises:
        InputError: A value is out of its range.
    """
    _check_power(power)
    for name, value in (
        ("rate", rate),
        ("dimension", dimension),
        ("examples", examples),
    ):
        _check(name, value, value > 0, "positive")
    for name, value in (("beta_1", beta_1), ("beta_2", beta_2), ("gamma", gamma)):
        _check(name, value, 0 <= value < 1, "in [0, 1)")
    if belief and beta_1 == 0:
        raise InputError(
            "AdaBelief's second moment is zero at first where beta_1 is 0."
        )
    second = 1.0 if corrected else 1 - beta_2
    factor = rate / ((1 - beta_1) * (1 - gamma) ** power)
    factor *= math.sqrt(dimension / second) / examples
    return factor / beta_1 if belief else factor


def calibrated(reference_batch: float, reference: float, factor: float) -> float:
    """Scales a measured batch size to another setting by the ratio of two factors.

    Args:
        reference_batch: b*, measured in the reference setting.
        reference: `reconstructed_factor` of the reference setting.
        factor: `reconstructed_factor` of the other setting.
    """
    for name, value in (("reference_batch", reference_batch), ("reference", reference)):
        _check(name, value, value > 0, "positive")
    return reference_batch * factor / reference


# ---- a game whose answer is known


def sgd_on_a_quadratic(
    batches: Sequence[int],
    seeds: int,
    *,
    rate: float = 0.05,
    noise: float = 400.0,
    dimension: int = 50,
    start: float = 2.0,
    tolerance: float = 0.8,
    warm_up: int = 20,
    limit: int = 100_000,
    seed: int = 0,
) -> tuple[list[Run], Bound]:
    """Runs SGD on |theta|^2 / 2 until the mean squared gradient meets a tolerance.

    Here everything is known in closed form: with the curvature 1, A = |theta_0|^2 /
    (rate (2 - rate)), B = rate noise / (2 - rate), C = 0.

    Args:
        batches: Batch sizes.
        seeds: Runs of each.
        rate: Learning rate.
        noise: Trace of the covariance of one example's gradient.
        dimension: Dimension of theta.
        start: Every entry of theta at the start.
        tolerance: epsilon^2 for the running mean of |gradient|^2.
        warm_up: Steps before the tolerance is looked at.
        limit: Most steps of a run.
        seed: Of the noise.

    Returns:
        The runs, all at once computed, and the exact bound.
    """
    sizes = np.repeat(np.asarray(batches, float), seeds)
    random = np.random.default_rng(seed)
    theta = np.full((len(sizes), dimension), start)
    spread = np.sqrt(noise / dimension / sizes)
    total, found = np.zeros(len(sizes)), np.zeros(len(sizes), int)
    open_ = np.arange(len(sizes))
    for step in range(1, limit + 1):
        total[open_] += (theta**2).sum(axis=1)
        done = (total[open_] / step <= tolerance) & (step > warm_up)
        found[open_[done]] = step
        open_, theta = open_[~done], theta[~done]
        if not len(open_):
            break
        theta -= rate * (
            theta + spread[open_, None] * random.standard_normal(theta.shape)
        )
    runs = [
        Run(
            size,
            "reached" if steps else "censored",
            int(steps or limit),
            seed=i % seeds,
        )
        for i, (size, steps) in enumerate(zip(sizes, found, strict=True))
    ]
    bound = Bound(
        start=start**2 * dimension / (rate * (2 - rate)),
        noise=rate * noise / (2 - rate),
    )
    return runs, bound
