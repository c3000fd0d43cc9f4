"""Staging as far as it goes without a GPU: when a result is taken over, and what is refused.

tests/integrations/torch/test_cuda.py has what needs a GPU, and the ring.
"""

from __future__ import annotations

import threading

import pytest

from support.nodes import PATIENCE
from transport import TransportError, UsageError, Work
from transport.node.driver import Driver

torch = pytest.importorskip("torch")

import torch.distributed as dist  # noqa: E402  # after the check for torch
from torch._subclasses.fake_tensor import FakeTensorMode  # noqa: E402

from transport.integrations.torch.staging import Stager  # noqa: E402


@pytest.fixture
def stager():
    stager = Stager()
    yield stager
    stager.close()


class EndedAtOnce(Work[None]):
    """A part that has ended before anybody hangs anything on it.

    Who adds a callback is held until the result was taken over: whatever the threads'
    luck, taking over cannot depend on what is done after adding the callback.
    """

    def __init__(self, taken):
        driver = Driver("idle", lambda ready, until: None, lambda: float("inf"))
        super().__init__(driver, "a part")
        self.taken = taken
        with driver:
            self.finish(None)

    def add_done_callback(self, callback):
        super().add_done_callback(callback)
        assert self.taken.wait(PATIENCE / 4), "nobody took the result over"


def test_a_result_is_taken_over_though_nobody_waits_and_it_ended_at_once(stager):
    taken = threading.Event()
    part = EndedAtOnce(taken)
    work = stager.start((), (), lambda: (part, taken.set), None)
    assert taken.wait(PATIENCE)
    work.wait()
    assert work.is_success(), work.exception()


def on_cuda(index: int):
    """A tensor that says it lies on a GPU, as torch's own shape inference makes them."""
    with FakeTensorMode():
        return torch.empty(3, device=f"cuda:{index}")


def error_of(call, *words):
    with pytest.raises(UsageError) as caught:
        call()
    assert isinstance(caught.value, TransportError)
    assert isinstance(caught.value, dist.DistBackendError)
    for word in words:
        assert word in str(caught.value)


def test_an_operation_over_several_devices_is_refused_by_name(stager):
    first, second = on_cuda(0), on_cuda(1)
    error_of(
        lambda: stager.start((first,), (second,), lambda *_: pytest.fail("it began"), None),
        "the tensors of one operation lie on several devices",
        "index=0",
        "index=1",
    )
    assert not stager.busy()


def test_an_operation_in_a_cuda_graph_is_refused(stager, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    tensor = on_cuda(0)
    error_of(
        lambda: stager.start((tensor,), (tensor,), lambda *_: pytest.fail("it began"), None),
        "cannot be part of a CUDA graph",
    )
    assert not stager.busy()


@pytest.mark.skipif(torch.cuda.is_available(), reason="memory can be pinned here")
def test_without_pinned_memory_the_refusal_says_what_it_was_for(stager):
    error_of(
        lambda: stager.host_twin(on_cuda(0)),
        "the tensor lies on cuda:0",
        "needs pinned memory, which cannot be had: ",
        "pin_memory",
    )
