"""Receipt proofs: an envelope together with its recipient's signed statement about it.

    "SWPROOF2" ‖ u32 LE size ‖ envelope, standing alone ‖ u8 form ‖ [root] ‖ statement ‖ signature

The statement is that of a RECEIPT frame (docs/protocol.md). The form is 0, or 1 if the signature
is joint (`wire.joint`). The root is there only if it is 1. Anybody who has these
bytes can check, offline and for ever, that the sender sent this envelope and
that the recipient accepted, handled or refused it.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from typing import Final

from signedwire.errors import EnvelopeError, SignatureError
from signedwire.types import Reason, did_text
from signedwire.wire.envelope import SignedEnvelope
from signedwire.wire.header import recipient_of, sender_of
from signedwire.wire.joint import decode_form, is_statement_signed
from signedwire.wire.link_frames import (
    ACCEPTED_BATCHES,
    HANDLED_ENVELOPES,
    REFUSED_ENVELOPES,
    Receipts,
    read_receipts,
)
from signedwire.wire.malformed import BadReceipt
from signedwire.wire.sent_batch import SentBatch

__all__ = [
    "ProvenDelivery",
    "check_version",
    "encode_receipt_proof",
    "prove_delivery",
    "verify_receipt",
]

MAGIC: Final = b"SWPROOF2"
_OLD_MAGIC: Final = b"SWPROOF1"
_SIZE: Final = struct.Struct("<I")


def encode_receipt_proof(body: bytes, batch: SentBatch, index: int, receipt: bytes) -> bytes:
    """Encode the receipt proof for the envelope `body`, which is at `index` (from 0) in `batch`.

    `receipt` is `Receipts.proof`: what the recipient signed about it.
    """
    envelope = SignedEnvelope(body, batch.path(index)).encode()
    return MAGIC + _SIZE.pack(len(envelope)) + envelope + receipt


@dataclass(frozen=True, slots=True)
class ProvenDelivery:
    """The facts that a verified receipt proof establishes: a delivery, or a refusal."""

    envelope: SignedEnvelope
    """The envelope, with its sender and its recipient."""
    is_handled: bool
    """Whether the recipient's application acknowledged it, beyond accepting it."""
    at_us: int
    """When the recipient accepted, handled or refused it, by its clock: Unix time, µs."""
    is_refused: bool = False
    """Whether the recipient refused it. Then it neither accepts nor handles it."""
    is_committed: bool = False
    """Whether a store of the recipient had committed it before the recipient signed; false
    for a refusal."""
    reason: Reason | None = None
    """Why the recipient refused it; `None`: it did not."""
    detail: str = ""
    """More about the refusal, in the words of the recipient; may be empty. Characters that
    are not printable are shown as "?"."""


def verify_receipt(data: bytes) -> ProvenDelivery:
    """Check a receipt proof, without a node or a network. Any thread may call this.

    Args:
        data: The bytes that `Receipt.proof()` returned.

    Returns:
        The envelope, and whether and when the recipient accepted, handled or refused it.

    Raises:
        TypeError: `data` is not bytes.
        EnvelopeError: `data` is not a receipt proof.
        SignatureError: the sender did not sign the envelope, or the recipient did not
            sign a receipt for it.
    """
    if not isinstance(data, (bytes, bytearray, memoryview)):
        raise TypeError(f"a receipt proof is bytes, not {type(data).__name__}")
    data = bytes(data)
    check_version(data)
    start = len(MAGIC) + _SIZE.size
    if len(data) < start or data[: len(MAGIC)] != MAGIC:
        raise EnvelopeError("not a receipt proof", "Receipt.proof() makes one")
    (size,) = _SIZE.unpack_from(data, len(MAGIC))
    return prove_delivery(SignedEnvelope.decode(data[start : start + size]), data[start + size :])


def check_version(data: bytes) -> None:
    """Refuse a receipt proof of an earlier form.

    Raises:
        EnvelopeError: `data` begins like one.
    """
    if data.startswith(_OLD_MAGIC):
        raise EnvelopeError(
            "a receipt proof of an earlier signedwire: verify it with that one, because this one "
            "reads another form"
        )


def prove_delivery(envelope: SignedEnvelope, receipt: bytes) -> ProvenDelivery:
    """Check an envelope and its recipient's statement and signature about it.

    `receipt` is the rest of the proof, from the form on.

    Raises:
        EnvelopeError: `receipt` is malformed.
        SignatureError: for the same causes as in `verify_receipt()`.
    """
    receipts = _decode_receipt(receipt)
    envelope.verify()
    sender, recipient = sender_of(envelope.body), recipient_of(envelope.body)
    leaf = envelope.digest
    if receipts.kind != ACCEPTED_BATCHES:
        name = leaf
    elif envelope.merkle_path is not None:
        name = envelope.merkle_path.root(sender, leaf)
    else:
        raise SignatureError("the receipt names batches, and a v1 envelope is in no batch")
    if name not in receipts.hashes:
        raise SignatureError("the receipt does not name this envelope")
    if not is_statement_signed(
        recipient + sender, receipts.statement, receipts.signature, receipts.root
    ):
        raise SignatureError(f"the receipt was not signed by its recipient {did_text(recipient)}")
    return ProvenDelivery(
        envelope,
        receipts.kind == HANDLED_ENVELOPES,
        receipts.at_us,
        receipts.kind == REFUSED_ENVELOPES,
        receipts.is_committed,
        receipts.reason,
        receipts.explanation,
    )


def _decode_receipt(data: bytes) -> Receipts:
    if not data:
        raise EnvelopeError("not a receipt proof: it ends before the receipt")
    start = 1 + decode_form(data[0])
    try:
        receipts = read_receipts(data[start:])
    except struct.error:
        fact = f"not a receipt proof: its receipt of {len(data) - start} bytes is too short"
        raise EnvelopeError(fact) from None
    except BadReceipt as error:
        raise EnvelopeError(f"not a receipt proof: it holds {error}") from None
    return replace(receipts, root=data[1:start])
