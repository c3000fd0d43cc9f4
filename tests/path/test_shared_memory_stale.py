"""What a dead process has said of its memory: nothing is found there, or somebody else's."""

from __future__ import annotations

import json
import os
import subprocess
import sys

from support.surroundings import CONTAINER, skip_unless_it_works

_PROGRAM = """
import dataclasses, json, os, signal
from transport.path.shared_memory import Channel, Layout, UnavailableError
from transport.path.shared_memory.segment import Claim

def start():
    told, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(tell, Channel(Layout(slots=1)).claim)
        signal.pause()
    claim = os.read(told, 1000)
    os.close(told)
    os.close(tell)
    return pid, claim

def kill(pid):
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)

def attempt(claim):
    here = Channel(Layout(slots=1))
    try:
        here.attach(claim)
        return "attached"
    except UnavailableError as error:
        return str(error)
    finally:
        here.close()

def held():
    return len(os.listdir("/proc/self/fd")), open("/proc/self/maps").read().count("sealfabric")

first, stale = start()
before = held()
living = attempt(stale)
kill(first)
dead = attempt(stale)
with open("/proc/sys/kernel/ns_last_pid", "w") as file:
    file.write(str(first - 1))
second, fresh = start()
both = [dataclasses.replace(Claim.decode(each), nonce=bytes(32)) for each in (stale, fresh)]
assert both[0] == both[1], "the same process id and descriptors"
print(json.dumps([living, dead, attempt(stale), attempt(fresh), held() == before]))
kill(second)
"""


def test_a_claim_of_a_dead_process_leads_nowhere_even_if_another_has_its_number() -> None:
    """In a container of its own, where the kernel can be told which number is next."""
    may_choose = ("sh", "-c", '[ -w /proc/sys/kernel/ns_last_pid ] && exec "$@"', "sh")
    command = (*CONTAINER, *may_choose)
    skip_unless_it_works(command)
    done = subprocess.run(
        [*command, sys.executable, "-c", _PROGRAM],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    living, dead, renewed, fresh, nothing_left = json.loads(done.stdout)
    assert living == fresh == "attached"
    assert "No such file" in dead
    assert "another nonce" in renewed
    assert nothing_left
