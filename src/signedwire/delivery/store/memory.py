"""A store in memory, for tests. All guarantees of a store hold until the process ends."""

from __future__ import annotations

from functools import partial

from signedwire.delivery.store.commits import Dispatch, Inline
from signedwire.delivery.store.ledger import Ledger
from signedwire.delivery.store.memory_tables import MemoryTables
from signedwire.delivery.store.records import StoreLimits
from signedwire.delivery.store.schema import commit_failed
from signedwire.delivery.store.store import Store
from signedwire.delivery.store.work import Work
from signedwire.types import Did

__all__ = ["MemoryStore"]


class MemoryStore(Store):
    """A store in memory: each call runs its operation at once, in the calling thread.

    Args:
        owner: The node's DID.
        limits: The limits of the store, by default `StoreLimits()`.
        dispatch: Schedules the callbacks. By default they run at once, so perhaps before
            the call that they belong to has returned.
    """

    def __init__(
        self,
        owner: Did,
        *,
        limits: StoreLimits | None = None,
        dispatch: Dispatch = lambda run: run(),
    ) -> None:
        ledger = Ledger(limits or StoreLimits())
        work = Work(ledger, MemoryTables(ledger))
        super().__init__(owner, work, Inline(work, dispatch, partial(commit_failed, "in memory")))
