"""Meeting through a store that a launcher or framework runs already.

Each rank writes where it listens and its public key, and reads those of the others. A
store is believed nothing: whoever can write to it can send callers astray or announce
another key, and then a handshake fails or a group does (`Group(keys=...)`); nobody gets a
link by it who has not what the trust asks for. Nothing but addresses and public keys is
written.

An entry is JSON: `{"addresses": ["tcp://..."], "public_key": "<base64>"}`.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, Protocol, TypeVar

from ..errors import HandshakeError, TransportTimeoutError, UsageError

PREFIX: Final = "sealfabric/1/"
ADDRESS_LIMIT: Final = 1024  # characters
RAIL_LIMIT: Final = 64  # addresses of one rank
ENTRY_LIMIT: Final = 128 * 1024  # bytes
KEY_SIZE: Final = 32  # bytes
T = TypeVar("T")
_ADDRESSES, _PUBLIC_KEY = "addresses", "public_key"


class Store(Protocol):
    """What all ranks can reach and write to: torch's stores have this form."""

    def set(self, key: str, value: str) -> object:
        """Write."""
        ...

    def get(self, key: str) -> bytes:
        """Read; waits until somebody has written."""
        ...


@dataclass(frozen=True, slots=True)
class Announced:
    """What a rank said of itself: where it listens, and which key it will prove to have."""

    addresses: tuple[str, ...]
    public_key: bytes

    def fields(self) -> dict[str, object]:
        """Its form in JSON."""
        return {
            _ADDRESSES: list(self.addresses),
            _PUBLIC_KEY: base64.b64encode(self.public_key).decode("ascii"),
        }

    @classmethod
    def parsed(cls, fields: object) -> Announced:
        """Read what `fields` wrote.

        Raises:
            UsageError: it does not have this form.
        """
        if not isinstance(fields, dict):
            raise UsageError("what it announced is no object")
        addresses, key = checked_addresses(fields.get(_ADDRESSES)), fields.get(_PUBLIC_KEY)
        try:
            public_key = base64.b64decode(key, validate=True) if isinstance(key, str) else b""
        except (binascii.Error, ValueError):
            public_key = b""
        if len(public_key) != KEY_SIZE:
            raise UsageError("what it announced as its public key is none")
        return cls(addresses, public_key)


def exchange(
    store: Store, rank: int, names: Sequence[str], mine: Announced, *, prefix: str = PREFIX
) -> Mapping[str, Announced]:
    """Tell the others where this rank is; return what each of `names` announced, in order.

    Waits for all of them, as long as the store does. A store serves one job, or `prefix`
    tells jobs and attempts apart.

    Raises:
        UsageError: an entry does not have the form of one.
        TransportTimeoutError: a rank did not come in the store's time.
        HandshakeError: the store failed in another way.
    """
    found = {}
    _ask(partial(store.set, f"{prefix}{names[rank]}", json.dumps(mine.fields())), "be written to")
    for place, name in enumerate(names):
        if place == rank:
            found[name] = mine
            continue
        what = f"read what rank {place} ({name!r}) announced"
        entry = _ask(partial(store.get, f"{prefix}{name}"), what)
        try:
            found[name] = Announced.parsed(_json(entry))
        except UsageError as error:
            raise UsageError(f"rank {place} ({name!r}), in the store: {error}") from None
    return found


def _ask(call: Callable[[], T], what: str) -> T:
    """A store may raise whatever its maker thought of; callers catch errors of this package."""
    try:
        return call()
    except Exception as error:
        kind = TransportTimeoutError if isinstance(error, TimeoutError) else HandshakeError
        raise kind(f"the store could not {what}: {error}") from error


def _json(entry: object) -> object:
    if not isinstance(entry, (bytes, bytearray, str)) or len(entry) > ENTRY_LIMIT:
        return None
    try:
        return json.loads(entry)
    except (ValueError, RecursionError):
        return None


def checked_addresses(addresses: object) -> tuple[str, ...]:
    """The addresses in a message or entry.

    Raises:
        UsageError: it holds none, or something else.
    """
    if (
        not isinstance(addresses, list)
        or not 1 <= len(addresses) <= RAIL_LIMIT
        or not all(isinstance(each, str) and len(each) <= ADDRESS_LIMIT for each in addresses)
    ):
        raise UsageError("what it sent are no addresses")
    return tuple(addresses)
