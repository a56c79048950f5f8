"""Tasks on a real Ray cluster of local nodes, which are killed and stopped."""

import contextlib
import json
import logging
import os
import pathlib
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest
import worker_tasks
from metrics_rows import rows
from ray_cluster import RayCluster
from repository import ROOT, TESTS

from fid.files import InputError
from tf_ttur.studies import ray_workers
from tf_ttur.studies.jobs import Job, run_jobs
from tf_ttur.studies.machines import Machines
from tf_ttur.studies.ray_workers import RayWorkers


@pytest.fixture(scope="module")
def cluster():
    cluster = RayCluster()
    yield cluster
    cluster.close()


def runs(folder, count, steps, seconds=0.25):
    return [
        Job(
            f"run {i}",
            {"folder": folder / f"run_{i}", "count": steps, "seconds": seconds},
        )
        for i in range(count)
    ]


def lines(folder, name):
    path = folder / name
    return path.read_text().splitlines() if path.exists() else []


def wait_for(condition, seconds=400):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def alive(pid):
    try:
        return "spawn_main" in pathlib.Path(f"/proc/{pid}/cmdline").read_text()
    except FileNotFoundError:
        return False


class Background(threading.Thread):
    """Does something to a cluster as soon as a condition holds."""

    def __init__(self, condition, action):
        super().__init__(daemon=True)
        self._condition, self._action, self.did = condition, action, None
        self.start()

    def run(self):
        wait_for(self._condition)
        self.did = self._action()


# Healthy ------------------------------------------------------------------------------


def ended(workers, *tasks):
    """Runs tasks as they find room; returns what came of each."""
    found, waiting = {}, list(enumerate(tasks))
    while waiting or workers.busy:
        while waiting and workers.idle:
            index, arguments = waiting.pop(0)
            workers.start(index, **arguments)
        found |= dict(workers.wait())
    return [found[index] for index in range(len(tasks))]


@pytest.mark.slow
def test_tasks_end_as_those_of_this_machine_do(cluster, tmp_path, caplog):
    with RayWorkers(9, tmp_path, worker_tasks.work, address=cluster.address) as workers:
        assert workers.idle
        workers.start("a", what="square", value=3)
        workers.start("b", what="square", value=4)
        assert not workers.idle  # The two nodes have a core each.
        found = {}
        while workers.busy:
            found |= dict(workers.wait())
        assert (found["a"]["text"], found["b"]["text"]) == ("9", "16")
        assert len({os.getpid(), found["a"]["pid"], found["b"]["pid"]}) == 3
        refused, failed, exhausted, dead = ended(
            workers,
            {"what": "refuse"},
            {"what": "fail"},
            {"what": "exhaust"},
            {"what": "die"},
        )
    assert refused == {"error": "There is no such thing."}
    assert failed == {"error": "ZeroDivisionError: by hand"}
    assert exhausted["error"].startswith("not enough memory (for the model)")
    assert dead["error"].startswith("its process died (SIGKILL); see ")
    logs = sorted(path.name for path in tmp_path.iterdir())
    assert logs == ["worker_0.log", "worker_1.log"]
    assert any("Traceback" in (tmp_path / name).read_text() for name in logs)
    again = [x.getMessage() for x in caplog.records if x.levelno == logging.WARNING]
    assert [text.partition("; it is ")[2] for text in again] == [
        "done again, for time 2 of 3.",
        "done again, for time 3 of 3.",
    ]


@pytest.mark.slow
def test_a_task_is_where_this_process_is(cluster, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TF_TEST_VARIABLE", "1")
    monkeypatch.setenv("OTHER_TEST_VARIABLE", "1")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    made = RayWorkers(
        2, pathlib.Path("."), worker_tasks.surroundings, address=cluster.address
    )
    with made as workers:
        one, two = ended(workers, {}, {})
        # Another program may not have its runs done there meanwhile.
        with pytest.raises(InputError, match=r"Another process has runs done on Ray"):
            RayWorkers(
                1, tmp_path, worker_tasks.work, address=cluster.address
            ).__enter__()
    assert one.pop("pid") != two.pop("pid")
    assert one == two == {
        "text": "fine", "folder": str(tmp_path), "TF_TEST_VARIABLE": "1",
        "OTHER_TEST_VARIABLE": None, "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    assert not (tmp_path / ".ray_probe").exists()


@pytest.mark.slow
def test_a_node_that_does_not_see_the_files_is_named(cluster, tmp_path):
    with RayWorkers(1, tmp_path, worker_tasks.work, address=cluster.address) as workers:
        (tmp_path / ".ray_probe").rename(tmp_path / "elsewhere")
        (found,) = ended(workers, {"what": "square"})
    assert os.uname().nodename in found["error"]
    assert "cannot read" in found["error"]
    # The same, before anything is begun.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.getcwd", lambda: "/nowhere")
        with pytest.raises(InputError) as error:
            RayWorkers(
                1, tmp_path, worker_tasks.work, address=cluster.address
            ).__enter__()
    assert f"The Ray node {os.uname().nodename} cannot be used: it cannot" in (
        str(error.value)
    )
    assert "/nowhere" not in os.environ.get("PWD", "")


@pytest.mark.slow
def test_what_the_cluster_cannot_do_is_refused_before_anything_is_begun(
    cluster, tmp_path
):
    todo = runs(tmp_path, 1, 1)
    for machines, message in (
        (Machines(ray=cluster.address, cores_per_run=2), "has 2 cores for a run: the"),
        (Machines(ray=cluster.address, gpus_per_run=1), "has 1 cores and 1 GPUs for"),
    ):
        with pytest.raises(InputError, match=message):
            run_jobs(todo, worker_tasks.steps, tmp_path, machines=machines)
    assert not (tmp_path / "run_0").exists()


# Failures -----------------------------------------------------------------------------


def said_again(caplog):
    return [x.getMessage() for x in caplog.records if x.levelno == logging.WARNING]


@pytest.mark.slow
def test_a_killed_nodes_runs_are_done_again_none_twice_none_lost(
    cluster, tmp_path, caplog
):
    folders = [tmp_path / f"run_{i}" for i in range(6)]

    def working():
        return [x for x in folders if lines(x, "done") and not lines(x, "ended")]

    killer = Background(
        lambda: len(working()) == 2,
        lambda: cluster.tell(f"kill {lines(working()[-1], 'begun')[-1]}"),
    )
    said = []
    machines = Machines(ray=cluster.address)
    todo = runs(tmp_path, 6, 12)
    run_jobs(todo, worker_tasks.steps, tmp_path, machines=machines, say=said.append)
    cluster.tell("add")
    assert int(killer.did) >= 3  # the raylet, Ray's worker, and the run
    assert len(said) == 6
    begun = [len(lines(folder, "begun")) for folder in folders]
    assert sorted(begun) == [1, 1, 1, 1, 1, 2]
    for folder in folders:
        assert lines(folder, "ended") == ["12"]
        done = [int(step) for step in lines(folder, "done")]
        # Every step; that in which it was cut perhaps twice.
        assert sorted(set(done)) == list(range(12))
        assert len(done) <= 12 + len(lines(folder, "begun")) - 1
    (again,) = said_again(caplog)
    assert again.startswith(f"run {begun.index(2)}: it was lost (")
    assert again.endswith("; it is done again, for time 2 of 3.")


@pytest.mark.slow
def test_a_run_whose_lost_process_lives_on_is_not_done_twice(cluster, tmp_path, caplog):
    folder, gate = tmp_path / "run", tmp_path / "gate"

    def refused():
        return [x for x in said_again(caplog) if "still has its folder" in x]

    orphan = Background(
        lambda: lines(folder, "done"),
        lambda: cluster.tell(f"orphan {lines(folder, 'begun')[0]}"),
    )
    Background(lambda: len(refused()) == 2, gate.touch)
    todo = [Job("run", {"folder": folder, "count": 4, "gate": gate})]
    said = []
    machines = Machines(ray=cluster.address)
    run_jobs(todo, worker_tasks.steps, tmp_path, machines=machines, say=said.append)
    cluster.tell("add")
    assert int(orphan.did) >= 2
    lost, *waits = said_again(caplog)
    assert lost.startswith("run: it was lost (")
    assert [x.partition("; ")[2] for x in waits][:2] == [
        "it is tried again in 2 s.", "it is tried again in 5 s.",
    ]  # fmt: skip
    # The lost one did it, and the other one found it done.
    assert said == ["[1/1] run: had ended"]
    assert len(lines(folder, "begun")) == 2
    assert lines(folder, "done") == ["0", "1", "2", "3"]
    assert lines(folder, "ended") == ["4"]


# Runs of two minutes, of which each is begun and none is finished.
DRIVER = """
import pathlib, sys
import worker_tasks
from tf_ttur.studies.jobs import Job, run_jobs
from tf_ttur.studies.machines import Machines
folder = pathlib.Path(sys.argv[1])
jobs = [
    Job(name, {"folder": folder / name, "count": 480}) for name in ("run_0", "run_1")
]
machines = Machines(ray=sys.argv[2])
run_jobs(jobs, worker_tasks.steps, folder, machines=machines)
"""


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_runs_end_with_the_process_that_started_them(cluster, tmp_path, number):
    process = subprocess.Popen(
        [sys.executable, "-c", DRIVER, tmp_path, cluster.address],
        env=os.environ | {"PYTHONPATH": f"{ROOT}:{TESTS}"},
        stderr=subprocess.DEVNULL,
    )
    folders = [tmp_path / f"run_{i}" for i in range(2)]
    wait_for(lambda: all(lines(folder, "done") for folder in folders))
    pids = [int(lines(folder, "begun")[0]) for folder in folders]
    assert all(map(alive, pids))
    process.send_signal(number)
    status = process.wait(100)
    if number == signal.SIGTERM:
        assert status == 128 + number
    if number == signal.SIGKILL:
        wait_for(lambda: not any(map(alive, pids)), 60)
    assert not any(map(alive, pids))
    assert (tmp_path / ".ray_probe").exists() == (number == signal.SIGKILL)


@pytest.mark.slow
def test_a_sweep_on_two_nodes_of_which_one_is_killed_is_the_sweep_of_one_machine(
    cluster, tmp_path, classifier
):
    flags = ["--pairs=3e-4:1e-4,1e-4:1e-4", "--seeds=1", "--steps=20", "--every=2"]
    flags += ["--num_samples=64", "--set=width=2", "--set=batch_size=16"]
    flags += ["--set=jit_compile=False"]

    def begin(name, *more):
        program = [sys.executable, ROOT / "scripts/sweep.py", f"--workdir={name}"]
        return subprocess.Popen(
            [*program, *flags, *more],
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def end(process):
        out, error = process.communicate()
        assert process.returncode == 0, error
        return out, error

    folders = [
        pathlib.Path(f"d_{rate}_g_0.0001/seed_0") for rate in ("0.0003", "0.0001")
    ]
    there = [tmp_path / "ray" / folder for folder in folders]
    process = begin("ray", f"--ray={cluster.address}")
    wait_for(lambda: len(lines(there[0], "metrics.jsonl")) > 3)
    (pid,) = {
        x
        for x in map(int, filter(str.isdecimal, os.listdir("/proc")))
        if alive(x) and holds(x, there[0] / ".lock")
    }
    assert not (there[0] / "summary.json").exists()
    assert int(cluster.tell(f"kill {pid}")) >= 3
    cluster.tell("add")
    out, error = end(process)
    end(begin("here", "--processes=2"))
    said = [line for line in error.splitlines() if line.startswith("[")]
    assert [line.partition("]")[0] for line in said] == ["[1/2", "[2/2"]
    assert len({line.partition("]")[2].partition(":")[0] for line in said}) == 2
    assert error.count("it is done again, for time 2 of 3.") == 1
    for folder in folders:
        one, two = (
            [
                {key: value for key, value in row.items() if "minutes" not in key}
                for row in rows(tmp_path / name / folder)
            ]
            for name in ("here", "ray")
        )
        assert [row["step"] for row in one] == list(range(0, 21, 2))
        assert one == two
    one, two = (
        json.loads((tmp_path / name / "table.json").read_text())
        for name in ("here", "ray")
    )
    for cell in (*one["cells"], *two["cells"]):
        del cell["minutes"]
    assert one == two
    assert out.splitlines() == (tmp_path / "ray/table.md").read_text().splitlines()


def holds(pid, path):
    """Whether a process has a file open."""
    try:
        handles = list(pathlib.Path(f"/proc/{pid}/fd").iterdir())
        return any(handle.readlink() == path for handle in handles)
    except OSError:
        return False


# Without a cluster --------------------------------------------------------------------


def test_the_extra_that_is_missing_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r"--ray needs ray, .* 'tf-ttur\[ray\]'"):
        Machines(ray="auto").workers(1, tmp_path, worker_tasks.work)


def test_a_cluster_that_does_not_answer_is_told(tmp_path, monkeypatch):
    def init(**_):
        raise ConnectionError("Could not find any running Ray instance.\nMore of it.")

    monkeypatch.setattr("ray.init", init)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        nobody = f"127.0.0.1:{free.getsockname()[1]}"
    for address, why in (
        ("auto", "Could not find any running Ray instance"),
        (nobody, r"\[Errno \d+\] Connection refused"),
        ("127.0.0.1:99999", ".*"),
    ):
        match = rf"--ray={address}: no Ray cluster answers there \({why}\)\. Start"
        with pytest.raises(InputError, match=match):
            RayWorkers(1, tmp_path, worker_tasks.work, address=address).__enter__()
    assert not list(tmp_path.iterdir())


def test_what_rays_threads_print_is_not_among_the_results(capsys):
    theirs, ours = (threading.Thread(target=print, args=(x,)) for x in "ab")
    with contextlib.redirect_stdout(ray_workers._Output(sys.stdout, {theirs})):
        for thread in (theirs, ours):
            thread.start()
            thread.join()
        print("c", flush=True)
    assert capsys.readouterr() == ("b\nc\n", "a\n")


def test_a_task_is_given_up_when_it_was_lost_often():
    dead, refused = {"error": "it died.", "died": True}, {"error": "", "in_use": True}
    task = ray_workers._Task("a", {}, 0)
    for outcome in ({"error": "no data"}, {"text": "fine"}):
        assert task.seconds_to_retry(outcome) is None
    assert task.seconds_to_retry(dead) == 0
    waits = []
    while (seconds := task.seconds_to_retry(refused)) is not None:
        waits.append(seconds)
    assert waits == sorted(waits)
    assert 200 < sum(waits) < 600
    assert task.seconds_to_retry(dead) == 0
    assert task.seconds_to_retry(dead) is None


def test_a_place_is_where_the_probe_is_and_its_lock_is_seen(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TF_XLA_FLAGS", "--a --tf_xla_persistent_cache_directory=/b")
    with ray_workers._probe(pathlib.Path(".")) as place:
        assert place.variables["TF_XLA_FLAGS"] == "--a"
        assert place.compiled
        monkeypatch.chdir("/")
        assert place.fault() is None
        assert pathlib.Path.cwd() == tmp_path
        probe = tmp_path / ".ray_probe"
        probe.rename(tmp_path / "kept")
        assert "cannot read" in place.fault()
        assert str(probe) in place.fault()
        probe.write_text("other")
        assert "is another file there" in place.fault()
        # The same content without the lock: a file system that keeps locks to a node.
        probe.write_text((tmp_path / "kept").read_text())
        assert "is locked, and that is not seen there" in place.fault()


def test_the_handler_of_sigterm_is_what_it_was(cluster, tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    with RayWorkers(1, tmp_path, worker_tasks.work, address=cluster.address):
        pass
    assert signal.getsignal(signal.SIGTERM) == before
