"""Detects that the wall clock was set or the machine suspended, and calls the parts concerned."""

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
"""Minimum seconds between two clocks that count as a step; less is their ordinary drift."""


class ClockWatch:
    """Compares the clocks once a second while a node is open.

    Args:
        runtime: The surroundings of all parts of the node.
        on_step: Called if a clock has stepped against another one.
        on_wall_step: Called after `on_step` if the wall clock was set.
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
        """Stop the timer."""
        self._timer.cancel()

    def _look(self) -> None:
        self._timer = self._loop.call_later(_INTERVAL, self._look)
        runtime, step = self._runtime, self._steps.look()
        lead = monotonic() - self._loop.time()
        # While the machine is suspended, the timers of the loop stop; deadlines go on.
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
