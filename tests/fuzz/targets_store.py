"""A store whose file somebody else has written to: hostile rows, and hostile bytes."""

from __future__ import annotations

import contextlib
import sqlite3
from functools import cache
from pathlib import Path
from typing import Final

from signedwire.delivery.message_restorer import copy_of
from signedwire.delivery.outgoing_message import OutgoingMessage
from signedwire.delivery.send_options import SendOptions
from signedwire.delivery.store import DeadLetter, Marks, OutgoingRow, SqliteStore
from signedwire.errors import (
    EnvelopeError,
    SignatureError,
    StoreError,
    StoreFullError,
    StoreOpenError,
)
from signedwire.outbox import export
from signedwire.types import Priority, Reason
from signedwire.wire.session import BatchReceived

from .target import Choices, Target, expect_named, file_with, folder
from .targets_kit import ALICE, BOB, body, sign

__all__ = ["TARGETS"]

_COLUMNS: Final = {
    "node": ("owner",),
    "peer": (
        *("id", "did", "has_spoken_v2", "epoch", "attempts", "last_error_at_us"),
        *("their_epoch", "low", "normal", "high", "critical", "last_error"),
    ),
    "lane": ("id", "next", "written", "rows", "bytes"),
    "outgoing": ("id", "expires_at_us", "body"),
    "dead": ("id", "peer", "reason", "detail", "died_at_us", "body"),
    "batch": ("id", "peer", "signature", "leaves", "lanes", "refused"),
    "incoming": ("id", "batch", "place", "body"),
}
_TABLES: Final = tuple(_COLUMNS)
_NUMBERS: Final = (
    *(0, 1, -1, 2, 3, 4, 7, 255, 256, 2**21 - 1, 2**21, 2**31, 2**32),
    *(2**40, 1 << 42, (1 << 42) + 1, 2**62, 2**63 - 1, -(2**63), -(2**40)),
)
_RECEIVED: Final = [body(n, b"in", sender=BOB, recipient=ALICE) for n in (1, 2, 3)]


def _message(payload: bytes, priority: Priority = Priority.NORMAL) -> OutgoingMessage:
    return OutgoingMessage(SendOptions(BOB.did, priority), (1).to_bytes(16, "little"), payload)


def _batch() -> BatchReceived:
    sent = sign(_RECEIVED, BOB)
    return BatchReceived(_RECEIVED, sent.root, sent.leaves, sent.signature)


def _remove(path: Path) -> None:
    for suffix in ("", "-wal", "-shm", "-journal"):
        Path(f"{path}{suffix}").unlink(missing_ok=True)


@cache
def _template() -> bytes:
    """A sound store with something in each table."""
    path = folder() / "template"
    _remove(path)
    store = SqliteStore(path, ALICE.did, is_threaded=False)
    store.put(BOB.did, [_message(b"one"), _message(b"two"), _message(b"!", Priority.CRITICAL)])
    store.dead_letter(BOB.did, [(1, 1)], Reason.REFUSED, "no")
    ids = store.accept(BOB.did, Marks(9, (0, 3, 0, 0)), _batch(), (0, 1, 2))
    store.acked(ids[:1])
    store.note_v2(BOB.did)
    store.attempt_failed(BOB.did, "away")
    store.flush().result()
    assert store.close()
    # One file: what is in the WAL comes into it.
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode = DELETE")
    connection.close()
    return path.read_bytes()


def _value(choices: Choices) -> object:
    match choices.below(7):
        case 0:
            return None
        case 1 | 2:
            return _NUMBERS[choices.below(len(_NUMBERS))]
        case 3:
            return choices.take(choices.below(40))
        case 4:
            return choices.take(choices.below(8)).decode("latin-1")
        case 5:
            return _RECEIVED[0][: choices.byte()]
        case _:
            return choices.byte() / 3


def _change(connection: sqlite3.Connection, choices: Choices) -> None:
    table = _TABLES[choices.below(len(_TABLES))]
    columns = _COLUMNS[table]
    match choices.below(4):
        case 0:
            row = [_value(choices) for _ in columns]
            marks = ",".join("?" * len(columns))
            connection.execute(f"REPLACE INTO {table} VALUES ({marks})", row)
        case 1:
            connection.execute(
                f"DELETE FROM {table} WHERE rowid IN (SELECT rowid FROM {table} LIMIT 1 OFFSET ?)",
                (choices.below(4),),
            )
        case _:
            column = columns[choices.below(len(columns))]
            connection.execute(
                f"UPDATE {table} SET {column} = ? WHERE rowid IN"
                f" (SELECT rowid FROM {table} LIMIT 1 OFFSET ?)",
                (_value(choices), choices.below(4)),
            )


def store_rows(data: bytes) -> None:
    """A sound file in which rows were changed, added and removed."""
    path = folder() / "store"
    _remove(path)
    path.touch(mode=0o600)
    path.write_bytes(_template())
    choices = Choices(data)
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA synchronous = OFF")
    while not choices.is_at_end:
        with contextlib.suppress(sqlite3.Error):
            _change(connection, choices)
    connection.close()
    _use(path)


def store_bytes(data: bytes) -> None:
    """A sound file in which bytes were changed: two for the place, one for the value."""
    path = folder() / "store"
    _remove(path)
    changed = bytearray(_template())
    choices = Choices(data)
    while not choices.is_at_end:
        place = int.from_bytes(choices.take(3), "little") % len(changed)
        changed[place] = choices.byte()
    file_with(bytes(changed), "store")
    _use(path)


def _use(path: Path) -> None:
    """All that a node does with a store, until it is told that the store has failed."""
    try:
        store = SqliteStore(path, ALICE.did, is_threaded=False)
    except StoreOpenError as error:
        expect_named(error, path)
        return
    try:
        _look(store)
        _work(store)
        _export(store)
    except StoreFullError:
        return  # so the numbers in the file say
    except StoreError as error:
        expect_named(error, path)
        _expect_no_bug(error)
    finally:
        store.close()


def _expect_no_bug(error: StoreError) -> None:
    """What somebody wrote into the file is no fault of the program."""
    assert "fault of signedwire" not in str(error), error


def _look(store: SqliteStore) -> None:
    rows = store.outbox(limit=100).result()
    letters = store.dead_letters(limit=100).result()
    unacked = store.unacked(limit=100).result()
    for row in rows:
        _read(row)
        assert store.show(row.id).result() == row
    for letter in letters:
        _read(letter)
        with contextlib.suppress(StoreError):  # a request
            copy_of(letter)
    for incoming in unacked:
        repr(incoming.envelope)
        assert incoming.expires_at_us is None or incoming.expires_at_us > 0
        with contextlib.suppress(SignatureError):
            incoming.envelope.verify()
            assert incoming.body in _RECEIVED, "nobody signed that"
        assert incoming.seal
    for did in store.recipients():
        for lane in Priority:
            store.load(did, lane, 0, 10).result()
            store.lane(did, lane)
    store.leaves(BOB.did).result()
    store.marks(BOB.did)
    store.has_spoken_v2(BOB.did)
    store.v2_speakers()
    store.stats()


def _read(row: OutgoingRow | DeadLetter) -> None:
    assert isinstance(row.priority, Priority)
    assert row.payload_type >= 0
    assert len(row.message_id) == 32
    assert row.queued_at_us >= 0
    assert row.expires_at_us is None or row.expires_at_us > 0
    assert isinstance(row.payload, bytes)


def _work(store: SqliteStore) -> None:
    failed: list[StoreError] = []

    def on_commit(error: StoreError | None) -> None:
        if error is not None:
            failed.append(error)

    store.put(BOB.did, [_message(b"new"), _message(b"newer")], on_commit=on_commit)
    store.written(BOB.did, 1, 3)
    store.settled(BOB.did, [(1, 2)], on_commit)
    store.dead_letter(BOB.did, [(3, 1)], Reason.REFUSED, "no", on_commit)
    store.accept(BOB.did, Marks(9, (0, 9, 0, 0)), _batch(), (1,), on_commit=on_commit)
    store.acked([1, 2, 3], on_commit)
    store.expire(on_commit)
    store.drop_dead([1]).result()
    store.drop([1, 2, 3]).result()
    store.flush().result()
    if failed:
        raise failed[0]


def _export(store: SqliteStore) -> None:
    path = folder() / "exported"
    path.unlink(missing_ok=True)
    # An EnvelopeError: somebody has changed the store.
    with contextlib.suppress(EnvelopeError):
        export(store, ALICE, path)


def _edit(table: str, column: str, *value: int, row: int = 0) -> bytes:
    at = _COLUMNS[table].index(column)
    return bytes((_TABLES.index(table), 2, at, *value, row))


def _number(number: int) -> tuple[int, int]:
    return 1, _NUMBERS.index(number)


TARGETS: Final = (
    Target(
        "store-rows",
        store_rows,
        (
            b"",
            _edit("peer", "id", *_number(7)),
            _edit("peer", "did", 3, 5, *b"short"),
            _edit("lane", "rows", *_number(-1)),
            _edit("lane", "next", *_number(2**40)),
            _edit("outgoing", "body", 5, 20),
            _edit("outgoing", "id", *_number(2**62)),
            _edit("dead", "reason", 4, 2, *b"no"),
            _edit("dead", "body", 0),
            _edit("batch", "leaves", 3, 33, *bytes(33)),
            _edit("batch", "lanes", 3, 0),
            _edit("incoming", "place", *_number(255)),
            _edit("incoming", "batch", *_number(4)),
            _edit("incoming", "body", 5, 10),
            bytes((_TABLES.index("incoming"), 1, 0)) + bytes((_TABLES.index("batch"), 1, 0)),
            bytes((_TABLES.index("outgoing"), 0, 1, 1, 0, 5, 200)),
        ),
        (b"\0", b"\1\x0f", b"\5\x6a", b"\5\xff"),
        300,
    ),
    Target(
        "store-bytes",
        store_bytes,
        (b"", b"\x12\0\0\1", b"\0\x10\0\x0d", b"\x64\0\0\5\x3c\0\0\2", b"\0\x20\0\xff" * 4),
        (b"\0\0\0\0", b"\0\x10\0\x05", b"\x3c\0\0\x09", b"\xff"),
        400,
    ),
)
