"""Workers on the nodes of a Ray cluster, for many runs on many machines.

Ray decides where a task goes. There a task is a process of `workers.Workers`, which
trains outside of Ray's own processes and ends when those do. A task whose node or
process is lost is done again: a run resumes from its last checkpoint, and the lock of
its folder keeps out a second process, should the lost one live on.

All nodes must have the same files at the same paths, with locks that all of them see.
A probe in the folder of the logs shows whether a node has: this process writes and
locks it, and each node has to find it so, when the cluster is connected to and before
every task.

Ray is an extra: `pip install "tf-ttur[ray]"`. It is imported when it is used.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import logging
import os
import pathlib
import platform
import signal
import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

from fid.files import InputError, printable
from tf_ttur.compilation import compilation_cache
from tf_ttur.studies.workers import Workers

__all__ = ["RayWorkers"]

_log = logging.getLogger(__name__)

# A task is given up when it was lost so many times.
_LOST = 3
# Seconds after which a task is tried again whose run folder another process has.
_REFUSED = (2, 5, 10, 20, 40, 80, 160)
# For so long `wait` waits before it looks whether nodes have come, and a task before it
# looks whether it was cancelled.
_SECONDS = 1.0
_SECONDS_TO_CONNECT = 20.0
_SECONDS_TO_ANSWER = 120.0
# A task ends its process, which is given 20 seconds, and Ray takes a few to tell.
_SECONDS_TO_END = 30.0
# Settings that a run depends on, or that say where things are.
_VARIABLES = ("KERAS_", "ONEDNN_", "TF_", "TTUR_", "XLA_")
_PROBE = ".ray_probe"


@contextlib.contextmanager
def _own_sigterm() -> Iterator[None]:
    """Puts the handler of SIGTERM back, which Ray replaces by its own for good."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class RayWorkers:
    """Tasks on the nodes of a Ray cluster; like `workers.Workers`.

    Args:
        count: Tasks at a time, if the cluster has room for so many.
        folder: Where their logs go, `worker_0.log` and so on; all nodes see it.
        work: As for `workers.Workers`. All nodes can import it.
        address: HOST:PORT of the cluster's head node; `auto` on one of its nodes.
        cores: Cores of each task.
        gpus: GPUs of each; 0.5 lets two tasks share one.
    """

    def __init__(
        self,
        count: int,
        folder: pathlib.Path,
        work: Callable[..., dict[str, Any]],
        *,
        address: str,
        cores: int = 1,
        gpus: float = 0,
    ):
        self._ray = _ray()
        self._count, self._folder, self._work = count, folder, work
        self._address, self._cores, self._gpus = address, cores, gpus
        self._tasks: list[_Task] = []
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> RayWorkers:
        with contextlib.ExitStack() as stack:
            self._place = stack.enter_context(_probe(self._folder))
            if not self._ray.is_initialized():
                stack.enter_context(_own_sigterm())
                others = {*threading.enumerate()}
                self._connect()
                stack.callback(self._ray.shutdown)
                output = _Output(sys.stdout, {*threading.enumerate()} - others)
                stack.enter_context(contextlib.redirect_stdout(output))
            # What a task has changed in its process is no other one's.
            options = {"max_calls": 1, "max_retries": 0, "num_cpus": 0}
            self._there = self._ray.remote(**options)(_unpacked())
            self._check_nodes()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        with self._stack, contextlib.suppress(self._ray.exceptions.RayError):
            left = [task.ref for task in self._tasks if task.ref is not None]
            for ref in left:
                self._ray.cancel(ref)
            deadline = time.monotonic() + _SECONDS_TO_END
            while left and time.monotonic() < deadline:
                _, left = self._ray.wait(left, timeout=_SECONDS)
            for ref in left:
                self._ray.cancel(ref, force=True)

    @property
    def busy(self) -> list[_Task]:
        """The tasks that have not ended."""
        return list(self._tasks)

    @property
    def idle(self) -> bool:
        """Whether there is room for a task."""
        return len(self._tasks) < self._count and len(self._tasks) < sum(
            map(self._room, self._nodes())
        )

    def start(self, task: Any, **arguments: Any) -> None:
        """Has an idle worker do a task; see `workers.Workers.start`."""
        log = min({*range(self._count)} - {x.log for x in self._tasks})
        self._tasks.append(_Task(task, arguments, log))
        self._submit(self._tasks[-1])

    def wait(self) -> Iterator[tuple[Any, dict[str, Any]]]:
        """Waits for a task to end, or for a second: nodes may have come.

        Yields:
            As `workers.Workers.wait`.
        """
        for task in self._tasks:
            if task.ref is None and task.again <= time.monotonic():
                self._submit(task)
        running = {task.ref: task for task in self._tasks if task.ref is not None}
        if not running:
            time.sleep(_SECONDS)
            return
        ready, _ = self._ray.wait(list(running), timeout=_SECONDS)
        for ref in ready:
            task = running[ref]
            outcome = self._outcome(ref)
            if (seconds := task.seconds_to_retry(outcome)) is None:
                self._tasks.remove(task)
                yield task.name, outcome
            else:
                task.ref, task.again = None, time.monotonic() + seconds

    def _submit(self, task: _Task) -> None:
        task.ref = self._remote(
            {"num_cpus": self._cores, "num_gpus": self._gpus or None},
            _do,
            self._place,
            self._folder,
            self._work,
            task.arguments,
            self._cores,
            task.log,
        )

    def _remote(
        self, options: dict[str, Any], call: Callable[..., Any], *arguments: Any
    ) -> Any:
        """Has Ray call a function on a node, which looks for modules where we do."""
        path = [os.path.abspath(folder) for folder in sys.path]
        packed = self._ray.cloudpickle.dumps((call, arguments))
        return self._there.options(**options).remote(path, packed)

    def _outcome(self, ref: Any) -> dict[str, Any]:
        try:
            return self._ray.get(ref)
        except self._ray.exceptions.RayTaskError as error:
            return {"error": f"{type(error.cause).__name__}: {error.cause}"}
        except self._ray.exceptions.RayError as error:
            what = f"{error}".strip().partition("\n")[0].rstrip(".")
            return {"error": f"it was lost ({what})", "died": True}

    def _connect(self) -> None:
        try:
            if self._address != "auto":
                # Ray itself would try for minutes.
                host, _, port = self._address.rpartition(":")
                address = host.strip("[]"), int(port)
                socket.create_connection(address, _SECONDS_TO_CONNECT).close()
            self._ray.init(
                address=self._address, log_to_driver=False, logging_level=logging.ERROR
            )
        except (OSError, OverflowError, RuntimeError, ValueError) as error:
            what = f"{error}".strip().partition("\n")[0].rstrip(".")
            raise InputError(
                f"--ray={self._address}: no Ray cluster answers there ({what}). Start "
                "one by `ray start`, or give its head node's HOST:PORT."
            ) from error

    def _nodes(self) -> list[dict[str, Any]]:
        return [node for node in self._ray.nodes() if node["Alive"]]

    def _room(self, node: dict[str, Any]) -> int:
        """How many tasks a node can do at a time."""
        found = node["Resources"]
        room = int(found.get("CPU", 0) // self._cores)
        if self._gpus:
            room = min(room, int(found.get("GPU", 0) / self._gpus))
        return room

    def _check_nodes(self) -> None:
        """Makes sure that the nodes can do the tasks, before anything is begun."""
        nodes = [node for node in self._nodes() if self._room(node)]
        if not nodes:
            gpus = f" and {self._gpus:g} GPUs" if self._gpus else ""
            most = {
                name: max(node["Resources"].get(name, 0) for node in self._nodes())
                for name in ("CPU", "GPU")
            }
            raise InputError(
                f"No node of the Ray cluster has {self._cores} cores{gpus} for a run: "
                f"the largest have {most['CPU']:g} cores and {most['GPU']:g} GPUs. "
                "Give fewer --cores_per_run or --gpus_per_run."
            )
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        asked = {}
        for node in nodes:
            there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            ref = self._remote({"scheduling_strategy": there}, _check, self._place)
            asked[ref] = node["NodeManagerHostname"]
        deadline = time.monotonic() + _SECONDS_TO_ANSWER
        for ref, name in asked.items():
            try:
                wrong = self._ray.get(ref, timeout=max(0, deadline - time.monotonic()))
            except self._ray.exceptions.GetTimeoutError:
                wrong = f"it does not answer for {_SECONDS_TO_ANSWER:g} s"
            except self._ray.exceptions.RayTaskError as error:
                wrong = f"{type(error.cause).__name__}: {error.cause}"
            except self._ray.exceptions.RayError as error:
                wrong = f"{error}".strip().partition("\n")[0]
            if wrong:
                raise InputError(
                    f"The Ray node {name} cannot be used: {wrong.rstrip('.')}. All "
                    "nodes need this project, and the same files at the same paths on "
                    "a file system that they share; see docs/scale.md."
                )


class _Output:
    """Standard output without what Ray's threads print there, of lost nodes.

    Results go to standard output, and so what these print goes to standard error.

    Args:
        stream: Standard output.
        threads: Ray's.
    """

    def __init__(self, stream: Any, threads: set[threading.Thread]):
        self._stream, self._threads = stream, threads

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        theirs = threading.current_thread() in self._threads
        return (sys.stderr if theirs else self._stream).write(text)


@dataclasses.dataclass(eq=False)
class _Task:
    """A task that has not ended.

    Attributes:
        name: What `wait` calls it.
        arguments: Of the work.
        log: The number of its log.
        ref: Ray's reference to what comes of it; None where it waits to be tried again.
        again: When it is, by `time.monotonic`.
        lost: How many times it was lost.
        refused: How many times its run folder was in use.
    """

    name: Any
    arguments: dict[str, Any]
    log: int
    ref: Any = None
    again: float = 0.0
    lost: int = 0
    refused: int = 0

    def seconds_to_retry(self, outcome: dict[str, Any]) -> float | None:
        """Says in how many seconds it is tried again; None where this is its end."""
        if "died" in outcome and self.lost < _LOST - 1:
            self.lost += 1
            _log.warning(
                "%s: %s; it is done again, for time %d of %d.",
                self.name,
                outcome["error"].rstrip("."),
                self.lost + 1,
                _LOST,
            )
            return 0.0
        # A lost process may have it, of this program or of one that was killed before.
        if "in_use" in outcome and self.refused < len(_REFUSED):
            seconds = _REFUSED[self.refused]
            self.refused += 1
            _log.warning(
                "%s: another process still has its folder; it is tried again in %d s.",
                self.name,
                seconds,
            )
            return seconds
        return None


@dataclasses.dataclass(frozen=True)
class _Place:
    """Where this process is, which a node must be, too.

    Attributes:
        folder: The current one.
        probe: The file that this process has locked.
        content: What that holds.
        variables: Of the environment.
        compiled: Whether XLA keeps the programs that it compiles.
    """

    folder: str
    probe: pathlib.Path
    content: str
    variables: dict[str, str]
    compiled: bool

    def fault(self) -> str | None:
        """Says what this node lacks; paths are relative to the same folder then."""
        probe = printable(pathlib.Path(self.folder, self.probe))
        try:
            os.chdir(self.folder)
            with open(self.probe, "r+", encoding="utf-8") as file:
                if file.read() != self.content:
                    return f"{probe} is another file there"
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return None
        except OSError as error:
            return f"it cannot read {probe} ({error.strerror})"
        return f"{probe} is locked, and that is not seen there"


@contextlib.contextmanager
def _probe(folder: pathlib.Path) -> Iterator[_Place]:
    """Writes and locks the file that all nodes must find."""
    path, content = folder / _PROBE, uuid.uuid4().hex
    with open(path, "a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(
                f"Another process has runs done on Ray in {printable(folder)}; wait "
                "for it, or choose another --workdir."
            ) from error
        except OSError as error:
            raise InputError(
                f"Cannot lock {printable(path)}: {error.strerror}. Choose a --workdir "
                "on a file system that has locks."
            ) from error
        file.truncate(0)
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
        variables = {k: v for k, v in os.environ.items() if k.startswith(_VARIABLES)}
        # A cache of this machine's; each node has its own.
        cache = "--tf_xla_persistent_cache_"
        words = variables.pop("TF_XLA_FLAGS", "").split()
        if kept := [word for word in words if not word.startswith(cache)]:
            variables["TF_XLA_FLAGS"] = " ".join(kept)
        compiled = any(word.startswith(cache) for word in words)
        try:
            yield _Place(os.getcwd(), path, content, variables, compiled)
        finally:
            path.unlink(missing_ok=True)


def _unpacked() -> Callable[[list[str], bytes], Any]:
    """Returns a function that nodes can call before they find any module of ours."""

    # Ray sends what it cannot import, such as a function in a function, as it is.
    def unpacked(path: list[str], packed: bytes) -> Any:
        import pickle
        import sys

        sys.path[:0] = [folder for folder in path if folder not in sys.path]
        call, arguments = pickle.loads(packed)
        return call(*arguments)

    return unpacked


def _check(place: _Place) -> str | None:
    """On a node: says what it lacks."""
    return place.fault()


def _do(
    place: _Place,
    folder: pathlib.Path,
    work: Callable[..., dict[str, Any]],
    arguments: dict[str, Any],
    cores: int,
    log: int,
) -> dict[str, Any]:
    """On a node: does a task in a process of its own, and returns what came of it."""
    if wrong := place.fault():
        return {"error": f"the Ray node {platform.node()} cannot be used: {wrong}"}
    os.environ.update(place.variables)
    if place.compiled:
        compilation_cache()
    with Workers(1, folder, work, cores=cores, first=log) as workers:
        workers.start("task", **arguments)
        # Ray's cancellation is an exception between two lines of Python.
        while True:
            for _, outcome in workers.wait(_SECONDS):
                return outcome


def _ray() -> Any:
    try:
        import ray
    except ModuleNotFoundError as error:
        raise InputError(
            f"--ray needs {error.name}, which is not installed: "
            "pip install 'tf-ttur[ray]'."
        ) from error
    return ray
