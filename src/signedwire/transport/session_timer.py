"""The timer of the session of a link."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

__all__ = ["SessionTimer"]

_TIMER_STEP: Final = 0.002
"""Seconds that a timer may fire early. The clock of uvloop has steps of 1 ms."""


class SessionTimer:
    """Calls a function at the next timeout of the session, by the clock of the event loop.

    A timeout that moves later, as it does with each frame, does not move the timer: it fires
    early, and is set again.

    Args:
        loop: The event loop.
        on_due: Is called with the present instant.
    """

    __slots__ = ("_due", "_loop", "_on_due", "_timer")

    def __init__(self, loop: asyncio.AbstractEventLoop, on_due: Callable[[float], None]) -> None:
        self._loop = loop
        self._on_due: Callable[[float], None] | None = on_due
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0

    def arm(self, due: float | None) -> None:
        """Fire at `due`, by the clock of the loop, or earlier; `None`: no timeout is set."""
        if due is None or (self._timer is not None and self._due <= due):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._due = due
        self._timer = self._loop.call_at(due, self._fire)

    def cancel(self) -> None:
        """Never fire again."""
        self._on_due = None
        if self._timer is not None:
            self._timer.cancel()

    def _fire(self) -> None:
        self._timer = None
        early = self._due - self._loop.time()
        if self._on_due is not None:
            self._on_due(self._due if 0 < early <= _TIMER_STEP else self._loop.time())
