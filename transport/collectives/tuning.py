"""Which algorithm, and in what pieces: every threshold of the collectives in one place.

All ranks must come to the same choice, so it rests on what they agree on anyway:
operation, dtype, size of the tensor and number of ranks. All were measured on one machine,
`inline` and those of pairs with two ranks (docs/adr/0028-sizes-of-two-ranks.md,
docs/adr/0031-larger-pieces-of-two.md), the others with four and eight
(docs/adr/0034-limits-of-four-and-eight-ranks.md); `sealfabric bench tuning` measures another.
"""

from __future__ import annotations

import zlib
from dataclasses import astuple, dataclass, replace

from ..errors import UsageError
from . import moving, reducing
from .reduction import Op, Reduction
from .steps import Buffer, Schedule

KIB = 1024
MIB = 1024 * KIB


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuning:
    """Sizes are bytes of the whole tensor unless said otherwise. The same on every rank.

    Raises:
        UsageError: a value is out of its range.
    """

    piece: int = 2 * MIB  # large messages are cut into these, to reduce while others travel
    inline: int = 64 * KIB  # a first piece up to this travels behind its header
    ahead: int = 4  # pieces to or from one peer that are under way at once
    pair_piece: int = 8 * MIB  # `piece` of two ranks, who never pass on what they receive
    pair_ahead: int = 2  # `ahead` of two ranks
    pair_limit: int = 2 * MIB  # all_reduce of two ranks: exchange it whole up to this
    doubling_limit: int = 256 * KIB  # the same for more ranks, who exchange it several times
    halving_limit: int = 1 * MIB  # all_reduce: halve and double up to this, then ring
    direct_limit: int = 1 * MIB  # reduce_scatter: bytes of a block sent to each rank directly
    spread_limit: int = 64 * KIB  # all_gather: bytes of a block gathered in doubling steps
    tree_limit: int = 256 * KIB  # broadcast, reduce: along a tree up to this, then a chain

    def __post_init__(self) -> None:
        for piece, ahead in (self.piece, self.ahead), (self.pair_piece, self.pair_ahead):
            if not 1 <= piece <= 64 * MIB or not 1 <= ahead <= 64:
                raise UsageError("pieces of a Tuning must be 1 byte to 64 MiB, 1 to 64 ahead")
        if not 0 <= self.inline <= 64 * KIB:
            raise UsageError("Tuning.inline must be 0 to 64 KiB")

    @property
    def fingerprint(self) -> int:
        """32 bits that differ where two ranks are tuned differently."""
        return zlib.crc32(repr(astuple(self)).encode())

    def among(self, size: int) -> Tuning:
        """With the `piece` and `ahead` that a group of this size has."""
        if size != 2:
            return self
        return replace(self, piece=self.pair_piece, ahead=self.pair_ahead)

    def all_reduce(
        self, nbytes: int, rank: int, size: int, source: Buffer, reduction: Reduction, dtype: str
    ) -> Schedule:
        """Small tensors are exchanged whole, larger ones in blocks."""
        limit = self.pair_limit if size == 2 else self.doubling_limit
        if nbytes <= limit and reduced_alike(reduction, dtype):
            return reducing.doubling_all_reduce(rank, size, source)
        if nbytes <= self.halving_limit:
            return reducing.halving_all_reduce(rank, size, source)
        return reducing.ring_all_reduce(rank, size, source)

    def reduce_scatter(self, block_bytes: int, rank: int, size: int) -> Schedule:
        """Directly while blocks are small."""
        if block_bytes <= self.direct_limit:
            return reducing.direct_reduce_scatter(rank, size)
        return reducing.ring_reduce_scatter(rank, size)

    def reduce(self, nbytes: int, rank: int, size: int, root: int, source: Buffer) -> Schedule:
        """A tree for small tensors, a chain for large ones."""
        if nbytes <= self.tree_limit:
            return reducing.tree_reduce(rank, size, root, source)
        return reducing.chain_reduce(rank, size, root, source)

    def all_gather(self, block_bytes: int, rank: int, size: int) -> Schedule:
        """Doubling steps for small blocks, a ring for large ones."""
        if block_bytes <= self.spread_limit:
            return moving.spreading_all_gather(rank, size)
        return moving.ring_all_gather(rank, size)

    def broadcast(self, nbytes: int, rank: int, size: int, root: int) -> Schedule:
        """A tree for small tensors, a chain for large ones."""
        if nbytes <= self.tree_limit:
            return moving.tree_broadcast(rank, size, root)
        return moving.chain_broadcast(rank, size, root)


def reduced_alike(reduction: Reduction, dtype: str) -> bool:
    """Whether two processors always reduce the same operands to the same bits.

    IEEE 754 says so for every operation here but the product of complex numbers, which
    is several operations that a processor may fuse. Where it does not hold, each
    element is reduced on one rank only.
    """
    return not (
        reduction.op is Op.PRODUCT and (dtype.startswith("complex") or dtype == "clongdouble")
    )
