"""What every operation of a group has in common: how it begins.

The caller's thread makes the links that the schedule needs, then begins the operation
under the engine's lock; from there on completed messages carry it further.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from typing import Any

from ..errors import UsageError
from ..node import Node, Work
from .execution import Area, Combine, Execution
from .header import Header
from .membership import Membership
from .operation import Collective
from .reduction import Kernel, NumpyKernel, Op, Reduction
from .scratch import Scratch
from .steps import Buffer, Schedule
from .tuning import Tuning


class Runner:
    """Begins operations of one member of a group; the base of `Group`."""

    def __init__(
        self,
        node: Node,
        members: Mapping[str, Sequence[str]],
        *,
        name: str,
        timeout: float,
        connect_timeout: float,
        tuning: Tuning | None,
        kernel: Kernel | None,
        keys: Mapping[str, bytes] | None,
    ) -> None:
        self._node = node
        self._membership = Membership(node, members, name, keys)
        self.timeout = timeout
        self._connect_timeout = connect_timeout
        self._tuning = tuning or Tuning()
        self._kernel: Kernel = kernel or NumpyKernel()
        self._fingerprint = self._tuning.fingerprint
        self._scratch = Scratch()
        self.rank = self._membership.rank
        self.size = self._membership.size
        self.members = self._membership.names

    def _check_rank(self, rank: int, what: str) -> int:
        """Return `rank`.

        Raises:
            UsageError: there is no such rank.
        """
        if type(rank) is not int or not 0 <= rank < self.size:
            raise UsageError(f"{what} must be a rank from 0 to {self.size - 1}, got {rank!r}")
        return rank

    def _begin(
        self,
        header: Header | Callable[[int, bool], Header],
        schedule: Schedule,
        areas: Mapping[Buffer, Area],
        *,
        then: Callable[[], object],
        timeout: float | None,
        slot: int = 0,
        reduction: Reduction | None = None,
        keep: object = None,
    ) -> Work[Any]:
        """Begin an operation.

        `header` is the same for all peers, or given by peer and whether it is expected
        from there. `slot` is how large a slot of TEMP is; `keep` is held on to until the
        operation has ended.

        Raises:
            PeerLostError: a rank cannot be reached.
            TransportError: the group has failed or was closed.
        """
        limit = self.timeout if timeout is None else timeout
        peers = schedule.peers
        membership = self._membership
        membership.link(peers, min(limit, self._connect_timeout))
        one = header(self.rank, False) if callable(header) else header
        with membership.channel:
            membership.check()
            membership.check_links(peers)
            expected = partial(self._header_of, header)
            operation = Collective(membership, expected, _Described(one), limit)
            memory = dict(areas)
            release: Callable[[], None] = _nothing
            if schedule.slots:
                data, release = self._scratch.area(schedule.slots * slot)
                bounds = [slot * number for number in range(schedule.slots + 1)]
                memory[Buffer.TEMP] = Area(data, bounds)
            execution = Execution(
                schedule,
                memory,
                combine=_no_reduction if reduction is None else self._combine(reduction, one),
                headers=self._encoded(header),
                port=operation,
                scratch=self._scratch,
                tuning=self._tuning,
                itemsize=one.spec.itemsize,
                finished=operation.finished,
            )
            operation.begin(execution, then, release, keep)
        return operation.work

    def _header_of(
        self, header: Header | Callable[[int, bool], Header], peer: int, inward: bool = True
    ) -> Header:
        known = header(peer, inward) if callable(header) else header
        return known._replace(tuning=self._fingerprint, size=self.size)

    def _encoded(
        self, header: Header | Callable[[int, bool], Header]
    ) -> Callable[[int], tuple[bytes, bytes]]:
        """What is sent to a peer, and what is expected from it."""
        if callable(header):
            return lambda peer: (
                self._header_of(header, peer, False).encode(),
                self._header_of(header, peer, True).encode(),
            )
        encoded = _encoded(self._header_of(header, 0))
        return lambda peer: (encoded, encoded)

    def _combine(self, reduction: Reduction, header: Header) -> Combine:
        kernel, dtype, size = self._kernel, header.spec.dtype, self.size
        average = reduction.op is Op.AVG

        def combine(left: memoryview, right: memoryview, out: memoryview, final: bool) -> None:
            if len(out):
                kernel.combine(reduction, dtype, left, right, out)
                if average and final:
                    kernel.divide(dtype, out, size)

        return combine


@lru_cache(maxsize=256)
def _encoded(header: Header) -> bytes:
    return header.encode()


class _Described:
    """An operation in words, put together only where somebody reads them."""

    def __init__(self, header: Header) -> None:
        self._header = header

    def __str__(self) -> str:
        return self._header.describe()


def _no_reduction(left: memoryview, right: memoryview, out: memoryview, final: bool) -> None:
    raise AssertionError("this schedule reduces nothing")


def _nothing() -> None:
    return None
