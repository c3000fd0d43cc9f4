"""`Group` over real links: every operation, dtype and shape against numpy, and several at once."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from support.groups import SMALL, error_of, grouped, on_all
from transport import Group, UsageError
from transport.collectives import PremulSum

SIZES = (1, 2, 3, 4)
INTEGERS = (np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64, np.uint64)
FLOATS = (np.float16, np.float32, np.float64, ml_dtypes.bfloat16)
SMALL_FLOATS = (ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2)
COMPLEX = (np.complex64, np.complex128)
COUNTS = (0, 1, 3, 50, 200, 5000)
UFUNCS = {
    "sum": np.add,
    "product": np.multiply,
    "min": np.minimum,
    "max": np.maximum,
    "band": np.bitwise_and,
    "bor": np.bitwise_or,
    "bxor": np.bitwise_xor,
}


@pytest.fixture(scope="module")
def by_size():
    from contextlib import ExitStack

    with ExitStack() as stack:
        yield {size: stack.enter_context(grouped(size, tuning=SMALL)) for size in SIZES}


@pytest.fixture(params=SIZES)
def groups(request, by_size):
    return by_size[request.param]


def numbers(rank, count, dtype):
    """Small whole numbers, so that every sum and product is exact."""
    random = np.random.default_rng([rank, count])
    low = 0 if np.dtype(dtype).kind == "u" else -1
    return random.integers(low, 3, count).astype(dtype)


def expected(groups, op, make):
    total = make(0)
    for group in groups[1:]:
        total = UFUNCS[op](total, make(group.rank))
    return total


def same(got, wanted):
    assert got.dtype == wanted.dtype
    assert got.tobytes() == wanted.tobytes()


# --- reductions ------------------------------------------------------------------------


@pytest.mark.parametrize("op", UFUNCS)
@pytest.mark.parametrize("dtype", [np.int64, np.uint8], ids=lambda each: each.__name__)
def test_all_reduce_by_every_integer_op(groups, op, dtype):
    for count in COUNTS:
        results = on_all(groups, lambda g, n=count: g.all_reduce(numbers(g.rank, n, dtype), op))
        wanted = expected(groups, op, lambda rank, n=count: numbers(rank, n, dtype))
        for result in results:
            same(result, wanted)


@pytest.mark.parametrize("dtype", [*INTEGERS, *FLOATS, *SMALL_FLOATS, *COMPLEX, np.bool_])
def test_all_reduce_of_every_dtype(groups, dtype):
    for count in (1, 50, 700):
        results = on_all(groups, lambda g, n=count: g.all_reduce(numbers(g.rank, n, dtype)))
        wanted = expected(groups, "sum", lambda rank, n=count: numbers(rank, n, dtype))
        for result in results:
            same(result, wanted)


@pytest.mark.parametrize("op", ["product", "min", "max"])
@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16], ids=lambda each: each.__name__)
def test_all_reduce_of_floats(groups, op, dtype):
    results = on_all(groups, lambda g: g.all_reduce(numbers(g.rank, 300, dtype), op))
    for result in results:
        same(result, expected(groups, op, lambda rank: numbers(rank, 300, dtype)))


@pytest.mark.parametrize("dtype", FLOATS, ids=lambda each: each.__name__)
@pytest.mark.parametrize("count", COUNTS)
def test_an_average_is_the_sum_divided_once(groups, dtype, count):
    results = on_all(groups, lambda g: g.all_reduce(numbers(g.rank, count, dtype), "avg"))
    total = expected(groups, "sum", lambda rank: numbers(rank, count, dtype))
    for result in results:
        same(result, np.divide(total, np.dtype(dtype).type(len(groups))))


def test_a_factor_scales_each_contribution(groups):
    size = len(groups)

    def premultiplied(group, **where):
        ones = np.ones(100)
        kept = ones.copy() if where else None
        result = group.all_reduce(ones, PremulSum(factor=group.rank + 0.5), **where)
        assert kept is None or np.array_equal(ones, kept)
        return result

    total = sum(rank + 0.5 for rank in range(size))
    for result in on_all(groups, premultiplied):
        assert (result == total).all()
    for result in on_all(groups, lambda g: premultiplied(g, out=np.empty(100))):
        assert (result == total).all()
    scattered = on_all(groups, lambda g: g.reduce_scatter(np.ones(4 * size), PremulSum(factor=2.0)))
    for result in scattered:
        assert (result == 2.0 * size).all()
    reduced = on_all(groups, lambda g: g.reduce(np.ones(3), PremulSum(factor=2.0), root=size - 1))
    assert (reduced[size - 1] == 2.0 * size).all()


def test_random_floats_have_the_same_bits_on_every_rank_and_in_every_run(groups):
    for count in (10, 250, 4000):

        def reduce(group, n=count):
            mine = np.random.default_rng([7, group.rank, n]).standard_normal(n).astype(np.float32)
            return group.all_reduce(mine)

        runs = [on_all(groups, reduce) for _ in range(3)]
        bits = {result.tobytes() for results in runs for result in results}
        assert len(bits) == 1


def test_products_of_complex_numbers_are_taken_on_one_rank(groups):
    def reduce(group):
        random = np.random.default_rng([3, group.rank])
        mine = (random.standard_normal(20) + 1j * random.standard_normal(20)).astype(np.complex64)
        return group.all_reduce(mine, "product")

    assert len({result.tobytes() for result in on_all(groups, reduce)}) == 1


@pytest.mark.parametrize("shape", [(), (0,), (1,), (3, 0, 2), (4, 5, 6)])
def test_shapes_stay_what_they_are(groups, shape):
    results = on_all(groups, lambda g: g.all_reduce(np.full(shape, g.rank, np.int32)))
    for result in results:
        assert result.shape == shape
        assert (result == sum(range(len(groups)))).all()


def test_a_tensor_that_is_not_contiguous_is_reduced_in_place(groups):
    def reduce(group):
        whole = np.zeros((40, 6), np.int64)
        part = whole[::2, 1::2]
        part[:] = group.rank + np.arange(3)
        assert group.all_reduce(part) is part
        return whole

    total = sum(range(len(groups))) + len(groups) * np.arange(3)
    for whole in on_all(groups, reduce):
        assert (whole[::2, 1::2] == total).all()
        assert not whole[1::2].any()
        assert not whole[:, ::2].any()


def test_with_out_the_input_stays(groups):
    for count in (10, 250, 4000):

        def reduce(group, n=count):
            mine, out = np.full(n, group.rank), np.empty(n, int)
            assert group.all_reduce(mine, out=out) is out
            assert (mine == group.rank).all()
            return out

        for out in on_all(groups, reduce):
            assert (out == sum(range(len(groups)))).all()


@pytest.mark.parametrize("rows", [1, 7, 100])
def test_reduce_scatter(groups, rows):
    size = len(groups)

    def reduce(group):
        mine = np.arange(size * rows * 2).reshape(size * rows, 2) * (group.rank + 1)
        kept = mine.copy()
        result = group.reduce_scatter(mine)
        assert np.array_equal(mine, kept)
        return result

    factor = sum(range(1, size + 1))
    whole = np.arange(size * rows * 2).reshape(size * rows, 2) * factor
    assert np.array_equal(np.concatenate(on_all(groups, reduce)), whole)


@pytest.mark.parametrize("count", [0, 1, 20, 3000])
def test_reduce_gives_the_root_the_result_and_leaves_the_others_theirs(groups, count):
    size = len(groups)
    for root in range(size):

        def reduce(group, root=root):
            mine = np.full(count, group.rank + 1)
            result = group.reduce(mine, root=root)
            if group.rank != root:
                assert result is None
                assert (mine == group.rank + 1).all()
            return result

        assert (on_all(groups, reduce)[root] == sum(range(1, size + 1))).all()


# --- data ------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, 1, 30, 2000])
def test_broadcast(groups, count):
    for root in range(len(groups)):

        def share(group, root=root):
            array = np.full(count, group.rank, np.int16)
            assert group.broadcast(array, root=root) is array
            return array

        for array in on_all(groups, share):
            assert (array == root).all()


def test_a_read_only_tensor_can_be_broadcast_by_its_owner(groups):
    def share(group):
        array = np.arange(50) if group.rank == 0 else np.zeros(50, int)
        array.flags.writeable = group.rank != 0
        return group.broadcast(array)

    for array in on_all(groups, share):
        assert np.array_equal(array, np.arange(50))


@pytest.mark.parametrize("shape", [(), (1,), (5, 2), (600,), (0,)])
def test_all_gather_and_gather_join_rows(groups, shape):
    size = len(groups)
    rows = [np.full(shape, rank, np.float32) for rank in range(size)]
    joined = np.concatenate([row.reshape(1) if row.ndim == 0 else row for row in rows])
    for result in on_all(groups, lambda g: g.all_gather(rows[g.rank])):
        assert result.shape == joined.shape
        assert np.array_equal(result, joined)
    results = on_all(groups, lambda g: g.gather(rows[g.rank], root=size - 1))
    assert np.array_equal(results.pop(), joined)
    assert results == [None] * (size - 1)


def test_out_may_be_shaped_otherwise(groups):
    size = len(groups)

    def gather(group):
        stacked = np.empty((size, 4, 2))
        assert group.all_gather(np.full((4, 2), float(group.rank)), out=stacked) is stacked
        return stacked

    for stacked in on_all(groups, gather):
        assert (stacked == np.arange(size)[:, None, None]).all()


@pytest.mark.parametrize("rows", [0, 1, 400])
def test_scatter(groups, rows):
    size = len(groups)
    whole = np.arange(size * rows * 3).reshape(size * rows, 3)
    for root in (0, size - 1):

        def deal(group, root=root):
            if group.rank == root:
                return group.scatter(whole, root=root)
            return group.scatter(root=root, out=np.empty((rows, 3), int))

        assert np.array_equal(np.concatenate(on_all(groups, deal)), whole)


def test_all_to_all_evenly(groups):
    size = len(groups)
    results = on_all(groups, lambda g: g.all_to_all(np.repeat(np.arange(size) + 100 * g.rank, 30)))
    for rank, result in enumerate(results):
        assert np.array_equal(result, np.repeat(100 * np.arange(size) + rank, 30))


def test_all_to_all_with_uneven_splits(groups):
    size = len(groups)
    rows = np.random.default_rng(5).integers(0, 90, (size, size))

    def exchange(group):
        sent, received = rows[group.rank].tolist(), rows[:, group.rank].tolist()
        mine = np.arange(sum(sent) * 2).reshape(-1, 2) + 10_000 * group.rank
        return group.all_to_all(mine, send_splits=sent, recv_splits=received)

    results = on_all(groups, exchange)
    for rank, result in enumerate(results):
        parts = []
        for peer in range(size):
            theirs = np.arange(rows[peer].sum() * 2).reshape(-1, 2) + 10_000 * peer
            parts.append(np.split(theirs, np.cumsum(rows[peer])[:-1])[rank])
        assert np.array_equal(result, np.concatenate(parts))


def test_barrier(groups):
    arrived = []

    def meet(group):
        arrived.append(group.rank)
        group.barrier()
        return len(arrived)

    assert on_all(groups, meet) == [len(groups)] * len(groups)


# --- several at once, and messages -------------------------------------------------------


def test_several_operations_are_under_way_at_once(groups):
    size = len(groups)

    def run(group):
        arrays = [np.full(count, group.rank + 1.0) for count in (5, 3000, 200, 0, 900)]
        reductions = [group.iall_reduce(array) for array in arrays]
        shared = np.full(300, group.rank)
        copying = group.ibroadcast(shared, root=size - 1)
        gathered = group.iall_gather(np.array([group.rank]))
        meeting = group.ibarrier()
        assert gathered.wait(20).tolist() == list(range(size))
        assert (copying.wait(20) == size - 1).all()
        for work, array in zip(reductions, arrays, strict=True):
            assert work.wait(20) is array
            assert (array == sum(range(1, size + 1))).all()
        meeting.wait(20)

    on_all(groups, run)


def test_messages_between_two_ranks(groups):
    size = len(groups)
    if size == 1:
        assert "itself" in str(error_of(lambda: groups[0].send(b"x", 0)))
        return

    def talk(group):
        after, before = (group.rank + 1) % size, (group.rank - 1) % size
        coming = [group.irecv(source=before, tag=tag) for tag in (2, 1)]
        group.send(np.full(4, group.rank), after, tag=1)
        group.send(np.full(300_000, group.rank, np.uint8), after, tag=2)
        large, small = (work.wait(20) for work in coming)
        assert (small == before).all()
        assert large.shape == (300_000,)
        assert (large == before).all()
        assert group.rank_of(coming[0].source) == before
        group.barrier()
        anyone = group.irecv(np.empty(1, int), tag=9)
        group.send(np.array([group.rank]), after, tag=9)
        assert anyone.wait(20)[0] == before
        group.barrier()

    on_all(groups, talk)


def test_two_groups_of_the_same_nodes_do_not_meet(by_size):
    first = by_size[2]
    members = {group.node.name: group.node.addresses for group in first}
    second = [Group(group.node, members, timeout=20) for group in first]

    def both(index):
        one, other = np.ones(1000), np.full(1000, 10.0)
        if index:
            works = [second[index].iall_reduce(other), first[index].iall_reduce(one)]
        else:
            works = [first[index].iall_reduce(one), second[index].iall_reduce(other)]
        for work in works:
            work.wait(20)
        return one[0], other[0]

    assert on_all(first, lambda g: both(g.rank)) == [(2.0, 20.0)] * 2


def test_reversed_members_have_reversed_ranks(by_size):
    nodes = [group.node for group in by_size[3]]
    names = [node.name for node in reversed(nodes)]
    groups = [Group(node, names, timeout=20) for node in nodes]
    assert [group.rank for group in groups] == [2, 1, 0]
    results = on_all(groups, lambda g: g.all_gather(np.array([g.rank])))
    assert all(result.tolist() == [0, 1, 2] for result in results)


# --- misuse ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda g: g.all_reduce(np.ones(3), "median"), "op must be one of sum, avg"),
        (lambda g: g.all_reduce(np.ones(3), "band"), "op band is not defined for float64"),
        (lambda g: g.all_reduce(np.ones(3, int), "avg"), "op avg is not defined for int64"),
        (lambda g: g.all_reduce(b"read-only"), "read-only"),
        (lambda g: g.all_reduce(np.array(["text"])), "cannot travel"),
        (lambda g: g.all_reduce(np.ones(3), out=np.ones(4)), "out must hold float64[3]"),
        (lambda g: g.all_reduce(np.ones(3), out=np.ones(3, "f4")), "it is float32[3]"),
        (lambda g: g.reduce_scatter(np.ones(3)), "cannot be divided evenly among 2"),
        (lambda g: g.broadcast(np.ones(3), root=2), "root must be a rank from 0 to 1, got 2"),
        (lambda g: g.scatter(root=1 - g.rank), "scatter needs out="),
        (lambda g: g.all_to_all(np.ones(3)), "3 rows cannot be divided"),
        (lambda g: g.all_to_all(np.ones(3), send_splits=[1, 2]), "needs recv_splits"),
        (lambda g: g.all_to_all(np.ones(3), send_splits=[1, 1], recv_splits=[1, 1]), "2 rows"),
        (lambda g: g.send(np.ones(3), g.rank), "itself"),
        (lambda g: g.send(np.ones(3), 1 - g.rank, tag=1 << 62), "tag must be"),
        (lambda g: g.rank_of("somebody"), "not among the members"),
    ],
)
def test_misuse_is_refused_before_anything_is_sent(by_size, call, words):
    groups = by_size[2]
    for group in groups:
        error = error_of(lambda group=group: call(group))
        assert isinstance(error, UsageError)
        assert words in str(error)
    assert on_all(groups, lambda g: g.all_reduce(np.ones(1)))[0][0] == 2.0


def test_a_group_knows_its_members(by_size):
    groups = by_size[3]
    assert groups[1].members == ("n0", "n1", "n2")
    assert (groups[1].rank, groups[1].size, groups[1].error) == (1, 3, None)
    assert "rank 1" in repr(groups[1])


@pytest.mark.parametrize("members", [[], ["n0", "n0"], "n0", ["other"], {}])
def test_members_must_be_distinct_and_hold_this_node(by_size, members):
    assert isinstance(error_of(lambda: Group(by_size[1][0].node, members)), UsageError)
