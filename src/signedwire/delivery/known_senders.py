"""Senders that the operator has named: they come before strangers."""

from __future__ import annotations

from signedwire.config import TransportConfig
from signedwire.delivery.access import AccessList
from signedwire.delivery.ports import Routes
from signedwire.types import Did

__all__ = ["KnownSenders"]


class KnownSenders:
    """The senders that have a route, or that a rule names. Any thread.

    The `fallback` address is no route, because it would make everybody known.

    Args:
        config: The DIDs in `v1_peers` are known.
        routes: The DIDs in the routing table are known.
        access: The DIDs in the allow lists are known.
    """

    __slots__ = ("_access", "_routes", "_v1_peers")

    def __init__(self, config: TransportConfig, routes: Routes, access: AccessList) -> None:
        peers = config.v1_peers
        self._v1_peers: frozenset[Did] = frozenset() if isinstance(peers, str) else peers
        self._routes = routes
        self._access = access

    def __contains__(self, did: Did) -> bool:
        return (
            self._routes.resolve(did) is not None
            or did in self._v1_peers
            or (self._access.has_rules and self._access.is_key_named(bytes(did)))
        )
