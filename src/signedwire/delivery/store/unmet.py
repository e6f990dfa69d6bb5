"""Messages to unmet peers: lower limits apply, and the messages age."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial

from signedwire.delivery.store.commits import Executor, Operation
from signedwire.delivery.store.records import RowName
from signedwire.delivery.store.stored_values import storable
from signedwire.delivery.store.work import Work
from signedwire.types import Did, Reason

__all__ = ["UnmetPeers"]


class UnmetPeers:
    """The unmet peers of a store, as `Store.unmet`. Any thread may call.

    A peer is unmet while it has no route and no link, and never had a link. When a file is
    opened, peers with waiting messages that have an age are unmet; `set_met()` changes that.
    """

    def __init__(self, work: Work, executor: Executor) -> None:
        self._work = work
        self._executor = executor

    def set_met(self, recipient: Did, is_met: bool) -> None:
        """Set whether a peer has a route or had a link. Messages to such a peer do not age.

        Raises:
            StoreFailedError, ClosedError: the store takes nothing more.
        """
        ledger = self._work.ledger
        peer = ledger.peers.get(recipient)
        if peer is None or not ledger.set_met(peer, is_met) or not (is_met and peer.rows):
            return
        with ledger.lock:
            clear_ages = partial(self._work.tables.clear_ages, peer.first_row, peer.last_row)
            self._executor.submit(Operation(clear_ages))
        self._executor.flush()

    def full_peers(self, size: int) -> list[Did]:
        """Return the recipients whose own limit refuses one more message of `size` bytes.

        The extra room of Critical messages is not counted.
        """
        return self._work.ledger.full_peers(size)

    @property
    def on_aged(self) -> Callable[[list[RowName]], None] | None:
        """Callback for rows that became dead letters because they aged; runs like `on_commit`."""
        return self._work.on_aged

    @on_aged.setter
    def on_aged(self, callback: Callable[[list[RowName]], None] | None) -> None:
        self._work.on_aged = callback

    @property
    def age_detail(self) -> str:
        """The cause of dead letters that aged, as text for people."""
        return self._work.age_detail

    def last_rows(self, recipient: Did) -> list[int]:
        """Return the number of the last row of each lane to a peer; 0: the lane had none."""
        ledger = self._work.ledger
        with ledger.lock:
            return [lane.next - 1 for lane in ledger.peer(recipient).lanes]

    def dead_letter_up_to(
        self, recipient: Did, last: Sequence[int], reason: Reason, detail: str
    ) -> Future[list[RowName]]:
        """Make dead letters of the first 10,000 rows for a peer, and return their names.

        Args:
            recipient: The DID of the peer.
            last: For each lane, the last row that may become one; see `last_rows()`.
            reason: The reason of the dead letters.
            detail: The reason as text for people.
        """
        future: Future[list[RowName]] = Future()
        ledger = self._work.ledger
        with ledger.lock:
            peer = ledger.peer(recipient)
            dead_letter = partial(
                self._work.dead_letter_up_to, peer, last, reason, storable(detail)
            )
            self._executor.submit(Operation(dead_letter, None, future))
        self._executor.flush()
        return future
