"""The programs of the theory: what they write, and what they refuse."""

import json

import pytest
from PIL import Image

from tf_ttur.theory import cli


@pytest.mark.parametrize(
    ("program", "figures"),
    [
        (cli.saddle, ["saddle_panel", "saddle_surface"]),
        (cli.two_time_scales, ["two_time_scales"]),
        pytest.param(
            cli.heavy_ball,
            ["heavy_ball", "flat_minima"],
            marks=pytest.mark.slow,
        ),
    ],
)
def test_programs_write_figures_and_values(program, figures, tmp_path, capsys):
    arguments = ["--runs=3", "--steps=20", f"--output={tmp_path}"]
    assert program([program.__name__, *arguments]) == 0
    assert str(tmp_path) in capsys.readouterr().out
    (values,) = tmp_path.glob("*.json")
    assert json.loads(values.read_text())
    assert sorted(p.stem for p in tmp_path.glob("*.png")) == sorted(figures)
    for path in tmp_path.glob("*.png"):
        with Image.open(path) as image:
            assert min(image.size) > 300


@pytest.mark.parametrize("program", [cli.saddle, cli.two_time_scales, cli.heavy_ball])
def test_a_folder_that_cannot_be_is_refused_at_once(program, tmp_path, capsys):
    (tmp_path / "file").touch()
    assert program(["x.py", f"--output={tmp_path / 'file'}"]) == 1
    assert "Cannot write" in capsys.readouterr().err
    assert program(["x.py", "--output="]) == 2
    assert "--output is empty" in capsys.readouterr().err


def test_exponents_need_two_steps(tmp_path, capsys):
    arguments = ["x.py", "--runs=1", f"--output={tmp_path}"]
    assert cli.two_time_scales([*arguments, "--steps=1"]) == 2
    assert cli.two_time_scales([*arguments, "--steps=2"]) == 0
    assert "exponents" in capsys.readouterr().out
