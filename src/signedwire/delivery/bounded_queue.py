"""How many items a queue may hold, and who waits until half of it is empty."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sized
from typing import Final

from signedwire.types import Priority

__all__ = ["BoundedQueue"]

_CRITICAL: Final = int(Priority.CRITICAL)


class BoundedQueue(Sized):
    """The limits of a queue, and the wake-ups of those who wait for room in it.

    Its lock guards what a subclass holds. Any thread may call the methods here.

    Args:
        limit: Items of all priorities together, at least 1.
        reserve: Further items that only Critical may use.
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
        """How many items of this priority would fit now."""
        raise NotImplementedError

    def _count_free(self, priority: int, critical: int, others: int) -> int:
        """`_free_slots()`, where so many items wait that are Critical, and so many that are not."""
        if priority == _CRITICAL:
            # Critical may use the reserve and whatever the others leave free.
            return self._limit + self._reserve - critical - others
        # What Critical holds beyond its reserve takes room from the others.
        return self._limit - others - max(0, critical - self._reserve)

    def when_room(self, wake: Callable[[], None]) -> bool:
        """Have `wake` called, once, when half is empty; `False` where it is already.

        Half, not one slot: so a waiting producer fills many at a time.
        """
        with self._lock:
            # Enter, then look. Who takes needs no lock: it removes, then looks for who
            # entered, so one of the two sees the other whenever threads change places.
            self._room_waiters.append(wake)
            if self._is_half_empty:
                self._room_waiters.pop()
                return False
            return True

    @property
    def _is_half_empty(self) -> bool:
        return len(self) <= self._limit // 2

    def notify_room(self) -> None:
        """Wake those who wait for room, if there is some now."""
        if self._room_waiters and self._is_half_empty:
            self.wake_all()

    def wake_all(self) -> None:
        """Call everybody who waits for room: there will be none, the queue has closed."""
        with self._lock:
            wakes, self._room_waiters = self._room_waiters, []
        for wake in wakes:
            wake()
