"""The messages that wait for one peer: a lane for each stream.

    stream   0 … 3   durable, Low to Critical
             4 … 7   volatile, Low to Critical

Durable messages and volatile ones have limits of their own, so that what waits in a store never
keeps a volatile message out. Within one priority, no order is promised between the two streams.

A volatile item may have a key: see `put_latest()`.

Threads: any thread may call each method, except where `lane()` is used for more than a look.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from itertools import chain
from typing import Final, Generic, TypeVar

from signedwire.delivery.lanes import Lanes, PutLatest, no_key
from signedwire.types import Priority
from signedwire.wire.header import VOLATILE

__all__ = ["SendQueue"]

T = TypeVar("T")
_TOP_DOWN: Final = tuple(
    stream
    for priority in sorted(map(int, Priority), reverse=True)
    for stream in (priority + VOLATILE, priority)
)
_BOTTOM_UP: Final = _TOP_DOWN[::-1]


class SendQueue(Generic[T]):
    """Eight bounded lanes, one per stream.

    Args:
        limit: Maximum number of durable items, and again of volatile ones; at least 1.
        reserve: Number of further slots of each kind that only Critical may use.
        key_of: Returns the key of a volatile item; `None`: it has none.
    """

    __slots__ = ("_durable_half", "_volatile_half")

    def __init__(
        self,
        limit: int,
        reserve: int = 0,
        key_of: Callable[[T], Hashable | None] = no_key,
    ) -> None:
        self._durable_half: Lanes[T] = Lanes(limit, reserve)
        self._volatile_half: Lanes[T] = Lanes(limit, reserve, key_of)

    def _lanes_of(self, stream: int) -> Lanes[T]:
        return self._volatile_half if stream >= VOLATILE else self._durable_half

    def _peek(self, stream: int) -> deque[T] | None:
        """Return one lane; `None`: it was never used, so it is empty."""
        return self._lanes_of(stream).peek(stream % VOLATILE)

    def put(self, item: T, stream: int) -> bool:
        """Append to the lane of a stream; return `False` and do nothing if there is no room."""
        return self._lanes_of(stream).put(item, stream % VOLATILE)

    def put_latest(self, item: T, stream: int) -> PutLatest[T]:
        """Put a volatile item that has a key in the place of the waiting one with the same key.

        Both are of one stream. See `Lanes.put_latest()`.
        """
        return self._volatile_half.put_latest(item, stream % VOLATILE)

    def put_many(self, items: Sequence[T], stream: int) -> int:
        """Append as many of the first items as there is room for; return how many."""
        return self._lanes_of(stream).put_many(items, stream % VOLATILE)

    def add_many(self, items: Iterable[T], stream: int) -> None:
        """Append without regard to the limit; the caller bounds the number in another way."""
        self._lanes_of(stream).add_many(items, stream % VOLATILE)

    def lane(self, stream: int) -> deque[T]:
        """Return one lane, to look at it."""
        return self._lanes_of(stream).lane(stream % VOLATILE)

    def take_from(self, stream: int, take: Callable[[deque[T]], list[T]]) -> list[T]:
        """Call `take` with the lane of a stream, and return what it took from the head.

        See `Lanes.take_from()`. The producers that wait for room are woken.
        """
        lanes = self._lanes_of(stream)
        taken = lanes.take_from(stream % VOLATILE, take)
        lanes.notify_room()
        return taken

    def waiting(self) -> list[int]:
        """Return the streams that have items, the highest priority last."""
        return [stream for stream in _BOTTOM_UP if self._peek(stream)]

    def take(self) -> T | None:
        """Remove and return the oldest item of the highest lane; `None` if all are empty."""
        for stream in _TOP_DOWN:
            item = self._lanes_of(stream).take(stream % VOLATILE)
            if item is not None:
                self.notify_room(stream)
                return item
        return None

    def put_back(self, items: Iterable[tuple[T, int]]) -> list[T]:
        """Put items with their streams, in the order taken, back to the heads of their lanes.

        The limits do not apply, because the items had their slots before.

        Returns:
            The items that were not put back, because a newer one with the same key waits.
        """
        durable: list[tuple[T, int]] = []
        volatile: list[tuple[T, int]] = []
        for item, stream in items:
            if stream >= VOLATILE:
                volatile.append((item, stream - VOLATILE))
            else:
                durable.append((item, stream))
        self._durable_half.put_back(durable)
        return self._volatile_half.put_back(volatile)

    def remove_if(self, is_unwanted: Callable[[T], bool]) -> list[T]:
        """Remove and return every item that `is_unwanted` picks; the others keep their order."""
        removed = self._durable_half.remove_if(is_unwanted)
        return removed + self._volatile_half.remove_if(is_unwanted)

    # -- room -----------------------------------------------------------------------------

    def has_room(self, stream: int) -> bool:
        """Whether an item of this stream would fit now."""
        return self._lanes_of(stream).has_room(stream % VOLATILE)

    def when_room(self, wake: Callable[[], None], *, is_durable: bool) -> bool:
        """Call `wake` once, when half of the slots are empty; `False` if they are already.

        Those are the slots for durable items, or for volatile ones.
        """
        return (self._durable_half if is_durable else self._volatile_half).when_room(wake)

    def notify_room(self, stream: int) -> None:
        """Wake the producers that wait, if half of the slots of this stream's kind are empty."""
        self._lanes_of(stream).notify_room()

    def wake_all(self) -> None:
        """Wake all producers that wait, because the queue is closed."""
        self._durable_half.wake_all()
        self._volatile_half.wake_all()

    # -- numbers --------------------------------------------------------------------------

    def size(self, stream: int) -> int:
        """Return the number of items in one lane."""
        return len(self._peek(stream) or ())

    def sizes(self) -> dict[Priority, int]:
        """Return the number of items of each priority."""
        volatile = self._volatile_half.sizes()
        durable = self._durable_half.sizes()
        return {priority: durable[priority] + volatile[priority] for priority in durable}

    def __len__(self) -> int:
        return len(self._durable_half) + len(self._volatile_half)

    def __bool__(self) -> bool:
        return bool(self._durable_half or self._volatile_half)

    def __iter__(self) -> Iterator[T]:
        """Iterate over a snapshot, in the order in which the items would be taken."""
        return chain.from_iterable([tuple(self._peek(stream) or ()) for stream in _TOP_DOWN])
