"""The deadline of a v1 frame that is not complete yet."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

__all__ = ["FrameTimer"]


class FrameTimer:
    """Calls a function if a frame is not complete in time, counted from its first byte.

    Args:
        timeout: Seconds that a frame may take; `None`: any time.
        on_late: Is called once the time is over.
    """

    __slots__ = ("_on_late", "_timeout", "_timer")

    def __init__(self, timeout: float | None, on_late: Callable[[], object]) -> None:
        self._timeout = timeout
        self._on_late = on_late
        self._timer: asyncio.TimerHandle | None = None

    def watch(self, *, is_partial: bool, is_new: bool) -> None:
        """Note received bytes.

        Args:
            is_partial: Whether they end within a frame.
            is_new: Whether that frame has begun with these bytes.
        """
        if not is_partial:
            self.cancel()
        elif self._timeout is not None and (is_new or self._timer is None):
            self.cancel()
            self._timer = asyncio.get_running_loop().call_later(self._timeout, self._on_late)

    def cancel(self) -> None:
        """Stop, until the next call of `watch()`."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
