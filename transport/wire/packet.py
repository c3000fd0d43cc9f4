"""Packet headers: fixed size, little-endian (docs/spec.md 3).

    handshake  | version, kind | 0 | counter u16 | receiver u32 |                        8 bytes
    frames     | version, kind | generation | epoch u16 | receiver u32 | number u64 |   16 bytes
    bulk       | ... as frames ... | message u64 | offset u64 |                         32 bytes
    pair       | version, kind | 0 | size u16 | receiver u32 | frames packet | bulk packet |

A header is associated data of what it stands before, whole; only RESPONSE and
FINISH have none, and there each field has one allowed value.

The receiver index names a link at the receiving node, as in WireGuard; which
path a packet came over is known from the socket and is never a header field.
"""

from __future__ import annotations

from enum import IntEnum
from struct import Struct
from typing import Final, NamedTuple

from .codec import MalformedError

PROTOCOL_VERSION: Final = 1
TAG_SIZE: Final = 16  # AES-GCM tag at the end of every sealed packet

HANDSHAKE_HEADER: Final = Struct("<BBHI")
FRAMES_HEADER: Final = Struct("<BBHIQ")
BULK_HEADER: Final = Struct("<BBHIQQQ")

FRAMES_OVERHEAD: Final = FRAMES_HEADER.size + TAG_SIZE
BULK_OVERHEAD: Final = BULK_HEADER.size + TAG_SIZE


class Kind(IntEnum):
    """What a packet carries; the low four bits of its first byte."""

    INIT = 1  # Noise message 1 behind a sealed hello
    RESPONSE = 2  # Noise message 2
    FINISH = 3  # Noise message 3
    EVIDENCE = 4  # sealed under the handshake's own keys
    FRAMES = 5  # sealed control frames and small messages
    BULK = 6  # a sealed piece of a large message
    PAIR = 7  # a FRAMES packet, and the BULK packet that it announces right behind it


def first_byte(kind: Kind) -> int:
    """The first byte of a packet: protocol version in the high nibble, kind in the low."""
    return PROTOCOL_VERSION << 4 | kind


FIRST_FRAMES: Final = first_byte(Kind.FRAMES)
FIRST_BULK: Final = first_byte(Kind.BULK)
FIRST_PAIR: Final = first_byte(Kind.PAIR)

PAIR_HEADER: Final = Struct("<BBHI")
_PAIR_PREFIX: Final = bytes((FIRST_PAIR, 0))
_FRAMES_BYTE: Final = bytes((FIRST_FRAMES,))
_BULK_BYTE: Final = bytes((FIRST_BULK,))

_HANDSHAKE_KINDS: Final = frozenset(
    first_byte(kind) for kind in (Kind.INIT, Kind.RESPONSE, Kind.FINISH, Kind.EVIDENCE)
)


class HandshakeHeader(NamedTuple):
    """Header of the four handshake packets; `receiver` is the sender's index in INIT."""

    kind: Kind
    counter: int
    receiver: int


def pack_handshake(kind: Kind, receiver: int, counter: int = 0) -> bytes:
    """Header bytes of a handshake packet."""
    return HANDSHAKE_HEADER.pack(first_byte(kind), 0, counter, receiver)


def parse_handshake(packet: memoryview) -> HandshakeHeader:
    """Read the header of a handshake packet.

    Raises:
        MalformedError: too short, another protocol version, or another kind.
    """
    if len(packet) < HANDSHAKE_HEADER.size:
        raise MalformedError("shorter than a header")
    first, zero, counter, receiver = HANDSHAKE_HEADER.unpack_from(packet)
    if first not in _HANDSHAKE_KINDS or zero != 0:
        raise MalformedError("not a handshake packet of this protocol version")
    return HandshakeHeader(Kind(first & 0x0F), counter, receiver)


def classify(packet: memoryview) -> tuple[Kind, int]:
    """Return kind and receiver index of any packet, for the node's dispatch.

    Raises:
        MalformedError: too short, unknown kind, or another protocol version; the
            message tells the version apart, which the operator's counters show.
    """
    size = len(packet)
    if size < HANDSHAKE_HEADER.size:
        raise MalformedError("shorter than a header")
    first = packet[0]
    if first >> 4 != PROTOCOL_VERSION:
        raise VersionError(f"protocol version {first >> 4}, expected {PROTOCOL_VERSION}")
    kind = first & 0x0F
    if not Kind.INIT <= kind <= Kind.PAIR:
        raise MalformedError(f"unknown packet kind {kind}")
    if kind == Kind.FRAMES and size < FRAMES_OVERHEAD:
        raise MalformedError("shorter than a sealed packet")
    if kind == Kind.BULK and size <= BULK_OVERHEAD:
        raise MalformedError("shorter than a sealed packet")
    if kind == Kind.PAIR and size <= PAIR_HEADER.size + FRAMES_OVERHEAD + BULK_OVERHEAD:
        raise MalformedError("shorter than two sealed packets")
    receiver: int = HANDSHAKE_HEADER.unpack_from(packet)[3]
    return Kind(kind), receiver


def pack_pair(frames_packet: bytes) -> bytes:
    """Everything of a PAIR packet but the BULK packet that follows.

    Its own header says only where the second one begins; each of the two is sealed by
    itself, and is repeated by itself where need be (as coalesced packets of RFC 9000, 12.2).
    """
    size = len(frames_packet)
    return _PAIR_PREFIX + size.to_bytes(2, "little") + frames_packet[4:8] + frames_packet


def split_pair(packet: memoryview) -> tuple[bytes, memoryview]:
    """The two packets of a PAIR packet, the first one copied.

    Raises:
        MalformedError: there are no two packets in it.
    """
    if len(packet) < PAIR_HEADER.size:
        raise MalformedError("shorter than a header")
    _, zero, size, _ = PAIR_HEADER.unpack_from(packet)
    end = PAIR_HEADER.size + size
    first, second = bytes(packet[PAIR_HEADER.size : end]), packet[end:]
    if zero or first[:1] != _FRAMES_BYTE or second[:1] != _BULK_BYTE:
        raise MalformedError("not a FRAMES packet and a BULK packet")
    return first, second


class VersionError(MalformedError):
    """The packet speaks another version of this protocol, or another protocol."""
