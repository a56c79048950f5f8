"""What the benchmarks share: contestants in processes of their own, run in turn.

A machine's speed drifts, so only ratios of neighbouring rounds mean something; and
TensorFlow and PyTorch fight over threads where they share a process.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.metadata
import importlib.util
import multiprocessing
import os
import pathlib
import resource
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import numpy as np
from launching import use_checkout

use_checkout()  # before a benchmark imports our packages, and for its workers

# Rows and columns of the matrices by whose product a machine's speed is measured.
DIMENSION = 2048
# A piece of work of one contestant: called once for each round.
Work = Callable[..., Any]


class Run(NamedTuple):
    """One round: wall seconds, processor seconds, and what was returned."""

    seconds: float
    cpu: float
    result: Any


class Worker:
    """A contestant in a process of its own.

    Args:
        contestant: A function at the top of a module, which returns its works by name.
        *arguments: What it is given.
    """

    def __init__(self, contestant: Callable[..., dict[str, Work]], *arguments: Any):
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(
            target=_serve, args=(theirs, contestant, arguments), daemon=True
        )
        self._process.start()
        theirs.close()

    def run(self, work: str, *arguments: Any, repeat: int = 1) -> Run:
        """Does `work` a number of times; the seconds are for one of them."""
        self._connection.send((work, arguments, repeat))
        answer = self._connection.recv()
        if isinstance(answer, str):
            raise RuntimeError(answer)
        return answer

    def close(self) -> None:
        """Ends the process."""
        self._process.kill()
        self._process.join()


def _serve(connection: Connection, contestant: Any, arguments: Sequence[Any]) -> None:
    try:
        works = contestant(*arguments)
        while True:
            name, given, repeat = connection.recv()
            start, cpu = time.perf_counter(), time.process_time()
            for _ in range(repeat):
                result = works[name](*given)
            seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
            connection.send(Run(seconds / repeat, cpu / repeat, result))
    except EOFError:
        pass
    except Exception as error:
        connection.send(f"{contestant.__name__}: {error!r}")


@contextlib.contextmanager
def workers(*contestants: Sequence[Any]) -> Iterator[list[Worker]]:
    """Starts workers, each from a contestant and its arguments, and ends them."""
    with contextlib.ExitStack() as stack:
        started = []
        for contestant, *arguments in contestants:
            started.append(Worker(contestant, *arguments))
            stack.callback(started[-1].close)
        yield started


class Others:
    """What the machine's other programs take of its processors, from now on.

    Where a processor was shared, PyTorch was once seen to take several times the
    processor time that it takes alone. Ratios count only where this share is small.
    """

    def __init__(self) -> None:
        self._start, self._busy = time.perf_counter(), _busy_seconds()

    def share(self, cpu: float) -> float:
        """Returns the share, from 0 to 1, that `cpu` seconds of ours leave over."""
        busy = _busy_seconds() - self._busy - cpu
        seconds = (time.perf_counter() - self._start) * (os.cpu_count() or 1)
        return min(max(busy / seconds, 0.0), 1.0)


def in_turn(
    turns: Sequence[tuple[Worker, str]], rounds: int
) -> tuple[list[list[Run]], float]:
    """Has workers work in turn, round after round, each for two seconds or once.

    Args:
        turns: Whose turn it is in a round, and for what; a worker may have several.
        rounds: How many rounds.

    Returns:
        For each turn its runs; and the share of the processors that other programs had.
    """
    repeats = [
        max(1, round(2 / max(worker.run(work).seconds, 1e-3))) for worker, work in turns
    ]
    runs: list[list[Run]] = [[] for _ in turns]
    others = Others()
    for _ in range(rounds):
        for found, (worker, work), repeat in zip(runs, turns, repeats, strict=True):
            found.append(worker.run(work, repeat=repeat))
    spent = zip(runs, repeats, strict=True)
    busy = others.share(
        sum(run.cpu * repeat for found, repeat in spent for run in found)
    )
    return runs, busy


def _busy_seconds() -> float:
    """Returns the seconds that all processors together have worked, or NaN."""
    try:
        fields = pathlib.Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]
    except OSError:  # not on Linux
        return float("nan")
    user, nice, system, _, _, irq, soft, stolen = map(int, fields)
    ticks = user + nice + system + irq + soft + stolen
    return ticks / os.sysconf("SC_CLK_TCK")


def ratios(theirs: Sequence[Run], ours: Sequence[Run]) -> tuple[str, dict[str, Any]]:
    """Returns the ratios of rounds' times, as a text and for a JSON file."""
    texts, found = [], {}
    for field in ("seconds", "cpu"):
        one, two = ([getattr(run, field) for run in runs] for runs in (theirs, ours))
        quotients = np.divide(one, two)
        low, middle, high = quotients.min(), np.median(quotients), quotients.max()
        texts.append(f"{middle:.2f} ({low:.2f}-{high:.2f})")
        found[field] = {"ratios": quotients.tolist(), "theirs": one, "ours": two}
    return f"{texts[0]}, in processor time {texts[1]}", found


def product() -> Work:
    """Returns the product of two float32 matrices by TensorFlow, as a work."""
    import tensorflow as tf

    matrix = tf.random.stateless_normal([DIMENSION, DIMENSION], [0, 0])
    multiply = tf.function(lambda x: x @ x)
    return lambda: multiply(matrix).numpy()


def product_rates(products: Sequence[Run], field: str = "seconds") -> np.ndarray:
    """Returns GFLOP/s of rounds of `product`, in wall or processor time."""
    return 2 * DIMENSION**3 / 1e9 / np.array([getattr(run, field) for run in products])


def reached(
    count: float, steps: Sequence[Run], products: Sequence[Run], goal: float
) -> dict[str, Any]:
    """Says which share of the rate of float32 products steps reach.

    Args:
        count: Multiplications and additions of a step, by the textbook.
        steps: Runs of the step.
        products: Runs of `product`, as many, in between.
        goal: The share that is aimed at.

    Returns:
        A text, and what stands in it, for a JSON file.
    """
    found, texts = {}, []
    for field, name in (("seconds", "wall"), ("cpu", "processor")):
        rates = count / 1e9 / np.array([getattr(run, field) for run in steps])
        possible = product_rates(products, field)
        shares = rates / possible
        texts.append(
            f"{np.median(shares):.0%} ({shares.min():.0%}-{shares.max():.0%}) in "
            f"{name} time ({np.median(rates):.0f} of {np.median(possible):.0f} "
            "GFLOP/s)"
        )
        found[field] = {
            "gflops": rates.tolist(),
            "product_gflops": possible.tolist(),
            "fraction": shares.tolist(),
        }
    text = f"{count / 1e9:.1f} GFLOP a step by the textbook; of the rate of float32 "
    text += f"products, a step reaches {' and '.join(texts)}; goal {goal:.0%}"
    return {"text": text, "goal": goal, "gflop": count / 1e9, **found}


def peak_mb() -> float:
    """Returns the most memory that this process has used, in MB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2 ** (20 if sys.platform == "darwin" else 10)


class Memory:
    """What this process takes beyond what it takes now, at most (Linux only).

    `peak_mb` has the libraries and what a compiler took; this is for one work alone.
    """

    def __init__(self) -> None:
        self._before = _status_mb("VmRSS")

    def during(self, work: Work) -> float:
        """Does `work`, and returns the most MB that it took, or NaN elsewhere."""
        try:
            # What was freed goes back to the system, or it would count as taken.
            ctypes.CDLL(None).malloc_trim(0)
            # The kernel forgets the most memory so far.
            pathlib.Path("/proc/self/clear_refs").write_text("5")
        except (AttributeError, OSError):
            return float("nan")
        work()
        return _status_mb("VmHWM") - self._before


def _status_mb(field: str) -> float:
    """Returns a size in /proc/self/status, or NaN."""
    try:
        lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    except OSError:  # not on Linux
        return float("nan")
    found = next(line for line in lines if line.startswith(f"{field}:"))
    return int(found.split()[1]) / 2**10


def machine(*packages: str) -> dict[str, Any]:
    """Returns the number of cores, and the packages' versions where installed."""
    found: dict[str, Any] = {"cores": len(os.sched_getaffinity(0))}
    for name in packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def installed(*packages: str) -> bool:
    """Says whether all of these can be imported."""
    return all(importlib.util.find_spec(package) for package in packages)


def prepare_environment() -> None:
    """Sets what the workers inherit."""
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
