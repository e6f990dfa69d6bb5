"""Either side of a fan-out: `python -m benches.fanout_child LIMIT LOOP`.

open nodes             so many, for which others send → [[did, address], …]
link peers             one node of ours with a link to each of them
send at_a_time chunk size seconds
                       to all of them in turn, for so long
                       → {"sent", "seconds", "cpu"}
reset                  count anew from here on what all nodes receive
receive                until `expect` is fulfilled
                       → {"received", "cpu", …}
expect count           the sender has stopped after so many
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import sys
import time
from typing import Final

from benches.child import Arrivals, run_in, serve
from benches.descriptors import raise_limit
from signedwire import Did, Identity, Node, TransportConfig

__all__ = ["SPARE_DESCRIPTORS", "main"]

SPARE_DESCRIPTORS: Final = 64
"""What a process has open beside its nodes and their links."""
_LINKS_AT_A_TIME: Final = 32
_SILENT_LOOKS: Final = 100
"""Looks without a message since the one before after which what is missing counts as lost."""
# Links of which it is not the turn are idle, and are not to be asked whether they live.
_HOUR: Final = 3600.0


class FanOutPeer:
    """Every public coroutine is something that the parent may ask."""

    def __init__(self, nodes: contextlib.AsyncExitStack) -> None:
        self._nodes = nodes
        self._peers: list[Did] = []
        self._sender: Node | None = None
        self._arrivals = Arrivals()
        self._takers: list[asyncio.Task[None]] = []

    async def open(self, nodes: int) -> list[tuple[str, str]]:
        # A listener and a link for each.
        raise_limit(2 * nodes + SPARE_DESCRIPTORS)
        config = TransportConfig(ping_interval=_HOUR, dead_timeout=2 * _HOUR)
        opened = []
        for _ in range(nodes):
            node = await self._nodes.enter_async_context(Node(Identity.generate(), config))
            self._takers.append(asyncio.create_task(self._take_all(node)))
            opened.append((str(node.did), str(node.address)))
        return opened

    async def link(self, peers: list[tuple[str, str]]) -> None:
        raise_limit(len(peers) + SPARE_DESCRIPTORS)
        config = TransportConfig(
            listen=None,
            max_connections=len(peers),
            ping_interval=_HOUR,
            dead_timeout=2 * _HOUR,
        )
        sender = await self._nodes.enter_async_context(Node(Identity.generate(), config))
        self._sender = sender
        places = asyncio.Semaphore(_LINKS_AT_A_TIME)

        async def reach(did: Did) -> None:
            async with places:
                await sender.send(did, b"")

        for text, address in peers:
            did = Did.parse(text)
            sender.routing.update(did, address)
            self._peers.append(did)
        await asyncio.gather(*map(reach, self._peers))

    async def send(self, at_a_time: int, chunk: int, size: int, seconds: float) -> dict[str, float]:
        sender, turns, payloads = self._sender, itertools.cycle(self._peers), [bytes(size)] * chunk
        assert sender is not None
        cpu, started_at = time.process_time(), time.perf_counter()
        end = started_at + seconds

        async def send_in_turn() -> int:
            sent = 0
            while True:
                # Every one of them has its signed receipt then.
                await sender.send_many(next(turns), payloads, until="accepted")
                sent += chunk
                if time.perf_counter() >= end:
                    return sent

        sent = sum(await asyncio.gather(*(send_in_turn() for _ in range(at_a_time))))
        return {
            "sent": sent,
            "seconds": time.perf_counter() - started_at,
            "cpu": time.process_time() - cpu,
        }

    async def reset(self) -> None:
        self._arrivals = Arrivals()

    async def receive(self) -> dict[str, float]:
        arrivals = self._arrivals
        silent, before = 0, 0
        # Looks and not seconds: a process that got no CPU has not looked either.
        while arrivals.expected is None or (
            arrivals.count < arrivals.expected and silent < _SILENT_LOOKS
        ):
            await asyncio.sleep(0.01)
            is_silent = arrivals.expected is not None and arrivals.count == before
            silent, before = silent + 1 if is_silent else 0, arrivals.count
        return arrivals.report()

    async def expect(self, count: int) -> None:
        self._arrivals.expect(count)

    async def _take_all(self, node: Node) -> None:
        async for message in node.messages():
            if message.payload:  # else it made the link, before the clock started
                self._arrivals.add()


async def _serve(limit: float) -> None:
    async with contextlib.AsyncExitStack() as nodes:
        await serve(limit, FanOutPeer(nodes))


def main(limit: float, loop: str) -> None:
    """Serve until the parent is gone."""
    run_in(loop, _serve(limit))


if __name__ == "__main__":
    main(float(sys.argv[1]), sys.argv[2])
