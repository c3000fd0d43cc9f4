"""Grants of a node to all its senders: ahead to one, in turns to several, never too much."""

from __future__ import annotations

import gc
import random
import sys
from collections import deque

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transport.config import KIB, MIB, Config
from transport.link.congestion import FixedWindow
from transport.link.credit import FIRST_PACKETS, STALLED, CreditPool
from transport.link.events import Event, MessageArrived
from transport.link.inbox import Inbox, IncomingMessage
from transport.link.mailbox import Mailbox
from transport.link.outbox import Outbox
from transport.link.pathset import PathSet
from transport.link.ranges import RangeSet
from transport.link.scheduler import Spray
from transport.link.sender import Sender
from transport.wire import frames
from transport.wire.frames import Announce

PACKET = 8 * KIB
TRIP = 1e-5
RATE = 12.5e9
CONFIG = Config(packet_payload=PACKET, acknowledge_after=1e-6, retransmit_min=1e-6)


def message(size: int, number: int = 0) -> IncomingMessage:
    made = IncomingMessage(number, 0, 0, b"", None, size, 0)
    made.filled = RangeSet()
    return made


class Peer:
    """One link's account, the messages it has accepted, and what the peer was told."""

    def __init__(self, pool: CreditPool, name: str, trip: float | None = TRIP) -> None:
        self.name = name
        self.account = pool.open(name, self._granted, lambda: trip)
        self.messages: list[IncomingMessage] = []  # accepted, not whole, not ended
        self.told: dict[IncomingMessage, int] = {}
        self.arrived = 0

    def _granted(self, message: IncomingMessage) -> None:
        assert self.told.get(message, 0) < message.granted <= message.size
        self.told[message] = message.granted

    def accept(self, size: int) -> IncomingMessage:
        made = message(size)
        self.messages.append(made)
        self.account.accept(made)
        return made

    @property
    def due(self) -> int:
        """Bytes that were granted and have not arrived."""
        return sum(each.granted - total(each) for each in self.messages)

    def arrive(self, size: int, now: float) -> int:
        """At most so many granted bytes arrive, in order; return how many."""
        for each in self.messages:
            start = total(each)
            taken = min(size, each.granted - start)
            if taken > 0:
                assert each.filled is not None
                each.filled.add(start, start + taken)
                self.arrived += taken
                if total(each) == each.size:
                    self.messages.remove(each)
                self.account.arrived(taken, now)
                return taken
        return 0

    def end(self, ended: IncomingMessage) -> None:
        self.messages.remove(ended)
        self.account.ended(ended)


def total(each: IncomingMessage) -> int:
    assert each.filled is not None
    return each.filled.total


class Incast:
    """Senders whose packets meet in one line: each granted byte leaves at once."""

    def __init__(self, senders: int, size: int, trip: float = TRIP) -> None:
        self.pool = CreditPool(CONFIG)
        self.trip = trip
        self.now = 1.0
        self.peers = [Peer(self.pool, str(index), trip) for index in range(senders)]
        self.silent: set[int] = set()
        self.most = 0.0  # granted and not arrived, of the limit
        self._free_at = 0.0
        self._line: deque[tuple[float, int, int]] = deque()  # when whole, whose, bytes
        self._sent = [0] * senders
        for peer in self.peers:
            peer.accept(size)
        self._send()

    def _send(self) -> None:
        self.most = max(self.most, self.pool.outstanding / self.pool.limit)
        for index, peer in enumerate(self.peers):
            if index in self.silent:
                continue
            granted = peer.due + peer.arrived
            while self._sent[index] < granted:
                size = min(PACKET, granted - self._sent[index])
                self._sent[index] += size
                # It reaches the line a round trip after it was granted, in its turn.
                self._free_at = max(self._free_at, self.now + self.trip) + size / RATE
                self._line.append((self._free_at, index, size))

    def run(self, seconds: float) -> list[int]:
        """Let time pass; return how much of each sender has come meanwhile."""
        end, before = self.now + seconds, [peer.arrived for peer in self.peers]
        while True:
            look_at, waiting = min((peer.account.look_at, peer.name) for peer in self.peers)
            whole = self._line[0][0] if self._line else float("inf")
            if min(look_at, whole) > end:
                break
            self.now = max(self.now, min(look_at, whole))
            if look_at < whole:
                self.peers[int(waiting)].account.look(self.now)
            else:
                _, index, size = self._line.popleft()
                assert self.peers[index].arrive(size, self.now) == size
            self._send()
        self.now = end
        return [peer.arrived - old for peer, old in zip(self.peers, before, strict=True)]


# --- one sender ------------------------------------------------------------------------------


def test_a_sender_alone_is_granted_a_little_and_then_ever_further_ahead() -> None:
    """Others may be about to announce; but once it has begun to send, it is not kept waiting."""
    pool = CreditPool(CONFIG)
    one = Peer(pool, "one")
    large = one.accept(16 * MIB)
    assert large.granted == FIRST_PACKETS * PACKET
    assert list(pool.stirred) == ["one"]
    now = 1.0
    while large.granted < large.size:
        assert one.due >= FIRST_PACKETS * PACKET // 4, "it could go on at any time"
        now += PACKET / RATE
        one.arrive(PACKET, now)
    assert one.arrived < large.size / 2
    following = one.accept(100)
    assert following.granted == 100


def test_a_small_message_of_a_sender_alone_is_granted_whole() -> None:
    one = Peer(CreditPool(CONFIG), "one")
    assert one.accept(FIRST_PACKETS * PACKET).granted == FIRST_PACKETS * PACKET
    assert one.accept(1).granted == 0, "what was granted has not come yet"


def test_a_sender_alone_is_never_out_of_grants_and_the_rate_is_measured() -> None:
    incast = Incast(1, 200 * MIB)
    incast.run(100 * TRIP)
    (came,) = incast.run(100 * TRIP)
    assert came == pytest.approx(RATE * 100 * TRIP, rel=0.02)
    assert incast.pool.limit == pytest.approx(2 * RATE * (TRIP + 1e-6), rel=0.05)


# --- several ---------------------------------------------------------------------------------


@pytest.mark.parametrize("senders", [2, 5, 16, 100])
def test_several_have_equal_shares_of_a_line_that_never_idles(senders: int) -> None:
    incast = Incast(senders, 64 * MIB)
    incast.run(100 * TRIP)
    came = incast.run(400 * TRIP)
    assert sum(came) == pytest.approx(RATE * 400 * TRIP, rel=0.02)
    fair = sum(came) / senders
    assert max(came) - min(came) <= max(0.1 * fair, 3 * PACKET)


@pytest.mark.parametrize("senders", [2, 16, 100])
def test_what_a_crowd_is_granted_stays_within_the_limit(senders: int) -> None:
    incast = Incast(senders, 64 * MIB)
    incast.run(20 * TRIP)
    incast.most = 0.0
    incast.run(200 * TRIP)
    # The last grant may go beyond by half a share, and each share may be a packet too large.
    assert incast.most <= 1.0 + 0.5 / senders + senders * PACKET / incast.pool.limit


def test_grants_in_turns_are_whole_packets() -> None:
    pool = CreditPool(CONFIG)
    peers = [Peer(pool, str(index)) for index in range(4)]
    large = [peer.accept(10 * MIB + 1) for peer in peers]
    for step in range(200):
        peers[step % 4].arrive(PACKET, step * 1e-6)
        assert all(each.granted % PACKET == 0 for each in large)
    assert max(each.granted for each in large) > 40 * PACKET


def ahead(pool: CreditPool) -> Peer:
    """A sender that was alone for long enough to be granted more than the limit."""
    hog = Peer(pool, "hog")
    hog.accept(64 * MIB)
    now = 1.0
    while hog.due < 4 * pool.limit:
        now += PACKET / RATE
        hog.arrive(PACKET, now)
    return hog


def test_a_hog_that_was_granted_ahead_counts_only_with_its_share() -> None:
    pool = CreditPool(CONFIG)
    hog, other = ahead(pool), Peer(pool, "other")
    had = hog.messages[0].granted
    late = other.accept(MIB)
    assert late.granted >= PACKET, "although more than the limit is under way"
    now = 2.0
    pool.stirred.clear()
    while hog.due > pool.limit:
        now += PACKET / RATE
        hog.arrive(PACKET, now)
        other.arrive(PACKET, now)
        assert hog.messages[0].granted == had, "what it has is above its share"
        assert other.due > 0 or not other.messages, "the other goes on meanwhile"
    assert late.granted > 10 * PACKET
    assert "hog" not in pool.stirred


def test_who_is_last_is_alone_again() -> None:
    pool = CreditPool(CONFIG)
    hog, other = ahead(pool), Peer(pool, "other")
    second = other.accept(20 * PACKET)
    now = 2.0
    while second in other.messages:
        now += PACKET / RATE
        other.arrive(PACKET, now)
        hog.arrive(PACKET, now)
    for _ in range(2000):
        now += PACKET / RATE
        hog.arrive(PACKET, now)
    assert hog.due > 4 * pool.limit


# --- senders that stand still ------------------------------------------------------------------


def test_stalled_senders_do_not_block_the_others() -> None:
    incast = Incast(6, 64 * MIB)
    incast.run(50 * TRIP)
    incast.silent = {0, 1, 2}
    incast.run(4 * STALLED * TRIP)
    came = incast.run(200 * TRIP)
    assert sum(came[3:]) == pytest.approx(RATE * 200 * TRIP, rel=0.02)
    assert came[:3] == [0, 0, 0]
    assert max(came[3:]) - min(came[3:]) <= 0.1 * max(came)


def test_a_look_finds_room_where_everybody_stands_still() -> None:
    pool = CreditPool(CONFIG)
    stalled = [Peer(pool, str(index)) for index in range(FIRST_PACKETS + 5)]
    for peer in stalled:
        peer.accept(MIB)
    late = Peer(pool, "late")
    waiting = late.accept(MIB)
    late.account.look(0.0)
    assert waiting.granted == 0
    pool.stirred.clear()
    looks = 0
    while not waiting.granted:
        looks += 1
        at = late.account.look_at
        assert at <= looks * 1.2 * STALLED * TRIP
        late.account.look(at)
    assert looks <= 8
    assert "late" in pool.stirred


def test_who_waits_for_nothing_need_not_be_looked_at() -> None:
    pool = CreditPool(CONFIG)
    one = Peer(pool, "one")
    assert one.account.look_at == float("inf")
    one.account.look(5.0)
    one.accept(MIB)
    assert one.account.look_at == float("inf"), "its own bytes will tell"
    one.account.close()
    assert one.account.look_at == float("inf")
    assert pool.outstanding == 0


def test_nothing_is_gathered_where_messages_come_and_go_and_no_byte_arrives() -> None:
    pool = CreditPool(CONFIG)
    one, other = Peer(pool, "one"), Peer(pool, "other")
    other.accept(MIB)

    def come_and_go(times: int) -> int:
        for _ in range(times):
            one.end(one.accept(MIB))
            one.told.clear()
        gc.collect()
        return sum(sys.getsizeof(each) for each in gc.get_referents(pool))

    before = come_and_go(100)
    assert come_and_go(5000) <= before


# --- ends --------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["close", "end"])
def test_whatever_ends_makes_room_for_the_others(how: str) -> None:
    pool = CreditPool(CONFIG)
    peers = [Peer(pool, str(index)) for index in range(FIRST_PACKETS + 10)]
    for peer in peers:
        peer.accept(MIB)
    starving = [peer for peer in peers if not peer.due]
    assert starving
    for peer in peers:
        if peer.due and peer not in starving:
            if how == "close":
                peer.account.close()
                peer.messages.clear()
            else:
                peer.end(peer.messages[0])
            assert peer.account.outstanding == 0
    assert sum(peer.due > 0 for peer in starving) >= FIRST_PACKETS / 2
    assert pool.outstanding == sum(peer.due for peer in peers) >= pool.limit
    for peer in starving:
        peer.account.close()
    assert pool.outstanding == 0


def test_a_message_that_waits_for_its_turn_can_end() -> None:
    one = Peer(CreditPool(CONFIG), "one")
    first, second, third = one.accept(MIB), one.accept(MIB), one.accept(100)
    one.end(second)
    while one.messages:
        assert one.arrive(PACKET, 1.0)
    assert second.granted == 0
    assert first.granted == MIB
    assert third.granted == 100
    assert one.account.outstanding == 0


# --- with the mailbox that asks for it ---------------------------------------------------------


def mailbox(pool: CreditPool) -> tuple[Mailbox, Outbox, deque[Event]]:
    sender = Sender(
        CONFIG,
        PathSet(CONFIG, initiator=True, random=bytes),
        FixedWindow(1 << 20, 100),
        Spray(PACKET),
    )
    sender.outbox = Outbox(eager_limit=1000, capacity=2000, credit=1 << 20)
    events: deque[Event] = deque()
    box = Mailbox(sender, Inbox(credit=1 << 20), events)
    box.account = pool.open("box", box.grant, lambda: TRIP)
    return box, sender.outbox, events


def spoken(outbox: Outbox) -> list[frames.Frame]:
    drafts = [bytes(outbox.drafts.popleft().frames) for _ in range(len(outbox.drafts))]
    return [frame for draft in drafts for frame in frames.decode(memoryview(draft))]


def test_an_empty_message_takes_no_credit_and_is_granted_at_once() -> None:
    pool = CreditPool(CONFIG)
    box, outbox, events = mailbox(pool)
    box.on_frame(Announce(0, 0, 0, b"", 0))
    arrived = events.pop()
    assert isinstance(arrived, MessageArrived)
    assert box.accept(arrived.message, memoryview(b"")), "there is nothing to wait for"
    assert not events
    assert spoken(outbox) == [frames.Grant(0, 0)]
    assert pool.outstanding == 0
    assert not pool.stirred


@pytest.mark.parametrize("end", ["withdraw", "decline", "close"])
def test_a_large_message_is_granted_piece_by_piece_until_it_ends(end: str) -> None:
    pool = CreditPool(CONFIG)
    box, outbox, events = mailbox(pool)
    other = Peer(pool, "other")
    other.accept(MIB)
    box.on_frame(Announce(0, 0, 0, b"", MIB))
    arrived = events.pop()
    assert isinstance(arrived, MessageArrived)
    incoming = arrived.message
    box.accept(incoming, memoryview(bytearray(MIB)))
    grants = spoken(outbox)
    for step in range(10):
        assert box.account is not None
        incoming.filled = incoming.filled or RangeSet()
        incoming.filled.add(step * PACKET, (step + 1) * PACKET)
        box.account.arrived(PACKET, step * TRIP)
        grants += spoken(outbox)
    limits = [frame.limit for frame in grants if isinstance(frame, frames.Grant)]
    assert len(limits) == len(grants) > 2
    assert limits == sorted(set(limits))
    assert limits[-1] == incoming.granted < MIB
    if end == "withdraw":
        box.on_frame(frames.Withdraw(0))
    elif end == "decline":
        box.decline(incoming)
        box.decline(incoming)
    else:
        box.close()
    assert pool.outstanding == other.due > 0
    while other.messages:
        assert other.arrive(PACKET, 1.0), "it is alone again, and never kept waiting"
    assert pool.outstanding == 0


def test_without_a_pool_everything_is_granted_whole_at_once() -> None:
    box, outbox, events = mailbox(CreditPool(CONFIG))
    box.account = None
    box.on_frame(Announce(0, 0, 0, b"", 1 << 40))
    arrived = events.pop()
    assert isinstance(arrived, MessageArrived)
    box.accept(arrived.message, memoryview(b""))
    assert spoken(outbox) == [frames.Grant(0, 1 << 40)]
    box.decline(arrived.message)
    box.look(1.0)
    box.close()


# --- anything in any order -----------------------------------------------------------------


@settings(max_examples=80)
@given(
    seed=st.integers(0, 1 << 32),
    senders=st.integers(1, 12),
    trip=st.sampled_from([None, 1e-6, 1e-3, 0.1]),
)
def test_outstanding_is_granted_minus_filled_whatever_happens(
    seed: int, senders: int, trip: float | None
) -> None:
    rng = random.Random(seed)
    pool = CreditPool(CONFIG)
    peers = [Peer(pool, str(index), trip) for index in range(senders)]
    closed: set[str] = set()
    now = 0.0
    for _ in range(200):
        peer = rng.choice(peers)
        if peer.name in closed:
            continue
        now += rng.choice((0.0, 1e-7, 1e-5, 1e-2))
        action = rng.randrange(12)
        if action <= 3:
            peer.accept(rng.choice((1, PACKET - 1, PACKET, 3 * PACKET + 7, 40 * PACKET, MIB)))
        elif action <= 8:
            peer.arrive(rng.randrange(1, PACKET + 1), now)
        elif action == 9 and peer.messages:
            peer.end(rng.choice(peer.messages))
        elif action == 10:
            peer.account.look(now)
        elif rng.random() < 0.2:
            peer.account.close()
            peer.messages.clear()
            closed.add(peer.name)
        for each in peers:
            assert each.account.outstanding == each.due >= 0, f"seed {seed}"
            assert all(one.granted <= one.size for one in each.messages)
            waiting = [one for one in each.messages if one.granted < one.size]
            assert list(each.account.waiting) == waiting, f"seed {seed}"
        assert pool.outstanding == sum(each.due for each in peers)
        assert pool.limit >= FIRST_PACKETS * PACKET
        # Somebody can always go on, so nothing that waits is forgotten.
        alive = [each for each in peers if each.messages]
        assert not alive or any(each.due for each in alive), f"seed {seed}"
    for _ in range(10_000):
        now += 1e-6
        if not sum(peer.arrive(PACKET, now) for peer in peers):
            break
    assert [peer.messages for peer in peers] == [[] for _ in peers], f"all came (seed {seed})"
    assert pool.outstanding == 0
