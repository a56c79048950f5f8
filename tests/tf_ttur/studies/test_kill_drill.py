"""Runs that are killed and compared; and what tells two runs apart."""

import shutil

import keras
import numpy as np
import pytest
import synthetic_graph

from tf_ttur import experiment, presets
from tf_ttur.runs import RunFolder
from tf_ttur.studies import kill_drill


@pytest.mark.slow
def test_a_killed_run_equals_the_uninterrupted_one(tmp_path, capsys):
    """The programs as they are, on the networks of the preset, if not as wide."""
    flags = ["--kills=2", "--steps=60", "--batch_size=8", f"--workdir={tmp_path}"]
    flags += ["--set=every=20", "--set=num_samples=300", "--set=width=4"]
    assert kill_drill.kill_drill(["kill_drill.py", *flags]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == [
        "whole", "kill 1/2", "kill 2/2", "killed", "equal after 2 kills"
    ]  # fmt: skip
    rows = RunFolder(tmp_path / "killed").rows()
    assert [row["step"] for row in rows] == [0, 20, 40, 60]


@pytest.mark.slow
def test_statistics_equal_those_of_a_program_that_nobody_killed(tmp_path, capsys):
    graph = synthetic_graph.write_synthetic_graph(tmp_path / "graph.pb", splat=True)
    images = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), np.uint8)
    np.save(tmp_path / "images.npy", images)
    flags = ["--program=precalc_stats", "--kills=1", f"--workdir={tmp_path}"]
    flags += [f"--source={tmp_path}/images.npy", f"--inception={graph}"]
    assert kill_drill.kill_drill(["kill_drill.py", *flags]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].startswith("equal after 1 kills: 3 files, rows and arrays")
    assert [path.name for path in (tmp_path / "killed").iterdir()] == ["statistics.npz"]


def test_a_drill_that_cannot_begin_says_what_it_needs(tmp_path, capsys):
    argv = ["kill_drill.py", "--program=precalc_stats"]
    assert kill_drill.kill_drill(argv) == 2
    assert "--program=precalc_stats needs --source=IMAGES" in capsys.readouterr().err
    (tmp_path / "whole").mkdir()
    assert kill_drill.kill_drill(["kill_drill.py", f"--workdir={tmp_path}"]) == 1
    assert "whole exists; choose another --workdir" in capsys.readouterr().err


def test_runs_that_differ_are_told_apart(tmp_path, classifier):
    whole, other = tmp_path / "whole", tmp_path / "run"
    preset = presets.get("digits_dcgan_ttur").override(
        width=2, steps=7, every=2, batch_size=16, num_samples=200
    )
    experiment.run(preset, whole)
    shutil.copytree(whole, other)
    assert kill_drill.differences(other, whole) == []
    name = "step_00000006.keras"
    model = keras.models.load_model(other / "checkpoints" / name)
    variable = model.generator_optimizer.variables[-1]
    variable.assign_add(np.full(variable.shape, 1e-6))
    model.save(other / "checkpoints" / name)
    (other / "samples" / "step_00000004.png").unlink()
    found = kill_drill.differences(other, whole)
    assert len(found) == 2
    assert found[0].startswith("generator_optimizer/vars/")
    assert found[0].endswith(f" in checkpoints/{name} is not the same")
    assert found[1] == f"samples/step_00000004.png is not in {other}"
