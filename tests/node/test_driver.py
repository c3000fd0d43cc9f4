"""The driver with a toy engine: who steps when, who wakes whom, and that nobody is forgotten."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from functools import partial

import pytest

from support.nodes import together, until
from transport.node.driver import Driver, Waitable

NEVER = float("inf")


class Job:
    """Something to wait for."""

    def __init__(self) -> None:
        self.finished = False

    def done(self) -> bool:
        return self.finished


class ToyEngine:
    """Finishes, in order, the jobs whose turn comes as bytes through a pipe."""

    def __init__(self) -> None:
        self.reader, self.writer = os.pipe()
        os.set_blocking(self.reader, False)
        self.jobs: deque[Job] = deque()
        self.steps = 0
        self.stepped_by: set[str] = set()
        self.timeout = NEVER
        self.driver = Driver("toy", self.step, lambda: self.timeout)
        self.driver.watch(self.reader)
        self.driver.start()

    def step(self, ready: Sequence[int], until: Waitable | None) -> None:
        self.steps += 1
        self.stepped_by.add(threading.current_thread().name)
        if self.timeout <= time.monotonic():
            self.timeout = NEVER
            self.finish_next()
        if self.reader in ready:
            for _ in os.read(self.reader, 1000):
                self.finish_next()

    def finish_next(self) -> None:
        self.jobs.popleft().finished = True
        self.driver.any_ended = True

    def post(self) -> Job:
        job = Job()
        with self.driver:
            self.jobs.append(job)
        return job

    def signal(self) -> None:
        os.write(self.writer, b"x")

    def close(self) -> None:
        self.driver.stop()
        os.close(self.reader)
        os.close(self.writer)


@pytest.fixture
def engine() -> Iterator[ToyEngine]:
    made = ToyEngine()
    yield made
    made.close()


def soon(seconds: float = 10.0) -> float:
    return time.monotonic() + seconds


def test_a_waiter_drives_until_its_work_has_ended(engine: ToyEngine) -> None:
    job = engine.post()
    engine.signal()
    assert engine.driver.wait(job, soon())
    assert job.done()


def test_a_deadline_ends_the_wait_and_leaves_the_work(engine: ToyEngine) -> None:
    job = engine.post()
    assert not engine.driver.wait(job, soon(0.05))
    assert not engine.driver.wait(job, soon(-1))
    engine.signal()
    assert engine.driver.wait(job, soon())


def test_polling_with_no_time_at_all_makes_progress(engine: ToyEngine) -> None:
    """Who only ever looks, and looks often, must still see what has come."""
    job = engine.post()
    for _ in range(1000):  # by now the background thread leaves everything to the waiter
        assert not engine.driver.wait(job, time.monotonic())
    engine.signal()
    give_up = soon()
    while not engine.driver.wait(job, time.monotonic()):
        assert time.monotonic() < give_up


def test_the_background_thread_works_while_nobody_waits(engine: ToyEngine) -> None:
    job = engine.post()
    engine.signal()
    until(job.done)
    assert any(name.startswith("sealfabric") for name in engine.stepped_by)


def test_a_deadline_of_the_engine_wakes_a_waiter(engine: ToyEngine) -> None:
    job = engine.post()
    engine.timeout = soon(0.05)
    assert engine.driver.wait(job, soon())


@pytest.mark.parametrize("who", ["waiter", "background"])
def test_a_deadline_that_comes_closer_wakes_the_sleeper(engine: ToyEngine, who: str) -> None:
    job = engine.post()

    def bring_closer() -> None:
        with engine.driver:
            engine.timeout = time.monotonic() + 0.02
            engine.driver.expect_by(engine.timeout)

    if who == "waiter":
        together(partial(engine.driver.wait, job, soon()), bring_closer, patience=10)
    else:
        bring_closer()
        until(job.done)
    assert job.done()


def test_what_another_thread_ends_is_noticed_at_once(engine: ToyEngine) -> None:
    """The waiter may be spinning or asleep when the bell rings: neither may miss it."""

    def end_from_outside(job: Job, started: threading.Event) -> None:
        started.wait(10)
        with engine.driver:
            engine.jobs.remove(job)
            job.finished = True
            engine.driver.any_ended = True

    for _ in range(300):
        job, started = engine.post(), threading.Event()
        thread = threading.Thread(target=end_from_outside, args=(job, started))
        thread.start()
        started.set()
        assert engine.driver.wait(job, soon(10))
        thread.join()


def test_many_waiters_take_turns_at_the_front(engine: ToyEngine) -> None:
    """One thread waits in vain while others complete thousands."""
    vain = engine.post()
    with engine.driver:
        engine.jobs.remove(vain)
    counted = []

    def complete_many() -> None:
        for _ in range(1000):
            with engine.driver:
                job = Job()
                engine.jobs.append(job)
            engine.signal()
            assert engine.driver.wait(job, soon(20))
            counted.append(job)

    def wait_in_vain() -> None:
        for _ in range(100):
            assert not engine.driver.wait(vain, soon(0.005))

    together(complete_many, complete_many, complete_many, wait_in_vain)
    assert len(counted) == 3000


def test_the_front_passes_on_when_its_thread_leaves(engine: ToyEngine) -> None:
    """Whoever waited behind must take over the descriptors, or nobody would watch them."""
    for _ in range(50):
        first, second = engine.post(), engine.post()
        in_front = threading.Thread(target=engine.driver.wait, args=(first, soon()))
        in_front.start()
        behind = threading.Thread(target=engine.driver.wait, args=(second, soon()))
        behind.start()
        engine.signal()
        in_front.join(10)
        assert first.done()
        engine.signal()
        behind.join(10)
        assert second.done()


def test_stopping_ends_every_wait() -> None:
    engine = ToyEngine()
    jobs = [engine.post() for _ in range(3)]
    results: list[bool] = []

    def wait(job: Job) -> None:
        results.append(engine.driver.wait(job, None))

    waiting = [threading.Thread(target=wait, args=(job,)) for job in jobs]
    for thread in waiting:
        thread.start()
    engine.close()
    for thread in waiting:
        thread.join(10)
    assert results == [False] * 3


def test_an_interrupted_wait_leaves_the_driver_whole(engine: ToyEngine) -> None:
    class Interruption(BaseException):
        pass

    class Bad:
        def done(self) -> bool:
            raise Interruption

    with pytest.raises(Interruption):
        engine.driver.wait(Bad(), soon())
    job = engine.post()
    engine.signal()
    assert engine.driver.wait(job, soon())
    late = engine.post()
    engine.signal()
    until(late.done)  # so the background thread does not believe that somebody waits


class Interruption(BaseException):
    """What a handler of a signal raises, as Ctrl-C does."""


class InterruptedLock:
    """Stands for the driver's lock; whoever has to wait for it is interrupted the first time."""

    def __init__(self, driver: Driver) -> None:
        self._lock = driver._lock
        self.interruptions = 0
        self.interrupted = threading.Event()
        driver._lock = self  # type: ignore[assignment]

    def acquire(self, blocking: bool = True) -> bool:
        if blocking and not self.interruptions:
            self.interruptions += 1
            self.interrupted.set()
            raise Interruption
        return self._lock.acquire(blocking)

    def release(self) -> None:
        self._lock.release()

    def _is_owned(self) -> bool:
        return self._lock._is_owned()  # type: ignore[attr-defined, no-any-return]


def test_an_interruption_while_it_waits_for_the_lock_again_leaves_the_lock_held() -> None:
    driver = Driver("toy", lambda ready, until: None, lambda: NEVER)
    lock = InterruptedLock(driver)
    taken = threading.Event()

    def hold() -> None:
        with lock._lock:
            taken.set()
            lock.interrupted.wait(10)

    holder = threading.Thread(target=hold)
    holder.start()
    assert taken.wait(10)
    with pytest.raises(Interruption):
        driver._regain()
    assert (lock.interruptions, driver.held(), driver._queuing) == (1, True, set())
    holder.join(10)
    driver.__exit__()
    assert not driver.held()
    driver._lock = lock._lock
    driver.stop()


def test_an_interruption_of_a_turn_leaves_the_lock_held(
    engine: ToyEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, sleep = threading.get_ident(), time.sleep

    def interrupted(seconds: float) -> None:
        if threading.get_ident() == here:
            raise Interruption
        sleep(seconds)

    with engine.driver:
        engine.driver._told = True
        with monkeypatch.context() as patch:
            patch.setattr(time, "sleep", interrupted)
            with pytest.raises(Interruption):
                engine.driver._take_turns()
        assert engine.driver.held()
    assert not engine.driver.held()


def test_it_stops_though_an_interrupted_call_has_left_it_held() -> None:
    engine = ToyEngine()

    def leave_and_stop() -> None:
        engine.driver.__enter__()
        engine.close()

    thread = threading.Thread(target=leave_and_stop, daemon=True)
    thread.start()
    thread.join(10)
    assert not thread.is_alive()
