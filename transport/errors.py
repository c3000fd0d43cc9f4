"""Every exception that Sealfabric raises, in one tree.

    TransportError
    ├── UsageError             the caller's fault: bad argument, bad state, forked process
    ├── LimitError             a named limit of `Config` would be exceeded
    ├── KeyExhaustedError      a key reached its hard limit before the rekey came through
    ├── ClosedError            the node, link or operation was closed on this side
    ├── CancelledError         the operation was cancelled by its owner
    ├── TransportTimeoutError  the deadline passed (also a built-in TimeoutError)
    ├── TruncatedError         the message is larger than the buffer it was to go into
    └── PeerError              the other side's fault, or the network's
        ├── HandshakeError     no link could be made
        │   └── AuthenticationError  a tag, key, signature or evidence did not verify
        ├── PeerRefusedError   the peer withdrew or declined one message; the link lives on
        └── PeerLostError      a linked peer is gone

Messages hold expected and actual values, never secrets. A cryptographic failure
has one class and no detail for the peer; its cause is a counter in
`LinkStats.drops` and a log line for the operator.
"""

from __future__ import annotations


class TransportError(Exception):
    """Root of everything this package raises on purpose."""


class UsageError(TransportError, ValueError):
    """The call cannot be carried out as written; nothing was sent or consumed."""


class LimitError(TransportError):
    """A named limit of `Config` would be exceeded."""


class KeyExhaustedError(TransportError):
    """The hard limit of a key is reached; nothing more is sealed under it.

    See docs/spec.md section 6.3.
    """


class ClosedError(TransportError):
    """The node, the link or the operation was closed on this side."""


class CancelledError(TransportError):
    """The operation was withdrawn by `Work.cancel()` before it took effect."""


class TransportTimeoutError(TransportError, TimeoutError):
    """The operation did not end before its deadline."""


class TruncatedError(TransportError):
    """The announced message does not fit the receiver's buffer; it stays queued."""


class PeerError(TransportError):
    """The other side, or the network between, is at fault."""


class HandshakeError(PeerError):
    """No link could be made with the peer."""


class AuthenticationError(HandshakeError):
    """A tag, key, signature or evidence did not verify. No detail: no oracle."""


class PeerRefusedError(PeerError):
    """The peer withdrew or declined this one message; the link is unharmed."""


class PeerLostError(PeerError):
    """A linked peer vanished; the message names peer, operation and cause."""
