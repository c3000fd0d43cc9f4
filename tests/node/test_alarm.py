"""An alarm: it goes off once, when it was last set to, and not for who puts it off."""

from __future__ import annotations

import os
import resource
import threading
from time import monotonic

import pytest

from support.nodes import together
from transport.node.alarm import Alarm

SOON = 0.02
LONG = 1000.0


@pytest.fixture
def alarm():
    alarm = Alarm()
    yield alarm
    alarm.close()


def test_it_goes_off_after_the_time_that_it_was_set_to(alarm: Alarm) -> None:
    begun = monotonic()
    alarm.set(SOON)
    alarm.wait()
    assert monotonic() - begun >= SOON


def test_what_was_set_last_counts(alarm: Alarm) -> None:
    alarm.set(LONG)
    alarm.set(0)
    alarm.wait()
    begun = monotonic()
    alarm.set(0)
    alarm.set(SOON)
    alarm.wait()
    assert monotonic() - begun >= SOON, "it had not gone off yet for whoever waits"


def test_it_waits_for_who_comes_late_and_goes_off_once(alarm: Alarm) -> None:
    alarm.set(0)
    alarm.wait()
    begun = monotonic()
    alarm.set(SOON)
    alarm.wait()
    assert monotonic() - begun >= SOON, "the first time was over"


def test_another_thread_ends_a_wait_that_would_never_end(alarm: Alarm) -> None:
    waiting = threading.Event()

    def wait() -> None:
        waiting.set()
        alarm.wait()

    def wake() -> None:
        assert waiting.wait(30.0)
        alarm.set(0)

    together(wait, wake)


def test_what_was_put_off_does_not_go_off_at_its_old_time(alarm: Alarm) -> None:
    alarm.set(SOON)
    alarm.set(LONG)
    gone_off = threading.Event()

    def wait() -> None:
        alarm.wait()
        gone_off.set()

    thread = threading.Thread(target=wait)
    thread.start()
    assert not gone_off.wait(3 * SOON)
    alarm.set(0)
    assert gone_off.wait(30.0)
    thread.join(30.0)


def test_its_descriptor_is_given_back() -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(10):
        Alarm().close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_no_descriptor_left_is_an_error_that_says_so() -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))
    try:
        with pytest.raises(OSError, match="Too many open files"):
            Alarm()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
