"""Who completes torch's futures: threads of their own, never the engine's.

What a user hangs on a future may begin other operations and even wait for them, which
nothing inside the engine may. So a future is completed by a thread from a small pool
that grows while all of its threads are busy: one that waits for another future never
keeps that one from being completed. Only operations whose future was asked for pay for
the hand-over.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable
from time import monotonic

log = logging.getLogger("transport")

KEPT_THREADS = 4  # idle ones; more end when they have nothing to do
EXIT_PATIENCE = 5.0  # seconds that callbacks may still take when the interpreter ends


class Completer:
    """Runs actions soon, each in some thread. Thread-safe; `later` may hold the engine."""

    def __init__(self) -> None:
        self._actions: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._idle = 0
        self._threads: set[threading.Thread] = set()
        self._ending = False

    def soon(self, action: Callable[[], object]) -> None:
        """Run `action` in a thread of the pool."""
        with self._lock:
            if self._idle:
                self._idle -= 1  # promised to this action
            elif not self._ending:
                thread = threading.Thread(target=self._run, name="sealfabric-future", daemon=True)
                self._threads.add(thread)
                thread.start()
            self._actions.put(action)

    def _run(self) -> None:
        while True:
            action = self._actions.get()
            if action is None:
                return
            try:
                action()
            except Exception:
                log.exception("completing a future failed")
            del action
            with self._lock:
                if self._ending or self._idle >= KEPT_THREADS:
                    self._threads.discard(threading.current_thread())
                    return
                self._idle += 1

    def end(self) -> None:
        """Let every thread end before the interpreter does; what blocks is left behind."""
        with self._lock:
            self._ending = True
            threads = list(self._threads)
        for _ in threads:
            self._actions.put(None)
        deadline = monotonic() + EXIT_PATIENCE
        for thread in threads:
            thread.join(max(0.0, deadline - monotonic()))


completer = Completer()
