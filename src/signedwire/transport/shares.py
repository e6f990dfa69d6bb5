"""Shares each turn of the event loop among the links that have input to process.

    data_received ─→ serve(link) ─→ link.work(until)        at once, while there is time
                         └────────→ queue ─→ the next turn  when the share of this turn is used

There are two shares of each turn. One is for links that have lately cost more than they
brought, strangers among them; the other is for all others. So a flood from strangers delays
an honest peer by its share at most, however many they are. Within a share a link that had
nothing waiting goes before those that always have (the idea of FQ-CoDel, RFC 8290, section
3.2), and while a link waits, its socket is not read.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final, Protocol

from signedwire.clock import monotonic

__all__ = ["LoopShares", "Worker"]

_SHARE: Final = 0.004
"""Seconds of one turn of the loop, for each of the two shares."""
_QUANTUM: Final = 0.001
"""Seconds after which a link lets the next one work."""


class Worker(Protocol):
    """A link with input."""

    @property
    def is_costly(self) -> bool:
        """Whether the peer has lately cost more than it brought."""

    def work(self, until: float) -> bool:
        """Process input until `until`, by the monotonic clock; whether some is left."""

    def set_waiting(self, is_waiting: bool) -> None:
        """Its input waits for a later turn, or was all processed: only then read on."""


class _Share:
    """The time of one kind of links in each turn, and those links that wait for more."""

    __slots__ = ("backlogged", "fresh", "spent")

    def __init__(self) -> None:
        self.spent = 0.0
        self.fresh: deque[Worker] = deque()
        self.backlogged: deque[Worker] = deque()

    def next_worker(self, *, is_first: bool) -> Worker | None:
        """Links that had nothing waiting come first, except for the first link of a turn."""
        queues = (self.backlogged, self.fresh) if is_first else (self.fresh, self.backlogged)
        return next((queue.popleft() for queue in queues if queue), None)


class LoopShares:
    """See the module's text. Belongs to one event loop."""

    def __init__(self) -> None:
        self._costly = _Share()
        self._others = _Share()
        self._waiting: set[Worker] = set()
        self._is_scheduled = False

    def serve(self, worker: Worker) -> None:
        """Let a link process its input, now or in a later turn of the loop."""
        if worker in self._waiting:
            return
        share = self._costly if worker.is_costly else self._others
        left = _SHARE - share.spent
        if left > 0 and not share.fresh and not share.backlogged:
            self._run(share, worker, left)
        else:
            self._wait(share.fresh, worker)

    def _run(self, share: _Share, worker: Worker, seconds: float) -> None:
        began = monotonic()
        has_more = worker.work(began + seconds)
        share.spent += monotonic() - began
        if has_more:
            self._wait(share.backlogged, worker)
        elif worker in self._waiting:
            self._waiting.remove(worker)
            worker.set_waiting(False)
        if share.spent >= _SHARE / 4:
            # What was spent in earlier turns counts too until then: a call for each turn of
            # the loop would cost an honest link more than it is worth.
            self._schedule()

    def _wait(self, queue: deque[Worker], worker: Worker) -> None:
        queue.append(worker)
        if worker not in self._waiting:
            self._waiting.add(worker)
            worker.set_waiting(True)
        self._schedule()

    def _schedule(self) -> None:
        if not self._is_scheduled:
            self._is_scheduled = True
            asyncio.get_running_loop().call_soon(self._begin_turn)

    def _begin_turn(self) -> None:
        """A new turn of the loop: those that wait come before what arrives in it."""
        self._is_scheduled = False
        for share in (self._others, self._costly):
            share.spent = 0.0
            is_first = True
            # Each queue as it stands: who has more comes again when the others had their turn.
            while share.spent < _SHARE and (worker := share.next_worker(is_first=is_first)):
                is_first = False
                self._run(share, worker, _QUANTUM)
        if self._waiting:
            self._schedule()
