"""What users of torch do with a backend, over `sealed`: training, sharding, saving."""

from __future__ import annotations

import pytest

from support.torch_ranks import OK, Job, checks_of

pytest.importorskip("torch")
pytest.importorskip("accelerate")

SCRIPT = "integrations/torch/job_frameworks.py"


@pytest.fixture(scope="module")
def job():
    return Job(SCRIPT, 2).start().finish()


@pytest.mark.slow
@pytest.mark.parametrize("name", checks_of(SCRIPT))
def test_over_sealed_links(job, name):
    assert job.outcomes(name) == [OK, OK]


@pytest.mark.slow
def test_both_ranks_end_cleanly(job):
    assert job.codes == [0, 0], job.errors
