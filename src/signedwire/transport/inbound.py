"""One accepted connection: its time to prove itself, its refusal, and its wire.

Every accepted connection waits for its first byte:

    0x16  a TLS ClientHello   → a v2 `Link`
    0x00  a v1 length         → a `V1Receiver`, if the configuration accepts v1
    else                      → closed and counted

No answer is ever in plaintext, except the TLS alert to a v2 dialer when the node is full. A
connection is unproven until it has sent an acceptable v1 envelope or a v2 HELLO, within
`handshake_timeout`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, Protocol

from signedwire.clock import monotonic
from signedwire.transport.network import Receiver, Stream
from signedwire.transport.runtime import Runtime
from signedwire.transport.tls_channel import FULL_ALERT, TLS_FIRST_BYTE
from signedwire.types import Reason

__all__ = [
    "MADE_ROOM",
    "AcceptorPort",
    "ConnectionHandler",
    "InboundConnection",
    "ProtocolDetector",
    "StreamHandler",
]

MADE_ROOM: Final = "made room for a newer connection"
"""Why a connection was refused whose slot a newer one has."""
_LOOK_AGAIN: Final = 0.05
"""Seconds until a connection whose time is over is looked at again."""
_LAST_MOMENT: Final = 1.0
"""Seconds in which a connection that lost its slot may still prove itself."""


class ConnectionHandler(Protocol):
    """A reader of an accepted connection."""

    @property
    def is_working(self) -> bool:
        """Whether received bytes wait to be checked."""

    def discard(self) -> None:
        """Forget received bytes that were not checked, because the connection was refused."""

    def turn_away(self, reason: str) -> bool:
        """Close with an answer that the node is full; `False`: the wire has no such answer."""


class StreamHandler(ConnectionHandler, Receiver, Protocol):
    """A handler that a stream can report to."""


class AcceptorPort(Protocol):
    """The acceptor, as its connections see it."""

    def admit(self, connection: InboundConnection) -> bool:
        """Return whether an accepted connection may stay."""

    def may_linger(self, connection: InboundConnection) -> bool:
        """Return whether a refused connection may stay until its first byte has come."""

    def handler_of(self, connection: InboundConnection, first_byte: int) -> StreamHandler | None:
        """Return a handler for the wire of a connection; `None`: no wire begins with this byte."""

    def prove(self, connection: InboundConnection) -> None:
        """Note the first acceptable envelope, or the HELLO, of a connection."""

    def touch(self, connection: InboundConnection) -> None:
        """Note that a connection was used."""

    def note_ended(self, connection: InboundConnection) -> None:
        """Note that a connection has ended. It keeps its slot while its messages are held."""

    def forget(self, connection: InboundConnection) -> None:
        """Free the slot of a connection that has ended."""


class InboundConnection:
    """The admission of one accepted connection, until its end."""

    __slots__ = (
        "_acceptor",
        "_is_hurried",
        "_runtime",
        "_stream",
        "_timer",
        "group",
        "handler",
        "host",
        "is_proven",
        "is_refused",
        "since",
    )

    def __init__(
        self,
        runtime: Runtime,
        acceptor: AcceptorPort,
        stream: Stream,
        handler: ConnectionHandler,
    ) -> None:
        self._runtime = runtime
        self._acceptor = acceptor
        self._stream = stream
        self.handler: ConnectionHandler | None = handler
        """The reader of the connection; `None`: the connection has ended."""
        self.host, self.group = stream.remote.host, stream.remote.group
        self._is_hurried = False
        self.since = monotonic()
        """When the connection was accepted, by the monotonic clock."""
        self.is_proven = False
        self.is_refused = False
        timeout = runtime.config.handshake_timeout
        self._timer: asyncio.TimerHandle | None = None
        if timeout is not None:
            self._call_later(timeout, self._on_unproven, False)

    def prove(self) -> None:
        """Note the first acceptable envelope, or the HELLO, of the connection."""
        self.is_proven = True
        self._cancel()
        self._acceptor.prove(self)

    def touch(self) -> None:
        """Note that the connection was used."""
        self._acceptor.touch(self)

    def note_ended(self) -> None:
        """Note that the connection has ended. It keeps its slot while its messages are held."""
        self._acceptor.note_ended(self)

    def hurry(self) -> None:
        """Give the connection one second to prove itself: a newer one of its host has its slot."""
        self._is_hurried = True
        now = asyncio.get_running_loop().time()
        if self._timer is None or self._timer.when() > now + _LAST_MOMENT:
            self._call_later(_LAST_MOMENT, self._on_unproven, False)

    def _on_unproven(self, was_seen: bool) -> None:
        """Refuse the connection, unless bytes that have arrived are not read yet.

        After a stall of the event loop, its timers can be due before its reads.
        """
        is_working = self.handler is not None and self.handler.is_working
        if not was_seen or is_working:
            self._call_later(_LOOK_AGAIN, self._on_unproven, True)
        elif self._is_hurried:
            self.refuse(Reason.CONNECTION_LIMIT, MADE_ROOM)
        else:
            self.refuse(Reason.TOO_SLOW, "it has not proven itself in time")

    def refuse(self, reason: Reason, fact: str) -> None:
        """Close the connection and count the reason. A second call does nothing."""
        if self.is_refused:
            return
        self.is_refused = True
        self._cancel()
        if self.handler is not None:
            self.handler.discard()
        self._runtime.drop(reason, None, self.host)
        self._runtime.drops.log_closed(self.host, reason, fact)
        is_full = reason is Reason.CONNECTION_LIMIT
        if not (is_full and self.handler is not None and self.handler.turn_away(fact)):
            self._stream.abort()

    def linger(self) -> None:
        """Wait up to one second for the first byte, which shows whether to answer."""
        self._call_later(_LAST_MOMENT, self.close)

    def answer_full(self, first_byte: int) -> None:
        """Answer a refused connection by its first byte: with an alert if it is TLS."""
        self._cancel()
        if first_byte == TLS_FIRST_BYTE:
            self._stream.write(FULL_ALERT)
            self._stream.close()
        else:
            self._stream.abort()

    def leave(self) -> None:
        """Free the slot: the connection has ended."""
        self._cancel()
        self.handler = None
        self._acceptor.forget(self)

    def close(self) -> None:
        """Close at once, without an answer."""
        self.is_refused = True
        self._cancel()
        self._stream.abort()

    def _call_later(self, seconds: float, callback: Callable[..., None], *args: object) -> None:
        self._cancel()
        self._timer = asyncio.get_running_loop().call_later(seconds, callback, *args)

    def _cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class ProtocolDetector:
    """Reads the first byte of a connection, then passes it to the handler of its wire."""

    is_working = False

    def __init__(self, runtime: Runtime, acceptor: AcceptorPort) -> None:
        self._runtime = runtime
        self._acceptor = acceptor
        self._stream: Stream | None = None
        self._connection: InboundConnection | None = None

    def connected(self, stream: Stream) -> None:
        """See `Receiver`."""
        self._stream = stream
        connection = InboundConnection(self._runtime, self._acceptor, stream, self)
        self._connection = connection
        if not self._acceptor.admit(connection):
            connection.refuse(Reason.CONNECTION_LIMIT, "too many connections")

    def received(self, data: bytes) -> None:
        """See `Receiver`."""
        connection, stream = self._connection, self._stream
        assert connection is not None
        assert stream is not None
        if connection.is_refused:
            connection.answer_full(data[0])
            return
        handler = self._acceptor.handler_of(connection, data[0])
        if handler is None:
            connection.refuse(Reason.WRONG_PROTOCOL, f"the first byte is {data[0]:#04x}")
            return
        connection.handler = handler
        stream.set_receiver(handler)
        handler.connected(stream)
        handler.received(data)

    def discard(self) -> None:
        """See `ConnectionHandler`: nothing was received."""

    def turn_away(self, reason: str) -> bool:
        """Wait for the first byte, which shows whether to answer, if there is a slot for that."""
        connection = self._connection
        if connection is None or not self._acceptor.may_linger(connection):
            return False
        connection.linger()
        return True

    def ended(self) -> None:
        """See `Receiver`."""
        assert self._stream is not None
        self._stream.close()

    def writable(self) -> None:
        """See `Receiver`: nothing is written here."""

    def lost(self, error: Exception | None) -> None:
        """See `Receiver`."""
        assert self._connection is not None
        self._connection.leave()
