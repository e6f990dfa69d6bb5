"""Loads the messages that are in the store alone into the queues to their peers.

A queue has the oldest messages of each lane. When it has room, a page of rows is read in the
thread of the store, and its messages come behind them. `delivery.backlog_cursor` knows which
rows the queue has, `delivery.message_restorer` makes messages of them.
"""

from __future__ import annotations

from concurrent.futures import Future
from functools import partial
from typing import Final

from signedwire.delivery.backlog_cursor import BacklogCursor, BacklogCursors
from signedwire.delivery.endpoint import Endpoint
from signedwire.delivery.message_restorer import MessageRestorer
from signedwire.delivery.peer_session import PeerSession
from signedwire.delivery.ports import MessageQueue
from signedwire.delivery.removed_rows import RemovedRows
from signedwire.delivery.store import UNLESS_FAILED, OutgoingRow, RowName, Store
from signedwire.transport.runtime import Runtime
from signedwire.types import Did, Reason

__all__ = ["BacklogLoader"]

_PAGE: Final = 512
"""Maximum number of rows that are read at a time."""
_DENIED: Final = "its peer is denied by node.access"


class BacklogLoader:
    """Loads rows into queues; messages to denied peers become dead letters. In the loop.

    Args:
        runtime: The loop, our DID, and whether the node is open.
        endpoint: The sessions of all peers, and who is denied.
        store: The store.
        cursors: The cursors of all peers.
        removed: Ends the messages of removed rows.
    """

    def __init__(
        self,
        runtime: Runtime,
        endpoint: Endpoint,
        store: Store,
        cursors: BacklogCursors,
        removed: RemovedRows,
    ) -> None:
        self._runtime = runtime
        self._endpoint = endpoint
        self._store = store
        self._cursors = cursors
        self._removed = removed
        self._restorer = MessageRestorer(store, runtime.identity.did)
        self._is_look_due = False
        self._unmet: set[Did] = set()
        """Peers without a route or link, whose messages are in the store alone."""
        self._clock_steps = 0
        """Number of times that deadlines in the store were moved."""

    def restore(self, queue: MessageQueue) -> None:
        """Load messages that an earlier process has left, as far as the queue has room."""
        self._cursors[queue.did].scan_all()
        self.refill(queue.did)

    def refill(self, did: Did) -> None:
        """Load a page of the highest lane that is behind, if the queue to the peer has room."""
        cursor = self._cursors[did]
        lane = cursor.next_lane()
        if lane is None or cursor.is_loading:
            return
        if not self._runtime.is_open or self._store.failure is not None:
            return
        session = self._endpoint.sessions.session(did)
        if self._endpoint.access.denies(did):
            self.give_up_denied(session.sender)
            return
        if not self.look_for_way(did):
            self._unmet.add(did)
            return
        lanes = session.sender.lanes
        # A lane that is empty is loaded even if lower lanes fill the queue.
        if lanes.has_room(lane) or not lanes.size(lane):
            with UNLESS_FAILED:
                self._load(session, cursor, lane)
        elif not cursor.is_waiting:
            cursor.is_waiting = True
            wake = partial(self._runtime.call_soon, self._on_room, did)
            if not lanes.when_room(wake, is_durable=True):
                wake()

    def _on_room(self, did: Did) -> None:
        self._cursors[did].is_waiting = False
        self.refill(did)

    def _load(self, session: PeerSession, cursor: BacklogCursor, lane: int) -> None:
        future = self._store.load(session.did, lane, cursor.loaded_row[lane], _PAGE)
        cursor.is_loading = True
        version = cursor.restarts, self._clock_steps
        on_loaded = partial(self._on_loaded, session.did, lane, version, cursor.committed_row[lane])
        future.add_done_callback(partial(self._runtime.call_soon, on_loaded))

    def _on_loaded(
        self,
        did: Did,
        lane: int,
        version: tuple[int, int],
        committed_row: int,
        future: Future[list[OutgoingRow]],
    ) -> None:
        session, cursor = self._endpoint.sessions.session(did), self._cursors[did]
        cursor.is_loading = False
        if future.cancelled() or future.exception() is not None:
            return  # the store has failed or closed, which is reported elsewhere
        # A page of an earlier epoch, or with deadlines of before a clock step, is outdated.
        if version == (cursor.restarts, self._clock_steps):
            rows = future.result()
            held = self._cursors.held(cursor, lane, rows)
            messages = self._restorer.messages(session.sender, cursor, lane, rows, held)
            cursor.page_loaded(lane, rows, committed_row)
            session.sender.lanes.add_many(messages, lane)
            if messages:
                self._endpoint.send_waiting(session)
        self.refill(did)

    # -- peers without a way, and denied peers ------------------------------------------------

    def look_for_way(self, did: Did) -> bool:
        """Return whether there is a way to a peer, and record it in the store."""
        has_way = self._endpoint.sessions.has_way(did)
        with UNLESS_FAILED:
            self._store.unmet.set_met(did, has_way)
        return has_way

    def on_reached(self, did: Did) -> None:
        """Load the messages to a peer that had no route when they were to be loaded."""
        if did in self._unmet:
            self._unmet.discard(did)
            self.refill(did)

    def on_routes(self) -> None:
        """Load messages to peers that had no way, because a route has changed. Any thread."""
        if self._runtime.is_open and not self._is_look_due:
            self._is_look_due = True
            self._runtime.call_soon(self._refill_unmet)

    def _refill_unmet(self) -> None:
        self._is_look_due = False
        unmet, self._unmet = self._unmet, set()
        for did in unmet:
            self.refill(did)

    def give_up_denied(self, queue: MessageQueue) -> None:
        """Make dead letters of the messages to a peer in the store, if it is still denied."""
        did, unmet = queue.did, self._store.unmet
        if not self._store.backlog(did).rows:
            return
        # The last rows are read before the access list is asked: a message that is stored
        # after that may have been submitted while the peer was allowed.
        last = unmet.last_rows(did)
        if not self._endpoint.access.denies(did):
            self.refill(did)
            return
        with UNLESS_FAILED:
            gone = unmet.dead_letter_up_to(did, last, Reason.DENIED, _DENIED)
            gone.add_done_callback(partial(self._runtime.call_soon, self._on_dead, queue))

    def _on_dead(self, queue: MessageQueue, gone: Future[list[RowName]]) -> None:
        if gone.cancelled() or gone.exception() is not None:
            return  # the store has failed or closed, which is reported elsewhere
        if names := gone.result():
            self._removed.end(names, Reason.DENIED, _DENIED)
            # One transaction takes a bounded number of rows; there may be more.
            self.give_up_denied(self._endpoint.sessions.session(queue.did).sender)

    # -- clocks -------------------------------------------------------------------------------

    def on_deadlines_moved(self, by_us: int) -> None:
        """Move the deadlines of the messages in the queues, as those of their rows were."""
        self._clock_steps += 1
        for did in tuple(self._cursors):
            session = self._endpoint.sessions.session(did)
            lanes = session.sender.lanes
            self._restorer.move_deadlines(did, lanes, by_us)
            if lanes:
                self._endpoint.send_waiting(session)
            self.refill(did)
