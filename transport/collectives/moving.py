"""Schedules that move data: all_gather, broadcast, gather, scatter, all_to_all, barrier.

The dissemination patterns follow Bruck et al., "Efficient Algorithms for All-to-All
Communications in Multiport Message-Passing Systems" (1997), and Hensgen, Finkel and
Manber, "Two Algorithms for Barrier Synchronization" (1988).
"""

from __future__ import annotations

from functools import lru_cache

from .steps import Buffer, Region, Schedule, Step, block, copy, place, schedule, send

INPUT, WORK, TEMP = Buffer.INPUT, Buffer.WORK, Buffer.TEMP
_CACHED = 256


@lru_cache(maxsize=_CACHED)
def ring_all_gather(rank: int, size: int) -> Schedule:
    """Blocks travel round: size - 1 steps between neighbours, for large blocks."""
    right, left = (rank + 1) % size, (rank - 1) % size
    mine = block(INPUT, 0)
    steps = []
    for turn in range(size - 1):
        leaving = (rank - turn) % size
        steps.append(send(right, block(WORK, leaving) if turn else mine))
        steps.append(place(left, block(WORK, (rank - turn - 1) % size)))
    steps.append(copy(mine, block(WORK, rank)))
    return schedule(steps, blocks=size)


@lru_cache(maxsize=_CACHED)
def spreading_all_gather(rank: int, size: int) -> Schedule:
    """What a rank holds doubles with each step: log2(size) steps, for small blocks.

    In step k a rank holds the blocks of itself and the 2^k - 1 ranks after it.
    """
    steps = [copy(block(INPUT, 0), block(WORK, rank))]
    held = 1
    while held < size:
        count = min(held, size - held)
        below, above = (rank - held) % size, (rank + held) % size
        steps += [send(below, region) for region in _round(rank, count, size)]
        steps += [place(above, region) for region in _round(above, count, size)]
        held += count
    return schedule(steps, blocks=size)


def _round(first: int, count: int, size: int) -> list[Region]:
    """`count` blocks of WORK from `first`, beginning again at 0 behind the last one."""
    end = first + count
    regions = [Region(WORK, first, min(end, size))]
    if end > size:
        regions.append(Region(WORK, 0, end - size))
    return regions


@lru_cache(maxsize=_CACHED)
def tree_broadcast(rank: int, size: int, root: int) -> Schedule:
    """The tensor descends a binomial tree: log2(size) steps, for small tensors."""
    place_in_tree = (rank - root) % size
    whole = block(WORK, 0)
    steps: list[Step] = []
    mask = 1
    while mask < size:
        if place_in_tree & mask:
            steps.append(place((place_in_tree - mask + root) % size, whole))
            break
        mask *= 2
    mask //= 2
    while mask:
        child = place_in_tree + mask
        if child < size:
            steps.append(send((child + root) % size, whole))
        mask //= 2
    return schedule(steps, blocks=1)


@lru_cache(maxsize=_CACHED)
def chain_broadcast(rank: int, size: int, root: int) -> Schedule:
    """Pieces pass from rank to rank; each link carries the tensor once, for large tensors."""
    distance = (rank - root) % size
    whole = block(WORK, 0)
    steps = []
    if distance:
        steps.append(place((rank - 1) % size, whole))
    if distance < size - 1:
        steps.append(send((rank + 1) % size, whole))
    return schedule(steps, blocks=1)


@lru_cache(maxsize=_CACHED)
def direct_gather(rank: int, size: int, root: int) -> Schedule:
    """Every rank sends its block to the root, whose link is the limit whatever one does."""
    mine = block(INPUT, 0)
    if rank != root:
        return schedule([send(root, mine)], blocks=1)
    steps = [place(peer, block(WORK, peer)) for peer in _others(rank, size)]
    steps.append(copy(mine, block(WORK, rank)))
    return schedule(steps, blocks=size)


@lru_cache(maxsize=_CACHED)
def direct_scatter(rank: int, size: int, root: int) -> Schedule:
    """The root sends every rank its block."""
    mine = block(WORK, 0)
    if rank != root:
        return schedule([place(root, mine)], blocks=1)
    steps = [send(peer, block(INPUT, peer)) for peer in _others(rank, size)]
    steps.append(copy(block(INPUT, rank), mine))
    return schedule(steps, blocks=size)


@lru_cache(maxsize=_CACHED)
def pairwise_all_to_all(rank: int, size: int) -> Schedule:
    """In turn k every rank sends to the k-th after it and hears from the k-th before it.

    So no rank is everybody's target at once. Blocks may have any sizes.
    """
    steps = []
    for distance in range(1, size):
        after, before = (rank + distance) % size, (rank - distance) % size
        steps.append(send(after, block(INPUT, after)))
        steps.append(place(before, block(WORK, before)))
    steps.append(copy(block(INPUT, rank), block(WORK, rank)))
    return schedule(steps, blocks=size)


@lru_cache(maxsize=_CACHED)
def dissemination_barrier(rank: int, size: int) -> Schedule:
    """Empty messages over doubling distances: whoever leaves has heard of everyone's arrival."""
    token = block(TEMP, 0)
    steps = []
    distance = 1
    while distance < size:
        steps.append(send((rank + distance) % size, token))
        steps.append(place((rank - distance) % size, token))
        distance *= 2
    return schedule(steps, blocks=0)


def _others(rank: int, size: int) -> list[int]:
    return [(rank + distance) % size for distance in range(1, size)]
