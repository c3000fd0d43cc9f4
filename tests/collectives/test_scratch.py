"""Spare memory is used again, and not hoarded."""

from __future__ import annotations

from transport.collectives.scratch import KEPT_AREA, KEPT_PIECES, KEPT_SIZES, Scratch


def test_a_piece_comes_back_by_its_size():
    scratch = Scratch()
    piece = scratch.take(100)
    assert len(piece) == 100
    scratch.give_back(piece)
    assert scratch.take(99) is not piece
    assert scratch.take(100) is piece
    assert scratch.take(100) is not piece


def test_only_so_many_pieces_and_sizes_are_kept():
    scratch = Scratch()
    pieces = [scratch.take(10) for _ in range(KEPT_PIECES + 5)]
    for piece in pieces:
        scratch.give_back(piece)
    again = [scratch.take(10) for _ in pieces]
    assert sum(any(new is old for old in pieces) for new in again) == KEPT_PIECES
    first = scratch.take(1)
    scratch.give_back(first)
    for size in range(2, 2 + KEPT_SIZES):
        scratch.give_back(scratch.take(size))
    assert scratch.take(1) is not first


def test_an_area_is_used_again_where_it_is_large_enough():
    scratch = Scratch()
    area, give_back = scratch.area(1000)
    give_back()
    smaller, give_back_smaller = scratch.area(500)
    assert smaller.obj is area.obj
    other, give_back_other = scratch.area(500)
    assert other.obj is not area.obj
    give_back_smaller()
    give_back_other()
    largest, _ = scratch.area(1000)
    assert largest.obj is area.obj


def test_a_very_large_area_is_not_kept():
    scratch = Scratch()
    area, give_back = scratch.area(KEPT_AREA + 1)
    give_back()
    again, _ = scratch.area(KEPT_AREA + 1)
    assert again.obj is not area.obj
