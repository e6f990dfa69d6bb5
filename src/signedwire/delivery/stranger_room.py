"""The room that the unfinished batches of all strangers share, and who waits for it.

Anybody can make keys and begin large batches. So a batch of a stranger that does not come in one
part needs room for its whole total, which its first part tells.
"""

from __future__ import annotations

from typing import Final, Protocol

__all__ = ["RoomUser", "StrangerRoom"]

_LIMIT: Final = 16 * 1024 * 1024
_PATIENCE: Final = 30.0


class RoomUser(Protocol):
    """A link of a stranger."""

    def on_room(self) -> None:
        """Note that the bytes for which the link waited have room now."""

    def look_again(self) -> None:
        """Look whether the other side is still a stranger, because a route has changed."""


class StrangerRoom:
    """Counts the totals of the unfinished batches of strangers, against one limit.

    Links that find no room wait, and get it in the order in which they asked. A link that is alone
    always has room: its credit bounds what it sends. For the event loop alone.

    Args:
        limit: Bytes for all links of strangers together.
        patience: Seconds that a link may wait.
    """

    def __init__(self, limit: int = _LIMIT, patience: float = _PATIENCE) -> None:
        self.limit = limit
        self.patience = patience
        self.used = 0
        """Bytes of all links that have room."""
        self._sizes: dict[RoomUser, int] = {}
        self._waiting: dict[RoomUser, int] = {}
        """The links that wait, in order, and the bytes that each needs in all."""

    @property
    def waiting(self) -> tuple[RoomUser, ...]:
        """The links that wait, in their order."""
        return tuple(self._waiting)

    def resize(self, user: RoomUser, size: int) -> bool:
        """Set the bytes that a link needs in all; return whether there is room for them.

        If there is none, the link keeps what it has, and waits. `on_room()` is called when there is
        room. Less than before always has room.
        """
        self._waiting.pop(user, None)
        if size > self._sizes.get(user, 0) and (self._waiting or not self._fits(user, size)):
            self._waiting[user] = size
            return False
        self._set(user, size)
        self._serve()
        return True

    def forget(self, user: RoomUser) -> None:
        """Free the room of a link, or end its wait: the link has ended."""
        self._waiting.pop(user, None)
        self._set(user, 0)
        self._serve()

    def look_again(self) -> None:
        """Have each link that waits look whether it must: a route has changed."""
        for user in self.waiting:
            user.look_again()

    def _fits(self, user: RoomUser, size: int) -> bool:
        others = self.used - self._sizes.get(user, 0)
        return not others or others + size <= self.limit

    def _set(self, user: RoomUser, size: int) -> None:
        self.used += size - self._sizes.pop(user, 0)
        if size:
            self._sizes[user] = size

    def _serve(self) -> None:
        """Give room to the links that wait, up to the first for which there is not enough."""
        while self._waiting:
            user, size = next(iter(self._waiting.items()))
            if not self._fits(user, size):
                return
            del self._waiting[user]
            self._set(user, size)
            user.on_room()
