"""The SQLite file of a store: its schema, and the checks when it is opened.

    peer       one row for each DID: epochs, marks, last error
    lane       the next row of a lane, its backlog, and where its sequences began
    outgoing   messages without a final answer
    dead       messages that were refused or given up
    batch      received batches: their leaves and signature
    incoming   received messages that the application has not acknowledged
    access     denied DIDs, and the allow list

A file is opened only if it is sound, by one process at a time, with the key that made
it. The lock is SQLite's own: `locking_mode=EXCLUSIVE` holds it until the file is closed
or the process has died, and avoids the shared memory of the WAL.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
import stat
import struct
from collections.abc import Iterator
from typing import Final

from signedwire.delivery.store.beginning import begin, check_begun, finish
from signedwire.errors import (
    DidError,
    StoreCorruptError,
    StoreFailedError,
    StoreInUseError,
    StoreOpenError,
    StoreVersionError,
)
from signedwire.folders import sync_folder
from signedwire.types import Did

__all__ = ["VERSION", "commit_failed", "make_tables", "open_file", "reading"]

APPLICATION_ID: Final = 0x53575354  # "SWST"

# Peers' unsigned 64-bit numbers are stored as signed ones. Small columns that change with
# every message come before large ones that do not.
_SCHEMA: Final = (
    "CREATE TABLE node (owner BLOB NOT NULL)",
    """CREATE TABLE peer (
        id INTEGER PRIMARY KEY, did BLOB NOT NULL UNIQUE, has_spoken_v2 INTEGER NOT NULL,
        epoch INTEGER NOT NULL, attempts INTEGER NOT NULL, last_error_at_us INTEGER,
        their_epoch INTEGER NOT NULL, low INTEGER NOT NULL, normal INTEGER NOT NULL,
        high INTEGER NOT NULL, critical INTEGER NOT NULL, last_error TEXT)""",
    """CREATE TABLE lane (
        id INTEGER PRIMARY KEY, next INTEGER NOT NULL, written INTEGER NOT NULL,
        rows INTEGER NOT NULL, bytes INTEGER NOT NULL, base INTEGER NOT NULL DEFAULT 0)""",
    """CREATE TABLE outgoing (
        id INTEGER PRIMARY KEY, expires_at_us INTEGER, body BLOB NOT NULL,
        ages_at_us INTEGER)""",
    """CREATE INDEX outgoing_expiry ON outgoing (expires_at_us)
        WHERE expires_at_us IS NOT NULL""",
    """CREATE INDEX outgoing_age ON outgoing (ages_at_us) WHERE ages_at_us IS NOT NULL""",
    """CREATE TABLE dead (
        id INTEGER PRIMARY KEY AUTOINCREMENT, peer INTEGER NOT NULL, reason TEXT NOT NULL,
        detail TEXT NOT NULL, died_at_us INTEGER NOT NULL, body BLOB NOT NULL)""",
    """CREATE TABLE batch (
        id INTEGER PRIMARY KEY, peer INTEGER NOT NULL, signature BLOB NOT NULL,
        leaves BLOB NOT NULL, lanes BLOB NOT NULL, refused BLOB NOT NULL,
        places BLOB NOT NULL)""",
    """CREATE TABLE incoming (
        id INTEGER PRIMARY KEY, batch INTEGER NOT NULL, place INTEGER NOT NULL,
        body BLOB NOT NULL)""",
    """CREATE TABLE access (
        rule TEXT NOT NULL, did BLOB NOT NULL, PRIMARY KEY (rule, did))""",
)
VERSION: Final = 4
"""Version of the file. Those before it have messages in a form that nobody reads any more."""

_OLDEST_SQLITE: Final = (3, 35, 0)  # the first with thousands of arguments to a statement
_BUSY: Final = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}
_DAMAGED: Final = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
_MISFIT: Final = {sqlite3.SQLITE_ERROR, sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_MISMATCH}
"""Codes of SQLite for a statement that does not fit the tables of the file."""
_COLUMNS: Final = """
    SELECT t.name, c.name FROM sqlite_schema AS t, pragma_table_info(t.name) AS c
    WHERE t.type = 'table'"""
_REPAIR: Final = (
    "Copy it away before anything else. Then restore an earlier copy, or save its readable rows "
    "with `sqlite3 FILE .recover`, or start with a new file"
)


def open_file(path: str, owner: Did) -> sqlite3.Connection:
    """Open or make the file of a store, in the thread that is to use it.

    Raises:
        StoreInUseError, StoreCorruptError, StoreVersionError, StoreOpenError:
            the file cannot be used; the error has a hint.
    """
    if sqlite3.sqlite_version_info < _OLDEST_SQLITE:
        needed = ".".join(map(str, _OLDEST_SQLITE))
        raise StoreOpenError(
            path,
            f"this Python has SQLite {sqlite3.sqlite_version}, and a store needs {needed}",
            "Use a Python with a newer one",
        )
    try:
        _make(path)
        connection = sqlite3.connect(path, timeout=0, isolation_level=None, cached_statements=256)
    except (sqlite3.Error, OSError) as error:
        raise _open_error(path, error) from None
    with reading(connection, path):
        _prepare(connection, path, owner)
    return connection


@contextlib.contextmanager
def reading(connection: sqlite3.Connection, path: str) -> Iterator[None]:
    """Translate the errors of a block that reads the file, and close it after an error.

    Raises:
        StoreOpenError: SQLite or the system has raised an error.
        StoreCorruptError: the file has values of a wrong type or range.
    """
    try:
        yield
    except BaseException as error:
        with contextlib.suppress(sqlite3.Error):
            connection.close()
        if isinstance(error, (sqlite3.Error, OSError)):
            raise _open_error(path, error) from None
        # The file has values of a type or range that a store never writes.
        if isinstance(error, (LookupError, DidError, TypeError, ValueError, struct.error)):
            raise StoreCorruptError(path, "its tables do not fit together", _REPAIR) from error
        raise


def _make(path: str) -> None:
    """Make the file with mode 0600; SQLite gives the files beside it the same mode."""
    is_new = not os.path.lexists(path)
    try:
        if is_new:
            begin(path)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    except FileExistsError:
        # SQLite would write to a device, and its mode would change for all users.
        if not (os.path.isfile(path) or os.path.isdir(path)):
            raise OSError(errno.EINVAL, "it is no regular file") from None
        if os.path.isfile(path):
            _check_size(path)
        return
    except OSError:
        if is_new and not os.path.lexists(path):
            finish(path)
        raise
    sync_folder(os.path.dirname(path))


def _check_size(path: str) -> None:
    """Refuse an emptied file before SQLite opens it, because SQLite would remove its WAL."""
    # The marker first: a process that makes the file removes it once the file has content.
    try:
        check_begun(path, is_empty=True)
    except StoreCorruptError:
        if os.path.getsize(path) == 0:
            raise


def _prepare(connection: sqlite3.Connection, path: str, owner: Did) -> None:
    connection.execute("PRAGMA locking_mode = EXCLUSIVE")
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (objects,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    if objects and application != APPLICATION_ID:
        raise StoreVersionError(path, "it is no store of signedwire", "Name another file")
    if version > VERSION:
        raise StoreVersionError(
            path,
            f"it has version {version}, and this signedwire supports up to {VERSION}",
            "Use the newer signedwire that wrote it",
        )
    if version < 0:
        raise StoreCorruptError(path, f"no store has the version {version}", _REPAIR)
    if 0 < version < VERSION:
        raise StoreVersionError(
            path,
            f"it has version {version}, and this signedwire reads only {VERSION}",
            "Send its messages with the earlier signedwire that wrote it, or name another file",
        )
    # Checked under SQLite's lock, so that no other process is making the file.
    check_begun(path, is_empty=not objects)
    if version:
        _check_owner(connection, path, owner)
    # The file is ours. Its mode is set by path: opening and closing the file here would
    # drop the locks of another connection of this process.
    if os.name == "posix" and stat.S_IMODE(os.stat(path).st_mode) & 0o077:
        os.chmod(path, 0o600)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute(
        "PRAGMA wal_autocheckpoint = 0"
    )  # `checkpoint()` does it, after the callbacks
    connection.execute("PRAGMA cache_size = -2000")  # KiB; a build may have another default
    # Takes the lock even if there is nothing to write.
    connection.execute("BEGIN IMMEDIATE")
    connection.execute("COMMIT")
    found = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    if found != "ok":
        raise StoreCorruptError(path, f"the file is damaged ({found})", _REPAIR)
    make_tables(connection, owner)
    _check_columns(connection, path, owner)
    # Without this, the WAL that a crash left would stay, and grow with each crash.
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    finish(path)


def _check_owner(connection: sqlite3.Connection, path: str, owner: Did) -> None:
    (known,) = connection.execute("SELECT owner FROM node").fetchone() or (b"",)
    if known != bytes(owner):
        raise StoreVersionError(
            path,
            f"it belongs to {Did(known)}, and this node is {owner}",
            "Start with the key that the store was made with, or name another file",
        )


def _check_columns(connection: sqlite3.Connection, path: str, owner: Did) -> None:
    """Refuse tables that no store makes, and triggers and views, which could change rows."""
    with contextlib.closing(sqlite3.connect(":memory:", isolation_level=None)) as made:
        make_tables(made, owner)
        expected = set(made.execute(_COLUMNS))
    tables = {table for table, _ in expected}
    # Further tables do no harm: a tool that repairs a file may leave some.
    wrong = expected ^ {found for found in connection.execute(_COLUMNS) if found[0] in tables}
    names = sorted({table for table, _ in wrong})
    others = "SELECT name FROM sqlite_schema WHERE type IN ('trigger', 'view')"
    names += sorted(name for (name,) in connection.execute(others))
    if names:
        cause = f"its tables do not fit together ({', '.join(map(repr, names))})"
        raise StoreCorruptError(path, cause, _REPAIR)


def make_tables(connection: sqlite3.Connection, owner: Did) -> None:
    """Make the tables of an empty file, in one transaction."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version:
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        for statement in _SCHEMA:
            connection.execute(statement)
        connection.execute("INSERT INTO node VALUES (?)", (bytes(owner),))
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {VERSION}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # after some errors SQLite has rolled it back itself
            connection.execute("ROLLBACK")
        raise


def _code_of(error: BaseException) -> int:
    return int(getattr(error, "sqlite_errorcode", 0) or 0) & 0xFF


def _open_error(path: str, error: Exception) -> StoreOpenError:
    code = _code_of(error)
    if code in _BUSY:
        return StoreInUseError(
            path,
            "another process, or another node of this one, has it open",
            "Stop that node, or name another file: one node uses a store at a time",
        )
    if code == sqlite3.SQLITE_NOTADB:
        return StoreVersionError(
            path,
            "it is no store, or its first bytes are damaged",
            "Name another file; if it was a store, copy it away before anything else",
        )
    if os.path.isdir(path):
        return StoreOpenError(path, "it is a directory", "Name a file")
    if code in _DAMAGED:
        return StoreCorruptError(path, f"the file is damaged ({error})", _REPAIR)
    if code in _MISFIT:
        return StoreCorruptError(path, f"its tables do not fit together ({error})", _REPAIR)
    if isinstance(error, OSError) and error.errno == errno.ENOENT:
        return StoreOpenError(path, "its directory does not exist", "Make the directory first")
    if isinstance(error, OSError) and error.errno == errno.ENOTDIR:
        return StoreOpenError(path, "a part of its path is no directory", "Check the path")
    if code == sqlite3.SQLITE_FULL or getattr(error, "errno", None) == errno.ENOSPC:
        return StoreOpenError(path, "the disk is full", "Make room on it, or name another file")
    if _is_read_only(path, error):
        hint = "Name a file on a volume that can be written"
        return StoreOpenError(path, "its file system is read-only", hint)
    for place in (path, os.path.dirname(path) or os.curdir):
        # SQLite reports "disk I/O error", or the like, for a file that it may only read.
        if code and os.path.exists(place) and not os.access(place, os.W_OK):
            return StoreOpenError(
                path,
                f"this user may not write to {place}",
                "A store needs a file and a folder that belong to the user of the node",
            )
    cause = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return StoreOpenError(
        path, cause, "Check that the disk has room and that this user may write there"
    )


def _is_read_only(path: str, error: Exception) -> bool:
    """Whether the file system is read-only. SQLite does not report that for an existing file."""
    if isinstance(error, OSError):
        return error.errno == errno.EROFS
    try:
        return bool(os.statvfs(path).f_flag & os.ST_RDONLY)
    except (OSError, AttributeError):  # no such file, or a system without `statvfs()`
        return False


def commit_failed(path: str, error: BaseException) -> StoreFailedError:
    """Make the error for all operations in a failed commit, and for all behind it."""
    hint = "Check the disk, then start the node again: it goes on from the last commit"
    if _code_of(error) == sqlite3.SQLITE_FULL or getattr(error, "errno", None) == errno.ENOSPC:
        hint = "Make room on the disk, then start the node again: it goes on from the last commit"
    elif not isinstance(error, (sqlite3.Error, OSError)):
        hint = "That is a fault of signedwire: report it, and start the node again"
    return StoreFailedError(
        path,
        str(error) or type(error).__name__,
        "whether it has the last messages is unknown, and it takes and acknowledges nothing more",
        hint,
    )
