"""The start of one node, which its caller may cancel and `close()` may call off."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from signedwire.errors import ClosedError
from signedwire.transport.uncancelled import mark_retrieved, wait_uncancelled

__all__ = ["NodeStart"]


class NodeStart:
    """The start of one node. Its methods run in the loop of the node.

    The parts are opened in a task of their own. So the start ends in time even if a network
    backend ignores that it is cancelled.

    Args:
        limit: Seconds in which everything must have ended, once the start ends early.
    """

    def __init__(self, limit: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._limit = limit
        self._is_called_off = self._loop.create_future()
        self._deadline: float | None = None
        self.has_succeeded = False
        """Whether `run()` has opened everything."""

    @property
    def deadline(self) -> float:
        """When everything must have ended, loop time. The limit begins with the first call."""
        if self._deadline is None:
            self._deadline = self._loop.time() + self._limit
        return self._deadline

    def call_off(self) -> None:
        """End the start: `run()` raises ClosedError."""
        if not self._is_called_off.done():
            self._is_called_off.set_result(None)

    async def run(self, opening: Coroutine[Any, Any, None]) -> None:
        """Open the parts of the node, by `opening`.

        Raises:
            ClosedError: `call_off()` was called.
            asyncio.CancelledError: the caller was cancelled.
            Exception: `opening` has raised it.
        """
        task = asyncio.create_task(opening)
        is_cancelled = False
        try:
            waits_for = {task, self._is_called_off}
            await asyncio.wait(waits_for, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            is_cancelled = True
        if is_cancelled or self._is_called_off.done():
            task.add_done_callback(mark_retrieved)
            task.cancel()
            left = self.deadline - self._loop.time()
            is_cancelled |= await wait_uncancelled(task, left)
            if is_cancelled:
                raise asyncio.CancelledError
            raise ClosedError("this node was closed while it started", "Make a new one")
        task.result()
        self.has_succeeded = True
