"""Types of the arguments and results of a store."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol, TypeAlias

from signedwire.errors import StoreError
from signedwire.types import Did, Kind, PayloadType, Priority, Reason
from signedwire.wire.batch import batch_root
from signedwire.wire.envelope import MerklePath, SignedEnvelope
from signedwire.wire.header import (
    PAYLOAD_TYPE,
    PRIORITY,
    epoch_of,
    expiry_of,
    kind_of,
    message_id_of,
    payload_start,
    sequence_of,
    subject_of,
    timestamp_of,
)
from signedwire.wire.session import BatchReceived

__all__ = [
    "Backlog",
    "DeadLetter",
    "Draft",
    "IncomingRow",
    "MAX_ROW",
    "Marks",
    "ALL_ACCEPTED",
    "Unaccepted",
    "OutgoingRow",
    "ROW_BITS",
    "RememberedLeaves",
    "RowName",
    "StoreLimits",
    "StoreStats",
    "OnCommit",
]

OnCommit: TypeAlias = Callable[[StoreError | None], None]
"""A callback for the end of an operation: gets `None` after its commit, else the error."""

ROW_BITS: Final = 40
"""An outgoing row has the id peer (21 bits) ‖ lane (2) ‖ row (40). So each lane is a range
of ids in order, and new rows are appended at one place of the B-tree."""
MAX_ROW: Final = 2**ROW_BITS - 1
_U64: Final = struct.Struct("<Q")


class Draft(Protocol):
    """A message that has no number yet, such as an `OutgoingMessage`."""

    body: bytes
    """Header and payload, set by `number()`."""
    row: int
    """Number of the row in the lane, set by the store."""

    @property
    def priority(self) -> Priority:
        """The lane."""

    @property
    def size(self) -> int:
        """Size of header and payload in bytes, before and after numbering."""

    def number(self, parties: bytes, epoch: int, sequence: int) -> None:
        """Set the sequence in the lane, and make `body`."""


class RowName(NamedTuple):
    """The name of an outgoing message: recipient, lane and number of the row."""

    recipient: Did
    lane: int
    row: int


class OutgoingRow(NamedTuple):
    """An outgoing message without a final answer."""

    id: int
    """Id of the row within the store."""
    recipient: Did
    """The DID of the recipient."""
    body: bytes
    """Header and payload as they are sent: the same bytes each time."""
    is_written: bool
    """Whether the message has been handed to a link at least once."""
    attempts: int
    """Number of failed attempts to reach the recipient since the last success."""
    last_error: str | None
    """The error of the last failed attempt, as text."""

    @property
    def lane(self) -> int:
        """The lane: the number of the priority, 0 to 3."""
        return self.body[PRIORITY]

    @property
    def priority(self) -> Priority:
        """The priority of the message."""
        return Priority(self.body[PRIORITY])

    @property
    def payload_type(self) -> PayloadType:
        """The declared type of the payload."""
        return PayloadType(self.body[PAYLOAD_TYPE])

    @property
    def row(self) -> int:
        """Number of the row in the lane, from 1."""
        return self.id & MAX_ROW

    @property
    def sequence(self) -> int:
        """Sequence number of the message in the lane, as it is on the wire."""
        return sequence_of(self.body)

    @property
    def subject(self) -> str:
        """The subject; may be empty."""
        return subject_of(self.body)

    @property
    def message_id(self) -> str:
        """The id of the message, as on the receipt: 32 hex digits."""
        return message_id_of(self.body).hex()

    @property
    def epoch(self) -> int:
        """Our epoch, within which the sequence counts."""
        return epoch_of(self.body)

    @property
    def queued_at_us(self) -> int:
        """When the message was queued: Unix time, microseconds."""
        return timestamp_of(self.body)

    @property
    def expires_at_us(self) -> int | None:
        """The deadline: Unix time, microseconds; `None`: the message waits for ever."""
        return expiry_of(self.body)

    @property
    def payload(self) -> bytes:
        """The payload: the bytes behind the header."""
        return self.body[payload_start(self.body) :]

    def __repr__(self) -> str:
        # Without the body, because payloads do not belong in a log.
        error = f", last error: {self.last_error}" if self.last_error else ""
        return (
            f"<OutgoingRow {self.id} {self.message_id[:8]} to {self.recipient.short} "
            f"{len(self.payload)} bytes, {self.attempts} attempts{error}>"
        )


class DeadLetter(NamedTuple):
    """A message that was refused or given up, and is kept for the operator."""

    id: int
    """Id of the dead letter within the store, for the methods of `node.dead`."""
    recipient: Did
    """The DID of the recipient."""
    body: bytes
    """Header and payload, as they were to be sent."""
    reason: Reason
    """Why the message was refused or given up."""
    detail: str
    """The last error as text; may be empty."""
    died_at_us: int
    """When the message became a dead letter: Unix time, microseconds."""

    @property
    def priority(self) -> Priority:
        """The priority of the message."""
        return Priority(self.body[PRIORITY])

    @property
    def payload_type(self) -> PayloadType:
        """The declared type of the payload."""
        return PayloadType(self.body[PAYLOAD_TYPE])

    @property
    def kind(self) -> Kind:
        """The kind of the message."""
        return kind_of(self.body)

    @property
    def subject(self) -> str:
        """The subject; may be empty."""
        return subject_of(self.body)

    @property
    def message_id(self) -> str:
        """The id of the message, as on the receipt: 32 hex digits."""
        return message_id_of(self.body).hex()

    @property
    def queued_at_us(self) -> int:
        """When the message was queued: Unix time, microseconds."""
        return timestamp_of(self.body)

    @property
    def expires_at_us(self) -> int | None:
        """The deadline: Unix time, microseconds; `None`: the message had none."""
        return expiry_of(self.body)

    @property
    def payload(self) -> bytes:
        """The payload: the bytes behind the header."""
        return self.body[payload_start(self.body) :]

    def __repr__(self) -> str:
        detail = f" ({self.detail})" if self.detail else ""
        return (
            f"<DeadLetter {self.id} {self.message_id[:8]} to {self.recipient.short} "
            f"{len(self.payload)} bytes: {self.reason}{detail}>"
        )


class IncomingRow(NamedTuple):
    """An accepted message that the application has not acknowledged."""

    id: int
    """Id of the row, for `Store.acked()`."""
    sender: Did
    body: bytes
    place: int
    """Index of the message in its batch, from 0."""
    leaves: list[bytes]
    """Leaves of the whole batch; rows of one batch share the list."""
    signature: bytes
    """Signature over the batch."""
    copy: MerklePath | None = None
    """The path of a copy, of which `leaves` are not the whole tree; `None`: it is no copy."""

    @property
    def expires_at_us(self) -> int | None:
        """The deadline: Unix time, microseconds; `None`: the message has none."""
        return expiry_of(self.body)

    @property
    def envelope(self) -> SignedEnvelope:
        """The envelope as it arrived, with its signature."""
        path = self.copy or MerklePath(
            self.place, len(self.leaves), self.signature, leaves=self.leaves
        )
        return SignedEnvelope(self.body, path)

    @property
    def seal(self) -> BatchReceived | MerklePath:
        """The batch without its bodies, or the path of a copy.

        `IncomingMessage` takes it with the body and the place.
        """
        return self.copy or BatchReceived(
            [], batch_root(bytes(self.sender), self.leaves), self.leaves, self.signature
        )


class Marks(NamedTuple):
    """The highest sequences accepted from a sender, for our HELLO to it."""

    epoch: int
    """The epoch of the sender; 0: none is known."""
    lanes: tuple[int, int, int, int]
    """The highest accepted sequence of each lane; 0: none."""


class RememberedLeaves(NamedTuple):
    """A sender's last envelopes by their answers; see `Store.leaves()`."""

    accepted: tuple[list[bytes], list[bytes], list[bytes], list[bytes]]
    """Accepted envelopes by lane, oldest first; a repeated one gets a receipt again."""
    late: list[bytes]
    """Envelopes at or below the mark that were refused because they came too late."""
    not_stored: list[bytes]
    """Envelopes at or below the mark that were refused because there was no room."""


class Unaccepted(NamedTuple):
    """Indices of the envelopes of a batch that were not accepted."""

    late: Sequence[int] = ()
    """Envelopes that came too late; the marks have passed them."""
    not_stored: Sequence[int] = ()
    """Envelopes for which there was no room; the marks have passed them."""
    invalid: Sequence[int] = ()
    """All other refused envelopes, which are not remembered."""


ALL_ACCEPTED: Final = Unaccepted()


class Backlog(NamedTuple):
    """Number and size of waiting messages."""

    rows: int
    """Number of messages."""
    bytes: int
    """Bytes of their headers and payloads."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StoreLimits:
    """Limits of a store. Sizes are in bytes of headers and payloads."""

    max_rows: int = 2_000_000
    """Maximum number of outgoing messages."""
    max_bytes: int = 4 * 1024**3
    """Maximum size of all outgoing messages."""
    max_peer_rows: int = 1_000_000
    """Maximum number of outgoing messages to one peer."""
    max_peer_bytes: int = 1024**3
    """Maximum size of the outgoing messages to one peer."""
    max_unmet_peer_rows: int = 10_000
    """Maximum number of outgoing messages to one unmet peer: without a route, never linked."""
    max_unmet_peer_bytes: int = 64 * 1024**2
    """Maximum size of the outgoing messages to one unmet peer."""
    max_unmet_bytes: int = 1024**3
    """Maximum size of the outgoing messages to all unmet peers together."""
    max_unmet_age: float = 7 * 86_400.0
    """Seconds that a message to an unmet peer waits before it becomes a dead letter."""
    critical_reserve: int = 64
    """Number of messages that only Critical may add to each limit on outgoing messages above.
    A limit in bytes grows by 64 KiB for each of them."""
    max_dead_rows: int = 100_000
    """Maximum number of dead letters; above it, the oldest is removed and counted."""
    max_dead_bytes: int = 256 * 1024**2
    """Maximum size of all dead letters; above it, the oldest is removed and counted."""
    max_inbox_rows: int = 100_000
    """Maximum number of accepted messages without an acknowledgement of the application."""
    max_inbox_bytes: int = 1024**3
    """Maximum size of accepted messages without an acknowledgement of the application."""
    max_inbox_peer_rows: int = 50_000
    """Maximum number of unacknowledged messages held for one sender."""
    max_peers: int = 100_000
    """Maximum number of peers. Above it, the store forgets peers that were never sent a message,
    least recently heard first: anybody can make keys."""
    max_sender_leaves: int = 8192
    """Maximum number of remembered leaves of one sender; at least the messages of its credit."""
    max_leaves: int = 512 * 1024
    """Maximum number of remembered leaves of all senders; above it, the oldest are forgotten."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StoreStats:
    """A snapshot of a store. Counters only rise during the life of the object."""

    outbox: Backlog
    """Gauge: outgoing messages without an answer, including those being committed."""
    oldest_queued_at_us: int | None
    """Gauge: when the oldest outgoing message was queued: Unix time, microseconds; at most a
    second out of date."""
    unmet: Backlog
    """Gauge: outgoing messages to unmet peers, which have no route and never had a link."""
    dead: Backlog
    """Gauge: dead letters."""
    inbox: Backlog
    """Gauge: accepted messages that the application has not acknowledged."""
    expired: int
    """Counter: outgoing messages that were removed because their deadline passed."""
    aged_out: int
    """Counter: outgoing messages that became dead letters because their peer stayed unmet."""
    dead_letters_dropped: int
    """Counter: dead letters that were removed to make room for newer ones."""
    commits: int
    """Counter: committed transactions."""
    commit_median: float
    """Median duration of the last 512 transactions, from first statement to end, in seconds."""
    commit_longest: float
    """Longest duration of the last 512 transactions, in seconds."""
    waiting_operations: int
    """Gauge: operations that wait for the next transaction."""
    failure: str | None
    """The cause of the store's failure as text; `None` while the store works."""

    @property
    def oldest_queued_at(self) -> float | None:
        """`oldest_queued_at_us` in seconds of Unix time."""
        return None if self.oldest_queued_at_us is None else self.oldest_queued_at_us / 1e6

    @property
    def has_failed(self) -> bool:
        """Whether the store has failed: `failure` says why."""
        return self.failure is not None
