"""Which inbound connections are let in: a pure decision, no I/O.

A connection is unproven until its first acceptable envelope. Unproven ones are
few, in all and from one host, so that a stranger who opens many and says
nothing keeps nobody out: when all places are taken, the oldest unproven one
makes room for the newcomer, since an honest peer proves itself in its first
milliseconds.
"""

from __future__ import annotations

import ipaddress
from collections import Counter, OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

from signedwire.config import TransportConfig

__all__ = ["Admission", "host_group"]

K = TypeVar("K", bound=Hashable)


def host_group(host: str) -> str | None:
    """What counts as one host: an IPv4 address or an IPv6 /56; `None` for loopback."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    if address.is_loopback:
        return None
    if isinstance(address, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((address, 56), strict=False))
    return str(address)


class Admission(Generic[K]):
    """Counts connections. A key is a connection, whatever stands for it."""

    __slots__ = (
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
        self._proven: OrderedDict[K, str | None] = OrderedDict()  # least recently used first
        self._per_host: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._unproven) + len(self._proven)

    def admit(self, key: K, host: str) -> tuple[bool, K | None]:
        """Whether `key` may stay, and which connection must be closed for it."""
        group = host_group(host)
        if group is not None and self._per_host[group] >= self._max_unproven_per_host:
            return False, None
        evicted: K | None = None
        if len(self._unproven) >= self._max_unproven:
            evicted = next(iter(self._unproven))
            self.leave(evicted)
        self._unproven[key] = group
        if group is not None:
            self._per_host[group] += 1
        return True, evicted

    def prove(self, key: K) -> K | None:
        """The connection brought an acceptable envelope; returns which must be closed for it.

        Anyone can make keys, so a proof is no right to stay: when all places are
        taken, the host that holds most of them gives up its least recently used.
        """
        if key in self._proven or key not in self._unproven:
            return None
        evicted: K | None = None
        if len(self._proven) >= self._max_proven:
            held = Counter(self._proven.values())
            most = max(held.values())
            evicted = next(one for one, group in self._proven.items() if held[group] == most)
            del self._proven[evicted]
        group = self._unproven[key]
        self.leave(key)
        self._proven[key] = group
        return evicted

    def touch(self, key: K) -> None:
        """The connection was used just now."""
        if key in self._proven:
            self._proven.move_to_end(key)

    def leave(self, key: K) -> None:
        """The connection is gone; nothing happens where it was not admitted."""
        self._proven.pop(key, None)
        group = self._unproven.pop(key, None)
        if group is not None:
            self._per_host[group] -= 1
            if not self._per_host[group]:
                del self._per_host[group]
