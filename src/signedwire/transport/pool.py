"""Decides which dialers have a slot for an outbound connection. No I/O.

There are `limit` slots, also for connections that are opening. These may take at most half of
the slots, so peers that never answer cannot fill the pool. Dialers whose last connection opened
come first, then those that never tried, then those whose last connection did not open. The last
kind may take all but one of the slots for connections that are opening.

A member with nothing in flight is idle and can be preempted, the least recently used first; a
busy member never is. An idle member may still be in use, between two messages. It is preempted
only for a dialer whose last connection opened, and only while no connection is opening.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from signedwire.delivery.dial_history import Standing

__all__ = ["Pool"]

K = TypeVar("K", bound=Hashable)


class Pool(Generic[K]):
    """The slots, and the queue of dialers that wait for one.

    Args:
        limit: Number of slots, at least 1.
        is_idle: Tells whether closing the connection of a member loses no bytes.
        is_in_use: Tells whether a member was used just now, even if it is idle.
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
        """Number of slots that are taken."""
        return len(self._members)

    @property
    def limit(self) -> int:
        """Number of slots, free or taken."""
        return self._limit

    @limit.setter
    def limit(self, limit: int) -> None:
        self._limit = limit

    @property
    def max_opening(self) -> int:
        """Maximum number of connections that are opening."""
        return max(1, self._limit // 2)

    @property
    def has_queue(self) -> bool:
        """Whether a dialer waits for a slot."""
        return any(self._queues.values())

    @property
    def next_standing(self) -> Standing | None:
        """The standing of the dialer that is next; `None`: none waits."""
        return next((standing for standing, queue in self._queues.items() if queue), None)

    def apply(self, key: K, standing: Standing = Standing.UNTRIED) -> None:
        """Put a dialer into the queue. Then call `admit()` until it returns `(None, None)`."""
        assert key not in self._members
        assert not any(key in queue for queue in self._queues.values())
        self._queues[standing][key] = None

    def hasten(self, key: K) -> None:
        """Move a waiting dialer to the head of the queue, as if its last connection had opened."""
        for queue in self._queues.values():
            if key in queue:
                del queue[key]
                self._queues[Standing.PROVEN][key] = None
                self._queues[Standing.PROVEN].move_to_end(key, last=False)

    def admit(self) -> tuple[K | None, K | None]:
        """Give a slot to the next dialer, if one is free or a member can be preempted.

        Returns:
            The member that lost its slot and must be closed, or `None`; and the dialer that has
            a slot now and may connect. `(None, None)`: no dialer gets a slot now.
        """
        standing = self.next_standing
        if standing is None:
            return None, None
        evicted: K | None = None
        if not self._may_open(standing):
            # No message waits for a connection that is opening and idle.
            evicted = next((member for member in self._opening if self._is_idle(member)), None)
            if evicted is None:
                return None, None
        elif len(self._members) >= self._limit:
            evicted = self._preemptible(standing)
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

    def _preemptible(self, standing: Standing) -> K | None:
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
        """Note that the connection of a member is open."""
        self._opening.pop(key, None)

    def opening(self) -> dict[K, Standing]:
        """Return the members whose connections are opening, oldest first, and their standings."""
        return dict(self._opening)

    def connected(self) -> list[K]:
        """Return the members whose connections are open, the least recently used first."""
        return [member for member in self._members if member not in self._opening]

    def waiting(self) -> list[K]:
        """Return the dialers that wait for a slot, the next one first."""
        return [key for queue in self._queues.values() for key in queue]

    def touch(self, key: K) -> None:
        """Note that a member was used now."""
        if key in self._members:
            self._members.move_to_end(key)

    def leave(self, key: K) -> None:
        """Free the slot of a dialer or remove it from the queue. Without either, do nothing."""
        self._members.pop(key, None)
        self._opening.pop(key, None)
        for queue in self._queues.values():
            queue.pop(key, None)
