"""Who links to whom, when both call at once, over which rails, and who is kept out."""

from __future__ import annotations

import socket
import struct
import threading
from contextlib import ExitStack
from functools import partial

import numpy as np
import pytest
import zmq

from support.nodes import (
    OTHER_SECRET,
    PATIENCE,
    SECRET,
    inproc_address,
    link,
    linked,
    node,
    together,
    until,
)
from transport import (
    Config,
    HandshakeError,
    Identity,
    Link,
    Node,
    PeerLostError,
    TransportError,
    TransportTimeoutError,
    Trust,
    UsageError,
)
from transport.identity.keys import fingerprint

SHORT = 1.0
"""What a caller who cannot succeed waits for; nothing is expected to happen in it."""


def exchange(a: Node, b: Node, tag: int = 0) -> None:
    """A small and a large message each way."""
    for size in (10, 300_000):
        for sender, receiver in ((a, b), (b, a)):
            tensor = np.full(size, tag % 100, np.uint8)
            work = sender.isend(tensor, to=receiver.name, tag=tag)
            received = receiver.recv(source=sender.name, tag=tag, timeout=PATIENCE)
            work.wait(PATIENCE)
            assert np.array_equal(received, tensor)


# --- addresses ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["tcp", "ipc", "inproc"])
def test_every_kind_of_address(kind: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    address = {
        "tcp": "tcp://127.0.0.1:0",
        "ipc": f"ipc://{tmp_path_factory.mktemp('s')}/node",
        "inproc": inproc_address(),
    }[kind]
    with linked(listen=(address,), config=Config(shared_memory=False)) as (a, b):
        exchange(a, b)
        until(lambda: [path.state for path in a.link("b").stats().paths] == 4 * ["usable"])


def test_ipv6_loopback() -> None:
    if not socket.has_ipv6:
        pytest.skip("no IPv6 here")
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError as error:
        pytest.skip(f"no IPv6 loopback here: {error}")
    with linked(listen=("tcp://[::1]:0",)) as (a, b):
        exchange(a, b)


def test_a_name_is_resolved() -> None:
    with node("a") as a, node("b") as b:
        port = b.addresses[0].rpartition(":")[2]
        a.connect(f"tcp://localhost:{port}", peer="b", timeout=PATIENCE)
        b.wait_for("a", timeout=PATIENCE)
        exchange(a, b)


def test_two_rails_are_both_used(tmp_path_factory: pytest.TempPathFactory) -> None:
    rails = ("tcp://127.0.0.1:0", f"ipc://{tmp_path_factory.mktemp('s')}/rail")
    with linked(listen=rails, config=Config(shared_memory=False)) as (a, b):
        until(lambda: all(path.state == "usable" for path in a.link("b").stats().paths))
        for _ in range(8):
            work = a.isend(np.zeros(2_000_000), to="b")
            b.recv(timeout=PATIENCE)
            work.wait(PATIENCE)
        paths = a.link("b").stats().paths
        assert {path.address for path in paths} == set(b.addresses)
        for rail in b.addresses:
            assert sum(path.bytes_sent for path in paths if path.address == rail) > 1_000_000


@pytest.mark.parametrize(
    "address",
    [
        "tcp://127.0.0.1",
        "http://127.0.0.1:80",
        "127.0.0.1:80",
        "",
        "tcp://127.0.0.1:99999",
        "tcp://:80",
        "udp://127.0.0.1:80",
        "ipc://",
        "inproc://",
        "tcp://127.0.0.1:80;127.0.0.1:81",
        7,
        None,
    ],
    ids=repr,
)
def test_an_unusable_address_is_the_callers_fault_and_leaves_nothing_behind(address: str) -> None:
    with node("a") as a, node("b") as b:
        with pytest.raises(UsageError):
            a.connect([address], peer="b", timeout=SHORT)
        with pytest.raises(UsageError):
            node("c", listen=(address,))
        link(a, b)
        exchange(a, b)


def test_one_bad_rail_of_two_is_refused_before_anything_is_dialled() -> None:
    with node("a") as a, node("b") as b:
        with pytest.raises(UsageError):
            a.connect([b.addresses[0], "tcp://nonsense"], peer="b", timeout=SHORT)
        link(a, b)
        exchange(a, b)


def test_an_address_in_use_is_refused() -> None:
    with node("a") as a, pytest.raises(UsageError, match="in use"):
        node("b", listen=a.addresses)


# --- calling twice, and both at once ----------------------------------------------------------


def test_connecting_twice_returns_the_same_link() -> None:
    with linked() as (a, b):
        first = a.link("b")
        assert a.connect(b.addresses, peer="b", timeout=PATIENCE) is first
        assert b.connect(a.addresses, peer="a", timeout=PATIENCE) is b.link("a")
        assert a.wait_for("b", timeout=PATIENCE) is first
        exchange(a, b)


def test_connecting_from_several_threads_makes_one_link() -> None:
    with node("a") as a, node("b") as b:
        calls = [partial(a.connect, b.addresses, peer="b", timeout=PATIENCE) for _ in range(4)]
        handles = together(*calls, partial(b.wait_for, "a", timeout=PATIENCE))
        assert len(set(handles[:4])) == 1
        exchange(a, b)
        assert b.stats().links == ("a",)


@pytest.mark.parametrize("kind", ["tcp", "inproc"])
def test_both_sides_connect_at_the_same_moment(kind: str) -> None:
    def listen() -> tuple[str, ...]:
        return ("tcp://127.0.0.1:0",) if kind == "tcp" else (inproc_address(),)

    for attempt in range(20):
        with node("a", listen=listen()) as a, node("b", listen=listen()) as b:

            def call(x: Node, y: Node) -> Link:
                return x.connect(y.addresses, peer=y.name, timeout=PATIENCE)

            together(partial(call, a, b), partial(call, b, a))
            exchange(a, b, tag=attempt)
            exchange(b, a, tag=attempt)
            assert a.stats().links == ("b",)
            assert b.stats().links == ("a",)


def test_eight_nodes_talk_all_to_all() -> None:
    names = [f"n{number}" for number in range(8)]
    config = Config(paths=2, peer_timeout=30.0)
    with ExitStack() as stack:
        nodes = [stack.enter_context(node(name, config=config)) for name in names]
        addresses = {each.name: each.addresses for each in nodes}

        def run(own: Node) -> int:
            for peer in names:
                if peer != own.name:
                    own.connect(addresses[peer], peer=peer, timeout=60.0)
            works = [
                own.isend(np.array([int(own.name[1:]), number]), to=peer, tag=number)
                for peer in names
                if peer != own.name
                for number in range(20)
            ]
            for peer in names:
                for number in range(20) if peer != own.name else ():
                    received = own.recv(source=peer, tag=number, timeout=60.0)
                    assert received.tolist() == [int(peer[1:]), number]
            for work in works:
                work.wait(60.0)
            return len(works)

        assert together(*(partial(run, each) for each in nodes)) == [140] * 8
        assert all(len(each.stats().links) == 7 for each in nodes)


def test_the_limit_of_links_is_kept() -> None:
    config = Config(links=2)
    with ExitStack() as stack:
        hub = stack.enter_context(node("hub", config=config))
        for name in ("x", "y"):
            link(stack.enter_context(node(name)), hub)
        late = stack.enter_context(node("z"))
        with pytest.raises(HandshakeError):
            late.connect(hub.addresses, peer="hub", timeout=SHORT)
        assert hub.stats().drops["limit"] > 0
        assert sorted(hub.stats().links) == ["x", "y"]
        with pytest.raises(TransportError, match="links"):
            hub.connect(late.addresses, peer="z", timeout=SHORT)


# --- who is kept out, and what both sides are told --------------------------------------------


def refused(caller: Node, answerer: Node, *, peer: str | None = None) -> tuple[str, str]:
    """Both sides try for `SHORT` seconds; return what each was told."""

    def call() -> str:
        with pytest.raises((HandshakeError, TransportTimeoutError)) as caught:
            caller.connect(answerer.addresses, peer=peer or answerer.name, timeout=SHORT)
        assert isinstance(caught.value, HandshakeError)
        return f"{type(caught.value).__name__}: {caught.value}"

    def await_caller() -> str:
        with pytest.raises((HandshakeError, TransportTimeoutError)) as caught:
            answerer.wait_for(caller.name, timeout=SHORT + 0.2)
        return f"{type(caught.value).__name__}: {caught.value}"

    told_caller, told_answerer = together(call, await_caller)
    assert caller.stats().links == answerer.stats().links == ()
    return str(told_caller), str(told_answerer)


def assert_leaks_nothing(*texts: str) -> None:
    for text in texts:
        for secret in (SECRET, OTHER_SECRET):
            assert secret.hex() not in text.lower()
            assert repr(secret) not in text


def test_a_wrong_secret() -> None:
    with node("a", trust=Trust(secret=OTHER_SECRET)) as a, node("b") as b:
        told_a, told_b = refused(a, b)
        assert "secret" in told_a
        assert "secret" in told_b
        assert "bad_hello" in told_b
        assert_leaks_nothing(told_a, told_b)
        assert b.stats().drops["bad_hello"] > 0


def test_a_wrong_name() -> None:
    with node("a") as a, node("b") as b:
        told_a, told_b = refused(a, b, peer="c")
        assert "names" in told_a
        assert "names" in told_b


def pinned_pair(wrong_side: str) -> tuple[Node, Node, str]:
    identities = {name: Identity.generate() for name in ("a", "b", "stranger")}
    keys = {name: identity.public_key for name, identity in identities.items()}
    trusts = {
        "a": {"a": keys["a"], "b": keys["b"]},
        "b": {"a": keys["a"], "b": keys["b"]},
    }
    trusts[wrong_side]["b" if wrong_side == "a" else "a"] = keys["stranger"]
    a, b = (
        node(name, trust=Trust(trusts[name], secret=SECRET), identity=identities[name])
        for name in ("a", "b")
    )
    return a, b, fingerprint(keys["b" if wrong_side == "a" else "a"])


@pytest.mark.parametrize("wrong_side", ["a", "b"])
def test_a_wrong_pinned_key(wrong_side: str) -> None:
    a, b, presented = pinned_pair(wrong_side)
    with a, b:
        told_a, told_b = refused(a, b)
        if wrong_side == "b":
            assert told_b.startswith("AuthenticationError")
            assert told_a.startswith("AuthenticationError")
            assert presented in told_b
            assert "refused this node" in told_a
            assert "fingerprint" not in told_a
            assert "SF1-" not in told_a
            assert b.stats().drops["wrong_key"] > 0
        else:
            # The caller refuses, and to the answerer it never finished.
            assert told_a.startswith("AuthenticationError")
            assert presented in told_a
        assert_leaks_nothing(told_a, told_b)


@pytest.mark.parametrize("wrong_side", ["a", "b"])
def test_pinned_keys_without_a_secret(wrong_side: str) -> None:
    """Here the caller's first message is sealed for the key it pinned."""
    identities = {name: Identity.generate() for name in ("a", "b", "stranger")}
    keys = {name: identity.public_key for name, identity in identities.items()}
    right = {"a": keys["a"], "b": keys["b"]}
    wrong = {"a": keys["stranger"], "b": keys["stranger"]}
    trusts = {name: Trust(wrong if name == wrong_side else right) for name in ("a", "b")}
    with (
        node("a", trust=trusts["a"], identity=identities["a"]) as a,
        node("b", trust=trusts["b"], identity=identities["b"]) as b,
    ):
        told_a, told_b = refused(a, b)
        assert "keys" in told_a or "refused" in told_a
        assert_leaks_nothing(told_a, told_b)
    with (
        node("a", trust=Trust(right), identity=identities["a"]) as a,
        node("b", trust=Trust(right), identity=identities["b"]) as b,
    ):
        link(a, b)
        exchange(a, b)


def test_a_peer_that_is_not_trusted_is_not_called() -> None:
    with node("a", trust=Trust({"b": Identity.generate().public_key})) as a:
        for _ in range(2):
            with pytest.raises(UsageError, match="'c' is not in"):
                a.connect("tcp://127.0.0.1:9", peer="c", timeout=SHORT)


def test_nobody_listening() -> None:
    with socket.create_server(("127.0.0.1", 0)) as placeholder:
        address = f"tcp://127.0.0.1:{placeholder.getsockname()[1]}"
    with node("a") as a:
        with pytest.raises(HandshakeError, match="nothing answers there") as caught:
            a.connect(address, peer="b", timeout=SHORT)
        assert address in str(caught.value)
        with pytest.raises(TransportTimeoutError, match="'b' did not call"):
            a.wait_for("b", timeout=0.1)


def test_somebody_listening_who_does_not_speak_the_protocol() -> None:
    with zmq.Context() as context, context.socket(zmq.ROUTER) as mute, node("a") as a:
        mute.linger = 0
        port = mute.bind_to_random_port("tcp://127.0.0.1")
        with pytest.raises(HandshakeError, match="accepts connections but did not link"):
            a.connect(f"tcp://127.0.0.1:{port}", peer="b", timeout=SHORT)


def test_calling_again_after_a_failure_works() -> None:
    with socket.create_server(("127.0.0.1", 0)) as placeholder:
        address = f"tcp://127.0.0.1:{placeholder.getsockname()[1]}"
    with node("a") as a:
        with pytest.raises(HandshakeError):
            a.connect(address, peer="b", timeout=0.3)
        with node("b", listen=(address,)) as b:
            link(a, b)
            exchange(a, b)


def test_calling_before_anybody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as placeholder:
        address = f"tcp://127.0.0.1:{placeholder.getsockname()[1]}"
    with ExitStack() as stack:
        a = stack.enter_context(node("a"))

        def listen_later() -> None:
            with pytest.raises(TransportTimeoutError):
                a.wait_for("nobody", timeout=0.5)
            b = stack.enter_context(node("b", listen=(address,)))
            b.wait_for("a", timeout=PATIENCE)

        together(partial(a.connect, address, peer="b", timeout=PATIENCE), listen_later)


@pytest.mark.parametrize("version", [0, 2, 15])
def test_another_protocol_version(version: int) -> None:
    """The refusal is counted, logged once, and named to whoever waits for that caller."""
    with zmq.Context() as context, context.socket(zmq.DEALER) as old, node("b") as b:
        old.linger = 0
        old.connect(b.addresses[0])

        told = threading.Event()

        def call_again_and_again() -> None:
            while not told.wait(0.05):
                old.send(struct.pack("<BBHI", version << 4 | 1, 0, 60, 7) + bytes(1400))

        def await_caller() -> None:
            with pytest.raises(HandshakeError, match=r"version \d+.*protocol version"):
                b.wait_for("a", timeout=SHORT)
            told.set()

        together(call_again_and_again, await_caller)
        assert b.stats().drops["version"] > 0
        assert b.stats().links == ()


def test_a_caller_meets_another_protocol_version() -> None:
    with zmq.Context() as context, context.socket(zmq.ROUTER) as old, node("a") as a:
        old.linger = 0
        port = old.bind_to_random_port("tcp://127.0.0.1")

        def answer() -> None:
            routing_id, hello = old.recv_multipart()
            index = hello[4:8]
            old.send_multipart(
                [routing_id, struct.pack("<BBH", 2 << 4 | 2, 0, 0) + index + bytes(1300)]
            )
            until(lambda: a.stats().drops.get("version"))

        def call() -> None:
            with pytest.raises(HandshakeError, match="protocol version"):
                a.connect(f"tcp://127.0.0.1:{port}", peer="b", timeout=SHORT)

        together(answer, call)


def test_links_of_unlinked_and_lost_peers() -> None:
    with node("a") as a, node("b") as b:
        for call in (
            partial(a.link, "b"),
            partial(a.send, np.zeros(1), to="b"),
            partial(a.flush, "b"),
        ):
            with pytest.raises(UsageError, match="no link to 'b'"):
                call()
        with pytest.raises(UsageError, match="itself"):
            a.connect(a.addresses, peer="a")
        with pytest.raises(UsageError, match="itself"):
            a.recv(source="a")
        link(a, b)
        b.close()
        until(lambda: not a.stats().links)
        for call in (
            partial(a.link, "b"),
            partial(a.send, np.zeros(1), to="b"),
            partial(a.recv, source="b"),
        ):
            with pytest.raises(PeerLostError, match=r"'b'.*closed the link"):
                call()


def test_who_has_called_and_counts_as_linked_is_not_called(monkeypatch) -> None:
    """Our call would end the link that it has, and messages on it would be lost."""
    with node("a") as a, node("b") as b:
        confirming = {"b"}
        monkeypatch.setattr(a._directory, "is_confirming", lambda peer: peer in confirming)
        with a._driver:
            work = a._linking.begin(b.addresses, "b")
            assert a._directory.call_to("b") is None
        confirming.clear()  # it came to nothing
        assert work.wait(PATIENCE).stats().state == "open"
