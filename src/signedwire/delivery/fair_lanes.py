"""The queue to the application, in which senders take turns.

Within a lane the senders take turns by deficit round robin (M. Shreedhar and G. Varghese,
"Efficient Fair Queueing Using Deficit Round Robin", SIGCOMM 1995). A turn is one item of up
to 64 KiB; a larger one takes as many turns as it has such parts. So an item costs O(1), and
one more step for each further 64 KiB.

    1  the first 64 Critical in a second of each known sender
    2  the first 64 Critical in a second of each stranger
    3  known senders:  High and the rest of Critical, then Normal, then Low
    4  strangers:      High and the rest of Critical, then Normal, then Low

Anyone can make keys, and a stranger chooses its own priority. Three rules see to it that no
sender waits for ever:

- Rank 2 may be at most 64 items ahead of ranks 3 and 4. Then it alternates with them.
- While strangers wait in rank 4, one in 16 items of ranks 3 and 4 is a stranger's.
- While a lower lane of strangers has items, one in 16 items of rank 4 comes from it.

The items of one sender leave by priority, and within a priority in the order of arrival.
If all items are of one sender, which is the usual case, there are no turns. They are taken
from plain lanes, without a lock.

Threads: one thread puts and sweeps, any thread takes.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any, Final, Generic, Protocol, TypeVar

from signedwire import clock
from signedwire.delivery.bounded_queue import BoundedQueue
from signedwire.types import Priority

__all__ = ["FairLanes"]

TURN_BYTES: Final = 64 * 1024
FIRST_CRITICAL: Final = 64
"""Number of Critical items of one sender in one second that go first. Also how far those of all
strangers together may be ahead of ranks 3 and 4."""
SHARE: Final = 16
"""One in so many items is taken from a lower rank."""
_MAX_COUNTED: Final = 4096
"""Number of strangers whose Critical items of one second are counted. Further strangers have no
first items."""
_LOW, _NORMAL, _HIGH, _CRITICAL = map(int, sorted(Priority))
_TOP_DOWN: Final = (_CRITICAL, _HIGH, _NORMAL, _LOW)
_KNOWN: Final = len(Priority)
"""Difference between the numbers of a ring of known senders and a ring of strangers."""


class _Item(Protocol):
    @property
    def size(self) -> int:
        """Size in bytes."""


T = TypeVar("T", bound=_Item)


class _Sender(Generic[T]):
    """The waiting items of one sender."""

    __slots__ = ("deficit", "is_known", "key", "lanes", "rest", "rings")

    def __init__(self, key: Hashable) -> None:
        self.key = key
        self.is_known = False
        self.lanes: list[deque[T]] = [_NOTHING, _NOTHING, _NOTHING, _NOTHING]
        self.rest = 0
        """Number of Critical items, the last ones, that do not go first; may be too large."""
        self.deficit = [0] * len(Priority)
        """Bytes by lane that the sender may take in its next turn, beside those of the turn."""
        self.rings = 0
        """One bit for each ring that has the sender."""

    def of(self, lane: int) -> deque[T]:
        """Return the items for the sender's turn in a lane."""
        critical = self.lanes[_CRITICAL]
        if lane == _CRITICAL:
            return critical if len(critical) > self.rest else _NOTHING
        # Critical items that do not go first come in the High lane, before the High ones.
        return critical if lane == _HIGH and critical and self.rest else self.lanes[lane]

    @property
    def is_empty(self) -> bool:
        return not any(self.lanes)


_NOTHING: Final[deque[Any]] = deque(maxlen=0)
_NOBODY: Final = object()


class _Ring(Generic[T]):
    """The senders that take turns in one lane, in the order of turns."""

    __slots__ = ("bit", "is_known", "lane", "senders", "stage")

    def __init__(self, lane: int, *, is_known: bool) -> None:
        self.lane = lane
        self.is_known = is_known
        self.stage = _KNOWN if is_known else lane
        """All rings of known senders are one stage, each ring of strangers is one. A stage is taken
        from strictly by lane; one in 16 items is of a lower stage."""
        self.bit = 1 << (lane + _KNOWN * is_known)
        self.senders: deque[_Sender[T]] = deque()

    def fits(self, sender: _Sender[T]) -> bool:
        """Whether a sender takes turns in this ring."""
        return sender.is_known == self.is_known and bool(sender.of(self.lane))


class _FirstCritical:
    """Counts the Critical items of each sender in the present second."""

    __slots__ = ("_counts", "_since")

    def __init__(self) -> None:
        self._since = 0.0
        self._counts: dict[Hashable, int] = {}

    def grant(self, key: Hashable, count: int, *, is_known: bool) -> int:
        """Return how many of `count` further items of a sender go first."""
        now = clock.monotonic()
        counts = self._counts
        if now - self._since >= 1.0:
            self._since = now
            counts.clear()
        if not is_known and len(counts) >= _MAX_COUNTED and key not in counts:
            return 0
        used = counts.get(key, 0)
        granted = min(count, FIRST_CRITICAL - used)
        counts[key] = used + granted
        return granted


class FairLanes(BoundedQueue, Generic[T]):
    """Bounded lanes in which senders take turns; see the module's text.

    Args:
        limit: Maximum number of items in all lanes together, at least 1.
        reserve: Number of further slots that only Critical may use.
    """

    __slots__ = (
        "_ahead",
        "_all",
        "_first_critical",
        "_later",
        "_only",
        "_others",
        "_others_critical",
        "_plain",
        "_rings",
        "_runs",
        "_senders",
        "_urgent",
    )

    def __init__(self, limit: int, reserve: int = 0) -> None:
        super().__init__(limit, reserve)
        # While there is one sender, its items are taken from these lanes without the lock.
        # While there are several, this is one of them. A thread that was interrupted may
        # still take an item without the lock, so these items are never counted but measured.
        self._only: _Sender[T] = _Sender(_NOBODY)
        self._only.lanes = [deque() for _ in Priority]
        self._all = tuple(self._only.lanes[lane] for lane in _TOP_DOWN)
        self._plain = self._all
        """The lanes of the only sender; empty while there are several."""
        self._senders: dict[Hashable, _Sender[T]] = {}
        """The senders that have items, while there are several."""
        self._others = 0
        """Number of items of all senders but `_only`."""
        self._others_critical = 0
        self._first_critical = _FirstCritical()
        strangers = [_Ring[T](lane, is_known=False) for lane in reversed(_TOP_DOWN)]
        known = [_Ring[T](lane, is_known=True) for lane in reversed(_TOP_DOWN)]
        self._rings = (*strangers, *known)
        """The rings of strangers by priority, then those of known senders."""
        self._urgent = (known[_CRITICAL], strangers[_CRITICAL])
        self._later = tuple(ring[lane] for ring in (known, strangers) for lane in _TOP_DOWN[1:])
        self._runs = [0] * (_KNOWN + 1)
        """Number of items taken of each stage while a lower stage waited."""
        self._ahead = 0
        """Number of items by which rank 2 is ahead of ranks 3 and 4."""

    # -- putting ----------------------------------------------------------------------------

    def put(self, item: T, priority: int, sender: Hashable, is_known: bool) -> bool:
        """Append an item; return `False` and do nothing if there is no room.

        Args:
            item: The item.
            priority: The lane.
            sender: Key of the sender. The items of one key keep their order.
            is_known: Whether the sender is no stranger.
        """
        with self._lock:
            if self._free_slots(priority) <= 0:
                return False
            only = self._only
            if sender is only.key and self._plain and priority != _CRITICAL:  # the usual case
                only.is_known = is_known
                only.lanes[priority].append(item)
            else:
                self._add((item,), priority, sender, is_known)
            return True

    def add_many(self, items: Sequence[T], priority: int, sender: Hashable, is_known: bool) -> None:
        """Append items without regard to the limit; the caller bounds the number."""
        with self._lock:
            only = self._only
            if sender is only.key and self._plain and priority != _CRITICAL:  # the usual case
                only.is_known = is_known
                only.lanes[priority].extend(items)
            else:
                self._add(items, priority, sender, is_known)

    def _add(self, items: Sequence[T], priority: int, key: Hashable, is_known: bool) -> None:
        only = self._only
        if self._plain and (key == only.key or only.is_empty):
            only.key, sender = key, only
        else:
            sender = self._several(key)
        has_moved = sender.is_known != is_known
        sender.is_known = is_known
        lane = sender.lanes[priority]
        if lane is _NOTHING:
            lane = sender.lanes[priority] = deque()
        if priority == _CRITICAL:
            self._note_critical(sender, len(items))
        lane.extend(items)
        if sender is not only:
            self._others += len(items)
            self._others_critical += len(items) * (priority == _CRITICAL)
        if not self._plain:
            if has_moved or priority == _CRITICAL:
                self._enter(sender, _TOP_DOWN)
            else:
                self._enter(sender, (priority,))

    def _note_critical(self, sender: _Sender[T], count: int) -> None:
        """Count `count` further Critical items of a sender: some go first, the rest do not."""
        waiting = sender.rest = min(sender.rest, len(sender.lanes[_CRITICAL]))
        granted = 0
        if not waiting:  # else they would overtake earlier items
            granted = self._first_critical.grant(sender.key, count, is_known=sender.is_known)
        sender.rest += count - granted

    def _several(self, key: Hashable) -> _Sender[T]:
        """Return one of several senders. The second sender starts the turns."""
        if self._plain:
            self._plain = ()
            self._senders[self._only.key] = self._only
            self._enter(self._only, _TOP_DOWN)
        sender = self._senders.get(key)
        if sender is None:
            sender = self._senders[key] = _Sender(key)
        return sender

    def _enter(self, sender: _Sender[T], lanes: Iterable[int]) -> None:
        """Append a sender to the rings of these lanes in which it has items."""
        for lane in lanes:
            ring = self._rings[lane + _KNOWN * sender.is_known]
            if not sender.rings & ring.bit and sender.of(lane):
                sender.rings |= ring.bit
                ring.senders.append(sender)

    # -- taking -----------------------------------------------------------------------------

    def take(self) -> T | None:
        """Remove and return the item whose turn it is; `None` if there is none."""
        plain = self._plain
        for lane in plain:
            if lane:
                try:
                    item = lane.popleft()
                except IndexError:  # another thread took the last one
                    continue
                if self._room_waiters:
                    self.notify_room()
                return item
        return None if plain else self._take_locked()

    def _take_locked(self) -> T | None:
        with self._lock:
            item = None
            while item is None and not self._plain:
                ring = self._choose()
                if ring is None:
                    self._settle()
                else:
                    item = self._pop(ring)
            for lane in () if item is not None else self._plain:
                try:
                    item = lane.popleft()
                except IndexError:  # another thread took the last one
                    continue
                break
        if self._room_waiters:
            self.notify_room()
        return item

    def _choose(self) -> _Ring[T] | None:
        """Return the ring whose turn it is; `None`: all rings are empty."""
        for ring in self._urgent:
            # A sender's turn in another lane may have taken its Critical items.
            while ring.senders and not ring.fits(ring.senders[0]):
                ring.senders.rotate(-1)
                self._drop_last(ring)
        known, strangers = self._urgent
        if known.senders:
            return known
        waiting = [ring for ring in self._later if ring.senders]
        if strangers.senders and (not waiting or self._ahead < FIRST_CRITICAL):
            self._ahead += bool(waiting)
            return strangers
        if self._ahead and waiting:
            self._ahead -= 1
        if len(waiting) > 1:
            return self._choose_later(waiting)
        return waiting[0] if waiting else None

    def _choose_later(self, waiting: list[_Ring[T]]) -> _Ring[T]:
        """Return one of several rings of ranks 3 and 4."""
        runs, lowest, passed = self._runs, waiting[-1].stage, -1
        rings = iter(waiting)
        ring = next(rings)
        while (stage := ring.stage) != lowest:
            if stage != passed and runs[stage] < SHARE - 1:
                runs[stage] += 1
                break
            runs[stage] = 0  # one item of a lower stage follows
            passed = stage
            ring = next(rings)
        return ring

    def _pop(self, ring: _Ring[T]) -> T | None:
        """Take an item of the sender whose turn it is; `None`: no sender has one."""
        senders, number = ring.senders, ring.lane
        while senders:
            sender = senders[0]
            lane = sender.of(number) if sender.is_known == ring.is_known else _NOTHING
            is_alone = len(senders) == 1
            senders.rotate(-1)
            try:
                if not is_alone:
                    deficit = sender.deficit[number] + TURN_BYTES
                    cost = max(TURN_BYTES, lane[0].size)
                    if deficit < cost:
                        sender.deficit[number] = deficit
                        continue
                    sender.deficit[number] = deficit - cost
                item: T | None = lane.popleft()
            except IndexError:  # another thread took it, of `_only`
                item = None
            if item is not None and sender is not self._only:
                self._others -= 1
                self._others_critical -= lane is sender.lanes[_CRITICAL]
            if is_alone:
                sender.deficit[number] = 0
            if not ring.fits(sender):
                self._drop_last(ring)
            if item is not None:
                return item
        return None

    def _drop_last(self, ring: _Ring[T]) -> None:
        """Remove the last sender from a ring in which it has no items."""
        sender = ring.senders.pop()
        sender.rings &= ~ring.bit
        sender.deficit[ring.lane] = 0
        self._leave(sender)

    def _leave(self, sender: _Sender[T]) -> None:
        """Forget a sender that has no items."""
        if sender.is_empty and self._senders.get(sender.key) is sender:
            del self._senders[sender.key]
            if sender is self._only:
                sender.key = _NOBODY
            if len(self._senders) <= 1:
                self._settle()

    def _settle(self) -> None:
        """Move the items of the last sender to the plain lanes, which ends the turns."""
        only = self._only
        for sender in self._senders.values():
            if sender is not only:
                only.key, only.is_known, only.rest = sender.key, sender.is_known, sender.rest
                for lane in _TOP_DOWN:
                    only.lanes[lane].extend(sender.lanes[lane])
        self._others = self._others_critical = self._ahead = 0
        only.rings, only.deficit = 0, [0] * len(Priority)
        self._senders.clear()
        for ring in self._rings:
            ring.senders.clear()
        self._runs = [0] * len(self._runs)
        self._plain = self._all

    # -- all items --------------------------------------------------------------------------

    def sweep(self, is_unwanted: Callable[[T], bool]) -> list[T]:
        """Remove and return every item that `is_unwanted` picks; the others keep their order.

        Other threads may take items meanwhile, also unwanted ones.
        """
        removed: list[T] = []
        with self._lock:
            for sender in self._senders.values() if self._senders else [self._only]:
                for number, lane in enumerate(sender.lanes):
                    for item in filter(is_unwanted, tuple(lane)):
                        with contextlib.suppress(ValueError):  # another thread took it
                            lane.remove(item)  # mostly the first one, as all of a sender go
                            removed.append(item)
                            if sender is not self._only:
                                self._others -= 1
                                self._others_critical -= number == _CRITICAL
            if not self._plain:
                self._forget_empty()
        self.notify_room()
        return removed

    def _forget_empty(self) -> None:
        """Remove senders from the rings in which they have no items."""
        for ring in self._rings:
            for sender in ring.senders:
                if not ring.fits(sender):
                    sender.rings &= ~ring.bit
                    sender.deficit[ring.lane] = 0
            ring.senders = deque(filter(ring.fits, ring.senders))
        for sender in tuple(self._senders.values()):
            if not self._plain:
                self._leave(sender)

    def _free_slots(self, priority: int) -> int:
        critical, high, normal, low = self._all
        others, others_critical = self._others, self._others_critical
        waiting = len(low) + len(normal) + len(high) + others - others_critical
        return self._count_free(priority, len(critical) + others_critical, waiting)

    def __len__(self) -> int:
        return sum(map(len, self._all)) + self._others

    def __bool__(self) -> bool:
        return self._others > 0 or any(self._all)
