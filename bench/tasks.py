"""What `bench p2p` measures: the tasks of a round, and how one peer brings a value for each."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from .errors import BenchError
from .peers.pair import Peer
from .ranks import Ranks
from .timing import Sample, Task

MEASUREMENTS: Final = (
    "one-way",
    "round-trip",
    "rate",
    "exchange",
    "waiting",
    "handshake",
    "cipher",
)
CIPHER: Final = "aes-256-gcm"  # the name under which the cipher's own rate stands
RATE_SIZE: Final = 64
EXCHANGE_RANKS: Final = 4
EXCHANGE_SIZES: Final = (64, 2**20)
CIPHER_SIZE: Final = 2**20

_BATCH_BYTES: Final = 32 * 2**20  # a one-way sample is a stream of about this much
_BATCH_LIMIT: Final = 256  # messages
_ROUND_TRIP_BYTES: Final = 64 * 2**20  # large round trips are fewer, down to
_ROUND_TRIPS_LEAST: Final = 9
_EXCHANGE_BYTES: Final = 64 * 2**20
_EXCHANGE_LIMIT: Final = 100  # exchanges
_CIPHER_PIECES: Final = 200
_TAG_SIZE: Final = 16
_TAIL_FROM: Final = 100  # times from which on their 99th percentile means something


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """How much is measured in one round; a round's value is the median of its samples."""

    rounds: int
    sizes: tuple[int, ...]  # bytes, one way
    round_trip_sizes: tuple[int, ...]
    one_way_samples: int
    round_trips: int
    rate_messages: int
    wait: float  # seconds
    handshakes: int


FULL: Final = Effort(
    rounds=7,
    sizes=(64, 4 * 2**10, 64 * 2**10, 2**20, 16 * 2**20, 256 * 2**20),
    round_trip_sizes=(64, 4 * 2**10, 64 * 2**10, 2**20, 16 * 2**20),
    one_way_samples=3,
    round_trips=1000,
    rate_messages=30_000,
    wait=0.5,
    handshakes=3,
)
QUICK: Final = Effort(
    rounds=3,
    sizes=(64, 64 * 2**10, 2**20, 64 * 2**20),
    round_trip_sizes=(64, 64 * 2**10),
    one_way_samples=2,
    round_trips=300,
    rate_messages=2000,
    wait=0.3,
    handshakes=2,
)


def tasks_for(effort: Effort, measurements: Sequence[str]) -> tuple[Task, ...]:
    """Return what one round measures, in the order of `measurements`."""
    sizes = {
        "one-way": (effort.sizes, "bytes/s"),
        "round-trip": (effort.round_trip_sizes, "s"),
        "rate": ((RATE_SIZE,), "messages/s"),
        "exchange": (EXCHANGE_SIZES, "s"),
        "waiting": ((0,), "cores"),
        "handshake": ((0,), "s"),
        "cipher": ((CIPHER_SIZE,), "bytes/s"),
    }
    return tuple(
        Task(
            measurement=measurement,
            nbytes=nbytes,
            unit=sizes[measurement][1],
            better="lower" if sizes[measurement][1] in ("s", "cores") else "higher",
        )
        for measurement in measurements
        for nbytes in sizes[measurement][0]
    )


def measure_pair(peer: Peer, task: Task, effort: Effort) -> Sample:
    """Return one round's sample of what two processes do.

    Raises:
        BenchError: the measurement failed.
    """
    if task.measurement == "one-way":
        batch = max(1, min(_BATCH_LIMIT, _BATCH_BYTES // task.nbytes))
        times = peer.one_way(task.nbytes, effort.one_way_samples, batch=batch)
        return Sample(value=task.nbytes / statistics.median(times))
    if task.measurement == "round-trip":
        count = max(_ROUND_TRIPS_LEAST, _ROUND_TRIP_BYTES // task.nbytes)
        return _latency(peer.round_trip(task.nbytes, min(count, effort.round_trips)))
    if task.measurement == "rate":
        return Sample(value=peer.message_rate(task.nbytes, effort.rate_messages))
    if task.measurement == "waiting":
        return Sample(value=peer.waiting(effort.wait))
    return Sample(value=statistics.median(peer.handshake(effort.handshakes)))


def measure_exchange(ranks: Ranks, task: Task) -> Sample:
    """Return the seconds in which every rank has sent `task.nbytes` to every other one.

    Raises:
        BenchError: it failed, or what arrived was not what was sent.
    """
    repeat = max(2, min(_EXCHANGE_LIMIT, _EXCHANGE_BYTES // task.nbytes))
    done = ranks.measure("all_to_all", task.nbytes * ranks.size, repeat, repeat // 10 + 1)
    if done.wrong:
        raise BenchError(f"{done.wrong} elements arrived wrong")
    return Sample(value=done.seconds)


def measure_cipher(task: Task) -> Sample:
    """Return the bytes a second that one core encrypts, in pieces of `task.nbytes`.

    The pieces lie where the ones before them lay, so memory is as near as it can be.
    """
    cipher, plaintext = AESGCM(os.urandom(32)), os.urandom(task.nbytes)
    ciphertext = bytearray(task.nbytes + _TAG_SIZE)
    times = []
    for number in range(_CIPHER_PIECES):
        nonce = number.to_bytes(12, "big")
        started = time.perf_counter()
        cipher.encrypt_into(nonce, plaintext, None, ciphertext)
        times.append(time.perf_counter() - started)
    return Sample(value=task.nbytes / statistics.median(times))


def _latency(times: Sequence[float]) -> Sample:
    tail = None
    if len(times) >= _TAIL_FROM:
        tail = statistics.quantiles(times, n=100, method="inclusive")[98]
    return Sample(value=statistics.median(times), p99=tail)
