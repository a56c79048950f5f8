"""Rows of metrics and TensorBoard's events of a plain `fit`."""

import json
import logging

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from toy_gan import images, small_gan

from fid.files import InputError
from tf_ttur import callbacks
from tf_ttur.runs import RunFolder


def test_rows_of_metrics(tmp_path):
    folder = RunFolder(tmp_path)
    small_gan().fit(
        images(), batch_size=16, epochs=3, verbose=0,
        callbacks=[callbacks.MetricsLog(folder.metrics)],
    )  # fmt: skip
    rows = folder.rows()
    assert [row["step"] for row in rows] == [4, 8, 12]
    assert all(row["d_lr"] == pytest.approx(1e-3) for row in rows)
    assert 0 <= rows[0]["minutes"] <= rows[1]["minutes"]
    with open(folder.metrics, "a") as file:
        file.write('{"step": 16')
    assert folder.rows() == rows
    assert folder.cut(8) == rows[:2]
    assert len(folder.metrics.read_text().splitlines()) == 2
    folder.metrics.write_text("nonsense\n" + folder.metrics.read_text())
    with pytest.raises(InputError, match="line 1 is not JSON"):
        folder.rows()


def test_a_value_that_is_not_finite_is_null(tmp_path):
    log = callbacks.MetricsLog(tmp_path / "metrics.jsonl")
    log.write(1, {"fid": float("nan"), "d_loss": 1.5})
    row = json.loads((tmp_path / "metrics.jsonl").read_text())
    assert row["fid"] is None
    assert row["d_loss"] == 1.5


def test_tensorboard_gets_scalars_and_pictures(tmp_path):
    samples = callbacks.SampleGrid(tmp_path / "samples", count=9)
    log = callbacks.TensorBoardLog(tmp_path / "log", samples, config={"a": 1})
    small_gan().fit(
        images(), batch_size=16, epochs=2, verbose=0, callbacks=[samples, log]
    )
    (path,) = (tmp_path / "log").iterdir()
    tags, pictures = {}, {}
    for event in tf.compat.v1.train.summary_iterator(str(path)):
        for value in event.summary.value:
            tags.setdefault(value.tag, []).append(event.step)
            if value.tag == "samples":
                encoded = tf.make_ndarray(value.tensor)[2]
                pictures[event.step] = tf.io.decode_png(encoded).numpy()
    assert tags["d_loss"] == tags["samples"] == [4, 8]
    assert tags["config"] == [0]
    # The picture is that of the folder, of the same step.
    for step, picture in pictures.items():
        png = tmp_path / "samples" / f"step_{step:08d}.png"
        np.testing.assert_array_equal(picture[..., 0], np.asarray(Image.open(png)))
    assert not np.array_equal(pictures[4], pictures[8])


def test_tensorboard_needs_no_pictures(tmp_path):
    log = callbacks.TensorBoardLog(tmp_path)
    small_gan().fit(images(), batch_size=16, verbose=0, callbacks=[log])
    (path,) = tmp_path.iterdir()
    events = tf.compat.v1.train.summary_iterator(str(path))
    tags = {value.tag for event in events for value in event.summary.value}
    assert "d_loss" in tags
    assert "samples" not in tags


def test_progress_prints_a_line_at_each_epochs_end(caplog):
    progress = callbacks.Progress(8, "fid")
    with caplog.at_level(logging.INFO, "tf_ttur"):
        small_gan().fit(
            images(), batch_size=16, epochs=2, verbose=0, callbacks=[progress]
        )
    names, values = [], []
    for line in caplog.messages:
        step, *shown = line.split("  ")
        names.append(step)
        values.append({item.split()[0] for item in shown})
    assert names == ["step 4/8", "step 8/8"]
    assert values[0] == values[1] == {"d_loss", "g_loss", "d_lr", "g_lr"}
    with caplog.at_level(logging.INFO, "tf_ttur"):
        progress.on_epoch_end(2, {"jsd_4": 0.25, "jsd_4_floor": 0.125})
    assert caplog.messages[-1] == "step 8/8  jsd_4 0.25"
