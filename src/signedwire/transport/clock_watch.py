"""Notices when a clock was set or the machine was suspended, and tells whom it concerns."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from signedwire.clock import StepWatch, monotonic
from signedwire.events import ClockStepped
from signedwire.logs import fields
from signedwire.transport.runtime import Runtime

__all__ = ["ClockWatch"]

_INTERVAL: Final = 1.0
_LEAST_STEP: Final = 0.5
"""Seconds: what a clock loses or gains on another in a while is no news."""


class ClockWatch:
    """Looks at the clocks once a second, while a node is open.

    Args:
        runtime: What every part of the node works with.
        on_step: Called when any clock went another way than the others.
        on_wall_step: Called after that where the wall clock was set.
    """

    def __init__(
        self, runtime: Runtime, on_step: Callable[[], None], on_wall_step: Callable[[], None]
    ) -> None:
        self._runtime = runtime
        self._on_step = on_step
        self._on_wall_step = on_wall_step
        self._loop = asyncio.get_running_loop()
        self._steps = StepWatch(_LEAST_STEP)
        self._lead = monotonic() - self._loop.time()
        self._timer = self._loop.call_later(_INTERVAL, self._look)

    def end(self) -> None:
        """Look no more."""
        self._timer.cancel()

    def _look(self) -> None:
        self._timer = self._loop.call_later(_INTERVAL, self._look)
        runtime, step = self._runtime, self._steps.look()
        lead = monotonic() - self._loop.time()
        # The loop's timers stand still while the machine is suspended; deadlines do not.
        is_apart = abs(lead - self._lead) >= _LEAST_STEP
        if not step and not is_apart:
            return
        self._lead = lead
        self._on_step()
        if step:
            runtime.log.warning(
                "the wall clock was set by %+.1f s; deadlines in seconds are not changed by it",
                step,
                extra=fields("clock stepped", seconds=step),
            )
            self._on_wall_step()
            runtime.emit(ClockStepped(step))
