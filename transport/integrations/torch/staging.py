"""CUDA tensors through pinned memory of the host, in order and without stopping the GPU.

    caller   side stream: wait for the caller's stream, copy device → pinned, record `ready`
    stager   (a thread) wait for `ready`, begin the operation over the pinned memory
    waiter   the operation has ended: side stream copies pinned → device, records `done`;
             the waiter's stream waits for `done`

The caller goes on at once, as with NCCL, while its kernels are still running. Operations
begin in the order of the calls, those of CPU tensors included while any are queued, since
all ranks must begin them in the same order.

The pinned memory is a ring, given back when the last copy from it is over. What does not
fit comes from torch's own pinned allocator instead of waiting: a receive may hold the
ring that a send needs before the receive can end.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Sequence
from datetime import timedelta
from time import monotonic
from typing import Any, Final, Protocol

import torch

from ...errors import ClosedError, PeerError, TransportError, TransportTimeoutError
from ...node import Work
from .errors import for_torch, refused, seconds
from .gathers import Begun
from .work import NO_LIMIT, SealedWork

# Any stands for torch's tensors, streams, events and devices in this file.

RING_BYTES: Final = 64 * 1024 * 1024
ALIGNMENT: Final = 512  # bytes; a multiple of every element and of a GPU's cache lines


class Reuse(Protocol):
    """Tells when memory may be used again, as a CUDA event does."""

    def query(self) -> bool:
        """Whether whatever used it is over."""
        ...


class Ring:
    """One piece of memory, handed out and given back in a circle. Thread-safe."""

    def __init__(self, memory: Any) -> None:
        self._memory = memory
        self._size = memory.numel()
        self._head = 0  # where the next block begins
        self._blocks: deque[Block] = deque()  # in use, the oldest first
        self._lock = threading.Lock()

    def take(self, size: int) -> Block | None:
        """A block of at least `size` bytes, or None where there is no room now."""
        size = -(-max(1, size) // ALIGNMENT) * ALIGNMENT
        with self._lock:
            while self._blocks and self._blocks[0].reusable():
                self._blocks.popleft()
            start = self._place(size)
            if start is None:
                return None
            self._head = start + size
            block = Block(self._memory[start : start + size], start)
            self._blocks.append(block)
            return block

    def _place(self, size: int) -> int | None:
        if not self._blocks:
            return 0 if size <= self._size else None
        tail = self._blocks[0].start
        if self._head > tail:
            if self._head + size <= self._size:
                return self._head
            return 0 if size < tail else None
        return self._head if self._head + size < tail else None


class Block:
    """Some bytes of the ring in use."""

    __slots__ = ("_after", "_released", "memory", "start")

    def __init__(self, memory: Any, start: int) -> None:
        self.memory = memory
        self.start = start
        self._released = False
        self._after: Reuse | None = None

    def release(self, after: Reuse | None = None) -> None:
        """Nobody uses it once `after` is over."""
        self._after = after
        self._released = True

    def reusable(self) -> bool:
        """Whether it may be handed out again."""
        return self._released and (self._after is None or self._after.query())


class Stager:
    """Stages the CUDA tensors of one process group."""

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[_StagedWork | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._queued = 0
        self._ring: Ring | None = None
        self._streams: dict[Any, Any] = {}
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="sealfabric-cuda", daemon=True)
        self._thread.start()

    def busy(self) -> bool:
        """Whether an operation is queued that has not begun."""
        with self._lock:
            return self._queued > 0

    def start(
        self,
        inputs: Sequence[Any],
        outputs: Sequence[Any],
        begin: Callable[..., Begun],
        source_rank: Callable[[Work[Any]], int] | None,
    ) -> SealedWork:
        """Have `begin` called with tensors on the host in place of `inputs` and `outputs`.

        Raises:
            UsageError: staging cannot work here.
        """
        devices = {each.device for each in (*inputs, *outputs) if each.is_cuda}
        if len(devices) > 1:
            raise refused(f"the tensors of one operation lie on several devices: {devices}")
        device = next(iter(devices), None)
        work = _StagedWork(self, inputs, outputs, begin, source_rank)
        if device is not None:
            if torch.cuda.is_current_stream_capturing():
                raise refused(
                    "an operation that goes through the host cannot be part of a CUDA graph"
                )
            work.stage(self._stream(device))
        with self._lock:
            self._queued += 1
        self._jobs.put(work)
        return work

    def host_twin(self, tensor: Any) -> tuple[Any, Block | None]:
        """Pinned memory for a tensor's elements, contiguous, in the tensor's shape.

        Raises:
            UsageError: memory cannot be pinned.
        """
        size = tensor.numel() * tensor.element_size()
        try:
            if self._ring is None:
                self._ring = Ring(torch.empty(RING_BYTES, dtype=torch.uint8, pin_memory=True))
            block = self._ring.take(size)
            if block is None:
                return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True), None
        except RuntimeError as error:
            raise refused(
                f"the tensor lies on {tensor.device}, and its way through the host needs pinned "
                f"memory, which cannot be had: {error}"
            ) from error
        return block.memory[:size].view(tensor.dtype).view(tensor.shape), block

    def _stream(self, device: Any) -> Any:
        stream = self._streams.get(device)
        if stream is None:
            stream = self._streams[device] = torch.cuda.Stream(device)
        return stream

    def _run(self) -> None:
        while (work := self._jobs.get()) is not None:
            work.begin(ClosedError("the process group was shut down") if self._closed else None)
            with self._lock:
                self._queued -= 1
            del work

    def close(self) -> None:
        """End the thread; what has not begun fails."""
        self._closed = True
        self._jobs.put(None)
        self._thread.join()


class _StagedWork(SealedWork):
    """An operation that begins when its tensors have come to the host."""

    def __init__(
        self,
        stager: Stager,
        inputs: Sequence[Any],
        outputs: Sequence[Any],
        begin: Callable[..., Begun],
        source_rank: Callable[[Work[Any]], int] | None,
    ) -> None:
        super().__init__((), outputs, None, source_rank)
        self._stager = stager
        self._inputs = inputs
        self._begin = begin
        self._begun = threading.Event()
        self._refusal: TransportError | None = None
        self._hosts: dict[int, Any] = {}  # by identity of the tensor on the device
        self._blocks: list[Block] = []  # kept for good where it fails: packets may be on their way
        self._stream: Any = None
        self._ready: Any = None
        self._done: Any = None
        self._take_over: Callable[[], object] | None = None

    def stage(self, stream: Any) -> None:
        """On the caller's thread: begin to copy what is sent."""
        self._stream = stream
        stream.wait_stream(torch.cuda.current_stream(stream.device))
        with torch.cuda.stream(stream):
            for tensor in self._inputs:
                if tensor.is_cuda:
                    self._host(tensor).copy_(tensor.detach(), non_blocking=True)
                    tensor.record_stream(stream)
            self._ready = torch.cuda.Event(blocking=True)
            self._ready.record(stream)
        for tensor in self.outputs:
            if tensor.is_cuda:
                self._host(tensor)

    def _host(self, tensor: Any) -> Any:
        twin = self._hosts.get(id(tensor))
        if twin is None:
            twin, block = self._stager.host_twin(tensor)
            self._hosts[id(tensor)] = twin
            if block is not None:
                self._blocks.append(block)
        return twin

    def begin(self, closed: TransportError | None) -> None:
        """On the stager's thread: the operation itself."""
        try:
            if closed is not None:
                raise closed
            if self._ready is not None:
                self._ready.synchronize()
            hosts = [self._hosts.get(id(each), each) for each in (*self._inputs, *self.outputs)]
            part, self._take_over = self._begin(*hosts)
            self._parts = (part,)
            self._finish = self._to_device
            # Before the callback, which may run at once and finds nothing ended until this is set.
            self._begun.set()
            # Whether or not anybody waits: the GPU should have the result, and the ring its memory.
            part.add_done_callback(lambda: self._in_a_thread(self.is_completed))
        except TransportError as error:
            self._refusal = error
        except Exception as error:
            self._refusal = PeerError(f"an operation could not begin: {error!r}")
        finally:
            self._begun.set()

    def _to_device(self) -> None:
        if self._take_over is not None:
            self._take_over()
        if self._stream is None:
            return
        with torch.cuda.stream(self._stream):
            for tensor in self.outputs:
                twin = self._hosts.get(id(tensor))
                if twin is not None:
                    tensor.detach().copy_(twin, non_blocking=True)
                    tensor.record_stream(self._stream)
            self._done = torch.cuda.Event()
            self._done.record(self._stream)
        for block in self._blocks:
            block.release(self._done)
        self._hosts.clear()

    # --- as SealedWork, but it may not have begun yet ---------------------------------------

    def wait(self, timeout: timedelta = NO_LIMIT) -> bool:
        """As for any work; then the current stream waits for the result."""
        limit = seconds(timeout)
        deadline = None if limit is None else monotonic() + limit
        if not self._begun.wait(limit):
            text = f"the operation had not begun within its timeout of {limit} s"
            raise for_torch(TransportTimeoutError(text))
        left = NO_LIMIT
        if deadline is not None:
            left = timedelta(seconds=max(1e-6, deadline - monotonic()))
        super().wait(left)
        if self._done is not None:
            torch.cuda.current_stream(self._stream.device).wait_event(self._done)
        return True

    def _failure(self) -> TransportError | None:
        return self._refusal or super()._failure()

    def _ended(self) -> bool:
        return self._begun.is_set() and super()._ended()

    def _new_future(self) -> Any:
        devices = [] if self._stream is None else [self._stream.device]
        return torch.futures.Future(devices=devices)

    def when_ended(self, action: Callable[[], None]) -> None:
        """See `SealedWork.when_ended`."""

        # The thread that completes the future waits here until there is an operation.
        def follow() -> None:
            self._begun.wait()
            SealedWork.when_ended(self, action)

        self._in_a_thread(follow)

    def _complete(self, source: Any) -> None:
        self._settle()
        if self._stream is None:
            source.set_result(None)
            return
        with torch.cuda.stream(self._stream):  # whose work so far the future stands for
            source.set_result(None)
