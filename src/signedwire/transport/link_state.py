"""The state of one v2 link: its session, its peer, and what has become of it."""

from __future__ import annotations

import asyncio
from functools import partial

from signedwire.clock import monotonic, stamp
from signedwire.delivery.peer_session import PeerSession
from signedwire.errors import Cause
from signedwire.transport.link_errors import dial_error
from signedwire.types import Address, Credit, Did, Target
from signedwire.wire.clock_offset import ClockOffset, Stamp
from signedwire.wire.header import STREAMS
from signedwire.wire.link_frames import Epochs
from signedwire.wire.send_window import SendWindow
from signedwire.wire.session import Closed, Session
from signedwire.wire.session_events import CLOSE_MISSING

__all__ = ["LinkState"]


class LinkState:
    """The state of a link. All of its parts read it; `Link`, `LinkEvents` and `LinkEnd` change it.

    Args:
        expected: The DID that was dialed; `None`: the connection was accepted.
        since: When the connection was dialed or accepted, by the monotonic clock.
        outcome: A future that is not done.
    """

    def __init__(self, expected: Did | None, since: float, outcome: asyncio.Future[None]) -> None:
        self.peer_session: PeerSession | None = None
        """The other side; `None`: it has not proven its DID yet."""
        self.session: Session | None = None
        """The wire session; `None` before the other side has proven its DID, and after the end."""
        self.is_known = expected is not None
        """Whether the other side was dialed, or has an address in the routing table."""
        self.is_dialed = expected is not None
        """Whether this node dialed the link."""
        self.has_heard = False
        """Whether the other side ever sent a byte."""
        self.is_open = False
        """Whether the HELLO of the peer has come, and the link has not ended."""
        self.is_over = False
        """Whether the link has ended."""
        self.has_progress = False
        """Whether the peer has answered a message that was sent over the link."""
        self.has_opened = False
        """Whether the link was ever open."""
        self.has_delivered = False
        """Whether the link has brought a new message."""
        self.closed: Closed | None = None
        """How the session ended; `None`: it has not ended, or the connection was cut."""
        self.cause = Cause("")
        """Why the link has ended."""
        self.since = since
        """When the link was dialed or accepted, then opened, by the monotonic clock."""
        self.read_clocks = partial(stamp, monotonic())
        """Reads both clocks for PING and PONG."""
        self._heard_at = 0.0
        self.outcome = outcome
        """Done when the link is open, or has failed to open with `DialError`."""

    @property
    def did(self) -> Did | None:
        """The DID that the other side has proven; `None`: none yet."""
        return None if self.peer_session is None else self.peer_session.did

    @property
    def is_costly(self) -> bool:
        """Whether the other side has lately cost more than it brought."""
        if not (self.is_known or self.has_progress or self.has_delivered):
            return True
        return self.session is not None and self.session.is_costly

    # -- see `LinkStatePort` ------------------------------------------------------------------

    @property
    def round_trip(self) -> float | None:
        """Seconds between PING and PONG; `None`: not measured yet."""
        return None if self.session is None else self.session.pings.round_trip

    @property
    def heard_at(self) -> float:
        """When the last frame of the peer came, by the clock of the event loop."""
        return self._heard_at if self.session is None else self.session.heard_at

    @property
    def clock_offset(self) -> ClockOffset | None:
        """How far the peer's clock is from ours now; `None`: not measured lately."""
        if self.session is None:
            return None
        return self.session.pings.clock_offset.estimate(Stamp(*self.read_clocks()))

    @property
    def window(self) -> SendWindow | None:
        """The bytes that may be under way to the peer; `None`: there is no session."""
        return None if self.session is None else self.session.outgoing.window

    @property
    def our_epochs(self) -> Epochs:
        """The epochs of our HELLO."""
        assert self.session is not None
        return self.session.our_epochs

    @property
    def their_epochs(self) -> Epochs:
        """The epochs of the peer's HELLO; 0: it has not come yet."""
        hello = None if self.session is None else self.session.their_hello
        return Epochs(0, 0) if hello is None else hello.epochs

    @property
    def credit_left(self) -> tuple[Credit, ...] | None:
        """By stream, the credit for what we may still send; `None`: there is no session."""
        session = self.session
        return None if session is None else tuple(map(session.credit_left, range(STREAMS)))

    def peer_credit_left(self, stream: int) -> Credit:
        """Return the credit of a stream for what the peer may still send."""
        assert self.session is not None
        return self.session.peer_credit_left(stream)

    # -- changes ------------------------------------------------------------------------------

    def note_open(self) -> float:
        """Note that the HELLO of the peer has come; return the seconds since the dial."""
        now = monotonic()
        took, self.since = now - self.since, now
        self.is_open = self.has_opened = True
        if not self.outcome.done():
            self.outcome.set_result(None)
        return took

    def note_over(self, cause: Cause, closed: Closed | None, address: Target | None) -> None:
        """Note that the link has ended. Fail the outcome if the link was never open."""
        self._heard_at = self.heard_at
        self.is_over = True
        self.is_open = False
        self.session = None
        self.cause = cause
        self.closed = closed
        if self.outcome.done():
            return
        error = dial_error(
            address or Address("?", 0),
            cause,
            is_silent=self.is_dialed and not self.has_heard,
            is_proven=self.did is not None,
            is_told=closed is not None and closed.is_by_peer and closed.code != CLOSE_MISSING,
        )
        self.outcome.set_exception(error)
        self.outcome.exception()  # retrieved: asyncio logs nothing if no task waits for it
