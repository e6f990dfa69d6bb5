"""What the outbox knows of the rows that wait in the store for one peer."""

from __future__ import annotations

from weakref import WeakValueDictionary

from signedwire.delivery.message import OutgoingMessage
from signedwire.types import Priority

__all__ = ["Stock"]


class Stock:
    """Which rows of one peer wait on the disk alone, lane by lane."""

    __slots__ = (
        "accepted",
        "is_loading",
        "is_unknown",
        "is_waiting",
        "loaded",
        "receipts",
        "restarts",
        "told",
    )

    def __init__(self) -> None:
        self.loaded = [0] * len(Priority)
        """The highest row that came into the queue."""
        self.told = [0] * len(Priority)
        """The highest that was told to be stored."""
        self.is_unknown = [False] * len(Priority)
        """Whether rows of an earlier process may wait."""
        self.is_loading = False
        self.is_waiting = False
        """Whether it is to be called when the queue has room."""
        self.restarts = 0
        """How often everything was to be loaded anew."""
        self.accepted = [0] * len(Priority)
        """The highest sequence of earlier processes that the peer had accepted when the epoch
        changed."""
        self.receipts: WeakValueDictionary[tuple[int, int], OutgoingMessage] = WeakValueDictionary()
        """Of messages that wait, for as long as somebody holds them."""

    def is_behind(self, lane: int) -> bool:
        """Whether rows of the lane wait on the disk alone."""
        return self.is_unknown[lane] or self.told[lane] > self.loaded[lane]
