"""Dialing over any wire: attempts, the pauses between them, and connection slots.

idle ──wanted──→ dialing ──→ connected ──lost──→ idle or dialing
                  │   ↖                ──evicted──→ idle
                failed  │
                  ↓   pause over
               backing off ──no longer wanted──→ idle
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator
from functools import partial
from typing import Any, Final, NamedTuple

from signedwire.clock import monotonic
from signedwire.delivery.backoff import backoff_delays
from signedwire.delivery.endpoint import Endpoint
from signedwire.delivery.peer_session import PeerSession
from signedwire.errors import Cause, DialError, ResolveTimeout
from signedwire.events import ConnectionFailed
from signedwire.logs import fields
from signedwire.transport.connecting import connect, resolve
from signedwire.transport.network import Receiver
from signedwire.transport.pool import Standing
from signedwire.transport.retry_pauses import RetryPauses
from signedwire.transport.runtime import Runtime
from signedwire.transport.slots import ConnectionSlots
from signedwire.transport.uncancelled import expire
from signedwire.types import PeerState, Target

__all__ = ["Dialer", "DialerParts"]

STABLE_AFTER: Final = 5.0
"""Seconds that a connection must last before the pauses begin anew."""


class DialerParts(NamedTuple):
    """The surroundings of all dialers of a node."""

    runtime: Runtime
    endpoint: Endpoint
    slots: ConnectionSlots


class _CalledOff(Exception):
    """The slot of an attempt is needed for another one."""


class Dialer(ABC):
    """Keeps one connection to one address, for the peers that are reached there."""

    is_preemptible = False
    """Whether the connection may be closed although it is in use."""

    def __init__(self, parts: DialerParts, address: Target) -> None:
        self._runtime = parts.runtime
        self._endpoint = parts.endpoint
        self._slots = parts.slots
        self.address = address
        self.state = PeerState.IDLE
        # Instants of the monotonic clock. `PeerStatus` shows them as Unix time.
        self.since = monotonic()
        self.last_error: Cause | None = None
        self.last_error_at: float | None = None
        self.retry_at: float | None = None
        self._ready: deque[PeerSession] = deque()  # peers with messages, each once
        self._connecting: asyncio.Task[None] | None = None
        self._resolved: Any = None
        self._slot: asyncio.Future[None] | None = None
        self._turn: asyncio.Timeout | None = None
        self._is_called_off = False
        self.standing = Standing.UNTRIED
        """How likely the next attempt is to succeed, after the last one."""
        self.used_at = float("-inf")
        """When the connection last carried messages, by the clock of the event loop."""
        self.is_used_again = False
        """Whether the connection carried messages twice within a second."""
        self.opening_time = 0.0
        """Seconds that the last connection took to open."""
        self._connected_at = 0.0
        self._was_connected = False
        self._pauses = RetryPauses(partial(_delays, parts))

    # -- what a wire adds -----------------------------------------------------

    @abstractmethod
    def pump(self) -> None:
        """Write what can be written, or connect."""

    @abstractmethod
    async def _open(self) -> None:
        """Connect.

        Raises:
            DialError: The peer is not reached. As after any error, nothing stays open.
        """

    @property
    @abstractmethod
    def round_trip(self) -> float | None:
        """Round-trip time in seconds; `None`: not connected, or not measured."""

    @property
    @abstractmethod
    def is_idle(self) -> bool:
        """Whether the connection could be closed without loss or delay of messages."""

    @property
    @abstractmethod
    def is_settled(self) -> bool:
        """Whether no message is queued or in flight."""

    @abstractmethod
    def _close_link(self) -> None:
        """Close the connection, if there is one, without waiting."""

    @abstractmethod
    def evict(self) -> None:
        """Close the connection: another dialer gets its slot. The next message dials again."""

    # -- what others call ----------------------------------------------------

    def add(self, session: PeerSession) -> None:
        """Send the messages that wait for a peer."""
        if session not in self._ready:
            self._ready.append(session)
        self.pump()

    def remove(self, session: PeerSession) -> None:
        """Send no more to a peer: another dialer does."""
        if session in self._ready:
            self._ready.remove(session)

    def touch(self) -> None:
        """Note that the connection carries messages."""
        self._slots.touch(self)

    def hurry(self) -> None:
        """Try at once: end the pause, and let the next ones be short again."""
        self._pauses.hurry()

    def grant_slot(self) -> None:
        """See `SlotUser`: connect now."""
        if self._slot is not None and not self._slot.done():
            self._slot.set_result(None)

    def call_off(self) -> None:
        """End an attempt whose slot is needed for another. The dialer waits for a slot again."""
        self._is_called_off = True
        if self._turn is not None:
            expire(self._turn)

    async def close(self) -> None:
        """Stop dialing, and close the connection. Messages that were not sent fail."""
        try:
            await self.stop_dialing()
        finally:  # even if this task is cancelled
            self._close_link()
            self.set_state(PeerState.CLOSED)

    async def stop_dialing(self) -> None:
        """End an attempt or a pause, and wait until it has ended."""
        if self._connecting is not None:
            self._connecting.cancel()
            await asyncio.gather(self._connecting, return_exceptions=True)

    # -- connecting ---------------------------------------------------------------

    def connect(self) -> None:
        """Dial, unless an attempt or a pause is under way."""
        if self._connecting is None and self.state is not PeerState.CLOSED:
            self._connecting = asyncio.create_task(self._connect())

    def _reroute(self) -> None:
        """Dial the new addresses of peers, and forget peers for whom no message waits."""
        self._endpoint.reroute(self._ready)
        while self._ready and not self._ready[0].sender.lanes:
            self._ready.popleft()

    def _is_wanted(self) -> bool:
        """Whether messages wait for a connection. `_reroute()` comes before."""
        return bool(self._ready)

    async def _connect(self) -> None:
        """Dial until connected, or until no message waits."""
        try:
            if self._pauses.left <= 0:
                self._pauses.reset()
            while True:
                self._reroute()
                if not self._is_wanted():
                    break
                if (pause := self._pauses.left) > 0:
                    self.retry_at = monotonic() + pause
                    self.set_state(PeerState.BACKING_OFF)
                    await self._pauses.wait()
                    self.retry_at = None
                    continue  # the messages may have expired meanwhile
                self.set_state(PeerState.DIALING)
                if await self._dial():
                    return
            self.set_state(PeerState.IDLE)
        finally:
            self._on_dialed()

    def _on_dialed(self) -> None:
        """Note the end of the attempts: connected, or no longer wanted."""
        self.retry_at = None
        self._connecting = None

    async def _dial(self) -> bool:
        slots, loop = self._slots, asyncio.get_running_loop()
        self._begin_attempt()
        try:
            await self._resolve()
            self._slot = loop.create_future()
            self._is_called_off = False
            slots.acquire(self)
            await self._slot
            began = loop.time()
            await self._take_turn()
        except DialError as error:
            is_attempt = not isinstance(error, ResolveTimeout)
            self._end_attempt(Cause(str(error), error.kind), is_attempt=is_attempt)
            error.__traceback__ = None  # it refers to the link, which refers to the error
            return False
        except _CalledOff:
            # Counts as no attempt: the peer may only be slow.
            self.standing = Standing.DOUBTFUL
            slots.release(self)
            return False
        except Exception as error:
            # A fault of the network backend, or of this package. It is logged and counts as an
            # attempt. Dialing goes on, or messages would wait for ever.
            extra = fields("dial fault", address=self.address, error=type(error).__name__)
            text = "dialing %s failed with an unexpected error; it is tried again"
            self._runtime.log.exception(text, self.address, extra=extra)
            self._end_attempt(Cause(f"cannot connect to {self.address}: {error!r}"))
            return False
        except BaseException:
            slots.release(self)
            raise
        finally:
            self._slot = None
        self._connected_at = loop.time()
        self.opening_time = self._connected_at - began
        self.standing = Standing.PROVEN
        slots.opened(self)
        if self._was_connected:
            self._runtime.counters.reconnections += 1
        self._was_connected = True
        self.set_state(PeerState.CONNECTED)
        extra = fields("connected", address=self.address)
        self._runtime.log.debug("connected to %s", self.address, extra=extra)
        self.pump()
        return True

    def _begin_attempt(self) -> None:  # noqa: B027 - only some wires have something to forget
        """Forget what was noted about the attempt before."""

    def _end_attempt(self, cause: Cause, *, is_attempt: bool = True) -> None:
        self.standing = Standing.DOUBTFUL
        self._slots.release(self)
        self._runtime.counters.dial_failures += 1
        self._fail_attempt(cause, is_attempt=is_attempt)

    async def _resolve(self) -> None:
        """Look the host name up, without a slot: a lookup that hangs must not hold one."""
        network, timeout = self._runtime.network, self._runtime.config.connect_timeout
        self._resolved = await resolve(network, self.address, timeout)

    async def _take_turn(self) -> None:
        """Open the connection, unless its slot is needed for another meanwhile."""
        try:
            async with asyncio.timeout(0 if self._is_called_off else None) as self._turn:
                await self._open()
        except TimeoutError as error:
            assert self._turn is not None
            if self._turn.expired() and not isinstance(error, DialError):
                raise _CalledOff from None
            raise
        finally:
            self._turn = None

    async def _reach(self, receiver: Receiver) -> None:
        network, timeout = self._runtime.network, self._runtime.config.connect_timeout
        await connect(network, self.address, receiver, self._resolved, timeout, self._runtime.log)

    def _on_lost(self, cause: Cause, *, was_used: bool = True) -> None:
        """Note the end of the connection, and decide when the next attempt may begin."""
        self._slots.release(self)
        cause = cause.prefixed(f"connection to {self.address} ended: ")
        now = asyncio.get_running_loop().time()
        if now - self._connected_at >= STABLE_AFTER:
            self.note_error(cause)
            self._pauses.clear()
        elif was_used:
            # Accepted and dropped at once: a connect alone is no recovery.
            self.note_error(cause)
            self._pauses.lengthen()
        else:
            # Dropped before it could be used: no better than a failed dial.
            self._fail_attempt(cause)
        self.set_state(PeerState.IDLE)

    def _concerned(self) -> tuple[PeerSession, ...]:
        """Return the peers for whose messages an attempt counts."""
        return tuple(self._ready)

    def _fail_attempt(self, cause: Cause, *, is_attempt: bool = True) -> None:
        """Note the failure, and pause. The messages that wait lose an attempt if `is_attempt`."""
        self.note_error(cause)
        self._pauses.lengthen()
        for session in self._concerned() if is_attempt else ():
            session.sender.note_attempt_failed(cause)

    def note_error(self, cause: Cause) -> None:
        """Note a failure for `PeerStatus`, log it, and emit an event for each peer."""
        self.last_error = cause
        self.last_error_at = monotonic()
        self._runtime.log.info("%s", cause, extra=fields("attempt failed", address=self.address))
        if self._runtime.events.is_watched:
            for session in self._users():
                failed = ConnectionFailed(session.did, self.address, cause.kind, str(cause))
                self._runtime.emit(failed)

    def _users(self) -> list[PeerSession]:
        """Return the peers that are reached by this dialer."""
        sessions = self._endpoint.sessions.all()
        return [one for one in sessions if one.has_sender and one.sender.dialer is self]

    def set_state(self, state: PeerState) -> None:
        """Enter a state, and note the time."""
        if state is not self.state:
            self.state = state
            self.since = monotonic()
            self._endpoint.context.on_progress()


def _delays(parts: DialerParts) -> Iterator[float]:
    """Return the pauses in seconds after one failure, two, three and so on."""
    config, rng = parts.runtime.config, parts.runtime.rng
    if parts.endpoint.context.store.is_durable:
        # Messages may wait for days: the pauses are long, and differ from node to node.
        return backoff_delays(0.5 / 1.6, 30.0, 0.5, rng, factor=1.6)
    return backoff_delays(config.retry_base_delay, config.retry_max_delay, config.retry_jitter, rng)
