"""The pauses between the attempts of one dialer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

__all__ = ["RetryPauses"]


class RetryPauses:
    """When the next attempt may begin, by the clock of the event loop.

    Args:
        new_delays: Returns the pauses in seconds after one failure, two, three and so on.
    """

    __slots__ = ("_delays", "_new_delays", "_next_at", "_waiting")

    def __init__(self, new_delays: Callable[[], Iterator[float]]) -> None:
        self._new_delays = new_delays
        self._delays = new_delays()
        self._next_at = 0.0
        self._waiting: asyncio.Future[None] | None = None

    @property
    def left(self) -> float:
        """Seconds until the next attempt may begin; 0 or less: it may begin now."""
        return self._next_at - asyncio.get_running_loop().time()

    def reset(self) -> None:
        """Make the next pauses short again. A pause that has begun goes on."""
        self._delays = self._new_delays()

    def lengthen(self) -> None:
        """Begin a pause now, longer than the one before."""
        self._next_at = asyncio.get_running_loop().time() + next(self._delays)

    def add(self, seconds: float | None = None) -> None:
        """Add seconds to a pause. `None`: as many as a further failure would cost."""
        self._next_at += next(self._delays) if seconds is None else seconds

    def clear(self) -> None:
        """Allow an attempt now, and let the pauses be short again."""
        self._next_at = asyncio.get_running_loop().time()
        self.reset()

    def hurry(self) -> None:
        """Allow an attempt now, and end a `wait()`."""
        self._next_at = 0.0
        self.reset()
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    async def wait(self) -> None:
        """Wait until the next attempt may begin, or until `hurry()`."""
        self._waiting = asyncio.get_running_loop().create_future()
        await asyncio.wait({self._waiting}, timeout=max(0.0, self.left))
