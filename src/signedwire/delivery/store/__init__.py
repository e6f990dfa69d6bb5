"""What a node must not forget, on a disk or in memory.

    Store                     the interface, one for both kinds
      │  numbers, limits      Ledger: counts and marks, never the rows
      ▼
    Writer / Inline           one transaction for all that waits; tells after it
      ▼
    Work ─→ Tables            each operation on the rows: SqliteTables, MemoryTables

`store` has the promises, `commits` who keeps them in which thread, `schema` the
file and how it is opened. `records` are what goes in and comes out.
"""

from signedwire.delivery.store.commits import Call
from signedwire.delivery.store.memory import MemoryStore
from signedwire.delivery.store.records import (
    Backlog,
    DeadLetter,
    Draft,
    IncomingRow,
    Marks,
    Noted,
    OutgoingRow,
    RememberedLeaves,
    RowName,
    StoreLimits,
    StoreStats,
    Then,
)
from signedwire.delivery.store.sqlite import SqliteStore
from signedwire.delivery.store.store import Store

__all__ = [
    "Call",
    "Store",
    "MemoryStore",
    "SqliteStore",
    "StoreLimits",
    "StoreStats",
    "Backlog",
    "Draft",
    "OutgoingRow",
    "RowName",
    "DeadLetter",
    "IncomingRow",
    "Marks",
    "Noted",
    "RememberedLeaves",
    "Then",
]
