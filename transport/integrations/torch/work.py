"""Operations under way, as torch's callers know them.

A `SealedWork` stands for one or several operations of a group, and for what remains to
be done when they have ended, such as copying a result into the caller's tensors. That
is done once, by whoever asks first whether the work has ended. Errors come out of every
way of asking: `wait`, `exception`, the future, and whatever torch builds on these.

The future is made when it is asked for. torch loses an error that is set on a future
from Python and crashes on some, but carries one safely that is raised in a callback:
so the future is `source.then(settle)`, and `source` itself always succeeds.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from datetime import timedelta
from time import monotonic
from typing import Any, Final

import torch.distributed as dist
from torch.futures import Future

from ...errors import TransportError, TransportTimeoutError
from ...node import Work
from .errors import for_torch, seconds
from .futures import completer

NO_LIMIT: Final = timedelta(0)


class SealedWork(dist.Work):  # type: ignore[misc]  # torch is Any where it is not checked
    """One call of torch.distributed under way. Every method may be called from any thread.

    `outputs` are the tensors that hold the result; `finish` is called once, when all
    `parts` have ended well, and may raise `TransportError`.
    """

    def __init__(
        self,
        parts: Sequence[Work[Any]],
        outputs: Sequence[Any],
        finish: Callable[[], object] | None = None,
        source_rank: Callable[[Work[Any]], int] | None = None,
    ) -> None:
        super().__init__()
        self._parts = parts
        self.outputs = outputs
        if finish is not None:
            self._finish = finish
        if source_rank is not None:
            self._rank_of_source = source_rank

    # What most works never have, so that making one costs little.
    _finish: Callable[[], object] | None = None
    _rank_of_source: Callable[[Work[Any]], int] | None = None
    _error: Exception | None = None
    _settled = False
    _future: Any = None

    # --- waiting ---------------------------------------------------------------------------

    def wait(self, timeout: timedelta = NO_LIMIT) -> bool:
        """Drive the engine until the operation has ended.

        A `timeout` of zero or less is none: the group's still ends every operation.

        Raises:
            TransportTimeoutError: not in time; the operation goes on.
            TransportError: what it ended with.
        """
        if not self._settled:
            self._await(None if timeout is NO_LIMIT else seconds(timeout))
            self._settle()
        if self._error is not None:
            raise self._error
        return True

    def _await(self, limit: float | None) -> None:
        deadline = None if limit is None else monotonic() + limit
        for part in self._parts:
            try:
                part.wait(None if deadline is None else max(0.0, deadline - monotonic()))
            except TransportTimeoutError as error:
                if not part.done():
                    raise for_torch(
                        TransportTimeoutError(
                            f"{part.what} did not end within its timeout of {limit} s"
                        )
                    ) from error
            except TransportError:
                continue  # `_settle` tells; until all have ended, their memory is in use

    def _settle(self) -> None:
        """All parts have ended, or one has failed: take the result over, once."""
        error = self._failure()
        if self._finish is None and error is None:
            self._settled = True
            return
        with _SETTLING:
            if self._settled:
                return
            if error is None and self._finish is not None:
                try:
                    self._finish()
                except TransportError as failed:
                    error = failed
            self._error = None if error is None else for_torch(error)
            self._finish = None
            self._settled = True

    def _failure(self) -> TransportError | None:
        for part in self._parts:
            error = part.exception()
            if error is not None:
                return error
        return None

    def _ended(self) -> bool:
        """Whether all parts have ended; a failed group ends all of them."""
        return all(part.done() for part in self._parts)

    # --- what torch asks -------------------------------------------------------------------

    def is_completed(self) -> bool:
        """Whether it has ended, well or not."""
        if not self._settled and self._ended():
            self._settle()
        return self._settled

    def is_success(self) -> bool:
        """Whether it has ended well."""
        return self.is_completed() and self._error is None

    def exception(self) -> Exception | None:
        """What it ended with, or None."""
        return self._error if self.is_completed() else None

    def synchronize(self) -> None:
        """The same as `wait` without a limit."""
        self.wait()

    def result(self) -> list[Any]:
        """The tensors that hold the result."""
        self.wait()
        return list(self.outputs)

    def source_rank(self) -> int:
        """Of an ended receive: the rank in the group that it came from."""
        self.wait()
        if self._rank_of_source is None:
            raise RuntimeError("only a receive has a source")
        return self._rank_of_source(self._parts[0])

    def _source_rank(self) -> int:
        return self.source_rank()

    def get_future(self) -> Any:
        """A `torch.futures.Future` of the tensors that hold the result."""
        if self._future is None:
            self._future = self._made_future()
        return self._future

    getFuture = get_future  # noqa: N815  # an older name of torch's

    # --- the future ------------------------------------------------------------------------

    def _made_future(self) -> Any:
        source = self._new_future()
        future = source.then(self._outcome)
        if self.is_completed():
            self._complete(source)
        else:
            self.when_ended(lambda: self._complete(source))
        return future

    def _new_future(self) -> Any:
        return Future()

    def when_ended(self, action: Callable[[], None]) -> None:
        """Run `action` in a thread of its own kind once all parts have ended."""
        countdown = _Countdown(len(self._parts), lambda: self._in_a_thread(action))
        for part in self._parts:
            part.add_done_callback(countdown.one_less)
        for part in self._parts:
            part.rouse()

    def _in_a_thread(self, action: Callable[[], object]) -> None:
        completer.soon(action)

    def _complete(self, source: Any) -> None:
        self._settle()
        source.set_result(None)

    def _outcome(self, source: Any) -> list[Any]:
        del source
        if self._error is not None:
            raise self._error
        return list(self.outputs)


class JoinedWork(SealedWork):
    """Several works as one, which ends when all of them have."""

    def __init__(self, works: Sequence[SealedWork], outputs: Sequence[Any]) -> None:
        super().__init__((), outputs)
        self._works = works

    def wait(self, timeout: timedelta = NO_LIMIT) -> bool:
        """Wait for all; see `SealedWork.wait`."""
        limit = None if timeout is NO_LIMIT else seconds(timeout)
        deadline = None if limit is None else monotonic() + limit
        for work in self._works:
            left = NO_LIMIT
            if deadline is not None:
                left = timedelta(seconds=max(1e-6, deadline - monotonic()))
            try:
                work.wait(left)
            except TransportError:
                if not work.is_completed():
                    raise
        return super().wait()

    def _ended(self) -> bool:
        return all(work.is_completed() for work in self._works)

    def _failure(self) -> TransportError | None:
        errors = (work.exception() for work in self._works)
        return next((each for each in errors if isinstance(each, TransportError)), None)

    def when_ended(self, action: Callable[[], None]) -> None:
        """See `SealedWork.when_ended`."""
        countdown = _Countdown(len(self._works), action)
        for work in self._works:
            work.when_ended(countdown.one_less)


_SETTLING: Final = threading.RLock()
"""Held while a result is copied to where it belongs."""


class _Countdown:
    """Calls `action` when `one_less` has been called `count` times; at once for none."""

    def __init__(self, count: int, action: Callable[[], None]) -> None:
        self._left = count
        if not count:
            action()
        self._action = action
        self._lock = threading.Lock()

    def one_less(self) -> None:
        with self._lock:
            self._left -= 1
            last = self._left == 0
        if last:
            self._action()
