"""The dialers of a node: one for each peer over v2, one for each address over v1."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from signedwire.delivery.endpoint import Endpoint
from signedwire.delivery.peer_session import PeerSession
from signedwire.logs import fields
from signedwire.transport.dialer import Dialer, DialerParts
from signedwire.transport.link_dialer import LinkDialer
from signedwire.transport.runtime import Runtime
from signedwire.transport.slots import ConnectionSlots
from signedwire.transport.uncancelled import wait_uncancelled
from signedwire.types import Did, PeerState, Target

__all__ = ["Dialers"]


class Dialers:
    """The dialers of a node: the `Connector` of the endpoint.

    Args:
        runtime: The surroundings of all parts of the node.
        endpoint: The sessions of all peers.
        new_v1: Makes a dialer for an address that speaks v1; `None`: v1 is not spoken.
    """

    def __init__(
        self,
        runtime: Runtime,
        endpoint: Endpoint,
        new_v1: Callable[[DialerParts, Target], Dialer] | None,
    ) -> None:
        self._runtime = runtime
        self._endpoint = endpoint
        self._new_v1 = new_v1
        self.slots = ConnectionSlots(runtime.config.max_connections, runtime.counters)
        self._parts = DialerParts(runtime, endpoint, self.slots)
        self._dialers: dict[Target | tuple[Target, Did], Dialer] = {}
        self._progress: asyncio.Future[None] | None = None
        endpoint.context.on_progress = self._on_progress

    # -- the connector of the endpoint --------------------------------------------------------

    def connect(self, session: PeerSession, address: Target) -> None:
        """Send the messages that wait for a peer to this address."""
        dialer = self._dialer(session, address)
        if session.sender.route is not dialer:
            self.disconnect(session)
            session.sender.route = dialer
        dialer.add(session)

    def disconnect(self, session: PeerSession) -> None:
        """Stop dialing a peer. An open link stays."""
        route, session.sender.route = session.sender.route, None
        if isinstance(route, Dialer):
            route.remove(session)
            # A v1 dialer stays: it serves all peers at its address.
            if isinstance(route, LinkDialer):
                self._dialers.pop((route.address, session.did), None)
                route.retire()

    def _dialer(self, session: PeerSession, address: Target) -> Dialer:
        speaks_v1 = not self._runtime.speaks_v2 or session.wire == "v1"
        key = address if speaks_v1 else (address, session.did)
        dialer = self._dialers.get(key)
        if dialer is None:
            if speaks_v1:
                assert self._new_v1 is not None
                dialer = self._new_v1(self._parts, address)
            else:
                dialer = LinkDialer(self._parts, address, session)
            self._dialers[key] = dialer
        return dialer

    def hurry(self, session: PeerSession) -> None:
        """Dial a peer now, without a pause."""
        route = session.sender.route
        if isinstance(route, Dialer):
            route.hurry()
        self._endpoint.send_waiting(session)

    # -- the end ------------------------------------------------------------------------------

    async def drain(self, deadline: float) -> None:
        """Wait until all messages are sent and answered, or until `deadline`, in loop time."""
        self._endpoint.submitter.flush()
        loop = asyncio.get_running_loop()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(deadline):
                while not self._is_settled():
                    self._progress = loop.create_future()
                    await self._progress

    def _on_progress(self) -> None:
        """Note that a message has ended, or that a dialer has changed its state."""
        self.slots.look()
        if self._progress is not None and not self._progress.done():
            self._progress.set_result(None)

    def _is_settled(self) -> bool:
        if not all(
            dialer.is_settled or self._can_wait(dialer) for dialer in self._dialers.values()
        ):
            return False
        is_durable = self._endpoint.context.store.is_durable
        return all(
            session.sender.stream.is_empty and not session.sender.lanes
            for session in self._endpoint.peers.all()
            if session.has_sender and (session.link is not None or not is_durable)
        )

    def _can_wait(self, dialer: Dialer) -> bool:
        """Whether the messages of a dialer may wait in the store: its peer is not reached."""
        is_durable = self._endpoint.context.store.is_durable
        return is_durable and dialer.state is PeerState.BACKING_OFF

    async def end(self) -> bool:
        """End all connections and all messages. Returns what `wait_uncancelled()` does."""
        self._endpoint.begin_end()
        self.slots.end()
        closing = [dialer.close() for dialer in tuple(self._dialers.values())]
        all_closing = asyncio.gather(*closing, return_exceptions=True)
        is_cancelled = await wait_uncancelled(all_closing)
        for fault in all_closing.result():
            if isinstance(fault, Exception):  # a fault of this package must not keep the others
                extra = fields("close fault", error=type(fault).__name__)
                self._runtime.log.error("closing a connection failed", exc_info=fault, extra=extra)
        self._endpoint.end()
        return is_cancelled
