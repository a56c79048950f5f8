"""Playing many runs: where each ends, what is recorded, and who is beside whom."""

import dataclasses
import threading

import mixture_oracle
import numpy as np
import pytest
import rounding

import fid
from fid.files import InputError
from tf_ttur.theory import critical_batch, mixture_runs
from tf_ttur.theory.mixture_game import MixtureGame, Run
from tf_ttur.theory.mixture_runs import places, play

# With tanh a run of huge weights has gradients of 0 and stays finite.
GAME = MixtureGame(width=8, activation="relu")
EVERY, MOST, SAMPLES = 10, 65, 200
# At the start the distance is about 4, and with these rates it falls below 3.
THRESHOLDS = (3.5, 3.0, 1e-6)
BATCH = 4


def adam(seed, batch=BATCH):
    return Run(batch, seed, "adam", 3e-3, 3e-3)


# More runs than places, one of which diverges.
RUNS = [adam(seed) for seed in range(18)] + [Run(BATCH, 0, "sgd", 1e30, 1e30)]


def played(runs, **options):
    settings = {
        "max_steps": MOST,
        "every": EVERY,
        "thresholds": THRESHOLDS,
        "num_samples": SAMPLES,
        "threads": 1,
    }
    return play(runs, GAME, **settings | options)


@pytest.fixture(scope="module")
def outcomes():
    return played(RUNS, keep_states=True)


def same(one, two):
    assert one.run == two.run
    for name in ("steps", "distances", "discriminator_norms", "generator_norms"):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name))


def test_runs_come_back_in_their_order(outcomes):
    assert [outcome.run for outcome in outcomes] == RUNS


def test_a_run_has_the_same_numbers_alone_and_in_threads(outcomes):
    assert len(RUNS) > places(BATCH)
    for index in (0, 17):  # 17 gets the place of a run that has ended
        (alone,) = played([RUNS[index]])
        same(alone, outcomes[index])
    for one, two in zip(played(RUNS, threads=2), outcomes, strict=True):
        same(one, two)


def test_crossings_are_where_the_distances_first_fall_below(outcomes):
    reached = 0
    for outcome in outcomes[:-1]:
        assert outcome.steps.tolist() == [10, 20, 30, 40, 50, 60]
        for threshold in THRESHOLDS:
            crossing = outcome.crossings[threshold]
            below = np.flatnonzero(outcome.distances <= threshold)
            if len(below):
                reached += 1
                step = outcome.steps[below[0]]
                assert (crossing.status, crossing.step) == ("reached", step)
                assert crossing.previous == step - EVERY
                assert crossing.known == step
            else:
                assert (crossing.status, crossing.step) == ("censored", 60)
                assert crossing.previous is crossing.state is None
    assert reached > 10


def test_passes_in_a_row(outcomes):
    found = played(RUNS[:4], consecutive=2, thresholds=[3.0], keep_states=True)
    for outcome, before in zip(found, outcomes, strict=False):
        passes = before.distances <= 3.0
        twice = np.flatnonzero(passes[:-1] & passes[1:])
        crossing = outcome.crossings[3.0]
        if len(twice):
            assert crossing.step == before.steps[twice[0]]
            assert crossing.known == crossing.step + EVERY
            # The run ends where all thresholds are reached.
            assert outcome.steps[-1] == crossing.known
        else:
            assert crossing.status == "censored"
    assert any(outcome.crossings[3.0].status == "reached" for outcome in found)


def test_a_run_that_diverges_is_recorded_and_ends(outcomes):
    last = outcomes[-1]
    assert {crossing.status for crossing in last.crossings.values()} == {"diverged"}
    assert last.steps.tolist() == [10]
    assert not np.isfinite(
        [last.distances, last.discriminator_norms, last.generator_norms]
    ).all()


def test_kept_states_are_those_of_the_crossing(outcomes):
    outcome = next(x for x in outcomes if x.crossings[3.0].status == "reached")
    state = outcome.crossings[3.0].state
    weights = state.generator.weights
    assert weights.shape == (GAME.parameters[1],)
    # The distance of just these weights, on many points of other latents.
    weights = state.discriminator.weights, weights
    oracle = mixture_oracle.Game(GAME, outcome.run, weights)
    latents = np.random.default_rng(0).standard_normal((20_000, GAME.latents))
    _, points = oracle.forward(1, latents)
    step = outcome.crossings[3.0].step
    distance = outcome.distances[outcome.steps.tolist().index(step)]
    expected = fid.frechet_distance(
        fid.Statistics(points.mean(axis=0), np.cov(points, rowvar=False)),
        fid.Statistics(*GAME.moments()),
    )
    # Its derivative by a point of n is 2 / n times the way to where transport takes
    # it, whose mean square is the distance; that is its standard error on 200 points.
    error = 2 * np.sqrt(expected / SAMPLES) * np.linalg.norm(points.std(axis=0))
    assert distance == pytest.approx(expected, abs=rounding.DEVIATIONS * error)


def test_outcomes_are_what_the_fit_takes(outcomes):
    run = outcomes[0].at(THRESHOLDS[-1])
    assert run == critical_batch.Run(BATCH, "censored", 60, None, 0)
    reached = next(x for x in outcomes if x.crossings[3.0].status == "reached").at(3.0)
    assert reached.status == "reached"
    assert reached.steps - reached.previous == EVERY


@pytest.mark.parametrize(
    ("distances", "certain"),
    [
        # The first pass of a streak of three that goes on may be at 50: not by 40.
        ([9, 9, 9, 9, 1, 1], 40),
        # The streak at 10 and 20 was broken by 30, and so was not the one.
        ([1, 1, 9, 9, 9, 1], 50),
        ([1, 1, 9, 1, 1, 9], 60),
        ([9, 9, 9, 9, 9, 9], 60),
        # At the first measurement it may have been there already.
        ([1, 1], 1),
    ],
)
def test_a_streak_that_the_end_cuts_short_may_be_the_one(distances, certain):
    most = 10 * len(distances)
    rules = mixture_runs._Rules((2.0,), 3, False, every=10, most=most)
    track = mixture_runs._Track(0, adam(7), rules)
    for distance in distances:
        track.record((distance, 1.0, 1.0), lambda: None)
    assert track.ended
    outcome = track.outcome()
    assert outcome.crossings[2.0].step == most
    assert outcome.at(2.0) == critical_batch.Run(BATCH, "censored", certain, None, 7)


def test_results_are_told_one_at_a_time_as_they_come():
    told, ended, threads = [], [], set()

    def on_result(index, outcome):
        told.append((index, outcome))
        threads.add(threading.current_thread())

    runs = RUNS[:3]
    found = played(
        runs,
        on_result=on_result,
        progress=lambda *counts: ended.append(counts),
        threads=2,
    )
    assert ended == [(1, 3), (2, 3), (3, 3)]
    assert sorted(index for index, _ in told) == [0, 1, 2]
    for index, outcome in told:
        assert outcome is found[index]


def test_an_error_of_the_caller_ends_all():
    told = []

    def on_result(index, outcome):
        told.append(index)
        raise RuntimeError("the disk is full")

    with pytest.raises(RuntimeError, match="the disk is full"):
        played(RUNS, on_result=on_result, threads=2)
    assert len(told) <= 2


def test_settings_by_batch_size():
    runs = [adam(0), adam(0, batch=8)]
    one, two = played(
        runs, max_steps={4: 20, 8: 40}, every={4: 10, 8: 20}, thresholds=[1e-6]
    )
    assert one.steps.tolist() == [10, 20]
    assert (two.steps.tolist(), two.every) == ([20, 40], 20)
    # Both have the seed 0, and so the same weights at first.
    assert dataclasses.replace(one.run, batch=8) == two.run


def test_no_runs_have_no_outcomes():
    assert played([]) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"thresholds": []}, "give at least one, all positive"),
        ({"thresholds": [0.1, -1]}, "all positive"),
        ({"thresholds": [0.1, float("nan")]}, "all positive"),
        ({"thresholds": [0.1, 0.1]}, "some are equal"),
        ({"num_samples": 2}, "num_samples is 2; use a whole number of at least 3"),
        ({"consecutive": 0}, "consecutive is 0"),
        ({"threads": 0}, "threads is 0"),
        ({"every": 0}, "every is 0"),
        ({"max_steps": 5}, "at most 5 steps and is measured every 10"),
        ({"every": {8: 10}}, "every has no entry for the batch size 4; it has 8"),
        ({"max_steps": {}}, "max_steps has no entry for the batch size 4; it has none"),
    ],
)
def test_wrong_settings_are_named(options, message):
    with pytest.raises(InputError, match=message):
        played([adam(0)], **options)


def test_places_are_fewer_for_large_batches():
    counts = [places(batch) for batch in (1, 16, 128, 256, 1024, 10**6)]
    assert counts == [16, 16, 16, 8, 4, 4]
