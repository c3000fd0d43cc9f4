"""The ranks of one library as the measuring process sees them: one worker process each."""

from __future__ import annotations

import secrets
import socket
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from .errors import BenchError
from .peers import OURS, TORCH_SEALED, launcher, missing
from .peers.crew import Crew

PEERS: Final = (*OURS, *TORCH_SEALED, "gloo", "mpi-tcp", "mpi-shm")


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """What the ranks brought together in one round."""

    seconds: float  # of one operation on the slowest rank
    wrong: int  # elements, on all ranks


class Ranks:
    """`size` worker processes of one library, in one group.

    `tuning` has values of `transport.collectives.Tuning`, for ours alone. Every call ends
    within the deadline or raises `BenchError`; after an error they can only be closed.
    """

    def __init__(
        self,
        name: str,
        size: int,
        *,
        deadline: float = 60.0,
        tuning: Mapping[str, int] | None = None,
    ) -> None:
        self.name = name
        self._tuning = tuning
        self.size = size
        self.version = ""
        self._deadline = deadline
        self._crew: Crew | None = None
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    def start(self) -> None:
        """Start the ranks and let them meet.

        Raises:
            BenchError: the library is not installed, or no group came up.
        """
        if (reason := missing(self.name)) is not None:
            raise BenchError(reason)
        self._folder = tempfile.TemporaryDirectory(prefix="bench-ranks-")
        where = meeting_place(self.name, Path(self._folder.name))
        self._crew = Crew(
            f"{__package__}.rank_worker",
            {
                f"{self.name} rank {rank}": (
                    *(self.name, str(rank), str(self.size), str(self._deadline)),
                )
                for rank in range(self.size)
            },
            deadline=self._deadline,
            launch=launcher(self.name),
        )
        order = {} if self._tuning is None else {"tuning": dict(self._tuning)}
        self.version = self._crew.ask("join", place=where, **order)[0]

    def measure(self, operation: str, nbytes: int, repeat: int, warm_up: int) -> Round:
        """Run `operation` on all ranks, `repeat` times back to back.

        `nbytes` is the larger buffer of a rank; the result of every rank is checked,
        before and after what is timed.
        """
        if self._crew is None:
            raise BenchError(f"{self.name} is not running")
        order = {"operation": operation, "nbytes": nbytes, "repeat": repeat, "warm_up": warm_up}
        answers = self._crew.ask("measure", **order)
        return Round(
            seconds=max(each["seconds"] for each in answers),
            wrong=sum(each["wrong"] for each in answers),
        )

    def close(self) -> None:
        """End every process."""
        if self._crew is not None:
            self._crew.close()
        if self._folder is not None:
            self._folder.cleanup()
        self._crew = self._folder = None

    def __enter__(self) -> Ranks:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def meeting_place(name: str, folder: Path) -> str:
    """A port and a secret for ours, a file for torch's, and what MPI has no need of."""
    secret, store = secrets.token_hex(32), str(folder / "store")
    if name in TORCH_SEALED:
        return f"{store},{secret}"
    if name not in OURS:
        return store
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"{probe.getsockname()[1]},{secret}"
