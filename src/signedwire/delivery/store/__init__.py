"""The durable state of a node, on a disk or in memory.

    Store                     the interface, one for both kinds
      │  numbers, limits      Ledger: counts and marks, never the rows
      ▼
    Writer / Inline           one transaction for all waiting operations, then callbacks
      ▼
    Work ─→ Tables            each operation on the rows: SqliteTables, MemoryTables

- `store`: the interface and its guarantees. `memory`, `sqlite`: the two kinds of stores.
- `work`: the operations. `ledger`: counts and marks. `commits`: threads and transactions.
- `tables`: the interface to the rows. `memory_tables`, `sqlite_tables`: the rows.
- `records`: the types of arguments and results. `stored_values`: arguments as stored values.
- `schema`: the file, and how it is opened. `beginning`: tells a new file from one that lost its
  content. `soundness`: checks the rows of a file.
- `access`: the access list. `clock_steps`: deadlines, when the wall clock is set. `unmet`:
  messages to peers that were never met.
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
