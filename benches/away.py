"""Nodes with stores whose peer is away: `python -m benches.away LIMIT FOLDER`.

lone size count        so many send(), one after the other, and after each a sync of
                       4 KiB → {"told", "commit", "sync"}
groups size count      one send_many() → {"rows", "commit", "row"}
fill name size count   store so many under that name → messages/s
send names size        turns of send() with each of them
                       → {name: {"sends": [seconds, …], "rates": [messages/s, …]}}

"commit" is the median of the last 512 transactions; the others are of one message or sync.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import statistics
import sys
import time
from pathlib import Path
from typing import Final, Self

from benches.child import serve
from signedwire import Identity, Node, Receipt, TransportConfig

__all__ = ["AT_A_TIME", "main"]

AT_A_TIME: Final = 256
"""Calls of `send()` that wait together, where a rate is measured."""
# Where there is none, as on macOS and Windows, it is not what SQLite calls either.
_fdatasync: Final = getattr(os, "fdatasync", os.fsync)
_BLOCK: Final = bytes(4096)
_BLOCKS: Final = 256
_FILLED: Final = 10_000
_TURNS: Final = 20
_SENDS: Final = 25
_REST: Final = 0.1
_ROWS: Final = 10**9
_BYTES: Final = 2**40


class Away:
    """Every public coroutine is something that the parent may ask."""

    def __init__(self, folder: Path, nodes: contextlib.AsyncExitStack) -> None:
        self._folder = folder
        self._opened = nodes
        self._nodes: dict[str, Node] = {}
        self._peer = Identity.generate().did
        # Bound and not listening: whoever dials it is turned away.
        self._nobody = socket.socket()
        self._nobody.bind(("127.0.0.1", 0))

    async def _node(self, name: str) -> Node:
        node = self._nodes.get(name)
        if node is None:
            # Room for what is measured, and no dialing all the time.
            config = TransportConfig(
                outbox_limit=_ROWS,
                outbox_bytes=_BYTES,
                outbox_peer_limit=_ROWS,
                outbox_peer_bytes=_BYTES,
                retry_base_delay=60.0,
                retry_max_delay=600.0,
            )
            node = Node(Identity.generate(), config, store=self._folder / f"away-{name}.db")
            await self._opened.enter_async_context(node)
            node.routing.update(self._peer, f"127.0.0.1:{self._nobody.getsockname()[1]}")
            self._nodes[name] = node
        return node

    async def lone(self, size: int, count: int) -> dict[str, float]:
        node, payload = await self._node(f"lone-{size}"), bytes(size)
        sends, syncs = [], []
        with _Blocks(self._folder / "blocks") as blocks:
            for _ in range(count):
                sends.append(await self._send(node, payload))
                syncs.append(await asyncio.to_thread(blocks.sync))
        median = statistics.median
        return {"told": median(sends), "commit": _commit_median(node), "sync": median(syncs)}

    async def _send(self, node: Node, payload: bytes) -> float:
        started_at = time.perf_counter()
        await node.send(self._peer, payload, until="persisted")
        return time.perf_counter() - started_at

    async def groups(self, size: int, count: int) -> dict[str, float]:
        node = await self._node(f"groups-{size}")
        before = _commits(node)
        seconds = await self._send_many(node, size, count)
        return {
            "rows": count / max(1, _commits(node) - before),
            "commit": _commit_median(node),
            "row": seconds / count,
        }

    async def _send_many(self, node: Node, size: int, count: int) -> float:
        started_at = time.perf_counter()
        await node.send_many(self._peer, [bytes(size)] * count, until="persisted")
        return time.perf_counter() - started_at

    async def fill(self, name: str, size: int, count: int) -> float:
        node = await self._node(name)
        seconds = 0.0
        for stored in range(0, count, _FILLED):
            seconds += await self._send_many(node, size, min(_FILLED, count - stored))
        return count / seconds

    async def send(self, names: list[str], size: int) -> dict[str, dict[str, list[float]]]:
        nodes = [await self._node(name) for name in names]
        payload = bytes(size)
        sends: dict[str, list[float]] = {name: [] for name in names}
        rates: dict[str, list[float]] = {name: [] for name in names}
        turns = list(zip(names, nodes, strict=True))
        for _ in range(_TURNS):
            for _ in range(_SENDS):
                for name, node in turns:
                    sends[name].append(await self._send(node, payload))
            for name, node in turns:
                rates[name].append(await self._rate(node, payload))
            for node in nodes:
                await _drop_oldest(node, _SENDS + AT_A_TIME)
            turns.reverse()
        return {name: {"sends": sends[name], "rates": rates[name]} for name in names}

    async def _rate(self, node: Node, payload: bytes) -> float:
        started_at = time.perf_counter()
        calls = (node.send(self._peer, payload, until="persisted") for _ in range(AT_A_TIME))
        receipts: list[Receipt] = await asyncio.gather(*calls)
        return len(receipts) / (time.perf_counter() - started_at)


async def _drop_oldest(node: Node, count: int) -> None:
    """As many as have come, so that as many wait as before."""
    await node.outbox.drop(*[row.id for row in await node.outbox.list(limit=count)])
    await asyncio.sleep(_REST)  # others come into the queue for them
    await node.outbox.flush()


def _commits(node: Node) -> int:
    store = node.stats().store
    assert store is not None
    return store.commits


def _commit_median(node: Node) -> float:
    store = node.stats().store
    assert store is not None
    return store.commit_median


class _Blocks:
    """A file of blocks that the disk has already, as the WAL's mostly are."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("w+b", buffering=0)
        self._file.write(_BLOCK * _BLOCKS)
        os.fsync(self._file.fileno())
        self._next = 0

    def sync(self) -> float:
        """Seconds to write one over and have it on the disk."""
        started_at = time.perf_counter()
        self._file.seek(self._next % _BLOCKS * len(_BLOCK))
        self._file.write(_BLOCK)
        _fdatasync(self._file.fileno())
        self._next += 1
        return time.perf_counter() - started_at

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


async def main(limit: float, folder: Path) -> None:
    """Serve until the parent is gone."""
    async with contextlib.AsyncExitStack() as nodes:
        await serve(limit, Away(folder, nodes))


if __name__ == "__main__":
    asyncio.run(main(float(sys.argv[1]), Path(sys.argv[2])))
