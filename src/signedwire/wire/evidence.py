"""Proof of delivery: an envelope together with its recipient's signed word about it.

    "SWPROOF1" ‖ u32 LE size ‖ envelope, standing alone ‖ statement ‖ signature

The statement is that of a RECEIPT frame (docs/protocol.md). Whoever has these
bytes can check, offline and for ever, that the sender sent this envelope and
that the recipient accepted or handled it. Neither of them is needed for it.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from signedwire.errors import EnvelopeError, RemoteProtocolError, SignatureError
from signedwire.identity import Label, verify_labelled
from signedwire.types import did_text
from signedwire.wire.envelope import BatchProof, SignedEnvelope
from signedwire.wire.header import RECIPIENT, SENDER
from signedwire.wire.link_frames import (
    ACCEPTED_BATCHES,
    HANDLED_ENVELOPES,
    RECEIPT,
    Receipts,
    decode,
)
from signedwire.wire.session import SentBatch

__all__ = ["ProvenDelivery", "encode_evidence", "prove_delivery", "verify_receipt"]

MAGIC: Final = b"SWPROOF1"
_SIZE: Final = struct.Struct("<I")


def encode_evidence(body: bytes, batch: SentBatch, index: int, receipt: bytes) -> bytes:
    """The proof for the envelope `body`, the `index`th of `batch`.

    `receipt` is statement and signature, as they came.
    """
    proof = BatchProof(index, len(batch.leaves), batch.signature, leaves=batch.leaves)
    envelope = SignedEnvelope(body, proof).encode()
    return MAGIC + _SIZE.pack(len(envelope)) + envelope + receipt


@dataclass(frozen=True, slots=True)
class ProvenDelivery:
    """What a proof proves."""

    envelope: SignedEnvelope
    """What was sent, by whom and to whom."""
    is_handled: bool
    """Whether the recipient's application said that it was done with it."""
    at_us: int
    """When, by the recipient's clock: Unix time, microseconds."""


def verify_receipt(data: bytes) -> ProvenDelivery:
    """Check a proof of delivery, offline. Any thread; needs neither node nor network.

    Args:
        data: What `Receipt.proof()` gave.

    Returns:
        What it proves: the envelope, and whether and when it was accepted or handled.

    Raises:
        TypeError: `data` is not bytes.
        EnvelopeError: the bytes are no proof.
        SignatureError: sender or recipient did not sign what it says.
    """
    if not isinstance(data, (bytes, bytearray, memoryview)):
        raise TypeError(f"a proof of delivery is bytes, not {type(data).__name__}")
    data = bytes(data)
    start = len(MAGIC) + _SIZE.size
    if len(data) < start or data[: len(MAGIC)] != MAGIC:
        raise EnvelopeError("not a proof of delivery", "Receipt.proof() makes one")
    (size,) = _SIZE.unpack_from(data, len(MAGIC))
    return prove_delivery(SignedEnvelope.decode(data[start : start + size]), data[start + size :])


def prove_delivery(envelope: SignedEnvelope, receipt: bytes) -> ProvenDelivery:
    """Check an envelope and its recipient's statement and signature about it.

    Raises:
        EnvelopeError, SignatureError: as `verify_receipt()`.
    """
    try:
        receipts = decode(RECEIPT, receipt)
    except RemoteProtocolError as error:
        raise EnvelopeError(f"not a proof of delivery: {error.fact}") from None
    assert isinstance(receipts, Receipts)
    envelope.verify()
    sender, recipient = envelope.body[SENDER], envelope.body[RECIPIENT]
    leaf = envelope.digest
    if receipts.kind != ACCEPTED_BATCHES:
        name = leaf
    elif isinstance(envelope.proof, BatchProof):
        name = envelope.proof.root(sender, leaf)
    else:
        raise SignatureError("the receipt is about batches, and the envelope is of none")
    if name not in receipts.hashes:
        raise SignatureError("the receipt is about other envelopes")
    text = recipient + sender + receipts.statement
    if not verify_labelled(recipient, Label.RECEIPT, text, receipts.signature):
        raise SignatureError(f"the receipt was not signed by its recipient {did_text(recipient)}")
    return ProvenDelivery(envelope, receipts.kind == HANDLED_ENVELOPES, receipts.at_us)
