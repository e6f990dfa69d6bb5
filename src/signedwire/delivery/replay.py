"""Which signed envelopes were already delivered, within a bounded memory.

v1 has no replay protection on the wire: whoever saw an envelope can send it
again, and its signature still fits. So the node remembers the digests of what
it delivered. The memory holds the last `limit` of them (about 150 bytes each);
a replay older than that would be delivered again, and docs/security.md says so.
"""

from __future__ import annotations

from collections import deque

__all__ = ["ReplayMemory"]


class ReplayMemory:
    """A set of byte strings that forgets its oldest member when full.

    Args:
        limit: How many are remembered, at least 1.
    """

    __slots__ = ("_limit", "_oldest_first", "_seen")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        # Not a dict alone: finding its first key walks over all deleted ones.
        self._seen: set[bytes] = set()
        self._oldest_first: deque[bytes] = deque()

    def __contains__(self, key: bytes) -> bool:
        return key in self._seen

    def __len__(self) -> int:
        return len(self._seen)

    def add(self, key: bytes) -> bool:
        """Remember `key`; `False` where it was known."""
        if key in self._seen:
            return False
        if len(self._seen) >= self._limit:
            self._seen.remove(self._oldest_first.popleft())
        self._seen.add(key)
        self._oldest_first.append(key)
        return True
