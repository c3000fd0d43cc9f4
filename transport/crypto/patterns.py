"""Noise handshake patterns as data, and the protocol names that choose among them.

Patterns are written as Noise revision 34 section 7 prints them. The modifiers `pskN`
(section 9) and `hfs` (the hybrid forward secrecy extension) rewrite that data when
a protocol name is parsed (section 8), so the plain patterns of the public vectors
and the suite of a link are run by the same interpreter in `noise`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias, TypeVar

from ..errors import UsageError
from .primitives import CIPHERS, HASHES, Cipher, Hash

__all__ = ["PATTERNS", "Message", "Pattern", "Protocol", "Token"]

_NAME_LIMIT = 255  # bytes, Noise section 8.1

_T = TypeVar("_T")


class Token(StrEnum):
    """One step of a message: Noise section 7.1, psk section 9, e1 and ekem1 from HFS."""

    E = "e"
    S = "s"
    EE = "ee"  # of the DH tokens, the first letter is the initiator's key
    ES = "es"
    SE = "se"
    SS = "ss"
    PSK = "psk"
    E1 = "e1"
    EKEM1 = "ekem1"


Message: TypeAlias = tuple[Token, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pattern:
    """A handshake pattern: which statics are known before, and the tokens of each message."""

    initiator_static_known: bool = False
    responder_static_known: bool = False
    messages: tuple[Message, ...]


def _messages(*lines: str) -> tuple[Message, ...]:
    return tuple(tuple(Token(word) for word in line.split()) for line in lines)


# Noise section 7.5, as printed there. The initiator writes the first line.
PATTERNS: dict[str, Pattern] = {
    "NN": Pattern(messages=_messages("e", "e ee")),
    "XX": Pattern(messages=_messages("e", "e ee s es", "s se")),
    "IX": Pattern(messages=_messages("e s", "e ee se s es")),
    "IK": Pattern(
        responder_static_known=True,
        messages=_messages("e es s ss", "e ee se"),
    ),
    "KK": Pattern(
        initiator_static_known=True,
        responder_static_known=True,
        messages=_messages("e es ss", "e ee se"),
    ),
}

_NAME = re.compile(
    r"Noise_(?P<pattern>[A-Z][A-Z0-9]*)(?P<modifiers>[a-z][a-z0-9]*(?:\+[a-z][a-z0-9]*)*)?"
    r"_(?P<dh>[A-Za-z0-9/+]+)_(?P<cipher>[A-Za-z0-9/]+)_(?P<hash>[A-Za-z0-9/]+)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Protocol:
    """A parsed protocol name (Noise section 8): the modified pattern and the algorithms."""

    name: str
    pattern: Pattern
    cipher: Cipher
    hash: Hash
    psk: bool
    hfs: bool

    @classmethod
    def parse(cls, name: str) -> Protocol:
        """Return what `name` stands for.

        Raises:
            UsageError: the name is malformed, or a part of it is not supported.
        """
        parts = _NAME.fullmatch(name)
        if parts is None or len(name) > _NAME_LIMIT:
            raise UsageError(f"not a Noise protocol name: {name!r}")
        pattern = _known(PATTERNS, parts["pattern"], name)
        modifiers = parts["modifiers"].split("+") if parts["modifiers"] else []
        hfs = "hfs" in modifiers
        psk = len(modifiers) > hfs
        if len(modifiers) > hfs + psk:
            raise UsageError(f"{name!r}: at most one psk and one hfs modifier are supported")
        if parts["dh"] != ("25519+MLKEM768" if hfs else "25519"):
            raise UsageError(f"{name!r}: key agreement {parts['dh']!r} does not suit the pattern")
        messages = pattern.messages
        for modifier in modifiers:
            messages = _modify(messages, modifier, name)
        return cls(
            name=name,
            pattern=Pattern(
                initiator_static_known=pattern.initiator_static_known,
                responder_static_known=pattern.responder_static_known,
                messages=messages,
            ),
            cipher=_known(CIPHERS, parts["cipher"], name),
            hash=_known(HASHES, parts["hash"], name),
            psk=psk,
            hfs=hfs,
        )


def _known(table: dict[str, _T], key: str, name: str) -> _T:
    if key not in table:
        raise UsageError(f"{name!r}: {key!r} is not one of {', '.join(table)}")
    return table[key]


def _modify(messages: tuple[Message, ...], modifier: str, name: str) -> tuple[Message, ...]:
    """Return `messages` with the tokens that `modifier` adds."""
    if modifier == "hfs" and messages[0] in ((Token.E,), (Token.PSK, Token.E)):
        # Only where the first message is a bare `e` is the place of e1 beyond dispute.
        first = (*messages[0], Token.E1)
        after_ee = messages[1].index(Token.EE) + 1
        second = (*messages[1][:after_ee], Token.EKEM1, *messages[1][after_ee:])
        return (first, second, *messages[2:])
    if re.fullmatch(r"psk\d", modifier) and int(modifier[3]) <= len(messages):
        changed = list(messages)
        place = int(modifier[3])
        if place == 0:
            changed[0] = (Token.PSK, *messages[0])
        else:
            changed[place - 1] = (*messages[place - 1], Token.PSK)
        return tuple(changed)
    raise UsageError(f"{name!r}: modifier {modifier!r} is not supported for this pattern")
