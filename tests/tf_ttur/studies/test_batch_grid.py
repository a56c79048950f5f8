"""Grids of batch sizes: their intervals and limits, and the file that says them."""

import dataclasses

import pytest

from fid.files import InputError
from tf_ttur.studies import batch_grid
from tf_ttur.studies.batch_grid import Grid, Subject


class Plain(Grid):
    def settings(self):
        return {"settings": {"task": "plain"}}


GRID = Plain(
    variants={"a": {"rate": 1.0}},
    batches=(4, 64, 512),
    seeds=2,
    threshold=1.0,
    every_examples=640,
    max_steps=1000,
    max_examples=100_000,
)


def test_intervals_have_equal_widths_in_examples():
    assert [GRID.interval(b) for b in (4, 64, 512, 4096)] == [160, 10, 1, 1]


def test_a_run_is_given_up_at_whichever_limit_comes_first():
    assert [GRID.limit(b) for b in (4, 100, 512)] == [1000, 1000, 195]
    without = dataclasses.replace(GRID, max_steps=None)
    assert without.limit(4) == 25_000


def test_all_first_seeds_come_first():
    assert GRID.runs[:4] == [("a", 4, 0), ("a", 64, 0), ("a", 512, 0), ("a", 4, 1)]


def test_a_grid_grows_in_its_folder(tmp_path):
    assert batch_grid.claim(GRID, tmp_path).runs == GRID.runs
    more = dataclasses.replace(GRID, variants={"b": {}}, batches=(8, 16), seeds=1)
    grown = batch_grid.claim(more, tmp_path)
    assert grown.variants == {"a": {"rate": 1.0}, "b": {}}
    assert (grown.batches, grown.seeds) == ([4, 8, 16, 64, 512], 2)
    found = batch_grid.load(tmp_path)
    assert found["batches"] == grown.batches
    assert batch_grid.claim(GRID, tmp_path) == grown
    other = dataclasses.replace(GRID, variants={"a": {"rate": 2.0}})
    with pytest.raises(InputError, match="variant a is {'rate': 1.0} there and"):
        batch_grid.claim(other, tmp_path)
    assert batch_grid.load(tmp_path) == found


def test_shards_find_the_runs_in_one_order_whoever_comes_first(tmp_path):
    mixed = dataclasses.replace(GRID, batches=(64, 4, 512))
    first = batch_grid.claim(mixed, tmp_path)
    assert first.runs == batch_grid.claim(mixed, tmp_path).runs


def test_what_was_measured_for_refused_settings_is_forgotten(tmp_path):
    batch_grid.claim(GRID, tmp_path)
    batch_grid.write_subjects(tmp_path, {"a": Subject(0.5, 512, 1, 1)})
    batch_grid.unclaim(tmp_path)
    assert batch_grid.subjects(tmp_path) == {}


def test_a_threshold_needs_to_be_above_the_floor():
    subject = Subject(floor=0.5, examples=512, discriminator=1, generator=1)
    GRID.check_subject("a", subject, 100)
    with pytest.raises(InputError, match="threshold 1 is not above 1.5"):
        GRID.check_subject("a", subject._replace(floor=1.5), 100)
    with pytest.raises(InputError, match="a batch of 512 is larger"):
        GRID.check_subject("a", subject._replace(examples=511), 100)


def test_subjects_return_from_their_file(tmp_path):
    assert batch_grid.subjects(tmp_path) == {}
    known = {"a": Subject(floor=0.5, examples=512, discriminator=1, generator=2)}
    batch_grid.write_subjects(tmp_path, known)
    assert batch_grid.subjects(tmp_path) == known
