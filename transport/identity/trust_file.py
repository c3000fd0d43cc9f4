"""The trust file: a JSON object that says whom a process trusts (docs/reference/trust-file.md).

Parsed once, here, into a `TrustFile`; `Trust` takes what it holds. Invariants: a key that
is not understood, or occurs twice, is an error and not ignored, for a misspelt or newer
condition would else fail open; and a file that others may write to is not believed.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UsageError
from .keys import StrPath

if TYPE_CHECKING:  # attestation is imported where it is used: most nodes need none of it
    from .attestation import AttestationPolicy, Attester

__all__ = ["TrustFile", "rank_name"]

FILE_LIMIT = 4 * 1024 * 1024  # bytes

_KEYS = {"peers", "ranks", "secret_file", "policy_file", "attester"}
_ATTESTERS = {"nitro": {"kind"}, "embedded": {"kind", "folder", "script"}}


def rank_name(rank: int) -> str:
    """The name of a job's node, where nobody gave it another one."""
    return f"rank-{rank}"


@dataclass(frozen=True, slots=True)
class TrustFile:
    """What one trust file says; the files that it names are not read yet."""

    path: str
    peers: Mapping[str, bytes] | None
    secret_file: str | None
    policy_file: str | None
    attester_fields: Mapping[str, str] | None

    @classmethod
    def read(cls, path: StrPath) -> TrustFile:
        """Return the content of the file at `path`.

        Raises:
            UsageError: it cannot be read, others may write to it, or it is malformed.
        """
        name = os.fspath(path)
        document = _object_in(name)
        # A null is refused below: it must not read as "no condition".
        return cls(
            path=name,
            peers=_peers(document, name),
            secret_file=_path_in(document, "secret_file", name),
            policy_file=_path_in(document, "policy_file", name),
            attester_fields=_attester_fields(document, name),
        )

    def policy(self) -> AttestationPolicy | None:
        """What every peer must attest, or None.

        Raises:
            UsageError: the policy's file is not usable.
        """
        if self.policy_file is None:
            return None
        from .attestation import AttestationPolicy

        return AttestationPolicy.load(self.policy_file)

    def attester(self) -> Attester | None:
        """What speaks for this process, or None.

        Raises:
            UsageError: the attester's folder is not usable, or its hardware is absent.
        """
        if self.attester_fields is None:
            return None
        from .attestation import EmbeddedAttester, NitroAttester

        fields = self.attester_fields
        if fields["kind"] == "nitro":
            return NitroAttester()
        return EmbeddedAttester.load(fields["folder"], script=fields.get("script"))


def _object_in(name: str) -> dict[str, Any]:
    """The JSON object in a file that only its owner may write to."""
    try:
        with open(name, "rb", opener=_open_without_waiting) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise UsageError(f"{name} is not a regular file")
            if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
                mode = stat.S_IMODE(status.st_mode)
                raise UsageError(
                    f"{name} has mode {mode:04o}; others must not be able to write to it"
                )
            content = file.read(FILE_LIMIT + 1)
    except OSError as error:
        raise UsageError(f"{name} cannot be read: {error.strerror}") from error
    if len(content) > FILE_LIMIT:
        raise UsageError(f"{name} is larger than {FILE_LIMIT} bytes")
    try:
        document = json.loads(content, object_pairs_hook=_object_without_repeats)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{name} is not valid JSON: {error}") from None
    if not isinstance(document, dict):
        raise UsageError(f"{name} must hold a JSON object")
    if unknown := sorted(document.keys() - _KEYS):
        raise UsageError(f"{name} has unknown keys: {', '.join(map(repr, unknown))}")
    return document


def _open_without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC)


def _object_without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    collected = dict(pairs)
    if len(collected) != len(pairs):
        raise ValueError("a key occurs twice in one object")
    return collected


def _peers(document: Mapping[str, Any], name: str) -> dict[str, bytes] | None:
    """Public keys by name, of `peers` and `ranks` together; None where neither is there."""
    if "peers" not in document and "ranks" not in document:
        return None
    peers = document.get("peers", {})
    if not isinstance(peers, dict):
        raise UsageError(f"{name}: `peers` must be an object of names and public keys")
    ranks = document.get("ranks", [])
    if not isinstance(ranks, list):
        raise UsageError(f"{name}: `ranks` must be a list of public keys, that of rank 0 first")
    decoded = {
        peer: _public_key(key, f"the public key of {peer!r}", name) for peer, key in peers.items()
    }
    for rank, key in enumerate(ranks):
        if rank_name(rank) in decoded:
            raise UsageError(f"{name}: rank {rank} is in `ranks`, and in `peers` by its name")
        decoded[rank_name(rank)] = _public_key(key, f"the public key of rank {rank}", name)
    return decoded


def _public_key(key: object, what: str, name: str) -> bytes:
    if not isinstance(key, str):
        raise UsageError(f"{name}: {what} must be a base64 string")
    try:
        return base64.b64decode(key.encode("ascii"), validate=True)
    except (binascii.Error, UnicodeEncodeError):
        raise UsageError(f"{name}: {what} is not valid base64") from None


def _attester_fields(document: Mapping[str, Any], name: str) -> dict[str, str] | None:
    if "attester" not in document:
        return None
    fields = document["attester"]
    kind = fields.get("kind") if isinstance(fields, dict) else None
    if not isinstance(kind, str) or kind not in _ATTESTERS:
        raise UsageError(
            f"{name}: `attester` must be an object with a `kind` of {sorted(_ATTESTERS)}"
        )
    if unknown := sorted(fields.keys() - _ATTESTERS[kind]):
        raise UsageError(f"{name}: `attester` has unknown keys: {unknown}")
    paths = {key: _path_in(fields, key, name) for key in ("folder", "script")}
    if kind == "embedded" and paths["folder"] is None:
        raise UsageError(f"{name}: `folder` must be a path")
    return {"kind": kind, **{key: path for key, path in paths.items() if path is not None}}


def _path_in(fields: Mapping[str, Any], key: str, name: str) -> str | None:
    """A path that a trust file names, or None; relative ones start at its folder."""
    if key not in fields:
        return None
    named = fields[key]
    if not isinstance(named, str) or not named or "\0" in named:
        raise UsageError(f"{name}: `{key}` must be a path")
    return str(Path(name).parent / named)
