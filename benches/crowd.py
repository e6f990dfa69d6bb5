"""Many nodes in one process: `python -m benches.crowd LIMIT LOOP`.

open nodes          so many, and one to warm up with → [[did, address], …], that one last
warm_up others      one link from each of ours, and one to each of the others
dial                from each of ours to each of the others → seconds
look                → {"kib": resident memory, "cpu": seconds}
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import sys
import time
from pathlib import Path
from typing import Final

from benches.child import run_in
from benches.children import Channel, Request
from signedwire import Did, Identity, Node, TransportConfig

__all__ = ["main"]

_AT_A_TIME: Final = 32
"""Links that are being set up at once."""


class Crowd:
    """Every public coroutine is something that the parent may ask."""

    def __init__(self) -> None:
        self._nodes: list[Node] = []
        self._others: list[Did] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._places = asyncio.Semaphore(_AT_A_TIME)

    async def open(self, nodes: int) -> list[tuple[str, str]]:
        config = TransportConfig(max_connections=65_535, max_inbound_connections=65_535)
        for _ in range(nodes + 1):
            node = Node(Identity.generate(), config)
            await node.start()
            self._nodes.append(node)
            self._tasks.append(asyncio.create_task(_take_all(node)))
        return [(str(node.did), str(node.address)) for node in self._nodes]

    async def warm_up(self, others: list[tuple[str, str]]) -> None:
        self._others = [Did.parse(did) for did, _ in others]
        for node in self._nodes:
            for did, (_, address) in zip(self._others, others, strict=True):
                node.routing.update(did, address)
        *nodes, last = self._nodes
        await asyncio.gather(*(self._link(node, self._others[-1]) for node in nodes))
        await asyncio.gather(*(self._link(last, did) for did in self._others))

    async def dial(self) -> float:
        started_at = time.perf_counter()
        await asyncio.gather(
            *(self._link(node, did) for did in self._others[:-1] for node in self._nodes[:-1])
        )
        return time.perf_counter() - started_at

    async def _link(self, node: Node, did: Did) -> None:
        async with self._places:
            await node.send(did, b"hello")

    async def look(self) -> dict[str, float | None]:
        cpu = time.process_time()
        gc.collect()
        return {"kib": _resident_kib(), "cpu": cpu}


async def _take_all(node: Node) -> None:
    async for message in node.messages():
        len(message.payload)


def _resident_kib() -> float | None:
    with contextlib.suppress(OSError):
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 1024
    return None


async def _serve(limit: float) -> None:
    loop = asyncio.get_running_loop()
    requests: asyncio.Queue[Request] = asyncio.Queue()
    Channel(limit, lambda request: loop.call_soon_threadsafe(requests.put_nowait, request)).listen()
    crowd = Crowd()
    while True:
        request = await requests.get()
        try:
            request.answer(await getattr(crowd, request.what)(**request.arguments))
        except Exception as error:  # noqa: BLE001 - the parent is told
            request.fail(error)


def main(limit: float, loop: str) -> None:
    """Serve until the parent is gone."""
    run_in(loop, _serve(limit))


if __name__ == "__main__":
    main(float(sys.argv[1]), sys.argv[2])
