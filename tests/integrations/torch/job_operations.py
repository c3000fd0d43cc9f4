"""A job of any size: every operation of the `sealed` backend, checked on every rank."""

from __future__ import annotations

import torch
import torch.distributed as dist

from support.torch_ranks import check, main

FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
QUARTERS = (torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz)
SIZES = (1, 5, 3000, 300_000)

dist.init_process_group("sealed")
RANK, WORLD = dist.get_rank(), dist.get_world_size()
OTHERS = [rank for rank in range(WORLD) if rank != RANK]
NEXT, LAST = (RANK + 1) % WORLD, (RANK - 1) % WORLD


def equal(found: torch.Tensor, expected: torch.Tensor) -> None:
    assert found.dtype == expected.dtype, (found.dtype, expected.dtype)
    assert torch.equal(found, expected), (found, expected)


@check
def the_backend_is_ours() -> None:
    assert dist.get_backend() == "sealed"
    group = dist.group.WORLD
    assert type(group).__name__ == "SealedProcessGroup"
    assert (group.rank(), group.size(), group.name()) == (RANK, WORLD, "sealed")
    assert (dist.get_rank(group), dist.get_world_size(group)) == (RANK, WORLD)
    assert group.get_group_store() is not None
    assert group.group.members == tuple(f"rank-{rank}" for rank in range(WORLD))


@check
def all_reduce_of_every_dtype() -> None:
    for dtype in (*FLOATS, *INTEGERS):
        for size in SIZES:
            tensor = torch.full((size,), RANK + 1).to(dtype)
            dist.all_reduce(tensor)
            equal(tensor, torch.full((size,), WORLD * (WORLD + 1) // 2).to(dtype))
    for dtype in (torch.complex64, torch.complex128):
        tensor = torch.full((7,), complex(RANK, 1), dtype=dtype)
        dist.all_reduce(tensor)
        equal(tensor, torch.full((7,), complex(WORLD * (WORLD - 1) // 2, WORLD), dtype=dtype))


@check
def all_reduce_of_quarter_precision() -> None:
    for dtype in QUARTERS:
        for op, expected in (
            (dist.ReduceOp.SUM, sum(range(1, WORLD + 1))),
            (dist.ReduceOp.MAX, WORLD),
            (dist.ReduceOp.MIN, 1),
            (dist.ReduceOp.AVG, (WORLD + 1) / 2),
        ):
            tensor = torch.full((300,), float(RANK + 1)).to(dtype)
            dist.all_reduce(tensor, op)
            assert torch.equal(tensor.float(), torch.full((300,), float(expected))), (dtype, op)


@check
def all_reduce_by_every_op() -> None:
    mine = torch.tensor([RANK + 1, 3, 2 * RANK + 1])
    every = torch.stack([torch.tensor([rank + 1, 3, 2 * rank + 1]) for rank in range(WORLD)])
    folds = {
        dist.ReduceOp.SUM: every.sum(0),
        dist.ReduceOp.PRODUCT: every.prod(0),
        dist.ReduceOp.MIN: every.amin(0),
        dist.ReduceOp.MAX: every.amax(0),
    }
    for op, combine in (
        (dist.ReduceOp.BAND, torch.bitwise_and),
        (dist.ReduceOp.BOR, torch.bitwise_or),
        (dist.ReduceOp.BXOR, torch.bitwise_xor),
    ):
        folded = every[0]
        for row in every[1:]:
            folded = combine(folded, row)
        folds[op] = folded
    for op, expected in folds.items():
        tensor = mine.clone()
        dist.all_reduce(tensor, op)
        equal(tensor, expected)
    for dtype in FLOATS:
        tensor = mine.to(dtype)
        dist.all_reduce(tensor, dist.ReduceOp.AVG)
        equal(tensor, every.to(torch.float64).mean(0).to(dtype))
    scaled = torch.ones(5)
    dist.all_reduce(scaled, dist._make_nccl_premul_sum(float(RANK + 2)))
    equal(scaled, torch.full((5,), float(sum(range(2, WORLD + 2)))))


@check
def all_reduce_of_booleans() -> None:
    tensor = torch.tensor([RANK == 0, True, False])
    dist.all_reduce(tensor)
    equal(tensor, torch.tensor([True, True, False]))
    tensor = torch.tensor([RANK == 0, True, False])
    dist.all_reduce(tensor, dist.ReduceOp.MIN)
    equal(tensor, torch.tensor([False, True, False]))


@check
def tensors_of_odd_shape() -> None:
    scalar = torch.tensor(float(RANK))
    dist.all_reduce(scalar)
    equal(scalar, torch.tensor(float(sum(range(WORLD)))))
    empty = torch.empty(0, 4)
    dist.all_reduce(empty)
    dist.broadcast(empty, 0)
    base = torch.zeros(6, 8)
    strided = base.t()[1:7:2]
    strided.fill_(RANK + 1)
    dist.all_reduce(strided)
    assert float(strided.sum()) == strided.numel() * WORLD * (WORLD + 1) / 2
    assert float(base.sum()) == float(strided.sum()), "elements between were written"
    turned = torch.full((3, 5), float(RANK)).t()
    dist.broadcast(turned, WORLD - 1)
    equal(turned, torch.full((5, 3), WORLD - 1.0))
    negated = torch.full((4,), complex(0, RANK + 1)).conj().imag
    assert negated.is_neg()
    dist.broadcast(negated, 0)
    equal(negated.resolve_neg(), torch.full((4,), -1.0))
    needs_grad = torch.ones(3, requires_grad=True)
    with torch.no_grad():
        dist.all_reduce(needs_grad)
    equal(needs_grad.detach(), torch.full((3,), float(WORLD)))


@check
def broadcast_and_reduce() -> None:
    for root in range(WORLD):
        for dtype in (*FLOATS, *QUARTERS, torch.bool, torch.complex64):
            tensor = torch.full((9,), RANK + 1.0).to(dtype)
            dist.broadcast(tensor, root)
            assert torch.equal(tensor.float(), torch.full((9,), root + 1.0).to(dtype).float())
        tensor = torch.full((2000,), float(RANK))
        dist.reduce(tensor, root)
        expected = sum(range(WORLD)) if root == RANK else RANK
        equal(tensor, torch.full((2000,), float(expected)))


@check
def gathers() -> None:
    for dtype in (torch.float32, torch.bfloat16, torch.int64):
        mine = torch.full((2, 3), RANK, dtype=dtype)
        apart = [torch.empty(2, 3, dtype=dtype) for _ in range(WORLD)]
        dist.all_gather(apart, mine)
        for rank, each in enumerate(apart):
            equal(each, torch.full((2, 3), rank, dtype=dtype))
        whole = torch.empty(2 * WORLD, 3, dtype=dtype)
        dist.all_gather(list(whole.chunk(WORLD)), mine)
        equal(whole, torch.cat(apart))
        whole.zero_()
        dist.all_gather_into_tensor(whole, mine)
        equal(whole, torch.cat(apart))
        stacked = torch.empty(WORLD, 2, 3, dtype=dtype)
        dist.all_gather_into_tensor(stacked, mine)
        equal(stacked, torch.stack(apart))
        for root in range(WORLD):
            gathered = [torch.empty(3, 2, dtype=dtype).t() for _ in range(WORLD)]
            dist.gather(mine, gathered if root == RANK else None, dst=root)
            if root == RANK:
                equal(torch.cat(gathered), torch.cat(apart))


@check
def scatters() -> None:
    for root in range(WORLD):
        out = torch.empty(4)
        inputs = [torch.full((4,), 10.0 * root + rank) for rank in range(WORLD)]
        dist.scatter(out, inputs if root == RANK else None, src=root)
        equal(out, torch.full((4,), 10.0 * root + RANK))
    out = torch.empty(5)
    dist.reduce_scatter(out, [torch.full((5,), float(RANK + rank)) for rank in range(WORLD)])
    expected = torch.full((5,), float(sum(rank + RANK for rank in range(WORLD))))
    equal(out, expected)
    whole = torch.cat([torch.full((5,), float(RANK + rank)) for rank in range(WORLD)])
    dist.reduce_scatter_tensor(out, whole)
    equal(out, expected)
    dist.reduce_scatter_tensor(out, whole, dist.ReduceOp.AVG)
    equal(out, expected / WORLD)


@check
def all_to_alls() -> None:
    out = torch.empty(WORLD, 2)
    dist.all_to_all_single(out, torch.full((WORLD, 2), float(RANK)))
    equal(out, torch.arange(float(WORLD)).repeat_interleave(2).view(WORLD, 2))
    # Rank r sends r + p + 1 rows to rank p.
    sent = [RANK + peer + 1 for peer in range(WORLD)]
    source = torch.cat([torch.full((rows, 3), 10.0 * RANK + p) for p, rows in enumerate(sent)])
    target = torch.empty(sum(sent), 3)  # as many as it sends: r + p is symmetric
    dist.all_to_all_single(target, source, sent, sent)
    expected = [torch.full((rows, 3), 10.0 * p + RANK) for p, rows in enumerate(sent)]
    equal(target, torch.cat(expected))
    outs = [torch.empty(rows) for rows in sent]
    dist.all_to_all(outs, [torch.full((rows,), 10.0 * RANK + p) for p, rows in enumerate(sent)])
    for peer, each in enumerate(outs):
        equal(each, torch.full((sent[peer],), 10.0 * peer + RANK))


@check
def messages() -> None:
    sent, got = torch.full((3, 2), float(RANK)), torch.empty(2, 3).t()
    work = dist.isend(sent, NEXT, tag=3)
    assert dist.recv(got, LAST, tag=3) == LAST
    work.wait()
    equal(got, torch.full((3, 2), float(LAST)))
    # In the order of tags that the receiver asks for.
    works = [dist.isend(torch.tensor([float(tag)]), NEXT, tag=tag) for tag in range(4)]
    for tag in (2, 0, 3, 1):
        dist.recv(got_one := torch.empty(1), LAST, tag=tag)
        equal(got_one, torch.tensor([float(tag)]))
    for work in works:
        work.wait()
    dist.barrier()
    if RANK == 0:
        seen = set()
        for _ in OTHERS:
            source = dist.recv(got_one := torch.empty(1))
            equal(got_one, torch.tensor([float(source)]))
            seen.add(source)
        assert seen == set(OTHERS)
    else:
        dist.send(torch.tensor([float(RANK)]), 0)
    dist.barrier()  # what comes next must not meet a receive from any rank


@check
def messages_in_a_batch() -> None:
    got = {rank: torch.empty(1000) for rank in OTHERS}
    batch = [dist.P2POp(dist.isend, torch.full((1000,), float(RANK)), rank) for rank in OTHERS]
    batch += [dist.P2POp(dist.irecv, got[rank], rank) for rank in OTHERS]
    for work in dist.batch_isend_irecv(batch):
        work.wait()
    for rank, each in got.items():
        equal(each, torch.full((1000,), float(rank)))


@check
def objects() -> None:
    mine = {"rank": RANK, "text": "x" * (1000 * (RANK + 1))}
    every: list[object] = [None] * WORLD
    dist.all_gather_object(every, mine)
    assert [each["rank"] for each in every] == list(range(WORLD))  # type: ignore[index]
    listed = [mine, RANK] if RANK == 0 else [None, None]
    dist.broadcast_object_list(listed, 0)
    assert listed[1] == 0
    out: list[object] = [None]
    dist.scatter_object_list(out, [f"for {rank}" for rank in range(WORLD)] if RANK == 0 else None)
    assert out == [f"for {RANK}"]
    gathered = [None] * WORLD if RANK == 0 else None
    dist.gather_object(RANK, gathered, 0)
    assert gathered in (None, list(range(WORLD)))
    if RANK == 0:
        dist.send_object_list([{"a": 1}], 1)
    elif RANK == 1:
        received = [None]
        dist.recv_object_list(received, 0)
        assert received == [{"a": 1}]


@check
def coalesced() -> None:
    tensors = [torch.full((size,), float(RANK)) for size in SIZES]
    work = dist.all_reduce_coalesced(tensors, async_op=True)
    work.wait()
    for each in tensors:
        assert float(each[-1]) == sum(range(WORLD))
    outs = [[torch.empty(2), torch.empty(3)] for _ in range(WORLD)]
    dist.all_gather_coalesced(outs, [torch.full((2,), RANK + 0.0), torch.full((3,), RANK + 0.5)])
    for rank, (two, three) in enumerate(outs):
        equal(two, torch.full((2,), rank + 0.0))
        equal(three, torch.full((3,), rank + 0.5))
    wholes, inputs = [torch.empty(WORLD * n) for n in (1, 4)], [torch.ones(n) for n in (1, 4)]
    with dist.distributed_c10d._coalescing_manager(async_ops=True) as manager:
        for whole, each in zip(wholes, inputs, strict=True):
            dist.all_gather_into_tensor(whole, each)
    manager.wait()
    shards = [torch.empty(n) for n in (1, 4)]
    with dist.distributed_c10d._coalescing_manager(async_ops=True) as manager:
        for shard, whole in zip(shards, wholes, strict=True):
            dist.reduce_scatter_tensor(shard, whole)
    manager.wait()
    for shard in shards:
        equal(shard, torch.full_like(shard, float(WORLD)))
    sent, got = [torch.ones(2), torch.ones(3) * 2], [torch.empty(2), torch.empty(3)]
    with dist.distributed_c10d._coalescing_manager(
        device=torch.device("cpu"), async_ops=True
    ) as manager:
        for each, into in zip(sent, got, strict=True):
            dist.isend(each, NEXT)
            dist.irecv(into, LAST)
    manager.wait()
    for each, into in zip(sent, got, strict=True):
        equal(into, each)


@check
def sparse() -> None:
    indices = torch.tensor([[RANK, WORLD], [0, 1]])
    mine = torch.sparse_coo_tensor(indices, torch.tensor([1.0, 2.0]), (WORLD + 1, 2))
    expected = sum(
        torch.sparse_coo_tensor([[rank, WORLD], [0, 1]], [1.0, 2.0], (WORLD + 1, 2)).to_dense()
        for rank in range(WORLD)
    )
    dist.all_reduce(mine)
    equal(mine.to_dense(), expected)
    # Nothing on some ranks, rows as values, and a future as DDP takes it.
    rows = torch.tensor([[1]] if RANK == 0 else torch.empty(1, 0, dtype=torch.int64))
    wide = torch.sparse_coo_tensor(rows, torch.ones(rows.shape[1], 3), (4, 3))
    (reduced,) = dist.all_reduce(wide, async_op=True).get_future().wait()
    equal(reduced.to_dense()[1], torch.ones(3))


@check
def several_at_once() -> None:
    tensors = [torch.full((50_000,), float(RANK + step)) for step in range(12)]
    works = [dist.all_reduce(each, async_op=True) for each in tensors]
    for work in reversed(works):
        work.wait()
        assert work.is_completed()
        assert work.is_success()
        assert work.exception() is None
    for step, each in enumerate(tensors):
        equal(each, torch.full((50_000,), float(sum(range(WORLD)) + WORLD * step)))
    assert [id(each) for each in works[0].result()] == [id(tensors[0])]


@check
def futures() -> None:
    tensor = torch.ones(20_000)
    work = dist.all_reduce(tensor, async_op=True)
    chained = work.get_future().then(lambda future: future.value()[0] * 2)
    equal(chained.wait(), torch.full((20_000,), 2.0 * WORLD))

    # A callback that begins and awaits another operation, as PowerSGD's does.
    def again(future: object) -> torch.Tensor:
        return dist.all_reduce(torch.ones(3), async_op=True).get_future().wait()[0]

    nested = dist.all_reduce(torch.ones(1), async_op=True).get_future().then(again)
    equal(nested.wait(), torch.full((3,), float(WORLD)))
    done = dist.all_reduce(torch.ones(1), async_op=True)
    done.wait()
    assert done.get_future().done()


@check
def functional_collectives() -> None:
    import torch.distributed._functional_collectives as functional

    group = dist.group.WORLD
    total = functional.all_reduce(torch.full((4,), float(RANK)), "sum", group)
    equal(functional.wait_tensor(total), torch.full((4,), float(sum(range(WORLD)))))
    whole = functional.all_gather_tensor(torch.full((2,), float(RANK)), 0, group)
    equal(whole + 0, torch.arange(float(WORLD)).repeat_interleave(2))
    part = functional.reduce_scatter_tensor(torch.arange(2.0 * WORLD), "sum", 0, group)
    equal(part + 0, WORLD * torch.arange(2.0 * RANK, 2.0 * RANK + 2))
    shuffled = functional.all_to_all_single(torch.full((WORLD,), float(RANK)), None, None, group)
    equal(shuffled + 0, torch.arange(float(WORLD)))
    shared = functional.broadcast(torch.full((2,), float(RANK)), 0, group)
    equal(shared + 0, torch.zeros(2))


@check
def compiled_functions() -> None:
    import torch.distributed._functional_collectives as functional

    @torch.compile(fullgraph=True, backend="aot_eager")
    def step(tensor: torch.Tensor) -> torch.Tensor:
        total = functional.all_reduce(tensor * 2, "sum", dist.group.WORLD)
        return functional.wait_tensor(total) + 1

    equal(step(torch.ones(8)), torch.full((8,), 2.0 * WORLD + 1))


@check
def subgroups() -> None:
    pair = dist.new_group([0, 1])
    if RANK < 2:
        tensor = torch.ones(3)
        dist.all_reduce(tensor, group=pair)
        equal(tensor, torch.full((3,), 2.0))
        assert pair.group.node is dist.group.WORLD.group.node
        dist.broadcast(tensor.zero_() + RANK, 1, group=pair)
    reverse = dist.new_group(list(range(WORLD - 1, -1, -1)))
    whole = torch.empty(WORLD)
    dist.all_gather_into_tensor(whole, torch.tensor([float(RANK)]), group=reverse)
    alone, _ = dist.new_subgroups(1)
    dist.all_reduce(torch.ones(1), group=alone)
    if RANK < 2:
        dist.destroy_process_group(pair)
    dist.barrier()


@check
def device_meshes() -> None:
    from torch.distributed.device_mesh import init_device_mesh

    mesh = init_device_mesh("cpu", (WORLD // 2, 2), mesh_dim_names=("outer", "inner"))
    tensor = torch.ones(1)
    dist.all_reduce(tensor, group=mesh["inner"].get_group())
    dist.all_reduce(tensor, group=mesh["outer"].get_group())
    equal(tensor, torch.tensor([float(WORLD)]))


@check
def results_have_the_same_bits_everywhere() -> None:
    torch.manual_seed(RANK)
    for dtype in FLOATS:
        for size in (100, 100_000, 600_000):
            tensor = torch.randn(size).to(dtype)
            dist.all_reduce(tensor)
            lowest, highest = tensor.clone(), tensor.clone()
            dist.all_reduce(lowest, dist.ReduceOp.MIN)
            dist.all_reduce(highest, dist.ReduceOp.MAX)
            assert torch.equal(lowest, highest), (dtype, size)


@check
def the_end() -> None:
    dist.barrier()
    dist.destroy_process_group()
    dist.init_process_group("sealed")
    tensor = torch.ones(2)
    dist.all_reduce(tensor)
    equal(tensor, torch.full((2,), float(WORLD)))
    # Nothing destroys this one: the interpreter must end cleanly all the same.


if __name__ == "__main__":
    main()
