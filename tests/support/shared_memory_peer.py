"""The other end of a channel, in a process of its own: `python -m support.shared_memory_peer`.

Arguments: what to do, and a JSON object for `Layout`. It prints its claim, reads
the other one's, prints "attached", and does what it was told to.
"""

from __future__ import annotations

import json
import os
import random
import select
import sys
from collections.abc import Callable

from transport.crypto.seal import KeyLimits, Opener, Sealer
from transport.errors import AuthenticationError
from transport.path.shared_memory import Channel, Layout
from transport.path.shared_memory.doorbell import Bell
from transport.path.shared_memory.layout import ASLEEP, CONSUMED, NONCE, PAGE, PRODUCED
from transport.path.shared_memory.ring import RingWriter
from transport.path.shared_memory.segment import Claim, Host, Segment, attach, create
from transport.wire.packet import BULK_HEADER, BULK_OVERHEAD

HERE, THERE = b"h" * 64, b"t" * 64
"""Secrets of the two directions: from the test, and from this process."""

HONEST = b"honest" * 200


def sealer(secret: bytes) -> Sealer:
    return Sealer(secret, receiver=1, limits=KeyLimits())


def packets(channel: Channel, *, sleep: bool) -> list[bytes | bytearray | memoryview]:
    """What comes next: waited for by looking, or asleep on the bell."""
    signalled = False
    while True:
        found = [packet for _, packet in channel.receive(64, signalled=signalled)]
        if found or channel.fault:
            return found
        if sleep and channel.lie_down():
            readable, _, _ = select.select([channel.descriptor], [], [], 30)
            if not readable:
                sys.exit("nobody rang")
            signalled = True
            channel.get_up()
        elif not channel.waiting:
            os.sched_yield()


def echo(channel: Channel, *, sleep: bool) -> None:
    """Open each packet and seal its content again, until the other side is gone."""
    outgoing, incoming = sealer(THERE), Opener(HERE)
    while not channel.fault:
        for packet in packets(channel, sleep=sleep):
            frames = incoming.open_frames(memoryview(packet))
            channel.send(outgoing.seal_frames(frames)[1], stable=False)


def bulk(channel: Channel) -> None:
    """Open pieces from the other side's slots, and acknowledge each by its number."""
    outgoing, incoming = sealer(THERE), Opener(HERE)
    while not channel.fault:
        for packet in packets(channel, sleep=True):
            view = memoryview(packet)
            piece = bytearray(len(view) - BULK_OVERHEAD)
            incoming.open_bulk_into(view, memoryview(piece))
            offset: int = BULK_HEADER.unpack_from(view)[6]
            told = offset.to_bytes(8, "little") + sum(piece).to_bytes(8, "little")
            channel.send(outgoing.seal_frames(told)[1], stable=False)


def flood(channel: Channel) -> None:
    """Send numbered packets, in the ring and in slots by turns, as fast as it will take them."""
    outgoing, number = sealer(THERE), 0
    slot = channel.slots.take()
    assert slot is not None
    while True:
        number += 1
        channel.send(outgoing.seal_frames(number.to_bytes(8, "little") * 50)[1], stable=False)
        if number % 8 == 0:
            _, end = outgoing.seal_bulk_into(slot, 1, number, bytes(100_000))
            channel.send(slot[:end], stable=True)


def quiet(channel: Channel) -> None:
    """Hold the channel until told to go, and keep it alive."""
    sys.stdin.readline()
    channel.close()


def scribble(own: Segment, writer: RingWriter) -> None:
    """Send honest packets and, all the while, garbage over the whole segment."""
    chance = random.Random(5)
    outgoing = sealer(THERE)
    memory, words = own.memory, own.words
    while True:
        writer.put(outgoing.seal_frames(HONEST)[1])
        for _ in range(50):
            at = chance.randrange(PAGE, len(memory) - 8)
            memory[at] ^= 1 << chance.randrange(8)
        if chance.random() < 0.001:
            word = chance.choice((PRODUCED, CONSUMED, ASLEEP))
            words[word] = chance.getrandbits(chance.choice((4, 16, 40, 64)))


def flip(own: Segment, writer: RingWriter) -> None:
    """Change the packets in the ring to and fro while they are being read."""
    outgoing = sealer(THERE)
    ring = own.memory[PAGE : PAGE + own.layout.ring]
    while True:
        writer.put(outgoing.seal_frames(HONEST)[1])
        for at in range(500, len(ring), 700):
            ring[at] ^= 0xFF


def refuse(channel: Channel) -> None:
    """Count what does not open, until the other side is gone."""
    incoming = Opener(HERE)
    opened = refused = 0
    while not channel.fault:
        for packet in packets(channel, sleep=True):
            try:
                incoming.open_frames(memoryview(packet))
                opened += 1
            except AuthenticationError:
                refused += 1
    print(json.dumps([opened, refused]), flush=True)


ACTS: dict[str, Callable[[Channel], None]] = {
    "echo": lambda channel: echo(channel, sleep=False),
    "echo asleep": lambda channel: echo(channel, sleep=True),
    "bulk": bulk,
    "flood": flood,
    "quiet": quiet,
    "refuse": refuse,
}

ATTACKS: dict[str, Callable[[Segment, RingWriter], None]] = {"scribble": scribble, "flip": flip}


def attack(act: Callable[[Segment, RingWriter], None], layout: Layout) -> None:
    """What a channel would do, from its parts: an attacker has no use for the rest."""
    nonce, host = os.urandom(NONCE), Host.here()
    own, bell = create(layout, nonce), Bell()
    claim = Claim(
        boot=host.boot,
        namespace=host.namespace,
        user=host.user,
        process=os.getpid(),
        segment=own.descriptor,
        bell=bell.offered,
        layout=layout,
        nonce=nonce,
    )
    print(claim.encode().hex(), flush=True)
    peer = attach(Claim.decode(bytes.fromhex(sys.stdin.readline())), own.device)
    print("attached", flush=True)
    sys.stdin.readline()
    act(own, RingWriter(own.mapped, layout.ring, layout.record_limit, peer.words))


def main() -> None:
    layout = Layout(**json.loads(sys.argv[2]))
    if sys.argv[1] in ATTACKS:
        attack(ATTACKS[sys.argv[1]], layout)
    channel = Channel(layout)
    print(channel.claim.hex(), flush=True)
    channel.attach(bytes.fromhex(sys.stdin.readline()))
    print("attached", flush=True)
    sys.stdin.readline()  # and so has the other side
    channel.keep()
    ACTS[sys.argv[1]](channel)


if __name__ == "__main__":
    main()
