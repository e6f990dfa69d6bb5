"""`AsyncioStream`: a receiver may write, close and abort in `writable`."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest

from signedwire import Address
from signedwire.transport.network import Stream
from signedwire.transport.tcp import TcpNetwork
from wirekit import LIMIT, on_both_loops, within


class Closer:
    """Fills the stream, and ends it when all was written."""

    def __init__(self, how: str) -> None:
        self._how = how
        self.ends: list[Exception | None] = []
        self.has_ended = asyncio.Event()

    def connected(self, stream: Stream) -> None:
        self.stream = stream
        while not stream.waiting():
            stream.write(bytes(1 << 20))

    def received(self, data: bytes) -> None: ...

    def ended(self) -> None: ...

    def writable(self) -> None:
        getattr(self.stream, self._how)()

    def lost(self, error: Exception | None) -> None:
        self.ends.append(error)
        self.has_ended.set()


@pytest.mark.parametrize("how", ["close", "abort"])
@on_both_loops
async def test_an_end_amid_writable_is_reported_once(how: str) -> None:
    loop = asyncio.get_running_loop()
    faults: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, context: faults.append(context))
    with socket.create_server(("127.0.0.1", 0)) as server:
        receiver = Closer(how)
        await TcpNetwork().dial(Address(*server.getsockname()), receiver)
        peer, _ = server.accept()
        with peer:
            peer.setblocking(False)

            async def read_all() -> None:
                while await loop.sock_recv(peer, 1 << 20):
                    pass

            reading = asyncio.create_task(read_all())
            await within(LIMIT, receiver.has_ended.wait())
            await asyncio.wait([reading], timeout=LIMIT)
    await asyncio.sleep(0.05)
    assert receiver.ends == [None]
    assert not faults
