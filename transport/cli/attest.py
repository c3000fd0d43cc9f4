"""`sealfabric attest init | measure | verify`: attestation at the command line.

`verify` ends with 0 if the document is accepted, 1 if it is refused, and 2 if it, the
policy or the root cannot be read, so that a script can tell a verdict from a mistake.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from ..errors import UsageError
from ..identity.attestation import (
    UNCHECKED,
    AttestationPolicy,
    Attested,
    EmbeddedAuthority,
    Measurement,
    Refusal,
    RefusedEvidenceError,
    Root,
    Verifier,
    measure,
)
from ..identity.attestation.authority import MODEL
from ..identity.attestation.chain import CertificateSummary, summaries
from ..identity.attestation.cose import parse as parse_envelope
from ..identity.attestation.document import Document
from ..identity.attestation.document import parse as parse_document
from ..identity.attestation.roots import read_small_file

ACCEPTED, REFUSED, UNREADABLE = 0, 1, 2
SHOWN: Final = 96  # hexadecimal digits of a field; the rest is in --json
DOCUMENT_LIMIT: Final = 1024 * 1024  # bytes read of a file, before it is judged too large

_UNREADABLE: Final = frozenset({Refusal.MALFORMED, Refusal.TOO_LARGE, Refusal.MISSING})
_STATUS: Final = {"accepted": ACCEPTED, "refused": REFUSED, "unreadable": UNREADABLE}
_AUTHENTICITY_ALONE: Final = (
    "authenticity alone: no policy was given, so any program is accepted (--policy FILE)"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of this command."""
    commands = parser.add_subparsers(dest="command", required=True)
    init = commands.add_parser("init", help="make the authority of embedded attesters")
    init.add_argument("folder", type=Path, metavar="DIR", help="where its four files go")
    measured = commands.add_parser("measure", help="print what an embedded attester measures")
    measured.add_argument(
        "script", type=Path, nargs="?", metavar="SCRIPT", help="a program's file or folder"
    )
    measured.add_argument("--manifest", action="store_true", help="print every measured line")
    measured.add_argument("--json", action="store_true", help="print registers as JSON")
    verify = commands.add_parser("verify", help="verify an attestation document")
    verify.add_argument("document", type=Path, metavar="DOC", help="a binary document")
    verify.add_argument("--policy", type=Path, metavar="FILE", help="what it has to attest (JSON)")
    verify.add_argument(
        "--at",
        type=_moment,
        metavar="ISO-TIME",
        help="judge it as of then, such as 2024-09-07T14:37:39Z; by default, now",
    )
    verify.add_argument("--allow-debug", action="store_true", help="accept debug mode")
    verify.add_argument(
        "--root",
        type=Path,
        metavar="PEM",
        help="the root that its chain must start from; by default the policy's, or Nitro's G1",
    )
    verify.add_argument("--json", action="store_true", help="print one JSON object")


def run(arguments: argparse.Namespace) -> int:
    """Run one of the three; return the exit status."""
    if arguments.command == "init":
        return _init(arguments.folder)
    if arguments.command == "measure":
        return _measure(arguments)
    return _verify(arguments)


def _init(folder: Path) -> int:
    root = EmbeddedAuthority.create(folder, now=time.time())
    print(f"authority    {folder}: root.pem, root.key, signer.pem, signer.key (keys: mode 0600)")
    print(f"root         SHA-256 {root.fingerprint}")
    print(f"This is a {MODEL}: it shows the flow of attestation and proves no machine.")
    print(
        "Nodes need root.pem, signer.pem and signer.key; verifiers need root.pem in their policy."
    )
    print("Keep root.key elsewhere.")
    return 0


def _measure(arguments: argparse.Namespace) -> int:
    found = measure(arguments.script)
    registers = {f"PCR{index}": value.hex() for index, value in found.registers().items()}
    if arguments.json:
        shown: dict[str, Any] = {"pcrs": registers, "model": MODEL}
        if arguments.manifest:
            shown["manifest"] = found.manifest.splitlines()
        print(json.dumps(shown, indent=2))
        return 0
    _print_measurement(found, registers, with_manifest=arguments.manifest)
    return 0


def _print_measurement(
    found: Measurement, registers: dict[str, str], *, with_manifest: bool
) -> None:
    if with_manifest:
        print(found.manifest)
    groups = (
        "package, environment and script",
        "Python, package and environment",
        "script" if found.application else "no script was given",
    )
    for (name, value), group in zip(registers.items(), groups, strict=True):
        print(f"{name}  {value}  {group}")
    print(f"A {MODEL}: what an embedded attester says of the program that it is part of.")


def _verify(arguments: argparse.Namespace) -> int:
    try:
        evidence = read_small_file(arguments.document, DOCUMENT_LIMIT)
        policy = None if arguments.policy is None else AttestationPolicy.load(arguments.policy)
        roots = None if arguments.root is None else [Root.load(arguments.root)]
        moment = time.time() if arguments.at is None else arguments.at
        verifier = Verifier(
            policy, clock=lambda: moment, roots=roots, allow_debug=arguments.allow_debug
        )
        report = _judged(verifier, evidence)
    except UsageError as error:
        print(f"sealfabric attest verify: {error}", file=sys.stderr)
        return UNREADABLE
    report["judged_at"] = _iso(moment)
    report["policy"] = None if policy is None else policy.hash.hex()
    if arguments.json:
        print(json.dumps(report, indent=2))
    else:
        _print_report(report)
    return _STATUS[report["verdict"]]


def _judged(verifier: Verifier, evidence: bytes) -> dict[str, Any]:
    """Return what there is to say of a document, proven or not, and the verdict on it."""
    try:
        attested = verifier.verify(
            evidence, public_key=UNCHECKED, user_data=UNCHECKED, nonce=UNCHECKED
        )
    except RefusedEvidenceError as refusal:
        unreadable = refusal.reason in _UNREADABLE
        verdict = {
            "verdict": "unreadable" if unreadable else "refused",
            "reason": refusal.reason.value,
            "detail": refusal.detail,
            "proven": False,
        }
        return verdict | _unproven(evidence)
    kind = "Nitro hardware" if attested.hardware else "not Nitro hardware"
    verdict = {"verdict": "accepted", "proven": True, "kind": kind, "root": attested.root}
    return verdict | _facts(attested, attested.timestamp, attested.chain)


def _unproven(evidence: bytes) -> dict[str, Any]:
    """Return what a refused document claims, as far as it can be read at all."""
    try:
        claims = parse_document(parse_envelope(evidence).payload)
    except RefusedEvidenceError:
        return {}
    chain = summaries((*claims.cabundle, claims.certificate))
    return _facts(claims, claims.timestamp_ms / 1000, chain)


def _facts(
    claims: Attested | Document, made: float, chain: Sequence[CertificateSummary]
) -> dict[str, Any]:
    return {
        "module_id": claims.module_id,
        "made_at": _iso(made),
        "debug": claims.debug,
        "pcrs": {str(index): value.hex() for index, value in claims.pcrs.items()},
        "chain": [
            {
                "subject": certificate.subject,
                "not_before": _iso(certificate.not_before),
                "not_after": _iso(certificate.not_after),
                "sha256": certificate.fingerprint,
            }
            for certificate in chain
        ],
        "public_key": _hex(claims.public_key),
        "user_data": _hex(claims.user_data),
        "nonce": _hex(claims.nonce),
    }


def _print_report(report: dict[str, Any]) -> None:
    if "module_id" in report:
        if not report["proven"]:
            print("What follows is what the document claims. Nothing of it is proven.")
        _print_facts(report)
    print(f"judged      as of {report['judged_at']}")
    if report["verdict"] != "accepted":
        print(f"verdict     {report['verdict']}: {report['reason']}: {report['detail']}")
        return
    scope = _AUTHENTICITY_ALONE if report["policy"] is None else f"policy {report['policy']}"
    print(f"verdict     accepted: {scope}")


def _print_facts(facts: dict[str, Any]) -> None:
    print(f"module      {facts['module_id']}")
    print(f"kind        {facts.get('kind', 'unproven')}{', debug mode' if facts['debug'] else ''}")
    print(f"made        {facts['made_at']}")
    zeros = [index for index, value in facts["pcrs"].items() if not value.strip("0")]
    for index, value in facts["pcrs"].items():
        if index not in zeros:
            print(f"PCR{index:<9}{value}")
    if zeros:
        print(f"zero        PCR {', '.join(zeros)}")
    for certificate in facts["chain"]:
        print(f"chain       {certificate['subject']}")
        print(f"            {certificate['not_before']} to {certificate['not_after']}")
    if "root" in facts:
        print(f"root        SHA-256 {facts['root']}")
    for name in ("public_key", "user_data", "nonce"):
        value = facts[name]
        shown = "none" if value is None else f"{len(value) // 2} bytes  {value[:SHOWN]}"
        print(f"{name:<12}{shown}{'…' if value and len(value) > SHOWN else ''}")


def _moment(text: str) -> float:
    """Read an ISO 8601 time; one without a zone is UTC."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not an ISO 8601 time") from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _iso(moment: float) -> str:
    try:
        return datetime.fromtimestamp(moment, UTC).isoformat(timespec="milliseconds")
    except (ValueError, OverflowError, OSError):  # a document may claim any time at all
        return f"{moment:.3f} seconds since 1970"


def _hex(value: bytes | None) -> str | None:
    return None if value is None else value.hex()
