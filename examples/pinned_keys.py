"""Identities in files, peers pinned by public key, and an impostor that stays outside.

    python examples/pinned_keys.py

Each node loads its own identity and a trust file that names its peers. A node with
another key cannot even read who is calling it.
"""

from __future__ import annotations

import base64
import json
import tempfile
from pathlib import Path

import numpy as np

import transport

TIMEOUT = 30.0  # seconds


def main() -> None:
    """Make files as `sealfabric keygen` does, link with them, then meet an impostor."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        public = {peer: make_identity(folder, peer) for peer in ("ada", "bob")}
        write_trust(folder / "trust.json", public)
        with load_node(folder, "ada") as ada:
            with load_node(folder, "bob") as bob:
                ada.connect(bob.addresses, peer="bob", timeout=TIMEOUT)
                ada.send(np.ones(4), to="bob", timeout=TIMEOUT)
                print("bob received", bob.recv(source="ada", timeout=TIMEOUT))
            meet_impostor(ada, transport.Trust.load(folder / "trust.json"))


def make_identity(folder: Path, name: str) -> str:
    """Write a private identity file; return the public key that peers are to pin."""
    identity = transport.Identity.generate()
    identity.save(folder / f"{name}.key")
    print(f"{name} is {identity.fingerprint}")
    return base64.b64encode(identity.public_key).decode()


def write_trust(path: Path, public: dict[str, str]) -> None:
    """Write the file that `Trust.load` reads; only its owner may write to it."""
    path.write_text(json.dumps({"peers": public}), encoding="utf-8")
    path.chmod(0o600)


def load_node(folder: Path, name: str) -> transport.Node:
    """A node from its two files."""
    identity = transport.Identity.load(folder / f"{name}.key")
    return transport.Node(
        name, identity=identity, trust=transport.Trust.load(folder / "trust.json")
    )


def meet_impostor(ada: transport.Node, trust: transport.Trust) -> None:
    """Somebody took bob's place on the network, but has not bob's key."""
    stranger = transport.Identity.generate()
    with transport.Node("bob", identity=stranger, trust=trust) as impostor:
        try:
            ada.connect(impostor.addresses, peer="bob", timeout=1.0)
        except transport.HandshakeError:
            print("the impostor was not linked; it counted", dict(impostor.stats().drops))


if __name__ == "__main__":
    main()
