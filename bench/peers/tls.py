"""Python's ssl: TLS 1.3 over one TCP socket, received with `recv_into`.

Both ends present a self-signed P-256 certificate and check the other's, because
our links authenticate both ways too. Sockets block without a timeout: a timeout
makes Python poll before every record. The worker's watchdog bounds every wait.
"""

from __future__ import annotations

import datetime
import socket
import ssl
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import ClassVar

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from .endpoint import KERNEL_BUFFER, LOOPBACK, Bytes, Channel, Endpoint, Listener, Role


class Tls(Endpoint):
    """TLS 1.3 with certificates at both ends and no session tickets."""

    about: ClassVar[str] = (
        "TLS 1.3 (AES-256-GCM), mutual P-256 certificates, sendall and recv_into, TCP_NODELAY"
    )

    def __init__(self, *, role: Role, deadline: float) -> None:
        super().__init__(role=role, deadline=deadline)
        self._certificate_pem, self._key_pem = self_signed_certificate(role)
        self._other_pem = ""

    def version(self) -> str:
        return " ".join(ssl.OPENSSL_VERSION.split()[:2])

    def introduction(self) -> dict[str, str]:
        return {"certificate": self._certificate_pem}

    def meet(self, introduction: Mapping[str, str]) -> None:
        self._other_pem = introduction["certificate"]

    def listen(self) -> Listener:
        context = self._context(ssl.PROTOCOL_TLS_SERVER)
        context.num_tickets = 0
        listening = socket.create_server((LOOPBACK, 0))
        _tune(listening)

        def accept() -> TlsChannel:
            with listening:
                stream, _ = listening.accept()
            _tune(stream)
            return TlsChannel(context.wrap_socket(stream, server_side=True))

        port = listening.getsockname()[1]
        return Listener(address=str(port), accept=accept)

    def dialler(self) -> Callable[[str], TlsChannel]:
        context = self._context(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False  # the certificate itself is pinned
        stream = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        _tune(stream)

        def dial(address: str) -> TlsChannel:
            stream.connect((LOOPBACK, int(address)))
            return TlsChannel(context.wrap_socket(stream))

        return dial

    def _context(self, protocol: int) -> ssl.SSLContext:
        context = ssl.SSLContext(protocol)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(cadata=self._other_pem)
        # The ssl module reads keys from files only.
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "certificate-and-key.pem"
            path.touch(mode=0o600)
            path.write_text(self._certificate_pem + self._key_pem, encoding="ascii")
            context.load_cert_chain(path)
        return context


class TlsChannel(Channel[memoryview]):
    """A byte stream; both ends know where each message ends."""

    def __init__(self, stream: ssl.SSLSocket) -> None:
        self._stream = stream

    def wrap(self, memory: Bytes) -> memoryview:
        return memory.data

    def send(self, payload: memoryview) -> None:
        self._stream.sendall(payload)

    def receive(self, destination: memoryview) -> None:
        received = self._stream.recv_into(destination)
        nbytes = destination.nbytes
        receive_into = self._stream.recv_into
        while received < nbytes:
            count = receive_into(destination[received:])
            if count == 0:
                raise ConnectionError(f"the stream ended after {received} of {nbytes} bytes")
            received += count

    def close(self) -> None:
        self._stream.close()


def self_signed_certificate(name: str) -> tuple[str, str]:
    """Return a certificate and its key, both PEM, valid for a day from an hour ago."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return certificate.public_bytes(serialization.Encoding.PEM).decode(), private.decode()


def _tune(stream: socket.socket) -> None:
    stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, KERNEL_BUFFER)
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, KERNEL_BUFFER)
