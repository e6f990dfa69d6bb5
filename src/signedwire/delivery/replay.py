"""Which signed envelopes were already delivered, within a bounded memory.

v1 has no replay protection on the wire: whoever saw an envelope can send it
again, and its signature still fits. So the node remembers the digests of what
it delivered. The memory holds the last `limit` of them (100 to 120 bytes each);
a replay older than that would be delivered again, and docs/security.md says so.
"""

from __future__ import annotations

from typing import Final, Generic, TypeVar

__all__ = ["Recent", "ReplayMemory"]

_GAPS: Final = 256

V = TypeVar("V")


class Recent(Generic[V]):
    """A map by byte strings, in the order in which they came, that can forget the oldest one.

    All of it is one dict of what refers to nothing else, which the garbage collector passes
    over: a set and a deque of 8,192 members for each of 50 strangers had it take 20 ms.

    Args:
        limit: How many are remembered, at least 1.
    """

    __slots__ = ("_entries", "_gaps", "_limit")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._entries: dict[bytes, V] = {}
        self._gaps = 0

    def __contains__(self, key: bytes) -> bool:
        return key in self._entries

    def __len__(self) -> int:
        return len(self._entries)

    def _forget_oldest(self) -> None:
        del self._entries[next(iter(self._entries))]
        # Each search for the first key walks over what was deleted before it.
        self._gaps += 1
        if self._gaps > max(_GAPS, self._limit >> 6):
            self._entries = dict(self._entries)
            self._gaps = 0


class ReplayMemory(Recent[None]):
    """A set of byte strings that forgets its oldest member when full."""

    __slots__ = ()

    def add(self, key: bytes) -> bool:
        """Remember `key`; `False` where it was known."""
        if key in self._entries:
            return False
        if len(self._entries) >= self._limit:
            self._forget_oldest()
        self._entries[key] = None
        return True
