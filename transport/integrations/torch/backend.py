"""`SealedProcessGroup`: torch.distributed's calls, carried out by a `Group`.

torch 2.13 lets Python extend `ProcessGroup` but not `Backend`, so one object is both.
Where later versions renamed a call, both names stand here, the older below the newer.
Whatever fails raises an error of the library's tree that is also torch's
`DistBackendError`, whether a caller waits, asks, or hangs something on the future.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any, Final

import torch
import torch.distributed as dist

from ...collectives import Group, PremulSum
from ...errors import TransportError
from ...node import Work
from . import DEVICES, gathers, sparse
from .described import Described
from .endpoint import CLOSE_TIMEOUT, Endpoint
from .errors import for_torch, given_seconds, refused, seconds
from .gathers import Begun
from .kernel import TorchKernel
from .operands import Target, checked, packed
from .options import PATIENCE, Options
from .staging import Stager
from .work import JoinedWork, SealedWork

# Any stands for torch.Tensor, torch.device and the options of calls in this file:
# checking does not depend on torch.

DEFAULT_TIMEOUT: Final = 1800.0  # seconds; torch's own default
MAX_TAG: Final = (1 << 62) - 1

_OPS: Final = {
    dist.ReduceOp.SUM: "sum",
    dist.ReduceOp.AVG: "avg",
    dist.ReduceOp.PRODUCT: "product",
    dist.ReduceOp.MIN: "min",
    dist.ReduceOp.MAX: "max",
    dist.ReduceOp.BAND: "band",
    dist.ReduceOp.BOR: "bor",
    dist.ReduceOp.BXOR: "bxor",
}


def create(settings: Any, options: Any) -> SealedProcessGroup:
    """What torch calls to make a process group; `options` is the caller's `pg_options`.

    Raises:
        UsageError: no trust is configured, or what is given is not usable.
        TransportTimeoutError: not every rank came.
    """
    if options is not None and not isinstance(options, Options):
        raise refused(
            f"pg_options must be transport.integrations.torch.Options, got {type(options).__name__}"
        )
    try:
        return SealedProcessGroup(settings, options or Options())
    except TransportError as error:
        raise for_torch(error) from error


class SealedProcessGroup(Described):
    """One process group of this rank; see torch.distributed for the calls."""

    def __init__(self, settings: Any, options: Options) -> None:
        rank, size = settings.group_rank, settings.group_size
        super().__init__(rank, size, settings.store, str(settings.group_id or ""))
        self._works: list[SealedWork] | None = None  # those of one coalesced call
        self._stager: Stager | None = None  # once a tensor lies on a GPU
        self._endpoint: Endpoint | None
        ranks = list(settings.global_ranks_in_group or range(size))
        self._endpoint = Endpoint.take(rank, ranks, self._store, options)
        try:
            met = self._endpoint.meet(self._store, ranks)
            self._group = Group(
                self._endpoint.node,
                {name: each.addresses for name, each in met.items()},
                name=f"torch {self._label}",
                timeout=seconds(settings.timeout) or DEFAULT_TIMEOUT,
                connect_timeout=options.connect_timeout,
                tuning=options.tuning,
                kernel=TorchKernel(),
                keys={name: each.public_key for name, each in met.items()},
            )
        except BaseException:
            self._endpoint.release()
            raise
        for device in DEVICES:
            self._register_backend(torch.device(device), dist.ProcessGroup.BackendType.CUSTOM, None)

    @property
    def group(self) -> Group:
        """The library's group that carries everything out."""
        return self._group

    # --- how every operation begins ----------------------------------------------------------

    def _start(
        self,
        inputs: Sequence[Any],
        outputs: Sequence[Any],
        begin: Callable[..., Begun],
        source_rank: Callable[[Work[Any]], int] | None = None,
    ) -> SealedWork:
        """Have `begin(*inputs, *outputs)` begin an operation; its result is in `outputs`."""
        try:
            if self._on_the_host(inputs, outputs):
                part, finish = begin(*inputs, *outputs)
                return self._noted(SealedWork((part,), outputs, finish, source_rank))
            if self._stager is None:
                self._stager = Stager()
            return self._noted(self._stager.start(inputs, outputs, begin, source_rank))
        except TransportError as error:
            raise for_torch(error) from error

    def _on_the_host(self, inputs: Sequence[Any], outputs: Sequence[Any]) -> bool:
        """Whether the operation can begin here and now.

        Raises:
            UsageError: a tensor is none, or lies on a device that is not supported.
        """
        staged = self._stager is not None and self._stager.busy()
        for tensor in (*inputs, *outputs):
            checked(tensor)
            if tensor.is_cpu:
                continue
            if not tensor.is_cuda:
                raise refused(
                    f"the tensor lies on device {tensor.device}: the sealed backend takes "
                    f"tensors on {' and '.join(DEVICES)}"
                )
            staged = True
        return not staged

    def _noted(self, work: SealedWork) -> SealedWork:
        if self._works is not None:
            self._works.append(work)
        return work

    # --- reductions --------------------------------------------------------------------------

    def allreduce(self, tensors: Sequence[Any], opts: Any = None) -> SealedWork:
        """Reduce one tensor in place."""
        tensor, op, limit = _one(tensors), _op_of(opts), given_seconds(opts)
        if tensor.layout is not torch.strided:
            return self._sparse_allreduce(tensor, op, limit)
        if self._stager is None and tensor.is_cpu:  # the same as below, with less ado
            try:
                part = self._group.iall_reduce(tensor, op, timeout=limit)
            except TransportError as error:
                raise for_torch(error) from error
            return self._noted(SealedWork((part,), tensors))
        return self._start(
            (tensor,),
            (tensor,),
            lambda host, _: (self._group.iall_reduce(host, op, timeout=limit), None),
        )

    def _sparse_allreduce(self, tensor: Any, op: object, limit: float | None) -> SealedWork:
        if not tensor.is_cpu:
            raise refused(f"all_reduce of a sparse tensor on {tensor.device}: only on the CPU")
        try:
            total = sparse.all_reduce(self._group, tensor, op, limit)
        except TransportError as error:
            raise for_torch(error) from error
        with torch.no_grad():  # not detached: the entries of a sparse tensor are replaced
            tensor.copy_(total)
        return self._noted(SealedWork((), (tensor,)))

    def allreduce_coalesced(self, tensors: Sequence[Any], opts: Any = None) -> SealedWork:
        """Reduce several tensors in place."""
        return _together([self.allreduce([each], opts) for each in tensors], tensors)

    def reduce(self, tensors: Sequence[Any], opts: Any) -> SealedWork:
        """Reduce one tensor to the root, in place."""
        tensor, op, limit, root = _one(tensors), _op_of(opts), given_seconds(opts), opts.rootRank
        outputs = (tensor,) if root == self._rank else ()
        return self._start(
            (tensor,),
            outputs,
            lambda host, *_: (self._group.ireduce(host, op, root=root, timeout=limit), None),
        )

    def reduce_scatter(
        self, outputs: Sequence[Any], inputs: Sequence[Sequence[Any]], opts: Any
    ) -> SealedWork:
        """Reduce lists of tensors; each rank has one of the results."""
        output, tensors = _one(outputs), _one(inputs)
        op, limit = _op_of(opts), given_seconds(opts)
        return self._start(
            tensors,
            (output,),
            lambda *host: gathers.reduce_scatter(self._group, host[-1], host[:-1], op, limit),
        )

    def reduce_scatter_single(self, output: Any, tensor: Any, opts: Any = None) -> SealedWork:
        """The same with one tensor that holds a rank's inputs."""
        op, limit = _op_of(opts), given_seconds(opts)
        return self._start(
            (tensor,),
            (output,),
            lambda read, write: gathers.reduce_scatter_single(self._group, write, read, op, limit),
        )

    def reduce_scatter_single_coalesced(
        self, outputs: Sequence[Any], inputs: Sequence[Any], opts: Any = None
    ) -> SealedWork:
        """Several at once."""
        pairs = zip(outputs, inputs, strict=True)
        return _together([self.reduce_scatter_single(*pair, opts) for pair in pairs], outputs)

    # --- exchanges ---------------------------------------------------------------------------

    def broadcast(self, tensors: Sequence[Any], opts: Any) -> SealedWork:
        """Give every rank the root's tensor."""
        tensor, limit, root = _one(tensors), given_seconds(opts), opts.rootRank
        return self._start(
            (tensor,) if root == self._rank else (),
            (tensor,),
            lambda *host: (self._group.ibroadcast(host[-1], root=root, timeout=limit), None),
        )

    def allgather(
        self, outputs: Sequence[Sequence[Any]], inputs: Sequence[Any], opts: Any = None
    ) -> SealedWork:
        """Every rank's tensor, into a list."""
        gathered, tensor, limit = _one(outputs), _one(inputs), given_seconds(opts)
        return self._start(
            (tensor,),
            gathered,
            lambda read, *write: gathers.all_gather(self._group, write, read, limit),
        )

    def allgather_coalesced(
        self, outputs: Sequence[Sequence[Any]], inputs: Sequence[Any], opts: Any = None
    ) -> SealedWork:
        """Several at once: `outputs` has a list for each rank, with one tensor of each input."""
        lists = list(zip(*outputs, strict=True))
        works = [
            self.allgather([list(gathered)], [tensor], opts)
            for gathered, tensor in zip(lists, inputs, strict=True)
        ]
        return _together(works, [tensor for each in outputs for tensor in each])

    def all_gather_single(self, output: Any, tensor: Any, opts: Any = None) -> SealedWork:
        """Every rank's tensor, into one."""
        limit = given_seconds(opts)
        return self._start(
            (tensor,),
            (output,),
            lambda read, write: gathers.all_gather_single(self._group, write, read, limit),
        )

    def all_gather_single_coalesced(
        self, outputs: Sequence[Any], inputs: Sequence[Any], opts: Any = None
    ) -> SealedWork:
        """Several at once."""
        pairs = zip(outputs, inputs, strict=True)
        return _together([self.all_gather_single(*pair, opts) for pair in pairs], outputs)

    def gather(
        self, outputs: Sequence[Sequence[Any]], inputs: Sequence[Any], opts: Any
    ) -> SealedWork:
        """Every rank's tensor, into a list at the root."""
        root, limit = opts.rootRank, given_seconds(opts)
        tensor, gathered = _one(inputs), _one(outputs) if self._rank == root else ()
        return self._start(
            (tensor,),
            gathered,
            lambda read, *write: gathers.gather(self._group, write, read, root, limit),
        )

    def gather_single(self, output: Any, tensor: Any, opts: Any) -> SealedWork:
        """Every rank's tensor, into one at the root."""
        root, limit = opts.rootRank, given_seconds(opts)
        outputs = (output,) if self._rank == root else ()
        return self._start(
            (tensor,),
            outputs,
            lambda read, *write: gathers.gather_single(
                self._group, write[0] if write else None, read, root, limit
            ),
        )

    def scatter(
        self, outputs: Sequence[Any], inputs: Sequence[Sequence[Any]], opts: Any
    ) -> SealedWork:
        """The root's tensors, one to each rank."""
        root, limit = opts.rootRank, given_seconds(opts)
        output, tensors = _one(outputs), _one(inputs) if self._rank == root else ()
        return self._start(
            tensors,
            (output,),
            lambda *host: gathers.scatter(self._group, host[-1], host[:-1], root, limit),
        )

    def alltoall(
        self, outputs: Sequence[Any], inputs: Sequence[Any], opts: Any = None
    ) -> SealedWork:
        """A tensor to and from each rank."""
        limit, count = given_seconds(opts), len(inputs)
        return self._start(
            inputs,
            outputs,
            lambda *host: gathers.all_to_all(self._group, host[count:], host[:count], limit),
        )

    def all_to_all_single(
        self,
        output: Any,
        tensor: Any,
        output_splits: Sequence[int],
        input_splits: Sequence[int],
        opts: Any = None,
    ) -> SealedWork:
        """Rows to and from each rank."""
        limit = given_seconds(opts)
        return self._start(
            (tensor,),
            (output,),
            lambda read, write: gathers.all_to_all_single(
                self._group, write, read, output_splits, input_splits, limit
            ),
        )

    def barrier(self, opts: Any = None) -> SealedWork:
        """Ends once every rank has called it."""
        limit = given_seconds(opts)
        return self._start((), (), lambda: (self._group.ibarrier(timeout=limit), None))

    # --- messages ----------------------------------------------------------------------------

    def send(self, tensors: Sequence[Any], dst: int, tag: int = 0) -> SealedWork:
        """Send one tensor; ends when its memory may be reused."""
        tensor, checked_tag = _one(tensors), _tag(tag)
        return self._start(
            (tensor,),
            (),
            lambda host: (self._group.isend(packed(host), dst, tag=checked_tag), None),
        )

    def recv(self, tensors: Sequence[Any], src: int, tag: int = 0) -> SealedWork:
        """Receive one tensor from a rank."""
        return self._receive(_one(tensors), src, tag)

    def recv_anysource(self, tensors: Sequence[Any], tag: int = 0) -> SealedWork:
        """Receive one tensor from whichever rank sends first."""
        return self._receive(_one(tensors), None, tag)

    def _receive(self, tensor: Any, source: int | None, tag: int) -> SealedWork:
        checked_tag = _tag(tag)

        def begin(host: Any) -> Begun:
            target = Target(host)
            return self._group.irecv(target.flat, source, tag=checked_tag), target.store

        return self._start((), (tensor,), begin, self._source_of)

    def _source_of(self, part: Work[Any]) -> int:
        return self._group.rank_of(part.source)

    # --- several as one ----------------------------------------------------------------------

    def _start_coalescing(self, device: Any = None) -> None:
        self._works = []

    def _end_coalescing(self, device: Any = None) -> SealedWork:
        works, self._works = self._works or [], None
        return _together(works, [output for work in works for output in work.outputs])

    # --- time and end ------------------------------------------------------------------------

    def set_timeout(self, timeout: timedelta) -> None:
        """The time limit of operations that begin from now on."""
        self._group.timeout = seconds(timeout) or DEFAULT_TIMEOUT

    def shutdown(self) -> None:
        """End the group on this rank; the last of a process closes its node."""
        # What was sent by operations that have ended well is worth the wait for a peer that is
        # busy; after a failure nobody waits for it any more.
        self._end(PATIENCE if self._group.error is None else CLOSE_TIMEOUT)

    def _end(self, patience: float) -> None:
        endpoint, self._endpoint = self._endpoint, None
        if endpoint is not None:
            self._group.close()
            if self._stager is not None:
                self._stager.close()
            endpoint.release(patience)

    def abort(self) -> None:
        """The same: nothing that is under way is waited for."""
        self._end(CLOSE_TIMEOUT)

    # --- older and newer names ---------------------------------------------------------------

    _allgather_base = all_gather_single
    _reduce_scatter_base = reduce_scatter_single
    alltoall_base = all_to_all_single
    allgather_into_tensor_coalesced = all_gather_single_coalesced
    reduce_scatter_tensor_coalesced = reduce_scatter_single_coalesced
    start_coalescing = _start_coalescing
    end_coalescing = _end_coalescing
    _set_default_timeout = set_timeout


def _one(tensors: Sequence[Any]) -> Any:
    if len(tensors) != 1:
        raise refused(f"one tensor a call, got {len(tensors)}")
    return tensors[0]


def _op_of(opts: Any) -> str | PremulSum:
    """The library's name of a reduction.

    Raises:
        UsageError: there is none.
    """
    asked = dist.ReduceOp.SUM if opts is None else opts.reduceOp
    kind = getattr(asked, "op", asked)
    known = _OPS.get(kind)
    if known is not None:
        return known
    if kind == dist.ReduceOp.PREMUL_SUM:
        factor = asked.__getstate__()[1]
        if isinstance(factor, torch.Tensor):
            if factor.numel() != 1:
                raise refused("PREMUL_SUM takes one factor a rank")
            factor = factor.item()
        return PremulSum(factor=float(factor))
    raise refused(f"no reduction {kind}")


def _tag(tag: int) -> int:
    if not 0 <= tag <= MAX_TAG:
        raise refused(f"tag must lie in 0..2^62-1, got {tag}")
    return int(tag)


def _together(works: Sequence[SealedWork], outputs: Sequence[Any]) -> SealedWork:
    """One work that ends when all of `works` have."""
    return JoinedWork(works, list(outputs))
