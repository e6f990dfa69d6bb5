"""What a session tells its driver."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, TypeAlias

from signedwire.types import Reason
from signedwire.wire import link_frames as frames
from signedwire.wire.link_frames import Hello, Receipts, Refusal

__all__ = [
    "BatchFailed",
    "BatchReceived",
    "Closed",
    "CreditReceived",
    "Event",
    "HelloReceived",
    "ReceiptsReceived",
    "RefusalsReceived",
    "StallNoticed",
]

CLOSE_UNSAID: Final = -1
"""In place of a close code: the channel ended, and nobody had said why."""
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
    """Envelopes whose signature fits arrived."""

    bodies: list[bytes]
    """Header and payload of each."""
    root: bytes
    leaves: list[bytes]
    signature: bytes


@dataclass(frozen=True, slots=True)
class BatchFailed:
    """Envelopes arrived whose signature does not fit. None of them may be believed."""

    bodies: list[bytes]


@dataclass(frozen=True, slots=True)
class ReceiptsReceived:
    """The peer has signed that it accepted or handled what is named."""

    receipts: Receipts


@dataclass(frozen=True, slots=True)
class RefusalsReceived:
    """The peer will not accept these."""

    refusals: tuple[Refusal, ...]


@dataclass(frozen=True, slots=True)
class CreditReceived:
    """More may be sent."""


@dataclass(frozen=True, slots=True)
class StallNoticed:
    """Our own loop stood still; the peer is not blamed for it."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Closed:
    """The session has ended; no further event follows."""

    code: int
    """A close code of `wire.link_frames`."""
    cause: str
    """In words."""
    is_by_peer: bool
    """Whether the peer said so, rather than we."""
    reason: Reason | None = None
    """What it is counted as; `None`: it is no fault of the peer."""

    @property
    def is_orderly(self) -> bool:
        """Whether it says nothing against what was on its way."""
        return self.code in _ORDERLY


Event: TypeAlias = (
    HelloReceived
    | BatchReceived
    | BatchFailed
    | ReceiptsReceived
    | RefusalsReceived
    | CreditReceived
    | StallNoticed
    | Closed
)
