"""The one timer of a link's session."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

__all__ = ["SessionTimer"]

_TIMER_STEP: Final = 0.002
"""Seconds that a loop may fire early: one step of its clock, 1 ms on uvloop."""


class SessionTimer:
    """Calls `on_due(now)` at the session's next timeout, in the loop's own time.

    A timer that fires early looks again, so none is moved for each frame.
    """

    __slots__ = ("_due", "_loop", "_on_due", "_timer")

    def __init__(self, loop: asyncio.AbstractEventLoop, on_due: Callable[[float], None]) -> None:
        self._loop = loop
        self._on_due: Callable[[float], None] | None = on_due
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0

    def arm(self, due: float | None) -> None:
        """Fire at `due`, by the loop's clock, or before; `None`: nothing is due."""
        if due is None or (self._timer is not None and self._due <= due):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._due = due
        self._timer = self._loop.call_at(due, self._fire)

    def cancel(self) -> None:
        """Fire no more."""
        self._on_due = None
        if self._timer is not None:
            self._timer.cancel()

    def _fire(self) -> None:
        self._timer = None
        early = self._due - self._loop.time()
        if self._on_due is not None:
            self._on_due(self._due if 0 < early <= _TIMER_STEP else self._loop.time())
