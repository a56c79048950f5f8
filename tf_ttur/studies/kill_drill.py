"""Kills a training run at random moments, and compares it with an undisturbed one."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import os
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator, Sequence
from typing import IO, Any

from absl import flags

from fid.files import InputError, read_json
from fid.program import Flags, check_arguments, run
from tf_ttur import presets
from tf_ttur.runs import WALL_CLOCK, RunFolder, checkpoints

__all__ = ["differences", "kill_drill"]

# Fields of metrics.jsonl and summary.json that a clock decides.
_WALL_CLOCK = (*WALL_CLOCK, "measuring_share")
# After a row of metrics come a checkpoint and its copy: moments worth a kill.
_WRITING_SECONDS = 0.1


@dataclasses.dataclass(frozen=True)
class _Kill:
    """When to kill: `delay` seconds after so many rows were written by this process."""

    signal: signal.Signals
    rows: int
    delay: float


def kill_drill(argv: Sequence[str] | None = None) -> int:
    """Runs `kill_drill.py`; see its `--help`.

    Args:
        argv: Program name and arguments; None means those of the process.

    Returns:
        The exit status: 0 if the two runs are equal.
    """

    def main(args: list[str], values: flags.FlagValues) -> None:
        check_arguments(args)
        preset = presets.get(values.preset).override(steps=values.steps)
        command = [f"--preset={preset.name}", f"--steps={preset.steps}"]
        if values.batch_size is not None:
            command.append(f"--batch_size={values.batch_size}")
        with contextlib.ExitStack() as stack:
            folder = values.workdir or stack.enter_context(
                tempfile.TemporaryDirectory(prefix="kill_drill.")
            )
            whole, killed = (
                RunFolder(pathlib.Path(folder, x)) for x in ("whole", "killed")
            )
            for each in (whole, killed):
                if each.path.exists():
                    raise InputError(f"{each} exists; choose another --workdir.")
            print(f"whole: {_finished(command, whole)}", flush=True)
            plan = random.Random(values.seed)
            for number in range(1, values.kills + 1):
                left = values.kills - number + 1
                kill = _plan(plan, whole.rows(), killed.rows(), left)
                line = _killed(command, killed, kill)
                print(f"kill {number}/{values.kills}: {line}", flush=True)
            print(f"killed: {_finished(command, killed)}", flush=True)
            if found := differences(killed, whole):
                more = f"; and {len(found) - 9} more" if len(found) > 9 else ""
                raise InputError(f"The runs differ: {'; '.join(found[:9])}{more}.")
            print(
                f"equal after {values.kills} kills: {len(whole.rows())} rows, "
                "checkpoints, best/, samples and summary (wall-clock fields aside)"
            )

    usage = """Kills a training run at random, and compares it with an undisturbed one.

  kill_drill.py [--kills=20] [--preset=NAME] [--steps=N] [--workdir=DIR] [flags]

The run is killed by SIGKILL or SIGTERM, and started again, until it has been killed so
many times; then it is left to finish. Exit status 0 only if its rows of metrics,
weights, states of the optimizers and of the random numbers, best/ and samples then
equal, bit for bit, those of a run that nobody killed."""
    return run(main, _define, usage, argv)


def differences(one: str | os.PathLike[str], two: str | os.PathLike[str]) -> list[str]:
    """Compares two run folders bit for bit, wall-clock fields aside.

    Args:
        one: A run folder.
        two: Another.

    Returns:
        A phrase for each difference; empty where there is none.
    """
    first, second = _contents(RunFolder(one)), _contents(RunFolder(two))
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


def _plan(
    plan: random.Random, whole: list[dict], killed: list[dict], left: int
) -> _Kill:
    """Chooses a kill such that all of them fall before the run's end.

    Args:
        plan: Seeded.
        whole: Rows of the undisturbed run.
        killed: Rows of the other one so far.
        left: Kills to come, this one included.
    """
    intervals = max(len(whole) - len(killed), 1)
    # On average the rest of the run in equal parts. Not its last rows.
    rows = min(plan.randint(0, max(1, 2 * intervals // left)), max(intervals - 2, 0))
    seconds = 60 * (whole[-1]["minutes"] - whole[0]["minutes"]) / (len(whole) - 1)
    delay = plan.uniform(0, plan.choice((_WRITING_SECONDS, seconds)))
    return _Kill(plan.choice((signal.SIGKILL, signal.SIGTERM)), rows, delay)


def _killed(command: list[str], folder: RunFolder, kill: _Kill) -> str:
    """Starts the run, kills it, and says where it was."""
    with _started(command, folder) as (process, output):
        _wait_for_start(process, folder)
        target = len(folder.rows()) + kill.rows
        while process.poll() is None and len(folder.rows()) < target:
            time.sleep(0.01)
        time.sleep(kill.delay)
        process.send_signal(kill.signal)
        process.wait()
        said = _read(output)
    if process.returncode not in (-signal.SIGKILL, 128 + signal.SIGTERM):
        raise InputError(
            f"The run ended with status {process.returncode}, not by the kill "
            f"({' '.join(said.split())[-500:]}). If it had finished, give more "
            "--steps."
        )
    rows = folder.rows()
    names = sorted(
        path.relative_to(folder.path).as_posix() for path in _checkpoints(folder)
    )
    return (
        f"{kill.signal.name} {kill.delay:.2f} s after "
        f"{kill.rows} new rows, status {process.returncode}; last row: step "
        f"{rows[-1]['step'] if rows else None}; {' '.join(names) or 'no checkpoint'}"
    )


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


def _finished(command: list[str], folder: RunFolder) -> str:
    """Lets the run finish, and returns what it says of its result."""
    with _started(command, folder) as (process, output):
        process.wait()
        said = _read(output)
    if process.returncode:
        raise InputError(
            f"The run in {folder} ended with status {process.returncode}: "
            f"{' '.join(said.split())[-500:]}"
        )
    return said.splitlines()[-2]


@contextlib.contextmanager
def _started(
    command: list[str], folder: RunFolder
) -> Iterator[tuple[subprocess.Popen, IO[str]]]:
    """Starts the training program; gives the process, and a file of what it says."""
    # Not a pipe, which would stop the run once it is full.
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM, *command, f"--workdir={folder}"],
            stdout=output,
            stderr=subprocess.STDOUT,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        try:
            yield process, output
        finally:
            process.kill()
            process.wait()


_PROGRAM = "import sys; from tf_ttur.cli import train; sys.exit(train())"


def _read(output: IO[str]) -> str:
    output.seek(0)
    return output.read()


def _without_clock(facts: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in facts.items() if name not in _WALL_CLOCK}


def _define(flag: Flags) -> None:
    flag.number("kills", 20, "How many kills.", least=1)
    flag.text("preset", presets.DEFAULT, "The experiment.")
    flag.number(
        "steps", None, "Generator updates in all; a few intervals more than kills."
    )
    flag.batch_size("Images per discriminator update.", None, None)
    flag.seed("Seed of the moments.", least=None)
    flag.text(
        "workdir",
        None,
        "Keeps both runs, in its folders whole and killed; without it they go to a "
        "temporary one.",
    )
