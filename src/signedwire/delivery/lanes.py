"""The messages to one peer that are durable, or those that are volatile: a lane per priority.

The lanes together hold `limit` items. `reserve` further slots are for Critical alone, so that an
emergency stop finds room when the queue is full. `delivery.send_queue` has the lanes of both kinds,
and takes from them.

Items leave in the order in which they entered their lane. A lane is made when it is first used:
most peers use one or two of their eight lanes, and an empty deque takes 624 bytes.

Threads: any thread may call `put()` and `remove_if()`. `lane()` and `put_back()` belong to the one
consumer. It takes without a lock, so an item that is taken while another thread is in `remove_if()`
may leave out of order.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Generic, TypeVar

from signedwire.delivery.bounded_queue import BoundedQueue
from signedwire.types import Priority

__all__ = ["Lanes"]

T = TypeVar("T")


class Lanes(BoundedQueue, Generic[T]):
    """Four lanes that share one limit.

    Args:
        limit: Maximum number of items in all lanes together, at least 1.
        reserve: Number of further slots that only Critical may use.
    """

    __slots__ = ("_lanes",)

    def __init__(self, limit: int, reserve: int = 0) -> None:
        super().__init__(limit, reserve)
        self._lanes: list[deque[T] | None] = [None] * len(Priority)
        """By priority; `None`: the lane was never used."""

    def _made(self, priority: int) -> deque[T]:
        """Return one lane, and make it if it was never used. The caller holds the lock."""
        lane = self._lanes[priority]
        if lane is None:
            lane = self._lanes[priority] = deque()
        return lane

    def put(self, item: T, priority: int) -> bool:
        """Append to the lane of `priority`; return `False` and do nothing if there is no room."""
        with self._lock:
            if self._free_slots(priority) <= 0:
                return False
            self._made(priority).append(item)
            return True

    def put_many(self, items: Sequence[T], priority: int) -> int:
        """Append as many of the first items as there is room for; return how many."""
        with self._lock:
            count = min(len(items), max(0, self._free_slots(priority)))
            self._made(priority).extend(items[:count])
            return count

    def add_many(self, items: Iterable[T], priority: int) -> None:
        """Append without regard to the limit; the caller bounds the number in another way."""
        with self._lock:
            self._made(priority).extend(items)

    def _free_slots(self, priority: int) -> int:
        low, normal, high, critical = self._sizes()
        return self._count_free(priority, critical, low + normal + high)

    def _sizes(self) -> list[int]:
        return [0 if lane is None else len(lane) for lane in self._lanes]

    def lane(self, priority: int) -> deque[T]:
        """Return one lane.

        Only the one consumer thread calls this, and calls `notify_room()` after taking.
        """
        lane = self._lanes[priority]
        if lane is None:
            with self._lock:
                return self._made(priority)
        return lane

    def peek(self, priority: int) -> deque[T] | None:
        """Return one lane; `None`: it was never used, so it is empty. As `lane()` otherwise."""
        return self._lanes[priority]

    def put_back(self, items: Iterable[tuple[T, int]]) -> None:
        """Put items with their priorities, in the order taken, back to the heads of their lanes.

        The limit does not apply, because the items had their slots before.
        """
        with self._lock:
            for item, priority in reversed(list(items)):
                self._made(priority).appendleft(item)

    def remove_if(self, is_unwanted: Callable[[T], bool]) -> list[T]:
        """Remove and return every item that `is_unwanted` picks; the others keep their order."""
        removed: list[T] = []
        with self._lock:
            for lane in self._lanes:
                if lane is None:
                    continue
                for _ in range(len(lane)):
                    item = lane.popleft()
                    if is_unwanted(item):
                        removed.append(item)
                    else:
                        lane.append(item)
        self.notify_room()
        return removed

    def sizes(self) -> dict[Priority, int]:
        """Return the number of items in each lane."""
        return dict(zip(Priority, self._sizes(), strict=True))

    def __bool__(self) -> bool:
        return any(self._lanes)

    def __len__(self) -> int:
        return sum(self._sizes())
