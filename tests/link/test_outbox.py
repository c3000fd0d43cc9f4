"""Messages on their way out: ids without gaps, credit, eager and rendezvous, packets."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transport.errors import UsageError
from transport.link.outbox import MESSAGE_COST, TURN, Outbox, OutgoingMessage, Stage
from transport.wire import frames

CREDIT = 32 * MESSAGE_COST
EAGER_LIMIT = 1000


def outbox(credit: int = CREDIT, capacity: int = 2000) -> Outbox:
    return Outbox(eager_limit=EAGER_LIMIT, capacity=capacity, credit=credit)


def post(box: Outbox, payload: bytes, tag: int = 0) -> OutgoingMessage | None:
    return box.post(memoryview(payload), b"what", 7, tag)


def large(box: Outbox, size: int = 5000) -> OutgoingMessage:
    message = post(box, bytes(index % 251 for index in range(size)))
    assert message is not None
    return message


def spoken(box: Outbox) -> list[frames.Frame]:
    """Take all drafts, as a sender would seal them."""
    said = []
    while box.drafts:
        draft = box.drafts.popleft()
        said += list(frames.decode(memoryview(bytes(draft.frames))))
    return said


def seal_all(box: Outbox, limit: int) -> list[tuple[int, int, bytes]]:
    pieces = []
    while (piece := box.next_piece(limit)) is not None:
        message, offset, data = piece
        pieces.append((message.id, offset, bytes(data)))
        box.piece_sealed(message, len(data))
    return pieces


def test_a_small_message_is_copied_at_once() -> None:
    box = outbox()
    payload = bytearray(b"small")
    assert box.post(memoryview(payload), b"what", 7, 9) is None
    payload[:] = bytes(5)
    assert spoken(box) == [frames.Eager(0, 7, 9, b"what", memoryview(b"small"))]
    assert (box.last_id, box.settled_through) == (0, -1)
    box.settle([0])
    assert box.settled_through == 0


def test_a_large_message_is_announced_and_sealed_once_granted() -> None:
    box = outbox()
    message = large(box)
    assert message.stage is Stage.ANNOUNCED
    assert spoken(box) == [frames.Announce(0, 7, 0, b"what", 5000)]
    assert box.next_piece(1024) is None
    assert box.on_grant(0, 5000) is None
    pieces = seal_all(box, 1024)
    assert [(offset, len(data)) for _, offset, data in pieces] == [
        (0, 1024),
        (1024, 1024),
        (2048, 1024),
        (3072, 1024),
        (4096, 904),
    ]
    assert b"".join(data for *_, data in pieces) == bytes(index % 251 for index in range(5000))
    assert message.stage.name == "SEALED"
    assert message.data is None
    assert box.idle
    for _ in range(5):
        assert box.settled_through == -1
        box.settle([0])
    assert box.settled_through == 0


def test_grants_in_steps_and_backwards_and_beyond_the_end() -> None:
    box = outbox()
    message = large(box)
    assert box.on_grant(0, 1500) is None
    assert [len(data) for *_, data in seal_all(box, 1024)] == [1024, 476]
    assert box.on_grant(0, 1500) is box.on_grant(0, 3) is None
    assert box.next_piece(1024) is None
    box.on_grant(0, 1 << 63)
    assert message.granted == 5000
    assert sum(len(data) for *_, data in seal_all(box, 1024)) == 3500
    assert box.on_grant(0, 1 << 63) is None


def test_pieces_are_larger_midway_and_small_at_both_ends() -> None:
    def cut(size: int) -> list[int]:
        box, sizes = outbox(), list[int]()
        message = large(box, size)
        box.on_grant(message.id, size)
        while (piece := box.next_piece(1000, 2500)) is not None:
            _, offset, data = piece
            assert offset == sum(sizes)
            sizes.append(len(data))
            box.piece_sealed(message, len(data))
        assert sum(sizes) == size
        return sizes

    assert cut(12_000) == [1000, 2500, 2500, 2500, 2500, 1000]
    assert cut(12_300) == [1000, 2500, 2500, 2500, 2500, 1000, 300]
    assert cut(9_000) == [1000] * 9, "too short to gain from it"


def test_large_messages_take_turns() -> None:
    box = outbox()
    half = TURN // 2
    messages = [box.post(memoryview(bytes(2 * TURN)), b"", 0, 0) for _ in range(2)]
    for message in messages:
        assert message is not None
        box.on_grant(message.id, message.size)
    assert [number for number, _, _ in seal_all(box, half)] == [0, 0, 1, 1, 0, 0, 1, 1]


def test_ids_rise_in_the_order_of_posting_and_nothing_overtakes_what_waits() -> None:
    box = outbox()
    kinds = []
    for index in range(80):
        payload = bytes(2000 if index % 5 == 0 else 10)
        message = post(box, payload)
        kinds.append(None if message is None else message.stage)
    first_waiting = kinds.index(Stage.WAITING)
    assert set(kinds[first_waiting:]) == {Stage.WAITING}
    said = [
        frame.message for frame in spoken(box) if isinstance(frame, (frames.Eager, frames.Announce))
    ]
    assert said == list(range(first_waiting))
    box.on_credit(10 * CREDIT)
    said = [
        frame.message for frame in spoken(box) if isinstance(frame, (frames.Eager, frames.Announce))
    ]
    assert said == list(range(first_waiting, 80))


def test_credit_is_never_overspent_and_never_shrinks() -> None:
    box = outbox()
    spent = 0
    for _ in range(100):
        post(box, bytes(500))
    for frame in spoken(box):
        spent += MESSAGE_COST
        spent += len(frame.payload) if isinstance(frame, frames.Eager) else 0
    assert CREDIT - MESSAGE_COST < spent <= CREDIT
    assert box.on_credit(10) == []
    assert spoken(box) == []
    freed = box.on_credit(CREDIT + 100 * (500 + MESSAGE_COST) * 2)
    assert {message.stage for message in freed} == {Stage.SEALED}
    assert box.on_credit(CREDIT * 1000) == []


def test_half_of_the_credit_is_kept_for_announcements() -> None:
    box = outbox()
    stages = [message and message.stage for message in (post(box, b"x") for _ in range(40))]
    eager = stages.count(None)
    assert eager == CREDIT // 2 // (MESSAGE_COST + 1)
    assert stages.count(Stage.ANNOUNCED) >= CREDIT // 2 // MESSAGE_COST


def test_a_small_message_that_waited_for_credit_is_copied_then() -> None:
    box = outbox(credit=0)
    message = post(box, b"waits")
    assert message is not None
    assert message.stage is Stage.WAITING
    assert not box.idle
    assert box.on_credit(MESSAGE_COST - 1) == []
    assert box.on_credit(2 * MESSAGE_COST) == [message]
    assert message.stage.name == "SEALED"
    assert message.data is None
    assert [type(frame) for frame in spoken(box)] == [frames.Eager]


def test_an_empty_message_announced_for_want_of_credit_is_finished_by_its_grant() -> None:
    box = outbox(credit=2 * MESSAGE_COST - 2)
    message = post(box, b"")
    assert message is not None
    assert message.stage is Stage.ANNOUNCED
    assert box.on_grant(0, 0) is message
    assert message.stage.name == "SEALED"
    assert box.on_grant(0, 0) is None
    assert box.settled_through == 0


def test_withdrawing_an_announced_message_tells_the_peer_and_seals_no_more() -> None:
    box = outbox()
    message = large(box)
    box.on_grant(0, 5000)
    piece = box.next_piece(1024)
    assert piece is not None
    box.piece_sealed(message, 1024)
    assert box.withdraw(message)
    assert not box.withdraw(message)
    assert box.next_piece(1024) is None
    assert spoken(box)[-1] == frames.Withdraw(0)
    assert box.on_grant(0, 5000) is None
    assert box.on_decline(0) is None
    box.settle([0])
    assert box.settled_through == 0
    assert box.idle


def test_a_message_withdrawn_while_it_waits_keeps_its_id() -> None:
    box = outbox(credit=0)
    waiting = [post(box, b"x") for _ in range(3)]
    assert waiting[1] is not None
    assert box.withdraw(waiting[1])
    box.on_credit(4 * MESSAGE_COST)
    assert [type(frame) for frame in spoken(box)] == [frames.Eager, frames.Withdraw, frames.Eager]


def test_a_sealed_message_cannot_be_withdrawn_or_declined() -> None:
    box = outbox()
    message = large(box)
    box.on_grant(0, 5000)
    seal_all(box, 5000)
    assert not box.withdraw(message)
    assert box.on_decline(0) is None


def test_a_declined_message_ends() -> None:
    box = outbox()
    message = large(box)
    assert box.on_decline(0) is message
    assert message.stage.name == "ENDED"
    assert box.settled_through == 0
    assert box.on_decline(0) is None
    assert box.on_decline(99) is None


@pytest.mark.parametrize(
    ("description", "context", "tag"),
    [(bytes(513), 0, 0), (b"", 1 << 32, 0), (b"", -1, 0), (b"", 0, 1 << 64), (b"", 0, -1)],
)
def test_what_the_wire_has_no_room_for_is_refused_without_spending_an_id(
    description: bytes, context: int, tag: int
) -> None:
    box = outbox()
    with pytest.raises(UsageError):
        box.post(memoryview(b"x"), description, context, tag)
    assert box.last_id == -1
    assert box.idle
    assert box.post(memoryview(b"x"), bytes(512), (1 << 32) - 1, (1 << 64) - 1) is None
    assert box.last_id == 0


@settings(max_examples=50)
@given(st.lists(st.integers(0, 1900), max_size=40))
def test_no_draft_is_larger_than_a_packet_and_each_is_well_formed(sizes: list[int]) -> None:
    box = outbox(credit=1 << 30)
    for size in sizes:
        post(box, bytes(size))
        box.control(frames.encode_ping())
    assert all(len(draft.frames) <= 2000 for draft in box.drafts)
    messages = [id for draft in box.drafts for id in draft.messages]
    eager = [frame.message for frame in spoken(box) if isinstance(frame, frames.Eager)]
    assert messages == eager == [at for at, size in enumerate(sizes) if size <= EAGER_LIMIT]


def test_only_control_frames_make_a_draft_urgent() -> None:
    box = outbox()
    post(box, b"x")
    assert not box.drafts[0].urgent
    box.control(b"")
    assert not box.drafts[0].urgent
    box.control(frames.encode_ping())
    assert box.drafts[0].urgent


def test_the_end_returns_the_messages_whose_buffers_were_held() -> None:
    box = outbox(credit=CREDIT)
    announced = large(box)
    sealed = large(box)
    box.on_grant(1, 5000)
    seal_all(box, 5000)
    small = [post(box, b"x") for _ in range(60)]
    held = [message for message in small if message is not None]
    ended = box.fail()
    assert sealed not in ended
    assert set(ended) == {announced, *held}
    assert {message.stage for message in ended} == {Stage.ENDED}
    assert all(message.data is None for message in ended)
    assert box.fail() == []
    assert box.idle


@settings(max_examples=40)
@given(seed=st.integers(0, 1 << 32))
def test_every_message_ends_once_and_settles(seed: int) -> None:
    """A peer that grants, declines and gives credit at random; a caller who withdraws."""
    rng = random.Random(seed)
    box = outbox(credit=4 * MESSAGE_COST)
    posted: list[OutgoingMessage] = []
    credit = 4 * MESSAGE_COST
    parts: list[int] = []
    for _ in range(120):
        action = rng.randrange(5)
        if action == 0:
            message = post(box, bytes(rng.choice((0, 10, 2000))))
            if message is not None:
                posted.append(message)
        elif action == 1 and posted:
            box.withdraw(rng.choice(posted))
        elif action == 2:
            credit += rng.randrange(1000)
            box.on_credit(credit)
        elif action == 3:
            box.on_grant(rng.randrange(box.last_id + 2), rng.randrange(3000))
        else:
            box.on_decline(rng.randrange(box.last_id + 5))
        while box.drafts:
            parts += box.drafts.popleft().messages
        parts += [number for number, _, _ in seal_all(box, 700)]
    box.on_credit(1 << 40)
    for message in posted:
        box.on_grant(message.id, 1 << 40)
    while box.drafts:
        parts += box.drafts.popleft().messages
    parts += [number for number, _, _ in seal_all(box, 700)]
    assert box.idle, f"seed {seed}"
    rng.shuffle(parts)
    for number in parts:
        box.settle([number])
    assert box.settled_through == box.last_id, f"seed {seed}"
    assert all(message.stage in (Stage.SEALED, Stage.ENDED) for message in posted)
