"""The orders that the measuring process gives a worker: JSON lines on a local socket.

Nothing that is measured travels here. JSON, because no process of this project
unpickles anything.
"""

from __future__ import annotations

import json
import os
import socket
import time
from typing import Any

from ..errors import BenchError

INHERITED = "-"  # where a worker finds its socket: standard input
_CHUNK = 2**16  # bytes read at once


def to_measuring_process(where: str) -> Control:
    """Return a worker's end: its standard input, or a Unix socket by its path.

    A launcher such as mpirun stands between the two processes and passes no socket on,
    so that its workers dial one that lies in a private folder.
    """
    if where == INHERITED:
        return Control(socket.socket(fileno=os.dup(0)))
    stream = socket.socket(socket.AF_UNIX)
    stream.connect(where)
    return Control(stream)


class Control:
    """One end of the socket between the measuring process and a worker."""

    def __init__(self, stream: socket.socket) -> None:
        self._stream = stream
        self._pending = bytearray()

    def send(self, message: dict[str, Any]) -> None:
        """Send one message.

        Raises:
            BenchError: the other process is gone.
        """
        try:
            self._stream.sendall(json.dumps(message).encode() + b"\n")
        except OSError as error:
            raise BenchError(f"the other process is gone: {error}") from error

    def receive(self, timeout: float | None = None) -> dict[str, Any]:
        """Return the next message; `timeout` in seconds, None waits for ever.

        Raises:
            BenchError: the other process is gone, or silent for `timeout`.
        """
        limit = None if timeout is None else time.monotonic() + timeout
        while b"\n" not in self._pending:
            self._stream.settimeout(None if limit is None else max(limit - time.monotonic(), 0.001))
            try:
                chunk = self._stream.recv(_CHUNK)
            except TimeoutError:
                raise BenchError(f"no answer within {timeout} s") from None
            except OSError as error:
                raise BenchError(f"the other process is gone: {error}") from error
            if not chunk:
                raise BenchError("the other process is gone")
            self._pending += chunk
        line, _, rest = bytes(self._pending).partition(b"\n")
        self._pending = bytearray(rest)
        message: dict[str, Any] = json.loads(line)
        return message

    def close(self) -> None:
        """Close this end; the other sees the end of the stream."""
        self._stream.close()
