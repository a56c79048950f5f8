"""A row of the paper's table of results, from the data to the figures."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from fid.files import InputError, check_same, write_json
from fid.mistaken import local_path
from tf_ttur import presets, tasks
from tf_ttur.runs import RunFolder
from tf_ttur.studies.jobs import run_jobs
from tf_ttur.studies.machines import Machines
from tf_ttur.studies.sweep import run_of, train_run

__all__ = ["SETTINGS", "row", "summarize", "train_pair", "warnings"]

SETTINGS = ("ttur", "orig")
"""What the paper compares: two learning rates, and the original's one."""


def train_pair(
    name: str,
    seeds: int,
    workdir: str | pathlib.Path,
    data_dir: str | None = None,
    inception: str | None = None,
    original_quirks: bool = False,
    machines: Machines = Machines(),  # noqa: B008
    say: Callable[[str], Any] = print,
    train: Callable[..., dict[str, Any]] = train_run,
    **changes: Any,
) -> dict[str, dict[str, Any]] | None:
    """Trains both settings of an experiment with several seeds.

    A run lives in WORKDIR/PRESET/seed_N. A run that was cut resumes.
    A run that diverges counts with what it measured before.

    Args:
        name: Both presets' name without `_ttur` and `_orig`, such as `celeba_dcgan`.
        seeds: How many seeds: 0, 1, ...; the paper's runs are 8.
        workdir: Where the runs and `results.json` go.
        data_dir: Where the data set is; see `datasets.load` and `datasets.text.load`.
        inception: Path of the 2015 graph; see `fid.extractors.download.find_graph`.
        original_quirks: Whether to train and measure with the original's accidents.
        machines: Where the runs are done, how many at a time, and which of them.
        say: Called with a line at the end of every run.
        train: Trains a preset in a folder; see `sweep.train_run`.
        **changes: Settings to change in all presets, as for `Preset.override`.

    Returns:
        What `summarize` says of each of `SETTINGS`, with `diverged`, the step of each
        seed whose run diverged; results.json holds it, too. None where runs of other
        shards are not over.

    Raises:
        InputError: There is no such experiment, or runs failed.
    """
    if seeds < 1:
        raise InputError(f"The number of seeds is {seeds}; it must be >= 1.")
    workdir = local_path(workdir, writing=True)
    folders: dict[str, list[RunFolder]] = {}
    jobs = []
    for setting in SETTINGS:
        preset = presets.get(f"{name}_{setting}").override(**changes)
        preset = preset.with_original_quirks() if original_quirks else preset
        folders[setting] = []
        for seed in range(seeds):
            run = preset.override(seed=seed)
            folder = RunFolder(workdir / preset.name / f"seed_{seed}")
            if folder.is_over:
                check_same(
                    folder.preset()[0].settings(),
                    run.settings(),
                    f"{folder} holds a run with another configuration",
                    "Give its settings, or choose another --workdir.",
                )
            title = f"{preset.name}, seed {seed}"
            jobs.append(run_of(title, run, folder, data_dir, inception))
            folders[setting].append(folder)
    run_jobs(jobs, train, workdir, machines=machines, say=say)
    if not all(folder.is_over for each in folders.values() for folder in each):
        return None
    results = {setting: _results(each) for setting, each in folders.items()}
    write_json(workdir / "results.json", results)
    return results


def _results(folders: Sequence[RunFolder]) -> dict[str, Any]:
    """Sums up the runs of one setting, by seed."""
    task = tasks.of_run(folders[0])
    metrics = (task.metric(folders[0].read_config()), *task.further_metrics)
    diverged = {
        seed: found["step"]
        for seed, folder in enumerate(folders)
        if (found := folder.read_divergence()) is not None
    }
    runs = [folder.rows() for folder in folders]
    return summarize(runs, metrics) | {"diverged": diverged}


def summarize(
    runs: Sequence[Sequence[dict[str, Any]]], metrics: Sequence[str]
) -> dict[str, Any]:
    """Takes the table's figures out of the curves of several runs.

    Args:
        runs: The rows of each run's metrics.jsonl.
        metrics: Names of values in them: the one that decides what is best, and at
            most one more, such as `jsd_4` and `jsd_6`.

    Returns:
        `metric`, `runs`, and two points, {"step", "value"}: `best`, the lowest of all
        runs and steps, as in the paper's table; and `mean_minimum`, the lowest of the
        mean curve, over the steps that every run has measured: up to where the first
        of them diverged. `further` is the same of the second name, where there is one.

    Raises:
        InputError: A run has no distance.

    Example:
        >>> from tf_ttur.studies import reproduce
        >>> runs = [[{"step": 1, "fid": 9.0}, {"step": 2, "fid": 4.0}],
        ...         [{"step": 1, "fid": 5.0}, {"step": 2, "fid": 8.0}]]
        >>> reproduce.summarize(runs, ["fid"])["mean_minimum"]
        {'step': 2, 'value': 6.0}
    """
    metric, *further = metrics
    found = _summarize(runs, metric)
    if further:
        found["further"] = _summarize(runs, *further)
    return found


def _summarize(runs: Sequence[Sequence[dict[str, Any]]], metric: str) -> dict[str, Any]:
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


def warnings(name: str, results: dict[str, dict[str, Any]]) -> list[str]:
    """Says which settings have a mean curve that ends early.

    Args:
        name: Both presets' name without `_ttur` and `_orig`.
        results: What `train_pair` returned.

    Returns:
        A sentence for each setting with a run that diverged.
    """
    return [
        f"{name}_{setting}: {len(ours['diverged'])} of {ours['runs']} runs diverged; "
        "the mean curve ends where the first did."
        for setting, ours in results.items()
        if ours["diverged"]
    ]


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
    rows = []
    for suffix, digits in tasks.of(presets.get(name)).tabled:
        rows.append(_row(name, suffix, published, ours, digits))
        published = published and published.further
        ours = ours and ours.get("further")
    return "\n".join(rows)


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
