"""The memory of sealed packets: reused, and no more kept than asked."""

from __future__ import annotations

from transport.link.pool import SlotPool


def test_a_slot_given_back_is_used_again() -> None:
    pool = SlotPool(100, 2)
    first = pool.take()
    assert len(first) == 100
    first[:5] = b"hello"
    second = pool.take()
    assert second is not first
    pool.give_back(first)
    assert pool.take() is first


def test_no_more_slots_are_kept_than_the_spare_ones() -> None:
    pool = SlotPool(10, 2)
    slots = [pool.take() for _ in range(5)]
    for slot in slots:
        pool.give_back(slot)
    again = [pool.take() for _ in range(5)]
    assert sum(any(slot is other for other in slots) for slot in again) == 2
    assert len({id(slot) for slot in again}) == 5
