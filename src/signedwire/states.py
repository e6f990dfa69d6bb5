"""States of a message, reasons for a drop, and kinds of failures: plain data.

Errors, receipts and basic types share these. Nothing of this package is imported here.
"""

from __future__ import annotations

import enum
from typing import Literal, NamedTuple, TypeAlias

__all__ = ["Cause", "DeliveryState", "FailureKind", "Reason", "Step", "Until", "kind_of"]


class DeliveryState(enum.StrEnum):
    """The states of a sent message.

    `HANDLED`, `REFUSED`, `FAILED` and `EXPIRED` are final. A message to a v1 peer ends at
    `WRITTEN`, unconfirmed, because v1 peers never answer.
    """

    QUEUED = "queued"
    """The message waits in memory to be sent."""
    PERSISTED = "persisted"
    """The message waits in the store of its node, and a crash does not lose it."""
    WRITTEN = "written"
    """The operating system has the message, or may have had it when its connection ended."""
    ACCEPTED = "accepted"
    """The peer has verified the message and will give it to its application, once."""
    HANDLED = "handled"
    """The peer's application has acknowledged the message."""
    REFUSED = "refused"
    """The peer or its application has refused the message; the receipt has the reason."""
    FAILED = "failed"
    """The message was given up here; the receipt has the reason."""
    EXPIRED = "expired"
    """The deadline passed before the peer's application had the message, as far as known."""


Until: TypeAlias = DeliveryState | Literal["queued", "persisted", "written", "accepted", "handled"]
"""How far to wait for a message: a `DeliveryState` or its text."""


class Step(NamedTuple):
    """A state that a message has reached, and when."""

    state: DeliveryState
    at_us: int
    """Unix time, microseconds."""


class Reason(enum.StrEnum):
    """Why a message, an envelope or a connection was dropped. Keys of `stats().dropped`."""

    # of our own messages
    UNKNOWN_PEER = "unknown peer"
    """No address is known for the DID."""
    TOO_LARGE = "too large"
    """The payload is over the limit of the peer's wire."""
    QUEUE_FULL = "queue full"
    """The queue to the peer was full; the call that sends has failed at once."""
    STORE_FAILED = "store failed"
    """The store of this node has failed."""
    DROPPED = "dropped"
    """The message was removed from the store with `node.outbox.drop()`."""
    ATTEMPTS_EXHAUSTED = "attempts exhausted"
    """`max_attempts` connections or writes failed."""
    EXPIRED = "expired"
    """The deadline passed first."""
    AGED_OUT = "aged out"
    """The message waited `unmet_max_age` for a peer without a route that never had a link."""
    CLOSED = "closed"
    """The node was closed before the message was written."""
    UNKNOWN_OUTCOME = "unknown outcome"
    """The volatile message was written, and the peer has restarted since: it may have arrived."""
    REPLACED = "replaced"
    """A newer message with the same `latest` key took the place of the message in the queue."""
    REFUSED = "refused"
    """The peer's application refused the message."""
    INBOX_FULL = "inbox full"
    """The peer had no room for the message, although it had granted credit."""
    UNKNOWN_SUBJECT = "unknown subject"
    """The peer takes no messages of this subject."""
    CLOCK_UNKNOWN = "clock unknown"
    """The peer cannot tell the time, which the message needs."""
    RATE = "rate"
    """The sender sent more in a time than the peer allows."""
    ROLE = "role"
    """The peer does not allow this message to a sender of this role."""
    SIZE_RULE = "size rule"
    """A rule of the peer about the size of the message."""
    SUBJECT_RULE = "subject rule"
    """A rule of the peer about the subject of the message."""
    # of others' envelopes
    MALFORMED = "malformed"
    """A frame of legal length that does not decode; the connection stays up."""
    NOT_FOR_US = "not for us"
    """The envelope is addressed to another DID."""
    UNSIGNED = "unsigned"
    """The envelope has no signature, and the policy requires one."""
    BAD_SIGNATURE = "bad signature"
    """The signature does not prove the sender."""
    DUPLICATE = "duplicate"
    """An envelope with the number or the bytes of this one was delivered before."""
    NOT_ALLOWED = "not allowed"
    """The sender may not use this wire protocol with this node."""
    DENIED = "denied"
    """The DID is on the deny list, or not on the allow list."""
    NO_REQUEST = "no request"
    """A reply to no open request: it came too late, twice, or was never asked for."""
    STALE_EPOCH = "stale epoch"
    """The sender's epoch is older than one already seen."""
    # of others' connections
    ILLEGAL_LENGTH = "illegal length"
    """A frame of length zero or over the limit; the connection was closed."""
    WRONG_PROTOCOL = "wrong protocol"
    """The first byte is of no accepted wire protocol; the connection was closed."""
    BAD_IDENTITY = "bad identity"
    """The other side did not prove its DID, or proved another; the connection was closed."""
    PROTOCOL_ERROR = "protocol error"
    """The peer broke the rules of the link; it was closed."""
    TRUNCATED = "truncated"
    """The connection ended inside a frame."""
    TOO_SLOW = "too slow"
    """A deadline for a first envelope or for a whole frame passed."""
    CONNECTION_LIMIT = "connection limit"
    """Too many connections, in all or from one address."""
    INBOX_CLOSED = "inbox closed"
    """The node was closed before the application took the received message."""


class FailureKind(enum.StrEnum):
    """Why a peer was not reached, or a message was not answered: branch on this, never on text.

    These hold one: `DialError.kind`, `DidProofError.kind`, `PeerStatus.last_error_kind`,
    `Receipt.detail_kind`, `Probe.failure` and the event `ConnectionFailed`.
    """

    NAME_UNKNOWN = "name unknown"
    """The host name does not exist, or is malformed."""
    NAME_SERVER_SILENT = "name server silent"
    """No name server answered, or none in time. No attempt is counted."""
    REFUSED = "refused"
    """The host refused the connection: nothing listens on the port."""
    UNREACHABLE = "unreachable"
    """There is no network route to the host, or the host does not exist."""
    TIMED_OUT = "timed out"
    """The peer sent nothing in time: to a connection attempt, to PING, or to a message."""
    NO_HANDSHAKE = "no handshake"
    """The connection opened, but the handshake was not complete in time."""
    HUNG_UP_ON_TLS = "hung up on TLS"
    """The peer closed the connection before it sent a byte, as v1 peers do."""
    TLS_FAILED = "TLS failed"
    """The other side does not speak TLS as v2 peers do."""
    UNPROVEN = "unproven"
    """The other side did not prove any DID."""
    WRONG_KEY = "wrong key"
    """The other side proved another DID than the one that was dialed."""
    FULL = "full"
    """The peer has no room for another connection now."""
    TURNED_AWAY = "turned away"
    """The peer proved its DID and closed the connection before HELLO, as access lists do."""
    DENIED = "denied"
    """The peer closed the link, or refused to open it, with the code of its access list."""
    VERSION = "version"
    """The two sides have no version of the wire in common."""
    BAD_SIGNATURE = "bad signature"
    """A signature of one side did not fit."""
    PROTOCOL = "protocol"
    """One side broke a rule of the wire; the text of the error names it."""
    RESET = "reset"
    """The connection was reset, or broke in another way that the system reports."""
    CLOSED = "closed"
    """The peer closed the connection in an orderly way."""
    CLOSED_HERE = "closed here"
    """The connection was closed by this node."""
    SYSTEM = "system"
    """The connection could not be made on this machine: descriptors, memory, permissions."""
    UNANSWERED = "unanswered"
    """The message was written and no answer came, so the peer may have taken it."""
    CLOCKS_DIFFER = "clocks differ"
    """The peer refused the message as late, but by our clock its deadline had not passed. Or a
    DID proof has expired by the clock of the other side, and the text names both times."""
    OTHER = "other"
    """Another cause, which the text of the error names."""


class Cause(str):
    """The words of a failure, and its kind. The transport hands these on.

    A `str`, so that a receipt of a message that does not fail has no field more than `detail`.

    Args:
        words: What happened.
        kind: Its kind, for programs.
    """

    __slots__ = ("kind",)

    kind: FailureKind

    def __new__(cls, words: str, kind: FailureKind = FailureKind.OTHER) -> Cause:
        cause = super().__new__(cls, words)
        cause.kind = kind
        return cause

    def prefixed(self, beginning: str) -> Cause:
        """A longer text of the same kind: `beginning`, then this one."""
        return Cause(beginning + self, self.kind)

    def __reduce__(self) -> tuple[type[Cause], tuple[str, FailureKind]]:
        return Cause, (str(self), self.kind)


def kind_of(words: str | None) -> FailureKind | None:
    """The kind of a failure; `None`: the words have none, or there is no failure."""
    return words.kind if isinstance(words, Cause) else None
