"""How fast `tf_ttur.ngrams` counts and compares 6-grams, beside dictionaries of tuples.

  python scripts/benchmark_ngrams.py [--lines=100000] [--n=6] [--rounds=5]

The original counts n-grams of a line, a tuple of characters, in a dictionary, and sums
the divergence over its keys: that algorithm is written here anew. Each way lives in a
process of its own and they work in turn (A B A B). Printed are the medians of the
ratios of neighbouring rounds and, in brackets, the smallest and the largest, for
counting the training set, for comparing 640 lines with it, and for both; and how far
the first round of both raised the most memory that each process has used, its lines
excluded. Both must give equal counts and divergences.

Lines are made of the words of Python's help pages, drawn by their frequency. They are
English in their letters and words, not in the order of words: of 100,000 such lines
the different 6-grams are more than those of real ones.
"""

from __future__ import annotations

import collections
import contextlib
import pathlib
import sys
import tempfile
from typing import Any

import numpy as np
from absl import flags
from benchmarking import (
    Others,
    Run,
    Work,
    Worker,
    machine,
    peak_mb,
    prepare_environment,
    ratios,
    workers,
)

from fid.files import check_writable, write_json
from fid.program import Flags, run

SAMPLES = 640  # lines that the paper compares with the training set
SEED = 0


def writer(folder: pathlib.Path, count: int) -> dict[str, Work]:
    """Writes lines of English-like text, each of 32 characters, and their token ids."""
    from pydoc_data.topics import topics

    def write() -> None:
        words = np.array(" ".join(topics.values()).split(), object)
        drawn = np.random.default_rng(SEED).choice(words, (count, 16))
        lines = [" ".join(line)[:32].ljust(32, "`") for line in drawn]
        (folder / "lines.txt").write_text("\n".join(lines))
        np.save(folder / "tokens.npy", tokens_of(lines))

    return {"write": write}


def tokens_of(lines: list[str]) -> np.ndarray:
    """Returns token ids, the most frequent character first."""
    codes = np.array(lines).view(np.uint32).reshape(len(lines), -1)
    symbols, inverse, counts = np.unique(codes, return_inverse=True, return_counts=True)
    rank = np.empty(len(symbols), np.uint16)
    rank[np.argsort(-counts)] = np.arange(1, len(symbols) + 1)
    return rank[inverse].reshape(codes.shape)


def ours(folder: pathlib.Path, n: int) -> dict[str, Work]:
    """Sorted keys."""
    from tf_ttur.ngrams import NgramCounts, jensen_shannon

    tokens = np.load(folder / "tokens.npy")
    tokens, samples = tokens[:-SAMPLES], tokens[-SAMPLES:]
    held: dict[str, Any] = {}

    def count_them() -> list[int]:
        held["real"] = NgramCounts.of(tokens, n)
        return [len(held["real"]), held["real"].total]

    return {
        "count": count_them,
        "compare": lambda: jensen_shannon(held["real"], NgramCounts.of(samples, n)),
        "peak": peak_mb,
    }


def dictionaries(folder: pathlib.Path, n: int) -> dict[str, Work]:
    """The original's way."""
    with open(folder / "lines.txt") as file:
        lines = [tuple(line.removesuffix("\n")) for line in file]
    lines, samples = lines[:-SAMPLES], lines[-SAMPLES:]
    held: dict[str, Any] = {}

    def count_them() -> list[int]:
        held.clear()  # Two at a time would not be fair.
        held["real"] = TupleModel(lines, n)
        return [len(held["real"].counts), held["real"].total]

    return {
        "count": count_them,
        "compare": lambda: TupleModel(samples, n).divergence(held["real"]),
        "peak": peak_mb,
    }


class TupleModel:
    """Counts of n-grams in a dictionary, and their logarithms one by one."""

    def __init__(self, lines: list[tuple[str, ...]], n: int):
        self.counts: dict[tuple[str, ...], int] = collections.defaultdict(int)
        self.total = 0
        for line in lines:
            for start in range(len(line) - n + 1):
                self.counts[line[start : start + n]] += 1
                self.total += 1

    def log_probability(self, ngram: tuple[str, ...]) -> float:
        """Returns the logarithm of how often an n-gram occurs among all."""
        if ngram not in self.counts:
            return -np.inf
        return np.log(self.counts[ngram]) - np.log(self.total)

    def divergence(self, other: TupleModel) -> float:
        """Returns the Jensen-Shannon divergence in bits."""
        return (self._half(other) + other._half(self)) / np.log(2)

    def _half(self, other: TupleModel) -> float:
        """Returns KL(self || mean of both) / 2."""
        keys = set(self.counts)
        p = np.array([self.log_probability(key) for key in keys])
        q = np.array([other.log_probability(key) for key in keys])
        mean = np.logaddexp(p - np.log(2), q - np.log(2))
        return 0.5 * np.sum(np.exp(p) * (p - mean))


def main(args: list[str], values: flags.FlagValues) -> None:
    """Counts and compares in turn, and prints what was found."""
    if args:
        raise flags.Error(f"there is nothing to do with {args[0]!r}")
    if values.json:
        check_writable(values.json)
    prepare_environment()
    results: dict[str, Any] = {
        **machine("numpy"), "lines": values.lines, "n": values.n
    }  # fmt: skip
    others, spent = Others(), 0.0
    with contextlib.ExitStack() as stack:
        folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
        # A process counts as its own the most memory that the one had which started
        # it: what makes the lines, and takes more than counting them, is a third one.
        with workers((writer, folder, values.lines + SAMPLES)) as (third,):
            third.run("write")
        given = ((way, folder, values.n) for way in (dictionaries, ours))
        theirs, us = stack.enter_context(workers(*given))
        before = [worker.run("peak").result for worker in (theirs, us)]
        rounds = [one_round(theirs, us) for _ in range(values.rounds)]
        after = [found["peak"] for found in rounds[0]]
    for work in ("count", "compare", "both"):
        runs = [[found[work] for found in one] for one in zip(*rounds, strict=True)]
        results[work] = report(work, *runs)
        spent += sum(run.cpu for one in runs for run in one if work == "both")
    grown = [late - early for early, late in zip(before, after, strict=True)]
    print(
        f"memory: tuples {grown[0]:.1f} MB, keys {grown[1]:.1f} MB; "
        f"ratio {grown[0] / grown[1]:.1f}"
    )
    print(
        f"share of the processors that other programs took: {others.share(spent):.2f}"
    )
    results["memory_mb"] = {"theirs": grown[0], "ours": grown[1]}
    if values.json:
        write_json(values.json, results)


def one_round(*ways: Worker) -> list[dict[str, Any]]:
    """Has each way count and compare, in turn."""
    found: list[dict[str, Any]] = [{} for _ in ways]
    for work in ("count", "compare"):
        for way, runs in zip(ways, found, strict=True):
            runs[work] = way.run(work)
    for way, runs in zip(ways, found, strict=True):
        one, two = runs["count"], runs["compare"]
        runs["both"] = Run(one.seconds + two.seconds, one.cpu + two.cpu, two.result)
        runs["peak"] = way.run("peak").result
    return found


def report(work: str, theirs: list[Any], us: list[Any]) -> dict[str, Any]:
    """Prints and returns the times of a work, after a look at what came out."""
    np.testing.assert_allclose(us[0].result, theirs[0].result, rtol=1e-9)
    text, found = ratios(theirs, us)
    seconds = [np.median([run.seconds for run in runs]) for runs in (theirs, us)]
    print(
        f"{work}: {us[0].result}; tuples {seconds[0]:.3f} s, keys {seconds[1]:.4f} s; "
        f"ratio {text}",
        flush=True,
    )
    return found | {"result": us[0].result}


def define(flag: Flags) -> None:
    """Defines the flags."""
    flag.number("lines", 100_000, "Lines of the training set.", least=1)
    flag.number("n", 6, "Length of the n-grams.", least=1, most=6)
    flag.number("rounds", 5, "Rounds.", least=1)
    flag.text("json", None, "Also write all that was measured here.")


if __name__ == "__main__":
    sys.exit(run(main, define, __doc__))
