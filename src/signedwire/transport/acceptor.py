"""The listener of a node, and the connections that it has accepted.

    listener ─→ ProtocolDetector ─→ Link or V1Receiver
                 └ InboundConnection, one for each: admitted, proven, or refused

A connection is unproven until an acceptable v1 envelope or a v2 HELLO has come over it. It must
prove itself within `handshake_timeout`. `Admission` decides which connections must go for others.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from signedwire.delivery.endpoint import Endpoint
from signedwire.errors import ClosedError, TransportError
from signedwire.transport.admission import Admission
from signedwire.transport.descriptors import ConnectionLimits, Shortage
from signedwire.transport.guarded_stream import guarded
from signedwire.transport.inbound import MADE_ROOM, ConnectionHandler, InboundConnection
from signedwire.transport.link import Link
from signedwire.transport.network import Listener, NeedsDescriptors
from signedwire.transport.protocol_detector import ProtocolDetector
from signedwire.transport.runtime import Runtime
from signedwire.transport.tls_channel import TLS_FIRST_BYTE
from signedwire.types import Reason, Target

__all__ = ["MAX_UNANSWERED", "Acceptor"]

MAX_UNANSWERED: Final = 16
"""Refused connections that may wait for their first byte. More are closed without an answer."""
_V1_FIRST_BYTE: Final = 0x00


class Acceptor:
    """The listener of a node, and the connections that it has accepted.

    Args:
        runtime: The surroundings of all parts of the node.
        endpoint: The sessions of all peers.
        new_v1: Makes the handler of a v1 connection; `None`: v1 is refused.
    """

    def __init__(
        self,
        runtime: Runtime,
        endpoint: Endpoint,
        new_v1: Callable[[InboundConnection], ConnectionHandler] | None,
    ) -> None:
        self._runtime = runtime
        self._endpoint = endpoint
        self._new_v1 = new_v1
        self._admission: Admission[InboundConnection] = Admission(runtime.config)
        self._connections: set[InboundConnection] = set()
        self._unanswered: OrderedDict[InboundConnection, None] = OrderedDict()
        """Refused connections whose first byte has not come. It tells whether to answer them."""
        self._listener: Listener | None = None
        self._address: Target | None = None
        self._has_stopped = False

    # -- life ---------------------------------------------------------------------------------

    async def start(self) -> None:
        """Open the listener, if the configuration has one.

        Raises:
            ListenError: The node cannot listen on the address.
            ClosedError: `stop_listening()` was called meanwhile.
        """
        runtime, network = self._runtime, self._runtime.network
        if runtime.config.listen is None:
            return
        self._listener = await network.listen(
            runtime.config.listen,
            lambda: guarded(network, ProtocolDetector(runtime, self), runtime.log),
        )
        if self._has_stopped:  # the network backend did not end when it was cancelled
            self.stop_listening()
            raise ClosedError("this node was closed while it started")
        self._address = self._listener.address
        if isinstance(self._listener, NeedsDescriptors):
            self._listener.when_short(Shortage(runtime.log, self._evict_unproven).make_room)

    def stop_listening(self) -> None:
        """Stop listening. A listener that raises is logged."""
        self._has_stopped = True
        if self._listener is not None:
            self._runtime.log.attempt("closing the listener", self._listener.close)

    def shut_down(self) -> None:
        """Stop listening after the event loop was closed."""
        if self._listener is not None:
            self._runtime.log.attempt("shutting the listener down", self._listener.shut_down)

    def end(self) -> None:
        """Close all connections."""
        for connection in (*self._connections, *self._unanswered):
            self._runtime.log.attempt("closing a connection", connection.close)

    @property
    def address(self) -> Target | None:
        """The address of the listener, with the real port; `None`: there is no listener."""
        return self._address

    def listening_at(self) -> Target:
        """Return the address of the listener.

        Raises:
            ClosedError: The node is not open.
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
        """Set how many connections are admitted. For use before the start."""
        self._admission.limit(limits.inbound, limits.unproven)

    def handler_of(
        self, connection: InboundConnection, first_byte: int
    ) -> ConnectionHandler | None:
        """See `AcceptorPort`."""
        if first_byte == TLS_FIRST_BYTE and self._runtime.speaks_v2:
            return Link(self._runtime, self._endpoint, inbound=connection)
        if first_byte == _V1_FIRST_BYTE and self._new_v1 is not None:
            return self._new_v1(connection)
        return None

    def admit(self, connection: InboundConnection) -> bool:
        """See `AcceptorPort`. Another connection may have to go for the new one."""
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
        """Close one unproven connection, because no descriptor is left; whether there was one."""
        connection = next(iter(self._unanswered), None) or self._admission.evict_unproven()
        if connection is None:
            return False
        connection.refuse(Reason.CONNECTION_LIMIT, "no descriptor is left")
        connection.close()
        return True

    def may_answer(self, connection: InboundConnection) -> bool:
        """See `AcceptorPort`: over v2, the other side is sent that the node is full."""
        if not (self._runtime.is_open and self._runtime.speaks_v2):
            return False
        if len(self._unanswered) >= MAX_UNANSWERED:
            # It is forgotten when its stream has ended, in the next turn of the loop. So all
            # connections that are accepted in one turn may stay, beyond the limit.
            next(iter(self._unanswered)).close()
        self._connections.discard(connection)
        self._unanswered[connection] = None
        return True

    def prove(self, connection: InboundConnection) -> None:
        """See `AcceptorPort`. Another connection may have to go."""
        evicted = self._admission.prove(connection)
        if evicted is not None:
            evicted.refuse(Reason.CONNECTION_LIMIT, MADE_ROOM)

    def touch(self, connection: InboundConnection) -> None:
        """See `AcceptorPort`."""
        self._admission.touch(connection)

    def note_ended(self, connection: InboundConnection) -> None:
        """See `AcceptorPort`."""
        self._connections.discard(connection)

    def forget(self, connection: InboundConnection) -> None:
        """See `AcceptorPort`."""
        self._admission.leave(connection)
        self._connections.discard(connection)
        self._unanswered.pop(connection, None)
