"""The `InboxStore` of a node with a file: marks, and messages that are not handled yet."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Final

from signedwire.delivery.endpoint import Endpoint
from signedwire.delivery.message import IncomingMessage
from signedwire.delivery.receive_streams import Arrivals
from signedwire.delivery.store import Marks, OnCommit, RememberedLeaves, Store, Unaccepted
from signedwire.errors import ClosedError, StoreError, StoreFailedError
from signedwire.transport.runtime import Runtime
from signedwire.types import Did
from signedwire.wire.session import BatchReceived

__all__ = ["InboxDriver"]

# A store can fail at any moment, in its own thread. `accept()` reports that. The methods that
# only note progress have nothing more to do then.
_WHILE_IT_WORKS: Final = contextlib.suppress(StoreFailedError, ClosedError)


class InboxDriver:
    """The `InboxStore` of a node with a store.

    Args:
        runtime: The surroundings of the parts of the node.
        store: The store.
    """

    is_durable = True

    def __init__(self, runtime: Runtime, store: Store) -> None:
        self._runtime = runtime
        self._store = store

    @property
    def failure(self) -> StoreError | None:
        """The error for which the store accepts nothing more; `None`: it works."""
        return self._store.failure

    async def restore(self, endpoint: Endpoint) -> None:
        """Deliver messages that an earlier process accepted but did not acknowledge."""
        for did in self._store.v2_speakers():
            endpoint.v2_speakers.add(bytes(did))
        after = 0
        while rows := await asyncio.wrap_future(self._store.unacked(after=after)):
            if denied := endpoint.restore(rows):
                with _WHILE_IT_WORKS:
                    self._store.acked(denied)
            after = rows[-1].id

    def marks(self, did: Did) -> Marks:
        """Return the committed marks of a sender."""
        return self._store.marks(did)

    def hello_marks(self, did: Did, current: Marks) -> tuple[int, int, int, int]:
        """Return the committed marks, if they are of the sender's present epoch; else zeros."""
        marks = self._store.marks(did)
        return marks.lanes if marks.epoch == current.epoch else (0, 0, 0, 0)

    def load_leaves(self, did: Did, on_loaded: Callable[[RememberedLeaves | None], None]) -> bool:
        """Call `on_loaded` with the remembered leaves of a sender; `False`: the store failed."""
        with _WHILE_IT_WORKS:
            known = self._store.leaves(did)
            known.add_done_callback(partial(self._runtime.call_soon, _report_leaves, on_loaded))
            return True
        return False

    def began(self, did: Did, marks: Marks) -> None:
        """Note that the sender has begun a new epoch."""
        with _WHILE_IT_WORKS:
            self._store.began(did, marks)

    def inbox_room(self, did: Did, messages: Sequence[IncomingMessage]) -> int:
        """Return the number of messages, from the first one on, that fit into the inbox."""
        return self._store.inbox_room(did, [message.size for message in messages])

    def accept(
        self,
        did: Did,
        marks: Marks,
        batch: BatchReceived,
        arrivals: Arrivals,
        not_stored: Sequence[int],
        on_commit: OnCommit,
    ) -> None:
        """Store the new messages of a batch, and call `on_commit` after the commit.

        A batch without anything new is not stored. Its `on_commit` is called after the
        commits before it.
        """
        new = arrivals.new
        if not new and not arrivals.late and not not_stored:
            self._store.barrier(on_commit)
            return
        places = [message.index for message in new]
        unaccepted = Unaccepted(late=arrivals.late, not_stored=not_stored, invalid=arrivals.invalid)
        ids = self._store.accept(did, marks, batch, places, unaccepted, on_commit)
        for message, id_ in zip(new, ids, strict=True):
            message.row = id_

    def acked(self, messages: Sequence[IncomingMessage], on_commit: OnCommit) -> None:
        """Remove answered messages, and call `on_commit` after the commit."""
        rows = [message.row for message in messages if message.row is not None]
        with _WHILE_IT_WORKS:
            self._store.acked(rows, on_commit)


def _report_leaves(
    on_loaded: Callable[[RememberedLeaves | None], None], known: Future[RememberedLeaves]
) -> None:
    has_failed = known.cancelled() or known.exception() is not None
    on_loaded(None if has_failed else known.result())
