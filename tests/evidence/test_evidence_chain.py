"""The chain of an evidence log: its layout, and the detection of every change."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

import make_evidence_vectors
from linkkit import ALICE, BOB, EVE, alone, body, received
from signedwire.errors import EnvelopeError
from signedwire.evidence.chain import (
    HEADER_SIZE,
    MAGIC,
    NO_HEAD,
    BadRecord,
    Chain,
    LogChecker,
    LogHeader,
    LogReader,
    name_of,
)
from signedwire.wire.envelope import MerklePath, SignedEnvelope
from signedwire.wire.large import MAX_ENVELOPE

DOCS = Path(__file__).resolve().parents[2] / "docs"
HEADER = LogHeader(bytes(BOB.did), 1_000)


def v1(number: int = 1, **changes: object) -> SignedEnvelope:
    return SignedEnvelope.sign(
        ALICE, BOB.did, b"hello" * number, sequence_number=number, timestamp_us=5
    )


def some_envelopes() -> list[SignedEnvelope]:
    """Envelopes of both wires: alone, from a small batch, and neighbours in a large one."""
    large = received([body(n, bytes(n)) for n in range(1, 41)])

    def of_large(index: int) -> SignedEnvelope:
        proof = MerklePath(index, 40, large.signature, leaves=large.leaves)
        return SignedEnvelope(large.bodies[index], proof)

    return [
        v1(),
        alone([body(1)]),
        alone([body(n) for n in range(1, 4)], 2),
        *map(of_large, (0, 1, 39)),
        alone([body(1, b"eve", sender=EVE)], sender=EVE),
        of_large(17),
    ]


class Log:
    """The pieces of a log, which tests put together in other ways."""

    def __init__(self, envelopes: list[SignedEnvelope], header: LogHeader = HEADER) -> None:
        self.header = header.encode()
        chain = Chain(self.header[-32:])
        self.records = [chain.record(n, each) for n, each in enumerate(envelopes, 1)]
        self.head, self.count = chain.head, chain.count

    @property
    def pieces(self) -> list[bytes]:
        return [self.header, *self.records]

    @property
    def bytes(self) -> bytes:
        return b"".join(self.pieces)


LOG = Log(some_envelopes())


def check(data: bytes, head: bytes | None = None, step: int = 1 << 20) -> LogChecker:
    checker = LogChecker(head)
    for at in range(0, len(data), step):
        checker.receive_data(data[at : at + step])
    checker.receive_eof()
    return checker


def error_of(data: bytes) -> BadRecord:
    error = check(data).error
    assert error is not None
    return error


def forged(envelope: SignedEnvelope, wire: int | None = None) -> bytes:
    """A log with a sound chain and a second record that does not belong in it."""
    header = HEADER.encode()
    chain = Chain(header[-32:])
    first = chain.record(1, v1())
    second = chain.record(2, envelope)
    if wire is not None:
        content = second[:4] + bytes((wire,)) + second[5:-32]
        label = b"signedwire/evidence-record/1\0"
        second = content + blake3(label + first[-32:] + content).digest()
    return header + first + second


class TestLayout:
    def test_the_file_of_vectors_is_what_the_code_makes(self) -> None:
        found = (DOCS / "vectors" / "evidence.json").read_text(encoding="utf-8")
        assert found == make_evidence_vectors.text()

    def test_the_vectors_as_docs_evidence_md_has_them(self) -> None:
        """The chain, computed a second time with BLAKE3 alone."""
        file = json.loads((DOCS / "vectors" / "evidence.json").read_text(encoding="utf-8"))
        plain = (
            b"SWCHAIN2"
            + bytes.fromhex(file["owner"])
            + file["started_at_us"].to_bytes(8, "little")
            + bytes.fromhex(file["previous"])
        )
        head = blake3(b"signedwire/evidence-header/1\0" + plain).digest()
        assert file["header"] == (plain + head).hex()
        for record, wire in zip(file["records"], (1, 2, 2, 2), strict=True):
            envelope = bytes.fromhex(record["envelope"])
            content = len(envelope).to_bytes(4, "little") + bytes((wire,))
            content += record["accepted_at_us"].to_bytes(8, "little") + envelope
            head = blake3(b"signedwire/evidence-record/1\0" + head + content).digest()
            assert record["record"] == (content + head).hex()
            assert record["head"] == head.hex()
        log = bytes.fromhex(file["header"] + "".join(r["record"] for r in file["records"]))
        checker = check(log)
        assert (checker.error, checker.count, checker.head) == (None, 4, head)

    def test_a_header_is_read_as_it_was_written(self) -> None:
        header = LogHeader(bytes(BOB.did), 7, bytes(range(32)))
        assert LogHeader.decode(header.encode() + b"more") == header
        assert len(header.encode()) == HEADER_SIZE
        assert HEADER.previous == NO_HEAD

    @pytest.mark.parametrize(
        ("data", "words"),
        [
            (b"", "not a whole"),
            (HEADER.encode()[:-1], "not a whole"),
            (b"SWCHAIN3" + HEADER.encode()[8:], "does not begin with SWCHAIN2"),
            (b"SWCHAIN1" + HEADER.encode()[8:], "of an earlier signedwire: verify it with that"),
            (b"no", "does not begin with SWCHAIN2"),
            (HEADER.encode()[:-1] + b"\0", "was changed"),
        ],
    )
    def test_what_is_no_header(self, data: bytes, words: str) -> None:
        with pytest.raises(EnvelopeError, match=words):
            LogHeader.decode(data)

    def test_the_name_of_an_envelope_is_that_of_its_body(self) -> None:
        bodies = [body(n) for n in range(1, 20)]
        names = {name_of(alone(bodies, n).encode()) for n in range(19)}
        assert names == {name_of(each) for each in bodies}
        assert len(names) == 19


class TestSound:
    @pytest.mark.parametrize("step", [1, 7, 112, 113, 1000, 1 << 20])
    def test_everything_comes_out_as_it_went_in_whatever_the_pieces(self, step: int) -> None:
        checker = LogChecker()
        found = [
            each
            for at in range(0, len(LOG.bytes), step)
            for each in checker.receive_data(LOG.bytes[at : at + step])
        ]
        checker.receive_eof()
        assert checker.error is None
        assert [each.envelope for each in found] == some_envelopes()
        assert [each.record.number for each in found] == list(range(1, 9))
        assert [each.record.accepted_at_us for each in found] == list(range(1, 9))
        assert [each.record.wire for each in found] == [1, 2, 2, 2, 2, 2, 2, 2]
        assert [each.record.hash for each in found] == [r[-32:] for r in LOG.records]
        assert (checker.count, checker.head) == (8, LOG.head)
        starts = [each.record.offset for each in found]
        assert starts == [len(b"".join(LOG.pieces[: n + 1])) for n in range(8)]
        assert checker.reader.header == HEADER

    def test_a_log_without_records(self) -> None:
        checker = check(LOG.header)
        assert (checker.error, checker.count, checker.head) == (None, 0, LOG.header[-32:])

    def test_every_hash_is_a_head_that_can_be_checked_later(self) -> None:
        for number, piece in enumerate(LOG.pieces):
            checker = check(LOG.bytes, piece[-32:])
            assert checker.error is None
            assert checker.has_head
            assert checker.head_at == number
        assert check(LOG.bytes).has_head

    def test_an_envelope_out_of_the_log_proves_itself(self) -> None:
        reader = LogReader()
        for record in reader.receive_data(LOG.bytes):
            SignedEnvelope.decode(record.envelope).verify()

    def test_a_v1_envelope_may_name_any_version(self) -> None:
        raw = v1().body
        odd = raw[:4] + (8).to_bytes(4, "little") + raw[8:]
        envelope = SignedEnvelope(odd, ALICE._sign_digest(blake3(odd).digest()))
        envelope.verify()
        assert check(forged(envelope)).error is None

    def test_a_chain_goes_on_where_another_process_left_it(self) -> None:
        first, rest = some_envelopes()[:3], some_envelopes()[3:]
        log = Log(first)
        chain = Chain(log.head, log.count)
        data = log.bytes + b"".join(chain.record(n, each) for n, each in enumerate(rest, 4))
        assert data == LOG.bytes
        assert chain.count == 8


class TestChanged:
    @given(st.integers(0, len(LOG.bytes) - 1), st.integers(1, 255))
    def test_any_byte(self, at: int, flip: int) -> None:
        data = bytearray(LOG.bytes)
        data[at] ^= flip
        if at < HEADER_SIZE:
            assert error_of(bytes(data)).number == 0
            return
        starts = [len(b"".join(LOG.pieces[: n + 1])) for n in range(8)]
        number = sum(start <= at for start in starts)
        error = error_of(bytes(data))
        assert (error.number, error.offset) == (number, starts[number - 1])

    @given(st.integers(0, len(LOG.bytes) - 1))
    def test_the_end_cut_off(self, size: int) -> None:
        checker = check(LOG.bytes[:size], LOG.head)
        assert not checker.has_head
        whole = size >= HEADER_SIZE and size in {
            len(b"".join(LOG.pieces[: n + 1])) for n in range(9)
        }
        assert (checker.error is None) == whole
        assert whole or (checker.error is not None and checker.error.is_incomplete)

    @given(st.data())
    def test_records_removed(self, data: st.DataObject) -> None:
        first = data.draw(st.integers(0, 6))
        behind = data.draw(st.integers(first + 1, 7))
        changed = LOG.header + b"".join(LOG.records[:first] + LOG.records[behind:])
        error = error_of(changed)
        assert error.number == first + 1
        assert "intact: a record before it was removed" in error.problem

    @given(st.integers(0, 7), st.integers(0, 8))
    def test_a_record_twice(self, which: int, where: int) -> None:
        records = list(LOG.records)
        records.insert(where, LOG.records[which])
        error = error_of(LOG.header + b"".join(records))
        # Where a record is there twice, the second copy is the bad one.
        assert error.number == (where + 2 if where == which else where + 1)

    @given(st.permutations(range(8)).filter(lambda order: order != list(range(8))))
    def test_another_order(self, order: list[int]) -> None:
        error = error_of(LOG.header + b"".join(LOG.records[n] for n in order))
        first = next(n for n, which in enumerate(order) if n != which)
        assert error.number == first + 1
        assert "moved" in error.problem

    @given(st.integers(0, 7))
    def test_a_record_of_another_log(self, which: int) -> None:
        other = Log(some_envelopes(), LogHeader(bytes(BOB.did), 1_001))
        records = list(LOG.records)
        records[which] = other.records[which]
        assert error_of(LOG.header + b"".join(records)).number == which + 1

    def test_another_header(self) -> None:
        other = LogHeader(bytes(BOB.did), 1_001).encode()
        assert error_of(other + b"".join(LOG.records)).number == 1

    @given(st.binary(min_size=1, max_size=400))
    def test_something_behind_the_end(self, more: bytes) -> None:
        error = error_of(LOG.bytes + more)
        assert error.number == 9

    def test_written_anew(self) -> None:
        """A log without the third record has a sound chain: only an earlier head shows the loss."""
        envelopes = some_envelopes()
        anew = Log(envelopes[:2] + envelopes[3:])
        checker = check(anew.bytes, LOG.head)
        assert checker.error is None
        assert not checker.has_head

    def test_a_changed_envelope_and_a_changed_time_are_told_apart(self) -> None:
        content = bytearray(LOG.records[0])
        content[13 + 110] ^= 1
        assert "it was changed: bad signature" in error_of(LOG.header + content).problem
        time = bytearray(LOG.records[0])
        time[5] ^= 1
        assert "its time or hash was changed" in error_of(LOG.header + time).problem

    @given(st.binary(max_size=300))
    def test_any_bytes_are_told_and_never_raise(self, data: bytes) -> None:
        assert error_of(data).number == 0
        assert error_of(LOG.header + b"\1" + data).number == 1


class TestForged:
    """Somebody who writes the whole chain anew still cannot sign for others."""

    def test_a_signature_that_does_not_fit(self) -> None:
        bad = SignedEnvelope(v1(2).body, v1(3).signature)
        error = error_of(forged(bad))
        assert error.number == 2
        assert "bad signature" in error.problem

    def test_an_unsigned_envelope(self) -> None:
        unsigned = SignedEnvelope.unsigned(ALICE.did, BOB.did, b"", sequence_number=1)
        assert "unsigned envelope" in error_of(forged(unsigned)).problem

    def test_a_batch_that_another_signed(self) -> None:
        assert "bad signature" in error_of(forged(alone([body(1)], sender=EVE))).problem

    def test_a_batch_that_was_good_does_not_vouch_for_a_changed_neighbour(self) -> None:
        bodies = [body(n) for n in range(1, 20)]
        good = alone(bodies, 3)
        raw = bytearray(good.encode())
        raw[122] ^= 1
        chain = Chain(LOG.header[-32:])
        data = LOG.header + chain.record(1, good)
        data += chain.record(2, SignedEnvelope.decode(bytes(raw)))
        assert error_of(data).number == 2

    def test_an_envelope_for_another(self) -> None:
        error = error_of(forged(alone([body(1, recipient=EVE)])))
        assert f"is for {EVE.did}, not for {BOB.did}" in error.problem

    @pytest.mark.parametrize("wire", [0, 3, 2])
    def test_an_envelope_of_no_wire(self, wire: int) -> None:
        assert f"not one of wire {wire}" in error_of(forged(v1(), wire)).problem

    def test_a_size_that_no_envelope_has(self) -> None:
        for size in (0, 169, MAX_ENVELOPE + 1, 2**32 - 1):
            error = error_of(LOG.header + size.to_bytes(4, "little") + bytes(9))
            assert f"an envelope of {size} bytes" in error.problem
            assert not error.is_incomplete

    def test_nothing_is_looked_at_behind_an_error(self) -> None:
        checker = check(LOG.header + bytes(100))
        before = checker.error
        assert checker.receive_data(LOG.bytes) == []
        checker.receive_eof()
        assert checker.error is before
        reader = LogReader()
        reader.receive_data(LOG.header + bytes(100))
        assert reader.receive_data(LOG.bytes) == []
        error = reader.error
        reader.receive_eof()
        assert reader.error is error
        assert (reader.count, reader.offset) == (0, HEADER_SIZE)


def test_a_new_log_that_is_not_whole_is_told_from_another_file() -> None:
    begun, other = LogReader(), LogReader()
    begun.receive_data(MAGIC[:3])
    begun.receive_eof()
    other.receive_data(b"else")
    other.receive_eof()
    assert begun.error is not None
    assert begun.error.is_incomplete
    assert other.error is not None
    assert not other.error.is_incomplete
