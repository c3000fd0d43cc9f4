"""`sealfabric demo`: two processes, and the operator of the network between them.

Two nodes exchange real tensors over a wiretap that this process runs. It then
shows what moved, what the link says of itself, what becomes of packets that the
operator repeats, forges or damages while a transfer is under way, and what the
operator could read. Every claim is a check; the exit status is 1 if one fails.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from time import monotonic, sleep
from typing import Any, Final, Literal

from ..config import Config
from ..errors import TransportError, UsageError
from .demo_attacks import plan_attacks
from .demo_control import found_in_the_clear
from .demo_processes import PEER_COMMAND, Answer, PeerProcess, write_credentials
from .demo_report import Report, duration, rate, size
from .demo_tensors import (
    NAME_TAG,
    RECEIVER,
    SENDER,
    TENSOR_TAG,
    NamedTensor,
    attacked_tensors,
    digest,
    large_tensor,
    raw_bytes,
    small_tensors,
)
from .scanner import RUN_SIZE, SHORTEST_DATA, WireIndex, entropy_bits
from .tape import MIB, Direction
from .wiretap import AttackKind, Wiretap

SUITE: Final = "Noise_XXhfs+psk3_25519+MLKEM768_AESGCM_SHA512"
LEAST_ENTROPY: Final = 7.99  # bits a byte; megabytes of ciphertext come closer to 8 than this
LARGEST_MEGABYTES: Final = 4096

_BYTE_ORDERS: Final[tuple[Literal["little", "big"], ...]] = ("little", "big")
_SPARE_TAPE: Final = 64 * MIB  # for headers, retransmissions and the small tensors
_EXTRA_BATCHES: Final = 5  # sent if attacks are still waiting for packets to pass
_DROPS_TIMEOUT: Final = 5.0  # seconds until the last injected packet must be counted


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of this command."""
    parser.add_argument(
        "--megabytes", type=int, default=256, metavar="N", help="large tensor, MiB (default 256)"
    )
    parser.add_argument("--seed", type=int, default=1, help="of the small tensors (default 1)")


def run(arguments: argparse.Namespace) -> int:
    """Run the demonstration; return 0 if every check held, else 1."""
    if not 1 <= arguments.megabytes <= LARGEST_MEGABYTES:
        raise UsageError(f"--megabytes must lie between 1 and {LARGEST_MEGABYTES}")
    if arguments.seed < 0:
        raise UsageError("--seed must not be negative")
    start = monotonic()
    report = Report()
    report.text(
        "Sealfabric: two processes exchange tensors, and the operator of the network between "
        "them records every byte, sends packets again, forges and damages them."
    )
    with ExitStack() as stack:
        demo = Demo(stack, report, nbytes=arguments.megabytes * MIB, seed=arguments.seed)
        demo.link()
        demo.move()
        demo.attack()
        demo.part()
        demo.search()
    return report.conclude(monotonic() - start)


class Demo:
    """The steps of the demonstration, to be called in their order.

    What has to be undone at the end is entered into `stack`: processes, the tap,
    and the folder with the keys. `command` starts a peer.
    """

    def __init__(
        self,
        stack: ExitStack,
        report: Report,
        *,
        nbytes: int,
        seed: int,
        command: Sequence[str] = PEER_COMMAND,
    ) -> None:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sealfabric-demo-")))
        self._report = report
        self._nbytes = nbytes
        self._seed = seed
        self._private = write_credentials(folder, SENDER, RECEIVER)
        self._receiver = stack.enter_context(PeerProcess(RECEIVER, folder, command))
        self._sender = stack.enter_context(PeerProcess(SENDER, folder, command))
        self._sender.ask("make_tensors", nbytes=nbytes, seed=seed)
        self._receiver.ask("make_room", nbytes=nbytes)
        self._batches: dict[str, list[dict[str, Any]]] = self._sender.answer()
        self._small_arrived = False
        self._receiver.answer()
        address = str(self._receiver.call("addresses")["addresses"][0])
        host, _, port = address.removeprefix("tcp://").rpartition(":")
        paths = Config().paths
        self._tap = stack.enter_context(
            Wiretap(
                (host, int(port)),
                tape_limit=2 * nbytes + _SPARE_TAPE,
                ready_tapes=paths,
                ready_bytes=2 * nbytes // paths,
            )
        )

    def link(self) -> None:
        """Link the two nodes over the tap, and say what the link is."""
        self._sender.call("connect", address=self._tap.address, peer=RECEIVER)
        self._receiver.call("wait_for", peer=SENDER)
        self._small_arrived, _ = self._transfer("small")
        facts = self._stats(self._sender, RECEIVER)
        usable = sum(path["state"] == "usable" for path in facts["paths"])
        report = self._report
        report.section("The link")
        report.row("between", f"{SENDER} and {RECEIVER}, a process each")
        report.row("trust", "pinned public keys and a cluster secret of 32 bytes; both must hold")
        report.row("network", f"TCP, through the wiretap at {self._tap.address}")
        report.row("suite", facts["suite"])
        report.row("keys", f"generation {facts['generation']}, epoch {facts['epoch']}")
        report.row("handshake", duration(facts["handshake_seconds"]))
        report.row("paths", f"{usable} usable of {len(facts['paths'])}")
        report.row("round trip", duration(facts["rtt"]))
        hybrid = facts["suite"] == SUITE
        report.check("the handshake is hybrid post-quantum, the cipher is AES-256-GCM", hybrid)

    def move(self) -> None:
        """Send the large tensor, and show everything that has moved."""
        large_arrived, seconds = self._transfer("large")
        carried = self._tap.passed(Direction.TO_LISTENER)
        report = self._report
        report.section("What moved")
        moved = [*self._batches["small"], *self._batches["large"]]
        report.table(
            [(t["name"], t["dtype"], str(tuple(t["shape"])), size(t["nbytes"])) for t in moved],
            numeric=frozenset({3}),
        )
        report.row("large tensor", f"{rate(self._nbytes, seconds)}, through the tap")
        report.check(
            f"{len(self._batches['small'])} tensors arrived with dtype, shape and every bit",
            self._small_arrived,
        )
        report.check(f"{size(self._nbytes)} arrived with every bit", large_arrived)
        payload = sum(tensor["nbytes"] for tensor in moved)
        report.check("all of it went through the tap", carried >= payload)

    def attack(self) -> None:
        """Have the operator meddle with a transfer; show what that achieved."""
        tap, report = self._tap, self._report
        before = self._stats(self._receiver, SENDER)
        resent = self._stats(self._sender, RECEIVER)["retransmissions"]
        recorded = tap.captured(Direction.TO_LISTENER), tap.captured(Direction.TO_DIALER)
        tap.queue(Direction.TO_LISTENER, plan_attacks(*recorded))
        arrived, seconds = self._transfer_under_attack()
        meddled = sum(tap.injected.values())
        after = self._dropped_at_least(meddled, before["drops"])
        resent = self._stats(self._sender, RECEIVER)["retransmissions"] - resent

        report.section("An attack while another transfer is under way")
        for kind in AttackKind:
            report.row(f"{tap.injected[kind]} packets", kind.value)
        payload = sum(tensor["nbytes"] for tensor in self._batches["attacked"])
        report.row("transfer", f"{size(payload)} in {seconds:.2f} s, {resent} retransmissions")
        rows = [("dropped by the receiver", "before", "after")]
        for cause in sorted({*before["drops"], *after["drops"]}):
            earlier, now = before["drops"].get(cause, 0), after["drops"].get(cause, 0)
            rows.append((f"  {cause}", str(earlier), str(now)))
        report.table(rows, numeric=frozenset({1, 2}))
        waiting = tap.pending(Direction.TO_LISTENER)
        dropped = _total(after["drops"]) - _total(before["drops"])
        same = after["generation"] == before["generation"] and after["links"] == 1
        report.check("every attack was carried out", waiting == 0 and all(tap.injected.values()))
        report.check(f"{dropped} packets dropped, for {meddled} meddled with", dropped >= meddled)
        report.check(
            f"{len(self._batches['attacked'])} tensors under attack arrived with every bit", arrived
        )
        report.check("the link is still the same one", same)

    def part(self) -> None:
        """End both processes while their network still works."""
        ended = [self._sender.close(), self._receiver.close()]
        self._report.check("both processes took leave and ended", ended == [0, 0])

    def search(self) -> None:
        """Search everything that went over the wire for anything that was sealed."""
        tapes = [stream.tape for stream in self._tap.towards()]
        tensors = self._local_tensors()
        of_wire = entropy_bits(tapes)
        of_tensors = entropy_bits([raw_bytes(tensor.array) for tensor in tensors])
        searched = sum(tensor.array.nbytes >= SHORTEST_DATA for tensor in tensors)
        texts = self._texts()

        report, tap = self._report, self._tap
        report.section("What the operator saw: all of the above, both ways")
        report.row("bytes", f"{size(tap.passed())} in {tap.frame_count()} ZMTP frames")
        report.row("entropy", f"{of_wire:.5f} bits a byte; of the tensors {of_tensors:.2f}")
        report.row(
            "searched for", f"any {RUN_SIZE}-byte run of {searched} tensors, at every offset"
        )
        report.row("", f"{len(texts)} names, tags, public keys and secrets")
        report.check("every byte that passed was recorded and searched", tap.unrecorded() == 0)
        report.check(
            f"the wire has at least {LEAST_ENTROPY} bits of entropy a byte",
            of_wire >= LEAST_ENTROPY,
        )
        self._check_tapes(WireIndex(tapes), tensors, texts)
        self._check_control()

    def _check_tapes(
        self, index: WireIndex, tensors: list[NamedTensor], texts: list[tuple[str, bytes]]
    ) -> None:
        runs = [t.name for t in tensors if index.find_tensor(raw_bytes(t.array)) is not None]
        readable = [what for what, text in texts if index.find_text(text) is not None]
        self._report.check(
            f"no {RUN_SIZE}-byte run of any tensor is on the wire", not runs, ", ".join(runs)
        )
        self._report.check(
            "no name, tag, public key or secret is on the wire", not readable, ", ".join(readable)
        )

    def _check_control(self) -> None:
        tensors = [t for t in small_tensors(self._seed) if t.array.nbytes >= SHORTEST_DATA]
        found = found_in_the_clear(tensors)
        self._report.check(
            f"control: the same search finds {len(found)} of {len(tensors)} tensors "
            "sent in the clear",
            len(found) == len(tensors),
        )

    def _transfer(self, batch: str) -> tuple[bool, float]:
        """Send a batch; return whether it arrived as it was sent, and the seconds it took."""
        tensors = self._batches[batch]
        sizes = [tensor["nbytes"] for tensor in tensors]
        self._receiver.ask("receive", peer=SENDER, sizes=sizes)
        seconds = float(self._sender.call("send", peer=RECEIVER, batch=batch)["seconds"])
        return self._receiver.answer()["received"] == tensors, seconds

    def _transfer_under_attack(self) -> tuple[bool, float]:
        """The same, then more until every queued attack has had its packet."""
        arrived, seconds = self._transfer("attacked")
        for _ in range(_EXTRA_BATCHES):
            if self._tap.pending(Direction.TO_LISTENER) == 0:
                break
            arrived &= self._transfer("small")[0]
        return arrived, seconds

    def _stats(self, peer: PeerProcess, other: str) -> Answer:
        return peer.call("stats", peer=other)

    def _dropped_at_least(self, count: int, before: dict[str, int]) -> Answer:
        """Ask the receiver until it has counted `count` more drops, for a few seconds."""
        deadline = monotonic() + _DROPS_TIMEOUT
        while True:
            stats = self._stats(self._receiver, SENDER)
            if _total(stats["drops"]) - _total(before) >= count or monotonic() > deadline:
                return stats
            sleep(0.05)

    def _local_tensors(self) -> list[NamedTensor]:
        """The tensors that travelled, each once, made again in this process.

        Raises:
            TransportError: they are not what the sender sent.
        """
        small, large = small_tensors(self._seed), large_tensor(self._nbytes)
        again, *crowd = attacked_tensors(large, self._seed)
        sent = [tensor["digest"] for batch in self._batches.values() for tensor in batch]
        if sent != [digest(tensor.array) for tensor in (*small, large, again, *crowd)]:
            raise TransportError("this process cannot make the tensors that were sent")
        return [*small, large, *crowd]  # `again` is a part of `large`

    def _texts(self) -> list[tuple[str, bytes]]:
        """Everything but tensors that no wire may show, each with what it is."""
        names = [tensor["name"] for batch in self._batches.values() for tensor in batch]
        texts = [(name, name.encode()) for name in (*names, SENDER, RECEIVER)]
        for tag, order in itertools.product((NAME_TAG, TENSOR_TAG), _BYTE_ORDERS):
            texts.append((f"tag {tag}, {order}-endian", tag.to_bytes(8, order)))
        return texts + [("a key or secret", text) for text in self._private]


def _total(drops: dict[str, int]) -> int:
    return sum(drops.values())
