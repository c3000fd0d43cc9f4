"""Memory shared between nodes: found, agreed, refused, failing; and nothing of it left behind."""

from __future__ import annotations

import dataclasses
import errno
import os
import resource
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha512
from time import monotonic

import numpy as np
import pytest

from support.nodes import IMPATIENT, PATIENCE, link, linked, node, until
from support.peer_process import digest, payload
from support.remote import Remote
from support.shared_memory import (
    MEMFD,
    gave_up_memory,
    held,
    memory_path,
    uses_memory,
    wait_for_memory,
)
from transport import Config, Node, PeerLostError
from transport.link.express import COALESCE_PACKETS
from transport.path.shared_memory import Channel, Host
from transport.path.shared_memory import channel as channel_module
from transport.path.shared_memory.segment import Claim

MIB = 1024 * 1024
QUICK = {"peer_timeout": 2.5, "heartbeat_interval": 0.5}
SEGMENT = 1 + 3 * 2.01 + 0.01  # MiB of a segment by default: ring, slots, first page


def exchange(a: Node, b: Node) -> None:
    """A small and a large message each way."""
    for one, other in ((a, b), (b, a)):
        for size in (100, 3 * MIB):
            work = one.isend(payload(size, size), to=other.name)
            received = other.recv(source=one.name, timeout=PATIENCE)
            assert digest(received) == digest(payload(size, size))
            work.wait(PATIENCE)


@contextmanager
def with_remote(**config: float) -> Iterator[tuple[Node, Remote]]:
    """A node here and one in another process, linked, with memory between them."""
    ours = dataclasses.replace(IMPATIENT, **config)  # type: ignore[arg-type]
    with (
        Remote("there", secrets.token_bytes(32), config={**QUICK, **config}) as there,
        node("here", config=ours) as here,  # closed first: a dead peer answers no goodbye
    ):
        here.connect(there.addresses, peer="there", timeout=PATIENCE)
        there.ask("wait_for", peer="here")
        until(lambda: (path := memory_path(here, "there")) and path.state == "usable")
        yield here, there


# --- found and agreed -------------------------------------------------------------------------


def test_two_processes_find_each_other_and_everything_crosses_there() -> None:
    with with_remote() as (here, there):
        there.tell("send", to="here", seeds=[1, 2], size=3 * MIB)
        for seed in (1, 2):
            assert digest(here.recv(timeout=PATIENCE)) == digest(payload(seed, 3 * MIB))
        there.answer()
        there.tell("recv", source="here", count=2)
        here.send(payload(3, 100), to="there")
        here.send(payload(4, 5 * MIB), to="there", timeout=PATIENCE)
        assert there.answer() == [digest(payload(3, 100)), digest(payload(4, 5 * MIB))]
        here.flush(timeout=PATIENCE)
        path = memory_path(here, "there")
        assert path is not None
        assert path.address == f"shared memory with process {there.pid}"
        assert path.share > 0.99
        assert path.rtt is not None
        assert path.bytes_received > 6 * MIB
        assert here.stats().drops == {}
        theirs = there.ask("paths", peer="here")[-1]
        assert theirs["address"] == f"shared memory with process {os.getpid()}"
        assert theirs["bytes_received"] > 5 * MIB


@pytest.mark.parametrize("off", ["caller", "answerer"])
def test_who_wants_none_has_none(off: str) -> None:
    without = Config(shared_memory=False)
    configs = (without, Config()) if off == "caller" else (Config(), without)
    with linked(config=configs[0], answerer_config=configs[1]) as (a, b):
        exchange(a, b)
        assert memory_path(a, "b") is memory_path(b, "a") is None
        assert a.stats().drops == b.stats().drops == {}


def test_peers_on_other_hosts_are_no_reason_to_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks says which host it is on; the other one finds that it is elsewhere."""
    told = iter(range(100))
    monkeypatch.setattr(
        Host, "digest", property(lambda _: sha512(bytes([next(told)])).digest()[:32])
    )
    with linked() as (a, b):
        exchange(a, b)
        assert memory_path(a, "b") is memory_path(b, "a") is None
        assert a.stats().drops == b.stats().drops == {}
    assert next(told) == 2


FORGED = {
    "another host": {"boot": bytes(16)},
    "another namespace": {"namespace": 1},
    "another user": {"user": 12345},
    "another process": {"process": os.getppid()},
    "no such process": {"process": 2**22 + 1},
    "no such descriptor": {"segment": 100_000},
    "its standard input": {"segment": 0},
    "no bell": {"bell": 100_000},
    "no pipe for a bell": {"bell": 0},
    "another nonce": {"nonce": bytes(32)},
}


@pytest.mark.parametrize("liar", ["answerer", "caller"])
@pytest.mark.parametrize("what", FORGED)
def test_a_false_claim_is_refused(what: str, liar: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The answerer claims first. The one who is lied to counts it; the link is as good as ever."""
    encode, turn = Claim.encode, iter(("answerer", "caller"))

    def forged(claim: Claim) -> bytes:
        lies = FORGED[what] if next(turn) == liar else {}
        return encode(dataclasses.replace(claim, **lies))  # type: ignore[arg-type]

    before = held()
    monkeypatch.setattr(Claim, "encode", forged)
    with linked() as (a, b):
        victim = a if liar == "answerer" else b
        until(lambda: victim.stats().drops == {"shared_memory": 1})
        exchange(a, b)
        assert not uses_memory(a, b)
        until(lambda: held()[MEMFD] == before[MEMFD] and held()["mapped"] == before["mapped"])


# --- where there is none ----------------------------------------------------------------------


@pytest.mark.parametrize("call", ["memfd_create", "posix_fallocate", "pipe2", "fchmod"])
@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EPERM, errno.ENOSYS, errno.EMFILE])
def test_a_system_that_has_none_to_give(
    call: str, error: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Full, forbidden by a seccomp filter, an older kernel, too many files."""
    before = held()

    def refuse(*_: object) -> int:
        raise OSError(error, os.strerror(error))

    with linked() as (a, b), node("c") as c:
        wait_for_memory(a, b)
        monkeypatch.setattr(os, call, refuse)
        link(c, b)
        until(lambda: b.stats().drops == {"shared_memory": 1})
        exchange(c, b)
        assert memory_path(c, "b") is None
        exchange(a, b)
        assert uses_memory(a, b)
    until(lambda: held() == before)


def test_files_may_not_be_that_large_here() -> None:
    """RLIMIT_FSIZE holds for anonymous files too; the process would die of SIGXFSZ elsewhere."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (MIB, hard))
    try:
        with linked() as (a, b):
            until(lambda: b.stats().drops == {"shared_memory": 1})
            exchange(a, b)
            assert not uses_memory(a, b)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_no_proc(monkeypatch: pytest.MonkeyPatch) -> None:
    """A container may have none, or one that does not tell."""

    def nothing() -> Host:
        raise channel_module.UnavailableError("/proc does not say which host this is")

    monkeypatch.setattr(Host, "here", nothing)
    with linked() as (a, b):
        exchange(a, b)
        assert memory_path(a, "b") is memory_path(b, "a") is None
        assert a.stats().drops == {"shared_memory": 1}


def test_links_past_the_limit_of_memory_use_the_network() -> None:
    limited = Config(shared_memory_bytes=int(2 * SEGMENT * MIB))
    before = held()["mapped"]
    with node("hub", config=limited) as hub:
        for round_trip in (1, 2):
            with node("a") as a, node("b") as b, node("c") as c:
                for each in (a, b):
                    link(each, hub)
                    wait_for_memory(each, hub)
                link(c, hub)
                until(lambda: memory_path(c, "hub") is None and hub.stats().drops)
                exchange(c, hub)
                assert memory_path(c, "hub") is None
                assert hub.stats().drops == {"shared_memory": round_trip}
            until(lambda: not hub.stats().links)
            until(lambda: held()["mapped"] == before)


# --- failing in mid-transfer ------------------------------------------------------------------


@pytest.mark.parametrize("size", [100, 20_000, 5 * MIB], ids=["100B", "20kB", "5MiB"])
@pytest.mark.parametrize("side", [0, 1], ids=["caller's", "answerer's"])
def test_memory_that_fails_in_mid_transfer_loses_and_repeats_nothing(
    size: int, side: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both sides send; after some packets one channel fails. All arrives once, in its order."""
    channels: list[Channel] = []
    attach = Channel.attach

    def noted(self: Channel, claim: bytes | memoryview) -> None:
        attach(self, claim)
        channels.append(self)

    monkeypatch.setattr(Channel, "attach", noted)
    count = 6 if size > MIB else 300
    with linked() as (a, b):
        wait_for_memory(a, b)
        works = []
        for number in range(count):
            for one, other in ((a, b), (b, a)):
                works.append(one.isend(payload(number, size), to=other.name))
            if number == count // 2:
                channels[side].give_up("of this test")
        for number in range(count):
            for one, other in ((a, b), (b, a)):
                received = other.recv(source=one.name, timeout=PATIENCE)
                assert digest(received) == digest(payload(number, size)), number
        for work in works:
            work.wait(PATIENCE)
        until(lambda: gave_up_memory(a, b))
        assert a.probe(tag=None) is b.probe(tag=None) is None
        exchange(a, b)
        assert memory_path(a, "b").last_failure  # type: ignore[union-attr]


# --- sudden death, and what is left -----------------------------------------------------------


def test_a_peer_killed_while_it_writes_is_lost_in_bounded_time() -> None:
    """The bound is `Config.peer_timeout`, and a heartbeat for it to be looked at."""
    before = held()
    with with_remote() as (here, there):
        assert held()[MEMFD] + held()["mapped"] > before[MEMFD] + before["mapped"]
        out = np.zeros(64 * MIB, np.uint8)
        receives = [here.irecv(out, source="there") for _ in range(400)]
        sends = [here.isend(out, to="there", tag=number) for number in range(3)]
        there.tell("send", to="here", seeds=[1], size=out.nbytes, times=len(receives))
        until(lambda: (path := memory_path(here, "there")) and path.bytes_received > 8 * MIB)
        there.kill()
        bound = 3 * (IMPATIENT.peer_timeout + IMPATIENT.heartbeat_interval)  # of a busy machine
        for work in (receives[-1], *sends):
            with pytest.raises(PeerLostError, match="'there'"):
                work.wait(bound)
        until(lambda: not here.stats().links)
        until(lambda: held()[MEMFD] == before[MEMFD] and held()["mapped"] == before["mapped"])


def test_both_killed_leave_nothing() -> None:
    named = sorted(os.listdir("/dev/shm"))
    keys = secrets.token_bytes(32), secrets.token_bytes(32)
    with Remote("one", keys[0], config=QUICK) as one, Remote("two", keys[1], config=QUICK) as two:
        one.ask("connect", addresses=two.addresses, peer="two")
        two.ask("wait_for", peer="one")
        until(lambda: held(one.pid)["mapped"] == held(two.pid)["mapped"] == 2)
        two.tell("send", to="one", seeds=[1], size=64 * MIB, times=100)
        assert sorted(os.listdir("/dev/shm")) == named
        both = {f"/proc/{each.pid}" for each in (one, two)}
        one.kill()
        two.kill()
    assert not any(map(os.path.exists, both)), "all that they held went with them"
    assert sorted(os.listdir("/dev/shm")) == named


def test_linking_and_parting_again_and_again_leaves_nothing() -> None:
    with node("b") as b:
        with node("a") as a:  # what is made once for the process is made now
            link(a, b)
            wait_for_memory(a, b)
        until(lambda: not b.stats().links)
        before = held()
        for _ in range(50):
            with node("a") as a:
                link(a, b)
                wait_for_memory(a, b)
                a.send(np.zeros(2 * MIB, np.uint8)[:100_000], to="b", timeout=PATIENCE)
                b.recv(timeout=PATIENCE)
            until(lambda: not b.stats().links)
        until(lambda: held() == before)
        # A goodbye in memory overtakes what is still under way over TCP: it finds no link.
        assert b.stats().drops.keys() <= {"unknown_link"}


def test_close_gives_the_memory_back() -> None:
    before = held()
    with linked() as (a, b):
        wait_for_memory(a, b)
        assert held()["mapped"] == before["mapped"] + 4, "two segments, mapped on both sides"
        exchange(a, b)
    until(lambda: held() == before)


def test_a_forked_child_has_no_part_in_it() -> None:
    """Nor does it keep alive what the parent lets go of: the peer sees the parent's end."""
    with with_remote() as (here, there):
        report, writer = os.pipe()
        resume, go = os.pipe()
        child = os.fork()
        if child == 0:
            os.write(writer, str(held()["mapped"]).encode())
            os.close(go)
            os.read(resume, 1)  # until the parent lets go
            os._exit(0)
        try:
            assert os.read(report, 10) == b"0"
            exchange_with(here, there)
            path = memory_path(here, "there")
            assert path is not None
            assert path.state == "usable"
        finally:
            os.close(go)
            os.waitpid(child, 0)
            for each in (report, writer, resume):
                os.close(each)


def exchange_with(here: Node, there: Remote) -> None:
    there.tell("recv", source="here", count=1)
    here.send(payload(1, 3 * MIB), to="there", timeout=PATIENCE)
    assert there.answer() == [digest(payload(1, 3 * MIB))]


# --- idle -------------------------------------------------------------------------------------


@pytest.mark.slow
def test_an_idle_process_costs_next_to_nothing() -> None:
    """Processor time of a linked process over some seconds of silence: at most a hundredth.

    This one looks at the clock meanwhile, so it is the other one's that is taken.
    """
    with with_remote(heartbeat_interval=1.0, peer_timeout=8.0) as (here, there):
        exchange_with(here, there)
        begun, before = os.times().elapsed, cpu_time(there.pid)
        until(lambda: os.times().elapsed >= begun + 4.0)
        assert cpu_time(there.pid) - before <= 0.01 * (os.times().elapsed - begun) + 0.01


def cpu_time(pid: int | str) -> float:
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_what_waits_for_company_leaves_once_acknowledgements_have_come() -> None:
    """Though nobody waits at this side, and the background thread keeps away."""
    with linked() as (a, b):
        wait_for_memory(a, b)
        outbox = a._directory.link_to("b")._sender.outbox
        for _ in range(5):
            a.flush("b", timeout=PATIENCE)
            for number in range(COALESCE_PACKETS + 1):
                a.send(np.array([number]), to="b", timeout=PATIENCE)
            for number in range(COALESCE_PACKETS):
                assert b.recv(source="a", timeout=PATIENCE)[0] == number
            until(lambda: monotonic() > a._engine._glance_at)
            a.send(np.array([-1]), to="b", timeout=PATIENCE)
            assert not outbox.drafts
            assert b.recv(source="a", timeout=PATIENCE)[0] == COALESCE_PACKETS
            assert b.recv(source="a", timeout=PATIENCE)[0] == -1
