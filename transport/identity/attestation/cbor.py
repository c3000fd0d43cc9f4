"""CBOR as attestation documents and the NSM use it: `cbor2`, with everything else shut off.

Invariants of `decode`: exactly one item, no byte after it; no tag of any kind, so nothing
but integers, strings, arrays, maps and simple values can come out; no key twice in a map;
bounded nesting. What breaks a rule is a `MalformedCborError`, whatever the library makes
of it. RFC 8949; indefinite lengths (section 3.2) are allowed only where asked for.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import cache
from types import ModuleType
from typing import Any, Final, NoReturn

from ...errors import UsageError

__all__ = ["MalformedCborError", "decode", "encode"]

MAX_DEPTH: Final = 4  # a document's deepest item is a value of `pcrs`, at 2


class MalformedCborError(ValueError):
    """Bytes that are not the CBOR expected here."""


@cache
def _library() -> ModuleType:
    try:
        import cbor2
    except ImportError:
        raise UsageError(
            "attestation needs the package cbor2: pip install 'sealfabric[attest]'"
        ) from None
    try:
        cbor2.loads(b"\xa0", allow_duplicate_keys=False, allow_indefinite=False, max_depth=1)
    except TypeError:
        raise UsageError(
            "attestation needs cbor2 6 or newer: pip install 'sealfabric[attest]'"
        ) from None
    return cbor2


class _NoTags(dict[int, Callable[..., NoReturn]]):
    """Answers for every tag with a decoder that refuses it.

    The library would otherwise make dates, big numbers, regular expressions and
    shared references out of what a stranger sends.
    """

    def __contains__(self, tag: object) -> bool:
        return True

    def __getitem__(self, tag: int) -> Callable[..., NoReturn]:
        return _refuse_tag

    def get(self, tag: int, default: object = None) -> Callable[..., NoReturn]:
        return _refuse_tag


def _refuse_tag(*arguments: object) -> NoReturn:
    raise ValueError("a tag, where none is allowed")


def decode(encoded: bytes, *, indefinite: bool = False) -> Any:
    """Return the one item that `encoded` holds.

    Raises:
        MalformedCborError: `encoded` breaks a rule of this module.
        UsageError: cbor2 is not installed.
    """
    stream = io.BytesIO(encoded)
    library = _library()
    try:
        decoder = library.CBORDecoder(
            stream,
            max_depth=MAX_DEPTH,
            allow_indefinite=indefinite,
            allow_duplicate_keys=False,
            semantic_decoders=_NoTags(),
            tag_hook=_refuse_tag,
        )
        item = decoder.decode()
    except Exception as error:  # hostile bytes: whatever the library raises is one refusal
        raise MalformedCborError(f"not CBOR: {type(error).__name__}") from error
    if stream.tell() != len(encoded):
        raise MalformedCborError(f"{len(encoded) - stream.tell()} bytes after the CBOR item")
    return item


def encode(item: object) -> bytes:
    """Return the CBOR of `item`, maps in their own order and all lengths definite.

    Raises:
        UsageError: cbor2 is not installed.
    """
    encoded: bytes = _library().dumps(item)
    return encoded
