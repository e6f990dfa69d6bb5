"""`Message` and `OutgoingMessage`: what the two applications see."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import Any

import pytest

from bodykit import encode_v2_body
from idkit import id_of
from signedwire.clock import WallInstant
from signedwire.delivery.message import IncomingMessage, Message
from signedwire.delivery.outgoing_message import OutgoingMessage
from signedwire.delivery.receipt import Receipt
from signedwire.delivery.send_options import SendOptions
from signedwire.errors import SignatureError
from signedwire.identity import Identity
from signedwire.types import Did, PayloadType, Priority, Reason
from signedwire.wire.envelope import MerklePath, SignedEnvelope, sign_batch
from signedwire.wire.header import VOLATILE
from signedwire.wire.link_frames import REASON_CODES
from signedwire.wire.session import BatchReceived

ALICE = Identity.from_seed(bytes(range(32)))
BOB = Identity.from_seed(bytes(range(1, 33)))
ENVELOPE = SignedEnvelope.sign(
    ALICE,
    BOB.did,
    b"hello",
    sequence_number=7,
    message_id=id_of(7),
    timestamp_us=123,
    priority=Priority.HIGH,
    payload_type=PayloadType.SENSOR_FUSION,
)


def v2_body(sequence: int = 7, payload: bytes = b"hello", *, expires_at_us: int = 0) -> bytes:
    return encode_v2_body(
        bytes(ALICE.did) + bytes(BOB.did),
        payload,
        message_id=id_of(7),
        sequence_number=sequence,
        timestamp_us=123,
        priority=Priority.HIGH,
        payload_type=PayloadType.SENSOR_FUSION,
        epoch=9,
        expires_at_us=expires_at_us,
    )


def v1_message(*, is_proven: bool = True) -> IncomingMessage:
    return IncomingMessage(ENVELOPE.body, ENVELOPE.signature, is_proven=is_proven)


def v2_message(index: int = 1, *, expires_at_us: int = 0) -> IncomingMessage:
    """The `index`th of a batch of three, numbered from 6."""
    bodies = [v2_body(6 + n, expires_at_us=expires_at_us) for n in range(3)]
    root, signature, leaves = sign_batch(ALICE, bodies)
    batch = BatchReceived(bodies, root, leaves, signature)
    return IncomingMessage(bodies[index], batch, index, expires_at_us or None)


class RecordingOrigin:
    """An `AckSink` that notes what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[object, ...]] = []

    def taken(self, message: IncomingMessage) -> None:
        self.told.append(("taken", message))

    def reply(self, message: IncomingMessage, payload: bytes, payload_type: PayloadType) -> Receipt:
        self.told.append(("replied", message, payload, payload_type))
        return Receipt(message.sender, bytes(16))

    def acked(self, message: IncomingMessage) -> None:
        self.told.append(("handled", message))

    def nacked(self, message: IncomingMessage, reason: Reason, text: str) -> None:
        self.told.append(("refused", message, reason, text))


class TestMessage:
    @pytest.mark.parametrize("make", [v1_message, v2_message])
    def test_shows_what_arrived(self, make: Callable[[], IncomingMessage]) -> None:
        message = make()
        assert message.sender == ALICE.did
        assert message.is_proven
        assert message.payload == b"hello"
        assert message.priority is Priority.HIGH
        assert message.stream % VOLATILE == 2
        assert message.payload_type is PayloadType.SENSOR_FUSION
        assert (message.sequence_number, message.timestamp_us) == (7, 123)
        assert message.expires_at_us is None
        assert repr(message) == f"<Message 00000007 from {ALICE.did.short} 5 bytes>"
        message.envelope.verify()

    def test_the_envelope_of_v1(self) -> None:
        assert v1_message().envelope == ENVELOPE
        assert v1_message().size == len(ENVELOPE.body) == 106 + 5

    @pytest.mark.parametrize("index", range(3))
    def test_the_envelope_out_of_a_batch_can_be_verified_alone(self, index: int) -> None:
        message = v2_message(index)
        envelope = SignedEnvelope.decode(message.envelope.encode())
        envelope.verify()
        assert envelope == message.envelope
        assert (envelope.sequence_number, envelope.epoch) == (6 + index, 9)
        assert isinstance(envelope.merkle_path, MerklePath)
        assert (envelope.merkle_path.index, envelope.merkle_path.count) == (index, 3)
        assert message.size == len(envelope.body) == 126 + 5

    def test_a_deadline(self) -> None:
        assert v2_message(expires_at_us=55).expires_at_us == 55

    def test_an_unproven_sender_is_nobody(self) -> None:
        message = v1_message(is_proven=False)
        with pytest.raises(SignatureError, match="nothing proves who sent"):
            _ = message.sender
        assert not message.is_proven
        assert repr(message) == "<Message 00000007 from unproven sender 5 bytes>"

    def test_no_public_name_gives_the_sender_of_an_unsigned_message(self) -> None:
        """But the envelope and its bytes, which are what came."""
        message, found = v1_message(is_proven=False), list[str]()
        claimed = bytes(ALICE.did)
        for name in dir(message):
            if not name.startswith("_") and name != "envelope":
                with contextlib.suppress(SignatureError):
                    value = getattr(message, name)
                    if isinstance(value, (bytes, Did)) and bytes(value) == claimed:
                        found.append(name)
        assert found == []
        assert message.is_denied_by(claimed.__eq__)

    def test_only_a_node_makes_one(self) -> None:
        with pytest.raises(TypeError, match=r"^only a node makes messages: .* same MemoryNetwork$"):
            Message()

    @pytest.mark.parametrize(
        "name",
        [
            name
            for one in (Message, IncomingMessage)
            for name, value in vars(one).items()
            if isinstance(value, property)
        ],
    )
    def test_is_immutable(self, name: str) -> None:
        message = v1_message()
        with pytest.raises(AttributeError):
            setattr(message, name, getattr(message, name))

    def test_the_public_class_has_what_an_application_needs(self) -> None:
        assert {name for name in dir(Message) if not name.startswith("_")} == {
            *("ack", "nack", "reply", "sender", "proven_sender", "is_proven", "envelope"),
            *("payload", "payload_type", "priority", "message_id", "sequence_number"),
            *("kind", "subject", "durable", "reply_to"),
            *("epoch", "timestamp_us", "expires_at_us", "redelivered", "size"),
        }

    def test_is_one_object_without_a_dictionary(self) -> None:
        message = v1_message()
        assert isinstance(message, Message)
        assert not hasattr(message, "__dict__")


class TestAnswers:
    def test_done_is_told_once(self) -> None:
        message, origin = v2_message(), RecordingOrigin()
        message.origin = origin
        message.ack()
        message.ack()
        message.nack()
        assert origin.told == [("handled", message)]

    @pytest.mark.parametrize("reason", REASON_CODES)
    def test_a_refusal_is_told_once(self, reason: Reason) -> None:
        message, origin = v2_message(), RecordingOrigin()
        message.origin = origin
        message.nack(reason, "not today")
        message.nack(Reason.TOO_LARGE)
        message.ack()
        assert origin.told == [("refused", message, reason, "not today")]

    def test_the_reason_of_a_refusal_without_one(self) -> None:
        message, origin = v2_message(), RecordingOrigin()
        message.origin = origin
        message.nack()
        assert origin.told == [("refused", message, Reason.REFUSED, "")]

    @pytest.mark.parametrize("detail", ["x" * 256, "ü" * 128, "später, um 9 Uhr"])
    def test_words_for_a_refusal(self, detail: str) -> None:
        message, origin = v2_message(), RecordingOrigin()
        message.origin = origin
        message.nack("rate", detail)
        assert origin.told == [("refused", message, Reason.RATE, detail)]

    @pytest.mark.parametrize(
        ("detail", "kind", "said"),
        [
            ("x" * 257, ValueError, "detail has 257 bytes of UTF-8, and at most 256 are allowed"),
            ("ü" * 129, ValueError, "detail has 258 bytes of UTF-8, and at most 256 are allowed"),
            ("a\nb", ValueError, "has a character that is not printable"),
            ("\x1b[2J", ValueError, "has a character that is not printable"),
            ("\ud800", ValueError, "has a character that is not printable"),
            (b"late", TypeError, "a text is wanted"),
            (None, TypeError, "a text is wanted"),
        ],
    )
    def test_words_that_cannot_be_sent(self, detail: Any, kind: type[Exception], said: str) -> None:
        message, origin = v2_message(), RecordingOrigin()
        message.origin = origin
        with pytest.raises(kind, match=said):
            message.nack(detail=detail)
        message.ack()
        assert origin.told == [("handled", message)]

    @pytest.mark.parametrize("reason", sorted(set(Reason) - set(REASON_CODES)))
    def test_a_reason_that_has_no_code_is_the_callers_mistake(self, reason: Reason) -> None:
        message, origin = v2_message(), RecordingOrigin()
        message.origin = origin
        with pytest.raises(ValueError, match="has no code on the wire; known are expired"):
            message.nack(reason)
        message.ack()
        assert origin.told == [("handled", message)]

    def test_a_v1_sender_cannot_be_told(self) -> None:
        message = v1_message()
        message.ack()
        message.nack()
        assert message.origin is None


class TestOutgoingMessage:
    def test_is_signed_when_asked_for(self) -> None:
        message = OutgoingMessage(
            SendOptions(BOB.did, Priority.CRITICAL, 12.5, payload_type=PayloadType.ROBOT_COMMAND),
            id_of(7),
            b"stop",
        )
        assert (message.envelope, message.expires_at, message.failures_before) == (None, 12.5, 0)
        envelope = message.seal(ALICE, 9)
        assert message.envelope is envelope
        envelope.verify()
        assert (envelope.sender, envelope.recipient) == (ALICE.did, BOB.did)
        assert (envelope.payload, envelope.sequence_number) == (b"stop", 9)
        assert (envelope.message_id, message.message_id) == (id_of(7), id_of(7).hex())
        assert envelope.priority is Priority.CRITICAL is message.priority
        assert envelope.payload_type is PayloadType.ROBOT_COMMAND
        # Its time is the one of queueing, however late it is signed.
        assert envelope.timestamp_us == message.queued_at_us == message.history[0].at_us

    def test_defaults(self) -> None:
        envelope = OutgoingMessage(SendOptions(BOB.did, Priority.NORMAL), id_of(1)).seal(ALICE, 1)
        assert (envelope.payload, envelope.payload_type) == (b"", PayloadType.RAW)

    def test_a_numbered_one_has_the_same_envelope_in_each_process(self) -> None:
        message = OutgoingMessage(SendOptions(BOB.did, Priority.HIGH), id_of(1), b"stop")
        message.number(bytes(ALICE.did) + bytes(BOB.did), 1, 5)
        message.is_stored = True
        later = OutgoingMessage(
            SendOptions(BOB.did, Priority.HIGH, queued_at_us=message.queued_at_us), id_of(1)
        )
        later.restore(message.body, was_written=True)
        envelope = later.seal(ALICE, 7)
        assert (envelope.payload, envelope.sequence_number) == (b"stop", 5)
        assert envelope.encode() == message.seal(ALICE, 9).encode()

    def test_a_ready_envelope_goes_as_it_is(self) -> None:
        message = OutgoingMessage(
            SendOptions(BOB.did, ENVELOPE.priority), id_of(7), envelope=ENVELOPE
        )
        assert message.envelope is ENVELOPE

    @pytest.mark.parametrize("lifetime", [None, 12.5])
    def test_gets_its_v2_header_with_its_number(self, lifetime: float | None) -> None:
        expires_at = None if lifetime is None else time.monotonic() + lifetime
        message = OutgoingMessage(
            SendOptions(BOB.did, Priority.HIGH, expires_at), id_of(7), b"hello"
        )
        assert (message.sequence, message.body, message.payload_size) == (0, b"hello", 5)
        message.number(bytes(ALICE.did) + bytes(BOB.did), 9, 3)
        _, signature, leaves = sign_batch(ALICE, [message.body])
        envelope = SignedEnvelope(message.body, MerklePath(0, 1, signature, leaves=leaves))
        envelope.verify()
        assert message.sequence == envelope.sequence_number == 3
        assert message.message_id == envelope.message_id.hex() == id_of(7).hex()
        assert (envelope.sender, envelope.recipient) == (ALICE.did, BOB.did)
        assert (envelope.version, envelope.epoch) == (9, 9)
        assert (envelope.payload, envelope.priority) == (b"hello", Priority.HIGH)
        if lifetime is None:
            assert envelope.expires_at_us is None
        else:  # the wire carries an instant of the clock
            assert envelope.expires_at_us is not None
            assert abs(envelope.expires_at_us - time.time() * 1e6 - lifetime * 1e6) < 1e6
        assert envelope.timestamp_us == message.queued_at_us
        assert envelope.message_id == id_of(7)


class TestRestored:
    """A message whose bytes were released, and are read from the store again."""

    @staticmethod
    def restored(
        deadline: float | None, body: bytes, row_deadline: float | None = None
    ) -> OutgoingMessage:
        message = OutgoingMessage(SendOptions(BOB.did, Priority.LOW, deadline), id_of(7))
        message.restore(body, was_written=True, expires_at=row_deadline)
        return message

    def test_what_its_header_says(self) -> None:
        message = self.restored(None, v2_body())
        assert (message.priority, message.sequence, message.payload_size) == (Priority.HIGH, 7, 5)
        assert message.options.payload_type is PayloadType.SENSOR_FUSION
        assert message.was_written

    def test_its_deadline(self) -> None:
        body = v2_body(expires_at_us=1_500_000)
        # By default it is the date in the header.
        by_header = self.restored(None, body).expires_at
        assert isinstance(by_header, WallInstant)
        assert by_header == 1.5
        # A sender that still runs counts in seconds; the row may have a deadline of its own.
        assert self.restored(12.5, body, 99.0).expires_at == 12.5
        assert self.restored(WallInstant(3.5), body, 99.0).expires_at == 99.0
        assert self.restored(None, v2_body(), 99.0).expires_at is None


def test_the_size_of_a_payload_is_that_of_its_bytes() -> None:
    queued = OutgoingMessage(SendOptions(BOB.did, Priority.LOW), id_of(1), b"12345")
    assert queued.payload_size == 5
    sealed = OutgoingMessage(
        SendOptions(BOB.did, Priority.LOW), id_of(1), envelope=queued.seal(ALICE, 1)
    )
    assert sealed.payload_size == 5


def test_an_outgoing_message_begins_as_a_receipt_does() -> None:
    """It sets what `Receipt.__init__` sets, by itself."""
    terms = SendOptions(BOB.did, Priority.NORMAL)
    message, receipt = (
        OutgoingMessage(terms, id_of(7)),
        Receipt(BOB.did, id_of(7), steps=terms.queued),
    )
    assert message.recipient == receipt.recipient
    for name in set(Receipt.__slots__) - {"__weakref__", "_recipient"}:
        assert getattr(message, name) == getattr(receipt, name), name
