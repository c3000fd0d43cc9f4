"""A TCP proxy on the loopback interface that cuts, stalls, slows and refuses on command."""

from __future__ import annotations

import socket
import struct
import threading
import time
from types import TracebackType

_CHUNK = 64 * 1024
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close with a reset, not politely


class ChaosProxy:
    """Forwards connections to `target`, "tcp://HOST:PORT"; every method may be called any time."""

    def __init__(self, target: str) -> None:
        host, _, port = target.removeprefix("tcp://").rpartition(":")
        self._target = (host, int(port))
        self._changed = threading.Condition()
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._stalled = False
        self._refusing = False
        self._closed = False
        self._pause = 0.0
        self.forwarded = 0
        """Bytes passed on, both ways."""
        self.accepted = 0
        """Connections accepted so far."""
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.address = f"tcp://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> ChaosProxy:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    # --- what a test commands -----------------------------------------------------------------

    def cut(self, count: int | None = None) -> int:
        """Reset the oldest `count` connections, or all; return how many there were."""
        with self._changed:
            doomed, self._pairs = self._pairs[:count], self._pairs[len(self._pairs[:count]) :]
            for pair in doomed:
                _reset(pair)
            self._changed.notify_all()
            return len(doomed)

    def refuse(self, on: bool = True) -> None:
        """Reset whatever connects from now on."""
        with self._changed:
            self._refusing = on

    def stall(self, on: bool = True) -> None:
        """Pass nothing on, and cut nothing."""
        with self._changed:
            self._stalled = on
            self._changed.notify_all()

    def slow(self, pause: float) -> None:
        """Wait `pause` seconds before each chunk of at most 64 KiB."""
        self._pause = pause

    def await_bytes(self, count: int, patience: float = 30.0) -> None:
        """Return once `count` more bytes have been passed on."""
        with self._changed:
            goal = self.forwarded + count
            if not self._changed.wait_for(lambda: self.forwarded >= goal, patience):
                raise AssertionError(f"{goal - self.forwarded} bytes short after {patience} s")

    def await_connections(self, count: int, patience: float = 30.0) -> None:
        """Return once `count` connections stand."""
        with self._changed:
            if not self._changed.wait_for(lambda: len(self._pairs) >= count, patience):
                raise AssertionError(f"{len(self._pairs)} connections after {patience} s")

    def close(self) -> None:
        """Stop; all connections are reset."""
        with self._changed:
            self._closed = True
        self._listener.close()
        self.cut()

    # --- how it is carried out ----------------------------------------------------------------

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            try:
                far = socket.create_connection(self._target)
            except OSError:
                _reset((near, near))
                continue
            for each in (near, far):
                each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._changed:
                if self._refusing or self._closed:
                    _reset((near, far))
                    continue
                self.accepted += 1
                self._pairs.append((near, far))
                self._changed.notify_all()
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=self._carry, args=(source, sink), daemon=True).start()

    def _carry(self, source: socket.socket, sink: socket.socket) -> None:
        try:
            while chunk := source.recv(_CHUNK):
                with self._changed:
                    self._changed.wait_for(lambda: not self._stalled or self._closed)
                if self._pause:
                    time.sleep(self._pause)  # this is the behaviour asked for, not a wait
                sink.sendall(chunk)
                with self._changed:
                    self.forwarded += len(chunk)
                    self._changed.notify_all()
        except OSError:
            pass
        with self._changed:
            self._pairs = [pair for pair in self._pairs if source not in pair]
        _reset((source, sink))


def _reset(pair: tuple[socket.socket, socket.socket]) -> None:
    for each in pair:
        try:
            each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            each.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        each.close()
