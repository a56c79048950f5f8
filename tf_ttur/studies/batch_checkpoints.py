"""Estimates of the critical batch size from checkpoints that a study's runs left."""

from __future__ import annotations

import math
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from fid.files import InputError, printable
from tf_ttur import tasks
from tf_ttur.runs import RunFolder, step_of
from tf_ttur.studies.batch_report import (
    STATS,
    Estimate,
    bound_of,
    constants,
    of_both,
)
from tf_ttur.studies.batch_rows import Row
from tf_ttur.studies.critical_batch import run_folder
from tf_ttur.studies.gradient_noise import best_steps, measure_noise

__all__ = ["by_checkpoint", "by_stats", "folder_of", "last_ones"]

_ILL_DEFINED = "Batch normalisation makes an image's own gradient ill-defined."
_NOT_B = (
    "This is the noise scale of McCandlish et al. (2018), where larger steps stop to "
    "pay, and not the batch size of fewest examples."
)


def last_ones(rows: Iterable[Row]) -> list[Row]:
    """Returns of each variant the run whose last checkpoint is looked at.

    Args:
        rows: Rows of a study.

    Returns:
        The run of the largest batch size that met the threshold, of the least seed: its
        last checkpoint is where it met it, and its gradients have the least noise.

    Raises:
        InputError: No run met it.
    """
    chosen: dict[str, Row] = {}
    for row in sorted(rows, key=lambda row: (row.batch, -row.seed)):
        if row.status == "reached":
            chosen[row.variant] = row
    if not chosen:
        raise InputError(
            "No run met its threshold, so there is no checkpoint to estimate from. "
            "Allow more steps, or raise --threshold."
        )
    return list(chosen.values())


def folder_of(workdir: str | os.PathLike[str], row: Row) -> RunFolder:
    """Returns the run folder of a row.

    Args:
        workdir: The study's folder.
        row: One of its rows.
    """
    return run_folder(workdir, row.variant, row.batch, row.seed)


def by_stats(
    row: Row,
    folder: RunFolder,
    *,
    small: int,
    large: int,
    draws: int,
    power: int = 1,
    data_dir: str | None = None,
) -> Estimate:
    """Estimates a lower bound on b* from the gradients where the threshold was met.

    Args:
        row: The run.
        folder: Its folder.
        small: The smaller batch size.
        large: The larger one.
        draws: Batches of each.
        power: Exponent of (1 - gamma): 1 by the derivation, 2 in a looser form.
        data_dir: Where the data are; None for where they were.

    Returns:
        2 B / epsilon^2 of both networks; None of one whose gradient is lost in its
        noise.

    Raises:
        InputError: The run has no checkpoint, or the batch sizes cannot be.
    """
    gan, batches, path = _load(row, folder, data_dir)
    players = measure_noise(gan, batches, small, large, draws)
    measured = {name: (each.noise, each.scale) for name, each in players.items()}
    found, missing = of_both(
        lambda player: bound_of(row, player, *measured[player], power)
    )
    return Estimate(
        row.variant,
        STATS,
        **found,
        assumed={
            "checkpoint": path.name,
            "run": f"b = {row.batch}, seed {row.seed}",
            row.metric: row.trace[-1][1],
            "batch sizes": f"{small} and {large}, {draws} of each",
            **constants(measured),
            "loss D/G": {k: v.loss for k, v in players.items()},
            "power": power,
        },
        threshold=row.threshold,
        note=f"{_ILL_DEFINED} {missing}".rstrip(),
    )


def by_checkpoint(
    row: Row,
    folder: RunFolder,
    sizes: Sequence[int],
    *,
    factors: Sequence[float],
    draws: int,
    data_dir: str | None = None,
) -> Estimate:
    """Estimates the noise scale from the best single step of each batch size.

    Args:
        row: The run.
        folder: Its folder.
        sizes: Batch sizes to step with.
        factors: Multiples of the rates to try.
        draws: Steps for each.
        data_dir: As for `by_stats`.

    Returns:
        McCandlish's noise scale of both networks: not b*. None of one whose best steps
        are not among the factors, or do not level off.

    Raises:
        InputError: The run has no checkpoint.
    """
    gan, batches, path = _load(row, folder, data_dir)

    def steps(player: str) -> Any:
        made = best_steps(
            gan, batches, sizes, factors=factors, draws=draws, players=[player]
        )[player]
        if not 0 < made[2] < math.inf:
            raise InputError(
                "The best steps do not level off as batches grow: sweep other batch "
                "sizes."
            )
        return made

    # A loss may fall along its gradient without end.
    found, missing = of_both(steps)
    there = {player: made for player, made in found.items() if made}
    return Estimate(
        row.variant,
        "checkpoint (noise scale)",
        **{player: made and made[2] for player, made in found.items()},
        assumed={
            "checkpoint": path.name,
            "run": f"b = {row.batch}, seed {row.seed}",
            row.metric: row.trace[-1][1],
            "draws": draws,
            **{
                f"best multiples, {name}": {f"{k}": v for k, v in best.items()}
                for name, (best, _, _) in there.items()
            },
            "limits": {name: limit for name, (_, limit, _) in there.items()},
        },
        threshold=row.threshold,
        note=f"{_NOT_B} {missing}".rstrip(),
    )


def _load(
    row: Row, folder: RunFolder, data_dir: str | None
) -> tuple[Any, Callable[[int], Iterator[Any]], pathlib.Path]:
    """Loads a run's last checkpoint and its data."""
    preset, there = folder.preset()
    task = tasks.of(preset, data_dir=data_dir or there)
    data = task.load()
    gan = task.build(data.shape)
    path = tasks.find_checkpoint(folder, "last")
    if step_of(path) != row.trace[-1][0]:
        raise InputError(
            f"{printable(folder)} has no checkpoint of step {row.trace[-1][0]}, where "
            f"the run ended; its last one is {path.name}. Bring it back, or delete the "
            "folder and sweep again."
        )
    tasks.load_weights(gan, path)

    def batches(size: int) -> Iterator[Any]:
        # Another order than that of training, and for each size another.
        labels = preset.num_classes is not None
        return iter(data.training(size, seed=preset.seed + 1000 + size, labels=labels))

    return gan, batches, path
