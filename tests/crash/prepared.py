"""`python -m crash.prepared`: an actor whose store has compiled all its statements.

SQLite's programs are kept, one for each table and size of a group: 1, 2, 4 … 1024 rows. The
largest take 200 to 600 KiB each. So the first group as large as never before, which may come
in the 42nd minute, when the machine stood still for a moment, makes a step in the memory.
There are no more such steps when all exist from the beginning.
"""

from __future__ import annotations

import asyncio
import sqlite3
import sys
from typing import Final

from signedwire.delivery.store import sqlite
from signedwire.delivery.store.ledger import Ledger
from signedwire.delivery.store.sqlite_tables import SqliteTables

from .actor import main

_COLUMNS: Final = {
    "outgoing (id, expires_at_us, body)": 3,
    "outgoing (id, expires_at_us, body, ages_at_us)": 4,
    "batch": 7,
    "incoming": 4,
    "lane": 6,
    "peer": 12,
}
_SIZES: Final = [1 << exponent for exponent in range(11)]


class Prepared(SqliteTables):
    """Runs each statement once for each size, and changes nothing."""

    def __init__(self, connection: sqlite3.Connection, ledger: Ledger) -> None:
        super().__init__(connection, ledger)
        for size in _SIZES:
            for table, columns in _COLUMNS.items():
                self._insert(table, columns, [(None,) * columns] * size)
            nowhere = range(-2 * size, 0, 2)  # without neighbours, which would be one range
            self._removals = list(nowhere)
            self._remove_now()
            for table in ("incoming", "batch"):
                self._delete(table, nowhere)
        connection.execute("ROLLBACK")


if __name__ == "__main__":
    sqlite.SqliteTables = Prepared  # type: ignore[attr-defined]
    asyncio.run(main(*sys.argv[1:]))
