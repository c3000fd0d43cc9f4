"""The embedded attester: documents of the same format that say that they are a model."""

from __future__ import annotations

import copy
import hashlib
import os
import pickle
import stat
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import cbor2
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA384

from support.attestation import NOW, accept
from transport.errors import UsageError
from transport.identity.attestation import (
    AttestationPolicy,
    AttesterError,
    EmbeddedAttester,
    EmbeddedAuthority,
    Refusal,
    RefusedEvidenceError,
    Verifier,
    measure,
)

FILES = {"root.pem": 0o644, "root.key": 0o600, "signer.pem": 0o644, "signer.key": 0o600}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    EmbeddedAuthority.create(tmp_path / "authority", now=NOW)
    return tmp_path / "authority"


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "program.py"
    path.write_text("print(1)\n", encoding="utf-8")
    return path


def attester(folder: Path, script: Path, *, now: float = NOW, **more: Any) -> EmbeddedAttester:
    return EmbeddedAttester.load(folder, script=script, clock=lambda: now, **more)


def policy(made: EmbeddedAttester, **more: Any) -> AttestationPolicy:
    return AttestationPolicy({0: [made.pcrs[0]], 8: [made.pcrs[8]]}, roots=[made.root], **more)


# --- documents ----------------------------------------------------------------------------


def test_a_document_satisfies_the_policy_that_was_made_for_it(folder: Path, script: Path) -> None:
    made = attester(folder, script)
    judge = Verifier(policy(made), clock=lambda: NOW)
    evidence = made.evidence(b"key", b"data", b"nonce")
    attested = judge.verify(evidence, public_key=b"key", user_data=b"data", nonce=b"nonce")
    assert attested.pcrs == made.pcrs
    assert attested.pcrs[0] == measure(script).pcr0
    assert attested.signer == made.pcrs[8]
    assert not attested.hardware
    assert not attested.debug
    assert len(evidence) < 7168


def test_a_document_verifies_by_an_independent_path(folder: Path, script: Path) -> None:
    # Nothing of the package reads it here: plain CBOR, plain X.509, and the public text.
    evidence = attester(folder, script).evidence(b"key", None, b"nonce")
    protected, unprotected, payload, signature = cbor2.loads(evidence)
    assert cbor2.loads(protected) == {1: -35}
    assert unprotected == {}
    claims = cbor2.loads(payload)
    assert list(claims) == [
        *("module_id", "digest", "timestamp", "pcrs", "certificate", "cabundle"),
        *("public_key", "user_data", "nonce"),
    ]
    assert (claims["public_key"], claims["user_data"], claims["nonce"]) == (b"key", None, b"nonce")
    assert claims["timestamp"] == NOW * 1000
    chain = [
        x509.load_der_x509_certificate(der) for der in (*claims["cabundle"], claims["certificate"])
    ]
    assert chain[0].fingerprint(SHA384()) == x509.load_pem_x509_certificate(
        (folder / "root.pem").read_bytes()
    ).fingerprint(SHA384())
    for issuer, issued in pairwise(chain):
        issued.verify_directly_issued_by(issuer)
    key = chain[-1].public_key()
    assert isinstance(key, EllipticCurvePublicKey)
    r, s = int.from_bytes(signature[:48], "big"), int.from_bytes(signature[48:], "big")
    covered = cbor2.dumps(["Signature1", protected, b"", payload])
    key.verify(encode_dss_signature(r, s), covered, ECDSA(SHA384()))


def test_every_document_says_that_it_is_a_model(folder: Path, script: Path) -> None:
    made = attester(folder, script)
    attested = accept(
        made.evidence(None, None, None), Verifier(None, clock=lambda: NOW, roots=[made.root])
    )
    assert "MODEL, not hardware" in attested.module_id
    for certificate in attested.chain:
        assert "MODEL\\, not hardware" in certificate.subject
    assert "MODEL, not hardware" in repr(made)


def test_nobody_takes_its_root_for_nitros(folder: Path, script: Path) -> None:
    evidence = attester(folder, script).evidence(None, None, None)
    with pytest.raises(RefusedEvidenceError) as caught:
        accept(evidence, Verifier(None, clock=lambda: NOW))
    assert caught.value.reason is Refusal.FOREIGN_ROOT


def test_pcr_8_measures_the_signer(folder: Path, script: Path, tmp_path: Path) -> None:
    made = attester(folder, script)
    signer = x509.load_pem_x509_certificate((folder / "signer.pem").read_bytes())
    digest = signer.fingerprint(SHA384())
    assert made.pcrs[8] == hashlib.sha384(bytes(48) + digest).digest()
    EmbeddedAuthority.create(tmp_path / "another", now=NOW)
    assert attester(tmp_path / "another", script).pcrs[8] != made.pcrs[8]


def test_a_changed_script_is_refused(folder: Path, script: Path) -> None:
    approved = policy(attester(folder, script))
    script.write_text("print(2)\n", encoding="utf-8")
    changed = attester(folder, script).evidence(None, None, None)
    with pytest.raises(RefusedEvidenceError) as caught:
        accept(changed, Verifier(approved, clock=lambda: NOW))
    assert caught.value.reason is Refusal.PCR


def test_debug_mode_is_like_an_enclaves(folder: Path, script: Path) -> None:
    made = attester(folder, script, debug=True)
    assert {made.pcrs[index] for index in (0, 1, 2)} == {bytes(48)}
    judge = Verifier(AttestationPolicy({8: [made.pcrs[8]]}, roots=[made.root]), clock=lambda: NOW)
    with pytest.raises(RefusedEvidenceError) as caught:
        accept(made.evidence(None, None, None), judge)
    assert caught.value.reason is Refusal.DEBUG
    timed = EmbeddedAttester.load(folder, script=script, debug=True).timed_by(lambda: NOW)
    assert timed.pcrs == made.pcrs


def test_certificates_of_documents_are_short_lived_and_renewed(folder: Path, script: Path) -> None:
    now = NOW
    made = EmbeddedAttester.load(folder, script=script, clock=lambda: now)

    def leaf() -> x509.Certificate:
        payload = cbor2.loads(cbor2.loads(made.evidence(None, None, None))[2])
        return x509.load_der_x509_certificate(payload["certificate"])

    first = leaf()
    assert leaf() == first
    lifetime = first.not_valid_after_utc - first.not_valid_before_utc
    assert lifetime.total_seconds() <= 2 * 3600
    now += 1801
    second = leaf()
    assert second != first
    assert second.public_key() != first.public_key()
    now -= 120  # a clock that was set back
    assert leaf() not in (first, second)


# --- clocks and files, told apart at the start --------------------------------------------


def test_without_a_clock_it_says_so(folder: Path, script: Path) -> None:
    made = EmbeddedAttester.load(folder, script=script)
    with pytest.raises(UsageError, match="has no clock"):
        made.evidence(None, None, None)
    assert made.timed_by(lambda: NOW).evidence(None, None, None)
    timed = attester(folder, script)
    assert timed.timed_by(lambda: 0.0) is timed


@pytest.mark.parametrize("apart", [-3600.0, 3 * 365 * 86400.0])
def test_a_clock_at_which_no_document_could_verify_is_refused_at_the_start(
    folder: Path, script: Path, apart: float
) -> None:
    with pytest.raises(UsageError, match="and this clock says"):
        attester(folder, script, now=NOW + apart)


def test_an_attester_that_outlives_its_signer_fails_on_this_side(
    folder: Path, script: Path
) -> None:
    now = NOW
    made = EmbeddedAttester.load(folder, script=script, clock=lambda: now)
    now += 3 * 365 * 86400.0
    with pytest.raises(AttesterError, match="signer's certificate is valid from"):
        made.evidence(None, None, None)


def test_the_authority_is_written_privately_and_never_over_another(folder: Path) -> None:
    assert {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == FILES
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(UsageError, match="exists already; it was left as it is"):
        EmbeddedAuthority.create(folder, now=NOW)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_half_made_authority_is_removed(tmp_path: Path) -> None:
    (tmp_path / "signer.pem").write_text("mine", encoding="utf-8")
    with pytest.raises(UsageError, match="exists already"):
        EmbeddedAuthority.create(tmp_path, now=NOW)
    assert [path.name for path in tmp_path.iterdir()] == ["signer.pem"]
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="file"):
        EmbeddedAuthority.create(tmp_path / "file" / "below", now=NOW)


def test_a_generous_umask_gives_nothing_away(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        EmbeddedAuthority.create(tmp_path / "authority", now=NOW)
    finally:
        os.umask(before)
    for path in (tmp_path / "authority").iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == FILES[path.name]


def test_a_node_needs_no_root_key(folder: Path, script: Path) -> None:
    (folder / "root.key").unlink()
    assert attester(folder, script).evidence(None, None, None)


def readable_by_others(folder: Path) -> str:
    (folder / "signer.key").chmod(0o640)
    return "mode 0640"


def no_key(folder: Path) -> str:
    (folder / "signer.key").write_text("nothing", encoding="utf-8")
    return "not an unencrypted private key"


def absent(folder: Path) -> str:
    (folder / "root.pem").unlink()
    return "cannot be read"


def key_of_another(folder: Path) -> str:
    (folder / "signer.key").write_bytes((folder / "root.key").read_bytes())
    return "not the key of signer.pem"


def root_of_another(folder: Path) -> str:
    EmbeddedAuthority.create(folder / "another", now=NOW)
    (folder / "root.pem").write_bytes((folder / "another" / "root.pem").read_bytes())
    return "not issued by root.pem"


@pytest.mark.parametrize(
    "spoil", [readable_by_others, no_key, absent, key_of_another, root_of_another]
)
def test_an_unusable_authority_is_refused_at_the_start(
    folder: Path, script: Path, spoil: Callable[[Path], str]
) -> None:
    complaint = spoil(folder)
    with pytest.raises(UsageError, match=complaint):
        attester(folder, script)


def test_keys_are_neither_shown_nor_copied(folder: Path, script: Path) -> None:
    made = attester(folder, script)
    made.evidence(None, None, None)
    for holder in (made, EmbeddedAuthority.load(folder)):
        with pytest.raises(TypeError, match="cannot be copied or pickled"):
            pickle.dumps(holder)
        with pytest.raises(TypeError, match="cannot be copied or pickled"):
            copy.copy(holder)
        assert "key" not in repr(holder).lower()


def test_a_field_that_is_too_long_is_refused(folder: Path, script: Path) -> None:
    with pytest.raises(UsageError, match="`nonce` has 1025 bytes"):
        attester(folder, script).evidence(None, None, bytes(1025))


def test_the_running_program_is_what_is_measured_by_default(folder: Path) -> None:
    made = EmbeddedAttester.load(folder, clock=lambda: NOW)
    assert made.measurement.application
