"""Worker processes: what they do, what becomes of them when they fail or are killed."""

import os
import signal

import pytest

from fid.files import InputError
from tf_ttur.studies.workers import Workers, terminable


def work(what, value=0):
    """What the workers do here, found by its name in their processes."""
    if what == "square":
        return {"text": str(value**2), "pid": os.getpid()}
    if what == "threads":
        return {"text": os.environ["OMP_NUM_THREADS"]}
    if what == "refuse":
        raise InputError("There is no such thing.")
    if what == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    raise ZeroDivisionError("by hand")


def ended(workers, *tasks):
    """Runs tasks one after the other; returns what came of each."""
    found = {}
    for index, arguments in enumerate(tasks):
        workers.start(index, **arguments)
        for task, outcome in workers.wait():
            found[task] = outcome
    return [found[index] for index in range(len(tasks))]


@pytest.fixture
def importable(monkeypatch):
    """Lets the workers' processes find this module by the name it has here."""
    folder = os.path.dirname(os.path.abspath(__file__))
    path = os.pathsep.join(filter(None, (folder, os.environ.get("PYTHONPATH"))))
    monkeypatch.setenv("PYTHONPATH", path)
    import sys

    monkeypatch.syspath_prepend(folder)
    import test_workers

    yield test_workers.work
    sys.modules.pop("test_workers", None)


def test_a_task_ends_with_what_it_returns(tmp_path, importable):
    with Workers(1, tmp_path, importable) as workers:
        assert workers.idle
        one, two = ended(
            workers, {"what": "square", "value": 3}, {"what": "square", "value": 4}
        )
        assert (one["text"], two["text"]) == ("9", "16")
        assert one["pid"] == two["pid"] != os.getpid()


def test_an_error_is_told_and_the_worker_goes_on(tmp_path, importable):
    with Workers(1, tmp_path, importable) as workers:
        refused, failed, fine = ended(
            workers, {"what": "refuse"}, {"what": "fail"}, {"what": "square"}
        )
    assert refused == {"error": "There is no such thing."}
    assert failed == {"error": "ZeroDivisionError: by hand"}
    assert fine["text"] == "0"
    assert "Traceback" in (tmp_path / "worker_0.log").read_text()


def test_a_dead_worker_is_replaced(tmp_path, importable):
    with Workers(1, tmp_path, importable) as workers:
        dead, fine = ended(workers, {"what": "die"}, {"what": "square", "value": 2})
    assert dead["error"].startswith("its process died (SIGKILL); see ")
    assert fine["text"] == "4"


def test_workers_share_the_cores(tmp_path, importable, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    cores = len(os.sched_getaffinity(0))
    with Workers(2 * cores, tmp_path, importable) as workers:
        (found,) = ended(workers, {"what": "threads"})
    assert found["text"] == "1"
    assert "OMP_NUM_THREADS" not in os.environ


def test_sigterm_unwinds_the_stack():
    unwound = []
    with pytest.raises(SystemExit) as end, terminable():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            signal.pause()
        finally:
            unwound.append(True)
    assert end.value.code == 128 + signal.SIGTERM
    assert unwound
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
