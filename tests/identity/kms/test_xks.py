"""The calls of the XKS proxy: answers and errors as the specification has them."""

from __future__ import annotations

import base64
import hashlib
import json
import logging
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from support.kms import KEY, PASSPHRASE, QUICK, world
from support.xks import METADATA, b64, signed
from transport.errors import UsageError
from transport.identity.kms import Credential, ExternalPolicy, KeyFolder, Unlocking, XksProxy
from transport.identity.kms.sigv4 import HttpRequest
from transport.identity.kms.xks import AAD_LIMIT, PING, PLAINTEXT_LIMIT, ErrorName

CREDENTIAL = Credential.generate("/prefix")
PLAINTEXT = b"Hello World!"
AAD = b"project=nile,department=marketing"
ENCRYPT = {
    "requestMetadata": METADATA,
    "plaintext": b64(PLAINTEXT),
    "encryptionAlgorithm": "AES_GCM",
}


class Proxied:
    """A proxy, its store, and calls to it."""

    def __init__(self, path) -> None:
        self.path = path
        self.folder = KeyFolder.create(
            path, Unlocking.passphrase(PASSPHRASE), clock=time.time, cost=QUICK
        )
        self.folder.create_key("k1", ExternalPolicy())
        self.proxy = XksProxy(self.folder.store, self.folder.audit, [CREDENTIAL], clock=time.time)

    def raw(self, request: HttpRequest) -> tuple[int, dict]:
        answer = self.proxy.handle(request)
        return answer.status, json.loads(answer.body or b"{}")

    def call(self, operation: str, fields, **arguments) -> tuple[int, dict]:
        return self.raw(signed(CREDENTIAL, operation, fields, **arguments))

    def encrypt(self, **changes: object) -> dict:
        status, answer = self.call("keys/k1/encrypt", ENCRYPT | changes)
        assert status == 200, answer
        return answer

    def decrypt(self, answer: dict, **changes: object) -> tuple[int, dict]:
        names = ("ciphertext", "ciphertextMetadata", "initializationVector", "authenticationTag")
        fields = {name: answer[name] for name in names}
        more = {"requestMetadata": METADATA, "encryptionAlgorithm": "AES_GCM"}
        given_fields = {k: v for k, v in (fields | more | changes).items() if v is not None}
        return self.call("keys/k1/decrypt", given_fields)


@pytest.fixture
def xks(tmp_path):
    proxied = Proxied(tmp_path / "keys")
    yield proxied
    proxied.folder.close()


def is_error(answer: tuple[int, dict], name: ErrorName) -> bool:
    kind, status = name.value
    message = answer[1].get("errorMessage", "")
    assert len(message) < 512
    assert all(0x20 <= ord(character) <= 0x7E for character in message)
    return answer[0] == status and answer[1]["errorName"] == kind


# --- what it does -----------------------------------------------------------------------------


def test_metadata(xks):
    fields = {"requestMetadata": METADATA | {"kmsOperation": "DescribeKey"}}
    assert xks.call("keys/k1/metadata", fields) == (
        200,
        {"keySpec": "AES_256", "keyUsage": ["ENCRYPT", "DECRYPT"], "keyStatus": "ENABLED"},
    )
    xks.folder.enable("k1", False)
    assert xks.call("keys/k1/metadata", fields)[1]["keyStatus"] == "DISABLED"


def test_metadata_for_a_kms_key_that_has_no_name_yet(xks):
    metadata = {name: value for name, value in METADATA.items() if name != "kmsKeyArn"}
    fields = {"requestMetadata": metadata | {"kmsOperation": "CreateKey"}}
    assert xks.call("keys/k1/metadata", fields)[0] == 200


@pytest.mark.parametrize("aad", [None, b64(b""), b64(AAD), b64(bytes(AAD_LIMIT))])
@pytest.mark.parametrize("size", [0, 12, PLAINTEXT_LIMIT])
def test_what_is_encrypted_decrypts(xks, aad, size):
    plaintext = bytes(range(256)) * 17
    more = {} if aad is None else {"additionalAuthenticatedData": aad}
    answer = xks.encrypt(plaintext=b64(plaintext[:size]), **more)
    sizes = {name: len(base64.b64decode(value)) for name, value in answer.items()}
    assert sizes == {
        "ciphertext": size,
        "ciphertextMetadata": 20,
        "initializationVector": 12,
        "authenticationTag": 16,
    }
    assert xks.decrypt(answer, **more) == (200, {"plaintext": b64(plaintext[:size])})


def test_the_integrity_value_is_computed_as_appendix_c_says(xks):
    answer = xks.encrypt(
        additionalAuthenticatedData=b64(AAD), ciphertextDataIntegrityValueAlgorithm="SHA_256"
    )
    parts = ("ciphertextMetadata", "initializationVector", "ciphertext", "authenticationTag")
    content = AAD + b"".join(base64.b64decode(answer[name]) for name in parts)
    assert answer["ciphertextDataIntegrityValue"] == b64(hashlib.sha256(content).digest())
    assert xks.decrypt(answer, additionalAuthenticatedData=b64(AAD))[0] == 200


def test_after_a_rotation_both_versions_decrypt(xks):
    old = xks.encrypt()
    xks.folder.rotate("k1")
    new = xks.encrypt()
    assert [xks.decrypt(each)[0] for each in (old, new)] == [200, 200]
    xks.folder.retire("k1", 2)
    assert is_error(xks.decrypt(old), ErrorName.INVALID_CIPHERTEXT)
    assert xks.decrypt(new)[0] == 200


def test_health(xks):
    fields = {"requestMetadata": {"kmsOperation": "KmsHealthCheck", "kmsRequestId": "x"}}
    status, answer = xks.call("health", fields)
    assert status == 200
    assert answer.keys() == {
        *("xksProxyFleetSize", "xksProxyVendor", "xksProxyModel", "ekmVendor", "ekmFleetDetails"),
    }
    (manager,) = answer["ekmFleetDetails"]
    assert manager.keys() == {"id", "model", "healthStatus"}
    assert manager["healthStatus"] == "ACTIVE"
    xks.folder.store.close()
    assert xks.call("health", fields)[1]["ekmFleetDetails"][0]["healthStatus"] == "UNAVAILABLE"


def test_operations_and_fields_of_later_versions_are_not_refused(xks):
    metadata = METADATA | {"kmsOperation": "BulkEncrypt", "sourceIdentity": "x", "tags": [1]}
    assert xks.encrypt(requestMetadata=metadata, later="field")


def test_the_audit_log_has_the_request_and_no_plaintext(xks, caplog):
    caplog.set_level(logging.DEBUG)
    xks.decrypt(xks.encrypt())
    content = (xks.path / "audit.log").read_text()
    lines = [json.loads(line.partition(" ")[2]) for line in content.splitlines()]
    assert [line["event"] for line in lines[-2:]] == ["xks encrypt", "xks decrypt"]
    assert lines[-1]["request"] == METADATA
    for text in (content, caplog.text):
        assert b64(PLAINTEXT) not in text
        assert PLAINTEXT.decode() not in text


# --- errors of the specification --------------------------------------------------------------


def test_errors_are_those_of_the_specification():
    assert dict(each.value for each in ErrorName) == {
        "ValidationException": 400,
        "InvalidStateException": 400,
        "InvalidCiphertextException": 400,
        "InvalidKeyUsageException": 400,
        "AuthenticationFailedException": 401,
        "AccessDeniedException": 403,
        "KeyNotFoundException": 404,
        "InvalidUriPathException": 404,
        "ThrottlingException": 429,
        "UnsupportedOperationException": 501,
        "DependencyTimeoutException": 503,
        "InternalException": 500,
    }


def test_an_unknown_key(xks):
    assert is_error(xks.call("keys/non_existing_key/encrypt", ENCRYPT), ErrorName.KEY_NOT_FOUND)


def test_an_attested_key_does_not_exist_here(tmp_path):
    with world(tmp_path) as made:
        proxy = XksProxy(made.store, made.folder.audit, [CREDENTIAL], clock=time.time)
        for operation in ("metadata", "encrypt"):
            request = signed(CREDENTIAL, f"keys/{KEY}/{operation}", ENCRYPT)
            answer = proxy.handle(request)
            assert (answer.status, json.loads(answer.body)["errorName"]) == (
                404,
                "KeyNotFoundException",
            )


def test_a_disabled_key(xks):
    answer = xks.encrypt()
    xks.folder.enable("k1", False)
    for refused in (xks.call("keys/k1/encrypt", ENCRYPT), xks.decrypt(answer)):
        assert is_error(refused, ErrorName.INVALID_STATE)


@pytest.mark.parametrize(
    "changes",
    [
        {"additionalAuthenticatedData": b64(b"other")},
        {"additionalAuthenticatedData": None},
        {"ciphertext": b64(bytes(12))},
        {"initializationVector": b64(bytes(12))},
        {"initializationVector": b64(bytes(16))},
        {"authenticationTag": b64(bytes(16))},
        {"authenticationTag": b64(bytes(12))},
        {"ciphertextMetadata": b64(bytes(20))},
        {"ciphertextMetadata": b64(b"\1" + bytes(19))},
        {"ciphertextMetadata": b64(bytes(21))},
        {"ciphertextMetadata": None},
    ],
    ids=str,
)
def test_another_ciphertext(xks, changes):
    answer = xks.encrypt(additionalAuthenticatedData=b64(AAD))
    right = {"additionalAuthenticatedData": b64(AAD)}
    assert xks.decrypt(answer, **right)[0] == 200
    assert is_error(xks.decrypt(answer, **right | changes), ErrorName.INVALID_CIPHERTEXT)


@pytest.mark.parametrize(
    "changes",
    [
        {"plaintext": None},
        {"plaintext": 5},
        {"plaintext": "not base64!"},
        {"plaintext": "ü"},
        {"encryptionAlgorithm": None},
        {"encryptionAlgorithm": "AES_CBC"},
        {"ciphertextDataIntegrityValueAlgorithm": "MD5"},
        {"additionalAuthenticatedData": "x"},
        {"requestMetadata": None},
        {"requestMetadata": {}},
        {"requestMetadata": []},
        {"requestMetadata": METADATA | {"kmsKeyArn": "a" * 2049}},
        {"requestMetadata": METADATA | {"kmsRequestId": 5}},
        *({"requestMetadata": {k: v for k, v in METADATA.items() if k != n}} for n in METADATA),
    ],
    ids=lambda each: str(each)[:60],
)
def test_other_fields(xks, changes):
    fields = {name: value for name, value in (ENCRYPT | changes).items() if value is not None}
    assert is_error(xks.call("keys/k1/encrypt", fields), ErrorName.VALIDATION)


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"null", b'{"a":1,"a":2}', b"\xff", b"[" * 60000, b"1" * 5000]
)
def test_a_body_that_is_no_request(xks, body):
    assert is_error(xks.call("keys/k1/encrypt", body), ErrorName.VALIDATION)


def test_health_needs_its_metadata(xks):
    for fields in ({}, {"requestMetadata": {}}):
        assert is_error(xks.call("health", fields), ErrorName.VALIDATION)


@pytest.mark.parametrize(
    "changes",
    [
        {"plaintext": b64(bytes(PLAINTEXT_LIMIT + 1))},
        {"additionalAuthenticatedData": b64(bytes(AAD_LIMIT + 1))},
    ],
    ids=["plaintext", "aad"],
)
def test_what_is_larger_than_supported(xks, changes):
    refused = xks.call("keys/k1/encrypt", ENCRYPT | changes)
    assert is_error(refused, ErrorName.UNSUPPORTED_OPERATION)


@pytest.mark.parametrize(
    "operation",
    [
        *("keys/k1/sign", "keys/k1", "keys//encrypt", "keys/../health", "keys/k1/encrypt/", ""),
        *("keys/k1/encrypt?x=1", "healthy", "keys/" + "k" * 129 + "/encrypt", "keys/a b/encrypt"),
    ],
)
def test_another_path(xks, operation):
    path = f"{CREDENTIAL.uri_path}/{operation}"
    request = HttpRequest(method="POST", path=path, headers=[], body=b"")
    assert is_error(xks.raw(request), ErrorName.INVALID_URI_PATH)


def test_another_prefix(xks):
    refused = xks.call("health", {}, uri_path="/prefix/invalid/kms/xks/v1")
    assert is_error(refused, ErrorName.INVALID_URI_PATH)


@pytest.mark.parametrize("operation", ["keys/k1/metadata", "keys/k1/encrypt", "health"])
def test_get_is_not_allowed(xks, operation):
    answer = xks.proxy.handle(signed(CREDENTIAL, operation, {}, method="GET"))
    assert (answer.status, answer.allow) == (405, "POST")


def test_a_load_balancer_may_ask_whether_we_live(xks):
    ping = HttpRequest(method="GET", path=PING, headers=[], body=b"")
    assert xks.proxy.handle(ping).status == 200
    assert xks.proxy.handle(HttpRequest(method="POST", path=PING, headers=[], body=b"")).allow == (
        "GET"
    )


@pytest.mark.parametrize("operation", ["keys/k1/metadata", "keys/k1/encrypt", "health"])
def test_a_wrong_signature(xks, operation):
    for credential in (
        Credential.generate("/prefix"),
        Credential(
            uri_path=CREDENTIAL.uri_path,
            access_key_id=CREDENTIAL.access_key_id,
            secret_access_key=Credential.generate().secret_access_key,
        ),
    ):
        answer = xks.raw(signed(credential, operation, ENCRYPT))
        assert is_error(answer, ErrorName.AUTHENTICATION_FAILED)


def test_a_credential_is_good_for_its_own_path_only(xks):
    other = Credential.generate("/other")
    both = XksProxy(xks.folder.store, xks.folder.audit, [CREDENTIAL, other], clock=time.time)
    fields = {"requestMetadata": METADATA}
    for credential, path, status in (
        (CREDENTIAL, CREDENTIAL.uri_path, 200),
        (other, other.uri_path, 200),
        (other, CREDENTIAL.uri_path, 401),
    ):
        assert both.handle(signed(credential, "health", fields, uri_path=path)).status == status


def test_a_request_of_an_hour_ago(xks):
    late = XksProxy(
        xks.folder.store, xks.folder.audit, [CREDENTIAL], clock=lambda: time.time() + 3600.0
    )
    answer = late.handle(signed(CREDENTIAL, "health", {}))
    assert answer.status == 401


def test_whom_a_key_is_for(xks):
    xks.folder.set_policy("k1", ExternalPolicy(kms_keys=(METADATA["kmsKeyArn"],)))
    assert xks.encrypt()
    other = {"requestMetadata": METADATA | {"kmsKeyArn": "arn:aws:kms:other"}}
    assert is_error(xks.call("keys/k1/encrypt", ENCRYPT | other), ErrorName.ACCESS_DENIED)
    assert is_error(xks.call("keys/k1/metadata", other), ErrorName.ACCESS_DENIED)
    xks.folder.set_policy("k1", ExternalPolicy(principals=("arn:aws:iam::1:user/Bob",)))
    assert is_error(xks.call("keys/k1/encrypt", ENCRYPT), ErrorName.ACCESS_DENIED)


def test_a_store_that_fails(xks):
    xks.folder.store.close()
    assert is_error(xks.call("keys/k1/encrypt", ENCRYPT), ErrorName.INTERNAL)


def test_an_audit_log_that_fails(xks):
    (xks.path / "audit.log").write_bytes(b"")
    assert is_error(xks.call("keys/k1/encrypt", ENCRYPT), ErrorName.INTERNAL)


def test_credentials_are_needed_and_distinct(xks):
    for credentials in ([], [CREDENTIAL, CREDENTIAL]):
        with pytest.raises(UsageError, match="credential"):
            XksProxy(xks.folder.store, xks.folder.audit, credentials, clock=time.time)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=10),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from([*ENCRYPT, *METADATA, "x"]), inner, max_size=4)
    ),
    max_leaves=8,
)


@given(st.binary(max_size=100) | json_values)
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_no_authentic_request_does_any_harm(xks, fields):
    for operation in ("keys/k1/encrypt", "keys/k1/decrypt", "keys/k1/metadata", "health"):
        status, answer = xks.call(operation, fields)
        assert status != 500, answer


@given(st.text(max_size=100), st.text(max_size=10), st.binary(max_size=50))
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_no_request_of_a_stranger_does_any_harm(xks, path, method, body):
    for place in (path, f"{CREDENTIAL.uri_path}/{path}", f"{CREDENTIAL.uri_path}/health"):
        request = HttpRequest(method=method, path=place, headers=[("host", path)], body=body)
        assert xks.proxy.handle(request).status in {401, 404, 405}
