"""A network of your own, in one file: links over pairs of a reader and a writer.

    python own_network.py

Here asyncio makes the pairs, over TCP. A library for SSH channels, serial lines or web
sockets has something similar: use it in `dial` and `listen`, and choose the meaning of the
path of a target. The node does the rest: TLS, proof of the DID, order, receipts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from signedwire import (
    DialError,
    FailureKind,
    Identity,
    Listener,
    ListenError,
    Location,
    Node,
    Receiver,
    Remote,
    Stream,
    Target,
    TransportConfig,
)

_READ: Final = 64 * 1024


class PairNetwork:
    """A `signedwire.Network`. Its targets are `pair:/host:port`."""

    async def dial(self, target: Target, receiver: Receiver) -> Stream:
        """Connect, and report to `receiver`."""
        host, port = _host_and_port(target, DialError)
        try:
            reader, writer = await asyncio.open_connection(host, port)
        except OSError as error:
            is_refused = isinstance(error, ConnectionRefusedError)
            kind = FailureKind.REFUSED if is_refused else FailureKind.OTHER
            raise DialError(target, error.strerror or str(error), kind=kind) from error
        return PairStream(receiver, reader, writer, target)

    async def listen(self, target: Target, accept: Callable[[], Receiver]) -> Listener:
        """Accept streams; each reports to a new receiver."""
        host, port = _host_and_port(target, ListenError)

        def on_pair(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            PairStream(accept(), reader, writer, None)

        try:
            server = await asyncio.start_server(on_pair, host, port)
        except OSError as error:
            raise ListenError(target, error.strerror or str(error)) from error
        return PairListener(server, host)


class PairListener:
    """A `signedwire.Listener`."""

    def __init__(self, server: asyncio.Server, host: str) -> None:
        self._server = server
        self.address = Location("pair", f"/{host}:{server.sockets[0].getsockname()[1]}")

    def close(self) -> None:
        """Stop accepting."""
        self._server.close()

    def shut_down(self) -> None:
        """Free the address without the event loop."""
        for sock in self._server.sockets:
            sock.close()


class PairStream(Stream):
    """One connection. One task reads from it, and another task writes the waiting bytes."""

    def __init__(
        self,
        receiver: Receiver,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        target: Target | None,
    ) -> None:
        self._receiver = receiver
        self._reader = reader
        self._writer = writer
        writer.transport.set_write_buffer_limits(high=0)  # `drain()` waits until all is sent
        # Limits for inbound connections count by this group. `None` means a local peer.
        host = str(writer.get_extra_info("peername")[0])
        self._remote = Remote(target, host, None if host in ("127.0.0.1", "::1") else host)
        self._chunks: list[bytes] = []
        self._waiting = 0
        self._is_closing = False
        self._is_aborted = False
        self._may_read = asyncio.Event()
        self._may_read.set()
        self._has_work = asyncio.Event()
        receiver.connected(self)
        self._reading = asyncio.create_task(self._read())
        self._writing = asyncio.create_task(self._write())

    @property
    def remote(self) -> Remote:
        """Return the description of the other side."""
        return self._remote

    def set_receiver(self, receiver: Receiver) -> None:
        """Report to another receiver from now on."""
        self._receiver = receiver

    def write(self, data: bytes, /) -> None:
        """Keep the bytes; the writing task sends them."""
        self._chunks.append(data)
        self._waiting += len(data)
        self._has_work.set()

    def waiting(self) -> int:
        """Return the number of bytes that are not sent yet."""
        return self._waiting

    def pause_reading(self) -> None:
        """Do not call the receiver for received bytes until `resume_reading()`."""
        self._may_read.clear()

    def resume_reading(self) -> None:
        """Continue after `pause_reading()`."""
        self._may_read.set()

    def is_closing(self) -> bool:
        """Whether the stream is closed, or will be."""
        return self._is_closing

    def close(self) -> None:
        """Send the waiting bytes, then close."""
        self._is_closing = True
        self._has_work.set()

    def abort(self) -> None:
        """Close now."""
        self._is_aborted = True
        self._writer.transport.abort()
        self.close()

    async def _read(self) -> None:
        try:
            while data := await self._reader.read(_READ):
                await self._may_read.wait()
                if self._is_closing:
                    return
                self._receiver.received(data)
            await self._may_read.wait()
            if not self._is_closing:
                self._receiver.ended()
        except OSError:
            self.abort()

    async def _write(self) -> None:
        error: Exception | None = None
        try:
            while True:
                await self._has_work.wait()
                self._has_work.clear()
                while self._chunks and not self._is_aborted:
                    data, self._chunks = b"".join(self._chunks), []
                    self._writer.write(data)
                    await self._writer.drain()
                    self._waiting -= len(data)
                if self._is_closing:
                    break
                self._receiver.writable()
            self._writer.close()
            await self._writer.wait_closed()
        except OSError as broken:
            error = broken
        self._is_closing = True
        self._reading.cancel()
        self._receiver.lost(error)


def _host_and_port(target: Target, error: type[DialError] | type[ListenError]) -> tuple[str, int]:
    if isinstance(target, Location) and target.scheme == "pair":
        host, _, port = target.path[1:].rpartition(":")
        if port.isdigit():
            return host, int(port)
    raise error(target, "this is not a target of this network", "Write pair:/host:port")


async def main() -> None:
    """Send a message from one node to another."""
    network = PairNetwork()
    config = TransportConfig(listen="pair:/127.0.0.1:0")
    async with (
        Node(Identity.generate(), config, network=network) as alice,
        Node(Identity.generate(), config, network=network) as bob,
    ):
        print(f"Bob listens at {bob.address}.")
        alice.routing.update(bob.did, bob.address)
        receipt = await alice.send(bob.did, b"hello")
        message = await bob.receive()
        print(f"Bob received '{message.payload.decode()}' from {message.sender}.")
        print(f"The message is {receipt.state}: Bob's node has signed for it.")


if __name__ == "__main__":
    asyncio.run(main())
