"""The attempts of a link to become one: who repeats, who gives up, whom one believes."""

from __future__ import annotations

from itertools import pairwise

import pytest

from support.pair import SECRET, Pair
from transport.config import Config
from transport.errors import AuthenticationError, HandshakeError
from transport.identity import Identity, Trust
from transport.link import State
from transport.link.introduction import REFUSALS_BELIEVED
from transport.wire.packet import Kind, classify


def kind(packet: bytes) -> Kind:
    return classify(memoryview(packet))[0]


def pinned(name: str, key: bytes) -> Trust:
    return Trust({name: key}, SECRET)


def test_an_unanswered_call_is_repeated_over_one_path_after_another() -> None:
    pair = Pair(paths=3, connect=False)
    pair.blackhole()
    pair.tapping = True
    pair.flush()
    times, seen = [pair.now], 1
    while len(pair.tap) < 8:
        pair.step()
        if len(pair.tap) > seen:
            seen = len(pair.tap)
            times.append(pair.now)
    assert [path for _, path, _ in pair.tap] == [0, 1, 2, 0, 1, 2, 0, 1]
    assert len({packet for _, _, packet in pair.tap}) == 8, "each with keys of its own"
    pauses = [later - earlier for earlier, later in pairwise(times)]
    assert pauses == pytest.approx([0.25, 0.5, 1.0, 2.0, 4.0, 4.0, 4.0])


def test_a_caller_never_gives_up_by_itself_and_the_answer_may_come_late() -> None:
    pair = Pair(paths=1, connect=False)
    pair.blackhole()
    pair.run(600.0)
    assert pair.client.failed is None
    pair.blackhole(on=False)
    pair.connect()
    assert pair.client.stats().handshake_seconds > 600.0


@pytest.mark.parametrize("lost", [Kind.INIT, Kind.RESPONSE, Kind.FINISH, Kind.EVIDENCE])
@pytest.mark.parametrize("times", [1, 3])
def test_each_packet_of_the_handshake_may_be_lost(lost: Kind, times: int) -> None:
    pair = Pair(paths=2, connect=False)
    left = times

    def lose(name: str, packet: bytes) -> bytes | None:
        nonlocal left
        if kind(packet) is lost and left:
            left -= 1
            return None
        return packet

    pair.filter = lose
    pair.client.link.last_refusal  # noqa: B018 - it can be asked at any time
    pair.connect()
    assert left == 0
    pair.client.send(b"over")
    pair.server.send(b"and back")
    pair.settle()
    assert pair.server.payloads == [b"over"]
    assert pair.client.payloads == [b"and back"]


def test_the_first_packet_under_application_keys_may_be_lost_too() -> None:
    pair = Pair(paths=1, connect=False)
    lost: list[bytes] = []

    def lose(name: str, packet: bytes) -> bytes | None:
        if name == "client" and kind(packet) is Kind.FRAMES and len(lost) < 3:
            lost.append(packet)
            return None
        return packet

    pair.filter = lose
    pair.connect()
    assert len(lost) == 3
    assert pair.server.established == 1


def test_a_responder_forgets_a_caller_who_never_finishes() -> None:
    pair = Pair(paths=1, connect=False, config=Config(handshake_deadline=3.0))
    pair.filter = lambda name, packet: packet if kind(packet) is Kind.INIT else None
    pair.advance(until=lambda: bool(pair.server.links))
    (link,) = pair.server.links.values()
    pair.blackhole()
    pair.run(2.9)
    assert link.stats().state == "handshaking"
    pair.run(0.2)
    assert link.stats().state == "closed"
    assert isinstance(pair.server.failure, HandshakeError)
    assert "never finished" in str(pair.server.failure)


def test_a_responder_that_hears_nothing_under_application_keys_gives_up() -> None:
    pair = Pair(paths=1, connect=False)
    pair.filter = lambda name, packet: (
        None if name == "client" and kind(packet) is Kind.FRAMES else packet
    )
    pair.advance(until=lambda: bool(pair.server.links))
    pair.advance(until=lambda: pair.server.link.state is State.CONFIRMING)
    pair.run(11.0)
    assert pair.server.link.state is State.CLOSED
    assert pair.server.established == 0


def test_a_wrong_key_is_believed_after_so_many_refusals() -> None:
    pair = Pair(connect=False, trusts=(pinned("server", bytes([9]) * 32), Trust(secret=SECRET)))
    pair.advance(until=lambda: pair.client.failed is not None, limit=5.0)
    assert isinstance(pair.client.failure, AuthenticationError)
    assert "pinned" in str(pair.client.failure)
    assert len(pair.server.links) == REFUSALS_BELIEVED
    assert pair.server.established == 0


def test_a_caller_with_the_wrong_key_is_told_under_seal_and_believes_it_in_the_end() -> None:
    pair = Pair(connect=False, trusts=(Trust(secret=SECRET), pinned("client", bytes([9]) * 32)))
    pair.tapping = True
    pair.advance(until=lambda: pair.client.link.last_refusal is not None, limit=5.0)
    assert pair.client.failed is None, "one answer may be forged or confused"
    pair.advance(until=lambda: pair.client.failed is not None, limit=5.0)
    assert isinstance(pair.client.failure, AuthenticationError)
    assert str(pair.client.failure) == "peer 'server' refused this node"
    assert isinstance(pair.server.failure, AuthenticationError)
    assert {kind(packet) for name, _, packet in pair.tap if name == "server"} == {
        Kind.RESPONSE,
        Kind.EVIDENCE,
    }


def test_a_caller_that_was_refused_may_be_admitted_later() -> None:
    identities = Identity.generate(), Identity.generate()
    strange = pinned("client", bytes([9]) * 32)
    pair = Pair(connect=False, trusts=(Trust(secret=SECRET), strange), identities=identities)
    pair.advance(until=lambda: pair.client.link.last_refusal is not None, limit=5.0)
    admits = pinned("client", identities[0].public_key)
    object.__setattr__(pair.server.terms, "trust", admits)
    pair.connect()
    assert pair.open


@pytest.mark.parametrize("calls", ["nobody", "client"])
def test_a_wrong_name_or_a_wrong_secret_meets_silence(calls: str) -> None:
    for pair in (
        Pair(connect=False, calls=calls),
        Pair(connect=False, trusts=(Trust(secret=bytes(32)), Trust(secret=SECRET))),
    ):
        pair.tapping = True
        pair.run(20.0)
        assert {name for name, _, _ in pair.tap} == {"client"}
        assert pair.server.links == {}
        assert pair.server.dropped("bad_hello") == len(pair.tap) > 3
        assert pair.client.failed is None


def test_both_secret_and_pinned_keys_must_hold_where_both_are_given() -> None:
    client, server = Identity.generate(), Identity.generate()
    good = (
        Trust({"server": server.public_key}, SECRET),
        Trust({"client": client.public_key}, SECRET),
    )
    Pair(trusts=good, identities=(client, server))
    only_keys = Trust({"server": server.public_key}), Trust({"client": client.public_key})
    Pair(trusts=only_keys, identities=(client, server))
    pair = Pair(trusts=(only_keys[0], good[1]), identities=(client, server), connect=False)
    pair.run(5.0)
    assert pair.server.links == {}


def test_handshake_packets_over_a_strangers_connection_still_work() -> None:
    """Whoever relays them gains nothing, and the link is not confused by it."""
    pair = Pair(paths=1, connect=False)
    pair.filter = lambda name, packet: None
    pair.tapping = True
    strangers_wire = object()
    for _ in range(4):
        pair.flush()
        while pair.tap:
            name, _, packet = pair.tap.pop(0)
            receiver = pair.other(name)
            if kind(packet) is Kind.INIT:
                pair.inject(receiver.name, 0, packet)
                pair.step()
            else:
                receiver.link.receive_packet(strangers_wire, packet, pair.now)
                receiver.take_events(receiver.link)
    pair.filter = None
    pair.connect()
    pair.client.send(b"through")
    assert pair.deliver() == b"through"
