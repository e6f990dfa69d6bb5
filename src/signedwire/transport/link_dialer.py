"""Dials v2 links to one DID at one address, and keeps one up once there was one."""

from __future__ import annotations

import asyncio
from typing import Final

from signedwire.delivery.dial_history import AttemptOutcome
from signedwire.delivery.peer_session import PeerSession
from signedwire.delivery.ports import LinkPort
from signedwire.errors import Cause, ConnectTimeout, DialError, FailureKind
from signedwire.transport.dial_attempt import DialAttempt, DialerParts
from signedwire.transport.dialer import Dialer
from signedwire.transport.link import Link
from signedwire.types import PeerState, Target
from signedwire.wire import link_frames as frames
from signedwire.wire.session_events import Closed

__all__ = ["LinkDialer"]

_UNWANTED: Final = frozenset(
    {
        frames.CLOSE_DUPLICATE_LINK,
        frames.CLOSE_EVICTED,
        frames.CLOSE_DENIED,
        frames.CLOSE_TOO_MANY,
    }
)


class LinkDialer(Dialer):
    """Dials one peer over v2. `PeerSession.link` is the open link, whichever side dialed it."""

    is_preemptible = True

    def __init__(self, parts: DialerParts, address: Target, session: PeerSession) -> None:
        super().__init__(parts, address)
        self._session = session
        self._link: Link | None = None
        """The link of this dialer, opening or open."""
        self._is_opening = False
        self._is_kept = False

    def pump(self) -> None:
        link = self._session.link
        if link is not None:
            link.pump()
        elif self._session.sender.lanes:
            self.connect()

    def _reroute(self) -> None:
        self._endpoint.reroute((self._session,))

    def _is_wanted(self) -> bool:
        if (
            self._session.link is not None
            or self._session.sender.dialer is not self
            or self._session.wire == "v1"
        ):
            return False
        return bool(self._session.sender.lanes) or self._is_kept

    async def _open(self, attempt: DialAttempt) -> None:
        history = self.history
        link = self._link = Link(
            self._runtime, self._endpoint, expected=self._session.did, dialer=self
        )
        self._is_opening = True
        try:
            await attempt.reach(link)
            await self._opened(link)
            if link.state.is_over:
                # The link opened and ended at once, as a second link to the same peer does.
                raise DialError(self.address, link.state.cause)
        except BaseException as error:
            if attempt.is_abandoned:
                raise
            if link.state.is_open and isinstance(error, DialError | asyncio.CancelledError):
                # It opened before the attempt was cut short, so it takes its slot. After
                # `retire()` it stays, and is not dialed again.
                is_retired = isinstance(error, asyncio.CancelledError) and not attempt.is_called_off
                self._is_kept = not is_retired
                return
            self._link = None
            link.abort()
            if not link.state.has_opened:  # or `on_link_over()` was called
                closed = link.state.closed
                history.is_excused = self._session.count_end(closed, has_progress=False)
                if self._is_unwanted(closed):
                    self._is_kept = False
            kind = error.kind if isinstance(error, DialError) else None
            if kind is FailureKind.TURNED_AWAY:
                self._session.denies_us = True
            if kind is FailureKind.HUNG_UP_ON_TLS:
                history.is_excused = self._endpoint.note_hang_up(self._session)
            else:
                self._session.hang_ups = 0
                # The slots of the peer are taken: the messages do not lose an attempt for that.
                history.is_excused |= kind is FailureKind.FULL
            raise
        finally:
            self._is_opening = False
        self._is_kept = True

    async def _opened(self, link: Link) -> None:
        timeout = self._runtime.config.handshake_timeout
        try:
            async with asyncio.timeout(timeout):
                await asyncio.shield(link.state.outcome)
        except TimeoutError:
            cause, kind = f"no handshake within {timeout:g} s", FailureKind.NO_HANDSHAKE
            raise ConnectTimeout(self.address, cause, kind=kind) from None

    def _on_dialed(self) -> None:
        super()._on_dialed()
        # A message was queued while the attempt was called off for another peer.
        is_left = (
            self._session.link is None
            and self._session.sender.lanes
            and self._session.sender.dialer is self
        )
        if is_left and self._runtime.is_open:
            self.connect()

    def _users(self) -> list[PeerSession]:
        is_used = self._session.has_sender and self._session.sender.dialer is self
        return [self._session] if is_used else []

    def _fail(self, outcome: AttemptOutcome, cause: Cause) -> None:
        is_linked = self._session.link is not None and outcome is AttemptOutcome.FAILED
        if is_linked or self._session.wire == "v1":
            # The peer has dialed a link, or is reached over v1 from now on.
            outcome = AttemptOutcome.NEEDLESS
        super()._fail(outcome, cause)

    def _charge_attempt(self, cause: Cause) -> None:
        self._endpoint.context.store.attempt_failed(self._session.did, cause)
        self._session.sender.note_attempt_failed(cause)

    def retire(self) -> None:
        """Stop dialing: the peer is reached in another way. An open link stays."""
        self._is_kept = False
        if self._connecting is not None:
            self._connecting.cancel()

    def _is_unwanted(self, closed: Closed | None) -> bool:
        """Whether the peer is not dialed again merely to keep a link up.

        The other side has another link. If this side has none, both have closed the link that the
        other side kept: their HELLOs had crossed. Then this side dials again.
        """
        if closed is None or closed.code not in _UNWANTED:
            return False
        return closed.code != frames.CLOSE_DUPLICATE_LINK or self._session.link is not None

    def on_link_over(
        self, link: LinkPort, cause: Cause, closed: Closed | None, *, is_excused: bool
    ) -> None:
        """See `LinkDialerPort`."""
        if link is not self._link:
            return  # this side has closed the link
        if self._is_opening:
            self.history.is_excused = is_excused
            return  # `_open()` is about to see its end
        self._link = None
        if self._is_unwanted(closed):
            self._is_kept = False
        self._on_lost(cause)
        if not is_excused and not link.state.has_progress:
            # No message got through, however long the link was open.
            self._session.sender.note_attempt_failed(cause)
        # Even after a long time: or all peers of a node that restarts would return at once.
        spread = 2 * self._runtime.config.retry_base_delay
        self.history.add_pause(self._runtime.rng.uniform(0, spread))
        if closed is not None and closed.code == frames.CLOSE_UNAVAILABLE:
            self.history.add_pause()  # the disk of the peer is not repaired in a moment
        if self._runtime.is_open and (self._session.sender.lanes or self._is_kept):
            self.connect()

    @property
    def round_trip(self) -> float | None:
        return None if self._link is None else self._link.state.round_trip

    @property
    def is_idle(self) -> bool:
        # Also while the link opens: it is then only kept open for later messages.
        return self.is_settled

    @property
    def is_settled(self) -> bool:
        return not self._session.sender.lanes and self._session.sender.streams.is_empty

    def evict(self) -> None:
        self.retire()
        link, self._link = self._link, None
        if link is not None:
            link.close(frames.CLOSE_EVICTED, "made room for another peer")
        self.set_state(PeerState.IDLE)

    def _close_link(self) -> None:
        link, self._link = self._link, None
        if link is not None:
            link.abort()
