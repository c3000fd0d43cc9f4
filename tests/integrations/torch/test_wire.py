"""What an eavesdropper sees of a training run: every TCP connection leads through a tap."""

from __future__ import annotations

from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest

from support.torch_ranks import Job, free_port
from transport.cli.scanner import WireIndex, entropy_bits
from transport.cli.wiretap import Wiretap
from transport.tensor.spec import TensorSpec

torch = pytest.importorskip("torch")
SHAPES = ((37, 53), (53, 37), (301, 53), (7, 301))


@pytest.fixture(scope="module")
def run():
    """A tapped run: what each rank said, and the taps of the two nodes and of the store."""
    dist = pytest.importorskip("torch.distributed")
    ports = [free_port(), free_port()]
    with ExitStack() as stack:
        store = dist.TCPStore(
            "127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=60)
        )
        taps = [stack.enter_context(Wiretap(("127.0.0.1", port))) for port in ports]
        store_tap = stack.enter_context(Wiretap(("127.0.0.1", store.port)))
        job = Job(
            "integrations/torch/job_tapped.py",
            2,
            variables={
                "TORCHELASTIC_USE_AGENT_STORE": "True",
                "MASTER_PORT": str(store_tap.endpoint[1]),
            },
            of_rank={
                rank: {"LISTEN": f"tcp://127.0.0.1:{port}", "ADVERTISE": tap.address}
                for rank, (port, tap) in enumerate(zip(ports, taps, strict=True))
            },
        )
        job.start().finish()
        assert job.codes == [0, 0], job.errors
        yield job, ports, taps, store_tap


def secrets_of(job):
    """Every weight and gradient that the ranks had, as bytes."""
    kept = []
    for rank, ((said,), folder) in enumerate(zip(job.said, [job.folder] * 2, strict=True)):
        blob = np.frombuffer((Path(folder) / f"kept-{rank}").read_bytes(), np.uint8)
        ends = np.cumsum(said["sizes"]) * 4
        kept += np.split(blob, ends[:-1])
    return kept


@pytest.mark.slow
def test_every_connection_leads_through_a_tap(run):
    job, ports, taps, store_tap = run
    tapped = {tap.endpoint[1] for tap in (*taps, store_tap)}
    for rank, (said,) in enumerate(job.said):
        assert said["connections"]
        for local, remote in said["connections"]:
            assert local == ports[rank] or remote in tapped, (rank, local, remote)
    assert sum(tap.passed() for tap in taps) > 500_000
    assert all(tap.unrecorded() == 0 for tap in (*taps, store_tap))


@pytest.mark.slow
def test_no_weight_gradient_or_metadata_crosses_in_the_clear(run):
    job, _, taps, store_tap = run
    assert job.said[1][0]["words"] == {"words": "a word that only the ranks know"}
    tapes = [stream.tape for tap in (*taps, store_tap) for stream in tap.towards()]
    index = WireIndex(tapes)
    secrets = secrets_of(job)
    assert len(secrets) > 80
    for number, secret in enumerate(secrets):
        assert index.find_tensor(secret) is None, number
    for words in (b"a word that only", b"words", b"float32", b"all_reduce", b"Linear", b"module."):
        assert index.find_text(words) is None, words
    for shape in SHAPES:
        assert index.find_text(TensorSpec("float32", shape).encode()) is None
    between = [stream.tape for tap in taps for stream in tap.towards()]
    assert entropy_bits(between) > 7.9
    # The search would have found it: a piece of a gradient in the middle of one more stream.
    planted = np.concatenate([np.zeros(1001, np.uint8), secrets[20][8:40], np.zeros(99, np.uint8)])
    assert WireIndex([planted]).find_tensor(secrets[20]) is not None


@pytest.mark.slow
def test_the_store_holds_addresses_and_public_keys_only(run):
    _, _, taps, store_tap = run
    index = WireIndex([stream.tape for stream in store_tap.towards()])
    for tap in taps:
        assert index.find_text(tap.address.encode()) is not None
    assert index.find_text(b'"public_key"') is not None
    assert index.find_text(b"secret") is None
