"""Received batches that wait for the disk, and a CLOSE that waits for them."""

from __future__ import annotations

from signedwire.wire.session import Closed

__all__ = ["UnsettledBatches"]


class UnsettledBatches:
    """Counts the received batches that are not answered yet, and keeps the end of the session.

    A peer that has broken a rule is disconnected. What it had sent before is answered first.
    """

    __slots__ = ("_closed", "_count")

    def __init__(self) -> None:
        self._count = 0
        self._closed: Closed | None = None

    def add(self) -> None:
        """A batch has been received."""
        self._count += 1

    def settle(self) -> Closed | None:
        """Count a batch as answered; return the end that waited for it, if it was the last."""
        self._count -= 1
        return None if self._count else self._closed

    def holds(self, closed: Closed) -> bool:
        """Keep the end of a session until all batches are answered; `False`: end it now."""
        is_fault = closed.reason is not None and not closed.is_by_peer
        if self._count and is_fault:
            self._closed = closed
        return self._closed is closed

    def release(self) -> None:
        """Forget the end: it is carried out."""
        self._closed = None
