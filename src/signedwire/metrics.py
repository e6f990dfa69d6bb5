"""Metrics: the table that describes each of them, and the histograms that count values.

`METRICS` is the table. The slots of `Counters`, the fields of `TransportStats`, the page
docs/metrics.md and `Node.metrics()` are made from it. To add a metric, add a row here and
run `make docs`.

A histogram has fixed buckets, so that its memory does not grow.
"""

from __future__ import annotations

import enum
import math
import threading
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate
from typing import Final, NamedTuple

__all__ = [
    "COUNTERS",
    "HISTOGRAMS",
    "METRICS",
    "NO_VALUES",
    "Distribution",
    "Histogram",
    "Metric",
    "MetricKind",
    "Sample",
    "SharedHistogram",
    "samples_of",
]


class MetricKind(enum.StrEnum):
    """How a metric changes: `COUNTER`, `GAUGE` or `HISTOGRAM`."""

    COUNTER = "counter"
    """A number that only rises while the node lives."""
    GAUGE = "gauge"
    """A number at one instant, which rises and falls."""
    HISTOGRAM = "histogram"
    """Number of observed values of each size: a `Distribution`."""


@dataclass(frozen=True, slots=True)
class Metric:
    """The description of one metric: name, kind, unit, help, and where its value is."""

    name: str
    """Lower case and underscores, unique, without a prefix."""
    kind: MetricKind
    """How it changes."""
    unit: str
    """Unit in the plural, such as "seconds" or "messages"."""
    help: str
    """The meaning in words, on one line."""
    field: str = ""
    """Path of the value in `TransportStats`, such as `store.commits`; by default `name`."""
    label: str = ""
    """Name of the label, if there is a number for each value of a label; else empty."""
    buckets: tuple[float, ...] = ()
    """Largest value of each bucket of a histogram, rising. One more bucket has larger values."""
    is_shared: bool = False
    """Whether several threads observe values of the histogram."""


@dataclass(frozen=True, slots=True)
class Distribution:
    """The content of a histogram at one instant."""

    buckets: tuple[tuple[float, int], ...] = ((math.inf, 0),)
    """Pairs of a bound and the number of values up to that bound; the last bound is infinite."""
    sum: float = 0.0
    """The sum of all values. A value that was being observed at that instant may be missing."""

    @property
    def count(self) -> int:
        """The number of values."""
        return self.buckets[-1][1]

    def __repr__(self) -> str:
        return f"<Distribution of {self.count} values, sum {self.sum:g}>"


NO_VALUES: Final = Distribution()
"""The content of a histogram before the first value."""


class Sample(NamedTuple):
    """One value of a metric."""

    metric: Metric
    """The metric that has this value."""
    labels: Mapping[str, str]
    """The label if the metric has one; else empty."""
    value: float | Distribution
    """A number, or the distribution of a histogram."""


class Histogram:
    """Counts values by size. One thread at a time observes; any thread reads.

    Args:
        buckets: The largest value of each bucket, rising.
    """

    __slots__ = ("_bounds", "_counts", "_sum")

    def __init__(self, buckets: tuple[float, ...]) -> None:
        self._bounds = buckets
        self._counts = [0] * (len(buckets) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        """Count one value. Ignore a negative one, which comes from a clock that was set back."""
        if 0 <= value < math.inf:
            self._counts[bisect_left(self._bounds, value)] += 1
            self._sum += value

    def read(self) -> Distribution:
        """Return the content now. Any thread."""
        # The copy of a list is one step of the interpreter: no value is counted meanwhile.
        counts = accumulate(self._counts.copy())
        return Distribution(tuple(zip((*self._bounds, math.inf), counts, strict=True)), self._sum)


class SharedHistogram(Histogram):
    """A `Histogram` that any thread may observe at any time."""

    __slots__ = ("_lock",)

    def __init__(self, buckets: tuple[float, ...]) -> None:
        super().__init__(buckets)
        self._lock = threading.Lock()

    def observe(self, value: float) -> None:
        """See `Histogram`."""
        with self._lock:
            super().observe(value)


_COUNTER, _GAUGE, _HISTOGRAM = MetricKind.COUNTER, MetricKind.GAUGE, MetricKind.HISTOGRAM

_FINE: Final = (
    *(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05),
    *(0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
)
"""Bounds of buckets in seconds: from 0.1 ms, three for each power of ten."""
_LONG: Final = (*_FINE, 30.0, 60.0, 300.0, 1800.0, 3600.0, 21600.0, 86400.0)
"""Bounds of buckets in seconds, up to one day, because a stored message may wait long."""

METRICS: Final[tuple[Metric, ...]] = (
    # -- messages and bytes
    Metric(
        "messages_sent",
        _COUNTER,
        "messages",
        "Messages handed to the operating system on a connection that the peer had not closed. "
        "A message that is written twice counts twice.",
    ),
    Metric(
        "messages_received",
        _COUNTER,
        "messages",
        "Messages that passed every check and were queued for the application.",
    ),
    Metric(
        "bytes_sent",
        _COUNTER,
        "bytes",
        "Bytes written to sockets. Over v2 these are TLS records, with handshakes, receipts and "
        "pings; over v1 the frames of messages. A message that is written twice counts twice.",
    ),
    Metric(
        "bytes_received",
        _COUNTER,
        "bytes",
        "Bytes read from sockets, including those of dropped frames. Over v2 these are TLS "
        "records.",
    ),
    Metric(
        "send_failures",
        _COUNTER,
        "messages",
        "Messages of this node that failed. `dropped` has the reasons.",
    ),
    Metric(
        "backpressure_events",
        _COUNTER,
        "messages",
        "Messages refused at once because the queue to their peer or the store was full, or too "
        "many messages waited for a commit.",
    ),
    Metric(
        "rewritten",
        _COUNTER,
        "messages",
        "Messages queued again because their connection broke before the peer's host had "
        "acknowledged them.",
    ),
    Metric(
        "replaced",
        _COUNTER,
        "messages",
        "Messages of this node that a newer one with the same `latest` key has replaced in the "
        "queue. They count neither as failures nor as dropped.",
    ),
    Metric(
        "dropped",
        _COUNTER,
        "drops",
        "Everything that was dropped, by reason: messages of this node, and envelopes and "
        "connections of others. A reason that never occurred is absent.",
        label="reason",
    ),
    Metric(
        "inbox_messages",
        _GAUGE,
        "messages",
        "Received messages that the application has not taken yet.",
    ),
    # -- topics
    Metric(
        "subscriptions_refused",
        _COUNTER,
        "subscriptions",
        "Requests of peers to subscribe that this node refused: too many, or malformed.",
    ),
    Metric(
        "publications_replaced",
        _COUNTER,
        "messages",
        "Unread messages of subscriptions with `latest` that a newer one has replaced.",
    ),
    # -- connections
    Metric("dial_failures", _COUNTER, "attempts", "Attempts to connect that failed."),
    Metric(
        "reconnections",
        _COUNTER,
        "connections",
        "Connections to an address to which this node was connected before.",
    ),
    Metric(
        "evictions",
        _COUNTER,
        "connections",
        "Idle connections closed to make room for a connection to another peer.",
    ),
    Metric(
        "connections_accepted",
        _COUNTER,
        "connections",
        "Inbound connections that were admitted, including those that never proved a sender.",
    ),
    Metric("inbound_connections", _GAUGE, "connections", "Inbound connections that are open now."),
    Metric(
        "inbound_limit",
        _GAUGE,
        "connections",
        "Maximum number of proven inbound connections: `max_inbound_connections`, or fewer if the "
        "process may open few descriptors.",
    ),
    Metric(
        "outbound_connections",
        _GAUGE,
        "connections",
        "Outbound connections that are open or being opened now.",
    ),
    Metric(
        "outbound_limit",
        _GAUGE,
        "connections",
        "Maximum number of outbound connections: `max_connections`, or fewer if the process may "
        "open few descriptors.",
    ),
    # -- times
    Metric(
        "accept_seconds",
        _HISTOGRAM,
        "seconds",
        "Time from queueing a message to the peer's signed receipt, over v2. Measured for "
        "the first message of each receipt frame, by the wall clock.",
        buckets=_LONG,
    ),
    Metric(
        "handshake_seconds",
        _HISTOGRAM,
        "seconds",
        "Time until a v2 link is open, from dialing or accepting the connection to the peer's "
        "HELLO.",
        buckets=_FINE,
    ),
    Metric(
        "round_trip_seconds",
        _HISTOGRAM,
        "seconds",
        "Time from a PING over a v2 link to its PONG.",
        buckets=_FINE,
    ),
    Metric(
        "commit_seconds",
        _HISTOGRAM,
        "seconds",
        "Time for one transaction of the store, from its first statement to its end. No values "
        "without a store.",
        buckets=_FINE,
        is_shared=True,
    ),
    # -- the store
    Metric(
        "store_outbox_messages",
        _GAUGE,
        "messages",
        "Outgoing messages in the store that have no answer.",
        "store.outbox.rows",
    ),
    Metric(
        "store_outbox_bytes",
        _GAUGE,
        "bytes",
        "The size of the outgoing messages in the store that have no answer.",
        "store.outbox.bytes",
    ),
    Metric(
        "store_oldest_queued_at_seconds",
        _GAUGE,
        "seconds",
        "Unix time at which the oldest outgoing message in the store was queued; absent if the "
        "store has none. The value may be one second old.",
        "store.oldest_queued_at",
    ),
    Metric(
        "store_unmet_messages",
        _GAUGE,
        "messages",
        "Outgoing messages in the store to peers that have no route and no link.",
        "store.unmet.rows",
    ),
    Metric(
        "store_unmet_bytes",
        _GAUGE,
        "bytes",
        "The size of the outgoing messages in the store to peers that have no route and no link.",
        "store.unmet.bytes",
    ),
    Metric("store_dead_messages", _GAUGE, "messages", "Dead letters.", "store.dead.rows"),
    Metric(
        "store_dead_bytes", _GAUGE, "bytes", "The size of the dead letters.", "store.dead.bytes"
    ),
    Metric(
        "store_inbox_messages",
        _GAUGE,
        "messages",
        "Accepted messages in the store that the application has not acknowledged.",
        "store.inbox.rows",
    ),
    Metric(
        "store_inbox_bytes",
        _GAUGE,
        "bytes",
        "The size of the accepted messages in the store that the application has not acknowledged.",
        "store.inbox.bytes",
    ),
    Metric(
        "store_expired",
        _COUNTER,
        "messages",
        "Outgoing messages removed from the store because their deadline passed.",
        "store.expired",
    ),
    Metric(
        "store_aged_out",
        _COUNTER,
        "messages",
        "Outgoing messages that became dead letters because they waited too long for a peer "
        "that has no route and no link.",
        "store.aged_out",
    ),
    Metric(
        "store_dead_letters_dropped",
        _COUNTER,
        "messages",
        "Dead letters removed to make room for newer ones.",
        "store.dead_letters_dropped",
    ),
    Metric(
        "store_commits",
        _COUNTER,
        "transactions",
        "Transactions that the store committed.",
        "store.commits",
    ),
    Metric(
        "store_waiting_operations",
        _GAUGE,
        "operations",
        "Operations that wait for the next transaction of the store.",
        "store.waiting_operations",
    ),
    Metric(
        "store_failed",
        _GAUGE,
        "stores",
        "1 if the store has failed, so that the node accepts and stores nothing; else 0.",
        "store.has_failed",
    ),
    # -- the evidence log
    Metric(
        "evidence_records",
        _GAUGE,
        "records",
        "Records of the evidence log that are on the disk.",
        "evidence.head.records",
    ),
    Metric("evidence_bytes", _GAUGE, "bytes", "The size of the evidence log.", "evidence.size"),
    Metric(
        "evidence_torn_bytes",
        _GAUGE,
        "bytes",
        "Bytes of an incomplete last record after a crash, which the start removed.",
        "evidence.torn",
    ),
    Metric(
        "evidence_waiting_batches",
        _GAUGE,
        "batches",
        "Batches that wait to be written to the evidence log.",
        "evidence.waiting",
    ),
    Metric(
        "evidence_failed",
        _GAUGE,
        "logs",
        "1 if the evidence log has failed, so that the node accepts nothing; else 0.",
        "evidence.has_failed",
    ),
)
"""Every metric of a node, in the order of the documentation."""

COUNTERS: Final = tuple(
    metric.name
    for metric in METRICS
    if metric.kind is MetricKind.COUNTER and not (metric.field or metric.label)
)
"""Names of the metrics that are attributes of `Counters`."""

HISTOGRAMS: Final = tuple(metric for metric in METRICS if metric.kind is MetricKind.HISTOGRAM)
"""The metrics that have a `Histogram`."""


def samples_of(stats: object) -> Iterator[Sample]:
    """Yield the value of each metric in a `TransportStats`, in the order of `METRICS`.

    Metrics that are `None` there are left out, such as those of a store if there is none.
    """
    for metric in METRICS:
        value = stats
        for name in (metric.field or metric.name).split("."):
            value = getattr(value, name)
            if value is None:
                break
        if isinstance(value, Mapping):
            for key, number in value.items():
                yield Sample(metric, {metric.label: str(key)}, number)
        elif isinstance(value, Distribution):
            yield Sample(metric, {}, value)
        elif isinstance(value, (int, float)):
            yield Sample(metric, {}, +value)
