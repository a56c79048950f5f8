"""The program of the critical batch size, on rows that are known."""

import json
import subprocess
import sys

import numpy as np
import pytest
from batch_studies import rows
from PIL import Image
from repository import ROOT

from fid.files import write_json
from tf_ttur.studies import batch_rows, critical_batch_cli


@pytest.fixture
def program(capsys):
    def run(*args):
        status = critical_batch_cli.critical_batch(["critical_batch.py", *args])
        return status, *capsys.readouterr()

    return run


@pytest.fixture
def known(tmp_path):
    batch_rows.write(tmp_path / "runs.jsonl", rows())
    subject = {"floor": 0.1, "examples": 9, "discriminator": 4, "generator": 9}
    write_json(tmp_path / "subjects.json", {"adam": subject})
    return tmp_path


def test_fit_estimate_and_plot_go_together(known, program):
    status, out, _ = program("fit", f"--workdir={known}", "--resamples=50")
    assert status == 0
    assert "A critical batch of 16" in out
    fit = json.loads((known / "fit.json").read_text())
    assert fit[0]["fitted"] == pytest.approx(16, rel=0.01)
    status, out, _ = program(
        "estimate", f"--workdir={known}", "--modes=calibrate,formula", "--json",
        "--discriminator_noise=1", "--generator_noise=2",
    )  # fmt: skip
    assert status == 0
    found = json.loads(out)
    assert [each["mode"] for each in found] == [
        "calibrated on adam", "formula (reconstructed)"
    ]  # fmt: skip
    assert found[0]["joint"] == pytest.approx(16)
    assert found == json.loads((known / "estimates.json").read_text())
    status, out, _ = program("plot", f"--workdir={known}", "--thresholds=1,2")
    assert status == 0
    assert out.splitlines() == [f"{known}/critical_batch_{x}.png" for x in (1, 2)]
    for path in out.splitlines():
        assert np.asarray(Image.open(path).convert("L")).std() > 10


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((), "expected one of sweep, fit, estimate, plot"),
        (("walk",), "there is no walk; expected one of"),
        (("fit", "x"), "fit takes flags only; got x"),
        (("fit", "--batches=2"), "--batches does not go with fit"),
        (("sweep", "--batches=2,4"), "--threshold=X is missing"),
        (("sweep", "--threshold=1", "--batches=2,x"), "--batches=2,x: expected whole"),
        (("sweep", "--threshold=1", "--batches=2,4"), "give --max_steps"),
        (
            ("sweep", "--threshold=1", "--variant=a"),
            "is not of the form NAME:KEY=VALUE",
        ),
        (
            ("sweep", "--threshold=1", "--variant=a:beta_1=0", "--variant=a:beta_1=1"),
            "a is there twice",
        ),
        (("sweep", "--threshold=1", "--vary=beta_1"), "is not of the form KEY=VALUE"),
        (("sweep", "--threshold=1", "--vary=x=1"), "there is no setting 'x'"),
        (("sweep", "--threshold=1", "--vary=seed=1"), "there is no setting 'seed'"),
        (("fit", "--thresholds=0.5"), "The runs of adam stopped at"),
        (("fit", "--thresholds=a"), "--thresholds=a: expected numbers"),
        (("fit", "--thresholds=nan"), "--thresholds=nan: expected numbers"),
        (("sweep", "--threshold=1", "--set=steps=3"), "--set=steps: the study sets"),
        (
            ("sweep", "--threshold=1", "--draws=3"),
            "--draws of a sweep is for --preset=",
        ),
        (("estimate", "--modes=guess"), "there is no guess; choose from stats"),
        (("estimate", "--modes=formula"), "needs --discriminator_noise and"),
        (("estimate", "--reference=x"), "there is no variant x; choose from adam"),
    ],
)
def test_bad_input_is_one_line(known, program, args, message):
    before = sorted(known.iterdir())
    place = [f"--workdir={known}"] if args else []
    status, out, err = program(*args, *place)
    assert (status, out) == (1, "") or status == 2
    assert message in err
    assert "Traceback" not in err
    assert sorted(known.iterdir()) == before


def test_a_folder_without_runs_is_refused(tmp_path, program):
    status, _, err = program("fit", f"--workdir={tmp_path}")
    assert status == 1
    assert "There are no runs" in err


@pytest.mark.slow
def test_a_study_goes_through_all_its_programs(tmp_path):
    """A sweep in a worker process, and estimates from the checkpoints it leaves."""

    def run(*args):
        command = [sys.executable, "scripts/critical_batch.py", *args]
        done = subprocess.run(
            [*command, f"--workdir={tmp_path}"],
            cwd=ROOT, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    # A threshold that each run meets at once, and then at its first measurement.
    out = run(
        "sweep", "--batches=16,32", "--threshold=1e6", "--passes=2",
        "--max_steps=4", "--seeds=1",
        "--every_examples=32", "--num_samples=64", "--set=width=2", "--jobs=1",
        "--set=extractor=pixels", "--set=jit_compile=False",
    )  # fmt: skip
    assert "| preset | frechet_pixels" in out
    out = run(
        "estimate", "--modes=stats,checkpoint", "--small=8", "--large=64", "--draws=4",
        "--factors=0.01,0.1,1,10,100,1000,10000",
    )  # fmt: skip
    assert "| preset | stats (lower bound) |" in out
    assert "| preset | checkpoint (noise scale) |" in out
    found = json.loads((tmp_path / "estimates.json").read_text())
    assert all(value > 0 for value in found[0]["assumed"]["h D/G"].values())
