"""Key epochs and generations of a living link: when they change, and that nothing is lost."""

from __future__ import annotations

import pytest

from support.hostile import NonceOracle, StolenKeys
from support.pair import Pair
from support.side import Side
from transport.config import KIB, MIB, Config
from transport.crypto.seal import KeyLimits
from transport.errors import AuthenticationError, KeyExhaustedError, PeerLostError
from transport.identity import Identity
from transport.identity.evidence import EvidenceBinding
from transport.link import State
from transport.path import Faults
from transport.wire import frames

SMALL = Config(
    packet_payload=8 * KIB,
    eager_limit=2 * KIB,
    window_bytes=128 * KIB,
    unexpected_bytes=64 * KIB,
)
TINY = KeyLimits(soft_packets=24, hard_packets=400)
BAD = Faults(loss=0.05, duplication=0.05, reordering=0.1, corruption=0.02, jitter=0.002)


class Notary:
    """Evidence that can be called off: what a policy does when a workload changes."""

    def __init__(self) -> None:
        self.accepts = True
        self.judged = 0

    def produce(self, binding: EvidenceBinding) -> bytes:
        return b"signed:" + binding.user_data

    def verify(self, evidence: bytes, binding: EvidenceBinding) -> None:
        self.judged += 1
        if not self.accepts or evidence != b"signed:" + binding.user_data:
            raise AuthenticationError("not what the policy asks for")


def renewed(pair: Pair, asker: Side) -> None:
    """Renew the keys, and wait until both sides have agreed."""
    before = asker.stats().generation
    asker.link.renew(pair.now)
    pair.advance(until=lambda: all(side.stats().generation > before for side in pair.sides))


def test_a_soft_limit_brings_new_epochs_during_traffic_and_nothing_is_lost() -> None:
    pair = Pair(config=SMALL, limits=TINY)
    for index in range(300):
        for side in pair.sides:
            side.send(bytes([index % 256]) * (index * 97 % (20 * KIB)), tag=index)
        if index % 10 == 0:
            pair.run(0.002)
    pair.settle()
    for side in pair.sides:
        assert side.order == list(range(300))
        assert len(side.received) == 300
        assert side.stats().epoch > 5
        assert side.stats().drops == {}


@pytest.mark.parametrize("seed", range(4))
def test_epochs_change_on_a_bad_network_too(seed: int) -> None:
    pair = Pair(paths=1 + seed, seed=seed, config=SMALL, limits=TINY, faults=BAD)
    for index in range(150):
        for side in pair.sides:
            side.send(bytes([index]) * (index * 331 % (20 * KIB)), tag=index)
    pair.settle()
    for side in pair.sides:
        assert sorted(side.received) == [
            (0, index, bytes([index]) * (index * 331 % (20 * KIB))) for index in range(150)
        ], f"seed {seed}"
        assert side.stats().epoch >= 2


def test_the_hard_limit_ends_the_link_where_the_rekey_is_kept_from_coming_through() -> None:
    pair = Pair(paths=1, config=SMALL, limits=KeyLimits(soft_packets=8, hard_packets=20))
    pair.filter = lambda name, packet: None if name == "server" else packet
    while pair.client.link.state is State.OPEN:
        pair.client.send(bytes(2000))
        pair.flush()
        assert pair.client.link.last_message < 100
    assert isinstance(pair.client.failure, KeyExhaustedError)
    assert "20 packets" in str(pair.client.failure)


@pytest.mark.parametrize("asking", ["client", "server"])
@pytest.mark.parametrize("seed", range(3))
def test_either_side_renews_the_keys_of_a_living_link(asking: str, seed: int) -> None:
    pair = Pair(paths=1 + seed, seed=seed, config=SMALL, faults=BAD)
    asker = pair.client if asking == "client" else pair.server
    count = 120
    for index in range(count):
        for side in pair.sides:
            side.send(bytes([index]) * (index * 531 % (40 * KIB)), tag=index)
        if index % 40 == 20:
            renewed(pair, asker)
    pair.settle()
    for side in pair.sides:
        assert side.stats().generation == 3
        assert side.failed is None
        assert sorted(side.received) == [
            (0, index, bytes([index]) * (index * 531 % (40 * KIB))) for index in range(count)
        ], f"seed {seed}"


def test_a_renewal_brings_new_keys_to_both_directions(monkeypatch: pytest.MonkeyPatch) -> None:
    stolen = StolenKeys(monkeypatch)
    pair = Pair(config=SMALL, limits=TINY)
    pair.client.link.renew(pair.now)
    for _ in range(5):
        pair.client.send(b"x")
        pair.server.send(b"x")
        pair.run(1.0)
    for name in ("client", "server"):
        assert stolen.sealer(pair, name).generation == 1


@pytest.mark.parametrize("order", ["cc", "cs", "sc", "ss", "ccc", "cscs"])
@pytest.mark.parametrize("packets_between", [0, 1, 2, 3, 5])
def test_renewals_that_cross_or_repeat_end_in_one_agreement(
    order: str, packets_between: int
) -> None:
    pair = Pair(config=SMALL, faults=Faults(reordering=0.3), seed=packets_between)
    for index, who in enumerate(order):
        side = pair.client if who == "c" else pair.server
        side.link.renew(pair.now)
        side.send(b"behind it", tag=index)
        for _ in range(packets_between):
            pair.step()
    pair.settle()
    pair.run(10.0)
    generations = {side.stats().generation for side in pair.sides}
    assert len(generations) == 1
    assert generations.pop() >= 1
    # The link is able to do it again, and carries messages.
    before = pair.client.stats().generation
    pair.client.link.renew(pair.now)
    pair.client.send(b"after")
    pair.server.send(b"after")
    pair.settle()
    pair.run(10.0)
    assert {side.stats().generation for side in pair.sides} == {before + 1}
    assert len(pair.client.received) + len(pair.server.received) == len(order) + 2
    for side in pair.sides:
        assert side.failed is None
        assert side.stats().drops.get("authentication", 0) == 0


@pytest.mark.parametrize("seed", range(3))
def test_renewals_in_quick_succession_under_heavy_traffic_lose_nothing(seed: int) -> None:
    pair = Pair(paths=2, seed=seed, config=SMALL, limits=TINY, faults=BAD, latency=0.02)
    for side in pair.sides:
        for index in range(20):
            side.send(bytes([index]) * 100 * KIB, tag=index)
    while any(side.link.settled_through < 19 for side in pair.sides):
        pair.client.link.renew(pair.now)
        for _ in range(15):
            pair.step()
        assert pair.now < 300.0, f"seed {seed}"
    for side in pair.sides:
        assert sorted(tag for _, tag, _ in side.received) == list(range(20))
        assert side.stats().generation > 2


@pytest.mark.parametrize("interval", [5.0, 60.0])
def test_keys_are_renewed_as_often_as_asked(interval: float) -> None:
    pair = Pair(paths=2, config=Config(rehandshake_interval=interval))
    pair.run(interval * 10.5)
    for side in pair.sides:
        assert side.stats().generation == 10
        assert side.stats().state == "open"


def test_the_responder_asks_where_the_initiator_does_not() -> None:
    patient, hasty = Config(), Config(rehandshake_interval=10.0)
    pair = Pair(paths=2, config=patient, server_config=hasty)
    pair.run(60.0)
    assert pair.client.stats().generation == pair.server.stats().generation >= 4


def test_many_generations_wrap_around_their_one_byte() -> None:
    pair = Pair(paths=1, config=SMALL)
    for _ in range(260):
        renewed(pair, pair.client)
        pair.run(1.5)
    pair.client.send(b"x" * 10 * KIB)
    assert pair.deliver() == b"x" * 10 * KIB
    assert pair.client.stats().generation == 260


def test_evidence_is_judged_again_and_a_refusal_ends_the_link_on_both_sides() -> None:
    notaries = Notary(), Notary()
    pair = Pair(config=SMALL, evidence=notaries)
    assert [notary.judged for notary in notaries] == [1, 1]
    pair.client.link.renew(pair.now)
    pair.run(3.0)
    assert [notary.judged for notary in notaries] == [2, 2]
    notaries[1].accepts = False
    pair.client.link.renew(pair.now)
    pair.advance(until=lambda: all(side.failed is not None for side in pair.sides), limit=1.0)
    assert isinstance(pair.server.failure, AuthenticationError)
    assert isinstance(pair.client.failure, PeerLostError)


def test_another_key_in_a_renewal_ends_the_link() -> None:
    identities = Identity.generate(), Identity.generate()
    pair = Pair(config=SMALL, identities=identities)
    # What a caller sees whose peer was replaced behind the living link's back.
    object.__setattr__(pair.server.terms, "identity", Identity.generate())
    pair.client.link.renew(pair.now)
    pair.advance(until=lambda: pair.client.failed is not None, limit=1.0)
    assert isinstance(pair.client.failure, AuthenticationError)
    assert "changed its key" in str(pair.client.failure)


def test_a_renewal_cannot_be_begun_by_the_responder_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stolen = StolenKeys(monkeypatch)
    pair = Pair(config=SMALL)
    for body in (b"", b"\x11", b"\x12" + bytes(60), b"\x14" + bytes(200), bytes(8000)):
        for by in ("client", "server"):
            if body or by == "client":
                stolen.say(pair, frames.encode_handshake(body), by=by)
    pair.run(1.0)
    assert pair.open
    assert {side.stats().generation for side in pair.sides} == {0}


@pytest.mark.parametrize("seed", range(3))
def test_no_nonce_is_used_twice_in_a_hostile_run(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    oracle = NonceOracle(monkeypatch)
    pair = Pair(
        paths=3,
        seed=seed,
        config=SMALL,
        limits=TINY,
        faults=Faults(loss=0.15, duplication=0.15, reordering=0.15, corruption=0.05),
    )
    for index in range(60):
        for side in pair.sides:
            side.send(bytes(index * 997 % (60 * KIB)), tag=index)
        if index % 20 == 7:
            pair.client.link.renew(pair.now)
            pair.cut(index % 3)
            pair.run(0.3)
            pair.restore(index % 3)
        pair.run(0.05)
    pair.settle()
    assert oracle.repeats == [], f"seed {seed}"
    assert oracle.keys > 20
    assert sum(oracle.uses.values()) > 1000
    assert sum(side.stats().retransmissions for side in pair.sides) > 50


def test_the_oracle_sees_a_nonce_that_is_used_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    oracle = NonceOracle(monkeypatch)
    stolen = StolenKeys(monkeypatch)
    pair = Pair(config=SMALL)
    assert oracle.repeats == []
    twin = stolen.twin(pair, "client")
    for _ in range(2 + stolen.sealer(pair, "client").next_number):
        twin.seal_frames(b"\x08")
    assert oracle.repeats != []


def test_a_large_message_spans_many_epochs() -> None:
    pair = Pair(config=SMALL, limits=TINY)
    message = bytes(range(256)) * (4 * MIB // 256)
    pair.client.send(message)
    assert pair.deliver() == message
    assert pair.client.stats().epoch >= 4 * MIB // (8 * KIB) // 24 // 2
