"""Schedules that reduce: all_reduce, reduce_scatter and reduce, by ring, cube and tree.

Ring and halving after Thakur, Rabenseifner and Gropp, "Optimization of Collective
Communication Operations in MPICH" (2005). `source` is where a rank's own contribution
lies: WORK for a reduction in place, else INPUT, which is then never written.
"""

from __future__ import annotations

from functools import lru_cache

from .steps import Buffer, Region, Schedule, Step, block, combine, copy, place, schedule, send

INPUT, WORK, TEMP = Buffer.INPUT, Buffer.WORK, Buffer.TEMP
_CACHED = 256


@lru_cache(maxsize=_CACHED)
def ring_all_reduce(rank: int, size: int, source: Buffer) -> Schedule:
    """Every block travels round once to be reduced and once more to be known.

    Each rank sends 2 (size - 1) / size of the tensor, the least that is possible, in
    2 (size - 1) steps; every element is reduced on one rank only.
    """
    right, left = (rank + 1) % size, (rank - 1) % size
    steps = []
    for turn in range(size - 1):
        leaving, coming = (rank - turn) % size, (rank - turn - 1) % size
        steps.append(send(right, block(WORK if turn else source, leaving)))
        steps.append(
            combine(
                left,
                block(WORK, coming),
                block(source, coming),
                received_first=True,
                final=turn == size - 2,
            )
        )
    for turn in range(size - 1):
        steps.append(send(right, block(WORK, (rank + 1 - turn) % size)))
        steps.append(place(left, block(WORK, (rank - turn) % size)))
    if size == 1:
        steps += _keep(source, 1)
    return schedule(steps, blocks=size)


@lru_cache(maxsize=_CACHED)
def doubling_all_reduce(rank: int, size: int, source: Buffer) -> Schedule:
    """The whole tensor is exchanged along each dimension of a hypercube.

    log2(size) steps. Both ends of an exchange reduce, with the operands in the same
    order. Ranks beyond the largest power of two hand theirs in and wait.
    """
    cube = _Cube(rank, size)
    whole = Region(WORK, 0, 1)
    if cube.outside:
        mine = block(source, 0)
        steps = [send(cube.helper, mine), place(cube.helper, whole)]
        return schedule(steps, blocks=1)
    steps = []
    mine = block(source, 0)
    if cube.helps:
        steps.append(combine(cube.helped, whole, mine, received_first=False))
        mine = whole
    mask = 1
    while mask < cube.corners:
        partner = cube.rank_of(cube.corner ^ mask)
        steps.append(send(partner, mine))
        steps.append(
            combine(
                partner,
                whole,
                mine,
                received_first=bool(cube.corner & mask),
                final=2 * mask == cube.corners,
            )
        )
        mine = whole
        mask *= 2
    if cube.helps:
        steps.append(send(cube.helped, whole))
    if size == 1:
        steps += _keep(source, 1)
    return schedule(steps, blocks=1)


@lru_cache(maxsize=_CACHED)
def halving_all_reduce(rank: int, size: int, source: Buffer) -> Schedule:
    """Halves are exchanged and reduced down to one block, then doubled up again.

    As little traffic as the ring, in 2 log2(size) steps, where size is a power of two;
    ranks beyond the largest one hand theirs in and wait.
    """
    cube = _Cube(rank, size)
    blocks = cube.corners
    everything = Region(WORK, 0, blocks)
    if cube.outside:
        steps = [
            send(cube.helper, Region(source, 0, blocks)),
            place(cube.helper, everything),
        ]
        return schedule(steps, blocks=blocks)
    steps = []
    own = source
    if cube.helps:
        steps.append(combine(cube.helped, everything, Region(own, 0, blocks), received_first=False))
        own = WORK
    spans: list[tuple[int, int]] = []  # what was kept before each exchange
    first, last = 0, blocks
    mask = blocks // 2
    while mask:
        spans.append((first, last))
        middle = (first + last) // 2
        upper = bool(cube.corner & mask)
        kept, given = ((middle, last), (first, middle))[:: 1 if upper else -1]
        partner = cube.rank_of(cube.corner ^ mask)
        steps.append(send(partner, Region(own, *given)))
        steps.append(
            combine(
                partner,
                Region(WORK, *kept),
                Region(own, *kept),
                received_first=upper,
                final=mask == 1,
            )
        )
        first, last = kept
        own = WORK
        mask //= 2
    mask = 1
    while spans:
        before = spans.pop()
        partner = cube.rank_of(cube.corner ^ mask)
        steps.append(send(partner, Region(WORK, first, last)))
        missing = (last, before[1]) if first == before[0] else (before[0], first)
        steps.append(place(partner, Region(WORK, *missing)))
        first, last = before
        mask *= 2
    if cube.helps:
        steps.append(send(cube.helped, everything))
    if size == 1:
        steps += _keep(source, 1)
    return schedule(steps, blocks=blocks)


@lru_cache(maxsize=_CACHED)
def ring_reduce_scatter(rank: int, size: int) -> Schedule:
    """Each block travels round once and ends, reduced, at the rank of its number.

    INPUT has a block for each rank, WORK the one of this rank. Partial results pass
    through two slots of TEMP in turn.
    """
    if size == 1:
        return schedule([copy(block(INPUT, 0), block(WORK, 0))], blocks=1)
    right, left = (rank + 1) % size, (rank - 1) % size
    steps = []
    for turn in range(size - 1):
        leaving, coming = (rank - turn - 1) % size, (rank - turn - 2) % size
        held = block(TEMP, (turn - 1) % 2) if turn else block(INPUT, leaving)
        steps.append(send(right, held, block(INPUT, leaving)))
        final = turn == size - 2
        at = block(WORK, 0) if final else block(TEMP, turn % 2)
        steps.append(combine(left, at, block(INPUT, coming), received_first=True, final=final))
    return schedule(steps, blocks=size)


@lru_cache(maxsize=_CACHED)
def direct_reduce_scatter(rank: int, size: int) -> Schedule:
    """Every rank sends each other one its block; whoever it is for reduces them.

    The operands are this rank's own block and those of the ranks after it, in turn.
    One step of latency, but size - 1 links and messages a rank: for small blocks.
    """
    if size == 1:
        return ring_reduce_scatter(rank, size)
    others = [(rank + distance) % size for distance in range(1, size)]
    steps = [send(peer, block(INPUT, peer)) for peer in others]
    result, operand = block(WORK, 0), block(INPUT, rank)
    for peer in others:
        final = peer == others[-1]
        steps.append(combine(peer, result, operand, received_first=False, final=final))
        operand = result
    return schedule(steps, blocks=size)


@lru_cache(maxsize=_CACHED)
def tree_reduce(rank: int, size: int, root: int, source: Buffer) -> Schedule:
    """Partial results climb a binomial tree: log2(size) steps, for small tensors.

    A rank that is not the root keeps its partial result in TEMP.
    """
    place_in_tree = (rank - root) % size
    result = block(TEMP if place_in_tree else WORK, 0)
    held = block(source, 0)
    steps = []
    mask = 1
    while mask < size and not place_in_tree & mask:
        child = place_in_tree + mask
        if child < size:
            final = place_in_tree == 0 and 2 * mask >= size
            peer = (child + root) % size
            steps.append(combine(peer, result, held, received_first=False, final=final))
            held = result
        mask *= 2
    if place_in_tree:
        steps.append(send((place_in_tree - mask + root) % size, held, block(source, 0)))
    elif size == 1:
        steps += _keep(source, 1)
    return schedule(steps, blocks=1)


@lru_cache(maxsize=_CACHED)
def chain_reduce(rank: int, size: int, root: int, source: Buffer) -> Schedule:
    """Partial results pass from rank to rank towards the root, piece by piece.

    Each rank sends and receives the tensor once: for large tensors, where the pieces
    keep every link of the chain busy.
    """
    if size == 1:
        return tree_reduce(rank, size, root, source)
    distance = (rank - root) % size
    towards, behind = (rank - 1) % size, (rank + 1) % size
    mine = block(source, 0)
    steps = []
    held = mine
    if distance < size - 1:
        held = block(TEMP if distance else WORK, 0)
        steps.append(combine(behind, held, mine, received_first=False, final=not distance))
    if distance:
        steps.append(send(towards, held, mine))
    return schedule(steps, blocks=1)


def _keep(source: Buffer, blocks: int) -> list[Step]:
    """What a rank on its own does: nothing, or take its input over."""
    if source is WORK:
        return []
    return [copy(Region(source, 0, blocks), Region(WORK, 0, blocks))]


class _Cube:
    """A rank's place in the largest hypercube that the group fills.

    Of the first 2 * `spare` ranks the even ones help their odd neighbours, which are
    `outside`; the corners of the cube are the helpers and then everyone else.
    """

    def __init__(self, rank: int, size: int) -> None:
        self.corners = 1 << (size.bit_length() - 1)
        self._spare = size - self.corners
        paired = rank < 2 * self._spare
        self.outside = paired and rank % 2 == 1
        self.helps = paired and not self.outside
        self.helper, self.helped = rank - 1, rank + 1
        self.corner = rank // 2 if paired else rank - self._spare

    def rank_of(self, corner: int) -> int:
        """The rank at a corner."""
        return 2 * corner if corner < self._spare else corner + self._spare
