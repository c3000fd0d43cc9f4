"""Keys that only an attested program can open: one interface, our service, and AWS's.

    interface     `KeyService`: what every key service offers; what binds a request
    recipient     `AttestedKeys`: a program's side: a fresh key for each call, attested
    embedded      `EmbeddedKeyService`: our service: who may have which key, written down
    challenge     what makes evidence good once
    store         keys in an SQLite file, wrapped
    unlock        passphrase or key file to the keys that wrap
    policy        a key's attestation policy, as the store keeps it
    datakey       a data key's ciphertext
    audit         the log: append-only, chained by hashes
    folder        `KeyFolder`: store and log together, and what an operator does to them
    messages      requests and answers over a sealed link
    cms, ber      the envelope that an answer comes in
    aws           AWS KMS, through boto3
    xks, sigv4, external   an external key store for AWS KMS: its calls, signatures, ciphertexts

Nothing here opens a socket or reads a clock: serving is `transport.services`.
"""

from __future__ import annotations

from .audit import AuditError, AuditLog, AuditReport, Head
from .aws import AwsKeyService
from .embedded import EmbeddedKeyService, Reason
from .folder import KeyFolder, verify_folder
from .interface import DataKey, EncryptionContext, KeyService
from .policy import policy_from, policy_text
from .recipient import AttestedKeys
from .sigv4 import Credential
from .store import KeyRecord, KeyStore, KeyStoreError, Purpose, UnknownKeyError
from .unlock import Unlocking
from .xks import ExternalPolicy, XksProxy

__all__ = [
    "AttestedKeys",
    "AuditError",
    "AuditLog",
    "AuditReport",
    "AwsKeyService",
    "Credential",
    "DataKey",
    "EmbeddedKeyService",
    "EncryptionContext",
    "ExternalPolicy",
    "Head",
    "KeyFolder",
    "KeyRecord",
    "KeyService",
    "KeyStore",
    "KeyStoreError",
    "Purpose",
    "Reason",
    "UnknownKeyError",
    "Unlocking",
    "XksProxy",
    "policy_from",
    "policy_text",
    "verify_folder",
]
