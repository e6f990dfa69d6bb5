"""What the transport knows of one DID that it sends to."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING, Final, Literal

from signedwire import clock
from signedwire.delivery.lanes import Lanes
from signedwire.delivery.message import OutgoingMessage
from signedwire.delivery.store import Backlog
from signedwire.delivery.streams import SendStream
from signedwire.errors import Cause, kind_of
from signedwire.stats import PeerStatus
from signedwire.types import Address, Did, PeerState, Reason
from signedwire.wire.link_frames import CLOSE_DENIED, CLOSE_TOO_MANY

if TYPE_CHECKING:
    from signedwire.transport.dialer import Dialer
    from signedwire.transport.link import Link
    from signedwire.wire.session import Closed

__all__ = ["Peer"]

_EXCUSED_ENDS: Final = 3
"""Orderly ends in a row without one answer, before each further one counts as an attempt."""


class Peer:
    """The queue to one DID, and the way to it."""

    __slots__ = (
        "denies_us",
        "dialer",
        "did",
        "dropped",
        "failures",
        "hang_ups",
        "is_ready",
        "lanes",
        "last_error",
        "last_error_at",
        "link",
        "orderly_ends",
        "return_timer",
        "room",
        "route",
        "since",
        "stream",
        "their_epoch",
        "wire",
    )

    def __init__(self, did: Did, lanes: Lanes[OutgoingMessage], stream: SendStream) -> None:
        self.did = did
        self.lanes = lanes
        self.stream = stream
        """The numbers of what was sent over v2 links."""
        self.dialer: Dialer | None = None
        """Who connects to it, once something was sent."""
        self.link: Link | None = None
        """The open v2 link, whoever dialed it."""
        self.wire: Literal["v1", "v2"] | None = None
        """What it speaks, where that is known. v2 is for ever, v1 until the connection ends."""
        self.route: tuple[int, Address | None] = -1, None
        """The version of the routing table, and what it said. One value: threads share it."""
        self.room: asyncio.Future[None] | None = None
        """Resolved when a full queue has room again; shared by all who wait for it."""
        self.failures = 0
        """Attempts to reach the peer that failed, ever."""
        self.hang_ups = 0
        """How often in a row it hung up on TLS."""
        self.denies_us = False
        """Whether it turned us away when we were last linked or dialed it."""
        self.orderly_ends = 0
        """How many links in a row it has ended in an orderly way without an answer."""
        self.their_epoch = 0
        """Of its last HELLO; 0: none yet."""
        self.return_timer: asyncio.TimerHandle | None = None
        """Until when messages wait for a peer that can be reached only when it dials us."""
        self.since = clock.monotonic()
        """When it was first heard of, or its last link ended, by the monotonic clock."""
        self.last_error: Cause | None = None
        """Why its last link ended."""
        self.last_error_at: float | None = None
        self.is_ready = False
        """Whether the core has been told that messages wait."""
        self.dropped: Counter[Reason] = Counter()

    def stop_waiting(self) -> None:
        """It has come back, or nobody waits for it any more."""
        if self.return_timer is not None:
            self.return_timer.cancel()
            self.return_timer = None

    def is_end_excused(self, closed: Closed | None, *, has_landed: bool) -> bool:
        """Whether the end of a link to it costs what was on its way no attempt; call it once.

        An orderly one is excused, but not time after time without one answer in between.
        """
        self.denies_us = closed is not None and closed.is_by_peer and closed.code == CLOSE_DENIED
        if closed is None or not closed.is_orderly:
            return False
        if has_landed:
            self.orderly_ends = 0
        elif closed.is_by_peer and closed.code != CLOSE_TOO_MANY:
            self.orderly_ends += 1  # one that is full may be so for long
        return self.orderly_ends <= _EXCUSED_ENDS

    def abandon(self, reason: Reason, detail: str) -> None:
        """Of what the peer has accepted so far nothing more will be heard."""
        for receipt in self.stream.followed():
            receipt.abandon(reason, detail)

    def status(self, stored: Backlog | None = None) -> PeerStatus:
        """How it is doing, `stored` being what waits for it in the store. Any thread."""
        link, dialer, now = self.link, self.dialer, clock.now()

        def unix(instant: float | None) -> float | None:
            return None if instant is None else clock.to_unix(instant, now)

        if link is not None:
            state, since = PeerState.CONNECTED, link.since
        elif dialer is not None:
            state, since = dialer.state, dialer.since
        else:
            state, since = PeerState.IDLE, self.since
        last_error = self.last_error if dialer is None else dialer.last_error
        return PeerStatus(
            did=self.did,
            wire=self.wire,
            address=dialer.address if dialer is not None else link.address if link else None,
            state=state,
            since=clock.to_unix(since, now),
            last_error=None if last_error is None else str(last_error),
            last_error_kind=kind_of(last_error),
            last_error_at=unix(self.last_error_at if dialer is None else dialer.last_error_at),
            retry_at=unix(None if dialer is None else dialer.retry_at),
            round_trip=link.round_trip if link else dialer.round_trip if dialer else None,
            queued=self.lanes.sizes(),
            stored=stored,
            in_flight=self.stream.in_flight,
            overdue=None if link is None else link.answers.overdue,
            credit=None if link is None else link.credit,
            failed_attempts=self.failures,
            dropped=dict(self.dropped),
            denies_us=self.denies_us and link is None,
        )
