"""Tensors from end to end over loopback: every kind of them, and every way not to fit."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from functools import partial

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest

from support.nodes import PATIENCE, link, linked, node, together, until
from transport import (
    CancelledError,
    Config,
    LimitError,
    Node,
    PeerRefusedError,
    TransportTimeoutError,
    TruncatedError,
    UsageError,
)

Array = npt.NDArray[np.generic]
KIB, MIB = 1024, 1024 * 1024

DTYPES = [
    *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    *("float16", "float32", "float64", "longdouble", "complex64", "complex128"),
    *(">i4", ">f8", ">c16"),
    *(ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2),
]
SMALL, LARGE = (6, 8, 4), (60, 80, 41)  # eager and rendezvous at every width


@pytest.fixture(scope="module")
def pair() -> Iterator[tuple[Node, Node]]:
    with linked() as nodes:
        yield nodes


def sample(shape: tuple[int, ...], dtype: npt.DTypeLike) -> Array:
    numbers = np.random.default_rng(7).integers(0, 100, shape)
    return np.asarray(numbers).astype(dtype)


def layouts(shape: tuple[int, ...], dtype: npt.DTypeLike) -> dict[str, Array]:
    """One tensor of `shape` in every arrangement of memory."""
    tensor = sample(shape, dtype)
    strided = np.empty((*shape[:-1], shape[-1] * 2), dtype)[..., ::2]
    strided[...] = tensor
    read_only = tensor.copy()
    read_only.flags.writeable = False
    return {
        "contiguous": tensor,
        "fortran": np.asfortranarray(tensor),
        "strided": strided,
        "reversed": tensor[::-1].copy()[::-1],
        "transposed": np.ascontiguousarray(tensor.T).T,
        "read-only": read_only,
    }


def assert_same(received: object, sent: Array, layout: str = "") -> None:
    assert isinstance(received, np.ndarray), layout
    assert received.shape == sent.shape, layout
    assert received.dtype == sent.dtype.newbyteorder("="), layout
    assert np.array_equal(received, sent), layout


# --- what arrives is what was sent ----------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [SMALL, LARGE], ids=["eager", "rendezvous"])
def test_every_dtype_in_every_layout(
    pair: tuple[Node, Node], dtype: npt.DTypeLike, shape: tuple[int, ...]
) -> None:
    a, b = pair
    for layout, tensor in layouts(shape, dtype).items():
        work = a.isend(tensor, to="b", tag=3)
        received = b.recv(source="a", tag=3, timeout=PATIENCE)
        work.wait(PATIENCE)
        assert_same(received, tensor, layout)


@pytest.mark.parametrize("layout", ["contiguous", "fortran", "strided", "reversed", "transposed"])
@pytest.mark.parametrize("shape", [SMALL, LARGE], ids=["eager", "rendezvous"])
@pytest.mark.parametrize("posted_first", [True, False], ids=["posted", "unexpected"])
def test_out_of_every_layout_is_filled(
    pair: tuple[Node, Node], layout: str, shape: tuple[int, ...], posted_first: bool
) -> None:
    a, b = pair
    tensor = sample(shape, np.float32)
    out = layouts(shape, np.float32)[layout]
    out[...] = 0
    if posted_first:
        receive = b.irecv(out, source="a", tag=4)
        a.send(tensor, to="b", tag=4, timeout=PATIENCE)
        returned = receive.wait(PATIENCE)
    else:
        sending = a.isend(tensor, to="b", tag=4)
        returned = b.recv(out, source="a", tag=4, timeout=PATIENCE)
        sending.wait(PATIENCE)
    assert returned is out
    assert np.array_equal(out, tensor)


@pytest.mark.parametrize("shape", [SMALL, (), (0,)], ids=str)
def test_what_waits_already_is_received_as_what_comes(
    pair: tuple[Node, Node], shape: tuple[int, ...]
) -> None:
    a, b = pair
    tensor = sample(shape, np.float32)
    strided = np.zeros((*shape, 2), np.float32)[..., 0]
    numbered = [tensor + number for number in range(4)]
    for each in numbered:
        a.send(each, to="b", tag=5, timeout=PATIENCE)
    until(lambda: b.stats().unclaimed_messages == len(numbered))
    with pytest.raises(UsageError, match=r"'a'.*float32"):
        b.recv(np.empty(shape, np.int32), source="a", tag=5, timeout=PATIENCE)
    out = np.zeros(shape, np.float32)
    assert b.recv(out, source="a", tag=5, timeout=PATIENCE) is out
    assert np.array_equal(out, numbered[0])
    assert_same(b.recv(source="a", tag=5, timeout=PATIENCE), numbered[1])
    assert b.recv(strided, source="a", tag=5, timeout=PATIENCE) is strided
    assert np.array_equal(strided, numbered[2])
    assert_same(b.irecv(source="a", tag=5).wait(PATIENCE), numbered[3])
    with pytest.raises(TransportTimeoutError):
        b.recv(source="a", tag=5, timeout=0.0)


@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 5), (1,), (1, 1, 1)], ids=str)
def test_scalars_and_empty_tensors(pair: tuple[Node, Node], shape: tuple[int, ...]) -> None:
    a, b = pair
    tensor = np.full(shape, 2.5)
    a.send(tensor, to="b", timeout=PATIENCE)
    assert_same(b.recv(timeout=PATIENCE), tensor)
    out = np.zeros(shape)
    a.send(tensor, to="b", timeout=PATIENCE)
    assert b.recv(out, timeout=PATIENCE) is out
    assert np.array_equal(out, tensor)


@pytest.mark.parametrize(
    "size", [0, 1, 100, 32 * KIB - 1, 32 * KIB, 32 * KIB + 1, MIB, 3 * MIB + 5]
)
def test_plain_bytes_at_the_edges_of_eager_and_packet(pair: tuple[Node, Node], size: int) -> None:
    a, b = pair
    content = np.random.default_rng(size).bytes(size)
    buffer = bytearray(size + 8)  # a byte buffer takes what fits
    receive = b.irecv(buffer, tag=9)
    a.send(content, to="b", tag=9, timeout=PATIENCE)
    assert receive.wait(PATIENCE) is buffer
    assert receive.nbytes == size
    assert bytes(buffer) == content + bytes(8)
    a.isend(content, to="b", tag=9)
    assert bytes(b.recv(tag=9, timeout=PATIENCE)) == content


@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "float8_e4m3fn", "int64", "bool"])
def test_torch_tensors(pair: tuple[Node, Node], dtype: str) -> None:
    torch = pytest.importorskip("torch")
    a, b = pair
    tensor = torch.arange(40_000).reshape(200, 200).to(getattr(torch, dtype))
    out = torch.zeros_like(tensor).t()  # not contiguous
    receive = b.irecv(out, source="a")
    a.send(tensor.t(), to="b", timeout=PATIENCE)
    assert receive.wait(PATIENCE) is out
    assert bytes(out.contiguous().view(torch.uint8).numpy()) == bytes(
        tensor.t().contiguous().view(torch.uint8).numpy()
    )


def test_the_senders_buffer_may_be_reused_once_send_returns(pair: tuple[Node, Node]) -> None:
    a, b = pair
    buffer = np.empty(MIB, np.uint8)

    def send_all() -> None:
        for value in range(10):
            buffer[:] = value
            a.send(buffer, to="b", tag=5, timeout=PATIENCE)

    def receive_all() -> None:
        for value in range(10):
            assert (b.recv(tag=5, timeout=PATIENCE) == value).all()

    together(send_all, receive_all)


# --- what does not fit ----------------------------------------------------------------------


@pytest.mark.parametrize("shape", [SMALL, LARGE], ids=["eager", "rendezvous"])
@pytest.mark.parametrize("posted_first", [True, False], ids=["posted", "unexpected"])
def test_a_wrong_buffer_costs_nothing(
    pair: tuple[Node, Node], shape: tuple[int, ...], posted_first: bool
) -> None:
    a, b = pair
    tensor = sample(shape, np.float32)
    wrong = [
        (np.empty(shape, np.int32), UsageError, "float32"),
        (np.empty(shape[::-1], np.float32), UsageError, "shape|float32"),
        (np.empty((*shape, 2), np.float32), UsageError, "float32"),
        (np.empty(3, np.float32), TruncatedError, "bytes"),
        (bytearray(10), TruncatedError, "bytes"),
    ]
    retransmissions = a.link("b").stats().retransmissions
    works = [b.irecv(out, source="a", tag=6) for out, _, _ in wrong] if posted_first else []
    sending = a.isend(tensor, to="b", tag=6)
    for at, (out, error, words) in enumerate(wrong):
        late = partial(b.recv, out, source="a", tag=6, timeout=PATIENCE)
        attempt = partial(works[at].wait, PATIENCE) if posted_first else late
        with pytest.raises(error, match=words) as caught:
            attempt()
        assert "'a'" in str(caught.value)
        assert "tag 6" in str(caught.value)
    fitting = np.empty(shape, np.float32)
    b.recv(fitting, source="a", tag=6, timeout=PATIENCE)
    sending.wait(PATIENCE)
    assert np.array_equal(fitting, tensor)
    assert a.link("b").stats().retransmissions == retransmissions
    a.send(tensor[0], to="b", tag=6, timeout=PATIENCE)
    assert_same(b.recv(tag=6, timeout=PATIENCE), tensor[0])


@pytest.mark.parametrize(
    "tensor",
    [
        np.array([object()]),
        np.array(["text"]),
        np.array([b"bytes"]),
        np.zeros(2, np.dtype([("x", "i4")])),
        np.zeros(2, "M8[s]"),
        "text",
        None,
        [1, 2],
        {},
    ],
    ids=lambda tensor: f"{getattr(tensor, 'dtype', type(tensor).__name__)}",
)
def test_what_cannot_travel_is_refused_at_the_sender(
    pair: tuple[Node, Node], tensor: object
) -> None:
    a, _ = pair
    sent = a.link("b").stats().messages_sent
    with pytest.raises(UsageError):
        a.send(tensor, to="b")
    with pytest.raises(UsageError):
        a.isend(tensor, to="b")
    assert a.link("b").stats().messages_sent == sent


def test_a_read_only_or_foreign_destination_is_refused(pair: tuple[Node, Node]) -> None:
    _, b = pair
    read_only = np.zeros(3)
    read_only.flags.writeable = False
    for out in (read_only, b"bytes", "text", np.float64(1), [0.0]):
        with pytest.raises(UsageError):
            b.irecv(out, source="a")


def test_a_message_above_the_limit_is_refused_by_the_sender() -> None:
    config = Config(message_limit=MIB)
    with linked(config=config) as (a, b):
        with pytest.raises(LimitError, match="message_limit"):
            a.send(bytes(MIB + 1), to="b")
        receive = b.irecv()
        a.send(bytes(MIB), to="b", timeout=PATIENCE)
        assert receive.wait(PATIENCE).nbytes == MIB


# --- matching -------------------------------------------------------------------------------


def test_order_per_peer_and_tag_with_sizes_mixed(pair: tuple[Node, Node]) -> None:
    a, b = pair
    sizes = [0, 10, 40_000, 3, 2 * MIB, 100, 33_000, 1] * 4
    works = []
    for number, size in enumerate(sizes):
        tensor = np.full(size // 4 + 1, number, np.int32)
        works.append(a.isend(tensor, to="b", tag=number % 2))
    for parity in (1, 0):
        for number in range(parity, len(sizes), 2):
            received = b.recv(source="a", tag=parity, timeout=PATIENCE)
            assert (received == number).all()
            assert len(received) == sizes[number] // 4 + 1
    for work in works:
        work.wait(PATIENCE)


def test_any_source_and_any_tag() -> None:
    with node("hub") as hub, node("x") as x, node("y") as y:
        link(x, hub)
        link(y, hub)
        x.send(np.array([1]), to="hub", tag=11)
        until(lambda: hub.stats().unclaimed_messages == 1)
        y.send(np.array([2]), to="hub", tag=22)
        until(lambda: hub.stats().unclaimed_messages == 2)
        waiting = hub.probe(source=None, tag=None)
        assert waiting is not None
        assert (waiting.source, waiting.tag, waiting.spec.shape) == ("x", 11, (1,))
        assert hub.probe(source="y", tag=11) is None
        only_22 = hub.irecv(source=None, tag=22)
        assert only_22.wait(PATIENCE)[0] == 2
        assert (only_22.source, only_22.tag, only_22.nbytes) == ("y", 22, 8)
        anything = hub.irecv(source=None, tag=None)
        assert anything.wait(PATIENCE)[0] == 1
        assert (anything.source, anything.tag, anything.nbytes) == ("x", 11, 8)
        assert hub.stats().unclaimed_messages == 0
        # Posted first, the wildcard takes whichever comes.
        later = [hub.irecv(source=None, tag=None) for _ in range(2)]
        x.send(np.array([3]), to="hub", tag=(1 << 64) - 1)
        assert later[0].wait(PATIENCE)[0] == 3
        assert (later[0].source, later[0].tag) == ("x", (1 << 64) - 1)
        y.send(np.array([4]), to="hub", tag=0)
        assert later[1].wait(PATIENCE)[0] == 4
        assert later[1].source == "y"


def test_contexts_do_not_mix(pair: tuple[Node, Node]) -> None:
    a, b = pair
    a.isend(np.array([1]), to="b", tag=1, context=5)
    a.isend(np.array([2]), to="b", tag=1, context=6)
    assert b.irecv(source=None, tag=None, context=6).wait(PATIENCE)[0] == 2
    assert b.irecv(source="a", tag=1, context=5).wait(PATIENCE)[0] == 1


# --- withdrawn, late, and unclaimed ---------------------------------------------------------


def test_a_send_that_nobody_takes_times_out_and_is_withdrawn(pair: tuple[Node, Node]) -> None:
    a, b = pair
    large = np.zeros(2 * MIB, np.uint8)
    with pytest.raises(TransportTimeoutError, match=r"send to 'b' \(tag 70"):
        a.send(large, to="b", tag=70, timeout=0.05)
    a.send(np.array([0]), to="b", tag=71, timeout=PATIENCE)
    b.recv(source="a", tag=71, timeout=PATIENCE)  # so the one before was announced to b as well
    until(lambda: b.probe(source="a", tag=70) is None)
    with pytest.raises(TransportTimeoutError, match=r"recv from 'a' \(tag 70"):
        b.recv(source="a", tag=70, timeout=0.05)
    a.isend(large + 1, to="b", tag=70)
    assert (b.recv(source="a", tag=70, timeout=PATIENCE) == 1).all()


def test_cancelled_operations_end_once_and_let_others_pass(pair: tuple[Node, Node]) -> None:
    a, b = pair
    receive = b.irecv(source="a", tag=71)
    assert receive.cancel()
    assert not receive.cancel()
    assert receive.done()
    assert isinstance(receive.exception(), CancelledError)
    with pytest.raises(CancelledError, match="recv from 'a'"):
        receive.wait()
    send = a.isend(np.zeros(2 * MIB, np.uint8), to="b", tag=71)
    assert send.cancel()
    with pytest.raises(CancelledError, match="send to 'b'"):
        send.wait()
    finished = a.isend(np.array([5]), to="b", tag=71)
    finished.wait(PATIENCE)
    assert not finished.cancel()
    assert b.recv(source="a", tag=71, timeout=PATIENCE)[0] == 5


def test_a_receive_that_gives_up_half_way_ends_the_send_too() -> None:
    """One slot takes one packet at a time: so large a message is not through at once."""
    with linked(config=Config(shared_slots=1)) as (a, b):
        receive = b.irecv(source="a", tag=1)
        sending = a.isend(np.zeros(256 * MIB, np.uint8), to="b", tag=1)
        with pytest.raises(TransportTimeoutError):
            receive.complete(0)
        # Whether it was already taken decides how the sender learns of it.
        if b.probe(source="a", tag=1) is None:
            with suppress(PeerRefusedError, TransportTimeoutError):
                sending.wait(1.0)
            if sending.done():
                assert "receiver takes no more" in str(sending.exception())
            else:
                assert sending.cancel()
        else:
            assert sending.cancel()
        a.isend(np.array([1]), to="b", tag=2)
        assert b.recv(source="a", tag=2, timeout=PATIENCE)[0] == 1


@pytest.mark.parametrize("size", [64, 30 * KIB, 256 * KIB], ids=["64B", "30KiB", "256KiB"])
def test_what_nobody_claims_makes_the_sender_wait(size: int) -> None:
    """The receiver holds at most `Config.unexpected_bytes`, whatever is sent, and then drains."""
    limit = MIB
    count = 6000 if size == 64 else 400
    config = Config(unexpected_bytes=limit, peer_timeout=60.0)
    tensor = np.zeros(size, np.uint8)
    with linked(config=config) as (a, b):
        works = [a.isend(tensor, to="b", tag=1) for _ in range(count)]
        with pytest.raises(TransportTimeoutError):
            works[-1].wait(0.5)
        held = b.link("a").stats().unclaimed_messages + b.stats().unclaimed_messages
        assert 0 < held <= 2 * limit // 256
        assert sum(work.done() for work in works) * min(size, 32 * KIB + 1) <= limit
        # A later message of another tag is announced all the same.
        for _ in range(count):
            b.recv(source="a", tag=1, timeout=PATIENCE)
        for work in works:
            work.wait(PATIENCE)
        assert b.stats().unclaimed_messages == 0


def test_a_later_tag_is_reached_behind_unclaimed_messages() -> None:
    config = Config(unexpected_bytes=256 * KIB)
    with linked(config=config) as (a, b):
        unclaimed = [a.isend(np.zeros(8 * KIB, np.uint8), to="b", tag=1) for _ in range(60)]
        wanted = a.isend(np.array([7]), to="b", tag=2)
        assert b.recv(source="a", tag=2, timeout=PATIENCE)[0] == 7
        wanted.wait(PATIENCE)
        for work in unclaimed:
            b.recv(source="a", tag=1, timeout=PATIENCE)
            assert not work.exception()
