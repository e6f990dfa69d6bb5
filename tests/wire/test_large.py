"""Envelopes, receipt proofs and records read in pieces: the same verdicts, in little memory."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from dataclasses import replace

import pytest

from linkkit import ALICE, BOB, alone, body, sent
from signedwire.errors import EnvelopeError, SignatureError
from signedwire.evidence import chain as chain_module
from signedwire.evidence.chain import Chain, LogChecker, LogHeader, LogReader
from signedwire.identity import Label
from signedwire.wire.envelope import SignedEnvelope
from signedwire.wire.header import V2_START
from signedwire.wire.large import (
    MAX_ENVELOPE,
    WHOLE,
    EnvelopeStream,
    LargeEnvelope,
    ReceiptProofStream,
)
from signedwire.wire.link_frames import Receipts
from signedwire.wire.receipt_proof import encode_receipt_proof, verify_receipt

SIZES = (1, 3, 64, 1000, 10_000)
V1 = SignedEnvelope.sign(ALICE, BOB.did, bytes(3000), sequence_number=1, timestamp_us=5)
V2 = [alone([body(n, bytes(2000)) for n in range(1, count + 1)], count // 2) for count in (1, 40)]


def proof(kind: int) -> bytes:
    bodies = [body(n, bytes(2000)) for n in range(1, 21)]
    batch = sent(bodies)
    receipt = Receipts(kind, 7, (batch.root,) if kind == 1 else (batch.leaves[18],))
    text = bytes(BOB.did) + bytes(ALICE.did) + receipt.statement
    receipt = replace(receipt, signature=BOB._sign_labelled(Label.RECEIPT, text))
    return encode_receipt_proof(bodies[18], batch, 18, receipt.proof)


def feed(receive: Callable[[bytes], object], data: bytes, size: int) -> None:
    for at in range(0, len(data), size):
        receive(data[at : at + size])


def read(data: bytes, size: int = 64, whole: int = 100) -> SignedEnvelope:
    stream = EnvelopeStream(whole=whole)
    feed(stream.receive_data, data, size)
    assert stream.size == len(data)
    return stream.envelope()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("envelope", [V1, *V2])
def test_a_large_envelope_is_as_it_would_be_whole(envelope: SignedEnvelope, size: int) -> None:
    large = read(envelope.encode(), size)
    assert isinstance(large, LargeEnvelope)
    large.verify()
    for name in ("digest", "payload_size", "sender", "recipient", "sequence_number", "priority"):
        assert getattr(large, name) == getattr(envelope, name)
    assert (large.version, large.epoch, large.signature, large.expires_at_us) == (
        envelope.version,
        envelope.epoch,
        envelope.signature,
        envelope.expires_at_us,
    )
    assert large.payload == b""
    assert f" {envelope.payload_size} bytes" in repr(large)
    with pytest.raises(EnvelopeError, match="and not kept"):
        large.encode()
    stream = EnvelopeStream()
    feed(stream.receive_data, envelope.encode(), size)
    assert stream.envelope() == envelope


@pytest.mark.parametrize("envelope", [V1, *V2])
def test_no_byte_of_it_can_be_changed_or_missed(envelope: SignedEnvelope) -> None:
    data = envelope.encode()
    for at in range(0, len(data), 37):
        changed = bytearray(data)
        changed[at] ^= 1
        for wrong in (bytes(changed), data[:at] + data[at + 1 :], data[:at]):
            with pytest.raises((EnvelopeError, SignatureError)):
                read(wrong).verify()


@pytest.mark.parametrize("kind", [1, 2, 3])
@pytest.mark.parametrize("size", SIZES)
def test_a_large_proof(kind: int, size: int) -> None:
    data = proof(kind)
    stream = ReceiptProofStream(whole=100)
    feed(stream.receive_data, data, size)
    delivery, whole = stream.delivery(), verify_receipt(data)
    assert (delivery.is_handled, delivery.at_us) == (whole.is_handled, whole.at_us)
    assert isinstance(delivery.envelope, LargeEnvelope)
    assert delivery.envelope.digest == whole.envelope.digest


def test_no_byte_of_a_proof_can_be_changed_or_missed() -> None:
    data = proof(2)
    wrong = [data[:at] + bytes((data[at] ^ 1,)) + data[at + 1 :] for at in range(0, len(data), 37)]
    wrong += [data[:at] for at in range(0, len(data), 37)]
    for each in (*wrong, data + b"\0", data + bytes(100_000)):
        stream = ReceiptProofStream(whole=100)
        feed(stream.receive_data, each, 500)
        with pytest.raises((EnvelopeError, SignatureError)):
            stream.delivery()


class TestLog:
    """Records over the limit, between others that are under it."""

    ENVELOPES = (alone([body(1)]), V1, alone([body(2)]), *V2, alone([body(3)]))

    @pytest.fixture(autouse=True)
    def low_limit(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(chain_module, "WHOLE", 400)

    def log(self) -> tuple[bytes, bytes, list[int]]:
        """The log, its head, and where its records begin."""
        data = LogHeader(bytes(BOB.did), 1_000).encode()
        chain, offsets = Chain(data[-32:]), []
        for number, each in enumerate(self.ENVELOPES):
            offsets.append(len(data))
            data += chain.record(number, each)
        return data, chain.head, offsets

    @pytest.mark.parametrize("size", SIZES)
    def test_it_is_proven(self, size: int) -> None:
        data, head, offsets = self.log()
        checker, found = LogChecker(head), []
        for at in range(0, len(data), size):
            found += checker.receive_data(data[at : at + size])
        checker.receive_eof()
        assert (checker.error, checker.head, checker.count) == (None, head, len(offsets))
        assert checker.head_at == len(offsets)
        assert [each.record.offset for each in found] == offsets
        assert [each.record.large is not None for each in found] == [0, 1, 0, 1, 1, 0]
        for checked, envelope in zip(found, self.ENVELOPES, strict=True):
            assert checked.envelope.digest == envelope.digest
            assert chain_module.name_of(checked.record.envelope) == envelope.encode()[:126]
            assert checked.record.size == len(envelope.encode())

    def test_the_file_ends_anywhere(self) -> None:
        data, _, offsets = self.log()
        for end in range(offsets[1] + 1, offsets[2], 61):
            reader = LogReader()
            feed(reader.receive_data, data[:end], 300)
            reader.receive_eof()
            assert reader.error is not None
            assert reader.error.is_incomplete
            assert (reader.count, reader.offset) == (1, offsets[1])
            assert f"{end - offsets[1]} bytes after its start" in reader.error.problem

    @pytest.mark.parametrize("record", [1, 3, 4])
    def test_a_changed_byte_is_found_in_its_record(self, record: int) -> None:
        data, _, offsets = self.log()
        for at in range(offsets[record] + 4, offsets[record + 1], 83):
            changed = bytearray(data)
            changed[at] ^= 1
            checker = LogChecker()
            feed(checker.receive_data, bytes(changed), 300)
            checker.receive_eof()
            assert checker.error is not None
            assert checker.error.number == record + 1
            assert checker.count == record

    def test_a_large_record_of_an_unknown_wire(self) -> None:
        data, _, offsets = self.log()
        prefix = data[offsets[1] : offsets[1] + 4] + b"\3" + bytes(8)
        content = prefix + data[offsets[1] + 13 : offsets[2] - 32]
        hash_ = chain_module._link(data[offsets[1] - 32 : offsets[1]], content)
        checker = LogChecker()
        checker.receive_data(data[: offsets[1]] + content + hash_)
        assert checker.error is not None
        assert checker.error.problem == "its envelope is not one of wire 3"


def peak_of(run: Callable[[], object]) -> int:
    """The most bytes that were allocated at once."""
    tracemalloc.start()
    try:
        run()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


CHUNK = bytes(1 << 20)


def test_a_claimed_record_of_any_size_takes_little_memory() -> None:
    header = LogHeader(bytes(BOB.did), 1_000).encode()
    reader = LogReader()
    reader.receive_data(header + MAX_ENVELOPE.to_bytes(4, "little") + b"\2" + bytes(8))
    peak = peak_of(lambda: [reader.receive_data(CHUNK) for _ in range(48)])
    assert peak < 8 << 20, peak


@pytest.mark.parametrize("kind", [EnvelopeStream, ReceiptProofStream])
def test_an_envelope_and_a_proof_of_any_size_take_little_memory(
    kind: type[EnvelopeStream | ReceiptProofStream],
) -> None:
    stream = kind()
    stream.receive_data(b"SWPROOF2\xff\xff\xff\xff" + V2_START)
    peak = peak_of(lambda: [stream.receive_data(CHUNK) for _ in range(48)])
    assert peak < 4 * WHOLE, peak


class TestTooLong:
    """Streams that no further bytes can make valid, so that a reader of a TiB can stop."""

    def test_an_envelope(self) -> None:
        stream = EnvelopeStream()
        stream.receive_data(V2[0].encode())
        assert not stream.is_too_long
        block = bytes(2**24)
        for _ in range(MAX_ENVELOPE // len(block)):
            stream.receive_data(block)
            assert not stream.is_too_long
        stream.receive_data(block)
        assert stream.is_too_long

    @pytest.mark.parametrize("kind", [1, 2])
    def test_a_proof(self, kind: int) -> None:
        stream = ReceiptProofStream()
        stream.receive_data(proof(kind))
        assert not stream.is_too_long
        stream.receive_data(bytes(2**20))
        assert stream.is_too_long

    @pytest.mark.parametrize(("size", "is_too_long"), [(0, False), (1, True)])
    def test_a_proof_that_claims_so(self, size: int, is_too_long: bool) -> None:
        stream = ReceiptProofStream()
        stream.receive_data(b"SWPROOF2" + (MAX_ENVELOPE + size).to_bytes(4, "little"))
        assert stream.is_too_long is is_too_long
