"""Documentation against the code: examples, commands, flags, and the map."""

import doctest
import functools
import importlib
import re
import shlex
import subprocess
import sys
import tomllib

import numpy as np
import PIL.Image
import pytest
import synthetic_graph
from repository import ROOT

from tf_ttur import presets

PAGES = ["README.md", *(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))]
MODULES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for package in ("fid", "tf_ttur")
    for path in (ROOT / package).rglob("*.py")
    if path.name != "__main__.py" and ">>>" in path.read_text()
)


def read(page):
    return (ROOT / page).read_text("utf-8")


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_a_module_run(name, tmp_path, monkeypatch):
    if name == "fid.extractors.inception":
        graph = synthetic_graph.write_synthetic_graph(tmp_path / "g.pb", splat=True)
        monkeypatch.setenv("TTUR_INCEPTION", str(graph))
    if name == "fid.beam":
        pytest.importorskip("apache_beam", reason="the extra [beam] is not installed")
    if name.endswith((".networks.hub", ".networks.sam", ".distillation.sd3")):
        pytest.importorskip("keras_hub", reason="the extra [hub] is not installed")
    result = doctest.testmod(importlib.import_module(name))
    assert result.attempted
    assert not result.failed


# --- Commands ----------------------------------------------------------------------

# Programs whose documented commands are run as they stand, with these flags at the end.
# A dry run checks all settings, and needs neither data nor time.
RUN = {
    "compute_fid.py": [],
    "precalc_stats.py": [],
    "stats.py": [],
    "train.py": ["--dry_run"],
    "disturbance_study.py": ["--dry_run"],
}
# Commands that are not run here, by how they begin, and why.
NOT_RUN = {
    "make test": "continuous integration runs it: .ci/run",
    "make run": "trains for minutes; tests/tf_ttur/test_experiment.py trains briefly",
    "pip install": "needs a network; `make test` installs requirements.txt",
    "python scripts/precalc_stats.py 'images/": "tests/fid/test_beam.py runs Beam",
    "python scripts/precalc_stats.py '/data/": "tests/fid/test_beam.py runs Beam",
    "python scripts/sample.py": "needs a run; tests/tf_ttur/test_sampling.py has one",
    "python scripts/sampling_steps.py": "needs a run; test_sampling_steps.py has one",
    "python scripts/sweep.py": "hours; tests/tf_ttur/studies/test_sweep.py sweeps",
    "python scripts/critical_batch.py": "an hour; test_critical_batch_cli.py is brief",
    "python scripts/reproduce.py": "needs the paper's data, a GPU and days",
    "python scripts/disturbance_study.py celeba": "needs CelebA and ImageNet",
    "python scripts/saddle.py": "minutes; tests/tf_ttur/theory/test_cli.py is brief",
    "python scripts/two_time_scales.py": "the same",
    "python scripts/heavy_ball.py": "the same",
    "python scripts/nash.py": "needs a run; tests/tf_ttur/theory has one",
    "python scripts/benchmark": "needs other tools and an idle machine",
}


def commands(page):
    """The commands in the code blocks of a page, each in one line."""
    text = re.sub(r"\\\n\s*", "", read(page))
    # A fence or a blank line and four spaces; commands begin with one of these words.
    variables, found = {}, []
    for line in re.findall(r"^(?: {4})?((?:python|pip|make|\w=) ?.*)$", text, re.M):
        line = re.sub(r"\s+#.*", "", line)
        if line[1] == "=":
            variables[f"${line[0]}"] = line[2:]
            continue
        for name, value in variables.items():
            line = line.replace(name, value)
        found.append(line)
    return found


COMMANDS = [(page, command) for page in PAGES for command in commands(page)]


@functools.cache
def help_of(script):
    """What a script says of itself, which lists its flags."""
    done = subprocess.run(
        [sys.executable, ROOT / script, "--help"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def flags(text):
    return set(re.findall(r"(?<![\w-])--[a-z]\w*", text))


@pytest.mark.parametrize(("page", "command"), COMMANDS)
def test_a_documented_command_names_what_exists(page, command):
    words = shlex.split(command)
    if words[0] == "make":
        assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.M)
    elif words[0] == "pip":
        assert all((ROOT / word).is_file() for word in words if word.endswith(".txt"))
    else:
        ours, _, _ = command.partition(" -- ")  # what follows is Beam's
        assert flags(ours) <= flags(help_of(words[1]))
        kinds = ("_ttur", "_orig") if words[1] == "scripts/reproduce.py" else ("",)
        for name in re.findall(r"--preset=(\S+)", ours):
            known = {*presets.PRESETS, "mixture"}  # a game that is no preset
            assert {name + kind for kind in kinds} <= known


def test_a_documented_command_is_run_or_has_a_reason_why_not():
    for _, command in COMMANDS:
        reasons = [words for words in NOT_RUN if command.startswith(words)]
        run = command.startswith("python ") and command.split("/")[1].split()[0] in RUN
        assert len(reasons) <= 1
        assert reasons or run, command
    for words in NOT_RUN:
        assert any(command.startswith(words) for _, command in COMMANDS), words


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The working directory of somebody who follows a page: images and a graph."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TTUR_CACHE", str(tmp_path / "cache"))
    graph = tmp_path / "classify_image_graph_def.pb"
    synthetic_graph.write_synthetic_graph(graph, splat=True)
    monkeypatch.setenv("TTUR_INCEPTION", str(graph))
    rng = np.random.default_rng(0)
    for name in ("real", "generated", "shard_000", "books"):
        (tmp_path / name).mkdir()
        for i in range(3):
            image = PIL.Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8))
            image.save(tmp_path / name / f"{i}.png")
    (tmp_path / "books" / "a.txt").write_text("to be\nor not to be\n")
    return tmp_path


def start(command):
    """Runs a command in this process and returns its exit status."""
    _, script, *arguments = shlex.split(command)
    launched = re.search(r'launch\("(.*):(.*)"\)', (ROOT / script).read_text())
    module, main = launched.groups()
    program = script.removeprefix("scripts/")
    run = getattr(importlib.import_module(module), main)
    return run([program, *arguments, *RUN[program]])


@pytest.mark.slow
@pytest.mark.parametrize("page", sorted({page for page, _ in COMMANDS}))
def test_the_commands_of_a_page_run_one_after_the_other(page, folder, capsys):
    needed = {"README.md": ("a", "b", "other"), "docs/scale.md": ("shard_001",)}
    for name in needed.get(page, ()):
        assert start(f"python scripts/precalc_stats.py real --output={name}.npz") == 0
    for command in commands(page):
        if not command.startswith(tuple(NOT_RUN)):
            command = command.replace("shard_*.npz", "shard_000.npz shard_001.npz")
            assert start(command) == 0, (command, capsys.readouterr().err)


def test_every_flag_that_a_page_names_is_one_of_some_program():
    known = set().union(
        *(flags(help_of(f"scripts/{path.name}")) for path in programs())
    )
    known |= {"--direct_running_mode", "--direct_num_workers"}  # Beam's
    known |= {"--head", "--port", "--address"}  # Ray's
    known |= {"--array", "--cpus", "--requeue"}  # SLURM's
    known |= {"--require"}  # pip's --require-hashes
    for page in PAGES:
        assert flags(read(page)) <= known, page


def programs():
    scripts = (ROOT / "scripts").glob("*.py")
    return [path for path in scripts if '__name__ == "__main__"' in path.read_text()]


def test_every_extra_that_a_page_names_can_be_installed():
    project = tomllib.loads(read("pyproject.toml"))["project"]
    for page in PAGES:
        named = re.findall(r"(?:tf-ttur|\.)\[(\w+)\]", read(page))
        assert set(named) <= set(project["optional-dependencies"]), page


@pytest.mark.parametrize("page", [*PAGES, "CHANGELOG.md"])
def test_lines_outside_tables_and_code_have_at_most_100_columns(page):
    text = re.sub(
        r"^(```.*?^```$| {4}.*?$| *\|.*?$)", "", read(page), flags=re.M | re.S
    )
    assert [line for line in text.splitlines() if len(line) > 100] == []


# --- The map in docs/architecture.md -------------------------------------------------


def rows(heading):
    """The cells of the first table below a heading of the map."""
    text = read("docs/architecture.md")
    table = text.partition(f"\n{heading}")[2].partition("\n#")[0]
    lines = [line for line in table.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


@pytest.mark.parametrize("package", ["fid", "tf_ttur"])
def test_the_map_names_each_folder_and_top_module_and_nothing_else(
    package,
):
    mapped = {
        (folder.strip("`"), f"{module}.py")
        for folder, _, modules in rows(f"### `{package}/`")
        for module in re.findall(r"`(\w+)`", modules)
    }
    for folder, module in mapped:
        assert (ROOT / folder / module).is_file(), f"{folder}{module} is on the map"
    top = f"{package}/"
    paths = list((ROOT / package).rglob("*.py"))
    folders = {f"{path.parent.relative_to(ROOT).as_posix()}/" for path in paths}
    assert {folder for folder, _ in mapped} == folders
    modules = {p.name for p in paths if p.parent.name == package} - {"__main__.py"}
    assert {m for folder, m in mapped if folder == top} >= modules - {"__init__.py"}


def test_every_path_that_the_map_names_exists():
    text = read("docs/architecture.md")
    paths = re.findall(r"`((?:fid|tf_ttur|scripts|tests|docs)/[^`]*)`", text)
    assert len(paths) > 40
    for path in paths:
        # NAME stands for what a reader adds.
        assert (ROOT / (path.rpartition("/")[0] if "NAME" in path else path)).exists()


def test_the_map_names_each_folder_beside_the_packages():
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"][
        "build"
    ]
    shipped = {path.strip("/") for path in build["targets"]["sdist"]["include"]}
    folders = {name for name in shipped if (ROOT / name).is_dir()}
    mapped = {name.strip("`/") for name, *_ in rows("### Beside the packages")}
    assert mapped - {"BUILD"} == folders - {"fid", "tf_ttur"}
