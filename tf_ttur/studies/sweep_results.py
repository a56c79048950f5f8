"""What a sweep came to: its table and figures, from the folders of its runs."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fid.files import InputError, atomic_path, printable, write_json
from fid.mistaken import local_path
from tf_ttur import plots
from tf_ttur.presets import complete
from tf_ttur.runs import RunFolder, checkpoints
from tf_ttur.studies.sweep import Cell, Variant, load, run_folder

__all__ = ["Result", "Run", "compare", "missing", "read", "report", "table"]


@dataclasses.dataclass(frozen=True)
class Run:
    """A run that is over.

    Attributes:
        seed: Its seed.
        steps: Steps at which the distance was measured.
        minutes: Wall-clock minutes of training at each.
        distances: The distances; a run may diverge before the first.
        diverged: The step at which it diverged; None where it went to its end.
    """

    seed: int
    steps: Sequence[int]
    minutes: Sequence[float]
    distances: Sequence[float]
    diverged: int | None = None


@dataclasses.dataclass(frozen=True)
class Result:
    """The runs of a pair of learning rates, or of a variant.

    Attributes:
        cell: The rates, or the variant.
        runs: Those that are over, by seed.
        missing: How many are not.
    """

    cell: Cell | Variant
    runs: Sequence[Run]
    missing: int = 0

    @property
    def single_rate(self) -> bool:
        """Of a pair of learning rates: whether both networks learn at one rate."""
        return self.cell.discriminator_lr == self.cell.generator_lr

    @property
    def measured(self) -> list[Run]:
        """The runs that have distances."""
        return [run for run in self.runs if run.distances]

    @property
    def best(self) -> dict[int, float]:
        """Each seed's lowest distance, of a run that diverged the one before that."""
        return {run.seed: min(run.distances) for run in self.measured}

    @property
    def final(self) -> dict[int, float]:
        """Each seed's last distance, without the runs that diverged."""
        return {r.seed: r.distances[-1] for r in self.runs if r.diverged is None}

    @property
    def mean_best(self) -> float:
        """The mean of the lowest distances, of runs that have distances."""
        return float(np.mean([*self.best.values()]))

    def curve(self) -> plots.Band:
        """Mean, lowest and highest distance at the steps that all runs reached."""
        shared = set.intersection(*(set(run.steps) for run in self.measured))
        curves = [(run.steps, run.distances) for run in self.measured]
        return plots.band(curves, sorted(shared))

    def curve_over_minutes(self) -> plots.Band:
        """The same at 200 times between the last start and the first end."""
        curves = [(run.minutes, run.distances) for run in self.measured]
        start = max(x[0] for x, _ in curves)
        end = max(start, min(x[-1] for x, _ in curves))
        return plots.band(curves, np.linspace(start, end, 200))


def missing(workdir: str | os.PathLike[str]) -> int:
    """Counts the runs of a sweep that are not over.

    Args:
        workdir: The sweep's folder.

    Raises:
        InputError: The folder holds no sweep.
    """
    _, cells = load(workdir)
    return sum(
        not run_folder(workdir, cell, seed).is_over
        for cell, seeds in cells.items()
        for seed in range(seeds)
    )


def read(
    workdir: str | os.PathLike[str],
) -> tuple[tuple[str, str] | None, list[Result]]:
    """Reads the runs of a sweep that are over.

    Args:
        workdir: The sweep's folder.

    Returns:
        The distance's name in the files and its title, None where no run is finished;
        and the cells in their order.

    Raises:
        InputError: The folder holds no sweep, a run's files cannot be read or were
            measured by another distance, or runs rest on different teachers or
            encoders.
    """
    settings, cells = load(workdir)
    folders = {
        (cell, seed): run_folder(workdir, cell, seed)
        for cell, seeds in cells.items()
        for seed in range(seeds)
    }
    metrics = {}
    for folder in folders.values():
        if (summary := folder.read_summary()) is not None:
            metrics[summary["metric"], summary["metric_title"]] = folder
    if len(metrics) > 1:
        raise InputError(
            "Runs were measured by different distances: "
            f"{', '.join(f'{key} in {x}' for (key, _), x in metrics.items())}."
        )
    metric = next(iter(metrics), None)
    if "teacher" in settings:
        _check_frozen([each for each in folders.values() if each.is_over])
    results = []
    for cell, seeds in cells.items():
        over = [
            _run(seed, folder, metric and metric[0])
            for seed in range(seeds)
            if (folder := folders[cell, seed]).is_over
        ]
        results.append(Result(cell, over, seeds - len(over)))
    return metric, results


def _check_frozen(folders: Sequence[RunFolder]) -> None:
    """Refuses runs that rest on different networks that they only read.

    A run holds its own fast, by the SHA-256 of its weights, but it cannot know those of
    other runs. The same encoder may have been trained anew in another cache folder.
    """
    teachers, encoders = {}, {}
    for folder in folders:
        config = folder.read_config()
        teachers.setdefault(config["teacher_sha256"], folder)
        if (digest := config.get("encoder_sha256")) is not None:
            encoders.setdefault(config["encoder"], {}).setdefault(digest, folder)
    kinds = {"Runs distilled different teachers": teachers}
    for name, found in encoders.items():
        kinds[f"Discriminators looked with different encoders {name!r}"] = found
    for what, found in kinds.items():
        if len(found) > 1:
            each = ", ".join(f"{k[:12]} in {x}" for k, x in found.items())
            raise InputError(f"{what}: {each}.")


def _run(seed: int, folder: RunFolder, key: str | None) -> Run:
    rows = [row for row in folder.rows() if row.get(key) is not None]
    divergence, summary = folder.read_divergence(), folder.read_summary()
    # The last checkpoint says by a digest which rows it was made after.
    if kept := checkpoints(folder.checkpoints):
        again = f"Or delete {printable(folder)} to have the run made again."
        folder.check_checkpoint(kept[max(kept)], again, rows=True)
    # A run that diverged may have no distance; one that is finished has its last one.
    reached = rows[-1]["step"] if rows else None
    if divergence is None and reached != summary.get("last", {"step": reached})["step"]:
        raise InputError(
            f"{printable(folder.metrics)} has {key} up to step {reached}, and "
            f"{printable(folder.summary)} up to step {summary['last']['step']}: bring "
            "the run's own files back."
        )
    if divergence is None and not rows:
        raise InputError(
            f"{printable(folder.metrics)} has no {key}, which "
            f"{printable(folder.summary)} says was measured: bring it back."
        )
    return Run(
        seed,
        *([row[x] for row in rows] for x in ("step", "minutes", key)),
        diverged=divergence and divergence["step"],
    )


def compare(two: dict[int, float], one: dict[int, float]) -> dict[str, Any] | None:
    """Compares two cells seed by seed.

    Equal seeds start from equal weights and see the data in equal order.

    Args:
        two: A value for each seed, of two rates.
        one: The same of a single rate.

    Returns:
        Of the differences `two - one` of the seeds that both have: their number, mean
        and 95 % confidence interval (Student's t, null for less than two), and how
        many are negative. None where they share no seed.

    Example:
        >>> compare({0: 1.0, 1: 2.0}, {0: 2.0, 1: 4.0, 2: 9.0})["mean"]
        -1.5
    """
    from scipy import stats

    differences = np.array([two[seed] - one[seed] for seed in sorted(two.keys() & one)])
    if not differences.size:
        return None
    interval = None
    if differences.size > 1:
        half = stats.sem(differences) * stats.t.ppf(0.975, differences.size - 1)
        interval = [differences.mean() - half, differences.mean() + half]
    return {
        "seeds": differences.size,
        "mean": float(differences.mean()),
        "interval": interval and [float(x) for x in interval],
        "lower_in": int((differences < 0).sum()),
    }


def table(
    metric: tuple[str, str] | None,
    results: Sequence[Result],
    settings: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Sums a sweep up.

    Args:
        metric: The distance's name and title, as `read` gives them.
        results: The cells.
        settings: What all runs have in common, for variants that leave a setting to
            the preset which others change.

    Returns:
        Of variants, what table.json says: `metric` and `metric_title`; `cells`, each
        with its `name`, the `settings` that any variant has, and the rest as below; and
        `best`, the name of the one with the lowest mean of the best distances.

        Of pairs of learning rates,
        What table.json says: `metric` and `metric_title`; `cells`, each with its rates,
        the number of `runs` over and `missing`, the `diverged` ones with their steps,
        mean, min and max of the `best` and of the `final` distance, the
        `mean_curve_minimum` and the `minutes` of a run; the best cell of each kind,
        `best_single_rate` and `best_two_rates`, by the mean of the best distances; and
        the paired `differences` between those two.
    """
    if _of_variants(results):
        return _table_of_variants(metric, results, settings or {})
    best = {
        name: min(
            (x for x in results if x.measured and x.single_rate == single),
            key=lambda x: x.mean_best,
            default=None,
        )
        for name, single in (("best_single_rate", True), ("best_two_rates", False))
    }
    differences = None
    if None not in best.values():
        one, two = best["best_single_rate"], best["best_two_rates"]
        differences = {
            "best": compare(two.best, one.best),
            "final": compare(two.final, one.final),
        }
    return {
        "metric": metric and metric[0],
        "metric_title": metric and metric[1],
        "cells": [_row(result) for result in results],
        **{name: x and x.cell._asdict() for name, x in best.items()},
        "differences": differences,
    }


def _of_variants(results: Sequence[Result]) -> bool:
    return bool(results) and isinstance(results[0].cell, Variant)


def _table_of_variants(
    metric: tuple[str, str] | None,
    results: Sequence[Result],
    settings: Mapping[str, Any],
) -> dict[str, Any]:
    # A dict keeps their order.
    keys = dict.fromkeys(key for x in results for key in x.cell.settings)
    rows = []
    for result in results:
        mine = {**settings, **result.cell.settings}
        rows.append(_row(result) | {"settings": {key: mine.get(key) for key in keys}})
    measured = [x for x in results if x.measured]
    best = min(measured, key=lambda x: x.mean_best, default=None)
    return {
        "metric": metric and metric[0],
        "metric_title": metric and metric[1],
        "cells": rows,
        "best": best and best.cell.name,
    }


def _row(result: Result) -> dict[str, Any]:
    lowest = None
    if result.measured:
        curve = result.curve()
        at = int(np.argmin(curve.mean))
        lowest = {"value": float(curve.mean[at]), "step": int(curve.x[at])}
    return {
        **result.cell.entry(),
        "runs": len(result.runs),
        "missing": result.missing,
        "diverged": {r.seed: r.diverged for r in result.runs if r.diverged is not None},
        "best": _spread([*result.best.values()]),
        "final": _spread([*result.final.values()]),
        "mean_curve_minimum": lowest,
        "minutes": _spread([run.minutes[-1] for run in result.measured]),
    }


def _spread(values: Sequence[float]) -> dict[str, float] | None:
    if not values:
        return None
    spread = {"mean": np.mean(values), "min": min(values), "max": max(values)}
    return {name: float(value) for name, value in spread.items()}


def report(workdir: str | os.PathLike[str]) -> str:
    """Writes table.md, table.json and the figures of a sweep.

    Args:
        workdir: The sweep's folder.

    Returns:
        What table.md says.

    Raises:
        InputError: The folder holds no sweep, or a file cannot be read or written.
    """
    workdir = local_path(workdir)
    metric, results = read(workdir)
    summary = table(metric, results, complete(load(workdir)[0]))
    of_variants = _of_variants(results)
    text = (_markdown_of_variants if of_variants else _markdown)(summary)
    write_json(workdir / "table.json", summary)
    with atomic_path(workdir / "table.md") as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")
    measured = [result for result in results if result.measured]
    if measured:
        draw = _draw_variants if of_variants else _draw
        drawn = draw(summary, measured, metric[1], workdir / "heatmap.png")
        plots.sweep_curves(
            {
                _label(result): (result.curve(), result.curve_over_minutes())
                for result in drawn
            },
            metric[1],
            workdir / "curves.png",
        )
    return text


def _draw(
    summary: dict[str, Any],
    measured: Sequence[Result],
    title: str,
    path: pathlib.Path,
) -> list[Result]:
    """Draws the heat map of pairs of rates; returns the curves to draw, in order."""
    plots.heat_map({x.cell: x.mean_best for x in measured}, title, path)
    drawn = [
        result
        for result in measured
        if result.single_rate or result.cell._asdict() == summary["best_two_rates"]
    ]
    # The one with two rates first: it is what the others are compared with.
    return sorted(drawn, key=lambda result: (result.single_rate, result.cell))


def _draw_variants(
    summary: dict[str, Any],
    measured: Sequence[Result],
    title: str,
    path: pathlib.Path,
) -> list[Result]:
    """Draws a heat map where two settings are varied; returns the curves to draw."""
    settings = {cell["name"]: cell["settings"] for cell in summary["cells"]}
    texts = {
        key: {name: _text(mine[key]) for name, mine in settings.items()}
        for key in next(iter(settings.values()))
    }
    varied = [key for key, mine in texts.items() if len({*mine.values()}) > 1]
    if len(varied) == 2:
        # Numbers in their order, and other values as they were given.
        places = []
        for key in varied:
            values = {texts[key][name]: mine[key] for name, mine in settings.items()}
            numbers = all(type(x) in (int, float) for x in values.values())
            places.append(sorted(values, key=values.get) if numbers else [*values])
        plots.cell_map(
            {
                tuple(texts[key][x.cell.name] for key in varied): x.mean_best
                for x in measured
            },
            places,
            varied,
            title,
            path,
        )
    else:
        # It would be of what the sweep was before.
        path.unlink(missing_ok=True)
    return sorted(measured, key=lambda x: x.cell.name != summary["best"])


def _text(value: Any) -> str:
    """Returns a setting as tables and axes show it."""
    if isinstance(value, float) and float(f"{value:g}") == value:
        return f"{value:g}"
    if value is None:
        return "none"
    return json.dumps(value) if isinstance(value, bool | Mapping) else str(value)


def _label(result: Result) -> str:
    if isinstance(result.cell, Variant):
        return result.cell.name
    if result.single_rate:
        return f"single rate {result.cell.generator_lr:g}"
    return f"TTUR {result.cell.discriminator_lr:g}, {result.cell.generator_lr:g}"


# What `_outcome` says.
_OUTCOME = (
    "runs", "diverged", "best", "final", "mean curve's minimum", "minutes a run"
)  # fmt: skip


def _outcome(cell: dict[str, Any]) -> tuple[str, ...]:
    """Returns what came of a cell, a column each."""
    missing = f" of {cell['runs'] + cell['missing']}" if cell["missing"] else ""
    lowest = cell["mean_curve_minimum"]
    return (
        f"{cell['runs']}{missing}",
        f"{len(cell['diverged'])}"
        + "".join(f", at {step}" for step in cell["diverged"].values()),
        _range(cell["best"]),
        _range(cell["final"]),
        f"{_number(lowest['value'])} at {lowest['step']}" if lowest else "–",
        f"{cell['minutes']['mean']:.2f}" if cell["minutes"] else "–",
    )


def _lines(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Returns a table of Markdown."""
    rows = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _what(summary: dict[str, Any]) -> str:
    """Says what the columns of `_outcome` are."""
    return (
        f"{summary['metric_title'] or 'Distance'}: mean (min to max) over the seeds, "
        "lower is better. A run that diverged counts with its best before that, not in "
        "the final; the mean curve ends at the last step that all its runs reached."
    )


def _markdown_of_variants(summary: dict[str, Any]) -> str:
    cells = summary["cells"]
    keys = [*cells[0]["settings"]]
    rows = [
        (
            cell["name"],
            *(_text(x).replace("|", "\\|") for x in cell["settings"].values()),
            *_outcome(cell),
        )
        for cell in cells
    ]
    head = ("variant", *keys, *_OUTCOME)
    if all([x.partition("=")[0] for x in row[0].split(",")] == keys for row in rows):
        # The names of a grid repeat the settings.
        head, rows = head[1:], [row[1:] for row in rows]
    notes = [_what(summary)]
    measured = sum(cell["best"] is not None for cell in cells)
    if measured > 1:
        notes.append(
            f"{summary['best']} has the lowest mean of the best. It was chosen by "
            f"these same runs, of {measured} variants, which flatters it."
        )
    return "\n\n".join([_lines(head, rows), *notes])


def _markdown(summary: dict[str, Any]) -> str:
    head = ("discriminator", "generator", "", *_OUTCOME)
    rows = []
    for cell in summary["cells"]:
        rates = {k: cell[k] for k in ("discriminator_lr", "generator_lr")}
        marks = {
            "best_single_rate": "best single rate",
            "best_two_rates": "best two rates",
        }
        rows.append(
            (
                f"{cell['discriminator_lr']:g}",
                f"{cell['generator_lr']:g}",
                "".join(mark for k, mark in marks.items() if summary[k] == rates),
                *_outcome(cell),
            )
        )
    notes = [_what(summary)]
    for when, values in (summary["differences"] or {}).items():
        if values is None:
            continue
        low, high = values["interval"] or (None, None)
        interval = (
            f" (95 % interval {low:+.3g} to {high:+.3g}, Student's t)"
            if values["interval"]
            else ""
        )
        notes.append(
            f"Best two rates against best single rate, {when} distance, paired by "
            f"seed: {values['mean']:+.3g}{interval}; lower in {values['lower_in']} of "
            f"{values['seeds']} seeds."
        )
    if summary["differences"]:
        kinds = [
            cell["discriminator_lr"] == cell["generator_lr"]
            for cell in summary["cells"]
            if cell["best"]
        ]
        notes.append(
            f"Both were chosen by these same runs, of {kinds.count(False)} pairs and "
            f"{kinds.count(True)} single rates: more choices favour the pairs."
        )
    return "\n\n".join([_lines(head, rows), *notes])


def _range(spread: dict[str, float] | None) -> str:
    if spread is None:
        return "–"
    mean, low, high = (_number(spread[x]) for x in ("mean", "min", "max"))
    return f"{mean} ({low} to {high})"


def _number(value: float) -> str:
    return f"{value:.2f}" if abs(value) >= 10 else f"{value:.4g}"
