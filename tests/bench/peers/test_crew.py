"""Workers start together, directly or by a launcher, and none is left behind."""

from __future__ import annotations

import os
import select
import sys

import pytest

from bench.errors import BenchError
from bench.peers.crew import Crew

WORKER = "bench.peers.worker"
WORDS = {"a": ("pyzmq", "initiator", "30"), "b": ("pyzmq", "responder", "30")}


def one_shell(commands):
    """A launcher like mpirun: one process, whose children get no socket of ours."""
    lines = [" ".join(f"'{word}'" for word in command) + " &" for command in commands]
    return ["/bin/sh", "-c", "\n".join([*lines, "wait"])]


@pytest.mark.parametrize("launch", [None, one_shell])
def test_each_worker_answers_for_itself(launch):
    with Crew(WORKER, WORDS, deadline=30.0, launch=launch) as crew:
        versions = crew.ask("describe")
        assert [each["version"].split()[0] for each in versions] == ["pyzmq", "pyzmq"]
        public = [crew[label].ask("introduction") for label in WORDS]
        assert public == [{}, {}]
        with pytest.raises(BenchError, match="b: KeyError"):
            crew["b"].ask("hang_up", channel="nowhere")


def test_a_launcher_that_fails_is_told_with_its_last_words():
    def launch(commands):
        return ["/bin/sh", "-c", "echo 'no such cluster' >&2; exit 3"]

    with pytest.raises(BenchError, match="no such cluster"):
        Crew(WORKER, WORDS, deadline=30.0, launch=launch)


def test_a_worker_that_cannot_start_is_told_with_its_last_words():
    with (
        Crew("bench.no_such_module", {"a": ()}, deadline=30.0) as crew,
        pytest.raises(BenchError, match=r"(?s)a: .*gone.*no_such_module"),
    ):
        crew.ask("describe")


def test_no_launched_worker_outlives_its_crew(tmp_path):
    noted = tmp_path / "pids"

    def launch(commands):
        shell = one_shell(commands)
        shell[-1] = shell[-1].replace(" &", f" & echo $! >> {noted}")
        return shell

    crew = Crew(WORKER, WORDS, deadline=30.0, launch=launch)
    crew.ask("describe")
    workers = [int(word) for word in noted.read_text(encoding="ascii").split()]
    assert len(workers) == 2
    handles = [os.pidfd_open(worker) for worker in workers]
    crew.close()
    for handle in handles:
        # A pidfd is readable once its process has ended.
        assert _readable(handle, 30.0)
        os.close(handle)


def _readable(handle: int, timeout: float) -> bool:
    ready, _, _ = select.select([handle], [], [], timeout)
    return bool(ready)


def test_python_is_the_one_that_runs_this():
    commands = []

    def launch(given):
        commands.extend(given)
        return ["/bin/sh", "-c", "exit 1"]

    with pytest.raises(BenchError):
        Crew(WORKER, WORDS, deadline=30.0, launch=launch)
    assert [command[:4] for command in commands] == [[sys.executable, "-P", "-m", WORKER]] * 2
    assert [tuple(command[5:]) for command in commands] == list(WORDS.values())
