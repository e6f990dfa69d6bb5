"""Outbound connections are counted: who may have one, and who must give theirs up."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from signedwire.transport.link_dialer import LinkDialer
from signedwire.transport.pool import Pool

if TYPE_CHECKING:
    from signedwire.transport.core import Core
    from signedwire.transport.dialer import Dialer

__all__ = ["Places"]

_POLL_INTERVAL: Final = 0.005
_PATIENCE: Final = 5.0
"""Seconds that a dialer may wait for a place, and others keep theirs meanwhile."""


class Places:
    """The places for connections that we dial, at most `max_connections`."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self.pool: Pool[Dialer] = Pool(core.config.max_connections, lambda member: member.is_idle)
        self._applied: dict[Dialer, float] = {}  # who waits for a place, since when (loop time)
        self._timer: asyncio.TimerHandle | None = None
        self._has_ended = False

    def end(self) -> None:
        """Give no more."""
        self._has_ended = True
        if self._timer is not None:
            self._timer.cancel()

    def apply(self, dialer: Dialer) -> None:
        """Ask for a connection; `dialer.grant_place()` answers."""
        self.pool.apply(dialer)
        self._applied[dialer] = asyncio.get_running_loop().time()
        self.fill()

    def leave(self, dialer: Dialer) -> None:
        """The connection is gone, or no longer wanted."""
        self.pool.leave(dialer)
        self._applied.pop(dialer, None)
        self.fill()

    def touch(self, dialer: Dialer) -> None:
        """The connection is of use."""
        self.pool.touch(dialer)

    def look(self) -> None:
        """One may have become idle."""
        if self.pool.has_queue:
            self.fill()

    def fill(self) -> None:
        """Give the places that are free or can be freed to who waits for one."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while True:
            if self._has_ended:
                return
            evicted, admitted = self.pool.admit()
            if admitted is None:
                if self._free_a_stuck_place():
                    continue
                break
            self._applied.pop(admitted, None)
            if evicted is not None:
                self._core.counters.evictions += 1
                evicted.evict()
            admitted.grant_place()
        if self.pool.has_queue:
            # Acknowledgements make no event: look again whether one is idle now.
            self._timer = asyncio.get_running_loop().call_later(_POLL_INTERVAL, self.fill)

    def _free_a_stuck_place(self) -> bool:
        """Where somebody has waited long, who has had a place as long must wait in turn."""
        now = asyncio.get_running_loop().time()
        if not self._applied or now - next(iter(self._applied.values())) < _PATIENCE:
            return False
        # Not those of v1: what was not acknowledged there would be lost, or doubled.
        links = [one for one in self.pool.members() if isinstance(one, LinkDialer)]
        longest = min(links, key=lambda one: one.connected_at, default=None)
        if longest is None or now - longest.connected_at < _PATIENCE:
            return False
        self.pool.leave(longest)
        self._core.counters.evictions += 1
        longest.evict()
        return True
