"""The limits of a queue, and the wake-ups of producers when half of it is empty."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sized
from typing import Final

from signedwire.types import Priority

__all__ = ["BoundedQueue"]

_CRITICAL: Final = int(Priority.CRITICAL)


class BoundedQueue(Sized):
    """The limits of a queue, and the wake-ups of producers. Any thread.

    The lock guards the items of the subclass.

    Args:
        limit: Maximum number of items of all priorities together, at least 1.
        reserve: Number of further slots that only Critical may use.
    """

    __slots__ = ("_limit", "_lock", "_reserve", "_room_waiters")

    def __init__(self, limit: int, reserve: int) -> None:
        self._limit = limit
        self._reserve = reserve
        self._lock = threading.Lock()
        self._room_waiters: list[Callable[[], None]] = []

    def has_room(self, priority: int = Priority.NORMAL) -> bool:
        """Whether an item of this priority would fit now."""
        return self._free_slots(priority) > 0

    def _free_slots(self, priority: int) -> int:
        """Return how many items of this priority would fit now."""
        raise NotImplementedError

    def _count_free(self, priority: int, critical: int, others: int) -> int:
        """Return `_free_slots()` for a number of Critical items and a number of others."""
        if priority == _CRITICAL:
            # Critical may use the reserve and all slots that the others leave free.
            return self._limit + self._reserve - critical - others
        # Critical items beyond the reserve use slots of the others.
        return self._limit - others - max(0, critical - self._reserve)

    def when_room(self, wake: Callable[[], None]) -> bool:
        """Call `wake` once, when half of the queue is empty; `False` if it is empty already.

        Half of the queue, not one slot, so that a producer fills many slots at a time.
        """
        with self._lock:
            # Register, then check. A consumer needs no lock: it removes, then checks for
            # waiters. So one of the two threads always sees the other.
            self._room_waiters.append(wake)
            if self._is_half_empty:
                self._room_waiters.pop()
                return False
            return True

    @property
    def _is_half_empty(self) -> bool:
        return len(self) <= self._limit // 2

    def notify_room(self) -> None:
        """Wake the producers that wait, if half of the queue is empty."""
        if self._room_waiters and self._is_half_empty:
            self.wake_all()

    def wake_all(self) -> None:
        """Wake the producers that wait, because the queue is half empty or closed."""
        with self._lock:
            wakes, self._room_waiters = self._room_waiters, []
        for wake in wakes:
            wake()
