"""A TCP proxy that cuts, stalls, slows and refuses on command: a bad network made to order.

Bytes move from socket to socket by splice(2), within the kernel, so that the
proxy costs a fraction of what its users do. One proxy is one path: several of
them in front of a listener's addresses are rails that fail one by one. A file
descriptor is closed only once no thread can use its number any more.
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Final, Literal, Self

_CHUNK: Final = 1024 * 1024  # the most that Linux lets an unprivileged pipe hold
_SLOW_TURN: Final = 0.005  # seconds worth of bytes that a slow path passes on at a time
_WAYS: Final = ("target", "caller")
_RESET: Final = struct.pack("ii", 1, 0)  # SO_LINGER: close with a reset, not politely


class Proxy:
    """Forwards connections to `target`, "tcp://HOST:PORT"; methods may be called by any thread.

    `address` is where it listens: a free port of `host`.
    """

    def __init__(self, target: str, host: str = "127.0.0.1") -> None:
        target_host, _, port = target.removeprefix("tcp://").rpartition(":")
        self._target = (target_host, int(port))
        self._changed = threading.Condition()
        self._connections: list[_Connection] = []
        self._stalled: set[str] = set()  # the ways that nothing passes
        self._refusing = False
        self._closed = False
        self._rate: float | None = None
        self.forwarded = 0
        """Bytes passed on, both ways."""
        self.accepted = 0
        """Connections accepted so far."""
        self._listener = socket.create_server((host, 0), backlog=64)
        self.address = f"tcp://{host}:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    # --- what its user commands ----------------------------------------------------------------

    def cut(self, count: int | None = None) -> int:
        """Reset the oldest `count` connections, or all; return how many there were."""
        with self._changed:
            doomed = self._connections[:count]
            del self._connections[:count]
            for connection in doomed:
                connection.end()
            self._changed.notify_all()
            return len(doomed)

    def refuse(self, on: bool = True) -> None:
        """Reset whatever connects from now on."""
        with self._changed:
            self._refusing = on

    def stall(self, on: bool = True, *, towards: Literal["target", "caller"] | None = None) -> None:
        """Pass nothing on, and cut nothing: what a black hole is to both ends.

        With `towards`, only nothing that travels to that end; the other way stays as it is.
        """
        ways = _WAYS if towards is None else (towards,)
        with self._changed:
            self._stalled = self._stalled.union(ways) if on else self._stalled.difference(ways)
            self._changed.notify_all()

    def slow(self, rate: float | None) -> None:
        """Pass at most `rate` bytes a second on, each way of each connection; None: all there is.

        Raises:
            ValueError: the rate is not positive.
        """
        if rate is not None and rate <= 0:
            raise ValueError(f"a rate must be positive, got {rate}")
        with self._changed:
            self._rate = rate
            self._changed.notify_all()

    def await_true(self, condition: Callable[[], bool], patience: float) -> bool:
        """Return once `condition` holds, or False after `patience` seconds.

        It is looked at whenever bytes were passed on or connections came and went.
        """
        with self._changed:
            return self._changed.wait_for(condition, patience)

    @property
    def standing(self) -> int:
        """Connections that stand now."""
        return len(self._connections)

    def close(self) -> None:
        """Stop; all connections are reset."""
        with self._changed:
            if self._closed:
                return
            self._closed = True
        self._listener.shutdown(socket.SHUT_RDWR)  # closing alone would not wake `accept`
        self._listener.close()
        self.cut()

    # --- how it is carried out -----------------------------------------------------------------

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return  # closed
            try:
                far = socket.create_connection(self._target)
            except OSError:
                _close(near)
                continue
            connection = _Connection(near, far)
            with self._changed:
                if self._refusing or self._closed:
                    _close(near)
                    _close(far)
                    continue
                self.accepted += 1
                self._connections.append(connection)
                self._changed.notify_all()
            for way in _WAYS:
                threading.Thread(target=self._carry, args=(connection, way), daemon=True).start()

    def _carry(self, connection: _Connection, way: str) -> None:
        near, far = connection.ends
        source, sink = (near, far) if way == "target" else (far, near)
        reader, writer = os.pipe()
        try:
            fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, _CHUNK)
            while taken := os.splice(source.fileno(), writer, _CHUNK):
                while taken:
                    turn = self._await_turn(connection, way, taken)
                    passed = os.splice(reader, sink.fileno(), turn)
                    taken -= passed
                    with self._changed:
                        self.forwarded += passed
                        self._changed.notify_all()
        except OSError:
            pass  # cut, by either end or on command
        finally:
            os.close(reader)
            os.close(writer)
        with self._changed:
            if connection in self._connections:
                self._connections.remove(connection)
            connection.end()
            connection.leave()
            self._changed.notify_all()

    def _await_turn(self, connection: _Connection, way: str, count: int) -> int:
        """Wait while stalled, and as long as a slow path takes; return how much may pass then."""
        with self._changed:
            self._changed.wait_for(lambda: way not in self._stalled or connection.ended)
            rate = self._rate
            if rate is None:
                return count
            turn = max(1, min(count, int(rate * _SLOW_TURN)))
            self._changed.wait_for(lambda: self._rate != rate or connection.ended, turn / rate)
            return turn


class _Connection:
    """Two sockets and the two threads between them; used under the proxy's lock."""

    __slots__ = ("_carriers", "ended", "ends")

    def __init__(self, near: socket.socket, far: socket.socket) -> None:
        self.ends = (near, far)
        self.ended = False
        self._carriers = 2
        for each in self.ends:
            each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def end(self) -> None:
        """Wake both threads from whatever they wait for: nothing more is carried."""
        if self.ended:
            return
        self.ended = True
        for each in self.ends:
            try:
                each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                each.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # the other end was quicker

    def leave(self) -> None:
        """A thread is done; the last one resets the connection."""
        self._carriers -= 1
        if not self._carriers:
            for each in self.ends:
                each.close()


def _close(end: socket.socket) -> None:
    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    end.close()
