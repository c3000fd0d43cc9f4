"""Who runs the engine: the thread that waits, or else a background thread.

A hand-over between Python threads costs about as much as sealing a megabyte, so a
thread that blocks in `wait` sleeps on the sockets itself and does all the work
it finds, whoever it is for. One waiting thread does so at a time; the others
sleep until their work has ended or that place is free. The background thread
keeps acknowledgements, heartbeats and keys alive while nobody waits, and stays
out of the way while somebody does.

Everything of the engine happens under one lock; only sleeping does not.
"""

from __future__ import annotations

import logging
import os
import select
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from random import random
from threading import get_ident
from time import monotonic
from typing import Final, NoReturn, Protocol

from ..crypto.seal import forks
from ..errors import UsageError
from ..path.cores import cores
from .alarm import Alarm

log = logging.getLogger("transport")

CRASH_PAUSE: Final = 0.1
RECENT: Final = 0.005  # a waiter that left this lately is likely to be back
PUT_OFF: Final = 0.001  # how often whoever is at work puts off the background thread's alarm
NAP: Final = 0.001  # how soon that thread looks again where another one had the lock
PATIENT: Final = 16  # such naps before it stands in line for it
LONGEST_SLEEP: Final = 60.0
TURN: Final = 0.00005  # a busy engine stands aside so long for a thread that wants it
NEGLECT: Final = 0.02  # so long nobody looks at descriptors; then the background thread does
SPIN: Final = 0.0004  # a waiter looks again and again for so long, where waits are usually shorter
SPIN_PAUSE: Final = 8  # waits without, after a spin that was in somebody's way
LONG: Final = 0.001  # waits count as no longer than this in what is usual
LOOKS: Final = 64  # at shared memory, between two looks at the descriptors
CROWDED: Final = 0.0003  # a core that comes back later was wanted by more than a thread of ours


class Waitable(Protocol):
    """Something that ends."""

    def done(self) -> bool:
        """Whether it has ended."""
        ...


class Memory(Protocol):
    """What has to be looked at, because no descriptor tells of it unless it was asked to."""

    peek: Callable[[], bool] | None
    """Whether anything waits there; None where there is nothing to look at."""

    def lie_down(self) -> bool:
        """Nobody looks from now on: ask to be woken by a descriptor. False where something waits.

        Called under the lock, as is `get_up`.
        """
        ...

    def get_up(self) -> None:
        """Somebody looks again."""
        ...


class _NoMemory:
    peek: Callable[[], bool] | None = None

    def lie_down(self) -> bool:
        return True

    def get_up(self) -> None:
        pass


class _Sleeper:
    """Sleeps on descriptors until one is ready, a time has come, or `wake` is called."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._epoll.register(self._bell, select.EPOLLIN)
        self.asleep = False
        self.until = 0.0
        self.rung = False
        """Whether the bell was what ended the last sleep or spin."""

    def watch(self, descriptor: int) -> None:
        self._epoll.register(descriptor, select.EPOLLIN)

    def unwatch(self, descriptor: int) -> None:
        self._epoll.unregister(descriptor)

    def sleep(self, seconds: float) -> list[int]:
        """Return the ready descriptors; called without the engine's lock."""
        ready = [descriptor for descriptor, _ in self._epoll.poll(seconds)]
        self.rung = self._bell in ready
        if self.rung:
            ready.remove(self._bell)
            os.eventfd_read(self._bell)
        return ready

    def spin(self, peek: Callable[[], bool] | None, until: float) -> tuple[bool, list[int], bool]:
        """Look without sleeping; give the core away between looks to whoever needs it.

        Returns whether `peek` held, the descriptors that are ready, and whether the spin
        was in somebody's way: a core that was given away and came back late has others
        waiting for it. That ends the spin, or more processes than cores would hold each
        other up.
        """
        while True:
            if peek is not None:
                for _ in range(LOOKS):
                    if peek():
                        return True, [], False
            ready = self.sleep(0)
            before = monotonic()
            if ready or self.rung or before >= until:
                return False, ready, False
            os.sched_yield()
            if monotonic() - before > CROWDED:
                return False, self.sleep(0), True

    def wake(self) -> None:
        os.eventfd_write(self._bell, 1)

    def close(self) -> None:
        self._epoll.close()
        os.close(self._bell)


class Driver:
    """Runs `step(ready, until)` under one lock whenever descriptors or deadlines ask for it.

    `ready` are descriptors that woke it. Where `until` ends, or there is too much to
    do at once, the step may return early and leave the rest for the next one, which
    `next_timeout` then wants at once.
    `next_timeout()` says when the engine wants a step without any descriptor.
    The driver is a context manager: inside it the calling thread holds the engine.
    Both raise `UsageError` in a forked child: it has neither the other threads nor
    sockets of its own, and the lock may be held by a thread that does not exist there.
    """

    def __init__(
        self,
        name: str,
        step: Callable[[Sequence[int], Waitable | None], None],
        next_timeout: Callable[[], float],
        memory: Memory | None = None,
    ) -> None:
        self._memory: Memory = _NoMemory() if memory is None else memory
        self._name = name
        self._forks = forks()
        self._step = step
        self._next_timeout = next_timeout
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        # One sleeper each: a bell rung for the one must not wake only the other.
        self._front = _Sleeper()  # of the waiting thread whose turn it is
        self._back = _Sleeper()  # of the background thread
        self._waiters = 0
        self._parked = 0  # those of them who wait for another one's place
        self._last_wait = 0.0
        self._alarm = Alarm()  # the background thread sleeps until nobody puts it off any more
        self._put_off_at = 0.0  # not before then again; 0 where it is not set to anything
        self._looked_at = 0.0  # at descriptors, lately
        self._usual_wait = 0.0  # for something to come, asleep or not, of late
        self._spins_to_skip = 0
        self.any_ended = False
        """Some work has ended since waiters were last told; set under the lock."""
        self._stopping = False
        self._queuing: set[int] = set()  # threads that want the lock and do not have it
        self._told = False  # waiters were woken and want the lock
        self._background_ident = 0
        self._thread = threading.Thread(
            target=self._background, name=f"sealfabric-{name}", daemon=True
        )

    def start(self) -> None:
        """Start the background thread."""
        self._thread.start()

    def watch(self, descriptor: int) -> None:
        """Wake when `descriptor` turns readable."""
        self._front.watch(descriptor)
        self._back.watch(descriptor)

    def unwatch(self, descriptor: int) -> None:
        """Stop watching; call before it is closed."""
        self._front.unwatch(descriptor)
        self._back.unwatch(descriptor)

    def __enter__(self) -> None:
        """Hold the engine."""
        if forks() != self._forks:
            self._refuse_child()
        if not self._lock.acquire(False):
            self._queue_up()

    def _queue_up(self) -> None:
        """Take the lock, and let whoever holds it know that somebody waits for it."""
        if self._lock.acquire(False):
            return
        self._queuing.add(get_ident())
        try:
            self._lock.acquire()
        finally:
            self._queuing.discard(get_ident())

    def _regain(self) -> None:
        """Take the lock that was let go of for a while, whatever happens.

        A signal's handler may raise wherever it waits, and the caller expects the lock then too.
        """
        try:
            self._queue_up()
        finally:
            while not self.held():
                with suppress(BaseException):  # one is on its way already
                    self._queue_up()

    def held(self) -> bool:
        """Whether the calling thread holds the engine."""
        owned: Callable[[], bool] = self._lock._is_owned  # type: ignore[attr-defined]
        return owned()

    def _take_turns(self) -> None:
        """Called between two steps with the lock: let go of it if somebody else wants it.

        Releasing alone does not hand it over, since the releasing thread would be
        the first to ask again.
        """
        if self._queuing or self._told:
            self._told = False
            self._lock.release()
            try:
                time.sleep(TURN)
            finally:
                self._regain()

    def _refuse_child(self) -> NoReturn:
        raise UsageError(
            f"node {self._name!r} belongs to the process that made it; "
            "create a new Node after fork()"
        )

    def __exit__(self, *exc: object) -> None:
        """Wake whoever waits for what has ended meanwhile, and let the engine go."""
        try:
            if self.any_ended:
                self._tell_waiters()
        finally:
            try:  # noqa: SIM105 - `suppress` takes longer than all of the rest
                self._lock.release()
            except RuntimeError:
                pass  # a signal's handler raised just where it had been let go of

    def _tell_waiters(self) -> None:
        self.any_ended = False
        if self._parked:
            self._told = True
            self._changed.notify_all()
        if self._front.asleep:
            self._told = True
            self._front.wake()

    def expect_by(self, deadline: float) -> None:
        """Something is now due at `deadline`; called under the lock."""
        for sleeper in (self._front, self._back):
            if sleeper.asleep and deadline < sleeper.until:
                sleeper.until = deadline
                sleeper.wake()

    def used(self, now: float) -> None:
        """A caller acts on the engine again and again: the background thread keeps away.

        Called under the lock. It looks again soon after the last such call.
        """
        if get_ident() != self._background_ident:
            self._last_wait = now
            if now >= self._put_off_at:
                self._put_off(now)

    def _put_off(self, now: float) -> None:
        """The background thread need not look before long; called under the lock.

        But who sends and never waits, or finds in memory whatever it waits for, would
        keep it away for ever from what comes over other links: then the alarm goes off.
        """
        if self._put_off_at and now - self._looked_at >= NEGLECT:
            return
        self._put_off_at = now + PUT_OFF
        if not self._stopping:
            self._alarm.set(RECENT)

    @property
    def stopping(self) -> bool:
        """Whether the engine ends: nothing will be waited for any more."""
        return self._stopping

    def rouse(self) -> None:
        """Make the background thread look after the engine at once."""
        with self:
            self._last_wait = 0.0
            self._alarm.set(0)
            if self._back.asleep:
                self._back.wake()

    def wait(self, work: Waitable, deadline: float | None) -> bool:
        """Drive the engine until `work` has ended; False where the deadline came first.

        Not to be called from inside the engine, that is from a done-callback.
        """
        with self:
            self._waiters += 1
            if self._back.asleep:
                self._back.wake()  # it gives way until the waiters have gone
            try:
                return self._wait(work, deadline)
            finally:
                self._waiters -= 1
                self._last_wait = now = monotonic()
                if self._waiters and self.held():  # unless a signal came between
                    self._changed.notify()  # the place at the front is free
                elif now >= self._put_off_at:
                    self._put_off(now)

    def _wait(self, work: Waitable, deadline: float | None) -> bool:
        ready: list[int] = []
        looked = False
        while True:
            self._step(ready, work)
            if self.any_ended:
                self._tell_waiters()
            if work.done():
                return True
            now = monotonic()
            if self._stopping:
                return False
            if deadline is not None and now >= deadline:
                if looked or self._front.asleep:
                    return False
                # Who polls without time to wait would otherwise never see a packet.
                looked, ready = True, self._front.sleep(0)
                self._looked_at = now
            elif not self._front.asleep:
                looked, ready = True, self._sleep(self._front, now, deadline)
            else:
                ready = []
                self._parked += 1
                try:
                    self._changed.wait(None if deadline is None else deadline - now)
                finally:
                    self._parked -= 1

    def _sleep(self, sleeper: _Sleeper, now: float, deadline: float | None) -> list[int]:
        """Give up the lock and sleep until a descriptor is ready or something is due."""
        due = min(self._next_timeout(), now + LONGEST_SLEEP)
        if deadline is not None and deadline < due:
            due = deadline
        if due <= now:
            self._take_turns()
            return []
        sleeper.asleep, sleeper.until = True, due
        try:
            if sleeper is self._front:
                self._memory.get_up()
                self._lock.release()
                try:
                    found, ready = self._spin(now, due)
                finally:
                    self._regain()
                if not found:
                    self._looked_at = now
                if found or ready or sleeper.rung:
                    self._note_wait(now)
                    return ready
            if not self._memory.lie_down():
                return []
            self._looked_at = now
            self._lock.release()
            try:
                return sleeper.sleep(max(0.0, sleeper.until - monotonic()))
            finally:
                self._regain()
                if sleeper is self._front:
                    self._note_wait(now)
        finally:
            sleeper.asleep = False
            if not (self._front.asleep or self._back.asleep):
                self._memory.get_up()

    def _spin(self, now: float, due: float) -> tuple[bool, list[int]]:
        """Spin where waits are short: waking up costs as much as a short round trip.

        Short is what a wait took, not whether a spin was long enough for it. Two sides
        that both sleep make each other wait for longer than they would spin, and
        going by that neither would ever begin again.
        """
        self._front.rung = False
        if self._spins_to_skip:
            self._spins_to_skip -= 1
            return False, []
        if self._usual_wait > SPIN:
            return False, []
        found, ready, crowded = self._front.spin(self._memory.peek, min(due, now + SPIN))
        if crowded:
            self._spins_to_skip = SPIN_PAUSE
            if random() < 0.5:  # perhaps with a peer that has noticed as well
                cores.leave()
        return found, ready

    def _note_wait(self, began: float) -> None:
        self._usual_wait += (min(monotonic() - began, LONG) - self._usual_wait) / 8

    def _background(self) -> None:
        self._background_ident = get_ident()
        while not self._stopping:
            try:
                self._keep_alive()
            except Exception:
                # A defect of ours. Without this thread every link would fall silent, so it
                # goes on, and says so where nobody can overlook it.
                log.exception("the engine's background step failed; it is tried again")
                time.sleep(CRASH_PAUSE)

    def _keep_alive(self) -> None:
        ready: list[int] = []
        refused = 0
        while True:
            if refused < PATIENT and not self._lock.acquire(False):
                # Whoever stands in line is woken at each release, and mostly for nothing:
                # the one who releases is quicker to be back.
                refused += 1
                self._alarm.set(NAP)
                self._alarm.wait()
                continue
            if refused == PATIENT:
                self._queue_up()
            refused = 0
            try:
                if self._stopping:
                    return
                now = monotonic()
                if self._waiters or now - self._last_wait < RECENT:
                    if now - self._looked_at >= NEGLECT:
                        self._looked_at = now
                        self._step([*ready, *self._back.sleep(0)], None)
                        ready = []
                        if self.any_ended:
                            self._tell_waiters()
                    self._put_off_at = 0.0
                    if not self._waiters:  # else the last of them sets the alarm
                        self._put_off(now)
                else:
                    self._step(ready, None)
                    if self.any_ended:
                        self._tell_waiters()
                    ready = self._sleep(self._back, monotonic(), None)
                    continue
            finally:
                self.__exit__()
            self._alarm.wait()

    def stop(self) -> None:
        """End the background thread and every wait; call once, not under the lock."""
        with self:
            self._stopping = True
            self._changed.notify_all()
            self._alarm.set(0)
            if self._front.asleep:
                self._front.wake()
            if self._back.asleep:
                self._back.wake()
        # What an interrupted call of this thread may have left held would hold up the others.
        with suppress(RuntimeError):
            while True:
                self._lock.release()
        if self._thread.ident is not None:  # else it was never started
            self._thread.join()
        with self._lock:
            # A waiter may still be on its way out of its sleep.
            while self._waiters:
                self._changed.wait(0.05)
            self._front.close()
            self._back.close()
            self._alarm.close()
