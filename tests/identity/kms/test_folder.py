"""A key folder: changes are written down first, and a kill loses nothing acknowledged."""

from __future__ import annotations

import json
import os
import random
import signal
import stat
import subprocess
import sys

import pytest

from support.kms import KEY, PASSPHRASE, QUICK, Clock, world
from support.source_tree import PROJECT_ROOT
from transport.errors import UsageError
from transport.identity.kms import (
    AuditError,
    ExternalPolicy,
    KeyFolder,
    UnknownKeyError,
    Unlocking,
    verify_folder,
)

KILLS = 12
SEED = 20260


@pytest.fixture
def made(tmp_path):
    with world(tmp_path) as made:
        yield made


def opened(path) -> KeyFolder:
    return KeyFolder.open(path, Unlocking.passphrase(PASSPHRASE), clock=Clock())


def events(path) -> list[dict]:
    lines = (path / "audit.log").read_bytes().splitlines()
    return [json.loads(line.partition(b" ")[2]) for line in lines]


def test_every_change_is_written_down(made):
    folder = made.folder
    folder.create_key("aws", ExternalPolicy(kms_keys=("arn",)))
    folder.set_policy("aws", ExternalPolicy())
    folder.enable(KEY, False)
    folder.enable(KEY)
    folder.rotate(KEY)
    folder.retire(KEY, 2)
    written = events(made.path / "keys")
    assert [each["event"] for each in written] == [
        *("create store", "create key", "create key", "set policy"),
        *("disable", "enable", "rotate", "retire"),
    ]
    assert all(f"pid {os.getpid()}" in each["by"] for each in written)
    assert written[-1]["before"] == 2
    report = verify_folder(made.path / "keys", Unlocking.passphrase(PASSPHRASE))
    assert (report.fault, report.head.number) == (None, 8)


def test_files_are_private(made):
    folder = made.path / "keys"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    for file in folder.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600, file


def test_a_change_that_cannot_be_written_down_is_not_made(made):
    (made.path / "keys" / "audit.log").write_bytes(b"")
    with pytest.raises(AuditError):
        made.folder.enable(KEY, False)
    assert made.store.record(KEY).enabled


def test_an_unknown_key_is_not_written_down(made):
    before = made.folder.audit.head
    for change in (made.folder.enable, made.folder.rotate):
        with pytest.raises(UnknownKeyError):
            change("absent")
    assert made.folder.audit.head == before


def test_a_policy_of_the_other_kind_is_refused(made):
    made.add_external("aws")
    with pytest.raises(UsageError, match="external"):
        made.folder.set_policy("aws", made.policy())
    with pytest.raises(UsageError, match="attested"):
        made.folder.set_policy(KEY, ExternalPolicy())


def test_a_folder_is_made_once(made):
    with pytest.raises(UsageError, match="exists already"):
        KeyFolder.create(
            made.path / "keys", Unlocking.passphrase(PASSPHRASE), clock=Clock(), cost=QUICK
        )
    with opened(made.path / "keys") as folder:
        assert folder.store.key_ids() == (KEY,)


@pytest.mark.parametrize("missing", ["keys.db", "audit.log", "audit.log.head"])
def test_a_missing_file_is_said_so_at_the_start(made, missing):
    (made.path / "keys" / missing).unlink()
    with pytest.raises(UsageError, match=missing):
        opened(made.path / "keys")


def test_verifying_needs_no_secret_for_the_chain(made):
    assert verify_folder(made.path / "keys", None).fault is None
    with pytest.raises(UsageError, match="wrong passphrase"):
        verify_folder(made.path / "keys", Unlocking.passphrase("x" * 20))


# --- killed ------------------------------------------------------------------------------------

WRITER = """
import sys, time
from transport.identity.kms import ExternalPolicy, KeyFolder, Unlocking
folder = KeyFolder.open(sys.argv[1], Unlocking.passphrase(sys.argv[2]), clock=time.time)
print("ready", flush=True)
for number in range(100_000):
    name = f"{sys.argv[3]}-{number}"
    folder.create_key(name, ExternalPolicy())
    record = folder.rotate(name)
    material = folder.store.material(record, 2)
    print(name, material.hex(), flush=True)
"""


def acknowledged_until_killed(path, name: str, after: int, spin: int) -> dict[str, str]:
    """Run a process that makes keys; kill it after some were acknowledged; which ones."""
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path), PASSPHRASE, name],
        env={**os.environ, "PYTHONPATH": str(PROJECT_ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    lines = [process.stdout.readline() for _ in range(after)]
    # A little work of varying length, so that the kill falls into another place each time.
    for _ in range(spin):
        pass
    process.send_signal(signal.SIGKILL)
    lines += process.stdout.readlines()
    assert process.wait(30) == -signal.SIGKILL
    whole = [line.split() for line in lines if line.endswith("\n")]
    return dict(whole)


def test_a_kill_in_mid_write_loses_no_acknowledged_key(tmp_path):
    print(f"seed {SEED}")
    chance = random.Random(SEED)
    path = tmp_path / "keys"
    KeyFolder.create(path, Unlocking.passphrase(PASSPHRASE), clock=Clock(), cost=QUICK).close()
    acknowledged: dict[str, str] = {}
    for kill in range(KILLS):
        after, spin = chance.randrange(1, 6), chance.randrange(0, 200_000)
        acknowledged |= acknowledged_until_killed(path, f"run{kill}", after, spin)
        with opened(path) as folder:  # also: the audit log is intact
            for key_id, material in acknowledged.items():
                record = folder.store.record(key_id)
                assert folder.store.material(record, 2).hex() == material, key_id
            for key_id in folder.store.key_ids():
                record = folder.store.record(key_id)
                for version in range(record.oldest, record.current + 1):
                    assert folder.store.material(record, version)
    assert len(acknowledged) >= KILLS
    report = verify_folder(path, Unlocking.passphrase(PASSPHRASE))
    assert report.fault is None
    # Never a change without a line, whatever was cut short.
    written = {each["key"] for each in events(path) if each["event"] == "create key"}
    with opened(path) as folder:
        assert set(folder.store.key_ids()) <= written
