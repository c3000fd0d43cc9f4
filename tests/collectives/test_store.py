"""Meeting through a store: what is written there, and that it is not believed."""

from __future__ import annotations

import json
import threading

import numpy as np
import pytest

from support.groups import error_of, grouped
from support.nodes import SECRET, node, together
from transport import (
    AuthenticationError,
    Group,
    HandshakeError,
    Identity,
    PeerLostError,
    TransportTimeoutError,
    Trust,
    UsageError,
    connect_group,
)
from transport.collectives.store import PREFIX, Announced, exchange

TRUST = Trust(secret=SECRET)
MINE = Announced(("tcp://127.0.0.1:5",), bytes(range(32)))


class Shelf:
    """A store for threads: `get` waits until somebody has written."""

    def __init__(self, patience: float = 10.0) -> None:
        self.entries: dict[str, str] = {}
        self._changed = threading.Condition()
        self._patience = patience

    def set(self, key: str, value: str) -> None:
        with self._changed:
            self.entries[key] = value
            self._changed.notify_all()

    def get(self, key: str) -> bytes:
        with self._changed:
            if not self._changed.wait_for(lambda: key in self.entries, self._patience):
                raise TimeoutError(f"nobody has written {key}")
            return self.entries[key].encode()


class Meddler(Shelf):
    """A store whose owner changes what is announced for rank 1."""

    def __init__(self, **changed: object) -> None:
        super().__init__()
        self._changed_fields = changed

    def set(self, key: str, value: str) -> None:
        if key.endswith("rank-1"):
            value = json.dumps({**json.loads(value), **self._changed_fields})
        super().set(key, value)


def joined(store, call, **options):
    def rank_of(rank):
        settings = {"trust": TRUST, "listen": ["tcp://127.0.0.1:0"], **options}
        with connect_group(rank, 2, store=store, **settings) as group:
            return call(group)

    return together(*(lambda rank=rank: rank_of(rank) for rank in range(2)))


def test_a_group_meets_in_a_store_that_sees_addresses_and_public_keys_only():
    store = Shelf()
    sums = joined(store, lambda g: g.all_reduce(np.ones(3)).tolist())
    assert sums == [[2.0] * 3] * 2
    assert sorted(store.entries) == [f"{PREFIX}rank-0", f"{PREFIX}rank-1"]
    for entry in store.entries.values():
        assert json.loads(entry).keys() == {"addresses", "public_key"}


def test_where_to_listen_follows_from_the_masters_address(monkeypatch):
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    store = Shelf()
    joined(store, lambda g: g.barrier(), listen=None)
    assert all("tcp://127.0.0.1:" in entry for entry in store.entries.values())
    monkeypatch.delenv("MASTER_ADDR")
    error = error_of(lambda: connect_group(0, 2, store=store, trust=TRUST))
    assert "MASTER_ADDR is not set" in str(error)


def test_a_key_that_a_store_announces_is_not_believed():
    other = Announced((), Identity.generate().public_key).fields()["public_key"]
    store = Meddler(public_key=other)

    def call(group):
        return error_of(lambda: group.all_reduce(np.ones(3)))

    first, second = joined(store, call, timeout=10.0)
    assert isinstance(first, AuthenticationError)
    assert "rank 1 ('rank-1') has key SF1-" in str(first)
    assert "not the process that joined the group" in str(first)
    # To rank 0 it is a stranger, to whom it says nothing.
    assert isinstance(second, PeerLostError)


def test_an_address_that_a_store_announces_only_leads_astray():
    store = Meddler(addresses=["tcp://127.0.0.1:9"])
    met = {}

    def call(group):
        if group.rank == 0:
            met["error"] = error_of(lambda: group.send(b"x", 1, timeout=1.0))

    joined(store, call)
    assert isinstance(met["error"], PeerLostError)
    assert "rank 1 ('rank-1') cannot be reached" in str(met["error"])


def test_whoever_has_a_members_name_but_not_its_key_is_not_heard():
    with grouped(2) as groups:
        nodes = [group.node for group in groups]
        members = {each.name: each.addresses for each in nodes}
        keys = {"n1": Identity.generate().public_key}  # that of the n1 that joined
        group = Group(nodes[0], members, keys=keys, timeout=10.0)
        twin = Group(nodes[1], members, timeout=10.0)
        receiving = group.irecv(np.zeros(1))
        twin.send(np.ones(1), 0)
        assert isinstance(error_of(lambda: group.recv(source=1)), AuthenticationError)
        assert isinstance(error_of(lambda: receiving.wait(10)), AuthenticationError)


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ("", "no object"),
        ("[" * 100_000, "no object"),
        ("x" * 200_000, "no object"),
        (json.dumps([1]), "no object"),
        (json.dumps({"addresses": []}), "no addresses"),
        (json.dumps({"addresses": ["x"] * 65}), "no addresses"),
        (json.dumps({"addresses": ["tcp://h:1"], "public_key": "AAAA"}), "its public key is none"),
        (json.dumps({"addresses": ["tcp://h:1"], "public_key": "é"}), "its public key is none"),
        (json.dumps({"addresses": ["tcp://h:1"]}), "its public key is none"),
    ],
)
def test_an_entry_that_makes_no_sense_is_refused_by_rank(entry, words):
    store = Shelf()
    store.set(f"{PREFIX}b", entry)
    error = error_of(lambda: exchange(store, 0, ["a", "b"], MINE))
    assert isinstance(error, UsageError)
    assert "rank 1 ('b'), in the store" in str(error)
    assert words in str(error)


def test_a_store_that_fails_or_waits_in_vain_is_no_riddle():
    error = error_of(lambda: exchange(Shelf(patience=0.01), 0, ["a", "b"], MINE))
    assert isinstance(error, TransportTimeoutError)
    assert "read what rank 1 ('b') announced" in str(error)

    class Broken(Shelf):
        def set(self, key: str, value: str) -> None:
            raise RuntimeError("out of order")

    error = error_of(lambda: exchange(Broken(), 0, ["a", "b"], MINE))
    assert isinstance(error, HandshakeError)
    assert "the store could not be written to: out of order" in str(error)


def test_a_link_says_which_key_the_peer_proved():
    identity = Identity.generate()
    with node("a", identity=identity) as first, node("b") as second:
        second.connect(first.addresses, peer="a")
        assert second.link("a").stats().peer_key == identity.public_key
