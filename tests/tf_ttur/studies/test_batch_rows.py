"""Rows of a study of batch sizes: their file, and other thresholds."""

import json

import pytest
from batch_studies import ROW, row

from fid.files import InputError
from tf_ttur.studies import batch_rows
from tf_ttur.theory.critical_batch import Run

TRACE = [(0, 9.0), (10, 4.0), (20, 6.0), (30, 3.0), (40, 2.0)]


@pytest.mark.parametrize(
    ("threshold", "passes", "found"),
    [
        (5.0, 1, ("reached", 10, 0)),
        (5.0, 2, ("reached", 30, 20)),
        (2.0, 1, ("reached", 40, 30)),
        (2.0, 2, ("censored", 40, None)),
        (9.0, 1, ("reached", 0, 0)),
        (1.0, 1, ("censored", 40, None)),
    ],
)
def test_the_first_measurement_in_a_row_counts(threshold, passes, found):
    assert batch_rows.outcome(TRACE, threshold, passes) == found


def test_a_run_that_diverged_counts_where_it_met_the_threshold_before():
    assert batch_rows.outcome(TRACE, 4.0, 1, diverged=True) == ("reached", 10, 0)
    assert batch_rows.outcome(TRACE, 1.0, 1, diverged=True) == ("diverged", 40, None)


def test_looser_thresholds_are_read_from_the_trace():
    assert ROW.at() == Run(8, "reached", 30, 20)
    assert ROW.at(5.0) == Run(8, "reached", 10, 0)
    censored = row([(0, 9.0), (10, 5.0)], max_steps=10)
    assert censored.at() == Run(8, "censored", 10)
    assert censored.at(0.5) == Run(8, "censored", 10)
    with pytest.raises(InputError, match="stopped at frechet_toy <= 1 .*in another"):
        ROW.at(0.5)
    with pytest.raises(InputError, match=r"how many steps 1 \(2 in a row\)"):
        ROW.at(passes=2)


def test_a_streak_that_the_end_cuts_short_may_be_the_one():
    end = row([(0, 9.0), (10, 5.0), (20, 0.5)], passes=2)
    assert end.status == "censored"
    # N may be 20, so all that is known is that it is not 10.
    assert end.at() == Run(8, "censored", 10)


def test_rows_return_from_their_file(tmp_path):
    path = tmp_path / "runs.jsonl"
    both = [ROW, row(TRACE, seed=1, threshold=2.0)]
    batch_rows.write(path, both)
    assert batch_rows.read(path) == both
    first = json.loads(path.read_text().splitlines()[0])
    assert first["sfo"] == 30 * 8
    # A crash may cut the last line short.
    path.write_text(path.read_text()[:-20])
    assert batch_rows.read(path) == both[:1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch": 0}, r"line 1 is damaged: it.batch is 0"),
        ({"batch": 2.5}, "batch is 2.5; it must be a whole number"),
        ({"status": "lost"}, "status is 'lost'; choose from reached"),
        ({"steps": 20}, "which its trace and its threshold do not say"),
        ({"previous": None}, "which its trace and its threshold do not say"),
        ({"threshold": 2.5}, "which its trace and its threshold do not say"),
        ({"trace": []}, "trace is empty"),
        ({"trace": [[0, 9.0], [0, 1.0]]}, "steps of trace do not rise"),
        ({"trace": [[0, "x"]]}, "is not 2 numbers"),
        ({"trace": [[0, True]]}, "is not 2 numbers"),
        ({"gradients": [[10, 0.5]]}, "gradients has .* not 3 numbers"),
        ({"images": 3}, "images is 3"),
        ({"minutes": -1}, "minutes is -1"),
        ({"generator_lr": None}, "generator_lr is None"),
    ],
)
def test_a_line_that_cannot_be_is_refused(tmp_path, change, message):
    path = tmp_path / "runs.jsonl"
    path.write_text(json.dumps(ROW.as_json() | change) + "\n")
    with pytest.raises(InputError, match=message):
        batch_rows.read(path)


def test_files_without_the_runs_are_refused(tmp_path):
    path = tmp_path / "runs.jsonl"
    with pytest.raises(InputError, match=r"runs.jsonl does not exist. Run critical_b"):
        batch_rows.read(path)
    path.write_text("")
    with pytest.raises(InputError, match="has no runs yet"):
        batch_rows.read(path)
    line = json.dumps(ROW.as_json()) + "\n"
    path.write_text(2 * line)
    with pytest.raises(InputError, match="line 2 .*seed 0 stands there twice"):
        batch_rows.read(path)
    shorter = ROW.as_json()
    del shorter["every"]
    path.write_text(json.dumps(shorter) + "\n")
    with pytest.raises(InputError, match="it lacks 'every'"):
        batch_rows.read(path)
