"""Messages as the two applications see them: one on its way out, one that arrived."""

from __future__ import annotations

import time
from typing import Protocol

from signedwire.delivery.receipt import Receipt
from signedwire.identity import Identity
from signedwire.types import Did, PayloadType, Priority, Reason, known_did
from signedwire.wire.envelope import (
    HEADER_SIZE,
    V2_HEADER_SIZE,
    BatchProof,
    SignedEnvelope,
    encode_v2_body,
    v2_expiry,
    v2_sequence,
)
from signedwire.wire.link_frames import REASON_CODES
from signedwire.wire.session import BatchReceived, SentBatch

__all__ = ["Message", "Origin", "OutgoingMessage"]


class Origin(Protocol):
    """Where a message came from, as far as the application's answer goes."""

    def taken(self, message: Message) -> None:
        """The application has it now."""

    def handled(self, message: Message) -> None:
        """The application is done with it."""

    def refused(self, message: Message, reason: Reason) -> None:
        """The application will not do it."""


class Message:
    """A message that arrived and passed every check of the configured policy."""

    __slots__ = (
        "_body",
        "_expires_at_us",
        "_index",
        "_is_answered",
        "_is_proven",
        "_proof",
        "lane",
        "origin",
        "redelivered",
        "row",
        "size",
    )

    def __init__(
        self,
        body: bytes,
        proof: bytes | SentBatch | BatchReceived,
        index: int = 0,
        *,
        is_proven: bool = True,
        expires_at_us: int = 0,
        redelivered: bool = False,
    ) -> None:
        self._body = body
        self.lane = body[104]
        """The number of its priority."""
        self.size = len(body)
        """Bytes of header and payload, as credit counts them."""
        # A v1 signature, or the batch that it came in: the envelope is made of it
        # when somebody asks, which few do for every message.
        self._proof = proof
        self._index = index
        self._is_proven = is_proven
        self._is_answered = False
        self._expires_at_us = expires_at_us
        self.redelivered = redelivered
        """Whether it was delivered by an earlier process, which ended before `done()`."""
        self.row: int | None = None
        """Its row in the store; `None`: it has none."""
        self.origin: Origin | None = None
        """Who wants to know what becomes of it; nobody for v1."""

    def done(self) -> None:
        """Tell the sender that it has been handled. v1 senders cannot be told.

        The first of `done()` and `refuse()` counts.
        """
        if self.origin is not None and not self._is_answered:
            self._is_answered = True
            self.origin.handled(self)

    def refuse(self, reason: Reason = Reason.REFUSED) -> None:
        """Tell the sender that it will not be handled, and why.

        Raises:
            ValueError: `reason` is none that can be told.
        """
        if reason not in REASON_CODES:
            known = ", ".join(REASON_CODES)
            raise ValueError(f"{reason!r} cannot be told to a sender; known are {known}")
        if self.origin is not None and not self._is_answered:
            self._is_answered = True
            self.origin.refused(self, reason)

    @property
    def sender(self) -> Did | None:
        """Who sent it, proven by signature; `None` where nothing proves it."""
        return known_did(self._body[32:64]) if self._is_proven else None

    @property
    def is_proven(self) -> bool:
        """Whether a signature proves the sender. Always, where the policy requires it."""
        return self._is_proven

    @property
    def payload(self) -> bytes:
        """The bytes that were sent."""
        return self._body[HEADER_SIZE if isinstance(self._proof, bytes) else V2_HEADER_SIZE :]

    @property
    def priority(self) -> Priority:
        """The lane that the sender chose."""
        return Priority(self.lane)

    @property
    def index(self) -> int:
        """Its place in the batch that it came in."""
        return self._index

    @property
    def leaf(self) -> bytes:
        """What receipts name it by."""
        return (
            self.envelope.digest
            if isinstance(self._proof, bytes)
            else self._proof.leaves[self._index]
        )

    @property
    def payload_type(self) -> PayloadType:
        """What the sender says the payload is."""
        return PayloadType(self._body[105])

    @property
    def sequence_number(self) -> int:
        """The sender's count of its messages in this lane (v1: of all), from 1."""
        return self.envelope.sequence_number

    @property
    def timestamp_us(self) -> int:
        """When the sender says it made the message, in microseconds since 1970."""
        return self.envelope.timestamp_us

    @property
    def expires_at_us(self) -> int | None:
        """Its deadline, Unix time in microseconds; `None`: it has none."""
        return self._expires_at_us or None

    @property
    def envelope(self) -> SignedEnvelope:
        """The envelope as it arrived: whoever has it can verify it again."""
        proof = self._proof
        if isinstance(proof, bytes):
            return SignedEnvelope(self._body, proof)
        leaves = proof.leaves
        return SignedEnvelope(
            self._body, BatchProof(self._index, len(leaves), proof.signature, leaves=leaves)
        )

    def __repr__(self) -> str:
        sender = self.sender
        name = "unproven sender" if sender is None else sender.short
        return f"<Message #{self.sequence_number} from {name} {len(self.payload)} bytes>"


class OutgoingMessage:
    """A queued message. It is numbered and signed when a link is ready to take it.

    One that expires or fails in the queue so costs no signature, and the order of
    signing is the order of writing. What was made once is kept: a message that is
    sent again has the same number and the same bytes.
    """

    __slots__ = (
        "_identity",
        "_payload",
        "_payload_type",
        "body",
        "envelope",
        "expires_at",
        "failures_before",
        "is_bulk",
        "is_settled",
        "is_stored",
        "payload_size",
        "priority",
        "receipt",
        "sequence",
        "was_written",
    )

    def __init__(
        self,
        receipt: Receipt,
        priority: Priority,
        expires_at: float | None,
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
        """The v1 envelope, once there is one."""
        self.body = b""
        """Header and payload of the v2 envelope, once it has a number."""
        self.sequence = 0
        """The number in its lane; 0: none yet."""
        self.is_settled = False
        """Whether the peer has answered: accepted or refused."""
        self.is_stored = False
        """Whether it has a row in the store."""
        self.was_written = False
        """Whether a link has had it: then only the peer knows what became of it."""
        self.is_bulk = False
        """Whether it is one of many, which nobody follows beyond `accepted`."""
        self._identity = identity
        self._payload = payload
        self._payload_type = payload_type
        self.payload_size = len(payload if envelope is None else envelope.payload)
        """Bytes of the payload."""

    @classmethod
    def restored(
        cls, receipt: Receipt, body: bytes, identity: Identity, *, was_written: bool
    ) -> OutgoingMessage:
        """One that waited in the store: numbered before, and the same bytes again."""
        due = v2_expiry(body)
        message = cls(
            receipt,
            Priority(body[104]),
            None if due is None else time.monotonic() + due / 1e6 - time.time(),
            identity=identity,
            payload=body[V2_HEADER_SIZE:],
            payload_type=PayloadType(body[105]),
        )
        message.body = body
        message.sequence = v2_sequence(body)
        message.is_stored = True
        message.was_written = was_written
        return message

    def seal(self) -> SignedEnvelope:
        """The v1 envelope; the same one however often it is asked for."""
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

    def number(self, parties: bytes, epoch: int, sequence: int) -> None:
        """Give it its place in its lane, and with it its v2 header.

        `parties` are the DIDs of sender and recipient.
        """
        self.sequence = sequence
        expires_at = self.expires_at
        self.body = encode_v2_body(
            parties,
            self._payload,
            self.receipt.sequence_number,
            sequence,
            self.receipt.queued_at_us,
            self.priority,
            self._payload_type,
            epoch,
            0 if expires_at is None else int((expires_at - time.monotonic() + time.time()) * 1e6),
        )
