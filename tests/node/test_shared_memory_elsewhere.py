"""Peers on this host that memory cannot be shared with: TCP serves, and nothing is left of trying.

They run in real containers, under other users and under real limits.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from contextlib import ExitStack

import pytest

from support.nodes import PATIENCE, link, node, until
from support.peer_process import digest, payload
from support.remote import Remote
from support.shared_memory import MEMORY, memory_held, memory_path, wait_for_memory
from support.surroundings import (
    ELSEWHERE,
    FULL_DEV_SHM,
    NOBODY,
    SOMEBODY,
    as_user,
    container,
    innermost,
    refusing,
    root_only,
    skip_unless_it_works,
)
from transport import Node

SIZES = (100, 70_000, 3 * 1024 * 1024)


def remote(name: str, command: Sequence[str]) -> Remote:
    return Remote(name, secrets.token_bytes(32), command=command)


def exchange(here: Node, there: Remote) -> None:
    """Messages of every kind each way."""
    for seed, size in enumerate(SIZES):
        there.tell("recv", source=here.name, count=1)
        here.send(payload(seed, size), to=there.name, timeout=PATIENCE)
        assert there.answer() == [digest(payload(seed, size))]
        there.tell("send", to=here.name, seeds=[seed], size=size)
        received = here.recv(source=there.name, timeout=PATIENCE)
        assert digest(received) == digest(payload(seed, size))
        assert there.answer() is None


def exchange_between(one: Remote, other: Remote) -> None:
    for sender, receiver in ((one, other), (other, one)):
        for seed, size in enumerate(SIZES):
            receiver.tell("recv", source=sender.name, count=1)
            sender.ask("send", to=receiver.name, seeds=[seed], size=size)
            assert receiver.answer() == [digest(payload(seed, size))]


def shares(one: Remote, peer: str) -> bool:
    """Whether a remote node uses memory with a peer."""
    return any(
        path["address"].startswith(MEMORY) and path["state"] == "usable"
        for path in one.ask("paths", peer=peer)
    )


def served_by_tcp(command: Sequence[str], refusals: int) -> None:
    """Link such a process with this one in both roles, and exchange messages.

    So often memory comes to nothing for reasons that only the other process finds.
    """
    before = memory_held()
    with ExitStack() as stack:
        caller, answerer = (stack.enter_context(node(name)) for name in ("caller", "answerer"))
        there = stack.enter_context(remote("there", command))
        caller.connect(there.addresses, peer="there", timeout=PATIENCE)
        there.ask("connect", addresses=answerer.addresses, peer="answerer")
        answerer.wait_for("there", timeout=PATIENCE)
        until(lambda: there.ask("drops").get("shared_memory", 0) == refusals)
        for here in (caller, answerer):
            exchange(here, there)
            assert not shares(there, here.name)
            path = memory_path(here, "there")
            assert path is None or path.state != "usable"
            assert "shared_memory" not in here.stats().drops
        until(lambda: memory_held(innermost(there.pid)) == (0, 0))
        until(lambda: memory_held() == before)
        # What came to nothing with them is no reason not to share with others.
        with node("neighbour") as neighbour:
            link(neighbour, answerer)
            wait_for_memory(neighbour, answerer)
        there.ask("close")
    until(lambda: memory_held() == before)


@pytest.mark.parametrize("where", ELSEWHERE)
def test_a_process_elsewhere_is_served_by_tcp(where: str) -> None:
    command, refusals = ELSEWHERE[where]
    skip_unless_it_works(command)
    served_by_tcp(command, refusals)


IRRELEVANT = {
    "a full /dev/shm": FULL_DEV_SHM,
    "no say in where it runs, nor splice": refusing("splice", "sched_setaffinity"),
}


@pytest.mark.parametrize("what", IRRELEVANT)
def test_memory_is_shared_all_the_same(what: str) -> None:
    skip_unless_it_works(IRRELEVANT[what])
    with node("here") as here, remote("there", IRRELEVANT[what]) as there:
        here.connect(there.addresses, peer="there", timeout=PATIENCE)
        until(lambda: (path := memory_path(here, "there")) and path.state == "usable")
        until(lambda: shares(there, "here"))
        exchange(here, there)
        assert "shared_memory" not in here.stats().drops
        there.ask("close")


@root_only
def test_root_and_a_process_of_another_user_are_served_by_tcp() -> None:
    """Root could open anybody's memory: it does not."""
    served_by_tcp(as_user(NOBODY), refusals=0)


def linked_between(stack: ExitStack, commands: Sequence[Sequence[str]]) -> tuple[Remote, Remote]:
    one, other = (
        stack.enter_context(remote(name, command))
        for name, command in zip(("one", "other"), commands, strict=True)
    )
    one.ask("connect", addresses=other.addresses, peer="other")
    other.ask("wait_for", peer="one")
    return one, other


STRANGERS = {
    "of different users": (as_user(NOBODY), as_user(SOMEBODY)),
    "that gave up privileges": (as_user(NOBODY, private=True),) * 2,
}


@root_only
@pytest.mark.parametrize("which", STRANGERS)
def test_processes_that_may_not_look_into_each_other(which: str) -> None:
    with ExitStack() as stack:
        one, other = linked_between(stack, STRANGERS[which])
        exchange_between(one, other)
        assert not shares(one, "other")
        assert not shares(other, "one")
        until(lambda: memory_held(one.pid) == memory_held(other.pid) == (0, 0))


@root_only
def test_processes_of_another_user_share_among_themselves() -> None:
    """So it is not for lack of anything else that the ones above do not."""
    with ExitStack() as stack:
        one, other = linked_between(stack, [as_user(NOBODY)] * 2)
        until(lambda: shares(one, "other") and shares(other, "one"))
        exchange_between(one, other)


def test_processes_of_one_container_share() -> None:
    with ExitStack() as stack:
        command = stack.enter_context(container())
        one, other = linked_between(stack, [command] * 2)
        until(lambda: shares(one, "other") and shares(other, "one"))
        exchange_between(one, other)
