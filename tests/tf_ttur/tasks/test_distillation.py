"""Runs of distillation: which teachers they take, resumed, and sampled as asked."""

import re
import shutil
import types

import keras
import numpy as np
import plain_denoisers
import pytest
from small_runs import cut_before_the_end

from fid.extractors.extractor import weights_sha256
from fid.files import InputError
from tf_ttur import callbacks, experiment, presets, tasks, termination
from tf_ttur.distillation import rewards
from tf_ttur.distillation.joint import JointFlashDMD
from tf_ttur.networks import dense_encoder, unet
from tf_ttur.runs import RunFolder
from tf_ttur.studies.kill_drill import differences
from tf_ttur.tasks.distillation import DistillationTask, open_teacher

SMALL = {
    "extractor": "pixels", "image_size": 8, "steps": 4, "every": 2, "batch_size": 4,
    "num_samples": 20, "sample_batch": 10, "jit_compile": False,
}  # fmt: skip


u_net = unet.denoiser


def preset(name="digits_flash_dmd", **changes):
    return presets.get(name).override(**SMALL | {"width": 8} | changes)


def diffusion(**changes):
    network = {"multipliers": [1], "blocks": 1, "attention": []}
    changes = {"width": 4, "sampling_steps": 2, "network_options": network} | changes
    return presets.get("digits_edm_teacher").override(**SMALL | changes)


@pytest.fixture(scope="module", autouse=True)
def quick_networks():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(unet, "denoiser", plain_denoisers.denoiser)
        patch.setattr(dense_encoder, "_STEPS", 20)
        patch.setattr(dense_encoder, "_VERSION", "test")
        yield


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """A run of diffusion."""
    folder = RunFolder(tmp_path_factory.mktemp("teacher") / "run")
    experiment.run(diffusion(), folder)
    return folder.path


@pytest.fixture(scope="module")
def whole(teacher, tmp_path_factory):
    folder = RunFolder(tmp_path_factory.mktemp("student") / "whole")
    experiment.run(preset(), folder, teacher=teacher)
    return folder


def test_a_run_names_its_teacher_and_encoder_and_holds_neither(whole, teacher):
    config = whole.read_config()
    found = open_teacher(teacher)
    assert config["teacher_sha256"] == found.fingerprint
    assert config["teacher"] == str(teacher)
    assert re.fullmatch("[0-9a-f]{64}", config["encoder_sha256"])
    model = tasks.of_run(whole).open(whole, "last")
    assert model.steps == 4
    assert set(model.networks) == {"student", "fake_score", "discriminator"}
    assert not model.frozen
    # The teacher's own average makes its images.
    best = keras.models.load_model(found.path, compile=False)
    for a, b in zip(found.network.weights, best.averaged_network.weights, strict=True):
        np.testing.assert_array_equal(a, b)


def test_student_and_fake_score_begin_as_the_teacher(teacher):
    task = DistillationTask(preset(), teacher=teacher)
    model = task.build((8, 8, 1))
    for network in (model.student, model.fake_score):
        for a, b in zip(
            network.get_weights(), model.frozen["teacher"].get_weights(), strict=True
        ):
            np.testing.assert_array_equal(a, b)
        assert network.trainable_variables
    assert not model.frozen["teacher"].trainable_variables


@pytest.mark.slow
def test_a_resumed_run_equals_the_whole_one(whole, teacher, tmp_path):
    cut = cut_before_the_end(whole, tmp_path / "cut")
    moved = tmp_path / "moved"
    shutil.copytree(teacher, moved)
    experiment.run(preset(), cut, teacher=moved)
    assert cut.read_config()["teacher"] == str(moved)
    # The teacher may be moved, and that is all that differs.
    config = (cut.path / "config.json").read_text()
    (cut.path / "config.json").write_text(config.replace(str(moved), str(teacher)))
    assert differences(whole.path, cut.path) == []


@pytest.mark.slow
def test_a_student_of_a_u_net_is_trained(tmp_path, monkeypatch):
    monkeypatch.setattr(unet, "denoiser", u_net)
    experiment.run(diffusion(steps=2), tmp_path / "teacher")
    changes = {"encoder": "none", "adversarial": 1e-3, "ratio": 2, "steps": 2}
    student = RunFolder(tmp_path / "student")
    experiment.run(
        preset("digits_dmd2", **changes), student, teacher=tmp_path / "teacher"
    )
    assert [row["step"] for row in student.rows()] == [0, 2]
    assert student.read_config()["feature_layer"] is None
    model = tasks.of_run(student).open(student, "last")
    assert any(x.name == "dec_8_block_1" for x in model.student.layers)


@pytest.mark.slow
def test_a_second_stage_learns_from_a_reward_that_learnt_from_an_oracle(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(unet, "denoiser", u_net)
    experiment.run(diffusion(steps=2), tmp_path / "teacher")
    folder = RunFolder(tmp_path / "student")
    changes = {"reward_pairs": 40, "reward_steps": 3, "ratio": 1}
    settings = in_two_stages(steps=4, **changes)
    experiment.run(settings, folder, teacher=tmp_path / "teacher")
    assert all(np.isfinite(folder.rows()[-1][name]) for name in ("reward", "judge"))
    assert re.fullmatch("[0-9a-f]{64}", folder.read_config()["reward_sha256"])
    assert "ranks held-out pairs right: " in folder.log.read_text()


def said(folder):
    """All that a run folder holds, but for the log, which goes on."""
    files = [x for x in folder.path.rglob("*.*") if x != folder.log]
    return {path: path.read_bytes() for path in files}


def test_another_teacher_or_encoder_is_refused_on_resume(whole, tmp_path, monkeypatch):
    cut = cut_before_the_end(whole, tmp_path / "cut")
    before = said(cut)
    other = RunFolder(tmp_path / "other")
    experiment.run(diffusion(seed=1, steps=1), other)
    with pytest.raises(InputError, match="teacher_sha256"):
        experiment.run(preset(), cut, teacher=other.path)
    monkeypatch.setattr(dense_encoder, "_VERSION", "other")
    monkeypatch.setattr(dense_encoder, "_STEPS", 1)
    with pytest.raises(InputError, match="encoder_sha256"):
        experiment.run(preset(), cut, teacher=whole.read_config()["teacher"])
    assert said(cut) == before


def test_a_checkpoint_of_the_teacher_can_be_chosen(teacher):
    path = teacher / "checkpoints" / "step_00000004.keras"
    assert open_teacher(path).path == path


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("nothing", "is no run folder"),
        ("nothing.keras", "There is no teacher"),
        ("student", "is a run on distillation"),
        ("other.keras", "holds a Sequential; a teacher is a Diffusion"),
        ("damaged.keras", "cannot be loaded .* Give another --teacher."),
    ],
)
def test_what_is_no_teacher_is_refused(wrong, message, whole, tmp_path):
    path = tmp_path / wrong
    if wrong == "student":
        path = whole.path
    if wrong == "other.keras":
        keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)]).save(path)
    if wrong == "damaged.keras":
        path.write_bytes(b"PK\3\4")
    with pytest.raises(InputError, match=message):
        experiment.run(preset(), tmp_path / "run", teacher=path)
    assert not (tmp_path / "run" / "config.json").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_classes": None}, "trained with num_classes=10, and digits_flash_dmd"),
        ({"num_classes": 4}, "has 10 classes; num_classes is 4"),
        (
            {"image_size": 16},
            r"makes images of \(8, 8, 1\), the data are \(16, 16, 1\)",
        ),
        ({"loss": "relativistic"}, "compares pairs of images"),
        ({"heads_options": {"groups": 3}}, "width is 8 and groups is 3"),
        ({"heads_options": {"depth": 3}}, "cannot be built with these settings.*depth"),
        (
            {"encoder": "none", "feature_layer": "nix", "noise_split": "none"},
            "feature_layer is 'nix'; the teacher has the layers .*, dec_8_in_2, ",
        ),
    ],
)
def test_settings_that_do_not_go_with_the_teacher_are_refused(
    changes, message, teacher, tmp_path
):
    changed = presets.preset.from_settings(preset().settings() | changes)
    with pytest.raises(InputError, match=message):
        experiment.run(changed, tmp_path / "run", teacher=teacher)
    assert not (tmp_path / "run" / "config.json").exists()


def test_sams_encoder_can_be_the_discriminators(teacher, tmp_path):
    keras_hub = pytest.importorskip("keras_hub", reason="the extra [hub]")
    keras_hub.models.ViTDetBackbone(
        image_shape=(16, 16, 3), patch_size=4, hidden_size=8, num_layers=4,
        global_attention_layer_indices=[1, 3], intermediate_dim=16, num_heads=2,
        window_size=3, num_output_channels=8,
    ).save_to_preset(tmp_path / "sam")  # fmt: skip
    task = DistillationTask(preset(encoder=f"sam:{tmp_path / 'sam'}"), teacher=teacher)
    model = task.build((8, 8, 1))
    assert [x.shape for x in model.logits(np.zeros((3, 8, 8, 1), "float32"), None)] == [
        (3, 1)
    ] * 4
    assert f"on sam:{tmp_path}" in task.describe(task.load(), None)


def test_a_teacher_that_was_always_told_the_label_cannot_guide(tmp_path):
    folder = RunFolder(tmp_path / "teacher")
    experiment.run(diffusion(label_dropout=0.0, steps=1), folder)
    with pytest.raises(InputError, match="never learnt to do without a label"):
        experiment.run(preset(guidance=2.0), tmp_path / "run", teacher=folder.path)


def test_a_teacher_is_needed_and_refused_where_nothing_is_distilled(tmp_path, teacher):
    with pytest.raises(InputError, match="none was given: --teacher=RUN"):
        experiment.run(preset(), tmp_path / "run")
    with pytest.raises(InputError, match="digits_dcgan_ttur distils nothing"):
        tasks.of(presets.get("digits_dcgan_ttur"), teacher=teacher)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"renoise_from": 0.98}, "renoise_from is 0.98 and renoise_to is 0.98"),
        ({"feature_layer": "x"}, "the discriminator looks at one of them"),
        ({"anchors": 1}, "needs two anchors"),
        ({"adversarial": 0.0}, "no discriminator, and encoder is 'dense'"),
        ({"adversarial": 0.0, "encoder": "none"}, "needs two anchors and a weight"),
        ({"noise_split": "harder"}, "choose from none, hard, soft"),
        ({"encoder": "sam"}, "encoder is 'sam'; choose from dense, sam:PRESET, none"),
        ({"encoder": "dense:2"}, "encoder is 'dense:2'"),
        ({"pulling": 1.5}, r"pulling is 1.5; it must be in 0\.\.1"),
    ],
)
def test_settings_that_cannot_be_are_refused(changes, message):
    with pytest.raises(InputError, match=message):
        preset(**changes)


def test_fewer_steps_can_be_asked_for_and_guidance_cannot(whole, tmp_path):
    def sampled(name, **asked):
        request = tasks.SampleRequest(
            checkpoint="last", output=str(tmp_path / name), grid="2x3",
            labels=["1", "4"], given=frozenset(["grid", *asked]), **asked,
        )  # fmt: skip
        DistillationTask.write_samples(whole, request)
        return (tmp_path / name).read_bytes()

    assert sampled("a.png") == sampled("b.png", steps=4)
    assert sampled("a.png") != sampled("c.png", steps=2)
    with pytest.raises(InputError, match="guidance is 2"):
        sampled("d.png", guidance=2.0)


# ---- the second stage

BEGINS = 2


def in_two_stages(**changes):
    changes = {"steps": 6, "rl_from": BEGINS, "rl_ratio": 2, "ratio": 1} | changes
    return preset("digits_flash_dmd_rl", **changes)


@pytest.fixture
def asked(monkeypatch):
    """A reward that was never trained, in the place of one that was; what it got."""
    got = {}

    def trained(*, teacher, **given):
        got.update(given)
        x = keras.layers.Flatten()(teacher.inputs[0])
        told = keras.layers.Reshape((1,))(teacher.inputs[1])
        score = keras.layers.Dense(1)(keras.layers.Concatenate()([x, 0 * told]))
        network = keras.Model(teacher.inputs, score)
        random = np.random.default_rng(0)
        network.set_weights([random.normal(size=w.shape) for w in network.weights])
        return types.SimpleNamespace(network=network, accuracy={"all": 0.75})

    monkeypatch.setattr(rewards, "trained", trained)
    return got


def test_a_second_stage_begins_where_the_settings_say(teacher, asked):
    task = DistillationTask(in_two_stages(), teacher=teacher)
    model = task.build((8, 8, 1))
    assert isinstance(model, JointFlashDMD)
    found = open_teacher(teacher)
    assert asked["fingerprint"] == found.fingerprint
    assert asked["parametrisation"] == found.parametrisation
    told = {"num_classes": 10, "oracle": "digits", "shape": (8, 8, 1), "seed": 0}
    told |= {"pairs": 4000, "steps": 1000}
    assert told.items() <= asked.items()
    data = task.load()
    sizes = [next(iter(task.batches(data, i)))[0].shape[0] for i in (0, 1, 2, 5)]
    assert sizes == [4, 4, 8, 8]
    sha256 = weights_sha256(model.frozen["reward"])
    assert task.config(data)["reward_sha256"] == sha256
    assert task.turns == (BEGINS,)
    assert "from step 2 preferences by the latent reward" in task.describe(data, None)
    assert model.student_preference_optimizer.global_clipnorm == 1.0
    for step in (0, 1):
        task.enter(model, step)
        assert model.stage == 1
    task.enter(model, BEGINS)
    assert model.stage == 2
    for step in (BEGINS, 4):
        task.enter(model, step)


def test_rates_follow_the_steps_in_both_stages(teacher, asked):
    settings = in_two_stages(rl_ratio=3, ratio=2, schedule="linear:6")
    model = DistillationTask(settings, teacher=teacher).build((8, 8, 1))
    # Two updates in each of two steps, then three; a sixth less after each step.
    steps = [0, 0, 1, 1, 2, 2, 2, 3, 3, 3]
    rate = model.fake_score_optimizer._learning_rate
    found = [float(rate(update)) for update in range(len(steps))]
    np.testing.assert_allclose(found, [1e-4 * (1 - x / 6) for x in steps], rtol=1e-6)


def test_a_checkpoint_of_the_wrong_stage_is_refused(teacher, asked):
    task = DistillationTask(in_two_stages(), teacher=teacher)
    model = task.build((8, 8, 1))
    with pytest.raises(InputError, match="of step 4 is of stage 1, and with rl_from=2"):
        task.enter(model, 4)
    task.enter(model, BEGINS)
    with pytest.raises(InputError, match="of step 0 is of stage 2"):
        task.enter(model, 0)


def test_a_run_without_a_second_stage_says_nothing_of_a_reward(teacher):
    task = DistillationTask(preset(), teacher=teacher)
    assert "reward_sha256" not in task.config(task.load())
    assert type(task.build((8, 8, 1))) is task.model()
    assert task.turns == ()
    changed = in_two_stages(reward="discriminator")
    task = DistillationTask(changed, teacher=teacher)
    assert task.config(task.load())["reward_sha256"] is None
    assert task.build((8, 8, 1)).reward == "discriminator"


@pytest.fixture(scope="module")
def whole_of_both(teacher, tmp_path_factory):
    folder = RunFolder(tmp_path_factory.mktemp("joint") / "whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DistillationTask, "reward_network", lambda self: None)
        experiment.run(in_two_stages(reward="discriminator"), folder, teacher=teacher)
    return folder


@pytest.mark.slow
def test_rows_have_what_their_stage_logs(whole_of_both):
    rows = whole_of_both.rows()
    assert [row["step"] for row in rows] == [0, 2, 4, 6]
    logged = ["preference_loss" in row for row in rows]
    assert logged == [False, False, True, True]
    assert all(np.isfinite(row["dm_loss"]) for row in rows[1:])
    # What is watched beside the reward, from the start on.
    watched = ("oracle", "oracle_standard_error", "judge", "diversity")
    assert all(np.isfinite(row[name]) for name in watched for row in rows)
    model = tasks.of_run(whole_of_both).open(whole_of_both, "last")
    assert (model.steps, model.stage) == (6, 2)


# A step is stopped before it is saved: the last checkpoint is before the boundary, at
# it, and after it.
@pytest.mark.slow
@pytest.mark.parametrize(("stopped", "saved"), [(2, 0), (3, BEGINS), (5, 4)])
def test_a_run_that_is_stopped_anywhere_equals_the_whole_one(
    stopped, saved, whole_of_both, teacher, tmp_path, monkeypatch
):
    cut = RunFolder(tmp_path / "cut")

    def stop(guard, before, now, logs):
        if now == stopped:
            raise termination.Terminated

    changed = in_two_stages(reward="discriminator")
    with monkeypatch.context() as patch:
        patch.setattr(callbacks.NaNGuard, "on_steps", stop)
        with pytest.raises(termination.Terminated):
            experiment.run(changed, cut, teacher=teacher)
    assert cut.rows()[-1]["step"] == saved
    experiment.run(changed, cut, teacher=teacher)
    assert differences(whole_of_both.path, cut.path) == []


@pytest.mark.slow
def test_another_reward_is_refused_on_resume(teacher, asked, tmp_path, monkeypatch):
    folder = RunFolder(tmp_path / "run")
    experiment.run(in_two_stages(steps=3), folder, teacher=teacher)
    trained = rewards.trained

    def other(**given):
        found = trained(**given)
        found.network.set_weights([2 * w for w in found.network.get_weights()])
        return found

    monkeypatch.setattr(rewards, "trained", other)
    with pytest.raises(InputError, match="reward_sha256"):
        experiment.run(in_two_stages(steps=3), folder, teacher=teacher)


def test_a_run_of_one_stage_does_not_become_one_of_two(whole, teacher, asked):
    before = said(whole)
    with pytest.raises(InputError, match="another configuration: .*rl_from"):
        experiment.run(preset(rl_from=BEGINS), whole, teacher=teacher)
    assert said(whole) == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rl_from": 3}, "rl_from is 3 and every is 2; .* --rl_from=2"),
        ({"rl_from": 6}, "rl_from is 6 and steps is 6; the second stage has to begin"),
        ({"rl_from": 0}, "rl_from is 0; it must be >= 1"),
        ({"rl_anchors": 4}, "rl_anchors is 4 and anchors is 4"),
        ({"anchors": 2}, "Give --set=rl_anchors=1 at most"),
        ({"candidates": 1}, "candidates is 1; it must be >= 2"),
        ({"ratio_clip": 1.0}, "ratio_clip is 1"),
        ({"gate": 1.0}, "gate is 1"),
        ({"beta": 0.0}, "beta is 0"),
        ({"rl_adversarial": -1.0}, "rl_adversarial is -1"),
        ({"reward": "best"}, "choose from latent, discriminator"),
        (
            {
                "reward": "discriminator",
                "adversarial": 0.0,
                "noise_split": "none",
                "encoder": "none",
            },
            "reward is 'discriminator' and adversarial is 0",
        ),
    ],
)
def test_settings_of_a_second_stage_that_cannot_be_are_refused(changes, message):
    with pytest.raises(InputError, match=message):
        in_two_stages(**changes)


def test_settings_of_a_second_stage_that_there_is_none_of_are_let_through():
    assert preset(anchors=2, rl_anchors=3, schedule="cosine:4").rl_from is None
