"""What the library costs besides time on the wire: resident memory and import time."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from .errors import BenchError
from .peers import OURS
from .peers.pair import Peer
from .quantities import format_size
from .timing import ratios, rotated, summarise

OUR_IMPORT = "import transport"
# Names of the package load when they are first used, so that is timed as well.
OURS_IN_USE = "from transport import Identity, Node, Trust"
ITS_DEPENDENCIES = (
    "import numpy, zmq; from cryptography.hazmat.primitives.ciphers.aead import AESGCM"
)
_STOPWATCH = "import time; started = time.perf_counter(); {}; print(time.perf_counter() - started)"
_IMPORT_TIMEOUT = 60.0  # seconds


def measure_rss(nbytes: int, *, peer: str = OURS[0], deadline: float = 60.0) -> dict[str, Any]:
    """Send one message of `nbytes` and return what both processes had resident at most.

    For sender and receiver: `idle` once linked, `with_tensor` with the tensor's memory
    touched, `peak` after the transfer; all are peaks so far, in bytes.

    Raises:
        BenchError: the machine has too little free memory, or the transfer failed.
    """
    free = _available_memory()
    if free is not None and free < 2 * nbytes + 2**30:
        raise BenchError(
            f"a message of {format_size(nbytes)} needs twice that and 1 GiB of free memory; "
            f"there are {free / 2**30:.1f} GiB"
        )
    with Peer(peer, deadline=deadline) as pair:
        pair.start()
        # A first small message, so that what a link allocates once is not missed in `idle`.
        pair.one_way(2**20, 1)
        idle = pair.peak_memory()
        pair.reserve(nbytes)
        with_tensor = pair.peak_memory()
        (seconds,) = pair.one_way(nbytes, 1)
        peak = pair.peak_memory()
    return {
        "peer": peer,
        "nbytes": nbytes,
        "seconds": seconds,
        **{
            role: {"idle": idle[end], "with_tensor": with_tensor[end], "peak": peak[end]}
            for end, role in enumerate(("sender", "receiver"))
        },
    }


def measure_import_time(
    rounds: int,
    ours: str = OUR_IMPORT,
    theirs: str = ITS_DEPENDENCIES,
    in_use: str = OURS_IN_USE,
) -> dict[str, Any]:
    """Time import statements in fresh interpreters, in turn, and compare ours with theirs.

    All find their bytecode compiled, as installed packages do, in a folder made for it.

    Raises:
        BenchError: a statement failed.
    """
    times: dict[str, list[float]] = {ours: [], in_use: [], theirs: []}
    with tempfile.TemporaryDirectory(prefix="bench-bytecode-") as bytecode:
        for statement in times:
            _import_seconds(statement, bytecode)  # compiles, and reads files from the disk
        for round_number in range(rounds):
            for statement in rotated((ours, in_use, theirs), round_number):
                times[statement].append(_import_seconds(statement, bytecode))
    return {
        "rounds": rounds,
        "statements": {
            statement: dataclasses.asdict(summarise(values)) for statement, values in times.items()
        },
        "ratio": dataclasses.asdict(summarise(ratios(times[ours], times[theirs]))),
        "ratio_in_use": dataclasses.asdict(summarise(ratios(times[in_use], times[theirs]))),
    }


def _import_seconds(statement: str, bytecode: str) -> float:
    paths = [entry or os.getcwd() for entry in sys.path]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(paths),
        "PYTHONPYCACHEPREFIX": bytecode,
        "PYTHONDONTWRITEBYTECODE": "",
    }
    try:
        done = subprocess.run(
            [sys.executable, "-c", _STOPWATCH.format(statement)],
            env=environment,
            capture_output=True,
            text=True,
            timeout=_IMPORT_TIMEOUT,
            check=True,
        )
    except subprocess.CalledProcessError as error:
        last = (error.stderr.strip().splitlines() or ["no message"])[-1]
        raise BenchError(f"{statement!r} failed: {last}") from None
    except subprocess.TimeoutExpired:
        raise BenchError(f"{statement!r} took more than {_IMPORT_TIMEOUT} s") from None
    return float(done.stdout)


def _available_memory() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    for line in lines:
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None
