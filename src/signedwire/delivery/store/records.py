"""What goes into a store and comes out of it."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol, TypeAlias

from signedwire.errors import StoreError
from signedwire.types import Did, PayloadType, Priority, Reason
from signedwire.wire.batch import batch_root
from signedwire.wire.envelope import BatchProof, SignedEnvelope
from signedwire.wire.header import (
    PAYLOAD_TYPE,
    PRIORITY,
    V2_HEADER_SIZE,
    epoch_of,
    expiry_of,
    message_number_of,
    sequence_of,
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
    "NOTHING",
    "Noted",
    "OutgoingRow",
    "ROW_BITS",
    "RememberedLeaves",
    "RowName",
    "StoreLimits",
    "StoreStats",
    "Then",
]

Then: TypeAlias = Callable[[StoreError | None], None]
"""Told how an operation ended: `None` after its commit, else why it did not."""

ROW_BITS: Final = 40
"""An outgoing row is named peer (21 bits) ‖ lane (2) ‖ row (40): a lane is a range, in its
order, and an end of the B-tree that grows."""
MAX_ROW: Final = 2**ROW_BITS - 1
_U64: Final = struct.Struct("<Q")


class Draft(Protocol):
    """A message that has no number yet, such as an `OutgoingMessage`."""

    body: bytes
    """Header and payload, once it has a number."""
    row: int
    """The number of its row in its lane, once it has one."""

    @property
    def priority(self) -> Priority:
        """Its lane."""

    @property
    def payload_size(self) -> int:
        """Bytes of the payload."""

    def number(self, parties: bytes, epoch: int, sequence: int) -> None:
        """Give it its place in its lane; makes `body`."""


class RowName(NamedTuple):
    """Which outgoing message."""

    recipient: Did
    lane: int
    row: int


class OutgoingRow(NamedTuple):
    """A message that has no answer yet."""

    id: int
    """Its name within the store."""
    recipient: Did
    body: bytes
    """Header and payload, as they are sent: the same bytes each time."""
    is_written: bool
    """Whether it has been handed to a link at least once."""
    attempts: int
    """Failed attempts to reach the recipient since the last that did not fail."""
    last_error: str | None
    """What the last of them failed with."""

    @property
    def lane(self) -> int:
        """The number of its priority."""
        return self.body[PRIORITY]

    @property
    def priority(self) -> Priority:
        """Its lane."""
        return Priority(self.body[PRIORITY])

    @property
    def payload_type(self) -> PayloadType:
        """What the payload is said to be."""
        return PayloadType(self.body[PAYLOAD_TYPE])

    @property
    def row(self) -> int:
        """The number of its row in its lane."""
        return self.id & MAX_ROW

    @property
    def sequence(self) -> int:
        """Its place in its lane, as its recipient sees it."""
        return sequence_of(self.body)

    @property
    def message_number(self) -> int:
        """The number on its receipt."""
        return message_number_of(self.body)

    @property
    def epoch(self) -> int:
        """Which state of ours numbered it."""
        return epoch_of(self.body)

    @property
    def queued_at_us(self) -> int:
        """When it was queued: Unix time, microseconds."""
        return timestamp_of(self.body)

    @property
    def expires_at_us(self) -> int | None:
        """Its deadline: Unix time, microseconds; `None`: it waits for ever."""
        return expiry_of(self.body)

    @property
    def payload(self) -> bytes:
        """The bytes inside."""
        return self.body[V2_HEADER_SIZE:]

    def __repr__(self) -> str:
        # Without the body: a log is no place for payloads.
        error = f", last error: {self.last_error}" if self.last_error else ""
        return (
            f"<OutgoingRow {self.id} #{self.message_number} to {self.recipient.short} "
            f"{len(self.body) - V2_HEADER_SIZE} bytes, {self.attempts} attempts{error}>"
        )


class DeadLetter(NamedTuple):
    """A message that was refused or given up, and is kept."""

    id: int
    """Its name within the store: what `node.dead` takes."""
    recipient: Did
    """The DID that it was for."""
    body: bytes
    """Header and payload, as they were to be sent."""
    reason: Reason
    """Why it was refused or given up."""
    detail: str
    """The last error in words; may be empty."""
    died_at_us: int
    """When: Unix time, microseconds."""

    @property
    def priority(self) -> Priority:
        """Its lane."""
        return Priority(self.body[PRIORITY])

    @property
    def payload_type(self) -> PayloadType:
        """What the payload is said to be."""
        return PayloadType(self.body[PAYLOAD_TYPE])

    @property
    def message_number(self) -> int:
        """The number on its receipt."""
        return message_number_of(self.body)

    @property
    def queued_at_us(self) -> int:
        """When it was queued: Unix time, microseconds."""
        return timestamp_of(self.body)

    @property
    def expires_at_us(self) -> int | None:
        """The deadline that it had: Unix time, microseconds; `None`: it had none."""
        return expiry_of(self.body)

    @property
    def payload(self) -> bytes:
        """The bytes inside."""
        return self.body[V2_HEADER_SIZE:]

    def __repr__(self) -> str:
        detail = f" ({self.detail})" if self.detail else ""
        return (
            f"<DeadLetter {self.id} #{self.message_number} to {self.recipient.short} "
            f"{len(self.body) - V2_HEADER_SIZE} bytes: {self.reason}{detail}>"
        )


class IncomingRow(NamedTuple):
    """A message that was accepted and that the application is not done with."""

    id: int
    """What `Store.done()` wants."""
    sender: Did
    body: bytes
    place: int
    """In its batch."""
    leaves: list[bytes]
    """Of the whole batch; rows of one batch share the list."""
    signature: bytes
    """Over the batch."""

    @property
    def expires_at_us(self) -> int | None:
        """Its deadline: Unix time, microseconds; `None`: it has none."""
        return expiry_of(self.body)

    @property
    def envelope(self) -> SignedEnvelope:
        """The envelope as it arrived, with what proves it."""
        proof = BatchProof(self.place, len(self.leaves), self.signature, leaves=self.leaves)
        return SignedEnvelope(self.body, proof)

    @property
    def batch(self) -> BatchReceived:
        """What a `Message` is made of, with the body and the place. Its bodies are not kept."""
        return BatchReceived(
            [], batch_root(bytes(self.sender), self.leaves), self.leaves, self.signature
        )


class Marks(NamedTuple):
    """The highest sequences accepted from a sender: what a HELLO may say."""

    epoch: int
    """Of the sender; 0: none is known."""
    lanes: tuple[int, int, int, int]


class RememberedLeaves(NamedTuple):
    """What a sender's last envelopes were and what they were answered; see `Store.leaves()`."""

    accepted: tuple[list[bytes], list[bytes], list[bytes], list[bytes]]
    """By lane, oldest first: owed a receipt if they come again."""
    late: list[bytes]
    """Below the mark and yet not accepted: they came too late."""
    unkept: list[bytes]
    """The same, for want of room."""


class Noted(NamedTuple):
    """Places in a batch of what was not accepted."""

    late: Sequence[int] = ()
    """It came too late, and the marks have passed it."""
    unkept: Sequence[int] = ()
    """There was no room for it, and the marks have passed it."""
    strays: Sequence[int] = ()
    """All else: of that nothing is to be remembered."""


NOTHING: Final = Noted()


class Backlog(NamedTuple):
    """How much waits."""

    rows: int
    bytes: int
    """Of headers and payloads."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StoreLimits:
    """How much a store holds. Bytes are those of headers and payloads."""

    max_rows: int = 2_000_000
    """Outgoing messages in all."""
    max_bytes: int = 4 * 1024**3
    """The same in bytes."""
    max_peer_rows: int = 1_000_000
    """Outgoing messages to one peer."""
    max_peer_bytes: int = 1024**3
    """The same in bytes."""
    max_unmet_peer_rows: int = 10_000
    """Outgoing messages to one peer that there is no way to yet."""
    max_unmet_peer_bytes: int = 64 * 1024**2
    """The same in bytes."""
    max_unmet_bytes: int = 1024**3
    """The same of all such peers together, in bytes."""
    max_unmet_age: float = 7 * 86_400.0
    """Seconds that such a message waits; then it is a dead letter."""
    critical_reserve: int = 64
    """Further messages, of 64 KiB each, that only Critical may use, in each of the seven above
    but the last."""
    max_dead_rows: int = 100_000
    """Dead letters; beyond, the oldest leaves and is counted."""
    max_dead_bytes: int = 256 * 1024**2
    """The same in bytes."""
    max_inbox_rows: int = 100_000
    """Accepted messages that the application is not done with."""
    max_inbox_bytes: int = 1024**3
    """The same in bytes."""
    max_inbox_peer_rows: int = 50_000
    """The same from one sender."""
    max_peers: int = 100_000
    """Peers; beyond, those to whom nothing was ever sent are forgotten, heard of longest ago
    first. Anyone can make keys."""
    max_sender_leaves: int = 8192
    """Leaves remembered of one sender; no fewer than the messages of its credit, of all lanes."""
    max_leaves: int = 512 * 1024
    """Leaves remembered in all; beyond, the oldest are forgotten."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StoreStats:
    """A snapshot. Counters rise for the life of the object; gauges say what is the case now."""

    outbox: Backlog
    """Gauge: outgoing messages without an answer, those being committed included."""
    oldest_queued_at_us: int | None
    """Gauge: when the oldest of them was queued, Unix time; at most a second out of date."""
    unmet: Backlog
    """Gauge: the outgoing messages to peers that there is no way to yet."""
    dead: Backlog
    """Gauge: dead letters."""
    inbox: Backlog
    """Gauge: accepted messages that the application is not done with."""
    expired: int
    """Outgoing messages that were removed because their deadline passed."""
    aged_out: int
    """Outgoing messages that became dead letters because they waited too long for a peer that
    there was no way to."""
    dead_letters_dropped: int
    """Dead letters that made room for newer ones."""
    commits: int
    """Transactions committed."""
    commit_median: float
    """Of the last 512 transactions, from their first statement to their end: seconds."""
    commit_longest: float
    """The longest of the same."""
    waiting_operations: int
    """Gauge: operations that wait for the next transaction."""
    failure: str | None
    """Why the store has failed; `None` while it has not."""

    @property
    def oldest_queued_at(self) -> float | None:
        """`oldest_queued_at_us` in seconds of Unix time."""
        return None if self.oldest_queued_at_us is None else self.oldest_queued_at_us / 1e6

    @property
    def has_failed(self) -> bool:
        """Whether the store has failed: `failure` says why."""
        return self.failure is not None
