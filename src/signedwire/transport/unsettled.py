"""Received batches that wait for the disk, and the end of a session that waits for them."""

from __future__ import annotations

from signedwire.wire.session import Closed

__all__ = ["UnsettledBatches"]


class UnsettledBatches:
    """Counts the received batches that are not answered yet, and keeps the end of the session.

    A peer that has broken a rule is disconnected. What it sent before that is answered first.
    """

    __slots__ = ("_closed", "_count")

    def __init__(self) -> None:
        self._count = 0
        self._closed: Closed | None = None

    def add(self) -> None:
        """Count a batch that was received."""
        self._count += 1

    def settle(self) -> Closed | None:
        """Count a batch as answered; return the end that waited for it, if it was the last."""
        self._count -= 1
        return None if self._count else self._closed

    def holds(self, closed: Closed) -> bool:
        """Keep the end of the session until all batches are answered; `False`: end it now."""
        if not self._count or closed.reason is None or closed.is_by_peer:
            return False
        self._closed = closed
        return True
