"""In which order one process's accesses to shared memory reach the other.

What CPython gives, and what is built on it:

- A 64-bit word of a `memoryview` cast to "Q" is read and written by one aligned
  machine instruction on x86-64 and arm64 (`memcpy` of 8 bytes, inlined), so a
  word is never half old and half new.
- The compiler cannot move one bytecode's access across another's: they are
  calls it cannot see into.
- x86-64 itself lets only a load overtake an earlier store to another address;
  arm64 lets nearly everything overtake.

`fence` forbids all of it. It releases and takes a lock of its own: on Linux a
POSIX semaphore, whose calls synchronise memory (POSIX.1-2024, XBD 4.15), and
from Python 3.13 on a sequentially consistent exchange. On x86-64 these are
locked instructions, and on arm64 an acquire after a release is a barrier too.

Were an order violated all the same, the reader would see bytes that are not the
packet's. Its tag does not verify, the packet is dropped, and its sender repeats
it: an error here costs time and never integrity.
"""

from __future__ import annotations

import platform
import threading
from collections.abc import Callable
from typing import Final

STORES_IN_ORDER: Final = platform.machine() in ("x86_64", "AMD64", "i686")
"""Whether the processor keeps stores among themselves in order, and loads likewise."""


def fence_of_its_own() -> Callable[[], None]:
    """A function that completes every access before it ahead of every access after it.

    Thread rule: one thread at a time, as whatever it orders.
    """
    lock = threading.Lock()
    release, acquire = lock.release, lock.acquire
    acquire()

    def fence() -> None:
        release()
        acquire()

    return fence


def order_of_its_own() -> Callable[[], None] | None:
    """As `fence_of_its_own`, for stores among stores and loads among loads.

    None where the processor orders these by itself.
    """
    return None if STORES_IN_ORDER else fence_of_its_own()
