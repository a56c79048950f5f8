"""Sweeps: real ones, tiny; and their bookkeeping."""

import contextlib
import dataclasses
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

from fid.files import InputError
from tf_ttur import presets
from tf_ttur.runs import RunFolder
from tf_ttur.studies import sweep, sweep_cli
from tf_ttur.studies.machines import Machines, Shard
from tf_ttur.studies.sweep import Cell

TINY = ["--every=2", "--num_samples=64", "--set=width=2", "--set=batch_size=16",
        "--set=jit_compile=False"]  # fmt: skip
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


def alike():
    """The environment of a sweep in which a run has as many threads as one of `swept`.

    Their number decides how sums are rounded.
    """
    threads = str(max(1, len(os.sched_getaffinity(0)) // 2))
    names = ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS",
             "OPENBLAS_NUM_THREADS")  # fmt: skip
    return dict.fromkeys(names, threads) | os.environ


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
        env=alike(),
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
def test_a_sweep_survives_its_workers_and_its_own_end(swept, tmp_path, classifier):
    whole, flags, _ = swept
    flags = [x for x in flags if not x.startswith("--processes")]
    cut = tmp_path / "cut"
    first, second = (
        pathlib.Path(f"d_{rate}_g_0.0001/seed_0") for rate in ("0.0003", "0.0001")
    )
    with started(cut, *flags) as process:
        wait_for(lambda: (cut / first / "metrics.jsonl").exists(), process)
        (worker,) = workers_of(process)
        os.kill(worker, signal.SIGKILL)
        # Its successor goes on with the second run, in which the sweep is ended.
        wait_for(lambda: (cut / second / "metrics.jsonl").exists(), process)
        (worker,) = workers_of(process)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 128 + signal.SIGTERM
        assert "seed 0: failed: its process died (SIGKILL)" in process.stderr.read()
        assert gone(worker)
    # A worker does not outlive a sweep that had no time to end it.
    with started(cut, *flags) as process:
        wait_for(lambda: workers_of(process), process)
        (worker,) = workers_of(process)
        process.kill()
        deadline = time.monotonic() + 60
        while not gone(worker) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert gone(worker)
    assert not any((cut / x / "summary.json").exists() for x in (first, second))
    subprocess.run(command(cut, *flags), cwd=ROOT, env=alike(), check=True)
    for folder in (first, second):
        one, two = ([_timeless(row) for row in rows(x / folder)] for x in (whole, cut))
        assert one == two
        assert [row["step"] for row in one] == [0, 2, 4, 5]


@pytest.mark.slow
def test_two_shards_at_once_are_the_sweep_of_one_process(swept, tmp_path, classifier):
    whole, flags, _ = swept
    flags = [x for x in flags if not x.startswith("--processes")]
    workdir = tmp_path / "shards"
    processes = [
        subprocess.Popen(
            command(workdir, *flags, f"--shard={i}/2"),
            cwd=ROOT,
            env=alike(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in (1, 2)
    ]
    said = [process.communicate() for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    for (_, error), count in zip(said, (2, 1), strict=True):
        assert f"[{count}/{count}] " in error
    # The one that ends last has the table, and both do where they end at once.
    assert any(out for out, _ in said)
    for out, error in said:
        assert bool(out) != ("and 1 runs of the sweep are not" in error
                             or "and 2 runs of the sweep are not" in error)  # fmt: skip
    folders = [path.parent.relative_to(whole) for path in whole.glob("*/*/.lock")]
    assert len(folders) == 3
    for folder in folders:
        one, two = ([_timeless(row) for row in rows(x / folder)]
                    for x in (whole, workdir))  # fmt: skip
        assert one == two
    assert sweep_cli.sweep(["x", f"--workdir={workdir}", "--table_only"]) == 0
    cells = [json.loads((x / "table.json").read_text())["cells"]
             for x in (whole, workdir)]  # fmt: skip
    for one, two in zip(*cells, strict=True):
        assert one | {"minutes": 0} == two | {"minutes": 0}


def _timeless(row):
    return {key: value for key, value in row.items() if "minutes" not in key}


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
        self.started.append((task, arguments["preset"]))
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
    machines = Machines(processes)
    sweep.run_sweep(wanted, workdir, machines, say, make_workers=workers)


def name(cell, seed=0):
    return f"{cell}, seed {seed}"


A, B, C = Cell(1e-4, 1e-4), Cell(3e-4, 1e-4), Cell(1e-3, 1e-4)


def test_all_cells_come_once_before_any_comes_again(tmp_path, workers):
    lines = []
    run(workers, sweep.Sweep(PRESET, {A: 2, B: 1}), tmp_path, 2, lines.append)
    assert [task for task, _ in workers.started] == [name(A), name(B), name(A, 1)]
    settings = [
        (p.discriminator_lr, p.generator_lr, p.seed) for _, p in workers.started
    ]
    assert settings == [(1e-4, 1e-4, 0), (3e-4, 1e-4, 0), (1e-4, 1e-4, 1)]
    assert lines[0].startswith("[1/3] discriminator 0.0001, generator 0.0001, seed 0: ")


def test_a_larger_sweep_adds_to_the_one_that_is_there(tmp_path, workers):
    run(workers, sweep.Sweep(PRESET, {A: 1, B: 2}), tmp_path)
    workers.started.clear()
    run(workers, sweep.Sweep(PRESET, {A: 2, C: 1}), tmp_path, say=lambda line: None)
    assert [task for task, _ in workers.started] == [name(C), name(A, 1)]
    assert sweep.load(tmp_path)[1] == {A: 2, B: 2, C: 1}


def test_the_data_of_a_sweep_may_be_moved(tmp_path):
    for place in ("/a", "/b"):
        sweep.claim(sweep.Sweep(PRESET, {A: 1}, data_dir=place), tmp_path)
        assert sweep.load(tmp_path)[0]["data_dir"] == place


def test_a_sweep_goes_on_where_settings_were_added_since(tmp_path, monkeypatch):
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Larger(presets.ImagePreset):
        colours: int = 2

    sweep.claim(sweep.Sweep(PRESET, {A: 1}), tmp_path)
    monkeypatch.setattr(presets.preset, "KINDS", (Larger, presets.TextPreset))
    larger = Larger(**dataclasses.asdict(PRESET))
    sweep.claim(sweep.Sweep(larger, {B: 1}), tmp_path)
    assert sweep.load(tmp_path)[1] == {A: 1, B: 1}
    with pytest.raises(InputError, match="colours is 2 there and 3 now"):
        sweep.claim(sweep.Sweep(larger.override(colours=3), {A: 1}), tmp_path)


def test_another_sweeps_folder_is_refused(tmp_path, workers):
    run(workers, sweep.Sweep(PRESET, {A: 1}), tmp_path)
    before = (tmp_path / "sweep.json").read_text()
    other = sweep.Sweep(PRESET.override(steps=7), {A: 1, B: 1}, data_dir="/x")
    match = r"sweep of other settings: steps is 2000 there and 7 now"
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


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ({"seeds": float("inf")}, "Infinity is no number"),
        ({"seeds": 1e9}, r"cells.0..seeds is 1000000000.0; it must be a whole number"),
        ({"seeds": 10**9}, r"seeds is 1000000000; it must be in 1\.\.10000"),
        ({"seeds": True}, "seeds is True; it must be a whole number"),
        ({"generator_lr": float("nan")}, "NaN is no number"),
        ({"generator_lr": "1e-4"}, "generator_lr is '1e-4'; it must be a number"),
        ({"discriminator_lr": -1}, "discriminator_lr is -1; it must be positive"),
    ],
)
def test_a_cell_that_cannot_be_is_refused(tmp_path, cell, message):
    sweep.claim(sweep.Sweep(PRESET, {A: 1}), tmp_path)
    path = tmp_path / "sweep.json"
    right = json.loads(path.read_text())
    cells = [right["cells"][0] | cell]
    path.write_text(json.dumps(right | {"cells": cells}))
    with pytest.raises(InputError, match=f"sweep.json .*{message}"):
        sweep.load(tmp_path)


def test_a_sweep_of_settings_that_cannot_be_is_refused(tmp_path):
    sweep.claim(sweep.Sweep(PRESET, {A: 1}), tmp_path)
    path = tmp_path / "sweep.json"
    right = json.loads(path.read_text())
    path.write_text(json.dumps(right | {"settings": {"steps": 0}}))
    with pytest.raises(InputError, match=r"sweep.json .*: steps is 0; it must be >= 1"):
        sweep.load(tmp_path)
    path.write_text(json.dumps(right | {"cells": 2 * right["cells"]}))
    with pytest.raises(InputError, match="a pair of rates stands twice"):
        sweep.load(tmp_path)
    path.write_text(json.dumps(right))
    for name in ("d_0.0001_g_0.0001/seed_0", "d_0.0001_g_0.0001/seed_1"):
        (tmp_path / name).mkdir(parents=True)
        sweep.load(tmp_path)
        (tmp_path / name / "config.json").write_text("{}")
    with pytest.raises(
        InputError, match="no cell has the run d_0.0001_g_0.0001/seed_1"
    ):
        sweep.load(tmp_path)


def test_a_failure_costs_its_run_only(tmp_path, workers):
    workers.outcomes = {name(B): {"error": "no luck"}}
    with pytest.raises(
        InputError, match="1 of 3 runs failed.*seed 0: no luck"
    ) as error:
        run(workers, sweep.Sweep(PRESET, {A: 1, B: 1, C: 1}), tmp_path)
    assert "\n" not in str(error.value)
    workers.started.clear()
    workers.outcomes = {}
    run(workers, sweep.Sweep(PRESET, {A: 1, B: 1, C: 1}), tmp_path)
    assert [task for task, _ in workers.started] == [name(B)]


def test_three_failures_in_a_row_end_the_sweep(tmp_path, workers):
    workers.outcomes = {name(A, seed): {"error": "no data"} for seed in range(1, 9)}
    with pytest.raises(InputError, match="3 of 9 runs failed, and 5 were not tried"):
        run(workers, sweep.Sweep(PRESET, {A: 9}), tmp_path)
    assert len(workers.started) == 4


def test_a_shard_that_fails_leaves_the_claim_to_the_others(tmp_path, workers):
    workers.outcomes = {name(B): {"error": "no luck"}}
    with pytest.raises(InputError, match="1 of 1 runs failed"):
        sweep.run_sweep(
            sweep.Sweep(PRESET, {A: 1, B: 1}),
            tmp_path,
            Machines(shard=Shard(2, 2)),
            make_workers=workers,
        )
    assert [task for task, _ in workers.started] == [name(B)]
    assert sweep.load(tmp_path)[1] == {A: 1, B: 1}


# Variants -----------------------------------------------------------------------------

STUDENT = presets.get("digits_flash_dmd")
# As files list the settings, so that an old sweep.json can be written by hand.
RATES = ("discriminator_lr", "generator_lr", "seed")


def variants(*names, preset=PRESET):
    """Variants that are called by their settings, with one seed each."""
    texts = {name: name.split(",") for name in names}
    return dict.fromkeys(sweep.variants_of(preset, texts), 1)


def test_a_variant_has_the_settings_of_its_text():
    texts = {"full": ["ratio=2", "renoise_to=0.5"], "b": ["feature_layer=none"]}
    full, b = sweep.variants_of(STUDENT, texts)
    # The ratio is that of the preset already.
    assert (STUDENT.ratio, full.settings) == (2, {"ratio": 2, "renoise_to": 0.5})
    changed = dataclasses.replace(STUDENT, renoise_to=0.5)
    assert full.of(STUDENT) == changed
    assert b.of(STUDENT) == STUDENT
    # Another data set has a size of its own.
    (other,) = sweep.variants_of(PRESET, {"c": ["dataset=cifar10"]})
    assert other.of(PRESET) == PRESET.with_dataset("cifar10")
    with pytest.raises(
        InputError, match="digits_flash_dmd has no setting 'halve_every'"
    ):
        sweep.variants_of(STUDENT, {"x": ["halve_every=0"]})
    with pytest.raises(InputError, match="no setting 'seed'"):
        sweep.variants_of(STUDENT, {"x": ["seed=1"]})


def test_variants_are_run_in_folders_of_their_names(tmp_path, workers):
    lines = []
    cells = variants("ratio=1,adversarial=0.5", "ratio=5,adversarial=0.5",
                     preset=STUDENT)  # fmt: skip
    wanted = sweep.Sweep(STUDENT, cells, teacher="/runs/teacher")
    run(workers, wanted, tmp_path, say=lines.append)
    assert [(p.ratio, p.adversarial, p.seed) for _, p in workers.started] == [
        (1, 0.5, 0), (5, 0.5, 0)
    ]  # fmt: skip
    assert lines[0].startswith("[1/2] ratio=1,adversarial=0.5, seed 0: ")
    assert (tmp_path / "ratio=5,adversarial=0.5/seed_0/summary.json").exists()
    found, there = sweep.load(tmp_path)
    assert there == cells
    assert found["teacher"] == "/runs/teacher"
    assert (found["ratio"], found["adversarial"]) == (2, STUDENT.adversarial)


def test_the_teacher_reaches_the_run_and_only_one_that_distils(monkeypatch, tmp_path):
    from tf_ttur import experiment

    given = {}

    def trained(preset, folder, **sources):
        given.update(sources)
        end = {"step": 2, "fid": 1.0}
        return {"metric": "fid", "best": end, "last": end, "minutes": 0.0}

    monkeypatch.setattr(experiment, "run", trained)
    job = sweep.run_of("x", STUDENT, RunFolder(tmp_path), teacher="/runs/teacher")
    assert sweep.train_run(**job.arguments)["text"].startswith("fid 1 at step 2")
    assert given == {"data_dir": None, "inception": None, "teacher": "/runs/teacher"}
    with pytest.raises(InputError, match="distils a teacher, and none was given"):
        sweep.Sweep(STUDENT, variants("ratio=5", preset=STUDENT))
    with pytest.raises(InputError, match="--teacher=/x: .* distils nothing"):
        sweep.Sweep(PRESET, {A: 1}, teacher="/x")


def test_variants_are_added_and_the_teacher_may_be_moved(tmp_path, workers):
    one = variants("ratio=5", preset=STUDENT)
    run(workers, sweep.Sweep(STUDENT, one, teacher="/a"), tmp_path)
    workers.started.clear()
    both = one | variants("pulling=0.5", preset=STUDENT)
    run(workers, sweep.Sweep(STUDENT, both, teacher="/b"), tmp_path)
    assert [task for task, _ in workers.started] == ["pulling=0.5, seed 0"]
    found, there = sweep.load(tmp_path)
    assert (found["teacher"], there) == ("/b", both)


def test_variants_that_contradict_a_sweep_are_refused(tmp_path):
    cells = {sweep.Variant("a", {"width": 4}): 1}
    sweep.claim(sweep.Sweep(PRESET, cells), tmp_path)
    before = (tmp_path / "sweep.json").read_text()
    for other, message in (
        ({sweep.Variant("a", {"width": 8}): 1},
         "the variant a is {'width': 4} there and {'width': 8} now"),
        ({sweep.Variant("b", {"width": 4}): 1},
         "variants a and b have the same settings"),
        ({A: 1}, "over pairs of learning rates .* or over variants"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=message):
            sweep.claim(sweep.Sweep(PRESET, other), tmp_path)
    with pytest.raises(InputError, match="steps is 2000 there and 7 now"):
        sweep.claim(sweep.Sweep(PRESET.override(steps=7), cells), tmp_path)
    assert (tmp_path / "sweep.json").read_text() == before
    with pytest.raises(InputError, match="have the same settings"):
        sweep.Sweep(PRESET, variants("width=4", "width=04"))
    with pytest.raises(InputError, match="and not over both"):
        sweep.Sweep(PRESET, {A: 1} | variants("width=4"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "../x"}, "a variant is called '../x'"),
        ({"name": 3}, r"cells\[0\].name is 3; it must be a text"),
        ({"settings": 3}, r"cells\[0\].settings is 3; it must be a JSON object"),
        ({"settings": {"width": 0}}, "width is 0; it must be >= 1"),
        ({"seeds": 0}, r"cells\[0\].seeds is 0"),
    ],
)
def test_a_variant_that_cannot_be_is_refused(tmp_path, change, message):
    sweep.claim(sweep.Sweep(PRESET, variants("width=4")), tmp_path)
    path = tmp_path / "sweep.json"
    right = json.loads(path.read_text())
    cells = [right["cells"][0] | change]
    path.write_text(json.dumps(right | {"cells": cells}))
    with pytest.raises(InputError, match=f"sweep.json .*{message}"):
        sweep.load(tmp_path)
    path.write_text(json.dumps(right | {"cells": 2 * right["cells"]}))
    with pytest.raises(InputError, match="a variant stands twice"):
        sweep.load(tmp_path)
    path.write_text(json.dumps(right))
    lost = tmp_path / "width=8" / "seed_0"
    lost.mkdir(parents=True)
    (lost / "config.json").write_text("{}")
    with pytest.raises(InputError, match="no cell has the run width=8/seed_0"):
        sweep.load(tmp_path)


def test_sweeps_of_rates_are_as_they_were(tmp_path, workers):
    """What earlier versions wrote, by hand: it is read, resumed and written again."""
    settings = {k: v for k, v in PRESET.settings().items() if k not in RATES}
    cell = {"discriminator_lr": 1e-4, "generator_lr": 1e-4, "seeds": 1}
    old = {"settings": settings | {"data_dir": None}, "cells": [cell]}
    text = json.dumps(old, indent=2, ensure_ascii=False) + "\n"
    (tmp_path / "sweep.json").write_text(text)
    done = RunFolder(tmp_path / "d_0.0001_g_0.0001" / "seed_0")
    done.path.mkdir(parents=True)
    done.summary.write_text("{}")
    assert sweep.load(tmp_path)[1] == {A: 1}
    run(workers, sweep.Sweep(PRESET, {A: 1}), tmp_path)
    assert workers.started == []
    assert (tmp_path / "sweep.json").read_text() == text


# Processes at once --------------------------------------------------------------------

# Claims a folder for one cell, as soon as its standard input ends.
CLAIM = """
import sys
from tf_ttur import presets
from tf_ttur.studies import sweep
preset = presets.get(presets.DEFAULT).override(steps=int(sys.argv[3]))
cells = {sweep.Cell(float(sys.argv[2]), 1e-4): 1}
print("ready", flush=True)
sys.stdin.read()
try:
    sweep.claim(sweep.Sweep(preset, cells), sys.argv[1])
except ValueError as error:
    print(error)
"""


def claimed_at_once(folder, arguments):
    """Has processes claim a folder at the same time; returns what they say of it."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", CLAIM, folder, *map(str, pair)],
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for pair in arguments
    ]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.close()
    said = [process.stdout.read() for process in processes]
    for process in processes:
        process.stdout.close()
        assert process.wait() == 0
    return said


def test_many_processes_may_claim_a_folder_at_once(tmp_path):
    rates = [1e-4 * i for i in range(1, 7)]
    assert claimed_at_once(tmp_path / "a", [(x, 5) for x in rates]) == [""] * 6
    assert sweep.load(tmp_path / "a")[1] == {Cell(x, 1e-4): 1 for x in rates}
    # Of two sweeps one is first, and the other one is refused.
    said = claimed_at_once(tmp_path / "b", [(1e-4, steps) for steps in (5, 6, 5, 6)])
    steps = sweep.load(tmp_path / "b")[0]["steps"]
    other = f"steps is {steps} there and {11 - steps} now"
    refused = [other in text for text in said]
    assert refused == [steps != x for x in (5, 6, 5, 6)]
    assert [bool(text) for text in said] == refused


def test_settings_that_cannot_be_trained_do_not_claim_the_folder(tmp_path, workers):
    workers.outcomes = {name(A): {"error": "no such data."}}
    with pytest.raises(InputError, match=r"seed 0: no such data\. Mend"):
        run(workers, sweep.Sweep(PRESET.override(steps=7), {A: 1}), tmp_path)
    workers.outcomes = {}
    run(workers, sweep.Sweep(PRESET, {A: 1}), tmp_path)
