"""How links come about: calling, waiting to be called, and saying why neither worked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from time import monotonic
from typing import cast

from ..config import Config
from ..errors import (
    AuthenticationError,
    ClosedError,
    HandshakeError,
    TransportError,
    TransportTimeoutError,
    UsageError,
)
from ..identity.trust import Trust
from ..link import Link
from ..path.base import Path
from .directory import Directory
from .engine import Engine
from .handle import PeerLink
from .work import Work

_COMPARE = "Compare on both sides: secret, pinned keys, node names, protocol version"


class Linking:
    """Who waits for a link to whom. Methods take the driver's lock where they need it."""

    def __init__(
        self,
        engine: Engine,
        directory: Directory,
        trust: Trust,
        config: Config,
        handle_of: Callable[[Link], PeerLink],
    ) -> None:
        self._engine = engine
        self._driver = engine.driver
        self._directory = directory
        self._trust = trust
        self._config = config
        self._handle_of = handle_of
        self._waiting: dict[str, list[Work[PeerLink]]] = {}

    def connect(self, rails: Sequence[str], peer: str, timeout: float) -> PeerLink:
        """Link to `peer` at `rails`; see `Node.connect`."""
        with self._driver:
            work = self.begin(rails, peer)
            self._engine.pump()
        return self._link_or_explain(work, peer, timeout, calling=True)

    def begin(self, rails: Sequence[str], peer: str) -> Work[PeerLink]:
        """Begin to link to `peer`, by a call or, without `rails`, by waiting for one."""
        existing = self._directory.link_to(peer)
        if existing is not None:
            there: Work[PeerLink] = Work(self._driver, f"link to {peer!r}")
            there.finish(self._handle_of(existing))
            return there
        if not rails:
            return self._await(peer, f"wait for {peer!r}")
        if not self._trust.knows(peer):
            raise UsageError(f"peer {peer!r} is not in this node's trust")
        self._call_unless_called(peer, rails)
        return self._await(peer, f"connect to {peer!r} at {', '.join(rails)}")

    def _call_unless_called(self, peer: str, rails: Sequence[str]) -> None:
        """Call, but not one who has called: to it there is a link, which ours would end."""
        if self._directory.call_to(peer) is not None:
            return
        if self._directory.is_confirming(peer):
            again = partial(self._call_again, peer, rails)
            self._engine.call_later(self._config.handshake_retry, again)
        else:
            self._call(peer, rails)

    def _call_again(self, peer: str, rails: Sequence[str]) -> None:
        """The peer's own call may have come to nothing."""
        if peer in self._waiting and self._directory.link_to(peer) is None:
            self._call_unless_called(peer, rails)
            self._engine.pump()

    def _call(self, peer: str, rails: Sequence[str]) -> None:
        now = monotonic()
        link = self._directory.call(peer, now)
        try:
            for index in range(max(self._config.paths, len(rails))):
                self._engine.dial(link, rails[index % len(rails)], now)
        except UsageError:
            link.abort(ClosedError("the address is not usable"))
            self._engine.touch(link)
            self._engine.pump()
            raise
        link.begin(now)

    def wait_for(self, peer: str, timeout: float) -> PeerLink:
        """Wait until `peer` has linked to this node; see `Node.wait_for`."""
        with self._driver:
            work = self.begin((), peer)
        return self._link_or_explain(work, peer, timeout, calling=False)

    def _await(self, peer: str, what: str) -> Work[PeerLink]:
        work: Work[PeerLink] = Work(self._driver, what)
        self._waiting.setdefault(peer, []).append(work)
        return work

    def _link_or_explain(
        self, work: Work[PeerLink], peer: str, timeout: float, *, calling: bool
    ) -> PeerLink:
        refused_before = self.refusals()
        try:
            return work.wait(timeout)
        except TransportTimeoutError:
            pass
        with self._driver:
            if work.done():
                return work.wait(0)
            error = self.give_up(work, peer, timeout, refused_before, calling=calling)
        raise error

    def give_up(
        self,
        work: Work[PeerLink],
        peer: str,
        timeout: float,
        refused_before: Mapping[str, int],
        *,
        calling: bool,
    ) -> TransportError:
        """End an attempt that took too long; return what the honest user needs to know."""
        waiting = self._waiting.get(peer, [])
        if work in waiting:
            waiting.remove(work)
        if not waiting:
            self._waiting.pop(peer, None)
        call = self._directory.call_to(peer) if calling else None
        if call is None:
            return self._explain_silence(peer, timeout, refused_before)
        error = self._explain_call(call, timeout)
        if not waiting:
            call.abort(error)
            self._engine.touch(call)
            self._engine.pump()
        return error

    def _explain_call(self, call: Link, timeout: float) -> TransportError:
        """What the honest user needs to know when our call was not answered."""
        if call.last_refusal is not None:
            refused = isinstance(call.last_refusal, AuthenticationError)
            return (AuthenticationError if refused else HandshakeError)(str(call.last_refusal))
        addresses = ", ".join(sorted({path.address for path in call.paths}))
        if not any(cast(Path, path.handle).connected for path in call.paths):
            return HandshakeError(
                f"no connection to {addresses} in {timeout} s: nothing answers there"
            )
        return HandshakeError(
            f"{addresses} accepts connections but did not link as {call.peer!r} in {timeout} s. "
            f"{_COMPARE}; the other side counts the cause in Node.stats().drops"
        )

    def _explain_silence(
        self, peer: str, timeout: float, refused_before: Mapping[str, int]
    ) -> TransportError:
        """The same where we waited to be called."""
        refusal = self._directory.refusal_of(peer)
        if refusal is not None:
            return AuthenticationError(f"peer {peer!r} called and was refused: {refusal}")
        since = Counter(self.refusals())
        since.subtract(refused_before)
        causes = ", ".join(
            f"{cause} {count}" for cause, count in sorted(since.items()) if count > 0
        )
        if causes:
            return HandshakeError(
                f"peer {peer!r} did not link in {timeout} s; callers were refused: {causes}. "
                f"{_COMPARE}"
            )
        return TransportTimeoutError(f"peer {peer!r} did not call in {timeout} s")

    def refusals(self) -> Mapping[str, int]:
        """Callers refused up to now, by cause."""
        return {**self._engine.drops, **self._directory.drops}

    # --- what the engine reports, under the lock ----------------------------------------

    def established(self, link: Link) -> None:
        """There is a link: everybody who waited for it has it."""
        handle = self._handle_of(link)
        for work in self._waiting.pop(link.peer, ()):
            work.finish(handle)

    def call_failed(self, link: Link, error: TransportError) -> None:
        """Our call was refused in a way that is believed."""
        if isinstance(error, HandshakeError):
            for work in self._waiting.pop(link.peer, ()):
                work.fail(error)

    def fail_all(self, error: TransportError) -> None:
        """The node is closed."""
        for waiting in self._waiting.values():
            for work in waiting:
                work.fail(error)
        self._waiting.clear()
