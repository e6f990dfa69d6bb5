"""Whatever is signed on a link counts for its signer, its recipient and its bytes, and no others.

Frames and proofs of every form are replayed to other peers, in the name of other keys and in the
other direction, and each of their bytes is changed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from peerkit import Desk, still_clock

from linkkit import ALICE, BOB, EVE, body, body_of, events_of, hello, sent, session
from signedwire.errors import EnvelopeError, SignatureError
from signedwire.identity import Identity, Label
from signedwire.types import Reason
from signedwire.wire import link_frames as frames
from signedwire.wire.batch_signer import BatchSigner
from signedwire.wire.envelope import SignedEnvelope
from signedwire.wire.header import VOLATILE
from signedwire.wire.joint import receipt_hash, sign_joint
from signedwire.wire.link_frames import (
    ACCEPTED_BATCHES,
    ACCEPTED_ENVELOPES,
    HANDLED_ENVELOPES,
    REFUSED_ENVELOPES,
    Epochs,
    Receipts,
    Refusal,
)
from signedwire.wire.parts import BatchWriter, encode_batch
from signedwire.wire.receipt_proof import encode_receipt_proof, verify_receipt
from signedwire.wire.receipt_signer import Acceptance, ReceiptSigner
from signedwire.wire.sent_batch import SentBatch, sign_copies
from signedwire.wire.session import BatchFailed, BatchReceived, Closed, ReceiptsReceived, Session

ASKED: Final = [body(n, b"question") for n in (1, 2, 3)]
"""What Alice has sent to Bob."""
ASKED_BATCH: Final = sent(ASKED)
REPLIES: Final = [body(n, b"reply", sender=BOB, recipient=ALICE) for n in (1, 2)]
"""What Bob sends to Alice."""
NAMED: Final = {
    ACCEPTED_BATCHES: [ASKED_BATCH.root],
    ACCEPTED_ENVELOPES: ASKED_BATCH.leaves[:2],
    HANDLED_ENVELOPES: ASKED_BATCH.leaves[:1],
}


def batch_frame(bodies: list[bytes] = REPLIES) -> bytes:
    """A plain batch of Bob."""
    return encode_batch(sent(bodies, BOB).signature, bodies)


def copies_frame() -> bytes:
    """Copies of Bob, with those of somebody else in the same tree."""
    others = [body(n, sender=BOB, recipient=EVE) for n in range(1, 19)]
    copies = sign_copies(BOB, [others, REPLIES])[1]
    writer = BatchWriter(copies.signature, copies.items(REPLIES), 1, is_copies=True)
    return b"".join(writer.next_part())


def joint_frame(kind: int = ACCEPTED_ENVELOPES) -> bytes:
    """A batch of Bob with a receipt under the same signature."""
    signer = BatchSigner(BOB, ReceiptSigner(BOB, ALICE.did))
    batch, joined = signer.sign(REPLIES, Acceptance(kind, NAMED[kind], 55, is_committed=True))
    return encode_batch(batch.signature, REPLIES, None, joined)


def receipt_frame(kind: int) -> bytes:
    """A receipt of Bob by itself."""
    signer = ReceiptSigner(BOB, ALICE.did)
    if kind == REFUSED_ENVELOPES:
        refusals = [Refusal(leaf, Reason.EXPIRED, "late") for leaf in ASKED_BATCH.leaves]
        (frame,) = signer.refusals(refusals, 55)
    else:
        (frame,) = signer.receipts(kind, NAMED[kind], 55, is_committed=True)
    return frame


FRAMES: Final = {
    "batch": batch_frame(),
    "copies": copies_frame(),
    **{f"joint {kind}": joint_frame(kind) for kind in (1, 2)},
    **{f"receipt {kind}": receipt_frame(kind) for kind in (1, 2, 3, 4)},
}
each_frame = pytest.mark.parametrize("name", FRAMES)


def open_session(us: Identity, them: Identity) -> Session:
    """Our end of a link."""
    ours = session(us, them)
    ours.receive_data(hello().encode(), 0.0)
    events_of(ours)
    return ours


def believed(us: Identity, them: Identity, data: bytes) -> list[Any]:
    """What our end of a link with them takes for signed."""
    ours = open_session(us, them)
    ours.receive_data(data, 0.0)
    return [
        event for event in events_of(ours) if isinstance(event, (BatchReceived, ReceiptsReceived))
    ]


class TestForWhom:
    @each_frame
    def test_its_recipient_believes_its_signer(self, name: str) -> None:
        found = {type(event) for event in believed(ALICE, BOB, FRAMES[name])}
        assert (
            found
            == {
                "batch": {BatchReceived},
                "copies": {BatchReceived},
                "joint": {BatchReceived, ReceiptsReceived},
                "receipt": {ReceiptsReceived},
            }[name.split()[0]]
        )

    @pytest.mark.parametrize(
        ("us", "them"),
        [(ALICE, EVE), (BOB, ALICE), (BOB, EVE), (EVE, ALICE)],
        ids=["another key says it", "it comes back", "to its signer", "another link"],
    )
    @each_frame
    def test_nobody_believes_it_of_another_key(
        self, name: str, us: Identity, them: Identity
    ) -> None:
        assert believed(us, them, FRAMES[name]) == []

    @pytest.mark.parametrize("name", [name for name in FRAMES if name not in {"batch", "copies"}])
    def test_a_receipt_is_none_for_another_sender(self, name: str) -> None:
        """Eve gets what Bob has signed for Alice: no half of a joint frame counts either."""
        assert believed(EVE, BOB, FRAMES[name]) == []

    @pytest.mark.parametrize("name", ["batch", "copies"])
    def test_a_batch_for_somebody_else_is_signed_and_refused(self, name: str) -> None:
        """Its root is its sender's alone, so the recipient in each header decides."""
        (batch,) = believed(EVE, BOB, FRAMES[name])
        with still_clock():
            desk = Desk(us=EVE)
            link = desk.link(BOB)
            link.bring_batch(batch)
            desk.host.run()
            assert desk.take() == []
            assert desk.host.drops == {(Reason.NOT_FOR_US, BOB.did): 2}
            told = [refusal for said in link.heard("refused") for refusal in said]
            assert [refusal.reason for refusal in told] == [Reason.NOT_FOR_US] * 2
            assert link.heard("receipts") == []

    @pytest.mark.parametrize("kind", [1, 2, 3, 4])
    def test_a_receipt_of_one_kind_is_none_of_another(self, kind: int) -> None:
        """With the same hashes and the signature of the true kind."""
        (event,) = believed(ALICE, BOB, receipt_frame(kind))
        for other in (1, 2, 3):
            if other != kind:
                changed = replace(event.receipts, kind=other, code=1, text=b"")
                assert believed(ALICE, BOB, changed.encode()) == []
        if kind != REFUSED_ENVELOPES:
            changed = replace(event.receipts, kind=REFUSED_ENVELOPES, code=1)
            assert believed(ALICE, BOB, changed.encode()) == []

    @pytest.mark.parametrize("label", [label for label in Label if label is not Label.RECEIPT])
    @pytest.mark.parametrize("kind", [1, 4])
    def test_a_receipt_under_another_label(self, kind: int, label: Label) -> None:
        (event,) = believed(ALICE, BOB, receipt_frame(kind))
        text = bytes(BOB.did) + bytes(ALICE.did) + event.receipts.statement
        forged = replace(event.receipts, signature=BOB._sign_labelled(label, text))
        assert believed(ALICE, BOB, forged.encode()) == []

    @pytest.mark.parametrize(
        "parties",
        [(ALICE, BOB), (EVE, ALICE), (BOB, EVE), (BOB, BOB)],
        ids=["swapped", "another recipient", "another sender", "about itself"],
    )
    def test_a_joint_receipt_names_recipient_and_sender_in_this_order(
        self, parties: tuple[Identity, Identity]
    ) -> None:
        plain = Receipts(ACCEPTED_BATCHES, 55, (ASKED_BATCH.root,))
        half = receipt_hash(b"".join(bytes(one.did) for one in parties), plain.statement)
        signature = sign_joint(BOB, sent(REPLIES, BOB).root, half)
        joined = replace(plain, signature=signature[32:])
        frame = encode_batch(signature, REPLIES, None, joined)
        alice = open_session(ALICE, BOB)
        alice.receive_data(frame, 0.0)
        assert events_of(alice) == [BatchFailed(REPLIES)]


class TestEpochs:
    """HELLO names two epochs, and each message has the one of its kind under its leaf."""

    @pytest.fixture(autouse=True)
    def clock(self) -> Iterator[None]:
        with still_clock():
            yield

    @pytest.mark.parametrize("stream", [1, 3, 1 + VOLATILE, 3 + VOLATILE])
    @pytest.mark.parametrize("epochs", [Epochs(9, 5), Epochs(5, 9)])
    def test_a_message_of_one_kind_in_the_epoch_of_the_other(
        self, stream: int, epochs: Epochs
    ) -> None:
        desk = Desk()
        link = desk.link(epochs=epochs)
        terms: dict[str, Any] = {"sender": BOB, "recipient": ALICE}
        own, other = epochs if stream < VOLATILE else reversed(epochs)
        swapped = body_of(stream, 1, epoch=other, **terms)
        (batch,) = believed(ALICE, BOB, batch_frame([swapped]))
        link.bring_batch(batch)
        assert desk.take() == []
        assert desk.host.drops == {(Reason.MALFORMED, BOB.did): 1}
        (batch,) = believed(ALICE, BOB, batch_frame([body_of(stream, 1, epoch=own, **terms)]))
        link.bring_batch(batch)
        assert len(desk.take()) == 1

    @pytest.mark.parametrize("is_durable", [True, False])
    def test_a_replay_after_a_newer_epoch(self, is_durable: bool) -> None:
        """The marks begin at 0 again, so nothing else keeps the old message out."""
        desk = Desk()
        link = desk.link(epochs=Epochs(9, 9))
        batch = link.bring(1, is_durable=is_durable)
        assert len(desk.take()) == 1
        again = desk.link(epochs=Epochs(10, 9) if is_durable else Epochs(9, 10))
        again.bring_batch(batch)
        assert desk.take() == []
        assert desk.host.drops == {(Reason.MALFORMED, BOB.did): 1}

    @pytest.mark.parametrize("is_durable", [True, False])
    def test_a_message_cannot_be_made_one_of_the_other_kind(self, is_durable: bool) -> None:
        """The flag is under the leaf, so a relay cannot make a message durable, or volatile."""
        terms: dict[str, Any] = {"sender": BOB, "recipient": ALICE}
        own = [body(1, is_durable=is_durable, **terms)]
        other = [body(1, is_durable=not is_durable, **terms)]
        assert believed(ALICE, BOB, encode_batch(sent(own, BOB).signature, other)) == []


def changes(data: bytes, start: int = 0) -> Iterator[bytes]:
    """The same bytes with one of them changed: each of them, in some ways."""
    for at in range(start, len(data)):
        for mask in {1 << (at % 8), 0x80, 0xFF}:
            yield data[:at] + bytes((data[at] ^ mask,)) + data[at + 1 :]


class TestChangedBytes:
    @each_frame
    def test_no_frame_is_believed_with_one_byte_changed(self, name: str) -> None:
        """Its length and its type are among them: then it is another frame, or none."""
        for changed in changes(FRAMES[name]):
            assert believed(ALICE, BOB, changed) == []

    @pytest.mark.parametrize("name", ["batch", "copies", "joint 1", "joint 2"])
    def test_a_changed_envelope_is_refused_and_nothing_worse(self, name: str) -> None:
        """In the payload of the last one, which no check of the form looks at."""
        data = FRAMES[name]
        alice = open_session(ALICE, BOB)
        alice.receive_data(data[:-1] + b"!", 0.0)
        (failed,) = events_of(alice)
        assert isinstance(failed, BatchFailed)
        assert failed.bodies == [REPLIES[0], REPLIES[1][:-1] + b"!"]

    @each_frame
    @settings(deadline=None, max_examples=60)
    @given(data=st.data())
    def test_nor_cut_prolonged_or_with_several(self, name: str, data: st.DataObject) -> None:
        frame = FRAMES[name]
        start = data.draw(st.integers(5, len(frame)))
        stop = data.draw(st.integers(start, min(len(frame), start + 80)))
        inner = frame[5:start] + data.draw(st.binary(max_size=80)) + frame[stop:]
        changed = (len(inner) + 1).to_bytes(4, "big") + frame[4:5] + inner
        if changed != frame:
            assert believed(ALICE, BOB, changed) == []


# -- proofs ------------------------------------------------------------------------------------


def asked_jointly() -> SentBatch:
    """Alice's batch, with a receipt for something of Bob."""
    signer = BatchSigner(ALICE, ReceiptSigner(ALICE, BOB.did))
    return signer.sign(ASKED, Acceptance(ACCEPTED_ENVELOPES, [b"h" * 32], 11, is_committed=False))[
        0
    ]


def asked_in_copies() -> SentBatch:
    """Alice's messages, in a tree of two groups with those to others."""
    others = [body(n, recipient=EVE) for n in range(1, 16)]
    return sign_copies(ALICE, [others, ASKED])[1]


SENT: Final[dict[str, Callable[[], SentBatch]]] = {
    "batch": lambda: ASKED_BATCH,
    "joint": asked_jointly,
    "copies": asked_in_copies,
}


def proof(form: str, kind: int, *, is_joint: bool, by: Identity = BOB) -> bytes:
    """A receipt proof of the second question."""
    batch = SENT[form]()
    name = batch.root if kind == ACCEPTED_BATCHES else batch.leaves[1]
    plain = Receipts(kind, 55, (name,), code=int(kind == REFUSED_ENVELOPES))
    parties = bytes(by.did) + bytes(ALICE.did)
    if is_joint:
        root = sent(REPLIES, by).root
        signature = sign_joint(by, root, receipt_hash(parties, plain.statement))[32:]
        said = replace(plain, signature=signature, root=root)
    else:
        signature = by._sign_labelled(Label.RECEIPT, parties + plain.statement)
        said = replace(plain, signature=signature)
    return encode_receipt_proof(ASKED[1], batch, 1, said.proof)


each_form = pytest.mark.parametrize("form", SENT)
each_kind = pytest.mark.parametrize("kind", [1, 2, 3, 4])
both_receipts = pytest.mark.parametrize("is_joint", [False, True], ids=["plain", "joint"])


class TestProofs:
    @each_form
    @each_kind
    @both_receipts
    def test_none_of_any_form_verifies_with_one_byte_changed(
        self, form: str, kind: int, is_joint: bool
    ) -> None:
        data = proof(form, kind, is_joint=is_joint)
        assert verify_receipt(data).envelope.body == ASKED[1]
        for changed in changes(data):
            with pytest.raises((EnvelopeError, SignatureError)):
                verify_receipt(changed)

    @each_form
    def test_no_envelope_that_stands_alone_does_either(self, form: str) -> None:
        data = SignedEnvelope(ASKED[1], SENT[form]().path(1)).encode()
        SignedEnvelope.decode(data).verify()
        for changed in changes(data):
            with pytest.raises((EnvelopeError, SignatureError)):
                SignedEnvelope.decode(changed).verify()

    @each_form
    @each_kind
    @both_receipts
    def test_it_is_signed_by_the_recipient_that_the_envelope_names(
        self, form: str, kind: int, is_joint: bool
    ) -> None:
        for by in (ALICE, EVE):
            with pytest.raises(SignatureError, match="was not signed by its recipient"):
                verify_receipt(proof(form, kind, is_joint=is_joint, by=by))

    @both_receipts
    def test_a_statement_about_one_form_is_none_about_another(self, is_joint: bool) -> None:
        """A receipt names the root of one tree. The same envelope in another one needs its own."""
        said = {form: proof(form, ACCEPTED_BATCHES, is_joint=is_joint) for form in SENT}
        halves = {}
        for form, data in said.items():
            end = 12 + int.from_bytes(data[8:12], "little")
            halves[form] = data[:end], data[end:]
        for form, (envelope, _) in halves.items():
            for other, (_, receipt) in halves.items():
                # The root covers the same leaves, whether the signature is joint or not.
                if (form == "copies") == (other == "copies"):
                    verify_receipt(envelope + receipt)
                else:
                    with pytest.raises(SignatureError, match="does not name this envelope"):
                        verify_receipt(envelope + receipt)


def test_a_link_that_brings_a_forgery_ends_with_the_code_for_it() -> None:
    """A receipt ends it at once; a batch is refused first, by its receiver."""
    for kind in (1, 2, 3, 4):
        eve = open_session(EVE, BOB)
        eve.receive_data(receipt_frame(kind), 0.0)
        (closed,) = events_of(eve)
        assert isinstance(closed, Closed)
        assert closed.code == frames.CLOSE_BAD_SIGNATURE
