"""One rank of one library in a process of its own, taking orders from the measuring process.

Run as `python -m ….rank_worker SOCKET PEER RANK SIZE DEADLINE`. Every timed
sequence begins with a barrier and runs the operation `repeat` times back to back.
"""

from __future__ import annotations

import datetime
import importlib
import os
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from .peers.mpi import load_mpi, mpi_version
from .peers.serving import serve

Array = npt.NDArray[Any]
OPERATIONS = ("all_reduce", "reduce_scatter", "all_gather", "broadcast", "reduce", "all_to_all")
IN_PLACE = ("all_reduce", "broadcast", "reduce")

# Contributions are whole numbers below this, so that every sum of up to 2048 ranks is exact,
# and repeat with this period. It is prime, so what lands at the wrong multiple of any usual
# piece is noticed.
_PERIOD = 8191
_CHUNK = 16 * _PERIOD  # elements compared at once


class Rank(ABC):
    """One rank of a library under measurement; memory is numpy's."""

    rank: int
    size: int

    @abstractmethod
    def version(self) -> str:
        """Name and version of the library."""

    @abstractmethod
    def prepare(self, operation: str, source: Array, target: Array) -> Callable[[], object]:
        """What carries out one operation; wrapping memory is not timed.

        `source` and `target` are the same array where the operation works in place.
        """

    @abstractmethod
    def barrier(self) -> None:
        """Return once every rank is here."""

    @abstractmethod
    def close(self) -> None:
        """Leave the group."""


class SealfabricRank(Rank):
    """A group of ours, with shared memory allowed or over TCP alone."""

    def __init__(
        self,
        rank: int,
        size: int,
        address: str,
        *,
        shared_memory: bool,
        tuning: Mapping[str, int] | None = None,
    ) -> None:
        import transport
        from transport.collectives import Tuning

        port, secret = address.split(",")
        self.rank, self.size = rank, size
        self._transport = transport
        self._group = transport.connect_group(
            rank,
            size,
            master_addr="127.0.0.1",
            master_port=int(port),
            trust=transport.Trust(secret=bytes.fromhex(secret)),
            config=transport.Config(shared_memory=shared_memory),
            tuning=None if tuning is None else Tuning(**tuning),
            timeout=60.0,
        )

    def version(self) -> str:
        return f"sealfabric {self._transport.__version__}"

    def prepare(self, operation: str, source: Array, target: Array) -> Callable[[], object]:
        group = self._group
        calls: dict[str, Callable[[], object]] = {
            "all_reduce": lambda: group.all_reduce(target),
            "reduce_scatter": lambda: group.reduce_scatter(source, out=target),
            "all_gather": lambda: group.all_gather(source, out=target),
            "broadcast": lambda: group.broadcast(target),
            "reduce": lambda: group.reduce(target),
            "all_to_all": lambda: group.all_to_all(source, out=target),
        }
        return calls[operation]

    def barrier(self) -> None:
        self._group.barrier()

    def close(self) -> None:
        self._group.close()


class TorchRank(Rank):
    """A process group of torch.distributed; the ranks meet in a file.

    A TCPStore would listen on every interface.
    """

    def __init__(self, rank: int, size: int, store: str, backend: str, options: Any) -> None:
        # Untyped on purpose: torch is absent where this project is type-checked.
        self._torch: Any = importlib.import_module("torch")
        self._distributed: Any = importlib.import_module("torch.distributed")
        self.rank, self.size = rank, size
        self._distributed.init_process_group(
            backend,
            store=self._distributed.FileStore(store, size),
            rank=rank,
            world_size=size,
            timeout=datetime.timedelta(seconds=60),
            pg_options=options,
        )

    def version(self) -> str:
        return f"torch {self._torch.__version__}"

    def prepare(self, operation: str, source: Array, target: Array) -> Callable[[], object]:
        lib = self._distributed
        mine, result = self._torch.from_numpy(source), self._torch.from_numpy(target)
        calls: dict[str, Callable[[], object]] = {
            "all_reduce": lambda: lib.all_reduce(result),
            "reduce_scatter": lambda: lib.reduce_scatter_tensor(result, mine),
            "all_gather": lambda: lib.all_gather_into_tensor(result, mine),
            "broadcast": lambda: lib.broadcast(result, 0),
            "reduce": lambda: lib.reduce(result, 0),
            "all_to_all": lambda: lib.all_to_all_single(result, mine),
        }
        return calls[operation]

    def barrier(self) -> None:
        self._distributed.barrier()

    def close(self) -> None:
        self._distributed.destroy_process_group()


class GlooRank(TorchRank):
    """PyTorch's CPU backend: plaintext TCP, since its wheels have no TLS."""

    def __init__(self, rank: int, size: int, place: str) -> None:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
        super().__init__(rank, size, place, "gloo", None)


class SealedTorchRank(TorchRank):
    """Our backend of torch.distributed."""

    def __init__(self, rank: int, size: int, place: str, *, shared_memory: bool) -> None:
        import transport
        from transport.integrations.torch import BACKEND, Options, register

        store, secret = place.rsplit(",", 1)
        register()  # what pip has installed does this by itself
        options = Options(
            trust=transport.Trust(secret=bytes.fromhex(secret)),
            listen=("tcp://127.0.0.1:0",),
            config=transport.Config(shared_memory=shared_memory),
        )
        super().__init__(rank, size, store, BACKEND, options)


class MpiRank(Rank):
    """A rank that mpirun started; the transport is that of its options."""

    def __init__(self, rank: int, size: int, place: str) -> None:
        del place  # mpirun has made the ranks known to each other
        self._mpi = load_mpi()
        self._world = self._mpi.COMM_WORLD
        self.rank, self.size = rank, size
        found = self._world.Get_rank(), self._world.Get_size()
        if found != (rank, size):
            raise RuntimeError(f"MPI says rank {found[0]} of {found[1]}, not {rank} of {size}")

    def version(self) -> str:
        return mpi_version(self._mpi)

    def prepare(self, operation: str, source: Array, target: Array) -> Callable[[], object]:
        world, in_place = self._world, self._mpi.IN_PLACE
        calls: dict[str, Callable[[], object]] = {
            "all_reduce": lambda: world.Allreduce(in_place, target),
            "reduce_scatter": lambda: world.Reduce_scatter_block(source, target),
            "all_gather": lambda: world.Allgather(source, target),
            "broadcast": lambda: world.Bcast(target),
            "reduce": lambda: world.Reduce(*((target, None) if self.rank else (in_place, target))),
            "all_to_all": lambda: world.Alltoall(source, target),
        }
        return calls[operation]

    def barrier(self) -> None:
        self._world.Barrier()

    def close(self) -> None:
        self._mpi.Finalize()


class Bench:
    """The orders that a rank carries out; each public method is one."""

    def __init__(self, make: Callable[..., Rank]) -> None:
        self._make = make
        self._rank: Rank | None = None

    def join(self, place: str, tuning: Mapping[str, int] | None = None) -> str:
        """Become a member of the group that meets there; return the library's version.

        Only ours can be tuned.
        """
        self._rank = self._make(place) if tuning is None else self._make(place, tuning=tuning)
        return self._rank.version()

    def measure(self, operation: str, nbytes: int, repeat: int, warm_up: int) -> dict[str, Any]:
        """Seconds of one operation, the mean of `repeat`, and elements that were wrong.

        Results are checked in one operation before those that are timed and in one after.
        """
        assert self._rank is not None, "the first order is to join"
        rank = self._rank
        source, target = _memory(operation, nbytes, rank.rank, rank.size)
        run = rank.prepare(operation, source, target)
        wrong = _checked(run, operation, target, rank)
        target[:] = 0  # of what works in place the sums must not grow
        for _ in range(warm_up):
            run()
        rank.barrier()
        started = time.perf_counter()
        for _ in range(repeat):
            run()
        elapsed = time.perf_counter() - started
        rank.barrier()
        wrong += _checked(run, operation, target, rank)
        return {"seconds": elapsed / repeat, "wrong": wrong}

    def close(self) -> None:
        """Leave the group."""
        if self._rank is not None:
            self._rank.close()


def _checked(run: Callable[[], object], operation: str, target: Array, rank: Rank) -> int:
    """Run once with fresh contents; return how many elements are not what they must be."""
    if operation in IN_PLACE:
        _fill(target, rank.rank)
    else:
        target[:] = -1
    run()
    return wrong_elements(operation, target, rank.rank, rank.size)


def _pattern(rank: int) -> Array:
    """One period of what a rank contributes."""
    return ((np.arange(_PERIOD) * (rank + 3) + rank) % _PERIOD).astype(np.float32)


def _fill(memory: Array, rank: int) -> None:
    memory[:] = np.resize(_pattern(rank), len(memory))


def _memory(operation: str, nbytes: int, rank: int, size: int) -> tuple[Array, Array]:
    """Source and target; as in nccl-tests, `nbytes` is the larger of the two."""
    count = nbytes // 4
    if operation in IN_PLACE:
        target = np.zeros(count, np.float32)
        return target, target
    whole, share = count // size * size, count // size
    source = np.empty(share if operation == "all_gather" else whole, np.float32)
    _fill(source, rank)
    return source, np.zeros(share if operation == "reduce_scatter" else whole, np.float32)


def wrong_elements(operation: str, target: Array, rank: int, size: int) -> int:
    """Return how many elements of a rank's result are not what they must be."""
    wrong, begin = 0, 0
    for length, pattern in _expected(operation, len(target), rank, size):
        expected = np.resize(pattern, min(length, _CHUNK))
        for offset in range(begin, begin + length, _CHUNK):
            piece = target[offset : min(offset + _CHUNK, begin + length)]
            wrong += int(np.count_nonzero(piece != expected[: len(piece)]))
        begin += length
    return wrong


def _expected(operation: str, count: int, rank: int, size: int) -> Iterator[tuple[int, Array]]:
    """The parts of a right result: how long each is, and the period that it repeats."""
    if operation == "broadcast":
        yield count, _pattern(0)
    elif operation == "all_gather":
        yield from ((count // size, _pattern(peer)) for peer in range(size))
    elif operation == "all_to_all":
        share = count // size
        yield from ((share, np.roll(_pattern(peer), -rank * share)) for peer in range(size))
    elif operation != "reduce" or rank == 0:  # elsewhere a reduce leaves nothing to check
        total = np.sum([_pattern(peer) for peer in range(size)], axis=0)
        yield count, np.roll(total, -rank * count) if operation == "reduce_scatter" else total


PEERS: dict[str, Callable[..., Rank]] = {
    "sealfabric": partial(SealfabricRank, shared_memory=True),
    "sealfabric-tcp": partial(SealfabricRank, shared_memory=False),
    "torch-sealed": partial(SealedTorchRank, shared_memory=True),
    "torch-sealed-tcp": partial(SealedTorchRank, shared_memory=False),
    "gloo": GlooRank,
    "mpi-tcp": MpiRank,
    "mpi-shm": MpiRank,
}


def main(arguments: list[str]) -> None:
    """Serve orders until told to stop."""
    where, name, rank, size, deadline = arguments
    serve(lambda: Bench(partial(PEERS[name], int(rank), int(size))), where, float(deadline))


if __name__ == "__main__":
    main(sys.argv[1:])
