"""Received messages that the application has not yet taken: bounded, thread-safe.

The transport puts messages in; when there is no room it stops reading from its
sockets until the application has taken half of what waits. Nothing is dropped
here, and a slow application slows its senders down instead of growing memory. Its time is
shared among them: see `fair_lanes`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from signedwire.delivery.fair_lanes import FairLanes
from signedwire.delivery.message import Message
from signedwire.types import Did, Priority

__all__ = ["Inbox"]

Wake = Callable[[], None]


class Inbox:
    """The queue between the transport and the application.

    One thread puts, any thread takes. A wake-up is called once and then
    forgotten, in the thread that caused it.

    Args:
        limit: Messages that may wait.
        reserve: Further messages that only Critical may use.
    """

    __slots__ = ("_lanes", "_lock", "_waiters", "is_closed")

    def __init__(self, limit: int, reserve: int) -> None:
        self._lanes: FairLanes[Message] = FairLanes(limit, reserve)
        self._lock = threading.Lock()
        self._waiters: list[Wake] = []
        self.is_closed = False

    def __len__(self) -> int:
        return len(self._lanes)

    def has_room(self, priority: int = Priority.NORMAL) -> bool:
        """Whether a message of this priority would fit now."""
        return self._lanes.has_room(priority)

    def put(
        self, message: Message, priority: int, sender: Did | None = None, is_known: bool = False
    ) -> bool:
        """Append; `False`, and nothing done, when there is no room.

        Args:
            sender: Who sent it; `None`: nothing proves who did.
            is_known: Whether that is more than a stranger: it comes before those.
        """
        if not self._lanes.put(message, priority, sender, is_known):
            return False
        self._wake_one()
        return True

    def add_many(
        self,
        messages: list[Message],
        priority: int,
        sender: Did | None = None,
        is_known: bool = False,
    ) -> None:
        """Append messages of one sender, whose credit is what bounds these. See `put()`."""
        self._lanes.add_many(messages, priority, sender, is_known)
        for _ in range(min(len(messages), len(self._waiters))):
            self._wake_one()

    def _wake_one(self) -> None:
        if self._waiters:
            with self._lock:
                wake = self._waiters.pop(0) if self._waiters else None
            if wake is not None:
                wake()

    def take(self) -> Message | None:
        """Remove and return the message whose turn it is, if there is one."""
        return self._lanes.take()

    def remove_if(self, is_unwanted: Callable[[Message], bool]) -> list[Message]:
        """Remove and return messages; the others keep their order."""
        return self._lanes.sweep(is_unwanted)

    def when_filled(self, wake: Wake) -> bool:
        """Have `wake` called at the next message; `False` where one waits or none will come."""
        with self._lock:
            # Enter, then look. put() fills first and looks for waiters then, without
            # the lock, so one of the two sees the other whenever threads change places.
            self._waiters.append(wake)
            if self._lanes or self.is_closed:
                self._waiters.pop()
                return False
            return True

    def forget(self, wake: Wake) -> None:
        """Withdraw a wake-up. If it was used already, the next waiter gets its turn."""
        with self._lock:
            if wake in self._waiters:
                self._waiters.remove(wake)
                return
            other = self._waiters.pop(0) if self._waiters and self._lanes else None
        if other is not None:
            other()

    def when_room(self, wake: Wake) -> bool:
        """Have `wake` called when half is empty; `False` where it is already."""
        return not self.is_closed and self._lanes.when_room(wake)

    def close(self) -> int:
        """Wake everybody who waits; returns how many messages nobody took."""
        with self._lock:
            self.is_closed = True
            wakes, self._waiters = self._waiters, []
        for wake in wakes:
            wake()
        self._lanes.wake_all()
        return len(self._lanes)
