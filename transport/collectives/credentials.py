"""Who a rank of a job is and whom it trusts: from arguments, or from the environment.

SEALFABRIC_TRUST names a trust file, SEALFABRIC_SECRET_FILE a cluster secret,
SEALFABRIC_IDENTITY the rank's key file, with `{rank}` in its path for the rank. There is
no default trust. What could never work, such as a rank that the trust does not know or a
key that is not the pinned one, is refused here, before any port is open.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import UsageError
from ..identity import Identity, Trust, fingerprint


@dataclass(frozen=True, slots=True)
class Credentials:
    """One rank's identity, and the trust under which it meets the others."""

    identity: Identity
    trust: Trust

    @classmethod
    def of_rank(
        cls,
        rank: int,
        names: Sequence[str],
        *,
        in_job: int | None = None,
        identity: Identity | None = None,
        trust: Trust | None = None,
    ) -> Credentials:
        """Return those of the rank that is called `names[rank]` among all `names`.

        `in_job` is its rank in the whole job, where `names` are only some of the job's.
        What is not given comes from the environment; without SEALFABRIC_IDENTITY, and
        where the trust pins no keys, the identity is a new one.

        Raises:
            UsageError: no trust is configured, a file is not usable, the trust does not
                know some rank, or it pins another key for this one.
        """
        trust = trust or Trust.from_environment()
        missing = [place for place, name in enumerate(names) if not trust.knows(name)]
        if missing:
            listed = ", ".join(f"rank {place} ({names[place]!r})" for place in missing[:8])
            more = f" and {len(missing) - 8} more" if len(missing) > 8 else ""
            raise UsageError(f"the trust pins no key for {listed}{more}")
        pinned = trust.pinned(names[rank])
        if identity is None:
            identity = _identity(rank if in_job is None else in_job, names[rank], pinned)
        if pinned is not None and not trust.admits(names[rank], identity.public_key):
            raise UsageError(
                f"the key of rank {rank} ({names[rank]!r}) is {identity.fingerprint}, "
                f"but the trust pins {fingerprint(pinned)} for it"
            )
        return cls(identity, trust)


def _identity(rank: int, name: str, pinned: bytes | None) -> Identity:
    if os.environ.get("SEALFABRIC_IDENTITY"):
        return Identity.from_environment(rank)
    if pinned is None:
        return Identity.generate()
    raise UsageError(
        f"the trust pins key {fingerprint(pinned)} for rank {rank} ({name!r}): set "
        "SEALFABRIC_IDENTITY to the path of its key file; {rank} in it stands for the rank"
    )
