"""`XksServer`: the HTTPS listener of an XKS proxy, bounded in everything a caller can ask for.

TLS 1.2 or 1.3 by the `ssl` module, HTTP/1.1 by h11 (the extra `xks`), a thread for each
connection. A connection has a deadline in every phase (handshake, request, idle), and
one watcher cuts those that pass theirs, however slowly bytes drip. Headers, bodies and
connections have limits. The proxy itself works on one request at a time; a request that
waits longer for its turn than AWS KMS waits for an answer is told to slow down.
"""

from __future__ import annotations

import logging
import os
import socket
import ssl
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from time import monotonic
from types import TracebackType
from typing import Any, Final

from ..errors import UsageError
from ..identity.keys import StrPath
from ..identity.kms.files import open_private
from ..identity.kms.sigv4 import HttpRequest
from ..identity.kms.xks import BODY_LIMIT, ErrorName, HttpResponse, XksProxy

log = logging.getLogger("transport.kms")

HEADER_LIMIT: Final = 16 * 1024  # bytes of a request's line and headers
CONNECTIONS: Final = 128
HANDSHAKE_DEADLINE: Final = 5.0  # seconds
REQUEST_DEADLINE: Final = 5.0  # for a request once its first byte came, and for its answer
IDLE_DEADLINE: Final = 60.0  # between requests
TURN_DEADLINE: Final = 0.2  # AWS KMS gives up after 0.25

_LOOK_UP: Final = 0.1  # seconds between looks at deadlines
_PIECE: Final = 64 * 1024
# The suites of TLS 1.2 that the specification names; those of TLS 1.3 are all good.
_TLS12_SUITES: Final = "ECDHE-RSA-AES256-GCM-SHA384:ECDHE-ECDSA-AES256-GCM-SHA384"


def tls_context(
    certificate: StrPath, key: StrPath, *, client_ca: StrPath | None = None
) -> ssl.SSLContext:
    """Return the TLS settings of a server; with `client_ca`, callers need certificates.

    Raises:
        UsageError: a file cannot be read or does not fit, or others may read the key.
    """
    os.close(open_private(Path(key), os.O_RDONLY))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(_TLS12_SUITES)
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(certificate, key)
        if client_ca is not None:
            context.load_verify_locations(client_ca)
            context.verify_mode = ssl.CERT_REQUIRED
    except (OSError, ssl.SSLError) as error:
        named = ", ".join(str(Path(each)) for each in (certificate, key, client_ca) if each)
        raise UsageError(f"TLS cannot use {named}: {error}") from None
    return context


class XksServer:
    """Listens at `address` and hands requests to `proxy`. A context manager.

    `client_name` is the common name that a caller's certificate must bear; it needs a
    TLS context that asks for certificates.

    Raises:
        UsageError: the address cannot be bound, h11 is not installed, or `client_name`
            is given where no certificate is asked for.
    """

    def __init__(
        self,
        proxy: XksProxy,
        *,
        host: str,
        port: int,
        tls: ssl.SSLContext,
        client_name: str | None = None,
    ) -> None:
        try:
            import h11
        except ImportError:
            raise UsageError("the XKS proxy needs h11: pip install 'sealfabric[xks]'") from None
        if client_name is not None and tls.verify_mode is not ssl.CERT_REQUIRED:
            raise UsageError("a client name needs a CA that client certificates are of")
        self._h11: Any = h11
        self._proxy = proxy
        self._tls = tls
        self._client_name = client_name
        self._turn = threading.Lock()
        self._stop = threading.Event()
        self._guard = threading.Lock()
        self._connections: set[_Connection] = set()
        try:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            self._listener = socket.create_server((host, port), family=family, backlog=CONNECTIONS)
        except OSError as error:
            raise UsageError(f"{host} port {port} cannot be listened on: {error}") from None
        self._listener.settimeout(_LOOK_UP)
        self.address: tuple[str, int] = self._listener.getsockname()[:2]
        """What it is bound to, port filled in."""
        self._threads = [
            threading.Thread(target=self._accept, name="xks accept", daemon=True),
            threading.Thread(target=self._watch, name="xks watch", daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def __enter__(self) -> XksServer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def stop(self) -> None:
        """Let `wait` return. A signal handler may call this."""
        self._stop.set()

    def wait(self) -> None:
        """Return once `stop` was called."""
        self._stop.wait()

    def close(self) -> None:
        """Stop listening, cut every connection, and wait for the threads."""
        self.stop()
        for thread in self._threads:
            thread.join()
        self._listener.close()
        with self._guard:
            connections = list(self._connections)
        for connection in connections:
            connection.cut()
            connection.thread.join()

    def _accept(self) -> None:
        while not self._stop.is_set():
            try:
                accepted, caller = self._listener.accept()
            except TimeoutError:
                continue
            except OSError as error:
                log.warning("xks: a connection could not be accepted: %s", error)
                self._stop.wait(_LOOK_UP)
                continue
            connection = _Connection(accepted, str(caller[0]), self._run)
            with self._guard:
                room = len(self._connections) < CONNECTIONS
                if room:
                    self._connections.add(connection)
            if not room:
                log.warning("xks: %s was turned away, %d connections", caller[0], CONNECTIONS)
                accepted.close()
                continue
            connection.thread.start()

    def _watch(self) -> None:
        while not self._stop.wait(_LOOK_UP):
            now = monotonic()
            with self._guard:
                late = [each for each in self._connections if each.deadline < now]
            for connection in late:
                connection.cut()

    def _run(self, connection: _Connection) -> None:
        try:
            connection.secure(self._tls)
            if self._client_name is not None and not connection.is_named(self._client_name):
                log.warning("xks: %s bears another name", connection.caller)
                return
            self._converse(connection)
        except (OSError, ssl.SSLError) as error:
            log.info("xks: %s: %s", connection.caller, error)
        finally:
            connection.close()
            with self._guard:
                self._connections.discard(connection)

    # --- HTTP ------------------------------------------------------------------------------

    def _converse(self, connection: _Connection) -> None:
        """Answer requests on one connection until it ends or breaks the rules."""
        h11 = self._h11
        http = h11.Connection(h11.SERVER, max_incomplete_event_size=HEADER_LIMIT)
        while not self._stop.is_set():
            connection.allow(IDLE_DEADLINE)
            try:
                request = self._request(http, connection)
            except h11.RemoteProtocolError as error:
                answer = HttpResponse.error(ErrorName.VALIDATION, "the request is not HTTP/1.1")
                if http.our_state in {h11.IDLE, h11.SEND_RESPONSE}:
                    connection.send(self._encoded(http, answer, error.error_status_hint))
                return
            if request is None:
                return
            connection.allow(REQUEST_DEADLINE)
            connection.send(self._encoded(http, self._answer(request)))
            if http.our_state is not h11.DONE or http.their_state is not h11.DONE:
                return
            http.start_next_cycle()

    def _request(self, http: Any, connection: _Connection) -> HttpRequest | None:
        """The next request; None where the caller ended, or its body is too long."""
        h11 = self._h11
        head, body, begun = None, bytearray(), False
        while True:
            event = http.next_event()
            if event is h11.NEED_DATA:
                if http.they_are_waiting_for_100_continue:
                    go_on = h11.InformationalResponse(status_code=100, headers=[])
                    connection.send(http.send(go_on))
                piece = connection.receive()
                if not begun:
                    connection.allow(REQUEST_DEADLINE)
                    begun = True
                http.receive_data(piece)
            elif isinstance(event, h11.Request):
                head = event
            elif isinstance(event, h11.Data):
                body += event.data
                if len(body) > BODY_LIMIT:
                    raise h11.RemoteProtocolError("the body is too long", error_status_hint=413)
            elif isinstance(event, h11.EndOfMessage) and head is not None:
                return _parsed(head, bytes(body))
            else:
                return None

    def _answer(self, request: HttpRequest) -> HttpResponse:
        if not self._turn.acquire(timeout=TURN_DEADLINE):
            return HttpResponse.error(ErrorName.THROTTLING)
        try:
            return self._proxy.handle(request)
        except Exception:  # a fault of ours: it ends this request, not the server
            log.exception("xks: a request failed")
            return HttpResponse.error(ErrorName.INTERNAL)
        finally:
            self._turn.release()

    def _encoded(self, http: Any, answer: HttpResponse, status: int | None = None) -> bytes:
        headers = [
            ("Content-Type", "application/json"),
            ("Content-Length", str(len(answer.body))),
            ("Cache-Control", "no-store"),
        ]
        if answer.allow is not None:
            headers.append(("Allow", answer.allow))
        if status is not None:
            headers.append(("Connection", "close"))
        head = self._h11.Response(status_code=status or answer.status, headers=headers)
        parts = (head, self._h11.Data(data=answer.body), self._h11.EndOfMessage())
        return b"".join(http.send(part) or b"" for part in parts)


class _Connection:
    """One caller's socket, and by when what it is at has to be done."""

    def __init__(
        self, accepted: socket.socket, caller: str, run: Callable[[_Connection], None]
    ) -> None:
        self._socket = accepted
        self.caller = caller
        self.thread = threading.Thread(target=run, args=(self,), name="xks connection", daemon=True)
        self.allow(HANDSHAKE_DEADLINE)

    def allow(self, seconds: float) -> None:
        """Begin another phase."""
        self.deadline = monotonic() + seconds

    def secure(self, tls: ssl.SSLContext) -> None:
        """Do the TLS handshake, in this thread: a slow caller keeps nobody else waiting."""
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket = tls.wrap_socket(
            self._socket, server_side=True, do_handshake_on_connect=False
        )
        self._socket.do_handshake()

    def is_named(self, name: str) -> bool:
        """Whether the caller's certificate, which TLS has verified, has this common name."""
        assert isinstance(self._socket, ssl.SSLSocket)
        certificate = self._socket.getpeercert() or {}
        subject: Any = certificate.get("subject", ())
        return [("commonName", name)] == [
            pair for names in subject for pair in names if pair[0] == "commonName"
        ]

    def receive(self) -> bytes:
        """Bytes that came; none at the end."""
        return self._socket.recv(_PIECE)

    def send(self, data: bytes) -> None:
        """Send all of `data`."""
        self._socket.sendall(data)

    def cut(self) -> None:
        """End whatever the connection's thread waits for."""
        with suppress(OSError):
            # The one of the base class: TLS's own would wait for the caller's farewell.
            socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the socket."""
        with suppress(OSError):
            self._socket.close()


def _parsed(head: Any, body: bytes) -> HttpRequest:
    return HttpRequest(
        method=head.method.decode("ascii", "replace"),
        path=head.target.decode("ascii", "replace"),
        headers=[
            (name.decode("ascii", "replace").lower(), value.decode("latin-1"))
            for name, value in head.headers
        ],
        body=body,
    )
