"""Events that a session returns to its driver."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, TypeAlias

from signedwire.types import Reason
from signedwire.wire import link_frames as frames
from signedwire.wire.copies import Copies
from signedwire.wire.link_frames import Hello, Receipts

__all__ = [
    "BatchFailed",
    "BatchReceived",
    "Closed",
    "RoomReceived",
    "Event",
    "HelloReceived",
    "ReceiptsReceived",
    "StallNoticed",
]

CLOSE_MISSING: Final = -1
"""Takes the place of a close code if the channel ended without a CLOSE from either end."""
_ORDERLY: Final = frozenset(
    {
        frames.CLOSE_DONE,
        frames.CLOSE_DUPLICATE_LINK,
        frames.CLOSE_EVICTED,
        frames.CLOSE_STALE_EPOCH,
        frames.CLOSE_TOO_MANY,
        frames.CLOSE_UNAVAILABLE,
    }
)


@dataclass(frozen=True, slots=True)
class HelloReceived:
    """The link is open."""

    hello: Hello


@dataclass(frozen=True, slots=True)
class BatchReceived:
    """A batch of envelopes with a valid signature has arrived."""

    bodies: list[bytes]
    """Header and payload of each envelope."""
    root: bytes
    leaves: list[bytes]
    signature: bytes
    """64 bytes; if it is joint, 96 with the receipt hash before it (`wire.joint`)."""
    copies: Copies | None = None
    """Places of the envelopes in the signed tree; `None`: they are the whole tree."""

    @property
    def size(self) -> int:
        """Size of the batch in bytes, as credit counts it."""
        size = sum(map(len, self.bodies))
        return size if self.copies is None else size + self.copies.overhead


@dataclass(frozen=True, slots=True)
class BatchFailed:
    """A batch with an invalid signature has arrived. None of its envelopes is proven."""

    bodies: list[bytes]


@dataclass(frozen=True, slots=True)
class ReceiptsReceived:
    """Signed answers to batches or envelopes have arrived."""

    receipts: Receipts


@dataclass(frozen=True, slots=True)
class RoomReceived:
    """The peer has granted more credit, or has read what filled the window."""


@dataclass(frozen=True, slots=True)
class StallNoticed:
    """Our own event loop stalled, so the peer's timeouts were extended."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Closed:
    """The session has ended; no further event follows."""

    code: int
    """A close code of `wire.link_frames`."""
    cause: str
    """The cause, as text for people."""
    is_by_peer: bool
    """Whether the peer closed the session, rather than this end."""
    reason: Reason | None = None
    """The reason under which the close is counted; `None`: the peer made no fault."""

    @property
    def is_orderly(self) -> bool:
        """Whether the close is part of normal operation, not a fault or a failure."""
        return self.code in _ORDERLY


Event: TypeAlias = (
    HelloReceived
    | BatchReceived
    | BatchFailed
    | ReceiptsReceived
    | RoomReceived
    | StallNoticed
    | Closed
)
