"""What XLA compiles is kept for the next start, and run only if it is what was kept."""

import os
import pathlib
import re
import signal
import stat
import subprocess
import sys

import numpy as np
import pytest

from fid.files import InputError
from tf_ttur import compilation
from tf_ttur.compilation import Programs, compilation_cache


@pytest.fixture
def new_process(tmp_path, monkeypatch):
    """As if TensorFlow had not been imported yet."""
    monkeypatch.setenv("TTUR_CACHE", str(tmp_path))
    monkeypatch.delenv("TF_XLA_FLAGS", raising=False)
    monkeypatch.delitem(sys.modules, "tensorflow", raising=False)
    return monkeypatch


def test_tensorflow_is_told_where_programs_are_kept(new_process, tmp_path):
    new_process.setenv("TF_XLA_FLAGS", "--tf_xla_min_cluster_size=4")
    new_process.setitem(sys.modules, "tensorflow", None)
    assert compilation_cache() is None  # too late: TensorFlow runs already
    new_process.delitem(sys.modules, "tensorflow")
    folder = compilation_cache()
    assert folder.parent.parent == tmp_path / "xla"
    flags = os.environ["TF_XLA_FLAGS"].split()
    assert flags == [
        "--tf_xla_min_cluster_size=4",
        f"--tf_xla_persistent_cache_directory={folder}",
        "--tf_xla_persistent_cache_device_types=CPU",
    ]
    assert compilation_cache() is None  # the user's own choice is left alone
    # Flags of XLA change what is compiled.
    new_process.setenv("TF_XLA_FLAGS", "")
    assert compilation_cache().parent != folder.parent


_COMPILES_TWO = """
from tf_ttur.compilation import compilation_cache
compilation_cache()
import tensorflow as tf
for sign in (1.0, -1.0):
    function = tf.function(lambda x: tf.tanh(sign * x) @ x, jit_compile=True)
    print(function(tf.eye(3)).numpy().tolist())
"""


def flip(path, seed=0):
    """Flips ten bits of a file."""
    data = bytearray(path.read_bytes())
    for place in np.random.default_rng(seed).integers(0, 8 * len(data), 10):
        data[place // 8] ^= 1 << place % 8
    path.write_bytes(data)


def test_a_program_that_was_damaged_is_compiled_again(tmp_path):
    environment = os.environ | {"TTUR_CACHE": str(tmp_path)}
    environment.pop("TF_XLA_FLAGS", None)

    def run():
        done = subprocess.run(
            [sys.executable, "-c", _COMPILES_TWO],
            env=environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        (store,) = (tmp_path / "xla").iterdir()
        programs = {path: path.stat().st_ino for path in store.glob("*.pb")}
        names = {path.name for path in store.iterdir()}
        assert names == {f"{p.name}{end}" for p in programs for end in ("", ".sha256")}
        assert stat.S_IMODE(store.stat().st_mode) == 0o700
        return done, programs

    first, programs = run()
    assert len(programs) == 2
    damaged, whole = programs
    before = damaged.read_bytes()
    flip(damaged)
    second, again = run()
    assert second.stdout == first.stdout
    assert f"In {damaged.parent} 1 compiled programs were damaged" in second.stderr
    assert again.keys() == programs.keys()
    assert again[whole] == programs[whole]  # it was not compiled again
    assert len(damaged.read_bytes()) == len(before)


@pytest.fixture
def store(tmp_path):
    """A folder with two programs."""
    programs = Programs(tmp_path / "xla")
    for name in ("a.pb", "b.pb"):
        (programs.folder / name).write_bytes(name.encode() * 100)
    programs.keep()
    programs.close()
    return programs.store


def shown(programs):
    return sorted(path.name for path in programs.folder.iterdir())


def test_only_what_matches_its_digest_is_shown(store, caplog):
    assert shown(Programs(store)) == ["a.pb", "b.pb"]
    assert caplog.text == ""
    program, digest = store / "a.pb", store / "a.pb.sha256"
    whole, right = program.read_bytes(), digest.read_text()
    for damage in (
        lambda: program.write_bytes(whole[: len(whole) // 2]),
        lambda: program.write_bytes(b""),
        lambda: flip(program),
        lambda: digest.write_text(right[:-1]),
        lambda: digest.write_bytes(b"\xff"),
        digest.unlink,  # as it is where a process was killed between the two
    ):
        program.write_bytes(whole)
        digest.write_text(right)
        damage()
        caplog.clear()
        programs = Programs(store)
        assert shown(programs) == ["b.pb"]
        assert not program.exists()
        assert not digest.exists()
        assert f"In {store} 1 compiled programs were damaged" in caplog.text
        programs.close()


def test_a_program_that_cannot_be_read_or_is_a_link_elsewhere(store, tmp_path):
    (store / "a.pb").unlink()
    (store / "a.pb").symlink_to(tmp_path / "nowhere")
    assert shown(Programs(store)) == ["b.pb"]


def test_processes_at_once_do_not_see_what_others_write_or_remove(store):
    one, other = Programs(store), Programs(store)
    (one.folder / "c.pb").write_bytes(b"one")
    (other.folder / "c.pb").write_bytes(b"other")
    (store / "a.pb").write_bytes(b"damaged")
    third = Programs(store)
    assert shown(third) == ["b.pb"]
    assert shown(one) == ["a.pb", "b.pb", "c.pb"]
    one.keep()
    other.keep()
    assert (store / "c.pb").read_bytes() == b"other"
    # TensorFlow replaces a program by renaming another onto it.
    (one.folder / "new").write_bytes(b"newer")
    (one.folder / "new").rename(one.folder / "c.pb")
    one.keep()
    assert shown(Programs(store)) == ["b.pb", "c.pb"]
    assert (store / "c.pb").read_bytes() == b"newer"


_IS_KILLED = """
import os, pathlib, signal, sys
from fid.files import atomic_path
from tf_ttur.compilation import Programs
programs = Programs(pathlib.Path(sys.argv[1]))
(programs.folder / "c.pb.tmp").write_bytes(b"half")
with atomic_path(programs.store / "c.pb"):
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_process_has_left_is_removed(store):
    done = subprocess.run([sys.executable, "-c", _IS_KILLED, str(store)])
    assert done.returncode == -signal.SIGKILL
    assert len(list(store.iterdir())) == 4 + 2
    programs = Programs(store)
    assert shown(programs) == ["a.pb", "b.pb"]
    programs.close()
    assert len(list(store.iterdir())) == 4


def test_a_cache_that_was_deleted_costs_nothing_but_time(store):
    programs = Programs(store)
    (programs.folder / "c.pb").write_bytes(b"c")
    store.rename(store.with_name("elsewhere"))
    programs.keep()
    programs.close()


def as_link(folder):
    folder.rename(folder.with_name("elsewhere"))
    folder.symlink_to(folder.with_name("elsewhere"))


def as_file(folder):
    folder.rmdir()
    folder.touch()


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda folder: folder.chmod(0o770), "mode 0770, expected 0700"),
        (lambda folder: folder.chmod(0o755), "mode 0755, expected 0700"),
        (as_link, "it is a link"),
        (as_file, "it is a file"),
        pytest.param(
            lambda folder: os.chown(folder, 12345, -1),
            r"belongs to another user \(ID 12345\)",
            marks=pytest.mark.skipif(os.geteuid() != 0, reason="only root can"),
        ),
    ],
)
def test_a_folder_that_others_could_write_is_not_used_and_this_is_said(
    new_process, tmp_path, caplog, spoil, said
):
    store = tmp_path / "xla" / compilation.kind_of_machine()
    store.mkdir(parents=True, mode=0o700)
    spoil(store)
    with pytest.raises(InputError, match=said):
        Programs(store)
    assert compilation_cache() is None
    assert "TF_XLA_FLAGS" not in os.environ
    (record,) = caplog.records
    assert re.search(f"cannot be used: {store}: .*{said}", record.getMessage())


def test_a_path_with_a_space_is_not_used_and_this_is_said(
    new_process, tmp_path, caplog
):
    new_process.setenv("TTUR_CACHE", str(tmp_path / "my cache"))
    assert compilation_cache() is None
    assert "TF_XLA_FLAGS" not in os.environ
    assert "my cache/xla" in caplog.text
    assert "has a space" in caplog.text
    assert not list(tmp_path.iterdir())
    # TensorFlow takes commas and quotes as they are.
    new_process.setenv("TTUR_CACHE", str(tmp_path / "a,b'c"))
    assert compilation_cache() is not None


def test_a_folder_with_the_name_of_a_program_is_removed(store):
    for name in ("d.pb", "e.pb", "e.pb.sha256"):
        (store / name / "inner").mkdir(parents=True)
    programs = Programs(store)
    assert shown(programs) == ["a.pb", "b.pb"]
    programs.close()
    names = ["a.pb", "a.pb.sha256", "b.pb", "b.pb.sha256"]
    assert sorted(path.name for path in store.iterdir()) == names


def test_a_place_that_cannot_be_written_is_named(new_process, tmp_path, caplog):
    pathlib.Path(tmp_path, "xla").touch()
    assert compilation_cache() is None
    assert f"cannot be used: {tmp_path}/xla/" in caplog.text
