"""The first byte of an accepted connection, which tells its wire.

    0x16  a TLS ClientHello   → a v2 `Link`
    0x00  a v1 length         → a `V1Receiver`, if the configuration allows v1
    else                      → closed and counted

Nothing is ever answered in plaintext, except for the TLS alert which tells a v2 dialer that the
node is full.
"""

from __future__ import annotations

from signedwire.transport.inbound import AcceptorPort, InboundConnection
from signedwire.transport.network import Stream
from signedwire.transport.runtime import Runtime
from signedwire.types import Reason

__all__ = ["ProtocolDetector"]


class ProtocolDetector:
    """Reads the first byte of a connection, then hands it to the handler of its wire.

    Args:
        runtime: The surroundings of all parts of the node.
        acceptor: Decides about the connection.
    """

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
            connection.close()  # not counted: the fault is not of the other side

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
        """See `ConnectionHandler`: no byte has come."""

    def turn_away(self, reason: str) -> bool:
        """Wait for the first byte, which tells whether to answer, if there is room to wait."""
        connection = self._connection
        if connection is None or not self._acceptor.may_answer(connection):
            return False
        connection.await_first_byte()
        return True

    def ended(self) -> None:
        """See `Receiver`."""
        assert self._stream is not None
        self._stream.close()

    def writable(self) -> None:
        """See `Receiver`: nothing waits to be written."""

    def lost(self, error: Exception | None) -> None:
        """See `Receiver`."""
        assert self._connection is not None
        self._connection.leave()
