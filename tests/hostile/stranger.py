"""One hostile link: TLS with a key of its own over asyncio, and bytes as fast as they go."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Final

from linkkit import credits, ping
from signedwire import Address, Did, Identity
from signedwire.types import Credit
from signedwire.wire import link_frames as frames
from signedwire.wire.batch import leaves_of
from signedwire.wire.header import STREAMS
from signedwire.wire.link_frames import (
    CreditFrame,
    Epochs,
    Hello,
    LinkFrameDecoder,
    Part,
    Pong,
)
from signedwire.wire.parts import IncomingBatches
from tlskit import honest

__all__ = ["BURST", "EPOCH", "Field", "Link", "LinkEndedError", "Who", "hello", "reset"]

EPOCH: Final = 7
BURST: Final = 256 * 1024
"""Bytes of plaintext that are encrypted and written at once."""
_HIGH_WATER: Final = 2 * BURST
_PATIENCE: Final = 5.0
_PAUSE: Final = 0.01
_STREAM: Final = 6
"""Position of the stream in a frame of envelopes."""


class LinkEndedError(Exception):
    """The victim has ended the connection, or never took it."""


@dataclass(frozen=True)
class Who:
    """A key and the TLS context that presents it."""

    identity: Identity
    context: ssl.SSLContext

    @classmethod
    def new(cls, identity: Identity | None = None) -> Who:
        """A fresh key, as a stranger has it, or the one named."""
        identity = identity or Identity.generate()
        return cls(identity, honest(identity).context(is_server=False))


def hello(max_payload_size: int = 2**20, credit: int = 0) -> bytes:
    """A HELLO that grants `credit` messages of each stream."""
    return Hello(
        min_version=2,
        max_version=2,
        features=0,
        max_batch_bytes=frames.MAX_BATCH_BYTES,
        max_payload_size=max_payload_size,
        epochs=Epochs(EPOCH, EPOCH),
        known_epochs=Epochs(0, 0),
        marks=(0,) * STREAMS,
        credit=credits(credit, credit * 1024, credit, credit * 1024),
    ).encode()


def reset(sock: socket.socket) -> None:
    """Close with RST, so that no port of ours is kept for a minute."""
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


@dataclass
class Field:
    """What all links of one attack share: whom they attack, their keys, and the counts."""

    address: Address
    victim: Did
    crowd: Iterator[Who]
    bytes_sent: int = 0
    opened: int = 0
    """Links that came through TLS, or connections where the attack needs no TLS."""
    closed: int = 0
    """Those of them that the victim ended."""
    refused: int = 0
    """Attempts that did not come so far."""
    is_fed: asyncio.Event = field(default_factory=asyncio.Event)
    """A recipient has taken the messages that it waited for."""
    may_begin: asyncio.Event = field(default_factory=asyncio.Event)
    """What a recipient waits for then."""

    @classmethod
    def against(cls, address: Address, victim: Did, crowd: list[Who]) -> Field:
        """The keys are taken in turn."""
        return cls(address, victim, itertools.cycle(crowd))

    @contextlib.asynccontextmanager
    async def link(
        self, who: Who | None = None, *, words: bytes | None = None, listens: bool = False
    ) -> AsyncIterator[Link]:
        """A link through TLS that has sent `words`, by default a HELLO.

        The end of the link by the victim ends the block; it is counted.
        """
        link = Link(self, who or next(self.crowd), listens=listens)
        try:
            await link.open()
        except (OSError, LinkEndedError, TimeoutError):
            link.reset()
            self.refused += 1
            await asyncio.sleep(_PAUSE)
            raise LinkEndedError from None
        self.opened += 1
        try:
            await link.send(hello() if words is None else words)
            yield link
        finally:
            self.closed += link.is_ended
            link.reset()

    async def connect(self) -> socket.socket | None:
        """A bare TCP connection; `None` where there is none to be had now."""
        sock = socket.socket()
        sock.setblocking(False)
        try:
            async with asyncio.timeout(_PATIENCE):
                await asyncio.get_running_loop().sock_connect(sock, tuple(self.address))
        except (OSError, TimeoutError):
            self.refused += 1
            sock.close()
            await asyncio.sleep(_PAUSE)
            return None
        except BaseException:
            sock.close()
            raise
        self.opened += 1
        return sock


class Link(asyncio.Protocol):
    """One connection. What comes is thrown away, unless the link `listens` for credit."""

    def __init__(self, field: Field, who: Who, *, listens: bool = False) -> None:
        self.who = who
        self.send_window = [Credit(0, 0)] * STREAMS
        """By stream, what the victim takes in all, as far as it has said so."""
        self.is_ended = False
        self.client_random = b""
        """Of its ClientHello: what the key log knows it by."""
        self.leaves: list[bytes] = []
        """Of the messages that came."""
        self._pongs = 0
        self._field = field
        self._listens = listens
        self._sent = [Credit(0, 0)] * STREAMS
        self._decoder = LinkFrameDecoder()
        self._batches = IncomingBatches(1 << 16, 1 << 24)
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = who.context.wrap_bio(self._incoming, self._outgoing)
        self._is_through = False
        self._is_full = False
        self._changed = asyncio.Event()
        self._transport: asyncio.Transport | None = None

    async def open(self) -> None:
        """Connect and come through TLS."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(_PATIENCE):
            self._transport, _ = await loop.create_connection(lambda: self, *self._field.address)
            self._transport.set_write_buffer_limits(high=_HIGH_WATER)
            self._shake_hands()
            while not self._is_through:
                await self.change()

    def _shake_hands(self) -> None:
        try:
            self.tls.do_handshake()
            self._is_through = True
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError:
            self._end()
        self._flush()

    def _flush(self) -> None:
        if (data := self._outgoing.read()) and self._transport is not None:
            self.client_random = self.client_random or data[11:43]
            self._put(data)

    # -- what the loop calls -------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        if not self._is_through:
            self._incoming.write(data)
            self._shake_hands()
        elif self._listens:
            self._incoming.write(data)
            self._listen()
        self._changed.set()

    def _listen(self) -> None:
        try:
            while data := self.tls.read(1 << 14):
                for kind, body in self._decoder.receive_data(data):
                    frame = frames.decode(kind, body)
                    if isinstance(frame, Hello | CreditFrame):
                        self.send_window = list(frame.credit)
                    elif isinstance(frame, Part) and (batch := self._batches.add(frame, 0.0)):
                        self.leaves += leaves_of(batch.bodies)
                    self._pongs += isinstance(frame, Pong)
        except ssl.SSLWantReadError:
            return
        except ssl.SSLError:
            pass
        self._end()

    def pause_writing(self) -> None:
        self._is_full = True

    def resume_writing(self) -> None:
        self._is_full = False
        self._changed.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end()

    def _end(self) -> None:
        self.is_ended = True
        self._changed.set()

    # -- what an attack calls --------------------------------------------------------

    async def change(self) -> None:
        """Wait until something has come, or there is room to write.

        Raises:
            LinkEndedError: the victim has ended it.
        """
        self._changed.clear()
        if self.is_ended:
            raise LinkEndedError
        await self._changed.wait()
        if self.is_ended:
            raise LinkEndedError

    async def send(self, plain: bytes) -> None:
        """Encrypt and write; wait while the socket is full."""
        if plain:
            self.tls.write(plain)
            self._flush()
        await self.drain()

    async def write(self, records: bytes) -> None:
        """Write bytes that are records already."""
        self._put(records)
        await self.drain()

    def _put(self, data: bytes) -> None:
        assert self._transport is not None
        if self._transport.is_closing():  # uvloop raises there, asyncio says nothing
            self._end()
            return
        self._field.bytes_sent += len(data)
        self._transport.write(data)

    async def drain(self) -> None:
        """Wait while the socket is full; the other links have their turn in any case."""
        while self._is_full:
            await self.change()
        await asyncio.sleep(0)
        if self.is_ended:
            raise LinkEndedError

    async def ask(self) -> None:
        """Send a PING, and wait for its PONG."""
        due = self._pongs + 1
        await self.send(ping(due).encode())
        while self._pongs < due:
            await self.change()

    def stop_reading(self) -> None:
        """Leave what comes in the socket.

        Raises:
            LinkEndedError: the victim has ended it.
        """
        if self.is_ended or self._transport is None or self._transport.is_closing():
            raise LinkEndedError
        self._transport.pause_reading()

    async def send_batch(self, frame: bytes, messages: int, size: int) -> None:
        """Send a batch, as its frames, when there is credit for it in its stream."""
        stream = frame[_STREAM]
        self._sent[stream] = sent = self._sent[stream].plus(messages, size)
        while sent.exceeds(self.send_window[stream]):
            await self.change()
        await self.send(frame)

    async def ended(self, timeout: float = _PATIENCE) -> None:
        """Wait until the victim has ended it, or so long."""
        with contextlib.suppress(LinkEndedError, TimeoutError):
            async with asyncio.timeout(timeout):
                while True:
                    await self.change()

    def reset(self) -> None:
        """Close it with RST."""
        if self._transport is None or self._transport.is_closing():
            return
        sock: socket.socket | None = self._transport.get_extra_info("socket")
        if sock is not None:
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._transport.abort()
