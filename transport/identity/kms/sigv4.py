"""Verifies AWS Signature Version 4, as the XKS proxy specification uses it (its Appendix A).

A request is signed with a secret that both sides hold: over the method, the path, the
signed headers and a hash of the body, under a key derived from the secret, the date, the
region and the service `kms-xks-proxy`. Nothing is verified here that could be verified
after a partial parse: the header has one shape, and everything else is refused.
"""

from __future__ import annotations

import calendar
import hashlib
import hmac
import json
import os
import re
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from ...errors import UsageError
from ..keys import StrPath, read_private_file

SERVICE: Final = "kms-xks-proxy"
ALGORITHM: Final = "AWS4-HMAC-SHA256"
TOLERANCE: Final = 300.0  # seconds between both clocks, as the specification says

_SCOPE_END: Final = "aws4_request"
_AUTHORIZATION: Final = re.compile(
    rf"{ALGORITHM} Credential=(?P<access>[A-Za-z0-9]{{1,128}})/(?P<date>[0-9]{{8}})"
    rf"/(?P<region>[a-z0-9-]{{1,64}})/{SERVICE}/{_SCOPE_END}, ?"
    r"SignedHeaders=(?P<headers>[a-z0-9;-]{1,512}), ?Signature=(?P<signature>[0-9a-f]{64})"
)
_TIMESTAMP: Final = re.compile(r"[0-9]{8}T[0-9]{6}Z")
_REQUIRED: Final = frozenset({"host", "x-amz-date"})
_ACCESS_KEY: Final = re.compile(r"[A-Z2-7]{20,30}")  # as AWS KMS accepts
_SECRET_KEY: Final = re.compile(r"[A-Za-z0-9/+=]{43,64}")
_URI_PATH: Final = re.compile(r"(/[A-Za-z0-9_-]+)*/kms/xks/v1")
_URI_PATH_LIMIT: Final = 128


class SignatureError(ValueError):
    """A request is not signed by a known secret, now. The detail is for the log."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Credential:
    """What AWS KMS and the proxy share, and the path that it is good for."""

    uri_path: str
    access_key_id: str
    secret_access_key: str = field(repr=False)

    @classmethod
    def generate(cls, prefix: str = "") -> Credential:
        """Return a new credential, for the path `prefix` followed by `/kms/xks/v1`.

        Raises:
            UsageError: `prefix` is not usable.
        """
        alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
        access = "".join(alphabet[octet & 31] for octet in os.urandom(24))
        secret = b64encode(os.urandom(33)).decode("ascii")
        return cls._checked(f"{prefix}/kms/xks/v1", access, secret)

    @classmethod
    def load(cls, path: StrPath) -> Credential:
        """Return the credential in a file as the console of AWS KMS takes it.

        Raises:
            UsageError: it cannot be read, others may access it, or it is none.
        """
        name = os.fspath(path)
        try:
            fields = json.loads(bytes(read_private_file(path)))
            inner = fields["XksProxyAuthenticationCredential"]
            return cls._checked(
                fields["XksProxyUriPath"], inner["AccessKeyId"], inner["RawSecretAccessKey"]
            )
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            if isinstance(error, UsageError):
                raise UsageError(f"{name}: {error}") from None
            raise UsageError(f"{name} is not an XKS proxy configuration file") from None

    @classmethod
    def _checked(cls, uri_path: object, access: object, secret: object) -> Credential:
        if not isinstance(uri_path, str) or not _URI_PATH.fullmatch(uri_path):
            raise UsageError(
                f"a path is /PREFIX/kms/xks/v1, of letters, digits, '-' and '_', "
                f"got {uri_path!r:.80}"
            )
        if len(uri_path) > _URI_PATH_LIMIT:
            raise UsageError(
                f"the path has {len(uri_path)} characters, more than {_URI_PATH_LIMIT}"
            )
        if not isinstance(access, str) or not _ACCESS_KEY.fullmatch(access):
            raise UsageError("an access key id is 20 to 30 of the characters A-Z and 2-7")
        if not isinstance(secret, str) or not _SECRET_KEY.fullmatch(secret):
            raise UsageError("a secret access key is 43 to 64 letters, digits, '/', '+' and '='")
        return cls(uri_path=uri_path, access_key_id=access, secret_access_key=secret)

    def to_json(self) -> str:
        """Return the content of the file that `load` reads. It holds the secret."""
        return json.dumps(
            {
                "XksProxyUriPath": self.uri_path,
                "XksProxyAuthenticationCredential": {
                    "AccessKeyId": self.access_key_id,
                    "RawSecretAccessKey": self.secret_access_key,
                },
            },
            indent=2,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpRequest:
    """One request, parsed as far as HTTP goes."""

    method: str
    path: str  # no query: this API has none
    headers: Sequence[tuple[str, str]]  # names in lower case
    body: bytes = field(repr=False)


def verify_signature(
    request: HttpRequest, credentials: Mapping[str, Credential], now: float
) -> Credential:
    """Return the credential that signed `request`; `now` is in POSIX seconds.

    Raises:
        SignatureError: none did, or not within five minutes of now.
    """
    match = _AUTHORIZATION.fullmatch(_one(request, "authorization"))
    if match is None:
        raise SignatureError("the Authorization header has another shape")
    timestamp = _one(request, "x-amz-date")
    _check_time(timestamp, match["date"], now)
    signed = match["headers"].split(";")
    if signed != sorted(set(signed)) or not _REQUIRED.issubset(signed):
        raise SignatureError(f"these headers are not enough, or unsorted: {match['headers']}")
    credential = credentials.get(match["access"])
    # An unknown name costs what a known one costs, and never succeeds.
    secret = os.urandom(32).hex() if credential is None else credential.secret_access_key
    scope = f"{match['date']}/{match['region']}/{SERVICE}/{_SCOPE_END}"
    digest = hashlib.sha256(_canonical(request, signed).encode("utf-8")).hexdigest()
    key = _signing_key(secret, match["date"], match["region"])
    expected = _hmac(key, f"{ALGORITHM}\n{timestamp}\n{scope}\n{digest}").hex()
    if not hmac.compare_digest(expected, match["signature"]) or credential is None:
        raise SignatureError(f"the signature by {match['access']} does not verify")
    return credential


def _canonical(request: HttpRequest, signed: list[str]) -> str:
    headers = "".join(f"{name}:{' '.join(_one(request, name).split())}\n" for name in signed)
    body = hashlib.sha256(request.body).hexdigest()
    return f"{request.method}\n{request.path}\n\n{headers}\n{';'.join(signed)}\n{body}"


def _check_time(timestamp: str, date: str, now: float) -> None:
    if not _TIMESTAMP.fullmatch(timestamp) or timestamp[:8] != date:
        raise SignatureError("X-Amz-Date is malformed, or of another day than the credential")
    try:
        parsed = datetime.strptime(timestamp, "%Y%m%dT%H%M%SZ")
    except ValueError:
        raise SignatureError("X-Amz-Date is no time") from None
    away = now - calendar.timegm(parsed.timetuple())
    if abs(away) > TOLERANCE:
        raise SignatureError(f"signed {away:.0f} s ago by this clock")


def _one(request: HttpRequest, name: str) -> str:
    """The value of a header that has to be there exactly once."""
    values = [value for header, value in request.headers if header == name]
    if len(values) != 1:
        raise SignatureError(f"{len(values)} headers {name!r}")
    return values[0]


def _signing_key(secret: str, date: str, region: str) -> bytes:
    key = f"AWS4{secret}".encode()
    for part in (date, region, SERVICE, _SCOPE_END):
        key = _hmac(key, part)
    return key


def _hmac(key: bytes, text: str) -> bytes:
    return hmac.digest(key, text.encode("utf-8"), "sha256")
