"""Plays many runs of the mixture game, until each reaches the thresholds asked for.

The runs of one batch size share a program with a fixed number of places. A place whose
run has ended is given to the next run, whose steps count from its own start. What
happens in a place depends on nothing in the others, and the program of a batch size is
always the same; so a run has the same numbers whatever runs are beside it.
"""

from __future__ import annotations

import collections
import concurrent.futures
import dataclasses
import math
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from fid.files import InputError
from tf_ttur.runs import last_above
from tf_ttur.theory import critical_batch
from tf_ttur.theory.mixture_game import (
    MixtureGame,
    Run,
    State,
    chunk,
    schedule,
    start,
)
from tf_ttur.theory.vector_optimizers import constants

__all__ = ["Crossing", "Outcome", "places", "play"]

# A program has as many places as make this many examples a step, within these bounds:
# its arrays stay in a processor's cache, and its calls are few.
_EXAMPLES = 2048
_FEWEST_PLACES, _MOST_PLACES = 4, 16


@dataclasses.dataclass(frozen=True)
class Crossing:
    """Whether and when a run reached a threshold.

    Attributes:
        status: "reached", "censored" or "diverged", as of `critical_batch.Run`.
        step: If reached, the first measured step of the passes asked for in a row; else
            the last measured step.
        previous: If reached, the measured step before, at which it had not been: 0 for
            the start. Else None.
        state: If reached and states are kept, the run's state where this was known (the
            last of the passes in a row); each array (weights,), float32. Else None.
        known: If reached, the step of that state. Else None.
    """

    status: str
    step: int
    previous: int | None = None
    state: State | None = None
    known: int | None = None


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of a run.

    Attributes:
        run: The run.
        every: Steps between two measurements.
        crossings: By threshold.
        steps: Measured steps, int64 (k,).
        distances: Fréchet distances there, float64 (k,).
        discriminator_norms: Squared norms of the discriminator's minibatch gradients,
            means over the steps up to each measurement, float64 (k,).
        generator_norms: Those of the generator's.
    """

    run: Run
    every: int
    crossings: dict[float, Crossing]
    steps: np.ndarray
    distances: np.ndarray
    discriminator_norms: np.ndarray
    generator_norms: np.ndarray

    def at(self, threshold: float) -> critical_batch.Run:
        """Returns what `critical_batch.fit` takes, for one of the thresholds.

        Of a run that did not reach it the steps are those up to which that is certain.
        Where its last measurements pass, though too few in a row, N may be the first
        of them: it was the run that ended, and not the streak.
        """
        crossing = self.crossings[threshold]
        steps = crossing.step
        if crossing.status == "censored":
            measured = zip(self.steps.tolist(), self.distances.tolist(), strict=True)
            # A curve takes steps of one at least, and N is that in any case.
            steps = max(last_above(measured, threshold), 1)
        return critical_batch.Run(
            batch=self.run.batch,
            status=crossing.status,
            steps=steps,
            previous=crossing.previous,
            seed=self.run.seed,
        )


def places(batch: int) -> int:
    """Returns how many runs of a batch size are computed side by side."""
    return max(_FEWEST_PLACES, min(_MOST_PLACES, _EXAMPLES // batch))


def play(
    runs: Sequence[Run],
    game: MixtureGame,
    *,
    max_steps: int | Mapping[int, int],
    every: int | Mapping[int, int],
    thresholds: Sequence[float],
    num_samples: int = 2048,
    consecutive: int = 1,
    keep_states: bool = False,
    threads: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    on_result: Callable[[int, Outcome], None] | None = None,
) -> list[Outcome]:
    """Plays runs, each until it has reached all thresholds, ends or diverges.

    A run has diverged where its distance or a gradient's norm is not finite. The
    distance is measured on `num_samples` generated points, always of the same latents,
    against the data's exact moments.

    Args:
        runs: The runs, of any batch sizes and optimizers.
        game: What they have in common.
        max_steps: The most steps of a run, or by batch size.
        every: Steps between two measurements, or by batch size. A run ends at the last
            multiple of it that is not above `max_steps`.
        thresholds: Distances, > 0; a measurement passes one that it does not exceed.
        num_samples: Points that the distance is measured on, at least 3.
        consecutive: How many measurements in a row must pass.
        keep_states: Whether to keep the weights and moments where a threshold was
            reached, for `mixture_game.gradient_norms` and `step_scale`.
        threads: How many programs run at the same time; None for as many as there are
            processors.
        progress: Is told how many runs have ended, and of how many.
        on_result: Is given a run's index and its outcome when it ends, one at a time,
            in no fixed order; where it raises, so does `play`.

    Returns:
        The outcomes, in the order of the runs.

    Raises:
        InputError: A setting is out of its range.

    Example:
        >>> from tf_ttur.theory.mixture_game import MixtureGame, Run
        >>> from tf_ttur.theory.mixture_runs import play
        >>> runs = [Run(4, seed, "adam", 1e-3, 1e-3) for seed in range(2)]
        >>> outcomes = play(runs, MixtureGame(width=4), max_steps=20, every=10,
        ...                 thresholds=[1e-6], num_samples=100)
        >>> [outcome.crossings[1e-6].status for outcome in outcomes]
        ['censored', 'censored']
        >>> outcomes[0].steps.tolist()
        [10, 20]
    """
    thresholds = _checked_thresholds(thresholds)
    least = {"num_samples": 3, "consecutive": 1, "threads": 1}
    threads = len(os.sched_getaffinity(0)) if threads is None else threads
    given = {"num_samples": num_samples, "consecutive": consecutive, "threads": threads}
    for name, value in given.items():
        if not isinstance(value, int | np.integer) or value < least[name]:
            raise InputError(
                f"{name} is {value!r}; use a whole number of at least {least[name]}."
            )
    waiting: dict[int, collections.deque[int]] = {}
    for index, run in enumerate(runs):
        waiting.setdefault(run.batch, collections.deque()).append(index)
    table = _Table(runs, progress, on_result)
    blocks = []
    for batch, indices in sorted(waiting.items()):
        interval, most = _of("every", every, batch), _of("max_steps", max_steps, batch)
        if most < interval:
            raise InputError(
                f"With a batch size of {batch} a run has at most {most} steps and is "
                f"measured every {interval}: it would never be. Raise max_steps, or "
                "lower every."
            )
        rules = _Rules(thresholds, consecutive, keep_states, interval, most)
        for _ in range(min(threads, len(indices))):
            blocks.append(_Block(game, batch, num_samples, rules, indices, table))
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        futures = [pool.submit(block.play) for block in blocks]
        try:
            for future in concurrent.futures.as_completed(futures):
                future.result()
        except BaseException:
            table.stop.set()
            for future in futures:
                future.cancel()
            raise
    return [table.outcomes[index] for index in range(len(runs))]


def _checked_thresholds(thresholds: Sequence[float]) -> tuple[float, ...]:
    found = tuple(float(each) for each in thresholds)
    if not found or not all(0 < each < math.inf for each in found):
        raise InputError(
            f"The thresholds are {list(thresholds)}; give at least one, all positive."
        )
    if len(set(found)) < len(found):
        raise InputError(f"Of the thresholds {list(thresholds)} some are equal.")
    return found


def _of(name: str, value: int | Mapping[int, int], batch: int) -> int:
    if isinstance(value, Mapping):
        if batch not in value:
            raise InputError(
                f"{name} has no entry for the batch size {batch}; it has "
                f"{', '.join(map(str, value)) or 'none'}."
            )
        value = value[batch]
    if not isinstance(value, int | np.integer) or value < 1:
        raise InputError(f"{name} is {value!r}; use a whole number of at least 1.")
    return int(value)


class _Table:
    """Outcomes of all runs; several threads write to it."""

    def __init__(self, runs: Sequence[Run], progress: Any, on_result: Any):
        self.runs = runs
        self.stop = threading.Event()
        self.outcomes: dict[int, Outcome] = {}
        self._progress, self._on_result = progress, on_result
        self._lock = threading.Lock()

    def deliver(self, index: int, outcome: Outcome) -> None:
        with self._lock:
            if self.stop.is_set():
                return  # The caller has been told of an error already.
            self.outcomes[index] = outcome
            if self._on_result:
                self._on_result(index, outcome)
            if self._progress:
                self._progress(len(self.outcomes), len(self.runs))


@dataclasses.dataclass(frozen=True)
class _Rules:
    """When runs of a batch size are measured, and when they end."""

    thresholds: tuple[float, ...]
    consecutive: int
    keep_states: bool
    every: int
    most: int


class _Track:
    """A run on its way, in a place of a block."""

    def __init__(self, index: int, run: Run, rules: _Rules):
        self.index, self.run = index, run
        self.made = 0
        self.ended = False
        self._rules = rules
        self._rows: list[tuple[float, ...]] = []
        self._passes = dict.fromkeys(rules.thresholds, 0)
        self._crossings: dict[float, Crossing] = {}

    def record(self, row: tuple[float, ...], state: Callable[[], State]) -> None:
        """Takes a measurement: distance and both norms."""
        rules = self._rules
        self.made += rules.every
        self._rows.append((self.made, *row))
        diverged = not np.isfinite(row).all()
        for threshold in rules.thresholds:
            if threshold in self._crossings:
                continue
            passed = not diverged and row[0] <= threshold
            self._passes[threshold] = self._passes[threshold] + 1 if passed else 0
            if self._passes[threshold] == rules.consecutive:
                first = self.made - (rules.consecutive - 1) * rules.every
                kept = state() if rules.keep_states else None
                self._crossings[threshold] = Crossing(
                    "reached", first, first - rules.every, kept, self.made
                )
        all_reached = len(self._crossings) == len(rules.thresholds)
        self.ended = diverged or all_reached or self.made + rules.every > rules.most
        for threshold in rules.thresholds if self.ended else ():
            last = Crossing("diverged" if diverged else "censored", self.made)
            self._crossings.setdefault(threshold, last)

    def outcome(self) -> Outcome:
        steps, *columns = np.array(self._rows, np.float64).T
        crossings = {each: self._crossings[each] for each in self._rules.thresholds}
        return Outcome(
            self.run, self._rules.every, crossings, steps.astype(np.int64), *columns
        )


class _Block:
    """Places in which the runs of one batch size are played, one after the other."""

    def __init__(
        self,
        game: MixtureGame,
        batch: int,
        num_samples: int,
        rules: _Rules,
        waiting: collections.deque[int],
        table: _Table,
    ):
        self._game, self._batch = game, batch
        self._num_samples, self._rules = num_samples, rules
        self._waiting, self._table = waiting, table
        # What an empty place computes is not looked at.
        idle = Run(batch, 0, "sgd", 1e-30, 1e-30)
        self._idle = _Track(-1, idle, rules)
        self._tracks = [self._idle] * places(batch)
        self._state = start([idle] * len(self._tracks), game)

    def play(self) -> None:
        """Plays runs until none is waiting."""
        every = self._rules.every
        steps = chunk(self._game, self._batch, every, self._num_samples)
        changed = self._fill()
        while any(track is not self._idle for track in self._tracks):
            if self._table.stop.is_set():
                return
            runs = [track.run for track in self._tracks]
            made = [track.made for track in self._tracks]
            if changed:
                seeds = np.array([run.seed for run in runs], np.uint32)
                chosen = np.array(
                    [constants(run.optimizer, run.beta_1, run.beta_2) for run in runs],
                    np.float32,
                )
            self._state, measured = steps(
                self._state,
                seeds,
                np.array(made, np.int32),
                chosen,
                *schedule(runs, made, every),
            )
            self._record(np.stack([each.numpy() for each in measured], axis=1))
            changed = self._fill()

    def _record(self, rows: np.ndarray) -> None:
        for place, track in enumerate(self._tracks):
            if track is self._idle:
                continue
            row = tuple(map(float, rows[place]))
            track.record(row, lambda place=place: self._copy(place))
            if track.ended:
                self._table.deliver(track.index, track.outcome())
                self._tracks[place] = self._idle

    def _copy(self, place: int) -> State:
        return tf.nest.map_structure(
            lambda each: np.array(each[place], np.float32), self._state
        )

    def _fill(self) -> bool:
        """Gives empty places to waiting runs; says whether a place has changed."""
        changed = {}
        for place, track in enumerate(self._tracks):
            if track is not self._idle:
                continue
            try:
                index = self._waiting.popleft()
            except IndexError:
                break
            run = self._table.runs[index]
            self._tracks[place] = _Track(index, run, self._rules)
            changed[place] = run
        if changed:
            fresh = start(list(changed.values()), self._game)

            def put(old: Any, new: np.ndarray) -> np.ndarray:
                array = np.array(old)
                array[list(changed)] = new
                return array

            self._state = tf.nest.map_structure(put, self._state, fresh)
        return bool(changed)
