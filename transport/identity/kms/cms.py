"""The answer of a key service: CMS EnvelopedData for one RSA recipient (RFC 5652 section 6).

The profile is that of AWS KMS's `CiphertextForRecipient`: EnvelopedData version 2 with
one KeyTransRecipientInfo version 2, named by subject key identifier; RSAES-OAEP with
SHA-256 and MGF1 of SHA-256 (RFC 4056); AES-256-CBC; content in chunks or in one piece.
Anything else is refused, also what RFC 5652 would allow.

CBC carries no tag, so a reader that told *how* an envelope is wrong would be an oracle
for its content (RFC 3218, Vaudenay 2002). Every failure is one error with one text, and
a wrong RSA padding is followed by the same steps as a right one. What authenticates an
answer is the sealed link, or TLS, that it came over.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from typing import Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ...errors import AuthenticationError
from . import ber
from .ber import BerError, Element

CONTENT_LIMIT: Final = 8 * 1024  # bytes of plaintext; KMS releases at most 4096
REFUSED: Final = "the key service's answer cannot be opened"

_KEY_BYTES: Final = 32
_BLOCK: Final = 16
_RECIPIENT_ID_LIMIT: Final = 64  # bytes; 32 from AWS, 20 from OpenSSL

_ENVELOPED_DATA: Final = ber.object_identifier("1.2.840.113549.1.7.3")
_DATA: Final = ber.object_identifier("1.2.840.113549.1.7.1")
_RSAES_OAEP: Final = ber.object_identifier("1.2.840.113549.1.1.7")
_MGF1: Final = ber.object_identifier("1.2.840.113549.1.1.8")
_SHA256: Final = ber.object_identifier("2.16.840.1.101.3.4.2.1")
_AES256_CBC: Final = ber.object_identifier("2.16.840.1.101.3.4.1.42")
_VERSION_2: Final = ber.write(ber.INTEGER, b"\x02")
_OAEP: Final = padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Envelope:
    """The fields of an answer that are needed to open it."""

    recipient_id: bytes
    encrypted_key: bytes
    iv: bytes
    ciphertext: bytes


def recipient_id(public_key: rsa.RSAPublicKey) -> bytes:
    """Return what names a recipient in our envelopes: SHA-256 of its SubjectPublicKeyInfo."""
    encoded = public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(encoded).digest()


def seal_envelope(plaintext: bytes | bytearray, recipient: rsa.RSAPublicKey) -> bytes:
    """Return `plaintext` in an envelope that only the holder of the private key opens.

    It is written as AWS KMS writes it: BER, indefinite lengths, content in a chunk.
    """
    key, iv = os.urandom(_KEY_BYTES), os.urandom(_BLOCK)
    fill = _BLOCK - len(plaintext) % _BLOCK
    encryptor = Cipher(algorithms.AES(key), modes.CBC(iv)).encryptor()
    ciphertext = encryptor.update(bytes(plaintext) + bytes((fill,)) * fill) + encryptor.finalize()
    envelope = Envelope(
        recipient_id=recipient_id(recipient),
        encrypted_key=recipient.encrypt(key, _OAEP),
        iv=iv,
        ciphertext=ciphertext,
    )
    return write_envelope(envelope)


def open_envelope(encoded: bytes, private_key: rsa.RSAPrivateKey) -> bytearray:
    """Return the content of an envelope, in memory that the caller may overwrite.

    Raises:
        AuthenticationError: it cannot be opened. Nothing says why.
    """
    envelope = read_envelope(encoded)
    # With a wrong padding the same work is done under a key that nobody chose.
    key, key_is_genuine = os.urandom(_KEY_BYTES), False
    try:
        opened = private_key.decrypt(envelope.encrypted_key, _OAEP)
        if len(opened) == _KEY_BYTES:
            key, key_is_genuine = opened, True
    except ValueError:
        pass
    decryptor = Cipher(algorithms.AES(key), modes.CBC(envelope.iv)).decryptor()
    padded = bytearray(decryptor.update(envelope.ciphertext) + decryptor.finalize())
    fill = padded[-1]
    wrong = 0 if 1 <= fill <= _BLOCK else 1
    for place in range(1, _BLOCK + 1):
        # Each byte is looked at, whichever is wrong first.
        wrong |= (padded[-place] ^ fill) if place <= fill else 0
    if wrong or not key_is_genuine:
        raise AuthenticationError(REFUSED)
    del padded[-fill:]
    return padded


def read_envelope(encoded: bytes) -> Envelope:
    """Return the fields of an envelope of this profile.

    Raises:
        AuthenticationError: it is not one.
    """
    try:
        return _envelope(ber.read(encoded))
    except BerError:
        raise AuthenticationError(REFUSED) from None


def write_envelope(envelope: Envelope, *, chunk: int = 4096) -> bytes:
    """Return `envelope` in BER, its ciphertext in chunks of `chunk` bytes, in one piece for 0."""
    ciphertext = envelope.ciphertext
    if chunk:
        pieces = (ciphertext[at : at + chunk] for at in range(0, len(ciphertext), chunk))
        content = ber.write_indefinite(
            ber.CONTEXT, (ber.write(ber.OCTET_STRING, piece) for piece in pieces)
        )
    else:
        content = ber.write(ber.CONTEXT, ciphertext)
    algorithm = ber.write_constructed(
        ber.SEQUENCE, (_AES256_CBC, ber.write(ber.OCTET_STRING, envelope.iv))
    )
    data = ber.write_indefinite(
        ber.SEQUENCE,
        (
            _VERSION_2,
            ber.write_constructed(ber.SET, (_written_recipient(envelope),)),
            ber.write_indefinite(ber.SEQUENCE, (_DATA, algorithm, content)),
        ),
    )
    explicit = ber.write_indefinite(ber.CONTEXT, (data,))
    return ber.write_indefinite(ber.SEQUENCE, (_ENVELOPED_DATA, explicit))


def _written_recipient(envelope: Envelope) -> bytes:
    def sequence(*parts: bytes) -> bytes:
        return ber.write_constructed(ber.SEQUENCE, parts)

    sha256 = sequence(_SHA256, ber.write(ber.NULL, b""))
    parameters = sequence(
        ber.write_constructed(ber.CONTEXT, (sha256,)),
        ber.write_constructed(ber.CONTEXT | 1, (sequence(_MGF1, sha256),)),
    )
    return sequence(
        _VERSION_2,
        ber.write(ber.CONTEXT, envelope.recipient_id),
        sequence(_RSAES_OAEP, parameters),
        ber.write(ber.OCTET_STRING, envelope.encrypted_key),
    )


def _envelope(content_info: Element) -> Envelope:
    kind, wrapped = _fields(content_info, 2)
    _require(_is(kind, _ENVELOPED_DATA))
    (data,) = _fields(wrapped, 1, tag=ber.CONTEXT)
    version, recipients, content = _fields(data, 3)
    _require(_is(version, _VERSION_2))
    # One recipient: a second one would be somebody else who can read the key.
    (recipient,) = _fields(recipients, 1, tag=ber.SET)
    name, encrypted_key = _recipient(recipient)
    iv, ciphertext = _content(content)
    return Envelope(recipient_id=name, encrypted_key=encrypted_key, iv=iv, ciphertext=ciphertext)


def _recipient(recipient: Element) -> tuple[bytes, bytes]:
    version, identifier, algorithm, encrypted_key = _fields(recipient, 4)
    _require(_is(version, _VERSION_2))
    name = identifier.octets(ber.CONTEXT)
    _require(0 < len(name) <= _RECIPIENT_ID_LIMIT)
    scheme, parameters = _fields(algorithm, 2)
    _require(_is(scheme, _RSAES_OAEP))
    # The defaults of RSAES-OAEP are SHA-1, so both parameters have to be there.
    digest, mask = _fields(parameters, 2)
    _require(_is_sha256(_only(digest, ber.CONTEXT)))
    generator, mask_digest = _fields(_only(mask, ber.CONTEXT | 1), 2)
    _require(_is(generator, _MGF1) and _is_sha256(mask_digest))
    return name, encrypted_key.octets()


def _content(content: Element) -> tuple[bytes, bytes]:
    kind, algorithm, encrypted = _fields(content, 3)
    _require(_is(kind, _DATA))
    cipher, parameters = _fields(algorithm, 2)
    _require(_is(cipher, _AES256_CBC))
    iv, ciphertext = parameters.octets(), encrypted.octets(ber.CONTEXT)
    _require(len(iv) == _BLOCK)
    _require(0 < len(ciphertext) <= CONTENT_LIMIT + _BLOCK and len(ciphertext) % _BLOCK == 0)
    return iv, ciphertext


def _fields(element: Element, count: int, *, tag: int = ber.SEQUENCE) -> tuple[Element, ...]:
    fields = element.sequence(tag)
    _require(len(fields) == count)
    return fields


def _only(element: Element, tag: int) -> Element:
    (inner,) = _fields(element, 1, tag=tag)
    return inner


def _is_sha256(element: Element) -> bool:
    fields = element.sequence()
    # RFC 4055 section 2.1: the parameters are NULL or absent.
    return (
        1 <= len(fields) <= 2
        and _is(fields[0], _SHA256)
        and all(each.primitive(ber.NULL) == b"" for each in fields[1:])
    )


def _is(element: Element, der: bytes) -> bool:
    """Whether an element is the primitive one that `der` encodes."""
    tag, content = der[0], der[2:]
    return element.tag == tag and not element.constructed and element.content == content


def _require(condition: bool) -> None:
    if not condition:
        raise BerError("another value was expected")
