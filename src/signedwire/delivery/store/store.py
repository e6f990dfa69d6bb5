"""`Store`: what a node must not forget. `MemoryStore` and `SqliteStore` are its two kinds.

    put ──→ outgoing ──settled, expire──→ gone
                     ──bury──→ dead letters ──drop_dead, put(replaces)──→ gone
    accept ──→ undone ──done──→ gone            and with it the marks and the leaves

Any thread may call. A call that changes something returns at once; its `then`
is called after the commit, with `None`, or with the `StoreError` that says why
not. A call that asks for something returns a `concurrent.futures.Future`, and
sees whatever was submitted before it. Where the callbacks run is the caller's
choice: pass `call=loop.call_soon_threadsafe`, and the loop is woken once for
all those of a commit.

What a caller may rely on:

- The sequences of a lane rise in the order of the calls of `put()`, and `then` is
  called in that order: whoever queues a message in its `then` sends in order. A
  sequence is never used twice, also by the next process, and by one that opens an old
  copy of the file: each process begins where the time is. Many are never used.
- What `then(None)` has told is on the disk. `barrier()` tells it of all before.
- A row leaves only by a call that is named above, or by its deadline, which
  `on_expired` is told.
- After a failed commit every operation fails, the waiting ones included, and
  nothing more is acknowledged: `failure` says why. Whether what was in that
  commit is on the disk is then not known; whoever opens the file again sees.
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
from signedwire.delivery.store.noting import lanes_of, note_marks, storable
from signedwire.delivery.store.records import (
    MAX_ROW,
    NOTHING,
    Backlog,
    DeadLetter,
    Draft,
    IncomingRow,
    Marks,
    Noted,
    OutgoingRow,
    RememberedLeaves,
    RowName,
    StoreLimits,
    StoreStats,
    Then,
)
from signedwire.delivery.store.tables import PAGE_BYTES, BatchRow, Row
from signedwire.delivery.store.unmet import UnmetPeers
from signedwire.delivery.store.work import Work
from signedwire.errors import SignedWireError, StoreError
from signedwire.types import Did, Priority, Reason, unix_time_us
from signedwire.wire.header import V2_HEADER_SIZE, expiry_of
from signedwire.wire.session import BatchReceived

__all__ = ["Store"]

T = TypeVar("T")

_CRITICAL: Final = int(Priority.CRITICAL)
# To look for them costs as much as there are peers.
_FORGOTTEN_AT_ONCE: Final = 1000
_MAX_EPOCH: Final = 2**63 - 1


class Store:
    """The interface; see the module's text. Make a `MemoryStore` or a `SqliteStore`."""

    def __init__(self, owner: Did, work: Work, executor: Executor) -> None:
        self.owner = owner
        """Whose node it belongs to."""
        self._work = work
        self._executor = executor
        self._ledger = work.ledger
        self._lock = work.ledger.lock
        self.is_in_use: Callable[[Did], bool] = lambda _: False
        """Asked, in any thread, whether a peer must not be forgotten now."""
        self.clock_steps = ClockSteps(work, executor)
        """Told of by `look_at_clock()`; its `on_moved` is called where `then` is."""
        self.access = AccessRules(work, executor)
        self.unmet = UnmetPeers(work, executor)

    # -- sending ----------------------------------------------------------------------

    def epoch(self, recipient: Did) -> int:
        """The epoch of our messages to a peer, for the HELLO; made at the first question.

        It stays the same over restarts, for the numbers do.
        """
        with self._lock:
            peer = self._peer(recipient)
            if not peer.epoch:
                # A peer may have been forgotten since it was told one, and the clock set back.
                peer.epoch = new_epoch()
                self._submit(partial(self._ledger.changed_peers.add, peer), is_lazy=True)
            return peer.epoch

    def begin_epoch(self, recipient: Did, epoch: int, then: Then | None = None) -> None:
        """Number everything to a peer in a newer epoch: it knows more of us than we do.

        So it is after the file was restored from an old copy. Waiting rows keep their
        sequences and change their bytes: whoever holds some loads them again.

        Raises:
            ValueError: `epoch` is not newer.
        """
        with self._lock:
            peer = self._peer(recipient)
            if not peer.epoch < epoch <= _MAX_EPOCH:
                raise ValueError(f"epoch {epoch} is not between {peer.epoch + 1} and 2^63-1")
            peer.epoch = epoch
            self._submit(partial(self._ledger.changed_peers.add, peer), then)
        self._executor.kick()

    def lane(self, recipient: Did, lane: int) -> LaneRecord:
        """How far a lane has come: what was numbered, and what may have been sent."""
        return self._peer(recipient).lanes[lane]

    def learn(self, recipient: Did, marks: Sequence[int]) -> bool:
        """A peer has accepted so much; whether the file, an old copy, did not know of some of it.

        By itself that does no harm: no message of this process has a sequence of another.
        """
        with self._lock:
            lanes = self._peer(recipient).lanes
            news = [
                (lane, mark)
                for lane, mark in zip(lanes, marks, strict=True)
                if lane.known < mark < lane.base + lane.opened_at
            ]
            for lane, mark in news:
                lane.known = mark
        return bool(news)

    def put(
        self,
        recipient: Did,
        drafts: Sequence[Draft],
        *,
        replaces: Sequence[int] = (),
        then: Then | None = None,
        is_met: bool = True,
    ) -> None:
        """Number messages and store them, all or none; `replaces` are dead letters that go then.

        `is_met` tells whether there is a way to the recipient; see `UnmetPeers`.

        When this returns, each draft has its number and its body. It may be sent when
        `then` is told `None`, not before. After `then` was told a StoreFullError, the
        numbers are void: there had seemed to be expired rows that could make room.

        Raises:
            StoreFullError: a limit is reached; nothing was stored.
            StoreFailedError, ClosedError: the store takes nothing more.
        """
        size = sum(V2_HEADER_SIZE + draft.payload_size for draft in drafts)
        is_critical = all(draft.priority == _CRITICAL for draft in drafts)
        ledger = self._ledger
        with self._lock:
            self.look_at_clock()
            peer = self._peer(recipient)
            self.unmet.set_met(recipient, is_met)
            lack = ledger.lack(peer, len(drafts), size, is_critical=is_critical)
            if lack is not None and not ledger.is_any_expired(unix_time_us()):
                raise ledger.full(peer, lack)
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
            if lack is not None:
                # Reserves nothing yet, or those before it would find no room because of it.
                put = partial(self._work.put_if_room, put, peer, len(rows), size, is_critical)
                self._submit(put, then, weight=len(rows))
            else:
                ledger.reserve(peer, len(rows), size)
                try:
                    self._submit(put, then, weight=len(rows))
                except SignedWireError:
                    ledger.reserve(peer, -len(rows), -size)
                    raise
        self._executor.kick()

    def written(self, recipient: Did, lane: int, row: int) -> None:
        """A lane was handed to a link up to `row`. Stored with the next commit."""
        with self._lock:
            record = self._peer(recipient).lanes[lane]
            if row > record.written:
                record.written = row
                self._submit(partial(self._ledger.changed_lanes.add, record), is_lazy=True)

    def attempt_failed(self, recipient: Did, error: str) -> None:
        """The peer could not be reached. Stored with the next commit."""
        with self._lock:
            peer = self._peer(recipient)
            peer.attempts += 1
            peer.last_error, peer.last_error_at_us = storable(error), unix_time_us()
            self._submit(partial(self._ledger.changed_peers.add, peer), is_lazy=True)

    def reached(self, recipient: Did) -> None:
        """The peer could be reached, or is to be tried anew. Stored with the next commit."""
        with self._lock:
            peer = self._peer(recipient)
            if peer.attempts:
                peer.attempts = 0
                self._submit(partial(self._ledger.changed_peers.add, peer), is_lazy=True)

    def settled(
        self, recipient: Did, names: Iterable[tuple[int, int]], then: Then | None = None
    ) -> None:
        """These (lane, row) need nothing more: signed for, or expired. Their rows go."""
        with self._lock:
            ids = self._ids(recipient, names)
            self._submit(partial(self._work.tables.remove, ids), then, weight=len(ids))
        self._executor.kick()

    def bury(
        self,
        recipient: Did,
        names: Iterable[tuple[int, int]],
        reason: Reason,
        detail: str = "",
        then: Then | None = None,
    ) -> None:
        """These (lane, row) were refused or given up: make dead letters of them."""
        with self._lock:
            ids, now = self._ids(recipient, names), unix_time_us()
            self._submit(partial(self._work.tables.bury, ids, reason, storable(detail), now), then)
        self._executor.kick()

    def bury_accepted(
        self,
        recipient: Did,
        body: bytes,
        reason: Reason,
        detail: str = "",
        then: Then | None = None,
    ) -> None:
        """The peer's application refused what the peer had accepted; its row is gone already."""
        with self._lock:
            peer, now = self._peer(recipient), unix_time_us()
            add = partial(self._work.tables.add_dead, peer.id, body, reason, storable(detail), now)
            self._submit(add, then)
        self._executor.kick()

    @property
    def on_expired(self) -> Callable[[list[RowName]], None] | None:
        """Told, where `then` is called, which rows were removed because of their deadline."""
        return self._work.on_expired

    @on_expired.setter
    def on_expired(self, tell: Callable[[list[RowName]], None] | None) -> None:
        self._work.on_expired = tell

    @property
    def next_expiry_us(self) -> int | None:
        """When to call `expire()`: Unix time. Perhaps too early, never too late."""
        return self._ledger.next_expiry_us

    def expire(self, then: Then | None = None) -> None:
        """Remove up to 10,000 rows whose deadline has passed; `on_expired` is told."""
        with self._lock:
            self.look_at_clock()
            self._submit(self._work.expire, then)
        self._executor.kick()

    def look_at_clock(self) -> bool:
        """See whether the wall clock was set; if so, move the deadlines that are no dates.

        Headers are moved on the disk first, and then where they wait to be sent, by whom
        `clock_steps.on_moved` tells. Returns whether that is still to come: what is sent
        meanwhile would not be what is on the disk. Any thread.
        """
        with self._lock:
            return self.clock_steps.look()

    def load(
        self, recipient: Did, lane: int, after: int, limit: int, max_bytes: int = PAGE_BYTES
    ) -> Future[list[OutgoingRow]]:
        """The rows of a lane above the row `after`, in order.

        At most `limit` of them and, but for the first, `max_bytes`.
        """
        record = self._peer(recipient).lanes[lane]
        first, last = record.row_id(0) + after + 1, record.row_id(MAX_ROW)
        return self._ask(partial(self._work.outgoing, first, last, limit, max_bytes))

    def backlog(self, recipient: Did | None = None) -> Backlog:
        """How much waits for a peer, or in all, those included that are being committed.

        But not those that only expired rows can make room for, until that is known.
        """
        counted: Ledger | PeerRecord | None = self._ledger
        if recipient is not None:
            counted = self._ledger.peers.get(recipient)
        return Backlog(0, 0) if counted is None else Backlog(counted.rows, counted.bytes)

    def recipients(self) -> list[Did]:
        """Everybody for whom something waits."""
        with self._lock:
            return [peer.did for peer in self._ledger.by_id.values() if peer.rows]

    # -- looking ----------------------------------------------------------------------

    def outbox(
        self, recipient: Did | None = None, *, after: int = 0, limit: int = 100
    ) -> Future[list[OutgoingRow]]:
        """Outgoing rows, peer by peer and lane by lane; `after` is an id."""
        first, last = after + 1, 2**63 - 1
        if recipient is not None:
            peer = self._ledger.peers.get(recipient)
            first, last = (1, 0) if peer is None else (max(first, peer.first_row), peer.last_row)
        return self._ask(partial(self._work.outgoing, first, last, limit, PAGE_BYTES))

    def show(self, id_: int) -> Future[OutgoingRow | None]:
        """One outgoing row."""
        return self._ask(lambda: next(iter(self._work.outgoing(id_, id_, 1, 0)), None))

    def drop(self, ids: Sequence[int]) -> Future[list[RowName]]:
        """Remove outgoing rows; tells which there were. One that is in flight may still arrive."""
        return self._ask(partial(self._work.drop, ids))

    def dead_letters(
        self, recipient: Did | None = None, *, after: int = 0, limit: int = 100
    ) -> Future[list[DeadLetter]]:
        """Dead letters, oldest first, behind the id `after`; there may be more of them.

        At most `limit` and, but for the first, 4 MiB.
        """
        peer = None if recipient is None else self._peer(recipient).id
        return self._ask(partial(self._work.dead_letters, after, limit, peer))

    def show_dead(self, id_: int) -> Future[DeadLetter | None]:
        """One dead letter. To send it again, `put()` a message of its payload that replaces it."""
        return self._ask(
            lambda: next(
                (each for each in self._work.dead_letters(id_ - 1, 1, None) if each.id == id_), None
            )
        )

    def drop_dead(self, ids: Sequence[int]) -> Future[int]:
        """Remove dead letters; tells how many there were."""
        return self._ask(partial(self._work.tables.remove_dead, ids))

    # -- receiving --------------------------------------------------------------------

    def marks(self, sender: Did) -> Marks:
        """What was accepted from a sender and committed, as a HELLO may say it."""
        peer = self._ledger.peers.get(sender)
        return Marks(0, (0, 0, 0, 0)) if peer is None else peer.marks

    def inbox_room(self, sender: Did, sizes: Sequence[int]) -> int:
        """How many of a sender's next messages, of so many bytes each, fit into the inbox."""
        with self._lock:
            return self._ledger.inbox_room(self._peer(sender), sizes)

    def accept(
        self,
        sender: Did,
        marks: Marks,
        batch: BatchReceived,
        new: Sequence[int],
        noted: Noted = NOTHING,
        then: Then | None = None,
    ) -> range:
        """Store the new messages of a batch, where the marks are now, and the batch's leaves.

        A receipt may be sent when `then` is told `None`, not before. One for a repeated
        message too: it may be in a commit that has not ended. See `barrier()`. Whether
        there is room for them is asked before, by `inbox_room()`.

        Args:
            marks: With this batch.
            new: Places of the messages that are to be delivered.
            noted: Places of those that were not accepted.

        Returns:
            The ids of the new messages, in that order, for `done()`.

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
                lanes_of(bodies, noted),
                bytes(noted.late),
            )
            rows = [(id_, place, bodies[place]) for id_, place in zip(ids, new, strict=True)]
            self._submit(
                partial(self._work.accept, peer, marks, row, rows),
                partial(note_marks, peer, marks, then),
                weight=len(rows) + 1,
            )
            ledger.next_incoming += len(rows)
            ledger.next_batch += 1
            peer.heard_at = batch_id
            record = ledger.add_batch(peer, batch_id, len(batch.leaves))
            for id_, _, body in rows:
                ledger.add_undone(id_, record, len(body))
            self._forget(peer)
        self._executor.kick()
        return ids

    def began(self, sender: Did, marks: Marks) -> None:
        """The sender named a new epoch. Stored with the next commit."""
        with self._lock:
            peer = self._peer(sender)
            self._submit(
                partial(self._work.mark, peer, marks),
                partial(note_marks, peer, marks, None),
                is_lazy=True,
            )
        self._executor.kick()

    def done(self, ids: Iterable[int], then: Then | None = None) -> None:
        """The application is done with these messages, or has refused them: they go.

        With `ack="auto"` it is called when the application takes them.
        """
        with self._lock:
            known = [id_ for id_ in dict.fromkeys(ids) if id_ in self._ledger.undone]
            batches = [
                batch.id for id_ in known if (batch := self._ledger.remove_undone(id_)) is not None
            ]
            remove = partial(self._work.tables.remove_undone, known, batches)
            self._submit(remove, then, weight=len(known))
        self._executor.kick()

    def undone(self, *, after: int = 0, limit: int = 1000) -> Future[list[IncomingRow]]:
        """Messages that the application is not done with, in the order of acceptance.

        At most `limit` behind the id `after` and, but for the first, 4 MiB; there may be
        more of them.

        Those that are there when the store has been opened are to be delivered again,
        marked `redelivered`; their sender will not send them again.
        """
        return self._ask(partial(self._work.undone, after, limit))

    def leaves(self, sender: Did) -> Future[RememberedLeaves]:
        """What the last messages of a sender were and how they were answered.

        A message at or below the mark that is in neither list is not what was accepted
        under its number: no receipt may be signed for it.
        """
        peer = self._peer(sender)
        return self._ask(partial(self._work.leaves, peer))

    # -- peers ------------------------------------------------------------------------

    def has_spoken_v2(self, did: Did) -> bool:
        """Whether a DID has ever proven itself over v2: then never again v1 with it."""
        peer = self._ledger.peers.get(did)
        return peer is not None and peer.has_spoken_v2

    def v2_speakers(self) -> list[Did]:
        """All that have."""
        with self._lock:
            return [peer.did for peer in self._ledger.by_id.values() if peer.has_spoken_v2]

    def note_v2(self, did: Did, then: Then | None = None) -> None:
        """A DID has proven itself over v2."""
        with self._lock:
            peer = self._peer(did)
            peer.has_spoken_v2 = True
            self._submit(partial(self._ledger.changed_peers.add, peer), then)
        self._executor.kick()

    # -- the whole --------------------------------------------------------------------

    def barrier(self, then: Then) -> None:
        """Have `then` told when all that was submitted before is committed. Costs no commit."""
        with self._lock:
            self._executor.submit(Operation(None, then))
        self._executor.kick()

    def flush(self) -> Future[None]:
        """`barrier()` as a future: also what could wait is committed."""
        return self._ask(lambda: None)

    @property
    def on_failed(self) -> Callable[[StoreError], None] | None:
        """Told once, where `then` is called, when the store has failed."""
        return self._executor.on_failed

    @on_failed.setter
    def on_failed(self, tell: Callable[[StoreError], None] | None) -> None:
        self._executor.on_failed = tell

    def observe_commits(self, observe: Callable[[float], object]) -> None:
        """Have the seconds of each commit told, in the thread that commits: it must not raise."""
        self._executor.on_commit = observe

    @property
    def failure(self) -> StoreError | None:
        """Why the store takes and acknowledges nothing more; `None`: it does."""
        return self._executor.failure

    @property
    def limits(self) -> StoreLimits:
        """How much it holds."""
        return self._ledger.limits

    def stats(self) -> StoreStats:
        """The numbers now."""
        ledger, executor = self._ledger, self._executor
        durations = list(executor.durations.copy())
        return StoreStats(
            outbox=Backlog(ledger.rows, ledger.bytes),
            oldest_queued_at_us=ledger.oldest_queued_at_us,
            unmet=Backlog(ledger.unmet_rows, ledger.unmet_bytes),
            dead=Backlog(ledger.dead_rows, ledger.dead_bytes),
            inbox=Backlog(len(ledger.undone), ledger.undone_bytes),
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
        """Commit what was submitted, tell it, and let go of the file; blocks. Safe to call twice.

        `False`: the disk has not answered within `timeout` seconds; the thread goes on.
        """
        return self._executor.close(timeout)

    # -- inside -----------------------------------------------------------------------

    def _submit(
        self,
        run: Callable[[], object],
        then: Then | None = None,
        *,
        weight: int = 1,
        is_lazy: bool = False,
    ) -> None:
        self._executor.submit(Operation(run, then, None, weight), is_lazy=is_lazy)

    def _ask(self, run: Callable[[], T]) -> Future[T]:
        future: Future[T] = Future()
        with self._lock:
            self._executor.submit(Operation(run, None, future))
        self._executor.kick()
        return future

    def _peer(self, did: Did) -> PeerRecord:
        """The record of a DID; made where there was none, and others forgotten for it."""
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
        # Others may have named a row.
        return [lanes[lane].row_id(row) for lane, row in names if 0 < row <= MAX_ROW]

    def _forget(self, peer: PeerRecord) -> None:
        gone = [batch.id for batch in self._ledger.forget_leaves(peer)]
        if gone:
            self._submit(partial(self._work.tables.remove_undone, (), gone), is_lazy=True)
