"""Statistics: `Counters`, in which a node counts, and the snapshots that users get.

A counter only rises while the node lives; a gauge is a number at one instant.
`metrics.METRICS` describes each of them. Snapshots are immutable; any thread may read them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, TypeVar, overload

from signedwire.errors import DidError, FailureKind
from signedwire.metrics import (
    COUNTERS,
    HISTOGRAMS,
    NO_VALUES,
    Distribution,
    Histogram,
    SharedHistogram,
)
from signedwire.names import Names
from signedwire.types import Credit, Did, PeerState, Priority, Reason, Target

if TYPE_CHECKING:
    from signedwire.delivery.store import Backlog, StoreStats

__all__ = [
    "Counters",
    "EvidenceHead",
    "EvidenceStats",
    "Health",
    "PeerMap",
    "PeerStatus",
    "PoolStats",
    "Probe",
    "TransportStats",
]

_NO_NAMES: Final = Names()

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class TransportStats:
    """Counters and gauges of a node, counted since its start: see `Node.stats()`."""

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
    """Bytes read from sockets, including those of dropped frames. Over v2 these are TLS
    records."""
    send_failures: int = 0
    """Messages of this node that failed. `dropped` has the reasons."""
    backpressure_events: int = 0
    """Messages refused at once because the queue to their peer or the store was full, or too many
    messages waited for a commit."""
    rewritten: int = 0
    """Messages queued again because their connection broke before the peer's host had acknowledged
    them."""
    replaced: int = 0
    """Messages of this node that a newer one with the same `latest` key has replaced in the queue.
    They count neither as failures nor as dropped."""
    dropped: Mapping[Reason, int] = field(default_factory=dict)
    """Everything that was dropped, by reason: messages of this node, and envelopes and connections
    of others. A reason that never occurred is absent."""
    inbox_messages: int = 0
    """Gauge. Received messages that the application has not taken yet."""
    subscriptions_refused: int = 0
    """Requests of peers to subscribe that this node refused: too many, or malformed."""
    publications_replaced: int = 0
    """Unread messages of subscriptions with `latest` that a newer one has replaced."""
    dial_failures: int = 0
    """Attempts to connect that failed."""
    reconnections: int = 0
    """Connections to an address to which this node was connected before."""
    evictions: int = 0
    """Idle connections closed to make room for a connection to another peer."""
    connections_accepted: int = 0
    """Inbound connections that were admitted, including those that never proved a sender."""
    inbound_connections: int = 0
    """Gauge. Inbound connections that are open now."""
    inbound_limit: int = 0
    """Gauge. Maximum number of proven inbound connections: `max_inbound_connections`, or fewer if
    the process may open few descriptors."""
    outbound_connections: int = 0
    """Gauge. Outbound connections that are open or being opened now."""
    outbound_limit: int = 0
    """Gauge. Maximum number of outbound connections: `max_connections`, or fewer if the process
    may open few descriptors."""
    accept_seconds: Distribution = NO_VALUES
    """Time from queueing a message to the peer's signed receipt, over v2. Measured for the first
    message of each receipt frame, by the wall clock."""
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
    """Size, oldest message and commit times of the store; `None` without a store."""
    evidence: EvidenceStats | None = None
    """Size and head of the evidence log; `None` without a log."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Health:
    """Whether a node can do its work now: see `Node.health()`."""

    problems: tuple[str, ...] = ()
    """Each problem as text for people. Empty if there is none."""

    @property
    def is_well(self) -> bool:
        """Whether the node has no problem."""
        return not self.problems


@dataclass(frozen=True, kw_only=True, slots=True)
class PoolStats:
    """Number of outbound connections, and its limit: see `Node.pool_stats()`."""

    active: int
    """Number of outbound connections that are open or being opened."""
    limit: int
    """Maximum of `active`: `max_connections`, or less if the process may open few descriptors."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PeerStatus:
    """Status of one peer: see `Node.peers()`. A time stamp is Unix time in seconds."""

    did: Did
    """The DID of the peer."""
    wire: str | None
    """The wire protocol of the peer, "v2" or "v1"; `None` while it is unknown."""
    address: Target | None
    """The address of the other end of the link; `None` until a first route was found."""
    state: PeerState
    """The state of the link."""
    since: float
    """Time at which the link entered `state`."""
    last_error: str | None
    """The last failure of a link to the peer, as text for people. A later success keeps it."""
    last_error_kind: FailureKind | None = None
    """The kind of `last_error`, for programs; `None` if there was no failure."""
    last_error_at: float | None
    """Time of `last_error`."""
    retry_at: float | None
    """Time of the next attempt to connect, in state "backing off"; else `None`."""
    round_trip: float | None
    """Round-trip time in seconds: over v2 of the last PING, over v1 as the kernel measures it on
    the connection. `None` if it was not measured."""
    clock_offset: float | None = None
    """How far the wall clock of the peer is from ours, in seconds, measured with PING over v2;
    positive if the clock of the peer is ahead. `None` if it was not measured in the last five
    minutes, or if one of the clocks was set since."""
    clock_offset_bound: float | None = None
    """By how many seconds `clock_offset` may be wrong, at most; `None` if that is `None`."""
    queued: Mapping[Priority, int]
    """Number of messages that wait in memory to be sent to the peer, by lane."""
    stored: Backlog | None = None
    """Number and bytes of the messages that wait in the store to be sent to the peer, including
    those of `queued`; `None` without a store."""
    in_flight: int
    """Number of messages written to the peer over v2 that have no receipt yet."""
    overdue: float | None = None
    """Seconds that the oldest message in flight has waited for its answer, if that is more than
    `ping_interval`; else `None`. After `answer_timeout` the node closes the link."""
    rate: float | None = None
    """Bytes per second that the path to the peer carries, as the peer reads them; v2 only. `None`
    until so much was sent that the path was full."""
    window: int | None = None
    """Bytes of messages that may be under way to the peer now; v2 only. See "Slow links"."""
    bytes_in_flight: int | None = None
    """Bytes of messages that were written and that the peer has not read yet; v2 only."""
    least_round_trip: float | None = None
    """The shortest round trip of the link lately, in seconds; v2 only. `None` if not measured."""
    credit: tuple[Credit, ...] | None = field(repr=False)
    """Messages and bytes that the peer accepts now, of durable messages from Low to Critical, then
    of volatile ones; v2 only. `None` without an open v2 link."""
    failed_attempts: int
    """Number of failed attempts to connect since the start of the node."""
    dropped: Mapping[Reason, int]
    """Number of messages to the peer that were given up or refused, by reason."""
    denies_us: bool = False
    """Whether the peer turned this node away at the last link or attempt to connect, as an access
    list does."""


class PeerMap(dict[Did, PeerStatus]):
    """The status of each peer, by DID: see `Node.peers()`.

    A key in `peers[key]`, `peers.get(key)` and `key in peers` is a `Did`, its text, or a name of
    the node. Any other text raises `DidError`, and with `in` it is `False`.
    """

    __slots__ = ("_names",)

    def __init__(self, peers: Mapping[Did, PeerStatus], names: Names = _NO_NAMES) -> None:
        super().__init__(peers)
        self._names = names

    def __getitem__(self, key: Did | str, /) -> PeerStatus:
        return super().__getitem__(self._parsed(key))

    def __contains__(self, key: object) -> bool:
        try:
            return super().__contains__(self._parsed(key))
        except DidError:
            return False

    @overload
    def get(self, key: Did | str, default: None = None, /) -> PeerStatus | None: ...

    @overload
    def get(self, key: Did | str, default: PeerStatus, /) -> PeerStatus: ...

    @overload
    def get(self, key: Did | str, default: T, /) -> PeerStatus | T: ...

    def get(self, key: Did | str, default: object = None, /) -> object:
        """Return the status of a peer, or `default` if there is none."""
        return super().get(self._parsed(key), default)

    @overload
    def _parsed(self, key: Did | str) -> Did: ...

    @overload
    def _parsed(self, key: object) -> object: ...

    def _parsed(self, key: object) -> object:
        return self._names.did_of(key) if isinstance(key, str) else key


@dataclass(frozen=True, kw_only=True, slots=True)
class Probe:
    """Result of one attempt to reach a peer: see `Node.probe()`."""

    did: Did
    """The DID of the peer that the probe tried to reach."""
    address: Target
    """The address that the probe connected to."""
    wire: str | None = None
    """The wire protocol. With "v2", a DID was proven. With "v1", something accepts connections and
    keeps them open, which proves nothing. `None` if the probe found neither."""
    answered_by: Did | None = None
    """The DID that the other end proved, which may differ from `did`; `None` if it proved none."""
    connect_time: float | None = None
    """Seconds until the connection was open, including the lookup of the host name; `None` if it
    was never open."""
    handshake_time: float | None = None
    """Seconds from the open connection to the peer's HELLO, which includes TLS; v2 only."""
    round_trip: float | None = None
    """Round-trip time in seconds: with `as_stranger` of a PING, else as the kernel measures it on
    the connection. `None` if it was not measured."""
    clock_offset: float | None = None
    """How far the wall clock of the peer is from ours, in seconds, with `as_stranger` over v2;
    positive if the clock of the peer is ahead. `None` if it was not measured."""
    clock_offset_bound: float | None = None
    """By how many seconds `clock_offset` may be wrong, at most; `None` if that is `None`."""
    failure: FailureKind | None = None
    """Why the peer was not reached, for programs; `None` if it was reached."""
    error: str | None = None
    """Why the peer was not reached, as text for people; `None` if it was reached."""

    @property
    def is_reached(self) -> bool:
        """Whether the peer was reached: over v2 it proved `did`, over v1 it kept the connection."""
        return self.failure is None

    @property
    def is_proven(self) -> bool:
        """Whether the other end proved `did`."""
        return self.answered_by == self.did

    @property
    def denies_us(self) -> bool:
        """Whether the peer was found, and turned away the key that the probe used."""
        return self.failure in (FailureKind.TURNED_AWAY, FailureKind.DENIED)


@dataclass(frozen=True, slots=True)
class EvidenceHead:
    """Number and hash of the newest record, which fix all records. `str()` returns the hash."""

    records: int
    """Number of records in the log."""
    hash: str
    """Hash of the newest record, which covers all earlier ones: 64 hex digits."""

    def __str__(self) -> str:
        return self.hash


@dataclass(frozen=True, kw_only=True, slots=True)
class EvidenceStats:
    """State of an evidence log: see `TransportStats.evidence`."""

    path: str
    """Path of the file."""
    head: EvidenceHead
    """Number and hash of the newest record that is on the disk."""
    size: int
    """Size of the file in bytes."""
    torn: int
    """Bytes of an incomplete last record after a crash, which the start removed."""
    waiting: int
    """Number of batches that wait to be written."""
    failure: str | None
    """Why the log has failed, as text for people; `None` if it has not. A node whose log has
    failed accepts no messages."""

    @property
    def has_failed(self) -> bool:
        """Whether the log has failed; `failure` has the cause."""
        return self.failure is not None


class Counters:
    """The numbers that a node counts in.

    Only its event loop changes them, except `dropped`, `backpressure_events`, `send_failures` and
    `replaced`: any thread may change these four, with the lock of `Drops`.
    """

    __slots__ = (*COUNTERS, "_histograms", "dropped")

    # The types of the slots.
    backpressure_events: int
    bytes_received: int
    bytes_sent: int
    connections_accepted: int
    dial_failures: int
    evictions: int
    messages_received: int
    messages_sent: int
    publications_replaced: int
    reconnections: int
    replaced: int
    rewritten: int
    send_failures: int
    subscriptions_refused: int

    def __init__(self) -> None:
        for name in COUNTERS:
            setattr(self, name, 0)
        self.dropped: Counter[Reason] = Counter()
        self._histograms = {
            metric.name: (SharedHistogram if metric.is_shared else Histogram)(metric.buckets)
            for metric in HISTOGRAMS
        }

    def observe(self, name: str, value: float) -> None:
        """Count one value in a histogram. A negative value is ignored.

        Call it in the event loop of the node; for a metric with `is_shared`, any thread may.

        Args:
            name: The name of a metric of the kind histogram.
            value: The value in the unit of the metric.

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
        """Return the counters now, with the gauges that are passed. Any thread may call this."""
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
