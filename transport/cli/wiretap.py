"""The operator of the network, as a TCP proxy on 127.0.0.1 that records and meddles.

Every byte that passes is counted; up to a limit it is also recorded, so that
what went over the wire can be searched completely afterwards. Attacks are
queued per direction and carried out at message boundaries of the ZMTP framing,
so that ZeroMQ on the far side accepts each injected frame as it would a
genuine one: what refuses it must be the sealed link itself.

Two threads a connection, one each way. The lists of streams and frames may be
read from any thread; recorded bytes below `Stream.recorded` no longer change.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import partial
from types import TracebackType
from typing import Final, Self

from .tape import MIB, Direction, Stream, blank_tape
from .zmtp import Frame

_KERNEL_BUFFER: Final = 4 * MIB


class AttackKind(Enum):
    """What happens to packets when the next suitable frame passes."""

    REPLAY = "recorded and sent again"
    REFLECT = "of the other direction, sent back to where they came from"
    FORGE = "copied with a bit flipped, ahead of the genuine one"
    CORRUPT = "damaged on their way, a bit in each"


@dataclass(frozen=True, slots=True, kw_only=True)
class Attack:
    """One act of the operator, carried out when a frame of `at_least` bytes passes.

    `bit` is counted from the start of the body, or from its end where negative,
    and taken modulo the body. `packets` are the frames to REPLAY or REFLECT, each
    with its flags and length. A connection that has not yet passed a message of its
    user is left alone, as is one whose tape is full.
    """

    kind: AttackKind
    bit: int = -1
    packets: tuple[bytes, ...] = ()
    at_least: int = 1


class Wiretap:
    """A proxy before `target` that anyone may dial at `address`, on 127.0.0.1 only.

    `tape_limit` bounds the recorded bytes of each stream; what passes beyond it
    is counted and shows in `unrecorded()`. The first `ready_tapes` connections
    find `ready_bytes` of their tape towards the listener in memory, so that page
    faults do not slow what passes. A context manager.
    """

    def __init__(
        self,
        target: tuple[str, int],
        *,
        tape_limit: int = 64 * MIB,
        ready_tapes: int = 0,
        ready_bytes: int = 0,
    ) -> None:
        self.streams: list[Stream] = []
        self.injected = dict.fromkeys(AttackKind, 0)  # frames put in, or damaged
        self._target = target
        self._tape_limit = tape_limit
        self._ready_tapes = [blank_tape(tape_limit, ready_bytes) for _ in range(ready_tapes)]
        self._attacks: dict[Direction, deque[Attack]] = {side: deque() for side in Direction}
        self._lock = threading.Lock()
        self._open_sockets: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._closed = False
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._spawn(self._accept)

    @property
    def endpoint(self) -> tuple[str, int]:
        """Host and port to dial."""
        host, port = self._listener.getsockname()
        return str(host), int(port)

    @property
    def address(self) -> str:
        """The same in the form of a node's address, `tcp://127.0.0.1:port`."""
        host, port = self.endpoint
        return f"tcp://{host}:{port}"

    def queue(self, direction: Direction, attacks: Sequence[Attack]) -> None:
        """Have `attacks` carried out in order, each at a passing frame of its own."""
        self._attacks[direction].extend(attacks)

    def pending(self, direction: Direction) -> int:
        """How many queued attacks have not been carried out yet."""
        return len(self._attacks[direction])

    def towards(self, direction: Direction | None = None) -> list[Stream]:
        """The streams of one direction, or all, in the order of their connections."""
        return [s for s in list(self.streams) if direction in (None, s.direction)]

    def passed(self, direction: Direction | None = None) -> int:
        """Bytes that passed, one way or both."""
        return sum(stream.passed for stream in self.towards(direction))

    def frame_count(self, direction: Direction | None = None) -> int:
        """ZMTP frames that passed, commands included, one way or both."""
        return sum(stream.frame_count for stream in self.towards(direction))

    def unrecorded(self) -> int:
        """Bytes that passed after a tape was full."""
        return sum(stream.passed - stream.recorded for stream in self.towards())

    def captured(self, direction: Direction) -> list[memoryview]:
        """Recorded single-frame messages of the tap's users, oldest first in each stream.

        Each is a whole frame, which can be put into a stream as it stands.
        """
        return [
            stream.view(frame.start, frame.end)
            for stream in self.towards(direction)
            for frame in list(stream.frames)
            if frame.whole and not frame.command and frame.end <= stream.recorded
        ]

    def close(self) -> None:
        """Cut every connection and end every thread."""
        with self._lock:
            self._closed = True
            for each in self._open_sockets:
                _cut(each)
        with contextlib.suppress(OSError):  # wakes the thread that accepts
            socket.create_connection(self.endpoint, timeout=1.0).close()
        self._listener.close()
        for thread in self._threads:
            thread.join(5.0)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _spawn(self, run: Callable[[], None]) -> threading.Thread:
        thread = threading.Thread(target=run, name="wiretap", daemon=True)
        self._threads.append(thread)
        thread.start()
        return thread

    def _accept(self) -> None:
        number = 0
        while True:
            try:
                dialer, _ = self._listener.accept()
            except OSError:
                return
            if self._closed:
                dialer.close()
                return
            try:
                listener = socket.create_connection(self._target, timeout=5.0)
            except OSError:
                dialer.close()
                continue
            listener.settimeout(None)
            with self._lock:
                if self._closed:
                    dialer.close()
                    listener.close()
                    return
                self._open_sockets |= {dialer, listener}
            self._spawn(partial(self._serve, number, dialer, listener))
            number += 1

    def _serve(self, number: int, dialer: socket.socket, listener: socket.socket) -> None:
        """Carry one connection, both ways, until either side ends it."""
        pumps = []
        for direction, source, sink in (
            (Direction.TO_LISTENER, dialer, listener),
            (Direction.TO_DIALER, listener, dialer),
        ):
            source.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _KERNEL_BUFFER)
            source.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _KERNEL_BUFFER)
            source.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            ready = self._ready_tapes if direction is Direction.TO_LISTENER else []
            tape = ready.pop() if ready else blank_tape(self._tape_limit)
            stream = Stream(f"connection {number}", direction, tape)
            self.streams.append(stream)
            attacks = self._attacks[direction]
            pumps.append(_Pump(stream, source, sink, attacks, self._count_injected))
        backward = self._spawn(pumps[1].run)
        pumps[0].run()
        backward.join()
        with self._lock:
            self._open_sockets -= {dialer, listener}
        dialer.close()
        listener.close()

    def _count_injected(self, kind: AttackKind, frames: int) -> None:
        with self._lock:
            self.injected[kind] += frames


class _Pump:
    """Moves one stream from its source to its sink, and carries out the attacks.

    Without attacks bytes leave as they came. While attacks wait, a message is
    held until it is complete, because a forged copy has to go ahead of it.
    """

    def __init__(
        self,
        stream: Stream,
        source: socket.socket,
        sink: socket.socket,
        attacks: deque[Attack],
        count_injected: Callable[[AttackKind, int], None],
    ) -> None:
        self._stream = stream
        self._source = source
        self._sink = sink
        self._attacks = attacks
        self._count_injected = count_injected
        self._sent = 0  # bytes of the stream that have left
        self._in_use = False  # a message of the tap's user has passed

    def run(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                room = self._stream.room()
                size = self._source.recv_into(room)
                if size == 0:
                    break
                self._forward(room[:size], self._stream.advance(room[:size]))
        _cut(self._source)
        _cut(self._sink)

    def _forward(self, received: memoryview, frames: list[Frame]) -> None:
        stream = self._stream
        if not stream.complete:
            self._flush(stream.recorded)
            self._sink.sendall(received)
            return
        for frame in frames:
            if frame.command or not frame.whole:
                continue
            if self._in_use and frame.start >= self._sent:
                self._attack(frame)
            self._in_use = True
        held_from = stream.reader.message_start
        holding = self._attacks and self._in_use and held_from >= self._sent
        self._flush(held_from if holding else stream.passed)

    def _flush(self, end: int) -> None:
        if end > self._sent:
            self._sink.sendall(self._stream.view(self._sent, end))
            self._sent = end

    def _attack(self, frame: Frame) -> None:
        try:
            attack = self._attacks.popleft()
        except IndexError:
            return
        if frame.size < max(attack.at_least, 1):
            self._attacks.appendleft(attack)
            return
        self._flush(frame.start)
        if attack.kind in (AttackKind.REPLAY, AttackKind.REFLECT):
            for packet in attack.packets:
                self._sink.sendall(packet)
            self._count_injected(attack.kind, len(attack.packets))
            return
        changed = bytearray(self._stream.view(frame.start, frame.end))
        bit = attack.bit % (8 * frame.size)
        changed[frame.body - frame.start + bit // 8] ^= 1 << bit % 8
        self._sink.sendall(changed)
        self._count_injected(attack.kind, 1)
        if attack.kind is AttackKind.CORRUPT:
            self._sent = frame.end


def _cut(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
