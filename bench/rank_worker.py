"""One rank of one library in a process of its own, for `bench collectives`.

Run as `python -m ….rank_worker PEER RANK SIZE ADDRESS`; standard input is a socket to
the measuring process, as for the workers of `bench p2p`. Every timed sequence begins
with a barrier and runs the operation `repeat` times back to back.
"""

from __future__ import annotations

import contextlib
import datetime
import importlib
import os
import socket
import sys
import time
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import BenchError
from .peers.control import Control

Array = npt.NDArray[Any]
OPERATIONS = ("all_reduce", "reduce_scatter", "all_gather", "broadcast", "reduce", "all_to_all")
_VALUES = 13  # contributions are whole numbers below this: every sum is exact


class Rank(ABC):
    """One rank of a library under measurement; memory is numpy's."""

    rank: int
    size: int

    @abstractmethod
    def version(self) -> str:
        """Name and version of the library."""

    @abstractmethod
    def prepare(self, operation: str, source: Array, target: Array) -> Callable[[], None]:
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
    """A group over TCP links on loopback, with shared memory off or allowed."""

    def __init__(self, rank: int, size: int, address: str, *, shared_memory: bool) -> None:
        import transport

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
            timeout=60.0,
        )

    def version(self) -> str:
        return f"sealfabric {self._transport.__version__}"

    def prepare(self, operation: str, source: Array, target: Array) -> Callable[[], None]:
        group = self._group
        calls: dict[str, Callable[[], object]] = {
            "all_reduce": lambda: group.all_reduce(target),
            "reduce_scatter": lambda: group.reduce_scatter(source, out=target),
            "all_gather": lambda: group.all_gather(source, out=target),
            "broadcast": lambda: group.broadcast(target),
            "reduce": lambda: group.reduce(target),
            "all_to_all": lambda: group.all_to_all(source, out=target),
        }
        call = calls[operation]

        def run() -> None:
            call()

        return run

    def barrier(self) -> None:
        self._group.barrier()

    def close(self) -> None:
        self._group.close()


class GlooRank(Rank):
    """PyTorch's CPU backend: plaintext TCP, since its wheels have no TLS."""

    def __init__(self, rank: int, size: int, address: str) -> None:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
        # Untyped on purpose: torch is absent where this project is type-checked.
        self._torch: Any = importlib.import_module("torch")
        self._distributed: Any = importlib.import_module("torch.distributed")
        self.rank, self.size = rank, size
        self._distributed.init_process_group(
            "gloo",
            store=self._distributed.FileStore(address, size),
            rank=rank,
            world_size=size,
            timeout=datetime.timedelta(seconds=60),
        )

    def version(self) -> str:
        return f"torch {self._torch.__version__}"

    def prepare(self, operation: str, source: Array, target: Array) -> Callable[[], None]:
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
        call = calls[operation]

        def run() -> None:
            call()

        return run

    def barrier(self) -> None:
        self._distributed.barrier()

    def close(self) -> None:
        self._distributed.destroy_process_group()


class Bench:
    """The orders that a rank carries out; each public method is one."""

    def __init__(self, rank: Rank) -> None:
        self._rank = rank

    def describe(self) -> dict[str, str]:
        """What is measured."""
        return {"version": self._rank.version()}

    def measure(self, operation: str, nbytes: int, repeat: int, warm_up: int) -> dict[str, Any]:
        """Seconds of one operation, the mean of `repeat`, and elements that were wrong."""
        rank, size = self._rank.rank, self._rank.size
        source, target = _memory(operation, nbytes, rank, size)
        run = self._rank.prepare(operation, source, target)
        run()
        wrong = _wrong(operation, target, rank, size)
        target[:] = 0
        for _ in range(warm_up):
            run()
        self._rank.barrier()
        started = time.perf_counter()
        for _ in range(repeat):
            run()
        elapsed = time.perf_counter() - started
        self._rank.barrier()
        return {"seconds": elapsed / repeat, "wrong": wrong}

    def close(self) -> None:
        """Leave the group."""
        self._rank.close()


def _contribution(count: int, rank: int) -> Array:
    return ((np.arange(count) * (rank + 3) + rank) % _VALUES).astype(np.float32)


def _memory(operation: str, nbytes: int, rank: int, size: int) -> tuple[Array, Array]:
    """Source and target; as in nccl-tests, `nbytes` is the larger of the two."""
    count = nbytes // 4
    if operation in ("all_reduce", "broadcast", "reduce"):
        target = _contribution(count, rank)
        return target, target
    whole, share = count // size * size, count // size
    if operation == "all_gather":
        return _contribution(share, rank), np.zeros(whole, np.float32)
    source = _contribution(whole, rank)
    return source, np.zeros(share if operation == "reduce_scatter" else whole, np.float32)


def _wrong(operation: str, target: Array, rank: int, size: int) -> int:
    """How many elements of a result are not what they must be."""
    count = len(target)
    if operation == "broadcast":
        expected = _contribution(count, 0)
    elif operation == "all_gather":
        expected = np.concatenate([_contribution(count // size, peer) for peer in range(size)])
    elif operation == "all_to_all":
        share = count // size
        expected = np.concatenate(
            [_contribution(count, peer)[rank * share :][:share] for peer in range(size)]
        )
    else:
        length = count * size if operation == "reduce_scatter" else count
        expected = np.sum([_contribution(length, peer) for peer in range(size)], axis=0)
        if operation == "reduce_scatter":
            expected = expected[rank * count :][:count]
        elif operation == "reduce" and rank:
            return 0
    return int(np.count_nonzero(target != expected))


PEERS: dict[str, Callable[[int, int, str], Rank]] = {
    "sealfabric": lambda *of: SealfabricRank(*of, shared_memory=False),
    "sealfabric-shm": lambda *of: SealfabricRank(*of, shared_memory=True),
    "gloo": GlooRank,
}


def main(arguments: list[str]) -> None:
    """Serve orders until the measuring process is gone."""
    name, rank, size, address = arguments[0], int(arguments[1]), int(arguments[2]), arguments[3]
    control = Control(socket.socket(fileno=os.dup(0)))
    try:
        bench = Bench(PEERS[name](rank, size, address))
        control.send({"value": bench.describe()})
        with contextlib.suppress(BenchError):
            while True:
                order = control.receive()
                control.send({"value": getattr(bench, order.pop("do"))(**order)})
    except Exception as error:
        traceback.print_exc()
        with contextlib.suppress(BenchError):
            control.send({"error": f"{type(error).__name__}: {error}"})
    sys.stderr.flush()
    # Libraries may hold threads that would delay an orderly exit.
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1:])
