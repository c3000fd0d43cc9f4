"""Unlocking: passphrases and key files, and what is refused before anything is derived."""

from __future__ import annotations

import copy
import pickle

import pytest

from support.kms import PASSPHRASE, QUICK
from transport.errors import UsageError
from transport.identity.kms import Unlocking
from transport.identity.kms.unlock import PASSPHRASE_MIN, Derivation

STORE = b"a store"


def private(path, content: bytes, mode: int = 0o600):
    path.write_bytes(content)
    path.chmod(mode)
    return path


def test_one_passphrase_gives_one_set_of_keys():
    derivation = Derivation.for_passphrase(QUICK)
    first = Unlocking.passphrase(PASSPHRASE).keys(derivation)
    again = Unlocking.passphrase(PASSPHRASE).keys(derivation)
    other = Unlocking.passphrase(PASSPHRASE + "!").keys(derivation)
    assert (first.wrap, first.seal, first.audit) == (again.wrap, again.seal, again.audit)
    assert len({first.wrap, first.seal, first.audit, other.wrap, other.seal, other.audit}) == 6
    assert first.check(STORE) == again.check(STORE) != other.check(STORE)


def test_another_salt_gives_other_keys():
    unlocking = Unlocking.passphrase(PASSPHRASE)
    keys = [unlocking.keys(Derivation.for_passphrase(QUICK)).wrap for _ in range(2)]
    assert keys[0] != keys[1]


def test_a_passphrase_file_is_its_first_line(tmp_path):
    file = private(tmp_path / "file", PASSPHRASE.encode() + b"\r\nmore\n")
    derivation = Derivation.for_passphrase(QUICK)
    assert (
        Unlocking.passphrase_file(file).keys(derivation).wrap
        == Unlocking.passphrase(PASSPHRASE).keys(derivation).wrap
    )


def test_a_key_file_is_all_of_its_bytes(tmp_path):
    derivation = Derivation.for_key_file()
    wraps = {
        Unlocking.key_file(private(tmp_path / f"{n}", bytes(32) + b"\n" * n)).keys(derivation).wrap
        for n in range(2)
    }
    assert len(wraps) == 2


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660])
@pytest.mark.parametrize("load", [Unlocking.key_file, Unlocking.passphrase_file])
def test_a_secret_that_others_may_read_is_refused(tmp_path, load, mode):
    with pytest.raises(UsageError, match=f"mode 0{mode:o}"):
        load(private(tmp_path / "secret", b"x" * 64, mode))


@pytest.mark.parametrize("load", [Unlocking.key_file, Unlocking.passphrase_file])
def test_a_secret_that_cannot_be_read_is_said_so(tmp_path, load):
    with pytest.raises(UsageError, match="cannot be read"):
        load(tmp_path / "absent")
    with pytest.raises(UsageError, match="directory"):
        load(tmp_path)


def test_what_is_too_short_is_refused(tmp_path):
    with pytest.raises(UsageError, match="at least 12"):
        Unlocking.passphrase("x" * (PASSPHRASE_MIN - 1))
    with pytest.raises(UsageError, match="at least 32"):
        Unlocking.key_file(private(tmp_path / "key", bytes(31)))


def test_the_kind_of_secret_must_fit(tmp_path):
    key_file = Unlocking.key_file(private(tmp_path / "key", bytes(32)))
    with pytest.raises(UsageError, match="unlocked by a passphrase"):
        key_file.keys(Derivation.for_passphrase(QUICK))
    with pytest.raises(UsageError, match="unlocked by a key file"):
        Unlocking.passphrase(PASSPHRASE).keys(Derivation.for_key_file())


@pytest.mark.parametrize("cost", [0, 9, 21, 64])
def test_a_cost_out_of_range_is_refused(cost):
    with pytest.raises(UsageError, match="10 to 20"):
        Derivation.for_passphrase(cost)
    assert not Derivation(kind="passphrase", salt=bytes(32), cost=cost).is_valid()


def test_secrets_are_not_shown_copied_or_pickled():
    unlocking = Unlocking.passphrase(PASSPHRASE)
    keys = unlocking.keys(Derivation.for_passphrase(QUICK))
    for holder in (unlocking, keys):
        assert PASSPHRASE not in repr(holder)
        assert keys.wrap.hex() not in repr(holder)
        for leak in (copy.copy, copy.deepcopy, pickle.dumps):
            with pytest.raises(Exception, match=r"(?i)cop|pickl"):
                leak(holder)
