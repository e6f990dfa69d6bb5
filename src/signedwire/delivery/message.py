"""Messages as the two applications see them, and what the transport adds to them."""

from __future__ import annotations

from collections.abc import Callable
from threading import get_ident
from typing import Final, Protocol

from signedwire import clock
from signedwire.arguments import RefusalName, chosen, printable
from signedwire.clock import WallInstant
from signedwire.delivery.advice import NEEDS_STORE
from signedwire.delivery.receipt import (
    ProofSource,
    Receipt,
    advance_all,
    transition_all,
)
from signedwire.delivery.send_options import SendOptions
from signedwire.errors import ClosedError, SignatureError
from signedwire.home import Bound
from signedwire.identity import Identity
from signedwire.types import (
    DeliveryState,
    Did,
    Kind,
    PayloadType,
    Priority,
    Reason,
    known_did,
)
from signedwire.wire.envelope import MerklePath, SignedEnvelope
from signedwire.wire.header import (
    KIND,
    MIN_V2_HEADER_SIZE,
    PAYLOAD_TYPE,
    PRIORITY,
    SUBJECT_SIZE,
    V1_HEADER_SIZE,
    V2_START,
    VOLATILE,
    epoch_of,
    expiry_of,
    is_durable,
    kind_of,
    message_id_of,
    pack_v2_start,
    payload_start,
    sender_of,
    sequence_of,
    stream_of,
    subject_of,
    timestamp_of,
)
from signedwire.wire.link_frames import MAX_REFUSAL_TEXT, REASON_CODES
from signedwire.wire.sent_batch import SentBatch
from signedwire.wire.session import BatchReceived

__all__ = ["Message", "AckSink", "IncomingMessage", "OutgoingMessage"]

_REPLY: Final = int(Kind.REPLY)
_QUEUED: Final = DeliveryState.QUEUED
_LOOK_AGAIN: Final = 1.0
"""Interval in seconds at which a wait checks its deadline again."""


class AckSink(Protocol):
    """Receives the application's answers to received messages."""

    def taken(self, message: IncomingMessage) -> None:
        """Note that the application has taken the message. In the node's loop."""

    def acked(self, message: IncomingMessage) -> None:
        """Note that the application has acknowledged the message."""

    def nacked(self, message: IncomingMessage, reason: Reason, text: str) -> None:
        """Note that the application has refused the message; `text` says more, or is empty."""


class Message(Bound, instead="pass its `payload`, or its `envelope`"):
    """A message that arrived and passed every check of the configured policy.

    Only a node makes messages. To test a program with some, send them between two nodes that
    have the same `MemoryNetwork`.
    """

    __slots__ = (
        "_body",
        "_index",
        "_is_proven",
        "_signature",
        "expires_at_us",
        "redelivered",
        "size",
    )

    _body: bytes
    _signature: bytes | MerklePath | SentBatch | BatchReceived
    # A v1 signature, the path of a copy, or the batch of the message. The envelope is made from
    # it on access, because few applications need it for every message.
    _index: int
    _is_proven: bool

    size: int
    """Size of header and payload in bytes, as credit counts them; of a copy, with its path."""
    expires_at_us: int | None
    """The deadline: Unix time, microseconds; `None`: the message has none."""
    redelivered: bool
    """Whether an earlier process delivered the message and ended before `ack()`."""

    def __init__(self) -> None:
        raise TypeError(
            "only a node makes messages: to test a program with some, send them between two "
            "nodes that have the same MemoryNetwork"
        )

    def ack(self) -> None:
        """Acknowledge the message: its receipt at the sender becomes `handled`.

        Only the first call of `ack()` or `nack()` counts. The call returns at once, and
        any thread may call. For a message from a v1 sender, the call does nothing.

        Raises:
            ClosedError: the node is closed, so the acknowledgement is neither stored nor
                sent. With a store, the message is delivered again by the next node.
            WrongContextError: the node belongs to another event loop, or to the process
                from which this one was forked.
        """
        self._answer(None)

    def nack(self, reason: Reason | RefusalName = Reason.REFUSED, detail: str = "") -> None:
        """Refuse the message: its receipt at the sender becomes `refused`, with the reason.

        Only the first call of `ack()` or `nack()` counts. The call returns at once, and
        any thread may call. For a message from a v1 sender, the call does nothing.

        Args:
            reason: A `Reason` that has a code on the wire, or its text, such as
                "inbox full". Default: "refused".
            detail: More about the reason, for people at the sender: at most 256 bytes of
                UTF-8, all printable. This node signs it, and the sender gets it in
                `Receipt.detail` and in the text of MessageRefusedError.

        Raises:
            ValueError, TypeError: `reason` has no code on the wire; the error lists those
                that have one. Or `detail` is no text, is too long, or is not printable.
            ClosedError, WrongContextError: for the same causes as in `ack()`.
        """
        reason = chosen(Reason, reason, "reason", REASON_CODES, "has no code on the wire")
        self._answer(reason, printable(detail, "detail", MAX_REFUSAL_TEXT))

    def _answer(self, reason: Reason | None, text: str = "") -> None:
        raise NotImplementedError

    @property
    def sender(self) -> Did:
        """The DID that sent the message, proven by its signature.

        Raises:
            SignatureError: the message is unsigned, so `is_proven` is false. That can only
                be with `signatures="if-present"`.
        """
        if not self._is_proven:
            raise SignatureError(
                "nothing proves who sent this message: it is not signed",
                "Ask `is_proven` first, or refuse such messages with signatures=required",
            )
        return known_did(sender_of(self._body))

    @property
    def proven_sender(self) -> Did | None:
        """The DID that sent the message, proven by its signature; `None` if it is unsigned."""
        return self.sender if self._is_proven else None

    @property
    def is_proven(self) -> bool:
        """Whether a signature proves the sender; always true if the policy requires it."""
        return self._is_proven

    @property
    def payload(self) -> bytes:
        """The bytes that were sent."""
        body = self._body
        if type(self._signature) is bytes:
            return body[V1_HEADER_SIZE:]
        if body[KIND] != _REPLY:  # nearly always; no call saves 0.04 µs
            return body[MIN_V2_HEADER_SIZE + body[SUBJECT_SIZE] :]
        return body[payload_start(body) :]

    @property
    def priority(self) -> Priority:
        """The lane, as chosen by the sender."""
        return Priority(self._body[PRIORITY])

    @property
    def payload_type(self) -> PayloadType:
        """The type of the payload, as declared by the sender."""
        return PayloadType(self._body[PAYLOAD_TYPE])

    @property
    def kind(self) -> Kind:
        """The kind of the message; every v1 message is `Kind.MESSAGE`."""
        return Kind.MESSAGE if isinstance(self._signature, bytes) else kind_of(self._body)

    @property
    def subject(self) -> str:
        """The subject of the message, as chosen by the sender; empty in v1.

        It has no control characters. Others may be not printable, so replace those before you
        show it.
        """
        return "" if isinstance(self._signature, bytes) else subject_of(self._body)

    @property
    def durable(self) -> bool:
        """Whether nodes that have a store keep the message in it, its sender and this one; false
        in v1."""
        return not isinstance(self._signature, bytes) and is_durable(self._body)

    @property
    def message_id(self) -> str:
        """The id of the message, which its receipt has too: 32 hex digits.

        Texts show the first 8. The sender has chosen it: at random, if it speaks v2.
        """
        return message_id_of(self._body).hex()

    @property
    def sequence_number(self) -> int:
        """The sender's count of its messages of this priority (v1: of all), from 1.

        Durable messages and volatile ones are counted apart.
        """
        return sequence_of(self._body)

    @property
    def epoch(self) -> int:
        """The epoch in which the sender counts its messages; 0 in v1."""
        return 0 if isinstance(self._signature, bytes) else epoch_of(self._body)

    @property
    def timestamp_us(self) -> int:
        """When the message was made, by the sender's clock: Unix time, microseconds."""
        return timestamp_of(self._body)

    @property
    def envelope(self) -> SignedEnvelope:
        """The envelope as it arrived. Anybody who has it can verify it again."""
        signature = self._signature
        if isinstance(signature, (bytes, MerklePath)):
            return SignedEnvelope(self._body, signature)
        leaves = signature.leaves
        return SignedEnvelope(
            self._body, MerklePath(self._index, len(leaves), signature.signature, leaves=leaves)
        )

    def __repr__(self) -> str:
        name = self.sender.short if self._is_proven else "unproven sender"
        return f"<Message {self.message_id[:8]} from {name} {len(self.payload)} bytes>"


class IncomingMessage(Message):
    """A message that has arrived, and the `Message` that the application gets, in one object.

    `Message` is the public part. Everything that this class adds is for the transport.
    """

    __slots__ = ("_is_answered", "origin", "row", "stream")

    def __init__(
        self,
        body: bytes,
        signature: bytes | MerklePath | SentBatch | BatchReceived,
        index: int = 0,
        expires_at_us: int | None = None,
        origin: AckSink | None = None,
        is_proven: bool = True,
        stream: int | None = None,
    ) -> None:
        # Called per message: keyword arguments would cost 0.15 µs more. `Message.__init__` raises.
        self._body = body
        if stream is None:
            is_v1 = isinstance(signature, bytes)
            stream = body[PRIORITY] + VOLATILE if is_v1 else stream_of(body)
        self.stream = stream
        """The stream of a v2 message; see `wire.header`."""
        self.size = len(body)
        self._signature = signature
        self._index = index
        self._is_proven = is_proven
        self._is_answered = False
        self.expires_at_us = expires_at_us
        self.redelivered = False
        self.row: int | None = None
        """Id of the row in the store; `None`: the message has none."""
        self.origin = origin
        """Receives the application's answer; `None` for v1."""

    def _answer(self, reason: Reason | None, text: str = "") -> None:
        origin = self.origin
        if origin is None or self._is_answered:
            return
        self._is_answered = True
        try:
            if reason is None:
                origin.acked(self)
            else:
                origin.nacked(self, reason, text)
        except ClosedError:
            self._is_answered = False
            raise

    def keep_path(self, path: MerklePath, overhead: int) -> None:
        """Note that the message is a copy, with this path in place of the leaves of a batch.

        `overhead` is the number of bytes that credit counts beyond header and payload.
        """
        self._signature = path
        self.size += overhead

    def is_denied_by(self, is_key_denied: Callable[[bytes], bool]) -> bool:
        """Whether the DID that the message names as its sender is denied, proven or not.

        Args:
            is_key_denied: Is called with the 32 bytes of that DID. The application gets this
                object, so no property gives it a sender that nothing proves.
        """
        return is_key_denied(sender_of(self._body))

    @property
    def index(self) -> int:
        """Index of the message in its batch, from 0."""
        return self._index

    @property
    def leaf(self) -> bytes:
        """The Merkle leaf, by which receipts name the message."""
        return (
            self.envelope.digest
            if isinstance(self._signature, (bytes, MerklePath))
            else self._signature.leaves[self._index]
        )


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
