"""A peer as the measuring process sees it: two workers and what can be asked of them."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
from types import TracebackType
from typing import IO, Any

from ..errors import BenchError
from . import CATALOGUE, missing
from .control import Control

_GRACE = 10.0  # seconds beyond the workers' own deadline
_STOP = 3.0  # seconds in which a worker ends by itself
_LOG_TAIL = 600  # characters of a worker's last words in an error
_PLACES = 8  # destinations that a stream of messages takes in turn
_SMALL_PLACES = 64


class Peer:
    """Two worker processes of one transport, linked over loopback.

    Times are seconds and sizes bytes. With `apart`, latencies are taken with each
    process on its own half of the cores; else the scheduler places them, as it does
    for users. Every call ends within the deadline or raises `BenchError`; after an
    error the peer can only be closed.
    """

    def __init__(self, name: str, *, deadline: float = 60.0, apart: bool = False) -> None:
        self.name = name
        self.version = ""
        self.about = ""
        self.secures = CATALOGUE[name].secures if name in CATALOGUE else False
        self._deadline = deadline
        self._initiator: _Process | None = None
        self._responder: _Process | None = None
        self._wants_apart = apart
        self._apart = False

    def start(self) -> None:
        """Start both workers and link them.

        Raises:
            BenchError: the transport is not installed, or no link came up.
        """
        if (reason := missing(self.name)) is not None:
            raise BenchError(reason)
        self._initiator = _Process(self.name, "initiator", self._deadline)
        self._responder = _Process(self.name, "responder", self._deadline)
        description = self._initiator.ask("describe")
        self.version, self.about = description["version"], description["about"]
        initiator, responder = self._both()
        introductions = initiator.ask("introduction"), responder.ask("introduction")
        initiator.ask("meet", introduction=introductions[1])
        responder.ask("meet", introduction=introductions[0])
        self._link("main")

    def one_way(self, nbytes: int, repeat: int, *, batch: int = 1) -> list[float]:
        """Return `repeat` times a message, each the mean over a stream of `batch`.

        A time runs from the first send until the receiver's acknowledgement that the
        last byte lies in its destination.
        """
        places = min(batch, _PLACES)
        times = self._stream(nbytes, batch, repeat, places)
        return [elapsed / batch for elapsed in times]

    def message_rate(self, nbytes: int, count: int) -> float:
        """Return messages a second, `count` sent without waiting for one another."""
        (elapsed,) = self._stream(nbytes, count, 1, min(count, _SMALL_PLACES))
        return count / elapsed

    def round_trip(self, nbytes: int, count: int) -> list[float]:
        """Return `count` times from sending a message to having its equal back."""
        self._place(apart=self._wants_apart)
        initiator, responder = self._both()
        order = {"nbytes": nbytes, "count": count, "warm_up": count // 10 + 1}
        responder.order("pong", **order)
        initiator.order("ping", **order)
        times: list[float] = initiator.answer()
        responder.answer()
        return times

    def handshake(self, count: int) -> list[float]:
        """Return `count` times from dialling to a byte there and back, all ends new."""
        self._place(apart=self._wants_apart)
        times = []
        for _ in range(count):
            times.append(self._link("trial"))
            for process in self._both():
                process.ask("hang_up", channel="trial")
        return times

    def reserve(self, nbytes: int) -> None:
        """Make both workers hold that much touched memory, before anything is timed."""
        for process in self._both():
            process.order("reserve", nbytes=nbytes)
        for process in self._both():
            process.answer()

    def peak_memory(self) -> tuple[int, int]:
        """Return the peak resident size of initiator and responder."""
        initiator, responder = self._both()
        return initiator.ask("peak_memory"), responder.ask("peak_memory")

    def close(self) -> None:
        """End both workers."""
        running = [process for process in (self._initiator, self._responder) if process]
        for process in running:
            process.stop()
        for process in running:
            process.close()
        self._initiator = self._responder = None

    def __enter__(self) -> Peer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        self.close()

    def _both(self) -> tuple[_Process, _Process]:
        if self._initiator is None or self._responder is None:
            raise BenchError(f"{self.name} is not running")
        return self._initiator, self._responder

    def _place(self, *, apart: bool) -> None:
        if apart != self._apart:
            for process in self._both():
                process.ask("place", apart=apart)
            self._apart = apart

    def _link(self, channel: str) -> float:
        initiator, responder = self._both()
        address = responder.ask("listen", channel=channel)
        responder.order("accept", channel=channel)
        initiator.ask("prepare", channel=channel)
        elapsed: float = initiator.ask("dial", channel=channel, address=address)
        responder.answer()
        return elapsed

    def _stream(self, nbytes: int, batch: int, repeat: int, places: int) -> list[float]:
        self._place(apart=False)
        self.reserve(nbytes * places)
        initiator, responder = self._both()
        order = {"nbytes": nbytes, "batch": batch, "repeat": repeat}
        responder.order("receive_stream", places=places, **order)
        initiator.order("send_stream", **order)
        times: list[float] = initiator.answer()
        wrong: int = responder.answer()
        if wrong:
            raise BenchError(f"{wrong} bytes arrived wrong")
        return times


class _Process:
    """One worker process and the control socket to it."""

    def __init__(self, name: str, role: str, deadline: float) -> None:
        self._what = f"{name} {role}"
        self._deadline = deadline
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed in close()
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", f"{__package__}.worker", name, role, str(deadline)],
                stdin=theirs.fileno(),
                stdout=self._log,
                stderr=self._log,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(_import_path())},
            )
        self._control = Control(ours)

    def ask(self, what: str, **order: Any) -> Any:
        """Give an order and return its answer."""
        self.order(what, **order)
        return self.answer()

    def order(self, what: str, **order: Any) -> None:
        """Give an order; `answer` must be called once for it."""
        self._control.send({"do": what, **order})

    def answer(self) -> Any:
        """Return the answer to the last order."""
        try:
            answer = self._control.receive(self._deadline + _GRACE)
        except BenchError as error:
            raise BenchError(f"{self._what}: {error}\n{self._last_words()}") from None
        if "error" in answer:
            raise BenchError(f"{self._what}: {answer['error']}")
        return answer["value"]

    def stop(self) -> None:
        """Ask the worker to close its channels and to stop; it may be gone already."""
        with contextlib.suppress(BenchError):
            self.order("close")
            self.order("stop")

    def close(self) -> None:
        """Wait a little for the worker to end, then end it."""
        try:
            self._process.wait(timeout=_STOP)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._control.close()
        self._log.close()

    def _last_words(self) -> str:
        self._log.seek(0)
        text = self._log.read().decode("utf-8", "replace").strip()
        return text[-_LOG_TAIL:] or "it left no words"


def _import_path() -> list[str]:
    # The worker must find this package and the library wherever this process did.
    return [entry or os.getcwd() for entry in sys.path]
