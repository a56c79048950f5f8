"""SIGTERM ends a run in order: between two steps, or in the midst of measuring.

Nowhere else, since an exception out of nowhere may be swallowed (Keras has a bare
`except` in every step) or come out as an error of the file that was being written.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any

__all__ = ["Terminated", "at_once", "check", "handled"]


class Terminated(SystemExit):
    """SIGTERM was received. Its exit status is a shell's for it, 143."""

    def __init__(self) -> None:
        super().__init__(128 + signal.SIGTERM)


class _State:
    received = False
    at_once = False


@contextlib.contextmanager
def handled() -> Iterator[None]:
    """Notes SIGTERM inside, for `check` and `at_once`, in place of dying by it.

    One that nothing has looked at is raised at the end: the run is whole, but what
    would come after it, such as another run, does not start.

    It changes nothing outside of the main thread, nor where the program has a handler
    of its own.
    """
    ours = (
        threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    )
    if not ours:
        yield
        return
    _State.received = False
    signal.signal(signal.SIGTERM, _receive)
    try:
        yield
        check()
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        _State.received = _State.at_once = False


@contextlib.contextmanager
def at_once() -> Iterator[None]:
    """Lets SIGTERM interrupt what is inside, long work that writes nothing."""
    check()
    _State.at_once = True
    try:
        yield
    finally:
        _State.at_once = False


def check() -> None:
    """Raises if SIGTERM was received.

    Raises:
        Terminated: It was.
    """
    if _State.received:
        raise Terminated


def _receive(number: int, frame: Any) -> None:
    _State.received = True
    if _State.at_once:
        raise Terminated
