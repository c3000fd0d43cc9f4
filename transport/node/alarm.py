"""An alarm that is put off and put off: waking up costs something, not being woken nothing.

A thread of Python that wakes up only to see that it is not needed yet has to get hold of
the interpreter for that. Whoever has it lets go of it for a moment at each large cipher call
and each look at a descriptor, has to signal that, and takes it back before the other one is
there; so it goes on for up to 5 ms (`sys.getswitchinterval`). Here the kernel keeps the time
(timerfd_create(2)), and whoever is busy sets it anew without letting go of the interpreter:
hence `PyDLL`.
"""

from __future__ import annotations

import ctypes
import os
import select
import time
from contextlib import suppress
from typing import Final

_LIBC: Final = ctypes.PyDLL(None, use_errno=True)
_FLAGS: Final = os.O_NONBLOCK | os.O_CLOEXEC  # which are TFD_NONBLOCK and TFD_CLOEXEC
_BILLION: Final = 1_000_000_000


class Alarm:
    """Goes off once, so long after it was last set.

    One thread at a time may wait for it. Any thread may set it; of two that do so at the same
    time one prevails.

    Raises:
        OSError: the process may open no more descriptors.
    """

    def __init__(self) -> None:
        self._descriptor: int = _LIBC.timerfd_create(time.CLOCK_MONOTONIC, _FLAGS)
        if self._descriptor < 0:
            error = ctypes.get_errno()
            raise OSError(error, os.strerror(error))
        self._when = (ctypes.c_long * 4)()  # struct itimerspec: interval, then value
        self._set = _LIBC.timerfd_settime
        self._set.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
        self._address = ctypes.addressof(self._when)
        self._poll = select.poll()
        self._poll.register(self._descriptor, select.POLLIN)

    def set(self, seconds: float) -> None:
        """Go off after `seconds`, at once where that is 0, and not before."""
        self._when[2], self._when[3] = divmod(max(int(seconds * _BILLION), 1), _BILLION)
        self._set(self._descriptor, 0, self._address, None)

    def wait(self) -> None:
        """Sleep until it goes off; at once where it has since the last wait."""
        self._poll.poll()
        with suppress(BlockingIOError):  # it was set anew this very moment
            os.read(self._descriptor, 8)

    def close(self) -> None:
        """Let go of the descriptor."""
        os.close(self._descriptor)
        self._descriptor = -1  # whoever sets it now sets nothing
