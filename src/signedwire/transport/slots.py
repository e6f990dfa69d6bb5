"""The slots for outbound connections: which dialer gets one, and which must give one up."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from typing import Final, Protocol

from signedwire.delivery.dial_history import IN_USE, DialHistory, Standing
from signedwire.stats import Counters
from signedwire.transport.pool import Pool

__all__ = ["ConnectionSlots", "SlotUser"]

_PATIENCE: Final = 5.0
"""Seconds that a dialer waits for a slot before another one may lose its slot."""
_MAX_PATIENCE: Final = 300.0
_TURN: Final = 0.25
"""Seconds that a connection may take to open while other dialers wait for a slot."""


class SlotUser(Protocol):
    """A dialer that needs a slot."""

    def __hash__(self) -> int: ...

    history: DialHistory
    """The past attempts of the dialer, by the clock of the event loop."""

    @property
    def is_idle(self) -> bool:
        """Whether the connection could be closed without loss or delay of messages."""

    @property
    def is_preemptible(self) -> bool:
        """Whether the connection may be closed although it is in use."""

    def grant_slot(self) -> None:
        """Connect now: the dialer has a slot."""

    def call_off(self) -> None:
        """End the attempt: its slot is needed for another."""

    def evict(self) -> None:
        """Close the connection: another dialer gets its slot."""


class ConnectionSlots:
    """The slots for dialed connections.

    The pool knows which dialers wait, connect and are connected. This class knows since when.

    Args:
        limit: Number of slots: `max_connections`.
        counters: Counts evictions.
    """

    def __init__(self, limit: int, counters: Counters) -> None:
        self._counters = counters
        self.pool: Pool[SlotUser] = Pool(limit, lambda member: member.is_idle, self._is_in_use)
        self._since: dict[SlotUser, float] = {}
        """When each dialer began to wait, to connect, or to be connected; the earliest first."""
        self._called_off: SlotUser | None = None
        self._hastened: SlotUser | None = None
        self._patience = _PATIENCE
        self._timer: asyncio.TimerHandle | None = None
        self._has_ended = False
        self._is_filling = False

    def end(self) -> None:
        """Give out no more slots."""
        self._has_ended = True
        if self._timer is not None:
            self._timer.cancel()

    def acquire(self, dialer: SlotUser) -> None:
        """Request a slot. `dialer.grant_slot()` is called when there is one."""
        self.pool.apply(dialer, dialer.history.standing)
        self._note_instant(dialer)
        self.fill()

    def opened(self, dialer: SlotUser) -> bool:
        """Note that the connection of a dialer is open.

        Returns:
            Whether the dialer still has its slot: another one may need it at once.
        """
        self.pool.opened(dialer)
        self._note_instant(dialer)
        if dialer is self._hastened:
            self._patience = _PATIENCE
        self._end_attempt(dialer)
        self.fill()
        return dialer in self._since

    def release(self, dialer: SlotUser) -> None:
        """Free the slot of a dialer."""
        self._forget(dialer)
        self.fill()

    def _forget(self, dialer: SlotUser) -> None:
        self.pool.leave(dialer)
        if dialer is self._hastened:
            # Another dialer lost its slot in vain: wait longer before the next time.
            self._patience = min(2 * self._patience, _MAX_PATIENCE)
        self._end_attempt(dialer)
        self._since.pop(dialer, None)

    def _note_instant(self, dialer: SlotUser) -> None:
        self._since.pop(dialer, None)  # so that it comes last
        self._since[dialer] = asyncio.get_running_loop().time()

    def _longest_first(self, dialers: Iterable[SlotUser]) -> Iterator[SlotUser]:
        chosen = frozenset(dialers)
        return (dialer for dialer in self._since if dialer in chosen)

    def _end_attempt(self, dialer: SlotUser) -> None:
        if dialer is self._hastened:
            self._hastened = None
        if dialer is self._called_off:
            self._called_off = None

    def touch(self, dialer: SlotUser) -> None:
        """Note that the connection of a dialer carries messages."""
        self.pool.touch(dialer)
        dialer.history.touch(asyncio.get_running_loop().time())

    def _is_in_use(self, dialer: SlotUser) -> bool:
        return dialer.history.is_in_use(asyncio.get_running_loop().time())

    def look(self) -> None:
        """Look for idle connections: one may have become idle."""
        if self.pool.has_queue:
            self.fill()

    def fill(self) -> None:
        """Give the slots that are free, or can be freed, to the dialers that wait for one."""
        if self._is_filling:
            return  # closing a connection to make room calls this again
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
        if due is not None:  # or a connection that opens, closes or becomes idle calls this
            self._timer = loop.call_at(due, self.fill)

    def _admit_all(self) -> None:
        while not self._has_ended:
            evicted, admitted = self.pool.admit()
            if admitted is not None:
                self._note_instant(admitted)
                if evicted is not None:
                    self._evict(evicted)
                admitted.grant_slot()
            elif not self._preempt_longest():
                return

    def _instants(self, standing: Standing) -> Iterator[float]:
        """Return the instants at which a slot may become free, by the clock of the loop."""
        if standing is not Standing.DOUBTFUL and self._called_off is None:
            for dialer in self.pool.opening():
                yield self._since[dialer] + _turn_of(dialer)
        for dialer in self.pool.waiting():
            yield self._since[dialer] + self._patience
        for dialer in self.pool.connected():
            yield dialer.history.used_at + IN_USE
            yield self._since[dialer] + _PATIENCE

    def _evict(self, dialer: SlotUser) -> None:
        self._forget(dialer)
        self._counters.evictions += 1
        dialer.evict()

    def _call_off_overdue(self) -> None:
        """End one attempt that takes long while other dialers wait.

        An attempt of a dialer that failed before goes on, or a slow peer would never be reached.
        It ends only if there is no other attempt.
        """
        if self._called_off is not None:
            return
        now = asyncio.get_running_loop().time()
        opening = self.pool.opening()
        tried = [one for one, standing in opening.items() if standing is not Standing.DOUBTFUL]
        for dialer in tried or opening:
            if now - self._since[dialer] >= _turn_of(dialer):
                self._called_off = dialer
                dialer.call_off()
                return

    def _preempt_longest(self) -> bool:
        """If a dialer has waited 5 s for a slot, evict the v2 link that has held one longest.

        Only while no attempt is under way: an attempt frees a slot, or is called off.
        """
        if self.pool.opening() or not self.pool.has_queue:
            return False
        now = asyncio.get_running_loop().time()
        first = next(self._longest_first(self.pool.waiting()))
        if now - self._since[first] < self._patience:
            return False
        if self._hastened is None:
            self._hastened = first
            self.pool.hasten(first)
            return True
        # Not over v1: messages without an acknowledgement would be lost or sent twice.
        links = (one for one in self.pool.connected() if one.is_preemptible)
        longest = next(self._longest_first(links), None)
        if longest is None or now - self._since[longest] < _PATIENCE:
            return False
        self._evict(longest)
        return True


def _turn_of(dialer: SlotUser) -> float:
    """Return the seconds that a dialer may take to connect while others wait."""
    return max(_TURN, 2 * dialer.history.opening_time)
