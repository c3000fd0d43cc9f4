"""Bounded msgpack for the few structured values of the handshake (docs/spec.md 4.4).

msgpack is used where fields are few and rare; packets and frames have fixed
layouts of their own. Extension types, floats, nesting beyond one map and
anything above the given size are refused, so a hostile value costs no more
than its own bytes.
"""

from __future__ import annotations

from typing import Final

import msgpack

Value = int | bytes | str

_MAX_ENTRIES: Final = 32


class MalformedError(ValueError):
    """Bytes from the wire do not follow the specification; drop and count them."""


def pack(fields: dict[str, Value]) -> bytes:
    """Encode a flat map of integers, byte strings and text."""
    encoded: bytes = msgpack.packb(fields, use_bin_type=True)
    return encoded


def unpack(encoded: bytes | memoryview, *, limit: int) -> dict[str, Value]:
    """Decode a flat map of at most `limit` encoded bytes.

    Raises:
        MalformedError: too long, not msgpack, or not a flat map of known types.
    """
    if len(encoded) > limit:
        raise MalformedError(f"map of {len(encoded)} bytes exceeds {limit}")
    try:
        value = msgpack.unpackb(
            encoded,
            raw=False,
            strict_map_key=True,
            max_str_len=limit,
            max_bin_len=limit,
            max_array_len=0,
            max_map_len=_MAX_ENTRIES,
            max_ext_len=0,
        )
    except Exception as error:  # msgpack documents no closed set of exceptions
        raise MalformedError("not a well-formed map") from error
    if not isinstance(value, dict):
        raise MalformedError("not a map")
    for key, entry in value.items():
        if not isinstance(key, str):
            raise MalformedError("map key is not text")
        if isinstance(entry, bool) or not isinstance(entry, (int, bytes, str)):
            raise MalformedError(f"field {key!r} has a forbidden type")
    return value


def integer(fields: dict[str, Value], name: str, low: int, high: int) -> int:
    """Take an integer field within `low..high`, or raise `MalformedError`."""
    value = fields.get(name)
    if not isinstance(value, int) or not low <= value <= high:
        raise MalformedError(f"field {name!r} must be an integer in {low}..{high}")
    return value


def octets(fields: dict[str, Value], name: str, length: int) -> bytes:
    """Take a byte-string field of exactly `length` bytes, or raise `MalformedError`."""
    value = fields.get(name)
    if not isinstance(value, bytes) or len(value) != length:
        raise MalformedError(f"field {name!r} must be {length} bytes")
    return value


def text(fields: dict[str, Value], name: str, limit: int) -> str:
    """Take a text field of 1 to `limit` UTF-8 bytes, or raise `MalformedError`."""
    value = fields.get(name)
    if not isinstance(value, str) or not 1 <= len(value.encode()) <= limit:
        raise MalformedError(f"field {name!r} must be text of 1..{limit} bytes")
    return value
