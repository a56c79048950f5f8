"""Work done ahead of its consumer: on threads, in order, within a bound of memory."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

__all__ = ["MAX_BYTES", "Admit", "in_order"]

# So much may wait for the consumer. One item may exceed it, when it is the next.
MAX_BYTES = 256 * 2**20
_MAX_THREADS = 16

Item = TypeVar("Item")
Result = TypeVar("Result")
Admit = Callable[[int], None]


def in_order(
    function: Callable[[Item, Admit], Result],
    items: Sequence[Item],
    *,
    ahead: int,
    max_bytes: int = MAX_BYTES,
    threads: int | None = None,
) -> Iterator[Result]:
    """Calls a function on items ahead of time and yields its results in their order.

    The threads end when the last result was taken, and when the iterator is closed or
    forgotten: each finishes at most the item it is working on.

    Args:
        function: Called as `function(item, admit)` on some thread. It calls
            `admit(n)` before it takes n bytes of memory; this waits for a place. What
            it raises is raised where its result would have been.
        items: What to call it on.
        ahead: How many items may be begun beyond those taken.
        max_bytes: How many admitted bytes may wait to be taken. The item whose turn it
            is, is always admitted, so that nothing waits for ever.
        threads: How many; None means one for each processor, 16 at most.

    Yields:
        The results.

    Example:
        >>> list(in_order(lambda item, admit: item**2, [1, 2, 3], ahead=2))
        [1, 4, 9]
    """
    queue = _Queue(function, items, max(1, ahead), max_bytes)
    count = min(len(items), threads or min(os.cpu_count() or 1, _MAX_THREADS))
    # The threads are daemons: a consumer that fails may keep this iterator alive, in
    # its traceback, until the process ends, which must not wait for threads that wait
    # for it.
    workers = [threading.Thread(target=queue.work, daemon=True) for _ in range(count)]
    for worker in workers:
        worker.start()
    try:
        for _ in items:
            yield queue.take()
    finally:
        queue.close()
        for worker in workers:
            worker.join()


class _Closed(BaseException):
    """The consumer has left. No Exception, so that no function takes it for its own."""


class _Queue:
    def __init__(
        self,
        function: Callable[[Any, Admit], Any],
        items: Sequence[Any],
        ahead: int,
        max_bytes: int,
    ):
        self._function, self._items = function, items
        self._ahead, self._max_bytes = ahead, max_bytes
        self._changed = threading.Condition()
        self._begun = 0  # This many items were given to threads.
        self._taken = 0  # This many results were given to the consumer.
        self._results: dict[int, tuple[Any, BaseException | None]] = {}
        self._admitted: dict[int, int] = {}  # The bytes of each item.
        self._total = 0  # The bytes of all items.
        self._closed = False

    def work(self) -> None:
        while (index := self._next()) is not None:
            result, failure = None, None
            try:
                result = self._function(
                    self._items[index], lambda n, index=index: self._admit(index, n)
                )
            except _Closed:
                return
            except BaseException as error:  # take() raises it again.
                failure = error
            with self._changed:
                self._results[index] = result, failure
                if index == self._taken:
                    self._changed.notify_all()

    def take(self) -> Any:
        with self._changed:
            index = self._taken
            self._changed.wait_for(lambda: index in self._results)
            result, failure = self._results.pop(index)
            self._total -= self._admitted.pop(index, 0)
            self._taken += 1
            self._changed.notify_all()
        if failure is not None:
            raise failure
        return result

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _next(self) -> int | None:
        with self._changed:
            self._changed.wait_for(
                lambda: (
                    self._closed
                    or self._begun == len(self._items)
                    or self._begun < self._taken + self._ahead
                )
            )
            if self._closed or self._begun == len(self._items):
                return None
            self._begun += 1
            return self._begun - 1

    def _admit(self, index: int, size: int) -> None:
        # Items begin in order, so the one whose turn it is has always begun, and is
        # never kept waiting: the others cannot block it.
        with self._changed:
            self._changed.wait_for(
                lambda: (
                    self._closed
                    or index == self._taken
                    or self._total + size <= self._max_bytes
                )
            )
            if self._closed:
                raise _Closed
            self._admitted[index] = self._admitted.get(index, 0) + size
            self._total += size
