"""Timed transfers between two processes, over TCP paths that can be made to fail.

Sender and receiver are linked over connections that each lead through a proxy in
this process. A transfer is timed by the receiving program's clock, from when it
is ready to when it has the last message; what arrived is compared with what was
sent, byte by byte, after the clock has stopped.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import multiprocessing
import secrets
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, Final

import numpy as np

import transport

from .errors import BenchError
from .proxy import Proxy

_AHEAD: Final = 6  # messages posted ahead of the one that is waited for, at both ends
_SHIFT: Final = 64  # message n is the sender's pattern from byte 64 n on, so that no two agree
_DISTINCT: Final = 4096
_spawn = multiprocessing.get_context("spawn")

Bytes = np.ndarray[tuple[int, ...], np.dtype[np.uint8]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What every process of a run must agree on. Sizes are bytes, times seconds."""

    messages: int  # of one transfer
    size: int  # of one message
    paths: int
    deadline: float  # for one transfer
    seed: int

    def make_pattern(self) -> Bytes:
        """Random bytes, the same in every process."""
        length = self.size + _DISTINCT * _SHIFT
        return np.random.default_rng(self.seed).integers(0, 256, length, np.uint8)

    def content(self, number: int, pattern: Bytes) -> Bytes:
        """What message `number` holds; `pattern` is `make_pattern`'s."""
        start = number % _DISTINCT * _SHIFT
        return pattern[start : start + self.size]


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer:
    """One transfer, as both ends saw it."""

    seconds: float
    throughput: float  # bytes a second
    stall: float  # longest time between two messages
    retransmissions: int
    spurious: int  # of those, where the first copy was only late
    beyond_payload: int  # bytes sent that are not the messages': headers, answers, repetitions


@dataclass(frozen=True, slots=True, kw_only=True)
class Fate:
    """What became of a path that failed during a transfer."""

    share: float  # of the bytes sent during the transfer, what this path was given
    last_failure: str | None  # what the sender says of it
    used_again_after: float  # seconds from its repair


class LinkedPair:
    """Sender and receiver in processes of their own, a proxy for each path in this one.

    Raises:
        BenchError: a process failed, or took longer than the plan's deadline.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._next = 0  # number of the next message
        self._stack = contextlib.ExitStack()
        self._proxies: list[Proxy] = []

    def __enter__(self) -> LinkedPair:
        secret = secrets.token_bytes(32)
        with contextlib.ExitStack() as stack:
            self._receiver = stack.enter_context(_Child(_receive, self._plan, secret))
            for address in self._receiver.answer():
                host = address.removeprefix("tcp://").rpartition(":")[0]
                self._proxies.append(stack.enter_context(Proxy(address, host)))
            dialled = [proxy.address for proxy in self._proxies]
            self._sender = stack.enter_context(_Child(_send, self._plan, secret, dialled))
            self._sender.answer()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def transfer(self, at_a_third: Callable[[], None] = lambda: None) -> Transfer:
        """Send everything once; `at_a_third` is called when a third has arrived.

        Raises:
            BenchError: messages arrived with other bytes than were sent.
        """
        first, self._next = self._next, self._next + self._plan.messages
        before = self._sender.ask("stats")
        self._receiver.ask(first)  # its answer says that it is ready
        self._sender.tell(first)
        self._receiver.answer()
        at_a_third()
        arrivals = self._receiver.answer()
        self._sender.answer()
        wrong = self._receiver.answer()
        if wrong:
            raise BenchError(f"{wrong} of {self._plan.messages} messages arrived with other bytes")
        after = self._sender.ask("stats")
        payload, seconds = self._plan.messages * self._plan.size, arrivals[-1] - arrivals[0]
        return Transfer(
            seconds=seconds,
            throughput=payload / seconds,
            stall=max(later - earlier for earlier, later in itertools.pairwise(arrivals)),
            retransmissions=after["retransmissions"] - before["retransmissions"],
            spurious=after["spurious"] - before["spurious"],
            beyond_payload=after["bytes"] - before["bytes"] - payload,
        )

    def transfer_with_a_dead_path(self, index: int) -> tuple[Transfer, Fate]:
        """The same with a path that turns into a black hole at a third; it is repaired then.

        Returns once the path is in use again.

        Raises:
            BenchError: as above, or the path was not used again by the deadline.
        """
        proxy = self._proxies[index]
        before = self._sender.ask("stats")
        outcome = self.transfer(proxy.stall)
        after = self._sender.ask("stats")
        repaired = time.monotonic()
        proxy.stall(on=False)
        self._sender.ask("await paths")
        path = after["paths"][proxy.address]
        given = path["bytes_sent"] - before["paths"][proxy.address]["bytes_sent"]
        return outcome, Fate(
            share=given / (after["bytes"] - before["bytes"]),
            last_failure=path["last_failure"],
            used_again_after=time.monotonic() - repaired,
        )


class _Child:
    """A process that answers over a pipe; killed at the end of its block."""

    def __init__(self, work: Callable[..., None], plan: Plan, *arguments: object) -> None:
        self._task = work.__name__.strip("_")
        self._patience = plan.deadline
        self._pipe, self._theirs = _spawn.Pipe()
        arguments = (self._theirs, plan, *arguments)
        self._process = _spawn.Process(target=work, args=arguments, daemon=True)

    def __enter__(self) -> _Child:
        self._process.start()
        self._theirs.close()  # so that its death is the end of the pipe
        return self

    def __exit__(self, *exc: object) -> None:
        self._process.kill()
        self._process.join()
        self._pipe.close()

    def ask(self, question: object) -> Any:
        self.tell(question)
        return self.answer()

    def tell(self, question: object) -> None:
        try:
            self._pipe.send(question)
        except OSError:
            raise BenchError(f"the process that was to {self._task} has ended") from None

    def answer(self) -> Any:
        try:
            if self._pipe.poll(self._patience):
                return self._pipe.recv()
        except (EOFError, OSError):
            raise BenchError(f"the process that was to {self._task} has ended") from None
        raise BenchError(f"the process that was to {self._task} took over {self._patience} s")


# --- what the processes do ------------------------------------------------------------------


def _receive(pipe: Connection, plan: Plan, secret: bytes) -> None:
    """Questions are the number of a transfer's first message.

    Each has four answers: ready, a third has arrived, when each message arrived, and
    how many were not what was sent.
    """
    pattern, memory = plan.make_pattern(), np.ones((plan.messages, plan.size), np.uint8)
    listen = tuple(f"tcp://127.0.0.{1 + index}:0" for index in range(plan.paths))
    identity, trust = transport.Identity.generate(), transport.Trust(secret=secret)
    config = transport.Config(shared_memory=False)  # TCP is what is measured
    with transport.Node(
        "receiver", identity=identity, trust=trust, listen=listen, config=config
    ) as node:
        pipe.send(node.addresses)
        node.wait_for("sender", timeout=plan.deadline)
        while True:
            first = pipe.recv()
            pipe.send(_receive_all(pipe, plan, node, memory))
            pipe.send(
                sum(
                    not np.array_equal(row, plan.content(first + index, pattern))
                    for index, row in enumerate(memory)
                )
            )


def _receive_all(
    pipe: Connection, plan: Plan, node: transport.Node, memory: np.ndarray[Any, np.dtype[np.uint8]]
) -> list[float]:
    waiting = deque(node.irecv(row, source="sender") for row in memory[:_AHEAD])
    pipe.send("ready")
    arrivals = [time.monotonic()]
    for index in range(plan.messages):
        waiting.popleft().wait(plan.deadline)
        arrivals.append(time.monotonic())
        if index + _AHEAD < plan.messages:
            waiting.append(node.irecv(memory[index + _AHEAD], source="sender"))
        if index == plan.messages // 3:
            pipe.send("a third")
    return arrivals


def _send(pipe: Connection, plan: Plan, secret: bytes, addresses: Sequence[str]) -> None:
    """Questions are the number of a transfer's first message, "stats" and "await paths"."""
    pattern = plan.make_pattern()
    identity, trust = transport.Identity.generate(), transport.Trust(secret=secret)
    config = transport.Config(paths=plan.paths, shared_memory=False)
    with transport.Node("sender", identity=identity, trust=trust, listen=(), config=config) as node:
        link = node.connect(addresses, peer="receiver", timeout=plan.deadline)
        _await_paths(link, plan)
        pipe.send("linked")
        while True:
            question = pipe.recv()
            if question == "stats":
                pipe.send(_stats(link))
                continue
            if question == "await paths":
                _await_paths(link, plan)
            else:
                _send_all(node, plan, pattern, question)
            pipe.send("done")


def _send_all(node: transport.Node, plan: Plan, pattern: Bytes, first: int) -> None:
    waiting: deque[transport.Work[None]] = deque()
    for number in range(first, first + plan.messages):
        waiting.append(node.isend(plan.content(number, pattern), to="receiver"))
        if len(waiting) > _AHEAD:
            waiting.popleft().wait(plan.deadline)
    node.flush("receiver", timeout=plan.deadline)


def _await_paths(link: transport.Link, plan: Plan) -> None:
    """Return once every path is in use: what was sent over it of late was acknowledged."""
    deadline = time.monotonic() + plan.deadline
    while any(path.state != "usable" or path.suspected for path in link.stats().paths):
        if time.monotonic() > deadline:
            raise BenchError(f"not every path was usable within {plan.deadline} s")
        time.sleep(0.002)


def _stats(link: transport.Link) -> dict[str, Any]:
    stats = link.stats()
    return {
        "bytes": stats.bytes_sent,
        "retransmissions": stats.retransmissions,
        "spurious": stats.spurious_retransmissions,
        "paths": {path.address: dataclasses.asdict(path) for path in stats.paths},
    }
