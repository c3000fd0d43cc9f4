"""OpenMPI in plaintext, through mpi4py: two ranks that `mpirun` has started.

MPI has no encryption, hence no handshake to time, and one channel a process. A rank
that waits polls and keeps a core busy; between measurements it waits outside MPI.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, ClassVar

from .endpoint import Bytes, Endpoint, Listener, PostingChannel, Role


def load_mpi() -> Any:
    """Import `mpi4py.MPI`, which initialises MPI for the one thread that uses it."""
    # Untyped on purpose: mpi4py is optional.
    settings: Any = importlib.import_module("mpi4py")
    settings.rc.thread_level = "funneled"
    settings.rc.finalize = False  # a worker exits without Python's farewell
    return importlib.import_module("mpi4py.MPI")


def mpi_version(mpi: Any) -> str:
    """Name and version of mpi4py and of the library under it."""
    library = str(mpi.Get_library_version()).partition(",")[0]
    settings: Any = importlib.import_module("mpi4py")
    return f"{library}, mpi4py {settings.__version__}"


class MpiTcp(Endpoint):
    """Two ranks over TCP on loopback."""

    about: ClassVar[str] = "plaintext, MPI_Send and MPI_Recv over TCP, busy polling"

    def __init__(self, *, role: Role, deadline: float) -> None:
        super().__init__(role=role, deadline=deadline)
        self._mpi = load_mpi()

    def version(self) -> str:
        return mpi_version(self._mpi)

    def listen(self) -> Listener:
        return Listener(address="", accept=self._channel)

    def dialler(self) -> Callable[[str], MpiChannel]:
        return lambda _address: self._channel()

    def _channel(self) -> MpiChannel:
        return MpiChannel(self._mpi)


class MpiSharedMemory(MpiTcp):
    """Two ranks through OpenMPI's shared memory."""

    about: ClassVar[str] = "plaintext, MPI_Send and MPI_Recv through shared memory, busy polling"


class MpiChannel(PostingChannel[Any]):
    """Rank 0 and rank 1 of the world."""

    def __init__(self, mpi: Any) -> None:
        self._mpi = mpi
        self._world = mpi.COMM_WORLD
        self._other = 1 - int(self._world.Get_rank())

    def wrap(self, memory: Bytes) -> Any:
        return [memory, self._mpi.BYTE]

    def send(self, payload: Any) -> None:
        self._world.Send(payload, self._other)

    def receive(self, destination: Any) -> None:
        self._world.Recv(destination, self._other)

    def post_send(self, payload: Any) -> Callable[[], object]:
        wait: Callable[[], object] = self._world.Isend(payload, self._other).Wait
        return wait

    def post_receive(self, destination: Any) -> Callable[[], object]:
        wait: Callable[[], object] = self._world.Irecv(destination, self._other).Wait
        return wait

    def close(self) -> None:
        self._mpi.Finalize()
