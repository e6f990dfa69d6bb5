"""Between the store of a node and its queues: what waits on the disk, and how it is sent.

    submit ─→ Store.put ─→ (commit) ─→ persisted ─→ PeerSender.lanes ─→ a link
                                          │              ↑
                                          └─ no room ────┘ loaded again when there is

A peer's queue holds the oldest of what waits for it; the rest stays on the disk
alone. A row leaves the store when its message is answered, expires, or is given up.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Final

from signedwire.clock import new_epoch
from signedwire.delivery.advice import UNANSWERED
from signedwire.delivery.deadlines import is_relative, moved
from signedwire.delivery.endpoint import Endpoint
from signedwire.delivery.message import OutgoingMessage
from signedwire.delivery.peer_session import PeerSession
from signedwire.delivery.ports import MessageQueue
from signedwire.delivery.store import Backlog, OutgoingRow, RowName, Store
from signedwire.delivery.streams import Refused
from signedwire.errors import (
    BackpressureError,
    Cause,
    ClosedError,
    StoreError,
    StoreFailedError,
    StoreFullError,
)
from signedwire.logs import fields
from signedwire.transport.backlog_cursor import BacklogCursor
from signedwire.transport.row_loader import RowLoader
from signedwire.transport.runtime import Runtime
from signedwire.types import DeliveryState, Did, Priority, Reason, unix_time_us
from signedwire.wire.header import epoch_of, expiry_of

__all__ = ["StoreDriver"]

_MAX_UNCOMMITTED: Final = 1024
"""Messages that wait for a commit, of all peers together. About what a queue holds: more are
read back from the disk right after, which cost a fifth of the rate at 1000 bytes."""
_PAGE: Final = 512
_DENIED: Final = "its peer is denied by node.access"
# A store can fail at any moment, in its own thread. That is reported where messages are
# stored; what only notes how far they have come has then nothing to note it in.
_WHILE_IT_WORKS: Final = contextlib.suppress(StoreFailedError, ClosedError)
_UNANSWERED: Final = frozenset(
    {DeliveryState.QUEUED, DeliveryState.PERSISTED, DeliveryState.WRITTEN}
)
_LONGEST_PAUSE: Final = 1.0
_TOP_DOWN: Final = sorted((int(priority) for priority in Priority), reverse=True)


class StoreDriver:
    """The `OutboxStore` of a node with a store. `put()` is for any thread.

    Args:
        runtime: What every part of the node works with.
        endpoint: The sessions of all peers.
        store: The store.
    """

    is_durable = True

    def __init__(self, runtime: Runtime, endpoint: Endpoint, store: Store) -> None:
        self._runtime = runtime
        self._endpoint = endpoint
        self.store = store
        self._rows = RowLoader(store, runtime.identity.did)
        self._lock = threading.Lock()
        self._cursors: dict[Did, BacklogCursor] = {}
        self._uncommitted = 0
        self._room_waiters: list[Callable[[], None]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._due_us: int | None = None
        self._is_look_due = False
        self._has_ended = False
        self._unmet: set[Did] = set()
        """Peers without a way to them, whose rows wait on the disk alone."""
        self._moves = 0  # how often deadlines on the disk were moved

    @property
    def failure(self) -> StoreError | None:
        """Why the store takes nothing more; `None`: it does."""
        return self.store.failure

    # -- life -----------------------------------------------------------------------------

    def start(self) -> None:
        """Take up what an earlier process has left."""
        self.store.on_expired = self._on_expired
        self.store.unmet.on_aged = self._on_aged
        self.store.is_in_use = self._endpoint.peers.is_known
        self.store.on_failed = self._on_failed
        self.store.observe_commits(partial(self._runtime.counters.observe, "commit_seconds"))
        self.store.clock_steps.on_moved = self._on_deadlines_moved
        self._runtime.routing.watch(self._on_routes)
        for did in self.store.recipients():
            self._cursor(did).must_scan = [True] * len(Priority)
            session = self._endpoint.peers.session(did)
            if self.store.has_spoken_v2(did):
                session.wire = "v2"
            assert session.sender.lanes is not None  # made here: `Node.peers()` lists the peer
            self._refill(session)
        self._watch_expiry()

    def _on_failed(self, error: StoreError) -> None:
        extra = fields("store failed", path=self._runtime.config.store)
        self._runtime.log.error("%s", error, extra=extra)

    def _on_routes(self) -> None:
        """A route has changed, in any thread: a peer without one may have one now."""
        if self._runtime.is_open and not self._is_look_due:
            self._is_look_due = True
            self._runtime.call_soon(self._look_for_stranded)

    def _look_for_stranded(self) -> None:
        self._is_look_due = False
        self._endpoint.send_stranded()
        unmet, self._unmet = self._unmet, set()
        for did in unmet:
            self._refill(self._endpoint.peers.session(did))

    def end(self) -> None:
        """No timer stays, and nobody waits any more for what waits on the disk alone."""
        self._has_ended = True
        if self._timer is not None:
            self._timer.cancel()
        self._wake_all()
        for cursor in tuple(self._cursors.values()):
            for receipt in self._receipts_of(cursor):
                if receipt.state is DeliveryState.PERSISTED:
                    receipt.detach()
                    receipt.release()

    def give_up_uncommitted(self) -> None:
        """The disk did not answer in time: nobody waits for it any more."""
        cause = "the disk did not answer while the node closed; whether it is stored is not known"
        for cursor in tuple(self._cursors.values()):
            for receipt in self._receipts_of(cursor):
                if receipt.state is DeliveryState.QUEUED:
                    receipt.advance(DeliveryState.FAILED, Reason.STORE_FAILED, cause)

    def _receipts_of(self, cursor: BacklogCursor) -> list[OutgoingMessage]:
        with self._lock:
            return list(cursor.receipts.values())

    async def flush(self, deadline: float) -> None:
        """Wait until what was submitted before is committed, or until `deadline`, loop time."""
        left = max(0.0, deadline - asyncio.get_running_loop().time())
        await asyncio.sleep(0)  # each `ack()` of this turn of the loop comes to the store
        with _WHILE_IT_WORKS, contextlib.suppress(TimeoutError):
            async with asyncio.timeout(left):
                await asyncio.wrap_future(self.store.flush())

    # -- into the store: any thread ---------------------------------------------------------

    def put(
        self,
        queue: MessageQueue,
        messages: list[OutgoingMessage],
        *,
        is_patient: bool = False,
        replaces: Sequence[int] = (),
    ) -> int:
        """Number messages and store them; their receipts tell when that is done.

        `replaces` are ids of dead letters, which go when these are stored.

        Raises:
            BackpressureError: too many wait for the disk; `when_room()` tells when it is back.
            StoreFullError, StoreFailedError: nothing was stored.
        """
        if self._uncommitted >= _MAX_UNCOMMITTED:
            raise BackpressureError(
                queue.did,
                Reason.QUEUE_FULL,
                f"{self._uncommitted} messages wait for the disk; "
                f"the message to {queue.did} was not queued",
                "Send slower, or `await node.send(…)`, which waits",
            )
        on_commit = partial(
            self._on_stored, queue.did, list(messages)
        )  # the caller may change its own
        is_met = self._has_way(queue.did)
        for message in messages:
            message.is_stored = True
        # Whoever loads a row must find the receipt that goes with it.
        with self._lock:
            self.store.put(
                queue.did, messages, replaces=replaces, on_commit=on_commit, is_met=is_met
            )
            self._uncommitted += len(messages)
            receipts = self._cursor(queue.did).receipts
            for message in messages:
                receipts[message.priority, message.row] = message
        return len(messages)

    def has_room(self, queue: MessageQueue, priority: int) -> bool:
        """Whether the disk has caught up."""
        return self._uncommitted <= _MAX_UNCOMMITTED // 2

    def when_room(self, queue: MessageQueue, wake: Callable[[], None]) -> bool:
        """Have `wake` called when the disk has caught up; `False`: it has."""
        if self._uncommitted <= _MAX_UNCOMMITTED // 2 or self._has_ended:
            return False
        self._room_waiters.append(wake)
        return True

    def forget_room(self, queue: MessageQueue, wake: Callable[[], None]) -> None:
        """Withdraw a wake-up of `when_room()`."""
        if wake in self._room_waiters:
            self._room_waiters.remove(wake)

    def _wake_all(self) -> None:
        wakes, self._room_waiters = self._room_waiters, []
        for wake in wakes:
            wake()

    def _cursor(self, did: Did) -> BacklogCursor:
        cursor = self._cursors.get(did)
        if cursor is None:
            cursor = self._cursors.setdefault(did, BacklogCursor())
        return cursor

    # -- the loop: from the store to the queue ----------------------------------------------

    def _on_stored(
        self, did: Did, messages: list[OutgoingMessage], error: StoreError | None
    ) -> None:
        with self._lock:
            self._uncommitted -= len(messages)
        if self._room_waiters and self._uncommitted <= _MAX_UNCOMMITTED // 2:
            self._wake_all()
        session = self._endpoint.peers.session(did)
        sender = session.sender
        if error is not None:
            # Full after all: what seemed to have expired did not make the room.
            is_full = isinstance(error, StoreFullError)
            reason = Reason.QUEUE_FULL if is_full else Reason.STORE_FAILED
            for message in messages:
                message.is_stored = False
                sender.give_up(message, reason, error.fact)
            return
        cursor, now = self._cursor(did), unix_time_us()
        is_met = self._look_for_way(did)
        for message in messages:
            message.transition(DeliveryState.PERSISTED, now)
            if self._has_ended:
                message.detach()
                message.release()
                continue
            lane, row = message.priority, message.row
            was_behind = cursor.is_behind(lane)
            cursor.committed_row[lane] = max(cursor.committed_row[lane], row)
            if message.is_final:
                continue  # removed already: there is nothing to load
            if row <= cursor.loaded_row[lane]:
                continue  # loaded already: this very object is in its lane, or beyond
            if (
                epoch_of(message.body) == sender.epoch  # else numbered before a restart
                and is_met
                and not was_behind
                and sender.lanes.put(message, lane)
            ):
                cursor.loaded_row[lane] = row
            else:
                message.release()  # to be loaded
        if self._has_ended:
            return
        if messages[0].expires_at is not None or not is_met:
            self._watch_expiry()
        self._endpoint.send_waiting(session)
        self._refill(session)

    def _refill(self, session: PeerSession) -> None:
        """Load a page of the highest lane that is behind, if its queue has room."""
        did = session.did
        session = self._endpoint.peers.session(did)
        cursor = self._cursor(did)
        if cursor.is_loading or not self._runtime.is_open or self.store.failure is not None:
            return
        if self._endpoint.access.denies(did):
            self.give_up_denied(session.sender)
            return
        if not self._look_for_way(did):
            self._unmet.add(did)
            return
        lanes = session.sender.lanes
        for lane in _TOP_DOWN:
            if cursor.is_behind(lane):
                # A page of a higher lane does not wait for the lower ones.
                if lanes.has_room(lane) or not lanes.size(lane):
                    with _WHILE_IT_WORKS:
                        self._load(session, cursor, lane)
                elif not cursor.is_waiting:
                    cursor.is_waiting = True
                    wake = partial(self._runtime.call_soon, self._on_room, session)
                    if not lanes.when_room(wake):
                        wake()
                return

    def _has_way(self, did: Did) -> bool:
        peers = self._endpoint.peers
        return peers.has_way(did, peers.get(did))

    def _look_for_way(self, did: Did) -> bool:
        """Whether there is a way to a peer; the store is told. In the loop."""
        has_way = self._has_way(did)
        with _WHILE_IT_WORKS:
            self.store.unmet.set_met(did, has_way)
        return has_way

    def give_up_denied(self, queue: MessageQueue) -> None:
        """Make dead letters of what waits on the disk, if the peer is denied still."""
        did = queue.did
        if not self.store.backlog(did).rows:
            return
        last = self.store.unmet.last_rows(did)
        # Asked after that: whatever is put later may have been put when the peer was let in.
        if not self._endpoint.access.denies(did):
            self._refill(self._endpoint.peers.session(did))
            return
        with _WHILE_IT_WORKS:
            gone = self.store.unmet.dead_letter_up_to(did, last, Reason.DENIED, _DENIED)
            gone.add_done_callback(partial(self._runtime.call_soon, self._on_buried, did))

    def _on_buried(self, did: Did, gone: Future[list[RowName]]) -> None:
        if gone.cancelled() or gone.exception() is not None:
            return  # the store has failed or closed, which is reported elsewhere
        if names := gone.result():
            self.removed(names, Reason.DENIED, _DENIED)
            # There may be more than one transaction takes.
            self.give_up_denied(self._endpoint.peers.session(did).sender)

    def _on_room(self, session: PeerSession) -> None:
        self._cursor(session.did).is_waiting = False
        self._refill(session)

    def _load(self, session: PeerSession, cursor: BacklogCursor, lane: int) -> None:
        future = self.store.load(session.did, lane, cursor.loaded_row[lane], _PAGE)
        cursor.is_loading = True
        version = cursor.restarts, self._moves
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
        session = self._endpoint.peers.session(did)
        cursor = self._cursor(did)
        cursor.is_loading = False
        if future.cancelled() or future.exception() is not None:
            return  # the store has failed or closed, which is reported elsewhere
        if version != (cursor.restarts, self._moves):
            self._refill(session)  # these have an epoch that has ended, or deadlines of before
            return
        rows = future.result()
        with self._lock:  # whoever is in `put()` has entered its receipts then
            held = [cursor.receipts.get((lane, row.row)) for row in rows]
        messages = self._rows.messages(session.sender, cursor, lane, rows, held)
        if rows:
            cursor.loaded_row[lane] = rows[-1].row
        else:
            cursor.must_scan[lane] = False
            cursor.loaded_row[lane] = max(cursor.loaded_row[lane], committed_row)
        session.sender.lanes.add_many(messages, lane)
        if messages:
            self._endpoint.send_waiting(session)
        self._refill(session)

    # -- epochs ---------------------------------------------------------------------------

    def epoch(self, did: Did) -> int | None:
        """The epoch of the messages to a peer. Any thread."""
        with _WHILE_IT_WORKS:
            return self.store.epoch(did)
        return new_epoch()

    def is_ahead(self, did: Did, marks: Sequence[int]) -> bool:
        """Whether the peer has accepted, in our own epoch, sequences that are ours to give.

        So it is where the file is an old copy and our clock has gone back since, or where
        another process uses our key and our store's copy now.
        """
        return any(
            mark > self.store.lane(did, lane).written_sequence for lane, mark in enumerate(marks)
        )

    def learn(self, did: Did, marks: Sequence[int]) -> bool:
        """Take up the peer's marks; whether they show that the store is an old copy."""
        return self.store.learn(did, marks)

    def restart(self, queue: MessageQueue, epoch: int, marks: Sequence[int] | None) -> None:
        """The peer has heard from a later state of this key: load everything anew.

        `marks` are what it had accepted in the epoch that ends, `None` where that is not
        known: to send that again in another would deliver it twice.
        """
        did = queue.did
        self.store.begin_epoch(did, epoch)
        cursor = self._cursor(did)
        # Above what earlier processes used, the numbers are of messages of this one.
        used = [self.store.lane(did, lane).first_sequence - 1 for lane in range(len(Priority))]
        cursor.accepted = used if marks is None else list(map(min, marks, used))
        queue.lanes.remove_if(lambda message: message.is_stored)
        cursor.loaded_row = [0] * len(Priority)
        cursor.must_scan = [True] * len(Priority)
        cursor.restarts += 1
        self._refill(self._endpoint.peers.session(did))

    # -- the loop: what becomes of rows -----------------------------------------------------

    def written(self, did: Did, messages: list[OutgoingMessage]) -> None:
        """A link has taken these."""
        with _WHILE_IT_WORKS:
            for lane, row in {one.priority: one.row for one in messages}.items():
                self.store.written(did, lane, row)

    def settled(self, did: Did, messages: Iterable[OutgoingMessage]) -> None:
        """These need nothing more."""
        names = [(message.priority, message.row) for message in messages if message.is_stored]
        if names:
            with _WHILE_IT_WORKS:
                self.store.settled(did, names)

    def refused(self, did: Did, refused: Iterable[Refused]) -> None:
        """The peer does not take these: dead letters, but for what came too late."""
        by_reason: dict[Reason, list[tuple[int, int]]] = {}
        with _WHILE_IT_WORKS:
            for message, reason, name, body in refused:
                if name is not None:
                    by_reason.setdefault(reason, []).append((message.priority, message.row))
                elif reason is not Reason.EXPIRED:
                    why = "the peer's application refused it"
                    self.store.dead_letter_accepted(did, body, reason, why)
            for reason, names in by_reason.items():
                if reason is Reason.EXPIRED:
                    self.store.settled(did, names)
                else:
                    self.store.dead_letter(did, names, reason, "the peer refused it")

    def ended(self, message: OutgoingMessage, reason: Reason, cause: str) -> None:
        """The message was given up here."""
        did, name = message.recipient, (message.priority, message.row)
        with _WHILE_IT_WORKS:
            if reason is Reason.EXPIRED:
                self.store.settled(did, [name])
            else:
                self.store.dead_letter(did, [name], reason, cause)

    def doubt(self, message: OutgoingMessage) -> str:
        """What to tell of a message without an answer: whether its peer may have it.

        A process that was killed has not noted all that it had written.
        """
        if not message.is_stored:
            return UNANSWERED if message.was_written else ""
        return self._doubt_of_row(message.recipient, message.priority, message.row)

    def _doubt_of_row(self, did: Did, lane: int, row: int) -> str:
        return UNANSWERED if self.store.lane(did, lane).may_be_written(row) else ""

    def attempt_failed(self, did: Did, cause: Cause) -> None:
        """The peer could not be reached."""
        with _WHILE_IT_WORKS:
            self.store.attempt_failed(did, cause)

    def reached(self, did: Did) -> None:
        """The peer could be reached."""
        with _WHILE_IT_WORKS:
            self.store.reached(did)
        if did in self._unmet:
            self._unmet.discard(did)
            self._refill(self._endpoint.peers.session(did))

    def backlog(self, did: Did) -> Backlog | None:
        """How much waits for a peer."""
        return self.store.backlog(did)

    def has_spoken_v2(self, did: Did) -> bool:
        """Whether the DID has ever proven itself over v2. Any thread."""
        return self.store.has_spoken_v2(did)

    def note_v2(self, did: Did) -> None:
        """A DID has proven itself over v2."""
        with _WHILE_IT_WORKS:
            self.store.note_v2(did)

    def removed(self, names: Iterable[RowName], reason: Reason, cause: str = "") -> None:
        """Rows are gone. What is in flight is not sent again.

        `cause` is what their receipts tell; by default whether their peers may have them.
        """
        by_peer: dict[Did, set[tuple[int, int]]] = {}
        for did, lane, row in names:
            by_peer.setdefault(did, set()).add((lane, row))
        for did, those in by_peer.items():
            self._removed_of(did, those, reason, cause)

    def _removed_of(
        self, did: Did, names: set[tuple[int, int]], reason: Reason, cause: str
    ) -> None:
        sender, cursor = self._endpoint.peers.session(did).sender, self._cursor(did)
        is_expired = reason is Reason.EXPIRED
        for message in sender.lanes.remove_if(
            lambda message: message.is_stored and (message.priority, message.row) in names
        ):
            names.remove((message.priority, message.row))
            why = cause or self.doubt(message)
            message.is_stored = False  # no row to be buried
            sender.give_up(message, reason, why)
        state = DeliveryState.EXPIRED if is_expired else DeliveryState.FAILED
        for name in names:  # on the disk alone, or in flight
            receipt = cursor.receipts.get(name)
            # Queued: the commit of its removal is reported before that of the message.
            if receipt is None or receipt.state in _UNANSWERED or not is_expired:
                sender.note_failed(reason)
                if receipt is not None:
                    receipt.advance(state, reason, cause or self._doubt_of_row(did, *name))

    # -- deadlines and clocks -----------------------------------------------------------------

    def is_held(self) -> bool:
        """Whether nothing may be sent now: the wall clock was set. See `Store`."""
        return self.store.look_at_clock()

    def on_clock_step(self) -> None:
        """The wall clock was set."""
        self.store.look_at_clock()
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._due_us = None
        self._watch_expiry()

    def _on_deadlines_moved(self, by_us: int) -> None:
        """The rows have their new deadlines: so have the messages that wait here."""
        self._moves += 1
        for did in tuple(self._cursors):
            session = self._endpoint.peers.session(did)
            lanes = session.sender.lanes
            opened_at = [self.store.lane(did, lane).opened_at for lane in range(len(Priority))]
            for message in lanes:
                due = expiry_of(message.body) if message.sequence else None
                if (
                    due is not None
                    and is_relative(due)
                    and not message.was_written
                    and message.is_stored
                    and message.row >= opened_at[message.priority]
                ):
                    message.body = moved(message.body, by_us)
            if lanes:
                self._endpoint.send_waiting(session)
            self._refill(session)

    def _watch_expiry(self) -> None:
        due = self.store.next_expiry_us
        if due is None or (self._due_us is not None and self._due_us <= due):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._due_us = due
        # Not longer: the clock may be set.
        pause = min(max(0.001, (due - unix_time_us()) / 1e6), _LONGEST_PAUSE)
        self._timer = self._runtime.call_later(pause, self._expire)

    def _expire(self) -> None:
        self._timer = self._due_us = None
        due = self.store.next_expiry_us
        if due is not None and due > unix_time_us():
            self._watch_expiry()
        elif self._runtime.is_open:
            with _WHILE_IT_WORKS:
                self.store.expire(self._on_looked)

    def _on_looked(self, error: StoreError | None) -> None:
        if error is None and self._runtime.is_open:
            self._watch_expiry()

    def _on_expired(self, names: list[RowName]) -> None:
        self.removed(names, Reason.EXPIRED)

    def _on_aged(self, names: list[RowName]) -> None:
        self.removed(names, Reason.AGED_OUT, self.store.unmet.words_of_age)
