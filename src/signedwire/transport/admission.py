"""Decides which inbound connections may stay. No I/O.

A connection is unproven until its first acceptable envelope. Unproven ones are
limited, in total and for each host, so that a stranger who opens many connections and sends
nothing keeps no other out. A newcomer always gets a place:

- When its host has all the places that one host may have, the oldest connection of that host
  loses its place. It is not closed yet: while other places are free, it has a last moment to
  prove itself. So many honest nodes behind one address do not end each other's handshakes.
- When all places are taken, a connection in its last moment is closed, the oldest of
  the host that has the most of them; without any, the oldest unproven one.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

from signedwire.config import TransportConfig

__all__ = ["Admission"]

K = TypeVar("K", bound=Hashable)


class Admission(Generic[K]):
    """Counts the places of inbound connections. A connection is any hashable object."""

    __slots__ = (
        "_leaving",
        "_max_proven",
        "_max_unproven",
        "_max_unproven_per_host",
        "_per_host",
        "_proven",
        "_unproven",
    )

    def __init__(self, config: TransportConfig) -> None:
        self._max_proven = config.max_inbound_connections
        self._max_unproven = config.max_unproven_connections
        self._max_unproven_per_host = config.max_unproven_per_host
        self._unproven: dict[K, str | None] = {}
        self._leaving: dict[K, str | None] = {}  # in their last moment, the first that lost
        self._proven: OrderedDict[K, str | None] = OrderedDict()  # least recently used first
        self._per_host: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._unproven) + len(self._leaving) + len(self._proven)

    @property
    def max_proven(self) -> int:
        """Maximum number of proven connections."""
        return self._max_proven

    def limit(self, proven: int, unproven: int) -> None:
        """Set both limits. For use before the first connection."""
        self._max_proven, self._max_unproven = proven, unproven

    def admit(self, key: K, group: str | None) -> tuple[K | None, K | None]:
        """Give a connection a place; see `Remote.group`.

        Returns:
            The connection that has lost its place and has a last moment, and the one to close
            at once. Each may be `None`.
        """
        hurried: K | None = None
        if group is not None and self._per_host[group] >= self._max_unproven_per_host:
            hurried = next(one for one, other in self._unproven.items() if other == group)
            self.leave(hurried)
            self._leaving[hurried] = group
        closed: K | None = None
        if len(self._unproven) + len(self._leaving) >= self._max_unproven:
            closed = self.evict_unproven()
        self._unproven[key] = group
        if group is not None:
            self._per_host[group] += 1
        return (None if hurried is closed else hurried), closed

    def evict_unproven(self) -> K | None:
        """Free the place of one unproven connection, and return it; `None`: there is none."""
        evicted: K | None = None
        if self._leaving:
            held = Counter(self._leaving.values())
            most = max(held.values())
            evicted = next(one for one, group in self._leaving.items() if held[group] == most)
        else:
            evicted = next(iter(self._unproven), None)
        if evicted is not None:
            self.leave(evicted)
        return evicted

    def prove(self, key: K) -> K | None:
        """Note that a connection is proven; return the one that must be closed for it.

        Anyone can make keys, so a proof gives no right to stay. When all places are taken, the
        host that holds most of them loses its least recently used connection.
        """
        if key in self._proven or not (key in self._unproven or key in self._leaving):
            return None
        evicted: K | None = None
        if len(self._proven) >= self._max_proven:
            held = Counter(self._proven.values())
            most = max(held.values())
            evicted = next(one for one, group in self._proven.items() if held[group] == most)
            del self._proven[evicted]
        group = self._unproven[key] if key in self._unproven else self._leaving[key]
        self.leave(key)
        self._proven[key] = group
        return evicted

    def touch(self, key: K) -> None:
        """Note that a connection was used."""
        if key in self._proven:
            self._proven.move_to_end(key)

    def leave(self, key: K) -> None:
        """Free the place of a connection, if it has one."""
        self._proven.pop(key, None)
        self._leaving.pop(key, None)
        group = self._unproven.pop(key, None)
        if group is not None:
            self._per_host[group] -= 1
            if not self._per_host[group]:
                del self._per_host[group]
