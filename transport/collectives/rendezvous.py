"""`connect_group`: a group from what a launcher sets: RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT.

Rank 0 listens at the master's address. Every other rank links to it, tells it where it
listens itself, and is told where all the others do and which public keys they proved to
rank 0. Both travel sealed, and under the same trust as everything later: an address
decides whom one calls, not whom one believes, and a key only adds to what the trust asks
for. Links to the other ranks are made when an operation needs them. Where there is a
store, addresses and keys go through it instead (`store`).

The greeting and its answer are JSON: `{"rank": 1, "size": 4, "addresses": [...]}`, and
`{"members": {"rank-0": {"addresses": [...], "public_key": "<base64>"}, ...}}` or
`{"refused": "why"}`. What does not have this form is refused, whoever sent it.
"""

from __future__ import annotations

import ipaddress
import json
import os
import socket
from collections.abc import Mapping, Sequence
from contextlib import suppress
from time import monotonic
from typing import Any, Final

from ..config import Config
from ..errors import (
    AuthenticationError,
    PeerLostError,
    TransportError,
    TransportTimeoutError,
    UsageError,
)
from ..identity import Identity, Trust, rank_name
from ..node import Node, Work
from .credentials import Credentials
from .group import Group
from .reduction import Kernel
from .store import Announced, Store, checked_addresses, exchange
from .tuning import Tuning

CONTEXT: Final = 0x5EA1_0000  # even, so no group's
GREETING_LIMIT: Final = 128 * 1024  # bytes
TABLE_LIMIT: Final = 16 * 1024 * 1024  # bytes of rank 0's answer
_HIGHEST_PORT: Final = 65_535


def connect_group(
    rank: int | None = None,
    size: int | None = None,
    *,
    master_addr: str | None = None,
    master_port: int | None = None,
    store: Store | None = None,
    trust: Trust | None = None,
    identity: Identity | None = None,
    listen: Sequence[str] | None = None,
    names: Sequence[str] | None = None,
    timeout: float = 300.0,
    connect_timeout: float = 60.0,
    config: Config | None = None,
    tuning: Tuning | None = None,
    kernel: Kernel | None = None,
) -> Group:
    """Return the group of all ranks of a job, with a node of its own.

    What is not given comes from the environment: RANK, WORLD_SIZE, MASTER_ADDR and
    MASTER_PORT; the trust from SEALFABRIC_TRUST and SEALFABRIC_SECRET_FILE; the identity
    from the file that SEALFABRIC_IDENTITY names, `{rank}` in its path standing for the
    rank, else a new one where the trust pins no keys. Nodes are called `rank-0`, `rank-1`
    and so on, or as `names` says: the same list on every rank. A rank but 0 listens at a
    free port of the address from which it reaches the master, or at `listen`. With a
    `store`, ranks meet there, and no rank listens at the master's port. Closing the group
    closes its node.

    Raises:
        UsageError: something is missing or not usable, the trust and the identity do not
            fit this job, or ranks disagree about the job.
        HandshakeError: the master or the store could not be reached.
        TransportTimeoutError: not every rank came within `connect_timeout` seconds.
    """
    rank = _number("RANK", rank)
    size = _number("WORLD_SIZE", size)
    if not 0 <= rank < size:
        raise UsageError(f"the rank must lie in 0..{size - 1}, it is {rank}")
    called = _names(names, size)
    master = None if store is not None else _master(master_addr, master_port)
    if listen is None:
        if master is None:
            listen = facing(master_addr or _text("MASTER_ADDR"))
        else:
            listen = (_tcp(_resolved(*master)[1][0], master[1]),) if not rank else facing(*master)
    credentials = Credentials.of_rank(rank, called, identity=identity, trust=trust)
    node = Node(
        called[rank],
        identity=credentials.identity,
        trust=credentials.trust,
        listen=tuple(listen),
        config=config,
    )
    try:
        mine = Announced(node.addresses, credentials.identity.public_key)
        deadline = monotonic() + connect_timeout
        if store is not None:
            met = exchange(store, rank, called, mine)
        elif rank == 0:
            met = _gather(node, called, mine, deadline, connect_timeout)
        else:
            assert master is not None
            met = _join(node, called, rank, mine, _tcp(*master), deadline)
        return Group(
            node,
            {name: each.addresses for name, each in met.items()},
            name="connect_group",
            timeout=timeout,
            tuning=tuning,
            kernel=kernel,
            keys={name: each.public_key for name, each in met.items()},
            owns_node=True,
        )
    except BaseException:
        node.close(timeout=1.0)
        raise


def facing(host: str, port: int = 1) -> tuple[str, ...]:
    """Where to listen to be reached by those who can reach `host`: a free port there.

    Raises:
        UsageError: the host is not known, or there is no way to it.
    """
    family, address = _resolved(host, port)
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(address)  # sends nothing: it only chooses a route
        except OSError as error:
            raise UsageError(f"there is no way to {host!r}: {error}") from None
        return (_tcp(probe.getsockname()[0], 0),)


# --- rank 0 --------------------------------------------------------------------------


def _gather(
    node: Node, names: Sequence[str], mine: Announced, deadline: float, timeout: float
) -> dict[str, Announced]:
    """Hear from every other rank; tell all of them where the others are."""
    greetings: dict[str, Work[Any]] = {
        name: node.irecv(bytearray(GREETING_LIMIT), source=name, context=CONTEXT)
        for name in names[1:]
    }
    members = {names[0]: mine}
    refusal = None
    for rank, (name, work) in enumerate(greetings.items(), start=1):
        try:
            greeting = work.complete(max(0.0, deadline - monotonic()))
            addresses = _checked_greeting(greeting[: work.nbytes], rank, len(names))
            # The key is the one that the handshake proved, whatever the rank may say.
            members[name] = Announced(addresses, node.link(name).stats().peer_key)
        except TransportTimeoutError:
            missing = [each for each, work in greetings.items() if not work.done()]
            refusal = f"not every rank came within {timeout} s; missing: {[name, *missing]}"
            refusal += "".join(_reason(node, each) for each in (name, *missing))
            break
        except TransportError as error:
            refusal = f"rank {rank} ({name!r}): {error}"
            break
    answer: Mapping[str, object] = {
        "members": {name: each.fields() for name, each in members.items()}
    }
    if refusal is not None:
        answer = {"refused": refusal}
    _answer(node, names[1:], json.dumps(answer).encode())
    if refusal is not None:
        late = refusal.startswith("not every rank")
        raise (TransportTimeoutError if late else UsageError)(refusal)
    return members


def _reason(node: Node, name: str) -> str:
    """Why a rank is missing, where it called and was refused; the caller itself is not told."""
    try:
        node.wait_for(name, timeout=0.0)
    except AuthenticationError as error:
        return f"; {error}"
    except TransportError:
        pass
    return ""


def _answer(node: Node, names: Sequence[str], answer: bytes) -> None:
    works = []
    for name in names:
        with suppress(TransportError):  # never linked, or gone: nothing to tell it
            works.append(node.isend(answer, to=name, context=CONTEXT))
    for work in works:
        with suppress(TransportError):
            work.complete(5.0)


def _checked_greeting(greeting: Any, rank: int, size: int) -> tuple[str, ...]:
    """The addresses in a greeting.

    Raises:
        UsageError: it is not one, or from another job.
    """
    fields = _parsed(greeting)
    if fields.get("rank") != rank or fields.get("size") != size:
        raise UsageError(
            f"it is rank {fields.get('rank')!r:.40} of {fields.get('size')!r:.40}, "
            f"rank 0 is in a job of {size}"
        )
    return checked_addresses(fields.get("addresses"))


# --- other ranks ---------------------------------------------------------------------


def _join(
    node: Node,
    names: Sequence[str],
    rank: int,
    mine: Announced,
    master: str,
    deadline: float,
) -> dict[str, Announced]:
    """Link to rank 0, greet it, and learn where the others are."""
    node.connect(master, peer=names[0], timeout=max(0.1, deadline - monotonic()))
    greeting = {"rank": rank, "size": len(names), "addresses": list(mine.addresses)}
    work = node.isend(json.dumps(greeting).encode(), to=names[0], context=CONTEXT)
    work.complete(max(0.1, deadline - monotonic()))
    # Rank 0 gives up at its own deadline, and says so; it may have begun later than we.
    patience = max(0.1, deadline - monotonic()) + 5.0
    try:
        answered = node.irecv(bytearray(TABLE_LIMIT), source=names[0], context=CONTEXT)
        answer = answered.complete(patience)
    except TransportTimeoutError:
        raise TransportTimeoutError("rank 0 did not say where the other ranks are") from None
    except PeerLostError as error:
        raise PeerLostError(f"rank 0 left before all ranks had met: {error}") from None
    fields = _parsed(answer[: answered.nbytes])
    if "refused" in fields:
        raise UsageError(f"rank 0 refused: {fields['refused']!s:.1000}")
    members = fields.get("members")
    if not isinstance(members, dict) or list(members) != list(names):
        raise UsageError("rank 0 has another list of names than this rank")
    met = {name: Announced.parsed(each) for name, each in members.items()}
    if met[names[rank]] != mine:
        raise UsageError("rank 0 has met somebody else under the name of this rank")
    return met


# --- what came from elsewhere ----------------------------------------------------------


def _parsed(message: Any) -> dict[str, Any]:
    """The JSON object in a received message.

    Raises:
        UsageError: there is none.
    """
    try:
        fields = json.loads(bytes(message))
    except ValueError:
        fields = None
    if not isinstance(fields, dict):
        raise UsageError("what it sent is no greeting")
    return fields


# --- what is not given -----------------------------------------------------------------


def _text(variable: str) -> str:
    value = os.environ.get(variable, "")
    if not value:
        raise UsageError(f"{variable} is not set; a launcher sets it, or pass it as an argument")
    return value


def _number(variable: str, given: int | None) -> int:
    if given is not None:
        return given
    value = _text(variable)
    if not value.isdecimal():
        raise UsageError(f"{variable} must be a whole number, it is {value!r:.40}")
    return int(value)


def _names(names: Sequence[str] | None, size: int) -> tuple[str, ...]:
    if names is None:
        return tuple(map(rank_name, range(size)))
    if isinstance(names, str) or len(names) != size or len(set(names)) != size:
        raise UsageError(f"names must be {size} different names, got {names!r:.200}")
    return tuple(names)


def _master(host: str | None, port: int | None) -> tuple[str, int]:
    """Where rank 0 is to be found."""
    host = host or _text("MASTER_ADDR")
    port = _number("MASTER_PORT", port)
    if not 1 <= port <= _HIGHEST_PORT:
        raise UsageError(f"the master's port must lie in 1..{_HIGHEST_PORT}, it is {port}")
    return host, port


def _resolved(host: str, port: int) -> tuple[int, Any]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)
    except OSError as error:
        raise UsageError(f"the master's address {host!r} cannot be resolved: {error}") from None
    family, _, _, _, address = found[0]
    return family, address


def _tcp(host: str, port: int) -> str:
    with suppress(ValueError):
        if ipaddress.ip_address(host.partition("%")[0]).version == 6:
            return f"tcp://[{host}]:{port}"
    return f"tcp://{host}:{port}"
