"""What the proxy passes on, holds back and cuts, with plain sockets at both ends."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from bench.proxy import Proxy

PATIENCE = 20.0
SHORTLY = 0.2  # long enough for what would pass at once
MIB = 1024 * 1024


class Server:
    """Accepts connections on the loopback interface."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(PATIENCE)
        self.address = f"tcp://127.0.0.1:{self._listener.getsockname()[1]}"

    def accept(self) -> socket.socket:
        connection, _ = self._listener.accept()
        connection.settimeout(PATIENCE)
        return connection

    def close(self) -> None:
        self._listener.close()


@pytest.fixture
def server() -> Iterator[Server]:
    with contextlib.closing(Server()) as server:
        yield server


def dial(address: str) -> socket.socket:
    host, _, port = address.removeprefix("tcp://").rpartition(":")
    return socket.create_connection((host, int(port)), timeout=PATIENCE)


@pytest.fixture
def through(server: Server) -> Iterator[tuple[socket.socket, Proxy, socket.socket]]:
    """The caller's end, the proxy, and the target's end."""
    with ExitStack() as stack:
        proxy = stack.enter_context(Proxy(server.address))
        near = stack.enter_context(dial(proxy.address))
        far = stack.enter_context(server.accept())
        assert proxy.await_true(lambda: proxy.standing == 1, PATIENCE)
        yield near, proxy, far


def read(end: socket.socket, count: int) -> bytes:
    content = bytearray()
    while len(content) < count:
        more = end.recv(count - len(content))
        assert more, "the connection ended"
        content += more
    return bytes(content)


def is_silent(end: socket.socket) -> bool:
    end.settimeout(SHORTLY)
    try:
        return not end.recv(1)
    except TimeoutError:
        return True
    finally:
        end.settimeout(PATIENCE)


def is_cut(end: socket.socket) -> bool:
    try:
        return end.recv(1) == b""
    except ConnectionResetError:
        return True


def is_refused(address: str) -> bool:
    try:
        with dial(address) as end:
            return is_cut(end)
    except ConnectionResetError:
        return True  # before the call had even returned


def test_it_listens_where_it_is_told(server):
    with Proxy(server.address, "127.0.0.3") as proxy:
        assert proxy.address.startswith("tcp://127.0.0.3:")


def test_bytes_pass_both_ways_unchanged(through):
    near, proxy, far = through
    there, back = os.urandom(5 * MIB), os.urandom(3 * MIB)
    writers = [
        threading.Thread(target=end.sendall, args=(content,))
        for end, content in ((near, there), (far, back))
    ]
    for writer in writers:
        writer.start()
    assert read(far, len(there)) == there
    assert read(near, len(back)) == back
    for writer in writers:
        writer.join(PATIENCE)
    assert proxy.await_true(lambda: proxy.forwarded == len(there) + len(back), PATIENCE)
    assert proxy.accepted == proxy.standing == 1


def test_a_stall_holds_everything_back_and_loses_nothing(through):
    near, proxy, far = through
    proxy.stall()
    near.sendall(b"there")
    far.sendall(b"back")
    assert is_silent(far)
    assert is_silent(near)
    assert proxy.standing == 1
    proxy.stall(on=False)
    assert read(far, 5) == b"there"
    assert read(near, 4) == b"back"


@pytest.mark.parametrize("towards", ["target", "caller"])
def test_a_stall_may_hold_back_one_way_only(through, towards):
    near, proxy, far = through
    ends = {"target": (near, far), "caller": (far, near)}
    (source, sink), (other_source, other_sink) = ends.pop(towards), *ends.values()
    proxy.stall(towards=towards)
    source.sendall(b"held back")
    other_source.sendall(b"passed on")
    assert read(other_sink, 9) == b"passed on"
    assert is_silent(sink)
    proxy.stall(on=False, towards=towards)
    assert read(sink, 9) == b"held back"


def test_a_slow_path_passes_little_until_it_is_fast_again(through):
    near, proxy, far = through
    proxy.slow(20.0)
    near.sendall(bytes(1000))
    read(far, 1)
    assert proxy.forwarded < 1000
    proxy.slow(None)
    read(far, 999)


@pytest.mark.parametrize("rate", [0, -1.0])
def test_a_rate_is_positive(server, rate):
    with Proxy(server.address) as proxy, pytest.raises(ValueError, match="positive"):
        proxy.slow(rate)


@pytest.mark.parametrize("stalled", [False, True])
def test_a_cut_ends_both_sides(through, stalled):
    near, proxy, far = through
    proxy.stall(on=stalled)
    near.sendall(b"lost")
    assert proxy.cut() == 1
    assert is_cut(near)
    assert proxy.standing == 0
    proxy.stall(on=False)
    with contextlib.suppress(ConnectionResetError):
        while far.recv(16):
            pass


def test_the_oldest_connections_are_cut_first(server):
    with ExitStack() as stack:
        proxy = stack.enter_context(Proxy(server.address))
        ends = []
        for _ in range(3):
            near = stack.enter_context(dial(proxy.address))
            ends.append((near, stack.enter_context(server.accept())))
        assert proxy.await_true(lambda: proxy.standing == 3, PATIENCE)
        assert proxy.cut(2) == 2
        assert is_cut(ends[0][0])
        assert is_cut(ends[1][0])
        ends[2][0].sendall(b"alive")
        assert read(ends[2][1], 5) == b"alive"


def test_an_end_that_leaves_takes_the_other_with_it(through):
    near, proxy, far = through
    far.close()
    assert is_cut(near)
    assert proxy.await_true(lambda: proxy.standing == 0, PATIENCE)


def test_calls_are_refused_and_taken_again(server):
    with ExitStack() as stack:
        proxy = stack.enter_context(Proxy(server.address))
        proxy.refuse()
        assert is_refused(proxy.address)
        proxy.refuse(on=False)
        near = stack.enter_context(dial(proxy.address))
        near.sendall(b"x")
        stack.enter_context(server.accept())  # the one that was refused
        assert read(stack.enter_context(server.accept()), 1) == b"x"


def test_where_nobody_listens_a_call_ends(server):
    server.close()
    with Proxy(server.address) as proxy:
        assert is_refused(proxy.address)


def test_closing_leaves_no_thread_and_no_listener(server):
    before = set(threading.enumerate())
    with Proxy(server.address) as proxy, dial(proxy.address) as near, server.accept() as far:
        for source, sink in ((near, far), (far, near)):
            source.sendall(b"x")
            read(sink, 1)  # both ways are open
        started = set(threading.enumerate()) - before
        assert len(started) == 3
        proxy.close()
        for thread in started:
            thread.join(PATIENCE)
            assert not thread.is_alive()
        assert is_cut(near)
        with pytest.raises(ConnectionRefusedError):
            dial(proxy.address)
