"""Messages as the two applications see them: one on its way out, one that arrived."""

from __future__ import annotations

from signedwire.delivery.receipt import Receipt
from signedwire.identity import Identity
from signedwire.types import Did, PayloadType, Priority
from signedwire.wire.envelope import SignedEnvelope

__all__ = ["Message", "OutgoingMessage"]


class Message:
    """A message that arrived and passed every check of the configured policy."""

    __slots__ = ("_envelope", "_is_proven")

    def __init__(self, envelope: SignedEnvelope, is_proven: bool) -> None:
        self._envelope = envelope
        self._is_proven = is_proven

    @property
    def sender(self) -> Did | None:
        """Who sent it, proven by signature; `None` where nothing proves it."""
        return self._envelope.sender if self._is_proven else None

    @property
    def is_proven(self) -> bool:
        """Whether a signature proves the sender. Always, where the policy requires it."""
        return self._is_proven

    @property
    def payload(self) -> bytes:
        """The bytes that were sent."""
        return self._envelope.payload

    @property
    def priority(self) -> Priority:
        """The lane that the sender chose."""
        return self._envelope.priority

    @property
    def payload_type(self) -> PayloadType:
        """What the sender says the payload is."""
        return self._envelope.payload_type

    @property
    def sequence_number(self) -> int:
        """The sender's count of its messages, from 1."""
        return self._envelope.sequence_number

    @property
    def timestamp_us(self) -> int:
        """When the sender says it made the message, in microseconds since 1970."""
        return self._envelope.timestamp_us

    @property
    def envelope(self) -> SignedEnvelope:
        """The envelope as it arrived: whoever has it can verify it again."""
        return self._envelope

    def __repr__(self) -> str:
        sender = self.sender
        name = "unproven sender" if sender is None else sender.short
        return f"<Message #{self.sequence_number} from {name} {len(self.payload)} bytes>"


class OutgoingMessage:
    """A queued message. The envelope is signed when a link is ready to take it.

    A message that expires or fails in the queue so costs no signature, and the
    order of signing is the order of writing.
    """

    __slots__ = (
        "_identity",
        "_payload",
        "_payload_type",
        "envelope",
        "expires_at",
        "failures_before",
        "priority",
        "receipt",
    )

    def __init__(
        self,
        receipt: Receipt,
        priority: Priority,
        expires_at: float | None,
        *,
        envelope: SignedEnvelope | None = None,
        identity: Identity | None = None,
        payload: bytes = b"",
        payload_type: PayloadType = PayloadType.RAW,
    ) -> None:
        self.receipt = receipt
        self.priority = priority
        self.expires_at = expires_at
        """By `time.monotonic()`, so that a clock that is set moves no deadline; or `None`."""
        self.failures_before = 0
        """How many attempts to reach the peer had failed when this was queued."""
        self.envelope = envelope
        self._identity = identity
        self._payload = payload
        self._payload_type = payload_type

    @property
    def payload_size(self) -> int:
        """Bytes of the payload."""
        return len(self._payload if self.envelope is None else self.envelope.payload)

    def seal(self) -> SignedEnvelope:
        """The signed envelope; the same one however often it is asked for."""
        envelope = self.envelope
        if envelope is None:
            assert self._identity is not None
            envelope = self.envelope = SignedEnvelope.sign(
                self._identity,
                self.receipt.recipient,
                self._payload,
                sequence_number=self.receipt.sequence_number,
                priority=self.priority,
                payload_type=self._payload_type,
                timestamp_us=self.receipt.queued_at_us,
            )
        return envelope
