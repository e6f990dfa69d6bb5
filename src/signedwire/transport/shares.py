"""Shares each turn of the event loop among the links that have input to process.

    data_received ─→ serve(link) ─→ link.work(…)           at once, while there is time
                         └────────→ queue ─→ the next turn  when the share of this turn is used

There are two shares of each turn. One is for links that have lately cost more than they
brought, strangers among them; the other is for all others. So a flood from strangers delays
an honest peer by its share at most, however many they are. Within a share the link that has
used the least time goes first (start-time fair queueing, Goyal, Vin and Cheng, 1996). The first
link of a turn is the one that has waited longest, or an endless row of new links would starve it.
While a link waits, its socket is not read.

What the application does with the messages, and what is signed and written for them, comes
on top of a share and cannot be interrupted. So the shares are small at first, grow while
the whole turn stays short, and are halved when it was long.
"""

from __future__ import annotations

import asyncio
import heapq
from collections import deque
from itertools import count, islice
from typing import Final, Protocol

from signedwire.clock import monotonic

__all__ = ["LoopShares", "Worker"]

_LEAST: Final = 0.001
"""Seconds of one turn of the loop for each of the two shares: at first, and at least."""
_MOST: Final = 0.004
"""Seconds for each of the two shares at most."""
_GROWTH: Final = 1.1
"""Factor of a share after a turn that was shorter than `_LONG`."""
_LONG: Final = 0.006
"""Seconds of a whole turn after which the shares are halved. 40 strangers that send batches
of 256 messages caused turns of 47 ms with shares of 4 ms, and of 17 ms with this."""
_CALM: Final = 1.0
"""Seconds without a link that waits, after which the shares are small again."""
_QUANTUM: Final = 0.001
"""Seconds after which a link lets the next one work."""
_LOOKS: Final = 32
"""Links that wait and are looked at in each turn; a look takes less than a microsecond."""
_FEW: Final = 4
"""Links that may wait before any is looked at."""
_MAX_LEAD: Final = 0.010
"""Seconds of work that a link can be ahead of the others at most, and so has to wait for."""


class Worker(Protocol):
    """A link with input."""

    turn_tag: float
    """How much work it has had, on the clock of its share. `LoopShares` alone uses this."""

    @property
    def is_costly(self) -> bool:
        """Whether the peer has lately cost more than it brought."""

    def work(self, now: float, until: float) -> bool:
        """Process input from `now` to `until`, by the monotonic clock; whether some is left."""

    def drop_if_reset(self) -> bool:
        """End where the other side has reset the connection, and its input is not worth a look."""

    def abort(self) -> None:
        """End at once: its input could not be processed."""

    def set_waiting(self, is_waiting: bool) -> None:
        """Stop reading while input waits for a later turn; read on when all is processed."""


class _Waiting:
    """A link that waits for its share."""

    __slots__ = ("order", "tag", "worker")

    def __init__(self, tag: float, number: int, worker: Worker) -> None:
        self.tag = tag
        self.order = (tag, worker.turn_tag, number)
        """The order in the queue. Of equal tags, the link that was idle for longest goes first."""
        self.worker: Worker | None = worker
        """`None`: it was served."""

    def __lt__(self, other: _Waiting) -> bool:
        return self.order < other.order


class _Share:
    """The time of one kind of links in each turn, and those links that wait for more."""

    __slots__ = ("_by_age", "_by_tag", "_last", "_numbers", "spent")

    def __init__(self) -> None:
        self.spent = 0.0
        """Seconds of this turn."""
        self._last = 0.0  # the highest tag that was served
        self._by_tag: list[_Waiting] = []  # a heap
        self._by_age: deque[_Waiting] = deque()
        self._numbers = count()

    def __bool__(self) -> bool:
        """Whether a link waits."""
        while self._by_age and self._by_age[0].worker is None:
            self._by_age.popleft()
        return bool(self._by_age)

    def add(self, worker: Worker, tag: float) -> None:
        """Let a link wait."""
        waiting = _Waiting(tag, next(self._numbers), worker)
        heapq.heappush(self._by_tag, waiting)
        self._by_age.append(waiting)

    def take(self, *, is_first: bool) -> tuple[Worker, float]:
        """The link to serve next, and its tag. There must be one.

        Args:
            is_first: Whether it is the first of a turn.
        """
        while True:
            one = self._by_age.popleft() if is_first else heapq.heappop(self._by_tag)
            if one.worker is not None:
                worker, one.worker = one.worker, None
                return worker, one.tag

    def oldest(self, count: int) -> list[_Waiting]:
        """Some of those that wait, the longest first."""
        return [one for one in islice(self._by_age, count) if one.worker is not None]

    def tag(self, worker: Worker) -> float:
        """Where a link that comes now stands among those that wait.

        A link loses no time while it has no input, and saves none up.
        """
        while self._by_tag and self._by_tag[0].worker is None:
            heapq.heappop(self._by_tag)
        floor = self._by_tag[0].tag if self._by_tag else self._last
        return min(max(worker.turn_tag, floor), floor + _MAX_LEAD)

    def charge(self, worker: Worker, tag: float, seconds: float) -> None:
        """A link has worked."""
        self.spent += seconds
        self._last = max(self._last, tag)
        worker.turn_tag = tag + seconds


class LoopShares:
    """See the module's text. Belongs to one event loop."""

    def __init__(self) -> None:
        self._costly = _Share()
        self._others = _Share()
        self._waiting: set[Worker] = set()
        self._is_scheduled = False
        self._share = _LEAST
        self._turn_began = 0.0
        self._has_waited = False
        """Whether a link waited when the last turn began: then this turn follows it at once."""

    def serve(self, worker: Worker) -> None:
        """Let a link process its input, now or in a later turn of the loop."""
        if worker in self._waiting:
            return
        share = self._costly if worker.is_costly else self._others
        tag = share.tag(worker)
        left = self._share - share.spent
        if left > 0 and not share:
            self._run(share, worker, tag, left)
        else:
            self._wait(share, worker, tag)

    def _run(self, share: _Share, worker: Worker, tag: float, seconds: float) -> None:
        began = monotonic()
        has_more = False
        try:
            has_more = worker.work(began, began + seconds)
        except Exception as error:  # noqa: BLE001 - it must not stop the others
            self._fail(worker, error)
        share.charge(worker, tag, monotonic() - began)
        if has_more:
            self._wait(share, worker, worker.turn_tag)
        elif worker in self._waiting:
            self._waiting.remove(worker)
            worker.set_waiting(False)
        if share.spent >= _LEAST:
            # What was spent in earlier turns counts too until then: a call for each turn of
            # the loop would cost an honest link more than it is worth.
            self._schedule()

    def _wait(self, share: _Share, worker: Worker, tag: float) -> None:
        share.add(worker, tag)
        self._schedule()
        if worker not in self._waiting:
            self._waiting.add(worker)
            worker.set_waiting(True)

    def _schedule(self) -> None:
        if not self._is_scheduled:
            self._is_scheduled = True
            asyncio.get_running_loop().call_soon(self._begin_turn)

    def _begin_turn(self) -> None:
        """A new turn of the loop: those that wait come before what arrives in it."""
        self._is_scheduled = False
        self._adapt()
        try:
            self._drop_reset()
            for share in (self._others, self._costly):
                share.spent = 0.0
                is_first = True
                while share and share.spent < self._share:
                    worker, tag = share.take(is_first=is_first)
                    is_first = False
                    self._run(share, worker, tag, _QUANTUM)
        finally:  # even if a link fails to pause or to end: the others wait for the next turn
            self._has_waited = bool(self._waiting)
            if self._waiting:
                self._schedule()

    def _drop_reset(self) -> None:
        """Let those go that hung up while they waited: nobody reads their sockets meanwhile.

        Else strangers that open, send and reset would fill the queue, and keep newcomers out.
        In a short queue even what came before a reset is processed.
        """
        if len(self._waiting) <= _FEW:
            return
        for one in self._costly.oldest(_LOOKS):
            worker = one.worker
            if worker is not None and worker.drop_if_reset():
                one.worker = None
                self._waiting.discard(worker)

    def _fail(self, worker: Worker, error: Exception) -> None:
        """End this link alone: a fault in processing its input is one of ours."""
        self._waiting.discard(worker)
        asyncio.get_running_loop().call_exception_handler(
            {"message": "input of a link could not be processed", "exception": error}
        )
        worker.abort()

    def _adapt(self) -> None:
        """Fit the shares to the time of the whole turn that ends."""
        now = monotonic()
        took, self._turn_began = now - self._turn_began, now
        if not self._has_waited:
            if took > _CALM:
                self._share = _LEAST
        elif took > _LONG:
            self._share = max(_LEAST, self._share / 2)
        else:
            self._share = min(_MOST, self._share * _GROWTH)
