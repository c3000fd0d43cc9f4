"""Sealed packets between processes of one host, through memory that they share.

Each process makes one segment that only it can write; the kernel holds that,
not a file mode (`segment`). Small packets go through a ring (`ring`), pieces of
large messages stay in the slots they were sealed into (`slots`), and a pipe
wakes who sleeps (`doorbell`). `Channel` joins these into a path of a link.

Nothing here holds a key. What a peer writes is bounded and may be anything; the
link above authenticates it as it does packets from a network.
"""

from .channel import Channel
from .layout import Layout
from .segment import Host, UnavailableError

__all__ = ["Channel", "Host", "Layout", "UnavailableError"]
