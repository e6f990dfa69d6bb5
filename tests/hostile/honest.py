"""The honest peer: a small message every 20 ms, and newcomers who connect meanwhile.

    python -m hostile.honest LOOP ADDRESS

Words: "send SECONDS GRACE" sends for so long, waits at most GRACE seconds for what is
still unanswered, and answers with the times in seconds. A message that was not accepted
counts with the time that it has waited: no slow message is left out.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from typing import Final

from signedwire import Identity, Node, SignedWireError, TransportConfig

from .child import commands, main, say
from .victim import VICTIM

__all__ = ["INTERVAL"]

INTERVAL: Final = 0.02
"""Seconds from one message to the next, whether or not the first has been accepted."""
_NEWCOMERS: Final = (0.2, 0.5)
"""When they connect, as shares of the time."""


class Timed:
    """Messages under way, and how long each took until it was accepted."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.unanswered: dict[asyncio.Task[None], float] = {}

    def send(self, node: Node, *, due: float) -> None:
        """Send one; its time counts from `due`, when it should have been sent."""
        task = asyncio.create_task(self._send(node, due))
        self.unanswered[task] = due

    async def _send(self, node: Node, due: float) -> None:
        with contextlib.suppress(SignedWireError):  # given up: it stays unanswered
            await node.send(VICTIM.did, b"an honest message", until="accepted")
            self.seconds.append(time.perf_counter() - due)
            task = asyncio.current_task()
            assert task is not None
            del self.unanswered[task]

    async def settle(self, grace: float) -> None:
        """Wait for what is unanswered; count what stays so with the time until now."""
        if pending := [task for task in self.unanswered if not task.done()]:
            await asyncio.wait(pending, timeout=grace)
        now = time.perf_counter()
        self.seconds += [now - due for due in self.unanswered.values()]

    async def end(self) -> None:
        for task in self.unanswered:
            task.cancel()
        await asyncio.gather(*self.unanswered, return_exceptions=True)


async def send(node: Node, newcomers: list[Node], seconds: float, grace: float) -> None:
    timed, first = Timed(), Timed()
    began = time.perf_counter()
    arrivals = [began + share * seconds for share in _NEWCOMERS]
    waiting = list(newcomers)
    for number in range(round(seconds / INTERVAL)):
        due = began + number * INTERVAL
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        timed.send(node, due=due)
        if waiting and due >= arrivals[len(newcomers) - len(waiting)]:
            first.send(waiting.pop(), due=time.perf_counter())
    await timed.settle(grace)
    await first.settle(0)
    say(
        seconds=sorted(timed.seconds),
        lost=len(timed.unanswered),
        newcomers=sorted(first.seconds),
        kept_out=len(first.unanswered),
    )
    await timed.end()
    await first.end()


async def run(address: str) -> None:
    async with contextlib.AsyncExitStack() as stack:
        # Nobody dials them.
        config = TransportConfig(listen=None)
        nodes = []
        for _ in range(1 + len(_NEWCOMERS)):
            node = await stack.enter_async_context(Node(Identity.generate(), config))
            node.routing.update(VICTIM.did, address)
            nodes.append(node)
        for _ in range(10):
            await nodes[0].send(VICTIM.did, b"a link is open", until="accepted")
        say()
        async for words in commands():
            match words:
                case ["send", seconds, grace]:
                    await send(nodes[0], nodes[1:], float(seconds), float(grace))


if __name__ == "__main__":
    main(run(sys.argv[2]), sys.argv[1])
