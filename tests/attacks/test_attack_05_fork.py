"""Attack 5: fork, or restore a snapshot, and seal in both.

Two counters under one key repeat nonces. A forked child is refused when it
seals, a copy or a serialised snapshot cannot be made, and an oracle that sees
every nonce of parent and child finds no repeat.
"""

from __future__ import annotations

import copy
import os
import pickle
from collections.abc import Callable

import pytest

from support.hostile import NonceOracle, StolenKeys
from support.pair import Pair
from transport.config import KIB, Config
from transport.errors import UsageError

SMALL = Config(packet_payload=4 * KIB, eager_limit=1 * KIB, window_bytes=64 * KIB)


def in_a_child(action: Callable[[], object]) -> str:
    """Fork, run `action` in the child, and return what became of it."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            verdict = f"returned {action()!r}"
        except BaseException as error:
            verdict = f"{type(error).__name__}: {error}"
        os.write(writer, verdict.encode()[:2000])
        os._exit(0)
    os.close(writer)
    with open(reader, "rb") as pipe:
        verdict = pipe.read().decode()
    os.waitpid(child, 0)
    return verdict


def test_a_forked_child_cannot_seal_and_the_parent_goes_on() -> None:
    pair = Pair(paths=1, config=SMALL)

    def send_in_the_child() -> int:
        pair.client.send(b"from the child")
        pair.flush()
        return len(pair.client.sealed)

    verdict = in_a_child(send_in_the_child)
    assert verdict.startswith("UsageError: "), verdict
    assert "parent process" in verdict
    assert "fork" in verdict
    pair.client.send(b"from the parent")
    assert pair.deliver() == b"from the parent"


@pytest.mark.parametrize("action", ["seal_frames", "seal_bulk", "advance", "renew"])
def test_no_way_of_a_forked_sealer_leads_to_a_key(
    action: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stolen = StolenKeys(monkeypatch)
    pair = Pair(paths=1, config=SMALL)
    sealer = stolen.sealer(pair, "client")
    actions: dict[str, Callable[[], object]] = {
        "seal_frames": lambda: sealer.seal_frames(b"\x08"),
        "seal_bulk": lambda: sealer.seal_bulk_into(memoryview(bytearray(99)), 0, 0, b"x"),
        "advance": sealer.advance,
        "renew": lambda: sealer.renew(bytes(64)),
    }
    assert in_a_child(actions[action]).startswith("UsageError: ")
    assert in_a_child(lambda: in_a_child(actions[action])).startswith("returned 'UsageError")


def test_a_child_of_the_child_makes_links_of_its_own() -> None:
    def link_in_the_child() -> bytes:
        pair = Pair(paths=1, config=SMALL)
        pair.client.send(b"own keys")
        return pair.deliver()

    assert in_a_child(link_in_the_child) == "returned b'own keys'"


def test_a_snapshot_cannot_be_taken() -> None:
    pair = Pair(paths=1, config=SMALL)
    for duplicate in (copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match=r"key|pickle"):
            duplicate(pair.client.link)


def test_the_oracle_finds_no_repeat_across_a_fork(monkeypatch: pytest.MonkeyPatch) -> None:
    oracle = NonceOracle(monkeypatch)
    pair = Pair(paths=1, config=SMALL)
    for index in range(5):
        pair.client.send(bytes([index]) * 2000)
    pair.settle()
    known = set(oracle.uses)

    def nonces_of_the_child() -> list[str]:
        for _ in range(3):
            try:
                pair.client.send(bytes(500))
                pair.flush()
            except UsageError:
                continue
        return sorted(f"{key.hex()}/{nonce.hex()}" for key, nonce in set(oracle.uses) - known)

    assert in_a_child(nonces_of_the_child) == "returned []"
    pair.client.send(bytes(500))
    pair.settle()
    assert set(oracle.uses) > known
    assert oracle.repeats == []


def test_without_the_guard_parent_and_child_would_use_the_same_nonces(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Control: the fork counter is what stops the child."""
    oracle = NonceOracle(monkeypatch)
    stolen = StolenKeys(monkeypatch)
    pair = Pair(paths=1, config=SMALL)
    twin = stolen.twin(pair, "client")  # as a child without the guard would have it
    known = set(oracle.uses)
    numbers = stolen.sealer(pair, "client").next_number
    assert numbers > 0
    for _ in range(numbers):
        twin.seal_frames(b"\x08")
    assert set(oracle.uses) == known
    assert len(oracle.repeats) == numbers
