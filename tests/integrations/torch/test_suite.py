"""A part of PyTorch's own tests of backends; `make torch-suite` runs all of them."""

from __future__ import annotations

import pytest

from support import torch_suite_runner
from support.torch_ranks import OK, Job
from support.torch_suite_runner import PART, SURROUNDINGS, TOOL, main, run

pytest.importorskip("torch")
pytest.importorskip("expecttest")

needs_the_tool = pytest.mark.skipif(
    not TOOL.is_file(), reason=f"there is no {TOOL.name} beside the project"
)


@pytest.fixture(scope="module", params=[2, 4])
def job(request, tmp_path_factory):
    shared = str(tmp_path_factory.mktemp("suite"))
    variables = {**SURROUNDINGS, "TEMP_DIR": shared, "CI": ""}
    job = Job("integrations/torch/job_suite.py", request.param, variables=variables)
    return job.start().finish()


@needs_the_tool
@pytest.mark.slow
@pytest.mark.parametrize("name", PART)
def test_of_pytorch(job, name):
    assert job.outcomes(name) == [OK] * job.size


@needs_the_tool
@pytest.mark.slow
def test_the_suite_runs_one_as_it_starts_them():
    failed, count, log = run(2, ["test_get_rank"])
    assert not failed, log
    assert count == 1


@pytest.mark.parametrize(("failed", "count"), [((), 0), ((), 89), (("test_broadcast",), 95)])
def test_a_run_of_the_whole_suite_fails(failed, count, monkeypatch, tmp_path, capsys):
    (tmp_path / "tool").touch()
    monkeypatch.setattr(torch_suite_runner, "TOOL", tmp_path / "tool")
    monkeypatch.setattr(torch_suite_runner, "run", lambda size: (set(failed), count, "the log"))
    assert main() == 1
    said = capsys.readouterr().out
    assert "the log" in said
    assert (failed[0] if failed else f"only {count} tests ran, at least 90 should") in said
