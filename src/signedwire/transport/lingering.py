"""Connections that are closing and still send their last bytes."""

from __future__ import annotations

from typing import Final, Protocol

__all__ = ["Lingering"]

_MAX: Final = 64
"""Maximum number of such connections while the node is open."""


class _Connection(Protocol):
    def abort(self) -> None:
        """Close the connection at once."""


class Lingering:
    """Bounds the closing connections: peers that do not read could hold ever more of them."""

    def __init__(self) -> None:
        self._connections: set[_Connection] = set()

    @property
    def is_full(self) -> bool:
        """Whether the next one must be aborted while the node is open."""
        return len(self._connections) >= _MAX

    def add(self, connection: _Connection) -> None:
        """Add a connection that is closing."""
        self._connections.add(connection)

    def discard(self, connection: _Connection) -> None:
        """Forget a connection: it is closed."""
        self._connections.discard(connection)

    def abort_all(self) -> None:
        """Abort all of them: the node is closed."""
        for connection in tuple(self._connections):
            connection.abort()
