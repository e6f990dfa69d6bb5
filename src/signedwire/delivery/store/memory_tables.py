"""The rows of a store that does not outlive its process."""

from __future__ import annotations

import heapq
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from itertools import islice

from signedwire.delivery.deadlines import is_relative, moved
from signedwire.delivery.store.ledger import Ledger
from signedwire.delivery.store.records import ROW_BITS
from signedwire.delivery.store.tables import AccessRule, BatchRow, DeadRow, Row, Tables
from signedwire.types import Reason
from signedwire.wire.header import timestamp_of

__all__ = ["MemoryTables"]


class MemoryTables(Tables):
    """Rows in dictionaries. A commit does nothing and cannot fail."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        # By lane, then by id: each lane grows in order.
        self._lanes: dict[int, dict[int, bytes]] = {}
        # Heaps of (deadline or age, row). Some of the rows may have been removed.
        self._expiries: list[tuple[int, int]] = []
        self._ages: list[tuple[int, int]] = []
        self._aging: set[int] = set()
        self._dead: dict[int, DeadRow] = {}
        self._next_dead = 1
        self._unacked: dict[int, tuple[int, int, int, bytes]] = {}
        self._batches: dict[int, BatchRow] = {}

    def put(self, rows: Sequence[Row], ages_at_us: int | None = None) -> None:
        """See `Tables`."""
        for row_id, expires_at, body in rows:
            self._lanes.setdefault(row_id >> ROW_BITS, {})[row_id] = body
            self._ledger.lane_of(row_id).gained(row_id, body, 1, len(body))
            if expires_at is not None:
                heapq.heappush(self._expiries, (expires_at, row_id))
            if ages_at_us is not None:
                heapq.heappush(self._ages, (ages_at_us, row_id))
                self._aging.add(row_id)

    def remove(self, ids: Sequence[int]) -> None:
        """See `Tables`."""
        for row_id in ids:
            self._take(row_id)

    def _take(self, row_id: int) -> bytes | None:
        rows = self._lanes.get(row_id >> ROW_BITS, {})
        body = rows.pop(row_id, None)
        if body is not None:
            self._aging.discard(row_id)
            ledger = self._ledger
            lane = ledger.lane_of(row_id)
            lane.lost(row_id, 1, len(body))
            ledger.reserve(ledger.by_id[lane.id >> 2], -1, -len(body))
            if lane.rows and lane.first_id is None:
                lane.first_id = next(iter(rows))
                lane.first_at = timestamp_of(rows[lane.first_id])
        return body

    def expired(self, now_us: int, limit: int) -> list[int]:
        """See `Tables`."""
        gone: list[int] = []
        heap = self._expiries
        while heap and len(gone) < limit and heap[0][0] <= now_us:
            _, row_id = heapq.heappop(heap)
            if self._take(row_id) is not None:
                gone.append(row_id)
        self._look_for_next()
        return gone

    def _look_for_next(self) -> None:
        nexts = [heap[0][0] for heap in (self._expiries, self._ages) if heap]
        self._ledger.next_expiry_us = min(nexts, default=None)

    def aged(self, now_us: int, limit: int) -> list[int]:
        """See `Tables`."""
        found: list[int] = []
        heap = self._ages
        while heap and len(found) < limit and heap[0][0] <= now_us:
            _, row_id = heapq.heappop(heap)
            if row_id in self._aging:
                found.append(row_id)
        return found

    def clear_ages(self, first: int, last: int) -> None:
        """See `Tables`."""
        self._ages = [each for each in self._ages if not first <= each[1] <= last]
        heapq.heapify(self._ages)
        self._aging = {row_id for _, row_id in self._ages if row_id in self._aging}

    def move_deadlines(self, first: int, unwritten: int, last: int, by_us: int) -> None:
        """See `Tables`."""
        lane = self._lanes.get(first >> ROW_BITS, {})
        for at, (expires_at, row_id) in enumerate(self._expiries):
            if first <= row_id <= last and row_id in lane and is_relative(expires_at):
                self._expiries[at] = expires_at + by_us, row_id
                if row_id >= unwritten:
                    lane[row_id] = moved(lane[row_id], by_us)
        heapq.heapify(self._expiries)
        self._ages = [
            (at + by_us, row_id) if first <= row_id <= last else (at, row_id)
            for at, row_id in self._ages
        ]
        heapq.heapify(self._ages)
        self._look_for_next()

    def existing(self, ids: Sequence[int]) -> list[int]:
        """See `Tables`."""
        return [row_id for row_id in ids if row_id in self._lanes.get(row_id >> ROW_BITS, {})]

    def names(self, first: int, last: int, limit: int) -> list[int]:
        """See `Tables`."""
        return [row_id for row_id, _ in islice(self._range(first, last), limit)]

    def page(self, first: int, last: int, limit: int, max_bytes: int) -> list[tuple[int, bytes]]:
        """See `Tables`."""
        found: list[tuple[int, bytes]] = []
        for row_id, body in self._range(first, last):
            max_bytes -= len(body)
            if len(found) == limit or (found and max_bytes < 0):
                break
            found.append((row_id, body))
        return found

    def _range(self, first: int, last: int) -> Iterable[tuple[int, bytes]]:
        for lane in sorted(self._lanes):
            if first >> ROW_BITS <= lane <= last >> ROW_BITS:
                rows = self._lanes[lane]
                ids = list(rows)
                for row_id in ids[bisect_left(ids, first) : bisect_right(ids, last)]:
                    yield row_id, rows[row_id]

    # -- dead letters -----------------------------------------------------------------

    def dead_letter(self, ids: Sequence[int], reason: Reason, detail: str, at_us: int) -> None:
        """See `Tables`."""
        for row_id in sorted(ids):
            body = self._take(row_id)
            if body is not None:
                self.add_dead(row_id >> ROW_BITS + 2, body, reason, detail, at_us)

    def add_dead(self, peer: int, body: bytes, reason: Reason, detail: str, at_us: int) -> None:
        """See `Tables`."""
        ledger, limits = self._ledger, self._ledger.limits
        self._dead[self._next_dead] = DeadRow(self._next_dead, peer, reason, detail, at_us, body)
        self._next_dead += 1
        ledger.dead_rows += 1
        ledger.dead_bytes += len(body)
        while ledger.dead_rows > limits.max_dead_rows or ledger.dead_bytes > limits.max_dead_bytes:
            ledger.dead_dropped += self.remove_dead([next(iter(self._dead))])

    def dead_page(self, after: int, limit: int, peer: int | None) -> list[DeadRow]:
        """See `Tables`."""
        rows = (row for row in self._dead.values() if row.id > after and peer in (None, row.peer))
        return list(islice(rows, limit))

    def remove_dead(self, ids: Sequence[int]) -> int:
        """See `Tables`."""
        gone = [row for row in map(self._dead.pop, ids, [None] * len(ids)) if row is not None]
        self._ledger.dead_rows -= len(gone)
        self._ledger.dead_bytes -= sum(len(row.body) for row in gone)
        return len(gone)

    # -- incoming ---------------------------------------------------------------------

    def accept(self, batch: BatchRow, rows: Sequence[tuple[int, int, bytes]]) -> None:
        """See `Tables`."""
        self._batches[batch.id] = batch
        for row_id, place, body in rows:
            self._unacked[row_id] = (row_id, batch.id, place, body)

    def remove_unacked(self, ids: Sequence[int], batches: Sequence[int]) -> None:
        """See `Tables`."""
        for row_id in ids:
            self._unacked.pop(row_id, None)
        for batch in batches:
            self._batches.pop(batch, None)

    def unacked_page(self, after: int, limit: int) -> list[tuple[int, int, int, bytes]]:
        """See `Tables`."""
        return list(islice((row for row in self._unacked.values() if row[0] > after), limit))

    def remove_peer(self, id_: int) -> None:
        """See `Tables`."""

    def batches(self, ids: Sequence[int]) -> list[BatchRow]:
        """See `Tables`."""
        return [self._batches[batch] for batch in ids if batch in self._batches]

    # -- the access list --------------------------------------------------------------

    def add_rules(self, rule: AccessRule, keys: Iterable[bytes]) -> None:
        """See `Tables`. The rules are dropped, because these tables are never reopened."""

    def remove_rules(self, rule: AccessRule, keys: Iterable[bytes] | None) -> None:
        """See `Tables`."""

    # -- the whole --------------------------------------------------------------------

    def commit(self, *, is_idle: bool) -> bool:
        """See `Tables`."""
        self._ledger.changed_lanes.clear()
        self._ledger.changed_peers.clear()
        return True

    def checkpoint(self) -> None:
        """See `Tables`."""

    def close(self) -> None:
        """See `Tables`."""
