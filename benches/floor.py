"""The least that a signed round trip costs in Python, in a process of its own.

    python -m benches.floor LIMIT SYSTEM

A bare `asyncio.Protocol` over TLS 1.3, with the contexts of our links, and one Ed25519
signature for each way: the sender signs as many bytes as an envelope of ours has, header
and payload; the other side verifies them, signs them and sends them back; the sender
verifies those. No order, no credit, no receipt, no batch. It answers what a peer of ours
does (see `child`), but has no throughput.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable
from typing import Final, cast

from benches.child import ANSWER_TIMEOUT, MAX_PINGS, run_in, serve
from signedwire import Did, Identity
from signedwire.identity import Label, verify_labelled
from signedwire.transport.tls import TlsIdentity
from signedwire.wire.header import MIN_V2_HEADER_SIZE

__all__ = ["main"]

_LABEL: Final = Label.BATCH
_FILL: Final = bytes(MIN_V2_HEADER_SIZE - len(_LABEL.value))
"""With the label, which is signed too, as long as the header of an envelope."""
_SIGNATURE_SIZE: Final = 64
_LENGTH_SIZE: Final = 4


class FloorLink(asyncio.Protocol):
    """One connection: signed messages, each after its length.

    Args:
        peer: Whose signatures are good.
        on_message: Called with each message that is verified.
    """

    def __init__(
        self, identity: Identity, peer: Did, on_message: Callable[[FloorLink, bytes], None]
    ) -> None:
        self._identity = identity
        self._peer = bytes(peer)
        self._on_message = on_message
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by class

    def send(self, message: bytes) -> None:
        signature = self._identity._sign_labelled(_LABEL, message)
        length = len(signature) + len(message)
        self._transport.write(length.to_bytes(_LENGTH_SIZE, "big") + signature + message)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while len(self._buffer) >= _LENGTH_SIZE:
            end = _LENGTH_SIZE + int.from_bytes(self._buffer[:_LENGTH_SIZE], "big")
            if len(self._buffer) < end:
                return
            signed, self._buffer = self._buffer[_LENGTH_SIZE:end], self._buffer[end:]
            signature, message = signed[:_SIGNATURE_SIZE], signed[_SIGNATURE_SIZE:]
            if not verify_labelled(self._peer, _LABEL, message, signature):
                self._transport.abort()
                return
            self._on_message(self, message)


class FloorPeer:
    """Either side: it listens, and dials at its first `ping`."""

    def __init__(self) -> None:
        self._identity = Identity.generate()
        tls = TlsIdentity(self._identity)
        self._server_context = tls.context(is_server=True)
        self._client_context = tls.context(is_server=False)
        self._peer = self._identity.did
        self._address = ("", 0)
        self._link: FloorLink | None = None
        self._answered = asyncio.Event()
        self._is_echoed = asyncio.Event()

    async def open(self) -> dict[str, str]:
        self._server = await asyncio.get_running_loop().create_server(
            lambda: FloorLink(self._identity, self._peer, self._answer),
            "127.0.0.1",
            0,
            ssl=self._server_context,
        )
        host, port = self._server.sockets[0].getsockname()
        return {"did": self._identity.did.hex(), "address": f"{host}:{port}"}

    async def route(self, did: str, address: str) -> None:
        host, _, port = address.rpartition(":")
        self._peer, self._address = Did.parse(did), (host, int(port))

    async def echo(self) -> None:
        await self._is_echoed.wait()
        self._is_echoed.clear()

    def _answer(self, link: FloorLink, message: bytes) -> None:
        if message.strip(b"\0"):
            link.send(message)
        else:
            self._is_echoed.set()

    async def _dial(self) -> FloorLink:
        _, link = await asyncio.get_running_loop().create_connection(
            lambda: FloorLink(self._identity, self._peer, lambda *_: self._answered.set()),
            *self._address,
            ssl=self._client_context,
        )
        return link

    async def ping(self, size: int, seconds: float) -> dict[str, list[float]]:
        if self._link is None:
            self._link = await self._dial()
        link, answered = self._link, self._answered
        message = b"\1" + bytes(size - 1) + _FILL
        times: list[float] = []
        end = time.perf_counter() + seconds
        async with asyncio.timeout(seconds + ANSWER_TIMEOUT):
            while time.perf_counter() < end and len(times) < MAX_PINGS:
                answered.clear()
                started_at = time.perf_counter()
                link.send(message)
                await answered.wait()
                times.append(time.perf_counter() - started_at)
        link.send(bytes(len(message)))
        return {"times": times}


def main(limit: float, system: str) -> None:
    """Serve until the parent is gone."""
    run_in(system.split("-")[1], serve(limit, FloorPeer()))


if __name__ == "__main__":
    main(float(sys.argv[1]), sys.argv[2])
