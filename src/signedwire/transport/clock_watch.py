"""Notices when a clock was set or the machine was suspended, and tells whom it concerns."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from signedwire.clock import StepWatch, monotonic
from signedwire.events import ClockStepped
from signedwire.logs import fields

if TYPE_CHECKING:
    from signedwire.transport.core import Core

__all__ = ["ClockWatch"]

_INTERVAL: Final = 1.0
_LEAST_STEP: Final = 0.5
"""Seconds: what a clock loses or gains on another in a while is no news."""


class ClockWatch:
    """Looks at the clocks once a second, while a node is open."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._loop = asyncio.get_running_loop()
        self._steps = StepWatch(_LEAST_STEP)
        self._lead = monotonic() - self._loop.time()
        self._timer = self._loop.call_later(_INTERVAL, self._look)

    def end(self) -> None:
        """Look no more."""
        self._timer.cancel()

    def _look(self) -> None:
        self._timer = self._loop.call_later(_INTERVAL, self._look)
        core, step = self._core, self._steps.look()
        lead = monotonic() - self._loop.time()
        # The loop's timers stand still while the machine is suspended; deadlines do not.
        is_apart = abs(lead - self._lead) >= _LEAST_STEP
        if not step and not is_apart:
            return
        self._lead = lead
        core.outgoing.on_clock_step()
        if step:
            core.log.warning(
                "the wall clock was set by %+.1f s; deadlines in seconds are not changed by it",
                step,
                extra=fields("clock stepped", seconds=step),
            )
            if core.outbox is not None:
                core.outbox.on_clock_step()
            core.emit(ClockStepped(step))
