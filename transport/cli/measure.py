"""Short measurements of one machine: sealing, copying, loopback TCP.

Each takes a fraction of a second and returns the best or the median of what it
saw, because other programs can only make a figure worse. Rates are bytes per
second and times seconds.
"""

from __future__ import annotations

import os
import socket
import statistics
import threading
from collections.abc import Callable
from time import perf_counter
from typing import Final

import numpy as np
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

MIB: Final = 1024 * 1024
_TAG_SIZE: Final = 16
_HEADER_SIZE: Final = 32
_COPY_SIZE: Final = 64 * MIB
_SOCKET_TIMEOUT: Final = 5.0  # seconds; a firewall that eats loopback must not hang us


def sealing_seconds(size: int, duration: float = 0.2) -> float:
    """Time to seal `size` bytes with AES-256-GCM on one core, header included."""
    cipher = AESGCM(os.urandom(32))
    plaintext = os.urandom(size)
    header = bytes(_HEADER_SIZE)
    sealed = bytearray(size + _TAG_SIZE)
    number = 0

    def seal() -> None:
        nonlocal number
        number += 1
        cipher.encrypt_into(number.to_bytes(12, "big"), plaintext, header, sealed)

    return _best(seal, duration, batch=max(1, 64 * 1024 // max(size, 64)))


def copy_rate(duration: float = 0.2) -> float:
    """Bytes a second that one core copies between buffers larger than most caches."""
    source = np.full(_COPY_SIZE, 1, np.uint8)
    destination = np.full(_COPY_SIZE, 2, np.uint8)  # written, so that it is in memory
    return _COPY_SIZE / _best(lambda: np.copyto(destination, source), duration)


def loopback_rate(kernel_buffer: int, duration: float = 0.5) -> float:
    """Bytes a second from one thread to another over TCP on 127.0.0.1, 1 MiB writes."""
    sender, receiver = _connected_pair(kernel_buffer)
    received = 0

    def drain() -> None:
        nonlocal received
        buffer = bytearray(MIB)
        while size := receiver.recv_into(buffer):
            received += size

    with sender, receiver:
        drainer = threading.Thread(target=drain, daemon=True)
        drainer.start()
        block = bytes(MIB)
        start = perf_counter()
        while perf_counter() - start < duration:
            sender.sendall(block)
        sender.shutdown(socket.SHUT_WR)
        drainer.join(_SOCKET_TIMEOUT)
        return received / (perf_counter() - start)


def loopback_round_trip(duration: float = 0.3, size: int = 64) -> float:
    """Median round trip of `size` bytes between two threads over TCP on 127.0.0.1."""
    caller, echoer = _connected_pair(kernel_buffer=None)

    def echo() -> None:
        while message := echoer.recv(size):
            echoer.sendall(message)

    with caller, echoer:
        thread = threading.Thread(target=echo, daemon=True)
        thread.start()
        message = bytes(size)
        times = []
        start = last = perf_counter()
        while last - start < duration:
            caller.sendall(message)
            if not caller.recv(size, socket.MSG_WAITALL):
                break
            now = perf_counter()
            times.append(now - last)
            last = now
        caller.shutdown(socket.SHUT_WR)
        thread.join(_SOCKET_TIMEOUT)
    return statistics.median(times)


def _connected_pair(kernel_buffer: int | None) -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(_SOCKET_TIMEOUT)
        caller = socket.create_connection(server.getsockname(), timeout=_SOCKET_TIMEOUT)
        accepted, _ = server.accept()
    for each in (caller, accepted):
        each.settimeout(_SOCKET_TIMEOUT)
        each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if kernel_buffer is not None:
            each.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, kernel_buffer)
            each.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, kernel_buffer)
    return caller, accepted


def _best(step: Callable[[], object], duration: float, batch: int = 1) -> float:
    """Shortest time of one `step`, over batches within `duration`."""
    best = float("inf")
    start = last = perf_counter()
    while last - start < duration:
        for _ in range(batch):
            step()
        now = perf_counter()
        best = min(best, (now - last) / batch)
        last = now
    return best
