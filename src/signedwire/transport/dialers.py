"""The dialers of a node: one for each peer over v2, one for each address over v1."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Final

from signedwire.delivery.endpoint import Endpoint
from signedwire.delivery.peer_session import PeerSession
from signedwire.logs import fields
from signedwire.transport.dial_attempt import DialerParts
from signedwire.transport.dialer import Dialer
from signedwire.transport.link_dialer import LinkDialer
from signedwire.transport.runtime import Runtime
from signedwire.transport.slots import ConnectionSlots
from signedwire.transport.uncancelled import wait_uncancelled
from signedwire.types import Did, PeerState, Target

__all__ = ["Dialers"]

_LEAST_FOR_AN_ATTEMPT: Final = 0.2
"""Minimum time in seconds in which attempts may clean up, even after the deadline."""


class Dialers:
    """The dialers of a node: the `Connector` of the endpoint.

    Args:
        runtime: The surroundings of all parts of the node.
        endpoint: The sessions of all peers.
        new_v1: Makes a dialer for an address that speaks v1; `None`: v1 is not spoken. The dialer
            calls its last argument when no peer needs it any more.
    """

    def __init__(
        self,
        runtime: Runtime,
        endpoint: Endpoint,
        new_v1: Callable[[DialerParts, Target, Callable[[Dialer], None]], Dialer] | None,
    ) -> None:
        self._runtime = runtime
        self._endpoint = endpoint
        self._new_v1 = new_v1
        self.slots = ConnectionSlots(runtime.config.max_connections, runtime.counters)
        self._parts = DialerParts(runtime, endpoint, self.slots)
        self._links: dict[tuple[Target, Did], LinkDialer] = {}
        """The dialers over v2."""
        self._v1: dict[Target, Dialer] = {}
        """The dialers over v1."""
        self._ending: set[asyncio.Task[None]] = set()
        """The tasks of retired dialers that have not ended yet."""
        self._progress: asyncio.Future[None] | None = None
        endpoint.context.on_progress = self._on_progress

    # -- the connector of the endpoint --------------------------------------------------------

    def connect(self, session: PeerSession, address: Target) -> None:
        """Send the messages that wait for a peer to this address."""
        dialer = self._dialer(session, address)
        if session.sender.dialer is not dialer:
            self.disconnect(session)
            session.sender.dialer = dialer
        dialer.add(session)

    def disconnect(self, session: PeerSession) -> None:
        """Stop dialing a peer. An open link stays."""
        dialer = self._dialer_of(session)
        session.sender.dialer = None
        if dialer is None:
            return
        dialer.remove(session)
        session.keep_error(dialer.history)
        key = (dialer.address, session.did)
        # A v1 dialer stays while it serves other peers at its address, or is connected.
        if self._links.get(key) is dialer:
            self._retire(self._links.pop(key))

    def _retire(self, dialer: LinkDialer) -> None:
        """Stop a dialer, and remember its task, because a network may take long to clean up."""
        dialer.retire()
        task = dialer._connecting
        if task is not None:
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)

    def _dialer_of(self, session: PeerSession) -> Dialer | None:
        """Return the dialer that serves a peer; `None`: the peer is not dialed."""
        route = session.sender.dialer
        if route is None:
            return None
        link_dialer = self._links.get((route.address, session.did))
        return link_dialer if link_dialer is route else self._v1.get(route.address)

    def _dialer(self, session: PeerSession, address: Target) -> Dialer:
        if not self._runtime.speaks_v2 or session.wire == "v1":
            v1 = self._v1.get(address)
            if v1 is None:
                assert self._new_v1 is not None
                v1 = self._v1[address] = self._new_v1(self._parts, address, self._forget_v1)
            return v1
        key = (address, session.did)
        dialer = self._links.get(key)
        if dialer is None:
            dialer = self._links[key] = LinkDialer(self._parts, address, session)
        return dialer

    def _forget_v1(self, dialer: Dialer) -> None:
        if self._v1.get(dialer.address) is dialer:
            del self._v1[dialer.address]

    def all(self) -> list[Dialer]:
        """Return all dialers."""
        return [*self._links.values(), *self._v1.values()]

    def hurry(self, session: PeerSession) -> None:
        """Dial a peer now, without a pause."""
        dialer = self._dialer_of(session)
        if dialer is not None:
            dialer.hurry()
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
        if not all(dialer.is_settled or self._can_wait(dialer) for dialer in self.all()):
            return False
        is_durable = self._endpoint.context.store.is_durable
        return all(
            session.sender.streams.is_empty and not session.sender.lanes
            for session in self._endpoint.sessions.all()
            if session.has_sender and (session.link is not None or not is_durable)
        )

    def _can_wait(self, dialer: Dialer) -> bool:
        """Whether the messages of a dialer may wait in the store: its peer is not reached."""
        is_durable = self._endpoint.context.store.is_durable
        return is_durable and dialer.state is PeerState.BACKING_OFF

    async def end(self, deadline: float) -> bool:
        """End all connections and all messages.

        Args:
            deadline: The end of the wait for attempts that clean up, loop time.

        Returns:
            Whether the caller was cancelled meanwhile.
        """
        self._endpoint.begin_end()
        self.slots.end()
        tasks = [*self._ending, *(asyncio.create_task(one.close()) for one in self.all())]
        left = max(_LEAST_FOR_AN_ATTEMPT, deadline - asyncio.get_running_loop().time())
        is_cancelled = await wait_uncancelled(asyncio.gather(*tasks, return_exceptions=True), left)
        for task in tasks:
            self._report(task)
        self._free_slots()
        self._endpoint.end()
        return is_cancelled

    def _report(self, task: asyncio.Task[None]) -> None:
        """Log an attempt that has not ended, or a fault, which must not keep the others."""
        if not task.done():
            text = "an attempt to connect was cancelled and did not end; it is no longer awaited"
            self._runtime.log.warning(text, extra=fields("attempt hangs"))
        elif not task.cancelled() and isinstance(fault := task.exception(), Exception):
            extra = fields("close fault", error=type(fault).__name__)
            self._runtime.log.error("closing a connection failed", exc_info=fault, extra=extra)

    def _free_slots(self) -> None:
        """Free the slots of connections that were closed without a report, as those over v1."""
        pool = self.slots.pool
        for dialer in (*pool.opening(), *pool.connected(), *pool.waiting()):
            self.slots.release(dialer)
