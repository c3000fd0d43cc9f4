"""What every operation of a group has in common: how it begins.

The caller's thread makes the links that the schedule needs, then begins the operation
under the engine's lock; from there on completed messages carry it further.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from ..errors import UsageError
from ..node import Node, Work
from ..tensor.spec import TensorSpec
from .brief import Brief
from .execution import Area, Combine, Execution
from .header import Header, Headers
from .membership import Membership
from .operation import Staged
from .reduction import Kernel, NumpyKernel, Op, Reduction
from .scratch import Scratch
from .steps import Buffer, Schedule
from .tuning import Tuning


class Plan(NamedTuple):
    """What does not change between operations on tensors of the same dtype and shape."""

    headers: Headers
    schedule: Schedule
    bounds: Sequence[int]
    combine: Combine


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
        tuning = tuning or Tuning()
        self._kernel: Kernel = kernel or NumpyKernel()
        self._fingerprint = tuning.fingerprint
        self._scratch = Scratch()
        self._plans: dict[tuple[object, TensorSpec], Plan] = {}
        self.rank = self._membership.rank
        self.size = self._membership.size
        self._tuning = tuning.among(self.size)
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
        headers = self._headers(header)
        combine: Combine = _no_reduction
        if reduction is not None:
            combine = self._combine(reduction, headers.own)
        return self._run(headers, schedule, areas, combine, then, timeout, slot, keep)

    def _run(
        self,
        headers: Headers,
        schedule: Schedule,
        areas: Mapping[Buffer, Area],
        combine: Combine,
        then: Callable[[], object],
        timeout: float | None,
        slot: int = 0,
        keep: object = None,
    ) -> Work[Any]:
        """Begin what is prepared; see `_begin`."""
        limit = self.timeout if timeout is None else timeout
        peers = schedule.peers
        membership = self._membership
        membership.link(peers, self._connect_timeout, limit)
        with membership.channel:
            membership.check()
            membership.check_links(peers, schedule.only_from)
            memory = dict(areas)
            partial_results = schedule.slots * slot
            small = sum(len(area.data) for area in areas.values()) + partial_results
            brief = schedule.brief and small <= self._tuning.inline
            release: Callable[[], None] = _nothing
            if schedule.slots:
                if brief:
                    data = memoryview(bytearray(partial_results))
                else:
                    data, release = self._scratch.area(partial_results)
                bounds = [slot * number for number in range(schedule.slots + 1)]
                memory[Buffer.TEMP] = Area(data, bounds)
            if brief:
                operation = Brief(membership, headers, limit)
                operation.begin(schedule, memory, combine, then, keep)
                return operation.work
            staged = Staged(membership, headers, limit)
            execution = partial(
                Execution,
                schedule,
                memory,
                combine,
                scratch=self._scratch,
                tuning=self._tuning,
                itemsize=headers.own.spec.itemsize,
            )
            staged.begin(execution, then, release, keep)
        return staged.work

    def _headers(self, header: Header | Callable[[int, bool], Header]) -> Headers:
        """With what is the same for all operations of this group."""
        tuning, size = self._fingerprint, self.size
        if not callable(header):
            return Headers(header._replace(tuning=tuning, size=size))
        return Headers(
            header(self.rank, False)._replace(tuning=tuning, size=size),
            lambda peer, inward: header(peer, inward)._replace(tuning=tuning, size=size),
        )

    def _combine(self, reduction: Reduction, header: Header) -> Combine:
        kernel, dtype, size = self._kernel, header.spec.dtype, self.size
        average = reduction.op is Op.AVG

        def combine(left: memoryview, right: memoryview, out: memoryview, final: bool) -> None:
            if len(out):
                kernel.combine(reduction, dtype, left, right, out)
                if average and final:
                    kernel.divide(dtype, out, size)

        return combine


def _no_reduction(left: memoryview, right: memoryview, out: memoryview, final: bool) -> None:
    raise AssertionError("this schedule reduces nothing")


def _nothing() -> None:
    return None
