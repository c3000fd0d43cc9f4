"""Keys and secrets are written privately, completely, and never over an old file."""

from __future__ import annotations

import base64
import os
import stat

import pytest

from transport.cli import main
from transport.cli.keygen import SECRET_SIZE, write_secret
from transport.errors import UsageError
from transport.identity.keys import Identity
from transport.identity.trust import Trust


@pytest.fixture(autouse=True)
def _generous_umask():
    before = os.umask(0)
    yield
    os.umask(before)


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_an_identity_is_written_and_described(tmp_path, capsys):
    path = tmp_path / "node.identity"
    assert main(["keygen", str(path)]) == 0
    identity = Identity.load(path)
    printed = capsys.readouterr().out
    assert base64.b64encode(identity.public_key).decode() in printed
    assert identity.fingerprint in printed
    assert mode(path) == 0o600


def test_nothing_private_is_printed(tmp_path, capsys):
    path, secret = tmp_path / "node.identity", tmp_path / "cluster.secret"
    assert main(["keygen", str(path)]) == 0
    assert main(["keygen", "--secret", str(secret)]) == 0
    printed = capsys.readouterr().out
    assert path.read_text().splitlines()[1] not in printed
    assert base64.b64encode(secret.read_bytes()).decode() not in printed
    assert secret.read_bytes().hex() not in printed


def test_a_secret_is_written_that_trust_can_load(tmp_path):
    path = tmp_path / "cluster.secret"
    assert main(["keygen", "--secret", str(path)]) == 0
    assert mode(path) == 0o600
    assert len(path.read_bytes()) == SECRET_SIZE
    assert Trust.load_secret(path) == path.read_bytes()


@pytest.mark.parametrize("options", [[], ["--secret"]])
def test_an_existing_file_is_replaced_only_with_force(options, tmp_path, capsys):
    path = tmp_path / "file"
    assert main(["keygen", *options, str(path)]) == 0
    first = path.read_bytes()
    assert main(["keygen", *options, str(path)]) == 1
    assert path.read_bytes() == first
    assert main(["keygen", *options, "--force", str(path)]) == 0
    assert path.read_bytes() != first
    assert mode(path) == 0o600
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_that_is_absent_is_an_error(overwrite, tmp_path):
    with pytest.raises(UsageError, match="cannot be written: No such file"):
        write_secret(tmp_path / "absent" / "secret", overwrite=overwrite)
    assert list(tmp_path.iterdir()) == []


def test_secrets_differ(tmp_path):
    write_secret(tmp_path / "one")
    write_secret(tmp_path / "two")
    assert (tmp_path / "one").read_bytes() != (tmp_path / "two").read_bytes()
