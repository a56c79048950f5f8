"""A row of the paper's table of results, from the data to the figures."""

from __future__ import annotations

import logging
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from fid.files import InputError, write_json
from tf_ttur import experiment, presets
from tf_ttur.callbacks import Diverged, MetricsLog

__all__ = ["SETTINGS", "reproduce", "row", "summarize"]

_log = logging.getLogger(__name__)

SETTINGS = ("ttur", "orig")
"""What the paper compares: two learning rates, and the original's one."""


def reproduce(
    name: str,
    seeds: int,
    workdir: str | pathlib.Path,
    data_dir: str | None = None,
    inception: str | None = None,
    original_quirks: bool = False,
    **changes: Any,
) -> dict[str, dict[str, Any]]:
    """Trains both settings of an experiment with several seeds, one after the other.

    A run lives in WORKDIR/PRESET/seed_N. Starting again goes on where it stopped.
    A run that diverges counts with what it measured before.

    Args:
        name: Both presets' name without `_ttur` and `_orig`, such as `celeba_dcgan`.
        seeds: How many seeds: 0, 1, ...; the paper's runs are 8.
        workdir: Where the runs and `results.json` go.
        data_dir: Where the data set is; see `datasets.load` and `text.load`.
        inception: Path of the 2015 graph; see `fid.extractors.download.find_graph`.
        original_quirks: Whether to train and measure with the original's accidents.
        **changes: Settings to change in all presets, as for `Preset.override`.

    Returns:
        What `summarize` says of each of `SETTINGS`, with `diverged`, the step of each
        seed whose run diverged; results.json holds it, too.

    Raises:
        InputError: There is no such experiment, or a run cannot start.
    """
    workdir = pathlib.Path(workdir)
    settings = {}
    for setting in SETTINGS:
        preset = presets.get(f"{name}_{setting}").override(**changes)
        settings[setting] = preset.with_original_quirks() if original_quirks else preset
    results = {}
    for setting, preset in settings.items():
        runs, diverged = [], {}
        for seed in range(seeds):
            folder = workdir / preset.name / f"seed_{seed}"
            try:
                experiment.run(preset.override(seed=seed), folder, data_dir, inception)
            except Diverged as error:
                _log.warning("%s stopped early: %s", folder, error)
                diverged[seed] = error.step
            runs.append(MetricsLog.read(folder / "metrics.jsonl"))
        results[setting] = summarize(runs) | {"diverged": diverged}
        write_json(workdir / "results.json", results)
    return results


def summarize(runs: Sequence[Sequence[dict[str, Any]]]) -> dict[str, Any]:
    """Takes the table's figures out of the curves of several runs.

    Args:
        runs: The rows of each run's metrics.jsonl.

    Returns:
        `metric`, `runs`, and two points, {"step", "value"}: `best`, the lowest of all
        runs and steps, as in the paper's table; and `mean_minimum`, the lowest of the
        mean curve, over the steps that every run has measured: up to where the first
        of them diverged. Of text it is that of `jsd_4`, and `further` is the same
        of `jsd_6`.

    Raises:
        InputError: A run has no distance.

    Example:
        >>> from tf_ttur.studies import reproduce
        >>> runs = [[{"step": 1, "fid": 9.0}, {"step": 2, "fid": 4.0}],
        ...         [{"step": 1, "fid": 5.0}, {"step": 2, "fid": 8.0}]]
        >>> reproduce.summarize(runs)["mean_minimum"]
        {'step': 2, 'value': 6.0}
    """
    names = {key for rows in runs for row in rows for key in row}
    metric = next(
        (x for x in names if x in ("fid", "jsd_4") or x.startswith("frechet_")), None
    )
    found = _summarize(runs, metric)
    if metric == "jsd_4":
        found["further"] = _summarize(runs, "jsd_6")
    return found


def _summarize(
    runs: Sequence[Sequence[dict[str, Any]]], metric: str | None
) -> dict[str, Any]:
    curves = [
        {row["step"]: row[metric] for row in rows if row.get(metric) is not None}
        for rows in runs
    ]
    if not all(curves):
        raise InputError(
            f"{sum(not curve for curve in curves)} of {len(curves)} runs have no "
            "distance, not even at step 0: look into their log.txt."
        )
    value, step = min((v, s) for curve in curves for s, v in curve.items())
    common = sorted(set.intersection(*map(set, curves)))
    mean = [float(np.mean([curve[step] for curve in curves])) for step in common]
    lowest = int(np.argmin(mean))
    return {
        "metric": metric,
        "runs": len(curves),
        "best": {"step": step, "value": value},
        "mean_minimum": {"step": common[lowest], "value": mean[lowest]},
    }


def row(name: str, ours: dict[str, Any] | None = None) -> str:
    """Returns a preset's row of the table in docs/results.md.

    Args:
        name: The preset.
        ours: What `summarize` says of its runs; None where there are none yet.

    Returns:
        A line of Markdown: experiment, rates, the paper's best, the minimum of its
        code's mean curve, and our own two. Of text there are two lines, of 4-grams and
        of 6-grams.

    Example:
        >>> from tf_ttur.studies import reproduce
        >>> print(reproduce.row("celeba_dcgan_ttur"))
        | `celeba_dcgan_ttur` | 1e-05, 0.0005 | 12.5 at 225,000 | 14.0 | not run | not run |
    """  # noqa: E501
    published = presets.PUBLISHED.get(name)
    if presets.get(name).network != "text":
        return _row(name, "", published, ours, 2)
    return "\n".join(
        (
            _row(name, ", JSD-4", published, ours, 4),
            _row(
                name,
                ", JSD-6",
                published and published.further,
                ours and ours["further"],
                4,
            ),
        )
    )


def _row(
    name: str,
    suffix: str,
    published: presets.Published | None,
    ours: dict[str, Any] | None,
    digits: int,
) -> str:
    preset = presets.get(name)
    cells = [
        f"`{name}`{suffix}",
        f"{preset.discriminator_lr:g}, {preset.generator_lr:g}",
        _point(published.best, published.step) if published else "-",
        str(published.mean_minimum) if published else "-",
    ]
    for key in ("best", "mean_minimum"):
        if ours is None:
            cells.append("not run")
        else:
            cells.append(_point(round(ours[key]["value"], digits), ours[key]["step"]))
    return f"| {' | '.join(cells)} |"


def _point(value: float | None, step: int | None) -> str:
    return "-" if value is None else f"{value} at {step:,}"
