"""The messages to one peer that are durable, or those that are volatile: a lane per priority.

The lanes together hold `limit` items. `reserve` further slots are for Critical alone, so that an
emergency stop finds room when the queue is full. `delivery.send_queue` has the lanes of both kinds,
and takes from them.

Items leave in the order in which they entered their lane. An item with a key takes the place of the
item with the same key that waits in its lane, see `put_latest()`. A lane is made when it is first
used: most peers use one or two of their eight lanes, and an empty deque takes 624 bytes.

Threads: any thread may call each method. The lock is held once for each batch that is taken, so a
place in a lane never changes its item while the consumer looks at it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Generic, NamedTuple, TypeVar

from signedwire.delivery.bounded_queue import BoundedQueue
from signedwire.types import Priority

__all__ = ["Lanes", "PutLatest", "no_key"]

T = TypeVar("T")


class PutLatest(NamedTuple, Generic[T]):
    """The result of `Lanes.put_latest()`."""

    was_put: bool
    """Whether the item is in its lane; if not, there was no room."""
    replaced: T | None
    """The item that has left the lane for it; `None`: there was none."""


def no_key(_: object) -> None:
    """Return `None`: the item has no key."""


class Lanes(BoundedQueue, Generic[T]):
    """Four lanes that share one limit.

    Args:
        limit: Maximum number of items in all lanes together, at least 1.
        reserve: Number of further slots that only Critical may use.
        key_of: Returns the key of an item; `None`: it has none.
    """

    __slots__ = ("_key_of", "_lanes", "_newest", "_returned")

    def __init__(
        self,
        limit: int,
        reserve: int = 0,
        key_of: Callable[[T], Hashable | None] = no_key,
    ) -> None:
        super().__init__(limit, reserve)
        self._lanes: list[deque[T] | None] = [None] * len(Priority)
        """By priority; `None`: the lane was never used."""
        self._key_of = key_of
        # By lane and key, the newest item of the key. All of them wait in the lanes, which bounds
        # their number.
        self._newest: dict[tuple[int, Hashable], T] = {}
        self._returned: dict[tuple[int, Hashable], None] = {}
        """The keys in `_newest` whose item was taken before and put back."""

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

    def put_latest(self, item: T, priority: int) -> PutLatest[T]:
        """Put an item that has a key in the place of the waiting item with the same key.

        Without such an item, this appends. An item that was put back may have a number already,
        and numbers rise along a lane. So it leaves, and the new item is appended.
        """
        with self._lock:
            lane, name = self._made(priority), (priority, self._key_of(item))
            old = self._newest.get(name)
            if old is None:
                if self._free_slots(priority) <= 0:
                    return PutLatest(False, None)
                lane.append(item)
            elif name in self._returned:
                lane.remove(old)
                lane.append(item)
                del self._returned[name]
            else:
                lane[lane.index(old)] = item
            self._newest[name] = item
            return PutLatest(True, old)

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
        """Return one lane, to look at it."""
        lane = self._lanes[priority]
        if lane is None:
            with self._lock:
                return self._made(priority)
        return lane

    def peek(self, priority: int) -> deque[T] | None:
        """Return one lane; `None`: it was never used, so it is empty. As `lane()` otherwise."""
        return self._lanes[priority]

    def take_from(self, priority: int, take: Callable[[deque[T]], list[T]]) -> list[T]:
        """Call `take` with one lane, and return its result: items that it took from the head.

        It may remove others that it meets there, and must not call this queue. Its caller calls
        `notify_room()`.
        """
        with self._lock:
            lane = self._lanes[priority]
            if not lane:
                return []
            if not self._newest:
                return take(lane)
            before = len(lane)
            try:
                taken = take(lane)
            except BaseException:
                self._forget_absent()
                raise
            if before - len(lane) == len(taken):
                self._forget(taken, priority)
            else:
                self._forget_absent()
            return taken

    def take(self, priority: int) -> T | None:
        """Remove and return the oldest item of one lane; `None` if it is empty."""
        with self._lock:
            lane = self._lanes[priority]
            if not lane:
                return None
            item = lane.popleft()
            self._forget((item,), priority)
        return item

    def _forget(self, items: Iterable[T], priority: int) -> None:
        """Forget the keys of items that have left their lane."""
        newest, key_of = self._newest, self._key_of
        if not newest:
            return
        for item in items:
            if (key := key_of(item)) is not None and newest.get((priority, key)) is item:
                del newest[priority, key]
                self._returned.pop((priority, key), None)

    def _forget_absent(self) -> None:
        """Forget the keys of all items that are in no lane."""
        waiting = {id(item) for lane in self._lanes for item in lane or ()}
        self._newest = {name: item for name, item in self._newest.items() if id(item) in waiting}
        self._returned = {name: None for name in self._returned if name in self._newest}

    def put_back(self, items: Iterable[tuple[T, int]]) -> list[T]:
        """Put items with their priorities, in the order taken, back to the heads of their lanes.

        The limit does not apply, because the items had their slots before.

        Returns:
            The items that were not put back, because a newer one with the same key waits.
        """
        superseded: list[T] = []
        with self._lock:
            for item, priority in reversed(list(items)):
                key = self._key_of(item)
                if key is not None:
                    if (priority, key) in self._newest:
                        superseded.append(item)
                        continue
                    self._newest[priority, key] = item
                    self._returned[priority, key] = None
                self._made(priority).appendleft(item)
        return superseded[::-1]

    def remove_if(self, is_unwanted: Callable[[T], bool]) -> list[T]:
        """Remove and return every item that `is_unwanted` picks; the others keep their order."""
        removed: list[T] = []
        with self._lock:
            for priority, lane in enumerate(self._lanes):
                if lane is None:
                    continue
                before = len(removed)
                for _ in range(len(lane)):
                    item = lane.popleft()
                    if is_unwanted(item):
                        removed.append(item)
                    else:
                        lane.append(item)
                self._forget(removed[before:], priority)
        self.notify_room()
        return removed

    def sizes(self) -> dict[Priority, int]:
        """Return the number of items in each lane."""
        return dict(zip(Priority, self._sizes(), strict=True))

    def __len__(self) -> int:
        return sum(self._sizes())
