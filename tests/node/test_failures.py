"""Peers that die, stand still, and come back, in processes of their own."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from typing import Any

import numpy as np
import pytest

from support.chaos_proxy import ChaosProxy
from support.nodes import IMPATIENT, PATIENCE, SECRET, link, node, together, until
from support.peer_process import digest, payload
from support.remote import Remote, RemoteError
from transport import Config, Identity, Node, PeerLostError, TransportError, Trust, Work

MIB = 1024 * 1024
QUICK = {"peer_timeout": 2.5, "heartbeat_interval": 0.5}
BOUND = 10.0
"""Seconds within which every operation with a dead peer must have ended."""


@pytest.fixture
def private() -> bytes:
    return os.urandom(32)


@pytest.fixture
def here() -> Iterator[Node]:
    with node("here", config=IMPATIENT) as made:
        yield made


def link_remote(own: Node, remote: Remote) -> None:
    own.connect(remote.addresses, peer=remote.name, timeout=PATIENCE)
    remote.ask("wait_for", peer=own.name)


def assert_lost(work: Work[Any], name: str) -> None:
    with pytest.raises(PeerLostError, match=repr(name)) as caught:
        work.wait(BOUND)
    assert work.what in str(caught.value)


def test_two_processes_exchange_messages(here: Node, private: bytes) -> None:
    with Remote("there", private) as there:
        link_remote(here, there)
        there.tell("send", to="here", seeds=[1, 2, 3], size=3 * MIB)
        for seed in (1, 2, 3):
            assert np.array_equal(here.recv(timeout=PATIENCE), payload(seed, 3 * MIB))
        there.answer()
        there.tell("recv", source="here", count=2)
        here.send(payload(4, 100), to="there")
        here.send(payload(5, 3 * MIB), to="there", timeout=PATIENCE)
        assert there.answer() == [digest(payload(4, 100)), digest(payload(5, 3 * MIB))]
        there.ask("close")


def run_into_death(own: Node, private: bytes, config: dict[str, float]) -> None:
    """Every kind of pending operation with a peer that is killed; another peer is served on."""
    with ExitStack() as stack:
        other = stack.enter_context(node("other"))
        link(own, other)
        victim = stack.enter_context(Remote("victim", private, config=config))
        link_remote(own, victim)
        victim.ask("post", source="here", tag=1)
        flowing = own.isend(np.zeros(64 * MIB, np.uint8), to="victim", tag=1)
        rendezvous = own.isend(np.zeros(MIB), to="victim", tag=2)
        receive = own.irecv(source="victim", tag=3)
        any_source = own.irecv(source=None, tag=4)
        eager = own.isend(np.zeros(10), to="victim", tag=5)
        victim.kill()

        started = time.monotonic()
        failures = together(
            partial(_error_of, rendezvous),
            partial(_error_of, receive),
            partial(_flush_error, own),
            patience=BOUND,
        )
        assert time.monotonic() - started < BOUND
        for error in failures:
            assert isinstance(error, PeerLostError)
            assert "'victim'" in str(error)
        assert "recv from 'victim' (tag 3)" in str(failures[1])
        assert "flush to 'victim'" in str(failures[2])
        assert flowing.done()  # sealed before the end, or lost with it
        eager.wait(0)
        assert own.stats().links == ("other",)
        with pytest.raises(PeerLostError, match="'victim' is not linked any more"):
            own.send(np.zeros(1), to="victim")

        assert not any_source.done()
        other.send(np.array([4]), to="here", tag=4)
        assert any_source.wait(PATIENCE)[0] == 4

        again = stack.enter_context(Remote("victim", private, config=config))
        again.ask("connect", addresses=own.addresses, peer="here")
        own.wait_for("victim", timeout=PATIENCE)
        again.ask("send", to="here", seeds=[6], size=100)
        assert digest(own.recv(source="victim", timeout=PATIENCE)) == digest(payload(6, 100))
        again.ask("close")


def _error_of(work: Work[Any]) -> TransportError:
    with pytest.raises(TransportError) as caught:
        work.wait(BOUND)
    return caught.value


def _flush_error(own: Node) -> TransportError:
    with pytest.raises(TransportError) as caught:
        own.flush("victim", timeout=BOUND)
    return caught.value


@pytest.mark.slow
def test_a_killed_peer_ends_its_operations_and_no_others(here: Node, private: bytes) -> None:
    run_into_death(here, private, QUICK)


@pytest.mark.slow
def test_the_same_with_the_defaults(private: bytes) -> None:
    with node("here") as here:
        run_into_death(here, private, {})


@pytest.mark.slow
def test_a_peer_killed_in_mid_send_fails_the_receive(here: Node, private: bytes) -> None:
    with Remote("victim", private, config=QUICK) as victim:
        link_remote(here, victim)
        out = np.zeros(64 * MIB, np.uint8)
        # More than can cross before the kill, however fast memory is.
        receives = [here.irecv(out, source="victim") for _ in range(400)]
        victim.tell("send", to="here", seeds=[1], size=out.nbytes, times=len(receives))
        until(lambda: here.link("victim").stats().bytes_received > 4 * MIB, patience=60.0)
        victim.kill()
        assert_lost(receives[-1], "victim")
        for receive in receives:
            assert receive.done(), "all that were under way have ended with it"


def test_a_new_process_of_the_same_identity_takes_over(here: Node, private: bytes) -> None:
    """It calls before its predecessor was missed: the old link ends, the new one is the link."""
    with Remote("there", private) as first:
        link_remote(here, first)
        receive = here.irecv(source="there", tag=9)
        first.kill()
        with Remote("there", private) as second:
            second.ask("connect", addresses=here.addresses, peer="here")
            second.tell("recv", source="here", count=1)
            assert_lost(receive, "there")
            here.wait_for("there", timeout=PATIENCE)
            here.send(payload(1, 50), to="there", timeout=PATIENCE)
            assert second.answer() == [digest(payload(1, 50))]
            second.ask("close")


@pytest.mark.slow
def test_a_restarted_listener_on_the_same_port_is_called_again(private: bytes) -> None:
    """The dialled paths reconnect to a process that knows nothing of the link."""
    config = Config(peer_timeout=2.5, heartbeat_interval=0.5)
    with node("here", config=config) as here:
        with Remote("there", private, config=QUICK) as first:
            link_remote(here, first)
            address = first.addresses
        receive = here.irecv(source="there")
        with Remote("there", private, config=QUICK, listen=address) as second:
            assert_lost(receive, "there")
            link_remote(here, second)
            second.tell("recv", source="here", count=1)
            here.send(payload(1, 50), to="there", timeout=PATIENCE)
            assert second.answer() == [digest(payload(1, 50))]
            second.ask("close")


@pytest.mark.slow
def test_a_peer_that_stood_still_for_a_while_is_not_lost(private: bytes) -> None:
    with Remote("there", private, config=QUICK) as there, node("here", config=IMPATIENT) as here:
        link_remote(here, there)
        there.stop()
        link_here = here.link("there")
        sent = link_here.stats().packets_sent
        until(lambda: link_here.stats().packets_sent > sent + 2)
        there.go_on()
        there.tell("recv", source="here", count=1)
        here.send(payload(2, 2 * MIB), to="there", timeout=PATIENCE)
        assert there.answer() == [digest(payload(2, 2 * MIB))]
        assert here.link("there") is link_here


@pytest.mark.slow
def test_this_process_standing_still_does_not_lose_the_peer(private: bytes) -> None:
    """After a stop longer than the timeout, the peer's packets are read before it is judged."""
    with (
        Remote("one", private, config={**QUICK, "peer_timeout": 30.0}) as one,
        Remote("two", os.urandom(32), config=QUICK) as two,
    ):
        one.ask("connect", addresses=two.addresses, peer="two")
        two.ask("wait_for", peer="one")
        two.stop()
        time.sleep(3.0)  # the stop itself, longer than `peer_timeout`
        two.go_on()
        two.tell("recv", source="one", count=1, timeout=20)
        one.ask("send", to="two", seeds=[3], size=MIB)
        assert two.answer() == [digest(payload(3, MIB))]


def test_a_clean_goodbye_is_named_as_such(here: Node, private: bytes) -> None:
    with Remote("there", private) as there:
        link_remote(here, there)
        receive = here.irecv(source="there", tag=1)
        there.ask("send", to="here", seeds=[1], size=100)
        there.ask("close")
        with pytest.raises(PeerLostError, match="closed the link"):
            receive.wait(BOUND)
        # What was delivered before the goodbye is still there to be taken.
        assert digest(here.recv(source="there", timeout=PATIENCE)) == digest(payload(1, 100))
        with pytest.raises(PeerLostError, match="closed the link"):
            here.recv(source="there", timeout=PATIENCE)


def test_strangers_among_processes(private: bytes) -> None:
    """A wrong secret and a wrong pinned key, as both processes are told."""
    identity = Identity(private)
    with node("here", trust=Trust({"there": identity.public_key}, secret=SECRET)) as here:
        with Remote("there", private, secret=bytes(32)) as there:
            there.tell("connect", addresses=here.addresses, peer="here", timeout=1.0)
            with pytest.raises(RemoteError, match="Compare on both sides: secret") as caught:
                there.answer()
            assert caught.value.kind == "HandshakeError"
        with Remote("there", os.urandom(32)) as there:
            there.tell("connect", addresses=here.addresses, peer="here", timeout=20.0)
            with pytest.raises(RemoteError, match="refused this node") as caught:
                there.answer()
            assert caught.value.kind == "AuthenticationError"
        with Remote("there", private) as there:
            there.ask("connect", addresses=here.addresses, peer="here")
            there.ask("close")


@pytest.mark.slow
def test_a_partition_loses_the_peer_on_both_sides_and_a_new_call_links_again(
    here: Node, private: bytes
) -> None:
    with Remote("there", private, config=QUICK) as there, ChaosProxy(there.addresses[0]) as proxy:
        here.connect(proxy.address, peer="there", timeout=PATIENCE)
        there.ask("wait_for", peer="here")
        receive = here.irecv(source="there")
        there.tell("recv", source="here", count=1, tag=7)
        proxy.stall()
        assert_lost(receive, "there")
        with pytest.raises(RemoteError, match=r"PeerLostError: .*'here' was silent"):
            there.answer()
        proxy.stall(on=False)
        proxy.cut()
        link_remote(here, there)
        there.ask("send", to="here", seeds=[1], size=10)
        here.recv(source="there", timeout=PATIENCE)
        there.ask("close")
