"""Messages as the two applications see them: one on its way out, one that arrived."""

from __future__ import annotations

from threading import get_ident
from typing import Final, Protocol

from signedwire import clock
from signedwire.arguments import RefusalName, chosen
from signedwire.clock import WallInstant
from signedwire.delivery.advice import NEEDS_STORE
from signedwire.delivery.deadlines import due_us
from signedwire.delivery.receipt import Receipt, first_step
from signedwire.errors import ClosedError, SignatureError
from signedwire.home import Bound, Home
from signedwire.identity import Identity
from signedwire.types import (
    DeliveryState,
    Did,
    PayloadType,
    Priority,
    Reason,
    known_did,
    unix_time_us,
)
from signedwire.wire.envelope import BatchProof, SignedEnvelope
from signedwire.wire.header import (
    PAYLOAD_TYPE,
    PRIORITY,
    SENDER,
    V1_HEADER_SIZE,
    V2_HEADER_SIZE,
    complete_v2_body,
    encode_v2_common,
    expiry_of,
    sequence_of,
)
from signedwire.wire.link_frames import REASON_CODES
from signedwire.wire.session import BatchReceived, SentBatch

__all__ = ["Message", "Origin", "OutgoingMessage", "Terms"]

_QUEUED: Final = DeliveryState.QUEUED
_SAME_INSTANT_US: Final = 1000
"""Two readings of the clocks differ by less, if neither was set."""
_LOOK_AGAIN: Final = 1.0
"""Seconds after which a wait looks at its deadline again."""


class Origin(Protocol):
    """Where a message came from, as far as the application's answer goes."""

    def taken(self, message: Message) -> None:
        """The application has it now."""

    def handled(self, message: Message) -> None:
        """The application is done with it."""

    def refused(self, message: Message, reason: Reason) -> None:
        """The application will not do it."""


class Message(Bound, instead="pass its `payload`, or its `envelope`"):
    """A message that arrived and passed every check of the configured policy."""

    __slots__ = (
        "_body",
        "_index",
        "_is_answered",
        "_is_proven",
        "_proof",
        "expires_at_us",
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
        expires_at_us: int | None = None,
        origin: Origin | None = None,
        is_proven: bool = True,
    ) -> None:
        # There is one of these for each message: arguments by name would cost it 0.15 µs.
        self._body = body
        self.lane = body[PRIORITY]
        """The number of its priority."""
        self.size = len(body)
        """Bytes of header and payload, as credit counts them."""
        # A v1 signature, or the batch that it came in: the envelope is made of it
        # when somebody asks, which few do for every message.
        self._proof = proof
        self._index = index
        self._is_proven = is_proven
        self._is_answered = False
        self.expires_at_us = expires_at_us
        """Its deadline, Unix time in microseconds; `None`: it has none."""
        self.redelivered = False
        """Whether it was delivered by an earlier process, which ended before `done()`."""
        self.row: int | None = None
        """Its row in the store; `None`: it has none."""
        self.origin = origin
        """Who wants to know what becomes of it; nobody for v1."""

    def done(self) -> None:
        """Tell the sender that it has been handled. v1 senders cannot be told.

        The first of `done()` and `refuse()` counts. May be called from any thread.

        Raises:
            ClosedError: its node is closed, so that this is neither kept nor told. With
                a store, the message comes again when a node with that store runs.
            WrongContextError: the node belongs to another event loop, or to the process
                that was forked.
        """
        self._answer(None)

    def refuse(self, reason: Reason | RefusalName = Reason.REFUSED) -> None:
        """Tell the sender that the message will not be handled, and why.

        The first of `done()` and `refuse()` counts. May be called from any thread.

        Args:
            reason: One of those that the wire has a code for, or its text, such as
                "inbox full". Default "refused".

        Raises:
            ValueError, TypeError: `reason` is none that can be told; the error names those.
            ClosedError, WrongContextError: see `done()`.
        """
        self._answer(chosen(Reason, reason, "reason", REASON_CODES, "cannot be told to a sender"))

    def _answer(self, reason: Reason | None) -> None:
        origin = self.origin
        if origin is None or self._is_answered:
            return
        self._is_answered = True
        try:
            if reason is None:
                origin.handled(self)
            else:
                origin.refused(self, reason)
        except ClosedError:
            self._is_answered = False
            raise

    @property
    def sender(self) -> Did:
        """The DID that sent the message, proven by its signature.

        Raises:
            SignatureError: nothing proves who sent it, as `is_proven` tells. That is so for
                unsigned envelopes alone, under `signatures="if-present"`.
        """
        if not self._is_proven:
            raise SignatureError(
                "nothing proves who sent this message: it is not signed",
                "Ask `is_proven` first, or refuse such messages with signatures=required",
            )
        return known_did(self._body[SENDER])

    @property
    def proven_sender(self) -> Did | None:
        """The DID that is proven to have sent the message; `None`: nothing proves who did."""
        return self.sender if self._is_proven else None

    @property
    def _claimed_sender(self) -> bytes:
        """The 32 bytes of the DID that it names as its sender, proven or not.

        For denials alone: who is turned away is so under an unsigned name as well.
        """
        return self._body[SENDER]

    @property
    def is_proven(self) -> bool:
        """Whether a signature proves the sender. Always, where the policy requires it."""
        return self._is_proven

    @property
    def payload(self) -> bytes:
        """The bytes that were sent."""
        return self._body[V1_HEADER_SIZE if isinstance(self._proof, bytes) else V2_HEADER_SIZE :]

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
        return PayloadType(self._body[PAYLOAD_TYPE])

    @property
    def sequence_number(self) -> int:
        """The sender's count of its messages in this lane (v1: of all), from 1."""
        return self.envelope.sequence_number

    @property
    def timestamp_us(self) -> int:
        """When the sender says it made the message, in microseconds since 1970."""
        return self.envelope.timestamp_us

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
        name = self.sender.short if self._is_proven else "unproven sender"
        return f"<Message #{self.sequence_number} from {name} {len(self.payload)} bytes>"


class Terms:
    """What all messages of one `send_many()` have in common: to whom, how urgent, until when.

    One object for all of them, so that a message itself is small.
    """

    __slots__ = (
        "_common",
        "_due_us",
        "_epoch",
        "expires_at",
        "has_store",
        "home",
        "is_bulk",
        "payload_type",
        "priority",
        "queued",
        "recipient",
    )

    def __init__(
        self,
        recipient: Did,
        priority: Priority,
        expires_at: float | None = None,
        payload_type: PayloadType = PayloadType.RAW,
        *,
        is_bulk: bool = False,
        queued_at_us: int | None = None,
    ) -> None:
        self.recipient = recipient
        self.priority = priority
        self.expires_at = expires_at
        """The deadline, by the monotonic clock or as a `WallInstant`; `None`: none. See `clock`."""
        self.payload_type = payload_type
        self.is_bulk = is_bulk
        """Whether they are many, which nobody follows beyond `accepted`."""
        self.queued = first_step(unix_time_us() if queued_at_us is None else queued_at_us)
        """The history of their receipts until something happens."""
        self.home: Home | None = None
        """Where their node lives, for who waits for it; `None`: nobody waits."""
        self.has_store = False
        """Whether their node has a store, so that who waits may wait for that."""
        self._epoch = -1
        self._due_us = 0
        self._common = b""

    def common(self, parties: bytes, epoch: int) -> bytes:
        """What their v2 headers have in common, made once, and again when the clock was set."""
        due = due_us(self.expires_at)
        if epoch != self._epoch or abs(due - self._due_us) > _SAME_INSTANT_US:
            self._common = encode_v2_common(
                parties,
                self.queued[1],
                self.priority,
                self.payload_type,
                epoch,
                due,
            )
            self._epoch, self._due_us = epoch, due
        return self._common


class OutgoingMessage(Receipt):
    """A queued message, and the receipt that its sender holds: one object, as there are many.

    `Receipt` is what its sender is promised; all that is added here is the transport's.

    It is numbered and signed when a link is ready to take it. One that expires or
    fails in the queue so costs no signature, and the order of signing is the order of
    writing. What was made once is kept: a message that is sent again has the same
    number and the same bytes.
    """

    __slots__ = (
        "body",
        "envelope",
        "failures_before",
        "is_settled",
        "is_stored",
        "row",
        "sequence",
        "terms",
        "was_written",
    )

    def __init__(
        self,
        terms: Terms,
        sequence_number: int,
        payload: bytes = b"",
        envelope: SignedEnvelope | None = None,
    ) -> None:
        # What Receipt.__init__ does, without the 0.1 µs of calling it.
        self._steps = terms.queued
        self._changed = None
        self.sequence_number = sequence_number
        self.state = _QUEUED
        self.is_final = False
        self.reason = None
        self.detail = ""
        self.is_unconfirmed = False
        self.is_parked = False
        self.evidence = None

        self.terms = terms
        self.failures_before = 0
        """How many attempts to reach the peer had failed when this was queued."""
        self.envelope = envelope
        """The v1 envelope, once there is one."""
        self.body = payload
        """The payload; header and payload of the v2 envelope, once it has a number."""
        self.sequence = 0
        """The number in its lane; 0: none yet."""
        self.row = 0
        """The number of its row in the lane in the store; 0: it has none."""
        self.is_settled = False
        """Whether the peer has answered, accepted or refused, while others of its batch wait."""
        self.is_stored = False
        """Whether it has a row in the store."""
        self.was_written = False
        """Whether a link has had it: then only the peer knows what became of it."""

    @property
    def recipient(self) -> Did:
        """Whom the message is for."""
        return self.terms.recipient

    @property
    def priority(self) -> Priority:
        """Its lane."""
        return self.terms.priority

    @property
    def expires_at(self) -> float | None:
        """Its deadline, by the clock that it follows; `None`: it has none. See `clock.left()`."""
        return self.terms.expires_at

    @property
    def payload_size(self) -> int:
        """Bytes of the payload."""
        if self.envelope is not None:
            return len(self.envelope.payload)
        # Nothing of what was released is left.
        return max(0, len(self.body) - V2_HEADER_SIZE) if self.sequence else len(self.body)

    def _seconds_left(self) -> float | None:
        due = self.terms.expires_at
        if due is None or self.state is not DeliveryState.ACCEPTED:
            return None
        return min(max(0.0, clock.left(due)), _LOOK_AGAIN)

    @property
    def _has_store(self) -> bool:
        return self.is_stored or self.terms.has_store

    def _check_followed(self, until: DeliveryState, *, is_blocking: bool = False) -> None:
        if until is DeliveryState.PERSISTED and not self._has_store:
            raise ValueError(NEEDS_STORE)
        if self.terms.is_bulk and until == DeliveryState.HANDLED:
            raise ValueError(
                "the receipts of this send_many() are followed as far as 'accepted': "
                "whether they are handled is heard with send_many(..., until='handled'), or send()"
            )
        home = self.terms.home
        if home is not None and not self.is_final and not self.has_reached(until):
            home.check_alive()
            if is_blocking and get_ident() == home.thread and not home.has_ended:
                raise RuntimeError(
                    "a blocking call in the event loop's own thread waits for ever; "
                    "use `await receipt.wait()`"
                )

    def restore(self, body: bytes, *, was_written: bool, expires_at: float | None = None) -> None:
        """It waited in the store: numbered before, and the same bytes again.

        `expires_at` is the deadline as the store knows it; by default the date in the header.
        """
        due, known = expiry_of(body), self.terms.expires_at
        if due is None:
            expires_at = None
        elif known is not None and not isinstance(known, WallInstant):
            expires_at = known  # its sender holds the receipt, and so the seconds count
        elif expires_at is None:
            expires_at = WallInstant(due / 1e6)
        home = self.terms.home
        self.terms = Terms(
            self.terms.recipient,
            Priority(body[PRIORITY]),
            expires_at,
            PayloadType(body[PAYLOAD_TYPE]),
            is_bulk=self.terms.is_bulk,
            queued_at_us=self.queued_at_us,
        )
        self.terms.home, self.terms.has_store = home, True
        self.body = body
        self.sequence = sequence_of(body)
        self.is_stored = True
        self.is_settled = False
        self.was_written = was_written

    def release(self) -> None:
        """Nothing here needs its bytes: who holds the receipt does not keep them."""
        self.envelope = None
        self.body = b""

    def seal(self, identity: Identity) -> SignedEnvelope:
        """The v1 envelope, signed by its sender once, however often it is asked for."""
        envelope = self.envelope
        if envelope is None:
            envelope = self.envelope = SignedEnvelope.sign(
                identity,
                self.terms.recipient,
                self.body[V2_HEADER_SIZE:] if self.sequence else self.body,
                sequence_number=self.sequence_number,
                priority=self.terms.priority,
                payload_type=self.terms.payload_type,
                timestamp_us=self.queued_at_us,
            )
        return envelope

    def number(self, parties: bytes, epoch: int, sequence: int) -> None:
        """Give it its place in its lane, and with it its v2 header.

        `parties` are the DIDs of sender and recipient.
        """
        self.complete(self.terms.common(parties, epoch), sequence)

    def complete(self, common: bytes, sequence: int) -> None:
        """`number()`, for many on the same terms: `common` is what `terms.common()` gives."""
        # First what can fail: a number says that there is a header.
        self.body = complete_v2_body(
            common, self.body, self.sequence_number, sequence, self.terms.queued[1]
        )
        self.sequence = sequence
