"""Every operation of torch.distributed over the `sealed` backend, with 2 and with 4 ranks."""

from __future__ import annotations

import pytest

from support.torch_ranks import OK, Job, checks_of

pytest.importorskip("torch")

SCRIPT = "integrations/torch/job_operations.py"
CHECKS = checks_of(SCRIPT)


@pytest.fixture(scope="module", params=[2, 4])
def job(request):
    return Job(SCRIPT, request.param).start().finish()


@pytest.mark.slow
@pytest.mark.parametrize("name", CHECKS)
def test_on_every_rank(job, name):
    assert job.outcomes(name) == [OK] * job.size


@pytest.mark.slow
def test_every_rank_ends_cleanly(job):
    assert job.codes == [0] * job.size, job.errors
