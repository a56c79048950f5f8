"""Distances against steps: measured as the run is, once each, and drawn."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
from PIL import Image

from fid.files import InputError
from tf_ttur import experiment, presets, tasks
from tf_ttur.runs import RunFolder
from tf_ttur.studies import sampling_steps, sampling_steps_cli
from tf_ttur.studies.sampling_steps import Row, draw, measure, read


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = RunFolder(tmp_path_factory.mktemp("run") / "run")
    small = presets.get("digits_flow_teacher").override(
        extractor="pixels", image_size=8, width=4, sampling_steps=2, batch_size=4,
        network_options={"multipliers": [1], "blocks": 1, "attention": []}, steps=2,
        every=2, num_samples=20, sample_batch=10, jit_compile=False,
    )  # fmt: skip
    experiment.run(small, folder)
    return folder


def test_the_runs_own_sampling_gives_the_runs_own_distance(run, tmp_path):
    lines = []
    rows = measure(
        run, tmp_path / "rows.jsonl", ["euler", "heun"], [1, 2], checkpoint="last",
        say=lines.append,
    )  # fmt: skip
    assert [(x.sampler, x.steps, x.evaluations) for x in rows] == [
        ("euler", 1, 1), ("euler", 2, 2), ("heun", 1, 1), ("heun", 2, 3)
    ]  # fmt: skip
    assert len(lines) == 4
    # The run was measured by two steps of Euler.
    assert rows[1].value == pytest.approx(run.rows()[-1]["frechet_pixels_8x8"])
    assert rows[1].checkpoint == 2
    assert read(tmp_path / "rows.jsonl") == rows


def test_what_is_there_is_not_measured_again(run, tmp_path, monkeypatch):
    path = tmp_path / "rows.jsonl"
    (one,) = measure(run, path, ["euler"], [1], checkpoint="last")
    changed = dataclasses.replace(one, value=0.125)
    path.write_text(json.dumps(dataclasses.asdict(changed)) + "\n")
    two = measure(run, path, ["euler"], [1, 2], checkpoint="last")
    assert two[0] == changed
    assert read(path) == two
    # Another number of images is another measurement.
    assert measure(run, path, ["euler"], [1], checkpoint="last", num_samples=10)[
        0
    ].value != pytest.approx(0.125)


def test_the_runs_own_sampler_and_guidance_are_the_defaults(run, tmp_path):
    guided = RunFolder(tmp_path / "guided")
    shutil.copytree(run.path, guided.path)
    config = json.loads(guided.config.read_text())
    model = tasks.of_run(run).open(run, "last")
    model.sampling = dataclasses.replace(model.sampling, guidance=3.0)
    for part in ("checkpoints", "best"):
        shutil.rmtree(guided.path / part)
    (guided.path / "checkpoints").mkdir()
    model.save(guided.path / "checkpoints" / "step_00000002.keras")
    guided.config.write_text(json.dumps(config | {"guidance": 3.0}))
    path = tmp_path / "rows.jsonl"
    (row,) = measure(guided, path, None, [2], checkpoint="last")
    assert (row.sampler, row.guidance, row.evaluations) == ("euler", 3.0, 4)
    # Rows of another run in the same file are of another run.
    (other,) = measure(run, path, None, [2], checkpoint="last", guidance=3.0)
    assert other.run != row.run
    assert read(path) == [row, other]


def test_what_cannot_be_is_refused_before_anything_is_measured(run, tmp_path):
    path = tmp_path / "rows.jsonl"
    with pytest.raises(InputError, match="There is no sampler 'nix'"):
        measure(run, path, ["euler", "nix"], [1])
    with pytest.raises(InputError, match="guidance is -1"):
        measure(run, path, ["euler"], [1], guidance=-1.0)
    assert not path.exists()
    path.write_text('{"checkpoint": 2}\n')
    with pytest.raises(InputError, match="line 1 .*sampler"):
        measure(run, path, ["euler"], [1])
    row = Row("a", 2, "euler", 1, 1.0, 1, 20, "x", 3.0, 0.1)
    path.write_text(json.dumps(dataclasses.asdict(row) | {"steps": 0}) + "\n")
    with pytest.raises(InputError, match="steps is 0; .* Delete the file to measure"):
        read(path)
    path.unlink()
    assert read(path) == []


def test_a_gan_is_refused(tmp_path):
    folder = RunFolder(tmp_path / "gan")
    experiment.run(
        presets.get("digits_dcgan_ttur").override(
            width=2, latent_dimension=3, steps=1, every=1, batch_size=4,
            num_samples=20, extractor="pixels", image_size=16, jit_compile=False,
        ),
        folder,
    )  # fmt: skip
    with pytest.raises(InputError, match="a run on images, which no sampler samples"):
        measure(folder, tmp_path / "rows.jsonl", ["heun"], [1])


def rows_of(*samplers, metric="fid"):
    return [
        Row("a", 2, sampler, steps, 1.0, steps * k, 20, metric, 5.0 / steps, 0.1)
        for k, sampler in enumerate(samplers, 1)
        for steps in (4, 1, 2)
    ]


def test_a_figure_has_a_line_for_each_sampler_of_each_run(tmp_path):
    runs = {"teacher": rows_of("ddim", "heun"), "student": rows_of("renoise")}
    draw(runs, tmp_path / "a.png")
    pixels = np.asarray(Image.open(tmp_path / "a.png").convert("RGB")).reshape(-1, 3)
    for colour in sampling_steps._COLOURS[:3]:
        wanted = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
        assert (pixels == wanted).all(axis=1).any()
    with pytest.raises(InputError, match="different distances: fid of a, x of b"):
        draw(
            {"a": rows_of("ddim"), "b": rows_of("ddim", metric="x")}, tmp_path / "b.png"
        )
    assert not (tmp_path / "b.png").exists()


def test_a_run_beside_that_was_not_measured_is_refused(run, tmp_path, capsys):
    command = ["sampling_steps.py", str(run.path), f"--beside={tmp_path}"]
    assert sampling_steps_cli.sampling_steps(command) == 1
    assert "has no measurements. Measure that run first" in capsys.readouterr().err
