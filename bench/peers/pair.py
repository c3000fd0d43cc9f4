"""A peer as the measuring process sees it: two workers and what can be asked of them."""

from __future__ import annotations

from pathlib import Path

from ..errors import BenchError
from . import CATALOGUE, launcher, missing
from .crew import Crew, Member

_PLACES = 8  # destinations that a stream of messages takes in turn
_SMALL_PLACES = 64


class Peer:
    """Two worker processes of one transport, linked over loopback.

    Times are seconds and sizes bytes. With `apart`, latencies are taken with each
    process on its own half of the cores; else the scheduler places them, as it does
    for users. With `packages`, workers import `transport` and `bench` from that folder
    and not from where this process did. Every call ends within the deadline or raises
    `BenchError`; after an error the peer can only be closed.
    """

    def __init__(
        self,
        name: str,
        *,
        deadline: float = 60.0,
        apart: bool = False,
        packages: Path | None = None,
    ) -> None:
        self.name = name
        self.version = ""
        self.library: Path | None = None  # the package `transport` that the workers imported
        self.about = ""
        self.secures = CATALOGUE[name].secures if name in CATALOGUE else False
        self._deadline = deadline
        self._packages = packages
        self._crew: Crew | None = None
        self._wants_apart = apart
        self._apart = False

    def start(self) -> None:
        """Start both workers and link them.

        Raises:
            BenchError: the transport is not installed, or no link came up.
        """
        if (reason := missing(self.name)) is not None:
            raise BenchError(reason)
        self._crew = Crew(
            f"{'bench.peers' if self._packages else __package__}.worker",
            {
                self._label(role): (self.name, role, str(self._deadline))
                for role in ("initiator", "responder")
            },
            deadline=self._deadline,
            launch=launcher(self.name),
            first=self._packages,
        )
        initiator, responder = self._both()
        description = initiator.ask("describe")
        self.version, self.about = description["version"], description["about"]
        self.library = Path(description["library"]) if "library" in description else None
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

    def waiting(self, seconds: float) -> float:
        """Return the share of a core that a process takes that waits so long for a message."""
        self._place(apart=False)
        initiator, responder = self._both()
        initiator.order("send_late", seconds=seconds)
        responder.order("wait")
        initiator.answer()
        share: float = responder.answer()
        return share

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
        if self._crew is not None:
            self._crew.close()
        self._crew = None

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _label(self, role: str) -> str:
        return f"{self.name} {role}"

    def _both(self) -> tuple[Member, Member]:
        if self._crew is None:
            raise BenchError(f"{self.name} is not running")
        return self._crew[self._label("initiator")], self._crew[self._label("responder")]

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
