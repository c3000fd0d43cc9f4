"""The XKS listener: real TLS, real signatures by two independent signers, and its limits."""

from __future__ import annotations

import contextlib
import http.client
import json
import shutil
import socket
import ssl
import subprocess
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from support.kms import PASSPHRASE, QUICK
from support.nodes import together, until
from support.xks import METADATA, b64, signed
from transport.errors import UsageError
from transport.identity.kms import Credential, ExternalPolicy, KeyFolder, Unlocking, XksProxy
from transport.identity.kms.sigv4 import HttpRequest
from transport.services import XksServer, tls_context, xks_server

pytest.importorskip("h11", reason="the extra `xks` is not installed")

CREDENTIAL = Credential.generate("/prefix")
PATIENCE = 20.0
ENCRYPT = {
    "requestMetadata": METADATA,
    "plaintext": b64(b"Hello World!"),
    "encryptionAlgorithm": "AES_GCM",
}
HEALTH = {"requestMetadata": {"kmsOperation": "KmsHealthCheck", "kmsRequestId": "1"}}


class Authority:
    """A certificate authority, and certificates of it."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self._certificate = self._issue(self._name, self._key.public_key(), is_ca=True)
        self.path = folder / f"{name}.pem"
        self.path.write_bytes(self._certificate.public_bytes(Encoding.PEM))

    def certificate(self, name: str) -> tuple[Path, Path]:
        """Files of a new certificate and its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        issued = self._issue(subject, key.public_key(), is_ca=False)
        paths = self._folder / f"{name}.crt", self._folder / f"{name}.key"
        paths[0].write_bytes(issued.public_bytes(Encoding.PEM))
        private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        paths[1].write_bytes(private)
        paths[1].chmod(0o600)
        return paths

    def _issue(self, subject, public_key, *, is_ca: bool) -> x509.Certificate:
        now = datetime.now(UTC)
        names = x509.SubjectAlternativeName([x509.DNSName("localhost")])
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=1))
            .not_valid_after(now + timedelta(hours=1))
            .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
            .add_extension(names, critical=False)
            .sign(self._key, SHA256())
        )


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("authority"), "authority")


@pytest.fixture(scope="module")
def proxy(tmp_path_factory):
    folder = KeyFolder.create(
        tmp_path_factory.mktemp("kms") / "keys",
        Unlocking.passphrase(PASSPHRASE),
        clock=time.time,
        cost=QUICK,
    )
    folder.create_key("k1", ExternalPolicy())
    yield XksProxy(folder.store, folder.audit, [CREDENTIAL], clock=time.time)
    folder.close()


@contextlib.contextmanager
def listening(proxy, authority, *, mutual: bool = False, **arguments: object):
    certificate, key = authority.certificate("localhost")
    tls = tls_context(certificate, key, client_ca=authority.path if mutual else None)
    with XksServer(proxy, host="127.0.0.1", port=0, tls=tls, **arguments) as server:
        yield server


@pytest.fixture
def server(proxy, authority):
    with listening(proxy, authority) as server:
        yield server


def trusting(authority, name: str | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(authority.path))
    if name is not None:
        context.load_cert_chain(*authority.certificate(name))
    return context


def connection(server, authority, name: str | None = None) -> http.client.HTTPSConnection:
    return http.client.HTTPSConnection(
        "localhost", server.address[1], context=trusting(authority, name), timeout=PATIENCE
    )


def ask(line: http.client.HTTPSConnection, request: HttpRequest) -> tuple[int, dict]:
    line.request(request.method, request.path, body=request.body, headers=dict(request.headers))
    answer = line.getresponse()
    return answer.status, json.loads(answer.read() or b"{}")


def call(line, operation: str, fields: object) -> tuple[int, dict]:
    return ask(line, signed(CREDENTIAL, operation, fields, host=f"localhost:{line.port}"))


def secured(server, authority) -> ssl.SSLSocket:
    """A connection whose bytes a test writes itself."""
    plain = socket.create_connection(server.address, timeout=PATIENCE)
    return trusting(authority).wrap_socket(plain, server_hostname="localhost")


def read_all(line: socket.socket) -> bytes:
    """What comes until the server ends the connection."""
    received = b""
    with contextlib.suppress(ConnectionError, ssl.SSLEOFError):
        while piece := line.recv(65536):
            received += piece
    return received


# --- what it does ------------------------------------------------------------------------------


def test_encrypt_and_decrypt_on_one_connection(server, authority):
    line = connection(server, authority)
    status, answer = call(line, "keys/k1/encrypt", ENCRYPT)
    assert status == 200
    asked = {"requestMetadata": METADATA, "encryptionAlgorithm": "AES_GCM"} | answer
    assert call(line, "keys/k1/decrypt", asked) == (200, {"plaintext": ENCRYPT["plaintext"]})
    assert call(line, "health", HEALTH)[0] == 200
    line.close()


def test_errors_come_as_json_and_leave_the_connection_usable(server, authority):
    line = connection(server, authority)
    refused = call(line, "keys/absent/encrypt", ENCRYPT)
    assert (refused[0], refused[1]["errorName"]) == (404, "KeyNotFoundException")
    answer = ask(line, HttpRequest(method="POST", path="/x", headers=[], body=b""))
    assert (answer[0], answer[1]["errorName"]) == (404, "InvalidUriPathException")
    unsigned = HttpRequest(
        method="POST", path=f"{CREDENTIAL.uri_path}/health", headers=[], body=b"{}"
    )
    assert ask(line, unsigned)[0] == 401
    assert call(line, "health", HEALTH)[0] == 200
    line.close()


def test_get_is_not_allowed(server, authority):
    line = connection(server, authority)
    line.request("GET", f"{CREDENTIAL.uri_path}/health")
    answer = line.getresponse()
    assert (answer.status, answer.getheader("Allow")) == (405, "POST")
    line.close()


def test_a_load_balancer_s_ping(server, authority):
    line = connection(server, authority)
    line.request("GET", "/ping")
    assert line.getresponse().status == 200
    line.close()


def test_many_connections_at_once(server, authority, monkeypatch):
    # A disk that takes long over one audit line makes others wait for their turn, and
    # they are rightly told to slow down: here, that would be chance.
    monkeypatch.setattr(xks_server, "TURN_DEADLINE", PATIENCE)

    def one() -> int:
        line = connection(server, authority)
        try:
            return sum(call(line, "keys/k1/encrypt", ENCRYPT)[0] == 200 for _ in range(5))
        finally:
            line.close()

    assert together(*[one] * 4) == [5] * 4


@pytest.mark.parametrize("size", [12, 4096])
def test_curl_signs_it_too(server, authority, tmp_path, size):
    curl = shutil.which("curl")
    if (
        curl is None
        or "--aws-sigv4"
        not in subprocess.run(
            [curl, "--help", "all"], capture_output=True, text=True, check=False
        ).stdout
    ):
        pytest.skip("there is no curl that signs by SigV4 (7.75 or newer)")
    body = tmp_path / "body.json"
    body.write_text(json.dumps(ENCRYPT | {"plaintext": b64(bytes(size))}))
    base = f"https://localhost:{server.address[1]}{CREDENTIAL.uri_path}"
    secret = f"{CREDENTIAL.access_key_id}:{CREDENTIAL.secret_access_key}"
    finished = subprocess.run(
        [
            *(curl, f"{base}/keys/k1/encrypt", "--silent", "--show-error"),
            *("--cacert", str(authority.path), "-H", "Content-Type:application/json"),
            *("-H", "Expect: 100-continue", "--max-time", "20"),
            *("--aws-sigv4", "aws:amz:us-east-1:kms-xks-proxy", "--user", secret),
            *("--data-binary", f"@{body}"),
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    assert len(json.loads(finished.stdout)["authenticationTag"]) == 24, finished.stdout


# --- TLS -----------------------------------------------------------------------------------------


def test_it_is_where_it_was_asked_to_be(server):
    assert server.address[0] == "127.0.0.1"
    listening_on = {
        line.split()[1]
        for line in Path("/proc/net/tcp").read_text().splitlines()[1:]
        if line.split()[3] == "0A" and int(line.split()[1].split(":")[1], 16) == server.address[1]
    }
    assert listening_on == {f"0100007F:{server.address[1]:04X}"}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
def test_older_tls_is_refused(server, authority, version):
    context = trusting(authority)
    context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    context.maximum_version = version
    with (
        socket.create_connection(server.address, timeout=PATIENCE) as plain,
        pytest.raises((ssl.SSLError, ConnectionError)),
    ):
        context.wrap_socket(plain, server_hostname="localhost")


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_suites_of_the_specification(server, authority, version):
    context = trusting(authority)
    context.minimum_version = context.maximum_version = version
    plain = socket.create_connection(server.address, timeout=PATIENCE)
    with context.wrap_socket(plain, server_hostname="localhost") as line:
        suite = line.cipher()
    assert suite is not None
    assert suite[0] in {
        *("TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256"),
        *("ECDHE-RSA-AES256-GCM-SHA384", "ECDHE-ECDSA-AES256-GCM-SHA384"),
    }


def test_plain_http_is_refused(server):
    with socket.create_connection(server.address, timeout=PATIENCE) as line:
        line.sendall(b"GET /ping HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"HTTP" not in read_all(line)


def test_mutual_tls(proxy, authority, tmp_path):
    name = "cks.kms.eu-west-1.amazonaws.com"
    with listening(proxy, authority, mutual=True, client_name=name) as server:
        line = connection(server, authority, name)
        assert call(line, "health", HEALTH)[0] == 200
        line.close()
        foreign = Authority(tmp_path, "foreign").certificate(name)
        outsider = trusting(authority)
        outsider.load_cert_chain(*foreign)
        for context in (trusting(authority), trusting(authority, "another"), outsider):
            refused = http.client.HTTPSConnection(
                "localhost", server.address[1], context=context, timeout=PATIENCE
            )
            with pytest.raises((OSError, http.client.HTTPException)):
                call(refused, "health", HEALTH)
            refused.close()


# --- limits --------------------------------------------------------------------------------------


def test_headers_are_bounded(server, authority):
    with secured(server, authority) as line:
        line.sendall(b"POST /x HTTP/1.1\r\nHost: x\r\n")
        with contextlib.suppress(OSError):
            for number in range(64):
                line.sendall(b"X-%d: " % number + b"x" * 1000 + b"\r\n")
        assert b"431" in read_all(line).split(b"\r\n")[0]


@pytest.mark.parametrize("declared", [True, False])
def test_bodies_are_bounded(server, authority, declared):
    size = xks_server.BODY_LIMIT + 1
    how = b"Content-Length: %d" % size if declared else b"Transfer-Encoding: chunked"
    body = b"x" * size if declared else b"%x\r\n" % size + b"x" * size + b"\r\n0\r\n\r\n"
    with secured(server, authority) as line:
        line.sendall(b"POST /x HTTP/1.1\r\nHost: x\r\n" + how + b"\r\n\r\n")
        with contextlib.suppress(OSError):
            line.sendall(body)
        assert b"413" in read_all(line).split(b"\r\n")[0]


@pytest.mark.parametrize(
    "text",
    [
        b"\x16\x03\x01\r\n\r\n",
        b"GET\r\n\r\n",
        b"POST / HTTP/9.9\r\n\r\n",
        b"POST / HTTP/1.1\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\n folded: y\r\n\r\n",
        b"\xff" * 100 + b"\r\n\r\n",
    ],
)
def test_what_is_not_http_is_refused(server, authority, text):
    with secured(server, authority) as line:
        line.sendall(text)
        answer = line.recv(65536)
    assert answer.startswith((b"HTTP/1.1 4", b"HTTP/1.1 501"))
    assert call(connection(server, authority), "health", HEALTH)[0] == 200


@pytest.fixture
def impatient(monkeypatch, proxy, authority):
    for name in ("HANDSHAKE_DEADLINE", "REQUEST_DEADLINE", "IDLE_DEADLINE"):
        monkeypatch.setattr(xks_server, name, 0.3)
    with listening(proxy, authority) as server:
        yield server


def test_a_caller_that_says_nothing_is_cut(impatient):
    with socket.create_connection(impatient.address, timeout=PATIENCE) as line:
        assert read_all(line) == b""


def test_an_idle_connection_is_cut(impatient, authority):
    with secured(impatient, authority) as line:
        assert read_all(line) == b""


@pytest.mark.parametrize("secure", [True, False])
def test_a_caller_that_drips_is_cut(impatient, authority, secure):
    line = (
        secured(impatient, authority)
        if secure
        else socket.create_connection(impatient.address, timeout=PATIENCE)
    )
    with line:
        assert is_cut_while_dripping(line, b"P" if secure else b"\x16\x03\x01\x40\x00\x01")


def is_cut_while_dripping(line: socket.socket, text: bytes) -> bool:
    """Send a byte at a time, each well within any single timeout, until the line ends."""
    line.settimeout(0.05)
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        try:
            line.sendall(text[:1])
            text = text[1:] or b"X"
            if line.recv(1) == b"":
                return True
        except TimeoutError:
            continue
        except OSError:
            return True
    return False


def test_connections_are_bounded(monkeypatch, proxy, authority):
    monkeypatch.setattr(xks_server, "CONNECTIONS", 2)
    with listening(proxy, authority) as server:
        kept = [connection(server, authority) for _ in range(2)]
        assert [call(line, "health", HEALTH)[0] for line in kept] == [200, 200]
        with socket.create_connection(server.address, timeout=PATIENCE) as third:
            assert read_all(third) == b""
        assert call(kept[0], "health", HEALTH)[0] == 200
        kept[1].close()

        def served() -> bool:
            try:
                return call(connection(server, authority), "health", HEALTH)[0] == 200
            except OSError:
                return False

        until(served)


def test_a_request_that_would_wait_too_long_is_told_so(monkeypatch, authority):
    monkeypatch.setattr(xks_server, "TURN_DEADLINE", 0.05)
    release, entered = threading.Event(), threading.Event()

    class Slow:
        def handle(self, request):
            entered.set()
            release.wait(PATIENCE)
            return xks_server.HttpResponse(status=200)

    with listening(Slow(), authority) as server:
        first = threading.Thread(
            target=lambda: call(connection(server, authority), "health", HEALTH)
        )
        first.start()
        assert entered.wait(PATIENCE)
        status, answer = call(connection(server, authority), "health", HEALTH)
        release.set()
        first.join(PATIENCE)
    assert (status, answer["errorName"]) == (429, "ThrottlingException")


def test_a_fault_of_ours_ends_one_request(authority):
    class Faulty:
        def handle(self, request):
            raise ZeroDivisionError

    with listening(Faulty(), authority) as server:
        line = connection(server, authority)
        for _ in range(2):
            status, answer = call(line, "health", HEALTH)
            assert (status, answer["errorName"]) == (500, "InternalException")
        line.close()


# --- at the start --------------------------------------------------------------------------------


def test_a_key_that_others_may_read_is_refused(authority):
    certificate, key = authority.certificate("localhost")
    key.chmod(0o644)
    with pytest.raises(UsageError, match="mode 0644"):
        tls_context(certificate, key)


def test_files_that_do_not_fit_are_said_so(authority, tmp_path):
    certificate, _ = authority.certificate("one")
    _, key = authority.certificate("two")
    with pytest.raises(UsageError, match="TLS cannot use"):
        tls_context(certificate, key)
    with pytest.raises(UsageError, match="cannot be opened"):
        tls_context(certificate, tmp_path / "absent")


def test_an_address_that_is_taken_is_said_so(server, proxy, authority):
    tls = tls_context(*authority.certificate("localhost"))
    with pytest.raises(UsageError, match="cannot be listened on"):
        XksServer(proxy, host="127.0.0.1", port=server.address[1], tls=tls)


def test_a_client_name_needs_certificates(proxy, authority):
    with (
        pytest.raises(UsageError, match="needs a CA"),
        listening(proxy, authority, client_name="x"),
    ):
        pass
