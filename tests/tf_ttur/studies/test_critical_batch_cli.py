"""The program of the critical batch size, on rows that are known."""

import json
import subprocess
import sys

import numpy as np
import pytest
from batch_studies import row, rows
from PIL import Image
from repository import ROOT

from fid.files import write_json
from tf_ttur.studies import batch_figures, batch_rows, critical_batch_cli


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
            "The variant a is there twice",
        ),
        (
            ("sweep", "--threshold=1", "--vary=beta_1=0,0.5,0"),
            "The variant beta_1=0 is there twice",
        ),
        (
            ("sweep", "--threshold=1", "--variant=a=1:a=2", "--vary=a=1"),
            "The variant a=1 is there twice",
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
        (("estimate", "--modes="), "--modes is empty; choose from stats"),
        (("estimate", "--resamples=9"), "--resamples does not go with estimate"),
        (
            ("estimate", "--draws=3"),
            "--draws does not go with --modes=calibrate, but with stats, checkpoint",
        ),
        (("estimate", "--modes=stats", "--belief"), "--belief does not go with --mod"),
        (
            ("estimate", "--modes=formula,stats", "--thresholds=1"),
            "--thresholds does not go with --modes=formula,stats, but with calibrate",
        ),
        (
            ("estimate", "--reference_batch=9", "--thresholds=1"),
            "--thresholds does not go with --reference_batch",
        ),
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


GOOD = {"trace": 8.0, "gradient": 2.0, "scale": 0.5}
LOST = GOOD | {"gradient": -0.5}


@pytest.fixture
def mixture(tmp_path):
    """Makes a study of the mixture game, of runs whose gradients' noise is given."""

    def make(**noises):
        found = [
            row(
                [(10, 1.0 if noise else 5.0)], task="mixture", variant=variant,
                noise=noise and dict(
                    zip(("discriminator", "generator"), noise, strict=True)
                ),
            )
            for variant, noise in noises.items()
        ]  # fmt: skip
        batch_rows.write(tmp_path / "runs.jsonl", found)
        subject = {"floor": 0.1, "examples": 9, "discriminator": 4, "generator": 9}
        write_json(tmp_path / "subjects.json", dict.fromkeys(noises, subject))
        return tmp_path

    return make


def test_every_variant_and_mode_is_told_by_itself(mixture, program):
    place = mixture(
        one=(GOOD, GOOD), half=(GOOD, LOST), none=(LOST, LOST), never=None
    )  # fmt: skip
    status, out, _ = program(
        "estimate", f"--workdir={place}", "--modes=stats,checkpoint", "--json"
    )
    assert status == 0
    found = json.loads(out)
    assert found == json.loads((place / "estimates.json").read_text())
    # 2 B / epsilon^2 = sigma^2 rate / (epsilon^2 (1 - beta_1) (1 - gamma) h): the
    # exponent is 1, as the bound is derived.
    first, second = 8 * 3e-4 / (2 * 0.5 * 0.5 * 0.5), 8 * 1e-4 / (2 * 0.5 * 0.5 * 0.5)
    assert [
        (x["variant"], x["discriminator"], x["generator"], x["threshold"])
        for x in found
    ] == [
        ("one", pytest.approx(first), pytest.approx(second), 1.0),
        ("half", pytest.approx(first), None, 1.0),
        ("none", None, None, 1.0),
        ("never", None, None, None),
        *((variant, None, None, None) for variant in ("one", "half", "none", "never")),
    ]
    assert found[1]["note"].startswith("Of the generator: The squared norm of the gr")
    assert "Of the discriminator: " in found[2]["note"]
    assert found[2]["assumed"]["noise scale D/G"] == {
        "discriminator": None, "generator": None
    }  # fmt: skip
    assert "No run met its threshold" in found[3]["note"]
    assert {x["note"] for x in found[4:]} == {
        "The mixture game keeps no checkpoints; take --modes=stats."
    }
    status, out, _ = program("estimate", f"--workdir={place}", "--modes=stats")
    assert status == 0
    assert "| half | stats (lower bound) | 1 | 0.0096 | - | 0.0096 | 1 |" in out
    assert "\nnever, stats: No run met its threshold" in out


def test_where_nothing_can_be_told_it_is_an_error_that_says_why(mixture, program):
    place = mixture(none=(LOST, LOST), never=None)
    before = sorted(place.iterdir())
    status, out, err = program("estimate", f"--workdir={place}", "--modes=stats")
    assert (status, out) == (1, "")
    assert "none: Of the discriminator: The squared norm" in err
    assert "never: No run met its threshold" in err
    assert sorted(place.iterdir()) == before


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--set=width=4", "--set=width=8"), "width is set twice; leave one of the"),
        (("--variant=a:beta_1=0,beta_1=0.9",), "beta_1 is set twice; leave one of the"),
        (("--variant=a:beta_1=0", "--variant=a:beta_1=0.9"), "a is there twice"),
        (("--set=width",), "width is not of the form KEY=VALUE"),
    ],
)
def test_settings_of_the_mixture_game_are_given_once(tmp_path, program, args, message):
    status, out, err = program(
        "sweep", "--preset=mixture", f"--workdir={tmp_path}", "--threshold=0.5",
        "--batches=8,16", "--max_steps=100", *args,
    )  # fmt: skip
    assert (status, out) == (1, "")
    assert message in err
    assert not any(tmp_path.iterdir())


def test_the_sweep_of_the_mixture_game_has_measured_the_noise(mixture, program):
    place = mixture(one=(GOOD, GOOD))
    status, _, err = program(
        "estimate", f"--workdir={place}", "--modes=stats", "--draws=3"
    )
    assert status == 2
    assert "--draws is read by the sweep of the mixture game" in err


def test_the_exponent_is_1_in_the_bound_and_2_in_the_formulas(mixture, program):
    place = mixture(one=(GOOD, GOOD))
    args = (
        "estimate", f"--workdir={place}", "--modes=stats,formula", "--json",
        "--discriminator_noise=1", "--generator_noise=1",
    )  # fmt: skip
    found = [
        [x["discriminator"] for x in json.loads(program(*args, *more)[1])]
        for more in ((), ("--power=1",), ("--power=2",))
    ]
    # 1 - gamma is a half: each power of it doubles what is divided by it.
    assert found[1] == pytest.approx([found[0][0], found[0][1] / 2])
    assert found[2] == pytest.approx([found[0][0] * 2, found[0][1]])


def test_an_estimate_is_drawn_on_the_page_of_its_threshold(known, program, monkeypatch):
    pages = []

    def page(path, findings, rows, estimates):
        pages.append((findings[0].threshold, [x.threshold for x in estimates]))

    monkeypatch.setattr(batch_figures, "page", page)
    place = f"--workdir={known}"
    args = (
        "estimate", place, "--json", "--modes=calibrate,formula", "--thresholds=1,2",
        "--discriminator_noise=1", "--generator_noise=1",
    )  # fmt: skip
    status, out, _ = program(*args)
    assert status == 0
    # The formula rests on no measurement here, so it is of any threshold.
    assert [x["threshold"] for x in json.loads(out)] == [1.0, 2.0, None]
    assert program("plot", place, "--thresholds=1,2")[0] == 0
    assert pages == [(1.0, [1.0, None]), (2.0, [2.0, None])]


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
    assert "| preset | stats (lower bound) | 1e+06 |" in out
    assert "| preset | checkpoint (noise scale) | 1e+06 |" in out
    found = json.loads((tmp_path / "estimates.json").read_text())
    assert all(value > 0 for value in found[0]["assumed"]["h D/G"].values())
