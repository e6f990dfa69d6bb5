"""The operations of a store on its tables and its ledger.

The executor runs them one by one; application threads never call them. `Store` documents
the meaning of each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Final

from signedwire.clock import monotonic
from signedwire.delivery.store.ledger import Ledger, PeerRecord
from signedwire.delivery.store.records import (
    MAX_ROW,
    DeadLetter,
    IncomingRow,
    Marks,
    OutgoingRow,
    RememberedLeaves,
    RowName,
)
from signedwire.delivery.store.tables import NO_LANE, NOT_STORED, BatchRow, Row, Tables
from signedwire.errors import StoreError
from signedwire.types import Priority, Reason, unix_time_us
from signedwire.wire.batch import HASH_SIZE
from signedwire.wire.copies import Copies
from signedwire.wire.header import epoch_of, with_epoch

__all__ = ["Work"]

_EXPIRE_LIMIT: Final = 10_000


class Work:
    """The tables and the ledger, and the operations on both."""

    def __init__(self, ledger: Ledger, tables: Tables) -> None:
        self.ledger = ledger
        self.tables = tables
        self.on_expired: Callable[[list[RowName]], None] | None = None
        self.on_aged: Callable[[list[RowName]], None] | None = None
        self._expired: list[int] = []
        self._aged: list[RowName] = []
        self._origin_us = 0

    # -- an Engine --------------------------------------------------------------------

    def commit(self, *, is_idle: bool) -> bool:
        """See `Engine`."""
        return self.tables.commit(is_idle=is_idle)

    def notifications(self) -> list[Callable[[], None]]:
        """See `Engine`: calls `on_expired` and `on_aged` for the rows of this commit."""
        gone, self._expired = self._expired, []
        aged, self._aged = self._aged, []
        notifications: list[Callable[[], None]] = []
        if gone and self.on_expired is not None:
            notifications.append(partial(self.on_expired, self.names(gone)))
        if aged and self.on_aged is not None:
            notifications.append(partial(self.on_aged, aged))
        return notifications

    def checkpoint(self) -> None:
        """See `Engine`."""
        self.tables.checkpoint()

    def close(self) -> None:
        """See `Engine`."""
        self.tables.close()

    # -- outgoing ---------------------------------------------------------------------

    def put(
        self, rows: Sequence[Row], replaces: Sequence[int], ages_at_us: int | None = None
    ) -> None:
        """Add rows; remove the dead letters that they replace."""
        ledger = self.ledger
        self.tables.put(rows, ages_at_us)
        dues = [row[1] for row in rows if row[1] is not None]
        if ages_at_us is not None:
            dues.append(ages_at_us)
        first = min(dues, default=None)
        if first is not None and (ledger.next_expiry_us is None or first < ledger.next_expiry_us):
            ledger.next_expiry_us = first
        if replaces:
            self.tables.remove_dead(replaces)

    def put_if_room(
        self, put: Callable[[], object], peer: PeerRecord, rows: int, size: int, is_critical: bool
    ) -> StoreError | None:
        """Put rows if there is room, or if removing expired rows makes room."""
        ledger = self.ledger
        while True:
            with ledger.lock:
                limit = ledger.reached_limit(peer, rows, size, is_critical=is_critical)
                if limit is None:
                    ledger.reserve(peer, rows, size)
            if limit is None:
                put()
                return None
            if not self.expire():
                return ledger.full(peer, limit)

    def expire(self) -> int:
        """Remove rows that have expired or aged out; return how many."""
        # If the wall clock was set just now, the rows are about to be moved. So a row is
        # removed only if its deadline has also passed by the monotonic clock.
        passed_us = self._origin_us + int(monotonic() * 1e6)
        now_us = min(unix_time_us(), passed_us)
        aged = self.tables.aged(now_us, _EXPIRE_LIMIT)
        if aged:
            self._aged += self.names(aged)
            self.tables.dead_letter(aged, Reason.AGED_OUT, self.age_detail, unix_time_us())
            self.ledger.aged_out += len(aged)
        gone = self.tables.expired(now_us, _EXPIRE_LIMIT)
        self.ledger.expired += len(gone)
        self._expired += gone
        return len(gone) + len(aged)

    @property
    def age_detail(self) -> str:
        """The cause of dead letters that aged, as text for people."""
        age = self.ledger.limits.max_unmet_age
        return f"no way to its peer was known for {age:g} s, which is unmet_max_age"

    def dead_letter_up_to(
        self, peer: PeerRecord, last: Sequence[int], reason: Reason, detail: str
    ) -> list[RowName]:
        """Make dead letters of the first 10,000 rows for a peer; return their names.

        `last` is the last row of each lane that may become one.
        """
        ids: list[int] = []
        for lane, row in zip(peer.lanes, last, strict=True):
            first, limit = lane.row_id(0), _EXPIRE_LIMIT - len(ids)
            ids += self.tables.names(first, lane.row_id(row), limit)
        names = self.names(ids)
        self.tables.dead_letter(ids, reason, detail, unix_time_us())
        return names

    def begin_clock(self, origin_us: int) -> None:
        """Set the Unix time at the instant 0 of the monotonic clock, in microseconds."""
        self._origin_us = origin_us

    def move_deadlines(self, by_us: int) -> None:
        """Move the deadlines in seconds that this process stored, after a clock step.

        Deadlines of earlier processes stay, because they are known only as dates. A row
        that was handed to a link keeps its bytes, or it would be another message.
        """
        self._origin_us += by_us
        ledger = self.ledger
        with ledger.lock:
            lanes = [lane for peer in ledger.by_id.values() for lane in peer.lanes]
        for lane in lanes:
            if lane.rows and lane.next > lane.opened_at:
                first, last = lane.row_id(lane.opened_at), lane.row_id(MAX_ROW)
                unwritten = max(first, lane.row_id(lane.written + 1))
                self.tables.move_deadlines(first, unwritten, last, by_us)

    def drop(self, ids: Sequence[int]) -> list[RowName]:
        """Remove rows; return the names of those that existed."""
        found = self.tables.existing(ids)
        self.tables.remove(found)
        return self.names(found)

    def names(self, ids: Iterable[int]) -> list[RowName]:
        """Return the names of rows by their ids."""
        ledger = self.ledger
        lanes = [(ledger.lane_of(id_), id_) for id_ in ids]
        return [
            RowName(ledger.by_id[lane.id >> 2].did, lane.id & 3, id_ & MAX_ROW)
            for lane, id_ in lanes
        ]

    def outgoing(self, first: int, last: int, limit: int, max_bytes: int) -> list[OutgoingRow]:
        """Return a page of rows, with the present epoch in their headers."""
        ledger, rows = self.ledger, []
        for id_, body in self.tables.page(first, last, limit, max_bytes):
            lane = ledger.lane_of(id_)
            peer = ledger.by_id[lane.id >> 2]
            if epoch_of(body) != peer.epoch:
                body = with_epoch(body, peer.epoch)
            is_written = id_ & MAX_ROW <= lane.written
            rows.append(
                OutgoingRow(id_, peer.did, body, is_written, peer.attempts, peer.last_error)
            )
        return rows

    def dead_letters(self, after: int, limit: int, peer: int | None) -> list[DeadLetter]:
        """Return a page of dead letters."""
        return [
            DeadLetter(
                row.id,
                self.ledger.by_id[row.peer].did,
                row.body,
                row.reason,
                row.detail,
                row.died_at_us,
            )
            for row in self.tables.dead_page(after, limit, peer)
        ]

    # -- incoming ---------------------------------------------------------------------

    def accept(
        self,
        peer: PeerRecord,
        marks: Marks,
        batch: BatchRow,
        rows: Sequence[tuple[int, int, bytes]],
    ) -> None:
        """Add a batch and its new messages, and set the marks."""
        self.tables.accept(batch, rows)
        self.mark(peer, marks)

    def mark(self, peer: PeerRecord, marks: Marks) -> None:
        """Set the marks of a sender."""
        peer.seen_marks = marks
        self.ledger.changed_peers.add(peer)

    def forget_peer(self, peer: PeerRecord, batches: Sequence[int]) -> None:
        """Remove the row and the batches of a peer that was never sent a message."""
        ledger = self.ledger
        ledger.changed_peers.discard(peer)
        ledger.changed_lanes.difference_update(peer.lanes)
        self.tables.remove_unacked((), batches)
        self.tables.remove_peer(peer.id)
        ledger.remove_peer(peer)

    def unacked(self, after: int, limit: int) -> list[IncomingRow]:
        """Return a page of unacknowledged messages."""
        rows = self.tables.unacked_page(after, limit)
        batches: dict[int, tuple[PeerRecord, bytes, list[bytes], Copies | None]] = {
            batch.id: (
                self.ledger.by_id[batch.peer],
                batch.signature,
                _split(batch.leaves),
                Copies.decode(batch.places) if batch.places else None,
            )
            for batch in self.tables.batches(sorted({row[1] for row in rows}))
        }
        found = []
        for id_, batch_id, place, body in rows:
            peer, signature, leaves, copies = batches[batch_id]
            path = None if copies is None else copies.path(place, signature)
            found.append(IncomingRow(id_, peer.did, body, place, leaves, signature, path))
        return found

    def leaves(self, peer: PeerRecord) -> RememberedLeaves:
        """Return the remembered leaves of a sender, by their answers."""
        with self.ledger.lock:
            ids = [batch.id for batch in peer.batches]
        accepted: tuple[list[bytes], ...] = tuple([] for _ in Priority)
        late: list[bytes] = []
        not_stored: list[bytes] = []
        for batch in self.tables.batches(ids):
            for place, leaf in enumerate(_split(batch.leaves)):
                lane = batch.lanes[place]
                if place in batch.refused:
                    late.append(leaf)
                elif lane == NOT_STORED:
                    not_stored.append(leaf)
                elif lane != NO_LANE:
                    accepted[lane].append(leaf)
        low, normal, high, critical = accepted
        return RememberedLeaves((low, normal, high, critical), late, not_stored)


def _split(leaves: bytes) -> list[bytes]:
    return [leaves[at : at + HASH_SIZE] for at in range(0, len(leaves), HASH_SIZE)]
