"""The pool that completes futures: it grows while all of its threads wait, and ends."""

from __future__ import annotations

import logging
import threading

import pytest

pytest.importorskip("torch")

from transport.integrations.torch.futures import Completer  # after the check

PATIENCE = 20.0


def test_an_action_that_waits_for_a_later_one_does_not_block_it():
    pool = Completer()
    gates = [threading.Event() for _ in range(12)]
    done = threading.Event()

    def wait_for(number):
        assert gates[number].wait(PATIENCE)
        if number == 0:
            done.set()
        else:
            gates[number - 1].set()

    for number in range(len(gates)):
        pool.soon(lambda number=number: wait_for(number))
    pool.soon(gates[-1].set)
    assert done.wait(PATIENCE)
    pool.end()


def test_a_failing_action_is_reported_and_the_next_one_runs(caplog):
    pool = Completer()
    done = threading.Event()
    with caplog.at_level(logging.ERROR, "transport"):
        pool.soon(lambda: 1 // 0)
        pool.soon(done.set)
        assert done.wait(PATIENCE)
        pool.end()
    assert "ZeroDivisionError" in caplog.text


def test_threads_are_used_again_and_end_with_the_pool():
    pool = Completer()
    seen = set()
    for _ in range(50):
        done = threading.Event()
        pool.soon(lambda done=done: (seen.add(threading.current_thread()), done.set()))
        assert done.wait(PATIENCE)
    assert len(seen) < 50
    pool.end()
    for thread in seen:
        thread.join(PATIENCE)
        assert not thread.is_alive()
