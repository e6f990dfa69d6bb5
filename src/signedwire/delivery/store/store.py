"""`Store`: the durable state of a node. `MemoryStore` and `SqliteStore` implement it.

    put ──→ outgoing ──settled, expire──→ gone
                     ──dead_letter──→ dead letters ──drop_dead, put(replaces)──→ gone
    accept ──→ unacked ──acked──→ gone          also stores the marks and the leaves

Any thread may call. A change returns at once; its callback `on_commit` runs after the
commit, with `None`, or with the `StoreError` of the failed commit. A query returns a
`concurrent.futures.Future`, and sees everything submitted before it. `dispatch` chooses
where callbacks run: `loop.call_soon_threadsafe` wakes the loop once per commit.

Guarantees:

- The sequences of a lane rise in the order of the `put()` calls, and callbacks run in
  that order. A caller that queues each message in its `on_commit` sends in order.
- A sequence is never used twice. That also holds for the next process, and for one
  that opens an old copy of the file, because each process starts at a sequence made
  from the time. Many sequences are never used.
- A change is on the disk when `on_commit(None)` is called; see also `barrier()`.
- A row is removed only by a call that is named above, by its deadline (`on_expired`), or
  because its peer stays unmet (`unmet.on_aged`).
- After a failed commit every operation fails, also those that wait, and nothing more
  is acknowledged; `failure` has the cause. Whether the changes of that commit are on
  the disk is unknown until the file is opened again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from functools import partial
from statistics import median
from typing import Final, TypeVar

from signedwire.clock import new_epoch
from signedwire.delivery.store.access import AccessRules
from signedwire.delivery.store.clock_steps import ClockSteps
from signedwire.delivery.store.commits import Executor, Operation
from signedwire.delivery.store.ledger import LaneRecord, Ledger, PeerRecord
from signedwire.delivery.store.records import (
    ALL_ACCEPTED,
    MAX_ROW,
    Backlog,
    DeadLetter,
    Draft,
    IncomingRow,
    Marks,
    OnCommit,
    OutgoingRow,
    RememberedLeaves,
    RowName,
    StoreLimits,
    StoreStats,
    Unaccepted,
)
from signedwire.delivery.store.stored_values import lanes_of, set_committed_marks, storable
from signedwire.delivery.store.tables import PAGE_BYTES, BatchRow, Row
from signedwire.delivery.store.unmet import UnmetPeers
from signedwire.delivery.store.work import Work
from signedwire.errors import SignedWireError, StoreError
from signedwire.types import Did, Priority, Reason, unix_time_us
from signedwire.wire.header import expiry_of
from signedwire.wire.session import BatchReceived

__all__ = ["Store"]

T = TypeVar("T")

_CRITICAL: Final = int(Priority.CRITICAL)
# Many at a time, because each search visits all peers.
_FORGOTTEN_AT_ONCE: Final = 1000
_MAX_EPOCH: Final = 2**63 - 1


class Store:
    """The interface of a store. `MemoryStore` and `SqliteStore` implement it."""

    def __init__(self, owner: Did, work: Work, executor: Executor) -> None:
        self.owner = owner
        """DID of the node that the store belongs to."""
        self._work = work
        self._executor = executor
        self._ledger = work.ledger
        self._lock = work.ledger.lock
        self.is_in_use: Callable[[Did], bool] = lambda _: False
        """Called in any thread; returns whether a peer must not be forgotten now."""
        self.clock_steps = ClockSteps(work, executor)
        """Moves deadlines after `look_at_clock()`; its `on_moved` runs where `on_commit` does."""
        self.access = AccessRules(work, executor)
        self.unmet = UnmetPeers(work, executor)

    # -- sending ----------------------------------------------------------------------

    def epoch(self, recipient: Did) -> int:
        """Return the epoch of our messages to a peer, for HELLO; the first call makes it.

        The epoch stays the same over restarts, because the numbers do.
        """
        with self._lock:
            peer = self._peer(recipient)
            if not peer.epoch:
                # Rises in any case: the clock may be set back after the store forgot the peer.
                peer.epoch = new_epoch()
                self._submit(partial(self._ledger.changed_peers.add, peer), is_lazy=True)
            return peer.epoch

    def begin_epoch(self, recipient: Did, epoch: int, on_commit: OnCommit | None = None) -> None:
        """Number all messages to a peer in a newer epoch.

        This is needed after the file was restored from an old copy. Waiting rows keep
        their sequences and change their bytes, so loaded rows must be loaded again.

        Raises:
            ValueError: `epoch` is not newer.
        """
        with self._lock:
            peer = self._peer(recipient)
            if not peer.epoch < epoch <= _MAX_EPOCH:
                raise ValueError(f"epoch {epoch} is not between {peer.epoch + 1} and 2^63-1")
            peer.epoch = epoch
            self._submit(partial(self._ledger.changed_peers.add, peer), on_commit)
        self._executor.flush()

    def lane(self, recipient: Did, lane: int) -> LaneRecord:
        """Return the counts of a lane: the numbers given, and the rows handed to a link."""
        return self._peer(recipient).lanes[lane]

    def learn(self, recipient: Did, marks: Sequence[int]) -> bool:
        """Record a peer's marks; return whether the file, as an old copy, lacks some of them.

        Missing marks alone do no harm: each process uses sequences of its own.
        """
        with self._lock:
            lanes = self._peer(recipient).lanes
            newer = [
                (lane, mark)
                for lane, mark in zip(lanes, marks, strict=True)
                if lane.known < mark < lane.base + lane.opened_at
            ]
            for lane, mark in newer:
                lane.known = mark
        return bool(newer)

    def put(
        self,
        recipient: Did,
        drafts: Sequence[Draft],
        *,
        replaces: Sequence[int] = (),
        on_commit: OnCommit | None = None,
        is_met: bool = True,
    ) -> None:
        """Number messages and store them, all or none, in place of the dead letters `replaces`.

        `is_met` is whether the recipient has a route or had a link; see `UnmetPeers`.

        When this returns, each draft has its number and its body. It may be sent when
        `on_commit(None)` is called, not before. After `on_commit(StoreFullError)` the
        numbers are void: too few rows had expired to make room.

        Raises:
            StoreFullError: a limit is reached; nothing was stored.
            StoreFailedError, ClosedError: the store takes nothing more.
        """
        size = sum(draft.size for draft in drafts)
        is_critical = all(draft.priority == _CRITICAL for draft in drafts)
        ledger = self._ledger
        with self._lock:
            self.look_at_clock()
            peer = self._peer(recipient)
            self.unmet.set_met(recipient, is_met)
            limit = ledger.reached_limit(peer, len(drafts), size, is_critical=is_critical)
            if limit is not None and not ledger.is_any_expired(unix_time_us()):
                raise ledger.full(peer, limit)
            parties, epoch = bytes(self.owner) + bytes(recipient), self.epoch(recipient)
            rows: list[Row] = []
            for draft in drafts:
                lane = peer.lanes[draft.priority]
                draft.row = lane.next
                draft.number(parties, epoch, lane.base + draft.row)
                rows.append((lane.row_id(lane.next), expiry_of(draft.body), draft.body))
                lane.next += 1
            age = None if is_met else unix_time_us() + int(self.limits.max_unmet_age * 1e6)
            put: Callable[[], object] = partial(self._work.put, rows, replaces, age)
            if limit is not None:
                # Room is reserved when the operation runs: earlier ones may need it.
                put = partial(self._work.put_if_room, put, peer, len(rows), size, is_critical)
                self._submit(put, on_commit, weight=len(rows))
            else:
                ledger.reserve(peer, len(rows), size)
                try:
                    self._submit(put, on_commit, weight=len(rows))
                except SignedWireError:
                    ledger.reserve(peer, -len(rows), -size)
                    raise
        self._executor.flush()

    def written(self, recipient: Did, lane: int, row: int) -> None:
        """Record that a link has taken a lane up to `row`. Stored with the next commit."""
        with self._lock:
            record = self._peer(recipient).lanes[lane]
            if row > record.written:
                record.written = row
                self._submit(partial(self._ledger.changed_lanes.add, record), is_lazy=True)

    def attempt_failed(self, recipient: Did, error: str) -> None:
        """Count a failed attempt to reach the peer. Stored with the next commit."""
        with self._lock:
            peer = self._peer(recipient)
            peer.attempts += 1
            peer.last_error, peer.last_error_at_us = storable(error), unix_time_us()
            self._submit(partial(self._ledger.changed_peers.add, peer), is_lazy=True)

    def reset_attempts(self, recipient: Did) -> None:
        """Reset the count of failed attempts to reach the peer. Stored with the next commit."""
        with self._lock:
            peer = self._peer(recipient)
            if peer.attempts:
                peer.attempts = 0
                self._submit(partial(self._ledger.changed_peers.add, peer), is_lazy=True)

    def settled(
        self, recipient: Did, names: Iterable[tuple[int, int]], on_commit: OnCommit | None = None
    ) -> None:
        """Remove the rows of messages that were receipted or expired, by (lane, row)."""
        with self._lock:
            ids = self._ids(recipient, names)
            self._submit(partial(self._work.tables.remove, ids), on_commit, weight=len(ids))
        self._executor.flush()

    def dead_letter(
        self,
        recipient: Did,
        names: Iterable[tuple[int, int]],
        reason: Reason,
        detail: str = "",
        on_commit: OnCommit | None = None,
    ) -> None:
        """Make dead letters of messages that were refused or given up, by (lane, row)."""
        with self._lock:
            ids, now = self._ids(recipient, names), unix_time_us()
            self._submit(
                partial(self._work.tables.dead_letter, ids, reason, storable(detail), now),
                on_commit,
            )
        self._executor.flush()

    def dead_letter_accepted(
        self,
        recipient: Did,
        body: bytes,
        reason: Reason,
        detail: str = "",
        on_commit: OnCommit | None = None,
    ) -> None:
        """Add a dead letter for a message refused after acceptance, when its row is gone."""
        with self._lock:
            peer, now = self._peer(recipient), unix_time_us()
            add = partial(self._work.tables.add_dead, peer.id, body, reason, storable(detail), now)
            self._submit(add, on_commit)
        self._executor.flush()

    @property
    def on_expired(self) -> Callable[[list[RowName]], None] | None:
        """Callback for rows that were removed because of their deadline; runs like `on_commit`."""
        return self._work.on_expired

    @on_expired.setter
    def on_expired(self, callback: Callable[[list[RowName]], None] | None) -> None:
        self._work.on_expired = callback

    @property
    def next_expiry_us(self) -> int | None:
        """When to call `expire()`: Unix time, microseconds; may be early, never late."""
        return self._ledger.next_expiry_us

    def expire(self, on_commit: OnCommit | None = None) -> None:
        """Remove up to 10,000 rows whose deadline has passed; calls `on_expired`."""
        with self._lock:
            self.look_at_clock()
            self._submit(self._work.expire, on_commit)
        self._executor.flush()

    def look_at_clock(self) -> bool:
        """If the wall clock was set, move the deadlines that were given in seconds.

        Rows are changed first. After the commit, `clock_steps.on_moved` changes the messages
        in memory. Returns whether that is still due: until then, no message may be sent,
        because its bytes would differ from those of its row. Any thread.
        """
        with self._lock:
            return self.clock_steps.look()

    def load(
        self, recipient: Did, lane: int, after: int, limit: int, max_bytes: int = PAGE_BYTES
    ) -> Future[list[OutgoingRow]]:
        """Return the rows of a lane above the row `after`, in order.

        At most `limit` rows and `max_bytes` of bodies, but at least one row.
        """
        record = self._peer(recipient).lanes[lane]
        first, last = record.row_id(0) + after + 1, record.row_id(MAX_ROW)
        return self._ask(partial(self._work.outgoing, first, last, limit, max_bytes))

    def backlog(self, recipient: Did | None = None) -> Backlog:
        """Return the backlog of a peer, or of all, including messages being committed.

        Messages that fit only if expired rows make room count after their commit.
        """
        counted: Ledger | PeerRecord | None = self._ledger
        if recipient is not None:
            counted = self._ledger.peers.get(recipient)
        return Backlog(0, 0) if counted is None else Backlog(counted.rows, counted.bytes)

    def recipients(self) -> list[Did]:
        """Return the peers with waiting messages."""
        with self._lock:
            return [peer.did for peer in self._ledger.by_id.values() if peer.rows]

    # -- looking ----------------------------------------------------------------------

    def outbox(
        self, recipient: Did | None = None, *, after: int = 0, limit: int = 100
    ) -> Future[list[OutgoingRow]]:
        """Return outgoing rows, peer by peer and lane by lane, behind the id `after`."""
        first, last = after + 1, 2**63 - 1
        if recipient is not None:
            peer = self._ledger.peers.get(recipient)
            first, last = (1, 0) if peer is None else (max(first, peer.first_row), peer.last_row)
        return self._ask(partial(self._work.outgoing, first, last, limit, PAGE_BYTES))

    def show(self, id_: int) -> Future[OutgoingRow | None]:
        """Return one outgoing row, or `None`."""
        return self._ask(lambda: next(iter(self._work.outgoing(id_, id_, 1, 0)), None))

    def drop(self, ids: Sequence[int]) -> Future[list[RowName]]:
        """Remove outgoing rows; return those that existed. A row in flight may still arrive."""
        return self._ask(partial(self._work.drop, ids))

    def dead_letters(
        self, recipient: Did | None = None, *, after: int = 0, limit: int = 100
    ) -> Future[list[DeadLetter]]:
        """Return dead letters, oldest first, behind the id `after`.

        At most `limit` of them and 4 MiB of bodies, but at least one; more may follow.
        """
        peer = None if recipient is None else self._peer(recipient).id
        return self._ask(partial(self._work.dead_letters, after, limit, peer))

    def show_dead(self, id_: int) -> Future[DeadLetter | None]:
        """Return one dead letter, or `None`. To resend it, `put()` its payload and replace it."""
        return self._ask(
            lambda: next(
                (each for each in self._work.dead_letters(id_ - 1, 1, None) if each.id == id_), None
            )
        )

    def drop_dead(self, ids: Sequence[int]) -> Future[int]:
        """Remove dead letters; return how many existed."""
        return self._ask(partial(self._work.tables.remove_dead, ids))

    # -- receiving --------------------------------------------------------------------

    def marks(self, sender: Did) -> Marks:
        """Return the committed marks of a sender, for HELLO."""
        peer = self._ledger.peers.get(sender)
        return Marks(0, (0, 0, 0, 0)) if peer is None else peer.marks

    def inbox_room(self, sender: Did, sizes: Sequence[int]) -> int:
        """Return how many of a sender's next messages fit; `sizes` are in bytes."""
        with self._lock:
            return self._ledger.inbox_room(self._peer(sender), sizes)

    def accept(
        self,
        sender: Did,
        marks: Marks,
        batch: BatchReceived,
        new: Sequence[int],
        unaccepted: Unaccepted = ALL_ACCEPTED,
        on_commit: OnCommit | None = None,
    ) -> range:
        """Store the new messages of a batch, the new marks, and the batch's leaves.

        Receipts may be sent when `on_commit(None)` is called, not before. That holds for
        repeated messages too, whose commit may not have ended: see `barrier()`. The caller
        has checked with `inbox_room()` that there is room.

        Args:
            marks: The marks after this batch.
            new: Indices of the messages to deliver.
            unaccepted: Indices of the messages that were not accepted.

        Returns:
            The ids of the new messages, in the order of `new`, for `acked()`.

        Raises:
            StoreFailedError, ClosedError: the store takes nothing more.
        """
        bodies, ledger = batch.bodies, self._ledger
        with self._lock:
            peer = self._peer(sender)
            first, batch_id = ledger.next_incoming, ledger.next_batch
            ids = range(first, first + len(new))
            row = BatchRow(
                batch_id,
                peer.id,
                batch.signature,
                b"".join(batch.leaves),
                lanes_of(bodies, unaccepted),
                bytes(unaccepted.late),
                b"" if batch.copies is None else batch.copies.encode(),
            )
            rows = [(id_, place, bodies[place]) for id_, place in zip(ids, new, strict=True)]
            run = partial(self._work.accept, peer, marks, row, rows)
            end = partial(set_committed_marks, peer, marks, on_commit)
            self._submit(run, end, weight=len(rows) + 1)
            ledger.next_incoming += len(rows)
            ledger.next_batch += 1
            peer.heard_at = batch_id
            record = ledger.add_batch(peer, batch_id, len(batch.leaves))
            for id_, _, body in rows:
                ledger.add_unacked(id_, record, len(body))
            self._forget(peer)
        self._executor.flush()
        return ids

    def began(self, sender: Did, marks: Marks) -> None:
        """Set the marks of a sender's new epoch. Stored with the next commit."""
        with self._lock:
            peer = self._peer(sender)
            self._submit(
                partial(self._work.mark, peer, marks),
                partial(set_committed_marks, peer, marks, None),
                is_lazy=True,
            )
        self._executor.flush()

    def acked(self, ids: Iterable[int], on_commit: OnCommit | None = None) -> None:
        """Remove messages that the application has acknowledged or refused.

        With `ack="auto"`, taking a message acknowledges it.
        """
        with self._lock:
            known = [id_ for id_ in dict.fromkeys(ids) if id_ in self._ledger.unacked]
            batches = [
                batch.id for id_ in known if (batch := self._ledger.remove_unacked(id_)) is not None
            ]
            remove = partial(self._work.tables.remove_unacked, known, batches)
            self._submit(remove, on_commit, weight=len(known))
        self._executor.flush()

    def unacked(self, *, after: int = 0, limit: int = 1000) -> Future[list[IncomingRow]]:
        """Return unacknowledged messages, in the order of acceptance.

        At most `limit` of them behind the id `after` and 4 MiB of bodies, but at least
        one; more may follow.

        Messages that exist when the store is opened must be delivered again, marked
        `redelivered`, because their sender will not send them again.
        """
        return self._ask(partial(self._work.unacked, after, limit))

    def leaves(self, sender: Did) -> Future[RememberedLeaves]:
        """Return the leaves of a sender's last messages, by their answers.

        A message at or below the mark that is in no list is not the one that was accepted
        under its number. No receipt may be signed for it.
        """
        peer = self._peer(sender)
        return self._ask(partial(self._work.leaves, peer))

    # -- peers ------------------------------------------------------------------------

    def has_spoken_v2(self, did: Did) -> bool:
        """Whether a DID has ever proven itself over v2; v1 with it is refused then."""
        peer = self._ledger.peers.get(did)
        return peer is not None and peer.has_spoken_v2

    def v2_speakers(self) -> list[Did]:
        """Return all DIDs that have proven themselves over v2."""
        with self._lock:
            return [peer.did for peer in self._ledger.by_id.values() if peer.has_spoken_v2]

    def note_v2(self, did: Did, on_commit: OnCommit | None = None) -> None:
        """Record that a DID has proven itself over v2."""
        with self._lock:
            peer = self._peer(did)
            peer.has_spoken_v2 = True
            self._submit(partial(self._ledger.changed_peers.add, peer), on_commit)
        self._executor.flush()

    # -- the whole --------------------------------------------------------------------

    def barrier(self, on_commit: OnCommit) -> None:
        """Call `on_commit` when everything submitted before is committed. Costs no commit."""
        with self._lock:
            self._executor.submit(Operation(None, on_commit))
        self._executor.flush()

    def flush(self) -> Future[None]:
        """Return a future for `barrier()`; lazy operations are committed too."""
        return self._ask(lambda: None)

    @property
    def on_failed(self) -> Callable[[StoreError], None] | None:
        """Callback for the failure of the store; runs once, where `on_commit` does."""
        return self._executor.on_failed

    @on_failed.setter
    def on_failed(self, callback: Callable[[StoreError], None] | None) -> None:
        self._executor.on_failed = callback

    def observe_commits(self, observe: Callable[[float], object]) -> None:
        """Call `observe` with the seconds of each commit; it must not raise."""
        self._executor.on_commit = observe

    @property
    def failure(self) -> StoreError | None:
        """The error that stopped the store; `None` while it works."""
        return self._executor.failure

    @property
    def limits(self) -> StoreLimits:
        """The limits of the store."""
        return self._ledger.limits

    def stats(self) -> StoreStats:
        """Return a snapshot of the numbers."""
        ledger, executor = self._ledger, self._executor
        durations = list(executor.durations.copy())
        return StoreStats(
            outbox=Backlog(ledger.rows, ledger.bytes),
            oldest_queued_at_us=ledger.oldest_queued_at_us,
            unmet=Backlog(ledger.unmet_rows, ledger.unmet_bytes),
            dead=Backlog(ledger.dead_rows, ledger.dead_bytes),
            inbox=Backlog(len(ledger.unacked), ledger.unacked_bytes),
            expired=ledger.expired,
            aged_out=ledger.aged_out,
            dead_letters_dropped=ledger.dead_dropped,
            commits=executor.commits,
            commit_median=median(durations) if durations else 0.0,
            commit_longest=max(durations, default=0.0),
            waiting_operations=executor.waiting,
            failure=None if executor.failure is None else executor.failure.fact,
        )

    def close(self, timeout: float | None = None) -> bool:
        """Commit all submitted operations and release the file; blocks. Safe to call twice.

        Returns `False` if `timeout` seconds were not enough; the thread then goes on.
        """
        return self._executor.close(timeout)

    # -- inside -----------------------------------------------------------------------

    def _submit(
        self,
        run: Callable[[], object],
        on_commit: OnCommit | None = None,
        *,
        weight: int = 1,
        is_lazy: bool = False,
    ) -> None:
        self._executor.submit(Operation(run, on_commit, None, weight), is_lazy=is_lazy)

    def _ask(self, run: Callable[[], T]) -> Future[T]:
        future: Future[T] = Future()
        with self._lock:
            self._executor.submit(Operation(run, None, future))
        self._executor.flush()
        return future

    def _peer(self, did: Did) -> PeerRecord:
        """Return the record of a DID; makes one if needed, and may forget strangers for it."""
        ledger = self._ledger
        peer = ledger.peers.get(did)
        if peer is not None:
            return peer
        with self._lock:
            if len(ledger.peers) >= ledger.limits.max_peers:
                for stranger in ledger.strangers(_FORGOTTEN_AT_ONCE, self.is_in_use):
                    self._forget_peer(stranger)
            return ledger.peer(did)

    def _forget_peer(self, peer: PeerRecord) -> None:
        gone = [batch.id for batch in self._ledger.forget_leaves(peer, is_all=True)]
        self._submit(partial(self._work.forget_peer, peer, gone), is_lazy=True)
        del self._ledger.peers[peer.did]

    def _ids(self, recipient: Did, names: Iterable[tuple[int, int]]) -> list[int]:
        lanes = self._peer(recipient).lanes
        # The peer may have named a row that cannot exist.
        return [lanes[lane].row_id(row) for lane, row in names if 0 < row <= MAX_ROW]

    def _forget(self, peer: PeerRecord) -> None:
        gone = [batch.id for batch in self._ledger.forget_leaves(peer)]
        if gone:
            self._submit(partial(self._work.tables.remove_unacked, (), gone), is_lazy=True)
