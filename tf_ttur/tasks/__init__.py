"""Kinds of training. A new one is a module with a `Task`, and a line in `TASKS`."""

from __future__ import annotations

import os
from typing import Any

from tf_ttur import presets
from tf_ttur.runs import RunFolder
from tf_ttur.tasks.diffusion import DiffusionTask
from tf_ttur.tasks.distillation import DistillationTask
from tf_ttur.tasks.images import Images
from tf_ttur.tasks.task import SampleRequest, Task, find_checkpoint, load_weights
from tf_ttur.tasks.text import Text
from tf_ttur.tasks.text_to_image import TextToImageTask

__all__ = [
    "TASKS",
    "SampleRequest",
    "Task",
    "find_checkpoint",
    "load_weights",
    "of",
    "of_kind",
    "of_run",
]

TASKS: dict[type[presets.Preset], type[Task]] = {
    presets.ImagePreset: Images,
    presets.TextPreset: Text,
    presets.DiffusionPreset: DiffusionTask,
    presets.DistillationPreset: DistillationTask,
    presets.TextToImagePreset: TextToImageTask,
}
"""The task of each kind of preset."""


def of(preset: presets.Preset, **sources: Any) -> Task:
    """Returns the task of a preset: the one place where its kind decides.

    Args:
        preset: The settings.
        **sources: As for `Task`: `data_dir`, `inception`, `download`, `teacher`.

    Example:
        >>> from tf_ttur import presets, tasks
        >>> tasks.of(presets.get("text_wgan_gp_ttur")).suffix
        '.txt'
    """
    return of_kind(type(preset))(preset, **sources)


def of_kind(kind: type[presets.Preset]) -> type[Task]:
    """Returns the class of the tasks of a kind of preset.

    Args:
        kind: A subclass of `Preset`.
    """
    return next(TASKS[base] for base in kind.__mro__ if base in TASKS)


def of_run(folder: RunFolder | str | os.PathLike[str]) -> type[Task]:
    """Returns the class of the task that a run was made by.

    Args:
        folder: The run folder.

    Raises:
        InputError: There is no such run.
    """
    if not isinstance(folder, RunFolder):
        folder = RunFolder(folder)
    return of_kind(presets.kind_of(folder.read_config()))
