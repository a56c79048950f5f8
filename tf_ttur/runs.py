"""The folder of a run: its names, its lock, its configuration, rows and checkpoints.

    config.json  metrics.jsonl  log.txt  reference.npz  tensorboard/
    samples/step_00001000.png   checkpoints/   best/   curve.png   summary.json
    diverged.json, where a run of a sweep diverged

A run of text has vocabulary.json in place of reference.npz, and samples that end in
`.txt`. Training, sweeps, reproductions, samples and `nash.py` all use one `RunFolder`.
Nothing here imports TensorFlow.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import pathlib
import re
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from tqdm import tqdm

from fid.files import (
    InputError,
    atomic_path,
    check_same,
    printable,
    read_json_lines,
    read_object,
    temporary_files,
    write_json,
)
from tf_ttur import presets

__all__ = [
    "WALL_CLOCK",
    "RunFolder",
    "as_line",
    "checkpoint_name",
    "checkpoints",
    "read_rows",
]

WALL_CLOCK = ("minutes", "measure_minutes")
"""Fields of a row in which two runs that are equal otherwise differ."""

_CHECKPOINT_NAME = re.compile(r"step_(\d+)\.keras")
# Names of the files in a run folder that appear whole or not at all.
_WRITTEN = re.compile(
    r"(config|best|summary|diverged|vocabulary)\.json|metrics\.jsonl|reference\.npz"
    r"|curve\.png|step_\d+\.[a-z]+"
)


class RunFolder:
    """The folder of one run.

    Args:
        path: Where it is; it need not exist.

    Attributes:
        path: The folder.
        config: The file of all settings.
        metrics: The file of rows, one an interval.
        log: The file of what was said.
        reference: The file of the real images' statistics.
        vocabulary: The file of a text's symbols.
        samples: The folder of samples over time.
        checkpoints: The folder of the last checkpoints.
        best: The folder of the best checkpoint, with `best.json`.
        tensorboard: TensorBoard's folder.
        curve: The figure of losses and distance.
        summary: The file of what the run came to.
        diverged: The file that a sweep leaves of a run that diverged.

    Example:
        >>> import tempfile
        >>> folder = RunFolder(tempfile.mkdtemp())
        >>> folder.rows(), folder.is_over
        ([], False)
        >>> folder.claim({"steps": 5})
        >>> folder.read_config()
        {'steps': 5}
    """

    def __init__(self, path: str | os.PathLike[str]):
        self.path = path = pathlib.Path(path)
        self.config = path / "config.json"
        self.metrics = path / "metrics.jsonl"
        self.log = path / "log.txt"
        self.reference = path / "reference.npz"
        self.vocabulary = path / "vocabulary.json"
        self.samples = path / "samples"
        self.checkpoints = path / "checkpoints"
        self.best = path / "best"
        self.tensorboard = path / "tensorboard"
        self.curve = path / "curve.png"
        self.summary = path / "summary.json"
        self.diverged = path / "diverged.json"

    def __fspath__(self) -> str:
        return os.fspath(self.path)

    def __str__(self) -> str:
        return str(self.path)

    # ---- while a run uses it

    @contextlib.contextmanager
    def in_use(self) -> Iterator[None]:
        """Makes the folder, keeps other processes out of it, and logs to its log.txt.

        The system frees the folder after a crash.

        Raises:
            InputError: It cannot be made, or another process uses it.
        """
        with self._locked(), _logging_to(self.log):
            yield

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = open(self.path / ".lock", "w")  # noqa: SIM115
        except OSError as error:
            raise InputError(
                f"Cannot use {self} as run folder: {error.strerror}."
            ) from error
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise InputError(
                    f"Another process is training in {self}; wait for it, or choose "
                    "another --workdir."
                ) from error
            yield

    def claim(self, config: Mapping[str, Any]) -> None:
        """Writes config.json, or makes sure that the one there says the same.

        Args:
            config: All that the run depends on, JSON-able.

        Raises:
            InputError: The folder holds a run with another configuration; the message
                says what differs.
        """
        if not self.config.exists():
            write_json(self.config, config)
            return
        check_same(
            _renamed(read_object(self.config), config.get("extractor")),
            config,
            f"{self} holds a run with another configuration",
            "Give its settings to go on with it, or choose another --workdir.",
        )

    def tidy(self) -> None:
        """Removes what a killed process was writing: a large model's files are large.

        Other hidden files are the user's.
        """
        for path in temporary_files(self.path, _WRITTEN):
            path.unlink()

    # ---- configuration

    def read_config(self) -> dict[str, Any]:
        """Returns what config.json says.

        Raises:
            InputError: This is no run folder, or its config.json is damaged.
        """
        if not self.config.exists():
            raise InputError(
                f"{printable(self)} is no run folder: it has no config.json. Name a "
                "--workdir of train.py."
            )
        return _renamed(read_object(self.config), "auto")

    def preset(self) -> tuple[presets.Preset, str | None]:
        """Returns the settings of the run, and where its data are.

        Returns:
            The preset, and the `data_dir` that the run was started with.

        Raises:
            InputError: As for `read_config`, or a setting is missing or cannot be.
        """
        config = self.read_config()
        try:
            if "data_dir" not in config:
                raise presets.SettingsError("it lacks 'data_dir'.")
            return presets.from_settings(config), config["data_dir"]
        except presets.SettingsError as error:
            raise InputError(
                f"{printable(self.config)} is not the configuration of a training run: "
                f"{error}"
            ) from error

    # ---- rows

    def rows(self) -> list[dict[str, Any]]:
        """Returns the rows of metrics.jsonl; see `read_rows`."""
        return read_rows(self.metrics)

    def cut(self, step: int) -> list[dict[str, Any]]:
        """Cuts metrics.jsonl back to a step.

        Args:
            step: Rows of later steps are removed.

        Returns:
            The rows that stay.
        """
        rows = [row for row in self.rows() if row["step"] <= step]
        with atomic_path(self.metrics) as temporary:
            temporary.write_text("".join(map(as_line, rows)), encoding="utf-8")
        return rows

    # ---- checkpoints

    def checkpoint(self, which: str | int) -> pathlib.Path:
        """Finds a checkpoint of the run.

        Args:
            which: `best` (of the lowest distance), `last`, or the step of one that is
                kept.

        Raises:
            InputError: There is none such.
        """
        kept = checkpoints(self.best) | checkpoints(self.checkpoints)
        if not kept:
            raise InputError(
                f"{printable(self)} has no checkpoint yet; the first one is written "
                "before the first step."
            )
        if which == "last":
            return kept[max(kept)]
        if which == "best":
            # It names the one that counts, where a crash left two.
            step = read_object(self.best / "best.json", "step")["step"]
        else:
            try:
                step = int(which)
            except ValueError as error:
                raise InputError(
                    f"--checkpoint={which}: expected best, last or a step."
                ) from error
        if step not in kept:
            raise InputError(
                f"{printable(self)} keeps no checkpoint of step {step}; it has those "
                f"of {', '.join(map(str, sorted(kept)))}."
            )
        return kept[step]

    # ---- the outcome

    @property
    def is_over(self) -> bool:
        """Whether the run is finished or has diverged."""
        return self.summary.exists() or self.diverged.exists()

    def read_summary(self) -> dict[str, Any] | None:
        """Returns what summary.json says; None where the run is not finished."""
        if not self.summary.exists():
            return None
        return read_object(self.summary, "metric", "metric_title")

    def read_divergence(self) -> dict[str, Any] | None:
        """Returns `step` and `message` of a run that diverged; None of any other."""
        return read_object(self.diverged, "step") if self.diverged.exists() else None


def read_rows(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Reads the rows of a file of metrics.

    Args:
        path: The file; a missing one has no rows.

    Returns:
        The rows in order. A last line that a crash cut short is left out.

    Raises:
        InputError: Another line is no row, or the file cannot be read.
    """
    return read_json_lines(path, "step", "minutes")


def as_line(row: Mapping[str, Any]) -> str:
    """Returns a row of metrics as a line of its file.

    Args:
        row: Values by name, finite or None.
    """
    return json.dumps(row, allow_nan=False) + "\n"


def checkpoint_name(step: int) -> str:
    """Returns the name of the checkpoint of a step.

    Args:
        step: The step.

    Example:
        >>> checkpoint_name(1000)
        'step_00001000.keras'
    """
    return f"step_{step:08d}.keras"


def checkpoints(folder: str | os.PathLike[str]) -> dict[int, pathlib.Path]:
    """Returns the checkpoints of a folder by their steps; other files are none.

    Args:
        folder: The folder, which need not exist.
    """
    return {
        int(found[1]): path
        for path in pathlib.Path(folder).glob("step_*.keras")
        if (found := _CHECKPOINT_NAME.fullmatch(path.name))
    }


def _renamed(config: dict[str, Any], extractor: Any) -> dict[str, Any]:
    """Gives a configuration of version 0.1 the names of today.

    There `extractor` was the name of the extractor that was found, and what the preset
    had asked for was lost.
    """
    if "extractor_sha256" in config and "extractor_name" not in config:
        found = config.get("extractor")
        config |= {"extractor_name": found, "extractor": extractor}
    return config


@contextlib.contextmanager
def _logging_to(path: pathlib.Path) -> Iterator[None]:
    """Sends what the package logs to a file and, past the progress bar, to stderr."""
    logger = logging.getLogger("tf_ttur")
    before = logger.level
    logger.setLevel(logging.INFO)
    file = _LogFile(path, encoding="utf-8")
    file.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    handlers = [file, _TqdmHandler()]
    for handler in handlers:
        logger.addHandler(handler)
    try:
        yield
    finally:
        logger.setLevel(before)
        for handler in handlers:
            logger.removeHandler(handler)
            handler.close()


class _LogFile(logging.FileHandler):
    """A log on a full disk loses lines; what else cannot be written ends the run."""

    def handleError(self, record: logging.LogRecord) -> None:
        pass

    def close(self) -> None:
        with contextlib.suppress(OSError):
            super().close()


class _TqdmHandler(logging.Handler):
    """Writes above the progress bar, and not into it."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(self.format(record), file=sys.stderr)
