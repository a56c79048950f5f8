"""Jobs in real worker processes, and what is said of them."""

import pathlib

import pytest

from fid.files import InputError
from tf_ttur.studies.jobs import Job, RunsFailed, run_jobs


def write(path, text):
    """Stands for a run: writes a file, or fails."""
    if text is None:
        raise InputError("nothing to write.")
    pathlib.Path(path).write_text(text)
    return {"text": f"wrote {text}"}


def jobs(folder, texts):
    return [
        Job(f"job {i}", {"path": folder / f"{i}.txt", "text": text})
        for i, text in enumerate(texts)
    ]


def test_jobs_are_done_and_told_with_those_that_were_finished_before(tmp_path):
    lines = []
    run_jobs(jobs(tmp_path, "ab"), write, tmp_path, total=5, say=lines.append)
    assert [(tmp_path / f"{i}.txt").read_text() for i in range(2)] == ["a", "b"]
    assert lines[0].startswith("[4/5] job 0: wrote a; about ")
    assert lines[1] == "[5/5] job 1: wrote b"


def test_nothing_to_do_starts_nothing(tmp_path):
    lines = []
    run_jobs([], write, tmp_path, total=3, say=lines.append, make_workers=None)
    assert lines == ["All 3 runs are finished."]


def test_a_failure_costs_its_job_only(tmp_path):
    with pytest.raises(RunsFailed, match=r"1 of 3 runs failed, and 0 .*job 1: nothing"):
        run_jobs(jobs(tmp_path, ["a", None, "c"]), write, tmp_path, say=str)
    assert (tmp_path / "2.txt").read_text() == "c"


def test_the_number_of_processes_is_checked(tmp_path):
    with pytest.raises(InputError, match="number of processes is 0"):
        run_jobs(jobs(tmp_path, "a"), write, tmp_path, processes=0)
