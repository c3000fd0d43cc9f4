"""The examples for torch run under torchrun, and do what they say."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from support.nodes import SECRET
from support.source_tree import PROJECT_ROOT

pytest.importorskip("torch")
pytest.importorskip("sklearn")

LIMIT = 100.0  # seconds


@pytest.fixture
def launch(tmp_path):
    """Run an example with two ranks; return its lines."""
    secret = tmp_path / "secret"
    secret.touch(mode=0o600)
    secret.write_bytes(SECRET)

    def run(name: str, *arguments: str) -> list[str]:
        finished = subprocess.run(
            [
                *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
                *("--nproc-per-node", "2", str(PROJECT_ROOT / "examples" / name), *arguments),
            ],
            cwd=tmp_path,
            env={
                **os.environ,
                "PYTHONPATH": str(PROJECT_ROOT),
                "SEALFABRIC_SECRET_FILE": str(secret),
                "OMP_NUM_THREADS": "1",
            },
            capture_output=True,
            text=True,
            timeout=LIMIT,
        )
        assert finished.returncode == 0, finished.stderr
        return finished.stdout.splitlines()

    return run


@pytest.mark.slow
def test_training_gives_the_losses_and_the_weights_that_gloo_gives(launch):
    sealed, plain = (launch("train_ddp.py", "--backend", name) for name in ("sealed", "gloo"))
    assert sealed == plain
    assert [line.split()[0] for line in sealed] == ["epoch"] * 5 + ["accuracy", "weights"]
    assert float(sealed[-2].split()[1]) > 0.9


@pytest.mark.slow
def test_fully_sharded_training(launch):
    lines = launch("train_fsdp.py")
    assert falls(lines)
    assert lines[-1] == "rank 0 holds (128, 64) of (256, 64)"


@pytest.mark.slow
def test_only_what_leaves_a_site_is_sealed(launch):
    lines = launch("train_hsdp.py")
    assert lines[:2] == ["site: sealed", "shard: gloo"]
    assert falls(lines)
    assert lines[-1].startswith("between the sites: Noise_XXhfs+psk3")


@pytest.mark.slow
def test_inference_in_a_pipeline(launch):
    assert launch("infer_pipeline.py") == ["8 batches through 2 stages, same: True"]


def falls(lines: list[str]) -> bool:
    """Whether the loss is a third of what it was at first, or less."""
    losses = [float(line.split()[-1]) for line in lines if line.startswith("step")]
    return len(losses) == 3 and losses[-1] < losses[0] / 3
