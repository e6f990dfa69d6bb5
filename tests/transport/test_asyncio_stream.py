"""`AsyncioStream`: the end of a stream, by a call and by a failed write."""

from __future__ import annotations

import asyncio
import contextlib
import select
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from signedwire import Address, Location
from signedwire.transport.network import Network, Stream
from signedwire.transport.tcp import TcpNetwork
from signedwire.transport.unix import UnixNetwork
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


class Recorder:
    """Notes what it is told, in order."""

    def __init__(self) -> None:
        self.told: list[bytes | str] = []
        self.has_ended = asyncio.Event()

    def connected(self, stream: Stream) -> None:
        self.stream = stream

    def received(self, data: bytes) -> None:
        self.told.append(data)

    def ended(self) -> None: ...

    def writable(self) -> None: ...

    def lost(self, error: Exception | None) -> None:
        self.told.append("lost" if error is None else "broken")
        self.has_ended.set()


@contextlib.asynccontextmanager
async def dialed(network: str, folder: Path) -> AsyncIterator[tuple[Recorder, socket.socket]]:
    """A stream, and the socket at its other end."""
    receiver, target = Recorder(), Location("unix", str(folder / "peer"))
    dialing: Network = TcpNetwork()
    if network == "unix":
        dialing = UnixNetwork()
        server = socket.socket(socket.AF_UNIX)
        server.bind(target.path)
        server.listen()
    else:
        server = socket.create_server(("127.0.0.1", 0))
    with server:
        address = target if network == "unix" else Address(*server.getsockname())
        await within(LIMIT, dialing.dial(address, receiver))
        peer, _ = server.accept()
        with peer:
            yield receiver, peer


both_sockets = pytest.mark.parametrize(
    "network", ["tcp", *(["unix"] if hasattr(socket, "AF_UNIX") else [])]
)


@both_sockets
@on_both_loops
async def test_bytes_before_a_failed_write_are_received(network: str, tmp_path: Path) -> None:
    """The peer sends its last words and closes, and then we write."""
    async with dialed(network, tmp_path) as (receiver, peer):
        receiver.stream.write(b"unread, so that the close of the peer is a reset")
        while not select.select([peer], [], [], 0)[0]:
            await asyncio.sleep(0.001)
        last_words = bytes(range(256)) * 128
        peer.sendall(last_words)
        peer.close()
        receiver.stream.write(b"too late")  # before the loop can read
        await within(LIMIT, receiver.has_ended.wait())
        *received, end = receiver.told
        assert (b"".join(received), end) == (last_words, "broken")  # type: ignore[arg-type]


@both_sockets
@on_both_loops
async def test_a_broken_stream_gives_a_paused_receiver_so_much(
    network: str, tmp_path: Path
) -> None:
    async with dialed(network, tmp_path) as (receiver, peer):
        receiver.stream.pause_reading()
        receiver.stream.write(b"unread")
        while not select.select([peer], [], [], 0)[0]:
            await asyncio.sleep(0.001)
        peer.setblocking(False)
        sent = 0
        with contextlib.suppress(BlockingIOError):
            while sent < 1 << 20:
                sent += peer.send(bytes(1 << 16))
        peer.close()
        receiver.stream.write(b"too late")
        await within(LIMIT, receiver.has_ended.wait())
        *received, end = receiver.told
        assert end == "broken"
        assert 0 < sum(map(len, received)) <= min(sent, 2 * 128 * 1024)


@both_sockets
@on_both_loops
async def test_our_own_end_reads_nothing_more(network: str, tmp_path: Path) -> None:
    async with dialed(network, tmp_path) as (receiver, peer):
        peer.sendall(b"too late")
        receiver.stream.abort()
        await within(LIMIT, receiver.has_ended.wait())
        assert receiver.told == ["lost"]
