"""Accepted connections, from the listener to whoever speaks their wire.

Every accepted connection waits for its first byte:

    0x16  a TLS ClientHello   → a v2 `Link`
    0x00  a v1 length         → a `V1Receiver`, where the configuration takes v1
    else                      → closed and counted

Nothing is ever answered in plaintext, but for the TLS alert that tells a v2 dialer
that we have no room. A connection is unproven until an acceptable v1 envelope or a v2 HELLO,
and must prove itself within `handshake_timeout`.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from typing import Final, Protocol

from signedwire.clock import monotonic
from signedwire.delivery.endpoint import Endpoint
from signedwire.errors import TransportError
from signedwire.transport.admission import Admission
from signedwire.transport.descriptors import ConnectionLimits, Shortage
from signedwire.transport.link import Link
from signedwire.transport.network import Listener, NeedsDescriptors, Receiver, Stream
from signedwire.transport.runtime import Runtime
from signedwire.transport.tls import FULL_ALERT, TLS_FIRST_BYTE
from signedwire.types import Reason, Target

__all__ = ["MAX_LINGERING", "Acceptor", "ConnectionHandler", "InboundConnection"]

MAX_LINGERING: Final = 16
"""Refused connections that may wait for their answer at once; more are closed unanswered."""
_MADE_ROOM: Final = "made room for a newer connection"
_V1_FIRST_BYTE: Final = 0x00
_LOOK_AGAIN: Final = 0.05
_LAST_MOMENT: Final = 1.0
"""Seconds in which a connection that lost its place may still prove itself."""


class ConnectionHandler(Protocol):
    """A reader of an accepted connection."""

    @property
    def is_working(self) -> bool:
        """Whether something that arrived has not been judged yet."""

    def discard(self) -> None:
        """Forget what has not been looked at: the connection was refused."""

    def turn_away(self, reason: str) -> bool:
        """Tell the other side that there is no room, and close; `False`: it cannot be told."""


class _Handler(ConnectionHandler, Receiver, Protocol):
    """A handler that a stream can report to."""


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
        acceptor: Acceptor,
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
        """When it was accepted, by the monotonic clock."""
        self.is_proven = False
        self.is_refused = False
        timeout = runtime.config.handshake_timeout
        self._timer: asyncio.TimerHandle | None = None
        if timeout is not None:
            self._call_later(timeout, self._on_unproven, False)

    def prove(self) -> None:
        """The connection brought its first acceptable envelope, or its HELLO."""
        self.is_proven = True
        self._cancel()
        self._acceptor.prove(self)

    def touch(self) -> None:
        """The connection was used just now."""
        self._acceptor.touch(self)

    def note_ended(self) -> None:
        """The connection is gone; it keeps its place, because what it brought is still held."""
        self._acceptor.note_ended(self)

    def hurry(self) -> None:
        """A newer connection of its host has its place: it must prove itself in a moment."""
        self._is_hurried = True
        now = asyncio.get_running_loop().time()
        if self._timer is None or self._timer.when() > now + _LAST_MOMENT:
            self._call_later(_LAST_MOMENT, self._on_unproven, False)

    def _on_unproven(self, was_seen: bool) -> None:
        """Refuse the connection, unless bytes that have arrived are not read yet.

        After a stall of our own loop, its timers can be due before its reads.
        """
        is_working = self.handler is not None and self.handler.is_working
        if not was_seen or is_working:
            self._call_later(_LOOK_AGAIN, self._on_unproven, True)
        elif self._is_hurried:
            self.refuse(Reason.CONNECTION_LIMIT, _MADE_ROOM)
        else:
            self.refuse(Reason.TOO_SLOW, "it has not proven itself in time")

    def refuse(self, reason: Reason, fact: str) -> None:
        """Close the connection, and count why. Once."""
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
        """Stay a moment: the first byte, which is on its way, tells whether to answer."""
        self._call_later(_LAST_MOMENT, self.close)

    def answer_full(self, first_byte: int) -> None:
        """The connection was refused for want of room, and now its first byte has come."""
        self._cancel()
        if first_byte == TLS_FIRST_BYTE:
            self._stream.write(FULL_ALERT)
            self._stream.close()
        else:
            self._stream.abort()

    def leave(self) -> None:
        """The connection has ended."""
        self._cancel()
        self.handler = None
        self._acceptor.forget(self)

    def close(self) -> None:
        """The node closes."""
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


class _ProtocolDetector:
    """Looks at the first byte, then hands the connection on."""

    is_working = False

    def __init__(self, runtime: Runtime, acceptor: Acceptor) -> None:
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
        """See `ConnectionHandler`: nothing has come."""

    def turn_away(self, reason: str) -> bool:
        """Wait for the first byte, which tells whether to answer, if there is room to wait."""
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
        """See `Receiver`: nothing waits for that here."""

    def lost(self, error: Exception | None) -> None:
        """See `Receiver`."""
        assert self._connection is not None
        self._connection.leave()


class Acceptor:
    """The listener of a node, and the connections that it has accepted.

    Args:
        runtime: What every part of the node works with.
        endpoint: The sessions of all peers.
        new_v1: Makes the handler of a v1 connection; `None`: v1 is not taken.
    """

    def __init__(
        self,
        runtime: Runtime,
        endpoint: Endpoint,
        new_v1: Callable[[InboundConnection], _Handler] | None,
    ) -> None:
        self._runtime = runtime
        self._endpoint = endpoint
        self._new_v1 = new_v1
        self._admission: Admission[InboundConnection] = Admission(runtime.config)
        self._connections: set[InboundConnection] = set()
        self._lingering: OrderedDict[InboundConnection, None] = OrderedDict()
        """Refused before their first byte came, which tells whether to answer them."""
        self._listener: Listener | None = None

    # -- life ---------------------------------------------------------------------------------

    async def start(self) -> None:
        """Open the listener, if the configuration has one.

        Raises:
            ListenError: its address cannot be had.
        """
        runtime = self._runtime
        if runtime.config.listen is None:
            return
        self._listener = await runtime.network.listen(
            runtime.config.listen, lambda: _ProtocolDetector(runtime, self)
        )
        if isinstance(self._listener, NeedsDescriptors):
            self._listener.when_short(Shortage(runtime.log, self._evict_unproven).make_room)

    def stop_listening(self) -> None:
        """Accept no more."""
        if self._listener is not None:
            self._listener.close()

    def shut_down(self) -> None:
        """Accept no more, where there is no loop any more."""
        if self._listener is not None:
            self._listener.shut_down()

    def end(self) -> None:
        """Close every connection that is left."""
        for connection in (*self._connections, *self._lingering):
            connection.close()

    @property
    def address(self) -> Target | None:
        """Where we listen, with the real port; `None` without a listener."""
        return None if self._listener is None else self._listener.address

    def listening_at(self) -> Target:
        """Where we listen.

        Raises:
            ClosedError: not started.
            TransportError: the configuration has no listener.
        """
        address = self.address
        if address is not None:
            return address
        if self._runtime.config.listen is not None:
            self._runtime.home.check_open()
        raise TransportError(
            "there is no address: the configuration has listen=None, so nothing listens",
            "Ask `is_listening` first, or set listen, for example to 127.0.0.1:0",
        )

    # -- connections ----------------------------------------------------------------------------

    @property
    def connections(self) -> int:
        """How many there are now."""
        return len(self._connections)

    @property
    def limit(self) -> int:
        """How many accepted connections that have proven themselves there may be."""
        return self._admission.max_proven

    def set_limits(self, limits: ConnectionLimits) -> None:
        """Admit no more than these. For use before the start."""
        self._admission.limit(limits.inbound, limits.unproven)

    def handler_of(self, connection: InboundConnection, first_byte: int) -> _Handler | None:
        """A handler for the wire of a connection; `None`: no wire begins with this byte."""
        if first_byte == TLS_FIRST_BYTE and self._runtime.speaks_v2:
            return Link(self._runtime, self._endpoint, inbound=connection)
        if first_byte == _V1_FIRST_BYTE and self._new_v1 is not None:
            return self._new_v1(connection)
        return None

    def admit(self, connection: InboundConnection) -> bool:
        """Whether an accepted connection may stay."""
        if not self._runtime.is_open:
            return False
        hurried, closed = self._admission.admit(connection, connection.group)
        if hurried is not None:
            hurried.hurry()
        if closed is not None:
            closed.refuse(Reason.CONNECTION_LIMIT, _MADE_ROOM)
        self._connections.add(connection)
        self._runtime.counters.connections_accepted += 1
        return True

    def _evict_unproven(self) -> bool:
        """No descriptor is left: close what is to go first, if there is anything."""
        connection = next(iter(self._lingering), None) or self._admission.evict_unproven()
        if connection is None:
            return False
        connection.refuse(Reason.CONNECTION_LIMIT, "no descriptor is left")
        connection.close()
        return True

    def may_linger(self, connection: InboundConnection) -> bool:
        """Whether a refused connection may stay a moment, to be told why if it speaks v2."""
        if not (self._runtime.is_open and self._runtime.speaks_v2):
            return False
        if len(self._lingering) >= MAX_LINGERING:
            # It leaves when its connection is closed, in the next turn: what one turn accepts
            # may stay beyond the limit, and is told that there is no room.
            next(iter(self._lingering)).close()
        self._connections.discard(connection)
        self._lingering[connection] = None
        return True

    def prove(self, connection: InboundConnection) -> None:
        """The connection brought its first acceptable envelope, or its HELLO."""
        evicted = self._admission.prove(connection)
        if evicted is not None:
            evicted.refuse(Reason.CONNECTION_LIMIT, _MADE_ROOM)

    def touch(self, connection: InboundConnection) -> None:
        """The connection brought something."""
        self._admission.touch(connection)

    def note_ended(self, connection: InboundConnection) -> None:
        """The connection is gone; it keeps its place, because what it brought is still held."""
        self._connections.discard(connection)

    def forget(self, connection: InboundConnection) -> None:
        """The connection is gone."""
        self._admission.leave(connection)
        self._connections.discard(connection)
        self._lingering.pop(connection, None)
