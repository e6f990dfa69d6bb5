"""Joint signatures: one frame, one signature, a receipt and a batch, and neither without both."""

from __future__ import annotations

from dataclasses import replace
from hashlib import sha256
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from linkkit import (
    ALICE,
    BOB,
    EVE,
    PLENTY,
    body,
    events_of,
    exchange,
    frames_of,
    hello,
    open_pair,
    sent,
    session,
    with_credit,
)
from signedwire.errors import EnvelopeError, RemoteProtocolError, SignatureError
from signedwire.evidence.chain import Chain, LogChecker, LogHeader
from signedwire.identity import Identity, Label
from signedwire.types import Reason
from signedwire.wire import link_frames as frames
from signedwire.wire.batch import batch_root, leaves_of
from signedwire.wire.batch_signer import BatchSigner
from signedwire.wire.envelope import MerklePath, SignedEnvelope
from signedwire.wire.joint import is_root_signed, is_statement_signed, receipt_hash, sign_joint
from signedwire.wire.large import EnvelopeStream, ReceiptProofStream
from signedwire.wire.link_frames import (
    ACCEPTED_BATCHES,
    ACCEPTED_ENVELOPES,
    FIRST,
    HANDLED_ENVELOPES,
    JOINT,
    LAST,
    MAX_BODY,
    REFUSED_ENVELOPES,
    Part,
    Read,
    Receipts,
)
from signedwire.wire.parts import encode_batch, most_joined
from signedwire.wire.receipt_proof import encode_receipt_proof, verify_receipt
from signedwire.wire.receipt_signer import Acceptance, ReceiptSigner
from signedwire.wire.sent_batch import SentBatch
from signedwire.wire.session import BatchFailed, BatchReceived, Closed, ReceiptsReceived, Session

ASKED: Final = [body(n, b"question %d" % n) for n in (1, 2, 3)]
"""What Alice has sent to Bob."""
ASKED_BATCH: Final = sent(ASKED)
REPLIES: Final = [body(n, b"reply %d" % n, sender=BOB, recipient=ALICE) for n in (1, 2)]
"""What Bob sends to Alice."""
PARTIES: Final = bytes(BOB.did) + bytes(ALICE.did)
PLAIN: Final = Receipts(ACCEPTED_BATCHES, 55, (ASKED_BATCH.root,))
EVERY: Final = FIRST | LAST | JOINT


def joint(
    joined: Receipts = PLAIN,
    bodies: list[bytes] = REPLIES,
    *,
    signer: Identity = BOB,
    parties: bytes = PARTIES,
    label: Label = Label.JOINT,
) -> tuple[Receipts, SentBatch]:
    """A receipt and a batch of Bob under one signature."""
    leaves = leaves_of(bodies)
    root = batch_root(bytes(signer.did), leaves)
    half = receipt_hash(parties, joined.statement)
    signature = signer._sign_labelled(label, root + half)
    return replace(joined, signature=signature, root=root), SentBatch(
        root, leaves, half + signature
    )


JOINED, BATCH = joint()


def frame(
    joined: Receipts = JOINED, bodies: list[bytes] = REPLIES, signature: bytes = b""
) -> bytes:
    return encode_batch(signature or joined.signature, bodies, None, joined)


def alice_open(is_expected: bool = True, **options: Any) -> Session:
    """Alice's end, open, with no bytes to send."""
    alice = session(**options)
    alice._is_expected = lambda _: is_expected
    alice.receive_data(hello().encode(), 0.0)
    alice.data_to_send()
    events_of(alice)
    return alice


def le(value: int, size: int) -> bytes:
    return value.to_bytes(size, "little")


def raw_frame(flags: int, rest: bytes, stream: int = 1) -> bytes:
    data = bytes((flags, stream)) + rest
    return (len(data) + 1).to_bytes(4, "big") + bytes((frames.ENVELOPES,)) + data


class TestText:
    def test_what_is_signed(self) -> None:
        text = b"signedwire/receipt/1\0" + PARTIES + PLAIN.statement
        half = sha256(text).digest()
        assert receipt_hash(PARTIES, PLAIN.statement) == half
        signed = sign_joint(BOB, BATCH.root, half)
        expected = BOB._sign_labelled(Label.JOINT, BATCH.root + half)
        assert signed == half + expected
        assert Label.JOINT.value == b"signedwire/joint/1\0"

    def test_the_signer_of_a_link_signs_both(self) -> None:
        receipts = ReceiptSigner(BOB, ALICE.did)
        batch, joined = BatchSigner(BOB, receipts).sign(
            REPLIES, Acceptance(ACCEPTED_ENVELOPES, ASKED_BATCH.leaves, 55, True)
        )
        assert joined is not None
        assert (joined.kind, joined.hashes) == (ACCEPTED_ENVELOPES, tuple(ASKED_BATCH.leaves))
        assert (joined.at_us, joined.code, joined.root) == (55, 1, batch.root)
        assert batch.signature[32:] == joined.signature
        assert is_root_signed(bytes(BOB.did), batch.root, batch.signature)
        assert is_statement_signed(PARTIES, joined.statement, joined.signature, batch.root)

    def test_without_answers_a_batch_is_signed_alone(self) -> None:
        batch, joined = BatchSigner(BOB, ReceiptSigner(BOB, ALICE.did)).sign(REPLIES, None)
        assert (batch, joined) == (sent(REPLIES, BOB), None)


def statements() -> st.SearchStrategy[Receipts]:
    hashes = st.lists(st.binary(min_size=32, max_size=32), min_size=1, max_size=5).map(tuple)
    plain = st.builds(
        Receipts, st.integers(1, 3), st.integers(0, 2**64 - 1), hashes, code=st.integers(0, 1)
    )
    refused = st.builds(
        Receipts,
        st.just(REFUSED_ENVELOPES),
        st.integers(0, 2**64 - 1),
        hashes,
        code=st.integers(0, 255),
        text=st.binary(max_size=256),
    )
    return plain | refused


class TestFrame:
    def test_the_layout(self) -> None:
        batch = JOINED.signature + b"".join(le(len(each), 4) + each for each in REPLIES)
        expected = b"\2\0" + le(sum(map(len, REPLIES)), 4)
        expected += le(len(PLAIN.statement), 2) + PLAIN.statement + batch
        assert frame() == raw_frame(19, expected)

    @settings(deadline=None)
    @given(statements(), st.binary(max_size=300), st.integers(0, 3), st.integers(1, 256))
    def test_round_trip(self, joined: Receipts, data: bytes, stream: int, count: int) -> None:
        part = Part(EVERY, stream, data, count, 1234, joined)
        (decoded,) = frames_of(part.encode())
        assert decoded == part

    @settings(deadline=None)
    @given(st.binary(max_size=200))
    def test_any_bytes(self, rest: bytes) -> None:
        data = bytes((EVERY, 1)) + rest
        try:
            part = frames.decode(frames.ENVELOPES, data)
        except RemoteProtocolError:
            return
        assert isinstance(part, Part)
        assert part.encode()[5:] == data

    @pytest.mark.parametrize("flags", [16, 17, 18, 20, 21, 22, 23, 24, 27, 51, 83, 147])
    def test_other_flags(self, flags: int) -> None:
        self.closes(raw_frame(flags, frame()[7:]))

    def closes(self, data: bytes) -> None:
        alice = alice_open()
        alice.receive_data(data, 0.0)
        *others, closed = events_of(alice)
        assert isinstance(closed, Closed)
        assert (closed.code, closed.reason, others) == (1, Reason.PROTOCOL_ERROR, [])

    STATEMENT = PLAIN.statement
    START = le(2, 2) + le(sum(map(len, REPLIES)), 4)
    REST = frame()[len(frame()) - 64 - 8 - sum(map(len, REPLIES)) :]

    @pytest.mark.parametrize(
        ("size", "statement"),
        [
            (0, b""),
            (len(STATEMENT) - 1, STATEMENT),
            (len(STATEMENT) + 1, STATEMENT),
            (len(STATEMENT) + 1, STATEMENT + b"\0"),
            (len(STATEMENT) - 1, STATEMENT[:-1]),
            (2**16 - 1, STATEMENT),
            (len(STATEMENT), b"\0" + STATEMENT[1:]),
            (len(STATEMENT), b"\5" + STATEMENT[1:]),
            (len(STATEMENT), STATEMENT[:9] + b"\2" + STATEMENT[10:]),
            (len(STATEMENT), STATEMENT[:10] + b"\2\0" + STATEMENT[12:]),
            (12, STATEMENT[:10] + b"\0\0"),
            (12 + 501 * 32, STATEMENT[:10] + le(501, 2) + bytes(501 * 32)),
            (len(STATEMENT), b"\4" + STATEMENT[1:]),
            (
                12 + 257 + 2 + 32,
                b"\4" + STATEMENT[1:10] + le(257, 2) + b"x" * 257 + le(1, 2) + bytes(32),
            ),
        ],
        ids=range(14),
    )
    def test_a_statement_that_is_none(self, size: int, statement: bytes) -> None:
        self.closes(raw_frame(EVERY, self.START + le(size, 2) + statement + self.REST))

    @pytest.mark.parametrize("cut", [1, 64, 200])
    def test_a_batch_that_is_shorter_or_longer(self, cut: int) -> None:
        whole = self.START + le(len(self.STATEMENT), 2) + self.STATEMENT + self.REST
        self.closes(raw_frame(EVERY, whole[:-cut]))
        self.closes(raw_frame(EVERY, whole + bytes(cut)))

    def test_nothing_behind_the_flags(self) -> None:
        for size in range(10):
            self.closes(raw_frame(EVERY, frame()[7 : 7 + size]))

    def test_over_the_credit(self) -> None:
        alice = alice_open(credit=with_credit(PLENTY, 1, 1, 1 << 20))
        alice.receive_data(frame(), 0.0)
        (closed,) = events_of(alice)
        assert isinstance(closed, Closed)
        assert (closed.code, closed.cause) == (1, "the peer sent more than it was granted")

    def test_the_most_that_fits(self) -> None:
        for size in (1, 500, 10_000):
            bodies = [body(1, bytes(size), sender=BOB, recipient=ALICE)]
            most = most_joined(bodies)
            data = frame(replace(PLAIN, hashes=(bytes(32),) * most, signature=bytes(64)), bodies)
            assert MAX_BODY - 32 < len(data) - 5 <= MAX_BODY or most == 500
        assert most_joined([bytes(20_000)]) < 0


class TestReceiving:
    def test_both_are_believed_and_the_receipt_comes_first(self) -> None:
        alice = alice_open()
        alice.receive_data(frame(), 0.0)
        receipts, batch = events_of(alice)
        assert receipts == ReceiptsReceived(JOINED)
        assert batch == BatchReceived(REPLIES, BATCH.root, BATCH.leaves, BATCH.signature)
        assert alice.peer_credit_left(1).messages == PLENTY[1].messages - 2

    def test_over_two_sessions(self) -> None:
        alice, bob = open_pair()
        asked = alice.send_batch(ASKED)
        exchange(alice, bob)
        (came,) = events_of(bob)
        assert isinstance(came, BatchReceived)
        replied = bob.send_batch(REPLIES, Acceptance(ACCEPTED_BATCHES, [came.root], 77, False))
        exchange(alice, bob)
        receipts, batch = events_of(alice)
        assert isinstance(receipts, ReceiptsReceived)
        assert receipts.receipts.hashes == (asked.root,)
        assert receipts.receipts.root == replied.root
        assert isinstance(batch, BatchReceived)
        assert (batch.root, batch.signature) == (replied.root, replied.signature)
        alice.send_receipts(ACCEPTED_BATCHES, [batch.root], 78)
        exchange(alice, bob)
        (last,) = events_of(bob)
        assert isinstance(last, ReceiptsReceived)
        assert last.receipts.hashes == (replied.root,)

    def test_the_batch_is_verified_although_nobody_waits_for_the_receipt(self) -> None:
        alice = alice_open(is_expected=False)
        alice.receive_data(frame(), 0.0)
        (batch,) = events_of(alice)
        assert isinstance(batch, BatchReceived)
        alice.receive_data(frame(signature=bytes(64)), 0.0)
        assert events_of(alice) == [BatchFailed(REPLIES)]

    def test_receipts_that_nobody_waits_for_are_metered(self) -> None:
        def level(data: bytes) -> float:
            alice = alice_open(is_expected=False)
            alice.receive_data(data, 0.0)
            return alice._idle._level

        many = replace(PLAIN, hashes=(bytes(32),) * 100)
        alone = replace(many, signature=bytes(64)).encode()
        assert level(frame(*joint(many)[:1])) == level(alone) == 7
        assert level(encode_batch(sent(REPLIES, BOB).signature, REPLIES)) == 0

    def test_too_many_of_them_end_the_link_after_the_batch(self) -> None:
        alice = alice_open(is_expected=False)
        alice._idle.add(10_000, 0.0)
        alice.receive_data(frame(), 0.0)
        batch, closed = events_of(alice)
        assert isinstance(batch, BatchReceived)
        assert isinstance(closed, Closed)
        assert closed.code == 1

    def test_read_counts_the_batch_alone(self) -> None:
        alice = alice_open()
        alice.receive_data(frame(), 0.0)
        alice.handle_timeout(0.02, 0.02)
        (read,) = frames_of(alice.data_to_send())
        size = 64 + sum(4 + len(each) for each in REPLIES)
        assert isinstance(read, Read)
        assert read.bytes_read == size
        bob = session(BOB, ALICE)
        bob.receive_data(hello().encode(), 0.0)
        bob.send_batch(REPLIES, Acceptance(ACCEPTED_BATCHES, [ASKED_BATCH.root], 77, False))
        bob.data_to_send()
        assert bob.outgoing.bytes_out == size

    def test_read_goes_along_with_a_batch(self) -> None:
        alice = alice_open()
        alice.receive_data(frame(), 0.0)
        alice.send_batch(ASKED)
        assert [type(each) for each in frames_of(alice.data_to_send(None, 0.005))] == [Read, Part]

    def test_read_does_not_go_along_with_each_batch(self) -> None:
        alice = alice_open()
        alice.receive_data(frame(), 0.0)
        alice.send_batch(ASKED)
        assert [type(each) for each in frames_of(alice.data_to_send(None, 0.004))] == [Part]

    @pytest.mark.parametrize(("size", "expected"), [(1800, [Receipts]), (2000, [Receipts, Read])])
    def test_read_goes_along_with_the_receipt_of_a_large_batch(
        self, size: int, expected: list[type]
    ) -> None:
        alice, bob = alice_open(), session(BOB, ALICE)
        bob.receive_data(hello().encode(), 0.0)
        bob.data_to_send()
        batch = bob.send_batch([body(1, bytes(size), sender=BOB, recipient=ALICE)])
        alice.receive_data(bob.data_to_send(), 0.0)
        alice.send_receipts(ACCEPTED_BATCHES, [batch.root], 77)
        assert [type(each) for each in frames_of(alice.data_to_send(0, 0.0))] == expected


OTHER = [body(3, b"another", sender=BOB, recipient=ALICE)]
OTHER_JOINED, OTHER_BATCH = joint(replace(PLAIN, at_us=99), OTHER)
ROOT_FIRST = BOB._sign_labelled(Label.JOINT, receipt_hash(PARTIES, PLAIN.statement) + BATCH.root)


class TestForgeries:
    """Nothing is believed unless the signature fits both halves."""

    FORGERIES: Final = {
        "no signature": frame(signature=bytes(64)),
        "signed by us": frame(joint(signer=ALICE)[0]),
        "signed by another": frame(joint(signer=EVE)[0]),
        "halves swapped": frame(signature=ROOT_FIRST),
        "label of a batch": frame(joint(label=Label.BATCH)[0]),
        "label of a receipt": frame(joint(label=Label.RECEIPT)[0]),
        "label of a DID proof": frame(joint(label=Label.DID_PROOF)[0]),
        "statement altered": frame(replace(JOINED, at_us=56)),
        "statement of another kind": frame(replace(JOINED, kind=HANDLED_ENVELOPES)),
        "statement committed": frame(replace(JOINED, code=1)),
        "statement of another frame": frame(replace(OTHER_JOINED), signature=JOINED.signature),
        "statement of another peer": frame(joint(parties=bytes(EVE.did) + bytes(ALICE.did))[0]),
        "statement about another sender": frame(joint(parties=bytes(BOB.did) + bytes(EVE.did))[0]),
        "statement of the other direction": frame(
            joint(parties=bytes(ALICE.did) + bytes(BOB.did))[0]
        ),
        "batch altered": frame(bodies=[REPLIES[0], REPLIES[1] + b"!"]),
        "batch cut": frame(bodies=REPLIES[:1]),
        "batch in another order": frame(bodies=REPLIES[::-1]),
        "batch of another frame": frame(bodies=OTHER),
        "signature of the batch alone": frame(signature=sent(REPLIES, BOB).signature),
        "signature of the receipt alone": frame(
            signature=BOB._sign_labelled(Label.RECEIPT, PARTIES + PLAIN.statement)
        ),
    }

    @pytest.mark.parametrize("is_expected", [True, False])
    @pytest.mark.parametrize("name", FORGERIES)
    def test_neither_half_is_believed(self, name: str, is_expected: bool) -> None:
        alice = alice_open(is_expected)
        alice.receive_data(self.FORGERIES[name], 0.0)
        (failed,) = events_of(alice)
        assert isinstance(failed, BatchFailed)

    def test_a_joint_signature_is_none_of_a_batch_alone(self) -> None:
        alice = alice_open()
        alice.receive_data(encode_batch(JOINED.signature, REPLIES), 0.0)
        assert events_of(alice) == [BatchFailed(REPLIES)]

    def test_a_joint_signature_is_none_of_a_receipt_alone(self) -> None:
        alice = alice_open()
        alice.receive_data(JOINED.encode(), 0.0)
        (closed,) = events_of(alice)
        assert isinstance(closed, Closed)
        assert closed.code == frames.CLOSE_BAD_SIGNATURE

    @settings(deadline=None, max_examples=100)
    @given(st.data())
    def test_any_changed_byte(self, data: st.DataObject) -> None:
        changed = bytearray(frame())
        at = data.draw(st.integers(7, len(changed) - 1))
        changed[at] ^= data.draw(st.integers(1, 255))
        alice = alice_open()
        alice.receive_data(bytes(changed), 0.0)
        for event in events_of(alice):
            assert isinstance(event, (BatchFailed, Closed))


# -- proofs ----------------------------------------------------------------------------------

ASKED_JOINTLY = joint(
    Receipts(ACCEPTED_ENVELOPES, 11, (b"h" * 32,)),
    ASKED,
    signer=ALICE,
    parties=bytes(ALICE.did) + bytes(BOB.did),
)[1]
"""Alice's batch, with a receipt for something of Bob."""


def proof_of(batch: SentBatch, *, is_joint: bool, kind: int = ACCEPTED_BATCHES) -> bytes:
    """A receipt proof for the second question."""
    name = batch.root if kind == ACCEPTED_BATCHES else batch.leaves[1]
    plain = Receipts(kind, 55, (name,), code=int(kind == REFUSED_ENVELOPES))
    signed = replace(plain, signature=BOB._sign_labelled(Label.RECEIPT, PARTIES + plain.statement))
    receipts = joint(plain)[0] if is_joint else signed
    return encode_receipt_proof(ASKED[1], batch, 1, receipts.proof)


FORMS: Final = [
    pytest.param(batch, is_joint, id=f"{name}-{'joint' if is_joint else 'plain'}")
    for name, batch in (("plain", ASKED_BATCH), ("joint", ASKED_JOINTLY))
    for is_joint in (False, True)
]


class TestProofs:
    @pytest.mark.parametrize("kind", [1, 2, 3, 4])
    @pytest.mark.parametrize(("batch", "is_joint"), FORMS)
    def test_all_four_forms(self, batch: SentBatch, is_joint: bool, kind: int) -> None:
        data = proof_of(batch, is_joint=is_joint, kind=kind)
        proven = verify_receipt(data)
        assert (proven.envelope.body, proven.at_us) == (ASKED[1], 55)
        assert (proven.is_handled, proven.is_refused) == (kind == 3, kind == 4)
        stream = ReceiptProofStream(whole=0)
        for at in range(0, len(data), 50):
            stream.receive_data(data[at : at + 50])
        assert stream.delivery().envelope.digest == proven.envelope.digest

    @pytest.mark.parametrize(("batch", "is_joint"), FORMS)
    def test_the_layout(self, batch: SentBatch, is_joint: bool) -> None:
        data = proof_of(batch, is_joint=is_joint)
        half, signature = batch.signature[:-64], batch.signature[-64:]
        path = batch.leaves[0] + batch.leaves[2]
        envelope = ASKED[1] + path + half + b"\1\0\3\0" + bytes((len(half) // 32,)) + signature
        plain = replace(PLAIN, hashes=(batch.root,))
        receipts = joint(plain)[0]
        text = PARTIES + plain.statement
        rest = (
            b"\1" + BATCH.root + plain.statement + receipts.signature
            if is_joint
            else b"\0" + plain.statement + BOB._sign_labelled(Label.RECEIPT, text)
        )
        assert data == b"SWPROOF2" + le(len(envelope), 4) + envelope + rest

    @settings(deadline=None, max_examples=100)
    @given(st.data())
    def test_any_changed_byte(self, data: st.DataObject) -> None:
        proof = bytearray(proof_of(ASKED_JOINTLY, is_joint=True))
        at = data.draw(st.integers(0, len(proof) - 1))
        proof[at] ^= data.draw(st.integers(1, 255))
        with pytest.raises((EnvelopeError, SignatureError)):
            verify_receipt(bytes(proof))

    @pytest.mark.parametrize("form", [0, 2, 255])
    def test_another_form(self, form: int) -> None:
        data = bytearray(proof_of(ASKED_JOINTLY, is_joint=True))
        size = int.from_bytes(data[8:12], "little")
        for at in (12 + size, 12 + size - 65):
            changed = data[:at] + bytes((form,)) + data[at + 1 :]
            with pytest.raises((EnvelopeError, SignatureError)):
                verify_receipt(bytes(changed))

    def test_the_halves_of_two_frames_do_not_mix(self) -> None:
        """A statement with the root of another batch, and a batch with another receipt hash."""
        mixed = replace(JOINED, root=OTHER_BATCH.root, hashes=(ASKED_BATCH.root,))
        with pytest.raises(SignatureError, match="not signed by its recipient"):
            verify_receipt(encode_receipt_proof(ASKED[1], ASKED_BATCH, 1, mixed.proof))
        swapped = OTHER_BATCH.signature[:32] + BATCH.signature[32:]
        path = MerklePath(0, 2, swapped, leaves=BATCH.leaves)
        with pytest.raises(SignatureError, match="bad signature"):
            SignedEnvelope(REPLIES[0], path).verify()

    def test_the_root_is_not_what_the_receipt_names(self) -> None:
        """The root of the joint frame is the signer's own batch, and is no acceptance of it."""
        path = MerklePath(0, 2, BATCH.signature, leaves=BATCH.leaves)
        envelope = SignedEnvelope(REPLIES[0], path).encode()
        data = b"SWPROOF2" + le(len(envelope), 4) + envelope + JOINED.proof
        with pytest.raises(SignatureError, match="does not name this envelope"):
            verify_receipt(data)

    def test_a_proof_of_the_batch_shows_nothing_of_the_receipt(self) -> None:
        data = SignedEnvelope(
            REPLIES[0], MerklePath(0, 2, BATCH.signature, leaves=BATCH.leaves)
        ).encode()
        SignedEnvelope.decode(data).verify()
        for hidden in (*PLAIN.hashes, *ASKED_BATCH.leaves, PLAIN.statement[:9], *ASKED):
            assert hidden not in data

    def test_a_proof_of_the_receipt_shows_nothing_of_the_batch(self) -> None:
        data = proof_of(ASKED_BATCH, is_joint=True)
        verify_receipt(data)
        for hidden in (*REPLIES, *BATCH.leaves, b"reply", BATCH.signature[:32]):
            assert hidden not in data
        # The salt of each envelope is under its leaf, so the root says nothing about payloads.
        assert data.count(BATCH.root) == 1

    def test_an_envelope_of_a_joint_frame(self) -> None:
        envelope = SignedEnvelope(
            REPLIES[1], MerklePath(1, 2, BATCH.signature, leaves=BATCH.leaves)
        )
        envelope.verify()
        assert envelope.signature == JOINED.signature
        again = SignedEnvelope.decode(envelope.encode())
        assert again == envelope
        assert again.merkle_path is not None
        assert again.merkle_path.signature == BATCH.signature

    def test_a_large_one(self) -> None:
        bodies = [body(n, bytes(3000), sender=BOB, recipient=ALICE) for n in range(1, 40)]
        _, batch = joint(PLAIN, bodies)
        envelope = SignedEnvelope(
            bodies[18], MerklePath(18, 39, batch.signature, leaves=batch.leaves)
        )
        stream = EnvelopeStream(whole=0)
        stream.receive_data(envelope.encode())
        large = stream.envelope()
        large.verify()
        assert (large.digest, large.payload_size) == (envelope.digest, 3000)

    def test_in_an_evidence_log(self) -> None:
        start = LogHeader(bytes(ALICE.did), 1_000).encode()
        chain = Chain(start[-32:])
        paths = [MerklePath(at, 2, BATCH.signature, leaves=BATCH.leaves) for at in (0, 1)]
        records = [
            chain.record(7, SignedEnvelope(each, path))
            for each, path in zip(REPLIES, paths, strict=True)
        ]
        checker = LogChecker(chain.head)
        found = checker.receive_data(start + b"".join(records))
        checker.receive_eof()
        assert (checker.error, checker.head_at) == (None, 2)
        assert [each.envelope.body for each in found] == REPLIES
