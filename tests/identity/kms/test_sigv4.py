"""Signatures: those of AWS's own signer verify, and nothing else does."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.xks import METADATA, signed, signed_at
from transport.errors import UsageError
from transport.identity.kms import Credential
from transport.identity.kms.sigv4 import (
    TOLERANCE,
    HttpRequest,
    SignatureError,
    verify_signature,
)

CREDENTIAL = Credential.generate("/prefix")
OTHER = Credential.generate("/prefix")
KNOWN = {each.access_key_id: each for each in (CREDENTIAL, OTHER)}


@pytest.fixture(scope="module")
def request_():
    return signed(CREDENTIAL, "keys/k1/encrypt", {"requestMetadata": METADATA})


def verify(request: HttpRequest, *, known=KNOWN, late: float = 0.0) -> Credential:
    return verify_signature(request, known, signed_at(request) + late)


def changed_header(request: HttpRequest, name: str, change) -> HttpRequest:
    headers = [(n, change(v) if n == name else v) for n, v in request.headers]
    assert headers != list(request.headers)
    return replace(request, headers=headers)


def test_a_signature_of_aws_s_own_signer_verifies(request_):
    assert verify(request_) is CREDENTIAL
    assert verify(signed(OTHER, "health", {})) is OTHER


def test_headers_that_are_not_signed_may_change(request_):
    more = replace(request_, headers=[*request_.headers, ("user-agent", "x")])
    assert verify(more) is CREDENTIAL


@pytest.mark.parametrize("late", [TOLERANCE + 1, -TOLERANCE - 1, 86400.0, -1e9])
def test_a_request_of_another_time_is_refused(request_, late):
    with pytest.raises(SignatureError, match="s ago"):
        verify(request_, late=late)


@pytest.mark.parametrize("late", [TOLERANCE - 1, -TOLERANCE + 1, 0.0])
def test_a_request_within_five_minutes_is_accepted(request_, late):
    assert verify(request_, late=late) is CREDENTIAL


def test_another_secret_is_refused(request_):
    imposter = replace(CREDENTIAL, secret_access_key=OTHER.secret_access_key)
    with pytest.raises(SignatureError, match="does not verify"):
        verify(request_, known={CREDENTIAL.access_key_id: imposter})


def test_an_unknown_access_key_is_refused(request_):
    with pytest.raises(SignatureError, match="does not verify"):
        verify(request_, known={OTHER.access_key_id: OTHER})


def test_another_service_is_refused():
    with pytest.raises(SignatureError, match="another shape"):
        verify(signed(CREDENTIAL, "health", {}, service="kms"))


@pytest.mark.parametrize(
    "change",
    [
        lambda r: replace(r, body=r.body + b" "),
        lambda r: replace(r, path=r.path.replace("k1", "k2")),
        lambda r: replace(r, method="PUT"),
        lambda r: changed_header(r, "host", lambda v: "elsewhere"),
        lambda r: changed_header(r, "content-type", lambda v: "text/plain"),
        lambda r: changed_header(
            r, "authorization", lambda v: v[:-1] + ("0" if v[-1] != "0" else "1")
        ),
        lambda r: changed_header(r, "authorization", lambda v: v.replace("us-east-2", "us-west-1")),
    ],
)
def test_what_was_signed_cannot_be_changed(request_, change):
    changed = change(request_)
    assert changed != request_
    with pytest.raises(SignatureError, match="does not verify"):
        verify(changed)


@pytest.mark.parametrize(
    "change",
    [
        lambda v: "",
        lambda v: v.lower(),
        lambda v: v + " ",
        lambda v: v.replace("AWS4-HMAC-SHA256", "AWS4-HMAC-SHA512"),
        lambda v: v.replace("aws4_request", "aws5_request"),
        lambda v: v.replace("host;", ""),
        lambda v: v.replace(";x-amz-date", ""),
        lambda v: v.replace("content-type;host", "host;content-type"),
        lambda v: v.replace("content-type;", "absent;"),
        lambda v: v.replace("SignedHeaders=", "SignedHeaders=host;"),
        lambda v: v + v,
    ],
)
def test_another_authorization_is_refused(request_, change):
    with pytest.raises(SignatureError):
        verify(changed_header(request_, "authorization", change))


@pytest.mark.parametrize("name", ["authorization", "x-amz-date", "host"])
def test_a_header_twice_or_missing_is_refused(request_, name):
    now = signed_at(request_)
    (value,) = [value for header, value in request_.headers if header == name]
    for headers in (
        [*request_.headers, (name, value)],
        [header for header in request_.headers if header[0] != name],
    ):
        with pytest.raises(SignatureError):
            verify_signature(replace(request_, headers=headers), KNOWN, now)


@pytest.mark.parametrize("stamp", ["", "20260230T000000Z", "20261301T000000Z", "x"])
def test_a_time_that_is_none_is_refused(request_, stamp):
    now = signed_at(request_)
    changed = changed_header(request_, "x-amz-date", lambda v: stamp)
    with pytest.raises(SignatureError):
        verify_signature(changed, KNOWN, now)


@given(st.text(max_size=300))
def test_no_header_raises_anything_else(text):
    for name in ("authorization", "x-amz-date"):
        headers = [("authorization", "x"), ("x-amz-date", "20261123T010000Z"), ("host", "h")]
        headers = [(header, text if header == name else value) for header, value in headers]
        with pytest.raises(SignatureError):
            verify_signature(
                HttpRequest(method="POST", path="/", headers=headers, body=b""), KNOWN, 0.0
            )


# --- credentials -------------------------------------------------------------------------------


def test_a_credential_survives_its_file(tmp_path):
    file = tmp_path / "credential"
    file.write_text(CREDENTIAL.to_json())
    file.chmod(0o600)
    assert Credential.load(file) == CREDENTIAL
    file.chmod(0o644)
    with pytest.raises(UsageError, match="mode 0644"):
        Credential.load(file)


def test_a_credential_does_not_show_its_secret():
    assert CREDENTIAL.secret_access_key not in repr(CREDENTIAL)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("XksProxyUriPath",), "/wrong"),
        (("XksProxyUriPath",), "/a b/kms/xks/v1"),
        (("XksProxyUriPath",), "/" + "a" * 128 + "/kms/xks/v1"),
        (("XksProxyUriPath",), 3),
        (("XksProxyAuthenticationCredential", "AccessKeyId"), "SHORT"),
        (("XksProxyAuthenticationCredential", "AccessKeyId"), "A" * 20 + "0"),
        (("XksProxyAuthenticationCredential", "RawSecretAccessKey"), "short"),
        (("XksProxyAuthenticationCredential", "RawSecretAccessKey"), "!" * 50),
        (("XksProxyAuthenticationCredential",), None),
    ],
)
def test_a_file_with_another_content_is_refused(tmp_path, path, value):
    fields = json.loads(CREDENTIAL.to_json())
    inner = fields
    for name in path[:-1]:
        inner = inner[name]
    inner[path[-1]] = value
    file = tmp_path / "credential"
    file.write_text(json.dumps(fields))
    file.chmod(0o600)
    with pytest.raises(UsageError, match="credential"):
        Credential.load(file)


@pytest.mark.parametrize("prefix", ["no-slash", "/a/", "/ü", "/a" * 64])
def test_a_prefix_that_is_not_usable_is_refused(prefix):
    with pytest.raises(UsageError):
        Credential.generate(prefix)
