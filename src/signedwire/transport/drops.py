"""Counts dropped messages and connections, and reports them in few events and log lines.

A stranger, or a peer whose messages expire, can have thousands of envelopes dropped in a
second. Each one is counted at once. The first one of a peer and reason is reported at once, then
at most one event and log line each second, with a count.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import Counter
from collections.abc import Callable
from typing import Final, NamedTuple

from signedwire.events import Dropped, EventQueue
from signedwire.logs import EventLog, fields
from signedwire.stats import Counters
from signedwire.types import Did, Reason, unix_time_us

__all__ = ["INTERVAL", "MAX_TOLD", "Drops"]

INTERVAL: Final = 1.0
"""Seconds between two events of one peer and reason."""
MAX_TOLD: Final = 64
"""Pairs of peer and reason in a second that have events of their own. Strangers choose their
DIDs, so further ones are reported together, one event for each reason."""


class _Key(NamedTuple):
    reason: Reason
    did: Did | None
    source: str


class _Tally:
    __slots__ = ("count", "first_at", "last_at")

    def __init__(self) -> None:
        self.count = 0
        self.first_at = self.last_at = unix_time_us() / 1e6


class Drops:
    """Counts drops for the statistics, the events and the log of one node.

    The counts of all `Dropped` events add up to `stats().dropped`, if the events are watched
    from the start to the end.

    Args:
        counters: The statistics.
        events: Takes `Dropped` events.
        log: Takes a line for each event.
        call_soon: Calls a function in the loop, from any thread.
    """

    def __init__(
        self,
        counters: Counters,
        events: EventQueue,
        log: EventLog,
        call_soon: Callable[..., None],
    ) -> None:
        self._counters = counters
        self._events = events
        self._log = log
        self._call_soon = call_soon
        self._lock = threading.Lock()
        self._waiting: dict[_Key, _Tally] = {}
        self._told: dict[_Key, float] = {}  # when, in loop time; of the last second
        self._is_look_due = False
        self._timer: asyncio.TimerHandle | None = None

    def add(self, reason: Reason, did: Did | None = None, host: str = "", count: int = 1) -> None:
        """Count envelopes, messages or a connection that were dropped. Any thread.

        Args:
            reason: Why they were dropped.
            did: The sender or the recipient; `None`: unknown.
            host: The host that sent them, if there is no DID.
            count: How many there were.
        """
        with self._lock:  # threads that send count, too
            self._counters.dropped[reason] += count
            # Without a reader of events or log lines, no tally is kept.
            if not (self._events.is_watched or self._log.isEnabledFor(logging.DEBUG)):
                return
            key = _Key(reason, did, str(did) if did is not None else host)
            is_new = key not in self._waiting and key not in self._told
            if is_new and len(self._waiting.keys() | self._told.keys()) >= MAX_TOLD:
                key = _Key(reason, None, "")
            tally = self._waiting.get(key)
            if tally is None:
                tally = self._waiting[key] = _Tally()
            tally.count += count
            tally.last_at = unix_time_us() / 1e6
            if self._is_look_due:
                return
            self._is_look_due = True
        self._call_soon(self._look)

    def add_refused(self, did: Did, by_reason: Counter[Reason], count: int = 1) -> None:
        """Count messages that were refused at once because a queue was full. Any thread.

        Args:
            did: Their recipient.
            by_reason: Counts the dropped messages to this recipient.
            count: How many there were.
        """
        with self._lock:
            self._counters.backpressure_events += count
            by_reason[Reason.QUEUE_FULL] += count
        self.add(Reason.QUEUE_FULL, did, count=count)

    def _look(self) -> None:
        """Report the tallies that are due; later the others. In the loop."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        with self._lock:
            self._told = {key: at for key, at in self._told.items() if now - at < INTERVAL}
            due = [key for key in self._waiting if key not in self._told]
            told = [(key, self._waiting.pop(key)) for key in due]
            self._told.update(dict.fromkeys(due, now))
            self._is_look_due = bool(self._waiting)
            again = min((self._told[key] for key in self._waiting), default=now) + INTERVAL
        for key, tally in told:
            self._tell(key, tally)
        if self._is_look_due:
            self._timer = loop.call_at(again, self._look)

    def log_closed(self, host: str, reason: Reason, fact: str) -> None:
        """Log that a connection was closed for its fault. In the loop."""
        extra = fields("connection closed", address=host, reason=reason)
        self._log.info("closed the connection from %s: %s (%s)", host, reason, fact, extra=extra)

    def flush(self) -> None:
        """Report everything that is left: the node ends."""
        if self._timer is not None:
            self._timer.cancel()
        with self._lock:
            waiting, self._waiting = self._waiting, {}
        for key, tally in waiting.items():
            self._tell(key, tally)

    def _tell(self, key: _Key, tally: _Tally) -> None:
        count = tally.count
        event = Dropped(key.reason, key.did, key.source, count, tally.first_at, tally.last_at)
        self._events.put(event)
        self._log.logger.debug(  # not limited once more by `EventLog`
            "dropped %d of %s: %s",
            count,
            key.source or "an unnamed source",
            key.reason,
            extra=fields(
                "dropped",
                peer=key.did,
                address=key.source if key.did is None else None,
                reason=key.reason,
                count=count,
            ),
        )
