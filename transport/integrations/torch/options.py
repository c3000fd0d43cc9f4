"""What a process group may be told beyond what torch tells it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ...collectives import Tuning
from ...config import Config
from ...identity import Identity, Trust

PATIENCE = 30.0  # seconds of silence: a rank may hold the interpreter while it loads a library


def default_config() -> Config:
    """The configuration of a node that trains: more patient with peers than others."""
    return Config(peer_timeout=PATIENCE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """For `init_process_group(..., pg_options=Options(...))` and `new_group`.

    What is None comes from the environment: the trust from SEALFABRIC_SECRET_FILE or
    SEALFABRIC_TRUST, the identity from SEALFABRIC_IDENTITY or a new one, the addresses
    from SEALFABRIC_LISTEN or the way to the master. These, `advertise` and `config`
    describe the process's node, so only its first sealed process group may give them.
    """

    trust: Trust | None = None
    identity: Identity | None = None
    listen: Sequence[str] | None = None
    advertise: Sequence[str] | None = None  # where others reach it, if not where it listens
    config: Config | None = None
    tuning: Tuning = field(default_factory=Tuning)
    connect_timeout: float = 60.0  # seconds without a further link, when an operation needs some

    @property
    def describes_a_node(self) -> bool:
        """Whether anything is given that a node is made from."""
        given = (self.trust, self.identity, self.listen, self.advertise, self.config)
        return any(each is not None for each in given)
