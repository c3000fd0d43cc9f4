"""This process's node, shared by its process groups, and how ranks find each other.

Each rank of a process group writes its node's name, addresses and public key into the
group's store, and reads those of the others. The store is neither sealed nor
authenticated: an address from it decides whom one calls, never whom one believes. Who
answers must pass the handshake, under the name that the rank has, and by the trust of
this process. A public key in the store is only compared with a pinned one, so that a
mistake is found at the start and named, instead of at the first operation.
"""

from __future__ import annotations

import atexit
import base64
import binascii
import ipaddress
import json
import logging
import os
import socket
import threading
from contextlib import suppress
from typing import Any, Final

from ...errors import TransportTimeoutError, UsageError
from ...identity import Identity, Trust
from ...identity.trust import check_name
from ...node import Node
from .futures import completer
from .options import Options, default_config

log = logging.getLogger("transport")

LISTEN_VARIABLE: Final = "SEALFABRIC_LISTEN"
ENTRY_LIMIT: Final = 64 * 1024  # bytes of what a rank may write into the store
RAIL_LIMIT: Final = 64  # addresses of one rank
ADDRESS_LIMIT: Final = 1024  # characters
CLOSE_TIMEOUT: Final = 5.0  # seconds to deliver what was sent
_READ: Final = "sealfabric/read"  # how many ranks have read all entries
_PROBE_PORT: Final = 9  # nothing is sent there: it only chooses a route


class Endpoint:
    """The node of this process, for as long as a process group uses it."""

    def __init__(self, node: Node, trust: Trust, public_key: bytes) -> None:
        self.node = node
        self.trust = trust
        self._public_key = public_key
        self._users = 0

    @classmethod
    def take(cls, rank: int, store: Any, options: Options) -> Endpoint:
        """The endpoint of this process, made now if there is none. `release` it once.

        `rank` is this process's in the whole job.

        Raises:
            UsageError: no trust is configured, an address is not usable, or `options`
                describe a node although there is one already.
        """
        global _current
        with _lock:
            if _current is None:
                _current = cls._made(rank, store, options)
                _register_at_exit()
            elif options.describes_a_node:
                raise UsageError(
                    f"this process has {_current.node!r} already, for its other process groups; "
                    "only the first one may say how it is made"
                )
            _current._users += 1
            return _current

    @classmethod
    def _made(cls, rank: int, store: Any, options: Options) -> Endpoint:
        trust = options.trust or Trust.from_environment()
        name = options.name or f"rank-{rank}"
        identity = options.identity or _identity()
        pinned = trust.pinned(name)
        if not trust.knows(name):
            raise UsageError(
                f"the trust has no key for this rank, {name!r}: a trust file with `peers` "
                "names every rank, rank-0, rank-1 and so on"
            )
        if pinned is not None and pinned != identity.public_key:
            raise UsageError(
                f"the trust pins another public key for this rank, {name!r}, than its identity "
                "has: set SEALFABRIC_IDENTITY to the key file of this very rank"
            )
        listen = options.listen or _listen(store)
        config = options.config or default_config()
        node = Node(name, identity=identity, trust=trust, listen=listen, config=config)
        return cls(node, trust, identity.public_key)

    def release(self) -> None:
        """A process group does not use it any more; the last one closes the node."""
        global _current
        with _lock:
            self._users -= 1
            if self._users > 0:
                return
            if _current is self:
                _current = None
        self.node.close(CLOSE_TIMEOUT)

    # --- through the store ---------------------------------------------------------------

    def meet(self, store: Any, rank: int, size: int) -> dict[str, tuple[str, ...]]:
        """Tell the others where this node is; return their names and addresses, by rank.

        Raises:
            TransportTimeoutError: not every rank came within the store's timeout.
            UsageError: what a rank wrote is no entry, or contradicts the trust.
        """
        entry = {
            "name": self.node.name,
            "addresses": list(self.node.addresses),
            "public_key": base64.b64encode(self._public_key).decode(),
        }
        store.set(_key(rank), json.dumps(entry))
        keys = [_key(each) for each in range(size)]
        try:
            store.wait(keys)
        except RuntimeError as error:
            missing = [number for number, key in enumerate(keys) if not store.check([key])]
            raise TransportTimeoutError(
                f"not every rank came to the process group in time; missing: {missing} ({error})"
            ) from None
        members: dict[str, tuple[str, ...]] = {}
        for number, key in enumerate(keys):
            name, addresses = self._parsed(number, bytes(store.get(key)))
            if name in members:
                earlier = list(members).index(name)
                raise UsageError(f"ranks {earlier} and {number} have the same name, {name!r}")
            members[name] = addresses
        if list(members)[rank] != self.node.name:
            raise UsageError(f"somebody else wrote the entry of rank {rank} in the store")
        _forget(store, keys)
        return members

    def _parsed(self, rank: int, entry: bytes) -> tuple[str, tuple[str, ...]]:
        """Name and addresses of a rank.

        Raises:
            UsageError: they are none, or the trust says otherwise.
        """
        try:
            fields = json.loads(entry[: ENTRY_LIMIT + 1])
            name = check_name(fields["name"])
            addresses = tuple(fields["addresses"])
            public_key = base64.b64decode(fields["public_key"], validate=True)
        except (ValueError, KeyError, TypeError, binascii.Error, RecursionError):
            raise UsageError(f"what the store holds of rank {rank} is no entry") from None
        if not 1 <= len(addresses) <= RAIL_LIMIT or not all(
            isinstance(each, str) and len(each) <= ADDRESS_LIMIT for each in addresses
        ):
            raise UsageError(f"what the store holds of rank {rank} are no addresses")
        if not self.trust.knows(name):
            raise UsageError(f"the trust has no key for rank {rank}, which calls itself {name!r}")
        pinned = self.trust.pinned(name)
        if pinned is not None and pinned != public_key:
            raise UsageError(
                f"rank {rank} ({name!r}) has another public key than the trust pins for it"
            )
        return name, addresses


_current: Endpoint | None = None
_lock = threading.Lock()
_at_exit = False


def _register_at_exit() -> None:
    global _at_exit
    if not _at_exit:
        _at_exit = True
        atexit.register(_close_at_exit)


def _close_at_exit() -> None:
    """End what nobody released: no thread of ours may outlive the interpreter.

    The node goes first, since that ends every operation, and so whatever waits for one.
    """
    endpoint = _current
    if endpoint is not None:
        endpoint.node.close(CLOSE_TIMEOUT)
    completer.end()


def _key(rank: int) -> str:
    return f"sealfabric/{rank}"


def _forget(store: Any, keys: list[str]) -> None:
    """Whoever is the last to have read the entries removes them.

    A launcher's store outlives a process group, and the next one may have its name: it
    must not find the addresses of this one. torch lets nobody go on before all are here.
    """
    if store.add(_READ, 1) == len(keys):
        for key in (*keys, _READ):
            with suppress(RuntimeError):  # this kind of store keeps everything
                store.delete_key(key)


def _identity() -> Identity:
    if os.environ.get("SEALFABRIC_IDENTITY"):
        return Identity.from_environment()
    return Identity.generate()


# --- where to listen ----------------------------------------------------------------------


def _listen(store: Any) -> tuple[str, ...]:
    """What SEALFABRIC_LISTEN says, else a free port of the address that faces the master."""
    given = os.environ.get(LISTEN_VARIABLE, "")
    if given:
        return tuple(_address(each.strip()) for each in given.split(",") if each.strip())
    return (_tcp(_facing(_master(store))),)


def _master(store: Any) -> str:
    """The host of the job's master: MASTER_ADDR, or that of the store; else this host."""
    host = os.environ.get("MASTER_ADDR", "")
    while not host and store is not None:
        found = getattr(store, "host", "")
        host = found if isinstance(found, str) else ""
        store = getattr(store, "underlying_store", None)
    return host or "localhost"


def _facing(host: str) -> str:
    """The address of this machine from which it reaches `host`.

    Raises:
        UsageError: `host` cannot be resolved or reached.
    """
    try:
        found = socket.getaddrinfo(host, _PROBE_PORT, type=socket.SOCK_DGRAM)
        family, _, _, _, address = found[0]
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect(address)
            return str(probe.getsockname()[0])
    except OSError as error:
        raise UsageError(
            f"cannot tell which address faces the master {host!r} ({error}); "
            f"set {LISTEN_VARIABLE} to this host's address"
        ) from None


def _address(given: str) -> str:
    """`tcp://host:port`, or a host alone, which means a free port of it."""
    return given if "://" in given else _tcp(given)


def _tcp(host: str) -> str:
    with suppress(ValueError):
        if ipaddress.ip_address(host.partition("%")[0]).version == 6:
            return f"tcp://[{host}]:0"
    return f"tcp://{host}:0"
