"""Gloo in plaintext: torch.distributed between two ranks.

torch is imported inside the worker that measures it and nowhere else. Gloo has no
encryption in the wheels that PyTorch publishes, hence no handshake to time.
"""

from __future__ import annotations

import datetime
import importlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

from .endpoint import Bytes, Endpoint, Listener, PostingChannel, Role


class Gloo(Endpoint):
    """The default process group of this worker; one channel a process."""

    about: ClassVar[str] = "plaintext, torch.distributed on CPU tensors; isend and irecv in streams"

    def __init__(self, *, role: Role, deadline: float) -> None:
        super().__init__(role=role, deadline=deadline)
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
        # Untyped on purpose: torch is absent where this project is type-checked.
        self._torch: Any = importlib.import_module("torch")
        self._distributed: Any = importlib.import_module("torch.distributed")

    def version(self) -> str:
        return f"torch {self._torch.__version__}"

    def listen(self) -> Listener:
        # The ranks meet in a file: a TCPStore would listen on every interface.
        folder = tempfile.TemporaryDirectory(prefix="bench-gloo-")
        address = str(Path(folder.name) / "store")
        return Listener(address=address, accept=lambda: self._join(address, 1, folder.cleanup))

    def dialler(self) -> Callable[[str], GlooChannel]:
        return lambda address: self._join(address, 0, lambda: None)

    def _join(self, address: str, rank: int, release: Callable[[], None]) -> GlooChannel:
        self._distributed.init_process_group(
            "gloo",
            store=self._distributed.FileStore(address, 2),
            rank=rank,
            world_size=2,
            timeout=datetime.timedelta(seconds=self.deadline),
        )
        return GlooChannel(self._torch, self._distributed, 1 - rank, release)


class GlooChannel(PostingChannel[Any]):
    """Rank 0 and rank 1 of a group of two."""

    def __init__(
        self, torch: Any, distributed: Any, other: int, release: Callable[[], None]
    ) -> None:
        self._torch = torch
        self._distributed = distributed
        self._other = other
        self._release = release

    def wrap(self, memory: Bytes) -> Any:
        return self._torch.from_numpy(memory)

    def send(self, payload: Any) -> None:
        self._distributed.send(payload, dst=self._other)

    def receive(self, destination: Any) -> None:
        self._distributed.recv(destination, src=self._other)

    def post_send(self, payload: Any) -> Callable[[], object]:
        wait: Callable[[], object] = self._distributed.isend(payload, dst=self._other).wait
        return wait

    def post_receive(self, destination: Any) -> Callable[[], object]:
        wait: Callable[[], object] = self._distributed.irecv(destination, src=self._other).wait
        return wait

    def close(self) -> None:
        self._distributed.destroy_process_group()
        self._release()
