import os
import pathlib
import re
import signal
import stat
import subprocess
import sys

import pytest

from fid import files


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    path = tmp_path / "deep" / "x.npz"
    with files.atomic_write(path) as file:
        file.write(b"one")
        assert not path.exists()
    assert path.read_bytes() == b"one"
    with pytest.raises(KeyError), files.atomic_write(path) as file:
        file.write(b"two")
        raise KeyError
    with pytest.raises(KeyboardInterrupt), files.atomic_write(path) as file:
        raise KeyboardInterrupt
    assert path.read_bytes() == b"one"
    assert [p.name for p in path.parent.iterdir()] == ["x.npz"]


def test_a_full_disk_leaves_what_was_there(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"old")
    with pytest.raises(files.InputError, match=r"Cannot write .*x: No space left"):  # noqa: SIM117
        with files.atomic_write(path):
            raise OSError(28, "No space left on device")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


def test_places_that_cannot_be_written_are_named(tmp_path):
    for path in (tmp_path, "/proc/none/x.npz", "/dev/null/x"):
        with pytest.raises(files.InputError, match="Cannot write"):
            files.write_json(path, {})
        with pytest.raises(files.InputError, match="Cannot write"):
            files.check_writable(path)


def test_a_check_leaves_no_trace(tmp_path):
    path = tmp_path / "x.npz"
    files.check_writable(path)
    files.check_writable(tmp_path / "new" / "deep" / "x.npz")
    with pytest.raises(files.InputError, match="Cannot write"):
        files.check_writable(tmp_path / "new" / ("x" * 256))
    assert list(tmp_path.iterdir()) == []
    path.write_bytes(b"old")
    files.check_writable(path)
    assert path.read_bytes() == b"old"


@pytest.mark.parametrize(
    "name",
    [
        "x" * 251 + ".npz",
        "é" * 125 + ".npz",
        "a." + "b" * 240 + ".npz",
        "." + "c" * 250,
    ],
)
def test_names_may_be_as_long_as_the_system_takes(tmp_path, name):
    files.check_writable(tmp_path / name)
    files.write_json(tmp_path / name, [])
    assert [p.name for p in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize(
    "name",
    [
        "config.json",
        "step_00000500.keras",
        "ema.weights.h5",
        "report",
        ".hidden",
        "x.12345678",
        "x" * 40 + ".json",
        "x" * 39 + ".weights.h5",
        "é" * 125 + ".npz",
        "two words (1).tar.gz",
        "a\nb.png",
    ],
)
def test_what_a_killed_process_was_writing_is_recognised(tmp_path, name):
    mine, other = re.compile(re.escape(name[:40]) + ".*"), re.compile("other")
    with files.atomic_path(tmp_path / "deep" / name) as unfinished:
        assert files.original_name(unfinished.name) == name[:40]
        assert files.original_name(name) is None
        assert list(files.temporary_files(tmp_path, mine)) == []  # it is being written
    # Where it is killed, the temporary file stays as it was.
    unfinished.touch()
    assert list(files.temporary_files(tmp_path, mine)) == [unfinished]
    assert list(files.temporary_files(tmp_path, other)) == []


_WRITES_UNTIL_KILLED = """
import os, signal, sys
from fid.files import atomic_path
with atomic_path(sys.argv[1]) as path:
    path.write_bytes(b"half")
    if sys.argv[2:]:
        print(path, flush=True)
        sys.stdin.read()
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("name", ["real.npz", "ema.weights.h5", "é" * 100 + ".npz"])
def test_what_a_killed_process_has_left_is_removed_by_the_next(tmp_path, name):
    path = tmp_path / name
    command = [sys.executable, "-c", _WRITES_UNTIL_KILLED, os.fspath(path)]
    users = [tmp_path / ".real.npz.swp", tmp_path / ".other.npz.abcdefgh.npz"]
    for each in users:
        each.write_text("mine")
    for _ in range(2):
        assert subprocess.run(command).returncode == -signal.SIGKILL
        (left,) = {*tmp_path.iterdir()} - {*users}  # the second one removed the first's
        assert left.read_bytes() == b"half"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([*command, "and wait"], **pipes, text=True) as alive:
        writing = pathlib.Path(alive.stdout.readline().rstrip("\n"))
        assert not left.exists()
        files.check_writable(path)
        assert writing.exists()  # its owner lives
        alive.communicate()
    files.check_writable(path)
    assert {*tmp_path.iterdir()} == {*users}


def test_a_lock_is_had_by_one_and_ends_with_it(tmp_path):
    path = tmp_path / "x"
    with files.lock(path) as ours:
        assert not ours  # there is none
    path.touch()
    (tmp_path / "link").symlink_to(path)
    for each in (path, tmp_path):  # a folder, too
        with files.lock(each) as first, files.lock(each) as second:
            assert (first, second) == (True, False)
        with files.lock(each) as third:
            assert third
    with files.lock(tmp_path / "link") as ours:
        assert not ours


def test_a_home_folder_that_does_not_exist_is_named():
    home = pathlib.Path("~").expanduser()
    assert files.user_path("~/x") == home / "x"
    assert files.user_path("a/~b") == pathlib.Path("a/~b")
    with pytest.raises(files.InputError, match=r"~nosuchuser/x .* no such home folder"):
        files.user_path("~nosuchuser/x")


@pytest.mark.parametrize(
    "name",
    [
        "config.json",
        ".gitignore",
        ".DS_Store",
        ".config.json.swp",
        ".config.json.bak",
        ".config.json.old.json",
        ".config.json.original.yaml",
        ".nfs0000000000000001",
        ".ipynb_checkpoints",
        ".env.local",
        ".abcdefgh",
        "config.json.x1y2_z34.json",
    ],
)
def test_files_of_the_users_own_are_not_taken_for_temporary_ones(tmp_path, name):
    (tmp_path / name).write_text("mine")
    assert files.original_name(name) is None
    assert list(files.temporary_files(tmp_path, re.compile(".*"))) == []


def test_names_are_printed_on_one_line(tmp_path):
    path = tmp_path / "a\nb"
    for attempt in (files.read_json, files.check_writable, files.atomic_path):
        path.with_suffix("").mkdir(exist_ok=True)
        with pytest.raises(files.InputError) as error:
            found = attempt(path)
            with found:
                raise OSError("no reason")
        assert "\n" not in str(error.value)


def test_the_users_mask_decides_the_permissions(tmp_path):
    before = os.umask(0o027)
    try:
        files.write_json(tmp_path / "x.json", [1])
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "x.json").stat().st_mode) == 0o640


def test_json_round_trips_and_bad_json_is_named(tmp_path):
    path = tmp_path / "x.json"
    files.write_json(path, {"é": [1.5, None]})
    assert files.read_json(path) == {"é": [1.5, None]}
    with pytest.raises(ValueError, match="not JSON compliant"):
        files.write_json(path, float("nan"))
    assert files.read_json(path) == {"é": [1.5, None]}
    path.write_text("{")
    with pytest.raises(files.InputError, match=r"x\.json is not JSON"):
        files.read_json(path)
    path.write_text("[" * 100_000)
    with pytest.raises(files.InputError, match=r"x\.json is not JSON"):
        files.read_json(path)
    for read in (files.read_json, files.sha256_of_file):
        with pytest.raises(files.InputError, match="Cannot read .*missing"):
            read(tmp_path / "missing")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": NaN}', "NaN is no number"),
        ("[-Infinity]", "-Infinity is no number"),
        ("1e999", "1e999 is no number"),
        ('{"a": 1, "b": 2, "a": 3}', "'a' stands twice"),
    ],
)
def test_what_the_standard_does_not_have_is_no_json(tmp_path, text, message):
    for name, read in (("x.json", files.read_json), ("x", files.read_json_lines)):
        path = tmp_path / name
        path.write_text(f"{text}\n")
        with pytest.raises(files.InputError, match=f"is not JSON: {message}"):
            read(path)


def test_only_a_line_without_an_end_was_cut_short(tmp_path):
    path = tmp_path / "x.jsonl"
    assert files.read_json_lines(path) == []
    for text, rows in (("", 0), ('{"a": 1}', 1), ('{"a": 1}\n{"a"', 1)):
        path.write_text(text)
        assert len(files.read_json_lines(path, "a")) == rows
    for text in ('{"a": 1}\n{"a"\n', '{"a": 1}\n\n{"a": 2}\n', "\0\n"):
        path.write_text(text)
        with pytest.raises(files.InputError, match=r"line [12] is not JSON"):
            files.read_json_lines(path, "a")


def test_names_fit_on_one_line():
    assert files.printable("größe 画像.png") == "größe 画像.png"
    assert files.printable("a\nb\x1b[31m.png") == r"'a\nb\x1b[31m.png'"
    undecodable = b"\xff.png".decode("utf-8", "surrogateescape")
    assert files.printable(undecodable) == r"'\udcff.png'"


def test_all_differences_are_told_by_name():
    files.check_same({"a": 1}, {"a": 1}, "x", "y")
    message = "It differs: a is 1 there and 2 now; b is None there and '3' now. Mend."
    with pytest.raises(files.InputError, match=f"^{message}$"):
        files.check_same(
            {"a": 1, "c": 0}, {"b": "3", "a": 2, "c": 0}, "It differs", "Mend."
        )


def test_a_text_is_read_and_what_is_none_is_said_in_a_phrase(tmp_path):
    path = tmp_path / "text.txt"
    path.write_bytes("\ufeffein Bär\r\nb\rc".encode())
    assert files.read_text(path) == "ein Bär\nb\nc"
    assert files.read_text(path, most=11) == "ein Bär\nb\nc"
    os.mkfifo(tmp_path / "pipe.txt")
    for name, most, message in (
        ("text.txt", 10, "it has more than 10 characters"),
        ("pipe.txt", 10, "it is no regular file"),
        ("none.txt", 10, "No such file or directory"),
    ):
        with pytest.raises(ValueError, match=f"^{message}$"):
            files.read_text(tmp_path / name, most)
    for data, message in (
        ("text".encode("utf-16-le"), "it has NUL bytes; save it as UTF-8"),
        (b"\xff\xfe", "it is no text in UTF-8"),
    ):
        path.write_bytes(data)
        with pytest.raises(ValueError, match=f"^{message}$"):
            files.read_text(path)
