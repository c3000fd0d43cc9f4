"""The node as programs use it: arguments, statistics, life and end."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import zmq

import transport
from support.nodes import PATIENCE, SECRET, link, linked, node, together, until
from transport import ClosedError, Config, Identity, Node, PeerLostError, Trust, UsageError
from transport.path import FaultInjector, Faults, FaultyPath
from transport.path.base import CallLater
from transport.path.base import Path as TransportPath
from transport.path.zeromq import Listener, ListenerPath

PACKAGE_ROOT = Path(transport.__file__).parents[1]


def run_python(program: str, *arguments: str, timeout: float = 30.0) -> str:
    """Run a program in an interpreter of its own; return what it printed."""
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE_ROOT)}
    finished = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    assert finished.returncode == 0, finished.stderr
    assert not finished.stderr
    return finished.stdout


LINKED = """
import os, sys, time
import numpy as np
from transport import Config, Identity, Node, Trust
trust = Trust(secret=bytes(range(32)))
a, b = (Node(name, identity=Identity.generate(), trust=trust) for name in "ab")
a.connect(b.addresses, peer="b")
b.wait_for("a")
"""


# --- arguments --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"name": ""},
        {"name": "x" * 256},
        {"name": "tab\t"},
        {"name": None},
        {"identity": None},
        {"identity": b"x" * 32},
        {"trust": SECRET},
        {"listen": "tcp://127.0.0.1:0"},
        {"listen": ("nonsense",)},
        {"listen": ("tcp://203.0.113.1:0",)},
    ],
    ids=str,
)
def test_unusable_arguments(options: dict[str, object]) -> None:
    given: dict[str, object] = {
        "name": "a",
        "identity": Identity.generate(),
        "trust": Trust(secret=SECRET),
        **options,
    }
    with pytest.raises(UsageError):
        Node(given.pop("name"), **given)  # type: ignore[arg-type]


def test_a_node_that_could_not_be_made_leaves_nothing_open() -> None:
    def attempt() -> None:
        with pytest.raises(UsageError):
            node("a", listen=("tcp://127.0.0.1:0", "tcp://203.0.113.1:0"))

    attempt()
    before = set(os.listdir("/proc/self/fd"))
    for _ in range(5):
        attempt()
    until(lambda: len(set(os.listdir("/proc/self/fd")) - before) <= 2)


@pytest.mark.parametrize("tag", [-1, 1 << 64, 1.5, "1", b"1"], ids=repr)
def test_unusable_tags(tag: int) -> None:
    with linked() as (a, b):
        for call in (
            partial(a.send, np.zeros(1), to="b", tag=tag),
            partial(a.isend, np.zeros(1), to="b", tag=tag),
            partial(b.recv, tag=tag, timeout=0.1),
            partial(b.irecv, tag=tag),
        ):
            with pytest.raises(UsageError, match="tag"):
                call()
        a.send(np.zeros(1), to="b")
        b.recv(timeout=PATIENCE)


def test_connect_without_an_address() -> None:
    with node("a") as a, pytest.raises(UsageError, match="address"):
        a.connect((), peer="b")


def test_a_node_may_listen_nowhere() -> None:
    with node("a", listen=()) as a, node("b") as b:
        assert a.addresses == ()
        link(a, b)
        b.send(np.arange(3), to="a", timeout=PATIENCE)
        assert a.recv(timeout=PATIENCE).tolist() == [0, 1, 2]


# --- statistics -------------------------------------------------------------------------------


def test_statistics_of_a_link() -> None:
    with linked() as (a, b):
        a.send(np.zeros(10), to="b")
        work = a.isend(np.zeros(1_000_000, np.uint8), to="b")
        b.recv(timeout=PATIENCE)
        b.recv(timeout=PATIENCE)
        work.wait(PATIENCE)
        a.flush(timeout=PATIENCE)
        stats = a.link("b").stats()
        assert stats.peer == "b"
        assert stats.cipher_suite == "Noise_XXhfs+psk3_25519+MLKEM768_AESGCM_SHA512"
        assert stats.state == "open"
        assert (stats.messages_sent, stats.messages_received) == (2, 0)
        assert stats.bytes_sent > 1_000_000
        assert stats.handshake_seconds > 0
        assert stats.rtt is not None
        assert 0 < stats.rtt < PATIENCE
        assert stats.in_flight_packets <= 4  # heartbeats, if anything
        assert stats.drops == {}
        assert len(stats.paths) == Config().paths + 1, "shared memory is the last one"
        assert b.link("a").stats().messages_received == 2
        assert b.stats().drops == a.stats().drops == {}
        assert (b.stats().name, b.stats().links) == ("b", ("a",))
        handle = a.link("b")
    assert handle.stats().state == "closed"


def test_nothing_secret_is_shown() -> None:
    with linked() as (a, _b):
        texts = [repr(a), str(a.link("b")), repr(a.stats()), repr(a.link("b").stats())]
        assert not any(SECRET.hex() in text or "SECRET" in text for text in texts)
        assert re.search(r"<Node 'a' on tcp://127\.0\.0\.1:\d+>", texts[0])
        assert "'b'" in texts[1]


# --- where it listens -------------------------------------------------------------------------


def bound_by_this_process() -> set[str]:
    """Local addresses of the TCP sockets that this process listens on, as /proc writes them."""
    inodes = set()
    for descriptor in Path("/proc/self/fd").iterdir():
        try:
            target = os.readlink(descriptor)
        except OSError:
            continue
        if target.startswith("socket:"):
            inodes.add(target[8:-1])
    listening = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in inodes:
                listening.add(fields[1])
    return listening


def test_sockets_are_bound_where_they_were_asked_to_be() -> None:
    before = bound_by_this_process()
    with node("a", listen=("tcp://127.0.0.1:0", "tcp://127.0.0.2:0")) as a, node("b") as b:
        link(b, a)
        ports = [int(address.rpartition(":")[2]) for address in (*a.addresses, *b.addresses)]
        expected = {
            f"0100007F:{ports[0]:04X}",
            f"0200007F:{ports[1]:04X}",
            f"0100007F:{ports[2]:04X}",
        }
        assert bound_by_this_process() - before == expected
    assert bound_by_this_process() - before == set()


# --- the end ----------------------------------------------------------------------------------


def test_closing_delivers_what_was_sent() -> None:
    """Also what is larger than the window, and what waits for its receiver to be asked for."""
    for _ in range(10):
        with node("b") as b:
            a = node("a")
            link(a, b)
            for number in range(50):
                a.isend(np.full(1000, number), to="b", tag=1)
            a.isend(np.full(2_000_000, 7.0), to="b", tag=2)
            large = b.irecv(source="a", tag=2)
            together(partial(a.close, 10.0), partial(large.wait, PATIENCE))
            assert (large.wait(0) == 7.0).all()
            for number in range(50):
                assert (b.recv(source="a", tag=1, timeout=PATIENCE) == number).all()


def test_a_flush_does_not_fail_because_the_receiver_closes_at_once() -> None:
    """The last acknowledgement and the peer's goodbye may come in one packet."""
    for _ in range(40):
        with node("a") as a, node("b") as b:
            link(a, b)

            def send(a: Node = a) -> None:
                a.send(np.arange(1000.0), to="b", timeout=PATIENCE)
                a.flush("b", timeout=PATIENCE)

            def receive(b: Node = b) -> None:
                assert b.recv(source="a", timeout=PATIENCE)[-1] == 999.0
                b.close()

            together(send, receive)


def test_both_sides_close_at_once() -> None:
    for _ in range(10):
        a, b = node("a"), node("b")
        link(a, b)
        a.isend(np.zeros(10), to="b")
        b.isend(np.zeros(10), to="a")
        together(a.close, b.close, patience=4.0)  # less than the five seconds of giving up


def test_a_caller_hears_of_it_if_it_is_closed_before_its_first_packet_is_there() -> None:
    """To the caller the link is open by then; the answerer still waits for its confirmation."""

    def slow(path: TransportPath, call_later: CallLater) -> FaultyPath:
        return FaultyPath(path, FaultInjector(Faults(delay=0.05), seed=1), call_later)

    with node("a", path_filter=slow) as a, node("b") as b:
        a.connect(b.addresses, peer="b", timeout=PATIENCE)
        b.close(timeout=1.0)  # the acknowledgement of its goodbye is lost with the slow path
        # Else it would take `Config.peer_timeout` to notice the silence.
        with pytest.raises(PeerLostError, match="closed the link"):
            a.recv(source="b", timeout=4.0)


@pytest.mark.parametrize("memory", [True, False])
def test_what_was_delivered_before_the_goodbye_can_be_taken_after_it(memory: bool) -> None:
    config = Config(shared_memory=memory)
    sizes = [0, 100, 80_000, 700_000]  # in its announcement, or unasked behind it
    with node("a", config=config) as a, node("b", config=config) as b:
        a.connect(b.addresses, peer="b", timeout=PATIENCE)
        for size in sizes:
            a.send(np.full(size, 7, np.uint8), to="b")
        a.close()
        until(lambda: b._directory.link_to("a") is None)
        for size in sizes:
            array = b.recv(source="a", timeout=PATIENCE)
            assert (array.size, (array == 7).all()) == (size, True)
        with pytest.raises(PeerLostError, match="closed the link"):
            b.recv(source="a", timeout=PATIENCE)


def test_what_has_come_is_not_forgotten_over_a_send_that_fails(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """ZeroMQ tells once that something waits, and a send takes that in, also one in vain."""
    config = Config(shared_memory=False, paths=1, heartbeat_interval=0.1)
    with node("a", config=config) as a, node("b", config=config) as b, monkeypatch.context() as m:
        a.connect(b.addresses, peer="b", timeout=PATIENCE)
        b.wait_for("a", timeout=PATIENCE)
        [listener] = [e for e in b._engine._endpoints.values() if isinstance(e, Listener)]
        until(lambda: b._driver._back.asleep and not b._engine._stirred)
        with a._driver:  # it has no chance to send again
            with b._driver:
                a.send(np.array([7]), to="b")
                until(lambda: listener._socket.getsockopt(zmq.EVENTS) & zmq.POLLIN)
                m.setattr(ListenerPath, "send", lambda path, packet, stable: False)
            # The next to send is a heartbeat.
            assert b.recv(source="a", timeout=4.0).tolist() == [7]
        for each in (a, b):
            each.close(timeout=0)  # neither has a way to the other any more


def test_closing_twice_and_from_two_threads() -> None:
    a = node("a")
    a.close()
    a.close()
    with node("b") as b:
        together(b.close, b.close, b.close, patience=10)


def test_everything_raises_after_the_end() -> None:
    with linked() as (a, b):
        handle = a.link("b")
        a.close()
        for call in (
            partial(a.send, np.zeros(1), to="b"),
            partial(a.isend, np.zeros(1), to="b"),
            partial(a.recv, source="b"),
            partial(a.irecv, source="b"),
            partial(a.flush),
            partial(a.probe),
            partial(a.link, "b"),
            partial(a.connect, b.addresses, peer="b"),
            partial(a.wait_for, "b"),
        ):
            with pytest.raises(ClosedError, match="closed"):
                call()
        assert handle.stats().state == "closed"
        assert a.stats().links == ()
        repr(a)
        repr(handle)


def test_closing_gives_back_descriptors_threads_and_the_port() -> None:
    with linked():
        pass
    descriptors = len(os.listdir("/proc/self/fd"))
    threads = threading.active_count()
    for _ in range(5):
        with linked() as (_a, b):
            address = b.addresses[0]
        with node("c", listen=(address,)):
            pass
    assert threading.active_count() == threads
    assert len(os.listdir("/proc/self/fd")) <= descriptors + 2


def test_an_unreachable_peer_does_not_hold_up_the_close() -> None:
    """Nobody takes the message: the close gives up after its timeout."""
    with linked() as (a, b):
        work = a.isend(np.zeros(1_000_000), to="b")
        a.close(timeout=0.2)
        with pytest.raises(ClosedError):
            work.wait(0)
        until(lambda: not b.stats().links)


# --- the whole interpreter --------------------------------------------------------------------


def test_an_interpreter_exits_with_its_nodes_unclosed() -> None:
    program = LINKED + (
        "a.isend(np.zeros(3_000_000), to='b')\n"
        "work = b.irecv(tag=5)\n"
        "b.recv(timeout=10)\n"
        "print('last line')\n"
    )
    assert run_python(program, timeout=20) == "last line\n"


def test_an_interpreter_exits_while_a_thread_waits() -> None:
    program = LINKED + (
        "import threading\n"
        "threading.Thread(target=b.recv, daemon=True).start()\n"
        "a.send(np.zeros(5), to='b', tag=3)\n"
        "print('last line')\n"
    )
    assert run_python(program, timeout=20) == "last line\n"


@pytest.mark.slow
def test_two_idle_nodes_leave_the_core_to_others(record_property: object) -> None:
    program = LINKED + (
        "a.send(np.zeros(5), to='b')\n"
        "b.recv(timeout=10)\n"
        "time.sleep(0.3)\n"
        "before, start = os.times(), time.monotonic()\n"
        "time.sleep(2)\n"
        "after = os.times()\n"
        "used = after.user + after.system - before.user - before.system\n"
        "print(used / (time.monotonic() - start))\n"
        "a.close(); b.close()\n"
    )
    share = float(run_python(program))
    print(f"two idle linked nodes use {share:.2%} of a core")
    assert share < 0.10  # about one hundredth is usual; the machine is shared


@pytest.mark.slow
def test_a_node_that_waits_leaves_the_core_to_others() -> None:
    program = LINKED + (
        "import threading\n"
        "threading.Thread(target=b.recv, daemon=True).start()\n"
        "time.sleep(0.3)\n"
        "before, start = os.times(), time.monotonic()\n"
        "time.sleep(2)\n"
        "after = os.times()\n"
        "used = after.user + after.system - before.user - before.system\n"
        "print(used / (time.monotonic() - start))\n"
    )
    share = float(run_python(program))
    print(f"a waiting node and its idle peer use {share:.2%} of a core")
    assert share < 0.15
