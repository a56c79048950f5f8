"""BUILD against the code: each module in one target, its deps equal to its imports."""

import ast
import importlib
import pathlib
import sys
import tomllib

import pytest
from repository import ROOT

PACKAGES = ("fid", "tf_ttur", "scripts")
# Import names that differ from the distribution's name in requirements.txt.
DISTRIBUTIONS = {
    "PIL": "pillow",
    "absl": "absl-py",
    "apache_beam": "apache-beam",
    "google": "protobuf",
    "google_crc32c": "google-crc32c",
    "mpl_toolkits": "matplotlib",
    "skimage": "scikit-image",
    "sklearn": "scikit-learn",
    "tensorflow_datasets": "tensorflow-datasets",
    "tensorflow_gan": "tensorflow-gan",
}


def modules():
    paths = (p for package in PACKAGES for p in (ROOT / package).rglob("*.py"))
    return sorted(p.relative_to(ROOT).as_posix() for p in paths)


def targets():
    """The py_library and py_binary calls of BUILD, which is a subset of Python."""
    found = []
    for node in ast.parse((ROOT / "BUILD").read_text()).body:
        call = getattr(node, "value", None)
        if isinstance(call, ast.Call) and call.func.id in ("py_library", "py_binary"):
            values = {k.arg: k.value for k in call.keywords}
            deps = values.get("deps", ast.List([])).elts
            found.append(
                {
                    "name": ast.literal_eval(values["name"]),
                    "srcs": ast.literal_eval(values["srcs"]),
                    "deps": [
                        f"pip:{d.args[0].value}" if isinstance(d, ast.Call) else d.value
                        for d in deps
                    ],
                }
            )
    return found


def imported(path):
    """Modules that a file imports anywhere in it, as dotted names."""
    for node in ast.walk(ast.parse((ROOT / path).read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def expected_deps(path, owner):
    """Deps of a file: `owner` maps our paths to target names."""
    deps = set()
    for name in imported(path):
        top = name.partition(".")[0]
        beside = (pathlib.PurePath(path).parent / f"{top}.py").as_posix()
        if path.startswith("scripts/") and beside in owner:
            deps.add(f":{owner[beside]}")
        elif top in PACKAGES:
            parts = name.split(".")
            # The longest prefix that is a module; `from fid import X` means fid.
            for length in range(len(parts), 0, -1):
                stem = "/".join(parts[:length])
                found = {f"{stem}.py", f"{stem}/__init__.py"} & owner.keys()
                if found:
                    deps.add(f":{owner[found.pop()]}")
                    break
            else:
                raise AssertionError(f"{path} imports {name}, which is no module")
        elif top not in sys.stdlib_module_names:
            deps.add(f"pip:{DISTRIBUTIONS.get(top, top)}")
    return sorted(deps - {f":{owner[path]}"})


def test_every_module_is_in_exactly_one_target():
    assert sorted(src for target in targets() for src in target["srcs"]) == modules()


@pytest.mark.parametrize("target", targets(), ids=lambda target: target["name"])
def test_deps_equal_imports(target):
    owner = {src: t["name"] for t in targets() for src in t["srcs"]}
    expected = sorted({d for src in target["srcs"] for d in expected_deps(src, owner)})
    # A package's __init__ looks its modules up by name when they are used.
    lazy = {
        f":{name}"
        for src, name in owner.items()
        if pathlib.PurePath(src).parent.as_posix() == target["name"]
        and not src.endswith("__init__.py")
    }
    if target["srcs"] == [f"{target['name']}/__init__.py"] and len(expected) == 0:
        assert set(target["deps"]) <= lazy
        return
    assert sorted(target["deps"]) == expected


def test_every_dependency_is_pinned_and_every_module_ships():
    pins = (ROOT / "requirements.txt").read_text().lower().splitlines()
    pinned = {line.partition("==")[0] for line in pins if "==" in line}
    used = {d[4:] for t in targets() for d in t["deps"] if d.startswith("pip:")}
    assert {d.lower() for d in used} <= pinned


def test_installed_programs_are_mains_of_the_scripts_that_the_readme_names():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    readme = (ROOT / "README.md").read_text()
    assert {"ttur-train", "ttur-fid", "ttur-stats"} <= set(project["scripts"])
    for name, target in project["scripts"].items():
        module, _, main = target.partition(":")
        assert callable(getattr(importlib.import_module(module), main))
        assert (ROOT / "scripts" / f"{main}.py").is_file()
        assert f"`{name}`" in readme
