"""Errors that are both: of the library's tree, and what torch's callers expect.

Code for torch catches `RuntimeError` or `torch.distributed.DistBackendError`, code for
this library `TransportError` and its kinds. What leaves the backend is caught by either.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Final

import torch.distributed as dist

from ...errors import TransportError, UsageError

_both: Final[dict[type[TransportError], type[TransportError]]] = {}


def _class_of_both(kind: type[TransportError]) -> type[TransportError]:
    known = _both.get(kind)
    if known is None:
        bases = (kind, dist.DistBackendError)
        described = {"__doc__": kind.__doc__, "__module__": kind.__module__}
        known = _both[kind] = type(kind.__name__, bases, described)  # the name users know
    return known


def for_torch(error: TransportError) -> TransportError:
    """The same error, of its class and of torch's `DistBackendError`."""
    if isinstance(error, dist.DistBackendError):
        known: TransportError = error
        return known
    both = _class_of_both(type(error))(*error.args)
    both.__cause__ = error.__cause__
    return both


def refused(text: str) -> TransportError:
    """A `UsageError`, ready to raise: the call cannot be carried out as written."""
    return for_torch(UsageError(text))


def seconds(limit: timedelta | None) -> float | None:
    """A time limit of torch's; zero, negative and absent ones are none."""
    if limit is None:
        return None
    value = limit.total_seconds()
    return value if value > 0 else None


def given_seconds(options: Any) -> float | None:
    """The time limit in the options of a call; None is the group's."""
    return None if options is None else seconds(getattr(options, "timeout", None))
