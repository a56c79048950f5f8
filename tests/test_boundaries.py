"""Which module may import which, and that each has its file of tests.

`docs/architecture.md` is the map; these tables are the part of it that a test can
check. A module that is in no layer fails the test, so whoever adds one says where it
belongs.
"""

import ast
import importlib
import os
import subprocess
import sys

import pytest
from repository import ROOT, TESTS

PACKAGES = ("fid", "tf_ttur")

# From the ground up. A module imports from its own layer and from those above it in
# these tables. A name stands for a module, or for a package with all that is in it; of
# two names that fit, the longer one counts.
LAYERS = {
    "fid": (
        (
            "files",
            "mistaken",
            "npz",
            "program",
            "drawing",
            "tfds",
            "values",
            "versions",
        ),
        ("sources",),
        ("extractors",),
        ("statistics",),
        ("metrics",),
        ("measure", "comparison"),
        ("hosted", "inspection", "original", "keras_metric", "beam"),
        ("studies",),
        ("cli",),
        ("stats_cli", "__main__"),
    ),
    "tf_ttur": (
        ("presets", "registration"),
        (
            "adabelief",
            "attention",
            "grappler",
            "labels",
            "latents",
            "layers",
            "optimizers",
            "phases",
            "replicas",
            "schedules",
            "spectral",
            "xla",
        ),
        ("structure", "refusals", "first_look", "penalties"),
        ("losses", "tfgan", "ngrams", "termination", "plots", "compilation", "runs"),
        ("datasets", "players"),
        ("image_players",),
        ("gan",),
        ("networks",),
        ("sampling",),
        ("callbacks",),
        ("distillation",),
        ("tasks",),
        ("experiment",),
        ("theory",),
        ("studies",),
        ("cli", "sample_cli"),
        (
            "studies.sweep_cli",
            "studies.sampling_steps_cli",
            "studies.critical_batch_cli",
            "studies.disturbance_cli",
            "theory.cli",
        ),
    ),
}

# What works where neither TensorFlow nor Keras is installed, down to its last import.
WITHOUT_TENSORFLOW = (
    "tf_ttur.runs",
    "tf_ttur.studies.batch_report",
    "tf_ttur.studies.jobs",
    "tf_ttur.studies.ray_workers",
    "tf_ttur.theory.critical_batch",
    "tf_ttur.theory.saddle",
    "tf_ttur.theory.heavy_ball",
    "tf_ttur.theory.stochastic_approximation",
)

# Modules without a test file of their own: none.
WITHOUT_TESTS: set[str] = set()
# Test files of no one module, to be shortened only.
OF_NO_MODULE = {"tf_ttur/test_distribution.py"}


def modules():
    """All modules of both packages, by their dotted names."""
    return {
        ".".join(path.relative_to(ROOT).with_suffix("").parts): path
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
    }


MODULES = modules()


def imports(path):
    """The dotted names that a file imports anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path} has a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def module_of(name):
    """The module of ours that a name is, or is in; None for others' modules."""
    while name:
        for found in (name, f"{name}.__init__"):
            if found in MODULES:
                return found
        name = name.rpartition(".")[0]
    return None


def layer(module):
    """The number of a module's layer, from the ground up."""
    package, _, inside = module.removesuffix(".__init__").partition(".")
    fitting = [
        (len(name), number)
        for number, names in enumerate(LAYERS[package])
        for name in names
        if f"{inside}.".startswith(f"{name}.")
    ]
    assert fitting, f"{module} is in no layer of tests/test_boundaries.py"
    return max(fitting)[1]


def is_root(module):
    """Whether it is a package's own `__init__`, which looks names up by their use."""
    return module.count(".") == 1 and module.endswith(".__init__")


@pytest.mark.parametrize("package", PACKAGES)
def test_no_layer_imports_a_layer_above_it(package):
    upwards = []
    for module, path in MODULES.items():
        if not module.startswith(f"{package}.") or is_root(module):
            continue
        own = layer(module)
        for imported in filter(None, map(module_of, imports(path))):
            if (
                imported.startswith(f"{package}.")
                and not is_root(imported)
                and layer(imported) > own
            ):
                upwards.append(f"{module} imports {imported}")
    assert upwards == []


def test_fid_never_imports_tf_ttur():
    found = [
        f"{module} imports {imported}"
        for module, path in MODULES.items()
        if module.startswith("fid.")
        for imported in imports(path)
        if imported.partition(".")[0] == "tf_ttur"
    ]
    assert found == []


@pytest.mark.parametrize(
    "name", [name for name in WITHOUT_TENSORFLOW if name in MODULES]
)
def test_no_import_leads_to_tensorflow(name):
    seen, ahead, found = set(), [name], []
    while ahead:
        module = ahead.pop()
        if module in seen:
            continue
        seen.add(module)
        for imported in imports(MODULES[module]):
            if ours := module_of(imported):
                ahead.append(ours)
            elif imported.partition(".")[0] in ("tensorflow", "keras"):
                found.append(f"{module} imports {imported}")
    assert found == []


def loaded(statement):
    """The top-level names of all modules that a fresh process has loaded."""
    code = f"{statement}\nimport sys; print(*sorted(sys.modules), file=sys.stderr)"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    result = subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    return {name.partition(".")[0] for name in result.stderr.split()}


def test_a_fresh_process_has_not_loaded_what_is_not_needed():
    names = [name for name in WITHOUT_TENSORFLOW if name in MODULES]
    found = loaded(f"import fid, tf_ttur, {', '.join(names)}")
    assert found >= {"fid", "tf_ttur", "numpy"}
    assert not found & {"tensorflow", "keras", "matplotlib"}


@pytest.mark.parametrize("name", PACKAGES)
def test_a_package_lists_its_public_names_and_no_others(name):
    package = importlib.import_module(name)
    assert dir(package) == sorted(package.__all__)
    assert not {"Any", "annotations", "importlib"} & set(dir(package))
    assert all(hasattr(package, public) for public in dir(package))
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        package.nonsense  # noqa: B018


@pytest.mark.slow
def test_all_of_fid_loads_without_tf_ttur():
    names = [
        name.removesuffix(".__init__")
        for name in MODULES
        if name.startswith("fid.") and name not in ("fid.__main__", "fid.beam")
    ]
    found = loaded(f"import {', '.join(names)}")
    assert "tensorflow" in found
    assert "tf_ttur" not in found


def test_every_module_has_its_file_of_tests():
    missing = set()
    for module in MODULES:
        *folders, name = module.split(".")
        if name not in ("__init__", "__main__"):
            test = TESTS.joinpath(*folders, f"test_{name}.py")
            missing |= set() if test.is_file() else {module}
    # One that has its tests now is to be taken off the list.
    assert missing == WITHOUT_TESTS & set(MODULES)


def test_every_file_of_tests_is_a_modules():
    found = set()
    for package in PACKAGES:
        for test in (TESTS / package).rglob("test_*.py"):
            path = test.relative_to(TESTS)
            name = ".".join([*path.parent.parts, path.stem.removeprefix("test_")])
            if name not in MODULES and f"{name}.__init__" not in MODULES:
                found.add(path.as_posix())
    assert found == {name for name in OF_NO_MODULE if (TESTS / name).is_file()}
