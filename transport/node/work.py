"""`Work`: one operation under way, which ends exactly once."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator
from contextlib import suppress
from time import monotonic
from typing import TYPE_CHECKING, Generic, TypeVar, cast

from ..errors import CancelledError, TransportError, TransportTimeoutError

if TYPE_CHECKING:
    from .driver import Driver

log = logging.getLogger("transport")

T = TypeVar("T")


class Work(Generic[T]):
    """The handle of a send, receive, flush or connect that was begun.

    It ends once: with a result, or with an error that names operation, peer and
    cause. Every method may be called from any thread; `await work` works in any
    event loop.
    """

    __slots__ = (
        "_callbacks",
        "_cancel",
        "_driver",
        "_error",
        "_finished",
        "_give_up",
        "_operation",
        "_result",
        "link",
        "nbytes",
        "source",
        "tag",
    )

    def __init__(self, driver: Driver, operation: object) -> None:
        self._driver = driver
        self._finished = False
        self._result: T | None = None
        self._error: TransportError | None = None
        self._callbacks: list[Callable[[], None]] | None = None
        self._cancel: Callable[[], bool] | None = None
        self._give_up: Callable[[], bool] | None = None
        self._operation = operation
        self.link: object = None
        """Of a completed receive: the link it came over, as something to compare."""
        self.source: str | None = None
        """Of a completed receive: the peer it came from."""
        self.tag: int | None = None
        """Of a completed receive: the message's tag."""
        self.nbytes: int | None = None
        """Of a completed receive: bytes of the message."""

    def __repr__(self) -> str:
        if not self._finished:
            return f"<Work {self.what}: under way>"
        return f"<Work {self.what}: {self._error or 'done'!r}>"

    @property
    def what(self) -> str:
        """The operation in words, for messages."""
        return str(self._operation)

    def done(self) -> bool:
        """Whether it has ended, well or not."""
        return self._finished

    def exception(self) -> TransportError | None:
        """The error it ended with; `None` while it is under way or where it went well."""
        return self._error

    def wait(self, timeout: float | None = None) -> T:
        """Block until it has ended and return its result.

        `timeout` is in seconds; `None` waits without limit. A wait that times
        out leaves the operation under way: wait again, or `cancel`.

        Raises:
            TransportTimeoutError: it has not ended in time.
            TransportError: what the operation ended with.
        """
        if not self._finished:
            deadline = None if timeout is None else monotonic() + timeout
            if not self._driver.wait(self, deadline):
                raise TransportTimeoutError(f"{self.what} did not end within {timeout} s")
        if self._error is not None:
            raise self._error
        return cast(T, self._result)

    def complete(self, timeout: float | None) -> T:
        """Wait as `wait` does, but let an operation that is late end there and then.

        Raises:
            TransportTimeoutError: it has not ended in time; its buffer is the
                caller's again, with undefined content if bytes were arriving.
            TransportError: what the operation ended with.
        """
        try:
            return self.wait(timeout)
        except TransportTimeoutError as error:
            with self._driver:
                self.abandon(error)
            return self.wait(0)
        except BaseException:
            # An interrupt, say: the caller's frame goes, so the buffer must be let go.
            with self._driver:
                if self._give_up is not None:
                    self.abandon(CancelledError(f"{self.what} was interrupted"))
            raise

    def rouse(self) -> None:
        """Have the background thread see to it at once: nobody is going to wait for it here."""
        if not self._finished:
            self._driver.rouse()

    def cancel(self) -> bool:
        """Withdraw the operation; False where it has ended or can no longer be stopped.

        After True it has ended with `CancelledError` and its buffer is the
        caller's again.
        """
        with self._driver:
            if self._finished or self._cancel is None or not self._cancel():
                return False
            self.fail(CancelledError(f"{self.what} was cancelled"))
            return True

    def __await__(self) -> Generator[object, None, T]:
        """Wait in an event loop; cancelling the task cancels the operation where it can be."""
        return self._awaited().__await__()

    async def _awaited(self) -> T:
        import asyncio  # here, because it costs as much as a fifth of importing this package

        if not self._finished:
            loop = asyncio.get_running_loop()
            future: asyncio.Future[None] = loop.create_future()

            def settle() -> None:
                if not future.done():
                    future.set_result(None)

            def settle_soon() -> None:
                with suppress(RuntimeError):  # the loop was closed meanwhile
                    loop.call_soon_threadsafe(settle)

            self.add_done_callback(settle_soon)
            self._driver.rouse()
            try:
                await future
            except asyncio.CancelledError:
                self.cancel()
                raise
        return self.wait(0)

    def add_done_callback(self, callback: Callable[[], None]) -> None:
        """Call `callback` once it has ended, from whichever thread ends it; at once if it has.

        It runs inside the engine: it must be brief and must not wait.
        """
        with self._driver:
            if not self._finished:
                if self._callbacks is None:
                    self._callbacks = []
                self._callbacks.append(callback)
                return
        callback()

    # --- for the node, under the driver's lock ---------------------------------------

    def on_cancel(self, cancel: Callable[[], bool]) -> None:
        """What `cancel` tries; it answers whether the operation could be withdrawn."""
        self._cancel = cancel

    def on_give_up(self, give_up: Callable[[], bool]) -> None:
        """How a late operation lets go of its buffer, whatever has happened to it."""
        self._give_up = give_up

    def abandon(self, error: TransportError) -> None:
        """End with `error` unless it has ended; its buffer is the caller's from here on."""
        if not self._finished:
            if self._give_up is not None:
                self._give_up()
            self.fail(error)

    def finish(self, result: T) -> None:
        """End well, unless it has ended."""
        if self._finished:
            return
        self._result = result
        if self._callbacks is not None:
            self._end()
            return
        self._finished = True
        self._cancel = self._give_up = None
        self._driver.any_ended = True

    def fail(self, error: TransportError) -> None:
        """End with `error`, unless it has ended."""
        if not self._finished:
            self._error = error
            self._end()

    def _end(self) -> None:
        self._finished = True
        self._cancel = self._give_up = None
        self._driver.any_ended = True
        if self._callbacks is not None:
            callbacks, self._callbacks = self._callbacks, None
            for callback in callbacks:
                # Whose thread this is, is chance: a caller's mistake must not end it.
                try:
                    callback()
                except Exception:
                    log.exception("a done-callback of %s failed", self.what)
