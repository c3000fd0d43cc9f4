"""Messages on their way in: the sender's order, placement, and credit that bounds it all."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transport.errors import PeerLostError
from transport.link.drops import DISCARDED, EARLY, MALFORMED, OVERLAP, Drop
from transport.link.inbox import Inbox, IncomingMessage
from transport.link.outbox import MESSAGE_COST
from transport.wire.frames import Announce, Eager

CREDIT = 16 * MESSAGE_COST


def eager(number: int, payload: bytes = b"") -> Eager:
    return Eager(number, 1, 2, b"what", memoryview(payload))


def announce(number: int, size: int = 1000) -> Announce:
    return Announce(number, 1, 2, b"what", size)


def ids(messages: list[IncomingMessage]) -> list[int]:
    return [message.id for message in messages]


def accepted(inbox: Inbox, number: int, size: int) -> tuple[IncomingMessage, bytearray]:
    (message,) = inbox.on_announce(announce(number, size))
    buffer = bytearray(size)
    assert not inbox.accept(message, memoryview(buffer))
    message.granted = size
    return message, buffer


@given(st.permutations(range(12)), st.lists(st.sampled_from("eaw"), min_size=12, max_size=12))
def test_messages_come_in_order_whatever_the_order_of_arrival(
    order: list[int], kinds: list[str]
) -> None:
    inbox = Inbox(credit=CREDIT)
    seen: list[int] = []
    for number in order:
        for _ in range(2):  # each frame twice: a repetition changes nothing
            if kinds[number] == "e":
                seen += ids(inbox.on_eager(eager(number)))
            elif kinds[number] == "a":
                seen += ids(inbox.on_announce(announce(number)))
            else:
                seen += ids(inbox.on_withdraw(number)[1])
    expected = [number for number in range(12) if kinds[number] != "w"]
    assert seen == expected
    assert inbox.messages_received == len(expected)


def test_a_message_shows_what_its_frame_said() -> None:
    inbox = Inbox(credit=CREDIT)
    (small,) = inbox.on_eager(eager(0, b"payload"))
    assert (small.id, small.context, small.tag, small.description) == (0, 1, 2, b"what")
    assert bytes(small.payload or b"") == b"payload"
    assert small.size == 7
    (large,) = inbox.on_announce(announce(1, 5000))
    assert large.payload is None
    assert large.size == 5000


def test_a_message_that_waits_for_its_turn_keeps_no_packet_alive() -> None:
    inbox = Inbox(credit=CREDIT)
    packet = bytearray(b"payload")
    inbox.on_eager(Eager(1, 0, 0, b"", memoryview(packet)))
    packet[:] = bytes(7)
    _, held = inbox.on_eager(eager(0))
    assert bytes(held.payload or b"") == b"payload"


@pytest.mark.parametrize("first", [0, 1])
def test_more_than_the_credit_ends_the_link(first: int) -> None:
    for take in ("on_eager", "on_announce", "on_withdraw"):
        inbox = Inbox(credit=CREDIT)

        def one(number: int, take: str = take, inbox: Inbox = inbox) -> None:
            if take == "on_eager":
                inbox.on_eager(eager(number))
            elif take == "on_announce":
                inbox.on_announce(announce(number))
            else:
                inbox.on_withdraw(number)

        if take == "on_withdraw" and not first:
            continue  # in turn they hold nothing
        for number in range(first, first + 16):
            one(number)
        assert inbox.unclaimed <= 16
        with pytest.raises(PeerLostError, match="4096 were allowed"):
            one(first + 16)


def test_the_payload_of_a_small_message_costs_too() -> None:
    inbox = Inbox(credit=CREDIT)
    inbox.on_eager(eager(0, bytes(CREDIT - MESSAGE_COST)))
    with pytest.raises(PeerLostError):
        inbox.on_eager(eager(1))


@pytest.mark.parametrize("end", ["release", "accept", "decline", "withdraw"])
def test_each_way_of_ending_gives_the_credit_back_once(end: str) -> None:
    inbox = Inbox(credit=CREDIT)
    granted = CREDIT
    for number in range(200):
        if end == "release":
            (message,) = inbox.on_eager(eager(number))
            inbox.release(message)
        else:
            (message,) = inbox.on_announce(announce(number))
        if end == "accept":
            inbox.accept(message, memoryview(bytearray(1000)))
            inbox.decline(message)
        elif end == "decline":
            assert inbox.decline(message)
            assert not inbox.decline(message)
        elif end == "withdraw":
            assert inbox.on_withdraw(number) == (message, [])
            assert message.withdrawn
        inbox.release(message)
        granted = inbox.credit_due() or granted
    assert granted <= CREDIT + 200 * MESSAGE_COST
    assert granted > 200 * MESSAGE_COST
    assert inbox.unclaimed == 0


def test_credit_is_given_in_eighths_and_never_for_what_still_waits() -> None:
    inbox = Inbox(credit=CREDIT)
    messages = [inbox.on_eager(eager(number))[0] for number in range(16)]
    due = []
    for message in messages:
        inbox.release(message)
        due.append(inbox.credit_due())
    assert due == [
        None if index % 2 == 0 else CREDIT + (index + 1) * MESSAGE_COST for index in range(16)
    ]


def test_ids_withdrawn_ahead_of_a_gap_give_their_credit_back_when_it_closes() -> None:
    inbox = Inbox(credit=CREDIT)
    inbox.on_announce(announce(5))
    for number in range(1, 9):
        inbox.on_withdraw(number)
    assert inbox.credit_due() is None
    assert ids(inbox.on_eager(eager(0))) == [0]
    assert inbox.credit_due() == CREDIT + 8 * MESSAGE_COST
    assert inbox.unclaimed == 0


def test_withdrawn_ends_a_message_and_what_comes_for_it_is_discarded() -> None:
    inbox = Inbox(credit=CREDIT)
    message, _ = accepted(inbox, 0, 1000)
    assert inbox.on_withdraw(0) == (message, [])
    assert inbox.on_withdraw(0) == (None, [])
    assert message.destination is None
    with pytest.raises(Drop, match=DISCARDED):
        inbox.slot_for(0, 0, 10)


def test_accepting_what_was_withdrawn_meanwhile_places_nothing() -> None:
    inbox = Inbox(credit=CREDIT)
    for number, size in ((0, 0), (1, 50)):
        (message,) = inbox.on_announce(announce(number, size))
        inbox.on_withdraw(number)
        assert not inbox.accept(message, memoryview(bytearray(size)))
        assert message.destination is None


def test_an_empty_large_message_is_whole_when_accepted() -> None:
    inbox = Inbox(credit=CREDIT)
    (message,) = inbox.on_announce(announce(0, 0))
    assert inbox.accept(message, memoryview(b""))
    assert inbox.unclaimed == 0


@settings(max_examples=40)
@given(size=st.integers(1, 3000), seed=st.integers(0, 1 << 32))
def test_pieces_in_any_order_make_the_message_whole_once(size: int, seed: int) -> None:
    rng = random.Random(seed)
    content = rng.randbytes(size)
    inbox = Inbox(credit=CREDIT)
    message, buffer = accepted(inbox, 0, size)
    cuts = sorted({0, size, *(rng.randrange(size) for _ in range(rng.randrange(12)))})
    pieces = list(pairwise(cuts))
    rng.shuffle(pieces)
    for index, (start, end) in enumerate(pieces):
        found, slot = inbox.slot_for(0, start, end - start)
        assert found is message
        slot[:] = content[start:end]
        whole = inbox.placed(message, start, end - start)
        assert whole is (index == len(pieces) - 1)
        with pytest.raises(Drop, match=DISCARDED if whole else OVERLAP):
            inbox.slot_for(0, start, 1)
    assert buffer == content


@pytest.mark.parametrize(("offset", "size"), [(0, 101), (100, 1), (99, 2), ((1 << 64) - 1, 1)])
def test_a_piece_beyond_the_end_is_malformed(offset: int, size: int) -> None:
    inbox = Inbox(credit=CREDIT)
    accepted(inbox, 0, 100)
    with pytest.raises(Drop, match=MALFORMED):
        inbox.slot_for(0, offset, size)


def test_before_it_is_accepted_a_message_takes_no_piece() -> None:
    inbox = Inbox(credit=CREDIT)
    inbox.on_announce(announce(0))
    for number, cause in ((0, DISCARDED), (1, EARLY)):
        with pytest.raises(Drop, match=cause):
            inbox.slot_for(number, 0, 10)


def test_a_message_in_crumbs_ends_the_link() -> None:
    inbox = Inbox(credit=CREDIT)
    message, _ = accepted(inbox, 0, 100_000)

    def crumbs() -> None:
        for offset in range(0, 100_000, 2):
            inbox.placed(message, offset, 1)

    with pytest.raises(PeerLostError, match="pieces"):
        crumbs()


def test_the_end_returns_what_was_not_placed() -> None:
    inbox = Inbox(credit=CREDIT)
    first, _ = accepted(inbox, 0, 100)
    (second,) = inbox.on_announce(announce(1))
    inbox.on_eager(eager(2))
    assert inbox.fail() == [first, second]
    assert first.withdrawn
    assert first.destination is None
    assert inbox.fail() == []
    assert inbox.unclaimed == 0
