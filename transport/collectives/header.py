"""What ranks tell each other beside the data: what they are doing, and why they stop.

A *header* goes with the first message that one rank sends another in an operation, behind
its description. It says which operation the sender is in, so that ranks which disagree
find out at once instead of mixing up their tensors. A *notice* tells the others that the group has
failed and who is to blame.

Header, little-endian: u8 version, u8 call, u8 op, u8 length / 16, u32 root, u32 tuning,
u32 size, then the dtype and shape (`TensorSpec.encode`), padded with zeros to a
multiple of 16. Notice: u8 version, u8 cause, u16 zero, u32 rank, then UTF-8 text.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from enum import Enum
from functools import lru_cache
from struct import Struct
from typing import Final, NamedTuple

from ..errors import (
    ClosedError,
    PeerError,
    PeerLostError,
    TransportError,
    TransportTimeoutError,
    UsageError,
)
from ..tensor.spec import (
    MAX_DIMENSIONS,
    RAW_DTYPE,
    MalformedSpecError,
    TensorSpec,
    interned,
)
from .reduction import Op

VERSION: Final = 1
_HEADER: Final = Struct("<BBBBIII")
_NOTICE: Final = Struct("<BBHI")
_ALIGNMENT: Final = 16
NO_RANK: Final = 0xFFFFFFFF
TEXT_LIMIT: Final = 1024  # bytes of a notice's text


def _padded(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT


MAX_HEADER: Final = _padded(_HEADER.size + 2 + 8 * MAX_DIMENSIONS)
MAX_NOTICE: Final = _NOTICE.size + TEXT_LIMIT


class Call(Enum):
    """Which operation; the values are codes on the wire."""

    ALL_REDUCE = 1
    REDUCE_SCATTER = 2
    ALL_GATHER = 3
    BROADCAST = 4
    REDUCE = 5
    GATHER = 6
    SCATTER = 7
    ALL_TO_ALL = 8
    BARRIER = 9

    def __str__(self) -> str:
        return self.name.lower()


class Header(NamedTuple):
    """What an operation is, as far as all ranks must agree on it."""

    call: Call
    spec: TensorSpec
    op: Op | None = None
    root: int = 0
    tuning: int = 0
    size: int = 0

    def encode(self) -> bytes:
        """Its form on the wire."""
        described = self.spec.encode()
        length = _padded(_HEADER.size + len(described))
        op = 0 if self.op is None else self.op.value
        head = _HEADER.pack(
            VERSION, self.call.value, op, length // _ALIGNMENT, self.root, self.tuning, self.size
        )
        return (head + described).ljust(length, b"\0")

    @staticmethod
    def decode(view: bytes) -> Header | None:
        """What a header says; None where it is none of this version."""
        if len(view) < _HEADER.size:
            return None
        version, call, op, _, root, tuning, size = _HEADER.unpack_from(view)
        if version != VERSION:
            return None
        try:
            spec, _ = TensorSpec.decode(view, _HEADER.size)
            return Header(Call(call), spec, Op(op) if op else None, root, tuning, size)
        except (MalformedSpecError, ValueError):
            return None

    def describe(self) -> str:
        """The operation in words."""
        if self.call is Call.BARRIER:
            return "barrier"
        op = "" if self.op is None else f" ({_name(self.op)})"
        return f"{self.call} of {_text(self.spec)}{op}"

    def difference(self, theirs: bytes) -> str:
        """In words, what the encoding in `theirs` says otherwise."""
        other = Header.decode(theirs)
        if other is None:
            return "sent a header that this version does not understand"
        if other.call is not self.call:
            return f"calls {other.call}, this rank {self.call}"
        told = []
        if other.op is not self.op:
            told.append(f"op {_name(other.op)}, this rank {_name(self.op)}")
        if other.spec != self.spec:
            told.append(f"{_text(other.spec)}, this rank {_text(self.spec)}")
        if other.root != self.root:
            told.append(f"root {other.root}, this rank {self.root}")
        if other.size != self.size:
            told.append(f"a group of {other.size}, this rank one of {self.size}")
        if other.tuning != self.tuning:
            told.append("another Tuning than this rank")
        return f"calls {self.call} with " + "; with ".join(told or ["another number of bytes"])


class Headers(NamedTuple):
    """The headers of one operation: of this rank in general, and by peer where they differ.

    `by_peer(peer, inward)` is what is sent to a peer, or expected from it.
    """

    own: Header
    by_peer: Callable[[int, bool], Header] | None = None

    def expected(self, peer: int) -> Header:
        """What a peer should say."""
        return self.own if self.by_peer is None else self.by_peer(peer, True)

    def note(self, peer: int) -> bytes:
        """What is said to a peer."""
        return _encoded(self.own if self.by_peer is None else self.by_peer(peer, False))

    def opening(self, peer: int, size: int) -> bytes:
        """The whole description of a peer's first message, with `size` bytes of a tensor."""
        return _opening(self.expected(peer), size)


@lru_cache(maxsize=256)
def _encoded(header: Header) -> bytes:
    return header.encode()


@lru_cache(maxsize=256)
def _opening(header: Header, size: int) -> bytes:
    return interned(RAW_DTYPE, (size,)).encode() + header.encode()


def _name(op: Op | None) -> str:
    return "none" if op is None else op.name.lower()


def _text(spec: TensorSpec) -> str:
    return f"{spec.dtype}{list(spec.shape)}"


class Cause(Enum):
    """Why a group failed, as a notice says it; each with the error that members raise."""

    LOST = 1
    MISMATCH = 2
    LATE = 3
    CLOSED = 4
    OTHER = 5

    @staticmethod
    def of(error: TransportError) -> Cause:
        """The cause that stands for an error of ours."""
        for cause, kinds in _ERRORS.items():
            if isinstance(error, kinds):
                return cause
        return Cause.OTHER

    def error(self, text: str) -> TransportError:
        """The error that a member raises who was told."""
        return _ERRORS[self][0](text)


_ERRORS: Final[dict[Cause, tuple[type[TransportError], ...]]] = {
    Cause.LOST: (PeerLostError,),
    Cause.MISMATCH: (UsageError,),
    Cause.LATE: (TransportTimeoutError,),
    Cause.CLOSED: (PeerLostError, ClosedError),
    Cause.OTHER: (PeerError,),
}


class Notice(NamedTuple):
    """The group has failed; `rank` is to blame, or nobody in particular."""

    cause: Cause
    rank: int | None
    text: str

    def encode(self) -> bytes:
        """Its form on the wire; the text is cut where it is too long."""
        rank = NO_RANK if self.rank is None else self.rank
        return _NOTICE.pack(VERSION, self.cause.value, 0, rank) + self.text.encode()[:TEXT_LIMIT]

    @staticmethod
    def decode(data: bytes, size: int) -> Notice:
        """What a member said; what cannot be understood is a failure without a reason."""
        try:
            version, cause, _, rank = _NOTICE.unpack_from(data)
            text = data[_NOTICE.size : MAX_NOTICE].decode("utf-8", "replace")
            known = Cause(cause) if version == VERSION else Cause.OTHER
        except (ValueError, struct.error):
            return Notice(Cause.OTHER, None, "it gave no reason that could be understood")
        shown = "".join(each if each.isprintable() else "?" for each in text)
        return Notice(known, rank if rank < size else None, shown)
