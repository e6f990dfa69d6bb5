"""One accepted connection: its time to prove itself, and how it is refused."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, Protocol

from signedwire.clock import monotonic
from signedwire.transport.network import Receiver, Stream
from signedwire.transport.runtime import Runtime
from signedwire.transport.tls_channel import FULL_ALERT, TLS_FIRST_BYTE
from signedwire.types import Reason

__all__ = ["MADE_ROOM", "AcceptorPort", "ConnectionHandler", "InboundConnection"]

MADE_ROOM: Final = "made room for a newer connection"
_LOOK_AGAIN: Final = 0.05
"""Seconds after which a connection that is out of time is looked at again before its end."""
_LAST_MOMENT: Final = 1.0
"""Seconds in which a connection that lost its slot may still prove itself."""


class ConnectionHandler(Receiver, Protocol):
    """The reader of an accepted connection: `ProtocolDetector`, then that of its wire."""

    @property
    def is_working(self) -> bool:
        """Whether received bytes are not processed yet."""

    def discard(self) -> None:
        """Throw away received bytes: the connection was refused."""

    def turn_away(self, reason: str) -> bool:
        """Send the other side that the node is full, and close; `False`: nothing can be sent."""


class AcceptorPort(Protocol):
    """The part of a node that admits connections and knows their wires: `Acceptor`."""

    def admit(self, connection: InboundConnection) -> bool:
        """Admit a new connection; `False`: the node is not open."""

    def may_answer(self, connection: InboundConnection) -> bool:
        """Whether a refused connection may stay until its first byte comes."""

    def handler_of(
        self, connection: InboundConnection, first_byte: int
    ) -> ConnectionHandler | None:
        """Return a handler for the wire of a connection; `None`: no wire has this byte."""

    def prove(self, connection: InboundConnection) -> None:
        """Note that the other side has proven itself."""

    def touch(self, connection: InboundConnection) -> None:
        """Note that the connection brought bytes."""

    def note_ended(self, connection: InboundConnection) -> None:
        """Note that the connection is closed, but keeps its slot."""

    def forget(self, connection: InboundConnection) -> None:
        """Free the slot of the connection."""


class InboundConnection:
    """The admission of one accepted connection, until its end.

    Args:
        runtime: The surroundings of all parts of the node.
        acceptor: The acceptor of the connection, which is called at each change.
        stream: The connection.
        handler: Its first reader.
    """

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
        """Whether the other side has proven itself."""
        self.is_refused = False
        """Whether the connection is to be closed by this side."""
        timeout = runtime.config.handshake_timeout
        self._timer: asyncio.TimerHandle | None = None
        if timeout is not None:
            self._call_later(timeout, self._on_unproven, False)

    def prove(self) -> None:
        """Note the first acceptable envelope of the connection, or its HELLO."""
        self.is_proven = True
        self._cancel()
        self._acceptor.prove(self)

    def touch(self) -> None:
        """Note that the connection brought bytes."""
        self._acceptor.touch(self)

    def note_ended(self) -> None:
        """Note that the connection is closed, but keeps its slot: its messages are still held."""
        self._acceptor.note_ended(self)

    def hurry(self) -> None:
        """Give the connection one more second: a newer one of its host has taken its slot."""
        self._is_hurried = True
        now = asyncio.get_running_loop().time()
        if self._timer is None or self._timer.when() > now + _LAST_MOMENT:
            self._call_later(_LAST_MOMENT, self._on_unproven, False)

    def _on_unproven(self, was_seen: bool) -> None:
        """Refuse the connection, unless bytes that have arrived are not read yet.

        After a stall of the event loop, timers can be due before reads.
        """
        is_working = self.handler is not None and self.handler.is_working
        if not was_seen or is_working:
            self._call_later(_LOOK_AGAIN, self._on_unproven, True)
        elif self._is_hurried:
            self.refuse(Reason.CONNECTION_LIMIT, MADE_ROOM)
        else:
            self.refuse(Reason.TOO_SLOW, "it has not proven itself in time")

    def refuse(self, reason: Reason, fact: str) -> None:
        """Close the connection and count the reason, the first time that this is called."""
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

    def await_first_byte(self) -> None:
        """Stay open for a second: the first byte tells whether the other side gets an answer."""
        self._call_later(_LAST_MOMENT, self.close)

    def answer_full(self, first_byte: int) -> None:
        """Tell a v2 dialer, after the first byte of its connection, that the node is full."""
        self._cancel()
        if first_byte == TLS_FIRST_BYTE:
            self._stream.write(FULL_ALERT)
            self._stream.close()
        else:
            self._stream.abort()

    def leave(self) -> None:
        """Note that the connection has ended."""
        self._cancel()
        self.handler = None
        self._acceptor.forget(self)

    def close(self) -> None:
        """Close the connection without an answer."""
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
