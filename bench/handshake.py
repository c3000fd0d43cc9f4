"""What attestation costs a handshake: plain, with one side attesting, and with both.

A new node calls a standing one in another process, over loopback, and the clock runs from
the call until a byte went there and back under the new keys. So the caller's verifier has
seen no certificate yet, and the answerer's has. The kinds are interleaved round by round,
and each ratio is made within one round.

Evidence is that of embedded attesters, a model and no hardware: what the hypervisor of a
Nitro enclave takes to sign a document is not in the figures, and a Nitro document's chain
has two certificates more.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import multiprocessing
import secrets
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Final

import transport
from transport.identity.attestation import AttestationPolicy, EmbeddedAttester, EmbeddedAuthority

from .errors import BenchError
from .machine import Machine, describe_machine
from .timing import Result, Sample, Task, interleave

SCHEMA: Final = "sealfabric.bench.handshake/1"
PLAIN: Final = "plain"
KINDS: Final = {
    PLAIN: (False, False),
    "answerer attests": (False, True),
    "caller attests": (True, False),
    "both attest": (True, True),
}
"""Of each kind, whether the caller attests and whether the answerer does."""

_TASK: Final = Task(measurement="handshake", nbytes=0, unit="s", better="lower")
_PATIENCE: Final = 60.0
_spawn = multiprocessing.get_context("spawn")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `bench handshake`."""
    parser.add_argument("--rounds", type=int, default=9, help="interleaved rounds (default 9)")
    parser.add_argument(
        "--handshakes", type=int, default=5, help="of each kind in a round (default 5)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the report as JSON")


def run(args: argparse.Namespace) -> int:
    """Measure, print, and return 0.

    Raises:
        BenchError: the arguments make no sense, or a link did not come about.
    """
    if args.rounds < 1 or args.handshakes < 1:
        raise BenchError("rounds and handshakes must be positive")
    machine = describe_machine()
    print(machine.line())
    with tempfile.TemporaryDirectory(prefix="sealfabric-bench-") as folder:
        result = measure(Path(folder), args.rounds, args.handshakes)
    print(_table(result, args.rounds, args.handshakes))
    if args.json is not None:
        _write_json(args.json, machine, result, args.rounds, args.handshakes)
    return 0


def measure(folder: Path, rounds: int, handshakes: int) -> Result:
    """Return seconds for a handshake of each kind, one value a round.

    Raises:
        BenchError: a link did not come about.
    """
    secret = secrets.token_bytes(32)
    EmbeddedAuthority.create(folder / "authority", now=time.time())
    attested = _Attested(folder, secret)
    identity = transport.Identity.generate()

    def once(kind: str) -> float:
        trust = attested.trust(attests=KINDS[kind][0], judges=KINDS[kind][1])
        with transport.Node("caller", identity=identity, trust=trust, listen=()) as node:
            begun = time.perf_counter()
            node.connect(addresses[kind], peer="answerer", timeout=_PATIENCE)
            node.send(b"?", to="answerer", timeout=_PATIENCE)
            node.recv(source="answerer", timeout=_PATIENCE)
            return time.perf_counter() - begun

    with _answerers(folder, secret) as addresses:
        for kind in KINDS:
            once(kind)  # untimed: each side's first document, and everything that is imported
        done = interleave(
            tuple(KINDS),
            (_TASK,),
            rounds,
            lambda kind, _task: Sample(value=median(once(kind) for _ in range(handshakes))),
        )
    if done.failures:
        raise BenchError("; ".join(f"{kind}: {why}" for kind, why in done.failures.items()))
    return done.results[0]


class _Attested:
    """One process's attester, which it loads once, and a policy for the other's."""

    def __init__(self, folder: Path, secret: bytes) -> None:
        self._secret = secret
        self._attester = EmbeddedAttester.load(
            folder / "authority", script=__file__, clock=time.time
        )
        # Both processes run the same files, so their registers are alike.
        self._policy = AttestationPolicy({0: [self._attester.pcrs[0]]}, roots=[self._attester.root])

    def trust(self, *, attests: bool, judges: bool) -> transport.Trust:
        return transport.Trust(
            secret=self._secret,
            policy=self._policy if judges else None,
            attester=self._attester if attests else None,
        )


@contextlib.contextmanager
def _answerers(folder: Path, secret: bytes) -> Iterator[Mapping[str, str]]:
    """A node for each kind in another process; their addresses."""
    ours, theirs = _spawn.Pipe()
    process = _spawn.Process(target=_answer, args=(folder, secret, theirs), daemon=True)
    process.start()
    try:
        if not ours.poll(_PATIENCE):
            raise BenchError("the other process did not start")
        yield ours.recv()
    finally:
        process.kill()
        process.join()


def _answer(folder: Path, secret: bytes, control: Connection) -> None:
    attested = _Attested(folder, secret)
    with contextlib.ExitStack() as stack:
        addresses = {}
        for kind, (caller, answerer) in KINDS.items():
            trust = attested.trust(attests=answerer, judges=caller)
            identity = transport.Identity.generate()
            node = stack.enter_context(transport.Node("answerer", identity=identity, trust=trust))
            threading.Thread(target=_echo, args=(node,), daemon=True).start()
            addresses[kind] = node.addresses[0]
        control.send(addresses)
        control.recv()  # until killed


def _echo(node: transport.Node) -> None:
    while True:
        question = node.irecv()
        content = question.wait()
        assert question.source is not None
        node.isend(content, to=question.source)


def _table(result: Result, rounds: int, handshakes: int) -> str:
    lines = [
        f"\nUntil a byte went there and back, in ms: medians over {rounds} rounds of {handshakes} "
        "handshakes,\nthe kinds interleaved. The ratio to plain is the median of the rounds'. "
        "Attesters are embedded\nones: a model, not hardware.\n",
        f"  {'':18}{'median':>8}{'min':>8}{'max':>8}{'ratio':>8}",
    ]
    for kind in result.values:
        each, ratio = result.summary(kind), result.ratio(kind, PLAIN).median
        figures = "".join(f"{value * 1e3:8.2f}" for value in (each.median, each.min, each.max))
        lines.append(f"  {kind:18}{figures}{ratio:8.2f}")
    return "\n".join(lines)


def _write_json(path: Path, machine: Machine, result: Result, rounds: int, handshakes: int) -> None:
    document = {
        "schema": SCHEMA,
        "machine": dataclasses.asdict(machine),
        "settings": {"rounds": rounds, "handshakes": handshakes},
        "kinds": {
            kind: {
                "seconds": list(values),
                **dataclasses.asdict(result.summary(kind)),
                "ratio": dataclasses.asdict(result.ratio(kind, PLAIN)),
            }
            for kind, values in result.values.items()
        },
    }
    try:
        path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise BenchError(f"cannot write {path}: {error}") from None
