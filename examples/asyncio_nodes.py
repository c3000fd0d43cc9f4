"""Sends and receives as awaitables: a server and three clients in one event loop.

    python examples/asyncio_nodes.py

`isend` and `irecv` return at once, and `await` gives their results in any event
loop. Cancelling the task that awaits cancels the operation where it still can be.
"""

from __future__ import annotations

import asyncio
import secrets
from contextlib import ExitStack

import numpy as np

import transport

QUESTION, ANSWER = 1, 2  # tags
CLIENTS = ("ada", "bob", "eve")
TIMEOUT = 30.0  # seconds


async def serve(node: transport.Node, questions: int) -> None:
    """Square what comes, whoever sends it."""
    for _ in range(questions):
        question = node.irecv(tag=QUESTION)  # of any peer
        numbers = await question
        assert question.source is not None
        await node.isend(numbers**2, to=question.source, tag=ANSWER)


async def ask(node: transport.Node, address: str, numbers: np.ndarray) -> np.ndarray:
    """Link to the server and ask one question."""
    # Linking blocks until the handshake is over, so it has a thread of its own.
    await asyncio.to_thread(node.connect, address, peer="server", timeout=TIMEOUT)
    await node.isend(numbers, to="server", tag=QUESTION)
    return await node.irecv(source="server", tag=ANSWER)


async def main() -> None:
    """Run the server beside its clients, and print what these learn."""
    trust = transport.Trust(secret=secrets.token_bytes(32))
    with ExitStack() as stack:
        server, *clients = (
            stack.enter_context(
                transport.Node(name, identity=transport.Identity.generate(), trust=trust)
            )
            for name in ("server", *CLIENTS)
        )
        async with asyncio.timeout(TIMEOUT):
            *answers, _ = await asyncio.gather(
                *(
                    ask(client, server.addresses[0], np.arange(3) + 10 * number)
                    for number, client in enumerate(clients)
                ),
                serve(server, len(CLIENTS)),
            )
    for name, answer in zip(CLIENTS, answers, strict=True):
        print(name, answer.tolist())


if __name__ == "__main__":
    asyncio.run(main())
