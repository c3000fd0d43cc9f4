"""This process's node, shared by its process groups, and how ranks find each other.

Ranks meet through the store that torch gives every process group, as `collectives.store`
does it: only addresses and public keys go there, and nothing that comes from there is
believed. Who answers at an address must pass the handshake, under the name that the rank
has, by the trust of this process, and with the key that was announced.
"""

from __future__ import annotations

import atexit
import os
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

import torch.distributed as dist

from ...collectives.credentials import Credentials
from ...collectives.rendezvous import facing
from ...collectives.store import PREFIX, Announced, exchange
from ...errors import UsageError
from ...identity import rank_name
from ...node import Node
from .futures import completer
from .options import Options, default_config

CLOSE_TIMEOUT: Final = 5.0  # seconds to deliver what was sent, where that may be in vain
_READ: Final = f"{PREFIX}read"  # how many ranks have read all entries; no rank's name


class Endpoint:
    """The node of this process, for as long as a process group uses it."""

    def __init__(self, node: Node, credentials: Credentials, advertised: tuple[str, ...]) -> None:
        self.node = node
        self._credentials = credentials
        self._advertised = advertised
        self._users = 0
        self._patience = 0.0

    @classmethod
    def take(cls, place: int, ranks: Sequence[int], store: Any, options: Options) -> Endpoint:
        """The endpoint of this process, made now if there is none. `release` it once.

        `ranks` are those of the group's members in the whole job, this one's at `place`.

        Raises:
            UsageError: no trust is configured or it does not fit the job, an address is
                not usable, or `options` describe a node although there is one already.
        """
        global _current
        names = [rank_name(rank) for rank in ranks]
        with _lock:
            if _current is None:
                _current = cls._made(place, names, ranks[place], store, options)
                _register_at_exit()
            else:
                _current._check(place, names, options)
            _current._users += 1
            return _current

    @classmethod
    def _made(
        cls, place: int, names: Sequence[str], rank: int, store: Any, options: Options
    ) -> Endpoint:
        credentials = Credentials.of_rank(
            place, names, in_job=rank, identity=options.identity, trust=options.trust
        )
        node = Node(
            names[place],
            identity=credentials.identity,
            trust=credentials.trust,
            listen=tuple(options.listen or _listen(store)),
            config=options.config or default_config(),
        )
        return cls(node, credentials, tuple(options.advertise or node.addresses))

    def _check(self, place: int, names: Sequence[str], options: Options) -> None:
        """Return if a further process group may share the node."""
        if options.describes_a_node:
            raise UsageError(
                f"this process has {self.node!r} already, for its other process groups; "
                "only the first one may say how it is made"
            )
        if names[place] != self.node.name:
            raise UsageError(f"this process is {self.node.name!r}, it cannot be {names[place]!r}")
        known = self._credentials
        Credentials.of_rank(place, names, identity=known.identity, trust=known.trust)

    def meet(self, store: Any, ranks: Sequence[int]) -> Mapping[str, Announced]:
        """Tell the others where this node is; return what each rank announced, in order.

        Raises:
            TransportTimeoutError: not every rank came within the store's timeout.
            HandshakeError: the store failed.
            UsageError: what a rank announced is not usable.
        """
        names = [rank_name(rank) for rank in ranks]
        mine = Announced(self._advertised, self._credentials.identity.public_key)
        met = exchange(_Store(store), names.index(self.node.name), names, mine)
        _forget(store, names)
        return met

    def release(self, patience: float = CLOSE_TIMEOUT) -> None:
        """A process group does not use it any more; the last one closes the node.

        `patience` is for how many seconds that may go on to deliver what was sent.
        """
        global _current
        with _lock:
            self._users -= 1
            self._patience = max(self._patience, patience)
            if self._users > 0:
                return
            if _current is self:
                _current = None
        self.node.close(self._patience)


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


# --- the store -------------------------------------------------------------------------------


class _Store:
    """torch's store as `collectives.store` wants it: a wait in vain is a `TimeoutError`."""

    def __init__(self, store: Any) -> None:
        self._store = store

    def set(self, key: str, value: str) -> None:
        """Write."""
        self._store.set(key, value)

    def get(self, key: str) -> bytes:
        """Read; waits until somebody has written."""
        try:
            return bytes(self._store.get(key))
        except dist.DistStoreError as error:
            if "timeout" in str(error).lower():
                raise TimeoutError(str(error)) from error
            raise


def _forget(store: Any, names: Sequence[str]) -> None:
    """Whoever is the last to have read the entries removes them.

    A launcher's store outlives a process group, and the next one may have its name: it
    must not find the addresses of this one. torch lets nobody go on before all are here.
    """
    if store.add(_READ, 1) == len(names):
        for key in (*(f"{PREFIX}{name}" for name in names), _READ):
            with suppress(RuntimeError):  # this kind of store keeps everything
                store.delete_key(key)


# --- where to listen --------------------------------------------------------------------------


def _listen(store: Any) -> tuple[str, ...]:
    """What SEALFABRIC_LISTEN says, else a free port of the address that faces the master.

    Raises:
        UsageError: there is no way to the master.
    """
    given = os.environ.get("SEALFABRIC_LISTEN", "")
    if not given:
        return facing(_master(store))
    each = [address.strip() for address in given.split(",") if address.strip()]
    return tuple(address if "://" in address else f"tcp://{address}:0" for address in each)


def _master(store: Any) -> str:
    """The host of the job's master: MASTER_ADDR, or that of the store; else this host."""
    host = os.environ.get("MASTER_ADDR", "")
    while not host and store is not None:
        found = getattr(store, "host", "")
        host = found if isinstance(found, str) else ""
        store = getattr(store, "underlying_store", None)
    return host or "localhost"
