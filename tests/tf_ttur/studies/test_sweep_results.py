"""The table of a sweep and its curves, against numbers by hand."""

import json
import zipfile

import numpy as np
import pytest
import rounding
from scipy import stats

from fid.files import InputError
from tf_ttur import presets
from tf_ttur.runs import checkpoint_name, stamp
from tf_ttur.studies import sweep, sweep_results
from tf_ttur.studies.sweep import Cell, Variant

PRESET = presets.get(presets.DEFAULT)
A, B, C = Cell(1e-4, 1e-4), Cell(3e-4, 1e-4), Cell(1e-3, 1e-4)


def write_run(folder, points, diverged=None, key="fid"):
    folder.path.mkdir(parents=True)
    with open(folder.metrics, "w") as file:
        for step, minutes, value in points:
            row = {"step": step, "minutes": minutes, key: value, "d_loss": 1.0}
            file.write(json.dumps(row) + "\n")
    if diverged is None:
        titles = {"fid": "FID"}
        facts = {"metric": key, "metric_title": titles.get(key, key)}
        folder.summary.write_text(json.dumps(facts))
    else:
        facts = {"step": diverged, "message": "g_loss became nan"}
        folder.diverged.write_text(json.dumps(facts))


@pytest.fixture
def by_hand(tmp_path):
    """A sweep whose numbers can be checked in one's head."""
    sweep.claim(sweep.Sweep(PRESET, {A: 2, B: 2, C: 2}), tmp_path)
    runs = {
        (A, 0): [(0, 0.0, 100.0), (10, 1.0, 60.0), (20, 2.0, 70.0)],
        (A, 1): [(0, 0.0, 200.0), (10, 1.0, 50.0), (20, 2.0, 20.0)],
        (B, 0): [(0, 0.0, 100.0), (10, 2.0, None), (20, 4.0, 40.0)],
        (B, 1): [(0, 0.0, 200.0), (10, 1.0, 30.0), (20, 2.0, 36.0)],
    }
    for (cell, seed), points in runs.items():
        write_run(sweep.run_folder(tmp_path, cell, seed), points)
    write_run(sweep.run_folder(tmp_path, C, 0), [(0, 0.5, 90.0)], diverged=3)
    return tmp_path


def test_the_table_says_what_the_runs_say(by_hand):
    text = sweep_results.report(by_hand)
    table = json.loads((by_hand / "table.json").read_text())
    single, two, bad = table["cells"]
    assert single == {
        "discriminator_lr": 1e-4, "generator_lr": 1e-4,
        "runs": 2, "missing": 0, "diverged": {},
        "best": {"mean": 40.0, "min": 20.0, "max": 60.0},
        "final": {"mean": 45.0, "min": 20.0, "max": 70.0},
        "mean_curve_minimum": {"value": 45.0, "step": 20},
        "minutes": {"mean": 2.0, "min": 2.0, "max": 2.0},
    }  # fmt: skip
    assert two["best"] == {"mean": 35.0, "min": 30.0, "max": 40.0}
    assert two["final"] == {"mean": 38.0, "min": 36.0, "max": 40.0}
    # Step 10 was not measured by both.
    assert two["mean_curve_minimum"] == {"value": 38.0, "step": 20}
    assert two["minutes"]["mean"] == 3.0
    assert (bad["runs"], bad["missing"], bad["diverged"]) == (1, 1, {"0": 3})
    assert bad["best"]["mean"] == 90.0
    assert bad["final"] is None
    assert table["best_single_rate"] == A._asdict()
    assert table["best_two_rates"] == B._asdict()
    # Seed by seed: 40 - 60 and 30 - 20; 40 - 70 and 36 - 20.
    assert table["differences"]["best"]["mean"] == -5.0
    assert table["differences"]["best"]["lower_in"] == 1
    assert table["differences"]["final"]["mean"] == -7.0
    lines = text.splitlines()
    row = "| 0.0001 | 0.0001 | best single rate | 2 | 0 | 40.00 (20.00 to 60.00) | "
    assert lines[2] == row + "45.00 (20.00 to 70.00) | 45.00 at 20 | 2.00 |"
    row = "| 0.001 | 0.0001 |  | 1 of 2 | 1, at 3 | 90.00 (90.00 to 90.00) | – | "
    assert lines[4] == row + "90.00 at 0 | 0.50 |"
    assert "FID: mean (min to max)" in text
    assert "paired by seed: -5 (95 % interval -196 to +186" in text
    assert "of 2 pairs and 1 single rates" in text


def test_the_difference_is_that_of_a_paired_t_test():
    random = np.random.default_rng(0)
    one, two = (dict(enumerate(random.normal(10, 2, 6))) for _ in range(2))
    interval = stats.ttest_rel([*two.values()], [*one.values()]).confidence_interval()
    compared = sweep_results.compare(two | {9: 0.0}, one | {8: 0.0})
    assert compared["seeds"] == 6
    # A mean and a deviation of six differences, and the same quantile by SciPy.
    few = 2 * rounding.gamma(2 * 6 + rounding.FUNCTION) * 20
    np.testing.assert_allclose(compared["interval"], interval, rtol=0, atol=few)
    assert sweep_results.compare({0: 1.0}, {1: 1.0}) is None


def test_curves_end_where_the_first_run_ends(by_hand):
    metric, results = sweep_results.read(by_hand)
    assert metric == ("fid", "FID")
    band = results[1].curve_over_minutes()
    assert (band.x[0], band.x[-1], len(band.x)) == (0.0, 2.0, 200)
    # At 2 minutes the one run is halfway from 100 to 40, the other at its end.
    assert (band.mean[-1], band.low[-1], band.high[-1]) == (53.0, 36.0, 70.0)
    assert results[0].curve().mean.tolist() == [150.0, 55.0, 45.0]
    assert results[2].curve_over_minutes().mean[-1] == 90.0


def test_what_there_is_can_be_told_at_any_time(tmp_path):
    sweep.claim(sweep.Sweep(PRESET, {A: 1, B: 1}), tmp_path)
    text = sweep_results.report(tmp_path)
    assert "| 0.0001 | 0.0001 |  | 0 of 1 | 0 | – | – | – | – |" in text
    assert not (tmp_path / "curves.png").exists()
    lost = sweep.run_folder(tmp_path, A, 0)
    write_run(lost, [(0, 0.0, 0.75)], diverged=1)
    # Which of a row's numbers is the distance, only a finished run says.
    text = sweep_results.report(tmp_path)
    assert "| 0.0001 | 0.0001 |  | 1 | 1, at 1 | – | – | – | – |" in text
    write_run(sweep.run_folder(tmp_path, B, 0), [(0, 0.0, 0.5), (1, 1.0, 0.25)])
    text = sweep_results.report(tmp_path)
    assert "| best two rates | 1 | 0 | 0.25 (0.25 to 0.25) |" in text
    assert "| best single rate | 1 | 1, at 1 | 0.75 (0.75 to 0.75) | – |" in text
    assert (tmp_path / "curves.png").exists()
    assert json.loads((tmp_path / "table.json").read_text())["differences"] == {
        "best": {"seeds": 1, "mean": -0.5, "interval": None, "lower_in": 1},
        "final": None,
    }
    lost.summary.write_text('{"metric": "jsd_4", "metric_title": "JSD-4"}')
    with pytest.raises(InputError, match="different distances: .*jsd_4 in .*seed_0"):
        sweep_results.report(tmp_path)


def test_a_run_that_lost_its_rows_is_named(by_hand):
    run = sweep.run_folder(by_hand, A, 0)
    text = run.metrics.read_text()
    run.metrics.unlink()
    with pytest.raises(
        InputError, match="d_0.0001_g_0.0001/seed_0/metrics.* has no fi"
    ):
        sweep_results.report(by_hand)
    run.metrics.write_text(text)
    facts = {"metric": "fid", "metric_title": "FID", "last": {"step": 30}}
    run.summary.write_text(json.dumps(facts))
    with pytest.raises(
        InputError, match=r"has fid up to step 20, .*json up to step 30"
    ):
        sweep_results.report(by_hand)
    run.summary.write_text(json.dumps(facts | {"last": 30}))
    with pytest.raises(InputError, match="last is 30; it must be a JSON object"):
        sweep_results.report(by_hand)
    run.summary.write_text(json.dumps(facts | {"metric": ["fid"]}))
    with pytest.raises(InputError, match="metric is .'fid'.; it must be a text"):
        sweep_results.report(by_hand)


def test_rows_that_a_runs_last_checkpoint_contradicts_are_refused(by_hand):
    run = sweep.run_folder(by_hand, A, 0)
    path = run.checkpoints / checkpoint_name(20)
    path.parent.mkdir()
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model.weights.h5", b"")
    rows = {"metrics.jsonl": run.digest_of_rows(20)}
    stamp(path, rows, {"step": 20, "fid": 70.0})
    sweep_results.report(by_hand)
    run.metrics.write_text(run.metrics.read_text().replace("60.0", "6.0"))
    with pytest.raises(InputError, match="was made with another metrics.jsonl than"):
        sweep_results.report(by_hand)


# Variants -----------------------------------------------------------------------------


def claimed(workdir, texts, runs, seeds=2, preset=PRESET, **sources):
    """Claims a folder for variants, and writes runs of a distance at steps 0 and 10."""
    cells = sweep.variants_of(preset, texts)
    sweep.claim(sweep.Sweep(preset, dict.fromkeys(cells, seeds), **sources), workdir)
    named = {cell.name: cell for cell in cells}
    for (name, seed), values in runs.items():
        points = [(10 * i, float(i), value) for i, value in enumerate(values)]
        write_run(sweep.run_folder(workdir, named[name], seed), points)
    return named


def grid(*texts):
    return {text: text.split(",") for text in texts}


def test_the_table_of_a_grid_has_a_column_a_setting(tmp_path, saved_figures):
    texts = grid("width=2,loss=hinge", "width=2,loss=minimax", "width=4,loss=hinge",
                 "width=4,loss=minimax")  # fmt: skip
    a, b, c, d = texts
    runs = {
        (a, 0): [8.0, 4.0], (a, 1): [8.0, 6.0], (b, 0): [8.0, 2.0], (b, 1): [8.0, 3.0],
        (c, 0): [1.5, 8.0], (c, 1): [8.0, 8.0],
    }  # fmt: skip
    named = claimed(tmp_path, texts, runs)
    lost = sweep.run_folder(tmp_path, named[d], 0)
    write_run(lost, [(0, 0.5, 9.0)], diverged=3)
    text = sweep_results.report(tmp_path)
    lines = text.splitlines()
    assert lines[0] == (
        "| width | loss | runs | diverged | best | final | mean curve's minimum | "
        "minutes a run |"
    )
    assert (
        lines[2] == "| 2 | hinge | 2 | 0 | 5 (4 to 6) | 5 (4 to 6) | 5 at 10 | 1.00 |"
    )
    assert lines[4] == (
        "| 4 | hinge | 2 | 0 | 4.75 (1.5 to 8) | 8 (8 to 8) | 4.75 at 0 | 1.00 |"
    )
    assert lines[5] == (
        "| 4 | minimax | 1 of 2 | 1, at 3 | 9 (9 to 9) | – | 9 at 0 | 0.50 |"
    )
    assert f"{b} has the lowest mean of the best" in text
    assert "of 4 variants" in text
    for word in ("TTUR", "rate", "discriminator"):
        assert word not in text
    table = json.loads((tmp_path / "table.json").read_text())
    assert table.keys() == {"metric", "metric_title", "cells", "best"}
    assert table["best"] == b
    assert table["cells"][0] == {
        "name": a, "settings": {"width": 2, "loss": "hinge"},
        "runs": 2, "missing": 0, "diverged": {},
        "best": {"mean": 5.0, "min": 4.0, "max": 6.0},
        "final": {"mean": 5.0, "min": 4.0, "max": 6.0},
        "mean_curve_minimum": {"value": 5.0, "step": 10},
        "minutes": {"mean": 1.0, "min": 1.0, "max": 1.0},
    }  # fmt: skip
    heat, curves = (figure.axes for figure in saved_figures)
    assert (heat[0].get_xlabel(), heat[0].get_ylabel()) == ("width", "loss")
    assert [x.get_text() for x in heat[0].get_xticklabels()] == ["2", "4"]
    assert [x.get_text() for x in heat[0].get_yticklabels()] == ["hinge", "minimax"]
    (mesh,) = heat[0].collections
    # A row of the figure is a loss; the means of the best by hand.
    assert mesh.get_array().tolist() == [[5.0, 4.75], [2.5, 9.0]]
    # Each has its mean, and the best one comes first, on top.
    drawn = {x.get_label(): x.get_ydata().tolist() for x in curves[0].get_lines()}
    assert [*drawn] == [b, a, c, d]
    assert drawn[a] == [8.0, 5.0]


def test_named_variants_have_their_names_and_the_presets_settings(tmp_path):
    texts = {
        "full": ["width=2", "ema_decay=0.5"],
        "small": ["width=1"],
        "no_average": ["width=2", "ema_decay=0", "epsilon=none"],
    }
    preset = PRESET.override(ema_decay=0.25)
    runs = {(x, 0): [8.0, value] for x, value in zip(texts, (1, 2, 3), strict=True)}
    (tmp_path / "heatmap.png").write_bytes(b"of two settings, before a third was added")
    claimed(tmp_path, texts, runs, seeds=1, preset=preset)
    lines = sweep_results.report(tmp_path).splitlines()
    assert lines[0].startswith("| variant | width | ema_decay | epsilon | runs | ")
    assert lines[2].startswith("| full | 2 | 0.5 | none | 1 | 0 | 1 (1 to 1) | ")
    # What a variant leaves to the preset is told, too.
    assert lines[3].startswith("| small | 1 | 0.25 | none | 1 | 0 | 2 (2 to 2) | ")
    assert lines[4].startswith("| no_average | 2 | 0 | none | 1 | 0 | 3 (3 to 3) | ")
    # Of width and average, since the epsilon is one.
    assert (tmp_path / "heatmap.png").read_bytes().startswith(b"\x89PNG")
    third = {Variant("x", {"batch_size": 3}): 1}
    sweep.claim(sweep.Sweep(preset, third), tmp_path)
    text = sweep_results.report(tmp_path)
    assert "| x | 4 | " not in text
    assert f"| x | {PRESET.width} | 0.25 | none | 3 | 0 of 1 | 0 | – | – | " in text
    assert not (tmp_path / "heatmap.png").exists()
    assert (tmp_path / "curves.png").exists()


def test_one_varied_setting_has_no_heat_map(tmp_path):
    texts = grid("width=2,steps=10", "width=4,steps=10")
    claimed(tmp_path, texts, {(x, 0): [8.0, 1.0] for x in texts}, seeds=1)
    sweep_results.report(tmp_path)
    assert not (tmp_path / "heatmap.png").exists()
    assert (tmp_path / "curves.png").exists()


def test_nothing_is_chosen_where_nothing_was_measured(tmp_path):
    claimed(tmp_path, grid("width=2", "width=4"), {})
    text = sweep_results.report(tmp_path)
    assert "| 4 | 0 of 2 | 0 | – | – | – | – |" in text
    assert "lowest mean" not in text
    assert json.loads((tmp_path / "table.json").read_text())["best"] is None


def test_students_of_different_teachers_are_in_no_table(tmp_path):
    student = presets.get("digits_flash_dmd")
    texts = grid("ratio=1", "ratio=5")
    runs = {(x, 0): [8.0, 1.0] for x in texts}
    claimed(tmp_path, texts, runs, seeds=1, preset=student, teacher="/runs/teacher")
    for name, ratio, digest in (("ratio=1", 1, "a" * 64), ("ratio=5", 5, "b" * 64)):
        folder = sweep.run_folder(tmp_path, Variant(name, {}), 0)
        config = student.override(ratio=ratio).settings()
        config |= {"teacher": "/runs/teacher", "teacher_sha256": digest}
        folder.config.write_text(json.dumps(config))
    with pytest.raises(InputError, match="different teachers: aaaaaaaaaaaa in .*ratio"):
        sweep_results.report(tmp_path)
    config["teacher_sha256"] = "a" * 64
    folder.config.write_text(json.dumps(config))
    assert "| 5 | 1 | 0 | 1 (1 to 1) | " in sweep_results.report(tmp_path)

    # The same encoder, trained anew elsewhere, is another one.
    other = sweep.run_folder(tmp_path, Variant("ratio=1", {}), 0)
    theirs = json.loads(other.config.read_text()) | {"teacher_sha256": "a" * 64}
    other.config.write_text(json.dumps(theirs | {"encoder_sha256": "c" * 64}))
    folder.config.write_text(json.dumps(config | {"encoder_sha256": "d" * 64}))
    message = "different encoders 'dense': cccccccccccc in .*ratio.*dddddddddddd"
    with pytest.raises(InputError, match=message):
        sweep_results.report(tmp_path)
    folder.config.write_text(json.dumps(config | {"encoder_sha256": None}))
    assert "| 5 | 1 | 0 | 1 (1 to 1) | " in sweep_results.report(tmp_path)
