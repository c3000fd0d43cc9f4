"""Two real processes and the memory between them: exchange, attack, sudden death."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from time import monotonic

import pytest

from support.memory_channels import SIZES, channels, take, with_peer
from support.nodes import PATIENCE, until
from support.shared_memory_peer import HERE, HONEST, THERE, packets, sealer
from transport.crypto.seal import Opener
from transport.errors import AuthenticationError
from transport.path.base import Path as TransportPath
from transport.path.shared_memory import Channel, Layout, UnavailableError
from transport.path.shared_memory.layout import MIN_RING, NONCE
from transport.path.shared_memory.ring import CorruptError
from transport.path.shared_memory.segment import create
from transport.path.shared_memory.slots import PeerSlots
from transport.wire.codec import MalformedError
from transport.wire.packet import BULK_OVERHEAD, FRAMES_HEADER

# --- exchange -----------------------------------------------------------------------------------


def test_it_is_a_path() -> None:
    with channels() as (here, there):
        path: TransportPath = here
        assert path.endpoint is here
        assert path.connected
        assert path.address == f"shared memory with process {os.getpid()}"
        assert path.send(b"packet", stable=False)
        [(over, packet)] = there.receive(10, signalled=False)
        assert over is there
        assert packet == b"packet"
        assert list(here.connectivity()) == []


@pytest.mark.parametrize("act", ["echo", "echo asleep"])
def test_sealed_packets_there_and_back(act: str) -> None:
    """With both sides looking, and with both asleep before each packet: no ringing is lost."""
    with with_peer(act) as (channel, _):
        outgoing, incoming = sealer(HERE), Opener(THERE)
        for number in range(2000):
            frames = number.to_bytes(4, "little") * (1 + number % 300)
            channel.send(outgoing.seal_frames(frames)[1], stable=False)
            [packet] = take(channel, sleep=act == "echo asleep")
            assert incoming.open_frames(memoryview(packet)) == frames


def test_pieces_are_sealed_into_the_slots_they_are_opened_from() -> None:
    with with_peer("bulk") as (channel, _):
        outgoing, incoming = sealer(HERE), Opener(THERE)
        expected: dict[int, tuple[memoryview, int]] = {}
        sent = received = 0
        while received < 40:
            slot = channel.slots.take() if sent < 40 else None
            if slot is not None:
                piece = os.urandom(300_000 - BULK_OVERHEAD - sent)
                _, end = outgoing.seal_bulk_into(slot, 7, sent, piece)
                channel.send(slot[:end], stable=True)
                expected[sent] = slot, sum(piece)
                sent += 1
                continue
            for packet in take(channel):
                told = incoming.open_frames(memoryview(packet))
                slot, total = expected.pop(int.from_bytes(told[:8], "little"))
                assert int.from_bytes(told[8:], "little") == total
                channel.slots.give_back(slot)
                received += 1
        assert expected == {}


def test_slots_are_few_and_a_packet_tells_its_own() -> None:
    with channels() as (here, there):
        slots = [here.slots.take() for _ in range(SIZES["slots"])]
        assert here.slots.take() is None
        for index, slot in enumerate(slots):
            assert slot is not None
            assert len(slot) == SIZES["slot"]
            slot[:1] = bytes([index])
            assert here.slots.index_of(slot[5:9]) == index
            assert here.send(slot[:100], stable=True)
        received = [packet for _, packet in there.receive(10, signalled=False)]
        assert [(packet[0], len(packet)) for packet in received] == [(n, 100) for n in range(4)]
        assert isinstance(received[0], memoryview)
        assert received[0].readonly
        assert here.slots.index_of(memoryview(bytearray(9))) is None
        assert slots[2] is not None
        here.slots.give_back(slots[2])
        assert here.slots.take() is slots[2]


def test_what_it_takes() -> None:
    with channels() as (here, there):
        slot = here.slots.take()
        assert slot is not None
        assert here.takes(bytes(MIN_RING // 8))
        assert here.takes(slot)
        too_large = memoryview(bytes(MIN_RING // 8 + 1))
        assert not here.takes(too_large)
        assert not here.send(too_large, stable=False)
        assert list(there.receive(10, signalled=False)) == []


def test_a_full_ring_ends_the_path_instead_of_blocking_or_losing() -> None:
    """Nothing here repeats what is lost; the link sends all of it over the network."""
    with channels() as (here, there):
        sent = 0
        while here.send(bytes(1000), stable=False):
            sent += 1
        assert 60 <= sent <= MIN_RING // 1000
        assert here.fault == "the peer takes nothing out of the ring"
        assert [connected for _, connected in here.connectivity()] == [False]
        assert sum(1 for _ in there.receive(1000, signalled=False)) == sent
        assert there.connected, "until the bell is let go of"


def test_a_batch_is_limited_and_the_rest_waits() -> None:
    with channels() as (here, there):
        for number in range(10):
            here.send(bytes([number]), stable=False)
        first = [packet for _, packet in there.receive(3, signalled=False)]
        assert there.waiting
        rest = [packet for _, packet in there.receive(100, signalled=False)]
        assert first + rest == [bytes([number]) for number in range(10)]
        assert not there.waiting


# --- asleep and awake -----------------------------------------------------------------------------


def rings(channel: Channel) -> bool:
    return bool(select.select([channel.descriptor], [], [], 0)[0])


def test_nobody_rings_for_one_who_is_awake() -> None:
    with channels() as (here, there):
        here.send(b"1", stable=False)
        assert not rings(there)
        assert not there.lie_down(), "a packet waits"
        here.send(b"2", stable=False)
        assert not rings(there)
        assert len(list(there.receive(10, signalled=False))) == 2
        assert there.lie_down()
        there.get_up()
        here.send(b"3", stable=False)
        assert not rings(there)


def test_a_sleeper_is_rung_for_once() -> None:
    with channels() as (here, there):
        for _ in range(3):
            assert there.lie_down()
            assert there.lie_down(), "saying so twice is the same sleep"
            for _ in range(5):
                here.send(b"packet", stable=False)
            assert rings(there)
            assert len(os.read(there.descriptor, 100)) == 1
            there.get_up()
            assert len(list(there.receive(10, signalled=False))) == 5


def test_a_bell_that_nobody_listens_to_does_not_block() -> None:
    with channels() as (here, there):
        for _ in range(70_000):
            assert there.lie_down()
            here.send(b"x", stable=False)
            there.get_up()
            for _ in there.receive(10, signalled=False):
                pass
        assert rings(there)
        assert list(there.receive(10, signalled=True)) == []
        assert not rings(there)
        assert there.connected


# --- attacks --------------------------------------------------------------------------------------


def test_flipped_replayed_and_reordered_packets_are_the_links_to_refuse() -> None:
    """What the ring hands on is what was in it; under the link's keys only the genuine passes."""
    outgoing, incoming = sealer(HERE), Opener(HERE)
    genuine = [bytes(outgoing.seal_frames(bytes([n]) * 20)[1]) for n in range(3)]
    flipped = bytearray(genuine[1])
    flipped[FRAMES_HEADER.size] ^= 1
    with channels() as (here, there):
        for packet in (genuine[2], genuine[0], flipped, genuine[0], genuine[1]):
            here.send(packet, stable=False)
        verdicts = []
        for _, packet in there.receive(10, signalled=False):
            view = memoryview(packet)
            verdict = incoming.verdict(FRAMES_HEADER.unpack_from(view)[4])
            if verdict is None:
                try:
                    verdict = bytes(incoming.open_frames(view))[:1].hex()
                except AuthenticationError:
                    verdict = "authentication"
            verdicts.append(verdict)
    assert verdicts == ["02", "00", "authentication", "replay", "01"]


def test_garbage_all_over_the_segment_never_passes_for_a_packet() -> None:
    """The path ends at the first impossible word, and until then only what was sealed opens."""
    with with_peer("scribble") as (channel, _):
        incoming, seen = Opener(THERE), Counter[str]()
        deadline = monotonic() + PATIENCE
        while channel.fault is None:
            assert monotonic() < deadline
            for _, packet in channel.receive(64, signalled=False):
                try:
                    assert incoming.open_frames(memoryview(packet)) == HONEST
                    seen["honest"] += 1
                except AuthenticationError:
                    seen["forged"] += 1
                channel.send(bytes(100), stable=False)
        assert seen["honest"] + seen["forged"] > 0
        assert [connected for _, connected in channel.connectivity()] == [False]
        assert list(channel.connectivity()) == []
        assert not channel.send(b"x", stable=False)
        assert list(channel.receive(10, signalled=True)) == []


def test_what_changes_while_it_is_read_opens_as_it_was_sealed_or_not_at_all() -> None:
    with with_peer("flip") as (channel, _):
        incoming, seen = Opener(THERE), Counter[str]()
        deadline = monotonic() + PATIENCE
        while sum(seen.values()) < 5000 and monotonic() < deadline and not channel.fault:
            for _, packet in channel.receive(64, signalled=False):
                try:
                    assert incoming.open_frames(memoryview(packet)) == HONEST
                    seen["honest"] += 1
                except AuthenticationError:
                    seen["changed"] += 1
        assert seen["changed"], "else nothing was tested"


@pytest.mark.parametrize(
    ("slot", "size"), [(4, 100), ((1 << 24) - 1, 100), (0, 0), (3, 300_001), (0, (1 << 32) - 1)]
)
def test_a_slot_that_is_not_there_ends_the_path(slot: int, size: int) -> None:
    """What the ring hands on of slots is checked against what the claim said of them."""
    segment = create(Layout(**SIZES), bytes(NONCE))
    slots = PeerSlots(segment)
    assert len(slots.packet(3, 300_000)) == 300_000
    with pytest.raises(CorruptError):
        slots.packet(slot, size)
    segment.close()


def test_a_claim_of_fewer_slots_than_there_are_is_refused() -> None:
    here, there = Channel(Layout(**SIZES)), Channel(Layout(**SIZES))
    fewer = there.claim.replace(b"\xa5slots\x04", b"\xa5slots\x03")
    assert fewer != there.claim
    with pytest.raises(UnavailableError, match="bytes"):
        here.attach(fewer)
    here.close()
    there.close()


@pytest.mark.parametrize("claim", [b"", b"\x80", bytes(200), b"\xff" * 1000])
def test_what_is_no_claim(claim: bytes) -> None:
    channel = Channel(Layout(**SIZES))
    with pytest.raises(MalformedError):
        channel.attach(claim)
    assert not channel.connected
    channel.close()


def test_a_bell_must_be_a_pipe() -> None:
    here, there = Channel(Layout(**SIZES)), Channel(Layout(**SIZES))
    with open("/dev/null") as null:
        bell = there.claim.index(b"\xa4bell") + 5
        forged = there.claim[:bell] + bytes([null.fileno()]) + there.claim[bell + 1 :]
        before = len(os.listdir("/proc/self/fd"))
        with pytest.raises(UnavailableError, match="another kind"):
            here.attach(forged)
        assert len(os.listdir("/proc/self/fd")) == before
    here.close()
    there.close()


def test_before_it_is_attached_nothing_travels() -> None:
    channel = Channel(Layout(**SIZES))
    assert not channel.connected
    assert not channel.send(b"x", stable=False)
    assert list(channel.receive(10, signalled=True)) == []
    assert list(channel.connectivity()) == []
    assert not channel.waiting
    assert channel.lie_down()
    channel.get_up()
    channel.close()
    channel.close()


# --- sudden death ---------------------------------------------------------------------------------


def test_a_peer_killed_while_writing_is_noticed_at_once() -> None:
    with with_peer("flood") as (channel, peer):
        incoming, genuine = Opener(THERE), 0
        take(channel)
        peer.process.send_signal(signal.SIGKILL)
        while not channel.fault:
            for packet in packets(channel, sleep=True):
                view = memoryview(packet)
                if len(view) > 1000:
                    continue
                opened = incoming.open_frames(view)
                assert opened == opened[:8] * 50
                genuine += 1
        assert channel.fault == "the peer's process has gone"
        assert [connected for _, connected in channel.connectivity()] == [False]
        assert not channel.send(b"x", stable=False)


def test_ringing_a_dead_peer_is_no_sigpipe() -> None:
    """Also in a program that has the default action back, which is to die of it."""
    with with_peer("quiet") as (channel, peer):
        before = signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        try:
            assert channel.send(b"before", stable=False)
            peer.process.kill()
            peer.process.wait(30)
            for _ in range(10):
                channel.send(b"after", stable=False)
        finally:
            signal.signal(signal.SIGPIPE, before)


def segments(inode: int) -> list[str]:
    """Every process that has the memory mapped or open, whoever it is."""
    found = []
    for process in Path("/proc").iterdir():
        if not process.name.isdigit():
            continue
        try:
            maps = (process / "maps").read_text()
            opened = {os.stat(each).st_ino for each in (process / "fd").iterdir()}
        except OSError:
            continue
        if f" {inode} " in maps or inode in opened:
            found.append(process.name)
    return found


_HOLDER = """
import json, os, sys
from transport.path.shared_memory import Channel, Layout
channel = Channel(Layout(**json.loads(sys.argv[1])))
print(channel.claim.hex(), flush=True)
channel.attach(bytes.fromhex(sys.stdin.readline()))
print("attached", flush=True)
sys.stdin.readline()
"""


def test_nothing_is_left_when_both_are_killed() -> None:
    named = sorted(os.listdir("/dev/shm"))
    pair = [
        subprocess.Popen(
            [sys.executable, "-c", _HOLDER, json.dumps(SIZES)],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    claims, inodes = [], []
    for each in pair:
        assert each.stdout is not None
        claims.append(each.stdout.readline())
        folder = Path(f"/proc/{each.pid}/fd")
        inodes += {os.stat(fd).st_ino for fd in folder.iterdir() if "memfd" in os.readlink(fd)}
    for each, claim in zip(pair, reversed(claims), strict=True):
        assert each.stdin is not None
        each.stdin.write(claim)
        each.stdin.flush()
    for each in pair:
        assert each.stdout is not None
        assert each.stdout.readline() == "attached\n"
    assert len(inodes) == 2
    assert all(len(segments(inode)) == 2 for inode in inodes)
    assert sorted(os.listdir("/dev/shm")) == named, "it has no name while it lives either"
    for each in pair:
        each.kill()
    for each in pair:
        each.communicate()
    until(lambda: not any(segments(inode) for inode in inodes))
    assert sorted(os.listdir("/dev/shm")) == named


def test_closing_leaves_no_descriptor_and_no_mapping() -> None:
    def held() -> tuple[int, int]:
        maps = Path("/proc/self/maps").read_text()
        return len(os.listdir("/proc/self/fd")), maps.count("memfd:sealfabric")

    before = held()
    with channels() as (here, there):
        here.send(b"x", stable=False)
        assert len(list(there.receive(1, signalled=False))) == 1
        assert held() > before
    assert held() == before


def test_a_closed_channel_does_not_look_at_descriptors_that_are_others_now() -> None:
    """It may be closed by a packet of another endpoint that was signalled together with it."""
    with channels() as (here, there):
        there.send(b"x", stable=False)
        rung = here.descriptor
        here.close()
        reader, writer = os.pipe()
        os.write(writer, b"of somebody else")
        os.dup2(reader, rung)
        assert list(here.receive(10, signalled=True)) == []
        assert list(here.connectivity()) == []
        assert os.read(rung, 100) == b"of somebody else"
        for each in {reader, writer, rung}:
            os.close(each)
