"""A node's link to one peer, as its user sees it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..link import Link, LinkStats

if TYPE_CHECKING:
    from .driver import Driver


class PeerLink:
    """The link to one peer: who, how well, and its end. Any thread may use it."""

    def __init__(self, link: Link, driver: Driver) -> None:
        self._link = link
        self._driver = driver

    def __repr__(self) -> str:
        return f"<Link to {self._link.peer!r}: {self._link.state.name.lower()}>"

    @property
    def peer(self) -> str:
        """The peer's name, as both sides proved to agree on it."""
        return self._link.peer

    def stats(self) -> LinkStats:
        """Counters and estimates of this moment; also after the link has ended."""
        with self._driver:
            return self._link.stats()
