"""A message on its way out: what the application queues, and the receipt that it holds."""

from __future__ import annotations

from threading import get_ident
from typing import Final

from signedwire import clock
from signedwire.clock import WallInstant
from signedwire.delivery.advice import NEEDS_STORE
from signedwire.delivery.receipt import (
    ProofSource,
    Receipt,
    advance_all,
    transition_all,
)
from signedwire.delivery.send_options import SendOptions
from signedwire.identity import Identity
from signedwire.types import (
    DeliveryState,
    Did,
    PayloadType,
    Priority,
    Reason,
)
from signedwire.wire.envelope import SignedEnvelope
from signedwire.wire.header import (
    PAYLOAD_TYPE,
    PRIORITY,
    V2_START,
    expiry_of,
    is_durable,
    kind_of,
    pack_v2_start,
    payload_start,
    sequence_of,
    subject_of,
)

__all__ = ["OutgoingMessage"]

_QUEUED: Final = DeliveryState.QUEUED
_LOOK_AGAIN: Final = 1.0
"""Interval in seconds at which a wait checks its deadline again."""


class OutgoingMessage(Receipt):
    """A queued message, and the receipt that the application holds, in one object.

    `Receipt` is the public part. Everything that this class adds is for the transport.

    A message is numbered and signed when a link is ready to take it. So a message that
    expires or fails in the queue costs no signature, and the order of signing is the
    order of writing. A message that is sent again has the same number and bytes.
    """

    __slots__ = (
        "body",
        "envelope",
        "failures_before",
        "is_stored",
        "options",
        "proof_source",
        "row",
        "sequence",
        "was_requeued",
        "was_written",
    )

    def __init__(
        self,
        options: SendOptions,
        message_id: bytes,
        payload: bytes = b"",
        envelope: SignedEnvelope | None = None,
    ) -> None:
        # The statements of Receipt.__init__, which saves the 0.1 µs of calling it.
        self._steps = options.queued
        self._changed = None
        self._id = message_id
        self.state = _QUEUED
        self.is_final = False
        self.reason = None
        self.detail = ""
        self.is_unconfirmed = False
        self.is_detached = False

        self.options = options
        self.proof_source: ProofSource | None = None
        """The source of `proof()`; `None` until the recipient has signed."""
        self.failures_before = 0
        """Number of failed attempts to reach the peer at the time of queueing."""
        self.envelope = envelope
        """The v1 envelope, once it has been made."""
        self.body = payload
        """The payload; after numbering, header and payload of the v2 envelope."""
        self.sequence = 0
        """The sequence number in the stream; 0: none yet."""
        self.row = 0
        """Number of the row in the lane of the store; 0: none."""
        self.is_stored = False
        """Whether the message has a row in the store."""
        self.was_requeued = False
        """Whether an earlier connection has had the message, perhaps in another process."""
        self.was_written = False
        """Whether a connection has had the message, so that the peer may have received it."""

    @property
    def recipient(self) -> Did:
        """The DID of the recipient."""
        return self.options.recipient

    @property
    def priority(self) -> Priority:
        """The priority of the message."""
        return self.options.priority

    @property
    def expires_at(self) -> float | None:
        """The deadline, by the clock that it follows; `None`: none. See `clock.left()`."""
        return self.options.expires_at

    @property
    def payload_size(self) -> int:
        """Size of the payload in bytes."""
        if self.envelope is not None:
            return len(self.envelope.payload)
        # After `release()` the body is empty.
        has_header = self.sequence and self.body
        return len(self.body) - (self.options.header_size if has_header else 0)

    @property
    def size(self) -> int:
        """Size of header and payload in bytes, before and after numbering."""
        return len(self.body) + (0 if self.sequence else self.options.header_size)

    def _seconds_left(self) -> float | None:
        due = self.options.expires_at
        if due is None or self.state is not DeliveryState.ACCEPTED:
            return None
        return min(max(0.0, clock.left(due)), _LOOK_AGAIN)

    @property
    def _has_store(self) -> bool:
        return self.is_stored or self.options.has_store

    def _check_followed(self, until: DeliveryState, *, is_blocking: bool = False) -> None:
        if until is DeliveryState.PERSISTED and not self._has_store:
            raise ValueError(NEEDS_STORE)
        if self.options.is_bulk and until == DeliveryState.HANDLED:
            raise ValueError(
                "the receipts of this send_many() end at 'accepted'. To wait for 'handled', "
                "use send_many(..., until='handled') or send()"
            )
        home = self.options.home
        if home is not None and not self.is_final and not self.has_reached(until):
            home.check_alive()
            if is_blocking and get_ident() == home.thread and not home.has_ended:
                raise RuntimeError(
                    "a blocking call in the event loop's own thread waits for ever; "
                    "use `await receipt.wait()`"
                )

    def advance(
        self,
        state: DeliveryState,
        reason: Reason | None = None,
        detail: str = "",
    ) -> None:
        """Set a state. A final receipt does not change."""
        if not self.is_final:
            advance_all((self,), state, reason, detail)

    def detach(self) -> None:
        """End all waits, because the node is closed while the message is in the store."""
        if self.is_final:
            return
        self.is_detached = True
        self._wake()

    def abandon(self, reason: Reason, detail: str) -> None:
        """End the waits for an accepted message that will get no answer.

        Args:
            reason: Why no answer will come.
            detail: The cause as text.
        """
        if self.state is DeliveryState.ACCEPTED:
            self.detail = detail
            self.reason = reason
            self._wake()

    def transition(self, state: DeliveryState, at_us: int) -> None:
        """Set a state that needs no reason; does nothing if it is already reached."""
        transition_all((self,), state, at_us)

    def _make_proof(self) -> bytes | None:
        return None if self.proof_source is None else self.proof_source.prove(self)

    def restore(
        self,
        body: bytes,
        *,
        was_written: bool,
        may_be_written: bool = False,
        expires_at: float | None = None,
    ) -> None:
        """Take number, bytes and deadline of a row that waited in the store.

        Args:
            body: Header and payload.
            was_written: Whether the store has noted that a connection had the message.
            may_be_written: Whether one may have had it without such a note.
            expires_at: The deadline of the row; by default the date in its header.
        """
        due, known = expiry_of(body), self.options.expires_at
        if due is None:
            expires_at = None
        elif known is not None and not isinstance(known, WallInstant):
            expires_at = known  # the sender still runs, so its deadline in seconds counts
        elif expires_at is None:
            expires_at = WallInstant(due / 1e6)
        home = self.options.home
        self.options = SendOptions(
            self.options.recipient,
            Priority(body[PRIORITY]),
            expires_at,
            PayloadType(body[PAYLOAD_TYPE]),
            subject=subject_of(body).encode(),
            kind=kind_of(body),
            is_bulk=self.options.is_bulk,
            is_durable=is_durable(body),
            queued_at_us=self.queued_at_us,
        )
        self.options.home, self.options.has_store = home, True
        self.options.header_size = payload_start(body)
        self.body = body
        self.sequence = sequence_of(body)
        self.is_stored = True
        self.was_written = was_written
        self.was_requeued = was_written or may_be_written

    def release(self) -> None:
        """Drop the bytes, so that a held receipt does not keep them in memory."""
        self.envelope = None
        self.body = b""

    def seal(self, identity: Identity, sequence_number: int) -> SignedEnvelope:
        """Make the v1 envelope and sign it. Called once: `envelope` keeps it.

        A message that is numbered keeps its own number. So a message that waits in a store has
        the same envelope in each process, and a v1 peer recognizes it if it comes again.

        Args:
            identity: The key of the sender.
            sequence_number: The number of a message that has none.
        """
        self.envelope = SignedEnvelope.sign(
            identity,
            self.options.recipient,
            self.body[payload_start(self.body) :] if self.sequence else self.body,
            sequence_number=self.sequence or sequence_number,
            priority=self.options.priority,
            payload_type=self.options.payload_type,
            message_id=self._id,
            timestamp_us=self.queued_at_us,
        )
        return self.envelope

    def number(self, parties: bytes, epoch: int, sequence: int) -> None:
        """Set the sequence in the lane, and make the v2 header.

        `parties` are the DIDs of sender and recipient, 64 bytes.
        """
        self.complete(self.options.common(parties, epoch), sequence)

    def complete(self, common: bytes, sequence: int) -> None:
        """Do as `number()`, with the result of `options.common()` shared by many messages."""
        # First the call that can fail: a sequence means that the body has a header.
        self.body = pack_v2_start(V2_START, self._id, sequence) + common + self.body
        self.sequence = sequence
