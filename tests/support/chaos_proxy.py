"""Bad networks on the loopback interface: a proxy that a test commands and waits for.

How bytes are cut, stalled and slowed is bench/proxy.py's matter; a benchmark
that ships with the package uses it too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from bench.proxy import Proxy


class ChaosProxy(Proxy):
    """A proxy that fails the test where what is waited for does not come."""

    def await_bytes(self, count: int, patience: float = 30.0) -> None:
        """Return once `count` more bytes have been passed on."""
        goal = self.forwarded + count
        if not self.await_true(lambda: self.forwarded >= goal, patience):
            raise AssertionError(f"{goal - self.forwarded} bytes short after {patience} s")

    def await_connections(self, count: int, patience: float = 30.0) -> None:
        """Return once `count` connections stand."""
        if not self.await_true(lambda: self.standing >= count, patience):
            raise AssertionError(f"{self.standing} connections after {patience} s")


@contextmanager
def rails(targets: Sequence[str]) -> Iterator[list[ChaosProxy]]:
    """A proxy before each target, listening on the target's own host: paths that fail singly."""
    with ExitStack() as stack:
        yield [
            stack.enter_context(ChaosProxy(target, target.removeprefix("tcp://").split(":")[0]))
            for target in targets
        ]
