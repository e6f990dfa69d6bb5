"""The header of version 9: what is written is read, and no field of it can be changed."""

from __future__ import annotations

import unicodedata
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bodykit import encode_v2_body
from linkkit import ALICE, BOB, alone, body, received
from signedwire.delivery.receive_streams import Arrivals, ReceiveStreams
from signedwire.errors import EnvelopeError, SignatureError
from signedwire.types import ControlType, Kind, PayloadType, Priority, Reason
from signedwire.wire.batch import leaf_of
from signedwire.wire.envelope import SignedEnvelope
from signedwire.wire.header import (
    MAX_V2_HEADER_SIZE,
    MIN_V2_HEADER_SIZE,
    V2_START,
    epoch_of,
    expiry_of,
    is_durable,
    is_subject,
    kind_of,
    message_id_of,
    payload_start,
    sequence_of,
    subject_of,
    timestamp_of,
    unpack_v2,
    with_epoch,
    with_expiry,
)

PARTIES = bytes(ALICE.did) + bytes(BOB.did)
KIND, CONTROL_TYPE, FLAGS, SUBJECT_SIZE, SUBJECT = 122, 123, 124, 125, 126

u64s = st.integers(0, 2**64 - 1)
kinds = st.sampled_from([Kind.MESSAGE, Kind.REQUEST, Kind.REPLY, Kind.PUBLICATION])
subjects = (
    st.text(max_size=80)
    .map(lambda text: unicodedata.normalize("NFC", "".join(filter(str.isprintable, text))))
    .filter(lambda text: len(text.encode()) <= 255 and is_subject(text.encode()))
)


def with_byte(raw: bytes, at: int, value: int) -> bytes:
    return raw[:at] + bytes((value,)) + raw[at + 1 :]


def reply(payload: bytes = b"hello", subject: bytes = b"") -> bytes:
    return body(1, payload, kind=Kind.REPLY, subject=subject, reply_to=leaf_of(b"request"))


class TestRoundTrip:
    @settings(deadline=None, print_blob=True)
    @given(
        st.binary(max_size=40),
        st.binary(min_size=16, max_size=16),
        st.tuples(u64s, u64s, u64s, u64s),
        st.sampled_from(Priority),
        st.sampled_from(PayloadType),
        kinds,
        subjects,
        st.booleans(),
    )
    def test_what_is_written_is_read(
        self,
        payload: bytes,
        message_id: bytes,
        numbers: tuple[int, int, int, int],
        priority: Priority,
        payload_type: PayloadType,
        kind: Kind,
        subject: str,
        durable: bool,
    ) -> None:
        sequence, timestamp, epoch, expiry = numbers
        reply_to = leaf_of(payload) if kind is Kind.REPLY else b""
        made = encode_v2_body(
            PARTIES,
            payload,
            message_id,
            sequence,
            timestamp,
            priority,
            payload_type,
            epoch,
            expiry,
            kind,
            subject.encode(),
            reply_to,
            is_durable=durable,
        )
        assert message_id_of(made) == message_id
        assert (sequence_of(made), timestamp_of(made)) == (sequence, timestamp)
        assert (epoch_of(made), expiry_of(made)) == (epoch, expiry or None)
        assert (kind_of(made), subject_of(made), is_durable(made)) == (kind, subject, durable)
        start = payload_start(made)
        assert made[start:] == payload
        assert made[start - len(reply_to) : start] == reply_to
        assert MIN_V2_HEADER_SIZE <= start <= MAX_V2_HEADER_SIZE
        assert unpack_v2(made) == (
            *(V2_START, sequence, PARTIES, priority, payload_type, epoch, expiry, kind),
            len(subject.encode()),
        )
        assert with_expiry(with_epoch(made, 1), 2)[start:] == payload
        envelope = SignedEnvelope.decode(alone([made]).encode())
        envelope.verify()
        assert (envelope.kind, envelope.subject, envelope.durable) == (kind, subject, durable)
        assert (envelope.payload, envelope.payload_size) == (payload, len(payload))

    def test_the_largest(self) -> None:
        made = reply(b"", b"a" * 255)
        assert len(made) == payload_start(made) == MAX_V2_HEADER_SIZE == 413

    def test_reserved_numbers(self) -> None:
        assert [*ControlType] == [1, 2, 3, 4, 5]
        assert [*Kind] == [0, 1, 2, 3, 4]


class TestForgery:
    @pytest.mark.parametrize(
        "at",
        [*range(8, 24), KIND, CONTROL_TYPE, FLAGS, SUBJECT_SIZE, SUBJECT + 3, 150],
    )
    def test_a_changed_byte_of_a_field_breaks_the_signature(self, at: int) -> None:
        raw = alone([reply(subject=b"arm")]).encode()
        for bit in range(8):
            with pytest.raises((EnvelopeError, SignatureError)):
                SignedEnvelope.decode(with_byte(raw, at, raw[at] ^ 1 << bit)).verify()

    @settings(deadline=None, print_blob=True)
    @given(st.integers(0, MAX_V2_HEADER_SIZE - 1), st.integers(1, 255))
    @example(FLAGS, 2)
    def test_any_changed_byte_of_the_longest_header(self, at: int, change: int) -> None:
        raw = alone([reply(subject=b"a" * 255)]).encode()
        with pytest.raises((EnvelopeError, SignatureError)):
            SignedEnvelope.decode(with_byte(raw, at, raw[at] ^ change)).verify()

    def test_bytes_cannot_move_between_subject_and_payload(self) -> None:
        one, other = body(1, b"bc", subject=b"a"), body(1, b"c", subject=b"ab")
        assert one[SUBJECT:] == other[SUBJECT:]
        assert leaf_of(one) != leaf_of(other)

    def test_unknown_flags_are_signed_and_ignored(self) -> None:
        odd = with_byte(body(), FLAGS, 0xFE)
        envelope = SignedEnvelope.decode(alone([odd]).encode())
        envelope.verify()
        assert not envelope.durable


BAD: dict[str, bytes] = {
    "unknown kind": with_byte(body(), KIND, 5),
    "charter": with_byte(with_byte(body(), KIND, 4), CONTROL_TYPE, 3),
    "succession": with_byte(with_byte(body(), KIND, 4), CONTROL_TYPE, 4),
    "file": with_byte(with_byte(body(), KIND, 4), CONTROL_TYPE, 5),
    "control without a type": with_byte(body(), KIND, 4),
    "control type of a message": with_byte(body(), CONTROL_TYPE, 1),
    "control type of a reply": with_byte(reply(), CONTROL_TYPE, 5),
    "subject over the end": with_byte(body(), SUBJECT_SIZE, 200),
    "reply without reply_to": with_byte(body(), KIND, 2),
    "reply_to over the end": reply(b"")[:-1],
    "not UTF-8": body(subject=b"\xff"),
    "half a character": body(subject="ö".encode()[:1]),
    "line end": body(subject=b"a\n"),
    "escape": body(subject=b"\x1b[31m"),
    "delete": body(subject=b"a\x7f"),
    "next line": body(subject="a\x85".encode()),
    "line separator": body(subject="a\u2028".encode()),
    "paragraph separator": body(subject="\u2029a".encode()),
    "surrogate": body(subject=b"\xed\xa0\x80"),
    "version 8": with_byte(body(), 4, 8),
}


def arrived(*bodies: bytes, most: int = 1000) -> Arrivals:
    streams = ReceiveStreams(bytes(BOB.did), bytes(ALICE.did), 100)
    streams.begin(9)
    return streams.arrived(received([*bodies]), most, 0)


class TestReceiver:
    @pytest.mark.parametrize("name", BAD)
    def test_refuses_it_as_malformed_and_takes_its_neighbour(self, name: str) -> None:
        arrivals = arrived(BAD[name], body(2))
        assert [message.sequence_number for message in arrivals.new] == [2]
        assert [each.reason for each in arrivals.refusals] == [Reason.MALFORMED]

    @pytest.mark.parametrize("name", BAD)
    def test_a_verifier_refuses_it(self, name: str) -> None:
        with pytest.raises((EnvelopeError, SignatureError)):
            SignedEnvelope.decode(alone([BAD[name]]).encode()).verify()

    def test_version_8_is_named(self) -> None:
        with pytest.raises(EnvelopeError, match="an envelope of version 8, which"):
            SignedEnvelope.decode(alone([BAD["version 8"]]).encode())

    @pytest.mark.parametrize("kind", [Kind.MESSAGE, Kind.REQUEST, Kind.PUBLICATION])
    @pytest.mark.parametrize("durable", [False, True])
    def test_takes_every_kind_of_message(self, kind: Kind, durable: bool) -> None:
        text = "arm/größe".encode()
        (message,) = arrived(body(kind=kind, subject=text, is_durable=durable)).new
        assert (message.kind, message.subject, message.payload) == (kind, "arm/größe", b"hello")
        assert message.durable == durable

    @pytest.mark.parametrize(
        "text",
        ["a\xa0b", "\u202eabc", "\ue000", "\u0378", unicodedata.normalize("NFD", "größe")],
        ids=["space", "right to left", "private", "unassigned", "not NFC"],
    )
    def test_needs_no_tables_of_unicode(self, text: str) -> None:
        """A verifier with other tables would judge the same proof differently."""
        odd = body(subject=text.encode())
        (message,) = arrived(odd).new
        assert message.subject == text
        SignedEnvelope.decode(alone([odd]).encode()).verify()

    def test_takes_a_reply(self) -> None:
        (message,) = arrived(reply(), most=5).new
        assert (message.kind, message.subject, message.payload) == (Kind.REPLY, "", b"hello")
        (empty,) = arrived(reply(b"", b"a"), most=5).new
        assert (empty.payload, empty.subject) == (b"", "a")

    @pytest.mark.parametrize("fields", [{}, {"subject": b"a" * 255}], ids=["short", "long"])
    def test_the_header_does_not_count_as_payload(self, fields: dict[str, Any]) -> None:
        assert arrived(body(1, bytes(5), **fields), most=5).new
        arrivals = arrived(body(1, bytes(6), **fields), most=5)
        assert [each.reason for each in arrivals.refusals] == [Reason.TOO_LARGE]
