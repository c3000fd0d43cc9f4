"""Memory between nodes comes to its end at a bad moment: both sides learn of it, nothing stays."""

from __future__ import annotations

import os
import secrets
import signal
from contextlib import ExitStack
from functools import partial

import pytest

from support.nodes import PATIENCE, link, linked, node, together, until
from support.peer_process import digest, payload
from support.remote import Remote
from support.shared_memory import memory_held, memory_path, uses_memory, wait_for_memory
from support.surroundings import that_dies
from transport import Config, Node, PeerLostError
from transport.link import Link
from transport.node.neighbour import Neighbours
from transport.path.shared_memory import Channel

MIB = 1024 * 1024
HASTY = {"peer_timeout": 1.5, "heartbeat_interval": 0.3}


def remote(name: str, command: tuple[str, ...] = ()) -> Remote:
    return Remote(name, secrets.token_bytes(32), config=HASTY, command=command)


# --- one side lets go -------------------------------------------------------------------------


@pytest.mark.parametrize("side", [0, 1], ids=["caller's", "answerer's"])
def test_a_forked_child_does_not_hide_that_its_parent_has_let_go(
    side: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has copies of both bells, so no pipe ends: the peer must hear of it all the same."""
    channels: list[Channel] = []
    attach = Channel.attach

    def noted(self: Channel, claim: bytes | memoryview) -> None:
        attach(self, claim)
        channels.append(self)

    monkeypatch.setattr(Channel, "attach", noted)
    before = memory_held()
    with linked() as (a, b):
        wait_for_memory(a, b)
        child = os.fork()
        if child == 0:
            signal.pause()
        try:
            channels[side].give_up("of this test")
            for one, other in ((a, b), (b, a)):
                work = one.isend(payload(1, 3 * MIB), to=other.name)
                received = other.recv(source=one.name, timeout=PATIENCE)
                assert digest(received) == digest(payload(1, 3 * MIB))
                work.wait(PATIENCE)
            for one, other in ((a, b), (b, a)):
                until(lambda one=one, other=other: _down(one, other))  # type: ignore[misc]
            until(lambda: memory_held() == before)
            assert memory_held(child)[1] == 0
        finally:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


def _down(one: Node, other: Node) -> bool:
    path = memory_path(one, other.name)
    return path is not None and path.state == "down"


@pytest.mark.parametrize("body", [b"", b"h" * 33, b"c", b"?"], ids=["no", "host", "claim", "?"])
def test_a_peer_that_goes_on_about_memory_is_answered_once(
    body: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Answers to what it never acknowledges would pile up here."""
    heard: list[str] = []
    hear = Neighbours.heard

    def insist(_: Neighbours, link: Link) -> None:
        if link.initiator:
            for _ in range(1000):
                link.share(body)

    def noted(self: Neighbours, link: Link, said: bytes) -> None:
        heard.append(link.peer)
        hear(self, link, said)

    monkeypatch.setattr(Neighbours, "established", insist)
    monkeypatch.setattr(Neighbours, "heard", noted)
    with linked() as (a, b):
        until(lambda: heard.count("a") == 1000)
        a.flush(timeout=PATIENCE)
        b.flush(timeout=PATIENCE)
        work = b.isend(payload(1, 3 * MIB), to="a")
        assert digest(a.recv(source="b", timeout=PATIENCE)) == digest(payload(1, 3 * MIB))
        work.wait(PATIENCE)
        assert heard.count("b") <= 1
        assert b.stats().drops.get("shared_memory", 0) <= 1
        assert memory_path(b, "a") is None


# --- a process dies ---------------------------------------------------------------------------


def test_peers_that_die_at_any_moment_of_the_agreement_leave_nothing() -> None:
    """In either role, and also where a child of the dead one keeps all that it had open."""
    moments = {
        "caller told": ("before", "attach"),
        "caller mapped": ("after", "attach"),
        "caller answered": ("before", "keep"),
        "answerer asked": ("before", "claim"),
        "answerer told": ("before", "attach"),
        "answerer mapped": ("after", "attach"),
    }
    before = memory_held()
    with ExitStack() as stack:
        hub = stack.enter_context(node("hub", config=Config(**HASTY)))  # type: ignore[arg-type]
        makers = [partial(remote, name, that_dies(*when)) for name, when in moments.items()]
        made = together(partial(remote, "parent"), *makers)
        parent, *mortals = (stack.enter_context(each) for each in made)
        hub.connect(parent.addresses, peer="parent", timeout=PATIENCE)
        until(lambda: (path := memory_path(hub, "parent")) and path.state == "usable")
        child = parent.ask("fork")
        try:
            parent.kill()
            for each in mortals:
                if each.name.startswith("caller"):
                    each.tell("connect", addresses=hub.addresses, peer="hub")
                else:
                    hub.connect(each.addresses, peer=each.name, timeout=PATIENCE)
            work = hub.irecv(source="parent")
            with pytest.raises(PeerLostError, match="'parent'"):
                work.wait(PATIENCE)
            until(lambda: not any(_alive(each) for each in mortals))
            until(lambda: not hub.stats().links)
            until(lambda: memory_held() == before)
            assert memory_held(child)[1] == 0
        finally:
            os.kill(child, signal.SIGKILL)
        # It is as good a neighbour as before.
        with node("other") as other:
            link(other, hub)
            wait_for_memory(other, hub)
            assert uses_memory(other, hub)


def _alive(one: Remote) -> bool:
    with open(f"/proc/{one.pid}/stat", "rb") as file:
        return file.read().rpartition(b")")[2].split()[0] != b"Z"
