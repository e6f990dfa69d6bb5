"""The wait of a dialer between two attempts, which can be cut short."""

from __future__ import annotations

import asyncio

__all__ = ["RetryPause"]


class RetryPause:
    """A wait that another part of the node can end."""

    __slots__ = ("_waiting",)

    def __init__(self) -> None:
        self._waiting: asyncio.Future[None] | None = None

    async def wait(self, seconds: float) -> None:
        """Wait so many seconds, or until `end()`."""
        self._waiting = asyncio.get_running_loop().create_future()
        await asyncio.wait({self._waiting}, timeout=seconds)

    def end(self) -> None:
        """End a `wait()` that is under way."""
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)
