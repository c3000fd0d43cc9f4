"""Attack 11: pickle, deep or huge msgpack, an unauthenticated flood.

Whatever a stranger sends is judged by a few comparisons and at most one small
decryption. Nothing of it is executed, memory stays below the limits that
`Config` names, and the living link does not notice.
"""

from __future__ import annotations

import gc
import os
import pickle
import random
import tracemalloc
from contextlib import suppress
from pathlib import Path as FilePath
from typing import cast

import msgpack
import pytest

from support.pair import SECRET, Pair
from transport.config import KIB, Config
from transport.crypto.primitives import Aead
from transport.identity import Identity, Trust
from transport.link.drops import BAD_HELLO, MALFORMED, Drop
from transport.link.handshake import Handshake, Terms, open_hello
from transport.node.directory import Directory
from transport.path import Path
from transport.wire import codec, frames
from transport.wire.codec import MalformedError
from transport.wire.packet import HANDSHAKE_HEADER, Kind, classify, pack_handshake


class Canary:
    """Unpickled, it leaves a file behind: proof that the bytes were executed."""

    def __init__(self, path: FilePath) -> None:
        self._path = path

    def __reduce__(self) -> tuple[object, tuple[str, int]]:
        return os.mkdir, (str(self._path), 0o700)


class Nowhere:
    """What a directory asks of a path."""

    address = "nowhere"
    connected = True


def terms(name: str, secret: bytes = SECRET) -> Terms:
    return Terms(
        name=name,
        identity=Identity.generate(),
        trust=Trust(secret=secret),
        packet_limit=1 << 20,
        credit=1 << 20,
    )


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickle_bytes_are_never_executed(protocol: int, tmp_path: FilePath) -> None:
    canary = tmp_path / "canary"
    poison = pickle.dumps(Canary(canary), protocol)
    pair = Pair(paths=1)
    packet = b"\x11\x00\x00\x00\x09\x00\x00\x00" + poison
    for attack in (poison, packet, bytes([0x15]) + packet[1:] + bytes(32), poison * 50):
        pair.inject("server", 0, attack)
        pair.server.link.receive_packet(pair.server.wires[0], attack, pair.now)
        for parse in (
            lambda attack=attack: codec.unpack(attack, limit=1 << 20),
            lambda attack=attack: list(frames.decode(memoryview(attack))),
            lambda attack=attack: classify(memoryview(attack)),
        ):
            with suppress(MalformedError):
                parse()
        with pytest.raises(Drop):
            open_hello(memoryview(attack), pair.server.terms)
    # Sent as an honest payload it arrives as the bytes it is.
    pair.client.send(poison)
    assert pair.deliver() == poison
    assert not canary.exists()
    pickle.loads(poison)
    assert canary.exists(), "the canary sings when it is unpickled"


def hostile_maps() -> dict[str, bytes]:
    """Encodings that cost a careless parser far more than their own size."""
    return {
        "deep arrays": b"\x91" * 100_000,
        "deep maps": b"\x81\xa1a" * 50_000,
        "deep inside a map": b"\x81\xa1a" + b"\x91" * 900 + b"\xc0",
        "array of 2^32": b"\xdd\xff\xff\xff\xff",
        "map of 2^32": b"\xdf\xff\xff\xff\xff",
        "string of 2^32": b"\xdb\xff\xff\xff\xff",
        "bytes of 2^32": b"\x81\xa1a\xc6\xff\xff\xff\xff",
        "extension of 2^32": b"\x81\xa1a\xc9\xff\xff\xff\xff\x01",
        "a timestamp": msgpack.packb({"a": msgpack.Timestamp(1, 0)}),
        "many entries": msgpack.packb({str(index): 0 for index in range(100)}),
        "a float": msgpack.packb({"a": 1.5}),
        "nothing": b"",
        "two values": msgpack.packb({"a": 1}) * 2,
        "huge": msgpack.packb({"a": bytes(1 << 20)}),
    }


@pytest.mark.parametrize("name", hostile_maps())
def test_deep_and_huge_maps_cost_no_more_than_their_own_bytes(name: str) -> None:
    encoded = hostile_maps()[name]
    tracemalloc.start()
    try:
        with pytest.raises(MalformedError):
            codec.unpack(encoded, limit=1024)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 256 * KIB


@pytest.mark.parametrize("name", hostile_maps())
def test_a_caller_who_knows_the_secret_cannot_hurt_with_his_hello_either(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = hostile_maps()[name]
    if len(content) + 16 > 0xFFFF:
        content = content[:1000]
    monkeypatch.setattr("transport.link.handshake.codec.pack", lambda fields: content)
    packet = Handshake(terms("caller"), peer="server", index=1).first_packet()
    monkeypatch.undo()
    with pytest.raises(Drop, match=MALFORMED):
        open_hello(memoryview(packet), terms("server"))


def strangers(count: int, seed: int) -> list[bytes]:
    """First messages as a stranger would send them: noise, truncations, wrong secrets."""
    rng = random.Random(seed)
    genuine = Handshake(terms("caller", bytes(32)), peer="server", index=1).first_packet()
    made = []
    for _ in range(count):
        shape = rng.randrange(4)
        if shape == 0:
            made.append(rng.randbytes(rng.randrange(3000)))
        elif shape == 1:
            made.append(genuine[: rng.randrange(len(genuine))])
        elif shape == 2:
            head = pack_handshake(Kind.INIT, rng.getrandbits(32), rng.getrandbits(16))
            made.append(head + rng.randbytes(rng.randrange(2500)))
        else:
            start = HANDSHAKE_HEADER.size + HANDSHAKE_HEADER.unpack_from(genuine)[2]
            made.append(genuine[:start] + rng.randbytes(len(genuine) - start))
    return made


def test_a_flood_of_strangers_leaves_no_trace_in_the_directory() -> None:
    directory = Directory(terms("server"), Config())
    packets = strangers(5000, seed=11)
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for packet in packets:
        try:
            kind, _ = classify(memoryview(packet))
        except MalformedError:
            continue
        if kind is Kind.INIT:
            assert directory.answer(cast(Path, Nowhere()), memoryview(packet), 0.0) is None
    after = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert list(directory) == []
    assert set(directory.drops) <= {BAD_HELLO, MALFORMED}
    assert directory.drops[BAD_HELLO] > 1000
    assert after - before < 64 * KIB


def test_a_stranger_costs_no_key_agreement(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the cheap check runs: no X25519, no ML-KEM, one small decryption."""
    opened = []

    class Counted(Aead):
        def decrypt(self, *arguments: object, **named: object) -> bytes:
            opened.append(1)
            return super().decrypt(*arguments, **named)  # type: ignore[arg-type]

    packets = strangers(500, seed=12)
    server = terms("server")
    monkeypatch.setattr("transport.link.handshake.Aead", Counted)
    monkeypatch.setattr("transport.crypto.primitives.X25519.dh", None)
    monkeypatch.setattr("transport.crypto.primitives.MLKEM768.encapsulate", None, raising=False)
    monkeypatch.setattr("transport.link.handshake.HandshakeState", None)
    for packet in packets:
        with pytest.raises(Drop):
            open_hello(memoryview(packet), server)
    assert len(opened) <= len(packets)


def test_callers_who_know_the_secret_and_never_finish_are_bounded() -> None:
    """They may hold `half_open_links` handshakes, and the oldest gives way."""
    config = Config(half_open_links=8, handshakes_remembered=64)
    directory = Directory(terms("server"), config)
    caller = terms("caller")
    path = cast(Path, Nowhere())
    for index in range(100):
        packet = Handshake(caller, peer="server", index=index).first_packet()
        link = directory.answer(path, memoryview(packet), 0.0)
        assert link is not None
        link.receive_packet(path, packet, 0.0)
    assert len(list(directory)) <= 8
    assert directory.drops["half_open"] == 92


def test_a_living_link_does_not_notice_a_flood() -> None:
    quiet, flooded = Pair(seed=5), Pair(seed=5)
    packets = strangers(2000, seed=13)
    rng = random.Random(14)
    took = {}
    for pair in (quiet, flooded):
        started = pair.now
        for index in range(50):
            pair.client.send(bytes([index]) * 50_000)
            if pair is flooded:
                for packet in packets[40 * index : 40 * index + 40]:
                    pair.inject(rng.choice(("client", "server")), rng.randrange(4), packet)
            pair.step()
        pair.settle()
        took[pair] = pair.now - started
        assert sorted(pair.server.payloads) == [bytes([index]) * 50_000 for index in range(50)]
    assert took[flooded] == pytest.approx(took[quiet], rel=0.05, abs=0.002)
    assert set(flooded.server.links) == set(quiet.server.links), "no stranger made a link"


def test_a_flood_aimed_at_a_living_link_by_its_index_is_dropped_without_growth() -> None:
    pair = Pair(paths=1)
    rng = random.Random(15)
    index = pair.server.link.index.to_bytes(4, "little")
    packets = [
        bytes([rng.choice((0x15, 0x16))]) + bytes(3) + index + rng.randbytes(rng.randrange(2000))
        for _ in range(3000)
    ]
    gc.disable()  # what a collection would have to free has grown all the same
    tracemalloc.start()
    try:
        for packet in packets:
            pair.server.link.receive_packet(pair.server.wires[0], packet, pair.now)
        grown = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
        gc.enable()
    assert sum(pair.server.stats().drops.values()) == 3000
    assert grown < 64 * KIB
    pair.client.send(b"undisturbed")
    assert pair.deliver() == b"undisturbed"
