"""A batch, or copies, as its sender keeps it until the answers have come."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from signedwire.identity import Identity
from signedwire.wire.batch import HASH_SIZE
from signedwire.wire.copies import encode_item
from signedwire.wire.envelope import MerklePath, sign_batch

__all__ = ["SentBatch", "SentCopies", "sign_copies"]

_COPIES: Final = b"copies "


@dataclass(frozen=True, slots=True)
class SentBatch:
    """The hashes and the signature of a sent batch. Receipts name its root or its leaves."""

    root: bytes
    leaves: list[bytes]
    signature: bytes
    """64 bytes; if it is joint, 96 with the receipt hash before it (`wire.joint`)."""

    @property
    def name(self) -> bytes:
        """The key of the batch among all in flight to the same peer: its root."""
        return self.root

    @property
    def shared_size(self) -> int:
        """Bytes of hashes that the batch keeps beyond its leaves."""
        return 0

    def path(self, at: int) -> MerklePath:
        """Return the Merkle path of the envelope at `at`, from 0."""
        return MerklePath(at, len(self.leaves), self.signature, leaves=self.leaves)


@dataclass(frozen=True, slots=True)
class SentCopies(SentBatch):
    """The part for one recipient of a tree that was signed for several. See `wire.copies`.

    Receipts name its leaves only: the root belongs to all recipients.
    """

    first: int
    """Index of its first envelope in the tree. The others follow it."""
    tree: list[bytes]
    """The leaves of the whole tree; all recipients share the list."""

    @property
    def name(self) -> bytes:
        """The key of the copies among all in flight. It equals no hash in a receipt."""
        return _COPIES + self.leaves[0]

    @property
    def shared_size(self) -> int:
        """Bytes of hashes that the copies keep beyond their leaves."""
        return HASH_SIZE * len(self.tree)

    def path(self, at: int) -> MerklePath:
        """Return the Merkle path of the envelope at `at`, from 0 among these copies."""
        return MerklePath(self.first + at, len(self.tree), self.signature, leaves=self.tree)

    def items(self, bodies: list[bytes]) -> list[bytes]:
        """Return what a batch holds in place of `bodies`, which are those of the copies."""
        return [encode_item(self.path(at), body) for at, body in enumerate(bodies)]


def sign_copies(identity: Identity, shares: list[list[bytes]]) -> list[SentCopies]:
    """Sign envelopes to several recipients at once.

    Args:
        identity: The sender.
        shares: The bodies for each recipient, together 1 to 256, and at least one in each share.

    Returns:
        What each recipient is sent, in the order of `shares`.
    """
    root, signature, tree = sign_batch(identity, [body for share in shares for body in share])
    signed: list[SentCopies] = []
    first = 0
    for share in shares:
        end = first + len(share)
        signed.append(SentCopies(root, tree[first:end], signature, first, tree))
        first = end
    return signed
