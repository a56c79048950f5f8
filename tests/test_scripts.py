"""Scripts in a checkout: with its requirements installed, and without anything."""

import json
import os
import pathlib
import subprocess
import sys
import sysconfig

import numpy as np
import pytest
from repository import ROOT


@pytest.fixture
def run(tmp_path):
    """Runs Python where the requirements are installed and this project is not."""
    packages = tmp_path / "packages"
    packages.mkdir()
    for path in pathlib.Path(sysconfig.get_path("purelib")).iterdir():
        if path.name != "fid" and not path.name.startswith("tf_ttur"):
            (packages / path.name).symlink_to(path)

    def run(*arguments):
        # Without `site`, Python looks into no folder of packages but this, and follows
        # no .pth file, such as an editable install's.
        return subprocess.run(
            [sys.executable, "-S", *map(str, arguments)],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(packages)},
            capture_output=True,
            text=True,
        )

    return run


def test_the_project_is_not_installed_where_these_tests_run_scripts(run):
    assert run("-c", "import numpy, tensorflow_datasets").returncode == 0
    for package in ("fid", "tf_ttur"):
        assert "ModuleNotFoundError" in run("-c", f"import {package}").stderr
    ask = "import importlib.metadata; importlib.metadata.version('tf-ttur')"
    assert "PackageNotFoundError" in run("-c", ask).stderr


def test_a_script_compares_statistics_though_the_project_is_not_installed(
    run, tmp_path
):
    for name, mean in (("a", 0.0), ("b", 2.0)):
        np.savez(tmp_path / f"{name}.npz", mu=np.full(2, mean), sigma=np.eye(2))
    done = run(ROOT / "scripts/compute_fid.py", "a.npz", "b.npz")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-1] == "8.000000"


@pytest.mark.parametrize("name", ["fid", "train", "ngrams"])
def test_a_benchmark_finds_the_packages_though_they_are_not_installed(run, name):
    done = run(ROOT / f"scripts/benchmark_{name}.py", "--help")
    assert done.returncode == 0, done.stderr
    assert f"scripts/benchmark_{name}.py [" in done.stdout


@pytest.mark.slow
def test_training_ends_in_a_summary_though_the_project_is_not_installed(run, tmp_path):
    done = run(
        ROOT / "scripts/train.py", "--steps=1", "--workdir=run", "--set=width=8",
        "--set=extractor=pixels", "--set=num_samples=100", "--set=jit_compile=false",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "run/summary.json").read_text())["versions"]
    assert found.keys() == {"tf-ttur", "tensorflow", "keras", "numpy"}
    assert found["tf-ttur"] in (ROOT / "CITATION.cff").read_text()


def test_without_the_requirements_a_script_says_in_a_line_what_to_install():
    for name in ("train", "compute_fid", "stats"):
        done = subprocess.run(
            [sys.executable, "-E", "-S", ROOT / f"scripts/{name}.py"],
            capture_output=True,
            text=True,
        )
        assert done.returncode == 1
        assert done.stderr.count("\n") == 1
        assert done.stderr.startswith(f"{name}.py: ")
        assert "pip install -r " in done.stderr
