"""A part of PyTorch's own tests of backends; `make torch-suite` runs all of them."""

from __future__ import annotations

import pytest

from support.torch_suite_runner import TOOL, run

pytest.importorskip("torch")
pytest.importorskip("expecttest")

PART = (
    "test_accumulate_gradients_no_sync",
    "test_send_recv_any_source",
    "test_sparse_all_reduce_sum",
)


@pytest.mark.slow
@pytest.mark.skipif(not TOOL.is_file(), reason=f"there is no {TOOL.name} beside the project")
def test_a_part_of_the_suite_passes():
    failed, count, log = run(2, PART)
    assert not failed, log
    assert count == len(PART)
