"""`GAN` on several replicas and in several processes, against one device."""

import json
import os
import socket
import subprocess
import sys

import distribution_worker as worker
import half_precision
import keras
import numpy as np
import pytest
import rounding
import tensorflow as tf
from repository import ROOT

import tf_ttur
from tf_ttur import replicas

pytestmark = pytest.mark.portable

# What two devices and one may differ by. They add the same float32 numbers in another
# order. A weight's gradient is of the order of 1, a sum over 8 images and up to 64
# pixels. Adam divides it by at least its epsilon of 1e-3 and multiplies by a rate of
# 3e-3, so an update moves a weight apart by up to 3 times the sum's rounding, with
# either sign, and the 40 updates of the longest case by sqrt(40) times that. Losses
# change with a weight by about as much as it does, and no activation has a kink that
# would turn this into more (see the worker). A wrong share of a batch, or another draw,
# is in the second digit.
_UPDATE = 3e-3 / 1e-3 * rounding.random_sums(8 * 64)
ROUNDING = {"rtol": np.sqrt(40) * _UPDATE, "atol": np.sqrt(40) * _UPDATE}


def start(*arguments, **environment):
    path = os.pathsep.join([str(ROOT), *sys.path])
    return subprocess.Popen(
        [sys.executable, ROOT / "tests/distribution_worker.py", *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": path} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process, folder):
    try:
        # For a worker that hangs; on a busy machine a sound one took over 300 seconds.
        output, _ = process.communicate(timeout=1200)
    finally:
        process.kill()
    assert process.returncode == 0, output[-4000:]
    return json.loads((folder.parent / f"{folder.name}.json").read_text())


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mirrored")
    return finish(start("mirrored", folder), folder)


def approx(expected):
    return pytest.approx(expected, rel=ROUNDING["rtol"], abs=ROUNDING["atol"])


def assert_close(one, other):
    for a, b in zip(one, other, strict=True):
        np.testing.assert_allclose(a, b, **ROUNDING)


def assert_equal_rows(found):
    for case, rows in found.items():
        assert len(rows["one"]) == len(rows["several"]) == 20
        for one, several in zip(rows["one"], rows["several"], strict=True):
            assert several == approx(one), case


def assert_same_on_all(copies):
    for on_each in copies:
        for copy in on_each[1:]:
            np.testing.assert_array_equal(copy, on_each[0])


def test_losses_are_those_of_one_device(found):
    assert len(found["losses"]) == 6
    assert_equal_rows(found["losses"])


def test_replicas_share_out_one_draw_of_noise(found):
    seeds = keras.random.SeedGenerator(3)
    for drawn in found["noise"]["drawn"]:
        expected = keras.random.normal((worker.BATCH, 4), seed=seeds)
        # The same numbers from another program: a few functions of float32 below 6, of
        # which normal numbers this few are.
        atol = 6 * rounding.gamma(2 * rounding.FUNCTION, "float32")
        np.testing.assert_allclose(np.concatenate(drawn), expected, rtol=0, atol=atol)
        assert not np.allclose(*drawn, atol=1e-2)


def test_several_steps_per_execution_are_refused(found):
    error = found["noise"]["several steps per execution"]
    assert "steps_per_execution is 2; under MirroredStrategy" in error


def test_replicas_may_have_unequal_shares_but_not_none(found):
    one, several = found["uneven"]["one"], found["uneven"]["several"]
    assert one["steps"] == several["steps"] == 3
    assert_close(one["weights"], several["weights"])
    assert "leaves some of 2 replicas without images" in several["error"]


def test_held_out_losses_are_those_of_one_device_and_change_nothing(found):
    one, several = found["uneven"]["one"], found["uneven"]["several"]
    assert set(one["held out"]) == {"d_loss", "g_loss", "gradient_penalty"}
    assert several["held out"] == approx(one["held out"])
    assert one["unchanged"]
    assert several["unchanged"]


def test_the_moving_average_is_that_of_one_device(found):
    one, several = found["uneven"]["one"], found["uneven"]["several"]
    assert_close(one["averaged"], several["averaged"])
    assert not np.allclose(one["averaged"][0], one["weights"][0], atol=1e-4)


def test_a_subclass_keeps_state_of_global_means(found):
    one, several = found["uneven"]["one"], found["uneven"]["several"]
    # A sum of three steps' means of logits.
    assert several["balance"] == approx(one["balance"])
    assert one["balance"] != 0


def test_norms_of_gradients_are_those_of_one_device(found):
    one, several = found["uneven"]["one"], found["uneven"]["several"]
    assert several["norms"] == approx(one["norms"])
    assert min(one["norms"].values()) > 0


def test_all_replicas_hold_the_same_also_with_batch_norm(found):
    assert_same_on_all(found["uneven"]["several"]["copies"])
    if found["half"]:
        assert_same_on_all(found["half"]["copies"])


def test_a_saved_model_goes_on_exactly_on_replicas_and_closely_on_one_device(found):
    saved = found["saved"]
    for name in ("loaded", "filled"):
        for a, b in zip(saved[name], saved["gan"], strict=True):
            np.testing.assert_array_equal(a, b)
        assert saved[f"{name} images"] == saved["gan images"]
    assert_close(saved["alone"], saved["gan"])
    assert_close(saved["alone images"], saved["gan images"])


def test_replicas_agree_to_skip_a_step_in_float16(found):
    half_precision.need()
    half = found["half"]
    assert np.isfinite(list(half["losses"].values())).all()
    assert half["skipped"]
    assert half["scales"][1] == half["scales"][0] / 2


def test_adabelief_is_that_of_one_device(found):
    """Its divisor is at least the root of epsilon, 30 times what is allowed for."""
    one, several = found["adabelief"]["one"], found["adabelief"]["several"]
    for row, expected in zip(several["rows"], one["rows"], strict=True):
        assert row == approx(expected)
    assert_close(several["weights"], one["weights"])
    assert_close(several["states"], one["states"])
    assert np.abs(np.concatenate([np.ravel(x) for x in one["states"]])).max() > 0


def clip_by_hand(clip, gradients):
    how, bound = clip.split(":")
    bound = float(bound)
    if how == "value":
        return [np.clip(g, -bound, bound) for g in gradients]
    norms = [np.linalg.norm(g) for g in gradients]
    if how == "global_norm":
        norms = [np.linalg.norm(norms)] * len(norms)
    return [
        g * min(1, bound / norm) if norm else g
        for g, norm in zip(gradients, norms, strict=True)
    ]


@pytest.mark.parametrize("where", ["one", "several"])
@pytest.mark.parametrize(("clip", "policy"), worker.CLIPPED)
def test_the_gradient_of_the_global_batch_is_clipped(found, clip, policy, where):
    """On two devices it is the sum of both gradients, unscaled; NumPy does the step."""
    latents, real = (np.array(found["clipped"][x]) for x in ("latents", "real"))
    got = found["clipped"]["found"][f"{clip} {policy}"][where]
    # The generator's kernel and bias, and the discriminator's.
    A, a, w, b = map(np.array, got["before"])
    fake = latents @ A + a
    gradients = [(fake.mean(0) - real.mean(0))[:, None], np.zeros(1)]
    clipped_w = clip_by_hand(clip, gradients)
    new_w = w - clipped_w[0]
    theirs = [-np.outer(latents.mean(0), new_w[:, 0]), -new_w[:, 0]]
    clipped_a = clip_by_hand(clip, theirs)
    for mine, others in ((clipped_w, gradients), (clipped_a, theirs)):
        assert any(
            np.abs(x - y).max() > 0.01 for x, y in zip(mine, others, strict=True)
        )
    expected = [A - clipped_a[0], a - clipped_a[1], new_w, b]
    # Sums of 8 products, of numbers of up to 3, which in float16 are rounded to it.
    dtype = "float32" if policy == "float32" else "float16"
    few = 3 * rounding.gamma(2 * 8, dtype)
    for x, y in zip(got["after"], expected, strict=True):
        np.testing.assert_allclose(x, y, rtol=0, atol=few)


def test_two_processes_train_as_one_device_and_the_chief_writes(tmp_path):
    ports = []
    sockets = [socket.socket() for _ in range(2)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
        ports.append(each.getsockname()[1])
    for each in sockets:
        each.close()
    cluster = {"worker": [f"127.0.0.1:{port}" for port in ports]}
    folders = [tmp_path / f"worker_{index}" for index in range(2)]
    processes = []
    for index, folder in enumerate(folders):
        folder.mkdir()
        task = {"type": "worker", "index": index}
        config = json.dumps({"cluster": cluster, "task": task})
        processes.append(start("multi_worker", folder, TF_CONFIG=config))
    try:
        results = [finish(*pair) for pair in zip(processes, folders, strict=True)]
    finally:
        for process in processes:
            process.kill()

    gan = worker.make(**worker.IN_PROCESSES)
    rows = worker.fit(gan, 4, 2)
    held_out = gan.evaluate(
        worker.images(16, 7), batch_size=worker.BATCH, verbose=0, return_dict=True
    )
    assert results[0] == results[1]
    for row, expected in zip(results[0]["rows"], rows, strict=True):
        assert row == approx(expected)
    assert results[0]["evaluated"] == approx(held_out)
    assert_close(results[0]["images"], gan.generate(2, seed=0))
    written = sorted(path.name for path in folders[0].iterdir())
    assert written == [
        "best.json", "checkpoints", "metrics.jsonl", "samples", "step_00000004.keras",
        "tensorboard",
    ]  # fmt: skip
    assert not list(folders[1].iterdir())


def test_a_strategy_s_scope_holds_all_parts_or_none():
    strategy = tf.distribute.OneDeviceStrategy("/cpu:0")
    gan = worker.make("dcgan")
    options = tf_ttur.ttur(discriminator=1e-3, generator=1e-3)
    with strategy.scope(), pytest.raises(ValueError, match="not made there: GAN"):
        gan.compile(**options, loss="minimax")
    with strategy.scope():
        gan = worker.make("dcgan")
    with pytest.raises(ValueError, match="inside of one strategy"):
        gan.compile(**options, loss="minimax")


def test_without_a_strategy_a_share_is_everything():
    share = replicas.share(tf.zeros((5, 2)))
    assert (share.start, share.size, share.total, share.replicas) == (0, 5, 5, 1)
    assert float(share.mean(tf.constant(3.0))) == 3.0
    assert not replicas.multi_worker(tf.distribute.get_strategy())
