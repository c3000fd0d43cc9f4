"""The handshake step by step: whatever comes in between, only the genuine packet moves it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transport.errors import AuthenticationError, HandshakeError
from transport.identity import Identity, Trust
from transport.identity.evidence import EvidenceBinding, EvidenceExchange, NoEvidence
from transport.link.drops import AUTHENTICATION, BAD_HELLO, MALFORMED, STATE, UNKNOWN_PEER, Drop
from transport.link.handshake import (
    MAX_EVIDENCE,
    Agreement,
    Handshake,
    RefusedError,
    Terms,
    open_hello,
)
from transport.wire.packet import HANDSHAKE_HEADER, Kind, classify, pack_handshake

SECRET = bytes(range(32))
STEPS = ("init", "response", "finish", "evidence", "conclusion")


class Strict:
    """Evidence that must name the binding it is asked for; counts what it judged."""

    def __init__(self, *, accepts: bool = True, size: int = 0) -> None:
        self._accepts = accepts
        self._size = size
        self.judged: list[tuple[bytes, EvidenceBinding]] = []

    def produce(self, binding: EvidenceBinding) -> bytes:
        return (
            b"signed by "
            + binding.public_key
            + binding.nonce
            + binding.user_data
            + bytes(self._size)
        )

    def verify(self, evidence: bytes, binding: EvidenceBinding) -> None:
        self.judged.append((evidence, binding))
        if not self._accepts or evidence != self.produce(binding):
            raise AuthenticationError("the policy says no")


def terms(
    name: str,
    trust: Trust | None = None,
    identity: Identity | None = None,
    evidence: EvidenceExchange | None = None,
) -> Terms:
    return Terms(
        name=name,
        identity=identity or Identity.generate(),
        trust=trust or Trust(secret=SECRET),
        evidence=evidence or NoEvidence(),
        packet_limit=1 << 20,
        credit=1 << 24,
    )


@dataclass
class Dance:
    """Both sides of one handshake, advanced by hand, one packet at a time."""

    initiator_terms: Terms = field(default_factory=lambda: terms("caller"))
    responder_terms: Terms = field(default_factory=lambda: terms("answerer"))
    packets: dict[str, bytes] = field(default_factory=dict)
    refusal: HandshakeError | None = None

    def __post_init__(self) -> None:
        name = self.responder_terms.name
        self.initiator = Handshake(self.initiator_terms, peer=name, index=11)
        self.packets["init"] = self.initiator.first_packet()
        hello = open_hello(memoryview(self.packets["init"]), self.responder_terms)
        self.responder = Handshake(self.responder_terms, peer=hello.caller, index=22, hello=hello)

    def steps(self) -> Iterator[tuple[str, Handshake, bytes]]:
        """Before each step: its name, who receives it, and the genuine packet."""
        yield "init", self.responder, self.packets["init"]
        (self.packets["response"],) = self.responder.receive(memoryview(self.packets["init"]))
        yield "response", self.initiator, self.packets["response"]
        self.packets["finish"], self.packets["evidence"] = self.initiator.receive(
            memoryview(self.packets["response"])
        )
        yield "finish", self.responder, self.packets["finish"]
        assert self.responder.receive(memoryview(self.packets["finish"])) == []
        yield "evidence", self.responder, self.packets["evidence"]
        (self.packets["conclusion"],) = self.responder.receive(memoryview(self.packets["evidence"]))
        yield "conclusion", self.initiator, self.packets["conclusion"]
        assert self.initiator.receive(memoryview(self.packets["conclusion"])) == []

    def finish(self) -> tuple[Agreement, Agreement]:
        for _ in self.steps():
            pass
        return self.agreed()

    def agreed(self) -> tuple[Agreement, Agreement]:
        assert self.initiator.agreement is not None
        assert self.responder.agreement is not None
        return self.initiator.agreement, self.responder.agreement


def drop_of(handshake: Handshake, packet: bytes) -> str:
    with pytest.raises(Drop) as caught:
        handshake.receive(memoryview(packet))
    return caught.value.cause


# --- the way it should go ----------------------------------------------------------------


def test_both_sides_agree_on_everything() -> None:
    dance = Dance()
    mine, theirs = dance.finish()
    assert mine.root == theirs.root
    assert mine.transcript == theirs.transcript
    assert len(mine.root) == len(mine.transcript) == 64
    assert (mine.peer, theirs.peer) == ("answerer", "caller")
    assert (mine.peer_index, theirs.peer_index) == (22, 11)
    assert mine.peer_key == dance.responder_terms.identity.public_key
    assert theirs.peer_key == dance.initiator_terms.identity.public_key
    assert mine.peer_packet_limit == theirs.peer_packet_limit == 1 << 20
    assert mine.peer_credit == theirs.peer_credit == 1 << 24
    assert mine.sealing_secret(initiator=True) == theirs.opening_secret(initiator=False)
    assert mine.opening_secret(initiator=True) == theirs.sealing_secret(initiator=False)
    assert mine.root.hex() not in repr(mine)


def test_two_handshakes_of_the_same_nodes_share_nothing() -> None:
    caller, answerer = terms("caller"), terms("answerer")
    (one, _), (other, _) = (Dance(caller, answerer).finish() for _ in range(2))
    assert one.root != other.root
    assert one.transcript != other.transcript


def test_kinds_receivers_and_sizes_on_the_wire() -> None:
    dance = Dance()
    dance.finish()
    seen = [classify(memoryview(dance.packets[step])) for step in STEPS]
    assert seen == [
        (Kind.INIT, 11),
        (Kind.RESPONSE, 11),
        (Kind.FINISH, 22),
        (Kind.EVIDENCE, 22),
        (Kind.EVIDENCE, 11),
    ]
    for step in STEPS:
        assert b"caller" not in dance.packets[step]
        assert b"answerer" not in dance.packets[step]


def test_no_key_exists_before_both_sides_evidence_is_accepted() -> None:
    evidence = Strict(), Strict()
    dance = Dance(terms("caller", evidence=evidence[0]), terms("answerer", evidence=evidence[1]))
    for step, _, _ in dance.steps():
        # The responder has judged before it answers the evidence with its own.
        assert dance.initiator.agreement is None
        assert (dance.responder.agreement is not None) is (step == "conclusion")
        assert len(evidence[1].judged) == (step == "conclusion")
        assert evidence[0].judged == []
    dance.agreed()
    assert [len(each.judged) for each in evidence] == [1, 1]
    (_, of_responder), (_, of_initiator) = evidence[0].judged[0], evidence[1].judged[0]
    assert of_responder.public_key == dance.responder_terms.identity.public_key
    assert of_initiator.public_key == dance.initiator_terms.identity.public_key
    assert of_initiator.nonce != of_responder.nonce


def test_evidence_changes_the_keys() -> None:
    caller, answerer = Identity.generate(), Identity.generate()
    dance = Dance(
        terms("caller", identity=caller, evidence=Strict()),
        terms("answerer", identity=answerer, evidence=Strict()),
    )
    mine, theirs = dance.finish()
    assert mine.root == theirs.root


# --- each step, each kind of packet ----------------------------------------------------------


def damaged(packet: bytes) -> dict[str, bytes]:
    """What a network, or an enemy, makes of a packet."""
    size = HANDSHAKE_HEADER.size
    bits = {
        f"bit {at} flipped": packet[: at // 8]
        + bytes([packet[at // 8] ^ 1 << at % 8])
        + packet[at // 8 + 1 :]
        for at in (*range(8, 32), size * 8, size * 8 + 99, len(packet) * 4, len(packet) * 8 - 1)
    }
    return {
        **bits,
        "half of it": packet[: len(packet) // 2],
        "its header": packet[:size],
        "all but a byte": packet[:-1],
        "a byte more": packet + b"x",
        "nothing": b"",
        "zeros behind its header": packet[:size] + bytes(len(packet) - size),
    }


@pytest.mark.parametrize("step", STEPS)
def test_a_damaged_packet_is_dropped_and_the_genuine_one_still_succeeds(step: str) -> None:
    dance = Dance()
    for now, receiver, genuine in dance.steps():
        if now != step:
            continue
        for name, packet in damaged(genuine).items():
            if step == "init":
                # The hello was opened before; the enemy changes what stands behind it.
                with pytest.raises(Drop):
                    open_hello(memoryview(packet), dance.responder_terms)
                continue
            cause = drop_of(receiver, packet)
            assert cause in (AUTHENTICATION, MALFORMED, STATE), name
    mine, theirs = dance.agreed()
    assert mine.root == theirs.root


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("stranger", STEPS)
def test_a_packet_of_another_handshake_or_another_step_is_dropped(step: str, stranger: str) -> None:
    caller, answerer = terms("caller"), terms("answerer")
    other = Dance(caller, answerer)
    other.finish()
    dance = Dance(caller, answerer)
    for now, receiver, _ in dance.steps():
        if now == step:
            # Of the same two nodes and the same step, and yet not of this handshake.
            cause = drop_of(receiver, other.packets[stranger])
            assert cause in (AUTHENTICATION, STATE)
            for own, packet in list(dance.packets.items()):
                if own != step:
                    assert drop_of(receiver, packet) in (STATE, AUTHENTICATION)
    mine, theirs = dance.agreed()
    assert mine.root == theirs.root != other.agreed()[0].root


@pytest.mark.parametrize("step", STEPS)
def test_a_packet_that_was_taken_is_not_taken_again(step: str) -> None:
    dance = Dance()
    receivers = {now: receiver for now, receiver, _ in dance.steps()}
    assert drop_of(receivers[step], dance.packets[step]) == STATE


@settings(max_examples=60)
@given(
    kind=st.sampled_from([Kind.INIT, Kind.RESPONSE, Kind.FINISH, Kind.EVIDENCE]),
    body=st.binary(max_size=1800),
    counter=st.integers(0, 3),
)
def test_arbitrary_packets_at_any_step_are_dropped(kind: Kind, body: bytes, counter: int) -> None:
    packet = pack_handshake(kind, 22, counter) + body
    with pytest.raises(Drop):
        open_hello(memoryview(packet), SHARED.responder_terms)
    fresh = Handshake(SHARED.initiator_terms, peer="answerer", index=1)
    fresh.first_packet()
    assert drop_of(fresh, packet) in (MALFORMED, STATE, AUTHENTICATION)
    assert drop_of(SHARED.responder, packet) in (MALFORMED, STATE, AUTHENTICATION)


SHARED = Dance()
SHARED.responder.receive(memoryview(SHARED.packets["init"]))


# --- who is refused, and how -----------------------------------------------------------------


def test_a_wrong_secret_is_a_bad_hello_and_gets_no_answer() -> None:
    with pytest.raises(Drop, match=BAD_HELLO):
        Dance(terms("caller", Trust(secret=bytes(32))))


def test_without_the_responders_key_a_caller_gets_no_answer() -> None:
    caller, answerer = Identity.generate(), Identity.generate()
    wrong = Trust({"answerer": Identity.generate().public_key})
    right = Trust({"caller": caller.public_key})
    with pytest.raises(Drop, match=BAD_HELLO):
        Dance(terms("caller", wrong, caller), terms("answerer", right, answerer))


def test_a_call_for_another_name_is_not_answered() -> None:
    handshake = Handshake(terms("caller"), peer="someone else", index=1)
    with pytest.raises(Drop, match=BAD_HELLO):
        open_hello(memoryview(handshake.first_packet()), terms("answerer"))


def test_a_name_that_is_not_pinned_is_unknown() -> None:
    answerer = terms("answerer", Trust({"friend": bytes([9]) * 32}, SECRET))
    with pytest.raises(Drop, match=UNKNOWN_PEER):
        Dance(terms("caller"), answerer)


def test_nobody_calls_himself() -> None:
    handshake = Handshake(terms("answerer"), peer="answerer", index=1)
    with pytest.raises(Drop, match=UNKNOWN_PEER):
        open_hello(memoryview(handshake.first_packet()), terms("answerer"))


def test_another_version_of_the_protocol_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("transport.link.handshake.PROTOCOL_VERSION", 2)
        inside = Handshake(terms("caller"), peer="answerer", index=1).first_packet()
    with pytest.raises(Drop, match=MALFORMED):
        open_hello(memoryview(inside), terms("answerer"))
    outside = (
        bytes([0x21]) + Handshake(terms("caller"), peer="answerer", index=1).first_packet()[1:]
    )
    with pytest.raises(Drop, match=MALFORMED):
        open_hello(memoryview(outside), terms("answerer"))


def test_a_caller_with_the_wrong_key_is_refused_under_seal_and_told_so() -> None:
    answerer = terms("answerer", Trust({"caller": bytes([9]) * 32}, SECRET))
    dance = Dance(terms("caller"), answerer)
    refused: RefusedError | None = None
    with pytest.raises(RefusedError) as caught:
        dance.finish()
    refused = caught.value
    assert "pinned" in str(refused)
    assert len(refused.answer) == HANDSHAKE_HEADER.size + 1 + 16, "yes or no, and never why"
    with pytest.raises(AuthenticationError, match="refused this node"):
        dance.initiator.receive(memoryview(refused.answer))
    assert dance.initiator.agreement is None


def test_an_impostor_learns_nothing_of_the_caller() -> None:
    caller = terms("caller", Trust({"answerer": bytes([9]) * 32}, SECRET))
    dance = Dance(caller)
    (response,) = dance.responder.receive(memoryview(dance.packets["init"]))
    with pytest.raises(AuthenticationError, match="pinned"):
        dance.initiator.receive(memoryview(response))
    # It was still to send its own key, in FINISH; now it never will.
    assert drop_of(dance.initiator, response) == STATE


@pytest.mark.parametrize("key_of", ["caller", "answerer"])
def test_a_peer_with_this_nodes_own_key_is_refused(key_of: str) -> None:
    shared = Identity.generate()
    dance = Dance(terms("caller", identity=shared), terms("answerer", identity=shared))
    with pytest.raises(AuthenticationError, match="own key"):
        dance.finish()


@pytest.mark.parametrize("refusing", ["initiator", "responder"])
def test_evidence_that_is_refused_ends_the_attempt_on_both_sides(refusing: str) -> None:
    says_no = Strict(accepts=False)
    evidence = (says_no, Strict()) if refusing == "initiator" else (Strict(), says_no)
    dance = Dance(terms("caller", evidence=evidence[0]), terms("answerer", evidence=evidence[1]))
    with pytest.raises(RefusedError, match="policy says no") as caught:
        dance.finish()
    other = dance.responder if refusing == "initiator" else dance.initiator
    with pytest.raises(AuthenticationError, match="refused this node"):
        other.receive(memoryview(caught.value.answer))
    assert dance.initiator.agreement is None
    assert dance.responder.agreement is None
    assert b"policy" not in caught.value.answer


class Unasked(NoEvidence):
    """Attests to everybody."""

    def produce(self, binding: EvidenceBinding) -> bytes:
        return b"unasked"


@pytest.mark.parametrize("attesting", ["caller", "answerer"])
def test_evidence_that_nobody_asked_for_does_no_harm_and_is_not_believed(attesting: str) -> None:
    sides = {name: terms(name) for name in ("caller", "answerer")}
    sides[attesting] = terms(attesting, evidence=Unasked())
    mine, theirs = Dance(sides["caller"], sides["answerer"]).finish()
    assert mine.root == theirs.root
    assert mine.attested is theirs.attested is None


def test_evidence_has_a_limit() -> None:
    evidence = Strict(size=MAX_EVIDENCE)
    dance = Dance(terms("caller", evidence=evidence))
    with pytest.raises(HandshakeError, match="at most"):
        dance.finish()
    fits = Strict(size=MAX_EVIDENCE - 138)
    Dance(terms("caller", evidence=fits), terms("answerer", evidence=fits)).finish()


Failing = Callable[[], Dance]


@pytest.mark.parametrize(
    "make",
    [
        lambda: Dance(
            responder_terms=terms("answerer", Trust({"caller": bytes([9]) * 32}, SECRET))
        ),
        lambda: Dance(responder_terms=terms("answerer", evidence=Strict())),
        lambda: Dance(
            initiator_terms=terms("caller", Trust({"answerer": bytes([9]) * 32}, SECRET))
        ),
    ],
)
def test_after_a_failure_nothing_is_taken_any_more(make: Failing) -> None:
    """Else a refused peer's evidence could still be judged, and agreed to."""
    dance = make()
    failed: Handshake | None = None
    genuine = b""
    with pytest.raises(HandshakeError):
        for _, failed, genuine in dance.steps():  # noqa: B007 - the last ones are wanted
            pass
    assert failed is not None
    for packet in (genuine, *dance.packets.values()):
        assert drop_of(failed, packet) == STATE
    assert failed.agreement is None
    assert not failed.transcript_agreed


def test_a_refusal_cannot_be_forged_by_who_is_not_the_peer() -> None:
    dance = Dance()
    forged = pack_handshake(Kind.EVIDENCE, 11, 0) + bytes(17)
    for step, _, _ in dance.steps():
        if step == "conclusion":
            assert drop_of(dance.initiator, forged) == AUTHENTICATION
            assert drop_of(dance.responder, pack_handshake(Kind.EVIDENCE, 22, 1) + bytes(17)) == (
                AUTHENTICATION
            )
    dance.agreed()


def test_an_ephemeral_key_of_low_order_gets_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would make the shared secret anybody's. The hello is good, the key is not."""
    caller, answerer = terms("caller"), terms("answerer")
    handshake = Handshake(caller, peer="answerer", index=1)

    class Weak:
        """Announces the point of order one."""

        public = bytes(32)

        def __init__(self, private: object) -> None:
            pass

    monkeypatch.setattr("transport.crypto.noise.X25519", Weak)
    packet = memoryview(handshake.first_packet())
    monkeypatch.undo()
    hello = open_hello(packet, answerer)
    answering = Handshake(answerer, peer="caller", index=2, hello=hello)
    for expected in (AUTHENTICATION, STATE):
        assert drop_of(answering, bytes(packet)) == expected


@pytest.mark.parametrize("wrong", ["binding", "peer key"])
def test_a_renewal_is_bound_to_its_link_and_to_its_peers_key(wrong: str) -> None:
    first, _ = Dance().finish()
    caller, answerer = terms("caller"), terms("answerer")
    binding = first.transcript
    key = answerer.identity.public_key if wrong == "binding" else bytes([9]) * 32
    initiator = Handshake(caller, peer="answerer", index=1, binding=binding, peer_key=key)
    init = memoryview(initiator.first_packet())
    responder = Handshake(
        answerer,
        peer="caller",
        index=2,
        hello=open_hello(init, answerer),
        binding=b"" if wrong == "binding" else binding,
    )
    if wrong == "binding":
        assert drop_of(responder, bytes(init)) == AUTHENTICATION
    else:
        (response,) = responder.receive(init)
        with pytest.raises(AuthenticationError, match="changed its key within a link"):
            initiator.receive(memoryview(response))
