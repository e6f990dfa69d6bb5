"""The timer that has a store remove the messages whose deadlines have passed."""

from __future__ import annotations

import asyncio
from typing import Final

from signedwire.delivery.store import UNLESS_FAILED, Store
from signedwire.errors import StoreError
from signedwire.transport.runtime import Runtime
from signedwire.types import unix_time_us

__all__ = ["ExpiryTimer"]

_LONGEST_PAUSE: Final = 1.0
"""Maximum seconds between two looks at the wall clock, which may be set meanwhile."""


class ExpiryTimer:
    """Calls `Store.expire()` when the next deadline passes. In the loop.

    Args:
        runtime: The loop, and whether the node is open.
        store: The store.
    """

    def __init__(self, runtime: Runtime, store: Store) -> None:
        self._runtime = runtime
        self._store = store
        self._timer: asyncio.TimerHandle | None = None
        self._due_us: int | None = None

    def watch(self) -> None:
        """Set the timer to the next deadline, if that is earlier than the timer is."""
        due = self._store.next_expiry_us
        if due is None or (self._due_us is not None and self._due_us <= due):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._due_us = due
        pause = min(max(0.001, (due - unix_time_us()) / 1e6), _LONGEST_PAUSE)
        self._timer = self._runtime.call_later(pause, self._expire)

    def on_clock_step(self) -> None:
        """Set the timer anew, because the wall clock was set."""
        self.end()
        self._timer = self._due_us = None
        self.watch()

    def end(self) -> None:
        """Stop the timer."""
        if self._timer is not None:
            self._timer.cancel()

    def _expire(self) -> None:
        self._timer = self._due_us = None
        due = self._store.next_expiry_us
        if due is not None and due > unix_time_us():
            self.watch()
        elif self._runtime.is_open:
            with UNLESS_FAILED:
                self._store.expire(self._on_expired)

    def _on_expired(self, error: StoreError | None) -> None:
        if error is None and self._runtime.is_open:
            self.watch()
