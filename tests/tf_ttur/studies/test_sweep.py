"""Sweeps: real ones, tiny; their bookkeeping; the table against numbers by hand."""

import contextlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from metrics_rows import rows
from PIL import Image
from repository import ROOT
from scipy import stats

from fid.files import InputError
from tf_ttur import presets
from tf_ttur.studies import sweep, sweep_cli, sweep_results
from tf_ttur.studies.sweep import Cell

TINY = ["--every=2", "--num_samples=64", "--set=width=2", "--set=batch_size=16"]
PRESET = presets.get(presets.DEFAULT)


def command(workdir, *flags):
    program = [sys.executable, "scripts/sweep.py", f"--workdir={workdir}"]
    return [*program, *TINY, *flags]


# A real sweep -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def swept(tmp_path_factory, classifier):
    """Two rates, a single one, and one that cannot but diverge."""
    workdir = tmp_path_factory.mktemp("sweep") / "tiny"
    pairs = "--pairs=3e-4:1e-4,1e-4:1e-4,1e30:1e-4"
    flags = [pairs, "--seeds=1", "--steps=5", "--processes=2"]
    done = subprocess.run(
        command(workdir, *flags), cwd=ROOT, capture_output=True, text=True, check=True
    )
    return workdir, flags, done


def test_every_run_is_a_run_folder_with_its_own_settings(swept):
    workdir, _, _ = swept
    for name, rates in {
        "d_0.0003_g_0.0001": (3e-4, 1e-4),
        "d_0.0001_g_0.0001": (1e-4, 1e-4),
    }.items():
        folder = workdir / name / "seed_0"
        config = json.loads((folder / "config.json").read_text())
        assert (config["discriminator_lr"], config["generator_lr"]) == rates
        assert (config["seed"], config["width"], config["steps"]) == (0, 2, 5)
        assert [row["step"] for row in rows(folder)] == [0, 2, 4, 5]
        assert (folder / "summary.json").exists()
    assert not [path for path in workdir.rglob(".*") if path.name != ".lock"]


def test_a_run_that_diverges_is_told_and_not_tried_again(swept):
    workdir, flags, done = swept
    facts = json.loads((workdir / "d_1e+30_g_0.0001/seed_0/diverged.json").read_text())
    assert 1 <= facts["step"] <= 5
    assert f"at step {facts['step']}" in facts["message"]
    assert f"diverged at step {facts['step']}" in done.stderr
    cells = json.loads((workdir / "table.json").read_text())["cells"]
    assert [cell["diverged"] for cell in cells] == [{}, {}, {"0": facts["step"]}]
    assert (
        cells[2]["best"]["mean"]
        == rows(workdir / "d_1e+30_g_0.0001/seed_0")[0]["frechet_digits"]
    )
    assert cells[2]["final"] is None
    before = {path: path.stat().st_mtime_ns for path in workdir.rglob("seed_0/*")}
    again = subprocess.run(
        command(workdir, *flags), cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "All 3 runs are finished." in again.stderr
    assert again.stdout == done.stdout
    assert before == {
        path: path.stat().st_mtime_ns for path in workdir.rglob("seed_0/*")
    }


def test_a_sweep_ends_with_its_table_and_figures(swept):
    workdir, _, done = swept
    assert done.stdout == (workdir / "table.md").read_text()
    table = json.loads((workdir / "table.json").read_text())
    assert table["metric"] == "frechet_digits"
    two = {"discriminator_lr": 3e-4, "generator_lr": 1e-4}
    assert table["best_single_rate"] == {"discriminator_lr": 1e-4, "generator_lr": 1e-4}
    assert table["best_two_rates"] == two
    distances = {
        name: [row["frechet_digits"] for row in rows(workdir / name / "seed_0")]
        for name in ("d_0.0003_g_0.0001", "d_0.0001_g_0.0001")
    }
    first, second = distances.values()
    assert table["cells"][0]["best"]["mean"] == min(first)
    assert table["cells"][1]["final"]["max"] == second[-1]
    assert table["differences"]["best"]["mean"] == min(first) - min(second)
    assert table["differences"]["final"] == {
        "seeds": 1, "mean": first[-1] - second[-1], "interval": None,
        "lower_in": int(first[-1] < second[-1]),
    }  # fmt: skip
    for name in ("curves.png", "heatmap.png"):
        assert np.asarray(Image.open(workdir / name).convert("L")).std() > 10
    lines = [line for line in done.stderr.splitlines() if line.startswith("[")]
    assert [line.partition("]")[0] for line in lines] == ["[1/3", "[2/3", "[3/3"]
    assert "min left" in lines[0]
    assert "left" not in lines[2]


def workers_of(process):
    """Process ids of the children that train."""
    children = pathlib.Path(f"/proc/{process.pid}/task/{process.pid}/children")
    return [
        int(child)
        for child in children.read_text().split()
        if b"spawn_main" in pathlib.Path(f"/proc/{child}/cmdline").read_bytes()
    ]


@contextlib.contextmanager
def started(*arguments):
    process = subprocess.Popen(
        command(*arguments),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def wait_for(condition, process):
    deadline = time.monotonic() + 200
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)


def gone(pid):
    with contextlib.suppress(FileNotFoundError):
        return b"spawn_main" not in pathlib.Path(f"/proc/{pid}/cmdline").read_bytes()
    return True


@pytest.mark.slow
def test_a_sweep_survives_its_workers_and_its_own_end(tmp_path, classifier):
    flags = ["--pairs=3e-4:1e-4", "--steps=40"]
    first, second = (tmp_path / f"cut/d_0.0003_g_0.0001/seed_{n}" for n in range(2))
    with started(tmp_path / "cut", *flags, "--seeds=2") as process:
        wait_for(lambda: (first / "metrics.jsonl").exists(), process)
        (worker,) = workers_of(process)
        os.kill(worker, signal.SIGKILL)
        # Its successor goes on with the second run, in which the sweep is ended.
        wait_for(lambda: (second / "metrics.jsonl").exists(), process)
        (worker,) = workers_of(process)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 128 + signal.SIGTERM
        assert "seed 0: failed: its process died (SIGKILL)" in process.stderr.read()
        assert gone(worker)
    # A worker does not outlive a sweep that had no time to end it.
    with started(tmp_path / "cut", *flags, "--seeds=2") as process:
        wait_for(lambda: workers_of(process), process)
        (worker,) = workers_of(process)
        process.kill()
        deadline = time.monotonic() + 60
        while not gone(worker) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert gone(worker)
    for name in ("cut", "whole"):
        subprocess.run(
            command(tmp_path / name, *flags, "--seeds=2"), cwd=ROOT, check=True
        )
    cut, whole = (
        [
            {key: value for key, value in row.items() if "minutes" not in key}
            for seed in range(2)
            for row in rows(tmp_path / f"{name}/d_0.0003_g_0.0001/seed_{seed}")
        ]
        for name in ("cut", "whole")
    )
    assert cut == whole
    assert [row["step"] for row in cut] == [*range(0, 41, 2)] * 2


# Bookkeeping --------------------------------------------------------------------------


class Workers:
    """Stand for the processes: write a summary, or do as `outcomes` says."""

    def __init__(self):
        self.tasks, self.started, self.outcomes = [], [], {}

    def __call__(self, count, workdir, work):
        self.count = count
        return self

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    @property
    def busy(self):
        return self.tasks

    @property
    def idle(self):
        return len(self.tasks) < self.count

    def start(self, task, **arguments):
        self.started.append((*task, arguments["preset"]))
        self.tasks.append((task, arguments["folder"]))

    def wait(self):
        task, folder = self.tasks.pop(0)
        outcome = self.outcomes.get(task, {"text": "fine"})
        if "error" not in outcome:
            folder.path.mkdir(parents=True)
            folder.summary.write_text("{}")
        yield task, outcome


@pytest.fixture
def workers():
    return Workers()


def run(workers, wanted, workdir, processes=1, say=print):
    sweep.run_sweep(wanted, workdir, processes, say, make_workers=workers)


A, B, C = Cell(1e-4, 1e-4), Cell(3e-4, 1e-4), Cell(1e-3, 1e-4)


def test_all_cells_come_once_before_any_comes_again(tmp_path, workers):
    lines = []
    run(workers, sweep.Sweep(PRESET, {A: 2, B: 1}), tmp_path, 2, lines.append)
    assert [task[:2] for task in workers.started] == [(A, 0), (B, 0), (A, 1)]
    settings = [
        (p.discriminator_lr, p.generator_lr, p.seed) for *_, p in workers.started
    ]
    assert settings == [(1e-4, 1e-4, 0), (3e-4, 1e-4, 0), (1e-4, 1e-4, 1)]
    assert lines[0].startswith("[1/3] discriminator 0.0001, generator 0.0001, seed 0: ")


def test_a_larger_sweep_adds_to_the_one_that_is_there(tmp_path, workers):
    run(workers, sweep.Sweep(PRESET, {A: 1, B: 2}), tmp_path)
    workers.started.clear()
    run(workers, sweep.Sweep(PRESET, {A: 2, C: 1}), tmp_path, say=lambda line: None)
    assert [task[:2] for task in workers.started] == [(C, 0), (A, 1)]
    assert sweep.load(tmp_path)[1] == {A: 2, B: 2, C: 1}


def test_another_sweeps_folder_is_refused(tmp_path, workers):
    run(workers, sweep.Sweep(PRESET, {A: 1}), tmp_path)
    before = (tmp_path / "sweep.json").read_text()
    other = sweep.Sweep(PRESET.override(steps=7), {A: 1, B: 1}, data_dir="/x")
    match = r"data_dir is None there and '/x' now; steps is 2000 there and 7 now"
    with pytest.raises(InputError, match=match):
        run(workers, other, tmp_path)
    assert (tmp_path / "sweep.json").read_text() == before
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text("{}")
    with pytest.raises(InputError, match="holds a run, not a sweep"):
        run(workers, sweep.Sweep(PRESET, {A: 1}), tmp_path / "run")
    (tmp_path / "sweep.json").write_text('{"cells": [3]}')
    with pytest.raises(InputError, match="does not say what a sweep is made of"):
        run(workers, sweep.Sweep(PRESET, {A: 1}), tmp_path)


def test_a_failure_costs_its_run_only(tmp_path, workers):
    workers.outcomes = {(B, 0): {"error": "no luck"}}
    with pytest.raises(
        InputError, match="1 of 3 runs failed.*seed 0: no luck"
    ) as error:
        run(workers, sweep.Sweep(PRESET, {A: 1, B: 1, C: 1}), tmp_path)
    assert "\n" not in str(error.value)
    workers.started.clear()
    workers.outcomes = {}
    run(workers, sweep.Sweep(PRESET, {A: 1, B: 1, C: 1}), tmp_path)
    assert [task[:2] for task in workers.started] == [(B, 0)]


def test_three_failures_in_a_row_end_the_sweep(tmp_path, workers):
    workers.outcomes = {(A, seed): {"error": "no data"} for seed in range(1, 9)}
    with pytest.raises(InputError, match="3 of 9 runs failed, and 5 were not tried"):
        run(workers, sweep.Sweep(PRESET, {A: 9}), tmp_path)
    assert len(workers.started) == 4


def test_settings_that_cannot_be_trained_do_not_claim_the_folder(tmp_path, workers):
    workers.outcomes = {(A, 0): {"error": "no such data."}}
    with pytest.raises(InputError, match=r"seed 0: no such data\. Mend"):
        run(workers, sweep.Sweep(PRESET.override(steps=7), {A: 1}), tmp_path)
    workers.outcomes = {}
    run(workers, sweep.Sweep(PRESET, {A: 1}), tmp_path)


# Settings -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "status", "message"),
    [
        ([], 1, "needs learning rates"),
        (["--discriminator_lr=1e-4"], 1, "needs rates of both networks"),
        (["--discriminator_lr=1e-4", "--generator_lr=x"], 1, "--generator_lr=x"),
        (["--pairs=1e-4"], 1, "'1e-4' is not of the form DISCRIMINATOR:GENERATOR"),
        (["--pairs=1e-4:1e-4,1e-4:0.0001"], 1, "Given twice: discriminator 0.0001"),
        (["--pairs=1e-4:-1"], 1, "generator_lr is -1.0"),
        (["--pairs=nan:1"], 1, "discriminator_lr is nan"),
        (["--pairs=1:1", "--seeds=0"], 1, "number of seeds is 0"),
        (["--pairs=1:1", "--processes=0"], 1, "number of processes is 0"),
        (["--pairs=1:1", "--steps=0"], 1, "steps is 0"),
        (["--pairs=1:1", "--set=nonsense=1"], 1, "no setting 'nonsense'"),
        (["--pairs=1:1", "--set=seed=1"], 1, "no setting 'seed' to set"),
        (["--pairs=1:1", "--set=width=x"], 1, "expected a whole number; got 'x'"),
        (["--pairs=1:1", "--set=jit_compile=1"], 1, "expected true or false or none"),
        (["--pairs=1:1", "--set=every=1", "--every=2"], 1, "every is set twice"),
        (["--pairs=1:1", "--set=beta_1=nan"], 1, "beta_1 is nan"),
        (["--pairs=1:1", "--set=width"], 1, "not of the form KEY=VALUE"),
        (["--preset=nonsense", "--pairs=1:1"], 1, "no preset 'nonsense'"),
        (["--table_only"], 1, "sweep.json"),
        (["stray"], 2, "unexpected argument 'stray'"),
    ],
)
def test_bad_flags_are_one_line(tmp_path, capsys, flags, status, message):
    workdir = tmp_path / "sweep"
    assert sweep_cli.sweep(["sweep.py", f"--workdir={workdir}", *flags]) == status
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err
    assert len(captured.err.splitlines()) == 1
    assert not workdir.exists()


# Results ------------------------------------------------------------------------------


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
    np.testing.assert_allclose(compared["interval"], interval, rtol=1e-12)
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


def test_help_does_not_start_tensorflow():
    code = (
        "import sys; from tf_ttur import sample_cli; "
        "from tf_ttur.studies import sweep_cli; "
        "assert not sweep_cli.sweep(['sweep.py', '--help']); "
        "assert not sample_cli.sample(['sample.py', '--help']); "
        "sys.exit('tensorflow' in sys.modules)"
    )
    subprocess.run(
        [sys.executable, "-c", code], check=True, cwd=ROOT, stdout=subprocess.DEVNULL
    )
