"""`FlashDMD`: what each update may touch, and where it must end on Gaussians."""

import os
import pathlib
import subprocess
import sys
import types

import gaussian_networks as gaussian
import keras
import numpy as np
import pytest
import tensorflow as tf
from small_students import (
    LAYER,
    SIDE,
    bottleneck_heads,
    denoiser,
    encoder_and_heads,
    moved,
    real,
    seeded,
    weights,
)

from tf_ttur import replicas
from tf_ttur.distillation.flash_dmd import FlashDMD, dmd2, flash_dmd
from tf_ttur.players import pull


def made(arm="flash", num_classes=None, teacher=None, jit=False, **changes):
    """A model whose four networks differ, so that nothing is equal by chance."""
    settings = {"flash": flash_dmd, "dmd2": dmd2}[arm](**changes)
    parts = {"anchors": 3, "num_classes": num_classes}
    if arm == "flash":
        parts["encoder"], heads = encoder_and_heads()
    else:
        heads, parts["feature_layer"] = bottleneck_heads(num_classes), LAYER
    teacher = teacher or denoiser(2, num_classes)
    model = FlashDMD(
        denoiser(0, num_classes), denoiser(1, num_classes), heads, teacher,
        parametrisation="flow", **parts,
    )  # fmt: skip
    model.compile(
        student_optimizer=keras.optimizers.SGD(0.1),
        fake_score_optimizer=keras.optimizers.SGD(0.1),
        discriminator_optimizer=keras.optimizers.SGD(0.1),
        jit_compile=jit,
        **settings,
    )
    return model


def begin(model, count=4):
    share = replicas.share(tf.constant(real(count)))
    drawn = model.draw(share)
    return share, drawn, model.rollout(drawn)


@pytest.mark.parametrize("arm", ["flash", "dmd2"])
def test_each_update_moves_its_own_networks_alone(arm):
    model = made(arm, pulling=1.0)
    share, drawn, rollout = begin(model)
    before = weights(model)
    model._update_student(drawn, rollout, share)
    assert moved(model, before) == {"student"}
    before = weights(model)
    images = tf.constant(real(4))
    judged = model.judged(drawn, rollout)
    model._update_critics(images, drawn, rollout, judged, share)
    assert moved(model, before) == {"fake_score", "discriminator"}


def test_the_pull_moves_the_fake_score_towards_the_new_student():
    model = made(pulling=0.75)
    share, drawn, rollout = begin(model)
    expected = denoiser(1)
    expected.set_weights(model.fake_score.get_weights())
    model._update_student(drawn, rollout, share)
    pull(expected, model.student, 0.25)
    for a, b in zip(expected.get_weights(), model.fake_score.weights, strict=True):
        np.testing.assert_array_equal(a, b)


def test_nothing_in_a_rollout_is_differentiable():
    for split in ("hard", "none"):
        model = made(split=split)
        with tf.GradientTape() as tape:
            _, drawn, rollout = begin(model)
            images = [x for x in rollout if x is not None]
            total = tf.add_n([tf.reduce_sum(x) for x in images])
            total += tf.reduce_sum(model.judged(drawn, rollout))
        assert not any(
            g is not None and np.any(g)
            for g in tape.gradient(total, model.student.trainable_variables)
        )


def test_a_rollout_is_the_students_own_way_to_the_anchor():
    """Against the sampler's steps, written out."""
    model = made()
    _, drawn, rollout = begin(model)
    form, times = model.parametrisation, model._times.numpy()
    x = drawn.noises[:, 0]
    for index, t in enumerate(times):
        here = tf.fill((4,), t)
        estimate = model._denoiser("student").clean(x, here)
        if index == int(drawn.index):
            np.testing.assert_array_equal(rollout.noisy, x)
            np.testing.assert_allclose(rollout.clean, estimate, rtol=0, atol=1e-5)
        if index < 2:
            x = form.corrupt(
                estimate, drawn.noises[:, index + 1], [times[index + 1]] * 4
            )
    low = form.corrupt(estimate, drawn.noises[:, 3], [times[2]] * 4)
    np.testing.assert_allclose(rollout.low, low, rtol=0, atol=1e-5)
    indices = {int(model.draw(replicas.share(real(4))).index) for _ in range(40)}
    assert indices == {0, 1}  # the lowest is the discriminator's
    model = made(split="none")
    indices = {int(model.draw(replicas.share(real(4))).index) for _ in range(40)}
    assert indices == {0, 1, 2}


def test_the_student_never_depends_on_real_images_but_by_the_discriminator():
    students = []
    for data in (real(seed=0), real(seed=1)):
        model = made(adversarial=0.0, split="none")
        model.fit(data, batch_size=4, shuffle=False, verbose=0)
        students.append(model.student.get_weights())
    for a, b in zip(*students, strict=True):
        np.testing.assert_array_equal(a, b)


def test_without_guidance_a_student_that_is_matched_stays():
    teacher = denoiser(2)
    model = made(teacher=teacher, adversarial=0.0, split="none")
    model.fake_score.set_weights(teacher.get_weights())
    share, drawn, rollout = begin(model)
    before = weights(model)
    model.pulling = 1.0
    model._update_student(drawn, rollout, share)
    assert moved(model, before) == set()


@pytest.mark.parametrize("arm", ["flash", "dmd2"])
@pytest.mark.parametrize("ratio", [1, 2])
def test_it_fits_with_labels_and_logs_every_loss(arm, ratio):
    model = made(arm, num_classes=3, ratio=ratio, guidance=2.0)
    labels = np.arange(8) % 3
    history = model.fit(
        real(),
        labels,
        batch_size=4,
        validation_data=(real(4, 1), labels[:4]),
        verbose=0,
    ).history
    names = {"dm_loss", "adv_loss", "fake_loss", "d_loss"}
    assert names | {f"val_{name}" for name in names} <= set(history)
    assert all(np.isfinite(x).all() for x in history.values())
    assert model.steps == 2
    assert model.generate(3, seed=0, labels=[0, 1, 2]).shape == (3, SIDE, SIDE, 1)


def fix_noise(model):
    """Draws the same numbers with XLA and without, however often a step is traced."""
    seeds, one_step = [], model.one_step

    def noise(draw, share):
        seeds.append(len(seeds))
        with tf.init_scope():
            return tf.constant(draw(4, seed=seeds[-1]).numpy())

    def step(data):
        seeds.clear()
        return one_step(data)

    model.noise, model.one_step = noise, step


def test_xla_computes_the_same():
    found = []
    for jit in (False, True):
        model = made(jit=jit)
        fix_noise(model)
        model.train_on_batch(real(4))
        found.append(model.student.get_weights())
    for a, b in zip(*found, strict=True):
        # One step of SGD: the gradients are sums in another order.
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5)


def test_further_updates_of_the_fake_score_are_those_of_a_loop_in_python():
    """Three updates: one beside the student's, and a compiled loop of two."""
    found = []
    for eagerly in (False, True):
        model = made("dmd2", ratio=3, num_classes=3)
        model.run_eagerly = eagerly
        model.fit(real(12), np.arange(12) % 3, batch_size=12, shuffle=False, verbose=0)
        found.append(weights(model))
        assert int(model.fake_score_optimizer.iterations) == 3
        assert int(model.student_optimizer.iterations) == 1
    for name, ours in found[0].items():
        for a, b in zip(ours, found[1][name], strict=True):
            # Steps of SGD of length 0.1 along gradients of order 1, whose sums have
            # another order.
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-5, err_msg=name)


def test_several_replicas_are_refused(monkeypatch):
    two = types.SimpleNamespace(num_replicas_in_sync=2)
    monkeypatch.setattr(tf.distribute, "get_strategy", lambda: two)
    with pytest.raises(ValueError, match="for 2 replicas, and it trains on one device"):
        made()


_STEPS = """
import test_flash_dmd as ours
model = ours.made({arm!r}, jit=True, ratio=2)
for _ in range(3):
    model.train_on_batch(ours.real(4))
"""


@pytest.mark.slow
@pytest.mark.parametrize("arm", ["flash", "dmd2"])
def test_xla_compiles_the_step_once(arm, tmp_path):
    """And not for every state of the random numbers, which it did."""
    environment = os.environ | {
        "XLA_FLAGS": f"--xla_dump_to={tmp_path} --xla_dump_hlo_as_text",
        "PYTHONPATH": os.pathsep.join([str(pathlib.Path(__file__).parent), *sys.path]),
    }
    program = _STEPS.format(arm=arm)
    subprocess.run([sys.executable, "-c", program], env=environment, check=True)
    compiled = [*tmp_path.glob("*one_step_on_data*.before_optimizations.txt")]
    assert len(compiled) == 1, [path.name for path in tmp_path.iterdir()]


def test_it_goes_on_exactly_after_loading_with_its_own_teacher_only(tmp_path):
    model = made()
    model.fit(real(4), batch_size=4, shuffle=False, verbose=0)
    model.save(tmp_path / "model.keras")
    frozen = dict(model.frozen)
    loaded = keras.models.load_model(tmp_path / "model.keras", custom_objects=frozen)
    for each in (model, loaded):
        each.fit(real(4, 1), batch_size=4, shuffle=False, verbose=0)
    for a, b in zip(model.weights, loaded.weights, strict=True):
        np.testing.assert_array_equal(a, b)
    with pytest.raises(ValueError, match="'teacher' is another"):
        keras.models.load_model(
            tmp_path / "model.keras", custom_objects=frozen | {"teacher": denoiser(9)}
        )
    alone = keras.models.load_model(tmp_path / "model.keras")
    model.load_weights(tmp_path / "model.keras")
    np.testing.assert_array_equal(alone.generate(3, seed=1), model.generate(3, seed=1))
    with pytest.raises(ValueError, match="without its teacher"):
        alone.compile(
            student_optimizer="adam",
            fake_score_optimizer="adam",
            discriminator_optimizer="adam",
        )
    with pytest.raises(ValueError, match="without its teacher"):
        alone.fit(real(4), verbose=0)


def test_a_decoder_makes_pixels_of_latents_and_is_in_no_file(tmp_path):
    latents = keras.Input((SIDE, SIDE, 1))
    pixels = keras.layers.Conv2DTranspose(3, 2, 2)(latents)
    decoder = seeded(keras.Model(latents, pixels), 5)
    encoder, heads = encoder_and_heads()

    def model(**options):
        return FlashDMD(
            denoiser(), denoiser(1), heads, denoiser(2), encoder,
            parametrisation="flow", anchors=2, **{"pixels": False} | options,
        )  # fmt: skip

    plain, decoding = model(), model(decoder=decoder)
    assert (plain.image_shape, decoding.image_shape) == ((SIDE, SIDE, 1), (16, 16, 3))
    assert decoding.sample_shape == plain.sample_shape
    made = plain.generate(3, seed=0)
    expected = np.clip(decoder(made), -1, 1)
    np.testing.assert_allclose(decoding.generate(3, seed=0), expected, atol=1e-5)
    decoding.save(tmp_path / "model.keras")
    load = keras.models.load_model
    np.testing.assert_array_equal(
        load(tmp_path / "model.keras").generate(3, seed=0), made
    )
    loaded = load(tmp_path / "model.keras", {"decoder": decoder})
    np.testing.assert_allclose(loaded.generate(3, seed=0), expected, atol=1e-5)
    other = keras.models.clone_model(decoder)
    with pytest.raises(ValueError, match="frozen network 'decoder' is another"):
        load(tmp_path / "model.keras", {"decoder": other})
    for options in ({"pixels": True}, {"decoder": heads}):
        with pytest.raises(ValueError, match=r"The decoder makes pixels of latents \("):
            model(**{"decoder": decoder} | options)


def test_a_batch_size_does_not_change_the_images():
    model = made()
    whole = model.generate(5, seed=3, batch_size=5)
    parts = model.generate(5, seed=3, batch_size=2)
    np.testing.assert_allclose(whole, parts, rtol=0, atol=1e-5)
    # Fresh noise of each image enters.
    assert np.abs(whole[0] - whole[1]).max() > 1e-3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"guidance": 2.0}, "nothing to guide by"),
        ({"split": "firm"}, "no split 'firm'"),
        ({"ratio": 0}, "ratio"),
        ({"pulling": 1.5}, "pulling"),
        ({"renoising": (0.5, 0.2)}, "0 <= low < high <= 1"),
        ({"renoising": 0.5}, "0 <= low < high <= 1"),
        ({"adversarial": 0.0}, "nothing would"),
        ({"loss": "relativistic"}, "compares pairs of images"),
    ],
)
def test_settings_that_cannot_be_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        made(**changes)


def test_networks_that_do_not_go_together_are_refused():
    encoder, heads = encoder_and_heads()
    with pytest.raises(ValueError, match="give one of encoder and feature_layer"):
        FlashDMD(denoiser(), denoiser(1), heads, denoiser(2), parametrisation="flow")
    one = denoiser()
    with pytest.raises(ValueError, match="one object"):
        FlashDMD(one, one, heads, parametrisation="flow")
    with pytest.raises(ValueError, match="no layer 'nope'"):
        FlashDMD(
            denoiser(), denoiser(1), heads, parametrisation="flow", feature_layer="nope"
        )
    other = denoiser(width=3)
    model = FlashDMD(denoiser(), other, heads, denoiser(2), encoder,
                     parametrisation="flow")  # fmt: skip
    with pytest.raises(ValueError, match="weights of other shapes"):
        model.compile(
            student_optimizer="sgd",
            fake_score_optimizer="sgd",
            discriminator_optimizer="sgd",
        )


@pytest.mark.parametrize(("anchors", "ratio"), [(1, 1), (1, 2), (4, 2)])
def test_on_gaussians_the_student_gets_the_teachers_mean_and_covariance(anchors, ratio):
    """The fake score can be exact here.

    It is not told at which anchor an estimate was made, so with several of them it is
    their mixture that has to match.
    """
    encoder, heads = gaussian.heads()
    fake = gaussian.exact(np.zeros(2), np.eye(2))
    model = FlashDMD(
        gaussian.affine(), fake, heads, gaussian.exact(), encoder,
        parametrisation="flow", anchors=anchors,
    )  # fmt: skip
    model.compile(
        student_optimizer=keras.optimizers.Adam(
            keras.optimizers.schedules.CosineDecay(5e-3, 1500)
        ),
        fake_score_optimizer=keras.optimizers.Adam(1e-2),
        discriminator_optimizer="sgd",
        split="none",
        adversarial=0.0,
        ratio=ratio,
        pulling=1.0,
        jit_compile=False,
    )
    count = 512
    data = tf.data.Dataset.from_tensors(np.zeros((count * ratio, 1, 1, 2), "float32"))
    model.fit(data.repeat(1500), verbose=0)
    share = replicas.share(tf.zeros((1000, 1)))
    images = np.concatenate(
        [model.rollout(model.draw(share)).clean.numpy() for _ in range(40)]
    ).reshape(-1, 2)
    # Standard errors of 40,000 images are below 3e-3; 40 draws of an anchor add some
    # hundredths of what the anchors' means differ by. What is left is the wandering of
    # the fake score, whose rate does not fall.
    np.testing.assert_allclose(images.mean(0), gaussian.MEAN, rtol=0, atol=0.03)
    np.testing.assert_allclose(np.cov(images.T), gaussian.COVARIANCE, rtol=0, atol=0.03)
