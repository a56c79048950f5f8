"""BUILD, the pins and the wheel against the code: modules, imports, no cycles."""

import ast
import graphlib
import importlib
import importlib.metadata
import itertools
import re
import sys
import tomllib

import pytest
from hatchling.builders.wheel import WheelBuilder
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from repository import ROOT

PACKAGES = ("fid", "tf_ttur")
FOLDERS = (*PACKAGES, "scripts", "tests")
# Import names that differ from the distribution's name in requirements.txt.
DISTRIBUTIONS = {
    "PIL": "pillow",
    "absl": "absl-py",
    "apache_beam": "apache-beam",
    "google": "protobuf",
    "google_crc32c": "google-crc32c",
    "keras_hub": "keras-hub",
    "mpl_toolkits": "matplotlib",
    "skimage": "scikit-image",
    "sklearn": "scikit-learn",
    "tensorflow_datasets": "tensorflow-datasets",
    "tensorflow_gan": "tensorflow-gan",
    "tensorflow_probability": "tensorflow-probability",
}


def modules(*folders):
    paths = itertools.chain.from_iterable((ROOT / f).rglob("*.py") for f in folders)
    return sorted(path.relative_to(ROOT).as_posix() for path in paths)


def targets():
    """The libraries and programs of BUILD: name -> (srcs, deps).

    BUILD is a program in a subset of Python, so it is run, with these functions in the
    place of Bazel's.
    """
    found = {}

    def target(name, srcs, deps=(), **_):
        assert name not in found
        found[name] = srcs, deps

    def glob(include, exclude=()):
        """Bazel's: each pattern has to match something."""
        excluded = {path for pattern in exclude for path in ROOT.glob(pattern)}
        assert all(any(ROOT.glob(pattern)) for pattern in (*include, *exclude))
        paths = {path for pattern in include for path in ROOT.glob(pattern)}
        return [path.relative_to(ROOT).as_posix() for path in paths - excluded]

    functions = dict.fromkeys(
        ("load", "package", "licenses", "exports_files"), lambda *_, **__: None
    )
    functions |= dict.fromkeys(("py_library", "py_binary"), target)
    functions |= {"glob": glob, "requirement": "@pip//{}".format}
    exec(compile((ROOT / "BUILD").read_text(), "BUILD", "exec"), functions)
    return found


TARGETS = targets()
OWNERS = {src: name for name, (srcs, _) in TARGETS.items() for src in srcs}


def imported(path):
    """Dotted names that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse((ROOT / path).read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") == "launch":
            # A script names its main as "module:function".
            yield node.args[0].value.replace(":", ".")


def dependency(path, name):
    """What `path` needs for importing `name`; None for the standard library."""
    folder, (top, *rest) = path.partition("/")[0], name.split(".")
    if top in PACKAGES and top != folder:
        return f":{top}"  # the whole of another package
    if top in PACKAGES:
        for length in range(len(rest), 0, -1):  # the longest prefix that is a module
            stem = "/".join([top, *rest[:length]])
            for source in (f"{stem}.py", f"{stem}/__init__.py"):
                if source in OWNERS:
                    return f":{OWNERS[source]}"
        return f":{top}"  # a name of its __init__
    # Scripts and tests find what lies beside them in their first folder.
    if f"{folder}/{top}.py" in OWNERS:
        return f":{OWNERS[f'{folder}/{top}.py']}"
    if top in sys.stdlib_module_names:
        return None
    return f"@pip//{DISTRIBUTIONS.get(top, top)}"


def needed(name):
    """The deps of a target, from what its modules import."""
    srcs, _ = TARGETS[name]
    if name in PACKAGES:
        # Its __init__ looks every module up when it is used.
        return {f":{OWNERS[path]}" for path in modules(name)} - {f":{name}"}
    found = {dependency(path, module) for path in srcs for module in imported(path)}
    return found - {None, f":{name}"}


def test_every_module_is_in_exactly_one_target():
    srcs = [src for srcs, _ in TARGETS.values() for src in srcs]
    assert sorted(srcs) == modules(*FOLDERS)


@pytest.mark.parametrize("name", TARGETS)
def test_the_deps_of_a_target_are_what_its_modules_import(name):
    _, deps = TARGETS[name]
    assert sorted(deps) == sorted(needed(name))


def test_no_target_needs_itself_through_others():
    graph = {f":{name}": deps for name, (_, deps) in TARGETS.items()}
    graphlib.TopologicalSorter(graph).prepare()  # or it raises CycleError


REQUIREMENTS = (ROOT / "requirements.txt").read_text()
PINS = dict(re.findall(r"^([\w-]+)==(\S+)", REQUIREMENTS, re.M))


@pytest.fixture
def pin_hashes(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "scripts")
    return importlib.import_module("pin_hashes")


def test_every_dependency_is_pinned():
    pinned = {name.lower() for name in PINS}
    used = {dep for _, deps in TARGETS.values() for dep in deps if dep[0] == "@"}
    assert {dep.removeprefix("@pip//").lower() for dep in used} <= pinned


def test_a_pin_has_the_digests_of_its_files_and_the_file_names_no_index():
    pin = r"[\w-]+==\S+(?: \\\n    --hash=sha256:[0-9a-f]{64})+"
    rest = re.sub(rf"^{pin}$", "", REQUIREMENTS, flags=re.M)
    assert len(PINS) > 100
    assert [line for line in rest.splitlines() if line[:1] not in ("", "#")] == []
    assert "//" not in REQUIREMENTS
    digests = re.findall(r"--hash=\S+", REQUIREMENTS)
    assert len(digests) == len(set(digests))


def test_what_a_pinned_package_needs_on_any_platform_is_pinned(
    pin_hashes,
):
    """As their metadata say, which pip asks for at the install."""
    pins = {canonicalize_name(name): version for name, version in PINS.items()}
    for python, (system, machine) in itertools.product(
        pin_hashes.PYTHONS,
        (("linux", "x86_64"), ("linux", "aarch64"), ("darwin", "arm64")),
    ):
        environment = {
            "python_version": python,
            "python_full_version": f"{python}.0",
            "sys_platform": system,
            "platform_system": system.capitalize(),
            "platform_machine": machine,
        }
        for name, extras in needed_of(pins, environment):
            for text in importlib.metadata.requires(name) or ():
                needed = Requirement(text)
                if applies(needed, extras, environment):
                    found = pins.get(canonicalize_name(needed.name))
                    assert found, f"{name} needs {text} on {environment}"
                    assert found in needed.specifier, f"{name} needs {text}"


def applies(requirement, extras, environment):
    marker = requirement.marker
    return marker is None or any(
        marker.evaluate(environment | {"extra": extra}) for extra in ("", *extras)
    )


def needed_of(pins, environment):
    """Each pin with the extras of it that others ask for."""
    extras = {name: set() for name in pins}
    waiting = list(pins)
    while waiting:
        name = waiting.pop()
        for text in importlib.metadata.requires(name) or ():
            needed = Requirement(text)
            other = canonicalize_name(needed.name)
            new = needed.extras - extras.get(other, needed.extras)
            if new and applies(needed, extras[name], environment):
                extras[other] |= new
                waiting.append(other)
    return extras.items()


def test_hashes_are_written_below_their_pins_and_nothing_else_is_changed(pin_hashes):
    text = "# One\nml_dtypes==0.6.0\n\n# Two\nsix==1.17.0\n"
    hashes = {"ml-dtypes": {"b" * 64, "a" * 64}, "six": {"c" * 64}}
    written = pin_hashes.with_hashes(text, hashes)
    assert written.splitlines()[1:4] == [
        "ml_dtypes==0.6.0 \\",
        f"    --hash=sha256:{'a' * 64} \\",
        f"    --hash=sha256:{'b' * 64}",
    ]
    assert pin_hashes.without_hashes(written) == text
    bare = pin_hashes.without_hashes(REQUIREMENTS)
    assert "--hash" not in bare
    assert dict(re.findall(r"^([\w-]+)==(\S+)$", bare, re.M)) == PINS


def test_pins_may_have_markers_and_comments(pin_hashes):
    text = (
        "# six==1.16.0 is too old\n"
        "six==1.17.0  # why == not >=\n"
        'A_b[c]==2.0 ; python_version < "3.12"\n'
    )
    written = pin_hashes.with_hashes(text, {"six": {"1" * 64}, "a-b": {"2" * 64}})
    assert written.splitlines() == [
        "# six==1.16.0 is too old",
        "six==1.17.0 \\",
        f"    --hash=sha256:{'1' * 64}  # why == not >=",
        'A_b[c]==2.0 ; python_version < "3.12" \\',
        f"    --hash=sha256:{'2' * 64}",
    ]
    assert pin_hashes.without_hashes(written) == text
    pins = [pin_hashes.pin_of(line) for line in text.splitlines()]
    assert pins == [None, ("six", "1.17.0"), ("a-b", "2.0")]


def test_every_module_ships_in_the_wheel_and_nothing_else_does():
    files = WheelBuilder(str(ROOT)).recurse_included_files()
    assert sorted(file.distribution_path for file in files) == modules(*PACKAGES)


def test_installed_programs_are_mains_of_the_scripts_that_the_readme_names():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    readme = (ROOT / "README.md").read_text()
    assert {"ttur-train", "ttur-fid", "ttur-stats"} <= set(project["scripts"])
    for name, target in project["scripts"].items():
        module, _, main = target.partition(":")
        assert callable(getattr(importlib.import_module(module), main))
        assert f'launch("{target}")' in (ROOT / "scripts" / f"{main}.py").read_text()
        assert f"`{name}`" in readme
