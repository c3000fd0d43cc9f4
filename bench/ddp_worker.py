"""One rank that trains, in a process of its own: `python -m ….ddp_worker SOCKET PEER RANK SIZE S`.

The network is a stack of square linear layers. Data and first weights depend on nothing
but rank and step, so every peer does the same arithmetic.
"""

from __future__ import annotations

import hashlib
import importlib
import sys
import time
from typing import Any

from .peers.serving import serve
from .rank_worker import PEERS

LAYERS = 5
RATE = 0.01


class Training:
    """The orders that a rank carries out; each public method is one."""

    def __init__(self, name: str, rank: int, size: int) -> None:
        self._name = name
        self._rank = rank
        self._size = size
        # Untyped on purpose: torch is absent where this project is type-checked.
        self._torch: Any = importlib.import_module("torch")
        self._model: Any = None
        self._optimizer: Any = None
        self._step = 0
        self._batch = 0
        self._width = 0

    def join(self, place: str, parameters: int, batch: int) -> int:
        """Meet the others and make the network; return how many parameters it has."""
        torch = self._torch
        torch.set_num_threads(1)
        self._group = PEERS[self._name](self._rank, self._size, place)
        torch.manual_seed(0)
        self._width = int((parameters / LAYERS) ** 0.5)
        layers = []
        for _ in range(LAYERS):
            layers += [torch.nn.Linear(self._width, self._width), torch.nn.ReLU()]
        network = torch.nn.Sequential(*layers[:-1])
        parallel = importlib.import_module("torch.nn.parallel")
        self._model = parallel.DistributedDataParallel(network)
        self._optimizer = torch.optim.SGD(self._model.parameters(), lr=RATE)
        self._batch = batch
        return sum(each.numel() for each in network.parameters())

    def train(self, steps: int) -> float:
        """Return seconds of one step, the mean of `steps`."""
        torch = self._torch
        batches = [self._data(self._step + each) for each in range(steps)]
        self._step += steps
        self._group.barrier()
        begin = time.perf_counter()
        for inputs, targets in batches:
            loss = torch.nn.functional.mse_loss(self._model(inputs), targets)
            self._optimizer.zero_grad()
            loss.backward()
            self._optimizer.step()
        return (time.perf_counter() - begin) / steps

    def _data(self, step: int) -> tuple[Any, Any]:
        source = self._torch.Generator().manual_seed(1000 * step + self._rank)
        shape = self._batch, self._width
        return tuple(self._torch.randn(shape, generator=source) for _ in range(2))

    def digest(self) -> str:
        """SHA-256 of all weights."""
        hashed = hashlib.sha256()
        for weights in self._model.parameters():
            hashed.update(memoryview(weights.detach().numpy()).cast("B"))
        return hashed.hexdigest()

    def close(self) -> None:
        """Leave the group."""
        self._group.close()


def main(arguments: list[str]) -> None:
    """Serve orders until told to stop."""
    where, name, rank, size, deadline = arguments
    serve(lambda: Training(name, int(rank), int(size)), where, float(deadline))


if __name__ == "__main__":
    main(sys.argv[1:])
