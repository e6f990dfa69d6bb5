"""Outbound connections are counted: who may have one, and who must give theirs up."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Final, Protocol

from signedwire.stats import Counters
from signedwire.transport.pool import Pool, Standing

__all__ = ["ConnectionSlots", "SlotUser"]

_PATIENCE: Final = 5.0
"""Seconds that a dialer may wait for a place, and others keep theirs meanwhile."""
_MAX_PATIENCE: Final = 300.0
_TURN: Final = 0.25
"""Seconds that a connection may take to open while others wait that may be quicker."""
_IN_USE: Final = 1.0
"""Seconds between two uses of a connection, and after the last, that it counts as in use."""


class SlotUser(Protocol):
    """A dialer, as the slots see it."""

    def __hash__(self) -> int: ...

    standing: Standing
    used_at: float
    is_used_again: bool
    opening_time: float

    @property
    def is_idle(self) -> bool:
        """Whether the connection could be closed without losing or delaying anything."""

    @property
    def is_preemptible(self) -> bool:
        """Whether the connection may be closed although it is in use."""

    def grant_slot(self) -> None:
        """The dialer may connect now."""

    def call_off(self) -> None:
        """End the attempt: its slot is needed for another."""

    def evict(self) -> None:
        """Close the connection: its slot went to another."""


class ConnectionSlots:
    """The slots for connections that we dial, at most `max_connections`.

    Args:
        limit: How many there are.
        counters: Counts evictions.
    """

    def __init__(self, limit: int, counters: Counters) -> None:
        self._counters = counters
        self.pool: Pool[SlotUser] = Pool(limit, lambda member: member.is_idle, self._is_in_use)
        self._applied: dict[SlotUser, float] = {}  # who waits for a place, since when
        self._granted: dict[SlotUser, float] = {}  # whose connection opens, since when
        self._opened: dict[SlotUser, float] = {}  # whose connection is open, since when
        self._called_off: SlotUser | None = None
        self._hastened: SlotUser | None = None
        self._patience = _PATIENCE
        self._timer: asyncio.TimerHandle | None = None
        self._has_ended = False
        self._is_filling = False

    def end(self) -> None:
        """Give no more."""
        self._has_ended = True
        if self._timer is not None:
            self._timer.cancel()

    def acquire(self, dialer: SlotUser) -> None:
        """Ask for a slot; `dialer.grant_slot()` answers."""
        self.pool.apply(dialer, dialer.standing)
        self._applied[dialer] = asyncio.get_running_loop().time()
        self.fill()

    def opened(self, dialer: SlotUser) -> None:
        """The connection is open."""
        self.pool.opened(dialer)
        self._opened[dialer] = asyncio.get_running_loop().time()
        if dialer is self._hastened:
            self._patience = _PATIENCE
        self._stop_opening(dialer)
        self.fill()

    def release(self, dialer: SlotUser) -> None:
        """Free the slot: the connection is gone, or no longer wanted."""
        self._forget(dialer)
        self.fill()

    def _forget(self, dialer: SlotUser) -> None:
        self.pool.leave(dialer)
        if dialer is self._hastened:
            # Another lost its place for nothing: the next such time is later.
            self._patience = min(2 * self._patience, _MAX_PATIENCE)
        self._stop_opening(dialer)
        self._applied.pop(dialer, None)
        self._opened.pop(dialer, None)

    def _stop_opening(self, dialer: SlotUser) -> None:
        self._granted.pop(dialer, None)
        if dialer is self._hastened:
            self._hastened = None
        if dialer is self._called_off:
            self._called_off = None

    def touch(self, dialer: SlotUser) -> None:
        """The connection is of use."""
        self.pool.touch(dialer)
        now = asyncio.get_running_loop().time()
        dialer.is_used_again = now - dialer.used_at < _IN_USE
        dialer.used_at = now

    def _is_in_use(self, dialer: SlotUser) -> bool:
        # Once is not enough: who sends one message to each of many is not to wait a second.
        is_recent = asyncio.get_running_loop().time() - dialer.used_at < _IN_USE
        return dialer.is_used_again and is_recent

    def look(self) -> None:
        """One may have become idle."""
        if self.pool.has_queue:
            self.fill()

    def fill(self) -> None:
        """Give the slots that are free, or can be freed, to the dialers that wait for one."""
        if self._is_filling:
            return  # whoever closes a connection to make room comes back here
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._is_filling = True
        try:
            self._admit_all()
        finally:
            self._is_filling = False
        standing = self.pool.next_standing
        if standing is None or self._has_ended:
            return
        if standing is not Standing.DOUBTFUL:
            self._call_off_overdue()
        loop = asyncio.get_running_loop()
        now = loop.time()
        due = min((at for at in self._instants(standing) if at > now), default=None)
        if due is not None:  # else whatever opens, closes or becomes idle wakes us
            self._timer = loop.call_at(due, self.fill)

    def _admit_all(self) -> None:
        while not self._has_ended:
            evicted, admitted = self.pool.admit()
            if admitted is not None:
                self._applied.pop(admitted, None)
                self._granted[admitted] = asyncio.get_running_loop().time()
                if evicted is not None:
                    self._evict(evicted)
                admitted.grant_slot()
            elif not self._preempt_longest():
                return

    def _instants(self, standing: Standing) -> Iterator[float]:
        """When time alone may let somebody have a slot, by the loop's clock."""
        if standing is not Standing.DOUBTFUL and self._called_off is None:
            for dialer, since in self._granted.items():
                yield since + _turn_of(dialer)
        for since in self._applied.values():
            yield since + self._patience
        for dialer, since in self._opened.items():
            yield dialer.used_at + _IN_USE
            yield since + _PATIENCE

    def _evict(self, dialer: SlotUser) -> None:
        self._forget(dialer)
        self._counters.evictions += 1
        dialer.evict()

    def _call_off_overdue(self) -> None:
        """While others wait, end one attempt that takes long.

        Dialers that did not answer before keep their slots to the end, or a slow peer would
        never be reached; unless there are no others.
        """
        if self._called_off is not None:
            return
        now = asyncio.get_running_loop().time()
        opening = self.pool.opening()
        tried = [one for one, standing in opening.items() if standing is not Standing.DOUBTFUL]
        for dialer in tried or opening:
            if now - self._granted[dialer] >= _turn_of(dialer):
                self._called_off = dialer
                dialer.call_off()
                return

    def _preempt_longest(self) -> bool:
        """If a dialer has waited 5 s for a slot, evict the v2 link that has held one longest.

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
        links = {one: at for one, at in self._opened.items() if one.is_preemptible}
        longest = min(links, key=links.__getitem__, default=None)
        if longest is None or now - links[longest] < _PATIENCE:
            return False
        self._evict(longest)
        return True


def _turn_of(dialer: SlotUser) -> float:
    """Seconds that a dialer may take to connect while others wait that may be quicker."""
    return max(_TURN, 2 * dialer.opening_time)
