"""Which dialers may hold an outbound connection: a pure decision, no I/O.

At most `limit` connections, opening ones included. At most half of the places are for
connections that are still opening, so that peers that never answer cannot fill the
pool. Members that are known to answer come first, then those that were never tried, then those
that did not answer last time. The last kind may use all but one of the opening half.

A member that has nothing in flight can be asked to give its place up, the least
recently used first; a busy one never is. A member may be in use although nothing is in flight
this moment. It gives way only to an applicant that is known to answer, and only while no other
member has a connection that has not opened.
"""

from __future__ import annotations

import enum
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

__all__ = ["Pool", "Standing"]

K = TypeVar("K", bound=Hashable)


class Standing(enum.IntEnum):
    """The record of an applicant; the lower, the sooner it is admitted."""

    PROVEN = 0
    """The last connection opened."""
    UNTRIED = 1
    DOUBTFUL = 2
    """The last connection did not open, or not in time."""


class Pool(Generic[K]):
    """The places and the queue before them.

    Args:
        limit: Places, at least 1.
        is_idle: Whether a member could lose its place without losing bytes.
        is_in_use: Whether a member was used just now, idle this moment or not.
    """

    __slots__ = ("_is_idle", "_is_in_use", "_limit", "_members", "_opening", "_queues")

    def __init__(
        self,
        limit: int,
        is_idle: Callable[[K], bool],
        is_in_use: Callable[[K], bool] = lambda _: False,
    ) -> None:
        self._limit = limit
        self._is_idle = is_idle
        self._is_in_use = is_in_use
        self._members: OrderedDict[K, None] = OrderedDict()
        self._opening: OrderedDict[K, Standing] = OrderedDict()
        self._queues: dict[Standing, OrderedDict[K, None]] = {s: OrderedDict() for s in Standing}

    @property
    def active(self) -> int:
        """Places taken."""
        return len(self._members)

    @property
    def limit(self) -> int:
        """Places in all."""
        return self._limit

    @limit.setter
    def limit(self, limit: int) -> None:
        self._limit = limit

    @property
    def max_opening(self) -> int:
        """Places for connections that are opening."""
        return max(1, self._limit // 2)

    @property
    def has_queue(self) -> bool:
        """Whether somebody waits for a place."""
        return any(self._queues.values())

    @property
    def next_standing(self) -> Standing | None:
        """The standing of the next applicant; `None`: nobody waits."""
        return next((standing for standing, queue in self._queues.items() if queue), None)

    def apply(self, key: K, standing: Standing = Standing.UNTRIED) -> None:
        """Join the queue. Then call `admit()` until it has nothing more to say."""
        assert key not in self._members
        assert not any(key in queue for queue in self._queues.values())
        self._queues[standing][key] = None

    def hasten(self, key: K) -> None:
        """Let one that waits go before all others, as if it were known to answer."""
        for queue in self._queues.values():
            if key in queue:
                del queue[key]
                self._queues[Standing.PROVEN][key] = None
                self._queues[Standing.PROVEN].move_to_end(key, last=False)

    def admit(self) -> tuple[K | None, K | None]:
        """One step: `(whose place was taken, who has it now)`, or `(None, None)`.

        The first is to be closed now, the second may connect.
        """
        standing = self.next_standing
        if standing is None:
            return None, None
        evicted: K | None = None
        if not self._may_open(standing):
            # Nobody waits for a connection that is opening and has nothing to carry.
            evicted = next((member for member in self._opening if self._is_idle(member)), None)
            if evicted is None:
                return None, None
        elif len(self._members) >= self._limit:
            evicted = self._who_gives_way(standing)
            if evicted is None:
                return None, None
        if evicted is not None:
            self.leave(evicted)
        admitted, _ = self._queues[standing].popitem(last=False)
        self._members[admitted] = None
        self._opening[admitted] = standing
        return evicted, admitted

    def _may_open(self, standing: Standing) -> bool:
        if len(self._opening) >= self.max_opening:
            return False
        if standing is not Standing.DOUBTFUL:
            return True
        doubtful = sum(one is Standing.DOUBTFUL for one in self._opening.values())
        return doubtful < max(1, self.max_opening - 1)

    def _who_gives_way(self, standing: Standing) -> K | None:
        idle = [member for member in self._members if self._is_idle(member)]
        for member in idle:
            if not self._is_in_use(member) and (
                member in self._opening or standing is not Standing.DOUBTFUL or not self._opening
            ):
                return member
        if idle and standing is Standing.PROVEN and not self._opening:
            return idle[0]
        return None

    def opened(self, key: K) -> None:
        """The connection of a member is open."""
        self._opening.pop(key, None)

    def opening(self) -> dict[K, Standing]:
        """The members with opening connections, the first begun first, and their standings."""
        return dict(self._opening)

    def members(self) -> list[K]:
        """The members, the least recently used first."""
        return list(self._members)

    def touch(self, key: K) -> None:
        """The member was used just now."""
        if key in self._members:
            self._members.move_to_end(key)

    def leave(self, key: K) -> None:
        """Give the place or the turn in the queue up; nothing happens where there is none."""
        self._members.pop(key, None)
        self._opening.pop(key, None)
        for queue in self._queues.values():
            queue.pop(key, None)
