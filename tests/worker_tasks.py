"""What worker processes do in tests; they find it by its name."""

import os
import signal

from fid.files import InputError


def work(what, value=0):
    """Squares a number, tells of its threads, or fails in one of three ways."""
    if what == "square":
        return {"text": str(value**2), "pid": os.getpid()}
    if what == "threads":
        return {"text": os.environ["OMP_NUM_THREADS"]}
    if what == "refuse":
        raise InputError("There is no such thing.")
    if what == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    raise ZeroDivisionError("by hand")
