"""Runs the ranks of a torch job, each in a process, and collects what each of them says.

Starting torch costs seconds, so one job makes many checks: a script in
tests/integrations/torch registers them by `check`, and `main` runs all of them in order on
every rank. `Job` starts the processes and tells how each check went on each rank.
"""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic

from .nodes import SECRET
from .source_tree import PROJECT_ROOT

LIMIT = 100.0  # seconds for a whole job
OK = "ok"

checks: dict[str, Callable[[], object]] = {}


def check(function: Callable[[], object]) -> Callable[[], object]:
    """Register a check; every rank runs it, and it raises where something is wrong."""
    checks[function.__name__] = function
    return function


def checks_of(script: str) -> list[str]:
    """The names of the checks in a script, without running it."""
    text = (PROJECT_ROOT / "tests" / script).read_text(encoding="utf-8")
    return re.findall(r"^@check\ndef (\w+)", text, re.M)


def main() -> None:
    """Run the checks that were registered, or those named on the command line."""
    for name in sys.argv[1:] or list(checks):
        began = monotonic()
        try:
            checks[name]()
            outcome = OK
        except Exception:
            outcome = traceback.format_exc()
        say(check=name, outcome=outcome, seconds=round(monotonic() - began, 2))


def say(**what: object) -> None:
    """Tell the test something: one line of JSON."""
    print("SAY " + json.dumps(what), flush=True)


def free_port() -> int:
    """A port of the loopback that nobody listens at now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass
class Job:
    """The ranks of one job. `said[rank]` is what that rank has said, in order."""

    script: str
    size: int
    arguments: tuple[str, ...] = ()
    variables: dict[str, str] = field(default_factory=dict)
    of_rank: dict[int, dict[str, str]] = field(default_factory=dict)
    said: list[list[dict[str, object]]] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    codes: list[int] = field(default_factory=list)
    ranks: list[subprocess.Popen[str]] = field(default_factory=list)
    place: tempfile.TemporaryDirectory[str] = field(default_factory=tempfile.TemporaryDirectory)

    @property
    def folder(self) -> Path:
        """What the ranks may write into; it goes with the job."""
        return Path(self.place.name)

    def start(self) -> Job:
        """Start every rank."""
        port = free_port()
        secret = self.folder / "secret"
        secret.touch(mode=0o600)
        secret.write_bytes(SECRET)
        shared = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join((str(PROJECT_ROOT), str(PROJECT_ROOT / "tests"))),
            "WORLD_SIZE": str(self.size),
            "LOCAL_WORLD_SIZE": str(self.size),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "SEALFABRIC_SECRET_FILE": str(secret),
            "OMP_NUM_THREADS": "1",
            "JOB_FOLDER": str(self.folder),
            **self.variables,
        }
        command = [sys.executable, str(PROJECT_ROOT / "tests" / self.script), *self.arguments]
        for rank in range(self.size):
            own = {"RANK": str(rank), "LOCAL_RANK": str(rank), **self.of_rank.get(rank, {})}
            variables = {name: value for name, value in {**shared, **own}.items() if value}
            self.ranks.append(
                subprocess.Popen(
                    command,
                    env=variables,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                )
            )
        return self

    def line_of(self, rank: int) -> dict[str, object]:
        """What a rank says next; waits for it."""
        stream = self.ranks[rank].stdout
        assert stream is not None
        for line in stream:
            if line.startswith("SAY "):
                said: dict[str, object] = json.loads(line.removeprefix("SAY "))
                return said
        raise AssertionError(f"rank {rank} ended and said nothing")

    def finish(self) -> Job:
        """Wait until every rank has ended; none is left behind."""
        try:
            for rank in self.ranks:
                try:
                    out, err = rank.communicate(timeout=LIMIT)
                except subprocess.TimeoutExpired:
                    rank.kill()  # what it said until then tells where it hung
                    out, err = rank.communicate()
                lines = [line for line in out.splitlines() if line.startswith("SAY ")]
                self.said.append([json.loads(line.removeprefix("SAY ")) for line in lines])
                self.errors.append(err)
                self.codes.append(rank.returncode)
        finally:
            for rank in self.ranks:
                rank.kill()
                rank.wait()
        return self

    def outcomes(self, name: str) -> list[object]:
        """How a check went on each rank, or what a rank that never came to it wrote."""
        return [
            next(
                (each["outcome"] for each in said if each.get("check") == name),
                f"exit status {code}, never came to it: {error[-3000:]}",
            )
            for said, error, code in zip(self.said, self.errors, self.codes, strict=True)
        ]
