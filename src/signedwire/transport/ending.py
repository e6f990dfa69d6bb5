"""The end of one node, also after its event loop was closed."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future

from signedwire.home import Home

__all__ = ["NodeEnd"]


class NodeEnd:
    """Whether all parts of a started node have ended. Calls in any loop may wait for it.

    Args:
        home: The event loop of the node.
    """

    def __init__(self, home: Home) -> None:
        self._home = home
        self._has_come = _uncancellable()
        self._is_freed = False

    @property
    def is_lost(self) -> bool:
        """Whether the loop was closed before all parts had ended, and nothing is freed yet."""
        return self._home.has_closed_loop and not (self._has_come.done() or self._is_freed)

    def begin_freeing(self) -> None:
        """Note that address and files are being freed, in another loop."""
        self._is_freed = True
        self._has_come = _uncancellable()  # calls that wait in the closed loop stay there

    def note_freed(self) -> None:
        """Note that address and files are free."""
        self._has_come.set_result(None)

    def note(self) -> None:
        """Note that all parts have ended. A coroutine of a closed loop has ended none."""
        if not self._home.has_closed_loop:
            self._has_come.set_result(None)

    async def wait(self) -> None:
        """Wait until all parts have ended, or until address and files are free."""
        await asyncio.wrap_future(self._has_come)


def _uncancellable() -> Future[None]:
    """Return a future that a cancelled wait does not cancel."""
    future: Future[None] = Future()
    future.set_running_or_notify_cancel()
    return future
