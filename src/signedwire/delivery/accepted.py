"""The last accepted messages of a lane, by leaf and sequence.

A receipt proves delivery, so this node must not sign one for another message under a
used number. The cost of a lookup hardly depends on how many messages are remembered:
a peer that repeats messages must not make this node search.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterable
from typing import Final

from signedwire.wire.batch import HASH_SIZE

__all__ = ["AcceptedLeaves"]

_NO_LEAVES: Final[frozenset[bytes]] = frozenset()
"""One for all lanes of all peers: each empty set takes 216 bytes."""


class AcceptedLeaves:
    """The leaves of the last `limit` accepted messages of one lane, 40 bytes each.

    Args:
        limit: Maximum number of remembered leaves, at least 1.
    """

    __slots__ = ("_fresh", "_leaves", "_limit", "_restored", "_sequences")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._sequences = array("Q")  # ascending, as numbers are accepted in order
        self._leaves = bytearray()
        self._fresh: list[bytes] = []  # the last ones, until `_join()`
        self._restored = _NO_LEAVES

    def __len__(self) -> int:
        return len(self._sequences) + len(self._restored)

    def add(self, sequence: int, leaf: bytes) -> None:
        """Remember a message whose sequence is above all others."""
        self._sequences.append(sequence)
        self._fresh.append(leaf)

    def keepers(self) -> tuple[Callable[[int], None], Callable[[bytes], None]]:
        """Return two functions that do as `add()`, with the sequence and with the leaf.

        For the loop over the messages of a batch. They are no Python functions, and leaves are
        joined once for a batch. That saves 0.06 µs per message.
        """
        return self._sequences.append, self._fresh.append

    def _join(self) -> None:
        self._leaves += b"".join(self._fresh)
        self._fresh.clear()

    def has(self, sequence: int, leaf: bytes) -> bool:
        """Whether this message was accepted under this sequence."""
        self._join()
        at = bisect_left(self._sequences, sequence)
        if at < len(self._sequences) and self._sequences[at] == sequence:
            return self._leaves[at * HASH_SIZE : (at + 1) * HASH_SIZE] == leaf
        return leaf in self._restored

    def remove(self, leaf: bytes) -> None:
        """Forget a message; quick for one of those added last."""
        self._join()
        for at in range(len(self._sequences) - 1, -1, -1):
            if self._leaves[at * HASH_SIZE : (at + 1) * HASH_SIZE] == leaf:
                del self._sequences[at]
                del self._leaves[at * HASH_SIZE : (at + 1) * HASH_SIZE]
                return

    def restore(self, leaves: Iterable[bytes]) -> None:
        """Remember leaves that an earlier process accepted, without their sequences."""
        self._restored = frozenset(leaves)

    def trim(self) -> None:
        """Forget the oldest leaves above the limit."""
        self._join()
        surplus = len(self._sequences) - self._limit
        if surplus > 0:
            del self._sequences[:surplus]
            del self._leaves[: surplus * HASH_SIZE]
        if surplus >= 0:
            self._restored = _NO_LEAVES

    def clear(self) -> None:
        """Forget all leaves, because the sender has begun a new epoch."""
        del self._sequences[:], self._leaves[:], self._fresh[:]
        self._restored = _NO_LEAVES
