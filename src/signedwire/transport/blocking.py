"""`TcpTransport` and `MemoryTransport`: signed envelopes in and out, for threads.

The level below `Node`: the application makes the envelopes. A transport has no identity, so it
accepts envelopes for all DIDs, unless it is given one.
"""

from __future__ import annotations

from types import TracebackType
from typing import Self

from signedwire.arguments import as_seconds
from signedwire.config import TransportConfig
from signedwire.delivery.outgoing_message import OutgoingMessage
from signedwire.delivery.receipt import Receipt
from signedwire.delivery.send_options import SendOptions
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
    """The common part of the two transports. Any thread may use it. It listens from the start.

    Use it as a context manager, or call `close()`.

    Args:
        did: The DID that the transport serves. Envelopes for others are dropped and counted.
            `None`: all envelopes are accepted.

    Raises:
        ListenError: The transport cannot listen on the address.
    """

    kind = "transport"
    """The word for the transport in messages."""

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

        The receipt follows it: `receipt.state` at any time, `receipt.result()` to wait.

        Raises:
            BackpressureError: the queue to the recipient is full.
            UnknownPeerError: there is no route to it and no fallback.
            NotAllowedError, PayloadTooLargeError: it may not be sent.
            ClosedError: the transport is closed.
        """
        if not isinstance(envelope, SignedEnvelope):
            raise TypeError(
                f"an envelope is a SignedEnvelope, not {type(envelope).__name__}: "
                "SignedEnvelope.sign(…); a Node sends bytes"
            )
        options = SendOptions(envelope.recipient, envelope.priority)
        message = OutgoingMessage(options, envelope.message_id, envelope=envelope)
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
        """The next envelope, as `receive()` has it, if one is there; else `None`. Any thread.

        Raises:
            ClosedError: the transport is closed and nothing is left.
        """
        message = self._core.reader.receive(0)
        return None if message is None else message.envelope

    def close(self) -> None:
        """Give queued envelopes `close_timeout` to leave, then end everything. Once is enough."""
        try:
            self._portal.call(self._core.close)
        except WrongContextError:
            raise  # it goes on in the process that was forked
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
        if not self._core.runtime.home.is_forked:  # a child leaves the block, too
            self.close()

    @property
    def address(self) -> Target:
        """The target of the listener, with the real port. Any thread; also after the end.

        Raises:
            TransportError: it does not listen, by `listen=None`; `is_listening` tells.
        """
        return self._core.acceptor.listening_at()

    @property
    def is_listening(self) -> bool:
        """Whether the transport accepts connections now, at `address`. Any thread."""
        return self._core.runtime.is_open and self._core.acceptor.address is not None

    def stats(self) -> TransportStats:
        """The counters now."""
        return self._core.stats()

    def pool_stats(self) -> PoolStats:
        """Outbound connections now."""
        return self._core.pool_stats()

    def peers(self) -> dict[Did, PeerStatus]:
        """Return the status of the peers, by DID; see `Node.peers`."""
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
    """Signed envelopes over a `MemoryNetwork`, for tests: faults on demand, no socket."""

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
