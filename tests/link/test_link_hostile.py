"""A peer that holds the link's own keys and does not play by the rules.

Whatever it sends, the honest side neither raises nor grows without a named limit.
"""

from __future__ import annotations

import random
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.hostile import StolenKeys
from support.pair import Pair
from transport.config import KIB, MIB, Config
from transport.errors import PeerLostError
from transport.link import State
from transport.link.pathset import MAX_PATHS
from transport.wire import frames

SMALL = Config(
    packet_payload=8 * KIB,
    eager_limit=2 * KIB,
    window_bytes=64 * KIB,
    unexpected_bytes=32 * KIB,
)


@pytest.fixture
def stolen(monkeypatch: pytest.MonkeyPatch) -> StolenKeys:
    return StolenKeys(monkeypatch)


def eager(number: int, payload: bytes = b"", description: bytes = b"") -> bytes:
    return frames.encode_eager_head(number, 0, 0, description, len(payload)) + payload


def lost_to_the_server(pair: Pair) -> bool:
    """The server ended the link, and blames its peer."""
    return pair.server.link.state is State.CLOSED and isinstance(pair.server.failure, PeerLostError)


def test_more_small_messages_than_credit_end_the_link(stolen: StolenKeys) -> None:
    pair = Pair(config=SMALL)
    pair.server.draining = False
    for number in range(1000):
        stolen.say(pair, eager(number, bytes(1024)))
        if pair.server.link.state is State.CLOSED:
            break
    assert lost_to_the_server(pair)
    assert "allowed" in str(pair.server.failure)
    assert sum(len(payload) + 256 for payload in pair.server.payloads) <= SMALL.unexpected_bytes


@pytest.mark.parametrize("first", [0, 1])
def test_more_announcements_than_credit_end_the_link(first: int, stolen: StolenKeys) -> None:
    pair = Pair(config=SMALL)
    pair.server.accepting = False
    number = first
    while pair.server.link.state is State.OPEN:
        stolen.say(pair, frames.encode_announce(number, 0, 0, bytes(512), 1 << 27))
        number += 1
        assert number < 1000
    assert lost_to_the_server(pair)
    assert number == SMALL.unexpected_bytes // 256 + first + 1


@pytest.mark.parametrize("announced", [False, True])
def test_withdrawals_ahead_of_a_gap_cost_what_they_hold(
    announced: bool, stolen: StolenKeys
) -> None:
    pair = Pair(config=SMALL)
    number = 1  # 0 never comes, so nothing is ever in turn
    while pair.server.link.state is State.OPEN:
        if announced:
            stolen.say(pair, frames.encode_announce(number, 0, 0, b"", 1))
        stolen.say(pair, frames.encode_withdraw(number))
        number += 1
        assert number < 1000, "ids withdrawn ahead of a gap pile up"
    assert lost_to_the_server(pair)


def test_a_message_repeated_under_new_packet_numbers_is_delivered_once(
    stolen: StolenKeys,
) -> None:
    pair = Pair(config=SMALL)
    for number in (0, 0, 2, 2, 1, 1, 0, 2):
        stolen.say(pair, eager(number, bytes([number])))
    assert pair.server.payloads == [b"\x00", b"\x01", b"\x02"]
    assert pair.open


def test_bulk_bytes_for_nobody_beyond_the_end_or_twice_change_nothing(
    stolen: StolenKeys,
) -> None:
    pair = Pair(paths=1, config=SMALL)
    stolen.say(pair, frames.encode_announce(0, 0, 0, b"", 3000))
    sealer = stolen.sealer(pair, "client")

    def bulk(message: int, offset: int, plaintext: bytes) -> None:
        slot = memoryview(bytearray(8 * KIB))
        _, size = sealer.seal_bulk_into(slot, message, offset, plaintext)
        pair.server.link.receive_packet(pair.server.wires[0], bytes(slot[:size]), pair.now)

    bulk(1, 0, b"x" * 1000)
    bulk(0, 2500, b"x" * 1000)
    bulk(0, (1 << 64) - 10, b"x" * 1000)
    bulk(0, 0, b"a" * 1000)
    bulk(0, 0, b"b" * 1000)
    bulk(0, 999, b"b" * 10)
    bulk(0, 1000, b"c" * 2000)
    bulk(0, 1000, b"d" * 10)
    pair.server.take_events(pair.server.link)
    assert pair.server.payloads == [b"a" * 1000 + b"c" * 2000]
    drops = pair.server.stats().drops
    assert drops == {"early": 1, "discarded": 1, "malformed": 2, "overlap": 2}
    assert pair.open


def test_nothing_behind_a_goodbye_is_taken(stolen: StolenKeys) -> None:
    goodbye = frames.encode_close(0)
    for behind in (
        goodbye,
        eager(0, b"late"),
        frames.encode_join(1, bytes(16)),
        frames.encode_handshake(b""),
        frames.encode_handshake(bytes(100)),
        frames.encode_ack(0, [(0, 5)]),
        b"\xff",
    ):
        pair = Pair(paths=2, config=SMALL)
        stolen.say(pair, goodbye + behind)
        pair.run(1.0)
        assert lost_to_the_server(pair)
        assert pair.server.received == []


def test_a_frame_that_is_refused_does_not_take_its_neighbours_with_it(
    stolen: StolenKeys,
) -> None:
    pair = Pair(paths=2, config=SMALL)
    refused = (
        frames.encode_joined(0, bytes(16)),
        frames.encode_join(MAX_PATHS, bytes(16)),
        frames.encode_handshake(b"\x12" + bytes(60)),
    )
    for number, frame in enumerate(refused):
        stolen.say(pair, frame + eager(number, b"behind"))
    assert pair.server.payloads == [b"behind"] * 3
    assert pair.server.stats().drops["state"] == 3


def test_frames_before_a_malformed_one_count_and_those_behind_do_not(
    stolen: StolenKeys,
) -> None:
    pair = Pair(paths=1, config=SMALL)
    stolen.say(pair, eager(0, b"good") + b"\xee" + eager(1, b"bad"))
    assert pair.server.payloads == [b"good"]
    assert pair.server.stats().drops == {"malformed": 1}
    assert pair.open


def test_only_the_initiator_opens_paths_and_only_so_many(stolen: StolenKeys) -> None:
    pair = Pair(paths=2, config=SMALL)
    stolen.say(pair, frames.encode_join(1, bytes(16)), by="server")
    assert pair.client.stats().drops == {"state": 1}
    stolen.say(pair, frames.encode_join(MAX_PATHS, bytes(16)))
    stolen.say(pair, frames.encode_join(0xFFFF, bytes(16)))
    assert pair.server.stats().drops == {"state": 2}
    stolen.say(pair, frames.encode_join(MAX_PATHS - 1, bytes(16)), path=1)
    assert len(pair.server.stats().paths) == MAX_PATHS
    stolen.say(pair, frames.encode_joined(1, bytes(16)), by="server", path=1)
    assert pair.client.stats().drops == {"state": 2}, "a challenge nobody made"


def test_a_flood_of_path_requests_in_one_packet_makes_no_flood_of_answers(
    stolen: StolenKeys,
) -> None:
    pair = Pair(paths=2, config=SMALL)
    before = pair.server.stats().packets_sent
    stolen.say(pair, b"".join(frames.encode_join(1, bytes(16)) for _ in range(400)), path=1)
    pair.flush()
    assert pair.server.stats().packets_sent - before < 80


@pytest.mark.parametrize("by", ["client", "server"])
def test_a_flood_of_renewals_makes_no_flood_of_handshakes(by: str, stolen: StolenKeys) -> None:
    pair = Pair(paths=1, config=SMALL)
    stolen.say(pair, frames.encode_handshake(b"") * 2000, by=by)
    victim = pair.other(by)
    before = victim.stats().bytes_sent
    pair.flush()
    assert victim.stats().bytes_sent - before < 5 * KIB


def memory_of(pair: Pair, say: list[bytes], stolen: StolenKeys, skip: int = 0) -> int:
    """Bytes that stay allocated after the server has taken all of these packets."""
    sealer = stolen.sealer(pair, "client")
    packets = []
    for content in say:
        packets.append(bytes(sealer.seal_frames(content)[1]))
        for _ in range(skip):
            sealer.seal_frames(b"")
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for packet in packets:
        pair.server.link.receive_packet(pair.server.wires[0], packet, pair.now)
        while pair.server.link.poll_event() is not None:
            pass
        while pair.server.link.poll_transmit(pair.now) is not None:
            pass
    after = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    return after - before


def test_gaps_in_the_packet_numbers_do_not_fill_memory(stolen: StolenKeys) -> None:
    pair = Pair(paths=1, config=SMALL)
    assert memory_of(pair, [frames.encode_ping()] * 20_000, stolen, skip=1) < 1 * MIB


def test_acknowledgements_of_what_was_never_sent_are_ignored(stolen: StolenKeys) -> None:
    pair = Pair(paths=1, config=SMALL)
    pair.run(0.1)
    pair.server.send(b"unheard")
    pair.filter = lambda name, packet: None
    pair.flush()
    assert pair.server.in_flight == 1
    top = (1 << 64) - 1
    for ranges in ([(1000, top)], [(top, top), (500, 600)], []):
        stolen.say(pair, frames.encode_ack(top, ranges))
    assert pair.server.in_flight == 1
    pair.filter = None
    assert pair.deliver(to="client") == b"unheard"


def test_grants_credit_and_refusals_of_anything_at_all_are_harmless(stolen: StolenKeys) -> None:
    pair = Pair(paths=1, config=SMALL)
    pair.client.accepting = False
    message = pair.server.post(bytes(20 * KIB))
    pair.run(0.1)
    top = (1 << 64) - 1
    for frame in (
        frames.encode_grant(5, 100),
        frames.encode_grant(top, top),
        frames.encode_decline(7),
        frames.encode_withdraw(top),
        frames.encode_credit(0),
        frames.encode_credit(top),
        frames.encode_grant(0, 1),
        frames.encode_grant(0, 0),
        frames.encode_grant(0, top),
        frames.encode_grant(0, 3),
    ):
        stolen.say(pair, frame)
        pair.flush()
    assert pair.server.sealed == [message]
    assert pair.open


@settings(max_examples=25)
@given(seed=st.integers(0, 1 << 32))
def test_arbitrary_frames_never_raise(seed: int) -> None:
    """Well-formed frames with arbitrary values, in arbitrary order, and some noise."""
    rng = random.Random(seed)

    def number() -> int:
        return rng.choice((0, 1, 2, 3, rng.randrange(300), rng.randrange(1 << 64)))

    def frame() -> bytes:
        return rng.choice(
            (
                lambda: eager(number(), rng.randbytes(rng.randrange(300))),
                lambda: frames.encode_announce(number(), 1, number(), b"d", number()),
                lambda: frames.encode_ack(number(), [(number() >> 1, (1 << 64) - 1)]),
                lambda: frames.encode_grant(number(), number()),
                lambda: frames.encode_credit(number()),
                lambda: frames.encode_withdraw(number()),
                lambda: frames.encode_decline(number()),
                frames.encode_ping,
                lambda: frames.encode_join(rng.randrange(80), rng.randbytes(16)),
                lambda: frames.encode_joined(rng.randrange(80), rng.randbytes(16)),
                lambda: frames.encode_handshake(rng.randbytes(rng.randrange(200))),
                lambda: rng.randbytes(rng.randrange(20)),
                lambda: frames.encode_close(0) if rng.random() < 0.02 else b"",
            )
        )()

    with pytest.MonkeyPatch.context() as patch:
        stolen = StolenKeys(patch)
        pair = Pair(paths=2, seed=seed, config=SMALL)
    for _ in range(60):
        by = rng.choice(("client", "server"))
        if not pair.open:
            break
        content = b"".join(frame() for _ in range(rng.randrange(1, 6)))
        try:
            stolen.say(pair, content, by=by, path=rng.randrange(2))
        finally:
            # The honest sender of that side knows nothing of the numbers spent.
            pair.flush()
