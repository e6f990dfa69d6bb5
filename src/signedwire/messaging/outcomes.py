"""The outcomes of one payload that was sent to several peers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from signedwire.arguments import Until
from signedwire.delivery.outcomes import as_completed, as_completed_blocking
from signedwire.delivery.receipt import Receipt, state_named
from signedwire.errors import DeliveryError, SignedWireError, StoreError
from signedwire.types import DeliveryState, Did, Reason

__all__ = ["FailedMember", "Outcomes"]

_FAILED = frozenset({DeliveryState.FAILED, DeliveryState.EXPIRED, DeliveryState.REFUSED})


class FailedMember(NamedTuple):
    """A peer that does not have the message, or has refused it."""

    did: Did
    """The DID of the peer."""
    reason: Reason
    """Why, for programs."""
    detail: str
    """Why, for people."""
    last_seen: float | None
    """When the last link of the peer ended, as Unix time in seconds; now, if a link is open.
    `None`: this node has had no link of it."""
    error: SignedWireError
    """The error that `send()` would have raised for this peer."""
    name: str | None = None
    """The name of the peer in the option `names` of this node; `None`: it has none."""


class Outcomes(Mapping[Did, Receipt | SignedWireError]):
    """A table by DID of the peers that have a message, and of those that have not, and why.

    `Node.publish()`, `Node.send_all()` and `Node.mirror()` return it. The value of a peer is the
    receipt of its copy, or the error for which no copy was queued. The table follows the
    receipts, so `delivered` and `failed` change until all copies have an outcome. Any thread may
    read it.
    """

    __slots__ = ("_entries", "_level", "_name_of", "_seen_at")

    def __init__(
        self,
        entries: dict[Did, Receipt | SignedWireError],
        state: DeliveryState,
        seen_at: Callable[[Did], float | None],
        name_of: Callable[[Did], str | None],
    ) -> None:
        self._entries = entries
        self._level = state
        self._seen_at = seen_at
        self._name_of = name_of

    def __getitem__(self, did: Did) -> Receipt | SignedWireError:
        return self._entries[did]

    def __iter__(self) -> Iterator[Did]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def until(self) -> DeliveryState:
        """The state that counts as delivered: that of the call, or of the last `wait()`."""
        return self._level

    @property
    def receipts(self) -> list[Receipt]:
        """The receipts of the copies that were queued."""
        return [entry for entry in self._entries.values() if isinstance(entry, Receipt)]

    @property
    def delivered(self) -> tuple[Did, ...]:
        """The peers whose copy has reached `until`, and was neither refused nor given up since."""
        return tuple(
            did
            for did, entry in self._entries.items()
            if isinstance(entry, Receipt)
            and entry.state not in _FAILED
            and entry.has_reached(self._level)
        )

    @property
    def failed(self) -> tuple[FailedMember, ...]:
        """The peers whose copy was not queued, was refused, or will not reach `until`."""
        found = []
        for did, entry in self._entries.items():
            error = self._error_of(entry)
            if error is not None:
                detail = entry.detail if isinstance(entry, Receipt) else ""
                seen_at = self._seen_at(did)
                text = str(detail or error.fact)
                name = self._name_of(did)
                found.append(FailedMember(did, _reason_of(error), text, seen_at, error, name))
        return tuple(found)

    @property
    def pending(self) -> tuple[Did, ...]:
        """The peers whose copy is still on its way."""
        over = {*self.delivered, *(member.did for member in self.failed)}
        return tuple(did for did in self._entries if did not in over)

    def _error_of(self, entry: Receipt | SignedWireError) -> SignedWireError | None:
        """Return the error of a peer that has failed, else `None`."""
        if not isinstance(entry, Receipt):
            return entry
        if entry.state not in _FAILED and entry.has_reached(self._level):
            return None
        try:
            entry._raise_if_over(self._level)
        except SignedWireError as error:
            return error
        return None

    async def wait(self, until: Until | None = None, timeout: float | None = None) -> Outcomes:
        """Wait until each copy has reached `until` or has failed, and return this table.

        A copy that fails raises nothing here, nor does a `timeout` that passes: see `failed` and
        `pending`. Cancelling withdraws no copy. Any event loop in any thread may wait; without
        one, use `result()`.

        Args:
            until: A state for `Receipt.wait()`; by default `Outcomes.until`.
            timeout: Seconds for all copies together, 0 or more; by default no limit.

        Raises:
            ValueError, TypeError: there is no such state, the copies never reach it, or
                `timeout` is not a number of seconds.
            WrongContextError: the node's event loop cannot run meanwhile, or no asyncio event
                loop runs here.
        """
        level = self._level if until is None else state_named(until)
        try:
            async for _ in as_completed(self.receipts, level, timeout):
                pass
        except TimeoutError:
            pass
        self._level = level
        return self

    def result(self, until: Until | None = None, timeout: float | None = None) -> Outcomes:
        """Wait like `wait()`, but block the calling thread: for programs without asyncio.

        Raises:
            RuntimeError: called without a `timeout` in the thread of the node's event loop,
                where the call would block for ever; and what `wait()` raises.
        """
        level = self._level if until is None else state_named(until)
        try:
            for _ in as_completed_blocking(self.receipts, level, timeout):
                pass
        except TimeoutError:
            pass
        self._level = level
        return self

    def __repr__(self) -> str:
        counts = f"{len(self.delivered)} delivered, {len(self.failed)} failed"
        return f"<Outcomes of {len(self)} peers: {counts}, {len(self.pending)} pending>"


def _reason_of(error: SignedWireError) -> Reason:
    if isinstance(error, DeliveryError):
        return error.reason
    return Reason.STORE_FAILED if isinstance(error, StoreError) else Reason.CLOSED
