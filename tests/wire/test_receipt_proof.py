"""Receipt proofs: what they prove to anyone, and that nobody can make another."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from linkkit import ALICE, BOB, EVE, alone, body, sent
from signedwire.errors import EnvelopeError, SignatureError
from signedwire.identity import Identity, Label
from signedwire.types import Reason
from signedwire.wire.batch import leaf_of
from signedwire.wire.envelope import MerklePath, SignedEnvelope
from signedwire.wire.link_frames import (
    ACCEPTED_BATCHES,
    ACCEPTED_ENVELOPES,
    HANDLED_ENVELOPES,
    REFUSED_ENVELOPES,
    Receipts,
)
from signedwire.wire.receipt_proof import encode_receipt_proof, verify_receipt

BODIES = [body(n, bytes([n])) for n in range(1, 21)]
BATCH = sent(BODIES)
PARTIES = bytes(BOB.did) + bytes(ALICE.did)
V1 = SignedEnvelope.sign(ALICE, BOB.did, b"v1", sequence_number=1, timestamp_us=1)


def signed(
    kind: int = ACCEPTED_BATCHES,
    *hashes: bytes,
    at_us: int = 55,
    signer: Identity = BOB,
    parties: bytes = PARTIES,
    label: Label = Label.RECEIPT,
    detail: int = 0,
    text: bytes = b"",
) -> Receipts:
    """A receipt by Bob about what Alice sent."""
    plain = Receipts(kind, at_us, hashes or (BATCH.root,), code=detail, text=text)
    return replace(plain, signature=signer._sign_labelled(label, parties + plain.statement))


def raw(receipts: Receipts) -> bytes:
    return receipts.proof


def packed(envelope: SignedEnvelope, receipts: Receipts) -> bytes:
    """A receipt proof that anyone could put together."""
    data = envelope.encode()
    return b"SWPROOF2" + len(data).to_bytes(4, "little") + data + raw(receipts)


def taken_out(index: int) -> SignedEnvelope:
    return alone(BODIES, index)


class TestProofs:
    @pytest.mark.parametrize("committed", [0, 1])
    @pytest.mark.parametrize("kind", [ACCEPTED_BATCHES, ACCEPTED_ENVELOPES, HANDLED_ENVELOPES])
    def test_whether_a_store_had_committed_it(self, kind: int, committed: int) -> None:
        name = BATCH.root if kind == ACCEPTED_BATCHES else BATCH.leaves[7]
        proven = verify_receipt(packed(taken_out(7), signed(kind, name, detail=committed)))
        assert (proven.is_committed, proven.is_refused) == (committed == 1, False)
        assert (proven.reason, proven.detail) == (None, "")

    @pytest.mark.parametrize(
        ("code", "text", "reason", "detail"),
        [
            (1, b"", Reason.EXPIRED, ""),
            (14, "zu groß\n".encode(), Reason.SIZE_RULE, "zu groß?"),
            (99, b"", Reason.REFUSED, "code 99"),
            (99, b"why", Reason.REFUSED, "code 99: why"),
        ],
    )
    def test_of_a_refusal(self, code: int, text: bytes, reason: Reason, detail: str) -> None:
        refused = signed(REFUSED_ENVELOPES, BATCH.leaves[7], detail=code, text=text)
        proven = verify_receipt(packed(taken_out(7), refused))
        assert (proven.is_refused, proven.is_handled, proven.is_committed) == (True, False, False)
        assert (proven.reason, proven.detail, proven.at_us) == (reason, detail, 55)

    def test_a_refusal_names_no_batch(self) -> None:
        refused = signed(REFUSED_ENVELOPES, BATCH.root, detail=1)
        assert refusal(packed(taken_out(7), refused)) == "the receipt does not name this envelope"

    @pytest.mark.parametrize("index", [0, 15, 16, 19])
    def test_of_an_accepted_batch(self, index: int) -> None:
        data = encode_receipt_proof(BODIES[index], BATCH, index, raw(signed()))
        assert data == packed(taken_out(index), signed())
        proven = verify_receipt(data)
        assert proven.envelope == taken_out(index)
        assert (proven.envelope.sender, proven.envelope.recipient) == (ALICE.did, BOB.did)
        assert proven.envelope.payload == bytes([index + 1])
        assert (proven.is_handled, proven.at_us) == (False, 55)

    @pytest.mark.parametrize("kind", [ACCEPTED_ENVELOPES, HANDLED_ENVELOPES])
    @pytest.mark.parametrize("position", [0, 3])
    def test_of_single_envelopes(self, kind: int, position: int) -> None:
        names = [bytes([n]) * 32 for n in range(4)]
        names[position] = BATCH.leaves[7]
        proven = verify_receipt(packed(taken_out(7), signed(kind, *names)))
        assert proven.is_handled == (kind == HANDLED_ENVELOPES)

    def test_of_a_batch_among_others(self) -> None:
        receipts = signed(ACCEPTED_BATCHES, bytes(32), BATCH.root)
        assert verify_receipt(packed(taken_out(7), receipts)).at_us == 55

    def test_of_an_envelope_with_a_signature_of_its_own(self) -> None:
        proven = verify_receipt(packed(V1, signed(HANDLED_ENVELOPES, V1.digest)))
        assert proven.envelope == V1
        assert proven.is_handled


def refusal(data: bytes) -> str:
    with pytest.raises((EnvelopeError, SignatureError)) as caught:
        verify_receipt(data)
    return str(caught.value)


class TestForgeries:
    @pytest.mark.parametrize(
        "receipts",
        [
            signed(signer=ALICE),
            signed(signer=EVE),
            signed(parties=bytes(ALICE.did) + bytes(BOB.did)),
            signed(parties=bytes(BOB.did) + bytes(EVE.did)),
            signed(parties=bytes(EVE.did) + bytes(ALICE.did), signer=EVE),
            signed(label=Label.BATCH),
            signed(label=Label.DID_PROOF),
            replace(signed(), at_us=56),
            replace(signed(), code=1),
            signed(REFUSED_ENVELOPES, BATCH.leaves[7], detail=1, signer=ALICE),
            replace(signed(REFUSED_ENVELOPES, BATCH.leaves[7], detail=1), code=2),
            replace(signed(REFUSED_ENVELOPES, BATCH.leaves[7], detail=1), text=b"x"),
            replace(signed(), hashes=(BATCH.root, BATCH.root)),
            replace(signed(), signature=BATCH.signature),
        ],
        ids=range(14),
    )
    def test_a_receipt_that_the_recipient_did_not_sign(self, receipts: Receipts) -> None:
        assert refusal(packed(taken_out(7), receipts)) == (
            f"the receipt was not signed by its recipient {BOB.did}"
        )

    @pytest.mark.parametrize(
        ("kind", "name"),
        [
            (ACCEPTED_BATCHES, bytes(32)),
            (ACCEPTED_BATCHES, sent(BODIES[:7]).root),
            # A root where leaves are named, and leaves where roots are.
            (ACCEPTED_BATCHES, BATCH.leaves[7]),
            (ACCEPTED_ENVELOPES, BATCH.root),
            (HANDLED_ENVELOPES, BATCH.root),
            (ACCEPTED_ENVELOPES, BATCH.leaves[6]),
            (HANDLED_ENVELOPES, leaf_of(BODIES[7] + b"\0")),
        ],
    )
    def test_a_receipt_about_others(self, kind: int, name: bytes) -> None:
        assert refusal(packed(taken_out(7), signed(kind, name))) == (
            "the receipt does not name this envelope"
        )

    @pytest.mark.parametrize("kind", [ACCEPTED_ENVELOPES, HANDLED_ENVELOPES])
    def test_a_receipt_whose_kind_was_changed(self, kind: int) -> None:
        """Also for a batch of one, and where root and leaf are both named."""
        single = sent(BODIES[:1])
        for names in ((single.root,), (single.leaves[0],), (single.root, single.leaves[0])):
            for true in (ACCEPTED_BATCHES, ACCEPTED_ENVELOPES, HANDLED_ENVELOPES):
                if true != kind:
                    changed = replace(signed(true, *names), kind=kind)
                    refusal(packed(alone(BODIES[:1]), changed))

    @pytest.mark.parametrize("kind", [ACCEPTED_ENVELOPES, HANDLED_ENVELOPES])
    def test_an_envelope_that_its_sender_did_not_sign(self, kind: int) -> None:
        """The recipient cannot forge one, whatever it signs."""
        forged = SignedEnvelope(
            BODIES[0], MerklePath(0, 1, alone(BODIES[:1], 0, BOB).signature, hashes=b"")
        )
        assert "bad signature" in refusal(packed(forged, signed(kind, forged.digest)))
        unsigned = SignedEnvelope.unsigned(ALICE.did, BOB.did, b"", sequence_number=1)
        assert "unsigned" in refusal(packed(unsigned, signed(kind, unsigned.digest)))

    def test_a_v1_envelope_is_of_no_batch(self) -> None:
        for name in (V1.digest, BATCH.root):
            assert refusal(packed(V1, signed(ACCEPTED_BATCHES, name))) == (
                "the receipt names batches, and a v1 envelope is in no batch"
            )

    def test_a_receipt_for_another_recipients_envelope(self) -> None:
        """A batch can hold envelopes to several recipients: each signs only for its own."""
        mixed = [body(1, recipient=BOB), body(1, recipient=EVE)]
        batch = sent(mixed)
        receipts = signed(ACCEPTED_BATCHES, batch.root)
        assert verify_receipt(packed(alone(mixed, 0), receipts)).envelope.recipient == BOB.did
        assert refusal(packed(alone(mixed, 1), receipts)) == (
            f"the receipt was not signed by its recipient {EVE.did}"
        )

    @settings(deadline=None, max_examples=150)
    @given(st.data())
    def test_any_changed_byte(self, data: st.DataObject) -> None:
        proof = bytearray(packed(taken_out(7), signed()))
        at = data.draw(st.integers(0, len(proof) - 1))
        proof[at] ^= data.draw(st.integers(1, 255))
        refusal(bytes(proof))

    @settings(deadline=None)
    @given(st.integers(0, 1200), st.binary(max_size=9))
    def test_cut_or_prolonged(self, size: int, tail: bytes) -> None:
        proof = packed(taken_out(7), signed())
        other = proof[:size] + tail
        if other != proof:
            refusal(other)

    @pytest.mark.parametrize("data", [b"", b"SWPROOF2", b"SWPROOF2abc", b"SWPROOF3" + bytes(99)])
    def test_no_proof_at_all(self, data: bytes) -> None:
        with pytest.raises(EnvelopeError) as caught:
            verify_receipt(data)
        assert str(caught.value) == "not a receipt proof. Receipt.proof() makes one"

    @pytest.mark.parametrize(
        ("receipts", "fact"),
        [
            (signed().statement[:-1], "it holds a receipt whose statement has"),
            (replace(signed(), kind=9).statement, "it holds a receipt of unknown kind 9"),
            (replace(signed(), code=2).statement, "it holds a receipt whose byte `committed` is 2"),
            (b"\1", "its receipt of 65 bytes is too short"),
            (
                replace(signed(), kind=REFUSED_ENVELOPES, text=bytes(257)).statement,
                "it holds a refusal with 257 bytes of text",
            ),
        ],
    )
    def test_a_statement_that_is_none(self, receipts: bytes, fact: str) -> None:
        """No peer takes part in the check of a file, so the error speaks of none."""
        sound = packed(taken_out(7), signed())
        data = sound[: -len(signed().proof)] + b"\0" + receipts + bytes(64)
        with pytest.raises(EnvelopeError, match=f"^not a receipt proof: {fact}") as caught:
            verify_receipt(data)
        assert "peer" not in str(caught.value)

    @settings(deadline=None)
    @given(st.binary(max_size=600))
    def test_any_bytes(self, tail: bytes) -> None:
        refusal(tail)
        refusal(b"SWPROOF2" + tail)

    def test_one_of_an_earlier_signedwire(self) -> None:
        with pytest.raises(EnvelopeError, match="of an earlier signedwire: verify it with that"):
            verify_receipt(b"SWPROOF1" + bytes(300))
