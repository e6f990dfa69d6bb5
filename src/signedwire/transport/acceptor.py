"""The listener of a node, and which of its connections may stay: see `inbound` for one of them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from signedwire.delivery.endpoint import Endpoint
from signedwire.errors import TransportError
from signedwire.transport.admission import Admission
from signedwire.transport.descriptors import ConnectionLimits, Shortage
from signedwire.transport.inbound import (
    MADE_ROOM,
    InboundConnection,
    ProtocolDetector,
    StreamHandler,
)
from signedwire.transport.link import Link
from signedwire.transport.network import Listener, NeedsDescriptors
from signedwire.transport.runtime import Runtime
from signedwire.transport.tls_channel import TLS_FIRST_BYTE
from signedwire.types import Reason, Target

__all__ = ["MAX_LINGERING", "Acceptor"]

MAX_LINGERING: Final = 16
"""Refused connections that may wait for their answer at once; more are closed unanswered."""
_V1_FIRST_BYTE: Final = 0x00


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
        new_v1: Callable[[InboundConnection], StreamHandler] | None,
    ) -> None:
        self._runtime = runtime
        self._endpoint = endpoint
        self._new_v1 = new_v1
        self._admission: Admission[InboundConnection] = Admission(runtime.config)
        self._connections: set[InboundConnection] = set()
        self._lingering: OrderedDict[InboundConnection, None] = OrderedDict()
        """Connections that were refused before their first byte, which shows whether to answer."""
        self._listener: Listener | None = None

    # -- life ---------------------------------------------------------------------------------

    async def start(self) -> None:
        """Open the listener, if the configuration has one.

        Raises:
            ListenError: The address cannot be used.
        """
        runtime = self._runtime
        if runtime.config.listen is None:
            return
        self._listener = await runtime.network.listen(
            runtime.config.listen, lambda: ProtocolDetector(runtime, self)
        )
        if isinstance(self._listener, NeedsDescriptors):
            self._listener.when_short(Shortage(runtime.log, self._evict_unproven).make_room)

    def stop_listening(self) -> None:
        """Accept no more."""
        if self._listener is not None:
            self._listener.close()

    def shut_down(self) -> None:
        """Accept no more, after the event loop has closed."""
        if self._listener is not None:
            self._listener.shut_down()

    def end(self) -> None:
        """Close every connection that is left."""
        for connection in (*self._connections, *self._lingering):
            connection.close()

    @property
    def address(self) -> Target | None:
        """The address of the listener, with the real port; `None` without a listener."""
        return None if self._listener is None else self._listener.address

    def listening_at(self) -> Target:
        """Return the address of the listener.

        Raises:
            ClosedError: The node was not started.
            TransportError: The configuration has no listener.
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
        """Number of accepted connections."""
        return len(self._connections)

    @property
    def limit(self) -> int:
        """Maximum number of accepted connections that have proven themselves."""
        return self._admission.max_proven

    def set_limits(self, limits: ConnectionLimits) -> None:
        """Set the limits. Call this before `start()`."""
        self._admission.limit(limits.inbound, limits.unproven)

    def handler_of(self, connection: InboundConnection, first_byte: int) -> StreamHandler | None:
        """Return a handler for the wire of a connection; `None`: no wire begins with this byte."""
        if first_byte == TLS_FIRST_BYTE and self._runtime.speaks_v2:
            return Link(self._runtime, self._endpoint, inbound=connection)
        if first_byte == _V1_FIRST_BYTE and self._new_v1 is not None:
            return self._new_v1(connection)
        return None

    def admit(self, connection: InboundConnection) -> bool:
        """Return whether an accepted connection may stay."""
        if not self._runtime.is_open:
            return False
        hurried, closed = self._admission.admit(connection, connection.group)
        if hurried is not None:
            hurried.hurry()
        if closed is not None:
            closed.refuse(Reason.CONNECTION_LIMIT, MADE_ROOM)
        self._connections.add(connection)
        self._runtime.counters.connections_accepted += 1
        return True

    def _evict_unproven(self) -> bool:
        """Close one connection because no descriptor is left; `False`: there is none to close."""
        connection = next(iter(self._lingering), None) or self._admission.evict_unproven()
        if connection is None:
            return False
        connection.refuse(Reason.CONNECTION_LIMIT, "no descriptor is left")
        connection.close()
        return True

    def may_linger(self, connection: InboundConnection) -> bool:
        """Return whether a refused connection may stay until its first byte shows its wire."""
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
        """Note the first acceptable envelope, or the HELLO, of a connection."""
        evicted = self._admission.prove(connection)
        if evicted is not None:
            evicted.refuse(Reason.CONNECTION_LIMIT, MADE_ROOM)

    def touch(self, connection: InboundConnection) -> None:
        """Note that a connection was used."""
        self._admission.touch(connection)

    def note_ended(self, connection: InboundConnection) -> None:
        """Note that a connection has ended. It keeps its slot while its messages are held."""
        self._connections.discard(connection)

    def forget(self, connection: InboundConnection) -> None:
        """Free the slot of a connection that has ended."""
        self._admission.leave(connection)
        self._connections.discard(connection)
        self._lingering.pop(connection, None)
