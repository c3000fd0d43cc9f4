"""A bounded reader of BER, and the writer of the little DER that key services need.

Answers of AWS KMS are BER with indefinite lengths and constructed strings (X.690
section 8), which readers of DER refuse. Bounds come first: the input, the depth and the
number of elements have limits, so that no input costs more than a multiple of its size.
Only what CMS uses is read: tags below 31 and lengths below 2^32.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

INPUT_LIMIT: Final = 64 * 1024  # bytes; a real answer is about 500
DEPTH_LIMIT: Final = 16  # a real answer nests 8 deep
ELEMENTS_LIMIT: Final = 512  # a real answer has about 30

INTEGER: Final = 0x02
OCTET_STRING: Final = 0x04
NULL: Final = 0x05
OBJECT_IDENTIFIER: Final = 0x06
SEQUENCE: Final = 0x10
SET: Final = 0x11
CONTEXT: Final = 0x80  # context-specific class: [n] is CONTEXT | n

_CONSTRUCTED: Final = 0x20
_TAG_BITS: Final = 0x1F
_INDEFINITE: Final = 0x80
_END: Final = b"\0\0"


class BerError(ValueError):
    """The input is not BER within the limits. Never shown to a peer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Element:
    """One element: `content` of a primitive one, `children` of a constructed one."""

    tag: int  # class bits and number; the constructed bit is told by `constructed`
    constructed: bool
    content: bytes
    children: tuple[Element, ...]

    def sequence(self, tag: int = SEQUENCE) -> tuple[Element, ...]:
        """The elements inside a constructed element with this tag.

        Raises:
            BerError: it has another tag or is primitive.
        """
        if self.tag != tag or not self.constructed:
            raise BerError("another element was expected")
        return self.children

    def primitive(self, tag: int) -> bytes:
        """The content of a primitive element with this tag.

        Raises:
            BerError: it has another tag or is constructed.
        """
        if self.tag != tag or self.constructed:
            raise BerError("another element was expected")
        return self.content

    def octets(self, tag: int = OCTET_STRING) -> bytes:
        """The bytes of an octet string, in one piece or in chunks (X.690 8.7.3).

        `tag` is the outer tag, where an implicit one replaces that of octet strings.

        Raises:
            BerError: it is no octet string.
        """
        if self.tag != tag:
            raise BerError("an octet string was expected")
        if not self.constructed:
            return self.content
        return b"".join(child.octets() for child in self.children)


def read(encoded: bytes) -> Element:
    """Return the one element that `encoded` consists of.

    Raises:
        BerError: it is malformed, beyond the limits, or something follows it.
    """
    if len(encoded) > INPUT_LIMIT:
        raise BerError("too long")
    reader = _Reader(bytes(encoded))
    element = reader.element(len(encoded), 0)
    if reader.at != len(encoded):
        raise BerError("bytes follow the element")
    return element


class _Reader:
    """A position in the input; `end` is always the end of the enclosing element."""

    def __init__(self, encoded: bytes) -> None:
        self._encoded = encoded
        self._elements = 0
        self.at = 0

    def element(self, end: int, depth: int) -> Element:
        self._elements += 1
        if depth > DEPTH_LIMIT or self._elements > ELEMENTS_LIMIT:
            raise BerError("too deep, or too many elements")
        identifier = self._octet(end)
        constructed = bool(identifier & _CONSTRUCTED)
        tag = identifier & ~_CONSTRUCTED
        if tag & _TAG_BITS == _TAG_BITS or tag == 0:
            raise BerError("a tag that CMS does not use")
        length = self._length(end)
        if length is None:
            if not constructed:
                raise BerError("a primitive element of indefinite length")
            return Element(
                tag=tag, constructed=True, content=b"", children=self._until_end(end, depth)
            )
        stop = self.at + length
        if stop > end:
            raise BerError("an element reaches beyond its parent")
        if constructed:
            children = self._until(stop, depth)
            return Element(tag=tag, constructed=True, content=b"", children=children)
        content, self.at = self._encoded[self.at : stop], stop
        return Element(tag=tag, constructed=False, content=content, children=())

    def _until(self, stop: int, depth: int) -> tuple[Element, ...]:
        children = []
        while self.at < stop:
            children.append(self.element(stop, depth + 1))
        return tuple(children)

    def _until_end(self, end: int, depth: int) -> tuple[Element, ...]:
        """The children up to the end-of-contents octets (X.690 8.1.5)."""
        children = []
        while self._encoded[self.at : min(self.at + 2, end)] != _END:
            children.append(self.element(end, depth + 1))
        self.at += len(_END)
        return tuple(children)

    def _length(self, end: int) -> int | None:
        """The length octets (X.690 8.1.3); None where the length is indefinite."""
        first = self._octet(end)
        if first < _INDEFINITE:
            return first
        if first == _INDEFINITE:
            return None
        count = first & ~_INDEFINITE
        if count > 4:
            raise BerError("a length beyond 2^32")
        return int.from_bytes(bytes(self._octet(end) for _ in range(count)), "big")

    def _octet(self, end: int) -> int:
        if self.at >= end:
            raise BerError("truncated")
        octet = self._encoded[self.at]
        self.at += 1
        return octet


def write(tag: int, content: bytes) -> bytes:
    """Return a primitive element in DER."""
    return bytes((tag,)) + _der_length(len(content)) + content


def write_constructed(tag: int, parts: Iterable[bytes]) -> bytes:
    """Return a constructed element of definite length, with these encoded parts."""
    content = b"".join(parts)
    return bytes((tag | _CONSTRUCTED,)) + _der_length(len(content)) + content


def write_indefinite(tag: int, parts: Iterable[bytes]) -> bytes:
    """Return a constructed element of indefinite length, with these encoded parts."""
    return bytes((tag | _CONSTRUCTED, _INDEFINITE)) + b"".join(parts) + _END


def _der_length(length: int) -> bytes:
    if length < _INDEFINITE:
        return bytes((length,))
    octets = length.to_bytes((length.bit_length() + 7) // 8, "big")
    return bytes((_INDEFINITE | len(octets),)) + octets


def object_identifier(dotted: str) -> bytes:
    """Return an object identifier in DER (X.690 8.19)."""
    first, second, *rest = (int(part) for part in dotted.split("."))
    octets = bytearray()
    for number in (first * 40 + second, *rest):
        digits = [number & 0x7F]
        while number := number >> 7:
            digits.append(number & 0x7F | 0x80)
        octets += bytes(reversed(digits))
    return write(OBJECT_IDENTIFIER, bytes(octets))
