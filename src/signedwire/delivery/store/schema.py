"""The SQLite file of a store: how it is opened, what it must be, and how it got so.

    peer       one for each DID: epochs, marks, last error
    lane       the next row of a lane, how much waits in it, and where sequences began
    outgoing   what has no answer yet
    dead       what was refused or given up
    batch      received batches: their leaves and signature
    incoming   messages of them that the application is not done with
    access     which DIDs the node was told to turn away, or to let in alone

A file is opened only whole, by one process at a time, with the key that made it.
The lock is SQLite's own: `locking_mode=EXCLUSIVE` holds it until the file is
closed or the process has died, and spares the shared memory of the WAL.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
import stat
import struct
from collections.abc import Iterator, Sequence
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

__all__ = ["MIGRATIONS", "commit_failed", "migrate", "open_file", "reading"]

APPLICATION_ID: Final = 0x53575354  # "SWST"

# 64-bit numbers of others are kept as signed ones. What is small and changes with
# every message comes before what is large and does not.
_VERSION_1: Final = (
    "CREATE TABLE node (owner BLOB NOT NULL)",
    """CREATE TABLE peer (
        id INTEGER PRIMARY KEY, did BLOB NOT NULL UNIQUE, has_spoken_v2 INTEGER NOT NULL,
        epoch INTEGER NOT NULL, attempts INTEGER NOT NULL, last_error_at_us INTEGER,
        their_epoch INTEGER NOT NULL, low INTEGER NOT NULL, normal INTEGER NOT NULL,
        high INTEGER NOT NULL, critical INTEGER NOT NULL, last_error TEXT)""",
    """CREATE TABLE lane (
        id INTEGER PRIMARY KEY, next INTEGER NOT NULL, written INTEGER NOT NULL,
        rows INTEGER NOT NULL, bytes INTEGER NOT NULL)""",
    """CREATE TABLE outgoing (
        id INTEGER PRIMARY KEY, expires_at_us INTEGER, body BLOB NOT NULL)""",
    """CREATE INDEX outgoing_expiry ON outgoing (expires_at_us)
        WHERE expires_at_us IS NOT NULL""",
    """CREATE TABLE dead (
        id INTEGER PRIMARY KEY AUTOINCREMENT, peer INTEGER NOT NULL, reason TEXT NOT NULL,
        detail TEXT NOT NULL, died_at_us INTEGER NOT NULL, body BLOB NOT NULL)""",
    """CREATE TABLE batch (
        id INTEGER PRIMARY KEY, peer INTEGER NOT NULL, signature BLOB NOT NULL,
        leaves BLOB NOT NULL, lanes BLOB NOT NULL, refused BLOB NOT NULL)""",
    """CREATE TABLE incoming (
        id INTEGER PRIMARY KEY, batch INTEGER NOT NULL, place INTEGER NOT NULL,
        body BLOB NOT NULL)""",
)
_VERSION_2: Final = ("ALTER TABLE lane ADD COLUMN base INTEGER NOT NULL DEFAULT 0",)
_VERSION_3: Final = (
    """CREATE TABLE access (
        rule TEXT NOT NULL, did BLOB NOT NULL, PRIMARY KEY (rule, did))""",
    "ALTER TABLE outgoing ADD COLUMN ages_at_us INTEGER",
    """CREATE INDEX outgoing_age ON outgoing (ages_at_us) WHERE ages_at_us IS NOT NULL""",
)
MIGRATIONS: Final = (_VERSION_1, _VERSION_2, _VERSION_3)
"""What makes each version out of the one before; the first out of nothing."""

_OLDEST_SQLITE: Final = (3, 35, 0)  # some thousand arguments to a statement
_BUSY: Final = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}
_DAMAGED: Final = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
_MISFIT: Final = {sqlite3.SQLITE_ERROR, sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_MISMATCH}
"""What SQLite answers to a statement that the tables of the file do not suit."""
_COLUMNS: Final = """
    SELECT kept.name, of.name FROM sqlite_schema AS kept, pragma_table_info(kept.name) AS of
    WHERE kept.type = 'table'"""
_REPAIR: Final = (
    "Copy it away before anything else; then restore a copy of before, or save what can be "
    "read with `sqlite3 FILE .recover`, or start with a new file"
)


def open_file(path: str, owner: Did) -> sqlite3.Connection:
    """Open or make the file of a store, in the thread that is to use it.

    Raises:
        StoreInUseError, StoreCorruptError, StoreVersionError, StoreOpenError:
            it cannot be used; the text says what to do.
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
    """Say what is wrong with the file in our words, and close it then.

    Raises:
        StoreOpenError: in place of any error of SQLite or the system, or of numbers that
            do not fit.
    """
    try:
        yield
    except BaseException as error:
        with contextlib.suppress(sqlite3.Error):
            connection.close()
        if isinstance(error, (sqlite3.Error, OSError)):
            raise _open_error(path, error) from None
        # Values of a type or range that is not ours, too.
        if isinstance(error, (LookupError, DidError, TypeError, ValueError, struct.error)):
            raise StoreCorruptError(path, "its tables do not fit together", _REPAIR) from error
        raise


def _make(path: str) -> None:
    """Make the file, for nobody else to read: SQLite's beside it get its mode, 0600."""
    is_new = not os.path.lexists(path)
    try:
        if is_new:
            begin(path)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    except FileExistsError:
        # A device would be written to, and its mode be changed for everybody.
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
    """Refuse an emptied file while SQLite has not seen it: it removes the WAL of such a one."""
    # The mark first: whoever makes the file takes it away when there is something in it.
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
    if version > len(MIGRATIONS):
        raise StoreVersionError(
            path,
            f"it has version {version}, and this signedwire knows up to {len(MIGRATIONS)}",
            "Use the newer signedwire that wrote it",
        )
    if version < 0:
        raise StoreCorruptError(path, f"no store has the version {version}", _REPAIR)
    # Read under a lock of SQLite's: nobody is making it meanwhile.
    check_begun(path, is_empty=not objects)
    if version:
        _check_owner(connection, path, owner)
    # It is ours. By its name: opening and closing the file here would drop the locks of
    # another connection of this process.
    if os.name == "posix" and stat.S_IMODE(os.stat(path).st_mode) & 0o077:
        os.chmod(path, 0o600)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA wal_autocheckpoint = 0")  # done after the callers were told
    connection.execute("PRAGMA cache_size = -2000")  # KiB; a build may have another default
    # Takes the lock, were there nothing else to write.
    connection.execute("BEGIN IMMEDIATE")
    connection.execute("COMMIT")
    found = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    if found != "ok":
        raise StoreCorruptError(path, f"the file is damaged ({found})", _REPAIR)
    migrate(connection, MIGRATIONS, owner)
    _check_columns(connection, path, owner)
    # What a crash left in the WAL would stay, and the next be appended to it.
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
    """Refuse tables that no migration makes, and what would change rows behind our back."""
    with contextlib.closing(sqlite3.connect(":memory:", isolation_level=None)) as made:
        migrate(made, MIGRATIONS, owner)
        expected = set(made.execute(_COLUMNS))
    tables = {table for table, _ in expected}
    # Further tables do no harm: what repairs a file may leave some.
    wrong = expected ^ {found for found in connection.execute(_COLUMNS) if found[0] in tables}
    names = sorted({table for table, _ in wrong})
    others = "SELECT name FROM sqlite_schema WHERE type IN ('trigger', 'view')"
    names += sorted(name for (name,) in connection.execute(others))
    if names:
        cause = f"its tables do not fit together ({', '.join(map(repr, names))})"
        raise StoreCorruptError(path, cause, _REPAIR)


def migrate(
    connection: sqlite3.Connection, migrations: Sequence[Sequence[str]], owner: Did
) -> None:
    """Bring a file to the newest version, in one transaction."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version >= len(migrations):
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        for statements in migrations[version:]:
            for statement in statements:
                connection.execute(statement)
        if version == 0:
            connection.execute("INSERT INTO node VALUES (?)", (bytes(owner),))
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {len(migrations)}")
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
            "Stop that one, ask it, or name another file: one node uses a store at a time",
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
        return StoreOpenError(path, "a part of its path is no directory", "Is its name right?")
    if code == sqlite3.SQLITE_FULL or getattr(error, "errno", None) == errno.ENOSPC:
        return StoreOpenError(path, "the disk is full", "Make room on it, or name another file")
    if _is_read_only(path, error):
        hint = "Name a file on a volume that can be written"
        return StoreOpenError(path, "its file system is read-only", hint)
    for place in (path, os.path.dirname(path) or os.curdir):
        # SQLite says "disk I/O error", or the like, of a file that it may only read.
        if code and os.path.exists(place) and not os.access(place, os.W_OK):
            return StoreOpenError(
                path,
                f"this user may not write to {place}",
                "A store needs a file and a folder that belong to the user of the node",
            )
    cause = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return StoreOpenError(path, cause, "Is the disk full, or may this user not write there?")


def _is_read_only(path: str, error: Exception) -> bool:
    """Whether its file system is. SQLite does not say so of a file that is there already."""
    if isinstance(error, OSError):
        return error.errno == errno.EROFS
    try:
        return bool(os.statvfs(path).f_flag & os.ST_RDONLY)
    except (OSError, AttributeError):  # it is not there; or not a system that tells
        return False


def commit_failed(path: str, error: BaseException) -> StoreFailedError:
    """The error of everybody whose operation was in a commit that failed, or behind it."""
    hint = "Look after the disk, then start the node again: it goes on from the last commit"
    if _code_of(error) == sqlite3.SQLITE_FULL or getattr(error, "errno", None) == errno.ENOSPC:
        hint = "Make room on the disk, then start the node again: it goes on from the last commit"
    elif not isinstance(error, (sqlite3.Error, OSError)):
        hint = "That is a fault of signedwire: report it, and start the node again"
    return StoreFailedError(
        path,
        str(error) or type(error).__name__,
        "whether the last messages are in it is not known, and nothing more is taken or "
        "acknowledged",
        hint,
    )
