"""`Message` and `OutgoingMessage`: what the two applications see."""

from __future__ import annotations

import pytest

from signedwire.delivery.message import Message, OutgoingMessage
from signedwire.delivery.receipt import Receipt
from signedwire.identity import Identity
from signedwire.types import PayloadType, Priority
from signedwire.wire.envelope import SignedEnvelope

ALICE = Identity.from_seed(bytes(range(32)))
BOB = Identity.from_seed(bytes(range(1, 33)))
ENVELOPE = SignedEnvelope.sign(
    ALICE,
    BOB.did,
    b"hello",
    sequence_number=7,
    timestamp_us=123,
    priority=Priority.HIGH,
    payload_type=PayloadType.SENSOR_FUSION,
)


class TestMessage:
    def test_shows_what_arrived(self) -> None:
        message = Message(ENVELOPE, True)
        assert message.sender == ALICE.did
        assert message.is_proven
        assert message.payload == b"hello"
        assert message.priority is Priority.HIGH
        assert message.payload_type is PayloadType.SENSOR_FUSION
        assert (message.sequence_number, message.timestamp_us) == (7, 123)
        assert message.envelope is ENVELOPE
        assert repr(message) == f"<Message #7 from {ALICE.did.short} 5 bytes>"

    def test_an_unproven_sender_is_nobody(self) -> None:
        message = Message(ENVELOPE, False)
        assert message.sender is None
        assert not message.is_proven
        assert repr(message) == "<Message #7 from unproven sender 5 bytes>"

    @pytest.mark.parametrize("name", ["sender", "is_proven", "payload", "envelope", "priority"])
    def test_is_immutable(self, name: str) -> None:
        message = Message(ENVELOPE, True)
        with pytest.raises(AttributeError):
            setattr(message, name, getattr(message, name))


class TestOutgoingMessage:
    def test_is_signed_when_asked_for_and_once(self) -> None:
        receipt = Receipt(BOB.did, 7)
        message = OutgoingMessage(
            receipt,
            Priority.CRITICAL,
            12.5,
            identity=ALICE,
            payload=b"stop",
            payload_type=PayloadType.ROBOT_COMMAND,
        )
        assert (message.envelope, message.expires_at, message.failures_before) == (None, 12.5, 0)
        envelope = message.seal()
        assert message.seal() is message.envelope is envelope
        envelope.verify()
        assert (envelope.sender, envelope.recipient) == (ALICE.did, BOB.did)
        assert (envelope.payload, envelope.sequence_number) == (b"stop", 7)
        assert envelope.priority is Priority.CRITICAL is message.priority
        assert envelope.payload_type is PayloadType.ROBOT_COMMAND
        # Its time is the one of queueing, however late it is signed.
        assert envelope.timestamp_us == receipt.queued_at_us == receipt.history[0].at_us

    def test_defaults(self) -> None:
        envelope = OutgoingMessage(
            Receipt(BOB.did, 1), Priority.NORMAL, None, identity=ALICE
        ).seal()
        assert (envelope.payload, envelope.payload_type) == (b"", PayloadType.RAW)

    def test_a_ready_envelope_goes_as_it_is(self) -> None:
        message = OutgoingMessage(Receipt(BOB.did, 7), ENVELOPE.priority, None, envelope=ENVELOPE)
        assert message.seal() is ENVELOPE


def test_the_size_of_a_payload_is_that_of_its_bytes() -> None:
    receipt = Receipt(BOB.did, 1)
    queued = OutgoingMessage(receipt, Priority.LOW, None, identity=ALICE, payload=b"12345")
    assert queued.payload_size == 5
    sealed = OutgoingMessage(receipt, Priority.LOW, None, envelope=queued.seal())
    assert sealed.payload_size == 5
