"""One signature over many envelopes: a Merkle tree of two levels.

    leaf    = SHA-256(header ‖ payload)
    group   = SHA-256("signedwire/group/1\\0" ‖ u8 size ‖ leaves)      up to 16 leaves
    root    = SHA-256("signedwire/tree/1\\0" ‖ sender ‖ u16 count ‖ groups)   up to 16 groups
    signed  = "signedwire/batch/1\\0" ‖ root

Numbers are little-endian. All groups but the last hold 16 leaves, so the count
alone fixes the shape of the tree. A list of envelopes has exactly one tree, and
an index has exactly one path. Each level has its own label, so no value of one
level can pass for a value of another. The root names the sender and the count,
so nobody can append or remove an envelope, or attribute the batch to another DID.

Ed25519 costs 60 µs to sign and verify. An envelope's share of the tree, two
hashes, costs less than 1 µs. A batch of one needs no special case.

An envelope that stands alone carries its Merkle path: the other leaves of its group,
then the hashes of the other groups, each in order. A path has at most 15 + 15
hashes. With the path, the index, the count and the signature, anybody can verify
the envelope without the rest of its batch.
"""

from __future__ import annotations

import struct
from hashlib import sha256
from typing import Final

from signedwire.errors import SignatureError

__all__ = [
    "MAX_BATCH",
    "batch_root",
    "group_hashes",
    "leaf_of",
    "leaves_of",
    "path_of",
    "path_size",
    "root_from_path",
]

GROUP_SIZE: Final = 16
MAX_BATCH: Final = GROUP_SIZE * GROUP_SIZE
"""Maximum number of envelopes under one signature."""

HASH_SIZE: Final = 32

_GROUP_LABEL: Final = b"signedwire/group/1\0"
_TREE_LABEL: Final = b"signedwire/tree/1\0"
_U16: Final = struct.Struct("<H")


def leaf_of(body: bytes | memoryview) -> bytes:
    """Return the Merkle leaf of one envelope: SHA-256 of its header and payload, 32 bytes."""
    return sha256(body).digest()


def leaves_of(bodies: list[bytes]) -> list[bytes]:
    """Return the Merkle leaves of a batch, in order, 32 bytes each."""
    return [sha256(body).digest() for body in bodies]


def batch_root(sender: bytes, leaves: list[bytes]) -> bytes:
    """Return the Merkle root over 1 to 256 leaves of `sender`, 32 bytes."""
    count = len(leaves)
    assert 0 < count <= MAX_BATCH
    return _root(sender, count, group_hashes(leaves))


def path_size(index: int, count: int) -> int:
    """Return the number of hashes in the path of `index` in a batch of `count`.

    Raises:
        SignatureError: `count` is over 256, or `index` is not in 0 to `count` - 1.
    """
    if not 0 <= index < count <= MAX_BATCH:
        raise SignatureError(f"bad Merkle path: index {index} in a batch of {count}")
    return _group_size(index // GROUP_SIZE, count) - 1 + _group_count(count) - 1


def path_of(leaves: list[bytes], index: int, groups: list[bytes] | None = None) -> bytes:
    """Return the Merkle path of the envelope at `index`, for `root_from_path()`.

    `groups` is the result of `group_hashes(leaves)`. A caller that needs many paths of
    one batch passes it to compute it only once.
    """
    number = index // GROUP_SIZE
    siblings = leaves[number * GROUP_SIZE : (number + 1) * GROUP_SIZE]
    del siblings[index % GROUP_SIZE]
    others = group_hashes(leaves) if groups is None else list(groups)
    del others[number]
    return b"".join(siblings + others)


def group_hashes(leaves: list[bytes]) -> list[bytes]:
    """Return the hashes of the groups of a batch, in order, 32 bytes each."""
    return [
        _group(leaves[start : start + GROUP_SIZE]) for start in range(0, len(leaves), GROUP_SIZE)
    ]


def root_from_path(sender: bytes, leaf: bytes, index: int, count: int, path: bytes) -> bytes:
    """Compute the root of a batch of `count` in which `leaf` is at `index` with `path`.

    Raises:
        SignatureError: `index`, `count` and the length of `path` do not fit together.
    """
    if len(path) != path_size(index, count) * HASH_SIZE:
        raise SignatureError(
            f"bad Merkle path: a path of {len(path)} bytes for index {index} of {count}"
        )
    hashes = [path[start : start + HASH_SIZE] for start in range(0, len(path), HASH_SIZE)]
    number = index // GROUP_SIZE
    siblings = _group_size(number, count) - 1
    leaves = hashes[:siblings]
    leaves.insert(index % GROUP_SIZE, leaf)
    groups = hashes[siblings:]
    groups.insert(number, _group(leaves))
    return _root(sender, count, groups)


def _group(leaves: list[bytes]) -> bytes:
    return sha256(b"".join((_GROUP_LABEL, bytes((len(leaves),)), *leaves))).digest()


def _root(sender: bytes, count: int, groups: list[bytes]) -> bytes:
    return sha256(b"".join((_TREE_LABEL, sender, _U16.pack(count), *groups))).digest()


def _group_count(count: int) -> int:
    return -(-count // GROUP_SIZE)


def _group_size(number: int, count: int) -> int:
    return min(GROUP_SIZE, count - number * GROUP_SIZE)
