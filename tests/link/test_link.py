"""The link as a whole over `Pair`: messages, credit, order, and the ways a link ends."""

from __future__ import annotations

import random

import pytest

from support.pair import Pair
from transport.config import KIB, MIB, Config
from transport.errors import CancelledError, ClosedError, PeerLostError
from transport.link import State
from transport.link.outbox import Stage

SMALL = Config(
    packet_payload=8 * KIB,
    eager_limit=2 * KIB,
    window_bytes=64 * KIB,
    unexpected_bytes=32 * KIB,
)


def payload(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


def test_a_pair_opens_with_every_path_joined_on_both_sides() -> None:
    pair = Pair(paths=4)
    pair.run(0.1)
    for side in pair.sides:
        assert side.established == 1
        assert [path.state for path in side.stats().paths] == ["usable"] * 4
        assert side.stats().handshake_seconds > 0
        assert side.stats().drops == {}


@pytest.mark.parametrize("paths", [1, 2, 7])
def test_messages_of_all_sizes_travel_both_ways_at_once(paths: int) -> None:
    config = Config(packet_payload=256 * KIB, window_bytes=2 * MIB)
    pair = Pair(paths=paths, seed=paths, config=config)
    edge = config.eager_limit
    sizes = [0, 1, 15, 16, 17, 4096, edge - 1, edge, edge + 1, 256 * KIB, 256 * KIB + 1]
    sizes += [1 * MIB, 3 * MIB + 7]
    for index, size in enumerate(sizes):
        pair.client.send(payload(size, index), tag=index, context=index + 1)
        pair.server.send(payload(size, ~index), tag=index)
    pair.settle()
    expected = {(index + 1, index, payload(size, index)) for index, size in enumerate(sizes)}
    assert set(pair.server.received) == expected
    assert set(pair.client.received) == {
        (0, index, payload(size, ~index)) for index, size in enumerate(sizes)
    }
    for side in pair.sides:
        assert side.order == list(range(len(sizes)))
        assert side.stats().messages_sent == side.stats().messages_received == len(sizes)
        assert side.stats().retransmissions == 0
        assert side.stats().in_flight_bytes == 0


def test_small_messages_behind_a_large_one_keep_their_order() -> None:
    pair = Pair(config=SMALL)
    pair.server.accepting = False
    large = pair.client.post(bytes(100 * KIB))
    for index in range(20):
        pair.client.send(bytes([index]))
    pair.run(1.0)
    assert pair.server.order == list(range(21))
    assert pair.server.payloads == [bytes([index]) for index in range(20)]
    assert large.stage is Stage.ANNOUNCED
    pair.server.consume()
    assert pair.deliver() == bytes(100 * KIB)
    assert pair.client.sealed == [large]


def test_an_eager_buffer_is_free_at_once_and_a_large_one_when_sealed() -> None:
    pair = Pair()
    small, large = bytearray(b"a" * 100), bytearray(b"b" * MIB)
    assert pair.client.send(small) is None
    message = pair.client.post(large)
    small[:] = bytes(100)
    assert pair.client.sealed == []
    pair.advance(until=lambda: pair.client.sealed == [message])
    large[:] = bytes(MIB)
    pair.settle()
    assert sorted(pair.server.payloads) == [b"a" * 100, b"b" * MIB]


def test_an_exhausted_credit_makes_the_sender_wait_and_nothing_is_lost() -> None:
    pair = Pair(config=SMALL)
    pair.server.accepting = pair.server.draining = False
    count = 400
    for index in range(count):
        pair.client.send(payload(1 + index * 7 % 3000, index), tag=index)
    pair.run(5.0)
    held = sum(len(payload) + 256 for payload in pair.server.payloads)
    held += 256 * len(pair.server.waiting)
    assert 0 < held <= SMALL.unexpected_bytes
    assert len(pair.server.order) < count
    assert pair.client.link.settled_through < count - 1
    pair.server.consume()
    pair.settle()
    assert pair.server.order == list(range(count))
    assert {(tag, data) for _, tag, data in pair.server.received} == {
        (index, payload(1 + index * 7 % 3000, index)) for index in range(count)
    }


def test_announcements_still_come_behind_small_messages_that_nobody_takes() -> None:
    pair = Pair(config=SMALL)
    pair.server.draining = pair.server.accepting = False
    while pair.client.send(b"unwanted") is None:
        assert pair.client.link.last_message < 1000
    pair.client.send(b"wanted", tag=9)
    pair.run(1.0)
    assert [message.tag for message in pair.server.waiting] == [0, 9]
    pair.server.accept(pair.server.waiting[-1])
    assert pair.deliver() == b"wanted"


@pytest.mark.parametrize(
    ("client", "server"),
    [
        (SMALL, Config()),
        (Config(), SMALL),
        (
            Config(packet_payload=1 * KIB, eager_limit=256, window_bytes=8 * KIB),
            Config(eager_limit=256 * KIB, unexpected_bytes=1 * MIB),
        ),
        (
            Config(packet_payload=20 * KIB, eager_limit=30 * KIB),
            Config(packet_payload=30 * KIB, eager_limit=64 * KIB),
        ),
    ],
)
def test_two_sides_with_different_limits_understand_each_other(
    client: Config, server: Config
) -> None:
    pair = Pair(config=client, server_config=server)
    sizes = [0, 255, 257, 2047, 2049, 29 * KIB, 31 * KIB, 64 * KIB, 64 * KIB + 1, 300 * KIB]
    for side in pair.sides:
        for size in sizes * 3:
            side.send(payload(size, size))
    pair.settle()
    for side in pair.sides:
        assert sorted(side.payloads) == sorted(payload(size, size) for size in sizes * 3)
        assert side.stats().drops == {}


def test_many_small_messages_share_packets_once_enough_are_under_way() -> None:
    pair = Pair(paths=1)
    before = pair.client.stats().packets_sent
    for index in range(2000):
        pair.client.send(index.to_bytes(4, "big"))
        pair.flush()
    pair.settle()
    assert pair.server.payloads == [index.to_bytes(4, "big") for index in range(2000)]
    assert pair.client.stats().packets_sent - before < 300


def test_the_window_bounds_what_is_in_flight() -> None:
    pair = Pair(config=SMALL, latency=0.05)
    pair.client.send(bytes(MIB))
    most = 0
    while not pair.server.received:
        pair.step()
        most = max(most, pair.client.stats().in_flight_bytes)
    assert 0 < most <= SMALL.window_bytes


# --- withdrawing and declining --------------------------------------------------------


def test_a_message_withdrawn_before_its_grant_never_arrives_and_the_next_does() -> None:
    pair = Pair(config=SMALL)
    pair.server.accepting = False
    message = pair.client.post(bytes(100 * KIB))
    pair.run(0.1)
    assert pair.client.link.withdraw(message)
    assert not pair.client.link.withdraw(message), "it ends once"
    pair.client.send(b"next")
    assert pair.deliver() == b"next"
    assert [withdrawn.id for withdrawn in pair.server.withdrawn] == [0]
    pair.settle()
    assert pair.client.sealed == []


def test_a_message_withdrawn_while_it_waits_for_credit_leaves_no_gap() -> None:
    pair = Pair(config=SMALL)
    pair.server.accepting = pair.server.draining = False
    posted = [pair.client.send(bytes(1500)) for _ in range(200)]
    waiting = [message for message in posted if message and message.stage is Stage.WAITING]
    assert len(waiting) > 10
    assert all(pair.client.link.withdraw(message) for message in waiting)
    pair.client.send(b"last", tag=5)
    pair.run(1.0)
    pair.server.consume()
    pair.advance(until=lambda: (0, 5, b"last") in pair.server.received)
    pair.settle()
    assert len(pair.server.received) == 200 - len(waiting) + 1
    assert pair.server.stats().unclaimed_messages == 0


def test_a_message_withdrawn_in_the_middle_of_its_transfer_ends_on_both_sides() -> None:
    pair = Pair(config=SMALL, latency=0.01)
    message = pair.client.post(payload(MIB))
    pair.advance(until=lambda: message.offset > 100 * KIB)
    assert pair.client.link.withdraw(message)
    pair.client.send(b"next")
    assert pair.deliver() == b"next"
    pair.settle()
    assert [withdrawn.id for withdrawn in pair.server.withdrawn] == [0]
    assert pair.server.payloads == [b"next"]
    assert pair.client.sealed == []
    assert pair.server.stats().unclaimed_messages == 0


def test_a_sealed_message_is_too_late_to_withdraw() -> None:
    pair = Pair(config=SMALL)
    message = pair.client.post(payload(30 * KIB))
    pair.advance(until=lambda: message in pair.client.sealed)
    assert not pair.client.link.withdraw(message)
    assert pair.deliver() == payload(30 * KIB)


def test_a_transfer_declined_in_the_middle_stops_and_the_link_goes_on() -> None:
    pair = Pair(config=SMALL, latency=0.01)
    pair.server.accepting = False
    message = pair.client.post(payload(MIB))
    pair.advance(until=lambda: bool(pair.server.waiting))
    incoming = pair.server.waiting.pop()
    pair.server.accept(incoming)
    pair.advance(until=lambda: message.offset > 100 * KIB)
    pair.server.link.decline(incoming)
    pair.server.link.decline(incoming)
    pair.advance(until=lambda: pair.client.declined == [message])
    assert message.stage is Stage.ENDED
    assert message.offset < MIB
    pair.client.send(b"next")
    assert pair.deliver() == b"next"
    pair.settle()
    assert pair.client.sealed == []
    assert pair.server.withdrawn == []


def test_withdrawing_and_declining_at_once_end_a_message_once_on_each_side() -> None:
    pair = Pair(config=SMALL, latency=0.01)
    message = pair.client.post(payload(MIB))
    pair.advance(until=lambda: message.offset > 100 * KIB)
    (incoming,) = pair.server.accepted
    pair.server.link.decline(incoming)
    assert pair.client.link.withdraw(message)
    pair.settle()
    pair.run(1.0)
    assert pair.client.declined == []
    assert pair.server.withdrawn == []
    assert pair.server.received == []


# --- ends -----------------------------------------------------------------------------


def test_closing_delivers_everything_and_then_ends_both_sides() -> None:
    pair = Pair(config=SMALL)
    for index in range(50):
        pair.client.send(payload(index * 500, index))
    pair.client.link.close()
    with pytest.raises(ClosedError, match="draining"):
        pair.client.send(b"too late")
    pair.advance(until=lambda: all(side.failed is not None for side in pair.sides))
    assert len(pair.server.received) == 50
    assert isinstance(pair.client.failure, ClosedError)
    assert isinstance(pair.server.failure, PeerLostError)
    assert "closed the link" in str(pair.server.failure)
    for side in pair.sides:
        assert side.link.state is State.CLOSED
        assert side.link.next_timeout() == float("inf")
    assert not pair.step(), "after the end nothing is due"


def test_closing_twice_and_closing_both_sides_is_harmless() -> None:
    pair = Pair(config=SMALL)
    for side in pair.sides:
        side.send(payload(100 * KIB))
        side.link.close()
        side.link.close()
    pair.advance(until=lambda: all(side.failed is not None for side in pair.sides))
    for side in pair.sides:
        side.link.close()
        assert side.payloads == [payload(100 * KIB)]


def test_a_link_that_cannot_drain_waits_quietly_past_the_time_for_new_keys() -> None:
    pair = Pair(paths=1, config=Config(rehandshake_interval=5.0))
    pair.server.accepting = False
    pair.client.send(payload(2 * MIB))
    pair.run(0.1)
    pair.client.link.close()
    pair.run(20.0)
    assert pair.client.link.state is State.DRAINING
    pair.server.consume()
    assert pair.deliver() == payload(2 * MIB)
    pair.advance(until=lambda: pair.client.failed is not None)
    assert isinstance(pair.client.failure, ClosedError)


def test_a_goodbye_whose_acknowledgement_is_lost_is_still_a_good_end() -> None:
    pair = Pair(paths=1)
    pair.client.send(b"last words")
    assert pair.deliver() == b"last words"
    pair.settle()
    pair.filter = lambda name, packet: packet if name == "client" else None
    pair.client.link.close()
    pair.advance(until=lambda: pair.server.failed is not None, limit=1.0)
    pair.advance(until=lambda: pair.client.failed is not None, limit=20.0)
    assert isinstance(pair.client.failure, ClosedError)


def test_closing_a_link_that_is_not_open_ends_it_at_once() -> None:
    pair = Pair(connect=False)
    with pytest.raises(ClosedError, match="handshaking"):
        pair.client.send(b"too early")
    pair.client.link.close()
    pair.flush()
    assert isinstance(pair.client.failure, ClosedError)


def test_an_aborted_link_tells_the_peer_once_and_returns_what_was_under_way() -> None:
    pair = Pair(config=SMALL)
    pair.server.accepting = False
    message = pair.client.post(payload(MIB))
    pair.run(0.1)
    pair.client.link.abort(CancelledError("enough"))
    pair.advance(until=lambda: pair.server.failed is not None)
    assert pair.client.failed is not None
    assert pair.client.failed.outgoing == (message,)
    assert pair.server.failed is not None
    assert [lost.id for lost in pair.server.failed.incoming] == [0]


def test_a_closed_link_ignores_every_call() -> None:
    pair = Pair(config=SMALL)
    pair.server.accepting = False
    message = pair.client.post(bytes(50 * KIB))
    pair.run(0.1)
    incoming = pair.server.waiting[0]
    for side in pair.sides:
        side.link.abort(ClosedError("test"))
    pair.run(1.0)
    client, server = pair.client.link, pair.server.link
    assert not client.withdraw(message)
    server.accept(incoming, memoryview(bytearray(50 * KIB)))
    server.decline(incoming)
    server.release(incoming)
    client.renew(pair.now)
    client.handle_timeout(pair.now)
    for wire in pair.client.wires:
        client.path_down(wire, "test", pair.now)
        client.path_up(wire, pair.now)
    client.receive_packet(pair.client.wires[0], b"", pair.now)
    client.abort(ClosedError("again"))
    assert client.poll_transmit(pair.now) is None
    assert client.poll_event() is None
    with pytest.raises(ClosedError):
        pair.client.send(b"")


def test_an_empty_packet_is_dropped_and_counted() -> None:
    pair = Pair()
    for packet in (b"", b"\x15", b"\x16" * 47, b"\x15" * 31, b"\xff" * 100):
        pair.server.link.receive_packet(pair.server.wires[0], packet, pair.now)
    assert sum(pair.server.stats().drops.values()) == 5
    pair.client.send(b"alive")
    assert pair.deliver() == b"alive"


def test_stats_are_a_snapshot_that_adds_up() -> None:
    pair = Pair(paths=2, config=SMALL)
    before = pair.client.stats()
    pair.client.send(payload(200 * KIB))
    pair.settle()
    pair.run(0.05)
    client, server = pair.client.stats(), pair.server.stats()
    assert before.messages_sent == 0
    assert client.peer == "server"
    assert client.state == "open"
    assert client.rtt == pytest.approx(0.002, rel=0.6)
    # The handshake's packets are counted by their sender alone.
    assert client.packets_sent - before.packets_sent >= 200 // 8
    assert server.bytes_received > 200 * KIB
    assert client.bytes_sent >= server.bytes_received
    assert sum(path.bytes_sent for path in client.paths) <= client.bytes_sent
    assert client.generation == client.epoch == 0
