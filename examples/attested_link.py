"""A node and a key service that answer only to a program that was measured and approved.

    python examples/attested_link.py

The main process makes an authority, measures this file, and approves exactly that. Then it
starts this file as a worker, and after it a copy of it with one line changed. The first
gets a tensor and a data key. The second gets no link to the node, hence no tensor, and from
the key service no key.

The attester is the embedded one: a MODEL, not hardware. A program that lies about itself
could issue the same documents, so this shows the flow and proves nothing to anybody. In a
Nitro enclave `NitroAttester` takes its place, and the rest stays as it is.
"""

from __future__ import annotations

import json
import logging
import secrets
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np

import transport
from transport.identity.attestation import AttestationPolicy, EmbeddedAttester
from transport.identity.kms import AttestedKeys, EmbeddedKeyService, KeyFolder, Unlocking
from transport.services import KeyServer, RemoteKeyService

KEY, PURPOSE = "model-weights", {"model": "m1"}
QUESTION, TENSOR = 1, 2  # tags
TIMEOUT = 30.0  # seconds


def main() -> None:
    """Approve this file, then serve it and its changed copy."""
    print("The embedded attester is a MODEL, not hardware: it shows the flow and proves nothing.")
    with tempfile.TemporaryDirectory() as name:
        folder, secret = Path(name), secrets.token_bytes(32)
        policy = approve(Path(__file__), folder)
        changed = folder / "changed" / Path(__file__).name
        changed.parent.mkdir()
        source = Path(__file__).read_text(encoding="utf-8")
        changed.write_text(source.replace("tensor.sum()", "tensor.mean()"), encoding="utf-8")
        approved_only = transport.Trust(secret=secret, policy=policy)
        with node_named("owner", approved_only) as owner, keys_in(folder, policy, secret) as keys:
            threading.Thread(target=give_tensors, args=(owner,)).start()
            order = {
                "secret": secret.hex(),
                "authority": str(folder / "authority"),
                "owner": owner.addresses[0],
                "kms": keys.node.addresses[0],
            }
            print(run_worker(Path(__file__), {"name": "approved", **order}), end="")
            print(run_worker(changed, {"name": "changed", **order}), end="")
            print("the owner refused evidence, by reason:", dict(owner.stats().evidence_refused))


def approve(script: Path, folder: Path) -> AttestationPolicy:
    """Make an authority, measure `script`, and return the policy that asks for just that."""
    print(sealfabric("attest", "init", folder / "authority").splitlines()[2])
    measured = json.loads(sealfabric("attest", "measure", script, "--json"))
    expected = {"pcrs": {"0": [measured["pcrs"]["PCR0"]]}, "roots": ["authority/root.pem"]}
    (folder / "policy.json").write_text(json.dumps(expected), encoding="utf-8")
    return AttestationPolicy.load(folder / "policy.json")


def sealfabric(*arguments: object) -> str:
    """Run a command and return what it prints."""
    command = [sys.executable, "-m", "transport", *map(str, arguments)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@contextmanager
def keys_in(folder: Path, policy: AttestationPolicy, secret: bytes) -> Iterator[KeyServer]:
    """A key service: whoever has the secret may ask, and only approved programs are answered."""
    unlocking = Unlocking.passphrase(secrets.token_hex(16))
    identity, trust = transport.Identity.generate(), transport.Trust(secret=secret)
    with KeyFolder.create(folder / "keys", unlocking, clock=time.time) as keys:
        keys.create_key(KEY, policy)
        service = EmbeddedKeyService(keys.store, keys.audit, clock=time.time)
        with KeyServer(service, "kms", identity=identity, trust=trust) as server:
            server.start()
            yield server


def give_tensors(owner: transport.Node) -> None:
    """Send the tensor to whoever asks. Only those can whom the policy has let link."""
    with suppress(transport.ClosedError):
        while True:
            question = owner.irecv(tag=QUESTION)
            question.wait()
            assert question.source is not None
            attested = owner.link(question.source).stats().attested
            assert attested is not None
            print(f"the owner answers {question.source}, attested by {attested.module_id!r}")
            owner.send(np.arange(1000.0), to=question.source, tag=TENSOR)


def run_worker(script: Path, order: dict[str, str]) -> str:
    """Run `script` as a worker that is told where everything is; return what it prints."""
    command = [sys.executable, str(script), "worker"]
    finished = subprocess.run(
        command, input=json.dumps(order), stdout=subprocess.PIPE, text=True, timeout=TIMEOUT
    )
    return finished.stdout


def work() -> None:
    """Ask for the tensor and for the key, and say what came of it."""
    order = json.load(sys.stdin)
    name, secret = order["name"], bytes.fromhex(order["secret"])
    attester = EmbeddedAttester.load(order["authority"], clock=time.time)
    with node_named(name, transport.Trust(secret=secret, attester=attester)) as node:
        try:
            node.connect(order["owner"], peer="owner", timeout=TIMEOUT)
            node.send(b"?", to="owner", tag=QUESTION)
            tensor = node.recv(source="owner", tag=TENSOR, timeout=TIMEOUT)
            print(f"{name}: a tensor, its sum is {tensor.sum()}")
        except transport.AuthenticationError as error:
            print(f"{name}: no link, hence no tensor: {error}")
        node.connect(order["kms"], peer="kms", timeout=TIMEOUT)
        keys = AttestedKeys(RemoteKeyService(node, "kms"), attester)
        try:
            key, ciphertext = keys.generate_data_key(KEY, PURPOSE)
            same = keys.decrypt(ciphertext, PURPOSE) == key
            print(f"{name}: a data key of {len(key)} bytes; decrypt gives it again: {same}")
        except transport.PeerRefusedError as error:
            print(f"{name}: no key: {error}")


def node_named(name: str, trust: transport.Trust) -> transport.Node:
    """A node with an identity of its own."""
    return transport.Node(name, identity=transport.Identity.generate(), trust=trust)


if __name__ == "__main__":
    # Where evidence is refused, only the log of the side that refuses says why.
    logging.basicConfig(stream=sys.stdout, format="  log: %(message).100s")
    work() if sys.argv[1:] == ["worker"] else main()
