"""An attester for machines without Nitro: a model of the hardware, and it says so.

It issues documents of the very same format, under a root of its own, about what
`measure` finds. What it proves is the flow: that keys are bound, policies hold and
what differs is refused. It does *not* prove what runs: the program measures itself, with
a key that its host can read. Every document says "MODEL, not hardware" in its module id
and in every certificate, and no verifier takes its root unless a policy names it.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from ...crypto.primitives import KeyHolder
from ...errors import UsageError
from ..keys import StrPath
from . import cose, document
from .attester import AttesterError, check_field
from .authority import MODEL, EmbeddedAuthority, certificate_name, issue
from .document import PCR_SIZE, Document
from .measure import Measurement, extended, measure, running_script
from .roots import Root
from .verifier import Clock

__all__ = ["EmbeddedAttester"]

LEAF_LIFE: Final = 3600.0  # seconds; a new one is issued when half of it is over
_LEAF_BACKDATED: Final = 60.0  # for the clocks of verifiers that are behind
_PCRS: Final = 16  # what a Nitro document holds
_SIGNER: Final = 8

log = logging.getLogger("transport")


@dataclass(frozen=True, slots=True, repr=False)
class _Leaf(KeyHolder):
    """A certificate for one attester's documents, and its key, which is never stored."""

    certificate: bytes  # DER
    key: ec.EllipticCurvePrivateKey = field(repr=False)
    issued: float


class EmbeddedAttester(KeyHolder):
    """An `Attester` under a root of its own: a model, not hardware.

    `clock` returns POSIX seconds; without one, the attester is given the clock of the
    node that uses it. In `debug`, documents have zeros in PCR0, 1 and 2, as those of an
    enclave in debug mode have. Safe to share between threads.

    Raises:
        UsageError: by the given clock, the authority's certificates are not valid.
    """

    __slots__ = ("_authority", "_clock", "_leaf", "_measurement", "_module_id", "_pcrs")

    def __init__(
        self,
        authority: EmbeddedAuthority,
        measurement: Measurement,
        *,
        clock: Clock | None = None,
        debug: bool = False,
    ) -> None:
        if clock is not None:
            authority.check_clock(clock())
        self._authority = authority
        self._measurement = measurement
        self._clock = clock
        self._leaf: _Leaf | None = None
        self._module_id = f"{MODEL} - sealfabric embedded {secrets.token_hex(8)}"
        registers = dict.fromkeys(range(_PCRS), bytes(PCR_SIZE))
        if not debug:
            registers |= measurement.registers()
        registers[_SIGNER] = extended(authority.signer.public_bytes(Encoding.DER))
        self._pcrs: Mapping[int, bytes] = MappingProxyType(registers)

    @classmethod
    def load(
        cls,
        folder: StrPath,
        *,
        script: StrPath | None = None,
        clock: Clock | None = None,
        debug: bool = False,
    ) -> EmbeddedAttester:
        """Measure what runs, and attest it with the authority in `folder`.

        `folder` was made by `sealfabric attest init`; its root.key is not needed.
        `script` is the program's file or folder, by default the running one's file.

        Raises:
            UsageError: the folder is not usable, something cannot be measured, or by
                the given clock the certificates are not valid.
        """
        authority = EmbeddedAuthority.load(folder)
        measured = measure(running_script() if script is None else script)
        log.warning("attestation by an embedded attester: %s", MODEL)
        return cls(authority, measured, clock=clock, debug=debug)

    def timed_by(self, clock: Clock) -> EmbeddedAttester:
        """Return this attester with `clock`, or itself if it has one.

        Raises:
            UsageError: by `clock`, the authority's certificates are not valid.
        """
        if self._clock is not None:
            return self
        twin = EmbeddedAttester(self._authority, self._measurement, clock=clock)
        twin._pcrs, twin._module_id = self._pcrs, self._module_id
        return twin

    @property
    def root(self) -> Root:
        """The root that verifiers have to pin to accept these documents."""
        return self._authority.root

    @property
    def measurement(self) -> Measurement:
        """What was measured, line by line."""
        return self._measurement

    @property
    def pcrs(self) -> Mapping[int, bytes]:
        """The registers as every document of this attester holds them."""
        return self._pcrs

    def evidence(
        self, public_key: bytes | None, user_data: bytes | None, nonce: bytes | None
    ) -> bytes:
        """Return a document, 2 to 6 KB; see `Attester.evidence`."""
        if self._clock is None:
            raise UsageError(
                "this embedded attester has no clock: give it one, such as time.time, or hand "
                "it to the Trust of a node, which brings its own"
            )
        now = self._clock()
        leaf = self._leaf_at(now)
        claims = Document(
            module_id=self._module_id,
            timestamp_ms=int(now * 1000),
            pcrs=self._pcrs,
            certificate=leaf.certificate,
            cabundle=(
                self._authority.root.der,
                self._authority.signer.public_bytes(Encoding.DER),
            ),
            public_key=check_field(public_key, "public_key"),
            user_data=check_field(user_data, "user_data"),
            nonce=check_field(nonce, "nonce"),
        )
        return cose.sign(document.encode(claims), leaf.key)

    def _leaf_at(self, now: float) -> _Leaf:
        leaf = self._leaf
        # A clock that was set back makes the leaf useless just like one that ran on.
        if leaf is None or not 0 <= now - leaf.issued < LEAF_LIFE / 2:
            self._leaf = leaf = self._new_leaf(now)
        return leaf

    def _new_leaf(self, now: float) -> _Leaf:
        signer = self._authority.signer
        begin = datetime.fromtimestamp(int(now - _LEAF_BACKDATED), UTC)
        end = begin + timedelta(seconds=LEAF_LIFE + _LEAF_BACKDATED)
        if end > signer.not_valid_after_utc or begin < signer.not_valid_before_utc:
            raise AttesterError(
                f"the signer's certificate is valid from {signer.not_valid_before_utc} to "
                f"{signer.not_valid_after_utc}, and a document's from {begin} to {end}"
            )
        key = ec.generate_private_key(ec.SECP384R1())
        certificate = issue(
            certificate_name("sealfabric embedded attester"),
            key,
            signer.subject,
            self._authority.signer_key,
            begin,
            end,
        )
        return _Leaf(certificate.public_bytes(Encoding.DER), key, now)

    def __repr__(self) -> str:
        return f"<EmbeddedAttester {MODEL}, PCR0 {self._pcrs[0].hex()[:16]}…>"
