"""Runs of students of Stable Diffusion 3, small and random, on captioned images."""

import dataclasses
import functools
import io
import json
import logging
import shutil
import types
import zipfile

import h5py
import numpy as np
import pytest
import tensorflow as tf
from captioned_folders import TEXTS, write_captioned
from PIL import Image
from small_runs import cut_before_the_end

from fid.extractors.extractor import weights_sha256
from fid.files import InputError
from tf_ttur import experiment, presets, tasks
from tf_ttur.distillation import sd3
from tf_ttur.networks import dense_encoder
from tf_ttur.runs import RunFolder
from tf_ttur.studies.kill_drill import differences
from tf_ttur.tasks.text_to_image import TextToImageTask

pytest.importorskip("keras_hub", reason="the extra [hub] is not installed")

NAME = "sd3_medium_flash_dmd"
SIDE, RANK = 32, 3
SMALL = {
    "backbone": "small", "dtype": "float32", "image_size": SIDE, "rank": RANK,
    "encoder": "dense", "width": 4, "heads_options": {"groups": 2}, "anchors": 2,
    "ratio": 1, "extractor": "pixels", "steps": 4, "every": 2, "batch_size": 2,
    "num_samples": 4, "sample_batch": 4, "student_lr": 1e-2, "jit_compile": False,
}  # fmt: skip


def preset(**changes):
    return presets.get(NAME).override(**SMALL | changes)


@pytest.fixture(scope="module", autouse=True)
def quick():
    """An encoder that hardly learns, and one small backbone for all tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dense_encoder, "_STEPS", 2)
        patch.setattr(dense_encoder, "_VERSION", "test")
        small = functools.partial(sd3.small, layers=1)
        patch.setattr(sd3, "small", functools.cache(small))
        yield


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return write_captioned(tmp_path_factory.mktemp("images") / "set")


# To trace a step takes a minute, so what needs this run is slow.
@pytest.fixture(scope="module")
def whole(images, tmp_path_factory):
    folder = RunFolder(tmp_path_factory.mktemp("run") / "whole")
    experiment.run(preset(), folder, data_dir=str(images))
    return folder


@pytest.fixture(scope="module")
def opened(whole):
    return tasks.of_run(whole).open(whole, "last")


def backbone():
    return sd3.small(SIDE, dtype="float32")[0]


@pytest.mark.slow
def test_a_run_names_its_backbone_and_texts_and_trains_adapters_alone(whole, opened):
    config = whole.read_config()
    # The backbone that was trained on is still as it was made.
    assert config["teacher_sha256"] == weights_sha256(backbone().diffuser)
    assert config["image_shape"] == [SIDE, SIDE, 3]
    assert json.loads(whole.texts.read_text()) == list(TEXTS)
    rows = whole.rows()
    assert [row["step"] for row in rows] == [0, 2, 4]
    assert all(np.isfinite(row["frechet_pixels_8x8"]) for row in rows)

    model = opened
    assert (model.steps, model.num_classes) == (4, len(TEXTS))
    for network in (model.student, model.fake_score):
        # B is 0 at the start.
        assert all(np.any(w) for w in network.get_weights()[1::2])
    sizes = []
    with (
        zipfile.ZipFile(whole.checkpoint("last")) as archive,
        h5py.File(io.BytesIO(archive.read("model.weights.h5"))) as file,
    ):
        file.visititems(lambda _, each: sizes.append(getattr(each, "size", 0)))
    adapter, heads = (x.count_params() for x in (model.student, model.discriminator))
    # Three networks' weights and moments; SHA-256 of what is frozen, and counters.
    assert sum(sizes) == 3 * (2 * adapter + heads) + 3 * 32 + 2 + 1 + 3 * 2


@pytest.mark.slow
def test_a_run_in_two_stages_has_one_adapter_more_and_resumes(images, tmp_path):
    changes = {"steps": 4, "rl_from": 2, "rl_ratio": 2, "rl_anchors": 1}
    changed = preset(reward="discriminator", **changes)
    folder = RunFolder(tmp_path / "whole")
    experiment.run(changed, folder, data_dir=str(images))
    rows = folder.rows()
    assert ["preference_loss" in row for row in rows] == [False, False, True]
    assert np.isfinite(rows[-1]["preference_loss"])
    model = tasks.of_run(folder).open(folder, "last")
    assert (model.steps, model.stage) == (4, 2)
    adapters = [x.get_weights() for x in (model.student, model.reference)]
    assert [w.shape for w in adapters[0]] == [w.shape for w in adapters[1]]
    assert all(np.any(a != b) for a, b in zip(*adapters, strict=True))
    cut = cut_before_the_end(folder, tmp_path / "cut")
    experiment.run(changed, cut, data_dir=str(images))
    assert differences(folder.path, cut.path) == []


def test_there_is_no_latent_reward_yet(images):
    task = TextToImageTask(presets.get(f"{NAME}_rl"), data_dir=str(images))
    with pytest.raises(InputError, match="Give --set=reward=discriminator"):
        task.reward_network()


def test_training_sees_latents_and_the_numbers_of_texts(images):
    task = TextToImageTask(preset(), data_dir=str(images))
    data = task.load()
    latents, numbers = next(iter(task.batches(data)))
    pixels = np.concatenate([*data.images()]).astype("float32") / 127.5 - 1
    moments = np.asarray(backbone().vae.encoder(pixels[numbers.numpy()]))
    expected = (moments[..., :16] - backbone().vae.shift) * backbone().vae.scale
    np.testing.assert_allclose(latents, expected, rtol=2**-10, atol=2e-3)


@pytest.mark.slow
def test_a_resumed_run_equals_the_whole_one(whole, images, tmp_path):
    cut = cut_before_the_end(whole, tmp_path / "cut")
    moved = tmp_path / "moved"
    shutil.copytree(images, moved)
    experiment.run(preset(), cut, data_dir=str(moved))
    config = (cut.path / "config.json").read_text()
    (cut.path / "config.json").write_text(config.replace(str(moved), str(images)))
    assert differences(whole.path, cut.path) == []


@pytest.mark.slow
def test_another_backbone_or_other_texts_are_refused_on_resume(
    whole, images, tmp_path, monkeypatch
):
    cut = cut_before_the_end(whole, tmp_path / "cut")
    others = write_captioned(tmp_path / "others", (*TEXTS[1:], "another"))
    with pytest.raises(InputError, match="text_sha256 is"):
        experiment.run(preset(), cut, data_dir=str(others))
    other = sd3.small(SIDE, dtype="float32", seed=1)
    monkeypatch.setattr(sd3, "small", lambda *_, **__: other)
    with pytest.raises(InputError, match="another configuration: .*teacher_sha256 is"):
        experiment.run(preset(), cut, data_dir=str(images))
    # Nor can the run's adapters be sampled from on it.
    with pytest.raises(
        InputError,
        match="'decoder' is another .* Bring back small, .* --set=backbone=FOLDER",
    ):
        TextToImageTask.open(cut, "last")


def test_text_encoders_and_images_are_named_in_the_configuration(
    images, tmp_path, monkeypatch
):
    # Neither embeddings nor latents are made, nor is an encoder trained.
    monkeypatch.setattr(TextToImageTask, "encoder", lambda _: None)
    monkeypatch.setattr(
        sd3, "cached", lambda _, name, made: types.SimpleNamespace(fingerprint=name)
    )
    monkeypatch.setattr(
        sd3, "_mean_latents", lambda _, x: tf.zeros((tf.shape(x)[0], 4, 4, 16), "half")
    )
    monkeypatch.setenv("TTUR_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "images"
    shutil.copytree(images, folder)

    def config():
        task = TextToImageTask(preset(), data_dir=str(folder))
        return task.config(task.load())

    before = config()
    weight = backbone().clip_g_projection.weights[0]
    values = weight.numpy()
    weight.assign(values + 1)
    changed = config()
    weight.assign(values)
    assert {k for k in before if before[k] != changed[k]} == {"embeddings_sha256"}
    pixels = np.asarray(Image.open(folder / "3.png")).copy()
    pixels[0, 0] ^= 1
    Image.fromarray(pixels).save(folder / "3.png")
    assert config()["latents_sha256"] != before["latents_sha256"]


def test_a_backbone_that_was_moved_can_be_named_by_a_resume(images, tmp_path):
    changed = preset(backbone=str(tmp_path / "gone"))
    folder = RunFolder(tmp_path / "run")
    settings = dataclasses.asdict(changed) | {"data_dir": str(images)}
    folder.path.mkdir()
    folder.config.write_text(json.dumps(settings))
    folder.texts.write_text(json.dumps(TEXTS))
    path = tmp_path / "step_4.keras"
    with zipfile.ZipFile(path, "w"):
        pass
    with pytest.raises(InputError, match=r"gone: .* train.py --set=backbone=FOLDER"):
        TextToImageTask.open(folder, path)


@pytest.mark.slow
def test_texts_are_chosen_by_their_numbers(opened, whole, tmp_path, monkeypatch):
    monkeypatch.setattr(TextToImageTask, "open", lambda *_: opened)

    def sampled(name, **asked):
        request = tasks.SampleRequest(
            checkpoint="last", output=str(tmp_path / name), grid="2x3",
            **{"labels": ["4", "1"]} | asked, given=frozenset(["grid", *asked]),
        )  # fmt: skip
        said = TextToImageTask.write_samples(whole, request)
        assert said.startswith(f"6 images of {SIDE}x{SIDE}x3 from step 4")
        return (tmp_path / name).read_bytes()

    one = sampled("a.png")
    assert one == sampled("b.png", steps=2)
    assert one != sampled("c.png", labels=["4", "2"])
    with pytest.raises(InputError, match=r"expected classes in 0\.\.5"):
        sampled("d.png", labels=["6"])
    with pytest.raises(InputError, match="guidance is 2"):
        sampled("e.png", guidance=2.0)


@pytest.mark.slow
def test_the_texts_of_a_run_are_looked_at(whole, tmp_path):
    cut = cut_before_the_end(whole, tmp_path / "cut")
    cut.texts.write_text("[1, 2]")
    with pytest.raises(InputError, match=r"texts\.json"):
        TextToImageTask.open(cut, "last")


@pytest.mark.parametrize("fault", ["missing", "empty"])
def test_bad_texts_are_refused_before_anything_is_loaded(fault, images, tmp_path):
    bad = tmp_path / "bad"
    shutil.copytree(images, bad)
    if fault == "missing":
        (bad / "3.txt").unlink()
    else:
        (bad / "3.txt").write_text(" ")
    with pytest.raises(InputError, match=r"1 of 6 images: .*3\.txt \("):
        experiment.run(preset(backbone="nix"), tmp_path / "run", data_dir=str(bad))
    assert not (tmp_path / "run" / "config.json").exists()
    with pytest.raises(InputError, match="captioned_folder needs --data_dir"):
        experiment.run(preset(), tmp_path / "run")


def test_without_weights_one_line_says_what_to_accept(images, tmp_path):
    changed = preset(backbone=str(tmp_path / "nix"))
    with pytest.raises(InputError, match=r"no such folder.* licence: accept it at"):
        experiment.run(changed, tmp_path / "run", data_dir=str(images))
    assert not (tmp_path / "run" / "config.json").exists()


def test_what_it_takes_is_said_before_there_are_weights(
    images, tmp_path, monkeypatch, caplog
):
    def load(*_, **__):
        raise InputError("no weights")

    monkeypatch.setattr(sd3, "load", load)
    changed = preset(backbone="stable_diffusion_3_medium", dtype="bfloat16")
    with caplog.at_level(logging.INFO), pytest.raises(InputError, match="no weights"):
        experiment.run(changed, tmp_path / "run", data_dir=str(images))
    assert "2.08e+09 parameters, 4.2 GB;" in caplog.text
    # What is said of the preset is what is counted.
    said = TextToImageTask(presets.get(NAME)).cost()
    assert "The hard split keeps two passes at a time, so twice that memory." in said
    soft = presets.get(NAME).override(noise_split="soft")
    assert "twice" not in TextToImageTask(soft).cost()
    told = presets.describe(NAME)
    assert "at least 212 GB for gradients; a step is 1.2e+15 operations" in said
    for figure in ("2.08e9 parameters, 4.2 GB", "1.2e15 operations", "need 212 GB"):
        assert figure in told


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_size": 40}, "image_size is 40; .* multiple of 16"),
        ({"num_classes": 3}, "num_classes is 3; each text is a label"),
        ({"split": "train"}, "split is 'train'; a folder is one set"),
        ({"dataset": "folder"}, "dataset is 'folder'; choose from captioned_folder"),
        ({"dtype": "float16"}, "choose from float32, bfloat16"),
        ({"encoder": "none"}, "encoder is 'none'; choose from dense, sam:PRESET"),
        ({"adversarial": 0.0}, "Give --set=adversarial=0.1"),
        ({"feature_layer": "x"}, "feature_layer is 'x', a setting of distillation"),
    ],
)
def test_settings_that_cannot_be_are_refused(changes, message):
    with pytest.raises(InputError, match=message):
        preset(**changes)


def test_it_has_no_other_teacher(images):
    with pytest.raises(InputError, match=f"{NAME} distils nothing"):
        tasks.of(preset(), teacher=str(images))
