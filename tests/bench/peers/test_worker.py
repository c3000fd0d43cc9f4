"""A worker ends by itself: at its deadline, and with the process that started it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest

from bench.errors import BenchError
from bench.peers.control import Control
from bench.peers.serving import EXIT_ORPHANED


@pytest.fixture
def start():
    started = []

    def spawn(peer: str, deadline: float) -> tuple[subprocess.Popen[bytes], Control]:
        ours, theirs = socket.socketpair()
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-m", "bench.peers.worker", "-", peer, "responder", str(deadline)],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path))},
            )
        control = Control(ours)
        started.append((process, control))
        return process, control

    yield spawn
    for process, control in started:
        control.close()
        process.kill()
        process.wait()


def listening(control: Control) -> None:
    control.send({"do": "listen", "channel": "main"})
    assert control.receive(30.0)["value"]
    control.send({"do": "accept", "channel": "main"})


def test_an_order_that_never_ends_is_ended_at_the_deadline(start):
    process, control = start("pyzmq", 0.5)
    listening(control)  # nobody will dial
    with pytest.raises(BenchError, match="gone"):
        control.receive(30.0)
    assert process.wait(30.0) == 1


def test_a_worker_does_not_outlive_the_process_that_started_it(start):
    process, control = start("pyzmq", 60.0)
    listening(control)
    control.close()
    assert process.wait(30.0) == EXIT_ORPHANED


def test_a_mistake_is_answered_and_the_worker_lives_on(start):
    _, control = start("pyzmq", 30.0)
    control.send({"do": "hang_up", "channel": "nowhere"})
    assert control.receive(30.0) == {"error": "KeyError: 'nowhere'"}
    control.send({"do": "peak_memory"})
    assert control.receive(30.0)["value"] > 0


def test_an_endpoint_that_cannot_be_made_is_answered(start):
    process, control = start("pigeon", 30.0)
    assert "pigeon" in control.receive(30.0)["error"]
    assert process.wait(30.0) == 0
