"""Worker processes: what they do, what becomes of them when they fail or are killed."""

import os
import signal

import pytest
from worker_tasks import work

from tf_ttur.studies.workers import Workers, terminable


def ended(workers, *tasks):
    """Runs tasks one after the other; returns what came of each."""
    found = {}
    for index, arguments in enumerate(tasks):
        workers.start(index, **arguments)
        for task, outcome in workers.wait():
            found[task] = outcome
    return [found[index] for index in range(len(tasks))]


def test_a_task_ends_with_what_it_returns(tmp_path):
    with Workers(1, tmp_path, work) as workers:
        assert workers.idle
        one, two = ended(
            workers, {"what": "square", "value": 3}, {"what": "square", "value": 4}
        )
        assert (one["text"], two["text"]) == ("9", "16")
        assert one["pid"] == two["pid"] != os.getpid()


def test_a_process_is_replaced_after_some_tasks(tmp_path, monkeypatch):
    monkeypatch.setattr("tf_ttur.studies.workers._TASKS", 2)
    with Workers(1, tmp_path, work) as workers:
        task = {"what": "square", "value": 3}
        pids = [found["pid"] for found in ended(workers, *5 * [task])]
    assert pids[0] == pids[1]
    assert pids[2] == pids[3]
    assert len({*pids}) == 3


def test_an_error_is_told_and_the_worker_goes_on(tmp_path):
    with Workers(1, tmp_path, work) as workers:
        refused, failed, exhausted, fine = ended(
            workers,
            {"what": "refuse"},
            {"what": "fail"},
            {"what": "exhaust"},
            {"what": "square"},
        )
    assert refused == {"error": "There is no such thing."}
    assert failed == {"error": "ZeroDivisionError: by hand"}
    assert exhausted["error"].startswith("not enough memory (for the model); use fewer")
    assert fine["text"] == "0"
    assert "Traceback" in (tmp_path / "worker_0.log").read_text()


def test_ctrl_c_is_for_the_first_process_and_not_for_its_workers(tmp_path):
    with Workers(1, tmp_path, work) as workers:
        # It begins with the signal blocked, and so cannot die of it while it imports.
        (found,) = ended(workers, {"what": "interrupt"})
    assert found["text"] == "True"
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])


def test_a_dead_worker_is_replaced(tmp_path):
    with Workers(1, tmp_path, work) as workers:
        dead, fine = ended(workers, {"what": "die"}, {"what": "square", "value": 2})
    assert dead["error"].startswith("its process died (SIGKILL); see ")
    assert fine["text"] == "4"


def test_workers_share_the_cores(tmp_path, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    cores = len(os.sched_getaffinity(0))
    with Workers(2 * cores, tmp_path, work) as workers:
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
