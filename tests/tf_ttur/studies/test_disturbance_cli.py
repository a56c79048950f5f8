"""The program of the disturbance study: what it prints, writes and refuses."""

import json
import subprocess
import sys

import numpy as np
import pytest
import rounding
import synthetic_graph
from image_folders import smooth_images, write_images
from PIL import Image
from repository import ROOT

import fid
from fid.studies.disturbances import LEVELS, DisturbedSource
from tf_ttur.studies.disturbance_cli import disturbance_study

pytest.importorskip("skimage", reason="the extra [disturbances] is not installed")


def program(*arguments):
    return disturbance_study(["disturbance_study.py", *map(str, arguments)])


@pytest.fixture
def folder(tmp_path):
    return write_images(tmp_path / "images", smooth_images()[:20])


class TestProgram:
    def test_dry_run_says_what_would_be_measured(self, folder, tmp_path, capsys):
        output = tmp_path / "out"
        chosen = "--disturbances=blur,salt_pepper"
        assert program(folder, f"--output={output}", chosen, "--dry_run") == 0
        found = json.loads(capsys.readouterr().out)
        assert found["levels"] == {
            "blur": [0, 1, 2, 4],
            "salt_pepper": [0, 0.1, 0.2, 0.3],
        }
        assert found["images_to_measure"] == 20 * 7
        assert not output.exists()

    @pytest.mark.parametrize(
        ("arguments", "status", "message"),
        [
            (["--disturbances=blur"], 2, "--output=DIR is missing"),
            (["--output=o"], 1, "--contamination, or leave it out with --dist"),
            (["--output=o", "--levels=a"], 2, "--levels=a: expected numbers"),
            (["--output=o", "--disturbances=fog"], 1, "no disturbance 'fog'"),
            (
                ["--output=o", "--disturbances=blur", "--contamination=x"],
                2,
                "goes with",
            ),
            (["--output=o", "--disturbances=blur", "--num_images=99"], 1, "has 20"),
        ],
    )
    def test_errors(
        self, folder, tmp_path, monkeypatch, capsys, arguments, status, message
    ):
        monkeypatch.chdir(tmp_path)
        assert program(folder, *arguments) == status
        assert message in capsys.readouterr().err
        assert not (tmp_path / "o").exists()

    def test_help_does_not_import_tensorflow(self):
        code = (
            "import sys; "
            "from tf_ttur.studies.disturbance_cli import disturbance_study as f; "
            "f(['disturbance_study.py', '--help']); "
            "sys.exit('tensorflow' in sys.modules)"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        assert "--definition=code|paper" in done.stdout

    @pytest.mark.slow
    def test_paper_study_on_a_synthetic_graph(
        self, folder, tmp_path, synthetic_pb, capsys
    ):
        arguments = (
            folder, f"--output={tmp_path / 'out'}", f"--inception={synthetic_pb}",
            "--num_images=6", "--disturbances=noise,contamination", "--levels=0,0.5",
            f"--contamination={folder}", "--is_splits=2", "--json",
        )  # fmt: skip
        assert program(*arguments) == 0
        first = json.loads(capsys.readouterr().out)
        assert first["metric"] == "fid"
        assert first["score"] == "is"
        assert json.loads((tmp_path / "out" / "study.json").read_text()) == first
        comparison = fid.compare(
            DisturbedSource(
                fid.open_images(sorted(folder.iterdir())[:6]), "noise", 0.5
            ),
            folder,
            metrics=("fid", "is"),
            inception=synthetic_pb,
            is_splits=2,
        )
        row = first["disturbances"][0]["levels"][1]
        # Features are of order 1. Logits are, too, and a divergence moves by their
        # errors times a deviation of logarithms, of less than 2.
        error = synthetic_graph.rounding_error(np.ones(1))
        moved = rounding.frechet_of_features(comparison.value, error)
        assert row["distance"] == pytest.approx(comparison.value, rel=0, abs=moved)
        few = 2 * rounding.DEVIATIONS * error
        assert row["score"]["mean"] == pytest.approx(comparison.score.mean, rel=few)
        assert program(*arguments) == 0  # from what is there
        assert json.loads(capsys.readouterr().out) == first

    @pytest.mark.slow
    def test_distance_rises_with_every_disturbance_of_the_digits(
        self, classifier, tmp_path, capsys
    ):
        assert program(f"--output={tmp_path}", "--json") == 0
        found = json.loads(capsys.readouterr().out)
        assert found["metric"] == "frechet_digits"
        assert [curve["disturbance"] for curve in found["disturbances"]] == [*LEVELS]
        for curve in found["disturbances"]:
            assert curve["rises"], curve
            scores = [row["score"]["mean"] for row in curve["levels"]]
            assert 1 <= min(scores) <= max(scores) <= 10
        for name in ("panel", "strips"):
            with Image.open(tmp_path / f"{name}.png") as image:
                image.load()
