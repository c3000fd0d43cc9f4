"""Peers in processes of their own, as a test sees them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from queue import Empty, Queue
from types import TracebackType
from typing import Any

from .nodes import SECRET

_TESTS = Path(__file__).parents[1]


class Remote:
    """A node in another process, which dies with the test at the latest."""

    def __init__(
        self,
        name: str,
        private: bytes,
        *,
        secret: bytes | None = SECRET,
        peers: Mapping[str, bytes] | None = None,
        listen: Sequence[str] = ("tcp://127.0.0.1:0",),
        config: Mapping[str, float] | None = None,
        command: Sequence[str] = (),
    ) -> None:
        """`command` is what starts the process in its surroundings, as "nsenter ..."."""
        self.name = name
        description = {
            "name": name,
            "private": private.hex(),
            "secret": None if secret is None else secret.hex(),
            "peers": None if peers is None else {n: key.hex() for n, key in peers.items()},
            "listen": list(listen),
            "config": dict(config or {}),
        }
        search = os.pathsep.join(
            [str(_TESTS), str(_TESTS.parent), os.environ.get("PYTHONPATH", "")]
        )
        self._process = subprocess.Popen(
            [*command, sys.executable, "-m", "support.peer_process", json.dumps(description)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": search},
        )
        self._answers: Queue[str | None] = Queue()
        threading.Thread(target=self._read, daemon=True).start()
        self.addresses: tuple[str, ...] = tuple(self.answer(patience=60.0))

    def __enter__(self) -> Remote:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.kill()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._answers.put(line)
        self._answers.put(None)

    def tell(self, do: str, **arguments: object) -> None:
        """Give a command without waiting for its answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
        self._process.stdin.flush()

    def answer(self, patience: float = 60.0) -> Any:
        """The answer to the oldest command without one; raise where it is an error."""
        try:
            line = self._answers.get(timeout=patience)
        except Empty:
            raise AssertionError(f"{self.name} did not answer in {patience} s") from None
        assert line is not None, f"{self.name} has ended"
        answer = json.loads(line)
        if "error" in answer:
            raise RemoteError(answer["error"], answer["text"])
        return answer["result"]

    def ask(self, do: str, **arguments: object) -> Any:
        """Give a command and wait for its answer."""
        self.tell(do, **arguments)
        return self.answer()

    def stop(self) -> None:
        """Let it stand still, as a machine that is too busy."""
        os.kill(self.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        """End what `stop` began."""
        os.kill(self.pid, signal.SIGCONT)

    def kill(self) -> None:
        """SIGKILL: it has no chance to say goodbye."""
        self._process.kill()
        self._process.wait(10)
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()


class RemoteError(Exception):
    """A command failed there; `kind` is the class of its error."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(f"{kind}: {text}")
        self.kind = kind
