"""What goes wrong in a torch job: every way of waiting tells, and names who is to blame."""

from __future__ import annotations

import base64
import json
import signal
import subprocess
import sys
import time

import pytest

from support.nodes import SECRET
from support.source_tree import PROJECT_ROOT
from support.torch_ranks import OK, Job, checks_of
from transport import Identity
from transport.identity.attestation import EmbeddedAttester, EmbeddedAuthority

pytest.importorskip("torch")

SCRIPT = "integrations/torch/job_failures.py"
CHECKS = checks_of(SCRIPT)


@pytest.fixture(scope="module")
def job():
    return Job(SCRIPT, 2).start().finish()


@pytest.mark.slow
@pytest.mark.parametrize("name", CHECKS)
def test_an_error(job, name):
    assert job.outcomes(name) == [OK, OK]


@pytest.mark.slow
def test_ranks_end_cleanly_with_operations_under_way(job):
    assert job.codes == [0, 0], job.errors
    assert not any("Fatal" in error or "terminate called" in error for error in job.errors)


@pytest.mark.slow
def test_a_rank_killed_in_mid_all_reduce_is_named_by_all_others():
    job = Job("integrations/torch/job_lost.py", 4).start()
    for rank in range(4):
        assert job.line_of(rank) == {"rounds": 2}
    job.ranks[2].send_signal(signal.SIGKILL)
    job.finish()
    for rank in (0, 1, 3):
        (said,) = job.said[rank]
        assert said["error"] == "PeerLostError", said
        assert "rank 2 ('rank-2')" in said["text"], said
        assert job.codes[rank] == 0, job.errors[rank]
    assert job.codes[2] == -signal.SIGKILL


def refusal(variables: dict[str, str], *, rank: int = 0) -> str:
    """What a rank that cannot begin says; it must come to no store and no peer."""
    program = (
        "import torch.distributed as dist\n"
        f"dist.init_process_group('sealed', store=dist.HashStore(), rank={rank}, world_size=1)"
    )
    finished = subprocess.run(
        [sys.executable, "-c", program], env=variables, capture_output=True, text=True, timeout=60
    )
    assert finished.returncode == 1
    return finished.stderr.splitlines()[-1]


@pytest.mark.slow
def test_without_a_secret_there_is_no_group():
    said = refusal({"PYTHONPATH": str(PROJECT_ROOT)})
    assert said.startswith("transport.errors.UsageError: no trust is configured: set ")
    assert "SEALFABRIC_SECRET_FILE" in said


# --- trust files -------------------------------------------------------------------------


@pytest.fixture
def world(tmp_path):
    """Pinned keys, a secret, an authority, and a policy that asks for the approved program."""
    EmbeddedAuthority.create(tmp_path / "authority", now=time.time())
    for name in ("approved", "changed"):
        (tmp_path / f"{name}.py").write_text(f"print({name!r})\n")
    approved = EmbeddedAttester.load(tmp_path / "authority", script=tmp_path / "approved.py")
    policy = {"pcrs": {"0": [approved.pcrs[0].hex()]}, "roots": ["authority/root.pem"]}
    (tmp_path / "policy.json").write_text(json.dumps(policy))
    (tmp_path / "secret").touch(mode=0o600)
    (tmp_path / "secret").write_bytes(SECRET)
    identities = [Identity.generate() for _ in range(2)]
    for rank, identity in enumerate(identities):
        identity.save(tmp_path / f"rank-{rank}.key")
    for program in ("approved", "changed"):
        document = {
            "ranks": [base64.b64encode(each.public_key).decode() for each in identities],
            "secret_file": "secret",
            "policy_file": "policy.json",
            "attester": {"kind": "embedded", "folder": "authority", "script": f"{program}.py"},
        }
        path = tmp_path / f"{program}.json"
        path.write_text(json.dumps(document))
        path.chmod(0o644)
    return tmp_path


def trusting(world, program="approved"):
    return {
        "SEALFABRIC_SECRET_FILE": "",
        "SEALFABRIC_TRUST": str(world / f"{program}.json"),
        "SEALFABRIC_IDENTITY": str(world / "rank-{rank}.key"),
    }


@pytest.mark.slow
def test_a_trust_file_gives_keys_by_rank_policy_and_attester(world):
    job = Job("integrations/torch/job_trust.py", 2, variables=trusting(world)).start().finish()
    for rank in range(2):
        (said,) = job.said[rank]
        assert said["sum"] == 3.0
        assert said["attested"] is True
    assert job.codes == [0, 0], job.errors


@pytest.mark.slow
def test_a_rank_that_runs_another_program_gets_no_tensor(world):
    changed = {1: trusting(world, "changed")}
    job = Job("integrations/torch/job_trust.py", 2, variables=trusting(world), of_rank=changed)
    job.start().finish()
    (first,), (second,) = job.said
    assert "sum" not in first
    assert "sum" not in second
    assert "rank 1 ('rank-1') cannot be reached" in first["error"]
    assert "evidence" in first["error"]
