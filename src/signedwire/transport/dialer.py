"""The connection to one address: its states, and the task that dials it.

idle ──wanted──→ dialing ──→ connected ──lost──→ idle or dialing
                  │   ↖                ──evicted──→ idle
                failed  │
                  ↓   pause over
               backing off ──no longer wanted──→ idle
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod

from signedwire.clock import monotonic
from signedwire.delivery.dial_history import AttemptOutcome
from signedwire.delivery.peer_session import PeerSession
from signedwire.errors import Cause, DialError
from signedwire.events import ConnectionFailed
from signedwire.logs import fields
from signedwire.transport.connecting import is_current
from signedwire.transport.dial_attempt import CalledOffError, DialAttempt, DialerParts
from signedwire.transport.retry_pause import RetryPause
from signedwire.types import PeerState, Target

__all__ = ["Dialer"]


class Dialer(ABC):
    """Keeps one connection to one address, for the peers that are reached there."""

    is_preemptible = False
    """Whether the connection may be closed although it is in use."""

    def __init__(self, parts: DialerParts, address: Target) -> None:
        self._parts = parts
        self._runtime = parts.runtime
        self._endpoint = parts.endpoint
        self._slots = parts.slots
        self.address = address
        self.state = PeerState.IDLE
        # Instants of the monotonic clock. `PeerStatus` shows them as Unix time.
        self.since = monotonic()
        self.retry_at: float | None = None
        self.history = parts.new_history()
        """The past attempts, by the clock of the event loop."""
        self._ready: list[PeerSession] = []  # peers with messages, each once
        self._connecting: asyncio.Task[None] | None = None
        self._attempt: DialAttempt | None = None
        self._pause = RetryPause()

    # -- what a wire adds -----------------------------------------------------

    @abstractmethod
    def pump(self) -> None:
        """Write what can be written, or connect."""

    @abstractmethod
    async def _open(self, attempt: DialAttempt) -> None:
        """Connect, by `attempt.reach()`.

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
        self.history.hurry()
        self._pause.end()

    def grant_slot(self) -> None:
        """See `SlotUser`: connect now."""
        if self._attempt is not None:
            self._attempt.grant_slot()

    def call_off(self) -> None:
        """End an attempt whose slot is needed for another. The dialer waits for a slot again."""
        if self._attempt is not None:
            self._attempt.call_off()

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
            del self._ready[0]

    def _is_wanted(self) -> bool:
        """Whether messages wait for a connection. `_reroute()` comes before."""
        return bool(self._ready)

    async def _connect(self) -> None:
        """Dial until connected, or until no message waits."""
        loop, history, task = asyncio.get_running_loop(), self.history, asyncio.current_task()
        assert task is not None
        try:
            history.wanted(loop.time())
            while not task.cancelling():  # a network may turn CancelledError into DialError
                self._reroute()
                if not self._is_wanted():
                    break
                if pause := history.pause(loop.time()):
                    self.retry_at = monotonic() + pause
                    self.set_state(PeerState.BACKING_OFF)
                    await self._pause.wait(pause)
                    self.retry_at = None
                    continue  # the messages may have expired meanwhile
                self.set_state(PeerState.DIALING)
                if await self._dial():
                    return
            self.set_state(PeerState.IDLE)
        finally:
            if is_current(task):
                self._on_dialed()

    def _on_dialed(self) -> None:
        """Note the end of the attempts: connected, or no longer wanted."""
        self.retry_at = None
        self._connecting = None

    async def _dial(self) -> bool:
        """Make one attempt; return whether it has connected."""
        history, loop = self.history, asyncio.get_running_loop()
        history.begin_attempt()
        attempt = self._attempt = DialAttempt(self._parts, self.address)
        try:
            took = await attempt.run(self, self._open)
        except DialError as error:
            self._fail(history.outcome_of(error), Cause(str(error), error.kind))
            error.__traceback__ = None  # it refers to the link, which refers to the error
            return False
        except CalledOffError:
            history.ended(AttemptOutcome.CALLED_OFF, loop.time())
            self._slots.release(self)
            return False
        except BaseException:
            if not attempt.is_abandoned:
                self._slots.release(self)
            raise
        finally:
            self._attempt = None
        if history.opened(loop.time(), took):
            self._runtime.counters.reconnections += 1
        if self._slots.opened(self):  # else `evict()` was called
            self.set_state(PeerState.CONNECTED)
        extra = fields("connected", address=self.address)
        self._runtime.log.debug("connected to %s", self.address, extra=extra)
        self.pump()
        return True

    def _fail(self, outcome: AttemptOutcome, cause: Cause) -> None:
        """Note that an attempt has failed."""
        self._runtime.counters.dial_failures += 1
        self._on_ended(outcome, cause)

    def _on_lost(self, cause: Cause, *, was_used: bool = True) -> None:
        """Note the end of the connection, and decide when the next attempt may begin."""
        now = asyncio.get_running_loop().time()
        outcome = self.history.outcome_of_end(now, was_used=was_used)
        self._on_ended(outcome, cause.prefixed(f"connection to {self.address} ended: "))
        self.set_state(PeerState.IDLE)

    def _on_ended(self, outcome: AttemptOutcome, cause: Cause) -> None:
        """Note how an attempt or the connection ended. The slot is free again."""
        self.history.ended(outcome, asyncio.get_running_loop().time())
        self._slots.release(self)
        self.note_error(cause)
        if outcome.costs_attempt:
            self._charge_attempt(cause)

    def _charge_attempt(self, cause: Cause) -> None:
        """Count a failed attempt for the messages that wait."""
        for session in tuple(self._ready):
            session.sender.note_attempt_failed(cause)

    def note_error(self, cause: Cause) -> None:
        """Note a failure for `PeerStatus`, log it, and emit an event for each peer."""
        self.history.note_error(cause, monotonic())
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
