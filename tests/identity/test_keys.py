"""Identities: the key, its name, and the file it is kept in."""

from __future__ import annotations

import base64
import copy
import os
import pickle
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transport.crypto.primitives import X25519
from transport.errors import UsageError
from transport.identity.keys import Identity, fingerprint, read_private_file

PRIVATE = bytes(range(32))


def write_private(path: Path, content: bytes, mode: int = 0o600) -> Path:
    path.write_bytes(content)
    path.chmod(mode)
    return path


def test_identities_differ_and_can_be_made_from_given_entropy() -> None:
    assert Identity.generate().public_key != Identity.generate().public_key
    identity = Identity.generate(lambda length: PRIVATE[:length])
    assert identity.public_key == X25519(PRIVATE).public
    assert len(identity.public_key) == 32


def test_the_keypair_agrees_with_a_peer() -> None:
    one, other = Identity.generate(), Identity.generate()
    assert one.keypair.dh(other.public_key) == other.keypair.dh(one.public_key)


def test_a_saved_identity_loads_again(tmp_path: Path) -> None:
    path, identity = tmp_path / "identity", Identity.generate()
    previous = os.umask(0)
    try:
        identity.save(path)
    finally:
        os.umask(previous)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert Identity.load(path).public_key == identity.public_key
    assert Identity.load(str(path)).public_key == identity.public_key
    assert path.read_bytes().startswith(b"sealfabric identity 1\n")
    assert [each.name for each in tmp_path.iterdir()] == ["identity"]


def test_a_strict_umask_does_not_spoil_the_mode(tmp_path: Path) -> None:
    previous = os.umask(0o777)
    try:
        Identity.generate().save(tmp_path / "identity")
    finally:
        os.umask(previous)
    assert stat.S_IMODE((tmp_path / "identity").stat().st_mode) == 0o600


def test_an_existing_file_is_replaced_only_on_demand(tmp_path: Path) -> None:
    path, first, second = tmp_path / "identity", Identity.generate(), Identity.generate()
    first.save(path)
    with pytest.raises(UsageError, match="exists already"):
        second.save(path)
    assert Identity.load(path).public_key == first.public_key
    path.chmod(0o644)
    second.save(path, overwrite=True)
    assert Identity.load(path).public_key == second.public_key
    assert [each.name for each in tmp_path.iterdir()] == ["identity"]


def test_a_new_file_may_be_saved_with_overwrite(tmp_path: Path) -> None:
    Identity.generate().save(tmp_path / "identity", overwrite=True)
    assert stat.S_IMODE((tmp_path / "identity").stat().st_mode) == 0o600


def test_a_dangling_link_is_not_followed_when_saving(tmp_path: Path) -> None:
    link = tmp_path / "identity"
    link.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UsageError, match="exists already"):
        Identity.generate().save(link)
    assert not (tmp_path / "elsewhere").exists()


def test_a_folder_that_is_absent_or_a_target_that_is_a_folder_is_reported(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be written"):
        Identity.generate().save(tmp_path / "absent" / "identity")
    folder = tmp_path / "folder"
    folder.mkdir()
    with pytest.raises(UsageError, match="cannot be written"):
        Identity.generate().save(folder, overwrite=True)
    assert [each.name for each in tmp_path.iterdir()] == ["folder"]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o620, 0o602, 0o610, 0o777])
def test_a_file_that_others_may_access_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "identity"
    Identity.generate().save(path)
    path.chmod(mode)
    with pytest.raises(UsageError, match=f"{mode:04o}.*0600"):
        Identity.load(path)


def test_what_is_not_a_readable_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        Identity.load(tmp_path / "absent")
    with pytest.raises(UsageError, match=r"cannot be read|not a regular file"):
        Identity.load(tmp_path)
    os.mkfifo(tmp_path / "fifo", 0o600)
    with pytest.raises(UsageError, match="not a regular file"):
        Identity.load(tmp_path / "fifo")


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "not an identity file"),
        (b"\xff\xfe\0", "not an identity file"),
        (b"sealfabric identity 2\n" + base64.b64encode(PRIVATE) + b"\n", "not an identity file"),
        (b"sealfabric identity 1\n", "not an identity file"),
        (b"sealfabric identity 1\nA\nB\n", "not an identity file"),
        (b"sealfabric identity 1\n!!!!\n", "not valid base64"),
        (b"sealfabric identity 1\nAAA\n", "not valid base64"),
        (b"sealfabric identity 1\n\xff\xff\n", "not valid base64"),
        (b"sealfabric identity 1\n" + base64.b64encode(PRIVATE[1:]) + b"\n", "31 bytes long"),
        (b"sealfabric identity 1\n" + base64.b64encode(PRIVATE * 2) + b"\n", "64 bytes long"),
        (b"sealfabric identity 1\n" * 300, "larger than 4096"),
    ],
)
def test_a_malformed_file_is_refused(tmp_path: Path, content: bytes, complaint: str) -> None:
    path = write_private(tmp_path / "identity", content)
    with pytest.raises(UsageError, match=complaint) as caught:
        Identity.load(path)
    assert base64.b64encode(PRIVATE).decode()[:8] not in str(caught.value)


@given(st.binary(max_size=200))
def test_random_files_raise_usage_error_alone(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = write_private(tmp_path_factory.getbasetemp() / "random identity", content)
    assert read_private_file(path) == content
    with pytest.raises(UsageError):
        Identity.load(path)


def test_the_fingerprint_is_short_stable_and_of_the_public_key_alone() -> None:
    identity = Identity(PRIVATE)
    assert identity.fingerprint == fingerprint(identity.public_key)
    assert identity.fingerprint == "SF1-53OY-QPNA-VFCR-LE64-BI4O-LA73"
    with pytest.raises(UsageError, match="got 31"):
        fingerprint(bytes(31))


@pytest.mark.parametrize("length", [0, 31, 33])
def test_private_keys_of_other_lengths_are_refused(length: int) -> None:
    with pytest.raises(UsageError, match=f"got {length}"):
        Identity(bytes(length))
    with pytest.raises(UsageError, match=f"got {length}"):
        Identity.generate(lambda _: bytes(length))


def test_identities_are_not_copied_pickled_or_shown() -> None:
    identity = Identity(PRIVATE)
    for duplicate in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="cannot be copied or pickled"):
            duplicate(identity)
    assert repr(identity) == f"<Identity {identity.fingerprint}>"
    assert PRIVATE.hex() not in repr(identity.keypair)


def test_the_environment_names_an_identity(tmp_path, monkeypatch):
    path = tmp_path / "identity"
    identity = Identity.generate()
    identity.save(path)
    monkeypatch.setenv("SEALFABRIC_IDENTITY", str(path))
    assert Identity.from_environment().public_key == identity.public_key


def test_without_an_identity_the_environment_says_what_to_set(monkeypatch):
    monkeypatch.delenv("SEALFABRIC_IDENTITY", raising=False)
    with pytest.raises(UsageError, match="SEALFABRIC_IDENTITY"):
        Identity.from_environment()
