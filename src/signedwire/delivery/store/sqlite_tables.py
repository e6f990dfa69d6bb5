"""The rows of a store in its SQLite file.

Every call of `sqlite3` releases the interpreter's lock several times, and under a
busy event loop each return costs up to 5 ms, whatever the statement does. So the
number of statements counts, not the time of each. Changes are gathered until the
commit, and written with statements over up to 1024 rows each. There is a statement
for 1, 2, 4 … rows; unused places are filled with NULLs, which it skips. Adjacent
rows are deleted as ranges. A query returns its rows in one row, joined by SQLite.

Measured beside a thread that computes without a pause: 2,800 rows/s with
`executemany`, 40,000 rows/s with this scheme.

A checkpoint is due when the WAL has grown to 4 MiB. The size of the file tells that,
although SQLite then overwrites it from the start. The first commit after a checkpoint
truncates the file to `journal_size_limit`, so it is longer only if its content is.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from itertools import chain
from typing import Any, Final

from signedwire.clock import monotonic
from signedwire.delivery.deadlines import moved
from signedwire.delivery.store.ledger import LaneRecord, Ledger, PeerRecord
from signedwire.delivery.store.records import ROW_BITS, Marks
from signedwire.delivery.store.soundness import check_rows
from signedwire.delivery.store.tables import (
    PAGE_BYTES,
    AccessRule,
    BatchRow,
    DeadRow,
    Row,
    Tables,
)
from signedwire.types import Did, Reason, unix_time_us
from signedwire.wire.header import MIN_V2_HEADER_SIZE, timestamp_of

__all__ = ["SqliteTables"]

_CHUNK: Final = 1024
_SHORT_RUN: Final = 8
_CHECKPOINT_BYTES: Final = 4 * 1024 * 1024
_OLDEST_INTERVAL: Final = 1.0
_MAX_I64: Final = 2**63 - 1


def _signed(number: int) -> int:
    """Return an unsigned 64-bit number as the signed one that SQLite can hold."""
    return number if number <= _MAX_I64 else number - 2**64


def _unsigned(number: int) -> int:
    return number % 2**64


@cache
def _values(columns: int, rows: int) -> str:
    row = f"({','.join('?' * columns)})"
    return f"SELECT * FROM (VALUES {','.join([row] * rows)}) WHERE column1 IS NOT NULL"


def _chunks(rows: Sequence[Any]) -> Iterator[tuple[Sequence[Any], int]]:
    """Yield parts of at most 1024 rows, each with the power of two that it is padded to."""
    for start in range(0, len(rows), _CHUNK):
        part = rows[start : start + _CHUNK]
        yield part, 1 << (len(part) - 1).bit_length()


def _runs(ids: Sequence[int]) -> Iterator[tuple[str, list[int | None]]]:
    """Yield SQL conditions that together select exactly these rows, with their arguments."""
    singles: list[int] = []
    ordered = sorted(set(ids))
    at, end = 0, len(ordered)
    while at < end:
        start = at
        while at + 1 < end and ordered[at + 1] == ordered[at] + 1:
            at += 1
        at += 1
        if at - start < _SHORT_RUN:
            singles += ordered[start:at]
        else:
            yield "id BETWEEN ? AND ?", [ordered[start], ordered[at - 1]]
    for part, size in _chunks(singles):
        yield f"id IN ({','.join('?' * size)})", [*part, *[None] * (size - len(part))]


def _fitting(sizes: Sequence[int], max_bytes: int) -> int:
    """Return how many of the first sizes fit into `max_bytes`; at least one, if any."""
    count = 0
    while count < len(sizes) and (not count or sizes[count] <= max_bytes):
        max_bytes -= sizes[count]
        count += 1
    return count


def _peer_row(peer: PeerRecord) -> tuple[object, ...]:
    epoch, lanes = peer.seen_marks
    return (
        peer.id,
        bytes(peer.did),
        peer.has_spoken_v2,
        peer.epoch,
        peer.attempts,
        peer.last_error_at_us,
        _signed(epoch),
        *map(_signed, lanes),
        peer.last_error,
    )


class SqliteTables(Tables):
    """The rows in the file; the constructor fills the ledger from it."""

    def __init__(self, connection: sqlite3.Connection, ledger: Ledger) -> None:
        self._connection = connection
        self._ledger = ledger
        self._puts: list[Row] = []
        self._aging_puts: list[tuple[int, int | None, bytes, int]] = []
        self._removals: list[int] = []
        self._batches: list[BatchRow] = []
        self._accepted: list[tuple[int, int, int, bytes]] = []
        self._acked: list[int] = []
        self._needless_batches: list[int] = []
        self._stale: set[LaneRecord] = set()
        self._saved: set[int] = set()  # peers that have a row
        self._looked_at = 0.0
        self._is_wal_long = False
        connection.create_function("moved", 2, moved, deterministic=True)
        self._load()
        # Bytes, for not every path is text; and beside the file that a link leads to.
        ((path,),) = self._ask(
            "SELECT CAST(file AS BLOB) FROM pragma_database_list WHERE name = 'main'"
        )
        self._wal = open(path + b"-wal", "rb", buffering=0)  # noqa: SIM115  # until `close()`
        self._ask(f"PRAGMA journal_size_limit = {_CHECKPOINT_BYTES}")

    def _ask(self, sql: str, *arguments: object) -> list[Any]:
        return self._connection.execute(sql, arguments).fetchall()

    # -- opening ----------------------------------------------------------------------

    def _load(self) -> None:
        check_rows(self._connection)
        ledger = self._ledger
        for row in self._ask("SELECT * FROM peer ORDER BY id"):
            id_, did, has_spoken_v2, epoch, attempts, error_at, their_epoch, *marks, error = row
            peer = ledger.add_peer(id_, Did(did))
            self._saved.add(id_)
            peer.has_spoken_v2, peer.epoch = bool(has_spoken_v2), epoch
            peer.attempts, peer.last_error, peer.last_error_at_us = attempts, error, error_at
            low, normal, high, critical = map(_unsigned, marks)
            peer.marks = peer.seen_marks = Marks(
                _unsigned(their_epoch), (low, normal, high, critical)
            )
        for id_, *numbers in self._ask("SELECT * FROM lane"):
            peer = ledger.by_id[id_ >> 2]
            lane = peer.lanes[id_ & 3] = LaneRecord(id_, *numbers)
            ledger.reserve(peer, lane.rows, lane.bytes)
            if lane.rows:
                self._stale.add(lane)
        for (id_,) in self._ask(
            f"SELECT DISTINCT id >> {ROW_BITS + 2} FROM outgoing WHERE ages_at_us IS NOT NULL"
        ):
            ledger.set_met(ledger.by_id[id_], False)
        for rule, key in self._ask("SELECT rule, did FROM access"):
            ledger.rules[AccessRule(rule)].add(key)
        ledger.set_bases(unix_time_us())
        self._look_for_oldest()
        ledger.next_expiry_us = self._next_expiry()
        (dead,) = self._ask("SELECT count(*), coalesce(sum(length(body)), 0) FROM dead")
        ledger.dead_rows, ledger.dead_bytes = dead
        batches = {}
        for id_, peer_id, leaves in self._ask(
            "SELECT id, peer, length(leaves) / 32 FROM batch ORDER BY id"
        ):
            batches[id_] = ledger.add_batch(ledger.by_id[peer_id], id_, leaves)
            ledger.by_id[peer_id].heard_at = id_
            ledger.next_batch = id_ + 1
        for id_, batch_id, size in self._ask(
            "SELECT id, batch, length(body) FROM incoming ORDER BY id"
        ):
            ledger.add_unacked(id_, batches[batch_id], size)
            ledger.next_incoming = id_ + 1
        for peer in ledger.by_id.values():
            self._needless_batches += [batch.id for batch in ledger.forget_leaves(peer)]

    def _next_expiry(self) -> int | None:
        ((found,),) = self._ask(
            "SELECT min(at) FROM ("
            "SELECT min(expires_at_us) AS at FROM outgoing WHERE expires_at_us IS NOT NULL"
            " UNION ALL SELECT min(ages_at_us) FROM outgoing WHERE ages_at_us IS NOT NULL)"
        )
        return None if found is None else int(found)

    def _look_for_oldest(self) -> None:
        """Look up the first row of each lane whose first row was removed."""
        lanes = [lane for lane in self._stale if lane.rows and lane.first_id is None]
        self._stale.clear()
        by_id = {lane.id: lane for lane in lanes}
        for part, size in _chunks(list(by_id)):
            marks = ",".join(["(?)"] * size)
            for lane_id, row_id in self._ask(
                f"WITH l(id) AS (VALUES {marks}) SELECT l.id, (SELECT id FROM outgoing"
                f" WHERE id BETWEEN l.id << {ROW_BITS} AND"
                f" ((l.id + 1) << {ROW_BITS}) - 1 ORDER BY id LIMIT 1)"
                " FROM l WHERE l.id IS NOT NULL",
                *part,
                *[None] * (size - len(part)),
            ):
                by_id[lane_id].first_id = row_id
        firsts = {lane.first_id: lane for lane in lanes}
        for part, size in _chunks(list(firsts)):
            for row_id, header in self._ask(
                f"SELECT id, substr(body, 1, {MIN_V2_HEADER_SIZE}) FROM outgoing"
                f" WHERE id IN ({','.join('?' * size)})",
                *part,
                *[None] * (size - len(part)),
            ):
                firsts[row_id].first_at = timestamp_of(header)

    # -- outgoing ---------------------------------------------------------------------

    def put(self, rows: Sequence[Row], ages_at_us: int | None = None) -> None:
        """See `Tables`."""
        ledger = self._ledger
        if ages_at_us is None:
            self._puts += rows
        else:
            self._aging_puts += [(*row, ages_at_us) for row in rows]
        for row_id, _, body in rows:
            lane = ledger.lane_of(row_id)
            lane.gained(row_id, body, 1, len(body))
            ledger.changed_lanes.add(lane)

    def remove(self, ids: Sequence[int]) -> None:
        """See `Tables`."""
        self._removals += ids

    def expired(self, now_us: int, limit: int) -> list[int]:
        """See `Tables`."""
        self._flush()
        ((names,),) = self._ask(
            "SELECT group_concat(id) FROM (SELECT id FROM outgoing WHERE expires_at_us <= ?"
            " ORDER BY expires_at_us LIMIT ?)",
            min(now_us, _MAX_I64),
            limit,
        )
        gone = [int(name) for name in names.split(",")] if names else []
        self.remove(gone)
        self._flush()
        self._ledger.next_expiry_us = self._next_expiry()
        return gone

    def aged(self, now_us: int, limit: int) -> list[int]:
        """See `Tables`."""
        self._flush()
        ((names,),) = self._ask(
            "SELECT group_concat(id) FROM (SELECT id FROM outgoing WHERE ages_at_us <= ?"
            " ORDER BY ages_at_us LIMIT ?)",
            min(now_us, _MAX_I64),
            limit,
        )
        return [int(name) for name in names.split(",")] if names else []

    def clear_ages(self, first: int, last: int) -> None:
        """See `Tables`."""
        self._flush()
        self._begin()
        self._connection.execute(
            "UPDATE outgoing SET ages_at_us = NULL"
            " WHERE id BETWEEN ? AND ? AND ages_at_us IS NOT NULL",
            (first, last),
        )

    def move_deadlines(self, first: int, unwritten: int, last: int, by_us: int) -> None:
        """See `Tables`."""
        self._flush()
        self._begin()
        self._connection.execute(
            "UPDATE outgoing SET expires_at_us = max(1, min(expires_at_us + ?2, ?5)),"
            " body = CASE WHEN id < ?3 THEN body ELSE moved(body, ?2) END"
            " WHERE id BETWEEN ?1 AND ?4 AND expires_at_us & 1",
            (first, by_us, unwritten, last, _MAX_I64),
        )
        self._connection.execute(
            "UPDATE outgoing SET ages_at_us = max(1, min(ages_at_us + ?2, ?4))"
            " WHERE id BETWEEN ?1 AND ?3 AND ages_at_us IS NOT NULL",
            (first, by_us, last, _MAX_I64),
        )
        self._ledger.next_expiry_us = self._next_expiry()

    def existing(self, ids: Sequence[int]) -> list[int]:
        """See `Tables`."""
        self._flush()
        return [
            row_id
            for condition, arguments in _runs([each for each in ids if 0 < each <= _MAX_I64])
            for (row_id,) in self._ask(
                f"SELECT id FROM outgoing WHERE {condition} ORDER BY id", *arguments
            )
        ]

    def names(self, first: int, last: int, limit: int) -> list[int]:
        """See `Tables`."""
        self._flush()
        ((names,),) = self._ask(
            "SELECT group_concat(id) FROM"
            " (SELECT id FROM outgoing WHERE id BETWEEN ? AND ? ORDER BY id LIMIT ?)",
            first,
            last,
            limit,
        )
        return [int(name) for name in names.split(",")] if names else []

    def page(self, first: int, last: int, limit: int, max_bytes: int) -> list[tuple[int, bytes]]:
        """See `Tables`."""
        self._flush()
        if not 0 <= first <= _MAX_I64:
            return []
        span = (first, min(last, _MAX_I64), limit)
        rows = "SELECT id, body FROM outgoing WHERE id BETWEEN ? AND ? ORDER BY id LIMIT ?"
        ((names, lengths),) = self._ask(
            f"SELECT group_concat(id), group_concat(length(body)) FROM ({rows})", *span
        )
        if not names:
            return []
        ids = [int(name) for name in names.split(",")]
        sizes = [int(size) for size in lengths.split(",")]
        count = _fitting(sizes, max_bytes)
        # To the text functions of SQLite a blob is bytes like any other.
        ((bodies,),) = self._ask(
            f"SELECT CAST(group_concat(body, '') AS BLOB) FROM ({rows})", *span[:2], count
        )
        found, at = [], 0
        for row_id, size in zip(ids[:count], sizes[:count], strict=True):
            found.append((row_id, bodies[at : at + size]))
            at += size
        return found

    # -- dead letters -----------------------------------------------------------------

    def dead_letter(self, ids: Sequence[int], reason: Reason, detail: str, at_us: int) -> None:
        """See `Tables`."""
        self._flush()
        self._begin()
        for condition, arguments in _runs(ids):
            ((count, size),) = self._ask(
                f"SELECT count(*), coalesce(sum(length(body)), 0) FROM outgoing WHERE {condition}",
                *arguments,
            )
            self._ledger.dead_rows += count
            self._ledger.dead_bytes += size
            self._connection.execute(
                "INSERT INTO dead (peer, reason, detail, died_at_us, body)"
                f" SELECT id >> {ROW_BITS + 2}, ?, ?, ?, body FROM outgoing"
                f" WHERE {condition} ORDER BY id",
                (reason.value, detail, at_us, *arguments),
            )
        self.remove(ids)
        self._trim_dead()

    def add_dead(self, peer: int, body: bytes, reason: Reason, detail: str, at_us: int) -> None:
        """See `Tables`."""
        self._begin()
        self._ledger.changed_peers.add(self._ledger.by_id[peer])
        self._connection.execute(
            "INSERT INTO dead (peer, reason, detail, died_at_us, body) VALUES (?, ?, ?, ?, ?)",
            (peer, reason.value, detail, at_us, body),
        )
        self._ledger.dead_rows += 1
        self._ledger.dead_bytes += len(body)
        self._trim_dead()

    def _trim_dead(self) -> None:
        ledger, limits = self._ledger, self._ledger.limits
        while ledger.dead_rows > limits.max_dead_rows or ledger.dead_bytes > limits.max_dead_bytes:
            more = max(1, ledger.dead_rows - limits.max_dead_rows)
            oldest = [id_ for (id_,) in self._ask("SELECT id FROM dead ORDER BY id LIMIT ?", more)]
            ledger.dead_dropped += self.remove_dead(oldest)

    def dead_page(self, after: int, limit: int, peer: int | None) -> list[DeadRow]:
        """See `Tables`."""
        chosen = "FROM dead WHERE id > ? AND (? IS NULL OR peer = ?)"
        return [
            DeadRow(id_, peer_id, Reason(reason), detail, at_us, body)
            for id_, peer_id, reason, detail, at_us, body in self._page(
                chosen, (min(after, _MAX_I64), peer, peer), limit
            )
        ]

    def _page(self, chosen: str, arguments: tuple[object, ...], limit: int) -> list[Any]:
        """Return the first chosen rows: at most `limit`, and 4 MiB of bodies or one row."""
        ((lengths,),) = self._ask(
            f"SELECT group_concat(size) FROM"
            f" (SELECT length(body) AS size {chosen} ORDER BY id LIMIT ?)",
            *arguments,
            limit,
        )
        if not lengths:
            return []
        count = _fitting([int(size) for size in lengths.split(",")], PAGE_BYTES)
        return self._ask(f"SELECT * {chosen} ORDER BY id LIMIT ?", *arguments, count)

    def remove_dead(self, ids: Sequence[int]) -> int:
        """See `Tables`."""
        self._begin()
        gone = 0
        for condition, arguments in _runs([each for each in ids if 0 < each <= _MAX_I64]):
            ((count, size),) = self._ask(
                f"SELECT count(*), coalesce(sum(length(body)), 0) FROM dead WHERE {condition}",
                *arguments,
            )
            self._connection.execute(f"DELETE FROM dead WHERE {condition}", arguments)
            self._ledger.dead_rows -= count
            self._ledger.dead_bytes -= size
            gone += count
        return gone

    # -- incoming ---------------------------------------------------------------------

    def accept(self, batch: BatchRow, rows: Sequence[tuple[int, int, bytes]]) -> None:
        """See `Tables`."""
        self._batches.append(batch)
        self._accepted += [(row_id, batch.id, place, body) for row_id, place, body in rows]

    def remove_unacked(self, ids: Sequence[int], batches: Sequence[int]) -> None:
        """See `Tables`."""
        self._acked += ids
        self._needless_batches += batches

    def unacked_page(self, after: int, limit: int) -> list[tuple[int, int, int, bytes]]:
        """See `Tables`."""
        self._flush()
        return self._page("FROM incoming WHERE id > ?", (min(after, _MAX_I64),), limit)

    def batches(self, ids: Sequence[int]) -> list[BatchRow]:
        """See `Tables`."""
        self._flush()
        return [
            BatchRow(*row)
            for condition, arguments in _runs(ids)
            for row in self._ask(f"SELECT * FROM batch WHERE {condition} ORDER BY id", *arguments)
        ]

    def remove_peer(self, id_: int) -> None:
        """See `Tables`."""
        self._begin()
        self._connection.execute("DELETE FROM peer WHERE id = ?", (id_,))
        self._connection.execute(
            "DELETE FROM lane WHERE id BETWEEN ? AND ?", (id_ * 4, id_ * 4 + 3)
        )
        self._saved.discard(id_)

    # -- the access list --------------------------------------------------------------

    def add_rules(self, rule: AccessRule, keys: Iterable[bytes]) -> None:
        """See `Tables`."""
        self._begin()
        self._connection.executemany(
            "REPLACE INTO access VALUES (?, ?)", [(rule.value, key) for key in keys]
        )

    def remove_rules(self, rule: AccessRule, keys: Iterable[bytes] | None) -> None:
        """See `Tables`."""
        self._begin()
        if keys is None:
            self._connection.execute("DELETE FROM access WHERE rule = ?", (rule.value,))
        else:
            self._connection.executemany(
                "DELETE FROM access WHERE rule = ? AND did = ?",
                [(rule.value, key) for key in keys],
            )

    # -- the whole --------------------------------------------------------------------

    def _begin(self) -> None:
        if not self._connection.in_transaction:
            self._connection.execute("BEGIN")

    def _flush(self) -> None:
        """Write the gathered changes. Insertions come first, so that removals find their rows."""
        ledger = self._ledger
        if self._puts:
            self._insert("outgoing (id, expires_at_us, body)", 3, self._puts)
            self._puts = []
        if self._aging_puts:
            self._insert("outgoing (id, expires_at_us, body, ages_at_us)", 4, self._aging_puts)
            self._aging_puts = []
        if self._batches:
            self._insert("batch", 7, self._batches)
            self._batches = []
        if self._accepted:
            self._insert("incoming", 4, self._accepted)
            self._accepted = []
        if self._removals:
            self._remove_now()
        if self._acked or self._needless_batches:
            self._delete("incoming", self._acked)
            self._delete("batch", self._needless_batches)
            self._acked, self._needless_batches = [], []
        if ledger.changed_lanes:
            lanes, ledger.changed_lanes = ledger.changed_lanes, set()
            self._insert(
                "lane",
                6,
                [
                    (each.id, each.next, each.written, each.rows, each.bytes, each.base)
                    for each in lanes
                ],
            )
            # A row of `lane` needs the row of its peer, which may be new.
            ledger.changed_peers |= {
                ledger.by_id[each.id >> 2] for each in lanes if each.id >> 2 not in self._saved
            }
        if ledger.changed_peers:
            peers, ledger.changed_peers = ledger.changed_peers, set()
            self._insert("peer", 12, [_peer_row(peer) for peer in peers])
            self._saved |= {peer.id for peer in peers}

    def _insert(self, table: str, columns: int, rows: Sequence[Sequence[Any]]) -> None:
        self._begin()
        for part, size in _chunks(rows):
            self._connection.execute(
                f"REPLACE INTO {table} {_values(columns, size)}",
                [*chain.from_iterable(part), *[None] * ((size - len(part)) * columns)],
            )

    def _remove_now(self) -> None:
        ids, self._removals = self._removals, []
        ledger = self._ledger
        self._begin()
        for condition, arguments in _runs(ids):
            for lane_id, first, count, size in self._ask(
                f"SELECT id >> {ROW_BITS}, min(id), count(*), sum(length(body))"
                f" FROM outgoing WHERE {condition} GROUP BY 1",
                *arguments,
            ):
                peer = ledger.by_id[lane_id >> 2]
                lane = peer.lanes[lane_id & 3]
                lane.lost(first, count, size)
                ledger.changed_lanes.add(lane)
                if lane.first_id is None and lane.rows:
                    self._stale.add(lane)
                ledger.reserve(peer, -count, -size)
            self._connection.execute(f"DELETE FROM outgoing WHERE {condition}", arguments)

    def _delete(self, table: str, ids: Sequence[int]) -> None:
        self._begin()
        for condition, arguments in _runs(ids):
            self._connection.execute(f"DELETE FROM {table} WHERE {condition}", arguments)

    def commit(self, *, is_idle: bool) -> bool:
        """See `Tables`."""
        self._flush()
        if not self._connection.in_transaction:
            return False
        if self._stale and (is_idle or monotonic() >= self._looked_at + _OLDEST_INTERVAL):
            self._look_for_oldest()
            self._looked_at = monotonic()
        self._connection.execute("COMMIT")
        # Not `stat()`: after each call, Linux gives the next write a new timestamp, and the
        # sync of the next commit takes 1.5 times as long.
        self._is_wal_long = self._wal.seek(0, os.SEEK_END) > _CHECKPOINT_BYTES
        return True

    def checkpoint(self) -> None:
        """See `Tables`."""
        if self._is_wal_long:
            self._is_wal_long = False
            self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()

    def close(self) -> None:
        """See `Tables`."""
        self._wal.close()  # first: some systems remove no file that is open
        with contextlib.suppress(sqlite3.Error):
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
        with contextlib.suppress(sqlite3.Error):
            self._connection.close()
