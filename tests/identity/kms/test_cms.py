"""Envelopes: real ones parse, ours open in OpenSSL and theirs here, and failures look alike."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from support.kms import recipient
from support.vectors import vectors
from transport.errors import AuthenticationError
from transport.identity.kms import ber, cms
from transport.identity.kms.cms import REFUSED, Envelope

DATA_KEY = bytes(range(32))


@pytest.fixture(scope="module")
def sealed() -> bytes:
    return cms.seal_envelope(DATA_KEY, recipient().public_key())


# --- real answers of AWS KMS -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "chunk"),
    [("awssdk_explicit_indefinite", 4096), ("awssdk_implicit_ctx0_primitive", 0)],
)
def test_a_real_answer_parses_to_its_fields(name, chunk):
    listed = {
        each["name"]: each
        for each in json.loads(vectors("kms/awssdk_parse_vectors.json").read_bytes())
    }[name]
    encoded = vectors(f"kms/{name}.ber").read_bytes()
    assert encoded.hex() == listed["ber"]
    envelope = cms.read_envelope(encoded)
    assert envelope.encrypted_key.hex() == listed["encrypted_key"]
    assert envelope.iv.hex() == listed["iv"]
    assert envelope.ciphertext.hex() == listed["ciphertext"]
    assert len(envelope.recipient_id) == 32
    # The writer follows the same service, to the byte.
    assert cms.write_envelope(envelope, chunk=chunk) == encoded


# --- round trips -----------------------------------------------------------------------------


@given(st.binary(max_size=200))
@settings(max_examples=25, deadline=None)
def test_what_is_sealed_opens(plaintext):
    assert (
        cms.open_envelope(cms.seal_envelope(plaintext, recipient().public_key()), recipient())
        == plaintext
    )


@pytest.mark.parametrize("chunk", [0, 16, 1000])
def test_content_in_chunks_or_in_one_piece(sealed, chunk):
    envelope = cms.read_envelope(sealed)
    assert cms.open_envelope(cms.write_envelope(envelope, chunk=chunk), recipient()) == DATA_KEY


def test_two_envelopes_of_one_key_differ(sealed):
    assert cms.seal_envelope(DATA_KEY, recipient().public_key()) != sealed


# --- OpenSSL -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def openssl(tmp_path_factory):
    """A folder with a certificate of the recipient, and OpenSSL's `cms` command."""
    program = shutil.which("openssl")
    if program is None:
        pytest.skip("the openssl command is not installed")
    folder = tmp_path_factory.mktemp("openssl")
    key = recipient().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (folder / "key.pem").write_bytes(key)

    def call(*arguments: str, content: bytes = b"") -> bytes:
        finished = subprocess.run(
            [program, *arguments],
            input=content,
            cwd=folder,
            capture_output=True,
            timeout=60,
            check=False,
        )
        assert finished.returncode == 0, finished.stderr.decode()
        return finished.stdout

    call(
        *[
            "req",
            "-new",
            "-x509",
            "-key",
            "key.pem",
            "-subj",
            "/CN=recipient",
            "-days",
            "2",
            "-out",
            "cert.pem",
        ]
    )
    return call


def test_openssl_opens_ours(openssl, sealed):
    opened = openssl(
        *["cms", "-decrypt", "-binary", "-inform", "DER", "-inkey", "key.pem"], content=sealed
    )
    assert opened == DATA_KEY


@pytest.mark.parametrize("stream", ["-stream", "-noindef"])
def test_we_open_those_of_openssl(openssl, stream):
    encrypted = openssl(
        *f"cms -encrypt -binary -outform DER -aes-256-cbc -keyid {stream}".split(),
        *["-recip", "cert.pem", "-keyopt", "rsa_padding_mode:oaep"],
        *["-keyopt", "rsa_oaep_md:sha256", "-keyopt", "rsa_mgf1_md:sha256"],
        content=DATA_KEY,
    )
    assert cms.open_envelope(encrypted, recipient()) == DATA_KEY


OAEP = "-keyopt rsa_padding_mode:oaep"
SHA256 = f"{OAEP} -keyopt rsa_oaep_md:sha256 -keyopt rsa_mgf1_md:sha256"


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ("-aes-256-cbc -keyid -recip cert.pem", "the RSA padding of old"),
        (f"-aes-256-cbc -keyid -recip cert.pem {OAEP}", "SHA-1 in the padding"),
        (f"-aes-128-cbc -keyid -recip cert.pem {SHA256}", "another cipher"),
        (f"-aes-256-cbc -recip cert.pem {SHA256}", "a recipient named by issuer and number"),
        (f"-aes-256-cbc -keyid -recip cert.pem {SHA256} -recip cert.pem {SHA256}", "two of them"),
    ],
)
def test_other_profiles_of_openssl_are_refused(openssl, options, what):
    encrypted = openssl(*f"cms -encrypt -binary -outform DER {options}".split(), content=DATA_KEY)
    with pytest.raises(AuthenticationError, match=REFUSED):
        cms.open_envelope(encrypted, recipient())


# --- one error for all -------------------------------------------------------------------------


def with_two_recipients(sealed: bytes) -> bytes:
    data = ber.read(sealed)
    assert data.sequence()
    marker = ber.write(ber.INTEGER, b"\x02")
    at = sealed.index(b"\x31\x82")
    length = int.from_bytes(sealed[at + 2 : at + 4], "big")
    one = sealed[at + 4 : at + 4 + length]
    assert one.startswith(b"\x30\x82")
    assert marker in one
    return sealed[:at] + ber.write_constructed(ber.SET, (one, one)) + sealed[at + 4 + length :]


def flipped(sealed: bytes, field: str) -> bytes:
    envelope = cms.read_envelope(sealed)
    value = getattr(envelope, field)
    changed = bytes((value[0] ^ 1,)) + value[1:]
    return cms.write_envelope(replace(envelope, **{field: changed}))


def encrypted_under_a_short_key(sealed: bytes) -> bytes:
    oaep = padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), None)
    envelope = cms.read_envelope(sealed)
    return cms.write_envelope(
        replace(envelope, encrypted_key=recipient().public_key().encrypt(bytes(16), oaep))
    )


MALFORMED = {
    "truncated": lambda sealed: sealed[:-4],
    "two recipients": with_two_recipients,
    "a changed encrypted key": lambda sealed: flipped(sealed, "encrypted_key"),
    "a wrong padding": lambda sealed: cms.write_envelope(
        replace(cms.read_envelope(sealed), ciphertext=os.urandom(15) + b"\xff")
    ),
    "half a block": lambda sealed: cms.write_envelope(
        replace(cms.read_envelope(sealed), ciphertext=bytes(24))
    ),
    "no content": lambda sealed: cms.write_envelope(
        replace(cms.read_envelope(sealed), ciphertext=b"")
    ),
    "a short IV": lambda sealed: cms.write_envelope(replace(cms.read_envelope(sealed), iv=b"iv")),
    "another cipher": lambda sealed: sealed.replace(
        ber.object_identifier("2.16.840.1.101.3.4.1.42"),
        ber.object_identifier("2.16.840.1.101.3.4.1.2"),
    ),
    "SHA-1 in the padding": lambda sealed: sealed.replace(
        ber.object_identifier("2.16.840.1.101.3.4.2.1"),
        ber.object_identifier("2.16.840.1.101.3.4.2.4"),
    ),
    "another content type": lambda sealed: sealed.replace(
        ber.object_identifier("1.2.840.113549.1.7.3"),
        ber.object_identifier("1.2.840.113549.1.7.6"),
    ),
    "a key of another length": encrypted_under_a_short_key,
    "bytes behind it": lambda sealed: sealed + b"\0",
    "a plaintext": lambda sealed: DATA_KEY,
    "nothing": lambda sealed: b"",
}


@pytest.mark.parametrize("kind", MALFORMED)
def test_every_failure_is_the_same_error(sealed, kind):
    changed = MALFORMED[kind](sealed)
    assert changed != sealed
    with pytest.raises(AuthenticationError) as failed:
        cms.open_envelope(changed, recipient())
    assert (type(failed.value), str(failed.value)) == (AuthenticationError, REFUSED)
    assert failed.value.__cause__ is None


def test_another_key_does_not_open_it(sealed):
    other = rsa.generate_private_key(65537, 2048)
    with pytest.raises(AuthenticationError, match=REFUSED):
        cms.open_envelope(sealed, other)


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_no_damage_raises_anything_else(sealed, data):
    changed = bytearray(sealed)
    for _ in range(data.draw(st.integers(1, 4))):
        changed[data.draw(st.integers(0, len(sealed) - 1))] = data.draw(st.integers(0, 255))
    try:
        opened = cms.open_envelope(bytes(changed), recipient())
    except AuthenticationError as error:
        said = str(error)
    else:
        # CBC carries no tag: a flipped bit of the IV goes through, and so does a length
        # in another form. Nothing longer than the content can come of it.
        said, most = REFUSED, len(cms.read_envelope(bytes(changed)).ciphertext)
        assert len(opened) < most
    assert said == REFUSED


@given(st.binary(max_size=400))
def test_no_input_raises_anything_else(encoded):
    with pytest.raises(AuthenticationError, match=REFUSED):
        cms.read_envelope(encoded)


def test_the_content_is_bounded():
    envelope = Envelope(recipient_id=b"x", encrypted_key=b"y", iv=bytes(16), ciphertext=bytes(16))
    cms.read_envelope(cms.write_envelope(envelope))
    large = replace(envelope, ciphertext=bytes(cms.CONTENT_LIMIT + 32))
    with pytest.raises(AuthenticationError):
        cms.read_envelope(cms.write_envelope(large))


def test_a_recipient_is_named_by_its_public_key(sealed):
    assert cms.read_envelope(sealed).recipient_id == cms.recipient_id(recipient().public_key())
