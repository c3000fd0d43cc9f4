"""One worker process: one end of one peer, taking orders from the measuring process.

Run as `python -m ….peers.worker SOCKET PEER ROLE DEADLINE`. Every timed sequence begins
with a message from the receiving end that it is ready and ends with its
acknowledgement, so that a time spans the whole way.
"""

from __future__ import annotations

import contextlib
import os
import resource
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np

from . import endpoint_class
from .endpoint import Bytes, Channel, Endpoint, Listener, Role
from .serving import serve

_PATTERN = np.resize(np.arange(251, dtype=np.uint8), 251 * 4096)  # about 1 MiB


class Worker:
    """The orders that a worker carries out; each public method is one."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._listeners: dict[str, Listener] = {}
        self._diallers: dict[str, Callable[[str], Channel[Any]]] = {}
        self._channels: dict[str, Channel[Any]] = {}
        self._memory: Bytes = np.zeros(0, np.uint8)
        self._cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []

    def describe(self) -> dict[str, str]:
        """Return what is measured: version, words, and where our own package was found."""
        description = {"version": self._endpoint.version(), "about": self._endpoint.about}
        ours = sys.modules.get("transport")
        if ours is not None and ours.__file__ is not None:
            description["library"] = os.path.dirname(os.path.realpath(ours.__file__))
        return description

    def introduction(self) -> dict[str, str]:
        """Return what the other worker must be told."""
        return self._endpoint.introduction()

    def meet(self, introduction: dict[str, str]) -> None:
        """Take the other worker's introduction."""
        self._endpoint.meet(introduction)

    def listen(self, channel: str) -> str:
        """Bind; return the address to dial."""
        listener = self._listeners[channel] = self._endpoint.listen()
        return listener.address

    def accept(self, channel: str) -> None:
        """Wait for the dialler and echo its first message."""
        made = self._channels[channel] = self._listeners.pop(channel).accept()
        byte = made.wrap(np.zeros(1, np.uint8))
        made.receive(byte)
        made.send(byte)

    def prepare(self, channel: str) -> None:
        """Make everything that dialling needs besides the address."""
        self._diallers[channel] = self._endpoint.dialler()

    def dial(self, channel: str, address: str) -> float:
        """Return the seconds from dialling until one byte went there and back."""
        dial = self._diallers.pop(channel)
        byte = np.zeros(1, np.uint8)
        started = time.perf_counter()
        made = dial(address)
        wrapped = made.wrap(byte)
        made.send(wrapped)
        made.receive(wrapped)
        elapsed = time.perf_counter() - started
        self._channels[channel] = made
        return elapsed

    def hang_up(self, channel: str) -> None:
        """Close one channel."""
        self._channels.pop(channel).close()

    def place(self, apart: bool) -> None:
        """Keep this process to its own half of the cores, or let it run on all of them.

        Free processes share a core or do not as the scheduler likes, and a round trip
        over one core takes a third of the time of one over two. Apart is the way
        between two hosts. It needs two cores and Linux, and is left undone elsewhere.
        """
        if len(self._cores) < 2:
            return
        half = len(self._cores) // 2
        own = self._cores[:half] if self._endpoint.role == "initiator" else self._cores[half:]
        for thread in os.listdir("/proc/self/task"):
            # A thread may end meanwhile; later ones inherit from the main thread.
            with contextlib.suppress(ProcessLookupError):
                os.sched_setaffinity(int(thread), own if apart else self._cores)

    def reserve(self, nbytes: int) -> None:
        """Hold at least that much memory, every page of it touched."""
        if self._memory.nbytes < nbytes:
            self._memory = np.zeros(0, np.uint8)
            self._memory = np.empty(nbytes, np.uint8)
            _fill(self._memory)

    def send_stream(self, nbytes: int, batch: int, repeat: int) -> list[float]:
        """Send `batch` messages `repeat` times; return the seconds until each was acknowledged."""
        channel = self._channels["main"]
        payload = channel.wrap(self._memory[:nbytes])
        signal = channel.wrap(np.zeros(1, np.uint8))
        times = []
        for _ in range(repeat):
            channel.receive(signal)
            started = time.perf_counter()
            channel.send_many(payload, batch)
            channel.receive(signal)
            times.append(time.perf_counter() - started)
        return times

    def receive_stream(self, nbytes: int, batch: int, repeat: int, places: int) -> int:
        """Receive what `send_stream` sends, in turn into so many places; return bytes wrong."""
        channel = self._channels["main"]
        ring = [self._memory[index * nbytes : (index + 1) * nbytes] for index in range(places)]
        self._memory[: places * nbytes] = 0
        destinations = [channel.wrap(place) for place in ring]
        signal = channel.wrap(np.zeros(1, np.uint8))
        for _ in range(repeat):
            channel.send(signal)
            channel.receive_many(destinations, batch)
            channel.send(signal)
        return sum(_wrong(place) for place in ring)

    def ping(self, nbytes: int, count: int, warm_up: int) -> list[float]:
        """Return `count` round-trip times; `warm_up` more go before, not timed."""
        channel = self._channels["main"]
        payload = channel.wrap(np.ones(nbytes, np.uint8))
        answer = channel.wrap(np.zeros(nbytes, np.uint8))
        for _ in range(warm_up):
            channel.send(payload)
            channel.receive(answer)
        times = []
        for _ in range(count):
            started = time.perf_counter()
            channel.send(payload)
            channel.receive(answer)
            times.append(time.perf_counter() - started)
        return times

    def pong(self, nbytes: int, count: int, warm_up: int) -> None:
        """Answer what `ping` sends."""
        channel = self._channels["main"]
        payload = channel.wrap(np.ones(nbytes, np.uint8))
        question = channel.wrap(np.zeros(nbytes, np.uint8))
        for _ in range(count + warm_up):
            channel.receive(question)
            channel.send(payload)

    def send_late(self, seconds: float) -> None:
        """Let the other end wait so long, then send it a byte."""
        channel = self._channels["main"]
        byte = channel.wrap(np.zeros(1, np.uint8))
        channel.receive(byte)
        time.sleep(seconds)
        channel.send(byte)

    def wait(self) -> float:
        """Return the share of a core that this process takes while it waits for a message."""
        channel = self._channels["main"]
        byte = channel.wrap(np.zeros(1, np.uint8))
        channel.send(byte)
        taken, started = time.process_time(), time.perf_counter()
        channel.receive(byte)
        return (time.process_time() - taken) / (time.perf_counter() - started)

    def close(self) -> None:
        """Close every channel, as far as that goes."""
        for channel in self._channels.values():
            try:
                channel.close()
            except Exception:
                traceback.print_exc()
        self._channels.clear()

    def peak_memory(self) -> int:
        """Return the largest resident size of this process so far, in bytes."""
        return peak_resident()


def peak_resident() -> int:
    """Return this process's peak resident set in bytes.

    Linux's VmHWM belongs to the program that runs; `ru_maxrss` would count what the
    parent had resident when it forked.
    """
    try:
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _fill(memory: Bytes) -> None:
    for offset in range(0, memory.nbytes, _PATTERN.nbytes):
        piece = memory[offset : offset + _PATTERN.nbytes]
        piece[:] = _PATTERN[: piece.nbytes]


def _wrong(memory: Bytes) -> int:
    wrong = 0
    for offset in range(0, memory.nbytes, _PATTERN.nbytes):
        piece = memory[offset : offset + _PATTERN.nbytes]
        wrong += int(np.count_nonzero(piece != _PATTERN[: piece.nbytes]))
    return wrong


def main(arguments: list[str]) -> None:
    """Run one worker: socket, peer, role, deadline."""
    where, peer, role, deadline = arguments[0], arguments[1], cast(Role, arguments[2]), arguments[3]
    serve(
        lambda: Worker(endpoint_class(peer)(role=role, deadline=float(deadline))),
        where,
        float(deadline),
    )


if __name__ == "__main__":
    main(sys.argv[1:])
