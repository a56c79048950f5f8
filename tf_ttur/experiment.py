"""A training run, from a preset and a folder to its summary.

The data's way: the task loads them, the model is fitted to them, callbacks measure,
sample and save. The folder is `runs.RunFolder`; what depends on the kind of training is
in `tasks`.
"""

from __future__ import annotations

import logging
import os
from typing import Any

import keras
import tensorflow as tf

from fid.files import InputError, write_json
from fid.versions import versions
from tf_ttur import callbacks, plots, presets, runs, tasks, termination
from tf_ttur.runs import RunFolder

__all__ = ["run", "train"]

_log = logging.getLogger(__name__)
_DELETE_IT = "Delete it to go on from the one before it."


def run(
    preset: presets.Preset, workdir: str | os.PathLike[str], **sources: Any
) -> dict[str, Any]:
    """Trains a preset in a folder, or resumes the run that is there.

    Args:
        preset: What to train.
        workdir: The run folder; made where missing.
        **sources: As for `tasks.Task`: `data_dir`, `inception`, `download`, `teacher`.

    Returns:
        What summary.json says.

    Raises:
        InputError: The folder holds another configuration, is in use, a source is not
            to be had, or one is given that this kind of training does not read.
        callbacks.Diverged: A loss became NaN.
    """
    return train(tasks.of(preset, **sources), RunFolder(workdir))


def train(task: tasks.Task, folder: RunFolder) -> dict[str, Any]:
    """Trains what a task offers in a folder, or resumes the run that is there.

    Args:
        task: What to train, and how it is measured.
        folder: The run folder; made where missing.

    Returns:
        What summary.json says.

    Raises:
        InputError: As for `run`.
        callbacks.Diverged: Likewise.
    """
    task.check()
    with folder.in_use():
        data = task.load()
        gan = task.build(data.shape)
        # Made once for its checks, such as that the set fills a batch.
        task.batches(data)
        config = task.config(data)
        # Not before: settings that cannot be trained must not claim the folder.
        folder.claim(config)
        measurement = task.measurement(data, folder)
        samples = task.samples(data, folder)
        scores = task.scores(data)
        identity = folder.identity()
        checkpoints = callbacks.Checkpoints(
            folder.checkpoints,
            folder.best,
            measurement.key,
            measurement.facts,
            run=lambda step: (
                identity | {folder.metrics.name: folder.digest_of_rows(step)}
            ),
        )
        metrics = callbacks.MetricsLog(folder.metrics, measurement)
        _log.info(
            "%s: %s; %d steps.",
            task.preset.name,
            task.describe(data, measurement),
            task.preset.steps,
        )
        try:
            with termination.handled():
                start = _resume(gan, folder, checkpoints)
                folder.tidy()
                folder.diverged.unlink(missing_ok=True)
                if start is None:
                    start = _begin(
                        gan, task, folder, measurement, scores, metrics, checkpoints
                    )

                def stop_where_reached(*_: Any) -> None:
                    stop = _reached(task, folder, measurement.key) is not None
                    gan.stop_training = stop

                held = keras.callbacks.LambdaCallback(
                    on_train_begin=lambda logs: folder.check_held(),
                    on_train_batch_end=lambda batch, logs: folder.check_held(),
                    on_epoch_end=lambda epoch, logs: folder.check_held(),
                )
                in_order = [
                    callbacks.NaNGuard(),
                    measurement,
                    held,  # and again before each that takes a while after another
                    *([] if scores is None else [scores, held]),
                    samples,
                    held,
                    metrics,
                    callbacks.TensorBoardLog(folder.tensorboard, samples, config),
                    held,
                    checkpoints,
                    callbacks.Progress(task.preset.steps, measurement.key),
                    keras.callbacks.LambdaCallback(
                        on_train_batch_end=lambda batch, logs: termination.check()
                    ),
                    keras.callbacks.LambdaCallback(on_epoch_end=stop_where_reached),
                ]
                stop_where_reached()
                if not gan.stop_training:
                    _fit(gan, task, data, start, measurement.every, in_order)
        except termination.Terminated:
            _log.warning("%s", _parting_words(gan, checkpoints))
            raise
        except callbacks.Diverged as error:
            folder.check_held()
            write_json(folder.diverged, {"step": error.step, "message": str(error)})
            raise
        return _finish(task, folder, measurement)


def _parting_words(gan: Any, checkpoints: callbacks.Checkpoints) -> str:
    latest = checkpoints.latest()
    kept = f"The last checkpoint is of step {latest[0]}" if latest else "Nothing lost"
    return (
        f"SIGTERM ended the run at step {gan.steps}. {kept}: start again with the same "
        "settings and --workdir to go on."
    )


def _resume(
    gan: Any, folder: RunFolder, checkpoints: callbacks.Checkpoints
) -> int | None:
    """Loads the newest checkpoint; returns its step, or None where there is none."""
    latest = checkpoints.latest()
    # Nothing is written before it is known that all of it is of this run.
    rows = folder.rows()
    checkpoints.check_best(rows)
    if latest is None:
        # Only the row of step 0 can stand alone: its checkpoint comes right after it.
        if rows and rows[-1]["step"] > 0:
            raise InputError(
                f"{folder.metrics} has rows up to step {rows[-1]['step']}, but "
                f"{folder.checkpoints} has no checkpoint to go on from: bring the "
                "checkpoints back, or start in another --workdir."
            )
        folder.cut(-1)
        return None
    step, path = latest
    if step not in (row["step"] for row in rows):
        raise InputError(
            f"{folder.metrics} lacks the row of step {step}, which {path} stands for: "
            "bring it back, delete that checkpoint to go on from the one before it, or "
            "start in another --workdir."
        )
    record = folder.check_checkpoint(path, _DELETE_IT, rows=True)
    for best in runs.checkpoints(folder.best).values():
        folder.check_checkpoint(best, "Delete it to have the next best one.")
    tasks.load_weights(gan, path, _DELETE_IT)
    if record is None:
        _log.info("%s does not say which run it is of, as those do today.", path)
    checkpoints.mend(folder.cut(step))
    _log.info("Going on from step %d.", step)
    return step


def _begin(
    gan: Any,
    task: tasks.Task,
    folder: RunFolder,
    measurement: callbacks.Measurement,
    scores: callbacks.Scores | None,
    metrics: callbacks.MetricsLog,
    checkpoints: callbacks.Checkpoints,
) -> int:
    """Measures and saves the untrained model; returns its step, 0."""
    measurement.announce(gan)
    value = measurement.measure(gan)
    _log.info("step 0/%d  %s %.4g", task.preset.steps, measurement.key, value)
    further = {} if scores is None else scores.measure(gan)
    folder.check_held()
    metrics.write(0, {measurement.key: value, **measurement.further, **further})
    checkpoints.save(gan, 0, value)
    return 0


def _fit(
    gan: Any,
    task: tasks.Task,
    data: Any,
    start: int,
    every: int,
    in_order: list[keras.callbacks.Callback],
) -> None:
    """Fits the model from a step on: one epoch of Keras is one interval."""
    steps = task.preset.steps
    # The last interval may be shorter, so it has a `fit` of its own; and so has what
    # follows a turn, where the data may be batched in another way.
    whole = steps - steps % every
    for last in sorted({*task.turns, whole, steps}):
        if start >= last:
            continue
        task.enter(gan, start)
        try:
            gan.fit(
                task.batches(data, start),
                initial_epoch=start // every,
                epochs=-(-last // every),
                steps_per_epoch=min(every, last - start),
                callbacks=in_order,
                shuffle=False,
                verbose=0,
            )
        except tf.errors.OpError as error:
            raise InputError(
                f"Training stopped near step {gan.steps}: "
                f"{' '.join(error.message.split())[:2000]}. The last checkpoint is "
                "kept: mend what is wrong and start again."
            ) from error
        if gan.stop_training:
            return
        start = last


def _reached(task: tasks.Task, folder: RunFolder, key: str) -> int | None:
    """Returns the step at which a run met `stop_at`; None where it has not."""
    if task.preset.stop_at is None:
        return None
    values = [(x["step"], x[key]) for x in folder.rows() if x.get(key) is not None]
    at = runs.first_at_most(values, task.preset.stop_at, task.preset.stop_passes)
    return None if at is None else values[at][0]


def _finish(
    task: tasks.Task, folder: RunFolder, measurement: callbacks.Measurement
) -> dict[str, Any]:
    """Draws the curve, and writes what the run came to."""
    folder.check_held()
    key, title = measurement.key, measurement.title
    rows = folder.rows()
    measured = [row for row in rows if row.get(key) is not None]
    best = min(measured, key=lambda row: row[key])
    plots.training_curve(
        rows, key, folder.curve, task.preset.name, title, measurement.beside
    )

    def point(row: dict[str, Any]) -> dict[str, Any]:
        return {"step": row["step"], key: row[key]}

    minutes, measuring = rows[-1]["minutes"], rows[-1].get("measure_minutes", 0.0)
    share = measuring / minutes if minutes else 0.0
    stopped = {}
    if task.preset.stop_at is not None:
        stopped = {
            "stop_at": task.preset.stop_at,
            "reached": _reached(task, folder, key),
        }
    _log.info(
        "%s steps in %.3g minutes, %.0f%% of them measuring; the best %s: %.4g at step "
        "%d.",
        f"{rows[-1]['step']:,}",
        minutes,
        100 * share,
        key,
        best[key],
        best["step"],
    )
    summary = {
        "preset": task.preset.name,
        "metric": key,
        "metric_title": title,
        **measurement.facts,
        "start": point(measured[0]),
        "best": point(best),
        "last": point(measured[-1]),
        **stopped,
        "minutes": minutes,
        "measuring_share": round(share, 4),
        "versions": versions("tf-ttur", "tensorflow", "keras", "numpy"),
    }
    write_json(folder.summary, summary)
    return summary
