"""Peers that cannot be reached, each for a reason of its own."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager

from signedwire import Address, FailureKind, Node, Target
from signedwire.transport.tls_channel import FULL_ALERT
from wirekit import ALICE, BOB, CAROL, quick, refusing_address

__all__ = ["SCENES", "Scene"]

Scene = Callable[[], AbstractAsyncContextManager[Target]]
"""The address at which ALICE looks for BOB."""


@contextlib.asynccontextmanager
async def _refused() -> AsyncIterator[Target]:
    with refusing_address() as address:
        yield address


@contextlib.asynccontextmanager
async def _wrong_key() -> AsyncIterator[Target]:
    async with Node(CAROL, quick(wire="auto")) as carol:
        yield carol.address


@contextlib.asynccontextmanager
async def _denied() -> AsyncIterator[Target]:
    async with Node(BOB, quick(wire="auto")) as bob:
        bob.access.deny(ALICE.did)
        yield bob.address


def _server(answer: bytes | None, *, is_reset: bool = False) -> Scene:
    """A listener that reads once, writes `answer` and hangs up; `None`: it stays silent."""

    @contextlib.asynccontextmanager
    async def scene() -> AsyncIterator[Target]:
        tasks: set[asyncio.Task[None]] = set()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            tasks.add(task)
            try:
                await reader.read(65536)
                if answer is None:
                    await reader.read()  # until the dialer hangs up
                elif is_reset:
                    sock = writer.get_extra_info("socket")
                    linger = struct.pack("ii", 1, 0)
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                else:
                    writer.write(answer)
            except ConnectionError:
                pass
            finally:
                writer.close()
                tasks.discard(task)

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        try:
            yield Address(*server.sockets[0].getsockname())
        finally:
            server.close()
            for task in tuple(tasks):
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    return scene


SCENES: dict[FailureKind, Scene] = {
    FailureKind.REFUSED: _refused,
    FailureKind.WRONG_KEY: _wrong_key,
    FailureKind.DENIED: _denied,
    FailureKind.HUNG_UP_ON_TLS: _server(b""),
    FailureKind.FULL: _server(FULL_ALERT),
    FailureKind.TLS_FAILED: _server(b"HTTP/1.1 400 Bad Request\r\n\r\n"),
    FailureKind.NO_HANDSHAKE: _server(None),
}
RESET_AT_ONCE = _server(b"", is_reset=True)
