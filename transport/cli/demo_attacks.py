"""What the operator of the demonstration does to a transfer, as a list of attacks."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Final

from .wiretap import Attack, AttackKind

REPLAYED: Final = 12  # packets sent again, from the first of the link to the latest
OLDEST: Final = 4  # of these, how many are the first that the link ever sent
REFLECTED: Final = 4  # packets that the receiver itself had sent
TOGETHER: Final = 2  # packets that are put in at once

# One bit in each field of a packet's header, then in its ciphertext and its tag
# (docs/spec.md section 3): bits are counted from the packet's first byte.
FLIPPED_BITS: Final = (
    1,  # kind of packet
    4,  # protocol version
    8 * 1,  # generation of keys
    8 * 2,  # epoch of keys
    8 * 4 + 3,  # receiver's index of the link
    8 * 8,  # packet number, lowest bit
    8 * 15 + 7,  # packet number, highest bit
    8 * 16,  # message, or ciphertext of a small one
    8 * 26,  # offset in the message, or ciphertext
    8 * 40 + 5,  # ciphertext
    -1,  # tag
)
DAMAGED_BITS: Final = (8 * 100, -9)


def plan_attacks(sent: Sequence[memoryview], returned: Sequence[memoryview]) -> list[Attack]:
    """Attacks on the direction that carried the packets in `sent`.

    `returned` are packets of the other direction, to be reflected. Each attack
    takes one passing packet; the order mixes the kinds.
    """
    replayed = [*sent[:OLDEST], *_spread(sent, REPLAYED - OLDEST)]
    again = [
        *_in_groups(AttackKind.REPLAY, replayed),
        *_in_groups(AttackKind.REFLECT, returned[-REFLECTED:]),
    ]
    forged = [Attack(kind=AttackKind.FORGE, bit=bit) for bit in FLIPPED_BITS]
    damaged = [Attack(kind=AttackKind.CORRUPT, bit=bit) for bit in DAMAGED_BITS]
    mixed = itertools.zip_longest(forged, again, damaged)
    return [attack for few in mixed for attack in few if attack is not None]


def _spread(packets: Sequence[memoryview], count: int) -> list[memoryview]:
    """`count` of `packets`, from the first to the last at even distances."""
    if not packets:
        return []
    return [packets[place * (len(packets) - 1) // (count - 1)] for place in range(count)]


def _in_groups(kind: AttackKind, packets: Sequence[memoryview]) -> list[Attack]:
    return [
        Attack(
            kind=kind,
            packets=tuple(bytes(packet) for packet in packets[at : at + TOGETHER]),
        )
        for at in range(0, len(packets), TOGETHER)
    ]
