"""Tries to reach a peer without a message: connects, lets it prove its DID, measures.

A probe leaves no trace in the node: it is no link, takes no place in the pool, and counts as
no attempt. With the key of the node it reads the peer's HELLO and sends none. A HELLO would
end the link to that peer that this node has, or another process with the key. With a key
made for probes alone it sends HELLO and PING.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import replace
from typing import Final

from signedwire.clock import monotonic  # a loop's own clock may tick in milliseconds
from signedwire.delivery.endpoint import Endpoint
from signedwire.errors import (
    Cause,
    ClosedError,
    ConnectTimeout,
    DialError,
    FailureKind,
    NotAllowedError,
    ProofError,
    UnknownPeerError,
)
from signedwire.identity import Identity
from signedwire.stats import Probe
from signedwire.transport.handshake import Handshake
from signedwire.transport.link_errors import (
    CLOSED_HERE,
    NO_ROOM,
    cause_of_close,
    words_of_tls,
)
from signedwire.transport.network import Stream
from signedwire.transport.reaching import reach, resolve
from signedwire.transport.runtime import Runtime
from signedwire.transport.tcp import describe_os_error
from signedwire.transport.tls import TlsChannel, TlsIdentity, tells_full
from signedwire.types import Allowance, Did, Reason, Target, unix_time_us
from signedwire.wire import link_frames as frames
from signedwire.wire.session import Session, SessionLimits
from signedwire.wire.session_events import Closed

__all__ = ["Prober"]

_MAX_AT_ONCE: Final = 16
"""Probes that are made at once; more wait."""
_WATCH: Final = 0.25
"""Seconds within which a v1 peer that refuses us has closed the connection."""
_NOTHING: Final = Allowance(0, 0, 0, 0)


class _NotReachedError(Exception):
    """Ends a probe."""

    def __init__(self, cause: Cause) -> None:
        super().__init__(cause)
        self.cause = cause


class Prober:
    """Makes the probes of one node, in its event loop.

    Args:
        runtime: What every part of the node works with.
        endpoint: Whose peers may be denied, or speak v1.
    """

    def __init__(self, runtime: Runtime, endpoint: Endpoint) -> None:
        self._runtime = runtime
        self._endpoint = endpoint
        self._slots = asyncio.Semaphore(_MAX_AT_ONCE)
        self._stranger: tuple[Identity, TlsIdentity] | None = None
        self._connections: set[_Connection] = set()
        self._steps: set[asyncio.Timeout] = set()
        self._is_closed = False

    def close(self) -> None:
        """End every probe: each raises ClosedError."""
        self._is_closed = True
        now = asyncio.get_running_loop().time() if self._steps else 0.0
        for step in self._steps:
            step.reschedule(now)
        for connection in tuple(self._connections):
            connection.end()

    def place(self, did: Did, address: Target | None) -> Target:
        """Where a peer is probed: at the address, else at its route, else at the fallback.

        Raises:
            NotAllowedError: the access list denies the peer.
            UnknownPeerError: no address is known for it.
        """
        if self._endpoint.access.is_denied(did):
            fact = f"{did} is denied by node.access; it was not probed"
            raise NotAllowedError(did, Reason.DENIED, fact)
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
        """One attempt; see `Node.probe`."""
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
        """Attempts, `interval` seconds apart; see `Node.probes`."""
        if self._runtime.speaks_v2:
            follow = self._follow if as_stranger else self._repeat
            async with contextlib.aclosing(follow(did, address, interval)) as findings:
                async for found in findings:
                    has_hung_up = found.failure is FailureKind.HUNG_UP_ON_TLS
                    if has_hung_up and self._endpoint.is_v1_allowed(did):
                        break
                    yield found
                else:
                    return
        while True:
            yield await self._look_for_v1(did, address)
            await self._pause(interval)

    # -- v2 ---------------------------------------------------------------------------

    async def _follow(self, did: Did, address: Target, interval: float) -> AsyncGenerator[Probe]:
        """One link, and a PING at each interval."""
        link = self._link(did, address, interval, as_stranger=True)
        try:
            try:
                async with self._slots:
                    await self._open(link)
                    await self._ping(link)
                while True:
                    yield link.found
                    await self._ping(link)
            except _NotReachedError as error:
                yield link.failed(error.cause)
        finally:
            self._close(link)

    async def _repeat(self, did: Did, address: Target, interval: float) -> AsyncGenerator[Probe]:
        """A handshake at each interval."""
        while True:
            link = self._link(did, address, interval, as_stranger=False)
            try:
                async with self._slots:
                    await self._open(link)
                found = link.found
            except _NotReachedError as error:
                found = link.failed(error.cause)
            finally:
                self._close(link)
            yield found
            if not found.is_reached:
                return
            await self._pause(interval)

    def _link(
        self, did: Did, address: Target, interval: float, *, as_stranger: bool
    ) -> _ProbedLink:
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
            max_frame_size=frames.FRAME_MARGIN,
        )
        channel = tls.channel(is_server=False)
        return _ProbedLink(identity, channel, limits, found, is_silent=not as_stranger)

    async def _open(self, link: _ProbedLink) -> None:
        """Connect, and wait until the peer has proven its DID and sent HELLO."""
        await self._connect(link)
        began, limit = monotonic(), self._runtime.config.handshake_timeout
        try:
            async with self._step(limit):
                await link.opened()
        except TimeoutError:
            words = f"no handshake within {limit:g} s"
            raise _NotReachedError(Cause(words, FailureKind.NO_HANDSHAKE)) from None
        took = monotonic() - began
        round_trip = None if link.stream is None else link.stream.round_trip()
        link.found = replace(link.found, wire="v2", handshake_time=took, round_trip=round_trip)

    async def _ping(self, link: _ProbedLink) -> None:
        async with self._step(None):
            await link.ping()

    # -- v1 ---------------------------------------------------------------------------

    async def _look_for_v1(self, did: Did, address: Target) -> Probe:
        """Connect, and look whether the other side keeps the connection, as v1 peers do."""
        connection = _V1Connection(Probe(did=did, address=address))
        try:
            async with self._slots:
                await self._connect(connection)
                async with self._step(None):
                    await connection.changes(_WATCH)
        except _NotReachedError as error:
            return connection.failed(error.cause)
        finally:
            self._close(connection)
        return replace(connection.found, wire="v1")

    # -- both -------------------------------------------------------------------------

    async def _connect(self, connection: _Connection) -> None:
        """Connect as a node does: the lookup in a thread that can be left, addresses raced."""
        self._connections.add(connection)
        network, address = self._runtime.network, connection.found.address
        limit, began = self._runtime.config.connect_timeout, monotonic()
        try:
            async with self._step(None):
                resolved = await resolve(network, address, limit)
                await reach(network, address, connection, resolved, limit)
        except DialError as error:
            is_late = isinstance(error, ConnectTimeout)
            words = error.cause if is_late else f"cannot connect: {error.cause}"
            raise _NotReachedError(Cause(words, error.kind)) from None
        connection.found = replace(connection.found, connect_time=monotonic() - began)

    @contextlib.asynccontextmanager
    async def _step(self, limit: float | None) -> AsyncIterator[None]:
        """A wait that ends after `limit` seconds, or with ClosedError when the node closes."""
        if self._is_closed:
            raise ClosedError("the node was closed while it probed a peer")
        try:
            async with asyncio.timeout(limit) as step:
                self._steps.add(step)
                try:
                    yield
                finally:
                    self._steps.discard(step)
        except (TimeoutError, _NotReachedError):
            if self._is_closed:
                raise ClosedError("the node was closed while it probed a peer") from None
            raise

    async def _pause(self, interval: float) -> None:
        async with self._step(None):
            await asyncio.sleep(interval)

    def _close(self, connection: _Connection) -> None:
        self._connections.discard(connection)
        connection.end()


class _Connection:
    """One connection of a probe. It is the `Receiver` of its stream."""

    def __init__(self, found: Probe) -> None:
        self.found = found
        """Everything that is known of the peer so far."""
        self.stream: Stream | None = None
        self._cause: Cause | None = None
        self._changed: asyncio.Future[None] | None = None

    def failed(self, cause: Cause) -> Probe:
        """Return the finding about a peer that is not reached."""
        return replace(self.found, failure=cause.kind, error=str(cause), round_trip=None)

    def connected(self, stream: Stream) -> None:
        """See `Receiver`."""
        self.stream = stream

    def received(self, data: bytes) -> None:
        """See `Receiver`."""
        raise NotImplementedError

    def ended(self) -> None:
        """See `Receiver`."""
        self._fail(self._end_of(Cause("the connection ended", FailureKind.CLOSED)))

    def writable(self) -> None:
        """See `Receiver`: what is written here is small, and nothing waits for it."""

    def lost(self, error: Exception | None) -> None:
        """See `Receiver`."""
        cause = Cause("the connection ended", FailureKind.CLOSED)
        if isinstance(error, OSError):
            cause = describe_os_error(error)
        self._fail(self._end_of(cause))

    def _end_of(self, cause: Cause) -> Cause:
        """Return the cause that the end of the connection means at this point."""
        raise NotImplementedError

    def _fail(self, cause: Cause) -> None:
        """The first failure counts."""
        self._cause = self._cause or cause
        self._wake()

    def _wake(self) -> None:
        if self._changed is not None and not self._changed.done():
            self._changed.set_result(None)

    async def changes(self, limit: float | None = None) -> bool:
        """Wait until something happened; `False`: nothing did within `limit` seconds.

        Raises:
            _NotReachedError: the connection has failed.
        """
        if self._cause is None:
            self._changed = asyncio.get_running_loop().create_future()
            await asyncio.wait({self._changed}, timeout=limit)
        if self._cause is not None:
            raise _NotReachedError(self._cause)
        return self._changed is not None and self._changed.done()

    def end(self) -> None:
        """Close the connection without waiting for the other side."""
        self._fail(CLOSED_HERE)
        if self.stream is None or self.stream.is_closing():
            return
        if self.stream.waiting():
            self.stream.abort()
        else:
            self.stream.close()


class _V1Connection(_Connection):
    """A connection to what may be a v1 peer: it keeps the connection and writes nothing."""

    def received(self, data: bytes) -> None:
        """See `Receiver`."""
        self._fail(Cause("it wrote bytes, as no v1 peer does", FailureKind.PROTOCOL))

    def _end_of(self, cause: Cause) -> Cause:
        return Cause("it hung up at once", FailureKind.CLOSED)


class _ProbedLink(_Connection):
    """A link, as far as a probe needs one: it takes no message and answers none."""

    def __init__(
        self,
        identity: Identity,
        channel: TlsChannel,
        limits: SessionLimits,
        found: Probe,
        *,
        is_silent: bool,
    ) -> None:
        super().__init__(found)
        self._identity = identity
        self._channel = channel
        self._handshake = Handshake(channel, None)
        self._limits = limits
        self._is_silent = is_silent
        self._session: Session | None = None
        self._received = 0
        self._round_trip: float | None = None  # the last one that nobody has asked for

    @property
    def _is_open(self) -> bool:
        return self._session is not None and self._session.their_hello is not None

    async def opened(self) -> None:
        """Wait for the peer's HELLO."""
        while not self._is_open:
            await self.changes()

    async def ping(self) -> None:
        """One round trip: the first PING goes out with HELLO, the next after the interval."""
        session = self._session
        assert session is not None
        while self._round_trip is None:
            due = session.next_timeout()
            limit = None if due is None else max(0.0, due - monotonic())
            if not await self.changes(limit):
                session.handle_timeout(monotonic())
                self._turn()
        self.found = replace(self.found, round_trip=self._round_trip)
        self._round_trip = None

    # -- what comes -------------------------------------------------------------------

    def connected(self, stream: Stream) -> None:
        """See `Receiver`."""
        super().connected(stream)
        self._channel.start()
        self._flush()

    def received(self, data: bytes) -> None:
        """See `Receiver`."""
        if self._cause is not None:
            return
        self._received += len(data)
        try:
            if self._session is None and (did := self._handshake.receive_data(data)) is not None:
                self._session = self._begin(did)
                data = b""  # plaintext may have come with the last bytes of the handshake
            plain = b"" if self._session is None else self._channel.receive_data(data)
        except ssl.SSLError as error:
            self._fail(self._broken(error))
            return
        except ProofError as error:
            self._fail(Cause(error.fact, error.kind))
            return
        if self._session is not None and plain:
            self._session.receive_data(plain, monotonic())
        self._turn()

    def _begin(self, answered_by: Did) -> Session:
        """Return the session with whoever has proven a DID, unless another one is probed."""
        self.found = replace(self.found, answered_by=answered_by)
        if not self.found.is_proven:
            fact = f"{answered_by} is there, not {self.found.did}"
            raise ProofError(fact, kind=FailureKind.WRONG_KEY)
        hello = frames.Hello(
            min_version=frames.VERSION,
            max_version=frames.VERSION,
            epoch=unix_time_us(),
            features=0,
            max_frame_size=frames.FRAME_MARGIN,
            max_payload_size=0,
            credit=_NOTHING,
            known_epoch=0,
            marks=(0, 0, 0, 0),
        )
        return Session(
            self._identity,
            answered_by,
            hello,
            self._limits,
            monotonic(),
            on_round_trip=self._measured,
        )

    def _measured(self, seconds: float) -> None:
        self._round_trip = seconds

    def _turn(self) -> None:
        """Look at what happened, write what is due, and wake who waits."""
        session = self._session
        while session is not None and (event := session.next_event()) is not None:
            if isinstance(event, Closed):
                who = "it" if event.is_by_peer else "we"
                words = f"{who} closed the link: {event.cause}"
                self._fail(Cause(words, cause_of_close(event).kind))
        self._flush()
        self._wake()

    def _flush(self) -> None:
        if self.stream is None or self.stream.is_closing():
            return
        data = b"" if self._session is None else self._session.data_to_send()
        if data and not self._is_silent:
            self._channel.send(data)
        if data := self._channel.data_to_send():
            self.stream.write(data)

    # -- the end ----------------------------------------------------------------------

    def _end_of(self, cause: Cause) -> Cause:
        if not self._received:
            words = "it hung up on TLS, as v1 peers do"
            return Cause(words, FailureKind.HUNG_UP_ON_TLS)
        if self._session is None:
            return Cause(f"{cause} in the middle of TLS", FailureKind.TLS_FAILED)
        if not self._is_open:
            words = (
                f"it has proven its DID, then turned us away ({cause}); "
                "it may have an access list that the key we used is not on"
            )
            return Cause(words, FailureKind.TURNED_AWAY)
        return cause

    def _broken(self, error: ssl.SSLError) -> Cause:
        if tells_full(error):
            return NO_ROOM
        reason = words_of_tls(error)
        if self._session is None:
            words = f"it does not speak TLS as v2 peers do: {reason}"
            return Cause(words, FailureKind.TLS_FAILED)
        words = f"it has proven its DID, then TLS failed: {reason}"
        return Cause(words, FailureKind.TLS_FAILED if self._is_open else FailureKind.TURNED_AWAY)

    def end(self) -> None:
        if self._session is not None and not self._is_silent and self._cause is None:
            with contextlib.suppress(ssl.SSLError):
                self._session.close(frames.CLOSE_DONE, "done")
                self._flush()
        super().end()
        self._channel.release()
