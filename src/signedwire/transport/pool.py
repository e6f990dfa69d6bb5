"""Who may hold an outbound connection: a pure decision, no I/O.

At most `limit` connections. A member that has nothing in flight can be asked
to give its place up, the least recently used first; a busy one never is. When
all are busy the applicant waits, first come first served, and the next member
that falls idle makes room.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

__all__ = ["Pool"]

K = TypeVar("K", bound=Hashable)


class Pool(Generic[K]):
    """The places and the queue before them.

    Args:
        limit: Places, at least 1.
        is_idle: Whether a member could lose its place without losing bytes.
    """

    __slots__ = ("_is_idle", "_limit", "_members", "_queue")

    def __init__(self, limit: int, is_idle: Callable[[K], bool]) -> None:
        self._limit = limit
        self._is_idle = is_idle
        self._members: OrderedDict[K, None] = OrderedDict()
        self._queue: OrderedDict[K, None] = OrderedDict()

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
    def has_queue(self) -> bool:
        """Whether somebody waits for a place."""
        return bool(self._queue)

    def apply(self, key: K) -> None:
        """Join the queue. Then call `admit()` until it has nothing more to say."""
        assert key not in self._members
        assert key not in self._queue
        self._queue[key] = None

    def admit(self) -> tuple[K | None, K | None]:
        """One step: `(whose place was taken, who has it now)`, or `(None, None)`.

        The first is to be closed now, the second may connect.
        """
        if not self._queue:
            return None, None
        evicted: K | None = None
        if len(self._members) >= self._limit:
            evicted = next((member for member in self._members if self._is_idle(member)), None)
            if evicted is None:
                return None, None
            del self._members[evicted]
        admitted, _ = self._queue.popitem(last=False)
        self._members[admitted] = None
        return evicted, admitted

    def members(self) -> list[K]:
        """Who has a place, the least recently used first."""
        return list(self._members)

    def touch(self, key: K) -> None:
        """The member was used just now."""
        if key in self._members:
            self._members.move_to_end(key)

    def leave(self, key: K) -> None:
        """Give the place or the turn in the queue up; nothing happens where there is none."""
        self._members.pop(key, None)
        self._queue.pop(key, None)
