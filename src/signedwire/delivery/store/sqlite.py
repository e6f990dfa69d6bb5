"""The store in one SQLite file. A crash loses no change whose callback has run.

The file is in WAL mode with `synchronous=FULL`: callbacks run after the sync of the
commit. The file is private to its owner (mode 0600) and to one process. The WAL is
copied back when the file is opened, and when it has grown to 4 MiB, after the
callbacks. So it never exceeds 4 MiB and one transaction, over any number of crashes.
"""

from __future__ import annotations

import os
from functools import partial

from signedwire.delivery.store.commits import Dispatch, Executor, Inline, Writer
from signedwire.delivery.store.ledger import Ledger
from signedwire.delivery.store.records import StoreLimits
from signedwire.delivery.store.schema import commit_failed, open_file, reading
from signedwire.delivery.store.sqlite_tables import SqliteTables
from signedwire.delivery.store.store import Store
from signedwire.delivery.store.work import Work
from signedwire.types import Did

__all__ = ["SqliteStore"]


class SqliteStore(Store):
    """A store in a file, with the thread that owns it. Opening and `close()` block.

    Args:
        path: Path of the file, which is made if there is none; beside it, a file with
            the suffix `-wal`.
        owner: The node's DID; the file belongs to this node alone.
        limits: The limits of the store, by default `StoreLimits()`.
        dispatch: Schedules the callbacks, such as `loop.call_soon_threadsafe`. By default
            they run in the thread that commits, where they must not raise or block.
        is_threaded: Whether a separate thread commits. Otherwise each call commits and
            blocks, in the thread that has opened the store. That is for simulations, and
            for a command that does one thing and ends.

    Raises:
        StoreInUseError, StoreCorruptError, StoreVersionError, StoreOpenError:
            the file cannot be used; nothing in it was changed.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        owner: Did,
        *,
        limits: StoreLimits | None = None,
        dispatch: Dispatch = lambda run: run(),
        is_threaded: bool = True,
    ) -> None:
        self.path = os.fspath(path)
        ledger = Ledger(limits or StoreLimits())
        works: list[Work] = []

        def open_() -> Work:
            connection = open_file(self.path, owner)
            with reading(connection, self.path):
                works.append(Work(ledger, SqliteTables(connection, ledger)))
            return works[0]

        failed = partial(commit_failed, self.path)
        executor: Executor
        executor = (
            Writer(open_, dispatch, failed, "signedwire-store")
            if is_threaded
            else Inline(open_(), dispatch, failed)
        )
        super().__init__(owner, works[0], executor)
