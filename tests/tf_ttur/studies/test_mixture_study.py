"""Studies of batch sizes on the mixture game: rows, resuming, and what is refused."""

import json

import numpy as np
import pytest

from fid import frechet_distance
from fid.files import InputError, hold
from fid.statistics import Statistics
from tf_ttur.studies import batch_grid, batch_rows, mixture_study
from tf_ttur.studies.mixture_study import MixtureStudy
from tf_ttur.theory.mixture_game import MixtureGame

GAME = MixtureGame(width=4, num_examples=500)
ADAM = mixture_study.with_defaults({"discriminator_lr": "3e-3", "generator_lr": "3e-3"})
SMALL = {
    "game": GAME,
    "variants": {"adam": ADAM},
    "batches": (8, 16),
    "seeds": 2,
    "threshold": 1.5,
    "every_examples": 160,
    "max_steps": 60,
    "num_samples": 100,
    "small": 4,
    "large": 32,
    "draws": 4,
}


def run(workdir, say=lambda line: None, **changes):
    return mixture_study.run_study(MixtureStudy(**SMALL | changes), workdir, 1, say)


@pytest.fixture(scope="module")
def played(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("mixture")
    lines = []
    return workdir, run(workdir, lines.append), lines


def test_every_run_is_a_row(played):
    workdir, rows, lines = played
    key = [(row.variant, row.batch, row.seed) for row in rows]
    assert sorted(key) == [("adam", b, s) for b in (8, 16) for s in (0, 1)]
    assert batch_rows.read(workdir / "runs.jsonl") == rows
    for row in rows:
        assert row.every == 160 // row.batch
        assert row.trace[0][0] == row.every
        assert (row.noise is not None) == (row.status == "reached")
    assert {row.status for row in rows} <= {"reached", "censored"}
    assert lines[-1].startswith("[4/4]")
    subject = batch_grid.subjects(workdir)["adam"]
    assert (subject.examples, subject.discriminator) == (500, GAME.parameters[0])


def test_the_floor_is_the_distance_of_points_of_the_data(played):
    workdir, _, _ = played
    mean, covariance = GAME.moments()
    real = Statistics(mu=mean, sigma=covariance)
    random = np.random.default_rng(7)
    draws = []
    for _ in range(400):
        points = GAME.examples[random.integers(500, size=100)].astype(float)
        drawn = Statistics(mu=points.mean(0), sigma=np.cov(points.T))
        draws.append(frechet_distance(drawn, real))
    error = np.std(draws) * np.sqrt(1 / 400 + 1 / 16)
    floor = batch_grid.subjects(workdir)["adam"].floor
    assert floor == pytest.approx(np.mean(draws), abs=5 * error)


def test_a_study_that_was_cut_makes_what_is_missing(played, tmp_path):
    _, rows, _ = played
    whole = run(tmp_path)
    text = (tmp_path / "runs.jsonl").read_text()
    first, *_ = text.splitlines(keepends=True)
    # Killed in the middle of its second row.
    (tmp_path / "runs.jsonl").write_text(text[: len(first) + 40])
    again = run(tmp_path)

    # Killed in the middle of its first row.
    (tmp_path / "runs.jsonl").write_text(first[:40])
    assert len(run(tmp_path)) == 4
    again = run(tmp_path)

    def numbers(found):
        plain = [row.as_json() | {"minutes": 0} for row in found]
        return sorted(plain, key=lambda row: (row["batch"], row["seed"]))

    assert numbers(again) == numbers(whole) == numbers(rows)
    lines = []
    assert run(tmp_path, lines.append) == again
    assert lines[-1] == "All 4 runs are finished."


def test_a_study_grows_and_is_refused_with_another_game(played):
    workdir, rows, _ = played
    with pytest.raises(InputError, match="mixture game of other settings: settings is"):
        run(workdir, game=MixtureGame(width=5, num_examples=500))
    fast = {"adam": ADAM, "fast": ADAM | {"generator_lr": 1e-2}}
    more = run(workdir, variants=fast)
    assert len(more) == 8
    assert more[:4] == rows


def test_two_processes_do_not_play_in_one_folder(tmp_path):
    run(tmp_path)
    with (
        hold(tmp_path, purpose="", busy="", gone=""),
        pytest.raises(InputError, match="Another process plays the runs"),
    ):
        run(tmp_path, seeds=3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"threshold": 1e-3}, "threshold 0.001 is not above"),
        ({"batches": (8, 512)}, "a batch of 512 is larger than the data set"),
        ({"batches": (8,)}, "at least two"),
        ({"small": 32}, "the first must be the smaller"),
        ({"variants": {"a": {}}}, "sets nothing; it must set optimizer"),
        ({"variants": {"a": ADAM | {"beta_1": 2.0}}}, "beta_1"),
        ({"variants": {"a": ADAM | {"generator_lr": -1.0}}}, "generator_rate is -1.0"),
    ],
)
def test_a_study_that_cannot_be_is_refused(tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        run(tmp_path, **changes)
    assert not (tmp_path / "critical_batch.json").exists()


def test_settings_given_as_text_are_read_or_refused():
    for name in mixture_study.OPTIMIZERS:
        assert mixture_study.with_defaults({"optimizer": name})["optimizer"] == name
    with pytest.raises(InputError, match="is 'lion'; choose from adam"):
        mixture_study.with_defaults({"optimizer": "lion"})
    with pytest.raises(InputError, match="no setting 'rate' of a variant"):
        mixture_study.with_defaults({"rate": "1"})
    with pytest.raises(InputError, match="beta_1=x: expected a number"):
        mixture_study.with_defaults({"beta_1": "x"})
    assert mixture_study.game({"width": "5", "num_examples": "9"}) == MixtureGame(
        width=5, num_examples=9
    )
    with pytest.raises(InputError, match="no setting 'depth'; choose from modes"):
        mixture_study.game({"depth": "3"})
    with pytest.raises(InputError, match="width=x: expected a number"):
        mixture_study.game({"width": "x"})


def test_its_file_is_json_that_says_what_it_is_of(played):
    workdir, _, _ = played
    found = json.loads((workdir / "critical_batch.json").read_text())
    assert found["settings"]["task"] == "mixture"
    assert found["settings"]["width"] == 4
