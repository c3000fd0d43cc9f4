"""The handle of an operation: in threads, in event loops, late, cancelled, interrupted."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Iterator

import numpy as np
import pytest

from support.nodes import PATIENCE, linked, node, together
from transport import (
    CancelledError,
    ClosedError,
    Node,
    TransportError,
    TransportTimeoutError,
    UsageError,
)

MIB = 1024 * 1024


@pytest.fixture(scope="module")
def pair() -> Iterator[tuple[Node, Node]]:
    with linked() as nodes:
        yield nodes


def test_a_work_says_what_it_is_and_how_it_ended(pair: tuple[Node, Node]) -> None:
    a, b = pair
    work = b.irecv(source="a", tag=9)
    assert "recv from 'a' (tag 9)" in repr(work)
    assert "under way" in repr(work)
    assert not work.done()
    assert work.exception() is None
    a.send(np.arange(3), to="b", tag=9)
    assert work.wait(PATIENCE).tolist() == [0, 1, 2]
    assert work.done()
    assert work.exception() is None
    assert (work.source, work.tag, work.nbytes) == ("a", 9, 24)
    assert "done" in repr(work)
    assert work.wait(0) is work.wait()


def test_a_wait_that_times_out_may_be_repeated(pair: tuple[Node, Node]) -> None:
    a, b = pair
    work = b.irecv(source="a", tag=1)
    for _ in range(3):
        with pytest.raises(TransportTimeoutError, match=r"recv from 'a' \(tag 1\)") as caught:
            work.wait(0.01)
        assert isinstance(caught.value, TimeoutError)
    a.send(np.zeros(1), to="b", tag=1)
    work.wait(PATIENCE)


def test_a_receive_that_timed_out_takes_nothing_away(pair: tuple[Node, Node]) -> None:
    a, b = pair
    out = np.zeros(4)
    with pytest.raises(TransportTimeoutError):
        b.recv(out, source="a", tag=2, timeout=0.01)
    a.send(np.ones(4), to="b", tag=2)
    assert b.recv(source="a", tag=2, timeout=PATIENCE).tolist() == [1.0] * 4
    assert out.tolist() == [0.0] * 4


def test_polling_only(pair: tuple[Node, Node]) -> None:
    """Neither sender nor receiver ever waits; the background thread does it all."""
    a, b = pair
    sending = a.isend(np.ones(MIB), to="b", tag=3)
    receiving = b.irecv(source="a", tag=3)
    pause = threading.Event()
    for _ in range(10_000):
        if sending.done() and receiving.done():
            break
        pause.wait(0.001)
    assert receiving.wait(0).sum() == MIB


def test_receiving_with_timeout_zero_again_and_again(pair: tuple[Node, Node]) -> None:
    a, b = pair
    with pytest.raises(TransportTimeoutError):
        b.recv(source="a", tag=4, timeout=0)
    a.send(np.array([4]), to="b", tag=4)
    for _ in range(100_000):
        try:
            received = b.recv(source="a", tag=4, timeout=0)
            break
        except TransportTimeoutError:
            continue
    assert received.tolist() == [4]


def test_several_threads_wait_for_one_work(pair: tuple[Node, Node]) -> None:
    a, b = pair
    work = b.irecv(source="a", tag=5)

    def send() -> None:
        a.send(np.array([5]), to="b", tag=5)

    results = together(*[lambda: work.wait(PATIENCE)] * 3, send)
    assert results[0] is results[1] is results[2]


def test_callbacks_run_once_and_at_once_where_it_has_ended(pair: tuple[Node, Node]) -> None:
    a, b = pair
    called: list[str] = []
    work = b.irecv(source="a", tag=6)
    work.add_done_callback(lambda: called.append("early"))
    a.send(np.zeros(1), to="b", tag=6)
    work.wait(PATIENCE)
    work.add_done_callback(lambda: called.append("late"))
    assert called == ["early", "late"]


def test_a_node_is_not_closed_in_a_callback(pair: tuple[Node, Node]) -> None:
    a, b = pair
    errors: list[BaseException] = []

    def close() -> None:
        try:
            b.close()
        except UsageError as error:
            errors.append(error)

    work = b.irecv(source="a", tag=6)
    work.add_done_callback(close)
    a.send(np.zeros(1), to="b", tag=6)
    work.wait(PATIENCE)
    assert "done-callback" in str(errors[0])
    a.send(np.ones(1), to="b", tag=6)
    assert b.recv(source="a", tag=6, timeout=PATIENCE).all()


def test_a_failing_callback_harms_nobody(
    pair: tuple[Node, Node], caplog: pytest.LogCaptureFixture
) -> None:
    a, b = pair
    works = [b.irecv(source="a", tag=7) for _ in range(2)]
    called = threading.Event()
    with caplog.at_level(logging.ERROR, "transport"):
        works[0].add_done_callback(lambda: [].pop())
        works[0].add_done_callback(called.set)
        for number in range(2):
            a.send(np.array([number]), to="b", tag=7)
        assert called.wait(PATIENCE)
        assert works[0].wait(PATIENCE).tolist() == [0]
        assert works[1].wait(PATIENCE).tolist() == [1]
    assert "done-callback" in caplog.text


# --- in an event loop -------------------------------------------------------------------------


def test_awaiting_many_operations(pair: tuple[Node, Node]) -> None:
    a, b = pair

    async def exchange() -> list[int]:
        receives = [b.irecv(source="a", tag=tag) for tag in range(50)]
        sends = [a.isend(np.full(tag * 2000, tag), to="b", tag=tag) for tag in range(50)]
        await asyncio.gather(*sends)
        return [len(array) for array in await asyncio.gather(*receives)]

    assert asyncio.run(asyncio.wait_for(exchange(), 30)) == [tag * 2000 for tag in range(50)]


def test_awaiting_what_has_ended_or_fails(pair: tuple[Node, Node]) -> None:
    a, b = pair

    async def run() -> None:
        ended = a.isend(np.zeros(1), to="b", tag=8)
        ended.wait(PATIENCE)
        await ended
        await b.irecv(source="a", tag=8)
        cancelled = b.irecv(source="a", tag=8)
        cancelled.cancel()
        with pytest.raises(CancelledError):
            await cancelled

    asyncio.run(asyncio.wait_for(run(), 30))


def test_a_cancelled_task_withdraws_its_receive(pair: tuple[Node, Node]) -> None:
    a, b = pair

    async def run() -> None:
        work = b.irecv(source="a", tag=10)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(_await(work), 0.05)
        assert isinstance(work.exception(), CancelledError)

    async def _await(work: object) -> object:
        return await work  # type: ignore[misc]  # any Work

    asyncio.run(run())
    a.send(np.array([10]), to="b", tag=10)
    assert b.recv(source="a", tag=10, timeout=PATIENCE).tolist() == [10]


def test_a_loop_that_closed_before_the_work_ended_harms_nobody(pair: tuple[Node, Node]) -> None:
    """A send whose bytes are under way cannot be cancelled: it ends after its loop."""
    a, b = pair
    work = a.isend(np.zeros(8 * MIB, np.uint8), to="b", tag=11)

    async def run() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(_shielded(), 0.02)

    async def _shielded() -> None:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()

        def settle() -> None:
            loop.call_soon_threadsafe(future.set_result, None)

        work.add_done_callback(settle)
        await future

    asyncio.run(run())
    b.recv(source="a", tag=11, timeout=PATIENCE)
    work.wait(PATIENCE)
    a.send(np.zeros(1), to="b", tag=11)
    b.recv(source="a", tag=11, timeout=PATIENCE)


# --- the end ----------------------------------------------------------------------------------


def test_closing_ends_everything_under_way_once() -> None:
    with linked() as (_a, b):
        works = [
            b.irecv(source="a", tag=1),
            b.irecv(source=None, tag=None),
            b.isend(np.zeros(MIB), to="a"),
        ]
        ends: list[TransportError | None] = []
        for work in works:
            work.add_done_callback(lambda work=work: ends.append(work.exception()))  # type: ignore[misc]
        b.close(timeout=0.2)
        assert all(work.done() for work in works)
        for work in works:
            with pytest.raises(ClosedError, match="closed"):
                work.wait()
        assert len(ends) == len(works)
        assert "send to 'a'" in str(works[2].exception())
        assert "recv from 'a'" in str(works[0].exception())


def test_a_thread_that_waits_learns_of_the_close() -> None:
    b = node("b")
    work = b.irecv()

    def wait() -> str:
        with pytest.raises(ClosedError) as caught:
            work.wait()
        return str(caught.value)

    results = together(wait, wait, b.close, patience=10)
    assert "recv from any peer" in str(results[0])


def test_an_interrupted_receive_lets_its_buffer_go(pair: tuple[Node, Node]) -> None:
    """As by Ctrl-C: the exception leaves `recv`, and no later message writes to the buffer."""
    import signal

    a, b = pair
    out = np.zeros(4)

    class InterruptionError(Exception):
        pass

    def interrupt(*_: object) -> None:
        raise InterruptionError

    previous = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        with pytest.raises(InterruptionError):
            b.recv(out, source="a", tag=12)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
    a.send(np.ones(4), to="b", tag=12)
    assert b.recv(source="a", tag=12, timeout=PATIENCE).tolist() == [1.0] * 4
    assert out.tolist() == [0.0] * 4
