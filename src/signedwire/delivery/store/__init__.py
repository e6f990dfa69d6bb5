"""The durable state of a node, on a disk or in memory.

    Store                     the interface, one for both kinds
      │  numbers, limits      Ledger: counts and marks, never the rows
      ▼
    Writer / Inline           one transaction for all waiting operations, then callbacks
      ▼
    Work ─→ Tables            each operation on the rows: SqliteTables, MemoryTables

`store` lists the guarantees. `commits` has the threads and transactions, `schema` the
file and how it is opened, `records` the types that go in and come out.
"""

from signedwire.delivery.store.commits import UNLESS_FAILED, Dispatch
from signedwire.delivery.store.memory import MemoryStore
from signedwire.delivery.store.records import (
    Backlog,
    DeadLetter,
    Draft,
    IncomingRow,
    Marks,
    OnCommit,
    OutgoingRow,
    RememberedLeaves,
    RowName,
    StoreLimits,
    StoreStats,
    Unaccepted,
)
from signedwire.delivery.store.sqlite import SqliteStore
from signedwire.delivery.store.store import Store

__all__ = [
    "UNLESS_FAILED",
    "Dispatch",
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
    "Unaccepted",
    "RememberedLeaves",
    "OnCommit",
]
