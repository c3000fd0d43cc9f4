"""Frames: what the sealed payload of a FRAMES packet is made of (docs/spec.md 5).

A packet holds any number of frames, one after another, each with its type in
the first byte and a layout fixed by that type. Frames are parsed only after
the packet was authenticated; the parser is strict all the same, because an
authenticated peer may be hostile. What a message *is* (dtype, shape) stays an
opaque `description` here: wire and link move bytes, the node reads them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from struct import Struct
from struct import error as struct_error
from typing import Final, NamedTuple

from .codec import MalformedError

MAX_ACK_RANGES: Final = 128
MAX_DESCRIPTION: Final = 512
MAX_HANDSHAKE_BODY: Final = 8 * 1024
MAX_SHARE_BODY: Final = 512

ACK: Final = 1
EAGER: Final = 2
ANNOUNCE: Final = 3
GRANT: Final = 4
CREDIT: Final = 5
WITHDRAW: Final = 6
DECLINE: Final = 7
PING: Final = 8
JOIN: Final = 9
JOINED: Final = 10
HANDSHAKE: Final = 11
CLOSE: Final = 12
SHARE: Final = 13
FOLLOW: Final = 14

_ACK = Struct("<BQB")
_RANGE = Struct("<QQ")
_LONE_ACK = Struct("<BQBQQ")  # an ACK of one range
EAGER_HEAD: Final = Struct("<BQIQHI")  # type, message, context, tag, described, size
ANNOUNCE_HEAD: Final = Struct("<BQIQHQ")  # type, message, context, tag, described, size
_ID_AND_VALUE = Struct("<BQQ")
_ID = Struct("<BQ")
_JOIN = Struct("<BH16s")
_HANDSHAKE = Struct("<BBH")
_CLOSE = Struct("<BB")
_SHARE = Struct("<BH")

EAGER_OVERHEAD: Final = EAGER_HEAD.size
ANNOUNCE_OVERHEAD: Final = ANNOUNCE_HEAD.size
MAX_ACK: Final = _ACK.size + MAX_ACK_RANGES * _RANGE.size


class Ack(NamedTuple):
    """What has been received: closed ranges of packet numbers, highest first.

    `floor` is the sender's own lowest number that may still need an
    acknowledgement; below it the peer can forget.
    """

    floor: int
    ranges: Sequence[tuple[int, int]]


class Eager(NamedTuple):
    """A whole small message; `payload` is a view into the opened packet, or a copy of a few."""

    message: int
    context: int
    tag: int
    description: bytes
    payload: memoryview | bytes


class Announce(NamedTuple):
    """A large message; its bytes come in bulk packets.

    They wait for a grant, or follow at once where the peer's credit covers them.
    """

    message: int
    context: int
    tag: int
    description: bytes
    size: int
    follows: bool = False


class Grant(NamedTuple):
    """Bytes of `message` below offset `limit` may be sent."""

    message: int
    limit: int


class Credit(NamedTuple):
    """Unclaimed messages may cost up to `limit` in total over the link's life."""

    limit: int


class Withdraw(NamedTuple):
    """The sender takes an announced message back."""

    message: int


class Decline(NamedTuple):
    """The receiver takes no further byte of a granted message."""

    message: int


class Ping(NamedTuple):
    """Asks for an acknowledgement over the path it travels; carries nothing."""


class Join(NamedTuple):
    """A challenge: the path this came over wants to become the link's `path`."""

    path: int
    challenge: bytes


class Joined(NamedTuple):
    """The challenge returned over the very path it came by."""

    path: int
    challenge: bytes


class Handshake(NamedTuple):
    """A handshake message of a re-handshake, carried inside the living link."""

    body: bytes


class Close(NamedTuple):
    """No message follows; the link ends once this is acknowledged."""

    reason: int


class Share(NamedTuple):
    """About memory that both processes could share; only their nodes read the body."""

    body: bytes


Frame = (
    Ack
    | Eager
    | Announce
    | Grant
    | Credit
    | Withdraw
    | Decline
    | Ping
    | Join
    | Joined
    | Handshake
    | Close
    | Share
)


def encode_ack(floor: int, ranges: Sequence[tuple[int, int]]) -> bytes:
    """`ranges` are closed, descending, at most `MAX_ACK_RANGES`."""
    count = len(ranges)
    if count == 1:
        return _LONE_ACK.pack(ACK, floor, 1, *ranges[0])
    return b"".join([_ACK.pack(ACK, floor, count), *(_RANGE.pack(*r) for r in ranges)])


def ends_with_ack(payload: bytes, start: int) -> bool:
    """Whether what begins at `start` is one ACK frame and nothing else."""
    counted = start + _ACK.size - 1
    return (
        payload[start] == ACK
        and counted < len(payload)
        and len(payload) == counted + 1 + payload[counted] * _RANGE.size
    )


def lone_ack(payload: bytes) -> Ack | None:
    """The ACK frame of one range that is all of `payload`; None where it is anything else.

    Most packets of a large transfer's way back are this, so it is worth the second parser;
    what it does not know, `decode` judges.
    """
    if len(payload) != _LONE_ACK.size or payload[0] != ACK:
        return None
    _, floor, count, first, last = _LONE_ACK.unpack(payload)
    return Ack(floor, ((first, last),)) if count == 1 and first <= last else None


def encode_eager_head(message: int, context: int, tag: int, description: bytes, size: int) -> bytes:
    """Everything of an EAGER frame but its payload of `size` bytes, which follows."""
    return EAGER_HEAD.pack(EAGER, message, context, tag, len(description), size) + description


def encode_announce(
    message: int, context: int, tag: int, description: bytes, size: int, *, follows: bool = False
) -> bytes:
    """An ANNOUNCE frame for a message of `size` bytes; FOLLOW where they are not waited for."""
    kind = FOLLOW if follows else ANNOUNCE
    return ANNOUNCE_HEAD.pack(kind, message, context, tag, len(description), size) + description


def encode_grant(message: int, limit: int) -> bytes:
    """A GRANT frame up to byte offset `limit`."""
    return _ID_AND_VALUE.pack(GRANT, message, limit)


def encode_credit(limit: int) -> bytes:
    """A CREDIT frame with the cumulative `limit`."""
    return _ID.pack(CREDIT, limit)


def encode_withdraw(message: int) -> bytes:
    """A WITHDRAW frame."""
    return _ID.pack(WITHDRAW, message)


def encode_decline(message: int) -> bytes:
    """A DECLINE frame."""
    return _ID.pack(DECLINE, message)


def encode_ping() -> bytes:
    """A PING frame."""
    return bytes((PING,))


def encode_join(index: int, challenge: bytes) -> bytes:
    """A JOIN frame with a 16-byte challenge."""
    return _JOIN.pack(JOIN, index, challenge)


def encode_joined(index: int, challenge: bytes) -> bytes:
    """A JOINED frame that echoes the challenge."""
    return _JOIN.pack(JOINED, index, challenge)


def encode_handshake(body: bytes) -> bytes:
    """A HANDSHAKE frame around one handshake packet."""
    return _HANDSHAKE.pack(HANDSHAKE, 0, len(body)) + body


def encode_close(reason: int) -> bytes:
    """A CLOSE frame."""
    return _CLOSE.pack(CLOSE, reason)


def encode_share(body: bytes) -> bytes:
    """A SHARE frame around what one node tells the other of its memory."""
    return _SHARE.pack(SHARE, len(body)) + body


def decode(payload: bytes | memoryview) -> Iterator[Frame]:
    """Yield the frames of an opened packet, in order.

    Raises:
        MalformedError: from the first frame that is not well formed; the frames
            before it have been yielded.
    """
    payload = memoryview(payload)
    offset, end = 0, len(payload)
    while offset < end:
        kind = payload[offset]
        try:
            if kind == EAGER:
                _, message, context, tag, described, size = EAGER_HEAD.unpack_from(payload, offset)
                offset += EAGER_HEAD.size
                body = offset + described
                if described > MAX_DESCRIPTION or body + size > end:
                    raise MalformedError("EAGER frame exceeds its packet")
                yield Eager(
                    message,
                    context,
                    tag,
                    bytes(payload[offset:body]),
                    payload[body : body + size],
                )
                offset = body + size
            elif kind == ACK:
                frame, offset = _decode_ack(payload, offset)
                yield frame
            else:
                other, offset = _decode_other(kind, payload, offset)
                yield other
        except struct_error:
            raise MalformedError("truncated frame") from None


def _decode_ack(payload: memoryview, offset: int) -> tuple[Ack, int]:
    _, floor, count = _ACK.unpack_from(payload, offset)
    offset += _ACK.size
    if count > MAX_ACK_RANGES:
        raise MalformedError(f"{count} ranges in an ACK, at most {MAX_ACK_RANGES}")
    ranges: list[tuple[int, int]] = []
    ceiling = 1 << 64
    for _ in range(count):
        first, last = _RANGE.unpack_from(payload, offset)
        offset += _RANGE.size
        if not first <= last < ceiling:
            raise MalformedError("ACK ranges are not descending")
        ranges.append((first, last))
        ceiling = first
    return Ack(floor, ranges), offset


def _decode_other(kind: int, payload: memoryview, offset: int) -> tuple[Frame, int]:
    if kind in (ANNOUNCE, FOLLOW):
        _, message, context, tag, described, size = ANNOUNCE_HEAD.unpack_from(payload, offset)
        offset += ANNOUNCE_HEAD.size
        body = offset + described
        if described > MAX_DESCRIPTION or body > len(payload):
            raise MalformedError("ANNOUNCE frame exceeds its packet")
        described_by = bytes(payload[offset:body])
        return Announce(message, context, tag, described_by, size, kind == FOLLOW), body
    if kind == GRANT:
        _, message, value = _ID_AND_VALUE.unpack_from(payload, offset)
        return Grant(message, value), offset + _ID_AND_VALUE.size
    if kind in (CREDIT, WITHDRAW, DECLINE):
        number = _ID.unpack_from(payload, offset)[1]
        return _with_number(kind, number), offset + _ID.size
    if kind == PING:
        return Ping(), offset + 1
    if kind in (JOIN, JOINED):
        _, index, challenge = _JOIN.unpack_from(payload, offset)
        frame = Join(index, challenge) if kind == JOIN else Joined(index, challenge)
        return frame, offset + _JOIN.size
    if kind == HANDSHAKE:
        _, zero, size = _HANDSHAKE.unpack_from(payload, offset)
        offset += _HANDSHAKE.size
        if zero or size > MAX_HANDSHAKE_BODY or offset + size > len(payload):
            raise MalformedError("HANDSHAKE frame exceeds its packet")
        return Handshake(bytes(payload[offset : offset + size])), offset + size
    if kind == SHARE:
        size = _SHARE.unpack_from(payload, offset)[1]
        offset += _SHARE.size
        if size > MAX_SHARE_BODY or offset + size > len(payload):
            raise MalformedError("SHARE frame exceeds its packet")
        return Share(bytes(payload[offset : offset + size])), offset + size
    if kind == CLOSE:
        return Close(_CLOSE.unpack_from(payload, offset)[1]), offset + _CLOSE.size
    raise MalformedError(f"unknown frame type {kind}")


def _with_number(kind: int, number: int) -> Frame:
    if kind == CREDIT:
        return Credit(number)
    return Withdraw(number) if kind == WITHDRAW else Decline(number)
