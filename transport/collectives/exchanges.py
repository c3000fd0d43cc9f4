"""The operations of a group that move data: all_gather to all_to_all, and barrier."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from ..errors import UsageError
from ..node import Work
from ..tensor.spec import RAW_DTYPE, interned
from ..tensor.views import DestinationView, SourceView, destination_view, source_view
from . import moving
from .execution import Area
from .header import Call, Header
from .operands import (
    checked_splits,
    even_rows,
    given,
    nothing,
    output,
    row_count,
    rows,
    split_bounds,
    stored,
)
from .runner import Runner
from .steps import Buffer

INPUT, WORK = Buffer.INPUT, Buffer.WORK
_NO_TENSOR = interned(RAW_DTYPE, (0,))


class Exchanges(Runner):
    """Part of `Group`. Tensors are divided and joined along their first axis."""

    def iall_gather(
        self, array: object, *, out: object = None, timeout: float | None = None
    ) -> Work[Any]:
        """Begin `all_gather`."""
        source, target, areas = self._gathered(array, out)
        spec = source.spec
        return self._begin(
            Header(Call.ALL_GATHER, spec),
            self._tuning.all_gather(spec.nbytes, self.rank, self.size),
            areas,
            then=partial(stored, target),
            keep=source,
            timeout=timeout,
        )

    def all_gather(self, array: object, *, out: object = None, timeout: float | None = None) -> Any:
        """Join every rank's `array` along the first axis; every rank has the result.

        Into `out`, or a new array.
        """
        return self.iall_gather(array, out=out, timeout=timeout).complete(None)

    def igather(
        self, array: object, *, root: int = 0, out: object = None, timeout: float | None = None
    ) -> Work[Any]:
        """Begin `gather`."""
        self._check_rank(root, "root")
        if self.rank == root:
            source, target, areas = self._gathered(array, out)
            then: Callable[[], object] = partial(stored, target)
        else:
            source, then = source_view(array), nothing
            areas = {INPUT: Area(source.data, (0, source.spec.nbytes))}
        return self._begin(
            Header(Call.GATHER, source.spec, None, root),
            moving.direct_gather(self.rank, self.size, root),
            areas,
            then=then,
            keep=source,
            timeout=timeout,
        )

    def gather(
        self, array: object, *, root: int = 0, out: object = None, timeout: float | None = None
    ) -> Any:
        """Join every rank's `array` along the first axis; `root` has the result.

        Into `out` or a new array, which `root` returns; the others return None.
        """
        return self.igather(array, root=root, out=out, timeout=timeout).complete(None)

    def _gathered(
        self, array: object, out: object
    ) -> tuple[SourceView, DestinationView, dict[Buffer, Area]]:
        source = source_view(array)
        spec = source.spec
        target = output(out, rows(spec, row_count(spec) * self.size))
        areas = {
            INPUT: Area(source.data, (0, spec.nbytes)),
            WORK: Area(target.data, split_bounds([1] * self.size, spec.nbytes)),
        }
        return source, target, areas

    def iscatter(
        self,
        array: object = None,
        *,
        root: int = 0,
        out: object = None,
        timeout: float | None = None,
    ) -> Work[Any]:
        """Begin `scatter`."""
        self._check_rank(root, "root")
        areas = {}
        source = None
        if self.rank == root:
            source = source_view(array)
            block = rows(source.spec, even_rows(source.spec, self.size))
            areas[INPUT] = Area(source.data, split_bounds([1] * self.size, block.nbytes))
            target = output(out, block)
        elif out is None:
            raise UsageError("scatter needs out= on every rank but the root")
        else:
            target = destination_view(out)
            block = target.spec
        areas[WORK] = Area(target.data, (0, block.nbytes))
        return self._begin(
            Header(
                Call.SCATTER, interned(block.dtype, (block.nbytes // block.itemsize,)), None, root
            ),
            moving.direct_scatter(self.rank, self.size, root),
            areas,
            then=partial(stored, target),
            keep=source,
            timeout=timeout,
        )

    def scatter(
        self,
        array: object = None,
        *,
        root: int = 0,
        out: object = None,
        timeout: float | None = None,
    ) -> Any:
        """Divide the rows of `root`'s `array` evenly; each rank has its share.

        Into `out`, which only the root may leave away.
        """
        return self.iscatter(array, root=root, out=out, timeout=timeout).complete(None)

    def ibroadcast(
        self, array: object, *, root: int = 0, timeout: float | None = None
    ) -> Work[Any]:
        """Begin `broadcast`."""
        self._check_rank(root, "root")
        view: SourceView | DestinationView
        if self.rank == root:
            view, then = source_view(array), partial(given, array)
        else:
            view = destination_view(array)
            then = partial(stored, view)
        return self._begin(
            Header(Call.BROADCAST, view.spec, None, root),
            self._tuning.broadcast(view.spec.nbytes, self.rank, self.size, root),
            {WORK: Area(view.data, (0, view.spec.nbytes))},
            then=then,
            keep=view,
            timeout=timeout,
        )

    def broadcast(self, array: object, *, root: int = 0, timeout: float | None = None) -> Any:
        """Give every rank the content of `root`'s `array`, in place; returns `array`."""
        return self.ibroadcast(array, root=root, timeout=timeout).complete(None)

    def iall_to_all(
        self,
        array: object,
        *,
        out: object = None,
        send_splits: Sequence[int] | None = None,
        recv_splits: Sequence[int] | None = None,
        timeout: float | None = None,
    ) -> Work[Any]:
        """Begin `all_to_all`."""
        source = source_view(array)
        spec = source.spec
        sent = checked_splits(send_splits, self.size, row_count(spec), "send_splits")
        if recv_splits is None and send_splits is not None:
            raise UsageError("all_to_all with send_splits needs recv_splits as well")
        total = row_count(spec) if recv_splits is None else sum(recv_splits)
        received = checked_splits(recv_splits, self.size, total, "recv_splits")
        target = output(out, rows(spec, total))
        row = rows(spec, 1).nbytes
        return self._begin(
            lambda peer, inward: Header(
                Call.ALL_TO_ALL, rows(spec, (received if inward else sent)[peer])
            ),
            moving.pairwise_all_to_all(self.rank, self.size),
            {
                INPUT: Area(source.data, split_bounds(sent, row)),
                WORK: Area(target.data, split_bounds(received, row)),
            },
            then=partial(stored, target),
            keep=source,
            timeout=timeout,
        )

    def all_to_all(
        self,
        array: object,
        *,
        out: object = None,
        send_splits: Sequence[int] | None = None,
        recv_splits: Sequence[int] | None = None,
        timeout: float | None = None,
    ) -> Any:
        """Send each rank its rows of `array`; return the rows that came, in order of rank.

        Rows are divided evenly, or as `send_splits` and `recv_splits` say, one number for
        each rank. Into `out`, or a new array.
        """
        work = self.iall_to_all(
            array, out=out, send_splits=send_splits, recv_splits=recv_splits, timeout=timeout
        )
        return work.complete(None)

    def ibarrier(self, *, timeout: float | None = None) -> Work[Any]:
        """Begin `barrier`."""
        return self._begin(
            Header(Call.BARRIER, _NO_TENSOR),
            moving.dissemination_barrier(self.rank, self.size),
            {},
            then=nothing,
            timeout=timeout,
        )

    def barrier(self, *, timeout: float | None = None) -> None:
        """Return once every rank has called it."""
        self.ibarrier(timeout=timeout).complete(None)
