"""`sealfabric kms`: every subcommand in a process of its own, as an operator runs them."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import ssl
import subprocess
import sys
import time
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from support.kms import CONTEXT, KEY, PASSPHRASE
from support.source_tree import PROJECT_ROOT
from support.xks import METADATA, signed
from transport import Identity, Node, Trust
from transport.errors import PeerRefusedError
from transport.identity.attestation import EmbeddedAttester, EmbeddedAuthority
from transport.identity.kms import AttestedKeys, Credential
from transport.services import RemoteKeyService

LIMIT = 60.0  # seconds for any one process
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(PROJECT_ROOT)}


class Operator:
    """A folder with secrets, and the command."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.private("passphrase", f"{PASSPHRASE}\n".encode())
        self.private("key", bytes(range(32)))
        self.script = path / "program.py"
        self.script.write_text("print('approved')\n")
        EmbeddedAuthority.create(path / "authority", now=time.time())
        self.attester = EmbeddedAttester.load(
            path / "authority", script=self.script, clock=time.time
        )
        policy = {
            "pcrs": {"0": [self.attester.pcrs[0].hex()]},
            "roots": ["authority/root.pem"],
        }
        (path / "policy.json").write_text(json.dumps(policy))

    def private(self, name: str, content: bytes) -> Path:
        file = self.path / name
        file.write_bytes(content)
        file.chmod(0o600)
        return file

    def arguments(self, *words: str, secret: str = "--key-file key") -> list[str]:
        return [sys.executable, "-m", "transport", "kms", *words, *secret.split()]

    def run(self, *words: str, **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.arguments(*words, **more),
            cwd=self.path,
            env=ENVIRONMENT,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=LIMIT,
            check=False,
        )

    def ok(self, *words: str, **more: str) -> str:
        finished = self.run(*words, **more)
        assert (finished.returncode, finished.stderr) == (0, ""), finished.stderr
        return finished.stdout

    def refused(self, *words: str, **more: str) -> str:
        finished = self.run(*words, **more)
        assert finished.returncode == 1, finished
        assert finished.stderr.startswith("sealfabric kms: "), finished.stderr
        assert len(finished.stderr.splitlines()) == 1
        return finished.stderr

    @contextmanager
    def running(self, *words: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
        """A subcommand that serves, and its first line of output."""
        process = subprocess.Popen(
            self.arguments(*words),
            cwd=self.path,
            env=ENVIRONMENT,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            assert process.stdout is not None
            yield process, process.stdout.readline()
        finally:
            process.kill()
            process.communicate(timeout=LIMIT)


@pytest.fixture
def operator(tmp_path):
    made = Operator(tmp_path)
    made.ok("init", "keys")
    return made


def test_the_life_of_a_key(operator):
    assert "attested  enabled         1       1" in operator.ok(
        "create-key", "keys", KEY, "--policy", "policy.json"
    )
    assert "DISABLED" in operator.ok("disable", "keys", KEY)
    assert "DISABLED" in operator.ok("list", "keys")
    assert "enabled         2       1" in operator.ok("rotate", "keys", KEY) + operator.ok(
        "enable", "keys", KEY
    )
    assert "2       2" in operator.ok("retire", "keys", KEY, "--before", "2")
    operator.ok("set-policy", "keys", KEY, "--policy", "policy.json")
    assert operator.ok("audit", "verify", "keys").startswith("intact up to line 7: 7:")


def test_a_passphrase_instead_of_a_key_file(operator):
    secret = "--passphrase-file passphrase"
    operator.ok("init", "other", secret=secret)
    operator.ok("create-key", "other", "aws", "--external", secret=secret)
    assert "aws" in operator.ok("list", "other", secret=secret)
    assert "unlocked by a passphrase" in operator.refused("list", "other")
    operator.private("wrong", b"another passphrase\n")
    said = operator.refused("list", "other", secret="--passphrase-file wrong")
    assert "wrong passphrase" in said


def test_the_audit_log_is_verified(operator):
    head = operator.ok("audit", "verify", "keys").split()[-1]
    operator.ok("create-key", "keys", "aws", "--external")
    assert "intact" in operator.ok("audit", "verify", "keys", "--head", head)
    assert "a missing end would not show" in operator.ok(
        "audit", "verify", "keys", "--chain-only", secret=""
    )
    log = operator.path / "keys" / "audit.log"
    first, *_ = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(first)
    found = operator.run("audit", "verify", "keys")
    assert found.returncode == 1
    assert "NOT INTACT: line 2: missing" in found.stdout
    log.write_bytes(first.replace(b"create store", b"create stare"))
    found = operator.run("audit", "verify", "keys", "--chain-only", secret="")
    assert found.returncode == 1
    assert "NOT INTACT: line 1" in found.stdout


def test_bad_input_is_told_at_the_start(operator):
    operator.private("wrong", bytes(32))
    operator.private("short", b"short\n")
    operator.private("open", b"readable by others\n").chmod(0o644)
    for words, secret, said in (
        (("list", "keys"), "--key-file wrong", "wrong key file"),
        (("list", "keys"), "--passphrase-file short", "at least 12"),
        (("list", "keys"), "--passphrase-file open", "mode 0644"),
        (("list", "keys"), "--key-file absent", "cannot be read"),
        (("list", "keys"), "", "no terminal"),
        (("list", "absent"), "--key-file key", "cannot be opened"),
        (("init", "keys"), "--key-file key", "exists already"),
        (("rotate", "keys", "absent"), "--key-file key", "no key is called"),
        (("audit", "verify", "keys", "--head", "x"), "", "NUMBER:SHA256"),
    ):
        assert said in operator.refused(*words, secret=secret), words


@pytest.mark.parametrize(
    ("policy", "said"),
    [
        ({}, "empty policy"),
        ({"pcrs": {}}, "empty policy"),
        ({"pcrs": {"99": ["00" * 48]}}, "no PCR"),
        ({"pcrs": {"0": []}}, "can never hold"),
        ({"pcrs": {"0": ["00" * 48]}}, "debug mode"),
        ({"pcrs": {"3": ["11" * 48]}, "root": []}, "unknown keys"),
    ],
)
def test_a_policy_that_cannot_be_used_makes_no_key(operator, policy, said):
    (operator.path / "bad.json").write_text(json.dumps(policy))
    assert said in operator.refused("create-key", "keys", KEY, "--policy", "bad.json")
    assert not operator.path.joinpath("keys", "audit.log").read_text().count(KEY)


def test_wrong_usage_is_told():
    command = [sys.executable, "-m", "transport", "kms"]
    for words in ([], ["create-key", "keys", "k"], ["list"], ["destroy", "keys"]):
        finished = subprocess.run(
            [*command, *words], env=ENVIRONMENT, capture_output=True, timeout=LIMIT, check=False
        )
        assert finished.returncode == 2, words


# --- serving -----------------------------------------------------------------------------------


def test_serving_keys_and_stopping_them_at_once(operator):
    operator.ok("create-key", "keys", KEY, "--policy", "policy.json")
    server, app = Identity.generate(), Identity.generate()
    server.save(operator.path / "kms.identity")
    encoded = b64encode(app.public_key).decode()
    (operator.path / "kms.trust").write_text(json.dumps({"peers": {"app": encoded}}))
    with operator.running(
        *("serve", "keys", "--identity", "kms.identity", "--trust", "kms.trust")
    ) as (process, line):
        (address,) = re.findall(r"tcp://127\.0\.0\.1:\d+", line)
        trust = Trust(peers={"kms": server.public_key})
        with Node("app", identity=app, trust=trust, listen=()) as node:
            node.connect(address, peer="kms")
            keys = AttestedKeys(RemoteKeyService(node, "kms"), operator.attester)
            key, ciphertext = keys.generate_data_key(KEY, CONTEXT)
            operator.ok("disable", "keys", KEY)
            with pytest.raises(PeerRefusedError):
                keys.decrypt(ciphertext, CONTEXT)
            operator.ok("enable", "keys", KEY)
            assert keys.decrypt(ciphertext, CONTEXT) == key
        process.send_signal(signal.SIGTERM)
        printed, _ = process.communicate(timeout=LIMIT)
        assert process.returncode == 0
        assert "released 2, refused 1" in printed
    assert "intact" in operator.ok("audit", "verify", "keys")


def test_a_server_that_cannot_serve_says_why(operator):
    Identity.generate().save(operator.path / "kms.identity")
    operator.private("kms.trust", b'{"peers": {}}')
    words = ("serve", "keys", "--identity", "kms.identity", "--trust")
    assert "cannot be read" in operator.refused(*words, "absent")
    listen = ("--listen", "tcp://127.0.0.1:notaport")
    assert "tcp://" in operator.refused(*words, "kms.trust", *listen)


def test_being_an_external_key_store(operator):
    pytest.importorskip("h11", reason="the extra `xks` is not installed")
    operator.ok("create-key", "keys", "aws", "--external", "--kms-key", METADATA["kmsKeyArn"])
    printed = operator.ok("xks-credential", "credential", "--prefix", "/p", secret="")
    credential = Credential.load(operator.path / "credential")
    assert credential.access_key_id in printed
    assert credential.secret_access_key not in printed
    make = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout tls.key"
    made = subprocess.run(
        [
            *("openssl", *make.split(), "-out", "tls.crt", "-days", "2", "-subj", "/CN=localhost"),
            *("-addext", "subjectAltName=DNS:localhost"),
        ],
        cwd=operator.path,
        capture_output=True,
        check=False,
    )
    if made.returncode != 0:
        pytest.skip("the openssl command is not there to make a certificate")
    (operator.path / "tls.key").chmod(0o600)
    words = ("xks-proxy", "keys", "--certificate", "tls.crt", "--certificate-key", "tls.key")
    with operator.running(*words, "--credential", "credential") as (process, line):
        (port,) = re.findall(r"https://127\.0\.0\.1:(\d+)/p/kms/xks/v1", line)
        caller = http.client.HTTPSConnection(
            "localhost",
            int(port),
            context=ssl.create_default_context(cafile=str(operator.path / "tls.crt")),
            timeout=LIMIT,
        )
        fields = {
            "requestMetadata": METADATA,
            "plaintext": "SGVsbG8gV29ybGQh",
            "encryptionAlgorithm": "AES_GCM",
        }
        for expected in (200, 400):
            request = signed(credential, "keys/aws/encrypt", fields, host=f"localhost:{port}")
            caller.request("POST", request.path, request.body, dict(request.headers))
            answer = caller.getresponse()
            assert answer.status == expected, answer.read()
            answer.read()
            operator.ok("disable", "keys", "aws")
        caller.close()
        process.send_signal(signal.SIGTERM)
        assert process.wait(LIMIT) == 0


@pytest.mark.parametrize("listen", ["localhost", ":443", "localhost:port", "localhost:99999"])
def test_an_address_of_a_proxy_that_is_none_is_told(operator, listen):
    words = ("xks-proxy", "keys", "--certificate", "c", "--certificate-key", "k")
    more = ("--credential", "credential", "--listen", listen)
    assert "HOST:PORT" in operator.refused(*words, *more)
