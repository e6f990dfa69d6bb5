"""Counters and snapshots.

`Counters` is what the transport counts in; the frozen dataclasses are what a
user gets. Counters only rise for the life of a transport; gauges say what is
the case now. `metrics.METRICS` describes each of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from signedwire.errors import FailureKind
from signedwire.metrics import (
    COUNTERS,
    HISTOGRAMS,
    NO_VALUES,
    Distribution,
    Histogram,
    SharedHistogram,
)
from signedwire.types import Credit, Did, PeerState, Priority, Reason, Target

if TYPE_CHECKING:
    from signedwire.delivery.store import Backlog, StoreStats

__all__ = [
    "Counters",
    "EvidenceHead",
    "EvidenceStats",
    "Health",
    "PeerStatus",
    "PoolStats",
    "Probe",
    "TransportStats",
]


@dataclass(frozen=True, kw_only=True, slots=True)
class TransportStats:
    """What a node or transport has done since it started."""

    # -- made from metrics.METRICS by `make docs`
    messages_sent: int = 0
    """Messages handed to the operating system on a connection that the peer had not closed. A
    message that is written twice counts twice."""
    messages_received: int = 0
    """Messages that passed every check and were queued for the application."""
    bytes_sent: int = 0
    """Bytes written to sockets. Over v2 these are TLS records, with handshakes, receipts and
    pings; over v1 the frames of messages. A message that is written twice counts twice."""
    bytes_received: int = 0
    """Bytes read from sockets, whatever became of them. Over v2 these are TLS records."""
    send_failures: int = 0
    """Messages of ours that failed. `dropped` has the reasons."""
    backpressure_events: int = 0
    """Messages refused at once because the queue to their peer was full."""
    rewritten: int = 0
    """Messages queued again because their connection broke before the peer's host had them."""
    dropped: Mapping[Reason, int] = field(default_factory=dict)
    """Everything that was dropped, by reason: messages of ours, and envelopes and connections of
    others. A reason that never occurred is absent."""
    inbox_messages: int = 0
    """Gauge. Messages received that the application has not taken yet."""
    dial_failures: int = 0
    """Attempts to connect that failed."""
    reconnections: int = 0
    """Connections made to an address that had been connected before."""
    evictions: int = 0
    """Idle connections closed to make room for a connection to another peer."""
    connections_accepted: int = 0
    """Inbound connections admitted, including those that proved no sender afterwards."""
    inbound_connections: int = 0
    """Gauge. Inbound connections now."""
    inbound_limit: int = 0
    """Gauge. The largest number of proven inbound connections: `max_inbound_connections`, or fewer
    where the process may open few descriptors."""
    outbound_connections: int = 0
    """Gauge. Outbound connections that are open or being opened now."""
    outbound_limit: int = 0
    """Gauge. The largest number of outbound connections: `max_connections`, or fewer where the
    process may open few descriptors."""
    accept_seconds: Distribution = NO_VALUES
    """Time from queueing a message to the peer's signed receipt, over v2. A sample: the first
    message of each receipt that arrives. Both times are of the wall clock."""
    handshake_seconds: Distribution = NO_VALUES
    """Time until a v2 link is open, from dialing or accepting the connection to the peer's
    HELLO."""
    round_trip_seconds: Distribution = NO_VALUES
    """Time from a PING over a v2 link to its PONG."""
    commit_seconds: Distribution = NO_VALUES
    """Time for one transaction of the store, from its first statement to its end. No values
    without a store."""
    # -- end
    store: StoreStats | None = None
    """Size, oldest message and commit times of the store; `None` without one."""
    evidence: EvidenceStats | None = None
    """Size and head of the evidence log; `None` without one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Health:
    """Whether a node can do its work now."""

    problems: tuple[str, ...] = ()
    """What is in the way, in words; empty: nothing."""

    @property
    def is_well(self) -> bool:
        """Whether nothing is in the way."""
        return not self.problems


@dataclass(frozen=True, kw_only=True, slots=True)
class PoolStats:
    """The pool of outbound connections."""

    active: int
    """Connections open or being opened now."""
    limit: int
    """`max_connections`, or fewer where the process may open few descriptors."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PeerStatus:
    """The health of one peer that we send to."""

    did: Did
    """The peer's DID."""
    wire: str | None
    """"v2" or "v1"; `None` while that is not known."""
    address: Target | None
    """Where its link goes; `None` until the first message found a route."""
    state: PeerState
    """What the link is doing."""
    since: float
    """When it entered this state: Unix time, seconds."""
    last_error: str | None
    """The last failure of this link in words; kept after it recovered."""
    last_error_kind: FailureKind | None = None
    """The kind of `last_error`, for programs; `None` where there is none."""
    last_error_at: float | None
    """When `last_error` happened: Unix time, seconds."""
    retry_at: float | None
    """While backing off: when the next attempt is due, Unix time, seconds."""
    round_trip: float | None
    """Seconds: over v2 between the last PING and its PONG, over v1 as the kernel measures it on
    the connection; `None` where nothing has been measured."""
    queued: Mapping[Priority, int]
    """Messages waiting, by lane."""
    stored: Backlog | None = None
    """How much waits for it in the store, in messages and bytes, those of `queued`
    included; `None` without a store."""
    in_flight: int
    """Messages written to it over v2 whose receipt has not come."""
    overdue: float | None = None
    """Seconds that the oldest of them has waited for its answer, once that is more than
    `ping_interval`; `None`: no answer is overdue. After `answer_timeout` the link is closed."""
    send_window: Credit | None
    """How much more it takes now: messages and bytes, the Critical lane apart; v2 only."""
    failed_attempts: int
    """Attempts to reach it that failed, ever."""
    dropped: Mapping[Reason, int]
    """Messages to it that were given up or refused, by reason."""
    denies_us: bool = False
    """Whether it turned us away when we were last linked or dialed it, as an access list does."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Probe:
    """What one attempt to reach a peer found: see `Node.probe()`."""

    did: Did
    """The DID that was looked for."""
    address: Target
    """The address that was tried."""
    wire: str | None = None
    """"v2": the peer proved its DID. "v1": somebody listens and keeps the connection, which
    proves nothing. `None`: neither."""
    answered_by: Did | None = None
    """The DID that was proven, also where it is another one; `None`: none was."""
    connect_time: float | None = None
    """Seconds until the connection was open, the lookup of the name included; `None`: it never
    was."""
    handshake_time: float | None = None
    """Seconds from there to the peer's HELLO: TLS, and both DIDs proven; v2 only."""
    round_trip: float | None = None
    """Seconds: with a key for probes alone from PING to PONG, else as the kernel measures it on
    the connection; `None`: it was not measured."""
    failure: FailureKind | None = None
    """Why the peer is not reached; `None`: it is."""
    error: str | None = None
    """Why the peer is not reached, in words; `None`: it is."""

    @property
    def is_reached(self) -> bool:
        """Whether the peer answered as its wire demands."""
        return self.failure is None

    @property
    def is_proven(self) -> bool:
        """Whether the DID that was looked for was proven."""
        return self.answered_by == self.did

    @property
    def denies_us(self) -> bool:
        """Whether the peer is there and its access list keeps out the key that was used."""
        return self.failure in (FailureKind.TURNED_AWAY, FailureKind.DENIED)


@dataclass(frozen=True, slots=True)
class EvidenceHead:
    """What stands for everything in an evidence log. `str()` is the hash: write it down."""

    records: int
    """Number of records in the log."""
    hash: str
    """The hash of the last record, and so of all: 64 hex digits."""

    def __str__(self) -> str:
        return self.hash


@dataclass(frozen=True, kw_only=True, slots=True)
class EvidenceStats:
    """An evidence log. Counters rise for the life of a node; gauges say what is now."""

    path: str
    """The path of the log's file."""
    head: EvidenceHead
    """What stands for everything that is on the disk."""
    size: int
    """Gauge: bytes of the file."""
    torn: int
    """Bytes that a crash had left behind the last whole record; they were cut off at the start."""
    waiting: int
    """Gauge: batches that wait to be written."""
    failure: str | None
    """Why it takes nothing more, and the node accepts nothing; `None`: it does."""

    @property
    def has_failed(self) -> bool:
        """Whether the log takes nothing more: `failure` says why."""
        return self.failure is not None


class Counters:
    """The live numbers behind `TransportStats`. One thread counts, but for `dropped`."""

    __slots__ = (*COUNTERS, "_histograms", "dropped")

    # The slots above, for readers and type checkers.
    backpressure_events: int
    bytes_received: int
    bytes_sent: int
    connections_accepted: int
    dial_failures: int
    evictions: int
    messages_received: int
    messages_sent: int
    reconnections: int
    rewritten: int
    send_failures: int

    def __init__(self) -> None:
        for name in COUNTERS:
            setattr(self, name, 0)
        self.dropped: Counter[Reason] = Counter()
        self._histograms = {
            metric.name: (SharedHistogram if metric.is_shared else Histogram)(metric.buckets)
            for metric in HISTOGRAMS
        }

    def observe(self, name: str, value: float) -> None:
        """Count one value in a histogram; a negative value is left out.

        The thread that counts calls it. Any other thread may call it for a metric that
        `is_shared`, which costs a lock.

        Args:
            name: The name of a metric of the kind histogram.
            value: In the metric's unit.

        Raises:
            KeyError: there is no such histogram.
        """
        self._histograms[name].observe(value)

    def snapshot(
        self,
        *,
        inbound_connections: int,
        inbound_limit: int,
        inbox_messages: int,
        outbound_connections: int,
        outbound_limit: int,
        evidence: EvidenceStats | None,
    ) -> TransportStats:
        """The numbers now, frozen. Any thread."""
        values: dict[str, Any] = {name: getattr(self, name) for name in COUNTERS}
        values |= {name: histogram.read() for name, histogram in self._histograms.items()}
        return TransportStats(
            **values,
            dropped=dict(self.dropped),
            inbound_connections=inbound_connections,
            inbound_limit=inbound_limit,
            inbox_messages=inbox_messages,
            outbound_connections=outbound_connections,
            outbound_limit=outbound_limit,
            evidence=evidence,
        )
