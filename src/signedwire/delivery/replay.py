"""The bounded memory of delivered v1 envelopes, against replay.

v1 has no replay protection on the wire: anybody who saw an envelope can send it
again, and its signature still fits. So the node remembers the digests of delivered
envelopes, the last `limit` of them (100 to 120 bytes each). An older replay would be
delivered again, as docs/security.md states.
"""

from __future__ import annotations

from typing import Final, Generic, TypeVar

__all__ = ["Recent", "ReplayMemory"]

_GAPS: Final = 256

V = TypeVar("V")


class Recent(Generic[V]):
    """A map with byte strings as keys, in order of insertion, that can forget the oldest.

    The map is one dict of objects without references, which the garbage collector skips.
    With a set and a deque of 8,192 members for each of 50 strangers, it took 20 ms.

    Args:
        limit: Maximum number of remembered keys, at least 1.
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
        # Each search for the first key walks over the entries deleted before it.
        self._gaps += 1
        if self._gaps > max(_GAPS, self._limit >> 6):
            self._entries = dict(self._entries)
            self._gaps = 0


class ReplayMemory(Recent[None]):
    """A set of byte strings that forgets its oldest member when full."""

    __slots__ = ()

    def add(self, key: bytes) -> bool:
        """Remember `key`; return `False` if it was known already."""
        if key in self._entries:
            return False
        if len(self._entries) >= self._limit:
            self._forget_oldest()
        self._entries[key] = None
        return True
