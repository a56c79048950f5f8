"""Runs of images: found, sampled, interpolated, refused."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import rounding
from PIL import Image
from repository import ROOT

from fid.files import InputError
from fid.sources.images import open_images
from tf_ttur import (
    callbacks,
    datasets,
    experiment,
    presets,
    sample_cli,
    sampling,
    tasks,
)
from tf_ttur.gan import GAN
from tf_ttur.latents import NormalLatent, UniformLatent
from tf_ttur.networks import began, dcgan
from tf_ttur.optimizers import ttur
from tf_ttur.runs import RunFolder
from tf_ttur.tasks.images import Images

pytestmark = pytest.mark.portable


def read(path):
    return np.concatenate(list(open_images(path).batches(3)))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run folder as training leaves it: the best is older than the last two."""
    workdir = tmp_path_factory.mktemp("runs") / "run"
    generator = dcgan.generator(32, 1, 2, 10, seed=0)
    random = np.random.default_rng(0)
    for weights in generator.trainable_variables:  # else all samples are nearly grey
        weights.assign(random.normal(0.0, 0.3, weights.shape))
    gan = GAN(
        generator,
        dcgan.discriminator(32, 1, 2, seed=0),
        UniformLatent(10),
        ema_decay=0.5,
    )
    optimizers = ttur(discriminator=1e-3, generator=1e-3)
    gan.compile(**optimizers, loss="minimax", jit_compile=False)
    checkpoints = callbacks.Checkpoints(
        workdir / "checkpoints", workdir / "best", "fid"
    )
    real = random.uniform(-1, 1, (24, 32, 32, 1)).astype("float32")
    samples = {}
    for value in (3.0, 4.0, 5.0):
        gan.fit(real, batch_size=8, verbose=0)
        checkpoints.save(gan, gan.steps, value)
        samples[gan.steps] = gan.generate(12, seed=7, batch_size=12)
    config = {"num_samples": 20, "quantize": "none"}
    (workdir / "config.json").write_text(json.dumps(config))
    return workdir, samples


def test_a_checkpoint_is_found_by_what_it_is(trained):
    workdir, samples = trained
    assert list(samples) == [3, 6, 9]
    for checkpoint, step in {"best": 3, "last": 9, "6": 6, 3: 3}.items():
        gan = Images.open(RunFolder(workdir), checkpoint)
        assert gan.steps == step
        images = gan.generate(12, seed=7, batch_size=12)
        # The generator's sums have less than 200 terms in a row. A step changes more.
        atol = rounding.random_sums(200, images.size)
        np.testing.assert_allclose(images, samples[step], rtol=0, atol=atol)
        others = [each for key, each in samples.items() if key != step]
        assert min(np.abs(images - other).max() for other in others) > 10 * atol


def sample(workdir, *flags):
    return sample_cli.sample(["sample.py", str(workdir), *map(str, flags)])


def test_a_grid_is_drawn(trained, tmp_path, capsys):
    workdir, samples = trained
    flags = ["--grid=3x4", "--seed=7", "--checkpoint=last"]
    assert sample(workdir, *flags, f"--output={tmp_path}/x.png") == 0
    assert capsys.readouterr().out == (
        f"12 images of 32x32x1 from step 9 of {workdir}: {tmp_path}/x.png\n"
    )
    drawn = np.asarray(Image.open(tmp_path / "x.png")).astype(int)
    wanted = sampling.image_grid(sampling.to_bytes(samples[9]), 4)[..., 0]
    assert drawn.shape == (3 * 34 + 2, 4 * 34 + 2)
    # A last bit of the generator's may fall on the other side of a half.
    assert np.abs(drawn - wanted).max() <= 1
    assert (drawn != wanted).mean() < 1e-3
    assert sample(workdir, "--interpolate", "--grid=2x3") == 0
    picture = np.asarray(Image.open(workdir / "best_interpolation.png"))
    assert picture.shape == (2 * 34 + 2, 3 * 34 + 2)


@pytest.mark.parametrize("kind", ["GAN", "BEGAN"])
def test_a_fresh_process_knows_all_classes_of_a_checkpoint(trained, tmp_path, kind):
    """Here they are known since this module has imported them."""
    workdir = trained[0]
    if kind == "BEGAN":
        workdir = tmp_path / "run"
        (workdir / "checkpoints").mkdir(parents=True)
        networks = began.generator(16, 3, 2, 4), began.discriminator(16, 3, 2, 4)
        model = began.BEGAN(*networks, NormalLatent(4))
        model.save(workdir / "checkpoints" / "step_00000000.keras")
        (workdir / "config.json").write_text('{"num_samples": 3}')
    flags = [str(workdir), "--checkpoint=last", f"--output={tmp_path}/fresh.zip"]
    script = ROOT / "scripts" / "sample.py"
    subprocess.run([sys.executable, script, *flags], check=True)
    assert sample(*flags[:2], f"--output={tmp_path}/here.zip") == 0
    here, fresh = (tmp_path / f"{name}.zip" for name in ("here", "fresh"))
    assert here.read_bytes() == fresh.read_bytes()


def test_the_ends_of_an_interpolation_are_samples(trained, tmp_path):
    workdir, samples = trained
    flags = ["--interpolate", "--grid=6x3", "--seed=7", "--checkpoint=6"]
    assert sample(workdir, *flags, f"--output={tmp_path}/x") == 0
    images = read(tmp_path / "x").reshape(6, 3, 32, 32, -1)[..., :1].astype(int)
    wanted = sampling.to_bytes(samples[6]).astype(int)
    assert np.abs(images[:, 0] - wanted[:6]).max() <= 1
    assert np.abs(images[:, 2] - wanted[6:]).max() <= 1
    assert (images[:, 1] != images[:, 0]).any()


def test_equal_seeds_give_equal_files(trained, tmp_path):
    workdir, _ = trained
    for name, flags in {
        "a.zip": [],
        "b.zip": ["--batch_size=7"],
        "folder": ["--num_samples=20"],
        "other.zip": ["--seed=1"],
        "truncated.zip": ["--quantize=truncate"],
    }.items():
        assert sample(workdir, *flags, f"--output={tmp_path / name}") == 0
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()
    a, folder, other, truncated = (
        read(tmp_path / x).astype(int)
        for x in ("a.zip", "folder", "other.zip", "truncated.zip")
    )
    assert len(a) == 20  # as many as the run was measured with
    np.testing.assert_array_equal(a, folder)
    assert (a != other).mean() > 0.01
    assert set(np.unique(a - truncated)) == {0, 1}


@pytest.mark.parametrize(
    ("flags", "status", "message"),
    [
        (["--checkpoint=4"], 1, "no checkpoint of step 4; it has those of 3, 6, 9."),
        (["--checkpoint=first"], 1, "expected best, last or a step"),
        (["--grid=8"], 1, "--grid=8: expected ROWSxCOLUMNS"),
        (["--grid=0x8"], 1, "--grid=0x8: expected ROWSxCOLUMNS"),
        (["--output=x.jpg"], 1, "expected a .png, a .zip or the name of a folder"),
        (["--output=x.png", "--num_samples=5"], 1, "--num_samples is for a folder"),
        (["--output=/proc/x.png"], 1, "Cannot write /proc/x.png"),
        (["--output=/proc/x"], 1, "Cannot write the folder /proc/x"),
        (["--output=/proc"], 1, "The folder /proc is not empty"),
        (["--num_samples=0", "--output=x"], 2, "num_samples"),
        (["--seed=-1"], 2, "seed"),
        (["stray"], 2, "expected one run folder; got 2"),
    ],
)
def test_bad_flags_are_one_line(trained, capsys, flags, status, message):
    assert sample(trained[0], *flags) == status
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err
    assert len(captured.err.splitlines()) == 1


def test_what_is_no_run_or_damaged_is_told(trained, tmp_path, capsys):
    assert sample(tmp_path) == 1
    assert "is no run folder: it has no config.json" in capsys.readouterr().err
    (tmp_path / "config.json").write_text("{}")
    assert sample(tmp_path) == 1
    assert "has no checkpoint yet" in capsys.readouterr().err
    (tmp_path / "checkpoints").mkdir()
    data = (trained[0] / "checkpoints" / "step_00000009.keras").read_bytes()
    checkpoint = tmp_path / "checkpoints" / "step_00000009.keras"
    for damaged in (data[: len(data) // 2], data.replace(b"PK", b"KP"), b""):
        checkpoint.write_bytes(damaged)
        assert sample(tmp_path, "--checkpoint=last") == 1
        error = capsys.readouterr().err
        assert f"The checkpoint {checkpoint} cannot be loaded" in error
        assert len(error.splitlines()) == 1
    assert sample(tmp_path) == 1
    assert "best.json" in capsys.readouterr().err
    shutil.copytree(trained[0], tmp_path / "run")
    (tmp_path / "run" / "config.json").write_text("[]")
    assert sample(tmp_path / "run") == 1
    assert "config.json is damaged: expected a JSON object" in capsys.readouterr().err


@pytest.mark.parametrize("bits", [12, 16])
def test_nearly_black_images_to_train_on_are_told(tmp_path, caplog, bits):
    random = np.random.default_rng(0)
    (tmp_path / "set").mkdir()
    for index in range(4):
        image = random.integers(0, 2**bits, (32, 32), dtype=np.uint16)
        Image.fromarray(image).save(tmp_path / "set" / f"{index}.png")
    preset = presets.get("digits_dcgan_ttur").override(
        dataset="folder", extractor="pixels", num_samples=10
    )
    data = datasets.load("folder", data_dir=tmp_path / "set", image_size=32)
    Images(preset).measurement(data, RunFolder(tmp_path / "run"))
    assert ("that they are nearly black" in caplog.text) == (bits == 12)


@pytest.fixture(scope="module")
def conditional(tmp_path_factory):
    """A run on the digits with their labels."""
    folder = RunFolder(tmp_path_factory.mktemp("labels") / "run")
    preset = presets.get("digits_dcgan_ttur").override(
        width=2, latent_dimension=3, steps=2, every=1, batch_size=8, num_samples=20,
        sample_batch=10, extractor="pixels", num_classes=10,
    )  # fmt: skip
    experiment.run(preset, folder)
    return folder


def test_a_run_with_labels_is_trained_measured_and_opened(conditional):
    assert conditional.read_config()["num_classes"] == 10
    assert conditional.preset()[0].num_classes == 10
    gan = Images.open(conditional, "last")
    assert (gan.num_classes, gan.steps) == (10, 2)
    # Ten classes, eight columns.
    picture = np.asarray(Image.open(conditional.samples / "step_00000002.png"))
    assert picture.shape == (10 * 34 + 2, 8 * 34 + 2)


def test_samples_of_a_run_with_labels_are_of_the_classes_asked_for(
    conditional, tmp_path, capsys
):
    gan = Images.open(conditional, "last")
    latents = np.asarray(gan.latent(6, seed=3))

    def images(labels):
        made = gan([latents, np.array(labels, "int32")]).numpy()
        return sampling.to_bytes(made)

    flags = ["--checkpoint=last", "--seed=3", "--labels=4,0"]
    assert (
        sample(conditional.path, *flags, "--grid=3x2", f"--output={tmp_path}/x.png")
        == 0
    )
    drawn = np.asarray(Image.open(tmp_path / "x.png")).astype(int)
    expected = sampling.image_grid(images([4, 4, 0, 0, 4, 4]), 2)[..., 0]
    assert np.abs(drawn - expected).max() <= 1
    folder = tmp_path / "x"
    assert (
        sample(conditional.path, *flags, "--num_samples=6", f"--output={folder}") == 0
    )
    found = read(folder)[..., :1].astype(int)
    assert np.abs(found - images([4, 0, 4, 0, 4, 0])).max() <= 1
    # By itself a grid has a row for each class.
    capsys.readouterr()
    assert sample(conditional.path, f"--output={tmp_path}/y.png") == 0
    assert capsys.readouterr().out.startswith("80 images of 32x32x1")
    walk = ["--interpolate", "--labels=7", "--grid=2x3"]
    assert sample(conditional.path, *walk, f"--output={tmp_path}/z.png") == 0
    assert Image.open(tmp_path / "z.png").size == (3 * 34 + 2, 2 * 34 + 2)


def test_labels_that_cannot_be_are_one_line(conditional, trained, capsys):
    for workdir, flag, message in (
        (conditional.path, "--labels=10", "--labels=10: expected classes in 0..9"),
        (conditional.path, "--labels=1,x", "--labels=1,x: expected classes"),
        (conditional.path, "--labels=", "--labels=: expected classes"),
        (trained[0], "--labels=1", "is a run without labels"),
    ):
        assert sample(workdir, flag) == 1
        assert message in capsys.readouterr().err


def test_another_number_of_classes_than_the_data_s_is_refused(tmp_path):
    preset = presets.get("digits_dcgan_ttur").override(num_classes=9)
    with pytest.raises(InputError, match=r"digits has 10 classes; num_classes is 9"):
        tasks.of(preset).load()
