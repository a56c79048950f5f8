"""A study of batch sizes on the mixture game: thousands of runs in a few programs.

Its folder is as `batch_grid` says; `runs.jsonl` gets a row when a run ends. A study
that was killed makes again the runs that it was at, and no others.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import pathlib
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from fid.files import InputError, hold, printable, read_json_lines
from fid.metrics.frechet import frechet_distance
from fid.mistaken import local_path
from fid.statistics import Moments, Statistics
from tf_ttur.runs import as_line
from tf_ttur.studies import batch_grid, batch_rows
from tf_ttur.studies.batch_grid import Grid, Subject
from tf_ttur.studies.batch_rows import PLAYERS, Row
from tf_ttur.theory.critical_batch import two_batch_noise
from tf_ttur.theory.mixture_game import (
    MixtureGame,
    Run,
    State,
    gradient_norms,
    step_scale,
)
from tf_ttur.theory.mixture_runs import Outcome, play

__all__ = ["OPTIMIZERS", "TASK", "MixtureStudy", "game", "run_study", "with_defaults"]

TASK = "mixture"
"""What rows call it."""

OPTIMIZERS: dict[str, dict[str, Any]] = {
    name: {
        "discriminator_lr": 3e-3,
        "generator_lr": 1e-3,
        "beta_1": 0.5,
        "beta_2": 0.99 if name == "rmsprop" else 0.999,
    }
    for name in ("adam", "adabelief", "rmsprop")
} | {
    name: {
        "discriminator_lr": 3e-2,
        "generator_lr": 1e-2,
        "beta_1": 0.5,
        "beta_2": 0.999,
    }
    for name in ("momentum", "sgd")
}
"""Rates and decays of each optimizer; docs/critical_batch.md says how they were found.

Those of momentum and sgd are ten times the others', and were not searched for.
"""

COMPARED = ("adam", "adabelief", "rmsprop")
"""The optimizers that are compared where nothing is said."""

# Repetitions of as many points of the data itself, whose mean distance is the floor.
_FLOOR_DRAWS = 16


@dataclasses.dataclass(frozen=True, kw_only=True)
class MixtureStudy(Grid):
    """A study of the mixture game.

    Args:
        game: What all runs have in common.
        num_samples: Points in a measurement.
        small: The smaller batch size that the gradients' noise is measured with where a
            run meets the threshold.
        large: The larger one.
        draws: Minibatches of each.

    The other arguments are those of `Grid`; a variant has `optimizer`,
    `discriminator_lr`, `generator_lr`, `beta_1` and `beta_2`.

    Raises:
        InputError: A value cannot be, or a run would end before its first measurement.
    """

    what = "study of batch sizes on the mixture game"

    game: MixtureGame = dataclasses.field(default_factory=MixtureGame)
    num_samples: int = 2048
    small: int = 16
    large: int = 256
    draws: int = 32

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.small < self.large or self.draws < 1:
            raise InputError(
                f"The noise is to be measured with batches of {self.small} and "
                f"{self.large}, {self.draws} of each; the first must be the smaller."
            )
        for variant in self.variants:
            self.run(variant, self.batches[0], self.first_seed)

    def run(self, variant: str, batch: int, seed: int) -> Run:
        """Returns one run of the game.

        Args:
            variant: Its variant's name.
            batch: Batch size.
            seed: Seed.

        Raises:
            InputError: A setting is missing, or cannot be.
        """
        settings = self.variants[variant]
        if set(settings) != {"optimizer", *_NUMBERS}:
            raise InputError(
                f"The variant {variant} of the mixture game sets "
                f"{', '.join(sorted(settings)) or 'nothing'}; it must set optimizer, "
                f"{', '.join(_NUMBERS)}."
            )
        return Run(
            batch=batch,
            seed=seed,
            optimizer=settings["optimizer"],
            discriminator_rate=settings["discriminator_lr"],
            generator_rate=settings["generator_lr"],
            beta_1=settings["beta_1"],
            beta_2=settings["beta_2"],
        )

    def settings(self) -> dict[str, Any]:
        """Returns the game's settings, and how it is measured."""
        return {
            "settings": {
                "task": TASK,
                **dataclasses.asdict(self.game),
                "num_samples": self.num_samples,
                "noise": [self.small, self.large, self.draws],
            }
        }


_NUMBERS = ("discriminator_lr", "generator_lr", "beta_1", "beta_2")


def with_defaults(settings: dict[str, Any]) -> dict[str, Any]:
    """Returns the settings of a variant, with those of its optimizer where some lack.

    Args:
        settings: Some of `optimizer` (by default adam), `discriminator_lr`,
            `generator_lr`, `beta_1`, `beta_2`.

    Raises:
        InputError: There is no such setting or optimizer, or a number is none.
    """
    name = settings.get("optimizer", "adam")
    if name not in OPTIMIZERS:
        raise InputError(
            f"The optimizer of the mixture game is {name!r}; choose from "
            f"{', '.join(OPTIMIZERS)}."
        )
    found = {"optimizer": name, **OPTIMIZERS[name]}
    for key, value in settings.items():
        if key not in found:
            raise InputError(
                f"The mixture game has no setting {key!r} of a variant; choose from "
                f"{', '.join(found)}."
            )
        if key != "optimizer":
            try:
                value = float(value)
            except ValueError as error:
                raise InputError(f"{key}={value}: expected a number.") from error
        found[key] = value
    return found


def game(settings: Mapping[str, str]) -> MixtureGame:
    """Returns the game with settings given as text.

    Args:
        settings: Texts by attribute of `MixtureGame`.

    Raises:
        InputError: There is no such setting, or it cannot have this value.
    """
    plain = MixtureGame()
    known = {
        field.name: getattr(plain, field.name) for field in dataclasses.fields(plain)
    }
    values: dict[str, Any] = {}
    for key, text in settings.items():
        if key not in known:
            raise InputError(
                f"The mixture game has no setting {key!r}; choose from "
                f"{', '.join(known)}."
            )
        kind = int if known[key] is None else type(known[key])
        try:
            values[key] = kind(text)
        except ValueError as error:
            raise InputError(f"{key}={text}: expected a number.") from error
    return dataclasses.replace(plain, **values)


def run_study(
    study: MixtureStudy,
    workdir: str | os.PathLike[str],
    threads: int | None = None,
    say: Callable[[str], Any] = print,
) -> list[Row]:
    """Plays all runs of a study that are not finished.

    Args:
        study: What to run. A folder that has more variants, batch sizes or seeds keeps
            them.
        workdir: The study's folder; made where missing.
        threads: Programs at a time; None for as many as there are processors.
        say: Called with a line now and then.

    Returns:
        The rows of all runs, which `runs.jsonl` holds, too.

    Raises:
        InputError: The folder belongs to another study or is in use, or the threshold
            cannot be met.
    """
    workdir = local_path(workdir, writing=True)
    where = printable(workdir)
    with hold(
        workdir,
        purpose="the folder of a study",
        busy=f"Another process plays the runs of {where}; wait for its end, or choose "
        "another --workdir.",
        gone=f"{where} was removed or replaced under the study; it stops.",
    ) as check:
        return _run(study, workdir, threads, say, check)


def _run(
    study: MixtureStudy,
    workdir: pathlib.Path,
    threads: int | None,
    say: Callable[[str], Any],
    check: Callable[[], None],
) -> list[Row]:
    fresh = not batch_grid.is_study(workdir)
    study = batch_grid.claim(study, workdir)
    subject = _subject(study)
    try:
        for variant in study.variants:
            study.check_subject(variant, subject, study.num_samples)
    except InputError:
        if fresh:
            batch_grid.unclaim(workdir)
        raise
    batch_grid.write_subjects(workdir, dict.fromkeys(study.variants, subject))
    say(
        f"{study.num_samples:,} points of the data have a distance of "
        f"{subject.floor:.3g} from it; the runs stop at {study.threshold:g}."
    )
    path = batch_grid.rows_path(workdir)
    rows = batch_rows.read(path) if read_json_lines(path) else []
    # Without a last line that was cut short, so that the next one is whole.
    batch_rows.write(path, rows)
    over = {(row.variant, row.batch, row.seed) for row in rows}
    todo = [x for x in study.runs if x not in over]
    if todo:
        _play(study, todo, path, len(over), threads, say, check)
    else:
        say(f"All {len(study.runs)} runs are finished.")
    return batch_rows.read(path)


def _play(
    study: MixtureStudy,
    todo: list[tuple[str, int, int]],
    path: os.PathLike[str],
    over: int,
    threads: int | None,
    say: Callable[[str], Any],
    check: Callable[[], None],
) -> None:
    begin, told = time.monotonic(), [0.0]
    digest = hashlib.sha256(
        json.dumps(study.settings(), sort_keys=True).encode()
    ).hexdigest()
    with open(path, "a", encoding="utf-8") as file:

        def write(index: int, outcome: Outcome) -> None:
            variant = todo[index][0]
            minutes = (time.monotonic() - begin) / 60
            row = _row(study, variant, outcome, digest, minutes)
            check()
            # At once and whole: of a run that a crash cuts short nothing stays.
            file.write(as_line(row.as_json()))
            file.flush()
            os.fsync(file.fileno())

        def progress(ended: int, total: int) -> None:
            seconds = time.monotonic() - begin
            if ended == total or seconds - told[0] > 10:
                told[0] = seconds
                left = seconds / ended * (total - ended) / 60
                say(
                    f"[{over + ended}/{over + total}] {seconds / 60:.1f} min"
                    + (f", about {left:.0f} min left" if ended < total else "")
                )

        play(
            [study.run(*each) for each in todo],
            study.game,
            max_steps={b: study.limit(b) for b in study.batches},
            every={b: study.interval(b) for b in study.batches},
            thresholds=[study.threshold],
            num_samples=study.num_samples,
            consecutive=study.passes,
            keep_states=True,
            threads=threads,
            progress=progress,
            on_result=write,
        )


def _row(
    study: MixtureStudy,
    variant: str,
    outcome: Outcome,
    digest: str,
    minutes: float,
) -> Row:
    run, settings = outcome.run, study.variants[variant]
    trace = tuple(
        (int(step), float(distance))
        for step, distance in zip(outcome.steps, outcome.distances, strict=True)
        if np.isfinite(distance)
    )
    crossing = outcome.crossings[study.threshold]
    gradients = tuple(
        (int(step), float(d), float(g))
        for step, d, g in zip(
            outcome.steps,
            outcome.discriminator_norms,
            outcome.generator_norms,
            strict=True,
        )
        if np.isfinite(d) and np.isfinite(g)
    )
    images = crossing.step * run.batch
    return Row(
        task=TASK,
        variant=variant,
        batch=run.batch,
        seed=run.seed,
        **settings,
        metric="frechet_plane",
        threshold=float(study.threshold),
        passes=study.passes,
        every=outcome.every,
        max_steps=study.limit(run.batch),
        status=crossing.status,
        steps=crossing.step,
        previous=crossing.previous,
        trace=trace,
        gradients=gradients,
        images={"real": images, "generated": 2 * images},
        minutes=minutes,
        config=digest[:16],
        noise=_noise(study, outcome),
    )


def _noise(study: MixtureStudy, outcome: Outcome) -> dict[str, Any] | None:
    """Measures the noise of both gradients where a run met its threshold.

    Returns:
        `trace`, `gradient` and `scale` by network; None where the run did not meet it.
    """
    crossing = outcome.crossings[study.threshold]
    if crossing.status != "reached":
        return None
    state = State(*(_with_axis(network) for network in crossing.state))
    norms = {
        size: gradient_norms(
            state, [outcome.run.seed], study.game, size, draws=study.draws, block=1
        )
        for size in (study.small, study.large)
    }
    found = {}
    for player in PLAYERS:
        small, large = (getattr(norms[x], player).ravel() for x in norms)
        noise = two_batch_noise(study.small, small, study.large, large)
        network = getattr(crossing.state, player)
        scale = step_scale(network, outcome.run, crossing.known)
        found[player] = {
            "trace": noise.trace,
            "gradient": noise.gradient,
            "scale": scale if np.isfinite(scale) else None,
        }
    return found


def _with_axis(network: Any) -> Any:
    return type(network)(*(np.asarray(each)[None] for each in network))


def _subject(study: MixtureStudy) -> Subject:
    game = study.game
    mean, covariance = game.moments()
    real = Statistics(mu=mean, sigma=covariance, label="the data")
    random = np.random.default_rng(game.seed)
    floor = np.mean(
        [
            frechet_distance(_drawn(game, study.num_samples, random), real)
            for _ in range(_FLOOR_DRAWS)
        ]
    )
    discriminator, generator = game.parameters
    examples = game.num_examples or _ENDLESS
    return Subject(float(floor), examples, discriminator, generator)


# |S| of data that are drawn anew for every batch: more than any run sees.
_ENDLESS = 2**31 - 1


def _drawn(game: MixtureGame, count: int, random: np.random.Generator) -> Statistics:
    if game.examples is not None:
        points = game.examples[random.integers(game.num_examples, size=count)]
    else:
        centres = game.centres[random.integers(game.modes, size=count)]
        points = centres + game.deviation * random.standard_normal((count, 2))
    moments = Moments(2)
    moments.update(points)
    return moments.statistics()
