"""An attested world: an approved program, a policy for it, and verifiers that are too weak.

The attacks on evidence run against the real verifier, where they fail, and against one
that lacks exactly the binding in question, where they succeed.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from transport.identity import Identity, Trust
from transport.identity.attestation import (
    UNCHECKED,
    AttestationPolicy,
    Attested,
    AttestedEvidence,
    EmbeddedAttester,
    EmbeddedAuthority,
    Verifier,
)
from transport.identity.evidence import EvidenceBinding, EvidenceExchange
from transport.link import State
from transport.link.handshake import Handshake, Terms, open_hello

from .attestation import NOW
from .pair import SECRET, Pair

BOUND = ("public_key", "user_data", "nonce")


def at_now() -> float:
    return NOW


class World:
    """An authority, an approved program, and a policy for it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        EmbeddedAuthority.create(folder / "authority", now=NOW)
        self.approved = self.attester("print('approved')\n")
        self.policy = AttestationPolicy(
            {0: [self.approved.pcrs[0]], 8: [self.approved.pcrs[8]]}, roots=[self.approved.root]
        )

    def attester(self, program: str, **more: Any) -> EmbeddedAttester:
        script = self.folder / "program.py"
        script.write_text(program, encoding="utf-8")
        return EmbeddedAttester.load(
            self.folder / "authority", script=script, **{"clock": at_now, **more}
        )

    def verifier(self, clock: Callable[[], float] = at_now) -> Verifier:
        return Verifier(self.policy, clock=clock)

    def mutual(self) -> AttestedEvidence:
        return AttestedEvidence(self.approved, self.verifier())


class Weakened:
    """A verifier without one of its bindings: what an attack would have to find."""

    def __init__(self, world: World, *unchecked: str) -> None:
        self._verifier = world.verifier()
        self._attester = world.approved
        self._unchecked = unchecked

    def produce(self, binding: EvidenceBinding) -> bytes:
        return self._attester.evidence(binding.public_key, binding.user_data, binding.nonce)

    def verify(self, evidence: bytes, binding: EvidenceBinding) -> Attested:
        expected: dict[str, Any] = {
            name: UNCHECKED if name in self._unchecked else getattr(binding, name) for name in BOUND
        }
        return self._verifier.verify(evidence, **expected)


class Sends:
    """An attacker's evidence: whatever it got hold of."""

    def __init__(self, produce: Callable[[EvidenceBinding], bytes]) -> None:
        self.produce = produce

    def verify(self, evidence: bytes, binding: EvidenceBinding) -> None:
        """Believe anything."""


def terms(name: str, evidence: EvidenceExchange, identity: Identity | None = None) -> Terms:
    return Terms(
        name=name,
        identity=identity or Identity.generate(),
        trust=Trust(secret=SECRET),
        evidence=evidence,
        packet_limit=1 << 20,
        credit=1 << 24,
    )


def shake(caller: Terms, answerer: Terms) -> tuple[Handshake, Handshake]:
    """Run a handshake to its end; raises what the refusing side raises."""
    first = Handshake(caller, peer=answerer.name, index=1)
    init = first.first_packet()
    second = Handshake(
        answerer, peer=caller.name, index=2, hello=open_hello(memoryview(init), answerer)
    )
    queue = [(second, init)]
    while queue:
        side, packet = queue.pop(0)
        other = first if side is second else second
        queue += [(other, answer) for answer in side.receive(memoryview(packet))]
    return first, second


def agreed(caller: Terms, answerer: Terms) -> bool:
    first, second = shake(caller, answerer)
    assert first.agreement is not None
    assert second.agreement is not None
    return first.agreement.root == second.agreement.root


def linked(
    honest: EvidenceExchange,
    attacker: EvidenceExchange,
    identity: Identity | None = None,
    seed: int = 1,
) -> bool:
    """Whether an honest caller ends up with a link to the attacker, over which data flows.

    All nonces of the two follow from `seed`.
    """
    identities = (Identity.generate(), identity or Identity.generate())
    pair = Pair(
        paths=1, connect=False, evidence=(honest, attacker), identities=identities, seed=seed
    )
    pair.advance(until=lambda: pair.open or pair.client.failed is not None)
    if pair.client.failed is not None:
        sides = [link.state for side in pair.sides for link in side.links.values()]
        assert State.OPEN not in sides
        assert not pair.client.established
        assert not pair.server.established
        return False
    pair.client.send(b"for approved programs only", tag=1)
    return pair.deliver() == b"for approved programs only"
