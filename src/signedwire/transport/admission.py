"""Decides which inbound connections may stay. No I/O.

A connection is unproven until its first acceptable envelope. Unproven connections have slots of
their own, with a limit in total and for each host. So a stranger who opens many connections and
sends nothing cannot shut out others. A new connection always gets a slot:

- If its host has used up the limit for one host, the oldest connection of that host loses its
  slot. It has a grace period to prove itself while other slots are free. So many honest nodes
  behind one address do not end each other's handshakes.
- If all slots are taken, one connection is closed: the oldest in its grace period, of the host
  that has the most of them. If there is none, the oldest unproven connection is closed.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

from signedwire.config import TransportConfig

__all__ = ["Admission"]

K = TypeVar("K", bound=Hashable)


class Admission(Generic[K]):
    """The slots for inbound connections. A connection is any hashable object."""

    __slots__ = (
        "_in_grace",
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
        self._in_grace: dict[K, str | None] = {}  # oldest preemption first
        self._proven: OrderedDict[K, str | None] = OrderedDict()  # least recently used first
        self._per_host: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._unproven) + len(self._in_grace) + len(self._proven)

    @property
    def max_proven(self) -> int:
        """Maximum number of proven connections."""
        return self._max_proven

    def limit(self, proven: int, unproven: int) -> None:
        """Set both limits. For use before the first connection."""
        self._max_proven, self._max_unproven = proven, unproven

    def admit(self, key: K, group: str | None) -> tuple[K | None, K | None]:
        """Give a slot to a connection.

        Args:
            key: The connection.
            group: Its host; see `Remote.group`.

        Returns:
            The connection whose grace period begins, and the connection to close at once. Each
            may be `None`.
        """
        preempted: K | None = None
        if group is not None and self._per_host[group] >= self._max_unproven_per_host:
            preempted = next(one for one, other in self._unproven.items() if other == group)
            self.leave(preempted)
            self._in_grace[preempted] = group
        closed: K | None = None
        if len(self._unproven) + len(self._in_grace) >= self._max_unproven:
            closed = self.evict_unproven()
        self._unproven[key] = group
        if group is not None:
            self._per_host[group] += 1
        return (None if preempted is closed else preempted), closed

    def evict_unproven(self) -> K | None:
        """Free the slot of one unproven connection, and return it; `None`: there is none."""
        evicted: K | None = None
        if self._in_grace:
            held = Counter(self._in_grace.values())
            most = max(held.values())
            evicted = next(one for one, group in self._in_grace.items() if held[group] == most)
        else:
            evicted = next(iter(self._unproven), None)
        if evicted is not None:
            self.leave(evicted)
        return evicted

    def prove(self, key: K) -> K | None:
        """Note that a connection is proven; return the connection to close for it, if any.

        Anyone can make keys, so a proof gives no right to stay. If all slots are taken, the
        host that holds most of them loses its least recently used connection.
        """
        if key in self._proven or not (key in self._unproven or key in self._in_grace):
            return None
        evicted: K | None = None
        if len(self._proven) >= self._max_proven:
            held = Counter(self._proven.values())
            most = max(held.values())
            evicted = next(one for one, group in self._proven.items() if held[group] == most)
            del self._proven[evicted]
        group = self._unproven[key] if key in self._unproven else self._in_grace[key]
        self.leave(key)
        self._proven[key] = group
        return evicted

    def touch(self, key: K) -> None:
        """Note that a connection was used."""
        if key in self._proven:
            self._proven.move_to_end(key)

    def leave(self, key: K) -> None:
        """Free the slot of a connection, if it has one."""
        self._proven.pop(key, None)
        self._in_grace.pop(key, None)
        group = self._unproven.pop(key, None)
        if group is not None:
            self._per_host[group] -= 1
            if not self._per_host[group]:
                del self._per_host[group]
