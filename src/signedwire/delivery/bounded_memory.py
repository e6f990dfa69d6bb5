"""A map and a set of limited size. When one is full, each new key displaces the oldest.

They hold keys that strangers choose: digests of delivered v1 envelopes, leaves of answered or
refused messages, DIDs that speak v2. A digest takes 100 to 120 bytes. v1 has no replay
protection on the wire, so a v1 envelope whose digest was displaced is delivered again if it
comes again; docs/security.md states that.
"""

from __future__ import annotations

from typing import Final, Generic, TypeVar

__all__ = ["BoundedMap", "BoundedSet"]

_GAPS: Final = 256

V = TypeVar("V")


class BoundedMap(Generic[V]):
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

    def clear(self) -> None:
        """Forget all keys."""
        self._entries.clear()
        self._gaps = 0

    def _forget_oldest(self) -> V:
        value = self._entries.pop(next(iter(self._entries)))
        # Each search for the first key walks over the entries deleted before it.
        self._gaps += 1
        if self._gaps > max(_GAPS, self._limit >> 6):
            self._entries = dict(self._entries)
            self._gaps = 0
        return value


class BoundedSet(BoundedMap[None]):
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
