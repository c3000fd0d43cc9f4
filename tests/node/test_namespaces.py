"""Two hosts with two interfaces each, one of which fails in mid-transfer.

Needs root, iproute2 and util-linux; skipped where the machine does not allow it.
"""

from __future__ import annotations

import secrets
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest

from support.namespaces import Host, UnavailableError, joined_hosts
from support.nodes import PATIENCE, until
from support.peer_process import digest, payload
from support.remote import Remote

MIB = 1024 * 1024
RAILS = 2
GOOD, BAD = range(RAILS)
SIZE = 4 * MIB
MESSAGES = 16  # more than a receiver's credit: the rest waits for receives
CONFIG = {"shared_memory": False, "paths": RAILS, "heartbeat_interval": 0.5, "peer_timeout": 20.0}


@pytest.fixture
def hosts() -> Iterator[tuple[Host, Host]]:
    with ExitStack() as stack:
        try:
            joined = stack.enter_context(joined_hosts(RAILS))
        except UnavailableError as reason:
            pytest.skip(str(reason))
        yield joined


def linked(stack: ExitStack, hosts: tuple[Host, Host], **changed: float) -> tuple[Remote, Remote]:
    """A caller on the first host, an answerer on the second, a path on each rail."""

    def start(name: str, host: Host, listen: Sequence[str]) -> Remote:
        key, config = secrets.token_bytes(32), {**CONFIG, **changed}
        return stack.enter_context(
            Remote(name, key, listen=listen, config=config, command=host.command)
        )

    caller = start("caller", hosts[0], ())
    answerer = start("answerer", hosts[1], [f"tcp://10.99.{r}.2:0" for r in range(RAILS)])
    caller.ask("connect", addresses=answerer.addresses, peer="answerer")
    answerer.ask("wait_for", peer="caller")
    until(lambda: in_use(caller, "answerer") == [True] * RAILS)
    return caller, answerer


def in_use(one: Remote, peer: str) -> list[bool]:
    paths = one.ask("paths", peer=peer)
    return [path["state"] == "usable" and not path["suspected"] for path in paths]


def sent(one: Remote, peer: str) -> list[int]:
    return [path["bytes_sent"] for path in one.ask("paths", peer=peer)]


def receive(receiver: Remote, sender: Remote, seeds: range) -> None:
    """Receive what `sender` was told to send and compare it."""
    digests = receiver.ask("recv", source=sender.name, count=len(seeds))
    assert digests == [digest(payload(seed, SIZE)) for seed in seeds]


def transfer(sender: Remote, receiver: Remote, seeds: range) -> None:
    """Send, receive and compare."""
    sender.tell("send", to=receiver.name, seeds=list(seeds), size=SIZE)
    receive(receiver, sender, seeds)
    assert sender.answer() is None


def lose_both_ways(hosts: Sequence[Host]) -> None:
    for host in hosts:
        host.lose_silently(BAD)


def find_both_ways(hosts: Sequence[Host]) -> None:
    for host in hosts:
        host.find_again(BAD)


HARMS: dict[str, tuple[Callable[[Sequence[Host]], None], Callable[[Sequence[Host]], None]]] = {
    "down at the sender": (lambda h: h[0].take_down(BAD), lambda h: h[0].bring_up(BAD)),
    "down at the receiver": (lambda h: h[1].take_down(BAD), lambda h: h[1].bring_up(BAD)),
    "silent": (lose_both_ways, find_both_ways),
    "silent on the way there": (
        lambda h: h[0].lose_silently(BAD),
        lambda h: h[0].find_again(BAD),
    ),
}


@pytest.mark.parametrize("from_caller", [True, False], ids=["from the caller", "to the caller"])
@pytest.mark.parametrize("harm", HARMS)
def test_a_rail_fails_in_mid_transfer_and_comes_back(
    hosts: tuple[Host, Host], harm: str, from_caller: bool
) -> None:
    hurt, heal = HARMS[harm]
    with ExitStack() as stack:
        caller, answerer = linked(stack, hosts)
        sender, receiver = (caller, answerer) if from_caller else (answerer, caller)
        ends = hosts if from_caller else hosts[::-1]  # the sender's host first
        before = sent(sender, receiver.name)
        sender.tell("send", to=receiver.name, seeds=list(range(MESSAGES)), size=SIZE)
        receive(receiver, sender, range(2))
        hurt(ends)
        receive(receiver, sender, range(2, MESSAGES))
        assert sender.answer() is None
        sender.ask("flush")
        after = sent(sender, receiver.name)
        for rail in range(RAILS):
            assert after[rail] > before[rail] + MIB  # both were in use before

        until(lambda: in_use(sender, receiver.name) == [True, False])
        before = sent(sender, receiver.name)
        transfer(sender, receiver, range(100, 104))
        after = sent(sender, receiver.name)
        assert after[GOOD] - before[GOOD] > 2 * (after[BAD] - before[BAD])
        assert sender.ask("paths", peer=receiver.name)[BAD]["last_failure"] is not None

        heal(ends)
        until(lambda: in_use(sender, receiver.name) == [True] * RAILS, patience=3 * PATIENCE)
        before = sent(sender, receiver.name)

        def used() -> bool:
            transfer(sender, receiver, range(200, 202))
            return sent(sender, receiver.name)[BAD] > before[BAD] + MIB

        until(used)


def test_a_connection_that_stays_silent_is_dialled_anew(hosts: tuple[Host, Host]) -> None:
    """TCP itself would ask ever more rarely, and find a repaired network late."""
    with ExitStack() as stack:
        caller, answerer = linked(stack, hosts, peer_timeout=2.0)
        lose_both_ways(hosts)

        def cut() -> bool:
            transfer(caller, answerer, range(1))  # the other rail keeps the link alive
            bad = caller.ask("paths", peer=answerer.name)[BAD]
            return bool(bad["last_failure"] == "connection cut")

        until(cut, patience=3 * PATIENCE)
        find_both_ways(hosts)
        until(lambda: in_use(caller, answerer.name) == [True] * RAILS, patience=3 * PATIENCE)


def test_nothing_is_left_of_hosts_whose_test_was_killed(hosts: tuple[Host, Host]) -> None:
    """A process that makes two hosts is killed, and has no chance to tidy up."""
    program = (
        "from support.namespaces import joined_hosts\n"
        "with joined_hosts(1) as hosts:\n"
        "    print(*(host.pid for host in hosts), flush=True)\n"
        "    input()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[1],
    )
    with process:
        assert process.stdout is not None
        pids = process.stdout.readline().split()
        assert len(pids) == 2
        process.kill()
    until(lambda: not any(alive(pid) for pid in pids))


def alive(pid: str) -> bool:
    """Whether a process still runs; one that nobody has waited for does not."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text(encoding="ascii")
    except OSError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"
