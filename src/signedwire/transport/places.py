"""Outbound connections are counted: who may have one, and who must give theirs up."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from signedwire.transport.link_dialer import LinkDialer
from signedwire.transport.pool import Pool, Standing

if TYPE_CHECKING:
    from signedwire.transport.core import Core
    from signedwire.transport.dialer import Dialer

__all__ = ["Places"]

_POLL_INTERVAL: Final = 0.005
_PATIENCE: Final = 5.0
"""Seconds that a dialer may wait for a place, and others keep theirs meanwhile."""
_MAX_PATIENCE: Final = 300.0
_TURN: Final = 0.25
"""Seconds that a connection may take to open while others wait that may be quicker."""
_IN_USE: Final = 1.0
"""Seconds between two uses of a connection, and after the last, that it counts as in use."""


class Places:
    """The places for connections that we dial, at most `max_connections`."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self.pool: Pool[Dialer] = Pool(
            core.config.max_connections, lambda member: member.is_idle, self._is_in_use
        )
        self._applied: dict[Dialer, float] = {}  # who waits for a place, since when
        self._granted: dict[Dialer, float] = {}  # whose connection opens, since when
        self._opened: dict[Dialer, float] = {}  # whose connection is open, since when
        self._called_off: Dialer | None = None
        self._hastened: Dialer | None = None
        self._patience = _PATIENCE
        self._timer: asyncio.TimerHandle | None = None
        self._has_ended = False

    def end(self) -> None:
        """Give no more."""
        self._has_ended = True
        if self._timer is not None:
            self._timer.cancel()

    def apply(self, dialer: Dialer) -> None:
        """Ask for a connection; `dialer.grant_place()` answers."""
        self.pool.apply(dialer, dialer.standing)
        self._applied[dialer] = asyncio.get_running_loop().time()
        self.fill()

    def opened(self, dialer: Dialer) -> None:
        """The connection is open."""
        self.pool.opened(dialer)
        self._opened[dialer] = asyncio.get_running_loop().time()
        if dialer is self._hastened:
            self._patience = _PATIENCE
        self._stop_opening(dialer)
        self.fill()

    def leave(self, dialer: Dialer) -> None:
        """The connection is gone, or no longer wanted."""
        self._forget(dialer)
        self.fill()

    def _forget(self, dialer: Dialer) -> None:
        self.pool.leave(dialer)
        if dialer is self._hastened:
            # Another lost its place for nothing: the next such time is later.
            self._patience = min(2 * self._patience, _MAX_PATIENCE)
        self._stop_opening(dialer)
        self._applied.pop(dialer, None)
        self._opened.pop(dialer, None)

    def _stop_opening(self, dialer: Dialer) -> None:
        self._granted.pop(dialer, None)
        if dialer is self._hastened:
            self._hastened = None
        if dialer is self._called_off:
            self._called_off = None

    def touch(self, dialer: Dialer) -> None:
        """The connection is of use."""
        self.pool.touch(dialer)
        now = asyncio.get_running_loop().time()
        dialer.is_used_again = now - dialer.used_at < _IN_USE
        dialer.used_at = now

    def _is_in_use(self, dialer: Dialer) -> bool:
        # Once is not enough: who sends one message to each of many is not to wait a second.
        is_recent = asyncio.get_running_loop().time() - dialer.used_at < _IN_USE
        return dialer.is_used_again and is_recent

    def look(self) -> None:
        """One may have become idle."""
        if self.pool.has_queue:
            self.fill()

    def fill(self) -> None:
        """Give the places that are free or can be freed to who waits for one."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while not self._has_ended:
            evicted, admitted = self.pool.admit()
            if admitted is None:
                if self._free_a_stuck_place():
                    continue
                break
            self._applied.pop(admitted, None)
            self._granted[admitted] = asyncio.get_running_loop().time()
            if evicted is not None:
                self._evict(evicted)
            admitted.grant_place()
        standing = self.pool.next_standing
        if standing is None or self._has_ended:
            return
        if standing is not Standing.DOUBTFUL:
            self._call_off_overdue()
        elif self._granted:
            return  # the end of what opens wakes us
        # Acknowledgements make no event: look again whether one is idle now.
        self._timer = asyncio.get_running_loop().call_later(_POLL_INTERVAL, self.fill)

    def _evict(self, dialer: Dialer) -> None:
        self._forget(dialer)
        self._core.counters.evictions += 1
        dialer.evict()

    def _call_off_overdue(self) -> None:
        """Where others wait, end an attempt that has had its turn; one at a time.

        Those that did not answer before have places that they keep to the end, or a
        slow peer would never be reached. Where there are none of the others, they too.
        """
        if self._called_off is not None:
            return
        now = asyncio.get_running_loop().time()
        opening = self.pool.opening()
        tried = [one for one, standing in opening.items() if standing is not Standing.DOUBTFUL]
        for dialer in tried or opening:
            if now - self._granted[dialer] >= max(_TURN, 2 * dialer.opening_time):
                self._called_off = dialer
                dialer.call_off()
                return

    def _free_a_stuck_place(self) -> bool:
        """Where somebody has waited long, who has had a place as long must wait in turn.

        Only while no connection is opening: what opens makes room, or is called off.
        """
        now = asyncio.get_running_loop().time()
        if self._granted or not self._applied:
            return False
        first, since = next(iter(self._applied.items()))
        if now - since < self._patience:
            return False
        if self._hastened is None:
            self._hastened = first
            self.pool.hasten(first)
            return True
        # Not those of v1: what was not acknowledged there would be lost, or doubled.
        links = {one: at for one, at in self._opened.items() if isinstance(one, LinkDialer)}
        longest = min(links, key=links.__getitem__, default=None)
        if longest is None or now - links[longest] < _PATIENCE:
            return False
        self._evict(longest)
        return True
