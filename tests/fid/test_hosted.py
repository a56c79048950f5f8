"""The list of the authors' files, and the files that are found on this machine."""

import hostile_arrays
import numpy as np
import pytest

import fid
from fid import hosted


def write(path):
    fid.Statistics(np.zeros(3), np.eye(3)).save(path)
    return path


def test_the_authors_host_six_files():
    names = [each.file for each in hosted.HOSTED]
    assert len(set(names)) == 6
    for each in hosted.HOSTED:
        assert each.url == f"http://bioinf.jku.at/research/ttur/ttur_stats/{each.file}"
        width, height = map(int, each.resolution.split("x"))
        assert width == height
        assert each.count is None or each.count > 10_000


def test_files_are_looked_for_where_the_environment_says(monkeypatch, cache):
    monkeypatch.setenv("TTUR_STATS", "~/stats")
    assert hosted.local_folder().is_absolute()
    monkeypatch.delenv("TTUR_STATS")
    assert hosted.local_folder() == cache / "stats"
    assert hosted.local_files() == []


def test_only_statistics_are_listed_by_name(tmp_path, monkeypatch):
    monkeypatch.setenv("TTUR_STATS", str(tmp_path))
    two, one = write(tmp_path / "b.npz"), write(tmp_path / "a.npz")
    np.savez(tmp_path / "images.npz", images=np.zeros(3))
    (tmp_path / "notes.txt").write_text("no statistics")
    assert hosted.local_files() == [one, two]
    monkeypatch.setenv("TTUR_STATS", str(tmp_path / "none"))
    assert hosted.local_files() == []


@pytest.mark.parametrize("damage", hostile_arrays.DAMAGES)
def test_a_damaged_file_does_not_hide_the_others(damage, tmp_path, monkeypatch):
    monkeypatch.setenv("TTUR_STATS", str(tmp_path))
    good = write(tmp_path / "good.npz")
    hostile_arrays.DAMAGES[damage](write(tmp_path / "bad.npz"))
    assert good in hosted.local_files()


def test_a_folder_in_the_home_of_no_user_is_named(monkeypatch):
    monkeypatch.setenv("TTUR_STATS", "~nosuchuser/stats")
    with pytest.raises(fid.InputError, match="~nosuchuser, and there is no such home"):
        hosted.local_folder()
