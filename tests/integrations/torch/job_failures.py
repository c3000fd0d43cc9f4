"""A job of two ranks in which things go wrong, each in a process group of its own."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from support.torch_ranks import check, main
from transport import (
    ClosedError,
    Config,
    TransportError,
    TransportTimeoutError,
    TruncatedError,
    UsageError,
)
from transport.integrations.torch import Options

IMPATIENT = Options(config=Config(peer_timeout=2.5, heartbeat_interval=0.5))

dist.init_process_group("sealed", pg_options=IMPATIENT)
RANK = dist.get_rank()
OTHER = 1 - RANK


def error_of(call: Callable[[], object], kind: type[Exception], *words: str) -> Exception:
    """What a call raises: of the library's class and of torch's, with these words in it."""
    with pytest.raises(kind) as caught:
        call()
    error = caught.value
    assert isinstance(error, TransportError), repr(error)
    assert isinstance(error, dist.DistBackendError), repr(error)
    assert isinstance(error, RuntimeError)
    check_words(error, words)
    return error


def error_of_future(call: Callable[[], object], *words: str) -> None:
    """torch carries the text of an error through a future, not its class."""
    with pytest.raises(RuntimeError) as caught:
        call()
    check_words(caught.value, words)


def check_words(error: Exception, words: tuple[str, ...]) -> None:
    for word in words:
        assert word in str(error), (word, str(error))


def odd(of_rank_0: object, of_rank_1: object) -> object:
    return of_rank_1 if RANK else of_rank_0


@check
def another_shape_is_named() -> None:
    group = dist.new_group()
    tensor = torch.ones(odd(3, 4))
    error_of(lambda: dist.all_reduce(tensor, group=group), UsageError, "rank", "[3]", "[4]")
    # The group has failed for good, others have not.
    error_of(lambda: dist.barrier(group), UsageError, "cannot be used any more")
    dist.barrier()


@check
def another_dtype_op_or_root_is_named() -> None:
    group = dist.new_group()
    tensor = torch.ones(3, dtype=odd(torch.float32, torch.float64))
    error_of(lambda: dist.all_reduce(tensor, group=group), UsageError, "float32", "float64")
    group = dist.new_group()
    op = odd(dist.ReduceOp.SUM, dist.ReduceOp.MAX)
    error_of(lambda: dist.all_reduce(torch.ones(3), op, group=group), UsageError, "op ", "rank")
    group = dist.new_group()

    def from_another_root() -> None:
        dist.broadcast(torch.ones(3), RANK, group=group)
        dist.barrier(group)

    error_of(from_another_root, UsageError, "rank")


@check
def another_call_is_named() -> None:
    group = dist.new_group()

    def call() -> None:
        if RANK:
            dist.all_gather_into_tensor(torch.empty(6), torch.ones(3), group=group)
        dist.all_reduce(torch.ones(3), group=group)

    error_of(call, UsageError, "all_gather", "all_reduce")


@check
def an_error_reaches_who_waits_later() -> None:
    group = dist.new_group()
    work = dist.all_reduce(torch.ones(odd(3, 4)), group=group, async_op=True)
    error_of(work.wait, UsageError, "[3]", "[4]")
    assert work.is_completed()
    assert not work.is_success()
    assert isinstance(work.exception(), UsageError)
    error_of(work.wait, UsageError)
    error_of(work.result, UsageError)


@check
def an_error_reaches_the_future() -> None:
    group = dist.new_group()
    work = dist.all_reduce(torch.ones(odd(3, 4)), group=group, async_op=True)
    chained = work.get_future().then(lambda future: future.value())
    for future in (work.get_future(), chained):
        error_of_future(future.wait, "UsageError", "[3]", "[4]")


@check
def an_error_reaches_functional_collectives() -> None:
    import torch.distributed._functional_collectives as functional

    group = dist.new_group()
    error_of(
        lambda: functional.wait_tensor(functional.all_reduce(torch.ones(odd(3, 4)), "sum", group)),
        UsageError,
        "[3]",
    )


@check
def an_error_reaches_ddp() -> None:
    group = dist.new_group(pg_options=Options())
    model = DistributedDataParallel(torch.nn.Linear(64, 64), process_group=group)
    model(torch.ones(2, 64)).sum().backward()
    loss = model(torch.ones(2, 64)).sum()
    dist.barrier()
    if RANK:
        group.group.close()
        error_of(loss.backward, ClosedError, "closed on rank 1")
    else:
        error_of_future(loss.backward, "PeerLostError", "closed on rank 1")


@check
def a_late_rank_is_named_within_the_timeout() -> None:
    group = dist.new_group(timeout=timedelta(seconds=1.0))
    if RANK == 0:
        error_of(
            lambda: dist.all_reduce(torch.ones(3), group=group),
            TransportTimeoutError,
            "timeout of 1.0 s",
            "rank 1 ('rank-1')",
        )
    dist.barrier()
    error_of(lambda: dist.barrier(group), TransportTimeoutError, "cannot be used any more")


@check
def a_wait_may_be_shorter_than_the_operation() -> None:
    if RANK == 0:
        work = dist.all_reduce(tensor := torch.ones(3), async_op=True)
        error_of(
            lambda: work.wait(timedelta(seconds=0.05)), TransportTimeoutError, "timeout of 0.05 s"
        )
        dist.send(torch.ones(1), 1)
        work.wait(timedelta(seconds=60))
    else:
        dist.recv(torch.ones(1), 0)
        dist.all_reduce(tensor := torch.ones(3))
    assert torch.equal(tensor, torch.full((3,), 2.0))


@check
def a_message_of_another_kind_is_named() -> None:
    for sent, got, kind in (
        (torch.ones(4), torch.empty(3), TruncatedError),
        (torch.ones(3), torch.empty(3, dtype=torch.int32), UsageError),
        (torch.ones(2), torch.empty(3), UsageError),
    ):
        group = dist.new_group()
        if RANK:
            with contextlib.suppress(TransportError):  # rank 0 did not take it
                dist.send(sent, 0, group=group)
        else:
            error_of(lambda got=got, group=group: dist.recv(got, 1, group=group), kind, "rank-1")
        dist.barrier()


@check
def what_cannot_travel_is_refused_by_name() -> None:
    group = dist.new_group()
    refusals = (
        (torch.ones(3, device="meta"), "meta"),
        (torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.quint8), "quantized"),
        (torch.ones(1).expand(4), "share one place"),
    )
    for tensor, words in refusals:
        error_of(lambda t=tensor: dist.broadcast(t, OTHER, group=group), UsageError, words)
    csr = torch.eye(3).to_sparse_csr()
    error_of(lambda: group.allreduce([csr]), UsageError, "sparse_csr")
    error_of(lambda: group.broadcast([csr], dist.BroadcastOptions()), UsageError, "sparse_csr")
    coo = torch.eye(3).to_sparse()
    options = dist.AllreduceOptions()
    options.reduceOp = dist.ReduceOp.MAX
    error_of(lambda: group.allreduce([coo], options), UsageError, "sum and avg")
    for op, dtype in (
        (dist.ReduceOp.BAND, torch.float32),
        (dist.ReduceOp.BXOR, torch.bfloat16),
        (dist.ReduceOp.AVG, torch.int64),
        (dist.ReduceOp.AVG, torch.bool),
    ):
        error_of(
            lambda o=op, d=dtype: dist.all_reduce(torch.ones(3).to(d), o, group=group),
            UsageError,
            str(dtype).removeprefix("torch."),
        )
    options.reduceOp = dist.ReduceOp.AVG
    for dtype in (torch.int32, torch.bool):
        counts = torch.eye(3).to(dtype).to_sparse()
        words = f"op avg is not defined for {str(dtype).removeprefix('torch.')}"
        error_of(lambda c=counts: group.allreduce([c], options), UsageError, words)
    # None of these has harmed the group.
    dist.barrier(group)


@check
def sparse_tensors_that_disagree_are_named() -> None:
    group = dist.new_group()
    here, there = f"rank {RANK} ", f"rank {OTHER} "
    square = torch.eye(3).to_sparse()
    wide = torch.sparse_coo_tensor([[0], [1]], [1.0], (3, 4))
    rows = torch.sparse_coo_tensor([[0]], torch.ones(1, 3), (3, 3))
    for tensor, words in (
        (odd(square, wide), ("[2, 0, 3, 3]", "[2, 0, 3, 4]")),
        (odd(square, rows), ("[2, 0, 3, 3]", "[1, 1, 3, 3]")),
    ):
        error_of(lambda t=tensor: group.allreduce([t]), UsageError, here, there, *words)
    options = dist.AllreduceOptions()
    options.reduceOp = odd(dist.ReduceOp.SUM, dist.ReduceOp.AVG)
    error_of(lambda: group.allreduce([square], options), UsageError, here, there, "sum", "avg")
    for ops, tensor, words in (
        ((dist.ReduceOp.AVG,) * 2, odd(square, square.int()), ("float32", "int32")),
        ((dist.ReduceOp.SUM, dist.ReduceOp.AVG), square.int(), ("by sum", "by avg")),
        ((dist.ReduceOp.SUM,) * 2, odd(square, square.double()), ("float32", "float64")),
        ((dist.ReduceOp.AVG,) * 2, square.int(), ("avg", "int32")),
    ):
        options.reduceOp = odd(*ops)
        error_of(lambda t=tensor: group.allreduce([t], options), UsageError, *words)
    # All ranks have seen it before any gathered entries: the group is as good as before.
    group.allreduce([square])
    assert torch.equal(square.to_dense(), 2 * torch.eye(3))


@check
def wrong_lists_are_refused() -> None:
    group = dist.group.WORLD
    one = torch.ones(2)
    options = dist.AllToAllOptions()
    for call, words in (
        (lambda: group.allgather([[one]], [one]), "1 tensors for 2 ranks"),
        (lambda: group.allgather([[one, torch.ones(3)]], [one]), "rank 1 has 3 elements"),
        (lambda: group.allgather([[one, one.double()]], [one]), "float64"),
        (lambda: group.all_gather_single(torch.ones(3), one), "2 times 2"),
        (lambda: group.reduce_scatter_single(one, torch.ones(3)), "2 times 2"),
        (lambda: group.alltoall([one], [one], options), "for 2 ranks"),
        (lambda: group.all_to_all_single(one, torch.ones(3), [], [], options), "3 rows"),
        (lambda: group.all_to_all_single(one, one, [1, 2], [], options), "the sum 2"),
        (lambda: group.allreduce([one, one]), "one tensor a call"),
        (lambda: group.send([one], OTHER, -1), "tag"),
    ):
        error_of(call, UsageError, words)
    dist.barrier()


@check
def options_are_checked() -> None:
    error_of(lambda: dist.new_group(pg_options=7), UsageError, "pg_options must be")


@check
def a_group_that_was_shut_down_says_so() -> None:
    group = dist.new_group()
    dist.barrier(group)
    if RANK == 0:
        pending = dist.irecv(torch.empty(1), OTHER, group=group)
        future = pending.get_future()
        group.shutdown()
        error_of(pending.wait, ClosedError, "closed")
        error_of(lambda: dist.barrier(group), ClosedError)
        error_of_future(future.wait, "ClosedError", "closed")
        group.shutdown()  # again is allowed
    dist.barrier()


@check
def the_end() -> None:
    dist.barrier()
    # Pending when the interpreter ends: it must end all the same, and not crash.
    dist.irecv(torch.empty(1), OTHER).get_future().then(lambda future: None)


if __name__ == "__main__":
    main()
