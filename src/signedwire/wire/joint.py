"""One signature for a receipt and a batch that leave together.

    receipt hash = SHA-256("signedwire/receipt/1\\0" ‖ recipient ‖ sender ‖ statement)
    signed       = "signedwire/joint/1\\0" ‖ root ‖ receipt hash

The text that is hashed is the one that the signature of a RECEIPT covers. Whoever has one
half, and the 32 bytes of the other, can verify the signature. So a proof of an envelope
carries the receipt hash, and a proof of a receipt carries the root.

In memory and in stores, the signature of a batch has 64 bytes. If it is joint, the receipt hash
stands before it: 96 bytes.
"""

from __future__ import annotations

from hashlib import sha256
from typing import Final

from signedwire.errors import EnvelopeError
from signedwire.identity import Identity, Label, verify_labelled

__all__ = [
    "JOINT_SIZE",
    "decode_form",
    "encode_form",
    "is_root_signed",
    "is_statement_signed",
    "receipt_hash",
    "sign_joint",
]

_SIGNATURE_SIZE: Final = 64
_HASH_SIZE: Final = 32
JOINT_SIZE: Final = _HASH_SIZE + _SIGNATURE_SIZE
"""Size of a joint signature with its receipt hash, in bytes."""

_PLAIN: Final = 0
_JOINT: Final = 1


def receipt_hash(parties: bytes, statement: bytes) -> bytes:
    """Return the hash of a receipt's text, 32 bytes.

    Args:
        parties: The DID that signs the receipt, and the DID that sent the envelopes which the
            receipt names: 64 bytes.
        statement: The body of the RECEIPT without its signature.
    """
    return sha256(Label.RECEIPT.value + parties + statement).digest()


def sign_joint(identity: Identity, root: bytes, receipt: bytes) -> bytes:
    """Sign a root and a receipt hash at once; return the receipt hash and the signature."""
    return receipt + identity._sign_labelled(Label.JOINT, root + receipt)


def is_root_signed(signer: bytes, root: bytes, signature: bytes) -> bool:
    """Whether `signer` has signed the root of a batch.

    Args:
        signer: The DID of the sender of the batch, 32 bytes.
        root: The root of the batch.
        signature: 64 bytes; if joint, 96 with the receipt hash.
    """
    if len(signature) != JOINT_SIZE:
        return verify_labelled(signer, Label.BATCH, root, signature)
    text = root + signature[:_HASH_SIZE]
    return verify_labelled(signer, Label.JOINT, text, signature[_HASH_SIZE:])


def is_statement_signed(parties: bytes, statement: bytes, signature: bytes, root: bytes) -> bool:
    """Whether the recipient has signed a statement about envelopes of the sender.

    Args:
        parties: The DIDs of recipient and sender, as in `receipt_hash()`.
        statement: The body of the RECEIPT without its signature.
        signature: 64 bytes.
        root: The root that a joint signature also covers; empty: the signature is plain.
    """
    recipient = parties[:_HASH_SIZE]
    if not root:
        return verify_labelled(recipient, Label.RECEIPT, parties + statement, signature)
    text = root + receipt_hash(parties, statement)
    return verify_labelled(recipient, Label.JOINT, text, signature)


def encode_form(other_half: bytes) -> bytes:
    """Encode the form byte of a proof; `other_half` is empty, or the 32 bytes of the other half."""
    return bytes((_JOINT if other_half else _PLAIN,))


def decode_form(form: int) -> int:
    """Return the number of bytes of the other half that a proof of this form carries.

    Raises:
        EnvelopeError: there is no such form.
    """
    if form > _JOINT:
        raise EnvelopeError(f"not an envelope or a receipt proof: a signature of the form {form}")
    return _HASH_SIZE * form
