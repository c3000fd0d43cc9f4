"""A policy is whole, possible and understood when it is made, or it is not made."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from support.attestation import authority
from transport.errors import UsageError
from transport.identity.attestation import (
    NITRO_FINGERPRINT,
    AttestationPolicy,
    Root,
    nitro_root,
)

ONE, TWO, ZERO = b"\x01" * 48, b"\x02" * 48, bytes(48)
PCR3 = '{"pcrs": {"3": ["' + ONE.hex() + '"]}, '


def written(folder: Path, content: str | bytes | dict[str, Any]) -> Path:
    path = folder / "policy.json"
    if isinstance(content, dict):
        content = json.dumps(content)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_the_defaults_are_nitro_hardware_five_minutes_and_no_debug() -> None:
    policy = AttestationPolicy({0: [ONE]})
    assert policy.roots == (nitro_root(),)
    assert (policy.max_age, policy.clock_skew, policy.allow_debug) == (300.0, 60.0, False)
    assert policy.pcrs == {0: {ONE}}


def test_values_may_be_bytes_or_hexadecimal() -> None:
    assert AttestationPolicy({8: [ONE, TWO.hex(), ONE.hex().upper()]}).pcrs == {8: {ONE, TWO}}


def test_a_policy_cannot_be_changed() -> None:
    policy = AttestationPolicy({0: [ONE]})
    with pytest.raises(dataclasses.FrozenInstanceError):
        policy.max_age = 1e9  # type: ignore[misc]
    with pytest.raises(TypeError):
        policy.pcrs[0] = frozenset({TWO})  # type: ignore[index]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"pcrs": {}}, "an empty policy"),
        ({"pcrs": [ONE]}, "must map indices to values, got list"),
        ({"pcrs": {32: [ONE]}}, "there is no PCR 32; indices are 0 to 31"),
        ({"pcrs": {-1: [ONE]}}, "there is no PCR -1"),
        ({"pcrs": {"0": [ONE]}}, "there is no PCR '0'"),
        ({"pcrs": {True: [ONE]}}, "there is no PCR True"),
        ({"pcrs": {0: []}}, "can never hold"),
        ({"pcrs": {0: ONE}}, "needs a list of accepted values"),
        ({"pcrs": {0: ONE.hex()}}, "needs a list of accepted values"),
        ({"pcrs": {0: [bytes(32)]}}, "32 bytes; registers are SHA-384, 48 bytes"),
        ({"pcrs": {0: ["zz"]}}, "not hexadecimal"),
        ({"pcrs": {0: [7]}}, "bytes or hexadecimal"),
        ({"pcrs": {0: [ZERO]}}, "PCR0 is expected to be zero"),
        ({"pcrs": {0: [ONE]}, "allow_debug": True}, "`allow_debug` contradicts .* PCR0"),
        ({"pcrs": {1: [ONE], 2: [TWO]}, "allow_debug": True}, "contradicts .* PCR1, PCR2"),
        ({"pcrs": {3: [ONE]}, "allow_debug": 1}, "true or false"),
        ({"pcrs": {0: [ONE]}, "roots": []}, "without roots"),
        ({"pcrs": {0: [ONE]}, "roots": [b"x"]}, "Root objects, got bytes"),
        ({"pcrs": {0: [ONE]}, "max_age": 0}, "`max_age` must be more than 0"),
        ({"pcrs": {0: [ONE]}, "max_age": -1.0}, "`max_age` must be more than 0"),
        ({"pcrs": {0: [ONE]}, "max_age": 1e12}, "at most"),
        ({"pcrs": {0: [ONE]}, "max_age": float("nan")}, "a number of seconds"),
        ({"pcrs": {0: [ONE]}, "max_age": True}, "a number of seconds"),
        ({"pcrs": {0: [ONE]}, "max_age": "300"}, "a number of seconds"),
        ({"pcrs": {0: [ONE]}, "clock_skew": -1}, "`clock_skew` must be 0 or more"),
        ({"pcrs": {0: [ONE]}, "clock_skew": 3601}, "at most 3600 seconds"),
    ],
)
def test_a_policy_that_is_empty_malformed_or_impossible_is_refused(
    arguments: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(UsageError, match=complaint):
        AttestationPolicy(**arguments)


def test_debug_mode_and_a_release_may_be_accepted_together() -> None:
    AttestationPolicy({0: [ZERO, ONE]}, allow_debug=True)
    AttestationPolicy({0: [ZERO]}, allow_debug=True)
    AttestationPolicy({3: [ONE]}, allow_debug=True)


def test_a_policy_file_says_the_same(tmp_path: Path) -> None:
    own = authority()[0].root
    (tmp_path / "own.der").write_bytes(own.der)
    policy = AttestationPolicy.load(
        written(
            tmp_path,
            {
                "pcrs": {"0": [ONE.hex()], "8": [ONE.hex(), TWO.hex()]},
                "roots": ["nitro", "own.der", str(tmp_path / "own.der")],
                "max_age": 60,
                "clock_skew": 5,
                "allow_debug": False,
            },
        )
    )
    same = AttestationPolicy(
        {8: [TWO, ONE], 0: [ONE]}, roots=[nitro_root(), own], max_age=60.0, clock_skew=5
    )
    assert policy == same
    assert policy.hash == same.hash


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("", "not valid JSON"),
        (b"\xff\xfe", "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ("[]", "is a JSON object"),
        ("{}", "an empty policy"),
        ('{"pcrs": {}}', "an empty policy"),
        ('{"pcrs": {"0": ["00"], "0": ["11"]}}', "occurs twice"),
        ('{"pcrs": {"0": ["00"]}, "max_agee": 1}', "unknown keys: 'max_agee'"),
        ('{"pcrs": null}', "must be an object"),
        ('{"pcrs": {"32": []}}', "there is no PCR 32"),
        ('{"pcrs": {"00": []}}', "there is no PCR '00'"),
        ('{"pcrs": {"-1": []}}', "there is no PCR '-1'"),
        ('{"pcrs": {"\u0663": []}}', "there is no PCR"),
        ('{"pcrs": {"0": "00"}}', "needs a list of hexadecimal values"),
        ('{"pcrs": {"0": [0]}}', "needs a list of hexadecimal values"),
        ('{"pcrs": {"0": ["00"]}}', "1 bytes; registers are SHA-384"),
        (PCR3 + '"roots": "nitro"}', "must be a list"),
        (PCR3 + '"roots": ["absent.pem"]}', "cannot be read"),
        (PCR3 + '"roots": ["a\\u0000"]}', "zero byte"),
        (PCR3 + '"roots": []}', "without roots"),
        (PCR3 + '"max_age": NaN}', "a number of seconds"),
        (b" " * (1024 * 1024 + 1), "larger than"),
    ],
)
def test_a_malformed_policy_file_is_refused_and_named(
    tmp_path: Path, content: str | bytes, complaint: str
) -> None:
    path = written(tmp_path, content)
    with pytest.raises(UsageError, match=complaint) as caught:
        AttestationPolicy.load(path)
    assert str(path) in str(caught.value)


def test_a_policy_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "absent.json"):
        with pytest.raises(UsageError, match=str(path)):
            AttestationPolicy.load(path)


def test_the_hash_names_the_policy_and_nothing_else() -> None:
    policy = AttestationPolicy({0: [ONE, TWO]})
    assert len(policy.hash) == 32
    assert policy.hash == AttestationPolicy({0: [TWO.hex(), ONE.hex()]}).hash
    others = [
        AttestationPolicy({0: [ONE]}),
        AttestationPolicy({1: [ONE, TWO]}),
        AttestationPolicy({0: [ONE, TWO], 1: [ONE]}),
        AttestationPolicy({0: [ONE, TWO]}, max_age=299),
        AttestationPolicy({0: [ONE, TWO]}, clock_skew=59),
        AttestationPolicy({0: [ONE, TWO]}, roots=[authority()[0].root]),
        AttestationPolicy({0: [ONE, TWO, ZERO]}, allow_debug=True),
        AttestationPolicy({0: [ONE, TWO, ZERO]}),
    ]
    assert len({policy.hash, *(other.hash for other in others)}) == len(others) + 1


def test_the_canonical_form_is_json_with_the_fingerprints_of_the_roots() -> None:
    form = json.loads(AttestationPolicy({10: [ONE], 2: [TWO]}).to_json())
    assert form["pcrs"] == {"02": [TWO.hex()], "10": [ONE.hex()]}
    assert form["roots"] == [NITRO_FINGERPRINT]


def test_equal_roots_are_one() -> None:
    own = authority()[0].root
    assert AttestationPolicy({0: [ONE]}, roots=[own, Root.parse(own.der)]).roots == (own,)
