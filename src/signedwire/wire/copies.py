"""Copies: one signature over envelopes to several recipients.

The sender signs one tree (`wire.batch`) of up to 256 envelopes, and sends to each recipient a
batch of its own envelopes alone. In place of a body, the batch has an item, with which the
envelope verifies without the others:

    item = u8 index ‖ u8 leaves − 1 ‖ path ‖ body

`leaves` is the number of leaves of the tree. It and the index fix the size of the path. All items
of a batch are of one tree, in rising order of their indices.

The root belongs to all recipients, so nobody answers by root. A receipt for it would also
cover envelopes that its signer has never received.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from signedwire.errors import SignatureError
from signedwire.identity import Label, verify_labelled
from signedwire.types import did_text
from signedwire.wire.batch import GROUP_SIZE, HASH_SIZE, leaves_of, path_size, root_from_path
from signedwire.wire.envelope import MerklePath, verify_batch
from signedwire.wire.header import MIN_V2_HEADER_SIZE
from signedwire.wire.malformed import peer_sent

__all__ = ["Copies", "encode_item", "largest_overhead", "split_items", "verify_received"]

_ITEM_HEADER: Final = 2


@dataclass(frozen=True, slots=True)
class Copies:
    """The places of received copies in their tree."""

    count: int
    """Number of leaves of the tree."""
    places: list[tuple[int, bytes]]
    """The index of each copy in the tree, and the hashes of its path, joined."""

    @property
    def overhead(self) -> int:
        """Bytes of the items beyond their bodies."""
        return sum([_ITEM_HEADER + len(hashes) for _, hashes in self.places])

    def overhead_at(self, at: int) -> int:
        """Return the bytes of one item beyond its body."""
        return _ITEM_HEADER + len(self.places[at][1])

    def path(self, at: int, signature: bytes) -> MerklePath:
        """Return the Merkle path of the copy at `at`, from 0; `signature` is that of the root."""
        index, hashes = self.places[at]
        return MerklePath(index, self.count, signature, hashes=hashes)

    def encode(self) -> bytes:
        """Encode the places, for a store: `u8 leaves − 1`, and `u8 index ‖ path` of each."""
        pieces = [bytes((self.count - 1,))]
        for index, hashes in self.places:
            pieces += (bytes((index,)), hashes)
        return b"".join(pieces)

    @classmethod
    def decode(cls, data: bytes) -> Copies:
        """Decode what `encode()` has made.

        Raises:
            ValueError: it has not made `data`.
        """
        if not data:
            raise ValueError("no places of copies")
        count, at = data[0] + 1, 1
        places: list[tuple[int, bytes]] = []
        last = -1
        while at < len(data):
            index = data[at]
            if not last < index < count:
                raise ValueError(f"a copy of index {index} behind {last}, of {count}")
            start, last = at + 1, index
            at = start + HASH_SIZE * path_size(index, count)
            places.append((index, data[start:at]))
        if at != len(data) or not places:
            raise ValueError("places of copies that are cut")
        return cls(count, places)


def largest_overhead(count: int) -> int:
    """Return the most bytes that an item has beyond its body, in a tree of `count` leaves."""
    groups = -(-count // GROUP_SIZE)
    return _ITEM_HEADER + HASH_SIZE * (min(count, GROUP_SIZE) - 1 + groups - 1)


def encode_item(path: MerklePath, body: bytes) -> bytes:
    """Encode the item of an envelope."""
    return b"".join((bytes((path.index, path.count - 1)), path.hashes, body))


def split_items(items: list[bytes]) -> tuple[list[bytes], Copies]:
    """Return the bodies of received items, and their places.

    Raises:
        RemoteProtocolError: the items are not of one tree in rising order, or one is too short.
    """
    bodies: list[bytes] = []
    places: list[tuple[int, bytes]] = []
    count, last = items[0][1] + 1, -1
    for item in items:
        index = item[0]
        if item[1] + 1 != count:
            raise peer_sent("copies of different trees in one batch")
        if not last < index < count:
            raise peer_sent(f"a copy of index {index} behind {last}, in a tree of {count}")
        last = index
        start = _ITEM_HEADER + HASH_SIZE * path_size(index, count)
        if len(item) < start + MIN_V2_HEADER_SIZE:
            raise peer_sent(f"a copy of {len(item)} bytes, with {start} before its header")
        places.append((index, item[_ITEM_HEADER:start]))
        bodies.append(item[start:])
    return bodies, Copies(count, places)


def verify_received(
    sender: bytes, bodies: list[bytes], signature: bytes, copies: Copies | None
) -> tuple[bytes, list[bytes]]:
    """Check the signature of `sender` over received bodies, and return (root, leaves of these).

    Args:
        sender: The DID that must have signed.
        bodies: The bodies of a batch, or copies.
        signature: The signature of the root.
        copies: The places of the bodies in their tree; `None`: they are the whole tree.

    Raises:
        SignatureError: the signature does not fit, or a path leads to another root; no envelope
            is proven.
    """
    if copies is None:
        return verify_batch(sender, bodies, signature)
    leaves = leaves_of(bodies)
    roots = {
        root_from_path(sender, leaf, index, copies.count, hashes)
        for leaf, (index, hashes) in zip(leaves, copies.places, strict=True)
    }
    root = roots.pop()
    if roots or not verify_labelled(sender, Label.BATCH, root, signature):
        raise SignatureError(
            f"bad signature: the {len(bodies)} copies are not what {did_text(sender)} signed"
        )
    return root, leaves
