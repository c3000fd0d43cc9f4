"""A key service over sealed links: it serves the approved, and no peer can harm another."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import msgpack
import numpy as np
import pytest

from support.kms import CONTEXT, KEY, PASSPHRASE, World, world
from support.nodes import PATIENCE, node, together, until
from transport import Config, Identity, Node, Trust
from transport.errors import PeerLostError, PeerRefusedError, TransportTimeoutError, UsageError
from transport.identity.kms import AttestedKeys, KeyFolder, Reason, Unlocking, audit, messages
from transport.identity.kms.embedded import REFUSED
from transport.path.base import CallLater, Path
from transport.path.fault import FaultInjector, Faults, FaultyPath
from transport.services import KeyServer, RemoteKeyService
from transport.services.key_server import KEY_CONVERSATION

SECRET = bytes(range(32))


@contextmanager
def serving(made: World) -> Iterator[KeyServer]:
    with KeyServer(
        made.service, "kms", identity=Identity.generate(), trust=Trust(secret=SECRET)
    ) as server:
        server.start()
        yield server


@contextmanager
def program(server: KeyServer, name: str = "app", config: Config | None = None) -> Iterator[Node]:
    with node(name, listen=(), config=config) as caller:
        caller.connect(server.node.addresses, peer="kms", timeout=PATIENCE)
        yield caller


@pytest.fixture
def made(tmp_path):
    with world(tmp_path) as made:
        yield made


@pytest.fixture
def server(made):
    with serving(made) as server:
        yield server


def keys_of(made: World, caller: Node) -> AttestedKeys:
    return AttestedKeys(RemoteKeyService(caller, "kms", timeout=PATIENCE), made.attester)


def ask_raw(caller: Node, content: object, tag: int) -> np.ndarray:
    """Send what is no request; return the answer."""
    answer = caller.irecv(source="kms", tag=tag, context=KEY_CONVERSATION)
    caller.isend(content, to="kms", tag=tag, context=KEY_CONVERSATION)
    return answer.wait(PATIENCE)


def test_an_approved_program_gets_its_key_over_the_link(made, server):
    with program(server) as caller:
        key, ciphertext = keys_of(made, caller).generate_data_key(KEY, CONTEXT)
    with program(server, "another") as caller:
        assert keys_of(made, caller).decrypt(ciphertext, CONTEXT) == key


def test_a_changed_program_gets_none_and_learns_nothing(made, server):
    with program(server) as caller:
        remote = RemoteKeyService(caller, "kms", timeout=PATIENCE)
        with pytest.raises(PeerRefusedError) as refused:
            AttestedKeys(remote, made.changed_program()).generate_data_key(KEY, CONTEXT)
    assert str(refused.value) == REFUSED
    assert made.service.refusals == {Reason.EVIDENCE: 1}


def test_the_kill_switch_of_another_process_is_effective_at_once(made, server):
    with program(server) as caller:
        keys = keys_of(made, caller)
        key, ciphertext = keys.generate_data_key(KEY, CONTEXT)
        unlocking = Unlocking.passphrase(PASSPHRASE)
        with KeyFolder.open(made.path / "keys", unlocking, clock=made.clock) as operator:
            operator.enable(KEY, False)
            with pytest.raises(PeerRefusedError):
                keys.decrypt(ciphertext, CONTEXT)
            operator.enable(KEY)
            assert keys.decrypt(ciphertext, CONTEXT) == key


def test_a_challenge_serves_only_the_peer_that_asked_for_it(made, server):
    class WithChallengeOf(RemoteKeyService):
        """Asks one peer's question with another's challenge."""

        def __init__(self, caller: Node, other: Node) -> None:
            super().__init__(caller, "kms", timeout=PATIENCE)
            self.other = RemoteKeyService(other, "kms", timeout=PATIENCE)

        def challenge(self) -> bytes:
            return self.other.challenge()

    with program(server, "a") as a, program(server, "b") as b, pytest.raises(PeerRefusedError):
        AttestedKeys(WithChallengeOf(a, b), made.attester).generate_data_key(KEY, CONTEXT)
    assert made.service.refusals == {Reason.CHALLENGE: 1}


def test_many_ask_at_once(made, server):
    with program(server, "a") as a, program(server, "b") as b:

        def ask(caller: Node) -> list[bytes]:
            keys = keys_of(made, caller)
            return [bytes(keys.generate_data_key(KEY, CONTEXT)[0]) for _ in range(3)]

        made_keys = together(*(lambda caller=c: ask(caller) for c in (a, b, a, b)))
    flat = [key for keys in made_keys for key in keys]
    assert len(set(flat)) == 12
    assert made.service.granted == 12


def test_a_node_s_own_messages_stay_apart(made, server):
    with program(server) as caller:
        anything = caller.irecv(tag=None)  # would take a message of any peer and tag
        assert keys_of(made, caller).generate_data_key(KEY, CONTEXT)
        assert not anything.done()
        anything.cancel()


# --- hostile peers -----------------------------------------------------------------------------


def malformed(path) -> list[object]:
    class Canary:
        def __reduce__(self):
            return (path.write_text, ("executed",))

    return [
        b"\0",
        pickle.dumps(Canary()),
        np.zeros(4, np.float32),
        np.zeros((2, 2), np.uint8),
        np.uint8(7),
        msgpack.packb({"v": 1, "do": "decrypt"}),
        b"\x81\xa1a" * 2000,
    ]


def test_what_is_no_request_is_refused_and_nothing_executed(made, server, tmp_path):
    canary = tmp_path / "canary"
    with program(server) as caller:
        contents = malformed(canary)
        for tag, content in enumerate(contents):
            assert ask_raw(caller, content, tag).tobytes() == messages.encode_refusal()
        assert made.service.refusals == {Reason.MALFORMED: len(contents)}
        assert keys_of(made, caller).generate_data_key(KEY, CONTEXT)
    assert not canary.exists()


def test_a_message_that_is_too_large_is_not_taken(made, server):
    with program(server) as caller, program(server, "other") as other:
        big = np.zeros(8 * messages.MESSAGE_LIMIT, np.uint8)
        caller.isend(big, to="kms", tag=1, context=KEY_CONVERSATION)
        assert keys_of(made, other).generate_data_key(KEY, CONTEXT)
    assert made.service.granted == 1


def test_a_peer_that_takes_no_answers_is_held_to_its_share(made, server):
    stingy = Config(eager_limit=256, unexpected_bytes=1024)
    with program(server, "stingy", stingy) as caller, program(server, "other") as other:
        for _ in range(400):
            caller.isend(b"\0", to="kms", tag=9, context=KEY_CONVERSATION)
        until(lambda: server.drops["owed"] > 0)
        assert keys_of(made, other).generate_data_key(KEY, CONTEXT)


class LosesLargePackets(FaultInjector):
    """Loses every packet above a size once it is told to: messages begin and do not end."""

    def __init__(self) -> None:
        super().__init__(Faults(), seed=1)
        self.losing = False

    def apply(self, packet):
        if self.losing and len(packet) > 1500:
            self.counts["lost"] += 1
            return []
        return super().apply(packet)


def test_a_peer_whose_requests_never_end_holds_up_only_itself(made, server):
    injector = LosesLargePackets()

    def faulty(inner: Path, call_later: CallLater) -> FaultyPath:
        return FaultyPath(inner, injector, call_later)

    announcing = Config(eager_limit=256)
    with (
        node("stalled", listen=(), config=announcing, path_filter=faulty) as stalled,
        program(server, "other") as other,
    ):
        stalled.connect(server.node.addresses, peer="kms", timeout=PATIENCE)
        assert keys_of(made, stalled).generate_data_key(KEY, CONTEXT), "announced, then sent"
        injector.losing = True
        for tag in range(40):
            stalled.isend(bytes(5000), to="kms", tag=tag, context=KEY_CONVERSATION)
        until(lambda: injector.counts["lost"])
        # More than it has receives for.
        until(lambda: server.node.stats().unclaimed_messages > 0)
        for _ in range(3):
            assert keys_of(made, other).generate_data_key(KEY, CONTEXT)
        assert made.service.refusals.total() == 0
        stalled.close(timeout=0.1)  # nothing of what it waits for will come


def test_a_peer_that_goes_is_forgotten(made, server):
    for _ in range(3):
        with program(server, "passing") as caller:
            assert keys_of(made, caller).generate_data_key(KEY, CONTEXT)
        until(lambda: not server.node.stats().links)
    with program(server) as caller:
        assert keys_of(made, caller).generate_data_key(KEY, CONTEXT)


def test_without_an_audit_log_there_are_no_answers(made, server):
    with program(server) as caller:
        assert keys_of(made, caller).generate_data_key(KEY, CONTEXT)
        (made.path / "keys" / "audit.log").write_bytes(b"")
        with pytest.raises(PeerRefusedError):
            keys_of(made, caller).generate_data_key(KEY, CONTEXT)
    assert made.service.granted == 1


def test_nothing_leaves_that_is_not_on_the_disk(made, server, monkeypatch):
    def refuse(descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    with program(server) as caller:
        keys = AttestedKeys(RemoteKeyService(caller, "kms", timeout=1.0), made.attester)
        with monkeypatch.context() as broken:
            broken.setattr(audit.os, "fdatasync", refuse)
            with pytest.raises(TransportTimeoutError):
                keys.generate_data_key(KEY, CONTEXT)
        until(lambda: server.drops["audit"])
        with pytest.raises((PeerRefusedError, TransportTimeoutError)):
            keys.generate_data_key(KEY, CONTEXT)


# --- the server itself ---------------------------------------------------------------------------


def test_it_starts_once(server):
    with pytest.raises(UsageError, match="started already"):
        server.start()


def test_closing_ends_it(made):
    with serving(made) as server, program(server) as caller:
        assert keys_of(made, caller).generate_data_key(KEY, CONTEXT)
        server.close()
        with pytest.raises((PeerLostError, TransportTimeoutError, UsageError)):
            RemoteKeyService(caller, "kms", timeout=5.0).challenge()


def test_it_is_where_it_was_asked_to_be(server):
    (address,) = server.node.addresses
    assert address.startswith("tcp://127.0.0.1:")


def test_importing_the_services_imports_no_web_client():
    report = "import sys, transport.services; print(*({'boto3', 'h11', 'moto'} & set(sys.modules)))"
    printed = subprocess.run(
        [sys.executable, "-c", report], capture_output=True, text=True, timeout=60, check=True
    )
    assert printed.stdout.split() == []
