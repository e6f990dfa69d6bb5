"""`SignedEnvelope`: the captured v1 frames byte for byte, every refusal, every flipped region."""

from __future__ import annotations

import copy
import pickle
import random
import time
from hashlib import sha256
from typing import Any

import pytest
from blake3 import blake3
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from idkit import id_of
from linkkit import EVE, alone, body
from signedwire.errors import DidError, EnvelopeError, SignatureError, SignedWireError
from signedwire.identity import Identity
from signedwire.types import Did, PayloadType, Priority, did_text
from signedwire.wire.envelope import ENVELOPE_OVERHEAD, SIGNATURE_SIZE, MerklePath, SignedEnvelope
from signedwire.wire.frames import LENGTH_SIZE, FrameDecoder, encode_frame
from signedwire.wire.header import MIN_V2_HEADER_SIZE, V1_HEADER_SIZE
from vectors import load_vectors

ALICE = Identity.from_seed(bytes(range(32)))
BOB = Identity.from_seed(bytes(range(1, 33)))
U64 = 2**64 - 1

# One frame of a live v1 peer, so that something is checked without the shared vectors too.
CAPTURED = bytes.fromhex(
    "000000ac494e4d4f0700000002000000000000004b35f730db6006000200000000000000"
    "89cc5dea9cf6053d8a6f127eb7a3538d659478420de95ca2882e706b7ac2756b"
    "c414557bc04a06391acb792d1cce71980ff87aa779755fa403f825beaafe9ba8"
    "4b35f730db60060001000a00"
    "9d04eba438b547dd4fd8717055d16916c6f2b0a160c192f3bccfc9e187c7fd73"
    "efec3348ebdc8e39b7405dff35d8e188ce391f1eb1e5983acabc6013d25d0702"
)

u64s = st.integers(0, U64)
fields = st.fixed_dictionaries(
    {
        "payload": st.binary(max_size=300),
        "sequence_number": u64s,
        "timestamp_us": u64s,
        "priority": st.sampled_from(Priority),
        "payload_type": st.sampled_from(PayloadType),
        "message_id": st.none() | st.binary(min_size=16, max_size=16),
    }
)


def make(payload: bytes = b"hello", **changes: Any) -> SignedEnvelope:
    given_fields: dict[str, Any] = {"sequence_number": 7, "timestamp_us": 1_000_000, **changes}
    return SignedEnvelope.sign(ALICE, BOB.did, payload, **given_fields)


def refusal(data: bytes | bytearray) -> str:
    with pytest.raises(EnvelopeError) as caught:
        SignedEnvelope.decode(data)
    assert isinstance(caught.value, ValueError)
    return str(caught.value)


class TestCapturedFrames:
    @pytest.mark.parametrize("number", range(6))
    def test_decode_verify_and_encode(self, number: int) -> None:
        vector = load_vectors("v1-frames")["frames"][number]
        frame, header = bytes.fromhex(vector["frame_hex"]), vector["header"]
        decoder = FrameDecoder(2048)
        (body,) = decoder.receive_data(frame)
        envelope = SignedEnvelope.decode(body)
        assert int.from_bytes(body[:4], "little") == header["magic"]
        assert envelope.version == header["version"]
        assert envelope.message_id.hex() == header["message_id"]
        assert envelope.sequence_number == header["sequence_number"]
        assert envelope.sender == Did.parse(header["sender_did"])
        assert envelope.recipient == Did.parse(header["recipient_did"])
        assert envelope.timestamp_us == header["timestamp_us"]
        assert envelope.priority == header["priority"]
        assert envelope.payload_type == header["payload_type"]
        assert envelope.payload.hex() == vector["payload_hex"]
        assert envelope.signature.hex() == vector["signature"]
        assert envelope.digest.hex() == vector["blake3_digest"]
        assert envelope.is_signed
        envelope.verify()
        assert encode_frame(envelope.encode()) == frame
        # The same fields give the same bytes, all but the signature, whose key is not ours.
        again = SignedEnvelope.unsigned(
            envelope.sender,
            envelope.recipient,
            envelope.payload,
            sequence_number=envelope.sequence_number,
            priority=envelope.priority,
            payload_type=envelope.payload_type,
            timestamp_us=envelope.timestamp_us,
        )
        assert again.encode()[:-SIGNATURE_SIZE] == body[:-SIGNATURE_SIZE]

    def test_there_are_six(self) -> None:
        assert len(load_vectors("v1-frames")["frames"]) == 6

    def test_the_copied_one(self) -> None:
        envelope = SignedEnvelope.decode(CAPTURED[LENGTH_SIZE:])
        envelope.verify()
        assert (envelope.version, envelope.sequence_number, envelope.payload) == (7, 2, b"\n\0")
        assert envelope.timestamp_us == 1795344395875659
        assert envelope.digest.hex() == (
            "1940f042b255aab8b426acf2869a20c446cde95d0e895c59f323198b625094d1"
        )
        assert repr(envelope) == "<SignedEnvelope 02000000 89cc5dea… -> c414557b… NORMAL 2 bytes>"
        assert encode_frame(envelope.encode()) == CAPTURED


class TestMaking:
    @settings(deadline=None)
    @given(fields)
    def test_sign_is_deterministic_and_round_trips(self, given_fields: dict[str, Any]) -> None:
        payload = given_fields.pop("payload")
        envelope = SignedEnvelope.sign(ALICE, BOB.did, payload, **given_fields)
        assert envelope == SignedEnvelope.sign(ALICE, BOB.did, payload, **given_fields)
        decoded = SignedEnvelope.decode(envelope.encode())
        decoded.verify()
        assert decoded == envelope
        for name, value in given_fields.items():
            if name != "message_id" or value is not None:
                assert getattr(decoded, name) == value
        assert (decoded.sender, decoded.recipient) == (ALICE.did, BOB.did)
        assert (decoded.payload, decoded.version, decoded.is_signed) == (payload, 7, True)
        assert type(decoded.priority) is Priority
        assert type(decoded.payload_type) is PayloadType

    def test_the_bytes_as_wire_v1_has_them(self) -> None:
        envelope = make(priority=Priority.CRITICAL, payload_type=PayloadType.MODEL_WEIGHTS)
        data = envelope.encode()
        u64_7, u64_time = (7).to_bytes(8, "little"), (1_000_000).to_bytes(8, "little")
        header = (
            b"INMO"
            + (7).to_bytes(4, "little")
            + u64_7
            + u64_time
            + u64_7
            + bytes(ALICE.did)
            + bytes(BOB.did)
            + u64_time
            + b"\x03\x02"
        )
        assert len(header) == V1_HEADER_SIZE == 106
        assert data[:-64] == header + b"hello"
        assert envelope.digest == blake3(header + b"hello").digest()
        assert ENVELOPE_OVERHEAD == 170 == len(make(b"").encode())

    def test_defaults(self) -> None:
        before = time.time_ns() // 1000
        envelope = SignedEnvelope.sign(ALICE, BOB.did, b"", sequence_number=5)
        assert before <= envelope.timestamp_us <= time.time_ns() // 1000
        assert (envelope.priority, envelope.payload_type) == (Priority.NORMAL, PayloadType.RAW)

    @given(u64s, u64s)
    def test_the_default_message_id_is_sequence_then_timestamp(
        self, sequence_number: int, timestamp_us: int
    ) -> None:
        envelope = SignedEnvelope.unsigned(
            ALICE.did, BOB.did, b"", sequence_number=sequence_number, timestamp_us=timestamp_us
        )
        assert envelope.message_id == (
            sequence_number.to_bytes(8, "little") + timestamp_us.to_bytes(8, "little")
        )

    def test_unsigned_differs_in_the_signature_alone(self) -> None:
        signed = make()
        unsigned = SignedEnvelope.unsigned(
            ALICE.did, BOB.did, b"hello", sequence_number=7, timestamp_us=1_000_000
        )
        assert not unsigned.is_signed
        assert unsigned.signature == bytes(64)
        assert unsigned.digest == signed.digest
        assert unsigned.encode()[:-64] == signed.encode()[:-64]
        assert unsigned != signed

    @pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
    def test_payload_and_frame_of_any_bytes_type_are_copied(self, kind: Any) -> None:
        source = bytearray(b"hello")
        envelope = make(kind(source))
        frame = bytearray(envelope.encode())
        decoded = SignedEnvelope.decode(kind(frame))
        source[:] = b"XXXXX"
        frame[:] = bytes(len(frame))
        assert type(decoded.encode()) is bytes
        assert envelope == decoded == make()

    @pytest.mark.parametrize("name", ["sequence_number", "timestamp_us"])
    @pytest.mark.parametrize("value", [-1, U64 + 1])
    def test_numbers_out_of_range(self, name: str, value: int) -> None:
        numbers: dict[str, Any] = {"sequence_number": 7, "timestamp_us": 1_000_000, name: value}
        with pytest.raises(EnvelopeError) as caught:
            make(**numbers)
        assert str(caught.value) == (
            f"sequence number {numbers['sequence_number']} or timestamp "
            f"{numbers['timestamp_us']} is not between 0 and 2^64-1"
        )

    @pytest.mark.parametrize(
        ("priority", "payload_type"), [(-1, 0), (4, 0), (0, -1), (0, 5), (256, 256)]
    )
    def test_unknown_priority_or_payload_type(self, priority: int, payload_type: int) -> None:
        with pytest.raises(EnvelopeError) as caught:
            make(priority=priority, payload_type=payload_type)
        assert str(caught.value) == (
            f"priority {priority} or payload type {payload_type} is unknown. "
            "Use the members of Priority and PayloadType"
        )

    @pytest.mark.parametrize(("payload", "kind"), [("text", "str"), (5, "int"), (None, "NoneType")])
    def test_payload_that_is_not_bytes(self, payload: Any, kind: str) -> None:
        with pytest.raises(EnvelopeError) as caught:
            make(payload)
        assert str(caught.value) == (f"a payload is bytes, not {kind}. Encode text with .encode()")

    @pytest.mark.parametrize("length", [0, 15, 17])
    def test_message_id_of_another_length(self, length: int) -> None:
        with pytest.raises(EnvelopeError) as caught:
            make(message_id=bytes(length))
        assert str(caught.value) == f"a message id is 16 bytes, got {length}"

    def test_unsigned_refuses_what_sign_refuses(self) -> None:
        with pytest.raises(EnvelopeError, match="sequence number -1"):
            SignedEnvelope.unsigned(ALICE.did, BOB.did, b"", sequence_number=-1)


class TestDecoding:
    @pytest.mark.parametrize("length", [0, 1, 4, 106, 169])
    def test_too_short(self, length: int) -> None:
        assert refusal(make().encode()[:length]) == (
            f"not an envelope: {length} bytes, the smallest has 170"
        )

    def test_another_magic(self) -> None:
        # The same number in the other byte order is another magic too.
        assert refusal(b"OMNI" + make().encode()[4:]) == (
            "not an envelope: begins with 4f 4d 4e 49, not 49 4e 4d 4f"
        )

    def test_unknown_priority(self) -> None:
        data = bytearray(make().encode())
        for data[104] in range(4, 256):
            assert refusal(data) == f"not an envelope: priority {data[104]}, known are 0 to 3"

    def test_unknown_payload_type(self) -> None:
        data = bytearray(make().encode())
        for data[105] in range(5, 256):
            assert refusal(data) == f"not an envelope: payload type {data[105]}, known are 0 to 4"

    @pytest.mark.parametrize("version", [0, 1, 8, 2**32 - 1])
    def test_any_version_is_read(self, version: int) -> None:
        data = bytearray(make().encode())
        data[4:8] = version.to_bytes(4, "little")
        assert SignedEnvelope.decode_v1(bytes(data)).version == version
        if version != 8:  # that is v2: see TestV2
            assert SignedEnvelope.decode(data).version == version

    @pytest.mark.parametrize("length", [0, 1, 4, 106, 169])
    def test_v1_frames_are_read_by_the_same_rules(self, length: int) -> None:
        data = make().encode()
        assert SignedEnvelope.decode_v1(data) == make()
        with pytest.raises(EnvelopeError, match=f"{length} bytes, the smallest has 170"):
            SignedEnvelope.decode_v1(data[:length])

    def test_a_larger_payload_than_v1_peers_take(self) -> None:
        payload = bytes(100_000)
        assert SignedEnvelope.decode(make(payload).encode()).payload == payload

    @pytest.mark.parametrize(("name", "at"), [("sender", 32), ("recipient", 64)])
    def test_a_did_that_is_none_shows_when_it_is_read(self, name: str, at: int) -> None:
        data = bytearray(make().encode())
        data[at : at + 32] = bytes(32)
        envelope = SignedEnvelope.decode(data)
        with pytest.raises(DidError):
            getattr(envelope, name)
        with pytest.raises(SignatureError):
            envelope.verify()
        assert "00000000…" in repr(envelope)

    @settings(deadline=None, max_examples=300)
    @given(
        st.binary(max_size=400)
        | st.binary(min_size=170, max_size=400).map(lambda data: b"INMO" + data[4:])
    )
    def test_any_bytes_are_an_envelope_or_an_envelope_error(self, data: bytes) -> None:
        try:
            envelope = SignedEnvelope.decode(data)
        except EnvelopeError:
            return
        assert envelope.encode() == data
        repr(envelope)


class TestVerifying:
    REGIONS = (
        ("magic", 0, 4),
        ("version", 4, 8),
        ("message_id", 8, 24),
        ("sequence_number", 24, 32),
        ("sender", 32, 64),
        ("recipient", 64, 96),
        ("timestamp_us", 96, 104),
        ("priority", 104, 105),
        ("payload_type", 105, 106),
        ("payload", 106, 111),
        ("R", 111, 143),
        ("S", 143, 175),
    )

    @pytest.mark.parametrize(("name", "start", "stop"), REGIONS)
    def test_any_flipped_byte_fails(self, name: str, start: int, stop: int) -> None:
        seed = random.randrange(2**32)
        draw = random.Random(seed)
        data = make().encode()
        assert len(data) == self.REGIONS[-1][2]
        for position in range(start, stop):
            flipped = bytearray(data)
            flipped[position] ^= draw.randrange(1, 256)
            # Not decode(), which would refuse some of them earlier.
            with pytest.raises(SignatureError) as caught:
                SignedEnvelope(bytes(flipped[:-64]), bytes(flipped[-64:])).verify()
            signer = did_text(bytes(flipped[32:64]))
            assert str(caught.value) == (
                f"bad signature: the envelope is not what {signer} signed, "
                "or somebody else signed it"
            ), f"seed {seed}, {name} at {position}"

    def test_every_single_bit_of_the_signature_counts(self) -> None:
        data = make().encode()
        for bit in range(SIGNATURE_SIZE * 8):
            flipped = bytearray(data)
            flipped[len(data) - SIGNATURE_SIZE + bit // 8] ^= 1 << bit % 8
            with pytest.raises(SignatureError, match="bad signature"):
                SignedEnvelope.decode(flipped).verify()

    @pytest.mark.parametrize("change", [b"", b"\0"])
    def test_a_byte_less_or_more(self, change: bytes) -> None:
        data = make().encode()
        body, signature = data[:-64], data[-64:]
        other = body + change if change else body[:-1]
        with pytest.raises(SignatureError, match="bad signature"):
            SignedEnvelope.decode(other + signature).verify()

    def test_somebody_elses_signature(self) -> None:
        body = make().encode()[:-64]
        forged = body + BOB._sign_digest(blake3(body).digest())
        with pytest.raises(SignatureError, match="somebody else signed it"):
            SignedEnvelope.decode(forged).verify()

    def test_unsigned(self) -> None:
        envelope = SignedEnvelope.unsigned(ALICE.did, BOB.did, b"", sequence_number=1)
        with pytest.raises(SignatureError) as caught:
            envelope.verify()
        assert isinstance(caught.value, SignedWireError)
        assert str(caught.value) == (
            f"unsigned envelope: it names {ALICE.did} as its sender, without a signature"
        )


class TestValue:
    def test_equal_when_byte_identical(self) -> None:
        envelope = make()
        assert envelope == make()
        assert hash(envelope) == hash(make())
        assert len({envelope, make(), make(b"other")}) == 2
        assert envelope != make(sequence_number=8)
        assert envelope != envelope.encode()
        assert envelope.__eq__(envelope.encode()) is NotImplemented

    @pytest.mark.parametrize("priority", Priority)
    def test_repr(self, priority: Priority) -> None:
        ours, theirs = ALICE.did.hex()[:8], BOB.did.hex()[:8]
        assert repr(make(priority=priority)) == (
            f"<SignedEnvelope 07000000 {ours}… -> {theirs}… {priority.name} 5 bytes>"
        )
        unsigned = SignedEnvelope.unsigned(
            ALICE.did, BOB.did, b"", sequence_number=U64, priority=priority
        )
        assert repr(unsigned) == (
            f"<SignedEnvelope unsigned ffffffff {ours}… -> {theirs}… {priority.name} 0 bytes>"
        )

    @pytest.mark.parametrize(
        "name", [n for n in vars(SignedEnvelope) if isinstance(vars(SignedEnvelope)[n], property)]
    )
    def test_no_field_can_be_set(self, name: str) -> None:
        envelope = make()
        with pytest.raises(AttributeError):
            setattr(envelope, name, getattr(envelope, name))

    def test_has_no_room_for_other_attributes(self) -> None:
        with pytest.raises(AttributeError):
            make().note = "read"  # type: ignore[attr-defined]

    def test_travels(self) -> None:
        envelope = make()
        assert pickle.loads(pickle.dumps(envelope)) == envelope
        assert copy.deepcopy(envelope) == envelope


def v2(count: int = 20, index: int = 3, payload: bytes = b"hello") -> SignedEnvelope:
    return alone([body(n, payload) for n in range(1, count + 1)], index)


class TestV2:
    """An envelope out of a signed batch, standing alone."""

    @pytest.mark.parametrize("is_durable", [False, True])
    def test_the_bytes(self, is_durable: bool) -> None:
        data = body(
            7,
            b"hello",
            priority=3,
            payload_type=2,
            epoch=0x0102030405060708,
            expires_at_us=99,
            is_durable=is_durable,
        )
        number, at = (7).to_bytes(8, "little"), (1).to_bytes(8, "little")
        assert data == (
            b"INMO"
            + (9).to_bytes(4, "little")
            + bytes(16)
            + number
            + bytes(ALICE.did)
            + bytes(BOB.did)
            + at
            + b"\x03\x02"
            + bytes(range(8, 0, -1))
            + (99).to_bytes(8, "little")
            + bytes((0, 0, is_durable, 0))
            + b"hello"
        )
        assert len(data) == MIN_V2_HEADER_SIZE + 5 == 131

    @settings(deadline=None)
    @given(st.integers(1, 256), st.data())
    def test_round_trip(self, count: int, data: st.DataObject) -> None:
        index = data.draw(st.integers(0, count - 1))
        payload = data.draw(st.binary(max_size=50))
        envelope = v2(count, index, payload)
        decoded = SignedEnvelope.decode(memoryview(envelope.encode()))
        decoded.verify()
        assert decoded == envelope
        assert hash(decoded) == hash(envelope)
        assert decoded.encode() == envelope.encode()
        assert (decoded.version, decoded.sequence_number, decoded.payload) == (
            9,
            index + 1,
            payload,
        )
        assert (decoded.sender, decoded.recipient) == (ALICE.did, BOB.did)
        assert (decoded.epoch, decoded.expires_at_us, decoded.is_signed) == (9, None, True)
        assert decoded.digest == sha256(decoded.body).digest()
        assert isinstance(decoded.merkle_path, MerklePath)
        assert (decoded.merkle_path.index, decoded.merkle_path.count) == (index, count)
        assert decoded.signature == envelope.signature == decoded.merkle_path.signature
        assert pickle.loads(pickle.dumps(envelope)) == envelope

    def test_v1_has_neither_epoch_nor_deadline(self) -> None:
        assert (make().epoch, make().expires_at_us) == (None, None)
        assert alone([body(expires_at_us=5)]).expires_at_us == 5
        assert make().merkle_path is None

    def test_equal_when_byte_identical(self) -> None:
        assert v2() == v2()
        # The same message, sent again in another batch.
        assert v2(20, 3) != v2(19, 3)
        assert v2(20, 3).body == v2(19, 3).body

    @pytest.mark.parametrize("length", [0, 4, 8, 125, 126, 194])
    def test_too_short(self, length: int) -> None:
        text = refusal(v2(1, 0, b"").encode()[:length])
        smallest = 170 if length < 8 else 195
        assert text == f"not an envelope: {length} bytes, the smallest has {smallest}"

    @pytest.mark.parametrize("place", [(0, 0), (1, 1), (5, 5), (0, 257), (256, 256)])
    def test_a_place_that_is_none(self, place: tuple[int, int]) -> None:
        index, count = place
        data = bytearray(v2(256).encode())
        data[-69:-65] = index.to_bytes(2, "little") + count.to_bytes(2, "little")
        assert refusal(data) == (
            f"not an envelope: bad Merkle path: index {index} in a batch of {count}"
        )

    def test_shorter_than_its_path(self) -> None:
        data = body() + bytes(64) + (0).to_bytes(2, "little") + (256).to_bytes(2, "little")
        problem = "not an envelope: 264 bytes, its Merkle path alone has 1029"
        assert refusal(data + bytes(65)) == problem

    @pytest.mark.parametrize(
        ("at", "value"),
        [(104, 4), (105, 5), (0, 0), (122, 4), (122, 5), (123, 1), (125, 255)],
    )
    def test_a_header_that_is_none(self, at: int, value: int) -> None:
        data = bytearray(v2().encode())
        data[at] = value
        assert "not an envelope" in refusal(data)

    @settings(deadline=None, max_examples=200)
    @given(st.data())
    def test_any_changed_byte_fails(self, data: st.DataObject) -> None:
        raw = bytearray(v2(20, 17).encode())
        raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
        with pytest.raises((EnvelopeError, SignatureError)):
            SignedEnvelope.decode(raw).verify()

    @settings(deadline=None)
    @given(
        st.tuples(st.integers(1, 40), st.integers(0, 39)),
        st.tuples(st.integers(1, 40), st.integers(0, 39)),
    )
    def test_another_place_fails(self, true: tuple[int, int], other: tuple[int, int]) -> None:
        assume(true[1] < true[0] and other[1] < other[0] and true != other)
        envelope = v2(*true)
        assert isinstance(envelope.merkle_path, MerklePath)
        raw = bytearray(envelope.encode())
        raw[-69:-65] = other[1].to_bytes(2, "little") + other[0].to_bytes(2, "little")
        with pytest.raises((EnvelopeError, SignatureError)):
            SignedEnvelope.decode(raw).verify()
        forged = MerklePath(
            other[1], other[0], envelope.signature, hashes=envelope.merkle_path.hashes
        )
        with pytest.raises(SignatureError):
            SignedEnvelope(envelope.body, forged).verify()

    @pytest.mark.parametrize("size", [-1, 1])
    def test_a_node_less_or_more(self, size: int) -> None:
        envelope = v2(20, 3, bytes(100))
        data = envelope.encode()
        other = data[:-101] + data[-69:] if size < 0 else data[:-69] + bytes(32) + data[-69:]
        with pytest.raises(SignatureError):
            SignedEnvelope.decode(other).verify()

    def test_another_sender_or_recipient(self) -> None:
        data = v2().encode()
        for at in (32, 64):
            forged = data[:at] + bytes(EVE.did) + data[at + 32 :]
            with pytest.raises(SignatureError, match="somebody else signed it"):
                SignedEnvelope.decode(forged).verify()

    def test_zeros_are_no_signature(self) -> None:
        envelope = SignedEnvelope(body(), MerklePath(0, 1, bytes(64), hashes=b""))
        with pytest.raises(SignatureError, match="bad signature"):
            envelope.verify()

    def test_repr(self) -> None:
        ours, theirs = ALICE.did.hex()[:8], BOB.did.hex()[:8]
        assert (v2().message_id, v2().sequence_number) == (id_of(0), 4)
        assert repr(v2()) == f"<SignedEnvelope 00000000 {ours}… -> {theirs}… NORMAL 5 bytes>"

    @settings(deadline=None, max_examples=300)
    @given(st.binary(min_size=182, max_size=400), st.integers(0, 40), st.integers(0, 40))
    def test_any_bytes_are_an_envelope_or_an_envelope_error(
        self, tail: bytes, index: int, count: int
    ) -> None:
        place = index.to_bytes(2, "little") + count.to_bytes(2, "little")
        data = body(payload=b"")[:106] + tail + place + bytes(64)
        try:
            envelope = SignedEnvelope.decode(data)
        except EnvelopeError:
            return
        assert envelope.encode() == data
        repr(envelope)


def test_a_v2_envelope_without_a_signature_is_not_signed() -> None:
    data = alone([body(1)]).encode()
    assert SignedEnvelope.decode(data).is_signed
    unsigned = SignedEnvelope.decode(data[:-64] + bytes(64))
    assert not unsigned.is_signed
    with pytest.raises(SignatureError):
        unsigned.verify()
