"""The room that all strangers share for what they have sent, and who waits for it.

Anybody can make keys and begin large batches. So a batch of a stranger that does not come in one
part needs room for its whole total, which its first part tells. The messages of strangers that wait
for the application use the same room. While they fill it, no link of a stranger is read.
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
        """Bytes of the unfinished batches of all links that have room."""
        self._inbox = 0
        """Bytes of the messages of strangers that wait for the application."""
        self._sizes: dict[RoomUser, int] = {}
        self._waiting: dict[RoomUser, int] = {}
        """The links that wait, in order, and the bytes that each needs in all."""

    @property
    def waiting(self) -> tuple[RoomUser, ...]:
        """The links that wait, in their order."""
        return tuple(self._waiting)

    @property
    def is_full(self) -> bool:
        """Whether the messages of strangers in the inbox use all of the room."""
        return self._inbox >= self.limit

    def add_inbox(self, size: int) -> None:
        """Count bytes that wait in the inbox; a number below 0 counts bytes that were taken."""
        self._inbox += size
        if size < 0 and self._waiting:
            self._serve()

    def wait(self, user: RoomUser, size: int) -> None:
        """Have a link wait that needs `size` bytes in all, because the room is full."""
        self._waiting[user] = size

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
        if self.is_full:
            return False
        own = self._sizes.get(user, 0)
        others = self.used - own
        return size <= own or not others or others + size + self._inbox <= self.limit

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
