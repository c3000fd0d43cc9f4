"""Trust: what it admits, what it derives, and the files it is read from."""

from __future__ import annotations

import base64
import copy
import hashlib
import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transport.crypto.primitives import hkdf_sha512
from transport.errors import UsageError
from transport.identity.trust import Trust, check_name

SECRET = bytes(range(40))
ALICE, BOB = b"a" * 32, b"b" * 32


def base64_of(key: bytes) -> str:
    return base64.b64encode(key).decode()


def write(path: Path, content: bytes | str, mode: int = 0o600) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    path.chmod(mode)
    return path


def trust_file(folder: Path, **document: Any) -> Path:
    return write(folder / "trust.json", json.dumps(document), 0o644)


def test_trust_in_nothing_is_refused() -> None:
    with pytest.raises(UsageError, match="or several of them"):
        Trust()


@pytest.mark.parametrize("length", [0, 1, 31])
def test_a_short_secret_is_refused(length: int) -> None:
    with pytest.raises(UsageError, match=f"{length} bytes, at least 32"):
        Trust(secret=bytes(length))


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"secret": "s" * 32}, "must be bytes, got str"),
        ({"peers": [("alice", ALICE)]}, "must map"),
        ({"peers": {"alice": "a" * 32}}, "must be bytes, got str"),
        ({"peers": {"alice": ALICE[1:]}}, "31 bytes long, not 32"),
        ({"peers": {"alice": ALICE + b"a"}}, "33 bytes long, not 32"),
        ({"peers": {"": ALICE}}, "1 to 255 bytes"),
        ({"peers": {7: ALICE}}, "1 to 255 bytes"),
        ({"peers": {"a\nb": ALICE}}, "printable"),
    ],
)
def test_malformed_arguments_are_refused(arguments: Any, complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint):
        Trust(**arguments)


def test_pinned_peers_are_admitted_by_name_and_key_together() -> None:
    trust = Trust(peers={"alice": ALICE, "bob": BOB})
    assert trust.admits("alice", ALICE)
    assert trust.pinned("alice") == ALICE
    for name, key in [
        ("alice", BOB),
        ("bob", ALICE),
        ("carol", ALICE),
        ("Alice", ALICE),
        ("", ALICE),
        ("alice", ALICE[:31]),
        ("alice", b""),
    ]:
        assert not trust.admits(name, key)
    assert trust.pinned("carol") is None


def test_with_a_secret_alone_every_proper_name_is_admitted() -> None:
    trust = Trust(secret=SECRET)
    assert trust.admits("anyone", ALICE)
    assert trust.pinned("anyone") is None
    assert not trust.admits("any\0one", ALICE)
    assert not trust.admits("x" * 256, ALICE)
    assert not trust.admits("\ud800", ALICE)
    assert not trust.admits("anyone", b"")


def test_a_secret_does_not_loosen_pinned_peers() -> None:
    trust = Trust(peers={"alice": ALICE}, secret=SECRET)
    assert trust.admits("alice", ALICE)
    assert not trust.admits("bob", BOB)
    assert not trust.admits("alice", BOB)
    assert not Trust(peers={}, secret=SECRET).admits("alice", ALICE)


def test_later_changes_to_the_callers_mapping_change_nothing() -> None:
    peers, secret = {"alice": ALICE}, bytearray(SECRET)
    trust = Trust(peers=peers, secret=secret)
    psk = trust.psk
    peers["bob"] = BOB
    secret[:] = bytes(len(secret))
    assert not trust.admits("bob", BOB)
    assert trust.psk == psk


def test_trust_is_immutable() -> None:
    trust = Trust(secret=SECRET)
    with pytest.raises(AttributeError):
        trust.psk = bytes(32)  # type: ignore[misc]
    with pytest.raises(AttributeError):
        trust.peers = {"mallory": ALICE}
    with pytest.raises(AttributeError):
        del trust.psk
    assert not hasattr(trust, "peers")


def test_the_psk_comes_from_the_secret_and_is_zero_without_one() -> None:
    """The derivation is part of the protocol: a change would part old nodes from new."""
    assert Trust(peers={"alice": ALICE}).psk == bytes(32)
    expected = hkdf_sha512(
        SECRET, salt=b"sealfabric 1 cluster secret", info=b"sealfabric 1 psk", length=32
    )
    assert Trust(secret=SECRET).psk == expected
    assert Trust(peers={"alice": ALICE}, secret=SECRET).psk == expected
    assert Trust(secret=SECRET + b"\n").psk != expected


def test_both_ends_derive_one_caller_key() -> None:
    caller, responder = Trust(peers={"bob": BOB}), Trust(peers={"alice": ALICE})
    key = caller.caller_key("bob", caller.pinned("bob"))
    assert len(key) == 32
    assert key == responder.caller_key("bob", BOB)
    with_secret = Trust(peers={"bob": BOB}, secret=SECRET)
    assert with_secret.caller_key("bob", None) == Trust(secret=SECRET).caller_key("bob", BOB)


def test_caller_keys_differ_by_all_they_rest_on() -> None:
    pinned, shared = Trust(peers={"bob": BOB}), Trust(secret=SECRET)
    keys = {
        pinned.caller_key("bob", BOB),
        pinned.caller_key("bob", ALICE),
        pinned.caller_key("carol", BOB),
        shared.caller_key("bob", BOB),
        shared.caller_key("carol", BOB),
        Trust(secret=SECRET[1:]).caller_key("bob", BOB),
        shared.psk,
    }
    assert len(keys) == 7


def test_a_caller_key_needs_a_secret_or_a_public_key() -> None:
    trust = Trust(peers={"bob": BOB})
    with pytest.raises(UsageError, match="'carol'"):
        trust.caller_key("carol", trust.pinned("carol"))
    with pytest.raises(UsageError, match="31 bytes"):
        trust.caller_key("bob", BOB[1:])
    with pytest.raises(UsageError, match="printable"):
        trust.caller_key("\n", BOB)


def test_the_policy_hash_says_that_there_is_none() -> None:
    expected = hashlib.sha256(b"sealfabric 1 policy: none").digest()
    assert Trust(secret=SECRET).policy_hash == expected


def test_trust_is_not_copied_pickled_or_shown() -> None:
    trust = Trust(peers={"alice": ALICE}, secret=SECRET)
    for duplicate in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="cannot be copied or pickled"):
            duplicate(trust)
    assert repr(trust) == "<Trust 1 peers, with a secret>"
    assert repr(Trust(secret=SECRET)) == "<Trust any name, with a secret>"
    assert repr(Trust(peers={})) == "<Trust 0 peers, no secret>"


# Names


@pytest.mark.parametrize("name", ["a", "node-1", "rack 3/host:7", "Zürich", "x" * 255, "é" * 127])
def test_printable_names_are_accepted(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize(
    "name", ["", "x" * 256, "é" * 128, "a\0", "a\n", "\x1b[31m", "\u202e", "\u200b", "\ud800"]
)
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match="1 to 255 bytes"):
        check_name(name)


@given(st.text(st.characters(), max_size=300) | st.binary(max_size=10))
def test_any_name_is_accepted_or_refused_the_same_way_everywhere(name: Any) -> None:
    trust = Trust(secret=SECRET)
    try:
        accepted = check_name(name) == name
    except UsageError:
        accepted = False
    assert trust.admits(name, ALICE) is accepted


# Files


@pytest.mark.parametrize(
    "content", [SECRET, b"\0" * 32, b"hex and newline" * 3 + b"\n", b"x" * 4096]
)
def test_a_secret_file_is_taken_as_it_is(tmp_path: Path, content: bytes) -> None:
    path = write(tmp_path / "secret", content)
    assert Trust.load_secret(path) == content
    assert Trust.load_secret(str(path)) == content


@pytest.mark.parametrize(
    ("content", "mode", "complaint"),
    [
        (SECRET, 0o640, "0640"),
        (SECRET, 0o604, "0604"),
        (SECRET, 0o666, "0666"),
        (SECRET[:31], 0o600, "31 bytes, at least 32"),
        (b"", 0o600, "0 bytes, at least 32"),
        (b"x" * 4097, 0o600, "larger than 4096"),
    ],
)
def test_an_unsafe_secret_file_is_refused(
    tmp_path: Path, content: bytes, mode: int, complaint: str
) -> None:
    with pytest.raises(UsageError, match=complaint):
        Trust.load_secret(write(tmp_path / "secret", content, mode))


def test_an_absent_secret_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        Trust.load_secret(tmp_path / "absent")


def test_a_trust_file_gives_peers_a_secret_or_both(tmp_path: Path) -> None:
    write(tmp_path / "secret", SECRET)
    peers = {"alice": base64_of(ALICE)}
    pinned = Trust.load(trust_file(tmp_path, peers=peers))
    assert pinned.admits("alice", ALICE)
    assert not pinned.admits("bob", BOB)
    assert pinned.psk == bytes(32)
    # A relative path starts at the file's folder, not at the process's.
    shared = Trust.load(trust_file(tmp_path, secret_file="secret"))
    assert shared.psk == Trust(secret=SECRET).psk
    assert shared.admits("bob", BOB)
    both = Trust.load(trust_file(tmp_path, peers=peers, secret_file=str(tmp_path / "secret")))
    assert both.psk == Trust(secret=SECRET).psk
    assert not both.admits("bob", BOB)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("", "not valid JSON"),
        (b"\xff\xfe\xfd", "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ('{"peers": {"a": "x", "a": "y"}}', "occurs twice"),
        ("[]", "must hold a JSON object"),
        ("{}", "or several of them"),
        ('{"peers": null, "secret_file": "secret"}', "must be an object"),
        ('{"peers": {}, "secret_file": null}', "must be a path"),
        ('{"secret_file": 7}', "must be a path"),
        ('{"secret_file": "a\\u0000b"}', "must be a path"),
        ('{"secret_file": "absent"}', "cannot be read"),
        ('{"peers": [], "secret_file": "secret"}', "must be an object"),
        ('{"peers": {"a": 7}}', "must be a base64 string"),
        ('{"peers": {"a": "!"}}', "not valid base64"),
        ('{"peers": {"a": "\u00e9"}}', "not valid base64"),
        ('{"peers": {"a": "AAAA"}}', "3 bytes long, not 32"),
        ('{"peers": {"": "AAAA"}}', "1 to 255 bytes"),
        ('{"peers": {}, "policy": {}}', "unknown keys: 'policy'"),
        ('{"peers": {}, "secret-file": "x"}', "unknown keys"),
        (b" " * (4 * 1024 * 1024 + 1), "larger than"),
    ],
)
def test_a_malformed_trust_file_is_refused(
    tmp_path: Path, content: bytes | str, complaint: str
) -> None:
    write(tmp_path / "secret", SECRET)
    path = write(tmp_path / "trust.json", content)
    with pytest.raises(UsageError, match=complaint):
        Trust.load(path)


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_a_trust_file_that_others_may_change_is_refused(tmp_path: Path, mode: int) -> None:
    path = trust_file(tmp_path, peers={"alice": base64_of(ALICE)})
    path.chmod(mode)
    with pytest.raises(UsageError, match=f"{mode:04o}"):
        Trust.load(path)


def test_a_trust_file_that_is_not_a_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        Trust.load(tmp_path / "absent")
    os.mkfifo(tmp_path / "fifo", 0o600)
    with pytest.raises(UsageError, match="not a regular file"):
        Trust.load(tmp_path / "fifo")


def test_the_environment_names_a_secret(tmp_path, monkeypatch):
    path = tmp_path / "secret"
    path.write_bytes(bytes(range(40)))
    path.chmod(0o600)
    monkeypatch.delenv("SEALFABRIC_TRUST", raising=False)
    monkeypatch.setenv("SEALFABRIC_SECRET_FILE", str(path))
    assert Trust.from_environment().psk == Trust(secret=bytes(range(40))).psk


def test_trust_file_and_secret_of_the_environment_must_both_hold(tmp_path, monkeypatch):
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(range(40)))
    secret.chmod(0o600)
    trust_file = tmp_path / "trust.json"
    key = base64.b64encode(bytes(range(32))).decode()
    trust_file.write_text(json.dumps({"peers": {"a": key}}))
    trust_file.chmod(0o600)
    monkeypatch.setenv("SEALFABRIC_SECRET_FILE", str(secret))
    monkeypatch.setenv("SEALFABRIC_TRUST", str(trust_file))
    trust = Trust.from_environment()
    assert trust.psk == Trust(secret=bytes(range(40))).psk
    assert trust.knows("a")
    assert not trust.knows("b")


def test_two_secrets_in_the_environment_are_refused(tmp_path, monkeypatch):
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(range(40)))
    secret.chmod(0o600)
    trust_file = tmp_path / "trust.json"
    trust_file.write_text(json.dumps({"secret_file": "secret"}))
    trust_file.chmod(0o600)
    monkeypatch.setenv("SEALFABRIC_SECRET_FILE", str(secret))
    monkeypatch.setenv("SEALFABRIC_TRUST", str(trust_file))
    with pytest.raises(UsageError, match="SEALFABRIC_SECRET_FILE"):
        Trust.from_environment()


def test_an_empty_environment_says_what_to_set(monkeypatch):
    monkeypatch.delenv("SEALFABRIC_TRUST", raising=False)
    monkeypatch.delenv("SEALFABRIC_SECRET_FILE", raising=False)
    with pytest.raises(UsageError, match="SEALFABRIC_SECRET_FILE"):
        Trust.from_environment()
