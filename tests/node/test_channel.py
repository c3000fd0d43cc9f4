"""`Channel`: a context of a node that is told of what nobody has claimed."""

from __future__ import annotations

import numpy as np
import pytest

from support.nodes import PATIENCE, linked, node, until
from transport import PeerLostError, UsageError

CONTEXT = 0x1234_5679


def test_bytes_cross_and_other_contexts_do_not_see_them():
    with linked() as (a, b):
        ours, theirs = a.channel(CONTEXT), b.channel(CONTEXT)
        into = memoryview(bytearray(8))
        plain = b.irecv(source="a", tag=5)
        with theirs:
            receiving = theirs.receive(into, source="a", tag=5)
        with ours:
            assert ours.send(b"sealed!!", to="b", tag=5) is None
            ours.pump()
        assert bytes(receiving.wait(PATIENCE)) == b"sealed!!"
        assert not plain.done()
        assert plain.cancel()


def test_the_owner_is_told_of_what_nobody_claimed_before_and_after():
    with linked() as (a, b):
        for tag in (1, 2):
            a.isend(b"early", to="b", tag=tag, context=CONTEXT).wait(PATIENCE)
        a.flush(timeout=PATIENCE)
        strays = []
        channel = b.channel(CONTEXT)
        with channel:
            channel.watch(lambda source, tag, link: strays.append((source, tag)))
        assert strays == [("a", 1), ("a", 2)]
        a.isend(b"late", to="b", tag=3, context=CONTEXT).wait(PATIENCE)
        until(lambda: len(strays) == 3)
        other = b.channel(CONTEXT)
        with other, pytest.raises(UsageError, match="in use"):
            other.watch(print)


def test_discarding_frees_the_senders_buffer_and_counts():
    with linked() as (a, b):
        large = np.zeros(3_000_000, np.uint8)  # more than a packet
        work = a.isend(large, to="b", context=CONTEXT)
        a.isend(b"small", to="b", context=CONTEXT).wait(PATIENCE)
        until(lambda: b.stats().unclaimed_messages == 2)
        channel = b.channel(CONTEXT)
        with channel:
            channel.discard("somebody else")
        assert b.stats().unclaimed_messages == 2
        with channel:
            channel.discard("a")
            channel.pump()
        assert b.stats().unclaimed_messages == 0
        assert b.stats().drops["discarded"] == 2
        until(work.done)
        assert "takes no more of it" in str(work.exception())


def test_one_message_leads_to_the_next_without_a_thread():
    """A callback may send: what it sends leaves with the step it runs in."""
    with linked() as (a, b):
        back, forth = a.channel(CONTEXT), b.channel(CONTEXT)
        rounds = 50
        seen = []

        def bounce(channel, peer, number):
            into = memoryview(bytearray(4))
            work = channel.receive(into, source=peer, tag=number)

            def passed():
                assert work.exception() is None
                seen.append((peer, number))
                if number < rounds:
                    channel.send(b"ball", to=peer, tag=number + 1)
                    bounce(channel, peer, number + 2)
                channel.pump()

            work.add_done_callback(passed)

        with forth:
            bounce(forth, "a", 0)
        with back:
            bounce(back, "b", 1)
            back.send(b"ball", to="b", tag=0)
            back.pump()
        until(lambda: len(seen) == rounds + 1)
        assert [number for _, number in seen] == list(range(rounds + 1))


def test_links_are_begun_without_waiting():
    with node("a") as a, node("b") as b:
        channel = a.channel(CONTEXT)
        with channel:
            assert channel.link_to("b") is None
            call = channel.connect(b.addresses, "b")
            channel.pump()
        assert call.wait(PATIENCE).peer == "b"
        with channel:
            assert channel.link_to("b") is not None
            assert channel.connect(b.addresses, "b").done()


def test_a_call_that_nobody_answers_can_be_given_up():
    with node("a") as a:
        channel = a.channel(CONTEXT)
        with channel:
            call = channel.connect(("tcp://127.0.0.1:9",), "ghost")
            channel.pump()
        assert not channel.wait(call, 0.2)
        with channel:
            error = channel.give_up(call, "ghost", 0.2)
        assert "nothing answers there" in str(error)


def test_what_a_lost_peer_owes_ends_at_once():
    with linked() as (a, b):
        channel = a.channel(CONTEXT)
        b.close()
        until(lambda: not a.stats().links)
        with channel:
            assert channel.lost("b") is not None
            with pytest.raises(PeerLostError):
                channel.send(b"x", to="b", tag=0)
            with pytest.raises(PeerLostError):
                channel.receive(memoryview(bytearray(1)), source="b", tag=0)


def test_an_abandoned_work_lets_go_of_its_buffer():
    with linked() as (a, b):
        channel = b.channel(CONTEXT)
        with channel:
            work = channel.receive(memoryview(bytearray(8)), source="a", tag=0)
            work.abandon(PeerLostError("given up"))
        assert str(work.exception()) == "given up"
        a.isend(b"12345678", to="b", context=CONTEXT).wait(PATIENCE)
        until(lambda: b.stats().unclaimed_messages == 1)
        with channel:
            work.abandon(PeerLostError("twice"))
        assert str(work.exception()) == "given up"


def test_something_runs_later_with_the_engine_held():
    with node("a") as a:
        channel = a.channel(CONTEXT)
        ran = []
        with channel:
            channel.later(0.01, lambda: ran.append(True))
        until(lambda: ran)
        with channel:
            work = channel.work("an operation")
            channel.later(0.01, lambda: work.finish(7))
        assert channel.wait(work, PATIENCE)
        assert work.wait(0) == 7
