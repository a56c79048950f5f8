"""`JointFlashDMD`: two stages, who is touched in each, and where preferences lead."""

import math
import os
import pathlib
import subprocess
import sys

import gaussian_networks as gaussian
import keras
import numpy as np
import pytest
import scipy.special
import tensorflow as tf
from small_students import (
    LAYER,
    SIDE,
    bottleneck_heads,
    denoiser,
    encoder_and_heads,
    moved,
    real,
    scorer,
    weights,
)

from fid.files import InputError
from tf_ttur import replicas
from tf_ttur.distillation import preference
from tf_ttur.distillation.flash_dmd import FlashDMD, dmd2, flash_dmd
from tf_ttur.distillation.joint import JointFlashDMD

DISTILLED = {"dm_loss", "adv_loss", "fake_loss", "d_loss"}
PREFERRED = {"preference_loss", "clipped", "reward", "reward_gap"}
RATES = {"student_lr", "fake_score_lr", "discriminator_lr"}


@keras.saving.register_keras_serializable("test_joint")
def brightness(noisy, times, labels):
    return tf.reduce_mean(noisy, (1, 2, 3))


def parts(arm="flash", num_classes=None, **changes):
    """Networks that differ, so that nothing is equal by chance."""
    found = {"anchors": 3, "num_classes": num_classes, "parametrisation": "flow"}
    if arm == "flash":
        found["encoder"], heads = encoder_and_heads()
    else:
        heads, found["feature_layer"] = bottleneck_heads(num_classes), LAYER
    networks = denoiser(0, num_classes), denoiser(1, num_classes), heads
    return networks, {"teacher": denoiser(2, num_classes)} | found | changes


def made(arm="flash", num_classes=None, jit=False, networks=None, **changes):
    given, options = parts(arm, num_classes, **(networks or {}))
    options.setdefault("reward", scorer(3, num_classes))
    model = JointFlashDMD(*given, **options)
    settings = {"preference_ratio": 2, "beta": 20.0} | changes
    compiled(model, arm, jit, preference_optimizer=sgd(), **settings)
    return model


def sgd():
    return keras.optimizers.SGD(0.1)


def compiled(model, arm, jit, **settings):
    model.compile(
        student_optimizer=sgd(),
        fake_score_optimizer=sgd(),
        discriminator_optimizer=sgd(),
        jit_compile=jit,
        **{"flash": flash_dmd, "dmd2": dmd2}[arm](**settings),
    )


def in_second_stage(*args, **changes):
    model = made(*args, **changes)
    model.begin_preferences()
    return model


def all_weights(model):
    return weights(model) | {"reference": model.reference.get_weights()}


def touched(model, before):
    found = moved(model, before)
    pairs = zip(model.reference.get_weights(), before["reference"], strict=True)
    return found | ({"reference"} if any(np.any(a != b) for a, b in pairs) else set())


def assert_equal_weights(one, other):
    for a, b in zip(one.weights, other.weights, strict=True):
        np.testing.assert_array_equal(a, b, err_msg=a.path)


def step(model, count=8, seed=0):
    return model.train_on_batch(real(count, seed), return_dict=True)


@pytest.mark.parametrize("arm", ["flash", "dmd2"])
def test_the_first_stage_is_that_of_flash_dmd_number_for_number(arm):
    joint = made(arm, num_classes=3, ratio=2, networks={"ema_decay": 0.5})
    networks, options = parts(arm, 3, ema_decay=0.5)
    plain = FlashDMD(*networks, **options)
    compiled(plain, arm, False, ratio=2)
    data = real(16), np.arange(16) % 3
    logs = [
        model.fit(*data, batch_size=8, shuffle=False, validation_data=data, verbose=0)
        for model in (joint, plain)
    ]
    assert logs[0].history == logs[1].history
    assert {"dm_loss", "val_dm_loss"} < set(logs[0].history)
    for name, network in plain.networks.items():
        for a, b in zip(network.weights, joint.networks[name].weights, strict=True):
            np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(joint.generate(3, seed=0), plain.generate(3, seed=0))


@pytest.mark.parametrize(
    ("changes", "expected", "logged"),
    [
        (
            {},
            {"student", "fake_score", "discriminator"},
            DISTILLED | PREFERRED | RATES | {"student_preference_lr"},
        ),
        (
            {"preference_adversarial": 0.0},
            {"student", "fake_score"},
            {"dm_loss", "fake_loss", "student_preference_lr"} | PREFERRED | RATES,
        ),
        (
            {"preference_distillation": False},
            {"student"},
            {"student_preference_lr"} | PREFERRED,
        ),
    ],
)
def test_each_stage_moves_and_logs_what_is_its_own(changes, expected, logged):
    model = made(**changes)
    before = all_weights(model)
    assert set(step(model)) == DISTILLED | RATES
    assert touched(model, before) == {"student", "fake_score", "discriminator"}
    assert set(model.test_on_batch(real(4), return_dict=True)) == DISTILLED
    model.begin_preferences()
    for a, b in zip(model.student.weights, model.reference.weights, strict=True):
        np.testing.assert_array_equal(a, b)
    before = all_weights(model)
    logs = step(model)
    assert set(logs) == logged
    assert all(map(np.isfinite, logs.values()))
    assert touched(model, before) == expected
    before = [w.numpy() for w in model.variables]
    losses = {name for name in logged if not name.endswith("_lr")}
    assert set(model.test_on_batch(real(4), return_dict=True)) == losses
    known = {id(v) for metric in model.metrics for v in metric.variables}
    for old, new in zip(before, model.variables, strict=True):
        if id(new) not in known:
            np.testing.assert_array_equal(old, new)


def test_a_preference_update_moves_the_student_alone_and_does_not_pull():
    model = in_second_stage(pulling=0.5)
    before = all_weights(model)
    model._prefer(replicas.share(tf.constant(real(4))))
    assert touched(model, before) == {"student"}
    assert int(model.student_preference_optimizer.iterations) == 1
    assert int(model.student_optimizer.iterations) == 0


def test_no_gradient_reaches_the_reward_the_reference_or_the_rollout():
    model = in_second_stage()
    step(model)
    pairs = model._pairs(replicas.share(tf.zeros((4, 1))))
    others = model.frozen["reward"].weights + model.reference.weights
    values = [v.value for v in others]
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(values)
        rollout = model._pairs(replicas.share(tf.zeros((4, 1))))
        total = tf.add_n(
            [tf.reduce_sum(x) for x in rollout if x is not None and x.dtype.is_floating]
        )
        reference = tf.stop_gradient(model._mean_after("reference", pairs))
        loss = model.preference_losses(pairs, reference)["preference_loss"]
    students = [v.value for v in model.student.trainable_variables]
    for found in (
        tape.gradient(total, students + values),
        tape.gradient(loss, values),
    ):
        assert not any(g is not None and np.any(g) for g in found)
    assert all(np.any(g) for g in tape.gradient(loss, students)[:1])


@pytest.mark.parametrize("num_classes", [None, 3])
def test_pairs_are_the_best_and_worst_of_candidates_of_one_estimate(num_classes):
    """Against the way written out, of given noise."""
    seen = []

    def reward(noisy, times, labels):
        seen.append((noisy.numpy(), times.numpy(), labels))
        return tf.reduce_mean(tf.square(noisy), (1, 2, 3))

    model = made(num_classes=num_classes, run_eagerly=True, reward=brightness)
    model.reward = reward
    n, k, shape = 3, 4, (SIDE, SIDE, 1)
    drawn = []
    own = model.noise

    def noise(draw, share):
        drawn.append(own(draw, share).numpy())
        return tf.constant(drawn[-1])

    model.noise = noise
    pairs = model._pairs(replicas.share(tf.zeros((n, 1))))
    start, *labels, noises, chosen = drawn
    labels = tf.constant(labels[0]) if labels else None
    assert noises.shape == (n, 2, k, *shape)
    assert set(chosen.ravel()) <= set(range(k))
    x, times = start, model._times.numpy()
    student = model._denoiser("student")
    for j in range(2):
        rows = slice(j * n, (j + 1) * n)
        np.testing.assert_allclose(pairs.noisy[rows], x, rtol=0, atol=1e-5)
        np.testing.assert_array_equal(pairs.times[rows], times[j])
        np.testing.assert_array_equal(pairs.after[rows], times[j + 1])
        clean = student.clean(x, tf.fill((n,), times[j]), labels).numpy()
        a, s = 1 - times[j + 1], times[j + 1]
        z = a * clean[:, None] + s * noises[:, j]
        np.testing.assert_allclose(seen[j][0], z.reshape(-1, *shape), atol=1e-5)
        np.testing.assert_array_equal(seen[j][1], np.full(n * k, times[j + 1]))
        if num_classes:
            np.testing.assert_array_equal(pairs.labels[rows], labels)
            np.testing.assert_array_equal(seen[j][2], np.repeat(labels, k))
        scores = (z**2).mean((2, 3, 4))
        each = np.arange(n)
        for found, at in (
            (pairs.winner, scores.argmax(1)),
            (pairs.loser, scores.argmin(1)),
        ):
            np.testing.assert_allclose(found[rows], z[each, at], rtol=0, atol=1e-5)
        x = z[each, chosen[:, j]]
    np.testing.assert_array_equal(pairs.weights, np.ones(2 * n))


def test_the_discriminators_score_is_its_mean_logit_of_the_students_estimate():
    model = made(reward="discriminator", networks={"reward": None})
    noisy, times = tf.constant(real(3)), tf.constant([0.5, 0.75, 0.25])
    clean = model._denoiser("student").clean(noisy, times)
    maps = model.frozen["encoder"](clean)
    logits = np.concatenate(model.discriminator(maps), 1)
    # Two logits, and the network's own sums in batches of another size: none here.
    np.testing.assert_allclose(
        model.scores(noisy, times, None), logits.mean(1), rtol=1e-6, atol=1e-6
    )
    model.begin_preferences()
    assert np.isfinite(step(model)["reward"])


def test_the_rewards_network_is_called_as_the_student_is():
    model = made(num_classes=3)
    noisy, times, labels = real(3), np.float32([0.5, 0.75, 0.25]), np.int32([0, 2, 1])
    expected = model.frozen["reward"]([noisy, 1000 * times, labels])
    found = model.scores(tf.constant(noisy), tf.constant(times), tf.constant(labels))
    np.testing.assert_allclose(found, np.ravel(expected), rtol=1e-6, atol=1e-6)


def test_without_gradient_at_the_reference_the_loss_is_that_of_a_coin():
    model = in_second_stage(preference_distillation=False, preference_ratio=1)
    logs = step(model, 4)
    assert logs["preference_loss"] == pytest.approx(math.log(2))
    assert logs["clipped"] == 0
    assert logs["reward_gap"] > 0
    again = step(model, 4, seed=1)
    assert again["preference_loss"] != logs["preference_loss"]


def mean_direction(ratio):
    """E[v] / |m| of v = w / |w|, w ~ N(m, s^2 I) in the plane, of m / s; along m."""
    q = ratio**2 / 4
    return math.sqrt(math.pi / 8) * ratio * sum(scipy.special.ive(i, q) for i in (0, 1))


def test_on_a_gaussian_student_a_quadratic_reward_leads_where_it_should():
    """A student that always estimates b, and a reward -|z - c|^2 of two candidates.

    Half the difference of both rewards is s (e_2 - e_1).w, with w = a b - c + s u and
    u = (e_1 + e_2) / 2, which is independent of e_2 - e_1. So the mean of e_w - e_l is
    -(2 / sqrt(pi)) E[w / |w|], which points from a b to c, with a length that is known
    in the plane. The gradient of the loss in b is -beta / 2 times a / s times that,
    over the two dimensions.
    """
    encoder, heads = gaussian.heads()
    target = np.array([0.6, -0.3])
    model = JointFlashDMD(
        gaussian.affine(), gaussian.exact(), heads, gaussian.exact(), encoder,
        parametrisation="flow", anchors=gaussian.ANCHORS,
    )  # fmt: skip
    offset = np.zeros((gaussian.ANCHORS, 2))
    offset[0] = [0.5, 0.25]
    model.student.set_weights([np.zeros((gaussian.ANCHORS, 2, 2)), offset])

    def reward(noisy, times, labels):
        away = tf.reshape(noisy, (-1, 2)) - tf.constant(target, tf.float32)
        return -tf.reduce_sum(tf.square(away), 1)

    beta, rate, count = 3.0, 1.0, 200_000
    model.compile(
        student_optimizer="sgd",
        fake_score_optimizer="sgd",
        discriminator_optimizer="sgd",
        preference_optimizer=keras.optimizers.SGD(rate),
        preference_anchors=1,
        preference_ratio=1,
        preference_distillation=False,
        candidates=2,
        pulling=1.0,
        beta=beta,
        reward=reward,
        jit_compile=False,
    )
    model.begin_preferences()
    model.train_on_batch(np.zeros((count, 1, 1, 2), "float32"))
    s = float(model._times[1])
    a = 1 - s
    away = a * offset[0] - target
    # u has the variance 1 / 2.
    length = mean_direction(np.linalg.norm(away) / (s * math.sqrt(0.5)))
    noises = -2 / math.sqrt(math.pi) * length * away / np.linalg.norm(away)
    expected = rate * beta / 2 * (a / s) / 2 * noises
    matrix, moved_to = model.student.get_weights()
    found = moved_to[0] - offset[0]
    # A component of e_w - e_l has at most the mean square 2.
    error = rate * beta / 2 * (a / s) / 2 * math.sqrt(2 / count)
    np.testing.assert_allclose(found, expected, rtol=0, atol=5 * error)
    assert np.linalg.norm(expected) > 20 * error
    np.testing.assert_array_equal(moved_to[1:], offset[1:])
    assert np.any(matrix[0])
    np.testing.assert_array_equal(matrix[1:], 0)


@pytest.mark.parametrize("arm", ["flash", "dmd2"])
def test_further_updates_are_those_of_a_loop_in_python(arm):
    """Three of each but distillation: one beside it, and a compiled loop of two."""
    found = []
    for eagerly in (False, True):
        model = made(arm, num_classes=3, preference_ratio=3)
        model.begin_preferences()
        model.run_eagerly = eagerly
        model.fit(real(12), np.arange(12) % 3, batch_size=12, shuffle=False, verbose=0)
        found.append(weights(model))
        updates = {k: int(v.iterations) for k, v in model.optimizers.items()}
        assert updates == {
            "student": 1, "student_preference": 3, "fake_score": 3, "discriminator": 3,
        }  # fmt: skip
    for name, ours in found[0].items():
        for a, b in zip(ours, found[1][name], strict=True):
            # Steps of SGD of length 0.1 along gradients of order 1, whose sums have
            # another order.
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-4, err_msg=name)


def test_xla_computes_the_same():
    found = []
    for jit in (False, True):
        model = in_second_stage(jit=jit, preference_ratio=1)
        noises = np.random.default_rng(0)
        fixed = {}

        def noise(draw, share, fixed=fixed, noises=noises):
            with tf.init_scope():
                seed = fixed.setdefault(len(fixed), int(noises.integers(2**30)))
                return tf.constant(draw(4, seed=seed).numpy())

        model.noise = noise
        step(model, 4)
        found.append(model.student.get_weights())
    for a, b in zip(*found, strict=True):
        # Steps of SGD: the gradients are sums in another order.
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5)


_STEPS = """
import test_joint as ours
model = ours.made({arm!r}, jit=True, ratio=2)
for _ in range(2):
    ours.step(model)
model.begin_preferences()
for _ in range(3):
    ours.step(model)
"""


@pytest.mark.slow
@pytest.mark.parametrize("arm", ["flash", "dmd2"])
def test_xla_compiles_a_step_of_each_stage_once(arm, tmp_path):
    environment = os.environ | {
        "XLA_FLAGS": f"--xla_dump_to={tmp_path} --xla_dump_hlo_as_text",
        "PYTHONPATH": os.pathsep.join([str(pathlib.Path(__file__).parent), *sys.path]),
    }
    program = _STEPS.format(arm=arm)
    subprocess.run([sys.executable, "-c", program], env=environment, check=True)
    compiled = [*tmp_path.glob("*one_step_on_data*.before_optimizations.txt")]
    assert len(compiled) == 2, [path.name for path in tmp_path.iterdir()]


def test_it_goes_on_exactly_after_loading_in_the_second_stage(tmp_path):
    model = made(networks={"ema_decay": 0.5}, reward=brightness)
    step(model)
    model.begin_preferences()
    step(model, seed=1)
    model.save(tmp_path / "model.keras")
    model.save_weights(tmp_path / "model.weights.h5")
    frozen = dict(model.frozen)
    loaded = keras.models.load_model(tmp_path / "model.keras", custom_objects=frozen)
    assert (loaded.stage, loaded.reward) == (2, brightness)
    # It has traced a step of the first stage.
    other = made(networks={"ema_decay": 0.5}, reward=brightness)
    step(other, seed=5)
    other.load_weights(tmp_path / "model.weights.h5")
    expected = step(model, seed=2)
    assert set(expected) >= PREFERRED
    for each in (loaded, other):
        assert step(each, seed=2) == expected
        assert_equal_weights(each, model)
    alone = keras.models.load_model(tmp_path / "model.keras")
    assert not alone.frozen
    assert alone.generate(2, seed=0).shape == (2, SIDE, SIDE, 1)
    with pytest.raises(ValueError, match="'reward' is another"):
        keras.models.load_model(
            tmp_path / "model.keras", custom_objects=frozen | {"reward": scorer(9)}
        )


def test_it_goes_on_exactly_across_the_boundary(tmp_path):
    model = made()
    step(model)
    model.save(tmp_path / "model.keras")
    frozen = dict(model.frozen)
    loaded = keras.models.load_model(tmp_path / "model.keras", custom_objects=frozen)
    for each in (model, loaded):
        assert each.stage == 1
        each.begin_preferences()
        step(each, seed=1)
    assert_equal_weights(model, loaded)
    # And back, by a checkpoint of the first stage.
    model.load_weights(tmp_path / "model.keras")
    assert model.stage == 1
    assert set(step(model, seed=1)) == DISTILLED | RATES


def test_a_stage_that_a_callback_loads_while_fitting_is_followed(tmp_path):
    path = tmp_path / "model.weights.h5"

    def fitted(model, *callbacks):
        given = {"batch_size": 8, "shuffle": False, "verbose": 0}
        return model.fit(real(8), callbacks=[*callbacks], **given).history

    model = in_second_stage()
    fitted(model)
    model.save_weights(path)
    other = made()
    fitted(other)
    restore = keras.callbacks.LambdaCallback(
        on_train_begin=lambda logs: other.load_weights(path)
    )
    assert set(fitted(other, restore)) >= PREFERRED
    fitted(model)
    assert_equal_weights(other, model)
    for each in (other, model):
        fitted(each)
    assert_equal_weights(other, model)


def test_a_score_that_is_nan_is_logged_and_teaches_nothing():
    nan = tf.Variable(0.0)
    model = made(reward=brightness, preference_distillation=False, preference_ratio=1)
    model.reward = lambda noisy, times, labels: (
        brightness(noisy, times, labels) + tf.where(nan > 0, float("nan"), 0.0)
    )
    model.begin_preferences()
    assert np.isfinite(step(model, 4)["reward"])
    before = all_weights(model)
    nan.assign(1.0)
    model.reset_metrics()
    logs = step(model, 4)
    assert not np.isfinite(logs["reward"])
    assert logs["preference_loss"] == 0
    assert touched(model, before) == set()


def raising(noisy, times, labels):
    raise RuntimeError("no model of\nwhat people like")


@pytest.mark.parametrize(
    ("reward", "message"),
    [
        (raising, "cannot score .*: RuntimeError: no model of what people like"),
        (lambda x, t, y: brightness(x, t, y)[:, None], r"gave \(16, 1\) for images of"),
        (lambda x, t, y: brightness(x, t, y)[:3], r"it is to give a score for each"),
        (lambda x, t, y: 0.0 * t, "finds the 4 candidates equal, of each of 8"),
        (lambda x, t, y: x[:, 0, 0, 0] * float("nan"), "32 scores .* 32 are NaN"),
        (lambda x, t, y: 1 / (0.0 * t), "32 are NaN or infinite"),
        (lambda x, t, y: "good", "cannot score"),
    ],
)
@pytest.mark.parametrize("eagerly", [False, True])
def test_a_reward_that_teaches_nothing_is_refused_before_anything_changes(
    reward, message, eagerly
):
    model = made(reward=brightness, run_eagerly=eagerly)
    model.reward = reward
    before = [w.numpy() for w in model.variables]
    with pytest.raises(InputError, match=message):
        model.begin_preferences()
    assert model.stage == 1
    for old, new in zip(before, model.variables, strict=True):
        np.testing.assert_array_equal(old, new)


def test_a_second_beginning_is_refused():
    networks, options = parts()
    with pytest.raises(ValueError, match="Call compile before begin_preferences"):
        JointFlashDMD(*networks, **options).begin_preferences()
    model = in_second_stage()
    with pytest.raises(ValueError, match="The second stage has begun already"):
        model.begin_preferences()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"preference_ratio": 0}, "preference_ratio"),
        ({"preference_distillation": "no"}, "preference_distillation"),
        ({"preference_anchors": 3}, "preference_anchors is 3 and the student has 3"),
        ({"preference_anchors": 0}, "preference_anchors"),
        ({"preference_adversarial": -1.0}, "preference_adversarial"),
        ({"candidates": 1}, "candidates is 1"),
        ({"beta": 0.0}, "beta"),
        ({"ratio_clip": 1.0}, "ratio_clip"),
        ({"ratio_clip": 0.0}, "ratio_clip"),
        ({"gate": 1.0}, "gate"),
        ({"reward": "best"}, "Received: 'best'"),
        ({"reward": 3}, "Received: 3"),
        ({"reward": scorer()}, "given to the constructor"),
        ({"networks": {"reward": None}}, "was made without one"),
        (
            {"reward": "discriminator", "adversarial": 0.0, "split": "none"},
            "no discriminator is trained",
        ),
        ({"split": "firm"}, "no split 'firm'"),
        ({"speed": 3}, "JointFlashDMD.compile has no argument speed"),
    ],
)
def test_settings_that_cannot_be_are_refused(changes, message):
    with pytest.raises((ValueError, TypeError), match=message):
        made(**changes)


def test_a_reward_that_no_file_could_name_is_refused():
    class Score:
        def __call__(self, noisy, times, labels):
            return brightness(noisy, times, labels)

    with pytest.raises(InputError, match="saved with the model by its name"):
        made(reward=Score())


def test_a_reward_of_another_form_is_refused():
    networks, options = parts()
    with pytest.raises(ValueError, match=r"to give a score for each, \(None, 1\)"):
        JointFlashDMD(*networks, **options, reward=denoiser())
    with pytest.raises(ValueError, match="to take what the student takes"):
        JointFlashDMD(*networks, **options, reward=scorer(num_classes=3))


def test_batches_that_cannot_be_shared_are_refused():
    model = in_second_stage(preference_ratio=3)
    with pytest.raises(ValueError, match="batch of 8 images .* 3 preference updates"):
        step(model, 8)


def test_the_gate_and_the_clip_are_those_of_the_settings(monkeypatch):
    seen = {}
    loss, gate = preference.preference_loss, preference.gate
    monkeypatch.setattr(
        preference, "preference_loss",
        lambda *given: (seen.update(loss=given[2:4]), loss(*given))[1],
    )  # fmt: skip
    monkeypatch.setattr(
        preference, "gate",
        lambda *given: (seen.update(gate=given[2]), gate(*given))[1],
    )  # fmt: skip
    model = in_second_stage(beta=7.0, ratio_clip=0.2, gate=0.3)
    step(model)
    assert seen == {"loss": (7.0, 0.2), "gate": 0.3}
