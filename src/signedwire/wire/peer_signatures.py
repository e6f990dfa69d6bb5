"""Verifies what the peer of a link has signed."""

from __future__ import annotations

from signedwire.errors import SignatureError
from signedwire.types import Did
from signedwire.wire.copies import verify_received
from signedwire.wire.joint import is_statement_signed, receipt_hash
from signedwire.wire.link_frames import Receipts
from signedwire.wire.parts import Batch
from signedwire.wire.receipt_signer import signed
from signedwire.wire.session_events import BatchFailed, BatchReceived

__all__ = ["PeerSignatures"]


class PeerSignatures:
    """Verifies batches and receipts of one peer.

    Args:
        us: Our DID, the sender of the envelopes that its receipts name.
        peer: The DID that must have signed.
    """

    __slots__ = ("_parties", "_peer")

    def __init__(self, us: Did, peer: Did) -> None:
        self._peer = bytes(peer)
        self._parties = self._peer + bytes(us)

    def batch(
        self, batch: Batch, joined: Receipts | None
    ) -> tuple[BatchReceived | BatchFailed, Receipts | None]:
        """Verify a batch, and the receipt that came under the same signature.

        Returns:
            The event of the batch, and the receipt, now with its signature. If the signature does
            not fit both, the batch has failed, and there is no receipt.
        """
        signature = batch.signature
        if joined is not None:
            signature = receipt_hash(self._parties, joined.statement) + signature
        try:
            root, leaves = verify_received(self._peer, batch.bodies, signature, batch.copies)
        except SignatureError:
            return BatchFailed(batch.bodies), None
        if joined is not None:
            joined = signed(joined, batch.signature, root)
        return BatchReceived(batch.bodies, root, leaves, signature, batch.copies), joined

    def fits(self, receipts: Receipts) -> bool:
        """Whether the peer has signed a receipt that came in a frame of its own."""
        return is_statement_signed(self._parties, receipts.statement, receipts.signature, b"")
