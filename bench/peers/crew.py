"""Worker processes of one peer, started and ended together, each with a socket for orders.

Workers are started directly, with their socket as standard input, or by `mpirun`,
which then is the only child of this process: its workers dial a Unix socket in a
folder that is this user's alone. Either way a worker whose socket ends exits.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Final

from ..errors import BenchError
from .control import INHERITED, Control

Launch = Callable[[Sequence[Sequence[str]]], list[str]]
"""Makes one command that starts all of the given ones, a process each."""

_GRACE: Final = 10.0  # seconds beyond the workers' own deadline
_STOP: Final = 3.0  # seconds in which a worker ends by itself
_LAUNCH: Final = 60.0  # seconds until a launched worker has dialled
_GLANCE: Final = 0.2  # seconds between looks at whether the launcher still lives
_LOG_TAIL: Final = 800  # characters of a worker's last words in an error


class Crew:
    """The workers of one peer, by label; every answer comes by the deadline or is an error.

    Raises:
        BenchError: they did not start. What started is ended then.
    """

    def __init__(
        self,
        module: str,
        words: Mapping[str, Sequence[str]],
        *,
        deadline: float,
        launch: Launch | None = None,
        first: Path | None = None,
    ) -> None:
        """Start a worker for each of `words`; `first` is where it looks for modules first."""
        self._deadline = deadline
        self._first = first
        self._processes: list[subprocess.Popen[bytes]] = []
        self._members: dict[str, Member] = {}
        self._stack = contextlib.ExitStack()
        try:
            if launch is None:
                for label, arguments in words.items():
                    self._start(label, [*_python(module), INHERITED, *arguments])
            else:
                self._launch(module, words, launch)
        except BaseException:
            self.close()
            raise

    def __getitem__(self, label: str) -> Member:
        return self._members[label]

    def ask(self, what: str, **order: Any) -> list[Any]:
        """Give all the same order; return their answers in the order of their labels."""
        for member in self._members.values():
            member.order(what, **order)
        return [member.answer() for member in self._members.values()]

    def close(self) -> None:
        """Ask the workers to close and to stop, wait a little for that, then end them."""
        for member in self._members.values():
            with contextlib.suppress(BenchError):
                member.order("close")
                member.order("stop")
        limit = time.monotonic() + _STOP
        for process in self._processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=max(limit - time.monotonic(), 0.01))
        for member in self._members.values():
            member.close()  # a launched worker that is left ends by this
        for process in self._processes:
            _end(process)
        self._members.clear()
        self._processes.clear()
        self._stack.close()

    def __enter__(self) -> Crew:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _start(self, label: str, command: Sequence[str]) -> None:
        log = self._stack.enter_context(_log())
        ours, theirs = socket.socketpair()
        with theirs:
            self._run(command, log, stdin=theirs.fileno())
        self._members[label] = Member(label, Control(ours), log, self._deadline)

    def _launch(self, module: str, words: Mapping[str, Sequence[str]], launch: Launch) -> None:
        private = tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True)
        folder = Path(self._stack.enter_context(private))
        log = self._stack.enter_context(_log())
        with contextlib.ExitStack() as stack:
            listening = {}
            for number, label in enumerate(words):
                listening[label] = stack.enter_context(socket.socket(socket.AF_UNIX))
                listening[label].bind(str(folder / f"{number}"))
                listening[label].listen(1)
            commands = [
                [*_python(module), str(folder / f"{number}"), *arguments]
                for number, arguments in enumerate(words.values())
            ]
            # What the launcher leaves in its temporary folder goes with ours.
            process = self._run(launch(commands), log, stdin=subprocess.DEVNULL, TMPDIR=str(folder))
            for label, door in listening.items():
                control = Control(_accept(door, process, log))
                self._members[label] = Member(label, control, log, self._deadline)

    def _run(
        self, command: Sequence[str], log: IO[bytes], *, stdin: int, **environment: str
    ) -> subprocess.Popen[bytes]:
        # A worker must find this package and the library wherever this process did.
        search = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
        if self._first is not None:
            search = os.pathsep.join((str(self._first), search))
        process = subprocess.Popen(
            command,
            stdin=stdin,
            stdout=log,
            stderr=log,
            env={**os.environ, "PYTHONPATH": search, **environment},
        )
        self._processes.append(process)
        return process


class Member:
    """One worker and the socket to it."""

    def __init__(self, label: str, control: Control, log: IO[bytes], deadline: float) -> None:
        self._label = label
        self._control = control
        self._log = log
        self._deadline = deadline

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
            raise BenchError(f"{self._label}: {error}\n{_last_words(self._log)}") from None
        if "error" in answer:
            raise BenchError(f"{self._label}: {answer['error']}")
        return answer["value"]

    def close(self) -> None:
        """Close the socket; the worker ends if it has not."""
        self._control.close()


def _log() -> IO[bytes]:
    return tempfile.TemporaryFile()


def _python(module: str) -> list[str]:
    # With -P only PYTHONPATH says where modules are, not the current folder.
    return [sys.executable, "-P", "-m", module]


def _accept(
    door: socket.socket, launcher: subprocess.Popen[bytes], log: IO[bytes]
) -> socket.socket:
    limit = time.monotonic() + _LAUNCH
    door.settimeout(_GLANCE)
    while time.monotonic() < limit:
        with contextlib.suppress(TimeoutError):
            stream, _ = door.accept()
            return stream
        if launcher.poll() is not None:
            raise BenchError(f"the launcher ended\n{_last_words(log)}")
    raise BenchError(f"no worker came within {_LAUNCH} s\n{_last_words(log)}")


def _end(process: subprocess.Popen[bytes]) -> None:
    # A launcher that is asked to end takes its workers along; one that is killed cannot.
    for end in (process.terminate, process.kill):
        if process.poll() is not None:
            return
        end()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=_STOP)


def _last_words(log: IO[bytes]) -> str:
    # Read without moving the place where the worker goes on writing.
    size = os.fstat(log.fileno()).st_size
    tail = os.pread(log.fileno(), 4 * _LOG_TAIL, max(0, size - 4 * _LOG_TAIL))
    return tail.decode("utf-8", "replace").strip()[-_LOG_TAIL:] or "it left no words"
