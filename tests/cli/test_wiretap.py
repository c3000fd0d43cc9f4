"""The wiretap passes, counts, records and meddles; with plaintext, the search finds it."""

from __future__ import annotations

import socket
import threading

import numpy as np
import pytest
import zmq

from transport.cli.scanner import WireIndex, entropy_bits
from transport.cli.tape import Direction
from transport.cli.wiretap import Attack, AttackKind, Wiretap

KIB, MIB = 1024, 1024 * 1024
TIMEOUT_MS = 20_000


class PlainPair:
    """Two ZeroMQ PAIR sockets in plaintext, with the tap between them."""

    def __init__(self, context, **settings):
        self.listener = context.socket(zmq.PAIR)
        port = self.listener.bind_to_random_port("tcp://127.0.0.1")
        self.tap = Wiretap(("127.0.0.1", port), **settings)
        self.dialer = context.socket(zmq.PAIR)
        for each in (self.listener, self.dialer):
            each.setsockopt(zmq.RCVTIMEO, TIMEOUT_MS)
            each.setsockopt(zmq.SNDTIMEO, TIMEOUT_MS)
            each.setsockopt(zmq.LINGER, 0)
        self.dialer.connect(self.tap.address)

    def pass_message(self, body):
        self.dialer.send(body)
        return self.listener.recv()

    def close(self):
        self.dialer.close()
        self.listener.close()
        self.tap.close()


@pytest.fixture
def plain_pair():
    with zmq.Context() as context:
        pairs = []

        def build(**settings):
            pairs.append(PlainPair(context, **settings))
            return pairs[-1]

        yield build
        for pair in pairs:
            pair.close()


def test_it_listens_on_the_loopback_address_only():
    with Wiretap(("127.0.0.1", 1)) as tap:
        assert tap.endpoint[0] == "127.0.0.1"
        assert tap.address == f"tcp://127.0.0.1:{tap.endpoint[1]}"


def test_plaintext_passes_unchanged_and_the_search_finds_it(plain_pair):
    pair = plain_pair(tape_limit=8 * MIB, ready_tapes=1, ready_bytes=1 * MIB)
    tensor = np.sqrt(np.arange(1, 500_001, dtype=np.float32))
    assert pair.pass_message(tensor.tobytes()) == tensor.tobytes()
    assert pair.pass_message(b"the name of the tensor") == b"the name of the tensor"
    pair.listener.send(b"back")
    assert pair.dialer.recv() == b"back"
    tapes = [stream.tape for stream in pair.tap.towards()]
    index = WireIndex(tapes)
    assert index.find_run(tensor.view(np.uint8)) is not None
    assert index.find_run(tensor[1234:1238].view(np.uint8)) is not None
    assert index.find_text(b"the name of the tensor") is not None
    assert index.find_text(b"the name of another tensor") is None
    assert entropy_bits(tapes) < 7.5
    assert pair.tap.unrecorded() == 0
    assert pair.tap.passed(Direction.TO_LISTENER) > tensor.nbytes
    assert 4 < pair.tap.passed(Direction.TO_DIALER) < 1000
    assert pair.tap.passed() == sum(len(tape) for tape in tapes)


def test_messages_of_users_are_captured_whole_and_commands_are_not(plain_pair):
    pair = plain_pair()
    bodies = [bytes([number]) * (number * 90) for number in range(1, 9)]
    for body in bodies:
        pair.pass_message(body)
    pair.dialer.send_multipart([b"one", b"two"])
    pair.listener.recv_multipart()
    captured = [bytes(frame) for frame in pair.tap.captured(Direction.TO_LISTENER)]
    assert [frame[2 if len(frame) < 258 else 9 :] for frame in captured] == bodies
    assert pair.tap.frame_count(Direction.TO_LISTENER) == len(bodies) + 2 + 1  # and READY


def test_what_passes_a_full_tape_is_counted_and_still_arrives(plain_pair):
    pair = plain_pair(tape_limit=100 * KIB)
    body = bytes(range(256)) * 1024
    for _ in range(3):
        assert pair.pass_message(body) == body
    tap = pair.tap
    assert tap.unrecorded() == tap.passed(Direction.TO_LISTENER) - 100 * KIB > 0
    assert tap.captured(Direction.TO_LISTENER) == []


def test_captured_messages_can_be_sent_again(plain_pair):
    pair = plain_pair()
    assert pair.pass_message(b"first") == b"first"
    packets = tuple(bytes(frame) for frame in pair.tap.captured(Direction.TO_LISTENER))
    attack = Attack(kind=AttackKind.REPLAY, packets=packets * 3)
    pair.tap.queue(Direction.TO_LISTENER, [attack])
    pair.dialer.send(b"second")
    assert [pair.listener.recv() for _ in range(4)] == [b"first"] * 3 + [b"second"]
    assert pair.tap.injected[AttackKind.REPLAY] == 3
    assert pair.tap.pending(Direction.TO_LISTENER) == 0


@pytest.mark.parametrize("size", [5, 3 * MIB])
def test_a_forged_copy_goes_ahead_of_the_genuine_message(plain_pair, size):
    pair = plain_pair()
    pair.pass_message(b"first")
    genuine = bytes(size)
    pair.tap.queue(Direction.TO_LISTENER, [Attack(kind=AttackKind.FORGE, bit=-1)])
    assert pair.pass_message(genuine) == bytes(size - 1) + b"\x80"
    assert pair.listener.recv() == genuine
    assert pair.tap.injected[AttackKind.FORGE] == 1


def test_a_passing_message_can_be_damaged_and_the_next_one_is_not(plain_pair):
    pair = plain_pair()
    pair.pass_message(b"first")
    corrupt = Attack(kind=AttackKind.CORRUPT, bit=9, at_least=4)
    pair.tap.queue(Direction.TO_LISTENER, [corrupt])
    assert pair.pass_message(b"abc") == b"abc"  # too small for this attack
    assert pair.pass_message(b"\0\0\0\0") == b"\0\2\0\0"
    assert pair.pass_message(b"\0\0\0\0") == b"\0\0\0\0"
    assert pair.tap.injected[AttackKind.CORRUPT] == 1


def test_attacks_wait_until_a_message_has_passed_the_connection(plain_pair):
    pair = plain_pair()
    pair.tap.queue(Direction.TO_LISTENER, [Attack(kind=AttackKind.CORRUPT)])
    assert pair.pass_message(b"first") == b"first"
    assert pair.pass_message(b"\0") == b"\x80"


def test_bytes_of_another_protocol_pass_unharmed():
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(20.0)
        with Wiretap(server.getsockname()) as tap:
            tap.queue(Direction.TO_LISTENER, [Attack(kind=AttackKind.CORRUPT)])
            with socket.create_connection(tap.endpoint, timeout=20.0) as client:
                accepted, _ = server.accept()
                with accepted:
                    accepted.settimeout(20.0)
                    request = b"GET / HTTP/1.1\r\n\r\n" * 100
                    client.sendall(request)
                    client.shutdown(socket.SHUT_WR)
                    received = bytearray()
                    while part := accepted.recv(65536):
                        received += part
                    assert received == request
            assert tap.pending(Direction.TO_LISTENER) == 1
            assert tap.frame_count() == 0


def test_closing_cuts_the_connections_and_ends_the_threads():
    before = threading.active_count()
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(20.0)
        tap = Wiretap(server.getsockname())
        with socket.create_connection(tap.endpoint, timeout=20.0) as client:
            accepted, _ = server.accept()
            with accepted:
                tap.close()
                assert client.recv(1) == b""
    assert threading.active_count() == before


def test_a_target_that_does_not_answer_refuses_the_caller():
    with socket.create_server(("127.0.0.1", 0)) as server:
        target = server.getsockname()
    with Wiretap(target) as tap:
        with socket.create_connection(tap.endpoint, timeout=20.0) as client:
            assert client.recv(1) == b""
        assert tap.streams == []
