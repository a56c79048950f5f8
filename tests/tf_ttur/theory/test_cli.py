"""The programs of the theory: what they write, and what they refuse."""

import json

import numpy as np
import pytest
from PIL import Image

from tf_ttur import presets, tasks
from tf_ttur.runs import RunFolder, checkpoint_name
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


@pytest.fixture
def run_on_the_test_split(tmp_path):
    """A run on SVHN's test images; the training images do not fill a batch."""
    import tensorflow_datasets as tfds

    real = tfds.builder("svhn_cropped", data_dir=tmp_path / "data")
    images = [np.full((32, 32, 3), 16 * i, np.uint8) for i in range(16)]
    tfds.dataset_builders.store_as_tfds_dataset(
        name=real.name,
        version=str(real.version),
        features=real.info.features,
        data_dir=tmp_path / "data",
        split_datasets={
            split: [
                (i, {"id": f"{split}_{i}", "image": x, "label": 0})
                for i, x in enumerate(images[:count])
            ]
            for split, count in (("train", 3), ("test", 16), ("extra", 1))
        },
    )
    preset = presets.get("svhn_dcgan_ttur").override(
        width=1, latent_dimension=2, batch_size=8, split="test", jit_compile=False
    )
    folder = RunFolder(tmp_path / "run")
    folder.claim(preset.settings() | {"data_dir": str(tmp_path / "data")})
    folder.checkpoints.mkdir()
    gan = tasks.of(preset).build((32, 32, 3))
    gan.save(folder.checkpoints / checkpoint_name(0))
    return folder


def test_a_run_is_examined_on_the_images_that_it_was_trained_on(
    run_on_the_test_split, capsys
):
    flags = ["--num_images=8", "--iterations=1", "--json"]
    assert cli.nash(["nash.py", str(run_on_the_test_split), *flags]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["images"] == 8
    # The checkpoint is that of the untrained model.
    before, after = report["stages"].values()
    assert before["discriminator"]["loss"] == after["discriminator"]["loss"]


def test_a_run_of_text_is_not_examined(tmp_path, capsys):
    folder = RunFolder(tmp_path)
    folder.claim(presets.get("text_wgan_gp_ttur").settings() | {"data_dir": None})
    assert cli.nash(["nash.py", str(tmp_path)]) == 1
    assert "is a run on text; choose one on images" in capsys.readouterr().err


def test_nash_says_what_is_missing(tmp_path, capsys):
    assert cli.nash(["nash.py", str(tmp_path)]) == 1
    assert "config.json" in capsys.readouterr().err
    (tmp_path / "config.json").write_text(json.dumps({"name": "x", "data_dir": None}))
    assert cli.nash(["nash.py", str(tmp_path)]) == 1
    assert "lacks 'summary'" in capsys.readouterr().err
    assert cli.nash(["nash.py"]) == 2


def test_damaged_runs_are_refused_in_a_line(tmp_path, capsys):
    config = presets.get("digits_dcgan_ttur").settings()
    # As in the file of a run of version 0.1.
    config |= {"data_dir": None, "extractor": "digits", "extractor_sha256": "0"}
    for changed, message in (
        ([1], "config.json is damaged: expected a JSON object"),
        (config | {"batch_size": 0}, "batch_size is 0"),
        (config | {"batch_size": "x"}, "not the configuration"),
        (config | {"seed": 1.5}, "seed is 1.5; it must be a whole number"),
        (config | {"data_dir": 5}, "data_dir is 5; it must be a text or none"),
    ):
        (tmp_path / "config.json").write_text(json.dumps(changed))
        assert cli.nash(["nash.py", str(tmp_path)]) == 1
        assert message in capsys.readouterr().err
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "step_00000001.keras").write_bytes(b"PK\3\4")
    assert (
        cli.nash(["nash.py", str(tmp_path), "--num_images=32", "--iterations=1"]) == 1
    )
    assert "step_00000001.keras cannot be loaded" in capsys.readouterr().err
    assert cli.nash(["nash.py", str(tmp_path), "--seed=-1"]) == 2
