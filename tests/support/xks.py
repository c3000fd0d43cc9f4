"""Requests to an XKS proxy, signed as AWS signs them: by botocore, which knows nothing of us."""

from __future__ import annotations

import base64
import calendar
import json
import time
from typing import Any

import pytest

from transport.identity.kms import Credential
from transport.identity.kms.sigv4 import HttpRequest

METADATA = {
    "awsPrincipalArn": "arn:aws:iam::123456789012:user/Alice",
    "kmsKeyArn": "arn:aws:kms:us-east-2:123456789012:/key/1234abcd-12ab-34cd-56ef-1234567890ab",
    "kmsOperation": "Encrypt",
    "kmsRequestId": "4112f4d6-db54-4af4-ae30-c55a22a8dfae",
}
HOST = "xks.example.com"


def b64(octets: bytes) -> str:
    return base64.b64encode(octets).decode()


def signed(
    credential: Credential,
    operation: str,
    fields: Any,
    *,
    host: str = HOST,
    method: str = "POST",
    service: str = "kms-xks-proxy",
    uri_path: str | None = None,
) -> HttpRequest:
    """A request for `keys/…/encrypt` or `health`, signed now; `fields` is its JSON, or bytes."""
    pytest.importorskip("botocore", reason="botocore signs the requests of these tests")
    from botocore.auth import SigV4Auth
    from botocore.awsrequest import AWSRequest
    from botocore.credentials import Credentials

    body = fields if isinstance(fields, bytes) else json.dumps(fields).encode()
    path = f"{credential.uri_path if uri_path is None else uri_path}/{operation}"
    request = AWSRequest(
        method=method,
        url=f"https://{host}{path}",
        data=body,
        headers={"Content-Type": "application/json", "Host": host},
    )
    keys = Credentials(credential.access_key_id, credential.secret_access_key)
    SigV4Auth(keys, service, "us-east-2").add_auth(request)
    headers = [(name.lower(), value) for name, value in request.headers.items()]
    return HttpRequest(method=method, path=path, headers=headers, body=body)


def signed_at(request: HttpRequest) -> float:
    """When `signed` signed it, POSIX seconds."""
    (stamp,) = [value for name, value in request.headers if name == "x-amz-date"]
    return float(calendar.timegm(time.strptime(stamp, "%Y%m%dT%H%M%SZ")))
