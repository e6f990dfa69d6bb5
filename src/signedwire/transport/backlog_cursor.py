"""Which rows of one peer wait in the store alone."""

from __future__ import annotations

from weakref import WeakValueDictionary

from signedwire.delivery.message import OutgoingMessage
from signedwire.types import Priority

__all__ = ["BacklogCursor"]


class BacklogCursor:
    """How far the rows of one peer were loaded into its queue, lane by lane."""

    __slots__ = (
        "accepted",
        "committed_row",
        "is_loading",
        "is_waiting",
        "loaded_row",
        "must_scan",
        "receipts",
        "restarts",
    )

    def __init__(self) -> None:
        self.loaded_row = [0] * len(Priority)
        """The highest row that came into the queue."""
        self.committed_row = [0] * len(Priority)
        """The highest row of this process that is committed."""
        self.must_scan = [False] * len(Priority)
        """Whether rows of an earlier process may wait."""
        self.is_loading = False
        """Whether a page of rows is being read."""
        self.is_waiting = False
        """Whether the queue calls when it has room."""
        self.restarts = 0
        """How often everything was to be loaded anew."""
        self.accepted = [0] * len(Priority)
        """The highest sequence of earlier processes that the peer had accepted when the epoch
        changed."""
        self.receipts: WeakValueDictionary[tuple[int, int], OutgoingMessage] = WeakValueDictionary()
        """Messages that wait, by lane and row, for as long as somebody holds their receipts."""

    def is_behind(self, lane: int) -> bool:
        """Whether rows of the lane wait in the store alone."""
        return self.must_scan[lane] or self.committed_row[lane] > self.loaded_row[lane]
