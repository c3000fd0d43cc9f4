"""The request to glibc is made once it may be, and never against the user's own setting."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from transport.path.memory import keep_freed_packets


@pytest.mark.parametrize(
    "name", ["MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES"]
)
def test_what_the_user_has_set_is_left_alone(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "1048576")
    assert not keep_freed_packets()


_PROBE = """
import ctypes, sys
from transport.path.memory import keep_freed_packets

def held_after_a_free(size):
    libc = ctypes.CDLL(None)
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, (ctypes.c_size_t,)
    libc.free.argtypes = (ctypes.c_void_p,)
    def resident():
        return int(open("/proc/self/statm").read().split()[1]) * 4096
    before = resident()
    block = libc.malloc(size)
    ctypes.memset(block, 1, size)
    libc.free(block)
    return resident() - before

if sys.argv[1] == "asked":
    print("no glibc") if not keep_freed_packets() else print(held_after_a_free(24 << 20))
else:
    print(held_after_a_free(24 << 20))
"""


def _held(mode: str) -> str:
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("MALLOC_", "GLIBC_TUNABLES"))
    }
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    done = subprocess.run(
        [sys.executable, "-c", _PROBE, mode],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return done.stdout.strip()


def test_freed_packets_stay_with_the_process_once_asked() -> None:
    asked = _held("asked")
    if asked == "no glibc":
        pytest.skip("the C library here is not glibc")
    assert int(asked) > 23 << 20, "a tensor of the program's is kept as well"
    assert int(_held("not asked")) < 1 << 20, "else nothing was asked for"
