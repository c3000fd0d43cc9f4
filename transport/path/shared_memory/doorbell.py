"""Waking a process that sleeps, and knowing that it does.

The bell is a pipe whose writing end the peer opens through /proc, as it does the
segment. A byte in it wakes whoever polls; how many there are means nothing, and which
they are only where the ringer runs. The byte is spliced into the pipe, not written:
writing tells Linux that the writer is about to sleep, so that it puts who wakes onto the
writer's core, although the writer goes on (docs/adr/0029).

The one who is about to sleep says so in a word of its segment and then looks at
the ring once more. The one who has put something into the ring then looks at that
word. With a fence between the two steps on both sides, one of them must see the
other: nobody sleeps over a packet. Each announced sleep is rung for once.

Once the peer holds the writing end and this process has let go of its own, the
end of the pipe is the end of the peer: it shows at once when the peer is killed.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from typing import Final

from .. import cores
from .layout import ASLEEP, PRODUCED
from .memory_order import fence_of_its_own
from .segment import UnavailableError, open_of

_DRAIN: Final = 65_536  # a pipe holds no more


class Bell:
    """This process's bell. `descriptor` turns readable when it was rung, or the peer is gone."""

    __slots__ = ("_offered", "descriptor", "rung_from")

    def __init__(self) -> None:
        self.rung_from = -1
        """The core, modulo 256, from which it was last rung, as the peer says."""
        try:
            self.descriptor, self._offered = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise UnavailableError(f"no bell from the system: {error}") from None

    @property
    def offered(self) -> int:
        """The descriptor that the peer opens in order to ring."""
        return self._offered

    def hide(self) -> None:
        """The peer has opened it: from now on only the peer holds it for writing."""
        if self._offered >= 0:
            os.close(self._offered)
            self._offered = -1

    def quiet(self) -> bool:
        """Take back all ringing; False where nobody can ring any more: the peer is gone."""
        try:
            ringing = os.read(self.descriptor, _DRAIN)
        except BlockingIOError:
            return True
        if ringing:
            self.rung_from = ringing[-1]
        return bool(ringing)

    def close(self) -> None:
        """Release the descriptors."""
        self.hide()
        os.close(self.descriptor)


class PeerBell:
    """The other side's bell.

    Raises:
        UnavailableError: it is not there, not ours to see, or not a pipe.
    """

    __slots__ = ("_bytes", "_descriptor")

    def __init__(self, process: int, descriptor: int) -> None:
        self._bytes = -1
        try:
            # For reading as well, so that writing to a dead peer's pipe is not a SIGPIPE.
            self._descriptor = open_of(
                process, descriptor, stat.S_IFIFO, os.O_RDWR | os.O_NONBLOCK, None
            )
        except OSError as error:
            raise UnavailableError(f"the peer's bell cannot be opened: {error}") from None
        try:
            self._bytes = os.memfd_create("sealfabric-bell", os.MFD_CLOEXEC)
            os.write(self._bytes, bytes(range(256)))
        except OSError as error:
            self.close()
            raise UnavailableError(f"the peer's bell cannot be rung: {error}") from None

    def ring(self) -> None:
        """Wake the peer; a full pipe means that it will wake already."""
        here = cores.current() & 255
        try:
            os.splice(
                self._bytes,
                self._descriptor,
                1,
                offset_src=here,
                flags=os.SPLICE_F_NONBLOCK,  # which kernels before 5.1 want beside O_NONBLOCK
            )
        except BlockingIOError:
            pass
        except OSError:  # a sandbox that does not have it, or forbids it
            with suppress(BlockingIOError):
                os.write(self._descriptor, bytes([here]))

    def close(self) -> None:
        """Release the descriptors."""
        os.close(self._descriptor)
        if self._bytes >= 0:
            os.close(self._bytes)


class Sleeper:
    """Says that this process sleeps; `words` is of its own segment, `peer_words` of the other."""

    __slots__ = ("_fence", "_peer_words", "_turn", "_words")

    def __init__(self, words: memoryview, peer_words: memoryview) -> None:
        self._words = words
        self._peer_words = peer_words
        self._fence = fence_of_its_own()
        self._turn = 0  # odd while asleep

    def lie_down(self, seen: int) -> bool:
        """Announce sleep; False, and awake, where the peer has produced beyond `seen` meanwhile."""
        if not self._turn & 1:
            self._turn += 1
            self._words[ASLEEP] = self._turn
        self._fence()
        if self._peer_words[PRODUCED] == seen:
            return True
        self.get_up()
        return False

    def get_up(self) -> None:
        """Awake: the peer need not ring."""
        if self._turn & 1:
            self._turn += 1
            self._words[ASLEEP] = self._turn


class Waker:
    """Rings the peer's bell once for each time it lies down."""

    __slots__ = ("_bell", "_fence", "_peer_words", "_rung")

    def __init__(self, peer_words: memoryview, bell: PeerBell) -> None:
        self._peer_words = peer_words
        self._bell = bell
        self._fence = fence_of_its_own()
        self._rung = 0

    def produced(self) -> None:
        """Something was put into the ring: wake the peer if it sleeps."""
        self._fence()
        turn: int = self._peer_words[ASLEEP]
        if turn & 1 and turn != self._rung:
            self._rung = turn
            self._bell.ring()
