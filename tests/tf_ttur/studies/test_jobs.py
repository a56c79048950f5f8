"""Jobs in real worker processes, and what is said of them."""

import pathlib

import pytest

from fid.files import InputError
from tf_ttur.studies.jobs import Job, RunsFailed, run_jobs
from tf_ttur.studies.machines import Machines, Shard


def write(path, text):
    """Stands for a run: writes a file, or fails."""
    if text is None:
        raise InputError("nothing to write.")
    pathlib.Path(path).write_text(text)
    return {"text": f"wrote {text}"}


def jobs(folder, texts, over=()):
    return [
        Job(f"job {i}", {"path": folder / f"{i}.txt", "text": text}, over=i in over)
        for i, text in enumerate(texts)
    ]


def test_jobs_are_done_and_told_with_those_that_were_finished_before(tmp_path):
    lines = []
    todo = jobs(tmp_path, "abcde", over=(0, 2, 3))
    run_jobs(todo, write, tmp_path / "logs", say=lines.append)
    assert {p.name: p.read_text() for p in tmp_path.glob("*.txt")} == {
        "1.txt": "b", "4.txt": "e",
    }  # fmt: skip
    assert lines[0].startswith("[4/5] job 1: wrote b; about ")
    assert lines[1] == "[5/5] job 4: wrote e"
    assert (tmp_path / "logs" / "worker_0.log").exists()


def test_a_shard_does_its_own_jobs_whichever_are_finished(tmp_path):
    lines = []
    for over in ((), (0, 1, 2)):
        todo = jobs(tmp_path, "abcdef", over)
        machines = Machines(shard=Shard(2, 3))
        run_jobs(todo, write, tmp_path, machines=machines, say=lines.append)
    assert sorted(p.name for p in tmp_path.glob("*.txt")) == ["1.txt", "4.txt"]
    # Each shard has logs of its own.
    assert [p.name for p in tmp_path.glob("*.log")] == ["worker_1.log"]
    assert [line.partition(":")[0] for line in lines] == [
        "[1/2] job 1", "[2/2] job 4", "[2/2] job 4",
    ]  # fmt: skip


def test_nothing_to_do_starts_nothing(tmp_path):
    lines = []
    todo = jobs(tmp_path, "abc", over=range(3))
    run_jobs(todo, write, tmp_path / "logs", say=lines.append)
    machines = Machines(shard=Shard(4, 4))
    run_jobs(todo, write, tmp_path / "logs", machines=machines, say=lines.append)
    assert lines == [
        "All 3 runs are finished.",
        "All 0 runs of shard 4/4 are finished.",
    ]
    assert not (tmp_path / "logs").exists()


def test_a_failure_costs_its_job_only(tmp_path):
    with pytest.raises(RunsFailed, match=r"1 of 3 runs failed, and 0 .*job 1: nothing"):
        run_jobs(jobs(tmp_path, ["a", None, "c"]), write, tmp_path, say=str)
    assert (tmp_path / "2.txt").read_text() == "c"


def test_a_folder_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="Cannot use .*file/logs: Not a directory"):
        run_jobs(jobs(tmp_path, "a"), write, tmp_path / "file" / "logs")
