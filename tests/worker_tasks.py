"""What worker processes do in tests; they find it by its name."""

import os
import signal
import time

from fid.files import InputError, read_json, write_json
from tf_ttur.runs import RunFolder, as_line


def work(what, value=0):
    """Squares a number, tells of its threads and signals, or fails in some way."""
    if what == "square":
        return {"text": str(value**2), "pid": os.getpid()}
    if what == "threads":
        return {"text": os.environ["OMP_NUM_THREADS"]}
    if what == "interrupt":
        os.kill(os.getpid(), signal.SIGINT)
        return {"text": str(signal.SIGINT in signal.pthread_sigmask(0, []))}
    if what == "exhaust":
        raise MemoryError("for the model")
    if what == "refuse":
        raise InputError("There is no such thing.")
    if what == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    raise ZeroDivisionError("by hand")


def steps(folder, count, seconds=0.25, gate=None):
    """Stands for a run: steps with a checkpoint after each, in a folder it locks.

    It leaves a line in `begun` for each time it begins, in `done` for each step, and in
    `ended` for each time it ends. With a gate, no signal ends it, and it waits for that
    file before its last step.
    """
    if gate is not None:
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
    folder = RunFolder(folder)
    with folder.in_use():
        tell(folder.path / "begun", os.getpid())
        if folder.summary.exists():
            return {"text": "had ended"}
        checkpoint = folder.path / "checkpoint.json"
        start = read_json(checkpoint) if checkpoint.exists() else 0
        for step in range(start, count):
            while gate is not None and step == count - 1 and not gate.exists():
                time.sleep(seconds)
            time.sleep(seconds)
            tell(folder.path / "done", step)
            write_json(checkpoint, step + 1)
        tell(folder.path / "ended", count)
        write_json(folder.summary, count)
    return {"text": f"steps {start} to {count}"}


def tell(path, what):
    with open(path, "a") as file:
        file.write(f"{what}\n")


def surroundings():
    """Tells where a task is done."""
    names = ("OMP_NUM_THREADS", "TF_TEST_VARIABLE", "OTHER_TEST_VARIABLE")
    variables = {name: os.environ.get(name) for name in names}
    return {"text": "fine", "folder": os.getcwd(), "pid": os.getpid()} | variables


def three_rows(preset, folder, **_):
    """Stands for training: three measurements, of which one run diverges after one."""
    diverges = preset.name.endswith("orig") and preset.seed == 1
    steps = 1 if diverges else 3
    config = preset.settings() | {"data_dir": None, "extractor_name": "inception_2015"}
    folder.path.mkdir(parents=True)
    folder.claim(config)
    rows = [{"step": i, "minutes": 0, "fid": 9.0 - i} for i in range(steps)]
    folder.metrics.write_text("".join(map(as_line, rows)))
    if diverges:
        write_json(folder.diverged, {"step": 1, "message": "d_loss became nan"})
        return {"text": "diverged at step 1"}
    write_json(folder.summary, {})
    return {"text": "fine"}
