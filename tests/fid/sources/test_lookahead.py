import subprocess
import sys
import threading
import time

import pytest

from fid.sources.lookahead import in_order


def no_threads_left(before):
    return set(threading.enumerate()) <= before


def test_results_come_in_order_whoever_is_done_first():
    def function(item, admit):
        time.sleep(0.002 * (item % 3))
        return item

    assert list(in_order(function, range(50), ahead=7, threads=4)) == list(range(50))
    assert list(in_order(function, [], ahead=7)) == []


def test_no_more_is_begun_than_asked_for():
    begun = []
    results = in_order(lambda item, admit: begun.append(item), range(40), ahead=5)
    for taken, _ in enumerate(results, 1):
        time.sleep(0.001)
        assert len(begun) <= taken + 5
    assert len(begun) == 40


def test_admitted_bytes_stay_within_the_bound_save_for_the_next_item():
    lock, held, most = threading.Lock(), 0, 0
    sizes = [10, 40, 50, 300, 20, 90, 90, 5] * 5

    def function(size, admit):
        nonlocal held, most
        admit(size // 2)
        admit(size - size // 2)
        with lock:
            held += size
            most = max(most, held)
        return size

    found = []
    for size in in_order(function, sizes, ahead=100, max_bytes=100, threads=4):
        with lock:
            held -= size
        found.append(size)
        time.sleep(0.001)
    assert found == sizes
    # The bound; the item whose turn it is; and the one just taken, not yet let go of.
    assert most <= 100 + 300 + 300


def test_an_exception_comes_in_its_place():
    def function(item, admit):
        if item == 3:
            raise KeyError("three")
        return item

    before = set(threading.enumerate())
    results = in_order(function, range(10), ahead=4)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(KeyError, match="three"):
        next(results)
    assert no_threads_left(before)


def test_threads_end_when_the_consumer_leaves():
    def function(item, admit):
        admit(1000)
        return item

    before = set(threading.enumerate())
    # One fits; the others wait for a place that never comes.
    results = in_order(function, range(100), ahead=50, max_bytes=1000, threads=4)
    next(results)
    assert not no_threads_left(before)
    results.close()
    assert no_threads_left(before)


def test_a_consumer_that_fails_does_not_hang_the_process():
    program = """
from fid.sources.lookahead import in_order
def function(item, admit):
    admit(1000)
    return item
results = in_order(function, range(100), ahead=50, max_bytes=1000, threads=4)
next(results)
raise SystemExit(7)
"""
    run = subprocess.run([sys.executable, "-c", program], timeout=30)
    assert run.returncode == 7
