"""`sealfabric kms serve` and `sealfabric kms xks-proxy`: they run until they are stopped."""

from __future__ import annotations

import argparse
import signal
import time
from collections.abc import Callable
from pathlib import Path

from ..errors import UsageError
from ..identity import Identity, Trust
from ..identity.kms import Credential, EmbeddedKeyService, XksProxy
from .kms_folder import open_folder


def add_serve_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `kms serve`."""
    parser.add_argument("--name", default="kms", help="this node's name (default kms)")
    parser.add_argument(
        "--listen",
        action="append",
        metavar="ADDRESS",
        help="tcp://HOST:PORT; repeat for several (default tcp://127.0.0.1:0)",
    )
    parser.add_argument("--identity", type=Path, required=True, metavar="FILE")
    parser.add_argument("--trust", type=Path, required=True, metavar="FILE")


def add_proxy_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `kms xks-proxy`."""
    parser.add_argument(
        "--listen", default="127.0.0.1:0", metavar="HOST:PORT", help="default 127.0.0.1:0"
    )
    parser.add_argument("--certificate", type=Path, required=True, metavar="FILE", help="PEM")
    parser.add_argument(
        "--certificate-key", type=Path, required=True, metavar="FILE", help="PEM, mode 0600"
    )
    parser.add_argument(
        "--credential",
        type=Path,
        action="append",
        required=True,
        metavar="FILE",
        help="from kms xks-credential; two while they are changed",
    )
    parser.add_argument("--client-ca", type=Path, metavar="FILE", help="ask for certificates")
    parser.add_argument("--client-name", metavar="CN", help="the name that they must bear")


def serve(arguments: argparse.Namespace) -> int:
    """Serve keys to attested peers until a signal comes."""
    from ..services import KeyServer  # here: `kms disable` must not wait for its imports

    identity, trust = Identity.load(arguments.identity), Trust.load(arguments.trust)
    with open_folder(arguments) as folder:
        service = EmbeddedKeyService(folder.store, folder.audit, clock=time.time)
        service.check()
        listen = arguments.listen or ["tcp://127.0.0.1:0"]
        with KeyServer(
            service, arguments.name, identity=identity, trust=trust, listen=listen
        ) as server:
            _stop_by_signal(server.stop)
            keys = len(folder.store.key_ids())
            print(
                f"node {arguments.name} on {' '.join(server.node.addresses)}, keys: {keys}",
                flush=True,
            )
            server.serve()
        print(f"released {service.granted}, refused {service.refusals.total()}")
    return 0


def xks_proxy(arguments: argparse.Namespace) -> int:
    """Be AWS KMS's external key store until a signal comes."""
    from ..services import XksServer, tls_context

    host, colon, port = arguments.listen.rpartition(":")
    if not colon or not host or not port.isdecimal() or int(port) > 65535:
        raise UsageError(f"--listen takes HOST:PORT, got {arguments.listen!r}")
    credentials = [Credential.load(path) for path in arguments.credential]
    tls = tls_context(
        arguments.certificate, arguments.certificate_key, client_ca=arguments.client_ca
    )
    with open_folder(arguments) as folder:
        proxy = XksProxy(folder.store, folder.audit, credentials, clock=time.time)
        with XksServer(
            proxy,
            host=host.strip("[]"),
            port=int(port),
            tls=tls,
            client_name=arguments.client_name,
        ) as server:
            _stop_by_signal(server.stop)
            at = f"{host}:{server.address[1]}"
            print(f"XKS proxy on https://{at}{credentials[0].uri_path}", flush=True)
            server.wait()
    return 0


def _stop_by_signal(stop: Callable[[], None]) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop())
