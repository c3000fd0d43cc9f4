"""Groups for tests: one node a rank in this process, a thread a rank, always closed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from transport import Config, Node
from transport.collectives import Group, Tuning

from .nodes import node, together

SMALL = Tuning(
    piece=1000,
    pair_piece=1000,
    inline=64,
    pair_limit=256,
    doubling_limit=256,
    halving_limit=1024,
    direct_limit=128,
    spread_limit=128,
    tree_limit=256,
)
"""Thresholds that let small tensors take every way, in many pieces."""


@contextmanager
def grouped(size: int, *, config: Config | None = None, **options: Any) -> Iterator[list[Group]]:
    """A group of nodes "n0", "n1" and so on, one `Group` for each rank."""
    with ExitStack() as stack:
        nodes: list[Node] = [
            stack.enter_context(node(f"n{rank}", config=config)) for rank in range(size)
        ]
        members = {each.name: each.addresses for each in nodes}
        settings = {"timeout": 30.0, **options}
        yield [stack.enter_context(Group(each, members, **settings)) for each in nodes]


def on_all(groups: list[Group], call: Callable[[Group], object]) -> list[Any]:
    """Call on every rank at once, each in its thread; return the results by rank."""
    return together(*(lambda group=group: call(group) for group in groups))  # type: ignore[misc]


def error_of(call: Callable[[], object]) -> Exception:
    """What a call raises."""
    try:
        result = call()
    except Exception as error:
        return error
    raise AssertionError(f"it returned {result!r}")
