"""The command-line program of the critical batch size: sweep, fit, estimate, plot."""

from __future__ import annotations

import dataclasses
import json
import math
import pathlib
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from absl import flags

from fid.files import InputError, printable, write_json
from fid.mistaken import local_path
from fid.program import Flags, run, subcommand
from tf_ttur import presets
from tf_ttur.compilation import compilation_cache
from tf_ttur.presets.settings import changes
from tf_ttur.studies import (
    batch_grid,
    batch_report,
    batch_rows,
    machines,
    variants,
)
from tf_ttur.studies import critical_batch as preset_study

__all__ = ["critical_batch"]

_USAGE = """The critical batch size, with which training takes the fewest examples.

  critical_batch.py sweep --workdir=DIR --batches=4,8,16 --threshold=X --max_steps=N
      trains a preset with each batch size, several seeds each, until its distance is
      at most X; started again in the same folder it resumes
  critical_batch.py fit --workdir=DIR [--thresholds=X,Y]
      measured and fitted minima, with intervals, and whether there is one at all
  critical_batch.py estimate --workdir=DIR --modes=stats,calibrate
      what the theory says without a sweep; every estimate is called reconstructed
  critical_batch.py plot --workdir=DIR [--thresholds=X,Y]
      a page of figures a threshold

A study can have variants: --variant=adam:optimizer=adam
--variant=slow:discriminator_lr=1e-5,generator_lr=1e-5, or --vary=ema_decay=0,0.999."""

_MIXTURE = "mixture"
# Steps between measurements of the mixture game.
_MIXTURE_EVERY = 50

# The subcommands that a flag belongs to.
_FLAGS = {
    "preset": ("sweep",),
    "batches": ("sweep",),
    "seeds": ("sweep",),
    "threshold": ("sweep",),
    "passes": ("sweep", "fit", "plot"),
    "first_seed": ("sweep",),
    "every": ("sweep",),
    "every_examples": ("sweep",),
    "max_steps": ("sweep",),
    "max_examples": ("sweep",),
    "num_samples": ("sweep",),
    "variant": ("sweep",),
    "vary": ("sweep",),
    "set": ("sweep",),
    "processes": ("sweep",),
    "shard": ("sweep",),
    "ray": ("sweep",),
    "cores_per_run": ("sweep",),
    "gpus_per_run": ("sweep",),
    "data_dir": ("sweep", "estimate"),
    "inception": ("sweep",),
    "thresholds": ("fit", "plot", "estimate"),
    "resamples": ("fit",),
    "json": ("fit", "estimate"),
    "modes": ("estimate",),
    "reference": ("estimate",),
    "reference_batch": ("estimate",),
    "discriminator_noise": ("estimate",),
    "generator_noise": ("estimate",),
    "power": ("estimate",),
    "second_moment": ("estimate",),
    "belief": ("estimate",),
    "small": ("sweep", "estimate"),
    "large": ("sweep", "estimate"),
    "draws": ("sweep", "estimate"),
    "factors": ("estimate",),
    "output": ("plot",),
}
# The modes of estimate that read a flag of estimate.
_READ = {
    "data_dir": ("stats", "checkpoint"),
    "thresholds": ("calibrate",),
    "reference": ("calibrate",),
    "reference_batch": ("calibrate",),
    "discriminator_noise": ("formula",),
    "generator_noise": ("formula",),
    "power": ("stats", "calibrate", "formula"),
    "second_moment": ("calibrate", "formula"),
    "belief": ("calibrate", "formula"),
    "small": ("stats",),
    "large": ("stats",),
    "draws": ("stats", "checkpoint"),
    "factors": ("checkpoint",),
}


def critical_batch(argv: Sequence[str] | None = None) -> int:
    """Runs `critical_batch.py sweep|fit|estimate|plot`; see its `--help`.

    Args:
        argv: Program name and arguments; None means those of the process.

    Returns:
        The exit status.
    """

    def main(args: list[str], values: flags.FlagValues) -> None:
        name, rest = subcommand(args, values, _COMMANDS, _FLAGS)
        if rest:
            raise flags.Error(f"{name} takes flags only; got {rest[0]}")
        _COMMANDS[name](values)

    return run(main, _define, _USAGE, argv)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


# ---- sweep


def _sweep(values: flags.FlagValues) -> None:
    if values.threshold is None:
        raise flags.Error("--threshold=X is missing: the distance to be met")
    shared = {
        "batches": _numbers("batches", values.batches, int),
        "seeds": values.seeds,
        "threshold": values.threshold,
        "passes": values.passes or 1,
        "first_seed": values.first_seed,
        "every": values.every,
        "every_examples": values.every_examples,
        "max_steps": values.max_steps,
        "max_examples": values.max_examples,
    }
    workdir = local_path(values.workdir, writing=True)
    sweep = _sweep_mixture if values.preset == _MIXTURE else _sweep_preset
    rows = sweep(values, workdir, shared)
    _say(f"{len(rows)} runs: {printable(batch_grid.rows_path(workdir))}")
    if values.shard is not None and (left := _left(workdir, rows)):
        _say(
            f"This shard is finished, and {left} runs of the study are not. When they "
            f"are: critical_batch.py fit --workdir={workdir}"
        )
        return
    _fit(values)


def _sweep_mixture(
    values: flags.FlagValues, workdir: pathlib.Path, shared: dict[str, Any]
) -> list[batch_rows.Row]:
    from tf_ttur.studies import mixture_study

    for name in (
        "data_dir", "inception", "shard", "ray", "cores_per_run", "gpus_per_run"
    ):  # fmt: skip
        if values[name].value is not None:
            raise flags.Error(f"--{name} does not go with --preset={_MIXTURE}")
    compared = {
        name: mixture_study.with_defaults(_pairs(settings))
        for name, settings in variants.read(values.variant, values.vary).items()
    } or {
        name: mixture_study.with_defaults({"optimizer": name})
        for name in mixture_study.COMPARED
    }
    if shared["every"] is None and shared["every_examples"] is None:
        shared["every"] = _MIXTURE_EVERY
    study = mixture_study.MixtureStudy(
        **shared,
        variants=compared,
        game=mixture_study.game(_pairs(values.set)),
        num_samples=values.num_samples or 2048,
        small=values.small,
        large=values.large,
        draws=values.draws,
    )
    return mixture_study.run_study(study, workdir, values.processes, _say)


def _sweep_preset(
    values: flags.FlagValues, workdir: pathlib.Path, shared: dict[str, Any]
) -> list[batch_rows.Row]:
    for name in ("small", "large", "draws"):
        if values[name].present:
            raise flags.Error(
                f"--{name} of a sweep is for --preset={_MIXTURE}; give it to estimate"
            )
    settings = list(values.set)
    # Batch size and interval of the preset say how often to measure by default.
    ours = {*preset_study.SET} - {"batch_size", "every", "seed"}
    if bad := ours & {each.partition("=")[0] for each in settings}:
        raise InputError(
            f"--set={min(bad)}: the study sets that itself; use --threshold, --passes, "
            "--max_steps and --max_examples."
        )
    if values.num_samples is not None:
        settings.append(f"num_samples={values.num_samples}")
    preset = presets.get(values.preset)
    preset = dataclasses.replace(preset, **changes(preset, settings))
    named = variants.read(values.variant, values.vary)
    if shared["every"] is None and shared["every_examples"] is None:
        shared["every_examples"] = preset.every * preset.batch_size
    study = preset_study.Study(
        **shared,
        preset=preset,
        variants={name: changes(preset, each) for name, each in named.items()}
        or {"preset": {}},
        data_dir=values.data_dir,
        inception=values.inception,
    )
    where = machines.chosen(values)
    compilation_cache()
    return preset_study.run_study(study, workdir, where, _say)


def _pairs(settings: Sequence[str]) -> dict[str, str]:
    """Reads settings KEY=VALUE of the mixture game, as `presets.settings` refuses."""
    found: dict[str, str] = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals:
            raise InputError(f"{setting} is not of the form KEY=VALUE.")
        if key in found:
            raise InputError(f"{key} is set twice; leave one of the two out.")
        found[key] = value
    return found


def _numbers(name: str, texts: Sequence[str], kind: Callable[[str], Any]) -> list[Any]:
    try:
        values = [kind(text) for text in texts]
        if not all(map(math.isfinite, values)):
            raise ValueError
        return values
    except ValueError as error:
        what = "whole numbers" if kind is int else "numbers"
        raise InputError(
            f"--{name}={','.join(texts)}: expected {what} with commas."
        ) from error


# ---- fit


def _rows(workdir: pathlib.Path) -> list[batch_rows.Row]:
    """Reads the rows of a study, made again where there are run folders."""
    if batch_grid.is_study(workdir) and (
        batch_grid.load(workdir)["settings"].get("task") != _MIXTURE
    ):
        preset_study.collect(workdir)
    return batch_rows.read(batch_grid.rows_path(workdir))


def _left(workdir: pathlib.Path, rows: Sequence[batch_rows.Row]) -> int:
    """Returns how many runs of a study are not over."""
    found = batch_grid.load(workdir)
    total = len(found["variants"]) * len(found["batches"]) * found["seeds"]
    return total - len(rows)


def _analyse(values: flags.FlagValues, resamples: int) -> list[batch_report.Finding]:
    workdir = local_path(values.workdir)
    rows = _rows(workdir)
    if batch_grid.is_study(workdir) and (left := _left(workdir, rows)):
        _say(f"warning: {left} runs are not over yet; what follows is without them.")
    thresholds = _numbers("thresholds", values.thresholds, float) or None
    return batch_report.analyse(rows, thresholds, values.passes, resamples=resamples)


def _fit(values: flags.FlagValues) -> None:
    findings = _analyse(values, values.resamples)
    found = batch_report.as_json(findings)
    write_json(local_path(values.workdir, writing=True) / "fit.json", found)
    if values.json:
        print(json.dumps(found, allow_nan=False))
    else:
        print(batch_report.table(findings))


# ---- estimate


class _Study(NamedTuple):
    """What estimates are made of; by variant its first row and its sizes."""

    values: flags.FlagValues
    workdir: pathlib.Path
    rows: list[batch_rows.Row]
    firsts: dict[str, batch_rows.Row]
    known: dict[str, batch_grid.Subject]

    def of(self, variant: str) -> list[batch_rows.Row]:
        return [row for row in self.rows if row.variant == variant]


# Estimates of a variant, one for each threshold where there are several.
_OfVariant = Callable[[str], list[batch_report.Estimate]]


def _estimate(values: flags.FlagValues) -> None:
    modes = _chosen_modes(values)
    workdir = local_path(values.workdir, writing=True)
    rows = _rows(workdir)
    known = batch_grid.subjects(workdir)
    firsts: dict[str, batch_rows.Row] = {}
    for row in rows:
        firsts.setdefault(row.variant, row)
    if missing := firsts.keys() - known.keys():
        raise InputError(
            f"{printable(workdir / 'subjects.json')} says nothing of "
            f"{', '.join(sorted(missing))}: start the sweep again to have it made."
        )
    study = _Study(values, workdir, rows, firsts, known)
    # A wrong command line is told of before anything takes long.
    ready = {mode: _or_error(_MODES[mode], study) for mode in modes}
    estimates = [
        each
        for mode, of_variant in ready.items()
        for variant in firsts
        for each in _of_variant(mode, of_variant, variant)
    ]
    if all(each.joint is None for each in estimates):
        raise InputError(_why(estimates))
    found = [each.as_json() for each in estimates]
    write_json(workdir / "estimates.json", found)
    if values.json:
        print(json.dumps(found, allow_nan=False))
    else:
        print(batch_report.estimate_table(estimates))


def _chosen_modes(values: flags.FlagValues) -> list[str]:
    modes = list(dict.fromkeys(values.modes))
    if not modes:
        raise flags.Error(f"--modes is empty; choose from {', '.join(_MODES)}")
    if bad := [mode for mode in modes if mode not in _MODES]:
        raise flags.Error(
            f"--modes: there is no {bad[0]}; choose from {', '.join(_MODES)}"
        )
    for flag, readers in _READ.items():
        if values[flag].present and not {*readers} & {*modes}:
            raise flags.Error(
                f"--{flag} does not go with --modes={','.join(modes)}, but with "
                f"{', '.join(readers)}"
            )
    return modes


def _or_error(prepare: Callable[[_Study], Any], study: _Study) -> Any:
    try:
        return prepare(study)
    except InputError as error:
        return error


def _of_variant(
    mode: str, of_variant: _OfVariant | InputError, variant: str
) -> list[batch_report.Estimate]:
    """Estimates by one mode, or says why it tells nothing of this variant."""
    try:
        if isinstance(of_variant, InputError):
            raise of_variant
        return of_variant(variant)
    except InputError as error:
        return [batch_report.cannot_tell(variant, mode, str(error))]


def _why(estimates: Sequence[batch_report.Estimate]) -> str:
    """Says why there is no estimate at all, each reason once."""
    reasons: dict[str, list[str]] = {}
    for each in estimates:
        reasons.setdefault(each.note, []).append(each.variant)
    return " ".join(
        f"{', '.join(dict.fromkeys(variants))}: {note}"
        for note, variants in reasons.items()
    )


def _power(values: flags.FlagValues) -> dict[str, int]:
    """The exponent where it is given; each mode has a default of its own."""
    return {} if values.power is None else {"power": values.power}


def _switches(values: flags.FlagValues) -> dict[str, Any]:
    return {
        **_power(values),
        "corrected": values.second_moment == "corrected",
        "belief": values.belief,
    }


def _by_formula(study: _Study) -> _OfVariant:
    values = study.values
    noise = {
        name: values[name].value for name in ("discriminator_noise", "generator_noise")
    }
    if None in noise.values():
        raise flags.Error(
            "--modes=formula needs --discriminator_noise and --generator_noise, "
            "sigma^2 / epsilon^3 of each network"
        )
    return lambda variant: [
        batch_report.by_formula(
            study.firsts[variant], study.known[variant], **noise, **_switches(values)
        )
    ]


def _by_calibration(study: _Study) -> _OfVariant:
    values, firsts = study.values, study.firsts
    reference = values.reference or next(iter(firsts))
    if reference not in firsts:
        raise flags.Error(
            f"--reference: there is no variant {reference}; choose from "
            f"{', '.join(firsts)}"
        )
    given = values.reference_batch is not None
    if given and values.thresholds:
        raise flags.Error(
            "--thresholds does not go with --reference_batch, which is taken as it is"
        )

    def calibrated(variant: str, batch: float, **of: Any) -> batch_report.Estimate:
        return batch_report.by_calibration(
            firsts[variant],
            study.known[variant],
            firsts[reference],
            study.known[reference],
            batch,
            **of,
            **_switches(values),
        )

    if given:
        return lambda variant: [calibrated(variant, values.reference_batch)]
    findings = batch_report.analyse(
        study.of(reference),
        _numbers("thresholds", values.thresholds, float) or None,
        resamples=0,
    )

    def of_threshold(
        variant: str, finding: batch_report.Finding
    ) -> batch_report.Estimate:
        least, threshold = finding.measured, finding.threshold
        if least is None:
            why = (
                f"{reference} has no measured minimum to calibrate on: "
                f"{' '.join(finding.why)} Or give --reference_batch."
            )
            return batch_report.cannot_tell(variant, "calibrate", why, threshold)
        return calibrated(variant, least.batch, threshold=threshold, doubt=least.why)

    return lambda variant: [of_threshold(variant, each) for each in findings]


def _of_mixture(study: _Study) -> bool:
    return any(row.task == _MIXTURE for row in study.rows)


def _by_stats(study: _Study) -> _OfVariant:
    values = study.values
    if _of_mixture(study):
        for name in ("small", "large", "draws", "data_dir"):
            if values[name].present:
                raise flags.Error(
                    f"--{name} is read by the sweep of the mixture game, which "
                    "measures the noise; give it there"
                )

        def by_noise(variant: str) -> list[batch_report.Estimate]:
            noisy = [row for row in study.of(variant) if row.noise is not None]
            if not noisy:
                raise InputError(
                    "No run met its threshold, so there are no gradients to estimate "
                    "from. Allow more steps, or raise --threshold."
                )
            return batch_report.by_noise(noisy, **_power(values))

        return by_noise
    from tf_ttur.studies import batch_checkpoints

    return lambda variant: [
        batch_checkpoints.by_stats(
            row,
            batch_checkpoints.folder_of(study.workdir, row),
            small=values.small,
            large=values.large,
            draws=values.draws,
            data_dir=values.data_dir,
            **_power(values),
        )
        for row in batch_checkpoints.last_ones(study.of(variant))
    ]


def _by_checkpoint(study: _Study) -> _OfVariant:
    values = study.values
    if _of_mixture(study):
        raise InputError("The mixture game keeps no checkpoints; take --modes=stats.")
    factors = _numbers("factors", values.factors, float)
    from tf_ttur.studies import batch_checkpoints

    return lambda variant: [
        batch_checkpoints.by_checkpoint(
            row,
            batch_checkpoints.folder_of(study.workdir, row),
            sorted({x.batch for x in study.of(variant)}),
            factors=factors,
            draws=values.draws,
            data_dir=values.data_dir,
        )
        for row in batch_checkpoints.last_ones(study.of(variant))
    ]


_MODES: dict[str, Callable[[_Study], _OfVariant]] = {
    "stats": _by_stats,
    "calibrate": _by_calibration,
    "formula": _by_formula,
    "checkpoint": _by_checkpoint,
}


# ---- plot


def _plot(values: flags.FlagValues) -> None:
    from tf_ttur.studies import batch_figures

    workdir = local_path(values.workdir)
    output = local_path(values.output or values.workdir, writing=True)
    findings = _analyse(values, resamples=0)
    rows = batch_rows.read(batch_grid.rows_path(workdir))
    estimates = batch_report.read_estimates(workdir / "estimates.json")
    for threshold in sorted({each.threshold for each in findings}):
        path = output / f"critical_batch_{threshold:g}.png"
        mine = [each for each in findings if each.threshold == threshold]
        # What was measured at another distance is about another batch size.
        fitting = [x for x in estimates if x.threshold in (None, threshold)]
        batch_figures.page(path, mine, rows, fitting)
        print(printable(path))


_COMMANDS = {"sweep": _sweep, "fit": _fit, "estimate": _estimate, "plot": _plot}


def _define(flag: Flags) -> None:
    flag.text(
        "preset",
        presets.DEFAULT,
        f"The experiment; train.py --list_presets. Or {_MIXTURE}: a small game on a "
        "mixture of Gaussians, thousands of runs in minutes.",
    )
    flag.text("workdir", "runs/critical_batch", "The study's folder.")
    flag.texts("batches", [], "Batch sizes, with commas.")
    flag.number("seeds", 5, "Runs of each batch size, with seeds of their own.")
    flag.number("first_seed", 0, "The first of these seeds.", least=0)
    flag.rate("threshold", None, "The distance at which a run stops.")
    flag.number("passes", None, "Measurements in a row that have to meet it.", least=1)
    flag.number(
        "every_examples",
        None,
        "Examples between measurements; by default the preset's steps between them "
        "times its batch size.",
        least=1,
    )
    flag.number(
        "every", None, "Steps between measurements, in the place of that.", least=1
    )
    flag.number("max_steps", None, "Steps after which a run is given up.", least=1)
    flag.number("max_examples", None, "Examples after which it is.", least=1)
    flag.number("num_samples", None, "Generated images in a measurement.")
    variants.define(flag)
    flag.repeated("set", "KEY=VALUE: a setting of all runs; see sweep.py.")
    machines.define(flag)
    flags.DEFINE_alias("jobs", "processes", flag_values=flag.values)
    flag.text("data_dir", None, "Where the data set is; see train.py.")
    flag.inception("The 2015 graph, to measure FID with; see train.py.")
    flag.texts(
        "thresholds",
        [],
        "Distances, with commas, none below that of the sweep; by default that one.",
    )
    flag.number(
        "resamples", 1000, "Resamples of the seeds, for intervals; 0: none.", least=0
    )
    flag.switch("json", "Print JSON.")
    flag.texts(
        "modes",
        ["calibrate"],
        "How to estimate, with commas: stats (gradients at the last checkpoint), "
        "calibrate (on the measured minimum of --reference), formula (from "
        "--discriminator_noise and --generator_noise), checkpoint (the best step by "
        "batch size, which estimates another quantity).",
    )
    flag.text("reference", None, "The variant to calibrate on; by default the first.")
    flag.rate("reference_batch", None, "Its b*; by default the one that was measured.")
    flag.rate("discriminator_noise", None, "Its sigma^2 / epsilon^3, for formula.")
    flag.rate("generator_noise", None, "Its sigma^2 / epsilon^3, for formula.")
    flag.number(
        "power",
        None,
        "Exponent of (1 - gamma) in the formulas. By default 1 in stats, as derived, "
        "and 2 in calibrate and formula, as is expected of the paper's.",
        1,
        2,
    )
    flag.choice(
        "second_moment", "raw", ("raw", "corrected"), "The first step's second moment."
    )
    flag.switch("belief", "Count AdaBelief's factor 1 / beta_1.")
    flag.number("small", 16, "The smaller batch size of stats.", least=1)
    flag.number("large", 256, "The larger one.", least=2)
    flag.number("draws", 20, "Batches of each size in stats and checkpoint.", least=1)
    flag.texts(
        "factors",
        ["0.125", "0.25", "0.5", "1", "2", "4", "8", "16", "32", "64"],
        "Multiples of the rates that checkpoint tries.",
    )
    flag.text("output", None, "The folder for figures; by default --workdir.")
