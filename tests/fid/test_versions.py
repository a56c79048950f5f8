"""The versions that results carry."""

import tomllib

import numpy as np
import pytest
from repository import ROOT

from fid.files import InputError
from fid.versions import VERSION, versions


def test_versions_are_those_of_the_packages_themselves():
    found = versions("tf-ttur", "numpy")
    assert found == {"tf-ttur": VERSION, "numpy": np.__version__}


def test_a_package_that_is_missing_is_named_with_the_command_that_installs_it():
    with pytest.raises(InputError, match=r"no-such-package is not installed.*-r req"):
        versions("numpy", "no-such-package")


def test_no_other_module_asks_for_a_version():
    # There it would be a traceback where a distribution is not installed.
    asking = {
        path.relative_to(ROOT).as_posix()
        for package in ("fid", "tf_ttur")
        for path in (ROOT / package).rglob("*.py")
        if "importlib.metadata" in path.read_text()
    }
    assert asking == {"fid/versions.py"}


def test_every_file_that_states_the_version_states_the_same():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["project"]["dynamic"] == ["version"]
    path = project["tool"]["hatch"]["version"]["path"]
    assert f'VERSION = "{VERSION}"\n' in (ROOT / path).read_text()
    assert f"\nversion: {VERSION}\n" in (ROOT / "CITATION.cff").read_text()
    assert f'version = "{VERSION}"' in (ROOT / "MODULE.bazel").read_text()
