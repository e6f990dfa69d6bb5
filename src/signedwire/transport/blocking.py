"""`TcpTransport` and `MemoryTransport`: signed envelopes in and out, for threads.

This is the level below `Node`: its user makes the envelopes. A transport has no identity, so it
accepts envelopes to every DID, unless it is given one.
"""

from __future__ import annotations

from types import TracebackType
from typing import Self

from signedwire.arguments import as_seconds
from signedwire.config import TransportConfig
from signedwire.delivery.message import OutgoingMessage, SendOptions
from signedwire.delivery.receipt import Receipt
from signedwire.errors import ClosedError, ConfigError, WrongContextError
from signedwire.home import Bound
from signedwire.portal import Portal
from signedwire.routing import RoutingTable
from signedwire.stats import PeerStatus, PoolStats, TransportStats
from signedwire.transport.core import NodeCore
from signedwire.transport.memory import MemoryNetwork
from signedwire.transport.network import Network
from signedwire.transport.tcp import TcpNetwork
from signedwire.types import Did, Target
from signedwire.wire.envelope import ENVELOPE_OVERHEAD, SignedEnvelope

__all__ = ["BlockingTransport", "MemoryTransport", "TcpTransport"]


class BlockingTransport(Bound):
    """The methods of both transports. Any thread may call them. A new transport listens.

    Use it as a context manager, or call `close()`.

    Args:
        config: The options.
        routing: The addresses of peers.
        network: The backend that carries the bytes.
        did: The DID of this transport: envelopes to others are dropped and counted. `None`
            accepts all.

    Raises:
        ListenError: The address to listen on cannot be used.
    """

    kind = "transport"
    """The kind of transport, as text for people."""

    def __init__(
        self, config: TransportConfig, routing: RoutingTable, network: Network, did: Did | None
    ) -> None:
        for name, value, kinds in (
            ("config", config, TransportConfig),
            ("routing", routing, RoutingTable),
            ("did", did, (Did, type(None))),
        ):
            if not isinstance(value, kinds):
                raise TypeError(f"{name} is {value!r:.60}, of type {type(value).__name__}")
        if config.store is not None:
            raise ConfigError(
                f"store={str(config.store)!r} is given to a {type(self).__name__}, which keeps "
                "messages in memory alone",
                "Use a Node, or leave store away",
            )
        self._core = NodeCore(config, routing, network, did)
        self._portal = Portal(f"signedwire-{self.kind.replace(' ', '-')}")
        try:
            self._portal.call(self._core.start)
        except BaseException:
            self._portal.close()
            raise

    def send(self, envelope: SignedEnvelope) -> Receipt:
        """Queue an envelope to its recipient and return at once.

        `receipt.state` shows what has become of the envelope; `receipt.result()` waits.

        Raises:
            BackpressureError: The queue to the recipient is full.
            UnknownPeerError: There is no route to the recipient and no fallback.
            NotAllowedError, PayloadTooLargeError: The envelope may not be sent.
            ClosedError: The transport is closed.
        """
        if not isinstance(envelope, SignedEnvelope):
            raise TypeError(
                f"an envelope is a SignedEnvelope, not {type(envelope).__name__}: "
                "SignedEnvelope.sign(…); a Node sends bytes"
            )
        terms = SendOptions(envelope.recipient, envelope.priority)
        message = OutgoingMessage(terms, envelope.sequence_number, envelope=envelope)
        self._core.endpoint.submitter.submit(message, len(envelope.encode()) - ENVELOPE_OVERHEAD)
        return message

    def receive(self, timeout: float | None = None) -> SignedEnvelope:
        """Wait for the next envelope that passed every check. Any thread; Ctrl-C loses none.

        Args:
            timeout: Seconds, 0 or more; 0 takes what is there. `None`, the default, sets
                no limit.

        Raises:
            TimeoutError: `timeout` seconds passed, and no envelope came.
            ValueError, TypeError: `timeout` is no number of seconds.
            ClosedError: the transport is closed and nothing is left.
        """
        return self._core.reader.wait(as_seconds(timeout)).envelope

    def receive_nowait(self) -> SignedEnvelope | None:
        """Return the next envelope that has passed every check; `None`: none waits. Any thread.

        Raises:
            ClosedError: the transport is closed and nothing is left.
        """
        message = self._core.reader.receive(0)
        return None if message is None else message.envelope

    def close(self) -> None:
        """Wait up to `close_timeout` until queued envelopes are written, then end everything."""
        try:
            self._portal.call(self._core.close)
        except WrongContextError:
            raise  # the transport goes on in the parent of this forked process
        except ClosedError:
            pass  # closed before
        finally:
            self._portal.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if not self._core.runtime.home.is_forked:  # a forked child leaves the block, too
            self.close()

    @property
    def address(self) -> Target:
        """The address of the listener, with the real port. Any thread; also after the end.

        Raises:
            TransportError: The transport does not listen (`listen=None`): see `is_listening`.
        """
        return self._core.acceptor.listening_at()

    @property
    def is_listening(self) -> bool:
        """Whether the transport accepts connections now, at `address`. Any thread."""
        return self._core.runtime.is_open and self._core.acceptor.address is not None

    def stats(self) -> TransportStats:
        """Return the present counters."""
        return self._core.stats()

    def pool_stats(self) -> PoolStats:
        """Return the present outbound connections."""
        return self._core.pool_stats()

    def peers(self) -> dict[Did, PeerStatus]:
        """Return the status of every peer to which something was sent."""
        return self._core.endpoint.status()

    def __repr__(self) -> str:
        address = self._core.acceptor.address
        state = f"on {address}" if address else "not listening"
        state = state if self._core.runtime.is_open else "closed"
        return f"<{type(self).__name__} {state}>"


class TcpTransport(BlockingTransport, instead="make another there"):
    """Signed envelopes over TCP."""

    kind = "tcp transport"

    def __init__(
        self, config: TransportConfig, routing: RoutingTable, *, did: Did | None = None
    ) -> None:
        super().__init__(config, routing, TcpNetwork(), did)


class MemoryTransport(BlockingTransport, instead="make another there"):
    """Signed envelopes over a `MemoryNetwork`, for tests with faults and without sockets."""

    kind = "memory transport"

    def __init__(
        self,
        config: TransportConfig,
        routing: RoutingTable,
        network: MemoryNetwork,
        *,
        did: Did | None = None,
    ) -> None:
        super().__init__(config, routing, network, did)
