"""Two hosts in one machine: Linux network namespaces joined by pairs of virtual interfaces.

Nothing of it has a name outside: a namespace lives as long as the processes in it, its
interfaces as long as the namespace, and the process that holds it ends with its standard
input. So nothing is left, whatever ends the test.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

_TOOLS = ("ip", "unshare", "nsenter", "cat")
_PATIENCE = 20.0


class UnavailableError(Exception):
    """This machine does not let this user have network namespaces; the message says why."""


class Host:
    """A network namespace; `command` starts a program in it. `number` ends its addresses."""

    def __init__(self, holder: subprocess.Popen[str], number: int) -> None:
        self.number = number
        self.pid = holder.pid
        self.command: Sequence[str] = ("nsenter", f"--net=/proc/{self.pid}/ns/net")

    def ip(self, *arguments: str) -> None:
        """Run `ip` in it."""
        _run(*self.command, "ip", *arguments)

    def take_down(self, rail: int) -> None:
        """The interface loses its carrier, and so does the other end's."""
        self.ip("link", "set", f"rail{rail}", "down")

    def bring_up(self, rail: int) -> None:
        """Undo `take_down`."""
        self.ip("link", "set", f"rail{rail}", "up")

    def lose_silently(self, rail: int) -> None:
        """What is sent over this rail goes to an Ethernet address that nobody has."""
        self.ip("neighbor", "replace", *self._other(rail), "lladdr", "02:00:00:00:00:01")

    def find_again(self, rail: int) -> None:
        """Undo `lose_silently`."""
        self.ip("neighbor", "delete", *self._other(rail))

    def _other(self, rail: int) -> Sequence[str]:
        return (f"10.99.{rail}.{3 - self.number}", "dev", f"rail{rail}")


@contextmanager
def joined_hosts(rails: int) -> Iterator[tuple[Host, Host]]:
    """Two hosts with `rails` interfaces each, "rail0" ..., one subnet for each pair.

    The addresses are 10.99.0.1 and .2 on the first rail, 10.99.1.1 and .2 on the next.

    Raises:
        UnavailableError: not on this machine, or not for this user.
    """
    missing = [tool for tool in _TOOLS if shutil.which(tool) is None]
    if missing:
        raise UnavailableError(f"not installed: {', '.join(missing)}")
    if os.geteuid() != 0:
        raise UnavailableError("not run as root")
    with ExitStack() as stack:
        one, other = (stack.enter_context(_host(number)) for number in (1, 2))
        for rail in range(rails):
            ends = ("netns", str(one.pid), "type", "veth", "peer")
            names = ("name", f"rail{rail}", "netns", str(other.pid))
            try:
                _run("ip", "link", "add", f"rail{rail}", *ends, *names)
            except subprocess.CalledProcessError as error:
                raise UnavailableError(f"no virtual interfaces: {error.stderr.strip()}") from None
            for host in (one, other):
                host.ip("address", "add", f"10.99.{rail}.{host.number}/24", "dev", f"rail{rail}")
                host.bring_up(rail)
        yield one, other


@contextmanager
def _host(number: int) -> Iterator[Host]:
    holder = subprocess.Popen(
        ["unshare", "--net", "sh", "-c", "echo ready; exec cat"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with holder:
        try:
            assert holder.stdout is not None
            assert holder.stderr is not None
            if not holder.stdout.readline():
                raise UnavailableError(f"no network namespaces: {holder.stderr.read().strip()}")
            host = Host(holder, number)
            host.ip("link", "set", "lo", "up")
            yield host
        finally:
            holder.kill()


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=_PATIENCE)
