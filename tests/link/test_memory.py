"""A link with a path through memory: preferred, bounded by its slots and ring, never late."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from support.memory_pair import LARGE, PIECE, SIDES, SLOTS, SMALL, End, MemoryPair, content
from transport.config import KIB
from transport.errors import PeerLostError
from transport.link import Failed, State, Transmit
from transport.link.express import COALESCE_PACKETS, INTO_SLOT
from transport.link.inbox import IncomingMessage
from transport.link.sender import frames_capacity
from transport.wire.packet import FIRST_BULK, FIRST_FRAMES, FIRST_PAIR


def kinds(end: End) -> set[int]:
    """Of the packets that an end has read."""
    return {packet[0] for packet in end.packets}


# --- joined, and preferred ----------------------------------------------------------------------


def test_everything_crosses_there_and_the_network_is_left_alone() -> None:
    pair = MemoryPair(config=SMALL)
    pair.settle()
    pair.tapping = True
    sent = [content(size, size) for size in (0, 1, 2 * KIB, PIECE, PIECE + 1, LARGE)]
    for payload in sent:
        for side in pair.sides:
            side.send(payload)
    pair.settle()
    assert pair.tap == []
    for side in pair.sides:
        assert Counter(side.payloads) == Counter(sent)
        assert side.order == list(range(len(sent)))
        assert kinds(pair.ends[side.name]) == {FIRST_FRAMES, FIRST_BULK, FIRST_PAIR}
        assert side.stats().drops == {}
        assert side.stats().retransmissions == 0
    assert pair.server.bound[-1] == pair.client.bound[-1] == len(pair.client.link.paths) - 1


def test_until_the_peer_has_joined_the_network_serves() -> None:
    pair = MemoryPair(config=SMALL, join=False)
    pair.offer()
    pair.freeze("server")
    pair.challenge()
    for side in pair.sides:
        side.send(content(LARGE))
    pair.settle()
    assert [side.payloads for side in pair.sides] == [[content(LARGE)]] * 2
    assert pair.ends["server"].packets == pair.ends["client"].packets == []
    assert not pair.joined
    pair.thaw("server")
    pair.advance(until=lambda: pair.joined)


def test_the_one_who_answered_never_joins_first() -> None:
    pair = MemoryPair(config=SMALL, join=False)
    pair.offer()
    pair.server.send(content(LARGE))
    pair.settle()
    pair.run(5.0)
    assert pair.ends["client"].packets == []
    assert len(pair.server.link.paths) == len(pair.client.link.paths) == SMALL.paths


def test_what_was_on_the_network_when_it_was_joined_arrives_once() -> None:
    pair = MemoryPair(config=SMALL, latency=0.05, join=False)
    for number in range(30):
        pair.client.send(content(1000 + number, number))
    pair.client.send(content(LARGE))
    pair.flush()
    pair.offer()
    pair.join()  # long before any of these has crossed the network
    for number in range(30, 60):
        pair.client.send(content(1000 + number, number))
    pair.settle()
    assert pair.server.order == list(range(61))
    expected = [content(1000 + number, number) for number in range(60)]
    assert Counter(pair.server.payloads) == Counter([content(LARGE), *expected])
    assert pair.client.stats().retransmissions == 0


# --- slots and ring -----------------------------------------------------------------------------


def test_pieces_wait_for_slots_and_slots_come_back_with_acknowledgements() -> None:
    pair = MemoryPair(config=SMALL)
    pair.client.send(content(LARGE))
    pair.advance(until=lambda: pair.client.in_flight > 0 and not pair.ends["client"].free_slots())
    pair.freeze("server")
    pair.run(2.0)
    assert pair.ends["client"].free_slots() == 0
    assert SLOTS <= pair.client.in_flight <= SLOTS + 2, "no piece leaves without a slot"
    assert pair.server.payloads == []
    pair.thaw("server")
    pair.settle()
    assert pair.server.payloads == [content(LARGE)]
    assert pair.ends["client"].free_slots() == SLOTS
    used = sum(packet[0] == FIRST_BULK for packet in pair.ends["server"].packets)
    assert used == LARGE // PIECE + 1


def test_slots_come_back_before_an_acknowledgement_would_be_due() -> None:
    """Else a message of many pieces took as many delays as it fills the slots."""
    pair = MemoryPair(config=SMALL)
    pair.settle()
    began = pair.now
    pair.client.send(content(LARGE))
    pair.settle()
    assert pair.now - began < 2 * SMALL.acknowledge_after


def test_a_slot_is_not_written_again_before_its_packet_is_acknowledged() -> None:
    """The acknowledgement is held up: the slot's packet lies there as it was sealed."""
    pair = MemoryPair(config=SMALL)
    pair.server.accepting = False
    pair.freeze("client")
    for number in range(10):
        pair.client.send(content(PIECE, number))
    pair.run(1.0)
    packets = [bytes(each) for each in pair.ends["server"].packets if each[0] == FIRST_PAIR]
    assert len(packets) == SLOTS, "one for each slot"
    memory = bytes(pair.ends["client"].segment.memory)
    assert all(packet in memory for packet in packets)
    pair.server.consume()
    pair.thaw("client")
    pair.settle()
    assert pair.server.payloads == [content(PIECE, number) for number in range(10)]


def test_small_messages_wait_while_the_ring_is_full_and_go_on_after() -> None:
    pair = MemoryPair(config=SMALL)
    window = pair.ends["client"].slots.window
    count = 2 * window // 1000
    pair.freeze("server")
    for number in range(count):
        pair.client.send(content(1000, number))
    pair.run(3.0)
    local = pair.client.stats().paths[-1]
    assert window - frames_capacity(SMALL) - 2 * KIB < local.in_flight_bytes <= window
    assert pair.ends["client"].fault is None, "it was never offered more than it takes"
    pair.thaw("server")
    pair.settle()
    assert pair.server.payloads == [content(1000, number) for number in range(count)]
    assert pair.client.stats().paths[-1].in_flight_bytes == 0
    assert pair.client.stats().retransmissions == 0


def test_small_messages_at_one_go_keep_to_the_ring_as_well() -> None:
    """With the largest of them, of which fewer fit than may be in flight at one go."""
    size = 16 * KIB
    pair = MemoryPair(config=replace(SMALL, eager_limit=size))
    pair.settle()
    pair.freeze("server")
    sent = 0
    while pair.express(pair.client, content(size, sent)):
        sent += 1
    local = pair.client.stats().paths[-1]
    window = pair.ends["client"].slots.window
    assert window - size - KIB < local.in_flight_bytes <= window
    assert pair.ends["client"].fault is None
    pair.thaw("server")
    pair.settle()
    assert pair.server.payloads == [content(size, number) for number in range(sent)]


def test_both_may_be_full_at_once() -> None:
    """Acknowledgements have room beside what waits for them: neither side blocks the other."""
    pair = MemoryPair(config=SMALL)
    for name in SIDES:
        pair.freeze(name)
    for number in range(150):
        for side in pair.sides:
            side.send(content(1500, number))
    for side in pair.sides:
        side.send(content(LARGE))
    pair.run(1.0)
    for name in SIDES:
        pair.thaw(name)
    pair.settle()
    for side in pair.sides:
        assert side.order == list(range(151))
        assert pair.ends[side.name].fault is None
        assert pair.ends[side.name].free_slots() == SLOTS


# --- nothing is late ----------------------------------------------------------------------------


def test_a_peer_that_does_not_run_has_nothing_repeated_to_it() -> None:
    """For seven seconds; a heartbeat more and it would be lost."""
    pair = MemoryPair(config=SMALL)
    pair.settle()
    pair.tapping = True
    pair.client.send(content(LARGE))
    pair.client.send(content(100))
    pair.freeze("server")
    pair.run(7.0)
    assert pair.client.link.state is State.OPEN
    assert pair.heartbeats_only()
    pair.thaw("server")
    pair.settle()
    assert sorted(pair.server.payloads) == sorted([content(LARGE), content(100)])
    assert pair.client.stats().retransmissions == pair.server.stats().retransmissions == 0
    assert pair.server.stats().drops == {}
    assert pair.ends["client"].fault is None


def test_a_network_that_is_gone_does_not_hold_up_what_crosses_memory() -> None:
    """Its probes are never answered, and still no number of theirs holds up a later one."""
    pair = MemoryPair(config=SMALL)
    pair.settle()
    pair.blackhole()
    began, count = pair.now, 30_000
    for number in range(count):  # more between two probes than may be between two numbers
        payload = number.to_bytes(2, "big")
        if not pair.express(pair.client, payload):
            pair.client.send(payload)
        pair.run(0.1e-3)
    pair.settle()
    assert pair.now - began < count * 0.1e-3 + 0.05, "never held up"
    assert pair.server.payloads == [number.to_bytes(2, "big") for number in range(count)]
    assert all(path.suspected for path in pair.client.link.paths if path.slots is None)
    pair.blackhole(on=False)
    pair.fail("client")
    pair.client.send(content(LARGE))
    pair.settle()
    assert pair.server.payloads[-1] == content(LARGE)


def probed(pair: MemoryPair, seconds: float) -> dict[str, Counter[int]]:
    """Packets that each side sends over each path of the network while nobody says anything."""
    before = {side.name: [path.packets_sent for path in side.stats().paths] for side in pair.sides}
    pair.run(seconds)
    return {
        side.name: Counter(
            {
                path.index: path.packets_sent - before[side.name][path.index]
                for path in side.stats().paths
                if path.index < len(before[side.name]) - 1
            }
        )
        for side in pair.sides
    }


def test_paths_that_stand_by_are_probed_in_turns() -> None:
    """A sign of life each heartbeat keeps the link; all paths would be four times the work."""
    pair = MemoryPair(config=SMALL, paths=4)
    pair.settle()
    pair.run(10.0)
    for probes in probed(pair, 40.0).values():
        assert probes.total() in range(39, 42)  # the answers go through memory
        assert all(count in range(9, 12) for count in probes.values()), probes
    assert all(side.link.state is State.OPEN for side in pair.sides)


def test_a_path_that_stands_by_and_is_dead_is_found_and_the_others_keep_the_link() -> None:
    pair = MemoryPair(config=SMALL, paths=4)
    pair.settle()
    pair.run(10.0)
    pair.blackhole(path=2)
    pair.run(6.0)
    for side in pair.sides:
        assert [path.suspected for path in side.stats().paths] == [False, False, True, False, False]
    pair.run(60.0)
    assert all(side.link.state is State.OPEN for side in pair.sides)
    assert [path.suspected for path in pair.client.stats().paths].count(True) == 1


def test_where_memory_has_failed_each_path_is_probed_every_heartbeat() -> None:
    pair = MemoryPair(config=SMALL, paths=4)
    pair.settle()
    pair.fail("client")
    pair.run(10.0)
    for probes in probed(pair, 40.0).values():
        assert all(count >= 35 for count in probes.values()), probes


def test_no_message_waits_for_the_company_of_probes() -> None:
    """Of as many paths as make a crowd; nobody answers over any of them."""
    pair = MemoryPair(config=SMALL, paths=COALESCE_PACKETS + 8)
    pair.settle()
    pair.blackhole()
    pair.advance(until=lambda: pair.client.in_flight > COALESCE_PACKETS)
    began = pair.now
    pair.client.send(content(100))
    pair.settle()
    assert pair.express(pair.server, content(100))
    pair.settle()
    assert pair.now - began < 0.01


# --- the end ------------------------------------------------------------------------------------


@pytest.mark.parametrize("closer", SIDES)
def test_a_link_that_closes_delivers_through_memory_first(closer: str) -> None:
    pair = MemoryPair(config=SMALL)
    pair.settle()
    side = pair.client if closer == "client" else pair.server
    pair.tapping = True
    side.send(content(LARGE))
    side.send(content(100))
    side.link.close()
    pair.advance(until=lambda: all(each.failed for each in pair.sides))
    assert sorted(pair.other(closer).payloads) == sorted([content(LARGE), content(100)])
    assert pair.tap == []
    assert pair.ends[closer].free_slots() == SLOTS


# --- messages that leave at once ------------------------------------------------------------------

MIDDLING = replace(SMALL, packet_payload=64 * KIB, eager_limit=64 * KIB, window_bytes=1024 * KIB)


def take(pair: MemoryPair, name: str) -> IncomingMessage | None:
    """What the link of a side returns for the packet that it finds next in memory."""
    end, side = pair.ends[name], pair.client if name == "client" else pair.server
    packet = end.take()
    assert packet is not None
    return side.link.receive(end, packet, pair.now)


def express(pair: MemoryPair, name: str, payload: bytes) -> Transmit:
    """Put into memory what a link has sealed at once."""
    end, side = pair.ends[name], pair.client if name == "client" else pair.server
    transmit = side.link.express(memoryview(payload), b"", 0, 7, pair.now)
    assert transmit is not None
    assert end.put(transmit.data)
    side.link.expressed(pair.now)
    return transmit


@pytest.mark.parametrize("size", [INTO_SLOT - 1, INTO_SLOT, 64 * KIB])
def test_a_middling_message_is_sealed_into_a_slot_while_there_is_one(size: int) -> None:
    pair = MemoryPair(config=MIDDLING)
    pair.settle()
    end = pair.ends["client"]
    for number in range(SLOTS + 1):
        transmit = express(pair, "client", content(size, number))
        in_slot = isinstance(transmit.data, memoryview)
        assert in_slot == (size >= INTO_SLOT and number < SLOTS)
        assert end.free_slots() == SLOTS - (min(number + 1, SLOTS) if size >= INTO_SLOT else 0)
    for number in range(SLOTS + 1):
        message = take(pair, "server")
        assert message is not None
        assert bytes(message.payload or b"") == content(size, number)
    pair.settle()
    assert end.free_slots() == SLOTS


def test_a_middling_message_goes_another_way_where_its_memory_fails() -> None:
    pair = MemoryPair(config=MIDDLING)
    pair.settle()
    express(pair, "client", content(64 * KIB))
    pair.fail("client")
    pair.settle()
    assert pair.server.payloads == [content(64 * KIB)]


def test_a_message_comes_before_the_acknowledgement_behind_it() -> None:
    pair = MemoryPair(config=MIDDLING)
    pair.settle()
    for number in range(2):  # slots are acknowledged by twos
        express(pair, "client", content(64 * KIB, number))
        assert take(pair, "server") is not None
    express(pair, "server", b"an answer")
    assert pair.ends["client"].free_slots() == SLOTS - 2
    message = take(pair, "client")
    assert message is not None
    assert message.payload == b"an answer"
    link = pair.client.link
    assert pair.ends["client"].free_slots() == SLOTS - 2, "it is not looked into yet"
    assert link.wants_service
    assert link.poll_event() is None
    assert pair.ends["client"].free_slots() == SLOTS
    assert pair.in_flight_there()[0] == 0


def test_what_is_behind_a_message_is_not_looked_into_once_the_link_has_ended() -> None:
    pair = MemoryPair(config=MIDDLING)
    pair.settle()
    for number in range(2):
        express(pair, "client", content(64 * KIB, number))
        assert take(pair, "server") is not None
    express(pair, "server", b"an answer")
    assert take(pair, "client") is not None
    pair.client.link.abort(PeerLostError("enough"))
    assert isinstance(pair.client.link.poll_event(), Failed)
    assert pair.client.link.poll_event() is None
    assert pair.client.link.state is State.CLOSED
