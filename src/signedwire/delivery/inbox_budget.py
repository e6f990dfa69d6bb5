"""The limit of bytes that wait for the application, for all senders together."""

from __future__ import annotations

from typing import Protocol

from signedwire.config import TransportConfig
from signedwire.wire.header import MAX_V2_HEADER_SIZE

__all__ = ["BudgetUser", "InboxBudget"]


class BudgetUser(Protocol):
    """A receiver whose credit the budget may cut."""

    def flush_soon(self) -> None:
        """Send credit in the next turn of the loop."""


class InboxBudget:
    """Counts the bytes that wait for the application, against `inbox_bytes`.

    Anyone can make keys, so a limit for each key alone would bound nothing. When half of the
    budget is free again, the receivers whose credit was cut grant more.

    Only bytes that have arrived are counted, not credit that a peer may never use. So each stream
    of each peer may be granted the same free bytes. At most `inbox_bytes` wait, and the credit
    that was granted before they did: for each peer the windows of its eight streams.

    Args:
        config: The configuration.
    """

    def __init__(self, config: TransportConfig) -> None:
        self._limit = max(config.inbox_bytes, MAX_V2_HEADER_SIZE + config.max_payload_size)
        self._used = 0
        self._cut: set[BudgetUser] = set()

    def free_for(self, receiver: BudgetUser, wanted: int) -> int:
        """Return how many of `wanted` bytes may be granted. They are not reserved.

        If these are fewer, `receiver` is called when half of the budget is free.
        """
        free = max(0, self._limit - self._used)
        if free < wanted:
            self._cut.add(receiver)
        return min(free, wanted)

    def add(self, size: int) -> None:
        """Count bytes that have arrived; a number below 0 counts bytes that were taken."""
        self._used += size
        if self._cut and size < 0 and self._used * 2 <= self._limit:
            cut, self._cut = self._cut, set()
            for receiver in cut:
                receiver.flush_soon()

    def forget(self, receiver: BudgetUser) -> None:
        """Do not call this receiver any more."""
        self._cut.discard(receiver)
