"""Probes: reach a peer without a message, let it prove its DID, and measure.

A probe changes nothing in the node. It is no link, takes no connection slot, and counts as no
attempt. With the key of the node, it reads the HELLO of the peer and sends none. A HELLO would
end the link to the peer that this node has, or another process with the same key. With a key that
is made for probes alone, it sends HELLO and PING.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import replace
from typing import Final

from signedwire.clock import monotonic  # the clock of a loop may tick in milliseconds
from signedwire.delivery.advice import HOW_TO_UNDENY
from signedwire.delivery.endpoint import Endpoint
from signedwire.errors import (
    Cause,
    ClosedError,
    ConnectTimeout,
    DialError,
    FailureKind,
    NotAllowedError,
    UnknownPeerError,
)
from signedwire.identity import Identity
from signedwire.stats import Probe
from signedwire.transport.connecting import connect, expire, resolve
from signedwire.transport.link_probe import LinkProbe
from signedwire.transport.probe_connection import NotReachedError, ProbeConnection, V1Probe
from signedwire.transport.runtime import Runtime
from signedwire.transport.tls import TlsIdentity
from signedwire.types import Did, Reason, Target

__all__ = ["Prober"]

_MAX_AT_ONCE: Final = 16
"""Probes that are made at once; more wait."""
_WATCH: Final = 0.25
"""Seconds within which a v1 peer that refuses connections closes one."""


class Prober:
    """Makes the probes of one node, in its event loop.

    Args:
        runtime: The surroundings of all parts of the node.
        endpoint: Has the access list and the DIDs that may speak v1.
    """

    def __init__(self, runtime: Runtime, endpoint: Endpoint) -> None:
        self._runtime = runtime
        self._endpoint = endpoint
        self._slots = asyncio.Semaphore(_MAX_AT_ONCE)
        self._stranger: tuple[Identity, TlsIdentity] | None = None
        self._connections: set[ProbeConnection] = set()
        self._steps: set[asyncio.Timeout] = set()
        self._is_closed = False

    def close(self) -> None:
        """End all probes: each raises ClosedError."""
        self._is_closed = True
        for step in self._steps:
            expire(step)
        for connection in tuple(self._connections):
            connection.end()

    def target_of(self, did: Did, address: Target | None) -> Target:
        """Return where to probe a peer: the address, else its route, else the fallback.

        Raises:
            NotAllowedError: The access list denies the peer.
            UnknownPeerError: No address is known for the peer.
        """
        if self._endpoint.access.is_denied(did):
            fact = f"{did} is denied by node.access; it was not probed"
            raise NotAllowedError(did, Reason.DENIED, fact, HOW_TO_UNDENY)
        runtime = self._runtime
        address = address or runtime.routing.resolve(did) or runtime.config.fallback
        if address is None:
            fact = f"no address is known for {did}; it was not probed"
            hint = 'Pass one, or add it with routing.update(did, "host:port")'
            raise UnknownPeerError(did, Reason.UNKNOWN_PEER, fact, hint)
        return address

    async def probe(
        self, did: Did, address: Target, timeout: float | None, *, as_stranger: bool
    ) -> Probe:
        """Probe a peer once; see `Node.probe`."""
        try:
            async with asyncio.timeout(timeout):
                findings = self.probes(did, address, 1.0, as_stranger=as_stranger)
                async with contextlib.aclosing(findings):
                    return await anext(findings)
        except TimeoutError:
            words = f"no result within {timeout:g} s"
            return Probe(did=did, address=address, failure=FailureKind.TIMED_OUT, error=words)

    async def probes(
        self, did: Did, address: Target, interval: float, *, as_stranger: bool
    ) -> AsyncGenerator[Probe]:
        """Probe a peer each `interval` seconds; see `Node.probes`."""
        if self._runtime.speaks_v2:
            follow = self._follow if as_stranger else self._repeat
            async with contextlib.aclosing(follow(did, address, interval)) as findings:
                async for found in findings:
                    has_hung_up = found.failure is FailureKind.HUNG_UP_ON_TLS
                    if has_hung_up and self._endpoint.context.is_v1_allowed(did):
                        break
                    yield found
                else:
                    return
        while True:
            yield await self._look_for_v1(did, address)
            await self._pause(interval)

    # -- v2 ---------------------------------------------------------------------------

    async def _follow(self, did: Did, address: Target, interval: float) -> AsyncGenerator[Probe]:
        """Open one link, and send a PING at each interval."""
        link = self._link(did, address, interval, as_stranger=True)
        try:
            try:
                async with self._slots:
                    await self._open(link)
                    await self._ping(link)
                while True:
                    yield link.found
                    await self._ping(link)
            except NotReachedError as error:
                yield link.failed(error.cause)
        finally:
            self._close(link)

    async def _repeat(self, did: Did, address: Target, interval: float) -> AsyncGenerator[Probe]:
        """Make a handshake at each interval."""
        while True:
            link = self._link(did, address, interval, as_stranger=False)
            try:
                async with self._slots:
                    await self._open(link)
                found = link.found
            except NotReachedError as error:
                found = link.failed(error.cause)
            finally:
                self._close(link)
            yield found
            if not found.is_reached:
                return
            await self._pause(interval)

    def _link(self, did: Did, address: Target, interval: float, *, as_stranger: bool) -> LinkProbe:
        identity, tls = self._runtime.identity, self._runtime.tls
        if as_stranger:
            if self._stranger is None:
                stranger = Identity.generate()
                self._stranger = stranger, TlsIdentity(stranger)
            identity, tls = self._stranger
        found = Probe(did=did, address=address)
        limits = self._runtime.session_limits
        limits = replace(
            limits,
            ping_interval=interval,
            dead_timeout=max(limits.dead_timeout, 2 * interval),
            max_payload_size=0,
        )
        channel = tls.channel(is_server=False)
        return LinkProbe(identity, channel, limits, found, is_silent=not as_stranger)

    async def _open(self, link: LinkProbe) -> None:
        """Connect, and wait until the peer has proven its DID and sent HELLO."""
        await self._connect(link)
        began, limit = monotonic(), self._runtime.config.handshake_timeout
        try:
            async with self._step(limit):
                await link.opened()
        except TimeoutError:
            words = f"no handshake within {limit:g} s"
            raise NotReachedError(Cause(words, FailureKind.NO_HANDSHAKE)) from None
        took = monotonic() - began
        round_trip = None if link.stream is None else link.stream.round_trip()
        link.found = replace(link.found, wire="v2", handshake_time=took, round_trip=round_trip)

    async def _ping(self, link: LinkProbe) -> None:
        async with self._step(None):
            await link.ping()

    # -- v1 ---------------------------------------------------------------------------

    async def _look_for_v1(self, did: Did, address: Target) -> Probe:
        """Connect, and see whether the other side keeps the connection open, as v1 peers do."""
        connection = V1Probe(Probe(did=did, address=address))
        try:
            async with self._slots:
                await self._connect(connection)
                async with self._step(None):
                    await connection.changes(_WATCH)
        except NotReachedError as error:
            return connection.failed(error.cause)
        finally:
            self._close(connection)
        return replace(connection.found, wire="v1")

    # -- both -------------------------------------------------------------------------

    async def _connect(self, connection: ProbeConnection) -> None:
        """Connect as a dialer does."""
        self._connections.add(connection)
        network, log = self._runtime.network, self._runtime.log
        address = connection.found.address
        limit, began = self._runtime.config.connect_timeout, monotonic()
        try:
            async with self._step(None):
                resolved = await resolve(network, address, limit, log)
                await connect(network, address, connection, resolved, limit, log)
        except DialError as error:
            is_late = isinstance(error, ConnectTimeout)
            words = error.cause if is_late else f"cannot connect: {error.cause}"
            raise NotReachedError(Cause(words, error.kind)) from None
        connection.found = replace(connection.found, connect_time=monotonic() - began)

    @contextlib.asynccontextmanager
    async def _step(self, limit: float | None) -> AsyncIterator[None]:
        """Limit a wait to `limit` seconds; raise ClosedError when the node closes."""
        if self._is_closed:
            raise ClosedError("the node was closed while it probed a peer")
        try:
            async with asyncio.timeout(limit) as step:
                self._steps.add(step)
                try:
                    yield
                finally:
                    self._steps.discard(step)
        except (TimeoutError, NotReachedError):
            if self._is_closed:
                raise ClosedError("the node was closed while it probed a peer") from None
            raise

    async def _pause(self, interval: float) -> None:
        async with self._step(None):
            await asyncio.sleep(interval)

    def _close(self, connection: ProbeConnection) -> None:
        self._connections.discard(connection)
        connection.end()
