"""The store in one SQLite file: what it has told is kept, it keeps through any crash.

WAL with `synchronous=FULL`: a transaction is told after the sync of its commit.
The file is private to its owner (mode 0600) and to one process. What is in the
WAL is copied back when the file is opened, and after the callers were told when
it has come to 4 MiB: so it is never longer than that and one transaction, over
any number of crashes.
"""

from __future__ import annotations

import os
from functools import partial

from signedwire.delivery.store.commits import Call, Executor, Inline, Writer
from signedwire.delivery.store.ledger import Ledger
from signedwire.delivery.store.records import StoreLimits
from signedwire.delivery.store.schema import commit_failed, open_file, reading
from signedwire.delivery.store.sqlite_tables import SqliteTables
from signedwire.delivery.store.store import Store
from signedwire.delivery.store.work import Work
from signedwire.types import Did

__all__ = ["SqliteStore"]


class SqliteStore(Store):
    """A file and the thread that owns it. Opening blocks, and so does `close()`.

    Args:
        path: Of the file; made where there is none, beside it `-wal`.
        owner: The node's DID; the file is of this node alone.
        call: Where `then` is called: `loop.call_soon_threadsafe`. By default in the
            thread that commits, where it must not raise or block.
        is_threaded: Whether a thread of its own commits. Else each call does, and so
            blocks, in the one thread that has opened it: for simulations, and for a
            command that does one thing and ends.

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
        call: Call = lambda run: run(),
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
        executor = Writer(open_, call, failed) if is_threaded else Inline(open_(), call, failed)
        super().__init__(owner, works[0], executor)
