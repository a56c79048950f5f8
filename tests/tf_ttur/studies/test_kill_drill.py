"""Runs that are killed and compared; and what tells two runs apart."""

import shutil

import keras
import numpy as np
import pytest

from tf_ttur import experiment, presets
from tf_ttur.runs import RunFolder
from tf_ttur.studies import kill_drill


@pytest.mark.slow
def test_a_killed_run_equals_the_uninterrupted_one(tmp_path, capsys):
    """The programs as they are, on the networks of the preset."""
    flags = ["--kills=2", "--steps=300", "--batch_size=8", f"--workdir={tmp_path}"]
    assert kill_drill.kill_drill(["kill_drill.py", *flags]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == [
        "whole", "kill 1/2", "kill 2/2", "killed", "equal after 2 kills"
    ]  # fmt: skip
    assert [row["step"] for row in RunFolder(tmp_path / "killed").rows()] == [
        0,
        100,
        200,
        300,
    ]


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
