"""The two nodes of the demonstration as child processes, and the files they start from.

Requests and answers are lines of JSON over pipes. Every answer has a deadline,
and a child that ends early is an error that names it; none outlives its parent,
because a child ends when its standard input does.
"""

from __future__ import annotations

import base64
import contextlib
import json
import queue
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from ..errors import TransportError
from ..identity.keys import Identity
from .keygen import write_secret

PEER_COMMAND: Final = (sys.executable, "-m", f"{__package__}.demo_peer")
ANSWER_TIMEOUT: Final = 50.0  # seconds; a step gives up by itself before that

Answer = dict[str, Any]


class PeerProcess:
    """A child process with a node of its own, started by `command`. A context manager."""

    def __init__(self, name: str, folder: Path, command: Sequence[str] = PEER_COMMAND) -> None:
        self.name = name
        self._process = subprocess.Popen(
            [*command, name, str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            process_group=0,  # an interrupt is for the parent, which then ends its children
        )
        self._answers: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read_answers, daemon=True)
        self._reader.start()

    def ask(self, step: str, **details: object) -> None:
        """Begin a step; `answer` waits for its end."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"step": step, **details}) + "\n")
            self._process.stdin.flush()
        except (OSError, ValueError):  # the pipe is broken, or closed on this side
            raise TransportError(f"{self.name}: the process is gone") from None

    def answer(self) -> Answer:
        """Wait for the end of the oldest step that was begun.

        Raises:
            TransportError: the step failed, did not end in time, or the process ended.
        """
        try:
            line = self._answers.get(timeout=ANSWER_TIMEOUT)
        except queue.Empty:
            raise TransportError(f"{self.name}: no answer in {ANSWER_TIMEOUT:.0f} s") from None
        if not line:
            raise TransportError(f"{self.name}: the process ended early")
        answer: Answer = json.loads(line)
        if "error" in answer:
            raise TransportError(f"{self.name}: {answer['error']}")
        return answer

    def call(self, step: str, **details: object) -> Answer:
        """Carry out one step; its answer, or an error as `answer` raises it."""
        self.ask(step, **details)
        return self.answer()

    def close(self) -> int:
        """Let the process end, at the latest after ten seconds; return its exit status."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        try:
            return self._process.wait(10.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()
        finally:
            self._reader.join(5.0)
            assert self._process.stdout is not None
            self._process.stdout.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is not None:
            self._process.kill()
        self.close()

    def _read_answers(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._answers.put(line)
        self._answers.put("")


def write_credentials(folder: Path, first: str, second: str) -> list[bytes]:
    """Write identity and trust files for two nodes; return what no wire may show.

    Each node pins the other's key, and both share a cluster secret: either alone
    would do, and all that is given must hold.
    """
    write_secret(folder / "cluster.secret")
    identities = {name: Identity.generate() for name in (first, second)}
    for name, peer in ((first, second), (second, first)):
        identities[name].save(folder / f"{name}.identity")
        pinned = base64.b64encode(identities[peer].public_key).decode()
        trust = {"peers": {peer: pinned}, "secret_file": "cluster.secret"}
        path = folder / f"{name}.trust"
        path.write_text(json.dumps(trust), encoding="utf-8")
        path.chmod(0o600)
    secret = (folder / "cluster.secret").read_bytes()
    return [secret, *(identity.public_key for identity in identities.values())]
