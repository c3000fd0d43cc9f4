"""What waits for what, derived from the regions that steps use."""

from __future__ import annotations

import pytest

from transport.collectives.steps import (
    After,
    Buffer,
    Region,
    block,
    combine,
    copy,
    place,
    schedule,
    send,
)

WORK, INPUT, TEMP = Buffer.WORK, Buffer.INPUT, Buffer.TEMP


@pytest.mark.parametrize(
    ("one", "other", "overlap"),
    [
        (Region(WORK, 0, 2), Region(WORK, 1, 3), True),
        (Region(WORK, 0, 2), Region(WORK, 2, 3), False),
        (Region(WORK, 0, 2), Region(INPUT, 0, 2), False),
        (Region(WORK, 0, 0), Region(WORK, 0, 1), True),
        (Region(WORK, 1, 1), Region(WORK, 0, 1), False),
    ],
)
def test_regions_overlap(one, other, overlap):
    assert one.overlaps(other) is overlap
    assert other.overlaps(one) is overlap


def after(*steps):
    return schedule(list(steps), blocks=4).after


def test_what_was_received_is_sent_on_piece_by_piece():
    assert after(place(1, block(WORK, 0)), send(2, block(WORK, 0))) == ((), (After(0, True),))


def test_what_is_being_sent_is_not_overwritten():
    steps = send(1, block(WORK, 0)), place(1, block(WORK, 0)), place(1, block(WORK, 1))
    assert after(*steps) == ((), (After(0, True),), ())


def test_sends_of_the_same_block_do_not_wait_for_each_other():
    assert after(send(1, block(WORK, 0)), send(2, block(WORK, 0))) == ((), ())


def test_regions_that_begin_elsewhere_wait_for_each_other_as_a_whole():
    steps = place(1, Region(WORK, 1, 2)), send(1, Region(WORK, 0, 4))
    assert after(*steps)[1] == (After(0, False),)


def test_a_reduction_waits_for_its_operand_and_its_place():
    steps = (
        copy(block(INPUT, 0), block(WORK, 0)),
        send(1, block(TEMP, 0), block(WORK, 0)),
        combine(1, block(TEMP, 0), block(WORK, 0), received_first=True),
    )
    assert after(*steps)[2] == (After(0, True), After(1, True))


def test_a_schedule_knows_its_peers_and_slots():
    made = schedule(
        [send(3, block(TEMP, 1)), place(1, block(WORK, 0)), send(3, block(WORK, 0))], blocks=1
    )
    assert (made.peers, made.only_from) == ((3, 1), {1})
    assert made.slots == 2
    assert schedule([], blocks=1).slots == 0
