"""What a transport must offer in order to be measured.

An `Endpoint` lives in a worker process and makes `Channel`s; a channel carries
messages whose size both ends know beforehand, which spares the peers that have no
framing of their own (TLS) the cost of one. `wrap` is called outside every timed
region, so that no peer pays for turning an array into what its library wants.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, Literal, TypeVar

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]
Role = Literal["initiator", "responder"]
Handle = TypeVar("Handle")

LOOPBACK = "127.0.0.1"
OUTSTANDING = 8  # operations posted ahead in a stream
KERNEL_BUFFER = 4 * 2**20  # bytes, each way, asked for by every peer that lets us ask


class Channel(ABC, Generic[Handle]):
    """One end of an established connection between the two workers of a peer."""

    @abstractmethod
    def wrap(self, memory: Bytes) -> Handle:
        """Return `memory` as this transport sends from it and receives into it fastest."""

    @abstractmethod
    def send(self, payload: Handle) -> None:
        """Send one message; the caller leaves the memory alone until it is acknowledged."""

    @abstractmethod
    def receive(self, destination: Handle) -> None:
        """Block until one message of exactly that size lies in `destination`."""

    def send_many(self, payload: Handle, count: int) -> None:
        """Send the same message `count` times, as fast as the transport takes them."""
        for _ in range(count):
            self.send(payload)

    def receive_many(self, destinations: Sequence[Handle], count: int) -> None:
        """Receive `count` messages, each into the next of `destinations`, in turn."""
        places = len(destinations)
        for index in range(count):
            self.receive(destinations[index % places])

    @abstractmethod
    def close(self) -> None:
        """Release everything that belongs to this channel."""


class PostingChannel(Channel[Handle]):
    """A channel of a library whose operations can be posted before others are done.

    Streams keep a few posted, which is how a program that cares for throughput uses
    such a library.
    """

    @abstractmethod
    def post_send(self, payload: Handle) -> Callable[[], object]:
        """Begin to send; what is returned waits until the memory may be used again."""

    @abstractmethod
    def post_receive(self, destination: Handle) -> Callable[[], object]:
        """Begin to receive; what is returned waits until the message lies there."""

    def send_many(self, payload: Handle, count: int) -> None:
        posted: deque[Callable[[], object]] = deque()
        for _ in range(count):
            if len(posted) == OUTSTANDING:
                posted.popleft()()
            posted.append(self.post_send(payload))
        for wait in posted:
            wait()

    def receive_many(self, destinations: Sequence[Handle], count: int) -> None:
        ahead, places = min(len(destinations), OUTSTANDING), len(destinations)
        posted: deque[Callable[[], object]] = deque()
        for index in range(count):
            if len(posted) == ahead:
                posted.popleft()()
            posted.append(self.post_receive(destinations[index % places]))
        for wait in posted:
            wait()


@dataclass(frozen=True, slots=True, kw_only=True)
class Listener:
    """A bound end: the address to dial, and the call that waits for the dialler."""

    address: str
    accept: Callable[[], Channel[Any]]


class Endpoint(ABC):
    """One transport in one worker process, able to make channels to the other worker.

    `meet` is given what the other end's `introduction` returned, before the first
    channel: public keys, certificates.
    """

    about: ClassVar[str]  # one sentence: how the transport is set up

    def __init__(self, *, role: Role, deadline: float) -> None:
        self.role = role
        self.deadline = deadline  # seconds an operation may take

    @abstractmethod
    def version(self) -> str:
        """Return name and version of the library that carries the bytes."""

    def introduction(self) -> dict[str, str]:
        """Return what the other end must know before a channel can be made."""
        return {}

    def meet(self, introduction: Mapping[str, str]) -> None:
        """Take the other end's introduction."""
        del introduction

    @abstractmethod
    def listen(self) -> Listener:
        """Bind a fresh loopback port."""

    @abstractmethod
    def dialler(self) -> Callable[[str], Channel[Any]]:
        """Prepare all that needs no address; the returned call does only the dialling."""
