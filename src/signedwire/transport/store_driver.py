"""Drives the outgoing side of a store: messages are stored, loaded into queues, and removed.

    submit ─→ Store.put ─→ (commit) ─→ persisted ─→ PeerSender.lanes ─→ a link
                                          │              ↑
                                          └─ no room ────┘ loaded when there is room

The queue to a peer has the oldest messages that wait for it; the store alone has the others.
A row is removed when its message is answered, expires, or is given up. `backlog_loader` loads
messages. The decisions are in `delivery`: `backlog_cursor`, `commit_window`,
`message_restorer`, `removed_rows` and `send_progress`.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

from signedwire.delivery.backlog_cursor import BacklogCursors
from signedwire.delivery.commit_window import CommitWindow
from signedwire.delivery.endpoint import Endpoint
from signedwire.delivery.outgoing_message import OutgoingMessage
from signedwire.delivery.ports import MessageQueue
from signedwire.delivery.removed_rows import RemovedRows
from signedwire.delivery.send_progress import SendProgress
from signedwire.delivery.store import UNLESS_FAILED, RowName, Store
from signedwire.errors import BackpressureError, StoreError, StoreFullError
from signedwire.logs import fields
from signedwire.transport.backlog_loader import BacklogLoader
from signedwire.transport.expiry_timer import ExpiryTimer
from signedwire.transport.runtime import Runtime
from signedwire.types import DeliveryState, Did, Priority, Reason, unix_time_us

__all__ = ["StoreDriver"]

_MAX_UNCOMMITTED: Final = 1024
"""Maximum number of messages to all peers that wait for a commit, about the size of a queue.
With more, queues overflow and rows are read back: a fifth of the rate at 1000 bytes."""
_NO_ANSWER: Final = (
    "the disk did not answer while the node closed; whether the message is stored is unknown"
)


class StoreDriver(SendProgress):
    """The `OutboxStore` of a node with a store. Except `put()`, methods run in the loop.

    Args:
        runtime: What every part of the node works with.
        endpoint: The sessions of all peers.
        store: The store.
    """

    def __init__(self, runtime: Runtime, endpoint: Endpoint, store: Store) -> None:
        super().__init__(store)
        self._runtime = runtime
        self._endpoint = endpoint
        self._cursors = BacklogCursors(threading.Lock())
        self._window = CommitWindow(_MAX_UNCOMMITTED, threading.Lock())
        progress = SendProgress(store)
        self.removed_rows = RemovedRows(endpoint.sessions, self._cursors, progress)
        """Ends the messages of rows that were removed."""
        self._loader = BacklogLoader(runtime, endpoint, store, self._cursors, self.removed_rows)
        self._expiry = ExpiryTimer(runtime, store)
        self._has_ended = False

    # -- start and end ----------------------------------------------------------------------

    def start(self) -> None:
        """Load the messages that an earlier process has left."""
        store = self.store
        store.on_expired = self._on_expired
        store.unmet.on_aged = self._on_aged
        store.is_in_use = self._endpoint.sessions.is_known
        store.on_failed = self._on_failed
        store.observe_commits(partial(self._runtime.counters.observe, "commit_seconds"))
        store.clock_steps.on_moved = self._loader.on_deadlines_moved
        self._runtime.routing.watch(self._loader.on_routes)
        for did in store.recipients():
            session = self._endpoint.sessions.session(did)
            if store.has_spoken_v2(did):
                session.wire = "v2"
            self._loader.restore(session.sender)  # made here, so `Node.peers()` has the peer
        self._expiry.watch()

    def _on_failed(self, error: StoreError) -> None:
        extra = fields("store failed", path=self._runtime.config.store)
        self._runtime.log.error("%s", error, extra=extra)

    def end(self) -> None:
        """Stop the timer, and end the waits for messages that are in the store alone."""
        self._has_ended = True
        self._expiry.end()
        self._window.end()
        for receipt in self._cursors.receipts():
            if receipt.state is DeliveryState.PERSISTED:
                receipt.detach()
                receipt.release()

    def give_up_uncommitted(self) -> None:
        """Fail the messages that wait for a commit, because the disk did not answer in time."""
        for receipt in self._cursors.receipts():
            if receipt.state is DeliveryState.QUEUED:
                receipt.advance(DeliveryState.FAILED, Reason.STORE_FAILED, _NO_ANSWER)

    async def flush(self, deadline: float) -> None:
        """Wait until everything submitted before is committed, or until `deadline`, loop time."""
        left = max(0.0, deadline - asyncio.get_running_loop().time())
        await asyncio.sleep(0)  # each `ack()` of this turn of the loop comes to the store
        with UNLESS_FAILED, contextlib.suppress(TimeoutError):
            async with asyncio.timeout(left):
                await asyncio.wrap_future(self.store.flush())

    # -- into the store ---------------------------------------------------------------------

    def put(
        self,
        queue: MessageQueue,
        messages: list[OutgoingMessage],
        *,
        is_patient: bool = False,
        replaces: Sequence[int] = (),
    ) -> int:
        """Number messages and store them. Any thread.

        The receipts become `persisted` with the commit.

        Args:
            queue: The queue to their peer.
            messages: The messages; a copy of the list is kept.
            is_patient: Whether the caller retries. If so, it is not counted that too many messages
                wait for a commit. Messages that the full store refuses are always counted.
            replaces: Ids of dead letters, which are removed in the same commit.

        Returns:
            The number of messages: all of them.

        Raises:
            BackpressureError: too many messages wait for a commit; see `when_room()`.
            StoreFullError, StoreFailedError: nothing was stored.
        """
        if self._window.is_full:
            if not is_patient:
                self._runtime.drop_refused(queue.did, queue.dropped, len(messages))
            raise BackpressureError(
                queue.did,
                Reason.QUEUE_FULL,
                f"{self._window.waiting} messages wait for the disk; "
                f"the message to {queue.did} was not queued",
                "Send slower, or `await node.send(…)`, which waits",
            )
        did, count = queue.did, len(messages)
        on_commit = partial(self._on_stored, did, list(messages))
        is_met = self._endpoint.sessions.has_way(did)
        for message in messages:
            message.is_stored = True
        try:
            with self._cursors.lock:
                self.store.put(did, messages, replaces=replaces, on_commit=on_commit, is_met=is_met)
                self._window.add(count)
                receipts = self._cursors[did].receipts
                for message in messages:
                    receipts[message.priority, message.row] = message
        except StoreFullError:
            self._runtime.drop_refused(did, queue.dropped, count)
            raise
        return count

    def has_room(self, queue: MessageQueue, stream: int) -> bool:
        """Whether at most half as many messages wait for a commit as may. Any thread."""
        return self._window.has_room

    def when_room(
        self, queue: MessageQueue, wake: Callable[[], None], *, is_durable: bool = True
    ) -> bool:
        """Call `wake`, once, when there is room, or the node closes; `False`: now already."""
        return self._window.when_room(wake)

    def forget_room(self, queue: MessageQueue, wake: Callable[[], None]) -> None:
        """Withdraw a call that `when_room()` has registered."""
        self._window.forget_room(wake)

    def _on_stored(
        self, did: Did, messages: list[OutgoingMessage], error: StoreError | None
    ) -> None:
        self._window.remove(len(messages))
        session = self._endpoint.sessions.session(did)
        sender = session.sender
        if error is not None:
            # A full store is reported here if too few rows had expired to make room.
            is_full = isinstance(error, StoreFullError)
            reason = Reason.QUEUE_FULL if is_full else Reason.STORE_FAILED
            for message in messages:
                message.is_stored = False
            sender.give_up_many(messages, reason, error.fact)
            return
        cursor, now = self._cursors[did], unix_time_us()
        is_met = self._loader.look_for_way(did)
        epoch = sender.streams.durable.epoch if is_met else None
        for message in messages:
            message.transition(DeliveryState.PERSISTED, now)
            if self._has_ended:
                message.detach()
                message.release()
            else:
                cursor.commit(message, sender.lanes, epoch)
        if self._has_ended:
            return
        if messages[0].expires_at is not None or not is_met:
            self._expiry.watch()
        self._endpoint.send_waiting(session)
        self._loader.refill(did)

    # -- changes of the epoch, the peer and the clock ---------------------------------------

    def restart(self, queue: MessageQueue, epoch: int, marks: Sequence[int] | None) -> None:
        """Begin a new epoch with a peer, and load all of its messages again.

        Args:
            queue: The queue to the peer.
            epoch: The new epoch.
            marks: The highest sequence of each lane that the peer had accepted in the epoch
                that ends; `None` if unknown. Messages up to there would arrive twice, so
                they fail with reason `stale_epoch`.
        """
        did, store = queue.did, self.store
        store.begin_epoch(did, epoch)
        # Higher numbers are of messages of this process.
        used = [store.lane(did, lane).first_sequence - 1 for lane in range(len(Priority))]
        queue.lanes.remove_if(lambda message: message.is_stored)
        self._cursors[did].restart(used, marks)
        self._loader.refill(did)

    def reached(self, did: Did) -> None:
        """Record that the peer could be reached, and load its messages if none were loaded."""
        super().reached(did)
        self._loader.on_reached(did)

    def give_up_denied(self, queue: MessageQueue) -> None:
        """Make dead letters of the messages to a peer in the store, if it is still denied."""
        self._loader.give_up_denied(queue)

    def _on_expired(self, names: list[RowName]) -> None:
        self.removed_rows.end(names, Reason.EXPIRED)

    def _on_aged(self, names: list[RowName]) -> None:
        self.removed_rows.end(names, Reason.AGED_OUT, self.store.unmet.age_detail)

    def look_at_clock(self) -> bool:
        """See `Store.look_at_clock()`."""
        return self.store.look_at_clock()

    def on_clock_step(self) -> None:
        """Move deadlines and the timer, because the wall clock was set."""
        self.store.look_at_clock()
        self._expiry.on_clock_step()
