"""`connect_group`: from arguments or a launcher's environment, and what it refuses."""

from __future__ import annotations

import json
import socket

import numpy as np
import pytest

from support.groups import error_of
from support.nodes import OTHER_SECRET, SECRET, node, together
from transport import (
    HandshakeError,
    Identity,
    TransportError,
    TransportTimeoutError,
    Trust,
    UsageError,
    connect_group,
)
from transport.collectives.rendezvous import CONTEXT

TRUST = Trust(secret=SECRET)
VARIABLES = (
    *("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"),
    *("SEALFABRIC_SECRET_FILE", "SEALFABRIC_TRUST", "SEALFABRIC_IDENTITY"),
)


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch):
    for variable in VARIABLES:
        monkeypatch.delenv(variable, raising=False)


@pytest.fixture
def port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def joined(port, size, call, **options):
    """Form a group of `size` threads, and call on each rank."""

    def rank_of(rank):
        settings = {"trust": TRUST, "connect_timeout": 20.0, **options}
        with connect_group(
            rank, size, master_addr="127.0.0.1", master_port=port, **settings
        ) as group:
            return call(group)

    return together(*(lambda rank=rank: rank_of(rank) for rank in range(size)))


def test_a_group_forms_and_owns_its_node(port):
    nodes = []

    def call(group):
        nodes.append(group.node)
        group.barrier()
        return group.rank, group.size, group.all_gather(np.array([group.rank])).tolist()

    assert joined(port, 3, call) == [(rank, 3, [0, 1, 2]) for rank in range(3)]
    assert sorted(each.name for each in nodes) == ["rank-0", "rank-1", "rank-2"]
    for each in nodes:
        assert isinstance(error_of(lambda each=each: each.stats() and each.flush()), TransportError)


def test_a_group_of_one_needs_nobody(port):
    assert joined(port, 1, lambda g: g.all_reduce(np.ones(2)).tolist()) == [[1.0, 1.0]]


def test_names_and_pinned_keys(port):
    names = ["alpha", "beta"]
    identities = [Identity.generate() for _ in names]
    trust = Trust(
        peers={name: identity.public_key for name, identity in zip(names, identities, strict=True)}
    )

    def rank_of(rank):
        with connect_group(
            rank,
            2,
            master_addr="127.0.0.1",
            master_port=port,
            trust=trust,
            identity=identities[rank],
            names=names,
            connect_timeout=20.0,
        ) as group:
            group.barrier()
            return group.members

    assert together(lambda: rank_of(0), lambda: rank_of(1)) == [("alpha", "beta")] * 2


def test_the_environment_is_enough(port, tmp_path, monkeypatch):
    secret = tmp_path / "secret"
    secret.write_bytes(SECRET)
    secret.chmod(0o600)
    values = {
        "RANK": "0",
        "WORLD_SIZE": "1",
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": str(port),
        "SEALFABRIC_SECRET_FILE": str(secret),
    }
    for variable, value in values.items():
        monkeypatch.setenv(variable, value)
    with connect_group() as group:
        assert group.node.addresses == (f"tcp://127.0.0.1:{port}",)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "RANK is not set"),
        ({"rank": 0}, "WORLD_SIZE is not set"),
        ({"rank": 0, "size": 2}, "MASTER_ADDR is not set"),
        ({"rank": 2, "size": 2, "master_addr": "localhost"}, "must lie in 0..1"),
        ({"rank": 0, "size": 2, "master_addr": "localhost"}, "MASTER_PORT is not set"),
        (
            {"rank": 0, "size": 2, "master_addr": "localhost", "master_port": 70_000},
            "1..65535",
        ),
        (
            {"rank": 0, "size": 2, "master_addr": "localhost", "master_port": 5, "names": ["a"]},
            "2 different names",
        ),
        (
            {"rank": 0, "size": 1, "master_addr": "localhost", "master_port": 5},
            "set SEALFABRIC_SECRET_FILE",
        ),
        (
            {"rank": 0, "size": 1, "master_addr": "no.such.host.invalid", "master_port": 5},
            "cannot be resolved",
        ),
    ],
)
def test_what_is_missing_is_named(options, words, monkeypatch):
    if "no.such" in str(options):
        options = {**options, "trust": TRUST}
    error = error_of(lambda: connect_group(**options))
    assert isinstance(error, UsageError)
    assert words in str(error)


def test_a_number_that_is_none_is_named(monkeypatch):
    monkeypatch.setenv("RANK", "first")
    assert "RANK must be a whole number" in str(error_of(connect_group))


def start(port, rank, size, **options):
    settings = {"trust": TRUST, "connect_timeout": 2.0, **options}
    return connect_group(rank, size, master_addr="127.0.0.1", master_port=port, **settings)


def test_rank_0_names_who_did_not_come_and_tells_the_others(port):
    errors = together(
        lambda: error_of(lambda: start(port, 0, 3)), lambda: error_of(lambda: start(port, 1, 3))
    )
    assert isinstance(errors[0], TransportTimeoutError)
    assert "missing: ['rank-2']" in str(errors[0])
    assert "rank 0 refused: not every rank came" in str(errors[1])


def test_without_a_master_there_is_no_group(port):
    error = error_of(lambda: start(port, 1, 2, connect_timeout=0.5))
    assert isinstance(error, HandshakeError)
    assert f"127.0.0.1:{port}" in str(error)


def test_another_secret_does_not_get_in(port):
    errors = together(
        lambda: error_of(lambda: start(port, 0, 2)),
        lambda: error_of(lambda: start(port, 1, 2, trust=Trust(secret=OTHER_SECRET))),
    )
    assert isinstance(errors[0], TransportTimeoutError)
    assert isinstance(errors[1], HandshakeError)


def test_ranks_of_another_job_are_refused(port):
    errors = together(
        lambda: error_of(lambda: start(port, 0, 2)), lambda: error_of(lambda: start(port, 1, 3))
    )
    assert all(isinstance(error, UsageError) for error in errors)
    assert "it is rank 1 of 3, rank 0 is in a job of 2" in str(errors[0])


@pytest.mark.parametrize(
    "greeting",
    [
        b"\x00\xff",
        b"[]",
        json.dumps({"rank": 1, "size": 2}).encode(),
        json.dumps({"rank": 1, "size": 2, "addresses": []}).encode(),
        json.dumps({"rank": 1, "size": 2, "addresses": [5]}).encode(),
        json.dumps({"rank": 1, "size": 2, "addresses": ["x" * 2000]}).encode(),
    ],
)
def test_a_greeting_that_makes_no_sense_is_refused(port, greeting):
    def greet():
        with node("rank-1") as stranger:
            stranger.connect(f"tcp://127.0.0.1:{port}", peer="rank-0")
            stranger.isend(greeting, to="rank-0", context=CONTEXT).wait(10)
            return bytes(stranger.irecv(source="rank-0", context=CONTEXT).wait(10))

    error, answer = together(lambda: error_of(lambda: start(port, 0, 2)), greet)
    assert isinstance(error, UsageError)
    assert "rank 1 ('rank-1')" in str(error)
    assert "refused" in json.loads(answer)
