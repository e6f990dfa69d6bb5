"""How many bytes of received envelopes may wait for the application, of all senders together."""

from __future__ import annotations

from typing import Protocol

from signedwire.config import TransportConfig
from signedwire.wire.header import V2_HEADER_SIZE

__all__ = ["BudgetUser", "InboxBudget"]


class BudgetUser(Protocol):
    """A receiver whose credit the budget may cut."""

    def flush_soon(self) -> None:
        """Tell the peer its credit, in a moment."""


class InboxBudget:
    """Bytes that wait, against `inbox_bytes`.

    Anyone can make keys, so a limit for each key alone would bound nothing. When half the
    budget is free again, the receivers whose credit was cut grant more.
    """

    def __init__(self, config: TransportConfig) -> None:
        self._limit = max(config.inbox_bytes, V2_HEADER_SIZE + config.max_payload_size)
        self._used = 0
        self._cut: set[BudgetUser] = set()

    def free_for(self, receiver: BudgetUser, wanted: int) -> int:
        """How many of `wanted` bytes may be granted."""
        free = max(0, self._limit - self._used)
        if free < wanted:
            self._cut.add(receiver)
        return min(free, wanted)

    def add(self, size: int) -> None:
        """Count bytes that have arrived; less than 0: that the application has taken."""
        self._used += size
        if self._cut and size < 0 and self._used * 2 <= self._limit:
            cut, self._cut = self._cut, set()
            for receiver in cut:
                receiver.flush_soon()

    def forget(self, receiver: BudgetUser) -> None:
        """The receiver needs no credit any more."""
        self._cut.discard(receiver)
