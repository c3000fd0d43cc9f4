"""How many data keys a second the embedded key service opens, on one core.

The service runs in a process of its own that is held to one core, with its key store and
audit log on the disk of the temporary folder. Clients in another process ask over one
sealed link: a challenge, fresh evidence bound to it, then `decrypt`. Everything that the
service does for a request is in the figure: evidence verified, record read, audit log
synced. What is left out is the client's work on its recipient key: the clients take
turns with a few keys that were made before, where `AttestedKeys` makes one for each call.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import secrets
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

import transport
from transport.identity.attestation import (
    AttestationPolicy,
    EmbeddedAttester,
    EmbeddedAuthority,
)
from transport.identity.kms import EmbeddedKeyService, KeyFolder, Unlocking
from transport.identity.kms.cms import open_envelope
from transport.identity.kms.interface import Operation, request_binding
from transport.services import KeyServer, RemoteKeyService

from .errors import BenchError
from .machine import describe_machine

_KEY = "bench"
_CONTEXT = {"purpose": "benchmark"}
_CLIENTS = 4  # threads, each with one request under way
_PATIENCE = 60.0
_spawn = multiprocessing.get_context("spawn")


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """What one round came to."""

    decrypts: int
    seconds: float
    service_cpu_seconds: float

    @property
    def rate(self) -> float:
        """Decrypts a second, as the clients saw them."""
        return self.decrypts / self.seconds

    @property
    def rate_of_a_core(self) -> float:
        """Decrypts for each second of processor time that the service used."""
        return self.decrypts / self.service_cpu_seconds


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `bench kms`."""
    parser.add_argument("--rounds", type=int, default=3, help="rounds (default 3)")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each round (default 3)")


def run(args: argparse.Namespace) -> int:
    """Measure, print, and return 0."""
    if args.rounds < 1 or args.seconds <= 0:
        raise BenchError("rounds and seconds must be positive")
    print(describe_machine().line())
    with tempfile.TemporaryDirectory(prefix="sealfabric-bench-") as folder:
        rounds = measure(Path(folder), args.rounds, args.seconds)
    rate = median(each.rate for each in rounds)
    of_a_core = median(each.rate_of_a_core for each in rounds)
    print(
        f"\nMedians over {args.rounds} rounds of {args.seconds} s, {_CLIENTS} clients, one link.\n"
    )
    print(f"  decrypts a second, service held to one core          {rate:7.0f}")
    print(f"  decrypts a second of the service's processor time    {of_a_core:7.0f}")
    return 0


def measure(folder: Path, rounds: int, seconds: float) -> list[Round]:
    """Run a service and ask it, `rounds` times for `seconds` each."""
    secret = secrets.token_bytes(32)
    EmbeddedAuthority.create(folder / "authority", now=time.time())
    attester = EmbeddedAttester.load(folder / "authority", script=__file__, clock=time.time)
    trust, identity = transport.Trust(secret=secret), transport.Identity.generate()
    with (
        _served(folder, secret, attester.pcrs[0]) as (address, control),
        transport.Node("bench", identity=identity, trust=trust, listen=()) as node,
    ):
        node.connect(address, peer="kms", timeout=_PATIENCE)
        client = _Client(RemoteKeyService(node, "kms", timeout=_PATIENCE), attester)
        client.check()
        return [_round(client, control, seconds) for _ in range(rounds)]


def _round(client: _Client, control: Connection, seconds: float) -> Round:
    before, started = _cpu(control), time.monotonic()
    stop = started + seconds
    counts: list[int] = []
    threads = [
        threading.Thread(target=lambda: counts.append(client.ask_until(stop)))
        for _ in range(_CLIENTS)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if len(counts) != _CLIENTS:
        raise BenchError("a client failed")
    return Round(
        decrypts=sum(counts),
        seconds=time.monotonic() - started,
        service_cpu_seconds=_cpu(control) - before,
    )


class _Client:
    """Asks for one data key again and again, with fresh evidence each time."""

    def __init__(self, service: RemoteKeyService, attester: EmbeddedAttester) -> None:
        self._service = service
        self._attester = attester
        self._recipient = rsa.generate_private_key(65537, 2048)
        self._public = self._recipient.public_key().public_bytes(
            Encoding.DER, PublicFormat.SubjectPublicKeyInfo
        )
        evidence = self._evidence(Operation.GENERATE, _KEY.encode())
        self._ciphertext = service.generate_data_key(_KEY, _CONTEXT, evidence).ciphertext

    def check(self) -> None:
        """Fail unless answers hold a key."""
        if len(open_envelope(self._decrypt(), self._recipient)) != 32:
            raise BenchError("the answer holds no data key")

    def ask_until(self, stop: float) -> int:
        count = 0
        while time.monotonic() < stop:
            self._decrypt()
            count += 1
        return count

    def _decrypt(self) -> bytes:
        evidence = self._evidence(Operation.DECRYPT, self._ciphertext)
        return self._service.decrypt(self._ciphertext, _CONTEXT, evidence)

    def _evidence(self, operation: Operation, subject: bytes) -> bytes:
        challenge = self._service.challenge()
        binding = request_binding(operation, subject, _CONTEXT, challenge)
        return self._attester.evidence(self._public, binding, challenge)


def _cpu(control: Connection) -> float:
    control.send("cpu")
    answer: float = control.recv()
    return answer


@contextlib.contextmanager
def _served(folder: Path, secret: bytes, pcr0: bytes) -> Iterator[tuple[str, Connection]]:
    """A key service in a process of its own; its address, and how to ask for its time."""
    ours, theirs = _spawn.Pipe()
    process = _spawn.Process(target=_serve, args=(folder, secret, pcr0, theirs), daemon=True)
    process.start()
    try:
        if not ours.poll(_PATIENCE):
            raise BenchError("the key service did not start")
        yield ours.recv(), ours
    finally:
        process.kill()
        process.join()


def _serve(folder: Path, secret: bytes, pcr0: bytes, control: Any) -> None:
    core = max(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {core})
    root = EmbeddedAuthority.load(folder / "authority").root
    unlocking = Unlocking.passphrase(secrets.token_hex(16))
    keys = KeyFolder.create(folder / "keys", unlocking, clock=time.time, cost=10)
    keys.create_key(_KEY, AttestationPolicy({0: [pcr0]}, roots=[root]))
    service = EmbeddedKeyService(keys.store, keys.audit, clock=time.time)
    trust, identity = transport.Trust(secret=secret), transport.Identity.generate()
    with KeyServer(service, "kms", identity=identity, trust=trust) as server:
        server.start()
        control.send(server.node.addresses[0])
        while control.recv():
            control.send(time.process_time())
