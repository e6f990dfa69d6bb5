"""Shares each turn of the event loop among the links that have input to process.

    data_received ─→ serve(link) ─→ link.work(…)           at once, while there is time
                         └────────→ queue ─→ the next turn  when the share of this turn is used

Each turn has two shares. One is for links that have lately cost more than they brought, such
as those of strangers; the other is for all other links. So a flood from strangers delays an
honest peer by at most one share, however many strangers there are. Within a share, the link that
has used the least time goes first (start-time fair queueing, Goyal, Vin and Cheng, 1996). Only
the first link of a turn is the one that has waited longest, because an endless row of new links
would starve it. While a link waits, its socket is not read.

The application's work on the messages, and the signatures and writes for them, are not part of a
share and cannot be interrupted. So the shares are small at first, grow while the whole turn stays
short, and are halved after a long turn.
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
"""Maximum number of waiting links that are checked for a reset in each turn. A check takes less
than a microsecond."""
_FEW: Final = 4
"""Number of waiting links up to which none is checked for a reset."""
_MAX_LEAD: Final = 0.010
"""Maximum seconds of work that a link can be ahead of the others and has to wait for."""


class Worker(Protocol):
    """A link with input."""

    turn_tag: float
    """Seconds of work of this link, on the virtual clock of its share. For `LoopShares` alone."""

    @property
    def is_costly(self) -> bool:
        """Whether the peer has lately cost more than it brought."""

    def work(self, now: float, until: float) -> bool:
        """Process input from `now` to `until` (monotonic clock); return whether some is left."""

    def drop_if_reset(self) -> bool:
        """End the link if it is costly and its connection was reset; return whether it ended."""

    def abort(self) -> None:
        """End the link at once, because its input could not be processed."""

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
        """`None`: the link was served or dropped."""

    def __lt__(self, other: _Waiting) -> bool:
        return self.order < other.order


class _Share:
    """The time of one kind of links in each turn, and the links of this kind that wait."""

    __slots__ = ("_by_age", "_by_tag", "_last", "_numbers", "spent")

    def __init__(self) -> None:
        self.spent = 0.0
        """Seconds that are used in this turn."""
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
        """Add a link to the queue."""
        waiting = _Waiting(tag, next(self._numbers), worker)
        heapq.heappush(self._by_tag, waiting)
        self._by_age.append(waiting)

    def take(self, *, is_first: bool) -> tuple[Worker, float]:
        """Take the next link from the queue; return it and its tag. The queue must not be empty.

        Args:
            is_first: Whether this is the first link of a turn.
        """
        while True:
            one = self._by_age.popleft() if is_first else heapq.heappop(self._by_tag)
            if one.worker is not None:
                worker, one.worker = one.worker, None
                return worker, one.tag

    def oldest(self, count: int) -> list[_Waiting]:
        """Return the waiting links among the `count` oldest entries, oldest first."""
        return [one for one in islice(self._by_age, count) if one.worker is not None]

    def tag(self, worker: Worker) -> float:
        """Return the start tag of a link that has input now; the lowest tag goes first.

        A link without input neither loses time nor saves it up.
        """
        while self._by_tag and self._by_tag[0].worker is None:
            heapq.heappop(self._by_tag)
        floor = self._by_tag[0].tag if self._by_tag else self._last
        return min(max(worker.turn_tag, floor), floor + _MAX_LEAD)

    def charge(self, worker: Worker, tag: float, seconds: float) -> None:
        """Add the seconds that a link has worked to the used time, and to the tag of the link."""
        self.spent += seconds
        self._last = max(self._last, tag)
        worker.turn_tag = tag + seconds


class LoopShares:
    """Divides each turn of one event loop among its links; see the docstring of the module."""

    def __init__(self) -> None:
        self._costly = _Share()
        self._others = _Share()
        self._waiting: set[Worker] = set()
        self._is_scheduled = False
        self._share = _LEAST
        self._turn_began = 0.0
        self._has_waited = False
        """Whether a link waited at the end of the last turn. If so, this turn follows at once."""

    def serve(self, worker: Worker) -> None:
        """Call `worker.work()` now, or in a later turn of the loop."""
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
            # Until then, `spent` also counts earlier turns: a call in each turn of the loop
            # would cost an honest link more than it gains.
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
        """Begin a turn: serve the waiting links before the input that arrives in this turn."""
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
        """Drop waiting links whose connections were reset. Their sockets are not read meanwhile.

        Otherwise strangers that connect, send and reset would fill the queue and delay newcomers.
        In a short queue, input that came before a reset is still processed.
        """
        if len(self._waiting) <= _FEW:
            return
        for one in self._costly.oldest(_LOOKS):
            worker = one.worker
            if worker is not None and worker.drop_if_reset():
                one.worker = None
                self._waiting.discard(worker)

    def _fail(self, worker: Worker, error: Exception) -> None:
        """End one link whose input could not be processed, and report the bug to the loop."""
        self._waiting.discard(worker)
        asyncio.get_running_loop().call_exception_handler(
            {"message": "input of a link could not be processed", "exception": error}
        )
        worker.abort()

    def _adapt(self) -> None:
        """Adapt the size of the shares to the duration of the last turn."""
        now = monotonic()
        took, self._turn_began = now - self._turn_began, now
        if not self._has_waited:
            if took > _CALM:
                self._share = _LEAST
        elif took > _LONG:
            self._share = max(_LEAST, self._share / 2)
        else:
            self._share = min(_MOST, self._share * _GROWTH)
