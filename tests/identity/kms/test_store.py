"""The key store: what it keeps, what it refuses, and that edits from outside are noticed."""

from __future__ import annotations

import json
import sqlite3
import stat

import pytest

from support.kms import NOW, PASSPHRASE, QUICK
from transport.errors import UsageError
from transport.identity.kms import KeyStore, KeyStoreError, Purpose, UnknownKeyError, Unlocking
from transport.identity.kms.store import store_id_of

POLICY = '{"a":1}'


@pytest.fixture
def path(tmp_path):
    return tmp_path / "keys.db"


@pytest.fixture
def store(path):
    made = KeyStore.create(path, Unlocking.passphrase(PASSPHRASE), cost=QUICK)
    yield made
    made.close()


def again(path) -> KeyStore:
    return KeyStore.open(path, Unlocking.passphrase(PASSPHRASE))


def add(store, key_id="k", purpose=Purpose.ATTESTED):
    return store.add(key_id, purpose=purpose, policy=POLICY, now=NOW)


def edit(path, statement: str, *arguments: object) -> None:
    """Change the file from outside, as somebody without the secret can."""
    connection = sqlite3.connect(path)
    with connection:
        connection.execute(statement, arguments)
    connection.close()


def test_a_key_survives_closing_the_store(store, path):
    record = add(store)
    material = store.material(record, 1)
    store.close()
    reopened = again(path)
    assert reopened.record("k") == record
    assert reopened.material(record, 1) == material
    assert len(material) == 32
    reopened.close()


def test_keys_differ(store):
    assert store.material(add(store, "a"), 1) != store.material(add(store, "b"), 1)
    assert store.key_ids() == ("a", "b")


def test_the_file_is_private_and_holds_no_key(store, path):
    material = store.material(add(store), 1)
    for file in path.parent.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600, file
        assert material not in file.read_bytes()


def test_another_process_sees_a_change_at_once(store, path):
    add(store)
    other = again(path)
    assert other.record("k").enabled
    store.enable("k", False)
    assert not other.record("k").enabled
    other.enable("k")
    assert store.record("k").enabled
    other.close()


def test_an_older_version_stays_until_it_is_retired(store):
    first = store.material(add(store), 1)
    record = store.rotate("k")
    assert (record.current, record.oldest) == (2, 1)
    assert store.material(record, 1) == first != store.material(record, 2)
    record = store.retire("k", 2)
    with pytest.raises(UnknownKeyError, match="no version 1"):
        store.material(record, 1)
    assert store.material(record, 2)


@pytest.mark.parametrize("before", [-1, 0, 1, 3, 9])
def test_what_cannot_be_retired_is_said_so(store, before):
    add(store)
    store.rotate("k")
    with pytest.raises(UsageError, match="versions 1 to 2"):
        store.retire("k", before)
    assert store.material(store.record("k"), 1)


def test_a_retired_key_is_gone_from_the_file(store, path):
    add(store)
    connection = sqlite3.connect(path)
    ((wrapped,),) = connection.execute("SELECT wrapped FROM versions").fetchall()
    connection.close()
    store.rotate("k")
    store.retire("k", 2)
    for file in path.parent.iterdir():
        assert wrapped not in file.read_bytes(), file


def test_a_policy_can_be_replaced(store):
    add(store)
    assert store.set_policy("k", '{"b":2}').policy == '{"b":2}'
    assert store.record("k").revision == 2


@pytest.mark.parametrize("key_id", ["", ".", "..", "-k", "a/b", "a b", "k" * 129, "ä", "a\n"])
def test_names_that_are_not_usable_are_refused(store, key_id):
    with pytest.raises(UsageError, match="a key's name"):
        add(store, key_id)


def test_a_name_is_taken_once(store):
    material = store.material(add(store), 1)
    with pytest.raises(UsageError, match="exists already"):
        add(store)
    assert store.material(store.record("k"), 1) == material


def test_an_attested_key_needs_a_policy(store):
    with pytest.raises(UsageError, match="needs a policy"):
        store.add("k", purpose=Purpose.ATTESTED, now=NOW)
    assert store.key_ids() == ()


def test_an_unknown_key(store):
    for call in (store.record, store.enable, store.rotate):
        with pytest.raises(UnknownKeyError):
            call("absent")


# --- bad input at the start ----------------------------------------------------------------


def test_the_wrong_passphrase_is_refused(store, path):
    with pytest.raises(UsageError, match="cannot be unlocked: wrong passphrase"):
        KeyStore.open(path, Unlocking.passphrase(PASSPHRASE + "."))


def test_the_wrong_key_file_is_refused(tmp_path, path):
    for name in ("one", "two"):
        (tmp_path / name).write_bytes(name.encode() * 20)
        (tmp_path / name).chmod(0o600)
    KeyStore.create(path, Unlocking.key_file(tmp_path / "one")).close()
    KeyStore.open(path, Unlocking.key_file(tmp_path / "one")).close()
    with pytest.raises(UsageError, match="wrong key file"):
        KeyStore.open(path, Unlocking.key_file(tmp_path / "two"))


def test_a_store_that_others_may_read_is_refused(store, path):
    path.chmod(0o644)
    with pytest.raises(UsageError, match="mode 0644"):
        again(path)


def test_an_existing_store_is_not_replaced(store, path):
    with pytest.raises(UsageError, match="exists already"):
        KeyStore.create(path, Unlocking.passphrase(PASSPHRASE), cost=QUICK)


@pytest.mark.parametrize("content", [b"", b"not a database" * 100, b"SQLite format 3\0" * 40])
def test_a_file_that_is_no_store_is_refused(path, content):
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(UsageError, match="is not a key store"):
        again(path)


def test_a_missing_store_is_said_so(path):
    with pytest.raises(UsageError, match="cannot be opened"):
        again(path)
    assert not path.exists()


@pytest.mark.parametrize("cost", [9, 21, 40])
def test_a_header_that_asks_for_absurd_work_is_refused(store, path, cost):
    edit(path, "UPDATE store SET cost = ?", cost)
    with pytest.raises(UsageError, match="header is damaged"):
        again(path)


def test_the_identity_needs_no_secret(store, path):
    assert store_id_of(path) == store.store_id


# --- edits from outside ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value"),
    [("enabled", True), ("policy", "{}"), ("purpose", "external"), ("oldest", 0), ("revision", 9)],
)
def test_an_edited_record_makes_its_key_unusable(store, path, field, value):
    add(store)
    store.enable("k", False)
    (text,) = sqlite3.connect(path).execute("SELECT record FROM keys").fetchone()
    changed = json.dumps(json.loads(text) | {field: value}, sort_keys=True, separators=(",", ":"))
    edit(path, "UPDATE keys SET record = ?", changed)
    with pytest.raises(KeyStoreError, match="changed from outside"):
        store.record("k")


def test_a_record_of_another_key_does_not_fit(store, path):
    add(store, "a")
    add(store, "b")
    edit(path, "DELETE FROM keys WHERE id = 'a'")
    edit(path, "UPDATE keys SET id = 'a' WHERE id = 'b'")
    with pytest.raises(KeyStoreError, match="changed from outside"):
        store.record("a")


def test_an_old_record_put_back_is_noticed(store, path):
    add(store)
    old = sqlite3.connect(path).execute("SELECT record, seal FROM keys").fetchone()
    store.enable("k", False)
    edit(path, "UPDATE keys SET record = ?, seal = ?", *old)
    with pytest.raises(KeyStoreError, match="older than one seen before"):
        store.record("k")


def test_wrapped_keys_cannot_be_exchanged_or_changed(store, path):
    a, b = add(store, "a"), add(store, "b")
    wrapped = dict(sqlite3.connect(path).execute("SELECT id, wrapped FROM versions").fetchall())
    edit(path, "UPDATE versions SET wrapped = ? WHERE id = 'a'", wrapped["b"])
    edit(path, "UPDATE versions SET wrapped = ? WHERE id = 'b'", wrapped["b"][:-1] + b"\0")
    for record in (a, b):
        with pytest.raises(KeyStoreError, match="changed from outside"):
            store.material(record, 1)


def test_a_removed_version_is_noticed(store, path):
    record = add(store)
    edit(path, "DELETE FROM versions")
    with pytest.raises(KeyStoreError, match="missing"):
        store.material(record, 1)


def test_wrapped_keys_of_another_store_do_not_fit(store, path, tmp_path):
    add(store)
    other = KeyStore.create(tmp_path / "other.db", Unlocking.passphrase(PASSPHRASE), cost=QUICK)
    record = add(other)
    row = sqlite3.connect(path).execute("SELECT wrapped FROM versions").fetchone()
    edit(tmp_path / "other.db", "UPDATE versions SET wrapped = ?", *row)
    with pytest.raises(KeyStoreError, match="changed from outside"):
        other.material(record, 1)
    other.close()
