"""Where a peer process may run: in a container, as another user, without what memory needs.

Each of these is a command that `Remote` starts its process by. Nothing is pretended: the
kernel does what it would do there.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

NOBODY, SOMEBODY = 65534, 65533

CONTAINER = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")
"""Processes of its own, and a /proc that shows no others."""

_REFUSING = """
import ctypes, os, struct, sys
NUMBERS = {
    "x86_64": {"memfd_create": 319, "splice": 275, "sched_setaffinity": 203},
    "aarch64": {"memfd_create": 279, "splice": 76, "sched_setaffinity": 122},
}[os.uname().machine]
LOAD, EQUALS, RETURN, EPERM, ALLOW = 0x20, 0x15, 0x06, 0x00050001, 0x7FFF0000
steps = [(LOAD, 0, 0, 0)]
for call in sys.argv[1].split():
    steps += [(EQUALS, 0, 1, NUMBERS[call]), (RETURN, 0, 0, EPERM)]
steps.append((RETURN, 0, 0, ALLOW))
code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in steps))
program = ctypes.c_char_p(struct.pack("HxxxxxxP", len(steps), ctypes.addressof(code)))
libc = ctypes.CDLL(None, use_errno=True)
if libc.prctl(38, 1, 0, 0, 0) or libc.prctl(22, 2, program, 0, 0):
    sys.exit(os.strerror(ctypes.get_errno()))
os.execvp(sys.argv[2], sys.argv[2:])
"""


def refusing(*calls: str) -> Sequence[str]:
    """A process whose seccomp filter refuses it some calls of the system."""
    return (sys.executable, "-c", _REFUSING, " ".join(calls))


# And how many of two attempts, one in each role, come to nothing there; the others are
# never begun, for the one who asks says itself that it is elsewhere.
ELSEWHERE: dict[str, tuple[Sequence[str], int]] = {
    "a container": (CONTAINER, 0),
    "a container with the /proc of its host": (("unshare", "--pid", "--fork", "--kill-child"), 0),
    "no /proc": (
        ("unshare", "--mount", "sh", "-c", 'mount -t tmpfs none /proc && exec "$@"', "sh"),
        2,
    ),
    "a user namespace of its own": (("unshare", "--user", "--map-current-user"), 2),
    "a seccomp filter": (refusing("memfd_create"), 2),
    "a limit of file sizes": (("sh", "-c", 'ulimit -f 1000 && exec "$@"', "sh"), 2),
}

FULL_DEV_SHM = (
    "unshare",
    "--mount",
    "sh",
    "-c",
    "mount -t tmpfs -o size=4k none /dev/shm && ! head -c 8192 /dev/zero 2>/dev/null >/dev/shm/all"
    ' && exec "$@"',
    "sh",
)

_AS_USER = """
import ctypes, os, sys
from support import peer_process
peer_process.payload(0, 1)  # this user may not be able to read what is imported later
user, dumpable, description = int(sys.argv[1]), int(sys.argv[2]), sys.argv[-1]
os.setgroups([])
os.setgid(user)
os.setuid(user)
PR_SET_DUMPABLE = 4
assert ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, dumpable, 0, 0, 0) == 0
sys.argv[1:] = [description]
peer_process.main()
"""


def as_user(user: int, *, private: bool = False) -> Sequence[str]:
    """A process of another user; a `private` one lets no other process look into it.

    A program that gives up its privileges is private, until it starts another.
    """
    return (sys.executable, "-c", _AS_USER, str(user), str(int(not private)))


def skip_unless_it_works(command: Sequence[str]) -> None:
    """Skip where this kernel, machine or user does not allow such surroundings."""
    try:
        tried = subprocess.run([*command, "true"], capture_output=True, text=True, timeout=20)
    except FileNotFoundError as error:
        pytest.skip(f"not installed: {error.filename}")
    if tried.returncode:
        pytest.skip(f"not allowed here: {tried.stderr.strip() or tried.returncode}")


def innermost(pid: int) -> int:
    """The process that a command has started in the end; `pid` itself where it became that."""
    while children := Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        pid = int(children[0])
    return pid


@contextmanager
def container() -> Iterator[Sequence[str]]:
    """A container that several processes can be started in, by the command given."""
    skip_unless_it_works(CONTAINER)
    holder = subprocess.Popen(
        [*CONTAINER, "sh", "-c", "echo ready; exec cat"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with holder:
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == "ready\n"
            yield ("nsenter", f"--target={innermost(holder.pid)}", "--pid", "--mount")
        finally:
            holder.kill()


root_only = pytest.mark.skipif(
    os.geteuid() != 0, reason="only root can start processes of other users"
)

_DIES = """
import os, signal, sys
from support import peer_process
from transport.path.shared_memory import Channel
name, when = sys.argv[1:3]
genuine = getattr(Channel, name)
def die(*arguments):
    if when == "after":
        genuine(*arguments)
    os.kill(os.getpid(), signal.SIGKILL)
setattr(Channel, name, property(die) if isinstance(genuine, property) else die)
sys.argv[1:] = [sys.argv[-1]]
peer_process.main()
"""


def that_dies(when: str, of_channel: str) -> Sequence[str]:
    """A process that is killed "before" or "after" it calls something of its first channel."""
    return (sys.executable, "-c", _DIES, of_channel, when)
