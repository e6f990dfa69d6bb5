"""What the transport knows of one DID that it sends to."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from typing import TYPE_CHECKING, Literal

from signedwire.delivery.lanes import Lanes
from signedwire.delivery.message import OutgoingMessage
from signedwire.delivery.streams import SendStream
from signedwire.types import Address, Did, Reason

if TYPE_CHECKING:
    from signedwire.transport.dialer import Dialer
    from signedwire.transport.link import Link

__all__ = ["Peer"]


class Peer:
    """The queue to one DID, and the way to it."""

    __slots__ = (
        "dialer",
        "did",
        "dropped",
        "failures",
        "hang_ups",
        "is_ready",
        "lanes",
        "link",
        "room",
        "route",
        "since",
        "stream",
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
        self.since = time.time()
        """When it was first sent to or heard of: Unix time, seconds."""
        self.is_ready = False
        """Whether the core has been told that messages wait."""
        self.dropped: Counter[Reason] = Counter()
