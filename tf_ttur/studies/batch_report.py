"""What a study of batch sizes came to: measured, fitted and estimated minima."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Annotated, Any, Protocol

from fid.files import InputError, printable, read_json
from fid.values import Between, fault
from tf_ttur.studies.batch_rows import PLAYERS, Row
from tf_ttur.theory.critical_batch import (
    Fit,
    Minimum,
    Noise,
    Run,
    calibrated,
    fit,
    least_critical_batch,
    measured_minimum,
    quadratic_minimum,
    reconstructed_factor,
)

__all__ = [
    "METHODS",
    "STATS",
    "Estimate",
    "Finding",
    "analyse",
    "as_json",
    "bound_of",
    "by_calibration",
    "by_formula",
    "by_noise",
    "cannot_tell",
    "constants",
    "estimate_table",
    "of_both",
    "read_estimates",
    "table",
]


_BATCH = Annotated[float, Between()]


@dataclasses.dataclass(frozen=True)
class Finding:
    """What the runs of a variant say of a threshold.

    Attributes:
        task: What was trained.
        variant: The variant's name.
        metric: The distance's name.
        threshold: The distance that was to be met.
        runs: All runs.
        measured: The batch size with the least mean of N b; None where there is none,
        quadratic: the vertex of the parabola through it and its neighbours, likewise,
        fit: and both curves, likewise.
        why: Why there is no measured minimum or no fit, a sentence each.
    """

    task: str
    variant: str
    metric: str
    threshold: float
    runs: Sequence[Run]
    measured: Minimum | None
    quadratic: float | None
    fit: Fit | None
    why: Sequence[str] = ()

    def counts(self) -> dict[float, dict[str, int]]:
        """Returns how many runs of each batch size came to which end."""
        found: dict[float, dict[str, int]] = {}
        for run in sorted(self.runs, key=lambda run: run.batch):
            each = found.setdefault(run.batch, {})
            each[run.status] = each.get(run.status, 0) + 1
        return found


def analyse(
    rows: Iterable[Row],
    thresholds: Sequence[float] | None = None,
    passes: int | None = None,
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> list[Finding]:
    """Looks for the critical batch size of every variant.

    Args:
        rows: Rows of one study or several.
        thresholds: Distances, none below the runs' own; None for that.
        passes: Measurements in a row that have to meet it; None for the runs' own.
        resamples: Of the seeds, for intervals; see `theory.critical_batch.fit`.
        seed: Of the resamples.

    Returns:
        What was found, by task, variant and threshold.

    Raises:
        InputError: The runs stopped before a threshold could be looked for.
    """
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.task, row.variant), []).append(row)
    findings = []
    for (task, variant), group in groups.items():
        for threshold in thresholds or sorted({row.threshold for row in group}):
            runs = [row.at(threshold, passes) for row in group]
            why: list[str] = []
            findings.append(
                Finding(
                    task,
                    variant,
                    group[0].metric,
                    threshold,
                    runs,
                    _or_why(why, measured_minimum, runs),
                    _or_why([], quadratic_minimum, runs),
                    _or_why(why, fit, runs, resamples=resamples, seed=seed),
                    why,
                )
            )
    return findings


def _or_why(why: list[str], function: Any, *args: Any, **options: Any) -> Any:
    """Returns what a function finds; else None, and adds what it says."""
    try:
        return function(*args, **options)
    except InputError as error:
        if str(error) not in why:
            why.append(str(error))
        return None


def as_json(findings: Iterable[Finding]) -> list[dict[str, Any]]:
    """Returns findings as JSON has them.

    Args:
        findings: What `analyse` returned.
    """
    listed = []
    for each in findings:
        found = each.fit
        curves = found and {
            curve.kind: {
                "limit": curve.limit,
                "batch": curve.batch,
                "spread": curve.spread,
                "log_likelihood": curve.log_likelihood,
                "aic": curve.aic,
            }
            for curve in (found.bound, found.rival)
        }
        listed.append(
            {
                "task": each.task,
                "variant": each.variant,
                "metric": each.metric,
                "threshold": each.threshold,
                "measured": each.measured and dataclasses.asdict(each.measured),
                "quadratic": each.quadratic,
                "fitted": found and found.critical_batch,
                "interval": found and found.interval and list(found.interval),
                "p": found and found.p,
                "q": found and found.q,
                "curves": curves,
                "verdict": found and found.verdict,
                "why": list(each.why),
                "runs": {f"{size:g}": each for size, each in each.counts().items()},
            }
        )
    return listed


def table(findings: Sequence[Finding]) -> str:
    """Returns a table of findings, in Markdown, with a sentence on each below.

    Args:
        findings: What `analyse` returned.
    """
    lines = [
        "| variant | threshold | measured b* | parabola | fitted b* | 95 % | "
        "AIC: bound - rival |",
        "|---|---|---|---|---|---|---|",
    ]
    notes = []
    for each in findings:
        found, least = each.fit, each.measured
        cells = [
            each.variant,
            f"{each.metric} <= {each.threshold:g}",
            "-" if least is None
            else f"{least.batch:g}{'' if least.bracketed else ' ?'}",
            "-" if each.quadratic is None else f"{each.quadratic:.3g}",
            "-" if not found or found.critical_batch is None
            else f"{found.critical_batch:.3g}",
            "-" if not found or found.interval is None
            else f"{found.interval[0]:.3g} to {found.interval[1]:.3g}",
            "-" if not found else f"{found.bound.aic - found.rival.aic:+.1f}",
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
        said = [*each.why]
        if found:
            said.append(found.verdict)
        if least is not None and least.why:
            said.append(least.why)
        lost = {
            status: [
                f"{size:g}"
                for size, counts in each.counts().items()
                if status in counts
            ]
            for status in ("censored", "diverged")
        }
        said += [
            f"Runs {status} at b = {', '.join(sizes)}."
            for status, sizes in lost.items()
            if sizes
        ]
        notes.append(f"{each.variant}, {each.threshold:g}: {' '.join(said)}")
    return "\n".join([*lines, "", *notes])


# ---- estimates


class Weights(Protocol):
    """What an estimate needs to know of a data set and its networks."""

    examples: int
    discriminator: int
    generator: int


@dataclasses.dataclass(frozen=True)
class Estimate:
    """Estimates of the critical batch size of one variant.

    Attributes:
        variant: The variant's name.
        mode: How it was estimated.
        discriminator: b* of the discriminator; None where it cannot be told.
        generator: That of the generator.
        assumed: Every constant that went into it, by name.
        threshold: The distance that its b* is about, at which gradients or a minimum
            were measured; None where it rests on no measurement of the study.
        note: What to know of it, a sentence; where nothing can be told, why.
    """

    variant: str
    mode: str
    discriminator: float | None
    generator: float | None
    assumed: Mapping[str, Any]
    threshold: float | None = None
    note: str = ""

    @property
    def joint(self) -> float | None:
        """The larger of both: both networks have to get there in the same steps."""
        both = [x for x in (self.discriminator, self.generator) if x is not None]
        return max(both) if both else None

    @property
    def power_of_two(self) -> int | None:
        """The power of two next to the joint one, in ratio."""
        if self.joint is None or self.joint <= 0:
            return None
        return 2 ** max(0, round(math.log2(self.joint)))

    def as_json(self) -> dict[str, Any]:
        """Returns it as JSON has it."""
        return dataclasses.asdict(self) | {
            "joint": self.joint,
            "power_of_two": self.power_of_two,
        }


STATS = "stats (lower bound)"
"""What estimates from gradients call their mode."""
METHODS = {
    "adam": {"momentum": True, "corrected": True, "belief": False},
    "amsgrad": {"momentum": True, "corrected": True, "belief": False},
    "adabelief": {"momentum": True, "corrected": True, "belief": True},
    "rmsprop": {"momentum": False, "corrected": False, "belief": False},
}
"""By optimizer: whether it has a first moment, whether that is corrected for its start,
and whether its second moment is about the first."""


def _factors(
    row: Row, subject: Weights, power: int, corrected: bool, belief: bool
) -> dict[str, float]:
    """K of both networks in the reconstructed estimate."""
    if row.optimizer not in METHODS:
        raise InputError(
            f"{row.variant} was trained by {row.optimizer}, of which the reconstructed "
            f"estimate says nothing; it does of {', '.join(METHODS)}."
        )
    method = METHODS[row.optimizer]
    beta_1 = row.beta_1 if method["momentum"] else 0.0
    return {
        player: reconstructed_factor(
            rate=getattr(row, f"{player}_lr"),
            dimension=getattr(subject, player),
            examples=subject.examples,
            beta_1=beta_1,
            beta_2=row.beta_2,
            gamma=beta_1 if method["corrected"] else 0.0,
            power=power,
            corrected=corrected,
            belief=belief and method["belief"],
        )
        for player in PLAYERS
    }


def by_formula(
    row: Row,
    subject: Weights,
    *,
    discriminator_noise: float,
    generator_noise: float,
    power: int = 2,
    corrected: bool = False,
    belief: bool = False,
) -> Estimate:
    """Estimates b* by the reconstructed formula.

    Args:
        row: A run of the variant, for its rates and decays.
        subject: Sizes of the data set and of the networks.
        discriminator_noise: sigma^2 / epsilon^3 of the discriminator, which nobody
            knows beforehand.
        generator_noise: That of the generator.
        power: Exponent of (1 - gamma), 1 or 2.
        corrected: Whether the second moment is corrected for its start.
        belief: Whether AdaBelief's 1 / beta_1 counts.

    Returns:
        The estimate, a lower bound.
    """
    noise = {"discriminator": discriminator_noise, "generator": generator_noise}
    for player, value in noise.items():
        if not 0 < value < math.inf:
            raise InputError(
                f"sigma^2 / epsilon^3 of the {player} is {value}; it must be positive."
            )
    factors = _factors(row, subject, power, corrected, belief)
    return Estimate(
        row.variant,
        "formula (reconstructed)",
        **{player: noise[player] * factors[player] for player in noise},
        assumed={
            "K": factors,
            "sigma^2/epsilon^3": noise,
            "power": power,
            "second moment": "corrected" if corrected else "raw",
            "AdaBelief's 1/beta_1": belief,
            **_facts(row, subject),
        },
        note="The printed formula is not known; this one is reconstructed.",
    )


def by_calibration(
    row: Row,
    subject: Weights,
    reference: Row,
    reference_subject: Weights,
    reference_batch: float,
    *,
    threshold: float | None = None,
    doubt: str = "",
    power: int = 2,
    corrected: bool = False,
    belief: bool = False,
) -> Estimate:
    """Estimates b* from the one that was measured of another variant.

    Args:
        row: A run of the variant.
        subject: Sizes of its data set and networks.
        reference: A run of the variant that was measured.
        reference_subject: Sizes of that one's.
        reference_batch: b* of that one.
        threshold: The distance that it was measured at.
        doubt: What to know of that one, a sentence.
        power: As for `by_formula`.
        corrected: Likewise.
        belief: Likewise.

    Returns:
        The estimate: the measured b* is taken for that of each network.
    """
    note = "It takes sigma^2 / epsilon^3 to be the same, which is not known to hold."
    if row.optimizer != reference.optimizer:
        note = (
            "It takes sigma^2 / epsilon^3 to be the same with another optimizer: an "
            "experiment, not a result."
        )
    options = (power, corrected, belief)
    mine = _factors(row, subject, *options)
    theirs = _factors(reference, reference_subject, *options)
    return Estimate(
        row.variant,
        f"calibrated on {reference.variant}",
        **{x: calibrated(reference_batch, theirs[x], mine[x]) for x in mine},
        assumed={
            "b* measured": reference_batch,
            "K": mine,
            "K measured": theirs,
            "power": power,
            "second moment": "corrected" if corrected else "raw",
            "AdaBelief's 1/beta_1": belief,
            **_facts(row, subject),
        },
        threshold=threshold,
        note=f"{note} {doubt}".rstrip(),
    )


def by_noise(rows: Sequence[Row], power: int = 1) -> list[Estimate]:
    """Estimates a lower bound on b* from gradients that rows hold.

    Args:
        rows: Rows with `noise`, of variants that need not be the same.
        power: Exponent of (1 - gamma): 1 by the derivation, 2 in a looser form.

    Returns:
        2 B / epsilon^2 by variant, of the largest batch size that met the threshold,
        from means over its seeds; None of a network whose gradient is lost in its
        noise.
    """
    estimates = []
    for variant in dict.fromkeys(row.variant for row in rows):
        mine = [row for row in rows if row.variant == variant]
        batch = max(row.batch for row in mine)
        mine = [row for row in mine if row.batch == batch]
        measured = {}
        for player in PLAYERS:
            each = [row.noise[player] for row in mine]
            noise = Noise(
                *(_mean(x[key] for x in each) for key in ("trace", "gradient"))
            )
            scale = _mean(x["scale"] for x in each if x["scale"] is not None)
            measured[player] = noise, scale
        found, missing = of_both(
            lambda player, row=mine[0], measured=measured: bound_of(
                row, player, *measured[player], power
            )
        )
        estimates.append(
            Estimate(
                variant,
                STATS,
                **found,
                assumed={
                    "runs": f"b = {batch}, {len(mine)} seeds",
                    **constants(measured),
                    "power": power,
                },
                threshold=mine[0].threshold,
                note=missing,
            )
        )
    return estimates


def constants(measured: Mapping[str, tuple[Noise, float]]) -> dict[str, Any]:
    """Returns what was measured of both networks' gradients, as estimates list it.

    Args:
        measured: The noise, and a mean of what a step divides by, by network.

    Returns:
        sigma^2, epsilon^2, h and the noise scale, each by network; None for what is
        not finite, which JSON has no number for.
    """
    columns = {
        "sigma^2": lambda noise, scale: noise.trace,
        "epsilon^2": lambda noise, scale: noise.gradient,
        "h": lambda noise, scale: scale,
        "noise scale": lambda noise, scale: noise.scale,
    }
    return {
        f"{name} D/G": {
            player: value if math.isfinite(value := column(*each)) else None
            for player, each in measured.items()
        }
        for name, column in columns.items()
    }


def of_both(estimate: Callable[[str], Any]) -> tuple[dict[str, Any], str]:
    """Estimates something of both networks, each by itself.

    Args:
        estimate: Is given a network's name; raises where it cannot be told.

    Returns:
        What it found by network, None where it raised; and why, sentences.

    Example:
        >>> from tf_ttur.studies.batch_report import of_both
        >>> of_both(str.upper)
        ({'discriminator': 'DISCRIMINATOR', 'generator': 'GENERATOR'}, '')
    """
    found, missing = {}, []
    for player in PLAYERS:
        why: list[str] = []
        found[player] = _or_why(why, estimate, player)
        missing += [f"Of the {player}: {each}" for each in why]
    return found, " ".join(missing)


def cannot_tell(
    variant: str, mode: str, why: str, threshold: float | None = None
) -> Estimate:
    """Returns the estimate of a variant of which a mode can tell nothing.

    Args:
        variant: The variant's name.
        mode: What was tried.
        why: Why it failed, sentences.
        threshold: The distance that it was tried for; None for any.
    """
    return Estimate(variant, mode, None, None, {}, threshold, why)


def bound_of(row: Row, player: str, noise: Noise, scale: float, power: int) -> float:
    """Returns 2 B / epsilon^2 of one network.

    Args:
        row: A run, for its optimizer, rates and decays.
        player: `discriminator` or `generator`.
        noise: Of its gradients where the threshold was met.
        scale: A mean of what its step divides by.
        power: Exponent of (1 - gamma).

    Raises:
        InputError: The gradient is lost in its noise.
    """
    method = METHODS.get(row.optimizer, {"momentum": False, "corrected": False})
    # SGD with momentum has a first moment, which is not corrected.
    momentum = method["momentum"] or row.optimizer == "momentum"
    beta_1 = row.beta_1 if momentum else 0.0
    return least_critical_batch(
        noise,
        rate=getattr(row, f"{player}_lr"),
        scale=scale,
        beta_1=beta_1,
        gamma=beta_1 if method["corrected"] else 0.0,
        power=power,
    )


def _mean(values: Iterable[float]) -> float:
    values = list(values)
    return sum(values) / len(values) if values else math.nan


def _facts(row: Row, subject: Weights) -> dict[str, Any]:
    return {
        "optimizer": row.optimizer,
        "discriminator_lr": row.discriminator_lr,
        "generator_lr": row.generator_lr,
        "beta_1": row.beta_1,
        "beta_2": row.beta_2,
        "|S|": subject.examples,
        "discriminator weights": subject.discriminator,
        "generator weights": subject.generator,
    }


_KINDS = {
    "variant": str,
    "mode": str,
    "discriminator": _BATCH | None,
    "generator": _BATCH | None,
    "assumed": Mapping[str, Any],
    "threshold": Annotated[float, Between()] | None,
    "note": str,
}


def read_estimates(path: str | os.PathLike[str]) -> list[Estimate]:
    """Reads the file that `critical_batch.py estimate` wrote.

    Args:
        path: The file; a missing one has no estimates.

    Raises:
        InputError: It is damaged.
    """
    if not os.path.exists(path):
        return []
    found = read_json(path)
    if wrong := fault("it", found, list[_KINDS]):
        raise InputError(
            f"{printable(path)} is damaged: {wrong}. Delete it, or estimate again."
        )
    return [Estimate(**{key: each[key] for key in _KINDS}) for each in found]


def estimate_table(estimates: Sequence[Estimate]) -> str:
    """Returns a table of estimates, in Markdown, with what each assumes below.

    Args:
        estimates: The estimates.
    """
    lines = [
        "| variant | mode | threshold | b* discriminator | b* generator | joint | "
        "power of two |",
        "|---|---|---|---|---|---|---|",
    ]
    for each in estimates:
        numbers = (each.discriminator, each.generator, each.joint)
        cells = ["-" if x is None else f"{x:.3g}" for x in numbers]
        threshold = "-" if each.threshold is None else f"{each.threshold:g}"
        power = "-" if each.power_of_two is None else str(each.power_of_two)
        cells = [each.variant, each.mode, threshold, *cells, power]
        lines.append(f"| {' | '.join(cells)} |")
    lines.append("")
    for each in estimates:
        assumed = "; ".join(f"{k} {_shown(v)}" for k, v in each.assumed.items())
        said = " ".join(filter(None, (assumed and f"{assumed}.", each.note)))
        lines.append(f"{each.variant}, {each.mode}: {said}")
    return "\n".join(lines)


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        return "/".join(_shown(x) for x in value.values())
    if value is None:
        return "unknown"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
