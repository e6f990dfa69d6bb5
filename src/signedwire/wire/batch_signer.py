"""Signs the batches that one end of a link sends."""

from __future__ import annotations

from signedwire.identity import Identity
from signedwire.wire.batch import batch_root, leaves_of
from signedwire.wire.envelope import sign_batch
from signedwire.wire.joint import sign_joint
from signedwire.wire.link_frames import Receipts
from signedwire.wire.receipt_signer import Acceptance, ReceiptSigner, signed
from signedwire.wire.sent_batch import SentBatch

__all__ = ["BatchSigner"]


class BatchSigner:
    """Signs batches, alone or together with a receipt.

    Args:
        identity: The key that signs.
        receipts: Makes the receipts.
    """

    __slots__ = ("_identity", "_receipts")

    def __init__(self, identity: Identity, receipts: ReceiptSigner) -> None:
        self._identity = identity
        self._receipts = receipts

    def sign(
        self, bodies: list[bytes], acceptance: Acceptance | None
    ) -> tuple[SentBatch, Receipts | None]:
        """Sign 1 to 256 bodies, and the receipt that `acceptance` becomes; `None`: no receipt."""
        if acceptance is None:
            root, signature, leaves = sign_batch(self._identity, bodies)
            return SentBatch(root, leaves, signature), None
        plain, receipt = self._receipts.unsigned(acceptance)
        leaves = leaves_of(bodies)
        root = batch_root(bytes(self._identity.did), leaves)
        signature = sign_joint(self._identity, root, receipt)
        joined = signed(plain, signature[len(receipt) :], root)
        return SentBatch(root, leaves, signature), joined
