"""Rows that no store has written are found when the file is opened, not in the middle of work."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from linkkit import ALICE
from signedwire.delivery.store import IncomingRow, StoreLimits
from signedwire.delivery.store.soundness import _SOUND
from signedwire.errors import StoreCorruptError, StoreVersionError
from signedwire.outbox import export
from signedwire.types import Did, Priority, Reason
from signedwire.wire.header import sequence_of
from storekit import OTHER, PEER, Note, accept, make, put


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A store with something in each table."""
    path = tmp_path / "store.db"
    store = make("inline", path)
    put(store, Note(b"one"), Note(b"two"), Note(b"!", Priority.CRITICAL))
    store.dead_letter(PEER, [(1, 1)], Reason.REFUSED, "no")
    accept(store, [1, 2, 3])
    store.access.deny([bytes(PEER)])
    store.access.allow_only([bytes(OTHER)])
    store.put(PEER, [Note(b"three")], is_met=False)
    assert store.close()
    return path


def change(path: Path, *statements: str) -> None:
    connection = sqlite3.connect(path, isolation_level=None)
    for statement in statements:
        assert connection.execute(statement).rowcount > 0, statement
    connection.close()


def test_what_a_store_has_written_is_sound(path: Path) -> None:
    connection = sqlite3.connect(path)
    for table in _SOUND:
        assert connection.execute(f"SELECT count(*) FROM {table}").fetchone() != (0,)
    connection.close()
    assert make("inline", path).close()


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE peer SET id = 4611686018427387904",
        "UPDATE peer SET did = x'00'",
        "UPDATE peer SET did = 7",
        "UPDATE peer SET epoch = -1",
        "UPDATE peer SET attempts = 9223372036854775807",
        "UPDATE peer SET low = 'low'",
        "UPDATE peer SET last_error = x'00'",
        "DELETE FROM peer",
        "DELETE FROM lane",
        "UPDATE lane SET next = 1",
        "UPDATE lane SET next = 1 << 40",
        "UPDATE lane SET written = 'x'",
        "UPDATE lane SET rows = -1",
        "UPDATE lane SET bytes = 1.5",
        "UPDATE outgoing SET id = id + (1 << 62)",
        "UPDATE outgoing SET id = id | 1048576",
        "UPDATE outgoing SET expires_at_us = 'soon'",
        "UPDATE outgoing SET body = substr(body, 1, 121)",
        "UPDATE outgoing SET body = CAST(body AS TEXT)",
        "UPDATE outgoing SET body = substr(body, 1, 104) || x'02' || substr(body, 106)",
        "UPDATE outgoing SET body = substr(body, 1, 105) || x'05' || substr(body, 107)",
        "UPDATE dead SET peer = 2",
        "UPDATE dead SET reason = 'no such reason'",
        "UPDATE dead SET detail = x'00'",
        "UPDATE dead SET died_at_us = 'then'",
        "UPDATE dead SET body = x''",
        "DELETE FROM batch",
        "UPDATE batch SET peer = 2",
        "UPDATE batch SET signature = x'00'",
        "UPDATE batch SET leaves = x'00'",
        "UPDATE batch SET leaves = zeroblob(33)",
        "UPDATE batch SET leaves = zeroblob(64)",
        "UPDATE batch SET leaves = zeroblob(257 * 32)",
        "UPDATE batch SET lanes = x''",
        "UPDATE batch SET lanes = x'010109'",
        "UPDATE batch SET refused = 'abc'",
        "UPDATE incoming SET batch = 2",
        "UPDATE incoming SET place = 3",
        "UPDATE incoming SET place = -1",
        "UPDATE incoming SET body = zeroblob(9)",
        "UPDATE incoming SET id = id + (1 << 62)",
        "UPDATE lane SET rows = rows + 1 WHERE rows > 0",
        "DELETE FROM outgoing",
        "UPDATE lane SET bytes = bytes - 1 WHERE rows > 0",
        "DELETE FROM outgoing WHERE id = (SELECT min(id) FROM outgoing)",
        "UPDATE outgoing SET ages_at_us = 'later'",
        "UPDATE access SET rule = 'perhaps' WHERE rule = 'allow'",
        "UPDATE access SET did = x'00'",
        "UPDATE access SET did = zeroblob(32) WHERE rule = 'only'",
    ],
)
def test_a_row_that_no_store_has_written(path: Path, statement: str) -> None:
    change(path, statement)
    before = path.read_bytes()
    with pytest.raises(StoreCorruptError, match="its tables do not fit together"):
        make("inline", path, StoreLimits())
    assert path.read_bytes() == before


@pytest.mark.parametrize("owner", ["7", "17179869184", "'text'", "x'00'", "zeroblob(32)"])
def test_an_owner_that_is_none(path: Path, owner: str) -> None:
    """A number as large as this one must not become as many bytes."""
    change(path, f"UPDATE node SET owner = {owner}")
    with pytest.raises((StoreCorruptError, StoreVersionError)):
        make("inline", path)


def test_pages_are_bounded_by_bytes(tmp_path: Path) -> None:
    """However many rows are asked for: 4 MiB of them, or one that is larger."""
    store, large = make("inline", tmp_path / "large.db"), 1 << 20
    accept(store, list(range(1, 10)), payload=bytes(large))
    accept(store, [10], payload=bytes(5 * large))
    put(store, *(Note(bytes(large)) for _ in range(6)))
    store.dead_letter(PEER, [(1, sequence) for sequence in range(1, 7)], Reason.REFUSED)
    unacked: list[IncomingRow] = []
    counts = []
    while page := store.unacked(after=unacked[-1].id if unacked else 0, limit=1000).result():
        counts.append(len(page))
        unacked += page
    assert counts == [3, 3, 3, 1]
    assert [sequence_of(row.body) for row in unacked] == list(range(1, 11))
    first = store.dead_letters(limit=100).result()
    rest = store.dead_letters(after=first[-1].id, limit=100).result()
    assert (len(first), len(rest)) == (3, 3)
    assert store.dead_letters(after=rest[-1].id, limit=100).result() == []
    assert export(store, ALICE, tmp_path / "exported") == 10
    assert store.close()


def test_a_did_is_not_made_of_a_number() -> None:
    number: bytes = 2**40  # type: ignore[assignment]
    with pytest.raises(TypeError):
        Did(number)


@pytest.mark.parametrize("table", ["node", *_SOUND])
@pytest.mark.parametrize("how", ["lost", "other columns", "a view"])
def test_a_table_that_is_missing(path: Path, table: str, how: str) -> None:
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute(f"ALTER TABLE {table} RENAME TO elsewhere")
    if how == "lost":
        connection.execute("DROP TABLE elsewhere")
    elif how == "other columns":
        connection.execute(f"CREATE TABLE {table} (other)")
        connection.execute(f"INSERT INTO {table} VALUES (1)")
    else:
        connection.execute(f"CREATE VIEW {table} AS SELECT 1 AS one")
    connection.close()
    expect_damage(path)


@pytest.mark.parametrize("version", [0, -1, -2, -3, -(2**31)])
def test_a_version_that_is_not_the_one_of_its_tables(path: Path, version: int) -> None:
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute(f"PRAGMA user_version = {version}")
    connection.close()
    expect_damage(path)


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TRIGGER other BEFORE INSERT ON outgoing BEGIN SELECT RAISE(ABORT, 'no'); END",
        "CREATE TRIGGER other AFTER UPDATE ON peer BEGIN DELETE FROM access; END",
        "ALTER TABLE access ADD COLUMN more",
        "ALTER TABLE dead RENAME COLUMN detail TO details",
    ],
)
def test_what_would_come_to_light_in_the_middle_of_work(path: Path, statement: str) -> None:
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute(statement)
    connection.close()
    expect_damage(path)


def test_what_a_repair_leaves_does_no_harm(path: Path) -> None:
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("CREATE TABLE lost_and_found (rootpgno, pgno, nfield, id, c0)")
    connection.execute("ANALYZE")
    connection.close()
    assert make("inline", path).close()


def expect_damage(path: Path) -> None:
    """It is refused as damaged, says how to repair it, and stays as it is."""
    before = path.read_bytes()
    with pytest.raises(StoreCorruptError) as caught:
        make("inline", path)
    assert "Copy it away before anything else. Then restore an earlier copy" in str(caught.value)
    assert path.read_bytes() == before
