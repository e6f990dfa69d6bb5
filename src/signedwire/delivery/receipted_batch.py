"""The parts of receipt proofs that the receipts of one batch share.

A receipt keeps an `AnsweredBatch`, and nothing else does: who sent the batch has only a weak
reference. So the hashes of a batch go with the last of its receipts.
"""

from __future__ import annotations

from collections.abc import Iterable
from weakref import ref

from signedwire.delivery.outgoing_message import OutgoingMessage
from signedwire.delivery.receipt import Receipt
from signedwire.wire.batch import leaf_of
from signedwire.wire.receipt_proof import encode_receipt_proof
from signedwire.wire.sent_batch import SentBatch

__all__ = ["AnsweredBatch", "ReceiptedBatch"]


class AnsweredBatch:
    """The hashes of a batch and the peer's signed statement: the parts of a receipt proof.

    With the bytes of a message, which its receipt holds, that makes its receipt proof.
    """

    __slots__ = ("batch", "statement")

    def __init__(self, batch: SentBatch, statement: bytes) -> None:
        self.batch = batch
        self.statement = statement

    def prove(self, receipt: Receipt) -> bytes:
        """Make the receipt proof for a message of the batch."""
        assert isinstance(receipt, OutgoingMessage)
        index = self.batch.leaves.index(leaf_of(receipt.body))
        return encode_receipt_proof(receipt.body, self.batch, index, self.statement)


class ReceiptedBatch(AnsweredBatch):
    """A batch, or a part of one, that the peer has accepted.

    The object lives as long as the application holds a receipt of one of its messages.
    """

    __slots__ = ("__weakref__", "receipts")

    def __init__(
        self,
        batch: SentBatch,
        indices: Iterable[int],
        messages: Iterable[OutgoingMessage],
        statement: bytes,
    ) -> None:
        super().__init__(batch, statement)
        # Weak references: else receipts and this object would keep each other alive.
        # Receipts of a `send_many()` end here: whether they are handled is not tracked.
        self.receipts = {
            batch.leaves[index]: ref(message)
            for index, message in zip(indices, messages, strict=True)
            if not message.options.is_bulk
        }
