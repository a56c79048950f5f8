"""The folder of a run: its names, its lock, its configuration, rows and checkpoints.

    config.json  metrics.jsonl  log.txt  reference.npz  tensorboard/
    samples/step_00001000.png   checkpoints/   best/   curve.png   summary.json
    diverged.json, where the run diverged

A run of text has vocabulary.json in place of reference.npz, and samples that end in
`.txt`; one of images of texts has texts.json, too. Training, sweeps, reproductions,
samples and `nash.py` all use one `RunFolder`. Nothing here imports TensorFlow.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import math
import os
import pathlib
import re
import sys
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Annotated, Any

from tqdm import tqdm

from fid.files import (
    InputError,
    atomic_path,
    check_same,
    hold,
    printable,
    read_json_lines,
    read_object,
    sha256_of_file,
    temporary_files,
    write_json,
)
from fid.mistaken import local_path
from fid.npz import DAMAGE, reading
from fid.values import Between, Count, Step, check_values, fault, read_checked
from tf_ttur import presets

__all__ = [
    "WALL_CLOCK",
    "RunFolder",
    "agree",
    "as_line",
    "check_step",
    "checkpoint_name",
    "checkpoints",
    "first_at_most",
    "last_above",
    "read_best",
    "read_rows",
    "stamp",
    "step_of",
]

WALL_CLOCK = ("minutes", "measure_minutes")
"""Fields of a row in which two runs that are equal otherwise differ."""

# What config.json says beside the settings: facts of the data and of the extractor.
_FACTS = {
    "data_dir": str | None,
    "teacher": str | None,
    "teacher_sha256": str,
    "encoder_sha256": str | None,
    "num_examples": Count,
    "image_shape": list[Count],
    "extractor_name": str,
    "extractor_sha256": str,
    "text_shape": list[Count],
    "text_sha256": str,
    "embeddings_sha256": str,
    "latents_sha256": str,
}
# Those of them that say where something is.
_PLACES = ("data_dir", "teacher", "backbone")
# What a row has beside its step. A value that was not finite is null.
_CLOCK = Annotated[float, Between(0)]
_VALUE = float | None
# The file in a checkpoint, a ZIP, that says which run and step it is of.
_STAMP = "run.json"
_BRING_BACK = "Bring the run's own file back."

_CHECKPOINT_NAME = re.compile(r"step_(\d+)\.keras")
# Names of the files in a run folder that appear whole or not at all.
_WRITTEN = re.compile(
    r"(config|best|summary|diverged|vocabulary|texts)\.json|metrics\.jsonl"
    r"|reference\.npz|curve\.png|step_\d+\.[a-z]+"
)


class RunFolder:
    """The folder of one run.

    Args:
        path: Where it is; it need not exist. `~` is the home folder.

    Raises:
        InputError: It is an address of the network, or there is no such home folder.

    Attributes:
        path: The folder.
        config: The file of all settings.
        metrics: The file of rows, one an interval.
        log: The file of what was said.
        reference: The file of the real images' statistics.
        vocabulary: The file of a text's symbols.
        texts: The file of the texts whose numbers are labels.
        samples: The folder of samples over time.
        checkpoints: The folder of the last checkpoints.
        best: The folder of the best checkpoint, with `best.json`.
        tensorboard: TensorBoard's folder.
        curve: The figure of losses and distance.
        summary: The file of what the run came to.
        diverged: The file that a run leaves which diverged.

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
        self.path = path = local_path(path, writing=True)
        self.config = path / "config.json"
        self.metrics = path / "metrics.jsonl"
        self.log = path / "log.txt"
        self.reference = path / "reference.npz"
        self.vocabulary = path / "vocabulary.json"
        self.texts = path / "texts.json"
        self.samples = path / "samples"
        self.checkpoints = path / "checkpoints"
        self.best = path / "best"
        self.tensorboard = path / "tensorboard"
        self.curve = path / "curve.png"
        self.summary = path / "summary.json"
        self.diverged = path / "diverged.json"
        self._check: Callable[[], None] | None = None

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
            FolderInUse: Another process uses it.
            InputError: It cannot be made or locked, a part of it is in the way of what
                a run writes, or its rows are damaged.
        """
        with hold(
            self.path,
            purpose="run folder",
            busy=f"Another process is training in {self}; wait for it, or choose "
            "another --workdir.",
            gone=f"{self} was removed, renamed or replaced under the run, or its .lock "
            "was; the run stops, and writes nothing more there. Put the folder back "
            "and start again to go on from its last checkpoint.",
        ) as self._check:
            try:
                self._check_parts()
                with _logging_to(self.log):
                    yield
            finally:
                self._check = None

    def _check_parts(self) -> None:
        """Refuses what a run would come upon when it has worked for long."""
        for path in (self.samples, self.checkpoints, self.best, self.tensorboard):
            if os.path.lexists(path) and not path.is_dir():
                raise InputError(
                    f"{printable(path)} is no folder, and a run keeps a folder there: "
                    "remove or rename it."
                )
        for path in (
            *(self.config, self.metrics, self.log, self.reference, self.vocabulary),
            *(self.texts, self.curve, self.summary, self.diverged),
        ):
            if path.is_dir():
                raise InputError(
                    f"{printable(path)} is a folder, and a run keeps a file there: "
                    "remove or rename it."
                )
        self.rows()

    def check_held(self) -> None:
        """Makes sure that this is still the folder that the run has locked.

        To be called before each file is written; see `fid.files.hold`. Where nobody is
        in it by `in_use`, there is nothing to look at.

        Raises:
            InputError: The folder was removed, renamed or replaced.
        """
        if self._check is not None:
            self._check()

    def claim(self, config: Mapping[str, Any]) -> None:
        """Writes config.json, or makes sure that the one there says the same.

        Where the data and the teacher are may change, since they may be moved:
        `data_dir`, `teacher` and `backbone` become the new ones.

        Args:
            config: All that the run depends on, JSON-able.

        Raises:
            InputError: The folder holds a run with another configuration, and the
                message says what differs; or checkpoints without a configuration.
        """
        self.check_held()
        if not self.config.exists():
            if kept := checkpoints(self.checkpoints) | checkpoints(self.best):
                raise InputError(
                    f"{self} has checkpoints, such as {kept[max(kept)].name}, and no "
                    "config.json that says of which settings: bring it back, or choose "
                    "another --workdir."
                )
            write_json(self.config, config)
            return
        there = self._read_config(config.get("extractor"))
        place = {x: config[x] for x in _PLACES if x in config and x in there}
        check_same(
            presets.complete(there | place),
            presets.complete(config),
            f"{self} holds a run with another configuration",
            "Give its settings to go on with it, or choose another --workdir.",
        )
        if there | place != there:
            write_json(self.config, read_object(self.config) | place)

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
        return self._read_config("auto")

    def _read_config(self, extractor: Any) -> dict[str, Any]:
        """Reads config.json, and looks at all of it that it has; see `_renamed`."""
        config = _renamed(read_object(self.config), extractor)
        with self._of_a_run():
            presets.check_settings(config)
        check_values(config, _FACTS, self.config, _BRING_BACK)
        return config

    def preset(self) -> tuple[presets.Preset, str | None]:
        """Returns the settings of the run, and where its data are.

        Returns:
            The preset, and the `data_dir` that the run was last started with.

        Raises:
            InputError: As for `read_config`, or a setting is missing or cannot be.
        """
        config = self.read_config()
        with self._of_a_run():
            if "data_dir" not in config:
                raise presets.SettingsError("it lacks 'data_dir'.")
            return presets.from_settings(config), config["data_dir"]

    @contextlib.contextmanager
    def _of_a_run(self) -> Iterator[None]:
        try:
            yield
        except presets.SettingsError as error:
            raise InputError(
                f"{printable(self.config)} is not the configuration of a training run: "
                f"{error} {_BRING_BACK}"
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
        self.check_held()
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
            return self._best_checkpoint()
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

    def _best_checkpoint(self) -> pathlib.Path:
        """Returns the file beside best.json that it names.

        It names the one that counts, where a crash left two. Those of another folder
        are none: the best one is a copy, which `check_checkpoint` compares with it.
        """
        step, beside = read_best(self.best)["step"], checkpoints(self.best)
        if step not in beside:
            steps = ", ".join(map(str, sorted(beside))) or "none"
            raise InputError(
                f"{printable(self.best / 'best.json')} says that step {step} is the "
                f"best; the checkpoints beside it are of step {steps}. Bring the run's "
                "own files back, or choose another --checkpoint."
            )
        return beside[step]

    def identity(self) -> dict[str, str]:
        """Returns digests of the files that say which run this is, by their names.

        They are those of the settings, of the real images' statistics and of a text's
        symbols; not of their bytes but of what they say: the same statistics computed
        again are the same, and `data_dir` and `teacher` may change when they are moved.
        """
        digests = {
            self.config: _digest_of_settings,
            self.reference: _digest_of_arrays,
            self.vocabulary: sha256_of_file,
            self.texts: sha256_of_file,
        }
        return {x.name: digest(x) for x, digest in digests.items() if x.exists()}

    def digest_of_rows(self, step: int) -> str:
        """Returns the digest of the rows of metrics.jsonl up to a step.

        Args:
            step: The last one that counts.
        """
        rows = (as_line(row) for row in self.rows() if row["step"] <= step)
        return hashlib.sha256("".join(rows).encode()).hexdigest()

    def check_checkpoint(
        self, path: str | os.PathLike[str], fix: str, rows: bool = False
    ) -> dict[str, Any] | None:
        """Makes sure that a checkpoint is of this run, and of the step in its name.

        Args:
            path: The checkpoint.
            fix: What to do where it is not, a sentence.
            rows: Whether its rows must be those of this run, too, since it is going to
                be continued.

        Returns:
            What was recorded with it: `step`, the measured value, and what that rests
            on. None where it does not say, as those of version 0.1 and of 0.2.

        Raises:
            InputError: It is of another run or step, or damaged.
        """
        found = _read_stamp(path, fix)
        if found is None:
            return None
        mine = self.identity()
        if rows:
            mine[self.metrics.name] = self.digest_of_rows(found["record"]["step"])
        for name, digest in found["run"].items():
            if mine.get(name, digest) != digest:
                raise InputError(
                    f"The checkpoint {printable(path)} was made with another {name} "
                    f"than {printable(self.path / name)}: bring the run's own one "
                    f"back. {fix}"
                )
        record = found["record"]
        check_step(path, record["step"], fix)
        note = self.best / "best.json"
        if pathlib.Path(path).parent != self.best or not note.exists():
            return record
        best = read_best(self.best)
        wrong = [x for x in record if not agree(best.get(x), record[x])]
        # After a crash it may name another one that is kept beside this one.
        if wrong and best["step"] == record["step"]:
            raise InputError(
                f"{printable(note)} says that {wrong[0]} is {best.get(wrong[0])!r} at "
                f"step {best['step']}, and {pathlib.Path(path).name} beside it says "
                f"{record[wrong[0]]!r}. {_BRING_BACK}"
            )
        return record

    # ---- the outcome

    @property
    def is_over(self) -> bool:
        """Whether the run is finished or has diverged."""
        return self.summary.exists() or self.diverged.exists()

    def read_summary(self) -> dict[str, Any] | None:
        """Returns what summary.json says; None where the run is not finished."""
        if not self.summary.exists():
            return None
        kinds = {"metric": str, "metric_title": str}
        summary = read_checked(self.summary, kinds, _BRING_BACK)
        check_values(summary, {"last": {"step": Step}}, self.summary, _BRING_BACK)
        return summary

    def read_divergence(self) -> dict[str, Any] | None:
        """Returns `step` and `message` of a run that diverged; None of any other."""
        if not self.diverged.exists():
            return None
        kinds = {"step": Step, "message": str}
        found = read_checked(self.diverged, kinds, _BRING_BACK)
        named = re.search(r"\bstep (\d+)", found["message"])
        if named and int(named[1]) != found["step"]:
            raise InputError(
                f"{printable(self.diverged)} is damaged: step is {found['step']}, and "
                f"message is {found['message']!r}. {_BRING_BACK}"
            )
        return found


def read_rows(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Reads the rows of a file of metrics.

    Args:
        path: The file; a missing one has no rows.

    Returns:
        The rows in order of their steps. A last line that a crash cut short is left
        out.

    Raises:
        InputError: Another line is no row, a row is out of order, or the file cannot be
            read.
    """
    rows = read_json_lines(path, "step", "minutes")
    before = {"step": -1}
    for number, row in enumerate(rows, start=1):
        where, fix = f"{printable(path)}, line {number}", "Mend or delete it."
        kinds = dict.fromkeys(row, _VALUE) | {"step": Step}
        kinds |= {key: _CLOCK for key in WALL_CLOCK if key in row}
        check_values(row, kinds, where, fix)
        if row["step"] <= before["step"]:
            raise InputError(
                f"{where} is damaged: it is of step {row['step']}, the row before of "
                f"step {before['step']}; the steps must rise. {fix}"
            )
        for key in WALL_CLOCK:
            if (now := row.get(key, 0)) < (then := before.get(key, 0)):
                raise InputError(
                    f"{where} is damaged: {key} is {now}, less than {then} in the row "
                    f"before. {fix}"
                )
        before = row
    return rows


def first_at_most(
    values: Iterable[tuple[int, float]], threshold: float, passes: int = 1
) -> int | None:
    """Finds where a value was first reached that is the better the lower it is.

    Args:
        values: (step, value), in order.
        threshold: The value.
        passes: Measurements in a row that have to be at most that.

    Returns:
        The index of the first of the first so many in a row; None where there are none.

    Example:
        >>> values = [(0, 9.0), (10, 4.0), (20, 6.0), (30, 3.0), (40, 2.0)]
        >>> first_at_most(values, 5.0), first_at_most(values, 5.0, passes=2)
        (1, 3)
    """
    streak = 0
    for index, (_, value) in enumerate(values):
        streak = streak + 1 if value <= threshold else 0
        if streak == passes:
            return index - passes + 1
    return None


def last_above(values: Iterable[tuple[int, float]], threshold: float) -> int:
    """Returns the last step at which a value had surely not been reached.

    Of a run that ends in a streak too short to count, the streak may be the beginning
    of one that does: it says nothing against its steps.

    Args:
        values: (step, value), in order.
        threshold: The value.

    Returns:
        The last step whose value is above it, or is no number; 0 where there is none.

    Example:
        >>> last_above([(10, 9.0), (20, 4.0), (30, 6.0), (40, 3.0)], 5.0)
        30
    """
    return max((step for step, value in values if not value <= threshold), default=0)


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

    Raises:
        InputError: What has the name of a checkpoint is a folder.
    """
    found = {}
    for path in pathlib.Path(folder).glob("step_*.keras"):
        if (step := step_of(path)) is None:
            continue
        if path.is_dir():
            raise InputError(
                f"{printable(path)} is a folder and no checkpoint: remove or rename it."
            )
        found[step] = path
    return found


def step_of(path: str | os.PathLike[str]) -> int | None:
    """Returns the step in the name of a checkpoint; None where the name is another.

    Args:
        path: The checkpoint.

    Example:
        >>> step_of("checkpoints/step_00001000.keras"), step_of("mine.keras")
        (1000, None)
    """
    found = _CHECKPOINT_NAME.fullmatch(pathlib.Path(path).name)
    return int(found[1]) if found else None


def check_step(path: str | os.PathLike[str], step: int, fix: str) -> None:
    """Makes sure that a checkpoint holds the step that its name says.

    Args:
        path: The checkpoint.
        step: What it holds.
        fix: What to do where that is another, a sentence.

    Raises:
        InputError: It is another step; a name that says none is as good as any.
    """
    named = step_of(path)
    if named not in (None, step):
        raise InputError(
            f"The checkpoint {printable(path)} holds step {step}, not {named}: bring "
            f"the run's own one back. {fix}"
        )


def read_best(
    folder: str | os.PathLike[str], key: str | None = None
) -> dict[str, Any] | None:
    """Returns what `best.json` says.

    Args:
        folder: The folder of the best checkpoint.
        key: The name of the value that is best when lowest. Without it, an entry
            `step` is enough.

    Returns:
        Its entries; None where there is no such file, and `key` is given.

    Raises:
        InputError: It cannot be read, or an entry is missing or cannot be.
    """
    path = pathlib.Path(folder, "best.json")
    if key is None:
        kinds = {"step": Step}
    elif path.exists():
        kinds = {"file": str, "step": Step, key: float}
    else:
        return None
    best = read_checked(path, kinds, _BRING_BACK)
    if best.get("file", name := checkpoint_name(best["step"])) != name:
        raise InputError(
            f"{printable(path)} is damaged: file is {best['file']!r}, and step is "
            f"{best['step']}. {_BRING_BACK}"
        )
    return best


def agree(one: Any, two: Any) -> bool:
    """Says whether two values of a fact are the same one.

    Args:
        one: A value of JSON's.
        two: Another. Facts that are computed at each start differ in their last digits
            from one processor to another.
    """
    if isinstance(one, float) and isinstance(two, float):
        return math.isclose(one, two, rel_tol=1e-6)
    return one == two


def stamp(
    path: str | os.PathLike[str], run: Mapping[str, str], record: Mapping[str, Any]
) -> None:
    """Writes into a checkpoint which run and step it is of.

    Args:
        path: The checkpoint, a ZIP; Keras does not look at what is added.
        run: What `RunFolder.identity` says, and the digest of the rows.
        record: `step`, the value measured there, and what that rests on.
    """
    text = json.dumps({"run": dict(run), "record": dict(record)}, allow_nan=False)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(_STAMP, text)


def _read_stamp(path: str | os.PathLike[str], fix: str) -> dict[str, Any] | None:
    """Returns what `stamp` wrote, or None where it did not."""
    try:
        with zipfile.ZipFile(path) as archive:
            if _STAMP not in archive.namelist():
                return None
            found = json.loads(archive.read(_STAMP))
        kinds = {"run": Mapping[str, Any], "record": {"step": Step}}
        if wrong := fault(_STAMP, found, kinds):
            raise ValueError(wrong)
    except (OSError, *DAMAGE) as error:
        raise InputError(
            f"The checkpoint {printable(path)} cannot be loaded ({error}). {fix}"
        ) from error
    return found


def _digest_of_settings(path: pathlib.Path) -> str:
    settings = read_object(path)
    for place in _PLACES:
        settings.pop(place, None)
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def _digest_of_arrays(path: pathlib.Path) -> str:
    digest = hashlib.sha256()
    with reading(path), zipfile.ZipFile(path) as archive:
        # The time of making stands beside the arrays, in the provenance.
        for name in sorted({*archive.namelist()} - {"provenance.npy"}):
            digest.update(name.encode() + archive.read(name))
    return digest.hexdigest()


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
    try:
        file = _LogFile(path, encoding="utf-8")
    except OSError as error:
        raise InputError(
            f"Cannot write {printable(path)}: {error.strerror}. Remove it, or choose "
            "another --workdir."
        ) from error
    logger = logging.getLogger("tf_ttur")
    before = logger.level
    logger.setLevel(logging.INFO)
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
