"""The plan replays old and new packets, reflects, and touches every field of a header."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from transport.cli.demo_attacks import (
    DAMAGED_BITS,
    FLIPPED_BITS,
    REFLECTED,
    REPLAYED,
    plan_attacks,
)
from transport.cli.wiretap import AttackKind


def packets(prefix, count):
    return [memoryview(f"{prefix}{number}".encode()) for number in range(count)]


def of_kind(attacks, kind):
    return [attack for attack in attacks if attack.kind is kind]


def test_every_kind_of_attack_is_planned():
    attacks = plan_attacks(packets("sent", 100), packets("returned", 50))
    replays = [p for attack in of_kind(attacks, AttackKind.REPLAY) for p in attack.packets]
    assert replays[:4] == [b"sent0", b"sent1", b"sent2", b"sent3"]
    assert replays[REPLAYED - 1] == b"sent99"
    assert len(replays) == REPLAYED
    reflected = [p for attack in of_kind(attacks, AttackKind.REFLECT) for p in attack.packets]
    assert reflected == [f"returned{at}".encode() for at in range(50 - REFLECTED, 50)]
    assert tuple(a.bit for a in of_kind(attacks, AttackKind.FORGE)) == FLIPPED_BITS
    assert tuple(a.bit for a in of_kind(attacks, AttackKind.CORRUPT)) == DAMAGED_BITS


def test_the_flipped_bits_touch_every_field_of_a_header():
    fields = {1: range(1), 2: range(1, 2), 3: range(2, 4), 4: range(4, 8), 5: range(8, 16)}
    fields |= {6: range(16, 24), 7: range(24, 32)}
    touched = {bit // 8 for bit in FLIPPED_BITS if bit >= 0}
    assert all(touched & set(field) for field in fields.values())


@given(st.integers(0, 40), st.integers(0, 40))
def test_a_plan_can_be_made_of_any_recording(sent, returned):
    attacks = plan_attacks(packets("sent", sent), packets("returned", returned))
    known = {bytes(p) for p in [*packets("sent", sent), *packets("returned", returned)]}
    for attack in attacks:
        if attack.kind not in (AttackKind.REPLAY, AttackKind.REFLECT):
            continue
        assert attack.packets
        assert set(attack.packets) <= known
    assert len(of_kind(attacks, AttackKind.FORGE)) == len(FLIPPED_BITS)
