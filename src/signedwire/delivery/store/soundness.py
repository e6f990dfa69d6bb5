"""Checks that the rows of a store's file can be what a store has written.

Another program may have changed the file, or restored parts of it. Such a row must not
cause an error later, in the middle of an operation: the store would then fail, and the
next start would fail again. So each row is checked once, when the file is opened. The
checks read headers and sizes, never a payload.
"""

from __future__ import annotations

import sqlite3
from typing import Final

from signedwire.delivery.store.ledger import MAX_PEER
from signedwire.delivery.store.records import MAX_ROW, ROW_BITS
from signedwire.delivery.store.tables import NO_LANE, NOT_STORED, AccessRule
from signedwire.types import PayloadType, Priority, Reason
from signedwire.wire.batch import HASH_SIZE, MAX_BATCH
from signedwire.wire.copies import Copies, largest_overhead
from signedwire.wire.envelope import SIGNATURE_SIZE
from signedwire.wire.header import MIN_V2_HEADER_SIZE, PAYLOAD_TYPE, PRIORITY
from signedwire.wire.joint import JOINT_SIZE

__all__ = ["check_rows"]

_MAX_ID: Final = 2**62
"""Largest legal id: far below the limit of a 64-bit integer, so that ids can still grow."""
_LANES: Final = frozenset({*map(int, Priority), NO_LANE, NOT_STORED})


def _whole(name: str, least: int, most: int) -> str:
    return f"(typeof({name}) = 'integer' AND {name} BETWEEN {least} AND {most})"


def _is(name: str, kind: str, *, or_null: bool = False) -> str:
    return f"typeof({name}) IN ('{kind}'{', ' + repr('null') if or_null else ''})"


def _blob(name: str, size: str) -> str:
    return f"(typeof({name}) = 'blob' AND length({name}) {size})"


_ID: Final = _whole("id", 1, _MAX_ID)
# `substr()` of a blob returns a blob, and SQLite compares blobs byte by byte.
_BODY: Final = (
    f"{_blob('body', f'>= {MIN_V2_HEADER_SIZE}')}"
    f" AND substr(body, {PRIORITY + 1}, 1) BETWEEN x'00' AND x'{max(Priority):02x}'"
    f" AND substr(body, {PAYLOAD_TYPE + 1}, 1) BETWEEN x'00' AND x'{max(PayloadType):02x}'"
)
_REASONS: Final = ", ".join(f"'{reason.value}'" for reason in Reason)

_SOUND: Final = {
    "peer": (
        _whole("id", 1, MAX_PEER),
        *(_is(name, "integer") for name in ("has_spoken_v2", "their_epoch")),
        *(_is(name, "integer") for name in ("low", "normal", "high", "critical")),
        _whole("epoch", 0, 2**63 - 1),
        _whole("attempts", 0, _MAX_ID),
        _is("last_error_at_us", "integer", or_null=True),
        _is("last_error", "text", or_null=True),
    ),
    "lane": (
        "id >> 2 IN (SELECT id FROM peer)",
        _whole("next", 1, MAX_ROW),
        _whole("written", 0, MAX_ROW),
        _whole("rows", 0, MAX_ROW),
        _whole("bytes", 0, _MAX_ID),
        _whole("base", 0, _MAX_ID),
    ),
    "outgoing": (
        _ID,
        _is("expires_at_us", "integer", or_null=True),
        _is("ages_at_us", "integer", or_null=True),
        _BODY,
        f"substr(body, {PRIORITY + 1}, 1) = CASE id >> {ROW_BITS} & 3"
        " WHEN 0 THEN x'00' WHEN 1 THEN x'01' WHEN 2 THEN x'02' ELSE x'03' END",
    ),
    "dead": (
        _ID,
        "peer IN (SELECT id FROM peer)",
        f"reason IN ({_REASONS})",
        _is("detail", "text"),
        _is("died_at_us", "integer"),
        _BODY,
    ),
    "batch": (
        _ID,
        "peer IN (SELECT id FROM peer)",
        _blob("signature", f"IN ({SIGNATURE_SIZE}, {JOINT_SIZE})"),
        _blob("leaves", f"BETWEEN {HASH_SIZE} AND {MAX_BATCH * HASH_SIZE}"),
        f"length(leaves) % {HASH_SIZE} = 0",
        _blob("lanes", f"= length(leaves) / {HASH_SIZE}"),
        _blob("refused", f"<= {MAX_BATCH}"),
        _blob("places", f"<= {1 + MAX_BATCH * largest_overhead(MAX_BATCH)}"),
    ),
    "incoming": (
        _ID,
        _is("place", "integer"),
        f"place BETWEEN 0 AND (SELECT length(leaves) / {HASH_SIZE} - 1 FROM batch"
        " WHERE batch.id = incoming.batch)",
        _BODY,
    ),
    "access": (
        f"rule IN ({', '.join(repr(rule.value) for rule in AccessRule)})",
        f"typeof(did) = 'blob' AND length(did) = CASE rule WHEN '{AccessRule.ONLY}'"
        " THEN 0 ELSE 32 END",
    ),
}
"""SQL conditions that every row of a table must satisfy. NULL counts as false."""

_UNNUMBERED: Final = f"""
    SELECT found.lane FROM (
        SELECT id >> {ROW_BITS} AS lane, min(id) & {MAX_ROW} AS first,
            max(id) & {MAX_ROW} AS last
        FROM outgoing GROUP BY 1
    ) AS found LEFT JOIN lane ON lane.id = found.lane
    WHERE (first > 0 AND last < next) IS NOT TRUE LIMIT 1"""
"""Selects a lane with a message whose number the lane has not assigned."""

_MISCOUNTED: Final = f"""
    SELECT id FROM lane LEFT JOIN (
        SELECT id >> {ROW_BITS} AS lane, count(*) AS found, sum(length(body)) AS size
        FROM outgoing GROUP BY 1
    ) ON lane = id
    WHERE rows <> coalesce(found, 0) OR bytes <> coalesce(size, 0) LIMIT 1"""
"""Selects a lane whose counts differ from its messages. The limits depend on these counts."""


def check_rows(connection: sqlite3.Connection) -> None:
    """Check every row of the file.

    Raises:
        ValueError: a store cannot have written one of the rows.
        sqlite3.Error: the file cannot be read.
    """
    for table, conditions in _SOUND.items():
        wrong = f"SELECT rowid FROM {table} WHERE ({' AND '.join(conditions)}) IS NOT TRUE LIMIT 1"
        if (found := connection.execute(wrong).fetchone()) is not None:
            raise ValueError(f"row {found[0]} of the table {table} is not one of a store's")
    if (found := connection.execute(_UNNUMBERED).fetchone()) is not None:
        raise ValueError(f"a message of lane {found[0]} has a number that the lane has not given")
    if (found := connection.execute(_MISCOUNTED).fetchone()) is not None:
        raise ValueError(f"the messages of lane {found[0]} differ from its counts")
    for id_, lanes in connection.execute("SELECT id, lanes FROM batch"):
        if not _LANES.issuperset(lanes):
            raise ValueError(f"row {id_} of the table batch has a lane that does not exist")
    of_copies = "SELECT id, leaves, places FROM batch WHERE length(places) > 0"
    for id_, leaves, places in connection.execute(of_copies):
        if len(Copies.decode(places).places) * HASH_SIZE != len(leaves):
            raise ValueError(f"row {id_} of the table batch has places for other leaves")
