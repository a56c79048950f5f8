"""Kills a program at random moments, and compares its result with an undisturbed one.

A program that writes rows of metrics as it goes, training or a sweep, is killed some
time after so many new rows; one that does not, a study or the statistics of a set of
images, some time after its start.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import IO, Any

import numpy as np
from absl import flags

from fid.files import InputError, lock, original_name, read_json
from fid.mistaken import local_path
from fid.program import Flags, check_arguments, run
from tf_ttur import presets
from tf_ttur.presets.settings import override
from tf_ttur.runs import WALL_CLOCK, RunFolder, checkpoints

__all__ = ["differences", "kill_drill"]

# Fields of metrics.jsonl and summary.json that a clock decides.
_WALL_CLOCK = (*WALL_CLOCK, "measuring_share", "created")
# After a row of metrics come a checkpoint and its copy: moments worth a kill.
_WRITING_SECONDS = 0.1
_TRAIN = "tf_ttur.cli:train"
# A killed sweep's workers end by themselves within so long.
_SECONDS_TO_END = 120.0


@dataclasses.dataclass(frozen=True)
class _Kill:
    """When to kill: `delay` seconds after so many rows were written by this process."""

    signal: signal.Signals
    rows: int
    delay: float


@dataclasses.dataclass(frozen=True)
class _Program:
    """A program that is killed.

    Attributes:
        main: Its module and main.
        arguments: Given the folder of its results.
        runs: The run folders in that, where it trains.
        contents: What counts of its results, by name.
        result: Given the folder: the file that comes last.
    """

    main: str
    arguments: Callable[[pathlib.Path], list[str]]
    runs: Callable[[pathlib.Path], list[RunFolder]]
    contents: Callable[[pathlib.Path], dict[str, Any]]
    result: Callable[[pathlib.Path], pathlib.Path]

    def rows(self, folder: pathlib.Path) -> list[dict[str, Any]]:
        """Returns the rows of all runs."""
        return [row for run in self.runs(folder) for row in run.rows()]


def kill_drill(argv: Sequence[str] | None = None) -> int:
    """Runs `kill_drill.py`; see its `--help`.

    Args:
        argv: Program name and arguments; None means those of the process.

    Returns:
        The exit status: 0 if the two runs are equal.
    """

    def main(args: list[str], values: flags.FlagValues) -> None:
        check_arguments(args)
        program = _PROGRAMS[values.program](values)
        with contextlib.ExitStack() as stack:
            folder = local_path(
                values.workdir
                or stack.enter_context(
                    tempfile.TemporaryDirectory(prefix="kill_drill.")
                ),
                writing=True,
            )
            whole, killed = (folder / x for x in ("whole", "killed"))
            for each in (whole, killed):
                if each.exists():
                    raise InputError(f"{each} exists; choose another --workdir.")
            begin = time.monotonic()
            print(f"whole: {_finished(program, whole)}", flush=True)
            seconds = time.monotonic() - begin
            plan = random.Random(values.seed)
            for number in range(1, values.kills + 1):
                left = values.kills - number + 1
                line = _kill(program, plan, whole, killed, left, seconds)
                print(f"kill {number}/{values.kills}: {line}", flush=True)
            print(f"killed: {_finished(program, killed)}", flush=True)
            found = _different(*map(program.contents, (killed, whole)), killed, whole)
            found += [f"{path} was left" for path in _left(killed)]
            if found:
                more = f"; and {len(found) - 9} more" if len(found) > 9 else ""
                raise InputError(f"The runs differ: {'; '.join(found[:9])}{more}.")
            what = f"{len(program.contents(whole)):,} files, rows and arrays"
            if values.program == "train":
                what = f"{len(program.rows(whole))} rows, checkpoints, best/, samples "
                what += "and summary"
            print(
                f"equal after {values.kills} kills: {what} (wall-clock fields aside), "
                "and nothing was left of files that were being written"
            )

    usage = """Kills a program at random, and compares it with an undisturbed one.

  kill_drill.py [--kills=20] [--preset=NAME] [--steps=N] [--workdir=DIR] [flags]
  kill_drill.py --preset=digits_flash_dmd --teacher=RUN --steps=N [flags]
  kill_drill.py --program=sweep [--preset=NAME] [--steps=N] [flags]
  kill_drill.py --program=disturbance_study [--num_images=N] [flags]
  kill_drill.py --program=precalc_stats --source=IMAGES --inception=PB [flags]

The program is killed by SIGKILL or SIGTERM, and started again, until it has been killed
so many times; then it is left to finish. Exit status 0 only if its result then equals
that of a run that nobody killed, bit for bit: of training and sweeps rows of metrics,
weights, states of the optimizers and of the random numbers, best/, samples and tables;
of a study and of statistics all numbers. Nor may a temporary file be left."""
    return run(main, _define, usage, argv)


# The programs -------------------------------------------------------------------------


def _training(values: flags.FlagValues) -> _Program:
    preset = _preset(values)
    command = [f"--preset={preset.name}", f"--steps={preset.steps}"]
    command += [f"--set={setting}" for setting in values.set]
    if values.batch_size is not None:
        command.append(f"--batch_size={values.batch_size}")
    if values.teacher is not None:
        command.append(f"--teacher={values.teacher}")
    return _Program(
        _TRAIN,
        lambda folder: [*command, f"--workdir={folder}"],
        lambda folder: [RunFolder(folder)],
        lambda folder: _contents(RunFolder(folder)),
        lambda folder: folder / "summary.json",
    )


def _preset(values: flags.FlagValues) -> presets.Preset:
    preset = presets.get(values.preset).override(steps=values.steps)
    return override(preset, values.set)


def _sweeping(values: flags.FlagValues) -> _Program:
    """A sweep of one pair of rates and two seeds: what it adds is between runs."""
    preset = _preset(values)
    command = [f"--preset={preset.name}", f"--steps={preset.steps}", "--seeds=2"]
    command += [f"--set={setting}" for setting in values.set]
    command += [
        f"--{name}={getattr(preset, name)!r}"
        for name in ("discriminator_lr", "generator_lr")
    ]
    if values.batch_size is not None:
        command.append(f"--set=batch_size={values.batch_size}")

    def runs(folder: pathlib.Path) -> list[RunFolder]:
        return [RunFolder(path) for path in sorted(folder.glob("d_*/seed_*"))]

    def contents(folder: pathlib.Path) -> dict[str, Any]:
        found = {
            name: _without_clock(read_json(folder / name))
            for name in ("sweep.json", "table.json")
        }
        for each in runs(folder):
            where = each.path.relative_to(folder).as_posix()
            found |= {f"{where}/{k}": v for k, v in _contents(each).items()}
        return found

    return _Program(
        "tf_ttur.studies.sweep_cli:sweep",
        lambda folder: [*command, f"--workdir={folder}"],
        runs,
        contents,
        lambda folder: folder / "table.md",
    )


def _studying(values: flags.FlagValues) -> _Program:
    def contents(folder: pathlib.Path) -> dict[str, Any]:
        found = {
            name: _without_clock(read_json(folder / name))
            for name in ("settings.json", "study.json")
        }
        for path in (folder / "reference.npz", *folder.glob("cells/*.npz")):
            found |= _numbers(path, path.relative_to(folder).as_posix())
        for path in folder.glob("*.png"):
            found[path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
        return found

    command = [f"--num_images={values.num_images}", "--batch_size=50"]
    if values.inception is not None:
        command.append(f"--inception={values.inception}")
    return _Program(
        "tf_ttur.studies.disturbance_cli:disturbance_study",
        lambda folder: [*command, f"--output={folder}"],
        lambda folder: [],
        contents,
        lambda folder: folder / "study.json",
    )


def _summing(values: flags.FlagValues) -> _Program:
    if values.source is None:
        raise flags.Error("--program=precalc_stats needs --source=IMAGES")
    command = [values.source]
    if values.inception is not None:
        command.append(f"--inception={values.inception}")
    return _Program(
        "fid.cli:precalc_stats",
        lambda folder: [*command, f"--output={folder / 'statistics.npz'}"],
        lambda folder: [],
        lambda folder: _numbers(folder / "statistics.npz", "statistics.npz"),
        lambda folder: folder / "statistics.npz",
    )


_PROGRAMS = {
    "train": _training,
    "sweep": _sweeping,
    "disturbance_study": _studying,
    "precalc_stats": _summing,
}


# What is compared ---------------------------------------------------------------------


def differences(one: str | os.PathLike[str], two: str | os.PathLike[str]) -> list[str]:
    """Compares two run folders bit for bit, wall-clock fields aside.

    Args:
        one: A run folder.
        two: Another.

    Returns:
        A phrase for each difference; empty where there is none.
    """
    return _different(_contents(RunFolder(one)), _contents(RunFolder(two)), one, two)


def _different(
    first: Mapping[str, Any],
    second: Mapping[str, Any],
    one: str | os.PathLike[str],
    two: str | os.PathLike[str],
) -> list[str]:
    return [
        f"{name} is not in {(two if name in first else one)}"
        if (name in first) != (name in second)
        else f"{name} is not the same"
        for name in sorted(first.keys() | second.keys())
        if first.get(name) != second.get(name)
    ]


def _contents(folder: RunFolder) -> dict[str, Any]:
    """Returns what counts of a run folder, by name: values or digests."""
    facts = (folder.config, folder.summary, folder.best / "best.json")
    found: dict[str, Any] = {
        path.relative_to(folder.path).as_posix(): _without_clock(read_json(path))
        for path in facts
    }
    for row in folder.rows():
        found[f"row {row['step']} of metrics.jsonl"] = _without_clock(row)
    for path in folder.samples.iterdir():
        found[f"samples/{path.name}"] = hashlib.sha256(path.read_bytes()).hexdigest()
    for path in _checkpoints(folder):
        for name, digest in _arrays(path):
            found[f"{name} in {path.relative_to(folder.path).as_posix()}"] = digest
    return found


def _numbers(path: pathlib.Path, name: str) -> dict[str, Any]:
    """Returns the digests of the arrays of an `.npz`; its bytes hold the time."""
    found = {}
    with np.load(path, allow_pickle=False) as arrays:
        for key, value in arrays.items():
            if key != "provenance":
                found[f"{key} in {name}"] = hashlib.sha256(value.tobytes()).hexdigest()
    return found


def _left(folder: pathlib.Path) -> list[pathlib.Path]:
    """Returns what is left of files that were being written."""
    return [path for path in folder.rglob(".*") if original_name(path.name)]


def _checkpoints(folder: RunFolder) -> list[pathlib.Path]:
    kept = (folder.checkpoints, folder.best)
    return [path for each in kept for path in checkpoints(each).values()]


def _arrays(path: pathlib.Path) -> Iterator[tuple[str, str]]:
    """Gives name and digest of every array of a checkpoint.

    Its bytes cannot be compared: they hold the time.
    """
    import h5py

    arrays = []

    def visit(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            value = item[()]
            facts = f"{value.dtype} {value.shape} ".encode()
            digest = hashlib.sha256(facts + value.tobytes()).hexdigest()
            arrays.append((name, digest))

    with zipfile.ZipFile(path) as archive:
        weights = io.BytesIO(archive.read("model.weights.h5"))
    with h5py.File(weights) as file:
        file.visititems(visit)
    yield from arrays


# Kills --------------------------------------------------------------------------------


def _kill(
    program: _Program,
    plan: random.Random,
    whole: pathlib.Path,
    killed: pathlib.Path,
    left: int,
    seconds: float,
) -> str:
    """Starts a program, kills it, and says where it was.

    Args:
        program: The program.
        plan: Seeded.
        whole: The folder of the undisturbed one.
        killed: That of the other one.
        left: Kills to come, this one included.
        seconds: How long the undisturbed one took.
    """
    rows = program.rows(whole)
    if rows:
        # Of training it is waited for the start; of a sweep a new row says as much.
        least = 0 if program.main == _TRAIN else 1
        kill = _plan(plan, rows, program.rows(killed), left, least)
        return _killed(program, killed, kill)
    while True:
        if program.result(killed).exists():
            # It had finished: the next one has all its work before it again.
            shutil.rmtree(killed)
        # Nearly half of a short run is the start of Python and TensorFlow.
        delay = plan.uniform(0.4, 1.0) * seconds
        if plan.random() < 0.5:  # Its files are written at the end.
            delay = seconds - plan.uniform(0.0, 20 * _WRITING_SECONDS)
        which = plan.choice((signal.SIGKILL, signal.SIGTERM))
        with contextlib.suppress(_Finished):
            return _killed(program, killed, _Kill(which, 0, max(delay, 0.0)))


class _Finished(Exception):
    """The program had ended before it was to be killed."""


def _plan(
    plan: random.Random,
    whole: list[dict],
    killed: list[dict],
    left: int,
    least: int,
) -> _Kill:
    """Chooses a kill such that all of them fall before the run's end.

    Args:
        plan: Seeded.
        whole: Rows of the undisturbed run.
        killed: Rows of the other one so far.
        left: Kills to come, this one included.
        least: So many new rows are waited for, if that many are to come.
    """
    intervals = max(len(whole) - len(killed), 1)
    # On average the rest of the run in equal parts. Not its last rows.
    rows = max(plan.randint(0, max(1, 2 * intervals // left)), least)
    rows = min(rows, max(intervals - 2, 0))
    # Of a sweep the rows of its last run.
    seconds = 60 * (whole[-1]["minutes"] - whole[0]["minutes"]) / (len(whole) - 1)
    delay = plan.uniform(0, plan.choice((_WRITING_SECONDS, seconds)))
    return _Kill(plan.choice((signal.SIGKILL, signal.SIGTERM)), rows, delay)


def _killed(program: _Program, folder: pathlib.Path, kill: _Kill) -> str:
    """Starts the program, kills it, and says where it was."""
    with _started(program, folder) as (process, output):
        if program.main == _TRAIN:
            _wait_for_start(process, RunFolder(folder))
        before = len(program.rows(folder))
        while process.poll() is None and (
            len(program.rows(folder)) < before + kill.rows
        ):
            time.sleep(0.01)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(kill.delay)
        process.send_signal(kill.signal)
        process.wait()
        said = _read(output)
    _wait_for_workers(program, folder)
    if process.returncode == 0 and not program.runs(folder):
        raise _Finished
    statuses = (-signal.SIGKILL, -signal.SIGTERM, 128 + signal.SIGTERM)
    if process.returncode not in statuses:
        raise InputError(
            f"The run ended with status {process.returncode}, not by the kill "
            f"({' '.join(said.split())[-500:]}). If it had finished, give more "
            "--steps."
        )
    when = f"{kill.signal.name} {kill.delay:.2f} s after "
    status = f"status {process.returncode}"
    if not program.runs(folder):
        there = sorted(path.name for path in folder.rglob("*") if path.is_file())
        return f"{when}the start, {status}; {len(there)} files"
    rows = program.rows(folder)
    names = sorted(
        path.relative_to(folder).as_posix()
        for each in program.runs(folder)
        for path in _checkpoints(each)
    )
    return (
        f"{when}{kill.rows} new rows, {status}; last row: step "
        f"{rows[-1]['step'] if rows else None}; {' '.join(names) or 'no checkpoint'}"
    )


def _wait_for_workers(program: _Program, folder: pathlib.Path) -> None:
    """Waits until nobody trains in the folders: a killed sweep's workers still may."""
    end = time.monotonic() + _SECONDS_TO_END
    for each in program.runs(folder):
        path = each.path / ".lock"
        while path.exists():
            with lock(path) as ours:
                if ours:
                    break
            if time.monotonic() > end:
                raise InputError(f"A process of the killed program is still in {each}.")
            time.sleep(0.1)


def _wait_for_start(process: subprocess.Popen, folder: RunFolder) -> None:
    """Waits until the run has read or made its first checkpoint.

    Most of a short run is the start of Python and TensorFlow, where a kill finds
    nothing to break.
    """
    log = folder.log
    before = log.stat().st_size if log.exists() else 0
    while process.poll() is None:
        if log.exists():
            with open(log, "rb") as file:
                file.seek(before)
                said = file.read()
            if b"Going on from step" in said or b"Measuring " in said:
                return
        time.sleep(0.01)


def _finished(program: _Program, folder: pathlib.Path) -> str:
    """Lets the program finish, and returns what it says of its result."""
    with _started(program, folder) as (process, output):
        process.wait()
        said = _read(output)
    if process.returncode:
        raise InputError(
            f"The run in {folder} ended with status {process.returncode}: "
            f"{' '.join(said.split())[-500:]}"
        )
    lines = said.splitlines()
    return lines[-2 if program.main == _TRAIN else -1]


@contextlib.contextmanager
def _started(
    program: _Program, folder: pathlib.Path
) -> Iterator[tuple[subprocess.Popen, IO[str]]]:
    """Starts a program; gives the process, and a file of what it says."""
    module, _, main = program.main.partition(":")
    code = f"import sys; from {module} import {main}; sys.exit({main}())"
    # Not a pipe, which would stop the run once it is full.
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(
            [sys.executable, "-c", code, *program.arguments(folder)],
            stdout=output,
            stderr=subprocess.STDOUT,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        try:
            yield process, output
        finally:
            process.kill()
            process.wait()


def _read(output: IO[str]) -> str:
    output.seek(0)
    return output.read()


def _without_clock(facts: Any) -> Any:
    if isinstance(facts, list):
        return [*map(_without_clock, facts)]
    if not isinstance(facts, dict):
        return facts
    return {k: _without_clock(v) for k, v in facts.items() if k not in _WALL_CLOCK}


def _define(flag: Flags) -> None:
    flag.choice("program", "train", _PROGRAMS, "What is killed.")
    flag.number("kills", 20, "How many kills.", least=1)
    flag.text("preset", presets.DEFAULT, "The experiment, of training and a sweep.")
    flag.number(
        "steps",
        None,
        "Generator updates of a run; a few intervals more than kills. A sweep makes "
        "two runs.",
    )
    flag.repeated(
        "set",
        "KEY=VALUE: any other setting of the preset, such as --set=every=20; may be "
        "given several times.",
    )
    flag.text(
        "teacher",
        None,
        "The model to distil, of a --preset that distils one; see train.py.",
    )
    flag.number("num_images", 200, "Digits that the study disturbs.", least=2)
    flag.text("source", None, "The images that precalc_stats sums up.")
    flag.inception("The 2015 graph of precalc_stats and, where given, of the study.")
    flag.batch_size("Images per discriminator update.", None, None)
    flag.seed("Seed of the moments.", least=None)
    flag.text(
        "workdir",
        None,
        "Keeps both results, in its folders whole and killed; without it they go to a "
        "temporary one.",
    )
