"""Where runs that do not depend on each other are done.

By default they are done in processes of this machine. `--ray` hands them to the nodes
of a Ray cluster. `--shard=I/N` does every N-th of them here, and leaves the others to
N - 1 more jobs of a batch system, on a file system that all of them share.
docs/scale.md tells when to choose which.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from absl import flags

from fid.files import InputError
from fid.program import Flags
from tf_ttur.studies.workers import Workers

__all__ = ["Machines", "Shard", "chosen", "define"]

_T = TypeVar("_T")


@dataclasses.dataclass(frozen=True)
class Shard:
    """One of several equal shares of a list.

    Args:
        number: Which one, from 1.
        count: How many there are.

    Raises:
        InputError: There is no such share.

    Example:
        >>> [Shard(i, 2).of("abcde") for i in (1, 2)]
        [['a', 'c', 'e'], ['b', 'd']]
        >>> str(Shard.parse("2/4"))
        '2/4'
    """

    number: int
    count: int

    def __post_init__(self):
        if not 1 <= self.number <= self.count:
            raise InputError(
                f"There is no shard {self}: the first number must be in 1..N, where N, "
                "the second one, is how many shards there are, such as --shard=1/4."
            )

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Reads a shard from a text.

        Args:
            text: Of the form I/N.

        Raises:
            InputError: It is of another form, or there is no such shard.
        """
        found = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text)
        if not found:
            raise InputError(f"--shard={text}: expected I/N, such as --shard=1/4.")
        return cls(int(found[1]), int(found[2]))

    def of(self, items: Sequence[_T]) -> list[_T]:
        """Returns the items of this share, which are no other share's.

        Args:
            items: All items, in the same order for each share.
        """
        return list(items[self.number - 1 :: self.count])


@dataclasses.dataclass(frozen=True)
class Machines:
    """Where runs are done, and how many at a time.

    Args:
        processes: Runs at a time. None means one on this machine, and as many as there
            is room for on a Ray cluster.
        shard: The share of the runs that is done here; None means all of them.
        ray: The address of a Ray cluster, HOST:PORT, or `auto` for the one that this
            machine is a node of; None means this machine.
        cores_per_run: Cores of a run on a Ray cluster; None means one. On this machine,
            runs share the cores.
        gpus_per_run: Its GPUs there; None means none.

    Raises:
        InputError: A number cannot be, or two settings exclude each other.
    """

    processes: int | None = None
    shard: Shard | None = None
    ray: str | None = None
    cores_per_run: int | None = None
    gpus_per_run: float | None = None

    def __post_init__(self):
        for name, value in (
            ("processes", self.processes),
            ("cores per run", self.cores_per_run),
        ):
            if value is not None and value < 1:
                raise InputError(f"The number of {name} is {value}; it must be >= 1.")
        if self.gpus_per_run is not None and not 0 < self.gpus_per_run < float("inf"):
            raise InputError(
                f"The number of GPUs per run is {self.gpus_per_run:g}; it must be "
                "positive."
            )
        if self.ray is None:
            for name in ("cores_per_run", "gpus_per_run"):
                if getattr(self, name) is not None:
                    raise InputError(
                        f"--{name} is for the nodes of a Ray cluster: give --ray, too, "
                        "or leave it out."
                    )
        elif self.shard is not None:
            raise InputError(
                f"--shard={self.shard} and --ray exclude each other: a Ray cluster "
                "shares the runs out by itself. Leave one of them out."
            )
        elif not re.fullmatch(r"auto|[^/\s]+:[0-9]+", self.ray):
            raise InputError(
                f"--ray={self.ray}: expected auto, or HOST:PORT of the cluster's head "
                "node, such as --ray=10.0.0.1:6379."
            )

    def share(self, items: Sequence[_T]) -> list[_T]:
        """Returns the items that are done here.

        Args:
            items: All items, in the same order at each start.
        """
        return list(items) if self.shard is None else self.shard.of(items)

    def workers(
        self, left: int, *arguments: Any, make: Callable[..., Any] | None = None
    ) -> Any:
        """Makes what tasks are done by.

        Args:
            left: How many tasks there are.
            *arguments: What `workers.Workers` takes after the number of processes.
            make: Makes it, in the place of `Workers` or `RayWorkers`.
        """
        if self.ray is None:
            most = self.processes or 1
            # Shards have the same folder, and logs of their own there.
            first = 0 if self.shard is None else (self.shard.number - 1) * most
            make = make or functools.partial(Workers, first=first)
            return make(min(most, left), *arguments)
        # Ray is an extra.
        from tf_ttur.studies.ray_workers import RayWorkers

        make = make or functools.partial(
            RayWorkers,
            address=self.ray,
            cores=self.cores_per_run or 1,
            gpus=self.gpus_per_run or 0,
        )
        return make(min(self.processes or left, left), *arguments)


def define(flag: Flags) -> None:
    """Defines the flags of a program that does many runs.

    Args:
        flag: Defines a flag.
    """
    flag.number(
        "processes",
        None,
        "Runs at a time. They share the processor's cores, and by default there is "
        "one; with --ray, by default as many as there is room for.",
    )
    flag.text(
        "shard",
        None,
        "I/N: do the I-th of N shares of the runs only, such as --shard=1/4. For the "
        "job arrays of a batch system, on a file system that all nodes share.",
    )
    flag.text(
        "ray",
        None,
        "Do the runs on a Ray cluster: HOST:PORT of its head node, or auto on one of "
        "its nodes. All nodes see the same files at the same paths; see docs/scale.md.",
    )
    flag.number("cores_per_run", None, "With --ray: cores of a run; by default 1.")
    flag.rate("gpus_per_run", None, "With --ray: GPUs of a run; by default none.")


def chosen(values: flags.FlagValues) -> Machines:
    """Returns what the flags of `define` say.

    Args:
        values: Their values.

    Raises:
        InputError: They cannot be.

    Example:
        >>> flag = Flags()
        >>> define(flag)
        >>> _ = flag.values(["x.py", "--shard=2/4", "--processes=3"])
        >>> machines = chosen(flag.values)
        >>> machines.processes, machines.share(range(10))
        (3, [1, 5, 9])
    """
    return Machines(
        values.processes,
        None if values.shard is None else Shard.parse(values.shard),
        values.ray,
        values.cores_per_run,
        values.gpus_per_run,
    )
