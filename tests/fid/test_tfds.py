"""Folders of prepared data sets, and what TFDS is asked to do for missing ones."""

import re
import subprocess
import sys

import pytest

from fid import InputError
from fid.tfds import (
    data_folder,
    find_prepared,
    prepare,
    prepare_advice,
    prepare_command,
    prepared_versions,
)


def finished(root, name, *versions):
    """Makes folders that look like finished preparations."""
    for version in versions:
        folder = root / name / version
        folder.mkdir(parents=True)
        (folder / "dataset_info.json").touch()
        (folder / "features.json").touch()


def test_the_folder_is_the_given_one_then_that_of_tfds(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("TFDS_DATA_DIR", "~/mine")
    assert data_folder("~/given") == tmp_path / "given"
    assert data_folder() == tmp_path / "mine"
    monkeypatch.delenv("TFDS_DATA_DIR")
    assert data_folder() == tmp_path / "tensorflow_datasets"


def test_versions_are_ordered_as_numbers(tmp_path):
    finished(tmp_path, "lsun/bedroom", "3.9.0", "3.10.0", "10.0.0", "2.0.0")
    found = prepared_versions("lsun/bedroom", tmp_path)
    assert [*found] == [(2, 0, 0), (3, 9, 0), (3, 10, 0), (10, 0, 0)]
    assert found[3, 10, 0] == tmp_path / "lsun/bedroom/3.10.0"
    assert prepared_versions("mnist", tmp_path) == {}


def test_unfinished_preparations_and_other_folders_do_not_count(tmp_path):
    finished(tmp_path, "mnist", "3.0.0", "3.0.0.incompleteABC", "3.0.x")
    for file in ("dataset_info.json", "features.json"):
        finished(tmp_path, f"without_{file}", "1.0.0")
        (tmp_path / f"without_{file}" / "1.0.0" / file).unlink()
        assert prepared_versions(f"without_{file}", tmp_path) == {}
    assert [*prepared_versions("mnist", tmp_path)] == [(3, 0, 0)]


def test_the_newest_version_with_the_same_examples_is_found(tmp_path):
    finished(tmp_path, "mnist", "2.9.9", "3.0.1", "3.0.12", "4.0.0")
    newest = tmp_path / "mnist/3.0.12"
    assert find_prepared("mnist", tmp_path, "3.1.0") == newest
    assert find_prepared("mnist", tmp_path, "1.0.0") is None


def test_the_command_is_python_that_prepares_the_set_there(tmp_path):
    """It is run with a stand-in for TFDS that writes down what it is asked for."""
    (tmp_path / "tensorflow_datasets.py").write_text(
        "class builder:\n"
        "    def __init__(self, name, data_dir): self.asked = name, data_dir\n"
        "    def download_and_prepare(self): print(*self.asked, sep='|')\n"
    )
    command = prepare_command("lsun/bedroom", tmp_path / "a b")
    command = re.sub("^python", sys.executable, command)
    run = subprocess.run(
        command, shell=True, cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert run.stdout == f"lsun/bedroom|{tmp_path}/a b\n"
    advice = prepare_advice("lsun/bedroom", tmp_path)
    assert prepare_command("lsun/bedroom", tmp_path) in advice
    assert "--data_dir" in advice


def test_what_tfds_says_of_a_failure_is_passed_on_with_advice(tmp_path):
    pytest.importorskip("tensorflow_datasets")
    message = r"(?s)could not prepare no_such_set: .* Look elsewhere\.$"
    with pytest.raises(InputError, match=message):
        prepare("no_such_set", tmp_path, "Look elsewhere.")


def test_looking_for_sets_imports_no_tfds(tmp_path):
    program = """
import pathlib, sys
from fid.tfds import find_prepared
assert find_prepared("mnist", pathlib.Path(sys.argv[1]), "3.0.0") is None
assert not {"tensorflow", "tensorflow_datasets"} & sys.modules.keys()
"""
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=True)


def test_a_data_folder_of_no_user_is_named():
    with pytest.raises(InputError, match="~nosuchuser, and there is no such home"):
        data_folder("~nosuchuser/tfds")
