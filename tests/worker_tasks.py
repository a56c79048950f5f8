"""What worker processes do in tests; they find it by its name."""

import os
import signal

from fid.files import InputError


def work(what, value=0):
    """Squares a number, tells of its threads and signals, or fails in some way."""
    if what == "square":
        return {"text": str(value**2), "pid": os.getpid()}
    if what == "threads":
        return {"text": os.environ["OMP_NUM_THREADS"]}
    if what == "interrupt":
        os.kill(os.getpid(), signal.SIGINT)
        return {"text": str(signal.SIGINT in signal.pthread_sigmask(0, []))}
    if what == "exhaust":
        raise MemoryError("for the model")
    if what == "refuse":
        raise InputError("There is no such thing.")
    if what == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    raise ZeroDivisionError("by hand")
