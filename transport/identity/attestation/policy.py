"""What a node asks of another's attestation: `AttestationPolicy`, and its file.

A policy file is one JSON object:

    {"pcrs": {"0": ["<96 hexadecimal digits>", "…"], "8": ["…"]},
     "roots": ["nitro", "<path of a PEM file>"],
     "max_age": 300, "clock_skew": 60, "allow_debug": false}

Only `pcrs` is required. A register must hold one of its values; registers that are not
named may hold anything. Invariants: a policy always asks for at least one register, and
one that no document could satisfy is refused when it is made, not at the first link.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from ...errors import UsageError
from ..keys import StrPath
from .document import PCR_COUNT, PCR_SIZE
from .roots import Root, nitro_root, read_small_file

__all__ = ["AttestationPolicy"]

MAX_AGE: Final = 300.0  # seconds
CLOCK_SKEW: Final = 60.0  # seconds
CLOCK_SKEW_LIMIT: Final = 3600.0
MAX_AGE_LIMIT: Final = 10 * 365 * 86400.0
POLICY_FILE_LIMIT: Final = 1024 * 1024  # bytes

_HASH_LABEL: Final = b"sealfabric 1 policy"
_KEYS: Final = frozenset({"pcrs", "roots", "max_age", "clock_skew", "allow_debug"})
_NITRO: Final = "nitro"
_ZERO: Final = bytes(PCR_SIZE)


@dataclass(frozen=True, slots=True, init=False)
class AttestationPolicy:
    """Which measured programs are accepted, on whose word, and how fresh it must be.

    `pcrs` maps a register's index (0 to 31) to the values that are accepted for it,
    each 48 bytes or 96 hexadecimal digits. `roots` are those that a chain may start
    from, by default Nitro's alone. A document older than `max_age` seconds is stale;
    `clock_skew` seconds are allowed for a clock of this side that is behind. Debug
    mode, where the registers 0, 1 and 2 are zero, is refused unless `allow_debug`.

    Immutable, and safe to share between threads.

    Raises:
        UsageError: the policy is empty, malformed, or can never hold.
    """

    pcrs: Mapping[int, frozenset[bytes]]
    roots: tuple[Root, ...]
    max_age: float
    clock_skew: float
    allow_debug: bool

    def __init__(
        self,
        pcrs: Mapping[int, Collection[bytes | str]],
        *,
        roots: Sequence[Root] | None = None,
        max_age: float = MAX_AGE,
        clock_skew: float = CLOCK_SKEW,
        allow_debug: bool = False,
    ) -> None:
        if not isinstance(allow_debug, bool):
            raise UsageError(f"`allow_debug` must be true or false, got {allow_debug!r:.40}")
        checked = _checked_pcrs(pcrs)
        _check_debug(checked, allow_debug=allow_debug)
        values: dict[str, object] = {
            "pcrs": MappingProxyType(checked),
            "roots": _checked_roots(roots),
            "max_age": _seconds(max_age, "max_age", MAX_AGE_LIMIT, zero=False),
            "clock_skew": _seconds(clock_skew, "clock_skew", CLOCK_SKEW_LIMIT, zero=True),
            "allow_debug": allow_debug,
        }
        for name, value in values.items():
            object.__setattr__(self, name, value)

    @classmethod
    def load(cls, path: StrPath) -> AttestationPolicy:
        """Return the policy in a JSON file; relative paths in it start at its folder.

        Raises:
            UsageError: the file cannot be read, is not as described, or the policy
                is empty or can never hold.
        """
        try:
            return cls._from_object(_read_object(path), Path(path).parent)
        except UsageError as error:
            raise UsageError(f"{os.fspath(path)}: {error}") from None

    @classmethod
    def _from_object(cls, fields: dict[str, Any], folder: Path) -> AttestationPolicy:
        unknown = sorted(fields.keys() - _KEYS)
        if unknown:
            # A misspelt or newer condition that is ignored would fail open.
            raise UsageError(f"unknown keys: {', '.join(map(repr, unknown))}")
        if "pcrs" not in fields:
            raise UsageError("an empty policy: it must expect at least one PCR")
        settings = {name: fields[name] for name in _KEYS - {"pcrs", "roots"} if name in fields}
        roots = _decoded_roots(fields["roots"], folder) if "roots" in fields else None
        return cls(_decoded_pcrs(fields["pcrs"]), roots=roots, **settings)

    def to_json(self) -> str:
        """Return the policy in its canonical form, with the fingerprints of its roots."""
        return json.dumps(
            {
                "allow_debug": self.allow_debug,
                "clock_skew": self.clock_skew,
                "max_age": self.max_age,
                "pcrs": {
                    f"{index:02}": sorted(value.hex() for value in values)
                    for index, values in self.pcrs.items()
                },
                "roots": sorted(root.fingerprint for root in self.roots),
            },
            sort_keys=True,
            separators=(",", ":"),
        )

    @property
    def hash(self) -> bytes:
        """32 bytes that name this policy, for the handshake: SHA-256 of its canonical form."""
        return hashlib.sha256(_HASH_LABEL + self.to_json().encode("ascii")).digest()


def _checked_pcrs(pcrs: object) -> dict[int, frozenset[bytes]]:
    if not isinstance(pcrs, Mapping):
        raise UsageError(f"`pcrs` must map indices to values, got {type(pcrs).__name__}")
    if not pcrs:
        raise UsageError("an empty policy: it must expect at least one PCR")
    for index in pcrs:
        if type(index) is not int or not 0 <= index < PCR_COUNT:
            raise UsageError(f"there is no PCR {index!r:.40}; indices are 0 to {PCR_COUNT - 1}")
    return {index: _checked_values(index, pcrs[index]) for index in sorted(pcrs)}


def _checked_values(index: int, values: object) -> frozenset[bytes]:
    if isinstance(values, (str, bytes, bytearray)) or not isinstance(values, Collection):
        raise UsageError(f"PCR{index} needs a list of accepted values, got {values!r:.40}")
    if not values:
        raise UsageError(f"PCR{index} has no accepted value, so the policy can never hold")
    return frozenset(_checked_value(index, value) for value in values)


def _checked_value(index: int, value: object) -> bytes:
    if isinstance(value, str):
        try:
            value = bytes.fromhex(value)
        except ValueError:
            raise UsageError(f"PCR{index}: {value!r:.40} is not hexadecimal") from None
    if not isinstance(value, (bytes, bytearray)):
        raise UsageError(f"PCR{index}: a value must be bytes or hexadecimal, got {value!r:.40}")
    if len(value) != PCR_SIZE:
        raise UsageError(
            f"PCR{index}: a value has {len(value)} bytes; registers are SHA-384, {PCR_SIZE} bytes"
        )
    return bytes(value)


def _check_debug(pcrs: Mapping[int, frozenset[bytes]], *, allow_debug: bool) -> None:
    """Refuse what can never hold: debug mode is exactly where PCR0, 1 and 2 are zero."""
    if not allow_debug and pcrs.get(0) == frozenset({_ZERO}):
        raise UsageError(
            "PCR0 is expected to be zero, as in debug mode, which `allow_debug` does not allow"
        )
    impossible = [index for index in (0, 1, 2) if _ZERO not in pcrs.get(index, {_ZERO})]
    if allow_debug and impossible:
        named = ", ".join(f"PCR{index}" for index in impossible)
        raise UsageError(
            f"`allow_debug` contradicts the values of {named}: in debug mode they are zero"
        )


def _checked_roots(roots: Sequence[Root] | None) -> tuple[Root, ...]:
    if roots is None:
        return (nitro_root(),)
    if not roots:
        raise UsageError("a policy without roots can never hold")
    for root in roots:
        if not isinstance(root, Root):
            raise UsageError(f"`roots` must be Root objects, got {type(root).__name__}")
    return tuple(dict.fromkeys(roots))


def _seconds(value: object, name: str, limit: float, *, zero: bool) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise UsageError(f"`{name}` must be a number of seconds, got {value!r:.40}")
    if value < 0 or value > limit or (value == 0 and not zero):
        least = "0 or more" if zero else "more than 0"
        raise UsageError(f"`{name}` must be {least} and at most {limit:g} seconds, got {value!r}")
    return float(value)


def _read_object(path: StrPath) -> dict[str, Any]:
    content = read_small_file(path, POLICY_FILE_LIMIT)
    try:
        fields = json.loads(content, object_pairs_hook=_without_repeats)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"not valid JSON: {error}") from None
    if not isinstance(fields, dict):
        raise UsageError("a policy is a JSON object")
    return fields


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    collected = dict(pairs)
    if len(collected) != len(pairs):
        raise ValueError("a key occurs twice in one object")
    return collected


def _decoded_pcrs(pcrs: object) -> dict[int, Any]:
    if not isinstance(pcrs, dict):
        raise UsageError("`pcrs` must be an object of indices and lists of values")
    decoded: dict[int, Any] = {}
    for name, values in pcrs.items():
        if not name.isascii() or not name.isdecimal() or str(int(name)) != name:
            raise UsageError(f"there is no PCR {name!r:.40}; indices are 0 to {PCR_COUNT - 1}")
        if not isinstance(values, list) or not all(isinstance(each, str) for each in values):
            raise UsageError(f"PCR{name} needs a list of hexadecimal values")
        decoded[int(name)] = values
    return decoded


def _decoded_roots(roots: object, folder: Path) -> list[Root]:
    if not isinstance(roots, list) or not all(isinstance(each, str) for each in roots):
        raise UsageError(f"`roots` must be a list of {_NITRO!r} and paths of PEM files")
    if any("\0" in each for each in roots):
        raise UsageError("a path in `roots` holds a zero byte")
    return [nitro_root() if each == _NITRO else Root.load(folder / each) for each in roots]
