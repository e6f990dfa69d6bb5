"""Tracks which stored messages of a peer are in its queue, and which only in the store.

A queue holds the oldest rows of each lane; the store loads the others when there is room.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Final
from weakref import WeakValueDictionary

from signedwire.delivery.outgoing_message import OutgoingMessage
from signedwire.delivery.send_queue import SendQueue
from signedwire.delivery.store import OutgoingRow
from signedwire.types import Did, Priority
from signedwire.wire.header import epoch_of

__all__ = ["BacklogCursor", "BacklogCursors"]

_LANES: Final = len(Priority)
_TOP_DOWN: Final = sorted(map(int, Priority), reverse=True)


class BacklogCursor:
    """Position in the rows of one peer, lane by lane: up to which row the queue has them."""

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
        self.loaded_row = [0] * _LANES
        """The highest row that came into the queue."""
        self.committed_row = [0] * _LANES
        """The highest row of this process that is committed."""
        self.must_scan = [False] * _LANES
        """Whether rows of an earlier process may wait."""
        self.is_loading = False
        """Whether a page of rows is being read."""
        self.is_waiting = False
        """Whether the queue calls when it has room."""
        self.restarts = 0
        """Number of changes of the epoch; a page that was read before one is outdated."""
        self.accepted = [0] * _LANES
        """The highest sequence of earlier processes that the peer had accepted when the epoch
        changed."""
        self.receipts: WeakValueDictionary[tuple[int, int], OutgoingMessage] = WeakValueDictionary()
        """Messages that wait, by lane and row, for as long as somebody holds their receipts."""

    def is_behind(self, lane: int) -> bool:
        """Whether rows of the lane wait in the store alone."""
        return self.must_scan[lane] or self.committed_row[lane] > self.loaded_row[lane]

    def next_lane(self) -> int | None:
        """Return the highest lane that is behind; `None` if the queue has every row."""
        for lane in _TOP_DOWN:
            if self.is_behind(lane):
                return lane
        return None

    def commit(
        self, message: OutgoingMessage, lanes: SendQueue[OutgoingMessage], epoch: int | None
    ) -> None:
        """Put a committed message into its lane, or drop its bytes: its row is loaded later.

        A message comes into the lane only behind all rows before it, and if there is room.

        Args:
            message: The message; its state is persisted, or final if its row was removed.
            lanes: The queue of its peer.
            epoch: The epoch in which messages are sent now; a message with another one was
                numbered before a restart. `None`: no message may be queued now.
        """
        lane, row = message.priority, message.row
        was_behind = self.is_behind(lane)
        if row > self.committed_row[lane]:
            self.committed_row[lane] = row
        if message.is_final or row <= self.loaded_row[lane]:
            return  # its row was removed, or was loaded into this very object
        if (
            epoch is not None
            and epoch_of(message.body) == epoch
            and not was_behind
            and lanes.put(message, lane)
        ):
            self.loaded_row[lane] = row
        else:
            message.release()

    def page_loaded(self, lane: int, rows: Sequence[OutgoingRow], committed_row: int) -> None:
        """Move the position behind a page of rows, or to the end of the lane if it is empty.

        Args:
            lane: The lane of the page.
            rows: The rows that were read behind `loaded_row`.
            committed_row: `committed_row` of the lane when the page was requested.
        """
        if rows:
            self.loaded_row[lane] = rows[-1].row
        else:
            self.must_scan[lane] = False
            self.loaded_row[lane] = max(self.loaded_row[lane], committed_row)

    def scan_all(self) -> None:
        """Load every row, because an earlier process may have left some."""
        self.must_scan = [True] * _LANES

    def restart(self, used: Sequence[int], marks: Sequence[int] | None) -> None:
        """Begin again at the first row of each lane, because the epoch has changed.

        Args:
            used: The highest sequence of each lane that earlier processes can have given.
            marks: The highest sequences that the peer had accepted in the epoch that ends;
                `None` if they are not known, so that it may have accepted all of `used`.
        """
        self.accepted = list(used if marks is None else map(min, marks, used))
        self.loaded_row = [0] * _LANES
        self.scan_all()
        self.restarts += 1


class BacklogCursors(dict[Did, BacklogCursor]):
    """The cursors of all peers; a missing one is made. Any thread.

    Args:
        lock: A mutex. A caller holds it while it stores messages and enters them in
            `receipts`, so that a thread that finds a row also finds its receipt.
    """

    def __init__(self, lock: AbstractContextManager[object]) -> None:
        super().__init__()
        self.lock = lock

    def __missing__(self, did: Did) -> BacklogCursor:
        return self.setdefault(did, BacklogCursor())

    def receipts(self) -> Iterator[OutgoingMessage]:
        """Iterate over the stored messages of all peers whose receipts somebody holds."""
        for cursor in tuple(self.values()):
            with self.lock:
                held = list(cursor.receipts.values())
            yield from held

    def held(
        self, cursor: BacklogCursor, lane: int, rows: Sequence[OutgoingRow]
    ) -> list[OutgoingMessage | None]:
        """Return for each row the message whose receipt somebody holds, if there is one."""
        with self.lock:
            return [cursor.receipts.get((lane, row.row)) for row in rows]
