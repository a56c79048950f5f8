"""Where XLA keeps the programs that it compiles, from one start to the next.

They are machine code, which TensorFlow runs as it finds it. So a folder of theirs is
only used if it is the user's own and closed to all others, and a program only if it is
what was written. The folders above it are not looked at: who may write to one of those
can put another folder in its place.

    xla/<kind of machine>/           0700, of the user
        NAME.pb  NAME.pb.sha256      what was compiled, and its digest
        in_use.abcdefgh/             what one process reads and writes, while it lives

A process is given a folder of its own, with those of the programs that match their
digests; what it compiles is digested and added to the others soon after it was written.
So no process sees what another one is writing, or removes what another one reads. The
workers of a sweep are an exception: they inherit TF_XLA_FLAGS, and share the folder of
the process that started them, which adds what they compile. TensorFlow writes a program
beside and renames it, so they share whole programs.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import hashlib
import logging
import os
import pathlib
import platform
import re
import shutil
import stat
import sys
import tempfile
import threading
from collections.abc import Iterator

from fid.files import (
    InputError,
    atomic_write,
    lock,
    printable,
    sha256_of_file,
    temporary_files,
)
from fid.mistaken import cache_dir
from fid.program import one_line
from fid.versions import versions

__all__ = ["Programs", "compilation_cache", "kind_of_machine"]

_log = logging.getLogger(__name__)

# A program that is compiled is added to the others after so long at the most.
_SECONDS = 1.0


def compilation_cache() -> pathlib.Path | None:
    """Has XLA keep the programs it compiles, so that the next start is quicker.

    It takes effect only before TensorFlow is imported, through TF_XLA_FLAGS, and leaves
    that alone where it already names a cache.

    Returns:
        The folder of this process, in one for each kind of processor, release of
        TensorFlow and flags of XLA; None where there is none. Why a folder that is
        there is not used is said in a warning.
    """
    given = os.environ.get("TF_XLA_FLAGS", "")
    if "tf_xla_persistent_cache_directory" in given or "tensorflow" in sys.modules:
        return None
    folder = cache_dir() / "xla" / kind_of_machine()
    try:
        if any(map(str.isspace, str(folder))):
            # TensorFlow would take it for two flags.
            raise InputError(
                "its path has a space, which TF_XLA_FLAGS cannot say; set $TTUR_CACHE "
                "to a folder without one."
            )
        programs = Programs(folder)
    except (OSError, InputError) as error:
        _log.warning(
            "XLA's programs are compiled anew, since the folder that keeps them cannot "
            "be used: %s",
            one_line(f"{folder}: {error}"),
        )
        return None
    programs.watch()
    os.environ["TF_XLA_FLAGS"] = (
        f"{given} --tf_xla_persistent_cache_directory={programs.folder}"
        " --tf_xla_persistent_cache_device_types=CPU"
    ).strip()
    return programs.folder


def kind_of_machine() -> str:
    """Returns a name for all that programs depend on; those of another are no use here.

    Returns:
        12 hexadecimal digits for the kind of processor, the release of TensorFlow and
        the flags of XLA.
    """
    machine = platform.machine() + versions("tensorflow")["tensorflow"]
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as file:
        machine += next((x for x in file if x.startswith(("flags", "Features"))), "")
    for name in ("XLA_FLAGS", "TF_XLA_FLAGS"):
        machine += f"\n{name}={os.environ.get(name, '')}"
    return hashlib.sha256(machine.encode()).hexdigest()[:12]


class Programs:
    """The compiled programs of a folder, as one process may use them.

    Args:
        store: The folder, made where missing. Programs in it that do not match their
            digests are removed, and so are the folders of processes that were killed.

    Attributes:
        folder: What this process reads and writes.

    Raises:
        InputError: The folder is somebody else's, or others can write there.
        OSError: It cannot be used.

    Example:
        >>> programs = Programs(pathlib.Path(tempfile.mkdtemp(), "xla"))
        >>> _ = (programs.folder / "a.pb").write_bytes(b"a program")
        >>> programs.keep()
        >>> programs.close()
        >>> sorted(path.name for path in programs.store.glob("*"))
        ['a.pb', 'a.pb.sha256']
        >>> [path.name for path in Programs(programs.store).folder.iterdir()]
        ['a.pb']
    """

    def __init__(self, store: pathlib.Path):
        self.store = store
        store.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            store.mkdir(mode=0o700)
        _check_private(store)
        self._process, self._stack = os.getpid(), contextlib.ExitStack()
        with _turn(store):
            self._remove_left()
            self.folder = pathlib.Path(tempfile.mkdtemp(prefix="in_use.", dir=store))
            self._stack.enter_context(lock(self.folder))
            self._kept = {path.name: self._admit(path) for path in self._matching()}

    def watch(self) -> None:
        """Keeps what is compiled from now on, until the process ends."""
        ended = threading.Event()

        def work() -> None:
            while not ended.wait(_SECONDS):
                self.keep()

        thread = threading.Thread(target=work, daemon=True)
        thread.start()

        def end() -> None:
            if os.getpid() == self._process:  # and not one that was forked off
                ended.set()
                thread.join()
                self.keep()
                self.close()

        atexit.register(end)

    def keep(self) -> None:
        """Adds what was compiled since to the folder, each with its digest."""
        # A full disk, or a folder that was deleted, makes the next start slower.
        with contextlib.suppress(OSError, InputError):
            for path in self.folder.glob("*.pb"):
                # TensorFlow writes beside and renames: a new program is another file.
                inode = path.stat().st_ino
                if self._kept.get(path.name) != inode:
                    self._keep(path)
                    self._kept[path.name] = inode

    def close(self) -> None:
        """Removes the folder of this process."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self._stack.close()

    def _keep(self, path: pathlib.Path) -> None:
        data = path.read_bytes()
        with _turn(self.store):
            # Without a digest a program is none: a kill in between leaves no harm.
            _digest_path(self.store / path.name).unlink(missing_ok=True)
            with atomic_write(self.store / path.name) as file:
                file.write(data)
            with atomic_write(_digest_path(self.store / path.name)) as file:
                file.write(hashlib.sha256(data).hexdigest().encode())

    def _admit(self, path: pathlib.Path) -> int:
        """Puts a program where this process finds it."""
        shown = self.folder / path.name
        try:
            os.link(path, shown)
        except OSError:  # Some file systems know no links.
            shutil.copyfile(path, shown)
        return shown.stat().st_ino

    def _matching(self) -> Iterator[pathlib.Path]:
        """Gives the programs that are what was written, and removes all others."""
        damaged = 0
        for path in sorted(self.store.glob("*.pb")):
            if _matches(path):
                yield path
                continue
            damaged += 1
            for each in (path, _digest_path(path)):
                _remove(each)
        if damaged:
            _log.warning(
                "In %s %d compiled programs were damaged or unfinished; they are "
                "compiled again.",
                printable(self.store),
                damaged,
            )

    def _remove_left(self) -> None:
        """Removes what processes that were killed have left."""
        for path in temporary_files(self.store, re.compile(".*")):
            path.unlink()
        for path in self.store.glob("in_use.*"):
            with lock(path) as ours:
                if ours:
                    shutil.rmtree(path, ignore_errors=True)


def _check_private(folder: pathlib.Path) -> None:
    """Makes sure that only this user can put programs into a folder."""
    found = os.lstat(folder)
    mode = stat.S_IMODE(found.st_mode)
    fault = None
    if not stat.S_ISDIR(found.st_mode):
        kind = "a link" if stat.S_ISLNK(found.st_mode) else "a file"
        fault = f"it is {kind}, expected a folder; remove it, or set $TTUR_CACHE"
    elif found.st_uid != os.geteuid():
        fault = f"it belongs to another user (ID {found.st_uid}); set $TTUR_CACHE"
    elif mode & 0o077:
        fault = (
            f"other users may enter it (mode {mode:04o}, expected 0700); delete it, or "
            "set $TTUR_CACHE"
        )
    if fault:
        raise InputError(f"{fault}.")


def _remove(path: pathlib.Path) -> None:
    """Removes a file, a link, or a folder that has a file's name."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _digest_path(program: pathlib.Path) -> pathlib.Path:
    return program.with_name(f"{program.name}.sha256")


def _matches(program: pathlib.Path) -> bool:
    try:
        expected = _digest_path(program).read_text(encoding="ascii")
        return program.is_file() and sha256_of_file(program) == expected
    except (OSError, ValueError):  # An InputError is a ValueError.
        return False


@contextlib.contextmanager
def _turn(folder: pathlib.Path) -> Iterator[None]:
    """Has processes that change a folder do so one after the other."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        with contextlib.suppress(OSError):  # Some file systems know no locks.
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
