"""A TCP proxy that cuts connections, and holds back what they carry."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

__all__ = ["Proxy"]


class Proxy:
    """Carries bytes to a port of this host."""

    def __init__(self, target: int) -> None:
        self.cuts = 0
        self.connections = 0
        self._target = target
        self._open: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._may_carry = asyncio.Event()
        self._may_carry.set()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[int]:
        """Its port."""
        server = await asyncio.start_server(self._carry, "127.0.0.1", 0)
        try:
            yield server.sockets[0].getsockname()[1]
        finally:
            server.close()
            self.cut()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def cut(self) -> None:
        """End what is open, with RST and with bytes on the way."""
        self.cuts += bool(self._open)
        for writer in self._open:
            writer.transport.abort()

    async def hold(self, seconds: float) -> None:
        """Carry nothing for a while; connections stay."""
        self._may_carry.clear()
        await asyncio.sleep(seconds)
        self._may_carry.set()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        with contextlib.suppress(OSError):
            there = await asyncio.open_connection("127.0.0.1", self._target)
            self.connections += 1
            self._open |= {writer, there[1]}
            await asyncio.gather(
                self._pump(reader, there[1], writer), self._pump(there[0], writer, there[1])
            )
            self._open -= {writer, there[1]}
        writer.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, *both: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(1 << 16):
                await self._may_carry.wait()
                both[0].write(data)
                await both[0].drain()
        for writer in both:
            writer.transport.abort()
