"""The operations of a group that reduce: all_reduce, reduce_scatter, reduce."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from ..node import Work
from ..tensor.spec import TensorSpec
from ..tensor.views import DestinationView, SourceView, source_view
from .execution import Area
from .header import Call, Header
from .operands import even_bounds, even_rows, nothing, output, rows, split_bounds, stored, updatable
from .reduction import PremulSum, Reduction, reduction
from .runner import Plan, Runner
from .steps import Buffer

INPUT, WORK = Buffer.INPUT, Buffer.WORK
_MOST_PLANS = 256


class Reductions(Runner):
    """Part of `Group`. `op` is a name, or a `PremulSum`."""

    def iall_reduce(
        self,
        array: object,
        op: str | PremulSum = "sum",
        *,
        out: object = None,
        timeout: float | None = None,
    ) -> Work[Any]:
        """Begin `all_reduce`."""
        plan = None
        if out is None:
            target = updatable(array)
            plan = self._plans.get((op, target.spec))
        if plan is None:
            asked = reduction(op)
            source, target, areas, home = self._reduced(array, out, asked)
            plan = self._planned(source.spec, asked, home)
            if out is None and asked.factor is None:
                self._plans[op, target.spec] = plan
        else:
            areas = {WORK: target.data}
        bounds = plan.bounds
        return self._run(
            plan.headers,
            plan.schedule,
            {buffer: Area(data, bounds) for buffer, data in areas.items()},
            plan.combine,
            partial(stored, target),
            timeout,
        )

    def _planned(self, spec: TensorSpec, asked: Reduction, home: Buffer) -> Plan:
        """How ranks all_reduce tensors of this dtype and shape."""
        if len(self._plans) >= _MOST_PLANS:
            self._plans.clear()
        chosen = self._tuning.all_reduce(spec.nbytes, self.rank, self.size, home, asked, spec.dtype)
        headers = self._headers(Header(Call.ALL_REDUCE, spec, asked.op))
        bounds = even_bounds(spec.nbytes // spec.itemsize, chosen.blocks, spec.itemsize)
        return Plan(headers, chosen, bounds, self._combine(asked, headers.own))

    def all_reduce(
        self,
        array: object,
        op: str | PremulSum = "sum",
        *,
        out: object = None,
        timeout: float | None = None,
    ) -> Any:
        """Reduce every rank's `array` element by element; every rank has the result.

        In place, or into `out`; returns whichever holds it. `op` is sum, avg, product,
        min, max, band, bor, bxor, or a `PremulSum`.
        """
        return self.iall_reduce(array, op, out=out, timeout=timeout).complete(None)

    def ireduce_scatter(
        self,
        array: object,
        op: str | PremulSum = "sum",
        *,
        out: object = None,
        timeout: float | None = None,
    ) -> Work[Any]:
        """Begin `reduce_scatter`."""
        asked = reduction(op)
        source = source_view(array)
        spec = source.spec
        self._kernel.check(asked, spec.dtype)
        block = rows(spec, even_rows(spec, self.size))
        target = output(out, block)
        data = self._contribution(source, asked)
        schedule = self._tuning.reduce_scatter(block.nbytes, self.rank, self.size)
        return self._begin(
            Header(Call.REDUCE_SCATTER, spec, asked.op),
            schedule,
            {
                INPUT: Area(data, split_bounds([1] * self.size, block.nbytes)),
                WORK: Area(target.data, (0, block.nbytes)),
            },
            slot=block.nbytes,
            reduction=asked,
            then=partial(stored, target),
            keep=source,
            timeout=timeout,
        )

    def reduce_scatter(
        self,
        array: object,
        op: str | PremulSum = "sum",
        *,
        out: object = None,
        timeout: float | None = None,
    ) -> Any:
        """Reduce every rank's `array`; each rank has its share of the rows of the result.

        The first axis is divided evenly. Into `out`, or a new array.
        """
        return self.ireduce_scatter(array, op, out=out, timeout=timeout).complete(None)

    def ireduce(
        self,
        array: object,
        op: str | PremulSum = "sum",
        *,
        root: int = 0,
        out: object = None,
        timeout: float | None = None,
    ) -> Work[Any]:
        """Begin `reduce`."""
        asked = reduction(op)
        self._check_rank(root, "root")
        if self.rank == root:
            source, target, areas, home = self._reduced(array, out, asked)
            then: Callable[[], object] = partial(stored, target)
        else:
            source, home, then = source_view(array), INPUT, nothing
            self._kernel.check(asked, source.spec.dtype)
            areas = {INPUT: self._contribution(source, asked)}
        spec = source.spec
        return self._begin(
            Header(Call.REDUCE, spec, asked.op, root),
            self._tuning.reduce(spec.nbytes, self.rank, self.size, root, home),
            {buffer: Area(data, (0, spec.nbytes)) for buffer, data in areas.items()},
            slot=spec.nbytes,
            reduction=asked,
            then=then,
            keep=source,
            timeout=timeout,
        )

    def reduce(
        self,
        array: object,
        op: str | PremulSum = "sum",
        *,
        root: int = 0,
        out: object = None,
        timeout: float | None = None,
    ) -> Any:
        """Reduce every rank's `array`; `root` has the result, in place or in `out`.

        Returns it there and None elsewhere, where `array` stays as it is.
        """
        return self.ireduce(array, op, root=root, out=out, timeout=timeout).complete(None)

    def _reduced(
        self, array: object, out: object, asked: Reduction
    ) -> tuple[SourceView | DestinationView, DestinationView, dict[Buffer, memoryview], Buffer]:
        """Operand, result, their memory, and where the operand lies."""
        if out is None or out is array:
            target = updatable(array)
            self._kernel.check(asked, target.spec.dtype)
            if asked.factor is not None:
                data = target.data
                self._kernel.multiply(target.spec.dtype, data, asked.factor, data)
            return target, target, {WORK: target.data}, WORK
        source = source_view(array)
        self._kernel.check(asked, source.spec.dtype)
        target = output(out, source.spec)
        if asked.factor is None:
            return source, target, {INPUT: source.data, WORK: target.data}, INPUT
        self._kernel.multiply(source.spec.dtype, source.data, asked.factor, target.data)
        return source, target, {WORK: target.data}, WORK

    def _contribution(self, source: SourceView, asked: Reduction) -> memoryview:
        """What this rank puts in: its tensor, or for a `PremulSum` a product in new memory."""
        if asked.factor is None:
            return source.data
        product = output(None, source.spec)
        self._kernel.multiply(source.spec.dtype, source.data, asked.factor, product.data)
        return product.data
