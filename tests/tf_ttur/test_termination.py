"""SIGTERM in a program that notes it, and in one that does not."""

import os
import signal
import threading

import pytest

from tf_ttur import termination


def test_sigterm_waits_for_a_good_moment():
    default = signal.getsignal(signal.SIGTERM)
    with pytest.raises(termination.Terminated), termination.handled():
        termination.check()
        os.kill(os.getpid(), signal.SIGTERM)  # noted
        with pytest.raises(SystemExit) as ended:
            termination.check()
        assert ended.value.code == 143
        with pytest.raises(termination.Terminated), termination.at_once():
            raise AssertionError("not reached")
        noted = True  # and raised at the end
    assert noted
    termination.check()  # forgotten with the run that it ended
    with (
        pytest.raises(termination.Terminated),
        termination.handled(),
        termination.at_once(),
    ):
        os.kill(os.getpid(), signal.SIGTERM)
        raise AssertionError("not reached")
    assert signal.getsignal(signal.SIGTERM) is default


def test_a_handler_of_the_program_and_other_threads_are_left_alone():
    found = []

    def look():
        with termination.handled():
            found.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        look()
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    assert found == [signal.SIG_DFL, signal.SIG_IGN]
