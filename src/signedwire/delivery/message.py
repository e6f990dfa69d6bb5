"""A received message: what the application gets, and what the transport adds to it."""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock
from typing import Final, Protocol

from signedwire.arguments import (
    BytesLike,
    PayloadTypeName,
    RefusalName,
    as_bytes,
    chosen,
    payload_type_of,
    printable,
)
from signedwire.delivery.receipt import (
    Receipt,
)
from signedwire.errors import ClosedError, SignatureError
from signedwire.home import Bound
from signedwire.types import (
    ControlType,
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
    VOLATILE,
    control_type_of,
    epoch_of,
    is_durable,
    kind_of,
    message_id_of,
    payload_start,
    reply_to_of,
    sender_of,
    sequence_of,
    stream_of,
    subject_of,
    timestamp_of,
)
from signedwire.wire.link_frames import MAX_REFUSAL_TEXT, REASON_CODES
from signedwire.wire.sent_batch import SentBatch
from signedwire.wire.session import BatchReceived

__all__ = ["Message", "AckSink", "IncomingMessage"]

_ACKED, _NACKED, _REPLIED = 1, 2, 3
_REPLYING: Final = Lock()
_REPLY: Final = int(Kind.REPLY)


class AckSink(Protocol):
    """Receives the application's answers to received messages."""

    def taken(self, message: IncomingMessage) -> None:
        """Note that the application has taken the message. In the node's loop."""

    def reply(self, message: IncomingMessage, payload: bytes, payload_type: PayloadType) -> Receipt:
        """Queue the reply of the application to a request."""

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

    def reply(
        self,
        payload: BytesLike = b"",
        *,
        payload_type: PayloadType | PayloadTypeName = PayloadType.RAW,
    ) -> Receipt:
        """Reply to a request. The reply is queued, and this returns its receipt at once.

        The reply also acknowledges the request. `await message.reply(…)` waits until the peer has
        accepted the reply. Any thread may call.

        Args:
            payload: The content, at most `max_payload_size` bytes; by default empty.
            payload_type: The type that the peer's application sees; by default RAW.

        Raises:
            ValueError: the message is no request, or was answered before.
            BackpressureError: the queue to the peer is full; the reply was not queued.
            UnknownPeerError, NotAllowedError, PayloadTooLargeError, StoreFullError,
                ClosedError, WrongContextError: the reply was not queued.
        """
        return self._reply(as_bytes(payload), payload_type_of(payload_type))

    def _reply(self, payload: bytes, payload_type: PayloadType) -> Receipt:
        raise NotImplementedError

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
    def reply_to(self) -> bytes:
        """The digest of the request's envelope that this reply answers; empty in other messages."""
        return reply_to_of(self._body) if self.kind is Kind.REPLY else b""

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

    __slots__ = ("_answered", "origin", "row", "stream")

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
        self._answered = 0
        self.expires_at_us = expires_at_us
        self.redelivered = False
        self.row: int | None = None
        """Id of the row in the store; `None`: the message has none."""
        self.origin = origin
        """Receives the application's answer; `None` for v1."""

    def _answer(self, reason: Reason | None, text: str = "") -> None:
        origin, before = self.origin, self._answered
        if origin is None or before:
            return
        self._answered = _ACKED if reason is None else _NACKED
        try:
            if reason is None:
                origin.acked(self)
            else:
                origin.nacked(self, reason, text)
        except ClosedError:
            self._answered = before
            raise

    @property
    def is_open_request(self) -> bool:
        """Whether this is a request that has neither a reply nor a refusal."""
        return self.kind is Kind.REQUEST and self._answered < _NACKED

    def _reply(self, payload: bytes, payload_type: PayloadType) -> Receipt:
        origin = self.origin
        if origin is None or self.kind is not Kind.REQUEST:
            raise ValueError(
                f"message {self.message_id[:8]} is no request, so nobody waits for a reply: "
                "send() a message to its sender"
            )
        if not self.is_open_request:
            done = "refused" if self._answered == _NACKED else "answered"
            raise ValueError(f"the request {self.message_id[:8]} was {done} before")
        with _REPLYING:  # any thread may call, and only one reply counts
            before = self._answered
            if before >= _NACKED:
                raise ValueError(f"the request {self.message_id[:8]} was answered before")
            self._answered = _REPLIED
        try:
            receipt = origin.reply(self, payload, payload_type)
        except BaseException:
            self._answered = before
            raise
        # The store has a row to remove. Of a volatile request, the reply tells as much.
        if self.durable and before != _ACKED:
            origin.acked(self)
        return receipt

    @property
    def control_type(self) -> ControlType | None:
        """The type of a control message; `None` for the other kinds."""
        return control_type_of(self._body) if self.kind is Kind.CONTROL else None

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
