"""Watches for answers of a peer that are overdue."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable
from typing import Final

__all__ = ["AnswerWatch"]

_STALL: Final = 1.0
"""Seconds. If a timer is later than this, our own event loop stalled, and the answer may still
wait in the socket."""


class AnswerWatch:
    """Watches whether bytes and answers come on a link, by the clock of the event loop.

    While bytes of batches are on the way, a READ that counts more of them is awaited. When the peer
    has read a whole batch, its answer is awaited. The time begins anew with each. So a
    slow link that brings bytes and answers in order is not overdue.

    Args:
        patience: Seconds after which an answer is shown as overdue.
        timeout: Seconds after which `on_overdue` is called.
        on_overdue: Called once in the loop, unless `end()` was called.
    """

    def __init__(self, patience: float, timeout: float, on_overdue: Callable[[], None]) -> None:
        self._patience = patience
        self._loop = asyncio.get_running_loop()
        self._timeout = timeout
        self._on_overdue: Callable[[], None] | None = on_overdue
        self._awaited: Hashable = None
        self._since = self._due = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def look(self, awaited: Hashable) -> None:
        """Note what is awaited next, which differs from all before it; `None`: nothing is."""
        if awaited != self._awaited:
            self._awaited = awaited
            self._since = self._loop.time()
        # A timer that fires early is set again, so that no answer costs a new timer.
        if awaited is not None and self._timer is None:
            self._arm()

    @property
    def overdue(self) -> float | None:
        """Seconds that this link has waited; `None` up to `patience`. Any thread."""
        waited = 0.0 if self._awaited is None else self._loop.time() - self._since
        return waited if waited > self._patience else None

    def end(self) -> None:
        """Stop watching, because the link has ended."""
        self._awaited = None
        self._on_overdue = None
        if self._timer is not None:
            self._timer.cancel()

    def _on_timer(self) -> None:
        self._timer = None
        if self._awaited is None:
            return
        now = self._loop.time()
        late = now - self._due
        if late > _STALL:
            self._since += late + _STALL
        if now < self._since + self._timeout:
            self._arm()
        elif self._on_overdue is not None:
            self._on_overdue()

    def _arm(self) -> None:
        # Kept here, because a timer of uvloop below half a millisecond has no `when()`.
        self._due = self._since + self._timeout
        self._timer = self._loop.call_at(self._due, self._on_timer)
