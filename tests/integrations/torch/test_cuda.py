"""CUDA tensors over the `sealed` backend, where there is a GPU; and the ring that stages them."""

from __future__ import annotations

import pytest

from support.torch_ranks import OK, Job, checks_of

torch = pytest.importorskip("torch")

SCRIPT = "integrations/torch/job_cuda.py"
on_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


@pytest.fixture(scope="module")
def job():
    return Job(SCRIPT, 2).start().finish()


@on_a_gpu
@pytest.mark.slow
@pytest.mark.parametrize("name", checks_of(SCRIPT))
def test_on_a_gpu(job, name):
    assert job.outcomes(name) == [OK, OK]


@on_a_gpu
@pytest.mark.slow
def test_both_ranks_end_cleanly(job):
    assert job.codes == [0, 0], job.errors


# --- the ring ---------------------------------------------------------------------------


class Passing:
    """An event that has passed, or not yet."""

    def __init__(self) -> None:
        self.passed = False

    def query(self) -> bool:
        return self.passed


@pytest.fixture
def ring():
    from transport.integrations.torch.staging import Ring

    return Ring(torch.empty(8 * 512, dtype=torch.uint8))


def test_blocks_of_the_ring_lie_apart_and_come_back(ring):
    taken = [ring.take(700) for _ in range(4)]
    assert [block.start for block in taken] == [0, 1024, 2048, 3072]
    assert [block.memory.numel() for block in taken] == [1024] * 4
    assert ring.take(1) is None
    taken[1].release()
    assert ring.take(1) is None, "the oldest is still in use"
    taken[0].release()
    assert ring.take(1).start == 0


def test_a_block_comes_back_when_its_event_has_passed(ring):
    event = Passing()
    ring.take(4096).release(event)
    assert ring.take(1) is None
    event.passed = True
    assert ring.take(4096).start == 0


def test_what_is_larger_than_the_ring_never_fits(ring):
    assert ring.take(4097) is None
    assert ring.take(4096) is not None


def test_blocks_never_overlap_whatever_the_order(ring):
    import random

    rng = random.Random(7)
    held = []
    for _ in range(3000):
        if held and rng.random() < 0.5:
            held.pop(rng.randrange(len(held))).release()
            continue
        block = ring.take(rng.randrange(1, 2000))
        if block is None:
            continue
        here = range(block.start, block.start + block.memory.numel())
        assert here.stop <= 4096
        for other in held:
            there = range(other.start, other.start + other.memory.numel())
            assert here.stop <= there.start or there.stop <= here.start
        held.append(block)
