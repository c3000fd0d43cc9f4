"""Strangers at the port: garbage, pickles, absurd frames, floods. Nothing runs or grows."""

from __future__ import annotations

import os
import pickle
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import zmq

from support.nodes import PATIENCE, SECRET, linked, node, resident_bytes, together, until
from transport import Config, HandshakeError, Identity, Node, Trust
from transport.link.handshake import Handshake, Terms
from transport.node.engine import Engine
from transport.wire.packet import FIRST_BULK, FIRST_FRAMES, Kind, first_byte

KIB, MIB = 1024, 1024 * 1024


class Canary:
    """Unpickled, it leaves a file behind."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self._path}",)


@contextmanager
def stranger(address: str, kind: int = zmq.DEALER) -> Iterator[zmq.Socket[bytes]]:
    with zmq.Context() as context, context.socket(kind) as made:
        made.linger = 0
        made.sndtimeo = 5000
        made.connect(address)
        yield made


def raw_connection(address: str) -> socket.socket:
    host, _, port = address.removeprefix("tcp://").rpartition(":")
    return socket.create_connection((host, int(port)), timeout=5.0)


def assert_alive(a: Node, b: Node) -> None:
    """Both ways, small and large."""
    for sender, receiver in ((a, b), (b, a)):
        for size in (10, 2 * MIB):
            work = sender.isend(np.full(size, 3, np.uint8), to=receiver.name, tag=77)
            assert (receiver.recv(tag=77, timeout=PATIENCE) == 3).all()
            work.wait(PATIENCE)


def drops_of(target: Node) -> int:
    return sum(target.stats().drops.values())


@pytest.fixture(scope="module")
def pair() -> Iterator[tuple[Node, Node]]:
    with linked() as nodes:
        yield nodes


def header(first: int, *, number: int = 5) -> bytes:
    """The header of a packet for a link that does not exist, most likely."""
    return struct.pack("<BBHIQ", first, 0, 0, 0xDEADBEEF, number)


GARBAGE = {
    "empty": b"",
    "one byte": b"\x15",
    "zeros": bytes(1000),
    "ones": b"\xff" * 1000,
    "short frames": header(FIRST_FRAMES)[:10],
    "frames": header(FIRST_FRAMES) + bytes(100),
    "bulk": header(FIRST_BULK) + bytes(100),
    "short bulk": header(FIRST_BULK)[:9],
    "hello": struct.pack("<BBHI", first_byte(Kind.INIT), 0, 60, 1) + os.urandom(1400),
    "hello of nothing": struct.pack("<BBHI", first_byte(Kind.INIT), 0, 0, 1),
    "hello of 64 KiB": struct.pack("<BBHI", first_byte(Kind.INIT), 0, 0xFFFF, 1) + bytes(70_000),
    "response": struct.pack("<BBHI", first_byte(Kind.RESPONSE), 0, 0, 1) + bytes(1300),
    "finish": struct.pack("<BBHI", first_byte(Kind.FINISH), 0, 0, 1) + bytes(64),
    "evidence": struct.pack("<BBHI", first_byte(Kind.EVIDENCE), 0, 0, 1) + bytes(64),
    "kind 0": b"\x10" + bytes(50),
    "kind 15": b"\x1f" + bytes(50),
    "text": b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
}


@pytest.mark.parametrize("name", GARBAGE)
def test_garbage_is_counted_and_nothing_else(pair: tuple[Node, Node], name: str) -> None:
    a, b = pair
    before = drops_of(b)
    with stranger(b.addresses[0]) as each:
        each.send(GARBAGE[name])
        until(lambda: drops_of(b) > before)
    assert b.stats().links == ("a",)
    assert_alive(a, b)


def test_a_pickle_stays_a_string_of_bytes(pair: tuple[Node, Node], tmp_path: Path) -> None:
    a, b = pair
    canary = tmp_path / "canary"
    bomb = pickle.dumps(Canary(canary))
    pickle.loads(bomb)  # the trap itself works
    assert canary.exists()
    canary.unlink()
    before = drops_of(b)
    packets = [
        bomb,
        bytes([FIRST_FRAMES]) + bomb,
        header(FIRST_FRAMES) + bomb,
        header(FIRST_BULK) + bomb,
        struct.pack("<BBHI", first_byte(Kind.INIT), 0, len(bomb), 1) + bomb + bytes(1300),
    ]
    with stranger(b.addresses[0]) as each:
        for packet in packets:
            each.send(packet)
        until(lambda: drops_of(b) >= before + len(packets))
    # From a peer that is trusted, too, a pickle is bytes and nothing more.
    a.send(bomb, to="b", tag=5)
    assert bytes(b.recv(tag=5, timeout=PATIENCE)) == bomb
    assert not canary.exists()


@pytest.mark.parametrize("kind", [zmq.DEALER, zmq.REQ, zmq.ROUTER], ids=["DEALER", "REQ", "ROUTER"])
def test_other_kinds_of_sockets_and_many_parts(pair: tuple[Node, Node], kind: int) -> None:
    a, b = pair
    before = drops_of(b)
    parts = [b"part"] * 50
    with stranger(b.addresses[0], kind) as each:
        if kind == zmq.ROUTER:
            each.setsockopt(zmq.PROBE_ROUTER, 1)
            each.connect(b.addresses[0])
            until(lambda: drops_of(b) > before)
        else:
            each.send_multipart(parts)
            until(lambda: drops_of(b) > before)
        if kind == zmq.DEALER:
            for _ in range(100):
                each.send_multipart([header(FIRST_FRAMES) + bytes(50), *parts])
            until(lambda: drops_of(b) > before + 100)
    assert_alive(a, b)


def test_frames_above_the_limit_cut_their_sender_off(pair: tuple[Node, Node]) -> None:
    """ZeroMQ refuses them by their announced length, before it takes memory for them."""
    a, b = pair
    before = resident_bytes()
    greeting = b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"NULL".ljust(20, b"\0") + b"\0" + bytes(31)
    ready = b"\x05READY\x0bSocket-Type\x00\x00\x00\x06DEALER"
    with raw_connection(b.addresses[0]) as raw:
        raw.sendall(greeting)
        raw.sendall(b"\x04" + bytes([len(ready)]) + ready)
        raw.sendall(b"\x02" + struct.pack(">Q", 1 << 62) + bytes(100))
        raw.settimeout(PATIENCE)
        while raw.recv(4096):  # its greeting, and then the end
            pass
    with stranger(b.addresses[0]) as each:
        each.send(bytes(64 * MIB))
        assert_alive(a, b)
    assert resident_bytes() - before < 64 * MIB + 48 * MIB  # the sender's own copy is ours too


@pytest.mark.parametrize("content", [b"", b"\xff", b"GET / HTTP/1.0\r\n\r\n", bytes(500)], ids=repr)
def test_raw_connections_that_do_not_speak_zeromq(pair: tuple[Node, Node], content: bytes) -> None:
    a, b = pair
    connections = [raw_connection(b.addresses[0]) for _ in range(20)]
    for each in connections:
        each.sendall(content)
    assert_alive(a, b)
    for each in connections:
        each.close()
    assert_alive(a, b)


def test_noise_from_an_inner_seed(pair: tuple[Node, Node]) -> None:
    """Random bytes behind every kind of header, over several connections."""
    a, b = pair
    random = np.random.default_rng(99)
    before = drops_of(b)
    sent = 0
    with stranger(b.addresses[0]) as one, stranger(b.addresses[0]) as two:
        for kind in Kind:
            for _ in range(60):
                packet = bytes([first_byte(kind)]) + random.bytes(int(random.integers(0, 2000)))
                (one if sent % 2 else two).send(packet)
                sent += 1
        until(lambda: drops_of(b) >= before + sent)
    assert a.link("b").stats().state == "open"
    assert b.link("a").stats().drops == {}
    assert_alive(a, b)


def test_half_open_handshakes_are_bounded_and_do_not_keep_friends_out() -> None:
    """Callers who know the secret and never finish: the oldest gives way."""
    with node("b", config=Config(half_open_links=8)) as b, node("a") as a:
        terms = Terms(
            name="caller",
            identity=Identity.generate(),
            trust=Trust(secret=SECRET),
            packet_limit=MIB,
            credit=MIB,
        )
        with stranger(b.addresses[0]) as each:
            for index in range(100):
                each.send(Handshake(terms, peer="b", index=index + 1).first_packet())
            until(lambda: b.stats().drops.get("half_open", 0) >= 92)
            a.connect(b.addresses, peer="b", timeout=PATIENCE)
            b.wait_for("a", timeout=PATIENCE)
        assert_alive(a, b)
        assert b.stats().links == ("a",)


def test_those_who_are_linked_are_served_in_the_midst_of_many_hellos(monkeypatch) -> None:
    """A hello costs milliseconds: 64 of them at one go would leave others waiting that long."""
    with linked() as (a, b), stranger(b.addresses[0]) as each:
        waiting = []  # hellos that were answered since the node last looked after its links
        served = []
        answer, serve = Engine._answer, Engine._serve

        def answer_and_count(engine, path, packet, now):
            waiting.append(packet)
            answer(engine, path, packet, now)

        def serve_and_note(engine, now):
            served.append(len(waiting))
            waiting.clear()
            serve(engine, now)

        monkeypatch.setattr(Engine, "_answer", answer_and_count)
        monkeypatch.setattr(Engine, "_serve", serve_and_note)
        for number in range(60):
            terms = Terms(
                name=f"caller{number}",
                identity=Identity.generate(),
                trust=Trust(secret=SECRET),
                packet_limit=MIB,
                credit=MIB,
            )
            each.send(Handshake(terms, peer="b", index=number + 1).first_packet())
        until(lambda: sum(served) == 60)
        assert max(served) <= 4
        assert_alive(a, b)


FLOOD = """
import os, sys, zmq
address, size, connections, kind = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
context = zmq.Context()
poller = zmq.Poller()
for _ in range(connections):
    each = context.socket(zmq.DEALER)
    each.linger, each.sndhwm = 0, 200
    each.connect(address)
    poller.register(each, zmq.POLLOUT)
heads = {"junk": b"", "hello": bytes([0x11, 0, 60, 0]), "frames": bytes([0x15])}
packet = heads[kind] + os.urandom(size)
print("flooding", flush=True)
while True:
    for each, _ in poller.poll():
        try:
            for _ in range(50):
                each.send(packet, zmq.NOBLOCK)
        except zmq.Again:
            pass
"""


@contextmanager
def flood(address: str, size: int, connections: int, kind: str) -> Iterator[None]:
    process = subprocess.Popen(
        [sys.executable, "-c", FLOOD, address, str(size), str(connections), kind],
        stdout=subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        process.stdout.readline()
        yield
    finally:
        process.kill()
        process.wait(10)
        assert process.stdout is not None
        process.stdout.close()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("size", "connections", "kind"),
    [(100, 8, "junk"), (1400, 4, "hello"), (100, 4, "frames"), (MIB, 4, "junk")],
    ids=["small", "hellos", "frames", "large"],
)
def test_a_living_link_goes_on_under_a_flood(size: int, connections: int, kind: str) -> None:
    """What it is worth in throughput is measured, not asserted: the machine is shared."""
    # Unread, a connection holds this many packets, and as much again on its way to us.
    waiting = connections * 2 * Config().receive_queue_packets * size
    with linked() as (a, b):
        assert_alive(a, b)
        before = resident_bytes()
        with flood(b.addresses[0], size, connections, kind):
            until(lambda: drops_of(b) > 200)

            def send() -> None:
                for number in range(24):
                    a.send(np.full(2 * MIB, number, np.uint8), to="b", timeout=60.0)
                a.flush(timeout=60.0)

            def receive() -> None:
                for number in range(24):
                    assert (b.recv(source="a", timeout=60.0) == number).all()

            together(send, receive, patience=90.0)
            assert_alive(a, b)
            # Other threads get at the node, however busy it is.
            for _ in range(20):
                b.stats()
            assert resident_bytes() - before < waiting + 96 * MIB
        assert b.stats().links == ("a",)
        assert b.link("a").stats().drops == {}


@pytest.mark.slow
def test_a_flooded_node_still_links_to_friends() -> None:
    with node("b") as b, flood(b.addresses[0], 200, 4, "hello"):
        until(lambda: drops_of(b) > 200)
        with node("a") as a:
            together(
                partial(a.connect, b.addresses, peer="b", timeout=PATIENCE),
                partial(b.wait_for, "a", timeout=PATIENCE),
            )
            assert_alive(a, b)


def test_a_listener_that_answers_garbage_is_not_linked_to() -> None:
    with zmq.Context() as context, context.socket(zmq.ROUTER) as mad, node("a") as a:
        mad.linger = 0
        port = mad.bind_to_random_port("tcp://127.0.0.1")

        def answer() -> None:
            routing_id, hello = mad.recv_multipart()
            index = hello[4:8]
            for kind in Kind:
                for size in (0, 8, 50, 1300, 5000):
                    head = struct.pack("<BBH", first_byte(kind), 0, 0) + index
                    mad.send_multipart([routing_id, head + os.urandom(size)])
            mad.send_multipart([routing_id, hello])  # its own hello, reflected

        def call() -> None:
            with pytest.raises(HandshakeError, match="did not link"):
                a.connect(f"tcp://127.0.0.1:{port}", peer="b", timeout=1.0)

        together(answer, call)
        assert a.stats().links == ()
