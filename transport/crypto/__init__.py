"""The cryptography of a link: algorithms, the Noise handshake, sealing, the replay window.

`primitives` wraps the algorithms, `noise` agrees keys (Noise revision 34),
`seal` protects packets under them and `replay` remembers which have been seen.
Nothing here opens a socket, starts a thread or reads a clock, and randomness
can be injected.
"""

from __future__ import annotations

from .noise import Entropy, HandshakeState
from .replay import ReplayWindow

__all__ = ["Entropy", "HandshakeState", "ReplayWindow"]
