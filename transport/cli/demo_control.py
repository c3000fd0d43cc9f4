"""The control of the demonstration: the same search, where tensors travel in the clear.

A search that finds nothing proves little unless it is known to find what is
there. So tensors are sent once through a wiretap of their own, as plain ZMTP
frames without any sealing, to a socket that discards them.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Sequence
from typing import Final

from .demo_tensors import NamedTensor, raw_bytes
from .scanner import WireIndex
from .tape import Direction
from .wiretap import Wiretap
from .zmtp import GREETING_SIZE, LONG

_GREETING: Final = (b"\xff" + bytes(8) + b"\x7f\x03\x01NULL").ljust(GREETING_SIZE, b"\0")
_TIMEOUT: Final = 20.0  # seconds


def found_in_the_clear(tensors: Sequence[NamedTensor]) -> list[str]:
    """Names of those `tensors` that the search finds when nothing is sealed."""
    with socket.create_server(("127.0.0.1", 0)) as sink:
        sink.settimeout(_TIMEOUT)
        discarder = threading.Thread(target=_discard, args=(sink,), daemon=True)
        discarder.start()
        with Wiretap(sink.getsockname()) as tap:
            with socket.create_connection(tap.endpoint, timeout=_TIMEOUT) as sender:
                sender.sendall(_GREETING)
                for tensor in tensors:
                    for body in (tensor.name.encode(), raw_bytes(tensor.array).tobytes()):
                        sender.sendall(bytes([LONG]) + len(body).to_bytes(8, "big") + body)
                sender.shutdown(socket.SHUT_WR)
                discarder.join(_TIMEOUT)
            index = WireIndex([stream.tape for stream in tap.towards(Direction.TO_LISTENER)])
    return [
        tensor.name
        for tensor in tensors
        if index.find_tensor(raw_bytes(tensor.array)) and index.find_text(tensor.name.encode())
    ]


def _discard(sink: socket.socket) -> None:
    connection, _ = sink.accept()
    with connection:
        connection.settimeout(_TIMEOUT)
        while connection.recv(1 << 20):
            pass
