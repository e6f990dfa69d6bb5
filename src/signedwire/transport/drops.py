"""Counts dropped messages and connections, and reports them in few events and log lines.

A stranger, or a peer whose messages expire, can have thousands of envelopes dropped in a
second. Each drop is counted at once. For each peer and reason, the first drop is reported at
once; later ones are reported in at most one event and log line each second, with a count.
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

__all__ = ["INTERVAL", "MAX_REPORTED", "Drops"]

INTERVAL: Final = 1.0
"""Minimum seconds between two events of one peer and reason."""
MAX_REPORTED: Final = 64
"""Maximum pairs of peer and reason with an event of their own in one second. Strangers choose
their DIDs, so further drops are reported together, in one event for each reason."""


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
        self._reported_at: dict[_Key, float] = {}  # loop time of the last event
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
        with self._lock:  # threads that send call this too
            self._counters.dropped[reason] += count
            # Without a reader of events or log lines, no tally is kept.
            if not (self._events.is_watched or self._log.isEnabledFor(logging.DEBUG)):
                return
            key = _Key(reason, did, str(did) if did is not None else host)
            is_new = key not in self._waiting and key not in self._reported_at
            if is_new and len(self._waiting.keys() | self._reported_at.keys()) >= MAX_REPORTED:
                key = _Key(reason, None, "")
            tally = self._waiting.get(key)
            if tally is None:
                tally = self._waiting[key] = _Tally()
            tally.count += count
            tally.last_at = unix_time_us() / 1e6
            if self._is_look_due:
                return
            self._is_look_due = True
        self._call_soon(self._report_due)

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

    def add_failed(
        self, reason: Reason, did: Did, by_reason: Counter[Reason], count: int = 1
    ) -> None:
        """Count messages of this node that failed. Any thread.

        Args:
            reason: Why they failed.
            did: Their recipient.
            by_reason: Counts the dropped messages to this recipient.
            count: How many there were.
        """
        with self._lock:
            self._counters.send_failures += count
            by_reason[reason] += count
        self.add(reason, did, count=count)

    def add_replaced(self, did: Did, by_reason: Counter[Reason], count: int = 1) -> None:
        """Count messages of this node that newer ones have replaced. Any thread.

        The application has asked for that, perhaps a thousand times in a second. So these are no
        drops, and have no event.

        Args:
            did: Their recipient.
            by_reason: Counts the dropped messages to this recipient.
            count: How many there were.
        """
        with self._lock:
            self._counters.replaced += count
            by_reason[Reason.REPLACED] += count

    def _report_due(self) -> None:
        """Report the tallies that are due, and set a timer for the others. In the loop."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        with self._lock:
            self._reported_at = {
                key: at for key, at in self._reported_at.items() if now - at < INTERVAL
            }
            due = [key for key in self._waiting if key not in self._reported_at]
            reported = [(key, self._waiting.pop(key)) for key in due]
            self._reported_at.update(dict.fromkeys(due, now))
            # A copy, because `add()` of another thread may set it after the lock.
            is_look_due = self._is_look_due = bool(self._waiting)
            again = min((self._reported_at[key] for key in self._waiting), default=now) + INTERVAL
        for key, tally in reported:
            self._report(key, tally)
        if is_look_due:
            self._timer = loop.call_at(again, self._report_due)

    def log_closed(self, host: str, reason: Reason, fact: str) -> None:
        """Log that a connection was closed for a fault of the other side. In the loop."""
        extra = fields("connection closed", address=host, reason=reason)
        self._log.info("closed the connection from %s: %s (%s)", host, reason, fact, extra=extra)

    def flush(self) -> None:
        """Report all tallies that are left, as the node ends."""
        if self._timer is not None:
            self._timer.cancel()
        with self._lock:
            waiting, self._waiting = self._waiting, {}
        for key, tally in waiting.items():
            self._report(key, tally)

    def _report(self, key: _Key, tally: _Tally) -> None:
        count = tally.count
        event = Dropped(key.reason, key.did, key.source, count, tally.first_at, tally.last_at)
        self._events.put(event)
        self._log.logger.debug(  # without the rate limit of `EventLog`
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
