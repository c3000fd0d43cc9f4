"""`connect_group`: a group from what a launcher sets: RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT.

Rank 0 listens at the master's address. Every other rank links to it, tells it where it
listens itself, and is told where all the others do. Both travel sealed, and under the
same trust as everything later: an address in it decides whom one calls, not whom one
believes. Links to the other ranks are made when an operation needs them.

The greeting and its answer are JSON: `{"rank": 1, "size": 4, "addresses": [...]}`, and
`{"members": {"rank-0": [...], ...}}` or `{"refused": "why"}`. What does not have this
form is refused, whoever sent it.
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
from ..errors import PeerLostError, TransportError, TransportTimeoutError, UsageError
from ..identity import Identity, Trust
from ..node import Node, Work
from .group import Group
from .reduction import Kernel
from .tuning import Tuning

CONTEXT: Final = 0x5EA1_0000  # even, so no group's
GREETING_LIMIT: Final = 128 * 1024  # bytes
TABLE_LIMIT: Final = 16 * 1024 * 1024  # bytes of rank 0's answer
ADDRESS_LIMIT: Final = 1024  # characters
RAIL_LIMIT: Final = 64  # addresses of one rank
_HIGHEST_PORT: Final = 65_535


def connect_group(
    rank: int | None = None,
    size: int | None = None,
    *,
    master_addr: str | None = None,
    master_port: int | None = None,
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
    MASTER_PORT; the trust from SEALFABRIC_SECRET_FILE or SEALFABRIC_TRUST; the identity
    from the file that SEALFABRIC_IDENTITY names, else a new one. Nodes are called
    `rank-0`, `rank-1` and so on, or as `names` says: the same list on every rank. A
    rank but 0 listens at a free port of the address from which it reaches the master,
    or at `listen`. Closing the group closes its node.

    Raises:
        UsageError: something is missing or not usable, or ranks disagree about the job.
        HandshakeError: the master could not be reached.
        TransportTimeoutError: not every rank came within `connect_timeout` seconds.
    """
    rank = _number("RANK", rank)
    size = _number("WORLD_SIZE", size)
    if not 0 <= rank < size:
        raise UsageError(f"the rank must lie in 0..{size - 1}, it is {rank}")
    host = master_addr or _text("MASTER_ADDR")
    port = _number("MASTER_PORT", master_port)
    if not 1 <= port <= _HIGHEST_PORT:
        raise UsageError(f"the master's port must lie in 1..{_HIGHEST_PORT}, it is {port}")
    called = _names(names, size)
    node = Node(
        called[rank],
        identity=identity or _identity(),
        trust=trust or Trust.from_environment(),
        listen=_listen(rank, host, port) if listen is None else tuple(listen),
        config=config,
    )
    try:
        deadline = monotonic() + connect_timeout
        if rank == 0:
            members = _gather(node, called, deadline, connect_timeout)
        else:
            members = _join(node, called, rank, _tcp(host, port), deadline)
        return Group(
            node,
            members,
            name="connect_group",
            timeout=timeout,
            tuning=tuning,
            kernel=kernel,
            owns_node=True,
        )
    except BaseException:
        node.close(timeout=1.0)
        raise


# --- rank 0 --------------------------------------------------------------------------


def _gather(
    node: Node, names: Sequence[str], deadline: float, timeout: float
) -> dict[str, tuple[str, ...]]:
    """Hear from every other rank; tell all of them where the others are."""
    greetings: dict[str, Work[Any]] = {
        name: node.irecv(bytearray(GREETING_LIMIT), source=name, context=CONTEXT)
        for name in names[1:]
    }
    members = {names[0]: node.addresses}
    refusal = None
    for rank, (name, work) in enumerate(greetings.items(), start=1):
        try:
            greeting = work.complete(max(0.0, deadline - monotonic()))
            members[name] = _checked_greeting(greeting[: work.nbytes], rank, len(names))
        except TransportTimeoutError:
            missing = [each for each, work in greetings.items() if not work.done()]
            refusal = f"not every rank came within {timeout} s; missing: {[name, *missing]}"
            break
        except TransportError as error:
            refusal = f"rank {rank} ({name!r}): {error}"
            break
    answer: Mapping[str, object] = {"members": members}
    if refusal is not None:
        answer = {"refused": refusal}
    _answer(node, names[1:], json.dumps(answer).encode())
    if refusal is not None:
        late = refusal.startswith("not every rank")
        raise (TransportTimeoutError if late else UsageError)(refusal)
    return members


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
    return _checked_addresses(fields.get("addresses"))


# --- other ranks ---------------------------------------------------------------------


def _join(
    node: Node, names: Sequence[str], rank: int, master: str, deadline: float
) -> dict[str, tuple[str, ...]]:
    """Link to rank 0, greet it, and learn where the others are."""
    node.connect(master, peer=names[0], timeout=max(0.1, deadline - monotonic()))
    greeting = {"rank": rank, "size": len(names), "addresses": list(node.addresses)}
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
    return {name: _checked_addresses(each) for name, each in members.items()}


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


def _checked_addresses(addresses: object) -> tuple[str, ...]:
    if (
        not isinstance(addresses, list)
        or not 1 <= len(addresses) <= RAIL_LIMIT
        or not all(isinstance(each, str) and len(each) <= ADDRESS_LIMIT for each in addresses)
    ):
        raise UsageError("what it sent are no addresses")
    return tuple(addresses)


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
        return tuple(f"rank-{rank}" for rank in range(size))
    if isinstance(names, str) or len(names) != size or len(set(names)) != size:
        raise UsageError(f"names must be {size} different names, got {names!r:.200}")
    return tuple(names)


def _identity() -> Identity:
    if os.environ.get("SEALFABRIC_IDENTITY"):
        return Identity.from_environment()
    return Identity.generate()


def _listen(rank: int, host: str, port: int) -> tuple[str, ...]:
    """Where to listen: rank 0 where it is expected, the others where they face rank 0."""
    if rank == 0:
        return (_tcp(_resolved(host, port)[1][0], port),)
    family, address = _resolved(host, port)
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect(address)  # sends nothing: it only chooses a route
        own = probe.getsockname()[0]
    return (_tcp(own, 0),)


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
