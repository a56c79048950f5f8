"""The step that callbacks know, which process writes, and the guard."""

import numpy as np
import pytest
import tensorflow as tf
from toy_gan import distance, images, small_gan

import tf_ttur
from tf_ttur import callbacks
from tf_ttur.callbacks.steps import writes_files
from tf_ttur.runs import read_rows


def test_steps_are_right_where_executions_do_not_divide_the_epoch(tmp_path):
    callback = distance(every=12)
    small_gan(steps_per_execution=4).fit(
        images(80),
        batch_size=8,
        epochs=2,
        verbose=0,
        callbacks=[callback, callbacks.MetricsLog(tmp_path / "m.jsonl")],
    )
    # Executions end at steps 4, 8, 10, 14, 18 and 20.
    assert [step for step, _ in callback.values] == [14]
    rows = read_rows(tmp_path / "m.jsonl")
    assert [row["step"] for row in rows] == [10, 20]


def test_the_guard_names_the_step_and_the_loss():
    data = images(24)
    data[17] = np.inf
    with pytest.raises(callbacks.Diverged, match=r"d_loss, .* became .* at step 3"):
        small_gan().fit(
            data, batch_size=8, verbose=0, shuffle=False,
            callbacks=[tf_ttur.NaNGuard()],
        )  # fmt: skip


def test_the_guard_names_the_end_of_an_execution_of_several_steps():
    data = images(48)
    data[17] = np.inf
    with pytest.raises(callbacks.Diverged, match=r"d_loss, .* became .* at step 4"):
        small_gan(steps_per_execution=2).fit(
            data, batch_size=8, verbose=0, shuffle=False,
            callbacks=[tf_ttur.NaNGuard()],
        )  # fmt: skip


@pytest.mark.parametrize("kind", [np.array, tf.constant, lambda x: tf.constant(x[0])])
def test_logs_may_be_arrays_and_tensors_of_one_number(tmp_path, kind):
    """As several workers give them."""
    gan = small_gan()
    guard, log = callbacks.NaNGuard(), callbacks.MetricsLog(tmp_path / "m.jsonl")
    progress = callbacks.Progress(10, "fid")
    for callback in (guard, log, progress):
        callback.set_model(gan)
        callback.on_train_begin()
    logs = {"d_loss": kind([0.5]), "g_loss": kind([2.0])}
    for callback in (guard, log, progress):
        callback.on_train_batch_end(0, logs)
        callback.on_epoch_end(0, logs)
    (row,) = read_rows(tmp_path / "m.jsonl")
    assert (row["d_loss"], row["g_loss"]) == (0.5, 2.0)
    with pytest.raises(callbacks.Diverged, match="g_loss became inf at step 0"):
        guard.on_train_batch_end(1, logs | {"g_loss": kind([np.inf])})


def resolver(task_type, task_id, **jobs):
    cluster = tf.train.ClusterSpec(
        {job: [f"localhost:{i}" for i in range(n)] for job, n in jobs.items()}
    )
    return tf.distribute.cluster_resolver.SimpleClusterResolver(
        cluster, task_type=task_type, task_id=task_id
    )


class Worker:
    """The default strategy, as the task of a cluster would have it."""

    def __init__(self, *task, **jobs):
        self.cluster_resolver = resolver(*task, **jobs)

    def __getattr__(self, name):
        return getattr(tf.distribute.get_strategy(), name)


def test_one_process_of_several_writes():
    assert writes_files(tf.distribute.get_strategy())
    assert writes_files(tf.distribute.MirroredStrategy(["cpu:0"]))
    assert writes_files(Worker("worker", 0, worker=2))
    assert not writes_files(Worker("worker", 1, worker=2))
    assert writes_files(Worker("chief", 0, chief=1, worker=2))
    assert not writes_files(Worker("worker", 0, chief=1, worker=2))


@pytest.mark.parametrize(("task", "writes"), [(0, True), (1, False)])
def test_the_others_measure_and_write_nothing(task, writes, tmp_path, monkeypatch):
    strategy = Worker("worker", task, worker=2)
    monkeypatch.setattr(tf_ttur.GAN, "distribute_strategy", strategy)
    samples = callbacks.SampleGrid(tmp_path / "samples")
    measured = distance(every=2)
    small_gan().fit(
        images(), batch_size=16, verbose=0,
        callbacks=[
            measured,
            samples,
            callbacks.MetricsLog(tmp_path / "metrics.jsonl"),
            callbacks.TensorBoardLog(tmp_path / "log", samples, config={"a": 1}),
            callbacks.Checkpoints(tmp_path / "c", tmp_path / "best", measured.key),
        ],
    )  # fmt: skip
    assert len(measured.values) == 2
    names = {path.name for path in tmp_path.iterdir()}
    assert names == (
        {"samples", "metrics.jsonl", "log", "c", "best"} if writes else set()
    )
