"""Paths over ZeroMQ: packets there and back, connections made and cut, addresses, limits."""

from __future__ import annotations

import select
import socket
from collections.abc import Callable, Iterator
from itertools import count

import pytest
import zmq

from support.chaos_proxy import ChaosProxy
from support.nodes import PATIENCE, until
from transport import Config, UsageError
from transport.path.base import Buffer, Endpoint, Path
from transport.path.zeromq import Dialer, Listener, ZeroMQ

LIMIT = 1 << 20
CONFIG = Config(reconnect_interval=0.01, reconnect_interval_max=0.05, receive_queue_packets=16)
_names = count()


@pytest.fixture
def sockets() -> Iterator[ZeroMQ]:
    made = ZeroMQ(CONFIG, LIMIT)
    endpoints: list[Endpoint] = []
    listen, dial = made.listen, made.dial

    def listening(address: str) -> Listener:
        endpoints.append(listener := listen(address))
        return listener

    def dialling(address: str) -> Dialer:
        endpoints.append(dialer := dial(address))
        return dialer

    made.listen, made.dial = listening, dialling  # type: ignore[method-assign]
    yield made
    for endpoint in endpoints:
        endpoint.close()
    made.close()


def addresses(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    number = next(_names)
    return {
        "tcp": "tcp://127.0.0.1:0",
        "ipc": f"ipc://{tmp_path_factory.mktemp('z')}/s",
        "inproc": f"inproc://zeromq-{number}",
    }


def await_packets(endpoint: Endpoint, wanted: int = 1) -> list[tuple[Path, bytes]]:
    """The next `wanted` packets that come in."""
    got: list[tuple[Path, bytes]] = []

    def come_in() -> bool:
        got.extend((path, bytes(each)) for path, each in endpoint.receive(100, signalled=False))
        return len(got) >= wanted

    until(come_in)
    assert len(got) == wanted
    return got


def await_connectivity(dialer: Dialer, wanted: bool) -> None:
    until(lambda: (list(dialer.connectivity()), dialer.connected is wanted)[1])


@pytest.mark.parametrize("kind", ["tcp", "ipc", "inproc"])
@pytest.mark.parametrize("size", [0, 1, 100, 70_000, LIMIT], ids=str)
def test_there_and_back(
    sockets: ZeroMQ, kind: str, size: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    listener = sockets.listen(addresses(tmp_path_factory)[kind])
    dialer = sockets.dial(listener.address)
    packet = bytes(range(256)) * (size // 256) + bytes(size % 256)
    for stable in (True, False):
        assert dialer.send(packet, stable=stable)
        [(path, received)] = await_packets(listener)
        assert received == packet
        assert path.endpoint is listener
        assert path.connected
        assert path.send(memoryview(received), stable=stable)
        [(back, received)] = await_packets(dialer)
        assert back is dialer is dialer.endpoint
        assert received == packet


def test_a_packet_that_is_not_stable_may_be_overwritten_at_once(sockets: ZeroMQ) -> None:
    listener = sockets.listen("tcp://127.0.0.1:0")
    dialer = sockets.dial(listener.address)
    slot = bytearray(b"first" * 1000)
    dialer.send(slot, stable=False)
    slot[:] = bytes(len(slot))
    assert await_packets(listener)[0][1] == b"first" * 1000


def test_a_stranger_is_a_new_path_each_time_until_it_is_kept(sockets: ZeroMQ) -> None:
    listener = sockets.listen("tcp://127.0.0.1:0")
    dialer, other = sockets.dial(listener.address), sockets.dial(listener.address)
    dialer.send(b"1", stable=False)
    [(first, _)] = await_packets(listener)
    dialer.send(b"2", stable=False)
    [(second, _)] = await_packets(listener)
    assert second is not first
    assert second.address == first.address
    second.keep()
    other.send(b"x", stable=False)
    [(third, _)] = await_packets(listener)
    assert third is not second
    assert third.address != second.address
    for _ in range(2):
        dialer.send(b"3", stable=False)
        assert await_packets(listener)[0][0] is second
    second.close()
    dialer.send(b"4", stable=False)
    assert await_packets(listener)[0][0] is not second
    # An older object of the same connection, closed late, takes nothing away.
    first.keep()
    second.close()
    dialer.send(b"5", stable=False)
    assert await_packets(listener)[0][0] is first


def test_paths_may_be_wrapped(sockets: ZeroMQ) -> None:
    class Wrapped:
        def __init__(self, inner: Path) -> None:
            self.inner = inner

        def __getattr__(self, name: str) -> object:
            return getattr(self.inner, name)

    listener = sockets.listen("tcp://127.0.0.1:0")
    listener.path_filter = Wrapped  # type: ignore[assignment]
    dialer = sockets.dial(listener.address)
    dialer.filtered = Wrapped(dialer)  # type: ignore[assignment]
    dialer.send(b"1", stable=False)
    [(path, _)] = await_packets(listener)
    assert isinstance(path, Wrapped)
    path.keep()
    dialer.send(b"2", stable=False)
    assert await_packets(listener)[0][0] is path
    path.send(b"3", stable=False)
    assert isinstance(await_packets(dialer)[0][0], Wrapped)
    path.close()
    dialer.send(b"4", stable=False)
    assert await_packets(listener)[0][0] is not path


def test_a_batch_is_limited_and_the_rest_waits(sockets: ZeroMQ) -> None:
    listener = sockets.listen("tcp://127.0.0.1:0")
    dialer = sockets.dial(listener.address)
    for number in range(10):
        dialer.send(bytes([number]), stable=False)
    got: list[bytes] = []

    def take(limit: int) -> int:
        batch = [bytes(packet) for _, packet in listener.receive(limit, signalled=False)]
        assert len(batch) <= limit
        got.extend(batch)
        return len(got)

    until(lambda: take(3) >= 6)
    until(lambda: take(100) == 10)
    assert got == [bytes([number]) for number in range(10)]


def test_a_signal_in_vain_yields_nothing(sockets: ZeroMQ) -> None:
    listener = sockets.listen("tcp://127.0.0.1:0")
    dialer = sockets.dial(listener.address)
    assert list(listener.receive(5, signalled=True)) == []
    assert list(dialer.receive(5, signalled=True)) == []


def test_several_parts_count_as_one_malformed_packet(sockets: ZeroMQ) -> None:
    listener = sockets.listen("tcp://127.0.0.1:0")
    with zmq.Context() as context, context.socket(zmq.DEALER) as foreign:
        foreign.linger = 0
        foreign.connect(listener.address)
        foreign.send_multipart([b"a", b"b", b"c"])
        foreign.send(b"whole")
        assert [packet for _, packet in await_packets(listener, 2)] == [b"", b"whole"]


def test_several_parts_from_a_listener_too(sockets: ZeroMQ) -> None:
    with zmq.Context() as context, context.socket(zmq.ROUTER) as foreign:
        foreign.linger = 0
        port = foreign.bind_to_random_port("tcp://127.0.0.1")
        dialer = sockets.dial(f"tcp://127.0.0.1:{port}")
        dialer.send(b"hello", stable=False)
        routing_id, _ = foreign.recv_multipart()
        foreign.send_multipart([routing_id, b"a", b"b"])
        foreign.send_multipart([routing_id, b"whole"])
        assert [packet for _, packet in await_packets(dialer, 2)] == [b"", b"whole"]


def test_a_packet_above_the_limit_does_not_arrive(sockets: ZeroMQ) -> None:
    listener = sockets.listen("tcp://127.0.0.1:0")
    dialer = sockets.dial(listener.address)
    await_connectivity(dialer, True)
    dialer.send(bytes(LIMIT + 1), stable=False)
    await_connectivity(dialer, False)  # the listener hangs up on it
    await_connectivity(dialer, True)
    dialer.send(b"next", stable=False)
    assert [packet for _, packet in await_packets(listener)] == [b"next"]


# --- connections ------------------------------------------------------------------------------


def test_what_is_sent_before_the_connection_stands_waits_for_it(sockets: ZeroMQ) -> None:
    with socket.create_server(("127.0.0.1", 0)) as placeholder:
        address = f"tcp://127.0.0.1:{placeholder.getsockname()[1]}"
    dialer = sockets.dial(address)
    assert dialer.send(b"early", stable=False)
    assert not dialer.connected
    listener = sockets.listen(address)
    assert [packet for _, packet in await_packets(listener)] == [b"early"]


def test_a_cut_connection_is_noticed_and_made_again(sockets: ZeroMQ) -> None:
    listener = sockets.listen("tcp://127.0.0.1:0")
    with ChaosProxy(listener.address) as proxy:
        dialer = sockets.dial(proxy.address)
        assert list(dialer.connectivity()) == []
        for _ in range(3):
            await_connectivity(dialer, True)
            dialer.send(b"here", stable=False)
            [(path, _)] = await_packets(listener)
            proxy.await_connections(1)
            proxy.cut()
            await_connectivity(dialer, False)
            # The way back ended with the connection; it shows as soon as it is used.
            until(lambda path=path: not path.send(b"gone", stable=False))  # type: ignore[misc]
    assert list(listener.connectivity()) == []


def test_the_monitor_wakes_a_sleeper(sockets: ZeroMQ) -> None:
    listener = sockets.listen("tcp://127.0.0.1:0")
    dialer = sockets.dial(listener.address)
    assert dialer.monitor_descriptor is not None
    list(dialer.connectivity())
    if not dialer.connected:
        readable, _, _ = select.select([dialer.monitor_descriptor], [], [], PATIENCE)
        assert readable
        await_connectivity(dialer, True)


def test_a_packet_wakes_a_sleeper(sockets: ZeroMQ) -> None:
    listener = sockets.listen("tcp://127.0.0.1:0")
    dialer = sockets.dial(listener.address)
    wakes: list[Callable[[], object]] = [
        lambda: dialer.send(b"1", stable=False),
        lambda: dialer.send(b"2", stable=False),
    ]
    for wake in wakes:
        assert list(listener.receive(10, signalled=False)) == []
        wake()
        got: list[Buffer] = []
        while not got:
            readable, _, _ = select.select([listener.descriptor], [], [], PATIENCE)
            assert readable
            got += [packet for _, packet in listener.receive(10, signalled=True)]
        assert len(got) == 1


def test_a_full_queue_loses_packets_instead_of_blocking(sockets: ZeroMQ) -> None:
    """To the link above they are packets lost on the way, which it repeats."""
    with socket.create_server(("127.0.0.1", 0)) as placeholder:
        address = f"tcp://127.0.0.1:{placeholder.getsockname()[1]}"
    dialer = sockets.dial(address)
    for _ in range(8 * CONFIG.window_packets):
        assert dialer.send(b"x", stable=False)


# --- addresses --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "address",
    [
        "",
        "tcp://",
        "tcp://127.0.0.1",
        "tcp://127.0.0.1:65536",
        "tcp://127.0.0.1:-1",
        "tcp://127.0.0.1:80 ",
        "tcp://127.0.0.1:80/x",
        "tcp:/127.0.0.1:80",
        "TCP://127.0.0.1:80",
        "pgm://127.0.0.1:80",
        "ws://127.0.0.1:80",
        None,
        b"tcp://127.0.0.1:80",
    ],
    ids=repr,
)
def test_unusable_addresses(sockets: ZeroMQ, address: str) -> None:
    with pytest.raises(UsageError, match="address"):
        sockets.listen(address)
    with pytest.raises(UsageError, match="address"):
        sockets.dial(address)


@pytest.mark.parametrize("address", ["tcp://*:80", "tcp://127.0.0.1:*"])
def test_one_cannot_dial_everywhere(sockets: ZeroMQ, address: str) -> None:
    with pytest.raises(UsageError, match="dial"):
        sockets.dial(address)


@pytest.mark.parametrize("port", ["0", "*"])
def test_a_free_port_is_filled_in(sockets: ZeroMQ, port: str) -> None:
    listener = sockets.listen(f"tcp://127.0.0.1:{port}")
    host, _, chosen = listener.address.rpartition(":")
    assert host == "tcp://127.0.0.1"
    assert int(chosen) > 0


def test_an_address_in_use_or_not_ours_is_refused(sockets: ZeroMQ) -> None:
    listener = sockets.listen("tcp://127.0.0.1:0")
    with pytest.raises(UsageError, match="cannot listen"):
        sockets.listen(listener.address)
    with pytest.raises(UsageError, match="cannot listen"):
        sockets.listen("tcp://203.0.113.1:0")
    with pytest.raises(UsageError, match="cannot listen"):
        sockets.listen("ipc:///no/such/folder/socket")
