"""What must hold in every run, whatever the network does; a breach ends the run.

1. A message is delivered once, whole, to the endpoint it was for, and every byte
   of it is the sender's.
2. No link has more in flight than its window allowed when it sealed.
3. Nobody sends what was not granted, and a pool counts as granted exactly what
   its messages have been granted and have not received.
4. Every packet sent is delivered, dropped by a cause, or still on its way.
5. No packet number of a link, direction and key is used for two ciphertexts.
6. Time does not stand still: a link that wants to be called at once, again and
   again, is broken.

The first and third are checked where bytes arrive (ledger.py, host.py), the
others here.
"""

from __future__ import annotations

from typing import Final

from ..errors import TransportError
from ..wire.packet import FRAMES_HEADER, TAG_SIZE
from .port import Traffic

SPINS: Final = 1000  # calls of one link within one picosecond

_UNSEEN: Final = bytes(TAG_SIZE)


class InvariantError(TransportError):
    """The simulated system did what it must never do: a bug, and the run is void."""


class Nonces:
    """Every packet number that one side of a link has sealed, with the tag it sealed there.

    Two packets of the same number and key with different content, header or text,
    have different tags but for a chance of 2^-128. A repetition has the same tag.
    """

    __slots__ = ("_first", "_name", "_tags")

    def __init__(self, name: str) -> None:
        self._name = name
        self._first: dict[int, int] = {}  # by key, where numbers begin
        self._tags: dict[int, bytearray] = {}  # by key, tags in order of numbers

    def check(self, packet: bytes | bytearray | memoryview) -> None:
        """Take note of a sealed packet (FRAMES or BULK).

        Raises:
            InvariantError: its number and key were used for another packet.
        """
        _, generation, epoch, _, number = FRAMES_HEADER.unpack_from(packet)
        key = generation << 16 | epoch
        tag = bytes(packet[-TAG_SIZE:])
        tags = self._tags.get(key)
        if tags is None:
            tags = self._tags[key] = bytearray()
            self._first[key] = number
        at = (number - self._first[key]) * TAG_SIZE
        if at == len(tags):
            tags += tag
            return
        if at < 0:
            raise InvariantError(
                f"{self._name} sealed packet {number} of generation {generation}, epoch {epoch}, "
                f"after it began that key with {self._first[key]}"
            )
        if at > len(tags):  # sealed earlier, sent later
            tags += bytes(at - len(tags)) + tag
            return
        known = tags[at : at + TAG_SIZE]
        if known == _UNSEEN:
            tags[at : at + TAG_SIZE] = tag
        elif known != tag:
            raise InvariantError(
                f"{self._name} used packet number {number} of generation {generation}, "
                f"epoch {epoch}, for two different packets"
            )


def check_window(
    name: str, *, before: int, in_flight: int, window: int, packets: int, most: int
) -> None:
    """A new packet went on top of `before` bytes in flight: it fits the window, or is alone.

    `window` is in bytes, and at most `most` packets may be in flight.

    Raises:
        InvariantError: it does not.
    """
    if packets > most:
        raise InvariantError(f"{name} has {packets} packets in flight, allowed are {most}")
    if in_flight > window and before:
        raise InvariantError(
            f"{name} has {in_flight} bytes in flight after a new packet, "
            f"{before} before it, and the window allowed {window}"
        )


def check_credit(name: str, *, counted: int, granted: int, limit: int) -> None:
    """A pool counts as outstanding what was granted and has not been received, up to a limit.

    Raises:
        InvariantError: credit leaked, was given twice, or without measure.
    """
    if counted > limit:
        raise InvariantError(f"{name} has granted {counted} bytes ahead, at most {limit} expected")
    if counted != granted:
        raise InvariantError(
            f"{name} counts {counted} bytes as granted and not received, "
            f"but its messages lack {granted}"
        )


def check_conservation(traffic: Traffic, travelling: int) -> None:
    """Packets that were counted in and not out are those that are `travelling`.

    Raises:
        InvariantError: one was lost or made without being counted.
    """
    if traffic.in_network != travelling:
        raise InvariantError(
            f"{traffic.sent} packets were sent and {traffic.duplicated} doubled, "
            f"{traffic.delivered} delivered and {traffic.dropped} dropped, "
            f"so {traffic.in_network} are on their way, but {travelling} are"
        )
