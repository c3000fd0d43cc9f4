"""Nodes for tests on real sockets: made in one line, linked in two, and always closed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from itertools import count

from transport import Config, Identity, Node, Trust
from transport.path.base import PathFilter

SECRET = bytes(range(32))
OTHER_SECRET = bytes(range(32, 64))
PATIENCE = 20.0
"""Seconds after which a test gives up on what should take milliseconds."""

IMPATIENT = Config(peer_timeout=2.5, heartbeat_interval=0.5)
"""Notices a dead peer soon, for tests in which one dies."""

_inproc_names = count()


def node(
    name: str,
    *,
    trust: Trust | None = None,
    identity: Identity | None = None,
    listen: Sequence[str] = ("tcp://127.0.0.1:0",),
    config: Config | None = None,
    path_filter: PathFilter | None = None,
) -> Node:
    """A node that trusts whoever knows the tests' secret."""
    return Node(
        name,
        identity=identity or Identity.generate(),
        trust=trust or Trust(secret=SECRET),
        listen=listen,
        config=config,
        path_filter=path_filter,
    )


def link(caller: Node, answerer: Node) -> None:
    """Link two nodes of this process; both sides know it on return."""
    caller.connect(answerer.addresses, peer=answerer.name, timeout=PATIENCE)
    answerer.wait_for(caller.name, timeout=PATIENCE)


@contextmanager
def linked(
    *,
    listen: Sequence[str] = ("tcp://127.0.0.1:0",),
    config: Config | None = None,
    answerer_config: Config | None = None,
    path_filter: PathFilter | None = None,
) -> Iterator[tuple[Node, Node]]:
    """Two linked nodes: "a" called, "b" answered; closed at the end."""
    with ExitStack() as stack:
        caller = stack.enter_context(node("a", config=config, path_filter=path_filter))
        answerer = stack.enter_context(
            node("b", listen=listen, config=answerer_config or config, path_filter=path_filter)
        )
        link(caller, answerer)
        yield caller, answerer


def inproc_address() -> str:
    """An address that no other test has used."""
    return f"inproc://test-{next(_inproc_names)}"


def together(*calls: Callable[[], object], patience: float = 60.0) -> list[object]:
    """Run `calls` in a thread each; return their results, or raise what the first one raised."""
    with ThreadPoolExecutor(len(calls)) as pool:
        futures = [pool.submit(call) for call in calls]
        return [future.result(patience) for future in futures]


def until(condition: Callable[[], object], patience: float = PATIENCE) -> None:
    """Wait for a condition that nothing signals, as a node's counter; fail if it never holds."""
    deadline = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < deadline, f"not so after {patience} s: {condition}"
        time.sleep(0.002)


def resident_bytes(pid: int | str = "self") -> int:
    """Resident set size of a process."""
    with open(f"/proc/{pid}/statm") as file:
        return int(file.read().split()[1]) * 4096
