"""Clocks that a test sets, and loops whose clock is another."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from signedwire.clock import Clock


class SetClock(Clock):
    """The clocks of the system, moved."""

    def __init__(self, *, ahead: float = 0.0) -> None:
        super().__init__()
        self.ahead = ahead
        """What the wall clock shows more, seconds."""
        self.slept = 0.0
        """For how long the machine was suspended: both clocks have it, loops have not."""

    def monotonic(self) -> float:
        return super().monotonic() + self.slept

    def unix_time_us(self) -> int:
        return super().unix_time_us() + round((self.ahead + self.slept) * 1e6)


class ShiftedLoop(asyncio.SelectorEventLoop):
    """Its clock shows `shift` seconds more than `time.monotonic()`; it counts its timers."""

    def __init__(self, shift: float) -> None:
        super().__init__()
        self.shift = shift
        self.timers = 0

    def time(self) -> float:
        return super().time() + getattr(self, "shift", 0.0)

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., object], *args: Any, context: Any = None
    ) -> asyncio.TimerHandle:
        self.timers += 1
        return super().call_at(when, callback, *args, context=context)
