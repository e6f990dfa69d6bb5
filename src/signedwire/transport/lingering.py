"""Connections that were hung up and still send their last bytes."""

from __future__ import annotations

from typing import Final, Protocol

__all__ = ["Lingering"]

_MAX: Final = 64
"""Connections that may send their goodbye at once, while the node is open."""


class _Connection(Protocol):
    def abort(self) -> None:
        """End at once."""


class Lingering:
    """Bounds how many there are: peers that do not read could keep more than their places."""

    def __init__(self) -> None:
        self._connections: set[_Connection] = set()

    @property
    def is_full(self) -> bool:
        """Whether the next one must be aborted while the node is open."""
        return len(self._connections) >= _MAX

    def add(self, connection: _Connection) -> None:
        """Keep a connection that sends its goodbye."""
        self._connections.add(connection)

    def discard(self, connection: _Connection) -> None:
        """Forget a connection: it is closed."""
        self._connections.discard(connection)

    def abort_all(self) -> None:
        """The node is closed: no socket may be left."""
        for connection in tuple(self._connections):
            connection.abort()
