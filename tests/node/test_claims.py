"""Claims: one expected message each, wherever it stands when it is claimed."""

from __future__ import annotations

import numpy as np
import pytest

from support.nodes import PATIENCE, linked, until
from transport import Config, PeerLostError, PeerRefusedError

CONTEXT = 0x1234_567B
LARGE = 3_000_000  # more than a packet, so it is asked for


class Taker:
    """What came of a claim."""

    def __init__(self):
        self.taken, self.failed = [], []

    def claim(self, channel, size, tag, source="a"):
        return channel.claim(size, self._take, self.failed.append, source=source, tag=tag)

    def _take(self, link, description, payload):
        self.taken.append((description, bytes(payload)))

    @property
    def ended(self):
        return bool(self.taken or self.failed)


def sent(channel, data, tag, note=b""):
    with channel:
        work = channel.send(data, to="b", tag=tag, note=note)
        channel.pump()
    return work


@pytest.mark.parametrize("size", [0, 8, LARGE])
@pytest.mark.parametrize("early", [False, True])
def test_a_message_is_handed_over_with_its_note(size, early):
    data = np.random.default_rng(size).bytes(size)
    with linked() as (a, b):
        ours, theirs = a.channel(CONTEXT), b.channel(CONTEXT)
        taker = Taker()
        if early:
            sent(ours, data, 5, b"what it is")
            until(lambda: b.stats().unclaimed_messages == 1)
            with theirs:
                assert theirs.note_of("a", 5) == b"what it is"
        with theirs:
            claim = taker.claim(theirs, size, 5)
            theirs.pump()
        if not early:
            sent(ours, data, 5, b"what it is")
        until(lambda: taker.ended)
        ((description, payload),) = taker.taken
        assert payload == data
        assert description.endswith(b"what it is")
        assert claim.ended
        assert b.stats().unclaimed_messages == 0
        a.flush(timeout=PATIENCE)


def test_each_claim_takes_the_message_of_its_tag_and_receives_take_the_others():
    with linked() as (a, b):
        ours, theirs = a.channel(CONTEXT), b.channel(CONTEXT)
        takers = {tag: Taker() for tag in (1, 2)}
        with theirs:
            for tag, taker in takers.items():
                taker.claim(theirs, 3, tag)
            into = memoryview(bytearray(3))
            receiving = theirs.receive(into, source="a", tag=3)
        for tag in (3, 2, 1):
            sent(ours, b"no%d" % tag, tag)
        assert bytes(receiving.wait(PATIENCE)) == b"no3"
        until(lambda: all(taker.ended for taker in takers.values()))
        assert [takers[tag].taken[0][1] for tag in (1, 2)] == [b"no1", b"no2"]


def test_a_large_message_of_another_size_is_declined_and_has_no_bytes():
    with linked() as (a, b):
        ours, theirs = a.channel(CONTEXT), b.channel(CONTEXT)
        taker = Taker()
        with theirs:
            taker.claim(theirs, 10, 5)
        work = sent(ours, bytes(LARGE), 5, b"note")
        until(lambda: taker.ended)
        assert taker.taken[0][1] == b""
        with pytest.raises(PeerRefusedError):
            work.wait(PATIENCE)


def test_what_was_given_up_is_not_handed_over():
    with linked() as (a, b):
        ours, theirs = a.channel(CONTEXT), b.channel(CONTEXT)
        taker = Taker()
        with theirs:
            claim = taker.claim(theirs, 8, 5)
            theirs.unclaim(claim)
        sent(ours, b"8 bytes.", 5)
        until(lambda: b.stats().unclaimed_messages == 1)
        assert not taker.ended


def test_a_claim_given_up_while_it_is_being_filled_declines_the_rest():
    with linked(config=Config(window_bytes=1 << 20, packet_payload=1 << 18)) as (a, b):
        ours, theirs = a.channel(CONTEXT), b.channel(CONTEXT)
        taker = Taker()
        size = 64 << 20
        with theirs:
            claim = taker.claim(theirs, size, 5)
        work = sent(ours, bytes(size), 5)
        until(lambda: b.link("a").stats().bytes_received > 1 << 20)
        with theirs:
            theirs.unclaim(claim)
            theirs.pump()
        with pytest.raises(PeerRefusedError):
            work.wait(PATIENCE)
        assert not taker.ended


def test_a_claim_ends_with_its_peer_and_with_the_node():
    with linked() as (a, b):
        theirs = b.channel(CONTEXT)
        lost, closed = Taker(), Taker()
        with theirs:
            lost.claim(theirs, 8, 5)
            closed.claim(theirs, 8, 5, source="somebody else")
        a.close()
        until(lambda: lost.ended)
        assert isinstance(lost.failed[0], PeerLostError)
        with theirs, pytest.raises(PeerLostError, match="'a' is gone"):
            Taker().claim(theirs, 8, 6)
        assert not closed.ended
        b.close()
        assert len(closed.failed) == 1


def test_the_programs_own_messages_have_no_notes():
    with linked() as (a, b):
        channel = a.channel(0)
        sent(channel, b"with a note", 5, b"note")
        until(lambda: b.stats().drops.get("malformed"))
        a.send(b"without", to="b", tag=5)
        assert bytes(b.recv(source="a", tag=5, timeout=PATIENCE)) == b"without"
